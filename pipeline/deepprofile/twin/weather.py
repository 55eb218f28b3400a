"""Correlated random fields and the weather of the twin: rain, snow melt, evaporative demand, temperature."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.signal import lfilter

from deepprofile.core.screens import is_under_snow

Array = NDArray[np.float64]


def smooth_field(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> Array:
    """One Gaussian field of unit variance with correlation length ``scale`` (cells); shape (y, x)."""
    return np.asarray(smooth_fields(rng, 1, shape, scale)[0])


def smooth_fields(rng: np.random.Generator, days: int, shape: tuple[int, ...], scale: float, persistence: float = 0.0) -> Array:
    """Gaussian fields of unit variance, correlated in space and, with the lag-one value ``persistence``, in time.

    Shape (day, y, x).
    """
    pad = int(np.ceil(3 * scale))
    noise = rng.standard_normal((days, shape[0] + 2 * pad, shape[1] + 2 * pad))
    field = gaussian_filter(noise, (0.0, scale, scale), mode="wrap")[:, pad : pad + shape[0], pad : pad + shape[1]]
    # The variance that a Gaussian kernel of this width leaves in white noise: 1 / (4 pi scale^2), discretised.
    taps = np.exp(-0.5 * (np.arange(-pad, pad + 1) / scale) ** 2)
    field /= np.sum((taps / taps.sum()) ** 2)
    if persistence > 0.0:
        start = persistence * field[:1]
        field, _ = lfilter([np.sqrt(1.0 - persistence**2)], [1.0, -persistence], field, axis=0, zi=start * np.ones((1, *shape)))
    return np.asarray(field)


@dataclass(frozen=True)
class Weather:
    """Forcing of a region, shape (day, y, x): ``rain`` in m per day (melt included), ``demand`` in m per day, ``frozen``."""

    rain: Array
    demand: Array
    frozen: NDArray[np.bool_]
    first_day_of_year: int


def make_weather(rng: np.random.Generator, days: int, shape: tuple[int, ...], first_day_of_year: int) -> Weather:
    """Rain from a thresholded latent field, seasonal demand and temperature, and a snow store that melts in spring."""
    season = 2.0 * np.pi * (np.arange(days) + first_day_of_year - 15) / 365.25
    rows = np.linspace(-1.0, 1.0, shape[0])[:, None]
    wetness = 0.35 * smooth_field(rng, shape, 10.0) + 0.25 * rows
    latent = 0.92 * smooth_fields(rng, days, shape, 6.0, persistence=0.45) + 0.39 * smooth_fields(rng, days, shape, 1.5)
    slow = np.asarray(smooth_fields(rng, days, shape, 15.0, persistence=0.98))
    threshold = 0.75 + 0.3 * np.cos(season + 0.6)[:, None, None] - 0.5 * wetness - 0.35 * slow
    rain = 0.011 * np.exp(0.3 * wetness) * np.maximum(latent - threshold, 0.0) ** 1.25

    temperature = (
        12.0 - 11.0 * np.cos(season)[:, None, None] - 4.0 * rows + 3.5 * smooth_fields(rng, days, shape, 12.0, persistence=0.8)
    )
    sunny = np.clip(1.1 - 0.25 * latent, 0.4, 1.6)
    demand = 0.0033 * np.clip(1.0 - 0.85 * np.cos(season), 0.08, None)[:, None, None] * sunny * (1.0 - 0.15 * rows)

    store = np.zeros(shape)
    melted = np.empty_like(rain)
    snow = np.zeros(rain.shape, dtype=bool)
    for day in range(days):
        cold = temperature[day] < 0.0
        store = store + np.where(cold, rain[day], 0.0)
        melt = np.minimum(store, 0.004 * np.clip(temperature[day], 0.0, None))
        store = store - melt
        melted[day] = np.where(cold, 0.0, rain[day]) + melt
        snow[day] = is_under_snow(1000.0 * store)
    return Weather(rain=melted, demand=demand, frozen=(temperature < 0.5) | snow, first_day_of_year=first_day_of_year)
