"""Products made from profiles that sensors measured: what real soils do, with errors whose size is known.

A world of ``deepprofile.twin.simulate`` has a truth that a model made; whoever tunes a prior on it learns the model. Here the
truth are daily profiles of sensors, and only the products' errors are drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from deepprofile.twin.world import LAND_MODELS

Array = NDArray[np.float64]

# --- which records can be a truth -------------------------------------------------------------------------------------

# Volumetric soil moisture that a mineral soil can have, m3 m-3.
RANGE: Final = (0.01, 0.6)
# A reading that is the same for longer than this is of a sensor that is stuck; deep soil may rest for months. By depth in m.
STUCK_DAYS: Final = ((0.15, 20), (0.3, 40), (2.0, 120))
# Soil wets within hours and dries within days: a fall that is larger than this in a day is an electrical fault, m3 m-3.
LARGEST_FALL: Final = 0.10
# A record with more such falls than this share of its days is not used at all.
MOST_FALLS: Final = 0.01
# Daily anomalies of neighbouring sensors of one profile correlate at least so much.
LEAST_AGREEMENT: Final = 0.3
# A record that moves less than this is of a sensor that sees no water, m3 m-3.
LEAST_DEVIATION: Final = 0.003
# Days with all depths that a station needs.
LEAST_DAYS: Final = 250


def screen(profiles: xr.DataArray) -> xr.DataArray:
    """Profiles that can be a truth: sensors that are stuck, jump, or do not agree with their neighbours are left out.

    Parameters
    ----------
    profiles
        Daily soil moisture, m3 m-3, dimensions (station, depth, time), with the coordinate ``depth`` in m from the top
        down; NaN where missing or frozen.

    Returns
    -------
    The stations that pass, with NaN at all depths on days on which one depth has none.
    """
    values = profiles.transpose("station", "depth", "time").values.astype(np.float64)
    depths = profiles["depth"].values
    good = []
    for record in values:
        for k, depth in enumerate(depths):
            record[k] = _sound(record[k], next(days for below, days in STUCK_DAYS if depth <= below))
        record[:, np.isnan(record).any(axis=0)] = np.nan
        there = record[:, np.isfinite(record[0])]
        good.append(there.shape[1] >= LEAST_DAYS and _agrees(there))
    return profiles.transpose("station", "depth", "time").copy(data=values).isel(station=np.flatnonzero(good))


def _sound(series: Array, longest_rest: int) -> Array:
    """A record without what its sensor cannot have seen; nothing of it is left where that is too much."""
    with np.errstate(invalid="ignore"):
        out = np.where((series >= RANGE[0]) & (series <= RANGE[1]), series, np.nan)
        fall = np.concatenate([[False], np.diff(out) < -LARGEST_FALL])
    if fall.sum() > MOST_FALLS * max(np.isfinite(out).sum(), 1):
        return np.full_like(out, np.nan)
    # What is before a fall has risen by as much without a reason.
    out[fall] = np.nan
    out[np.flatnonzero(fall) - 1] = np.nan
    changes = np.concatenate([[True], np.diff(out) != 0.0])
    starts = np.flatnonzero(changes)
    lengths = np.diff(np.append(starts, out.size))
    for start, length in zip(starts, lengths, strict=True):
        if length > longest_rest:
            out[start : start + length] = np.nan
    return out


def _agrees(record: Array) -> bool:
    """Whether every sensor moves, and with its neighbours; (depth, day), complete."""
    if (record.std(axis=1) < LEAST_DEVIATION).any():
        return False
    correlation = np.corrcoef(record)
    return bool((np.diag(correlation, 1) >= LEAST_AGREEMENT).all())


# --- what products would say of them ----------------------------------------------------------------------------------

# Errors of the three models beside the anomalies of the truth, m3 m-3 and m and days; see ``from_profiles``.
GAIN_SPREAD: Final = 0.15
ERROR_DAYS: Final = 10.0
ERROR_DAYS_PER_M: Final = 50.0
ERROR_LENGTH_M: Final = 0.6
RATIO_SPREAD: Final = 0.35
BIAS: Final = 0.045
BIAS_VARYING: Final = 0.4
# And of the retrieval.
RETRIEVAL_LAYER: Final = (0.0, 0.05)
RETRIEVAL_SEEN: Final = 0.45
RETRIEVAL_GAIN_SPREAD: Final = 0.2
RETRIEVAL_NOISE: Final = 0.024
RETRIEVAL_DRIFT: Final = 0.03
RETRIEVAL_DRIFT_DAYS: Final = 10.0
RETRIEVAL_BIAS: Final = 0.025


@dataclass(frozen=True)
class ProfileWorld:
    """Stations whose profiles were measured, and what products would say of them.

    Attributes
    ----------
    truth
        Daily soil moisture at nodes, m3 m-3, dimensions (station, depth, time): linear between nodes.
    products
        As ``deepprofile.fuse`` takes them, with the dimensions (station, time, layer).
    """

    truth: xr.DataArray
    products: dict[str, xr.DataArray]

    def truth_mean(self, top: float, bottom: float) -> xr.DataArray:
        """Mean soil moisture between two depths (m; equal: at a depth), m3 m-3, dimensions (station, time)."""
        weights = node_weights(self.truth["depth"].values, top, bottom)
        return xr.DataArray(
            np.einsum("k,skt->st", weights, self.truth.values), {"time": self.truth["time"]}, ("station", "time")
        )


def node_weights(nodes: Array, top: float, bottom: float) -> Array:
    """By what the values at nodes (m) count in the mean between two depths, linear between nodes and constant beyond them."""
    if bottom - top < 1e-9:
        return np.array([np.interp(top, nodes, unit) for unit in np.eye(nodes.size)])
    edges = np.unique(np.concatenate([[top, bottom], nodes[(nodes > top) & (nodes < bottom)]]))
    at = np.array([np.interp(edges, nodes, unit) for unit in np.eye(nodes.size)])
    return np.asarray((0.5 * (at[:, 1:] + at[:, :-1]) * np.diff(edges)).sum(axis=1) / (bottom - top))


def from_profiles(
    profiles: xr.DataArray,
    seed: int = 0,
    *,
    noise: float = 0.65,
    shared: float = 0.2,
    qualities: Mapping[str, float] | None = None,
) -> ProfileWorld:
    """What three land models and a retrieval would say of measured profiles.

    With an(z) the truth less its time mean m(z), and sd(z) its standard deviation, each model reports on its own layers the
    means of m + g an + e + b. The gain g is N(1, 0.15) at each station. The random error e is sqrt(r) sd(z) times noise that
    is an AR(1) process in time, with an e-folding time of 10 + 50 z days, and correlated as exp(-d / 0.6 m) with depth; a
    share of its variance is common to the three models. The ratio r is ``noise`` times exp(0.35 N(0, 1)) times the model's
    quality; the bias b is 0.045 N(0, 1) at all depths, and 0.4 of that varies with depth. The retrieval reports 0-0.05 m on
    45 % of the days, with a gain of N(1, 0.2), white noise of 0.024, an AR(1) drift of 0.03 and 10 days, and a bias of 0.025.

    Parameters
    ----------
    profiles
        As ``screen`` returns them.
    seed
        Of all that is drawn: the same arguments give the same world.
    noise
        Error variance of a model over that of the truth's anomalies, in the middle of the stations.
    shared
        Share of the models' error variance that is common to them.
    qualities
        Factor on ``noise`` by model; 1 where it is not given.

    Raises
    ------
    ValueError
        For an unknown model, a share outside [0, 1], or a noise that is negative.
    """
    factors = dict.fromkeys(LAND_MODELS, 1.0) | dict(qualities or {})
    if unknown := set(factors) - set(LAND_MODELS):
        raise ValueError(f"qualities names {sorted(unknown)}; the land models are {sorted(LAND_MODELS)}")
    if not 0.0 <= shared <= 1.0 or noise < 0.0:
        raise ValueError(f"shared={shared!r} has to lie between 0 and 1, and noise={noise!r} must not be negative")
    profiles = profiles.transpose("station", "depth", "time")
    nodes, truth = profiles["depth"].values, profiles.values.astype(np.float64)
    stations, depths, days = truth.shape
    mean, deviation = np.nanmean(truth, axis=-1, keepdims=True), np.nanstd(truth, axis=-1)
    anomaly = truth - mean
    streams = iter(np.random.default_rng(seed).spawn(len(LAND_MODELS) + 2))
    common = _noise(next(streams), nodes, stations, days)
    products = {}
    for name, model in LAND_MODELS.items():
        rng = next(streams)
        own = _noise(rng, nodes, stations, days)
        ratio = noise * factors[name] * np.exp(RATIO_SPREAD * rng.standard_normal(stations))
        error = np.sqrt(shared) * common + np.sqrt(1.0 - shared) * own
        error = np.sqrt(ratio)[:, None, None] * deviation[..., None] * error
        gain = 1.0 + GAIN_SPREAD * rng.standard_normal((stations, 1, 1))
        lasting = rng.standard_normal((stations, 1)) + BIAS_VARYING * rng.standard_normal((stations, depths)) @ _root(nodes).T
        reported = mean + gain * anomaly + error + BIAS * lasting[..., None]
        products[name] = _reported(np.clip(reported, *RANGE), nodes, model.reported, profiles)
    rng = next(streams)
    surface = np.einsum("k,skt->st", node_weights(nodes, *RETRIEVAL_LAYER), truth)
    mean_surface = np.nanmean(surface, axis=-1, keepdims=True)
    gain = 1.0 + RETRIEVAL_GAIN_SPREAD * rng.standard_normal((stations, 1))
    seen = mean_surface + gain * (surface - mean_surface) + RETRIEVAL_NOISE * rng.standard_normal((stations, days))
    seen += RETRIEVAL_DRIFT * _ar1(rng.standard_normal((days, stations)), np.exp(-1.0 / RETRIEVAL_DRIFT_DAYS)).T
    seen += RETRIEVAL_BIAS * rng.standard_normal((stations, 1))
    seen = np.where(rng.random((stations, days)) < RETRIEVAL_SEEN, np.clip(seen, *RANGE), np.nan)
    products["smap_l3"] = _layers(seen[:, None], (RETRIEVAL_LAYER,), profiles)
    return ProfileWorld(profiles, products)


def _root(nodes: Array) -> Array:
    """A square root of the vertical correlation of errors at the nodes."""
    return np.asarray(np.linalg.cholesky(np.exp(-np.abs(nodes[:, None] - nodes) / ERROR_LENGTH_M)))


def _noise(rng: np.random.Generator, nodes: Array, stations: int, days: int) -> Array:
    """Errors of unit variance at the nodes, (station, depth, day), lasting longer the deeper they are."""
    white = rng.standard_normal((days, stations, nodes.size)) @ _root(nodes).T
    return np.moveaxis(_ar1(white, np.exp(-1.0 / (ERROR_DAYS + ERROR_DAYS_PER_M * nodes))), 0, -1)


def _ar1(white: Array, persistence: float | Array) -> Array:
    """A stationary process of unit variance along the first axis, from white noise of unit variance."""
    fresh = np.sqrt(1.0 - np.square(persistence))
    out = np.empty_like(white)
    out[0] = white[0]
    for day in range(1, len(white)):
        out[day] = persistence * out[day - 1] + fresh * white[day]
    return out


def _reported(values: Array, nodes: Array, layers: Sequence[tuple[float, float]], like: xr.DataArray) -> xr.DataArray:
    weights = np.array([node_weights(nodes, top, bottom) for top, bottom in layers])
    return _layers(np.einsum("lk,skt->slt", weights, values), layers, like)


def _layers(values: Array, layers: Sequence[tuple[float, float]], like: xr.DataArray) -> xr.DataArray:
    tops, bottoms = zip(*layers, strict=True)
    return xr.DataArray(
        np.moveaxis(values, 1, -1).astype(np.float32),
        dims=("station", "time", "layer"),
        coords={
            "time": like["time"],
            "layer_top": ("layer", list(tops), {"units": "m"}),
            "layer_bottom": ("layer", list(bottoms), {"units": "m"}),
        },
        attrs={"units": "m3 m-3"},
    )
