"""What all stages share: a plan, its run on the engine, and the manifest."""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import version as package_version
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepprofile.config import Config
from deepprofile.engine import Block, Job, Ledger, Pool, Progress, Record, Retry, run_job
from deepprofile.grids import Grid, Overlap, overlaps, regrid
from deepprofile.lease import Holder
from deepprofile.objects import copy_objects, join, read_json, write_json
from deepprofile.stores import (
    Root,
    StoreError,
    Template,
    Variable,
    check_writable,
    create,
    exists,
    read_region,
    shard_objects,
    sweep,
)

CF_CALENDAR: Final = "proleptic_gregorian"
PACKAGES: Final = ("deepprofile", "numpy", "xarray", "zarr", "numba", "dask", "distributed")
# What an interpreter with all libraries needs before it computes anything.
WORKER_BASE_BYTES: Final = 300 * 2**20


class PlanError(Exception):
    """A plan that cannot be carried out; the message says what to change."""


@dataclass(frozen=True)
class StagePlan:
    """A stage that is ready to run.

    ``url`` is that of the version of the store that it makes. ``finish`` is given the record of every block when all are done;
    it returns sentences about inputs that were missing.
    """

    stage: str
    store: str
    version: str
    template: Template
    job: Job
    url: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    finish: Callable[[Mapping[str, Record]], list[str]] | None = None


@dataclass(frozen=True)
class StageResult:
    """What a stage has done."""

    stage: str
    store: str
    version: str
    progress: Progress
    problems: tuple[str, ...]


def days_of(config: Config) -> NDArray[np.datetime64]:
    """The days of the configured period, ``datetime64[D]``."""
    return np.arange(np.datetime64(config.period.start, "D"), np.datetime64(config.period.end, "D") + np.timedelta64(1, "D"))


def space_time_coordinates(grid: Grid, days: NDArray[np.datetime64] | None) -> dict[str, Variable]:
    """Coordinates of a store on a grid, with what CF says of them."""
    projected = grid.crs == "EPSG:6933"
    unit = "m" if projected else "degrees"
    found = {
        "y": Variable(("y",), "float64", values=grid.y, attrs={"units": unit, "axis": "Y"}),
        "x": Variable(("x",), "float64", values=grid.x, attrs={"units": unit, "axis": "X"}),
        "lat": Variable(("y",), "float64", values=grid.lat, attrs={"units": "degrees_north", "standard_name": "latitude"}),
        "lon": Variable(("x",), "float64", values=grid.lon, attrs={"units": "degrees_east", "standard_name": "longitude"}),
    }
    if days is not None:
        found["time"] = Variable(
            ("time",),
            "int64",
            values=days.astype("datetime64[D]").astype(np.int64),
            attrs={"units": "days since 1970-01-01", "calendar": CF_CALENDAR, "axis": "T", "standard_name": "time"},
        )
    return found


def grid_attributes(grid: Grid) -> dict[str, Any]:
    """Attributes that place a store on the earth."""
    return {
        "grid": grid.name,
        "crs": grid.crs,
        "grid_window": [grid.first_row, grid.first_column, grid.rows, grid.columns],
        "Conventions": "CF-1.11",
    }


@lru_cache(maxsize=16)
def cached_overlaps(source: Grid, target: Grid) -> tuple[Overlap, Overlap]:
    """Overlaps of two grids; a worker makes them once."""
    return overlaps(source, target)


@dataclass(frozen=True)
class Source:
    """An analysis-ready store as a stage reads it: its URL, the grid that it lies on, and its layers (top, bottom; m)."""

    name: str
    url: str
    grid: Grid
    layers: tuple[tuple[float, float], ...]

    def read(self, target: Grid, days: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]) -> NDArray[np.float32]:
        """Soil moisture on part of the target grid, float32 (day, layer, row, column), regridded on the fly."""
        y, x = cached_overlaps(self.grid, target)
        part_y, part_x = y.part(*rows, 0), x.part(*columns, 0)
        (top, bottom), (left, right) = part_y.needed, part_x.needed
        region = (slice(*days), slice(None), slice(top, bottom), slice(left, right))
        values = read_region(self.url, "soil_moisture", region)
        return regrid(values, y.part(*rows, top), x.part(*columns, left))


def copier(root: Root, plan_store: str, old: str, new: str, template: Template) -> Callable[[Block], None] | None:
    """Takes a block's shards over from another version, where that one has the same arrays."""
    source, target = root.version(plan_store, old), root.version(plan_store, new)
    sharded = {name: v for name, v in template.variables.items() if v.shards is not None}

    def copy(block: Block) -> None:
        dims = block_dims(template, block)
        spans = dict(zip(dims, block.region, strict=True))
        for name, variable in sharded.items():
            assert variable.shards is not None
            # An array that lacks a dimension of the blocks belongs to the first block along it, which alone writes it.
            if any(place for dim, place in zip(dims, block.index, strict=True) if dim not in variable.dims):
                continue
            region = [spans.get(dim, (0, template.sizes[dim])) for dim in variable.dims]
            start, shape = [low for low, _ in region], [high - low for low, high in region]
            copy_objects(source, target, list(shard_objects(name, start, shape, variable.shards)))

    return copy if exists(source) else None


def block_dims(template: Template, block: Block) -> tuple[str, ...]:
    """Dimensions that a block's region runs along: time, y and x, or y and x, or what the store has instead."""
    dims = template.attrs.get("block_dims")
    assert isinstance(dims, (list, tuple))
    if len(dims) != len(block.region):
        raise StoreError(f"block {block.name} has a region of {len(block.region)} dimensions, its store has {list(dims)}")
    return tuple(dims)


def ledger_url(root: Root, stage: str, version: str) -> str:
    """Where the records of a stage's blocks are kept."""
    return join(root.url, "runs", f"{stage.replace('/', '-')}-{version}", "blocks")


def execute(
    plan: StagePlan,
    root: Root,
    config: Config,
    pool: Pool,
    on_progress: Callable[[Progress], None] | None = None,
    check: Callable[[], None] | None = None,
) -> StageResult:
    """Run a stage, or what is left of it; the new version is complete afterwards, but not yet published.

    ``check`` is called several times a second, and raises where the run has to end.
    """
    check_writable(root.url)
    create(plan.url, plan.template)
    run_url = join(root.url, "runs", f"{plan.stage.replace('/', '-')}-{plan.version}")
    manifest = _manifest(plan, config)
    before = read_json(join(run_url, "manifest.json")) or {}
    manifest["started"] = before.get("started", manifest["started"])
    # Each driver that worked on it: what it found done, and what it did.
    holder = Holder.of_this_process()
    drivers = [*before.get("drivers", []), {"run": holder.run, "process": holder.process, "started": _now()}]
    manifest["drivers"] = drivers
    write_json(join(run_url, "manifest.json"), manifest)
    latest: list[Progress] = []

    def remember(progress: Progress) -> None:
        latest[:] = [progress]
        if on_progress is not None:
            on_progress(progress)

    job, previous = plan.job, {}
    current = root.current().get(plan.store)
    if current is not None and current != plan.version:
        copy = copier(root, plan.store, current, plan.version, plan.template)
        if copy is not None:
            previous = Ledger(ledger_url(root, plan.stage, current)).read()
            job = Job(**{**vars(job), "copy": copy})
    began = time.monotonic()
    records = run_job(
        job,
        pool,
        Ledger(join(run_url, "blocks")),
        window=config.compute.window,
        retry=Retry(config.compute.attempts, storage_seconds=60.0 * config.compute.storage_retry_minutes),
        previous=previous,
        on_progress=remember,
        check=check,
    )
    problems = sorted({problem for record in records.values() for problem in record.problems})
    if plan.finish is not None:
        problems += plan.finish(records)
    sweep(plan.url)
    progress = latest[-1]
    counts = {
        "total": progress.blocks,
        "done": progress.done,
        "skipped": progress.skipped,
        "copied": progress.copied,
        "incomplete": progress.incomplete,
        "retried": progress.retried,
    }
    drivers[-1] |= {"ended": _now(), **counts}
    losses: Counter[str] = Counter()
    for record in records.values():
        losses.update(record.losses)
    manifest |= {
        "ended": _now(),
        "seconds": round(time.monotonic() - began, 3),
        "blocks": counts,
        "losses": dict(losses),
        "storage_retries": sum(record.storage_retries for record in records.values()),
        "bytes_read": progress.bytes_read,
        "bytes_written": progress.bytes_written,
        "problems": problems,
    }
    write_json(join(run_url, "manifest.json"), manifest)
    return StageResult(plan.stage, plan.store, plan.version, progress, tuple(problems))


def _manifest(plan: StagePlan, config: Config) -> dict[str, Any]:
    return {
        "stage": plan.stage,
        "store": plan.store,
        "version": plan.version,
        "started": _now(),
        "configuration": config.model_dump(mode="json"),
        "inputs": dict(plan.inputs),
        "packages": {name: package_version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
