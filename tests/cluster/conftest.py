"""Tests on a real Kubernetes, where DEEPPROFILE_TEST_CONTEXT names a context of the kubeconfig: see docs/kubernetes.md."""

from __future__ import annotations

import os
import pickle
import shutil
import time
from pathlib import Path

import pytest
from filelock import FileLock

from tests.cluster.kube import CONTEXT, Operator, namespace
from tests.support.granules import tree


@pytest.fixture(scope="session")
def operator():
    """The operator of this process, for the namespaces of all its tests."""
    if not os.environ.get(CONTEXT):
        pytest.skip(f"set {CONTEXT} to the name of a Kubernetes context, whose images are loaded, to run the tests of clusters")
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not there")
    found = Operator()
    try:
        found.up()
        yield found
    finally:
        found.down()


@pytest.fixture(scope="session")
def seeds(operator, tmp_path_factory):
    """A bucket that holds the region's granules and the stores of a run in the same image on one machine, without Kubernetes.

    Made once, whatever the number of processes. Returns the archive of the bucket and the objects of the published stores.
    """
    shared: Path = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    archive, objects = shared / "bucket.tar", shared / "expected.pickle"
    with FileLock(shared / "bucket.lock"):
        if not objects.exists():
            began = time.monotonic()
            with namespace(operator) as place:
                place.up(twin=True)
                place.alone()
                state, log = place.finish("alone")
                assert state == "Complete", log
                place.keep(archive)
                with place.storage():
                    objects.write_bytes(pickle.dumps(tree("gs://deepprofile/alone")))
            print(f"the bucket is there after {time.monotonic() - began:.0f} s")
    return archive, pickle.loads(objects.read_bytes())


@pytest.fixture
def expected(seeds):
    """The objects of the published stores, as a run on one machine makes them."""
    return seeds[1]


@pytest.fixture
def place(operator, seeds):
    """A namespace with everything of the local overlay, and a full bucket, for one test."""
    with namespace(operator) as place:
        place.up(seeds[0])
        yield place


@pytest.fixture
def empty(operator):
    """A namespace with everything of the local overlay, and an empty bucket."""
    with namespace(operator) as place:
        place.up()
        yield place


@pytest.fixture(scope="module")
def bare(operator):
    """A namespace in which nothing runs."""
    with namespace(operator) as place:
        place.apply_bare()
        yield place
