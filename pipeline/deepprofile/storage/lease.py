"""A lease on a root: one run at a time may publish there.

The lease is an object that only its holder rewrites, each time under the condition that nobody else has done so. It runs out
when it was not renewed for its duration, by the clock of the storage; no clock of a driver counts. Who takes a lease over also
writes its own name into the guarded object (the pointer), which gives it a new generation, so that a holder who comes back late
fails when it publishes, whatever it believes. No two holders ever write the same bytes: where the answer to a write was lost,
one look tells whether it was done.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol

from deepprofile.storage.conditional_writes import (
    PreconditionFailedError,
    VersionedObject,
    read_versioned,
    replace,
    storage_time,
)
from deepprofile.storage.documents import FORMAT, FORMAT_KEY, DamagedDocumentError, Kinds, parse
from deepprofile.storage.filesystems import join
from deepprofile.storage.objects import as_json
from deepprofile.storage.retries import retry_budget

log = logging.getLogger(__name__)

LEASE: Final = "lease.json"
CLOCK: Final = "lease.clock"
DURATION_SECONDS: Final = 60.0
# Names the run across its pods: those of one Job take the lease over from each other at once.
HOLDER: Final = "DEEPPROFILE_RUN"
# The version of the format of the guarded object, and who holds the lease on it. In the first format keys of the lease began
# with @, and each store was a key beside them.
GUARDED_FORMAT: Final = 2
HOLDER_KEY: Final = "holder"
_OURS: Final = (FORMAT_KEY, HOLDER_KEY)
# Stands for the holder of a lease that cannot be read.
NOBODY: Final = ""
_FIELDS: Final[Mapping[str, Kinds]] = {
    "run": str,
    "process": str,
    "incarnation": str,
    "renewals": int,
    "duration": (int, float),
    "released": bool,
}


class LeaseHeldError(Exception):
    """Another run is at work on the root; the message names it."""


class LeaseLostError(Exception):
    """Another run has taken the root over: this one must not publish."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lease: the run (several pods of one Job may be one run), and the process, for people."""

    run: str
    process: str

    @classmethod
    def of_this_process(cls) -> Holder:
        """The run that the environment names, or this process alone."""
        process = f"{socket.gethostname()}/{os.getpid()}/{_started(os.getpid())}"
        return cls(os.environ.get(HOLDER) or process, process)


def _started(pid: int) -> str:
    """When a process of this machine was started, in ticks; empty where that cannot be known."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    return ""


def _has_ended(process: str) -> bool:
    """Whether a process of this same machine is known to have ended."""
    host, _, rest = process.partition("/")
    pid, _, started = rest.partition("/")
    return host == socket.gethostname() and pid.isdigit() and bool(started) and _started(int(pid)) != started


class Clock(Protocol):
    """What a lease knows of time."""

    def now(self) -> float:
        """Seconds of this process, which need not be right, but go forwards."""

    def sleep(self, seconds: float) -> None:
        """Wait."""

    def storage_time(self, url: str) -> float:
        """Seconds by the clock of the storage, asked with an empty object at this URL."""


class _SystemClock:
    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def storage_time(self, url: str) -> float:
        return storage_time(url)


SYSTEM_CLOCK: Final[Clock] = _SystemClock()


class Lease:
    """A lease, from ``acquire`` to ``release``; a context manager that does both.

    Parameters
    ----------
    root
        URL of the folder that the lease is on.
    guarded
        Name, below the root, of the object that only the holder may replace: a JSON object, in which ``format`` and ``holder``
        are the lease's own.
    holder
        Who asks for it; this process by default.
    duration
        Seconds after which a lease that is not renewed runs out; it is renewed three times as often.
    on_wait
        Told, once, whom the lease is waited for.
    clock
        Of this process and of the storage.
    """

    def __init__(
        self,
        root: str,
        guarded: str,
        holder: Holder | None = None,
        duration: float = DURATION_SECONDS,
        on_wait: Callable[[str], None] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.holder = holder or Holder.of_this_process()
        self._url, self._storage_clock, self._guarded = join(root, LEASE), join(root, CLOCK), join(root, guarded)
        self._root, self._duration, self._on_wait, self._clock = root, duration, on_wait, clock
        self._incarnation = uuid.uuid4().hex
        self._renewals = 0
        self._latest: VersionedObject = VersionedObject(None, 0)
        self._fence: VersionedObject = VersionedObject(None, 0)
        # What the guarded object holds, as far as this process knows.
        self._body: dict[str, Any] = {}
        # What was to be written to it without an answer yet.
        self._sent: list[dict[str, Any]] = []
        self._renewed = 0.0
        self._lost: str | None = None
        self._seen: tuple[str, int] | None = None
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Lease:
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lease: at once where it is free, has run out, or belongs to the same run or to a process that has ended.

        Otherwise it is waited for as long as a dead holder would still hold it.

        Raises
        ------
        LeaseHeldError
            Where its holder renews it meanwhile, and so is alive.
        deepprofile.storage.documents.DocumentError
            Where the guarded object is damaged, or either object is of a newer format.
        """
        try:
            while (left := self.attempt()) is not None:
                self._clock.sleep(min(left + 0.1, 1.0))
        except BaseException:
            with suppress(Exception):
                self.release()
            raise
        self._thread = threading.Thread(target=self._keep, name="deepprofile-lease", daemon=True)
        self._thread.start()

    def attempt(self) -> float | None:
        """Try to take the lease; None where it is ours now, otherwise the seconds after which its holder may have lost it.

        Raises
        ------
        LeaseHeldError, deepprofile.storage.documents.DocumentError
            See ``acquire``.
        """
        while True:
            found = read_versioned(self._url)
            held = _parse(self._url, found.content)
            if held is not None and not self._may_take(held):
                seen = (held["incarnation"], held["renewals"])
                if self._seen is not None and seen != self._seen:
                    raise LeaseHeldError(
                        f"{self._root} is in use by the run {held['run']} ({held['process']}), which has just renewed its "
                        "lease: wait until it has ended, or choose another root"
                    )
                left = found.written + held["duration"] - self._clock.storage_time(self._storage_clock)
                if left > 0:
                    if self._seen is None and self._on_wait is not None:
                        self._on_wait(
                            f"{self._root} is held by the run {held['run']} ({held['process']}): waiting up to {left:.0f} s "
                            "for it to end or to prove that it is alive"
                        )
                    self._seen = seen
                    return float(left)
            try:
                self._write(found, released=False)
            except PreconditionFailedError:
                # Another run was faster: look again at who holds it now.
                continue
            if self._move_fence():
                return None

    def _may_take(self, held: dict[str, Any]) -> bool:
        return bool(held["released"]) or held["run"] == self.holder.run or _has_ended(held["process"])

    def _write(self, before: VersionedObject, *, released: bool) -> None:
        began = self._clock.now()
        document = {
            FORMAT_KEY: FORMAT,
            "run": self.holder.run,
            "process": self.holder.process,
            "incarnation": self._incarnation,
            "renewals": self._renewals,
            "duration": self._duration,
            "released": released,
        }
        content = as_json(document)
        try:
            self._latest = replace(self._url, content, before.generation)
        except PreconditionFailedError:
            # By ourselves, perhaps: by a write whose answer was given up. Or it was removed or damaged by hand: then it is
            # still ours unless somebody has had it meanwhile, and so moved the fence.
            found = read_versioned(self._url)
            held = _parse(self._url, found.content)
            if held is None or held["incarnation"] == NOBODY:
                if not self._fence_is_ours():
                    raise
            elif held["incarnation"] != self._incarnation:
                raise
            self._latest = replace(self._url, content, found.generation)
        self._renewed = began

    def _move_fence(self) -> bool:
        """Put our name into the guarded object: from now on a holder from before cannot replace it.

        Whether the lease was still ours afterwards. Who takes it later moves the fence later too, and so past ours.
        """
        while True:
            found = read_versioned(self._guarded)
            body = {} if found.content is None else parse(self._guarded, found.content, newest=GUARDED_FORMAT)
            self._body = {name: value for name, value in body.items() if name not in _OURS and not name.startswith("@")}
            try:
                self._fence = replace(self._guarded, self._signed(self._body), found.generation)
            except PreconditionFailedError:
                if not self._is_ours():
                    return False
                continue
            return self._is_ours()

    def _signed(self, body: Mapping[str, Any]) -> bytes:
        """The guarded object with the name of this incarnation: no other ever writes the same bytes."""
        holder = {"incarnation": self._incarnation, "run": self.holder.run, "process": self.holder.process}
        return as_json({FORMAT_KEY: GUARDED_FORMAT, HOLDER_KEY: holder, **body})

    def _is_ours(self) -> bool:
        """Whether the lease is ours, by looking."""
        held = _parse(self._url, read_versioned(self._url).content)
        return held is not None and held["incarnation"] == self._incarnation

    def _fence_is_ours(self) -> bool:
        """Whether nobody has taken the lease since we did, by looking."""
        content = read_versioned(self._guarded).content
        found = {} if content is None else parse(self._guarded, content, newest=GUARDED_FORMAT)
        holder = found.get(HOLDER_KEY)
        return isinstance(holder, dict) and holder.get("incarnation") == self._incarnation

    def _new_holder(self) -> str:
        """Who has the lease now, for a message."""
        with suppress(Exception):
            held = _parse(self._url, read_versioned(self._url).content)
            return str(held["run"]) if held is not None else "somebody who removed it"
        return "another run"

    def _keep(self) -> None:
        while not self._over.wait(self._duration / 3):
            with self._lock:
                if self._over.is_set() or not self.renew():
                    return

    def renew(self) -> bool:
        """Renew the lease; whether it is to be renewed again."""
        self._renewals += 1
        try:
            with retry_budget(self._duration / 3):
                self._write(self._latest, released=False)
        except PreconditionFailedError:
            self._lost = self._new_holder()
            log.error("the lease on %s was taken over by %s", self._root, self._lost)
            return False
        except Exception as error:  # noqa: BLE001
            # The storage does not answer: tried again until the lease has run out.
            log.warning("the lease on %s could not be renewed: %s", self._root, error)
        return True

    def check(self) -> None:
        """Make sure that the lease is still ours, as far as this process knows.

        Raises
        ------
        LeaseLostError
            Where another run has taken it over, or could have by now.
        """
        if self._lost is None and self._clock.now() - self._renewed > self._duration:
            # Perhaps nobody has wanted it; the storage knows.
            with self._lock:
                try:
                    self._write(self._latest, released=False)
                except PreconditionFailedError:
                    self._lost = self._new_holder()
        if self._lost is not None:
            raise LeaseLostError(
                f"the lease on {self._root} was taken over by {self._lost} while this run could not renew it: nothing was "
                "published; run it again to go on from what is recorded"
            )

    def replace_guarded(self, body: Mapping[str, Any]) -> None:
        """Replace the guarded object.

        Raises
        ------
        LeaseLostError
            Where another run has taken the lease over, even if this process has not noticed yet; or where the guarded object
            was changed by hand.
        """
        while True:
            self.check()
            self._sent.append(dict(body))
            try:
                self._fence = replace(self._guarded, self._signed(body), self._fence.generation)
                self._body, self._sent = dict(body), []
                return
            except PreconditionFailedError:
                if not self._is_ours():
                    self._lost = self._new_holder()
                    continue
            # A write of ours was done, and its answer lost; or a holder of before came back late, moved the fence, and found
            # that it had lost the lease: it has changed nothing.
            ours = (self._body, *self._sent)
            if not self._move_fence():
                self._lost = self._new_holder()
            elif self._body not in ours:
                raise LeaseLostError(
                    f"{self._guarded} was changed by hand while this run was at work: nothing was published; run it again to "
                    "go on from what is recorded"
                )

    def release(self) -> None:
        """Give the lease back, if it is still ours."""
        self._over.set()
        with self._lock, suppress(PreconditionFailedError):
            if self._lost is None and self._latest.content is not None:
                self._renewals += 1
                self._write(self._latest, released=True)


def _parse(url: str, content: bytes | None) -> dict[str, Any] | None:
    """The lease that some bytes are; a damaged one belongs to nobody who is known, and runs out like any other."""
    if content is None:
        return None
    try:
        return parse(url, content, _FIELDS)
    except DamagedDocumentError as error:
        log.warning("%s", error)
        return {
            "run": "unknown",
            "process": "",
            "incarnation": NOBODY,
            "renewals": 0,
            "duration": DURATION_SECONDS,
            "released": False,
        }


def live_holder(root: str) -> str | None:
    """The run that holds the lease on a root now; None where nobody does.

    For people: it only reads, and so has to go by the clock of this machine.
    """
    found = read_versioned(join(root, LEASE))
    held = _parse(join(root, LEASE), found.content)
    if held is None or held["released"] or _has_ended(held["process"]):
        return None
    return str(held["run"]) if time.time() < found.written + held["duration"] else None
