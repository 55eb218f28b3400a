"""Conservative regridding between grids that are rectilinear in latitude and longitude."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numba import njit
from numpy.typing import NDArray

from deepprofile.grids.grids import SLIVER, WORLD_M, Array, Grid


@dataclass(frozen=True)
class Overlap:
    """Which source cells each target cell meets along one axis, and the share of it that each covers.

    ``index`` and ``share`` (target, k): positions in the source window and shares of the target cell, 0 where there is none.
    """

    index: NDArray[np.int64]
    share: Array

    @property
    def needed(self) -> tuple[int, int]:
        """First and last + 1 of the source cells that are met; (0, 0) where none is."""
        met = self.index[self.share > 0.0]
        return (int(met.min()), int(met.max()) + 1) if met.size else (0, 0)

    def part(self, start: int, stop: int, origin: int) -> Overlap:
        """The overlap of some target cells, with positions counted from a source cell."""
        used = self.share[start:stop] > 0.0
        return Overlap(np.where(used, self.index[start:stop] - origin, 0), self.share[start:stop])


def overlaps(source: Grid, target: Grid) -> tuple[Overlap, Overlap]:
    """Overlaps along y and along x between two grids."""
    source_y, source_x = source.edges_m()
    target_y, target_x = target.edges_m()
    return _overlap(source_y, target_y, None), _overlap(source_x, target_x, WORLD_M)


def _overlap(source: Array, target: Array, period: float | None) -> Overlap:
    low, high = np.minimum(source[1:], source[:-1]), np.maximum(source[1:], source[:-1])
    found: list[list[tuple[int, float]]] = []
    shifts = (0.0,) if period is None else (0.0, -period, period)
    order = np.argsort(low)
    low, high = low[order], high[order]
    for a, b in pairwise(target.tolist()):
        bottom, top = min(a, b), max(a, b)
        met: dict[int, float] = {}
        for shift in shifts:
            first = int(np.searchsorted(high + shift, bottom, side="right"))
            last = int(np.searchsorted(low + shift, top, side="left"))
            for k in range(first, last):
                share = (min(top, high[k] + shift) - max(bottom, low[k] + shift)) / (top - bottom)
                if share > SLIVER:
                    # A window that runs on round the earth holds a cell twice; once is enough.
                    met.setdefault(int(order[k]), float(share))
        found.append(sorted(met.items()))
    width = max((len(row) for row in found), default=0) or 1
    index, share = np.zeros((len(found), width), np.int64), np.zeros((len(found), width))
    for i, row in enumerate(found):
        total = sum(s for _, s in row)
        for k, (j, s) in enumerate(row):
            index[i, k], share[i, k] = j, s / max(total, 1.0)
    return Overlap(index, share)


@njit(cache=True, nogil=True)
def _regrid(
    values: NDArray[np.float32],
    y_index: NDArray[np.int64],
    y_share: Array,
    x_index: NDArray[np.int64],
    x_share: Array,
    least: float,
    out: NDArray[np.float32],
) -> None:
    for t in range(values.shape[0]):
        for i in range(out.shape[1]):
            for j in range(out.shape[2]):
                total, area = 0.0, 0.0
                for a in range(y_index.shape[1]):
                    if y_share[i, a] > 0.0:
                        for b in range(x_index.shape[1]):
                            share = y_share[i, a] * x_share[j, b]
                            value = np.float64(values[t, y_index[i, a], x_index[j, b]])
                            if share > 0.0 and value == value:
                                total += share * value
                                area += share
                out[t, i, j] = total / area if area >= least else np.nan


def regrid(values: NDArray[np.float32], y: Overlap, x: Overlap, *, min_valid_area: float = 0.5) -> NDArray[np.float32]:
    """First-order conservative regridding (Jones 1999, doi 10.1175/1520-0493(1999)127<2204:FASOCR>2.0.CO;2).

    Parameters
    ----------
    values
        On the source window, shape (..., rows, columns); NaN where missing.
    y, x
        Overlaps of the target with that window (``overlaps``).
    min_valid_area
        Share of a target cell that has to be covered by valid values.

    Returns
    -------
    float32, shape (..., target rows, target columns). Each cell is summed in the same order whatever the window.
    """
    stacked = np.ascontiguousarray(values, dtype=np.float32).reshape(-1, *values.shape[-2:])
    out = np.empty((len(stacked), len(y.index), len(x.index)), np.float32)
    _regrid(stacked, y.index, y.share, x.index, x.share, min_valid_area - 1e-6, out)
    return out.reshape(*values.shape[:-2], *out.shape[1:])
