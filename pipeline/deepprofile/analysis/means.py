"""Means of profiles over areas and periods, with their uncertainty.

The mean of polynomials is the polynomial of the mean coefficients: exact. Its uncertainty depends on how errors of different
cells and days go together, which the posterior of a single cell and day does not say. Without further knowledge they are taken
to be the same error everywhere and always (correlation 1), and the variance of a mean to be the mean of the variances: never
less than what it is, since (sum w s)^2 <= sum w s^2 for weights w that sum to one. With a correlation rho between cells or days
it is that times

    sum_ij w_i w_j rho_ij,

exact where the standard deviations are the same, as they nearly are within a basin or a month.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr
from numba import njit
from numpy.typing import NDArray

from deepprofile.analysis.places import great_circles_m
from deepprofile.core.factors import entry_places

# Errors of this share of the variance stay as they are, however much time passes: the biases of the products.
# python -m benchmarks.means --correlations
PERSISTENT_SHARE: Final = 0.45
# An area is divided into at most so many parts along each axis, whose errors are compared with one another.
_PARTS: Final = 32
# Of the dataset of a mean: what it is of, and how errors were taken to go together.
AVERAGED: Final = "averaged_over"
CORRELATION: Final = "correlation_of_errors"
# Which share a mean has of the variance that no polynomial expresses; its covariances are those of the mean already.
REMAINDER: Final = "remainder_factor"
# What does not depend on time.
_STILL: Final = ("lower_bound", "upper_bound", "prior_mean")
# Of shares that should be met exactly.
_ROUNDING: Final = 1e-9
# What holds for the days of a store, and not for means; and what holds for its grid, and not for means of areas.
_OF_DAYS: Final = ("block_dims", "store_layout")
_OF_GRID: Final = ("proj:", "spatial:", "zarr_conventions", "grid", "crs", "geospatial_lat_r", "geospatial_lon_r")


def area_mean(
    profile: xr.Dataset, areas: xr.DataArray, soil: xr.DataArray | None, length: float | None, min_share: float
) -> xr.Dataset:
    """The mean profile of an area, of each day; see ``ProfileAccessor.area_mean``.

    ``areas``: of each cell, m2 (y, x); ``soil``: where there can be a profile, None where that is not known.
    """
    if "time" not in profile.dims:
        alone = profile.drop_vars([name for name in ("time", "time_bnds") if name in profile.coords])
        by_day = [name for name in ("coefficients", "pattern", REMAINDER) if name in alone]
        one_day = alone.assign({name: alone[name].expand_dims("time") for name in by_day})
        found = area_mean(one_day, areas, soil, length, min_share).isel(time=0)
        return found.assign_coords({name: profile[name] for name in ("time", "time_bnds") if name in profile.coords})
    space = [str(dim) for dim in profile["pattern"].dims if dim != "time"]
    if set(space) != {"y", "x"}:
        raise ValueError(f"the profiles have the dimensions {', '.join(space)}, not y and x: they are of no area")
    weights = areas.fillna(0.0).transpose("y", "x")
    if soil is not None:
        weights = weights.where(soil.compute(), 0.0)
    whole = float(weights.sum())
    if whole == 0.0:
        raise ValueError("no cell of the area has soil")
    lat, lon = profile["lat"].values, profile["lon"].values
    if length is not None:
        spacing = _spacing_m(lat, lon)
        if not length >= spacing:
            raise ValueError(
                f"correlation_length is {length:g} m, less than the {spacing:.0f} m from one cell to the next: it is in m"
            )
    totals, by_part, parts = _over_area(profile, weights.values, compared=length is not None)
    factor: xr.DataArray | float = 1.0
    said = "area: fully correlated"
    if length is not None:
        factor = _of_parts(by_part, correlation_of_parts(lat, lon, parts, length))
        said = f"area: exp(-distance / {length:g} m)"
    share = (totals["weight"] / whole).rename("valid_share")
    share.attrs = {"units": "1", "long_name": "share of the area that has a profile on that day"}
    found = _of_totals(profile, totals, factor, share >= min_share - _ROUNDING, "area", said)
    shares = weights / whole
    for name in _STILL:
        if name in profile:
            still = profile[name]
            mean = xr.dot(still.fillna(0.0), shares.astype(still.dtype)) if {"y", "x"} <= set(still.dims) else still
            found[name] = mean.assign_attrs(still.attrs)
    for name, axis in (("lat", lat), ("lon", lon)):
        found.attrs |= {f"geospatial_{name}_min": float(axis.min()), f"geospatial_{name}_max": float(axis.max())}
    if "time_bnds" in profile.coords:
        found = found.assign_coords(time_bnds=profile["time_bnds"])
    return found.assign(valid_share=share.astype(np.float32)).assign_coords(
        area=((), whole, {"units": "m2", "long_name": "area that the mean is of"})
    )


def time_mean(profile: xr.Dataset, period: str | None, correlation_time: float | None, min_share: float) -> xr.Dataset:
    """The mean profile of each period; see ``ProfileAccessor.time_mean``."""
    if "time" not in profile.dims:
        raise ValueError("these profiles have no days to take a mean of")
    times = profile["time"].values
    if (np.diff(times) <= np.timedelta64(0)).any():
        raise ValueError("the days of these profiles are not in their order: sort them with .sortby('time')")
    if correlation_time is not None and not correlation_time > 0.0:
        raise ValueError(f"correlation_time is {correlation_time!r}; give a number of days above 0")
    periods = _periods(times, period)
    persistent = (
        f"{PERSISTENT_SHARE:g} + {1.0 - PERSISTENT_SHARE:g} exp(-days / {correlation_time:g})" if correlation_time else ""
    )
    said = f"period: {persistent or 'fully correlated'}"
    found = []
    for (_, _, days), (totals, pairs) in zip(periods, _over_periods(profile, periods, correlation_time or np.inf), strict=True):
        count = totals["weight"]
        factor = PERSISTENT_SHARE + (1.0 - PERSISTENT_SHARE) * pairs / count**2 if correlation_time else 1.0
        mean = _of_totals(profile, totals, factor, count >= (min_share - _ROUNDING) * days, "period", said)
        number = count.astype(np.int32).assign_attrs(units="1", long_name="number of days with a profile")
        found.append(mean.assign(days=number))
    kept = {name: profile[name] for name in _STILL if name in profile}
    if period is None:
        (only,) = found
        first, last = times[[0, -1]].astype("datetime64[D]")
        return only.assign(kept).assign_attrs(period=f"{first} to {last}")
    starts = np.array([start for _, start, _ in periods])
    ends = np.array([start + np.timedelta64(length, "D") for _, start, length in periods])
    joined = xr.concat(
        found, "time", data_vars="all", coords="minimal", compat="override", join="override", combine_attrs="override"
    )
    label = {"standard_name": "time", "long_name": "first day of the period", "axis": "T", "bounds": "time_bnds"}
    bounds = ("time", "bnds"), np.stack([starts, ends], axis=1)
    dated = joined.assign(kept).assign_coords(time=("time", starts, label), time_bnds=bounds)
    return dated.transpose("degree", "degree_2", "availability", "time", ...)


def _periods(times: NDArray[np.datetime64], period: str | None) -> list[tuple[slice, np.datetime64, int]]:
    """Places, first day and length in days of each period that has a day."""
    if period is None:
        return [(slice(0, times.size), times[0], times.size)]
    try:
        bins = pd.Series(np.arange(times.size), index=pd.DatetimeIndex(times)).resample(period)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"period is {period!r}; give one of pandas, such as 'MS' (month), 'QS-DEC' (season), 'YS' (year) or '10D'"
        ) from error
    frequency = pd.tseries.frequencies.to_offset(period)
    found = []
    for start, places in bins:
        if not len(places):
            continue
        first = pd.Timestamp(str(start)).normalize()
        # The label of some periods, such as 'ME', is their last day.
        if first > pd.Timestamp(places.index[0]):
            raise ValueError(f"period {period!r} names its last day; give one that names its first, such as 'MS' or 'YS'")
        length = (first + frequency - first).days if frequency is not None else len(places)
        found.append(
            (slice(int(places.iloc[0]), int(places.iloc[-1]) + 1), first.to_datetime64(), max(int(length), len(places)))
        )
    return found


def _of_totals(
    profile: xr.Dataset, totals: xr.Dataset, factor: xr.DataArray | float, enough: xr.DataArray, over: str, said: str
) -> xr.Dataset:
    """The dataset of a mean, which is a profile of its own: what can be asked of one can be asked of it."""
    weight = totals["weight"].where(enough)
    coefficients = (totals["coefficients"] / weight).astype(np.float32).assign_attrs(profile["coefficients"].attrs)
    covariance = _unpacked(totals["entries"] / weight * factor, profile.sizes["degree"]).expand_dims("availability")
    covariance.attrs = {"units": "m6 m-6", "long_name": "covariance of the errors of the coefficients of the mean"}
    remainder = (totals["remainder"] / weight * factor).rename(REMAINDER)
    remainder.attrs = {"units": "1", "long_name": "share that the mean has of the variance that no polynomial expresses"}
    gone = (*_OF_DAYS, *_OF_GRID) if over == "area" else _OF_DAYS
    attributes = {name: value for name, value in profile.attrs.items() if not str(name).startswith(gone)}
    before = [str(profile.attrs[name]) for name in (AVERAGED, CORRELATION) if name in profile.attrs]
    attributes[AVERAGED] = ", ".join([*before[:1], over])
    attributes[CORRELATION] = "; ".join([*before[1:], said])
    return xr.Dataset(
        {
            "coefficients": coefficients.transpose("degree", ...),
            "pattern": xr.zeros_like(weight, dtype=np.uint8).assign_attrs(long_name="every mean has its own covariance"),
            "posterior_covariance": covariance.astype(np.float32),
            REMAINDER: remainder.astype(np.float32),
        },
        attrs=attributes,
    ).assign_coords(degree=profile["degree"] if "degree" in profile.coords else np.arange(profile.sizes["degree"]))


@dataclass(frozen=True)
class _Terms:
    """What sums are made of.

    Attributes
    ----------
    coefficients
        (..., degree, time).
    pattern
        Of each cell and day: which covariance it has.
    entries
        Lower entries of the covariances, or of their Cholesky factors (..., availability, entry).
    of_factors
        Which of the two.
    remainder
        Of each cell and day; 1 but for means.
    """

    coefficients: xr.DataArray
    pattern: xr.DataArray
    entries: xr.DataArray
    of_factors: bool
    remainder: xr.DataArray

    @classmethod
    def of(cls, profile: xr.Dataset) -> _Terms:
        coefficients, pattern = profile["coefficients"].drop_vars("degree", errors="ignore"), profile["pattern"]
        if "covariance_factor" in profile:
            return cls(coefficients, pattern, profile["covariance_factor"], True, xr.ones_like(pattern, dtype=np.float32))
        if "posterior_covariance" not in profile:
            raise ValueError(
                "these profiles are without their covariances, which are a store of their own: dp.open_profile opens both"
            )
        rows, columns = (xr.DataArray(each, dims="entry") for each in entry_places(profile.sizes["degree"]))
        whole = profile["posterior_covariance"].drop_vars(["degree", "degree_2"], errors="ignore")
        entries = whole.isel(degree=rows, degree_2=columns)
        if REMAINDER not in profile:
            return cls(coefficients, pattern, entries, False, xr.ones_like(pattern, dtype=np.float32))
        if "time" in entries.dims:
            # Means of means: each day has a covariance of its own.
            entries = entries.isel(availability=0).rename(time="availability").drop_vars("availability", errors="ignore")
            number = xr.DataArray(np.arange(profile.sizes["time"]), dims="time")
            pattern = number.broadcast_like(pattern).transpose(*pattern.dims).drop_vars("time", errors="ignore")
        return cls(coefficients, pattern, entries, False, profile[REMAINDER])

    @property
    def columns(self) -> int:
        """Of a sum: those of the coefficients and entries, and of the weight and the remainder."""
        return self.coefficients.sizes["degree"] + self.entries.sizes["entry"] + 2

    def isel(self, place: Mapping[str, slice]) -> _Terms:
        """Some cells or days."""
        parts = (self.coefficients, self.pattern, self.entries, self.remainder)
        c, p, e, r = (part.isel({dim: some for dim, some in place.items() if dim in part.dims}) for part in parts)
        return _Terms(c, p, e, self.of_factors, r)

    def named(self, sums: xr.DataArray) -> xr.Dataset:
        """Sums (..., column) by what they are of."""
        d = self.coefficients.sizes["degree"]
        return xr.Dataset(
            {
                "coefficients": sums.isel(column=slice(0, d)).rename(column="degree"),
                "entries": sums.isel(column=slice(d, self.columns - 2)).rename(column="entry"),
                "weight": sums.isel(column=self.columns - 2),
                "remainder": sums.isel(column=self.columns - 1),
            }
        )

    def blocks(self, dims: Sequence[str]) -> Iterator[dict[str, slice]]:
        """Parts of some dimensions as the coefficients are divided; all of it where they are not."""
        chunks = self.coefficients.chunksizes
        edges = [np.cumsum([0, *chunks.get(dim, (self.coefficients.sizes[dim],))]).tolist() for dim in dims]
        for part in itertools.product(*(itertools.pairwise(each) for each in edges)):
            yield {dim: slice(*ends) for dim, ends in zip(dims, part, strict=True)}


def _over_area(
    profile: xr.Dataset, weights: NDArray[np.float64], *, compared: bool
) -> tuple[xr.Dataset, xr.DataArray, list[dict[str, slice]]]:
    """Sums over all cells, of each day; with the weights of parts of the area (time, part), and the rows and columns of these.

    Blocks are read one by one, each once, and those without a weight not at all. ``weights`` (y, x).
    """
    terms = _Terms.of(profile)
    size = {dim: -(-profile.sizes[dim] // _PARTS) if compared else profile.sizes[dim] for dim in ("y", "x")}
    sums, by_part, parts = [], [], []
    for block in terms.blocks(("y", "x")):
        own = weights[block["y"], block["x"]]
        if not (own > 0.0).any():
            continue
        inside = [
            {"y": slice(y, min(y + size["y"], block["y"].stop)), "x": slice(x, min(x + size["x"], block["x"].stop))}
            for y in range(block["y"].start, block["y"].stop, size["y"])
            for x in range(block["x"].start, block["x"].stop, size["x"])
        ]
        part_of = np.empty(own.shape, np.int64)
        for k, part in enumerate(inside):
            rows, across = (slice(part[dim].start - block[dim].start, part[dim].stop - block[dim].start) for dim in ("y", "x"))
            part_of[rows, across] = k
        here = terms.isel(block)
        found = xr.apply_ufunc(
            _sums_of_cells,
            here.coefficients,
            here.pattern,
            here.entries,
            here.remainder,
            kwargs={"weights": own, "part_of": part_of, "of_factors": terms.of_factors},
            input_core_dims=[["degree", "y", "x"], ["y", "x"], ["y", "x", "availability", "entry"], ["y", "x"]],
            output_core_dims=[["column"]],
            dask="parallelized",
            output_dtypes=[np.float64],
            dask_gufunc_kwargs={"allow_rechunk": True, "output_sizes": {"column": terms.columns + len(inside)}},
        )
        sums.append(found.isel(column=slice(0, terms.columns)))
        by_part.append(found.isel(column=slice(terms.columns, None)).rename(column="part"))
        parts += inside
    joined = xr.concat(by_part, "part", coords="minimal", compat="override", join="override")
    return terms.named(reduce(operator.add, sums)), joined, parts


def _over_periods(
    profile: xr.Dataset, periods: Sequence[tuple[slice, np.datetime64, int]], correlation_time: float
) -> Iterator[tuple[xr.Dataset, xr.DataArray]]:
    """Sums over the days of each period, and of the correlations exp(-days / ``correlation_time``) of all pairs of its days.

    Blocks are read one by one, each once.
    """
    terms = _Terms.of(profile)
    gaps = np.diff(profile["time"].values, prepend=profile["time"].values[:1]) / np.timedelta64(1, "D")
    decay = np.exp(-gaps / correlation_time)
    period_of = np.empty(profile.sizes["time"], np.int64)
    for k, (days, _, _) in enumerate(periods):
        period_of[days] = k
    parts: list[list[tuple[xr.DataArray, slice]]] = [[] for _ in periods]
    for block in terms.blocks(("time",)):
        here, own = terms.isel(block), period_of[block["time"]]
        first, last = int(own[0]), int(own[-1])
        found = xr.apply_ufunc(
            _sums_of_days,
            here.coefficients,
            here.pattern,
            here.entries,
            here.remainder,
            kwargs={"period_of": own - first, "decay": decay[block["time"]], "of_factors": terms.of_factors},
            input_core_dims=[["degree", "time"], ["time"], ["availability", "entry"], ["time"]],
            output_core_dims=[["period", "column"]],
            dask="parallelized",
            output_dtypes=[np.float64],
            dask_gufunc_kwargs={
                "allow_rechunk": True,
                "output_sizes": {"period": last - first + 1, "column": terms.columns + 3},
            },
        )
        for k in range(first, last + 1):
            start, stop = max(periods[k][0].start, block["time"].start), min(periods[k][0].stop, block["time"].stop)
            parts[k].append((found.isel(period=k - first), slice(start, stop)))
    for of_period in parts:
        (whole, days), *rest = of_period
        for part, its_days in rest:
            whole, days = (
                _joined(whole, days, part, its_days, np.cumsum(gaps), correlation_time),
                slice(days.start, its_days.stop),
            )
        yield terms.named(whole.isel(column=slice(0, terms.columns))), whole.isel(column=terms.columns)


def _sums_of_cells(
    coefficients: NDArray[Any],
    pattern: NDArray[Any],
    entries: NDArray[Any],
    remainder: NDArray[Any],
    *,
    weights: NDArray[np.float64],
    part_of: NDArray[np.int64],
    of_factors: bool,
) -> NDArray[np.float64]:
    """``_add_cells`` for cells on a grid: (time, degree, y, x), (time, y, x), (y, x, availability, entry), (time, y, x)."""
    days, d = coefficients.shape[:2]
    out = np.zeros((days, d + entries.shape[-1] + 2 + int(part_of.max()) + 1))
    _add_cells(
        np.ascontiguousarray(coefficients).reshape(days, d, -1),
        np.ascontiguousarray(pattern).reshape(days, -1),
        np.ascontiguousarray(entries).reshape(weights.size, *entries.shape[-2:]),
        of_factors,
        np.ascontiguousarray(remainder).reshape(days, -1),
        weights.reshape(-1),
        part_of.reshape(-1),
        out,
    )
    return out


def _sums_of_days(
    coefficients: NDArray[Any],
    pattern: NDArray[Any],
    entries: NDArray[Any],
    remainder: NDArray[Any],
    *,
    period_of: NDArray[np.int64],
    decay: NDArray[np.float64],
    of_factors: bool,
) -> NDArray[np.float64]:
    """``_add_days`` for cells of any dimensions, which come first: (..., degree, time), (..., time), and so on."""
    cells, days = pattern.shape[:-1], pattern.shape[-1]
    number, d, (patterns, count) = int(np.prod(cells)), coefficients.shape[-2], entries.shape[-2:]
    out = np.zeros((number, int(period_of[-1]) + 1, d + count + 5))
    _add_days(
        np.ascontiguousarray(coefficients).reshape(number, d, days),
        np.ascontiguousarray(pattern).reshape(number, days),
        np.ascontiguousarray(np.broadcast_to(entries, (*cells, patterns, count))).reshape(number, patterns, count),
        of_factors,
        np.ascontiguousarray(remainder).reshape(number, days),
        period_of,
        decay,
        out,
    )
    return out.reshape(*cells, *out.shape[1:])


def _joined(a: xr.DataArray, of_a: slice, b: xr.DataArray, of_b: slice, day: NDArray[np.float64], time: float) -> xr.DataArray:
    """Sums of a stretch of days and of the next one, in the columns that ``_add_days`` makes."""
    pairs, at_end, from_start = (slice(a.sizes["column"] - k, a.sizes["column"] - k + 1) for k in (3, 2, 1))
    between = np.exp(-(day[of_b.start] - day[of_a.stop - 1]) / time)
    # From the last day of one stretch, and from its first day.
    to_end = np.exp(-(day[of_b.stop - 1] - day[of_a.stop - 1]) / time)
    to_start = np.exp(-(day[of_b.start] - day[of_a.start]) / time)
    crossing = 2.0 * a.isel(column=at_end) * b.isel(column=from_start) * between
    joined: xr.DataArray = xr.concat(
        [
            a.isel(column=slice(0, pairs.start)) + b.isel(column=slice(0, pairs.start)),
            a.isel(column=pairs) + b.isel(column=pairs) + crossing,
            a.isel(column=at_end) * to_end + b.isel(column=at_end),
            a.isel(column=from_start) + b.isel(column=from_start) * to_start,
        ],
        "column",
    )
    return joined


@njit(cache=True, nogil=True)
def _covariance(entries: NDArray[Any], of_factors: bool, degrees: int, out: NDArray[np.float64]) -> None:  # pragma: no cover
    """Lower entries of a covariance, from themselves or from those of its Cholesky factor."""
    if not of_factors:
        out[:] = entries
        return
    for i in range(degrees):
        for j in range(i + 1):
            total = 0.0
            for k in range(j + 1):
                total += np.float64(entries[i * (i + 1) // 2 + k]) * np.float64(entries[j * (j + 1) // 2 + k])
            out[i * (i + 1) // 2 + j] = total


@njit(cache=True, nogil=True)
def _add_cells(
    coefficients: NDArray[Any],
    pattern: NDArray[Any],
    entries: NDArray[Any],
    of_factors: bool,
    remainder: NDArray[Any],
    weights: NDArray[np.float64],
    part_of: NDArray[np.int64],
    out: NDArray[np.float64],
) -> None:  # pragma: no cover
    """Add weighted coefficients, entries, weights, remainders, and the weights of parts, to ``out`` (day, column).

    ``coefficients`` (day, degree, cell), ``pattern`` and ``remainder`` (day, cell), ``entries`` (cell, availability, entry).
    """
    days, d, cells = coefficients.shape
    count = entries.shape[2]
    # Of the patterns of a cell few occur.
    known, there = np.empty(entries.shape[1:]), np.zeros(entries.shape[1], np.bool_)
    for cell in range(cells):
        weight = weights[cell]
        if not weight > 0.0:
            continue
        there[:] = False
        for day in range(days):
            if np.isnan(coefficients[day, 0, cell]):
                continue
            which = pattern[day, cell]
            if not there[which]:
                _covariance(entries[cell, which], of_factors, d, known[which])
                there[which] = True
            for degree in range(d):
                out[day, degree] += weight * coefficients[day, degree, cell]
            for place in range(count):
                out[day, d + place] += weight * known[which, place]
            out[day, d + count] += weight
            out[day, d + count + 1] += weight * remainder[day, cell]
            out[day, d + count + 2 + part_of[cell]] += weight


@njit(cache=True, nogil=True)
def _add_days(
    coefficients: NDArray[Any],
    pattern: NDArray[Any],
    entries: NDArray[Any],
    of_factors: bool,
    remainder: NDArray[Any],
    period_of: NDArray[np.int64],
    decay: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:  # pragma: no cover
    """Add the same of days, with ``coefficients`` (cell, degree, day), to ``out`` (cell, period, column), and pairs of days.

    Of pairs there are the sum of their correlations; the sums of the correlations with the last and with the first day of the
    period here, from which ``_joined`` has the pairs across two stretches. ``decay``: correlation of each day with the one
    before; what earlier days add to each day falls by it, so that one pass makes all pairs.
    """
    cells, d, days = coefficients.shape
    count = entries.shape[2]
    # Of the patterns of a cell few occur.
    known, there = np.empty(entries.shape[1:]), np.zeros(entries.shape[1], np.bool_)
    for cell in range(cells):
        there[:] = False
        before, since, last = 0.0, 1.0, -1
        for day in range(days):
            period = period_of[day]
            before, since = (before * decay[day], since * decay[day]) if period == last else (0.0, 1.0)
            last = period
            if not np.isnan(coefficients[cell, 0, day]):
                which = pattern[cell, day]
                if not there[which]:
                    _covariance(entries[cell, which], of_factors, d, known[which])
                    there[which] = True
                for degree in range(d):
                    out[cell, period, degree] += coefficients[cell, degree, day]
                for place in range(count):
                    out[cell, period, d + place] += known[which, place]
                out[cell, period, d + count] += 1.0
                out[cell, period, d + count + 1] += remainder[cell, day]
                out[cell, period, d + count + 2] += 1.0 + 2.0 * before
                out[cell, period, d + count + 4] += since
                before += 1.0
            out[cell, period, d + count + 3] = before


def _unpacked(entries: xr.DataArray, degrees: int) -> xr.DataArray:
    """Symmetric matrices (..., degree, degree_2) of their lower entries (..., entry)."""
    rows, columns = entry_places(degrees)
    place = np.zeros((degrees, degrees), np.int64)
    place[rows, columns] = place[columns, rows] = np.arange(rows.size)
    found = entries.isel(entry=xr.DataArray(place, dims=("degree", "degree_2")))
    return found.chunk(degree=-1, degree_2=-1) if found.chunks is not None else found


def _spacing_m(lat: NDArray[np.float64], lon: NDArray[np.float64]) -> float:
    """Distance between neighbours, m."""
    down, across = np.zeros(lat.size - 1), np.full(lon.size - 1, lat.mean())
    along = (great_circles_m(lat[:-1], down, lat[1:], down), great_circles_m(across, lon[:-1], across, lon[1:]))
    return float(min((each.min() for each in along if each.size), default=0.0))


def _of_parts(by_part: xr.DataArray, correlation: NDArray[np.float64]) -> xr.DataArray:
    """sum_ij w_i w_j rho_ij for the weights of parts (time, part), which need not sum to one; NaN where they are all 0."""

    def share(weights: NDArray[Any]) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore"):
            shares = weights / weights.sum(axis=-1, keepdims=True)
        return np.asarray(((shares @ correlation) * shares).sum(axis=-1))

    found: xr.DataArray = xr.apply_ufunc(
        share,
        by_part,
        input_core_dims=[["part"]],
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={"allow_rechunk": True},
    )
    return found


def correlation_of_parts(
    lat: NDArray[np.float64], lon: NDArray[np.float64], parts: Sequence[Mapping[str, slice]], length: float
) -> NDArray[np.float64]:
    """Mean correlation exp(-distance / length) between rectangles of cells, and within each (the diagonal).

    Parameters
    ----------
    lat, lon
        Centres of all rows and columns, degrees.
    parts
        Rows (``y``) and columns (``x``) of each rectangle.
    length
        m.

    Returns
    -------
    Shape (parts, parts): between the middles of two rectangles; within one, of its cells, some of them where they are many.
    """
    east = np.unwrap(lon, period=360.0)
    y, x = (np.array([axis[part[dim]].mean() for part in parts]) for axis, dim in ((lat, "y"), (east, "x")))
    found = np.exp(-great_circles_m(y[:, None], x[:, None], y, x) / length)
    within: dict[tuple[int, int, int], float] = {}
    for k, part in enumerate(parts):
        rows, columns = lat[part["y"]], east[part["x"]]
        # Columns are as wide as each other: parts of the same rows are alike.
        like = (part["y"].start, rows.size, columns.size)
        if like not in within:
            some_y, some_x = rows[:: max(rows.size // 12, 1)], columns[:: max(columns.size // 12, 1)]
            a, b = (each.ravel() for each in np.meshgrid(some_y, some_x, indexing="ij"))
            within[like] = float(np.exp(-great_circles_m(a[:, None], b[:, None], a, b) / length).mean())
        found[k, k] = within[like]
    return found
