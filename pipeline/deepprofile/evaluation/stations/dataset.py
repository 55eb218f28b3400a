"""One dataset for stations of every network.

Dimensions (sensor, time); ``soil_moisture`` in m3 m-3, daily; for each sensor ``network``, ``station``, ``instrument``,
``depth_top`` and ``depth_bottom`` (m; equal for a point), ``latitude``, ``longitude``, ``climate`` and ``land_cover`` (empty
where the files do not say), and ``day_offset_hours``: by how much its days start later than those of UTC (0 where the record
was converted). Sensors come sorted by network, station, depth and instrument, which together are those of one sensor only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

MIN_DAY_FRACTION: Final = 0.75
# Beyond this a sensor reports something other than soil moisture.
VALID_RANGE: Final = (0.0, 0.8)
# The deepest common sensor, at 40 inches, is compared with the end of the profile.
DEEPEST_POINT_M: Final = 1.05

_DAY_S: Final = 86400
_HOUR_S: Final = 3600
# Steps that loggers are set to, s; clocks that wander are taken for the nearest one.
_LOGGER_STEPS_S: Final = np.array(
    [60, 120, 180, 240, 300, 360, 600, 720, 900, 1200, 1800, *(_HOUR_S * h for h in (1, 2, 3, 4, 6, 8, 12, 24))]
)
_WANDER: Final = 0.1
# So many records in a row at one distance are no accident: that is how the logger was set.
_RECORDS_OF_A_STEP: Final = 12
_SHARE_OF_A_STEP: Final = 0.75
# Days, of which half lie before, whose steps are usual at the time of a day.
_TIME_OF_A_STEP: Final = 31
# What CF says of the numbers of each sensor.
_NUMBERS_OF_SENSORS: Final[dict[str, dict[str, str]]] = {
    "depth_top": {"units": "m", "long_name": "depth of the upper end of what the sensor measures", "positive": "down"},
    "depth_bottom": {"units": "m", "long_name": "depth of the lower end of what the sensor measures", "positive": "down"},
    "latitude": {"units": "degrees_north", "standard_name": "latitude", "long_name": "latitude"},
    "longitude": {"units": "degrees_east", "standard_name": "longitude", "long_name": "longitude"},
    "day_offset_hours": {"units": "h", "long_name": "start of the record's days after those of UTC"},
}


class SensorKey(NamedTuple):
    """What tells a sensor from others; depths in m."""

    network: str
    station: str
    depth_top: float
    depth_bottom: float
    instrument: str


@dataclass(frozen=True)
class SensorRecord:
    """The daily record of one sensor: m3 m-3 by day, NaN or absent where missing.

    ``climate`` and ``land_cover``: classes of its station, where the files give them.
    """

    network: str
    station: str
    depth_top: float
    depth_bottom: float
    latitude: float
    longitude: float
    values: pd.Series
    day_offset_hours: float = 0.0
    instrument: str = ""
    climate: str = ""
    land_cover: str = ""

    @property
    def key(self) -> SensorKey:
        """By what sensors are sorted."""
        return SensorKey(self.network, self.station, self.depth_top, self.depth_bottom, self.instrument)


def within_range(series: pd.Series) -> pd.Series:
    """The values that are soil moisture; what lies outside of the valid range, fill values included, is left out."""
    low, high = VALID_RANGE
    return series[(series > low) & (series <= high)]


def daily_means(series: pd.Series, step: pd.Timedelta | pd.Series, min_day_fraction: float = MIN_DAY_FRACTION) -> pd.Series:
    """Daily means of a series in UTC; days with fewer than ``min_day_fraction`` of their time steps are NaN.

    Values outside the valid range do not count. ``step``: of the whole series, or by day as ``day_steps`` gives it.
    """
    valid = within_range(series)
    valid = valid[~valid.index.duplicated()]
    groups = valid.groupby(pd.DatetimeIndex(valid.index).floor("D"))
    means = groups.mean()
    if isinstance(step, pd.Series):
        step = step.reindex(means.index)
    expected = pd.Timedelta(days=1) / step
    return means.where(groups.count() >= min_day_fraction * expected - 1e-9)


def day_steps(times: pd.DatetimeIndex) -> pd.Series:
    """The step at which a sensor records, by day, from the times of all of its records.

    That of a day is the usual (lower median) distance of its records from the next ones. A step longer than what is usual for
    the sensor, or at that time, counts only where it is no accident: twelve records in a row have it. Otherwise records are
    missing there, and the day has the shorter step of the days beside it or of the whole record: three of 24 hourly values
    do not make a day.

    Returns
    -------
    Time steps by day, for each day that has a record.
    """
    stamps = np.unique(times.to_numpy().astype("datetime64[s]").astype(np.int64))
    days, first, counts = np.unique(stamps // _DAY_S, return_index=True, return_counts=True)
    index = pd.DatetimeIndex((days * _DAY_S).astype("datetime64[s]"))
    if stamps.size < 2:
        return pd.Series(pd.Timedelta(seconds=_HOUR_S), index=index)
    gaps = np.diff(stamps)
    usual = _logger_step(np.sort(gaps)[(gaps.size - 1) // 2])
    gaps = np.append(gaps, gaps[-1])
    ordered = gaps[np.lexsort((gaps, stamps // _DAY_S))]
    own = _logger_step(ordered[first + (counts - 1) // 2])
    around = pd.Series(own).rolling(_TIME_OF_A_STEP, center=True, min_periods=1).quantile(0.5, interpolation="lower")
    usual = np.minimum(usual, around.to_numpy())
    alike = np.abs(gaps - np.repeat(own, counts)) <= _WANDER * np.repeat(own, counts)
    regular = np.add.reduceat(alike, first, dtype=int) >= _SHARE_OF_A_STEP * counts
    starts = np.flatnonzero(np.append(True, (own[1:] != own[:-1]) | ~regular[1:] | ~regular[:-1]))
    in_a_row = np.repeat(np.add.reduceat(counts, starts), np.diff(np.append(starts, own.size)))
    meant = (own <= usual) | (regular & (in_a_row >= _RECORDS_OF_A_STEP))
    beside = np.minimum(np.append(own[:1], own[:-1]), np.append(own[1:], own[-1:]))
    steps = np.minimum(np.where(meant, own, np.minimum(beside, usual)), _DAY_S)
    return pd.Series(pd.to_timedelta(steps, unit="s"), index=index)


def _logger_step(seconds: NDArray[np.int64] | np.int64) -> NDArray[np.int64]:
    """The nearest step that loggers are set to, where one is near."""
    given = np.asarray(seconds)
    nearest = _LOGGER_STEPS_S[np.abs(_LOGGER_STEPS_S - given[..., None]).argmin(axis=-1)]
    return np.where(np.abs(nearest - given) <= _WANDER * nearest, nearest, given)


def to_dataset(records: Sequence[SensorRecord]) -> xr.Dataset:
    """Put sensor records side by side on their common days (an outer join), sorted; without any, both dimensions are empty.

    Values are float64, or float32 where those of all records are.
    Sensors that nothing else tells apart get a number after the name of their instrument.
    """
    records = sorted(records, key=lambda record: record.key)
    # Records of many sensors may share one index.
    indices = {id(record.values.index): record.values.index for record in records}
    stamps = {key: days.to_numpy().astype("datetime64[s]") for key, days in indices.items()}
    index = pd.DatetimeIndex(np.unique(np.concatenate(list(stamps.values()))) if stamps else np.array([], "datetime64[s]"))
    places = {key: index.searchsorted(days) for key, days in stamps.items()}
    single = bool(records) and all(record.values.dtype == np.float32 for record in records)
    values = np.full((len(records), index.size), np.nan, np.float32 if single else np.float64)
    for row, record in enumerate(records):
        values[row, places[id(record.values.index)]] = record.values.to_numpy(values.dtype)
    return xr.Dataset(
        {"soil_moisture": (("sensor", "time"), values, {"units": "m3 m-3", "long_name": "daily mean soil moisture"})},
        coords={
            "time": index,
            "network": ("sensor", np.array([r.network for r in records], str)),
            "station": ("sensor", np.array([r.station for r in records], str)),
            "instrument": ("sensor", np.array(_told_apart(records), str), {"long_name": "name of the sensor"}),
            "climate": ("sensor", np.array([r.climate for r in records], str), {"long_name": "climate class (Koeppen-Geiger)"}),
            "land_cover": ("sensor", np.array([r.land_cover for r in records], str), {"long_name": "land cover class"}),
            **{
                name: ("sensor", np.array([getattr(r, name) for r in records], float), attrs)
                for name, attrs in _NUMBERS_OF_SENSORS.items()
            },
        },
    )


def _told_apart(records: Sequence[SensorRecord]) -> list[str]:
    seen: Counter[tuple[str, str, float, float, str]] = Counter()
    names = []
    for record in records:
        seen[record.key] += 1
        number = seen[record.key]
        names.append(record.instrument if number == 1 else f"{record.instrument} ({number})".strip())
    return names


def sensor_estimate(profile: xr.Dataset, depth_top: float, depth_bottom: float) -> xr.DataArray:
    """What a sensor would see of a profile: theta(z) for a point, the layer mean for an interval; m3 m-3.

    A point down to 1.05 m is compared with theta(1.0); deeper sensors have no counterpart.

    Raises
    ------
    ValueError
        For a sensor below the profile.
    """
    if not reaches_profile(depth_bottom):
        raise ValueError(f"a sensor at {depth_top:g} to {depth_bottom:g} m lies below the profile, which ends at 1 m")
    if depth_bottom - depth_top < 1e-6:
        return profile.deepprofile.at(min(depth_top, 1.0))  # type: ignore[no-any-return]
    return profile.deepprofile.mean(depth_top, min(depth_bottom, 1.0))  # type: ignore[no-any-return]


def reaches_profile(depth_bottom: float) -> bool:
    """Whether a sensor lies within the profile: points and the lower ends of intervals down to 1.05 m."""
    return depth_bottom <= DEEPEST_POINT_M + 1e-9
