"""Stages on one thread and on two, each against a program that reads and writes the same and does nothing else.

    python -m benchmarks.stages

Stores lie on the local disk. Ratios are medians of those of paired runs.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from deepprofile.config import Config
from deepprofile.execution.pools import ThreadPool
from deepprofile.grids.grids import EASE2_M09
from deepprofile.stages import collocate, covariances, ingest, invert
from deepprofile.stages.domain import days_of
from deepprofile.stages.execute import RunWith, execute
from deepprofile.stages.ingest import ProductIngest
from deepprofile.stages.plan import StagePlan
from deepprofile.stages.profiles import Profiles
from deepprofile.storage import stores
from deepprofile.storage.roots import Root, part_name
from deepprofile.storage.stores import Template, create, write_shards
from numpy.typing import NDArray

from benchmarks.results import Measurement, median, ratio, side_by_side, timed

START = date(2016, 1, 1)
# A block is a leap year.
DAYS_A_BLOCK, CELLS = 366, 64
# Of the region that is measured: two by two shards of a year.
EDGE, DAYS = 128, 366
PAIRS = 3
# Row and column of the grid at which the region begins.
CORNER = (305, 857)
PRODUCTS = ("smap_l4", "gldas_noah", "era5_land", "smap_l3")


def configure(
    folder: Path, blocks: int, cells: int = CELLS, days: int = DAYS_A_BLOCK, *, memory: str = "past", edge: int | None = None
) -> Config:
    """A region of so many rows and columns and as many days as make these blocks; ``edge``: rows of a block, if not all."""
    end = START + timedelta(days=days * blocks - 1)
    window = EASE2_M09.window(*CORNER, cells, cells)
    lat, lon = window.lat.tolist(), window.lon.tolist()
    return Config.model_validate(
        {
            "root": str(folder),
            "grid": {"name": "ease2_m09", "bbox": [lon[0], lat[-1], lon[-1], lat[0]]},
            "period": {"start": START, "end": end},
            "products": {name: {"granules": "none"} for name in PRODUCTS},
            "blocks": {"days": days, "cells": cells if edge is None else edge},
            "inversion": {"memory": memory},
            "collocation": {"min_samples": 30, "window": 5},
        }
    )


def fill(config: Config) -> dict[str, str]:
    """Analysis-ready stores of a signal with noise, of every year; returns their versions."""
    root = Root(config.root)
    rng = np.random.default_rng(0)
    versions = {}
    for name in config.products:
        for year in ProductIngest.of(config, name).years:
            store = part_name(ingest.store_name(name), year.domain.year)
            versions[store] = "made"
            _fill_year(root.version(store, "made"), ingest.template(year), rng)
    with root.lease() as lease:
        root.publish(versions, lease)
    return versions


def _fill_year(url: str, template: Template, rng: np.random.Generator) -> None:
    create(url, template)
    shape = template.shape("soil_moisture")
    signal = 0.25 + 0.06 * np.sin(np.arange(shape[0]) / 9.0) + 0.02 * rng.standard_normal(shape[0])
    days_a_block, _, cells, _ = template.shard_shape("soil_moisture")
    for start in range(0, shape[0], days_a_block):
        for row in range(0, shape[2], cells):
            for column in range(0, shape[3], cells):
                size = (min(cells, shape[2] - row), min(cells, shape[3] - column))
                part = signal[start : start + days_a_block, None, None, None]
                noise = 0.03 * rng.standard_normal((part.shape[0], shape[1], *size))
                values = np.clip(part + noise, 0.02, 0.5).astype(np.float32)
                write_shards(url, "soil_moisture", (start, 0, row, column), values)


def run(config: Config, versions: dict[str, str], *, threads: int = 2) -> float:
    """Seconds of one run of the ``invert`` stage from nothing."""
    plan = invert.plan(Profiles.of(config), Root(config.root), versions)
    clean(plan, config)
    return timed(lambda: execute(plan, Root(config.root), RunWith(ThreadPool(threads), config.compute))).wall


def clean(plan: StagePlan, config: Config) -> None:
    """Remove what a stage has made."""
    for version in plan.versions:
        for folder in (version.url, f"{config.root}/runs/{plan.stage.replace('/', '-')}-{version.version}"):
            shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Trace:
    """What a stage reads and writes: arrays by URL with regions, in order."""

    reads: list[tuple[str, tuple[slice, ...]]] = field(default_factory=list)
    writes: list[tuple[str, tuple[slice, ...]]] = field(default_factory=list)

    def __enter__(self) -> Trace:
        """Look over the shoulder of the functions that read and write shards."""
        module: Any = stores
        self._before = module.at_the_same_time, module.write_bytes
        together, write = self._before

        def reading(calls: Sequence[Any], *, local: bool = False) -> list[Any]:
            shards = [call for call in calls if getattr(call, "func", None) is module._read_shard]
            if shards:
                url = _array_of(shards[0].args[1])[0]
                self.reads.append((url, _hull([_region(*call.args[:3]) for call in shards])))
            return list(together(calls, local=local))

        def writing(url: str, content: bytes, *, durable: bool = True) -> None:
            if "/c/" in url and not durable:
                array = module._described(*_array_of(url)[0].rsplit("/", 1))
                whole = _region(array, url, tuple(slice(0, size) for size in array.shards))
                cut = (slice(part.start, min(part.stop, n)) for part, n in zip(whole, array.shape, strict=True))
                self.writes.append((_array_of(url)[0], tuple(cut)))
            write(url, content, durable=durable)

        module.at_the_same_time, module.write_bytes = reading, writing
        return self

    def __exit__(self, *_: object) -> None:
        """Leave everything as it was."""
        module: Any = stores
        module.at_the_same_time, module.write_bytes = self._before


def _array_of(url: str) -> tuple[str, tuple[int, ...]]:
    """The array and the place of a shard's object."""
    array, _, place = url.rpartition("/c/")
    return array, tuple(map(int, place.split("/")))


def _region(array: Any, url: str, inside: tuple[slice, ...]) -> tuple[slice, ...]:
    """A region of a shard as one of the array."""
    place = _array_of(url)[1]
    return tuple(
        slice(k * size + part.start, k * size + part.stop) for k, size, part in zip(place, array.shards, inside, strict=True)
    )


def _hull(regions: Sequence[tuple[slice, ...]]) -> tuple[slice, ...]:
    return tuple(slice(min(p.start for p in along), max(p.stop for p in along)) for along in zip(*regions, strict=True))


def floor(plan: StagePlan, trace: Trace) -> Callable[[], None]:
    """A program of zarr and nothing else that reads the same regions and writes the same shards: no code of the stage."""
    (made,) = plan.versions
    copy = f"{made.url}-floor"
    shutil.rmtree(copy, ignore_errors=True)
    create(copy, made.template)
    opened: dict[str, Any] = {url: zarr.open_array(url, mode="r") for url in {url for url, _ in [*trace.reads, *trace.writes]}}
    into: dict[str, Any] = {url: zarr.open_array(url.replace(made.url, copy), mode="r+") for url, _ in trace.writes}
    stored = [(into[url], region, opened[url][region]) for url, region in trace.writes]

    def program() -> None:
        for url, region in trace.reads:
            opened[url][region]
        for array, region, values in stored:
            array[region] = values

    return program


class InMemory:
    """Regions that were read once are at hand, and nothing is written: what is left of a stage is its arithmetic."""

    def __enter__(self) -> InMemory:
        """Stand in for what reads and writes shards."""
        self._known: dict[tuple[str, str, str], NDArray[Any]] = {}
        self._before: list[tuple[Any, str, Any]] = []
        for module in [each for name, each in sys.modules.items() if name.startswith("deepprofile.stages.")]:
            for name, stand_in in (("read_region", self._read), ("write_shards", self._write)):
                if hasattr(module, name):
                    self._before.append((module, name, getattr(module, name)))
                    setattr(module, name, stand_in)
        return self

    def __exit__(self, *_: object) -> None:
        """Leave everything as it was."""
        for module, name, function in self._before:
            setattr(module, name, function)

    def _read(self, url: str, name: str, region: tuple[slice, ...], out: NDArray[Any] | None = None) -> NDArray[Any]:
        key = url, name, repr(region)
        if key not in self._known:
            self._known[key] = stores.read_region(url, name, region)
        if out is None:
            return self._known[key]
        out[...] = self._known[key]
        return out

    def _write(self, _url: str, _name: str, _start: Sequence[int], values: NDArray[Any]) -> int:
        return values.nbytes


def arithmetic(plan: StagePlan) -> Callable[[], None]:
    """All blocks of a stage, one after the other."""

    def program() -> None:
        for version in plan.versions:
            job = version.job
            for block in job.blocks:
                job.compute(block, job.inputs(block) if job.inputs is not None else None)

    return program


def _planned(config: Config) -> list[tuple[str, Callable[[], StagePlan]]]:
    """The stages after the ingest, each planned when those before it are there."""
    root = Root(config.root)
    model, profiles = collocate.ErrorModel.of(config), Profiles.of(config)
    versions = root.current()

    def of(store: str, planner: Callable[[dict[str, str]], StagePlan]) -> tuple[str, Callable[[], StagePlan]]:
        def make() -> StagePlan:
            plan = planner(versions)
            versions.update({version.store: version.version for version in plan.versions})
            return plan

        return store, make

    return [
        of(collocate.MOMENTS_STORE, lambda there: collocate.plan_moments(model, root, there)),
        of(collocate.STORE, lambda there: collocate.plan_weights(model, root, there)),
        of(covariances.STORE, lambda there: covariances.plan(profiles, root, there)),
        of(invert.STORE, lambda there: invert.plan(profiles, root, there)),
    ]


def _size(url: str) -> int:
    return sum(path.stat().st_size for path in Path(url).rglob("*") if path.is_file())


def measure(days: int = DAYS, edge: int = EDGE) -> dict[str, Measurement]:
    """Each stage on one thread and on two, against its floor; and the chain."""
    stages = Measurement(
        f"Stages on {edge} x {edge} cells and {days} days against a zarr program that reads and writes the same, local disk",
        (
            "stage",
            "one thread, CPU / wall (s)",
            "two threads, wall (s)",
            "one / two",
            "zarr alone, CPU / wall (s)",
            "ratio of CPU / wall",
            "arithmetic alone, CPU / wall (s)",
            "CPU against both",
        ),
        note="The floor opens its arrays beforehand, and writes values that it holds already. Arithmetic alone: the same "
        "blocks with all that they read in memory, and nothing written.",
    )
    chain = Measurement(
        "The chain from analysis-ready stores to profiles",
        (
            "memory of the past",
            "profiles",
            "profiles a second of CPU",
            "coefficients (B a profile)",
            "all of the profile store",
        ),
    )
    for memory in ("none", "past"):
        folder = Path(tempfile.mkdtemp(prefix="deepprofile-bench-"))
        try:
            config = configure(folder, -(-days // DAYS_A_BLOCK), edge, memory=memory, edge=CELLS)
            fill(config)
            _measure_one(config, memory, stages, chain)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return {"stages": stages, "chain": chain}


def _measure_one(config: Config, memory: str, stages: Measurement, chain: Measurement) -> None:
    root, cpu = Root(config.root), 0.0
    for store, make in _planned(config):
        plan = make()

        def run_with(threads: int, plan: StagePlan = plan) -> Callable[[], object]:
            def call() -> None:
                clean(plan, config)
                execute(plan, root, RunWith(ThreadPool(threads), config.compute))

            return call

        with Trace() as trace:
            run_with(1)()
        one, two, alone = side_by_side([run_with(1), run_with(2), floor(plan, trace)], PAIRS)
        with InMemory():
            (bare,) = side_by_side([arithmetic(plan)], PAIRS)
        cpu += median(one).cpu
        both = median(one).cpu / (median(alone).cpu + median(bare).cpu)
        faster = ratio(one, two).wall
        name = store if memory == "none" else f"{store}, memory"
        if memory == "none" or store in (covariances.STORE, invert.STORE):
            walls = median(one), f"{median(two).wall:.3g}", f"{faster:.2f}"
            stages.add(name, *walls, median(alone), ratio(one, alone), median(bare), f"{both:.2f}")
    count = int(np.prod(config.grid.grid().shape)) * days_of(config).size
    made = plan.versions[0].url
    chain.add(
        memory,
        f"{count:,}",
        f"{count / cpu:,.0f}",
        f"{_size(f'{made}/coefficients') / count:.2f}",
        f"{_size(made) / count:.2f}",
    )


def main() -> int:
    """Run the benchmark and print its tables."""
    for table in measure().values():
        table.show()
    return 0


if __name__ == "__main__":
    sys.exit(main())
