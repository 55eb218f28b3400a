"""What plain xarray makes of every store, and whether the numbers are those of the library."""

import hashlib
import json

import deepprofile as dp
import numpy as np
import pytest
import xarray as xr
import zarr
from deepprofile.app.published import Published as Stores
from deepprofile.execution.blocks import Block
from deepprofile.stages.profiles import Profiles
from deepprofile.stages.publish.files import FileBlock, index, months
from deepprofile.stages.publish.schemas import DEVIATION, LAYERS, MAP_COEFFICIENTS, MAP_DEVIATION, ROOT_ZONE
from deepprofile.stages.schemas import MOISTURE
from deepprofile.storage.roots import Root

from tests.readers.conftest import GRIDDED
from tests.support.granules import NAMES

PLACES = {"lat", "lon", "spatial_ref"}
STORES = (*GRIDDED, "validation")


def plain(published, store):
    url, group = published.url(store)
    return xr.open_zarr(url, group=group, chunks=None)


def arrays(published, store):
    """What is stored, without any decoding: arrays of Zarr by name."""
    url, group = published.url(store)
    return dict(zarr.open_group(url, path=group, mode="r").arrays())


def test_no_store_is_forgotten_here(published):
    pointer = json.loads((published.folder / "current.json").read_text())
    assert {store.partition("/")[0] for store in STORES} == pointer["stores"].keys()
    levels = xr.open_datatree(published.url("map")[0], engine="zarr", chunks=None)
    assert {store.partition("/")[2] for store in STORES if store.startswith("map/")} == levels.children.keys()
    assert list(index(Root(published.root))) == ["2015-04", "2015-05"]


@pytest.mark.parametrize("store", STORES)
def test_every_store_opens_with_xarray_alone(published, store):
    opened = plain(published, store)
    if store in GRIDDED:
        assert set(opened.coords) >= PLACES
        assert ("time_bnds" in opened.coords) == ("time" in opened.dims)
    for name, array in arrays(published, store).items():
        attributes, dims = array.attrs.asdict(), tuple(array.metadata.dimension_names or ())
        assert opened[name].dims == dims
        if {"y", "x"} <= set(dims):
            assert attributes["grid_mapping"] == "spatial_ref", name
            assert attributes["coordinates"].split()[:2] == ["lat", "lon"], name
            assert set(attributes["coordinates"].split()) <= set(opened.coords), name
        if "scale_factor" in attributes:
            # Readers of CF look at the attribute, those of Zarr at the fill value.
            assert attributes["_FillValue"] == array.fill_value, name
        else:
            assert "_FillValue" not in attributes, name


@pytest.mark.parametrize("store", STORES)
def test_packed_numbers_are_decoded_as_cf_has_it(published, store):
    opened, packed = plain(published, store), 0
    for name, array in arrays(published, store).items():
        attributes = array.attrs.asdict()
        if "scale_factor" not in attributes:
            continue
        packed += 1
        codes = array[...]
        there = codes != attributes["_FillValue"]
        assert there.any() or name == "percentile", name
        expected = np.where(there, codes * attributes["scale_factor"] + attributes.get("add_offset", 0.0), np.nan)
        np.testing.assert_allclose(opened[name].values, expected, rtol=1e-6, err_msg=name)
        if name in ("soil_moisture", "coefficients"):
            assert not there.all()
            assert -1.0 < np.nanmin(expected) < np.nanmax(expected) < 1.5
    assert packed == {"layers": 4, "covariance": 2, "weights": 0, "validation": 0}.get(store, 3 if "map" in store else 1)


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
    assert np.isnan(found[~there]).all()
    assert there.any()
    assert not there.all()
    assert float(layers.root_zone_depth) == 0.5 * sum(ROOT_ZONE)


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


def by_area(values, first, factor):
    """Means over squares of cells, NaN where less than half of a square has values.

    Squares begin at multiples of ``factor`` on the whole grid, of which ``first`` is the row and column where the values begin.
    All cells are of the same size.
    """
    *lead, rows, columns = values.shape
    before = [start % factor for start in first]
    after = [-(start + size) % factor for start, size in zip(first, (rows, columns), strict=True)]
    padded = np.pad(values, [(0, 0)] * len(lead) + list(zip(before, after, strict=True)), constant_values=np.nan)
    squares = padded.reshape(*lead, padded.shape[-2] // factor, factor, padded.shape[-1] // factor, factor)
    there = np.isfinite(squares)
    count = there.sum(axis=(-3, -1))
    mean = np.where(there, squares, 0.0).sum(axis=(-3, -1)) / np.maximum(count, 1)
    return np.where(2 * count >= factor * factor, mean, np.nan)


@pytest.mark.parametrize(("level", "factor"), [("9km", 1), ("18km", 2), ("36km", 4), ("72km", 8)])
def test_maps_are_means_of_the_profiles_by_area(published, level, factor):
    profile, found = dp.open_store(published.root).load(), plain(published, f"map/{level}")
    first = profile.attrs["grid_window"][:2]
    coefficients = profile.coefficients.transpose("time", "degree", "y", "x").values.astype(np.float64)
    expected = by_area(coefficients, first, factor)
    assert np.isfinite(expected).any()
    assert np.isnan(expected).any()
    # Half a step of what is stored, and what is lost in single precision.
    np.testing.assert_allclose(found.coefficients.values, expected, rtol=0.0, atol=0.5 * MAP_COEFFICIENTS.scale + 1e-7)
    deviation = plain(published, "layers").root_zone_standard_deviation.values
    np.testing.assert_allclose(
        found.deviation.values, by_area(deviation, first, factor), rtol=0.0, atol=0.5 * MAP_DEVIATION.scale + 1e-7
    )
    there = np.isfinite(coefficients[:, 0])
    names = found.source.attrs["flag_meanings"].split()
    assert sorted(names) == sorted(NAMES)
    for mask, name in zip(found.source.attrs["flag_masks"], names, strict=True):
        share = by_area(np.where(there, profile.deepprofile.uses(name).values, np.nan), first, factor)
        np.testing.assert_array_equal((found.source.values & mask) != 0, np.nan_to_num(share) >= 0.5, err_msg=name)
    # Of a year alone there is no climatology.
    assert np.isnan(found.percentile.values).all()
    np.testing.assert_allclose(found.y[0] - found.y[1], factor * (profile.y[0] - profile.y[1]))
    np.testing.assert_array_equal(found.time, profile.time)


def test_scores_say_where_their_sensors_are(published):
    scores = plain(published, "validation")
    assert scores.attrs["cdm_data_type"] == "Station"
    assert scores.attrs["geospatial_lat_min"] == scores.latitude.min()
    assert scores.attrs["geospatial_lon_max"] == scores.longitude.max()
    assert scores.attrs["source"] == "SMAP L4 (SPL4SMGP), GLDAS-2.1 Noah, ERA5-Land"
    assert len(scores.attrs["stations"]) == scores.sizes["sensor"]
    assert scores.attrs["estimates"][0] == "fused"


def test_times_are_days_with_bounds(published):
    opened = plain(published, "profile")
    assert opened.time.encoding["dtype"] == np.int32
    np.testing.assert_array_equal(opened.time_bnds.values[:, 0], opened.time.values)
    assert (np.diff(opened.time_bnds.values, axis=1) == np.timedelta64(1, "D")).all()


@pytest.mark.parametrize("month", ["2015-04", "2015-05"])
def test_the_file_of_a_month_is_the_store_of_layers(published, month):
    layers = plain(published, "layers")
    with xr.open_dataset(published.file(month), engine="h5netcdf") as file:
        own = layers.sel(time=month)
        assert file.sizes == own.sizes
        assert file.coords.keys() == own.coords.keys()
        assert file.data_vars.keys() == own.data_vars.keys()
        for name, array in own.variables.items():
            np.testing.assert_array_equal(file[name].values, array.values, err_msg=name)
            assert file[name].encoding["dtype"] == array.encoding["dtype"], name
            said = {key: value for key, value in file[name].attrs.items() if not key.startswith("flag_")}
            assert said == {key: value for key, value in array.attrs.items() if not key.startswith("flag_")}, name
        assert file.attrs["license"] == layers.attrs["license"]
        assert file.attrs["time_coverage_start"] == f"{month}-01"
        assert file.attrs["time_coverage_end"] == str(own.time.values[-1].astype("datetime64[D]"))


def test_the_same_values_give_the_same_bytes_of_a_file(published, tmp_path):
    """A file is written again, later: of its month nothing else is known than what the store has."""
    root, profiles = Root(published.root), Profiles.of(published.config)
    final = months(profiles, root, root.current())
    assert [month.label for month in final] == list(index(root))
    for k, month in enumerate(final):
        outcome = FileBlock(profiles, tuple(final), str(tmp_path))(Block((k,), ((0, month.domain.length),)), None)
        known, content = index(root)[month.label], published.file(month.label).read_bytes()
        assert outcome.details == {key: known[key] for key in ("path", "bytes", "sha256")}
        assert (tmp_path / known["path"]).read_bytes() == content
        assert hashlib.sha256(content).hexdigest() == known["sha256"]
