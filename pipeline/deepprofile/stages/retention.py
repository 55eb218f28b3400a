"""What was published, and which old versions stay."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from deepprofile.config import Retention
from deepprofile.lease import live_holder
from deepprofile.objects import join, listing, names_below, read_json, remove_below, write_json
from deepprofile.stores import Root

# Who has published last, and when: beside the pointer, which holds nothing but versions.
PUBLISHED: Final = "published.json"
# All publications, one object each, in the order of their names.
PUBLICATIONS: Final = "publications"
RUNS: Final = "runs"
_DAY_SECONDS: Final = 86400.0


def record_publication(root: Root, run: str, made: Mapping[str, str], accepted_by: str | None = None) -> None:
    """Write down that a run has published, and what readers see since."""
    now = time.time()
    said: dict[str, Any] = {"run": run, "seconds": now, "versions": dict(made)}
    if accepted_by is not None:
        said["accepted_by"] = accepted_by
    write_json(join(root.url, PUBLISHED), said)
    moment = dt.datetime.fromtimestamp(now, dt.UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    write_json(join(root.url, PUBLICATIONS, f"{moment}.json"), said | {"current": root.current()})


def publications(root: Root) -> list[dict[str, Any]]:
    """All publications, the oldest first."""
    folder = join(root.url, PUBLICATIONS)
    found = [read_json(join(folder, name)) for name in sorted(names_below(folder))]
    return [each for each in found if each]


@dataclass(frozen=True)
class Old:
    """A version that nobody needs any more: its store, its size in bytes as stored, and what goes with it."""

    store: str
    version: str
    bytes: int
    urls: tuple[str, ...]


def unneeded(root: Root, rule: Retention, now: float | None = None) -> list[Old]:
    """The versions that the rule lets go.

    It spares the current versions, those of the latest ``rule.versions`` publications and of all within ``rule.days``, those
    that were begun within ``rule.days``, and whatever a run is at work on now.
    """
    now = time.time() if now is None else now
    spared = set(root.current().items())
    history = publications(root)
    for place, each in enumerate(reversed(history)):
        if place < rule.versions or now - float(each["seconds"]) < rule.days * _DAY_SECONDS:
            spared |= set(each["current"].items())
    at_work = live_holder(root.url)
    found = []
    for manifest, folder in _manifests(root):
        key = (str(manifest["store"]), str(manifest["version"]))
        latest = manifest.get("drivers", [{}])[-1]
        begun = dt.datetime.fromisoformat(str(latest.get("started", manifest["started"]))).timestamp()
        if key in spared or now - begun < rule.days * _DAY_SECONDS or (at_work and latest.get("run") == at_work):
            continue
        urls = (root.version(*key), join(folder, "blocks"))
        size = sum(int(entry["size"]) for entry in listing(urls[0]))
        if size or names_below(urls[1]):
            found.append(Old(*key, size, urls))
    return sorted(found, key=lambda old: (old.store, old.version))


def _manifests(root: Root) -> Iterator[tuple[dict[str, Any], str]]:
    folder = join(root.url, RUNS)
    for name in sorted(names_below(folder)):
        manifest = read_json(join(folder, name, "manifest.json"))
        if manifest:
            yield manifest, join(folder, name)


def remove(old: Old) -> None:
    """Remove a version and the records of its blocks; the manifest, which says what it was, stays."""
    for url in old.urls:
        remove_below(url)
