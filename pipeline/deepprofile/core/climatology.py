"""What soil moisture usually is at a time of the year: quantiles of a window of days around each pentad, over many years.

Days are counted in a year of 365 days, on which 29 February shares the place of the 28th; 73 pentads of five days divide it. A
pentad has the values of the 31 days around its middle, in all years: as in drought monitoring (Sheffield et al. 2004, doi
10.1029/2003JD004052; Mo and Lettenmaier 2014, doi 10.1175/JHM-D-13-0193.1), a window makes up for the shortness of records.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

PENTADS: Final = 73
DAYS_IN_PENTAD: Final = 5
DAYS_IN_YEAR: Final = PENTADS * DAYS_IN_PENTAD
# Days before and after the middle of a pentad.
HALF_WINDOW: Final = 15
# Among them are the limits of the drought classes D0 to D4 (Svoboda et al. 2002, doi 10.1175/1520-0477-83.8.1181).
QUANTILES: Final = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
# A pentad with less than this share of the days of its window has no quantiles.
LEAST_SHARE: Final = 0.5
# Percentiles of values beyond the outermost quantiles.
BEYOND: Final = (1.0, 99.0)


def place_in_year(days: NDArray[np.datetime64]) -> NDArray[np.int64]:
    """Place of days, ``datetime64[D]``, in a year of 365 days, from 0."""
    days = days.astype("datetime64[D]")
    years = days.astype("datetime64[Y]")
    place = (days - years).astype(np.int64)
    leap = (years + 1).astype("datetime64[D]") - years.astype("datetime64[D]") == np.timedelta64(366, "D")
    return np.asarray(np.where(leap & (place > 58), place - 1, place), np.int64)


def pentad_of(days: NDArray[np.datetime64]) -> NDArray[np.int64]:
    """The pentad that each day lies in, from 0."""
    return np.asarray(place_in_year(days) // DAYS_IN_PENTAD)


def quantiles(values: NDArray[np.float32], places: NDArray[np.int64], years: int) -> NDArray[np.float32]:
    """Quantiles of daily values of some cells by pentad.

    Parameters
    ----------
    values
        Shape (day, cell); NaN where missing.
    places
        Of each day in the year: ``place_in_year``.
    years
        How many years the days are of.

    Returns
    -------
    float32, shape (pentad, quantile, cell), interpolated linearly between the sorted values (Hyndman and Fan 1996, type 7); NaN
    where a pentad has less than half of the values that it could have.
    """
    middles = np.arange(PENTADS) * DAYS_IN_PENTAD + DAYS_IN_PENTAD // 2
    apart = np.abs(places[None, :] - middles[:, None])
    inside = np.minimum(apart, DAYS_IN_YEAR - apart) <= HALF_WINDOW
    out = np.empty((PENTADS, len(QUANTILES), values.shape[1]), np.float32)
    least = int(LEAST_SHARE * years * (2 * HALF_WINDOW + 1))
    _quantiles(np.ascontiguousarray(values.T, np.float32), inside, np.array(QUANTILES), max(least, 1), out)
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def _quantiles(values: Any, inside: Any, levels: Any, least: int, out: Any) -> None:
    cells, days = values.shape
    sample = np.empty(days, np.float32)
    for pentad in range(inside.shape[0]):
        members = np.flatnonzero(inside[pentad])
        for cell in range(cells):
            count = 0
            for day in members:
                value = values[cell, day]
                if not np.isnan(value):
                    sample[count] = value
                    count += 1
            if count < least:
                for q in range(levels.size):
                    out[pentad, q, cell] = np.nan
                continue
            ordered = np.sort(sample[:count])
            for q in range(levels.size):
                place = levels[q] * (count - 1)
                low = int(place)
                high = min(low + 1, count - 1)
                out[pentad, q, cell] = ordered[low] + (place - low) * (ordered[high] - ordered[low])


def percentile(values: NDArray[np.float32], known: NDArray[np.float32]) -> NDArray[np.float32]:
    """Where values lie among the quantiles of their time of the year, 0 to 100.

    Parameters
    ----------
    values
        Any shape.
    known
        Their quantiles, shape (quantile, ...).

    Returns
    -------
    float32, the shape of ``values``: linear between quantiles, 1 below and 99 above all of them; NaN where either is missing.
    """
    out = np.empty(values.shape, np.float32)
    flat = np.ascontiguousarray(known.reshape(len(QUANTILES), -1), np.float32)
    _percentile(
        np.ascontiguousarray(values, np.float32).reshape(-1), flat, 100.0 * np.array(QUANTILES), BEYOND, out.reshape(-1)
    )
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def _percentile(values: Any, known: Any, levels: Any, beyond: Any, out: Any) -> None:
    for k in range(values.size):
        value = values[k]
        if np.isnan(value) or np.isnan(known[0, k]):
            out[k] = np.nan
        elif value < known[0, k]:
            out[k] = beyond[0]
        elif value > known[-1, k]:
            out[k] = beyond[1]
        else:
            q = 0
            while q < levels.size - 2 and value >= known[q + 1, k]:
                q += 1
            step = known[q + 1, k] - known[q, k]
            share = (value - known[q, k]) / step if step > 0.0 else 0.5
            out[k] = levels[q] + min(share, 1.0) * (levels[q + 1] - levels[q])
