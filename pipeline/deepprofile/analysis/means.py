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
from collections.abc import Iterator, Sequence
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
# On top of the covariances, which count it already: of the variance that the polynomial cannot express.
REMAINDER: Final = "remainder_factor"
# What holds for the grid of the profiles and for each of their days, and not for means.
_OF_GRID: Final = (
    "proj:",
    "spatial:",
    "zarr_conventions",
    "multiscales",
    "grid",
    "crs",
    "block_dims",
    "store_layout",
    "geospatial_lat_r",
)


def area_mean(
    profile: xr.Dataset, areas: xr.DataArray, soil: xr.DataArray | None, length: float | None, min_share: float
) -> xr.Dataset:
    """The mean profile of an area, of each day; see ``ProfileAccessor.area_mean``.

    ``areas``: of each cell, m2 (y, x); ``soil``: where there can be a profile, None where that is not known.
    """
    if "time" not in profile.dims:
        alone = profile.drop_vars([name for name in ("time", "time_bnds") if name in profile.coords])
        one_day = alone.assign({name: alone[name].expand_dims("time") for name in ("coefficients", "pattern")})
        found = area_mean(one_day, areas, soil, length, min_share).isel(time=0)
        return found.assign_coords({name: profile[name] for name in ("time", "time_bnds") if name in profile.coords})
    weights = areas.fillna(0.0)
    if soil is not None:
        weights = weights.where(soil.compute(), 0.0)
    whole = float(weights.sum())
    if whole == 0.0:
        raise ValueError("no cell of the area has soil")
    factor: xr.DataArray | float = 1.0
    said = "area: fully correlated"
    if length is not None:
        spacing = _spacing_m(profile)
        if not length >= spacing:
            raise ValueError(
                f"correlation_length is {length:g} m, less than the {spacing:.0f} m from one cell to the next: it is in m"
            )
        factor = _factor_of_area(profile, weights, length)
        said = f"area: exp(-distance / {length:g} m)"
    totals = _totals(profile, ("y", "x"), weights)
    share = (totals["weight"] / whole).rename("valid_share")
    share.attrs = {"units": "1", "long_name": "share of the area that has a profile on that day"}
    found = _of_totals(profile, totals, factor, share >= min_share - 1e-9, "area", said)
    shares = weights / whole
    for name in ("lower_bound", "upper_bound", "prior_mean"):
        bound = profile.get(name)
        if bound is not None:
            found[name] = (
                bound if not {"y", "x"} <= set(bound.dims) else xr.dot(bound.fillna(0.0), shares.astype(bound.dtype))
            ).assign_attrs(bound.attrs)
    for name, axis in (("lat", profile["lat"].values), ("lon", profile["lon"].values)):
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
    kept = {name: profile[name] for name in ("lower_bound", "upper_bound", "prior_mean") if name in profile}
    spans = _periods(times, period)
    found = [_mean_of_days(profile.isel(time=days), length, correlation_time, min_share) for days, _, length in spans]
    if period is None:
        (only,) = found
        first, last = times[[0, -1]].astype("datetime64[D]")
        return only.assign(kept).assign_attrs(period=f"{first} to {last}")
    starts = np.array([start for _, start, _ in spans])
    ends = np.array([start + np.timedelta64(length, "D") for _, start, length in spans])
    joined = xr.concat(
        found, "time", data_vars="all", coords="minimal", compat="override", join="override", combine_attrs="override"
    )
    said = {"standard_name": "time", "long_name": "first day of the period", "axis": "T", "bounds": "time_bnds"}
    bounds = ("time", "bnds"), np.stack([starts, ends], axis=1)
    return (
        joined.assign(kept)
        .assign_coords(time=("time", starts, said), time_bnds=bounds)
        .transpose("degree", "degree_2", "availability", "time", ...)
    )


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


def _mean_of_days(profile: xr.Dataset, days: int, correlation_time: float | None, min_share: float) -> xr.Dataset:
    """The mean of all days of a profile, of which its period has so many."""
    totals = _totals(profile, ("time",), None)
    factor: xr.DataArray | float = 1.0
    said = "period: fully correlated"
    if correlation_time is not None:
        gaps = np.diff(profile["time"].values) / np.timedelta64(1, "D")
        factor = xr.apply_ufunc(
            lambda there: correlated_share_of_days(np.moveaxis(there, -1, 0), gaps, correlation_time),
            _there(profile),
            input_core_dims=[["time"]],
            dask="parallelized",
            output_dtypes=[np.float64],
            dask_gufunc_kwargs={"allow_rechunk": True},
        )
        said = f"period: {PERSISTENT_SHARE:g} + {1.0 - PERSISTENT_SHARE:g} exp(-days / {correlation_time:g})"
    found = _of_totals(profile, totals, factor, totals["weight"] >= (min_share - 1e-9) * days, "period", said)
    number = totals["weight"].astype(np.int32).assign_attrs(units="1", long_name="number of days with a profile")
    return found.assign(days=number)


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
    attributes = {name: value for name, value in profile.attrs.items() if not str(name).startswith(_OF_GRID)}
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


def _there(profile: xr.Dataset) -> xr.DataArray:
    """Where there is a profile."""
    there: xr.DataArray = profile["coefficients"].isel(degree=0, drop=True).notnull()
    return there


def _totals(profile: xr.Dataset, over: tuple[str, ...], weights: xr.DataArray | None) -> xr.Dataset:
    """Weighted sums over dimensions: of the coefficients, of the covariances by their entries, of the weights.

    Blocks are added up one by one, each read once; those without a weight are not read.
    """
    entries, of_factors = _packed(profile)
    sums = []
    for block in _blocks(profile, over):
        here = profile.isel(block)
        weight = None if weights is None else weights.isel(block)
        if weight is not None and not bool((weight > 0.0).any()):
            continue
        of_block = entries.isel({dim: part for dim, part in block.items() if dim in entries.dims})
        sums.append(_totals_of_block(here, of_block, of_factors, over, weight))
    return reduce(operator.add, sums)


def _totals_of_block(
    profile: xr.Dataset, entries: xr.DataArray, of_factors: bool, over: tuple[str, ...], weight: xr.DataArray | None
) -> xr.Dataset:
    coefficients, pattern = profile["coefficients"].drop_vars("degree", errors="ignore"), profile["pattern"]
    known = coefficients.isel(degree=0).notnull()
    weighted = known.astype(np.float64) if weight is None else known * weight
    if REMAINDER in profile:
        # Means of means: every one has a covariance of its own.
        covariances = entries.isel(availability=0)
        before = profile[REMAINDER]
        return xr.Dataset(
            {
                "coefficients": xr.dot(coefficients.fillna(0.0), weighted, dim=over),
                "entries": xr.dot(covariances.fillna(0.0), weighted, dim=over),
                "weight": weighted.sum(over),
                "remainder": xr.dot(before.fillna(0.0), weighted, dim=over),
            }
        )
    d, count = coefficients.sizes["degree"], entries.sizes["entry"]
    space = [str(dim) for dim in pattern.dims if dim != "time"]
    by_day = over != ("time",)
    if by_day and set(space) != set(over):
        raise ValueError(f"the profiles have the dimensions {', '.join(space)}, not y and x: they are of no area")
    if weight is None:
        weight = xr.DataArray(1.0)

    def add(c: NDArray[Any], which: NDArray[Any], known: NDArray[Any], w: NDArray[Any]) -> NDArray[np.float64]:
        # The dimensions of cells come first, whether they are those of the area or any.
        cells, days = which.shape[:-1], which.shape[-1]
        number = int(np.prod(cells))
        known = np.broadcast_to(known, (*cells, *known.shape[-2:]))
        out = np.zeros((days if by_day else number, d + count + 1))
        _add_up(
            np.ascontiguousarray(c).reshape(number, d, days),
            np.ascontiguousarray(which).reshape(number, days),
            np.ascontiguousarray(known).reshape(number, *known.shape[-2:]),
            of_factors,
            np.array(np.broadcast_to(w, cells), np.float64).reshape(number),
            by_day,
            out,
        )
        return out if by_day else out.reshape(*cells, -1)

    own = list(over) if by_day else []
    found = xr.apply_ufunc(
        add,
        coefficients,
        pattern,
        entries,
        weight,
        input_core_dims=[[*own, "degree", "time"], [*own, "time"], [*own, "availability", "entry"], own],
        output_core_dims=[[*(["time"] if by_day else []), "column"]],
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={"allow_rechunk": True, "output_sizes": {"column": d + count + 1}},
    )
    if by_day:
        found = found.assign_coords(time=profile["time"])
    total = found.isel(column=-1)
    return xr.Dataset(
        {
            "coefficients": found.isel(column=slice(0, d)).rename(column="degree"),
            "entries": found.isel(column=slice(d, d + count)).rename(column="entry"),
            "weight": total,
            "remainder": total,
        }
    )


@njit(cache=True, nogil=True)
def _add_up(
    coefficients: NDArray[Any],
    pattern: NDArray[Any],
    entries: NDArray[Any],
    of_factors: bool,
    weights: NDArray[np.float64],
    by_day: bool,
    out: NDArray[np.float64],
) -> None:  # pragma: no cover
    """Add weighted coefficients, entries of covariances and weights to ``out`` (day or cell, degree + entry + 1).

    ``coefficients`` (cell, degree, day), ``pattern`` (cell, day), ``entries`` (cell, availability, entry), ``weights`` (cell,).
    """
    cells, d, days = coefficients.shape
    patterns, count = entries.shape[1], entries.shape[2]
    known = np.empty((patterns, count))
    for cell in range(cells):
        weight = weights[cell]
        if not weight > 0.0:
            continue
        for which in range(patterns):
            if of_factors:
                factor = entries[cell, which]
                for i in range(d):
                    for j in range(i + 1):
                        total = 0.0
                        for k in range(j + 1):
                            total += np.float64(factor[i * (i + 1) // 2 + k]) * np.float64(factor[j * (j + 1) // 2 + k])
                        known[which, i * (i + 1) // 2 + j] = total
            else:
                for place in range(count):
                    known[which, place] = entries[cell, which, place]
        for day in range(days):
            if np.isnan(coefficients[cell, 0, day]):
                continue
            target = day if by_day else cell
            which = pattern[cell, day]
            for degree in range(d):
                out[target, degree] += weight * coefficients[cell, degree, day]
            for place in range(count):
                out[target, d + place] += weight * known[which, place]
            out[target, d + count] += weight


def _blocks(profile: xr.Dataset, over: Sequence[str]) -> Iterator[dict[str, slice]]:
    """Parts of some dimensions as the coefficients are divided; all of it where they are not."""
    chunks = profile["coefficients"].chunksizes
    edges = [np.cumsum([0, *chunks.get(dim, (profile.sizes[dim],))]).tolist() for dim in over]
    for part in itertools.product(*(itertools.pairwise(each) for each in edges)):
        yield {dim: slice(*ends) for dim, ends in zip(over, part, strict=True)}


def _packed(profile: xr.Dataset) -> tuple[xr.DataArray, bool]:
    """Lower entries (..., availability, entry) of the covariances, or of their factors, and whether they are of factors."""
    if "covariance_factor" in profile:
        return profile["covariance_factor"], True
    if "posterior_covariance" not in profile:
        raise ValueError(
            "these profiles are without their covariances, which are a store of their own: dp.open_profile opens both"
        )
    rows, columns = (xr.DataArray(each, dims="entry") for each in entry_places(profile.sizes["degree"]))
    whole = profile["posterior_covariance"].drop_vars(["degree", "degree_2"], errors="ignore")
    return whole.isel(degree=rows, degree_2=columns), False


def _unpacked(entries: xr.DataArray, degrees: int) -> xr.DataArray:
    """Symmetric matrices (..., degree, degree_2) of their lower entries (..., entry)."""
    rows, columns = entry_places(degrees)
    place = np.zeros((degrees, degrees), np.int64)
    place[rows, columns] = place[columns, rows] = np.arange(rows.size)
    found = entries.isel(entry=xr.DataArray(place, dims=("degree", "degree_2")))
    return found.chunk(degree=-1, degree_2=-1) if found.chunks is not None else found


def _spacing_m(profile: xr.Dataset) -> float:
    """Distance between neighbours, m."""
    lat, lon = profile["lat"].values, profile["lon"].values
    along = [
        great_circles_m(a[:-1], b[:-1], a[1:], b[1:])
        for a, b in ((lat, np.zeros(lat.size)), (np.full(lon.size, lat.mean()), lon))
    ]
    return float(min((each.min() for each in along if each.size), default=0.0))


def _factor_of_area(profile: xr.Dataset, weights: xr.DataArray, length: float) -> xr.DataArray:
    """What the variance of the mean of an area is of the mean of its variances, of each day."""
    size = {dim: -(-profile.sizes[dim] // _PARTS) for dim in ("y", "x")}
    correlation = correlation_of_parts(profile["lat"].values, profile["lon"].values, size["y"], size["x"], length)
    weighted = (_there(profile) * weights.astype(np.float32)).drop_vars(["lat", "lon", "y", "x"], errors="ignore")
    parts = weighted.coarsen(size, boundary="pad").sum() if max(size.values()) > 1 else weighted

    def share(summed: NDArray[Any]) -> NDArray[np.float64]:
        flat = summed.reshape(*summed.shape[:-2], -1).astype(np.float64)
        with np.errstate(invalid="ignore"):
            shares = flat / flat.sum(axis=-1, keepdims=True)
        return np.asarray(((shares @ correlation) * shares).sum(axis=-1))

    found: xr.DataArray = xr.apply_ufunc(
        share,
        parts,
        input_core_dims=[["y", "x"]],
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={"allow_rechunk": True},
    )
    return found


def correlation_of_parts(
    lat: NDArray[np.float64], lon: NDArray[np.float64], rows: int, columns: int, length: float
) -> NDArray[np.float64]:
    """Mean correlation exp(-distance / length) between rectangles of so many rows and columns, and within each (the diagonal).

    ``lat``, ``lon``: centres of all rows and columns, degrees; ``length``: m. Shape (parts, parts), parts in the order of rows.
    """
    whole = [(lat[k : k + rows], k) for k in range(0, lat.size, rows)]
    east = np.unwrap(lon, period=360.0)
    middles_y = np.array([each.mean() for each, _ in whole])
    middles_x = np.array([east[k : k + columns].mean() for k in range(0, lon.size, columns)])
    y, x = (each.ravel() for each in np.meshgrid(middles_y, middles_x, indexing="ij"))
    found = np.exp(-great_circles_m(y[:, None], x[:, None], y, x) / length)
    if rows * columns > 1:
        within = np.empty((middles_y.size, middles_x.size))
        for k, (own, _) in enumerate(whole):
            for j in range(middles_x.size):
                # All columns are as wide: but for the last, which may be cut short, parts of a row are alike.
                if 0 < j < middles_x.size - 1:
                    within[k, j] = within[k, 0]
                    continue
                some_y, some_x = own[:: max(rows // 12, 1)], east[j * columns : (j + 1) * columns][:: max(columns // 12, 1)]
                a, b = (each.ravel() for each in np.meshgrid(some_y, some_x, indexing="ij"))
                within[k, j] = np.exp(-great_circles_m(a[:, None], b[:, None], a, b) / length).mean()
        np.fill_diagonal(found, within.ravel())
    return found


def correlated_share_of_days(there: NDArray[np.bool_], gaps: NDArray[np.float64], time: float) -> NDArray[np.float64]:
    """What the variance of the mean of some days is of the mean of their variances; NaN where no day is there.

    Errors of two days d days apart have the correlation p + (1 - p) exp(-d / time), p being the share that persists.
    ``there`` (day, ...); ``gaps``: days since the one before, of each but the first.
    """
    # What earlier days add to each day falls by the same factor with each gap: one pass instead of all pairs.
    before, total = np.zeros(there.shape[1:]), np.zeros(there.shape[1:])
    for day, gap in enumerate([np.inf, *gaps.tolist()]):
        before = before * np.exp(-gap / time)
        total += there[day] * (1.0 + 2.0 * before)
        before = before + there[day]
    count = there.sum(axis=0).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(PERSISTENT_SHARE + (1.0 - PERSISTENT_SHARE) * total / count**2)
