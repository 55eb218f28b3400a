"""Where the cells of a file lie in the window that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepprofile.grids.grids import GEOGRAPHIC, Grid
from deepprofile.sources.products.decoding import Floats, decode_numbers
from deepprofile.sources.products.files import GranuleError, GranuleFile, Variable

_LATITUDES: Final = ("latitude", "lat", "nav_lat", "cell_lat")
_LONGITUDES: Final = ("longitude", "lon", "long", "nav_lon", "cell_lon")
_EASTINGS, _NORTHINGS = ("x", "xdim", "easting"), ("y", "ydim", "northing")
# Rows and columns of the whole grid, cell by cell, as SMAP's files have them.
_ROWS: Final = ("cell_row", "EASE_row_index")
_COLUMNS: Final = ("cell_column", "EASE_column_index")
_METRES_PER_KM: Final = 1000.0


@dataclass(frozen=True)
class Cells:
    """Rows and columns of the product's whole grid that a file has, and what the file calls these axes ("": it does not say).

    Empty where a file says of none of its cells where they are, since it holds no value.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    y_dim: str
    x_dim: str

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for files of the same cells."""
        return self.rows.tobytes(), self.columns.tobytes()


@dataclass(frozen=True)
class _Run:
    """A stretch of one axis that window and file share: cells of the window, of the file, and whether these run backwards."""

    to: slice
    own: slice
    backwards: bool

    @property
    def order(self) -> slice:
        return slice(None, None, -1 if self.backwards else 1)


@dataclass(frozen=True)
class Placement:
    """Which part of a file's arrays goes where in a window of its product's grid."""

    y: tuple[_Run, ...]
    x: tuple[_Run, ...]
    shape: tuple[int, int]

    def fill(self, read: Callable[[slice, slice], Floats], steps: int, out: Floats | None = None) -> Floats:
        """An array (steps, rows, columns) of the window; ``read`` gives (steps, rows, columns) of the file.

        ``out``: where that goes, instead of into an array of its own.
        """
        whole = all(len(runs) == 1 and runs[0].to == slice(0, n) for runs, n in zip((self.y, self.x), self.shape, strict=True))
        if whole and out is None and not (self.y[0].backwards or self.x[0].backwards):
            return read(self.y[0].own, self.x[0].own)
        if out is None:
            out = np.empty((steps, *self.shape), np.float32)
        if not whole:
            out[...] = np.nan
        for y in self.y:
            for x in self.x:
                out[:, y.to, x.to] = read(y.own, x.own)[:, y.order, x.order]
        return out


def placement(cells: Cells, grid: Grid, window: Grid) -> Placement:
    """Where a file's cells lie in a window of the product's grid."""
    return _placement(cells.rows.tobytes(), cells.columns.tobytes(), grid, window)


@lru_cache(maxsize=8)
def _placement(own_rows: bytes, own_columns: bytes, grid: Grid, window: Grid) -> Placement:
    """See ``placement``; granules of a product mostly have the same cells."""
    of_rows, of_columns = (np.frombuffer(own, np.int64) for own in (own_rows, own_columns))
    columns = np.arange(window.first_column, window.first_column + window.columns) % grid.whole_columns
    rows = np.arange(window.first_row, window.first_row + window.rows)
    return Placement(_runs(of_rows, rows, grid.whole_rows), _runs(of_columns, columns, grid.whole_columns), window.shape)


def _runs(own: NDArray[np.int64], wanted: NDArray[np.int64], count: int) -> tuple[_Run, ...]:
    position = np.full(count, -1, np.int64)
    # Of a column that comes twice, the first counts.
    position[own[::-1]] = np.arange(own.size)[::-1]
    found = position[wanted]
    runs, start = [], 0
    while start < found.size:
        if found[start] < 0:
            start += 1
            continue
        stop, step = start + 1, 0
        while stop < found.size and found[stop] >= 0:
            here = int(found[stop] - found[stop - 1])
            if abs(here) != 1 or (step and here != step):
                break
            step, stop = here, stop + 1
        low, high = sorted((int(found[start]), int(found[stop - 1])))
        runs.append(_Run(slice(start, stop), slice(low, high + 1), step < 0))
        start = stop
    return tuple(runs)


def cells_of(file: GranuleFile, grid: Grid, shape: tuple[int, ...], groups: Sequence[str] = ("",)) -> Cells:
    """Which cells of a product's whole grid a file has.

    By projected ``x`` and ``y``, by latitude and longitude, by the row and column of each cell, or because it is the whole
    grid.

    Parameters
    ----------
    file
        Where coordinates are looked for.
    grid
        The product's whole grid.
    shape
        Of the values, rows and columns last.
    groups
        Where coordinates may stand, "" for the top, with what ends their names in a group: ``("", "AM|", "PM|_pm")``.

    Raises
    ------
    GranuleError
        For another grid, or a file that does not say where its cells are.
    """
    if grid.crs != GEOGRAPHIC:
        x = file.find(*_EASTINGS) or _by_unit(file, None, "projection_x_coordinate")
        y = file.find(*_NORTHINGS) or _by_unit(file, None, "projection_y_coordinate")
        if x is not None and y is not None and len(x.shape) <= 1:
            return _by_centres(file, grid, _metres(x), _metres(y), y, x)
    axes = find_axes(file, groups)
    if axes is not None:
        return _by_centres(file, grid, *grid.own_coordinates(decode_numbers(axes[1]), decode_numbers(axes[0])), *axes)
    for group in groups:
        rows, columns = (_in_group(file, group, names) for names in (_ROWS, _COLUMNS))
        if rows is not None and columns is not None:
            return _by_indices(file, rows, columns, grid)
    if shape[-2:] == grid.whole.shape:
        return Cells(np.arange(grid.whole_rows), np.arange(grid.whole_columns), "", "")
    for group in groups:
        lat, lon = (_in_group(file, group, names) for names in (_LATITUDES, _LONGITUDES))
        if lat is not None and lon is not None and len(lat.shape) == 2 and lat.shape == lon.shape:
            return _by_two_dimensions(file, grid, lat, lon)
    raise GranuleError(
        f"{file.name} has {' x '.join(map(str, shape[-2:]))} cells, the grid {grid.name} {grid.whole_rows} x "
        f"{grid.whole_columns}, and nothing says which of them they are (no x and y, no latitude and longitude, no row and "
        "column of each cell)"
    )


def groups_of(variable: Variable) -> tuple[str, ...]:
    """Where the coordinates of a variable may be: at the top of its file, or in its own group."""
    return ("", variable.name.rsplit("/", 1)[0]) if "/" in variable.name else ("",)


def find_axes(file: GranuleFile, groups: Sequence[str] = ("",)) -> tuple[Variable, Variable] | None:
    """Latitudes and longitudes that lie on one axis each, by their names, or else by their units; None where there are none."""
    for group in groups:
        lat, lon = (_in_group(file, group, names) for names in (_LATITUDES, _LONGITUDES))
        if lat is not None and lon is not None and len(lat.shape) <= 1 and len(lon.shape) <= 1:
            return lat, lon
    lat, lon = _by_unit(file, "degrees_north", "latitude"), _by_unit(file, "degrees_east", "longitude")
    return (lat, lon) if lat is not None and lon is not None else None


def _in_group(file: GranuleFile, group: str, names: Sequence[str]) -> Variable | None:
    folder, _, end = group.partition("|")
    return file.find(*(f"{folder}/{name}{end}" if folder else name for name in names))


def _by_unit(file: GranuleFile, unit: str | None, standard_name: str) -> Variable | None:
    """The first variable on one axis that has a standard name or a unit."""
    for name in file.names():
        found = file.find(name)
        if found is None or len(found.shape) != 1:
            continue
        if found.attrs.get("standard_name") == standard_name or (unit and str(found.attrs.get("units", "")).lower() == unit):
            return found
    return None


def _metres(centres: Variable) -> NDArray[np.float64]:
    values = decode_numbers(centres)
    return (
        values * _METRES_PER_KM
        if str(centres.attrs.get("units", "m")).lower() in ("km", "kilometers", "kilometres")
        else values
    )


def _by_centres(
    file: GranuleFile, grid: Grid, x: NDArray[np.float64], y: NDArray[np.float64], y_axis: Variable, x_axis: Variable
) -> Cells:
    try:
        rows, columns = grid.cells(x, y)
    except ValueError as error:
        raise GranuleError(f"{file.name} lies on another grid: {error}") from None
    return Cells(rows, columns, y_axis.dims[0] if y_axis.dims else "", x_axis.dims[0] if x_axis.dims else "")


def _by_indices(file: GranuleFile, rows: Variable, columns: Variable, grid: Grid) -> Cells:
    """Rows and columns of each cell, which are fill outside of a swath."""
    found = []
    for axis, variable in enumerate((rows, columns)):
        index = decode_numbers(variable)
        count = (grid.whole_rows, grid.whole_columns)[axis]
        index = np.where((index >= 0) & (index < count), index, np.nan)
        if index.ndim != 2:
            found.append(index.astype(np.int64).reshape(-1))
            continue
        if not np.isfinite(index).any():
            # A file that saw nothing has no index anywhere, and nothing to place.
            found.append(np.zeros(0, np.int64))
            continue
        counted = (_counted_on(index, axis, step) for step in (1, -1))
        along = next((places for places in counted if places is not None), None)
        if along is None:
            raise GranuleError(f"{file.name} lies on another grid: {variable.name} does not count on from one cell to the next")
        found.append(along)
    if not found[0].size or not found[1].size:
        found = [np.zeros(0, np.int64)] * 2
    return Cells(found[0], found[1], rows.dims[0] if len(rows.dims) == 2 else "", rows.dims[1] if len(rows.dims) == 2 else "")


def _counted_on(index: NDArray[np.float64], axis: int, step: int) -> NDArray[np.int64] | None:
    """Indices that grow by a step from one cell of an axis to the next, from those that are known; None where they do not."""
    places = step * np.arange(index.shape[axis])
    first = np.unique((index - np.expand_dims(places, 1 - axis))[np.isfinite(index)])
    return int(first[0]) + places if first.size == 1 else None


def _by_two_dimensions(file: GranuleFile, grid: Grid, lat: Variable, lon: Variable) -> Cells:
    """Latitude and longitude of each cell of a rectilinear grid, which may be fill here and there."""
    y, x = decode_numbers(lat), decode_numbers(lon)
    y, x = np.where(np.abs(y) <= 90.0, y, np.nan), np.where(np.abs(x) <= 360.0, x, np.nan)
    of_rows, of_columns = np.full(y.shape[0], np.nan), np.full(x.shape[1], np.nan)
    for values, centres, axis in ((y, of_rows, 1), (x, of_columns, 0)):
        seen: NDArray[np.int64] = np.flatnonzero(np.isfinite(values).any(axis=axis))
        centres[seen] = np.nanmedian(np.take(values, seen, axis=1 - axis), axis=axis)
        spread = np.nanmax(np.abs(values - np.expand_dims(centres, axis)), initial=0.0)
        if spread > 0.01:
            raise GranuleError(
                f"{file.name} lies on another grid: its latitudes and longitudes are not those of rows and columns"
            )
    if np.isnan(of_rows).all() or np.isnan(of_columns).all():
        return Cells(np.zeros(0, np.int64), np.zeros(0, np.int64), "", "")
    own_x, own_y = grid.own_coordinates(of_columns, of_rows)
    axes = []
    for centres, start, step in ((own_y, grid.north, grid.dy), (own_x, grid.west, grid.dx)):
        exact = (centres - start) / step - 0.5
        known = np.flatnonzero(np.isfinite(exact))
        forward = exact[known[-1]] >= exact[known[0]]
        places = (1 if forward else -1) * np.arange(centres.size)
        axes.append(int(np.round(exact[known[0]])) - int(places[known[0]]) + places)
        if np.abs(exact[known] - axes[-1][known]).max() > 0.1:
            raise GranuleError(f"{file.name} lies on another grid: its cells are not those of {grid.name}")
    return Cells(axes[0], axes[1], *(lat.dims if len(lat.dims) == 2 else ("", "")))
