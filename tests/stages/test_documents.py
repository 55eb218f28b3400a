"""What a run makes of documents that are damaged, old, newer, or changed by hand: it goes on, or says what is wrong."""

import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest
import yaml
from deepprofile import config as configuration
from deepprofile.app import cli
from deepprofile.execution.pools import ThreadPool
from deepprofile.stages.pipeline import STAGES, Request, run_stages
from deepprofile.stages.retention import PUBLICATIONS, expired_versions
from deepprofile.storage import conditional_writes
from deepprofile.storage.documents import FORMAT
from deepprofile.storage.lease import GUARDED_FORMAT, LEASE, Holder, Lease
from deepprofile.storage.roots import Root
from typer.testing import CliRunner

from tests.support.granules import document, tree

# One of each kind of document that a run keeps, as a pattern below the root.
KINDS = {
    "pointer": "current.json",
    "lease": LEASE,
    "last publication": "published.json",
    "publication": f"{PUBLICATIONS}/*.json",
    "request": "remade.json",
    "manifest of an ingest": "runs/ingest-smap_l4-*/manifest.json",
    "manifest of an inversion": "runs/invert-*/manifest.json",
    "days of an ingest": "runs/ingest-era5_land-*/days.json",
    "days of an inversion": "runs/invert-*/days.json",
    "records of an ingest": "runs/ingest-gldas_noah-*/blocks/*.jsonl",
    "records of an inversion": "runs/invert-*/blocks/*.jsonl",
    "days of layers": "runs/publish-layers-*/days.json",
    "records of maps": "runs/publish-map-*/blocks/*.jsonl",
    "pointer of strangers": "public/current.json",
    "index of files": "public/files.json",
}
DAMAGES = {
    "cut": lambda text: text[: len(text) // 2],
    "other types": lambda text: re.sub(r'": ("[^"]*"|\d+(\.\d+)?)', '": [null]', text),
}


@pytest.fixture(scope="module")
def made(world, granules, tmp_path_factory):
    """A finished root, small and asked for a new error model; its files, and the configuration as YAML."""
    folder = tmp_path_factory.mktemp("made")
    changes = {"period__end": "2015-05-18", "blocks__days": 48, "blocks__cells": 16, "blocks__chunk_cells": 16}
    described = document(world, granules, folder / "root", collocation__every_days=0, **changes)
    described["compute"] = {"workers": 1, "processes": False}
    path = folder / "deepprofile.yaml"
    path.write_text(yaml.safe_dump(described, sort_keys=False))
    run_stages(configuration.load(path), STAGES, ThreadPool(2), request=Request(remake=True))
    return folder, described


@pytest.fixture
def root(made, tmp_path):
    """A copy of it, and how to call the command line on it."""
    folder, described = made
    shutil.copytree(folder / "root", tmp_path / "root", copy_function=os.link)
    path = tmp_path / "deepprofile.yaml"
    path.write_text(yaml.safe_dump(described | {"root": str(tmp_path / "root")}, sort_keys=False))

    def call(command, *arguments):
        result = CliRunner().invoke(cli.app, [command, "-c", str(path), *arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert "Traceback" not in result.stderr
        return result.exit_code, " ".join((result.stdout + result.stderr).split())

    return tmp_path / "root", call


def rewritten(root, kind, change):
    """Change a document of this kind; returns its path."""
    (path, *_) = sorted(root.glob(KINDS[kind]))
    text = change(path.read_text())
    # A new file: the copies share their files by links.
    path.unlink()
    path.write_bytes(text.encode(errors="surrogateescape"))
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_document_is_made_anew_or_refused_in_words(root, made, kind, damage, monkeypatch):
    monkeypatch.setattr("deepprofile.storage.lease.DURATION_SECONDS", 0.5)
    folder, call = root
    path = rewritten(folder, kind, DAMAGES[damage])
    content = path.read_bytes()
    for command, *arguments in (("status",), ("prune", "--dry-run")):
        code, said = call(command, *arguments)
        assert code == 0 or (code == 1 and str(path) in said), (command, said)
    code, said = call("run")
    if code == 1:
        # It is said which document it is; and nothing was done.
        assert kind in ("pointer", "request"), said
        assert f"{path} is damaged" in said
        assert path.read_bytes() == content
    else:
        assert code == 0, said
        assert tree(str(folder)) == tree(str(made[0] / "root"))


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_newer_version_has_written_is_left_to_it(root, kind):
    """As after a downgrade, or where two versions of the image share a root."""
    folder, call = root
    newer = GUARDED_FORMAT + 1 if kind.startswith("pointer") else FORMAT + 1
    path = rewritten(folder, kind, lambda text: re.sub(r'"format": \d', f'"format": {newer}', text))
    before = {file: file.read_bytes() for file in folder.rglob("*.json*") if file.name != "lease.json"}
    code, said = call("run")
    if kind == "publication":
        # Nothing that a run goes by.
        assert code == 0, said
        return
    assert code == 1, said
    assert f"{path} has format {newer}, which a newer version of deepprofile has written" in said
    after = {file: file.read_bytes() for file in folder.rglob("*.json*") if file.name != "lease.json"}
    # Only the name of who has the lease changes in the pointer, and what the stages before had to say.
    unchanged = [file for file in before if not re.search(r"current\.json$|manifest\.json$|days\.json$", file.name)]
    assert {file: before[file] for file in unchanged} == {file: after.get(file) for file in unchanged}
    assert path.read_bytes() == before.get(path, path.read_bytes())


def test_a_root_of_the_earlier_layout_is_refused_in_words(root):
    folder, call = root
    versions = dict.fromkeys(("ard/smap_l4", "weights", "profile"), "0123456789abcdef")
    path = rewritten(folder, "pointer", lambda _: json.dumps(versions | {"@format": 1, "@lease": "abc"}))
    content = path.read_bytes()
    for command in ("run", "status", "validate", "report", "plan", "prune"):
        code, said = call(command)
        assert code == 1, (command, said)
        assert f"{folder} was written by an earlier version of this software" in said, command
        assert "run the pipeline into another root" in said
    assert path.read_bytes() == content


def test_a_pointer_that_names_what_is_not_there_is_said(root):
    folder, call = root
    path = rewritten(folder, "pointer", lambda text: re.sub(r'("profile": \{\s*"2015": )"\w+"', r'\1"0123456789abcdef"', text))
    for command in ("validate", "report"):
        code, said = call(command)
        assert code != 0
        assert "profile" in said
    # A run brings the pointer back to what is there.
    code, said = call("run")
    assert code == 0, said
    assert "0123456789abcdef" not in path.read_text()


def test_ages_are_judged_by_the_clock_of_the_storage(root, monkeypatch):
    """A driver whose clock is wrong by years lets nothing go too early, and keeps nothing for longer."""
    folder, call = root
    store = Root(str(folder))
    before = store.current()
    assert call("run", "--set", "ingest.min_day_fraction=0.5")[0] == 0
    old = {(store_, version) for store_, version in before.items() if store.current()[store_] != version}
    assert old
    for off in (-20 * 365 * 86400, 3600, 20 * 365 * 86400):
        monkeypatch.setattr(time, "time", lambda off=off: conditional_writes.storage_time(f"{folder}/lease.clock") + off)
        code, said = call("prune", "--dry-run", "--set", "retention.days=1", "--set", "retention.versions=1")
        assert code == 0, said
        assert "Nothing is old enough to be removed" in said
    monkeypatch.undo()
    rule = configuration.load(folder.parent / "deepprofile.yaml", ["retention.days=1", "retention.versions=1"]).retention
    later = expired_versions(store, rule, now=time.time() + 2 * 86400)
    assert {(each.store, each.version) for each in later if each.store != "files"} == old


def test_prune_waits_for_nobody_who_is_at_work(root):
    folder, call = root
    assert call("run", "--set", "ingest.min_day_fraction=0.5")[0] == 0
    options = ("--set", "retention.days=0", "--set", "retention.versions=1")
    before = sorted(path.name for path in Path(folder).glob("*/*.zarr"))
    with Lease(str(folder), "current.json", Holder("another", "elsewhere/1/1"), 1.5):
        code, said = call("prune", *options)
        assert code == 1
        assert "is in use by the run another (elsewhere/1/1), which has just renewed its lease" in said
    assert sorted(path.name for path in Path(folder).glob("*/*.zarr")) == before
    code, said = call("prune", *options)
    assert code == 0
    assert "versions are removed" in said
    assert sorted(path.name for path in Path(folder).glob("*/*.zarr")) != before
