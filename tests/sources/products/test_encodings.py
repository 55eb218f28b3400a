"""The same granule gives the same values in any encoding, and a damaged one gives none that are wrong."""

from dataclasses import fields, replace

import h5py
import numpy as np
import pytest
from deepprofile.sources.products import PRODUCTS, GranuleError
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from tests.sources.products.encodings import CLOCKS, DAY, NAMES, PACKINGS, Encoding, Numbers, dataset, write

DAYS = np.array([DAY])
NUMBERS = {name: Numbers.of(name) for name in NAMES}
some = settings(
    max_examples=50,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
encodings = st.builds(
    Encoding,
    format=st.sampled_from(["hdf5", "netcdf4", "netcdf3", "zip"]),
    packing=st.sampled_from(list(PACKINGS)),
    limits=st.sampled_from(["none", "packed", "unpacked"]),
    northwards=st.booleans(),
    longitudes=st.sampled_from(["-180..180", "0..360", "reversed"]),
    last_axis=st.sampled_from(["x", "y", "time"]),
    extra_axis=st.sampled_from(["", "number", "depthBelowLandLayer"]),
    chunked=st.booleans(),
    clock=st.sampled_from(list(CLOCKS)),
)


def read_in_pieces(numbers, path):
    """The same steps as the reader gives at once, put together from its pieces."""
    pieces = [replace(p, values=p.values.copy()) for p in numbers.product.read_pieces(path, numbers.window, DAYS)]
    joined = {name: np.concatenate([getattr(p, name) for p in pieces]) for name in ("times", "values", "n_valid")}
    return replace(pieces[0], provisional=any(p.provisional for p in pieces), **joined)


def read(numbers, path):
    """What is read, at once and in pieces alike, of which a granule of several steps has several; raises alike, too."""
    try:
        whole = numbers.product.read(path, numbers.window, DAYS)
    except GranuleError:
        with pytest.raises(GranuleError):
            read_in_pieces(numbers, path)
        raise
    pieces = read_in_pieces(numbers, path)
    for field in fields(whole):
        np.testing.assert_array_equal(getattr(pieces, field.name), getattr(whole, field.name), field.name)
    return whole


@pytest.mark.parametrize("name", list(NAMES))
@some
@given(how=encodings)
def test_a_granule_gives_the_same_values_however_it_is_encoded(tmp_path, name, how):
    # netCDF-3 has no such types.
    assume(how.format != "netcdf3" or how.packing not in ("uint16", "int32"))
    numbers = NUMBERS[name]
    path, off = write(tmp_path, numbers, how)
    steps = read(numbers, path)
    assert steps.times.tolist() == numbers.times.tolist()
    np.testing.assert_allclose(steps.values, numbers.expected, rtol=0, atol=off)


@pytest.mark.parametrize("version", [2, 3])
@settings(some, max_examples=10)
@given(how=encodings)
# Numbers of JSON have no type by which limits of the packed numbers could be told.
@example(how=Encoding(packing="uint16", limits="packed"))
def test_so_does_a_mirror_in_zarr(tmp_path_factory, version, how):
    numbers = NUMBERS["era5_land"]
    made, off = dataset(numbers, how)
    path = tmp_path_factory.mktemp("mirror") / "store"
    made.to_zarr(path, zarr_format=version, consolidated=False)
    assert numbers.product.mirror_days(str(path)) == [(DAY, "final")]
    steps = numbers.product.read_mirror(str(path), numbers.window, DAYS)
    np.testing.assert_allclose(steps.values, numbers.expected, rtol=0, atol=off)


def read_or_none(numbers, path):
    """What is read, or None where the granule is refused by its name."""
    try:
        return read(numbers, path)
    except GranuleError as error:
        named = path.name in str(error)
    assert named
    return None


def assert_no_wrong_number(steps, numbers, off):
    if steps is not None:
        # Where a hole has taken the soil temperature away, the values are right, and said to be unscreened.
        right = numbers.moisture if steps.unscreened else numbers.expected
        # Steps whose time was lost are missing.
        right = right[np.searchsorted(numbers.times, steps.times)]
        assert np.isin(steps.times, numbers.times).all()
        wrong = np.isfinite(steps.values) & ~(np.abs(steps.values - right) <= off)
        assert not wrong.any()


@pytest.mark.parametrize("name", list(NAMES))
@pytest.mark.parametrize("form", ["hdf5", "netcdf4", "netcdf3", "zip"])
@settings(some, max_examples=12)
@given(share=st.floats(0.0, 0.999))
def test_a_granule_that_is_cut_off_gives_no_wrong_number(tmp_path, name, form, share):
    numbers = NUMBERS[name]
    path, off = write(tmp_path, numbers, Encoding(form))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert_no_wrong_number(read_or_none(numbers, path), numbers, off)


# Among packed values a hole is known by its length: it takes more cells than a granule of a single step has here.
@pytest.mark.parametrize(
    ("name", "packing"),
    [("era5_land", "float32"), ("era5_land", "int16"), ("gldas_noah", "float32"), ("smap_l4", "float32")],
)
@settings(some, max_examples=30)
@given(place=st.floats(0.0, 1.0), length=st.integers(64, 4096).map(lambda n: n // 8 * 8))
def test_a_granule_with_a_hole_of_zeros_gives_no_wrong_number(tmp_path, name, packing, place, length):
    numbers = NUMBERS[name]
    path, off = write(tmp_path, numbers, Encoding("hdf5", packing))
    content = bytearray(path.read_bytes())
    # Disks and transfers lose whole blocks, which begin and end between numbers.
    start = int(place * (len(content) - length)) // 8 * 8 if length < len(content) else 0
    content[start : start + length] = bytes(len(content[start : start + length]))
    path.write_bytes(content)
    assert_no_wrong_number(read_or_none(numbers, path), numbers, off)


@pytest.mark.parametrize("name", list(NAMES))
@settings(some, max_examples=20)
@given(where=st.floats(0.0, 0.999), bit=st.integers(0, 7))
def test_a_bit_that_is_flipped_under_a_checksum_is_noticed(tmp_path, name, where, bit):
    numbers = NUMBERS[name]
    path, _ = write(tmp_path, numbers, Encoding("hdf5", checksums=True))
    with h5py.File(path) as file:
        chunk = file[numbers.product.variables[0][0]].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + int(where * chunk.size)] ^= 1 << bit
    path.write_bytes(content)
    with pytest.raises(GranuleError, match="damaged"):
        numbers.product.read(path, numbers.window, DAYS)


def test_a_member_of_an_ensemble_is_not_chosen_by_chance(tmp_path):
    numbers = NUMBERS["era5_land"]
    made, _ = dataset(numbers, Encoding(extra_axis="number"))
    path = tmp_path / NAMES["era5_land"]
    made.isel(number=[0, 0]).to_netcdf(path, engine="h5netcdf")
    with pytest.raises(
        GranuleError, match=r"swvl1 has the axes time 24, number 2, latitude 8, longitude 11; expected are time 24"
    ):
        numbers.product.read(path, numbers.window, DAYS)


def test_whole_numbers_without_a_scale_are_refused(tmp_path):
    numbers = NUMBERS["era5_land"]
    made, _ = dataset(numbers, Encoding(packing="int16"))
    del made.swvl2.attrs["scale_factor"], made.swvl2.attrs["add_offset"]
    made.to_netcdf(tmp_path / NAMES["era5_land"], engine="h5netcdf")
    with pytest.raises(GranuleError, match=r"holds swvl2 as whole numbers \(int16\) without a scale_factor"):
        PRODUCTS["era5_land"].read(tmp_path / NAMES["era5_land"], numbers.window, DAYS)


def test_hours_are_read_one_by_one_and_checked_together(tmp_path):
    numbers = NUMBERS["era5_land"]
    made, _ = dataset(numbers, Encoding(packing="int16"))
    path = tmp_path / NAMES["era5_land"]
    made.to_netcdf(path, engine="h5netcdf")
    assert [piece.times.size for piece in numbers.product.read_pieces(path, numbers.window, DAYS)] == [1] * 24
    # A hole that is long enough only over the end of an hour.
    made.swvl2[2, -1, -9:] = 0
    made.swvl2[3, 0, :9] = 0
    made.to_netcdf(path, engine="h5netcdf")
    pieces = numbers.product.read_pieces(path, numbers.window, DAYS)
    with pytest.raises(GranuleError, match="swvl2 has a hole of zeros among its packed values"):
        list(pieces)


def test_a_zero_is_a_hole_where_any_other_hour_is_moist(tmp_path):
    numbers = NUMBERS["era5_land"]
    made, _ = dataset(numbers, Encoding())
    made.swvl1[2:4, 0, 0] = 0.0
    # A desert.
    made.swvl1[:, 1, 1] = 0.0
    made.swvl1[5, 1, 1] = 0.005
    # And dry soil below moist soil.
    made.swvl2[:, 2, 2] = 0.0
    path = tmp_path / NAMES["era5_land"]
    made.to_netcdf(path, engine="h5netcdf")
    found = read(numbers, path).values
    assert np.flatnonzero(np.isnan(found[:, 0, 0, 0])).tolist() == [2, 3]
    assert np.isfinite(found[:, 0, 1, 1]).all()
    assert np.isnan(found[:, 1, 2, 2]).all()
