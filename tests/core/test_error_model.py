"""The error model on worlds whose errors are known."""

import deepprofile as dp
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from deepprofile.core.error_model import TYPICAL_NOISE, plan_comparisons
from deepprofile.core.layers import overlap_weights, stack_products

from tests.conftest import LAYERS, make_product, random_products


def known_world(rng, days=3000, cells=6, errors=None, l3_days=None):
    """One signal at all depths, white errors of known size."""
    errors = errors or {"smap_l4": 0.04, "gldas_noah": 0.05, "era5_land": 0.03, "smap_l3": 0.035}
    signal = 0.25 + 0.05 * rng.standard_normal((days, 1, cells))
    products = {}
    for name, layers in LAYERS.items():
        values = signal + errors[name] * rng.standard_normal((days, len(layers), cells))
        products[name] = make_product(values.astype(np.float32), layers)
    if l3_days is not None:
        products["smap_l3"] = products["smap_l3"].where(products["smap_l3"].time.isin(products["smap_l3"].time[l3_days]))
    return products


def test_recovers_known_error_variances():
    products = known_world(np.random.default_rng(0))
    errors = dp.estimate_errors(products)
    assert (errors.status == 0).all()
    # White errors of known size; the noise-to-signal ratio is the true one to the power 0.6, the typical one to the power 0.4.
    expected = {"gldas_noah": 0.05, "era5_land": 0.03, "smap_l3": 0.035}
    for name, std in expected.items():
        found = errors.error_variance.where(errors["product"] == name, drop=True)
        np.testing.assert_allclose(found, (std**2 / 0.05**2) ** 0.6 * TYPICAL_NOISE**0.4 * 0.05**2, rtol=0.1)
        r2 = errors.r_squared.where(errors["product"] == name, drop=True)
        np.testing.assert_allclose(r2, 0.05**2 / (0.05**2 + std**2), atol=0.05)
    np.testing.assert_allclose(errors.fmse, 1.0 - errors.r_squared)
    np.testing.assert_allclose(errors["mean"], 0.25, atol=0.005)


def test_a_worse_product_gets_a_larger_error():
    rng = np.random.default_rng(1)
    errors = dp.estimate_errors(
        known_world(rng, errors={"smap_l4": 0.02, "gldas_noah": 0.08, "era5_land": 0.02, "smap_l3": 0.03})
    )
    by_product = errors.error_variance.mean("cell").groupby("product").mean()
    assert float(by_product.sel(product="gldas_noah")) > 4 * float(by_product.sel(product="era5_land"))


def test_bias_variance_tells_a_biased_product():
    products = known_world(np.random.default_rng(2), days=400, cells=40)
    offset = xr.DataArray(0.08 * np.random.default_rng(3).standard_normal(40).astype(np.float32), dims="cell")
    products["gldas_noah"] = products["gldas_noah"] + offset
    errors = dp.estimate_errors(products)
    bias = errors.bias_variance.mean("cell").groupby("product").mean()
    # Cautious by design: forty cells count as four independent ones, against a prior of 0.033.
    assert 0.4 * 0.08**2 < float(bias.sel(product="gldas_noah")) < 1.1 * 0.08**2
    for other in ("smap_l4", "era5_land", "smap_l3"):
        assert float(bias.sel(product="gldas_noah")) > 6 * float(bias.sel(product=other))


def test_an_offset_of_the_whole_region_does_not_hide_who_is_consistent():
    rng = np.random.default_rng(8)
    products = known_world(np.random.default_rng(2), days=400, cells=60)
    for name, regional in (("gldas_noah", 0.03), ("era5_land", 0.03)):
        offset = regional + 0.05 * rng.standard_normal(60)
        products[name] = products[name] + xr.DataArray(offset.astype(np.float32), dims="cell")
    errors = dp.estimate_errors(products)
    bias = errors.bias_variance.where(errors.layer_top == 0.0, drop=True).mean("cell").groupby("product").mean()
    # Those that are unbiased stand apart from the two that have a common offset.
    for name in ("gldas_noah", "era5_land"):
        assert float(bias.sel(product=name)) > 1.4 * float(bias.sel(product="smap_l3"))


def test_dependent_products_never_share_a_triplet():
    layout = stack_products(random_products(np.random.default_rng(4), days=3)).layout
    design = plan_comparisons(layout, (("smap_l3", "smap_l4"),))
    index = {name: i for i, name in enumerate(layout.products)}
    for triplet in design.triplets:
        there = {int(layout.product_index[i]) for series in triplet.series for i in np.flatnonzero(design.weights[series])}
        assert len(there) == 3
        assert not {index["smap_l3"], index["smap_l4"]} <= there
    for i, j in design.pairs:
        assert layout.product_index[i] != layout.product_index[j]
        assert {int(layout.product_index[i]), int(layout.product_index[j])} != {index["smap_l3"], index["smap_l4"]}
    free = plan_comparisons(layout, ())
    assert len(free.triplets) > len(design.triplets)


def test_near_surface_retrieval_stands_in_triplets_down_to_ten_centimetres():
    layout = stack_products(random_products(np.random.default_rng(5), days=3)).layout
    design = plan_comparisons(layout, (("smap_l3", "smap_l4"),))
    l3 = 8
    deepest = max(layout.bottom[t.observation] for t in design.triplets if l3 in t.series)
    assert deepest == pytest.approx(0.1)


def test_too_few_common_days_fall_back_to_the_typical_ratio():
    products = known_world(np.random.default_rng(6), days=300, cells=1, l3_days=np.arange(0, 280, 4))
    fewer = {name: products[name] for name in ("gldas_noah", "era5_land", "smap_l3")}
    errors = dp.estimate_errors(fewer)
    # 70 days with all three: below 100, so nothing rests on triple collocation; the deep layers have no third member at all.
    assert errors.n_samples.values[:, 0].tolist() == [70, 0, 0, 70, 0, 0, 70]
    assert (errors.status == 2).all()
    own = np.concatenate([p.var("time", ddof=1).values for p in fewer.values()])
    np.testing.assert_allclose(errors.variance, own, rtol=1e-4)
    # Layers at the same depth err alike: 0-10, 0-7 and 0-5 cm; 10-40 and 7-28 cm; 40-100 and 28-100 cm.
    for alike in ([0, 3, 6], [1, 4], [2, 5]):
        expected = TYPICAL_NOISE / (1.0 + TYPICAL_NOISE) * np.prod(own[alike]) ** (1.0 / len(alike))
        np.testing.assert_allclose(errors.error_variance.isel(observation=alike), expected, rtol=1e-4)
    assert (dp.estimate_errors(fewer, min_samples=70).status.sel(observation=[0, 3, 6]) == 0).all()


def test_a_cell_with_too_few_days_borrows_from_its_neighbours():
    products = known_world(np.random.default_rng(7), days=600, cells=5)
    products["smap_l3"] = products["smap_l3"].where((products["smap_l3"].cell != 2) | (products["smap_l3"].time.dt.day < 3))
    errors = dp.estimate_errors(products)
    l3 = errors.isel(observation=8)
    assert l3.status.values.tolist() == [0, 0, 1, 0, 0]
    assert float(l3.error_variance[2]) == pytest.approx(float(l3.error_variance.mean()), rel=0.2)


def test_a_layer_that_is_never_there_is_no_data():
    products = known_world(np.random.default_rng(8), days=300, cells=2)
    products["era5_land"][:, 2] = np.nan
    errors = dp.estimate_errors(products)
    assert (errors.status.isel(observation=7) == 3).all()
    assert np.isnan(errors.error_variance.isel(observation=7)).all()
    profile = dp.invert(products, errors)
    assert np.isfinite(profile.coefficients).all()
    assert not profile.observed.isel(observation=7).any()


def test_uncorrelated_products_do_not_pass_as_collocated():
    rng = np.random.default_rng(9)
    products = random_products(rng, days=400, cells=1)
    errors = dp.estimate_errors(products)
    assert (errors.status == 2).mean() > 0.8
    own = np.concatenate([p.var("time", ddof=1).values for p in products.values()])
    # Of layers at the same depth: the surface, 10-40 and 7-28 cm, and the root zone.
    for alike in ([0, 2, 5, 8], [3, 6], [1, 4, 7]):
        own[alike] = np.prod(own[alike]) ** (1.0 / len(alike))
    typical = TYPICAL_NOISE / (1.0 + TYPICAL_NOISE) * own
    np.testing.assert_allclose(errors.error_variance.where(errors.status == 2, typical), typical)


def test_a_product_without_error_is_the_best_of_all():
    """The sample's correlation with the truth may lie above 1: that is no failure."""
    days, rng = 150, np.random.default_rng(13)
    products = known_world(
        rng, days=days, cells=60, errors={"smap_l4": 0.05, "gldas_noah": 0.05, "era5_land": 0.0, "smap_l3": 0.05}
    )
    errors = dp.estimate_errors(products)
    best = errors.isel(observation=errors["product"] == "era5_land")
    assert (best.status < 2).all()
    assert float(best.r_squared.max()) <= 1.0
    others = errors.isel(observation=errors["product"] != "era5_land")
    assert float(best.error_variance.max()) < float(others.error_variance.min())


def test_two_products_work_with_the_typical_ratio():
    products = known_world(np.random.default_rng(10), days=200)
    profile = dp.fuse({name: products[name] for name in ("gldas_noah", "era5_land")})
    assert profile.deepprofile.flag("fallback_errors").all()
    assert np.isfinite(profile.coefficients).all()


def test_two_products_of_one_source_work_too():
    # SMAP L3 and L4 stand in no triplet and in no pair.
    products = known_world(np.random.default_rng(11), days=200)
    errors = dp.estimate_errors({name: products[name] for name in ("smap_l4", "smap_l3")})
    assert (errors.status == 2).all()
    # The root zone of L4 is alone; the surface layers of both err alike.
    surface, root = (products["smap_l4"].isel(layer=k).var("time", ddof=1) for k in (0, 1))
    alike = np.sqrt(surface * products["smap_l3"].isel(layer=0).var("time", ddof=1))
    share = TYPICAL_NOISE / (1.0 + TYPICAL_NOISE)
    for observation, expected in enumerate((alike, root, alike)):
        np.testing.assert_allclose(errors.error_variance.isel(observation=observation), share * expected, rtol=1e-3)


def test_biases_come_from_cells_that_have_every_product():
    # A retrieval that only dry cells have: their means and those of all cells are not moments of one distribution.
    rng = np.random.default_rng(12)
    products = known_world(rng, cells=40)
    dry = xr.DataArray(np.arange(40) < 8, dims="cell")
    products = {
        name: series - 0.12 * dry + 0.02 * xr.DataArray(rng.standard_normal(40), dims="cell")
        for name, series in products.items()
    }
    products["smap_l3"] = products["smap_l3"].where(dry)
    whole = dp.estimate_errors(products)
    alone = dp.estimate_errors({name: series.isel(cell=slice(0, 8)) for name, series in products.items()})
    xr.testing.assert_allclose(whole.bias_variance.isel(cell=slice(0, 8)), alone.bias_variance)
    assert float(np.sqrt(whole.bias_variance.min())) > 0.01


def test_blocks_with_a_halo_give_what_the_whole_gives(small_world):
    whole = dp.estimate_errors(small_world.products, window=3)
    part = dp.estimate_errors({n: p.isel(y=slice(1, 8)) for n, p in small_world.products.items()}, window=3)
    # One row of halo on either side of rows 2 to 6.
    xr.testing.assert_equal(part.isel(y=slice(1, 6)), whole.isel(y=slice(2, 7)))


def test_lazy_input_gives_lazy_equal_output(small_world):
    lazy = dp.estimate_errors({n: p.chunk(y=4, x=5, time=300) for n, p in small_world.products.items()})
    assert lazy.error_variance.chunks is not None
    xr.testing.assert_equal(lazy.compute(), dp.estimate_errors(small_world.products))


def test_overlap_weights_split_nested_layers():
    # SMAP Level 4: what lies below 0.05 m is (1 m mean - 0.05 surface) / 0.95.
    weights, covered = overlap_weights(np.array([0.0, 0.0]), np.array([0.05, 1.0]), 0.1, 0.4)
    np.testing.assert_allclose(weights, [-0.05 / 0.95, 1.0 / 0.95])
    assert covered == 1.0
    weights, covered = overlap_weights(np.array([0.0, 0.07]), np.array([0.07, 0.28]), 0.0, 0.1)
    np.testing.assert_allclose(weights, [0.7, 0.3])
    weights, covered = overlap_weights(np.array([0.0]), np.array([0.05]), 0.0, 0.1)
    assert covered == pytest.approx(0.5)
    assert overlap_weights(np.array([0.0]), np.array([0.05]), 0.2, 0.3)[1] == 0.0


def test_wrong_windows_and_pairs_are_refused():
    products = known_world(np.random.default_rng(11), days=150)
    with pytest.raises(ValueError, match="odd"):
        dp.estimate_errors(products, window=4)
    with pytest.raises(ValueError, match="at least 3"):
        dp.estimate_errors(products, min_samples=1)
    with pytest.raises(ValueError, match="pairs of product names"):
        dp.estimate_errors(products, dependent=(("smap_l3",),))


def test_calendars_of_different_length_are_joined():
    products = known_world(np.random.default_rng(12), days=400)
    products["smap_l3"] = products["smap_l3"].isel(time=slice(100, 350))
    errors = dp.estimate_errors(products)
    assert (errors.n_samples.isel(observation=8) == 250).all()
    profile = dp.invert(products, errors)
    assert profile.sizes["time"] == 400
    assert int(profile.deepprofile.uses("smap_l3").isel(cell=0).sum()) == 250
    assert pd.Timestamp(profile.time.values[0]) == pd.Timestamp("2016-01-01")
