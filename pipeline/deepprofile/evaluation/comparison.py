"""What each estimate says at a sensor: the fused profile, the step function of each parent, their plain average."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from deepprofile.core.basis import MAX_DEPTH_M
from deepprofile.core.layers import overlap_weights

# A point is read from a step function as the mean over this much above it (below it, at the surface).
_POINT_M = 1e-3


def step_function_mean(series: xr.DataArray, top: float, bottom: float) -> xr.DataArray:
    """Mean of a product's step function between two depths, m3 m-3; equal depths: its value at that depth.

    Where layers lie in one another, as those of SMAP Level 4 do, the step function is the one of least norm that agrees
    with all of them. NaN where the product's layers cover less than half of the interval.

    Parameters
    ----------
    series
        With the dimension ``layer`` and the coordinates ``layer_top`` and ``layer_bottom`` (m).
    top, bottom
        m from the surface, down to 1 m (deeper: 1 m).
    """
    weights = step_function_weights(series["layer_top"].values, series["layer_bottom"].values, top, bottom)
    used = np.flatnonzero(weights)
    if not used.size:
        return xr.full_like(series.isel(layer=0, drop=True), np.nan)
    part = series.isel(layer=used).drop_vars(["layer_top", "layer_bottom"])
    weighted = part * xr.DataArray(weights[used].astype(series.dtype), dims="layer")
    return weighted.sum("layer", skipna=False)


def step_function_weights(
    layer_top: NDArray[np.float64], layer_bottom: NDArray[np.float64], top: float, bottom: float
) -> NDArray[np.float64]:
    """By what each layer of a product counts in ``step_function_mean``, shape (layer,); all 0 where that is NaN (m)."""
    top, bottom = min(top, MAX_DEPTH_M), min(bottom, MAX_DEPTH_M)
    if bottom - top < _POINT_M:
        top, bottom = (max(bottom - _POINT_M, 0.0), max(bottom, _POINT_M))
    weights, covered = overlap_weights(layer_top, layer_bottom, top, bottom)
    return weights if covered >= 0.5 else np.zeros_like(weights)


def plain_average(products: Mapping[str, xr.DataArray], names: Sequence[str], top: float, bottom: float) -> xr.DataArray:
    """Unweighted mean of the step functions of some products, on days when all of those that reach the depth are there."""
    means = [step_function_mean(products[name], top, bottom) for name in names]
    there = [mean for mean in means if bool(np.isfinite(mean).any())]
    if not there:
        return means[0]
    aligned = xr.align(*there, join="outer", copy=False)
    total = aligned[0]
    for mean in aligned[1:]:
        total = total + mean
    return total / len(aligned)


def cell_scores(estimate: xr.DataArray, truth: xr.DataArray) -> dict[str, float]:
    """Medians over cells of RMSE, ubRMSE (m3 m-3) and R on the days of the estimate; both with the dimensions time, y and x."""
    estimate = estimate.transpose("time", "y", "x")
    there = estimate.notnull()
    error = estimate - truth
    known = truth.where(there)
    covariance = ((estimate - estimate.mean("time")) * (known - known.mean("time"))).mean("time")
    return {
        "rmse": float(((error**2).mean("time") ** 0.5).median()),
        "ubrmse": float(error.std("time").median()),
        "r": float((covariance / (estimate.std("time") * known.std("time"))).median()),
    }


def scores_by_band(
    bands: Sequence[tuple[float, float]],
    truth: Callable[[float, float], xr.DataArray],
    profile: xr.Dataset,
    estimates: Callable[[float, float], Mapping[str, xr.DataArray]],
    best: xr.DataArray,
) -> pd.DataFrame:
    """Scores of a profile and of what it is compared with, against a truth, by depth band.

    Parameters
    ----------
    bands
        Top and bottom of each, m.
    truth, estimates
        Of the mean between two depths, m3 m-3, with the dimensions time, y and x; estimates by name, without the profile.
    profile
        What ``deepprofile.fuse`` returned; its name is ``fused``.
    best
        Anomalies by the best linear estimator, with one more dimension ``band``; its name is ``ceiling``.

    Returns
    -------
    A row for each band and estimate: ``rmse``, ``ubrmse`` and ``r`` (medians over cells), and of the profile ``inside``, the
    share of days whose 90 % interval holds the truth.
    """
    rows = []
    for k, (top, bottom) in enumerate(bands):
        true, fused = truth(top, bottom), profile.deepprofile.mean(top, bottom).reset_coords(drop=True)
        interval = profile.deepprofile.mean_interval(0.9, top, bottom)
        here = true.assign_coords({dim: fused[dim] for dim in ("y", "x") if dim in fused.coords})
        inside = ((here >= interval.lower) & (here <= interval.upper)).where(fused.notnull())
        bare = true.drop_vars(["y", "x"], errors="ignore")
        named = {"fused": fused, **estimates(top, bottom)}
        scores = {name: cell_scores(one.drop_vars(["y", "x"], errors="ignore"), bare) for name, one in named.items()}
        scores["ceiling"] = cell_scores(best.isel(band=k), bare - bare.mean("time")) | {"rmse": np.nan}
        shares = {"fused": float(inside.mean())}
        band = f"{100 * top:.0f}-{100 * bottom:.0f} cm"
        rows += [{"band": band, "estimate": name, **of, "inside": shares.get(name, np.nan)} for name, of in scores.items()]
    return pd.DataFrame(rows)
