"""What a sensor can say of a cell, on series whose variances are known."""

import numpy as np
import pytest
from deepprofile.evaluation.representativeness import (
    BANDS_M,
    INTERVALS,
    LEVELS,
    bands,
    coverage,
    crosswise,
    differences,
    fit,
    halves,
)
from scipy import integrate, stats

CONSTANT, VARYING, POSTERIOR = 0.06, 0.03, 0.02


def world(stations, days=400, seed=0, constant=CONSTANT, varying=VARYING):
    """Estimates with a known posterior, and sensors that are off by a constant and a varying part besides."""
    rng = np.random.default_rng(seed)
    truth = 0.25 + 0.05 * rng.standard_normal((stations, days))
    estimate = truth + POSTERIOR * rng.standard_normal((stations, days))
    sensor = truth + constant * rng.standard_normal((stations, 1)) + varying * rng.standard_normal((stations, days))
    names = [f"NET{k % 3}/{k}" for k in range(stations)]
    return estimate, np.full(estimate.shape, POSTERIOR), sensor, names


def test_both_parts_are_found():
    estimate, deviation, sensor, _ = world(400)
    constant, varying = fit(differences(estimate, deviation, sensor))
    assert np.sqrt(constant) == pytest.approx(CONSTANT, rel=0.1)
    assert np.sqrt(varying) == pytest.approx(VARYING, rel=0.03)


def test_where_the_posterior_explains_all_nothing_is_left():
    estimate, deviation, sensor, _ = world(100, constant=0.0, varying=0.0)
    assert fit(differences(estimate, 1.2 * deviation, sensor)) == (0.0, 0.0)


def test_broken_sensors_move_it_little():
    estimate, deviation, sensor, _ = world(200, seed=1)
    sound = fit(differences(estimate, deviation, sensor))
    sensor[:6] += 0.6
    broken = differences(estimate, deviation, sensor)
    plain = float(np.mean(broken.mean_square - broken.variance))
    assert sum(fit(broken)) < 1.6 * sum(sound)
    assert plain > 2.5 * sum(sound)


def test_sensors_count_by_their_effective_days():
    one, few = world(40, seed=2), world(40, days=30, seed=3, constant=0.2)
    parts = [differences(*each[:3]) for each in (one, few)]
    joined = type(parts[0])(*(np.concatenate(values) for values in zip(*parts, strict=True)))
    alone = fit(parts[0])
    # Forty sensors with a tenth of the days: their variance, eleven times as large, would count half.
    assert alone[0] < fit(joined)[0] < 2.5 * alone[0]


def test_the_moments_of_a_difference():
    estimate = np.array([[0.3, 0.2, np.nan] * 8])
    sensor = np.array([[0.2, 0.2, 0.2] * 8])
    found = differences(estimate, np.full(estimate.shape, 0.1), sensor)
    assert (found.days[0], found.mean[0]) == (16, pytest.approx(0.05))
    assert found.mean_square[0] == pytest.approx(0.005)
    assert found.anomaly_square[0] == pytest.approx(0.0025)
    assert found.variance[0] == pytest.approx(0.01)
    short = differences(estimate[:, :12], np.full((1, 12), 0.1), sensor[:, :12])
    assert (short.days[0], np.isnan(short.mean[0])) == (8, True)


def test_intervals_hold_with_representativeness_and_not_without():
    estimate, deviation, sensor, names = world(300, seed=4)
    found = differences(estimate, deviation, sensor)
    band = bands(np.full(300, 0.05), np.full(300, 0.05))
    variances = crosswise(found, band, names)
    shares = coverage(estimate, deviation, sensor, variances).mean(axis=-1)
    assert shares.shape == (len(INTERVALS), len(LEVELS))
    # By hand: normal differences of the variance 0.07^2 in intervals of 0.02, and their anomalies.
    for row, width, actual in ((0, POSTERIOR, 0.07), (2, POSTERIOR, np.hypot(VARYING, POSTERIOR))):
        expected = [2 * stats.norm.cdf(stats.norm.ppf(0.5 + level / 2) * width / actual) - 1 for level in LEVELS]
        np.testing.assert_allclose(shares[row], expected, atol=0.02)
    np.testing.assert_allclose(shares[[1, 3]], [LEVELS, LEVELS], atol=0.04)


def test_no_station_judges_itself():
    estimate, deviation, sensor, names = world(60, seed=5)
    band, half = np.zeros(60, int), halves(names)
    before = crosswise(differences(estimate, deviation, sensor), band, names)
    sensor[half == 0] += 0.3 * np.random.default_rng(6).standard_normal(((half == 0).sum(), 1))
    after = crosswise(differences(estimate, deviation, sensor), band, names)
    np.testing.assert_array_equal(before.constant[half == 0], after.constant[half == 0])
    assert (after.constant[half == 1] > 2.0 * before.constant[half == 1]).all()


def test_stations_stay_together_and_networks_are_split_evenly():
    names = ["B/1", "A/1", "A/2", "A/1", "B/2", "A/3", "A/4"]
    assert halves(names).tolist() == [0, 0, 1, 0, 1, 0, 1]


def test_too_few_stations_give_no_variance_and_no_interval_that_needs_it():
    estimate, deviation, sensor, names = world(30, seed=7)
    # 16 stations near the surface, eight a half; 14 below, seven a half.
    band = np.where(np.arange(30) < 16, 0, 2)
    names = [f"{k:02d}" for k in range(30)]
    variances = crosswise(differences(estimate, deviation, sensor), band, names)
    assert np.isfinite(variances.constant).tolist() == [True] * 16 + [False] * 14
    shares = coverage(estimate, deviation, sensor, variances)
    assert np.isnan(shares[[1, 3]][..., 16:]).all()
    assert np.isfinite(shares[[0, 2]]).all()


def test_sensors_have_a_band_by_their_middle():
    tops, bottoms = np.array([0.05, 0.0, 0.1, 0.5, 1.016, 1.05, 1.2]), np.array([0.05, 0.1, 0.3, 0.5, 1.016, 1.05, 1.2])
    assert bands(tops, bottoms).tolist() == [0, 0, 1, 2, 3, 3, 3]
    assert len(BANDS_M) == 4


def test_the_expected_square_is_the_integral():
    from deepprofile.evaluation.representativeness import CUT, _expected_square

    inside = integrate.quad(lambda z: min(z * z, CUT**2) * stats.norm.pdf(z), -12.0, 12.0, points=(-CUT, CUT))[0]
    assert _expected_square(CUT) == pytest.approx(inside, abs=1e-9)
