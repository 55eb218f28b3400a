"""The best that any linear estimator could do: one that was trained on the truth itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from deepprofile.twin.world import DEPTH_BANDS_M

Array = NDArray[np.float64]

# A regression needs so many days for each of its observations.
_DAYS_PER_OBSERVATION: Final = 20


class TruthAndProducts(Protocol):
    """A world whose truth is known: cells on y and x, or stations."""

    @property
    def products(self) -> dict[str, xr.DataArray]:
        """As ``deepprofile.fuse`` takes them."""

    def truth_mean(self, top: float, bottom: float) -> xr.DataArray:
        """Mean soil moisture between two depths (m), m3 m-3."""


def ceiling(
    world: TruthAndProducts,
    bands: Sequence[tuple[float, float]] = DEPTH_BANDS_M,
    memory_days: Sequence[float] = (),
    remembered: str = "smap_l3",
) -> xr.DataArray:
    """Estimate of each depth band by the best linear estimator from all observations of the day.

    Anomalies about each cell's time mean; one regression for each combination of available observations, trained on the
    truth of half of the cells (a chessboard; every other station) and applied to the other half, both ways round. Nothing that
    knows only the products can be expected to do much better.

    Parameters
    ----------
    world
        Products and truth on the same cells.
    bands
        Depths, m.
    memory_days
        Characteristic times of exponential filters of a product, which are observations too: then the ceiling is that of
        what is known of the past.
    remembered
        The product whose first layer is filtered.

    Returns
    -------
    Anomalies in m3 m-3, dimension ``band``, then ``time`` and the cells'; NaN where there is no observation.
    """
    series = [each.transpose("time", "layer", ...) for each in world.products.values()]
    cell_dims, shape = series[0].dims[2:], series[0].shape[2:]
    days, cells = series[0].sizes["time"], int(np.prod(shape))
    observed = np.concatenate([each.values.astype(np.float64).reshape(days, -1, cells) for each in series], axis=1)
    if memory_days:
        past = world.products[remembered].transpose("time", "layer", ...).values[:, 0].astype(np.float64).reshape(days, cells)
        filtered = np.stack([exponential_filter(past, time) for time in memory_days], axis=1)
        observed = np.concatenate([observed, np.where(np.isfinite(observed).any(axis=1)[:, None], filtered, np.nan)], axis=1)
    known = np.isfinite(observed)
    observed = observed - _mean_of(observed, known, axis=0)
    every = [world.truth_mean(a, b).transpose("time", ...).values.reshape(days, cells).astype(np.float64) for a, b in bands]
    truth = np.stack(every)
    usable = known.any(axis=1) & np.isfinite(truth).all(axis=0)
    truth = truth - _mean_of(truth, usable, axis=1)
    half = np.indices(shape).sum(axis=0).ravel() % 2
    count = observed.shape[1]
    pattern = (known << np.arange(count)[:, None]).sum(axis=1)
    estimate = np.full(truth.shape, np.nan)
    by_day = observed.transpose(0, 2, 1)
    for side in (0, 1):
        train = np.broadcast_to(half == side, pattern.shape)
        for code in np.unique(pattern[pattern > 0]):
            used = ((code >> np.arange(count)) & 1).astype(bool)
            learn, apply = (pattern == code) & train & usable, (pattern == code) & ~train
            if not apply.any() or learn.sum() < _DAYS_PER_OBSERVATION * used.sum():
                continue
            weights = np.linalg.lstsq(by_day[learn][:, used], truth[:, learn].T, rcond=None)[0]
            estimate[:, apply] = (by_day[apply][:, used] @ weights).T
    return xr.DataArray(
        estimate.reshape(len(bands), days, *shape),
        dims=("band", "time", *cell_dims),
        coords={
            "time": series[0].time,
            "band_top": ("band", [a for a, _ in bands]),
            "band_bottom": ("band", [b for _, b in bands]),
        },
        attrs={"units": "m3 m-3"},
    )


def _mean_of(values: Array, used: NDArray[np.bool_], axis: int) -> Array:
    """Means along an axis over what is used, kept as an axis of one; NaN where nothing is."""
    count = used.sum(axis=axis if used.ndim == values.ndim else axis - 1)
    total = np.where(used, values, 0.0).sum(axis=axis)
    return np.expand_dims(np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0), axis)


def exponential_filter(series: Array, days: float) -> Array:
    """What a series with gaps says of the past, weighted by exp(-age / ``days``); time is the first axis.

    The recursive form of Albergel et al. (2008, doi 10.5194/hess-12-1323-2008, eq. 4 and 5); NaN before the first value.
    """
    decay = np.exp(-1.0 / days)
    total, weight = np.zeros(series.shape[1:]), np.zeros(series.shape[1:])
    out = np.full(series.shape, np.nan)
    for day, value in enumerate(series):
        seen = np.isfinite(value)
        total = decay * total + np.where(seen, value, 0.0)
        weight = decay * weight + seen
        np.divide(total, weight, out=out[day], where=weight > 0)
    return out
