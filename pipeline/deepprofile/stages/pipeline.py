"""The stages in their order, each with the versions that the one before has made; the pointer moves when all are done."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

import zarr

from deepprofile.config import Config
from deepprofile.engine import COPIED, Job, Ledger, Pool, Progress
from deepprofile.engine import DONE as ENGINE_DONE
from deepprofile.lease import Lease, live_holder
from deepprofile.objects import join, names_below, read_json, write_json, zarr_store
from deepprofile.stages import collocate, ingest, invert, validate
from deepprofile.stages.stage import WORKER_BASE_BYTES, PlanError, StagePlan, StageResult, days_of, execute, ledger_url
from deepprofile.stores import Root, exists, read_region

log = logging.getLogger(__name__)

# Who has published last, and when: beside the pointer, which holds nothing but versions.
PUBLISHED: Final = "published.json"
STAGES: Final = ("ingest", "collocate", "invert", "validate")
# Which store each step makes, and the stage that it belongs to.
_STEPS: Final = {
    collocate.MOMENTS_STORE: "collocate",
    collocate.STORE: "collocate",
    invert.STORE: "invert",
    validate.STORE: "validate",
}


def steps(config: Config, stages: Sequence[str]) -> Iterator[tuple[str, Callable[[Root, Mapping[str, str]], StagePlan]]]:
    """The steps of these stages: the store that each makes, and how it is planned from the versions before it."""
    if "ingest" in stages:
        for name in config.products:
            yield ingest.store_name(name), partial(_plan_ingest, config, name)
    if "collocate" in stages:
        yield collocate.MOMENTS_STORE, lambda root, versions: collocate.plan_moments(config, root, versions)
        yield collocate.STORE, lambda root, versions: collocate.plan_weights(config, root, versions)
    if "invert" in stages:
        yield invert.STORE, lambda root, versions: invert.plan(config, root, versions)
    if "validate" in stages and config.stations:
        yield validate.STORE, lambda root, versions: validate.plan(config, root, versions)


def _plan_ingest(config: Config, name: str, root: Root, _: Mapping[str, str]) -> StagePlan:
    return ingest.plan(config, root, name)


def jobs(config: Config, stages: Sequence[str] = STAGES) -> list[Job]:
    """Every job with its blocks and cost, without looking at any data."""
    found: list[Job] = []
    if "ingest" in stages:
        found += [ingest.job(config, name) for name in config.products]
    if "collocate" in stages:
        found += [collocate.moments_job(config), collocate.weights_job(config)]
    if "invert" in stages:
        found.append(invert.job(config))
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
        except FileNotFoundError:
            continue
        known = Ledger(ledger_url(root, plan.stage, plan.version)).read()
        if plan.store in current:
            known = Ledger(ledger_url(root, plan.stage, current[plan.store])).read() | known
        done = {block: record.fingerprint for block, record in known.items() if record.status in (ENGINE_DONE, COPIED)}
        found[plan.job.name] = sum(done.get(block.name) == plan.job.fingerprint(block) for block in plan.job.blocks)
    return found


def check_memory(
    jobs: Sequence[Job], limit_bytes: int, threads: int, base_bytes: int = WORKER_BASE_BYTES, margin: float = 1.0
) -> None:
    """Refuse a plan whose blocks do not fit into a worker.

    Raises
    ------
    PlanError
        With the stage, both numbers, and what to do.
    """
    for job in jobs:
        needed = base_bytes + margin * threads * job.memory_per_block
        if needed > limit_bytes:
            raise PlanError(
                f"{job.name}: a worker needs {needed / 2**30:.2f} GiB ({threads} blocks at a time of "
                f"{margin * job.memory_per_block / 2**30:.2f} GiB, and {base_bytes / 2**30:.2f} GiB for itself), its limit is "
                f"{limit_bytes / 2**30:.2f} GiB: make blocks.cells or blocks.days smaller, or compute.memory_limit larger"
            )


def run_stages(
    config: Config,
    stages: Sequence[str],
    pool: Pool,
    *,
    on_stage: Callable[[StagePlan], Callable[[Progress], None] | None] | None = None,
    lease: Lease | None = None,
) -> list[StageResult]:
    """Run some stages and publish what they made, under a lease on the root: the given one, or one of its own.

    Raises
    ------
    PlanError
        Where a stage before these has not been run, or was run for another grid.
    deepprofile.lease.LeaseHeld, deepprofile.lease.LeaseLost
        Where another run is at work on the root, or has taken it over.
    """
    root = Root(config.root)
    if lease is None:
        with root.lease() as own:
            return run_stages(config, stages, pool, on_stage=on_stage, lease=own)
    versions = root.current()
    made: dict[str, str] = {}
    results = []
    for store, planner in steps(config, stages):
        _check_inputs(config, root, store, versions)
        plan = planner(root, versions)
        log.info("%s: %d blocks", plan.stage, len(plan.job.blocks), extra={"stage": plan.stage})
        result = execute(plan, root, config, pool, on_stage(plan) if on_stage is not None else None, lease.check)
        versions = versions | {store: plan.version}
        made[store] = plan.version
        results.append(result)
    root.publish(made, lease)
    log.info("published: %s", ", ".join(f"{store} {version}" for store, version in sorted(made.items())))
    write_json(join(root.url, PUBLISHED), {"run": lease.holder.run, "seconds": time.time(), "versions": made})
    return results


def _check_inputs(config: Config, root: Root, store: str, versions: Mapping[str, str]) -> None:
    """The stores that a step reads have to be there, and to be on the configured grid."""
    stage = _STEPS.get(store)
    if stage is None:
        return
    needed = [ingest.store_name(name) for name in config.products]
    if store in (collocate.STORE, validate.STORE):
        needed.append(collocate.MOMENTS_STORE)
    if store in (invert.STORE, validate.STORE):
        needed.append(collocate.STORE)
    if store == validate.STORE:
        needed.append(invert.STORE)
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
        elif (products := attrs.get("products")) is not None and products != list(config.products):
            raise PlanError(
                f"{url} was made for the products {products}, the configuration names {list(config.products)}: "
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


def status_of(url: str) -> dict[str, Any]:
    """What is published below a root, who is at work on it, and the manifests of all runs, the oldest first."""
    root, runs = Root(url), join(url, "runs")
    manifests = [read_json(join(runs, name, "manifest.json")) for name in names_below(runs)]
    return {
        "root": url,
        "current": root.current(),
        "lease": live_holder(url),
        "published": read_json(join(url, PUBLISHED)),
        "runs": sorted((m for m in manifests if m), key=lambda m: str(m["started"])),
    }
