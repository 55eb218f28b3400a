"""The twin: a region whose soil moisture is known, and what products and stations would say of it.

The truth is a column of thirteen layers with soils that change with depth. Three land models see perturbed rain, demand,
soils and vegetation on their own layers and grids; one of them is nudged towards the surface retrieval, as SMAP Level 4
is. The retrieval sees the surface with noise, a wrong range, and gaps. Nothing here is shared with the inversion.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from deepprofile.twin.column import Soil, Vegetation, run_columns
from deepprofile.twin.weather import Weather, make_weather, smooth_field, smooth_fields

Array = NDArray[np.float64]

TRUTH_EDGES_M: Final = np.array([0.0, 0.02, 0.05, 0.10, 0.15, 0.20, 0.30, 0.40, 0.50, 0.60, 0.70, 0.85, 1.0, 1.5])
DEPTH_BANDS_M: Final = ((0.0, 0.05), (0.05, 0.1), (0.1, 0.3), (0.3, 0.5), (0.5, 0.7), (0.7, 1.0))
SENSOR_DEPTHS_M: Final = (0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True)
class LandModel:
    """How one land model of the twin differs from the truth.

    ``edges`` are those of its layers in m; ``reported`` the layers it publishes; ``coarsening`` the cells of the twin along
    one side of its own cell; ``gain`` the share of the difference to the retrieval that it assimilates each day.
    """

    edges: tuple[float, ...]
    reported: tuple[tuple[float, float], ...]
    coarsening: int
    gain: float = 0.0


LAND_MODELS: Final[Mapping[str, LandModel]] = {
    "smap_l4": LandModel((0.0, 0.05, 0.2, 0.5, 1.0, 1.5), ((0.0, 0.05), (0.0, 1.0)), 1, gain=0.15),
    "gldas_noah": LandModel((0.0, 0.1, 0.4, 1.0, 2.0), ((0.0, 0.1), (0.1, 0.4), (0.4, 1.0)), 3),
    "era5_land": LandModel((0.0, 0.07, 0.28, 1.0, 2.89), ((0.0, 0.07), (0.07, 0.28), (0.28, 1.0)), 1),
}


@dataclass(frozen=True)
class World:
    """A simulated region.

    Attributes
    ----------
    truth
        Daily soil moisture, m3 m-3, dimensions (time, layer, y, x), with ``layer_top`` and ``layer_bottom`` in m.
    products
        Daily series of the three land models and of the retrieval on the cells of the truth, as ``deepprofile.fuse`` takes
        them; ``native`` holds the land models on their own grids.
    stations
        Daily sensor series, dimensions (sensor, time), as the readers of ``deepprofile.evaluation.stations`` give
        them, with the
        row and column of the cell (``y_index``, ``x_index``).
    """

    truth: xr.DataArray
    products: dict[str, xr.DataArray]
    native: dict[str, xr.DataArray]
    stations: xr.Dataset

    def truth_mean(self, top: float, bottom: float) -> xr.DataArray:
        """Mean soil moisture between two depths (m), m3 m-3, dimensions (time, y, x)."""
        return step_mean(self.truth, top, bottom)

    def first_days(self, count: int) -> World:
        """The beginning of the record."""
        part = slice(0, count)
        return World(
            self.truth.isel(time=part),
            {name: series.isel(time=part) for name, series in self.products.items()},
            {name: series.isel(time=part) for name, series in self.native.items()},
            self.stations.isel(time=part),
        )


def step_mean(series: xr.DataArray, top: float, bottom: float) -> xr.DataArray:
    """Thickness-weighted mean of a stack of adjoining layers between two depths (m)."""
    overlap = np.minimum(series.layer_bottom, bottom) - np.maximum(series.layer_top, top)
    weight = overlap.clip(min=0.0) / (bottom - top)
    used = weight > 0
    part = series.isel(layer=used.values) * weight.isel(layer=used.values).astype(series.dtype)
    total: xr.DataArray = part.sum("layer", skipna=False)
    return total


def simulate(
    shape: tuple[int, int] = (30, 30),
    years: float = 4,
    seed: int = 0,
    *,
    start: str = "2015-04-01",
    model_errors: Mapping[str, float] | None = None,
    stations: int = 24,
) -> World:
    """Simulate a region.

    Parameters
    ----------
    shape
        Cells along y and x (about 9 km each).
    years
        Length of the record, from ``start``.
    seed
        Of everything that is random: the same arguments give the same world.
    model_errors
        Factor on the errors of each land model, by name; 1 where it is not given. ``{"era5_land": 0.5, "gldas_noah": 1.6}``
        makes a world with unequal parents.
    stations
        Number of stations, each in its own cell.

    Raises
    ------
    ValueError
        For an unknown land model, or fewer cells than stations.
    """
    factors = dict.fromkeys(LAND_MODELS, 1.0) | dict(model_errors or {})
    if unknown := set(factors) - set(LAND_MODELS):
        raise ValueError(f"model_errors names {sorted(unknown)}; the twin's land models are {sorted(LAND_MODELS)}")
    if stations > shape[0] * shape[1]:
        raise ValueError(f"{stations} stations do not fit into {shape[0]} x {shape[1]} cells")
    times = pd.date_range(start, periods=round(365.25 * years), freq="D")
    # Independent streams: a change in one part leaves the other parts of the world as they were.
    streams = iter(np.random.default_rng(seed).spawn(8))
    weather = make_weather(next(streams), times.size, shape, int(times[0].day_of_year))

    rng = next(streams)
    sand = np.clip(42.0 + 16.0 * smooth_field(rng, shape, 5.0), 8.0, 85.0)
    clay = np.clip(24.0 - 0.35 * (sand - 42.0) + 7.0 * smooth_field(rng, shape, 5.0), 4.0, 55.0)
    cover = np.clip(0.62 + 0.16 * smooth_field(rng, shape, 6.0), 0.2, 0.95)
    root_depth = np.exp(np.log(0.28) + 0.3 * smooth_field(rng, shape, 6.0))
    truth = _simulate_truth(rng, weather, sand, clay, cover, root_depth)
    surface = (truth[:, 0] * 0.02 + truth[:, 1] * 0.03) / 0.05
    retrieval = _retrieve(next(streams), surface, weather)

    native = {}
    for name, model in LAND_MODELS.items():
        ground = (sand, clay, cover, root_depth)
        series = _simulate_model(next(streams), model, factors[name], weather, ground, retrieval)
        native[name] = _layers(series, model.reported, times)
    products = {name: _on_cells(series, LAND_MODELS[name].coarsening, shape, weather.frozen) for name, series in native.items()}
    products["smap_l3"] = _layers(retrieval[:, None].astype(np.float32), ((0.0, 0.05),), times)
    layers = tuple(itertools.pairwise(TRUTH_EDGES_M))
    truth_array = _layers(truth, layers, times)
    return World(truth_array, products, native, _observe(next(streams), truth_array, stations))


def _layers(values: NDArray[np.float32], layers: tuple[tuple[float, float], ...], times: pd.DatetimeIndex) -> xr.DataArray:
    tops, bottoms = zip(*layers, strict=True)
    return xr.DataArray(
        values,
        dims=("time", "layer", "y", "x"),
        coords={
            "time": times,
            "layer_top": ("layer", list(tops), {"units": "m"}),
            "layer_bottom": ("layer", list(bottoms), {"units": "m"}),
        },
        attrs={"units": "m3 m-3"},
    )


def _simulate_truth(
    rng: np.random.Generator, weather: Weather, sand: Array, clay: Array, cover: Array, root_depth: Array
) -> NDArray[np.float32]:
    shape = sand.shape
    thickness = np.diff(TRUTH_EDGES_M)
    centre = 0.5 * (TRUTH_EDGES_M[:-1] + TRUTH_EDGES_M[1:])
    # Real profiles are not uniform: clay rises into the subsoil, which conducts less and holds less organic matter.
    subsoil = 1.0 / (1.0 + np.exp(-(centre - 0.35) / 0.1))
    clay_rise = np.clip(6.0 + 5.0 * smooth_field(rng, (shape[0], shape[1]), 4.0), -4.0, None).ravel()
    sand_drop = 4.0 * smooth_field(rng, (shape[0], shape[1]), 4.0).ravel()
    sand_layers = np.clip(sand.ravel()[:, None] - sand_drop[:, None] * subsoil, 5.0, 88.0)
    clay_layers = np.clip(clay.ravel()[:, None] + clay_rise[:, None] * subsoil, 3.0, 60.0)
    soil = Soil.from_texture(sand_layers, clay_layers)
    soil = Soil(soil.porosity + organic_porosity(TRUTH_EDGES_M), soil.pore_index, soil.conductivity, soil.suction)
    series = run_columns(
        thickness,
        soil,
        Vegetation(cover.ravel(), root_depth.ravel()),
        weather.rain.reshape(len(weather.rain), -1).astype(np.float32),
        weather.demand.reshape(len(weather.demand), -1).astype(np.float32),
    )
    return series.reshape(series.shape[0], series.shape[1], *shape)


def organic_porosity(edges: Array) -> Array:
    """What organic matter adds to the porosity of layers between these edges (m), m3 m-3: 0.05 at the surface, fading."""
    integral = -0.05 * 0.15 * np.exp(-edges / 0.15)
    return np.asarray(np.diff(integral) / np.diff(edges))


def _coarsen(field: Array, size: int) -> Array:
    """Means over squares of ``size`` cells along the last two axes; the last square repeats the edge where it is short."""
    if size == 1:
        return field
    pad = [(0, 0)] * (field.ndim - 2) + [(0, -field.shape[-2] % size), (0, -field.shape[-1] % size)]
    padded = np.pad(field, pad, mode="edge")
    ny, nx = padded.shape[-2] // size, padded.shape[-1] // size
    return np.asarray(padded.reshape(*field.shape[:-2], ny, size, nx, size).mean(axis=(-3, -1)))


def _simulate_model(
    rng: np.random.Generator,
    model: LandModel,
    factor: float,
    weather: Weather,
    ground: tuple[Array, Array, Array, Array],
    retrieval: Array,
) -> NDArray[np.float32]:
    size = model.coarsening
    sand, clay, cover, root_depth = (_coarsen(field, size) for field in ground)
    rain, demand = _coarsen(weather.rain, size), _coarsen(weather.demand, size)
    shape = (sand.shape[0], sand.shape[1])
    scale = 4.0 / size
    days = rain.shape[0]

    def field(std: float, length: float = 6.0) -> Array:
        return factor * std * smooth_field(rng, shape, max(length / size, 0.8))

    # Rain: events of the wrong size, a lasting bias, events missed and events that never were.
    event = factor * 1.0 * smooth_fields(rng, days, shape, max(scale, 0.8), persistence=0.3)
    slow = factor * 0.45 * smooth_fields(rng, days, shape, max(2 * scale, 0.8), persistence=0.985)
    # Rain that fell nowhere: another realisation of the same climate.
    spurious = _coarsen(make_weather(rng, days, weather.rain.shape[1:], weather.first_day_of_year).rain, size)
    share = 0.3 * factor
    rain = (rain * np.exp(event + slow + field(0.10) - 0.4 * factor**2) + share * spurious) / (1.0 + share)
    demand = demand * np.exp(field(0.15) + factor * 0.2 * smooth_fields(rng, days, shape, 2 * scale, persistence=0.97))

    sand = np.clip(sand + field(16.0), 8.0, 88.0)
    clay = np.clip(clay + field(10.0), 3.0, 58.0)
    soil = Soil.from_texture(sand.ravel()[:, None], clay.ravel()[:, None])
    layers = len(model.edges) - 1
    porosity = soil.porosity + field(0.055, 3.0).ravel()[:, None]
    conductivity = soil.conductivity * np.exp(field(0.7)).ravel()[:, None]
    organic = np.exp(field(0.4, 3.0)).ravel()[:, None] * organic_porosity(np.array(model.edges))
    columns = [np.repeat(p, layers, axis=1) for p in (porosity, soil.pore_index, conductivity, soil.suction)]
    soil = Soil(columns[0] + organic, *columns[1:])
    vegetation = Vegetation(
        np.clip(cover + field(0.15), 0.1, 0.97).ravel(),
        (root_depth * np.exp(field(0.35, 3.0))).ravel(),
    )
    series = run_columns(
        np.diff(model.edges),
        soil,
        vegetation,
        rain.reshape(days, -1).astype(np.float32),
        demand.reshape(days, -1).astype(np.float32),
        analysed=_coarsen(retrieval, size).reshape(days, -1).astype(np.float32) if model.gain else None,
        gain=model.gain,
    )
    thickness = np.diff(model.edges).astype(np.float32)
    reported = []
    for top, bottom in model.reported:
        inside = (np.array(model.edges[:-1]) >= top) & (np.array(model.edges[1:]) <= bottom)
        weights = thickness * inside
        reported.append(np.einsum("tlc,l->tc", series, weights / weights.sum()))
    return np.stack(reported, axis=1).reshape(days, len(reported), *shape).astype(np.float32)


def _on_cells(series: xr.DataArray, size: int, shape: tuple[int, int], frozen: NDArray[np.bool_]) -> xr.DataArray:
    values = np.repeat(np.repeat(series.values, size, axis=-2), size, axis=-1)[..., : shape[0], : shape[1]]
    masked = np.where(frozen[:, None], np.float32(np.nan), values)
    out = xr.DataArray(masked, dims=series.dims, coords=series.coords, attrs=series.attrs)
    return out


def _retrieve(rng: np.random.Generator, surface: NDArray[np.floating], weather: Weather) -> Array:
    """A passive-microwave retrieval: footprint, noise, slow vegetation errors, a wrong range, orbit and winter gaps."""
    days = surface.shape[0]
    shape = (surface.shape[1], surface.shape[2])
    footprint = _box(surface.astype(np.float64), 3)
    climatology = footprint.mean(axis=0)
    gain = np.clip(1.0 + 0.15 * smooth_field(rng, shape, 5.0), 0.6, 1.5)
    bias = 0.012 * smooth_field(rng, shape, 4.0) + 0.004 * rng.standard_normal()
    slow = 0.016 * smooth_fields(rng, days, shape, 4.0, persistence=0.97)
    noise = 0.022 * smooth_fields(rng, days, shape, 1.2) + 0.016 * rng.standard_normal(surface.shape)
    value = climatology + bias + gain * (footprint - climatology) + slow + noise
    # An eight-day repeat orbit: each column is seen on three mornings of eight.
    phase = (np.arange(days)[:, None] + (np.arange(shape[1]) // 6)[None, :] * 3) % 8
    seen = np.isin(phase, (0, 3, 6))[:, None, :] & (rng.random(surface.shape) > 0.04)
    return np.where(seen & ~weather.frozen, np.clip(value, 0.02, 0.5), np.nan)


def _box(field: Array, size: int) -> Array:
    return np.asarray(uniform_filter(field, (0, size, size), mode="nearest"))


def _observe(rng: np.random.Generator, truth: xr.DataArray, count: int) -> xr.Dataset:
    """Stations: a point differs from its cell, a sensor from the point; some records have gaps."""
    ny, nx, days = truth.sizes["y"], truth.sizes["x"], truth.sizes["time"]
    cells = rng.choice(ny * nx, size=count, replace=False)
    centre = 0.5 * (truth.layer_top.values + truth.layer_bottom.values)
    columns = truth.values.reshape(days, truth.sizes["layer"], ny * nx)
    records: list[NDArray[np.float32]] = []
    meta: list[tuple[str, str, float, float, int, int]] = []
    for number, cell in enumerate(cells):
        column = columns[:, :, cell].astype(np.float64)
        mean = column.mean(axis=0)
        # Soil and terrain at the point: a bias and a range of its own, and departures that last for weeks.
        range_factor = np.exp(0.15 * rng.standard_normal())
        bias = 0.03 * rng.standard_normal() + 0.015 * rng.standard_normal(centre.size).cumsum() / np.sqrt(centre.size)
        drift = 0.01 * smooth_fields(rng, days, (1, 1), 0.8, persistence=0.95)[:, 0, 0]
        point = np.clip(mean + bias + range_factor * (column - mean) + drift[:, None], 0.01, 0.6)
        by_interval = number % 4 == 3
        network = "TWIN-INTERVAL" if by_interval else "TWIN-POINT"
        sensors = ((0.0, 0.3), (0.3, 0.6)) if by_interval else tuple((d, d) for d in SENSOR_DEPTHS_M)
        for top, bottom in sensors:
            if by_interval:
                overlap = np.clip(np.minimum(TRUTH_EDGES_M[1:], bottom) - np.maximum(TRUTH_EDGES_M[:-1], top), 0.0, None)
                value = point @ (overlap / overlap.sum())
            else:
                value = np.array([np.interp(top, centre, row) for row in point])
            value = value + 0.01 * rng.standard_normal() + 0.006 * rng.standard_normal(days)
            gap = int(rng.integers(0, days))
            value[gap : gap + int(rng.integers(0, 120))] = np.nan
            records.append(value.astype(np.float32))
            meta.append((network, f"T{number:03d}", top, bottom, int(cell) // nx, int(cell) % nx))
    network_, station, top_, bottom_, y_index, x_index = (list(column) for column in zip(*meta, strict=True))
    return xr.Dataset(
        {"soil_moisture": (("sensor", "time"), np.stack(records), {"units": "m3 m-3"})},
        coords={
            "time": truth.time,
            "network": ("sensor", network_),
            "station": ("sensor", station),
            "depth_top": ("sensor", top_, {"units": "m"}),
            "depth_bottom": ("sensor", bottom_, {"units": "m"}),
            "y_index": ("sensor", y_index),
            "x_index": ("sensor", x_index),
        },
    )
