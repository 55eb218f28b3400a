"""Integrals of the basis against scipy and against values derived by hand."""

import numpy as np
import pytest
from deepprofile.core.basis import basis_at, basis_mean, bernstein_from_legendre
from scipy.integrate import quad
from scipy.special import eval_sh_legendre


def test_basis_is_the_shifted_legendre_family():
    depth = np.linspace(0.0, 1.0, 7)
    expected = np.stack([eval_sh_legendre(k, depth) for k in range(8)], axis=-1)
    np.testing.assert_allclose(basis_at(depth, 7), expected, atol=1e-13)


@pytest.mark.parametrize(("top", "bottom"), [(0.0, 0.05), (0.07, 0.28), (0.28, 1.0), (0.0, 1.0)])
def test_layer_mean_is_the_integral_over_the_layer(top, bottom):
    expected = [quad(lambda z, k=k: eval_sh_legendre(k, z), top, bottom)[0] / (bottom - top) for k in range(8)]
    np.testing.assert_allclose(basis_mean(top, bottom, 7), expected, atol=1e-12)


def test_linear_profile_has_the_value_at_the_middle_of_a_layer():
    # theta(z) = 0.1 + 0.2 z is c0 = 0.2, c1 = 0.1; its mean over 0.1-0.4 m is its value at 0.25 m, 0.15.
    assert basis_mean(0.1, 0.4, 1) @ np.array([0.2, 0.1]) == pytest.approx(0.15)


def test_a_layer_without_thickness_is_a_point():
    np.testing.assert_allclose(basis_mean(0.3, 0.3, 5), basis_at(0.3, 5))


def test_control_points_enclose_the_profile():
    coefficients = np.random.default_rng(0).normal(size=(50, 6))
    control = coefficients @ bernstein_from_legendre(5).T
    theta = coefficients @ basis_at(np.linspace(0.0, 1.0, 201), 5).T
    assert (control.min(axis=1) <= theta.min(axis=1) + 1e-12).all()
    assert (control.max(axis=1) >= theta.max(axis=1) - 1e-12).all()
    # The ends of a Bernstein form are the polynomial's own.
    np.testing.assert_allclose(control[:, 0], theta[:, 0])
