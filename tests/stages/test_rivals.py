"""Rivals: files of any gridded product, their daily means at sensors, and paired differences with the fused estimate."""

import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import yaml
from deepprofile import config as configuration
from deepprofile.app import report
from deepprofile.config import ConfigError, Rival
from deepprofile.evaluation.metrics import score_differences
from deepprofile.execution.pools import ThreadPool
from deepprofile.sources.catalogue import Cache
from deepprofile.stages import matchups, observations, paired, rivals
from deepprofile.stages.domain import Domain
from deepprofile.stages.execute import RunWith, execute
from deepprofile.stages.matchups import layers_at_depths
from deepprofile.stages.pipeline import run_stages, workloads
from deepprofile.storage.roots import Root
from deepprofile.twin.granules import region

from tests.support.granules import DAYS, document, tree, url_of

VARIABLES = {"surface": [0.0, 0.05], "root_zone": [0.0, 1.0]}


@pytest.fixture
def rooted(configure, finished):
    """Makes a configuration whose root has everything but the rivals."""

    def make(folder="root", **changes):
        config = configure(folder, **changes)
        shutil.copytree(finished.root, config.root, copy_function=_linked, dirs_exist_ok=True)
        return config

    return make


def _linked(source, target):
    if Path(source).suffix == ".json" and "zarr" not in Path(source).name:
        shutil.copyfile(source, target)
    else:
        Path(target).hardlink_to(source)


def run(config):
    return {result.stage: result for result in run_stages(config, ("validate",), ThreadPool(2))}


def opened(config, store):
    return xr.open_zarr(url_of(config, store), consolidated=False, chunks=None)


@pytest.fixture(scope="session")
def alike(world):
    """SMAP L4 as some other product would come: daily, on its grid, in percent, with a flag."""
    grid, product = region(world), world.products["smap_l4"]
    values = 100.0 * product.values[:DAYS]
    data = {name: (("time", "y", "x"), values[:, k].astype(np.float32), {"units": "%"}) for k, name in enumerate(VARIABLES)}
    flag = np.zeros(values.shape[:1] + values.shape[2:], np.int8)
    flag[5] = 1
    data["flag"] = (("time", "y", "x"), flag)
    return xr.Dataset(data, {"time": product.time.values[:DAYS], "y": grid.y, "x": grid.x})


def write_days(data, folder, name="RIVAL-{:%Y%m%d}000000-fv1.nc"):
    folder.mkdir(parents=True, exist_ok=True)
    for k, time in enumerate(pd.DatetimeIndex(data.time.values)):
        data.isel(time=[k]).to_netcdf(folder / name.format(time), engine="h5netcdf")
    return folder


@pytest.fixture(scope="module")
def compared(world, granules, finished, alike, tmp_path_factory):
    """A configuration with two rivals, one of them half of the other, and what the run that scored them has said."""
    folder = tmp_path_factory.mktemp("compared")
    files = write_days(alike.isel(time=np.r_[0:20, 23:DAYS]), folder / "files")
    settings = {"path": str(files), "variables": VARIABLES, "flags": {"flag": [0]}}
    shutil.copytree(finished.root, folder / "root", copy_function=_linked)
    written = document(world, granules, folder / "root", rivals={"twin": settings, "dry": settings | {"scale": 0.5}})
    (folder / "deepprofile.yaml").write_text(yaml.safe_dump(written, sort_keys=False))
    config = configuration.load(folder / "deepprofile.yaml")
    return config, run(config)


def test_a_rival_that_is_one_of_the_products_has_its_scores(compared, finished):
    config, results = compared
    # What was there already stays: its days do not become fewer because there are rivals.
    before, after = Root(finished.root).current(), Root(config.root).current()
    assert {name: version for name, version in after.items() if name in before} == before
    notes = results["validate/rivals/twin"].notes
    assert notes == ("rival twin: 3 of 72 days have no file, the first 2015-04-21, the last 2015-04-23",)
    assert results["validate/rivals/twin"].problems == ()
    store = opened(config, "rivals/twin")
    assert store.steps.values.tolist() == [1] * 20 + [0] * 3 + [1] * (DAYS - 23)
    names = matchups.Matchups.of(config).estimates
    sensors, series = matchups.published_sensors(Root(config.root))
    estimates = matchups.estimates(series, range(sensors.sizes["sensor"]), names)
    product, fused = estimates["smap_l4"], estimates["fused"]
    layers = tuple(zip(store.layer_top.values.tolist(), store.layer_bottom.values.tolist(), strict=True))
    measured = opened(config, "observations").soil_moisture.transpose("sensor", "time")
    found = paired.differences(url_of(config, "comparison"))
    assert found.rival.values.tolist() == ["twin", "dry"]
    days = np.r_[0:5, 6:20, 23:DAYS]
    scored = 0
    for k in range(store.sizes["sensor"]):
        depths = float(store.depth_top[k]), float(store.depth_bottom[k])
        own = layers_at_depths(store.soil_moisture.values, layers, np.array([k]), [depths])[:, 0]
        # Stored to 2^-14, and read from layers that are rounded.
        np.testing.assert_allclose(own[days], product[k, days], atol=2e-4)
        assert np.isnan(own[[5, 20, 21, 22]]).all()
        known = np.isfinite(own) & np.isfinite(fused[k]) & np.isfinite(measured.values[k])
        one = found.isel(sensor=k)
        assert one.n.values.tolist() == [known.sum()] * 2
        if known.sum() < 10:
            assert np.isnan(one.rmse_difference).all()
            continue
        truth = measured.values[k, known].astype(float)
        ours = np.sqrt(np.mean((fused[k, known] - truth) ** 2))
        for place, factor in ((0, 1.0), (1, 0.5)):
            theirs = np.sqrt(np.mean((factor * own[known] - truth) ** 2))
            assert float(one.rmse_rival[place]) == pytest.approx(theirs, abs=1e-5)
            assert float(one.rmse_difference[place]) == pytest.approx(ours - theirs, abs=1e-5)
        # Half of it is as well correlated.
        assert float(one.r_difference[0]) == pytest.approx(float(one.r_difference[1]), abs=1e-5)
        seen = measured[k, known]
        alone = score_differences(*(seen.copy(data=series[k, known]) for series in (fused, product)), seen)
        assert float(one.rmse_lower[0]) == pytest.approx(float(alone.rmse_lower), abs=1e-4)
        scored += 1
    assert scored >= 15


def test_bytes_do_not_depend_on_blocks_and_a_new_day_costs_itself(rooted, configure, alike, tmp_path):
    settings = {"path": str(tmp_path / "files"), "variables": VARIABLES}
    write_days(alike.isel(time=slice(0, 70)), tmp_path / "files")
    config = rooted(rivals={"twin": settings})
    run(config)
    again = run(config)
    assert all(result.progress.skipped == result.progress.blocks for result in again.values())
    write_days(alike.isel(time=slice(70, DAYS)), tmp_path / "files")
    results = run(config)
    assert (results["validate/rivals/twin"].progress.copied, results["validate/rivals/twin"].progress.done) == (2, 1)
    # Two files were read, and the days before them taken over.
    assert sum(results["validate/rivals/twin"].records["2015.2"].details["steps"]) == 24
    assert results["validate/rivals/twin"].records["2015.2"].bytes_read < 12 * _size(tmp_path / "files")
    clean = rooted("clean", rivals={"twin": settings})
    run(clean)
    assert tree(clean.root) == tree(config.root)
    parts = configure("parts", rivals={"twin": settings}, blocks={"days": 40, "cells": 16, "chunk_days": 20, "chunk_cells": 8})
    plan = rivals.plan(
        rivals.RivalSettings.of(parts, "twin"),
        Root(parts.root),
        observations.sensors_of(parts.stations, Domain.of(parts)),
    )
    execute(plan, Root(parts.root), RunWith(ThreadPool(2), parts.compute))
    whole, other = opened(config, "rivals/twin"), xr.open_zarr(plan.versions[0].url, consolidated=False, chunks=None)
    for name in whole.variables:
        assert whole[name].values.tobytes() == other[name].values.tobytes(), name


def _size(folder):
    return next(folder.iterdir()).stat().st_size


def test_what_is_wrong_with_files_is_said_and_costs_their_days(rooted, alike, tmp_path):
    folder = write_days(alike.isel(time=slice(0, 40)), tmp_path / "files")
    names = sorted(path.name for path in folder.iterdir())
    (folder / names[3]).write_bytes((folder / names[3]).read_bytes()[:500])
    shutil.copyfile(folder / names[8], folder / names[7])
    other = alike.isel(time=[30]) + 1.0
    other.to_netcdf(folder / f"B{names[30]}", engine="h5netcdf")
    shutil.copyfile(folder / names[12], folder / f"copy-{names[12]}")
    (folder / "readme.txt").write_text("not data")
    config = rooted(rivals={"twin": {"path": str(folder), "variables": VARIABLES, "units": "percent"}})
    problems = run(config)["validate/rivals/twin"].problems
    assert len(problems) == 3
    assert f"rival twin: {names[7]} holds nothing for 2015-04-08, although its name says so" in problems
    assert any(names[3] in problem and "cannot be read" in problem for problem in problems)
    assert any(f"{names[30]} and B{names[30]} differ for 2015-05-01T00:00; the second is used" in p for p in problems)
    steps = opened(config, "rivals/twin").steps.values
    assert np.flatnonzero(steps[:40] == 0).tolist() == [3, 7]
    # When they are mended, their days are read again.
    write_days(alike.isel(time=slice(0, 40)), folder)
    (folder / f"B{names[30]}").unlink()
    assert run(config)["validate/rivals/twin"].problems == ()
    assert (opened(config, "rivals/twin").steps.values[:40] == 1).all()


@pytest.mark.parametrize("form", ["a year in a file", "zarr", "zip", "pattern", "six-hourly"])
def test_files_come_in_many_forms(alike, tmp_path, form):
    path, data = tmp_path / "rival", alike.isel(time=slice(0, 12))
    path.mkdir()
    if form == "a year in a file":
        data.to_netcdf(path / "RIVAL_20150401-20150412.nc", engine="h5netcdf")
    elif form == "zarr":
        data.to_zarr(path / "store.zarr", consolidated=False)
        path = path / "store.zarr"
    elif form == "zip":
        write_days(data, tmp_path / "days")
        with zipfile.ZipFile(path / "2015.zip", "w") as archive:
            for file in (tmp_path / "days").iterdir():
                archive.write(file, f"2015/{file.name}")
    elif form == "pattern":
        write_days(data, path, "TCDR-{:%Y-%m-%d}.nc")
        write_days(data, path, "ICDR-{:%Y-%m-%d}.nc")
        path = path / "TCDR*.nc"
    else:
        for hour in range(0, 24, 6):
            later = data.assign_coords(time=data.time + np.timedelta64(hour, "h"))
            write_days(later, path, f"RIVAL_{{:%Y%m%dT%H}}00_{hour}.nc")
    days = np.arange(np.datetime64("2015-04-01"), np.datetime64("2015-04-20"))
    found = rivals.find_files("twin", Rival(path=str(path), variables=VARIABLES), days, Cache())
    assert found.problems == ()
    assert list(found.by_day) == [str(day) for day in days[:12]]
    assert {len(files) for files in found.by_day.values()} == {4 if form == "six-hourly" else 1}


def test_the_first_of_a_month_is_not_believed_to_be_the_month(alike, tmp_path):
    data = alike.assign(time=alike.time)
    for month in (4, 5):
        part = data.isel(time=np.flatnonzero(data.time.dt.month.values == month))
        part.to_netcdf(tmp_path / f"RIVAL_2015{month:02d}01.nc", engine="h5netcdf")
    days = np.arange(np.datetime64("2015-04-01"), np.datetime64("2015-06-01"))
    found = rivals.find_files("twin", Rival(path=str(tmp_path), variables=VARIABLES), days, Cache())
    assert list(found.by_day) == [str(day) for day in days]


def test_a_day_needs_its_share_of_steps(rooted, alike, tmp_path):
    folder = tmp_path / "files"
    for hour, days in ((0, range(10)), (6, range(10)), (12, range(9)), (18, range(8, 10))):
        later = alike.isel(time=list(days))
        later = (later + hour).assign_coords(time=later.time + np.timedelta64(hour, "h"))
        write_days(later, folder, f"RIVAL_{{:%Y%m%dT%H}}00_{hour}.nc")
    settings = {"path": str(folder), "variables": VARIABLES, "units": "percent", "steps_per_day": 4}
    config = rooted(rivals={"twin": settings})
    run(config)
    store = opened(config, "rivals/twin")
    assert store.steps.values[:11].tolist() == [3] * 8 + [4, 3, 0]
    values, dry = store.soil_moisture.values, alike.surface.values
    row, column = int(store.row[0]), int(store.column[0])
    # Means of what was added: 0, 6 and 12 percent; on the ninth day 18 too, on the tenth 18 instead of 12.
    for day, more in ((0, 0.06), (8, 0.09), (9, 0.08)):
        assert values[day, 0, 0] == pytest.approx(dry[day, row, column] / 100.0 + more, abs=1e-6)
    assert np.isnan(values[10:]).all()


def test_the_report_has_a_table_of_paired_differences(compared, tmp_path, monkeypatch):
    config, _ = compared
    monkeypatch.setattr(report, "_STATIONS_SHOWN", 0)
    page, *figures = report.write_report(config, tmp_path / "report")
    assert "rivals.png" in [path.name for path in figures]
    (table,) = re.findall(r"<h2>Beside rivals</h2>.*?<tbody>(.*?)</tbody>", page.read_text(), re.DOTALL)
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in table.split("</tr>")[:-1]]
    # Of the bands that have sensors, two rivals and four scores.
    assert [row[1:3] for row in rows[:8]] == [[name, s] for name in ("twin", "dry") for s in ("RMSE", "ubRMSE", "|bias|", "R")]
    assert len(rows) == 8 * len({row[0] for row in rows if row[0]})
    # Half of the soil moisture is far off, nearly everywhere.
    dry, found = rows[4], paired.differences(url_of(config, "comparison")).sel(rival="dry")
    assert float(dry[5]) < float(dry[6])
    upper = found.rmse_upper.values[(found.depth_bottom.values < 0.08) & np.isfinite(found.rmse_difference.values)]
    assert (int(dry[3]), int(dry[8])) == (upper.size, (upper < 0.0).sum())
    assert int(dry[8]) > upper.size / 2
    assert sum(map(int, dry[8:])) == upper.size
    assert re.fullmatch(r"-0\.\d{3}( \(-0\.\d{3}, -0\.\d{3}\))?", dry[7])


def test_a_plan_has_rivals_and_the_profiles_do_not_wait_for_one_that_is_not_there(rooted, tmp_path):
    config = rooted(rivals={"twin": {"path": str(tmp_path / "nowhere"), "variables": VARIABLES}})
    listed = [job.name for job in workloads(config) if job.name.startswith("validate")]
    assert listed[-2:] == ["validate: rival twin, for every 512 sensors", "validate: comparison, for every 128 sensors"]
    result = run(config)["validate/rivals/twin"]
    assert result.problems == (f"there is nothing at {tmp_path / 'nowhere'} for the rival twin",)
    assert result.notes == ("rival twin: 72 of 72 days have no file, the first 2015-04-01, the last 2015-06-11",)
    assert (paired.differences(url_of(config, "comparison")).n == 0).all()


@pytest.mark.parametrize(
    ("rival", "message"),
    [
        ({"variables": {"a": [0.1, 0.0]}}, r"rivals.c3s.variables: a: \[0.1, 0\] is no layer: the top lies above the bottom"),
        ({"variables": {"a": [1.0, 2.0]}}, r"a: the layer from 1 to 2 m lies below 1 m, where there are no profiles"),
        ({"variables": {"a": []}}, r"a has no layer: give \[top, bottom\] in m"),
        ({"varables": {}}, r"there is no key 'rivals.c3s.varables'; known are path, variables, units"),
        ({"units": "mm"}, r"rivals.c3s.units: Input should be 'm3 m-3', 'percent' or 'kg m-2'.*'mm'"),
        ({"latitude": "y"}, r"rivals.c3s: 'latitude' and 'longitude' are named together"),
    ],
)
def test_what_is_wrong_in_the_configuration_is_said(configure, rival, message):
    with pytest.raises(ConfigError, match=message):
        configure(rivals={"c3s": {"path": "a", "variables": {"a": [0.0, 0.1]}} | rival})


def test_rivals_need_stations_and_plain_names(configure, tmp_path):
    rival = {"path": "files", "variables": {"a": [0.0, 0.1], "b": [[0.1, 0.4], [0.4, 1.0]]}}
    with pytest.raises(ConfigError, match="rivals are scored at stations: name some under 'stations'"):
        configure(rivals={"c3s": rival}, stations=[])
    with pytest.raises(ConfigError, match=r"rivals.a/b"):
        configure(rivals={"a/b": rival})
    read = configure(rivals={"c3s": rival}).rivals["c3s"]
    assert read.path == str(tmp_path / "files")
    assert rivals.reading_of(read).layers == tuple(map(rivals.Layer, (0.0, 0.1, 0.4), (0.1, 0.4, 1.0)))
