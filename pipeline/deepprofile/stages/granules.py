"""Which granules there are: a folder or URL, listed once, by day."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepprofile.config import MIRROR
from deepprofile.engine import fingerprint
from deepprofile.grids import Grid
from deepprofile.objects import filesystem, is_local, is_pattern, listing, told
from deepprofile.products import GranuleError, Product, Steps

# A download that ends early is begun again so often.
DOWNLOADS: Final = 3


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
class Catalogue:
    """The granules of a product by day, ``YYYY-MM-DD``, in the order of their names."""

    by_day: dict[str, tuple[Granule, ...]]

    def of(self, days: Iterable[np.datetime64]) -> dict[str, tuple[Granule, ...]]:
        """Granules of some days."""
        return {text: self.by_day[text] for text in map(str, days) if text in self.by_day}

    @property
    def last_day(self) -> np.datetime64 | None:
        """The last day of which there is a granule."""
        days = [day for day, granules in self.by_day.items() if granules]
        return np.datetime64(max(days), "D") if days else None

    @property
    def count(self) -> int:
        """Number of files."""
        return len({granule.url for granules in self.by_day.values() for granule in granules})


def find_granules(product: Product, url: str, days: NDArray[np.datetime64]) -> Catalogue:
    """List the granules of some days below a folder or URL.

    Raises
    ------
    FileNotFoundError
        Where there is no such folder.
    """
    if url.startswith(MIRROR):
        return _mirrored(product, url, days)
    with told(url):
        fs, path = filesystem(url)
        if not is_pattern(url) and not fs.exists(path):
            raise FileNotFoundError(f"there is no folder {url} for the granules of {product.name}")
        entries = listing(url)
    wanted = set(days.astype("datetime64[D]").astype(str).tolist())
    found: dict[str, list[Granule]] = defaultdict(list)
    final: set[str] = set()
    for entry in entries:
        name = product.parse(str(entry["url"]))
        if name is None:
            continue
        # Of a local file the time of its last change, elsewhere what the service says of its content.
        tag = next(
            (str(entry[k]) for k in ("etag", "ETag", "md5Hash", "md5", "mtime", "updated", "LastModified") if entry.get(k)), ""
        )
        granule = Granule(str(entry["url"]), int(entry["size"]), tag, name.key, name.provisional)
        if not name.provisional:
            final.add(name.key)
        for text in name.days.astype(str).tolist():
            if text in wanted:
                found[text].append(granule)
    # A provisional granule that is left beside the final one has had its time.
    kept = {day: [g for g in there if not g.provisional or g.key not in final] for day, there in found.items()}
    return Catalogue({day: tuple(sorted(kept[day], key=lambda g: (g.key, g.url))) for day in sorted(kept)})


def _mirrored(product: Product, url: str, days: NDArray[np.datetime64]) -> Catalogue:
    """The days of a mirror, each as one granule."""
    wanted = set(days.astype("datetime64[D]").astype(str).tolist())
    try:
        there = product.mirror_days(url.removeprefix(MIRROR))
    except GranuleError as error:
        raise FileNotFoundError(str(error)) from error
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
    for attempt in range(1, DOWNLOADS + 1):
        path = local_copy(granule, cache)
        try:
            return product.read(path, window, days)
        except GranuleError:
            # Another thread or process may have made room before the file was open.
            if path.exists() or is_local(granule.url) or attempt == DOWNLOADS:
                raise
    raise AssertionError("unreachable")


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
    target = cache.path / fingerprint(granule.url, granule.size, granule.tag) / granule.name
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
            fs.get_file(path, str(temporary))
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
