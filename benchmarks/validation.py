"""Validation at the size of the paper: 2,373 stations of 45 networks, five depths, ten years; time, CPU and memory by step.

    python -m benchmarks.validation [--stations 2373] [--years 10]

The twin writes an archive in the ISMN's form, with one record a day: the readers take any step, and hourly files would be 24
times as large. Stores of four products, moments and profiles on the globe hold the shards that the stations need. One shard of
each stretch of days is made of noisy series by the stages themselves, and is linked to all other places: the work on it is that
of real ones, what the disk does is less. Then ``validate`` runs as an operator would run it, on a local cluster of two workers.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import product as combinations
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import psutil
from deepprofile.app.published import Published
from deepprofile.app.report import sensors_scored, station_coverage
from deepprofile.cluster.local import local_pool
from deepprofile.config import Config
from deepprofile.execution.blocks import Block
from deepprofile.stages import collocate, covariances, ingest, invert
from deepprofile.stages.analysis_ready import cached_overlaps
from deepprofile.stages.domain import days_of
from deepprofile.stages.pipeline import run_stages
from deepprofile.stages.plan import VersionPlan
from deepprofile.storage.filesystems import local_path
from deepprofile.storage.roots import Root, part_name
from deepprofile.storage.stores import Template, create, write_shards
from deepprofile.twin.archive import NETWORKS, STATIONS, Station, place_stations, write_archive
from rich.console import Console
from rich.table import Table

from benchmarks.stages import PRODUCTS

START = date(2015, 4, 1)
# What a run of the paper's size may take on two cores, and a worker at most.
TARGET_MINUTES, WORKER_MEMORY = 15.0, "2GiB"
WORKERS = 2
# The shard of the target that is computed, from which all others are linked: row and column of shards, away from every edge.
MODEL = (8, 20)

Shard = tuple[int, int]


def configure(folder: Path, archive: Path, years: int) -> Config:
    """The globe on 9 km with the default blocks, four products, and the archive."""
    return Config.model_validate(
        {
            "root": str(folder),
            "period": {"start": START, "end": date(START.year + years, START.month, START.day)},
            "products": {name: {"granules": "none"} for name in PRODUCTS},
            "stations": [{"kind": "ismn", "path": str(archive)}],
            "compute": {"workers": WORKERS, "memory_limit": WORKER_MEMORY},
        }
    )


def target_shards(config: Config, stations: Iterable[Station]) -> list[Shard]:
    """Shards of the target grid that hold a station, the model first."""
    grid, size = config.grid.grid(), config.blocks.cells
    lat, lon = grid.lat, grid.lon
    found = {
        (int(np.abs(lat - s.latitude).argmin()) // size, int(np.abs(lon - s.longitude).argmin()) // size) for s in stations
    }
    return [MODEL, *sorted(found - {MODEL})]


def product_shards(config: Config, name: str, shards: Sequence[Shard]) -> list[Shard]:
    """Shards of a product's store that these of the target need."""
    grid, cells, size = config.grid.grid(), config.blocks.cells, config.ingest.cells
    y, x = cached_overlaps(ingest.ProductIngest.of(config, name).domain.grid, grid)
    found: set[Shard] = set()
    for row, column in shards:
        top, bottom = y.part(row * cells, min((row + 1) * cells, grid.rows), 0).needed
        left, right = x.part(column * cells, min((column + 1) * cells, grid.columns), 0).needed
        found |= set(combinations(range(top // size, -(-bottom // size)), range(left // size, -(-right // size))))
    return sorted(found)


def link(url: str, name: str, before: tuple[int, ...], after: tuple[int, ...], model: Shard, others: Iterable[Shard]) -> None:
    """Give other places of an array the shard of one; ``before`` and ``after`` are its places along the other dimensions."""

    def path(shard: Shard) -> Path:
        return Path(local_path(url), name, "c", *map(str, (*before, *shard, *after)))

    for shard in others:
        if shard != model:
            path(shard).parent.mkdir(parents=True, exist_ok=True)
            os.link(path(model), path(shard))


def fill_products(config: Config, shards: Sequence[Shard]) -> dict[str, str]:
    """Analysis-ready stores of a signal with noise, where the target's shards need them; returns their versions."""
    root = Root(config.root)
    rng = np.random.default_rng(0)
    versions = {}
    for name in config.products:
        needed = product_shards(config, name, shards)
        for year in ingest.ProductIngest.of(config, name).years:
            store = part_name(ingest.store_name(name), year.domain.year)
            _fill_year(root.version(store, "made"), ingest.template(year), needed, rng)
            versions[store] = "made"
    return versions


def _fill_year(url: str, template: Template, needed: Sequence[Shard], rng: np.random.Generator) -> None:
    create(url, template)
    days, layers, rows, columns = template.shape("soil_moisture")
    stretch, _, size, _ = template.shard_shape("soil_moisture")
    signal = 0.25 + 0.06 * np.sin(np.arange(days) / 9.0) + 0.02 * rng.standard_normal(days)
    model = next(s for s in needed if all((p + 1) * size <= n for p, n in zip(s, (rows, columns), strict=True)))
    for number, start in enumerate(range(0, days, stretch)):
        part = signal[start : start + stretch, None, None, None]
        noise = 0.03 * rng.standard_normal((part.shape[0], layers, size, size), np.float32)
        values = np.clip(part + noise, 0.02, 0.5).astype(np.float32)
        write_shards(url, "soil_moisture", (start, 0, model[0] * size, model[1] * size), values)
        link(url, "soil_moisture", (number, 0), (), model, needed)


def _compute(plan: VersionPlan, blocks: Iterable[Block]) -> None:
    create(plan.url, plan.template)
    for block in blocks:
        plan.job.compute(block, plan.job.inputs(block) if plan.job.inputs is not None else None)


def fill(config: Config, stations: Sequence[Station]) -> int:
    """All stores that validation reads, published; returns the number of the target's shards."""
    root, shards = Root(config.root), target_shards(config, stations)
    versions = fill_products(config, shards)
    for step in (*collocate.steps(config), *covariances.steps(config), *invert.steps(config)):
        for plan in step.plan(root, versions).versions:
            _compute(plan, [block for block in plan.job.blocks if block.index[-2:] == MODEL])
            for name, variable in plan.template.variables.items():
                if variable.shards is not None:
                    place = variable.dims.index("y")
                    along = range(-(-plan.template.sizes["time"] // config.blocks.days)) if "time" in variable.dims else (0,)
                    for number in along:
                        before = tuple(number if dim == "time" else 0 for dim in variable.dims[:place])
                        link(plan.url, name, before, (0,) * (len(variable.dims) - place - 2), MODEL, shards)
            versions[plan.store] = plan.version
    with root.lease() as lease:
        root.publish(versions, lease)
    return len(shards)


def prepare(folder: Path, count: int, years: int) -> None:
    """Write the archive and the stores, and say how long that took."""
    config = configure(folder / "root", folder / "ismn", years)
    began = time.perf_counter()
    stations = place_stations(count, min(NETWORKS, count))
    files = write_archive(folder / "ismn", stations, days_of(config))
    written = time.perf_counter()
    shards = fill(config, stations)
    print(
        f"{files} files of {days_of(config).size} days in {written - began:.0f} s, stores of {shards} shards in "
        f"{time.perf_counter() - written:.0f} s",
        flush=True,
    )


@dataclass(frozen=True)
class Step:
    """A step of the run: seconds of wall clock, and of processor time of the driver and of the workers together."""

    name: str
    wall: float
    driver: float
    workers: float


class Watch:
    """Times the steps of a run, from outside; memory at the peak of each process is what the kernel keeps of it."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._driver = psutil.Process()
        self._name, self._since = "read stations", self._now()

    def _workers(self) -> list[psutil.Process]:
        return [p for p in self._driver.children(recursive=True) if any("spawn_main" in part for part in p.cmdline())]

    def _now(self) -> tuple[float, float, float]:
        cpu = [sum(p.cpu_times()[:2]) for p in (self._driver, *self._workers())]
        return time.perf_counter(), cpu[0], sum(cpu[1:])

    def next(self, name: str) -> None:
        """What came before has ended; something else begins."""
        now = self._now()
        self.steps.append(Step(self._name, *(b - a for a, b in zip(self._since, now, strict=True))))
        self._name, self._since = name, now

    def peaks(self) -> tuple[float, float]:
        """Most that the driver, and any worker, has held, MiB."""
        found = [_peak(p.pid) for p in (self._driver, *self._workers())]
        return found[0], max(found[1:])


def _peak(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return float("nan")


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the archive and the stores, validate, and print the times."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stations", type=int, default=STATIONS)
    parser.add_argument("--years", type=int, default=10)
    chosen = parser.parse_args(arguments)
    console = Console(width=120)
    folder = Path(tempfile.mkdtemp(prefix="deepprofile-validation-"))
    try:
        # In a process of its own, so that the driver's memory is that of validation.
        preparing = get_context("spawn").Process(target=prepare, args=(folder, chosen.stations, chosen.years))
        preparing.start()
        preparing.join()
        if preparing.exitcode:
            return 1
        config = configure(folder / "root", folder / "ismn", chosen.years)
        with local_pool(config.compute) as pool:
            watch = Watch()
            results = run_stages(config, ("validate",), pool, on_stage=lambda plan: watch.next(plan.stage))
            watch.next("")
            driver, worker = watch.peaks()
        table = Table(title=f"validate, {WORKERS} workers", title_justify="left")
        for name in ("step", "blocks", "wall (s)", "CPU, driver (s)", "CPU, workers (s)"):
            table.add_column(name, justify="left" if name == "step" else "right")
        blocks = {result.stage: str(result.progress.blocks) for result in results}
        for step in watch.steps:
            table.add_row(step.name, blocks.get(step.name, ""), *(f"{s:.0f}" for s in (step.wall, step.driver, step.workers)))
        total = [sum(getattr(step, name) for step in watch.steps) for name in ("wall", "driver", "workers")]
        table.add_row("all", "", *(f"{s:.0f}" for s in total))
        console.print(table)
        console.print(
            f"{total[0] / 60:.1f} minutes, target {TARGET_MINUTES:.0f}; at the peak {driver:.0f} MiB in the driver and "
            f"{worker:.0f} MiB in a worker, target {WORKER_MEMORY}"
        )
        scored = station_coverage(sensors_scored(Published.of(config)))
        console.print("Sensors scored: " + ", ".join(f"{row.sensors} at {row.band}" for row in scored.itertuples()))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
