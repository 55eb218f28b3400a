"""Selecting profiles by place, and what can be asked of them there."""

import deepprofile as dp
import numpy as np
import pytest
import xarray as xr
from deepprofile.analysis.places import Cells, great_circle_m
from deepprofile.grids import EASE2_M09, regular
from pyproj import Geod


@pytest.fixture(scope="module")
def profile(finished):
    return dp.open_profile(finished.root)


@pytest.mark.parametrize("grid", [EASE2_M09, regular(0.25)], ids=["ease2", "latlon"])
def test_the_cell_of_a_place_is_the_one_that_holds_it(grid):
    cells, rng = Cells(grid.lat, grid.lon), np.random.default_rng(1)
    bottom, top = grid.lat.min(), grid.lat.max()
    for lat, lon in zip(rng.uniform(bottom, top, 200), rng.uniform(-180.0, 360.0, 200), strict=True):
        row, column = cells.holding(lat, lon)
        x, y = grid.own_coordinates(np.array([lon]), np.array([lat]))
        east = x[0] if grid.crs == "EPSG:6933" else (lon + 180.0) % 360.0 - 180.0
        assert abs(grid.x[column] - east) <= 0.502 * grid.dx or abs(abs(grid.x[column] - east) - 360.0) <= 0.502 * grid.dx
        # In latitude the middle between two centres is not quite the edge of a cell of equal area.
        assert abs(grid.y[row] - y[0]) <= 0.52 * abs(grid.dy)
    assert cells.holding(89.9, 0.0) is None or grid.lat.max() > 89.0


def test_distances_are_those_of_a_sphere():
    for a, b in (((10.0, 20.0), (10.4, 20.3)), ((-5.0, 179.9), (-5.0, -179.9)), ((80.0, 0.0), (60.0, 170.0))):
        _, _, exact = Geod(a=6371008.8, b=6371008.8).inv(a[1], a[0], b[1], b[0])
        assert great_circle_m(*a, *b) == pytest.approx(exact, rel=1e-9)
    assert great_circle_m(12.0, 34.0, 12.0, 34.0) == 0.0


def test_a_point_is_a_cell_and_says_how_far_its_centre_is(profile):
    lat, lon = float(profile.lat[3]) + 0.02, float(profile.lon[5]) - 0.03
    found = profile.deepprofile.point(lat, lon)
    assert "y" not in found.dims
    assert "x" not in found.dims
    xr.testing.assert_equal(found.drop_vars("distance").load(), profile.isel(y=3, x=5).load())
    assert found.distance.item() == pytest.approx(great_circle_m(lat, lon, float(profile.lat[3]), float(profile.lon[5])))
    assert found.distance.attrs["units"] == "m"
    # The same place, the other way round the earth.
    xr.testing.assert_allclose(found, profile.deepprofile.point(lat, lon + 360.0))


def test_many_points_come_along_a_dimension(profile):
    rows, columns = [1, 7, 1], [2, 3, 11]
    found = profile.deepprofile.point(profile.lat.values[rows], profile.lon.values[columns])
    assert found.sizes["point"] == 3
    theta = found.deepprofile.at(0.4)
    assert theta.name == "soil_moisture"
    for k, (row, column) in enumerate(zip(rows, columns, strict=True)):
        expected = profile.isel(y=row, x=column).deepprofile.at(0.4)
        np.testing.assert_array_equal(theta.isel(point=k).values, expected.values)
    std = found.deepprofile.std(0.4)
    np.testing.assert_allclose(std.isel(point=1), profile.isel(y=7, x=3).deepprofile.std(0.4), rtol=1e-6)
    np.testing.assert_allclose(found.distance, 0.0, atol=1e-3)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ((0.0, 0.0), r"0 N, 0 E lies outside of the grid: its cells have their centres from 29\.7\d to 30\.43 N"),
        ((95.0, -97.0), "95 N, -97 E lies outside of the grid"),
        ((float("nan"), -97.0), "lies outside of the grid"),
        (([30.0, 30.1], [-97.0]), "2 latitudes and 1 longitudes: give as many of one as of the other"),
    ],
)
def test_a_place_that_is_not_there_is_said(profile, place, said):
    with pytest.raises(ValueError, match=said):
        profile.deepprofile.point(*place)


def test_a_box_has_the_cells_whose_centres_lie_in_it(profile):
    lat, lon = profile.lat.values, profile.lon.values
    found = profile.deepprofile.box(lon[2] - 0.01, lat[6] - 0.01, lon[8] + 0.01, lat[1] + 0.01)
    np.testing.assert_array_equal(found.lat, lat[1:7])
    np.testing.assert_array_equal(found.lon, lon[2:9])
    # All longitudes, and beyond the antimeridian.
    assert profile.deepprofile.box(-180.0, -90.0, 180.0, 90.0).sizes == profile.sizes
    assert profile.deepprofile.box(150.0, -90.0, lon[4] + 0.01, 90.0).sizes["x"] == 5
    with pytest.raises(ValueError, match="the box 0 to 10 E, 40 to 50 N holds no cell"):
        profile.deepprofile.box(0.0, 40.0, 10.0, 50.0)
    with pytest.raises(ValueError, match="south has to be less than north"):
        profile.deepprofile.box(-98.0, 31.0, -97.0, 30.0)


def test_profiles_without_a_grid_have_no_places(profile):
    with pytest.raises(ValueError, match="lie on no grid"):
        profile.drop_vars(["lat", "lon"]).deepprofile.point(30.0, -97.0)
    with pytest.raises(ValueError, match="lie on no grid"):
        profile.deepprofile.point(profile.lat.values[:2], profile.lon.values[:2]).deepprofile.box(-180, -90, 180, 90)


def test_layers_are_means_with_their_deviations(profile):
    own = profile.isel(y=4, x=slice(0, 3))
    found = own.deepprofile.layers([(0.0, 0.1), (0.1, 0.4), (0.0, 1.0)])
    np.testing.assert_array_equal(found.depth_top, [0.0, 0.1, 0.0])
    np.testing.assert_allclose(found.soil_moisture.isel(depth=1), own.deepprofile.mean(0.1, 0.4))
    np.testing.assert_allclose(found.standard_deviation.isel(depth=2), own.deepprofile.std_mean(0.0, 1.0))
    for wrong in ([], [0.1, 0.4], [(0.0, 0.1, 0.2)]):
        with pytest.raises(ValueError, match="give top and bottom of each in m"):
            own.deepprofile.layers(wrong)


def test_water_for_plants_lies_between_wilting_point_and_field_capacity(profile):
    own = profile.isel(y=4, x=slice(0, 3))
    mean = own.deepprofile.mean(0.0, 0.5)
    low, high = float(mean.quantile(0.2)), float(mean.quantile(0.8))
    found = own.deepprofile.plant_available_water(low, high, 0.0, 0.5)
    np.testing.assert_allclose(found, 500.0 * (np.clip(mean, low, high) - low), atol=1e-4)
    assert (found.name, found.attrs["units"]) == ("plant_available_water", "mm")
    by_cell = xr.DataArray([low, low, low + 0.01], dims="x")
    np.testing.assert_allclose(own.deepprofile.plant_available_water(by_cell, high, 0.0, 0.5).isel(x=1), found.isel(x=1))
    with pytest.raises(ValueError, match="is not below the field capacity"):
        own.deepprofile.plant_available_water(0.4, 0.3, 0.0, 0.5)


def test_what_is_asked_has_a_name_of_its_own(profile):
    view = profile.isel(y=4, x=2).deepprofile
    asked = (view.at(0.1), view.mean(0.1, 0.2), view.storage(0.0, 1.0), view.std(0.1), view.std_storage(0.0, 1.0))
    assert [each.name for each in asked] == [
        "soil_moisture",
        "soil_moisture",
        "water_storage",
        "standard_deviation",
        "standard_deviation",
    ]
