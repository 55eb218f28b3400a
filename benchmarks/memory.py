"""Peak memory of one block of every stage against what the plan says of it.

    python -m benchmarks.memory

Each stage does a small block first, so that libraries are loaded and kernels compiled; then the block that is measured, from
nothing, and, where a stage brings blocks up to date, again with a single day left as it was, which takes most.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from deepprofile.config import Config
from deepprofile.evaluation.stations import Report
from deepprofile.execution.blocks import Block
from deepprofile.execution.pools import WORKER_BASE_BYTES
from deepprofile.stages import collocate, covariances, ingest, invert, matchups, observations, paired, rivals, schemas, validate
from deepprofile.stages.domain import Domain, days_of
from deepprofile.stages.increments import PublishedBlock
from deepprofile.stages.plan import StagePlan, VersionPlan
from deepprofile.stages.profiles import Profiles
from deepprofile.stages.publish import inputs, layers, maps
from deepprofile.stages.publish import schemas as published
from deepprofile.storage.roots import Root, part_name
from deepprofile.storage.stores import Template, create, write_shards
from deepprofile.twin import LAND_MODELS, World
from deepprofile.twin.granules import write_granules

from benchmarks.peak import PeakMemory
from benchmarks.results import Measurement
from benchmarks.stages import CORNER, PRODUCTS, START, configure, fill

# Days in a block of each product, so that all take about as much: those without a granule take as much as others.
INGEST_DAYS = {"smap_l4": 32, "gldas_noah": 192, "era5_land": 32, "smap_l3": 64}
INGEST_CELLS = 512
# A block is a leap year; records are of forty.
CELLS, DAYS, RECORD_DAYS = 64, 366, 14600
SENSORS = schemas.SENSORS_PER_BLOCK
RIVAL = "rival"


@dataclass(frozen=True)
class Measured:
    """A stage: what its plan says a block takes, what it took, and what the process held at the peak; bytes."""

    stage: str
    planned: int
    taken: int
    peak: int

    @property
    def share(self) -> float:
        """The peak of the process, of what the plan says of it: a block, and the worker itself."""
        return self.peak / (self.planned + WORKER_BASE_BYTES)


def measure(small: StagePlan, large: StagePlan, earlier_urls: Sequence[str] = (), kept: slice = slice(1)) -> Iterator[Measured]:
    """A stage's block from nothing; and, with URLs of stores for both plans, one of which some days are kept."""
    for place, plan in enumerate((small.versions[0], large.versions[0])):
        create(plan.url, plan.template)
        first = plan.job.compute, plan.job.blocks[0], _inputs(plan)
        found = [_peak(*first)]
        if earlier_urls:
            details, (start, stop) = first[0](*first[1:]).details, first[1].region[0]
            earlier = PublishedBlock(earlier_urls[place], stop - start, tuple(range(stop - start))[kept], details)
            found.append(_peak(*first[:2], replace(first[2], earlier=earlier)))
    for memory, name in zip(found, (large.stage, f"{large.stage}, again"), strict=False):
        yield Measured(name, large.jobs.workload.memory_per_block, memory.more, memory.peak)


def _inputs(plan: VersionPlan) -> Any:
    return plan.job.inputs(plan.job.blocks[0]) if plan.job.inputs is not None else None


def _peak(compute: Any, block: Block, inputs: Any) -> PeakMemory:
    with PeakMemory() as memory:
        compute(block, inputs)
    return memory


def _world(cells: int, days: int) -> World:
    """A region of noise, of which granules can be written: memory does not depend on what values mean."""
    rng = np.random.default_rng(0)
    time = np.datetime64(START, "D") + np.arange(days)

    def noise(layers: int, size: int) -> xr.DataArray:
        values = rng.uniform(0.1, 0.4, (days, layers, size, size)).astype(np.float32)
        return xr.DataArray(values, dims=("time", "layer", "y", "x"), coords={"time": time})

    native = {name: noise(len(m.reported), -(-cells // m.coarsening)) for name, m in LAND_MODELS.items()}
    products = {"smap_l4": native["smap_l4"], "smap_l3": noise(1, cells)}
    return World(noise(1, cells), products, native, xr.Dataset())


def _ingest(folder: Path) -> Iterator[Measured]:
    write_granules(_world(INGEST_CELLS, 1), folder / "granules", corner=CORNER)
    for name in PRODUCTS:
        plans, urls = [], []
        for label, cells, days in (("small", 32, 2), ("large", INGEST_CELLS, INGEST_DAYS[name])):
            config = configure(folder / label / name, 1, cells=cells, days=days)
            products = {name: {"granules": str(folder / "granules" / name)}}
            changed = {"products": products, "ingest": {"days": days}, "compute": {"memory_limit": "8GiB"}}
            config = Config.model_validate(config.model_dump(mode="json") | changed)
            root = Root(config.root)
            urls += [root.version(store, version) for store, version in fill(config).items()]
            plans.append(ingest.plan(ingest.ProductIngest.of(config, name), root))
        yield from measure(plans[0], plans[1], urls, slice(1, None))


def _found(config: Config) -> observations.Found:
    """Sensors at as many cells, with values on every day."""
    grid, days = config.grid.grid(), days_of(config)
    rng = np.random.default_rng(1)
    values = rng.uniform(0.1, 0.4, (SENSORS, days.size)).astype(np.float32)
    rows, columns = np.arange(SENSORS) % grid.rows, 3 * np.arange(SENSORS) % grid.columns
    text = np.array([f"s{k}" for k in range(SENSORS)])
    numbers = {
        "depth_top": np.full(SENSORS, 0.05),
        "depth_bottom": np.full(SENSORS, 0.05),
        "latitude": grid.lat[rows],
        "longitude": grid.lon[columns],
        "day_offset_hours": np.zeros(SENSORS),
    }
    arrays: dict[str, Any] = {name: ("sensor", value) for name, value in numbers.items()}
    arrays |= dict.fromkeys(("network", "station", "instrument", "climate", "land_cover"), ("sensor", text))
    arrays["soil_moisture"] = (("sensor", "time"), values)
    stations = xr.Dataset(arrays, coords={"time": days.astype("datetime64[ns]")})
    return observations.Found(observations.placed(stations, grid), Report())


def _plan_matchups(config: Config, root: Root, versions: dict[str, str]) -> StagePlan:
    return matchups.plan(matchups.Matchups.of(config), root, versions, _found(config))


_PLANNERS: dict[str, Callable[[Config, Root, dict[str, str]], StagePlan]] = {
    collocate.MOMENTS_STORE: lambda config, *place: collocate.plan_moments(collocate.ErrorModel.of(config), *place),
    collocate.STORE: lambda config, *place: collocate.plan_weights(collocate.ErrorModel.of(config), *place),
    covariances.STORE: lambda config, *place: covariances.plan(Profiles.of(config), *place),
    invert.STORE: lambda config, *place: invert.plan(Profiles.of(config), *place),
    layers.STORE: lambda config, *place: layers.plan(Profiles.of(config), *place),
    matchups.STORE: _plan_matchups,
}


def _later_stages(small: Config, large: Config, measured: Sequence[str]) -> Iterator[Measured]:
    """What follows the ingest up to the last of these stages, each on what the one before has written."""
    versions = [fill(config) for config in (small, large)]
    for store, planner in _PLANNERS.items():
        plans = [planner(config, Root(config.root), of) for config, of in zip((small, large), versions, strict=True)]
        if store in measured:
            again = [plan.versions[0].url for plan in plans] if plans[1].versions[0].marks is not None else []
            yield from measure(plans[0], plans[1], again)
        elif store != matchups.STORE:
            for plan in (each.versions[0] for each in plans):
                create(plan.url, plan.template)
                plan.job.compute(plan.job.blocks[0], _inputs(plan))
        for each, of in zip(plans, versions, strict=True):
            of.update(_versions(each))


def _versions(plan: StagePlan) -> dict[str, str]:
    return {version.store: version.version for version in plan.versions}


def _inputs_of(folder: Path) -> Iterator[Measured]:
    """The inputs of one stretch of days, on more cells than a block has by default."""
    plans = []
    for label, cells in (("few", 32), ("many", 128)):
        config = configure(folder / label, 1, cells=cells, days=32)
        plans.append(inputs.plan(Profiles.of(config), Root(config.root), fill(config)))
    yield from measure(plans[0], plans[1])


def _maps_of(folder: Path) -> Iterator[Measured]:
    """Maps of some days of a region in which all is land, from profiles that are noise."""
    plans = []
    for label, cells in (("small", 64), ("large", 768)):
        config = configure(folder / label, 1, cells=cells, days=8, edge=64)
        root, profiles = Root(config.root), Profiles.of(config)
        (year,) = profiles.domain.years
        names = {store: part_name(store, year.year) for store in (invert.STORE, layers.STORE)}
        made = {
            invert.STORE: invert.template(profiles, year),
            layers.STORE: published.layers(year, np.zeros(8, bool), 8, profiles.model.comparison.products),
        }
        rng = np.random.default_rng(4)
        for store, array in ((invert.STORE, "coefficients"), (layers.STORE, "root_zone_standard_deviation")):
            url = root.version(names[store], "made")
            create(url, made[store])
            values = rng.uniform(0.01, 0.05, made[store].shape(array)).astype(np.float32)
            write_shards(url, array, (0,) * values.ndim, values)
        plans.append(maps.plan(profiles, root, {**dict.fromkeys(names.values(), "made"), covariances.STORE: "made"}))
    yield from measure(plans[0], plans[1])


def _scores(folder: Path) -> Iterator[Measured]:
    """Differences, scores, and scores beside a rival, of a long record, from matchups that are noise."""
    plans: list[list[StagePlan]] = [[], [], []]
    for label, days in (("short", 64), ("long", RECORD_DAYS)):
        config = configure(folder / label, 1, cells=32, days=64)
        period = {"start": START, "end": START + timedelta(days=days - 1)}
        config = Config.model_validate(config.model_dump(mode="json") | {"period": period} | _beside(folder))
        found, root = _found(config), Root(config.root)
        task, domain = matchups.Matchups.of(config), Domain.of(config)
        # Some sensors after the others: as many as are in memory at a time tell.
        few = observations.Found(found.stations.isel(sensor=slice(0, schemas.SENSORS_PER_CHUNK)), found.report)
        measured = observations.plan(domain, root, found)
        for version in measured.versions:
            create(version.url, version.template)
            for block in version.job.blocks:
                version.job.compute(block, None)
        versions = _versions(measured)
        settings = rivals.RivalSettings.of(config, RIVAL)
        for year, theirs in zip(domain.years, settings.years, strict=True):
            made = matchups.template(task, year, found.stations)
            url = _noise(root, matchups.STORE, year, made, versions)
            write_shards(url, "standard_deviation", (0, 0), np.full(made.shape("standard_deviation"), 0.05, np.float32))
            _noise(root, rivals.store_name(RIVAL), year, rivals.template(theirs, few.stations), versions)
        differences = validate.plan_differences(domain, root, versions, found)
        create(differences.versions[0].url, differences.versions[0].template)
        versions |= _versions(differences)
        plans[0].append(differences)
        plans[1].append(validate.plan(domain, task.estimates, root, versions, found))
        plans[2].append(paired.plan(domain, config.rivals, root, versions, few))
    for small, large in plans:
        yield from measure(small, large)


def _noise(root: Root, store: str, year: Domain, template: Template, versions: dict[str, str]) -> str:
    """A year of a store along sensors that holds nothing but noise; returns its URL."""
    name = part_name(store, year.year)
    versions[name] = "made"
    url = root.version(name, "made")
    create(url, template)
    values = np.random.default_rng(2).uniform(0.1, 0.4, template.shape("soil_moisture")).astype(np.float32)
    write_shards(url, "soil_moisture", (0, 0, 0), values)
    return url


def _beside(folder: Path) -> dict[str, Any]:
    """The settings of a rival with three layers."""
    variables = {"a": [0.0, 0.1], "b": [0.1, 0.4], "c": [0.4, 1.0]}
    return {
        "rivals": {RIVAL: {"path": str(folder), "variables": variables, "steps_per_day": 2}},
        "stations": [{"kind": "ismn", "path": str(folder)}],
    }


def _rival(folder: Path) -> Iterator[Measured]:
    """A rival on the whole globe, a quarter of a degree, with two steps of a day in a chunk, at sensors all over it."""
    folder.mkdir()
    lat, lon, rng = np.arange(89.875, -90.0, -0.25), np.arange(-179.875, 180.0, 0.25), np.random.default_rng(3)
    values = rng.uniform(0.1, 0.4, (2, lat.size, lon.size)).astype(np.float32)
    data = xr.Dataset(
        {name: (("time", "lat", "lon"), values, {"units": "m3 m-3"}) for name in "abc"},
        {"time": [np.datetime64(START, "ns"), np.datetime64(START, "ns") + np.timedelta64(12, "h")], "lat": lat, "lon": lon},
    )
    chunks = {name: {"chunksizes": values.shape} for name in "abc"}
    data.to_netcdf(folder / f"rival-{START:%Y%m%d}.nc", engine="h5netcdf", encoding=chunks)
    plans: list[StagePlan] = []
    for label in ("first", "second"):
        config = configure(folder.parent / f"root-{label}", 1, cells=32, days=64)
        config = Config.model_validate(config.model_dump(mode="json") | _beside(folder))
        found = _found(config)
        places = {"latitude": rng.uniform(-60.0, 70.0, SENSORS), "longitude": rng.uniform(-180.0, 180.0, SENSORS)}
        stations = found.stations.assign_coords({name: ("sensor", where) for name, where in places.items()})
        plans.append(
            rivals.plan(rivals.RivalSettings.of(config, RIVAL), Root(config.root), observations.Found(stations, found.report))
        )
    yield from measure(plans[0], plans[1])


def _large_blocks(folder: Path) -> Iterator[Measured]:
    yield from _ingest(folder / "ingest")
    # Several stretches of days: moments are merged.
    small, wide = configure(folder / "small", 1, cells=32, days=32), configure(folder / "wide", 1, cells=CELLS, days=DAYS)
    measured = (collocate.MOMENTS_STORE, collocate.STORE, covariances.STORE, invert.STORE, layers.STORE)
    yield from _later_stages(small, wide, measured)
    yield from _inputs_of(folder / "inputs")
    yield from _maps_of(folder / "maps")


def _long_records(folder: Path) -> Iterator[Measured]:
    short, long = configure(folder / "short", 1, cells=32, days=32), configure(folder / "long", 1, cells=32, days=DAYS)
    yield from _later_stages(short, long, (matchups.STORE,))
    yield from _scores(folder / "scores")
    yield from _rival(folder / "rival")


PARTS = {"large-blocks": _large_blocks, "long-records": _long_records}


def measure_all() -> list[Measured]:
    """Every stage; what takes much memory and what takes little in a process of its own each."""
    found = []
    for part in PARTS:
        command = [sys.executable, "-m", "benchmarks.memory", "--part", part]
        env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        done = subprocess.run(command, env=env, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, check=True, text=True)
        found += [Measured(**each) for each in json.loads(done.stdout.splitlines()[-1])]
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a table, or JSON of a part of the stages."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", choices=list(PARTS), help="some of the stages, as JSON")
    chosen = parser.parse_args(arguments)
    if chosen.part is not None:
        with tempfile.TemporaryDirectory(prefix="deepprofile-memory-") as folder:
            print(json.dumps([asdict(each) for each in PARTS[chosen.part](Path(folder))]))
        return 0
    for table in measurement().values():
        table.show()
    return 0


def measurement() -> dict[str, Measurement]:
    """The table of all stages."""
    table = Measurement(
        "Memory of a block (MiB)", ("stage", "planned", "taken", "taken / planned", "process", "process / plan")
    )
    for each in measure_all():
        sizes = [f"{size / 2**20:.0f}" for size in (each.planned, each.taken)]
        table.add(each.stage, *sizes, f"{each.taken / each.planned:.2f}", f"{each.peak / 2**20:.0f}", f"{each.share:.2f}")
    return {"memory": table}


if __name__ == "__main__":
    sys.exit(main())
