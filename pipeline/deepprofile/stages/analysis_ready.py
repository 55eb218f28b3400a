"""Analysis-ready stores as the stages after ingest read them: on the target grid."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepprofile.grids.grids import Grid
from deepprofile.grids.regridding import Overlap, overlaps, regrid
from deepprofile.storage.stores import read_region

# Cells in boxes of so many rows and columns are read together, as many as a chunk has by default.
TOGETHER: Final = 64


@lru_cache(maxsize=16)
def cached_overlaps(source: Grid, target: Grid) -> tuple[Overlap, Overlap]:
    """Overlaps of two grids; a worker makes them once."""
    return overlaps(source, target)


class SourceYear(NamedTuple):
    """The days of a source in one calendar year: the first, the one after the last (days since 1970-01-01), and their URL."""

    first: int
    stop: int
    url: str


@dataclass(frozen=True)
class Source:
    """An analysis-ready store as a stage reads it, whatever year the days lie in.

    Attributes
    ----------
    name
        Of the product.
    years
        Without gaps, in their order.
    grid
        That it lies on.
    layers
        Top and bottom, m.
    """

    name: str
    years: tuple[SourceYear, ...]
    grid: Grid
    layers: tuple[tuple[float, float], ...]

    def around(self, first: int, stop: int) -> Source:
        """The same with those years alone that some days lie in."""
        return replace(self, years=tuple(year for year in self.years if year.first < stop and first < year.stop))

    @property
    def span(self) -> tuple[int, int]:
        """First day and the one after the last, in days since 1970-01-01."""
        return self.years[0].first, self.years[-1].stop

    def read(self, target: Grid, days: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]) -> NDArray[np.float32]:
        """Soil moisture on part of the target grid, float32 (day, layer, row, column), regridded on the fly.

        ``days``: the first and the one after the last, in days since 1970-01-01; all of them are there.
        """
        y, x = cached_overlaps(self.grid, target)
        part_y, part_x = y.part(*rows, 0), x.part(*columns, 0)
        values = self._read(days, slice(*part_y.needed), slice(*part_x.needed))
        return regrid(values, y.part(*rows, part_y.needed[0]), x.part(*columns, part_x.needed[0]))

    def _read(self, days: tuple[int, int], rows: slice, columns: slice) -> NDArray[np.float32]:
        shape = (days[1] - days[0], len(self.layers), rows.stop - rows.start, columns.stop - columns.start)
        values = np.empty(shape, np.float32)
        for year in self.around(*days).years:
            first, stop = max(days[0], year.first), min(days[1], year.stop)
            region = (slice(first - year.first, stop - year.first), slice(None), rows, columns)
            read_region(year.url, "soil_moisture", region, out=values[first - days[0] : stop - days[0]])
        return values

    def read_cells(self, target: Grid, days: tuple[int, int], cells: NDArray[np.int64]) -> tuple[NDArray[np.float32], int]:
        """Soil moisture at some (row, column) of the target grid; those near each other are read together.

        Returns
        -------
        float32 (day, layer, cell), each the same as ``read`` gives for that cell alone; and the bytes that were read.
        """
        y, x = cached_overlaps(self.grid, target)
        found, read = np.full((days[1] - days[0], len(self.layers), len(cells)), np.nan, np.float32), 0
        boxes: dict[tuple[int, int], list[tuple[int, Overlap, Overlap]]] = {}
        for k, (row, column) in enumerate(cells.tolist()):
            own_y, own_x = y.part(row, row + 1, 0), x.part(column, column + 1, 0)
            (top, bottom), (left, right) = own_y.needed, own_x.needed
            if bottom and right:
                boxes.setdefault((top // TOGETHER, left // TOGETHER), []).append((k, own_y, own_x))
        for met in boxes.values():
            needed = np.array([(own_y.needed, own_x.needed) for _, own_y, own_x in met])
            top, left = needed[:, :, 0].min(axis=0).tolist()
            bottom, right = needed[:, :, 1].max(axis=0).tolist()
            values = self._read(days, slice(top, bottom), slice(left, right))
            read += values.nbytes
            for k, own_y, own_x in met:
                rows, columns = (slice(*own.needed) for own in (own_y, own_x))
                near = values[:, :, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
                found[:, :, k] = regrid(near, own_y.part(0, 1, rows.start), own_x.part(0, 1, columns.start))[:, :, 0, 0]
        return found, read
