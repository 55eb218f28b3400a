"""Triple collocation against the reference vector, pytesmo, and real core sites."""

import itertools

import deepprofile as dp
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from deepprofile.core.collocation import PAIRS, Moments, collocate, critical_correlation, merge_all, triple_moments
from hypothesis import given, settings
from hypothesis import strategies as st

REFERENCE = np.array([[0.0029, 0.002, 0.003], [0.002, 0.0025, 0.0024], [0.003, 0.0024, 0.0052]])
CORE_SITES = ("7013601", "9013601", "16013601", "16033601", "19023601", "27013601", "48013601")


def triple(rng, cells=4, days=400, dtype=np.float64, errors=(0.02, 0.03, 0.04)):
    truth = rng.normal(0.25, 0.05, (cells, days))
    scales = (1.0, 0.8, 1.2)
    return [
        xr.DataArray((0.05 * i + s * truth + rng.normal(0, e, truth.shape)).astype(dtype), dims=("cell", "time"))
        for i, (s, e) in enumerate(zip(scales, errors, strict=True))
    ]


def oracle(x, y, z):
    pytesmo = pytest.importorskip("pytesmo.metrics")
    return pytesmo.tcol_metrics(x, y, z)


def test_reference_vector():
    result = collocate(np.array([REFERENCE[i, j] for i, j in PAIRS]))
    np.testing.assert_allclose(np.sqrt(result.error_variance), [0.02, 0.03, 0.04], rtol=1e-12)
    np.testing.assert_allclose(result.scaling, [1.0, 1.25, 0.8333333333], rtol=1e-9)
    snr = 10.0 * np.log10(result.signal_variance / result.error_variance)
    np.testing.assert_allclose(snr, [7.9588001734, 2.4987747322, 3.5218251811], rtol=1e-9)


def test_agrees_with_pytesmo():
    x, y, z = triple(np.random.default_rng(1))
    out = dp.triple_collocation(x, y, z)
    for cell in range(4):
        snr, scaled_error, scaling = oracle(*(v[cell].values for v in (x, y, z)))
        one = out.isel(cell=cell)
        np.testing.assert_allclose(one.snr_db, snr, rtol=1e-9)
        np.testing.assert_allclose(one.scaling, scaling, rtol=1e-9)
        np.testing.assert_allclose(np.sqrt(one.error_variance) * one.scaling, scaled_error, rtol=1e-9)
    assert (out.status == 0).all()
    assert (out.n_samples == 400).all()


@pytest.mark.parametrize("order", [("cell", "time"), ("time", "cell")])
def test_float32_in_either_memory_order_keeps_six_digits(order):
    x, y, z = triple(np.random.default_rng(2), cells=40, days=500)
    reference = dp.triple_collocation(x, y, z)
    single = [v.astype(np.float32).transpose(*order).copy() for v in (x, y, z)]
    out = dp.triple_collocation(*single)
    np.testing.assert_allclose(out.error_variance, reference.error_variance, rtol=2e-5)


@pytest.mark.parametrize("days", [2, 31, 32, 33, 200])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_moments_of_many_cells_in_either_memory_order_are_those_of_numpy(days, dtype):
    """More cells than a tile has; some begin late, some have one triple, some none; a mean that is large against the spread."""
    rng = np.random.default_rng(days)
    cells = 1100
    series = [(280.0 + rng.normal(0.0, 3.0, (cells, days))).astype(dtype) for _ in range(3)]
    for k, values in enumerate(series):
        values[rng.random(values.shape) < 0.1] = np.nan
        values[k::50] = np.nan
        values[10::50, : days // 2] = np.nan
    series[1][20::50, 1:] = np.nan
    apart = triple_moments(*series)
    together = triple_moments(*(np.ascontiguousarray(values.T).T for values in series))
    whole = np.isfinite(series[0]) & np.isfinite(series[1]) & np.isfinite(series[2])
    for found in (apart, together):
        np.testing.assert_array_equal(found[:, 0], whole.sum(axis=1))
        assert np.isfinite(found).all()
    for cell in range(0, cells, 7):
        kept = np.array([values[cell, whole[cell]] for values in series], np.float64)
        if kept.shape[1] == 0:
            assert not together[cell].any()
            continue
        comoment = (kept.shape[1] - 1) * np.cov(kept) if kept.shape[1] > 1 else np.zeros((3, 3))
        expected = [comoment[i, j] for i, j in PAIRS]
        scale = max(float(np.abs(comoment).max()), 1.0)
        for found in (apart, together):
            np.testing.assert_allclose(found[cell, 1:4], kept.mean(axis=1), rtol=1e-7)
            np.testing.assert_allclose(found[cell, 4:], expected, rtol=0, atol=scale * (2e-6 if dtype == "float32" else 1e-12))


def test_core_sites_agree_with_pytesmo(sample_data):
    compared = 0
    for site in CORE_SITES:
        table = pd.read_csv(sample_data / "triple_collocation" / f"{site}.txt", header=None).iloc[:, 2:5]
        series = [xr.DataArray(table[c].to_numpy(), dims="time") for c in table]
        out = dp.triple_collocation(*series)
        complete = table.dropna()
        assert int(out.n_samples) == len(complete)
        snr, error, scaling = oracle(*(complete[c].to_numpy() for c in complete))
        ours = np.sqrt(out.error_variance) * out.scaling
        np.testing.assert_allclose(out.scaling, scaling, rtol=1e-9)
        np.testing.assert_allclose(ours, error, rtol=1e-9)
        np.testing.assert_allclose(out.snr_db, snr, rtol=1e-9)
        compared += len(complete)
    assert compared > 1000


def test_only_complete_triples_on_common_days_count():
    x, y, z = (v.isel(cell=0).assign_coords(time=np.arange(400)) for v in triple(np.random.default_rng(3)))
    x = x.isel(time=slice(50, None))
    y = y.where(y.time % 10 != 0)
    out = dp.triple_collocation(x, y, z)
    # 350 common days, of which 35 (50, 60, ... 390) lack y.
    assert int(out.n_samples) == 315
    kept = [v.sel(time=[t for t in range(50, 400) if t % 10]).values for v in (x, y, z)]
    np.testing.assert_allclose(out.error_variance, np.square(oracle(*kept)[1] / oracle(*kept)[2]), rtol=1e-9)


def test_too_few_samples_give_nan_and_a_status():
    x, y, z = triple(np.random.default_rng(4), days=99)
    out = dp.triple_collocation(x, y, z)
    assert np.isnan(out.error_variance).all()
    assert np.isnan(out.correlation).all()
    assert (out.status == 1).all()
    assert (dp.triple_collocation(x, y, z, min_samples=99).status == 0).all()


def test_negative_variance_is_nan_for_that_product_alone():
    # With these covariances var(e_x) = 0.0010 - 0.0012 * 0.0012 / 0.0012 < 0 and the others are positive.
    cov = np.array([[0.0010, 0.0012, 0.0012], [0.0012, 0.0025, 0.0012], [0.0012, 0.0012, 0.0030]])
    raw = np.random.default_rng(5).normal(size=(3, 300))
    raw -= raw.mean(axis=1, keepdims=True)
    white = np.linalg.solve(np.linalg.cholesky(np.cov(raw)), raw)
    series = np.linalg.cholesky(cov) @ white
    out = dp.triple_collocation(*(xr.DataArray(v, dims="time") for v in series))
    assert np.isnan(out.error_variance.sel(product="x"))
    assert np.isnan(out.snr_db.sel(product="x"))
    np.testing.assert_allclose(out.error_variance.sel(product=["y", "z"]), [0.0013, 0.0018], rtol=1e-9)
    assert int(out.status) == 4


def test_correlation_that_is_not_significant_is_a_status_and_no_nan():
    rng = np.random.default_rng(6)
    x, y, z = (xr.DataArray(rng.normal(size=150), dims="time") for _ in range(3))
    out = dp.triple_collocation(x, y, z)
    assert int(out.status) & 2
    assert np.isfinite(out.correlation).all()


def test_critical_correlation_is_that_of_the_t_test():
    from scipy.stats import pearsonr

    rng = np.random.default_rng(7)
    a = rng.normal(size=100)
    b = 0.2 * a + rng.normal(size=100)
    found = pearsonr(a, b)
    assert (found.statistic >= critical_correlation(100)[100]) == (found.pvalue < 0.05)
    # From tables of the correlation coefficient: n = 102, two-sided 5 %: 0.1946.
    assert critical_correlation(102)[102] == pytest.approx(0.1946, abs=2e-4)


def test_lazy_input_gives_lazy_equal_output():
    x, y, z = triple(np.random.default_rng(8), cells=6)
    lazy = dp.triple_collocation(*(v.chunk(cell=2, time=100) for v in (x, y, z)))
    assert lazy.error_variance.chunks is not None
    xr.testing.assert_identical(lazy.compute(), dp.triple_collocation(x, y, z))


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 199), max_size=4))
@settings(max_examples=40, deadline=None)
def test_moments_merged_in_any_split_agree(seed, cuts):
    rng = np.random.default_rng(seed)
    x, y, z = (v.values for v in triple(rng, cells=2, days=200))
    x[0, rng.random(200) < 0.3] = np.nan
    whole = Moments.from_series(x, y, z)
    edges = [0, *sorted(set(cuts)), 200]
    parts = [Moments.from_series(x[:, a:b], y[:, a:b], z[:, a:b]) for a, b in itertools.pairwise(edges)]
    merged = merge_all(parts)
    np.testing.assert_array_equal(merged.count, whole.count)
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(merged.comoment, whole.comoment, rtol=1e-9, atol=1e-14)


def test_other_dimensions_have_to_match():
    x, y, z = triple(np.random.default_rng(9))
    with pytest.raises(ValueError, match="different dimensions"):
        dp.triple_collocation(x, y.isel(cell=0), z)
    with pytest.raises(ValueError, match="it needs 'time'"):
        dp.triple_collocation(x.rename(time="day"), y, z)
    with pytest.raises(ValueError, match="no time in common"):
        dp.triple_collocation(
            x.assign_coords(time=np.arange(400)),
            y.assign_coords(time=np.arange(400) + 1000),
            z.assign_coords(time=np.arange(400)),
        )
