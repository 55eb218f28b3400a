"""Tests on a real Kubernetes, where DEEPPROFILE_TEST_CONTEXT names a context of the kubeconfig: see docs/kubernetes.md."""

from __future__ import annotations

import os
import shutil
import time

import pytest

from tests.cluster.kube import CONTEXT, Kube
from tests.granules import tree


@pytest.fixture(scope="session")
def kubernetes():
    if not os.environ.get(CONTEXT):
        pytest.skip(f"set {CONTEXT} to the name of a Kubernetes context, whose images are loaded, to run the tests of clusters")
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not there")


@pytest.fixture(scope="session")
def place(kubernetes):
    """A namespace of the pipeline with everything of the local overlay, and an operator of its own."""
    kube = Kube()
    began = time.monotonic()
    try:
        kube.up()
        print(f"{kube.namespace} is up after {time.monotonic() - began:.0f} s")
        yield kube
    finally:
        if os.environ.get("DEEPPROFILE_TEST_KEEP") is None:
            kube.down()
        kube.close()


@pytest.fixture(scope="session")
def expected(place):
    """The stores of a run in the same image on one machine, without Kubernetes."""
    place.alone()
    state, log = place.finish("alone")
    assert state == "Complete", log
    with place.storage():
        return tree("gs://deepprofile/alone")
