"""Real granules of the providers; expected numbers were taken from the files with h5py alone."""

import h5py
import numpy as np
import pytest
from deepprofile.sources.products import PRODUCTS, GranuleError


def granule(sample_data, folder, pattern):
    return next((sample_data / folder).glob(pattern))


def test_gldas_is_given_in_volumes_and_screened(sample_data):
    product = PRODUCTS["gldas_noah"]
    path = granule(sample_data, "gldas", "*A20150101.0000*")
    name = product.parse(path.name)
    steps = product.read(path, product.grid, name.days)
    assert steps.times.astype(str).tolist() == ["2015-01-01T00:00"]
    # 243 883 land cells in each of the three layers; 100 697 of them neither frozen nor under snow.
    assert steps.n_valid.tolist() == [731_649]
    assert np.isfinite(steps.values).sum(axis=(0, 2, 3)).tolist() == [100_697] * 3
    with h5py.File(path) as file:
        row = int(np.argmin(np.abs(file["lat"][:] + 15.125)))
        column = int(np.argmin(np.abs(file["lon"][:] + 55.125)))
        raw = [float(file[f"SoilMoi{depth}cm_inst"][0, row, column]) for depth in ("0_10", "10_40", "40_100")]
    found = steps.values[0, :, row, column]
    np.testing.assert_allclose(found, [raw[0] / 100.0, raw[1] / 300.0, raw[2] / 600.0], rtol=1e-6)
    # Greenland holds 0.396 under its ice.
    greenland = product.grid.within((-45.0, 70.0, -40.0, 75.0))
    assert not np.isfinite(product.read(path, greenland, name.days).values).any()


def test_a_layer_that_is_missing_is_said(sample_data):
    product = PRODUCTS["gldas_noah"]
    path = granule(sample_data, "gldas", "*A20160101.0300*")
    steps = product.read(path, product.grid.window(300, 400, 50, 50), product.parse(path.name).days)
    assert steps.layers.tolist() == [True, True, False]
    assert not np.isfinite(steps.values[:, 2]).any()


def test_smap_l4_subset_is_placed_by_its_own_coordinates(sample_data):
    product = PRODUCTS["smap_l4"]
    path = granule(sample_data, "smap_l4", "*.h5")
    name = product.parse(path.name)
    assert name.key == "20200128T1500"
    steps = product.read(path, product.grid, name.days)
    assert steps.layers.tolist() == [True, False]
    assert steps.n_valid.tolist() == [246_473]
    with h5py.File(path) as file:
        # cell_column says where the providers put it.
        row, column = 250, 600
        whole_column = int(file["cell_column"][row, column])
        whole_row = int(np.argmin(np.abs(product.grid.y - file["y"][row])))
        value = file["Analysis_Data/sm_surface_analysis"][row, column]
    assert steps.values[0, 0, whole_row, whole_column] == value
    assert (whole_row, whole_column) == (290, 687)


def test_a_window_is_a_part_of_the_whole(sample_data):
    for name, folder, pattern in (("gldas_noah", "gldas", "*A20150101.0000*"), ("smap_l4", "smap_l4", "*.h5")):
        product = PRODUCTS[name]
        path = granule(sample_data, folder, pattern)
        days = product.parse(path.name).days
        window = product.grid.within((-110.0, 30.0, -95.0, 40.0))
        whole = product.read(path, product.grid, days).values
        rows = slice(window.first_row, window.first_row + window.rows)
        columns = slice(window.first_column, window.first_column + window.columns)
        np.testing.assert_array_equal(product.read(path, window, days).values, whole[:, :, rows, columns])


def test_era5_land_day(sample_data):
    product = PRODUCTS["era5_land"]
    path = granule(sample_data, "era5_land", "*.nc")
    name = product.parse(path.name)
    assert (str(name.first_day), str(name.last_day)) == ("2022-01-01", "2022-01-01")
    window = product.grid.within((-60.0, -20.0, -50.0, -10.0))
    steps = product.read(path, window, name.days)
    assert steps.values.shape == (24, 3, *window.shape)
    # The crop has 99 of the 101 rows of the box; no value is below zero although the file has some near -1e-20.
    assert np.isfinite(steps.values[0, 0]).any(axis=1).sum() == 99
    assert np.nanmin(steps.values) >= 0.0
    with h5py.File(path) as file:
        latitude, longitude = file["latitude"][50], file["longitude"][20]
        value = file["swvl2"][7, 50, 20]
    row = int(np.argmin(np.abs(window.lat - latitude)))
    column = int(np.argmin(np.abs(window.lon - (longitude if longitude < 180 else longitude - 360))))
    assert steps.values[7, 1, row, column] == pytest.approx(value)


@pytest.mark.parametrize(
    ("product", "name", "days", "key"),
    [
        ("smap_l4", "SMAP_L4_SM_gph_20200128T013000_Vv8011_001.h5", ("2020-01-28", "2020-01-28"), "20200128T0130"),
        ("gldas_noah", "x/GLDAS_NOAH025_3H_EP.A20150101.2100.021.nc4", ("2015-01-01", "2015-01-01"), "20150101T2100"),
        ("era5_land", "era5_land_2020-02.nc", ("2020-02-01", "2020-02-29"), "202002"),
        ("era5_land", "20200203.grib", ("2020-02-03", "2020-02-03"), "20200203"),
        ("smap_l3", "SMAP_L3_SM_P_E_20200128_R19240_001.h5", ("2020-01-28", "2020-01-28"), "20200128"),
    ],
)
def test_names_say_days(product, name, days, key):
    found = PRODUCTS[product].parse(name)
    assert (str(found.first_day), str(found.last_day)) == days
    assert found.key == key


def test_files_of_other_products_are_no_granules():
    assert PRODUCTS["smap_l4"].parse("SMAP_L3_SM_P_E_20200128_R19240_001.h5") is None
    # 36 km: the same product on another grid.
    assert PRODUCTS["smap_l3"].parse("SMAP_L3_SM_P_20200128_R19240_001.h5") is None
    assert PRODUCTS["gldas_noah"].parse("GLDAS_NOAH025_3H.A20150101.0000.021.nc4.xml") is None


def test_a_truncated_granule_is_named(sample_data, tmp_path):
    product = PRODUCTS["gldas_noah"]
    path = granule(sample_data, "gldas", "*A20160101.0300*")
    broken = tmp_path / path.name
    broken.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(GranuleError, match=r"A20160101\.0300.* cannot be read: it is truncated"):
        product.read(broken, product.grid, product.parse(path.name).days)


def test_a_granule_of_another_day_than_its_name_says(sample_data, tmp_path):
    product = PRODUCTS["gldas_noah"]
    path = granule(sample_data, "gldas", "*A20160101.0300*")
    wrong = tmp_path / path.name.replace("20160101", "20160102")
    wrong.symlink_to(path)
    with pytest.raises(GranuleError, match="is for 2016-01-02T03:00 by its name, but holds 2016-01-01T03:00"):
        product.read(wrong, product.grid, product.parse(wrong.name).days)
