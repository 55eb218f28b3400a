"""Objects that are replaced only where nobody else has replaced them first, and the clock of the storage."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

import fsspec
from fsspec.core import url_to_fs

from deepprofile.storage.filesystems import (
    CONNECT_SECONDS,
    NO_CACHE,
    READ_SECONDS,
    SEPARATOR,
    anonymous,
    is_gcs,
    is_local,
    local_path,
)
from deepprofile.storage.objects import read_bytes, write_bytes
from deepprofile.storage.retries import retry_sync


class PreconditionFailedError(Exception):
    """An object is no longer what it was when it was read: somebody else has replaced it."""


@dataclass(frozen=True)
class VersionedObject:
    """An object as it was read: its content (None: there was none), what tells it from every later one, and when it was
    written, in seconds, by the clock of the storage."""

    content: bytes | None
    generation: Any
    written: float = 0.0


def read_versioned(url: str) -> VersionedObject:
    """An object with its generation."""
    return _conditional(url).read(url)


def replace(url: str, content: bytes, generation: Any) -> VersionedObject:
    """Write an object if it is still of this generation.

    Where the answer of the storage was lost, the object is read back: what is there may be what was written.

    Raises
    ------
    PreconditionFailedError
        Where it is of another generation by now.
    """
    conditional = _conditional(url)
    try:
        return conditional.replace(url, content, generation)
    except PreconditionFailedError:
        found = conditional.read(url)
        if found.content == content:
            return found
        raise


def update(url: str, change: Callable[[bytes | None], bytes]) -> None:
    """Change an object by what it holds (None: there is none), also where others do so at the same time.

    ``change`` may be called again, also with what it has made: where the answer of the storage was lost. On storage that
    cannot replace conditionally, the last of those who change it at the same time wins.
    """
    try:
        conditional = _conditional(url)
    except ValueError:
        write_bytes(url, change(read_bytes(url)))
        return
    while True:
        found = conditional.read(url)
        content = change(found.content)
        if content == found.content:
            return
        try:
            conditional.replace(url, content, found.generation)
            return
        except PreconditionFailedError:
            continue


def storage_time(url: str) -> float:
    """What the clock of the storage says, in seconds: the time at which it takes an empty object at this URL."""
    return _conditional(url).time(url)


class StorageClock:
    """The clock of the storage, asked once: what all machines that write there agree on, whatever their own clocks say."""

    def __init__(self, url: str) -> None:
        self._asked = time.monotonic()
        self._then = storage_time(url)

    def now(self) -> float:
        """Seconds since 1970 (UTC)."""
        return self._then + time.monotonic() - self._asked

    def text(self) -> str:
        """The same as ISO 8601, to the second."""
        return datetime.fromtimestamp(self.now(), UTC).isoformat(timespec="seconds")


class _Local:
    """Files of this machine, or of a network disk; one lock for all objects of a folder."""

    @contextmanager
    def _locked(self, path: str) -> Iterator[None]:
        folder = os.path.dirname(path)
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, ".lock"), "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def read(self, url: str) -> VersionedObject:
        try:
            with open(local_path(url), "rb") as file:
                state, content = os.fstat(file.fileno()), file.read()
                # Inodes are used again, and times have the step of the kernel's clock: what is written names its writer.
                return VersionedObject(content, (state.st_ino, state.st_mtime_ns, content), state.st_mtime)
        except FileNotFoundError:
            return VersionedObject(None, 0)

    def replace(self, url: str, content: bytes, generation: Any) -> VersionedObject:
        with self._locked(local_path(url)):
            if self.read(url).generation != generation:
                raise PreconditionFailedError(url)
            write_bytes(url, content)
            return self.read(url)

    def time(self, url: str) -> float:
        path = local_path(url)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            os.utime(file.fileno())
            return os.fstat(file.fileno()).st_mtime


class _Memory:
    """Objects of this process."""

    _lock = threading.Lock()

    def read(self, url: str) -> VersionedObject:
        fs, path = url_to_fs(url)
        try:
            written = fs.modified(path).timestamp()
            content = fs.cat_file(path)
            return VersionedObject(content, (written, id(fs.store[path]), content), written)
        except FileNotFoundError:
            return VersionedObject(None, 0)

    def replace(self, url: str, content: bytes, generation: Any) -> VersionedObject:
        with self._lock:
            if self.read(url).generation != generation:
                raise PreconditionFailedError(url)
            write_bytes(url, content)
            return self.read(url)

    def time(self, url: str) -> float:
        return time.time()


class _Gcs:
    """Objects of Google Cloud Storage, whose server compares the generations."""

    @cache  # noqa: B019
    def _client(self, emulator: str | None, no_credentials: bool) -> Any:
        from google.cloud import storage

        return storage.Client.create_anonymous_client() if no_credentials else storage.Client()

    def _blob(self, url: str) -> Any:
        bucket, _, name = url.split("://", 1)[1].partition(SEPARATOR)
        return self._client(os.environ.get("STORAGE_EMULATOR_HOST"), anonymous()).bucket(bucket).blob(name)

    def read(self, url: str) -> VersionedObject:
        from google.api_core import exceptions

        def attempt() -> VersionedObject:
            while True:
                blob = self._blob(url)
                try:
                    blob.reload(retry=None, timeout=(CONNECT_SECONDS, READ_SECONDS))
                except exceptions.NotFound:
                    return VersionedObject(None, 0)
                try:
                    # A handle without the link that the metadata hold: an emulator may name a host of its own there.
                    content = self._blob(url).download_as_bytes(
                        if_generation_match=blob.generation, retry=None, timeout=(CONNECT_SECONDS, READ_SECONDS)
                    )
                except (exceptions.NotFound, exceptions.PreconditionFailed):
                    # Replaced in between.
                    continue
                return VersionedObject(content, blob.generation, blob.updated.timestamp())

        return retry_sync(attempt)

    def replace(self, url: str, content: bytes, generation: Any) -> VersionedObject:
        from google.api_core import exceptions

        def attempt() -> VersionedObject:
            blob = self._blob(url)
            blob.cache_control = NO_CACHE
            blob.upload_from_string(
                content,
                content_type="application/json",
                if_generation_match=generation,
                retry=None,
                timeout=(CONNECT_SECONDS, READ_SECONDS),
            )
            return VersionedObject(content, blob.generation, blob.updated.timestamp())

        try:
            return retry_sync(attempt)
        except exceptions.PreconditionFailed as error:
            raise PreconditionFailedError(url) from error

    def time(self, url: str) -> float:
        def attempt() -> float:
            blob = self._blob(url)
            blob.upload_from_string(b"", retry=None, timeout=(CONNECT_SECONDS, READ_SECONDS))
            return float(blob.updated.timestamp())

        return retry_sync(attempt)


_LOCAL, _MEMORY, _GCS = _Local(), _Memory(), _Gcs()


def _conditional(url: str) -> _Local | _Memory | _Gcs:
    if is_local(url):
        return _LOCAL
    if is_gcs(url):
        return _GCS
    if isinstance(url_to_fs(url)[0], fsspec.get_filesystem_class("memory")):
        return _MEMORY
    raise ValueError(f"{url}: a root is a local folder, gs://, or memory://; this kind of storage cannot replace conditionally")
