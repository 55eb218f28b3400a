"""Accuracy of the whole method on twins of one stated seed; ``make twin`` reports more of them."""

import pytest
from deepprofile import twin

from benchmarks.accuracy import TEST_SEED, UNEQUAL, UNEQUAL_TEST_SEED, judge, summary

SURFACE = ["0-5 cm", "5-10 cm"]
BELOW = ["10-30 cm", "30-50 cm", "50-70 cm", "70-100 cm"]


@pytest.fixture(
    scope="module",
    params=[(TEST_SEED, None), (UNEQUAL_TEST_SEED, UNEQUAL)],
    ids=["equal parents", "unequal parents"],
)
def found(request):
    seed, errors = request.param
    return summary(judge(twin.simulate(seed=seed, model_errors=errors)))


class TestAccuracy:
    def test_beats_every_parent_at_every_depth(self, found):
        assert (found["rmse"] < found["best_parent_rmse"]).all(), found
        assert (found["r"] > found["best_parent_r"]).all(), found

    def test_beats_the_plain_average_near_the_surface_and_keeps_up_below(self, found):
        assert (found["rmse_to_plain"][SURFACE] <= -0.10).all(), found
        assert (found["rmse_to_plain"][BELOW] <= 0.05).all(), found
        assert (found["r"] >= found["plain_r"] - 0.03).all(), found

    def test_comes_close_to_the_ceiling(self, found):
        assert (found["ubrmse_to_ceiling"] <= 0.12).all(), found

    def test_needs_the_near_surface_retrieval(self, found):
        assert (found["rmse_without_l3"][SURFACE] > found["rmse"][SURFACE]).all(), found

    def test_intervals_hold_the_truth(self, found):
        assert found["inside"].between(0.80, 0.97).all(), found
