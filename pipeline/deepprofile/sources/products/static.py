"""Fields that do not change with time, such as a map of the porosity: found in a file, placed, and read in part.

The grid is told from the file: EASE-Grid 2.0 of 9 or 36 km, or evenly spaced latitudes and longitudes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepprofile.grids.grids import EASE2_M09, EASE2_M36, GEOGRAPHIC, Grid
from deepprofile.sources.products.decoding import Floats, decode_numbers
from deepprofile.sources.products.fields import FieldReader, TimeAxis
from deepprofile.sources.products.files import GranuleError, GranuleFile, Variable, no_variable, opened, opened_zarr, reading
from deepprofile.sources.products.placement import Cells, cells_of, find_axes, groups_of, placement

_ONCE: Final = np.zeros(1, np.int64)
_NO_TIME: Final = TimeAxis(np.zeros(0, "datetime64[m]"), (), ())
# Centres of a regular grid may be off by this share of a step: files give them in single precision, rounded to few digits.
_UNEVEN: Final = 0.05


@dataclass(frozen=True)
class StaticField:
    """A variable of an open file, and where its cells lie.

    ``grid``: the whole grid of which the file has ``cells``. ``units``: as the file says them, "" where it does not.
    """

    file: GranuleFile
    variable: Variable
    grid: Grid
    cells: Cells

    @property
    def units(self) -> str:
        """As the file says them."""
        return str(self.variable.attrs.get("units", "")).strip()

    def read(self, window: Grid) -> Floats:
        """Values on a window of ``grid``, shape (rows, columns), NaN where missing."""
        reader = FieldReader(self.file, _NO_TIME, self.cells)
        steps = reader.window(self.variable, _ONCE, placement(self.cells, self.grid, window))
        return steps.reshape(window.shape)


@contextmanager
def opened_field(source: Path | str, variable: str) -> Iterator[StaticField]:
    """A variable of a file (a path), or of a group in Zarr (a URL).

    Raises
    ------
    GranuleError
        Where it cannot be read, has no such variable (with those that it has), or does not say where its cells are.
    """
    with ExitStack() as stack:
        if isinstance(source, Path):
            files = stack.enter_context(opened(source))
            stack.enter_context(reading(source.name))
        else:
            files = [stack.enter_context(opened_zarr(source))]
        yield _field(files, variable)


def _field(files: Sequence[GranuleFile], name: str) -> StaticField:
    for file in files:
        found = file.find(name)
        if found is not None:
            grid, cells = _place(file, found)
            return StaticField(file, found, grid, cells)
    raise no_variable(name, files)


def _place(file: GranuleFile, variable: Variable) -> tuple[Grid, Cells]:
    """The grid of a variable, and which of its cells the file has."""
    groups = groups_of(variable)
    for grid in (EASE2_M09, EASE2_M36):
        try:
            return grid, cells_of(file, grid, variable.shape, groups)
        except GranuleError:
            continue
    axes = find_axes(file, groups)
    if axes is None:
        raise GranuleError(
            f"{file.name} does not say where the cells of {variable.name} are: it has neither latitudes and longitudes on one "
            "axis each nor the cells of EASE-Grid 2.0 of 9 or 36 km"
        )
    lat, lon = axes
    rows, columns = decode_numbers(lat).reshape(-1), decode_numbers(lon).reshape(-1)
    grid = regular_grid(file.name, rows, columns)
    return grid, Cells(
        np.arange(rows.size), _columns(columns, grid), lat.dims[0] if lat.dims else "", lon.dims[0] if lon.dims else ""
    )


def _columns(lon: NDArray[np.float64], grid: Grid) -> NDArray[np.int64]:
    exact = ((lon - grid.west) % 360.0) / grid.dx - 0.5
    return np.round(exact).astype(np.int64)


def regular_grid(name: str, lat: NDArray[Any], lon: NDArray[Any]) -> Grid:
    """The grid of evenly spaced centres, degrees; longitudes may run either way and pass 180 or 360.

    Raises
    ------
    GranuleError
        Where they are not evenly spaced, or fewer than two.
    """
    dy = _step(name, "latitudes", lat)
    try:
        dx = _step(name, "longitudes", lon)
    except GranuleError:
        lon = lon % 360.0
        dx = _step(name, "longitudes", lon)
    west = float(min(lon[0], lon[-1])) - 0.5 * abs(dx)
    return Grid("latlon", GEOGRAPHIC, west, float(lat[0]) - 0.5 * dy, abs(dx), dy, lat.size, lon.size)


def _step(name: str, what: str, centres: NDArray[Any]) -> float:
    if centres.size < 2 or not np.isfinite(centres).all():
        raise GranuleError(f"{name} has {centres.size} {what}: a grid needs two or more, none of them missing")
    step = float(centres[-1] - centres[0]) / (centres.size - 1)
    even = centres[0] + step * np.arange(centres.size)
    if step == 0.0 or np.abs(centres - even).max() > _UNEVEN * abs(step):
        raise GranuleError(f"{name} lies on a grid whose {what} are not evenly spaced: it cannot be regridded")
    return step
