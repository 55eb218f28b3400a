"""A page in one file: headings, paragraphs, figures and tables, from templates that escape whatever is put into them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from deepprofile.storage.redaction import without_secrets


class Row(NamedTuple):
    """Cells of a table, and the classes that the style sheet knows the row by."""

    cells: tuple[str, ...]
    classes: str


@dataclass(frozen=True)
class Table:
    """A table as it is shown: names of the columns, and rows of text."""

    names: tuple[str, ...]
    rows: tuple[Row, ...]

    @classmethod
    def of(cls, frame: pd.DataFrame, marked: str = "") -> Table:
        """Rows whose second column says ``marked`` stand out, and groups of the first column are set apart."""
        rows, before = [], None
        for values in frame.itertuples(index=False):
            classes = ["fused"] if marked and len(values) > 1 and values[1] == marked else []
            classes += ["first"] if before is not None and values[0] != before else []
            shown = ["" if values[0] == before else values[0], *values[1:]]
            rows.append(Row(tuple(without_secrets(str(value)) for value in shown), " ".join(classes)))
            before = values[0]
        return cls(tuple(without_secrets(str(name)) for name in frame.columns), tuple(rows))


@dataclass
class Section:
    """Part of a page: a heading, a paragraph, figures with their names and captions, a table."""

    title: str
    text: str = ""
    figures: list[tuple[str, Figure, str]] = field(default_factory=list)
    table: Table | None = None


def write_page(
    folder: Path, title: str, subtitle: str, facts: Sequence[tuple[str, str]], sections: Sequence[Section]
) -> list[Path]:
    """Write ``index.html``, which holds its figures, and beside it each figure as PNG; returns what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    written, shown = [], []
    for section in sections:
        figures = []
        for name, figure, caption in section.figures:
            # Names of stations are others' choice.
            path = folder / f"{name.replace('/', '_')}.png"
            figure.savefig(path, dpi=130)
            written.append(path)
            figures.append({"caption": without_secrets(caption), "data": base64.b64encode(path.read_bytes()).decode()})
        said = {"title": without_secrets(section.title), "text": without_secrets(section.text)}
        shown.append({**said, "figures": figures, "table": section.table})
    loader = PackageLoader("deepprofile.app", "templates")
    page = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    path = folder / "index.html"
    path.write_text(
        page.get_template("report.html").render(
            title=without_secrets(title),
            subtitle=subtitle,
            facts=[(name, without_secrets(value)) for name, value in facts],
            sections=shown,
        )
    )
    return [path, *written]
