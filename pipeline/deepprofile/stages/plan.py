"""What a stage hands over to be run, and what comes back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepprofile.config import Compute
from deepprofile.execution.blocks import Block, Job, Jobs, Record, Workload
from deepprofile.execution.engine import Progress
from deepprofile.execution.pools import BLOCK_MARGIN, WORKER_BASE_BYTES
from deepprofile.grids.grids import Grid
from deepprofile.stages.increments import DayFingerprints
from deepprofile.storage.roots import Root
from deepprofile.storage.stores import Template


def block_budget(compute: Compute) -> int:
    """Bytes that a block may take, so that as many as a worker computes at a time fit into its memory, wherever it runs."""
    at_a_time = compute.threads * (1 if compute.processes else compute.workers)
    return int((compute.memory_limit - WORKER_BASE_BYTES) / (BLOCK_MARGIN * at_a_time))


class PlanError(Exception):
    """A plan that cannot be carried out; the message says what to change."""


@dataclass(frozen=True)
class Expected:
    """What the stages that read a store ask of it.

    Attributes
    ----------
    grid
        On which it has to lie; None where it lies on none.
    products
        Of which it has to be made, in their order; None where that is no matter.
    days
        ``datetime64[D]``, which it has to hold; None where it has no days.
    """

    grid: Grid | None = None
    products: tuple[str, ...] | None = None
    days: NDArray[np.datetime64] | None = None


@dataclass(frozen=True)
class Step:
    """One store of the pipeline: what it is made from, what that costs, and how it is planned.

    Attributes
    ----------
    stage
        The command that makes it.
    store
        Its name below the root.
    reads
        Names of the stores that have to be there; the order of the pipeline follows from this.
    workload
        Its blocks and their cost, without looking at any data.
    plan
        Makes a plan, given the root and the version of every store that is there.
    expected
        What those who read the store ask of it.
    """

    stage: str
    store: str
    reads: tuple[str, ...]
    workload: Callable[[], Workload]
    plan: Callable[[Root, Mapping[str, str]], StagePlan]
    expected: Expected = field(default_factory=Expected)


@dataclass(frozen=True)
class VersionPlan:
    """A version of a store, or of a year of one, that is ready to be made.

    ``store`` is its name, such as ``profile/2024``, ``part`` the year, and ``url`` that of the version. ``finish`` is given the
    record of each of its blocks when all are done; it returns sentences about inputs that were missing. ``marks``: of a store
    along time, of which a block can be brought up to date day by day; its blocks are given ``BlockInputs``. ``summary``: what
    is to be remembered of the days.
    """

    store: str
    version: str
    template: Template
    job: Job
    url: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    finish: Callable[[Mapping[str, Record]], list[str]] | None = None
    marks: DayFingerprints | None = None
    summary: Callable[[Mapping[str, Record]], Mapping[str, Any]] | None = None
    part: str = ""


@dataclass(frozen=True)
class StagePlan:
    """A stage that is ready to run: the versions that it makes of one store, of each year where the store has years.

    ``notes`` is given the record of every block when all are done; it returns sentences that a user should know although
    nothing is missing: they change no exit code. ``order``: of the blocks of all versions, where that is not version after
    version. ``on_driver``: its blocks are done by the driver, which alone holds what they are made of.
    """

    stage: str
    store: str
    versions: tuple[VersionPlan, ...]
    notes: Callable[[Mapping[str, Record]], list[str]] | None = None
    order: Callable[[Block], Any] | None = None
    on_driver: bool = False

    @property
    def jobs(self) -> Jobs:
        """All blocks."""
        return Jobs.of({version.part: version.job for version in self.versions}, self.order)

    @property
    def name(self) -> str:
        """Of the work, for people."""
        return self.versions[0].job.name


@dataclass(frozen=True)
class StageResult:
    """What a stage has done.

    ``versions``: of the store, or of each of its years, by their names. ``records``: of every block. ``problems``: of inputs
    that were missing; ``notes``: see ``StagePlan``.
    """

    stage: str
    store: str
    versions: Mapping[str, str]
    progress: Progress
    problems: tuple[str, ...]
    records: Mapping[str, Record] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
