"""Validate: profiles and products against stations, every estimate on identical samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from deepprofile.comparison import plain_average, step_function_mean
from deepprofile.config import Config, Stations
from deepprofile.engine import Block, Job, Outcome, Record, fingerprint, grid_blocks
from deepprofile.errors import errors_from_moments, plan_comparisons
from deepprofile.grids import Grid
from deepprofile.layers import Layout
from deepprofile.metrics import METRICS, score_all
from deepprofile.objects import as_local, zarr_store
from deepprofile.stages import collocate, ingest, invert
from deepprofile.stages.collocate import Comparison, layout_of
from deepprofile.stages.stage import Source, StagePlan, days_of, grid_attributes
from deepprofile.stations import reaches_profile, read_ismn, read_scan, read_uscrn, sensor_estimate
from deepprofile.stores import Root, Template, Variable, read_region, write_shards

STORE: Final = "validation"
SENSORS_PER_BLOCK: Final = 8
NEAR_SURFACE: Final = "smap_l3"
FUSED, WITHOUT, AVERAGE = "fused", "fused, no SMAP L3", "plain average"
_LAYER_M: Final = 1e-6


def read_stations(stations: tuple[Stations, ...]) -> xr.Dataset:
    """All configured stations in one dataset.

    Raises
    ------
    FileNotFoundError, ValueError
        With the file that is missing or cannot be read.
    """
    parts = []
    for source in stations:
        with as_local(source.path) as path:
            if source.kind == "ismn":
                parts.append(read_ismn(path))
            elif source.kind == "scan":
                parts.append(read_scan(sorted(path.glob("*.txt.gz")), path / "SCAN_sites.csv"))
            else:
                parts.append(read_uscrn(path))
    return xr.concat(parts, "sensor", join="outer") if len(parts) > 1 else parts[0]


def estimates_of(config: Config) -> list[str]:
    """Names of what is scored, in the order of the store."""
    parents = [name for name in config.products if name != NEAR_SURFACE]
    without = [WITHOUT] if NEAR_SURFACE in config.products and len(parents) >= 2 else []
    return [FUSED, *without, *parents, *([AVERAGE] if len(parents) > 1 else [])]


def inside(stations: xr.Dataset, grid: Grid, days: NDArray[np.datetime64]) -> tuple[xr.Dataset, NDArray[np.int64]]:
    """Sensors within the target window and the profile, on the configured days, and the (row, column) of each."""
    lat, lon = grid.lat, grid.lon
    rows = np.abs(lat[:, None] - stations.latitude.values).argmin(axis=0)
    columns = np.abs((lon[:, None] - stations.longitude.values + 180.0) % 360.0 - 180.0).argmin(axis=0)
    # Half of a cell, and a little for the rounding of coordinates.
    near_y = (
        np.abs(lat[rows] - stations.latitude.values) <= 0.51 * np.abs(np.gradient(lat))[rows] if lat.size > 1 else rows == 0
    )
    off = np.abs((lon[columns] - stations.longitude.values + 180.0) % 360.0 - 180.0)
    near_x = off <= 0.51 * np.abs(np.gradient(lon))[columns] if lon.size > 1 else columns == 0
    deep = [reaches_profile(float(a), float(b)) for a, b in zip(stations.depth_top, stations.depth_bottom, strict=True)]
    kept = np.flatnonzero(near_y & near_x & np.array(deep))
    times = pd.DatetimeIndex(days)
    chosen = stations.isel(sensor=kept).reindex(time=times)
    valid = np.flatnonzero(np.isfinite(chosen.soil_moisture).any("time").values)
    return chosen.isel(sensor=valid), np.stack([rows[kept][valid], columns[kept][valid]], axis=1)


def template(config: Config, stations: xr.Dataset) -> Template:
    """The store before anything is computed."""
    names, count = estimates_of(config), stations.sizes["sensor"]
    variables = {
        metric: Variable(
            ("estimate", "sensor", "bound"),
            "float64",
            shards=(len(names), SENSORS_PER_BLOCK, 3),
            chunks=(len(names), SENSORS_PER_BLOCK, 3),
            fill=float("nan"),
            attrs={"units": "1" if metric in ("n", "r") else "m3 m-3", "long_name": f"{metric}: value, and its 95 % interval"},
        )
        for metric in METRICS
    }
    for name in ("depth_top", "depth_bottom", "latitude", "longitude", "day_offset_hours"):
        variables[name] = Variable(
            ("sensor",), "float64", values=stations[name].values.astype(np.float64), attrs=stations[name].attrs
        )
    return Template(
        sizes={"estimate": len(names), "sensor": count, "bound": 3},
        variables=variables,
        attrs={
            **grid_attributes(config.grid.grid()),
            "title": "Scores at stations",
            "estimates": names,
            "networks": stations.network.values.astype(str).tolist(),
            "stations": stations.station.values.astype(str).tolist(),
            "coordinates": "depth_top depth_bottom latitude longitude day_offset_hours",
            "block_dims": ["sensor"],
        },
    )


@dataclass(frozen=True)
class Sensor:
    """One sensor: the cell that it is in, its depths in m, and its daily series (NaN where missing)."""

    row: int
    column: int
    top: float
    bottom: float
    values: tuple[float, ...]


@dataclass(frozen=True)
class ValidateBlock:
    """Scores some sensors."""

    target: Grid
    sources: tuple[Source, ...]
    profile_url: str
    moments_url: str
    comparison: Comparison
    config: Config
    names: tuple[str, ...]
    url: str

    def __call__(self, block: Block, sensors: tuple[Sensor, ...]) -> Outcome:
        """See ``deepprofile.engine.Job``."""
        times = pd.DatetimeIndex(days_of(self.config))
        results = {metric: np.full((len(self.names), len(sensors), 3), np.nan) for metric in METRICS}
        read = 0
        for k, sensor in enumerate(sensors):
            estimates, volume = self.estimates(sensor, times)
            read += volume
            reference = xr.DataArray(np.array(sensor.values, np.float32)[None], dims=("sensor", "time"), coords={"time": times})
            if not estimates:
                # No product has a value here: there is nothing to score.
                results["n"][:, k] = 0.0
                continue
            scores = score_all(estimates, reference)
            for metric in METRICS:
                for e, name in enumerate(self.names):
                    if name in estimates:
                        one = scores.sel(estimate=name).isel(sensor=0)
                        value = float(one[metric])
                        ends = (one[f"{metric}_lower"], one[f"{metric}_upper"]) if metric != "n" else (value, value)
                        results[metric][e, k] = (value, float(ends[0]), float(ends[1]))
        written = 0
        for metric, values in results.items():
            written += write_shards(self.url, metric, (0, block.region[0][0], 0), values)
        return Outcome(read, written)

    def estimates(self, sensor: Sensor, times: pd.DatetimeIndex) -> tuple[dict[str, xr.DataArray], int]:
        """Every estimate of what the sensor measures, each (sensor, time), and the bytes read."""
        days, rows, columns = (0, times.size), (sensor.row, sensor.row + 1), (sensor.column, sensor.column + 1)
        profile = open_cell(self.profile_url, sensor.row, sensor.column)
        found = {FUSED: sensor_estimate(profile, sensor.top, sensor.bottom)}
        arrays = {s.name: s.read(self.target, days, rows, columns) for s in self.sources}
        series = {}
        for source in self.sources:
            series[source.name] = xr.DataArray(
                arrays[source.name][:, :, 0, 0],
                dims=("time", "layer"),
                coords={
                    "time": times,
                    "layer_top": ("layer", [a for a, _ in source.layers]),
                    "layer_bottom": ("layer", [b for _, b in source.layers]),
                },
            )
        if WITHOUT in self.names:
            without = self._without(arrays, times, rows, columns)
            found[WITHOUT] = sensor_estimate(without, sensor.top, sensor.bottom)
        # A point is compared with the layer that it lies in.
        top, bottom = min(sensor.top, 1.0 - _LAYER_M), min(max(sensor.bottom, sensor.top + _LAYER_M), 1.0)
        parents = [name for name in series if name != NEAR_SURFACE]
        # Retrievals come on some days only: to judge all on those days would leave few samples.
        for name in parents:
            found[name] = step_function_mean(series[name], top, bottom)
        if AVERAGE in self.names:
            found[AVERAGE] = plain_average(series, parents, top, bottom)
        shaped = {}
        for name, estimate in found.items():
            bare = estimate.squeeze([dim for dim in estimate.dims if dim != "time"], drop=True)
            shaped[name] = bare.expand_dims("sensor").transpose("sensor", "time")
        shaped = {name: estimate for name, estimate in shaped.items() if bool(np.isfinite(estimate).any())}
        return shaped, sum(a.nbytes for a in arrays.values())

    def _without(
        self,
        arrays: Mapping[str, NDArray[np.float32]],
        times: pd.DatetimeIndex,
        rows: tuple[int, int],
        columns: tuple[int, int],
    ) -> xr.Dataset:
        """The fusion as it would be without SMAP near-surface soil moisture, its error model included."""
        layout = layout_of(self.config, tuple(name for name in self.config.products if name != NEAR_SURFACE))
        errors = _errors_without(self.moments_url, self.comparison, layout, self.config, self.target, rows, columns)
        kept = {name: values for name, values in arrays.items() if name != NEAR_SURFACE}
        return invert.profile_of(kept, errors, layout, times, self.config.inversion)


def _errors_without(
    url: str,
    comparison: Comparison,
    layout: Layout,
    config: Config,
    target: Grid,
    rows: tuple[int, int],
    columns: tuple[int, int],
) -> xr.Dataset:
    """The error model of one cell from those of the moments that concern the products of ``layout`` alone."""
    whole_layout, whole = comparison.design()
    design = plan_comparisons(layout, ())
    kept = [whole_layout.products.index(name) for name in layout.products]
    place = np.flatnonzero(np.isin(whole_layout.product_index, kept))
    # Each series of the smaller list as the same combination of observations in the whole list.
    known = {tuple(row): k for k, row in enumerate(np.round(whole.weights, 12))}
    series = []
    for row in design.weights:
        wide = np.zeros(whole_layout.size)
        wide[place] = row
        series.append(known[tuple(np.round(wide, 12))])
    positions = {tuple(group): k for k, group in enumerate(whole.groups.tolist())}
    groups = [positions[tuple(series[s] for s in group)] for group in design.groups.tolist()]
    reach = config.collocation.window // 2
    top, left = max(rows[0] - reach, 0), max(columns[0] - reach, 0)
    region = (slice(top, min(rows[1] + reach, target.rows)), slice(left, min(columns[1] + reach, target.columns)))
    moments = xr.DataArray(read_region(url, "moments", region)[:, :, groups], dims=("y", "x", "group", "moment"))
    errors = errors_from_moments(moments, layout, design, config.collocation.min_samples, config.collocation.window)
    cell: xr.Dataset = errors.isel(y=slice(rows[0] - top, rows[1] - top), x=slice(columns[0] - left, columns[1] - left))
    return cell


@lru_cache(maxsize=2)
def _open(url: str) -> xr.Dataset:
    store: xr.Dataset = xr.open_zarr(zarr_store(url), consolidated=False, chunks=None)
    return store


def open_cell(url: str, row: int, column: int) -> xr.Dataset:
    """The profile of one cell, loaded."""
    cell: xr.Dataset = _open(url).isel(y=slice(row, row + 1), x=slice(column, column + 1)).load()
    return cell


def job(count: int, compute: Any = None, mark: Any = None, inputs: Any = None) -> Job:
    """Blocks of sensors."""
    return Job(
        name="validate",
        blocks=grid_blocks((count,), (SENSORS_PER_BLOCK,)),
        compute=compute,
        fingerprint=mark,
        inputs=inputs,
        memory_per_block=200 * 2**20,
    )


def task(config: Config, root: Root, versions: Mapping[str, str], url: str = "") -> ValidateBlock:
    """What scores a sensor, in these versions of the stores."""
    return ValidateBlock(
        config.grid.grid(),
        collocate.sources(config, root, versions),
        root.version(invert.STORE, versions[invert.STORE]),
        root.version(collocate.MOMENTS_STORE, versions[collocate.MOMENTS_STORE]),
        Comparison.of(config),
        config,
        tuple(estimates_of(config)),
        url,
    )


def sensors_of(config: Config) -> tuple[xr.Dataset, tuple[Sensor, ...]]:
    """The sensors that can be compared, as a dataset and one by one."""
    stations, cells = inside(read_stations(config.stations), config.grid.grid(), days_of(config))
    values = stations.soil_moisture.transpose("sensor", "time").values
    sensors = tuple(
        Sensor(int(row), int(column), float(top), float(bottom), tuple(map(float, series)))
        for (row, column), top, bottom, series in zip(
            cells, stations.depth_top.values, stations.depth_bottom.values, values, strict=True
        )
    )
    return stations, sensors


@dataclass(frozen=True)
class _Finish:
    sensors: int
    config: Config

    def __call__(self, _: Mapping[str, Record]) -> list[str]:
        """Stations that are all somewhere else are as good as missing."""
        if self.sensors:
            return []
        where = ", ".join(source.path for source in self.config.stations)
        return [f"no sensor of {where} lies within the grid, the depths and the period: there is nothing to validate against"]


def plan(config: Config, root: Root, versions: Mapping[str, str]) -> StagePlan:
    """Plan the validation; the stations are read here, once."""
    stations, sensors = sensors_of(config)
    made = template(config, stations)
    stores = (*map(ingest.store_name, config.products), collocate.MOMENTS_STORE, collocate.STORE, invert.STORE)
    inputs = {name: versions[name] for name in stores}
    version = fingerprint("validate", dict(made.attrs), inputs, [fingerprint(sensor) for sensor in sensors])

    def mark(block: Block) -> str:
        return fingerprint("validate", version, block.region)

    compute = task(config, root, versions, root.version(STORE, version))
    count = stations.sizes["sensor"]
    listed = job(count, compute, mark, lambda block: sensors[slice(*block.region[0])])
    return StagePlan("validate", STORE, version, made, listed, compute.url, inputs | {"sensors": count}, _Finish(count, config))
