"""Bounds as a grid: from a map of the porosity to profiles that obey it, cell by cell."""

from pathlib import Path

import deepprofile as dp
import h5py
import numpy as np
import pytest
import xarray as xr
from deepprofile.config import ConfigError
from deepprofile.execution.pools import ThreadPool
from deepprofile.grids.grids import EASE2_M09
from deepprofile.stages import bounds, covariances, matchups
from deepprofile.stages.pipeline import STAGES, run_stages, workloads
from deepprofile.stages.plan import PlanError

from tests.support.granules import SHAPE, current_versions, tree, url_of

VARIABLE = "Land-Model-Constants_Data/clsm_poros"
# Some of the twin's profiles are wetter than that at some depth on some day.
LEAST, MOST = 0.22, 0.5


@pytest.fixture
def porosity(tmp_path, finished):
    """A map over the region, with a column of cells without soil; and a function that writes it."""
    values = np.random.default_rng(3).uniform(LEAST, MOST, SHAPE).astype(np.float32)
    values[:, 2] = np.nan

    def write(values=values, name="lmc.h5", units="m3 m-3"):
        grid = finished.grid.grid()
        with h5py.File(tmp_path / name, "w") as file:
            file[VARIABLE] = np.where(np.isnan(values), np.float32(-9999.0), values)
            file[VARIABLE].attrs["_FillValue"] = np.float32(-9999.0)
            file[VARIABLE].attrs["units"] = units
            lat, lon = np.meshgrid(grid.lat, grid.lon, indexing="ij")
            file["cell_lat"], file["cell_lon"] = lat, lon
        return {"path": str(tmp_path / name), "variable": VARIABLE}

    write.values = values
    return write


@pytest.fixture
def profiles(configure, finished):
    """Makes a configuration whose root has the daily means and weights of the finished one already."""

    def make(folder, upper, lower=0.0, **changes):
        # Readers would lose the cells without soil: that is meant here.
        gate = {"lost": 1.0, "jump": 1.0, "rmse_rise": 1.0, "r_fall": 2.0}
        config = configure(folder, inversion__bounds=[lower, upper], gate=gate, **changes)
        _link(finished.root, config.root)
        return config

    return make


def _link(source, target):
    """A root that shares all files with another."""
    for path in Path(source).rglob("*"):
        if path.is_file():
            to = Path(target) / path.relative_to(source)
            to.parent.mkdir(parents=True, exist_ok=True)
            # What is replaced in place is copied, so that the other root stays as it is.
            to.write_bytes(path.read_bytes()) if path.suffix == ".json" and "zarr" not in path.name else to.hardlink_to(path)


def run(config, stages=("invert", "validate")):
    return {result.stage: result for result in run_stages(config, stages, ThreadPool(2))}


def opened(config, store):
    return xr.open_zarr(url_of(config, store), consolidated=False, chunks=None)


def test_profiles_obey_the_porosity_of_their_cell(profiles, porosity, finished):
    config = profiles("root", porosity())
    run(config)
    profile, before = (dp.open_store(each.root).load() for each in (config, finished))
    np.testing.assert_array_equal(profile.upper_bound.values, porosity.values)
    assert (profile.lower_bound.values == 0.0).all()
    depths = np.linspace(0.0, 1.0, 41)
    theta = np.stack([profile.deepprofile.at(float(z)).transpose("time", "y", "x").values for z in depths])
    there = np.isfinite(theta)
    assert (theta <= porosity.values + 1e-4)[there].all()
    # The map matters: without it, profiles of many cells are wetter than it allows.
    free = np.stack([before.deepprofile.at(float(z)).transpose("time", "y", "x").values for z in depths])
    assert (free > porosity.values + 1e-3).any(axis=(0, 1)).mean() > 0.3
    # Where there is no soil there is no profile; elsewhere all that there was.
    soil = np.isfinite(porosity.values)
    assert not there[..., ~soil].any()
    np.testing.assert_array_equal(there[..., soil], np.isfinite(free)[..., soil])
    # The comparison without SMAP L3 obeys it too.
    found = opened(config, "matchups")
    names = matchups.Matchups.of(config).estimates
    place = names.stored.index(names.without)
    lat, lon = config.grid.grid().lat, config.grid.grid().lon
    cells = [
        (np.abs(lat - a).argmin(), np.abs(lon - b).argmin())
        for a, b in zip(found.latitude.values, found.longitude.values, strict=True)
    ]
    limits = np.array([porosity.values[cell] for cell in cells])
    most = np.fmax.reduce(found.soil_moisture.values[:, place], axis=0)
    assert (most <= limits + 1e-4)[np.isfinite(most)].all()
    assert np.isnan(most[np.isnan(limits)]).all()


def test_bounds_do_not_depend_on_blocks_nor_on_where_the_file_lies(profiles, porosity):
    config = profiles("root", porosity())
    run(config, ("invert",))
    other = profiles("other", porosity(name="moved.h5"), blocks={"days": 40, "cells": 16, "chunk_days": 20, "chunk_cells": 8})
    run(other, ("invert",))
    for store in (bounds.STORE, covariances.STORE, "profile"):
        whole, parts = opened(config, store), opened(other, store)
        for name in whole.variables:
            assert whole[name].values.tobytes() == parts[name].values.tobytes(), (store, name)


def test_a_changed_file_makes_a_new_version_of_the_cells_that_changed(profiles, porosity):
    config = profiles("root", porosity())
    run(config, ("invert",))
    before, stores = current_versions(config), tree(config.root)
    again = run(config, ("invert",))
    assert all(result.progress.skipped == result.progress.blocks for result in again.values())
    # A file that is written again with the same values, and moved, is the same.
    moved = config.model_copy(
        update={"inversion": config.inversion.model_copy(update={"bounds": (0.0, _bound(porosity(name="b.h5")))})}
    )
    run(moved, ("invert",))
    assert current_versions(config) == before
    assert tree(config.root) == stores
    values = porosity.values.copy()
    # In the first of two rows and two columns of blocks.
    values[0, 0] += 0.05
    porosity(values)
    results = run(config, ("invert",))
    assert (results["invert/bounds"].progress.done, results["invert/bounds"].progress.copied) == (1, 3)
    assert results["invert"].progress.done == results["invert"].progress.copied / 3 == 3
    after = current_versions(config)
    assert after["profile"] != before["profile"]
    assert after["bounds"] != before["bounds"]
    clean = profiles("clean", porosity(values))
    run(clean, ("invert",))
    assert {k: v for k, v in tree(clean.root).items() if k.startswith(("profile", "bounds"))} == {
        k: v for k, v in tree(config.root).items() if k.startswith(("profile", "bounds"))
    }


def _bound(document):
    from deepprofile.config import GridBound

    return GridBound(**document)


def test_a_coarser_map_in_percent_and_a_number_for_cells_without_a_value(profiles, porosity, tmp_path, finished):
    grid = finished.grid.grid()
    west, south, east, north = finished.grid.bbox
    lat, lon = np.arange(south - 0.5, north + 0.5, 0.25)[::-1], np.arange(west - 0.5, east + 0.5, 0.25)
    values = np.full((lat.size, lon.size), 40.0, np.float32)
    values[:, lon < grid.lon[4]] = np.nan
    field = xr.DataArray(values, dims=("lat", "lon"), coords={"lat": lat, "lon": lon}, attrs={"units": "%"}, name="porosity")
    field.to_dataset().to_netcdf(tmp_path / "map.nc", engine="h5netcdf")
    config = profiles("root", {"path": str(tmp_path / "map.nc"), "variable": "porosity", "missing": 0.75}, lower=0.02)
    run(config, ("invert",))
    found = opened(config, "bounds")
    assert (found.lower_bound.values == np.float32(0.02)).all()
    np.testing.assert_allclose(found.upper_bound.values[:, :3], 0.75)
    np.testing.assert_allclose(found.upper_bound.values[:, 7:], 0.4, rtol=1e-6)


def test_a_plan_lists_the_step_and_numbers_need_none(configure, porosity):
    listed = [job.name for job in workloads(configure(inversion__bounds=[0.0, porosity()]))]
    assert listed.index("invert: bounds") == listed.index("invert") - 1
    assert "invert: bounds" not in [job.name for job in workloads(configure(inversion__bounds=[0.0, 0.6]))]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"values": 45.0},
            r"clsm_poros of .*lmc.h5, the upper bound, goes from 45 to 45 on the grid: .*\(values in percent: give",
        ),
        (
            {"values": 0.01},
            r"not above the lower one in 120 of 120 cells, first at \d+\.\d+ N -?\d+\.\d+ E \(0.01 against 0.05",
        ),
        ({"values": np.nan}, r"clsm_poros of .*lmc.h5 has no value in any cell of the grid"),
        ({"units": "kg m-2"}, r"lmc.h5 gives Land-Model-Constants_Data/clsm_poros in 'kg m-2', which is neither m3 m-3 nor"),
        ({"variable": "poros"}, r"lmc.h5 has no variable 'poros'; it has Land-Model-Constants_Data/clsm_poros, cell_lat"),
    ],
    ids=["percent", "crossed", "empty", "unit", "variable"],
)
def test_bounds_that_cannot_be_used_are_refused_before_anything_runs(configure, porosity, change, message):
    values = np.full(SHAPE, change["values"], np.float32) if "values" in change else porosity.values
    document = porosity(values, units=change.get("units", "m3 m-3")) | {"variable": change.get("variable", VARIABLE)}
    config = configure(inversion__bounds=[0.05, document])
    with pytest.raises(PlanError, match=message):
        run(config, STAGES)
    assert current_versions(config) == {}


def test_a_map_of_another_region_is_refused(configure, tmp_path):
    grid = EASE2_M09.window(1000, 100, 4, 4)
    field = xr.Dataset({"porosity": (("y", "x"), np.full((4, 4), 0.5, np.float32))}, {"y": grid.y, "x": grid.x})
    field.to_netcdf(tmp_path / "map.nc", engine="h5netcdf")
    config = configure(inversion__bounds=[0.0, {"path": str(tmp_path / "map.nc"), "variable": "porosity"}])
    with pytest.raises(PlanError, match=r"porosity of .*map.nc has no value in any cell of the grid"):
        run(config, STAGES)


@pytest.mark.parametrize(
    ("bound", "message"),
    [
        ({"path": "a.nc", "varable": "b"}, r"there is no key 'inversion.bounds.1.varable'; known are path, variable, units"),
        ({"path": "a.nc"}, r"'inversion.bounds.1.variable' is missing"),
        ("wet", r"inversion.bounds.1: Input should be a valid number.* \(it is 'wet'\)"),
        (-0.5, r"\[0.0, -0.5\]: the lower bound has to be less than the upper one"),
    ],
)
def test_what_is_wrong_in_the_configuration_is_said(configure, bound, message):
    with pytest.raises(ConfigError, match=message):
        configure(inversion__bounds=[0.0, bound])


def test_relative_paths_count_from_the_file(configure, tmp_path):
    config = configure(inversion__bounds=[0.0, {"path": "maps/lmc.h5", "variable": VARIABLE}])
    assert config.inversion.bounds[1].path == str(tmp_path / "maps/lmc.h5")
