"""The bounded solve against SLSQP with the bounds at 4001 depths (at 401 the peer itself is up to 3e-4 off)."""

import numpy as np
import pytest
from deepprofile.core.basis import basis_at
from deepprofile.core.bounds import GRID, extremes, project_onto_bounds, scratch, worst_violation
from scipy.optimize import minimize

DEPTH = np.linspace(0.0, 1.0, 4001)


def random_case(rng, degree=5):
    """A profile that breaks its bounds by some hundredths, with a covariance as a posterior has it."""
    depth = np.linspace(0.0, 1.0, 40)
    prior = 0.08**2 * np.exp(-np.abs(depth[:, None] - depth) / 0.15)
    fit = np.linalg.pinv(basis_at(depth, degree))
    covariance = fit @ prior @ fit.T + 1e-7 * np.eye(degree + 1)
    centre = np.zeros(degree + 1)
    centre[0] = rng.choice([0.03, 0.42])
    return rng.multivariate_normal(centre, covariance), covariance


def slsqp(start, covariance, low, high):
    """The peer, in whitened unknowns: SLSQP does not converge to four digits where the covariance is ill-conditioned."""
    root = np.linalg.cholesky(covariance)
    basis = basis_at(DEPTH, start.size - 1)
    white = basis @ root
    offset = basis @ start
    result = minimize(
        lambda u: u @ u,
        np.zeros(start.size),
        jac=lambda u: 2.0 * u,
        method="SLSQP",
        constraints=[
            {"type": "ineq", "fun": lambda u: offset + white @ u - low, "jac": lambda u: white},
            {"type": "ineq", "fun": lambda u: high - offset - white @ u, "jac": lambda u: -white},
        ],
        options={"maxiter": 1000, "ftol": 1e-14},
    )
    return start + root @ result.x, basis


@pytest.mark.parametrize("seed", range(40))
def test_agrees_with_slsqp(seed):
    start, covariance = random_case(np.random.default_rng(seed))
    low, high = 0.0, 0.45
    ours = start.copy()
    sides = project_onto_bounds(ours, covariance, low, high, scratch())
    peer, basis = slsqp(start, covariance, low, high)
    np.testing.assert_allclose(basis @ ours, basis @ peer, atol=1e-4)
    assert bool(sides & 1) == bool((basis @ start < low).any())
    assert worst_violation(ours, low, high) <= 1e-9


@pytest.mark.parametrize("degree", range(8))
def test_bounds_hold_between_any_two_depths(degree):
    rng = np.random.default_rng(degree)
    fine = basis_at(np.linspace(0.0, 1.0, 5001), degree)
    moved = 0
    for _ in range(100):
        root = rng.normal(size=(degree + 1, degree + 1))
        covariance = 1e-3 * (root @ root.T + 0.3 * np.eye(degree + 1))
        c = rng.normal(0.0, 0.12, degree + 1)
        c[0] = rng.uniform(0.0, 0.5)
        moved += project_onto_bounds(c, covariance, 0.02, 0.45, scratch()) > 0
        theta = fine @ c
        assert theta.min() >= 0.02 - 1e-6
        assert theta.max() <= 0.45 + 1e-6
    assert moved > 10


def test_a_profile_within_its_bounds_is_left_alone():
    c = np.array([0.2, 0.05, -0.03, 0.01])
    before = c.copy()
    assert project_onto_bounds(c, np.eye(4), 0.0, 0.8, scratch()) == 0
    np.testing.assert_array_equal(c, before)


def test_a_uniform_profile_is_moved_to_the_bound():
    c = np.array([-0.1])
    assert project_onto_bounds(c, np.array([[0.01]]), 0.05, 0.5, scratch()) == 1
    assert c[0] == pytest.approx(0.05, abs=1e-6)


def test_a_dip_between_two_nodes_is_found():
    """Where the slope vanishes twice between two nodes, on which it has the same sign."""
    rng = np.random.default_rng(0)
    nodes = -np.cos(np.pi * np.arange(GRID + 1) / GRID)
    for _ in range(300):
        place = rng.integers(8, GRID - 8)
        a, b = nodes[place], nodes[place + 1]
        first, second = np.sort(rng.uniform(a + 0.2 * (b - a), b - 0.2 * (b - a), 2))
        # (x - r)^2 (x - s)^2 with both roots in one interval: two minima, of value zero.
        quartic = np.polynomial.polynomial.polyfromroots([first, first, second, second])
        coefficients = np.polynomial.legendre.poly2leg(quartic)
        low, x_low, _, _ = extremes(coefficients)
        assert low == pytest.approx(0.0, abs=1e-12)
        assert min(abs(x_low - first), abs(x_low - second)) < 1e-4
