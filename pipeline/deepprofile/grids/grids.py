"""Grids of products and targets.

Every grid here is rectilinear in latitude and longitude. In the coordinates of the cylindrical equal-area projection of
EASE-Grid 2.0 (EPSG:6933; Brodzik et al. 2012, doi 10.3390/ijgi1010032) the share of a target cell that a source cell covers
is the product of a share along y and a share along x: two one-dimensional overlaps, without weights of latitude.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pyproj import Transformer

Array = NDArray[np.float64]

EQUAL_AREA: Final = "EPSG:6933"
GEOGRAPHIC: Final = "EPSG:4326"
Crs = Literal["EPSG:6933", "EPSG:4326"]

_EASE2_X0_M: Final = -17367530.4451615
_EASE2_Y0_M: Final = 7314540.8306386
_M09_M: Final = 9008.055210146
WORLD_M: Final = -2.0 * _EASE2_X0_M
# Overlaps below this share of a target cell are rounding of edges that coincide.
SLIVER: Final = 1e-9
# Centres that a file states may be off by this share of a cell: they are often single precision.
_PLACEMENT_TOLERANCE: Final = 0.02


@dataclass(frozen=True)
class Grid:
    """A rectilinear grid, or a window of one.

    Attributes
    ----------
    name
        Of the whole grid.
    crs
        ``EPSG:6933`` (x and y in m) or ``EPSG:4326`` (longitude and latitude in degrees).
    west, north
        Outer edges of the whole grid's first column and first row (the southern edge where rows run northwards).
    dx, dy
        Width of a column; height of a row, negative where rows run southwards.
    whole_rows, whole_columns
        Size of the whole grid.
    first_row, first_column, rows, columns
        The window. Where the whole grid goes round the earth, columns may run on beyond its last one.
    """

    name: str
    crs: Crs
    west: float
    north: float
    dx: float
    dy: float
    whole_rows: int
    whole_columns: int
    first_row: int = 0
    first_column: int = 0
    rows: int = -1
    columns: int = -1

    def __post_init__(self) -> None:
        if self.rows < 0:
            object.__setattr__(self, "rows", self.whole_rows - self.first_row)
        if self.columns < 0:
            object.__setattr__(self, "columns", self.whole_columns - self.first_column)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the window."""
        return self.rows, self.columns

    @property
    def whole(self) -> Grid:
        """The grid that this is a window of."""
        return replace(self, first_row=0, first_column=0, rows=self.whole_rows, columns=self.whole_columns)

    @property
    def is_global(self) -> bool:
        """Whether the whole grid covers all longitudes."""
        width = self.whole_columns * self.dx
        return bool(abs(width - (WORLD_M if self.crs == EQUAL_AREA else 360.0)) < 0.01 * self.dx)

    @property
    def x(self) -> Array:
        """Centres of the columns in the grid's own coordinates, shape (columns,)."""
        return np.asarray(self.west + (self.first_column + np.arange(self.columns) + 0.5) * self.dx, dtype=np.float64)

    @property
    def y(self) -> Array:
        """Centres of the rows in the grid's own coordinates, shape (rows,)."""
        return np.asarray(self.north + (self.first_row + np.arange(self.rows) + 0.5) * self.dy, dtype=np.float64)

    @property
    def lon(self) -> Array:
        """Longitude of the columns' centres, degrees east, -180 to 180."""
        lon = self.x if self.crs == GEOGRAPHIC else _from_metres().transform(self.x, np.zeros(self.columns))[0]
        return np.asarray((np.asarray(lon) + 180.0) % 360.0 - 180.0)

    @property
    def lat(self) -> Array:
        """Latitude of the rows' centres, degrees north."""
        if self.crs == GEOGRAPHIC:
            return self.y
        return np.asarray(_from_metres().transform(np.zeros(self.rows), self.y)[1])

    def window(self, first_row: int, first_column: int, rows: int, columns: int) -> Grid:
        """A part of this window, by rows and columns counted from its own corner."""
        if not (
            first_row >= 0 and first_row + rows <= self.rows and first_column >= 0 and first_column + columns <= self.columns
        ):
            raise ValueError(
                f"rows {first_row} to {first_row + rows} and columns {first_column} to {first_column + columns} are not within "
                f"the {self.rows} x {self.columns} cells of {self.name}"
            )
        return replace(
            self,
            first_row=self.first_row + first_row,
            first_column=self.first_column + first_column,
            rows=rows,
            columns=columns,
        )

    def within(self, bbox: tuple[float, float, float, float]) -> Grid:
        """The window of the cells whose centres lie in a box: west, south, east, north in degrees.

        Raises
        ------
        ValueError
            For a box that crosses the antimeridian, is upside down, or holds no cell centre.
        """
        west, south, east, north = bbox
        if west >= east or south >= north:
            raise ValueError(
                f"bbox is west {west:g}, south {south:g}, east {east:g}, north {north:g}: west has to be less than east and "
                "south less than north (a region across the antimeridian is two regions)"
            )
        lon, lat = self.lon, self.lat
        columns = np.flatnonzero((lon >= west) & (lon <= east))
        rows = np.flatnonzero((lat >= south) & (lat <= north))
        if not rows.size or not columns.size:
            raise ValueError(f"bbox {west:g}, {south:g}, {east:g}, {north:g} holds no cell centre of the grid {self.name}")
        if columns[-1] - columns[0] + 1 != columns.size:
            # The grid starts at longitude 0 and the box holds it: run on beyond the last column.
            first = int(columns[np.flatnonzero(np.diff(columns) > 1)[0] + 1])
            return self.window(int(rows[0]), 0, rows.size, 1)._with_columns(first, columns.size)
        return self.window(int(rows[0]), int(columns[0]), rows.size, columns.size)

    def _with_columns(self, first: int, count: int) -> Grid:
        return replace(self, first_column=first, columns=count)

    def covering(self, target: Grid) -> Grid:
        """The smallest window of this whole grid that covers another grid.

        Raises
        ------
        ValueError
            Where the two do not overlap.
        """
        whole = self.whole
        own_y, other_y = whole.edges_m()[0], target.edges_m()[0]
        rows = _touched(own_y, float(other_y.min()), float(other_y.max()))
        own_x, other_x = whole.edges_m()[1], target.edges_m()[1]
        low, high = float(other_x.min()), float(other_x.max())
        if whole.is_global:
            # Count columns on from the first edge, round and round.
            step = (own_x[-1] - own_x[0]) / whole.columns
            first = int(np.floor((low - own_x[0]) / step + SLIVER))
            last = int(np.ceil((high - own_x[0]) / step - SLIVER))
            if last - first >= whole.columns:
                first, last = 0, whole.columns
            turn = first // whole.columns * whole.columns
            columns = (first - turn, last - turn)
        else:
            columns = _touched(own_x, low, high)
        if rows[0] >= rows[1] or columns[0] >= columns[1]:
            raise ValueError(f"the grid {self.name} does not reach into the target window of {target.name}")
        return replace(
            whole, first_row=rows[0], rows=rows[1] - rows[0], first_column=columns[0], columns=columns[1] - columns[0]
        )

    def edges_m(self) -> tuple[Array, Array]:
        """Edges of the rows and of the columns in EPSG:6933, m; shapes (rows + 1,) and (columns + 1,)."""
        x: Array = np.asarray(self.west + (self.first_column + np.arange(self.columns + 1)) * self.dx, dtype=np.float64)
        y: Array = np.asarray(self.north + (self.first_row + np.arange(self.rows + 1)) * self.dy, dtype=np.float64)
        if self.crs == EQUAL_AREA:
            return y, x
        return np.asarray(_to_metres().transform(np.zeros(y.size), np.clip(y, -90.0, 90.0))[1]), x * (WORLD_M / 360.0)

    def cells(self, x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows and columns of the whole grid that an array with these centres has, in the order of the array.

        Rows may run either way. Columns may run either way and round the earth, begin anywhere, come in two parts as a box
        across the first meridian does when its longitudes are sorted from 0 to 360, and repeat the first one at their end.

        Raises
        ------
        ValueError
            Where the centres are not those of adjoining cells of this grid.
        """
        rows = self._indices("y", y, self.north, self.dy)
        if rows.min() < 0 or rows.max() >= self.whole_rows or not _adjoin(rows):
            raise self._not_adjoining("y", y)
        columns = self._indices("x", x, self.west, self.dx)
        if self.is_global:
            columns = columns % self.whole_columns
        if columns.min() < 0 or columns.max() >= self.whole_columns:
            raise self._not_adjoining("x", x)
        if not _adjoin(columns):
            there = np.zeros(self.whole_columns, bool)
            there[columns] = True
            # One arc round the earth, in at most two stretches, or with a column that comes twice.
            arcs = np.count_nonzero(there & ~np.roll(there, 1))
            steps = np.diff(columns)
            if not self.is_global or arcs > 1 or np.count_nonzero(np.abs(steps) != 1) > 1 or columns.size - there.sum() > 1:
                raise self._not_adjoining("x", x)
        return rows, columns

    def _indices(self, axis: str, centres: NDArray[Any], start: float, step: float) -> NDArray[np.int64]:
        exact = (np.asarray(centres, dtype=np.float64).reshape(-1) - start) / step - 0.5
        if not exact.size or not np.isfinite(exact).all() or np.abs(exact - np.round(exact)).max() > _PLACEMENT_TOLERANCE:
            raise self._not_adjoining(axis, centres)
        return np.round(exact).astype(np.int64)

    def _not_adjoining(self, axis: str, centres: NDArray[Any]) -> ValueError:
        values = np.asarray(centres).reshape(-1)
        shown = (
            ", ".join(f"{float(v):.6g}" for v in values[:3]) + (", ..." if values.size > 3 else "") if values.size else "none"
        )
        return ValueError(
            f"its {axis} coordinates ({values.size} values: {shown}) are not those of adjoining cells of the grid {self.name}"
        )

    def own_coordinates(self, lon: NDArray[Any], lat: NDArray[Any]) -> tuple[Array, Array]:
        """Longitudes and latitudes, degrees, as x and y of the grid."""
        if self.crs == GEOGRAPHIC:
            return np.asarray(lon, dtype=np.float64), np.asarray(lat, dtype=np.float64)
        east, north = np.asarray(lon, dtype=np.float64), np.asarray(lat, dtype=np.float64)
        east = (east + 180.0) % 360.0 - 180.0
        x = np.asarray(_to_metres().transform(east, np.zeros(east.shape))[0])
        return x, np.asarray(_to_metres().transform(np.zeros(north.shape), north)[1])


def _adjoin(indices: NDArray[np.int64]) -> bool:
    steps = np.diff(indices)
    return bool((steps == 1).all() or (steps == -1).all())


@cache
def _from_metres() -> Transformer:
    return Transformer.from_crs(EQUAL_AREA, GEOGRAPHIC, always_xy=True)


@cache
def _to_metres() -> Transformer:
    return Transformer.from_crs(GEOGRAPHIC, EQUAL_AREA, always_xy=True)


def _touched(edges: Array, low: float, high: float) -> tuple[int, int]:
    """First and last + 1 of the cells that an interval touches; edges may run either way."""
    lower, upper = np.minimum(edges[1:], edges[:-1]), np.maximum(edges[1:], edges[:-1])
    sliver = SLIVER * (upper - lower)
    inside = np.flatnonzero((upper > low + sliver) & (lower < high - sliver))
    return (int(inside[0]), int(inside[-1]) + 1) if inside.size else (0, 0)


EASE2_M09: Final = Grid("ease2_m09", EQUAL_AREA, _EASE2_X0_M, _EASE2_Y0_M, _M09_M, -_M09_M, 1624, 3856)
EASE2_M36: Final = Grid("ease2_m36", EQUAL_AREA, _EASE2_X0_M, _EASE2_Y0_M, 4 * _M09_M, -4 * _M09_M, 406, 964)
GLDAS_025: Final = Grid("gldas_025", GEOGRAPHIC, -180.0, -60.0, 0.25, 0.25, 600, 1440)
ERA5_LAND_01: Final = Grid("era5_land_01", GEOGRAPHIC, -0.05, 90.05, 0.1, -0.1, 1801, 3600)


def regular(step_degrees: float) -> Grid:
    """The global latitude/longitude grid of square cells, rows from north to south.

    Raises
    ------
    ValueError
        For a step that does not divide 180 degrees.
    """
    rows = round(180.0 / step_degrees) if step_degrees > 0 else 0
    if rows < 1 or abs(rows * step_degrees - 180.0) > 1e-9:
        raise ValueError(f"a grid of {step_degrees:g} degrees does not divide 180 degrees into whole cells")
    return Grid(f"latlon_{step_degrees:g}", GEOGRAPHIC, -180.0, 90.0, step_degrees, -step_degrees, rows, 2 * rows)


def by_name(name: str) -> Grid:
    """A target grid: ``ease2_m09``, ``ease2_m36``, or ``latlon_<degrees>`` such as ``latlon_0.25``.

    Raises
    ------
    ValueError
        For any other name.
    """
    known = {grid.name: grid for grid in (EASE2_M09, EASE2_M36)}
    if name in known:
        return known[name]
    if name.startswith("latlon_"):
        try:
            step = float(name.removeprefix("latlon_"))
        except ValueError:
            step = float("nan")
        if step == step:
            return regular(step)
    raise ValueError(f"there is no grid {name!r}; choose {', '.join(known)} or latlon_<degrees>, such as latlon_0.25")
