"""The same stages on a folder and on a bucket, and on a bucket whose answers break off."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time

import pytest
import yaml
from deepprofile import config as configuration
from deepprofile.app import cli
from deepprofile.execution.pools import ThreadPool
from deepprofile.stages.pipeline import STAGES, run_stages, status_of
from deepprofile.stages.publish.files import index
from deepprofile.storage.filesystems import cache_control, filesystem, join
from deepprofile.storage.lease import LEASE
from deepprofile.storage.objects import list_children, read_json
from deepprofile.storage.roots import Root
from typer.testing import CliRunner

from tests.support.granules import NAMES, document, tree
from tests.support.object_storage import FOR_LONG, Proxy, emulator

SMALL = {"days": 12, "cells": 8, "chunk_days": 4, "chunk_cells": 4}


@pytest.fixture(scope="module")
def granule_bucket(storage_server, granules):
    """The granules as a provider's bucket holds them."""
    with emulator(storage_server.url):
        url = f"gs://{storage_server.bucket()}"
        fs, path = filesystem(url)
        for name in NAMES:
            fs.put(str(granules / name), f"{path}/{name}", recursive=True)
    return url


@pytest.fixture
def written(world, granules, tmp_path):
    """Writes a configuration for a root that may be anywhere."""

    def write(root, folder=None, name="deepprofile", **changes):
        made = document(world, granules, tmp_path, root=root, **changes)
        if folder is not None:
            made["products"] = {product: {"granules": f"{folder}/{product}"} for product in NAMES}
            made["ingest"] |= {"cache": str(tmp_path / "cache")}
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(made, sort_keys=False))
        return path

    return write


def run(path, pool=None):
    return run_stages(configuration.load(path), STAGES, pool or ThreadPool(2))


def stopping(after):
    """A pool that is interrupted when so many blocks have ended."""

    class Stopping(ThreadPool):
        ended = 0

        def wait(self, seconds):
            for found in super().wait(seconds):
                Stopping.ended += 1
                if Stopping.ended > after:
                    raise KeyboardInterrupt
                yield found

    return Stopping(2)


def test_stores_are_the_same_wherever_they_are(written, anywhere, finished, granule_bucket, storage_server):
    with emulator(storage_server.url):
        path = written(anywhere, granule_bucket if anywhere.startswith("gs") else None)
        run(path)
        assert tree(anywhere) == tree(finished.root)
        # A second run does nothing.
        assert all(result.progress.skipped == result.progress.blocks for result in run(path))
        found = status_of(configuration.load(path))
        made = {"moments", "weights", "covariance", "differences", "validation"}
        years = {f"{store}/2015" for store in (*(f"ard/{name}" for name in NAMES), "profile", "observations", "matchups")}
        years |= {f"{store}/2015" for store in ("layers", "inputs", "map")}
        assert found["current"].keys() == made | years
        assert set(found["days"]["smap_l3"].values()) == {"there"}
        assert found["lease"] is None
        if anywhere.startswith("gs"):
            for url in kept_by_caches(anywhere):
                assert cache_control_of(url) == cache_control(url), url


def kept_by_caches(root):
    """Objects of every kind that caches treat otherwise: documents, metadata of stores, chunks, copied ones too, and files."""
    layers = Root(root).open("layers/2015")
    (file, *_) = index(Root(root)).values()
    public = join(root, "public")
    named = ("zarr.json", "soil_moisture/zarr.json", "soil_moisture/c/0/0/0/0", "lat/c/0")
    return [
        *(join(root, "current.json"), join(public, "current.json"), join(public, "files.json"), join(public, file["path"])),
        *(join(layers, name) for name in named),
    ]


def cache_control_of(url):
    from google.cloud import storage

    bucket, _, name = url.removeprefix("gs://").partition("/")
    blob = storage.Client.create_anonymous_client().bucket(bucket).blob(name)
    blob.reload()
    return blob.cache_control


@pytest.mark.parametrize("anywhere", FOR_LONG, indirect=True)
def test_a_run_that_is_stopped_goes_on_where_it_was(written, anywhere, finished):
    path = written(anywhere)
    for after in (2, 8, 16):
        with pytest.raises(KeyboardInterrupt):
            run(path, stopping(after))
    results = run(path)
    assert sum(result.progress.skipped for result in results) >= 26
    assert tree(anywhere) == tree(finished.root)
    manifests = [read_json(join(anywhere, "runs", name, "manifest.json")) for name in list_children(join(anywhere, "runs"))]
    drivers = next(m["drivers"] for m in manifests if m["stage"] == "ingest/smap_l4")
    # Who began it, and who came back to it while it was not published: each found more done.
    assert 2 <= len(drivers) <= 4
    assert drivers[-1]["skipped"] == drivers[-1]["total"]


@pytest.mark.parametrize("anywhere", FOR_LONG, indirect=True)
def test_days_that_are_added_are_computed_and_the_others_are_copied(written, anywhere):
    run(written(anywhere, period={"start": "2015-04-01", "end": "2015-05-18"}))
    results = run(written(anywhere, period={"start": "2015-04-01", "end": "2015-06-11"}))
    first = results[0].progress
    assert (first.copied, first.done) == (2, 1)


def test_a_storage_that_breaks_one_request_in_twenty_changes_nothing(written, storage_server, bucket, finished, granule_bucket):
    proxy = Proxy(storage_server, 0.05, seed=7)
    with emulator(proxy.url):
        results = run(written(bucket, granule_bucket))
        manifests = [read_json(join(bucket, "runs", name, "manifest.json")) for name in list_children(join(bucket, "runs"))]
    proxy.close()
    broken = {fault: count for fault, count in proxy.counts.items() if fault != "passed"}
    assert len(broken) == 8, "every kind of fault has happened"
    assert sum(broken.values()) > 0.03 * proxy.counts["passed"]
    assert not [problem for result in results for problem in result.problems]
    # What was repeated is counted, and no block had to be computed twice for it.
    assert sum(manifest["storage_retries"] for manifest in manifests) > 10
    assert sum(result.progress.retried for result in results) == 0
    assert tree(bucket) == tree(finished.root)


def drive(path, run):
    environment = os.environ | {"DEEPPROFILE_RUN": run}
    command = [sys.executable, "-m", "deepprofile.app.cli", "run", "-c", str(path), "--set", "compute.processes=false"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


@pytest.mark.parametrize("anywhere", FOR_LONG, indirect=True)
def test_two_drivers_race_for_one_root(written, anywhere, finished):
    path = written(anywhere)
    first, second = drive(path, "one"), drive(path, "two")
    outputs = [process.communicate(timeout=300)[0] for process in (first, second)]
    codes = sorted([first.returncode, second.returncode])
    assert codes[0] == 0, outputs
    if codes[1]:
        # The other one was still at work when it proved to be alive.
        loser = outputs[0] if first.returncode else outputs[1]
        assert "is in use by the run" in loser
        assert "which has just renewed its lease" in loser
    assert tree(anywhere) == tree(finished.root)
    assert read_json(join(anywhere, LEASE))["released"]


def test_a_driver_that_was_taken_over_ends_without_publishing(written, bucket, finished):
    """The next pod of a Job starts while the one before is still running, cut off from those who believe it dead."""
    path = written(bucket)
    old = drive(path, "job-1")
    while not list_children(join(bucket, "runs")) and old.poll() is None:
        time.sleep(0.05)
    new = drive(path, "job-1")
    outputs = {}
    threads = [
        threading.Thread(target=lambda name=name, process=process: outputs.update({name: process.communicate(timeout=300)[0]}))
        for name, process in (("old", old), ("new", new))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert new.returncode == 0, outputs["new"]
    assert old.returncode == 1, outputs["old"]
    assert "was taken over by job-1" in outputs["old"]
    assert "nothing was published" in outputs["old"], outputs["old"]
    assert not [text for text in outputs.values() if "Traceback" in text or "Error" in text]
    assert tree(bucket) == tree(finished.root)


def test_no_file_of_a_root_and_no_line_of_a_run_holds_a_secret(written, granules, tmp_path, monkeypatch, capfd):
    """A signed folder of granules, a damaged granule in it, a password for workers, and one that the environment holds."""
    secrets = {"signature": "0a1b2c3d4e5f6071", "password": "hunter2Xy9-sesame", "held": "open-sesame-7"}
    monkeypatch.setenv("SOME_API_KEY", secrets["held"])
    monkeypatch.setenv("DEEPPROFILE_RUN", f"job of {secrets['held']}")
    folder = tmp_path / f"granules?day=1&X-Goog-Signature={secrets['signature']}"
    shutil.copytree(granules / "smap_l4", folder)
    damaged = sorted(folder.iterdir())[0]
    damaged.write_bytes(f"<html><title>token={secrets['password']}</title></html>".encode())
    (folder / f"notes token={secrets['password']}").write_text("no granule")
    root = tmp_path / "root"
    pod = {"containers": [{"env": [{"name": "EARTHDATA_PASSWORD", "value": secrets["password"]}]}]}
    path = written(
        str(root),
        products={"smap_l4": {"granules": str(folder)}},
        compute={"processes": False, "kubernetes": {"worker_pod": pod}},
    )
    code = CliRunner().invoke(cli.app, ["ingest", "-c", str(path)])
    shown = CliRunner().invoke(cli.app, ["status", "-c", str(path)])
    listed = CliRunner().invoke(cli.app, ["status", "-c", str(path), "--json"])
    assert (code.exit_code, shown.exit_code, listed.exit_code) == (3, 0, 0), code.output
    printed = "".join(result.output for result in (code, shown, listed)) + "".join(capfd.readouterr())
    files = {file: file.read_bytes() for file in root.rglob("*") if file.is_file()}
    assert len(files) > 10
    for secret in secrets.values():
        assert secret not in printed
        assert not [file for file, content in files.items() if secret.encode() in content]
    # What is beside the secrets is still there.
    (manifest,) = [json.loads(content) for file, content in files.items() if file.name == "manifest.json"]
    assert manifest["inputs"]["folder"] == f"{tmp_path}/granules?day=1&X-Goog-Signature=..."
    assert [damaged.name in problem for problem in manifest["problems"]].count(True) == 1
    assert manifest["configuration"]["compute"]["kubernetes"]["worker_pod"]["containers"][0]["env"][0]["value"] == "..."


def test_manifests_hold_no_credentials(written, bucket):
    path = written(bucket)
    run(path)
    for name in list_children(join(bucket, "runs")):
        text = json.dumps(read_json(join(bucket, "runs", name, "manifest.json"))).lower()
        assert not [word for word in ("token", "credential", "secret", "bearer") if word in text]
