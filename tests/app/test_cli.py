import importlib.metadata
import json
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from deepprofile.app import cli
from deepprofile.storage.roots import Root
from typer.testing import CliRunner

from tests.support.granules import document

GLOBE = """\
period: {start: 2015-04-01, end: 2026-10-31}
products:
  smap_l4: {granules: a}
  gldas_noah: {granules: b}
  era5_land: {granules: c}
  smap_l3: {granules: d}
"""


@pytest.fixture
def call():
    def run(*arguments):
        result = CliRunner().invoke(cli.app, list(map(str, arguments)))
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.stdout, " ".join(result.stderr.split())

    return run


@pytest.fixture
def settings(world, granules, tmp_path):
    def write(**changes):
        path = tmp_path / "deepprofile.yaml"
        path.write_text(yaml.safe_dump(document(world, granules, tmp_path / "root", **changes), sort_keys=False))
        return path

    return write


def test_help_names_every_command_and_the_exit_codes(call):
    code, printed, _ = call("--help")
    assert code == 0
    for command in (
        "demo",
        "plan",
        "ingest",
        "collocate",
        "invert",
        "validate",
        "run",
        "status",
        "prune",
        "report",
        "config",
        "extract",
    ):
        assert re.search(rf"^\s+{command}\s", printed, re.MULTILINE)
    assert "3 done, but inputs were" in printed


def test_the_version_is_that_of_the_package(call):
    code, printed, _ = call("--version")
    assert code == 0
    assert printed == f"deepprofile {importlib.metadata.version('deepprofile')}\n"


def test_the_globe_is_planned_in_one_table(call, tmp_path):
    (tmp_path / "globe.yaml").write_text(GLOBE)
    code, printed, _ = call("plan", "-c", tmp_path / "globe.yaml")
    assert code == 0
    assert "ease2_m09, 1624 x 3856 cells, 4,232 days" in printed
    # 12 calendar years x 26 x 61 shards of 64 x 64 cells.
    assert re.search(r"invert\s+19,032 ", printed)
    assert "validate" not in printed


def test_a_plan_has_validation_by_the_block_of_sensors(call, tmp_path):
    """How many sensors there are is known only when the stations are read, which may be many files."""
    (tmp_path / "globe.yaml").write_text(GLOBE)
    code, printed, _ = call("plan", "-c", tmp_path / "globe.yaml", "--set", "stations=[{kind: ismn, path: not-yet-there}]")
    assert code == 0
    # 12 calendar years.
    assert re.search(r"validate: observations, for every 512 sensors\s+12 .* MiB", printed)
    assert re.search(r"validate: matchups, for every 512 sensors\s+12 .* MiB", printed)
    assert re.search(r"validate: differences, for every 128 sensors\s+1 .* MiB", printed)
    assert re.search(r"validate: scores, for every 128 sensors\s+1 .* MiB", printed)


def test_a_plan_that_does_not_fit_is_refused(call, tmp_path):
    (tmp_path / "globe.yaml").write_text(GLOBE)
    code, _, complaint = call("plan", "-c", tmp_path / "globe.yaml", "--set", "compute.memory_limit=612MiB")
    assert code == 2
    assert "ingest smap_l4: a worker needs" in complaint
    assert "make blocks.cells, blocks.days or ingest.days smaller, or compute.memory_limit larger" in complaint


def test_run_status_and_report(call, settings, tmp_path):
    path = settings(compute={"workers": 1, "threads": 2, "processes": False})
    code, printed, said = call("run", "-c", path)
    assert code == 0, said
    assert "invert: 12 of 12 blocks" in said
    assert re.search(r"ingest/smap_l4\s+3\s+3\s+0 ", printed)
    # A plan sees what is there, and a day more changes the last stretch only.
    code, printed, _ = call("plan", "-c", path)
    assert re.search(r"ingest smap_l4\s+3\s+3 ", printed)
    code, printed, _ = call("plan", "-c", path, "--set", "period.end=2015-06-10")
    assert re.search(r"ingest smap_l4\s+3\s+2 ", printed)
    code, printed, _ = call("status", "-c", path)
    assert code == 0
    assert printed.count("published") == 15
    code, printed, _ = call("status", "-c", path, "--json")
    found = json.loads(printed)
    assert found["current"] == Root(str(tmp_path / "root")).current()
    code, _, said = call("release", "2015.1", "-c", path)
    assert code == 0
    assert "Release 2015.1 of " in said
    assert "The first release: 2015-04-01 to 2015-06-11, 1 calendar year." in said
    assert "Releases: 2015.1" in call("status", "-c", path)[1]
    code, _, said = call("release", "no name", "-c", path)
    assert code == 1
    assert "'no name' is no name for a release" in said
    code, _, said = call("rollback", "1999", "-c", path)
    assert code == 1
    assert "no publication is of '1999'" in said
    manifest = next(run for run in found["runs"] if run["stage"] == "invert")
    assert manifest["blocks"] == {"total": 12, "done": 12, "skipped": 0, "copied": 0, "incomplete": 0, "retried": 0}
    assert manifest["configuration"]["inversion"]["method"] == "map"
    products = ("smap_l4", "gldas_noah", "era5_land", "smap_l3")
    assert set(manifest["inputs"]) == {*(f"ard/{name}/2015" for name in products), "weights"}
    code, printed, _ = call("report", "-c", path, "-o", tmp_path / "report")
    assert code == 0
    page = (tmp_path / "report" / "index.html").read_text()
    for heading in ("Soil moisture", "Weights", "Against stations", "How often intervals hold", "At the stations", "Inputs"):
        assert f"<h2>{heading}</h2>" in page
    # Self-contained: nothing is loaded from anywhere.
    assert page.count("data:image/png;base64,") == len(list((tmp_path / "report").glob("*.png"))) == 9
    assert not re.search(r'(?:src|href)="(?!data:)', page)


def test_missing_inputs_are_said_with_exit_code_three(call, settings):
    path = settings(period={"start": "2015-04-01", "end": "2015-06-14"}, compute={"processes": False})
    code, _, said = call("ingest", "-c", path)
    assert code == 3
    assert "12 inputs were missing or could not be used:" in said
    assert "2015-06-12: 8 of 8 time steps of smap_l4 are missing" in said
    assert "and 2 more: see" in said


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("run", "-c", "nowhere.yaml"), 2, "there is no configuration nowhere.yaml: write one"),
        (("report",), 1, "has no published store 'profile': run the stage that makes it first"),
        (("invert",), 2, "invert needs ard/smap_l4, which is not in"),
        (
            ("ingest", "--set", "products.smap_l4.granules=/no/such/folder"),
            2,
            "there is no folder /no/such/folder for the granules",
        ),
        (("ingest", "--set", "compute.memory_limit=much"), 2, "compute.memory_limit: 'much' is no amount of memory"),
        (("ingest", "--set", "products.cci={granules: a}"), 2, "there is no product 'cci'; known are"),
        (("ingest", "--set", "root=/proc/nothing"), 1, "nothing can be written to /proc/nothing"),
    ],
)
def test_wrong_use_gets_one_message(call, settings, arguments, code, message):
    path = settings(compute={"processes": False})
    if "-c" not in arguments:
        arguments = (*arguments, "-c", path)
    found, _, said = call(*arguments)
    assert (found, message in said) == (code, True), said


def test_config_prints_every_key(call):
    code, printed, _ = call("config")
    assert code == 0
    assert "chunk_cells: 8  # rows, and columns, in a chunk; divides cells" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("invrt",), "No such command 'invrt'"),
        (("run", "--nothing"), "No such option: --nothing"),
        # What the library repeats may be a secret.
        (
            ("run", "https://me:hunter2@host.org/a", "token=hunter2"),
            "unexpected extra argument(s) (https://...@host.org/a token=...)",
        ),
    ],
)
def test_wrong_arguments_are_said_by_the_library(arguments, message):
    found = subprocess.run([sys.executable, "-m", "deepprofile.app.cli", *arguments], capture_output=True, text=True)
    assert found.returncode == 2
    assert message in " ".join(found.stderr.split())
    assert "hunter2" not in found.stderr


def test_what_does_not_pass_its_checks_ends_with_four_and_both_numbers(call, settings, finished, tmp_path):
    shutil.copytree(finished.root, tmp_path / "root")
    path = settings(inversion={"prior": {"std": 0.01}}, gate={"jump": 0.001})
    code, printed, complaint = call("run", "-c", path, "--set", "compute.processes=false", "--today", "2015-06-11")
    assert code == 4
    assert re.search(r"jump .* 0\.0\d+ +0\.001 +NO", printed)
    assert "is not published: change of profiles that were published" in complaint
    assert "run the same command with --accept YOUR_NAME" in complaint
    accepted = ("--set", "compute.processes=false", "--today", "2015-06-11", "--accept", "me")
    assert call("run", "-c", path, *accepted)[0] == 0


def test_status_says_what_is_there_of_every_day(call, settings, finished):
    path = settings(root=finished.root)
    code, printed, _ = call("status", "-c", path, "--today", "2015-06-30", "--until", "2015-06-15")
    assert code == 0
    assert re.search(r"smap_l4 +2015-04-01 +2015-06-11 +72 +there *\n +2015-06-12 +2015-06-15 +4 +missing", printed)
    assert re.search(r"gldas_noah +2015-04-01 +2015-06-11 +72 +there *\n +2015-06-12 +2015-06-15 +4 +not due", printed)
    code, printed, _ = call("status", "-c", path, "--today", "2015-06-30", "--until", "2015-06-15", "--json")
    assert json.loads(printed)["days"]["smap_l4"]["2015-06-12"] == "missing"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--until", "tomorrow"), "--until tomorrow: write a day as 2026-01-31, or today"),
        (("--until", "2015-06-11", "--today", "x"), "--today x: write a day as 2026-01-31"),
        (("--redo", "smap"), "--redo smap: the configuration names smap_l4, gldas_noah, era5_land, smap_l3"),
        (("--from", "2014-01-01"), "2014-01-01 to 2015-06-11 cannot be done again: the period is 2015-04-01 to 2015-06-11"),
        (("--until", "2015-03-01"), "end 2015-03-01 is before start 2015-04-01"),
    ],
)
def test_wrong_days_and_products_are_said(call, settings, arguments, message):
    code, _, complaint = call("run", "-c", settings(), *arguments)
    assert code == 2
    assert message in complaint


def test_a_period_without_an_end_needs_to_be_told_until_when(call, settings):
    path = settings(period={"start": "2015-04-01"})
    code, _, complaint = call("run", "-c", path)
    assert code == 2
    assert "'period.end' is missing, unless 'run --until' names the last day" in complaint


def test_prune_says_what_it_would_remove(call, settings, finished, tmp_path):
    shutil.copytree(finished.root, tmp_path / "root")
    code, printed, _ = call("prune", "-c", settings(), "--dry-run")
    assert code == 0
    assert "Nothing is old enough to be removed." in printed
