"""Polygons: how much of each cell lies within, whatever form they come in."""

import json

import geopandas
import numpy as np
import pytest
import shapely
import xarray as xr
from deepprofile.analysis.areas import covered_areas, geometry_of
from deepprofile.grids import EASE2_M36, by_name, regular
from pyproj import Geod, Transformer

TRIANGLE = shapely.Polygon([(-97.6, 29.8), (-96.9, 29.9), (-97.2, 30.3)])
GEOD = Geod(ellps="WGS84")


def area_of(geometry):
    return abs(GEOD.geometry_area_perimeter(geometry)[0])


def bounds_of(grid):
    """Lower and upper ends of rows and columns, m."""
    return [np.sort(np.stack([edges[:-1], edges[1:]], axis=1), axis=1) for edges in grid.edges_m()]


def edges_of(profile, row, column):
    """Degrees: west, south, east, north of a cell of 9 km."""
    x, y, half = float(profile.x[column]), float(profile.y[row]), 0.5 * 9008.055210146
    return Transformer.from_crs(6933, 4326, always_xy=True).transform_bounds(x - half, y - half, x + half, y + half)


def test_cells_count_by_the_share_that_lies_within(opened):
    west, south, east, north = edges_of(opened, 4, 5)
    middle = 0.5 * (west + east)
    # Half of one cell, and the whole of the one below it.
    below = edges_of(opened, 5, 5)[1]
    shape = shapely.union(shapely.box(west, south, middle, north), shapely.box(west, below, east, south))
    found = opened.deepprofile.polygon(shape)
    # A polygon's edge is followed to within a hair of the cell's.
    found = found.where(found["area"] > 1e4, drop=True)
    np.testing.assert_array_equal(found.y, opened.y[4:6])
    np.testing.assert_array_equal(found.x, opened.x[5:6])
    np.testing.assert_allclose(found["area"].values[:, 0] / 9008.055210146**2, [0.5, 1.0], atol=2e-4)
    assert found["area"].attrs["units"] == "m2"
    # What is selected is lazy, and the same as by hand.
    assert found.coefficients.chunks
    np.testing.assert_array_equal(found.coefficients, opened.coefficients.isel(y=slice(4, 6), x=slice(5, 6)))


def test_areas_are_those_on_the_ground(opened):
    found = opened.deepprofile.polygon(TRIANGLE)["area"]
    assert float(found.sum()) == pytest.approx(area_of(TRIANGLE), rel=1e-3)
    hole = TRIANGLE.difference(shapely.Point(-97.2, 30.0).buffer(0.08))
    assert float(opened.deepprofile.polygon(hole)["area"].sum()) == pytest.approx(area_of(hole), rel=1e-3)
    # A cell that lies wholly in the hole is not within.
    whole = opened.deepprofile.polygon(
        shapely.box(-97.6, 29.8, -96.9, 30.4).difference(shapely.box(-97.4, 29.95, -97.05, 30.25))
    )
    inside = whole["area"].where((abs(whole.lat - 30.1) < 0.05) & (abs(whole.lon + 97.2) < 0.05), drop=True)
    np.testing.assert_array_equal(inside, 0.0)


@pytest.mark.parametrize("grid", [EASE2_M36, regular(1.0)], ids=["equal area", "degrees"])
def test_polygons_reach_across_the_antimeridian_and_round_the_earth(grid):
    east = shapely.box(178.3, -20.0, 180.0, -10.0)
    west = shapely.box(-180.0, -20.0, -178.6, -10.0)
    both, rows, columns = covered_areas(shapely.union_all([east, west]), *bounds_of(grid))
    one, same_rows, same_columns = covered_areas(shapely.box(178.3, -20.0, 181.4, -10.0), *bounds_of(grid))
    np.testing.assert_array_equal(rows, same_rows)
    np.testing.assert_array_equal(columns, same_columns)
    np.testing.assert_allclose(both, one, rtol=1e-9)
    assert one.sum() == pytest.approx(area_of(shapely.box(178.3, -20.0, 181.4, -10.0).segmentize(0.1)), rel=2e-3)
    band, rows, columns = covered_areas(shapely.box(0.0, 10.0, 360.0, 20.0), *bounds_of(grid))
    assert columns.size == grid.columns
    np.testing.assert_allclose(band, band[:, :1] * np.ones(grid.columns), rtol=1e-9)


def test_a_grid_of_degrees_without_a_name_has_its_edges_halfway():
    lat, lon = np.array([10.25, 9.75, 9.25]), np.array([179.75, -179.75])
    profile = xr.Dataset(
        {"coefficients": (("degree", "y", "x"), np.ones((3, 3, 2))), "pattern": (("y", "x"), np.zeros((3, 2), np.uint8))},
        coords={"lat": ("y", lat), "lon": ("x", lon)},
    )
    found = profile.deepprofile.polygon(shapely.box(179.5, 9.0, 180.0, 10.0))
    np.testing.assert_array_equal(found.lat, lat[1:])
    np.testing.assert_array_equal(found.lon, [179.75])
    np.testing.assert_allclose(found["area"], profile.deepprofile.areas()[1:, :1], rtol=1e-6)
    with pytest.raises(ValueError, match="one column of cells alone does not tell how wide it is"):
        profile.isel(x=slice(0, 1)).deepprofile.polygon(TRIANGLE)


@pytest.mark.parametrize("name", ["ease2_m36", "latlon_1", None])
def test_cells_beside_a_gap_are_as_wide_as_the_others(name):
    """As in a box across the antimeridian, whose columns come in two parts."""
    grid = regular(1.0) if name is None else by_name(name)
    rows, columns = np.arange(150, 156), np.concatenate([np.arange(3), np.arange(grid.columns - 4, grid.columns)])
    profile = xr.Dataset(
        {"coefficients": (("degree", "y", "x"), np.ones((3, 6, 7))), "pattern": (("y", "x"), np.zeros((6, 7), np.uint8))},
        coords={
            "y": grid.y[rows], "x": grid.x[columns], "lat": ("y", grid.lat[rows]), "lon": ("x", grid.lon[columns])
        },
        attrs={} if name is None else {"grid": name},
    )  # fmt: skip
    areas = profile.deepprofile.areas()
    edges_y, edges_x = grid.edges_m()
    expected = np.abs(np.diff(edges_y))[rows][:, None] * np.diff(edges_x)[columns]
    np.testing.assert_allclose(areas, expected, rtol=1e-6)
    south, north = sorted((grid.lat[rows[0]], grid.lat[rows[-1]]))
    found = profile.deepprofile.polygon(shapely.box(178.0, south, 182.5, north))
    both = shapely.union(shapely.box(178.0, south, 180.0, north), shapely.box(-180.0, south, -177.5, north))
    within = shapely.box(*shapely.box(178.0, south, 182.5, north).bounds)
    assert float(found["area"].sum()) <= area_of(within.segmentize(0.1)) * 1.005
    np.testing.assert_allclose(found["area"], profile.deepprofile.polygon(both)["area"], rtol=1e-9)


def test_polygons_come_in_many_forms(opened, tmp_path):
    expected = opened.deepprofile.polygon(TRIANGLE)["area"]
    geojson = shapely.geometry.mapping(TRIANGLE)
    feature = {"type": "Feature", "properties": {"name": "basin"}, "geometry": geojson}
    path = tmp_path / "basin.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature, feature]}))
    frame = geopandas.GeoDataFrame(geometry=[TRIANGLE], crs=4326)
    forms = [
        geojson,
        feature,
        {"type": "GeometryCollection", "geometries": [geojson, {"type": "Point", "coordinates": [0.0, 0.0]}]},
        path,
        str(path),
        frame,
        frame.geometry,
        frame.to_crs(3857),
        frame.geometry.iloc[0],
    ]
    for each in forms:
        np.testing.assert_allclose(opened.deepprofile.polygon(each)["area"], expected, rtol=1e-4, atol=2e4)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (shapely.Point(0, 0), "there is no polygon, but Point: give a geopandas object"),
        ({"type": "FeatureCollection", "features": []}, "there is no polygon, but nothing"),
        ({"type": "Topology"}, "a GeoJSON object of type 'Topology' is no polygon"),
        (7, "int is no polygon: give a geopandas object"),
        ("nowhere.geojson", "there is no file nowhere.geojson"),
        (shapely.Polygon([(0, 0), (1, 1), (1, 0), (0, 1)]), r"the polygon is not valid: Self-intersection.*make_valid"),
        (shapely.box(500000, 4e6, 600000, 4.1e6), "these are no degrees"),
        (geopandas.GeoSeries([TRIANGLE]), r"do not say their reference system: set it, with \.set_crs\(4326\)"),
        (
            shapely.box(0, 0, 1, 1),
            r"the polygon \(0\.00 to 1\.00 E, 0\.00 to 1\.00 N\) holds no part of the grid: its cells have",
        ),
    ],
    ids=["point", "empty", "topology", "number", "no file", "invalid", "metres", "no system", "elsewhere"],
)
def test_what_is_no_polygon_of_the_grid_is_said(opened, wrong, said):
    with pytest.raises(ValueError, match=said):
        opened.deepprofile.polygon(wrong)


def test_a_file_of_another_format_is_said(tmp_path):
    path = tmp_path / "basin.shp"
    path.write_bytes(b"\x00\x00\x27\x0a\xff\xfe")
    with pytest.raises(ValueError, match=r"basin\.shp is no GeoJSON; open other formats with geopandas\.read_file"):
        geometry_of(path)


def test_what_is_asked_of_a_polygon_is_nan_outside(opened):
    found = opened.isel(time=slice(0, 3)).deepprofile.polygon(TRIANGLE)
    outside = found["area"] == 0.0
    assert bool(outside.any())
    for each in (found.deepprofile.at(0.1), found.deepprofile.std_mean(0.0, 1.0), found.deepprofile.storage(0.0, 1.0)):
        assert bool(each.where(outside, drop=True).isnull().all())
        assert bool(each.where(~outside).notnull().any())
    with pytest.raises(ValueError, match="lie on no grid"):
        opened.isel(y=0, x=0).deepprofile.polygon(TRIANGLE)
