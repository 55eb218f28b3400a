"""What a day of the schedule costs the driver on ten years of the globe at 9 km, with workers that do nothing.

    python -m benchmarks.day

Granules are empty files with the names of real ones, stores have metadata and no shards; plans, fingerprints, records, the
engine and the manifests are those of a real run, on the local disk. The record is extended by one day.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from deepprofile.config import Config
from deepprofile.execution.blocks import Block, Outcome
from deepprofile.stages import gate
from deepprofile.stages.pipeline import STAGES, Request, run_stages
from deepprofile.stages.schedule import AsOf

from benchmarks.results import Measurement, Seconds, timed

FIRST, LAST = np.datetime64("2015-04-01"), np.datetime64("2025-03-31")
HOURS = range(0, 24, 3)
# Names of a day's granules, by product; ``{day}`` is its date.
NAMES: dict[str, list[str]] = {
    "smap_l4": [f"SMAP_L4_SM_gph_{{day}}T{hour + 1:02d}3000_Vv8011_001.h5" for hour in HOURS],
    "gldas_noah": [f"GLDAS_NOAH025_3H.A{{day}}.{hour:02d}00.021.nc4" for hour in HOURS],
    "era5_land": ["era5_land_{day}.nc"],
    "smap_l3": ["SMAP_L3_SM_P_E_{day}_R19240_001.h5"],
}


class IdlePool:
    """Workers that are done at once, and have written nothing."""

    size = 64

    def __init__(self) -> None:
        self.computed = 0
        self._given: deque[tuple[int, Outcome]] = deque()

    def submit(self, _: Callable[..., Outcome], *arguments: Any) -> int:
        """See ``Pool``."""
        name, _, block = arguments[:3]
        self.computed += 1
        self._given.append((self.computed, Outcome(details=_details(name, block))))
        return self.computed

    def wait(self, _: float) -> Iterable[tuple[int, Outcome, None]]:
        """See ``Pool``."""
        while self._given:
            handle, outcome = self._given.popleft()
            yield handle, outcome, None

    def cancel(self) -> None:
        """See ``Pool``."""


def _details(name: str, block: Block) -> dict[str, Any]:
    """What a block says of itself that later stages read."""
    count = block.region[0][1] - block.region[0][0]
    if name.startswith("ingest"):
        return {"steps": [8] * count, "n_valid": [1000] * count, "provisional": [], "broken": []}
    if name == "publish: files":
        return {"path": f"files/{block.name}.nc", "bytes": 0, "sha256": ""}
    return {**gate.NOTHING, "computed": count, "profiles": count} if name == "invert" else {}


def _deliver(folder: Path, days: Iterable[Any]) -> None:
    for name, names in NAMES.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for day in days:
            for path in (folder / name / each.format(day=str(day).replace("-", "")) for each in names):
                if not path.exists():
                    path.touch()


def measure() -> dict[str, Measurement]:
    """The table."""
    table = Measurement(
        "The driver's day on ten years of the globe at 9 km",
        ("what", "blocks computed", "CPU / wall (s)"),
        note="Workers do nothing; stores are on the local disk.",
    )
    folder = Path(tempfile.mkdtemp(prefix="deepprofile-day-"))
    try:
        granules = folder / "granules"
        _deliver(granules, np.arange(FIRST, LAST))
        config = Config.model_validate(
            {
                "root": str(folder / "root"),
                "period": {"start": str(FIRST), "end": str(LAST)},
                "products": {name: {"granules": str(granules / name)} for name in NAMES},
                "compute": {"memory_limit": "8GiB"},
            }
        )
        for what, until in (("the record, once", LAST - 1), ("a day more", LAST), ("nothing new", LAST)):
            _deliver(granules, [until])
            table.add(what, *_run(config, until))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {"day": table}


def _run(config: Config, until: Any) -> tuple[str, Seconds]:
    pool = IdlePool()
    seconds = timed(lambda: run_stages(config, STAGES, pool, request=Request(AsOf(until, until), collocate=None)))
    return f"{pool.computed:,}", seconds


if __name__ == "__main__":
    for measurement in measure().values():
        measurement.show()
    sys.exit(0)
