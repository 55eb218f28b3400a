"""Scores against numpy and scipy, and the coverage of their intervals."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from deepprofile.evaluation.comparison import plain_average, step_function_mean
from deepprofile.evaluation.metrics import (
    block_length,
    effective_days,
    score,
    score_all,
    score_differences,
    summarise,
    summarise_differences,
    weighted_quantile,
)
from scipy.signal import lfilter
from scipy.stats import pearsonr

from tests.conftest import make_product


def series(values, dims=("time",)):
    return xr.DataArray(values, dims=dims, coords={"time": pd.date_range("2017-01-01", periods=np.shape(values)[-1])})


def test_scores_are_those_of_numpy_and_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.2, 0.05, 300), rng.normal(0.25, 0.05, 300)
    a[5:9] = np.nan
    out = score(series(a), series(b), resamples=50)
    e, t = np.delete(a, range(5, 9)), np.delete(b, range(5, 9))
    assert int(out.n) == 296
    assert float(out.bias) == pytest.approx(np.mean(e - t))
    assert float(out.rmse) == pytest.approx(np.sqrt(np.mean((e - t) ** 2)))
    assert float(out.ubrmse) == pytest.approx(np.std(e - t))
    assert float(out.r) == pytest.approx(pearsonr(e, t).statistic)
    for name in ("bias", "rmse", "ubrmse", "r"):
        assert float(out[f"{name}_lower"]) <= float(out[name]) <= float(out[f"{name}_upper"])


def test_block_bootstrap_covers_an_autocorrelated_bias():
    """White-noise intervals would hold the true bias in a third of the cases."""
    rng = np.random.default_rng(1)
    held = held_white = 0
    for trial in range(60):
        error = lfilter([np.sqrt(1 - 0.9**2)], [1.0, -0.9], rng.standard_normal(1200))[200:]
        truth = rng.standard_normal(1000)
        out = score(series(truth + error), series(truth), resamples=200, seed=trial)
        held += float(out.bias_lower) <= 0.0 <= float(out.bias_upper)
        held_white += abs(error.mean()) <= 1.96 * error.std() / np.sqrt(1000)
    assert held >= 48
    assert held_white <= 40


def test_blocks_grow_with_autocorrelation():
    rng = np.random.default_rng(2)
    white = rng.standard_normal(1000)
    day = np.arange(1000)
    slow = lfilter([1.0], [1.0, -0.95], white)
    # a = 0.95, n = 1000: (1.9 / 0.0975)^(2/3) * 10 = 72 days; white noise: some days.
    assert 50 <= block_length(slow, day) <= 100
    assert block_length(white, day) <= 5


def test_identical_samples_for_every_estimate():
    reference = series(np.linspace(0.1, 0.3, 40))
    full = reference + 0.01
    gappy = (reference - 0.02).where(reference.time.dt.day > 10)
    absent = xr.full_like(reference, np.nan)
    out = score_all({"full": full, "gappy": gappy, "absent": absent}, reference, resamples=0)
    # 2017-01-01 to 2017-02-09: the first ten days of January and the nine of February are missing from one.
    assert out.n.values.tolist() == [21, 21, 0]
    np.testing.assert_allclose(out.bias.values[:2], [0.01, -0.02])


def test_fewer_than_ten_days_are_not_scored():
    reference = series(np.linspace(0.1, 0.3, 9))
    out = score(reference + 0.01, reference)
    assert int(out.n) == 9
    assert np.isnan(out.rmse)
    with pytest.raises(ValueError, match="no time in common"):
        score(reference, reference.assign_coords(time=reference.time + np.timedelta64(900, "D")))


def test_summary_gives_medians_and_quartiles_by_band_and_network():
    reference = series(np.tile(np.linspace(0.1, 0.3, 50), (4, 1)), ("sensor", "time"))
    reference = reference.assign_coords(
        network=("sensor", ["A", "A", "A", "B"]),
        depth_top=("sensor", [0.05, 0.05, 0.05, 0.2]),
        depth_bottom=("sensor", [0.05, 0.05, 0.05, 0.4]),
    )
    offsets = xr.DataArray([0.01, 0.02, 0.06, 0.03], dims="sensor")
    table = summarise(score_all({"fused": reference + offsets}, reference, resamples=0), ((0.0, 0.1), (0.1, 0.5)))
    assert table[["network", "band", "sensors", "days"]].values.tolist() == [["A", "0-10 cm", 3, 150], ["B", "10-50 cm", 1, 50]]
    assert table["rmse_median"].tolist() == pytest.approx([0.02, 0.03])
    assert table["rmse_q75"].tolist() == pytest.approx([0.04, 0.03])


def test_effective_days_are_those_of_an_autoregressive_process():
    rng = np.random.default_rng(4)
    day = np.arange(20_000)
    slow = lfilter([1.0], [1.0, -0.8], rng.standard_normal(day.size))
    # (1 - 0.8) / (1 + 0.8) of the days.
    assert effective_days(slow, day) == pytest.approx(day.size / 9.0, rel=0.08)
    assert effective_days(rng.standard_normal(day.size), day) == pytest.approx(day.size, rel=0.05)
    out = score(series(0.2 + 0.01 * slow[:900]), series(np.full(900, 0.2)), resamples=0)
    assert float(out.n_effective) == effective_days(0.01 * slow[:900], day[:900])


def test_a_sensor_of_ten_days_is_no_peer_of_one_of_a_thousand():
    values, equal = np.array([0.02, 0.05, 0.01, 0.04]), np.ones(4)
    for q in (0.25, 0.5, 0.75):
        assert weighted_quantile(values, equal, q) == pytest.approx(np.quantile(values, q))
    # Two long records and three short ones that are worse: by hand, places 0, 1000, 1505, 1515 and 1525 of 1525.
    values, weights = np.array([0.03, 0.02, 0.2, 0.3, 0.1]), np.array([1000.0, 1000.0, 10.0, 10.0, 10.0])
    assert weighted_quantile(values, weights, 0.5) == pytest.approx(0.02 + 0.01 * 762.5 / 1000.0)
    assert np.isnan(weighted_quantile(np.array([np.nan]), np.ones(1), 0.5))
    assert weighted_quantile(np.array([0.1, 9.0]), np.array([1.0, 0.0]), 0.9) == 0.1


def test_step_functions_and_their_average():
    values = np.ones((12, 3, 1)) * np.array([0.1, 0.2, 0.3])[:, None]
    noah = make_product(values, ((0.0, 0.1), (0.1, 0.4), (0.4, 1.0))).isel(cell=0)
    surface = make_product(np.full((12, 1, 1), 0.5), ((0.0, 0.07),)).isel(cell=0)
    assert float(step_function_mean(noah, 0.05, 0.05).isel(time=0)) == pytest.approx(0.1)
    assert float(step_function_mean(noah, 0.0, 0.2).isel(time=0)) == pytest.approx(0.15)
    # The SCAN sensor at 1.016 m stands against the end of the profile.
    assert float(step_function_mean(noah, 1.016, 1.016).isel(time=0)) == pytest.approx(0.3)
    assert np.isnan(step_function_mean(surface, 0.2, 0.2)).all()
    both = {"noah": noah, "surface": surface}
    assert float(plain_average(both, list(both), 0.05, 0.05).isel(time=0)) == pytest.approx(0.3)
    assert float(plain_average(both, list(both), 0.2, 0.2).isel(time=0)) == pytest.approx(0.2)


def by_hand(estimate, rival, truth, days, block, starts):
    """Paired differences of RMSE and R of resampled records, one day after the other; a circle of days, with its gaps."""
    known, span = {int(d): k for k, d in enumerate(days)}, int(days[-1]) + 1
    found = []
    for row in starts:
        calendar = [(start + k) % span for start in row for k in range(block)][:span]
        chosen = [known[day] for day in calendar if day in known]
        e, o, t = estimate[chosen], rival[chosen], truth[chosen]
        rmse = np.sqrt(np.mean((e - t) ** 2)) - np.sqrt(np.mean((o - t) ** 2))
        bias = abs(np.mean(e - t)) - abs(np.mean(o - t))
        found.append((bias, rmse, np.corrcoef(e, t)[0, 1] - np.corrcoef(o, t)[0, 1]))
    return np.array(found)


def test_paired_differences_are_those_of_a_bootstrap_by_hand():
    rng = np.random.default_rng(7)
    truth = 0.25 + 0.05 * np.sin(np.arange(200) / 20.0)
    slow = lfilter([1.0], [1.0, -0.9], rng.normal(0.0, 0.01, 200))
    estimate, rival = truth + slow + 0.01, truth + slow + rng.normal(-0.02, 0.02, 200)
    # Days that only one of the three has do not count.
    estimate[3], rival[50:55], truth[120] = np.nan, np.nan, np.nan
    out = score_differences(series(estimate), series(rival), series(truth), resamples=40, seed=3)
    days = np.flatnonzero(np.isfinite(estimate + rival + truth))
    assert int(out.n) == days.size == 193
    e, o, t = estimate[days], rival[days], truth[days]
    assert float(out.rmse_estimate) == pytest.approx(np.sqrt(np.mean((e - t) ** 2)))
    assert float(out.rmse_difference) == pytest.approx(np.sqrt(np.mean((e - t) ** 2)) - np.sqrt(np.mean((o - t) ** 2)))
    assert float(out.bias_difference) == pytest.approx(abs(np.mean(e - t)) - abs(np.mean(o - t)))
    assert float(out.r_rival) == pytest.approx(pearsonr(o, t).statistic)
    block = max(block_length(e - t, days), block_length(o - t, days))
    starts = np.random.default_rng(3).integers(0, 200, (40, -(-200 // block)))
    drawn = by_hand(e, o, t, days, block, starts)
    for k, name in enumerate(("bias", "rmse", "r")):
        ends = [float(out[f"{name}_lower"]), float(out[f"{name}_upper"])]
        assert ends == pytest.approx(np.quantile(drawn[:, k], [0.025, 0.975]).tolist(), abs=1e-9)


def test_what_both_share_does_not_widen_the_interval_of_their_difference():
    rng = np.random.default_rng(8)
    truth = rng.normal(0.25, 0.05, 600)
    shared = lfilter([1.0], [1.0, -0.95], rng.normal(0.0, 0.01, 600))
    better, worse = truth + shared, truth + shared + rng.normal(0.0, 0.015, 600)
    paired = score_differences(series(better), series(worse), series(truth))
    alone = [score(series(each), series(truth)) for each in (better, worse)]
    assert float(paired.rmse_upper) < 0.0
    # Each by itself is so uncertain that the intervals overlap.
    assert float(alone[0].rmse_upper) > float(alone[1].rmse_lower)
    same = score_differences(series(better), series(better), series(truth))
    assert float(same.rmse_difference) == float(same.rmse_lower) == float(same.rmse_upper) == 0.0
    few = score_differences(series(better[:9]), series(worse[:9]), series(truth[:9]))
    assert int(few.n) == 9
    assert np.isnan(few.rmse_difference)


def test_differences_are_summed_up_by_band_and_rival():
    gaps = {"rmse": [[-0.02, -0.01, 0.03, -0.04]], "bias": [[0.01, np.nan, np.nan, np.nan]], "r": [[0.1, -0.2, 0.0, 0.3]]}
    dims = ("rival", "sensor")
    data = {"n": (dims, [[100, 200, 300, 400]]), "n_effective": (dims, [[10.0, 10.0, 10.0, 10.0]])}
    for name in ("bias", "rmse", "ubrmse", "r"):
        values = np.array(gaps.get(name, [[np.nan] * 4]))
        parts = {"difference": values, "lower": values - 0.015, "upper": values + 0.015, "estimate": values + 0.5}
        data |= {f"{name}_{part}": (dims, array) for part, array in parts.items()}
        # Of a bias only its size counts.
        data[f"{name}_rival"] = (dims, np.full((1, 4), -0.5 if name == "bias" else 0.5))
    place = {"network": ["A"] * 4, "station": ["one", "one", "two", "three"]}
    depths = {"depth_top": [0.05, 0.05, 0.05, 0.5], "depth_bottom": [0.05, 0.05, 0.05, 0.5]}
    differences = xr.Dataset(data, {"rival": ["c3s"], **{k: ("sensor", v) for k, v in (place | depths).items()}})
    table = summarise_differences(differences, ((0.0, 0.1), (0.1, 1.0)))
    assert table[["band", "metric", "sensors", "stations", "days"]].values.tolist() == [
        ["0-10 cm", "rmse", 3, 2, 600],
        ["0-10 cm", "bias", 1, 1, 100],
        ["0-10 cm", "r", 3, 2, 600],
        ["10-100 cm", "rmse", 1, 1, 400],
        ["10-100 cm", "r", 1, 1, 400],
    ]
    # Lower RMSE is better, higher R is; an interval that holds 0 decides nothing.
    assert table[["better", "worse", "undecided"]].values.tolist() == [[1, 1, 1], [0, 0, 1], [1, 1, 1], [1, 0, 0], [1, 0, 0]]
    assert table.difference.tolist() == pytest.approx([-0.01, 0.01, 0.0, -0.04, 0.3])
    assert table.rival_score.tolist() == [0.5] * 5
    assert table[["lower", "upper"]].isna().all(axis=None)
    more = xr.concat([differences.assign_coords(station=("sensor", [f"{k}{n}" for n in range(4)])) for k in range(5)], "sensor")
    table = summarise_differences(more, ((0.0, 0.1),))
    # Medians of stations drawn again: each is one of the differences, or lies between two of them.
    assert -0.02 <= table.lower[0] <= -0.01 <= table.upper[0] <= 0.03
