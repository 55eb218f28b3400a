"""The stages in their order, each with the versions that the one before has made; the pointer moves when all are done."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, Final

import numpy as np
import zarr

from deepprofile.config import Config
from deepprofile.execution.blocks import COPIED, Workload
from deepprofile.execution.blocks import DONE as ENGINE_DONE
from deepprofile.execution.engine import Progress
from deepprofile.execution.ledger import Ledger
from deepprofile.execution.pools import WORKER_BASE_BYTES, Pool
from deepprofile.stages import (
    bounds,
    collocate,
    download,
    gate,
    ingest,
    invert,
    matchups,
    observations,
    paired,
    rivals,
    schedule,
    validate,
)
from deepprofile.stages.domain import days_of
from deepprofile.stages.execute import execute
from deepprofile.stages.manifest import MANIFEST, ledger_url, manifest_of, run_url
from deepprofile.stages.plan import PlanError, StagePlan, StageResult
from deepprofile.stages.retention import PUBLISHED, record_publication
from deepprofile.stages.schedule import AsOf
from deepprofile.storage.documents import read_sound, write_document
from deepprofile.storage.filesystems import join, zarr_store
from deepprofile.storage.lease import Lease, live_holder
from deepprofile.storage.objects import MissingPathError, list_children
from deepprofile.storage.stores import Root, exists, read_region

log = logging.getLogger(__name__)

STAGES: Final = ("ingest", "collocate", "invert", "validate")
# Which store each step makes, and the stage that it belongs to.
_STEPS: Final = {
    collocate.MOMENTS_STORE: "collocate",
    collocate.STORE: "collocate",
    invert.STORE: "invert",
    observations.STORE: "validate",
    matchups.STORE: "validate",
    validate.DIFFERENCES_STORE: "validate",
    validate.STORE: "validate",
}


@dataclass(frozen=True)
class Request:
    """What is asked of a run beyond its configuration.

    Attributes
    ----------
    moment
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

    moment: AsOf = field(default_factory=AsOf.now)
    collocate: bool | None = True
    remake: bool = False
    redo: tuple[tuple[str, ...], np.datetime64, np.datetime64] | None = None
    accepted_by: str | None = None


def steps(
    config: Config, stages: Sequence[str], moment: AsOf, limits: Callable[[], StagePlan]
) -> Iterator[tuple[str, Callable[[Root, Mapping[str, str]], StagePlan]]]:
    """The steps of these stages: the store that each makes, and how it is planned from the versions before it.

    ``limits``: the plan of the bounds, where these are grids.
    """
    if "ingest" in stages:
        for name in config.products:
            yield ingest.store_name(name), partial(_plan_ingest, config, name, moment)
    if "collocate" in stages:
        yield collocate.MOMENTS_STORE, lambda root, versions: collocate.plan_moments(config, root, versions)
        yield collocate.STORE, lambda root, versions: collocate.plan_weights(config, root, versions)
    if "invert" in stages:
        if bounds.are_gridded(config):
            yield bounds.STORE, lambda *_: limits()
        yield invert.STORE, lambda root, versions: invert.plan(config, root, versions)
    if "validate" in stages and config.stations:
        # The stations are read once, and only when it comes to them.
        found = cache(lambda: observations.sensors_of(config))
        yield observations.STORE, lambda root, versions: observations.plan(config, root, found())
        yield matchups.STORE, lambda root, versions: matchups.plan(config, root, versions, found())
        yield validate.DIFFERENCES_STORE, lambda root, versions: validate.plan_differences(config, root, versions, found())
        yield validate.STORE, lambda root, versions: validate.plan(config, root, versions, found())
        for name in config.rivals:
            yield rivals.store_name(name), partial(_plan_rival, config, name, found)
        if config.rivals:
            yield paired.STORE, lambda root, versions: paired.plan(config, root, versions, found())


def _plan_ingest(config: Config, name: str, moment: AsOf | None, root: Root, _: Mapping[str, str]) -> StagePlan:
    return ingest.plan(config, root, name, moment)


def _plan_rival(
    config: Config, name: str, found: Callable[[], observations.Found], root: Root, _: Mapping[str, str]
) -> StagePlan:
    return rivals.plan(config, root, name, found())


def workloads(config: Config, stages: Sequence[str] = STAGES) -> list[Workload]:
    """Every workload with its blocks and cost, without looking at any data: those of validation for one block of sensors."""
    found: list[Workload] = []
    if "ingest" in stages:
        found += [ingest.workload(config, name) for name in config.products]
    if "collocate" in stages:
        found += [collocate.moments_workload(config), collocate.weights_workload(config)]
    if "invert" in stages:
        found += [bounds.workload(config)] if bounds.are_gridded(config) else []
        found.append(invert.workload(config))
    if "validate" in stages and config.stations:
        found += validate.workloads_of_some(config) + paired.workloads_of_some(config)
    return found


def already_there(config: Config) -> dict[str, int]:
    """How many blocks of each ingest need not be computed: done before, or to be copied from the published version.

    Products whose granules are not there to be listed are left out.
    """
    root, found = Root(config.root), {}
    current = root.current()
    for name in config.products:
        try:
            plan = ingest.plan(config, root, name)
        except MissingPathError:
            continue
        known = Ledger(ledger_url(root, plan.stage, plan.version)).read()
        if plan.store in current:
            known = Ledger(ledger_url(root, plan.stage, current[plan.store])).read() | known
        done = {block: record.fingerprint for block, record in known.items() if record.status in (ENGINE_DONE, COPIED)}
        found[plan.job.name] = sum(done.get(block.name) == plan.job.fingerprint(block) for block in plan.job.blocks)
    return found


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
                f"{limit_bytes / 2**30:.2f} GiB: make blocks.cells or blocks.days smaller, or compute.memory_limit larger"
            )


def run_stages(
    config: Config,
    stages: Sequence[str],
    pool: Pool,
    *,
    on_stage: Callable[[StagePlan], Callable[[Progress], None] | None] | None = None,
    lease: Lease | None = None,
    request: Request | None = None,
) -> list[StageResult]:
    """Run some stages and publish what they made, under a lease on the root: the given one, or one of its own.

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
            return run_stages(config, stages, pool, on_stage=on_stage, lease=own, request=request)
    if request.redo is not None:
        products, first, last = request.redo
        schedule.redo(root, products, first, last, lease.holder.run)
    if request.remake:
        schedule.remake(root, lease.holder.run)
    limits = cache(partial(bounds.plan, config, root))
    if "invert" in stages and bounds.are_gridded(config):
        # What is wrong with them is said before anything is fetched or computed.
        limits()
    results = _downloaded(config, root, stages, pool, on_stage, lease, request.moment)
    if request.moment.until is not None:
        stores = (*map(ingest.store_name, config.products), invert.STORE)
        config = schedule.extended(config, root, request.moment.until, stores)
        log.info("the record goes to %s", config.period.end)
    asked = True if request.remake else request.collocate
    if not (collocate.is_due(config, root) if asked is None else asked):
        log.info("the error model stays as it is")
        stages = [stage for stage in stages if stage != "collocate"]
    versions = root.current()
    made: dict[str, str] = {}
    for store, planner in steps(config, stages, request.moment, limits):
        _check_inputs(config, root, store, versions)
        plan = planner(root, versions)
        log.info("%s: %d blocks", plan.stage, len(plan.job.blocks), extra={"stage": plan.stage})
        result = execute(plan, root, config, pool, on_stage(plan) if on_stage is not None else None, lease.check)
        versions = versions | {store: plan.version}
        made[store] = plan.version
        results.append(result)
    _check_result(config, root, results, request.accepted_by)
    if collocate.STORE in made:
        schedule.remade(root)
    root.publish(made, lease)
    log.info("published: %s", ", ".join(f"{store} {version}" for store, version in sorted(made.items())))
    record_publication(root, lease.holder.run, made, request.accepted_by)
    return results


def _downloaded(
    config: Config,
    root: Root,
    stages: Sequence[str],
    pool: Pool,
    on_stage: Callable[[StagePlan], Callable[[Progress], None] | None] | None,
    lease: Lease,
    moment: AsOf,
) -> list[StageResult]:
    """Fetch what is missing of the products that are downloaded."""
    if "ingest" not in stages:
        return []
    names = [name for name, source in config.products.items() if source.download is not None]
    found = [download.run(config, root, name, moment, pool, on_stage, lease.check) for name in names]
    return [result for result in found if result is not None]


def _check_result(config: Config, root: Root, results: Sequence[StageResult], accepted_by: str | None) -> None:
    """Let a new version of the profiles pass, or not; what was found is in the manifest of its inversion."""
    made = {result.store: result for result in results}
    current, profiles = root.current(), made.get(invert.STORE)
    found = []
    if profiles is not None and current.get(invert.STORE) != profiles.version:
        before = {}
        if invert.STORE in current:
            before = Ledger(ledger_url(root, profiles.stage, current[invert.STORE])).read()
        found += gate.of_profiles(config.gate, profiles.records, before)
    scores = made.get(validate.STORE)
    if scores is not None and current.get(validate.STORE) != scores.version:
        old = root.version(validate.STORE, current[validate.STORE]) if validate.STORE in current else None
        old = old if old is not None and exists(old) else None
        found += gate.of_stations(config.gate, root.version(validate.STORE, scores.version), old)
    if not found:
        return
    failed = [check for check in found if not check.passed]
    about = profiles or scores
    assert about is not None
    url = join(run_url(root, about.stage, about.version), MANIFEST)
    said: dict[str, Any] = {"checks": [check.as_json() for check in found]}
    if failed and accepted_by is not None:
        said["accepted_by"] = accepted_by
    write_document(url, (manifest_of(run_url(root, about.stage, about.version)) or {}) | said)
    for check in found:
        log.info("check of %s %s: %s", check.name, "passed" if check.passed else "failed", check)
    if failed and accepted_by is None:
        raise gate.ChecksFailedError(found)


def _check_inputs(config: Config, root: Root, store: str, versions: Mapping[str, str]) -> None:
    """The stores that a step reads have to be there, and to be on the configured grid."""
    stage = _STEPS.get(store)
    if stage is None:
        return
    needed = [ingest.store_name(name) for name in config.products]
    # Stations are not read before there is something to compare them with.
    compared = store in (observations.STORE, matchups.STORE)
    if store == collocate.STORE or compared:
        needed.append(collocate.MOMENTS_STORE)
    if store == invert.STORE or compared:
        needed.append(collocate.STORE)
    if compared:
        needed.append(invert.STORE)
    if store in (validate.DIFFERENCES_STORE, validate.STORE):
        needed = [observations.STORE, matchups.STORE]
    for name in needed:
        before = "ingest" if name.startswith("ard/") else _STEPS[name]
        if name not in versions or not exists(root.version(name, versions[name])):
            raise PlanError(f"{stage} needs {name}, which is not in {root.url}: run 'deepprofile {before}' first")
        url = root.version(name, versions[name])
        attrs = zarr.open_group(zarr_store(url), mode="r").attrs.asdict()
        grid = ingest.window(config, name.removeprefix("ard/")) if name.startswith("ard/") else config.grid.grid()
        invert.check_matches(url, attrs, grid, before)
        if name.startswith("ard/"):
            _check_period(config, url, before)
        expected = (invert.layout_of(config) if name == invert.STORE else collocate.layout_of(config)).products
        if not name.startswith("ard/") and attrs.get("products", list(expected)) != list(expected):
            raise PlanError(
                f"{url} was made for the products {attrs['products']}, the configuration names {list(expected)}: "
                f"run 'deepprofile {before}' again"
            )


def _check_period(config: Config, url: str, before: str) -> None:
    expected = days_of(config)
    found = read_region(url, "time", (slice(None),)).astype("datetime64[D]")
    if found.size != expected.size or found[0] != expected[0]:
        raise PlanError(
            f"{url} holds {found.size} days from {found[0]}, the configuration asks for {expected.size} from {expected[0]}: "
            f"run 'deepprofile {before}' again"
        )


def passed_over(config: Config, root: Root, name: str) -> list[dict[str, str]]:
    """Files that the published ingest of a product did not use, each with its name and the reason."""
    version = root.current().get(ingest.store_name(name))
    manifest = manifest_of(run_url(root, ingest.stage_name(name), version)) if version is not None else None
    return list(((manifest or {}).get("inputs") or {}).get("files_passed_over", ()))


def status_of(config: Config, moment: AsOf | None = None) -> dict[str, Any]:
    """What is published, what is there of each product and day, who is at work, and the manifests of all runs in order."""
    root, runs, moment = Root(config.root), join(config.root, "runs"), moment or AsOf.now()
    manifests = [manifest_of(join(runs, name)) for name in list_children(runs)]
    return {
        "root": config.root,
        "current": root.current(),
        "days": {name: ingest.day_states(config, root, name, moment) for name in config.products},
        "lease": live_holder(config.root),
        "published": read_sound(join(config.root, PUBLISHED)),
        "passed_over": {name: passed_over(config, root, name) for name in config.products},
        "runs": sorted((m for m in manifests if m), key=lambda m: str(m["started"])),
    }
