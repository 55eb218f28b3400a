"""Single passes over the values of whole granules, compiled: NumPy would make a mask and a copy for every condition."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Counts(NamedTuple):
    """What is told of values (step, layer, row, column) in one look at them.

    Attributes
    ----------
    n_valid
        Values that are there, by step.
    there, outside
        By layer: values that are there, and such of them as lie outside of a range.
    zeros, nothings
        Values that are zero but for lost bytes, and that are as good as zero.
    """

    n_valid: NDArray[np.int64]
    there: NDArray[np.int64]
    outside: NDArray[np.int64]
    zeros: np.int64
    nothings: np.int64


@njit(cache=True, nogil=True, error_model="numpy")
def remove_missing(values: Any, marks: Any, greatest: Any, low: Any, high: Any) -> None:
    """Make values NaN, in place, that equal one of some marks, are above ``greatest`` in size, or outside of [low, high].

    ``values``: flat and contiguous, as ``marks`` and limits of one type.
    """
    # One comparison without a branch: the loop runs in vector registers.
    nan, first = values.dtype.type(np.nan), marks[0] if marks.size else values.dtype.type(np.nan)
    low, high = max(low, -greatest), min(high, greatest)
    for i in range(values.size):
        value = values[i]
        values[i] = value if (value >= low) & (value <= high) & (value != first) else nan
    for k in range(1, marks.size):
        if marks[k] != first:
            for i in range(values.size):
                value = values[i]
                values[i] = value if value != marks[k] else nan


@njit(cache=True, nogil=True, error_model="numpy")
def count_values(values: Any, low: Any, high: Any, zero: Any, nothing: Any) -> Counts:
    """Count values (step, layer, row, column) against a range, and against what is ``zero`` and ``nothing`` in size."""
    steps, layers, rows, columns = values.shape
    n_valid, there, outside = np.zeros(steps, np.int64), np.zeros(layers, np.int64), np.zeros(layers, np.int64)
    zeros, nothings = np.int64(0), np.int64(0)
    for s in range(steps):
        for k in range(layers):
            for y in range(rows):
                # Of a row, in the width of the values: the loop runs in vector registers.
                found, beyond, zero_here, nothing_here = np.int32(0), np.int32(0), np.int32(0), np.int32(0)
                for x in range(columns):
                    value = values[s, k, y, x]
                    found += np.int32(value == value)
                    beyond += np.int32((value < low) | (value > high))
                    zero_here += np.int32(abs(value) < zero)
                    nothing_here += np.int32(abs(value) < nothing)
                n_valid[s] += found
                there[k] += found
                outside[k] += beyond
                zeros += zero_here
                nothings += nothing_here
    return Counts(n_valid, there, outside, zeros, nothings)


@njit(cache=True, nogil=True, error_model="numpy")
def hide(values: Any, hidden: Any) -> None:
    """Make values (step, layer, row, column) NaN, in place, in all layers of the cells (step, row, column) that are hidden."""
    steps, layers, rows, columns = values.shape
    for s in range(steps):
        for k in range(layers):
            for y in range(rows):
                for x in range(columns):
                    value = values[s, k, y, x]
                    values[s, k, y, x] = np.float32(np.nan) if hidden[s, y, x] else value


@njit(cache=True, nogil=True, error_model="numpy")
def keep_range(values: Any, low: Any, high: Any, residue: Any) -> None:
    """Make values NaN, in place, that lie outside of [low, high]; those that are negative by less than ``residue`` become 0.

    ``values``: flat and contiguous.
    """
    for i in range(values.size):
        value = values[i]
        if -residue < value < 0.0:
            values[i] = np.float32(0.0)
        elif not low <= value <= high:
            values[i] = np.float32(np.nan)


@njit(cache=True, nogil=True, error_model="numpy")
def has_near_zero(values: Any, nothing: Any) -> bool:
    """Whether a value is less than ``nothing`` in size. ``values``: flat and contiguous."""
    found = False
    for i in range(values.size):
        found |= abs(values[i]) < nothing
    return found


@njit(cache=True, nogil=True, error_model="numpy")
def put_field(field: Any, missing: Any, out: Any) -> None:
    """Put a field (rows, columns) into ``out``, of the same shape; NaN where it is ``missing``."""
    rows, columns = field.shape
    for y in range(rows):
        for x in range(columns):
            value = field[y, x]
            out[y, x] = value if value != missing else np.float32(np.nan)


@njit(cache=True, nogil=True, error_model="numpy")
def keep_recommended(values: Any, quality: Any, forbidden: int, no_flag: Any) -> tuple[NDArray[np.int64], int, int]:
    """Make values (step, row, column) NaN, in place, whose flag has a ``forbidden`` bit, or that have none.

    ``quality``: flags as real numbers; NaN, ``no_flag`` or more, and less than 0 are none. Returns how many values there were
    by step, how many flags are 0, and how many of these stand beside no value.
    """
    steps, rows, columns = values.shape
    n_valid = np.zeros(steps, np.int64)
    recommended, empty = 0, 0
    for s in range(steps):
        for y in range(rows):
            for x in range(columns):
                value, flag = values[s, y, x], quality[s, y, x]
                there = value == value
                n_valid[s] += there
                recommended += flag == 0.0
                empty += (flag == 0.0) & (not there)
                # Comparisons with NaN are false.
                if not (flag >= 0.0 and flag < no_flag and (np.int64(flag) & forbidden) == 0):
                    values[s, y, x] = np.float32(np.nan)
    return n_valid, recommended, empty


@njit(cache=True, nogil=True, error_model="numpy")
def fill_gaps(values: Any, others: Any) -> None:
    """Where values are NaN, put others, in place; both flat and contiguous."""
    for i in range(values.size):
        value = values[i]
        values[i] = value if value == value else others[i]


@njit(cache=True, nogil=True, error_model="numpy")
def add_step(values: Any, total: Any, number: Any) -> None:
    """Add the values of a time step that are there to sums, double, and count them; all flat and contiguous."""
    for i in range(values.size):
        value = values[i]
        there = value == value
        total[i] += value if there else np.float32(0.0)
        number[i] += np.uint8(there)


@njit(cache=True, nogil=True, error_model="numpy")
def take_mean(total: Any, number: Any, needed: int, out: Any) -> None:
    """Mean of what was added; NaN where fewer than ``needed`` steps have a value. All flat and contiguous."""
    for i in range(total.size):
        enough = number[i] >= needed and number[i] > 0
        out[i] = np.float32(total[i] / number[i]) if enough else np.float32(np.nan)
