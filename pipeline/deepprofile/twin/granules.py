"""The twin's products as files of the providers' own formats, and its stations as an ISMN archive.

SMAP L4 and L3 as regional subsets in HDF5 with groups, attributes, fills and flags; GLDAS Noah as netCDF-4 in kg m-2; ERA5-Land
as the Climate Data Store gives it. The days' means are the twin's; within a day the values follow a small cycle that averages
to zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from deepprofile.grids.grids import EASE2_M09, ERA5_LAND_01, GLDAS_025, Grid
from deepprofile.twin.world import LAND_MODELS, World

Floats = NDArray[np.float32]

FILL: Final = np.float32(-9999.0)
FILL_FLAG: Final = np.uint16(65534)
# Where the twin lies unless it is said otherwise: the plains of Kansas.
CORNER: Final = (400, 880)
_CYCLE_M3_M3: Final = 0.002
_WARM_K, _FROZEN_K = np.float32(288.0), np.float32(270.0)
_J2000: Final = np.datetime64("2000-01-01T11:58:55.816", "ms")
_GLDAS_EPOCH: Final = np.datetime64("2000-01-01T03:00", "m")
_GLDAS_THICKNESS_M: Final = {"SoilMoi0_10cm_inst": 0.1, "SoilMoi10_40cm_inst": 0.3, "SoilMoi40_100cm_inst": 0.6}
_STEP_MINUTES: Final = {"smap_l4": 180, "gldas_noah": 180, "era5_land": 60}


def region(world: World, corner: tuple[int, int] = CORNER) -> Grid:
    """The window of EASE-Grid 2.0 M09 that the twin's cells are, by the row and column of its first cell."""
    return EASE2_M09.window(*corner, world.truth.sizes["y"], world.truth.sizes["x"])


def write_granules(
    world: World,
    folder: Path,
    days: slice = slice(None),
    *,
    corner: tuple[int, int] = CORNER,
    skip: Mapping[str, set[str]] | None = None,
) -> Grid:
    """Write the granules of the twin's products, one folder for each.

    Parameters
    ----------
    world
        As ``simulate`` makes it.
    folder
        Created where it is not there.
    days
        Which of the world's days.
    corner
        Row and column of EASE-Grid 2.0 M09 at which the twin's first cell lies.
    skip
        Days (``YYYY-MM-DD``) that are left out, by product.

    Returns
    -------
    The window of the target grid that the twin's cells are.
    """
    grid, left_out = region(world, corner), dict(skip or {})
    frozen = np.isnan(world.products["smap_l4"].values[:, 0])
    models = {name: _Model(world, name, grid, frozen) for name in LAND_MODELS}
    times = world.truth.time.values.astype("datetime64[D]")
    writers = {"smap_l4": _write_smap_l4, "gldas_noah": _write_gldas, "era5_land": _write_era5}
    for name in (*models, "smap_l3"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for t in range(*days.indices(times.size)):
        text = str(times[t])
        for name, model in models.items():
            if text not in left_out.get(name, set()):
                writers[name](folder / name, model, t, times[t])
        if text not in left_out.get("smap_l3", set()):
            _write_smap_l3(folder / "smap_l3", world, grid, t, times[t])
    return grid


def write_stations(world: World, folder: Path, *, corner: tuple[int, int] = CORNER) -> Path:
    """Write the twin's stations as an ISMN archive, ``ismn`` below a folder; returns its path."""
    _write_ismn(folder / "ismn", world, region(world, corner), world.truth.time.values.astype("datetime64[D]"))
    return folder / "ismn"


@dataclass(frozen=True)
class _Model:
    """A land model on its provider's grid: nearest cells of the twin."""

    world: World
    name: str
    target: Grid
    frozen: NDArray[np.bool_]

    @property
    def grid(self) -> Grid:
        whole = {"smap_l4": EASE2_M09, "gldas_noah": GLDAS_025, "era5_land": ERA5_LAND_01}[self.name]
        return self.target if self.name == "smap_l4" else whole.covering(self.target)

    def nearest(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        rows = np.abs(self.grid.lat[:, None] - self.target.lat).argmin(axis=1)
        columns = np.abs(self.grid.lon[:, None] - self.target.lon).argmin(axis=1)
        return rows, columns

    def day(self, t: int) -> tuple[Floats, NDArray[np.bool_]]:
        """Daily means (layer, row, column) on the provider's grid, and where the ground is frozen."""
        rows, columns = self.nearest()
        size = LAND_MODELS[self.name].coarsening
        values = self.world.native[self.name].values[t][:, rows // size][:, :, columns // size]
        return values, self.frozen[t][np.ix_(rows, columns)]

    def steps(self, day: np.datetime64) -> NDArray[np.datetime64]:
        """Times of the day's steps."""
        minutes = _STEP_MINUTES[self.name]
        # Means of SMAP are stamped with the centre of their interval, instants of the others with themselves.
        first = minutes // 2 if self.name == "smap_l4" else 0
        return np.asarray(day.astype("datetime64[m]") + np.arange(first, 1440, minutes).astype("timedelta64[m]"))

    def cycle(self, steps: int) -> Floats:
        """Departure from the day's mean at each step; zero in the mean."""
        return (_CYCLE_M3_M3 * np.sin(2.0 * np.pi * (np.arange(steps) + 0.5) / steps)).astype(np.float32)


def _stamp(time: np.datetime64) -> tuple[str, str]:
    text = str(time.astype("datetime64[m]"))
    return text[:10].replace("-", ""), text[11:13] + text[14:16]


def _dataset(group: Any, name: str, values: NDArray[Any], **attributes: Any) -> None:
    variable = group.create_dataset(name, data=values)
    for key, value in attributes.items():
        variable.attrs[key] = value


def _write_smap_l4(folder: Path, model: _Model, t: int, day: np.datetime64) -> None:
    values, frozen = model.day(t)
    grid, steps = model.grid, model.steps(day)
    whole_rows = np.arange(grid.first_row, grid.first_row + grid.rows, dtype=np.uint32)
    whole_columns = np.arange(grid.first_column, grid.first_column + grid.columns, dtype=np.uint32)
    layer_attributes = {"_FillValue": FILL, "units": "m3 m-3", "valid_min": np.float32(0.0), "valid_max": np.float32(0.9)}
    for time, departure in zip(steps, model.cycle(len(steps)), strict=True):
        date, clock = _stamp(time)
        with h5py.File(folder / f"SMAP_L4_SM_gph_{date}T{clock}00_Vv8011_001.h5", "w") as file:
            _dataset(file, "x", grid.x, units="m")
            _dataset(file, "y", grid.y, units="m")
            _dataset(file, "cell_row", np.repeat(whole_rows[:, None], grid.columns, axis=1))
            _dataset(file, "cell_column", np.repeat(whole_columns[None], grid.rows, axis=0))
            seconds = (time.astype("datetime64[ms]") - _J2000) / np.timedelta64(1, "s")
            _dataset(file, "time", np.array([seconds]), units="seconds since 2000-01-01 11:58:55.816")
            group = file.create_group("Geophysical_Data")
            for layer, name in enumerate(("sm_surface", "sm_rootzone")):
                _dataset(group, name, values[layer] + departure, **layer_attributes)
            temperature = np.where(frozen, _FROZEN_K, _WARM_K)
            _dataset(group, "soil_temp_layer1", temperature, _FillValue=FILL, units="K")
            _dataset(group, "snow_mass", np.where(frozen, np.float32(5.0), np.float32(0.0)), _FillValue=FILL, units="kg m-2")


def _write_gldas(folder: Path, model: _Model, t: int, day: np.datetime64) -> None:
    values, frozen = model.day(t)
    grid, steps = model.grid, model.steps(day)
    for time, departure in zip(steps, model.cycle(len(steps)), strict=True):
        date, clock = _stamp(time)
        with h5py.File(folder / f"GLDAS_NOAH025_3H.A{date}.{clock}.021.nc4", "w") as file:
            _variable(file, "lat", ("lat",), grid.lat.astype(np.float32), units="degrees_north")
            _variable(file, "lon", ("lon",), grid.lon.astype(np.float32), units="degrees_east")
            minutes = (time - _GLDAS_EPOCH) / np.timedelta64(1, "m")
            _variable(file, "time", ("time",), np.array([minutes]), units=" minutes since 2000-01-01 03:00:00")
            dims = ("time", "lat", "lon")
            for layer, (name, thickness) in enumerate(_GLDAS_THICKNESS_M.items()):
                water = ((values[layer] + departure) * np.float32(1000.0 * thickness))[None]
                _variable(file, name, dims, water, fill=FILL, units="kg m-2")
            temperature = np.where(frozen, _FROZEN_K, _WARM_K)[None]
            _variable(file, "SoilTMP0_10cm_inst", dims, temperature, fill=FILL, units="K")
            snow = np.where(frozen, np.float32(5.0), np.float32(0.0))[None]
            _variable(file, "SWE_inst", dims, snow, fill=FILL, units="kg m-2")


def _write_era5(folder: Path, model: _Model, t: int, day: np.datetime64) -> None:
    values, frozen = model.day(t)
    grid, steps = model.grid, model.steps(day)
    departure = model.cycle(len(steps))[:, None, None]
    with h5py.File(folder / f"era5_land_{_stamp(day)[0]}.nc", "w") as file:
        seconds = steps.astype("datetime64[s]").astype(np.int64)
        _variable(
            file, "valid_time", ("valid_time",), seconds, units="seconds since 1970-01-01", calendar="proleptic_gregorian"
        )
        _variable(file, "latitude", ("latitude",), grid.lat, units="degrees_north")
        _variable(file, "longitude", ("longitude",), grid.lon % 360.0, units="degrees_east")
        _variable(file, "expver", ("valid_time",), np.array([b"0001"] * len(steps)))
        dims = ("valid_time", "latitude", "longitude")
        nan = np.float32(np.nan)
        for layer, name in enumerate(("swvl1", "swvl2", "swvl3")):
            _variable(file, name, dims, (values[layer] + departure).astype(np.float32), fill=nan, units="m**3 m**-3")
        temperature = np.broadcast_to(np.where(frozen, _FROZEN_K, _WARM_K), (len(steps), *frozen.shape))
        _variable(file, "stl1", dims, np.ascontiguousarray(temperature), fill=nan, units="K")


def _variable(
    file: h5py.File, name: str, dims: tuple[str, ...], values: NDArray[Any], *, fill: Any = None, **attributes: Any
) -> None:
    """A variable as netCDF-4 keeps it in HDF5: those named like their dimension are its scale, the others refer to it."""
    variable = file.create_dataset(name, data=values, fillvalue=fill)
    if fill is not None:
        attributes["_FillValue"] = np.array([fill], values.dtype)
    for key, value in attributes.items():
        variable.attrs[key] = value
    if dims == (name,):
        variable.make_scale(name)
    else:
        for axis, dim in enumerate(dims):
            variable.dims[axis].attach_scale(file[dim])


def _write_smap_l3(folder: Path, world: World, grid: Grid, t: int, day: np.datetime64) -> None:
    seen = world.products["smap_l3"].values[t, 0]
    # Of what was not retrieved well, every second cell has a value all the same, which its flag warns of.
    checker = (np.add.outer(np.arange(grid.rows), np.arange(grid.columns)) + t) % 2 == 0
    poor = np.isnan(seen) & checker
    with h5py.File(folder / f"SMAP_L3_SM_P_E_{_stamp(day)[0]}_R19240_001.h5", "w") as file:
        extent = file.create_group("Metadata/Extent")
        extent.attrs["rangeBeginningDateTime"] = f"{day}T00:00:00.000Z"
        for group_name, end, there in (
            ("Soil_Moisture_Retrieval_Data_AM", "", np.isfinite(seen)),
            ("Soil_Moisture_Retrieval_Data_PM", "_pm", np.zeros(seen.shape, bool)),
        ):
            group = file.create_group(group_name)
            warned = poor if not end else np.zeros(seen.shape, bool)
            moisture = np.where(there, seen, np.where(warned, np.float32(0.45), FILL)).astype(np.float32)
            limits = {"valid_min": np.float32(0.02), "valid_max": np.float32(0.5)}
            _dataset(group, f"soil_moisture{end}", moisture, _FillValue=FILL, units="cm**3/cm**3", **limits)
            # 8 says that freeze and thaw could not be told: good all the same.
            flag = np.where(there, np.where(checker, 0, 8), np.where(warned, 1, FILL_FLAG)).astype(np.uint16)
            _dataset(group, f"retrieval_qual_flag{end}", flag, _FillValue=FILL_FLAG)
            swath = there | warned
            rows = np.arange(grid.first_row, grid.first_row + grid.rows)[:, None]
            columns = np.arange(grid.first_column, grid.first_column + grid.columns)[None]
            for name, index in (("row", rows), ("column", columns)):
                values = np.where(swath, np.broadcast_to(index, seen.shape), FILL_FLAG).astype(np.uint16)
                _dataset(group, f"EASE_{name}_index{end}", values, _FillValue=FILL_FLAG)
            for name, centres in (("latitude", grid.lat[:, None]), ("longitude", grid.lon[None])):
                values = np.where(swath, np.broadcast_to(centres, seen.shape), FILL).astype(np.float32)
                _dataset(group, f"{name}{end}", values, _FillValue=FILL)


def _write_ismn(folder: Path, world: World, grid: Grid, times: NDArray[np.datetime64]) -> None:
    """Six-hourly records in the header format of the International Soil Moisture Network."""
    stations = world.stations
    lat, lon = grid.lat, grid.lon
    first, last = (str(day).replace("-", "") for day in (times[0], times[-1]))
    dates = [str(day).replace("-", "/") for day in times]
    for i in range(stations.sizes["sensor"]):
        one = stations.isel(sensor=i)
        network, station = str(one.network.values), str(one.station.values)
        top, bottom = float(one.depth_top), float(one.depth_bottom)
        place = (float(lat[int(one.y_index)]), float(lon[int(one.x_index)]))
        lines = [
            f"{network} {network} {station} {place[0]:10.5f} {place[1]:10.5f} {400.0:8.2f} {top:8.4f} {bottom:8.4f} Twin-Sensor"
        ]
        for date, value in zip(dates, one.soil_moisture.values, strict=True):
            text = "  -9999.0000 M M" if np.isnan(value) else f"{value:9.4f} G M"
            lines += [f"{date} {hour:02d}:00 {text}" for hour in (0, 6, 12, 18)]
        path = folder / network / station
        path.mkdir(parents=True, exist_ok=True)
        name = f"{network}_{network}_{station}_sm_{top:.6f}_{bottom:.6f}_Twin-Sensor_{first}_{last}.stm"
        (path / name).write_text("\n".join(lines) + "\n")
