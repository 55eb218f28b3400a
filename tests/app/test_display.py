"""What the command line prints: as it is, and without secrets."""

import io

import pytest
import typer
from deepprofile.app import cli
from deepprofile.app.display import Display, PlainConsole
from deepprofile.execution.blocks import Block, Job, Workload
from deepprofile.execution.engine import Progress
from deepprofile.stages.plan import StagePlan, VersionPlan
from deepprofile.storage.objects import MissingPathError
from deepprofile.storage.stores import Template
from rich.table import Table

ODD = ["/data/[red]x", "[/]", "[bold]x[/bold]", "a :smile: b", "[link=https://host.org]here[/link]", "\\[red]", "[1, 2]"]


@pytest.fixture
def console():
    made = PlainConsole(width=200)
    made.file = io.StringIO()
    return made


@pytest.mark.parametrize("text", ODD)
def test_text_is_printed_as_it_is(console, text):
    console.print(f"at {text}", soft_wrap=True)
    assert console.file.getvalue() == f"at {text}\n"


@pytest.mark.parametrize("text", ODD)
def test_cells_of_tables_are_printed_as_they_are(console, text):
    table = Table()
    table.add_column(text)
    table.add_row(f"cell {text}")
    console.print(table)
    lines = console.file.getvalue().splitlines()
    assert text in lines[1]
    assert f"cell {text}" in lines[3]


def test_a_secret_is_not_printed_however_narrow_the_table_is(console):
    console.width = 30
    table = Table()
    table.add_column("url", overflow="fold")
    table.add_row("https://host.org/a.nc?X-Goog-Signature=0a1b2c3d4e5f60718293a4b5c6d7e8f9")
    console.print(table)
    console.print("PRIVATE-TOKEN: hunter2Xy9-sesame")
    printed = "".join(character for character in console.file.getvalue() if character.isalnum())
    assert "0a1b2c3d" not in printed
    assert "hunter2" not in printed
    assert "XGoogSignature" in printed


def test_a_bar_shows_the_name_of_a_job_as_it_is():
    console = PlainConsole(width=120)
    console.file, console._force_terminal = io.StringIO(), True
    job = Job(Workload("ingest [red]x", [Block((0,), ((0, 1),))]), lambda block, inputs: None, lambda block: "")
    plan = StagePlan("ingest", "", (VersionPlan("", "", Template({}, {}, {}), job, ""),))
    with Display(console) as display:
        tell = display.stage(plan)
        tell(Progress("ingest", 1, 0, 0, 0, 0, 1, 0, {"token=hunter2Xy9": 1}, 0, 0, 0, 1.0))
    printed = console.file.getvalue()
    assert "ingest [red]x" in printed
    assert "hunter2" not in printed


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (MissingPathError("there is no folder /a/[b]c for the granules"), 2, "there is no folder /a/[b]c for the granules"),
        (FileNotFoundError(2, "No such file or directory", "/a/[b]c"), 1, "/a/[b]c: No such file or directory"),
        (FileNotFoundError("bucket/profile/c/0"), 1, "bucket/profile/c/0: there is no such file or object"),
        (PermissionError(13, "Permission denied", "/a"), 1, "/a: Permission denied"),
        (OSError("https://me:hunter2@host.org is down"), 1, "OSError: https://...@host.org is down"),
    ],
)
def test_only_a_path_that_a_user_named_is_wrong_use(capsys, error, code, message):
    with pytest.raises(typer.Exit) as found, cli._explained():
        raise error
    assert found.value.exit_code == code
    assert capsys.readouterr().err == f"deepprofile: {message}\n"


def test_an_error_of_the_program_shows_its_traceback_without_secrets(monkeypatch, capsys):
    def fail(**_):
        raise KeyError("https://me:hunter2@host.org")

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setattr(cli, "configure_logs", lambda: None)
    with pytest.raises(SystemExit) as found:
        cli.main()
    assert found.value.code == 1
    said = capsys.readouterr().err
    assert "KeyError: 'https://...@host.org'" in said
    assert "in fail" in said
