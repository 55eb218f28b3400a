"""Validate: estimates against what the stations have measured, scored over the whole record of each sensor.

First the moments of the differences between the fused estimate and each sensor, from which the variances of representativeness
are estimated; then the scores of all estimates, and how often the intervals of the fused one hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepprofile.config import Config
from deepprofile.evaluation.metrics import METRICS, RESAMPLES, band_name, score_arrays, station_names
from deepprofile.evaluation.representativeness import (
    BANDS_M,
    INTERVALS,
    LEVELS,
    MIN_STATIONS,
    Differences,
    Variances,
    bands,
    coverage,
    crosswise,
    differences,
    halves,
)
from deepprofile.execution.blocks import Block, Job, Outcome, Workload, grid_blocks
from deepprofile.stages import collocate, covariances, invert, matchups, observations, paired, rivals, schemas
from deepprofile.stages.domain import Domain
from deepprofile.stages.matchups import FUSED, Estimates, Matchups, SensorSeries
from deepprofile.stages.observations import Found, sensor_batches
from deepprofile.stages.plan import Expected, StagePlan, Step, VersionPlan
from deepprofile.stages.schemas import (
    SENSORS_PER_BLOCK,
    SENSORS_PER_CHUNK,
    SENSORS_PER_STRETCH,
)
from deepprofile.storage.fingerprints import fingerprint
from deepprofile.storage.roots import Root, part_name
from deepprofile.storage.stores import read_region, write_shards

# The versions of what turns matchups into moments of differences, and into scores.
DIFFERENCES_ALGORITHM: Final = 1
ALGORITHM: Final = 2
DIFFERENCES_STORE: Final = "differences"
STORE: Final = matchups.SCORES


@dataclass(frozen=True)
class DifferenceBlock:
    """Moments of the differences between the fused estimate and some sensors."""

    series: SensorSeries
    url: str

    def __call__(self, block: Block, _: Any) -> Outcome:
        """See ``deepprofile.execution.blocks.Job``."""
        span = block.region[0]
        arrays = (self.series.fused(*span), self.series.deviation(*span), self.series.measured(*span))
        found = differences(*arrays)
        written = sum(write_shards(self.url, name, span[:1], values) for name, values in found._asdict().items())
        return Outcome(sum(array.nbytes for array in arrays), written)


@dataclass(frozen=True)
class ScoreBlock:
    """Scores the estimates at some sensors, a few at a time; its input are the variances of representativeness of these."""

    estimates: Estimates
    domain: Domain
    series: SensorSeries
    url: str

    def __call__(self, block: Block, variances: Variances) -> Outcome:
        """See ``deepprofile.execution.blocks.Job``."""
        first = block.region[0][0]
        parts = []
        for span in sensor_batches(block):
            own = slice(span[0] - first, span[1] - first)
            parts.append(self._scores(*span, Variances(*(np.array(values[own]) for values in variances))))
        written = 0
        for metric in METRICS:
            values = np.concatenate([found[metric] for found, _ in parts], axis=1)
            written += write_shards(self.url, metric, (0, first, 0), values)
        for name, corner in (("n_effective", (0, first)), ("coverage", (0, 0, first))):
            written += write_shards(self.url, name, corner, np.concatenate([found[name] for found, _ in parts], axis=-1))
        return Outcome(sum(read for _, read in parts), written)

    def _scores(self, first: int, after: int, variances: Variances) -> tuple[dict[str, Any], int]:
        """Every array of the store for some sensors, and the bytes that were read."""
        estimates = self.series.estimates(first, after, self.estimates)
        measured, deviation = self.series.measured(first, after), self.series.deviation(first, after)
        scores = score_arrays(list(estimates.values()), measured, np.arange(self.domain.days.size))
        found: dict[str, Any] = {metric: scores[:, :, m] for m, metric in enumerate(METRICS)}
        # Of a number of days there is no interval: its ends are the number itself.
        found["n"] = np.repeat(scores[:, :, 0, :1], scores.shape[-1], axis=-1)
        found["n_effective"] = scores[:, :, -1, 0]
        found["coverage"] = coverage(estimates[FUSED], deviation, measured, variances)
        read = measured.nbytes + deviation.nbytes + sum(estimate.nbytes for estimate in estimates.values())
        return found, read


def differences_workload(days: int, count: int) -> Workload:
    """Blocks of sensors."""
    return Workload(
        name="validate: differences",
        blocks=grid_blocks((count,), (SENSORS_PER_BLOCK,)),
        # Three series of each sensor, as read and in the order of the sensors; of one sensor a few arrays of doubles.
        memory_per_block=SENSORS_PER_BLOCK * days * 3 * 4 * 2 + days * 8 * 8,
        bytes_in=count * days * 3 * 4,
        bytes_out=count * len(schemas.DIFFERENCES) * 8,
    )


def workload(days: int, estimates: int, count: int) -> Workload:
    """Blocks of sensors."""
    return Workload(
        name="validate: scores",
        blocks=grid_blocks((count,), (SENSORS_PER_BLOCK,)),
        # The series of every estimate, as read, in the order of the sensors, and on common days, with their masks: as much as
        # eight arrays of doubles. Where the blocks of the bootstrap begin, of which there are most where each is a day.
        memory_per_block=SENSORS_PER_CHUNK * days * (estimates + 1) * 8 * 8 + RESAMPLES * days * 8,
        bytes_in=count * days * (estimates + 2) * 4,
        bytes_out=count * (estimates * (len(METRICS) * 3 + 1) + len(INTERVALS) * len(LEVELS)) * 8,
    )


def plan_differences(domain: Domain, root: Root, versions: Mapping[str, str], found: Found) -> StagePlan:
    """Plan the moments of the differences at the sensors that ``observations.sensors_of`` has found."""
    made, count = schemas.differences(domain.grid, found.stations), found.stations.sizes["sensor"]
    inputs = _series_versions(domain, versions)
    version = fingerprint("differences", DIFFERENCES_ALGORITHM, dict(made.attrs), made.shard_shape("mean"), inputs)

    def mark(block: Block) -> str:
        return fingerprint("differences", version, block.region)

    compute = DifferenceBlock(SensorSeries.of(domain, root, versions, found), root.version(DIFFERENCES_STORE, version))
    listed = Job(differences_workload(domain.length, count), compute, mark)
    made_by = VersionPlan(DIFFERENCES_STORE, version, made, listed, compute.url, inputs | {"sensors": count})
    return StagePlan("validate/differences", DIFFERENCES_STORE, (made_by,))


def _series_versions(domain: Domain, versions: Mapping[str, str]) -> dict[str, str]:
    """What the sensors measured and the estimates there: every year of the record."""
    names = [part_name(store, year.year) for store in (observations.STORE, matchups.STORE) for year in domain.years]
    return {name: versions[name] for name in names}


def plan(domain: Domain, estimates: Estimates, root: Root, versions: Mapping[str, str], found: Found) -> StagePlan:
    """Plan the scores of the same sensors; their variances of representativeness are estimated here, from the differences."""
    stations, count = found.stations, found.stations.sizes["sensor"]
    inputs = _series_versions(domain, versions) | {DIFFERENCES_STORE: versions[DIFFERENCES_STORE]}
    url = root.version(DIFFERENCES_STORE, versions[DIFFERENCES_STORE])
    moments = Differences(*(read_region(url, name, (slice(None),)) for name in Differences._fields))
    band, names = bands(stations.depth_top.values, stations.depth_bottom.values), station_names(stations)
    variances = crosswise(moments, band, names)
    made = schemas.validation(domain, estimates.names, stations, variances)
    version = fingerprint("validate", ALGORITHM, dict(made.attrs), made.shard_shape("n"), inputs)

    def mark(block: Block) -> str:
        return fingerprint("validate", version, block.region)

    def of_block(block: Block) -> Variances:
        return Variances(*(values[slice(*block.region[0])] for values in variances))

    compute = ScoreBlock(estimates, domain, SensorSeries.of(domain, root, versions, found), root.version(STORE, version))
    listed = Job(workload(domain.days.size, len(estimates.names), count), compute, mark, inputs=of_block)
    sentences = _too_few(band, names, variances, moments)
    made_by = VersionPlan(STORE, version, made, listed, compute.url, inputs | {"sensors": count})
    return StagePlan("validate", STORE, (made_by,), lambda _: sentences)


def _too_few(band: NDArray[np.int64], names: list[str], variances: Variances, moments: Differences) -> list[str]:
    """Of which depths the representativeness cannot be estimated, and why."""
    half, text, told = halves(names), np.array(names, str), []
    for k, depths in enumerate(BANDS_M):
        scored = (band == k) & np.isfinite(moments.mean_square)
        if scored.any() and np.isnan(variances.varying[scored]).any():
            counts = [np.unique(text[scored & (half == side)]).size for side in (0, 1)]
            told.append(
                f"validate: at {band_name(*depths)} the halves of the stations have {counts[0]} and {counts[1]}; a variance of "
                f"representativeness needs {MIN_STATIONS}: coverage is told without it"
            )
    return told


def steps(config: Config) -> list[Step]:
    """Observations, matchups, differences and scores, and rivals and their comparison, as far as these are configured.

    The stations are read once, and only when it comes to them. How many sensors there are is not known before that: workloads
    are those of one block of sensors.
    """
    if not config.stations:
        return []
    task, domain = Matchups.of(config), Domain.of(config)
    days, estimates = domain.days.size, task.estimates
    found = lru_cache(maxsize=1)(partial(observations.sensors_of, config.stations, domain))
    # Stations are not read before there is something to compare them with.
    made = (
        *collocate.ard_stores(task.profiles.model.products),
        collocate.MOMENTS_STORE,
        collocate.STORE,
        covariances.STORE,
        invert.STORE,
    )
    series = (observations.STORE, matchups.STORE)
    expected = Expected(domain.grid)

    def of_some(make: Callable[[int], Workload], count: int) -> Callable[[], Workload]:
        def listed() -> Workload:
            whole = make(count)
            return replace(whole, name=f"{whole.name}, for every {count} sensors")

        return listed

    def step(
        store: str,
        reads: tuple[str, ...],
        count: int,
        make: Callable[[int], Workload],
        plan: Callable[[Root, Mapping[str, str]], StagePlan],
    ) -> Step:
        return Step("validate", store, reads, of_some(make, count), plan, expected)

    found_steps = [
        step(
            observations.STORE,
            made,
            SENSORS_PER_STRETCH,
            partial(observations.workload, domain),
            lambda root, _: observations.plan(domain, root, found()),
        ),
        step(
            matchups.STORE,
            (*made, observations.STORE),
            SENSORS_PER_STRETCH,
            partial(matchups.workload, task),
            lambda root, versions: matchups.plan(task, root, versions, found()),
        ),
        step(
            DIFFERENCES_STORE,
            series,
            SENSORS_PER_BLOCK,
            partial(differences_workload, days),
            lambda root, versions: plan_differences(domain, root, versions, found()),
        ),
        step(
            STORE,
            (*series, DIFFERENCES_STORE),
            SENSORS_PER_BLOCK,
            partial(workload, days, len(estimates.names)),
            lambda root, versions: plan(domain, estimates, root, versions, found()),
        ),
    ]
    for name in config.rivals:
        settings = rivals.RivalSettings.of(config, name)
        found_steps.append(
            step(
                rivals.store_name(name),
                (observations.STORE,),
                SENSORS_PER_STRETCH,
                partial(rivals.workload, settings),
                partial(_plan_rival, settings, found),
            )
        )
    if config.rivals:
        compared = dict(config.rivals)
        found_steps.append(
            step(
                paired.STORE,
                (*series, *map(rivals.store_name, compared)),
                SENSORS_PER_BLOCK,
                partial(paired.workload, days, list(compared.values())),
                lambda root, versions: paired.plan(domain, compared, root, versions, found()),
            )
        )
    return found_steps


def _plan_rival(settings: rivals.RivalSettings, found: Callable[[], Found], root: Root, _: Mapping[str, str]) -> StagePlan:
    return rivals.plan(settings, root, found())
