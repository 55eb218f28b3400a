"""Granules from services that break, are busy, ask to log in, and replace what they had."""

from __future__ import annotations

import io
import shutil
import signal
import subprocess
import sys
import zipfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
from deepprofile import config as configuration
from deepprofile.execution.pools import ThreadPool
from deepprofile.grids.grids import ERA5_LAND_01
from deepprofile.sources.products import PRODUCTS
from deepprofile.sources.providers import CredentialsError
from deepprofile.stages import download, ingest
from deepprofile.stages.download import Folder, cells_of, wanted
from deepprofile.stages.execute import RunWith
from deepprofile.stages.pipeline import STAGES, Request, run_stages, status_of
from deepprofile.stages.schedule import AsOf
from deepprofile.storage.roots import Root

from tests.support.granules import tree, url_of
from tests.support.services import TOKEN, services  # noqa: F401

DAY = np.datetime64("2015-04-20")
NASA = {"smap_l4": "SPL4SMGP", "gldas_noah": "GLDAS_NOAH025_3H", "smap_l3": "SPL3SMP_E"}


def task_of(config, name):
    return next(task for task in download.ProductDownload.all_of(config) if task.product.name == name)


def together(paths):
    """The days of several files of ERA5-Land."""
    parts = []
    for path in paths:
        with xr.open_dataset(path, engine="h5netcdf") as one:
            parts.append(one.load())
    whole = xr.concat(parts, "valid_time", data_vars="minimal", coords="minimal", compat="override")
    for name in whole.variables:
        whole[name].encoding = {}
    return whole


@pytest.fixture
def offered(services, granules, tmp_path):  # noqa: F811
    """The services offer the region's granules; their files may be changed."""
    for product, collection in NASA.items():
        folder = tmp_path / "archive" / collection
        folder.mkdir(parents=True)
        for path in sorted((granules / product).iterdir()):
            (folder / path.name).symlink_to(path)
        services.collections[collection] = folder

    def make(request):
        """A file of the days that are asked for, as the store would cut it out."""
        paths = [granules / "era5_land" / f"era5_land_{request['year']}{request['month']}{day}.nc" for day in request["day"]]
        if len(paths) == 1:
            return paths[0].read_bytes()
        buffer = io.BytesIO()
        together(paths).drop_vars("expver").to_netcdf(buffer, engine="h5netcdf")
        return buffer.getvalue()

    services.make = make
    return services


@pytest.fixture
def fetching(configure, offered, tmp_path):
    """A configuration whose products are fetched, for some days and products."""

    def make(names=("smap_l4",), until=DAY, **changes):
        products = {}
        for name in names:
            provider = "cds" if name == "era5_land" else "earthdata"
            url = offered.url + ("/cds" if provider == "cds" else "")
            products[name] = {
                "granules": str(tmp_path / "fetched" / name),
                "download": {"provider": provider, "url": url, "requests": 3},
                "latency_days": 1,
                "final_latency_days": 8 if name == "era5_land" else 1,
            }
        return configure(products=products, period={"start": "2015-04-10", "end": str(until)}, **changes)

    return make


def run(config, today=DAY, stages=("ingest",), pool=None):
    moment = AsOf(today, today)
    return {r.stage: r for r in run_stages(config, stages, pool or ThreadPool(4), request=Request(moment))}


def test_a_run_fetches_what_the_period_needs_and_equals_one_from_a_folder(fetching, configure, granules, offered):
    until = np.datetime64("2015-06-01")
    config = fetching(("smap_l4", "gldas_noah", "era5_land", "smap_l3"), until)
    results = run(config, until, STAGES)
    # The days after the last file of ERA5-Land are not due yet.
    assert not [problem for result in results.values() for problem in result.problems]
    assert results["download/smap_l4"].progress.done == 53 * 8
    assert offered.most <= 3
    local = {name: {"granules": str(granules / name)} for name in config.products}
    folder = configure("folder", products=local, period={"start": "2015-04-10", "end": str(until)})
    run(folder, until, STAGES)
    # The values of ERA5-Land are others, and so are the files of months, whose names end with a hash.
    ours, theirs = ({key for key in tree(root) if not key.startswith("files/")} for root in (config.root, folder.root))
    assert ours == theirs
    for name in ("ard/smap_l4", "ard/gldas_noah", "ard/smap_l3"):
        ours = {key: value for key, value in tree(config.root).items() if key.startswith(name)}
        assert ours == {key: value for key, value in tree(folder.root).items() if key.startswith(name)}
    # Whole months that are final come as one file; single days where they do not.
    assert sorted(len(request["day"]) for request in offered.submitted)[-1] == 1
    again = run(config, until, STAGES)
    assert not [stage for stage in again if stage.startswith("download/")]
    assert all(result.progress.done == 0 for result in again.values())


def test_only_the_box_and_the_variables_are_asked_of_the_store(fetching, offered):
    config = fetching(("era5_land",))
    run(config)
    assert sorted(request["day"] for request in offered.submitted) == [[f"{d:02d}"] for d in range(10, 20)]
    request = offered.submitted[0]
    west, south, east, north = cells_of(ERA5_LAND_01.covering(config.grid.grid()))
    assert request["area"] == [north, west, south, east]
    assert request["variable"][-1] == "soil_temperature_level_1"
    assert len(request["time"]) == 24


def test_a_whole_month_comes_as_one_file(fetching, offered):
    config = fetching(("era5_land",), np.datetime64("2015-06-11"))
    listed = wanted(task_of(config, "era5_land"), AsOf(np.datetime64("2015-06-11")))
    (wish,) = [w for w in listed if len(w.offer.source["request"]["day"]) > 1]
    assert wish.offer.name == "era5_land_201505.nc"
    assert PRODUCTS["era5_land"].parse(wish.offer.name).days.size == 31


@pytest.mark.parametrize(("most", "requests"), [(20, 2), (6, 8), (0.5, 62)])
def test_a_month_that_is_too_large_comes_in_parts(fetching, offered, granules, tmp_path, most, requests):
    plain = offered.make

    def some(request):
        with xr.open_dataset(io.BytesIO(plain(request)), engine="h5netcdf") as whole:
            layers = {"volumetric_soil_water_layer_": "swvl", "soil_temperature_level_": "stl"}
            short = [next(v + long[-1] for k, v in layers.items() if long.startswith(k)) for long in request["variable"]]
            part = whole[short].load()
        part.to_netcdf(buffer := io.BytesIO(), engine="h5netcdf")
        return buffer.getvalue()

    offered.make, offered.most_days = some, most
    config = fetching(("era5_land",), np.datetime64("2015-06-11"))
    (wish,) = [
        w
        for w in wanted(task_of(config, "era5_land"), AsOf(np.datetime64("2015-06-11")))
        if len(w.offer.source["request"]["day"]) > 1
    ]
    (provider,) = download.providers_of(config.product("era5_land"), config.products["era5_land"].download)
    target, requested = tmp_path / wish.offer.name, Folder(str(tmp_path / "kept")).request_store("x")
    provider.fetch(wish.offer, target, requested)
    assert len(offered.submitted) == requests
    assert requested.load() is None
    expected = together(sorted((granules / "era5_land").glob("*_201505*.nc")))
    with xr.open_dataset(target, engine="h5netcdf") as found:
        for name in ("swvl1", "swvl2", "swvl3", "stl1"):
            np.testing.assert_array_equal(found[name].values, expected[name].values)
        np.testing.assert_array_equal(found.valid_time.values, expected.valid_time.values)


FETCH = """
import sys
from pathlib import Path
import numpy as np
from deepprofile.sources.providers.cds import Cds
from deepprofile.stages.download import Folder
days = np.arange("2015-05-01", "2015-06-01", dtype="datetime64[D]")
url, folder, target = sys.argv[1:]
provider = Cds("reanalysis-era5-land", "", url)
(offer,) = provider.find(days, (-10.0, 40.0, -9.0, 41.0), days[-1])
provider.fetch(offer, Path(target), Folder(folder).request_store(offer.name))
"""


def test_a_download_in_parts_that_is_killed_takes_up_its_requests_again(offered, granules, tmp_path):
    plain, made, running = offered.make, [], []
    killed, again = (tmp_path / f"{when}.nc" for when in ("killed", "again"))

    def fetch(target):
        arguments = [sys.executable, "-c", FETCH, f"{offered.url}/cds", str(tmp_path / "fetched"), str(target)]
        running.append(subprocess.Popen(arguments))
        return running[-1]

    def make(request):
        made.append(request["day"])
        if len(made) == 3:
            # Two parts are there, and the third is being fetched.
            running[0].kill()
            running[0].wait()
        return plain(request)

    offered.make, offered.most_days = make, 8
    assert fetch(killed).wait(120) == -signal.SIGKILL
    assert not killed.exists()
    assert [len(days) for days in made] == [8, 8, 8]
    jobs = dict(offered.jobs)
    assert fetch(again).wait(120) == 0
    # All four requests stood in the queue before the first part came: none of them is made a second time.
    assert offered.jobs.keys() == jobs.keys()
    assert [len(request["day"]) for request in offered.submitted] == [8, 8, 8, 7]
    expected = together(sorted((granules / "era5_land").glob("*_201505*.nc")))
    with xr.open_dataset(again, engine="h5netcdf") as found:
        for name in ("swvl1", "swvl2", "swvl3", "stl1"):
            np.testing.assert_array_equal(found[name].values, expected[name].values)
        np.testing.assert_array_equal(found.valid_time.values, expected.valid_time.values)
    assert Folder(str(tmp_path / "fetched")).request_store("era5_land_201505.nc").load() is None


def test_what_is_too_large_in_every_part_is_said_in_the_words_of_the_store(fetching, offered):
    offered.most_days = 0
    today = np.datetime64("2015-04-12")
    config = fetching(("era5_land",), today, compute={"attempts": 1})
    problem = download.run(
        task_of(config, "era5_land"), Root(config.root), AsOf(today, today), RunWith(ThreadPool(1), config.compute)
    ).problems[0]
    assert "cost limits exceeded: Your request is too large, please reduce your selection." in problem


@pytest.mark.parametrize("trouble", ["busy", "cut", "other"])
def test_trouble_that_passes_costs_another_attempt(fetching, offered, trouble):
    name = "SMAP_L4_SM_gph_20150412T043000_Vv8011_001.h5"
    offered.trouble[name].extend([trouble] * 2)
    config = fetching(until=np.datetime64("2015-04-14"))
    results = run(config, np.datetime64("2015-04-14"))
    assert results["download/smap_l4"].problems == ()
    assert offered.asked[name] == 3
    folder = Folder(config.products["smap_l4"].granules)
    assert folder.sizes()[name] == (offered.collections["SPL4SMGP"] / name).stat().st_size


def test_trouble_that_stays_is_said_and_the_rest_is_there(fetching, offered):
    name = "SMAP_L4_SM_gph_20150412T043000_Vv8011_001.h5"
    offered.trouble[name].extend(["other"] * 100)
    today = np.datetime64("2015-04-14")
    config = fetching(until=today, compute={"attempts": 2})
    results = run(config, today)
    (problem,) = results["download/smap_l4"].problems
    assert problem.startswith(f"smap_l4: {name} has the md5 ")
    assert results["ingest/smap_l4"].problems == ("2015-04-12: 1 of 8 time steps of smap_l4 are missing",)
    offered.trouble.clear()
    again = run(config, today)
    assert again["download/smap_l4"].progress.done == 1
    assert again["ingest/smap_l4"].problems == ()


def test_a_page_to_log_in_is_no_granule(fetching, offered):
    for path in offered.collections["SPL4SMGP"].iterdir():
        offered.trouble[path.name].append("login")
    with pytest.raises(CredentialsError, match=r"answers with a page to log in instead of SMAP_L4.*set EARTHDATA_TOKEN"):
        run(fetching())


@pytest.mark.parametrize(
    ("product", "variable", "message"),
    [
        ("smap_l4", "EARTHDATA_TOKEN", "refuses SMAP_L4.*401.*set EARTHDATA_TOKEN"),
        ("era5_land", "CDSAPI_KEY", r"refuses era5_land_20150410.nc \(401: .*\): set CDSAPI_KEY"),
    ],
)
def test_wrong_credentials_are_one_clear_message(fetching, offered, monkeypatch, product, variable, message):
    monkeypatch.setenv(variable, "wrong")
    with pytest.raises(CredentialsError, match=message):
        run(fetching((product,)), pool=ThreadPool(1))


@pytest.mark.parametrize(
    ("product", "variable", "message"),
    [
        ("smap_l4", "EARTHDATA_TOKEN", "there are no credentials for Earthdata Login: set EARTHDATA_TOKEN"),
        ("era5_land", "CDSAPI_KEY", "there are no credentials for the Climate Data Store: set CDSAPI_KEY"),
    ],
)
def test_missing_credentials_are_one_clear_message(fetching, offered, monkeypatch, product, variable, message):
    monkeypatch.delenv(variable)
    with pytest.raises(CredentialsError, match=message):
        run(fetching((product,)), pool=ThreadPool(1))


def test_a_granule_that_the_provider_replaces_is_fetched_again(fetching, offered):
    config = fetching()
    first = run(config)
    name = "SMAP_L4_SM_gph_20150412T043000_Vv8011_001.h5"
    path = offered.collections["SPL4SMGP"] / name
    original = path.resolve()
    path.unlink()
    shutil.copyfile(original, path)
    with h5py.File(path, "a") as file:
        file["Geophysical_Data/sm_surface"][...] += np.float32(0.01)
    offered.revisions[name] += 1
    results = run(config)
    assert results["download/smap_l4"].progress.done == 1
    # One of eleven days is read again.
    assert 0 < results["ingest/smap_l4"].progress.bytes_read < 0.2 * first["ingest/smap_l4"].progress.bytes_read
    assert Folder(config.products["smap_l4"].granules).index()[name]["revision"] == "2"


def test_a_new_processing_takes_the_place_of_the_old(fetching, offered):
    config = fetching()
    run(config)
    folder = offered.collections["SPL4SMGP"]
    for path in folder.glob("*_20150412T*"):
        path.rename(folder / path.name.replace("Vv8011", "Vv8020"))
    results = run(config)
    assert results["download/smap_l4"].progress.done == 8
    assert results["ingest/smap_l4"].problems == ()
    names = Folder(config.products["smap_l4"].granules).sizes()
    assert not [name for name in names if "20150412" in name and "Vv8011" in name]


def test_early_granules_give_way_to_the_final_ones(fetching, offered, tmp_path):
    early = tmp_path / "archive" / "early"
    early.mkdir()
    final = offered.collections["GLDAS_NOAH025_3H"]
    offered.collections["GLDAS_NOAH025_3H_EP"] = early
    for path in list(final.glob("*A201504[12]*")):
        if path.name > "GLDAS_NOAH025_3H.A20150415":
            path.rename(early / path.name.replace("_3H.", "_3H_EP."))
    config = fetching(("gldas_noah",))
    run(config)
    task = ingest.ProductIngest.of(config, "gldas_noah")
    states = ingest.day_states(task, Root(config.root), AsOf(DAY))
    assert (states["2015-04-14"], states["2015-04-16"]) == ("there", "provisional")
    for path in list(early.glob("*A20150416*")):
        path.rename(final / path.name.replace("_EP", ""))
    results = run(config)
    assert results["download/gldas_noah"].progress.done == 8
    states = status_of(config, AsOf(DAY))["days"]["gldas_noah"]
    assert (states["2015-04-16"], states["2015-04-17"]) == ("there", "provisional")


def test_provisional_days_of_the_store_are_asked_for_again_when_they_should_be_final(fetching, offered, granules):
    plain = offered.make

    def provisional(request):
        content = plain(request)
        with h5py.File(buffer := io.BytesIO(content), "a") as file:
            file["expver"][...] = np.array([b"0005"] * file["expver"].size)
        return buffer.getvalue()

    offered.make = provisional
    config = fetching(("era5_land",))
    run(config)
    asked = len(offered.submitted)
    task = ingest.ProductIngest.of(config, "era5_land")
    states = ingest.day_states(task, Root(config.root), AsOf(DAY))
    assert states["2015-04-12"] == states["2015-04-19"] == "provisional"
    offered.make = plain
    # Days 10 and 11 are past the latency of the final values, and come as such.
    results = run(config)
    assert results["download/era5_land"].progress.done == len(offered.submitted) - asked == 2
    task = ingest.ProductIngest.of(config, "era5_land")
    states = ingest.day_states(task, Root(config.root), AsOf(DAY))
    assert (states["2015-04-11"], states["2015-04-12"]) == ("there", "provisional")


def test_a_request_that_waits_is_taken_up_again(fetching, offered, monkeypatch):
    offered.withheld = True
    monkeypatch.setattr("deepprofile.sources.providers.cds.WAIT_SECONDS", 0.2)
    today = np.datetime64("2015-04-12")
    config = fetching(("era5_land",), today, compute={"attempts": 1})
    first = download.run(
        task_of(config, "era5_land"), Root(config.root), AsOf(today, today), RunWith(ThreadPool(2), config.compute)
    ).problems[0]
    assert "still waits in the queue of the Climate Data Store" in first
    asked = len(offered.submitted)
    offered.withheld = False
    results = run(config, today)
    assert results["download/era5_land"].problems == ()
    assert len(offered.submitted) == asked == 2


def test_an_archive_of_one_file_is_unpacked(fetching, offered):
    plain = offered.make

    def packed(request):
        with zipfile.ZipFile(buffer := io.BytesIO(), "w") as archive:
            archive.writestr("data_0.nc", plain(request))
        return buffer.getvalue()

    offered.make = packed
    config = fetching(("era5_land",))
    results = run(config)
    assert results["ingest/era5_land"].problems == ()


def test_a_mirror_in_zarr_equals_the_files(configure, granules, tmp_path):
    whole = together(sorted((granules / "era5_land").iterdir())).drop_vars("expver")
    whole.attrs = {"valid_time_stop": "2015-05-31", "valid_time_stop_era5t": "2015-06-09"}
    whole.to_zarr(tmp_path / "era5-land.zarr", consolidated=True, zarr_format=2)
    mirrored = configure(products={"era5_land": {"granules": f"zarr+{tmp_path}/era5-land.zarr"}})
    results = run(mirrored, np.datetime64("2015-06-11"))
    assert results["ingest/era5_land"].problems == ()
    files = configure("files", products={"era5_land": {"granules": str(granules / "era5_land")}})
    run(files, np.datetime64("2015-06-11"))
    ours, theirs = (
        xr.open_zarr(url_of(c, "ard/era5_land"), consolidated=False).soil_moisture.sel(time=slice("2015-06-09")).load()
        for c in (mirrored, files)
    )
    xr.testing.assert_equal(ours, theirs)
    states = ingest.day_states(
        ingest.ProductIngest.of(mirrored, "era5_land"), Root(mirrored.root), AsOf(np.datetime64("2015-06-20"))
    )
    assert (states["2015-05-31"], states["2015-06-01"], states["2015-06-10"]) == ("there", "provisional", "missing")


def test_granules_are_not_downloaded_into_a_pattern(configure):
    bad = {"smap_l4": {"granules": "somewhere/*.h5", "download": {"provider": "earthdata"}}}
    with pytest.raises(configuration.ConfigError, match="granules are downloaded into a folder"):
        configure(products=bad)


def test_no_secret_is_in_a_manifest(fetching, offered):
    config = fetching(("smap_l4", "era5_land"))
    run(config)
    for path in Path(config.root).rglob("*"):
        if path.is_file():
            assert TOKEN.encode() not in path.read_bytes()


def _settle(folder, root):
    for day in range(20):
        Folder(folder).change_index({f"{root}-{day}": {"revision": "1"}}, {f"{root}-{day - 1}"} if day % 2 else set())


def test_roots_that_share_a_folder_keep_what_each_has_fetched(tmp_path):
    """Of two processes that settle their downloads at the same moment, neither forgets what the other has written down."""
    folder = Folder(str(tmp_path))
    with ProcessPoolExecutor(2, get_context("spawn")) as processes:
        list(processes.map(_settle, [str(tmp_path)] * 2, ("a", "b")))
    assert set(folder.index()) == {f"{root}-{day}" for root in "ab" for day in range(1, 20, 2)}
    (tmp_path / ".deepprofile" / "index.json").write_text('{"a-1": {"revi')
    assert folder.index() == {}
    folder.change_index({"c": {"revision": "1"}}, set())
    assert folder.index() == {"c": {"revision": "1"}}
