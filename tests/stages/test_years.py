"""Records that go over the end of a year: what a day touches, what is remembered across it, and how readers see it."""

from __future__ import annotations

import os
import re
import shutil

import deepprofile as dp
import h5py
import numpy as np
import pytest
import yaml
from deepprofile import config as configuration
from deepprofile import twin
from deepprofile.execution.pools import ThreadPool
from deepprofile.stages import collocate, renewal
from deepprofile.stages.domain import Domain, products_of
from deepprofile.stages.matchups import published_sensors
from deepprofile.stages.pipeline import STAGES, Request, run_stages, steps
from deepprofile.stages.schedule import AsOf
from deepprofile.storage.filesystems import zarr_store
from deepprofile.storage.roots import Root, parts_of, store_of
from deepprofile.storage.stores import StoreError
from deepprofile.twin.granules import write_granules, write_stations

from tests.support.granules import document, tree

# Of the simulated record: the first day, and where the year ends.
SIMULATED, FIRST, DAYS = 215, np.datetime64("2015-11-02"), 85
NEW_YEAR = 60
BY_YEAR = {
    "ard/smap_l4",
    "ard/gldas_noah",
    "ard/era5_land",
    "ard/smap_l3",
    "profile",
    "observations",
    "matchups",
    "layers",
    "inputs",
    "map",
}


def at(day):
    return FIRST + np.timedelta64(day, "D")


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    world = twin.simulate((10, 7), (SIMULATED + DAYS + 1) / 360, seed=7, stations=2)
    folder = tmp_path_factory.mktemp("archive")
    write_granules(world, folder, slice(SIMULATED, SIMULATED + DAYS + 1))
    write_stations(world, folder)
    return world, folder


@pytest.fixture(scope="module")
def base(archive, tmp_path_factory):
    """A finished root whose record ends in the second year, and how to make configurations."""
    world, granules = archive
    folder = tmp_path_factory.mktemp("base")
    run(configured(world, granules, folder / "root"))
    return folder / "root"


def configured(world, granules, root, last=DAYS - 5, **changes):
    made = document(world, granules, root, period={"start": str(FIRST), "end": str(at(last))}, **changes)
    made.setdefault("blocks", {})
    if "blocks" not in changes:
        made["blocks"] = {"days": 366, "cells": 8, "chunk_cells": 4}
    made["ingest"] = {"days": 8, "cells": 8, "chunk_cells": 4} | changes.get("ingest", {})
    path = root.parent / f"{root.name}.yaml"
    path.write_text(yaml.safe_dump(made))
    return configuration.load(path)


def run(config, collocate=True, stages=STAGES):
    request = Request(AsOf(at(DAYS), None), collocate)
    return {result.stage: result for result in run_stages(config, stages, ThreadPool(2), request=request)}


@pytest.fixture
def copied(archive, base, tmp_path):
    """A copy of the root that may be changed, its granules too, and its configuration."""
    world, granules = archive
    shutil.copytree(base, tmp_path / "root", copy_function=os.link)
    shutil.copytree(granules, tmp_path / "granules", copy_function=os.link)

    def make(name="root", **changes):
        return configured(world, tmp_path / "granules", tmp_path / name, **changes)

    # Files have other times and folders other names, but are the same: what was made of them is made anew, once.
    run(make(), collocate=False)
    return make, tmp_path


def state(root, year):
    """Every file of a year's stores, with what tells whether it was written again."""
    stores = {p: p.stat() for p in root.rglob("*") if p.is_file() and f"/{year}/" in str(p.relative_to(root))}
    return {str(path): (found.st_ino, found.st_mtime_ns, found.st_size) for path, found in stores.items()}


def runs(root):
    return {str(p): (p.stat().st_ino, p.stat().st_mtime_ns) for p in (root / "runs").rglob("*") if p.is_file()}


def shifted(path, by):
    """Another granule under the same name."""
    shutil.copyfile(path, path.with_suffix(".new"))
    with h5py.File(path.with_suffix(".new"), "a") as file:
        names = []
        file.visit(names.append)
        for name in names:
            if name.split("/")[-1].startswith("soil_moisture"):
                file[name][...] = np.where(file[name][...] > 0, file[name][...] + np.float32(by), file[name][...])
    os.replace(path.with_suffix(".new"), path)


def test_stores_along_time_are_divided_by_year_and_no_other(base):
    current = Root(str(base)).current()
    for store in {store_of(name) for name in current}:
        assert list(parts_of(store, current)) == (["2015", "2016"] if store in BY_YEAR else []), store
    for store in BY_YEAR - {"observations", "matchups"}:
        names = [f"{store}/{year}{'/9km' if store == 'map' else ''}" for year in (2015, 2016)]
        times = [dp.open_store(str(base), name).time.values.astype("datetime64[D]") for name in names]
        assert [(t[0], t[-1]) for t in times] == [
            (FIRST, np.datetime64("2015-12-31")),
            (np.datetime64("2016-01-01"), at(DAYS - 5)),
        ]


def test_a_day_touches_no_closed_year(copied):
    make, folder = copied
    root = folder / "root"
    closed, made, versions = state(root, 2015), runs(root), Root(str(root)).current()
    assert len(closed) > 100
    results = run(make(last=DAYS - 4), collocate=None)
    assert state(root, 2015) == closed
    after = Root(str(root)).current()
    assert {name for name in versions if versions[name] != after[name]} == {
        *(f"{store}/2016" for store in BY_YEAR),
        "differences",
        "validation",
    }
    # Not even what is written down of the runs that made it.
    assert {path: runs(root).get(path) for path in made} == made
    # Of the year that goes on, each block is computed for the new day alone.
    inverted = results["invert"].progress
    assert (inverted.done, inverted.skipped) == (2, 2)
    assert inverted.bytes_read < 0.5 * sum(record.bytes_read for record in results["invert"].records.values())
    assert dp.open_store(str(root)).time.values[-1].astype("datetime64[D]") == at(DAYS - 4)


def test_a_new_error_model_is_announced_with_what_it_costs(copied):
    make, folder = copied
    remarks = []

    def extended(last, **collocation):
        config = make(last=last, collocation={"min_samples": 20, "window": 5, **collocation})
        request = Request(AsOf(at(DAYS), None), collocate=None)
        run_stages(config, STAGES, ThreadPool(2), on_remark=remarks.append, request=request)
        return config

    extended(DAYS - 4)
    assert remarks == []
    before = Root(str(folder / "root")).current()["weights"]
    config = extended(DAYS - 2, every_days=3)
    (said,) = remarks
    # Moments and weights of four blocks together, covariances, profiles and matchups of both years.
    assert "all profiles of 2 years are computed again, in 12 blocks that read " in said
    assert re.search(
        r"read \d+\.\d[KM]iB and write \d+\.\d[KM]iB before compression; the profiles take about 1 min of one", said
    )
    assert "worker. Both versions are stored until 'prune'. collocation.every_days" in said
    assert Root(config.root).current()["weights"] != before
    assert renewal.announced(config, steps(config)) is None
    assert renewal.announced(config, steps(config), asked=True) is not None


def test_a_short_record_has_a_new_error_model_when_it_has_doubled(base, archive):
    world, granules = archive
    days = DAYS - 4
    for last, every, due in [
        (DAYS - 4, 365, False),
        (DAYS - 5 + days - 1, 365, False),
        (DAYS - 5 + days, 365, True),
        (DAYS - 4, 2, False),
        (DAYS - 3, 2, True),
        (DAYS - 5, 0, True),
    ]:
        settings = {"min_samples": 20, "window": 5, "every_days": every}
        config = configured(world, granules, base, last, collocation=settings)
        assert collocate.is_due(collocate.ErrorModel.of(config), Root(config.root)) == due, (last, every)


def test_a_day_that_comes_late_is_remembered_across_the_end_of_its_year(copied):
    make, folder = copied
    before, stores = Root(str(folder / "root")).current(), dp.open_store(str(folder / "root")).load()
    late = str(at(NEW_YEAR - 5)).replace("-", "")
    (path,) = (folder / "granules/smap_l3").glob(f"*_{late}_*")
    shifted(path, 0.05)
    config = make()
    run(config, collocate=False)
    after = Root(config.root).current()
    assert {name for name in before if before[name] != after[name]} >= {"ard/smap_l3/2015", "profile/2015", "profile/2016"}
    assert after["ard/smap_l3/2016"] == before["ard/smap_l3/2016"]
    assert after["ard/smap_l4/2015"] == before["ard/smap_l4/2015"]
    changed = (dp.open_store(config.root).coefficients.load() != stores.coefficients).where(
        np.isfinite(stores.coefficients), False
    )
    days = np.flatnonzero(changed.any(("degree", "y", "x")).values)
    # From the day itself into the next year.
    assert days[0] == NEW_YEAR - 5
    assert days[-1] >= NEW_YEAR
    # As if it had been there from the beginning.
    run(config)
    clean = make("clean")
    run(clean)
    assert tree(config.root) == tree(clean.root)


def test_profiles_do_not_depend_on_how_the_days_are_divided(copied):
    make, _ = copied
    one = make()
    run(one)
    other = make("other", blocks={"days": 20, "cells": 16, "chunk_days": 10, "chunk_cells": 8}, ingest={"days": 5})
    run(other)
    a, b = (dp.open_store(config.root).load() for config in (one, other))
    for name in a.variables:
        assert a[name].values.tobytes() == b[name].values.tobytes(), name


def test_a_station_that_is_new_changes_no_year_before_it(copied):
    make, folder = copied
    root = folder / "root"
    closed = state(root, 2015)
    (path, *_) = sorted((folder / "granules/ismn").rglob("*.stm"))
    lines = path.read_text().splitlines(keepends=True)
    new = path.with_name(path.name.replace("_sm_0.05", "_sm_0.06").replace("_0.050000", "_0.060000"))
    new = new if new != path else path.with_name("NEW_" + path.name)
    later = [line for line in lines[1:] if line.startswith("2016")]
    target = path.parent.with_name(path.parent.name + "b")
    target.mkdir()
    (target / path.name.replace(path.parent.name, target.name)).write_text(
        "".join([lines[0].replace(path.parent.name, target.name), *later])
    )
    before, _ = published_sensors(Root(str(root)))
    run(make(), collocate=False)
    assert state(root, 2015) == closed
    after, series = published_sensors(Root(str(root)))
    assert after.sizes["sensor"] == before.sizes["sensor"] + 1
    (place,) = np.flatnonzero(after.station.values == target.name)
    own = np.isfinite(after.soil_moisture.values[place])
    assert own[NEW_YEAR:].any()
    assert not own[:NEW_YEAR].any()
    # The others are where they were, in every year.
    kept = after.isel(sensor=np.delete(np.arange(after.sizes["sensor"]), place))
    np.testing.assert_array_equal(kept.soil_moisture, before.soil_moisture)
    assert not np.isfinite(series.fused(place, place + 1)[:, :NEW_YEAR]).any()


@pytest.mark.parametrize(
    "selection",
    [
        {"time": 3},
        {"time": NEW_YEAR},
        {"time": slice(NEW_YEAR - 3, NEW_YEAR + 3)},
        {"time": slice(None, None, 7), "y": 2},
        {"time": slice(70, 50, -3), "x": [4, 1]},
        {"time": [75, 2, 60, 59, 61], "y": slice(1, 4)},
        {"time": slice(0, 0)},
        {"degree": 1, "time": -1, "y": 3, "x": 2},
    ],
)
@pytest.mark.parametrize("chunks", ["auto", None])
def test_years_are_read_as_one_dataset(base, selection, chunks):
    from deepprofile.analysis.open import read_store

    root = Root(str(base))
    years = [read_store(root, f"profile/{year}", None) for year in (2015, 2016)]
    joined = read_store(root, "profile", chunks)
    for name in ("coefficients", "pattern", "flags"):
        axis = years[0][name].dims.index("time")
        whole = np.concatenate([year[name].values for year in years], axis=axis)
        expected = joined[name].copy(data=whole).isel({k: v for k, v in selection.items() if k in joined[name].dims})
        found = joined[name].isel({k: v for k, v in selection.items() if k in joined[name].dims})
        assert found.dims == expected.dims
        np.testing.assert_array_equal(found.values, expected.values)
    twice = joined.coefficients.isel(time=slice(50, 70)).isel(y=3, x=[1, 2], time=slice(5, 15, 2))
    whole = np.concatenate([year.coefficients.values for year in years], axis=1)
    np.testing.assert_array_equal(twice.values, whole[:, 55:65:2, 3, 1:3])


def test_opening_reads_no_data(base, monkeypatch):
    asked = []
    store = type(zarr_store(str(base)))
    get = store.get

    async def watched(self, key, *arguments, **options):
        asked.append(key)
        return await get(self, key, *arguments, **options)

    monkeypatch.setattr(store, "get", watched)
    opened = dp.open_store(str(base))
    names = {"coefficients", "flags", "pattern", "covariance_factor", "prior_mean", "lower_bound", "upper_bound"}
    assert not [key for key in asked if key.split("/")[0] in names and "/c" in key]
    assert opened.sizes["time"] == DAYS - 4


def test_years_whose_sensors_differ_are_not_joined(copied):
    make, folder = copied
    for path in sorted((folder / "granules/ismn").rglob("*.stm"))[:1]:
        lines = path.read_text().splitlines(keepends=True)
        path.unlink()
        path.write_text("".join([lines[0], *(line for line in lines[1:] if line.startswith("2016"))]))
    config = make()
    run(config, collocate=False)
    with pytest.raises(StoreError, match="the years of matchups are not alike: open one of them, such as 'matchups/2016'"):
        dp.open_store(config.root, "matchups")
    assert dp.open_store(config.root, "matchups/2016").sizes["time"] == DAYS - 4 - NEW_YEAR


def test_sources_are_read_across_the_end_of_a_year(base, archive):
    world, granules = archive
    config = configured(world, granules, base)
    root, domain = Root(config.root), Domain.of(config)
    target, first = domain.grid, domain.span[0]
    for source in collocate.sources(products_of(config).values(), domain, root, root.current()):
        whole = source.read(target, domain.span, (0, 10), (0, 7))
        assert len(whole) == domain.length
        part = source.read(target, (first + NEW_YEAR - 5, first + NEW_YEAR + 5), (2, 9), (1, 7))
        np.testing.assert_array_equal(part, whole[NEW_YEAR - 5 : NEW_YEAR + 5, :, 2:9, 1:7])
        assert [year.url.split("/")[-2] for year in source.around(first + NEW_YEAR, first + NEW_YEAR + 1).years] == ["2016"]
