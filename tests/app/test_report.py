"""Tables of the report, from scores that are written down."""

import numpy as np
import pytest
import xarray as xr
from deepprofile.app.report import station_coverage, station_scores
from deepprofile.evaluation.representativeness import INTERVALS


@pytest.fixture
def scores():
    """Four sensors at 5 cm and one at 1 m; two estimates; the second sensor has a tenth of the others' effective days."""
    sensor, estimate = 5, 2
    coverage = np.full((len(INTERVALS), 1, sensor), np.nan)
    coverage[0, 0] = [0.4, 0.9, 0.5, 0.6, 0.7]
    coverage[1, 0, :2] = [0.8, 0.9]
    rmse = np.array([[0.02, 0.2, 0.04, 0.06, 0.05], [0.03, 0.3, 0.05, 0.07, 0.06]])
    return xr.Dataset(
        {
            "coverage": (("interval", "level", "sensor"), coverage),
            "n_effective": (("estimate", "sensor"), np.tile([100.0, 10.0, 100.0, 100.0, 50.0], (estimate, 1))),
            **{name: (("estimate", "sensor", "bound"), np.stack([rmse] * 3, -1)) for name in ("rmse", "ubrmse", "bias", "r")},
            "n": (("estimate", "sensor", "bound"), np.full((estimate, sensor, 3), 300.0)),
            "representativeness_constant": ("sensor", [0.01, 0.01, np.nan, np.nan, np.nan]),
            "representativeness_varying": ("sensor", [0.0, 0.0, np.nan, np.nan, np.nan]),
        },
        {
            "estimate": ["fused", "plain average"],
            "interval": list(INTERVALS),
            "level": [0.9],
            "network": ("sensor", ["A", "A", "B", "B", "B"]),
            "climate": ("sensor", ["Aw", "Aw", "", "", "Cfa"]),
            "land_cover": ("sensor", [""] * 5),
            "depth_top": ("sensor", [0.05] * 4 + [1.0]),
            "depth_bottom": ("sensor", [0.05] * 4 + [1.0]),
        },
    )


def test_coverage_is_the_mean_over_sensors_by_their_effective_days(scores):
    surface, deep = station_coverage(scores).to_dict("records")
    assert (surface["band"], surface["sensors"], deep["band"], deep["sensors"]) == ("0-8 cm", 4, "70-105 cm", 1)
    assert surface[("with means", 0.9)] == pytest.approx((40.0 + 9.0 + 50.0 + 60.0) / 310.0)
    # Of the sensors alone that have a variance.
    assert surface[("with means, representativeness", 0.9)] == pytest.approx((80.0 + 9.0) / 110.0)
    assert surface["constant"] == pytest.approx(0.1)
    assert np.isnan(deep["constant"])
    assert np.isnan(surface[("anomalies", 0.9)])


def test_tables_are_by_what_station_files_say(scores):
    by_network, by_climate = station_scores(scores), station_scores(scores, "climate")
    assert by_network[["network", "band"]].drop_duplicates().values.tolist() == [
        ["A", "0-8 cm"],
        ["B", "0-8 cm"],
        ["B", "70-105 cm"],
    ]
    assert by_climate["climate"].unique().tolist() == ["Aw", "Cfa"]
    # Two sensors with 100 and 10 days: places 0 and 55 of 55, which is the middle between both at half.
    assert by_climate["rmse_median"][0] == pytest.approx(0.11)
    assert station_scores(scores, "land_cover").empty
    assert station_coverage(scores, "land_cover").empty
