"""SCAN in the forms in which NRCS gives it."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest
from deepprofile.evaluation.stations import Report, StationError, read_scan
from deepprofile.evaluation.stations.scan import STATED_HOURS, utc_offset

# Kansas is six hours behind: these are the 24 hours of 2016-06-02 in UTC, and half of those of the next day.
HOURS = pd.date_range("2016-06-01 18:00", "2016-06-03 05:00", freq="h")
SITES = "ntwk,state,site_name,lat,lon\nSCAN,KS,Moss Hill (2999),38.0,-97.0\nSCAN,KS,Fen (2998),38.5,-97.5\n"
LINES = {
    "Date,Hill (2999) Soil Temperature Observed -2in (degC),Hill (2999) Soil Moisture Percent -2in (pct)": ",15.0,21.0",
    "Date,Soil Moisture Percent -2in (pct),Precipitation Increment (in)": ",21.0,0.1",
    "Date,Moss Hill (2999) Soil Moisture Percent -2in (pct) Start of Hour Values": ",21.0",
    "Date,Station Id,Soil Moisture Percent -2in (pct)": ",2999,21.0",
    "Date,Soil Moisture Percent -2in (pct) Mean of Hourly Values,Soil Moisture Percent -2in (pct)": ",21.0,80.0",
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "SCAN_sites.csv").write_text(SITES)
    return tmp_path


def report(path, header, lines):
    text = "#----\n# Moss Hill\n" + "\n".join([header, *lines]) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


@pytest.mark.parametrize("header", LINES)
@pytest.mark.parametrize("suffix", [".csv", ".txt", ".csv.gz", ".txt.gz"])
def test_reports_of_the_generator(folder, header, suffix):
    report(folder / f"2999{suffix}", header, [f"{hour:%Y-%m-%d %H:%M}{LINES[header]}" for hour in HOURS])
    data = read_scan(folder)
    assert (data.station.values.tolist(), data.instrument.values.tolist()) == (["2999"], ["SMS-1"])
    assert str(data.time.values[0])[:10] == "2016-06-02"
    np.testing.assert_allclose(data.soil_moisture, [[0.21, np.nan]])


def test_reports_by_site_number_their_sensors(folder):
    header = "Site Id,Date,Time,SMS.I-1:-2 (pct)  (loam),SMS.I-2:-2 (pct)  (loam),STO.I-1:-2 (degC) ,"
    report(folder / "year.csv", header, [f"2999,{hour:%Y-%m-%d},{hour:%H:%M},21.0,23.0,15.0," for hour in HOURS])
    two = "Moss Hill (2998) Soil Moisture Percent -2in (pct)"
    report(folder / "two.csv", f"Date,{two},{two}", [f"{hour:%Y-%m-%d %H:%M},31.0,-99.9" for hour in HOURS])
    data = read_scan(folder)
    assert data.station.values.tolist() == ["2998", "2998", "2999", "2999"]
    assert data.instrument.values.tolist() == ["SMS-1", "SMS-2"] * 2
    np.testing.assert_allclose(data.soil_moisture[:, 0], [0.31, np.nan, 0.21, 0.23])


def test_daily_reports_stay_days_of_local_time(folder):
    lines = [f"{day:%Y-%m-%d},{20 + day.day}.0" for day in pd.date_range("2016-06-01", periods=3)]
    report(folder / "a.csv", "Date,Moss Hill (2999) Soil Moisture Percent -2in (pct) Start of Day Values", lines)
    said = Report()
    data = read_scan(folder, report=said)
    np.testing.assert_allclose(data.soil_moisture, [[0.21, 0.22, 0.23]])
    assert data.day_offset_hours.values.tolist() == [6.0]
    assert "those of the start of the day" in said.notes[0]
    header = "Site Id,Date,Time,SMS.I-1:-2 (pct),"
    report(folder / "a.csv", header, [f"2999,{line.partition(',')[0]},,{line.partition(',')[2]}," for line in lines])
    np.testing.assert_allclose(read_scan(folder).soil_moisture, [[0.21, 0.22, 0.23]])


def awdb(zone=None):
    element = {"elementCode": "SMS", "ordinal": 1, "heightDepth": -2, "durationName": "HOURLY", "storedUnitCode": "pct"}
    values = [{"date": f"{hour:%Y-%m-%d %H:%M}", "value": 21.0} for hour in HOURS]
    data = [{"stationTriplet": "2999:KS:SCAN", "data": [{"stationElement": element, "values": values}]}]
    station = {"stationTriplet": "2999:KS:SCAN", "stationId": "2999", "stateCode": "KS", "latitude": 38.0, "longitude": -97.0}
    return data, [station | ({} if zone is None else {"dataTimeZone": zone})]


@pytest.mark.parametrize(("zone", "good"), [(None, [True, False]), (-6, [True, False]), (-18.0, [False, True])])
def test_answers_of_awdb_with_the_time_zone_that_nrcs_states(tmp_path, zone, good):
    data, stations = awdb(zone)
    (tmp_path / "data.json").write_text(json.dumps(data))
    (tmp_path / "stations.json").write_text(json.dumps(stations))
    found = read_scan(tmp_path)
    assert found.sel(time=["2016-06-02", "2016-06-03"]).soil_moisture.notnull()[0].values.tolist() == good
    assert float(found.depth_top[0]) == pytest.approx(0.0508)
    table = [f"2999:KS:SCAN,SMS,-2,1,{hour:%Y-%m-%d %H:%M},21.0" for hour in HOURS]
    (tmp_path / "data.json").unlink()
    (tmp_path / "data.csv").write_text("stationTriplet,elementCode,heightDepth,ordinal,date,value\n" + "\n".join(table) + "\n")
    np.testing.assert_array_equal(read_scan(tmp_path).soil_moisture, found.soil_moisture)


def test_time_zones_are_those_of_nrcs():
    # Mandan, Jordan Valley and Orchard Range are not where their longitudes would put them.
    for station, state, longitude, hours in (
        (2020, "ND", -100.91667, -7),
        (2148, "ID", -117.0106, -7),
        (674, "ID", -115.99643, -7),
        (2111, "NE", -101.7201, -7),
        (2001, "NE", -96.46667, -6),
        (2009, "FL", -84.42477, -5),
        (2123, "PR", -66.98, -4),
    ):
        assert utc_offset(state, longitude) == utc_offset(state, longitude, station) == pd.Timedelta(hours=hours)
    assert len(STATED_HOURS) == 208


def test_what_cannot_be_used_is_said_once_each(folder):
    lines = [f"{hour:%Y-%m-%d %H:%M},21.0" for hour in HOURS]
    good = "Date,Moss Hill (2999) Soil Moisture Percent -2in (pct)"
    report(folder / "good.csv", good, lines)
    report(folder / "elsewhere.csv", "Date,Nowhere (77) Soil Moisture Percent -2in (pct)", lines)
    report(folder / "nameless.csv", "Date,Soil Moisture Percent -2in (pct)", lines)
    report(folder / "empty.csv", good, [])
    (folder / "page.txt").write_text("<html>not found</html>\n")
    (folder / "cut.json").write_text('[{"stationTriplet": "2999:KS')
    report(folder / "cut.txt.gz", good, lines)
    (folder / "cut.txt.gz").write_bytes((folder / "cut.txt.gz").read_bytes()[:-20])
    said = Report()
    assert read_scan(folder, report=said).station.values.tolist() == ["2999"]
    for name, why in {
        "elsewhere.csv": "station 77 is not in the table of sites SCAN_sites.csv",
        "nameless.csv": "begin its name with the station's number",
        "empty.csv": "holds no record",
        "page.txt": "is no SCAN report",
        "cut.json": "no whole JSON document",
        "cut.txt.gz": "it is cut off",
    }.items():
        assert [why in problem for problem in said.problems if name in problem] == [True]
    assert len(said.problems) == 6


def test_without_a_table_of_sites_or_any_report(tmp_path):
    report(tmp_path / "a.csv", "Date,Moss Hill (2999) Soil Moisture Percent -2in (pct)", ["2016-06-01 00:00,21.0"])
    with pytest.raises(StationError, match=r"a.csv: there is no table of sites"):
        read_scan(tmp_path)
    report(tmp_path / "a.csv", "Date,Moss Hill (2999) Soil Temperature Observed -2in (degC)", ["2016-06-01 00:00,21.0"])
    with pytest.raises(StationError, match="holds no soil moisture"):
        read_scan(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(StationError, match="empty holds no SCAN report"):
        read_scan(tmp_path / "empty")
