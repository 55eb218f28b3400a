"""Values that no soil has, such as -9999 for "missing": found in one pass over the memory, without a copy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

# Soil moisture in m3 m-3 lies between 0 and 1; errors of retrievals and of rescaling leave that by less than half of it.
LEAST, GREATEST = -0.5, 1.5
# Of a series in any units: what always stands for missing, and what does so where it lies far from all other values.
NEVER: Final = -9999.0
DOUBTFUL: Final = (-99.0, -999.0, 9999.0)
# Default fill values begin here (1e15, 1e20, 9.97e36); no unit of a measured series comes near.
ABSURD: Final = 1e15

_PIECE: Final = 2**19


def beyond_soil_moisture(values: NDArray[Any]) -> str:
    """What is wrong with values that should be soil moisture in m3 m-3, and what to do about it; "" where nothing is.

    All values are looked at; NaN is missing. ``LEAST`` to ``GREATEST`` is let pass.
    """
    if not any(_outside(piece, piece.dtype.type(LEAST), piece.dtype.type(GREATEST)) for piece in _pieces(values)):
        return ""
    low, high = _extremes(values)
    said = []
    if low < LEAST:
        said.append(
            f"values down to {low:g}: soil moisture in m3 m-3 is at least 0 (what stands for missing values: set it to NaN, "
            f"for example da.where(da > {LEAST}))"
        )
    if high > GREATEST:
        said.append(
            f"values up to {high:g}: soil moisture is expected in m3 m-3, at most 1 (percent: divide by 100; kg m-2: divide by "
            f"1000 x the layer's thickness in m; what stands for missing values: set it to NaN, for example "
            f"da.where(da < {GREATEST}))"
        )
    return " and ".join(said)


def stands_for_missing(values: NDArray[Any]) -> float | None:
    """A value that cannot be one of a measured series in whatever units; None where there is none.

    That is an infinite one, one of 1e15 or more, -9999, and -99, -999 or 9999 where it lies further from all other values than
    they from each other: matric potentials and temperatures reach such numbers, but not by a leap.
    """
    if not any(_suspect(piece, *map(piece.dtype.type, (ABSURD, NEVER, *DOUBTFUL))) for piece in _pieces(values)):
        return None
    low, high = _extremes(values)
    for value in (low, high):
        if abs(value) >= ABSURD:
            return float(value)
    if any((piece == NEVER).any() for piece in _pieces(values)):
        return NEVER
    for value in DOUBTFUL:
        if value not in (low, high):
            continue
        others = [part for piece in _pieces(values) if (part := piece[(piece == piece) & (piece != value)]).size]
        if not others:
            return value
        least, greatest = float(min(part.min() for part in others)), float(max(part.max() for part in others))
        if max(least - value, value - greatest) > greatest - least:
            return value
    return None


@njit(cache=True, nogil=True)
def _outside(values: NDArray[Any], low: Any, high: Any) -> bool:
    found = 0
    for i in range(values.size):
        found |= (values[i] < low) | (values[i] > high)
    return found != 0


@njit(cache=True, nogil=True)
def _suspect(values: NDArray[Any], absurd: Any, never: Any, first: Any, second: Any, third: Any) -> bool:
    found = 0
    for i in range(values.size):
        v = values[i]
        found |= (abs(v) >= absurd) | (v == never) | (v == first) | (v == second) | (v == third)
    return found != 0


def _extremes(values: NDArray[Any]) -> tuple[Any, Any]:
    """Least and greatest value, NaN apart, in the precision of the values."""
    found = [(np.fmin.reduce(piece), np.fmax.reduce(piece)) for piece in _pieces(values)]
    return np.fmin.reduce([low for low, _ in found]), np.fmax.reduce([high for _, high in found])


def _pieces(values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """All values as contiguous, one-dimensional arrays in native float32 or float64.

    Where they lie in one piece of memory, in whatever order of the axes, that is a view; else pieces of some megabytes.
    """
    if not values.size:
        return
    kind = np.dtype(np.float32 if values.dtype.itemsize <= 4 else np.float64)
    # An axis that repeats what is there already is looked at once, one that runs backwards the other way round.
    once = tuple(0 if step == 0 else slice(None, None, -1 if step < 0 else 1) for step in values.strides)
    values = values[once].squeeze()
    values = values.transpose(sorted(range(values.ndim), key=lambda axis: -values.strides[axis]))
    if values.flags.c_contiguous and values.dtype == kind:
        flat = values.reshape(-1)
        for start in range(0, flat.size, _PIECE):
            yield flat[start : start + _PIECE]
        return
    step = max(1, _PIECE * len(values) // values.size) if values.ndim else 1
    for start in range(0, len(values) if values.ndim else 1, step):
        part = values[start : start + step] if values.ndim else values
        yield np.ascontiguousarray(part, kind).reshape(-1)
