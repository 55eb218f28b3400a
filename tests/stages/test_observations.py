"""Series of sensors lie in stores, side by side where their cells are, and travel nowhere else."""

import itertools
import pickle
import shutil

import numpy as np
import pytest
import xarray as xr
from deepprofile.execution.pools import ThreadPool
from deepprofile.stages import collocate, matchups, observations, validate
from deepprofile.stages.domain import Domain, days_of, products_of
from deepprofile.stages.pipeline import run_stages
from deepprofile.storage.roots import Root
from deepprofile.storage.stores import read_region

from tests.support.granules import DAYS, current_versions, url_of


@pytest.fixture
def archive(configure, granules, finished, tmp_path):
    """A finished run with an archive of its own, which may be changed; its configuration, and the path of one record."""
    shutil.copytree(granules / "ismn", tmp_path / "ismn")
    shutil.copytree(finished.root, tmp_path / "root", symlinks=True)
    config = configure(stations=[{"kind": "ismn", "path": str(tmp_path / "ismn")}])
    return config, sorted((tmp_path / "ismn").rglob("*.stm"))[0]


def run(config):
    return {result.store: result.progress for result in run_stages(config, ("validate",), ThreadPool(2))}


@pytest.mark.parametrize("size", [4, 8, 32])
def test_sensors_of_a_shard_are_side_by_side_whatever_its_size(size):
    rows, columns = np.random.default_rng(0).integers(0, 64, (2, 500))
    order = np.argsort(observations.along_curve(rows, columns), kind="stable")
    shards = (rows[order] // size * 100 + columns[order] // size).tolist()
    changes = sum(a != b for a, b in itertools.pairwise(shards))
    assert changes + 1 == len(set(shards))


def test_cells_are_placed_by_the_nearest_centre_and_sensors_outside_are_left_out(finished):
    grid = finished.grid.grid()
    stations = xr.Dataset(
        {"soil_moisture": (("sensor", "time"), np.full((3, 1), 0.2))},
        {
            "latitude": ("sensor", [grid.lat[7] + 0.01, grid.lat[2], grid.lat[0] + 0.5]),
            "longitude": ("sensor", [grid.lon[9] - 0.01, grid.lon[3] + 360.0, grid.lon[3]]),
        },
    )
    placed = observations.placed(stations, grid)
    assert list(zip(placed.row.values, placed.column.values, strict=True)) == [(2, 3), (7, 9)]


def test_the_store_holds_what_the_files_say(finished, world):
    store = observations.opened(url_of(finished, observations.STORE))
    assert store.soil_moisture.dims == ("time", "sensor")
    for name, depth in (("T000", 0.05), ("T003", 0.0)):
        one = world.stations.isel(sensor=np.flatnonzero((world.stations.station == name) & (world.stations.depth_top == depth)))
        found = store.isel(sensor=np.flatnonzero((store.station == name) & (np.isclose(store.depth_top, depth))))
        expected = np.round(one.soil_moisture.values[0, : store.sizes["time"]], 4)
        np.testing.assert_allclose(found.soil_moisture.values[:, 0], expected, atol=1e-6)
        assert (int(found.row[0]), int(found.column[0])) == (int(one.y_index[0]), int(one.x_index[0]))


def test_no_series_travels_with_a_task(finished):
    root = Root(finished.root)
    versions, found = root.current(), observations.sensors_of(finished.stations, Domain.of(finished))
    days, sensors = days_of(finished).size, found.stations.sizes["sensor"]
    for plan in (
        matchups.plan(matchups.Matchups.of(finished), root, versions, found),
        validate.plan_differences(Domain.of(finished), root, versions, found),
        validate.plan(Domain.of(finished), matchups.Matchups.of(finished).estimates, root, versions, found),
    ):
        (version,) = plan.versions
        given = version.job.inputs(version.job.blocks[0]) if version.job.inputs is not None else None
        assert not plan.on_driver
        # A description of the grid, the products and the sensors' places; series of float32 alone would be larger.
        assert len(pickle.dumps((version.job.compute, given))) < 0.75 * days * sensors * 4
    assert observations.plan(Domain.of(finished), root, found).on_driver


def test_a_value_that_changes_costs_its_stretch_of_days_and_the_scores(archive):
    config, path = archive
    assert run(config)["observations"].done == 0
    text = path.read_text().splitlines(keepends=True)
    # Four values of the last day, below the header.
    last = slice(1 + 4 * (DAYS - 1), 1 + 4 * DAYS)
    text[last] = [line.replace(line.split()[2], "0.3333").replace(" M M", " G M") for line in text[last]]
    path.write_text("".join(text))
    before = current_versions(config)
    progress = run(config)
    assert (progress["observations"].done, progress["observations"].copied) == (1, 2)
    assert progress["matchups"].skipped == progress["matchups"].blocks
    assert progress["validation"].done == progress["validation"].blocks
    after = current_versions(config)
    assert after["matchups"] == before["matchups"]
    old, new = (
        read_region(
            Root(config.root).version("observations/2015", versions["observations"]), "soil_moisture", (slice(None),) * 2
        )
        for versions in (before, after)
    )
    changed = np.argwhere(~((old == new) | (np.isnan(old) & np.isnan(new))))
    assert changed[:, 0].tolist() == [DAYS - 1]
    assert new[tuple(changed[0])] == np.float32(0.3333)


def test_cells_read_together_are_those_read_alone(finished):
    root, target, domain = Root(finished.root), finished.grid.grid(), Domain.of(finished)
    first = domain.span[0]
    cells = np.array([[0, 0], [9, 11], [4, 3], [5, 3]])
    for source in collocate.sources(products_of(finished).values(), domain, root, root.current()):
        days = (first + 3, first + 9)
        together, read = source.read_cells(target, days, cells)
        alone = [source.read(target, days, (r, r + 1), (c, c + 1))[:, :, 0, 0] for r, c in cells.tolist()]
        np.testing.assert_array_equal(together, np.stack(alone, axis=-1))
        assert read > 0
