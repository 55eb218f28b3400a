"""Which granules there are: a folder or URL, listed once, by day."""

from __future__ import annotations

import json
import os
import tempfile
import threading
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepprofile.grids.grids import Grid
from deepprofile.sources.products import PRODUCTS, GranuleError, GranuleName, Held, Product, Steps
from deepprofile.sources.products.files import BLOCK_BYTES, HDF5, RemoteFile
from deepprofile.sources.products.passes import add_step, take_mean
from deepprofile.storage.filesystems import filesystem, is_local
from deepprofile.storage.fingerprints import fingerprint
from deepprofile.storage.objects import MissingPathError, explained_errors, folders, is_pattern, listing, read_range

# Begins the URL of a store in Zarr that holds a product as its provider has it.
MIRROR: Final = "zarr+"
# A download that ends early is begun again so often.
DOWNLOADS: Final = 3
# What lies beside granules and holds no data.
_BESIDE: Final = frozenset(
    [
        "xml",
        "json",
        "txt",
        "md5",
        "sha1",
        "sha256",
        "sha512",
        "html",
        "htm",
        "png",
        "jpg",
        "jpeg",
        "gif",
        "tif",
        "tiff",
        "pdf",
        "qa",
        "met",
        "dmrpp",
        "csv",
        "idx",
        "log",
        "md",
        "py",
        "ipynb",
        "sh",
        "yaml",
        "yml",
        "part",
        "tmp",
        "crdownload",
        "aux",
    ]
)
# What a store in Zarr has at its top.
ZARR_MARKS: Final = ("zarr.json", ".zgroup", ".zmetadata")
# Below the cache: what files hold whose names do not say it.
_INDEX: Final = "contents"
# So many files that were passed over are kept by name in a manifest.
_KEPT_NAMES: Final = 200


@dataclass(frozen=True)
class Granule:
    """A file of a product: where it is, its size, and what changes when it is replaced."""

    url: str
    size: int
    tag: str
    key: str
    provisional: bool = False

    @property
    def name(self) -> str:
        """Without the folder."""
        return self.url.rsplit("/", 1)[-1]

    @property
    def identity(self) -> tuple[str, int, str]:
        """What a block's bytes depend on."""
        return self.name, self.size, self.tag


@dataclass(frozen=True)
class PassedOver:
    """A file below the folder of a product that is not used, and why.

    ``notable``: it is no file that usually lies there, such as metadata or a granule of another product.
    """

    name: str
    reason: str
    notable: bool


@dataclass(frozen=True)
class Catalogue:
    """The granules of a product by day, ``YYYY-MM-DD``, in the order of their names.

    ``passed_over``: files that are not used. ``replaced``: sentences on granules that have a newer version beside them.
    """

    by_day: dict[str, tuple[Granule, ...]]
    passed_over: tuple[PassedOver, ...] = ()
    replaced: tuple[str, ...] = ()

    def of(self, days: Iterable[np.datetime64]) -> dict[str, tuple[Granule, ...]]:
        """Granules of some days."""
        return {text: self.by_day[text] for text in map(str, days) if text in self.by_day}

    def during(self, days: Iterable[np.datetime64]) -> Catalogue:
        """The granules of some days, without what is said of the folder as a whole."""
        return Catalogue(self.of(days))

    @property
    def last_day(self) -> np.datetime64 | None:
        """The last day of which there is a granule."""
        days = [day for day, granules in self.by_day.items() if granules]
        return np.datetime64(max(days), "D") if days else None

    @property
    def count(self) -> int:
        """Number of files."""
        return len({granule.url for granules in self.by_day.values() for granule in granules})

    def notes(self, product: str) -> list[str]:
        """What a user should know of it, as sentences."""
        found = list(self.replaced)
        by_reason: dict[str, list[str]] = defaultdict(list)
        for file in self.passed_over:
            if file.notable:
                by_reason[file.reason].append(file.name)
        for reason, names in by_reason.items():
            others = f" and {len(names) - 1} more files were" if len(names) > 1 else " was"
            found.append(f"{product}: {names[0]}{others} passed over: {reason}")
        return found

    def as_json(self) -> dict[str, Any]:
        """For a manifest."""
        listed = [{"name": file.name, "reason": file.reason} for file in sorted(self.passed_over, key=lambda f: not f.notable)]
        return {"granules": self.count, "passed_over": len(listed), "files_passed_over": listed[:_KEPT_NAMES]}


def find_granules(product: Product, url: str, days: NDArray[np.datetime64], cache: Cache | None = None) -> Catalogue:
    """List the granules of some days below a folder or URL.

    Which days a file holds is said by its name; where the name does not say, the file is opened. Of two versions of one granule
    the later counts.

    Raises
    ------
    deepprofile.storage.objects.MissingPathError
        Where there is no such folder.
    """
    if url.startswith(MIRROR):
        return _mirrored(product, url, days)
    with explained_errors(url):
        fs, path = filesystem(url)
        if not is_pattern(url) and not fs.exists(path):
            raise MissingPathError(f"there is no folder {url} for the granules of {product.name}")
        entries = listing(url)
    wanted = set(days.astype("datetime64[D]").astype(str).tolist())
    found: dict[str, list[tuple[Granule, GranuleName]]] = defaultdict(list)
    passed_over: list[PassedOver] = []
    there: list[str] = []
    for entry in entries:
        granule = granule_of(str(entry["url"]), entry)
        if "/." in granule.url.replace(path, "", 1):
            continue
        name = product.parse(granule.name)
        if name is None:
            known = _why_not(product, granule.name) or _contents(product, granule, cache or Cache())
            if isinstance(known, PassedOver):
                passed_over.append(known)
                continue
            name = known
        granule = Granule(granule.url, granule.size, granule.tag, name.key, name.provisional)
        there.append(granule.url)
        for text in name.days.astype(str).tolist():
            if text in wanted:
                found[text].append((granule, name))
    passed_over += _folders_like_granules(product, url, path, there)
    kept, replaced = _standing({text: found[text] for text in sorted(found)})
    return Catalogue(kept, tuple(passed_over), tuple(f"{product.name}: {sentence}" for sentence in replaced))


def granule_of(url: str, entry: Mapping[str, Any]) -> Granule:
    """A file of a listing."""
    # Of a local file the time of its last change, elsewhere what the service says of its content.
    marks = ("etag", "ETag", "md5Hash", "md5", "mtime", "updated", "LastModified")
    tag = next((str(entry[mark]) for mark in marks if entry.get(mark)), "")
    return Granule(url, int(entry["size"] or 0), tag, "")


def _standing(
    found: Mapping[str, Sequence[tuple[Granule, GranuleName]]],
) -> tuple[dict[str, tuple[Granule, ...]], list[str]]:
    """The granules of each day that count, without those that have had their time; sentences on what was replaced."""
    final = {name.key for there in found.values() for _, name in there if not name.provisional}
    kept, replaced = {}, {}
    for day, there in found.items():
        # A provisional granule that is left beside the final one has had its time.
        left = [(granule, name) for granule, name in there if not name.provisional or name.key not in final]
        best: dict[tuple[str, bool], tuple[int, ...]] = {}
        for _, name in left:
            key = name.key, name.provisional
            best[key] = max(best.get(key, name.rank), name.rank)
        standing = [(granule, name) for granule, name in left if name.rank == best[name.key, name.provisional]]
        newest = {name.key: granule for granule, name in standing}
        for granule, name in left:
            if name.rank != best[name.key, name.provisional]:
                replaced[granule.url] = f"{newest[name.key].name} is used instead of {granule.name}, which it has replaced"
        kept[day] = tuple(sorted((granule for granule, _ in standing), key=lambda g: (g.key, g.url)))
    return kept, list(replaced.values())


def _why_not(product: Product, name: str) -> PassedOver | None:
    """Why a file is no granule by its name alone; None where it has to be opened."""
    reason = product.refusal(name)
    if reason is not None:
        return PassedOver(name, reason, True)
    if holds_no_data(name):
        return PassedOver(name, f"a file that ends in .{_ending(name)} holds no data that can be read", False)
    other = next(
        (p for p in PRODUCTS.values() if p.name != product.name and p.parse(name) is not None and _is_telling(p)), None
    )
    return PassedOver(name, f"it is a granule of {other.name}", False) if other is not None else None


def steps_needed(min_day_fraction: float, steps_per_day: int) -> int:
    """How many time steps a daily mean needs."""
    return max(int(np.ceil(min_day_fraction * steps_per_day - 1e-9)), 1)


def mean_of_steps(steps: Sequence[NDArray[np.float32]], needed: int) -> NDArray[np.float32]:
    """Mean of a day's time steps, in their order; NaN where fewer than ``needed`` of them have a value."""
    day = DaySum(steps[0].shape)
    for values in steps:
        day.add(values)
    out = np.empty(steps[0].shape, np.float32)
    day.mean(needed, out)
    return out


class DaySum:
    """Sums over the time steps of a day, which are added in their order: the mean does not depend on what is read when."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._total, self._number = np.zeros(shape), np.zeros(shape, np.uint8)

    def add(self, values: NDArray[np.float32]) -> None:
        """Add the values of a step, where there are any."""
        add_step(np.ascontiguousarray(values).reshape(-1), self._total.reshape(-1), self._number.reshape(-1))

    def clear(self) -> None:
        """Begin another day."""
        self._total.fill(0.0)
        self._number.fill(0)

    def mean(self, needed: int, out: NDArray[np.float32]) -> None:
        """Mean of the steps into ``out``, contiguous; NaN where fewer than ``needed`` of them have a value."""
        take_mean(self._total.reshape(-1), self._number.reshape(-1), needed, out.reshape(-1))


def _ending(name: str) -> str:
    return name.rsplit(".", 1)[-1].lower() if "." in name else ""


def holds_no_data(name: str) -> bool:
    """Whether a file lies beside granules and is none, by how its name ends."""
    return _ending(name) in _BESIDE


def _folders_like_granules(product: Product, url: str, path: str, granules: Sequence[str]) -> Iterator[PassedOver]:
    """Folders whose names are those of granules, without a granule in them."""
    for folder in folders(url):
        name = folder.rsplit("/", 1)[-1]
        hidden = "/." in folder.replace(path, "", 1)
        if hidden or product.parse(name) is None or any(one.startswith(f"{folder}/") for one in granules):
            continue
        if any(os.path.exists(os.path.join(folder, mark)) for mark in ZARR_MARKS):
            yield PassedOver(name, f"it is a store in Zarr: name it as '{MIRROR}' and its path", True)
        else:
            yield PassedOver(name, "it is a folder, not a file, and no granule is in it", True)


def _is_telling(product: Product) -> bool:
    """Whether names of a product's granules say which product it is: a date alone does not."""
    return product.parse("20200101.nc") is None


_contents_known: dict[str, GranuleName | PassedOver] = {}
_contents_lock: Final = threading.Lock()


def _contents(product: Product, granule: Granule, cache: Cache) -> GranuleName | PassedOver:
    """What a file holds whose name does not say it; each is opened once, as long as it stays the same."""
    key = fingerprint(product.name, product.grid.name, granule.url, *granule.identity)
    with _contents_lock:
        if key in _contents_known:
            return _contents_known[key]
    remembered = None if is_local(granule.url) else cache.path / _INDEX / f"{key}.json"
    known = _remembered(remembered)
    if known is None:
        try:
            path = local_copy(granule, cache)
        except GranuleError as error:
            # What a download came to says nothing of the file: it is tried again next time.
            return _unread(granule, error)
        try:
            known = product.contents(path)
        except GranuleError as error:
            known = _unread(granule, error)
            if not path.exists():
                return known
        if remembered is not None:
            remembered.parent.mkdir(parents=True, exist_ok=True)
            # Whole or not at all: another run may use the folder at the same time.
            temporary = remembered.with_suffix(f".{uuid.uuid4().hex}.part")
            temporary.write_text(json.dumps(_as_json(known)))
            os.replace(temporary, remembered)
    with _contents_lock:
        _contents_known[key] = known
    return known


def _unread(granule: Granule, error: GranuleError) -> PassedOver:
    return PassedOver(granule.name, str(error).removeprefix(f"{granule.name} "), True)


def _as_json(known: GranuleName | PassedOver) -> dict[str, Any]:
    if isinstance(known, PassedOver):
        return {"name": known.name, "reason": known.reason}
    return {"days": known.days.astype(str).tolist(), "key": known.key, "provisional": known.provisional}


def _remembered(path: Path | None) -> GranuleName | PassedOver | None:
    if path is None:
        return None
    try:
        found = json.loads(path.read_text())
        if "reason" in found:
            return PassedOver(found["name"], found["reason"], True)
        days = tuple(np.datetime64(day, "D") for day in found["days"])
        return GranuleName(days[0], days[-1], found["key"], found["provisional"], held=days)
    except (OSError, ValueError, KeyError, IndexError):
        return None


def _mirrored(product: Product, url: str, days: NDArray[np.datetime64]) -> Catalogue:
    """The days of a mirror, each as one granule."""
    wanted = set(days.astype("datetime64[D]").astype(str).tolist())
    try:
        there = product.mirror_days(url.removeprefix(MIRROR))
    except GranuleError as error:
        raise MissingPathError(str(error)) from error
    return Catalogue({str(day): (Granule(url, 0, tag, str(day)),) for day, tag in there if str(day) in wanted})


@dataclass(frozen=True)
class Cache:
    """Where granules of a remote URL are kept on this machine: a folder, by default one for temporary files, and its size."""

    folder: str | None = None
    limit_bytes: int = 4 * 2**30

    @property
    def path(self) -> Path:
        """The folder."""
        return Path(self.folder or os.path.join(tempfile.gettempdir(), "deepprofile-granules"))


def read_granule(product: Product, granule: Granule, window: Grid, days: NDArray[np.datetime64], cache: Cache) -> Steps:
    """Time steps of these days, from a file or from a mirror.

    Raises
    ------
    GranuleError
        Where it cannot be used.
    """
    if granule.url.startswith(MIRROR):
        return product.read_mirror(granule.url.removeprefix(MIRROR), window, days)
    (steps,) = _from_copy(granule, cache, lambda path: iter([product.read(path, window, days)]))
    return steps


def read_granule_pieces(
    product: Product, granule: Granule, window: Grid, days: NDArray[np.datetime64], cache: Cache, held: Held
) -> Iterator[Steps]:
    """As ``read_granule``, some steps at a time (see ``Product.read_pieces``)."""
    if granule.url.startswith(MIRROR):
        return product.read_mirror_pieces(granule.url.removeprefix(MIRROR), window, days, held)
    return _from_copy(granule, cache, lambda path: product.read_pieces(path, window, days, held))


def _from_copy(granule: Granule, cache: Cache, read: Callable[[Path | RemoteFile], Iterator[Steps]]) -> Iterator[Steps]:
    for attempt in range(1, DOWNLOADS + 1):
        path, given = _place(granule, cache), False
        try:
            for piece in read(path):
                given = True
                yield piece
            if isinstance(path, RemoteFile):
                _check_unchanged(granule)
        except GranuleError:
            # Another thread or process may have made room before the file was open.
            gone = isinstance(path, Path) and not path.exists() and not is_local(granule.url)
            if given or not gone or attempt == DOWNLOADS:
                raise
        else:
            return


def read_together(
    product: Product, granules: Sequence[Granule], window: Grid, days: NDArray[np.datetime64], cache: Cache
) -> Steps:
    """Time steps of these days from files that hold different variables of them.

    Raises
    ------
    GranuleError
        Where one cannot be used, or several hold the same.
    """
    places = [_place(granule, cache) for granule in granules]
    steps = product.read_together(places, window, days)
    for granule, place in zip(granules, places, strict=True):
        if isinstance(place, RemoteFile):
            _check_unchanged(granule)
    return steps


def _place(granule: Granule, cache: Cache) -> Path | RemoteFile:
    """Where a granule is read: on this machine, or, a file of HDF5, where it is: of forty fields four are needed."""
    if is_local(granule.url) or _cached(granule, cache).exists():
        return local_copy(granule, cache)
    begin = read_range(granule.url, 0, min(BLOCK_BYTES, granule.size))
    if begin is None or not begin.startswith(HDF5) or len(begin) != min(BLOCK_BYTES, granule.size):
        return local_copy(granule, cache)
    return RemoteFile(granule.url, granule.size, begin)


def _cached(granule: Granule, cache: Cache) -> Path:
    return cache.path / fingerprint(granule.url, granule.size, granule.tag) / granule.name


def _check_unchanged(granule: Granule) -> None:
    """Raise a GranuleError where a remote file is another than was listed: its parts may be of both."""
    fs, path = filesystem(granule.url)
    with suppress(FileNotFoundError):
        if granule_of(granule.url, fs.info(path)).identity == granule.identity:
            return
    raise GranuleError(f"{granule.name} was replaced, or removed, while it was read")


def local_copy(granule: Granule, cache: Cache) -> Path:
    """The granule as a file of this machine: itself, or downloaded into the cache.

    Raises
    ------
    GranuleError
        Where the download is shorter or longer than was announced.
    """
    fs, path = filesystem(granule.url)
    if is_local(granule.url):
        return Path(path)
    target = _cached(granule, cache)
    with suppress(FileNotFoundError):
        if target.stat().st_size == granule.size:
            # Used just now.
            os.utime(target)
            return target
    size = 0
    for _ in range(DOWNLOADS):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_suffix(f".{uuid.uuid4().hex}.part")
        try:
            try:
                fs.get_file(path, str(temporary))
            except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
                raise GranuleError(f"{granule.name} cannot be fetched: {error.strerror or error}") from error
            size = temporary.stat().st_size
            if size == granule.size:
                os.replace(temporary, target)
                make_room(cache, target)
                return target
        finally:
            temporary.unlink(missing_ok=True)
    raise GranuleError(f"{granule.name} has {size} bytes after its download, {granule.size} were announced")


def make_room(cache: Cache, newest: Path) -> None:
    """Remove what was not used for longest until the folder is within its limit; a file that is open stays readable."""
    there = []
    for path in cache.path.glob("*/*"):
        if path.parent.name == _INDEX:
            # Small, and what other roots know of their files too: to learn it again takes a download each.
            continue
        with suppress(FileNotFoundError):
            found = path.stat()
            there.append((found.st_mtime_ns, found.st_size, path))
    total = sum(size for _, size, _ in there)
    for _, size, path in sorted(there):
        if total <= cache.limit_bytes:
            return
        if path == newest or path.suffix == ".part":
            continue
        path.unlink(missing_ok=True)
        # It stays where another process has just begun to fill it again.
        with suppress(OSError):
            path.parent.rmdir()
        total -= size
