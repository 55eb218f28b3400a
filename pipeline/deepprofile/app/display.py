"""What the command line shows of a running stage: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Task, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from deepprofile.execution.blocks import Workload
from deepprofile.execution.engine import Progress
from deepprofile.stages.gate import Check
from deepprofile.stages.plan import StagePlan, StageResult
from deepprofile.storage.redaction import without_secrets

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES: Final = 10.0


class PlainConsole(Console):
    """A console that prints text as it is: paths and messages are others', and may hold anything that rich takes for its own.

    Brackets are no markup, ``:names:`` no emoji, numbers and paths have no colours; and what may be a secret is left out.
    """

    def __init__(self, *, stderr: bool = False, width: int | None = None) -> None:
        super().__init__(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """See ``rich.console.Console``: every text passes here, that of the cells of tables included."""
        return super().render_str(without_secrets(text), **(options | {"markup": False, "emoji": False, "highlight": False}))


class _PlainColumn(TextColumn):
    """Text beside a bar, as it is."""

    def render(self, task: Task) -> Text:
        """See ``rich.progress.ProgressColumn``."""
        return Text(without_secrets(self.text_format.format(task=task)))


def size_text(count: float) -> str:
    """Bytes for people: ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError


def time_text(seconds: float) -> str:
    """A duration for people: ``2 h 05 min``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


class Display:
    """Shows stages one after the other; a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: Bars | None = None
        if console.is_terminal:
            self._bars = Bars(
                _PlainColumn("{task.description:<20}"),
                BarColumn(bar_width=30),
                MofNCompleteColumn(),
                _PlainColumn("{task.fields[rate]:>12}"),
                _PlainColumn("{task.fields[left]}"),
                console=console,
            )
        self.latest: Progress | None = None

    def __enter__(self) -> Display:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bars is not None:
            self._bars.stop()

    def stage(self, plan: StagePlan) -> Callable[[Progress], None]:
        """Begin to show a stage; returns what is to be told of its progress."""
        if self._bars is not None:
            task = self._bars.add_task(plan.name, total=len(plan.jobs.blocks), rate="", left="")
            return lambda progress: self._update(task, progress)
        self._console.print(f"{plan.name}: {len(plan.jobs.blocks)} blocks", soft_wrap=True)

        def show(progress: Progress, due: bool) -> None:
            self.latest = progress
            if due:
                self._console.print(f"{progress.job}: {describe(progress)}", soft_wrap=True)

        return _now_and_then(show)

    def _update(self, task: TaskID, progress: Progress) -> None:
        assert self._bars is not None
        self.latest = progress
        rate = size_text(progress.bytes_read / progress.seconds) + "/s" if progress.seconds > 0.5 else ""
        over = progress.finished == progress.blocks
        running = "" if progress.seconds_left is None else f"{time_text(progress.seconds_left)} left"
        left = describe_rest(progress) if over else running
        self._bars.update(task, completed=progress.finished, rate=rate, left=left)


@contextmanager
def steps(console: Console) -> Iterator[Callable[[int, int], None]]:
    """Shows how many of some steps are done, where there is a terminal; yields what is to be told."""
    if not console.is_terminal:
        yield lambda _done, _of: None
        return
    bars = Bars(BarColumn(bar_width=30), MofNCompleteColumn(), console=console, transient=True)
    with bars:
        task = bars.add_task("", total=None)
        yield lambda done, of: bars.update(task, completed=done, total=of)


class LogDisplay:
    """Shows stages as lines of the log; a context manager."""

    def __init__(self) -> None:
        self.latest: Progress | None = None

    def __enter__(self) -> LogDisplay:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def stage(self, plan: StagePlan) -> Callable[[Progress], None]:
        """Begin to show a stage; returns what is to be told of its progress."""

        def show(progress: Progress, due: bool) -> None:
            self.latest = progress
            if due:
                log.info("%s: %s", progress.job, describe(progress), extra={"stage": plan.stage})

        return _now_and_then(show)


def _now_and_then(show: Callable[[Progress, bool], None]) -> Callable[[Progress], None]:
    """Say of each progress whether a line about it is due: some time after the last one, and when all is done."""
    last = time.monotonic()

    def tell(progress: Progress) -> None:
        nonlocal last
        due = progress.finished == progress.blocks or time.monotonic() - last >= SECONDS_BETWEEN_LINES
        if due:
            last = time.monotonic()
        show(progress, due)

    return tell


def describe(progress: Progress) -> str:
    """One line about a stage."""
    text = f"{progress.finished} of {progress.blocks} blocks"
    if progress.bytes_read:
        text += f", {size_text(progress.bytes_read / progress.seconds)}/s read"
    if progress.finished < progress.blocks:
        return text if progress.seconds_left is None else f"{text}, {time_text(progress.seconds_left)} left"
    return f"{text}, {describe_rest(progress)}"


def describe_rest(progress: Progress) -> str:
    """How the blocks of a finished stage came about."""
    before = f"{progress.skipped} done before" if progress.skipped else ""
    return ", ".join(part for part in (time_text(progress.seconds), before, _remarks(progress)) if part)


def _remarks(progress: Progress) -> str:
    counts = (
        (progress.copied, "copied"),
        (progress.incomplete, "incomplete"),
        (progress.retried, "retried"),
        (progress.failed, "failed"),
        (progress.storage_retries, "requests to storage repeated"),
        *((count, f"lost ({cause})") for cause, count in sorted(progress.losses.items())),
    )
    return ", ".join(f"{count} {word}" for count, word in counts if count)


def summary_table(results: Sequence[StageResult]) -> Table:
    """What every stage has done."""
    table = Table(title="Summary", title_justify="left", box=SIMPLE_HEAD)
    for name in ("stage", "blocks", "computed", "done before", "read", "written", "time", ""):
        table.add_column(name, justify="left" if name in ("stage", "") else "right", no_wrap=name != "")
    for result in results:
        p = result.progress
        volumes = (size_text(p.bytes_read), size_text(p.bytes_written))
        counted = (str(p.blocks), str(p.done + p.incomplete), str(p.skipped))
        table.add_row(result.stage, *counted, *volumes, time_text(p.seconds), _remarks(p))
    return table


def plan_table(workloads: Sequence[Workload], kept: Mapping[str, int]) -> Table:
    """Blocks, bytes and memory of every job; ``kept``: blocks that are done already or copied, where that is known."""
    table = Table(title="Plan", title_justify="left", box=SIMPLE_HEAD)
    for name in ("stage", "blocks", "kept", "read", "written", "memory a block"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for each in workloads:
        cost = (size_text(each.bytes_in), size_text(each.bytes_out), size_text(each.memory_per_block))
        table.add_row(each.name, f"{len(each.blocks):,}", f"{kept[each.name]:,}" if each.name in kept else "", *cost)
    total = (sum(each.bytes_in for each in workloads), sum(each.bytes_out for each in workloads))
    table.add_section()
    largest = max((each.memory_per_block for each in workloads), default=0)
    table.add_row(
        "together",
        f"{sum(len(each.blocks) for each in workloads):,}",
        "",
        *map(size_text, total),
        f"{size_text(largest)} at most",
    )
    remarks = [f"{each.name}: {each.remark}" for each in workloads if each.remark]
    table.caption, table.caption_justify = "\n".join(remarks) or None, "left"
    return table


def stretches(states: Mapping[str, str]) -> list[tuple[str, str, int, str]]:
    """Days in the same state that follow one another: first, last, number, state."""
    found: list[tuple[str, str, int, str]] = []
    for day in sorted(states):
        if found and found[-1][3] == states[day]:
            found[-1] = (found[-1][0], day, found[-1][2] + 1, states[day])
        else:
            found.append((day, day, 1, states[day]))
    return found


def days_table(days: Mapping[str, Mapping[str, str]]) -> Table:
    """What is there of every product, day by day."""
    table = Table(title="Days", title_justify="left", box=SIMPLE_HEAD)
    for name in ("product", "from", "to", "days", "state"):
        table.add_column(name, justify="right" if name == "days" else "left", no_wrap=True)
    for product, states in days.items():
        for k, (first, last, number, state) in enumerate(stretches(states)):
            table.add_row(product if k == 0 else "", first, last, f"{number:,}", state)
    return table


def checks_table(checks: Sequence[Check]) -> Table:
    """What a new version was found to be like, and what is allowed."""
    table = Table(title="Checks", title_justify="left", box=SIMPLE_HEAD)
    for name in ("check", "", "found", "allowed", "passed"):
        table.add_column(name, justify="right" if name in ("found", "allowed") else "left")
    for check in checks:
        text = check.text.rstrip(": ")
        table.add_row(check.name, text, f"{check.found:.4g}", f"{check.limit:.4g}", "yes" if check.passed else "NO")
    return table


def sizes_table(rows: Sequence[tuple[str, str, int]]) -> Table:
    """Versions of stores and their sizes."""
    table = Table(box=SIMPLE_HEAD)
    for name in ("store", "version", "size"):
        table.add_column(name, justify="right" if name == "size" else "left", no_wrap=True)
    for store, version, size in rows:
        table.add_row(store, version, size_text(size))
    return table
