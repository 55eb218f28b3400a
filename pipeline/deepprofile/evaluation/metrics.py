"""Scores of soil-moisture series against a reference, with confidence intervals that respect autocorrelation.

Bias, RMSE, unbiased RMSE and Pearson correlation as in Entekhabi et al. (2010, doi 10.1175/2010JHM1223.1). Intervals are
percentiles of a circular block bootstrap (Politis and Romano 1992): whole blocks of days are drawn, so that the
dependence of one day on the next survives. The length of the blocks follows the lag-one autocorrelation (Carlstein 1986,
doi 10.1214/aos/1176350057): (2 a / (1 - a^2))^(2/3) n^(1/3) days.

Where sensors are summarised, each counts by its effective days: n (1 - a) / (1 + a), the number of independent days that would
tell as much of a mean as n days of an AR(1) process (von Storch and Zwiers 1999, doi 10.1017/CBO9780511612336, 17.1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float64]

METRICS: Final = ("n", "bias", "rmse", "ubrmse", "r")
MIN_SAMPLES: Final = 10
# Of the bootstrap, and of its intervals.
RESAMPLES: Final = 500
LEVEL: Final = 0.95
# What two estimates are compared by, and on which side of zero the difference between the first and the second is better.
COMPARED: Final[Mapping[str, float]] = {"rmse": -1.0, "ubrmse": -1.0, "bias": -1.0, "r": 1.0}
# Of an interval over stations: fewer say nothing of how much they differ.
_FEWEST_STATIONS: Final = 3


@njit(cache=True, nogil=True, error_model="numpy")
def _from_sums(n: float, se: float, sr: float, see: float, srr: float, ser: float, offset: float, out: Array) -> None:
    """n, bias, RMSE, ubRMSE and R from sums of values about origins, of which that of the estimate is larger by ``offset``."""
    out[0] = n
    me, mr = se / n, sr / n
    ve, vr, c = see / n - me * me, srr / n - mr * mr, ser / n - me * mr
    out[1] = me - mr + offset
    unbiased = max(ve + vr - 2.0 * c, 0.0)
    out[2] = np.sqrt(unbiased + out[1] ** 2)
    out[3] = np.sqrt(unbiased)
    out[4] = c / np.sqrt(ve * vr) if ve > 1e-14 and vr > 1e-14 else np.nan


@njit(cache=True, nogil=True, error_model="numpy")
def _scores(estimate: Array, reference: Array, out: Array) -> None:
    """n, bias, RMSE, ubRMSE and R."""
    se = sr = see = srr = ser = 0.0
    origin = reference[0]
    for t in range(estimate.size):
        e, r = estimate[t] - origin, reference[t] - origin
        se += e
        sr += r
        see += e * e
        srr += r * r
        ser += e * r
    _from_sums(estimate.size, se, sr, see, srr, ser, 0.0, out)


@njit(cache=True, nogil=True, error_model="numpy")
def _bootstrap(
    estimate: Array, reference: Array, day: NDArray[np.int64], span: int, block: int, starts: NDArray[np.int64], out: Array
) -> None:
    """Scores of resampled records; blocks are stretches of the calendar, so gaps stay where they are in a block.

    A stretch adds the difference of two running sums, of the days before its end and of those before its start: the work is
    that of the blocks, not that of their days.
    """
    # About their means, so that the differences keep their digits.
    origin_e, origin_r = estimate.mean(), reference.mean()
    running = np.zeros((span + 1, 6))
    for i in range(day.size):
        e, r = estimate[i] - origin_e, reference[i] - origin_r
        row = running[day[i] + 1]
        row[0], row[1], row[2], row[3], row[4], row[5] = 1.0, e, r, e * e, r * r, e * r
    for t in range(span):
        for k in range(6):
            running[t + 1, k] += running[t, k]
    total = np.empty(6)
    for b in range(starts.shape[0]):
        total[:] = 0.0
        for s in range(starts.shape[1]):
            first = starts[b, s]
            after = first + min(block, span - s * block)
            # The calendar is a circle.
            for k in range(6):
                if after <= span:
                    total[k] += running[after, k] - running[first, k]
                else:
                    total[k] += running[span, k] - running[first, k] + running[after - span, k]
        n = total[0]
        if n < 3.0:
            out[b] = np.nan
        else:
            _from_sums(n, total[1], total[2], total[3], total[4], total[5], origin_e - origin_r, out[b])


def lag_one_autocorrelation(error: Array, day: NDArray[np.int64]) -> float:
    """Autocorrelation of errors on adjacent days, from 0 to 0.97; 0 where it cannot be told."""
    if error.size < 3:
        return 0.0
    anomaly = error - error.mean()
    adjacent = np.diff(day) == 1
    variance = float(np.mean(anomaly**2))
    # Below, there is nothing but rounding.
    if adjacent.sum() < 3 or variance <= 1e-14:
        return 0.0
    return float(np.clip(np.mean((anomaly[1:] * anomaly[:-1])[adjacent]) / variance, 0.0, 0.97))


def effective_days(error: Array, day: NDArray[np.int64]) -> float:
    """Independent days that tell as much of a mean as these: n (1 - a) / (1 + a), at least 1."""
    lag_one = lag_one_autocorrelation(error, day)
    return max(error.size * (1.0 - lag_one) / (1.0 + lag_one), 1.0)


def block_length(error: Array, day: NDArray[np.int64]) -> int:
    """Length of the bootstrap's blocks in days, from the lag-one autocorrelation of the errors on adjacent days."""
    lag_one = lag_one_autocorrelation(error, day)
    if lag_one == 0.0:
        return 1
    length = (2.0 * lag_one / (1.0 - lag_one**2)) ** (2.0 / 3.0) * error.size ** (1.0 / 3.0)
    return int(np.clip(np.ceil(length), 1, max(1, (int(day[-1]) + 1) // 3)))


def _day_numbers(times: pd.Index) -> NDArray[np.int64]:
    """Days since the first of some times."""
    return np.asarray((times - times[0]) // pd.Timedelta(days=1), np.int64)


def _starts(span: int, block: int, resamples: int, seed: int) -> NDArray[np.int64]:
    """Days on which the blocks of each resample begin."""
    return np.random.default_rng(seed).integers(0, span, (resamples, -(-span // block)))


def _tails(level: float) -> list[float]:
    """Probabilities of the ends of an interval."""
    return [0.5 * (1.0 - level), 0.5 * (1.0 + level)]


def _score_series(
    estimate: NDArray[Any], reference: NDArray[Any], day: NDArray[np.int64], resamples: int, level: float, seed: int
) -> Array:
    # The last row has the effective days.
    out = np.full((len(METRICS) + 1, 3), np.nan)
    both = np.isfinite(estimate) & np.isfinite(reference)
    out[0, 0] = both.sum()
    if both.sum() < MIN_SAMPLES:
        return out
    e, r, d = estimate[both].astype(np.float64), reference[both].astype(np.float64), day[both]
    d = d - d[0]
    value = np.empty(len(METRICS))
    _scores(e, r, value)
    out[:-1, 0], out[-1, 0] = value, effective_days(e - r, d)
    if resamples:
        span, block = int(d[-1]) + 1, block_length(e - r, d)
        drawn = np.empty((resamples, len(METRICS)))
        _bootstrap(e, r, d, span, block, _starts(span, block, resamples, seed), drawn)
        out[1:-1, 1:] = np.nanquantile(drawn[:, 1:], _tails(level), axis=0).T
    return out


def score(
    estimate: xr.DataArray,
    reference: xr.DataArray,
    *,
    dim: str = "time",
    resamples: int = RESAMPLES,
    level: float = LEVEL,
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
    of its interval, ``<metric>_lower`` and ``<metric>_upper``; and ``n_effective``, the days that are worth as much were their
    errors independent. Fewer than 10 common days give NaN.

    Raises
    ------
    ValueError
        If the two have no value of ``dim`` in common.
    """
    estimate, reference = xr.align(estimate, reference, join="inner", copy=False)
    if not estimate.sizes[dim]:
        raise ValueError(f"estimate and reference have no {dim} in common")
    day = _day_numbers(estimate.get_index(dim))
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
    out["n_effective"] = values.isel(metric=len(METRICS), end=0)
    return xr.Dataset(out)


def _difference_series(
    estimate: NDArray[Any],
    rival: NDArray[Any],
    reference: NDArray[Any],
    day: NDArray[np.int64],
    resamples: int,
    level: float,
    seed: int,
) -> Array:
    """Rows: n, the metrics, the effective days; columns: of the estimate, of the rival, their difference, its interval."""
    out = np.full((len(METRICS) + 1, 5), np.nan)
    common = np.isfinite(estimate) & np.isfinite(rival) & np.isfinite(reference)
    out[0, :2] = common.sum()
    if common.sum() < MIN_SAMPLES:
        return out
    r, d = reference[common].astype(np.float64), day[common]
    pair = [each[common].astype(np.float64) for each in (estimate, rival)]
    d = d - d[0]
    for k, series in enumerate(pair):
        value = np.empty(len(METRICS))
        _scores(series, r, value)
        out[:-1, k], out[-1, k] = value, effective_days(series - r, d)
    out[1:-1, 2] = _gap(out[1:-1, 0], out[1:-1, 1])
    if resamples:
        # The same blocks for both: what a stretch of days does to the two alike cancels. The longer length respects both.
        span, block = int(d[-1]) + 1, max(block_length(series - r, d) for series in pair)
        starts, drawn = _starts(span, block, resamples, seed), np.empty((2, resamples, len(METRICS)))
        for k, series in enumerate(pair):
            _bootstrap(series, r, d, span, block, starts, drawn[k])
        gaps = _gap(drawn[0, :, 1:].T, drawn[1, :, 1:].T)
        known = np.isfinite(gaps).any(axis=1)
        out[1:-1, 3:][known] = np.nanquantile(gaps[known], _tails(level), axis=1).T
    return out


def _gap(estimate: Array, rival: Array) -> Array:
    """Differences of the metrics (those after n, along the first axis); of biases, those of their sizes."""
    gap = estimate - rival
    gap[0] = np.abs(estimate[0]) - np.abs(rival[0])
    return gap


def score_differences(
    estimate: xr.DataArray,
    rival: xr.DataArray,
    reference: xr.DataArray,
    *,
    dim: str = "time",
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> xr.Dataset:
    """Compare two estimates with a reference on the days that all three have.

    The intervals are those of a paired block bootstrap: both estimates are scored on the same resampled days, so that the
    difference is judged by what the two do not share. Blocks are as long as the more persistent errors of the two ask for.

    Parameters
    ----------
    estimate, rival, reference
        m3 m-3, with the dimension ``dim`` (days) and any others; NaN where missing.
    resamples, level, seed
        As for ``score``.

    Returns
    -------
    Dataset with ``n``, the common days, and for each of ``bias``, ``rmse``, ``ubrmse`` (m3 m-3) and ``r``:
    ``<metric>_estimate`` and ``<metric>_rival``; ``<metric>_difference``, the first less the second (for the bias: of their
    absolute values), and the ends of its interval, ``<metric>_lower`` and ``<metric>_upper``. Differences of bias, RMSE and
    ubRMSE below 0, and of R above 0, are in favour of the estimate. ``n_effective``: the mean of both estimates' effective
    days. Fewer than 10 common days give NaN.

    Raises
    ------
    ValueError
        If the three have no value of ``dim`` in common.
    """
    estimate, rival, reference = xr.align(estimate, rival, reference, join="inner", copy=False)
    if not estimate.sizes[dim]:
        raise ValueError(f"estimate, rival and reference have no {dim} in common")
    day = _day_numbers(estimate.get_index(dim))
    values = xr.apply_ufunc(
        _difference_series,
        estimate,
        rival,
        reference,
        kwargs={"day": day, "resamples": resamples, "level": level, "seed": seed},
        input_core_dims=[[dim]] * 3,
        output_core_dims=[["metric", "part"]],
        vectorize=True,
        output_dtypes=[np.float64],
    )
    out = {
        "n": values.isel(metric=0, part=0).astype(np.int64),
        "n_effective": values.isel(metric=len(METRICS), part=slice(0, 2)).mean("part", skipna=False),
    }
    for m, name in enumerate(METRICS):
        if m:
            for k, part in enumerate(("estimate", "rival", "difference", "lower", "upper")):
                out[f"{name}_{part}"] = values.isel(metric=m, part=k)
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
    ordered = [series.transpose(*reference.dims) for series in aligned]
    axis = reference.get_axis_num("time")
    common = reference.copy(data=identical_samples([series.values for series in ordered], reference.values, axis))
    parts = [score(series.where(common), reference, **options) for series in aligned]
    return xr.concat(parts, pd.Index(list(estimates), name="estimate"))


def identical_samples(estimates: Sequence[NDArray[Any]], reference: NDArray[Any], axis: int = -1) -> NDArray[np.bool_]:
    """Where the reference and every estimate have a value, along days; see ``score_all``."""
    common: NDArray[np.bool_] = ~np.isnan(reference)
    for values in estimates:
        there = ~np.isnan(values)
        common &= there | ~there.any(axis=axis, keepdims=True)
    return common


def score_arrays(estimates: Sequence[NDArray[Any]], reference: NDArray[Any], day: NDArray[np.int64]) -> Array:
    """What ``score_all`` tells, without labels: (estimate, series, metric, 3), each with the ends of its interval.

    ``estimates``, ``reference``: (series, day), m3 m-3; ``day``: the number of each day. After the metrics stand the effective
    days.
    """
    common = identical_samples(estimates, reference)
    scored = partial(_score_series, day=day, resamples=RESAMPLES, level=LEVEL, seed=0)
    return np.array(
        [
            [scored(np.where(there, one, np.nan), other) for one, other, there in zip(values, reference, common, strict=True)]
            for values in estimates
        ]
    )


def compare_arrays(estimate: NDArray[Any], rival: NDArray[Any], reference: NDArray[Any], day: NDArray[np.int64]) -> Array:
    """What ``score_differences`` tells, without labels: (series, metric, 5), of arrays (series, day).

    Of the estimate, of the rival, their difference, and the ends of its interval. The first row has the number of common days,
    the last the effective days of both.
    """
    compared = partial(_difference_series, day=day, resamples=RESAMPLES, level=LEVEL, seed=0)
    return np.array([compared(*three) for three in zip(estimate, rival, reference, strict=True)])


def weighted_quantile(values: Array, weights: Array, q: float) -> float:
    """Quantile of values that count by weights; NaN where none is finite with a weight above 0.

    Sorted values lie at (C_k - w_k / 2 - w_1 / 2) / (C_n - w_1 / 2 - w_n / 2), with C_k the sum of the first k weights; between
    them quantiles are linear. With equal weights that is the quantile of numpy.
    """
    used = np.isfinite(values) & (weights > 0.0)
    if not used.any():
        return float("nan")
    order = np.argsort(values[used], kind="stable")
    values, weights = values[used][order], weights[used][order]
    place = np.cumsum(weights) - 0.5 * (weights + weights[0])
    return float(np.interp(q * place[-1], place, values)) if values.size > 1 else float(values[0])


def summarise(
    scores: xr.Dataset,
    bands: Sequence[tuple[float, float]],
    metrics: Sequence[str] = ("rmse", "ubrmse", "bias", "r"),
    by: str = "network",
) -> pd.DataFrame:
    """Weighted medians and quartiles of sensors by group, depth band and estimate.

    A sensor counts by its effective days, the mean of its estimates', so that all estimates are judged by the same weights; by
    its days where scores do not have ``n_effective``.

    Parameters
    ----------
    scores
        From ``score_all``, with the dimension ``sensor`` and its coordinates ``depth_top``, ``depth_bottom``, and ``by``.
    bands
        Depth bands (top, bottom) in m; a sensor belongs to the one that holds its middle.
    metrics
        Which of them.
    by
        Coordinate that groups sensors, such as ``network`` or ``climate``; where it is empty a sensor is left out.

    Returns
    -------
    One row for each group, band and estimate, with ``sensors``, ``days`` and, for each metric, ``<metric>_q25``, ``_median``
    and ``_q75``.
    """
    middle = 0.5 * (scores["depth_top"] + scores["depth_bottom"]).values
    groups = scores[by].values.astype(str)
    weights = sensor_weights(scores)
    rows = []
    for group in sorted(set(groups.tolist()) - {""}):
        for top, bottom in bands:
            chosen = np.flatnonzero((groups == group) & (middle >= top - 1e-9) & (middle < bottom - 1e-9))
            if not chosen.size:
                continue
            for name in scores["estimate"].values.tolist():
                part = scores.sel(estimate=name).isel(sensor=chosen)
                some = np.isfinite(part["rmse"].values)
                row: dict[str, object] = {
                    by: group,
                    "band": band_name(top, bottom),
                    "estimate": name,
                    "sensors": int(some.sum()),
                    "days": int(part["n"].values[some].sum()),
                }
                for metric in metrics:
                    for label, q in (("q25", 0.25), ("median", 0.5), ("q75", 0.75)):
                        row[f"{metric}_{label}"] = weighted_quantile(part[metric].values, weights[chosen], q)
                rows.append(row)
    return pd.DataFrame(rows)


def sensor_weights(scores: xr.Dataset) -> Array:
    """By what each sensor counts: its effective days, the mean of the estimates that were scored; 0 where none was."""
    days = scores["n_effective" if "n_effective" in scores else "n"].transpose("estimate", "sensor").values.astype(np.float64)
    scored = np.isfinite(days) & (days > 0.0)
    return np.asarray(np.where(scored, days, 0.0).sum(axis=0) / np.maximum(scored.sum(axis=0), 1))


def station_names(sensors: xr.Dataset) -> list[str]:
    """The station of each sensor, its network first."""
    return [f"{network}/{name}" for network, name in zip(sensors["network"].values, sensors["station"].values, strict=True)]


def band_name(top: float, bottom: float) -> str:
    """A depth band (m) as tables show it, such as ``8-30 cm``."""
    return f"{100 * top:.0f}-{100 * bottom:.0f} cm"


def summarise_differences(
    differences: xr.Dataset,
    bands: Sequence[tuple[float, float]],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> pd.DataFrame:
    """Paired differences of sensors by depth band and rival: their median, and at how many sensors the estimate is better.

    At a sensor the estimate is better, or worse, where the interval of the difference lies on one side of 0; else that is
    undecided. Sensors count by their effective days in the median. Its interval comes from a bootstrap of stations: sensors of
    one station, which share their weather and soil, are drawn together.

    Parameters
    ----------
    differences
        From ``score_differences``, with the dimensions ``rival`` (with its coordinate) and ``sensor``, and the coordinates
        ``network``, ``station``, ``depth_top`` and ``depth_bottom`` of the sensors.
    bands
        Depth bands (top, bottom) in m; a sensor belongs to the one that holds its middle.
    resamples, level, seed
        Of the bootstrap of stations.

    Returns
    -------
    One row for each band, rival and metric with a sensor: ``sensors``, ``stations``, ``days``; ``estimate`` and
    ``rival_score``, the medians of both (of absolute biases); ``difference``, ``lower``, ``upper`` (NaN for fewer than 3
    stations); ``better``, ``worse``, ``undecided``.
    """
    middle = 0.5 * (differences["depth_top"] + differences["depth_bottom"]).values
    stations = np.array(station_names(differences))
    rows = []
    for top, bottom in bands:
        within = (middle >= top - 1e-9) & (middle < bottom - 1e-9)
        for rival in differences["rival"].values.tolist():
            one = differences.sel(rival=rival)
            for metric, sign in COMPARED.items():
                gaps = one[f"{metric}_difference"].values
                some = np.flatnonzero(within & np.isfinite(gaps))
                if not some.size:
                    continue
                part, weights = one.isel(sensor=some), one["n_effective"].values[some]
                scores = [part[f"{metric}_{which}"].values for which in ("estimate", "rival")]
                ours, theirs = [np.abs(values) for values in scores] if metric == "bias" else scores
                low, high = sign * part[f"{metric}_lower"].values, sign * part[f"{metric}_upper"].values
                better, worse = int((np.fmin(low, high) > 0.0).sum()), int((np.fmax(low, high) < 0.0).sum())
                ends = _interval_of_median(gaps[some], weights, stations[some], resamples, level, seed)
                rows.append(
                    {
                        "band": band_name(top, bottom),
                        "rival": rival,
                        "metric": metric,
                        "sensors": some.size,
                        "stations": len(set(stations[some])),
                        "days": int(part["n"].values.sum()),
                        "estimate": weighted_quantile(ours, weights, 0.5),
                        "rival_score": weighted_quantile(theirs, weights, 0.5),
                        "difference": weighted_quantile(gaps[some], weights, 0.5),
                        "lower": ends[0],
                        "upper": ends[1],
                        "better": better,
                        "worse": worse,
                        "undecided": some.size - better - worse,
                    }
                )
    return pd.DataFrame(rows)


def _interval_of_median(
    values: Array, weights: Array, stations: NDArray[Any], resamples: int, level: float, seed: int
) -> tuple[float, float]:
    """Ends of the interval of a weighted median, by a bootstrap of whole stations."""
    names, of_sensor = np.unique(stations, return_inverse=True)
    if names.size < _FEWEST_STATIONS or not resamples:
        return float("nan"), float("nan")
    drawn = np.random.default_rng(seed).integers(0, names.size, (resamples, names.size))
    medians = [weighted_quantile(values, weights * np.bincount(each, minlength=names.size)[of_sensor], 0.5) for each in drawn]
    low, high = np.nanquantile(medians, _tails(level))
    return float(low), float(high)
