"""Observations: what the stations have measured, as a store that the blocks of validation read.

The driver reads the station files, since they may lie where only it can see them, and writes the daily series of the sensors
that can be compared. From there on every block reads the series that it needs: none travels with a task. Sensors lie in the
order of a curve through the cells of the grid (Morton 1966), so that those of one shard of the profiles are side by side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from deepprofile.analysis.places import Cells
from deepprofile.config import Stations
from deepprofile.evaluation.stations import (
    MIN_DAY_FRACTION,
    MissingStationsError,
    Report,
    SensorRecord,
    StationPath,
    ismn_records,
    reaches_profile,
    scan_records,
    to_dataset,
    uscrn_records,
)
from deepprofile.execution.blocks import Block, Job, Outcome, Workload, grid_blocks
from deepprofile.grids.grids import Grid
from deepprofile.stages import schemas
from deepprofile.stages.domain import Domain
from deepprofile.stages.plan import StagePlan, VersionPlan
from deepprofile.stages.schemas import (
    SENSOR_COORDINATES,
    SENSOR_NAMES,
    SENSORS_PER_CHUNK,
    SENSORS_PER_STRETCH,
)
from deepprofile.storage.filesystems import zarr_store
from deepprofile.storage.fingerprints import fingerprint
from deepprofile.storage.objects import MissingPathError, as_local
from deepprofile.storage.roots import Root, part_name
from deepprofile.storage.stores import write_shards

# The version of what turns station files into daily series.
ALGORITHM: Final = 1
STORE: Final = "observations"

Place = tuple[int, int, float, float]


class Found(NamedTuple):
    """The sensors that can be compared, and what is to be said of the station files.

    ``stations``: as ``deepprofile.evaluation.stations`` gives them, float32, on the days of the configuration, with the
    ``row`` and ``column`` of each sensor's cell, in the order of the stores.
    """

    stations: xr.Dataset
    report: Report

    @property
    def places(self) -> list[Place]:
        """Row, column, and depths in m of each sensor: all that an estimate depends on."""
        columns = (self.stations[name].values.tolist() for name in ("row", "column", "depth_top", "depth_bottom"))
        return list(zip(*columns, strict=True))

    def members(self, year: Domain) -> NDArray[np.int64]:
        """Which of the sensors have a value in a year of the record: those that the stores of the year have, in their order."""
        there = np.isfinite(self._of_days(year).soil_moisture.transpose("time", "sensor").values).any(axis=0)
        return np.flatnonzero(there)

    def of_year(self, year: Domain) -> Found:
        """The sensors and days of a year of the record."""
        return Found(self._of_days(year).isel(sensor=self.members(year)), self.report)

    def _of_days(self, year: Domain) -> xr.Dataset:
        first = int((year.first_day - self.stations.time.values[0].astype("datetime64[D]")).astype(int))
        return self.stations.isel(time=slice(first, first + year.length))


@dataclass(frozen=True)
class _Placing:
    """Finds the cell of a place, and remembers it: sensors of a station share one."""

    cells: Cells
    known: dict[tuple[float, float], tuple[int, int] | None]

    @classmethod
    def of(cls, grid: Grid) -> _Placing:
        return cls(Cells(grid.lat, grid.lon), {})

    def cell(self, latitude: float, longitude: float) -> tuple[int, int] | None:
        """Row and column; None outside of the grid."""
        if (latitude, longitude) not in self.known:
            self.known[latitude, longitude] = self.cells.holding(latitude, longitude)
        return self.known[latitude, longitude]


def read_records(
    stations: Sequence[Stations], report: Report, keep: Callable[[SensorRecord], SensorRecord | None]
) -> list[SensorRecord]:
    """The records of all configured stations that ``keep`` returns; downloads of the same sensors are joined.

    Raises
    ------
    deepprofile.storage.objects.MissingPathError
        If there is nothing at a path.
    """
    groups: dict[tuple[str, tuple[str, ...]], list[Stations]] = {}
    for source in stations:
        groups.setdefault((source.kind, source.flags), []).append(source)
    records: list[SensorRecord] = []
    for (kind, flags), sources in groups.items():
        with ExitStack() as fetched:
            places = [StationPath(fetched.enter_context(as_local(source.path)), source.path) for source in sources]
            try:
                if kind == "ismn":
                    records += ismn_records(places, flags, MIN_DAY_FRACTION, report, keep)
                    continue
                if kind == "scan":
                    found = scan_records(places, None, MIN_DAY_FRACTION, report)
                else:
                    found = uscrn_records(places, MIN_DAY_FRACTION, report)
                records += [kept for record in found if (kept := keep(record)) is not None]
            except MissingStationsError as error:
                raise MissingPathError(str(error)) from error
    return records


def sensors_of(stations: Sequence[Stations], domain: Domain) -> Found:
    """The sensors that can be compared; station files that cannot be used are in the report.

    They lie within the grid and the profile, and have a value on a day of the domain.

    Raises
    ------
    deepprofile.storage.objects.MissingPathError
        If there is nothing at the path of some stations.
    """
    report, placing, days = Report(), _Placing.of(domain.grid), pd.DatetimeIndex(domain.days)
    read = 0

    def keep(record: SensorRecord) -> SensorRecord | None:
        nonlocal read
        read += 1
        if not reaches_profile(record.depth_bottom):
            return None
        if placing.cell(record.latitude, record.longitude) is None:
            return None
        values = record.values.reindex(days).to_numpy(np.float32)
        return replace(record, values=pd.Series(values, index=days)) if np.isfinite(values).any() else None

    sensors = to_dataset(read_records(stations, report, keep))
    if not sensors.sizes["sensor"]:
        where = ", ".join(source.path for source in stations)
        why = "lies within the grid, the depths and the period" if read else "could be read"
        report.problems.append(f"no sensor of {where} {why}: there is nothing to validate against")
        sensors = sensors.reindex(time=days)
    return Found(placed(sensors, domain.grid), report)


def placed(stations: xr.Dataset, grid: Grid) -> xr.Dataset:
    """Sensors with the ``row`` and ``column`` of their cells, in the order of the stores; without those outside of the grid."""
    placing = _Placing.of(grid)
    cells = [placing.cell(*place) for place in zip(stations.latitude.values, stations.longitude.values, strict=True)]
    inside = [(k, *cell) for k, cell in enumerate(cells) if cell is not None]
    positions, rows, columns = np.array(inside, np.int64).reshape(-1, 3).T
    order = np.argsort(along_curve(rows, columns), kind="stable")
    return stations.isel(sensor=positions[order]).assign_coords(
        row=("sensor", rows[order], {"long_name": "row of the sensor's cell"}),
        column=("sensor", columns[order], {"long_name": "column of the sensor's cell"}),
    )


def along_curve(rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Place of cells on a curve that goes through one square of 2^k x 2^k cells after the other, for every k (Morton 1966).

    Thus the order does not depend on the size of the shards, and yet keeps the cells of one together.
    """
    place = np.zeros(len(rows), np.int64)
    for bit in range(16):
        place |= ((columns >> bit) & 1) << (2 * bit) | ((rows >> bit) & 1) << (2 * bit + 1)
    return place


def sensor_batches(block: Block) -> list[tuple[int, int]]:
    """The sensors of a block of stores along sensors alone, first and last + 1, as many at a time as are held in memory."""
    first, after = block.region[0]
    return [(start, min(start + SENSORS_PER_CHUNK, after)) for start in range(first, after, SENSORS_PER_CHUNK)]


@dataclass(frozen=True)
class WriteBlock:
    """Writes the series of some sensors on some days; ``values`` has the shape (day, sensor)."""

    values: NDArray[np.float32]
    url: str

    def __call__(self, block: Block, _: Any) -> Outcome:
        """See ``deepprofile.execution.blocks.Job``."""
        part = self.values[tuple(slice(*span) for span in block.region)]
        written = write_shards(self.url, "soil_moisture", [start for start, _ in block.region], part)
        return Outcome(0, written, details={"values": int(np.isfinite(part).sum())})


def workload(domain: Domain, count: int) -> Workload:
    """Blocks of the days of all years and so many sensors."""
    return Workload.joined([_workload_of_year(year, count) for year in domain.years])


def _workload_of_year(year: Domain, count: int) -> Workload:
    """Blocks of days and sensors."""
    return Workload(
        name="validate: observations",
        blocks=grid_blocks((year.length, count), (year.blocks.days, SENSORS_PER_STRETCH), year.year),
        memory_per_block=2 * year.days_in_block * SENSORS_PER_STRETCH * 4,
        bytes_out=year.length * count * 4,
    )


def plan(domain: Domain, root: Root, found: Found) -> StagePlan:
    """Plan the writing of what ``sensors_of`` has found; a block whose values are as they were is taken over.

    The store of a year has the sensors with a value in it: a station that is new changes no year before it.
    """
    *before, last = domain.years
    versions = [_plan_year(year, root, found.of_year(year)) for year in before]
    problems, notes = (list(dict.fromkeys(said)) for said in (found.report.problems, found.report.notes))
    versions.append(replace(_plan_year(last, root, found.of_year(last)), finish=lambda _: problems))
    return StagePlan("validate/observations", STORE, tuple(versions), lambda _: notes, on_driver=True)


def _plan_year(year: Domain, root: Root, found: Found) -> VersionPlan:
    stations, store = found.stations, part_name(STORE, year.year)
    made = schemas.observations(year, stations)
    values = np.ascontiguousarray(stations.soil_moisture.transpose("time", "sensor").values, np.float32)
    content = hashlib.sha256(values.data).hexdigest()
    places = [variable.values.tolist() for variable in made.variables.values() if variable.values is not None]
    shards = made.shard_shape("soil_moisture")
    version = fingerprint("observations", ALGORITHM, dict(made.attrs), shards, places, content)
    compute = WriteBlock(values, root.version(store, version))

    def mark(block: Block) -> str:
        part = values[tuple(slice(*span) for span in block.region)]
        return fingerprint("observations", shards, block.region, hashlib.sha256(np.ascontiguousarray(part).data).hexdigest())

    job = Job(_workload_of_year(year, stations.sizes["sensor"]), compute, mark)
    inputs = {"sensors": stations.sizes["sensor"]}
    return VersionPlan(store, version, made, job, compute.url, inputs, part=year.year)


def opened(url: str) -> xr.Dataset:
    """A store along sensors, lazy, with the names of each sensor as ``deepprofile.evaluation.stations`` gives them."""
    store: xr.Dataset = xr.open_zarr(zarr_store(url), consolidated=False, chunks=None)
    names = {name: ("sensor", np.array(store.attrs[plural], str)) for name, plural in SENSOR_NAMES.items()}
    return store.assign_coords(names).set_coords(list(SENSOR_COORDINATES))
