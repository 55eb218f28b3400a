"""The run of a stage: templates, what is taken over, the engine, manifests."""

from __future__ import annotations

import json
import platform
import time
from collections import ChainMap, Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from importlib.metadata import version as package_version
from typing import Any

import zarr

from deepprofile.config import Compute
from deepprofile.execution.blocks import COPIED, DONE, INCOMPLETE, Block, Job, Jobs, Record
from deepprofile.execution.engine import READS, Progress, Retry, run_jobs
from deepprofile.execution.ledger import Ledger
from deepprofile.execution.pools import Pool, ThreadPool
from deepprofile.stages.attributes import block_dims
from deepprofile.stages.increments import BlockInputs, day_fingerprints_of
from deepprofile.stages.manifest import DAYS, MANIFEST, PACKAGES, ledger_url, manifest_of, run_url
from deepprofile.stages.plan import StagePlan, StageResult, VersionPlan
from deepprofile.storage.conditional_writes import StorageClock
from deepprofile.storage.documents import write_document
from deepprofile.storage.filesystems import join, zarr_store
from deepprofile.storage.fingerprints import fingerprint
from deepprofile.storage.lease import CLOCK, Holder
from deepprofile.storage.objects import as_json, copy_objects
from deepprofile.storage.roots import Root, check_writable
from deepprofile.storage.stores import Template, create, exists, object_sizes, read_region, shard_objects, sweep


def copier(root: Root, plan_store: str, old: str, new: str, template: Template) -> Callable[[Block], None] | None:
    """Takes a block's shards over from another version, where that one has the same arrays."""
    source, target = root.version(plan_store, old), root.version(plan_store, new)
    written = {name: v for name, v in template.variables.items() if v.objects is not None}

    def copy(block: Block) -> None:
        dims = block_dims(template, block)
        spans = dict(zip(dims, block.region, strict=True))
        for name, variable in written.items():
            assert variable.objects is not None
            # An array that lacks a dimension of the blocks belongs to the first block along it, which alone writes it.
            if any(place for dim, place in zip(dims, block.index, strict=True) if dim not in variable.dims):
                continue
            region = [spans.get(dim, (0, size)) for dim, size in zip(variable.dims, template.shape(name), strict=True)]
            start, shape = [low for low, _ in region], [high - low for low, high in region]
            copy_objects(source, target, list(shard_objects(name, start, shape, variable.objects, variable.separator)))

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
        return Watch(plan.name, self.on_stage(plan) if self.on_stage is not None else None)

    def run(
        self,
        jobs: Jobs,
        ledgers: Mapping[str, Ledger],
        watch: Watch,
        *,
        window: int | None = None,
        pool: Pool | None = None,
        previous: Mapping[str, Record] | None = None,
    ) -> dict[str, Record]:
        """Run jobs, or what is left of them, on these workers or on a pool of their own; see ``run_jobs``."""
        retry = Retry(self.compute.attempts, storage_seconds=60.0 * self.compute.storage_retry_minutes)
        return run_jobs(
            jobs,
            self.pool if pool is None else pool,
            ledgers,
            window=self.compute.window if window is None else window,
            retry=retry,
            previous=previous,
            on_progress=watch,
            check=self.check,
        )


def execute(plan: StagePlan, root: Root, run_with: RunWith) -> StageResult:
    """Run a stage, or what is left of it; the new versions are complete afterwards, but not yet published.

    Of a year of which nothing has changed, nothing is written.
    """
    watch = run_with.watch(plan)
    check_writable(root.url)
    current = root.current()
    with ThreadPoolExecutor(READS) as threads:
        made = list(threads.map(lambda version: _Making.of(plan, version, root, current, run_with), plan.versions))
    by_part = {each.plan.part: each for each in made}
    for each in made:
        if each.is_new:
            each.begin()
    began = time.monotonic()
    jobs = Jobs.of({part: each.job for part, each in by_part.items()}, plan.order)
    records = run_with.run(
        replace(jobs, begin=lambda part: by_part[part].begin()),
        {part: Ledger(join(each.folder, "blocks")) for part, each in by_part.items()},
        watch,
        pool=ThreadPool(1) if plan.on_driver else None,
        previous=dict(ChainMap(*(dict(each.previous) for each in made))),
    )
    seconds = time.monotonic() - began
    notes = plan.notes(records) if plan.notes is not None else []
    problems: list[str] = []
    for each in made:
        own = {block.name: records[block.name] for block in each.job.blocks}
        said = sorted({problem for record in own.values() for problem in record.problems})
        said += each.plan.finish(own) if each.plan.finish is not None else []
        each.end(own, said, notes if each is made[-1] else [], seconds)
        problems += said
    versions = {version.store: version.version for version in plan.versions}
    return StageResult(plan.stage, plan.store, versions, watch.latest, tuple(problems), records, tuple(notes))


class _Making:
    """A version while it is made: what it begins from, and what is written down of it."""

    def __init__(
        self,
        stage: str,
        plan: VersionPlan,
        root: Root,
        run_with: RunWith,
        job: Job,
        previous: Mapping[str, Record],
        *,
        new: bool,
    ) -> None:
        self.plan, self.job, self.previous = plan, job, previous
        self.folder = run_url(root, stage, plan.version)
        # Whether it has to be made whatever becomes of its blocks.
        self.is_new = new
        self._stage, self._root, self._run_with = stage, root, run_with
        self._manifest: dict[str, Any] | None = None
        # Records that were there when it was begun.
        self._found: Mapping[str, Record] = {}

    @classmethod
    def of(cls, stage: StagePlan, plan: VersionPlan, root: Root, current: Mapping[str, str], run_with: RunWith) -> _Making:
        """Of a plan, given what is published."""
        job, previous, published = plan.job, {}, current.get(plan.store)
        if published is not None:
            known = Ledger(ledger_url(root, stage.stage, published)).read()
            job = _with_earlier(stage.stage, plan, root, published, known)
            copy = copier(root, plan.store, published, plan.version, plan.template) if published != plan.version else None
            if copy is not None:
                previous, job = known, replace(job, copy=copy)
        new = published != plan.version or not exists(plan.url) or not _is_described(root, stage.stage, plan)
        return cls(stage.stage, plan, root, run_with, job, previous, new=new)

    def begin(self) -> None:
        """Make the store and its manifest, once."""
        if self._manifest is not None:
            return
        plan, clock = self.plan, StorageClock(join(self._root.url, CLOCK))
        create(plan.url, plan.template)
        before = manifest_of(self.folder) or {}
        self._manifest = new_manifest(self._stage, plan, self._run_with.configuration)
        self._manifest["started"] = before.get("started", clock.text())
        # Each driver that worked on it: what it found done, and what it did.
        holder = Holder.of_this_process()
        driver = {"run": holder.run, "process": holder.process, "started": clock.text()}
        self._manifest["drivers"] = [*before.get("drivers", []), driver]
        self._found = Ledger(join(self.folder, "blocks")).read()
        write_document(join(self.folder, MANIFEST), self._manifest)
        if plan.marks is not None and day_fingerprints_of(self._root, self._stage, plan.version) != plan.marks.days:
            write_document(join(self.folder, DAYS), {"marks": list(plan.marks.days)})

    def end(self, records: Mapping[str, Record], problems: Sequence[str], notes: Sequence[str], seconds: float) -> None:
        """Write down what was done, where anything was."""
        if self._manifest is None:
            return
        plan, clock = self.plan, StorageClock(join(self._root.url, CLOCK))
        if plan.marks is not None and plan.summary is not None:
            write_document(join(self.folder, DAYS), {"marks": list(plan.marks.days), **plan.summary(records)})
        sweep(plan.url)
        counts = self._counts(records)
        self._manifest["drivers"][-1] |= {"ended": clock.text(), **counts}
        self._manifest |= {"ended": clock.text(), **totals(records, seconds), "blocks": counts}
        self._manifest |= {"problems": list(problems), "notes": list(notes)}
        write_document(join(self.folder, MANIFEST), self._manifest)

    def _counts(self, records: Mapping[str, Record]) -> dict[str, int]:
        """How its blocks came about, as far as this driver had to do with them."""
        skipped, done = 0, Counter[str]()
        for name, record in records.items():
            before = self._found.get(name)
            if before is not None and before.status in (DONE, COPIED) and before.fingerprint == record.fingerprint:
                skipped += 1
            else:
                done[record.status] += 1
                done["retried"] += record.retries
        states = {state: done[state] for state in (DONE, COPIED, INCOMPLETE, "retried")}
        return {"total": len(records), "skipped": skipped, **states}


def _is_described(root: Root, stage: str, plan: VersionPlan) -> bool:
    """Whether the manifest says of a complete version what it would say now, such as which files were passed over."""
    before = manifest_of(run_url(root, stage, plan.version)) or {}
    same = before.get("inputs") == json.loads(as_json(dict(plan.inputs)))
    return "ended" in before and same and before.get("description") == fingerprint(dict(plan.template.description))


def _with_earlier(stage: str, plan: VersionPlan, root: Root, version: str, previous: Mapping[str, Record]) -> Job:
    """The job of a plan whose blocks begin from what a published version holds."""
    marks, job, url = plan.marks, plan.job, root.version(plan.store, version)
    before = day_fingerprints_of(root, stage, version)
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
        if variable.objects is not None:
            array = group.get(name)
            if array is None or object_sizes(array) != variable.objects:
                return False
    return True


def totals(records: Mapping[str, Record], seconds: float) -> dict[str, Any]:
    """What a manifest says of all blocks of a version together."""
    losses: Counter[str] = Counter()
    for record in records.values():
        losses.update(record.losses)
    return {
        "seconds": round(seconds, 3),
        "losses": dict(losses),
        "storage_retries": sum(record.storage_retries for record in records.values()),
        "bytes_read": sum(record.bytes_read for record in records.values()),
        "bytes_written": sum(record.bytes_written for record in records.values()),
    }


def new_manifest(stage: str, plan: VersionPlan, configuration: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of a version before it is made."""
    return {
        "stage": stage,
        "store": plan.store,
        "version": plan.version,
        "configuration": dict(configuration),
        "inputs": dict(plan.inputs),
        # Where it has changed, the attributes of the version are written anew.
        "description": fingerprint(dict(plan.template.description)),
        "packages": {name: package_version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
