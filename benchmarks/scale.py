"""Throughput against workers: the real driver, engine and Dask scheduler, with workers that only sleep.

    python -m benchmarks.scale [--most 512] [--plot docs/images/scale.png]

How long a block sleeps is measured first: the time of one block of ``invert`` on one thread here; and ten times that, for
blocks that wait for storage or read many granules. Everything else is real: fingerprints, window, records in the manifest, the
scheduler. All of it shares the cores of this machine, so that the limit that is seen is a lower one.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import psutil
from deepprofile.execution.blocks import Block, Job, Outcome, Workload, grid_blocks
from deepprofile.execution.engine import run_job
from deepprofile.execution.ledger import Ledger
from deepprofile.execution.pools import DaskPool, ThreadPool
from deepprofile.stages import invert
from deepprofile.stages.pipeline import run_stages
from deepprofile.stages.profiles import Profiles
from deepprofile.storage.fingerprints import fingerprint
from deepprofile.storage.roots import Root
from distributed import Client, LocalCluster
from rich.console import Console
from rich.table import Table

from benchmarks.stages import configure, fill
from benchmarks.stages import run as run_invert

WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
# Seconds that each measurement is to take: each worker has a few blocks to do, so that start and end of a job weigh little.
MEASURE_SECONDS = 12.0
LEAST_ROUNDS = 5
PROCESSES = 4


@dataclass(frozen=True)
class Sleep:
    """What stands for the work of a block."""

    seconds: float

    def __call__(self, block: Block, _: Any) -> Outcome:
        """See ``deepprofile.execution.blocks.Job``."""
        time.sleep(self.seconds)
        return Outcome(1, 1, details={"profiles": 262144, "computed": 262144, "outside": 0, "compared": 0, "change": 0.0})


@dataclass(frozen=True)
class Point:
    """One measurement: blocks a second, and the driver's and scheduler's seconds of processor time a block."""

    workers: int
    rate: float
    ideal: float
    cpu: float


def measure_block(folder: Path) -> tuple[float, float, float]:
    """Seconds of one block of ``invert`` on one thread, and the bytes that it reads and writes."""
    config = configure(folder, 1)
    versions = fill(config)
    run_stages(config, ("collocate",), ThreadPool(2))
    versions = Root(config.root).current()
    run_invert(config, versions, threads=1)
    seconds = min(run_invert(config, versions, threads=1) for _ in range(3))
    job = invert.workload(Profiles.of(config))
    blocks = len(job.blocks)
    return seconds / blocks, job.bytes_in / blocks, job.bytes_out / blocks


def measure(workers: int, seconds: float, folder: Path) -> Point:
    """Run a job of blocks that sleep on so many workers."""
    processes = min(PROCESSES, workers)
    threads = ceil(workers / processes)
    count = max(LEAST_ROUNDS, round(MEASURE_SECONDS / seconds)) * workers
    blocks = grid_blocks((count,), (1,))
    job = Job(Workload("sleep", blocks), Sleep(seconds), lambda block: fingerprint("sleep", block.region), lambda _: "sleep")
    process = psutil.Process()
    with (
        LocalCluster(n_workers=processes, threads_per_worker=threads, dashboard_address=None, memory_limit=0) as cluster,
        Client(cluster) as client,
    ):
        # Modules are loaded before the clock starts.
        run_job(
            Job(Workload("warm", blocks[:processes]), Sleep(0.0), lambda b: b.name),
            DaskPool(client, workers),
            Ledger(str(folder / f"w{workers}-{seconds}")),
        )
        before, began = sum(process.cpu_times()[:2]), time.perf_counter()
        run_job(job, DaskPool(client, processes * threads), Ledger(str(folder / f"{workers}-{seconds}")))
        elapsed, cpu = time.perf_counter() - began, sum(process.cpu_times()[:2]) - before
    return Point(workers, count / elapsed, processes * threads / seconds, cpu / count)


def plot(series: dict[float, list[Point]], read: float, written: float, path: Path) -> None:
    """Throughput against workers, with the line on which nothing is lost."""
    figure, axis = plt.subplots(figsize=(7.2, 4.4), layout="constrained")
    for (seconds, points), colour in zip(series.items(), ("#1f6f8b", "#c8553d"), strict=True):
        workers = [p.workers for p in points]
        axis.loglog(workers, [p.ideal for p in points], color=colour, lw=1, ls=":")
        axis.loglog(workers, [p.rate for p in points], color=colour, marker="o", ms=4, label=f"blocks of {seconds:.2g} s")
    axis.set_xlabel("workers")
    axis.set_ylabel("blocks a second")
    axis.set_xticks(WORKERS, [str(w) for w in WORKERS])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    scale = (read + written) / 2**20

    def volume(rate: Any) -> Any:
        return rate * scale

    def blocks(rate: Any) -> Any:
        return rate / scale

    other = axis.secondary_yaxis("right", functions=(volume, blocks))
    other.set_ylabel("MiB a second, read and written, before compression (invert)")
    axis.legend(title="dotted: nothing lost", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the simulation, print its table and draw it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--most", type=int, default=512, help="workers at most")
    parser.add_argument("--plot", type=Path, help="file for the picture")
    chosen = parser.parse_args(arguments)
    console = Console(width=110)
    folder = Path(tempfile.mkdtemp(prefix="deepprofile-scale-"))
    try:
        seconds, read, written = measure_block(folder / "invert")
        series: dict[float, list[Point]] = {}
        table = Table(title="The real driver and scheduler, workers that sleep", title_justify="left")
        for name in ("block (s)", "workers", "blocks a second", "share of the ideal", "driver and scheduler (ms a block)"):
            table.add_column(name, justify="right")
        for length in (round(seconds, 2), round(10 * seconds, 1)):
            series[length] = [measure(w, length, folder) for w in WORKERS if w <= chosen.most]
            for p in series[length]:
                row = (f"{length:g}", f"{p.workers}", f"{p.rate:.1f}", f"{p.rate / p.ideal:.0%}", f"{1000 * p.cpu:.2f}")
                table.add_row(*row)
        console.print(table)
        console.print(
            f"A block of invert reads {read / 2**20:.1f} MiB and writes {written / 2**20:.1f} MiB before compression."
        )
        if chosen.plot is not None:
            plot(series, read, written, chosen.plot)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
