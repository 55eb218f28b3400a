"""Triple collocation from second moments that merge.

With three series of one quantity, x_i = a_i + b_i t + e_i, and errors that are independent of each other and of the truth t,
the error variances follow from the covariances alone: var(e_x) = C_xx - C_xy C_xz / C_yz (Stoffelen 1998, doi
10.1029/97JC03180; in covariance notation Gruber et al. 2016, doi 10.1016/j.jag.2015.09.002). Extended triple collocation
adds the squared correlation with the truth, C_xy C_xz / (C_xx C_yz) (McColl et al. 2014, doi 10.1002/2014GL061322).
"""

from __future__ import annotations

import os
from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Any, Final, NamedTuple, cast

import numpy as np
import xarray as xr
from numba import njit
from numpy.typing import NDArray
from scipy import special

from deepprofile.core.fills import stands_for_missing

Array = NDArray[np.float64]

# Pairs in the order in which co-moments are kept.
PAIRS: Final = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
MOMENTS: Final = 10
SIGNIFICANCE: Final = 0.05

TOO_FEW_SAMPLES: Final = 1
NOT_SIGNIFICANT: Final = 2
NEGATIVE_VARIANCE: Final = 4

# Reassociation lets the compiler use vector registers; NaN keeps its meaning.
_FAST = {"reassoc", "contract", "nsz", "arcp"}
# Cells whose sums stay in the cache nearest to the processor, and days (even) over which sums keep the precision of the series.
_TILE: Final = 512
_SPAN: Final = 32


@dataclass(frozen=True)
class Moments:
    """Sample size, means and co-moments of triples, for any number of cells.

    ``count`` (...), ``mean`` (..., 3), ``comoment`` (..., 6): sums of products of departures from the means, in the order of
    ``PAIRS``. Moments of disjoint samples merge into those of all samples (Chan et al. 1983, doi
    10.1080/00031305.1983.10483115).
    """

    count: Array
    mean: Array
    comoment: Array

    @classmethod
    def from_series(cls, x: NDArray[Any], y: NDArray[Any], z: NDArray[Any]) -> Moments:
        """Moments of the complete triples of three arrays with time along their last axis."""
        shape = x.shape[:-1]
        a, b, c = (np.asarray(v).reshape(-1, v.shape[-1]) for v in (x, y, z))
        return cls.from_array(triple_moments(a, b, c).reshape(*shape, MOMENTS))

    @classmethod
    def from_array(cls, values: Array) -> Moments:
        """Moments from an array (..., 10): count, three means, six co-moments."""
        return cls(values[..., 0], values[..., 1:4], values[..., 4:])

    def to_array(self) -> Array:
        """All moments as one array (..., 10)."""
        return np.concatenate([self.count[..., None], self.mean, self.comoment], axis=-1)

    def merge(self, other: Moments) -> Moments:
        """Moments of both samples together."""
        count = self.count + other.count
        share = np.divide(other.count, count, out=np.zeros_like(count), where=count > 0)
        shift = other.mean - self.mean
        between = np.stack([shift[..., i] * shift[..., j] for i, j in PAIRS], axis=-1)
        return Moments(
            count,
            self.mean + share[..., None] * shift,
            self.comoment + other.comoment + (self.count * share)[..., None] * between,
        )

    def covariance(self) -> Array:
        """Covariances in the order of ``PAIRS``, ddof 1; NaN below two samples. Shape (..., 6)."""
        freedom = np.where(self.count > 1, self.count - 1.0, np.nan)
        return np.asarray(self.comoment / freedom[..., None])


@njit(cache=True, nogil=True, fastmath=_FAST)
def _sums(x: NDArray[Any], y: NDArray[Any], z: NDArray[Any], x0: float, y0: float, z0: float, out: Array) -> None:
    """Count, sums and sums of products of the departures of one cell's complete triples; written for vector registers."""
    n: float = 0.0
    sx = sy = sz = xx = yy = zz = xy = xz = yz = 0.0
    for t in range(x.size):
        a: float = np.float64(x[t]) - x0
        b: float = np.float64(y[t]) - y0
        c: float = np.float64(z[t]) - z0
        whole = (a == a) & (b == b) & (c == c)
        a = a if whole else 0.0
        b = b if whole else 0.0
        c = c if whole else 0.0
        n += 1.0 if whole else 0.0
        sx += a
        sy += b
        sz += c
        xx += a * a
        yy += b * b
        zz += c * c
        xy += a * b
        xz += a * c
        yz += b * c
    out[0] = n
    out[1], out[2], out[3] = sx, sy, sz
    out[4], out[5], out[6], out[7], out[8], out[9] = xx, yy, zz, xy, xz, yz


@njit(cache=True, nogil=True)
def _centre(out: Array, x0: float, y0: float, z0: float) -> None:
    """Turn sums about (x0, y0, z0) into means and co-moments, in place."""
    n = out[0]
    if n == 0.0:
        out[:] = 0.0
        return
    sx, sy, sz = out[1], out[2], out[3]
    out[1], out[2], out[3] = x0 + sx / n, y0 + sy / n, z0 + sz / n
    out[4] -= sx * sx / n
    out[5] -= sy * sy / n
    out[6] -= sz * sz / n
    out[7] -= sx * sy / n
    out[8] -= sx * sz / n
    out[9] -= sy * sz / n


@njit(cache=True, nogil=True)
def moments_of_series(x: NDArray[Any], y: NDArray[Any], z: NDArray[Any], out: Array) -> None:
    """Moments (10,) of the complete triples of three contiguous series (time,)."""
    # Departures from a value of the series itself: sums of squares then lose no digits to a large mean.
    first = 0
    while first < x.size - 1 and np.isnan(x[first] + y[first] + z[first]):
        first += 1
    x0, y0, z0 = np.float64(x[first]), np.float64(y[first]), np.float64(z[first])
    _sums(x, y, z, x0, y0, z0, out)
    _centre(out, x0, y0, z0)


@njit(cache=True, nogil=True)
def _moments_by_cell(x: NDArray[Any], y: NDArray[Any], z: NDArray[Any], out: Array) -> None:
    """Series along the last, contiguous axis."""
    for cell in range(x.shape[0]):
        moments_of_series(x[cell], y[cell], z[cell], out[cell])


@njit(cache=True, nogil=True, fastmath=_FAST)
def _begin(x: NDArray[Any], y: NDArray[Any], z: NDArray[Any], origin: NDArray[Any]) -> int:
    """Where a cell has its first complete triple, that is what departures are counted from; returns how many have none yet."""
    missing = 0
    for c in range(_TILE):
        found = (x[c] == x[c]) & (y[c] == y[c]) & (z[c] == z[c]) & (origin[c] != origin[c])
        origin[c] = x[c] if found else origin[c]
        origin[_TILE + c] = y[c] if found else origin[_TILE + c]
        origin[2 * _TILE + c] = z[c] if found else origin[2 * _TILE + c]
        missing += 1 if origin[c] != origin[c] else 0
    return missing


class _Day(NamedTuple):
    """Values of the three series on one day, each for a tile of cells."""

    x: NDArray[Any]
    y: NDArray[Any]
    z: NDArray[Any]


@njit(cache=True, nogil=True, fastmath=_FAST)
def _add_two_days(today: _Day, next_day: _Day, origin: NDArray[Any], sums: NDArray[Any], numbers: NDArray[Any]) -> None:
    """Add two days of a tile of cells to its sums; written for vector registers, which hold neighbouring cells.

    ``origin`` (3 tiles) and ``sums`` (10 tiles) are flat, so that their parts lie at distances that the compiler knows.
    ``numbers``: 0 and 1 in the type of the sums.
    """
    zero, one = numbers[0], numbers[1]
    x, y, z, next_x, next_y, next_z = today.x, today.y, today.z, next_day.x, next_day.y, next_day.z
    for c in range(_TILE):
        x0, y0, z0 = origin[c], origin[_TILE + c], origin[2 * _TILE + c]
        a, b, d = x[c] - x0, y[c] - y0, z[c] - z0
        first = (a == a) & (b == b) & (d == d)
        a = a if first else zero
        b = b if first else zero
        d = d if first else zero
        e, f, g = next_x[c] - x0, next_y[c] - y0, next_z[c] - z0
        second = (e == e) & (f == f) & (g == g)
        e = e if second else zero
        f = f if second else zero
        g = g if second else zero
        sums[c] += (one if first else zero) + (one if second else zero)
        sums[_TILE + c] += a + e
        sums[2 * _TILE + c] += b + f
        sums[3 * _TILE + c] += d + g
        sums[4 * _TILE + c] += a * a + e * e
        sums[5 * _TILE + c] += b * b + f * f
        sums[6 * _TILE + c] += d * d + g * g
        sums[7 * _TILE + c] += a * b + e * f
        sums[8 * _TILE + c] += a * d + e * g
        sums[9 * _TILE + c] += b * d + f * g


@njit(cache=True, nogil=True)
def _moments_by_time(
    x: NDArray[Any], y: NDArray[Any], z: NDArray[Any], first: int, last: int, numbers: NDArray[Any], out: Array
) -> None:
    """Series along the first axis, cells along the last, contiguous one: a tile of cells at a time, two days at a time.

    Of the cells from ``first`` to before ``last``. Sums keep the series' precision over ``_SPAN`` days, beyond they are double.
    """
    days = x.shape[0]
    origin = np.empty(3 * _TILE, numbers.dtype)
    part, total = np.empty(MOMENTS * _TILE, numbers.dtype), np.empty(MOMENTS * _TILE)
    # What a tile at the end lacks in cells, and the last day in a next one.
    pad = np.full((6, _TILE), np.nan, numbers.dtype)
    for start in range(first, last, _TILE):
        width = min(_TILE, last - start)
        origin[:] = np.nan
        part[:] = 0
        total[:] = 0.0
        missing = width
        for day in range(0, days, 2):
            after = min(day + 1, days - 1)
            stop = start + width
            a, b, d = x[day, start:stop], y[day, start:stop], z[day, start:stop]
            e, f, g = x[after, start:stop], y[after, start:stop], z[after, start:stop]
            if width < _TILE or after == day:
                pad[0, :width], pad[1, :width], pad[2, :width] = a, b, d
                if after > day:
                    pad[3, :width], pad[4, :width], pad[5, :width] = e, f, g
                else:
                    pad[3:] = np.nan
                a, b, d, e, f, g = pad[0], pad[1], pad[2], pad[3], pad[4], pad[5]
            if missing:
                _begin(a, b, d, origin)
                missing = _begin(e, f, g, origin) - (_TILE - width)
            _add_two_days(_Day(a, b, d), _Day(e, f, g), origin, part, numbers)
            if day % _SPAN == _SPAN - 2:
                total += part
                part[:] = 0
        total += part
        for c in range(width):
            for k in range(MOMENTS):
                out[start - first + c, k] = total[k * _TILE + c]
            x0, y0, z0 = origin[c], origin[_TILE + c], origin[2 * _TILE + c]
            _centre(out[start - first + c], np.float64(x0), np.float64(y0), np.float64(z0))


def triple_moments(x: NDArray[Any], y: NDArray[Any], z: NDArray[Any], first: int = 0, last: int | None = None) -> Array:
    """Count, means and co-moments of the complete triples of three arrays (cell, time), or of a part of their cells.

    Shape (cell, 10).
    """
    last = x.shape[0] if last is None else min(last, x.shape[0])
    out = np.empty((last - first, MOMENTS))
    if x.shape[0] > 1 and all(v.T.flags.c_contiguous for v in (x, y, z)):
        dtype = np.result_type(x, y, z, np.float32)
        a, b, c = (v.T.astype(dtype, copy=False) for v in (x, y, z))
        _moments_by_time(a, b, c, first, last, np.array([0, 1], dtype), out)
    else:
        a, b, c = (np.ascontiguousarray(v[first:last]) for v in (x, y, z))
        _moments_by_cell(a, b, c, out)
    return out


@lru_cache(maxsize=32)
def critical_correlation(samples: int) -> Array:
    """Smallest significantly positive correlation for 0, 1, ... ``samples`` pairs (two-sided p < 0.05, Student's t)."""
    freedom = np.maximum(np.arange(samples + 1) - 2.0, 1.0)
    t = special.stdtrit(freedom, 1.0 - 0.5 * SIGNIFICANCE)
    critical = np.where(np.arange(samples + 1) > 2, t / np.sqrt(freedom + t**2), 1.0)
    critical.flags.writeable = False
    return np.asarray(critical)


class Collocation(NamedTuple):
    """What triple collocation says of three series; arrays (..., 3) for x, y, z, ``correlation`` for xy, xz, yz.

    ``error_variance`` is in the units of each series, unscaled, and may come out negative; ``scaling`` multiplies a series
    towards x.
    """

    signal_variance: Array
    error_variance: Array
    scaling: Array
    correlation: Array


@njit(cache=True, nogil=True, error_model="numpy")
def _collocate(covariance: Array, out: Collocation) -> None:
    """Fill ``out`` from covariances (cell, 6) in the order of ``PAIRS``."""
    signal, error, scaling, correlation = out.signal_variance, out.error_variance, out.scaling, out.correlation
    for i in range(covariance.shape[0]):
        xx, yy, zz = covariance[i, 0], covariance[i, 1], covariance[i, 2]
        xy, xz, yz = covariance[i, 3], covariance[i, 4], covariance[i, 5]
        signal[i, 0], signal[i, 1], signal[i, 2] = xy * xz / yz, xy * yz / xz, xz * yz / xy
        error[i, 0], error[i, 1], error[i, 2] = xx - signal[i, 0], yy - signal[i, 1], zz - signal[i, 2]
        scaling[i, 0], scaling[i, 1], scaling[i, 2] = yz / yz, xz / yz, xy / yz
        correlation[i, 0] = xy / np.sqrt(xx * yy)
        correlation[i, 1] = xz / np.sqrt(xx * zz)
        correlation[i, 2] = yz / np.sqrt(yy * zz)


def collocate(covariance: Array) -> Collocation:
    """Extended triple collocation from covariances (..., 6) in the order of ``PAIRS``."""
    flat = np.ascontiguousarray(covariance, dtype=np.float64).reshape(-1, len(PAIRS))
    out = Collocation(*(np.empty((flat.shape[0], 3)) for _ in range(4)))
    _collocate(flat, out)
    return Collocation(*(part.reshape(*covariance.shape[:-1], 3) for part in out))


class _Quality(NamedTuple):
    """How good three series are: ``r_squared`` with the truth and ``snr_db`` (cell, 3), ``status`` (cell,)."""

    r_squared: Array
    snr_db: Array
    status: NDArray[np.int8]


@njit(cache=True, nogil=True, error_model="numpy")
def _report(moments: Array, least: int, critical: Array, found: Collocation, out: _Quality) -> None:
    """Signal-to-noise, r2 and status of each cell; NaN for what the sample or a negative variance does not allow."""
    signal, error, scaling, correlation = found.signal_variance, found.error_variance, found.scaling, found.correlation
    r_squared, snr, status = out.r_squared, out.snr_db, out.status
    for i in range(moments.shape[0]):
        n = int(moments[i, 0])
        code = 0
        if n < least:
            code = TOO_FEW_SAMPLES
            scaling[i, :] = np.nan
            correlation[i, :] = np.nan
            error[i, :] = np.nan
            signal[i, :] = np.nan
        else:
            for k in range(3):
                if not correlation[i, k] >= critical[n]:
                    code |= NOT_SIGNIFICANT
                if error[i, k] < 0.0:
                    code |= NEGATIVE_VARIANCE
                    error[i, k] = np.nan
        for k in range(3):
            total = signal[i, k] + error[i, k]
            r_squared[i, k] = signal[i, k] / total
            ratio = signal[i, k] / error[i, k]
            snr[i, k] = 10.0 * np.log10(ratio) if ratio > 0.0 else np.nan
        status[i] = code


class _SeriesErrors(NamedTuple):
    """The variables that ``triple_collocation`` returns, of each cell: (..., 3), and (...,) for the last two."""

    error_variance: Array
    scaling: Array
    r_squared: Array
    snr_db: Array
    correlation: Array
    n_samples: NDArray[np.int64]
    status: NDArray[np.int8]


def _collocate_series(x: NDArray[Any], y: NDArray[Any], z: NDArray[Any], *, min_samples: int) -> _SeriesErrors:
    """Triple collocation of series (..., time)."""
    for name, series in zip("xyz", (x, y, z), strict=True):
        value = stands_for_missing(series)
        if value is not None:
            raise ValueError(
                f"{name} holds {value:g}, which stands for a missing value: set it to NaN first, for example "
                f"{name}.where({'numpy.isfinite(' + name + ')' if np.isinf(value) else f'{name} != {value:.9g}'})"
            )
    shape = np.broadcast_shapes(x.shape, y.shape, z.shape)
    days, cells = shape[-1], int(np.prod(shape[:-1]))
    dtype = np.result_type(x, y, z, np.float32)
    flat = [_cells_by_days(np.broadcast_to(series, shape).astype(dtype, copy=False)) for series in (x, y, z)]
    critical = critical_correlation(days)
    out = _SeriesErrors(
        error_variance=np.empty((cells, 3)),
        scaling=np.empty((cells, 3)),
        r_squared=np.empty((cells, 3)),
        snr_db=np.empty((cells, 3)),
        correlation=np.empty((cells, 3)),
        n_samples=np.empty(cells, np.int64),
        status=np.empty(cells, np.int8),
    )

    def work(start: int) -> None:
        part = slice(start, start + step)
        moments = triple_moments(flat[0], flat[1], flat[2], start, start + step)
        out.n_samples[part] = moments[:, 0]
        signal = np.empty((len(moments), 3))
        freedom = np.maximum(moments[:, :1] - 1.0, 1.0)
        found = Collocation(signal, out.error_variance[part], out.scaling[part], out.correlation[part])
        _collocate(moments[:, 4:] / freedom, found)
        quality = _Quality(out.r_squared[part], out.snr_db[part], out.status[part])
        _report(moments, max(min_samples, 2), critical, found, quality)

    # Parts of some megabytes, whole tiles, shared by a few threads: what limits them is the memory, not the arithmetic.
    step = _TILE * max(1, 1_200_000 // (_TILE * max(days, 1)))
    if cells <= step:
        work(0)
    else:
        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            list(pool.map(work, range(0, cells, step)))
    return _SeriesErrors._make(part.reshape((*shape[:-1], *part.shape[1:])) for part in out)


def _cells_by_days(series: NDArray[Any]) -> NDArray[Any]:
    """The series as (cell, time), as a view where the layout allows it: cells of a (time, y, x) array stay where they are."""
    by_time = np.moveaxis(series, -1, 0)
    if by_time.flags.c_contiguous:
        return by_time.reshape(series.shape[-1], -1).T
    return series.reshape(-1, series.shape[-1])


def triple_collocation(
    x: xr.DataArray, y: xr.DataArray, z: xr.DataArray, dim: str = "time", min_samples: int = 100
) -> xr.Dataset:
    """Extended triple collocation of three series.

    Parameters
    ----------
    x, y, z
        Collocated series with the dimension ``dim`` and any others, NaN where missing. They are joined on the common
        values of ``dim``; the other dimensions have to match exactly. Only complete triples count.
    dim
        The dimension of the samples.
    min_samples
        Fewer complete triples give NaN.

    Returns
    -------
    Dataset with the dimension ``product`` = ["x", "y", "z"]: ``error_variance`` (unscaled, each in its own units squared),
    ``scaling`` (multiplies a series towards x), ``r_squared`` (with the truth), ``snr_db``; ``correlation`` along ``pair`` =
    ["xy", "xz", "yz"]; ``n_samples``; ``status`` (bits: 1 too few samples, 2 a correlation that is not significantly
    positive, 4 a negative error variance, which is NaN for that product alone). Lazy where an input is backed by dask.

    Raises
    ------
    ValueError
        If ``dim`` is missing, the other dimensions differ, or there is no common value of ``dim``; where a series holds what
        stands for a missing value. Series may be in any units, so that is: infinity, 1e15 or more, -9999, and -99, -999 or
        9999 where it lies further from all other values than these from each other. Of a series that is backed by dask this
        is raised when it is computed.

    Notes
    -----
    Covariances have ddof 1. Stoffelen (1998), McColl et al. (2014), Gruber et al. (2016).
    """
    for name, series in zip("xyz", (x, y, z), strict=True):
        if not isinstance(series, xr.DataArray):
            raise TypeError(f"{name} is a {type(series).__name__}; give an xarray.DataArray")
        if dim not in series.dims:
            raise ValueError(f"{name} has the dimensions {series.dims}; it needs {dim!r}")
        if dim in series.coords and series.get_index(dim).has_duplicates:
            raise ValueError(f"{name} has values of {dim!r} more than once")
    others: list[set[Hashable]] = [set(series.dims) - {dim} for series in (x, y, z)]
    if not others[0] == others[1] == others[2]:
        raise ValueError(f"x, y and z have different dimensions beside {dim!r}: {x.dims}, {y.dims}, {z.dims}")
    x, y, z = xr.align(x, y, z, join="inner", exclude=others[0], copy=False)
    try:
        x, y, z = xr.align(x, y, z, join="exact", exclude={dim}, copy=False)
    except ValueError as error:
        raise ValueError(f"x, y and z have different coordinates beside {dim!r}: {error}") from None
    if x.sizes[dim] == 0:
        raise ValueError(f"x, y and z have no {dim} in common")
    x, y, z = (_one_chunk(series, dim) for series in (x, y, z))
    out = xr.apply_ufunc(
        _collocate_series,
        x,
        y,
        z,
        kwargs={"min_samples": min_samples},
        input_core_dims=[[dim]] * 3,
        output_core_dims=[["product"]] * 4 + [["pair"], [], []],
        dask="parallelized",
        output_dtypes=[np.float64] * 5 + [np.int64, np.int8],
        dask_gufunc_kwargs={"output_sizes": {"product": 3, "pair": 3}},
    )
    dataset = xr.Dataset(dict(zip(_SeriesErrors._fields, cast("tuple[xr.DataArray, ...]", out), strict=True)))
    dataset["status"].attrs = {
        "flag_masks": [TOO_FEW_SAMPLES, NOT_SIGNIFICANT, NEGATIVE_VARIANCE],
        "flag_meanings": "too_few_samples correlation_not_significant negative_error_variance",
    }
    return dataset.assign_coords(product=["x", "y", "z"], pair=["xy", "xz", "yz"])


def merge_all(parts: list[Moments]) -> Moments:
    """Moments of all parts, merged in the order given, so that the result does not depend on who came first."""
    return reduce(Moments.merge, parts)


def _one_chunk(series: xr.DataArray, dim: str) -> xr.DataArray:
    return series.chunk({dim: -1}) if series.chunks is not None else series
