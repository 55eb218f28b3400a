"""Matchups: what every estimate says at every sensor, day by day, of which a run computes the days that have changed.

A block has some sensors and the days of one block of the profiles. It goes once through each shard that its sensors lie in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from deepprofile.analysis.accessor import unexpressed_variance
from deepprofile.config import Config
from deepprofile.core.basis import MAX_DEPTH_M, basis_mean
from deepprofile.core.collocation import MOMENTS
from deepprofile.core.error_model import CellModel, LayerErrors, Settings, block_errors, plan_comparisons
from deepprofile.core.factors import entry_places, factor_projection
from deepprofile.evaluation.comparison import step_function_weights
from deepprofile.execution.blocks import Block, Job, Outcome, Workload, grid_blocks
from deepprofile.execution.ledger import Ledger
from deepprofile.sources.products import Product
from deepprofile.stages import bounds, collocate, covariances, invert, observations, schemas
from deepprofile.stages.analysis_ready import TOGETHER, Source
from deepprofile.stages.attributes import grid_attributes
from deepprofile.stages.collocate import Comparison, ErrorModel, layout_of
from deepprofile.stages.domain import Domain
from deepprofile.stages.increments import BlockInputs, DayFingerprints, day_fingerprints_of
from deepprofile.stages.manifest import ledger_url
from deepprofile.stages.observations import Found, Place
from deepprofile.stages.plan import StagePlan, VersionPlan
from deepprofile.stages.profiles import Inverter, Profiles
from deepprofile.stages.schemas import SENSORS_PER_STRETCH
from deepprofile.storage.filesystems import zarr_store
from deepprofile.storage.fingerprints import fingerprint
from deepprofile.storage.roots import Root, part_name, parts_of, store_of
from deepprofile.storage.stores import Template, read_region, write_shards

# The version of what turns profiles and products into matchups.
ALGORITHM: Final = 2
STORE: Final = "matchups"
# The store that has every sensor of all years.
SCORES: Final = "validation"
# The stores of rivals begin so.
RIVALS: Final = "rivals/"
FUSED, AVERAGE = "fused", "plain average"
# Sensors whose ends lie nearer than this are points.
_POINT_M: Final = 1e-6
_LAYER_M: Final = 1e-6

Values = NDArray[np.float32]


@dataclass(frozen=True)
class Estimates:
    """The estimates that are compared with sensors.

    Attributes
    ----------
    parents
        Names of the models among the products, in their order. Retrievals come on some days only, and to judge all estimates on
        those would leave few samples.
    without
        Name of the fusion of the models alone; None where no retrieval goes into the fusion, or fewer than two models do.
    """

    parents: tuple[str, ...]
    without: str | None

    @classmethod
    def of(cls, products: Iterable[Product]) -> Estimates:
        """Of these products."""
        chosen = list(products)
        parents = tuple(product.name for product in chosen if product.spatially_complete)
        retrievals = [product.short_title for product in chosen if not product.spatially_complete]
        fused = bool(retrievals) and len(parents) >= 2
        return cls(parents, f"fused, no {' and '.join(retrievals)}" if fused else None)

    @property
    def stored(self) -> list[str]:
        """Names of the estimates in the store; the average follows from them."""
        return [FUSED, *([self.without] if self.without is not None else []), *self.parents]

    @property
    def names(self) -> list[str]:
        """Names of all estimates; the average, where there is one, is the last."""
        return [*self.stored, *([AVERAGE] if len(self.parents) > 1 else [])]


@dataclass(frozen=True)
class Matchups:
    """What the matchups depend on: the profiles that are compared, and the estimates beside them."""

    profiles: Profiles
    estimates: Estimates

    @classmethod
    def of(cls, config: Config) -> Matchups:
        """As configured."""
        profiles = Profiles.of(config)
        return cls(profiles, Estimates.of(profiles.model.products))

    @property
    def domain(self) -> Domain:
        """The target grid and the days."""
        return self.profiles.domain

    @property
    def models_alone(self) -> ErrorModel:
        """The error model of the models without the retrievals."""
        model = self.profiles.model
        parents = tuple(product for product in model.products if product.name in self.estimates.parents)
        return replace(model, products=parents)


def template(task: Matchups, year: Domain, stations: xr.Dataset) -> Template:
    """The store of a year before anything is computed."""
    return schemas.matchups(year, task.estimates.stored, stations)


class _Still(NamedTuple):
    """What does not change from day to day at the sensors of a block.

    ``variance``: that of the fused estimate, m6 m-6, (availability, sensor). ``errors``: the error model without retrievals
    of the block's cells, each (1, cell, observation); None where it is not needed. ``bounds``: of these cells, (1, cell),
    where they are no numbers.
    """

    variance: NDArray[np.float64]
    errors: LayerErrors | None
    bounds: tuple[Values, Values] | None


@dataclass(frozen=True, eq=False)
class MatchupBlock:
    """What every estimate says at some sensors on some days.

    Two are equal where what does not change from day to day is the same: those of the years of one run are. ``first``: the
    first day of the store, in days since 1970-01-01.
    """

    task: Matchups
    sources: tuple[Source, ...]
    first: int
    profile_url: str
    covariance_url: str
    moments_url: str
    url: str

    @property
    def _still(self) -> tuple[str, str]:
        return self.covariance_url, self.moments_url

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MatchupBlock) and self._still == other._still

    def __hash__(self) -> int:
        return hash(self._still)

    def __call__(self, block: Block, given: BlockInputs) -> Outcome:
        """See ``deepprofile.execution.blocks.Job``."""
        days, sensors = block.region
        places: tuple[Place, ...] = given.inputs
        count, names = days[1] - days[0], self.task.estimates.stored
        values = np.full((count, len(names), len(places)), np.nan, np.float32)
        deviation = np.full((count, len(places)), np.nan, np.float32)
        read = 0
        if given.earlier is not None and given.earlier.unchanged:
            kept, url = np.array(given.earlier.unchanged), given.earlier.url
            span, own = slice(days[0], min(days[1], given.earlier.length)), slice(*sensors)
            before = read_region(url, "soil_moisture", (span, slice(None), own))
            widths = read_region(url, "standard_deviation", (span, own))
            values[kept], deviation[kept], read = before[kept], widths[kept], before.nbytes + widths.nbytes
        fresh = np.array(given.fresh(count), int)
        if fresh.size:
            values[fresh], deviation[fresh], volume = self._estimates(places, days[0] + fresh)
            read += volume
        written = write_shards(self.url, "soil_moisture", (days[0], 0, sensors[0]), values)
        written += write_shards(self.url, "standard_deviation", (days[0], sensors[0]), deviation)
        return Outcome(read, written)

    def _estimates(self, places: Sequence[Place], days: NDArray[np.int64]) -> tuple[Values, Values, int]:
        """All estimates on some days (day, estimate, sensor), the standard deviation (day, sensor), and the bytes read."""
        cells, of_sensor = _cells_of(places)
        hull, within = (int(days[0]), int(days[-1]) + 1), days - days[0]
        order, target, shard = self.task.profiles.degrees - 1, self.task.domain.grid, self.task.domain.blocks.cells
        coefficients = np.empty((days.size, order + 1, len(cells)), np.float32)
        pattern = np.empty((days.size, len(cells)), np.int64)
        series, read = {}, 0
        for some, rows, columns in _tiles(cells, shard):
            region, near = (slice(*hull), rows, columns), cells[some] - (rows.start, columns.start)
            whole = read_region(self.profile_url, "coefficients", (slice(None), *region))
            coefficients[:, :, some] = whole[:, :, near[:, 0], near[:, 1]].swapaxes(0, 1)[within]
            read += whole.nbytes
            whole = read_region(self.profile_url, "pattern", region)
            pattern[:, some] = whole[:, near[:, 0], near[:, 1]][within]
            read += whole.nbytes
        for source in self.sources:
            found, volume = source.read_cells(target, (self.first + hull[0], self.first + hull[1]), cells)
            series[source.name] = found[within]
            read += volume
        still = _still(self, tuple(places))
        estimates = self.task.estimates
        values = np.full((days.size, len(estimates.stored), len(places)), np.nan, np.float32)
        for e, name in enumerate(estimates.stored):
            if name == FUSED:
                values[:, e] = _at_sensors(coefficients, of_sensor, places, order)
            elif name == estimates.without:
                values[:, e] = _at_sensors(self._without(series, still), of_sensor, places, order)
            else:
                layers = next(source.layers for source in self.sources if source.name == name)
                values[:, e] = layers_at_depths(series[name], layers, of_sensor, [place[2:] for place in places])
        variance = np.take_along_axis(still.variance, pattern[:, of_sensor], axis=0)
        deviation = np.where(np.isfinite(values[:, 0]), np.sqrt(variance), np.nan).astype(np.float32)
        return values, deviation, read

    def _without(self, series: Mapping[str, Values], still: _Still) -> Values:
        """Coefficients (day, degree, cell) of the fusion as it would be without retrievals."""
        assert still.errors is not None
        kept = {name: values[:, :, None] for name, values in series.items() if name in self.task.estimates.parents}
        models, settings = self.task.models_alone, self.task.profiles.settings
        inversion = Inverter(Comparison.of(models.products, ()), settings)
        found = inversion.profiles(kept, inversion.parameters(still.errors, still.bounds))
        coefficients: Values = found.coefficients[0].transpose(1, 2, 0)
        return coefficients


def _cells_of(places: Sequence[Place]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The cells of some sensors (cell, 2), in their order, and which of them each sensor is in."""
    position: dict[tuple[int, int], int] = {}
    of_sensor = [position.setdefault((row, column), len(position)) for row, column, _, _ in places]
    return np.array(list(position), np.int64).reshape(-1, 2), np.array(of_sensor, np.int64)


def _tiles(cells: NDArray[np.int64], size: int) -> list[tuple[NDArray[np.int64], slice, slice]]:
    """Cells by the shard that they lie in: their positions, and the rows and columns that hold them."""
    found: dict[tuple[int, int], list[int]] = {}
    for k, (row, column) in enumerate(cells.tolist()):
        found.setdefault((row // size, column // size), []).append(k)
    tiles = []
    for members in found.values():
        some = np.array(members)
        low, high = cells[some].min(axis=0), cells[some].max(axis=0) + 1
        tiles.append((some, slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1]))))
    return tiles


def _interval(top: float, bottom: float) -> tuple[float, float]:
    """What of the profile a sensor is compared with: equal depths for a point; see ``sensor_estimate`` of the stations."""
    top, bottom = min(top, MAX_DEPTH_M), min(bottom, MAX_DEPTH_M)
    return (top, top) if bottom - top < _POINT_M else (top, bottom)


@lru_cache(maxsize=4096)
def _basis(top: float, bottom: float, order: int) -> NDArray[np.float64]:
    """The basis at the depths of a sensor, shape (degree,)."""
    return basis_mean(*_interval(top, bottom), order)


@lru_cache(maxsize=4096)
def _layer_weights(layers: tuple[tuple[float, float], ...], top: float, bottom: float) -> NDArray[np.float64]:
    """By what the layers of a product count at the depths of a sensor, shape (layer,); a point lies in one layer."""
    tops, bottoms = np.array(layers).T
    top = min(top, MAX_DEPTH_M - _LAYER_M)
    return step_function_weights(tops, bottoms, top, min(max(bottom, top + _LAYER_M), MAX_DEPTH_M))


def _at_sensors(coefficients: Values, of_sensor: NDArray[np.int64], places: Sequence[Place], order: int) -> Values:
    """The profile at the depths of each sensor, (day, sensor), from coefficients (day, degree, cell)."""
    basis = np.array([_basis(top, bottom, order) for _, _, top, bottom in places])
    total = np.zeros((len(coefficients), len(places)))
    # Degree by degree: the sum is the same whatever the other sensors and days of the block.
    for degree in range(order + 1):
        total += basis[:, degree] * coefficients[:, degree, of_sensor]
    return total.astype(np.float32)


def layers_at_depths(
    series: Values,
    layers: tuple[tuple[float, float], ...],
    of_sensor: NDArray[np.int64],
    depths: Sequence[tuple[float, float]],
) -> Values:
    """The step function of a product at the depths of each sensor, (day, sensor), from its layers (day, layer, cell).

    ``layers``, ``depths``: top and bottom, m, of each layer and of each sensor. ``of_sensor``: the cell of each sensor.
    """
    weights = np.array([_layer_weights(layers, top, bottom) for top, bottom in depths])
    total = np.zeros((len(series), len(depths)))
    for layer in range(len(layers)):
        used = weights[:, layer] != 0.0
        total[:, used] += weights[used, layer] * series[:, layer, of_sensor[used]]
    return np.where((weights != 0.0).any(axis=1), total, np.nan).astype(np.float32)


@lru_cache(maxsize=2)
def _still(block: MatchupBlock, places: tuple[Place, ...]) -> _Still:
    """What the days of a block have in common; a worker remembers it while it goes from one stretch of days to the next."""
    cells, of_sensor = _cells_of(places)
    task = block.task
    order, shard = task.profiles.degrees - 1, task.domain.blocks.cells
    attrs = zarr.open_group(zarr_store(block.profile_url), mode="r").attrs.asdict()
    factors: NDArray[np.float64] | None = None
    limits = np.empty((2, 1, len(cells)), np.float32)
    gridded = task.profiles.settings.constant_bounds is None
    for some, rows, columns in _tiles(cells, shard):
        near = cells[some] - (rows.start, columns.start)
        whole = read_region(block.covariance_url, "covariance_factor", (rows, columns, slice(None), slice(None)))
        if factors is None:
            factors = np.empty((len(cells), *whole.shape[2:]))
        factors[some] = whole[near[:, 0], near[:, 1]]
        for k, name in enumerate(bounds.NAMES if gridded else ()):
            limits[k, 0, some] = read_region(block.covariance_url, name, (rows, columns))[near[:, 0], near[:, 1]]
    assert factors is not None
    basis = np.array([_basis(top, bottom, order) for _, _, top, bottom in places])
    projection, (_, columns_of) = factor_projection(basis), entry_places(order + 1)
    variance = np.zeros((factors.shape[1], len(places)))
    # Column by column of the factor, entry by entry: the sum is the same whatever the other sensors of the block.
    for column in range(order + 1):
        along = np.zeros_like(variance)
        for entry in np.flatnonzero(columns_of == column):
            along += factors[of_sensor, :, entry].T * projection[:, entry, column]
        variance += along**2
    rest = {depths: _unexpressed(attrs, *_interval(*depths), order) for depths in {place[2:] for place in places}}
    variance += np.array([rest[place[2:]] for place in places])
    errors = _errors_without(block, cells) if task.estimates.without is not None else None
    return _Still(variance, errors, (limits[0], limits[1]) if gridded else None)


def _unexpressed(attrs: Mapping[str, Any], top: float, bottom: float, order: int) -> float:
    return float(unexpressed_variance(attrs, np.array([top]), np.array([bottom]), order)[0])


def _errors_without(block: MatchupBlock, cells: NDArray[np.int64]) -> LayerErrors:
    """The error model of some cells, each (1, cell, observation), from those of the moments that concern the models alone."""
    task, target = block.task, block.task.domain.grid
    layout = layout_of(task.models_alone.products)
    whole_layout, whole = task.profiles.model.comparison.design()
    design = plan_comparisons(layout, ())
    kept = [whole_layout.products.index(name) for name in layout.products]
    place = np.flatnonzero(np.isin(whole_layout.product_index, kept))
    # Each series of the smaller list as the same combination of observations in the whole list.
    known = {tuple(one): k for k, one in enumerate(np.round(whole.weights, 12))}
    series = []
    for one in design.weights:
        wide = np.zeros(whole_layout.size)
        wide[place] = one
        series.append(known[tuple(np.round(wide, 12))])
    positions = {tuple(group): k for k, group in enumerate(whole.groups.tolist())}
    groups = [positions[tuple(series[s] for s in group)] for group in design.groups.tolist()]
    collocation = task.profiles.model.settings
    settings, reach = Settings(collocation.min_samples, collocation.window), collocation.window // 2
    found: dict[int, CellModel] = {}
    for some, rows, columns in _tiles(cells, task.domain.blocks.cells):
        region = (_widened(rows, reach, target.rows), _widened(columns, reach, target.columns))
        moments = read_region(block.moments_url, "moments", region)
        for k in some.tolist():
            own = [slice(int(at), int(at) + 1) for at in cells[k]]
            spans = [_widened(at, reach, size) for at, size in zip(own, target.shape, strict=True)]
            near = moments[tuple(slice(s.start - r.start, s.stop - r.start) for s, r in zip(spans, region, strict=True))]
            row, column = (slice(at.start - s.start, at.stop - s.start) for at, s in zip(own, spans, strict=True))
            found[k] = block_errors(near[:, :, groups], layout, design, settings, (row, column))
    of_cells = (found[k].of_layers for k in range(len(cells)))
    return LayerErrors._make(np.concatenate(parts, axis=1) for parts in zip(*of_cells, strict=True))


def _widened(span: slice, reach: int, size: int) -> slice:
    """A stretch of rows or columns with so many more on either side, within the grid."""
    return slice(max(span.start - reach, 0), min(span.stop + reach, size))


class SensorYear(NamedTuple):
    """The series of sensors in one year: its first day in the record, the sensors that it has, and the URL of each store."""

    start: int
    members: NDArray[np.int64]
    urls: Mapping[str, str]


@dataclass(frozen=True)
class SensorSeries:
    """The series of sensors over the whole record, as their stores hold them by year, each (sensor, day).

    ``days``: of the record. A sensor that a year does not have has no value in it.
    """

    days: int
    years: tuple[SensorYear, ...]

    @classmethod
    def of(cls, domain: Domain, root: Root, versions: Mapping[str, str], found: Found) -> SensorSeries:
        """Those of some versions of the stores."""
        years = []
        for year in domain.years:
            names = {store_of(name): name for name in versions if name.endswith(f"/{year.year}")}
            urls = {store: root.version(names[store], versions[names[store]]) for store in names if store in _of_sensors(names)}
            years.append(SensorYear(year.span[0] - domain.span[0], found.members(year), urls))
        return cls(domain.length, tuple(years))

    def of_store(self, store: str, name: str, span: tuple[int, int], along: slice | None = None) -> Values:
        """An array of a store at some sensors over the whole record, (day, sensor), or (day, ..., sensor) with ``along``."""
        first, after = span
        out: Values | None = None
        for year in self.years:
            low, high = np.searchsorted(year.members, span).tolist()
            region = (slice(None), *([] if along is None else [along]), slice(low, high))
            part = read_region(year.urls[store], name, region)
            if out is None:
                out = np.full((self.days, *part.shape[1:-1], after - first), np.nan, np.float32)
            out[year.start : year.start + len(part), ..., year.members[low:high] - first] = part
        assert out is not None
        return out

    def measured(self, first: int, after: int) -> Values:
        """What the sensors measured."""
        return self.of_store(observations.STORE, "soil_moisture", (first, after)).T

    def fused(self, first: int, after: int) -> Values:
        """The fused estimate, which is the first of all."""
        return self.of_store(STORE, "soil_moisture", (first, after), slice(0, 1))[:, 0].T

    def estimates(self, first: int, after: int, names: Estimates) -> dict[str, Values]:
        """What every estimate says, the average of the products too; NaN where there is none."""
        stored = self.of_store(STORE, "soil_moisture", (first, after), slice(None))
        return _with_average(dict(zip(names.stored, stored.transpose(1, 2, 0), strict=True)), names)

    def deviation(self, first: int, after: int) -> Values:
        """Standard deviation of the fused estimate."""
        return self.of_store(STORE, "standard_deviation", (first, after)).T


def _of_sensors(stores: Iterable[str]) -> list[str]:
    """Which stores have sensors and time."""
    return [store for store in stores if store in (observations.STORE, STORE) or store.startswith(RIVALS)]


def published_sensors(root: Root) -> tuple[xr.Dataset, SensorSeries]:
    """All sensors that are published, as ``observations.opened`` gives those of a store, and their series.

    The dataset has what they measured, (sensor, time), beside what is said of each.
    """
    versions, scored = root.current(), observations.opened(root.open(SCORES))
    place = {key: k for k, key in enumerate(_keys(scored))}
    years: list[SensorYear] = []
    days: list[NDArray[np.datetime64]] = []
    for year, name in parts_of(observations.STORE, versions).items():
        urls = {store: root.open(part_name(store, year)) for store in (observations.STORE, STORE)}
        own = observations.opened(root.version(name, versions[name]))
        years.append(SensorYear(sum(each.size for each in days), np.array([place[key] for key in _keys(own)], np.int64), urls))
        days.append(own["time"].values)
    series = SensorSeries(sum(each.size for each in days), tuple(years))
    sensors = xr.Dataset(coords={name: scored[name] for name in (*schemas.SENSOR_COORDINATES, *schemas.SENSOR_NAMES)})
    measured = series.measured(0, sensors.sizes["sensor"])
    sensors = sensors.assign_coords(time=np.concatenate(days))
    return sensors.assign(soil_moisture=(("sensor", "time"), measured, {"units": "m3 m-3"})), series


def estimates(series: SensorSeries, sensors: Sequence[int], names: Estimates) -> dict[str, Values]:
    """The estimates at some sensors over the whole record, each (sensor, day), m3 m-3; NaN where there is none."""
    found = [series.estimates(sensor, sensor + 1, names) for sensor in sensors]
    return {name: np.concatenate([each[name] for each in found]) for name in found[0]}


def _keys(sensors: xr.Dataset) -> list[tuple[Any, ...]]:
    names = ("network", "station", "instrument", "depth_top", "depth_bottom", "latitude", "longitude")
    return list(zip(*(sensors[name].values.tolist() for name in names), strict=True))


def _with_average(values: dict[str, Values], names: Estimates) -> dict[str, Values]:
    """Estimates, (sensor, day) by name, with the average of the products where there are several."""
    if AVERAGE in names.names:
        return values | {AVERAGE: average([values[name] for name in names.parents])}
    return values


def average(parents: Sequence[Values]) -> Values:
    """Mean (sensor, time) of the parents that have any value at a sensor, on days when all of these have one."""
    total, count = np.zeros_like(parents[0]), np.zeros((len(parents[0]), 1), np.float32)
    for values in parents:
        there = np.isfinite(values).any(axis=1, keepdims=True)
        total += np.where(there, values, np.float32(0.0))
        count += there
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan), np.float32)


def _order(block: Block) -> tuple[Any, ...]:
    """All days of some sensors after one another: a worker remembers what they have in common."""
    return block.index[1], block.part, block.index[0]


def workload(task: Matchups, count: int) -> Workload:
    """Blocks of the days of all years and so many sensors."""
    return Workload.joined([_workload_of_year(task, year, count) for year in task.domain.years])


def _workload_of_year(task: Matchups, year: Domain, count: int) -> Workload:
    """Blocks of days and sensors."""
    profiles, model, blocks, whole = task.profiles, task.profiles.model, year.blocks, year.length
    n = layout_of(model.products).size
    days, tile, sensors = year.days_in_block, blocks.cells**2, min(count, SENSORS_PER_STRETCH)
    box = min(TOGETHER**2, task.domain.cells)
    degrees, names = profiles.degrees, task.estimates.stored
    without = _moments_bytes(model) + collocate.errors_memory(model, 1) if task.estimates.without is not None else 0
    return Workload(
        name="validate: matchups",
        blocks=grid_blocks((whole, count), (blocks.days, SENSORS_PER_STRETCH), year.year),
        # Of one shard or box of cells after the other, the largest array that is read of it, and as much while it is unpacked:
        # coefficients or layers on these days, covariances, or the moments about it for the error models without retrievals. Of
        # the cells and sensors, their series, and those of one estimate in doubles.
        memory_per_block=2
        * max(tile * days * degrees * 4, box * days * n * 4, tile * profiles.patterns * degrees * (degrees + 1) * 2, without)
        + days * sensors * (2 * (degrees + n) + 2 * len(names) + 6) * 4,
        bytes_in=count * whole * (degrees + n) * 4,
        bytes_out=count * whole * (len(names) + 1) * 4,
    )


def _moments_bytes(model: ErrorModel) -> int:
    """Bytes of the moments of a shard's cells and of half a window around them."""
    edge, reach = model.domain.blocks.cells, 2 * (model.settings.window // 2)
    rows, columns = (min(edge + reach, size) for size in model.domain.grid.shape)
    _, design = model.comparison.design()
    return rows * columns * len(design.groups) * MOMENTS * 8


def plan(task: Matchups, root: Root, versions: Mapping[str, str], found: Found) -> StagePlan:
    """Plan the matchups of the sensors that ``observations.sensors_of`` has found, in every year those that it has."""
    sources = collocate.sources(task.profiles.model.products, task.domain, root, versions)
    years = [_plan_year(task, year, root, versions, sources, found.of_year(year)) for year in task.domain.years]
    return StagePlan("validate/matchups", STORE, tuple(years), order=_order)


def _plan_year(
    task: Matchups, year: Domain, root: Root, versions: Mapping[str, str], sources: tuple[Source, ...], found: Found
) -> VersionPlan:
    made, count, places = template(task, year, found.stations), found.stations.sizes["sensor"], found.places
    products, store, profile = task.profiles.model.products, part_name(STORE, year.year), part_name(invert.STORE, year.year)
    of_year = [part_name(name, year.year) for name in collocate.ard_stores(products)]
    inputs = {name: versions[name] for name in (*of_year, collocate.MOMENTS_STORE, covariances.STORE, profile)}
    setting = fingerprint(
        "matchups",
        [ALGORITHM, invert.ALGORITHM],
        grid_attributes(year.grid),
        made.shard_shape("soil_moisture"),
        task.estimates.stored,
        str(year.first_day),
        versions[collocate.MOMENTS_STORE],
    )
    version = fingerprint(setting, inputs, dict(made.attrs), places)
    compute = MatchupBlock(
        task,
        tuple(source.around(*year.span) for source in sources),
        year.span[0],
        root.version(profile, versions[profile]),
        root.version(covariances.STORE, versions[covariances.STORE]),
        root.version(collocate.MOMENTS_STORE, versions[collocate.MOMENTS_STORE]),
        root.version(store, version),
    )
    marks = day_fingerprints_of(root, "invert", versions[profile]) or (version,) * year.length
    records = Ledger(ledger_url(root, "invert", versions[profile])).read().values()
    of_profiles = {record.index: record.static_fingerprint for record in records}
    size = year.blocks.cells

    def some(block: Block) -> tuple[Place, ...]:
        return tuple(places[slice(*block.region[1])])

    def static_fingerprint(block: Block) -> str:
        tiles = dict.fromkeys((row // size, column // size) for row, column, _, _ in some(block))
        profiles = [of_profiles.get((block.index[0], row, column)) for row, column in tiles]
        return fingerprint(setting, block.index, some(block), profiles)

    by_day = DayFingerprints(marks, static_fingerprint)
    work = _workload_of_year(task, year, count)
    listed = Job(work, compute, by_day.fingerprint, static_fingerprint, lambda block: BlockInputs(some(block)))
    said = inputs | {"sensors": count}
    return VersionPlan(store, version, made, listed, compute.url, said, marks=by_day, part=year.year)
