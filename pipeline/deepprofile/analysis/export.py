"""Profiles as tables and netCDF files: what was asked for, with its uncertainty, for programs that know no polynomial."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import xarray as xr

if TYPE_CHECKING:
    from deepprofile.analysis.accessor import ProfileAccessor

Layer = tuple[float, float]

# Where nobody says which: the layer that most sensors are in, and the root zone.
LAYERS: Final[tuple[Layer, ...]] = ((0.0, 0.1), (0.0, 1.0))
# Attributes of a store that do not hold for what is taken from it.
_OF_STORE: Final = (
    *("proj:", "spatial:", "zarr_conventions", "multiscales", "block_dims", "store_layout"),
    *("geospatial_lat_r", "geospatial_lon_r", "geospatial_bounds", "time_coverage", "cdm_"),
)
_STANDARD_NAME: Final = "volume_fraction_of_condensed_water_in_soil"
_DAYS: Final = {"units": "days since 1970-01-01", "dtype": "int32", "calendar": "standard", "_FillValue": None}
_PACKED: Final = {"dtype": "float32", "zlib": True, "complevel": 4, "shuffle": True, "_FillValue": np.float32(np.nan)}


def values(
    view: ProfileAccessor,
    layers: Sequence[Layer] | None = None,
    depths: Sequence[float] | None = None,
    level: float = 0.9,
    climatology: xr.Dataset | None = None,
) -> xr.Dataset:
    """What is asked for, along the dimension ``layer``: the means of layers, then the values at depths, lazy.

    See ``ProfileAccessor.values``.
    """
    asked = [(float(top), float(bottom)) for top, bottom in layers or ()]
    points = [float(depth) for depth in depths or ()]
    if not asked and not points:
        asked = list(LAYERS)
    parts = []
    for top, bottom in [*asked, *((depth, depth) for depth in points)]:
        if top == bottom:
            theta, deviation, within = view.at(top), view.std(top), view.interval(level, depth=top)
        else:
            theta, deviation, within = (
                view.mean(top, bottom),
                view.std_mean(top, bottom),
                view.mean_interval(level, top, bottom),
            )
        part = {"soil_moisture": theta, "standard_deviation": deviation, "lower": within["lower"], "upper": within["upper"]}
        if top != bottom:
            part |= {
                "water_storage": view.storage(top, bottom),
                "water_storage_standard_deviation": view.std_storage(top, bottom),
            }
        if climatology is not None and top != bottom:
            part["percentile"] = view.percentile(climatology, top, bottom)
        parts.append(xr.Dataset(part))
    names = {str(name): part[name].attrs for part in parts for name in part.data_vars}
    whole = [part.assign({n: xr.full_like(part["soil_moisture"], np.nan) for n in names if n not in part}) for part in parts]
    found = xr.concat(whole, "layer", coords="minimal", compat="override", join="override", combine_attrs="override")
    for name, attributes in names.items():
        found[name].attrs = dict(attributes)
    bounds = np.array([*asked, *((depth, depth) for depth in points)])
    said = {"units": "m", "positive": "down", "axis": "Z", "bounds": "depth_bnds", "standard_name": "depth"}
    said["long_name"] = "middle of the layer, or the depth"
    found = found.assign_coords(depth=("layer", bounds.mean(axis=1), said), depth_bnds=(("layer", "bnds"), bounds))
    order = [dim for dim in ("layer", "point", "time", "y", "x") if dim in found.dims]
    if "time_bnds" in view._data.coords:
        found = found.assign_coords(time_bnds=view._data["time_bnds"])
    return found.transpose(*order, ...).assign_attrs(interval=f"{level:g}")


def table(found: xr.Dataset) -> pd.DataFrame:
    """Values as a table, a line for each day, place, and layer or depth; columns say their units."""
    computed = found.compute()
    level = float(found.attrs["interval"])
    dims = [dim for dim in ("time", "point", "y", "x", "layer") if dim in computed.dims]
    frame = computed.reset_coords(drop=True).drop_vars(dims, errors="ignore").to_dataframe(dim_order=dims)
    places = {dim: frame.index.get_level_values(dim).to_numpy() for dim in dims}
    out: dict[str, Any] = {}
    if "time" in computed.coords:
        times = computed["time"].values.astype("datetime64[D]")
        out["date"] = times[places["time"]] if "time" in places else np.full(len(frame), times)
    if "point" in places:
        out["point"] = places["point"]
    for axis_name, column in (("lat", "latitude"), ("lon", "longitude")):
        if axis_name in computed.coords:
            axis = computed[axis_name]
            out[column] = axis.values[places[str(axis.dims[0])]] if axis.ndim else np.full(len(frame), float(axis))
    bounds = computed["depth_bnds"].values[places["layer"]]
    out |= {"top_m": bounds[:, 0], "bottom_m": bounds[:, 1]}
    columns = {
        "soil_moisture": "soil_moisture_m3_m3",
        "standard_deviation": "standard_deviation_m3_m3",
        "lower": f"lower_{100 * level:g}_m3_m3",
        "upper": f"upper_{100 * level:g}_m3_m3",
        "water_storage": "water_storage_mm",
        "water_storage_standard_deviation": "water_storage_standard_deviation_mm",
        "percentile": "percentile",
    }
    out |= {column: frame[name].to_numpy() for name, column in columns.items() if name in frame}
    return pd.DataFrame(out).dropna(subset=["soil_moisture_m3_m3"], ignore_index=True)


def for_netcdf(found: xr.Dataset, source: xr.Dataset) -> xr.Dataset:
    """Values as the CF conventions have them, with what the profiles say of themselves; lazy."""
    on_grid = {"y", "x"} <= set(found.dims)
    out = found.drop_vars([] if on_grid else ["spatial_ref"], errors="ignore").copy()
    for name, each in out.data_vars.items():
        of_quality = str(name).endswith("standard_deviation") or name in ("lower", "upper")
        each.attrs = {key: value for key, value in each.attrs.items() if key != "grid_mapping"}
        each.attrs["coverage_content_type"] = "qualityInformation" if of_quality else "modelResult"
        if on_grid and "spatial_ref" in out.coords:
            each.attrs["grid_mapping"] = "spatial_ref"
        each.encoding = dict(_PACKED)
    for name in ("lower", "upper"):
        out[name].attrs["standard_name"] = _STANDARD_NAME
    for name, coordinate in out.coords.items():
        coordinate.encoding = dict(_DAYS) if coordinate.dtype.kind == "M" else {"_FillValue": None}
        if name == "time":
            # Days of the store say it already; first days of periods do not.
            coordinate.attrs = {"long_name": "day", "units_metadata": "leap_seconds: none", **coordinate.attrs}
        if name == "spatial_ref":
            coordinate.attrs = {"long_name": "reference system of the grid", **coordinate.attrs}
    said = {str(name): _plain(value) for name, value in source.attrs.items() if not str(name).startswith(_OF_STORE)}
    level = 100 * float(found.attrs["interval"])
    said["comment"] = f"Soil moisture of layers and at depths, with intervals that hold {level:g} % of the time. NaN: unknown."
    if "time" in out.coords:
        days = np.atleast_1d(out["time"].values).astype("datetime64[D]")
        said |= {"time_coverage_start": str(days[0]), "time_coverage_end": str(days[-1])}
    for name in ("lat", "lon"):
        if name in out.coords:
            axis = out[name].values
            said |= {f"geospatial_{name}_min": float(axis.min()), f"geospatial_{name}_max": float(axis.max())}
    out.attrs = said | {"Conventions": "CF-1.11, ACDD-1.3"}
    return out


def _plain(value: Any) -> Any:
    """An attribute as netCDF has it."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return np.int32(value) if isinstance(value, (int, bool)) else value


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A file beside ``path`` to write to, which takes its place in the end; nothing is left of it where that fails."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
