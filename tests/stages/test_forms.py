"""Files as people have them: which are found, which are passed over, and what is said of either."""

import json
import zipfile
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest
import xarray as xr
import yaml
from deepprofile import config as configuration
from deepprofile import open_store
from deepprofile.app.cli import app
from deepprofile.execution.pools import ThreadPool
from deepprofile.grids.grids import EASE2_M09, ERA5_LAND_01, GLDAS_025
from deepprofile.sources.catalogue import Cache, find_granules
from deepprofile.sources.products import PRODUCTS, GranuleError
from deepprofile.stages import ingest
from deepprofile.stages.pipeline import run_stages, status_of
from deepprofile.stages.schedule import AsOf
from deepprofile.storage.roots import Root
from typer.testing import CliRunner

BOX = [9.5, 44.5, 10.5, 45.5]
WIDER = (9.0, 44.0, 11.0, 46.0)
ERA5, GLDAS = ERA5_LAND_01.within(WIDER), GLDAS_025.within(WIDER)


def era5(path, days, value=0.25, *, temperature=True, engine="h5netcdf"):
    """Hourly fields of some days; each day is a hundredth moister than the one before."""
    times = np.concatenate([np.datetime64(day, "h") + np.arange(24) for day in days]).astype("datetime64[ns]")
    dims = ("valid_time", "latitude", "longitude")
    moisture = value + 0.01 * np.repeat(np.arange(len(days)), 24)[:, None, None] + np.zeros((times.size, *ERA5.shape))
    fields = {name: (dims, moisture.astype(np.float32), {"units": "m**3 m**-3"}) for name in ("swvl1", "swvl2", "swvl3")}
    if temperature:
        fields["stl1"] = (dims, np.full(moisture.shape, 290.0, np.float32), {"units": "K"})
    coords = {"valid_time": times, "latitude": ERA5.lat, "longitude": ERA5.lon}
    path.parent.mkdir(parents=True, exist_ok=True)
    xr.Dataset(fields, coords).to_netcdf(path, engine=engine)
    return path


def gldas(folder, day, value=0.2, *, version="021", ending="nc4", screens=("SoilTMP0_10cm_inst", "SWE_inst"), **attributes):
    """The eight granules of a day."""
    folder.mkdir(parents=True, exist_ok=True)
    for hour in range(0, 24, 3):
        name = f"GLDAS_NOAH025_3H.A{day.replace('-', '')}.{hour:02d}00.{version}.{ending}"
        with h5py.File(folder / name, "w") as file:
            file["lat"], file["lon"] = GLDAS.lat.astype(np.float32), GLDAS.lon.astype(np.float32)
            file["time"] = np.array([(np.datetime64(f"{day}T{hour:02d}:00") - np.datetime64("2000-01-01T03:00")).astype(float)])
            file["time"].attrs["units"] = " minutes since 2000-01-01 03:00:00"
            for key, text in attributes.items():
                file.attrs[key] = text
            for variable, thickness in (
                ("SoilMoi0_10cm_inst", 0.1),
                ("SoilMoi10_40cm_inst", 0.3),
                ("SoilMoi40_100cm_inst", 0.6),
            ):
                file[variable] = np.full((1, *GLDAS.shape), value * 1000.0 * thickness, np.float32)
                file[variable].attrs["units"] = "kg m-2"
            for variable, amount in (("SoilTMP0_10cm_inst", 290.0), ("SWE_inst", 0.0)):
                if variable in screens:
                    file[variable] = np.full((1, *GLDAS.shape), amount, np.float32)


def smap_l3(folder, day, value=0.2, release="R19240_001"):
    folder.mkdir(parents=True, exist_ok=True)
    window = EASE2_M09.within(WIDER)
    with h5py.File(folder / f"SMAP_L3_SM_P_E_{day.replace('-', '')}_{release}.h5", "w") as file:
        file["x"], file["y"] = window.x, window.y
        file["Soil_Moisture_Retrieval_Data_AM/soil_moisture"] = np.full(window.shape, value, np.float32)
        file["Soil_Moisture_Retrieval_Data_AM/retrieval_qual_flag"] = np.zeros(window.shape, np.uint16)


@pytest.fixture
def ingested(tmp_path):
    """Ingests one product from the folder ``granules``: the result, daily means of the top layer, and the configuration."""

    def make(product, first, last, root="root", **changes):
        source = {"granules": str(tmp_path / "granules")} | changes.pop("source", {})
        document = {
            "root": str(tmp_path / root),
            "grid": {"name": "latlon_0.25", "bbox": BOX},
            "period": {"start": first, "end": last},
            "products": {product: source},
            "blocks": {"days": 16, "cells": 32, "chunk_days": 16, "chunk_cells": 32},
            "compute": {"processes": False, "workers": 1},
            **changes,
        }
        path = tmp_path / "deepprofile.yaml"
        path.write_text(yaml.safe_dump(document))
        config = configuration.load(path)
        (result,) = run_stages(config, ("ingest",), ThreadPool(1))
        means = open_store(config.root, f"ard/{product}").soil_moisture.isel(layer=0).mean(("y", "x")).values
        return result, means, config

    return make


def deepprofile(tmp_path, *arguments):
    done = CliRunner().invoke(app, [arguments[0], "-c", str(tmp_path / "deepprofile.yaml"), *arguments[1:]])
    return done.exit_code, done.output


@pytest.mark.parametrize(
    "name",
    [
        "data_0.nc",
        "data_stream-oper_stepType-instant.nc",
        "adaptor.mars.internal-1583237349.7-19224-9-3.nc",
        "era5_land_2020.nc",
        "era5_land_20200301-20200303.nc",
        "ERA5_1950-2022_20200301.NC",
        "e81b3f9c",
    ],
)
def test_days_that_a_name_does_not_say_are_taken_from_the_content(tmp_path, ingested, name):
    era5(tmp_path / "granules" / name, ["2020-03-01", "2020-03-02", "2020-03-03"])
    result, means, _ = ingested("era5_land", "2020-03-01", "2020-03-03")
    assert result.problems == result.notes == ()
    np.testing.assert_allclose(means, [0.25, 0.26, 0.27], atol=1e-4)


def test_one_file_is_as_good_as_a_folder(tmp_path, ingested):
    path = era5(tmp_path / "elsewhere" / "data.nc", ["2020-03-01"])
    result, means, _ = ingested("era5_land", "2020-03-01", "2020-03-01", source={"granules": str(path)})
    assert result.problems == ()
    np.testing.assert_allclose(means, [0.25], atol=1e-4)


def test_a_link_to_a_folder_above_is_not_followed_for_ever(tmp_path, ingested):
    era5(tmp_path / "granules" / "below" / "era5_20200301.nc", ["2020-03-01"])
    (tmp_path / "granules" / "below" / "again").symlink_to(tmp_path / "granules")
    result, means, _ = ingested("era5_land", "2020-03-01", "2020-03-01")
    assert result.problems == ()
    np.testing.assert_allclose(means, [0.25], atol=1e-4)


def test_steps_of_two_collections_are_not_averaged(tmp_path, ingested):
    folder = tmp_path / "granules"
    folder.mkdir()
    window = EASE2_M09.within(WIDER)
    for kind, group, name, first in (("gph", "Geophysical", "sm_surface", 90), ("aup", "Analysis", "sm_surface_analysis", 180)):
        for minute in range(first, 1440, 180):
            stamp = f"20200128T{minute // 60:02d}{minute % 60:02d}00"
            with h5py.File(folder / f"SMAP_L4_SM_{kind}_{stamp}_Vv8011_001.h5", "w") as file:
                file["x"], file["y"] = window.x, window.y
                file[f"{group}_Data/{name}"] = np.full(window.shape, 0.2, np.float32)
    result, means, _ = ingested("smap_l4", "2020-01-28", "2020-01-28")
    assert np.isnan(means).all()
    assert "there are 15 time steps of smap_l4, which has 8 a day" in result.problems[0]


def test_days_of_a_file_may_have_gaps(tmp_path):
    era5(tmp_path / "data.nc", ["2020-03-01", "2020-03-03"])
    days = np.arange("2020-03-01", "2020-03-05", dtype="datetime64[D]")
    assert list(find_granules(PRODUCTS["era5_land"], str(tmp_path), days).by_day) == ["2020-03-01", "2020-03-03"]


def test_a_month_that_is_not_over_lacks_its_last_days_and_is_not_broken(tmp_path, ingested):
    era5(tmp_path / "granules" / "era5_land_202003.nc", ["2020-03-01", "2020-03-02"])
    result, means, config = ingested("era5_land", "2020-03-01", "2020-03-03")
    np.testing.assert_allclose(means, [0.25, 0.26, np.nan], atol=1e-4)
    assert result.problems == ("2020-03-03: 24 of 24 time steps of era5_land are missing",)
    states = ingest.day_states(
        ingest.ProductIngest.of(config, "era5_land"), Root(config.root), AsOf(np.datetime64("2020-03-04"))
    )
    assert states == {"2020-03-01": "there", "2020-03-02": "there", "2020-03-03": "not due"}


@pytest.mark.parametrize("ending", ["nc4.SUB.nc4", "nc4.dap.nc4", "NC4"])
def test_endings_that_subsetters_put_after_a_name(tmp_path, ingested, ending):
    gldas(tmp_path / "granules", "2017-06-12", ending=ending)
    result, means, _ = ingested("gldas_noah", "2017-06-12", "2017-06-12")
    assert result.problems == ()
    np.testing.assert_allclose(means, [0.2], atol=1e-4)


def test_files_that_are_passed_over_are_listed_with_the_reason(tmp_path, ingested):
    folder = tmp_path / "granules"
    era5(folder / "era5_land_20200301.nc", ["2020-03-01"])
    gldas(folder, "2020-03-01")
    (folder / "era5_land_20200301.nc.md5").write_text("0")
    (folder / "answer.nc").write_text("<!DOCTYPE html><html>Please log in</html>")
    xr.Dataset({"tp": ("x", [1.0])}).to_netcdf(folder / "rain.nc", engine="h5netcdf")
    result, _, config = ingested("era5_land", "2020-03-01", "2020-03-01")
    assert result.problems == ()
    assert [note.split(":")[1] for note in result.notes] == [" answer.nc was passed over", " rain.nc was passed over"]
    reasons = {file["name"]: file["reason"] for file in status_of(config)["passed_over"]["era5_land"]}
    assert len(reasons) == 11
    assert reasons["GLDAS_NOAH025_3H.A20200301.0300.021.nc4"] == "it is a granule of gldas_noah"
    assert "a web page" in reasons["answer.nc"]
    assert "none of the layers of era5_land" in reasons["rain.nc"]
    code, text = deepprofile(tmp_path, "status")
    assert code == 0
    assert "Passed over in the granules of era5_land:" in text
    assert "rain.nc: has none of the layers" in text
    code, text = deepprofile(tmp_path, "status", "--json")
    assert len(json.loads(text)["passed_over"]["era5_land"]) == 11


@pytest.mark.parametrize(
    ("old", "new"), [("R17000_001", "R17000_002"), ("R18290_002", "R19240_001"), ("T19300_001", "R19240_001")]
)
def test_of_two_versions_of_a_granule_the_later_counts(tmp_path, ingested, old, new):
    smap_l3(tmp_path / "granules", "2019-11-10", 0.4, old)
    smap_l3(tmp_path / "granules", "2019-11-10", 0.2, new)
    result, means, _ = ingested("smap_l3", "2019-11-10", "2019-11-10")
    assert result.problems == ()
    (note,) = result.notes
    assert f"{new}.h5 is used instead of" in note
    np.testing.assert_allclose(means, [0.2], atol=1e-4)


def test_gldas_of_another_version_or_model_is_not_taken_for_ours(tmp_path, ingested):
    folder = tmp_path / "granules"
    gldas(folder, "2014-12-31", version="020")
    gldas(folder, "2015-01-01", title="GLDAS2.0 LIS land surface model output", source="Noah_v3.6")
    gldas(folder, "2015-01-02", title="GLDAS2.1 LIS land surface model output", source="CLSM_F2.5")
    gldas(folder, "2015-01-03", title="GLDAS2.1 LIS land surface model output", source="Noah_v3.6 forced with GDAS")
    result, means, _ = ingested("gldas_noah", "2014-12-31", "2015-01-03")
    np.testing.assert_allclose(means, [np.nan, np.nan, np.nan, 0.2], atol=1e-4)
    assert "it is of GLDAS-2.0, not of GLDAS-2.1" in result.notes[0]
    said = "\n".join(result.problems)
    assert "2014-12-31: 8 of 8 time steps of gldas_noah are missing" in said
    assert said.count("is of GLDAS-2.0 ('GLDAS2.0 LIS land surface model output'), not of GLDAS-2.1") == 8
    assert said.count("is of another model ('CLSM_F2.5'), not of Noah") == 8


@pytest.mark.parametrize(
    ("screens", "lacking"),
    [((), "snow and soil temperature"), (("SoilTMP0_10cm_inst",), "snow"), (("SWE_inst",), "soil temperature")],
)
def test_what_was_not_screened_is_counted_and_said_or_refused(tmp_path, ingested, screens, lacking):
    gldas(tmp_path / "granules", "2017-01-12", screens=screens)
    gldas(tmp_path / "granules", "2017-01-13")
    result, means, config = ingested("gldas_noah", "2017-01-12", "2017-01-13")
    assert result.problems == ()
    np.testing.assert_allclose(means, [0.2, 0.2], atol=1e-4)
    (note,) = result.notes
    assert note.startswith(f"gldas_noah: 8 granules (2017-01-12) lack {lacking}: their values were not screened")
    states = status_of(config)["days"]["gldas_noah"]
    assert (states["2017-01-12"], states["2017-01-13"]) == ("unscreened", "there")
    (manifest,) = status_of(config)["runs"]
    assert manifest["notes"] == [note]
    refused, means, _ = ingested("gldas_noah", "2017-01-12", "2017-01-13", ingest={"require_screens": True})
    assert refused.versions != result.versions
    assert len(refused.problems) == 8
    assert "and ingest.require_screens asks for it" in refused.problems[0]
    np.testing.assert_allclose(means, [np.nan, 0.2], atol=1e-4)
    code, _ = deepprofile(tmp_path, "ingest")
    assert code == 3


def test_days_of_which_the_provider_has_nothing_are_not_missed(tmp_path, ingested):
    for day in ("2019-06-16", "2019-06-18", "2019-07-23"):
        smap_l3(tmp_path / "granules", day)
    # One of the first half-orbits after the gap: used, where there is one.
    smap_l3(tmp_path / "granules", "2019-07-21", 0.3)
    result, means, config = ingested("smap_l3", "2019-06-16", "2019-07-23")
    assert result.problems == ("2019-06-17: 1 of 1 time steps of smap_l3 are missing",)
    np.testing.assert_allclose(means[[0, 1, 2, 35, 37]], [0.2, np.nan, 0.2, 0.3, 0.2], atol=1e-4)
    task = ingest.ProductIngest.of(config, "smap_l3")
    states = ingest.day_states(task, Root(config.root), AsOf(np.datetime64("2020-01-01")))
    assert states["2019-06-17"] == "missing"
    assert {states[f"2019-06-{day}"] for day in range(19, 31)} == {"outage"}
    again, _, _ = ingested("smap_l3", "2019-06-16", "2019-07-23", source={"outages": [["2019-06-17", "2019-06-17"]]})
    assert again.problems == ()


@pytest.mark.parametrize("name", ["era5_land_202003.zip", "era5_land_202003.nc", "download"])
def test_an_archive_is_read_by_its_members(tmp_path, ingested, name):
    members = [
        era5(tmp_path / "parts" / f"{k}.nc", [day], 0.25 + 0.01 * k) for k, day in enumerate(["2020-03-01", "2020-03-02"])
    ]
    (tmp_path / "granules").mkdir()
    with zipfile.ZipFile(tmp_path / "granules" / name, "w", zipfile.ZIP_DEFLATED) as archive:
        for member in members:
            archive.write(member, f"some/folder/{member.name}")
        archive.writestr("__MACOSX/._0.nc", "no data")
        archive.writestr("readme.txt", "no data")
    result, means, _ = ingested("era5_land", "2020-03-01", "2020-03-02")
    assert result.problems == ()
    np.testing.assert_allclose(means, [0.25, 0.26], atol=1e-4)


def test_an_archive_of_one_variable_a_member_is_screened(tmp_path, ingested):
    whole = era5(tmp_path / "whole.nc", ["2020-03-01"])
    (tmp_path / "granules").mkdir()
    with (
        xr.open_dataset(whole, engine="h5netcdf") as data,
        zipfile.ZipFile(tmp_path / "granules/era5_20200301.nc", "w") as archive,
    ):
        for name in ("swvl1", "swvl2", "swvl3", "stl1"):
            one = data[[name]].copy(deep=True)
            if name == "stl1":
                one["stl1"][:] = 270.0
            one.to_netcdf(tmp_path / f"{name}.nc", engine="h5netcdf")
            archive.write(tmp_path / f"{name}.nc", f"{name}.nc")
    result, means, _ = ingested("era5_land", "2020-03-01", "2020-03-01")
    assert result.problems == result.notes == ()
    assert np.isnan(means).all()


def test_members_of_different_hours_and_areas_make_one_day(tmp_path):
    whole = era5(tmp_path / "whole.nc", ["2020-03-01"])
    parts = {}
    with xr.open_dataset(whole, engine="h5netcdf") as data:
        screen = data[["stl1"]]
        parts["west"] = xr.merge([data[["swvl1"]], screen]).isel(longitude=slice(None, 8))
        parts["east"] = xr.merge([data[["swvl1"]], screen]).isel(longitude=slice(8, None))
        parts["later"] = xr.merge([data[["swvl2"]], screen]).isel(valid_time=slice(1, None))
        for name, part in parts.items():
            part.to_netcdf(tmp_path / f"{name}.nc", engine="h5netcdf")
    path = tmp_path / "era5_20200301.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in parts:
            archive.write(tmp_path / f"{name}.nc", f"{name}.nc")
    steps = PRODUCTS["era5_land"].read(path, ERA5, np.array(["2020-03-01"], "datetime64[D]"))
    assert steps.unscreened == ()
    assert np.isfinite(steps.values[:, 0]).all()
    assert np.isnan(steps.values[0, 1]).all()
    np.testing.assert_allclose(steps.values[1:, 1], 0.25, rtol=1e-6)


@pytest.mark.parametrize("change", [0.0, 0.02])
def test_areas_that_share_a_border_agree_there_or_are_refused(tmp_path, change):
    whole = era5(tmp_path / "whole.nc", ["2020-03-01"])
    path = tmp_path / "era5_20200301.zip"
    with xr.open_dataset(whole, engine="h5netcdf") as data, zipfile.ZipFile(path, "w") as archive:
        for name, columns in (("west", slice(None, 9)), ("east", slice(8, None))):
            part = data.isel(longitude=columns).load()
            if name == "east":
                part["swvl3"][23, 4, 0] += change
            part.to_netcdf(tmp_path / f"{name}.nc", engine="h5netcdf")
            archive.write(tmp_path / f"{name}.nc", f"{name}.nc")
    day = np.array(["2020-03-01"], "datetime64[D]")
    if change:
        with pytest.raises(GranuleError, match=r"west.nc in .* and east.nc in .* hold different values for the same layers"):
            PRODUCTS["era5_land"].read(path, ERA5, day)
        return
    steps = PRODUCTS["era5_land"].read(path, ERA5, day)
    np.testing.assert_allclose(steps.values, 0.25, rtol=1e-6)
    assert not steps.doubled
    # Every cell is counted once: 24 steps of 3 layers.
    assert steps.n_valid.tolist() == [3 * ERA5.rows * ERA5.columns] * 24


@pytest.mark.parametrize("names", [("swvl1_20200301", "swvl2_20200301", "swvl3_20200301", "stl1_20200301"), "abcd"])
def test_files_of_one_variable_each_are_read_together(tmp_path, ingested, names):
    whole = era5(tmp_path / "whole.nc", ["2020-03-01"])
    (tmp_path / "granules").mkdir()
    with xr.open_dataset(whole, engine="h5netcdf") as data:
        for name, variable in zip(names, ("swvl1", "swvl2", "swvl3", "stl1"), strict=True):
            data[[variable]].to_netcdf(tmp_path / "granules" / f"{name}.nc", engine="h5netcdf")
    result, _, config = ingested("era5_land", "2020-03-01", "2020-03-01")
    assert result.problems == result.notes == ()
    np.testing.assert_allclose(open_store(config.root, "ard/era5_land").soil_moisture, 0.25, atol=1e-4)


def test_many_archives_are_read_at_once(tmp_path):
    days = [f"2020-03-0{k + 1}" for k in range(6)]
    for k, day in enumerate(days):
        with zipfile.ZipFile(tmp_path / f"{k}.zip", "w") as archive:
            archive.write(era5(tmp_path / f"{k}.nc", [day], 0.2 + 0.01 * k), "data_0.nc")
    path = tmp_path / "era5_202003.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for k in range(6):
            archive.write(tmp_path / f"{k}.zip", f"{k}.zip")

    def read(k):
        whole = np.array([days[k % 6]], "datetime64[D]")
        return [PRODUCTS["era5_land"].read(one, ERA5, whole).values for one in (tmp_path / f"{k % 6}.zip", path)]

    with ThreadPoolExecutor(6) as pool:
        for k, found in enumerate(pool.map(read, range(18))):
            for values in found:
                np.testing.assert_allclose(values, 0.2 + 0.01 * (k % 6), rtol=1e-6)


BROKEN = {
    "a web page": b"<!DOCTYPE html>\n<html><title>Earthdata Login</title></html>",
    "an answer in JSON": b'{"detail": "quota exceeded"}',
    "a document in XML": b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
    "it is empty": b"",
    "begins with zeros": bytes(4096),
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "CDF-5": b"CDF\x05" + bytes(64),
    "a ZIP that holds no file": None,
    "damaged after 0 fields": b"GRIB\x00\x00\x10\x01" + bytes(16),
}


@pytest.mark.parametrize("cause", list(BROKEN))
def test_a_file_that_is_no_granule_costs_its_own_day_and_the_true_cause_is_said(tmp_path, ingested, cause):
    folder = tmp_path / "granules"
    era5(folder / "era5_land_20200301.nc", ["2020-03-01"])
    if BROKEN[cause] is None:
        with zipfile.ZipFile(folder / "era5_land_20200302.nc", "w") as archive:
            archive.writestr("readme.txt", "no data")
    else:
        (folder / "era5_land_20200302.nc").write_bytes(BROKEN[cause])
    result, means, _ = ingested("era5_land", "2020-03-01", "2020-03-02")
    np.testing.assert_allclose(means, [0.25, np.nan], atol=1e-4)
    (problem,) = result.problems
    assert problem.startswith("2020-03-02: era5_land_20200302.nc cannot be read")
    assert cause in problem
    assert ("truncated" in problem) == ("truncated" in cause)


def test_a_classic_file_that_is_cut_off_is_called_so(tmp_path, ingested):
    path = era5(tmp_path / "granules" / "era5_land_20200301.nc", ["2020-03-01"], engine="scipy")
    path.write_bytes(path.read_bytes()[:-5000])
    result, _, _ = ingested("era5_land", "2020-03-01", "2020-03-01")
    (problem,) = result.problems
    assert "it is netCDF-3, and truncated" in problem


@pytest.mark.parametrize("name", ["era5 land", "era5[0.1deg]", "era5#1", "100%", "données", "what?", "a::b"])
def test_odd_names_of_folders_are_what_they_say(tmp_path, name):
    folder = tmp_path / name
    era5(folder / "granules" / name / "e_20200301.nc", ["2020-03-01"])
    document = {
        "root": f"root {name}",
        "grid": {"name": "latlon_0.25", "bbox": BOX},
        "period": {"start": "2020-03-01", "end": "2020-03-01"},
        "products": {"era5_land": {"granules": f"granules/{name}"}},
        "compute": {"processes": False, "workers": 1},
    }
    (folder / "deepprofile.yaml").write_text(yaml.safe_dump(document))
    code, _ = deepprofile(folder, "ingest")
    assert code == 0
    code, text = deepprofile(folder, "status")
    assert code == 0
    assert f"Root: {folder}/root {name}" in text
    moisture = open_store(f"{folder}/root {name}", "ard/era5_land").soil_moisture
    np.testing.assert_allclose(moisture, 0.25, atol=1e-4)


def test_a_remote_file_whose_name_says_nothing_is_opened_once(tmp_path, monkeypatch):
    import fsspec
    from deepprofile.sources import catalogue

    fs = fsspec.filesystem("memory")
    fs.pipe_file("/odd names/data_0.nc", era5(tmp_path / "data_0.nc", ["2020-03-01"]).read_bytes())
    opened = []
    monkeypatch.setattr(type(PRODUCTS["era5_land"]), "contents", counted(type(PRODUCTS["era5_land"]).contents, opened))
    days = np.array(["2020-03-01"], "datetime64[D]")
    cache = Cache(str(tmp_path / "cache"))
    for _ in range(2):
        found = find_granules(PRODUCTS["era5_land"], "memory://odd names", days, cache)
        assert [granule.name for granule in found.by_day["2020-03-01"]] == ["data_0.nc"]
        # Another process knows it from the cache's folder.
        catalogue._contents_known.clear()
    assert len(opened) == 1
    fs.store.clear()


def counted(function, calls):
    def wrapper(*arguments):
        calls.append(arguments)
        return function(*arguments)

    return wrapper
