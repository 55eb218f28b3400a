"""What is asked of many cells, beside a program that reads the same and does nothing else.

    python -m benchmarks.analysis

A year of profiles on a square of shards, with values as smooth in time as real ones, on the local disk; dask on its threads.
"""

from __future__ import annotations

import itertools
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deepprofile as dp
import xarray as xr
import zarr
from deepprofile.config import Config
from deepprofile.stages import covariances, invert
from deepprofile.storage.filesystems import zarr_store
from deepprofile.storage.roots import Root

from benchmarks import readers
from benchmarks.peak import PeakMemory
from benchmarks.results import Measurement, ratio, side_by_side
from benchmarks.stages import CELLS, configure

# Rows and columns of the square, in shards.
SHARDS = 6
DAY = 180
MONTH = slice(152, 182)
PAIRS = 3


def _reading(config: Config, days: slice, names: tuple[str, ...]) -> Callable[[], None]:
    """Reads arrays shard by shard, the days that are asked for where they have any."""
    root = Root(config.root)
    groups: list[Any] = [
        zarr.open_group(zarr_store(url), mode="r")
        for store in (invert.STORE, covariances.STORE)
        for url in root.parts(store).values()
    ]

    def read() -> None:
        for name in names:
            (group,) = (each for each in groups if name in each)
            array = group[name]
            dims = array.metadata.dimension_names
            for y, x in itertools.product(range(0, SHARDS * CELLS, CELLS), repeat=2):
                own = {"y": slice(y, y + CELLS), "x": slice(x, x + CELLS), "time": days}
                array[tuple(own.get(dim, slice(None)) for dim in dims)]

    return read


def measure() -> dict[str, Measurement]:
    """The table."""
    table = Measurement(
        "What is asked of many cells",
        ("what", "CPU / wall (s)", "times the floor, CPU / wall", "memory (MB)"),
        note=f"{SHARDS * CELLS} x {SHARDS * CELLS} cells of 9 km; the floor reads the same with zarr and decodes nothing.",
    )
    folder = Path(tempfile.mkdtemp(prefix="deepprofile-analysis-"))
    try:
        config = configure(folder / "root", 1, SHARDS * CELLS, memory="none", edge=CELLS)
        readers.fill(config)
        profile = dp.open_profile(config.root)
        month = profile.isel(time=MONTH)

        def mean(*asked: str) -> object:
            view = month.deepprofile.area_mean().deepprofile.time_mean("MS", min_share=0.1).deepprofile
            return xr.Dataset({each: getattr(view, each)(0.0, 1.0) for each in asked}).compute()

        one = slice(DAY, DAY + 1)
        asked: dict[str, tuple[Callable[[], object], Callable[[], None]]] = {
            "a day's storage": (
                lambda: profile.isel(time=DAY).deepprofile.storage(0.0, 1.0).compute(),
                _reading(config, one, ("coefficients",)),
            ),
            "its standard deviation": (
                lambda: profile.isel(time=DAY).deepprofile.std_storage(0.0, 1.0).compute(),
                _reading(config, one, ("pattern", "covariance_factor")),
            ),
            "the mean of a month and all cells": (
                lambda: mean("storage"),
                _reading(config, MONTH, ("coefficients", "pattern", "covariance_factor")),
            ),
            "the same with its standard deviation": (
                lambda: mean("storage", "std_storage"),
                _reading(config, MONTH, ("coefficients", "pattern", "covariance_factor")),
            ),
        }
        for what, (ours, floor) in asked.items():
            found, least = side_by_side([ours, floor], PAIRS)
            with PeakMemory() as memory:
                ours()
            table.add(what, found[0], str(ratio(found, least)), f"{memory.more / 1e6:.0f}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {"analysis": table}


if __name__ == "__main__":
    for measurement in measure().values():
        measurement.show()
    sys.exit(0)
