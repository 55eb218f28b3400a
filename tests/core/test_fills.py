"""Values that cannot be: refused at once, or when a lazy array is computed, in the same words."""

import re

import deepprofile as dp
import numpy as np
import pytest
import xarray as xr
from deepprofile.core.fills import beyond_soil_moisture, stands_for_missing
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import make_variances, random_products

FUNCTIONS = {
    "fuse": dp.fuse,
    "estimate_errors": dp.estimate_errors,
    "invert": lambda products: dp.invert(products, make_variances(products, 0.001)),
}


def products(dtype=np.float32):
    return random_products(np.random.default_rng(5), days=130, cells=3, dtype=dtype)


def with_value(value, where=(slice(40, 70),), dtype=np.float32):
    found = products(dtype)
    found["gldas_noah"] = found["gldas_noah"].copy()
    found["gldas_noah"].values[where] = value
    return found


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (-9999.0, r"values down to -9999: .* set it to NaN, for example da.where\(da > -0.5\)"),
        (-99.0, "values down to -99: "),
        (-1.0, "values down to -1: "),
        (-0.51, "values down to -0.51: "),
        (-np.inf, "values down to -inf: "),
        (1e20, r"values up to 1e\+20: .* set it to NaN, for example da.where\(da < 1.5\)"),
        (np.inf, "values up to inf: "),
        (25.0, "values up to 25: .*percent: divide by 100"),
        (1.6, "values up to 1.6: "),
    ],
)
def test_a_value_that_no_soil_has_is_refused(function, lazy, value, message):
    given = with_value(value)
    if not lazy:
        with pytest.raises(ValueError, match=f"product 'gldas_noah' holds {message}"):
            function(given)
        return
    made = function({name: p.chunk(time=50, cell=2) for name, p in given.items()})
    assert any(v.chunks is not None for v in made.values())
    with pytest.raises(ValueError, match=f"product 'gldas_noah' holds {message}"):
        made.compute()


def test_lazy_and_eager_say_the_same():
    given = with_value(-9999.0)
    with pytest.raises(ValueError, match="gldas_noah") as eager:
        dp.fuse(given)
    with pytest.raises(ValueError, match="gldas_noah") as lazy:
        dp.fuse({name: p.chunk(time=50) for name, p in given.items()}).compute()
    assert str(lazy.value) == str(eager.value)


@pytest.mark.parametrize("lazy", [False, True])
def test_one_value_among_all_is_found(lazy):
    given = with_value(-9999.0, (17, 2, 1))
    if lazy:
        given = {name: p.chunk(time=30, cell=1) for name, p in given.items()}
    with pytest.raises(ValueError, match="'gldas_noah' holds values down to -9999"):
        dp.fuse(given).compute()


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [-0.5, -0.01, -1e-6, 0.0, 1.0, 1.5])
def test_values_at_the_limits_are_used(value, dtype, lazy):
    given = with_value(value, dtype=dtype)
    if lazy:
        given = {name: p.chunk(time=50) for name, p in given.items()}
    flags = dp.fuse(given).isel(time=slice(40, 70)).deepprofile.uses("gldas_noah").compute()
    assert bool(flags.all())


@pytest.mark.parametrize("lazy", [False, True])
def test_a_product_that_is_missing_throughout_is_no_fault(lazy):
    given = with_value(np.nan, ...)
    if lazy:
        given = {name: p.chunk(time=50) for name, p in given.items()}
    out = dp.fuse(given).compute()
    assert not bool(out.deepprofile.uses("gldas_noah").any())
    assert bool(np.isfinite(out.coefficients).all())


def test_low_and_high_values_are_both_said():
    text = beyond_soil_moisture(np.array([-9999.0, 35.0, np.nan]))
    assert text.startswith("values down to -9999: ")
    assert " and values up to 35: " in text


LAYOUTS = {
    "as it is": lambda a: a,
    "transposed": lambda a: a.transpose(2, 0, 1),
    "backwards": lambda a: a[::-1, :, ::-1],
    "every second": lambda a: np.repeat(a, 2, axis=2)[:, :, ::2],
    "other byte order": lambda a: a.astype(a.dtype.newbyteorder()),
    "repeated": lambda a: np.broadcast_to(a, (2, *a.shape)),
    "half precision": lambda a: a.astype(np.float16),
    "read only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
}


@settings(max_examples=60, deadline=None)
@given(
    layout=st.sampled_from(sorted(LAYOUTS)),
    shape=st.tuples(*[st.integers(1, 5)] * 3),
    dtype=st.sampled_from([np.float32, np.float64]),
    value=st.sampled_from([-99.0, 2.0, np.inf]),
    data=st.data(),
)
def test_every_value_is_looked_at_in_every_layout(layout, shape, dtype, value, data):
    values = np.full(shape, 0.3, dtype)
    assert beyond_soil_moisture(LAYOUTS[layout](values)) == ""
    values[tuple(data.draw(st.integers(0, n - 1)) for n in shape)] = value
    assert f" {value:g}: " in beyond_soil_moisture(LAYOUTS[layout](values))


def test_the_last_value_of_a_large_array_is_looked_at():
    values = np.full((1500, 1001), 0.3, np.float32)
    assert beyond_soil_moisture(values) == ""
    values[-1, -1] = -9999.0
    assert beyond_soil_moisture(values).startswith("values down to -9999")
    assert beyond_soil_moisture(values[:, ::2]).startswith("values down to -9999")


def series(value=None, offset=0.25, spread=0.05, days=200):
    rng = np.random.default_rng(3)
    truth = rng.normal(offset, spread, (2, days))
    made = [xr.DataArray(truth + rng.normal(0, 0.3 * spread, truth.shape), dims=("cell", "time")) for _ in range(3)]
    if value is not None:
        made[1][0, 20:30] = value
    return made


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        (-9999.0, "y.where(y != -9999)"),
        (-99.0, "y.where(y != -99)"),
        (9999.0, "y.where(y != 9999)"),
        (1e20, "y.where(y != 1e+20)"),
        (-np.inf, "y.where(numpy.isfinite(y))"),
    ],
)
def test_triple_collocation_refuses_what_stands_for_missing(value, remedy, lazy):
    x, y, z = series(value)
    if lazy:
        x, y, z = (v.chunk(cell=1) for v in (x, y, z))
    with pytest.raises(ValueError, match=re.escape(remedy)):
        dp.triple_collocation(x, y, z).compute()


@pytest.mark.parametrize(("offset", "spread"), [(-99.0, 5.0), (-999.0, 300.0), (30.0, 8.0), (1.2e5, 4e4), (9999.0, 50.0)])
def test_triple_collocation_takes_any_units(offset, spread):
    # Matric potentials, percent, discharge: what they hold by the way is not taken for a fill value.
    x, y, z = (np.round(v) for v in series(None, offset, spread))
    x[0, 0] = round(offset)
    assert (dp.triple_collocation(x, y, z).status == 0).all()


def test_a_fill_value_is_told_from_a_value_by_the_gap_before_it():
    assert stands_for_missing(np.array([-99.0, -60.0, -20.0, -1.0])) is None
    assert stands_for_missing(np.array([-99.0, 5.0, 40.0, np.nan])) == -99.0
    assert stands_for_missing(np.array([np.nan, np.nan])) is None
    assert stands_for_missing(np.array([-999.0, -999.0])) == -999.0
