"""The block engine: runs the blocks of a stage, a bounded number at a time, and records each of them.

Knows nothing of soil moisture. A stage gives it a ``Job``: a list of blocks, what each of them depends on, and a function
that computes one block and writes its shards. Only blocks and small records travel to and from the workers. Every finished
block has a record; a block whose record says that it is complete, under the same inputs, is not computed again.
"""

from __future__ import annotations

import logging
import random
import time
from collections import ChainMap, Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final

from deepprofile.execution.blocks import (
    COPIED,
    DONE,
    FAILED,
    INCOMPLETE,
    Block,
    Job,
    Jobs,
    Outcome,
    Record,
    compute_block,
    error_sentence,
)
from deepprofile.execution.errors import JobFailedError, PoolLostError, WorkerLostError
from deepprofile.execution.ledger import Ledger
from deepprofile.execution.pools import Pool
from deepprofile.storage.retries import RETRY_SECONDS, NonRetryableError

log = logging.getLogger(__name__)

MOST_FAILURES: Final = 20
# Of blocks that killed their workers, such as by too little memory, while no block has come through: each costs a worker, whose
# next start Kubernetes puts off longer and longer.
MOST_KILLERS: Final = 2
# A block whose workers are taken away again and again, through no fault of its own, is given up after so many.
MOST_LOSSES: Final = 50
# Blocks that are taken over at a time: each is a few requests that the driver waits for.
COPIES: Final = 16
# Records of parts that are read at a time.
READS: Final = 8


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

    See ``run_jobs``, which does it for the parts of a store.
    """
    return run_jobs(
        Jobs(job.workload, {"": job}),
        pool,
        {"": ledger},
        window=window,
        retry=retry,
        previous=previous,
        on_progress=on_progress,
        check=check,
    )


def run_jobs(
    jobs: Jobs,
    pool: Pool,
    ledgers: Mapping[str, Ledger],
    *,
    window: int | None = None,
    retry: Retry | None = None,
    previous: Mapping[str, Record] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    check: Callable[[], None] | None = None,
) -> dict[str, Record]:
    """Run the blocks of some jobs that are not done yet; returns the record of every block.

    Parameters
    ----------
    jobs, pool, ledgers
        What to do, who does it, and where the blocks of each part are recorded.
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
    JobFailedError
        Where blocks still fail after the last attempt; what was done is recorded.
    PoolLostError
        Where the pool as a whole is gone; what was done is recorded.
    KeyboardInterrupt
        After what has ended was recorded.
    """
    run = _Run(jobs, pool, ledgers, window or 2 * pool.size, retry or Retry(), previous or {}, on_progress, check)
    try:
        run.run()
    except PoolLostError:
        raise
    except BaseException:
        pool.cancel()
        raise
    finally:
        for ledger in ledgers.values():
            ledger.flush()
    for ledger in ledgers.values():
        ledger.compact()
    if run.errors:
        block, error = run.errors[0]
        raise JobFailedError(
            f"{jobs.name}: {len(run.errors)} of {len(jobs.blocks)} blocks failed; the first, block {block.name}, with "
            f"{error_sentence(error)}"
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
        jobs: Jobs,
        pool: Pool,
        ledgers: Mapping[str, Ledger],
        window: int,
        retry: Retry,
        previous: Mapping[str, Record],
        on_progress: Callable[[Progress], None] | None,
        check: Callable[[], None] | None,
    ) -> None:
        self.records: dict[str, Record] = {}
        self.errors: list[tuple[Block, BaseException]] = []
        self._jobs, self._pool, self._ledgers = jobs, pool, ledgers
        self._window, self._retry, self._previous = window, retry, previous
        self._on_progress, self._check = on_progress, check
        self._begun: set[str] = set()
        self._started = time.monotonic()
        self._counts = dict.fromkeys((DONE, INCOMPLETE, COPIED, FAILED), 0)
        self._skipped = self._retried = self._bytes_read = self._bytes_written = self._storage_retries = 0
        self._losses: dict[str, Counter[str]] = defaultdict(Counter)
        self._repeats: Counter[str] = Counter()
        self._running: dict[Any, _Attempt] = {}
        # Failed attempts, each with the time at which it may be repeated.
        self._waiting: list[tuple[float, _Attempt]] = []
        self._marks: dict[str, str] = {}

    def run(self) -> None:
        """Work on blocks until none is left, or too many have failed."""
        todo = self._unfinished()
        self._report()
        fresh = iter(self._copy_unchanged(todo))
        more = True
        while more or self._running or self._waiting:
            if self._check is not None:
                self._check()
            if self._should_give_up():
                # Whatever is wrong is wrong for all of them.
                more, self._waiting = False, []
            self._repeat_due()
            while more and len(self._running) < self._window:
                block = next(fresh, None)
                if block is None:
                    more = False
                else:
                    self._start(block, 1)
            if self._running:
                for handle, outcome, error in self._pool.wait(0.2):
                    self._finish_attempt(self._running.pop(handle), outcome, error)
                    self._report()
            elif self._waiting:
                time.sleep(0.02)
            self._flush_if_due()

    def _flush_if_due(self) -> None:
        for ledger in self._ledgers.values():
            ledger.flush_if_due()

    def _should_give_up(self) -> bool:
        """Whether so many blocks have failed that the others need not be tried."""
        killers = sum(isinstance(error, WorkerLostError) for _, error in self.errors)
        nothing_done = len(self.records) == len(self.errors)
        return len(self.errors) >= MOST_FAILURES or (nothing_done and killers >= MOST_KILLERS)

    def _unfinished(self) -> list[Block]:
        with ThreadPoolExecutor(READS) as threads:
            known = dict(ChainMap(*threads.map(Ledger.read, self._ledgers.values())))
        todo = []
        for block in self._jobs.blocks:
            mark = self._marks[block.name] = self._jobs.job(block).fingerprint(block)
            record = known.get(block.name)
            if record is not None and record.fingerprint == mark and record.status in (DONE, COPIED):
                self.records[block.name] = record
                self._skipped += 1
            else:
                todo.append(block)
        return todo

    def _begin_part(self, block: Block) -> None:
        if block.part not in self._begun:
            self._begun.add(block.part)
            if self._jobs.begin is not None:
                self._jobs.begin(block.part)

    def _start(self, block: Block, number: int) -> None:
        self._begin_part(block)
        job = self._jobs.job(block)
        inputs = job.inputs(block) if job.inputs is not None else None
        handle = self._pool.submit(compute_block, job.name, job.compute, block, inputs, self._retry.storage_seconds)
        self._running[handle] = _Attempt(block, number, time.monotonic())

    def _repeat_due(self) -> None:
        now = time.monotonic()
        rested = [attempt for due, attempt in self._waiting if due <= now]
        self._waiting = [(due, attempt) for due, attempt in self._waiting if due > now]
        for attempt in rested:
            self._start(attempt.block, attempt.number)

    def _copy_unchanged(self, todo: Sequence[Block]) -> list[Block]:
        """Take over from the version before all blocks of which nothing has changed; returns the others, in their order."""
        same = [block for block in todo if self._may_be_copied(block)]
        if not same:
            return list(todo)
        for block in same:
            self._begin_part(block)
        with ThreadPoolExecutor(COPIES) as threads:
            # A few at a time: what was copied is recorded, also where the run ends in the middle.
            for start in range(0, len(same), 4 * COPIES):
                if self._check is not None:
                    self._check()
                some = same[start : start + 4 * COPIES]
                for block, _ in zip(some, threads.map(self._copy, some), strict=True):
                    details = self._previous[block.name].details
                    self._keep(block, self._record(block, COPIED, details=details))
                self._report()
                self._flush_if_due()
        copied = {block.name for block in same}
        return [block for block in todo if block.name not in copied]

    def _copy(self, block: Block) -> None:
        copy = self._jobs.job(block).copy
        assert copy is not None
        copy(block)

    def _may_be_copied(self, block: Block) -> bool:
        old = self._previous.get(block.name)
        if old is None or self._jobs.job(block).copy is None:
            return False
        return old.fingerprint == self._marks[block.name] and old.status in (DONE, COPIED)

    def _record(self, block: Block, status: str, **known: Any) -> Record:
        """The record of a block, with all that follows from the job."""
        job = self._jobs.job(block)
        static = job.static_fingerprint(block) if job.static_fingerprint is not None else ""
        return Record(
            block=block.name,
            fingerprint=self._marks[block.name],
            status=status,
            retries=self._repeats[block.name],
            losses=dict(self._losses[block.name]),
            static_fingerprint=static,
            index=block.index,
            region=block.region,
            part=block.part,
            **known,
        )

    def _finish_attempt(self, attempt: _Attempt, outcome: Outcome | None, error: BaseException | None) -> None:
        block = attempt.block
        seconds = round(time.monotonic() - attempt.since, 3)
        if outcome is not None:
            status = INCOMPLETE if outcome.problems else DONE
            self._keep(block, self._record(block, status, attempts=attempt.number, seconds=seconds, **vars(outcome)))
            return
        assert error is not None
        number = attempt.number + 1
        if isinstance(error, WorkerLostError):
            losses = self._losses[block.name]
            losses[error.cause] += 1
            if not error.counts and losses.total() <= MOST_LOSSES:
                number = attempt.number
        marks = {"stage": self._jobs.name, "block": block.name}
        if number <= self._retry.attempts and _may_succeed_later(error):
            self._retried += 1
            self._repeats[block.name] += 1
            pause = self._retry.wait_seconds * 2.0 ** (attempt.number - 1) * random.uniform(0.5, 1.5)
            self._waiting.append((time.monotonic() + pause, replace(attempt, number=number)))
            log.warning("%s: block %s will be repeated: %s", self._jobs.name, block.name, error_sentence(error), extra=marks)
        else:
            self.errors.append((block, error))
            problems = (error_sentence(error),)
            self._keep(block, self._record(block, FAILED, attempts=attempt.number, seconds=seconds, problems=problems))
            log.error("%s: block %s has failed: %s", self._jobs.name, block.name, error_sentence(error), extra=marks)

    def _keep(self, block: Block, record: Record) -> None:
        self.records[record.block] = record
        self._counts[record.status] += 1
        self._bytes_read += record.bytes_read
        self._bytes_written += record.bytes_written
        self._storage_retries += record.storage_retries
        self._ledgers[block.part].add(record)

    def _report(self) -> None:
        if self._on_progress is not None:
            self._on_progress(
                Progress(
                    job=self._jobs.name,
                    blocks=len(self._jobs.blocks),
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


def _may_succeed_later(error: BaseException) -> bool:
    """Whether another attempt may help: errors of the code and of the caller stay what they are."""
    final = (NonRetryableError, TypeError, AttributeError, AssertionError, NameError, ImportError, NotImplementedError)
    return not isinstance(error, final)
