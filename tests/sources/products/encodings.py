"""Writes one and the same granule in many encodings: formats, packings, orders of axes, rows and columns."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr
from deepprofile.sources.products import PRODUCTS

DAY = np.datetime64("2021-07-03", "D")
NAMES = {
    "era5_land": "era5_land_20210703.nc",
    "gldas_noah": "GLDAS_NOAH025_3H.A20210703.0600.021.nc4",
    "smap_l4": "SMAP_L4_SM_gph_20210703T073000_Vv8011_001.h5",
    "smap_l3": "SMAP_L3_SM_P_E_20210703_R19240_001.h5",
}
_MINUTES = {"era5_land": range(0, 1440, 60), "gldas_noah": [360], "smap_l4": [450], "smap_l3": [0]}
_UNITS = {"era5_land": "m**3 m**-3", "gldas_noah": "kg m-2", "smap_l4": "m3 m-3", "smap_l3": "cm**3/cm**3"}
# What a file may call its rows and columns.
_AXES = {"era5_land": ("latitude", "longitude"), "gldas_noah": ("lat", "lon"), "smap_l4": ("y", "x"), "smap_l3": ("y", "x")}
# Across the first meridian, on cells of the coarsest grid.
_BOX = (-0.6, 50.0, 0.5, 50.7)

# Stored type and fill; of values that are not packed, None.
PACKINGS = {
    "float32": None,
    "float64": None,
    "int16": (np.int16, -32767),
    "uint16": (np.uint16, 65535),
    "unsigned int16": (np.int16, -1),
    "int32": (np.int32, -999999),
}
# Spellings of the start of time, with that start and the minutes of the unit.
CLOCKS = {
    "hours since 1900-1-1 00:00:00": ("1900-01-01", 60.0),
    "minutes since 2000-01-01 00:00:00 UTC": ("2000-01-01", 1.0),
    "seconds since 1970-01-01T00:00:00Z": ("1970-01-01", 1.0 / 60.0),
    "days since 1950-01-01": ("1950-01-01", 1440.0),
}


@dataclass(frozen=True)
class Encoding:
    """How a granule is written."""

    format: str = "netcdf4"
    packing: str = "float32"
    limits: str = "none"
    northwards: bool = False
    longitudes: str = "-180..180"
    last_axis: str = "x"
    extra_axis: str = ""
    chunked: bool = False
    checksums: bool = False
    clock: str = "days since 1950-01-01"


@dataclass(frozen=True)
class Numbers:
    """What a granule holds: soil moisture, m3 m-3, (step, layer, row, column), and soil temperature, K, (step, row, column)."""

    product: Any
    window: Any
    times: np.ndarray
    moisture: np.ndarray
    temperature: np.ndarray

    @classmethod
    def of(cls, name: str) -> Numbers:
        """For a product; some values are missing, and one cell is frozen."""
        product = PRODUCTS[name]
        window = product.grid.covering(PRODUCTS["gldas_noah"].grid.within(_BOX))
        times = DAY.astype("datetime64[m]") + np.array(_MINUTES[name]).astype("timedelta64[m]")
        rng = np.random.default_rng(3)
        moisture = rng.uniform(0.05, 0.45, (times.size, len(product.layers), *window.shape))
        moisture[:, :, 0, -1] = np.nan
        temperature = rng.uniform(280.0, 300.0, (times.size, *window.shape))
        temperature[0, 1, 0] = 265.0
        return cls(product, window, times, moisture, temperature)

    @property
    def expected(self) -> np.ndarray:
        """What is to be read: nothing where the ground is frozen."""
        frozen = np.broadcast_to(self.temperature[:, None] < 274.15, self.moisture.shape)
        return np.where(frozen & bool(self.product.temperature), np.nan, self.moisture)

    def fields(self) -> dict[str, tuple[np.ndarray, str]]:
        """Variables under the provider's names, (step, row, column), with their units."""
        name = self.product.name
        found = {}
        for k, names in enumerate(self.product.variables):
            found[names[0]] = (self.moisture[:, k] * self.per_unit(k), _UNITS[name])
        if self.product.temperature:
            found[self.product.temperature[0]] = (self.temperature, "K")
        if self.product.snow:
            found[self.product.snow[0]] = (np.zeros_like(self.temperature), "kg m-2")
        return found

    def per_unit(self, layer: int) -> float:
        """What 1 m3 m-3 is in the provider's unit."""
        thickness = self.product.layers[layer].bottom_m - self.product.layers[layer].top_m
        return 1000.0 * thickness if self.product.name == "gldas_noah" else 1.0


def packed(values: np.ndarray, how: Encoding) -> tuple[np.ndarray, dict[str, Any], float]:
    """Stored numbers, their attributes, and by how much they may be off."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    kind_and_fill = PACKINGS[how.packing]
    if kind_and_fill is None:
        kind = np.dtype(how.packing).type
        attrs: dict[str, Any] = {"_FillValue": kind(-9999.0), "missing_value": kind(-9999.0)}
        if how.limits != "none":
            attrs |= {"valid_min": kind(low - 1.0), "valid_max": kind(high + 1.0)}
        return np.where(np.isnan(values), -9999.0, values).astype(kind), attrs, 1e-7 * max(abs(high), 1.0)
    kind, fill = kind_and_fill
    scale = max((high - low) / 30000.0, 1e-6)
    # Packed numbers of either sign, or from 0 where the type has no sign.
    offset = low - scale if "u" in how.packing else low + 15000.3 * scale
    numbers = np.rint((np.where(np.isnan(values), low, values) - offset) / scale).astype(np.int64)
    attrs = {"scale_factor": scale, "add_offset": offset, "_FillValue": kind(fill)}
    if how.packing == "unsigned int16":
        attrs["_Unsigned"] = "true"
    if how.limits == "packed":
        attrs["valid_range"] = np.array([numbers.min(), numbers.max()]).astype(kind)
    elif how.limits == "unpacked":
        attrs["valid_range"] = np.array([low - scale, high + scale])
    return np.where(np.isnan(values), fill, numbers).astype(kind), attrs, scale


def dataset(numbers: Numbers, how: Encoding) -> tuple[xr.Dataset, float]:
    """A granule as it is stored, not decoded, and by how much soil moisture may be off."""
    window, product = numbers.window, numbers.product
    geographic = product.grid.crs == "EPSG:4326"
    y, x = (window.lat, window.lon) if geographic else (window.y, window.x)
    columns = np.arange(x.size)
    if geographic and how.longitudes == "0..360":
        columns, x = np.argsort(x % 360.0), np.sort(x % 360.0)
    elif geographic and how.longitudes == "reversed":
        columns, x = columns[::-1], x[::-1]
    rows = np.argsort(y if how.northwards else -y)
    y_name, x_name = _AXES[product.name]
    variables, off = {}, 0.0
    for name, (values, unit) in numbers.fields().items():
        stored, attrs, error = packed(values[:, rows][:, :, columns], how)
        dims = ["time", y_name, x_name]
        if how.extra_axis:
            stored, dims = stored[:, None], ["time", how.extra_axis, y_name, x_name]
        last = {"x": x_name, "y": y_name, "time": "time"}[how.last_axis]
        order = [dim for dim in dims if dim != last] + [last]
        variables[name] = xr.Variable(dims, stored, attrs | {"units": unit}).transpose(*order)
        places = [names[0] for names in product.variables]
        if name in places:
            off = max(off, error / numbers.per_unit(places.index(name)))
        if product.name == "smap_l3":
            flag = name.replace("soil_moisture", "retrieval_qual_flag")
            variables[flag] = xr.Variable(order, np.full(variables[name].shape, 8, np.int16))
    start, minutes = CLOCKS[how.clock]
    passed = (numbers.times - np.datetime64(start, "m")) / np.timedelta64(1, "m") / minutes
    coords = {
        y_name: xr.Variable((y_name,), y[rows]),
        x_name: xr.Variable((x_name,), x),
        "time": xr.Variable(("time",), passed, {"units": how.clock, "calendar": "standard"}),
    }
    return xr.Dataset(variables, coords), off + 2e-7


def write(folder: Path, numbers: Numbers, how: Encoding) -> tuple[Path, float]:
    """Write a granule; returns its path, and by how much soil moisture may be off."""
    made, off = dataset(numbers, how)
    path = folder / NAMES[numbers.product.name]
    if how.format == "hdf5":
        with h5py.File(path, "w") as file:
            _write_hdf5(file, made, how)
        return path, off
    # Services without groups write a group's name before that of the variable.
    flat = made.rename({name: str(name).replace("/", "_") for name in made.data_vars})
    if how.format == "netcdf3":
        flat.to_netcdf(path, format="NETCDF3_64BIT", engine="scipy")
    elif how.format == "zip":
        flat.to_netcdf(folder / "data_0.nc", engine="h5netcdf")
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(folder / "data_0.nc", "data_0.nc")
    else:
        chunks = {
            str(name): {"chunksizes": tuple(min(5, size) for size in variable.shape), "zlib": True}
            for name, variable in flat.data_vars.items()
        }
        flat.to_netcdf(path, engine="h5netcdf", encoding=chunks if how.chunked else {})
    return path, off


def _write_hdf5(file: h5py.File, made: xr.Dataset, how: Encoding) -> None:
    """As HDF5 without dimension scales: axes have no names, and single attributes are arrays."""
    for name, variable in made.variables.items():
        chunks = tuple(min(5, size) for size in variable.shape) if how.chunked or how.checksums else None
        stored = file.create_dataset(
            str(name),
            data=variable.values,
            chunks=chunks,
            compression="gzip" if how.chunked else None,
            fletcher32=how.checksums,
        )
        for key, value in variable.attrs.items():
            stored.attrs[key] = value if isinstance(value, str) or np.ndim(value) else np.array([value])
