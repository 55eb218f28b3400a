"""Where places lie on grids that are rectilinear in latitude and longitude, as all grids of the data set are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pyproj import Transformer

# Mean radius of the earth, m (IUGG; Moritz 2000, doi 10.1007/s001900050278).
EARTH_RADIUS_M: Final = 6371008.8
# Half of a cell, and a little for the rounding of coordinates.
_REACH: Final = 0.51


@dataclass(frozen=True)
class Cells:
    """The centres of the cells of a grid: latitude of each row and longitude of each column, degrees."""

    lat: NDArray[np.float64]
    lon: NDArray[np.float64]

    def holding(self, latitude: float, longitude: float) -> tuple[int, int] | None:
        """Row and column of the cell that a place lies in; None outside of the grid.

        A grid of a single row or column does not tell how wide that is: it is taken to hold every place.
        """
        off_y, off_x = np.abs(self.lat - latitude), np.abs(eastwards(self.lon - longitude))
        row, column = int(off_y.argmin()), int(off_x.argmin())
        near_y = self.lat.size == 1 or off_y[row] <= _REACH * abs(np.gradient(self.lat)[row])
        near_x = self.lon.size == 1 or off_x[column] <= _REACH * abs(np.gradient(eastwards(self.lon - longitude))[column])
        return (row, column) if near_y and near_x else None

    def distance_m(self, cell: tuple[int, int], latitude: float, longitude: float) -> float:
        """From a place to the centre of a cell, along a great circle."""
        return great_circle_m(latitude, longitude, float(self.lat[cell[0]]), float(self.lon[cell[1]]))


def eastwards(degrees: NDArray[np.float64]) -> NDArray[np.float64]:
    """Differences of longitudes, from -180 to 180 degrees."""
    return np.asarray((degrees + 180.0) % 360.0 - 180.0)


def great_circle_m(lat_1: float, lon_1: float, lat_2: float, lon_2: float) -> float:
    """Distance of two places on a sphere, m."""
    return float(great_circles_m(*(np.asarray(each) for each in (lat_1, lon_1, lat_2, lon_2))))


def great_circles_m(
    lat_1: NDArray[np.float64], lon_1: NDArray[np.float64], lat_2: NDArray[np.float64], lon_2: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Distances of places on a sphere, m (the haversine formula; Sinnott 1984, Sky and Telescope 68, 159)."""
    a, b = np.deg2rad(lat_1), np.deg2rad(lat_2)
    half_y, half_x = 0.5 * (b - a), 0.5 * np.deg2rad(lon_2 - lon_1)
    share = np.sin(half_y) ** 2 + np.cos(a) * np.cos(b) * np.sin(half_x) ** 2
    return np.asarray(2.0 * EARTH_RADIUS_M * np.arcsin(np.sqrt(np.minimum(share, 1.0))))


@cache
def to_metres() -> Transformer:
    """From degrees to EPSG:6933, longitude first."""
    from pyproj import Transformer

    from deepprofile.grids import EQUAL_AREA, GEOGRAPHIC

    return Transformer.from_crs(GEOGRAPHIC, EQUAL_AREA, always_xy=True)


def bounds_m(profile: xr.Dataset) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper ends of the rows and of the columns of profiles in EPSG:6933, m; shapes (rows, 2) and (columns, 2).

    Rows and columns of a grid that is known are as wide as its own, whichever were selected. Others end halfway to their
    neighbours, and are as wide as the narrower side where they have a gap beside them.

    Raises
    ------
    ValueError
        For a single row or column of a grid that is not known.
    """
    # The numerics alone have no projections.
    from deepprofile.grids import EQUAL_AREA, WORLD_M, by_name

    try:
        grid = by_name(str(profile.attrs.get("grid", "")))
    except ValueError:
        grid = None
    if grid is not None and grid.crs == EQUAL_AREA:
        y, x = (profile[name].values.astype(np.float64) for name in ("y", "x"))
        return _around(y, 0.5 * abs(grid.dy)), _around(x, 0.5 * grid.dx)
    lat, lon = profile["lat"].values.astype(np.float64), np.unwrap(profile["lon"].values.astype(np.float64), period=360.0)
    half_y = 0.5 * abs(grid.dy) if grid is not None else _half("row", lat)
    half_x = 0.5 * grid.dx if grid is not None else _half("column", lon)
    north = np.clip(_around(lat, half_y), -90.0, 90.0)
    in_metres = np.asarray(to_metres().transform(np.zeros(north.size), north.ravel())[1]).reshape(north.shape)
    return in_metres, _around(lon, half_x) * (WORLD_M / 360.0)


def _around(centres: NDArray[np.float64], half: float | NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([centres - half, centres + half], axis=1)


def _half(what: str, centres: NDArray[np.float64]) -> NDArray[np.float64]:
    """Half of the width of each row or column."""
    if centres.size == 1:
        raise ValueError(f"one {what} of cells alone does not tell how wide it is: ask the whole data set for the polygon")
    steps = np.abs(np.diff(centres))
    return np.asarray(0.5 * np.minimum(np.append(steps, np.inf), np.append(np.inf, steps)))
