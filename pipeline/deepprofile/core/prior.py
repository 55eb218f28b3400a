"""The Gaussian prior on theta(z) and its projection onto the basis.

The covariance is that of measured profiles: a process without memory in depth, whose variance fades and whose correlation
length grows with depth. A sample of it is theta(z) = sum_k c_k P_k(z) + r(z): the projection onto the basis and a remainder
that the basis cannot express. Both are kept: observations respond to c and to r.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from deepprofile.core.basis import basis_at, basis_mean

Array = NDArray[np.float64]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)
# Layers thinner than this are points.
POINT: Final = 1e-9
# Daily anomalies at the sensors of SCAN and USCRN: share of the surface's variance that is left at depth, the depth over which
# the rest fades, and by how much the correlation length grows with depth, m per m. Of eight families with two to six parameters
# this one has the largest likelihood at stations that it was not fitted to (python -m benchmarks.covariance).
DEEP_SHARE: Final = 0.43
FADE_M: Final = 0.07
LENGTH_GROWTH: Final = 1.2
# Over this depth a prior is damped where a cell varies less below than soils do; in Hawaii 0.3 to 0.7 m do alike.
DAMPING_M: Final = 0.5
# Where the polynomial agrees with the profile, m: in the layer that satellites see, and at 1 m. Least squares alone ring at the
# ends.
EXACT_TOP: Final = (0.0, 1.0)
EXACT_BOTTOM: Final = (0.05, 1.0)


@dataclass(frozen=True)
class Kernel:
    """A vertical covariance, of unit variance at the surface.

    The variance at depth z is deep + (1 - deep) exp(-z / fade). The correlation of two depths decays at each depth z over a
    length of length + growth z: it is ((z + b) / (z' + b))^(1 / growth) for z < z' and b = length / growth, and
    exp(-|z - z'| / length) without growth (Rasmussen and Williams 2006, Gaussian Processes for Machine Learning, eq. 4.18 with
    nu = 1/2). Values at depth z are multiplied by exp(-damping (1 - exp(-z / 0.5 m))). Lengths in m.
    """

    length: float
    growth: float = 0.0
    deep: float = 1.0
    fade: float = 1.0
    damping: float = 0.0

    def __call__(self, first: Array, second: Array) -> Array:
        """Covariance of the values at two depths, m, which are broadcast."""
        low, high = np.minimum(first, second), np.maximum(first, second)
        if self.growth > 0.0:
            offset = self.length / self.growth
            correlation = ((low + offset) / (high + offset)) ** (1.0 / self.growth)
        else:
            correlation = np.exp((low - high) / self.length)
        if self.deep == 1.0 and self.damping == 0.0:
            return np.asarray(correlation)
        return np.asarray(correlation * np.sqrt(self._variance(first) * self._variance(second)))

    def _variance(self, depth: Array) -> Array:
        variance = self.deep + (1.0 - self.deep) * np.exp(-depth / self.fade)
        return np.asarray(variance * np.exp(-2.0 * self.damping * (1.0 - np.exp(-depth / DAMPING_M))))


@dataclass(frozen=True)
class Prior:
    """Gaussian prior on the profile.

    Parameters
    ----------
    mean
        Of theta at every depth, m3 m-3: a number, or an array over the cells. None: the error-weighted time mean of the
        products.
    std
        Standard deviation of a day's theta about that mean at the surface, m3 m-3; at depth it is two thirds of this. The
        default has 0.6 of the variance of sensors, whose standard deviation is .085: a cell varies less than a point, and
        what models share without being true would pass for signal under more.
    correlation_length
        Of the vertical correlation at the surface, m; it grows by 1.2 m in a metre.

    Raises
    ------
    ValueError
        For a standard deviation or length that is not positive, or a mean outside [0, 1].
    """

    mean: float | xr.DataArray | None = field(default=None)
    std: float = 0.065
    correlation_length: float = 0.45

    def __post_init__(self) -> None:
        for name in ("std", "correlation_length"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0.0):
                raise ValueError(f"Prior({name}={value!r}): it has to be a positive number")
        if isinstance(self.mean, int | float) and not 0.0 <= self.mean <= 1.0:
            raise ValueError(f"Prior(mean={self.mean!r}): a volumetric soil moisture lies between 0 and 1 m3 m-3")

    @property
    def kernel(self) -> Kernel:
        """The vertical covariance over ``std`` squared."""
        return soil_kernel(self.correlation_length)


def soil_kernel(correlation_length: float) -> Kernel:
    """The vertical covariance of soils with this correlation length at the surface, m."""
    return Kernel(correlation_length, LENGTH_GROWTH, DEEP_SHARE, FADE_M)


class GaussianMoments(NamedTuple):
    """Second moments of a zero-mean Gaussian process for a basis of d functions and n layers, m6 m-6.

    Attributes
    ----------
    layer_covariance
        Of the layer means, remainder included; shape (n, n).
    cross_covariance
        Of the projection on the basis with the layer means; shape (d, n).
    coefficient_covariance
        Of the projection; shape (d, d).
    """

    layer_covariance: Array
    cross_covariance: Array
    coefficient_covariance: Array

    def scaled(self, variance: float) -> GaussianMoments:
        """The same for a process of this variance."""
        return GaussianMoments(*(variance * part for part in self))


def _key(values: Array) -> tuple[float, ...]:
    return tuple(float(v) for v in np.atleast_1d(values))


def prior_moments(kernel: Kernel, top: Array, bottom: Array, order: int) -> GaussianMoments:
    """Moments of a kernel for layer means (m; layers without thickness are points) and a basis of this order."""
    return _prior_moments(kernel, _key(top), _key(bottom), order)


@lru_cache(maxsize=256)
def _prior_moments(kernel: Kernel, top: tuple[float, ...], bottom: tuple[float, ...], order: int) -> GaussianMoments:
    count = len(top)
    top, bottom = (*top, *EXACT_TOP), (*bottom, *EXACT_BOTTOM)
    edges = np.array(sorted({*top, *bottom}))
    norm = 2.0 * np.arange(order + 1) + 1.0
    depth, weight = _panels(0.0, 1.0, edges)
    smoothed = _smoothed(kernel, depth, order, top, bottom)
    coefficients = norm[:, None] * np.einsum("q,qk,ql->kl", weight, basis_at(depth, order), smoothed[:, : order + 1] * norm)
    cross = norm[:, None] * np.einsum("q,qk,qn->kn", weight, basis_at(depth, order), smoothed[:, order + 1 :])
    layers = np.empty((len(top), len(top)))
    for i, (a, b) in enumerate(zip(top, bottom, strict=True)):
        if b - a < POINT:
            layers[i] = _smoothed(kernel, np.array([a]), order, top, bottom)[0, order + 1 :]
        else:
            node, w = _panels(a, b, edges)
            layers[i] = w @ _smoothed(kernel, node, order, top, bottom)[:, order + 1 :] / (b - a)
    kept, moved = end_correction(order)
    with_ends = kept @ cross + moved @ layers[count:]
    coefficients = kept @ coefficients @ kept.T + kept @ cross[:, count:] @ moved.T + moved @ with_ends[:, count:].T
    of_layers = 0.5 * (layers + layers.T)[:count, :count]
    moments = GaussianMoments(of_layers, with_ends[:, :count], 0.5 * (coefficients + coefficients.T))
    for part in moments:
        part.flags.writeable = False
    return moments


def end_correction(order: int) -> tuple[Array, Array]:
    """How coefficients of least squares become those of a polynomial that is exact at both ends.

    Of all polynomials that agree with the profile in the means over the layers of ``EXACT_TOP`` and ``EXACT_BOTTOM``, this is
    the one nearest to it in the mean square: with E the basis over these layers and N = diag(2 k + 1), it has the coefficients
    c + N E' (E N E')^-1 (y - E c). Returns what multiplies the coefficients, (d, d), and the means, (d, 2). A constant cannot
    meet two ends, and stays as it is.
    """
    if order == 0:
        return np.eye(1), np.zeros((1, 2))
    ends = basis_mean(np.array(EXACT_TOP), np.array(EXACT_BOTTOM), order)
    along = (2.0 * np.arange(order + 1)[:, None] + 1.0) * ends.T
    moved = along @ np.linalg.inv(ends @ along)
    return np.eye(order + 1) - moved @ ends, moved


def kernel_covariance(kernel: Kernel, top: Array, bottom: Array) -> Array:
    """Covariance of layer means (m) under a kernel of unit variance; shape (n, n)."""
    return prior_moments(kernel, top, bottom, 0).layer_covariance


def remainder_variance(kernel: Kernel, top: Array, bottom: Array, order: int) -> Array:
    """Variance of the mean of r(z) between depths (m; equal depths: at a point), for a kernel of unit variance."""
    top, bottom = np.atleast_1d(top), np.atleast_1d(bottom)
    moments = prior_moments(kernel, top, bottom, order)
    design = basis_mean(top, bottom, order)
    expressed = np.einsum("nk,kl,nl->n", design, moments.coefficient_covariance, design)
    shared = np.einsum("nk,kn->n", design, moments.cross_covariance)
    return np.asarray(np.clip(np.diag(moments.layer_covariance) + expressed - 2.0 * shared, 0.0, None))


def _panels(top: float, bottom: float, edges: Array) -> tuple[Array, Array]:
    """Gauss-Legendre nodes and weights on [top, bottom], panel by panel between the edges inside."""
    inner = edges[(edges > top + POINT) & (edges < bottom - POINT)]
    bounds = np.concatenate([[top], inner, [bottom]])
    half = 0.5 * np.diff(bounds)
    middle = 0.5 * (bounds[1:] + bounds[:-1])
    return (middle[:, None] + half[:, None] * _NODES).ravel(), (half[:, None] * _WEIGHTS).ravel()


def _smoothed(kernel: Kernel, depth: Array, order: int, top: tuple[float, ...], bottom: tuple[float, ...]) -> Array:
    """Integral over z' of the kernel times each basis polynomial, then its mean over each layer; (depth, order + 1 + n).

    Integrals are split at the kernel's kink; where it does not grow, forty lengths beyond that the kernel is below 1e-17.
    """
    out = np.zeros((depth.size, order + 1 + len(top)))
    reach = np.inf if kernel.growth > 0.0 else 40.0 * kernel.length
    z = depth[:, None]

    def integrate(a: float, b: float, highest: int) -> Array:
        total = np.zeros((depth.size, highest + 1))
        for low, high in (
            (np.maximum(a, depth - reach), np.minimum(b, depth)),
            (np.maximum(a, depth), np.minimum(b, depth + reach)),
        ):
            half = 0.5 * np.maximum(high - low, 0.0)[:, None]
            node = 0.5 * (low + high)[:, None] + half * _NODES
            value = half * _WEIGHTS * kernel(node, z)
            total += np.einsum("zq,zqk->zk", value, basis_at(node, highest))
        return total

    out[:, : order + 1] = integrate(0.0, 1.0, order)
    for n, (a, b) in enumerate(zip(top, bottom, strict=True)):
        if b - a < POINT:
            out[:, order + 1 + n] = kernel(np.array(a), depth)
        else:
            out[:, order + 1 + n] = integrate(a, b, 0)[:, 0] / (b - a)
    return out
