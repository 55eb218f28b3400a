"""What retrievals said in the past: the filters by themselves, and as observations of the inversion."""

from itertools import pairwise

import deepprofile as dp
import numpy as np
import pytest
import xarray as xr
from deepprofile.core import memory
from deepprofile.core.biases import MEAN_KERNEL, mean_variance
from deepprofile.core.layers import stack_products
from deepprofile.core.memory import FILTERS, GAP_DAYS, exponential_filters, memory_name
from deepprofile.core.parameters import ERROR_CORRELATION_LENGTH_M, GAIN_SPREAD
from deepprofile.core.prior import kernel_covariance
from deepprofile.twin.ceiling import exponential_filter

from tests.conftest import random_products

LONGEST = max(each.window for each in FILTERS)


def series(days=300, cells=3, seen=0.45, seed=0):
    """A retrieval with gaps, (cell, day)."""
    rng = np.random.default_rng(seed)
    values = np.cumsum(rng.normal(0.0, 0.02, (cells, days)), axis=1) % 0.3 + 0.1
    return np.where(rng.random(values.shape) < seen, values, np.nan).astype(np.float32)


def without_long_gaps(values):
    """The same with a value at least every third day."""
    out = values.copy()
    out[:, ::3] = 0.2
    return out


def test_windows_equal_the_filter_of_the_whole_past():
    values = without_long_gaps(series())
    ours = exponential_filters(values)
    for k, each in enumerate(FILTERS):
        whole = exponential_filter(values.T.astype(np.float64), each.days).T
        # From the first day on: what is not there is in neither of the two.
        assert np.nanmax(np.abs(ours[..., k] - whole)) < 0.01
        np.testing.assert_allclose(ours[:, : each.window, k], whole[:, : each.window], atol=2e-6)


def test_a_value_counts_on_the_days_of_the_window_and_on_no_other():
    values = without_long_gaps(series())
    changed = values.copy()
    changed[1, 100] = 0.45
    moved = differ(exponential_filters(values), exponential_filters(changed))
    assert np.flatnonzero(moved.any(axis=(0, 2)))[[0, -1]].tolist() == [100, 100 + LONGEST - 1]
    assert not moved[[0, 2]].any()
    moved = differ(exponential_filters(values, "both"), exponential_filters(changed, "both"))
    assert np.flatnonzero(moved.any(axis=(0, 2)))[[0, -1]].tolist() == [100 - LONGEST + 1, 100 + LONGEST - 1]


def differ(a, b):
    """Where two arrays differ; missing equals missing."""
    return (a != b) & ~(np.isnan(a) & np.isnan(b))


@pytest.mark.parametrize("direction", ["past", "both"])
def test_a_stretch_with_the_days_around_it_gives_what_the_whole_gives_to_the_bit(direction):
    values = series(cells=70, seen=0.25)
    whole = exponential_filters(values, direction)
    before, after = memory.reach(direction)
    for first, stop in pairwise([0, 17, 60, 61, 220, 300]):
        low, high = max(first - before, 0), min(stop + after, 300)
        part = exponential_filters(values[5:69, low:high], direction)[:, first - low : stop - low]
        np.testing.assert_array_equal(part, whole[5:69, first:stop])


def by_hand(values, day, each, direction):
    """A filter of one series on one day, one value after the other; and the sum of its weights."""
    total, weight = 0.0, 0.0
    for step in (-1, 1) if direction == "both" else (-1,):
        since = int(step == 1 and np.isnan(values[day]))
        for age in range(0 if step == -1 else 1, each.window):
            at = day + step * age
            if not 0 <= at < len(values) or since >= GAP_DAYS:
                break
            if np.isnan(values[at]):
                since += 1
                continue
            since = 0
            total += np.exp(-age / each.days) * values[at]
            weight += np.exp(-age / each.days)
    return (total / weight if weight > 0.0 else np.nan), weight


@pytest.mark.parametrize("direction", ["past", "both"])
def test_filters_are_weighted_means_of_what_was_seen(direction):
    values = series(cells=2, seen=0.2)
    ours = exponential_filters(values, direction)
    known = 0
    for cell in range(2):
        for day in range(0, 300, 3):
            found = [by_hand(values[cell].astype(np.float64), day, each, direction) for each in FILTERS]
            expected = [value if found[-1][1] >= memory.LEAST_WEIGHT else np.nan for value, _ in found]
            np.testing.assert_allclose(ours[cell, day], expected, atol=2e-6)
            known += np.isfinite(expected).all()
    assert 40 < known < 200


def test_nothing_is_carried_across_a_long_gap():
    values = np.full((1, 60), 0.1, np.float32)
    values[0, 20 : 19 + GAP_DAYS] = np.nan
    values[0, 19 + GAP_DAYS :] = 0.4
    assert (exponential_filters(values)[0, 19 + GAP_DAYS] < 0.35).all(), "one day less than a gap"
    values[0, 19 + GAP_DAYS] = np.nan
    np.testing.assert_allclose(exponential_filters(values)[0, 20 + GAP_DAYS :], 0.4, rtol=1e-6)
    values[0, 20:] = np.nan
    there = np.isfinite(exponential_filters(values)[0, 20:35, -1])
    np.testing.assert_array_equal(there, [*[True] * (GAP_DAYS - 1), *[False] * (16 - GAP_DAYS)])


def test_one_old_value_is_too_little():
    values = np.full((1, 20), np.nan, np.float32)
    values[0, 3] = 0.2
    age = int(np.floor(-np.log(memory.LEAST_WEIGHT) * FILTERS[-1].days))
    expected = [3 <= day <= 3 + min(age, GAP_DAYS - 1) for day in range(20)]
    for k in range(len(FILTERS)):
        np.testing.assert_array_equal(np.isfinite(exponential_filters(values)[0, :, k]), expected)


def products_with_gaps(days=40, cells=2, seed=3):
    """Three models and a retrieval that was there on some days."""
    products = random_products(np.random.default_rng(seed), days=days, cells=cells)
    seen = np.random.default_rng(seed + 1).random((cells, days)) < 0.4
    products["smap_l3"] = products["smap_l3"].where(xr.DataArray(seen, dims=("cell", "time")))
    return products


def known_errors(products, variance=0.03**2):
    """An error model of these products with the same variance everywhere."""
    layout = stack_products(products).layout
    ones = xr.DataArray(np.ones((layout.size, 2)), dims=("observation", "cell"))
    means = xr.DataArray(np.linspace(0.2, 0.3, layout.size), dims="observation") * ones
    made = xr.Dataset({"error_variance": variance * ones, "bias_variance": 0.02**2 * ones, "mean": means})
    return made.assign(status=xr.zeros_like(made.error_variance, dtype=np.int8)).assign_coords(layout.coordinates())


def test_the_posterior_is_that_of_dense_linear_algebra():
    products, prior = products_with_gaps(), dp.Prior()
    errors = known_errors(products)
    profile = dp.invert(products, errors, prior=prior, bounds=(0.0, 1.0), memory=True)
    past = exponential_filters(products["smap_l3"].transpose("cell", "time", "layer").values[..., 0])
    observed = np.concatenate([p.transpose("cell", "time", "layer").values for p in products.values()] + [past], axis=-1)
    layout = stack_products(products).layout
    n, product = observed.shape[-1], [*layout.product_index, 4, 4]
    source = list(products).index("smap_l3")
    top = np.array([*layout.top, 0.0, 0.0])
    bottom = np.array([*layout.bottom, *(each.bottom for each in FILTERS)])
    # The errors: as they are within a product, and as stated between the filters and their source.
    correlation = np.eye(n)
    for i in range(n):
        for j in range(n):
            if product[i] == product[j]:
                distance = abs(top[i] + bottom[i] - top[j] - bottom[j]) / 2
                correlation[i, j] = np.exp(-distance / ERROR_CORRELATION_LENGTH_M)
            if {product[i], product[j]} == {4, source}:
                correlation[i, j] = memory.SOURCE_CORRELATION
            if product[i] == product[j] == 4 and i != j:
                correlation[i, j] = memory.FILTER_CORRELATION
    layers = prior.std**2 * kernel_covariance(prior.kernel, top, bottom)
    variance = np.full(n, 0.03**2)
    variance[-2:] = [memory.ERROR_SHARE["past"] * 0.03**2 + each.apart * prior.std**2 for each in FILTERS]
    variance = variance + GAIN_SPREAD**2 * np.diag(layers)
    noise = correlation * np.sqrt(variance[:, None] * variance)
    means = np.array([*errors["mean"].values[:, 0], *[errors["mean"].values[source_row(layout, source), 0]] * 2])
    # The profile of time means, from the products alone.
    m = layout.size
    apart = np.array([[product[i] == product[j] for j in range(m)] for i in range(m)])
    centre = (top + bottom)[:m] / 2
    biases = np.where(apart, 0.02**2 * np.exp(-np.abs(centre[:, None] - centre) / 3.0), 0.0)
    zone_top, zone_bottom = np.array([*top[:m], 0.0]), np.array([*bottom[:m], 0.05])
    mean_cov = mean_variance(prior.std) * kernel_covariance(MEAN_KERNEL, zone_top, zone_bottom)
    level = np.average(means[:m], weights=np.full(m, 1.0))
    lasting = level + mean_cov[-1, :m] @ np.linalg.solve(mean_cov[:m, :m] + biases, means[:m] - level)
    whole = prior.std**2 * kernel_covariance(prior.kernel, np.array([*top, 0.0]), np.array([*bottom, 0.05]))
    checked = 0
    for day in range(40):
        use = np.flatnonzero(np.isfinite(observed[0, day]))
        gain = np.linalg.solve(whole[np.ix_(use, use)] + noise[np.ix_(use, use)], whole[use, -1])
        expected = lasting + gain @ (observed[0, day, use] - means[use])
        # The projection is exact in the mean of 0-5 cm.
        ours = float(profile.isel(cell=0, time=day).deepprofile.mean(0.0, 0.05))
        assert ours == pytest.approx(expected, abs=2e-5)
        checked += n - 2 in use
    assert checked > 30


def source_row(layout, source):
    """Where the only layer of a product stands."""
    (row,) = np.flatnonzero(layout.product_index == source)
    return int(row)


def test_memory_has_no_vote_on_time_means_and_makes_no_profile_by_itself():
    products = products_with_gaps()
    products = {name: series if name == "smap_l3" else series.copy() for name, series in products.items()}
    for name in ("smap_l4", "gldas_noah", "era5_land"):
        products[name][{"time": slice(10, 20)}] = np.nan
    products["smap_l3"][{"time": 15}] = np.nan
    products["smap_l3"][{"time": slice(22, 34)}] = np.nan
    errors = known_errors(products)
    without, with_it = (dp.invert(products, errors, memory=m) for m in (False, True))
    used = with_it.deepprofile.uses(memory_name("smap_l3"))
    assert not used.isel(time=15).any()
    assert with_it.coefficients.isel(time=15).isnull().all()
    assert with_it.deepprofile.flag("no_observation").isel(time=15).all()
    forgotten = ~used & without.coefficients.notnull().all("degree")
    assert forgotten.isel(time=slice(30, 34)).all()
    assert used.any()
    # A day that nothing is remembered on is as it was: the means are those of the products.
    equal = (abs(with_it.coefficients - without.coefficients) < 1e-12).all("degree")
    assert equal.where(forgotten, True).all()
    assert not equal.where(used, False).any()


def test_memory_is_of_retrievals_whose_error_is_known():
    products = products_with_gaps(days=200)
    errors = known_errors(products)
    unknown = errors.assign(status=errors.status.where(errors["product"] != "smap_l3", 2))
    profile = dp.invert(products, unknown, memory=True)
    assert not profile.deepprofile.uses("smap_l3_memory").any()
    del products["smap_l3"]
    profile = dp.fuse(products)
    assert list(profile.attrs["products"]) == list(products)


def test_more_is_known_with_memory():
    products = products_with_gaps()
    errors = known_errors(products)
    without, past, both = (
        dp.invert(products, errors, memory=m).deepprofile.std_mean(0.0, 0.1) for m in (False, "past", "both")
    )
    used = slice(15, 25)
    assert past.isel(time=used).mean() < without.isel(time=used).mean()
    assert both.mean() < past.mean()


@pytest.mark.parametrize("memory", ["past", "both"])
def test_days_that_are_not_there_are_days_without_a_retrieval(memory):
    products = products_with_gaps(days=90)
    errors = known_errors(products)
    gone = np.r_[20:23, 50]
    whole = dp.invert(
        {n: p.where(~np.isin(np.arange(90), gone)[:, None]) for n, p in by_time(products).items()}, errors, memory=memory
    )
    short = dp.invert({n: p.isel(time=np.setdiff1d(np.arange(90), gone)) for n, p in products.items()}, errors, memory=memory)
    xr.testing.assert_allclose(short.coefficients, whole.coefficients.sel(time=short.time), atol=1e-6)


def by_time(products):
    """The same with time and layer last."""
    return {name: series.transpose("cell", "time", "layer") for name, series in products.items()}


@pytest.mark.parametrize("memory", [True, "both"])
def test_lazy_products_give_the_same(memory):
    products = products_with_gaps(days=130)
    errors = known_errors(products)
    eager = dp.invert(products, errors, memory=memory)
    lazy = dp.invert({n: p.chunk(time=25, cell=1) for n, p in products.items()}, errors.chunk(cell=1), memory=memory)
    assert lazy.coefficients.chunks is not None
    xr.testing.assert_allclose(lazy.coefficients.compute(), eager.coefficients, atol=1e-6)
    assert (lazy.deepprofile.uses("smap_l3_memory").compute() == eager.deepprofile.uses("smap_l3_memory")).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": "future"}, "memory is 'future'; it is True or 'past'"),
        ({"memory": "past", "method": "wls"}, "memory goes with method='map'"),
    ],
)
def test_wrong_arguments_are_refused_in_words(options, message):
    with pytest.raises(ValueError, match=message):
        dp.fuse(products_with_gaps(), **options)


def test_what_memory_needs_is_said():
    products = products_with_gaps()
    errors = known_errors(products)
    with pytest.raises(ValueError, match="variances alone: memory needs"):
        dp.invert(products, errors["error_variance"], memory=True)
    with pytest.raises(ValueError, match="memory needs an error model with"):
        dp.invert(products, errors.drop_vars("bias_variance"), memory=True)
    products["smap_l3_memory"] = products["smap_l4"].copy()
    with pytest.raises(ValueError, match="'smap_l3_memory' has the name of the past of 'smap_l3'"):
        dp.invert(products, known_errors(products), memory=True)


def test_least_squares_go_without():
    assert "smap_l3_memory" not in dp.fuse(products_with_gaps(days=120), method="wls", min_samples=10).attrs["products"]
