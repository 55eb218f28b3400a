import numpy as np
import pytest
from deepprofile.core.factors import entry_places, factor_entries, factor_projection


def covariances(count, degrees, rank=None, seed=0):
    rng = np.random.default_rng(seed)
    parts = rng.normal(0.0, 0.03, (count, degrees, rank or degrees))
    return parts @ parts.swapaxes(-1, -2)


@pytest.mark.parametrize("degrees", [1, 2, 6, 8])
def test_entries_are_those_of_the_cholesky_factor(degrees):
    given = covariances(20, degrees)
    rows, columns = entry_places(degrees)
    expected = np.linalg.cholesky(given)[:, rows, columns]
    np.testing.assert_allclose(factor_entries(given), expected, rtol=1e-4, atol=1e-7)


def test_variances_follow_from_the_entries():
    given, basis = covariances(30, 6), np.random.default_rng(1).normal(size=(4, 6))
    projected = np.einsum("ce,zek->czk", factor_entries(given), factor_projection(basis))
    np.testing.assert_allclose((projected**2).sum(-1), np.einsum("zi,cij,zj->cz", basis, given, basis), rtol=1e-4)


def test_covariances_of_lower_rank_have_columns_of_zeros():
    given = covariances(20, 5, rank=2)
    rows, columns = entry_places(5)
    factor = np.zeros((20, 5, 5))
    factor[:, rows, columns] = factor_entries(given)
    np.testing.assert_allclose(factor @ factor.swapaxes(-1, -2), given, atol=1e-8)
    assert np.isfinite(factor).all()


def test_what_is_unknown_stays_unknown():
    given = covariances(3, 6).reshape(3, 1, 6, 6)
    given[1] = np.nan
    found = factor_entries(given)
    assert found.shape == (3, 1, 21)
    assert np.isnan(found[1]).all()
    assert np.isfinite(found[[0, 2]]).all()
