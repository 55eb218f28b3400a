"""USCRN in NOAA's own text files, and tables of them."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from deepprofile.evaluation.stations import Report, StationError, read_uscrn
from deepprofile.evaluation.stations.uscrn import DAILY_COLUMNS, HOURLY_COLUMNS

DAYS = pd.date_range("2020-07-01", periods=4)


def daily_line(day, moisture=0.2, wban="03047"):
    soil = [f"{moisture + k / 100:.3f}" for k in range(4)] + ["-99.000"]
    words = [wban, f"{day:%Y%m%d}", "2.622", "-98.08", "30.62", *["25.1"] * 6, "C", *["25.1"] * 6, *soil, *["-9999.0"] * 5]
    assert len(words) == 28
    return "  ".join(words)


def hourly_line(end, moisture):
    when = [f"{end:%Y%m%d}", f"{end:%H%M}"]
    local = end - pd.Timedelta(hours=6)
    words = ["23907", *when, f"{local:%Y%m%d}", f"{local:%H%M}", "2.622", "-98.08", "30.62", *["20.0"] * 20]
    words += [f"{moisture:.3f}", *["-99.000"] * 4, *["-9999.0"] * 5]
    assert len(words) == 38
    return " ".join(words)


def test_daily_text_files_of_several_years_are_joined(tmp_path):
    for year, days in (("2020", DAYS[:2]), ("2021", DAYS[1:])):
        path = tmp_path / year / f"CRND0103-{year}-TX_Austin_33_NW.txt"
        path.parent.mkdir()
        path.write_text("".join(daily_line(day) + " \n" for day in days))
    (tmp_path / "readme.txt").write_text("columns\n")
    data = read_uscrn(tmp_path)
    assert data.sizes == {"sensor": 4, "time": 4}
    assert set(data.station.values.tolist()) == {"03047"}
    assert data.depth_top.values.tolist() == [0.05, 0.1, 0.2, 0.5]
    assert data.day_offset_hours.values.tolist() == [7.0] * 4
    np.testing.assert_allclose(data.soil_moisture[:, 0], [0.2, 0.21, 0.22, 0.23])


def test_hourly_text_files_have_days_of_utc(tmp_path):
    # A record states the end of its hour: midnight belongs to the day before.
    ends = pd.date_range("2020-07-01 01:00", "2020-07-03 00:00", freq="h")
    moisture = [0.2 if end <= pd.Timestamp("2020-07-02") else 0.3 for end in ends]
    path = tmp_path / "CRNH0203-2020-TX_Austin_33_NW.txt"
    path.write_text("\n".join(hourly_line(*pair) for pair in zip(ends, moisture, strict=True)) + "\n")
    data = read_uscrn(path)
    assert (data.instrument.item(), data.day_offset_hours.item(), data.station.item()) == ("hourly02", 0.0, "23907")
    np.testing.assert_allclose(data.soil_moisture, [[0.2, 0.3]])
    named = tmp_path / "hourly.csv"
    rows = [",".join(line.split()) for line in path.read_text().splitlines()]
    named.write_text("\n".join([",".join(name.upper() for name in HOURLY_COLUMNS), *rows]) + "\n")
    xr.testing.assert_identical(read_uscrn(named), data)


@pytest.mark.parametrize(
    "dates",
    [DAYS, DAYS.date, DAYS.strftime("%Y%m%d").astype(int), DAYS.strftime("%Y%m%d"), DAYS.strftime("%Y-%m-%d")],
    ids=["times", "dates", "numbers", "text", "dashes"],
)
def test_tables_with_days_in_any_form(tmp_path, dates):
    table = pd.DataFrame(
        {
            "wban": 3047,
            "lst_date": dates,
            "longitude": -98.08,
            "latitude": 30.62,
            "soil_moisture_5_daily": [0.1, -99, -9999, 0.2],
        }
    )
    table.to_parquet(tmp_path / "a.parquet")
    table.to_csv(tmp_path / "a.csv", index=False)
    for name in ("a.parquet", "a.csv"):
        data = read_uscrn(tmp_path / name)
        assert data.station.values.tolist() == ["03047"]
        np.testing.assert_array_equal(data.time.values.astype("datetime64[D]"), DAYS.values.astype("datetime64[D]"))
        np.testing.assert_allclose(data.soil_moisture, [[0.1, np.nan, np.nan, 0.2]])


def test_files_that_cannot_be_used_are_named(tmp_path):
    name = "CRND0103-2020-TX_Austin_33_NW.txt"
    whole = "\n".join(daily_line(day) for day in DAYS)
    for text, why in (
        (whole[:-30], "its line 4 has too few values"),
        (whole.replace("20200702", "20209902"), "holds '20209902', which is no day"),
        ("23907 20200701 2.622 -98.08\n", "its first line has 4 values, where daily01 has 28 and hourly02 38"),
        ("<html>\n", "is no USCRN daily table: it lacks"),
        ("", "is empty"),
        (whole.replace("-98.08", "-198.08"), "are no places"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(StationError, match=why) as error:
            read_uscrn(tmp_path)
        assert name in str(error.value)
    (tmp_path / "CRND0103-2020-TX_Fen.txt").write_text(daily_line(DAYS[0], wban="99999") + "\n")
    report = Report()
    assert set(read_uscrn(tmp_path, report=report).station.values.tolist()) == {"99999"}
    assert len(report.problems) == 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(StationError, match="empty holds no USCRN file"):
        read_uscrn(tmp_path / "empty")
    assert len(DAILY_COLUMNS) == 28
