"""The command line. Only this module prints, through consoles that leave out secrets."""

from __future__ import annotations

import datetime as dt
import io
import json
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import numpy as np
import typer
from prometheus_client import CollectorRegistry
from rich.box import SIMPLE_HEAD
from rich.table import Table

from deepprofile import config as configuration
from deepprofile.app.display import (
    Display,
    LogDisplay,
    PlainConsole,
    checks_table,
    days_table,
    describe,
    plan_table,
    size_text,
    sizes_table,
    steps,
    summary_table,
    time_text,
)
from deepprofile.app.extras import missing_extra
from deepprofile.app.logs import configure as configure_logs
from deepprofile.app.logs import traceback_text, wants_json
from deepprofile.config import Config, ConfigError
from deepprofile.execution.blocks import Workload
from deepprofile.execution.engine import Progress
from deepprofile.execution.errors import ClusterError, JobFailedError, PoolLostError
from deepprofile.execution.pools import Pool
from deepprofile.stages.plan import StagePlan, StageResult
from deepprofile.storage.documents import DocumentError, read_sound
from deepprofile.storage.filesystems import join
from deepprofile.storage.lease import Lease, LeaseHeldError, LeaseLostError
from deepprofile.storage.objects import MissingPathError
from deepprofile.storage.redaction import redacted, without_secrets
from deepprofile.storage.retries import StorageUnavailableError
from deepprofile.storage.roots import Root
from deepprofile.storage.stores import StoreError

if TYPE_CHECKING:
    from deepprofile.stages.pipeline import Request
    from deepprofile.stages.schedule import AsOf

DONE, FAILED, WRONG_USE, INCOMPLETE, NOT_PUBLISHED, STOPPED, TERMINATED = 0, 1, 2, 3, 4, 130, 143
SHOWN_PROBLEMS: Final = 10

app = typer.Typer(
    name="deepprofile",
    help="Fuse root-zone soil-moisture products into one profile, 0 to 1 m, for every cell and day.\n\n"
    "Exit codes: 0 done; 2 wrong use or configuration; 3 done, but inputs were missing that should be there; 4 not published, "
    "since the result has not passed its checks; 130 stopped by Ctrl-C, 143 by SIGTERM; 1 anything else.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
# Where there is no terminal, tables are as wide as they need to be.
_WIDE: Final = 140
out = PlainConsole(width=None if sys.stdout.isatty() else _WIDE)
err = PlainConsole(stderr=True, width=None if sys.stderr.isatty() else _WIDE)


DEFAULT_CONFIG: Final = Path("deepprofile.yaml")
ConfigPath = Annotated[Path, typer.Option("--config", "-c", help="The configuration, a YAML file.", metavar="FILE")]
Overrides = Annotated[
    list[str],
    typer.Option(
        "--set",
        help="Override a key of the configuration; may be repeated.",
        metavar="KEY=VALUE",
        envvar="DEEPPROFILE_SET",
    ),
]


@contextmanager
def _explained() -> Iterator[None]:
    """Errors that a user can act on become one message and an exit code."""
    from deepprofile.sources.providers import CredentialsError
    from deepprofile.stages.gate import ChecksFailedError
    from deepprofile.stages.plan import PlanError

    try:
        yield
    except ChecksFailedError as error:
        if not wants_json():
            out.print(checks_table(error.checks))
        print_error(str(error))
        print_status("Readers see what they saw before. To publish all the same, run the same command with --accept YOUR_NAME.")
        raise typer.Exit(NOT_PUBLISHED) from error
    except (ConfigError, PlanError, CredentialsError, MissingPathError) as error:
        print_error(str(error))
        raise typer.Exit(WRONG_USE) from error
    except (
        StoreError,
        DocumentError,
        JobFailedError,
        ClusterError,
        LeaseHeldError,
        LeaseLostError,
        StorageUnavailableError,
    ) as error:
        print_error(str(error))
        if isinstance(error, (JobFailedError, StorageUnavailableError)):
            print_status("What was done is recorded: run the same command again to go on.")
        raise typer.Exit(FAILED) from error
    except ModuleNotFoundError as error:
        said = missing_extra(error)
        if said is None:
            raise
        print_error(said)
        raise typer.Exit(WRONG_USE) from error
    except OSError as error:
        print_error(_of_system(error))
        raise typer.Exit(FAILED) from error


def _of_system(error: OSError) -> str:
    """What an operating system or a library of storage says: which file, and what is wrong with it."""
    if error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, FileNotFoundError):
        # Libraries often give nothing but the name.
        return f"{error}: there is no such file or object"
    return f"{type(error).__name__}: {error}"


def print_error(message: str) -> None:
    """Say what went wrong: in red on a terminal, as a line of the log where lines are JSON."""
    if wants_json():
        logging.getLogger("deepprofile.app.cli").error("%s", message)
        return
    err.print(f"deepprofile: {message}", style="red" if err.is_terminal else "", soft_wrap=True)


def _load(path: Path, overrides: Sequence[str] = ()) -> Config:
    if not path.exists():
        raise ConfigError(
            f"there is no configuration {path}: write one ('deepprofile config' prints every key), or name it with -c"
        )
    return configuration.load(path, overrides)


def _load_published(path: Path, overrides: Sequence[str], as_of: AsOf | None = None) -> Config:
    """A configuration for what looks at a root: where it names no last day, that of the published profiles stands for it."""
    from deepprofile.stages.invert import STORE
    from deepprofile.stages.schedule import AsOf, ending, published_days

    if as_of is not None and as_of.until is not None:
        return _load(path, [*overrides, *_until(as_of)])
    try:
        return _load(path, overrides)
    except ConfigError as error:
        if configuration.NO_END not in str(error):
            raise
    config = _load(path, [*overrides, *_until(AsOf.now(AsOf.now().today))])
    days = published_days(Root(config.root), STORE)
    return config if days is None else ending(config, days[1])


class Where(StrEnum):
    """Where the workers are."""

    LOCAL = "local"
    KUBERNETES = "kubernetes"


class _Terminated(KeyboardInterrupt):
    """SIGTERM: what Kubernetes sends to a pod that has to go."""


@contextmanager
def _ending_in_order() -> Iterator[None]:
    """SIGTERM ends the run as Ctrl-C does: what was done is recorded, and the cluster is removed."""

    def terminate(_number: int, _frame: object) -> None:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def print_status(text: str) -> None:
    """Say what is going on, on a terminal or in the log."""
    if wants_json():
        logging.getLogger("deepprofile.app.cli").info("%s", text.strip())
    else:
        err.print(text, soft_wrap=True)


def _pools(config: Config, where: Where, listed: Sequence[Workload]) -> Iterator[AbstractContextManager[Pool]]:
    """One pool after the other, as many as a run may use up."""
    if where is Where.LOCAL:
        from deepprofile.cluster.local import local_pool

        configure_logs()
        yield local_pool(config.compute)
        return
    from deepprofile.cluster.kubernetes import kubernetes_pool

    configure_logs()
    largest = max((job.memory_per_block for job in listed), default=0)
    for _ in range(config.compute.kubernetes.clusters):
        yield kubernetes_pool(config.compute, largest, print_status)


def _check_plan(config: Config, where: Where, listed: Sequence[Workload]) -> None:
    from deepprofile.stages.pipeline import check_memory

    compute, limit = config.compute, config.compute.memory_limit
    if where is Where.KUBERNETES:
        from deepprofile.execution.pools import BLOCK_MARGIN, WORKER_BASE_BYTES

        check_memory(listed, limit, compute.threads, WORKER_BASE_BYTES, BLOCK_MARGIN)
    else:
        check_memory(listed, limit, compute.threads if compute.processes else compute.threads * compute.workers)


def _run(config: Config, stages: Sequence[str], where: Where = Where.LOCAL, request: Request | None = None) -> int:
    """Run stages on a cluster, show them, and say what is missing."""
    from deepprofile.stages.pipeline import workloads

    listed = workloads(config, stages)
    _check_plan(config, where, listed)
    display: Display | LogDisplay = LogDisplay() if wants_json() else Display(err)
    try:
        with _ending_in_order(), Root(config.root).lease(on_wait=print_status) as lease, display:
            results = _on_pools(config, stages, _pools(config, where, listed), lease, display, request)
    except KeyboardInterrupt as stop:
        done = f" in {display.latest.job} ({describe(display.latest)})" if display.latest is not None else ""
        print_status(f"\nStopped{done}. What was done is recorded: run the same command again to go on.")
        raise typer.Exit(TERMINATED if isinstance(stop, _Terminated) else STOPPED) from None
    problems = [problem for result in results for problem in result.problems]
    notes = [note for result in results for note in result.notes]
    if wants_json():
        for problem in problems:
            logging.getLogger("deepprofile.app.cli").warning("missing: %s", problem)
        for note in notes:
            logging.getLogger("deepprofile.app.cli").info("note: %s", note)
        return INCOMPLETE if problems else DONE
    out.print(summary_table(results))
    if notes:
        _list("Note:", notes, config.root)
    if problems:
        count = "1 input was" if len(problems) == 1 else f"{len(problems)} inputs were"
        _list(f"{count} missing or could not be used:", problems, config.root)
        return INCOMPLETE
    return DONE


def _list(title: str, sentences: Sequence[str], root: str) -> None:
    """The first of some sentences, and where the others are."""
    print_status(title)
    for sentence in sentences[:SHOWN_PROBLEMS]:
        print_status(f"  {sentence}")
    if len(sentences) > SHOWN_PROBLEMS:
        print_status(f"  and {len(sentences) - SHOWN_PROBLEMS} more: see {join(root, 'runs')}")


def _on_pools(
    config: Config,
    stages: Sequence[str],
    pools: Iterator[AbstractContextManager[Pool]],
    lease: Lease,
    display: Display | LogDisplay,
    request: Request | None,
) -> list[StageResult]:
    """Run the stages on the first pool; where one is lost, go on with the next, from what is recorded."""
    from deepprofile.app.monitoring import Metrics
    from deepprofile.stages.pipeline import run_stages
    from deepprofile.stages.retention import PUBLISHED

    metrics = Metrics(CollectorRegistry())
    metrics.serve()
    before = read_sound(join(config.root, PUBLISHED), {"seconds": (int, float)})
    if before is not None:
        metrics.publication(before["seconds"])

    def begin(plan: StagePlan) -> Callable[[Progress], None]:
        listeners = (display.stage(plan), metrics.stage(plan))

        def tell(progress: Progress) -> None:
            for each in listeners:
                each(progress)

        return tell

    reason: PoolLostError | None = None
    for attempt in pools:
        try:
            with attempt as pool:
                remark = None if wants_json() else print_status
                results = run_stages(config, stages, pool, on_stage=begin, on_remark=remark, lease=lease, request=request)
            metrics.publication()
            return results
        except PoolLostError as error:
            reason = error
            print_status(f"{error}: going on with a new cluster, from what is recorded")
    raise JobFailedError(f"the cluster was lost again and again; the last time: {reason}")


OnCluster = Annotated[
    Where, typer.Option("--cluster", help="Where the workers are: on this machine, or a Dask cluster on Kubernetes.")
]


def _stage_command(name: str, help_text: str) -> Callable[..., None]:
    def command(
        config: ConfigPath = DEFAULT_CONFIG,
        set_: Overrides = [],  # noqa: B006
        cluster: OnCluster = Where.LOCAL,
    ) -> None:
        with _explained():
            code = _run(_load(config, set_), (name,), cluster)
        raise typer.Exit(code)

    command.__doc__ = help_text
    return app.command(name)(command)


ingest = _stage_command("ingest", "Granules to analysis-ready stores of daily means.")
collocate = _stage_command("collocate", "Analysis-ready stores to the error model (triple collocation).")
invert = _stage_command("invert", "Analysis-ready stores and error model to profiles.")
validate = _stage_command("validate", "Profiles and products against stations.")
publish = _stage_command(
    "publish", "Profiles to what strangers read: layers, maps, inputs, climatology, and files of the months that are final."
)


UntilDay = Annotated[
    str | None,
    typer.Option(
        "--until",
        help="Extend the record to this day, or 'today', as far as there are granules; replaces the end of the period.",
        metavar="DAY",
        envvar="DEEPPROFILE_UNTIL",
    ),
]
Today = Annotated[
    str | None,
    typer.Option(
        "--today",
        help="Judge what is missing as of this day; by default today (UTC).",
        metavar="DAY",
        envvar="DEEPPROFILE_TODAY",
    ),
]


def _day(option: str, text: str) -> np.datetime64:
    try:
        return np.datetime64(dt.date.fromisoformat(text), "D")
    except ValueError as error:
        raise ConfigError(f"{option} {text}: write a day as 2026-01-31{', or today' if option == '--until' else ''}") from error


def _as_of(until: str | None, today: str | None) -> AsOf:
    from deepprofile.stages.schedule import AsOf

    now = AsOf.now().today if today is None else _day("--today", today)
    if until is None:
        return AsOf(now)
    return AsOf(now, now if until == "today" else _day("--until", until))


def _until(as_of: AsOf) -> list[str]:
    """What stands for the period's end until it is known how far the granules go."""
    return [] if as_of.until is None else [f"period.end={as_of.until}"]


def _redone(
    config: Config, first: str | None, last: str | None, products: Sequence[str]
) -> tuple[tuple[str, ...], np.datetime64, np.datetime64] | None:
    if first is None and last is None and not products:
        return None
    unknown = [name for name in products if name not in config.products]
    if unknown:
        raise ConfigError(f"--redo {unknown[0]}: the configuration names {', '.join(config.products)}")
    period = (np.datetime64(config.period.start, "D"), np.datetime64(config.period.end, "D"))
    days = (period[0] if first is None else _day("--from", first), period[1] if last is None else _day("--to", last))
    if not period[0] <= days[0] <= days[1] <= period[1]:
        raise ConfigError(f"{days[0]} to {days[1]} cannot be done again: the period is {period[0]} to {period[1]}")
    return (tuple(products) or tuple(config.products), *days)


def _print_version(wanted: bool) -> None:
    if wanted:
        from deepprofile import __version__

        out.print(f"deepprofile {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", help="Print name and version, and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Fuse root-zone soil-moisture products into one profile, 0 to 1 m, for every cell and day."""


@app.command()
def run(
    config: ConfigPath = DEFAULT_CONFIG,
    set_: Overrides = [],  # noqa: B006
    cluster: OnCluster = Where.LOCAL,
    until: UntilDay = None,
    first: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Reprocess days from this one on, of all products unless --redo names some.",
            metavar="DAY",
            envvar="DEEPPROFILE_FROM",
        ),
    ] = None,
    last: Annotated[
        str | None, typer.Option("--to", help="The last day to reprocess.", metavar="DAY", envvar="DEEPPROFILE_TO")
    ] = None,
    redo: Annotated[
        list[str],
        typer.Option(
            "--redo", help="Reprocess the days of this product; may be repeated.", metavar="PRODUCT", envvar="DEEPPROFILE_REDO"
        ),
    ] = [],  # noqa: B006
    collocate: Annotated[
        bool,
        typer.Option(
            "--collocate",
            help="Make a new error model now, whatever collocation.every_days says, even from the same inputs.",
            envvar="DEEPPROFILE_COLLOCATE",
        ),
    ] = False,
    accept: Annotated[
        str | None,
        typer.Option(
            "--accept",
            help="Publish even if checks fail; your name is kept in the manifest.",
            metavar="NAME",
            envvar="DEEPPROFILE_ACCEPT",
        ),
    ] = None,
    today: Today = None,
) -> None:
    """Run all stages: ingest, collocate, invert, validate; check what they made, and publish it as stores, maps and files.

    What is published already is brought up to date: only what has changed is computed.
    """
    from deepprofile.stages.pipeline import STAGES, Request

    with _explained():
        as_of = _as_of(until, today)
        loaded = _load(config, [*set_, *_until(as_of)])
        request = Request(
            as_of,
            collocate=True if collocate else None,
            remake=collocate,
            redo=_redone(loaded, first, last, redo),
            accepted_by=accept,
        )
        code = _run(loaded, STAGES, cluster, request)
    raise typer.Exit(code)


@app.command()
def release(
    tag: Annotated[str, typer.Argument(help="Its name, such as 2026.1.", metavar="TAG")],
    config: ConfigPath = DEFAULT_CONFIG,
    set_: Overrides = [],  # noqa: B006
) -> None:
    """Freeze what strangers see now under a tag: deepprofile.open_store(..., version=TAG) reads it ever after.

    What a release names is never pruned. The same tag again changes nothing.
    """
    from deepprofile.stages.publish import releases

    with _explained():
        loaded = _load_published(config, set_)
        root = Root(loaded.root)
        with root.lease(on_wait=print_status) as lease:
            found = releases.release(root, tag, lease)
    print_status(f"Release {found['tag']} of {found['released']}: {root.release_url(tag)}")
    for sentence in found["changes"]:
        print_status(f"  {sentence}")


@app.command()
def rollback(
    moment: Annotated[
        str, typer.Argument(help="Of the publication, as 'publications' below the root names it, or its first part.")
    ],
    config: ConfigPath = DEFAULT_CONFIG,
    set_: Overrides = [],  # noqa: B006
) -> None:
    """Let readers see what they saw after an earlier publication. The next run brings everything up to date again."""
    from deepprofile.stages import retention

    with _explained():
        root = Root(_load_published(config, set_).root)
        with root.lease(on_wait=print_status) as lease:
            found = retention.go_back(root, moment, lease)
    print_status(f"Readers see what they saw after {found}. Suspend the schedule, or its next run publishes anew.")


@app.command()
def prune(
    config: ConfigPath = DEFAULT_CONFIG,
    set_: Overrides = [],  # noqa: B006
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be removed, and remove nothing.")] = False,
) -> None:
    """Remove old versions of the stores, as the section 'retention' of the configuration says.

    Current versions, those of releases and of the latest publications, recent ones, and what a run is working on are kept.
    """
    from deepprofile.stages import retention

    with _explained():
        loaded = _load_published(config, set_)
        root, rule = Root(loaded.root), loaded.retention
        found = retention.expired_versions(root, rule) if dry_run else retention.prune(root, rule, print_status)
    if wants_json():
        for old in found:
            print_status(f"{'would remove' if dry_run else 'removed'} {old.store} {old.version}: {old.bytes} bytes")
    elif found:
        out.print(sizes_table([(old.store, old.version, old.bytes) for old in found]))
        total = sum(old.bytes for old in found)
        out.print(f"{len(found)} versions {'would be' if dry_run else 'are'} removed, {total / 2**20:.1f} MiB.")
    else:
        out.print("Nothing is old enough to be removed.")


@app.command()
def extract(
    url: Annotated[str, typer.Argument(help="Folder or URL of a data set, or of its folder 'public'.", metavar="URL")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A table (.csv) or a netCDF file (.nc).", metavar="FILE")],
    point: Annotated[list[str], typer.Option(help="A place: its cell. May be repeated.", metavar="LATITUDE,LONGITUDE")] = [],  # noqa: B006
    box: Annotated[str | None, typer.Option(help="The cells in a box.", metavar="WEST,SOUTH,EAST,NORTH")] = None,
    polygon: Annotated[
        Path | None, typer.Option(help="The cells in the polygons of a GeoJSON file, partly covered ones too.", metavar="FILE")
    ] = None,
    first: Annotated[str | None, typer.Option("--from", help="The first day.", metavar="DAY")] = None,
    last: Annotated[str | None, typer.Option("--to", help="The last day.", metavar="DAY")] = None,
    layer: Annotated[
        list[str],
        typer.Option(
            help="A layer, m: its mean and its water. May be repeated; by default 0-0.1 and 0-1.", metavar="TOP-BOTTOM"
        ),
    ] = [],  # noqa: B006
    depth: Annotated[list[float], typer.Option(help="A depth, m. May be repeated.", metavar="DEPTH")] = [],  # noqa: B006
    level: Annotated[float, typer.Option(help="Probability of the intervals.")] = 0.9,
    mean: Annotated[
        bool | None,
        typer.Option(
            "--mean/--cells", help="The mean of the area (by default in tables), or its cells (in netCDF).", show_default=False
        ),
    ] = None,
    period: Annotated[
        str | None,
        typer.Option(help="Means of periods: MS for months, QS-DEC for seasons, YS for years, 10D.", metavar="PERIOD"),
    ] = None,
    correlation_length: Annotated[
        float | None,
        typer.Option(
            help="Errors of cells so many m apart have the correlation 1/e; else they are fully correlated.", metavar="M"
        ),
    ] = None,
    correlation_time: Annotated[
        float | None,
        typer.Option(help="The same for days, of that part of the errors that does not persist.", metavar="DAYS"),
    ] = None,
    percentile: Annotated[bool, typer.Option("--percentile", help="Percentiles of the time of the year as well.")] = False,
    version: Annotated[str, typer.Option(help="The tag of a release.", metavar="TAG")] = "latest",
) -> None:
    """Take soil moisture with its uncertainty out of a published data set: of places, of a box, of a polygon.

    Nothing is written where that fails. The same in Python: deepprofile.open_profile(URL).deepprofile.
    """
    with _explained():
        from deepprofile.app.extract import Asked
        from deepprofile.app.extract import extract as write

        asked = Asked(
            url,
            output,
            version,
            points=[_numbers("--point", text, ("latitude", "longitude")) for text in point],
            box=None if box is None else _numbers("--box", box, ("west", "south", "east", "north")),
            polygon=polygon,
            days=(None if first is None else _day("--from", first), None if last is None else _day("--to", last)),
            layers=[_numbers("--layer", text, ("top", "bottom"), "-", "m") for text in layer],
            depths=depth,
            level=level,
            mean=mean,
            period=period,
            correlation_length=correlation_length,
            correlation_time=correlation_time,
            percentile=percentile,
        )
        with steps(err) as on_progress:
            try:
                written = write(asked, on_progress)
            except ValueError as error:
                raise ConfigError(str(error)) from error
    print_status(f"{output}: {written}")


def _numbers(option: str, text: str, names: tuple[str, ...], separator: str = ",", unit: str = "degrees") -> tuple[Any, ...]:
    """Numbers of an option, one for each name."""
    try:
        found = tuple(float(part) for part in text.split(separator))
    except ValueError:
        found = ()
    if len(found) != len(names):
        raise ConfigError(f"{option} {text}: write {separator.join(name.upper() for name in names)}, in {unit}")
    return found


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for everything the demo makes.")] = Path("demo-output"),
) -> None:
    """Simulate a region, write its granules, run every stage on them, and write a report that knows the truth."""
    with _explained():
        from deepprofile.app.demo import run_demo
        from deepprofile.stages.pipeline import STAGES

        try:
            code, written = run_demo(output, lambda config: _run(config, STAGES), err.print)
        except KeyboardInterrupt:
            err.print("\nStopped. Run the same command again to go on.")
            raise typer.Exit(STOPPED) from None
    out.print(f"Report: {written[0]}", soft_wrap=True)
    out.print(f"Published data set: {output / 'stores' / 'public'}", soft_wrap=True)
    raise typer.Exit(code)


@app.command("twin")
def simulate_twin(
    output: Annotated[str, typer.Option("--output", "-o", help="Folder or URL for granules, stations and configuration.")],
    rows: Annotated[int, typer.Option(help="Rows of cells of the 9 km grid.", min=4)] = 12,
    columns: Annotated[int, typer.Option(help="Columns of cells.", min=4)] = 12,
    days: Annotated[int, typer.Option(help="Number of days, from 2015-04-01.", min=30)] = 120,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 42,
) -> None:
    """Simulate a region whose soil moisture is known, and write its granules as the providers do."""
    from deepprofile.app.simulated import write_twin

    with _explained():
        written = write_twin(output, (rows, columns), days, seed)
    out.print(f"Configuration: {written}", soft_wrap=True)


@app.command()
def report(
    config: ConfigPath = DEFAULT_CONFIG,
    set_: Overrides = [],  # noqa: B006
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the page and its figures.")] = Path("report"),
) -> None:
    """Write a page about what is published: maps, weights, profiles and series at stations, scores."""
    with _explained():
        from deepprofile.app.report import write_report

        written = write_report(_load_published(config, set_), output)
    out.print(f"Report: {written[0]}", soft_wrap=True)


@app.command()
def plan(
    config: ConfigPath = DEFAULT_CONFIG,
    set_: Overrides = [],  # noqa: B006
    cluster: OnCluster = Where.LOCAL,
    until: UntilDay = None,
) -> None:
    """Show what a run would do: blocks, bytes and memory. Refuse what does not fit."""
    from deepprofile.stages.pipeline import already_there, of_new_error_model, workloads

    with _explained():
        checked = _load_published(config, set_, _as_of(until, None))
        listed = workloads(checked)
        grid = checked.grid.grid()
        days = (checked.period.end - checked.period.start).days + 1
        out.print(
            f"{grid.name}, {grid.rows} x {grid.columns} cells, {days:,} days, {checked.compute.workers} workers of "
            f"{size_text(checked.compute.memory_limit)}",
        )
        out.print(plan_table(listed, already_there(checked)))
        remark = of_new_error_model(checked)
        if remark is not None:
            out.print(remark, soft_wrap=True)
        _check_plan(checked, cluster, listed)


@app.command()
def status(
    config: ConfigPath = DEFAULT_CONFIG,
    set_: Overrides = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    until: UntilDay = None,
    today: Today = None,
) -> None:
    """Show which days of each product are there, what is published, and the run history."""
    from deepprofile.stages.pipeline import status_of

    with _explained():
        as_of = _as_of(until, today)
        found = status_of(_load_published(config, set_, as_of), as_of)
    if as_json:
        sys.stdout.write(json.dumps(redacted(found), indent=1, sort_keys=True) + "\n")
        return
    current, runs = found["current"], found["runs"]
    out.print(f"Root: {found['root']}", soft_wrap=True)
    if found["lease"] is not None:
        out.print(f"At work on it: {found['lease']}", soft_wrap=True)
    if found["releases"]:
        out.print(f"Releases: {', '.join(found['releases'])}", soft_wrap=True)
    out.print(days_table(found["days"]))
    for product, files in found["passed_over"].items():
        if files:
            out.print(f"Passed over in the granules of {product}:")
            for file in files[:SHOWN_PROBLEMS]:
                out.print(f"  {file['name']}: {file['reason']}", soft_wrap=True)
            if len(files) > SHOWN_PROBLEMS:
                out.print(f"  and {len(files) - SHOWN_PROBLEMS} more: see --json")
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
    configure_logs()
    try:
        code = app(standalone_mode=False)
    except typer.TyperException as error:
        _show_wrong_use(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        err.print("\nStopped.")
        sys.exit(STOPPED)
    except Exception as error:
        # An error of the program itself: whoever fixes it needs the whole traceback.
        if wants_json():
            logging.getLogger("deepprofile.app.cli").critical("an error of the program", exc_info=error)
        else:
            sys.stderr.write(traceback_text(error))
        sys.exit(FAILED)
    sys.exit(code)


def _show_wrong_use(error: typer.TyperException) -> None:
    """What the command-line library says of wrong arguments, which it repeats: there may be a secret among them."""
    said = io.StringIO()
    error.show(said)  # type: ignore[attr-defined]
    sys.stderr.write(without_secrets(said.getvalue()))


if __name__ == "__main__":
    main()
