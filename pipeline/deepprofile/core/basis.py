"""Shifted Legendre polynomials on [0, 1] m and what layers see of them.

A profile is theta(z) = sum_k c_k P_k(2 z - 1). The polynomials are orthogonal on [0, 1] with squared norm 1 / (2 k + 1), so
coefficients stay of the size of the soil moisture itself and the normal equations stay well conditioned (DLMF 18.3,
https://dlmf.nist.gov/18.3).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

MAX_DEPTH_M: Final = 1.0
MAX_ORDER: Final = 7


def basis_at(depth: ArrayLike, order: int) -> Array:
    """Values of the basis at depths in m; shape (..., order + 1)."""
    x = 2.0 * np.asarray(depth, dtype=np.float64) - 1.0
    return np.asarray(legendre.legvander(x, order), dtype=np.float64).reshape(*x.shape, order + 1)


def basis_mean(top: ArrayLike, bottom: ArrayLike, order: int) -> Array:
    """Mean of each basis polynomial between two depths in m; shape (..., order + 1).

    With x = 2 z - 1, the integral of P_k over x is (P_{k+1} - P_{k-1}) / (2 k + 1) (DLMF 18.9.19). A layer without thickness
    is a point.
    """
    top, bottom = np.broadcast_arrays(np.asarray(top, dtype=np.float64), np.asarray(bottom, dtype=np.float64))
    thickness = bottom - top
    point = thickness < 1e-9
    wide = np.where(point, 1.0, thickness)[..., None]
    high, low = basis_at(bottom, order + 1), basis_at(top, order + 1)
    degree = np.arange(1, order + 1)
    integral = np.empty((*top.shape, order + 1))
    integral[..., 0] = 1.0
    rise = (high - low)[..., 2:] - (high - low)[..., : order if order else 0]
    integral[..., 1:] = rise / (2.0 * wide * (2.0 * degree + 1.0))
    return np.where(point[..., None], basis_at(top, order), integral)


def bernstein_from_legendre(order: int) -> Array:
    """Matrix from Legendre coefficients to the control points of the Bernstein form; shape (order + 1, order + 1).

    The polynomial lies within the range of its control points (Farin 2002, Curves and Surfaces for CAGD, 5.1): a sufficient
    test for bounds, not a necessary one.
    """
    nodes = 0.5 - 0.5 * np.cos(np.pi * (np.arange(order + 1) + 0.5) / (order + 1))
    degree = np.arange(order + 1)
    binomial = np.array([float(np.prod([(order - i) / (i + 1) for i in range(k)])) for k in range(order + 1)])
    bernstein = binomial * nodes[:, None] ** degree * (1.0 - nodes[:, None]) ** (order - degree)
    return np.asarray(np.linalg.solve(bernstein, basis_at(nodes, order)))
