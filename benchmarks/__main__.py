"""Speed and memory, each beside what it is measured against, in one run (``make bench``).

    python -m benchmarks [--only numerics stages ingest remote readers analysis plan maps day schedule memory]

Prints every table and keeps it in ``benchmarks/results.json`` with the commit. Processor time stands beside time on the clock.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from benchmarks import analysis, day, ingest, maps, memory, numerics, plan, readers, remote, results, schedule, stages
from benchmarks.results import Measurement

SUITES: dict[str, Callable[[], dict[str, Measurement]]] = {
    "numerics": numerics.measure,
    "stages": stages.measure,
    "ingest": ingest.measure,
    "remote": remote.measure,
    "readers": readers.measure,
    "analysis": analysis.measure,
    "plan": plan.measure,
    "maps": maps.measure,
    "day": day.measure,
    "schedule": schedule.measure,
    "memory": memory.measurement,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suites that are asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(SUITES), default=list(SUITES), help="some of the suites")
    for name in parser.parse_args(arguments).only:
        found = SUITES[name]()
        for measurement in found.values():
            measurement.show()
        results.keep(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
