"""What readers of the published profiles ask of a bucket: requests and bytes of a pixel's year and decade, and of a day.

    python -m benchmarks.readers

A store of ten years on one shard of cells, with values as smooth in time as real ones, opened by ``deepprofile.open_store``
through the emulator of Google Cloud Storage that tests run on, and a proxy that counts.
"""

from __future__ import annotations

import itertools
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import deepprofile as dp
import numpy as np
from deepprofile.config import Config
from deepprofile.stages import covariances, invert
from deepprofile.stages.profiles import Profiles
from deepprofile.storage.filesystems import filesystem
from deepprofile.storage.roots import Root, part_name
from deepprofile.storage.stores import Template, create, write_shards

from benchmarks.bucket import bucket
from benchmarks.results import Measurement, timed
from benchmarks.stages import CELLS, START, configure
from tests.support.object_storage import Proxy

YEARS = 10
PLACE = {"y": 30, "x": 21}
DEPTH_M = 0.4


def configured(folder: Path) -> Config:
    """Ten years on one shard of cells."""
    config = configure(folder, 1, CELLS, memory="none")
    end = date(START.year + YEARS - 1, 12, 31)
    return Config.model_validate(config.model_dump(mode="json") | {"period": {"start": START, "end": end}})


def fill(config: Config) -> None:
    """Publish profiles that nobody has computed; all shards of a year have the same."""
    root, profiles = Root(config.root), Profiles.of(config)
    grid = profiles.domain.grid
    corners = list(itertools.product(range(0, grid.rows, CELLS), range(0, grid.columns, CELLS)))
    rng = np.random.default_rng(0)
    level = rng.normal(0.0, 0.03, (1, 1, CELLS, CELLS))
    sizes = np.array([1.0, 0.3, 0.1, 0.05, 0.03, 0.02])[: profiles.degrees, None, None, None]
    made = [covariances.STORE]
    for year in profiles.domain.years:
        made.append(part_name(invert.STORE, year.year))
        url, days = root.version(made[-1], "made"), year.length
        create(url, invert.template(profiles, year))
        season = 0.25 + 0.06 * np.sin(2.0 * np.pi * np.arange(days) / 365.25)
        noise = 0.01 * rng.standard_normal((profiles.degrees, days, CELLS, CELLS)).cumsum(axis=1) / np.sqrt(days)
        values = ((season[None, :, None, None] + level) * sizes + noise).astype(np.float32)
        flags = {name: rng.integers(0, 2, (days, CELLS, CELLS)).astype(np.uint8) for name in ("flags", "pattern")}
        for y, x in corners:
            write_shards(url, "coefficients", (0, 0, y, x), values)
            for name, array in flags.items():
                write_shards(url, name, (0, y, x), array)
    still = covariances.template(profiles)
    create(root.version(covariances.STORE, "made"), still)
    _fill_still(root.version(covariances.STORE, "made"), still, rng)
    with root.lease() as lease:
        root.publish(dict.fromkeys(made, "made"), lease)


def _fill_still(url: str, template: Template, rng: np.random.Generator) -> None:
    for name, variable in template.variables.items():
        if variable.shards is not None:
            shape = template.shape(name)
            write_shards(url, name, (0,) * len(shape), rng.uniform(0.01, 0.05, shape).astype(np.float32))


@contextmanager
def published(folder: Path, config: Config) -> Iterator[tuple[str, Proxy]]:
    """The same in a bucket."""
    with bucket(folder) as (there, proxy):
        url = f"{there}/stores"
        fs, path = filesystem(url)
        fs.put(f"{config.root}/public", f"{path}/public", recursive=True)
        fs.put_file(f"{config.root}/current.json", f"{path}/current.json")
        yield url, proxy


def measure() -> dict[str, Measurement]:
    """The table."""
    table = Measurement(
        "What a reader asks of a bucket",
        ("what", "requests", "kB", "CPU / wall (s)"),
        note=f"{YEARS} years on {CELLS} x {CELLS} cells; metadata and coordinates are read when the store is opened.",
    )
    folder = Path(tempfile.mkdtemp(prefix="deepprofile-readers-"))
    try:
        config = configured(folder / "root")
        fill(config)
        with published(folder, config) as (url, proxy):
            opened: list[Any] = []
            year = {"time": str(START.year + 1)}

            def point() -> Any:
                return opened[0].isel(PLACE)

            asked: dict[str, Callable[[], object]] = {
                "open the store": lambda: opened.append(dp.open_store(url)),
                "a pixel's year at one depth": lambda: point().sel(year).deepprofile.at(DEPTH_M).compute(),
                "the same with its standard deviation": lambda: point().sel(year).deepprofile.std(DEPTH_M).compute(),
                "a pixel's decade at one depth": lambda: point().deepprofile.at(DEPTH_M).compute(),
                "the same with its standard deviation, of the decade": lambda: point().deepprofile.std(DEPTH_M).compute(),
                "a day's storage on a shard of cells": lambda: opened[0].isel(time=400).deepprofile.storage(0.0, 1.0).compute(),
            }
            for what, call in asked.items():
                before = proxy.counts["passed"], proxy.sent
                seconds = timed(call)
                table.add(what, proxy.counts["passed"] - before[0], f"{(proxy.sent - before[1]) / 1e3:,.0f}", seconds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {"readers": table}


if __name__ == "__main__":
    for measurement in measure().values():
        measurement.show()
    sys.exit(0)
