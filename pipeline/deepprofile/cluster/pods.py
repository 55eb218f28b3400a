"""What Kubernetes says of the pods of a Dask cluster, in words: why one does not start, and why one has ended."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

OUT_OF_MEMORY, EVICTED, PREEMPTED, DELETED, CRASHED, LOST = (
    "out of memory",
    "evicted",
    "preempted",
    "deleted",
    "crashed",
    "lost",
)
# Losses for which the block may be to blame: it is tried so often and no more.
COUNTED: Final = {OUT_OF_MEMORY, CRASHED}
# Of a container that cannot start as things are: waiting longer changes nothing.
HOPELESS: Final = {"ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError", "CreateContainerError"}
_NOT_YET: Final = {"ContainerCreating", "PodInitializing"}
_OOM_EXIT_CODE: Final = 137

Raw = Mapping[str, Any]


def name_of(pod: Raw) -> str:
    """Name of a pod."""
    return str(pod["metadata"]["name"])


# Names of the containers that compute, in k8s/base.
OUR_CONTAINERS: Final = ("driver", "scheduler", "worker")


def own_container(pod: Raw, containers: Sequence[Raw]) -> int:
    """Which of a pod's containers, or of their statuses, is ours, whatever was injected beside it.

    That is the one with our name (driver, scheduler, worker), else the one that the pod's annotation calls its default, else
    the first.
    """
    labels = pod.get("metadata", {}).get("labels") or {}
    annotations = pod.get("metadata", {}).get("annotations") or {}
    component = str(labels.get("dask.org/component", ""))
    names = [str(container.get("name", "")) for container in containers]
    for name in (component, *OUR_CONTAINERS, str(annotations.get("kubectl.kubernetes.io/default-container", ""))):
        if name and name in names:
            return names.index(name)
    return 0


def _containers(pod: Raw) -> Sequence[Raw]:
    """The status of our container: how a sidecar fares is no matter of ours. Without its name, the statuses that have none."""
    found = list(pod.get("status", {}).get("containerStatuses") or [])
    if not found or not any(status.get("name") for status in found):
        return found
    specs = list(pod.get("spec", {}).get("containers") or [])
    own = str(specs[own_container(pod, specs)].get("name", "")) if specs else ""
    named = [status for status in found if own and status.get("name") == own]
    return named or [found[own_container(pod, found)]]


def _conditions(pod: Raw) -> dict[str, Raw]:
    return {c["type"]: c for c in pod.get("status", {}).get("conditions") or []}


def terminations(pod: Raw) -> list[Raw]:
    """How the containers of a pod have ended, the latest of each."""
    found = []
    for container in _containers(pod):
        for state in ("state", "lastState"):
            ended = (container.get(state) or {}).get("terminated")
            if ended:
                found.append(ended)
                break
    return found


def restarts(pod: Raw) -> int:
    """How often its containers were started again."""
    return sum(int(container.get("restartCount", 0)) for container in _containers(pod))


def is_ready(pod: Raw) -> bool:
    """Whether it is ready."""
    return _conditions(pod).get("Ready", {}).get("status") == "True"


def memory_limit(pod: Raw) -> str:
    """The limit of its memory, as Kubernetes writes it."""
    containers = pod["spec"]["containers"]
    own = containers[own_container(pod, containers)]
    return str((own.get("resources") or {}).get("limits", {}).get("memory", "none"))


def how_it_ended(pod: Raw | None, known: Collection[str] = ()) -> tuple[str, str]:
    """Why a worker was lost: the cause, and a sentence.

    ``pod`` is the last that was seen of it; None where it is gone and was never seen to end. ``known``: containers, by their
    identifiers, whose end explains another loss: what Kubernetes remembers of a pod may be of long ago.
    """
    if pod is None:
        return DELETED, "its pod is gone"
    status, disruption = pod.get("status", {}), _conditions(pod).get("DisruptionTarget", {})
    reason = disruption.get("reason", "") if disruption.get("status") == "True" else ""
    if status.get("reason") == "Evicted" or reason in ("EvictionByEvictionAPI", "TerminationByKubelet"):
        text = status.get("message") or disruption.get("message") or "its node ran short of something"
        # A spot node that is about to go ends its pods in the same way.
        return (PREEMPTED if "node" in text.lower() and "shut" in text.lower() else EVICTED), f"it was evicted: {text}"
    if reason in ("PreemptionByScheduler", "DeletionByTaintManager", "DeletionByPodGC") or status.get("reason") in (
        "Preempting",
        "NodeShutdown",
        "Terminated",
        "Shutdown",
    ):
        return (
            PREEMPTED,
            f"its node or its place was taken away: {disruption.get('message') or status.get('message') or reason}",
        )
    new = [ended for ended in terminations(pod) if ended.get("containerID") not in known]
    for ended in new:
        if ended.get("reason") == "OOMKilled":
            return OUT_OF_MEMORY, f"it ran out of memory; its limit is {memory_limit(pod)}"
    if pod["metadata"].get("deletionTimestamp"):
        return DELETED, "its pod was deleted"
    for ended in new:
        text = ended.get("reason") or "Error"
        return CRASHED, f"it ended with exit code {ended.get('exitCode')} ({text})"
    return LOST, "the scheduler has lost it; its pod is still there"


def startup_problems(pods: Iterable[Raw], events: Iterable[Raw]) -> tuple[list[str], bool]:
    """What keeps pods from becoming ready, each as a sentence, and whether waiting is of no use."""
    said: dict[str, str] = {}
    hopeless = False
    latest = _latest_events(events)
    for pod in pods:
        if is_ready(pod):
            continue
        name = name_of(pod)
        conditions = _conditions(pod)
        scheduled = conditions.get("PodScheduled", {})
        if scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable":
            said[name] = f"{name} cannot be scheduled: {scheduled.get('message', '')}"
            continue
        ended = terminations(pod)
        killed = [e for e in ended if e.get("reason") == "OOMKilled"]
        if killed:
            said[name] = f"{name} was killed because it ran out of memory; its limit is {memory_limit(pod)}"
            hopeless = hopeless or restarts(pod) >= 2
            continue
        # A sidecar that does not start keeps the pod from being ready as ours does.
        for container in pod.get("status", {}).get("containerStatuses") or []:
            last = (container.get("lastState") or {}).get("terminated")
            waiting = (container.get("state") or {}).get("waiting") or {}
            reason = waiting.get("reason", "")
            if not reason or reason in _NOT_YET:
                continue
            text = waiting.get("message") or latest.get(name, "")
            if reason == "CrashLoopBackOff" and last:
                text = f"it ends with exit code {last.get('exitCode')}; its log says why (kubectl logs {name})"
                hopeless = hopeless or int(container.get("restartCount", 0)) >= 3
            said[name] = f"{name}: {reason}: {text}".rstrip(": ")
            hopeless = hopeless or reason in HOPELESS
        if name not in said and name in latest:
            said[name] = f"{name}: {latest[name]}"
    return sorted(said.values()), hopeless


def _latest_events(events: Iterable[Raw]) -> dict[str, str]:
    """The latest warning about each pod."""
    found: dict[str, tuple[str, str]] = {}
    for event in events:
        if event.get("type") != "Warning":
            continue
        name = event.get("involvedObject", {}).get("name", "")
        moment = str(event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or "")
        if name not in found or moment >= found[name][0]:
            found[name] = (moment, str(event.get("message", "")))
    return {name: text for name, (_, text) in found.items()}
