"""Workers that blocks are given to: threads of this process, or a Dask cluster."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_futures
from queue import Empty, SimpleQueue
from typing import Any, Final, Protocol

import numpy as np

from deepprofile.execution.blocks import Outcome, compute_block
from deepprofile.execution.errors import WorkerLostError
from deepprofile.storage.retries import NonRetryableError

# What an interpreter with all libraries, kernels and clients of object storage holds beside the blocks, also later:
# 250 MiB after the imports, 370 when each stage has done a block, and what the allocator does not give back.
WORKER_BASE_BYTES: Final = 512 * 2**20
# By how much a pod's memory is larger than what its blocks are planned to take: the kernel ends a pod that exceeds it.
BLOCK_MARGIN: Final = 1.25


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


class _Call:
    """A call that is made when it is unpickled; the outcome takes its place."""

    def __init__(self, function: Callable[..., Outcome], arguments: tuple[Any, ...]) -> None:
        self._function, self._arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self._function, self._arguments


# What Python raises where a pickle names something that is not there, or is not what it was.
_NOT_READ: Final = (AttributeError, ImportError, TypeError, pickle.UnpicklingError)


def _has_begun(future: Any) -> bool:
    """Whether an error was raised by a block, not while the block was read."""
    return any(frame.f_code.co_name == compute_block.__name__ for frame, _ in traceback.walk_tb(future.traceback()))


def _not_read(error: BaseException) -> NonRetryableError:
    return NonRetryableError(
        f"a worker cannot read what it is given to do ({type(error).__name__}: {error}): workers have to run the same version "
        "of deepprofile as the driver, with the same packages"
    )


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
        explain: Callable[[str], WorkerLostError] | None = None,
        check: Callable[[], None] | None = None,
    ) -> None:
        self.size = size
        self._client, self._explain, self._check = client, explain, check
        self._ended: SimpleQueue[Any] = SimpleQueue()
        self._running: set[Any] = set()

    def submit(self, function: Callable[..., Outcome], *arguments: Any) -> Any:
        """Start a block; tasks are impure, since what they do is to write."""
        import cloudpickle

        # Read by the task itself. What Dask cannot read ends the worker, and the next one, and the driver would wait for ever:
        # a worker may run another version of this software. As numbers, so that Dask's log does not repeat what is in it.
        packed = np.frombuffer(cloudpickle.dumps(_Call(function, arguments)), np.uint8)
        future = self._client.submit(pickle.loads, packed, pure=False, retries=0)
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
                error = self._explained(future.exception())
                unread = isinstance(error, _NOT_READ) and not _has_begun(future)
                return None, _not_read(error) if unread else error
        except CancelledError:
            # The scheduler went between the end of the block and this question.
            if self._check is not None:
                self._check()
        return None, WorkerLostError("cancelled", False, "the cluster lost the block")

    def _explained(self, error: BaseException) -> BaseException:
        """What Dask says of a lost worker, in our words: it knows that the worker is gone, not why."""
        worker = getattr(error, "last_worker", None)
        if worker is None:
            return error
        if self._explain is not None:
            return self._explain(str(worker.name))
        return WorkerLostError("worker ended", True, f"the worker {worker.name} ended while it computed the block")

    def cancel(self) -> None:
        """Give up what was submitted."""
        self._client.cancel(list(self._running), force=True)
