"""The Gaussian prior on theta(z) and its projection onto the basis.

The covariance is exponential, std^2 exp(-|z - z'| / length) (Rasmussen and Williams 2006, Gaussian Processes for Machine
Learning, eq. 4.18 with nu = 1/2). A sample of it is theta(z) = sum_k c_k P_k(z) + r(z): the projection onto the basis and
a remainder that the basis cannot express. Both are kept: observations respond to c and to r.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from deepprofile.basis import basis_at, basis_mean

Array = NDArray[np.float64]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)
# Layers thinner than this are points.
POINT: Final = 1e-9


@dataclass(frozen=True)
class Prior:
    """Gaussian prior on the profile.

    Parameters
    ----------
    mean
        Of theta at every depth, m3 m-3: a number, or an array over the cells. None: the error-weighted time mean of the
        products; with errors that know of biases it is 0.02 lower at the surface than at depth, as soils are in the mean.
    std
        Standard deviation of theta about that mean, m3 m-3.
    correlation_length
        Of the vertical correlation exp(-distance / length), m.

    Raises
    ------
    ValueError
        For a standard deviation or length that is not positive, or a mean outside [0, 1].
    """

    mean: float | xr.DataArray | None = field(default=None)
    std: float = 0.08
    correlation_length: float = 0.1

    def __post_init__(self) -> None:
        for name in ("std", "correlation_length"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0.0):
                raise ValueError(f"Prior({name}={value!r}): it has to be a positive number")
        if isinstance(self.mean, int | float) and not 0.0 <= self.mean <= 1.0:
            raise ValueError(f"Prior(mean={self.mean!r}): a volumetric soil moisture lies between 0 and 1 m3 m-3")


@dataclass(frozen=True)
class Kernel:
    """A vertical covariance of unit variance at the surface: exp(-|z - z'| / length) exp(-(z + z') / decay), lengths in m.

    An infinite ``decay`` leaves the same variance at all depths.
    """

    length: float
    decay: float = float("inf")


# What the anomalies' covariance is made of: a short and a long range, at all depths or fading below the surface layer.
KERNELS: Final = (Kernel(0.1), Kernel(1.0), Kernel(0.1, 0.1), Kernel(1.0, 0.1))


@dataclass(frozen=True)
class PriorModel:
    """Second moments of a zero-mean process of unit variance for a basis and a set of layers.

    ``coefficients`` (d, d): covariance of the projection c; ``coefficients_layers`` (d, n): of c with the layer means;
    ``layers`` (n, n): of the layer means, remainder included.
    """

    coefficients: Array
    coefficients_layers: Array
    layers: Array


def _key(values: Array) -> tuple[float, ...]:
    return tuple(float(v) for v in np.atleast_1d(values))


def prior_model(kernel: Kernel, top: Array, bottom: Array, order: int) -> PriorModel:
    """Moments of a kernel for layer means (m; layers without thickness are points) and a basis of this order."""
    return _prior_model(kernel, _key(top), _key(bottom), order)


@lru_cache(maxsize=256)
def _prior_model(kernel: Kernel, top: tuple[float, ...], bottom: tuple[float, ...], order: int) -> PriorModel:
    edges = np.array(sorted({*top, *bottom, 0.0, 1.0}))
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
    model = PriorModel(0.5 * (coefficients + coefficients.T), cross, 0.5 * (layers + layers.T))
    for part in (model.coefficients, model.coefficients_layers, model.layers):
        part.flags.writeable = False
    return model


def kernel_covariance(kernel: Kernel, top: Array, bottom: Array) -> Array:
    """Covariance of layer means (m) under a kernel of unit variance; shape (n, n)."""
    return prior_model(kernel, top, bottom, 0).layers


def remainder_variance(kernel: Kernel, top: Array, bottom: Array, order: int) -> Array:
    """Variance of the mean of r(z) between depths (m; equal depths: at a point), for a kernel of unit variance."""
    top, bottom = np.atleast_1d(top), np.atleast_1d(bottom)
    model = prior_model(kernel, top, bottom, order)
    design = basis_mean(top, bottom, order)
    expressed = np.einsum("nk,kl,nl->n", design, model.coefficients, design)
    shared = np.einsum("nk,kn->n", design, model.coefficients_layers)
    return np.asarray(np.clip(np.diag(model.layers) + expressed - 2.0 * shared, 0.0, None))


def _panels(top: float, bottom: float, edges: Array) -> tuple[Array, Array]:
    """Gauss-Legendre nodes and weights on [top, bottom], panel by panel between the edges inside."""
    inner = edges[(edges > top + POINT) & (edges < bottom - POINT)]
    bounds = np.concatenate([[top], inner, [bottom]])
    half = 0.5 * np.diff(bounds)
    middle = 0.5 * (bounds[1:] + bounds[:-1])
    return (middle[:, None] + half[:, None] * _NODES).ravel(), (half[:, None] * _WEIGHTS).ravel()


def _smoothed(kernel: Kernel, depth: Array, order: int, top: tuple[float, ...], bottom: tuple[float, ...]) -> Array:
    """Integral over z' of the kernel times each basis polynomial, then its mean over each layer; (depth, order + 1 + n).

    Integrals are split at the kernel's kink; beyond forty lengths the kernel is below 1e-17.
    """
    out = np.zeros((depth.size, order + 1 + len(top)))
    reach = 40.0 * kernel.length
    z = depth[:, None]

    def integrate(a: float, b: float, highest: int) -> Array:
        total = np.zeros((depth.size, highest + 1))
        for low, high in (
            (np.maximum(a, depth - reach), np.minimum(b, depth)),
            (np.maximum(a, depth), np.minimum(b, depth + reach)),
        ):
            half = 0.5 * np.maximum(high - low, 0.0)[:, None]
            node = 0.5 * (low + high)[:, None] + half * _NODES
            value = half * _WEIGHTS * np.exp(-np.abs(node - z) / kernel.length - (node + z) / kernel.decay)
            total += np.einsum("zq,zqk->zk", value, basis_at(node, highest))
        return total

    out[:, : order + 1] = integrate(0.0, 1.0, order)
    for n, (a, b) in enumerate(zip(top, bottom, strict=True)):
        if b - a < POINT:
            out[:, order + 1 + n] = np.exp(-np.abs(a - depth) / kernel.length - (a + depth) / kernel.decay)
        else:
            out[:, order + 1 + n] = integrate(a, b, 0)[:, 0] / (b - a)
    return out
