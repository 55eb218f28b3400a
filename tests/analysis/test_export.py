"""Tables and files of what was asked, and a reader for pytesmo: the numbers of the library, and nothing where writing fails."""

import deepprofile as dp
import numpy as np
import pandas as pd
import pytest
import shapely
import xarray as xr
from deepprofile.analysis import export

from tests.analysis.conftest import climatology_of

PLACES = ([30.1, 30.2], [-97.3, -97.0])


@pytest.fixture(scope="module")
def places(opened):
    return opened.deepprofile.point(*PLACES).isel(time=slice(0, 20)).load()


def test_a_table_has_a_line_for_each_day_place_and_depth(places):
    view = places.deepprofile
    found = view.to_dataframe([(0.0, 0.1), (0.0, 1.0)], [0.4], level=0.8)
    assert list(found.columns) == [
        "date",
        "point",
        "latitude",
        "longitude",
        "top_m",
        "bottom_m",
        "soil_moisture_m3_m3",
        "standard_deviation_m3_m3",
        "lower_80_m3_m3",
        "upper_80_m3_m3",
        "water_storage_mm",
        "water_storage_standard_deviation_mm",
    ]
    missing = int(places.coefficients.isel(degree=0).isnull().sum())
    assert len(found) == 3 * (20 * 2 - missing)
    one = found[(found.date == "2015-04-05") & (found.point == 1)].set_index("bottom_m")
    day = places.sel(time="2015-04-05").isel(point=1).deepprofile
    assert one.soil_moisture_m3_m3[1.0] == pytest.approx(float(day.mean(0.0, 1.0)))
    assert one.water_storage_mm[1.0] == pytest.approx(float(day.storage(0.0, 1.0)))
    assert one.soil_moisture_m3_m3[0.4] == pytest.approx(float(day.at(0.4)))
    assert one.standard_deviation_m3_m3[0.4] == pytest.approx(float(day.std(0.4)))
    assert one.lower_80_m3_m3[0.1] == pytest.approx(float(day.mean_interval(0.8, 0.0, 0.1).lower))
    assert np.isnan(one.water_storage_mm[0.4])
    assert one.latitude[0.4] == pytest.approx(float(places["lat"][1]))


def test_tables_are_written_and_read(opened, tmp_path):
    basin = opened.deepprofile.polygon(shapely.box(-97.5, 29.9, -97.1, 30.3))
    mean = basin.deepprofile.area_mean().deepprofile.time_mean("MS")
    path = tmp_path / "basin.csv"
    mean.deepprofile.to_csv(path, [(0.0, 1.0)])
    read = pd.read_csv(path, parse_dates=["date"])
    assert list(read.date.astype(str)) == ["2015-04-01", "2015-05-01"]
    np.testing.assert_allclose(read.water_storage_mm, mean.deepprofile.storage(0.0, 1.0)[:2], rtol=1e-5)
    np.testing.assert_allclose(read.water_storage_standard_deviation_mm, mean.deepprofile.std_storage(0.0, 1.0)[:2], rtol=1e-5)
    assert [each.name for each in tmp_path.iterdir()] == ["basin.csv"]


def test_percentiles_stand_beside_their_layers(opened):
    own = opened.isel(time=slice(0, 5)).load()
    climatology = climatology_of(own)
    found = own.deepprofile.values([(0.0, 1.0)], climatology=climatology)
    expected = own.deepprofile.percentile(climatology, 0.0, 1.0).transpose("time", "y", "x")
    np.testing.assert_array_equal(found.percentile.isel(layer=0), expected)


@pytest.mark.parametrize("of", ["cells", "places", "mean", "one"])
def test_files_have_what_tables_have(opened, places, tmp_path, of):
    box = opened.deepprofile.box(-97.5, 29.9, -97.1, 30.3).isel(time=slice(0, 6))
    asked = {"cells": box, "places": places, "mean": box.deepprofile.area_mean(), "one": places.isel(point=0, time=0)}[of]
    path = tmp_path / "of.nc"
    asked.deepprofile.to_netcdf(path, [(0.0, 0.1)], [0.4])
    with xr.open_dataset(path) as read:
        expected = asked.deepprofile.values([(0.0, 0.1)], [0.4])
        for name in ("soil_moisture", "standard_deviation", "lower", "water_storage"):
            np.testing.assert_array_equal(read[name], expected[name])
        np.testing.assert_allclose(read.depth_bnds, [[0.0, 0.1], [0.4, 0.4]])
        np.testing.assert_array_equal(read.time, expected.time)
        assert read.attrs["title"] == opened.attrs["title"]
        assert (read.soil_moisture.attrs["units"], read.water_storage.attrs["units"]) == ("m3 m-3", "mm")


def test_nothing_is_left_of_a_file_that_could_not_be_written(places, tmp_path, monkeypatch):
    (tmp_path / "there.csv").write_text("before")

    def fail(self, path, **_):
        path.write_text("half")
        raise OSError("no space left")

    monkeypatch.setattr(pd.DataFrame, "to_csv", fail)
    with pytest.raises(OSError, match="no space left"):
        places.deepprofile.to_csv(tmp_path / "there.csv")
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("there.csv", "before")]


@pytest.mark.parametrize("layer", [(0.0, 0.1), (0.4, 0.4)])
def test_pytesmo_reads_series_by_point_and_by_place(opened, layer):
    reader = dp.PytesmoReader(opened, layer)
    row, column = 3, 5
    own = opened.isel(y=row, x=column).load().deepprofile
    series = reader.read(row * opened.sizes["x"] + column)
    expected = own.at(layer[0]) if layer[0] == layer[1] else own.mean(*layer)
    np.testing.assert_allclose(series.soil_moisture, expected.dropna("time"))
    number, distance = reader.grid.find_nearest_gpi(float(opened.lon[column]) + 0.01, float(opened.lat[row]))
    assert number == row * opened.sizes["x"] + column
    assert distance < 2000.0
    pd.testing.assert_frame_equal(series, reader.read(float(opened.lon[column]), float(opened.lat[row])))
    with pytest.raises(ValueError, match="there is no grid point 120: they are 0 to 119"):
        reader.read(120)


def test_pytesmo_validates_against_a_station(opened, world):
    """As someone who validates would: the station's own series beside that of the data set."""
    from pytesmo.validation_framework.data_manager import DataManager
    from pytesmo.validation_framework.metric_calculators import BasicMetrics
    from pytesmo.validation_framework.temporal_matchers import make_combined_temporal_matcher
    from pytesmo.validation_framework.validation import Validation

    reader = dp.PytesmoReader(opened, (0.0, 0.1))
    number = 3 * opened.sizes["x"] + 5
    truth = world.truth_mean(0.0, 0.1).transpose("time", "y", "x")[:72, 3, 5]
    station = pd.DataFrame({"sensor": truth.values}, pd.DatetimeIndex(truth.time.values))

    class Station:
        def read(self, *_):
            return station

    datasets = {
        "station": {"class": Station(), "columns": ["sensor"], "type": "reference", "grids_compatible": True},
        "profile": {"class": reader, "columns": ["soil_moisture"], "type": "other", "grids_compatible": True},
    }
    validation = Validation(
        DataManager(datasets, "station", read_ts_names="read"),
        spatial_ref="station",
        scaling=None,
        temporal_matcher=make_combined_temporal_matcher(pd.Timedelta(12, "h")),
        metrics_calculators={(2, 2): BasicMetrics(other_name="k1", calc_tau=False).calc_metrics},
    )
    lon, lat = float(opened.lon[5]), float(opened.lat[3])
    ((_, found),) = validation.calc(number, lon, lat, rename_cols=True, only_with_reference=True).items()
    joined = reader.read(number).join(station, how="inner")
    assert found["R"][0] == pytest.approx(np.corrcoef(joined.soil_moisture, joined.sensor)[0, 1], abs=1e-5)
    assert found["n_obs"][0] == len(joined)


def test_what_is_asked_wrongly_is_said(places, opened):
    for asked, said in (
        (lambda: places.deepprofile.to_dataframe(depths=[40.0]), r"depths are in m: 40 cm is 0\.4"),
        (lambda: places.deepprofile.to_dataframe([(0.1, 0.0)]), "has its bottom at or above its top"),
        (lambda: places.deepprofile.to_dataframe(level=90.0), "it is a probability between 0 and 1"),
        (lambda: dp.PytesmoReader(opened, (5.0, 10.0)), "profiles reach from 0 to 1 m"),
        (lambda: dp.PytesmoReader(opened.isel(y=0)), "lie on no grid"),
    ):
        with pytest.raises(ValueError, match=said):
            asked()
    assert export.LAYERS == ((0.0, 0.1), (0.0, 1.0))
