"""What lies below k8s/, rendered and shown to an API server."""

import json
import re
import runpy

import pytest
import yaml
from deepprofile import config as configuration
from deepprofile import twin
from deepprofile.stages.pipeline import workloads
from deepprofile.twin.granules import region

from tests.cluster.kube import REPOSITORY, render

OVERLAYS = ["operator", "overlays/local", "overlays/gke", "overlays/gke/operator"]


def test_the_definitions_are_those_of_the_wheel():
    made = runpy.run_path(str(REPOSITORY / "k8s" / "manifests.py"))["definitions"]()
    assert (REPOSITORY / "k8s" / "operator" / "crds.yaml").read_text() == made, "run `make manifests`"
    names = {document["metadata"]["name"] for document in yaml.safe_load_all(made)}
    assert names == {f"dask{kind}.kubernetes.dask.org" for kind in ("clusters", "workergroups", "jobs", "autoscalers")}


@pytest.mark.parametrize("name", ["base", "overlays/local", "overlays/gke"])
def test_configurations_are_valid(name):
    config = configuration.load(REPOSITORY / "k8s" / name / "deepprofile.yaml", ["period.end=2024-12-31"])
    assert workloads(config)


def test_the_local_overlay_covers_the_region_of_its_twin():
    folder = REPOSITORY / "k8s" / "overlays" / "local"
    until = re.search(r'DEEPPROFILE_UNTIL, value: "(.*)"', (folder / "kustomization.yaml").read_text())[1]
    config = configuration.load(folder / "deepprofile.yaml", [f"period.end={until}"])
    job = yaml.safe_load((REPOSITORY / "k8s" / "overlays" / "local" / "twin.yaml").read_text())
    arguments = job["spec"]["template"]["spec"]["containers"][0]["args"]
    given = dict(zip(arguments[2::2], arguments[3::2], strict=True))
    world = twin.simulate((int(given["--rows"]), int(given["--columns"])), 0.1, stations=1)
    assert config.grid.grid() == region(world)
    assert (config.period.end - config.period.start).days + 1 == int(given["--days"])


@pytest.mark.cluster
@pytest.mark.parametrize("folder", OVERLAYS)
def test_every_overlay_is_accepted_by_the_api_server(bare, folder):
    documents = render(folder)
    assert documents
    for document in documents:
        # A dry run knows no namespace that is made by it: the one of this test stands for both.
        if document["kind"] != "Namespace":
            if "namespace" in document["metadata"]:
                document["metadata"]["namespace"] = bare.namespace
            bare.ctl("apply", "--dry-run=server", "--validate=strict", "-f", "-", given=json.dumps(document))


def pods_of(folder):
    for document in render(folder):
        spec = document.get("spec", {})
        pod = spec.get("jobTemplate", {}).get("spec", spec).get("template", {}).get("spec")
        if pod is not None:
            yield pod


@pytest.mark.cluster
@pytest.mark.parametrize("folder", OVERLAYS)
def test_every_container_is_restricted(bare, folder):
    found = list(pods_of(folder))
    assert found
    for pod in found:
        assert pod["securityContext"]["runAsNonRoot"]
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            assert container["securityContext"]["readOnlyRootFilesystem"]
            assert set(container["resources"]) == {"requests", "limits"}


@pytest.mark.cluster
@pytest.mark.parametrize("folder", ["overlays/gke", "overlays/gke/operator"])
def test_images_on_gke_are_named_by_digest(bare, folder):
    images = [container["image"] for pod in pods_of(folder) for container in pod["containers"]]
    assert images
    assert all("@sha256:" in image for image in images)
