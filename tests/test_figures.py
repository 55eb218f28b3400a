"""What the figures of stations say."""

import numpy as np
import pandas as pd
import xarray as xr
from deepprofile.figures import series_figure


def test_sensors_at_one_depth_are_named():
    depths = ("sensor", [0.05, 1.016, 1.016])
    coords = {"time": pd.date_range("2015-04-01", periods=5), "depth_top": depths, "depth_bottom": depths}
    sensors = xr.Dataset(
        {"soil_moisture": (("sensor", "time"), np.full((3, 5), 0.2))}, coords | {"instrument": ("sensor", ["A", "B", "C"])}
    )
    figure = series_figure({"fused": sensors.soil_moisture}, None, sensors, "Moor-2")
    assert [axis.get_ylabel() for axis in figure.axes] == ["5 cm", "102 cm\nB", "102 cm\nC"]
