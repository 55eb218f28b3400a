import re

import numpy as np
import pytest
from deepprofile import grids
from deepprofile.grids.grids import EASE2_M09, EASE2_M36, ERA5_LAND_01, GLDAS_025
from deepprofile.grids.regridding import overlaps, regrid


def test_ease_grid_has_the_official_parameters(sample_data):
    for grid, name in ((EASE2_M09, "EASE2_M09km.gpd"), (EASE2_M36, "EASE2_M36km.gpd")):
        text = (sample_data / "ease2" / name).read_text()

        def official(key, text=text):
            return float(re.search(rf"^{key}:\s+(\S+)", text, re.MULTILINE)[1])

        assert grid.west == pytest.approx(official("Map Origin X"), abs=1e-6)
        assert grid.north == pytest.approx(official("Map Origin Y"), abs=1e-6)
        assert grid.dx == pytest.approx(official("Grid Map Units per Cell"), abs=1e-8)
        assert grid.shape == (official("Grid Height"), official("Grid Width"))


def test_latitudes_and_longitudes_of_the_ease_grid():
    np.testing.assert_allclose(EASE2_M09.lat[[0, 1, 811]], [84.65642, 83.95421, 0.03531], atol=5e-6)
    assert EASE2_M09.lon[0] == pytest.approx(-179.95332, abs=5e-6)
    assert EASE2_M09.x[0] == pytest.approx(-17363026.4176, abs=1e-3)
    assert EASE2_M09.y[0] == pytest.approx(7310036.8030, abs=1e-3)


def test_four_by_four_cells_of_m09_make_one_of_m36():
    rows, columns = overlaps(EASE2_M09, EASE2_M36.window(100, 200, 3, 3))
    assert rows.index.shape == (3, 4)
    assert rows.index[0].tolist() == [400, 401, 402, 403]
    assert columns.index[0].tolist() == [800, 801, 802, 803]
    np.testing.assert_allclose(rows.share, 0.25, rtol=1e-9)


@pytest.mark.parametrize("source", [GLDAS_025, ERA5_LAND_01, EASE2_M36, EASE2_M09], ids=lambda g: g.name)
@pytest.mark.parametrize("bbox", [(-60.0, -20.0, -50.0, -10.0), (-4.0, 40.0, 4.0, 45.0), (170.0, -45.0, 179.9, -35.0)])
def test_regridding_keeps_the_mean(source, bbox):
    target = EASE2_M36.within(bbox)
    window = source.covering(target)
    field = np.random.default_rng(0).random(window.shape).astype(np.float32)
    y, x = overlaps(window, target)
    # In equal-area coordinates the integral over the target is that of the source cells, each by the area that lies inside.
    edges_y, edges_x = window.edges_m()
    limit_y, limit_x = target.edges_m()
    inside_y = np.abs(np.diff(np.clip(edges_y, limit_y.min(), limit_y.max())))
    if edges_x.max() < limit_x.min() or edges_x.min() > limit_x.max():
        edges_x = edges_x - np.round((edges_x.mean() - limit_x.mean()) / 34735060.890323) * 34735060.890323
    inside_x = np.abs(np.diff(np.clip(edges_x, limit_x.min(), limit_x.max())))
    expected = inside_y @ field.astype(np.float64) @ inside_x / (inside_y.sum() * inside_x.sum())
    assert regrid(field, y, x).mean(dtype=np.float64) == pytest.approx(expected, rel=1e-6)


def test_a_target_cell_needs_half_of_its_area():
    target = EASE2_M36.window(100, 200, 1, 1)
    window = EASE2_M09.covering(target)
    y, x = overlaps(window, target)
    values = np.full((4, 4), np.nan, np.float32)
    values[:2] = 0.2
    assert regrid(values, y, x)[0, 0] == pytest.approx(0.2)
    values[0, 0] = np.nan
    assert np.isnan(regrid(values, y, x)[0, 0])


def test_regridding_does_not_depend_on_the_window():
    target = EASE2_M09.within((0.0, 40.0, 5.0, 44.0))
    window = GLDAS_025.covering(target)
    values = np.random.default_rng(1).random((3, *window.shape)).astype(np.float32)
    values[values < 0.2] = np.nan
    y, x = overlaps(window, target)
    whole = regrid(values, y, x)
    part_y, part_x = y.part(7, 19, 0), x.part(5, 30, 0)
    rows, columns = part_y.needed, part_x.needed
    part = values[:, rows[0] : rows[1], columns[0] : columns[1]]
    found = regrid(part, y.part(7, 19, rows[0]), x.part(5, 30, columns[0]))
    np.testing.assert_array_equal(found, whole[:, 7:19, 5:30])


def test_a_window_that_lies_across_the_ends_of_a_grid_runs_on():
    target = EASE2_M09.within((-3.0, 40.0, 3.0, 45.0))
    window = ERA5_LAND_01.covering(target)
    assert window.first_column + window.columns > ERA5_LAND_01.columns
    assert window.lon[0] == pytest.approx(-3.0, abs=0.11)
    assert window.lon[-1] == pytest.approx(3.0, abs=0.11)
    _, x = overlaps(window, target)
    np.testing.assert_allclose(x.share.sum(axis=1), 1.0, rtol=1e-12)


def test_the_whole_globe_is_covered_once():
    window = ERA5_LAND_01.covering(EASE2_M36)
    assert window.columns == ERA5_LAND_01.columns
    _, x = overlaps(window, EASE2_M36)
    np.testing.assert_allclose(x.share.sum(axis=1), 1.0, rtol=1e-12)


@pytest.mark.parametrize("first", [359.9, -0.1])
def test_arrays_are_placed_whichever_way_longitudes_are_counted(first):
    lon = (first + 0.1 * np.arange(4)).astype(np.float32)
    lon = np.where(lon >= 360.0, lon - 360.0, lon)
    rows, columns = ERA5_LAND_01.cells(lon, np.array([10.0, 9.9]))
    assert rows.tolist() == [800, 801]
    assert columns.tolist() == [3599, 0, 1, 2]


def test_arrays_of_another_grid_are_not_placed():
    with pytest.raises(ValueError, match="not those of adjoining cells of the grid gldas_025"):
        GLDAS_025.cells(np.array([0.0, 0.25]), np.array([-59.875, -59.625]))
    with pytest.raises(ValueError, match="y coordinates"):
        GLDAS_025.cells(np.array([0.125, 0.375]), np.array([-59.625, -59.125]))
    # Every tenth cell: centres of this grid, but means of another one.
    with pytest.raises(ValueError, match="x coordinates"):
        ERA5_LAND_01.cells(np.arange(10.0, 15.0), np.array([45.0, 44.9]))


@pytest.mark.parametrize(
    ("bbox", "message"),
    [((10, 0, 5, 1), "west has to be less than east"), ((0, 0, 0.01, 0.01), "holds no cell centre")],
)
def test_impossible_boxes_are_refused(bbox, message):
    with pytest.raises(ValueError, match=message):
        EASE2_M36.within(bbox)


def test_grids_by_name():
    assert grids.by_name("ease2_m09") is EASE2_M09
    assert grids.by_name("latlon_0.25").shape == (720, 1440)
    assert grids.by_name("latlon_0.25").lat[0] == 89.875
    for wrong in ("ease2_m01", "latlon_0.7", "latlon_x"):
        with pytest.raises(ValueError, match=r"grid|degrees"):
            grids.by_name(wrong)
