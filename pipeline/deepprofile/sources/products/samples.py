"""Values of any gridded product at some places: its layers and units are stated, all else is found in the file.

Each place is given the value of the cell that it lies in. Cells that are unpacked together are read together, once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepprofile.core.fills import GREATEST, LEAST
from deepprofile.grids.grids import EASE2_M09, EASE2_M36
from deepprofile.sources.products.decoding import Floats, decode_numbers, is_unit
from deepprofile.sources.products.fields import FieldReader, TimeAxis
from deepprofile.sources.products.files import GranuleError, GranuleFile, Index, Variable, no_variable
from deepprofile.sources.products.granule import Layer, times_of
from deepprofile.sources.products.placement import Cells, cells_of, find_axes, groups_of

Numbers = NDArray[np.float64]
Positions = NDArray[np.int64]

# Half of a cell, and a little for the rounding of coordinates.
_WITHIN: Final = 0.51
_WATER_KG_M3: Final = 1000.0
# Cells along each axis that are read together where a file is not in chunks.
_TILE: Final = 256
# Values that are unpacked at a time, two fields of a globe of a quarter of a degree; and the bytes that each takes while it is
# decoded (python -m benchmarks.memory).
VALUES_AT_ONCE: Final = 2**21
BYTES_A_VALUE: Final = 24


@dataclass(frozen=True)
class Reading:
    """How the files of a gridded product are to be read.

    Attributes
    ----------
    variables
        Names, each with its layers: one, or as many as the variable has along an axis of its own, in their order.
    units
        ``m3 m-3``, ``percent`` or ``kg m-2`` (of each layer); None: as the files say.
    scale
        Values are multiplied by it before their unit counts.
    flags
        Names of variables, each with the values that are allowed.
    time, latitude, longitude
        Names of the coordinates; None: found by their usual names and units.
    """

    variables: tuple[tuple[str, tuple[Layer, ...]], ...]
    units: str | None = None
    scale: float = 1.0
    flags: tuple[tuple[str, tuple[float, ...]], ...] = ()
    time: str | None = None
    latitude: str | None = None
    longitude: str | None = None

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All layers, in the order of the samples."""
        return tuple(layer for _, layers in self.variables for layer in layers)


class Places(NamedTuple):
    """Where samples are wanted, degrees north and east; shapes (place,)."""

    latitude: Numbers
    longitude: Numbers


class Samples(NamedTuple):
    """``times``: ``datetime64[m]``; ``values``: m3 m-3, float32 (step, layer, place), NaN where missing, flagged or outside."""

    times: NDArray[np.datetime64]
    values: Floats


def days_held(file: GranuleFile, how: Reading) -> NDArray[np.datetime64]:
    """The UTC days of a file's time steps, sorted, ``datetime64[D]``; none where it does not say when it is."""
    axis = times_of(file, how.time)
    times = np.zeros(0, "datetime64[D]") if axis is None else axis.times[~np.isnat(axis.times)]
    return np.unique(times.astype("datetime64[D]"))


def sample(
    file: GranuleFile, how: Reading, places: Places, days: NDArray[np.datetime64], named: np.datetime64 | None = None
) -> Samples:
    """The values of a file at some places, of its time steps on some UTC days.

    Parameters
    ----------
    file, how
        What is read.
    places
        Where.
    days
        ``datetime64[D]``.
    named
        The day of a file that does not say when it is.

    Raises
    ------
    GranuleError
        Where the file lacks a variable (with those that it has), a time, or coordinates; where a variable is in another unit,
        has other axes, or holds what no soil moisture can be.
    """
    axis = times_of(file, how.time)
    if axis is None:
        if named is None or how.time is not None:
            raise GranuleError(f"{file.name} has no {'time' if how.time is None else f'variable {how.time!r}'}")
        axis = TimeAxis(np.array([named], "datetime64[m]"), (), ())
    steps: Positions = np.flatnonzero(np.isin(axis.times.astype("datetime64[D]"), days))
    if not steps.size:
        return Samples(axis.times[:0], np.zeros((0, len(how.layers), places.latitude.size), np.float32))
    found = [(_variable(file, name), layers) for name, layers in how.variables]
    cells, rows, columns = _locate(file, how, places, found[0][0])
    inside: Positions = np.flatnonzero((rows >= 0) & (columns >= 0))
    values = np.full((steps.size, len(how.layers), rows.size), np.nan, np.float32)
    if not inside.size:
        return Samples(axis.times[steps], values)
    reader = _Sampler(FieldReader(file, axis, cells), rows[inside], columns[inside])
    k = 0
    for variable, layers in found:
        for part, layer in zip(_layers(file, axis, cells, variable, len(layers)), layers, strict=True):
            factor = _factor(file, variable, how, layer)
            values[:, k, inside] = reader.read(part, steps) * factor
            k += 1
    for name, allowed in how.flags:
        marks = reader.read(_variable(file, name), steps)
        good = np.isin(marks, np.array(allowed, np.float32))
        values[:, :, inside] = np.where(good[:, None], values[:, :, inside], np.nan)
    return Samples(axis.times[steps], _checked(file, values, how))


def _variable(file: GranuleFile, name: str) -> Variable:
    found = file.find(name)
    if found is None:
        raise no_variable(name, [file])
    return found


def _layers(file: GranuleFile, axis: TimeAxis, cells: Cells, variable: Variable, count: int) -> Iterator[Variable]:
    """A variable layer by layer: itself, where it has one layer and no axis for it."""
    others = {*(dim for dim in axis.dims if dim), cells.y_dim, cells.x_dim} - {""}
    # By the lengths that are left over where axes have no names.
    lengths = [*axis.shape, cells.rows.size, cells.columns.size]
    if count == 1 and len(variable.shape) <= len(lengths):
        yield variable
        return
    own = [k for k, dim in enumerate(variable.dims) if dim not in others and variable.shape[k] == count]
    own.sort(key=lambda k: [*variable.shape[:k], *variable.shape[k + 1 :]] != lengths)
    if not own:
        axes = ", ".join(f"{dim or 'unnamed'} {n}" for dim, n in zip(variable.dims, variable.shape, strict=True))
        raise GranuleError(
            f"{file.name}: {variable.name} has the axes {axes}; none of them has the {count} layers that are stated"
        )
    for layer in range(count):
        yield _at(variable, own[0], layer)


def _at(variable: Variable, axis: int, place: int) -> Variable:
    """A variable without one of its axes, at a place on it."""

    def without(values: tuple[int, ...]) -> tuple[int, ...]:
        return (*values[:axis], *values[axis + 1 :])

    def raw(index: Index) -> NDArray[np.generic]:
        return variable.raw((*index[:axis], slice(place, place + 1), *index[axis:])).squeeze(axis)

    dims = (*variable.dims[:axis], *variable.dims[axis + 1 :])
    chunks = None if variable.chunks is None else without(variable.chunks)
    return replace(variable, axes=lambda: dims, shape=without(variable.shape), raw=raw, chunks=chunks)


def _factor(file: GranuleFile, variable: Variable, how: Reading, layer: Layer) -> np.float32:
    """By what a variable's values are multiplied to be in m3 m-3."""
    said = how.units if how.units is not None else variable.attrs.get("units", "")
    if is_unit(said, "percent"):
        return np.float32(0.01 * how.scale)
    if is_unit(said, "kg m-2"):
        return np.float32(how.scale / (_WATER_KG_M3 * (layer.bottom_m - layer.top_m)))
    if is_unit(said, "m3 m-3"):
        return np.float32(how.scale)
    raise GranuleError(
        f"{file.name} gives {variable.name} in {str(said)!r}, which is none of m3 m-3, percent and kg m-2 (where the file is "
        "wrong, 'units' says what they are)"
    )


def _checked(file: GranuleFile, values: Floats, how: Reading) -> Floats:
    """Values that no soil has become NaN, in place; where they tell of another unit, the file is refused."""
    there = values[np.isfinite(values)]
    if there.size and (there.min() < LEAST or there.max() > GREATEST):
        raise GranuleError(
            f"{file.name} holds values from {there.min():.4g} to {there.max():.4g}, read as {how.units or 'its units say'}: "
            "soil moisture in m3 m-3 lies between 0 and 1 (state 'units', such as percent or kg m-2, or 'scale')"
        )
    with np.errstate(invalid="ignore"):
        values[(values < 0.0) | (values > 1.0)] = np.nan
    return values


# --- places ---------------------------------------------------------------------------------------------------------


def _locate(file: GranuleFile, how: Reading, places: Places, variable: Variable) -> tuple[Cells, Positions, Positions]:
    """A file's cells, and the row and column in its arrays of each place; -1 outside of them."""
    if how.latitude is None and how.longitude is None:
        for grid in (EASE2_M09, EASE2_M36):
            try:
                cells = cells_of(file, grid, variable.shape, groups_of(variable))
            except GranuleError:
                continue
            x, y = grid.own_coordinates(places.longitude, places.latitude)
            row = np.floor((y - grid.north) / grid.dy).astype(np.int64)
            column = np.floor((x - grid.west) / grid.dx).astype(np.int64)
            return cells, _positions(cells.rows, row, grid.whole_rows), _positions(cells.columns, column, grid.whole_columns)
    axes = _axes(file, how, variable)
    if axes is None:
        raise GranuleError(f"{file.name} does not say where its cells are: name its coordinates as 'latitude' and 'longitude'")
    lat, lon = (decode_numbers(axis) for axis in axes)
    # Files of a product lie on one grid: it is searched once.
    wanted = places.latitude.tobytes(), places.longitude.tobytes()
    if lat.ndim == 2:
        cells = Cells(np.arange(lat.shape[0]), np.arange(lat.shape[1]), *axes[0].dims)
        return cells, *_nearest_cells(lat.tobytes(), lon.tobytes(), lat.shape[1], *wanted)
    cells = Cells(np.arange(lat.size), np.arange(lon.size), *(axis.dims[0] if axis.dims else "" for axis in axes))
    return cells, _nearest(lat.tobytes(), wanted[0], None), _nearest(lon.tobytes(), wanted[1], 360.0)


def _axes(file: GranuleFile, how: Reading, variable: Variable) -> tuple[Variable, Variable] | None:
    """Latitudes and longitudes: as named, or else on one axis each, or else of each cell."""
    if how.latitude is not None or how.longitude is not None:
        return _variable(file, how.latitude or "lat"), _variable(file, how.longitude or "lon")
    found = find_axes(file, groups_of(variable))
    if found is not None:
        return found
    lat, lon = file.find("latitude", "lat", "nav_lat", "cell_lat"), file.find("longitude", "lon", "nav_lon", "cell_lon")
    if lat is None or lon is None or len(lat.shape) != 2 or lat.shape != lon.shape:
        return None
    return lat, lon


def _positions(own: Positions, wanted: Positions, count: int) -> Positions:
    """Places of some rows (or columns) of a whole grid in those that a file has; -1 where it has not."""
    place = np.full(count, -1, np.int64)
    place[own[::-1]] = np.arange(own.size)[::-1]
    return np.where((wanted >= 0) & (wanted < count), place[np.clip(wanted, 0, count - 1)], -1)


@lru_cache(maxsize=16)
def _nearest(bytes_of_centres: bytes, bytes_of_wanted: bytes, period: float | None) -> Positions:
    """The nearest centre of each place, -1 where that is more than half of a cell away; centres may run either way."""
    centres, wanted = (np.frombuffer(each) for each in (bytes_of_centres, bytes_of_wanted))
    off = np.abs(centres[:, None] - wanted)
    if period is not None:
        off = np.abs((off + 0.5 * period) % period - 0.5 * period)
    best = off.argmin(axis=0)
    if centres.size == 1:
        return np.asarray(best, np.int64)
    gaps = np.abs(np.diff(centres))
    if period is not None:
        gaps = np.abs((gaps + 0.5 * period) % period - 0.5 * period)
    width = np.minimum(np.r_[gaps[0], gaps], np.r_[gaps, gaps[-1]])
    width = np.where(width > 0.0, width, np.maximum(np.r_[gaps[0], gaps], np.r_[gaps, gaps[-1]]))
    near = off[best, np.arange(wanted.size)] <= _WITHIN * width[best]
    return np.asarray(np.where(near, best, -1), np.int64)


@lru_cache(maxsize=4)
def _nearest_cells(
    bytes_of_lat: bytes, bytes_of_lon: bytes, width: int, wanted_lat: bytes, wanted_lon: bytes
) -> tuple[Positions, Positions]:
    """Row and column of the nearest of cells that lie on curved lines; -1 farther away than their neighbours lie apart."""
    from scipy.spatial import cKDTree

    lat, lon = (np.frombuffer(each).reshape(-1, width) for each in (bytes_of_lat, bytes_of_lon))
    places = Places(np.frombuffer(wanted_lat), np.frombuffer(wanted_lon))
    with np.errstate(invalid="ignore"):
        known = (np.abs(lat) <= 90.0) & (np.abs(lon) <= 360.0)
    if not known.any():
        nowhere = np.full(places.latitude.size, -1, np.int64)
        return nowhere, nowhere
    points, index = _on_sphere(lat[known], lon[known]), np.argwhere(known)
    tree = cKDTree(points)
    distance, best = tree.query(_on_sphere(places.latitude, places.longitude))
    # The next neighbour of a cell is one side away; a place in it is at most half of the diagonal from its centre.
    side = np.asarray(tree.query(points[best], k=min(2, len(points)))[0]).reshape(best.size, -1)[:, -1]
    near = distance <= _WITHIN * np.sqrt(2.0) * np.maximum(side, 1e-12)
    rows, columns = index[best].T
    return np.where(near, rows, -1), np.where(near, columns, -1)


def _on_sphere(lat: Numbers, lon: Numbers) -> Numbers:
    north, east = np.radians(lat), np.radians(lon)
    return np.stack([np.cos(north) * np.cos(east), np.cos(north) * np.sin(east), np.sin(north)], axis=-1)


class _Sampler:
    """Reads variables at cells: those of one chunk at once, and as many steps as fit into the memory that is meant for it."""

    def __init__(self, reader: FieldReader, rows: Positions, columns: Positions) -> None:
        self._reader, self._rows, self._columns = reader, rows, columns

    def read(self, variable: Variable, steps: Positions) -> Floats:
        """Values of some steps at the cells, (step, place)."""
        chunks = self._reader.chunks(variable)
        out = np.empty((steps.size, self._rows.size), np.float32)
        for members in self._tiles(chunks):
            rows, columns = self._rows[members], self._columns[members]
            part = slice(int(rows.min()), int(rows.max()) + 1), slice(int(columns.min()), int(columns.max()) + 1)
            near = rows - part[0].start, columns - part[1].start
            area = (part[0].stop - part[0].start) * (part[1].stop - part[1].start)
            for some in _batches(steps, max(1, VALUES_AT_ONCE // area), chunks.get("t0", 1)):
                values = self._reader.values(variable, steps[some], *part)
                out[some, members] = values[:, near[0], near[1]]
        return out

    def _tiles(self, chunks: Mapping[str, int]) -> Sequence[Positions]:
        own = np.stack([self._rows // chunks.get("y", _TILE), self._columns // chunks.get("x", _TILE)])
        _, of_place = np.unique(own, axis=1, return_inverse=True)
        of_place = of_place.reshape(-1)
        return [np.flatnonzero(of_place == tile) for tile in range(int(of_place.max()) + 1)]


def _batches(steps: Positions, most: int, chunk: int) -> Iterator[slice]:
    """Stretches of steps; those of one chunk stay together as long as they fit."""
    start = 0
    while start < steps.size:
        stop = min(start + most, steps.size)
        if stop < steps.size and most >= chunk:
            # Back to where a chunk begins.
            edge = int(np.searchsorted(steps, steps[stop] // chunk * chunk))
            stop = edge if edge > start else stop
        yield slice(start, stop)
        start = stop
