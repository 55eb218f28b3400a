"""Covariances of coefficients by the entries of their Cholesky factors: half of the numbers, and never indefinite when rounded.

The entries of a lower factor L (d, d) of C = L L' are listed row by row: L00, L10, L11, L20, ...; d (d + 1) / 2 of them.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

# Pivots below this share of the largest variance are those of rounding: the coefficient is known from the ones before it.
_RANK: Final = 1e-12


def entry_places(degrees: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row and column of each entry, for so many coefficients."""
    rows, columns = np.tril_indices(degrees)
    return rows.astype(np.int64), columns.astype(np.int64)


def factor_entries(covariance: NDArray[Any]) -> NDArray[np.float32]:
    """Entries (..., entry) of the lower Cholesky factors of covariances (..., d, d); NaN where these are.

    A covariance that is only semi-definite has columns of zeros.
    """
    d = covariance.shape[-1]
    flat = covariance.reshape(-1, d, d)
    out = np.empty((len(flat), d * (d + 1) // 2), np.float32)
    _factor(flat, out)
    return out.reshape(*covariance.shape[:-2], -1)


@njit(cache=True, nogil=True, error_model="numpy")
def _factor(covariance: NDArray[Any], out: NDArray[np.float32]) -> None:
    d = covariance.shape[1]
    factor = np.zeros((d, d))
    for c in range(len(covariance)):
        largest = 0.0
        for i in range(d):
            largest = max(largest, covariance[c, i, i])
        for i in range(d):
            for j in range(i + 1):
                total = np.float64(covariance[c, i, j])
                for k in range(j):
                    total -= factor[i, k] * factor[j, k]
                if i == j:
                    factor[i, i] = np.sqrt(total) if total > _RANK * largest else (total if np.isnan(total) else 0.0)
                else:
                    factor[i, j] = total / factor[j, j] if factor[j, j] != 0.0 else 0.0
                out[c, i * (i + 1) // 2 + j] = factor[i, j]


def factor_projection(basis: NDArray[Any]) -> NDArray[np.float64]:
    """What turns entries into L' b: (..., entry, d) for a basis b (..., d).

    The variance of b'c, for coefficients c, is the squared length of L' b.
    """
    degrees = basis.shape[-1]
    rows, columns = entry_places(degrees)
    out = np.zeros((*basis.shape[:-1], rows.size, degrees))
    out[..., np.arange(rows.size), columns] = basis[..., rows]
    return out
