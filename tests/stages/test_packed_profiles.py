"""What the stored integers keep of profiles: soil moisture within 1e-4, bounds within 1e-4, deviations within 1e-5."""

import numpy as np
import pytest
import xarray as xr
from deepprofile import invert
from deepprofile.core.basis import basis_at
from deepprofile.core.factors import entry_places, factor_entries
from deepprofile.core.fills import GREATEST, LEAST
from deepprofile.stages import schemas
from deepprofile.storage.packing import Packing
from scipy.optimize import linprog

DEPTHS = (1.0 - np.cos(np.pi * np.arange(401) / 400.0)) / 2.0


def greatest_coefficients(order):
    """Of all polynomials that lie between 0 and 1 at every depth, the one with the greatest coefficient of each degree."""
    basis = basis_at(DEPTHS, order)
    found = []
    for degree in range(order + 1):
        for sign in (1.0, -1.0):
            goal = np.zeros(order + 1)
            goal[degree] = -sign
            inside = np.vstack([basis, -basis]), np.r_[np.ones(DEPTHS.size), np.zeros(DEPTHS.size)]
            found.append(linprog(goal, *inside, bounds=[(None, None)] * (order + 1), method="highs").x)
    return np.array(found, np.float32)


def packing_of(order):
    return schemas.COEFFICIENTS if order + 1 <= schemas.HIGH_ORDER else schemas.COEFFICIENTS_OF_HIGH_ORDER


@pytest.mark.parametrize("order", range(1, 8))
def test_the_worst_profiles_fit_and_keep_their_values_and_bounds(order):
    worst = greatest_coefficients(order)
    if order == 5:
        # That of the Chebyshev polynomial: more than 16 bits hold at 2^-15.
        assert np.abs(worst).max() == pytest.approx(1.0159, abs=1e-3)
    stored = packing_of(order).round_trip(worst).astype(float)
    theta, kept = (basis_at(DEPTHS, order) @ each.T for each in (worst.astype(float), stored))
    assert np.abs(kept - theta).max() <= 1e-4
    # A thousandth of the depth lies between the nodes of the programme.
    assert kept.min() >= theta.min() - 1e-4
    assert kept.max() <= theta.max() + 1e-4


def pressed(bounds, days=400, seed=0):
    """Profiles of layers that press against both bounds, many of them beyond."""
    rng = np.random.default_rng(seed)
    layers = {"a": ([0.0, 0.1, 0.4], [0.1, 0.4, 1.0]), "b": ([0.0, 0.07, 0.28], [0.07, 0.28, 1.0])}
    products = {
        name: xr.DataArray(
            rng.choice([-0.2, 0.0, 0.3, 1.0, 1.2], (days, 3)) + rng.normal(0.0, 0.02, (days, 3)),
            dims=("time", "layer"),
            coords={
                "time": np.arange(days).astype("datetime64[D]").astype("datetime64[ns]"),
                "layer_top": ("layer", top),
                "layer_bottom": ("layer", bottom),
            },
        )
        for name, (top, bottom) in layers.items()
    }
    tops, bottoms = (np.concatenate([each[k] for each in layers.values()]) for k in (0, 1))
    errors = xr.DataArray(
        np.full(6, 0.02**2),
        dims="observation",
        coords={
            "product": ("observation", np.repeat(list(layers), 3).astype(object)),
            "layer_top": ("observation", tops),
            "layer_bottom": ("observation", bottoms),
        },
    )
    return invert(products, errors, bounds=bounds)


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (0.02, 0.55)])
def test_profiles_at_their_bounds_keep_them_as_stored(bounds):
    profile = pressed(bounds)
    at_bounds = [profile.deepprofile.flag(name).values.mean() for name in ("at_lower_bound", "at_upper_bound")]
    assert min(at_bounds) > 0.1
    computed = profile.coefficients.values
    stored = schemas.COEFFICIENTS.round_trip(computed).astype(float)
    theta, kept = (each.astype(float) @ basis_at(np.linspace(0.0, 1.0, 2001), 5).T for each in (computed, stored))
    assert np.abs(kept - theta).max() <= 1e-4
    assert kept.min() >= bounds[0] - 1e-4
    assert kept.max() <= bounds[1] + 1e-4


def test_deviations_are_kept_within_a_hundred_thousandth():
    profile = pressed((0.0, 1.0), days=5)
    covariance = profile.posterior_covariance.values
    kept = Packing("int16", schemas.FACTOR_SCALE).round_trip(factor_entries(covariance))
    rows, columns = entry_places(6)
    factor = np.zeros((*kept.shape[:-1], 6, 6))
    factor[..., rows, columns] = kept
    basis = basis_at(DEPTHS, 5)
    expected, found = (
        np.sqrt(np.einsum("zi,...ij,zj->...z", basis, each, basis)) for each in (covariance, factor @ factor.swapaxes(-1, -2))
    )
    assert np.nanmax(np.abs(found - expected)) < 1e-5


def test_what_readers_let_pass_fits():
    low, high = schemas.MOISTURE.limits
    assert low < LEAST
    assert high > GREATEST
