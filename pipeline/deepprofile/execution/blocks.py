"""Blocks: what a stage gives to the engine, what a worker does with one, and what is recorded of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from itertools import product as combinations
from math import prod
from typing import Any, overload

from deepprofile.execution.errors import WorkerLostError
from deepprofile.storage.redaction import without_secrets
from deepprofile.storage.retries import retry_budget

log = logging.getLogger(__name__)


DONE, INCOMPLETE, COPIED, FAILED = "done", "incomplete", "copied", "failed"


@dataclass(frozen=True)
class Block:
    """A unit of work: its place in the grid of blocks, and the region it writes as (start, stop) along each dimension.

    ``part``: of a store in parts, such as calendar years, the one that it belongs to.
    """

    index: tuple[int, ...]
    region: tuple[tuple[int, int], ...]
    part: str = ""

    @property
    def name(self) -> str:
        """Part and place as text, such as ``0.2.1`` or ``2024.0.2.1``."""
        return ".".join([*([self.part] if self.part else []), *map(str, self.index)])


@dataclass(frozen=True)
class Outcome:
    """What computing a block tells the driver.

    ``problems``: inputs that were missing or broken, as sentences; such a block is recorded as incomplete and tried again by
    the next run. ``details``: small values that the stage wants back.
    """

    bytes_read: int = 0
    bytes_written: int = 0
    problems: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    storage_retries: int = 0


@dataclass(frozen=True)
class Record:
    """What became of a block.

    ``block``: its name. ``attempts``: those that count against the block; ``retries``: all that were made again.
    ``losses``: how often a worker was lost while it computed the block, by cause. ``static_fingerprint``: that part of the
    fingerprint which tells whether an earlier state of the block can be brought up to date. ``index``, ``region`` and
    ``part``: those of the block.
    """

    block: str
    fingerprint: str
    status: str
    attempts: int = 1
    retries: int = 0
    seconds: float = 0.0
    bytes_read: int = 0
    bytes_written: int = 0
    problems: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    storage_retries: int = 0
    losses: Mapping[str, int] = field(default_factory=dict)
    static_fingerprint: str = ""
    index: tuple[int, ...] = ()
    region: tuple[tuple[int, int], ...] = ()
    part: str = ""


@dataclass(frozen=True)
class Workload:
    """What a job has to do and what it costs, known before any data is looked at.

    Attributes
    ----------
    name
        Of the job, for people.
    blocks
        In the order in which they are to be done.
    memory_per_block
        Bytes that computing a block needs at most.
    bytes_in, bytes_out
        For the whole job, before compression.
    remark
        What a user should know of how the work is divided; empty where there is nothing to say.
    """

    name: str
    blocks: Sequence[Block]
    memory_per_block: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    remark: str = ""

    @classmethod
    def joined(cls, parts: Sequence[Workload]) -> Workload:
        """The workloads of the parts of a store as one."""
        return cls(
            name=parts[0].name,
            blocks=tuple(chain.from_iterable(part.blocks for part in parts)),
            memory_per_block=max(part.memory_per_block for part in parts),
            bytes_in=sum(part.bytes_in for part in parts),
            bytes_out=sum(part.bytes_out for part in parts),
            remark=next((part.remark for part in parts if part.remark), ""),
        )


@dataclass(frozen=True)
class Job:
    """A workload that can be run.

    Attributes
    ----------
    workload
        Its blocks.
    compute
        Computes and writes a block, given what ``inputs`` says of it; runs on a worker, and is pickled for each block.
    fingerprint
        Of everything that the bytes of a block depend on.
    static_fingerprint
        Of what they depend on as a whole, recorded with the block; the rest may change in parts.
    inputs
        Small things that a block needs to know, such as the names of its files.
    copy
        Takes a block over from the version before, given that the fingerprints agree.
    """

    workload: Workload
    compute: Callable[[Block, Any], Outcome]
    fingerprint: Callable[[Block], str]
    static_fingerprint: Callable[[Block], str] | None = None
    inputs: Callable[[Block], Any] | None = None
    copy: Callable[[Block], None] | None = None

    @property
    def name(self) -> str:
        """Of the workload."""
        return self.workload.name

    @property
    def blocks(self) -> Sequence[Block]:
        """Of the workload."""
        return self.workload.blocks


@dataclass(frozen=True)
class Jobs:
    """Jobs of the parts of a store, which are run together: no part waits for the last block of another.

    Attributes
    ----------
    workload
        Of all of them, with their blocks in the order in which they are to be done.
    parts
        The job of each part; that of a store without parts under ``""``.
    begin
        Called with a part before its first block is computed or copied; never with one that is done already.
    """

    workload: Workload
    parts: Mapping[str, Job]
    begin: Callable[[str], None] | None = None

    @classmethod
    def of(cls, jobs: Mapping[str, Job], order: Callable[[Block], Any] | None = None) -> Jobs:
        """Of the jobs of some parts, part after part; or in another order of the blocks."""
        workload = Workload.joined([job.workload for job in jobs.values()])
        if order is not None:
            workload = replace(workload, blocks=sorted(workload.blocks, key=order))
        return cls(workload, jobs)

    @property
    def name(self) -> str:
        """Of the workload."""
        return self.workload.name

    @property
    def blocks(self) -> Sequence[Block]:
        """Of the workload."""
        return self.workload.blocks

    def job(self, block: Block) -> Job:
        """The one that a block belongs to."""
        return self.parts[block.part]


class BlockGrid(Sequence[Block]):
    """Blocks that cover an array, the first dimension slowest; each is made when it is asked for."""

    def __init__(self, spans: Sequence[Sequence[tuple[int, int]]], part: str = "") -> None:
        self._spans, self._part = spans, part
        self._counts = [len(along) for along in spans]

    def __len__(self) -> int:
        """How many."""
        return prod(self._counts)

    @overload
    def __getitem__(self, place: int) -> Block: ...

    @overload
    def __getitem__(self, place: slice) -> list[Block]: ...

    def __getitem__(self, place: int | slice) -> Block | list[Block]:
        """The block at a place, or those of a slice."""
        if isinstance(place, slice):
            return [self[k] for k in range(*place.indices(len(self)))]
        left = range(len(self))[place]
        index: list[int] = []
        for count in reversed(self._counts):
            left, k = divmod(left, count)
            index.append(k)
        index.reverse()
        return Block(tuple(index), tuple(along[k] for along, k in zip(self._spans, index, strict=True)), self._part)

    def __iter__(self) -> Iterator[Block]:
        """All of them, in order."""
        for index in combinations(*map(range, self._counts)):
            yield Block(index, tuple(along[k] for along, k in zip(self._spans, index, strict=True)), self._part)


def grid_blocks(sizes: Sequence[int], steps: Sequence[int], part: str = "") -> BlockGrid:
    """Blocks of these steps that cover an array of these sizes, the first dimension slowest; ``part``: see ``Block``."""
    spans = [
        [(start, min(start + step, size)) for start in range(0, size, step)] for size, step in zip(sizes, steps, strict=True)
    ]
    return BlockGrid(spans, part)


def compute_block(
    job: str, compute: Callable[[Block, Any], Outcome], block: Block, inputs: Any, retry_seconds: float
) -> Outcome:
    """What runs on a worker: one block, with one budget for requests to object storage that have to be repeated."""
    marks = {"stage": job, "block": block.name}
    log.debug("%s: block %s begins", job, block.name, extra=marks)
    with retry_budget(retry_seconds) as budget:
        try:
            outcome = compute(block, inputs)
        except Exception as error:
            log.warning("%s: block %s: %s", job, block.name, error_sentence(error), extra=marks)
            raise
    log.debug("%s: block %s is written", job, block.name, extra=marks)
    return replace(outcome, storage_retries=budget.retries)


def error_sentence(error: BaseException) -> str:
    """What went wrong in one line: the kind of the error and the first line of its message, without secrets."""
    text = without_secrets(str(error)).strip().splitlines()
    if isinstance(error, WorkerLostError) and text:
        return text[0]
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
