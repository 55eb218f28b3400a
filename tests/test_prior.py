"""Moments of the prior against a dense discretisation."""

import numpy as np
import pytest
from deepprofile import Prior
from deepprofile.basis import basis_at
from deepprofile.prior import Kernel, prior_model, remainder_variance

TOP = np.array([0.0, 0.0, 0.1, 0.28])
BOTTOM = np.array([0.05, 1.0, 0.4, 1.0])


def dense(kernel, count=2000):
    depth = (np.arange(count) + 0.5) / count
    cov = np.exp(-np.abs(depth[:, None] - depth) / kernel.length - (depth[:, None] + depth) / kernel.decay)
    layers = np.stack([(depth >= a) & (depth < b) for a, b in zip(TOP, BOTTOM, strict=True)]).astype(float)
    layers /= layers.sum(axis=1, keepdims=True)
    project = (basis_at(depth, 5) * (2 * np.arange(6) + 1) / count).T
    return depth, cov, layers, project


@pytest.mark.parametrize("kernel", [Kernel(0.1), Kernel(1.0, 0.15), Kernel(0.03)])
def test_moments_agree_with_a_dense_covariance(kernel):
    _, cov, layers, project = dense(kernel)
    model = prior_model(kernel, TOP, BOTTOM, 5)
    np.testing.assert_allclose(model.layers, layers @ cov @ layers.T, atol=1e-4)
    np.testing.assert_allclose(model.coefficients_layers, project @ cov @ layers.T, atol=1e-4)
    np.testing.assert_allclose(model.coefficients, project @ cov @ project.T, atol=1e-4)


def test_remainder_is_what_the_projection_leaves():
    kernel = Kernel(0.1)
    depth, cov, layers, project = dense(kernel)
    remove = np.eye(depth.size) - basis_at(depth, 5) @ project
    expected = np.diag(layers @ remove @ cov @ remove.T @ layers.T)
    np.testing.assert_allclose(remainder_variance(kernel, TOP, BOTTOM, 5), expected, atol=5e-5)


def test_two_layers_far_apart_share_what_the_distance_leaves():
    # Points 0.2 m apart under a length of 0.1 m: exp(-2).
    model = prior_model(Kernel(0.1), np.array([0.1, 0.3]), np.array([0.1, 0.3]), 3)
    np.testing.assert_allclose(model.layers, [[1.0, np.exp(-2.0)], [np.exp(-2.0), 1.0]], rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"std": 0.0}, "std=0.0"),
        ({"correlation_length": -1.0}, "correlation_length=-1.0"),
        ({"mean": 25.0}, "between 0 and 1"),
    ],
)
def test_impossible_priors_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Prior(**arguments)
