"""``deepprofile extract``: what the library says, as files, and one message where something is wrong."""

import json
import re

import deepprofile as dp
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from deepprofile.app import cli
from deepprofile.app import extract as module
from typer.testing import CliRunner

from tests.analysis.conftest import climatology_of

RING = [[-97.6, 29.8], [-96.9, 29.9], [-97.2, 30.3], [-97.6, 29.8]]


@pytest.fixture
def extract(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "basin.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [RING]}))

    def call(*arguments, url=finished.root):
        result = CliRunner().invoke(cli.app, ["extract", str(url), *map(str, arguments)])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, " ".join(result.stderr.split())

    return call


def test_places_come_as_a_table(extract, finished, tmp_path):
    code, said = extract("--point", "30.1,-97.3", "--point", "30.2,-97", "--depth", 0.4, "--to", "2015-04-10", "-o", "a.csv")
    assert (code, said) == (0, f"a.csv: {len(pd.read_csv(tmp_path / 'a.csv'))} lines")
    profile = dp.open_profile(finished.root).deepprofile.point([30.1, 30.2], [-97.3, -97.0]).sel(time=slice(None, "2015-04-10"))
    expected = profile.deepprofile.to_dataframe(depths=[0.4])
    found = pd.read_csv(tmp_path / "a.csv", parse_dates=["date"])
    assert list(found.columns) == list(expected.columns)
    np.testing.assert_allclose(found.soil_moisture_m3_m3, expected.soil_moisture_m3_m3, rtol=1e-5)


def test_the_water_of_a_basin_comes_by_month_with_its_interval(extract, finished, tmp_path):
    code, _ = extract(
        "--polygon", "basin.geojson", "--layer", "0-1", "--period", "MS", "--correlation-length", 110000,
        "--correlation-time", 60, "--level", 0.8, "-o", "b.csv",
    )  # fmt: skip
    assert code == 0
    found = pd.read_csv(tmp_path / "b.csv")
    basin = dp.open_profile(finished.root).deepprofile.polygon(tmp_path / "basin.geojson")
    mean = basin.deepprofile.area_mean(correlation_length=110e3).deepprofile.time_mean("MS", correlation_time=60)
    np.testing.assert_allclose(found.water_storage_mm, mean.deepprofile.storage(0.0, 1.0)[:2], rtol=1e-5)
    np.testing.assert_allclose(found.water_storage_standard_deviation_mm, mean.deepprofile.std_storage(0.0, 1.0)[:2], rtol=1e-5)
    np.testing.assert_allclose(found.lower_80_m3_m3, mean.deepprofile.mean_interval(0.8, 0.0, 1.0).lower[:2], rtol=1e-5)
    assert list(found.date) == ["2015-04-01", "2015-05-01"]


def test_cells_of_a_box_come_as_a_file(extract, finished, tmp_path):
    code, said = extract("--box", "-97.5,29.9,-97.1,30.3", "--from", "2015-05-30", "-o", "c.nc")
    assert (code, said) == (0, "c.nc: 2 layer x 13 time x 5 y x 4 x")
    own = dp.open_profile(finished.root).deepprofile.box(-97.5, 29.9, -97.1, 30.3).sel(time=slice("2015-05-30", None))
    with xr.open_dataset(tmp_path / "c.nc") as found:
        np.testing.assert_array_equal(found.soil_moisture[1], own.deepprofile.mean(0.0, 1.0))
    # Its mean is had by asking.
    assert extract("--box", "-97.5,29.9,-97.1,30.3", "--mean", "-o", "d.nc")[1] == "d.nc: 2 layer x 72 time"
    assert extract("--box", "-97.5,29.9,-97.1,30.3", "--cells", "--to", "2015-04-01", "-o", "e.csv")[1] == "e.csv: 40 lines"


def test_percentiles_come_with_their_layers(extract, finished, tmp_path, monkeypatch):
    whole = dp.open_profile(finished.root)
    climatology = climatology_of(whole)
    monkeypatch.setattr(module, "open_store", lambda *_: climatology)
    assert extract("--polygon", "basin.geojson", "--cells", "--percentile", "-o", "f.nc")[0] == 0
    basin = whole.deepprofile.polygon(tmp_path / "basin.geojson")
    expected = basin.deepprofile.percentile(climatology, 0.0, 1.0).transpose("time", "y", "x")
    with xr.open_dataset(tmp_path / "f.nc") as found:
        np.testing.assert_array_equal(found.percentile[1], expected)
    # Of the basin: the mean over what of each cell lies within.
    assert extract("--polygon", "basin.geojson", "--layer", "0-1", "--percentile", "-o", "g.csv")[0] == 0
    mean = expected.weighted(basin["area"].reset_coords(drop=True)).mean(("y", "x")).to_series().dropna()
    found = pd.read_csv(tmp_path / "g.csv", parse_dates=["date"]).set_index("date").percentile
    np.testing.assert_allclose(found, mean[found.index], rtol=1e-4)
    assert extract("--polygon", "basin.geojson", "--layer", "0-1", "--period", "MS", "--percentile", "-o", "h.csv")[0] == 0
    months = pd.read_csv(tmp_path / "h.csv").percentile
    np.testing.assert_allclose(months, mean.resample("MS").mean()[:2], rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "say where: --point, --box or --polygon"),
        (("--point", "30,-97", "--box", "1,2,3,4"), "say one of them: --point, --box or --polygon"),
        (("--point", "30"), r"--point 30: write LATITUDE,LONGITUDE, in degrees"),
        (("--box", "a,b,c,d"), "--box a,b,c,d: write WEST,SOUTH,EAST,NORTH, in degrees"),
        (("--point", "0,0"), "0 N, 0 E lies outside of the grid"),
        (("--polygon", "none.geojson"), "there is no file none.geojson"),
        (("--point", "30.1,-97.3", "--depth", "40"), r"depths are in m: 40 cm is 0\.4"),
        (("--point", "30.1,-97.3", "--layer", "0.1"), "--layer 0.1: write TOP-BOTTOM, in m"),
        (("--point", "30.1,-97.3", "--from", "yesterday"), "--from yesterday: write a day as 2026-01-31"),
        (("--point", "30.1,-97.3", "--from", "2020-01-01"), "there is no day from 2020-01-01.*has 2015-04-01 to 2015-06-11"),
        (("--point", "30.1,-97.3", "--level", "90"), "level is 90.0; it is a probability between 0 and 1"),
        (("--point", "30.1,-97.3", "--mean"), "--mean and --correlation-length are of areas"),
        (("--box", "-98,29,-97,31", "--cells", "--correlation-length", "1e5"), "is for means of areas: say --mean"),
        (("--point", "30.1,-97.3", "--correlation-time", "9"), "is for means of periods: say --period"),
        (("--point", "30.1,-97.3", "--period", "month"), "period is 'month'; give one of pandas"),
        (
            ("--point", "30.1,-97.3", "--percentile"),
            "there are no percentiles without a climatology, which needs ten whole years",
        ),
    ],
)
def test_wrong_use_is_one_message_and_no_file(extract, tmp_path, arguments, said):
    code, printed = extract(*arguments, "-o", "x.csv")
    assert code == 2
    assert re.search(f"^deepprofile: .*{said}", printed), printed
    assert [each.name for each in tmp_path.iterdir() if "x.csv" in each.name] == []


def test_what_cannot_be_opened_or_written_is_said(extract, tmp_path):
    assert extract("--point", "30,-97", "-o", "x.txt") == (
        2,
        "deepprofile: x.txt: name the output .csv (a table) or .nc (netCDF)",
    )
    assert extract("--point", "30,-97", "-o", "no/x.csv") == (2, "deepprofile: no/x.csv: there is no folder no")
    code, said = extract("--point", "30,-97", "-o", "x.csv", url=tmp_path / "nothing")
    assert code == 1
    assert "has no published store 'profile'" in said
    code, said = extract("--point", "30.1,-97.3", "-o", "x.csv", "--version", "2026.1")
    assert code == 1
    assert "2026.1" in said
