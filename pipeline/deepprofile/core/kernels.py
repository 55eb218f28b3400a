"""Compiled loops of the inversion: matrices once per cell and pattern of available observations, then one product a day.

For fixed available observations the estimate is linear, c = G y + b, so G, b and the posterior covariance are made once and
kept. Only profiles that break a bound need more. The kernels release the interpreter lock.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from deepprofile.core.bounds import project_onto_bounds, scratch
from deepprofile.core.prior import GaussianMoments

Array = NDArray[np.float64]

MAP: Final = 0
WLS: Final = 1

NO_OBSERVATION: Final = 1
AT_LOWER_BOUND: Final = 2
AT_UPPER_BOUND: Final = 4
LOWER_ORDER: Final = 8
FALLBACK_ERRORS: Final = 16
PARTIAL_PRODUCT: Final = 32
SUBSET_COVARIANCE: Final = 64
FIRST_PRODUCT_BIT: Final = 8

# What ``invert_cells`` returns where a block has more patterns than there is room for.
NO_ROOM: Final = -1

# Patterns whose matrices one cell keeps at a time; beyond that they are made again.
_KEPT: Final = 64
_TABLE: Final = 256
_RANK_TOLERANCE: Final = 1e-6


class Setting(NamedTuple):
    """What is the same in every cell, for n observations and d coefficients.

    Attributes
    ----------
    method
        ``MAP`` or ``WLS``.
    two_scales
        Whether time means and anomalies are inverted apart.
    design
        Mean of each basis function over each layer, shape (n, d).
    anomalies
        Prior moments of a day's anomaly, each with one more axis in front: (damping, ...).
    means
        Prior moments of the time mean.
    correlation, bias_correlation
        Of the random errors and of the biases, shape (2, n, n): first what the gain knows of, then all of it.
    control
        From Legendre coefficients to Bernstein control points, between which the profile lies; shape (d, d).
    product
        Number of the product of each observation, shape (n,).
    """

    method: int
    two_scales: bool
    design: Array
    anomalies: GaussianMoments
    means: GaussianMoments
    correlation: Array
    bias_correlation: Array
    control: Array
    product: NDArray[np.int64]


class CellErrors(NamedTuple):
    """What is known of the errors in each cell.

    Attributes
    ----------
    error_variance
        Of the random errors, m6 m-6, shape (cell, n); not finite where an observation is not used.
    bias_variance
        m6 m-6, shape (cell, n); not finite where an observation tells of anomalies only.
    mean
        Time mean of each observation, m3 m-3, shape (cell, n).
    damping
        Which of the priors of anomalies suits the cell, shape (cell,).
    fallback
        Whether the error of an observation is a fallback, shape (cell, n).
    """

    error_variance: Array
    bias_variance: Array
    mean: Array
    damping: NDArray[np.int64]
    fallback: NDArray[np.bool_]


class CellLimits(NamedTuple):
    """What else a profile needs in each cell.

    Attributes
    ----------
    prior_mean
        Time mean that is expected before any data, m3 m-3, shape (cell,).
    low, high
        Bounds, m3 m-3, shape (cell,); NaN where there is no soil.
    """

    prior_mean: Array
    low: Array
    high: Array


class Patterns(NamedTuple):
    """Patterns of available observations.

    Attributes
    ----------
    known
        Bit masks, of which the first ``n_known`` are known; shape (room,).
    n_known
        How many are known.
    may_extend
        Whether new ones are added; else a profile is given the largest known part of its pattern.
    """

    known: NDArray[np.int64]
    n_known: int
    may_extend: bool


class Profiles(NamedTuple):
    """Where the result goes.

    Attributes
    ----------
    coefficients
        Of shifted Legendre polynomials, m3 m-3, shape (cell, time, d).
    flags
        Shape (cell, time).
    pattern
        Position of each profile's pattern among the known ones, shape (cell, time).
    """

    coefficients: NDArray[Any]
    flags: NDArray[np.uint32]
    pattern: NDArray[np.uint16]


class _Estimator(NamedTuple):
    """A linear estimate c = gain y + offset and what is known of its errors.

    ``gain`` (d, n), zero where an observation is not used; ``offset`` (d,), m3 m-3; ``metric`` (d, d), in which a profile that
    breaks a bound is moved, and ``covariance`` (d, d) of the posterior, both m6 m-6.
    """

    gain: Array
    offset: Array
    metric: Array
    covariance: Array


class _Expected(NamedTuple):
    """What is expected of a cell's profile once its time means are known: ``profile`` (d,) and its ``covariance`` (d, d)."""

    profile: Array
    covariance: Array


class _Work(NamedTuple):
    """Scratch: ``matrix`` and ``rows`` (max(n, d), max(n, d)); ``used`` (n,), the places of the observations that are used."""

    matrix: Array
    rows: Array
    used: NDArray[np.int64]


@njit(cache=True, nogil=True, error_model="numpy")
def _cholesky(matrix: Array, n: int) -> bool:
    """Lower factor in place; False where the matrix is not positive definite."""
    for j in range(n):
        total = matrix[j, j]
        for k in range(j):
            total -= matrix[j, k] * matrix[j, k]
        if not total > 0.0:
            return False
        pivot = np.sqrt(total)
        matrix[j, j] = pivot
        for i in range(j + 1, n):
            total = matrix[i, j]
            for k in range(j):
                total -= matrix[i, k] * matrix[j, k]
            matrix[i, j] = total / pivot
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def _solve_rows(factor: Array, n: int, rows: Array, count: int) -> None:
    """Replace each of the first ``count`` rows b by the solution of (L L') x = b."""
    for r in range(count):
        for i in range(n):
            total = rows[r, i]
            for k in range(i):
                total -= factor[i, k] * rows[r, k]
            rows[r, i] = total / factor[i, i]
        for i in range(n - 1, -1, -1):
            total = rows[r, i]
            for k in range(i + 1, n):
                total -= factor[k, i] * rows[r, k]
            rows[r, i] = total / factor[i, i]


@njit(cache=True, nogil=True, error_model="numpy")
def _new_work(n: int, d: int) -> _Work:
    size = max(n, d)
    return _Work(np.empty((size, size)), np.empty((size, size)), np.empty(n, np.int64))


@njit(cache=True, nogil=True, error_model="numpy")
def _new_estimator(n: int, d: int) -> _Estimator:
    return _Estimator(np.empty((d, n)), np.empty(d), np.empty((d, d)), np.empty((d, d)))


@njit(cache=True, nogil=True, error_model="numpy")
def gaussian_gain(
    n_used: int, moments: GaussianMoments, error_variance: Array, correlation: Array, out: _Estimator, work: _Work
) -> bool:
    """Posterior of the coefficients of a zero-mean Gaussian process, given layer means with errors.

    gain = C_cy (C_yy + R)^-1 with R from ``error_variance`` (n,) and ``correlation[0]``; the covariance then counts
    ``correlation[1]``: C_cc - gain C_cy' + gain (R_1 - R) gain' (Tarantola 2005, doi 10.1137/1.9780898717921, 3.2). The first
    ``n_used`` of ``work.used`` are used. False where C_yy + R is not positive definite.
    """
    used, matrix, rows, gain, covariance = work.used, work.matrix, work.rows, out.gain, out.covariance
    layer, cross = moments.layer_covariance, moments.cross_covariance
    d = cross.shape[0]
    for a in range(n_used):
        for b in range(n_used):
            i, j = used[a], used[b]
            matrix[a, b] = layer[i, j] + correlation[0, i, j] * np.sqrt(error_variance[i] * error_variance[j])
    for k in range(d):
        for a in range(n_used):
            rows[k, a] = cross[k, used[a]]
    if not _cholesky(matrix, n_used):
        return False
    _solve_rows(matrix, n_used, rows, d)
    gain[:] = 0.0
    for k in range(d):
        for a in range(n_used):
            gain[k, used[a]] = rows[k, a]
    for k in range(d):
        for m in range(k + 1):
            total = moments.coefficient_covariance[k, m]
            for a in range(n_used):
                total -= rows[k, a] * cross[m, used[a]]
            covariance[k, m] = total
            covariance[m, k] = total
    _add_correlated(used[:n_used], error_variance, correlation, gain, covariance)
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def _add_correlated(used: NDArray[np.int64], error_variance: Array, correlation: Array, gain: Array, covariance: Array) -> None:
    """Add gain (R_1 - R_0) gain', the covariances of errors that the gain does not know of."""
    d = gain.shape[0]
    for a in range(used.size):
        for b in range(used.size):
            i, j = used[a], used[b]
            unknown = correlation[1, i, j] - correlation[0, i, j]
            if unknown != 0.0:
                shared = unknown * np.sqrt(error_variance[i] * error_variance[j])
                for k in range(d):
                    for m in range(d):
                        covariance[k, m] += gain[k, i] * shared * gain[m, j]


@njit(cache=True, nogil=True, error_model="numpy")
def _fitted_degree(n_used: int, design: Array, work: _Work) -> int:
    """The highest degree that the used observations determine, by Gram-Schmidt on the design's columns, degree by degree."""
    used, vectors = work.used, work.matrix
    degree = -1
    for k in range(design.shape[1]):
        norm = 0.0
        for a in range(n_used):
            vectors[k, a] = design[used[a], k]
            norm += vectors[k, a] ** 2
        for _ in range(2):
            for m in range(k):
                dot = 0.0
                for a in range(n_used):
                    dot += vectors[m, a] * vectors[k, a]
                for a in range(n_used):
                    vectors[k, a] -= dot * vectors[m, a]
        left = 0.0
        for a in range(n_used):
            left += vectors[k, a] ** 2
        if not left > _RANK_TOLERANCE**2 * max(norm, 1e-30) or k >= n_used:
            break
        for a in range(n_used):
            vectors[k, a] /= np.sqrt(left)
        degree = k
    return degree


@njit(cache=True, nogil=True, error_model="numpy")
def least_squares_gain(
    n_used: int, setting: Setting, error_variance: Array, bias_variance: Array, out: _Estimator, work: _Work
) -> int:
    """Weighted least squares of the highest degree that the observations determine; returns that degree, or -1.

    ``out.metric`` = (A' W A)^-1 is the covariance for independent errors; ``out.covariance`` adds the correlation within
    products and the bias. The first ``n_used`` of ``work.used`` are used.
    """
    used, matrix, rows = work.used, work.matrix, work.rows
    gain, metric, covariance = out.gain, out.metric, out.covariance
    design, correlation = setting.design, setting.correlation
    degree = _fitted_degree(n_used, design, work)
    m = degree + 1
    gain[:] = 0.0
    metric[:] = 0.0
    covariance[:] = 0.0
    # Independent errors make the normal matrix small; its columns are orthogonal polynomials, so it is well conditioned.
    for i in range(m):
        for j in range(m):
            total = 0.0
            for a in range(n_used):
                total += design[used[a], i] * design[used[a], j] / error_variance[used[a]]
            matrix[i, j] = total
    if not _cholesky(matrix, m):
        return -1
    for i in range(m):
        for j in range(m):
            rows[i, j] = 1.0 if i == j else 0.0
    _solve_rows(matrix, m, rows, m)
    for i in range(m):
        for j in range(m):
            metric[i, j] = rows[i, j]
            covariance[i, j] = rows[i, j]
        for a in range(n_used):
            total = 0.0
            for j in range(m):
                total += rows[i, j] * design[used[a], j]
            gain[i, used[a]] = total / error_variance[used[a]]
    _add_correlated(used[:n_used], error_variance, correlation, gain, covariance)
    for i in range(m):
        for j in range(m):
            for a in range(n_used):
                for b in range(n_used):
                    p, q = used[a], used[b]
                    shared = correlation[1, p, q] if p != q else 1.0
                    if shared != 0.0:
                        covariance[i, j] += gain[i, p] * shared * np.sqrt(bias_variance[p] * bias_variance[q]) * gain[j, q]
    return degree


@njit(cache=True, nogil=True, error_model="numpy")
def _expect(
    cell: int,
    level: float,
    setting: Setting,
    errors: CellErrors,
    expected: _Expected,
    spare: _Estimator,
    work: _Work,
) -> None:
    """What is expected of a cell's profile: a uniform one of this level, moved by the products' time means.

    Under the prior of time means the products' means are observations whose errors are the biases.
    """
    n, d = setting.design.shape
    profile, covariance = expected.profile, expected.covariance
    covariance[:] = 0.0
    profile[:] = 0.0
    profile[0] = level
    if setting.method != MAP or not setting.two_scales:
        return
    bias, mean = errors.bias_variance[cell], errors.mean[cell]
    n_used = 0
    for i in range(n):
        if np.isfinite(errors.error_variance[cell, i]) and np.isfinite(bias[i]) and np.isfinite(mean[i]):
            work.used[n_used] = i
            n_used += 1
    if n_used == 0:
        return
    gain = spare.gain
    found = _Estimator(gain, spare.offset, spare.metric, covariance)
    if not gaussian_gain(n_used, setting.means, bias, setting.bias_correlation, found, work):
        return
    for k in range(d):
        for a in range(n_used):
            profile[k] += gain[k, work.used[a]] * (mean[work.used[a]] - level)


@njit(cache=True, nogil=True, error_model="numpy")
def _usable(cell: int, errors: CellErrors) -> int:
    """Bit mask of the observations that a cell's error model can use."""
    usable = 0
    for i in range(errors.error_variance.shape[1]):
        if np.isfinite(errors.error_variance[cell, i]):
            usable |= 1 << i
    return usable


@njit(cache=True, nogil=True, error_model="numpy")
def cell_matrices(
    code: int, cell: int, setting: Setting, errors: CellErrors, expected: _Expected, out: _Estimator, work: _Work
) -> int:
    """The estimator for one pattern of one cell; returns the degree reached, or -1.

    ``code``: bit mask of the available observations, all of them usable.
    """
    n, d = setting.design.shape
    n_used = 0
    for i in range(n):
        if code >> i & 1:
            work.used[n_used] = i
            n_used += 1
    if n_used == 0:
        out.gain[:] = 0.0
        out.offset[:] = np.nan
        out.covariance[:] = np.nan
        out.metric[:] = np.nan
        return -1
    error_variance, mean = errors.error_variance[cell], errors.mean[cell]
    if setting.method == MAP:
        kind = errors.damping[cell]
        moments = GaussianMoments(
            setting.anomalies.layer_covariance[kind],
            setting.anomalies.cross_covariance[kind],
            setting.anomalies.coefficient_covariance[kind],
        )
        if not gaussian_gain(n_used, moments, error_variance, setting.correlation, out, work):
            return -1
        for k in range(d):
            total = expected.profile[k]
            for a in range(n_used):
                total -= out.gain[k, work.used[a]] * mean[work.used[a]]
            out.offset[k] = total
            for m in range(d):
                out.covariance[k, m] += expected.covariance[k, m]
        out.metric[:] = out.covariance
        return int(d - 1)
    out.offset[:] = 0.0
    degree: int = least_squares_gain(n_used, setting, error_variance, errors.bias_variance[cell], out, work)
    return degree


@njit(cache=True, nogil=True, error_model="numpy")
def gather(series: NDArray[Any], observed: NDArray[Any]) -> None:
    """Copy (cell, time, layer) from and to any strides, outside of the interpreter's lock."""
    for c in range(series.shape[0]):
        for t in range(series.shape[1]):
            for i in range(series.shape[2]):
                observed[c, t, i] = series[c, t, i]


@njit(cache=True, nogil=True, error_model="numpy")
def invert_cells(
    observed: NDArray[Any], setting: Setting, errors: CellErrors, limits: CellLimits, patterns: Patterns, out: Profiles
) -> int:
    """Invert a block of cells; returns the number of patterns that are known afterwards, or NO_ROOM.

    ``observed`` (cell, time, n), m3 m-3, NaN where missing. With a new pattern that ``patterns`` has no room for, a block that
    may extend them ends at once: its outputs are not complete.
    """
    cells, days, n = observed.shape
    d = setting.design.shape[1]
    work, current, expected = _new_work(n, d), _new_estimator(n, d), _Expected(np.empty(d), np.zeros((d, d)))
    control, product, known, n_known = setting.control, setting.product, patterns.known, patterns.n_known
    # One table row an observation, so that the inner loop over degrees runs along contiguous memory.
    gains = np.empty((_KEPT, n, d))
    offsets, metrics = np.empty((_KEPT, d)), np.empty((_KEPT, d, d))
    flags, degrees, positions = np.empty(_KEPT, np.uint32), np.empty(_KEPT, np.int64), np.empty(_KEPT, np.int64)
    codes, slots = np.empty(_TABLE, np.int64), np.empty(_TABLE, np.int64)
    c, _points, free, free_metric = np.empty(d), np.empty(d), np.empty(d), np.empty((d, d))
    bound_work = scratch()
    size_of = np.zeros(64, np.int64)
    for i in range(n):
        size_of[product[i]] += 1
    for cell in range(cells):
        _expect(cell, limits.prior_mean[cell], setting, errors, expected, current, work)
        usable = _usable(cell, errors)
        standing = 0
        for i in range(n):
            # What has no vote on the time mean makes no profile by itself.
            if usable >> i & 1 and np.isfinite(errors.bias_variance[cell, i]):
                standing |= 1 << i
        codes[:] = -1
        kept = 0
        last_code, last = -1, 0
        lower, upper = limits.low[cell], limits.high[cell]
        for t in range(days):
            code = 0
            for i in range(n):
                if np.isfinite(observed[cell, t, i]):
                    code |= 1 << i
            code &= usable
            if not code & standing:
                code = 0
            if code != last_code:
                at = (code ^ (code >> 7) ^ (code >> 15)) % _TABLE
                while codes[at] != -1 and codes[at] != code:
                    at = (at + 1) % _TABLE
                if codes[at] == -1:
                    if kept == _KEPT:
                        codes[:] = -1
                        kept = 0
                        at = (code ^ (code >> 7) ^ (code >> 15)) % _TABLE
                    codes[at], slots[at] = code, kept
                    made = _Estimator(current.gain, offsets[kept], metrics[kept], current.covariance)
                    degrees[kept] = cell_matrices(code, cell, setting, errors, expected, made, work)
                    for i in range(n):
                        for k in range(d):
                            gains[kept, i, k] = current.gain[k, i]
                    flags[kept] = _describe(code, d, degrees[kept], product, size_of, errors.fallback[cell])
                    positions[kept] = largest_known(code, usable, known[:n_known])
                    found = positions[kept] >= 0 and known[positions[kept]] & usable == code
                    if not found and patterns.may_extend:
                        if n_known == known.size:
                            return NO_ROOM
                        positions[kept] = n_known
                        known[n_known] = code
                        n_known += 1
                    elif not found:
                        flags[kept] |= SUBSET_COVARIANCE
                    kept += 1
                last_code, last = code, slots[at]
            flag = flags[last]
            out.pattern[cell, t] = positions[last]
            if degrees[last] < 0:
                for k in range(d):
                    out.coefficients[cell, t, k] = np.nan
                out.flags[cell, t] = flag
                continue
            for k in range(d):
                c[k] = offsets[last, k]
            for i in range(n):
                value = np.float64(observed[cell, t, i]) if code >> i & 1 else 0.0
                for k in range(d):
                    c[k] += gains[last, i, k] * value
            # |P_k| <= 1: most profiles are seen to keep their bounds without looking at any depth.
            reach = 0.0
            for k in range(1, d):
                reach += abs(c[k])
            if c[0] - reach < lower or c[0] + reach > upper:
                inside = True
                for j in range(d):
                    total = 0.0
                    for k in range(d):
                        total += control[j, k] * c[k]
                    if total < lower or total > upper:
                        inside = False
                if not inside:
                    m = degrees[last] + 1
                    if m == d:
                        sides = project_onto_bounds(c, metrics[last], lower, upper, bound_work)
                    else:
                        free, free_metric = c[:m].copy(), metrics[last, :m, :m].copy()
                        sides = project_onto_bounds(free, free_metric, lower, upper, bound_work)
                        c[:m] = free
                    if sides & 1:
                        flag |= AT_LOWER_BOUND
                    if sides & 2:
                        flag |= AT_UPPER_BOUND
            for k in range(d):
                out.coefficients[cell, t, k] = c[k]
            out.flags[cell, t] = flag
    return n_known


@njit(cache=True, nogil=True, error_model="numpy")
def cell_covariances(setting: Setting, errors: CellErrors, known: NDArray[np.int64], out: NDArray[Any]) -> None:
    """Posterior covariance of the coefficients for each cell and known pattern; ``out`` (cell, pattern, d, d), m6 m-6."""
    n, d = setting.design.shape
    work, current, expected = _new_work(n, d), _new_estimator(n, d), _Expected(np.empty(d), np.zeros((d, d)))
    for cell in range(errors.error_variance.shape[0]):
        # The level moves the profile alone.
        _expect(cell, 0.0, setting, errors, expected, current, work)
        usable = _usable(cell, errors)
        for p in range(known.size):
            cell_matrices(known[p] & usable, cell, setting, errors, expected, current, work)
            for k in range(d):
                for m in range(d):
                    out[cell, p, k, m] = current.covariance[k, m]


@njit(cache=True, nogil=True)
def _describe(
    code: int, d: int, degree: int, product: NDArray[np.int64], size_of: NDArray[np.int64], fallback: NDArray[np.bool_]
) -> int:
    """Flags that follow from the pattern alone: what was used, and how well it is known."""
    if degree < 0:
        return NO_OBSERVATION
    flag = 0
    if degree < d - 1:
        flag |= LOWER_ORDER
    there = np.zeros(64, np.int64)
    for i in range(product.size):
        if code >> i & 1:
            there[product[i]] += 1
            if fallback[i]:
                flag |= FALLBACK_ERRORS
    for p in range(64):
        if there[p] > 0:
            if FIRST_PRODUCT_BIT + p < 32:
                flag |= 1 << (FIRST_PRODUCT_BIT + p)
            if there[p] < size_of[p]:
                flag |= PARTIAL_PRODUCT
    return flag


@njit(cache=True, nogil=True)
def largest_known(code: int, usable: int, known: NDArray[np.int64]) -> int:
    """Position of a pattern among the known ones; of one that is not known, that of its largest known part, or -1."""
    best, most = -1, -1
    for p in range(known.size):
        here = known[p] & usable
        if here == code:
            return p
        if here & ~code == 0:
            bits, left = 0, here
            while left:
                bits += left & 1
                left >>= 1
            if bits > most:
                best, most = p, bits
    return best
