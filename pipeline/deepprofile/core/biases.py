"""How far the time means of a product are off, from the differences between products alone.

The time means of all layers of all products in one cell are a profile, known to vary smoothly with depth, plus one bias for
each product, much the same at all depths. How large the biases of each product are is a problem of variance components: the
likelihood of the means that a neighbourhood shows, with a log-normal prior on each component, has a maximum, which Fisher
scoring finds (Patterson and Thompson 1971, doi 10.1093/biomet/58.3.545; with a prior, since a neighbourhood has
few independent samples: biases reach over many cells, and those of two products may resemble each other by chance).
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from deepprofile.core.layers import Layout
from deepprofile.core.prior import Kernel, Prior, kernel_covariance

Array = NDArray[np.float64]

# A bias of soils or rain is much the same at all depths, so that a layer with another product beside it speaks for the others.
BIAS_CORRELATION_LENGTH_M: Final = 3.0
# The size of a product's biases before any data is seen, m3 m-3: a median, and the standard deviation of its logarithm.
# Retrievals see the soil itself, and nothing below its first centimetres: they owe their level to no soil map and to no rain.
TYPICAL_BIAS: Final = 0.033
RETRIEVAL_BIAS: Final = 0.02
RETRIEVAL_DEPTH_M: Final = 0.05
LOG_SPREAD: Final = 0.5
SMALLEST_BIAS: Final = 0.005**2
# A neighbourhood is worth its number of cells to this power in independent ones, since biases of soils reach over many cells;
# the first of them is one draw, of which no size can be told.
CELLS_EXPONENT: Final = 0.35
# The level of a cell's profile is as good as unknown.
MIDDLE: Final = 0.25
LEVEL_VARIANCE: Final = 0.1**2
# Time means of the profile: their variance over that of a day's anomalies at the surface, and a correlation length of metres,
# since soils are wet or dry as a whole. Between the stations of SCAN and USCRN the standard deviation of the mean is .09
# (python -m benchmarks.covariance), 1.4 times that of the default prior.
MEAN_SHARE: Final = 2.0
MEAN_KERNEL: Final = Kernel(3.0)
# Standard deviation of the anomalies to which the share refers where no prior is at hand.
_ANOMALIES: Final = Prior().std
_MOST_STEPS: Final = 40
_JITTER: Final = 1e-8
_ROUNDING: Final = 1e-9


def mean_variance(std: float) -> float:
    """Prior variance of the profile of time means, where the anomalies have this standard deviation at the surface."""
    return MEAN_SHARE * std**2


def error_correlation(layout: Layout, length: float, shared: float = 0.0) -> Array:
    """Correlations of errors, (n, n), which decay with the distance of centres; between two products a share is common."""
    centre = 0.5 * (layout.top + layout.bottom)
    same = layout.product_index[:, None] == layout.product_index
    return np.where(same, 1.0, shared) * np.exp(-np.abs(centre[:, None] - centre) / length)


def bias_correlation(layout: Layout, shared: float = 0.0) -> Array:
    """Correlations of biases; (n, n)."""
    return error_correlation(layout, BIAS_CORRELATION_LENGTH_M, shared)


def is_retrieval(layout: Layout) -> NDArray[np.bool_]:
    """Which products see the first centimetres only, (product,): all others are models."""
    deepest = np.zeros(len(layout.products))
    np.maximum.at(deepest, layout.product_index, layout.bottom)
    return deepest <= RETRIEVAL_DEPTH_M + 1e-9


def typical_biases(layout: Layout) -> Array:
    """Size of each product's biases before any data, m3 m-3; (product,)."""
    return np.where(is_retrieval(layout), RETRIEVAL_BIAS, TYPICAL_BIAS)


class _ExpectedMeans(NamedTuple):
    """What is expected of the time means of n observations.

    ``smooth`` (n, n): covariance of the true ones, m6 m-6; ``correlation`` (n, n): of the biases; ``product`` (n,): number of
    the product of each. The logarithms of the products' bias variances have the means ``centre`` (product,) and the inverse
    variance ``precision``.
    """

    smooth: Array
    correlation: Array
    product: NDArray[np.int64]
    centre: Array
    precision: float


def bias_variances(seconds: Array, counts: Array, layout: Layout) -> Array:
    """Mean-square bias of each observation's product, (m3 m-3)^2.

    Parameters
    ----------
    seconds
        Sums over each cell's neighbourhood of products of the departures of time means from ``MIDDLE``; (cell, n, n).
    counts
        Number of cells in each of those sums; (cell, n, n).
    layout
        Of the ``n`` observations.

    Returns
    -------
    (cell, n); the typical size for products that the neighbourhood does not have, and for all where the sums are those of
    different cells and do not fit together.
    """
    smooth = mean_variance(_ANOMALIES) * kernel_covariance(MEAN_KERNEL, layout.top, layout.bottom) + LEVEL_VARIANCE
    out = np.empty(counts.shape[:2])
    expected = _ExpectedMeans(
        smooth,
        bias_correlation(layout),
        layout.product_index,
        2.0 * np.log(typical_biases(layout)),
        (2.0 * LOG_SPREAD) ** -2,
    )
    _components(np.ascontiguousarray(seconds), np.ascontiguousarray(counts), expected, CELLS_EXPONENT, out)
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def _components(seconds: Array, counts: Array, expected: _ExpectedMeans, exponent: float, out: Array) -> None:
    """``bias_variances`` of each cell; a neighbourhood of N cells counts as N to the power of ``exponent`` samples."""
    cells, n = counts.shape[0], counts.shape[1]
    smooth, correlation, product = expected.smooth, expected.correlation, expected.product
    for cell in range(cells):
        # One neighbourhood may serve many cells.
        if cell and (counts[cell] == counts[cell - 1]).all() and (seconds[cell] == seconds[cell - 1]).all():
            out[cell] = out[cell - 1]
            continue
        number = 0.0
        size = 0
        used = np.empty(n, np.int64)
        for i in range(n):
            if counts[cell, i, i] > 0.0:
                used[size] = i
                size += 1
                number = max(number, counts[cell, i, i])
        used = used[:size]
        second, known, related = np.empty((size, size)), np.empty((size, size)), np.empty((size, size))
        for a in range(size):
            for b in range(size):
                i, j = used[a], used[b]
                known[a, b], related[a, b] = smooth[i, j], correlation[i, j]
                # A pair that never meets says nothing: it is put where the prior expects it.
                met = counts[cell, i, j] > 0.0
                second[a, b] = seconds[cell, i, j] / counts[cell, i, j] if met else smooth[i, j]
        value = expected.centre
        # Means over different cells need not be moments of anything; the likelihood then has no maximum.
        if size and _is_definite(second, _ROUNDING):
            of_used = _ExpectedMeans(known, related, product[used], expected.centre, expected.precision)
            value = _maximise(second, number**exponent - 1.0, of_used)
        for i in range(n):
            out[cell, i] = max(np.exp(value[product[i]]), SMALLEST_BIAS)


@njit(cache=True, nogil=True, error_model="numpy")
def _maximise(second: Array, samples: float, means: _ExpectedMeans) -> Array:
    """Logarithms of the products' bias variances at the maximum of the posterior; (product,).

    ``second`` (n, n): mean products of the departures of time means, m6 m-6, from so many ``samples``. By Fisher scoring.
    """
    smooth, correlation, product = means.smooth, means.correlation, means.product
    centre, precision = means.centre, means.precision
    n, products = product.size, centre.size
    # The layers of a product follow one another.
    first, stop = np.zeros(products, np.int64), np.zeros(products, np.int64)
    for a in range(n - 1, -1, -1):
        first[product[a]] = a
    for a in range(n):
        stop[product[a]] = a + 1
    value = centre.copy()
    covariance, inverse, explained = np.empty((n, n)), np.empty((n, n)), np.empty((n, n))
    # By what the inverse turns each product's part: columns of that product's layers, all others are 0.
    slopes = np.zeros((n, n))
    gradient, step = np.empty(products), np.empty(products)
    information, spread = np.empty((products, products)), np.empty((products, products))
    for _ in range(_MOST_STEPS):
        variance = np.exp(value)
        for a in range(n):
            for b in range(n):
                covariance[a, b] = smooth[a, b]
            for b in range(first[product[a]], stop[product[a]]):
                # The derivative of the covariance by the logarithm of the variance is the part itself.
                covariance[a, b] += variance[product[a]] * correlation[a, b]
            covariance[a, a] += _JITTER
        _invert_definite(covariance, inverse)
        _multiply(inverse, second, explained)
        for p in range(products):
            for a in range(n):
                for b in range(first[p], stop[p]):
                    total = 0.0
                    for c in range(first[p], stop[p]):
                        total += inverse[a, c] * correlation[c, b]
                    slopes[a, b] = variance[p] * total
        for p in range(products):
            expected, seen = 0.0, 0.0
            for b in range(first[p], stop[p]):
                expected += slopes[b, b]
                for a in range(n):
                    seen += slopes[a, b] * explained[b, a]
            gradient[p] = 0.5 * samples * (seen - expected) - precision * (value[p] - centre[p])
            for q in range(products):
                total = 0.0
                for a in range(first[q], stop[q]):
                    for b in range(first[p], stop[p]):
                        total += slopes[a, b] * slopes[b, a]
                information[p, q] = 0.5 * samples * total + (precision if p == q else 0.0)
        _invert_definite(information, spread)
        largest = 0.0
        for p in range(products):
            step[p] = 0.0
            for q in range(products):
                step[p] += spread[p, q] * gradient[q]
            largest = max(largest, abs(step[p]))
        for p in range(products):
            value[p] += step[p] * min(1.0, 1.0 / max(largest, 1e-300))
        if largest < 1e-6:
            break
    return value


@njit(cache=True, nogil=True, error_model="numpy")
def _multiply(one: Array, other: Array, out: Array) -> None:
    """The product of two small square matrices: a call of BLAS costs more than the arithmetic."""
    n = len(one)
    for a in range(n):
        for b in range(n):
            out[a, b] = 0.0
        for c in range(n):
            for b in range(n):
                out[a, b] += one[a, c] * other[c, b]


@njit(cache=True, nogil=True, error_model="numpy")
def _is_definite(matrix: Array, share: float) -> bool:
    """Whether no eigenvalue of a symmetric matrix is below 0 by more than this share of their sum."""
    n = len(matrix)
    shifted, factor = matrix.copy(), np.empty((n, n))
    for a in range(n):
        shifted[a, a] += share * np.trace(matrix)
    return _factorise(shifted, factor)


@njit(cache=True, nogil=True, error_model="numpy")
def _factorise(matrix: Array, factor: Array) -> bool:
    """Put the lower Cholesky factor of a matrix into ``factor``; False where the matrix is not positive definite."""
    n = len(matrix)
    for a in range(n):
        for b in range(a + 1):
            total = matrix[a, b]
            for c in range(b):
                total -= factor[a, c] * factor[b, c]
            if a != b:
                factor[a, b] = total / factor[b, b]
            elif total > 0.0:
                factor[a, a] = np.sqrt(total)
            else:
                return False
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def _invert_definite(matrix: Array, out: Array) -> None:
    """Put the inverse of a positive definite matrix into ``out``."""
    n = len(matrix)
    factor = np.empty((n, n))
    _factorise(matrix, factor)
    # The inverse of the factor in its place, and its product with itself.
    for b in range(n):
        factor[b, b] = 1.0 / factor[b, b]
        for a in range(b + 1, n):
            total = 0.0
            for c in range(b, a):
                total -= factor[a, c] * factor[c, b]
            factor[a, b] = total / factor[a, a]
    for a in range(n):
        for b in range(a + 1):
            total = 0.0
            for c in range(a, n):
                total += factor[c, a] * factor[c, b]
            out[a, b] = total
            out[b, a] = total
