"""A Dask cluster on Kubernetes as a pool of the block engine: made from one spec, watched, and removed whatever happens."""

from __future__ import annotations

import asyncio
import copy
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from deepprofile.cluster import pods
from deepprofile.config import Compute
from deepprofile.execution.errors import ClusterError, PoolLostError, WorkerLostError
from deepprofile.execution.pools import BLOCK_MARGIN, WORKER_BASE_BYTES, DaskPool

log = logging.getLogger(__name__)

MANAGED_BY: Final = "app.kubernetes.io/managed-by=deepprofile"
DRIVER, DRIVER_UID = "deepprofile.io/driver", "deepprofile.io/driver-uid"
_MEBIBYTE: Final = 2**20
# Passed on from the driver to its cluster: where storage is, and how it is asked. Credentials never are.
PASSED_ON: Final = (
    *("DEEPPROFILE_RUN", "DEEPPROFILE_LOG", "DEEPPROFILE_STORAGE_CREDENTIALS", "DEEPPROFILE_REQUESTER_PAYS"),
    "STORAGE_EMULATOR_HOST",
)
CLOSE_SECONDS: Final = 20.0
WATCH_SECONDS: Final = 2.0
# What is waited for is said after so long, and then less and less often.
SAY_SECONDS, LONGEST_SAY_SECONDS = 10.0, 80.0
# How long the operator may take to act on a new cluster.
OPERATOR_SECONDS: Final = 45.0
LOST_SCHEDULER_SECONDS: Final = 30.0
EXPLAINED_SECONDS: Final = 30.0
# Between two attempts to make a cluster that the API server cannot make at the moment.
REFUSED_SECONDS: Final = 1.0


def worker_memory_bytes(memory_per_block: int, threads: int) -> int:
    """Memory of a worker's pod, by the largest block of the plan, in whole mebibytes."""
    needed = WORKER_BASE_BYTES + BLOCK_MARGIN * threads * memory_per_block
    return int(-(-needed // _MEBIBYTE)) * _MEBIBYTE


def merged(below: Any, above: Any) -> Any:
    """A mapping laid over another, key by key; anything else is replaced."""
    if not isinstance(below, Mapping) or not isinstance(above, Mapping):
        return copy.deepcopy(above)
    return {
        key: merged(below[key], above[key]) if key in below and key in above else copy.deepcopy(above.get(key, below.get(key)))
        for key in [*below, *(key for key in above if key not in below)]
    }


def _named(containers: Sequence[Mapping[str, Any]], name: str) -> int:
    """The container of this name; the first where none has it."""
    return next((k for k, each in enumerate(containers) if each.get("name") == name), 0)


def _lay_over(containers: list[Any], given: Mapping[str, Any], part: str) -> None:
    """Lay a container over the one of its name, key by key; one of a new name is added, one without a name is for ours."""
    name = str(given.get("name", part))
    if "name" in given and name != part and all(each.get("name") != name for each in containers):
        containers.append(copy.deepcopy(dict(given)))
        return
    k = _named(containers, name)
    containers[k] = merged(containers[k], {key: value for key, value in given.items() if key != "name"})


def pullable_image(pod: Mapping[str, Any]) -> str:
    """The image of a running pod by its digest, where a registry knows it; else by the name in its spec."""
    containers = pod["spec"]["containers"]
    own = containers[pods.own_container(pod, containers)]
    statuses = pod.get("status", {}).get("containerStatuses") or []
    # Statuses come in an order of their own.
    status = next((each for each in statuses if each.get("name") == own.get("name")), None)
    if status is None and len(statuses) == len(containers) == 1:
        status = statuses[0]
    found = str((status or {}).get("imageID", "")).removeprefix("docker-pullable://")
    named = str(own["image"])
    repository = found.partition("@")[0]
    host = repository.partition("/")[0]
    return found if "@sha256:" in found and "." in host and host != "docker.io" else named


def cluster_document(
    spec: Mapping[str, Any], compute: Compute, memory_bytes: int, driver: Mapping[str, Any], environment: Mapping[str, str]
) -> dict[str, Any]:
    """The DaskCluster for a run: the spec, with what only the driver knows.

    Parameters
    ----------
    spec
        As it stands in ``k8s/base/daskcluster.yaml``.
    compute
        Number of workers, threads, and what is put over the pods.
    memory_bytes
        Of each worker.
    driver
        The driver's pod, as the API server gives it.
    environment
        Of the driver; the variables of ``PASSED_ON`` are handed on.
    """
    made: dict[str, Any] = copy.deepcopy(dict(spec))
    name = f"deepprofile-{secrets.token_hex(4)}"
    meta = driver["metadata"]
    made["metadata"] = merged(
        made["metadata"],
        {
            "name": name,
            "annotations": {DRIVER: meta["name"], DRIVER_UID: meta["uid"]},
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"], "blockOwnerDeletion": False}
            ],
        },
    )
    made["spec"]["idleTimeout"] = int(60 * compute.kubernetes.idle_minutes)
    made["spec"]["scheduler"]["service"]["selector"]["dask.org/cluster-name"] = name
    made["spec"]["worker"]["replicas"] = compute.kubernetes.minimum_workers if compute.kubernetes.adaptive else compute.workers
    container = driver["spec"]["containers"][pods.own_container(driver, driver["spec"]["containers"])]
    configuration = next(
        (
            v["configMap"]["name"]
            for v in driver["spec"].get("volumes", [])
            if "configMap" in v and v["name"] == "configuration"
        ),
        None,
    )
    handed_on = [{"name": key, "value": environment[key]} for key in PASSED_ON if environment.get(key)]
    over = {"scheduler": compute.kubernetes.scheduler_pod, "worker": compute.kubernetes.worker_pod}
    for part in ("scheduler", "worker"):
        pod = made["spec"][part]["spec"]
        for volume in pod.get("volumes", []):
            if "configMap" in volume and configuration is not None:
                volume["configMap"]["name"] = configuration
        # A container that the spec has beside ours keeps its own image.
        own = pod["containers"][_named(pod["containers"], part)]
        own["image"] = pullable_image(driver)
        own["imagePullPolicy"] = container.get("imagePullPolicy", "IfNotPresent")
        own["env"] = [*own.get("env", []), *handed_on]
        if part == "worker":
            resources = own.setdefault("resources", {})
            for kind in ("requests", "limits"):
                resources.setdefault(kind, {})["memory"] = f"{memory_bytes // _MEBIBYTE}Mi"
            arguments = [a for a in own["args"] if not str(a).startswith("--nthreads")]
            own["args"] = [*arguments, f"--nthreads={compute.threads}", f"--memory-limit={memory_bytes}"]
        given = dict(over[part])
        containers = given.pop("containers", None) or []
        pod = merged(pod, given)
        for each in containers:
            _lay_over(pod["containers"], each, part)
        made["spec"][part]["spec"] = pod
    return made


@dataclass(frozen=True)
class _Api:
    """The few questions that are asked of the API server."""

    namespace: str

    def own_pod(self) -> dict[str, Any]:
        import kr8s

        name = os.environ.get("POD_NAME")
        if not name:
            raise ClusterError(
                "--cluster kubernetes is for a pod of the cluster, whose name is in POD_NAME (see k8s/base/schedule.yaml); "
                "without it, leave the option out and the run is local"
            )
        from kr8s.objects import Pod

        try:
            return dict(Pod.get(name, namespace=self.namespace).raw)
        except kr8s.NotFoundError as error:
            raise ClusterError(f"there is no pod {name} in the namespace {self.namespace}: see POD_NAME") from error

    def all(self, kind: str, selector: str | None = None) -> list[dict[str, Any]]:
        import kr8s

        found = kr8s.get(kind, namespace=self.namespace, **({"label_selector": selector} if selector else {}))
        return [dict(each.raw) for each in found]

    def pods_of(self, cluster: str) -> list[dict[str, Any]]:
        return self.all("pods", f"dask.org/cluster-name={cluster}")


def remove_leftovers(namespace: str, say: Callable[[str], None]) -> int:
    """Delete the clusters of drivers that are no longer there; returns how many they were."""
    from kr8s.objects import new_class

    kind = new_class("DaskCluster", "kubernetes.dask.org/v1", asyncio=False)
    api = _Api(namespace)
    alive = {
        pod["metadata"]["uid"]
        for pod in api.all("pods")
        if pod.get("status", {}).get("phase") in ("Pending", "Running") and not pod["metadata"].get("deletionTimestamp")
    }
    count = 0
    for cluster in kind.list(namespace=namespace, label_selector=MANAGED_BY):
        meta = cluster.raw["metadata"]
        if meta.get("annotations", {}).get(DRIVER_UID) in alive or meta.get("deletionTimestamp"):
            continue
        say(f"removing the Dask cluster {meta['name']}, whose driver {meta.get('annotations', {}).get(DRIVER)} has ended")
        with suppress(Exception):
            cluster.delete()
            count += 1
    return count


class Watcher:
    """Follows the pods of a cluster, so that it is known how each of them ended even when it is gone."""

    def __init__(self, api: _Api, cluster: str, scheduler_uid: str) -> None:
        self._api, self._cluster, self._scheduler_uid = api, cluster, scheduler_uid
        self._pods: dict[str, dict[str, Any]] = {}
        self._alive: set[str] = set()
        self._scheduler_restarts: int | None = None
        # When the end of a container has first explained a loss.
        self._explained: dict[str, float] = {}
        self._reason: str | None = None
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="deepprofile-pods", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop following."""
        self._over.set()

    def _follow(self) -> None:
        while not self._over.wait(WATCH_SECONDS):
            with suppress(Exception):
                self.look()

    def look(self) -> None:
        """Ask once."""
        found = {pods.name_of(pod): pod for pod in self._api.pods_of(self._cluster)}
        with self._lock:
            self._pods |= found
            self._alive = set(found)
            schedulers = [p for p in found.values() if p["metadata"]["labels"].get("dask.org/component") == "scheduler"]
            mine = [p for p in schedulers if p["metadata"]["uid"] == self._scheduler_uid]
            if not mine or mine[0]["metadata"].get("deletionTimestamp"):
                self._reason = self._reason or f"the scheduler was lost: {pods.how_it_ended(mine[0] if mine else None)[1]}"
            else:
                restarts = pods.restarts(mine[0])
                if self._scheduler_restarts is not None and restarts > self._scheduler_restarts:
                    self._reason = self._reason or f"the scheduler was lost: {pods.how_it_ended(mine[0])[1]}"
                self._scheduler_restarts = restarts if self._scheduler_restarts is None else self._scheduler_restarts

    def lost(self) -> str | None:
        """Why the scheduler is gone, if it is."""
        return self._reason

    def explain(self, worker: str) -> WorkerLostError:
        """Why a worker was lost, by the name that Dask knows it by: that of its Deployment."""
        cause, text = pods.LOST, ""
        deadline = time.monotonic() + 6.0
        # Kubernetes may learn of it a moment after Dask has.
        while cause == pods.LOST and time.monotonic() < deadline:
            with suppress(Exception):
                self.look()
            with self._lock:
                cause, text = self._how_it_ended(worker)
            if cause == pods.LOST:
                time.sleep(0.5)
        message = f"the worker {worker} was lost while it computed the block: {text}"
        log.debug("%s", message, extra={"worker": worker, "cause": cause})
        return WorkerLostError(cause, cause in pods.COUNTED, message)

    def _how_it_ended(self, worker: str) -> tuple[str, str]:
        now = time.monotonic()
        # Several blocks may be lost with one container, at one time; later its end explains nothing any more.
        known = [identifier for identifier, since in self._explained.items() if now - since > EXPLAINED_SECONDS]
        of_it = sorted(
            (pod for name, pod in self._pods.items() if name.startswith(f"{worker}-")),
            key=lambda pod: str(pod["metadata"]["creationTimestamp"]),
        )

        def new_ends(pod: Mapping[str, Any]) -> list[str]:
            return [str(end.get("containerID")) for end in pods.terminations(pod) if end.get("containerID") not in known]

        def has_gone(pod: Mapping[str, Any]) -> bool:
            return pods.name_of(pod) not in self._alive or bool(pod["metadata"].get("deletionTimestamp"))

        # Of several the one that ended last: a Deployment has put another in the place of the first.
        ended = [pod for pod in of_it if has_gone(pod) or new_ends(pod)]
        chosen = ended[-1] if ended else (of_it[-1] if of_it else None)
        cause, text = pods.how_it_ended(chosen, known)
        if chosen is not None:
            for identifier in new_ends(chosen):
                self._explained.setdefault(identifier, now)
            if cause == pods.LOST and pods.name_of(chosen) not in self._alive:
                return pods.DELETED, "its pod was deleted"
        return cause, text


def refused_for_now(error: Any) -> bool:
    """Whether the API server has made nothing, and may in a moment: too much to do, or a quota that is not counted yet."""
    answer = error.response
    if answer is None or answer.request.method != "POST":
        return False
    text = str(error)
    return answer.status_code in (429, 503) or (
        answer.status_code in (403, 409) and ("status unknown for quota" in text or "object has been modified" in text)
    )


def _kube_cluster(deadline: float, problem: Callable[[bool], None]) -> type[Any]:
    import kr8s
    from dask_kubernetes.operator import KubeCluster
    from kr8s.asyncio.objects import Deployment

    class Cluster(KubeCluster):  # type: ignore[misc]
        """KubeCluster that waits for the scheduler itself: the operator may write an old phase over a new one."""

        async def _create_cluster(self) -> None:
            while True:
                try:
                    await super()._create_cluster()
                    return
                except kr8s.ServerError as error:
                    if not refused_for_now(error) or time.monotonic() > deadline:
                        raise ClusterError(f"the API server does not make the Dask cluster {self.name}: {error}") from error
                await asyncio.sleep(REFUSED_SECONDS)

        async def _wait_for_controller(self) -> None:
            began = time.monotonic()
            while True:
                seen = False
                with suppress(kr8s.NotFoundError, TimeoutError):
                    deployment = await Deployment.get(f"{self.name}-scheduler", namespace=self.namespace, timeout=1)
                    seen = True
                    if int(deployment.raw.get("status", {}).get("availableReplicas", 0)) >= 1:
                        return
                late = time.monotonic() > deadline or (not seen and time.monotonic() - began > OPERATOR_SECONDS)
                # Blocking calls, of another loop: they have a thread of their own.
                await asyncio.to_thread(problem, late)
                await asyncio.sleep(0.3)

    return Cluster


@contextmanager
def kubernetes_pool(compute: Compute, memory_per_block: int, say: Callable[[str], None]) -> Iterator[DaskPool]:
    """A Dask cluster on Kubernetes, of the size that the configuration states, gone when the block ends.

    Raises
    ------
    ClusterError
        Where it does not start within the time that the configuration allows; the message says why.
    deepprofile.execution.pools.PoolLostError
        Out of the pool, where its scheduler is lost.
    """
    import dask
    from distributed import Client

    namespace = os.environ.get("POD_NAMESPACE", "default")
    api = _Api(namespace)
    driver = api.own_pod()
    path = Path(compute.kubernetes.spec)
    try:
        spec = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ClusterError(f"compute.kubernetes.spec: {path}: {error.strerror or error}") from error
    remove_leftovers(namespace, say)
    memory = worker_memory_bytes(memory_per_block, compute.threads)
    document = cluster_document(spec, compute, memory, driver, os.environ)
    name = str(document["metadata"]["name"])
    deadline = time.monotonic() + 60.0 * compute.kubernetes.start_minutes
    waiting = _Waiting(api, name, say)
    count = document["spec"]["worker"]["replicas"]
    say(f"starting the Dask cluster {name}: {count} workers of {memory // _MEBIBYTE} MiB")
    cluster: Any = None
    watcher: Watcher | None = None
    client: Any = None
    # The scheduler is watched by its pod: a client that finds another one in its place would not notice.
    settings = {"distributed.comm.timeouts.connect": "30s", "distributed.comm.retry.count": 2}
    with dask.config.set(settings):
        try:
            kind = _kube_cluster(deadline, waiting.for_scheduler)
            try:
                cluster = kind(
                    custom_cluster_spec=document,
                    namespace=namespace,
                    quiet=True,
                    shutdown_on_close=True,
                    resource_timeout=max(30, int(deadline - time.monotonic())),
                )
            except (ClusterError, KeyboardInterrupt):
                raise
            except Exception as error:  # noqa: BLE001
                waiting.for_scheduler(True, str(error))
            if compute.kubernetes.adaptive:
                cluster.adapt(minimum=compute.kubernetes.minimum_workers, maximum=compute.workers)
            client = Client(f"tcp://{name}-scheduler.{namespace}:8786", timeout="60s", set_as_default=False)
            wanted = min(compute.kubernetes.minimum_workers, compute.workers)
            while (here := len(client.scheduler_info(n_workers=-1)["workers"])) < wanted:
                waiting.for_workers(time.monotonic() > deadline, here, wanted)
                time.sleep(0.3)
            watcher = Watcher(api, name, _scheduler_uid(api, name))
            say(f"the Dask cluster {name} is there: {here} of {count} workers, after {waiting.seconds:.0f} s")
            yield DaskPool(client, compute.workers * compute.threads, watcher.explain, _Check(watcher, client))
        finally:
            if watcher is not None:
                watcher.close()
            _close(cluster, client, name, namespace, say)


def _scheduler_uid(api: _Api, name: str) -> str:
    found = [p for p in api.pods_of(name) if p["metadata"]["labels"].get("dask.org/component") == "scheduler"]
    ready = [p for p in found if not p["metadata"].get("deletionTimestamp")]
    if not ready:
        raise PoolLostError(f"the scheduler of {name} was lost as soon as it was there")
    return str(ready[0]["metadata"]["uid"])


class _Check:
    """Called again and again while blocks are waited for: raises where the scheduler is gone."""

    def __init__(self, watcher: Watcher, client: Any) -> None:
        self._watcher, self._client = watcher, client
        self._silent_since: float | None = None

    def __call__(self) -> None:
        reason = self._watcher.lost()
        connected = self._client.status == "running"
        if connected:
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = time.monotonic()
            with suppress(Exception):
                self._watcher.look()
        elif time.monotonic() - self._silent_since > LOST_SCHEDULER_SECONDS:
            reason = reason or "the scheduler does not answer any more"
        if reason is not None:
            raise PoolLostError(reason)


class _Waiting:
    """Says, now and then, what a starting cluster waits for, and gives up where that is of no use."""

    def __init__(self, api: _Api, name: str, say: Callable[[str], None]) -> None:
        self._api, self._name, self.print_status = api, name, say
        self._began = time.monotonic()
        self._said, self._pause = self._began, SAY_SECONDS
        self._hopeless = 0

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._began

    def for_scheduler(self, late: bool, also: str = "") -> None:
        """Called again and again until the scheduler is there."""
        found = self._api.pods_of(self._name)
        if not found:
            if late:
                raise ClusterError(
                    f"the Dask operator has not acted on the cluster {self._name} for {self.seconds:.0f} s: is it running, and "
                    f"does it watch this namespace? See 'kubectl get pods --namespace deepprofile-operator'{_reason(also)}"
                )
            self._now_and_then("waiting for the Dask operator to act on the new cluster")
            return
        self._look(
            "the scheduler", [p for p in found if p["metadata"]["labels"].get("dask.org/component") == "scheduler"], late, also
        )

    def for_workers(self, late: bool, here: int, wanted: int) -> None:
        """Called again and again until there are enough workers."""
        found = self._api.pods_of(self._name)
        workers = [p for p in found if p["metadata"]["labels"].get("dask.org/component") == "worker"]
        self._look(f"workers ({here} of at least {wanted} are there)", workers, late)

    def _look(self, what: str, found: list[dict[str, Any]], late: bool, also: str = "") -> None:
        said, hopeless = pods.startup_problems(found, self._api.all("events") if found else [])
        # Twice in a row: what is read may be a moment old.
        self._hopeless = self._hopeless + 1 if hopeless else 0
        reasons = "; ".join(said[:3])
        if late or self._hopeless > 2:
            raise ClusterError(
                f"the Dask cluster {self._name} did not start within {self.seconds:.0f} s, waiting for {what}: "
                f"{reasons or 'nothing is known of why'}{_reason(also)}"
            )
        self._now_and_then(f"waiting for {what}" + (f": {reasons}" if reasons else ""))

    def _now_and_then(self, text: str) -> None:
        if time.monotonic() - self._said >= self._pause:
            self._said = time.monotonic()
            self._pause = min(2 * self._pause, LONGEST_SAY_SECONDS)
            self.print_status(f"{text} ({self.seconds:.0f} s)")


def _reason(text: str) -> str:
    return f" ({text})" if text else ""


def _close(cluster: Any, client: Any, name: str, namespace: str, say: Callable[[str], None]) -> None:
    """Remove the cluster, and see that it is gone, within seconds."""
    from kr8s.objects import new_class

    began = time.monotonic()
    with suppress(Exception):
        if client is not None:
            client.close(timeout=2)
    kind = new_class("DaskCluster", "kubernetes.dask.org/v1", asyncio=False)
    try:
        found = list(kind.list(namespace=namespace, field_selector=f"metadata.name={name}"))
        for each in found:
            if not each.raw["metadata"].get("deletionTimestamp"):
                each.delete(propagation_policy="Background")
        while time.monotonic() - began < CLOSE_SECONDS:
            if not list(kind.list(namespace=namespace, field_selector=f"metadata.name={name}")):
                say(f"the Dask cluster {name} is removed")
                break
            time.sleep(0.3)
        else:
            say(f"the Dask cluster {name} is being removed, but the operator has not confirmed it: is it running?")
    except Exception as error:  # noqa: BLE001
        log.warning("the Dask cluster %s could not be removed: %s; the next run will do it", name, error)
    if cluster is not None:
        with suppress(Exception):
            cluster.shutdown_on_close = False
            cluster.close(timeout=5)
