"""The command line. Only this module prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from deepprofile import config as configuration
from deepprofile.config import Config, ConfigError
from deepprofile.display import Display, describe, plan_table, summary_table, time_text
from deepprofile.engine import JobFailed
from deepprofile.lease import LeaseHeld, LeaseLost
from deepprofile.objects import StorageUnavailable, join
from deepprofile.stores import Root, StoreError

DONE, FAILED, WRONG_USE, INCOMPLETE, STOPPED = 0, 1, 2, 3, 130
SHOWN_PROBLEMS: Final = 10

app = typer.Typer(
    name="deepprofile",
    help="Fuse root-zone soil-moisture products into one profile, 0 to 1 m, for every cell and day.\n\n"
    "Exit codes: 0 done; 2 wrong use or configuration; 3 done, but inputs were missing that should be there; 130 stopped by "
    "Ctrl-C; 1 anything else.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
# Where there is no terminal, tables are as wide as they need to be.
_WIDE: Final = 140
out = Console(width=None if sys.stdout.isatty() else _WIDE)
err = Console(stderr=True, width=None if sys.stderr.isatty() else _WIDE)

ConfigPath = Annotated[Path, typer.Option("--config", "-c", help="The configuration, a YAML file.", metavar="FILE")]
Overrides = Annotated[
    list[str], typer.Option("--set", help="Override a key of the configuration; may be repeated.", metavar="KEY=VALUE")
]
DEFAULT_CONFIG: Final = Path("deepprofile.yaml")


@contextmanager
def _explained() -> Iterator[None]:
    """Errors that a user can act on become one message and an exit code."""
    from deepprofile.stages.stage import PlanError

    try:
        yield
    except (ConfigError, PlanError) as error:
        _complain(str(error))
        raise typer.Exit(WRONG_USE) from error
    except FileNotFoundError as error:
        _complain(str(error))
        raise typer.Exit(WRONG_USE) from error
    except (StoreError, JobFailed, LeaseHeld, LeaseLost, StorageUnavailable) as error:
        _complain(str(error))
        if isinstance(error, (JobFailed, StorageUnavailable)):
            err.print("What was done is recorded: run the same command again to go on.", highlight=False)
        raise typer.Exit(FAILED) from error
    except OSError as error:
        _complain(f"{error.filename or ''} {error.strerror or error}".strip())
        raise typer.Exit(FAILED) from error


def _complain(message: str) -> None:
    err.print(f"deepprofile: {message}", style="red" if err.is_terminal else "", highlight=False, soft_wrap=True, markup=False)


def _load(path: Path, overrides: Sequence[str]) -> Config:
    if not path.exists():
        raise ConfigError(
            f"there is no configuration {path}: write one ('deepprofile config' prints every key), or name it with -c"
        )
    return configuration.load(path, overrides)


def _run(config: Config, stages: Sequence[str]) -> int:
    """Run stages on a local cluster, show them, and say what is missing."""
    from deepprofile.cluster import local_pool, memory_limit_bytes
    from deepprofile.stages.pipeline import check_memory, jobs, run_stages

    try:
        limit = memory_limit_bytes(config.compute)
    except ValueError as error:
        raise ConfigError(
            f"compute.memory_limit: {config.compute.memory_limit!r} is no amount of memory, such as 2GiB"
        ) from error
    threads = config.compute.threads if config.compute.processes else config.compute.threads * config.compute.workers
    check_memory(jobs(config, stages), limit, threads)
    display = Display(err)
    try:
        with Root(config.root).lease(on_wait=_complain) as lease, local_pool(config.compute) as pool, display:
            results = run_stages(config, stages, pool, on_stage=display.stage, lease=lease)
    except KeyboardInterrupt:
        done = f" in {display.latest.job} ({describe(display.latest)})" if display.latest is not None else ""
        err.print(f"\nStopped{done}. What was done is recorded: run the same command again to go on.", highlight=False)
        raise typer.Exit(STOPPED) from None
    out.print(summary_table(results))
    problems = [problem for result in results for problem in result.problems]
    if problems:
        err.print(f"{len(problems)} inputs were missing or could not be used:", highlight=False)
        for problem in problems[:SHOWN_PROBLEMS]:
            err.print(f"  {problem}", highlight=False, soft_wrap=True, markup=False)
        if len(problems) > SHOWN_PROBLEMS:
            err.print(
                f"  and {len(problems) - SHOWN_PROBLEMS} more: see {join(config.root, 'runs')}", highlight=False, soft_wrap=True
            )
        return INCOMPLETE
    return DONE


def _stage_command(name: str, help_text: str) -> Callable[..., None]:
    def command(config: ConfigPath = DEFAULT_CONFIG, set_: Overrides = []) -> None:  # noqa: B006
        with _explained():
            code = _run(_load(config, set_), (name,))
        raise typer.Exit(code)

    command.__doc__ = help_text
    return app.command(name)(command)


ingest = _stage_command("ingest", "Granules to analysis-ready stores of daily means.")
collocate = _stage_command("collocate", "Analysis-ready stores to the error model (triple collocation).")
invert = _stage_command("invert", "Analysis-ready stores and error model to profiles.")
validate = _stage_command("validate", "Profiles and products against stations.")


@app.command()
def run(config: ConfigPath = DEFAULT_CONFIG, set_: Overrides = []) -> None:  # noqa: B006
    """Run all stages: ingest, collocate, invert, validate; then publish what they made."""
    from deepprofile.stages.pipeline import STAGES

    with _explained():
        code = _run(_load(config, set_), STAGES)
    raise typer.Exit(code)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for everything that the demo makes.")] = Path(
        "demo-output"
    ),
) -> None:
    """Simulate a region, write its granules, run every stage on them, and write a report that knows the truth."""
    from deepprofile.demo import run_demo
    from deepprofile.stages.pipeline import STAGES

    with _explained():
        try:
            code, written = run_demo(output, lambda config: _run(config, STAGES), lambda text: err.print(text, highlight=False))
        except KeyboardInterrupt:
            err.print("\nStopped. Run the same command again to go on.", highlight=False)
            raise typer.Exit(STOPPED) from None
    out.print(f"Report: {written[0]}", highlight=False, soft_wrap=True)
    raise typer.Exit(code)


@app.command("twin")
def simulate_twin(
    output: Annotated[str, typer.Option("--output", "-o", help="Folder or URL for granules, stations and configuration.")],
    rows: Annotated[int, typer.Option(help="Rows of cells of the 9 km grid.", min=4)] = 12,
    columns: Annotated[int, typer.Option(help="Columns of cells.", min=4)] = 12,
    days: Annotated[int, typer.Option(help="Days from 2015-04-01.", min=30)] = 120,
    seed: Annotated[int, typer.Option(help="Of everything that is random.")] = 42,
) -> None:
    """Simulate a region whose soil moisture is known, and write its granules as the providers do."""
    from deepprofile.demo import write_twin

    with _explained():
        written = write_twin(output, (rows, columns), days, seed)
    out.print(f"Configuration: {written}", highlight=False, soft_wrap=True)


@app.command()
def report(
    config: ConfigPath = DEFAULT_CONFIG,
    set_: Overrides = [],  # noqa: B006
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the page and its figures.")] = Path("report"),
) -> None:
    """Write a page about what is published: maps, weights, profiles and series at stations, scores."""
    from deepprofile.report import write_report

    with _explained():
        written = write_report(_load(config, set_), output)
    out.print(f"Report: {written[0]}", highlight=False, soft_wrap=True)


@app.command()
def plan(config: ConfigPath = DEFAULT_CONFIG, set_: Overrides = []) -> None:  # noqa: B006
    """Say what a run would do: blocks, bytes and memory; refuse what does not fit."""
    from deepprofile.cluster import memory_limit_bytes
    from deepprofile.stages.pipeline import already_there, check_memory, jobs

    with _explained():
        checked = _load(config, set_)
        listed = jobs(checked)
        grid = checked.grid.grid()
        days = (checked.period.end - checked.period.start).days + 1
        out.print(
            f"{grid.name}, {grid.rows} x {grid.columns} cells, {days:,} days, {checked.compute.workers} workers of "
            f"{checked.compute.memory_limit}",
            highlight=False,
        )
        out.print(plan_table(listed, already_there(checked)))
        threads = checked.compute.threads if checked.compute.processes else checked.compute.threads * checked.compute.workers
        check_memory(listed, memory_limit_bytes(checked.compute), threads)


@app.command()
def status(
    config: ConfigPath = DEFAULT_CONFIG,
    set_: Overrides = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Say what is published, and what came of the runs."""
    from deepprofile.stages.pipeline import status_of

    with _explained():
        found = status_of(_load(config, set_).root)
    if as_json:
        sys.stdout.write(json.dumps(found, indent=1, sort_keys=True) + "\n")
        return
    current, runs = found["current"], found["runs"]
    out.print(f"Root: {found['root']}", highlight=False, soft_wrap=True)
    if found["lease"] is not None:
        out.print(f"At work on it: {found['lease']}", highlight=False, soft_wrap=True)
    table = Table(box=SIMPLE_HEAD)
    for name in ("store", "version", "started", "state", "blocks", "missing", "time"):
        table.add_column(name, no_wrap=True)
    for manifest in runs:
        blocks = manifest.get("blocks")
        table.add_row(
            manifest["store"],
            manifest["version"][:8],
            manifest["started"][:16].replace("T", " "),
            _state(manifest, current),
            str(blocks["total"]) if blocks else "",
            str(len(manifest.get("problems", []))),
            time_text(manifest["seconds"]) if "seconds" in manifest else "",
        )
    out.print(table if runs else "Nothing has been run yet.")


def _state(manifest: Mapping[str, Any], current: Mapping[str, str]) -> str:
    if current.get(manifest["store"]) == manifest["version"]:
        return "published"
    return "complete" if "ended" in manifest else "not finished"


@app.command("config")
def show_config() -> None:
    """Print every key of the configuration with its default and meaning."""
    sys.stdout.write(configuration.documented() + "\n")


def main() -> None:
    """Entry point."""
    try:
        app()
    except KeyboardInterrupt:
        err.print("\nStopped.", highlight=False)
        sys.exit(STOPPED)


if __name__ == "__main__":
    main()
