"""Which files of a folder are found as granules, and what is said where one is not there, twice there, or not readable."""

import os
import shutil
import zipfile
from pathlib import Path

import fsspec
import h5py
import numpy as np
import pytest
import xarray as xr
import yaml
from deepprofile import open_store
from deepprofile.sources import catalogue
from deepprofile.sources.catalogue import Cache, find_granules
from deepprofile.sources.products import PRODUCTS
from deepprofile.stages import ingest
from deepprofile.storage import objects

from tests.stages.test_forms import BOX, ERA5, deepprofile, era5, gldas, ingested, smap_l3

__all__ = ["ingested"]

DAY = np.array(["2020-03-01"], "datetime64[D]")


@pytest.fixture
def memory():
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    yield fs
    fs.store.clear()


@pytest.fixture(autouse=True)
def nothing_known():
    catalogue._contents_known.clear()


@pytest.mark.parametrize(
    "name", ["137422908_{}_subsetted.h5", "{}_subsetted.nc4", "{}_HEGOUT.h5", "{}.dap.nc4?dap4.ce=%2Fa", "{}.H5", "{}_1.h5"]
)
def test_names_that_services_make_of_a_granule(tmp_path, ingested, name):
    smap_l3(tmp_path / "granules", "2019-11-10")
    (path,) = (tmp_path / "granules").iterdir()
    path.rename(path.with_name(name.format(path.stem)))
    result, means, _ = ingested("smap_l3", "2019-11-10", "2019-11-10")
    assert result.problems == result.notes == ()
    np.testing.assert_allclose(means, [0.2], atol=1e-4)


def test_a_query_after_the_ending_is_no_part_of_it(tmp_path, ingested):
    gldas(tmp_path / "granules", "2017-06-12", ending="nc4.dap.nc4?dap4.ce=SoilMoi0_10cm_inst")
    result, means, _ = ingested("gldas_noah", "2017-06-12", "2017-06-12")
    assert result.problems == ()
    np.testing.assert_allclose(means, [0.2], atol=1e-4)


def test_of_two_granules_of_one_time_that_differ_none_is_used(tmp_path, ingested):
    smap_l3(tmp_path / "granules/a", "2019-11-10", 0.2)
    smap_l3(tmp_path / "granules/b", "2019-11-10", 0.4)
    smap_l3(tmp_path / "granules/b", "2019-11-11", 0.3)
    result, means, _ = ingested("smap_l3", "2019-11-10", "2019-11-11")
    np.testing.assert_allclose(means, [np.nan, 0.3], atol=1e-4)
    (problem,) = result.problems
    assert "/a/SMAP" in problem
    assert "/b/SMAP" in problem
    assert "none of them is used" in problem


COPIES = {
    "a browser's copy": lambda path: path.with_name(f"{path.stem} (1){path.suffix}"),
    "a copy in a folder below": lambda path: path.parent / "below" / path.name,
    "a subset's name": lambda path: path.with_name(f"{path.name}.SUB.nc4"),
}


@pytest.mark.parametrize("form", list(COPIES))
@pytest.mark.parametrize("product", ["smap_l3", "gldas_noah", "era5_land"])
def test_a_copy_beside_its_granule_is_used_once_and_said(tmp_path, ingested, product, form):
    folder, day = tmp_path / "granules", "2020-03-01"
    write = {"smap_l3": smap_l3, "gldas_noah": gldas}.get(product)
    if write is None:
        era5(folder / "era5_20200301.nc", [day], 0.2)
    else:
        write(folder, day, 0.2)
    originals = sorted(folder.iterdir())
    (folder / "below").mkdir()
    for path in originals:
        shutil.copyfile(path, COPIES[form](path))
    result, means, _ = ingested(product, day, day)
    assert result.problems == ()
    np.testing.assert_allclose(means, [0.2], atol=1e-4)
    (note,) = result.notes
    assert f"{product}: files that hold the same values are used once: " in note
    assert str(originals[0]) in note
    assert str(COPIES[form](originals[0])) in note
    assert ("and 7 more such groups of files" in note) == (product == "gldas_noah")
    assert deepprofile(tmp_path, "ingest")[0] == 0


def test_a_copy_that_differs_in_one_cell_is_refused(tmp_path, ingested):
    path = era5(tmp_path / "granules/era5_20200301.nc", ["2020-03-01"])
    copy = tmp_path / "granules/era5_20200301 (1).nc"
    for variable, change in (("swvl2", 0.01), ("stl1", -20.0)):
        shutil.copyfile(path, copy)
        with h5py.File(copy, "a") as file:
            file[variable][7, 10, 10] += np.float32(change)
        result, means, _ = ingested("era5_land", "2020-03-01", "2020-03-01", root=variable)
        assert np.isnan(means).all()
        (problem,) = result.problems
        assert str(copy) in problem
        assert "none of them is used" in problem
        assert "hold different values for the same layers, time steps and cells" in problem


@pytest.mark.parametrize("also_screens", [True, False])
def test_a_subset_beside_its_granule_takes_nothing_of_its_screens(tmp_path, ingested, also_screens):
    whole = era5(tmp_path / "granules/era5_20200301.nc", ["2020-03-01"])
    with h5py.File(whole, "a") as file:
        # Frozen in the southern half.
        file["stl1"][:, 10:] = 260.0
    with xr.open_dataset(whole, engine="h5netcdf") as data:
        names = ["swvl1", "swvl2", "swvl3", *(["stl1"] if also_screens else [])]
        data[names].isel(latitude=slice(4, 16)).to_netcdf(tmp_path / "granules/era5_20200301.nc.SUB.nc4", engine="h5netcdf")
    result, _, config = ingested("era5_land", "2020-03-01", "2020-03-01")
    assert result.problems == ()
    (note,) = result.notes
    assert "used once" in note
    there = np.isfinite(open_store(config.root, "ard/era5_land").soil_moisture.values[0])
    window = ingest.ProductIngest.of(config, "era5_land").domain.grid
    frozen = window.lat < ERA5.lat[9] - 0.05
    assert there[:, ~frozen].all()
    assert not there[:, frozen].any()


def test_a_month_beside_its_days_is_used_once(tmp_path, ingested):
    era5(tmp_path / "granules/era5_202003.nc", ["2020-03-01", "2020-03-02"])
    era5(tmp_path / "granules/era5_20200301.nc", ["2020-03-01"])
    era5(tmp_path / "granules/era5_20200302.nc", ["2020-03-02"], 0.3)
    result, means, _ = ingested("era5_land", "2020-03-01", "2020-03-02")
    (note,) = result.notes
    assert "era5_202003.nc" in note
    assert "era5_20200301.nc (2020-03-01)" in note
    assert {problem.split(":")[0] for problem in result.problems} == {"2020-03-02"}
    np.testing.assert_allclose(means, [0.25, 0.26], atol=1e-4)


def test_copies_of_files_of_one_variable_each_are_used_once(tmp_path, ingested):
    whole = era5(tmp_path / "whole.nc", ["2020-03-01"])
    (tmp_path / "granules/again").mkdir(parents=True)
    with xr.open_dataset(whole, engine="h5netcdf") as data:
        for name in ("swvl1", "swvl2", "swvl3", "stl1"):
            path = tmp_path / "granules" / f"{name}_20200301.nc"
            data[[name]].to_netcdf(path, engine="h5netcdf")
            shutil.copyfile(path, tmp_path / "granules/again" / path.name)
    result, means, _ = ingested("era5_land", "2020-03-01", "2020-03-01")
    assert result.problems == ()
    assert "used once" in result.notes[0]
    np.testing.assert_allclose(means, [0.25], atol=1e-4)


def test_days_of_copies_stay_said_when_days_are_added(tmp_path, ingested):
    path = era5(tmp_path / "granules/era5_20200301.nc", ["2020-03-01"])
    shutil.copyfile(path, COPIES["a browser's copy"](path))
    first, _, _ = ingested("era5_land", "2020-03-01", "2020-03-01")
    era5(tmp_path / "granules/era5_20200302.nc", ["2020-03-02"])
    second, means, _ = ingested("era5_land", "2020-03-01", "2020-03-02")
    assert first.notes == second.notes
    np.testing.assert_allclose(means, [0.25, 0.25], atol=1e-4)


def test_notes_alone_end_well(tmp_path, ingested):
    smap_l3(tmp_path / "granules", "2019-11-10", 0.4, "R18290_001")
    smap_l3(tmp_path / "granules", "2019-11-10", 0.2, "R19240_001")
    ingested("smap_l3", "2019-11-10", "2019-11-10")
    code, text = deepprofile(tmp_path, "ingest")
    assert code == 0
    assert "R19240_001.h5 is used instead of" in text


def test_era5_land_without_temperature_is_used_and_said(tmp_path, ingested):
    era5(tmp_path / "granules/era5_20200301.nc", ["2020-03-01"], temperature=False)
    result, means, _ = ingested("era5_land", "2020-03-01", "2020-03-01")
    assert result.problems == ()
    assert "lack soil temperature" in result.notes[0]
    np.testing.assert_allclose(means, [0.25], atol=1e-4)
    assert deepprofile(tmp_path, "ingest")[0] == 0


def test_the_outage_of_2022_is_not_missed_and_its_neighbours_are(tmp_path, ingested):
    smap_l3(tmp_path / "granules", "2022-08-04")
    result, _, _ = ingested("smap_l3", "2022-08-04", "2022-09-22")
    days = [problem.split(":")[0] for problem in result.problems]
    assert "2022-08-05" in days
    assert "2022-09-22" in days
    assert not [day for day in days if "2022-08-10" <= day <= "2022-09-15"]


def test_an_archive_with_a_password_costs_its_day_alone(tmp_path, ingested):
    era5(tmp_path / "granules/era5_20200301.nc", ["2020-03-01"])
    path = tmp_path / "granules/era5_20200302.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.nc", b"x" * 100)
    content = bytearray(path.read_bytes())
    # Bit 0 of the flags, in both headers of the member: it is encrypted.
    content[6] |= 1
    content[content.find(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    result, means, _ = ingested("era5_land", "2020-03-01", "2020-03-02")
    np.testing.assert_allclose(means, [0.25, np.nan], atol=1e-4)
    (problem,) = result.problems
    assert "era5_20200302.zip cannot be read: it is a ZIP with a password" in problem


def test_a_folder_with_the_name_of_a_granule_is_none(tmp_path, ingested):
    era5(tmp_path / "granules/era5_20200301.nc", ["2020-03-01"])
    (tmp_path / "granules/era5_20200302.nc").mkdir()
    (tmp_path / "granules/era5_20200303.nc/c").mkdir(parents=True)
    (tmp_path / "granules/era5_20200303.nc/zarr.json").write_text("{}")
    # A folder with granules in it may be called as one likes; a pattern that names it does not go into it.
    era5(tmp_path / "granules/era5_20200304.nc/hours_20200304.nc", ["2020-03-04"], 0.3)
    for pattern, others in (("", " was"), ("/*.nc", " and 1 more files were")):
        source = {"granules": f"{tmp_path}/granules{pattern}"}
        result, means, _ = ingested("era5_land", "2020-03-01", "2020-03-03", root=f"root{len(pattern)}", source=source)
        assert result.problems == tuple(f"2020-03-0{day}: 24 of 24 time steps of era5_land are missing" for day in (2, 3))
        np.testing.assert_allclose(means, [0.25, np.nan, np.nan], atol=1e-4)
        assert result.notes == (
            f"era5_land: era5_20200302.nc{others} passed over: it is a folder, not a file, and no granule is in it",
            "era5_land: era5_20200303.nc was passed over: it is a store in Zarr: name it as 'zarr+' and its path",
        )


def test_a_file_removed_after_the_listing_costs_its_day_alone(tmp_path, ingested, monkeypatch):
    for day in ("2020-03-01", "2020-03-02"):
        era5(tmp_path / f"granules/era5_{day.replace('-', '')}.nc", [day])

    def listed_and_removed(*arguments):
        found = find_granules(*arguments)
        (tmp_path / "granules/era5_20200302.nc").unlink(missing_ok=True)
        return found

    monkeypatch.setattr(ingest, "find_granules", listed_and_removed)
    result, means, _ = ingested("era5_land", "2020-03-01", "2020-03-02")
    np.testing.assert_allclose(means, [0.25, np.nan], atol=1e-4)
    (problem,) = result.problems
    assert "era5_20200302.nc cannot be read: it is not there any more" in problem


def test_a_file_removed_during_the_listing_is_not_listed(tmp_path, monkeypatch):
    (tmp_path / "a.nc").write_bytes(b"a")
    gone = tmp_path / "b.nc"
    gone.write_bytes(b"b")
    stat = os.stat

    def removed_first(path, **options):
        if Path(path) == gone:
            gone.unlink(missing_ok=True)
        return stat(path, **options)

    monkeypatch.setattr(objects.os, "stat", removed_first)
    # Whoever asked just before that found it there.
    monkeypatch.setattr(objects.os.path, "exists", lambda path: True)
    assert [entry["url"] for entry in objects.listing(str(tmp_path))] == [str(tmp_path / "a.nc")]


@pytest.mark.parametrize("name", ["x[old]", "x[bold]y", "a[/b]c", "[/]"])
def test_brackets_in_paths_are_printed_as_they_are(tmp_path, name):
    folder = tmp_path / name
    era5(folder / "granules/e_20200301.nc", ["2020-03-01"])
    document = {
        "root": "root",
        "grid": {"name": "latlon_0.25", "bbox": BOX},
        "period": {"start": "2020-03-01", "end": "2020-03-01"},
        "products": {"era5_land": {"granules": "granules"}},
        "compute": {"processes": False, "workers": 1},
    }
    (folder / "deepprofile.yaml").write_text(yaml.safe_dump(document))
    assert deepprofile(folder, "ingest")[0] == 0
    code, text = deepprofile(folder, "status")
    assert code == 0
    assert f"Root: {folder}/root" in text


@pytest.mark.parametrize("name", ["a b", "x[1]", "a#1", "50%", "%41", "données", "what?"])
def test_odd_names_of_remote_folders_are_what_they_say(tmp_path, ingested, memory, name):
    memory.pipe_file(f"/{name}/e_20200301.nc", era5(tmp_path / "e.nc", ["2020-03-01"]).read_bytes())
    source = {"granules": f"memory://{name}"}
    result, means, _ = ingested("era5_land", "2020-03-01", "2020-03-01", source=source, ingest={"cache": str(tmp_path / "c")})
    assert result.problems == ()
    np.testing.assert_allclose(means, [0.25], atol=1e-4)


def test_a_remote_file_is_downloaded_once_to_learn_its_days(tmp_path, memory, monkeypatch):
    memory.pipe_file("/there/data_0.nc", era5(tmp_path / "d.nc", ["2020-03-01"]).read_bytes())
    fetch, fetched = type(memory).get_file, []

    def counted(fs, *arguments, **options):
        fetched.append(arguments)
        return fetch(fs, *arguments, **options)

    monkeypatch.setattr(type(memory), "get_file", counted)
    for _ in range(3):
        find_granules(PRODUCTS["era5_land"], "memory://there", DAY, Cache(str(tmp_path / "cache")))
        catalogue._contents_known.clear()
    assert len(fetched) == 1


def test_a_download_that_failed_is_not_remembered(tmp_path, memory, monkeypatch):
    memory.pipe_file("/there/data_0.nc", era5(tmp_path / "d.nc", ["2020-03-01"]).read_bytes())
    cache = Cache(str(tmp_path / "cache"))
    with monkeypatch.context() as broken:
        broken.setattr(type(memory), "get_file", lambda fs, there, here, **options: Path(here).write_bytes(b"x"))
        found = find_granules(PRODUCTS["era5_land"], "memory://there", DAY, cache)
    assert found.by_day == {}
    assert "has 1 bytes after its download" in found.passed_over[0].reason
    found = find_granules(PRODUCTS["era5_land"], "memory://there", DAY, cache)
    assert list(found.by_day) == ["2020-03-01"]
    assert found.passed_over == ()
