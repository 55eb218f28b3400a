"""The run of a stage: its template, what is taken over, the engine, its manifest."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from deepprofile.config import Config
from deepprofile.execution.blocks import Block
from deepprofile.execution.engine import Progress, Retry, run_job
from deepprofile.execution.ledger import Ledger
from deepprofile.execution.pools import Pool, ThreadPool
from deepprofile.stages.attributes import block_dims
from deepprofile.stages.increments import with_earlier
from deepprofile.stages.manifest import DAYS, MANIFEST, _manifest, ledger_url, manifest_of, run_url
from deepprofile.stages.plan import StagePlan, StageResult
from deepprofile.storage.conditional_writes import StorageClock
from deepprofile.storage.documents import write_document
from deepprofile.storage.filesystems import join
from deepprofile.storage.lease import CLOCK, Holder
from deepprofile.storage.objects import copy_objects
from deepprofile.storage.stores import (
    Root,
    Template,
    check_writable,
    create,
    exists,
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
