"""The Gaussian prior on theta(z) and its projection onto the basis.

The covariance is exponential, std^2 exp(-|z - z'| / length) (Rasmussen and Williams 2006, Gaussian Processes for Machine
Learning, eq. 4.18 with nu = 1/2). A sample of it is theta(z) = sum_k c_k P_k(z) + r(z): the projection onto the basis and
a remainder that the basis cannot express. Both are kept: observations respond to c and to r.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from deepprofile.basis import basis_at, basis_mean

Array = NDArray[np.float64]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(48)


@dataclass(frozen=True)
class Prior:
    """Gaussian prior on the profile.

    Parameters
    ----------
    mean
        Of theta at every depth, m3 m-3: a number, or an array over the cells. None: the error-weighted time mean of the
        products.
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
class PriorModel:
    """Second moments of the prior for a given basis and set of layers, in units of ``std**2``.

    ``coefficients`` (d, d): covariance of the projection c; ``coefficients_layers`` (d, n): of c with the layer means;
    ``layers`` (n, n): of the layer means, remainder included.
    """

    coefficients: Array
    coefficients_layers: Array
    layers: Array


def prior_model(top: Array, bottom: Array, order: int, length: float) -> PriorModel:
    """Moments of an exponential prior of unit variance for layer means (m) and a basis of this order."""
    norm = 2.0 * np.arange(order + 1) + 1.0
    whole = _smoothed_basis(_nodes(0.0, 1.0)[0], order, length)
    z, weight = _nodes(0.0, 1.0)
    coefficients = norm[:, None] * norm * np.einsum("q,qk,ql->kl", weight, basis_at(z, order), whole)
    columns = [_layer_with_coefficients(a, b, order, length) * norm for a, b in zip(top, bottom, strict=True)]
    n = len(top)
    layers = np.empty((n, n))
    for i in range(n):
        for j in range(n):
            layers[i, j] = layer_correlation(top[i], bottom[i], top[j], bottom[j], length)
    return PriorModel(
        coefficients=0.5 * (coefficients + coefficients.T),
        coefficients_layers=np.array(columns).reshape(n, order + 1).T.copy(),
        layers=layers,
    )


def remainder_variance(top: Array, bottom: Array, order: int, length: float) -> Array:
    """Variance of the mean of r(z) between depths (m; equal depths: at a point), in units of ``std**2``."""
    top, bottom = np.atleast_1d(top), np.atleast_1d(bottom)
    model = prior_model(top, bottom, order, length)
    design = basis_mean(top, bottom, order)
    expressed = np.einsum("nk,kl,nl->n", design, model.coefficients, design)
    shared = np.einsum("nk,kn->n", design, model.coefficients_layers)
    return np.asarray(np.clip(np.diag(model.layers) + expressed - 2.0 * shared, 0.0, None))


def layer_correlation(top: float, bottom: float, other_top: float, other_bottom: float, length: float) -> float:
    """Covariance of two layer means under exp(-|z - z'| / length), in closed form; layers without thickness are points."""
    if bottom - top < 1e-9:
        if other_bottom - other_top < 1e-9:
            return float(np.exp(-abs(top - other_top) / length))
        return float(_primitive(top, other_top, other_bottom, length) / (other_bottom - other_top))
    if other_bottom - other_top < 1e-9:
        return float(_primitive(other_top, top, bottom, length) / (bottom - top))

    # The second antiderivative of exp(-|d| / length) is length^2 exp(-|d| / length) + length |d|.
    def second(distance: float) -> float:
        return length**2 * np.expm1(-abs(distance) / length) + length * abs(distance)

    total = second(bottom - other_top) + second(top - other_bottom) - second(bottom - other_bottom) - second(top - other_top)
    return float(total / ((bottom - top) * (other_bottom - other_top)))


def _primitive(z: float, top: float, bottom: float, length: float) -> float:
    """Integral over z' in [top, bottom] of exp(-|z - z'| / length)."""

    def signed(distance: float) -> float:
        return float(-np.sign(distance) * length * np.expm1(-abs(distance) / length))

    return signed(bottom - z) - signed(top - z)


def _nodes(top: float, bottom: float) -> tuple[Array, Array]:
    return top + (bottom - top) * 0.5 * (_NODES + 1.0), _WEIGHTS * 0.5 * (bottom - top)


def _smoothed_basis(z: Array, order: int, length: float) -> Array:
    """Integral over z' in [0, 1] of exp(-|z - z'| / length) P_k(z'); shape (z, k). Split at the kink of the kernel."""
    out = np.zeros((z.size, order + 1))
    # Beyond forty lengths the kernel is below 1e-17.
    for i, depth in enumerate(z):
        for a, b in ((max(0.0, depth - 40.0 * length), depth), (depth, min(1.0, depth + 40.0 * length))):
            if b > a:
                node, weight = _nodes(a, b)
                out[i] += (weight * np.exp(-np.abs(node - depth) / length)) @ basis_at(node, order)
    return out


def _layer_with_coefficients(top: float, bottom: float, order: int, length: float) -> Array:
    if bottom - top < 1e-9:
        return _smoothed_basis(np.array([top]), order, length)[0]
    node, weight = _nodes(top, bottom)
    return np.asarray(weight @ _smoothed_basis(node, order, length) / (bottom - top))
