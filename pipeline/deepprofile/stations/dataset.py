"""One dataset for stations of every network.

Dimensions (sensor, time); ``soil_moisture`` in m3 m-3, daily; for each sensor ``network``, ``station``, ``depth_top`` and
``depth_bottom`` (m; equal for a point), ``latitude``, ``longitude``, and ``day_offset_hours``: by how much its days start
later than those of UTC (0 where the record was converted).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
import xarray as xr

MIN_DAY_FRACTION: Final = 0.75
# Beyond this a sensor reports something other than soil moisture.
VALID_RANGE: Final = (0.0, 0.8)
# The deepest common sensor, at 40 inches, is compared with the end of the profile.
DEEPEST_POINT_M: Final = 1.05


@dataclass(frozen=True)
class SensorRecord:
    """The daily record of one sensor: m3 m-3 by UTC day, NaN or absent where missing."""

    network: str
    station: str
    depth_top: float
    depth_bottom: float
    latitude: float
    longitude: float
    values: pd.Series
    day_offset_hours: float = 0.0


def daily_means(series: pd.Series, step: pd.Timedelta, min_day_fraction: float = MIN_DAY_FRACTION) -> pd.Series:
    """Daily means of a series in UTC; days with fewer than ``min_day_fraction`` of their time steps are NaN.

    Values outside the valid range do not count.
    """
    low, high = VALID_RANGE
    valid = series[(series > low) & (series <= high)]
    valid = valid[~valid.index.duplicated()]
    expected = pd.Timedelta(days=1) / step
    groups = valid.groupby(pd.DatetimeIndex(valid.index).floor("D"))
    means = groups.mean()
    return means.where(groups.count() >= min_day_fraction * expected - 1e-9).astype(np.float32)


def to_dataset(records: Sequence[SensorRecord]) -> xr.Dataset:
    """Put sensor records side by side on their common days (an outer join).

    Raises
    ------
    ValueError
        If there is no record.
    """
    if not records:
        raise ValueError("no sensor record was found")
    index = pd.DatetimeIndex(sorted(set().union(*(record.values.index for record in records))))
    values = np.stack([record.values.reindex(index).to_numpy(np.float32) for record in records])
    return xr.Dataset(
        {"soil_moisture": (("sensor", "time"), values, {"units": "m3 m-3", "long_name": "daily mean soil moisture"})},
        coords={
            "time": index,
            "network": ("sensor", [r.network for r in records]),
            "station": ("sensor", [r.station for r in records]),
            "depth_top": ("sensor", [r.depth_top for r in records], {"units": "m"}),
            "depth_bottom": ("sensor", [r.depth_bottom for r in records], {"units": "m"}),
            "latitude": ("sensor", [r.latitude for r in records], {"units": "degrees_north"}),
            "longitude": ("sensor", [r.longitude for r in records], {"units": "degrees_east"}),
            "day_offset_hours": (
                "sensor",
                [r.day_offset_hours for r in records],
                {"units": "h", "long_name": "start of the record's days after those of UTC"},
            ),
        },
    )


def sensor_estimate(profile: xr.Dataset, depth_top: float, depth_bottom: float) -> xr.DataArray:
    """What a sensor would see of a profile: theta(z) for a point, the layer mean for an interval; m3 m-3.

    A point down to 1.05 m is compared with theta(1.0); deeper sensors have no counterpart.

    Raises
    ------
    ValueError
        For a sensor below the profile.
    """
    if not reaches_profile(depth_top, depth_bottom):
        raise ValueError(f"a sensor at {depth_top:g} to {depth_bottom:g} m lies below the profile, which ends at 1 m")
    if depth_bottom - depth_top < 1e-6:
        return profile.deepprofile.at(min(depth_top, 1.0))  # type: ignore[no-any-return]
    return profile.deepprofile.mean(depth_top, min(depth_bottom, 1.0))  # type: ignore[no-any-return]


def reaches_profile(depth_top: float, depth_bottom: float) -> bool:
    """Whether a sensor lies within the profile: points and the lower ends of intervals down to 1.05 m."""
    return depth_bottom <= DEEPEST_POINT_M + 1e-9
