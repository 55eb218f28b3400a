"""Roots: versions of stores, and the pointers to what the operator and what strangers see.

Knows nothing of soil moisture. A root is any URL. A store below it that runs along time is a folder of calendar years, each of
which has versions; any other store has versions itself. One pointer says which versions are current, of all of them together:

    <root>/<store>/<year>/<version>.zarr
    <root>/<store>/<version>.zarr
    <root>/current.json     {"format": 2, "holder": {...}, "stores": {"<store>": {"<year>": "<version>", ...},
                                                                      "<store>": "<version>", ...}}

Strangers read the folder ``public`` and nothing else. It holds the stores that are for them, a pointer of its own, which
follows the other one, and releases, which are pointers that stay:

    <root>/public/<store>/...
    <root>/public/current.json
    <root>/public/releases/<tag>.json

Here and elsewhere a year of a store has a name, ``<store>/<year>``, and versions are a mapping from such names.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import zarr
from numpy.typing import NDArray

from deepprofile.storage.conditional_writes import update
from deepprofile.storage.documents import FORMAT_KEY, DamagedDocumentError, DocumentError, parse, read_document
from deepprofile.storage.filesystems import filesystem, is_local, join, zarr_store
from deepprofile.storage.lease import DURATION_SECONDS, GUARDED_FORMAT, Lease
from deepprofile.storage.objects import as_json, list_children
from deepprofile.storage.stores import OldLayoutError, StoreError, exists

POINTER: Final = "current.json"
# Where a pointer has the versions.
STORES: Final = "stores"
# The folder that strangers read, and the key that tells its pointer from that of the operator.
PUBLIC: Final = "public"
# The stores in it.
PUBLIC_STORES: Final = frozenset(
    {"profile", "covariance", "weights", "inputs", "layers", "map", "climatology", "validation", "comparison"}
)
RELEASES: Final = "releases"
TAG: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Root:
    """Where all stores of one data set live.

    Attributes
    ----------
    url
        Of the operator's folder; or of the folder ``public`` in it, where ``public`` is true.
    public
        Whether this is what strangers see.
    release
        The release whose versions count, in place of the current ones.
    """

    url: str
    public: bool = False
    release: str | None = None

    @classmethod
    def of_reader(cls, url: str, release: str | None = None) -> Root:
        """The root at a URL, which is that of the operator's folder, or of what is public of it.

        Raises
        ------
        StoreError
            Where nothing has been published there, or no such release.
        deepprofile.storage.documents.DocumentError
            Where the pointer cannot be read.
        """
        refusal: Exception | None = None
        found: dict[str, Any] | None = None
        try:
            found = read_document(join(url, POINTER), newest=GUARDED_FORMAT)
        except DocumentError:
            raise
        except Exception as error:  # noqa: BLE001
            # Of the folder above the public one strangers see nothing, which storage says in many ways.
            refusal = error
        inside = join(url, PUBLIC)
        if found is None and read_document(join(inside, POINTER), newest=GUARDED_FORMAT) is not None:
            return cls(inside, public=True, release=release)
        if refusal is not None:
            raise refusal
        return cls(url, public=bool(found and found.get(PUBLIC)), release=release)

    @property
    def public_url(self) -> str:
        """URL of what strangers read."""
        return self.url if self.public else join(self.url, PUBLIC)

    def version(self, store: str, version: str) -> str:
        """URL of a version of a store, or of a year of one."""
        within = self.public_url if store_of(store) in PUBLIC_STORES else self.url
        return join(within, store, f"{version}.zarr")

    def releases(self) -> list[str]:
        """The tags of all releases, sorted."""
        names = list_children(join(self.public_url, RELEASES))
        return sorted(name.removesuffix(".json") for name in names if name.endswith(".json"))

    def release_url(self, tag: str) -> str:
        """URL of the document of a release."""
        return join(self.public_url, RELEASES, f"{tag}.json")

    def current(self) -> dict[str, str]:
        """The current version of each store, and of each year of those that have years.

        Raises
        ------
        deepprofile.storage.documents.DocumentError
            Where the pointer is damaged, or of a newer format.
        OldLayoutError
            Where it is of an earlier one.
        """
        if self.release is not None:
            return self._of_release(self.release)
        url = join(self.url, POINTER)
        try:
            found = read_document(url, newest=GUARDED_FORMAT) or {}
            if found.get(PUBLIC) and not self.public:
                raise StoreError(f"{self.url} is what strangers see of a root: name the folder above it")
            if found.get(FORMAT_KEY, 0) < GUARDED_FORMAT:
                if any(not name.startswith("@") for name in found):
                    raise OldLayoutError(
                        f"{self.url} was written by an earlier version of this software, which did not divide stores by "
                        "year: run the pipeline into another root, and let readers use the present one until that is complete"
                    )
                found = {}
            versions = by_name(found.get(STORES, {}), url)
        except DamagedDocumentError as error:
            raise DamagedDocumentError(
                f"{error}; what was published last is said under 'stores' in the newest file below "
                f"{join(self.url, 'publications')}: write that into the pointer"
            ) from error
        return versions

    def _of_release(self, tag: str) -> dict[str, str]:
        url = self.release_url(tag) if TAG.fullmatch(tag) else ""
        found = read_document(url, {STORES: dict}, newest=GUARDED_FORMAT) if url else None
        if found is None:
            known = self.releases()
            said = f"there are {', '.join(known)}" if known else "there is none"
            raise StoreError(f"{self.public_url} has no release {tag!r}: {said}")
        return by_name(found[STORES], url)

    def open(self, store: str) -> str:
        """URL of the current version of a store, or of a year of one, such as ``profile/2024``.

        Raises
        ------
        StoreError
            Where it has not been published.
        """
        version = self.current().get(store)
        if version is None:
            raise StoreError(f"{self.url} has no published store {store!r}: run the stage that makes it first")
        return self.version(store, version)

    def parts(self, store: str) -> dict[str, str]:
        """URLs of the current versions of a store by year, in their order; under ``""`` where it has no years.

        Raises
        ------
        StoreError
            Where it has not been published.
        """
        versions = self.current()
        found = {part: self.version(name, versions[name]) for part, name in parts_of(store, versions).items()}
        return found or {"": self.open(store)}

    def lease(self, on_wait: Callable[[str], None] | None = None, duration: float = DURATION_SECONDS) -> Lease:
        """The lease that a run takes before it publishes; a context manager.

        Raises
        ------
        StoreError
            Where nothing can be written to the root, or its stores are of an earlier layout.
        deepprofile.storage.documents.DocumentError
            Where the pointer cannot be read.
        """
        self.current()
        check_writable(self.url)
        return Lease(self.url, POINTER, duration=duration, on_wait=on_wait)

    def publish(self, versions: Mapping[str, str], lease: Lease) -> None:
        """Move the pointer: from now on readers see these versions. Of a store with years, all years are given.

        Raises
        ------
        StoreError
            Where a store has fewer days than the one that readers see now.
        LeaseLostError
            Where another run has taken the root over.
        """
        lease.check()
        before = self.current()
        self.check_not_shorter(versions, before)
        after = before | dict(versions)
        if after != before:
            lease.replace_guarded({STORES: by_store(after)})
        self.publish_to_strangers()

    def publish_to_strangers(self) -> None:
        """Let the pointer of strangers follow; what a run that was killed in between left undone, the next one does.

        Whoever writes it has read it before it reads the operator's: who comes late cannot put an older state back.
        """

        url = join(self.public_url, POINTER)

        def following(found: bytes | None) -> bytes:
            if found is not None:
                # One that is damaged is written anew, one of a newer format is not.
                with suppress(DamagedDocumentError):
                    parse(url, found, newest=GUARDED_FORMAT)
            return as_json(self.public_pointer())

        update(url, following)

    def public_pointer(self) -> dict[str, Any]:
        """The pointer of strangers as it follows from the operator's."""
        seen = {name: version for name, version in self.current().items() if store_of(name) in PUBLIC_STORES}
        return {FORMAT_KEY: GUARDED_FORMAT, PUBLIC: True, STORES: by_store(seen)}

    def check_not_shorter(self, versions: Mapping[str, str], before: Mapping[str, str]) -> None:
        """Raise a StoreError where stores in these versions lack days of those before."""
        for store in sorted({store_of(name) for name in versions}):
            old, new = parts_of(store, before), parts_of(store, versions)
            lost = []
            for part, name in old.items():
                if part in new and versions[name] == before[name]:
                    continue
                had = _days(self.version(name, before[name]))
                has = _days(self.version(name, versions[name])) if part in new else np.empty(0, np.int64)
                if had is not None and has is not None:
                    lost.append(np.setdiff1d(had, has))
            days = np.concatenate(lost) if lost else np.empty(0)
            if days.size:
                raise StoreError(
                    f"{store}: the new version lacks {days.size} days that readers have now ({_day(days[0])} to "
                    f"{_day(days[-1])}); widen 'period' in the configuration, or publish to another root"
                )


_YEAR: Final = re.compile(r"(?P<store>.+)/(?P<year>\d{4})")


def part_name(store: str, part: str) -> str:
    """The name of a year of a store; of the store itself where ``part`` is empty."""
    return f"{store}/{part}" if part else store


def store_of(name: str) -> str:
    """The store that a name means, or a year of it."""
    found = _YEAR.fullmatch(name)
    return found["store"] if found else name


def parts_of(store: str, names: Iterable[str]) -> dict[str, str]:
    """Which of some names are years of a store: the names by year, in their order."""
    matches = (_YEAR.fullmatch(name) for name in names)
    return {found["year"]: found[0] for found in sorted(filter(None, matches), key=lambda f: f[0]) if found["store"] == store}


def by_store(versions: Mapping[str, str]) -> dict[str, Any]:
    """Versions as the pointer has them: of each store its version, or those of its years."""
    found: dict[str, Any] = {}
    for name, version in sorted(versions.items()):
        match = _YEAR.fullmatch(name)
        if match:
            found.setdefault(match["store"], {})[match["year"]] = version
        else:
            found[name] = version
    return found


def by_name(stores: Any, url: str) -> dict[str, str]:
    """The versions that ``by_store`` is made of; ``url``: of the document that they stand in, for a message.

    Raises
    ------
    deepprofile.storage.documents.DamagedDocumentError
        Where they are something else.
    """
    if not isinstance(stores, dict):
        raise DamagedDocumentError(f"{url} is damaged: its {STORES!r} is {str(stores)[:60]!r}")
    found: dict[str, Any] = {}
    for store, versions in stores.items():
        if isinstance(versions, dict):
            found |= {part_name(store, year): version for year, version in versions.items()}
        else:
            found[store] = versions
    for name, version in found.items():
        if not isinstance(version, str) or not version:
            raise DamagedDocumentError(f"{url} is damaged: the version of {name} is {version!r}")
    return found


def _days(url: str) -> NDArray[Any] | None:
    if not exists(url):
        return None
    if "time" not in zarr.open_group(zarr_store(url), mode="r"):
        return None
    return np.asarray(zarr.open_array(zarr_store(join(url, "time")), mode="r")[...])


def _day(days: Any) -> str:
    return str(np.datetime64(int(days), "D"))


def check_writable(url: str) -> None:
    """Raise a StoreError where nothing can be written below a URL."""
    probe = join(url, f".probe-{uuid.uuid4().hex}")
    fs, path = filesystem(probe)
    try:
        if is_local(url):
            fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        fs.pipe_file(path, b"probe")
        # A removal whose answer was lost is asked again, and finds nothing.
        with suppress(FileNotFoundError):
            fs.rm_file(path)
    except OSError as error:
        raise StoreError(f"nothing can be written to {url} ({error.strerror or error}): choose another root") from error
