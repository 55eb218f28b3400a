"""Validate: profiles and products against stations, in two steps.

First the matchups: what every estimate says at every sensor, day by day, of which a run computes the days that have changed.
Then the scores, from the matchups of the whole record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from deepprofile.comparison import step_function_mean
from deepprofile.config import Config, Stations
from deepprofile.engine import Block, Job, Ledger, Outcome, fingerprint, grid_blocks
from deepprofile.errors import errors_from_moments, plan_comparisons
from deepprofile.grids import Grid
from deepprofile.layers import Layout
from deepprofile.metrics import METRICS, RESAMPLES, score_all
from deepprofile.objects import as_local, zarr_store
from deepprofile.stages import collocate, ingest, invert
from deepprofile.stages.collocate import Comparison, layout_of
from deepprofile.stages.stage import (
    DayMarks,
    Given,
    Source,
    StagePlan,
    day_marks_of,
    days_of,
    grid_attributes,
    ledger_url,
    space_time_coordinates,
)
from deepprofile.stations import (
    MIN_DAY_FRACTION,
    Report,
    SensorRecord,
    StationPath,
    ismn_records,
    reaches_profile,
    scan_records,
    sensor_estimate,
    to_dataset,
    uscrn_records,
)
from deepprofile.stores import Root, Template, Variable, read_region, write_shards

# The versions of what turns profiles into matchups (with the reading of stations), and those into scores.
MATCHUPS_ALGORITHM: Final = 1
SCORES_ALGORITHM: Final = 1
MATCHUPS_STORE: Final = "matchups"
STORE: Final = "validation"
SENSORS_PER_BLOCK: Final = 8
NEAR_SURFACE: Final = "smap_l3"
FUSED, WITHOUT, AVERAGE = "fused", "fused, no SMAP L3", "plain average"
_LAYER_M: Final = 1e-6


def read_stations(stations: Sequence[Stations], report: Report | None = None) -> xr.Dataset:
    """All configured stations in one dataset; downloads of the same sensors are joined.

    Raises
    ------
    deepprofile.objects.MissingPath
        If there is nothing at a path.
    StationError
        Without ``report``, which otherwise is told: if any file cannot be used.
    """
    told = Report() if report is None else report
    groups: dict[tuple[str, tuple[str, ...]], list[Stations]] = {}
    for source in stations:
        groups.setdefault((source.kind, source.flags), []).append(source)
    records: list[SensorRecord] = []
    for (kind, flags), sources in groups.items():
        with ExitStack() as fetched:
            places = [StationPath(fetched.enter_context(as_local(source.path)), source.path) for source in sources]
            if kind == "ismn":
                records += ismn_records(places, flags, MIN_DAY_FRACTION, told)
            elif kind == "scan":
                records += scan_records(places, None, MIN_DAY_FRACTION, told)
            else:
                records += uscrn_records(places, MIN_DAY_FRACTION, told)
    if report is None:
        told.refuse()
    return to_dataset(records)


def parents_of(config: Config) -> list[str]:
    """The models among the products: retrievals come on some days only, and to judge all on those would leave few samples."""
    return [name for name in config.products if name != NEAR_SURFACE]


def estimates_of(config: Config) -> list[str]:
    """Names of what is scored, in the order of the store; the average, where there is one, is the last."""
    parents = parents_of(config)
    return [*matched(config), *([AVERAGE] if len(parents) > 1 else [])]


def matched(config: Config) -> list[str]:
    """Names of the estimates in the matchups; the average follows from them."""
    parents = parents_of(config)
    without = [WITHOUT] if NEAR_SURFACE in config.products and len(parents) >= 2 else []
    return [FUSED, *without, *parents]


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
    kept = np.flatnonzero(near_y & near_x & np.array(deep, bool))
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
    return Template(
        sizes={"estimate": len(names), "sensor": count, "bound": 3},
        variables=variables | _sensor_coordinates(stations),
        attrs={**_attributes(config, stations), "title": "Scores at stations", "estimates": names, "block_dims": ["sensor"]},
    )


def matchups_template(config: Config, stations: xr.Dataset) -> Template:
    """The store of the matchups before anything is computed."""
    names, count, days, blocks = matched(config), stations.sizes["sensor"], days_of(config), config.blocks
    times = {name: v for name, v in space_time_coordinates(config.grid.grid(), days).items() if name == "time"}
    return Template(
        sizes={"time": days.size, "estimate": len(names), "sensor": count},
        variables={
            **times,
            **_sensor_coordinates(stations),
            "soil_moisture": Variable(
                ("time", "estimate", "sensor"),
                "float32",
                shards=(blocks.days, len(names), SENSORS_PER_BLOCK),
                chunks=(blocks.chunk_days, len(names), SENSORS_PER_BLOCK),
                fill=float("nan"),
                attrs={"units": "m3 m-3", "long_name": "what each estimate says at the sensor's depths"},
            ),
        },
        attrs={
            **_attributes(config, stations),
            "title": "Matchups: estimates at stations",
            "estimates": names,
            "block_dims": ["time", "sensor"],
        },
    )


def _sensor_coordinates(stations: xr.Dataset) -> dict[str, Variable]:
    names = ("depth_top", "depth_bottom", "latitude", "longitude", "day_offset_hours")
    return {
        name: Variable(("sensor",), "float64", values=stations[name].values.astype(np.float64), attrs=stations[name].attrs)
        for name in names
    }


def _attributes(config: Config, stations: xr.Dataset) -> dict[str, Any]:
    return {
        **grid_attributes(config.grid.grid()),
        "networks": stations.network.values.astype(str).tolist(),
        "stations": stations.station.values.astype(str).tolist(),
        "instruments": stations.instrument.values.astype(str).tolist(),
        "coordinates": "depth_top depth_bottom latitude longitude day_offset_hours",
    }


@dataclass(frozen=True)
class Sensor:
    """One sensor: the cell that it is in, its depths in m, and its daily series (NaN where missing)."""

    row: int
    column: int
    top: float
    bottom: float
    values: tuple[float, ...]

    @property
    def place(self) -> tuple[int, int, float, float]:
        """Where it is: all that an estimate depends on."""
        return self.row, self.column, self.top, self.bottom


Place = tuple[int, int, float, float]


class Found(NamedTuple):
    """The sensors that can be compared, as a dataset and one by one, and what is to be said of the station files."""

    stations: xr.Dataset
    sensors: tuple[Sensor, ...]
    report: Report


@dataclass(frozen=True)
class MatchupBlock:
    """What every estimate says at some sensors on some days."""

    target: Grid
    sources: tuple[Source, ...]
    profile_url: str
    moments_url: str
    comparison: Comparison
    config: Config
    url: str

    def __call__(self, block: Block, given: Given) -> Outcome:
        """See ``deepprofile.engine.Job``."""
        days, sensors = block.region
        names, places = matched(self.config), given.inputs
        values = np.full((days[1] - days[0], len(names), len(places)), np.nan, np.float32)
        read = 0
        if given.earlier is not None and given.earlier.unchanged:
            kept = np.array(given.earlier.unchanged)
            stop = min(days[1], given.earlier.length)
            before = read_region(given.earlier.url, "soil_moisture", (slice(days[0], stop), slice(None), slice(*sensors)))
            values[kept], read = before[kept], before.nbytes
        fresh = np.array(given.fresh(len(values)), int)
        if fresh.size:
            for row, column in dict.fromkeys((place[0], place[1]) for place in places):
                found, volume = self._cell(row, column, days[0] + fresh)
                read += volume
                for k, place in enumerate(places):
                    if place[:2] == (row, column):
                        for e, name in enumerate(names):
                            values[fresh, e, k] = found(name, *place[2:])
        written = write_shards(self.url, "soil_moisture", (days[0], 0, sensors[0]), values)
        return Outcome(read, written)

    def _cell(self, row: int, column: int, days: NDArray[np.int64]) -> tuple[Callable[[str, float, float], Any], int]:
        """The estimates of a cell on some days: by name and depths, their values; and the bytes read."""
        hull, rows, columns = (int(days[0]), int(days[-1]) + 1), (row, row + 1), (column, column + 1)
        within = days - days[0]
        times = pd.DatetimeIndex(days_of(self.config)[days])
        profile = _open(self.profile_url).isel(time=slice(*hull), y=slice(*rows), x=slice(*columns)).load().isel(time=within)
        arrays = {s.name: s.read(self.target, hull, rows, columns)[within] for s in self.sources}
        series = {
            source.name: xr.DataArray(
                arrays[source.name][:, :, 0, 0],
                dims=("time", "layer"),
                coords={
                    "time": times,
                    "layer_top": ("layer", [a for a, _ in source.layers]),
                    "layer_bottom": ("layer", [b for _, b in source.layers]),
                },
            )
            for source in self.sources
        }
        without = self._without(arrays, times, rows, columns) if WITHOUT in matched(self.config) else None

        def found(name: str, top: float, bottom: float) -> Any:
            if name == FUSED:
                estimate = sensor_estimate(profile, top, bottom)
            elif name == WITHOUT:
                assert without is not None
                estimate = sensor_estimate(without, top, bottom)
            else:
                # A point is compared with the layer that it lies in.
                top = min(top, 1.0 - _LAYER_M)
                estimate = step_function_mean(series[name], top, min(max(bottom, top + _LAYER_M), 1.0))
            return estimate.squeeze([dim for dim in estimate.dims if dim != "time"], drop=True).values

        return found, sum(a.nbytes for a in arrays.values()) + profile.nbytes

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
    inside = {"y": slice(rows[0] - top, rows[1] - top), "x": slice(columns[0] - left, columns[1] - left)}
    settings = config.collocation
    return errors_from_moments(moments, layout, design, settings.min_samples, settings.window, inside)


@lru_cache(maxsize=2)
def _open(url: str) -> xr.Dataset:
    store: xr.Dataset = xr.open_zarr(zarr_store(url), consolidated=False, chunks=None)
    return store


def matchups(url: str, sensors: slice | list[int], config: Config) -> dict[str, xr.DataArray]:
    """The estimates at some sensors over the whole record, each (sensor, time), m3 m-3; NaN where there is none."""
    with xr.open_zarr(zarr_store(url), consolidated=False, chunks=None) as store:
        part = store["soil_moisture"].isel(sensor=sensors).load().transpose("estimate", "sensor", "time")
    values = dict(zip(matched(config), part.values, strict=True))
    if AVERAGE in estimates_of(config):
        values[AVERAGE] = _average([values[name] for name in parents_of(config)])
    time = {"time": part["time"].values}
    return {name: xr.DataArray(array, dims=("sensor", "time"), coords=time) for name, array in values.items()}


def _average(parents: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Mean (sensor, time) of the parents that have any value at a sensor, on days when all of these have one."""
    total, count = np.zeros_like(parents[0]), np.zeros((len(parents[0]), 1), np.float32)
    for values in parents:
        there = np.isfinite(values).any(axis=1, keepdims=True)
        total += np.where(there, values, np.float32(0.0))
        count += there
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan), np.float32)


@dataclass(frozen=True)
class ScoreBlock:
    """Scores the estimates at some sensors."""

    config: Config
    matchups_url: str
    url: str

    def __call__(self, block: Block, sensors: tuple[Sensor, ...]) -> Outcome:
        """See ``deepprofile.engine.Job``."""
        first, after = block.region[0]
        estimates = matchups(self.matchups_url, slice(first, after), self.config)
        series = np.array([sensor.values for sensor in sensors], np.float32)
        times = pd.DatetimeIndex(days_of(self.config))
        scores = score_all(estimates, xr.DataArray(series, dims=("sensor", "time"), coords={"time": times}))
        written = 0
        for metric in METRICS:
            ends = (f"{metric}_lower", f"{metric}_upper") if metric != "n" else ("n", "n")
            parts = [scores[name].transpose("estimate", "sensor").values for name in (metric, *ends)]
            written += write_shards(self.url, metric, (0, first, 0), np.stack(parts, axis=-1).astype(np.float64))
        return Outcome(sum(estimate.nbytes for estimate in estimates.values()), written)


def job(config: Config, count: int, compute: Any = None, mark: Any = None, inputs: Any = None) -> Job:
    """Blocks of sensors."""
    days, estimates = days_of(config).size, len(estimates_of(config))
    return Job(
        name="validate: scores",
        blocks=grid_blocks((count,), (SENSORS_PER_BLOCK,)),
        compute=compute,
        fingerprint=mark,
        inputs=inputs,
        # The series of every estimate, as read, in the order of the sensors, and on common days, with their masks: as much as
        # eight arrays of doubles. Where the blocks of the bootstrap begin, of which there are most where each is a day.
        memory_per_block=SENSORS_PER_BLOCK * days * (estimates + 1) * 8 * 8 + RESAMPLES * days * 8,
        bytes_in=count * days * estimates * 4,
        bytes_out=count * estimates * len(METRICS) * 3 * 8,
    )


def matchups_job(config: Config, count: int, compute: Any = None, mark: Any = None, inputs: Any = None) -> Job:
    """Blocks of days and sensors."""
    blocks, n = config.blocks, layout_of(config).size
    days, chunk = min(blocks.days, days_of(config).size), blocks.chunk_cells**2
    without = collocate.errors_memory(config, 1) if WITHOUT in matched(config) else 0
    return Job(
        name="validate: matchups",
        blocks=grid_blocks((days_of(config).size, count), (config.blocks.days, SENSORS_PER_BLOCK)),
        compute=compute,
        fingerprint=mark,
        inputs=inputs,
        # To read one cell, the chunks that it lies in are fetched and unpacked, of one array after the other: most for the
        # coefficients of its profiles, or for the products. Then the error model of its neighbourhood without SMAP L3.
        memory_per_block=days * chunk * max(invert.degrees_of(config), n) * 4 * 2 + without,
        bytes_in=count * days_of(config).size * chunk * (invert.degrees_of(config) + n) * 4,
        bytes_out=count * days_of(config).size * len(matched(config)) * 4,
    )


def jobs_of_some(config: Config) -> list[Job]:
    """Both jobs for one block of sensors: how many sensors there are is not known before all stations are read."""
    count = SENSORS_PER_BLOCK
    made = (matchups_job(config, count), job(config, count))
    return [replace(each, name=f"{each.name}, for every {count} sensors") for each in made]


def sensors_of(config: Config) -> Found:
    """The sensors that can be compared; station files that cannot be used are in the report.

    Raises
    ------
    deepprofile.objects.MissingPath
        If there is nothing at the path of some stations.
    """
    report = Report()
    read = read_stations(config.stations, report)
    stations, cells = inside(read, config.grid.grid(), days_of(config))
    values = stations.soil_moisture.transpose("sensor", "time").values
    sensors = tuple(
        Sensor(int(row), int(column), float(top), float(bottom), tuple(map(float, series)))
        for (row, column), top, bottom, series in zip(
            cells, stations.depth_top.values, stations.depth_bottom.values, values, strict=True
        )
    )
    if not sensors:
        where = ", ".join(source.path for source in config.stations)
        why = "lies within the grid, the depths and the period" if read.sizes["sensor"] else "could be read"
        report.problems.append(f"no sensor of {where} {why}: there is nothing to validate against")
    return Found(stations, sensors, report)


def plan_matchups(config: Config, root: Root, versions: Mapping[str, str], found: Found) -> StagePlan:
    """Plan the first step, for the sensors that ``sensors_of`` has found."""
    stations, sensors, report = found
    made, count = matchups_template(config, stations), len(sensors)
    stores = (*map(ingest.store_name, config.products), collocate.MOMENTS_STORE, invert.STORE)
    inputs = {name: versions[name] for name in stores}
    places = [sensor.place for sensor in sensors]
    algorithms = [MATCHUPS_ALGORITHM, invert.ALGORITHM]
    setting = fingerprint(
        "matchups", algorithms, dict(made.attrs), matched(config), str(days_of(config)[0]), versions[stores[-2]]
    )
    version = fingerprint(setting, inputs, places)
    compute = MatchupBlock(
        config.grid.grid(),
        collocate.sources(config, root, versions),
        root.version(invert.STORE, versions[invert.STORE]),
        root.version(collocate.MOMENTS_STORE, versions[collocate.MOMENTS_STORE]),
        Comparison.of(config),
        config,
        root.version(MATCHUPS_STORE, version),
    )
    marks = day_marks_of(root, "invert", versions[invert.STORE]) or (version,) * days_of(config).size
    bases = {name: record.base for name, record in Ledger(ledger_url(root, "invert", versions[invert.STORE])).read().items()}
    size = config.blocks.cells

    def some(block: Block) -> tuple[Place, ...]:
        return tuple(places[slice(*block.region[1])])

    def base(block: Block) -> str:
        profiles = [bases.get(f"{block.index[0]}.{row // size}.{column // size}") for row, column, _, _ in some(block)]
        return fingerprint(setting, block.index, some(block), profiles)

    by_day = DayMarks(marks, base)
    listed = matchups_job(config, count, compute, by_day.fingerprint, lambda block: Given(some(block)))
    return StagePlan(
        "validate/matchups",
        MATCHUPS_STORE,
        version,
        made,
        replace(listed, base=base),
        compute.url,
        inputs | {"sensors": count},
        lambda _: list(dict.fromkeys(report.problems)),
        by_day,
        notes=lambda _: list(dict.fromkeys(report.notes)),
    )


def plan(config: Config, root: Root, versions: Mapping[str, str], found: Found) -> StagePlan:
    """Plan the second step, for the same sensors."""
    stations, sensors, _ = found
    made = template(config, stations)
    inputs = {MATCHUPS_STORE: versions[MATCHUPS_STORE]}
    version = fingerprint("validate", SCORES_ALGORITHM, dict(made.attrs), inputs, [fingerprint(sensor) for sensor in sensors])

    def mark(block: Block) -> str:
        return fingerprint("validate", version, block.region)

    compute = ScoreBlock(config, root.version(MATCHUPS_STORE, versions[MATCHUPS_STORE]), root.version(STORE, version))
    listed = job(config, len(sensors), compute, mark, lambda block: sensors[slice(*block.region[0])])
    return StagePlan("validate", STORE, version, made, listed, compute.url, inputs | {"sensors": len(sensors)})
