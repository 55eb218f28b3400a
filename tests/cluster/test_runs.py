"""Whole runs on a cluster, undisturbed and struck, and what they leave."""

import base64
import os
import re
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from deepprofile.storage.lease import live_holder
from deepprofile.storage.objects import read_json
from deepprofile.storage.roots import Root, by_store

from tests.cluster.kube import POLICIES, manifests, namespace, until
from tests.support.granules import difference, tree

pytestmark = pytest.mark.cluster
ROOT = "gs://deepprofile"


class Sampler:
    """Looks at the connections of every pod again and again: (component, local port, remote address, remote port)."""

    def __init__(self, kube, folder):
        self.kube, self.folder = kube, folder
        self.flows, self.addresses, self.listening = set(), {}, {}
        self._looks = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def close(self):
        """Stop looking, and read what was seen."""
        self._over.set()
        self._thread.join()
        for part, look, file in self._looks.values():
            look.kill()
            look.wait()
            self._read(part, file.read_text())

    def _watch(self):
        while not self._over.wait(0.3):
            for pod in (*self.kube.pods(), *self.kube.pods(namespace=self.kube.operators)):
                if pod["metadata"]["uid"] not in self._looks and pod["status"]["phase"] == "Running":
                    self._look(pod)

    def _look(self, pod):
        """One command for as long as the pod lives: to begin one in a pod takes more than to look."""
        where, name, uid = (pod["metadata"][key] for key in ("namespace", "name", "uid"))
        part = _part(pod["metadata"]["labels"])
        self.addresses[pod["status"]["podIP"]] = part
        script = "while cat /proc/net/tcp /proc/net/tcp6; do sleep 0.3; done"
        command = ["kubectl", "--context", self.kube.context, "--namespace", where, "exec", name, "--", "sh", "-c", script]
        file = self.folder / uid
        with file.open("w") as seen:
            look = subprocess.Popen(command, stdout=seen, stderr=subprocess.DEVNULL)
        self._looks[uid] = part, look, file

    def _read(self, part, text):
        for line in text.splitlines():
            fields = line.split()
            if len(fields) < 4 or not re.fullmatch(r"[0-9A-F]+:[0-9A-F]{4}", fields[1]):
                continue
            (local, local_port), (remote, remote_port) = map(_endpoint, fields[1:3])
            if fields[3] == "02":
                # Asked for and not answered: no connection.
                continue
            if fields[3] == "0A":
                self.listening.setdefault(part, set()).add(local_port)
            elif not remote.startswith("127.") and remote != local:
                self.flows.add((part, local_port, remote, remote_port))


def _part(labels):
    name = labels.get("dask.org/component") or labels.get("app.kubernetes.io/component") or labels.get("app.kubernetes.io/name")
    return "operator" if name == "dask-operator" else name


def _endpoint(text):
    address, port = text.split(":")
    return ".".join(str(b) for b in reversed(base64.b16decode(address[-8:]))), int(port, 16)


@pytest.fixture(scope="module")
def undisturbed(operator, seeds, tmp_path_factory):
    """A run through the CronJob, triggered by hand, whose connections are looked at meanwhile; the tests below look at it."""
    with namespace(operator) as place, namespace(operator) as other:
        place.up(seeds[0])
        stranger = None
        if os.environ.get(POLICIES):
            other.apply_bare()
            other.stranger()
            stranger = other
        yield {"place": place, **watched(place, tmp_path_factory.mktemp("flows"), stranger)}


@pytest.fixture(scope="module")
def place(undisturbed):
    """The namespace of that run."""
    return undisturbed["place"]


def tried(place, stranger, driver, scheduler, worker):
    """What a pod of another namespace, the driver and a worker can open connections to, while the run is at work."""
    (operator,) = place.pods("app.kubernetes.io/name=dask-operator", namespace=place.operators)
    (storage,) = place.pods("app.kubernetes.io/name=storage")
    api = place.get("services", "kubernetes", namespace="default")["spec"]["clusterIP"]
    addresses = {
        "storage": (storage["status"]["podIP"], 4443),
        "scheduler": (scheduler["status"]["podIP"], 8786),
        "scheduler's page": (scheduler["status"]["podIP"], 8787),
        "worker": (worker["status"]["podIP"], 8790),
        "worker's page": (worker["status"]["podIP"], 8789),
        "operator": (operator["status"]["podIP"], 8080),
        "api": (api, 443),
        "metadata": ("169.254.169.254", 80),
    }
    asked = {
        "stranger": (stranger, stranger.pods()[0]["metadata"]["name"], list(addresses)),
        "driver": (place, driver, ["storage", "scheduler", "api", "worker", "operator"]),
        "worker": (
            place,
            worker["metadata"]["name"],
            ["storage", "scheduler", "api", "metadata", "operator", "scheduler's page"],
        ),
    }

    def ask(name):
        kube, pod, targets = asked[name]
        return {(name, to) for to in kube.reaches(pod, {to: addresses[to] for to in targets})}

    # All at the same time: the run does not wait for them.
    with ThreadPoolExecutor(len(asked)) as threads:
        return set().union(*threads.map(ask, asked))


def watched(place, folder, stranger=None):
    sampler = Sampler(place, folder)
    began = time.monotonic()
    place.job("undisturbed", root="stores")
    metrics = {}
    driver = place.driver("undisturbed")
    until(600, lambda: '"stage": "invert"' in place.log("undisturbed"), "the run inverts", 0.5)
    scheduler, worker = place.dask_pods("scheduler")[0], place.dask_pods("worker")[0]
    reached = tried(place, stranger, driver, scheduler, worker) if stranger is not None else set()
    for name, pod, port in (
        ("driver", driver, 9095),
        ("scheduler", scheduler["metadata"]["name"], 8787),
        ("worker", worker["metadata"]["name"], 8789),
    ):
        read = f"import urllib.request as r; print(r.urlopen('http://127.0.0.1:{port}/metrics').read().decode())"
        metrics[name] = place.ctl("exec", pod, "--", "python", "-c", read, check=False)
    specs = place.pods("app.kubernetes.io/name=deepprofile")
    state, log = place.finish("undisturbed")
    sampler.close()
    assert state == "Complete", log
    print(f"a run takes {time.monotonic() - began:.0f} s")
    return {"log": log, "metrics": metrics, "sampler": sampler, "pods": specs, "reached": reached}


def test_a_scheduled_run_equals_one_on_a_single_machine(place, undisturbed, expected):
    with place.storage():
        found = tree(f"{ROOT}/stores")
        assert found == expected, difference(found, expected)
        assert live_holder(f"{ROOT}/stores") is None
        blocks = manifests(f"{ROOT}/stores")["invert"]["blocks"]
    assert blocks["done"] == blocks["total"] == 18
    assert blocks["retried"] == 0
    place.nothing_left()


def test_its_log_tells_a_stranger_what_happened(undisturbed):
    log = undisturbed["log"]
    lines = log.strip().splitlines()
    assert all(line.startswith("{") and '"run": "undisturbed.' in line for line in lines), log
    for text in ("starting the Dask cluster", "of 3 workers, after", '"stage": "invert"', "published: ", "is removed"):
        assert text in log
    assert "Traceback" not in log


def test_prometheus_can_read_driver_scheduler_and_workers(undisturbed):
    metrics = undisturbed["metrics"]
    assert 'deepprofile_blocks{stage="ingest/smap_l4",state="done"}' in metrics["driver"]
    assert "dask_scheduler_workers" in metrics["scheduler"]
    assert "dask_worker_" in metrics["worker"]


def test_pods_are_restricted_and_workers_have_no_token(place, undisturbed):
    namespace = place.get("namespaces", place.namespace)
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert len(undisturbed["pods"]) >= 5
    for pod in undisturbed["pods"]:
        part = pod["metadata"]["labels"].get("dask.org/component", "driver")
        assert all(c["securityContext"]["readOnlyRootFilesystem"] for c in pod["spec"]["containers"])
        mounted = [m["mountPath"] for c in pod["spec"]["containers"] for m in c["volumeMounts"]]
        assert ("/var/run/secrets/kubernetes.io/serviceaccount" in mounted) == (part == "driver")
        assert all(set(c["resources"]) >= {"requests", "limits"} for c in pod["spec"]["containers"])
    owners = {o["kind"] for pod in undisturbed["pods"] for o in pod["metadata"]["ownerReferences"]}
    assert owners == {"Job", "ReplicaSet"}


def test_the_connections_of_a_run_are_those_that_the_policies_allow(place, undisturbed):
    """Also on a network that enforces no policy: what was seen is compared with what is written."""
    sampler = undisturbed["sampler"]
    services = {s["spec"]["clusterIP"]: s for s in place.get("services")["items"]}
    kubernetes = place.get("services", "kubernetes", namespace="default")["spec"]["clusterIP"]
    node = place.pods()[0]["status"]["hostIP"]
    seen = set()
    for part, local_port, remote, remote_port in sampler.flows:
        to = sampler.addresses.get(remote)
        to = "scheduler" if to is None and remote in services and "scheduler" in services[remote]["metadata"]["name"] else to
        to = services[remote]["metadata"]["name"] if to is None and remote in services else to
        if remote == kubernetes:
            seen.add((part, "api", 443))
        elif local_port in sampler.listening.get(part, ()):
            # Somebody else has opened it; the kubelet's probes come from the node, which no policy can keep out.
            if to is None:
                assert _is_node(remote, node, sampler), (part, local_port, remote)
                continue
            seen.add((to, part, local_port))
        elif to is not None:
            seen.add((part, to, remote_port))
        elif remote_port == 8786 or (part, remote_port) == ("operator", 8787):
            # The service of a scheduler that is gone by now; the operator also acts for tests that came before.
            seen.add((part, "scheduler", remote_port))
        else:
            raise AssertionError(f"{part} speaks to {remote}:{remote_port}, which is nothing that is known")
    allowed = {
        ("driver", "api", 443),
        ("driver", "scheduler", 8786),
        ("driver", "storage", 4443),
        ("worker", "scheduler", 8786),
        ("worker", "storage", 4443),
        ("operator", "api", 443),
        ("operator", "scheduler", 8787),
        ("scheduler", "worker", 8790),
        ("twin", "storage", 4443),
    }
    assert seen <= allowed, seen - allowed
    # The twin had written its granules before anybody looked.
    assert allowed - seen <= {("twin", "storage", 4443), ("scheduler", "worker", 8790), ("operator", "scheduler", 8787)}, (
        allowed - seen
    )
    assert _written_rules(place) == {
        *((part, "*", port) for part in ("driver", "operator") for port in (443, 6443)),
        *(flow for flow in allowed if flow[1] != "api"),
    }


def test_what_the_policies_do_not_allow_cannot_be_reached(undisturbed):
    """Each in the same run as a connection that the policies do allow, and that came about."""
    if not os.environ.get(POLICIES):
        pytest.skip(f"set {POLICIES}=1 where the network enforces NetworkPolicy")
    assert undisturbed["reached"] == {
        # Nothing keeps a stranger from the API server, which asks who it is: its own way out is open.
        ("stranger", "api"),
        ("driver", "storage"),
        ("driver", "scheduler"),
        ("driver", "api"),
        ("worker", "storage"),
        ("worker", "scheduler"),
    }


def _is_node(address, node, sampler):
    """The kubelet reaches a pod from the node, by an address of the pods' own network that no pod has."""
    return address == node or address not in sampler.addresses


def _written_rules(place):
    """(from, to, port) that some policy lets in at the one end, or out at the other; names are looked up by everybody."""

    def parts(selector):
        if name := _part(selector.get("matchLabels", {})):
            return [name]
        return ["driver", "worker", "twin"] if selector.get("matchExpressions") else []

    rules = set()
    policies = [p for name in (place.namespace, place.operators) for p in place.get("networkpolicies", namespace=name)["items"]]
    for policy in policies:
        me = parts(policy["spec"]["podSelector"])
        for rule in policy["spec"].get("ingress", []):
            for peer in rule.get("from", []):
                others = parts(peer["podSelector"]) if "podSelector" in peer else ["operator"]
                rules |= {(other, mine, p["port"]) for other in others for mine in me for p in rule["ports"]}
        for rule in policy["spec"].get("egress", []):
            ports = [p["port"] for p in rule["ports"] if p["port"] != 53]
            if not rule.get("to"):
                rules |= {(mine, "*", port) for mine in me for port in ports}
            for peer in rule.get("to", []):
                rules |= {(mine, other, port) for mine in me for other in parts(peer.get("podSelector", {})) for port in ports}
    return rules


def test_the_accounts_can_do_nothing_beyond_their_role(place):
    def may(account, namespace, inside):
        subject = f"--as=system:serviceaccount:{namespace}:{account}"
        text = place.ctl("auth", "can-i", "--list", subject, namespace=inside)
        rows = [
            re.split(r"\s{2,}", line.strip()) for line in text.splitlines()[1:] if line.strip() and not line.startswith(" ")
        ]
        found = {row[0]: row[-1] for row in rows}
        # What every account may ask about itself.
        return {k: v for k, v in found.items() if "selfsubject" not in k and k and not k.startswith("[")}

    driver = may("driver", place.namespace, place.namespace)
    assert driver == {
        "daskclusters.kubernetes.dask.org": "[get list create delete]",
        "daskworkergroups.kubernetes.dask.org": "[get list]",
        "daskautoscalers.kubernetes.dask.org": "[get list create patch]",
        "deployments.apps": "[get list]",
        "services": "[get list]",
        "pods": "[get list]",
        "events": "[get list]",
    }
    assert may("worker", place.namespace, place.namespace) == {}
    for account in ("driver", "worker"):
        assert may(account, place.namespace, "default") == {}
    observing = {"customresourcedefinitions.apiextensions.k8s.io": "[list watch]", "namespaces": "[list watch]"}
    assert may("dask-operator", place.operators, "default") == observing
    assert may("dask-operator", place.operators, place.operators) == observing
    within = may("dask-operator", place.operators, place.namespace)
    assert "secrets" not in within
    assert within["pods"] == "[get list watch patch]"


def test_the_published_versions_are_those_of_the_pointer(place, undisturbed):
    with place.storage():
        published = read_json(f"{ROOT}/stores/published.json")
        assert published["versions"] == by_store(Root(f"{ROOT}/stores").current())
        assert published["run"].startswith("undisturbed.")
