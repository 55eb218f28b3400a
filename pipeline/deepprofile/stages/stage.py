"""What all stages share: a plan, its run on the engine, and the manifest."""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.metadata import version as package_version
from typing import Any, Final

import numpy as np
import zarr
from numpy.typing import NDArray

from deepprofile.config import Config
from deepprofile.execution.blocks import FAILED, Block, Job, Record
from deepprofile.execution.engine import Progress, Retry, run_job
from deepprofile.execution.ledger import Ledger
from deepprofile.execution.pools import Pool, ThreadPool
from deepprofile.grids.grids import Grid
from deepprofile.grids.regridding import Overlap, overlaps, regrid
from deepprofile.storage.conditional_writes import StorageClock
from deepprofile.storage.documents import Kinds, read_sound, write_document
from deepprofile.storage.filesystems import join, zarr_store
from deepprofile.storage.fingerprints import fingerprint
from deepprofile.storage.lease import CLOCK, Holder
from deepprofile.storage.objects import copy_objects
from deepprofile.storage.stores import (
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
MANIFEST: Final = "manifest.json"
# Beside a manifest: what the days of the store depend on.
DAYS: Final = "days.json"
_MANIFEST: Final[Mapping[str, Kinds]] = {"stage": str, "store": str, "version": str, "started": str, "inputs": dict}
_DAYS: Final[Mapping[str, Kinds]] = {"marks": list}
PACKAGES: Final = ("deepprofile", "numpy", "xarray", "zarr", "numba", "dask", "distributed")


class PlanError(Exception):
    """A plan that cannot be carried out; the message says what to change."""


@dataclass(frozen=True)
class PublishedBlock:
    """The published version of a block: its store, and which of the block's days are there as they would be computed now.

    ``length``: days of that store. ``details``: those of its record.
    """

    url: str
    length: int
    unchanged: tuple[int, ...]
    details: Mapping[str, Any]


@dataclass(frozen=True)
class BlockInputs:
    """What a block of a store along time is told: its own inputs, and what it can begin from."""

    inputs: Any = None
    earlier: PublishedBlock | None = None

    def fresh(self, count: int) -> list[int]:
        """Which of so many days have to be computed."""
        kept = set(self.earlier.unchanged) if self.earlier is not None else set()
        return [k for k in range(count) if k not in kept]


@dataclass(frozen=True)
class DayFingerprints:
    """What the bytes of a store along time depend on.

    ``days``: a mark for each day, the same in all blocks. ``static_fingerprint``: of a block, all that its days have in common.
    """

    days: tuple[str, ...]
    static_fingerprint: Callable[[Block], str]

    def fingerprint(self, block: Block) -> str:
        """Of everything that the bytes of a block depend on."""
        return fingerprint(self.static_fingerprint(block), block.region[0], self.days[slice(*block.region[0])])

    def earlier(self, block: Block, url: str, before: Sequence[str], old: Record | None) -> PublishedBlock | None:
        """What of a block can be taken from another version, whose days have the marks ``before``.

        Days of which an input could not be used are tried again.
        """
        start, stop = block.region[0]
        if old is None or old.status == FAILED or start >= len(before):
            return None
        same: tuple[int, ...] = ()
        if old.static_fingerprint == self.static_fingerprint(block):
            again = set(old.details.get("broken", ()))
            shared = range(start, min(stop, len(before)))
            same = tuple(d - start for d in shared if self.days[d] == before[d] and d - start not in again)
        return PublishedBlock(url, len(before), same, old.details)


def spans(places: Sequence[int]) -> list[tuple[int, int]]:
    """Stretches of places that follow one another, each as (first, after the last)."""
    found: list[tuple[int, int]] = []
    for place in places:
        if found and found[-1][1] == place:
            found[-1] = found[-1][0], place + 1
        else:
            found.append((place, place + 1))
    return found


@dataclass(frozen=True)
class StagePlan:
    """A stage that is ready to run.

    ``url`` is that of the version of the store that it makes. ``finish`` is given the record of every block when all are done;
    it returns sentences about inputs that were missing. ``notes`` returns, in the same way, what a user should know although
    nothing is missing: it changes no exit code. ``marks``: of a store along time, of which a block can be brought up to date
    day by day; its blocks are given ``BlockInputs``. ``summary``: what is to be remembered of the days. ``at_hand``: its
    blocks are done by the driver, which alone holds what they are made of.
    """

    stage: str
    store: str
    version: str
    template: Template
    job: Job
    url: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    finish: Callable[[Mapping[str, Record]], list[str]] | None = None
    marks: DayFingerprints | None = None
    summary: Callable[[Mapping[str, Record]], Mapping[str, Any]] | None = None
    notes: Callable[[Mapping[str, Record]], list[str]] | None = None
    at_hand: bool = False


@dataclass(frozen=True)
class StageResult:
    """What a stage has done; ``records``: of every block. ``problems`` and ``notes``: see ``StagePlan``."""

    stage: str
    store: str
    version: str
    progress: Progress
    problems: tuple[str, ...]
    records: Mapping[str, Record] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


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

    def read_cells(
        self, target: Grid, days: tuple[int, int], cells: NDArray[np.int64], shard_cells: int
    ) -> tuple[NDArray[np.float32], int]:
        """Soil moisture at some (row, column) of the target grid, in one pass over the shards that hold them.

        ``shard_cells``: rows, and columns, in a shard of the store.

        Returns
        -------
        float32 (day, layer, cell), each the same as ``read`` gives for that cell alone; and the bytes that were read.
        """
        y, x = cached_overlaps(self.grid, target)
        found, read = np.full((days[1] - days[0], len(self.layers), len(cells)), np.nan, np.float32), 0
        shards: dict[tuple[int, int], list[tuple[int, Overlap, Overlap]]] = {}
        for k, (row, column) in enumerate(cells.tolist()):
            own_y, own_x = y.part(row, row + 1, 0), x.part(column, column + 1, 0)
            (top, bottom), (left, right) = own_y.needed, own_x.needed
            if bottom and right:
                shards.setdefault((top // shard_cells, left // shard_cells), []).append((k, own_y, own_x))
        for met in shards.values():
            needed = np.array([(own_y.needed, own_x.needed) for _, own_y, own_x in met])
            top, left = needed[:, :, 0].min(axis=0).tolist()
            bottom, right = needed[:, :, 1].max(axis=0).tolist()
            values = read_region(self.url, "soil_moisture", (slice(*days), slice(None), slice(top, bottom), slice(left, right)))
            read += values.nbytes
            for k, own_y, own_x in met:
                rows, columns = (slice(*own.needed) for own in (own_y, own_x))
                near = values[:, :, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
                found[:, :, k] = regrid(near, own_y.part(0, 1, rows.start), own_x.part(0, 1, columns.start))[:, :, 0, 0]
        return found, read


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


def run_url(root: Root, stage: str, version: str) -> str:
    """Where a stage's manifest and records are kept."""
    return join(root.url, "runs", f"{stage.replace('/', '-')}-{version}")


def ledger_url(root: Root, stage: str, version: str) -> str:
    """Where the records of a stage's blocks are kept."""
    return join(run_url(root, stage, version), "blocks")


def manifest_of(folder: str) -> dict[str, Any] | None:
    """The manifest in a run's folder; None where there is none, or a damaged one, which is said in the log.

    Raises
    ------
    deepprofile.storage.documents.NewerDocumentError
        Where a newer version of this software has written it.
    """
    return read_sound(join(folder, MANIFEST), _MANIFEST)


def days_document(root: Root, stage: str, version: str) -> dict[str, Any] | None:
    """What is known of the days of a version: their marks, and what its stage has to say of them.

    Raises
    ------
    deepprofile.storage.documents.NewerDocumentError
        Where a newer version of this software has written it.
    """
    return read_sound(join(run_url(root, stage, version), DAYS), _DAYS)


def day_fingerprints_of(root: Root, stage: str, version: str) -> tuple[str, ...]:
    """The marks of the days of a version; none where it was made before there were any."""
    return tuple((days_document(root, stage, version) or {}).get("marks", ()))


def with_earlier(plan: StagePlan, root: Root, version: str, previous: Mapping[str, Record]) -> Job:
    """The job of a plan whose blocks begin from what a published version holds."""
    marks, job, url = plan.marks, plan.job, root.version(plan.store, version)
    before = day_fingerprints_of(root, plan.stage, version)
    if marks is None or not before or not _lies_alike(url, plan.template):
        return job

    def inputs(block: Block) -> BlockInputs:
        given = job.inputs(block) if job.inputs is not None else BlockInputs()
        return replace(given, earlier=marks.earlier(block, url, before, previous.get(block.name)))

    return replace(job, inputs=inputs)


def _lies_alike(url: str, template: Template) -> bool:
    """Whether a store has its blocks where the template has them."""
    if not exists(url):
        return False
    group = zarr.open_group(zarr_store(url), mode="r")
    if any(group.attrs.get(key) != template.attrs[key] for key in ("grid", "grid_window")):
        return False
    first = template.variables["time"].values
    assert first is not None
    if int(read_region(url, "time", (slice(1),))[0]) != int(first[0]):
        return False
    for name, variable in template.variables.items():
        if variable.shards is not None:
            array = group.get(name)
            if array is None or tuple(getattr(array, "shards", ()) or ()) != variable.shards:
                return False
    return True


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
    folder, clock = run_url(root, plan.stage, plan.version), StorageClock(join(root.url, CLOCK))
    before = manifest_of(folder) or {}
    manifest = _manifest(plan, config) | {"started": before.get("started", clock.text())}
    # Each driver that worked on it: what it found done, and what it did.
    holder = Holder.of_this_process()
    drivers = [*before.get("drivers", []), {"run": holder.run, "process": holder.process, "started": clock.text()}]
    manifest["drivers"] = drivers
    write_document(join(folder, MANIFEST), manifest)
    latest: list[Progress] = []

    def remember(progress: Progress) -> None:
        latest[:] = [progress]
        if on_progress is not None:
            on_progress(progress)

    job, previous = plan.job, {}
    current = root.current().get(plan.store)
    if current is not None:
        known = Ledger(ledger_url(root, plan.stage, current)).read()
        job = with_earlier(plan, root, current, known)
        copy = copier(root, plan.store, current, plan.version, plan.template) if current != plan.version else None
        if copy is not None:
            previous, job = known, replace(job, copy=copy)
    if plan.marks is not None:
        write_document(join(folder, DAYS), {"marks": list(plan.marks.days)})
    began = time.monotonic()
    records = run_job(
        job,
        ThreadPool(1) if plan.at_hand else pool,
        Ledger(join(folder, "blocks")),
        window=config.compute.window,
        retry=Retry(config.compute.attempts, storage_seconds=60.0 * config.compute.storage_retry_minutes),
        previous=previous,
        on_progress=remember,
        check=check,
    )
    problems = sorted({problem for record in records.values() for problem in record.problems})
    if plan.finish is not None:
        problems += plan.finish(records)
    notes = plan.notes(records) if plan.notes is not None else []
    if plan.marks is not None and plan.summary is not None:
        write_document(join(folder, DAYS), {"marks": list(plan.marks.days), **plan.summary(records)})
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
    drivers[-1] |= {"ended": clock.text(), **counts}
    losses: Counter[str] = Counter()
    for record in records.values():
        losses.update(record.losses)
    manifest |= {
        "ended": clock.text(),
        "seconds": round(time.monotonic() - began, 3),
        "blocks": counts,
        "losses": dict(losses),
        "storage_retries": sum(record.storage_retries for record in records.values()),
        "bytes_read": progress.bytes_read,
        "bytes_written": progress.bytes_written,
        "problems": problems,
        "notes": notes,
    }
    write_document(join(folder, MANIFEST), manifest)
    return StageResult(plan.stage, plan.store, plan.version, progress, tuple(problems), records, tuple(notes))


def _manifest(plan: StagePlan, config: Config) -> dict[str, Any]:
    return {
        "stage": plan.stage,
        "store": plan.store,
        "version": plan.version,
        "configuration": config.model_dump(mode="json"),
        "inputs": dict(plan.inputs),
        "packages": {name: package_version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
