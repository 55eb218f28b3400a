"""The run of a stage: its template, what is taken over, the engine, its manifest."""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version as package_version
from typing import Any

import zarr

from deepprofile.config import Compute
from deepprofile.execution.blocks import Block, Job, Record
from deepprofile.execution.engine import Progress, Retry, run_job
from deepprofile.execution.ledger import Ledger
from deepprofile.execution.pools import Pool, ThreadPool
from deepprofile.stages.attributes import block_dims
from deepprofile.stages.increments import BlockInputs, day_fingerprints_of
from deepprofile.stages.manifest import DAYS, MANIFEST, PACKAGES, ledger_url, manifest_of, run_url
from deepprofile.stages.plan import StagePlan, StageResult
from deepprofile.storage.conditional_writes import StorageClock
from deepprofile.storage.documents import write_document
from deepprofile.storage.filesystems import join, zarr_store
from deepprofile.storage.lease import CLOCK, Holder
from deepprofile.storage.objects import copy_objects
from deepprofile.storage.stores import (
    Root,
    Template,
    check_writable,
    create,
    exists,
    read_region,
    shard_objects,
    sweep,
)


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


class Watch:
    """Follows the progress of one stage, and passes it on."""

    def __init__(self, job: str, tell: Callable[[Progress], None] | None) -> None:
        self.latest = Progress.nothing(job)
        self._tell = tell

    def __call__(self, progress: Progress) -> None:
        """Keep the progress, and pass it on."""
        self.latest = progress
        if self._tell is not None:
            self._tell(progress)


@dataclass(frozen=True)
class RunWith:
    """What all stages of a run have in common.

    Attributes
    ----------
    pool
        The workers.
    compute
        How often blocks are tried, and how many are under way.
    configuration
        As manifests keep it.
    on_stage
        Is told of every stage that begins, and returns what is told of its progress.
    check
        Called several times a second; raises where the run has to end.
    """

    pool: Pool
    compute: Compute
    configuration: Mapping[str, Any] = field(default_factory=dict)
    on_stage: Callable[[StagePlan], Callable[[Progress], None] | None] | None = None
    check: Callable[[], None] | None = None

    def watch(self, plan: StagePlan) -> Watch:
        """Say that a stage begins."""
        return Watch(plan.job.name, self.on_stage(plan) if self.on_stage is not None else None)

    def run(
        self,
        job: Job,
        ledger: Ledger,
        watch: Watch,
        *,
        window: int | None = None,
        pool: Pool | None = None,
        previous: Mapping[str, Record] | None = None,
    ) -> dict[str, Record]:
        """Run a job, or what is left of it, on these workers or on a pool of its own; see ``run_job``."""
        retry = Retry(self.compute.attempts, storage_seconds=60.0 * self.compute.storage_retry_minutes)
        return run_job(
            job,
            self.pool if pool is None else pool,
            ledger,
            window=self.compute.window if window is None else window,
            retry=retry,
            previous=previous,
            on_progress=watch,
            check=self.check,
        )


def execute(plan: StagePlan, root: Root, run_with: RunWith) -> StageResult:
    """Run a stage, or what is left of it; the new version is complete afterwards, but not yet published."""
    watch = run_with.watch(plan)
    check_writable(root.url)
    create(plan.url, plan.template)
    folder, clock = run_url(root, plan.stage, plan.version), StorageClock(join(root.url, CLOCK))
    before = manifest_of(folder) or {}
    manifest = _manifest(plan, run_with.configuration) | {"started": before.get("started", clock.text())}
    # Each driver that worked on it: what it found done, and what it did.
    holder = Holder.of_this_process()
    drivers = [*before.get("drivers", []), {"run": holder.run, "process": holder.process, "started": clock.text()}]
    manifest["drivers"] = drivers
    write_document(join(folder, MANIFEST), manifest)
    job, previous = plan.job, {}
    current = root.current().get(plan.store)
    if current is not None:
        known = Ledger(ledger_url(root, plan.stage, current)).read()
        job = _with_earlier(plan, root, current, known)
        copy = copier(root, plan.store, current, plan.version, plan.template) if current != plan.version else None
        if copy is not None:
            previous, job = known, replace(job, copy=copy)
    if plan.marks is not None:
        write_document(join(folder, DAYS), {"marks": list(plan.marks.days)})
    began = time.monotonic()
    records = run_with.run(
        job, Ledger(join(folder, "blocks")), watch, pool=ThreadPool(1) if plan.on_driver else None, previous=previous
    )
    problems = sorted({problem for record in records.values() for problem in record.problems})
    if plan.finish is not None:
        problems += plan.finish(records)
    notes = plan.notes(records) if plan.notes is not None else []
    if plan.marks is not None and plan.summary is not None:
        write_document(join(folder, DAYS), {"marks": list(plan.marks.days), **plan.summary(records)})
    sweep(plan.url)
    progress = watch.latest
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


def _with_earlier(plan: StagePlan, root: Root, version: str, previous: Mapping[str, Record]) -> Job:
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


def _manifest(plan: StagePlan, configuration: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of a stage before it runs."""
    return {
        "stage": plan.stage,
        "store": plan.store,
        "version": plan.version,
        "configuration": dict(configuration),
        "inputs": dict(plan.inputs),
        "packages": {name: package_version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
