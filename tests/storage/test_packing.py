import numpy as np
import pytest
import xarray as xr
from deepprofile.storage.packing import Packing, PackingError
from deepprofile.storage.stores import StoreError, Template, Variable, create, read_region, write_shards

SIGNED = Packing("int16", 3.2e-5)
SHIFTED = Packing("uint16", 2.0**-15, -0.5)
WIDE = Packing("int32", 2.0**-20)


def values(low, high, shape=(5, 4, 3, 2), seed=0):
    rng = np.random.default_rng(seed)
    found = rng.uniform(low, high, shape).astype(np.float32)
    return np.where(rng.random(shape) < 0.2, np.float32(np.nan), found)


@pytest.mark.parametrize("packing", [SIGNED, SHIFTED, WIDE])
def test_values_come_back_within_half_a_step_and_missing_ones_as_missing(packing):
    given = values(*packing.limits) if packing is not WIDE else values(-1.0, 1.0)
    found = packing.round_trip(given)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, given, atol=0.501 * packing.scale + 1e-7)
    # What has been read is written with the same codes.
    np.testing.assert_array_equal(packing.encode(found), packing.encode(given))


@pytest.mark.parametrize("packing", [SIGNED, SHIFTED])
def test_every_code_comes_back(packing):
    low, high = packing.codes
    codes = np.r_[packing.fill, np.arange(low, high + 1)].astype(packing.dtype)
    decoded = np.empty(codes.shape, np.float32)
    packing.decode(codes, decoded)
    assert np.isnan(decoded).sum() == 1
    np.testing.assert_array_equal(packing.encode(decoded), codes)


@pytest.mark.parametrize("wrong", [1.06, -1.06, np.inf, -np.inf])
def test_a_value_that_does_not_fit_is_an_error_and_never_wrapped(wrong):
    with pytest.raises(PackingError, match=r"1 values do not fit, such as .*inf|1\.06.*holds -1\.04854 to 1\.04854"):
        SIGNED.encode(np.array([0.2, wrong, np.nan], np.float32))


def test_codes_do_not_depend_on_strides():
    given = values(-1.0, 1.0, (6, 5, 4, 3))
    turned = given.transpose(2, 3, 0, 1)
    np.testing.assert_array_equal(SIGNED.encode(turned), SIGNED.encode(np.ascontiguousarray(turned)))
    out = np.empty((3, 6, 4, 5), np.float32).transpose(2, 0, 1, 3)
    SIGNED.decode(SIGNED.encode(turned), out)
    np.testing.assert_array_equal(out, SIGNED.round_trip(turned))


def test_more_dimensions_are_translated_part_after_part():
    given = values(-1.0, 1.0, (2, 3, 4, 3, 2, 2))
    codes = SIGNED.encode(given)
    np.testing.assert_array_equal(codes.reshape(-1), SIGNED.encode(given.reshape(-1)))
    np.testing.assert_array_equal(SIGNED.round_trip(given).reshape(-1), SIGNED.round_trip(given.reshape(-1)))


def packed(packing):
    return Template(
        sizes={"time": 6, "x": 5},
        variables={"theta": Variable(("time", "x"), "float32", shards=(4, 4), chunks=(2, 2), packing=packing)},
        attrs={},
    )


@pytest.mark.parametrize("packing", [SIGNED, SHIFTED, WIDE])
def test_xarray_reads_what_we_read(tmp_path, packing):
    url, given = str(tmp_path / "a.zarr"), values(-0.4, 1.0, (6, 5))
    create(url, packed(packing))
    write_shards(url, "theta", (0, 0), given)
    ours = read_region(url, "theta", (slice(None), slice(None)))
    opened = xr.open_zarr(url, chunks=None)["theta"]
    np.testing.assert_allclose(opened.values, ours, rtol=1e-6, atol=1e-9)
    assert opened.encoding["_FillValue"] == packing.fill


def test_what_was_never_written_is_missing_for_xarray_too(tmp_path):
    url = str(tmp_path / "a.zarr")
    create(url, packed(SIGNED))
    assert np.isnan(xr.open_zarr(url, chunks=None)["theta"].values).all()
    assert np.isnan(read_region(url, "theta", (slice(None),))).all()


def test_a_store_says_which_array_a_value_does_not_fit(tmp_path):
    url = str(tmp_path / "a.zarr")
    create(url, packed(SIGNED))
    with pytest.raises(
        StoreError, match=r"a\.zarr/theta: 1 values do not fit, such as 35: int16 with the scale 3\.2e-05 holds"
    ):
        write_shards(
            url, "theta", (0, 0), np.where(np.eye(4, 4, dtype=bool) & (np.arange(4) == 2), 35.0, 0.2).astype(np.float32)
        )
