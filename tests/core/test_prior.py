"""Moments of the prior against a dense discretisation."""

from dataclasses import replace

import numpy as np
import pytest
from deepprofile import Prior
from deepprofile.core.basis import basis_at, basis_mean
from deepprofile.core.prior import Kernel, end_correction, prior_moments, remainder_variance
from scipy.linalg import null_space

from tests.conftest import exact_projection

TOP = np.array([0.0, 0.0, 0.1, 0.28])
BOTTOM = np.array([0.05, 1.0, 0.4, 1.0])


KERNELS = [Kernel(0.1), Kernel(1.0), Prior().kernel, Kernel(0.3, 0.5, 0.2, 0.1), replace(Prior().kernel, damping=1.5)]


def dense(kernel, order=5, count=2000):
    """A fine grid of depths, the covariance on it, means over the layers, and the projection that is exact at both ends."""
    depth = (np.arange(count) + 0.5) / count
    cov = kernel(depth[:, None], depth)
    layers = np.stack([(depth >= a) & (depth < b) for a, b in zip(TOP, BOTTOM, strict=True)]).astype(float)
    layers /= layers.sum(axis=1, keepdims=True)
    return depth, cov, layers, exact_projection(depth, order)


def test_the_covariance_is_what_its_parameters_say():
    kernel = Kernel(0.4, 1.2, 0.36, 0.1)
    assert float(kernel(np.array(0.0), np.array(0.0))) == 1.0
    assert float(kernel(np.array(9.0), np.array(9.0))) == pytest.approx(0.36)
    assert float(kernel(np.array(0.1), np.array(0.1))) == pytest.approx(0.36 + 0.64 * np.exp(-1.0))
    # The correlation falls by the step over the local length, 0.4 + 1.2 z, and a process without memory multiplies it.
    z = np.array([0.2, 0.5, 0.9])
    unit = Kernel(0.4, 1.2)
    np.testing.assert_allclose(-np.log(unit(z, z + 1e-6)) / 1e-6, 1.0 / (0.4 + 1.2 * z), rtol=1e-4)
    assert float(unit(z[0], z[2])) == pytest.approx(float(unit(z[0], z[1]) * unit(z[1], z[2])))
    # Damping multiplies values: by 1 at the surface, by exp(-2 (1 - 1 / e)) at half a metre.
    damped = Kernel(0.4, 1.2, 0.36, 0.1, damping=2.0)
    factor = np.exp(-2.0 * (1.0 - np.exp(-1.0)))
    assert float(damped(np.array(0.0), np.array(0.5))) == pytest.approx(factor * float(kernel(np.array(0.0), np.array(0.5))))
    assert float(damped(np.array(0.5), np.array(0.5))) == pytest.approx(factor**2 * float(kernel(np.array(0.5), np.array(0.5))))
    # Without growth it is an exponential.
    np.testing.assert_allclose(Kernel(0.4)(z, z[::-1]), np.exp(-np.abs(z - z[::-1]) / 0.4))
    np.testing.assert_allclose(Kernel(0.4, 1e-7)(z, z[::-1]), np.exp(-np.abs(z - z[::-1]) / 0.4), rtol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("order", [1, 5])
def test_moments_agree_with_a_dense_covariance(kernel, order):
    _, cov, layers, project = dense(kernel, order)
    model = prior_moments(kernel, TOP, BOTTOM, order)
    np.testing.assert_allclose(model.layer_covariance, layers @ cov @ layers.T, atol=2e-4)
    np.testing.assert_allclose(model.cross_covariance, project @ cov @ layers.T, atol=1e-3)
    np.testing.assert_allclose(model.coefficient_covariance, project @ cov @ project.T, atol=2e-3)


@pytest.mark.parametrize("kernel", KERNELS)
def test_remainder_is_what_the_projection_leaves(kernel):
    depth, cov, layers, project = dense(kernel)
    remove = np.eye(depth.size) - basis_at(depth, 5) @ project
    expected = np.diag(layers @ remove @ cov @ remove.T @ layers.T)
    np.testing.assert_allclose(remainder_variance(kernel, TOP, BOTTOM, 5), expected, atol=1e-3)
    # Nothing is left of what the projection is exact in.
    assert float(remainder_variance(kernel, 0.0, 0.05, 5)[0]) < 1e-9
    assert float(remainder_variance(kernel, 1.0, 1.0, 5)[0]) < 1e-9


@pytest.mark.parametrize("order", range(1, 8))
def test_the_projection_is_the_nearest_polynomial_that_is_exact_at_the_ends(order):
    depth = (np.arange(4000) + 0.5) / 4000
    profile = 0.2 + 0.1 * np.sin(9.0 * depth**0.7) + 0.05 * (depth > 0.4)
    least = np.linalg.lstsq(basis_at(depth, order), profile, rcond=None)[0]
    kept, moved = end_correction(order)
    ends = np.array([profile[depth < 0.05].mean(), profile[-1]])
    found = kept @ least + moved @ ends
    operator = basis_mean(np.array([0.0, 1.0]), np.array([0.05, 1.0]), order)
    np.testing.assert_allclose(operator @ found, ends, atol=1e-12)
    # Any other polynomial that is exact there differs by one that vanishes there, and lies further away.
    gradient = basis_at(depth, order).T @ (basis_at(depth, order) @ found - profile)
    free = null_space(operator)
    np.testing.assert_allclose(free.T @ gradient / depth.size, 0.0, atol=1e-6)


def test_a_posterior_does_not_ring_at_one_metre():
    """The gains of the layers at 1 m are those of the posterior before it is projected."""
    top, bottom = np.array([0.0, 0.1, 0.4, 1.0]), np.array([0.1, 0.4, 1.0, 1.0])
    prior = Prior()
    model = prior_moments(prior.kernel, top, bottom, 5).scaled(prior.std**2)
    observed = model.layer_covariance[:3, :3] + 0.02**2 * np.eye(3)
    at_depth = model.layer_covariance[3, :3] @ np.linalg.inv(observed)
    projected = basis_at(np.array([1.0]), 5)[0] @ model.cross_covariance[:, :3] @ np.linalg.inv(observed)
    np.testing.assert_allclose(projected, at_depth, atol=1e-9)
    assert at_depth[2] > 0.0


def test_two_layers_far_apart_share_what_the_distance_leaves():
    # Points 0.2 m apart under a length of 0.1 m: exp(-2).
    model = prior_moments(Kernel(0.1), np.array([0.1, 0.3]), np.array([0.1, 0.3]), 3)
    np.testing.assert_allclose(model.layer_covariance, [[1.0, np.exp(-2.0)], [np.exp(-2.0), 1.0]], rtol=1e-12)


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
