"""What a stage hands over to be run, and what comes back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from deepprofile.execution.blocks import Job, Record
from deepprofile.execution.engine import Progress
from deepprofile.stages.increments import DayFingerprints
from deepprofile.storage.stores import (
    Template,
)


class PlanError(Exception):
    """A plan that cannot be carried out; the message says what to change."""


@dataclass(frozen=True)
class StagePlan:
    """A stage that is ready to run.

    ``url`` is that of the version of the store that it makes. ``finish`` is given the record of every block when all are done;
    it returns sentences about inputs that were missing. ``notes`` returns, in the same way, what a user should know although
    nothing is missing: it changes no exit code. ``marks``: of a store along time, of which a block can be brought up to date
    day by day; its blocks are given ``BlockInputs``. ``summary``: what is to be remembered of the days. ``at_hand``: its
    blocks are done by the driver, which alone holds what they are made of.
    """

    stage: str
    store: str
    version: str
    template: Template
    job: Job
    url: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    finish: Callable[[Mapping[str, Record]], list[str]] | None = None
    marks: DayFingerprints | None = None
    summary: Callable[[Mapping[str, Record]], Mapping[str, Any]] | None = None
    notes: Callable[[Mapping[str, Record]], list[str]] | None = None
    at_hand: bool = False


@dataclass(frozen=True)
class StageResult:
    """What a stage has done; ``records``: of every block. ``problems`` and ``notes``: see ``StagePlan``."""

    stage: str
    store: str
    version: str
    progress: Progress
    problems: tuple[str, ...]
    records: Mapping[str, Record] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
