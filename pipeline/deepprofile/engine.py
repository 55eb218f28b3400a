"""The block engine: runs the blocks of a stage, a bounded number at a time, and records each of them.

Knows nothing of soil moisture. A stage gives it a ``Job``: a list of blocks, what each of them depends on, and a function
that computes one block and writes its shards. Only blocks and small records travel to and from the workers. Every finished
block has a record; a block whose record says that it is complete, under the same inputs, is not computed again.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import logging
import random
import re
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_futures
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from enum import Enum
from pathlib import PurePath
from queue import Empty, SimpleQueue
from typing import Any, Final, Protocol

import numpy as np

from deepprofile.documents import FORMAT, FORMAT_KEY, DamagedDocument, parse
from deepprofile.objects import RETRY_SECONDS, join, names_below, read_all, remove, retry_budget, write_bytes
from deepprofile.redaction import redacted, without_secrets

log = logging.getLogger(__name__)

DONE, INCOMPLETE, COPIED, FAILED = "done", "incomplete", "copied", "failed"
# Records are kept together for so long, so that a store in the cloud gets a few objects a minute, not one for each block.
FLUSH_SECONDS: Final = 2.0
FLUSH_RECORDS: Final = 256
# A driver's file grows to this size before it begins another: few files, and little that is written twice.
SEGMENT_CHARACTERS: Final = 2**18
_SEGMENT: Final = re.compile(r"\d+-[0-9a-f]+\.jsonl")
# Files of records that vanish while they are read are listed again so often.
MOST_LISTINGS: Final = 20
MOST_FAILURES: Final = 20
# Of blocks that killed their workers, such as by too little memory, while no block has come through: each costs a worker, whose
# next start Kubernetes puts off longer and longer.
MOST_KILLERS: Final = 2
# A block whose workers are taken away again and again, through no fault of its own, is given up after so many.
MOST_LOSSES: Final = 50
# Blocks that are taken over at a time: each is a few requests that the driver waits for.
COPIES: Final = 16


@dataclass(frozen=True)
class Block:
    """A unit of work: its place in the grid of blocks, and the region it writes as (start, stop) along each dimension."""

    index: tuple[int, ...]
    region: tuple[tuple[int, int], ...]

    @property
    def name(self) -> str:
        """The place as text, such as ``0.2.1``."""
        return ".".join(map(str, self.index))


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
    """One line of the manifest.

    ``losses``: how often a worker was lost while it computed the block, by cause. ``base``: that part of the fingerprint which
    tells whether an earlier state of the block can be brought up to date.
    """

    block: str
    fingerprint: str
    status: str
    attempts: int = 1
    seconds: float = 0.0
    bytes_read: int = 0
    bytes_written: int = 0
    problems: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    storage_retries: int = 0
    losses: Mapping[str, int] = field(default_factory=dict)
    base: str = ""


@dataclass(frozen=True)
class Job:
    """What a stage gives to the engine.

    Attributes
    ----------
    name
        Of the stage, for people.
    blocks
        In the order in which they are to be done.
    compute
        Computes and writes a block, given what ``inputs`` says of it; runs on a worker, and is pickled for each block.
    fingerprint
        Of everything that the bytes of a block depend on.
    base
        Of what they depend on as a whole, recorded with the block; the rest may change in parts.
    inputs
        Small things that a block needs to know, such as the names of its files.
    copy
        Takes a block over from the version before, given that the fingerprints agree.
    memory_per_block
        Bytes that computing a block needs at most.
    bytes_in, bytes_out
        For the whole job, before compression.
    """

    name: str
    blocks: Sequence[Block]
    compute: Callable[[Block, Any], Outcome]
    fingerprint: Callable[[Block], str]
    base: Callable[[Block], str] | None = None
    inputs: Callable[[Block], Any] | None = None
    copy: Callable[[Block], None] | None = None
    memory_per_block: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


@dataclass(frozen=True)
class Retry:
    """How often a block is tried, and how long the engine waits before it tries again (doubled each time, with jitter).

    ``storage_seconds``: how long, in one attempt, requests to object storage may fail and be repeated.
    """

    attempts: int = 4
    wait_seconds: float = 0.5
    storage_seconds: float = RETRY_SECONDS


@dataclass(frozen=True)
class Progress:
    """How far a job is."""

    job: str
    blocks: int
    done: int
    skipped: int
    copied: int
    incomplete: int
    failed: int
    retried: int
    losses: Mapping[str, int]
    storage_retries: int
    bytes_read: int
    bytes_written: int
    seconds: float

    @classmethod
    def nothing(cls, job: str) -> Progress:
        """Of a job that has no block."""
        return cls(job, 0, 0, 0, 0, 0, 0, 0, {}, 0, 0, 0, 0.0)

    @property
    def finished(self) -> int:
        """Blocks that need nothing more."""
        return self.done + self.skipped + self.copied + self.incomplete + self.failed

    @property
    def seconds_left(self) -> float | None:
        """Time left at the rate so far; None where nothing was computed yet."""
        computed = self.done + self.copied + self.incomplete
        return (self.blocks - self.finished) * self.seconds / computed if computed else None


class JobFailed(Exception):
    """Blocks could not be computed; the message names the first of them and why."""


class WorkerLost(Exception):
    """A worker ended while it computed a block.

    ``cause``: in a few words, such as ``out of memory`` or ``evicted``. ``counts``: whether the block may be to blame, so that
    the loss counts as one of its attempts.
    """

    def __init__(self, cause: str, counts: bool, message: str) -> None:
        super().__init__(message)
        self.cause, self.counts = cause, counts

    def __reduce__(self) -> tuple[Any, ...]:
        return WorkerLost, (self.cause, self.counts, str(self))


class ClusterError(Exception):
    """Workers that cannot be had; the message says what keeps them from starting."""


class Hopeless(Exception):
    """What a block raises where another attempt would end in the same way."""


class PoolLost(Exception):
    """All workers are gone with what they had been given: the job can go on with another pool, from what is recorded."""


def fingerprint(*parts: Any) -> str:
    """A short hash of values: two that differ have different ones.

    Numbers (of numpy too), text, None, lists and tuples (which are the same), mappings with names as keys, dataclasses, dates,
    times of numpy, paths and members of enumerations.

    Raises
    ------
    TypeError
        For any other type: its text may be the same for values that differ, or differ for the same value.
    """
    return hashlib.sha256(json.dumps([_canonical(part) for part in parts], sort_keys=True).encode()).hexdigest()[:16]


def _canonical(value: Any) -> Any:
    """What JSON writes for a value in a fingerprint."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, (list, tuple)):
        return [_canonical(each) for each in value]
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"no fingerprint of a mapping whose keys are not all text: {list(value)[:3]}")
        return {str(key): _canonical(each) for key, each in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        named = {each.name: getattr(value, each.name) for each in fields(value)}
        if _is_plain(value):
            # As dataclasses show themselves: fingerprints of stores that are there begin from this.
            return f"{type(value).__qualname__}({', '.join(f'{name}={each!r}' for name, each in named.items())})"
        return {f"dataclass {type(value).__qualname__}": _canonical(named)}
    if isinstance(value, (np.datetime64, np.timedelta64)):
        return {str(value.dtype): str(value)}
    if isinstance(value, (np.bool_, np.integer, np.floating)):
        return _canonical(value.item())
    if isinstance(value, (dt.date, dt.time)):
        return {type(value).__name__: value.isoformat()}
    if isinstance(value, dt.timedelta):
        return {"timedelta": [value.days, value.seconds, value.microseconds]}
    if isinstance(value, PurePath):
        return {"path": str(value)}
    if isinstance(value, Enum):
        return {f"enum {type(value).__qualname__}": value.name}
    raise TypeError(f"no fingerprint of a {type(value).__name__}: give what tells it from others, as numbers and text")


def _is_plain(value: Any) -> bool:
    """Whether the text that Python shows of a value tells it from all others."""
    if is_dataclass(value) and not isinstance(value, type):
        # One that shows itself in a way of its own may leave something out.
        generated = hasattr(type(value).__repr__, "__wrapped__")
        return generated and all(each.repr and _is_plain(getattr(value, each.name)) for each in fields(value))
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    if type(value) is dict:
        return all(type(key) is str and _is_plain(each) for key, each in value.items())
    return type(value) in (str, int, float, bool, type(None))


def grid_blocks(sizes: Sequence[int], steps: Sequence[int]) -> list[Block]:
    """Blocks of these steps that cover an array of these sizes, the first dimension slowest."""
    spans: list[tuple[tuple[int, ...], tuple[tuple[int, int], ...]]] = [((), ())]
    for size, step in zip(sizes, steps, strict=True):
        spans = [
            ((*index, k), (*region, (start, min(start + step, size))))
            for index, region in spans
            for k, start in enumerate(range(0, size, step))
        ]
    return [Block(index, region) for index, region in spans]


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
            log.warning("%s: block %s: %s", job, block.name, _sentence(error), extra=marks)
            raise
    log.debug("%s: block %s is written", job, block.name, extra=marks)
    return replace(outcome, storage_retries=budget.retries)


class Pool(Protocol):
    """Workers: a way to submit a block, and to wait for what comes back."""

    def submit(self, function: Callable[..., Outcome], *arguments: Any) -> Any:
        """Start a block; returns a handle."""

    def wait(self, seconds: float) -> Iterable[tuple[Any, Outcome | None, BaseException | None]]:
        """Handles that have ended within so many seconds, each with its outcome or its error."""

    def cancel(self) -> None:
        """Give up what was submitted."""

    @property
    def size(self) -> int:
        """Blocks that are computed at a time."""


class ThreadPool:
    """Blocks on threads of this process: for tests, and for one machine."""

    def __init__(self, threads: int = 1) -> None:
        self.size = threads
        self._executor = ThreadPoolExecutor(threads)
        self._running: set[Future[Outcome]] = set()

    def submit(self, function: Callable[..., Outcome], *arguments: Any) -> Future[Outcome]:
        """Start a block."""
        future = self._executor.submit(function, *arguments)
        self._running.add(future)
        return future

    def wait(self, seconds: float) -> Iterator[tuple[Any, Outcome | None, BaseException | None]]:
        """Blocks that have ended."""
        ended = wait_futures(self._running, timeout=seconds, return_when="FIRST_COMPLETED").done
        for future in ended:
            self._running.discard(future)
            error = future.exception()
            yield future, None if error else future.result(), error

    def cancel(self) -> None:
        """Drop what has not begun."""
        self._executor.shutdown(wait=False, cancel_futures=True)


class DaskPool:
    """Blocks on a Dask cluster.

    Parameters
    ----------
    client
        Of the cluster.
    size
        Blocks that are computed at a time.
    explain
        Says why a worker, given its name, was lost.
    check
        Called again and again while blocks are waited for; raises where the cluster itself is gone.
    """

    def __init__(
        self,
        client: Any,
        size: int,
        explain: Callable[[str], WorkerLost] | None = None,
        check: Callable[[], None] | None = None,
    ) -> None:
        self.size = size
        self._client, self._explain, self._check = client, explain, check
        self._ended: SimpleQueue[Any] = SimpleQueue()
        self._running: set[Any] = set()

    def submit(self, function: Callable[..., Outcome], *arguments: Any) -> Any:
        """Start a block; tasks are impure, since what they do is to write."""
        future = self._client.submit(function, *arguments, pure=False, retries=0)
        self._running.add(future)
        future.add_done_callback(self._ended.put)
        return future

    def wait(self, seconds: float) -> Iterator[tuple[Any, Outcome | None, BaseException | None]]:
        """Blocks that have ended; a worker that died ends its blocks with an error."""
        if self._check is not None:
            self._check()
        try:
            future = self._ended.get(timeout=seconds)
        except Empty:
            return
        while future is not None:
            if self._check is not None and future.status != "finished":
                self._check()
            self._running.discard(future)
            yield future, *self._came_of(future)
            try:
                future = self._ended.get_nowait()
            except Empty:
                future = None

    def _came_of(self, future: Any) -> tuple[Outcome | None, BaseException | None]:
        try:
            if future.status == "finished":
                return future.result(), None
            if future.status != "cancelled":
                return None, self._explained(future.exception())
        except CancelledError:
            # The scheduler went between the end of the block and this question.
            if self._check is not None:
                self._check()
        return None, WorkerLost("cancelled", False, "the cluster lost the block")

    def _explained(self, error: BaseException) -> BaseException:
        """What Dask says of a lost worker, in our words: it knows that the worker is gone, not why."""
        worker = getattr(error, "last_worker", None)
        if worker is None:
            return error
        if self._explain is not None:
            return self._explain(str(worker.name))
        return WorkerLost("worker ended", True, f"the worker {worker.name} ended while it computed the block")

    def cancel(self) -> None:
        """Give up what was submitted."""
        self._client.cancel(list(self._running), force=True)


class Ledger:
    """Records of a job, in numbered files of JSON lines below a folder; a new run of the same job goes on behind them.

    No file ever changes: a driver writes a longer one in place of its own, until that is large, and the end of a job leaves a
    single file. Two drivers may believe for a moment that a run is theirs: whoever reads has the records of both.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._writer = uuid.uuid4().hex[:8]
        self._pending: list[Record] = []
        # The file that still grows, and its lines.
        self._open: str | None = None
        self._segment: list[str] = []
        self._flushed = time.monotonic()
        self._next = 0
        self._known: dict[str, Record] = {}
        # Files whose records are all known here.
        self._files: set[str] = set()

    def read(self) -> dict[str, Record]:
        """The latest record of each block; a line that is damaged is left out, and said.

        Raises
        ------
        deepprofile.documents.NewerDocument
            Where a newer version of this software has written records.
        """
        for _ in range(MOST_LISTINGS):
            names = [name for name in names_below(self.url) if _SEGMENT.fullmatch(name)]
            contents = read_all([join(self.url, name) for name in names])
            # Another driver may have joined files into one since they were listed.
            if all(content is not None for content in contents):
                break
        # A name that leads nowhere, such as a link, stays what it is.
        self._known, self._files = {}, set(names)
        for name, content in zip(names, contents, strict=True):
            for line in (content or b"").splitlines():
                record = _record(join(self.url, name), line)
                if record is not None:
                    self._known[record.block] = record
        self._next = max((int(name.split("-")[0]) + 1 for name in names), default=0)
        return dict(self._known)

    def add(self, record: Record) -> None:
        """Keep a record; written with others after a moment."""
        self._pending.append(record)
        if len(self._pending) >= FLUSH_RECORDS:
            self.flush()

    def flush_if_due(self) -> None:
        """Write what has waited long enough."""
        if self._pending and time.monotonic() - self._flushed >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is kept."""
        if self._pending:
            lines = self._segment + [_line(record) for record in self._pending]
            self._replace([self._open] if self._open is not None else [], lines)
            self._known |= {record.block: record for record in self._pending}
            self._pending, self._segment = [], lines
            if sum(map(len, lines)) >= SEGMENT_CHARACTERS:
                self._open, self._segment = None, []
        self._flushed = time.monotonic()

    def compact(self) -> None:
        """Join the files whose records are known here into one; what others have written meanwhile stays beside it."""
        self.flush()
        if len(self._files) > 1:
            self._replace(sorted(self._files), [_line(record) for record in self._known.values()])
            self._open, self._segment = None, []

    def _replace(self, old: Sequence[str], lines: Sequence[str]) -> None:
        """A new file in place of old ones. It is there before they go, and is read after them: nothing is ever missing."""
        name = f"{self._next:06d}-{self._writer}.jsonl"
        write_bytes(join(self.url, name), "".join(lines).encode())
        self._next += 1
        self._files = self._files - set(old) | {name}
        self._open = name
        for each in old:
            remove(join(self.url, each))


def _line(record: Record) -> str:
    return json.dumps({FORMAT_KEY: FORMAT, **redacted(asdict(record))}, sort_keys=True) + "\n"


def _record(url: str, line: bytes) -> Record | None:
    """The record of a line; None, and a warning, where it is damaged: its block is computed again."""
    try:
        raw = parse(url, line, {"block": str, "fingerprint": str, "status": str})
        raw.pop(FORMAT_KEY, None)
        return Record(**raw | {"problems": tuple(raw.get("problems", ()))})
    except (DamagedDocument, TypeError) as error:
        log.warning("a record is left out: %s", error)
        return None


def run_job(
    job: Job,
    pool: Pool,
    ledger: Ledger,
    *,
    window: int | None = None,
    retry: Retry | None = None,
    previous: Mapping[str, Record] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    check: Callable[[], None] | None = None,
) -> dict[str, Record]:
    """Run the blocks of a job that are not done yet; returns the record of every block.

    Parameters
    ----------
    job, pool, ledger
        What to do, who does it, and where it is recorded.
    window
        Blocks under way at a time; twice the pool's size by default.
    retry
        How often a block is tried.
    previous
        Records of the version before: blocks with the same fingerprint are copied from there.
    on_progress
        Called at the start and whenever a block has ended.
    check
        Called several times a second; raises where the run has to end.

    Raises
    ------
    JobFailed
        Where blocks still fail after the last attempt; what was done is recorded.
    PoolLost
        Where the pool as a whole is gone; what was done is recorded.
    KeyboardInterrupt
        After what has ended was recorded.
    """
    run = _Run(job, pool, ledger, window or 2 * pool.size, retry or Retry(), previous or {}, on_progress, check)
    try:
        run.work_off()
    except PoolLost:
        raise
    except BaseException:
        pool.cancel()
        raise
    finally:
        ledger.flush()
    ledger.compact()
    if run.errors:
        block, error = run.errors[0]
        raise JobFailed(
            f"{job.name}: {len(run.errors)} of {len(job.blocks)} blocks failed; the first, block {block.name}, with "
            f"{_sentence(error)}"
        ) from error
    return run.records


@dataclass(frozen=True)
class _Attempt:
    block: Block
    number: int
    since: float


class _Run:
    """One run of a job: which blocks wait, which are under way, and what came of the others."""

    def __init__(
        self,
        job: Job,
        pool: Pool,
        ledger: Ledger,
        window: int,
        retry: Retry,
        previous: Mapping[str, Record],
        on_progress: Callable[[Progress], None] | None,
        check: Callable[[], None] | None,
    ) -> None:
        self.records: dict[str, Record] = {}
        self.errors: list[tuple[Block, BaseException]] = []
        self._job, self._pool, self._ledger = job, pool, ledger
        self._window, self._retry, self._previous = window, retry, previous
        self._on_progress, self._check = on_progress, check
        self._started = time.monotonic()
        self._counts = dict.fromkeys((DONE, INCOMPLETE, COPIED, FAILED), 0)
        self._skipped = self._retried = self._bytes_read = self._bytes_written = self._storage_retries = 0
        self._losses: dict[str, Counter[str]] = defaultdict(Counter)
        self._running: dict[Any, _Attempt] = {}
        # Failed attempts, each with the time at which it may be repeated.
        self._resting: list[tuple[float, _Attempt]] = []
        self._marks: dict[str, str] = {}

    def work_off(self) -> None:
        """Until no block is left, or too many have failed."""
        todo = self._not_yet_done()
        self._report()
        fresh = iter(self._not_copied(todo))
        more = True
        while more or self._running or self._resting:
            if self._check is not None:
                self._check()
            if self._is_hopeless():
                # Whatever is wrong is wrong for all of them.
                more, self._resting = False, []
            self._repeat_rested()
            while more and len(self._running) < self._window:
                block = next(fresh, None)
                if block is None:
                    more = False
                else:
                    self._start(block, 1)
            if self._running:
                for handle, outcome, error in self._pool.wait(0.2):
                    self._settle(self._running.pop(handle), outcome, error)
                    self._report()
            elif self._resting:
                time.sleep(0.02)
            self._ledger.flush_if_due()

    def _is_hopeless(self) -> bool:
        """Whether so many blocks have failed that the others need not be tried."""
        killers = sum(isinstance(error, WorkerLost) for _, error in self.errors)
        nothing_done = len(self.records) == len(self.errors)
        return len(self.errors) >= MOST_FAILURES or (nothing_done and killers >= MOST_KILLERS)

    def _not_yet_done(self) -> list[Block]:
        known = self._ledger.read()
        todo = []
        for block in self._job.blocks:
            mark = self._marks[block.name] = self._job.fingerprint(block)
            record = known.get(block.name)
            if record is not None and record.fingerprint == mark and record.status in (DONE, COPIED):
                self.records[block.name] = record
                self._skipped += 1
            else:
                todo.append(block)
        return todo

    def _start(self, block: Block, number: int) -> None:
        inputs = self._job.inputs(block) if self._job.inputs is not None else None
        handle = self._pool.submit(compute_block, self._job.name, self._job.compute, block, inputs, self._retry.storage_seconds)
        self._running[handle] = _Attempt(block, number, time.monotonic())

    def _repeat_rested(self) -> None:
        now = time.monotonic()
        rested = [attempt for due, attempt in self._resting if due <= now]
        self._resting = [(due, attempt) for due, attempt in self._resting if due > now]
        for attempt in rested:
            self._start(attempt.block, attempt.number)

    def _not_copied(self, todo: Sequence[Block]) -> list[Block]:
        """Take over from the version before all blocks of which nothing has changed; returns the others, in their order."""
        same = [block for block in todo if self._may_be_copied(block)]
        if not same or self._job.copy is None:
            return list(todo)
        with ThreadPoolExecutor(COPIES) as threads:
            # A few at a time: what was copied is recorded, also where the run ends in the middle.
            for start in range(0, len(same), 4 * COPIES):
                if self._check is not None:
                    self._check()
                some = same[start : start + 4 * COPIES]
                for block, _ in zip(some, threads.map(self._job.copy, some), strict=True):
                    mark, details = self._marks[block.name], self._previous[block.name].details
                    self._keep(Record(block.name, mark, COPIED, details=details, base=self._base(block)))
                self._report()
                self._ledger.flush_if_due()
        copied = {block.name for block in same}
        return [block for block in todo if block.name not in copied]

    def _may_be_copied(self, block: Block) -> bool:
        old = self._previous.get(block.name)
        return old is not None and old.fingerprint == self._marks[block.name] and old.status in (DONE, COPIED)

    def _base(self, block: Block) -> str:
        return self._job.base(block) if self._job.base is not None else ""

    def _settle(self, attempt: _Attempt, outcome: Outcome | None, error: BaseException | None) -> None:
        block, mark = attempt.block, self._marks[attempt.block.name]
        seconds = round(time.monotonic() - attempt.since, 3)
        if outcome is not None:
            status = INCOMPLETE if outcome.problems else DONE
            self._keep(
                Record(
                    block.name,
                    mark,
                    status,
                    attempt.number,
                    seconds,
                    outcome.bytes_read,
                    outcome.bytes_written,
                    outcome.problems,
                    outcome.details,
                    outcome.storage_retries,
                    dict(self._losses[block.name]),
                    self._base(block),
                )
            )
            return
        assert error is not None
        number = attempt.number + 1
        if isinstance(error, WorkerLost):
            losses = self._losses[block.name]
            losses[error.cause] += 1
            if not error.counts and losses.total() <= MOST_LOSSES:
                number = attempt.number
        marks = {"stage": self._job.name, "block": block.name}
        if number <= self._retry.attempts and _may_pass(error):
            self._retried += 1
            pause = self._retry.wait_seconds * 2.0 ** (attempt.number - 1) * random.uniform(0.5, 1.5)
            self._resting.append((time.monotonic() + pause, replace(attempt, number=number)))
            log.warning("%s: block %s will be repeated: %s", self._job.name, block.name, _sentence(error), extra=marks)
        else:
            self.errors.append((block, error))
            lost = dict(self._losses[block.name])
            problems = (_sentence(error),)
            self._keep(Record(block.name, mark, FAILED, attempt.number, seconds, problems=problems, losses=lost))
            log.error("%s: block %s has failed: %s", self._job.name, block.name, _sentence(error), extra=marks)

    def _keep(self, record: Record) -> None:
        self.records[record.block] = record
        self._counts[record.status] += 1
        self._bytes_read += record.bytes_read
        self._bytes_written += record.bytes_written
        self._storage_retries += record.storage_retries
        self._ledger.add(record)

    def _report(self) -> None:
        if self._on_progress is not None:
            self._on_progress(
                Progress(
                    job=self._job.name,
                    blocks=len(self._job.blocks),
                    done=self._counts[DONE],
                    skipped=self._skipped,
                    copied=self._counts[COPIED],
                    incomplete=self._counts[INCOMPLETE],
                    failed=self._counts[FAILED],
                    retried=self._retried,
                    losses=dict(sum(self._losses.values(), Counter())),
                    storage_retries=self._storage_retries,
                    bytes_read=self._bytes_read,
                    bytes_written=self._bytes_written,
                    seconds=time.monotonic() - self._started,
                )
            )


def _sentence(error: BaseException) -> str:
    text = without_secrets(str(error)).strip().splitlines()
    if isinstance(error, WorkerLost) and text:
        return text[0]
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def _may_pass(error: BaseException) -> bool:
    """Whether another attempt may help: errors of the code and of the caller stay what they are."""
    hopeless = (Hopeless, TypeError, AttributeError, AssertionError, NameError, ImportError, NotImplementedError)
    return not isinstance(error, hopeless)
