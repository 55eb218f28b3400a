"""How much of each cell lies within a polygon.

Everything happens in the coordinates of the cylindrical equal-area projection EPSG:6933, where the cells of every grid of the
data set are rectangles, and areas on the map are those on the ground.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from deepprofile.analysis.places import to_metres
from deepprofile.grids import WORLD_M

Array = NDArray[np.float64]
Places = NDArray[np.int64]

# A straight line between two places on a map of degrees is followed in steps of so many degrees: half of a cell of 9 km.
_STEP_DEGREES: Final = 0.05
_GEOJSON: Final = "give a geopandas object, a shapely geometry, GeoJSON (a mapping, or the path of a file)"


def geometry_of(polygon: Any) -> BaseGeometry:
    """The polygons of what a user gave, as one shapely geometry in degrees east and north.

    Parameters
    ----------
    polygon
        A geopandas object of any reference system, a shapely geometry, a GeoJSON mapping (geometry, feature or collection of
        features), or the path of a file that holds one. Several polygons are taken together.

    Raises
    ------
    ValueError
        For what holds no polygon, or an invalid one; or coordinates that are no degrees.
    """
    if isinstance(polygon, (str, Path)):
        polygon = _read(Path(polygon))
    if hasattr(polygon, "to_crs"):
        if polygon.crs is None:
            raise ValueError("the polygons do not say their reference system: set it, with .set_crs(4326) for degrees")
        polygon = polygon.to_crs(4326)
    found = [shape(each) for each in _geometries(getattr(polygon, "__geo_interface__", polygon))]
    areas = [each for each in found if each.geom_type in ("Polygon", "MultiPolygon") and not each.is_empty]
    if not areas:
        there = ", ".join(sorted({each.geom_type for each in found})) or "nothing"
        raise ValueError(f"there is no polygon, but {there}: {_GEOJSON}")
    for each in areas:
        if not each.is_valid:
            raise ValueError(f"the polygon is not valid: {shapely.is_valid_reason(each)}; shapely.make_valid mends it")
    merged: BaseGeometry = shapely.union_all(areas)
    west, south, east, north = merged.bounds
    if south < -90.0 or north > 90.0 or west < -360.0 or east > 360.0:
        raise ValueError(f"the polygon reaches from {west:g} to {east:g} and {south:g} to {north:g}: these are no degrees")
    return merged


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {path}") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} is no GeoJSON; open other formats with geopandas.read_file, and give what it returns"
        ) from error


def _geometries(said: Any) -> list[Mapping[str, Any]]:
    """The geometries in a GeoJSON mapping."""
    if not isinstance(said, Mapping) or "type" not in said:
        raise ValueError(f"{type(said).__name__} is no polygon: {_GEOJSON}")
    kind = said["type"]
    if kind == "FeatureCollection":
        return [each for feature in said["features"] for each in _geometries(feature)]
    if kind == "Feature":
        return _geometries(said["geometry"]) if said["geometry"] is not None else []
    if kind == "GeometryCollection":
        return [each for geometry in said["geometries"] for each in _geometries(geometry)]
    if "coordinates" not in said:
        raise ValueError(f"a GeoJSON object of type {kind!r} is no polygon: {_GEOJSON}")
    return [said]


def covered_areas(geometry: BaseGeometry, of_rows: Array, of_columns: Array) -> tuple[Array, Places, Places]:
    """Area of each cell that lies within a geometry (degrees), m2, with the rows and columns that are met.

    Parameters
    ----------
    of_rows, of_columns
        Lower and upper ends in EPSG:6933, m, shapes (rows, 2) and (columns, 2). Columns may lie anywhere round the earth.

    Returns
    -------
    Areas (met rows, met columns), rows and columns; all empty where nothing is met.
    """
    in_metres = _in_metres(geometry)
    out = np.zeros((len(of_rows), len(of_columns)))
    for turn in (-WORLD_M, 0.0, WORLD_M):
        _add_covered(in_metres, of_rows, of_columns + turn, out)
    (rows,), (columns,) = np.nonzero(out.any(axis=1)), np.nonzero(out.any(axis=0))
    return out[np.ix_(rows, columns)], rows, columns


def _in_metres(geometry: BaseGeometry) -> BaseGeometry:
    def project(places: Array) -> Array:
        # In x the projection is linear, which holds beyond the antimeridian as well.
        north = to_metres().transform(np.zeros(len(places)), places[:, 1])[1]
        return np.stack([places[:, 0] * (WORLD_M / 360.0), north], axis=1)

    moved: BaseGeometry = shapely.transform(shapely.segmentize(geometry, _STEP_DEGREES), project)
    return moved


def _add_covered(geometry: BaseGeometry, of_rows: Array, of_columns: Array, out: Array) -> None:
    """Add areas of a geometry in m: halves of the grid in turn, so that few cells are cut with few lines."""
    (low_y, high_y), (low_x, high_x) = of_rows.T, of_columns.T
    todo = [(geometry, slice(0, low_y.size), slice(0, low_x.size))]
    while todo:
        part, rows, columns = todo.pop()
        box = shapely.box(low_x[columns].min(), low_y[rows].min(), high_x[columns].max(), high_y[rows].max())
        cut = shapely.intersection(part, box)
        if cut.area == 0.0:
            continue
        size = (rows.stop - rows.start, columns.stop - columns.start)
        if cut.area >= box.area * (1.0 - 1e-12):
            out[rows, columns] += (high_y - low_y)[rows, None] * (high_x - low_x)[None, columns]
        elif size == (1, 1):
            out[rows, columns] += cut.area
        else:
            along_rows = size[0] >= size[1]
            whole = rows if along_rows else columns
            middle = (whole.start + whole.stop) // 2
            for half in (slice(whole.start, middle), slice(middle, whole.stop)):
                todo.append((cut, half, columns) if along_rows else (cut, rows, half))
