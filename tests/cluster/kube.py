"""A Kubernetes cluster as the tests use it: through kubectl, in namespaces of their own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import yaml
from deepprofile.storage.filesystems import join
from deepprofile.storage.objects import list_children, read_json
from kubernetes import config
from urllib3.exceptions import HTTPError

from tests.support.object_storage import emulator

CONTEXT = "DEEPPROFILE_TEST_CONTEXT"
# How many clusters start in a row: in CI a few; many in `make soak`.
STARTS = int(os.environ.get("DEEPPROFILE_TEST_STARTS", "3"))
REPOSITORY = Path(__file__).resolve().parents[2]
PIPELINE, OPERATOR = "deepprofile", "deepprofile-operator"
# A label of the namespaces of one process's tests.
OF_TESTS = "deepprofile.io/tests"
# Set where the network enforces NetworkPolicy.
POLICIES = "DEEPPROFILE_TEST_POLICIES"
# Where the API has what the tests look at.
APIS = {
    "/api/v1": ("pods", "services", "namespaces", "nodes"),
    "/apis/batch/v1": ("jobs",),
    "/apis/networking.k8s.io/v1": ("networkpolicies",),
    "/apis/kubernetes.dask.org/v1": ("daskclusters", "daskworkergroups"),
}
CLUSTER_WIDE = ("namespaces", "nodes")
# Fewer days than the overlay has: enough blocks to strike between, few enough for two cores.
UNTIL = "2015-05-02"
TWIN_DAYS = 36
SMALLER = ("collocation.min_samples=20",)
# How long one answer of the API may take: connecting, and between two pieces of it.
ANSWER_SECONDS = (10, 20)
# Opens connections from within a pod, and prints the names of those that came about.
REACH = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor

def opens(address):
    try:
        socket.create_connection(tuple(address), 5).close()
    except OSError:
        return False
    return True

addresses = json.loads(sys.argv[1])
with ThreadPoolExecutor(len(addresses)) as threads:
    found = zip(addresses, threads.map(opens, addresses.values()))
    print(json.dumps([name for name, there in found if there]))
"""
# The storage server under a shell that starts it again, and can be told to wait with that.
HELD_DOWN = """
trap 'kill $child; exit 0' TERM
while true; do
    while [ -e /tmp/down ]; do sleep 0.2; done
    fake-gcs-server "$@" & child=$!
    echo $child > /tmp/pid
    wait $child
done
"""


def breakable(documents):
    """Lets a test kill the storage server and hold it down, without the loss of its files."""
    storage = next(d for d in documents if d["kind"] == "Deployment" and d["metadata"]["name"] == "storage")
    storage["spec"]["template"]["spec"]["containers"][0]["command"] = ["sh", "-c", HELD_DOWN, "sh"]


def shorten(documents):
    """The twin writes no more days than the tests read: every run lists all granules."""
    twin = next(d for d in documents if d["kind"] == "Job" and d["metadata"]["name"] == "twin")
    arguments = twin["spec"]["template"]["spec"]["containers"][0]["args"]
    arguments[arguments.index("--days") + 1] = str(TWIN_DAYS)


def until(seconds, question, what, every=0.5):
    """Ask until the answer is true; returns it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := question():
            return answer
        time.sleep(every)
    raise AssertionError(f"{what}: not within {seconds} s")


def render(folder):
    """Every object that `kubectl apply -k` would make."""
    found = subprocess.run(["kubectl", "kustomize", str(REPOSITORY / "k8s" / folder)], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return [document for document in yaml.safe_load_all(found.stdout) if document]


class Refused(Exception):
    """What the API answers where it does not do what it is asked."""

    def __init__(self, status, text):
        super().__init__(f"{status}: {text}")
        self.status = status


@lru_cache
def connection(context):
    """A connection to the API that stays open: tests ask again and again, and kubectl begins anew each time."""
    return config.new_client_from_config(context=context)


class Kubectl:
    """The cluster, in one namespace: looked at through its API, changed through kubectl."""

    def __init__(self, namespace):
        self.context, self.namespace = os.environ[CONTEXT], namespace

    def ctl(self, *arguments, given=None, check=True, namespace=None, timeout=120):
        # Manifests say themselves where each object belongs.
        inside = [] if arguments[0] == "apply" else ["--namespace", namespace or self.namespace]
        command = ["kubectl", "--context", self.context, *inside, *arguments]
        found = subprocess.run(command, input=given, capture_output=True, text=True, timeout=timeout)
        assert found.returncode == 0 or not check, f"{' '.join(arguments)}: {found.stderr}"
        return found.stdout if found.returncode == 0 else found.stderr

    def _ask(self, path, method="GET", body=None, **query):
        client = connection(self.context)
        asked = client.param_serialize(
            method, path, query_params=list(query.items()), header_params={}, body=body, auth_settings=["BearerToken"]
        )
        for attempt in range(3):
            try:
                answer = client.call_api(*asked, _request_timeout=ANSWER_SECONDS)
                text = answer.read().decode()
                break
            except HTTPError as error:
                # An answer that does not come is asked for again, and said.
                print(f"{method} {path}: {type(error).__name__}: {error}", file=sys.stderr)
                if attempt == 2 or method != "GET":
                    raise
        if answer.status >= 400:
            raise Refused(answer.status, text)
        return text

    def get(self, kind, name=None, *, selector=None, namespace=None):
        """An object, or the list of those that a selector of labels finds."""
        api = next(api for api, kinds in APIS.items() if kind in kinds)
        inside = "" if kind in CLUSTER_WIDE else f"/namespaces/{namespace or self.namespace}"
        path = f"{api}{inside}/{kind}" + (f"/{name}" if name else "")
        return json.loads(self._ask(path, **({"labelSelector": selector} if selector else {})))

    def is_there(self, kind, name):
        try:
            return bool(self.get(kind, name))
        except Refused as error:
            if error.status != 404:
                raise
            return False

    def pods(self, selector=None, namespace=None):
        return self.get("pods", selector=selector, namespace=namespace)["items"]

    def delete_pod(self, name, seconds, namespace=None):
        """Ask a pod to end within so many seconds, or end it at once; does not wait for it."""
        path = f"/api/v1/namespaces/{namespace or self.namespace}/pods/{name}"
        self._ask(path, "DELETE", {"gracePeriodSeconds": seconds})

    def log_of(self, pod):
        """What a pod has said by now; nothing before it has begun."""
        try:
            return self._ask(f"/api/v1/namespaces/{self.namespace}/pods/{pod}/log")
        except Refused:
            return ""

    def apply(self, documents):
        # Again where another process of the tests is making the same definitions of resources at the same moment.
        for _ in range(5):
            said = self.ctl("apply", "-f", "-", given=documents, check=False)
            if "rror" not in said:
                return
            time.sleep(2)
        raise AssertionError(said)


class Operator(Kubectl):
    """The operator of one process of the tests, in a namespace of its own; it acts in those of this process's tests."""

    def __init__(self):
        self.mark = uuid.uuid4().hex[:6]
        super().__init__(f"dp-{self.mark}-operator")

    def renamed(self, documents, namespace):
        """Manifests for namespaces of these tests."""
        text = yaml.safe_dump_all(documents)
        text = re.sub(rf"\b{OPERATOR}(?=[\s\"']|$)", self.namespace, text)
        text = re.sub(rf"namespace: {PIPELINE}(?=\s|$)", f"namespace: {namespace}", text)
        # The policy of the operator names the namespace that it acts in: here, all of this process's tests.
        text = re.sub(rf"kubernetes\.io/metadata\.name: {PIPELINE}(?=\s|$)", f"{OF_TESTS}: {self.mark}", text)
        # Each test has its own namespace, and the operator a pattern of their names.
        text = re.sub(rf"--namespace={PIPELINE}\b", f"--namespace=dp-{self.mark}-t*", text)
        # Of objects without a namespace, which other tests have too.
        return text.replace("deepprofile-operator-observer", f"{self.namespace}-observer")

    def up(self):
        """Everything of ``k8s/operator`` but what it puts into the pipeline's namespace."""
        self.apply(self.renamed([d for d in render("operator") if not _of_pipeline(d)], "unused"))
        self.ctl("rollout", "status", "deployment/dask-operator", "--timeout=120s", timeout=130)

    def down(self):
        """After the last cluster of its tests, whose finalizers wait for it."""
        mine = f"dp-{self.mark}-t"

        def gone():
            found = [self._ask(f"/apis/kubernetes.dask.org/v1/{kind}") for kind in ("daskclusters", "daskworkergroups")]
            return not [o for text in found for o in json.loads(text)["items"] if o["metadata"]["namespace"].startswith(mine)]

        try:
            until(90, gone, "the clusters of the tests are gone", 1.0)
        finally:
            self.ctl("delete", "namespace", self.namespace, "--wait=false", check=False)
            self.ctl("delete", "clusterrole,clusterrolebinding", f"{self.namespace}-observer", check=False)


def _of_pipeline(document):
    metadata = document["metadata"]
    return metadata.get("namespace") == PIPELINE or (document["kind"], metadata["name"]) == ("Namespace", PIPELINE)


class Kube(Kubectl):
    """Everything of a test: a namespace of the pipeline, and what is applied to it."""

    def __init__(self, operator):
        super().__init__(f"dp-{operator.mark}-t{uuid.uuid4().hex[:6]}")
        self.operator, self.operators = operator, operator.namespace
        self._forward, self._url = None, ""

    # --- manifests

    def apply_bare(self):
        """The namespace, and what the operator needs in it."""
        self._apply([d for d in render("operator") if _of_pipeline(d)])

    def _apply(self, documents):
        for document in documents:
            if document["kind"] == "Namespace":
                document["metadata"]["name"] = self.namespace
                document["metadata"].setdefault("labels", {})[OF_TESTS] = self.operator.mark
        self.apply(self.operator.renamed(documents, self.namespace))

    def up(self, seeds=None, twin=False):
        """The local overlay, and its bucket: with what a seed holds, with what the twin writes, or empty."""
        self.apply_bare()
        documents = render("overlays/local")
        breakable(documents)
        shorten(documents)
        self._apply([d for d in documents if twin or (d["kind"], d["metadata"]["name"]) != ("Job", "twin")])
        self.ctl("rollout", "status", "deployment/storage", "--timeout=120s", timeout=130)
        if twin:
            self.ctl("wait", "--for=condition=complete", "job/twin", "--timeout=480s", timeout=490)
        if seeds is not None:
            with seeds.open("rb") as archive:
                self._beside_storage("tar -C /data --xattrs --xattrs-include='*' -x", stdin=archive)

    def keep(self, seeds):
        """Write the bucket into an archive, from which other tests begin."""
        with seeds.open("wb") as archive:
            self._beside_storage("tar -C /data --xattrs --xattrs-include='*' -c deepprofile", stdout=archive)

    def _beside_storage(self, script, **streams):
        pod = self.pods("app.kubernetes.io/name=storage")[0]["metadata"]["name"]
        command = ["kubectl", "--context", self.context, "--namespace", self.namespace, "exec", "--stdin", pod]
        subprocess.run([*command, "--container", "storage", "--", "sh", "-c", script], check=True, timeout=120, **streams)

    def down(self):
        """Clusters first, which the operator has to let go; then all the rest."""
        self.close()
        self.ctl("delete", "jobs,cronjobs", "--all", "--wait=false", check=False)
        self.ctl("delete", "daskclusters", "--all", "--timeout=60s", check=False, timeout=90)
        self.ctl("delete", "namespace", self.namespace, "--wait=false", check=False)

    def stranger(self):
        """A pod that is nobody's; returns its name once it runs."""
        driver = next(d for d in render("base") if d["kind"] == "CronJob")
        template = driver["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        spec = {key: template[key] for key in ("securityContext",) if key in template}
        (container,) = template["containers"]
        kept = {key: container[key] for key in ("image", "imagePullPolicy", "securityContext") if key in container}
        kept |= {"name": "stranger", "command": ["sleep", "3600"]}
        spec |= {"containers": [kept], "restartPolicy": "Never", "automountServiceAccountToken": False}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "stranger", "namespace": self.namespace}, "spec": spec}
        self.ctl("apply", "-f", "-", given=json.dumps(pod))
        self.ctl("wait", "--for=condition=ready", "pod/stranger", "--timeout=90s")
        return "stranger"

    def reaches(self, pod, addresses):
        """Which of these (host, port), by name, a connection can be opened to from within a pod; all are tried at once."""
        found = self.ctl("exec", pod, "--", "python", "-c", REACH, json.dumps(addresses))
        return set(json.loads(found))

    # --- runs

    def job(self, name, *settings, root=None, command=None, once=False, cronjob=PIPELINE, **environment):
        """Start a run by hand, as an operator does; returns its name. ``once``: it is not repeated when it fails."""
        made = self.ctl("create", "job", f"--from=cronjob/{cronjob}", name, "--dry-run=client", "-o", "json")
        job = json.loads(made)
        container = job["spec"]["template"]["spec"]["containers"][0]
        given = [*SMALLER, *settings, *([f"root=gs://deepprofile/{root}"] if root else [])]
        environment = {"DEEPPROFILE_UNTIL": UNTIL, "DEEPPROFILE_SET": " ".join(given), **environment}
        kept = [each for each in container["env"] if each["name"] not in environment]
        container["env"] = kept + [{"name": name, "value": value} for name, value in environment.items()]
        # Several tests share a small node.
        container["resources"]["requests"]["cpu"] = "50m"
        if command:
            container["args"] = command
        if once:
            job["spec"]["backoffLimit"] = 0
        self.ctl("apply", "-f", "-", given=json.dumps(job))
        return name

    def alone(self):
        """Start, once, a run in the same image on one machine, without Kubernetes."""
        command = ["deepprofile", "run", "--config", "/etc/deepprofile/deepprofile.yaml"]
        if not self.is_there("jobs", "alone"):
            self.job("alone", "compute.processes=false", "compute.workers=2", root="alone", command=command)

    def ended(self, name):
        """How a run has ended: Complete, Failed, or nothing yet."""
        conditions = self.get("jobs", name).get("status", {}).get("conditions", [])
        return next((c["type"] for c in conditions if c["status"] == "True" and c["type"] in ("Complete", "Failed")), None)

    def finish(self, name, seconds=600):
        """Wait for the end of a run; returns how it ended, and its log."""
        state = until(seconds, lambda: self.ended(name), f"{name} ends")
        return state, self.log(name)

    def log(self, name):
        """The log of all pods of a run, the oldest first."""
        pods = sorted(self.pods(f"batch.kubernetes.io/job-name={name}"), key=lambda p: p["metadata"]["creationTimestamp"])
        return "".join(self.log_of(pod["metadata"]["name"]) for pod in pods)

    def driver(self, name):
        """The running pod of a run."""

        def running():
            found = self.pods(f"batch.kubernetes.io/job-name={name}")
            return [p for p in found if p["status"]["phase"] == "Running" and not p["metadata"].get("deletionTimestamp")]

        return until(60, running, f"a driver of {name} runs")[0]["metadata"]["name"]

    def dask_pods(self, component):
        return self.pods(f"dask.org/component={component}")

    def nothing_left(self, root=None):
        """No cluster, no pod of one, no lease that somebody holds."""
        until(60, lambda: not self.get("daskclusters")["items"], "no DaskCluster is left")
        until(60, lambda: not self.pods("dask.org/cluster-name"), "no pod of a Dask cluster is left")

    @contextmanager
    def storage(self):
        """Within, ``gs://`` is the storage server of this place."""
        if self._forward is None or self._forward.poll() is not None:
            self._begin_to_forward()
        with emulator(self._url):
            yield

    def _begin_to_forward(self):
        command = ["kubectl", "--context", self.context, "-n", self.namespace, "port-forward", "service/storage", ":4443"]
        # It says a line for each connection: nobody would read them from a pipe, which is full at some time.
        with tempfile.NamedTemporaryFile("r+") as said:
            self._forward = subprocess.Popen(command, stdout=said.fileno(), stderr=subprocess.STDOUT)

            def port():
                said.seek(0)
                text = said.read()
                assert self._forward.poll() is None, text
                return re.search(r"127\.0\.0\.1:(\d+)", text)

            self._url = f"http://127.0.0.1:{until(30, port, 'the storage is reached', 0.05).group(1)}"

    def in_storage(self, script):
        """Run a script beside the storage server."""
        pod = self.pods("app.kubernetes.io/name=storage")[0]["metadata"]["name"]
        return self.ctl("exec", pod, "--container", "storage", "--", "sh", "-ec", script)

    def close(self):
        """End the connection to the storage server."""
        if self._forward is not None:
            self._forward.kill()
            self._forward.wait()
            self._forward = None


@contextmanager
def namespace(operator):
    """A namespace of its own; what is applied to it goes with it."""
    place = Kube(operator)
    try:
        yield place
    finally:
        place.down()


def manifests(root):
    """The manifests of a root's runs, by stage."""
    names = list_children(join(root, "runs"))
    return {m["stage"]: m for m in (read_json(join(root, "runs", name, "manifest.json")) for name in names)}
