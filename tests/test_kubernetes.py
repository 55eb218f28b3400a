"""What is said of pods, and the cluster that a driver asks for; no Kubernetes is needed for that."""

import asyncio
import copy
import time
from pathlib import Path

import httpx
import kr8s
import pytest
import yaml
from deepprofile.cluster import kubernetes, pods
from deepprofile.cluster.kubernetes import cluster_document, kubernetes_pool, merged, pullable_image, worker_memory_bytes
from deepprofile.config import Compute, Kubernetes
from deepprofile.execution.errors import ClusterError
from deepprofile.execution.pools import WORKER_BASE_BYTES

SPEC = yaml.safe_load((Path(__file__).parents[1] / "k8s" / "base" / "daskcluster.yaml").read_text())
DRIVER = {
    "metadata": {"name": "run-1-abcde", "uid": "u-1"},
    "spec": {
        "containers": [{"name": "driver", "image": "registry/deepprofile:1", "imagePullPolicy": "IfNotPresent"}],
        "volumes": [{"name": "configuration", "configMap": {"name": "deepprofile-4f"}}],
    },
    "status": {"containerStatuses": [{"imageID": "europe-docker.pkg.dev/p/r/deepprofile@sha256:" + "a" * 64}]},
}


def pod(name="w-1", *, conditions=(), containers=(), **status):
    return {
        "metadata": {"name": name, "labels": {}, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"containers": [{"resources": {"limits": {"memory": "600Mi"}}}]},
        "status": {"conditions": list(conditions), "containerStatuses": list(containers), **status},
    }


def ended(reason, code, *, key="lastState", restarts=1):
    return {key: {"terminated": {"reason": reason, "exitCode": code}}, "restartCount": restarts}


def disrupted(reason, message=""):
    return {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}


@pytest.mark.parametrize(
    ("found", "cause", "text"),
    [
        (pod(containers=[ended("OOMKilled", 137)]), "out of memory", "its limit is 600Mi"),
        (pod(containers=[ended("OOMKilled", 137, key="state")]), "out of memory", "its limit is 600Mi"),
        (pod(containers=[ended("Error", 1)]), "crashed", "exit code 1"),
        (pod(reason="Evicted", message="The node was low on resource: memory."), "evicted", "low on resource"),
        (pod(conditions=[disrupted("EvictionByEvictionAPI", "Eviction API: evicting")]), "evicted", "Eviction API"),
        (pod(conditions=[disrupted("PreemptionByScheduler", "preempting for x")]), "preempted", "preempting for x"),
        (pod(conditions=[disrupted("DeletionByTaintManager")]), "preempted", "was taken away"),
        (
            pod(reason="Terminated", message="Pod was terminated in response to imminent node shutdown."),
            "preempted",
            "shutdown",
        ),
        (
            pod(conditions=[disrupted("TerminationByKubelet", "Pod was terminated in response to imminent node shutdown.")]),
            "preempted",
            "shutdown",
        ),
        (None, "deleted", "gone"),
        (pod(), "lost", "still there"),
    ],
)
def test_how_a_worker_ended_is_told_apart(found, cause, text):
    said = pods.how_it_ended(found)
    assert said[0] == cause
    assert text in said[1]
    # Only what a block may have brought about counts against it.
    assert (cause in pods.COUNTED) == (cause in ("out of memory", "crashed"))


def test_a_pod_that_was_deleted_is_not_a_crash():
    found = pod(containers=[ended("Error", 143, key="state")])
    found["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert pods.how_it_ended(found)[0] == "deleted"


class Pods:
    """What an API server says of the pods of a cluster, from one look to the next."""

    def __init__(self, *found):
        self.found = list(found)

    def pods_of(self, cluster):
        return copy.deepcopy(self.found)


def of(component, name, uid="u", **more):
    made = pod(name, **more)
    made["metadata"] |= {"uid": uid, "labels": {"dask.org/component": component}}
    return made


def killed(identifier, reason="OOMKilled", code=137):
    state = {"terminated": {"reason": reason, "exitCode": code, "containerID": identifier}}
    return {"lastState": state, "restartCount": 1}


@pytest.fixture
def watch(monkeypatch):
    monkeypatch.setattr(kubernetes, "WATCH_SECONDS", 3600.0)
    made = []

    def make(*found):
        api = Pods(of("scheduler", "c-scheduler-1", "s-1"), *found)
        made.append(kubernetes.Watcher(api, "c", "s-1"))
        made[-1].look()
        return api, made[-1]

    yield make
    for watcher in made:
        watcher.close()


def test_one_end_explains_what_was_lost_with_it_and_nothing_later(watch, monkeypatch):
    api, watcher = watch(of("worker", "w-1-a"))
    api.found[1] = of("worker", "w-1-a", containers=[killed("first")])
    # Two blocks were on it.
    assert [watcher.explain("w-1").cause for _ in range(2)] == ["out of memory", "out of memory"]
    assert watcher.explain("w-1").counts
    # Much later its pod is deleted; what Kubernetes still remembers of the first end has nothing to do with it.
    monkeypatch.setattr(kubernetes, "EXPLAINED_SECONDS", -1.0)
    api.found[1]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    lost = watcher.explain("w-1")
    assert (lost.cause, lost.counts) == ("deleted", False)
    api.found[1:] = [of("worker", "w-1-b", containers=[killed("second", "Error", 1)])]
    assert watcher.explain("w-1").cause == "crashed"


def test_a_pod_that_is_gone_before_anybody_saw_it_end_was_deleted(watch):
    api, watcher = watch(of("worker", "w-1-a"))
    api.found[1:] = [of("worker", "w-1-b")]
    assert watcher.explain("w-1").cause == "deleted"


@pytest.mark.parametrize("how", ["gone", "deleted", "restarted"])
def test_a_lost_scheduler_is_noticed(watch, how):
    api, watcher = watch()
    assert watcher.lost() is None
    if how == "gone":
        api.found[0] = of("scheduler", "c-scheduler-2", "s-2")
    elif how == "deleted":
        api.found[0]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    else:
        api.found[0] = of("scheduler", "c-scheduler-1", "s-1", containers=[killed("x")])
    watcher.look()
    assert watcher.lost().startswith("the scheduler was lost: ")


def waiting(reason, message="", restarts=0, **more):
    return {"state": {"waiting": {"reason": reason, "message": message}}, "restartCount": restarts, **more}


@pytest.mark.parametrize(
    ("found", "text", "hopeless"),
    [
        (
            pod(containers=[waiting("ImagePullBackOff", "Back-off pulling x")]),
            "w-1: ImagePullBackOff: Back-off pulling x",
            False,
        ),
        (pod(containers=[waiting("ErrImageNeverPull", "no x")]), "w-1: ErrImageNeverPull: no x", True),
        (pod(containers=[waiting("InvalidImageName", "X")]), "w-1: InvalidImageName: X", True),
        (pod(containers=[waiting("CrashLoopBackOff", "", 3, lastState=ended("Error", 2)["lastState"])]), "exit code 2", True),
        (pod(containers=[ended("OOMKilled", 137, restarts=2)]), "ran out of memory; its limit is 600Mi", True),
        (
            pod(
                conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}],
            ),
            "w-1 cannot be scheduled: 0/3 nodes",
            False,
        ),
        (pod(conditions=[{"type": "Ready", "status": "True"}]), "", False),
        (pod(containers=[waiting("ContainerCreating")]), "", False),
    ],
)
def test_what_keeps_a_pod_from_starting_is_said(found, text, hopeless):
    said, useless = pods.startup_problems([found], [])
    assert (text in said[0]) if text else (said == [])
    assert useless == hopeless


def test_the_latest_warning_is_said_where_nothing_else_is_known():
    def event(moment, message, kind="Warning"):
        return {"type": kind, "involvedObject": {"name": "w-1"}, "lastTimestamp": moment, "message": message, "metadata": {}}

    events = [event("2", "MountVolume failed"), event("1", "older"), event("3", "Pulled", "Normal")]
    assert pods.startup_problems([pod()], events)[0] == ["w-1: MountVolume failed"]


def test_images_are_named_by_digest_where_a_registry_knows_it():
    assert pullable_image(DRIVER) == "europe-docker.pkg.dev/p/r/deepprofile@sha256:" + "a" * 64
    loaded = copy.deepcopy(DRIVER)
    loaded["status"]["containerStatuses"][0]["imageID"] = "sha256:" + "b" * 64
    assert pullable_image(loaded) == "registry/deepprofile:1"


def test_a_cluster_is_made_from_the_spec_and_from_what_the_driver_knows():
    compute = Compute(
        workers=7,
        threads=2,
        kubernetes=Kubernetes(
            idle_minutes=3,
            worker_pod={"nodeSelector": {"spot": "true"}, "containers": [{"resources": {"requests": {"cpu": "3"}}}]},
        ),
    )
    environment = {"DEEPPROFILE_RUN": "run-1", "STORAGE_EMULATOR_HOST": "http://storage", "SECRET_TOKEN": "x", "HOME": "/"}
    before = copy.deepcopy(SPEC)
    made = cluster_document(SPEC, compute, 700 * 2**20, DRIVER, environment)
    assert before == SPEC
    name = made["metadata"]["name"]
    assert name != cluster_document(SPEC, compute, 700 * 2**20, DRIVER, environment)["metadata"]["name"]
    owner = made["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Pod", "run-1-abcde", "u-1")
    assert made["spec"]["idleTimeout"] == 180
    assert made["spec"]["scheduler"]["service"]["selector"]["dask.org/cluster-name"] == name
    worker, scheduler = made["spec"]["worker"], made["spec"]["scheduler"]
    assert worker["replicas"] == 7
    assert worker["spec"]["nodeSelector"] == {"spot": "true"}
    container = worker["spec"]["containers"][0]
    assert container["resources"] == {
        "requests": {"cpu": "3", "memory": "700Mi"},
        "limits": {"cpu": "2", "memory": "700Mi"},
    }
    assert {"--nthreads=2", f"--memory-limit={700 * 2**20}", "--no-nanny"} <= set(container["args"])
    assert sum(argument.startswith("--nthreads") for argument in container["args"]) == 1
    for part in (worker, scheduler):
        assert part["spec"]["containers"][0]["image"].endswith("a" * 64)
        assert part["spec"]["volumes"][0]["configMap"]["name"] == "deepprofile-4f"
        handed_on = {e["name"]: e["value"] for e in part["spec"]["containers"][0]["env"]}
        assert handed_on["DEEPPROFILE_RUN"] == "run-1"
        assert handed_on["STORAGE_EMULATOR_HOST"] == "http://storage"
        assert "SECRET_TOKEN" not in handed_on
    assert "set-by-the-driver" not in yaml.safe_dump(made)


def test_an_adaptive_cluster_begins_with_the_least():
    compute = Compute(workers=9, kubernetes=Kubernetes(adaptive=True, minimum_workers=2))
    assert cluster_document(SPEC, compute, 2**29, DRIVER, {})["spec"]["worker"]["replicas"] == 2


def test_the_memory_of_a_worker_comes_from_the_plan():
    assert worker_memory_bytes(0, 1) == WORKER_BASE_BYTES
    assert worker_memory_bytes(100 * 2**20, 2) == WORKER_BASE_BYTES + 250 * 2**20
    assert worker_memory_bytes(1, 1) == WORKER_BASE_BYTES + 2**20


def test_mappings_are_laid_over_one_another():
    assert merged({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"c": 3, "e": 4}, "d": [2]}) == {
        "a": {"b": 1, "c": 3, "e": 4},
        "d": [2],
    }


def test_a_driver_outside_of_a_cluster_is_told_so(monkeypatch):
    monkeypatch.delenv("POD_NAME", raising=False)
    with (
        pytest.raises(ClusterError, match="--cluster kubernetes is for a pod of the cluster, whose name is in POD_NAME"),
        kubernetes_pool(Compute(), 0, print),
    ):
        pass


def refusal(code, text, method="POST"):
    answer = httpx.Response(code, request=httpx.Request(method, "https://api/daskclusters"))
    return kr8s.ServerError(text, response=answer)


def made_after(monkeypatch, refusals, seconds=60.0):
    """How often a cluster was asked for, whose making is refused so often."""
    from dask_kubernetes.operator import KubeCluster

    asked = []

    async def create(self):
        asked.append(self.name)
        if len(asked) <= len(refusals):
            raise refusals[len(asked) - 1]

    monkeypatch.setattr(KubeCluster, "_create_cluster", create)
    monkeypatch.setattr(kubernetes, "REFUSED_SECONDS", 0.01)
    kind = kubernetes._kube_cluster(time.monotonic() + seconds, lambda late: None)
    cluster = object.__new__(type("Named", (kind,), {"name": "deepprofile-1", "__del__": lambda self: None}))
    asyncio.run(cluster._create_cluster())
    return len(asked)


def test_a_cluster_that_is_refused_for_a_moment_is_asked_for_again(monkeypatch):
    uncounted = refusal(403, "daskclusters is forbidden: status unknown for quota: deepprofile")
    assert made_after(monkeypatch, [uncounted, uncounted, refusal(429, "too many requests")]) == 4


@pytest.mark.parametrize(
    ("refused", "seconds"),
    [
        (refusal(403, "daskclusters is forbidden: exceeded quota: deepprofile"), 60.0),
        (refusal(403, "daskclusters is forbidden: status unknown for quota: deepprofile"), -1.0),
        (refusal(403, "pods is forbidden: status unknown for quota: deepprofile", "GET"), 60.0),
    ],
)
def test_a_cluster_that_is_refused_is_said_with_the_reason(monkeypatch, refused, seconds):
    with pytest.raises(ClusterError, match=r"does not make the Dask cluster deepprofile-1: .* quota: deepprofile"):
        made_after(monkeypatch, [refused], seconds)


SIDECAR = {"name": "istio-proxy", "image": "registry.example/proxy:2", "resources": {"limits": {"memory": "64Mi"}}}


def test_the_driver_is_found_by_its_name_beside_a_sidecar():
    injected = copy.deepcopy(DRIVER)
    injected["spec"]["containers"].insert(0, {**SIDECAR, "imagePullPolicy": "Always"})
    injected["status"]["containerStatuses"] = [
        {"name": "istio-proxy", "imageID": "registry.example/proxy@sha256:" + "c" * 64},
        {"name": "driver", **DRIVER["status"]["containerStatuses"][0]},
    ]
    assert pullable_image(injected) == pullable_image(DRIVER)
    made = cluster_document(SPEC, Compute(), 2**29, injected, {})
    for part in ("scheduler", "worker"):
        (own,) = made["spec"][part]["spec"]["containers"]
        assert own["image"].endswith("a" * 64)
        assert own["imagePullPolicy"] == "IfNotPresent"
    # The sidecar's digest is not taken for the driver's where that has none yet.
    injected["status"]["containerStatuses"] = injected["status"]["containerStatuses"][:1]
    assert pullable_image(injected) == "registry/deepprofile:1"


def test_a_container_of_the_spec_beside_ours_keeps_what_it_is():
    spec = copy.deepcopy(SPEC)
    spec["spec"]["worker"]["spec"]["containers"].insert(0, copy.deepcopy(SIDECAR))
    over = {"containers": [{"resources": {"limits": {"cpu": "3"}}}, {"name": "istio-proxy", "args": ["x"]}, {"name": "new"}]}
    made = cluster_document(spec, Compute(threads=3, kubernetes=Kubernetes(worker_pod=over)), 700 * 2**20, DRIVER, {})
    beside, own, new = made["spec"]["worker"]["spec"]["containers"]
    assert beside == {**SIDECAR, "args": ["x"]}
    assert own["name"] == "worker"
    assert own["resources"]["limits"] == {"cpu": "3", "memory": "700Mi"}
    assert "--nthreads=3" in own["args"]
    assert new == {"name": "new"}


def test_a_sidecar_that_ends_is_not_the_end_of_the_worker():
    found = of("worker", "w-1", containers=[{"name": "istio-proxy", **ended("Error", 1)}, {"name": "worker", "state": {}}])
    found["spec"]["containers"] = [copy.deepcopy(SIDECAR), {"name": "worker", "resources": {"limits": {"memory": "600Mi"}}}]
    assert pods.how_it_ended(found)[0] == "lost"
    assert pods.restarts(found) == 0
    assert pods.memory_limit(found) == "600Mi"
    found["status"]["containerStatuses"][1] |= ended("OOMKilled", 137)
    assert pods.how_it_ended(found) == ("out of memory", "it ran out of memory; its limit is 600Mi")
