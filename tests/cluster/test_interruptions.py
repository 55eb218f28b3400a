"""Runs that are struck while they are at work, and end with the same bytes."""

import time

import pytest
from deepprofile.lease import live_holder
from deepprofile.objects import join, names_below, read_bytes

from tests.cluster.kube import manifests, until
from tests.granules import tree

pytestmark = pytest.mark.cluster
ROOT = "gs://deepprofile"


def recorded(place, root, stage):
    """How many blocks of a stage have a record by now."""
    with place.storage():
        runs = join(f"{ROOT}/{root}", "runs")
        found = [name for name in names_below(runs) if name.startswith(f"{stage}-")]
        names = [join(runs, found[0], "blocks", n) for n in names_below(join(runs, found[0], "blocks"))] if found else []
        return sum((read_bytes(name) or b"").count(b"\n") for name in names)


# What a run has made from a stage on.
FROM = {
    "ingest-smap_l3": "ard/smap_l3 runs/ingest-smap_l3-* moments weights runs/collocate-* profile runs/invert-*",
    "invert": "profile runs/invert-*",
}


def seed(place, root, stage):
    """Begin a root with what a finished run has made before this stage."""
    place.in_storage(
        f"cd /data/deepprofile; rm -rf {root}; cp -a alone {root}; cd {root}; "
        f"rm -rf {FROM[stage]} validation runs/validate-* current.json lease.json published.json"
    )


def struck(place, name, stage, after, strike, *settings, seconds=300):
    """A run that is struck when so many blocks of a stage are recorded; returns its log."""
    seed(place, name, stage)
    place.job(name, *settings, root=name)
    until(180, lambda: recorded(place, name, stage) >= after, f"{name}: {after} blocks of {stage} are recorded", 0.1)
    strike()
    state, log = place.finish(name, seconds)
    assert state == "Complete", log
    return log


def check_same(place, root, expected):
    with place.storage():
        assert tree(f"{ROOT}/{root}") == expected
        assert live_holder(f"{ROOT}/{root}") is None
        found = manifests(f"{ROOT}/{root}")
    place.nothing_left()
    return found


def delete(place, pod, *options):
    place.ctl("delete", "pod", pod, "--wait=false", *options)


# One slow worker, so that there is time to strike while it computes.
SLOWLY = (
    "compute.workers=1",
    "compute.window=1",
    'compute.kubernetes.worker_pod={"containers":[{"resources":{"requests":{"cpu":"100m"},"limits":{"cpu":"300m"}}}]}',
)


def test_a_worker_that_is_killed_costs_the_blocks_it_held(place, expected):
    """While the operator is restarted too, which changes nothing."""

    def strike():
        operator = place.pods(namespace=place.operators)[0]["metadata"]["name"]
        place.ctl("delete", "pod", operator, "--grace-period=0", "--force", "--wait=false", namespace=place.operators)
        delete(place, place.dask_pods("worker")[0]["metadata"]["name"], "--grace-period=0", "--force")

    log = struck(place, "worker-killed", "invert", 2, strike, *SLOWLY)
    invert = check_same(place, "worker-killed", expected)["invert"]
    # A worker that was deleted is no fault of its blocks: none of them has used up an attempt for it.
    assert set(invert["losses"]) == {"deleted"}, log
    assert invert["blocks"]["done"] == invert["blocks"]["total"]
    assert "its pod was deleted" in log
    assert log.count("starting the Dask cluster") == 1
    place.ctl("rollout", "status", "deployment/dask-operator", "--timeout=60s", namespace=place.operators)


@pytest.mark.parametrize(("stage", "after"), [("ingest-smap_l3", 2), ("invert", 6)])
def test_a_driver_that_is_killed_is_followed_by_one_that_goes_on(place, expected, stage, after):
    name = f"driver-{stage.partition('-')[0]}-{after}"

    def strike():
        delete(place, place.driver(name), "--grace-period=0", "--force")

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
        delete(place, place.driver("driver-asked"), "--grace-period=45")
        until(30, lambda: "NotFound" in place.ctl("get", "daskcluster", name, check=False), "the cluster goes", 0.2)
        times.append(time.monotonic() - began)

    struck(place, "driver-asked", "invert", 2, strike, *SLOWLY)
    assert times[0] < 20
    drivers = check_same(place, "driver-asked", expected)["invert"]["drivers"]
    assert drivers[1]["skipped"] >= 2


def test_a_scheduler_that_is_lost_is_followed_by_another_cluster(place, expected):
    def strike():
        delete(place, place.dask_pods("scheduler")[0]["metadata"]["name"], "--grace-period=0", "--force")

    log = struck(place, "scheduler-killed", "invert", 2, strike, *SLOWLY)
    found = check_same(place, "scheduler-killed", expected)
    assert "going on with a new cluster, from what is recorded" in log
    assert log.count("starting the Dask cluster") == 2
    assert found["invert"]["drivers"][-1]["skipped"] >= 2


def test_a_storage_that_is_down_for_twenty_seconds_is_waited_for(place, expected):
    def strike():
        place.in_storage("touch /tmp/down; kill -9 $(cat /tmp/pid)")
        time.sleep(20)
        place.in_storage("rm /tmp/down")

    struck(place, "storage-down", "invert", 2, strike, *SLOWLY)
    invert = check_same(place, "storage-down", expected)["invert"]
    assert invert["storage_retries"] > 0
    assert invert["blocks"]["retried"] == 0
