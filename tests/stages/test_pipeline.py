"""The stages on granules in the providers' formats, from files to scores."""

import dataclasses
import datetime as dt
import re
import shutil
from collections import Counter
from pathlib import Path

import deepprofile as dp
import h5py
import numpy as np
import pytest
import time_machine
import xarray as xr
from deepprofile.app.published import Published
from deepprofile.execution.pools import ThreadPool
from deepprofile.sources.products import granule
from deepprofile.stages import ingest, invert
from deepprofile.stages.execute import RunWith, copier, execute
from deepprofile.stages.pipeline import STAGES, check_memory, run_stages, workloads
from deepprofile.stages.plan import PlanError
from deepprofile.stages.profiles import Profiles
from deepprofile.stages.schemas import COEFFICIENTS, MOISTURE
from deepprofile.storage.roots import Root
from deepprofile.storage.stores import StoreError, create
from zarr.storage import LocalStore

from tests.support.granules import DAYS, NAMES, tree, url_of


def run(config, stages=STAGES):
    return run_stages(config, stages, ThreadPool(2))


def opened(config, store):
    return xr.open_zarr(url_of(config, store), consolidated=False, chunks=None)


def test_daily_means_are_those_of_the_twin(world, finished):
    store = opened(finished, "ard/smap_l4")
    expected = world.products["smap_l4"].values[:DAYS]
    # The cycle of the day averages to zero; values are kept to 2^-14.
    np.testing.assert_allclose(store.soil_moisture.values, expected, atol=0.51 * MOISTURE.scale)
    assert np.isnan(expected).any()
    assert store.steps.values.tolist() == [8] * DAYS
    gldas = opened(finished, "ard/gldas_noah")
    assert gldas.soil_moisture.dims == ("time", "layer", "y", "x")
    # Kilograms a square metre were written, volumes are read.
    finite = gldas.soil_moisture.values[np.isfinite(gldas.soil_moisture.values)]
    assert 0.02 < finite.min() < finite.max() < 0.6


def test_retrievals_that_are_not_recommended_are_left_out(world, finished):
    store = opened(finished, "ard/smap_l3")
    expected = world.products["smap_l3"].values[:DAYS]
    np.testing.assert_array_equal(np.isfinite(store.soil_moisture.values), np.isfinite(expected))
    np.testing.assert_allclose(store.soil_moisture.values, expected, atol=0.51 * MOISTURE.scale)


def test_stores_equal_fuse_on_the_whole_region(finished):
    stores = Published.of(finished)
    products = stores.products()
    errors = dp.estimate_errors(products, min_samples=20, window=5)
    profile = dp.invert(products, errors, memory=True)
    store = stores.open("profile")
    expected = profile.coefficients.transpose("degree", "time", "y", "x").values
    np.testing.assert_allclose(store.coefficients.values, expected, atol=0.51 * COEFFICIENTS.scale)
    np.testing.assert_array_equal(store.flags.values, profile.flags.transpose("time", "y", "x").values)
    for depths in ((0.0, 0.05), (0.3, 0.5)):
        found = store.deepprofile.std_mean(*depths).transpose("time", "y", "x").values
        np.testing.assert_allclose(found, profile.deepprofile.std_mean(*depths).transpose("time", "y", "x").values, atol=6e-6)


def test_stores_do_not_depend_on_the_size_of_the_blocks(configure, finished):
    other = configure(blocks={"days": 40, "cells": 16, "chunk_days": 20, "chunk_cells": 8})
    run(other)
    for store in Root(other.root).current():
        whole, parts = opened(finished, store), opened(other, store)
        for name in whole.variables:
            assert whole[name].values.tobytes() == parts[name].values.tobytes(), (store, name)


def test_a_granule_is_opened_once_in_a_run(configure, finished, monkeypatch):
    opened_files = Counter()
    before = granule.opened

    def counted(path):
        opened_files[path.name] += 1
        return before(path)

    monkeypatch.setattr(granule, "opened", counted)
    config = configure("once")
    run(config, ("ingest",))
    there = {path.name for name in NAMES for path in Path(config.products[name].granules).rglob("*") if path.is_file()}
    assert len(there) > 8 * DAYS
    # Those whose names do not say their days are looked into before.
    told = {name for name in there if any(config.product(product).parse(name) for product in NAMES)}
    assert {name for name in told if opened_files[name] != 1} == set()
    assert set(opened_files) == there


def test_a_window_that_does_not_fit_into_a_worker_is_divided_and_makes_the_same_bytes(configure, finished):
    whole, divided = configure("whole"), configure("divided")
    task = ingest.ProductIngest.of(divided, "smap_l4")
    assert not ingest.workload(task).remark
    assert len(ingest.workload(task).blocks) == 3
    small = dataclasses.replace(task, memory=ingest.workload(task).memory_per_block - 1)
    work = ingest.workload(small)
    assert work.remark == "a worker has no memory for the whole window: 2 parts, each of which reads every granule"
    assert len(work.blocks) == 6
    assert work.memory_per_block <= small.memory
    for config, made in ((whole, task), (divided, small)):
        plan = ingest.plan(made, Root(config.root))
        execute(plan, Root(config.root), RunWith(ThreadPool(2), config.compute))
    contents = [
        {key.split(".zarr/", 1)[1]: content for key, content in tree(config.root).items() if ".zarr/" in key}
        for config in (whole, divided)
    ]
    assert contents[0] == contents[1]


def test_a_notebook_opens_what_is_published(finished):
    profile = dp.open_store(finished.root)
    storage = profile.deepprofile.storage(0.0, 1.0)
    assert storage.sizes == {"time": DAYS, "y": 10, "x": 12}
    assert storage.chunks is not None
    interval = profile.isel(x=3, y=4).deepprofile.interval(0.9, depth=0.3)
    assert bool((interval.lower < interval.upper).any())
    weights = dp.open_store(finished.root, "weights")
    assert weights.error_variance.dims == ("observation", "y", "x")
    with pytest.raises(StoreError, match="has no published store 'nothing'"):
        dp.open_store(finished.root, "nothing")


def test_a_pixel_costs_its_own_chunks(finished, monkeypatch):
    asked, before = [], LocalStore.get

    async def counted(store, key, *arguments, **options):
        asked.append(f"{store.root}/{key}")
        return await before(store, key, *arguments, **options)

    profile = dp.open_store(finished.root)
    monkeypatch.setattr(LocalStore, "get", counted)
    assert profile.coefficients.dtype == np.float32
    for select in (
        lambda: profile.isel(time=slice(1, 5), y=9, x=3).deepprofile.at(0.4),
        lambda: profile.sel(time=slice("2015-04-02", "2015-04-05"), y=profile.y[9], x=profile.x[3]).deepprofile.mean(0.0, 1.0),
        lambda: profile.isel(y=slice(8, 9), time=slice(1, 5), x=slice(3, 4)).deepprofile.storage(0.1, 0.4),
    ):
        asked.clear()
        assert np.isfinite(select().compute().values).any()
        # The index of one shard of three by two by two, and one of its chunks.
        shards = {key.split("/profile/", 1)[-1].split(".zarr/", 1)[-1] for key in asked if "/c/" in key}
        assert shards == {"coefficients/c/0/0/1/0"}
        assert len(asked) == 2


def test_a_second_run_does_nothing(configure, finished):
    again = run(finished)
    assert all(r.progress.skipped == r.progress.blocks for r in again)
    notes = {result.stage: result.notes for result in again}
    assert "the halves of the stations have 2 and 3; a variance of representativeness needs 8" in notes["validate"][0]
    assert notes["publish/map"] == (
        "maps are without percentiles: no climatology: it needs 10 whole calendar years, and the record has 0 "
        "(climatology.min_years)",
    )
    # No file is made anew: its stage has nothing to do.
    assert len(again) == len(NAMES) + 8 + 3


def test_scores_at_stations(finished, world):
    store = opened(finished, "validation")
    assert store.attrs["estimates"] == ["fused", "fused, no SMAP L3", "smap_l4", "gldas_noah", "era5_land", "plain average"]
    rmse = store.rmse.values[:, :, 0]
    with_record = np.isfinite(rmse).all(axis=0)
    assert with_record.sum() >= 15
    # The same days for every estimate.
    counts = store.n.values[:, with_record, 0]
    assert (counts == counts[0]).all()
    # By hand for one sensor.
    published = Published.of(finished)
    sensor = int(np.flatnonzero(with_record)[0])
    profile = published.open("profile")
    row = int(np.abs(profile.lat.values - float(store.latitude[sensor])).argmin())
    column = int(np.abs(profile.lon.values - float(store.longitude[sensor])).argmin())
    cell = profile.isel(y=row, x=column)
    top, bottom = float(store.depth_top[sensor]), float(store.depth_bottom[sensor])
    estimate = cell.deepprofile.at(top) if top == bottom else cell.deepprofile.mean(top, bottom)
    seen = world.stations.isel(sensor=np.flatnonzero(world.stations.station == store.attrs["stations"][sensor]))
    seen = seen.isel(sensor=int(np.flatnonzero(np.isclose(seen.depth_top, top))[0])).soil_moisture[:DAYS]
    error = (estimate.values - np.round(seen.values, 4))[np.isfinite(seen.values) & np.isfinite(estimate.values)]
    assert rmse[0, sensor] == pytest.approx(np.sqrt((error**2).mean()), abs=2e-5)
    # Its intervals too.
    width = (cell.deepprofile.std(top) if top == bottom else cell.deepprofile.std_mean(top, bottom)).values
    both = np.isfinite(seen.values) & np.isfinite(estimate.values)
    inside = np.abs(error) <= 1.6448536 * width[both]
    level = store.level.values.tolist().index(0.9)
    assert store.coverage.values[0, level, sensor] == pytest.approx(inside.mean(), abs=1.5 / inside.size)
    anomaly = np.abs(error - error.mean()) <= 1.6448536 * width[both]
    assert store.coverage.values[2, level, sensor] == pytest.approx(anomaly.mean(), abs=1.5 / inside.size)
    # Three stations are no half from which a variance could be estimated.
    assert np.isnan(store.representativeness_varying.values).all()
    assert np.isnan(store.coverage.values[[1, 3]]).all()


def test_a_longer_period_copies_what_has_not_changed(configure):
    run(configure(period={"start": "2015-04-01", "end": "2015-05-18"}), ("ingest",))
    results = run(configure(), ("ingest",))
    for result in results:
        # Two of three stretches of 24 days are as they were.
        assert result.progress.copied * 3 == result.progress.blocks * 2
        assert result.progress.done * 3 == result.progress.blocks
    clean = configure("clean")
    run(clean, ("ingest",))
    assert tree(configure().root) == tree(clean.root)


def test_an_array_that_several_blocks_share_is_copied_by_the_one_that_writes_it(finished, tmp_path):
    shutil.copytree(finished.root, tmp_path / "root")
    root, store = Root(str(tmp_path / "root")), "ard/smap_l4/2015"
    template = ingest.template(ingest.ProductIngest.of(finished, "smap_l4"))
    create(root.version(store, "new"), template)
    copy = copier(root, store, root.current()[store], "new", template)
    made = Path(root.version(store, "new"))
    # Two rows of shards, each a block of its own.
    divided = dataclasses.replace(ingest.ProductIngest.of(finished, "smap_l4"), memory=0)
    blocks = {block.name: block for block in ingest.workload(divided).blocks}
    copy(blocks["2015.1.1.0"])
    assert (made / "soil_moisture/c/1/0/1/1").exists()
    assert not (made / "steps/c/1").exists()
    copy(blocks["2015.1.0.0"])
    assert (made / "steps/c/1").exists()


def test_fewer_days_are_not_published(configure):
    run(configure(), ("ingest",))
    before = Root(configure().root).current()
    with pytest.raises(StoreError, match="lacks 24 days that readers have now"):
        run(configure(period={"start": "2015-04-01", "end": "2015-05-18"}), ("ingest",))
    assert Root(configure().root).current() == before


@pytest.fixture
def damaged(granules, tmp_path):
    """A copy of the granules in which files may be replaced."""
    folder = tmp_path / "granules"
    for name in NAMES:
        shutil.copytree(granules / name, folder / name, copy_function=lambda a, b: Path(b).symlink_to(a))
    return folder


def replace(path, content=None):
    original = path.resolve()
    path.unlink()
    if content is not None:
        path.write_bytes(content(original.read_bytes()))
        return path
    shutil.copyfile(original, path)
    return path


def damage_truncated(folder):
    replace(folder / "smap_l4/SMAP_L4_SM_gph_20150403T043000_Vv8011_001.h5", lambda b: b[: len(b) // 2])
    return "smap_l4", r"2015-04-03: SMAP_L4_SM_gph_20150403T043000\S* cannot be read: it is truncated", 7


def damage_no_variable(folder):
    with h5py.File(replace(folder / "smap_l4/SMAP_L4_SM_gph_20150403T043000_Vv8011_001.h5"), "a") as file:
        del file["Geophysical_Data/sm_surface"], file["Geophysical_Data/sm_rootzone"]
    return "smap_l4", r"2015-04-03: SMAP_L4\S* has none of the layers of smap_l4 \(0-0.05 m, 0-1 m\)", 7


def damage_other_grid(folder):
    with h5py.File(replace(folder / "gldas_noah/GLDAS_NOAH025_3H.A20150403.0600.021.nc4"), "a") as file:
        file["lat"][...] = file["lat"][...] + 0.1
    return "gldas_noah", r"2015-04-03: GLDAS\S* lies on another grid: its y coordinates .* grid gldas_025", 7


def damage_all_fill(folder):
    for hour in range(0, 24, 3):
        with h5py.File(replace(folder / f"gldas_noah/GLDAS_NOAH025_3H.A20150403.{hour:02d}00.021.nc4"), "a") as file:
            for name in ("SoilMoi0_10cm_inst", "SoilMoi10_40cm_inst", "SoilMoi40_100cm_inst"):
                file[name][...] = -9999.0
    return "gldas_noah", "2015-04-03: the granules of gldas_noah hold no value at all, only fill", 8


def damage_twice(folder):
    first = folder / "smap_l4/SMAP_L4_SM_gph_20150403T043000_Vv8011_001.h5"
    (first.parent / "again").mkdir()
    second = first.parent / "again" / first.name
    shutil.copyfile(first, second)
    with h5py.File(second, "a") as file:
        file["Geophysical_Data/sm_surface"][...] += np.float32(0.01)
    return "smap_l4", r"2015-04-03: there is more than one granule for 20150403T0430: .*; none of them is used", 7


def damage_other_day(folder):
    wrong = folder / "era5_land/era5_land_20150403.nc"
    wrong.unlink()
    shutil.copyfile(folder / "era5_land/era5_land_20150404.nc", wrong)
    return "era5_land", "2015-04-03: era5_land_20150403.nc is for 2015-04-03 .* by its name, but holds 2015-04-04", 0


def damage_missing(folder):
    (folder / "smap_l3/SMAP_L3_SM_P_E_20150403_R19240_001.h5").unlink()
    return "smap_l3", "2015-04-03: 1 of 1 time steps of smap_l3 are missing", 0


@pytest.mark.parametrize(
    "damage",
    [
        damage_truncated,
        damage_no_variable,
        damage_other_grid,
        damage_all_fill,
        damage_twice,
        damage_other_day,
        damage_missing,
    ],
    ids=lambda f: f.__name__.removeprefix("damage_"),
)
def test_a_granule_that_cannot_be_used_is_recorded_and_costs_no_other_day(configure, damaged, finished, damage):
    name, message, steps = damage(damaged)
    last = "2015-04-24"
    config = configure(products={name: {"granules": str(damaged / name)}}, period__end=last)
    (result,) = run(config, ("ingest",))
    assert len(result.problems) == 1
    assert re.search(message, result.problems[0]), result.problems[0]
    store, whole = opened(config, f"ard/{name}"), opened(finished, f"ard/{name}").sel(time=slice(last))
    assert int(store.steps.sel(time="2015-04-03")) == steps
    others = store.time.values != np.datetime64("2015-04-03")
    assert (store.steps.values[others] == whole.steps.values[others]).all()
    np.testing.assert_array_equal(store.soil_moisture.values[others], whole.soil_moisture.values[others])
    # A day with at least three quarters of its steps has a mean all the same.
    there = bool(np.isfinite(store.soil_moisture.sel(time="2015-04-03")).any())
    assert there == (0.75 * whole.steps.attrs["steps_per_day"] <= steps and damage is not damage_all_fill)


def test_exactly_the_blocks_of_a_repaired_granule_are_done_again(configure, damaged, finished):
    damage_truncated(damaged)
    config = configure(products={name: {"granules": str(damaged / name)} for name in NAMES})
    run(config)
    path = damaged / "smap_l4/SMAP_L4_SM_gph_20150403T043000_Vv8011_001.h5"
    path.unlink()
    path.symlink_to(Path(finished.products["smap_l4"].granules) / path.name)
    results = {result.stage: result for result in run(config)}
    assert (results["ingest/smap_l4"].progress.done, results["ingest/smap_l4"].progress.copied) == (1, 2)
    assert not [problem for result in results.values() for problem in result.problems]
    assert tree(config.root) == tree(finished.root)


@pytest.mark.parametrize(
    ("memory", "name", "changed"),
    [("past", "smap_l3", (5, 65)), ("both", "smap_l3", (0, 65)), ("none", "smap_l3", (5, 6)), ("past", "smap_l4", (5, 6))],
)
def test_a_late_granule_leads_to_the_days_that_remember_it_and_to_no_other(finished, monkeypatch, memory, name, changed):
    config = finished.model_copy(update={"inversion": finished.inversion.model_copy(update={"memory": memory})})
    root = Root(config.root)
    before = invert.plan(Profiles.of(config), root, root.current()).versions[0].marks.days
    there = invert.day_fingerprints_of

    def with_a_new_day(of, stage, version):
        marks = there(of, stage, version)
        return (*marks[:5], "late", *marks[6:]) if stage == f"ingest/{name}" else marks

    monkeypatch.setattr(invert, "day_fingerprints_of", with_a_new_day)
    after = invert.plan(Profiles.of(config), root, root.current()).versions[0].marks.days
    assert [k for k in range(72) if before[k] != after[k]] == list(range(*changed))


def test_profiles_say_what_they_remember(finished):
    store = dp.open_store(finished.root).load()
    used = store.deepprofile.uses("smap_l3_memory")
    seen = store.deepprofile.uses("smap_l3")
    assert used.where(seen, True).all()
    assert 0.3 < float((used & ~seen).mean()) < 0.8
    assert list(store.attrs["products"]) == [*NAMES, "smap_l3_memory"]


def test_a_stage_needs_those_before_it(configure):
    with pytest.raises(PlanError, match=r"invert needs ard/smap_l4, which is not in .*: run 'deepprofile ingest' first"):
        run(configure(), ("invert",))


def test_stores_of_another_grid_are_refused(configure, finished):
    config = configure(root=finished.root, grid={"name": "ease2_m36", "bbox": list(finished.grid.bbox)})
    with pytest.raises(
        PlanError, match=r"ard/smap_l4/\S+ was made for the grid window \[400, 880, 10, 12\], the configuration asks for \[4"
    ):
        run(config, ("invert",))


def test_stores_of_another_period_or_other_products_are_refused(configure, finished):
    longer = configure(root=finished.root, period={"start": "2015-04-01", "end": "2015-07-01"})
    with pytest.raises(PlanError, match="holds 72 days from 2015-04-01, the configuration asks for 92"):
        run(longer, ("collocate",))
    fewer = {name: source.model_dump() for name, source in finished.products.items() if name != "smap_l3"}
    with pytest.raises(PlanError, match="was made for the products"):
        run(configure(root=finished.root, products=fewer), ("invert",))


def test_station_files_that_cannot_be_used_are_said_once_and_cost_themselves_only(configure, granules, tmp_path, finished):
    shutil.copytree(granules / "ismn", tmp_path / "ismn")
    shutil.copytree(finished.root, tmp_path / "root", symlinks=True)
    path, *others = sorted((tmp_path / "ismn").rglob("*.stm"))
    path.write_bytes(path.read_bytes()[:40])
    config = configure(stations=[{"kind": "ismn", "path": str(tmp_path / "ismn")}])
    read, *compared = run(config, ("validate",))
    (problem,) = read.problems
    assert str(path) in problem
    assert "its first line is no header of the ISMN" in problem
    assert not [problem for result in compared for problem in result.problems]
    store = dp.open_store(config.root, "validation")
    assert len(store.attrs["stations"]) == len(store.attrs["instruments"]) == store.sizes["sensor"] > 0
    assert set(store.attrs["instruments"]) == {"Twin-Sensor"}
    for other in others:
        other.unlink()
    result, *_ = run(config, ("validate",))
    assert [str(path) in problem for problem in result.problems] == [True, False]
    assert "could be read: there is nothing to validate against" in result.problems[1]


def test_stations_that_are_somewhere_else_are_said(configure, granules, tmp_path, finished):
    shutil.copytree(granules / "ismn", tmp_path / "ismn")
    for path in (tmp_path / "ismn").rglob("*.stm"):
        header, *records = path.read_text().splitlines(keepends=True)
        network, _, station, _, _, *rest = header.split()
        moved = f"{network} {network} {station} {10.0:10.5f} {20.0:10.5f} {' '.join(rest)}\n"
        path.write_text(moved + "".join(records))
    shutil.copytree(finished.root, tmp_path / "root", symlinks=True)
    result, *_ = run(configure(stations=[{"kind": "ismn", "path": str(tmp_path / "ismn")}]), ("validate",))
    assert len(result.problems) == 1
    assert "lies within the grid, the depths and the period: there is nothing to validate against" in result.problems[0]


def test_a_plan_that_does_not_fit_is_refused(configure):
    config = configure(grid={"name": "ease2_m09"}, blocks={"days": 512, "cells": 512})
    with pytest.raises(PlanError, match=r"a worker needs .* GiB .* its limit is 2.00 GiB: make blocks.cells, blocks.days"):
        check_memory(workloads(config), 2 * 2**30, 1)


def test_no_clock_host_or_path_is_in_a_store(finished, configure, monkeypatch):
    """A run in another year, in another folder, on a machine of another name: the same bytes."""
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    with time_machine.travel(dt.datetime(2041, 5, 17, 8, tzinfo=dt.UTC)):
        again = configure()
        run_stages(again, STAGES, ThreadPool(2))
    assert again.root != finished.root
    assert tree(again.root) == tree(finished.root)
