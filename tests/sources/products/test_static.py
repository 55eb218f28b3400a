"""Fields that do not change with time, in the forms in which they come."""

import h5py
import numpy as np
import pytest
import xarray as xr
from deepprofile.grids.grids import EASE2_M09, EASE2_M36
from deepprofile.sources.products import GranuleError
from deepprofile.sources.products.static import opened_field, regular_grid

WINDOW = EASE2_M09.window(400, 880, 6, 8)
VALUES = np.linspace(0.35, 0.6, 48, dtype=np.float32).reshape(6, 8)
NAME = "Land-Model-Constants_Data/clsm_poros"


def write_constants(path, *, values=VALUES, coordinates=True):
    """As SPL4SMLM: a group, latitudes and longitudes of each cell, fill outside of land."""
    with h5py.File(path, "w") as file:
        file[NAME] = np.where(np.isnan(values), np.float32(-9999.0), values)
        file[NAME].attrs["_FillValue"] = np.float32(-9999.0)
        file[NAME].attrs["units"] = "m3 m-3"
        file["Land-Model-Constants_Data/clsm_wp"] = np.full(values.shape, 0.1, np.float32)
        if coordinates:
            lat, lon = np.meshgrid(WINDOW.lat, WINDOW.lon, indexing="ij")
            file["cell_lat"], file["cell_lon"] = lat.astype(np.float32), lon.astype(np.float32)
    return path


def test_constants_of_smap_l4_are_placed_by_the_coordinates_of_their_cells(tmp_path):
    values = VALUES.copy()
    values[2, 3] = np.nan
    with opened_field(write_constants(tmp_path / "lmc.h5", values=values), NAME) as field:
        assert field.grid == EASE2_M09
        assert field.units == "m3 m-3"
        # One row and column beyond the file, which has nothing there.
        found = field.read(EASE2_M09.window(399, 881, 5, 8))
    assert np.isnan(found[0]).all()
    assert np.isnan(found[:, 7]).all()
    np.testing.assert_array_equal(found[1:, :7], values[:4, 1:])


def test_a_variable_that_is_not_there_is_answered_with_those_that_are(tmp_path):
    path = write_constants(tmp_path / "lmc.h5")
    message = r"lmc.h5 has no variable 'porosity'; it has Land-Model-Constants_Data/clsm_poros, .*clsm_wp, cell_lat, cell_lon"
    with pytest.raises(GranuleError, match=message), opened_field(path, "porosity"):
        pass


def test_a_file_that_does_not_say_where_its_cells_are_is_refused(tmp_path):
    path = write_constants(tmp_path / "lmc.h5", coordinates=False)
    with pytest.raises(GranuleError, match=r"does not say where the cells of .*clsm_poros are"), opened_field(path, NAME):
        pass


LAT, LON = np.arange(40.125, 41.5, 0.25), np.arange(-100.125, -98.0, 0.25)


@pytest.mark.parametrize(
    ("lat", "lon"),
    [(LAT, LON), (LAT[::-1], LON), (LAT, LON % 360.0), (LAT[::-1].astype(np.float32), LON[::-1].astype(np.float32))],
    ids=["northwards", "southwards", "east of Greenwich", "backwards in single precision"],
)
def test_regular_latitudes_and_longitudes_run_either_way(tmp_path, lat, lon):
    field = xr.DataArray(
        np.add.outer(lat.astype(float), 0.001 * (lon.astype(float) % 360.0)).astype(np.float32),
        dims=("lat", "lon"),
        coords={"lat": lat, "lon": lon},
        name="porosity",
    )
    # Of three dimensions, and the other way round.
    field.expand_dims("time").transpose("lon", "time", "lat").to_dataset().to_netcdf(tmp_path / "map.nc", engine="h5netcdf")
    with opened_field(tmp_path / "map.nc", "porosity") as opened:
        whole = opened.read(opened.grid)
        expected = np.add.outer(opened.grid.lat, 0.001 * (opened.grid.lon % 360.0))
    np.testing.assert_allclose(whole, expected, atol=1e-5)


def test_longitudes_may_pass_180_on_their_way_round_the_earth():
    grid = regular_grid("map.nc", np.arange(-89.5, 90.0), np.r_[np.arange(0.5, 180.0), np.arange(-179.5, 0.0)])
    assert grid.is_global
    assert (grid.west, grid.dx, grid.north, grid.dy) == (0.0, 1.0, -90.0, 1.0)


def test_a_group_in_zarr_is_read(tmp_path):
    grid = EASE2_M36.window(100, 220, 3, 4)
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    xr.Dataset({"porosity": (("y", "x"), values)}, {"y": grid.y, "x": grid.x}).to_zarr(
        tmp_path / "map.zarr", zarr_format=3, consolidated=False
    )
    with opened_field(str(tmp_path / "map.zarr"), "porosity") as field:
        assert field.grid == EASE2_M36
        np.testing.assert_array_equal(field.read(grid), values)


@pytest.mark.parametrize(
    ("lat", "message"),
    [([10.0, 11.0, 13.0], "latitudes are not evenly spaced"), ([10.0], "has 1 latitudes: a grid needs two or more")],
)
def test_grids_that_cannot_be_regridded_are_refused(lat, message):
    with pytest.raises(GranuleError, match=message):
        regular_grid("map.nc", np.array(lat), np.arange(3.0))
