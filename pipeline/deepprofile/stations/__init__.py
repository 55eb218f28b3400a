"""Soil-moisture stations: readers of ISMN, SCAN and USCRN to one dataset.

Dimensions (sensor, time) with ``soil_moisture`` (daily, m3 m-3) and, for each sensor, ``network``, ``station``, ``depth_top``
and ``depth_bottom`` (m; equal for a point sensor), ``latitude``, ``longitude`` and ``day_offset_hours``.
"""

from deepprofile.stations.dataset import daily_means, reaches_profile, sensor_estimate
from deepprofile.stations.ismn import read_ismn
from deepprofile.stations.scan import read_scan
from deepprofile.stations.uscrn import read_uscrn

__all__ = ["daily_means", "reaches_profile", "read_ismn", "read_scan", "read_uscrn", "sensor_estimate"]
