"""Layers: means of the profiles between fixed depths and their standard deviations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from deepprofile.analysis.accessor import unexpressed_variance
from deepprofile.config import Config
from deepprofile.core.basis import basis_mean
from deepprofile.core.factors import factor_projection
from deepprofile.execution.blocks import Block, Job, Outcome, Workload, grid_blocks
from deepprofile.stages import covariances, invert
from deepprofile.stages.domain import Domain
from deepprofile.stages.increments import BlockInputs
from deepprofile.stages.plan import Expected, StagePlan, Step, VersionPlan
from deepprofile.stages.profiles import Profiles, prototype
from deepprofile.stages.publish import schemas
from deepprofile.stages.publish.schemas import LAYERS, ROOT_ZONE
from deepprofile.stages.publish.years import StoreYear, provisional_days, stretch_days
from deepprofile.storage.fingerprints import fingerprint
from deepprofile.storage.objects import copy_objects
from deepprofile.storage.roots import Root, part_name
from deepprofile.storage.stores import objects_in, read_region, write_shards

# The version of what turns profiles into layers.
ALGORITHM: Final = 1
STORE: Final = "layers"
STAGE: Final = "publish/layers"
# The arrays: of layers, which have that dimension between time and space, and of the root zone.
_OF_LAYERS: Final = ("soil_moisture", "standard_deviation")
_OF_ROOT_ZONE: Final = ("root_zone_soil_moisture", "root_zone_standard_deviation")
Sides = tuple[tuple[int, ...], tuple[int, ...]]
_ARRAYS: Final[Mapping[str, Sides]] = dict.fromkeys(_OF_LAYERS, ((), (len(LAYERS),))) | dict.fromkeys(_OF_ROOT_ZONE, ((), ()))


@dataclass(frozen=True)
class LayerWeights:
    """What turns coefficients and factors of covariances into means of layers and their variances.

    ``basis`` (layer, degree): means of the basis; ``projection`` (layer, entry, column): see ``factor_projection``;
    ``remainder`` (layer,): variance of what polynomials cannot express, m6 m-6.
    """

    basis: NDArray[np.float64]
    projection: NDArray[np.float64]
    remainder: NDArray[np.float64]


def layer_weights(attrs: Mapping[Any, Any], order: int, depths: tuple[tuple[float, float], ...]) -> LayerWeights:
    """Of layers between these depths, m, of profiles with these attributes."""
    top, bottom = np.array(depths, np.float64).T
    basis = basis_mean(top, bottom, order)
    return LayerWeights(basis, factor_projection(basis), unexpressed_variance(attrs, top, bottom, order))


@lru_cache(maxsize=4)
def _weights(profiles: Profiles) -> LayerWeights:
    """Those of a configuration; a worker makes them once."""
    return layer_weights(prototype(profiles).attrs, profiles.degrees - 1, (*LAYERS, ROOT_ZONE))


def layer_means(coefficients: NDArray[np.float32], basis: NDArray[np.float64]) -> NDArray[np.float32]:
    """Means of layers (day, layer, row, column) of profiles (degree, day, row, column); NaN where there is none.

    Each is summed in the same order whatever the shape of the block.
    """
    _, days, rows, columns = coefficients.shape
    out = np.empty((days, len(basis), rows, columns), np.float32)
    _means(coefficients.reshape(len(coefficients), days, -1), basis, out.reshape(days, len(basis), -1))
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def _means(coefficients: Any, basis: Any, out: Any) -> None:
    degrees, days, cells = coefficients.shape
    for day in range(days):
        for layer in range(basis.shape[0]):
            for cell in range(cells):
                total = 0.0
                for k in range(degrees):
                    total += basis[layer, k] * coefficients[k, day, cell]
                out[day, layer, cell] = total


def pattern_deviations(factors: NDArray[np.float32], weights: LayerWeights) -> NDArray[np.float32]:
    """Standard deviations of layers (cell, pattern, layer) from the factors of covariances (cell, pattern, entry)."""
    out = np.empty((*factors.shape[:2], len(weights.remainder)), np.float32)
    _deviations(factors, weights.projection, weights.remainder, out)
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def _deviations(factors: Any, projection: Any, remainder: Any, out: Any) -> None:
    for cell in range(factors.shape[0]):
        for pattern in range(factors.shape[1]):
            for layer in range(remainder.size):
                variance = remainder[layer]
                for column in range(projection.shape[2]):
                    along = 0.0
                    for entry in range(factors.shape[2]):
                        along += projection[layer, entry, column] * factors[cell, pattern, entry]
                    variance += along * along
                out[cell, pattern, layer] = np.sqrt(variance)


@njit(cache=True, nogil=True, error_model="numpy")
def _of_patterns(deviations: Any, patterns: Any, means: Any, out: Any) -> None:
    """Deviations (day, layer, cell) of the pattern of each day and cell; NaN where there is no profile."""
    days, layers, cells = out.shape
    for day in range(days):
        for layer in range(layers):
            for cell in range(cells):
                there = not np.isnan(means[day, layer, cell])
                out[day, layer, cell] = deviations[cell, patterns[day, cell], layer] if there else np.nan


@dataclass(frozen=True)
class LayersBlock:
    """Computes the layers of a block of profiles, stretch of days by stretch of days; those without change are taken over."""

    profiles: Profiles
    profile_url: str
    covariance_url: str
    stretch: int
    url: str

    def __call__(self, block: Block, given: BlockInputs) -> Outcome:
        """See ``deepprofile.execution.blocks.Job``."""
        _, rows, columns = block.region
        own, weights = (slice(*rows), slice(*columns)), _weights(self.profiles)
        changed = list(changed_stretches(block, given, self.stretch, self.url, _ARRAYS))
        if not changed:
            return Outcome()
        # Chunks hold many days: they are read once.
        days = slice(changed[0][0], changed[-1][1])
        coefficients = read_region(self.profile_url, "coefficients", (slice(None), days, *own))
        patterns = read_region(self.profile_url, "pattern", (days, *own))
        factors = read_region(self.covariance_url, "covariance_factor", own)
        deviations = pattern_deviations(factors.reshape(-1, *factors.shape[2:]), weights)
        read, written = coefficients.nbytes + patterns.nbytes + factors.nbytes, 0
        for first, stop in changed:
            within = slice(first - days.start, stop - days.start)
            means = layer_means(np.ascontiguousarray(coefficients[:, within]), weights.basis)
            shape = (*means.shape[:2], -1)
            found = np.empty_like(means)
            of_days = patterns[within]
            _of_patterns(deviations, of_days.reshape(len(of_days), -1), means.reshape(shape), found.reshape(shape))
            corner = (rows[0], columns[0])
            for of_layers, of_root_zone, values in zip(_OF_LAYERS, _OF_ROOT_ZONE, (means, found), strict=True):
                written += write_shards(self.url, of_layers, (first, 0, *corner), values[:, :-1], sparse=True)
                written += write_shards(self.url, of_root_zone, (first, *corner), values[:, -1], sparse=True)
        return Outcome(read, written)


def changed_stretches(
    block: Block, given: BlockInputs, stretch: int, url: str, arrays: Mapping[str, Sides]
) -> Iterator[tuple[int, int]]:
    """Stretches of a block's days in which a day has changed; the objects of all others are taken over.

    ``arrays``: along time, row and column, each with the sizes of its dimensions before time, and between time and row.
    """
    (start, end), rows, columns = block.region
    fresh = np.zeros(end - start, bool)
    fresh[given.fresh(end - start)] = True
    for first in range(start, end, stretch):
        stop = min(first + stretch, end)
        if given.earlier is None or fresh[first - start : stop - start].any():
            yield first, stop
            continue
        names: list[str] = []
        for array, (before, between) in arrays.items():
            corner = (*(0 for _ in before), first, *(0 for _ in between), rows[0], columns[0])
            size = (*before, stop - first, *between, rows[1] - rows[0], columns[1] - columns[0])
            names += objects_in(url, array, corner, size)
        if given.earlier.url != url:
            copy_objects(given.earlier.url, url, names)


def workload(profiles: Profiles) -> Workload:
    """Blocks of all years and their cost."""
    return Workload.joined([_workload_of_year(profiles, year) for year in profiles.domain.years])


def _workload_of_year(profiles: Profiles, year: Domain) -> Workload:
    grid, blocks, cells = year.grid, year.blocks, year.cells_in_block
    degrees, count, days = profiles.degrees, len(LAYERS) + 1, min(stretch_days(year), year.length)
    entries = degrees * (degrees + 1) // 2
    return Workload(
        name="publish: layers",
        blocks=grid_blocks((year.length, *grid.shape), (blocks.days, blocks.cells, blocks.cells), year.year),
        # Coefficients and patterns; of a stretch the same once more, means and deviations, as computed and as a shard; the
        # factors and what they give.
        memory_per_block=cells
        * ((year.days_in_block + days) * (degrees * 4 + 4) + days * count * 16 + profiles.patterns * (entries * 6 + count * 4)),
        bytes_in=year.cells * (year.length * (degrees * 2 + 1) + profiles.patterns * entries * 2),
        bytes_out=year.cells * year.length * count * 4,
    )


def plan(profiles: Profiles, root: Root, versions: Mapping[str, str]) -> StagePlan:
    """Plan the layers of every year."""
    return StagePlan(STAGE, STORE, tuple(_plan_year(profiles, year, root, versions) for year in profiles.domain.years))


def _plan_year(profiles: Profiles, year: Domain, root: Root, versions: Mapping[str, str]) -> VersionPlan:
    products = profiles.model.comparison.products
    known, stretch = StoreYear.of(year, invert.STORE, invert.STAGE, root, versions), stretch_days(year)
    provisional = provisional_days(year, products, root, versions)
    made = schemas.layers(year, provisional, stretch, products)
    covariance, store = versions[covariances.STORE], part_name(STORE, year.year)
    layout = {name: (v.shards, v.chunks, v.stored_dtype) for name, v in made.variables.items()}
    settled = fingerprint("layers", ALGORITHM, dict(made.attrs), layout, covariance, str(year.first_day))
    version = fingerprint(settled, known.version, provisional.tolist())
    url = root.version(store, version)
    task = LayersBlock(profiles, known.url, root.version(covariances.STORE, covariance), stretch, url)
    by_day = known.day_fingerprints(settled)
    job = Job(_workload_of_year(profiles, year), task, by_day.fingerprint, by_day.static_fingerprint, lambda _: BlockInputs())
    inputs = {part_name(invert.STORE, year.year): known.version, covariances.STORE: covariance}
    return VersionPlan(store, version, made, job, url, inputs, marks=by_day, part=year.year)


def steps(config: Config) -> list[Step]:
    """The layers."""
    profiles = Profiles.of(config)
    expected = Expected(profiles.domain.grid, days=profiles.domain.days)
    reads = (invert.STORE, covariances.STORE)
    return [Step("publish", STORE, reads, partial(workload, profiles), partial(plan, profiles), expected)]
