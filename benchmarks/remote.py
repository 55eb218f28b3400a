"""A granule in object storage: fetched whole into scratch and read there, or read by ranges where it is.

    python -m benchmarks.remote

A granule of SPL4SMGP has some forty fields, of which four are read. The server is the emulator of Google Cloud Storage that
tests run on, behind a proxy that answers 10 ms late and counts.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from deepprofile.grids.grids import EASE2_M09
from deepprofile.sources.catalogue import Cache, Granule, local_copy
from deepprofile.storage.filesystems import filesystem

from benchmarks.bucket import bucket
from benchmarks.ingest import FILL, Fields, write_smap_l4
from benchmarks.results import Measurement, median, side_by_side
from tests.support.object_storage import Proxy

# Other fields of a granule of SPL4SMGP, which has 41.
OTHERS = 37
CHUNK = (116, 241)
LATENCY_SECONDS = 0.01
# Rows and columns of a chunk of the grid: about a million square kilometres in the middle of North America.
REGION = (slice(232, 348), slice(964, 1205))
WHOLE = (slice(None), slice(None))
BLOCK_BYTES = (2**20, 2**22)


def write_granule(folder: Path) -> tuple[Path, list[str]]:
    """A granule as large as one of the provider's; its path, and the names of the fields that are read."""
    names = write_smap_l4(folder)
    path, *others = sorted(folder.iterdir())
    for other in others:
        other.unlink()
    fields = Fields(EASE2_M09.shape, seed=1)
    with h5py.File(path, "a") as file:
        for k in range(OTHERS):
            values = fields(10.0 + k, 3.0, 0.0, 1e3)
            made = file.create_dataset(f"Geophysical_Data/other_{k}", data=values, chunks=CHUNK, compression="gzip")
            made.attrs["_FillValue"] = FILL
    return path, names


@contextmanager
def served(folder: Path, path: Path) -> Iterator[tuple[Granule, Proxy]]:
    """The granule in a bucket."""
    with bucket(folder, LATENCY_SECONDS) as (there, proxy):
        url = f"{there}/{path.name}"
        fs, place = filesystem(url)
        fs.put_file(str(path), place)
        yield Granule(url, path.stat().st_size, "1", "1"), proxy


def _whole(granule: Granule, scratch: Path, names: Sequence[str], part: tuple[slice, slice]) -> Callable[[], object]:
    def read() -> None:
        shutil.rmtree(scratch, ignore_errors=True)
        with h5py.File(local_copy(granule, Cache(str(scratch))), "r") as file:
            for name in names:
                np.asarray(file[name][part])

    return read


def _ranges(granule: Granule, block: int, names: Sequence[str], part: tuple[slice, slice]) -> Callable[[], object]:
    def read() -> None:
        fs, place = filesystem(granule.url)
        # 64 blocks are kept: the metadata of a file is read again and again.
        with (
            fs.open(place, "rb", block_size=block, cache_type="blockcache", cache_options={"maxblocks": 64}) as remote,
            h5py.File(remote, "r") as file,
        ):
            for name in names:
                np.asarray(file[name][part])

    return read


def measure() -> dict[str, Measurement]:
    """Requests, bytes and seconds of each way, for the globe and for a region."""
    table = Measurement(
        "Four fields of a remote granule of SPL4SMGP",
        ("part", "how", "requests", "MB", "CPU / wall (s)"),
        note="Each request is answered 10 ms late.",
    )
    folder = Path(tempfile.mkdtemp(prefix="deepprofile-remote-"))
    try:
        (folder / "granules").mkdir()
        path, names = write_granule(folder / "granules")
        with served(folder, path) as (granule, proxy):
            for label, part in (("globe", WHOLE), ("a chunk of each field", REGION)):
                ways = {"whole, into scratch": _whole(granule, folder / "scratch", names, part)}
                ways |= {f"ranges, blocks of {size >> 20} MiB": _ranges(granule, size, names, part) for size in BLOCK_BYTES}
                seconds = side_by_side(list(ways.values()), 3)
                for (how, read), of_way in zip(ways.items(), seconds, strict=True):
                    before = proxy.counts["delay"], proxy.sent
                    read()
                    requests, sent = proxy.counts["delay"] - before[0], proxy.sent - before[1]
                    table.add(label, how, requests, f"{sent / 1e6:.1f}", median(of_way))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {"remote": table}


if __name__ == "__main__":
    for measurement in measure().values():
        measurement.show()
    sys.exit(0)
