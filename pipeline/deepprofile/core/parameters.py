"""What an inversion needs beside the observations: what is the same in every cell, and what is known of each.

Arrays of cells are NumPy arrays of any shape (...), those of observations (..., n); they only have to broadcast.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepprofile.core import kernels
from deepprofile.core.basis import basis_mean, bernstein_from_legendre
from deepprofile.core.biases import MEAN_KERNEL, bias_correlation, error_correlation, mean_variance
from deepprofile.core.error_model import OWN, TYPICAL_NOISE, LayerErrors
from deepprofile.core.kernels import CellErrors, CellLimits
from deepprofile.core.layers import Layout
from deepprofile.core.memory import correlate_past
from deepprofile.core.prior import GaussianMoments, Prior, prior_moments

Array = NDArray[np.float64]

METHODS: Final = {"map": kernels.MAP, "wls": kernels.WLS}
DEFAULT_ORDER: Final = {"map": 5, "wls": 2}
# Where one product alone tells of the deep soil, least squares of order 1 are better on measured profiles: RMSE, mean over
# depth, 0.052 against 0.057 for order 2.
DEEP_M: Final = 0.3
# Errors of two layers of one product: what a model gets wrong at one depth it gets wrong nearby.
ERROR_CORRELATION_LENGTH_M: Final = 0.5
# How far the variations of a product are from the true ones, as a standard deviation of their ratio: by that share of what the
# prior lets a layer vary, an observation errs beside its random error. Where no triplet tells the error, nothing tells the
# ratio either: a layer that hardly varies is then no proof that the soil does not. Chosen on measured profiles, as they are and
# with factors exp(0.5 N(0, 1)) on every layer of the models.
GAIN_SPREAD: Final = 0.2
FALLBACK_GAIN_SPREAD: Final = 0.5
# Where products vary less at DEEP_M and below than the prior expects, by more than a factor of exp(TOLERATED), the prior is
# damped there, in steps, so that few priors serve all cells. A deep layer that hardly varies would else count as nearly exact,
# and what the layers above it say would come back at 1 m with the opposite sign. On measured profiles 0.4 and 0.7 do alike.
TOLERATED: Final = 0.7
DAMPING_STEP: Final = 0.25
DAMPINGS: Final = 10
# Errors, and biases, at the same depth of two products: they share forcing, soil maps and structure more than any comparison
# between them can see. Set where intervals hold in worlds of measured profiles, whose models share a fifth or nearly half of
# their errors.
SHARED_ERROR: Final = 0.3
SHARED_BIAS: Final = 0.5


@dataclass(frozen=True)
class Model:
    """Everything of an inversion that is the same in every cell, for n observations and d coefficients.

    Attributes
    ----------
    layout
        The observations.
    method, order
        ``kernels.MAP`` or ``kernels.WLS``; degree of the polynomial, d - 1.
    prior
        What is expected before any data.
    two_scales
        Whether time means and anomalies are inverted apart.
    anomalies
        Prior moments of a day's anomaly, m6 m-6: one for each step of damping.
    setting
        The same and all else as the compiled loops take it.
    """

    layout: Layout
    method: int
    order: int
    prior: Prior
    two_scales: bool
    anomalies: tuple[GaussianMoments, ...]
    setting: kernels.Setting

    @classmethod
    def build(cls, layout: Layout, method: str, order: int, prior: Prior, two_scales: bool) -> Model:
        """Integrals of the basis and moments of the prior for these layers."""
        # Correlations that the gain knows of, and all of them. Least squares know of none.
        of_errors = (error_correlation(layout, ERROR_CORRELATION_LENGTH_M, share) for share in (0.0, SHARED_ERROR))
        random = np.stack([correlate_past(each, layout) for each in of_errors])
        lasting = np.stack([bias_correlation(layout, share) for share in (0.0, SHARED_BIAS)])
        independent = np.stack([np.eye(layout.size)] * 2)
        if method == "wls":
            random[0] = np.eye(layout.size)
        kernel, steps = prior.kernel, DAMPINGS if two_scales and method == "map" else 1
        damped = [replace(kernel, damping=DAMPING_STEP * k) for k in range(steps)]
        anomalies = tuple(prior_moments(each, layout.top, layout.bottom, order).scaled(prior.std**2) for each in damped)
        setting = kernels.Setting(
            method=METHODS[method],
            two_scales=two_scales,
            design=basis_mean(layout.top, layout.bottom, order),
            anomalies=GaussianMoments(*(np.stack(part) for part in zip(*anomalies, strict=True))),
            means=prior_moments(MEAN_KERNEL, layout.top, layout.bottom, order).scaled(mean_variance(prior.std)),
            correlation=random if two_scales else independent,
            bias_correlation=lasting if two_scales else independent,
            control=bernstein_from_legendre(order),
            product=layout.product_index,
        )
        return cls(layout, setting.method, order, prior, two_scales, anomalies, setting)

    def damping(self, variance: Array) -> NDArray[np.int64]:
        """Which of ``anomalies`` suits each cell, (...), from the variances of the observations in time, (..., n).

        In m6 m-6; what is not known (NaN) is taken to be as the prior says.
        """
        deep = 0.5 * (self.layout.top + self.layout.bottom) >= DEEP_M
        expected = np.diag(self.anomalies[0].layer_covariance) * (1.0 + TYPICAL_NOISE)
        known = (variance > 0.0) & deep
        excess = np.where(known, 0.5 * np.log(np.where(known, variance, 1.0) / expected), 0.0)
        count = known.sum(axis=-1)
        mean = excess.sum(axis=-1) / np.maximum(count, 1)
        damping = np.where(count > 0, (-mean - TOLERATED) / DAMPING_STEP, 0.0)
        return np.clip(np.round(damping), 0, len(self.anomalies) - 1).astype(np.int64)


def default_order(method: str, layout: Layout) -> int:
    """Degree of the polynomial where none is asked for."""
    deep = len(set(layout.product_index[0.5 * (layout.top + layout.bottom) >= DEEP_M].tolist()))
    return min(DEFAULT_ORDER[method], 1) if method == "wls" and deep <= 1 else DEFAULT_ORDER[method]


def product_patterns(layout: Layout) -> NDArray[np.int64]:
    """Bit masks of every combination of whole products, sorted; all single observations too where they are few.

    This list does not depend on the data: it serves where the data are not there yet.
    """
    if layout.size <= 6:
        return np.arange(2**layout.size, dtype=np.int64)
    masks = [int(sum(1 << int(i) for i in np.flatnonzero(layout.product_index == p))) for p in range(len(layout.products))]
    codes = {0}
    for mask in masks[:8]:
        codes |= {code | mask for code in codes}
    for mask in masks[8:]:
        codes |= {mask, max(codes) | mask}
    # The past of a product never stands alone, and is there on every day on which the product is.
    told = sum(masks[past] for past, _ in layout.pasts)
    possible = [
        code
        for code in sorted(codes)
        if (code & ~told or not code) and all(code & masks[past] or not code & masks[source] for past, source in layout.pasts)
    ]
    return np.array(possible, dtype=np.int64)


class Parameters(NamedTuple):
    """What is known of each cell, as the compiled loops take it: its errors and its limits."""

    errors: CellErrors
    limits: CellLimits


def cell_parameters(errors: LayerErrors, level: Array | None, low: Array, high: Array, model: Model) -> Parameters:
    """Errors and limits of each cell.

    Parameters
    ----------
    errors
        The error model, each (..., n).
    level
        Time mean that is expected before any data, m3 m-3, (...); None: the error-weighted time mean of the observations.
    low, high
        Bounds, m3 m-3, (...); NaN in cells without soil, which have no profiles.
    model
        What is the same in every cell.
    """
    expected = prior_level(errors, model.two_scales) if level is None else level
    return Parameters(cell_errors(errors, expected, low, high, model), CellLimits(expected, low, high))


def _usable(errors: LayerErrors, two_scales: bool) -> NDArray[np.bool_]:
    """Which observations have all that it takes."""
    usable: NDArray[np.bool_] = np.isfinite(errors.error_variance)
    if two_scales:
        # A bias of infinite variance: the observation tells of anomalies only.
        usable = usable & np.isfinite(errors.mean) & ~np.isnan(errors.bias_variance)
    return usable


def prior_level(errors: LayerErrors, two_scales: bool) -> Array:
    """Time mean of the observations, weighted by their errors, m3 m-3, (...)."""
    known = _usable(errors, two_scales) & np.isfinite(errors.mean)
    weight = np.where(known, 1.0 / (errors.error_variance + errors.bias_variance), 0.0)
    total, weighted = weight.sum(axis=-1), (weight * np.where(np.isnan(errors.mean), 0.0, errors.mean)).sum(axis=-1)
    # Where nothing is known, half of the way between the bounds of most soils; nothing can be inverted there.
    return np.where(total > 0.0, weighted / np.where(total > 0.0, total, 1.0), 0.25)


def cell_errors(errors: LayerErrors, level: Array, low: Array, high: Array, model: Model) -> CellErrors:
    """The errors of each cell as an inversion takes them; see ``cell_parameters``.

    With two scales under a prior, an observation errs beside its random error by a share of what the prior lets its layer
    vary (``GAIN_SPREAD``).
    """
    usable = _usable(errors, model.two_scales)
    fallback = (errors.status != OWN) & usable
    soil = np.isfinite(low) & np.isfinite(high)
    error_variance = np.where(usable & soil[..., None], errors.error_variance, np.nan)
    # One scale: what is inverted are departures from the prior's mean.
    mean = (
        errors.mean
        if model.two_scales
        else np.broadcast_to(level[..., None], np.broadcast_shapes((*level.shape, 1), usable.shape))
    )
    damping = np.zeros(usable.shape[:-1], np.int64)
    if model.two_scales and model.method == kernels.MAP:
        # Variances of all days, as they are.
        damping = model.damping(np.where(usable, errors.variance, np.nan))
        expected = np.stack([np.diag(each.layer_covariance) for each in model.anomalies])
        spread = np.where(fallback, FALLBACK_GAIN_SPREAD, GAIN_SPREAD)
        error_variance = error_variance + spread**2 * expected[damping]
    return CellErrors(error_variance, errors.bias_variance, mean, damping, fallback)
