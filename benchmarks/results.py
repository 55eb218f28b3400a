"""Tables of measurements: printed, kept with the commit in ``results.json``, and put into documents from there.

python -m benchmarks.results        # writes the tables of docs/speed.md and docs/scale.md anew
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
FILE = Path(__file__).with_name("results.json")
# Documents that have tables.
DOCUMENTS = (ROOT / "docs/speed.md", ROOT / "docs/scale.md")


class Seconds(NamedTuple):
    """What a call took: processor time of all threads, and time on the clock."""

    cpu: float
    wall: float

    def __str__(self) -> str:
        return f"{self.cpu:.3g} / {self.wall:.3g}"


def timed(function: Callable[[], object]) -> Seconds:
    """One call."""
    cpu, wall = time.process_time(), time.perf_counter()
    function()
    return Seconds(time.process_time() - cpu, time.perf_counter() - wall)


def median(found: Sequence[Seconds]) -> Seconds:
    """Medians of several calls, each of its own."""
    return Seconds(*(float(np.median(part)) for part in zip(*found, strict=True)))


def clock(function: Callable[[], object], repeats: int = 3) -> Seconds:
    """Medians of some calls."""
    return median([timed(function) for _ in range(repeats)])


def side_by_side(functions: Sequence[Callable[[], object]], repeats: int = 5, *, settled: bool = False) -> list[list[Seconds]]:
    """Calls in turn, after one of each that does not count: what disturbs one disturbs the others.

    ``settled``: each call that counts follows one of the same function that does not, so that the memory that the process
    holds is what that function needs.
    """

    def one(function: Callable[[], object]) -> Seconds:
        if settled:
            function()
        return timed(function)

    for function in functions:
        function()
    found = [[one(function) for function in functions] for _ in range(repeats)]
    return [list(of_one) for of_one in zip(*found, strict=True)]


def ratio(ours: Sequence[Seconds], other: Sequence[Seconds]) -> Seconds:
    """Medians of the ratios of pairs."""
    return Seconds(*(float(np.median([a[k] / b[k] for a, b in zip(ours, other, strict=True)])) for k in (0, 1)))


@dataclass
class Measurement:
    """A table: what it shows, its columns, and its rows as they are printed. ``note``: how it was measured."""

    title: str
    columns: Sequence[str]
    rows: list[list[str]] = field(default_factory=list)
    note: str = ""

    def add(self, *cells: object) -> None:
        """Add a row."""
        self.rows.append([str(cell) for cell in cells])

    def show(self) -> None:
        """Print it."""
        table = Table(title=self.title, title_justify="left", caption=self.note or None, caption_justify="left")
        for place, name in enumerate(self.columns):
            table.add_column(name, justify="left" if place == 0 else "right")
        for row in self.rows:
            table.add_row(*row)
        Console(width=130).print(table)

    def as_markdown(self) -> str:
        """The table of a document."""
        lines = [self.columns, ["---"] + ["---:"] * (len(self.columns) - 1), *self.rows]
        return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def keep(found: dict[str, Measurement]) -> None:
    """Put measurements into the file, with the commit and the machine; others that are there stay."""
    kept = read()
    for name, measurement in found.items():
        kept[name] = asdict(measurement) | {"commit": _commit(), "date": time.strftime("%Y-%m-%d"), "machine": _machine()}
    FILE.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")


def read() -> dict[str, dict[str, Any]]:
    """What was measured last, by name."""
    found: dict[str, dict[str, Any]] = json.loads(FILE.read_text()) if FILE.exists() else {}
    return found


def _commit() -> str:
    """The commit that was measured, with a mark where the sources differ from it."""

    def said(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # The results of one suite are there when the next one is measured.
        changed = said("status", "--porcelain", "--untracked-files=no", "--", ".", f":!{FILE.relative_to(ROOT)}")
        return said("rev-parse", "--short", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _machine() -> str:
    return f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"


def with_tables(text: str) -> str:
    """A document with its tables as the file has them: each stands between ``<!-- results: NAME -->`` and ``<!-- end -->``."""
    kept = read()

    def table(match: re.Match[str]) -> str:
        one = kept[match[1]]
        made = Measurement(one["title"], one["columns"], one["rows"]).as_markdown()
        said = f"({one['commit']}, {one['date']}; {one['machine']})"
        note = f"{one['note']} {said}".strip()
        return f"<!-- results: {match[1]} -->\n{made}\n\n{note}\n<!-- end -->"

    return re.sub(r"<!-- results: ([\w-]+) -->.*?<!-- end -->", table, text, flags=re.DOTALL)


def main() -> int:
    """Write the tables of the documents anew."""
    for document in DOCUMENTS:
        document.write_text(with_tables(document.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
