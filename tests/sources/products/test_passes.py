"""Single passes against the same in NumPy, mask by mask."""

import numpy as np
import pytest
from deepprofile.sources.catalogue import DaySum, mean_of_steps
from deepprofile.sources.products.decoding import decode
from deepprofile.sources.products.files import Variable
from deepprofile.sources.products.passes import count_values, fill_gaps, hide, keep_range, keep_recommended

SPECIAL = np.array([np.nan, np.inf, -np.inf, -9999.0, 1e30, -1e31, 0.0, -0.0, 1e-38, 1e-7, 0.9, 0.91, -0.01, -0.5], np.float32)


def some(shape, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.uniform(-0.05, 1.0, shape).astype(np.float32)
    return np.where(rng.random(shape) < 0.3, rng.choice(SPECIAL, shape), values)


def variable(values, **attrs):
    return Variable("v", lambda: (), values.shape, values.dtype, attrs, lambda index: np.array(values[index]))


@pytest.mark.parametrize(
    "attrs",
    [
        {},
        {"_FillValue": np.float32(-9999.0)},
        {"_FillValue": -9999.0, "missing_value": np.array([0.9, 1e-7], np.float32)},
        {"_FillValue": np.float32(-9999.0), "valid_min": np.float32(0.0), "valid_max": np.float32(0.9)},
        {"valid_range": np.array([0.0, 0.5], np.float32), "missing_value": "none"},
        {"valid_min": np.float32(0.1)},
    ],
)
def test_floats_are_decoded_in_one_pass_as_mask_by_mask(attrs):
    values = some((40, 50))
    found = decode(variable(values, **attrs), (slice(None), slice(2, 49)))
    # Another type, and not contiguous: the way of everything else.
    wide = decode(variable(values.astype(np.float64), **attrs), (slice(None), slice(2, 49)))
    np.testing.assert_array_equal(found, wide)
    assert not (np.abs(found) >= 1e30).any()


@pytest.mark.parametrize("fill", [np.uint16(65534), 65534, -2, 65534.0, np.int32(7), 3.5])
def test_whole_numbers_that_are_not_packed_are_too(fill):
    values = np.random.default_rng(0).choice(np.array([0, 1, 7, 8, 65534, 65535], np.uint16), (30, 20))
    found = decode(variable(values, _FillValue=fill), (slice(None), slice(None)))
    marked = {65534: 65534, -2: 65534, 7: 7, 3.5: None}[float(fill)]
    expected = np.where(values == marked, np.nan, values) if marked is not None else values.astype(float)
    np.testing.assert_array_equal(found, expected)


def test_counts():
    values = some((3, 2, 10, 11), seed=1)
    values[~(np.abs(values) < 1e29)] = np.nan
    found = count_values(values, np.float32(-0.01), np.float32(0.9), np.float32(2.0**-125), np.float32(1e-6))
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(found.n_valid, np.isfinite(values).sum(axis=(1, 2, 3)))
        np.testing.assert_array_equal(found.there, np.isfinite(values).sum(axis=(0, 2, 3)))
        outside = (values < np.float32(-0.01)) | (values > np.float32(0.9))
        np.testing.assert_array_equal(found.outside, outside.sum(axis=(0, 2, 3)))
        assert found.zeros == (np.abs(values) < np.float32(2.0**-125)).sum() > 0
        assert found.nothings == (np.abs(values) < np.float32(1e-6)).sum() > found.zeros


def test_what_is_hidden_is_so_in_every_layer():
    values, hidden = some((2, 3, 5, 6), seed=2), np.random.default_rng(3).random((2, 5, 6)) < 0.4
    expected = np.where(hidden[:, None], np.nan, values)
    hide(values, hidden)
    np.testing.assert_array_equal(values, expected)


def test_ranges_and_residues():
    values = np.array([-1.0, -2e-6, -1e-7, -0.0, 0.0, 0.3, 0.9, 0.95, np.nan, np.inf], np.float32)
    keep_range(values, np.float32(0.0), np.float32(0.9), np.float32(1e-6))
    np.testing.assert_array_equal(values, np.array([np.nan, np.nan, 0, 0, 0, 0.3, 0.9, np.nan, np.nan, np.nan], np.float32))
    strict = np.array([-1e-7, 0.5], np.float32)
    keep_range(strict, np.float32(0.0), np.float32(0.9), np.float32(0.0))
    assert np.isnan(strict[0])


def test_flags_of_retrievals():
    values = np.array([[[0.1, 0.2, 0.3, np.nan, 0.5, 0.6, 0.7]]], np.float32)
    quality = np.array([[[0, 8, 1, 0, np.nan, 65534, -1]]], np.float32)
    there, recommended, empty = keep_recommended(values, quality, 1, np.float32(65534))
    np.testing.assert_array_equal(np.isfinite(values[0, 0]), [True, True, False, False, False, False, False])
    assert (there.tolist(), recommended, empty) == ([6], 2, 1)
    gaps = np.array([np.nan, 1.0], np.float32)
    fill_gaps(gaps, np.array([2.0, 3.0], np.float32))
    assert gaps.tolist() == [2.0, 1.0]


@pytest.mark.parametrize("needed", [1, 4, 6])
def test_the_mean_of_a_day_is_the_sum_in_the_order_of_its_steps(needed):
    steps = [
        np.where(np.random.default_rng(k).random((4, 5)) < 0.4, np.nan, np.random.default_rng(k + 9).random((4, 5))).astype(
            np.float32
        )
        for k in range(8)
    ]
    total, number = np.zeros((4, 5)), np.zeros((4, 5), int)
    for step in steps:
        total += np.nan_to_num(step, nan=0.0)
        number += np.isfinite(step)
    expected = np.where(number >= needed, total / np.maximum(number, 1), np.nan).astype(np.float32)
    np.testing.assert_array_equal(mean_of_steps(steps, needed), expected)
    day, found = DaySum((4, 5)), np.empty((4, 5), np.float32)
    for _ in range(2):
        day.clear()
        for step in steps:
            # Views of any strides.
            day.add(np.asfortranarray(step))
        day.mean(needed, found)
        np.testing.assert_array_equal(found, expected)
