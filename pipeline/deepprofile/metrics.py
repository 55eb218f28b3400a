"""Scores of soil-moisture series against a reference, with confidence intervals that respect autocorrelation.

Bias, RMSE, unbiased RMSE and Pearson correlation as in Entekhabi et al. (2010, doi 10.1175/2010JHM1223.1). Intervals are
percentiles of a circular block bootstrap (Politis and Romano 1992): whole blocks of days are drawn, so that the
dependence of one day on the next survives. The length of the blocks follows the lag-one autocorrelation (Carlstein 1986,
doi 10.1214/aos/1176350057): (2 a / (1 - a^2))^(2/3) n^(1/3) days.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float64]

METRICS: Final = ("n", "bias", "rmse", "ubrmse", "r")
MIN_SAMPLES: Final = 10
# Of the bootstrap.
RESAMPLES: Final = 500


@njit(cache=True, nogil=True, error_model="numpy")
def _scores(estimate: Array, reference: Array, order: NDArray[np.int64], out: Array) -> None:
    """n, bias, RMSE, ubRMSE and R over the days in ``order``."""
    n = se = st = see = stt = setx = 0.0
    origin = reference[0]
    for t in order:
        e, r = estimate[t] - origin, reference[t] - origin
        n += 1.0
        se += e
        st += r
        see += e * e
        stt += r * r
        setx += e * r
    out[0] = n
    me, mt = se / n, st / n
    ve, vt, c = see / n - me * me, stt / n - mt * mt, setx / n - me * mt
    out[1] = me - mt
    unbiased = max(ve + vt - 2.0 * c, 0.0)
    out[2] = np.sqrt(unbiased + out[1] ** 2)
    out[3] = np.sqrt(unbiased)
    out[4] = c / np.sqrt(ve * vt) if ve > 1e-14 and vt > 1e-14 else np.nan


@njit(cache=True, nogil=True, error_model="numpy")
def _bootstrap(
    estimate: Array, reference: Array, day: NDArray[np.int64], span: int, block: int, starts: NDArray[np.int64], out: Array
) -> None:
    """Scores of resampled records; blocks are stretches of the calendar, so gaps stay where they are in a block."""
    position = np.full(span, -1, np.int64)
    for i in range(day.size):
        position[day[i]] = i
    order = np.empty(span + block, np.int64)
    for b in range(starts.shape[0]):
        count = 0
        for s in range(starts.shape[1]):
            for k in range(block):
                if s * block + k >= span:
                    break
                i = position[(starts[b, s] + k) % span]
                if i >= 0:
                    order[count] = i
                    count += 1
        if count < 3:
            out[b] = np.nan
        else:
            _scores(estimate, reference, order[:count], out[b])


def block_length(error: Array, day: NDArray[np.int64]) -> int:
    """Length of the bootstrap's blocks in days, from the lag-one autocorrelation of the errors on adjacent days."""
    if error.size < 3:
        return 1
    anomaly = error - error.mean()
    adjacent = np.diff(day) == 1
    variance = float(np.mean(anomaly**2))
    if adjacent.sum() < 3 or variance <= 0.0:
        return 1
    lag_one = float(np.clip(np.mean((anomaly[1:] * anomaly[:-1])[adjacent]) / variance, 0.0, 0.97))
    length = (2.0 * lag_one / (1.0 - lag_one**2)) ** (2.0 / 3.0) * error.size ** (1.0 / 3.0)
    return int(np.clip(np.ceil(length), 1, max(1, (int(day[-1]) + 1) // 3)))


def _score_series(
    estimate: NDArray[Any], reference: NDArray[Any], day: NDArray[np.int64], resamples: int, level: float, seed: int
) -> Array:
    out = np.full((len(METRICS), 3), np.nan)
    both = np.isfinite(estimate) & np.isfinite(reference)
    out[0, 0] = both.sum()
    if both.sum() < MIN_SAMPLES:
        return out
    e, r, d = estimate[both].astype(np.float64), reference[both].astype(np.float64), day[both]
    d = d - d[0]
    value = np.empty(len(METRICS))
    _scores(e, r, np.arange(e.size), value)
    out[:, 0] = value
    if resamples:
        span, block = int(d[-1]) + 1, block_length(e - r, d)
        starts = np.random.default_rng(seed).integers(0, span, (resamples, -(-span // block)))
        drawn = np.empty((resamples, len(METRICS)))
        _bootstrap(e, r, d, span, block, starts, drawn)
        tails = [0.5 * (1.0 - level), 0.5 * (1.0 + level)]
        out[1:, 1:] = np.nanquantile(drawn[:, 1:], tails, axis=0).T
    return out


def score(
    estimate: xr.DataArray,
    reference: xr.DataArray,
    *,
    dim: str = "time",
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """Score series against a reference on the days that both have.

    Parameters
    ----------
    estimate, reference
        m3 m-3, with the dimension ``dim`` (days) and any others; NaN where missing.
    resamples
        Of the bootstrap; 0 leaves the intervals NaN.
    level
        Of the confidence intervals.
    seed
        Of the bootstrap.

    Returns
    -------
    Dataset with ``n``, ``bias`` (estimate less reference), ``rmse``, ``ubrmse`` (m3 m-3) and ``r``, and for each but n the ends
    of its interval, ``<metric>_lower`` and ``<metric>_upper``. Fewer than 10 common days give NaN.

    Raises
    ------
    ValueError
        If the two have no value of ``dim`` in common.
    """
    estimate, reference = xr.align(estimate, reference, join="inner", copy=False)
    if not estimate.sizes[dim]:
        raise ValueError(f"estimate and reference have no {dim} in common")
    times = estimate.get_index(dim)
    day = ((times - times[0]) // pd.Timedelta(days=1)).to_numpy().astype(np.int64)
    values = xr.apply_ufunc(
        _score_series,
        estimate,
        reference,
        kwargs={"day": day, "resamples": resamples, "level": level, "seed": seed},
        input_core_dims=[[dim], [dim]],
        output_core_dims=[["metric", "end"]],
        vectorize=True,
        output_dtypes=[np.float64],
    )
    out = {}
    for m, name in enumerate(METRICS):
        out[name] = values.isel(metric=m, end=0)
        if m:
            out[f"{name}_lower"], out[f"{name}_upper"] = values.isel(metric=m, end=1), values.isel(metric=m, end=2)
    out["n"] = out["n"].astype(np.int64)
    return xr.Dataset(out)


def score_all(estimates: Mapping[str, xr.DataArray], reference: xr.DataArray, **options: Any) -> xr.Dataset:
    """Score several estimates on identical samples: the days that the reference and every estimate have.

    An estimate that has no value at all in a series (a product without a layer at that depth) takes no part there: it is
    scored as NaN with n = 0, and the others are compared without it.

    Parameters
    ----------
    estimates
        By name, each like ``reference``.
    reference
        m3 m-3, dimensions (..., time).
    options
        As for ``score``.

    Returns
    -------
    As ``score``, with the dimension ``estimate``.
    """
    reference, *aligned = xr.align(reference, *estimates.values(), join="inner", copy=False)
    common = reference.notnull()
    for series in aligned:
        here = series.notnull()
        common = common & (here | ~here.any("time"))
    parts = [score(series.where(common), reference, **options) for series in aligned]
    return xr.concat(parts, pd.Index(list(estimates), name="estimate"))


def summarise(
    scores: xr.Dataset, bands: Sequence[tuple[float, float]], metrics: Sequence[str] = ("rmse", "ubrmse", "bias", "r")
) -> pd.DataFrame:
    """Medians and quartiles of sensors by network, depth band and estimate.

    Parameters
    ----------
    scores
        From ``score_all``, with the dimension ``sensor`` and its coordinates ``network``, ``depth_top``, ``depth_bottom``.
    bands
        Depth bands (top, bottom) in m; a sensor belongs to the one that holds its middle.
    metrics
        Which of them.

    Returns
    -------
    One row for each network, band and estimate, with ``sensors``, ``days`` and, for each metric, ``<metric>_q25``, ``_median``
    and ``_q75``.
    """
    middle = 0.5 * (scores["depth_top"] + scores["depth_bottom"]).values
    networks = scores["network"].values
    rows = []
    for network in sorted(set(networks.tolist())):
        for top, bottom in bands:
            chosen = np.flatnonzero((networks == network) & (middle >= top - 1e-9) & (middle < bottom - 1e-9))
            if not chosen.size:
                continue
            for name in scores["estimate"].values.tolist():
                part = scores.sel(estimate=name).isel(sensor=chosen)
                some = np.isfinite(part["rmse"].values)
                row: dict[str, object] = {
                    "network": network,
                    "band": f"{100 * top:.0f}-{100 * bottom:.0f} cm",
                    "estimate": name,
                    "sensors": int(some.sum()),
                    "days": int(part["n"].values[some].sum()),
                }
                for metric in metrics:
                    values = part[metric].values
                    finite = values[np.isfinite(values)]
                    for label, q in (("q25", 0.25), ("median", 0.5), ("q75", 0.75)):
                        row[f"{metric}_{label}"] = float(np.quantile(finite, q)) if finite.size else np.nan
                rows.append(row)
    return pd.DataFrame(rows)
