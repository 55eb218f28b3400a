"""What was published, and which old versions stay."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from deepprofile.config import Retention
from deepprofile.stages.manifest import MANIFEST, manifest_of
from deepprofile.stages.publish import files, releases
from deepprofile.storage.conditional_writes import storage_time
from deepprofile.storage.documents import DocumentError, Kinds, parse, write_document
from deepprofile.storage.filesystems import join
from deepprofile.storage.lease import CLOCK, Lease, live_holder
from deepprofile.storage.objects import exists as object_exists
from deepprofile.storage.objects import list_children, listing, read_all, read_bytes, remove_below
from deepprofile.storage.roots import STORES, Root, by_name, by_store
from deepprofile.storage.stores import StoreError, exists

log = logging.getLogger(__name__)

# Who has published last, and when: beside the pointer, which holds nothing but versions.
PUBLISHED: Final = "published.json"
# All publications, one object each, in the order of their names.
PUBLICATIONS: Final = "publications"
RUNS: Final = "runs"
_DAY_SECONDS: Final = 86400.0
_PUBLICATION: Final[Mapping[str, Kinds]] = {"seconds": (int, float), STORES: dict}


def record_publication(root: Root, run: str, made: Mapping[str, str], accepted_by: str | None = None) -> None:
    """Write down that a run has published, and what readers see since."""
    now = storage_time(join(root.url, CLOCK))
    said: dict[str, Any] = {"run": run, "seconds": now, "versions": by_store(made)}
    if accepted_by is not None:
        said["accepted_by"] = accepted_by
    write_document(join(root.url, PUBLISHED), said)
    # A run that changes nothing is no publication: it would push those that did out of the ones whose versions stay.
    current = root.current()
    if _last_seen(root) != current:
        moment = dt.datetime.fromtimestamp(now, dt.UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        write_document(join(root.url, PUBLICATIONS, f"{moment}.json"), said | {STORES: by_store(current)})


def _last_seen(root: Root) -> dict[str, str] | None:
    """What readers saw after the last publication; None where there is none, or it cannot be read."""
    try:
        last = _publications(root, last=1)
    except DocumentError:
        # It stays as it is: whoever needs it says what is wrong with it.
        return None
    return last[0][STORES] if last else None


def publications(root: Root) -> list[dict[str, Any]]:
    """All publications, the oldest first, each with what readers saw then: the version of every store and year, by name.

    Raises
    ------
    deepprofile.storage.documents.DocumentError
        Where one cannot be read: what readers saw then is not known.
    """
    return _publications(root)


def _publications(root: Root, last: int = 0) -> list[dict[str, Any]]:
    """The ``last`` publications, or all."""
    folder = join(root.url, PUBLICATIONS)
    names = sorted(name for name in list_children(folder) if name.endswith(".json"))
    urls = [join(folder, name) for name in names[-last:]]
    contents = zip(urls, read_all(urls), strict=True)
    found = [(url, parse(url, content, _PUBLICATION)) for url, content in contents if content is not None]
    return [{**each, STORES: by_name(each[STORES], url)} for url, each in found]


def go_back(root: Root, moment: str, lease: Lease) -> str:
    """Let readers see what they saw after an earlier publication; returns its name.

    ``moment``: of the publication, as its name has it, or the first part of that.

    Raises
    ------
    StoreError
        Where there is none, or more than one, or a version of it has been removed.
    """
    lease.check()
    folder = join(root.url, PUBLICATIONS)
    known = [name.removesuffix(".json") for name in list_children(folder) if name.endswith(".json")]
    found = [name for name in known if name.startswith(moment)] if moment else []
    if len(found) != 1:
        said = f"{len(found)} publications are" if found else "no publication is"
        raise StoreError(f"{said} of {moment!r}; the last are {', '.join(sorted(known)[-5:])}")
    url = join(folder, f"{found[0]}.json")
    versions = by_name(parse(url, read_bytes(url) or b"", _PUBLICATION)[STORES], url)
    gone = [name for name, version in sorted(versions.items()) if not exists(root.version(name, version))]
    if gone:
        raise StoreError(f"{found[0]}: its {gone[0]} has been removed; readers see what they saw before")
    lease.replace_guarded({STORES: by_store(versions)})
    root.publish_to_strangers()
    record_publication(root, lease.holder.run, versions)
    return found[0]


@dataclass(frozen=True)
class ExpiredVersion:
    """A version that nobody needs any more: its store, its size in bytes as stored, and what goes with it."""

    store: str
    version: str
    bytes: int
    urls: tuple[str, ...]


def expired_versions(root: Root, rule: Retention, now: float | None = None, *, leased: bool = False) -> list[ExpiredVersion]:
    """The versions that the rule lets go at a moment: now by the clock of the storage, by which all these times were written.

    It spares the current versions, those of releases, those of the latest ``rule.versions`` publications and those that readers
    saw within ``rule.days``, those that were begun within ``rule.days``, those whose manifest cannot be read, and whatever a
    run is at work on now: nobody is where the caller has the lease (``leased``). Files likewise.

    Raises
    ------
    deepprofile.storage.documents.DocumentError
        Where the pointer or a publication cannot be read.
    """
    now = storage_time(join(root.url, CLOCK)) if now is None else now
    spared = set(root.current().items())
    history, seen_until = publications(root), now
    for place, each in enumerate(reversed(history)):
        # Until the next publication readers opened these.
        if place < rule.versions or now - seen_until < rule.days * _DAY_SECONDS:
            spared |= set(each[STORES].items())
        seen_until = float(each["seconds"])
    kept = releases.all_releases(root)
    for each in kept:
        spared |= set(by_name(each[STORES], str(each["tag"])).items())
    at_work = None if leased else live_holder(root.url)
    found = []
    for manifest, folder in _manifests(root):
        key = (manifest["store"], manifest["version"])
        if key[0] == files.FOLDER:
            # Files go by themselves: see below.
            continue
        try:
            latest = manifest.get("drivers", [{}])[-1]
            begun = dt.datetime.fromisoformat(latest.get("started", manifest["started"])).timestamp()
        except (ValueError, TypeError, AttributeError, LookupError):
            log.warning("%s does not say when the run began: its version stays", join(folder, MANIFEST))
            continue
        if key in spared or now - begun < rule.days * _DAY_SECONDS or (at_work and latest.get("run") == at_work):
            continue
        urls = (root.version(*key), join(folder, "blocks"))
        size = sum(int(entry["size"]) for entry in listing(urls[0]))
        if size or list_children(urls[1]):
            found.append(ExpiredVersion(*key, size, urls))
    released = {file["path"] for each in kept for file in (each.get("files") or {}).values()}
    for path, since in files.superseded(root).items():
        url = join(root.public_url, path)
        # It was there until the last of the publications before that moment.
        before = sum(float(each["seconds"]) <= since for each in history)
        if len(history) - before + 1 < rule.versions:
            continue
        if path not in released and now - since >= rule.days * _DAY_SECONDS and object_exists(url):
            size = sum(int(entry["size"]) for entry in listing(url))
            found.append(ExpiredVersion(files.FOLDER, path.rsplit("/", 1)[-1], size, (url,)))
    return sorted(found, key=lambda old: (old.store, old.version))


def _manifests(root: Root) -> Iterator[tuple[dict[str, Any], str]]:
    folder = join(root.url, RUNS)
    for name in sorted(list_children(folder)):
        manifest = manifest_of(join(folder, name))
        if manifest:
            yield manifest, join(folder, name)


def prune(root: Root, rule: Retention, on_wait: Callable[[str], None] | None = None) -> list[ExpiredVersion]:
    """Remove the versions that the rule lets go, under the lease on the root; returns them.

    Raises
    ------
    deepprofile.storage.lease.LeaseHeldError, deepprofile.storage.lease.LeaseLostError
        Where a run is at work on the root, or has begun to be.
    deepprofile.storage.documents.DocumentError
        See ``expired_versions``.
    """
    with root.lease(on_wait) as lease:
        found = expired_versions(root, rule, leased=True)
        for old in found:
            lease.check()
            remove(old)
    return found


def remove(old: ExpiredVersion) -> None:
    """Remove a version and the records of its blocks; the manifest, which says what it was, stays."""
    for url in old.urls:
        remove_below(url)
