"""Clusters that start, again and again, and clusters that cannot, and say why."""

import json
import re
import threading

import pytest
import yaml

from tests.cluster.kube import REPOSITORY, STARTS

pytestmark = pytest.mark.cluster
START = """
import sys, time
from pathlib import Path
from deepprofile import config
from deepprofile.cluster.kubernetes import kubernetes_pool

settings = ["compute.workers=1", "compute.kubernetes.start_minutes=5", "period.end=2015-05-02"]
compute = config.load(Path("/etc/deepprofile/deepprofile.yaml"), settings).compute
for number in range(int(sys.argv[1])):
    began = time.monotonic()
    with kubernetes_pool(compute, 0, lambda text: None) as pool:
        assert pool.submit(sum, (1, 2)).result() == 3
    print(f"started {number} {time.monotonic() - began:.1f}", flush=True)
"""


def test_clusters_start_every_time(empty):
    """Also when the phase Pending is written over Running while they start, as the operator may do itself."""
    over, written = threading.Event(), []

    def disturb():
        while not over.wait(0.2):
            for cluster in empty.get("daskclusters")["items"]:
                name = cluster["metadata"]["name"]
                if int(name[-1], 16) % 2 and cluster.get("status", {}).get("phase") == "Running":
                    empty.ctl("patch", "daskcluster", name, "--type=merge", '-p={"status":{"phase":"Pending"}}', check=False)
                    written.append(name)

    thread = threading.Thread(target=disturb)
    thread.start()
    empty.job("starts", command=["python", "-c", START, str(STARTS)], once=True)
    try:
        # A new quota can take minutes until it is counted, and refuses clusters until then.
        state, log = empty.finish("starts", 300 + 40 * STARTS)
    finally:
        over.set()
        thread.join()
    assert state == "Complete", log
    assert [line.split()[1] for line in log.splitlines() if line.startswith("started")] == [str(n) for n in range(STARTS)], log
    print(f"{STARTS} starts, {len(set(written))} of them with a phase written over; {log}")
    empty.nothing_left()


def failing(place, name, *settings, seconds=600, **options):
    """A run that cannot go on; returns its log, from its only pod."""
    place.job(name, "compute.workers=1", *settings, root=name, once=True, **options)
    state, log = place.finish(name, seconds)
    assert state == "Failed", log
    place.nothing_left()
    assert "Traceback" not in log, log
    return log


ADAPT = """
import time
from pathlib import Path
from deepprofile import config
from deepprofile.cluster.kubernetes import kubernetes_pool

settings = ["compute.workers=2", "compute.kubernetes.adaptive=true", "compute.kubernetes.start_minutes=2"]
settings.append("period.end=2015-05-02")
compute = config.load(Path("/etc/deepprofile/deepprofile.yaml"), settings).compute
with kubernetes_pool(compute, 0, lambda text: print(text, flush=True)) as pool:
    futures = [pool.submit(time.sleep, 4) for _ in range(16)]
    seen = set()
    while not all(future.done() for future in futures):
        seen.add(len(pool._client.scheduler_info(n_workers=-1)["workers"]))
        time.sleep(0.2)
    assert all(future.status == "finished" for future in futures)
    print("workers seen:", sorted(seen), flush=True)
"""


def test_an_adaptive_cluster_grows_with_the_work_and_no_further(empty):
    empty.job("adaptive", command=["python", "-c", ADAPT], once=True)
    state, log = empty.finish("adaptive", 400)
    assert state == "Complete", log
    assert "1 workers of" in log
    # At first, perhaps, before the one of the start has reported.
    assert re.search(r"workers seen: \[(0, )?1, 2\]", log), log
    empty.nothing_left()


def test_an_image_that_does_not_exist_is_named(empty):
    nowhere = 'compute.kubernetes.scheduler_pod={"containers":[{"image":"localhost/nowhere:1"}]}'
    log = failing(empty, "no-image", nowhere, "compute.kubernetes.start_minutes=0.4")
    assert "did not start" in log
    assert "localhost/nowhere:1" in log


def test_a_worker_that_cannot_be_scheduled_is_said_with_the_reason(empty):
    log = failing(
        empty,
        "no-node",
        'compute.kubernetes.worker_pod={"nodeSelector":{"no":"such"}}',
        # The scheduler has to be there within it, also on a busy machine.
        "compute.kubernetes.start_minutes=1.5",
    )
    assert "waiting for workers (0 of at least 1 are there)" in log
    assert "cannot be scheduled" in log
    assert "didn't match Pod's node affinity/selector" in log


def test_a_worker_that_needs_more_memory_than_its_limit_is_named(place):
    """Enough to start, too little for a block."""
    small = '{"resources":{"limits":{"memory":"150Mi"},"requests":{"memory":"150Mi"}}}'
    log = failing(
        place,
        "no-memory",
        "compute.kubernetes.worker_pod={" + f'"containers":[{small}]' + "}",
        "compute.attempts=2",
        "compute.window=1",
        DEEPPROFILE_UNTIL="2015-04-16",
    )
    assert "ran out of memory; its limit is 150Mi" in log


def test_an_operator_that_is_not_there_is_missed(empty):
    empty.ctl("scale", "deployment/dask-operator", "--replicas=0", namespace=empty.operators)
    try:
        empty.ctl("wait", "--for=delete", "pod", "--all", "--timeout=60s", namespace=empty.operators)
        log = failing(empty, "no-operator")
        assert "the Dask operator has not acted on the cluster" in log
        assert "kubectl get pods --namespace deepprofile-operator" in log
    finally:
        empty.ctl("scale", "deployment/dask-operator", "--replicas=1", namespace=empty.operators)
        empty.ctl("rollout", "status", "deployment/dask-operator", "--timeout=90s", namespace=empty.operators)


def test_a_wrong_configuration_ends_the_job_at_once(empty):
    empty.job("wrong", "compute.nothing=1")
    state, log = empty.finish("wrong", 200)
    assert state == "Failed"
    assert "there is no key 'compute.nothing'" in log
    reasons = [c["reason"] for c in empty.get("jobs", "wrong")["status"]["conditions"] if c["type"] == "Failed"]
    assert reasons == ["PodFailurePolicy"]


def test_leftovers_of_dead_drivers_are_removed_at_the_next_start(empty):
    left = yaml.safe_load((REPOSITORY / "k8s" / "base" / "daskcluster.yaml").read_text())
    left["metadata"] |= {
        "name": "deepprofile-left",
        "namespace": empty.namespace,
        "annotations": {"deepprofile.io/driver": "gone", "deepprofile.io/driver-uid": "0"},
    }
    left["spec"]["worker"]["replicas"] = 1
    empty.ctl("apply", "-f", "-", given=json.dumps(left))
    empty.job("after-dead", command=["python", "-c", START, "1"], once=True)
    state, log = empty.finish("after-dead", 300)
    assert state == "Complete", log
    assert "started 0" in log
    empty.nothing_left()
