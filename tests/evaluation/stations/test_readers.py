"""Station readers: real SCAN and USCRN files, and ISMN archives in both of its formats."""

import gzip

import deepprofile as dp
import numpy as np
import pandas as pd
import pytest
from deepprofile.evaluation.stations import daily_means, reaches_profile, read_ismn, read_scan, read_uscrn, sensor_estimate
from deepprofile.evaluation.stations.scan import utc_offset

from tests.conftest import make_variances, random_products

HOURS = pd.date_range("2015-01-01", "2015-01-03 23:00", freq="h")


def write_ismn(folder, layout, top, bottom, values, flags):
    """One sensor's file as ISMN distributes it, in the header or the CEOP layout."""
    network, station, sensor = "NETA", "Station-1", "Sensor-X"
    path = folder / network / station
    path.mkdir(parents=True, exist_ok=True)
    place = f"{network} {network} {station} {46.1:10.5f} {7.2:10.5f} {512.0:8.2f} {top:8.4f} {bottom:8.4f}"
    lines = [f"{place} {sensor}"] if layout == "header" else []
    for hour, value, flag in zip(HOURS, values, flags, strict=True):
        stamp = f"{hour:%Y/%m/%d %H:%M}"
        record = f"{value:9.4f} {flag} M"
        lines.append(f"{stamp} {record}" if layout == "header" else f"{stamp} {stamp} {place} {record}")
    name = f"{network}_{network}_{station}_sm_{top:.6f}_{bottom:.6f}_{sensor}_20150101_20150103.stm"
    (path / name).write_text("\n".join(lines) + "\n")


def scan_report(path, rows, station=2097):
    header = ",".join(["Date", *(f"Some #1 ({station}) Soil Moisture Percent -{d}in (pct)" for d in (2, 40))])
    text = "#\n# comment\n" + header + "\n" + "\n".join(rows) + "\n"
    with gzip.open(path, "wt") as file:
        file.write(text)


@pytest.fixture
def sites(tmp_path):
    path = tmp_path / "sites.csv"
    path.write_text("ntwk,state,site_name,lat,lon\nSCAN,HI,Some #1 (2097),20.1,-155.51\n", encoding="utf-8-sig")
    return path


@pytest.mark.parametrize("layout", ["header", "ceop"])
def test_ismn_keeps_good_values_and_whole_days(tmp_path, layout):
    values = np.full(72, 0.2)
    values[24:48] = 0.3
    flags = np.array(["G"] * 72, dtype=object)
    values[3], flags[3] = 0.9, "C02"
    flags[24:31] = "D01"  # seven of 24 hours of the second day: 17 are left, fewer than three quarters
    flags[48:54] = "D01"  # six of the third: 18 are left, just enough
    write_ismn(tmp_path / "archive", layout, 0.05, 0.05, values, flags)
    write_ismn(tmp_path / "archive", layout, 0.1, 0.3, values, flags)
    data = read_ismn(tmp_path / "archive")
    assert data.sizes == {"sensor": 2, "time": 3}
    assert sorted(zip(data.depth_top.values, data.depth_bottom.values, strict=True)) == [(0.05, 0.05), (0.1, 0.3)]
    np.testing.assert_allclose(data.soil_moisture.isel(sensor=0), [0.2, np.nan, 0.2], rtol=1e-6)
    assert data.network.values.tolist() == ["NETA", "NETA"]
    np.testing.assert_allclose(data.latitude, 46.1)


def test_ismn_without_an_archive(tmp_path):
    with pytest.raises(FileNotFoundError, match="no ISMN archive"):
        read_ismn(tmp_path / "nothing")


def test_scan_days_are_those_of_utc(tmp_path, sites):
    # Hawaii is ten hours behind: 14:00 on the first is 00:00 UTC on the second.
    hours = pd.date_range("2015-01-01 14:00", "2015-01-02 13:00", freq="h")
    scan_report(tmp_path / "s.txt.gz", [f"{h:%Y-%m-%d %H:%M},{20.0 + h.hour / 10},35.0" for h in hours])
    data = read_scan([tmp_path / "s.txt.gz"], sites)
    assert data.sizes == {"sensor": 2, "time": 1}
    assert pd.Timestamp(data.time.values[0]) == pd.Timestamp("2015-01-02")
    np.testing.assert_allclose(data.soil_moisture[:, 0], [0.2115, 0.35], rtol=1e-6)
    np.testing.assert_allclose(data.depth_top, [0.0508, 1.016])


def test_scan_ignores_rows_that_were_cut_and_needs_its_header(tmp_path, sites):
    hours = pd.date_range("2015-01-01 14:00", "2015-01-02 13:00", freq="h")
    rows = [f"{h:%Y-%m-%d %H:%M},20.0,35.0" for h in hours]
    scan_report(tmp_path / "s.txt.gz", [*rows, "2015-01-02 14:"])
    assert float(read_scan([tmp_path / "s.txt.gz"], sites).soil_moisture[0, 0]) == pytest.approx(0.2)
    with gzip.open(tmp_path / "bad.txt.gz", "wt") as file:
        file.write("<html>not found</html>\n")
    with pytest.raises(ValueError, match=r"bad.txt.gz is no SCAN report"):
        read_scan([tmp_path / "bad.txt.gz"], sites)
    scan_report(tmp_path / "other.txt.gz", rows, station=1)
    with pytest.raises(ValueError, match="station 1 is not in the table"):
        read_scan([tmp_path / "other.txt.gz"], sites)


def test_standard_time_of_states():
    assert utc_offset("HI", -155.5) == pd.Timedelta(hours=-10)
    assert utc_offset("TX", -102.7) == pd.Timedelta(hours=-6)
    assert utc_offset("TX", -106.0) == pd.Timedelta(hours=-7)
    with pytest.raises(ValueError, match="'XX'"):
        utc_offset("XX", 0.0)


def test_real_scan_stations_of_hawaii(sample_data):
    folder = sample_data / "scan"
    data = read_scan([folder / f"{n}.txt.gz" for n in (2097, 2099, 2103)], folder / "SCAN_sites.csv").sel(time="2017")
    assert data.sizes == {"sensor": 15, "time": 365}
    counts = data.soil_moisture.notnull().sum("time").values.reshape(3, 5)
    # Every day of 2017 at four depths; the sensors at 8 inches have no values.
    assert counts.tolist() == [[365, 365, 0, 365, 365]] * 3
    # The report's first UTC day of 2017 at 2097, 2 in: local 2016-12-31 14:00 to 2017-01-01 13:00.
    with gzip.open(folder / "2097.txt.gz", "rt") as file:
        rows = [line.split(",") for line in file if line[:10] in ("2016-12-31", "2017-01-01")]
    hours = [float(r[1]) for r in rows if "2016-12-31 14:00" <= r[0] <= "2017-01-01 13:00" and r[1]]
    assert len(hours) == 24
    assert float(data.soil_moisture[0, 0]) == pytest.approx(np.mean(hours) / 100.0, rel=1e-6)


def test_real_uscrn_table(sample_data, tmp_path):
    (path,) = (sample_data / "uscrn").glob("*.parquet")
    data = read_uscrn(path)
    assert len(set(data.station.values.tolist())) <= 155
    assert sorted(set(data.depth_top.values.tolist())) == [0.05, 0.1, 0.2, 0.5, 1.0]
    table = pd.read_parquet(path)
    counted = int(table.filter(like="soil_moisture_").notna().to_numpy().sum())
    assert int(data.soil_moisture.notnull().sum()) == counted
    # Days of local standard time: west of Greenwich they start later.
    one = data.isel(sensor=0)
    assert float(one.day_offset_hours) == -round(float(one.longitude) / 15.0)
    table.drop(columns="lst_date").to_parquet(tmp_path / "broken.parquet")
    with pytest.raises(ValueError, match=r"broken.parquet is no USCRN daily table: it lacks lst_date"):
        read_uscrn(tmp_path / "broken.parquet")


def test_daily_means_need_three_quarters_of_the_day():
    hours = pd.Series(0.2, index=HOURS)
    hours.iloc[:7] = np.nan
    hours.iloc[24:30] = 5.0  # outside the valid range
    means = daily_means(hours, pd.Timedelta(hours=1))
    assert np.isnan(means.iloc[0])
    np.testing.assert_allclose(means.iloc[1:], 0.2)


def test_sensors_are_compared_with_points_and_layer_means():
    products = random_products(np.random.default_rng(0), days=3, cells=1)
    profile = dp.invert(products, make_variances(products, 0.03**2))
    view = profile.deepprofile
    np.testing.assert_array_equal(sensor_estimate(profile, 0.2, 0.2), view.at(0.2))
    np.testing.assert_array_equal(sensor_estimate(profile, 1.016, 1.016), view.at(1.0))
    np.testing.assert_array_equal(sensor_estimate(profile, 0.0, 0.3), view.mean(0.0, 0.3))
    assert not reaches_profile(1.2)
    with pytest.raises(ValueError, match="below the profile"):
        sensor_estimate(profile, 1.2, 1.2)
