"""What CF, ACDD and the GeoZarr conventions say of stores: coordinates, the projection, and the description of the data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS

from deepprofile.config import DataSet
from deepprofile.execution.blocks import Block
from deepprofile.grids.grids import EQUAL_AREA, Grid
from deepprofile.sources.products import PRODUCTS
from deepprofile.storage.stores import StoreError, Template, Variable

CF_CALENDAR: Final = "proleptic_gregorian"
CONVENTIONS: Final = "CF-1.11, ACDD-1.3"
VOCABULARY: Final = "CF Standard Name Table v93"
MOISTURE_NAME: Final = "volume_fraction_of_condensed_water_in_soil"
MOISTURE_ERROR_NAME: Final = f"{MOISTURE_NAME} standard_error"
# The scalar variable that holds the projection, and what refers to it.
GRID_MAPPING: Final = "spatial_ref"
TIME_BOUNDS: Final = "time_bnds"
BOUNDS_OF_COORDINATES: Final = (TIME_BOUNDS, "depth_bnds")
# Conventions of Zarr for data on the earth, as their attributes name them.
_PROJ: Final = {
    "schema_url": "https://raw.githubusercontent.com/zarr-experimental/geo-proj/refs/tags/v1/schema.json",
    "spec_url": "https://github.com/zarr-experimental/geo-proj/blob/v1/README.md",
    "uuid": "f17cb550-5864-4468-aeb7-f3180cfb622f",
    "name": "proj:",
    "description": "Coordinate reference system information for geospatial data",
}
_SPATIAL: Final = {
    "schema_url": "https://raw.githubusercontent.com/zarr-conventions/spatial/refs/tags/v0.1/schema.json",
    "spec_url": "https://github.com/zarr-conventions/spatial/blob/v0.1/README.md",
    "uuid": "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4",
    "name": "spatial",
    "description": "Spatial coordinate information",
}
_MULTISCALES: Final = {
    "schema_url": "https://raw.githubusercontent.com/zarr-conventions/multiscales/refs/tags/v1/schema.json",
    "spec_url": "https://github.com/zarr-conventions/multiscales/blob/v1/README.md",
    "uuid": "d35379db-88df-4056-af3a-620245f8e347",
    "name": "multiscales",
    "description": "Multiscale layout of zarr datasets",
}


def space_time_coordinates(grid: Grid, days: NDArray[np.datetime64] | None) -> dict[str, Variable]:
    """Coordinates of a store on a grid, with what CF says of them: the projection, and the days with their bounds."""
    found = {
        **_axes(grid),
        "lat": Variable(
            ("y",),
            "float64",
            values=grid.lat,
            attrs={"units": "degrees_north", "standard_name": "latitude", "long_name": "latitude"},
        ),
        "lon": Variable(
            ("x",),
            "float64",
            values=grid.lon,
            attrs={"units": "degrees_east", "standard_name": "longitude", "long_name": "longitude"},
        ),
        GRID_MAPPING: Variable((), "int32", values=np.zeros((), np.int32), attrs=dict(projection(grid.crs))),
    }
    return found if days is None else found | time_coordinates(days)


def _axes(grid: Grid) -> dict[str, Variable]:
    if grid.crs == EQUAL_AREA:
        units, names = ("m", "m"), ("projection_y_coordinate", "projection_x_coordinate")
    else:
        units, names = ("degrees_north", "degrees_east"), ("latitude", "longitude")
    said = [
        {"units": unit, "axis": axis.upper(), "standard_name": name, "long_name": f"{axis} of the cells' centres"}
        for axis, unit, name in zip("yx", units, names, strict=True)
    ]
    return {
        "y": Variable(("y",), "float64", values=grid.y, attrs=said[0]),
        "x": Variable(("x",), "float64", values=grid.x, attrs=said[1]),
    }


def time_coordinates(days: NDArray[np.datetime64]) -> dict[str, Variable]:
    """Days, ``datetime64[D]``, each from midnight to midnight (UTC)."""
    count = days.astype("datetime64[D]").astype(np.int32)
    said = {"units": "days since 1970-01-01", "calendar": CF_CALENDAR, "units_metadata": "leap_seconds: none"}
    return {
        "time": Variable(
            ("time",),
            "int32",
            values=count,
            attrs={**said, "axis": "T", "standard_name": "time", "long_name": "day (UTC)", "bounds": TIME_BOUNDS},
        ),
        # Bounds have the units of what they bound (CF, section 7.1).
        TIME_BOUNDS: Variable(("time", "bnds"), "int32", values=np.stack([count, count + 1], axis=-1).astype(np.int32)),
    }


def layer_coordinates(top: NDArray[np.float64], bottom: NDArray[np.float64], dim: str) -> dict[str, Variable]:
    """Depths of layers, m."""
    ends = {"layer_top": (top, "upper"), "layer_bottom": (bottom, "lower")}
    return {
        name: Variable(
            (dim,),
            "float64",
            values=values,
            attrs={"units": "m", "long_name": f"depth of the {word} side of the layer", "positive": "down"},
        )
        for name, (values, word) in ends.items()
    }


@cache
def projection(crs: str) -> Mapping[str, Any]:
    """Attributes of the grid mapping (CF, appendix F), with the well-known text that GDAL and PROJ read."""
    return CRS(crs).to_cf()


def on_grid(variables: Mapping[str, Variable]) -> dict[str, Variable]:
    """The same with what CF asks of arrays on a grid: where the projection is, and latitude and longitude."""

    def placed(one: Variable) -> Variable:
        others = [str(one.attrs[key]) for key in ("coordinates",) if key in one.attrs]
        said = {"grid_mapping": GRID_MAPPING, "coordinates": " ".join(["lat lon", *others])}
        return replace(one, attrs={**one.attrs, **said})

    return {name: placed(one) if {"y", "x"} <= set(one.dims) else one for name, one in variables.items()}


def grid_attributes(grid: Grid) -> dict[str, Any]:
    """Attributes that place a store on the earth."""
    return {
        "grid": grid.name,
        "crs": grid.crs,
        "grid_window": [grid.first_row, grid.first_column, grid.rows, grid.columns],
        "Conventions": CONVENTIONS,
    }


def geozarr_attributes(grid: Grid) -> dict[str, Any]:
    """Attributes by the conventions ``proj:`` and ``spatial:`` of Zarr."""
    return {"zarr_conventions": [dict(_PROJ), dict(_SPATIAL)], "proj:code": grid.crs, **spatial_attributes(grid)}


def spatial_attributes(grid: Grid) -> dict[str, Any]:
    """Where the cells of a grid lie, by the convention ``spatial:``; corners of cells are what the transform maps to."""
    left, top = grid.west + grid.first_column * grid.dx, grid.north + grid.first_row * grid.dy
    right, bottom = left + grid.columns * grid.dx, top + grid.rows * grid.dy
    return {
        "spatial:dimensions": ["y", "x"],
        "spatial:shape": [grid.rows, grid.columns],
        "spatial:transform": [grid.dx, 0.0, left, 0.0, grid.dy, top],
        "spatial:bbox": [min(left, right), min(top, bottom), max(left, right), max(top, bottom)],
        "spatial:registration": "pixel",
    }


def multiscale_attributes(levels: Mapping[str, Grid]) -> dict[str, Any]:
    """Attributes of a group of levels, the finest first, each with half of the resolution of the one before it."""
    layout: list[dict[str, Any]] = []
    before: tuple[str, Grid] | None = None
    for name, grid in levels.items():
        placed = {
            key: value for key, value in spatial_attributes(grid).items() if key in ("spatial:shape", "spatial:transform")
        }
        level: dict[str, Any] = {"asset": name, **placed}
        if before is not None:
            finer_name, finer = before
            scale = [grid.dy / finer.dy, grid.dx / finer.dx]
            first = zip(scale, (grid.first_row, grid.first_column), (finer.first_row, finer.first_column), strict=True)
            shift = [factor * coarse - fine for factor, coarse, fine in first]
            level |= {"derived_from": finer_name, "transform": {"scale": scale, "translation": shift}}
        layout.append(level)
        before = name, grid
    return {
        "zarr_conventions": [dict(_PROJ), dict(_SPATIAL), dict(_MULTISCALES)],
        "multiscales": {"layout": layout, "resampling_method": "average"},
    }


def extent(lat: NDArray[np.float64], lon: NDArray[np.float64]) -> dict[str, Any]:
    """Between which latitudes and longitudes places lie, as ACDD-1.3 says it."""
    south, north, west, east = (float(value) for value in (lat.min(), lat.max(), lon.min(), lon.max()))
    return {
        "geospatial_lat_min": south,
        "geospatial_lat_max": north,
        "geospatial_lat_units": "degrees_north",
        "geospatial_lon_min": west,
        "geospatial_lon_max": east,
        "geospatial_lon_units": "degrees_east",
        "geospatial_bounds_crs": "EPSG:4326",
        "geospatial_bounds": (
            f"POLYGON (({south:.4f} {west:.4f}, {north:.4f} {west:.4f}, {north:.4f} {east:.4f}, {south:.4f} {east:.4f}, "
            f"{south:.4f} {west:.4f}))"
        ),
    }


def description(
    dataset: DataSet,
    grid: Grid,
    days: NDArray[np.datetime64] | None,
    *,
    title: str,
    summary: str,
    products: Sequence[str],
) -> dict[str, Any]:
    """What ACDD-1.3 asks of a store: the data set's own words, and where and when its values lie.

    No time of making is among them: the same inputs give the same bytes. ``title``: of the store; ``summary``: of what is in
    it, put after that of the data set; ``products``: names of those that it was made from.
    """
    found: dict[str, Any] = {
        "title": f"{dataset.title}: {title}",
        "summary": f"{dataset.summary} {summary}",
        "keywords": ", ".join(dataset.keywords),
        "keywords_vocabulary": "GCMD Science Keywords",
        "standard_name_vocabulary": VOCABULARY,
        "license": dataset.license,
        "processing_level": "4",
        "cdm_data_type": "Grid",
        "references": dataset.references,
        **extent(grid.lat, grid.lon),
        "geospatial_vertical_min": 0.0,
        "geospatial_vertical_max": 1.0,
        "geospatial_vertical_units": "m",
        "geospatial_vertical_positive": "down",
        "comment": dataset.comment,
        "source": ", ".join(PRODUCTS[name].title if name in PRODUCTS else name for name in products),
        "history": dataset.history,
        "acknowledgement": dataset.acknowledgement,
        **dataset.people(),
    }
    unit = "m" if grid.crs == EQUAL_AREA else "degrees"
    found["geospatial_lat_resolution"], found["geospatial_lon_resolution"] = f"{abs(grid.dy):g} {unit}", f"{grid.dx:g} {unit}"
    if days is not None:
        # Dates, not moments: the last day is part of it.
        found |= {
            "time_coverage_start": str(days[0]),
            "time_coverage_end": str(days[-1]),
            "time_coverage_duration": f"P{days.size}D",
            "time_coverage_resolution": "P1D",
        }
    return found


def block_dims(template: Template, block: Block) -> tuple[str, ...]:
    """Dimensions that a block's region runs along: time, y and x, or y and x, or what the store has instead."""
    dims = template.attrs.get("block_dims")
    assert isinstance(dims, (list, tuple))
    if len(dims) != len(block.region):
        raise StoreError(f"block {block.name} has a region of {len(block.region)} dimensions, its store has {list(dims)}")
    return tuple(dims)
