"""The best that any linear estimator could do: one that was trained on the truth itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from deepprofile.twin.world import DEPTH_BANDS_M, World

Array = NDArray[np.float64]


def ceiling(world: World, bands: Sequence[tuple[float, float]] = DEPTH_BANDS_M) -> xr.DataArray:
    """Estimate of each depth band by the best linear estimator from all observations of the day.

    Anomalies about each cell's time mean; one regression for each combination of available observations, trained on the
    truth of half of the cells (a chessboard) and applied to the other half, both ways round. Nothing that knows only the
    products can be expected to do much better.

    Returns
    -------
    Anomalies in m3 m-3, dimensions (band, time, y, x); NaN where there is no observation.
    """
    observed = np.concatenate([series.values.astype(np.float64) for series in world.products.values()], axis=1)
    days, count, ny, nx = observed.shape
    observed = observed.reshape(days, count, ny * nx)
    with np.errstate(invalid="ignore"):
        observed = observed - np.nanmean(observed, axis=0)
    truth = np.stack([world.truth_mean(a, b).values.reshape(days, -1).astype(np.float64) for a, b in bands])
    usable = np.isfinite(observed).any(axis=1)
    reference = np.stack([np.where(usable, t, 0.0).sum(axis=0) / usable.sum(axis=0) for t in truth])
    truth = truth - reference[:, None]
    half = (np.add.outer(np.arange(ny), np.arange(nx)) % 2).ravel()
    pattern = (np.isfinite(observed) << np.arange(count)[:, None]).sum(axis=1)
    estimate = np.full(truth.shape, np.nan)
    for side in (0, 1):
        train = np.broadcast_to(half == side, pattern.shape)
        for code in np.unique(pattern[pattern > 0]):
            used = ((code >> np.arange(count)) & 1).astype(bool)
            learn, apply = (pattern == code) & train, (pattern == code) & ~train
            if not apply.any() or learn.sum() < 20 * used.sum():
                continue
            x = observed.transpose(0, 2, 1)[learn][:, used]
            weights = np.linalg.lstsq(x, truth[:, learn].T, rcond=None)[0]
            estimate[:, apply] = (observed.transpose(0, 2, 1)[apply][:, used] @ weights).T
    return xr.DataArray(
        estimate.reshape(len(bands), days, ny, nx),
        dims=("band", "time", "y", "x"),
        coords={
            "time": world.truth.time,
            "band_top": ("band", [a for a, _ in bands]),
            "band_bottom": ("band", [b for _, b in bands]),
        },
        attrs={"units": "m3 m-3"},
    )
