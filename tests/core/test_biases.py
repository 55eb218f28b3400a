"""Biases of products from the differences of their time means."""

import deepprofile as dp
import numpy as np
import pytest
import xarray as xr
from deepprofile.core.biases import (
    BIAS_CORRELATION_LENGTH_M,
    CELLS_EXPONENT,
    LEVEL_VARIANCE,
    LOG_SPREAD,
    MEAN_KERNEL,
    MEAN_SHARE,
    bias_variances,
    typical_biases,
)
from deepprofile.core.layers import stack_products
from deepprofile.core.prior import Prior
from scipy.optimize import minimize

from tests.conftest import random_products


@pytest.fixture(scope="module")
def layout():
    return stack_products(random_products(np.random.default_rng(0), days=3)).layout


def layer_covariance(layout, length, count=1000):
    """Of layer means under an exponential kernel of unit variance, on a fine grid of depths."""
    depth = (np.arange(count) + 0.5) / count
    inside = (depth >= layout.top[:, None]) & (depth < layout.bottom[:, None])
    mean = inside / inside.sum(axis=1, keepdims=True)
    return mean @ np.exp(-np.abs(depth[:, None] - depth) / length) @ mean.T


def dense(layout):
    """The covariance of the means of one cell without bias, and the correlation of biases."""
    smooth = MEAN_SHARE * Prior().std ** 2 * layer_covariance(layout, MEAN_KERNEL.length)
    centre = 0.5 * (layout.top + layout.bottom)
    same = layout.product_index[:, None] == layout.product_index
    return smooth + LEVEL_VARIANCE, same * np.exp(-np.abs(centre[:, None] - centre) / BIAS_CORRELATION_LENGTH_M)


def draw(layout, stds, cells, seed):
    """Time means of independent cells, departures from their expected values; (cell, n)."""
    smooth, correlation = dense(layout)
    std = np.asarray(stds)[layout.product_index]
    return np.random.default_rng(seed).multivariate_normal(
        np.zeros(layout.size), smooth + correlation * np.outer(std, std), cells
    )


def found(layout, means):
    present = np.isfinite(means)
    filled = np.where(present, means, 0.0)
    return bias_variances((filled.T @ filled)[None], (present.T.astype(float) @ present)[None], layout)[0]


def test_agrees_with_a_direct_search_of_the_posterior(layout):
    means = draw(layout, [0.05, 0.02, 0.04, 0.01], 30, seed=1)
    smooth, correlation = dense(layout)
    second, samples = means.T @ means / 30, 30**CELLS_EXPONENT - 1.0

    def loss(log_std):
        std = np.exp(log_std)[layout.product_index]
        covariance = smooth + correlation * np.outer(std, std) + 1e-8 * np.eye(layout.size)
        _, logarithm = np.linalg.slogdet(covariance)
        prior = ((log_std - np.log(typical_biases(layout))) / LOG_SPREAD) ** 2
        return samples * (logarithm + np.trace(np.linalg.solve(covariance, second))) + prior.sum()

    peer = minimize(loss, np.full(4, np.log(0.03)), method="BFGS", options={"gtol": 1e-6})
    np.testing.assert_allclose(np.sqrt(found(layout, means)), np.exp(peer.x)[layout.product_index], rtol=2e-3)


def test_many_cells_tell_who_is_biased(layout):
    stds = np.array([0.06, 0.02, 0.035, 0.012])
    estimates = np.stack([found(layout, draw(layout, stds, 30_000, seed)) for seed in range(5)])
    np.testing.assert_allclose(np.sqrt(estimates.mean(axis=0)), stds[layout.product_index], rtol=0.25)


def test_nothing_but_the_prior_where_products_agree_as_expected(layout):
    # The second moment is what the prior expects: its maximum stays near the medians of the biases.
    smooth, correlation = dense(layout)
    std = typical_biases(layout)[layout.product_index]
    second = smooth + correlation * np.outer(std, std)
    estimate = bias_variances(10.0 * second[None], np.full((1, 9, 9), 10.0), layout)[0]
    np.testing.assert_allclose(np.sqrt(estimate), std, rtol=0.02)


def test_absent_observations_and_pairs_that_never_meet(layout):
    typical = typical_biases(layout)[layout.product_index]
    means = draw(layout, [0.03] * 4, 40, seed=2)
    means[:, 8] = np.nan
    assert np.sqrt(found(layout, means)[8]) == pytest.approx(typical[8])
    # The third product is there only where the second is not.
    means[:20, 2:5], means[20:, 5:8] = np.nan, np.nan
    assert np.isfinite(found(layout, means)).all()
    np.testing.assert_allclose(np.sqrt(found(layout, np.full((40, 9), np.nan))), typical)


def test_moments_of_different_cells_that_do_not_fit_together_tell_nothing(layout):
    # The covariance of two products in wet cells, which all others lack, beside the variance of each in all cells.
    means = draw(layout, [0.03] * 4, 40, seed=3)
    second = means.T @ means / 40
    second[8, :8] = second[:8, 8] = 2.0 * second[8, 8]
    estimate = bias_variances(40.0 * second[None], np.full((1, 9, 9), 40.0), layout)[0]
    np.testing.assert_allclose(np.sqrt(estimate), typical_biases(layout)[layout.product_index])


def test_a_single_cell_tells_no_size(layout):
    estimate = found(layout, draw(layout, [0.1, 0.01, 0.01, 0.01], 1, seed=4))
    np.testing.assert_allclose(np.sqrt(estimate), typical_biases(layout)[layout.product_index], rtol=1e-6)


def test_a_retrieval_is_expected_to_be_less_biased_than_a_model(layout):
    typical = dict(zip(layout.products, typical_biases(layout), strict=True))
    assert typical["smap_l3"] < typical["smap_l4"] == typical["gldas_noah"] == typical["era5_land"]


def test_winters_that_a_retrieval_lacks_do_not_look_like_a_bias(small_world):
    products = dict(small_world.products)
    summer = products["smap_l3"].time.dt.month.isin([6, 7, 8, 9])
    products["smap_l3"] = products["smap_l3"].where(summer)
    whole = dp.estimate_errors(small_world.products).isel(observation=8)
    errors = dp.estimate_errors(products).isel(observation=8)
    season = float(abs(errors["mean"] - whole["mean"]).mean())
    left = float(abs(errors.reference_mean - whole["mean"]).mean())
    assert season > 0.01
    assert left < 0.5 * season


def test_a_mean_of_a_few_days_tells_nothing_of_a_bias():
    products = random_products(np.random.default_rng(4), days=200, cells=30)
    products["gldas_noah"] = (products["gldas_noah"] + 0.15).where(products["gldas_noah"].time < np.datetime64("2016-01-06"))
    errors = dp.estimate_errors(products)
    gldas = errors.isel(observation=slice(2, 5))
    np.testing.assert_allclose(np.sqrt(gldas.bias_variance), 0.033)
    assert np.isfinite(dp.invert(products, errors).coefficients).all()


def test_reference_means_are_time_means_where_all_days_are_shared():
    products = random_products(np.random.default_rng(3), days=200, cells=3)
    errors = dp.estimate_errors(products)
    xr.testing.assert_allclose(errors.reference_mean, errors["mean"].rename("reference_mean"), atol=1e-12)
