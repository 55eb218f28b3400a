"""What a sensor can say of a cell: the variance that the posterior does not explain, and how often intervals hold.

A sensor measures some litres of soil, an estimate is the mean of a cell. Their difference has three parts: the error of the
estimate, which its posterior variance sigma^2 describes; a part that stays the same (the soil and the terrain at the sensor are
not those of the cell); and one that varies (rain, roots and snow are not either). The last two are errors of representativeness
(Gruber et al. 2013, doi 10.2136/vzj2012.0170; Molero et al. 2018, doi 10.1002/2017JD027478): of the point, not of the estimate.

For the sensors s of a depth band, with differences d = estimate less sensor, their mean square q_s and that of their anomalies
w_s = q_s - mean(d)^2, and the mean posterior variance p_s on the same days, the variances are those at which the standardized
mean squares are what they are for a normal distribution of the variance p_s + r:

    sum_s n_s min(q_s / (p_s + r), c^2) = k sum_s n_s     ->  r = constant + varying
    sum_s n_s min(w_s / (p_s + r), c^2) = k sum_s n_s     ->  r = varying

with n_s the effective days, c = 3 and k = E min(z^2, c^2) for a standard normal z: Huber's proposal 2 for a scale (Huber and
Ronchetti 2009, Robust Statistics, chapter 5; at c = 3 one sample of a normal distribution in 370 is cut). Where the posterior
explains all, the variance is 0. A sensor that is broken counts as one that is three standard deviations off.

What is estimated on one half of the stations is used at the other: no station judges itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from deepprofile.evaluation.metrics import MIN_SAMPLES, effective_days

Array = NDArray[np.float64]

# Depth bands of sensors (top, bottom) in m: those at 5, 10 and 20, 50, and 100 cm of the common networks.
BANDS_M: Final = ((0.0, 0.08), (0.08, 0.3), (0.3, 0.7), (0.7, 1.05))
# Probabilities for which the share of days inside is counted.
LEVELS: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
# Which intervals: about the estimate itself or about its anomalies, by the posterior alone or with representativeness.
INTERVALS: Final = ("with means", "with means, representativeness", "anomalies", "anomalies, representativeness")
# Stations that a variance needs: the mean square of eight normal values lies between a third and twice the variance (90 % of
# chi-square with 8 degrees of freedom).
MIN_STATIONS: Final = 8
CUT: Final = 3.0


class Differences(NamedTuple):
    """Differences between an estimate and its sensors, estimate less sensor; each of shape (sensor,), NaN where not known.

    Attributes
    ----------
    days
        Days with both, and ``effective_days`` of these.
    mean
        m3 m-3.
    mean_square, anomaly_square
        With the time mean and without, m6 m-6.
    variance
        Mean posterior variance on these days, m6 m-6.
    """

    days: Array
    effective_days: Array
    mean: Array
    mean_square: Array
    anomaly_square: Array
    variance: Array


class Variances(NamedTuple):
    """Variances of representativeness, m6 m-6; of one band, or one for each sensor; NaN where there are too few stations.

    ``constant``: of what stays the same between a sensor and its cell. ``varying``: of what changes from day to day.
    """

    constant: Array
    varying: Array


def differences(estimate: NDArray[np.floating], deviation: NDArray[np.floating], sensor: NDArray[np.floating]) -> Differences:
    """Differences of series; fewer than 10 common days give NaN.

    Parameters
    ----------
    estimate, deviation, sensor
        The estimate, its standard deviation, and what was measured, m3 m-3, shape (sensor, day) on consecutive days; NaN where
        missing.
    """
    rows = []
    day = np.arange(sensor.shape[1])
    for one, width, measured in zip(estimate, deviation, sensor, strict=True):
        both = np.isfinite(one) & np.isfinite(width) & np.isfinite(measured)
        if both.sum() < MIN_SAMPLES:
            rows.append([float(both.sum()), *[np.nan] * 5])
            continue
        off = one[both].astype(np.float64) - measured[both]
        mean, square = float(off.mean()), float(np.mean(off**2))
        explained = float(np.mean(width[both].astype(np.float64) ** 2))
        rows.append([float(off.size), effective_days(off, day[both]), mean, square, max(square - mean**2, 0.0), explained])
    return Differences(*np.array(rows).reshape(-1, len(Differences._fields)).T)


def halves(stations: Sequence[str]) -> NDArray[np.int64]:
    """Which half of the stations (0 or 1) each sensor belongs to, from the names of their stations, network first.

    Every other station in the order of their names: each network is split evenly, and sensors of a station stay together.
    """
    _, place = np.unique(np.array(stations, str), return_inverse=True)
    return np.asarray(place.reshape(-1) % 2, np.int64)


def bands(depth_top: Array, depth_bottom: Array) -> NDArray[np.int64]:
    """The depth band of each sensor (m), by its middle; -1 outside of all."""
    middle = 0.5 * (np.asarray(depth_top) + np.asarray(depth_bottom))
    found = np.full(middle.shape, -1, np.int64)
    for k, (top, bottom) in enumerate(BANDS_M):
        found[(middle >= top - 1e-9) & (middle < bottom - 1e-9)] = k
    # A sensor at 40 inches, or at 1.05 m, is compared with the end of the profile.
    found[(found < 0) & (middle >= BANDS_M[-1][0])] = len(BANDS_M) - 1
    return found


def fit(found: Differences) -> tuple[float, float]:
    """The constant and the varying variance of representativeness of some sensors, m6 m-6."""
    whole = _unexplained(found.mean_square, found.variance, found.effective_days)
    varying = _unexplained(found.anomaly_square, found.variance, found.effective_days)
    return max(whole - varying, 0.0), varying


def _unexplained(square: Array, variance: Array, weight: Array) -> float:
    """The root r of the equation above; 0 where the variance explains the mean squares."""
    expected = _expected_square(CUT)

    def excess(rest: float) -> float:
        return float(np.average(np.minimum(square / (variance + rest), CUT**2), weights=weight)) - expected

    if excess(0.0) <= 0.0:
        return 0.0
    most = float(square.max()) / expected
    return float(optimize.brentq(excess, 0.0, most, xtol=1e-12))


def _expected_square(cut: float) -> float:
    """E min(z^2, cut^2) for a standard normal z."""
    density = np.exp(-0.5 * cut**2) / np.sqrt(2.0 * np.pi)
    beyond = special.ndtr(-cut)
    return float(1.0 - 2.0 * beyond - 2.0 * cut * density + 2.0 * cut**2 * beyond)


def crosswise(found: Differences, band: NDArray[np.int64], stations: Sequence[str]) -> Variances:
    """The variances of each sensor, estimated at the stations of the other half.

    Parameters
    ----------
    found
        Of all sensors.
    band
        Of each sensor, as ``bands`` gives it.
    stations
        Name of each sensor's station, network first.

    Returns
    -------
    One for each sensor; NaN where the other half has fewer than 8 stations in the band.
    """
    half, names = halves(stations), np.array(stations, str)
    constant, varying = (np.full(band.shape, np.nan) for _ in range(2))
    usable = np.isfinite(found.mean_square) & (found.variance > 0.0) & (band >= 0)
    for k in range(len(BANDS_M)):
        for side in (0, 1):
            others = np.flatnonzero(usable & (band == k) & (half != side))
            if np.unique(names[others]).size >= MIN_STATIONS:
                mine = (band == k) & (half == side)
                constant[mine], varying[mine] = fit(Differences(*(values[others] for values in found)))
    return Variances(constant, varying)


def coverage(
    estimate: NDArray[np.floating], deviation: NDArray[np.floating], sensor: NDArray[np.floating], variances: Variances
) -> Array:
    """Share of days on which the sensor lies inside the intervals of the estimate.

    Parameters
    ----------
    estimate, deviation, sensor
        As for ``differences``.
    variances
        Of each sensor; where they are NaN, so are the intervals that need them.

    Returns
    -------
    Shape (interval, level, sensor) in the order of ``INTERVALS`` and ``LEVELS``; NaN for fewer than 10 common days.
    """
    reach = special.ndtri(0.5 + 0.5 * np.array(LEVELS))
    out = np.full((len(INTERVALS), len(LEVELS), len(sensor)), np.nan)
    for s, (one, width, measured) in enumerate(zip(estimate, deviation, sensor, strict=True)):
        both = np.isfinite(one) & np.isfinite(width) & np.isfinite(measured)
        if both.sum() < MIN_SAMPLES:
            continue
        off, variance = one[both].astype(np.float64) - measured[both], width[both].astype(np.float64) ** 2
        varying = float(variances.varying[s])
        whole = varying + float(variances.constant[s])
        for k, (values, more) in enumerate(((off, 0.0), (off, whole), (off - off.mean(), 0.0), (off - off.mean(), varying))):
            if np.isfinite(more):
                # From the smallest to the largest: one pass for all levels.
                size = np.sort(np.abs(values) / np.sqrt(variance + more))
                out[k, :, s] = np.searchsorted(size, reach, side="right") / size.size
    return out
