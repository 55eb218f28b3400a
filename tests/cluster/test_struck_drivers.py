"""Runs whose driver or scheduler is struck: what is recorded is not done again, and the bytes are the same."""

import time

import pytest

from tests.cluster.kube import STARTS, until
from tests.cluster.strikes import SLOWLY, check_same, struck

pytestmark = pytest.mark.cluster


# In CI one; in `make soak` both.
STRUCK = [("invert", 6), ("ingest-smap_l3", 2)][: 2 if STARTS > 3 else 1]


@pytest.mark.parametrize(("stage", "after"), STRUCK)
def test_a_driver_that_is_killed_is_followed_by_one_that_goes_on(place, expected, stage, after):
    name = f"driver-{stage.partition('-')[0]}-{after}"

    def strike():
        place.delete_pod(place.driver(name), 0)

    log = struck(place, name, stage, after, strike, *SLOWLY)
    drivers = check_same(place, name, expected)[stage.replace("-", "/", 1)]["drivers"]
    assert len(drivers) == 2
    assert drivers[0]["run"] == drivers[1]["run"]
    assert drivers[1]["total"] > drivers[1]["skipped"] >= after
    assert drivers[1]["skipped"] + drivers[1]["done"] == drivers[1]["total"]
    assert "is held by" not in log


def test_a_driver_that_is_asked_to_end_removes_its_cluster_within_seconds(place, expected):
    times = []

    def strike():
        name = place.get("daskclusters")["items"][0]["metadata"]["name"]
        began = time.monotonic()
        place.delete_pod(place.driver("driver-asked"), 45)
        until(30, lambda: not place.is_there("daskclusters", name), "the cluster goes", 0.2)
        times.append(time.monotonic() - began)

    struck(place, "driver-asked", "invert", 2, strike, *SLOWLY)
    assert times[0] < 20
    drivers = check_same(place, "driver-asked", expected)["invert"]["drivers"]
    assert drivers[1]["skipped"] >= 2


def test_a_scheduler_that_is_lost_is_followed_by_another_cluster(place, expected):
    def strike():
        place.delete_pod(place.dask_pods("scheduler")[0]["metadata"]["name"], 0)

    log = struck(place, "scheduler-killed", "invert", 2, strike, *SLOWLY)
    found = check_same(place, "scheduler-killed", expected)
    assert "going on with a new cluster, from what is recorded" in log
    assert log.count("starting the Dask cluster") == 2
    assert found["invert"]["drivers"][-1]["skipped"] >= 2
