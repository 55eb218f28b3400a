"""A day of the schedule on a record of one year and on one of four: what is read, written and copied, and in which years.

    python -m benchmarks.schedule

A small region of the twin, with granules on every eighth day and on all of the last ones, in a bucket on the emulator of Google
Cloud Storage that tests run on, behind a proxy that counts. The record is extended by one day, on which every product has its
granules; the error model stays as it is.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from deepprofile import twin
from deepprofile.config import Config
from deepprofile.execution.pools import ThreadPool
from deepprofile.stages.pipeline import STAGES, Request, run_stages
from deepprofile.stages.schedule import AsOf
from deepprofile.storage.filesystems import filesystem
from deepprofile.twin.granules import write_granules, write_stations

from benchmarks.bucket import bucket
from benchmarks.results import Measurement, Seconds, timed
from tests.support.object_storage import Proxy

SHAPE = (6, 6)
LAST = np.datetime64("2019-03-10")
YEARS = (1, 4)
# Before these days granules are on every eighth alone: what a day costs does not depend on what is there of others.
DENSE_DAYS, EVERY = 80, 8
NAMES = ("smap_l4", "gldas_noah", "era5_land", "smap_l3")


def _skipped(days: Any) -> dict[str, set[str]]:
    left_out = {str(day) for k, day in enumerate(days) if k % EVERY and day < LAST - DENSE_DAYS}
    return dict.fromkeys(NAMES, left_out)


def configured(root: str, granules: Path, grid: Any, years: int, stations: bool) -> Config:
    """A record of so many years that ends on the last day."""
    half_y, half_x = (0.5 * abs(each[1] - each[0]) for each in (grid.lat, grid.lon))
    box = [grid.lon[0] - half_x, grid.lat[-1] - half_y, grid.lon[-1] + half_x, grid.lat[0] + half_y]
    return Config.model_validate(
        {
            "root": root,
            "grid": {"name": "ease2_m09", "bbox": [round(float(v), 4) for v in box]},
            "period": {"start": str(LAST - 365 * years), "end": str(LAST)},
            "products": {name: {"granules": str(granules / name)} for name in NAMES},
            "collocation": {"min_samples": 20, "window": 3},
            "stations": [{"kind": "ismn", "path": str(granules / "ismn")}] if stations else [],
            "gate": {"jump": 1.0, "lost": 1.0},
        }
    )


def _run(config: Config, until: Any) -> None:
    run_stages(config, STAGES, ThreadPool(1), request=Request(AsOf(until, until), collocate=None))


def _row(proxy: Proxy, seconds: Seconds) -> list[Any]:
    """Requests of each kind, their bytes, and how many objects of closed years were written or copied."""
    counts: Counter[str] = Counter(kind for kind, _, _ in proxy.asked)
    sizes: Counter[str] = Counter()
    for kind, _, size in proxy.asked:
        sizes[kind] += size
    changed = {name for kind, name, _ in proxy.asked if kind in ("write", "copy")}
    closed = sum(bool(re.search(r"/201[5-8]/", name)) for name in changed)
    return [
        f"{counts['read']:,}",
        f"{sizes['read'] / 1e3:,.0f}",
        f"{counts['write']:,}",
        f"{sizes['write'] / 1e3:,.0f}",
        f"{counts['copy']:,}",
        f"{counts['look']:,}",
        f"{closed:,}",
        seconds,
    ]


def measure() -> dict[str, Measurement]:
    """The table."""
    table = Measurement(
        "A day of the schedule",
        (
            "record",
            "reads",
            "kB read",
            "writes",
            "kB written",
            "copies",
            "looks",
            "changed of closed years",
            "CPU / wall (s)",
        ),
        note=f"{SHAPE[0]} x {SHAPE[1]} cells, a day more of four products on a local disk; looks: at listings and metadata.",
    )
    folder = Path(tempfile.mkdtemp(prefix="deepprofile-schedule-"))
    try:
        first = np.datetime64("2015-04-01")
        days = np.arange(first, LAST + 1)
        world = twin.simulate(SHAPE, (days.size + 1) / 360, seed=3, stations=2)
        grid = write_granules(world, folder / "granules", slice(0, days.size), skip=_skipped(days))
        write_stations(world, folder / "granules")
        with bucket(folder) as (there, proxy):
            for stations in (False, True):
                for years in YEARS:
                    name = f"{years}-{stations}"
                    # What is there already was made on the local disk.
                    _run(configured(str(folder / name), folder / "granules", grid, years, stations), LAST - 1)
                    fs, path = filesystem(f"{there}/{name}")
                    fs.put(str(folder / name), path, recursive=True)
                    config = configured(f"{there}/{name}", folder / "granules", grid, years, stations)
                    proxy.asked.clear()
                    seconds = timed(partial(_run, config, LAST))
                    record = f"{years} year{'s' if years > 1 else ''}{', with stations' if stations else ''}"
                    table.add(record, *_row(proxy, seconds))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {"schedule": table}


if __name__ == "__main__":
    for measurement in measure().values():
        measurement.show()
    sys.exit(0)
