"""The stages in their order, each with the versions that the one before has made; the pointer moves when all are done."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from graphlib import TopologicalSorter
from typing import Any, Final

import numpy as np
import zarr

from deepprofile.config import Config
from deepprofile.execution.blocks import COPIED, Record, Workload
from deepprofile.execution.blocks import DONE as ENGINE_DONE
from deepprofile.execution.engine import READS, Progress
from deepprofile.execution.ledger import Ledger
from deepprofile.execution.pools import WORKER_BASE_BYTES, Pool
from deepprofile.sources.catalogue import Catalogue
from deepprofile.stages import (
    bounds,
    collocate,
    covariances,
    download,
    gate,
    ingest,
    invert,
    renewal,
    schedule,
    validate,
)
from deepprofile.stages.attributes import grid_attributes
from deepprofile.stages.collocate import ErrorModel
from deepprofile.stages.download import ProductDownload
from deepprofile.stages.execute import RunWith, execute
from deepprofile.stages.ingest import ProductIngest
from deepprofile.stages.manifest import MANIFEST, ledger_url, manifest_of, run_url
from deepprofile.stages.plan import PlanError, StagePlan, StageResult, Step
from deepprofile.stages.publish import climatology, files, inputs, layers, maps
from deepprofile.stages.retention import PUBLISHED, record_publication
from deepprofile.stages.schedule import AsOf
from deepprofile.storage.documents import read_sound, write_document
from deepprofile.storage.filesystems import join, zarr_store
from deepprofile.storage.lease import Lease, live_holder
from deepprofile.storage.objects import MissingPathError, list_children
from deepprofile.storage.roots import Root, parts_of, store_of
from deepprofile.storage.stores import check_layout, exists, read_region

log = logging.getLogger(__name__)

STAGES: Final = ("ingest", "collocate", "invert", "validate", "publish")


@dataclass(frozen=True)
class Request:
    """What is asked of a run beyond its configuration.

    Attributes
    ----------
    as_of
        When it takes place, and up to which day it goes; the period of the configuration holds where that is not given.
    collocate
        Whether to bring the error model up to date: None leaves that to ``collocation.every_days``.
    remake
        Make a new error model even where its inputs are the same.
    redo
        Products of which days are done again although their granules are the same, and the first and last of these days.
    accepted_by
        Who wants the result published whatever the checks say.
    """

    as_of: AsOf = field(default_factory=AsOf.now)
    collocate: bool | None = True
    remake: bool = False
    redo: tuple[tuple[str, ...], np.datetime64, np.datetime64] | None = None
    accepted_by: str | None = None


def steps(config: Config, as_of: AsOf | None = None, listed: Mapping[str, Catalogue] | None = None) -> list[Step]:
    """Every step of the pipeline, each after those whose stores it reads; ``listed``: granules of products, where known."""
    declared = [
        *ingest.steps(config, as_of or AsOf.now(), listed or {}),
        *collocate.steps(config),
        *bounds.steps(config),
        *invert.steps(config),
        *covariances.steps(config),
        *validate.steps(config),
        *climatology.steps(config),
        *layers.steps(config),
        *inputs.steps(config),
        *maps.steps(config),
    ]
    by_store = {step.store: step for step in declared}
    order, places = TopologicalSorter({step.store: step.reads for step in declared}), list(by_store)
    order.prepare()
    ready: set[str] = set()
    found: list[Step] = []
    while order.is_active():
        ready.update(order.get_ready())
        # As declared, where the stores that are read leave it open.
        store = min(ready, key=places.index)
        ready.remove(store)
        order.done(store)
        found.append(by_store[store])
    return found


def workloads(config: Config, stages: Sequence[str] = STAGES) -> list[Workload]:
    """Every workload with its blocks and cost, without looking at any data: those of validation for one block of sensors."""
    return [step.workload() for step in steps(config) if step.stage in stages]


def already_there(config: Config) -> dict[str, int]:
    """How many blocks of each ingest need not be computed: done before, or to be copied from the published version.

    Products whose granules are not there to be listed are left out.
    """
    root, found = Root(config.root), {}
    current = root.current()
    for step in ingest.steps(config, AsOf.now()):
        try:
            plan = step.plan(root, current)
        except MissingPathError:
            continue
        found[plan.name] = 0
        for each in plan.versions:
            known = Ledger(ledger_url(root, plan.stage, each.version)).read()
            if current.get(each.store, each.version) != each.version:
                known = Ledger(ledger_url(root, plan.stage, current[each.store])).read() | known
            done = {block: record.fingerprint for block, record in known.items() if record.status in (ENGINE_DONE, COPIED)}
            if done:
                found[plan.name] += sum(done.get(block.name) == each.job.fingerprint(block) for block in each.job.blocks)
    return found


def of_new_error_model(config: Config, *, asked: bool | None = None) -> str | None:
    """What a run would do because a new error model is due, and what that costs; see ``renewal.announced``."""
    return renewal.announced(config, steps(config), asked=asked)


def check_memory(
    listed: Sequence[Workload], limit_bytes: int, threads: int, base_bytes: int = WORKER_BASE_BYTES, margin: float = 1.0
) -> None:
    """Refuse a plan whose blocks do not fit into a worker.

    Raises
    ------
    PlanError
        With the stage, both numbers, and what to do.
    """
    for each in listed:
        needed = base_bytes + margin * threads * each.memory_per_block
        if needed > limit_bytes:
            raise PlanError(
                f"{each.name}: a worker needs {needed / 2**30:.2f} GiB ({threads} blocks at a time of "
                f"{margin * each.memory_per_block / 2**30:.2f} GiB, and {base_bytes / 2**30:.2f} GiB for itself), its limit is "
                f"{limit_bytes / 2**30:.2f} GiB: make blocks.cells, blocks.days or ingest.days smaller, or "
                "compute.memory_limit larger"
            )


def run_stages(
    config: Config,
    stages: Sequence[str],
    pool: Pool,
    *,
    on_stage: Callable[[StagePlan], Callable[[Progress], None] | None] | None = None,
    on_remark: Callable[[str], None] | None = None,
    lease: Lease | None = None,
    request: Request | None = None,
) -> list[StageResult]:
    """Run some stages and publish what they made, under a lease on the root: the given one, or one of its own.

    ``on_stage`` is told of each stage that begins, ``on_remark`` what a user should know before it does.

    Raises
    ------
    PlanError
        Where a stage before these has not been run, or was run for another grid.
    deepprofile.stages.gate.ChecksFailedError
        Where the new profiles do not pass their checks, and nobody has accepted them; readers see what they saw before.
    deepprofile.storage.lease.LeaseHeldError, deepprofile.storage.lease.LeaseLostError
        Where another run is at work on the root, or has taken it over.
    """
    root, request = Root(config.root), request or Request()
    if lease is None:
        with root.lease() as own:
            return run_stages(config, stages, pool, on_stage=on_stage, on_remark=on_remark, lease=own, request=request)
    if "publish" in stages:
        files.check_index(root)
    if request.redo is not None:
        products, first, last = request.redo
        schedule.redo(root, products, first, last, lease.holder.run)
    if request.remake:
        schedule.remake(root, lease.holder.run)
    # What is wrong with the bounds is said before anything is fetched or computed.
    planned = {step.store: step.plan(root, {}) for step in bounds.steps(config)} if "invert" in stages else {}
    run_with = RunWith(pool, config.compute, config.model_dump(mode="json"), on_stage, lease.check)
    tasks = ProductDownload.all_of(config) if "ingest" in stages else []
    fetched = [download.run(task, root, request.as_of, run_with) for task in tasks]
    results = [result for result in fetched if result is not None]
    listed: Mapping[str, Catalogue] = {}
    if request.as_of.until is not None:
        stores = (*map(ingest.store_name, config.products), invert.STORE)
        config, listed = schedule.extended(config, root, request.as_of.until, stores)
        log.info("the record goes to %s", config.period.end)
    asked = True if request.remake else request.collocate
    said = of_new_error_model(config, asked=asked) if {"collocate", "invert"} <= set(stages) else None
    if said is not None:
        log.info("%s", said)
        if on_remark is not None:
            on_remark(said)
    if not (collocate.is_due(ErrorModel.of(config), root) if asked is None else asked):
        log.info("the error model stays as it is")
        stages = [stage for stage in stages if stage != "collocate"]
    versions = root.current()
    _check_layouts(root, versions)
    made: dict[str, str] = {}
    run_with = replace(run_with, configuration=config.model_dump(mode="json"))
    by_store = {step.store: step for step in steps(config, request.as_of, listed)}
    checked = False
    for step in by_store.values():
        if step.stage not in stages:
            continue
        if step.stage == "publish" and not checked:
            # What does not pass is not made into anything.
            _check_result(config, root, results, request.accepted_by)
            checked = True
        for store in step.reads:
            # What this run has made is as it was planned.
            if not any(store_of(name) == store for name in made):
                _check_input(root, step.stage, by_store[store], versions)
        plan = planned[step.store] if step.store in planned else step.plan(root, versions)
        log.info("%s: %d blocks", plan.stage, len(plan.jobs.blocks), extra={"stage": plan.stage})
        result = execute(plan, root, run_with)
        versions = {**versions, **result.versions}
        made |= result.versions
        results.append(result)
    if not checked:
        _check_result(config, root, results, request.accepted_by)
    if collocate.STORE in made:
        schedule.remade(root)
    root.publish(made, lease)
    log.info("published: %s", ", ".join(f"{store} {version}" for store, version in sorted(made.items())))
    record_publication(root, lease.holder.run, made, request.accepted_by)
    if "publish" in stages:
        made_files = files.publish(config, root, root.current(), run_with)
        results += [made_files] if made_files is not None else []
    return results


def _check_layouts(root: Root, versions: Mapping[str, str]) -> None:
    """Raise where a published version was written by another version of the software with another layout of stores."""
    urls = [root.version(name, version) for name, version in versions.items()]
    with ThreadPoolExecutor(READS) as threads:
        there = list(threads.map(exists, urls))
        for _ in threads.map(check_layout, [url for url, found in zip(urls, there, strict=True) if found]):
            pass


def _check_result(config: Config, root: Root, results: Sequence[StageResult], accepted_by: str | None) -> None:
    """Let new versions of the profiles pass, or not; what was found is in the manifests of those that are new."""
    made, current = {result.store: result for result in results}, root.current()
    profiles, scores = made.get(invert.STORE), made.get(validate.STORE)
    urls, found = [], []
    if profiles is not None:
        fresh = {name: version for name, version in profiles.versions.items() if current.get(name) != version}
        urls += [run_url(root, profiles.stage, version) for version in fresh.values()]
        if fresh:
            found += gate.of_profiles(config.gate, *_records_to_check(root, profiles, fresh, current))
    if scores is not None and scores.versions[validate.STORE] != current.get(validate.STORE):
        new = scores.versions[validate.STORE]
        old = root.version(validate.STORE, current[validate.STORE]) if validate.STORE in current else None
        old = old if old is not None and exists(old) else None
        found += gate.of_stations(config.gate, root.version(validate.STORE, new), old)
        urls = urls or [run_url(root, scores.stage, new)]
    if not found:
        return
    failed = [check for check in found if not check.passed]
    said: dict[str, Any] = {"checks": [check.as_json() for check in found]}
    if failed and accepted_by is not None:
        said["accepted_by"] = accepted_by
    for url in urls:
        write_document(join(url, MANIFEST), (manifest_of(url) or {}) | said)
    for check in found:
        log.info("check of %s %s: %s", check.name, "passed" if check.passed else "failed", check)
    if failed and accepted_by is None:
        raise gate.ChecksFailedError(found)


def _records_to_check(
    root: Root, profiles: StageResult, fresh: Mapping[str, str], current: Mapping[str, str]
) -> tuple[dict[str, Record], dict[str, Record]]:
    """Records of the years that are new, and those of all years that are published."""
    years = set(parts_of(invert.STORE, fresh))
    now = {name: record for name, record in profiles.records.items() if record.part in years}
    before: dict[str, Record] = {}
    for year, name in parts_of(invert.STORE, current).items():
        if year in years:
            before |= Ledger(ledger_url(root, profiles.stage, current[name])).read()
        else:
            before |= {key: record for key, record in profiles.records.items() if record.part == year}
    return now, before


def _check_input(root: Root, stage: str, step: Step, versions: Mapping[str, str]) -> None:
    """A store that a stage reads has to be there, and to be what the configuration asks for.

    Raises
    ------
    PlanError
        With what was found, what is expected, and the command that makes it.
    """
    store, before, expected = step.store, step.stage, step.expected
    names = list(parts_of(store, versions).values()) or [store]
    urls = [root.version(name, versions[name]) for name in names if name in versions]
    if not urls or not all(map(exists, urls)):
        raise PlanError(f"{stage} needs {store}, which is not in {root.url}: run 'deepprofile {before}' first")
    placed = {} if expected.grid is None else grid_attributes(expected.grid)
    for url in urls:
        attrs = zarr.open_group(zarr_store(url), mode="r").attrs.asdict()
        for key in ("grid", "grid_window"):
            if placed and attrs.get(key) != placed[key]:
                raise PlanError(
                    f"{url} was made for the {key.replace('_', ' ')} {attrs.get(key)}, the configuration asks for "
                    f"{placed[key]}: run 'deepprofile {before}' again, or use another root"
                )
        if expected.products is not None and attrs.get("products", list(expected.products)) != list(expected.products):
            raise PlanError(
                f"{url} was made for the products {attrs['products']}, the configuration names {list(expected.products)}: "
                f"run 'deepprofile {before}' again"
            )
    if expected.days is not None:
        found = np.concatenate([read_region(url, "time", (slice(None),)) for url in urls]).astype("datetime64[D]")
        if found.size != expected.days.size or found[0] != expected.days[0]:
            raise PlanError(
                f"{root.url}: {store} holds {found.size} days from {found[0]}, the configuration asks for "
                f"{expected.days.size} from {expected.days[0]}: run 'deepprofile {before}' again"
            )


def passed_over(root: Root, name: str) -> list[dict[str, str]]:
    """Files that the published ingest of a product did not use, each with its name and the reason."""
    current = root.current()
    years = list(parts_of(ingest.store_name(name), current).values())
    # What concerns the folder as a whole is said with the last year.
    manifest = manifest_of(run_url(root, ingest.stage_name(name), current[years[-1]])) if years else None
    return list(((manifest or {}).get("inputs") or {}).get("files_passed_over", ()))


def status_of(config: Config, as_of: AsOf | None = None) -> dict[str, Any]:
    """What is published and released, what is there of each product and day, who is at work, and the manifests of all runs."""
    root, runs, as_of = Root(config.root), join(config.root, "runs"), as_of or AsOf.now()
    manifests = [manifest_of(join(runs, name)) for name in list_children(runs)]
    return {
        "root": config.root,
        "current": root.current(),
        "days": {name: ingest.day_states(ProductIngest.of(config, name), root, as_of) for name in config.products},
        "lease": live_holder(config.root),
        "published": read_sound(join(config.root, PUBLISHED)),
        "releases": root.releases(),
        "passed_over": {name: passed_over(root, name) for name in config.products},
        "runs": sorted((m for m in manifests if m), key=lambda m: str(m["started"])),
    }
