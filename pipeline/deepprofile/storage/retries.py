"""Requests to object storage that fail for a moment are repeated with growing, jittered pauses.

All requests of a block share one budget of time for that (``retry_budget``).
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from typing import Final, TypeVar

from deepprofile.storage.redaction import without_secrets

T = TypeVar("T")
# How long the requests of one block may fail before the block does.
RETRY_SECONDS: Final = 300.0
FIRST_PAUSE_SECONDS: Final = 0.2
LONGEST_PAUSE_SECONDS: Final = 16.0
_TRANSIENT_CODES: Final = {408, 429, 500, 502, 503, 504}


class StorageUnavailableError(Exception):
    """Object storage did not answer within the budget of the block; the message says what it said last."""


class RetryBudget:
    """Counts repeated requests, and the time during which at least one of them was failing."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.retries = 0
        self._failing = 0
        self._since = 0.0
        self._spent = 0.0
        self._lock = threading.Lock()

    @property
    def left(self) -> float:
        """Seconds that are left of it."""
        with self._lock:
            return self.seconds - self._spent - (time.monotonic() - self._since if self._failing else 0.0)

    def begin(self) -> None:
        """A request has failed for the first time."""
        with self._lock:
            if not self._failing:
                self._since = time.monotonic()
            self._failing += 1

    def end(self) -> None:
        """A request that had failed has come to an end."""
        with self._lock:
            self._failing -= 1
            if not self._failing:
                self._spent += time.monotonic() - self._since

    def count(self) -> None:
        """A request is repeated."""
        with self._lock:
            self.retries += 1


_budget: ContextVar[RetryBudget | None] = ContextVar("deepprofile_retry_budget", default=None)


@contextmanager
def retry_budget(seconds: float = RETRY_SECONDS) -> Iterator[RetryBudget]:
    """All requests made within share this budget; afterwards it knows how many were repeated."""
    budget = RetryBudget(seconds)
    token = _budget.set(budget)
    try:
        yield budget
    finally:
        _budget.reset(token)


def pause_seconds(number: int) -> float:
    """Pause before the repetition of this number, from 0: doubled each time, with jitter."""
    return min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0**number) * random.uniform(0.5, 1.0)


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed in a moment: 408, 429, 5xx, a lost connection, a timeout, a damaged answer."""
    if isinstance(error, (FileNotFoundError, FileExistsError, PermissionError, StorageUnavailableError)):
        return False
    if isinstance(error, (TimeoutError, asyncio.TimeoutError, ConnectionError)):
        return True
    code = getattr(error, "code", None)
    code = getattr(error, "status", None) if code is None else code
    with suppress(TypeError, ValueError):
        if int(code) in _TRANSIENT_CODES:  # type: ignore[arg-type]
            return True
        # A token that has just run out is fetched anew.
        return int(code) == 401 and "Invalid Credentials" in str(error)  # type: ignore[arg-type]
    return isinstance(error, _lost_connections())


@cache
def _lost_connections() -> tuple[type[BaseException], ...]:
    """What the libraries between us and the service raise where an answer does not come, or not whole."""
    from http.client import HTTPException

    kinds: list[type[BaseException]] = [HTTPException]
    with suppress(ImportError):
        import aiohttp

        kinds += [aiohttp.ClientError]
    with suppress(ImportError):
        import requests.exceptions as r

        kinds += [r.ConnectionError, r.Timeout, r.ChunkedEncodingError, r.ContentDecodingError]
    with suppress(ImportError):
        import google.auth.exceptions as a

        kinds += [a.TransportError]
    with suppress(ImportError):
        from gcsfs.retry import ChecksumError

        kinds += [ChecksumError]
    with suppress(ImportError):
        from google.cloud.storage.exceptions import DataCorruption

        kinds += [DataCorruption]
    return tuple(kinds)


def _unavailable(budget: RetryBudget, error: BaseException) -> StorageUnavailableError:
    return StorageUnavailableError(
        f"object storage has not answered for {budget.seconds:.0f} s ({budget.retries} repeated requests); the last answer: "
        f"{type(error).__name__}: {without_secrets(str(error))[:300]}"
    )


class _RetryLoop:
    """The attempts of one request; a context manager."""

    def __init__(self) -> None:
        self._budget = _budget.get() or RetryBudget(RETRY_SECONDS)
        self._number = 0

    def __enter__(self) -> _RetryLoop:
        return self

    def __exit__(self, *_: object) -> None:
        if self._number:
            self._budget.end()

    def pause_after(self, error: Exception) -> float:
        """How long to wait before the request is repeated; raises where it should not be."""
        if not is_transient(error):
            raise error
        if not self._number:
            self._budget.begin()
        pause = pause_seconds(self._number)
        self._number += 1
        if self._budget.left < pause:
            raise _unavailable(self._budget, error) from error
        self._budget.count()
        return pause


async def retry_async(attempt: Callable[[], Awaitable[T]]) -> T:
    """Repeat a request that fails for a moment, as long as the budget of the block lasts.

    Raises
    ------
    StorageUnavailableError
        Where the budget is used up.
    """
    with _RetryLoop() as retries:
        while True:
            try:
                return await attempt()
            except Exception as error:  # noqa: BLE001
                pause = retries.pause_after(error)
            await asyncio.sleep(pause)


def retry_sync(attempt: Callable[[], T]) -> T:
    """The same for a function that blocks."""
    with _RetryLoop() as retries:
        while True:
            try:
                return attempt()
            except Exception as error:  # noqa: BLE001
                pause = retries.pause_after(error)
            time.sleep(pause)


class NonRetryableError(Exception):
    """What a block raises where another attempt would end in the same way."""
