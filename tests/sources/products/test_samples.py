"""Any gridded product at some places, in the forms in which such products come."""

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from deepprofile.grids.grids import EASE2_M36
from deepprofile.sources.products import GranuleError, samples
from deepprofile.sources.products.files import opened, opened_zarr
from deepprofile.sources.products.granule import Layer
from deepprofile.sources.products.samples import Places, Reading, days_held, sample
from pyproj import Transformer

LAT, LON = np.arange(44.875, 30.0, -0.25), np.arange(-110.125, -90.0, 0.25)
# In the cells (2, 3) and (40, 70), and outside.
PLACES = Places(np.array([44.45, 34.79, 10.0]), np.array([-109.3, -92.6, -100.0]))
CELLS = ((2, 3), (40, 70))
DAYS = np.array(["2020-01-01", "2020-01-02"], "datetime64[D]")
TWO = Reading((("rzsm_1", (Layer(0.0, 0.1),)), ("rzsm_2", (Layer(0.1, 0.4),))))


def dataset(hours=24, units="m3 m-3", factor=1.0, lat=LAT, lon=LON):
    """Three days of two layers whose values tell their cell, step and layer."""
    times = pd.date_range("2020-01-01", "2020-01-03 23:00", freq=f"{hours}h")
    place = np.add.outer(np.arange(lat.size) * 0.001, np.arange(lon.size) * 0.002)
    values = 0.1 + place + 0.01 * np.arange(times.size)[:, None, None]
    found = {
        name: (("time", "lat", "lon"), (factor * (values + 0.1 * k)).astype(np.float32), {"units": units})
        for k, name in enumerate(("rzsm_1", "rzsm_2"))
    }
    return xr.Dataset(found, {"time": times, "lat": lat, "lon": lon})


def expected(steps, layer):
    return np.array(
        [[0.1 + 0.001 * row + 0.002 * column + 0.01 * step + 0.1 * layer for row, column in CELLS] for step in steps]
    )


def written(data, tmp_path, **options):
    data.to_netcdf(tmp_path / "rival.nc", engine="h5netcdf", **options)
    return tmp_path / "rival.nc"


def sampled(path, how=TWO, days=DAYS, places=PLACES, **options):
    with opened(path) as files:
        return sample(files[0], how, places, days, **options)


def test_values_are_those_of_the_cells_that_the_places_lie_in(tmp_path):
    found = sampled(written(dataset(), tmp_path))
    assert found.times.astype("datetime64[D]").tolist() == DAYS.tolist()
    for layer in (0, 1):
        np.testing.assert_allclose(found.values[:, layer, :2], expected((0, 1), layer), atol=1e-6)
    assert np.isnan(found.values[..., 2]).all()


def test_chunks_are_unpacked_once_and_pieces_give_the_same(tmp_path, monkeypatch):
    chunks = {name: {"chunksizes": (2, 60, 81), "zlib": True} for name in ("rzsm_1", "rzsm_2")}
    path = written(dataset(6), tmp_path, encoding=chunks)
    whole = sampled(path)
    assert whole.times.size == 8
    # A chunk of all cells: one read for each variable.
    assert len(list(samples._batches(np.arange(8), samples.VALUES_AT_ONCE // (39 * 68), 2))) == 1
    monkeypatch.setattr(samples, "VALUES_AT_ONCE", 3 * 39 * 68)
    # Three steps would fit: two are read at a time, as they lie in the chunks.
    assert [(s.start, s.stop) for s in samples._batches(np.arange(8), 3, 2)] == [(0, 2), (2, 4), (4, 6), (6, 8)]
    assert [(s.start, s.stop) for s in samples._batches(np.arange(5), 2, 4)] == [(0, 2), (2, 4), (4, 5)]
    np.testing.assert_array_equal(sampled(path).values, whole.values)


@pytest.mark.parametrize(
    ("units", "factor", "how"),
    [
        ("%", 100.0, {}),
        ("1", 100.0, {"units": "percent"}),
        ("m3 m-3", 10000.0, {"scale": 0.0001}),
        ("unknown", 1.0, {"units": "m3 m-3"}),
    ],
    ids=["percent of the file", "percent as stated", "scale", "stated over what the file says"],
)
def test_units_are_those_of_the_file_or_as_stated(tmp_path, units, factor, how):
    found = sampled(written(dataset(units=units, factor=factor), tmp_path), Reading(TWO.variables, **how))
    np.testing.assert_allclose(found.values[:, 1, :2], expected((0, 1), 1), rtol=1e-5)


def test_kilograms_a_square_metre_are_divided_by_the_thickness_of_each_layer(tmp_path):
    data = dataset(units="kg m-2")
    data["rzsm_1"], data["rzsm_2"] = data.rzsm_1 * 100.0, data.rzsm_2 * 300.0
    for name in ("rzsm_1", "rzsm_2"):
        data[name].attrs["units"] = "kg m-2"
    found = sampled(written(data, tmp_path))
    for layer in (0, 1):
        np.testing.assert_allclose(found.values[:, layer, :2], expected((0, 1), layer), rtol=1e-5)


def test_flags_that_are_not_allowed_hide_values(tmp_path):
    data = dataset()
    flag = np.zeros(data.rzsm_1.shape, np.int8)
    flag[1, 2, 3], flag[1, 40, 70] = 3, 8
    data["flag"] = (("time", "lat", "lon"), flag)
    found = sampled(written(data, tmp_path), Reading(TWO.variables, flags=(("flag", (0.0, 8.0)),)))
    assert np.isfinite(found.values[0, :, :2]).all()
    assert np.isnan(found.values[1, :, 0]).all()
    assert np.isfinite(found.values[1, :, 1]).all()


def test_layers_may_lie_along_an_axis_of_a_variable(tmp_path):
    data = dataset()
    joined = xr.concat([data.rzsm_1, data.rzsm_2], "depth").rename("sm").transpose("time", "lat", "depth", "lon")
    path = written(joined.to_dataset(), tmp_path)
    found = sampled(path, Reading((("sm", (Layer(0.0, 0.1), Layer(0.1, 0.4))),)))
    for layer in (0, 1):
        np.testing.assert_allclose(found.values[:, layer, :2], expected((0, 1), layer), atol=1e-6)
    with pytest.raises(GranuleError, match=r"sm has the axes time 3, lat 60, depth 2, lon 81; none .* the 3 layers"):
        sampled(path, Reading((("sm", (Layer(0.0, 0.1), Layer(0.1, 0.4), Layer(0.4, 1.0))),)))


@pytest.mark.parametrize(
    ("lat", "lon"), [(LAT[::-1], LON), (LAT, LON % 360.0), (LAT, LON[::-1])], ids=["northwards", "to 360", "backwards"]
)
def test_coordinates_run_either_way(tmp_path, lat, lon):
    data = dataset().sel(lat=lat, lon=(lon + 180.0) % 360.0 - 180.0).assign_coords(lon=lon)
    found = sampled(written(data, tmp_path))
    np.testing.assert_allclose(found.values[:, 0, :2], expected((0, 1), 0), atol=1e-6)


def test_coordinates_by_name_and_of_each_cell(tmp_path):
    data = dataset().rename(lat="breadth", lon="length")
    named = Reading(TWO.variables, latitude="breadth", longitude="length")
    np.testing.assert_allclose(sampled(written(data, tmp_path), named).values[:, 0, :2], expected((0, 1), 0), atol=1e-6)
    lat, lon = np.meshgrid(LAT, LON, indexing="ij")
    curved = dataset().drop_vars(["lat", "lon"]).rename(lat="j", lon="i")
    # Some cells do not say where they are, as outside of a swath.
    lat[30:35], lon[30:35] = -9999.0, -9999.0
    curved = curved.assign_coords(latitude=(("j", "i"), lat), longitude=(("j", "i"), lon))
    found = sampled(written(curved, tmp_path))
    np.testing.assert_allclose(found.values[:, 0, :2], expected((0, 1), 0), atol=1e-6)
    assert np.isnan(found.values[..., 2]).all()


def test_cells_of_the_ease_grid_are_found_by_x_and_y(tmp_path):
    grid = EASE2_M36.window(60, 180, 30, 60)
    values = np.arange(1800, dtype=np.float32).reshape(1, 30, 60) / 10000.0
    data = xr.Dataset({"sm": (("time", "y", "x"), values)}, {"time": [pd.Timestamp("2020-01-02")], "y": grid.y, "x": grid.x})
    places = Places(np.array([grid.lat[7] + 0.05, 80.0]), np.array([grid.lon[9] - 0.1, 0.0]))
    found = sampled(written(data, tmp_path), Reading((("sm", (Layer(0.0, 0.05),)),)), places=places)
    np.testing.assert_array_equal(found.values[0, 0], [values[0, 7, 9], np.nan])


def test_a_store_in_zarr_is_read(tmp_path):
    dataset(12).chunk({"time": 3, "lat": 20, "lon": 20}).to_zarr(tmp_path / "rival.zarr", consolidated=False)
    with opened_zarr(str(tmp_path / "rival.zarr")) as file:
        assert days_held(file, TWO).tolist() == pd.date_range("2020-01-01", periods=3).date.tolist()
        found = sample(file, TWO, PLACES, DAYS)
    np.testing.assert_allclose(found.values[:, 0, :2], expected(range(4), 0), atol=1e-6)


def test_a_file_without_a_time_has_that_of_its_name(tmp_path):
    path = written(dataset().isel(time=0, drop=True), tmp_path)
    found = sampled(path, named=DAYS[1])
    assert found.times.tolist() == [DAYS[1].astype("datetime64[m]").item()]
    np.testing.assert_allclose(found.values[:, 0, :2], expected((0,), 0), atol=1e-6)
    with pytest.raises(GranuleError, match=r"rival.nc has no time"):
        sampled(path)


@pytest.mark.parametrize(
    ("change", "how", "message"),
    [
        ({}, {"variables": (("rzsm_9", (Layer(0.0, 0.1),)),)}, r"no variable 'rzsm_9'; it has .*rzsm_1"),
        ({"units": "K"}, {}, r"gives rzsm_1 in 'K', which is none of m3 m-3, percent and kg m-2"),
        ({"factor": 100.0}, {}, r"holds values from 10.* to .*, read as its units say: .*state 'units', such as percent"),
        ({}, {"flags": (("quality", (0.0,)),)}, r"no variable 'quality'"),
        ({}, {"time": "t0"}, r"has no variable 't0'"),
    ],
    ids=["variable", "unit", "percent", "flag", "time"],
)
def test_what_cannot_be_read_is_said(tmp_path, change, how, message):
    with pytest.raises(GranuleError, match=message):
        sampled(written(dataset(**change), tmp_path), Reading(**({"variables": TWO.variables} | how)))


def test_real_granules_say_what_is_in_them(sample_data):
    path = sample_data / "gldas" / "GLDAS_NOAH025_3H.A20160101.0300.021.nc4"
    how = Reading((("SoilMoi0_10cm_inst", (Layer(0.0, 0.1),)), ("SoilMoi10_40cm_inst", (Layer(0.1, 0.4),))))
    rng = np.random.default_rng(0)
    places = Places(rng.uniform(25.0, 60.0, 200), rng.uniform(-120.0, -70.0, 200))
    found = sampled(path, how, np.array(["2016-01-01"], "datetime64[D]"), places)
    assert found.times.astype(str).tolist() == ["2016-01-01T03:00"]
    with h5py.File(path) as file:
        rows = [int(np.abs(file["lat"][:] - lat).argmin()) for lat in places.latitude]
        columns = [int(np.abs(file["lon"][:] - lon).argmin()) for lon in places.longitude]
        stored = file["SoilMoi10_40cm_inst"][0][rows, columns]
    assert (stored > 0.0).mean() > 0.6
    np.testing.assert_allclose(found.values[0, 1], np.where(stored > 0.0, stored / 300.0, np.nan), rtol=1e-6)


def test_a_real_subset_of_the_ease_grid_is_placed_by_its_own_coordinates(sample_data):
    (path,) = (sample_data / "smap_l4").glob("*.h5")
    with h5py.File(path) as file:
        x, y, stored = file["x"][:], file["y"][:], file["Analysis_Data/sm_surface_analysis"][:]
    row, column = np.argwhere(stored > 0.0)[5000]
    lon, lat = Transformer.from_crs("EPSG:6933", "EPSG:4326", always_xy=True).transform(x[column] + 3000.0, y[row] - 4000.0)
    how = Reading((("Analysis_Data/sm_surface_analysis", (Layer(0.0, 0.05),)),))
    found = sampled(path, how, np.array(["2020-01-28"], "datetime64[D]"), Places(np.array([lat]), np.array([lon])))
    assert found.values.tolist() == [[[pytest.approx(float(stored[row, column]))]]]
