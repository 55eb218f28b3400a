"""What can go wrong with blocks and with workers."""

from __future__ import annotations

from typing import Any


class JobFailedError(Exception):
    """Blocks could not be computed; the message names the first of them and why."""


class WorkerLostError(Exception):
    """A worker ended while it computed a block.

    ``cause``: in a few words, such as ``out of memory`` or ``evicted``. ``counts``: whether the block may be to blame, so that
    the loss counts as one of its attempts.
    """

    def __init__(self, cause: str, counts: bool, message: str) -> None:
        super().__init__(message)
        self.cause, self.counts = cause, counts

    def __reduce__(self) -> tuple[Any, ...]:
        return WorkerLostError, (self.cause, self.counts, str(self))


class ClusterError(Exception):
    """Workers that cannot be had; the message says what keeps them from starting."""


class PoolLostError(Exception):
    """All workers are gone with what they had been given: the job can go on with another pool, from what is recorded."""
