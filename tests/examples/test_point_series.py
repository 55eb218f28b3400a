"""The example on the real series of Hawaii: flags and counts derived by hand from the files, and the scores."""

import gzip

import hawaii
import numpy as np
import pandas as pd
import point_series
import pytest
import xarray as xr


@pytest.fixture(scope="module")
def cases(sample_data):
    return {case.name: case for case in hawaii.hawaii_cases(sample_data)}


@pytest.fixture(scope="module")
def fused(cases):
    return {name: hawaii.fuse_case(case) for name, case in cases.items()}


def test_cells_are_the_nearest(cases):
    # Day means of the files' own series at the nearest points, taken by hand: ERA5-Land 20.1 N 155.5 W for station 2097 and
    # GLDAS 20.125 N 155.625 W, 0-10 cm, in kg m-2 over 1000 x 0.1.
    products = cases["stations"].products
    assert float(products["era5_land"].isel(cell=0).mean()) == pytest.approx(0.29625, abs=1e-5)
    assert float(products["gldas_noah"].isel(cell=0, layer=0).mean()) == pytest.approx(0.2043, abs=2e-4)
    assert products["gldas_noah"].sizes == {"layer": 3, "cell": 3, "time": 365}


def test_days_of_each_product(cases, sample_data):
    """Counted in the SMAP file: valid retrievals at the stations' pixel, and those of recommended quality at the other."""
    with xr.open_dataset(sample_data / "hawaii_2017" / "smap_l3_36km_am.nc", engine="h5netcdf") as smap:
        moisture, flag = smap["soil_moisture"].values, smap["retrieval_qual_flag"].values
        places = np.stack([smap["lat"].values, smap["lon"].values], axis=1)
    valid = (moisture >= 0.02) & (moisture <= 0.5)
    good = valid & (np.nan_to_num(flag, nan=1.0).astype(int) % 2 == 0)
    own = int(np.argmin(np.abs(places - [20.0247, -155.5394]).sum(axis=1)))
    pixel = int(np.argmin(np.abs(places - [19.4255, -155.5394]).sum(axis=1)))
    assert (valid[own].sum(), good[own].sum(), good[pixel].sum()) == (70, 0, 107)
    assert cases["stations"].products["smap_l3"].notnull().sum("time").values.tolist() == [[70, 70, 70]]
    assert cases["pixel"].products["smap_l3"].notnull().sum("time").values.tolist() == [[107]]


def test_error_model_falls_back_at_the_stations_and_not_at_the_pixel(fused):
    own, pixel = fused["stations"][0], fused["pixel"][0]
    assert own["product"].values.tolist() == ["gldas_noah"] * 3 + ["era5_land", "smap_l3"]
    # 70 complete triples are fewer than 100: the typical ratio everywhere. Below 10 cm GLDAS stands alone.
    assert (own.status == 2).all()
    assert own.n_samples.isel(cell=0).values.tolist() == [70, 0, 0, 70, 70]
    assert pixel.n_samples.isel(cell=0).values.tolist() == [107, 0, 0, 107, 107]
    assert pixel.status.isel(cell=0).values.tolist() == [0, 2, 2, 0, 0]


def test_flags_say_what_was_used(fused):
    for name, days in (("stations", 70), ("pixel", 107)):
        profile = fused[name][1]["fused"]
        used = [int(profile.deepprofile.uses(p).isel(cell=0).sum()) for p in ("gldas_noah", "era5_land", "smap_l3")]
        assert used == [365, 365, days]
        assert profile.deepprofile.flag("fallback_errors").all()
        assert not profile.deepprofile.flag("no_observation").any()
        theta = profile.deepprofile.at(np.linspace(0.0, 1.0, 101))
        assert float(theta.min()) >= 0.0
        assert float(theta.max()) <= 0.8


def test_scores_at_the_stations(cases, fused, sample_data):
    case = cases["stations"]
    scores, estimates = hawaii.validate(case, fused["stations"][1])
    # Three stations with sensors at 2, 4, 20 and 40 inches; those at 8 inches have no values in 2017.
    assert case.stations.station.values.tolist() == ["2097"] * 4 + ["2099"] * 4 + ["2103"] * 4
    np.testing.assert_allclose(case.stations.depth_top[:4], [0.0508, 0.1016, 0.508, 1.016])
    fused_scores = scores.sel(estimate="fused")
    assert (fused_scores.n == 365).all()
    # ERA5-Land has its first layer only: it is scored at the first sensor of each station.
    assert scores.n.sel(estimate="era5_land").values.tolist() == [365, 0, 0, 0] * 3
    # The parents' scores by hand: GLDAS 40-100 cm against the sensor at 20 inches of station 2097.
    with gzip.open(sample_data / "scan" / "2097.txt.gz", "rt") as file:
        rows = [line.split(",") for line in file if line.startswith(("2016-12-31", "2017", "2018-01-01"))]
    hours = pd.to_datetime([row[0] for row in rows], format="%Y-%m-%d %H:%M") + pd.Timedelta(hours=10)
    moisture = pd.Series([float(row[4] or "nan") / 100.0 for row in rows], index=hours)
    sensor = moisture.groupby(moisture.index.floor("D")).mean()["2017"]
    noah = case.products["gldas_noah"].isel(cell=0, layer=2).to_series()
    error = (noah - sensor).dropna()
    one = scores.sel(estimate="gldas_noah").isel(sensor=2)
    assert float(one.bias) == pytest.approx(error.mean(), abs=2e-5)
    assert float(one.rmse) == pytest.approx(np.sqrt((error**2).mean()), abs=2e-5)
    # The table of docs/accuracy.md, medians over the three stations.
    for name, rmse in EXPECTED_RMSE.items():
        by_depth = scores.rmse.sel(estimate=name).values.reshape(3, 4)
        np.testing.assert_allclose(np.median(by_depth, axis=0), rmse, atol=0.003)
    assert set(estimates) == {"fused", "fused, no SMAP L3", "gldas_noah", "era5_land", "plain average"}


def test_differences_to_gldas_are_paired(cases, fused):
    case = cases["stations"]
    estimates = hawaii.validate(case, fused["stations"][1])[1]
    found = point_series.compare(case.stations, estimates, ["gldas_noah", "era5_land"])
    # ERA5-Land has no layer below 7 cm: it is a rival at the first sensor of each station only.
    assert found.groupby("rival").size().to_dict() == {"gldas_noah": 12, "era5_land": 3}
    counts = point_series.verdicts(found).set_index(["rival", "metric"])
    assert counts.loc["gldas_noah", "sensors"].tolist() == [12, 12, 12]
    # By hand: ubRMSE is the standard deviation of the error.
    truth = case.stations.soil_moisture.isel(sensor=0)
    mine, theirs = (float((estimates[name].isel(sensor=0) - truth).std()) for name in ("fused", "gldas_noah"))
    assert found.loc[0, "ubrmse_difference"] == pytest.approx(mine - theirs, abs=1e-6)
    assert found.loc[0, "ubrmse_lower"] < mine - theirs < found.loc[0, "ubrmse_upper"]


def test_verdicts_know_on_which_side_is_better():
    ends = {"r": (0.1, 0.2), "ubrmse": (0.01, 0.02), "rmse": (-0.02, 0.01)}
    row = {
        f"{metric}_{end}": value for metric, pair in ends.items() for end, value in zip(("lower", "upper"), pair, strict=True)
    }
    counts = point_series.verdicts(pd.DataFrame([{"rival": "other", **row}])).set_index("metric")
    assert counts[["better", "worse"]].to_dict("index") == {
        "r": {"better": 1, "worse": 0},
        "ubrmse": {"better": 0, "worse": 1},
        "rmse": {"better": 0, "worse": 0},
    }


def test_another_year_and_a_rival(sample_data, tmp_path):
    """The files of 2017 as those of 2018, and a rival that is ERA5-Land in a file of its own."""
    (tmp_path / "hawaii_2018").mkdir()
    (tmp_path / "scan").symlink_to(sample_data / "scan")
    for path in (sample_data / "hawaii_2017").glob("*.nc"):
        with xr.open_dataset(path, engine="h5netcdf") as series:
            later = series.assign_coords(time=series.get_index("time") + pd.Timedelta(days=365))
            later.to_netcdf(tmp_path / "hawaii_2018" / path.name, engine="h5netcdf")
    file = tmp_path / "hawaii_2018" / "era5_land_layer1_06utc.nc"
    rival = hawaii.Rival.parse("a rival", str(file), "swvl1:0-0.07")
    case = hawaii.hawaii_cases(tmp_path, 2018, [rival])[0]
    assert set(case.stations.time.dt.year.values.tolist()) == {2018}
    np.testing.assert_allclose(case.rivals["a rival"], case.products["era5_land"])
    estimates = point_series.at_sensors(case, {})
    assert set(estimates) == {"gldas_noah", "era5_land", "a rival", "plain average"}
    np.testing.assert_allclose(estimates["a rival"], estimates["era5_land"])
    with pytest.raises(ValueError, match="has no variable 'rzsm_1'; it has s"):
        hawaii.hawaii_cases(tmp_path, 2018, [hawaii.Rival.parse("a rival", str(file), "rzsm_1:0-0.1")])
    with pytest.raises(ValueError, match=r"'rzsm_1' is no layer of 'a rival': write variable:top-bottom in m"):
        hawaii.Rival.parse("a rival", str(file), "rzsm_1")


EXPECTED_RMSE = {
    "fused": [0.116, 0.065, 0.052, 0.164],
    "gldas_noah": [0.098, 0.081, 0.115, 0.120],
    "plain average": [0.118, 0.081, 0.115, 0.120],
}


def test_example_runs_from_the_command_line(sample_data, tmp_path, capsys):
    assert hawaii.main(["--data", str(sample_data), "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "typical ratio" in printed
    assert "triple collocation" in printed
    assert len(list(tmp_path.glob("stations_*_profiles.png"))) == 3
    assert len(list(tmp_path.glob("stations_*_series.png"))) == 3
    assert "of 12 sensors" in printed
    assert len(pd.read_csv(tmp_path / "stations_differences.csv")) == 12
    assert (tmp_path / "pixel_section.png").stat().st_size > 20_000
    scores = pd.read_csv(tmp_path / "stations_scores.csv")
    assert set(scores["band"]) == {"0-8 cm", "8-30 cm", "30-70 cm", "70-105 cm"}


def test_example_shows_the_twin_where_the_data_are_absent(tmp_path, capsys):
    assert hawaii.main(["--data", str(tmp_path / "nothing"), "--output", str(tmp_path)]) == 0
    assert "the same is shown on the twin" in capsys.readouterr().out
    assert len(list(tmp_path.glob("twin_*.png"))) == 8
    scores = pd.read_csv(tmp_path / "twin_scores.csv")
    surface = scores[(scores.network == "TWIN-POINT") & (scores.band == "5-10 cm")].set_index("estimate")
    assert surface.loc["fused", "rmse_median"] > 0.0
