"""Compiled loops of the inversion: matrices once per cell and pattern of available observations, then one product a day.

For fixed available observations the estimate is linear, c = G y + b, so G, b and the posterior covariance are made once and
kept. Only profiles that break a bound need more. The kernels release the interpreter lock.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from deepprofile.core.bounds import project_onto_bounds, scratch

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

# What ``invert_cells`` returns where a block has more patterns than the list holds.
NO_ROOM: Final = -1

# Patterns whose matrices one cell keeps at a time; beyond that they are made again.
_KEPT: Final = 64
_TABLE: Final = 256
_RANK_TOLERANCE: Final = 1e-6


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
def gaussian_gain(
    used: NDArray[np.int64],
    n_used: int,
    layers: Array,
    cross: Array,
    coefficients: Array,
    error: Array,
    correlation: Array,
    gain: Array,
    covariance: Array,
    work: Array,
    rows: Array,
) -> bool:
    """Posterior of the coefficients of a zero-mean Gaussian process, given layer means with errors.

    gain = C_cy (C_yy + R)^-1 with R from the variances ``error`` and the correlations ``correlation[0]``; the covariance then
    counts those of ``correlation[1]``: C_cc - gain C_cy' + gain (R_1 - R) gain'. ``gain`` (d, n) has zeros where an
    observation is not used.
    """
    d = cross.shape[0]
    for a in range(n_used):
        for b in range(n_used):
            i, j = used[a], used[b]
            work[a, b] = layers[i, j] + correlation[0, i, j] * np.sqrt(error[i] * error[j])
    for k in range(d):
        for a in range(n_used):
            rows[k, a] = cross[k, used[a]]
    if not _cholesky(work, n_used):
        return False
    _solve_rows(work, n_used, rows, d)
    gain[:] = 0.0
    for k in range(d):
        for a in range(n_used):
            gain[k, used[a]] = rows[k, a]
    for k in range(d):
        for m in range(k + 1):
            total = coefficients[k, m]
            for a in range(n_used):
                total -= rows[k, a] * cross[m, used[a]]
            covariance[k, m] = total
            covariance[m, k] = total
    _add_correlated(used, n_used, error, correlation, gain, covariance)
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def _add_correlated(
    used: NDArray[np.int64], n_used: int, error: Array, correlation: Array, gain: Array, covariance: Array
) -> None:
    """Add gain (R_1 - R_0) gain', the covariances of errors that the gain does not know of."""
    d = gain.shape[0]
    for a in range(n_used):
        for b in range(n_used):
            i, j = used[a], used[b]
            unknown = correlation[1, i, j] - correlation[0, i, j]
            if unknown != 0.0:
                shared = unknown * np.sqrt(error[i] * error[j])
                for k in range(d):
                    for m in range(d):
                        covariance[k, m] += gain[k, i] * shared * gain[m, j]


@njit(cache=True, nogil=True, error_model="numpy")
def least_squares_gain(
    used: NDArray[np.int64],
    n_used: int,
    design: Array,
    error: Array,
    bias: Array,
    correlation: Array,
    gain: Array,
    metric: Array,
    covariance: Array,
    work: Array,
    rows: Array,
) -> int:
    """Weighted least squares of the highest degree that the observations determine; returns that degree.

    ``metric`` = (A' W A)^-1 is the covariance for independent errors; ``covariance`` adds the correlation within products and
    the bias.
    """
    d = design.shape[1]
    # Rank by Gram-Schmidt on the columns of the design, degree by degree.
    degree = -1
    for k in range(d):
        norm = 0.0
        for a in range(n_used):
            work[k, a] = design[used[a], k]
            norm += work[k, a] ** 2
        for _ in range(2):
            for m in range(k):
                dot = 0.0
                for a in range(n_used):
                    dot += work[m, a] * work[k, a]
                for a in range(n_used):
                    work[k, a] -= dot * work[m, a]
        left = 0.0
        for a in range(n_used):
            left += work[k, a] ** 2
        if not left > _RANK_TOLERANCE**2 * max(norm, 1e-30) or k >= n_used:
            break
        for a in range(n_used):
            work[k, a] /= np.sqrt(left)
        degree = k
    m = degree + 1
    gain[:] = 0.0
    metric[:] = 0.0
    covariance[:] = 0.0
    # Independent errors make the normal matrix small; its columns are orthogonal polynomials, so it is well conditioned.
    for i in range(m):
        for j in range(m):
            total = 0.0
            for a in range(n_used):
                total += design[used[a], i] * design[used[a], j] / error[used[a]]
            work[i, j] = total
    if not _cholesky(work, m):
        return -1
    for i in range(m):
        for j in range(m):
            rows[i, j] = 1.0 if i == j else 0.0
    _solve_rows(work, m, rows, m)
    for i in range(m):
        for j in range(m):
            metric[i, j] = rows[i, j]
            covariance[i, j] = rows[i, j]
        for a in range(n_used):
            total = 0.0
            for j in range(m):
                total += rows[i, j] * design[used[a], j]
            gain[i, used[a]] = total / error[used[a]]
    _add_correlated(used, n_used, error, correlation, gain, covariance)
    for i in range(m):
        for j in range(m):
            for a in range(n_used):
                for b in range(n_used):
                    p, q = used[a], used[b]
                    shared = correlation[1, p, q] if p != q else 1.0
                    if shared != 0.0:
                        covariance[i, j] += gain[i, p] * shared * np.sqrt(bias[p] * bias[q]) * gain[j, q]
    return degree


@njit(cache=True, nogil=True, error_model="numpy")
def cell_matrices(
    code: int,
    method: int,
    design: Array,
    layers: Array,
    cross: Array,
    coefficients: Array,
    error: Array,
    bias: Array,
    correlation: Array,
    mean: Array,
    mean_profile: Array,
    mean_covariance: Array,
    gain: Array,
    offset: Array,
    metric: Array,
    covariance: Array,
    work: Array,
    rows: Array,
    used: NDArray[np.int64],
) -> int:
    """Gain, offset, metric and posterior covariance for one pattern of one cell; returns the degree reached, or -1."""
    n, d = design.shape
    n_used = 0
    for i in range(n):
        if code >> i & 1:
            used[n_used] = i
            n_used += 1
    if n_used == 0:
        gain[:] = 0.0
        offset[:] = np.nan
        covariance[:] = np.nan
        metric[:] = np.nan
        return -1
    if method == MAP:
        if not gaussian_gain(used, n_used, layers, cross, coefficients, error, correlation, gain, covariance, work, rows):
            return -1
        for k in range(d):
            total = mean_profile[k]
            for a in range(n_used):
                total -= gain[k, used[a]] * mean[used[a]]
            offset[k] = total
            for m in range(d):
                covariance[k, m] += mean_covariance[k, m]
        metric[:] = covariance
        return int(d - 1)
    offset[:] = 0.0
    degree: int = least_squares_gain(used, n_used, design, error, bias, correlation, gain, metric, covariance, work, rows)
    return degree


@njit(cache=True, nogil=True, error_model="numpy")
def invert_cells(
    observed: NDArray[Any],
    method: int,
    design: Array,
    anomalies: tuple[Array, Array, Array],
    damping: NDArray[np.int64],
    means: tuple[Array, Array, Array],
    error: Array,
    bias: Array,
    correlation: Array,
    bias_correlation: Array,
    mean: Array,
    two_scales: bool,
    prior_mean: Array,
    low: Array,
    high: Array,
    control: Array,
    fallback: NDArray[np.bool_],
    product: NDArray[np.int64],
    listed: NDArray[np.int64],
    n_listed: int,
    growing: bool,
    coefficients_out: NDArray[Any],
    flags_out: NDArray[np.uint32],
    pattern_out: NDArray[np.uint16],
) -> int:
    """Invert a block of cells; returns the number of patterns that are listed afterwards, or NO_ROOM.

    ``observed`` (cell, time, n); ``anomalies``, ``means``: ``PriorModel.moments`` of a day's anomaly, stacked by damping, and
    of the time mean; ``damping`` (cell,): which of the first;
    ``error``, ``bias``, ``mean`` (cell, n); ``listed``: bit masks of patterns, of which the first ``n_listed`` are known; new
    ones are added where it is ``growing``, else a profile is given the largest listed part of its pattern. With a new pattern
    that ``listed`` has no room for, a block that is ``growing`` ends at once: its outputs are not complete.
    """
    cells, days, n = observed.shape
    d = design.shape[1]
    size = max(n, d)
    work, rows, used = np.empty((size, size)), np.empty((size, size)), np.empty(n, np.int64)
    mean_gain, mean_profile, mean_covariance = np.empty((d, n)), np.empty(d), np.zeros((d, d))
    # One table row an observation, so that the inner loop over degrees runs along contiguous memory.
    gains = np.empty((_KEPT, n, d))
    offsets, metrics = np.empty((_KEPT, d)), np.empty((_KEPT, d, d))
    flags, degrees, positions = np.empty(_KEPT, np.uint32), np.empty(_KEPT, np.int64), np.empty(_KEPT, np.int64)
    codes, slots = np.empty(_TABLE, np.int64), np.empty(_TABLE, np.int64)
    gain, covariance = np.empty((d, n)), np.empty((d, d))
    c, _points, free, free_metric = np.empty(d), np.empty(d), np.empty(d), np.empty((d, d))
    bound_work = scratch()
    size_of = np.zeros(64, np.int64)
    for i in range(n):
        size_of[product[i]] += 1
    for cell in range(cells):
        layers, cross, coefs = anomalies[0][damping[cell]], anomalies[1][damping[cell]], anomalies[2][damping[cell]]
        mean_covariance[:] = 0.0
        mean_profile[:] = 0.0
        mean_profile[0] = prior_mean[cell]
        if method == MAP and two_scales:
            _invert_mean(
                cell, means, prior_mean[cell], error, bias, bias_correlation, mean, used, work, rows, mean_gain, mean_profile,
                mean_covariance,
            )  # fmt: skip
        usable, standing = 0, 0
        for i in range(n):
            if np.isfinite(error[cell, i]):
                usable |= 1 << i
                # What has no vote on the time mean makes no profile by itself.
                if np.isfinite(bias[cell, i]):
                    standing |= 1 << i
        codes[:] = -1
        kept = 0
        last_code, last = -1, 0
        lower, upper = low[cell], high[cell]
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
                    degrees[kept] = cell_matrices(
                        code, method, design, layers, cross, coefs, error[cell], bias[cell], correlation, mean[cell],
                        mean_profile, mean_covariance, gain, offsets[kept], metrics[kept], covariance, work, rows, used,
                    )  # fmt: skip
                    for i in range(n):
                        for k in range(d):
                            gains[kept, i, k] = gain[k, i]
                    flags[kept] = _describe(code, n, d, degrees[kept], product, size_of, fallback[cell])
                    positions[kept] = best_listed(code, usable, listed[:n_listed])
                    found = positions[kept] >= 0 and listed[positions[kept]] & usable == code
                    if not found and growing:
                        if n_listed == listed.size:
                            return NO_ROOM
                        positions[kept] = n_listed
                        listed[n_listed] = code
                        n_listed += 1
                    elif not found:
                        flags[kept] |= SUBSET_COVARIANCE
                    kept += 1
                last_code, last = code, slots[at]
            flag = flags[last]
            pattern_out[cell, t] = positions[last]
            if degrees[last] < 0:
                for k in range(d):
                    coefficients_out[cell, t, k] = np.nan
                flags_out[cell, t] = flag
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
                coefficients_out[cell, t, k] = c[k]
            flags_out[cell, t] = flag
    return n_listed


@njit(cache=True, nogil=True, error_model="numpy")
def cell_covariances(
    method: int,
    design: Array,
    anomalies: tuple[Array, Array, Array],
    damping: NDArray[np.int64],
    means: tuple[Array, Array, Array],
    error: Array,
    bias: Array,
    correlation: Array,
    bias_correlation: Array,
    mean: Array,
    two_scales: bool,
    listed: NDArray[np.int64],
    out: NDArray[Any],
) -> None:
    """Posterior covariance of the coefficients for each cell and listed pattern; ``out`` (cell, pattern, d, d)."""
    n, d = design.shape
    size = max(n, d)
    work, rows, used = np.empty((size, size)), np.empty((size, size)), np.empty(n, np.int64)
    mean_gain, mean_profile, mean_covariance = np.empty((d, n)), np.zeros(d), np.zeros((d, d))
    gain, offset, metric, covariance = np.empty((d, n)), np.empty(d), np.empty((d, d)), np.empty((d, d))
    for cell in range(error.shape[0]):
        layers, cross, coefs = anomalies[0][damping[cell]], anomalies[1][damping[cell]], anomalies[2][damping[cell]]
        mean_covariance[:] = 0.0
        if method == MAP and two_scales:
            _invert_mean(
                cell, means, 0.0, error, bias, bias_correlation, mean, used, work, rows, mean_gain, mean_profile,
                mean_covariance,
            )  # fmt: skip
        usable = 0
        for i in range(n):
            if np.isfinite(error[cell, i]):
                usable |= 1 << i
        for p in range(listed.size):
            cell_matrices(
                listed[p] & usable, method, design, layers, cross, coefs, error[cell], bias[cell], correlation, mean[cell],
                mean_profile, mean_covariance, gain, offset, metric, covariance, work, rows, used,
            )  # fmt: skip
            for k in range(d):
                for m in range(d):
                    out[cell, p, k, m] = covariance[k, m]


@njit(cache=True, nogil=True, error_model="numpy")
def _invert_mean(
    cell: int,
    means: tuple[Array, Array, Array],
    level: float,
    error: Array,
    bias: Array,
    correlation: Array,
    mean: Array,
    used: NDArray[np.int64],
    work: Array,
    rows: Array,
    gain: Array,
    profile: Array,
    covariance: Array,
) -> None:
    """Add to ``profile``, what is expected of the time mean, what the products' means say under the biases as errors."""
    d, n = gain.shape
    n_used = 0
    for i in range(n):
        if np.isfinite(error[cell, i]) and np.isfinite(bias[cell, i]) and np.isfinite(mean[cell, i]):
            used[n_used] = i
            n_used += 1
    if n_used == 0:
        return
    layers, cross, coefficients = means
    gaussian_gain(used, n_used, layers, cross, coefficients, bias[cell], correlation, gain, covariance, work, rows)
    for k in range(d):
        for a in range(n_used):
            profile[k] += gain[k, used[a]] * (mean[cell, used[a]] - level)


@njit(cache=True, nogil=True)
def _describe(
    code: int,
    n: int,
    d: int,
    degree: int,
    product: NDArray[np.int64],
    size_of: NDArray[np.int64],
    fallback: NDArray[np.bool_],
) -> int:
    """Flags that follow from the pattern alone: what was used, and how well it is known."""
    if degree < 0:
        return NO_OBSERVATION
    flag = 0
    if degree < d - 1:
        flag |= LOWER_ORDER
    there = np.zeros(64, np.int64)
    for i in range(n):
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
def best_listed(code: int, usable: int, listed: NDArray[np.int64]) -> int:
    """Where a pattern stands in the list; of those that are not listed, the largest listed part of it, or -1."""
    best, most = -1, -1
    for p in range(listed.size):
        here = listed[p] & usable
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
