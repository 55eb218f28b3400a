"""The example on SMAP L4 in Arizona: series, cells and scores derived by hand from the files."""

import arizona
import numpy as np
import pandas as pd
import point_series
import pytest
from deepprofile.evaluation.metrics import score_all


@pytest.fixture(scope="module")
def folder(sample_data):
    for name in ("smap_l4_arizona", "smap_l3_conus"):
        if not (sample_data / name).is_dir():
            pytest.skip(f"the sample data have no folder {name}")
    return sample_data


@pytest.fixture(scope="module")
def case(folder):
    return arizona.arizona_case(folder)


@pytest.fixture(scope="module")
def fused(case):
    errors, profiles = point_series.fuse_case(case)
    return errors, profiles, point_series.at_sensors(case, profiles)


def test_products_are_those_of_the_files(case, folder):
    table = pd.read_parquet(folder / "smap_l4_arizona" / "smv_daily.parquet")
    row = table[(table["cell"] == 41) & (table["date"] == "2016-08-01")].iloc[0]
    l4 = case.products["smap_l4"].isel(cell=41).sel(time="2016-08-01")
    np.testing.assert_allclose(l4, [row["SMAP_surface"] / 100, row["SMAP_rootzone"] / 100], rtol=1e-6)
    # The nearest pixels and their distances are in a table of the sample data.
    near = pd.read_csv(folder / "smap_l4_arizona" / "join_smap_l3_scan.csv").set_index("l4_cell")
    retrieval = case.products["smap_l3"].isel(layer=0)
    there = np.flatnonzero(retrieval.notnull().any("time"))
    assert there.tolist() == near.index[near["l3_dist_km"] <= 36.0].tolist() == [0, 35, 42, 45, 57]
    seen = pd.read_parquet(folder / "smap_l3_conus" / "smap_l3_conus.parquet")
    pixel = seen[seen["cell"] == near["l3_cell"][0]].set_index("date")["smap_l3_am"]
    own = retrieval.isel(cell=0).to_series().dropna()
    np.testing.assert_allclose(own, pixel[own.index], rtol=1e-6)
    assert own.size == 264


def test_sensors_lie_in_their_cells_and_months_of_frost_are_left_out(case, folder):
    stations = case.stations
    cell_of = dict(zip(stations.station.values.tolist(), case.cells, strict=True))
    assert cell_of == {"2026": 0, "2026 means": 0, "53132 means": 41, "cell 49 means": 49}
    np.testing.assert_allclose(stations.depth_top[stations.station == "2026"], [0.05, 0.1, 0.2, 0.5, 1.0])
    table = pd.read_parquet(folder / "smap_l4_arizona" / "smv_daily.parquet")
    # Mean air temperature of cell 49, degC: December 0.1 and January -1.6, February 1.8; the other cells have no frost.
    for name, cell, column, frost in (
        ("2026 means", 0, "SCAN_surface", []),
        ("53132 means", 41, "CRN_surface", []),
        ("cell 49 means", 49, "SNOTEL_surface", [12, 1]),
    ):
        given = table[table["cell"] == cell].set_index("date")[column].dropna() / 100.0
        expected = given[~given.index.month.isin(frost)]
        assert len(expected) < len(given) if frost else len(expected) == len(given)
        sensor = int(np.flatnonzero((stations.station == name) & (stations.depth_bottom == 0.05))[0])
        found = stations.soil_moisture.isel(sensor=sensor).to_series().dropna()
        np.testing.assert_array_equal(found.index, expected.index)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_errors_are_typical_since_both_products_share_a_source(case, fused):
    errors, profiles, _ = fused
    assert errors.n_samples.values.max() == 0
    assert errors.status.isel(cell=0).values.tolist() == [2, 2, 2]
    assert errors.status.isel(cell=41).values.tolist() == [2, 2, 3]
    profile = profiles["fused"].deepprofile
    # The record of L4 ends a few days before that of the sensors.
    assert (profile.flag("fallback_errors") ^ profile.flag("no_observation")).all()
    assert int(profile.uses("smap_l3").isel(cell=0).sum()) == 264
    assert int(profile.uses("smap_l4").isel(cell=0).sum()) == int(case.products["smap_l4"].isel(cell=0, layer=0).count())


def test_scores_of_l4_are_those_by_hand(case, fused, folder):
    scores = score_all(fused[2], case.stations["soil_moisture"], resamples=0).sel(estimate="smap_l4")
    table = pd.read_parquet(folder / "smap_l4_arizona" / "smv_daily.parquet").query("cell == 0").set_index("date")
    sensors = pd.read_parquet(folder / "smap_l4_arizona" / "scan2026_walnut_gulch_daily.parquet").set_index("date")
    # At 5 cm its surface layer; at 50 cm what is left of the root zone below it.
    below = (table["SMAP_rootzone"] - 0.05 * table["SMAP_surface"]) / 0.95
    for number, estimate, column in ((0, table["SMAP_surface"], "sm_2in_pct"), (3, below, "sm_20in_pct")):
        pair = pd.concat([estimate, sensors[column]], axis=1, keys=["l4", "sensor"]).dropna() / 100.0
        one = scores.isel(sensor=number)
        assert int(one.n) == len(pair)
        assert float(one.r) == pytest.approx(pair["l4"].corr(pair["sensor"]), abs=1e-4)
        assert float(one.rmse) == pytest.approx(float(np.sqrt(((pair["l4"] - pair["sensor"]) ** 2).mean())), abs=1e-5)


def test_fusion_adds_to_l4(case, fused):
    found = point_series.compare(case.stations, fused[2], ["smap_l4"])
    assert len(found) == 11
    counts = point_series.verdicts(found).set_index("metric")
    assert counts.loc["r", "better"] > counts.loc["r", "worse"]
    assert counts.loc["rmse", "better"] > counts.loc["rmse", "worse"]
    surface = found[(found["station"] == "2026 means") & (found["depth_bottom"] < 0.1)].iloc[0]
    assert surface["rmse_upper"] < -0.01
    shares = point_series.inside_shares(case.stations, case.cells, fused[1]["fused"], fused[2]["fused"])
    assert shares.loc[shares["station"] == "2026", "inside_anomalies"].min() > 0.8


def test_the_plain_average_is_that_of_both_products_on_days_with_both(case, fused):
    stations, estimates = arizona.on_retrieval_days(case, fused[2])
    assert set(stations.station.values.tolist()) == {"2026", "2026 means"}
    surface = int(np.flatnonzero((stations.station == "2026 means") & (stations.depth_bottom == 0.05))[0])
    here = {name: case.products[name].isel(cell=0, layer=0, drop=True) for name in ("smap_l4", "smap_l3")}
    expected = (0.5 * (here["smap_l4"] + here["smap_l3"])).to_series().dropna()
    found = estimates["plain average"].isel(sensor=surface).to_series().dropna()
    np.testing.assert_allclose(found[expected.index], expected, rtol=1e-5)
    assert len(found) == 264
    assert int(estimates["fused"].isel(sensor=surface).notnull().sum()) == 264


def test_example_runs_from_the_command_line(folder, tmp_path, capsys):
    assert arizona.main(["--data", str(folder), "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "typical ratio" in printed
    assert "R: better at" in printed
    assert sorted(path.name for path in tmp_path.glob("*.png")) == [
        "arizona_2026_profiles.png",
        "arizona_2026_series.png",
        "arizona_differences.png",
        "arizona_section.png",
    ]
    scores = pd.read_csv(tmp_path / "arizona_scores.csv")
    assert set(scores["days_of"]) == {"all", "smap_l3"}
    assert len(pd.read_csv(tmp_path / "arizona_differences.csv")) == 11


def test_missing_data_are_named(tmp_path, capsys):
    assert arizona.main(["--data", str(tmp_path), "--output", str(tmp_path)]) == 2
    assert "smap_l4_arizona" in capsys.readouterr().out
