"""Analysis-ready stores as the stages after ingest read them: on the target grid."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

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


@dataclass(frozen=True)
class Source:
    """An analysis-ready store as a stage reads it: its URL, the grid that it lies on, and its layers (top, bottom; m)."""

    name: str
    url: str
    grid: Grid
    layers: tuple[tuple[float, float], ...]

    def read(self, target: Grid, days: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]) -> NDArray[np.float32]:
        """Soil moisture on part of the target grid, float32 (day, layer, row, column), regridded on the fly."""
        y, x = cached_overlaps(self.grid, target)
        part_y, part_x = y.part(*rows, 0), x.part(*columns, 0)
        (top, bottom), (left, right) = part_y.needed, part_x.needed
        region = (slice(*days), slice(None), slice(top, bottom), slice(left, right))
        values = read_region(self.url, "soil_moisture", region)
        return regrid(values, y.part(*rows, top), x.part(*columns, left))

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
            values = read_region(self.url, "soil_moisture", (slice(*days), slice(None), slice(top, bottom), slice(left, right)))
            read += values.nbytes
            for k, own_y, own_x in met:
                rows, columns = (slice(*own.needed) for own in (own_y, own_x))
                near = values[:, :, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
                found[:, :, k] = regrid(near, own_y.part(0, 1, rows.start), own_x.part(0, 1, columns.start))[:, :, 0, 0]
        return found, read
