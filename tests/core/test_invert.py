"""``invert`` against a dense Gaussian posterior, ``lsq_linear`` and SLSQP, and its properties."""

import deepprofile as dp
import numpy as np
import pytest
import xarray as xr
from deepprofile.core.basis import basis_at, basis_mean
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import lsq_linear, minimize

from tests.conftest import LAYERS, exact_projection, make_product, make_variances, random_products

TOP = np.array([a for layers in LAYERS.values() for a, _ in layers])
BOTTOM = np.array([b for layers in LAYERS.values() for _, b in layers])
WIDE = (0.0, 1.0)


def observed(products):
    """(cell, time, observation) in the order of the products."""
    parts = [p.transpose("cell", "time", "layer").values for p in products.values()]
    return np.concatenate(parts, axis=-1)


def dense_gain(use, variances, prior, count=2000):
    """Gain of these observations on a fine grid of depths, their operator, the prior covariance, and the grid."""
    depth = (np.arange(count) + 0.5) / count
    cov = prior.std**2 * prior.kernel(depth[:, None], depth)
    inside = (depth >= TOP[use, None]) & (depth < BOTTOM[use, None])
    h = inside / inside.sum(axis=1, keepdims=True)
    gain = cov @ h.T @ np.linalg.inv(h @ cov @ h.T + np.diag(variances[use]))
    return gain, h, cov, depth


def dense_posterior(y, variances, prior):
    """Mean and covariance of theta on a fine grid of depths, with the grid."""
    use = np.isfinite(y) & np.isfinite(variances)
    gain, h, cov, depth = dense_gain(use, variances, prior)
    return prior.mean + gain @ (y[use] - prior.mean), cov - gain @ h @ cov, depth


@pytest.mark.parametrize("length", [0.1, 0.3])
def test_map_is_the_projection_of_the_dense_posterior(length):
    products = random_products(np.random.default_rng(0), days=6, cells=2, missing=0.25)
    variances = np.linspace(0.02, 0.05, 9) ** 2
    prior = dp.Prior(mean=0.25, std=0.06, correlation_length=length)
    profile = dp.invert(products, make_variances(products, variances), prior=prior, bounds=WIDE)
    y = observed(products)
    for cell in range(2):
        for day in range(6):
            mean, cov, depth = dense_posterior(y[cell, day], variances, prior)
            project = exact_projection(depth, 5)
            one = profile.isel(cell=cell, time=day)
            np.testing.assert_allclose(one.coefficients, project @ mean, atol=2e-5)
            ours = profile.posterior_covariance.isel(cell=cell, availability=int(one.pattern))
            np.testing.assert_allclose(ours, project @ cov @ project.T, atol=4e-6)


def test_map_comes_close_to_the_dense_posterior_at_layers():
    products = random_products(np.random.default_rng(1), days=3, cells=1)
    prior = dp.Prior(mean=0.25, std=0.05, correlation_length=0.3)
    profile = dp.invert(products, make_variances(products, 0.03**2), prior=prior, bounds=WIDE)
    y = observed(products)
    for day in range(3):
        mean, _, depth = dense_posterior(y[0, day], np.full(9, 0.03**2), prior)
        for a, b in ((0.0, 0.1), (0.1, 0.4), (0.4, 1.0)):
            ours = float(profile.isel(cell=0, time=day).deepprofile.mean(a, b))
            assert ours == pytest.approx(mean[(depth >= a) & (depth < b)].mean(), abs=4e-3)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_wls_is_weighted_least_squares(order):
    products = random_products(np.random.default_rng(2), days=8, cells=2, missing=0.15)
    variances = np.linspace(0.02, 0.05, 9) ** 2
    profile = dp.invert(products, make_variances(products, variances), method="wls", order=order, bounds=WIDE)
    y, design = observed(products), basis_mean(TOP, BOTTOM, order)
    for cell in range(2):
        for day in range(8):
            use = np.isfinite(y[cell, day])
            if np.linalg.matrix_rank(design[use]) <= order:
                continue
            weight = 1.0 / np.sqrt(variances[use])
            peer = lsq_linear(weight[:, None] * design[use], weight * y[cell, day, use])
            np.testing.assert_allclose(profile.coefficients.isel(cell=cell, time=day), peer.x, atol=1e-8)


@pytest.mark.parametrize(("names", "degree"), [(["smap_l3"], 0), (["smap_l4"], 1), (["gldas_noah"], 2), (list(LAYERS), 2)])
def test_wls_drops_the_degrees_that_the_layers_do_not_determine(names, degree):
    products = {name: p for name, p in random_products(np.random.default_rng(3)).items() if name in names}
    profile = dp.invert(products, make_variances(products, 0.03**2), method="wls", order=2)
    assert (profile.coefficients.isel(degree=slice(degree + 1, None)) == 0.0).all()
    assert (profile.coefficients.isel(degree=degree) != 0.0).all()
    assert bool(profile.deepprofile.flag("lower_order").all()) == (degree < 2)


@pytest.mark.parametrize(
    ("names", "order"),
    [(["gldas_noah"], 1), (["smap_l3", "era5_land"], 1), (["gldas_noah", "era5_land"], 2), (list(LAYERS), 2)],
)
def test_wls_is_straight_where_one_product_alone_reaches_deep(names, order):
    products = {name: p for name, p in random_products(np.random.default_rng(3)).items() if name in names}
    profile = dp.invert(products, make_variances(products, 0.03**2), method="wls")
    assert profile.sizes["degree"] == order + 1
    assert not profile.deepprofile.flag("lower_order").any()
    assert dp.invert(products, make_variances(products, 0.03**2)).sizes["degree"] == 6


@pytest.mark.parametrize("method", ["map", "wls"])
def test_active_bounds_agree_with_slsqp(method):
    rng = np.random.default_rng(4)
    products = random_products(rng, days=30, cells=1, spread=0.05)
    products = {name: (p - 0.2).clip(min=0.0) for name, p in products.items()}
    variances = np.full(9, 0.04**2)
    prior = dp.Prior(mean=0.05, std=0.06, correlation_length=0.2)
    errors, order = make_variances(products, variances), 5 if method == "map" else 2
    bounded = dp.invert(products, errors, method=method, order=order, prior=prior, bounds=(0.03, 0.08))
    free = dp.invert(products, errors, method=method, order=order, prior=prior, bounds=(0.0, 1.0))
    at_bound = (bounded.deepprofile.flag("at_lower_bound") | bounded.deepprofile.flag("at_upper_bound")).values[0]
    assert at_bound.sum() >= 10
    basis = basis_at(np.linspace(0.0, 1.0, 2001), order)
    y, design = observed(products)[0], basis_mean(TOP, BOTTOM, order)
    gain, _, _, depth = dense_gain(np.full(9, True), variances, prior, 4000)
    for day in np.flatnonzero(at_bound):
        if method == "map":
            precision = np.linalg.inv(free.posterior_covariance.values[0, int(free.pattern[0, day])])
            # The mean of the posterior without bounds, itself checked against the dense posterior above.
            mean = prior.mean + gain @ (y[day] - prior.mean)
            centre = exact_projection(depth, order) @ mean
        else:
            precision = design.T @ design / 0.04**2
            centre = np.linalg.lstsq(design, y[day], rcond=None)[0]
        scale = 1.0 / np.trace(precision)
        peer = minimize(
            lambda c, p=precision, m=centre, s=scale: s * (c - m) @ p @ (c - m),
            np.r_[0.05, np.zeros(order)],
            jac=lambda c, p=precision, m=centre, s=scale: 2 * s * p @ (c - m),
            method="SLSQP",
            constraints=[
                {"type": "ineq", "fun": lambda c: basis @ c - 0.03, "jac": lambda c: basis},
                {"type": "ineq", "fun": lambda c: 0.08 - basis @ c, "jac": lambda c: -basis},
            ],
            options={"maxiter": 500, "ftol": 1e-15},
        )
        np.testing.assert_allclose(basis @ bounded.coefficients.values[0, day], basis @ peer.x, atol=1e-4)


@given(
    seed=st.integers(0, 10_000),
    method=st.sampled_from(["map", "wls"]),
    order=st.integers(0, 7),
    low=st.floats(0.0, 0.2),
    width=st.floats(0.02, 0.6),
)
@settings(max_examples=60, deadline=None)
def test_bounds_hold_at_every_depth(seed, method, order, low, width):
    products = random_products(np.random.default_rng(seed), days=10, cells=2, missing=0.3, spread=0.15)
    products = {name: p.clip(0.0, 0.9).astype(np.float32) for name, p in products.items()}
    profile = dp.invert(products, make_variances(products, 0.02**2), method=method, order=order, bounds=(low, low + width))
    theta = profile.deepprofile.at(np.linspace(0.0, 1.0, 501)).values
    there = ~profile.deepprofile.flag("no_observation").values
    assert np.isfinite(theta[there]).all()
    assert np.nanmin(theta, initial=1.0) >= low - 1e-6
    assert np.nanmax(theta, initial=0.0) <= low + width + 1e-6


@given(seed=st.integers(0, 10_000), top=st.floats(0.0, 0.95), thickness=st.floats(0.01, 1.0))
@settings(max_examples=30, deadline=None)
def test_any_layer_mean_is_the_integral_of_at(seed, top, thickness):
    bottom = min(top + thickness, 1.0)
    products = random_products(np.random.default_rng(seed), days=3, cells=1)
    profile = dp.invert(products, make_variances(products, 0.03**2))
    node, weight = np.polynomial.legendre.leggauss(8)
    theta = profile.deepprofile.at(top + (bottom - top) * 0.5 * (node + 1.0))
    integral = (theta * xr.DataArray(0.5 * weight, dims="depth")).sum("depth")
    np.testing.assert_allclose(profile.deepprofile.mean(top, bottom), integral, atol=1e-12)


@pytest.mark.parametrize("method", ["map", "wls"])
def test_a_product_with_infinite_error_changes_nothing(method):
    products = random_products(np.random.default_rng(5))
    variances = make_variances(products, 0.03**2)
    variances[variances["product"] == "era5_land"] = np.inf
    fewer = {name: p for name, p in products.items() if name != "era5_land"}
    with_it = dp.invert(products, variances, method=method)
    without = dp.invert(fewer, make_variances(fewer, 0.03**2), method=method)
    np.testing.assert_allclose(with_it.coefficients, without.coefficients, atol=1e-12)
    assert not with_it.deepprofile.uses("era5_land").any()


@pytest.mark.parametrize("method", ["map", "wls"])
def test_the_order_of_products_changes_nothing(method, small_world):
    names = list(small_world.products)
    forward = dp.fuse(small_world.products, method=method)
    backward = dp.fuse({name: small_world.products[name] for name in reversed(names)}, method=method)
    np.testing.assert_allclose(forward.coefficients, backward.coefficients, atol=2e-6)
    deviation = [p.deepprofile.std_mean(0.1, 0.4) for p in (forward, backward)]
    np.testing.assert_allclose(*deviation, atol=2e-6)


def test_a_slice_of_time_inverts_to_the_slice_of_the_whole(small_world):
    errors = dp.estimate_errors(small_world.products)
    whole = dp.invert(small_world.products, errors)
    days = slice("2015-09-03", "2015-10-11")
    part = dp.invert({name: p.sel(time=days) for name, p in small_world.products.items()}, errors)
    np.testing.assert_array_equal(part.coefficients, whole.sel(time=days).coefficients)
    np.testing.assert_array_equal(part.deepprofile.std(0.2), whole.sel(time=days).deepprofile.std(0.2))


def test_a_deep_layer_that_hardly_varies_does_not_turn_the_layers_above_it_around():
    """A land model that damps its deepest layer tenfold: more water at 10-40 cm is not less water at 1 m."""
    rng = np.random.default_rng(21)
    signal = 0.25 + 0.04 * rng.standard_normal((200, 1, 1))
    values = signal + 0.01 * rng.standard_normal((200, 3, 1))
    values[:, 2] = 0.25 + 0.1 * (values[:, 2] - 0.25)
    products = {
        "gldas_noah": make_product(values, LAYERS["gldas_noah"]),
        "era5_land": make_product(values[:, :1] + 0.01 * rng.standard_normal((200, 1, 1)), LAYERS["era5_land"][:1]),
    }
    errors = dp.estimate_errors(products)
    wetter = dict(products)
    wetter["gldas_noah"] = products["gldas_noah"] + xr.DataArray([0.0, 0.01, 0.0], dims="layer")
    gain = [
        float((dp.invert(wetter, given).deepprofile.at(1.0) - dp.invert(products, given).deepprofile.at(1.0)).mean()) / 0.01
        for given in (errors, errors.drop_vars("variance"))
    ]
    assert abs(gain[0]) < 0.05 < -gain[1]


def test_a_day_without_observation_is_nan_and_flagged():
    products = random_products(np.random.default_rng(6), days=5, cells=2)
    products = {name: p.where((p.time != p.time[2]) | (p.cell != 1)) for name, p in products.items()}
    profile = dp.invert(products, make_variances(products, 0.03**2))
    empty = np.zeros((2, 5), dtype=bool)
    empty[1, 2] = True
    np.testing.assert_array_equal(profile.deepprofile.flag("no_observation"), empty)
    np.testing.assert_array_equal(np.isnan(profile.coefficients).all("degree"), empty)
    np.testing.assert_array_equal(np.isnan(profile.deepprofile.std(0.3)), empty)


def test_flags_say_what_was_used():
    products = random_products(np.random.default_rng(7), days=4, cells=1)
    products["smap_l3"] = products["smap_l3"].where(products["smap_l3"].time != products["smap_l3"].time[1])
    products["gldas_noah"][2, 0, 0] = np.nan
    profile = dp.invert(products, make_variances(products, 0.03**2))
    assert profile.deepprofile.uses("smap_l3").values[0].tolist() == [True, False, True, True]
    assert profile.deepprofile.flag("partial_product").values[0].tolist() == [False, False, True, False]
    row = profile.observed.isel(availability=int(profile.pattern[0, 2])).values
    assert row.tolist() == [True, True, False, True, True, True, True, True, True]


def test_prior_mean_is_the_error_weighted_time_mean_where_none_is_given():
    products = random_products(np.random.default_rng(14), days=50, cells=2, missing=0.2)
    variances = np.linspace(0.02, 0.06, 9) ** 2
    profile = dp.invert(products, make_variances(products, variances))
    means = np.nanmean(observed(products), axis=1)
    np.testing.assert_allclose(profile.prior_mean, (means / variances).sum(axis=1) / (1.0 / variances).sum(), rtol=1e-6)


def test_products_may_lack_days_and_come_at_any_hour():
    products = random_products(np.random.default_rng(8), days=10, cells=1)
    products["smap_l3"] = (
        products["smap_l3"].isel(time=[1, 4]).assign_coords(time=products["smap_l3"].time[[1, 4]] + np.timedelta64(6, "h"))
    )
    profile = dp.invert(products, make_variances(products, 0.03**2))
    assert profile.sizes["time"] == 10
    assert np.flatnonzero(profile.deepprofile.uses("smap_l3").values[0]).tolist() == [1, 4]


def test_lazy_input_gives_lazy_equal_output(small_world):
    eager = dp.fuse(small_world.products)
    lazy = dp.fuse({name: p.chunk(y=5, x=4, time=200) for name, p in small_world.products.items()})
    assert lazy.coefficients.chunks is not None
    computed = lazy.compute()
    np.testing.assert_array_equal(computed.coefficients.transpose(*eager.coefficients.dims), eager.coefficients)
    np.testing.assert_array_equal(computed.flags.transpose(*eager.flags.dims), eager.flags)
    np.testing.assert_allclose(
        lazy.deepprofile.std_mean(0.0, 0.1).transpose("y", "x", "time"), eager.deepprofile.std_mean(0.0, 0.1), rtol=1e-6
    )


def test_bounds_may_differ_from_cell_to_cell():
    products = random_products(np.random.default_rng(9), cells=3)
    porosity = xr.DataArray([0.24, 0.8, np.nan], dims="cell")
    profile = dp.invert(products, make_variances(products, 0.03**2), bounds=(0.0, porosity))
    theta = profile.deepprofile.at(np.linspace(0, 1, 50))
    assert float(theta.isel(cell=0).max()) <= 0.24 + 1e-6
    assert float(theta.isel(cell=1).max()) > 0.24
    assert profile.deepprofile.flag("no_observation").isel(cell=2).all()


def test_many_patterns_keep_exact_coefficients_and_a_cautious_covariance():
    products = random_products(np.random.default_rng(10), days=300, cells=1, missing=0.4)
    errors = make_variances(products, 0.03**2)
    profile = dp.invert(products, errors)
    assert profile.sizes["availability"] <= 64
    subset = profile.deepprofile.flag("subset_covariance").values[0]
    assert subset.any()
    day = int(np.flatnonzero(subset)[0])
    alone = dp.invert({name: p.isel(time=[day]) for name, p in products.items()}, errors, prior=dp.Prior(mean=0.25))
    same_prior = dp.invert(products, errors, prior=dp.Prior(mean=0.25))
    np.testing.assert_allclose(same_prior.coefficients[0, day], alone.coefficients[0, 0], atol=1e-12)
    assert float(same_prior.deepprofile.std(0.2)[0, day]) >= float(alone.deepprofile.std(0.2)[0, 0])


def test_result_survives_zarr(tmp_path, small_world):
    profile = dp.fuse(small_world.products)
    profile.to_zarr(tmp_path / "profile.zarr", consolidated=False, zarr_format=3)
    back = xr.open_zarr(tmp_path / "profile.zarr", consolidated=False)
    xr.testing.assert_equal(back.compute(), profile)
    days = {"time": slice(10, 20)}
    np.testing.assert_allclose(
        back.isel(days).deepprofile.interval(0.9, depth=0.3).upper,
        profile.isel(days).deepprofile.interval(0.9, depth=0.3).upper,
    )
    assert back.attrs["prior_std"] == dp.Prior().std
    assert back.deepprofile.uses("smap_l3").any()


class TestMessages:
    """Every wrong input is told with what to do about it."""

    @staticmethod
    def products():
        return random_products(np.random.default_rng(11), days=5, cells=1)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                lambda p: p.assign_coords(layer_top=("layer", [0.1, 0.4, 1.0]), layer_bottom=("layer", [0.0, 0.1, 0.4])),
                "bottom at",
            ),
            (lambda p: p.assign_coords(layer_bottom=("layer", [0.1, 0.4, 2.0])), "below 1 m"),
            (lambda p: p * 100.0, "percent: divide by 100"),
            (lambda p: p.assign_attrs(units="%"), "divide it by 100"),
            (lambda p: p.assign_attrs(units="kg m-2"), "1000 x its thickness"),
            (lambda p: p.drop_vars("layer_top"), "no coordinate 'layer_top'"),
            (lambda p: p.isel(time=[0, 1, 1, 2]), "2016-01-02 more than once"),
            (lambda p: p.rename(time="day"), "it needs 'time' and 'layer'"),
            (lambda p: p.isel(cell=0), "same cells first"),
        ],
    )
    def test_of_a_product(self, change, message):
        products = self.products()
        products["gldas_noah"] = change(products["gldas_noah"])
        with pytest.raises(ValueError, match=message) as caught:
            dp.fuse(products)
        assert "gldas_noah" in str(caught.value)

    def test_of_one_product_only(self):
        products = {"era5_land": self.products()["era5_land"]}
        for function in (dp.fuse, dp.estimate_errors):
            with pytest.raises(ValueError, match="only the product 'era5_land'"):
                function(products)

    def test_of_no_common_day(self):
        products = {
            name: p.assign_coords(time=p.time + np.timedelta64(100 * i, "D"))
            for i, (name, p) in enumerate(self.products().items())
        }
        for function in (dp.fuse, dp.estimate_errors):
            with pytest.raises(ValueError, match="no day in common"):
                function(products)

    def test_of_common_days_without_values(self):
        products = self.products()
        products = {name: p.where(p.time.dt.day == 1 + i) for i, (name, p) in enumerate(products.items())}
        with pytest.raises(ValueError, match="no day in common on which two"):
            dp.estimate_errors(products)

    def test_of_choices(self):
        products = self.products()
        errors = make_variances(products, 0.03**2)
        with pytest.raises(ValueError, match="method is 'kriging'; it is 'map'"):
            dp.invert(products, errors, method="kriging")
        with pytest.raises(ValueError, match="from 0 to 7"):
            dp.invert(products, errors, order=9)
        with pytest.raises(ValueError, match="lower bound is at or above"):
            dp.invert(products, errors, bounds=(0.5, 0.4))
        with pytest.raises(ValueError, match="negative or zero"):
            dp.invert(products, -errors)
        with pytest.raises(ValueError, match=r"nothing for the layer 0.28 to 1 m of 'era5_land'"):
            dp.invert(products, errors.isel(observation=[0, 1, 2, 3, 4, 5, 6, 8]))
        with pytest.raises(ValueError, match="is empty"):
            dp.fuse({})

    def test_of_depths(self):
        products = self.products()
        profile = dp.invert(products, make_variances(products, 0.03**2))
        for call in (
            lambda: profile.deepprofile.at(1.2),
            lambda: profile.deepprofile.at([0.1, -0.1]),
            lambda: profile.deepprofile.std(np.nan),
            lambda: profile.deepprofile.mean(0.5, 1.5),
        ):
            with pytest.raises(ValueError, match="profiles reach from 0 to 1 m"):
                call()
        with pytest.raises(ValueError, match="bottom at or above its top"):
            profile.deepprofile.storage(0.4, 0.1)
        with pytest.raises(ValueError, match="probability between 0 and 1"):
            profile.deepprofile.interval(90, depth=0.1)
        with pytest.raises(KeyError, match="no flag 'uses_cci'"):
            profile.deepprofile.uses("cci")


def test_accessor_dimensions_and_units():
    products = random_products(np.random.default_rng(12), days=4, cells=2)
    profile = dp.invert(products, make_variances(products, 0.03**2))
    view = profile.deepprofile
    assert view.at(0.3).dims == ("cell", "time")
    assert view.at([0.3, 0.4]).sizes["depth"] == 2
    assert view.std([0.3, 0.4]).sizes["depth"] == 2
    np.testing.assert_allclose(view.storage(0.0, 1.0), 1000.0 * view.mean(0.0, 1.0))
    np.testing.assert_allclose(view.std_storage(0.1, 0.4), 300.0 * view.std_mean(0.1, 0.4))
    assert view.storage(0.0, 1.0).attrs["units"] == "mm"
    names = [
        f.attrs["standard_name"] for f in (view.at(0.1), view.std(0.1), view.storage(0.0, 1.0), view.std_storage(0.0, 1.0))
    ]
    water, thickness = "volume_fraction_of_condensed_water_in_soil", "lwe_thickness_of_moisture_content_of_soil_layer"
    assert names == [water, f"{water} standard_error", thickness, f"{thickness} standard_error"]
    interval = view.interval(0.9, depth=0.3)
    np.testing.assert_allclose(0.5 * (interval.lower + interval.upper), view.at(0.3), atol=1e-9)
    np.testing.assert_allclose(interval.upper - interval.lower, 2 * 1.6448536 * view.std(0.3), rtol=1e-6)
    clipped = view.mean_interval(0.9999999, 0.0, 0.05)
    assert float(clipped.lower.min()) >= 0.0
    assert float(clipped.upper.max()) <= 0.8
    with pytest.raises(ValueError, match="no profile"):
        _ = xr.Dataset().deepprofile


def test_free_names_and_dimension_orders():
    rng = np.random.default_rng(13)
    layers = ((0.0, 0.2), (0.2, 0.6))
    a = make_product(rng.normal(0.2, 0.02, (2, 3, 30)), layers, dims=("layer", "cell", "time"))
    b = make_product(rng.normal(0.2, 0.02, (30, 1, 3)), ((0.0, 0.1),))
    products = {"my model": a, "b": b}
    profile = dp.invert(products, make_variances(products, 0.03**2))
    assert profile.coefficients.dims == ("cell", "time", "degree")
    assert profile.deepprofile.uses("my model").all()


# Three products of six layers each: 18 observations, more than 16 bits hold.
SIX_LAYERS = ((0.0, 0.05), (0.05, 0.1), (0.1, 0.2), (0.2, 0.4), (0.4, 0.7), (0.7, 1.0))


def products_with_patterns(codes, rng):
    """Three products whose day k of cell c has the observations that are the bits of ``codes[k, c]``, and those as booleans."""
    there = (codes[..., None] >> np.arange(18) & 1).astype(bool)
    values = np.where(there, rng.normal(0.25, 0.02, there.shape), np.nan)
    parts = {name: values[..., 6 * k : 6 * k + 6].transpose(0, 2, 1) for k, name in enumerate("abc")}
    return {name: make_product(part, SIX_LAYERS) for name, part in parts.items()}, there


def whole_products(codes):
    """Whether each pattern consists of whole products."""
    return np.isin(codes, [sum(0b111111 << 6 * k for k in range(3) if which >> k & 1) for which in range(8)])


@pytest.mark.parametrize("method", ["map", "wls"])
def test_more_patterns_than_16_bits_count_are_solved_right(method):
    rng = np.random.default_rng(20)
    codes = rng.choice(2**18, 72_000, replace=False).reshape(36_000, 2)
    codes[[5, -5], 0] = 0b111111_000000_111111
    products, there = products_with_patterns(codes, rng)
    variances, prior = np.linspace(0.02, 0.05, 18) ** 2, dp.Prior(mean=0.25, std=0.06, correlation_length=0.3)
    errors = make_variances(products, variances)
    profile = dp.invert(products, errors, method=method, order=2, prior=prior, bounds=WIDE).transpose("time", "cell", ...)
    # What a covariance is made from was observed on the day, and the flag says where that was not all.
    listed = profile.observed.values[profile.pattern.values]
    subset = profile.deepprofile.flag("subset_covariance").values
    assert not (listed & ~there).any()
    np.testing.assert_array_equal(subset, (listed != there).any(-1))
    np.testing.assert_array_equal(subset, ~whole_products(codes))
    values = observed(products).transpose(1, 0, 2)
    top, bottom = (np.tile([layer[k] for layer in SIX_LAYERS], 3) for k in (0, 1))
    design = basis_mean(top, bottom, 2)
    depth = (np.arange(2000) + 0.5) / 2000
    prior_cov = prior.std**2 * prior.kernel(depth[:, None], depth)
    mean_of = (depth >= top[:, None]) & (depth < bottom[:, None])
    mean_of = mean_of / mean_of.sum(axis=1, keepdims=True)
    project = exact_projection(depth, 2)
    compared = 0
    for day in (0, 5, 17_000, 35_000, 35_995, *range(35_900, 35_940)):
        for cell in range(2):
            use = there[day, cell]
            if method == "map":
                h, y = mean_of[use], values[day, cell, use]
                gain = prior_cov @ h.T @ np.linalg.inv(h @ prior_cov @ h.T + np.diag(variances[use]))
                peer = project @ (0.25 + gain @ (y - 0.25))
            elif np.linalg.matrix_rank(design[use]) < 3:
                continue
            else:
                weight = 1.0 / np.sqrt(variances[use])
                peer = np.linalg.lstsq(weight[:, None] * design[use], weight * values[day, cell, use], rcond=None)[0]
            theta = basis_at(np.linspace(0.0, 1.0, 101), 2) @ peer
            if theta.min() > 0.001 and theta.max() < 0.999:
                np.testing.assert_allclose(profile.coefficients.values[day, cell], peer, atol=2e-5 if method == "map" else 1e-9)
                compared += 1
    assert compared > 80


@pytest.mark.parametrize("count", [64, 65])
def test_as_many_patterns_as_are_kept_have_their_own_covariance_and_one_more_has_not(count):
    rng = np.random.default_rng(21)
    codes = np.resize(rng.choice(np.arange(1, 2**17), count, replace=False), (150, 1))
    products, there = products_with_patterns(codes, rng)
    profile = dp.invert(products, make_variances(products, 0.03**2), prior=dp.Prior(mean=0.25))
    assert profile.sizes["availability"] == (64 if count == 64 else 8)
    listed = profile.observed.values[profile.pattern.values[0]]
    assert not (listed & ~there[:, 0]).any()
    assert (listed == there[:, 0]).all() == (count == 64)
    assert profile.deepprofile.flag("subset_covariance").any() == (count == 65)


def test_patterns_do_not_depend_on_the_order_of_the_days_nor_on_layers_that_are_not_used():
    rng = np.random.default_rng(22)
    codes = rng.choice(2**18, 400, replace=False).reshape(200, 2)
    # All of the first product is there but its last layer, which no cell uses: that is the whole product.
    codes[100] = codes[7] = 0b011111
    products, _ = products_with_patterns(codes, rng)
    variances = np.full(18, 0.03**2)
    variances[5] = np.inf
    errors, prior = make_variances(products, variances), dp.Prior(mean=0.25)
    forward = dp.invert(products, errors, prior=prior)
    turned = {name: p.isel(time=slice(None, None, -1)).assign_coords(time=p.time) for name, p in products.items()}
    backward = dp.invert(turned, errors, prior=prior).isel(time=slice(None, None, -1))
    for name in ("coefficients", "flags", "pattern", "observed"):
        np.testing.assert_array_equal(forward[name], backward[name])
    assert not forward.deepprofile.flag("subset_covariance").values[:, [7, 100]].any()
    alone = dp.invert({name: p.isel(time=[7]) for name, p in products.items()}, errors, prior=prior)
    np.testing.assert_allclose(forward.deepprofile.std(0.3)[:, 7], alone.deepprofile.std(0.3)[:, 0], rtol=1e-12)
