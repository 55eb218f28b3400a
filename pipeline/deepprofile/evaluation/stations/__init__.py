"""Soil-moisture stations: readers of ISMN, SCAN and USCRN to one dataset.

Dimensions (sensor, time) with ``soil_moisture`` (daily, m3 m-3) and, for each sensor, ``network``, ``station``, ``instrument``,
``depth_top`` and ``depth_bottom`` (m; equal for a point sensor), ``latitude``, ``longitude``, ``climate``, ``land_cover`` and
``day_offset_hours``. Sensors come sorted by network, station, depth and instrument.

A reader raises ``StationError`` with a line for each file that cannot be used; given a ``Report`` it tells that instead, and
reads the others.
"""

from deepprofile.evaluation.stations.dataset import (
    MIN_DAY_FRACTION,
    SensorRecord,
    daily_means,
    day_steps,
    reaches_profile,
    sensor_estimate,
    to_dataset,
)
from deepprofile.evaluation.stations.ismn import ismn_records, read_ismn
from deepprofile.evaluation.stations.reading import MissingStationsError, Report, StationError, StationPath
from deepprofile.evaluation.stations.scan import read_scan, scan_records
from deepprofile.evaluation.stations.uscrn import read_uscrn, uscrn_records

__all__ = [
    "MIN_DAY_FRACTION",
    "MissingStationsError",
    "Report",
    "SensorRecord",
    "StationError",
    "StationPath",
    "daily_means",
    "day_steps",
    "ismn_records",
    "reaches_profile",
    "read_ismn",
    "read_scan",
    "read_uscrn",
    "scan_records",
    "sensor_estimate",
    "to_dataset",
    "uscrn_records",
]
