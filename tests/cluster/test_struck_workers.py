"""Runs whose workers or storage are struck: the same bytes, and the manifest says what was lost, and why."""

import json
import time

import pytest

from tests.cluster.kube import until
from tests.cluster.strikes import SLOWLY, check_same, said, slow_worker, struck

pytestmark = pytest.mark.cluster


def test_a_worker_that_is_killed_costs_the_blocks_it_held(place, expected):
    """While the operator is restarted too, which changes nothing."""

    def strike():
        place.delete_pod(place.dask_pods("worker")[0]["metadata"]["name"], 0)
        operator = place.pods(namespace=place.operators)[0]["metadata"]["name"]
        place.delete_pod(operator, 0, place.operators)

    log = struck(place, "worker-killed", "invert", 2, strike, *SLOWLY)
    invert = check_same(place, "worker-killed", expected)["invert"]
    # A worker that was deleted is no fault of its blocks: none of them has used up an attempt for it.
    assert set(invert["losses"]) == {"deleted"}, said(log)
    assert invert["blocks"]["done"] == invert["blocks"]["total"]
    assert "its pod was deleted" in log
    assert log.count("starting the Dask cluster") == 1, said(log)
    place.ctl("rollout", "status", "deployment/dask-operator", "--timeout=60s", namespace=place.operators)


@pytest.fixture
def seat(place):
    """Something that the node has one of: whoever asks for it with more right has it from whoever holds it."""
    name, node = f"seat.example.org/{place.namespace}", place.get("nodes")["items"][0]["metadata"]["name"]
    path = name.replace("/", "~1")
    added = [{"op": "add", "path": f"/status/{which}/{path}", "value": "1"} for which in ("capacity", "allocatable")]
    place.ctl("patch", "node", node, "--subresource=status", "--type=json", "-p", json.dumps(added))
    place.ctl("create", "priorityclass", place.namespace, "--value=1000")
    yield name
    place.ctl("delete", "priorityclass", place.namespace, "--wait=false")
    removed = [{"op": "remove", "path": f"/status/capacity/{path}"}]
    place.ctl("patch", "node", node, "--subresource=status", "--type=json", "-p", json.dumps(removed), check=False)


def intruder(place, seat):
    """A pod that takes the seat, and leaves it at once."""
    storage = place.pods("app.kubernetes.io/name=storage")[0]["spec"]
    container = {k: storage["containers"][0][k] for k in ("image", "imagePullPolicy", "securityContext")}
    amounts = {"cpu": "10m", "memory": "32Mi", seat: "1"}
    container |= {"name": "intruder", "command": ["true"], "resources": {"requests": amounts, "limits": amounts}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "intruder", "namespace": place.namespace},
        "spec": {
            "priorityClassName": place.namespace,
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": storage["securityContext"],
            "containers": [container],
        },
    }


def test_workers_that_are_evicted_and_preempted_are_told_apart(place, expected, seat):
    """Neither is a fault of the blocks that they held."""
    name = None

    def workers():
        found = [p for p in place.dask_pods("worker") if not p["metadata"].get("deletionTimestamp")]
        return {p["metadata"]["name"] for p in found}

    def another_computes():
        return any("begins" in place.log_of(other) for other in workers() - {name})

    def strike():
        nonlocal name
        (name,) = workers()
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": place.namespace}}
        path = f"/api/v1/namespaces/{place.namespace}/pods/{name}/eviction"
        place.ctl("create", "--raw", path, "-f", "-", given=json.dumps(eviction))
        # Its first block takes a while, in which the intruder comes.
        until(120, another_computes, "another worker computes", 0.1)
        place.ctl("apply", "-f", "-", given=json.dumps(intruder(place, seat)))

    log = struck(place, "moved", "invert", 1, strike, *slow_worker(**{seat: "1"}))
    invert = check_same(place, "moved", expected)["invert"]
    assert set(invert["losses"]) == {"evicted", "preempted"}, said(log)
    assert invert["blocks"]["done"] == invert["blocks"]["total"]


def test_a_storage_that_is_down_for_twenty_seconds_is_waited_for(place, expected):
    def strike():
        place.in_storage("touch /tmp/down; kill -9 $(cat /tmp/pid)")
        time.sleep(20)
        place.in_storage("rm /tmp/down")

    struck(place, "storage-down", "invert", 2, strike, *SLOWLY)
    invert = check_same(place, "storage-down", expected)["invert"]
    assert invert["storage_retries"] > 0
    assert invert["blocks"]["retried"] == 0
