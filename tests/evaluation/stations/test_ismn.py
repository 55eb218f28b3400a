"""ISMN archives as users have them: moved, zipped, joined, cut, with other flags and steps."""

import itertools
import shutil

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from deepprofile.evaluation.stations import Report, StationError, day_steps, read_ismn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.evaluation.stations.files import DAYS, stm, zipped


def counts(data):
    return data.soil_moisture.notnull().sum("time").values.tolist()


def test_a_sensor_is_what_its_header_says_wherever_the_file_lies(tmp_path):
    made = tmp_path / "made"
    path = stm(made, value=0.25)
    stm(made, value=0.35, network="NETR")
    places = [made, zipped(made, tmp_path / "a.zip"), zipped(made, tmp_path / "b.zip", "one/two/")]
    (tmp_path / "zips [1] #%20 é").mkdir()
    shutil.copy(tmp_path / "a.zip", tmp_path / "zips [1] #%20 é" / "a.zip")
    for place in [*places, tmp_path / "zips [1] #%20 é"]:
        data = read_ismn(place)
        assert data.network.values.tolist() == ["NETQ", "NETR"]
        assert data.station.values.tolist() == ["Moor-2", "Moor-2"]
        np.testing.assert_allclose(data.soil_moisture, [[0.25] * 4, [0.35] * 4])
    for place in (made / "NETQ", made / "NETQ" / "Moor-2", path):
        data = read_ismn(place)
        assert (data.network.item(), data.station.item(), data.instrument.item()) == ("NETQ", "Moor-2", "Probe-B")


def test_two_downloads_of_a_sensor_are_one_record(tmp_path):
    stm(tmp_path / "early", DAYS[:60], 0.25, ["D01"] * 12 + ["G"] * 48)
    # The later download has good values where the first had flagged ones, in the other layout, and begins later.
    stm(tmp_path / "late", DAYS[6:], 0.25, layout="ceop")
    zipped(tmp_path / "late", tmp_path / "early" / "late.zip")
    data = read_ismn(tmp_path / "early")
    assert data.sizes == {"sensor": 1, "time": 4}
    # Of the first day six hours are flagged: 18 are left.
    assert counts(data) == [4]
    xr.testing.assert_identical(data, read_ismn([tmp_path / "late", tmp_path / "early" / "NETQ"]))


def test_sensors_are_sorted_and_told_apart(tmp_path):
    for probe in ("C", "A", "B"):
        stm(tmp_path, value=0.3, depths=(1.016, 1.016), probe=f"Hydraprobe-{probe}")
    stm(tmp_path, depths=(1.016, 1.016), probe="Twin", named="Twin-1", value=0.1)
    stm(tmp_path, depths=(1.016, 1.016), probe="Twin", named="Twin-2", value=0.2)
    stm(tmp_path, depths=(0.0, 0.05))
    data = read_ismn(tmp_path)
    assert data.depth_bottom.values.tolist() == [0.05, *[1.016] * 5]
    assert data.instrument.values[1:].tolist() == ["Hydraprobe-A", "Hydraprobe-B", "Hydraprobe-C", "Twin", "Twin (2)"]
    np.testing.assert_allclose(data.soil_moisture[:, 0], [0.25, 0.3, 0.3, 0.3, 0.1, 0.2])


DAMAGE = {
    "is empty": b"",
    "no header of the ISMN": b"NETQ NETQ Moor-2 47.5",
    "which is no place": b"NETQ NETQ Moor-2 147.5 11.25 640 0.05 0.05 Probe-B\n2012/05/01 00:00 0.25 G M\n",
    "a depth from 0.3 to 0.1 m": b"NETQ NETQ Moor-2 47.5 11.25 640 0.30 0.10 Probe-B\n2012/05/01 00:00 0.25 G M\n",
    "its line 3 is no record": b"N N Moor-2 47.5 11.25 640 0.05 0.05 P\n2012/05/01 00:00 0.25 G M\n2012/05/01 01:0",
    "its last line is not complete": b"N N Moor-2 47.5 11.25 640 0.05 0.05 P\n2012/05/01 00:00 0.2 G M\n2012/05/01 01:00 0.2 G",
    "holds no record": b"NETQ NETQ Moor-2 47.5 11.25 640 0.05 0.05 Probe-B\n",
    "it holds no text": bytes(range(256)).replace(b"\n", b"").replace(b"\r", b""),
}


@pytest.mark.parametrize("why", DAMAGE)
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_that_cannot_be_used_is_named_and_costs_itself_only(tmp_path, why, packed):
    stm(tmp_path / "a", station="Fen-1")
    bad = stm(tmp_path / "a")
    bad.write_bytes(DAMAGE[why])
    place = zipped(tmp_path / "a", tmp_path / "a.zip") if packed else tmp_path / "a"
    with pytest.raises(StationError, match=why) as error:
        read_ismn(place)
    assert bad.name in str(error.value)
    report = Report()
    data = read_ismn(place, report=report)
    assert data.station.values.tolist() == ["Fen-1"]
    assert len(report.problems) == 1


def test_zips_that_are_none_and_folders_without_files_are_named(tmp_path):
    stm(tmp_path / "a")
    whole = zipped(tmp_path / "a", tmp_path / "whole.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    locked = bytearray(whole)
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        locked[locked.index(signature) + place] |= 1
    (tmp_path / "locked.zip").write_bytes(bytes(locked))
    (tmp_path / "empty").mkdir()
    for name, why in (
        ("cut.zip", "no ZIP, or is cut off"),
        ("locked.zip", "encrypted"),
        ("empty", "holds no soil-moisture file"),
    ):
        with pytest.raises(StationError, match=why) as error:
            read_ismn(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)


def test_what_is_no_soil_moisture_is_passed_over(tmp_path):
    path = stm(tmp_path, station="Prairie-3")
    for name in (path.name.replace("_sm_", "_ts_"), "NETQ_static_variables.csv", "Readme.txt", "._" + path.name):
        (path.parent / name).write_bytes("Température".encode("latin-1"))
    assert read_ismn(tmp_path).station.values.tolist() == ["Prairie-3"]


STATIC = """\
quantity_name;unit;depth_from[m];depth_to[m];value;description;quantity_source_name;quantity_source_resolution;
clay fraction;% weight;0.00;0.30;22.00;;HWSD;30";
land cover classification;;;;190;Urban areas;CCI_landcover_2010;300m;
land cover classification;;;;62;Tree cover, broadleaved, deciduous, Open (15-40%);CCI_landcover_2005;300m;
climate classification;;;;Cfa;Temperate;koeppen_geiger_2007;0.1°;
climate classification;;;;Aw;Tropical - Savannah;koeppen_geiger_2017;0.08°;
"""


@pytest.mark.parametrize("packed", [False, True])
def test_climate_and_land_cover_are_those_of_the_file_beside_the_records(tmp_path, packed):
    made = tmp_path / "made"
    path = stm(made, station="Fen-1")
    (path.parent / "NETQ_NETQ_Fen-1_static_variables.csv").write_bytes(STATIC.encode("latin-1"))
    stm(made, station="Fen-1", depths=(0.2, 0.2))
    stm(made, station="Moor-2")
    data = read_ismn(zipped(made, tmp_path / "made.zip", "sub/") if packed else made)
    assert data.station.values.tolist() == ["Fen-1", "Fen-1", "Moor-2"]
    assert data.climate.values.tolist() == ["Aw", "Aw", ""]
    assert data.land_cover.values.tolist() == ["Urban areas", "Urban areas", ""]


def test_flags_are_chosen_and_counted(tmp_path):
    flags = ["G"] * 48 + ["U"] * 24 + ["D02,D03"] * 20 + ["U"] * 4
    stm(tmp_path, flag=flags)
    report = Report()
    assert counts(read_ismn(tmp_path, report=report)) == [2]
    assert "48 of 96 values were left out because of their quality flags (U 28, D02,D03 20)" in report.notes[0]
    assert counts(read_ismn(tmp_path, flags=("G", "U"))) == [3]
    assert counts(read_ismn(tmp_path, flags=("G", "U", "D02"))) == [3]
    assert counts(read_ismn(tmp_path, flags=("G", "U", "D02", "D03"))) == [4]
    stm(tmp_path / "old", flag="U")
    with pytest.raises(StationError, match=r"no value of 1 of 1 sensors has a quality flag that counts \(G\).*flags: \[G, U\]"):
        read_ismn(tmp_path / "old")


def test_each_day_is_judged_by_its_own_step(tmp_path):
    quarter = pd.date_range("2012-05-03", "2012-05-05 23:45", freq="15min")
    stm(tmp_path / "a", [*DAYS[:48], *quarter])
    assert counts(read_ismn(tmp_path / "a")) == [5]
    # Three hours of the second day, at equal distances or in a row, and a sensor that sleeps at night.
    for kept in ([24, 32, 40], [30, 31, 32]):
        shutil.rmtree(tmp_path / "b", ignore_errors=True)
        stm(tmp_path / "b", [*DAYS[:24], *DAYS[kept], *DAYS[48:]])
        assert read_ismn(tmp_path / "b").soil_moisture.notnull()[0].values.tolist() == [True, False, True, True]
    stm(tmp_path / "c", DAYS[(DAYS.hour >= 6) & (DAYS.hour <= 18)])
    assert counts(read_ismn(tmp_path / "c")) == [0]
    stm(tmp_path / "d", DAYS[::-1].repeat(2))
    assert counts(read_ismn(tmp_path / "d")) == [4]


def test_steps_that_loggers_are_set_to_later():
    hours = pd.date_range("2012-05-01", periods=240, freq="h")
    slow = pd.date_range("2012-05-11", periods=40, freq="6h")
    steps = day_steps(hours.append(slow)) / pd.Timedelta(hours=1)
    assert steps.tolist() == [1.0] * 10 + [6.0] * 10
    daily = day_steps(pd.date_range("2012-05-01 12:00", periods=20)) / pd.Timedelta(hours=1)
    assert daily.tolist() == [24.0] * 20


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.lists(st.integers(1, 94), max_size=3, unique=True),
    overlap=st.integers(0, 9),
    seed=st.integers(0, 99),
    pack=st.booleans(),
)
def test_an_archive_split_shuffled_and_zipped_is_the_same(tmp_path_factory, cuts, overlap, seed, pack):
    folder, rng = tmp_path_factory.mktemp("split"), np.random.default_rng(seed)
    values = rng.uniform(0.1, 0.4, len(DAYS)).round(4).tolist()
    flags = rng.choice(["G", "D01"], len(DAYS), p=[0.9, 0.1]).tolist()
    stm(folder / "whole", DAYS, values, flags)
    edges = [0, *sorted(cuts), len(DAYS)]
    for number, (first, after) in enumerate(itertools.pairwise(edges)):
        chosen = rng.permutation(np.arange(first, min(after + overlap, len(DAYS))))
        part = folder / "parts" / str(number)
        stm(part, DAYS[chosen], [values[k] for k in chosen], [flags[k] for k in chosen])
        if pack and number % 2:
            zipped(part, folder / "parts" / f"{number}.zip")
            shutil.rmtree(part)
    xr.testing.assert_allclose(read_ismn(folder / "parts"), read_ismn(folder / "whole"))
