"""Maps: levels nested from the origin of the whole grid, means by area, and planes; days that do not change are taken over."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from deepprofile.config import Config
from deepprofile.core.basis import basis_mean
from deepprofile.core.climatology import QUANTILES, percentile
from deepprofile.execution.blocks import Block
from deepprofile.grids import EASE2_M09, EASE2_M36, regular
from deepprofile.stages import invert
from deepprofile.stages.increments import BlockInputs, PublishedBlock
from deepprofile.stages.profiles import Profiles
from deepprofile.stages.publish import climatology, layers, maps, schemas
from deepprofile.storage.objects import listing
from deepprofile.storage.roots import Root
from deepprofile.storage.stores import create, write_shards

from tests.stages.test_schemas import CONFIG

PLACES = {"ease2_m09": [9.15, 45.0, 14.5, 48.0], "latlon_0.25": [9.1, 44.1, 21.0, 56.2]}


@pytest.mark.parametrize(
    ("grid", "names", "shapes"),
    [
        (EASE2_M09, ["9km", "18km", "36km", "72km"], [(1624, 3856), (812, 1928), (406, 964), (203, 482)]),
        (EASE2_M36, ["36km", "72km"], [(406, 964), (203, 482)]),
        (regular(0.25), ["0.25deg", "0.5deg", "1deg", "2deg"], [(720, 1440), (360, 720), (180, 360), (90, 180)]),
        # 180 rows are halved twice.
        (regular(1.0), ["1deg", "2deg", "4deg"], [(180, 360), (90, 180), (45, 90)]),
    ],
)
def test_each_level_has_half_of_the_resolution(grid, names, shapes):
    found = maps.levels_of(grid)
    assert list(found) == names
    assert [level.shape for level in found.values()] == shapes
    assert all(level.dx * level.whole_columns == pytest.approx(grid.dx * grid.whole_columns) for level in found.values())


def test_levels_of_a_window_are_nested_from_the_origin_of_the_whole_grid():
    window = EASE2_M09.window(401, 1003, 30, 22)
    for factor, level in zip((1, 2, 4, 8), maps.levels_of(window).values(), strict=True):
        assert level.first_row == 401 // factor
        assert level.first_column == 1003 // factor
        assert (level.first_row + level.rows) * factor >= 431
        np.testing.assert_allclose(level.y[0], np.mean(EASE2_M09.y[level.first_row * factor :][:factor]))


def made_up(tmp_path, name):
    """Profiles, layers and a climatology of four days that nobody has computed, with what is in them."""
    config = Config.model_validate(
        CONFIG
        | {
            "root": str(tmp_path / name),
            "grid": {"name": name, "bbox": PLACES[name]},
            "period": {"start": "2020-02-28", "end": "2020-03-02"},
            "stations": [],
            "rivals": {},
            "climatology": {"min_years": 1},
            "blocks": {"days": 4, "cells": 16, "chunk_cells": 8, "map_days": 4},
        }
    )
    root, profiles = Root(config.root), Profiles.of(config)
    (year,) = profiles.domain.years
    chance, shape = np.random.default_rng(3), profiles.domain.grid.shape
    coefficients = chance.normal(0.0, 0.02, (profiles.degrees, 4, *shape)).astype(np.float32)
    coefficients[0] += 0.25
    # A sea, and islands that no cell of a coarser level is made of.
    coefficients[:, :, :, : shape[1] // 2][:, :, chance.random((shape[0], shape[1] // 2)) < 0.6] = np.nan
    coefficients[:, :, 0] = np.nan
    there = np.isfinite(coefficients[0])
    versions = {"profile/2020": "p", "layers/2020": "l", "covariance": "c", "climatology": "k"}
    url = root.version("profile/2020", "p")
    template = invert.template(profiles, year)
    create(url, template)
    write_shards(url, "coefficients", (0, 0, 0, 0), coefficients)
    flags = template.variables["flags"]
    masks = dict(zip(flags.attrs["flag_meanings"].split(), flags.attrs["flag_masks"], strict=True))
    used = {product: there & (chance.random(there.shape) < 0.5) for product in profiles.model.comparison.products}
    bits = sum(masks[f"uses_{product}"] * mask.astype(np.int64) for product, mask in used.items())
    write_shards(url, "flags", (0, 0, 0), np.asarray(bits).astype(flags.stored_dtype))
    deviation = np.where(there, chance.uniform(0.01, 0.06, there.shape), np.nan).astype(np.float32)
    url = root.version("layers/2020", "l")
    create(url, schemas.layers(year, np.zeros(4, bool), 32, profiles.model.comparison.products))
    write_shards(url, "root_zone_standard_deviation", (0, 0, 0), deviation)
    usual = np.sort(chance.uniform(0.1, 0.4, (2, 73, len(QUANTILES), *shape)), axis=2).astype(np.float32)
    url = root.version("climatology", "k")
    create(url, schemas.climatology(profiles.domain, ["2015"], profiles.model.comparison.products))
    for layer in range(2):
        write_shards(url, "soil_moisture", (0, 0, layer, 0, 0), usual[layer][:, :, None])
    return root, profiles, versions, (coefficients, used, deviation, usual)


def areas(values, grid, factor, weights):
    """Means over squares of cells that begin at multiples of ``factor`` on the whole grid, one square after the other."""
    top, left = grid.first_row // factor, grid.first_column // factor
    bottom, right = -(-(grid.first_row + grid.rows) // factor), -(-(grid.first_column + grid.columns) // factor)
    out = np.full((*values.shape[:-2], bottom - top, right - left), np.nan)
    for row in range(top, bottom):
        for column in range(left, right):
            rows = [r - grid.first_row for r in range(row * factor, (row + 1) * factor)]
            columns = [c - grid.first_column for c in range(column * factor, (column + 1) * factor)]
            inside = [r for r in rows if 0 <= r < grid.rows], [c for c in columns if 0 <= c < grid.columns]
            part, weight = values[..., inside[0], :][..., inside[1]], weights(grid, inside[0])[:, None]
            area = (np.isfinite(part) * weight).sum(axis=(-2, -1))
            # Rows of a square that lie outside of the window are as large as those inside.
            whole = weights(grid, rows).sum() * factor
            mean = np.nansum(part * weight, axis=(-2, -1)) / np.where(area, area, np.nan)
            out[..., row - top, column - left] = np.where(area >= 0.5 * whole - 1e-9, mean, np.nan)
    return out


def by_area(grid, rows):
    if grid.crs == "EPSG:6933":
        return np.ones(len(rows))
    north = grid.north + (grid.first_row + np.asarray(rows)) * grid.dy
    return np.abs(np.sin(np.deg2rad(north)) - np.sin(np.deg2rad(north + grid.dy)))


@pytest.mark.parametrize("name", list(PLACES))
def test_maps_are_means_by_area_of_what_they_are_made_from(tmp_path, name):
    root, profiles, versions, (coefficients, used, deviation, usual) = made_up(tmp_path, name)
    grid = profiles.domain.grid
    assert grid.first_row % 8
    assert grid.first_column % 8
    (plan,) = maps.plan(profiles, root, versions).versions
    create(plan.url, plan.template)
    plan.job.compute(Block((0,), ((0, 4),), "2020"), BlockInputs())
    basis = basis_mean(0.0, 1.0, profiles.degrees - 1)
    means = np.einsum("k,kdyx->dyx", basis, coefficients).astype(np.float32)
    # 28 and 29 February and 1 March lie in one pentad, 2 March in the next.
    share = np.stack([percentile(means[day], usual[1, 11 if day < 3 else 12]) for day in range(4)])
    for level, of_level in maps.levels_of(grid).items():
        factor = round(of_level.dx / grid.dx)
        store = xr.open_zarr(plan.url, group=level, chunks=None)
        expected = areas(coefficients, grid, factor, by_area).transpose(1, 0, 2, 3)
        assert np.isfinite(expected).any()
        assert np.isnan(expected).any()
        np.testing.assert_allclose(store.coefficients.values, expected, atol=2.0**-11 + 4e-5)
        np.testing.assert_allclose(store.deviation.values, areas(deviation, grid, factor, by_area), atol=2.0**-12 + 4e-5)
        np.testing.assert_allclose(store.percentile.values, areas(share, grid, factor, by_area), atol=0.6)
        for k, mask in enumerate(used.values()):
            of_mask = areas(np.where(np.isfinite(coefficients[0]), mask, np.nan), grid, factor, by_area)
            clear = np.abs(np.nan_to_num(of_mask) - 0.5) > 1e-3
            np.testing.assert_array_equal((store.source.values >> k & 1)[clear], (np.nan_to_num(of_mask) > 0.5)[clear])
        np.testing.assert_allclose(store.y, of_level.y)
        np.testing.assert_allclose(store.lon, of_level.lon)


def contents(url):
    """Every object of a store by name."""
    folder = Path(url)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_days_that_have_not_changed_are_taken_over_and_the_bytes_are_the_same(tmp_path):
    root, profiles, versions, _ = made_up(tmp_path, "ease2_m09")
    (plan,) = maps.plan(profiles, root, versions).versions
    create(plan.url, plan.template)
    block = Block((0,), ((0, 4),), "2020")
    plan.job.compute(block, BlockInputs())
    before = contents(plan.url)
    # Another version, of which the first two days and the last are known.
    other = maps.plan(profiles, root, versions | {"layers/2020": "l"}, None).versions[0]
    task = other.job.compute
    new = root.version("map/2020", "new")
    create(new, plan.template)
    object.__setattr__(task, "url", new)
    outcome = task(block, BlockInputs(earlier=PublishedBlock(plan.url, 4, (0, 1, 3), {})))
    whole = sum(len(content) for name, content in before.items() if "/c/" in name)
    assert 0 < outcome.bytes_written < whole * 100
    assert contents(new) == before


def test_without_a_climatology_there_are_no_percentiles(tmp_path):
    root, profiles, versions, _ = made_up(tmp_path, "ease2_m09")
    del versions["climatology"]
    plan = maps.plan(profiles, root, versions, "none")
    assert plan.notes is not None
    assert plan.notes({}) == ["none"]
    (version,) = plan.versions
    create(version.url, version.template)
    version.job.compute(Block((0,), ((0, 4),), "2020"), BlockInputs())
    store = xr.open_zarr(version.url, group="9km", chunks=None)
    assert np.isnan(store.percentile.values).all()
    assert np.isfinite(store.deviation.values).any()


def test_a_map_of_a_day_is_few_objects(tmp_path):
    root, profiles, versions, _ = made_up(tmp_path, "ease2_m09")
    (version,) = maps.plan(profiles, root, versions).versions
    create(version.url, version.template)
    version.job.compute(Block((0,), ((0, 4),), "2020"), BlockInputs())
    of_day = [entry["url"] for entry in listing(version.url) if "/coefficients/c.2." in entry["url"]]
    assert len(of_day) == 4
    assert layers.STORE in {name.split("/")[0] for name in version.inputs}
    assert climatology.STORE in version.inputs


def test_chunks_of_the_globe_divide_every_level():
    config = Config.model_validate(CONFIG | {"grid": {"name": "ease2_m09"}, "stations": [], "rivals": {}})
    profiles = Profiles.of(config)
    (year,) = profiles.domain.years
    made = maps.template(profiles, year)
    for name, shards in (("9km", (812, 1928)), ("18km", (812, 1928)), ("36km", (406, 964)), ("72km", None)):
        one = made.variables[f"{name}/coefficients"]
        assert one.chunks == (1, 6, 203, 241)
        assert one.shards == (None if shards is None else (1, 6, *shards))
        rows, columns = made.shape(f"{name}/coefficients")[2:]
        assert rows % 203 == columns % 241 == 0
