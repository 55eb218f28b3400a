"""Invert: analysis-ready stores and weights to profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from deepprofile.config import Config, Inversion
from deepprofile.core import kernels
from deepprofile.core.error_model import OWN, LayerErrors
from deepprofile.core.invert import covariances_of_arrays, invert_arrays, invert_stack
from deepprofile.core.layers import OBSERVATION, Layout, check_values, stack_products
from deepprofile.core.memory import (
    FILTERS,
    exponential_filters,
    reach,
    remember,
    remembered,
    remembered_errors,
    with_memory,
)
from deepprofile.core.parameters import Model, Parameters, cell_parameters, default_order, product_patterns
from deepprofile.core.prior import Prior
from deepprofile.execution.blocks import Block, Job, Outcome, Workload, grid_blocks
from deepprofile.execution.ledger import Ledger
from deepprofile.grids.grids import Grid
from deepprofile.stages import bounds, collocate, gate, ingest, schemas
from deepprofile.stages.analysis_ready import Source, cached_overlaps
from deepprofile.stages.collocate import Comparison, ErrorModel
from deepprofile.stages.domain import Domain
from deepprofile.stages.increments import BlockInputs, DayFingerprints, day_fingerprints_of, spans
from deepprofile.stages.manifest import ledger_url
from deepprofile.stages.plan import Expected, StagePlan, Step
from deepprofile.storage.fingerprints import fingerprint
from deepprofile.storage.stores import Root, Template, quantize, read_region, write_shards

# The version of what turns daily means and the error model into profiles.
ALGORITHM: Final = 3
STORE: Final = "profile"


def _prior(settings: Inversion) -> Prior:
    return Prior(std=settings.prior.std, correlation_length=settings.prior.correlation_length)


@dataclass(frozen=True)
class Profiles:
    """What the profiles depend on.

    Attributes
    ----------
    model
        The error model, with the domain and the products.
    settings
        Of the inversion.
    """

    model: ErrorModel
    settings: Inversion

    @classmethod
    def of(cls, config: Config) -> Profiles:
        """As configured."""
        return cls(ErrorModel.of(config), config.inversion)

    @property
    def domain(self) -> Domain:
        """The target grid and the days."""
        return self.model.domain

    @property
    def layout(self) -> Layout:
        """The observations of a profile: every layer of every product, and what retrievals said in the past."""
        layout, _ = self.model.comparison.design()
        return with_memory(layout) if self.settings.direction else layout

    @property
    def degrees(self) -> int:
        """Coefficients of a profile."""
        layout, _ = self.model.comparison.design()
        order = self.settings.order
        return 1 + (default_order(self.settings.method, layout) if order is None else order)

    @property
    def patterns(self) -> int:
        """Patterns of available products that have a covariance."""
        return len(product_patterns(self.layout))


@lru_cache(maxsize=4)
def _model(comparison: Comparison, settings: Inversion) -> Model:
    """What is the same in every cell; a worker makes it once."""
    layout, _ = comparison.design()
    order = default_order(settings.method, layout) if settings.order is None else settings.order
    layout = with_memory(layout) if settings.direction else layout
    return Model.build(layout, settings.method, order, _prior(settings), two_scales=True)


@dataclass(frozen=True)
class Inverter:
    """Turns arrays of products into profiles, without labels.

    Attributes
    ----------
    comparison
        The observations.
    settings
        Of the inversion.
    """

    comparison: Comparison
    settings: Inversion

    @property
    def model(self) -> Model:
        """What is the same in every cell."""
        return _model(self.comparison, self.settings)

    def parameters(
        self, errors: LayerErrors, cell_bounds: tuple[NDArray[np.float32], NDArray[np.float32]] | None
    ) -> Parameters:
        """Errors and limits of cells, from the error model, each (row, column, observation).

        ``cell_bounds``: the lower and the upper bound of each cell, (row, column), where they are no numbers.
        """
        limits = self.settings.constant_bounds if cell_bounds is None else cell_bounds
        assert limits is not None
        low, high = (np.asarray(limit, np.float64) for limit in limits)
        direction = self.settings.direction
        of_layers = errors._replace(error_variance=errors.error_variance.astype(np.float64))
        if direction:
            layout, _ = self.comparison.design()
            of_layers = remembered_errors(of_layers, layout, self.settings.prior.std, direction)
        return cell_parameters(of_layers, None, low, high, self.model)

    def profiles(
        self,
        series: Mapping[str, NDArray[np.float32]],
        parameters: Parameters,
        filters: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> kernels.Profiles:
        """Profiles (row, column, day, ...), with the patterns of whole products, of products (day, layer, row, column) by name.

        ``filters``: of each remembered product, (row, column, day, filter).

        Raises
        ------
        ValueError
            For values that cannot be soil moisture in m3 m-3.
        """
        layout, _ = self.comparison.design()
        arrays = []
        for name in layout.products:
            check_values(series[name], name=name)
            arrays.append(series[name].transpose(2, 3, 0, 1))
        if self.settings.direction:
            arrays += [(filters or {})[name] for name in remembered(layout)]
        return invert_arrays(arrays, parameters, self.model, product_patterns(self.model.layout))

    def covariances(self, parameters: Parameters) -> NDArray[np.float32]:
        """Posterior covariances (row, column, pattern, degree, degree), m6 m-6: they do not depend on time."""
        return covariances_of_arrays(parameters.errors, self.model, np.float32, product_patterns(self.model.layout))


def _prototype(profiles: Profiles) -> xr.Dataset:
    """The result of one cell and day without data: every array, attribute and coordinate that a profile has."""
    layout, _ = profiles.model.comparison.design()
    settings, products = profiles.settings, {}
    for p, name in enumerate(layout.products):
        own = layout.product_index == p
        products[name] = xr.DataArray(
            np.full((1, 1, 1, int(own.sum())), np.nan, np.float32),
            dims=("y", "x", "time", "layer"),
            coords={
                "time": pd.DatetimeIndex(["2000-01-01"]),
                "layer_top": ("layer", layout.top[own]),
                "layer_bottom": ("layer", layout.bottom[own]),
            },
        )
    some = LayerErrors(*(np.full(layout.size, v) for v in (0.002, 0.001, 0.25, 0.004, OWN)))
    errors = xr.Dataset({name: (OBSERVATION, part) for name, part in some._asdict().items()})
    stack, errors = stack_products(products), errors.assign_coords(layout.coordinates())
    if settings.direction:
        stack, errors = remember(stack, errors, _prior(settings), settings.direction)
    listed = product_patterns(stack.layout)
    return invert_stack(stack, errors, settings.method, settings.order, (0.0, 1.0), _prior(settings), listed)


def template(profiles: Profiles) -> Template:
    """The store before anything is computed."""
    return schemas.profile(profiles.domain, _prototype(profiles))


@dataclass(frozen=True)
class InvertBlock:
    """Computes one block: reads the products, regrids them, inverts, writes the shards."""

    target: Grid
    sources: tuple[Source, ...]
    weights_url: str
    comparison: Comparison
    settings: Inversion
    first_day: np.datetime64
    length: int
    url: str
    # Of the store of the bounds, where they differ from cell to cell.
    bounds_url: str | None = None

    def __call__(self, block: Block, given: BlockInputs) -> Outcome:
        """See ``deepprofile.execution.blocks.Job``."""
        days, rows, columns = block.region
        cells = (rows[1] - rows[0], columns[1] - columns[0])
        fresh = given.fresh(days[1] - days[0])
        stretches = [(days[0] + a, days[0] + b) for a, b in spans(fresh)]
        series, filters, read = self._read(stretches, rows, columns)
        errors = collocate.read_errors(self.weights_url, slice(*rows), slice(*columns))
        limits = bounds.read(self.bounds_url, rows, columns) if self.bounds_url is not None else None
        read += sum(part.nbytes for part in errors)
        parameters = Inverter(self.comparison, self.settings).parameters(errors, limits)
        profiles = self.solve(series, parameters, filters)
        arrays: dict[str, NDArray[Any]] = {
            "coefficients": profiles.coefficients.transpose(2, 3, 0, 1),
            "flags": profiles.flags.transpose(2, 0, 1),
            "pattern": profiles.pattern.transpose(2, 0, 1),
        }
        before: dict[str, NDArray[Any]] = {}
        if given.earlier is not None:
            region = {"time": slice(days[0], min(days[1], given.earlier.length)), "y": slice(*rows), "x": slice(*columns)}
            for name, dims in schemas.PROFILE_IN_TIME.items():
                before[name] = read_region(given.earlier.url, name, tuple(region.get(dim, slice(None)) for dim in dims))
            read += sum(array.nbytes for array in before.values())
        arrays["coefficients"] = quantize(arrays["coefficients"], schemas.COEFFICIENT_PRECISION)
        # Bounds that all cells of the block share have no dimensions.
        low, high = (np.broadcast_to(limit, cells) for limit in (parameters.limits.low, parameters.limits.high))
        computed = np.array(fresh, np.int64)
        details = gate.of_block(arrays["coefficients"][: len(fresh)], computed, before.get("coefficients"), low, high)
        if given.earlier is not None and given.earlier.unchanged:
            kept = np.array(given.earlier.unchanged)
            for name, array in arrays.items():
                joined = np.empty((days[1] - days[0], *array.shape[1:]), array.dtype)
                joined[kept] = before[name][kept]
                joined[fresh] = array[: len(fresh)]
                arrays[name] = joined
        details["profiles"] = int(np.isfinite(arrays["coefficients"][:, 0]).sum())
        corner = (days[0], rows[0], columns[0])
        written = write_shards(self.url, "coefficients", (corner[0], 0, *corner[1:]), arrays["coefficients"])
        for name in ("flags", "pattern"):
            written += write_shards(self.url, name, corner, arrays[name])
        # What does not depend on time belongs to the first block of days.
        if block.index[0] == 0:
            static: dict[str, NDArray[Any]] = {
                "posterior_covariance": Inverter(self.comparison, self.settings).covariances(parameters),
                "prior_mean": parameters.limits.prior_mean,
                "lower_bound": low,
                "upper_bound": high,
            }
            for name, dims in schemas.PROFILE_STATIC.items():
                written += write_shards(self.url, name, (*corner[1:], *[0] * len(dims)), static[name].astype(np.float32))
        return Outcome(read, written, details=details)

    def _read(
        self, stretches: Sequence[tuple[int, int]], rows: tuple[int, int], columns: tuple[int, int]
    ) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.float32]], int]:
        """Of some stretches of days, the products and the filters of those that are remembered, and how many bytes were read.

        Without a stretch, one day without data: what does not depend on time is written all the same.
        """
        direction = self.settings.direction
        kept = remembered(self.comparison.design()[0]) if direction else []
        cells = (rows[1] - rows[0], columns[1] - columns[0])
        series, filters, size = {}, {}, 0
        for source in self.sources:
            if not stretches:
                series[source.name] = np.full((1, len(source.layers), *cells), np.nan, np.float32)
                filters[source.name] = np.full((*cells, 1, len(FILTERS)), np.nan, np.float32)
                continue
            before, after = reach(direction if source.name in kept else None)
            parts, pasts = [], []
            for first, stop in stretches:
                hull = max(first - before, 0), min(stop + after, self.length)
                values = source.read(self.target, hull, rows, columns)
                size += values.nbytes
                own = slice(first - hull[0], stop - hull[0])
                parts.append(values[own])
                if direction and source.name in kept:
                    surface = values[:, 0].transpose(1, 2, 0).reshape(-1, hull[1] - hull[0])
                    pasts.append(exponential_filters(surface, direction)[:, own].reshape(*cells, stop - first, -1))
            series[source.name] = np.concatenate(parts)
            if pasts:
                filters[source.name] = np.concatenate(pasts, axis=2)
        return series, {name: filters[name] for name in kept}, size

    def solve(
        self,
        series: Mapping[str, NDArray[np.float32]],
        parameters: Parameters,
        filters: Mapping[str, NDArray[np.float32]],
    ) -> kernels.Profiles:
        """The profiles of what was read; see ``Inverter.profiles``."""
        return Inverter(self.comparison, self.settings).profiles(series, parameters, filters)


def workload(profiles: Profiles) -> Workload:
    """Blocks and their cost."""
    domain, layout = profiles.domain, profiles.layout
    grid, days, blocks, cells = domain.grid, domain.days.size, domain.blocks, domain.cells_in_block
    degrees, n, patterns = profiles.degrees, layout.size, profiles.patterns
    # A remembered product is read with the days around the block, and turned so that its days lie side by side.
    halo = cells * len(layout.pasts) * (sum(reach(profiles.settings.direction)) + domain.days_in_block) * 3 * 4
    return Workload(
        name="invert",
        blocks=grid_blocks((days, *grid.shape), (blocks.days, blocks.cells, blocks.cells)),
        # Inputs, as read and in the order of the cells; coefficients as computed, rounded, as published, as joined from both,
        # and as a shard; flags and a few fields of the checks. Without time: the covariances, as computed, and two and a half
        # times as much while they become a shard.
        memory_per_block=cells * domain.days_in_block * (2 * n * 4 + 5 * degrees * 4 + 40)
        + cells * patterns * degrees**2 * 14
        + halo,
        bytes_in=domain.cells * days * n * 4,
        bytes_out=domain.cells * (days * (degrees * 4 + 6) + patterns * degrees**2 * 4),
    )


def plan(profiles: Profiles, root: Root, versions: Mapping[str, str]) -> StagePlan:
    """Plan the inversion.

    Raises
    ------
    StoreError
        Where the weights were made for another grid or other products.
    """
    made, comparison, settings = (
        template(profiles),
        profiles.model.comparison,
        profiles.settings,
    )
    products, target, days = profiles.model.products, profiles.domain.grid, profiles.domain.days
    inputs = {name: versions[name] for name in (*collocate.ard_stores(products), collocate.STORE)}
    shards = {name: (v.shards, v.chunks) for name, v in made.variables.items()}
    inversion, gridded = settings.model_dump(mode="json"), bounds.are_gridded(settings)
    limits = None
    if gridded:
        # What they are counts, not where their files lie: the version of the store says it, and of each block its record.
        inversion["bounds"] = "grid"
        inputs[bounds.STORE] = versions[bounds.STORE]
        records = Ledger(ledger_url(root, bounds.STAGE, versions[bounds.STORE])).read().values()
        limits = {record.index: record.fingerprint for record in records}
    # True: fingerprints of stores that are there have it.
    setting = [ALGORITHM, dict(made.attrs), shards, comparison, inversion, str(days[0]), True]
    version = fingerprint("invert", setting, inputs, days.size)
    weights = versions[collocate.STORE]
    sources = collocate.sources(products, target, root, versions)
    task = InvertBlock(
        target,
        sources,
        root.version(collocate.STORE, weights),
        comparison,
        settings,
        days[0],
        days.size,
        root.version(STORE, version),
        root.version(bounds.STORE, versions[bounds.STORE]) if gridded else None,
    )
    of_products = [
        day_fingerprints_of(root, ingest.stage_name(product.name), versions[ingest.store_name(product.name)])
        for product in products
    ]
    count = days.size
    # Of a version that was made before there were any there are none.
    of_days = all(len(each) == count for each in of_products)
    direction = settings.direction
    kept = [comparison.products.index(name) for name in remembered(comparison.design()[0])] if direction else []
    before, after = reach(direction)

    def mark(k: int) -> str:
        # A day is made from its own values, and from what retrievals said around it.
        around = [of_products[p][max(k - before, 0) : k + after + 1] for p in kept]
        return fingerprint(*(own[k] for own in of_products), *around)

    marks = tuple(map(mark, range(count))) if of_days else (version,) * count
    broken = [_Broken.of(target, root, source, versions[ingest.store_name(source.name)]) for source in sources]

    settled = fingerprint(setting, weights)

    def static_fingerprint(block: Block) -> str:
        failures = [each.within(block, *((before, after) if p in kept else (0, 0))) for p, each in enumerate(broken)]
        of_bounds = [] if limits is None else [limits[block.index[1:]]]
        return fingerprint("invert", settled, block.index, block.region[1:], failures, *of_bounds)

    by_day = DayFingerprints(marks, static_fingerprint)
    listed = Job(workload(profiles), task, by_day.fingerprint, static_fingerprint, lambda _: BlockInputs())
    return StagePlan("invert", STORE, version, made, listed, task.url, inputs, marks=by_day)


@dataclass(frozen=True)
class _Broken:
    """Days of blocks of a product of which a granule could not be used: they may be better when the product is ingested again.

    ``places``: (days, rows, columns) of such blocks on the product's grid, each with its days.
    """

    source: Source
    target: Grid
    places: tuple[tuple[tuple[tuple[int, int], ...], tuple[int, ...]], ...]

    @classmethod
    def of(cls, target: Grid, root: Root, source: Source, version: str) -> _Broken:
        records = Ledger(ledger_url(root, ingest.stage_name(source.name), version)).read()
        found = [
            (record.region, tuple(record.region[0][0] + k for k in record.details["broken"]))
            for _, record in sorted(records.items())
            if record.details.get("broken") and record.region
        ]
        return cls(source, target, tuple(found))

    def within(self, block: Block, before: int = 0, after: int = 0) -> list[int]:
        """Such days among those that a block of the target reads, with so many before and after its own."""
        if not self.places:
            return []
        (start, stop), rows, columns = block.region
        y, x = cached_overlaps(self.source.grid, self.target)
        needed = (y.part(*rows, 0).needed, x.part(*columns, 0).needed)
        found: set[int] = set()
        for (_, *area), days in self.places:
            if all(low < b and a < high for (a, b), (low, high) in zip(area, needed, strict=True)):
                found.update(day for day in days if start - before <= day < stop + after)
        return sorted(found)


def steps(config: Config) -> list[Step]:
    """The profiles."""
    profiles = Profiles.of(config)
    gridded = (bounds.STORE,) if bounds.are_gridded(config.inversion) else ()
    reads = (*collocate.ard_stores(profiles.model.products), collocate.STORE, *gridded)
    expected = Expected(profiles.domain.grid, profiles.layout.products)
    return [Step("invert", STORE, reads, partial(workload, profiles), partial(plan, profiles), expected)]
