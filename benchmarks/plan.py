"""How long the plan of the whole globe takes to be printed: every block of eleven years on 9 km."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from benchmarks.results import Measurement, Seconds, median
from benchmarks.stages import PRODUCTS

REPEATS = 3


def measure() -> dict[str, Measurement]:
    """The command line, from its start to its end, in a process of its own."""
    table = Measurement("deepprofile plan, the globe on 9 km, April 2015 to March 2026", ("blocks", "CPU / wall (s)"))
    with tempfile.TemporaryDirectory(prefix="deepprofile-plan-") as folder:
        granules = Path(folder) / "granules"
        granules.mkdir()
        document = {
            "root": f"{folder}/root",
            "period": {"start": "2015-04-01", "end": "2026-03-31"},
            "products": {name: {"granules": str(granules)} for name in PRODUCTS},
        }
        path = Path(folder) / "deepprofile.yaml"
        path.write_text(yaml.safe_dump(document))
        command = [sys.executable, "-m", "deepprofile.app.cli", "plan", "-c", str(path)]
        printed, found = "", []
        for _ in range(REPEATS + 1):
            before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - began
            found.append(Seconds(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall))
    together = next(line for line in printed.splitlines() if "together" in line)
    table.add(together.split()[1], median(found[1:]))
    return {"plan": table}
