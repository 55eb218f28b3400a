"""Releases: states of the data set that stay, with a tag, and what has changed from one to the next."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from deepprofile.stages import collocate, invert
from deepprofile.stages.manifest import manifest_of, run_url
from deepprofile.stages.publish import files
from deepprofile.storage.conditional_writes import PreconditionFailedError, read_versioned, replace, storage_time
from deepprofile.storage.documents import Kinds, read_document
from deepprofile.storage.filesystems import join, zarr_store
from deepprofile.storage.lease import CLOCK, GUARDED_FORMAT, Lease
from deepprofile.storage.objects import as_json
from deepprofile.storage.roots import STORES, TAG, Root, by_name, parts_of, store_of
from deepprofile.storage.stores import StoreError, exists, read_region

_RELEASE: Final[Mapping[str, Kinds]] = {STORES: dict, "tag": str, "seconds": (int, float), "changes": list}
# Stages whose manifests say how a store was made, by its name.
_STAGES: Final = {
    "profile": "invert",
    "covariance": "invert/covariances",
    "weights": "collocate/weights",
    "validation": "validate",
    "comparison": "validate/comparison",
    "layers": "publish/layers",
    "inputs": "publish/inputs",
    "map": "publish/map",
    "climatology": "publish/climatology",
}


def all_releases(root: Root) -> list[dict[str, Any]]:
    """The documents of all releases, the oldest first.

    Raises
    ------
    deepprofile.storage.documents.DocumentError
        Where one cannot be read: what it names must not be removed.
    """
    found = [read_document(root.release_url(tag), _RELEASE, newest=GUARDED_FORMAT) for tag in root.releases()]
    return sorted((each for each in found if each is not None), key=lambda each: (float(each["seconds"]), str(each["tag"])))


def release(root: Root, tag: str, lease: Lease) -> dict[str, Any]:
    """Freeze what strangers see now under a tag; returns the document.

    Raises
    ------
    StoreError
        Where the tag is no name for a release, or is that of another one, or nothing has been published.
    """
    lease.check()
    if not TAG.fullmatch(tag):
        raise StoreError(
            f"{tag!r} is no name for a release: use letters, digits, dots, hyphens and underscores, such as 2026.1"
        )
    # Whatever a run that was killed has left undone.
    root.publish_to_strangers()
    pointer, url = root.public_pointer(), root.release_url(tag)
    if not parts_of(invert.STORE, by_name(pointer[STORES], root.public_url)):
        raise StoreError(f"{root.url} has no published profiles: there is nothing to release")
    before = [each for each in all_releases(root) if each["tag"] != tag]
    predecessor = before[-1] if before else None
    body = pointer | {"files": files.index(root)}
    found = read_versioned(url)
    if found.content is not None:
        known = read_document(url, _RELEASE, newest=GUARDED_FORMAT) or {}
        if all(known.get(key) == value for key, value in body.items()):
            return known
        raise StoreError(
            f"there is a release {tag} already, of {_day(known['seconds'])}, and it never changes: choose another tag"
        )
    now = storage_time(join(root.url, CLOCK))
    said: dict[str, Any] = {
        **body,
        "tag": tag,
        "seconds": now,
        "released": _day(now),
        "predecessor": predecessor["tag"] if predecessor else None,
        "changes": changes(root, predecessor, by_name(pointer[STORES], url)),
    }
    try:
        replace(url, as_json(said), found.generation)
    except PreconditionFailedError as error:
        raise StoreError(f"somebody else has just made a release {tag}: choose another tag") from error
    return said


def _day(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).date().isoformat()


def changes(root: Root, predecessor: Mapping[str, Any] | None, versions: Mapping[str, str]) -> list[str]:
    """What has changed since a release, in sentences, from the manifests of the stores."""
    years = sorted(parts_of(invert.STORE, versions))
    days = _days_of(root, versions)
    if predecessor is None:
        return [f"The first release: {days}, {len(years)} calendar {'year' if len(years) == 1 else 'years'}."]
    before = by_name(predecessor[STORES], str(predecessor["tag"]))
    said = []
    had = _days_of(root, before)
    if had != days:
        said.append(f"The record holds {days}; it held {had}.")
    model = versions.get(collocate.STORE) != before.get(collocate.STORE)
    if model:
        period = _attributes(root, collocate.STORE, versions).get("period", ["", ""])
        said.append(f"New error model, from {period[0]} to {period[1]}: profiles of all days were computed anew.")
    changed = [year for year, name in parts_of(invert.STORE, versions).items() if before.get(name) != versions[name]]
    kept = [year for year in changed if f"{invert.STORE}/{year}" in before]
    if kept and not model:
        old, new = (_manifest(root, invert.STORE, each).get("configuration") or {} for each in (before, versions))
        settings = old.get("inversion") != new.get("inversion")
        why = "the settings of the inversion are others" if settings else "granules of the products were added or replaced"
        said.append(f"Profiles of {', '.join(kept)} have changed: {why}.")
    elif not changed:
        said.append("No profile has changed.")
    for store in sorted({store_of(name) for name in versions}):
        old, new = (_manifest(root, store, each) for each in (before, versions))
        if new and not old:
            said.append(f"New: {store}.")
            continue
        packages = [(each.get("packages") or {}).get("deepprofile") for each in (old, new)]
        if old and new and packages[0] != packages[1]:
            said.append(f"{store}: made by deepprofile {packages[1]}, before by {packages[0]}.")
    return said


def _manifest(root: Root, store: str, versions: Mapping[str, str]) -> dict[str, Any]:
    """That of the last year of a store."""
    names = list(parts_of(store, versions).values()) or ([store] if store in versions else [])
    if not names or store not in _STAGES:
        return {}
    return manifest_of(run_url(root, _STAGES[store], versions[names[-1]])) or {}


def _attributes(root: Root, name: str, versions: Mapping[str, str]) -> dict[str, Any]:
    import zarr

    return dict(zarr.open_group(zarr_store(root.version(name, versions[name])), mode="r").attrs)


def _days_of(root: Root, versions: Mapping[str, str]) -> str:
    """First and last day of the profiles."""
    names = list(parts_of(invert.STORE, versions).values())
    ends = []
    for name, place in ((names[0], 0), (names[-1], -1)):
        url = root.version(name, versions[name])
        if not exists(url):
            return "days that are not known"
        ends.append(np.datetime64(int(read_region(url, "time", (slice(None),))[place]), "D"))
    return f"{ends[0]} to {ends[1]}"
