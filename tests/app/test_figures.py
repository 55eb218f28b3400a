"""What the figures of stations say."""

import numpy as np
import pandas as pd
import xarray as xr
from deepprofile.app.figures import differences_figure, reliability_figure, series_figure


def test_sensors_at_one_depth_are_named():
    depths = ("sensor", [0.05, 1.016, 1.016])
    coords = {"time": pd.date_range("2015-04-01", periods=5), "depth_top": depths, "depth_bottom": depths}
    sensors = xr.Dataset(
        {"soil_moisture": (("sensor", "time"), np.full((3, 5), 0.2))}, coords | {"instrument": ("sensor", ["A", "B", "C"])}
    )
    figure = series_figure({"fused": sensors.soil_moisture}, None, sensors, "Moor-2")
    assert [axis.get_ylabel() for axis in figure.axes] == ["5 cm", "102 cm\nB", "102 cm\nC"]


def test_a_reliability_diagram_leaves_out_what_is_not_known():
    levels = np.array([0.5, 0.9])
    panels = [("5 cm", {"with means": [0.3, 0.6], "with means, representativeness": [0.5, np.nan], "anomalies": [np.nan] * 2})]
    (axis,) = reliability_figure(panels, levels, "Coverage").axes
    diagonal, alone, with_more = axis.get_lines()
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata()) == [0.0, 1.0]
    assert (list(alone.get_ydata()), alone.get_linestyle()) == ([0.3, 0.6], "--")
    assert (with_more.get_ydata()[0], with_more.get_linestyle()) == (0.5, "-")


def test_the_side_in_favour_of_the_estimate_is_shaded():
    row = {"band": "0-8 cm", "rival": "c3s", "metric": "rmse", "difference": -0.02, "lower": -0.03, "upper": -0.01}
    table = pd.DataFrame([row, row | {"metric": "r", "difference": 0.1, "lower": np.nan, "upper": np.nan}])
    left, right = differences_figure(table, {"rmse": ("RMSE", -1.0), "r": ("R", 1.0)}, "Rivals").axes
    for axis, where, sign in ((left, -0.02, -1.0), (right, 0.1, 1.0)):
        assert axis.get_lines()[0].get_xdata().tolist() == [where]
        shaded = axis.patches[0].get_extents().transformed(axis.transData.inverted())
        assert sign * (shaded.x0 + shaded.x1) > 0.0
        assert axis.get_xlim()[0] == -axis.get_xlim()[1]
    assert [label.get_text() for label in left.get_yticklabels()] == ["0-8 cm"]
