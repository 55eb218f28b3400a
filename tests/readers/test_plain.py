"""What plain xarray makes of every store, and whether the numbers are those of the library."""

import deepprofile as dp
import numpy as np
import pytest
import xarray as xr
import zarr
from deepprofile.app.published import Published as Stores
from deepprofile.stages.publish.files import template
from deepprofile.stages.publish.netcdf import write_netcdf
from deepprofile.stages.publish.schemas import DEVIATION, LAYERS, ROOT_ZONE
from deepprofile.stages.schemas import MOISTURE

from tests.readers.conftest import GRIDDED

PLACES = {"lat", "lon", "spatial_ref"}


def plain(published, store):
    url, group = published.url(store)
    return xr.open_zarr(url, group=group, chunks=None)


@pytest.mark.parametrize("store", [*GRIDDED, "validation"])
def test_every_store_opens_with_xarray_alone(published, store):
    url, group = published.url(store)
    opened = plain(published, store)
    if store in GRIDDED:
        assert set(opened.coords) >= PLACES
        assert ("time_bnds" in opened.coords) == ("time" in opened.dims)
        for name, array in opened.data_vars.items():
            if {"y", "x"} <= set(array.dims):
                assert array.encoding["grid_mapping" if "grid_mapping" in array.encoding else "coordinates"], name
    for name, array in zarr.open_group(url, path=group, mode="r").arrays():
        attributes = array.attrs.asdict()
        if "scale_factor" in attributes:
            # Readers of CF look at the attribute, those of Zarr at the fill value.
            assert attributes["_FillValue"] == array.fill_value, name
        else:
            assert "_FillValue" not in attributes or attributes["_FillValue"] == array.fill_value, name


def test_a_decoded_value_that_is_missing_is_no_number(published):
    for store, name in (("layers", "soil_moisture"), ("profile", "coefficients"), ("map/9km", "coefficients")):
        values = plain(published, store)[name].values
        assert np.isnan(values).any()
        assert np.nanmin(values) > -1.0
        assert np.nanmax(values) < 1.5


def test_layers_are_means_of_the_profiles_with_their_deviations(published):
    profile, layers = dp.open_store(published.root).load(), plain(published, "layers")
    (top, bottom), dims = np.array(LAYERS).T, ("time", "depth", "y", "x")
    mean, std = (f(top, bottom).transpose(*dims) for f in (profile.deepprofile.mean, profile.deepprofile.std_mean))
    np.testing.assert_allclose(layers.soil_moisture.values, mean.values, atol=0.51 * MOISTURE.scale)
    there = np.isfinite(mean.values)
    np.testing.assert_allclose(layers.standard_deviation.values[there], std.values[there], atol=0.51 * DEVIATION.scale)
    assert np.isnan(layers.standard_deviation.values[~there]).all()
    np.testing.assert_allclose(layers.depth, 0.5 * (top + bottom))
    np.testing.assert_allclose(layers.depth_bnds, np.array(LAYERS))
    whole, deviation = profile.deepprofile.mean(*ROOT_ZONE), profile.deepprofile.std_mean(*ROOT_ZONE)
    np.testing.assert_allclose(layers.root_zone_soil_moisture.values, whole.values, atol=0.51 * MOISTURE.scale)
    there = np.isfinite(whole.values)
    found = layers.root_zone_standard_deviation.values
    np.testing.assert_allclose(found[there], deviation.values[there], atol=0.51 * DEVIATION.scale)


def test_inputs_are_the_products_on_the_grid_of_the_profiles(published, finished):
    inputs, products = plain(published, "inputs"), Stores.of(finished).products()
    names = inputs.attrs["products"]
    for k, name in enumerate(names):
        own = inputs.isel(observation=np.flatnonzero(inputs.product_index.values == k))
        if name in products:
            values = products[name].transpose("time", "layer", "y", "x").values
            found = own.soil_moisture.transpose("time", "observation", "y", "x").values
            np.testing.assert_allclose(found, values, atol=0.51 * MOISTURE.scale)
            np.testing.assert_allclose(own.layer_top, products[name].layer_top)
        else:
            # The past of a retrieval: within what it has said up to that day.
            series = products[name.removesuffix("_memory")].isel(layer=0).values
            highest = np.fmax.accumulate(series, axis=0)
            assert np.nanmax(own.soil_moisture.values - highest) <= MOISTURE.scale
    profile = dp.open_store(published.root)
    assert inputs.sizes["observation"] == profile.sizes["observation"]
    np.testing.assert_array_equal(inputs.layer_bottom, profile.layer_bottom)


def test_maps_at_the_finest_level_are_the_profiles(published):
    profile, found = dp.open_store(published.root).load(), plain(published, "map/9km")
    ours = profile.coefficients.transpose("time", "degree", "y", "x").values
    np.testing.assert_allclose(found.coefficients.values, ours, atol=2.0**-11 + 2e-5)
    for k, name in enumerate(found.source.attrs["flag_meanings"].split()):
        np.testing.assert_array_equal((found.source.values >> k & 1).astype(bool), profile.deepprofile.uses(name).values)


def test_times_are_days_with_bounds(published):
    opened = plain(published, "profile")
    assert opened.time.encoding["dtype"] == np.int32
    np.testing.assert_array_equal(opened.time_bnds.values[:, 0], opened.time.values)
    assert (np.diff(opened.time_bnds.values, axis=1) == np.timedelta64(1, "D")).all()


def test_the_file_of_a_month_is_the_store_of_layers(published, tmp_path):
    layers = plain(published, "layers")
    with xr.open_dataset(published.file("2015-05"), engine="h5netcdf") as file:
        own = layers.sel(time=slice("2015-05-01", "2015-05-31"))
        assert file.sizes["time"] == 31
        for name in ("soil_moisture", "standard_deviation", "root_zone_soil_moisture", "root_zone_standard_deviation"):
            np.testing.assert_array_equal(file[name].values, own[name].values)
        assert file.attrs["license"] == layers.attrs["license"]
        assert (file.attrs["time_coverage_start"], file.attrs["time_coverage_end"]) == ("2015-05-01", "2015-05-31")


def test_the_same_values_give_the_same_bytes_of_a_file(published, finished, tmp_path):
    from deepprofile.stages.profiles import Profiles
    from deepprofile.stages.publish.files import months
    from deepprofile.storage.roots import Root

    root, profiles = Root(finished.root), Profiles.of(finished)
    month = months(profiles, root, root.current())[0]
    made = template(month, profiles)

    def bands(name):
        yield (slice(None),) * len(made.shape(name)), np.full(made.shape(name), 7, made.variables[name].stored_dtype)

    for name in ("a.nc", "b.nc"):
        write_netcdf(tmp_path / name, made, bands)
    assert (tmp_path / "a.nc").read_bytes() == (tmp_path / "b.nc").read_bytes()
