"""ERA5-Land hourly data from the Copernicus Climate Data Store, doi 10.24381/cds.e2161bac."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final

import h5py
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from deepprofile.grids import ERA5_LAND_01, Grid
from deepprofile.objects import zarr_store
from deepprofile.products.granule import (
    FROZEN_K,
    Days,
    Floats,
    GranuleError,
    GranuleName,
    Layer,
    Product,
    Steps,
    day,
    decode_times,
    named_time,
    opened,
    place,
    require_layers,
    without_fill,
)

# Files of the CDS bear the name that the user gave them: one day or one month, said by its digits.
_NAME: Final = re.compile(r"(?:.*?\D)?(\d{4})[-_]?(\d{2})(?:[-_]?(\d{2}))?(?:\D.*)?\.(?:nc|nc4|grib|grb|grib2)")
_GRIB: Final = (".grib", ".grb", ".grib2")
# The last digits of single precision leave values near -1e-20 where the soil is dry.
_TINY: Final = 1e-6
_PROVISIONAL: Final = "0005"
_LONG_NAMES: Final = {
    "swvl1": "volumetric_soil_water_layer_1",
    "swvl2": "volumetric_soil_water_layer_2",
    "swvl3": "volumetric_soil_water_layer_3",
    "stl1": "soil_temperature_level_1",
}
# Values of some time steps on some rows and columns, shape (step, rows, columns).
Field = Callable[[NDArray[np.int64], slice, slice], Floats]


@dataclass(frozen=True)
class Era5Land(Product):
    """ERA5-Land: hourly, 0.1 degrees; the layer below 1 m is not used."""

    grid: Grid = ERA5_LAND_01
    name: ClassVar[str] = "era5_land"
    title: ClassVar[str] = "ERA5-Land"
    layers: ClassVar[tuple[Layer, ...]] = (Layer(0.0, 0.07), Layer(0.07, 0.28), Layer(0.28, 1.0))
    steps_per_day: ClassVar[int] = 24
    latency_days: ClassVar[int] = 5
    final_latency_days: ClassVar[int | None] = 92

    variables: ClassVar[tuple[str, ...]] = ("swvl1", "swvl2", "swvl3")
    temperature: ClassVar[str] = "stl1"

    @property
    def collections(self) -> tuple[tuple[str, str], ...]:
        """See ``Product.collections``."""
        return (("reanalysis-era5-land", ""),)

    def is_provisional(self, path: Path) -> bool:
        """See ``Product.is_provisional``: said by ``expver`` in the file."""
        if path.suffix in _GRIB:
            return False
        with opened(path) as file:
            return "expver" in file and bool((_text(file["expver"][()]) == _PROVISIONAL).any())

    def mirror_days(self, url: str) -> list[tuple[np.datetime64, str]]:
        """See ``Product.mirror_days``: stores say up to which day their values are final, and up to which they are there."""
        with self._mirror(url) as store:
            hours = store[_clock(store)].values.astype("datetime64[h]")
            stops = [str(store.attrs.get(name, "")) for name in ("valid_time_stop", "valid_time_stop_era5t")]
        final, there = (np.datetime64(stop, "D") if stop else None for stop in stops)
        days = np.unique(hours.astype("datetime64[D]"))
        last = max((stop for stop in (final, there) if stop is not None), default=None)
        return [
            (day, _PROVISIONAL if final is not None and day > final else "0001") for day in days if last is None or day <= last
        ]

    def read_mirror(self, url: str, window: Grid, days: Days) -> Steps:
        """See ``Product.read_mirror``."""
        name = Path(url.rsplit("/", 1)[-1])
        provisional = dict(self.mirror_days(url)).get(days[0]) == _PROVISIONAL
        with self._mirror(url) as store:
            clock = _clock(store)
            names = {short: next((n for n in (short, long) if n in store), None) for short, long in _LONG_NAMES.items()}
            present = require_layers(name, self, [names[n] is not None for n in self.variables])
            part = store.sel({clock: slice(days[0], days[-1] + np.timedelta64(1, "D") - np.timedelta64(1, "s"))})
            times = part[clock].values.astype("datetime64[s]")

            def field(variable: xr.DataArray, chosen: NDArray[np.int64], rows: slice, columns: slice) -> Floats:
                of_steps = variable.transpose(clock, "latitude", "longitude").isel({clock: chosen})
                return np.asarray(of_steps.isel(latitude=rows, longitude=columns).values, dtype=np.float32)

            fields = {short: partial(field, part[long]) for short, long in names.items() if long is not None}
            x, y = part.longitude.values, part.latitude.values
            return self._screen(name, times, x, y, fields, present, window, days, provisional)

    @staticmethod
    def _mirror(url: str) -> xr.Dataset:
        try:
            store: xr.Dataset = xr.open_zarr(zarr_store(url), chunks=None)
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise GranuleError(f"{url} cannot be opened as a mirror in Zarr: {error}") from error
        return store

    def parse(self, name: str) -> GranuleName | None:
        """Name that holds ``YYYYMMDD`` (one day) or ``YYYYMM`` (one month)."""
        match = named_time(_NAME, name)
        if match is None or not 1 <= int(match[2]) <= 12:
            return None
        if match[3]:
            first = last = day(match[1] + match[2] + match[3])
        else:
            month = np.datetime64(f"{match[1]}-{match[2]}", "M")
            first, last = month.astype("datetime64[D]"), (month + 1).astype("datetime64[D]") - np.timedelta64(1, "D")
        return GranuleName(first, last, "".join(part for part in match.groups() if part))

    def read(self, path: Path, window: Grid, days: Days) -> Steps:
        """See ``Product.read``."""
        if path.suffix in _GRIB:
            return self._read_grib(path, window, days)
        with opened(path) as file:
            present = require_layers(path, self, [name in file for name in self.variables])
            clock = next((name for name in ("valid_time", "time") if name in file), None)
            if clock is None:
                raise GranuleError(f"{path.name} has no variable 'valid_time' or 'time'")
            times = decode_times(file[clock], path)
            versions = _text(file["expver"][()]) if "expver" in file else None

            x, y = file["longitude"][()], file["latitude"][()]
            fields = {n: partial(_newest, file[n]) for n in (*self.variables, self.temperature) if n in file}
            provisional = versions is not None and bool((versions == _PROVISIONAL).any())
            return self._screen(path, times, x, y, fields, present, window, days, provisional)

    def _screen(
        self,
        path: Path,
        times: NDArray[np.datetime64],
        x: NDArray[Any],
        y: NDArray[Any],
        fields: Mapping[str, Field],
        present: NDArray[np.bool_],
        window: Grid,
        days: Days,
        provisional: bool,
    ) -> Steps:
        chosen = np.flatnonzero(np.isin(times.astype("datetime64[D]"), days))
        if not chosen.size:
            held = f"{times.min().astype('datetime64[D]')} to {times.max().astype('datetime64[D]')}" if times.size else "no day"
            raise GranuleError(f"{path.name} is for {days[0]} to {days[-1]} by its name, but holds {held}")
        where = place(path, self.grid, x, y, window)
        values = np.full((chosen.size, len(self.layers), *window.shape), np.nan, np.float32)
        for k, name in enumerate(self.variables):
            if present[k]:
                values[:, k] = where.fill(partial(fields[name], chosen), chosen.size)
        recorded = np.isfinite(values).sum(axis=(1, 2, 3))
        with np.errstate(invalid="ignore"):
            values[(values < 0.0) & (values > -_TINY)] = 0.0
            if self.temperature in fields:
                cold = ~(where.fill(partial(fields[self.temperature], chosen), chosen.size) > FROZEN_K)
                values[np.broadcast_to(cold[:, None], values.shape)] = np.nan
        return Steps(times[chosen].astype("datetime64[m]"), self.keep_valid(values), recorded, present, provisional)

    def _read_grib(self, path: Path, window: Grid, days: Days) -> Steps:
        """GRIB through cfgrib, without an index file beside it."""
        try:
            dataset = xr.open_dataset(path, engine="cfgrib", backend_kwargs={"indexpath": "", "errors": "raise"})
        except Exception as error:  # eccodes has exceptions of its own for each way in which a file can be broken
            raise GranuleError(f"{path.name} cannot be read as GRIB ({error}): truncated, or no file of ERA5-Land") from error
        with dataset:
            present = require_layers(path, self, [name in dataset for name in self.variables])
            dims = [dim for dim in ("time", "step") if dim in dataset.dims]
            times = np.atleast_1d(dataset.valid_time.values).ravel().astype("datetime64[s]")

            def field(variable: xr.DataArray, chosen: NDArray[np.int64], rows: slice, columns: slice) -> Floats:
                part = variable.isel(latitude=rows, longitude=columns)
                stacked = part.values.reshape(-1, *part.shape[len(dims) :]) if dims else part.values[None]
                return np.asarray(stacked[chosen], dtype=np.float32)

            fields = {n: partial(field, dataset[n]) for n in (*self.variables, self.temperature) if n in dataset}
            x, y = dataset.longitude.values, dataset.latitude.values
            return self._screen(path, times, x, y, fields, present, window, days, False)


def _clock(store: xr.Dataset) -> str:
    return "valid_time" if "valid_time" in store.dims else "time"


def _text(values: NDArray[Any]) -> NDArray[np.str_]:
    return np.array([v.decode() if isinstance(v, bytes) else str(v) for v in np.atleast_1d(values).ravel()])


def _newest(variable: h5py.Dataset, chosen: NDArray[np.int64], rows: slice, columns: slice) -> Floats:
    """Values of some time steps, (step, rows, columns); an axis ``expver`` (older files) is folded into one."""
    steps = slice(int(chosen[0]), int(chosen[-1]) + 1)
    kept = chosen - chosen[0]
    if variable.ndim == 3:
        return np.asarray(without_fill(variable[steps, rows, columns], variable)[kept])
    if variable.ndim != 4:
        raise GranuleError(f"{variable.name} has {variable.ndim} dimensions, not time, latitude and longitude")
    # Final values (0001) come first; provisional ones fill in where there is none yet.
    versions = without_fill(variable[steps, :, rows, columns], variable)
    out = versions[:, 0]
    for k in range(1, versions.shape[1]):
        out = np.where(np.isnan(out), versions[:, k], out)
    return np.asarray(out[kept], dtype=np.float32)
