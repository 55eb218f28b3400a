"""Objects at URLs: read and written whole, listed, copied, and replaced only where nobody else has replaced them first.

A local folder, ``gs://`` and ``memory://`` behave alike. Requests to object storage that fail for a moment are repeated with
growing, jittered pauses; all requests of a block share one budget of time for that (``retry_budget``).
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import random
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

import fsspec
from fsspec.core import url_to_fs
from zarr.storage import FsspecStore, LocalStore, StoreLike

from deepprofile.redaction import redacted, without_secrets

T = TypeVar("T")
_SEPARATOR: Final = "/"
# How long the requests of one block may fail before the block does.
RETRY_SECONDS: Final = 300.0
FIRST_PAUSE_SECONDS: Final = 0.2
LONGEST_PAUSE_SECONDS: Final = 16.0
CONNECT_SECONDS: Final = 10.0
# Between two pieces of an answer, not for the whole of it.
READ_SECONDS: Final = 60.0
CREDENTIALS: Final = "DEEPPROFILE_STORAGE_CREDENTIALS"
# Objects that are read at the same time.
READERS: Final = 16
# The project that pays where a bucket's readers do.
REQUESTER_PAYS: Final = "DEEPPROFILE_REQUESTER_PAYS"
_WILDCARDS: Final = "*?["
_TRANSIENT_CODES: Final = {408, 429, 500, 502, 503, 504}


class StorageUnavailable(Exception):
    """Object storage did not answer within the budget of the block; the message says what it said last."""


class MissingPath(FileNotFoundError):
    """There is nothing at a path or URL that the user has named; the message says where, and what it is for."""


class Overtaken(Exception):
    """An object is no longer what it was when it was read: somebody else has replaced it."""


def join(*parts: str) -> str:
    """Join the parts of a URL."""
    return _SEPARATOR.join([parts[0].rstrip(_SEPARATOR), *(part.strip(_SEPARATOR) for part in parts[1:])])


def is_local(url: str) -> bool:
    """Whether a URL names a folder of this machine."""
    return "://" not in url or url.startswith(("file://", "local://"))


def _is_gcs(url: str) -> bool:
    return url.startswith(("gs://", "gcs://"))


def local_path(url: str) -> str:
    """The path of a URL that names a folder of this machine, with every character of its name as it is."""
    for scheme in ("file://", "local://"):
        url = url.removeprefix(scheme)
    return os.path.abspath(os.path.expanduser(url))


def anonymous() -> bool:
    """Whether requests to object storage carry no credentials: as the environment says, or for an emulator."""
    return os.environ.get(CREDENTIALS, "default") == "anonymous" or bool(os.environ.get("STORAGE_EMULATOR_HOST"))


# --- patience -------------------------------------------------------------------------------------------------------


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
    if isinstance(error, (FileNotFoundError, FileExistsError, PermissionError, StorageUnavailable)):
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


def _unavailable(budget: RetryBudget, error: BaseException) -> StorageUnavailable:
    return StorageUnavailable(
        f"object storage has not answered for {budget.seconds:.0f} s ({budget.retries} repeated requests); the last answer: "
        f"{type(error).__name__}: {without_secrets(str(error))[:300]}"
    )


class _Patience:
    """The attempts of one request; a context manager."""

    def __init__(self) -> None:
        self._budget = _budget.get() or RetryBudget(RETRY_SECONDS)
        self._number = 0

    def __enter__(self) -> _Patience:
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


async def patiently(attempt: Callable[[], Awaitable[T]]) -> T:
    """Repeat a request that fails for a moment, as long as the budget of the block lasts.

    Raises
    ------
    StorageUnavailable
        Where the budget is used up.
    """
    with _Patience() as patience:
        while True:
            try:
                return await attempt()
            except Exception as error:
                pause = patience.pause_after(error)
            await asyncio.sleep(pause)


def patiently_sync(attempt: Callable[[], T]) -> T:
    """The same for a function that blocks."""
    with _Patience() as patience:
        while True:
            try:
                return attempt()
            except Exception as error:
                pause = patience.pause_after(error)
            time.sleep(pause)


# --- file systems ---------------------------------------------------------------------------------------------------


@cache
def _patient_gcs() -> type[Any]:
    from gcsfs.core import GCSFileSystem

    class PatientGCSFileSystem(GCSFileSystem):  # type: ignore[misc]
        """gcsfs, with our patience in place of its own: one budget a block, and every repetition is counted."""

        async def _request(self, *args: Any, **kwargs: Any) -> Any:
            return await patiently(lambda: GCSFileSystem._request.__wrapped__(self, *args, **kwargs))

        async def _get_file_request(self, *args: Any, **kwargs: Any) -> Any:
            return await patiently(lambda: GCSFileSystem._get_file_request.__wrapped__(self, *args, **kwargs))

        @staticmethod
        def close_session(loop: Any, session: Any, asynchronous: bool = False) -> None:
            # Called when the interpreter ends. What zarr's loop has opened cannot be closed on another one.
            if not asynchronous:
                GCSFileSystem.close_session(loop, session, asynchronous)
            elif session is not None and session.connector is not None:
                session.connector._close()

    return PatientGCSFileSystem


def filesystem(url: str, *, asynchronous: bool = False) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path of the URL in it.

    ``gs://`` has the application default credentials (Workload Identity on GKE, a login or a key file elsewhere), or none
    where the environment variable DEEPPROFILE_STORAGE_CREDENTIALS is ``anonymous``. DEEPPROFILE_REQUESTER_PAYS names
    the project that pays for reading from buckets whose readers pay.
    """
    if is_local(url):
        return fsspec.filesystem("file"), local_path(url)
    if not _is_gcs(url):
        fs, path = url_to_fs(url)
        return fs, str(path)
    import aiohttp

    kind = _patient_gcs()
    fs = kind(
        token="anon" if anonymous() else None,
        asynchronous=asynchronous,
        requester_pays=os.environ.get(REQUESTER_PAYS) or False,
        # Others write into the same bucket: what was listed a moment ago may be wrong by now.
        use_listings_cache=False,
        requests_timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS),
        endpoint_url=os.environ.get("STORAGE_EMULATOR_HOST") or None,
    )
    return fs, str(kind._strip_protocol(url))


def zarr_store(url: str) -> StoreLike:
    """The zarr store at a URL."""
    if is_local(url):
        return LocalStore(local_path(url))
    if _is_gcs(url):
        fs, path = filesystem(url, asynchronous=True)
        return FsspecStore(fs, path=path)
    return FsspecStore.from_url(url)


# --- whole objects --------------------------------------------------------------------------------------------------


def read_bytes(url: str) -> bytes | None:
    """An object; None where there is none."""
    fs, path = filesystem(url)
    try:
        return bytes(fs.cat_file(path))
    except FileNotFoundError:
        return None


def read_all(urls: Sequence[str]) -> list[bytes | None]:
    """Several objects of one file system, read at the same time; None where there is none."""
    with ThreadPoolExecutor(READERS) as readers:
        # Each in the context of the caller: all share the budget of its requests.
        calls = [readers.submit(copy_context().run, read_bytes, url) for url in urls]
        return [call.result() for call in calls]


def write_bytes(url: str, content: bytes) -> None:
    """Write an object whole: a reader sees the old one or the new one."""
    if not is_local(url):
        fs, path = filesystem(url)
        fs.pipe_file(path, content)
        return
    path = local_path(url)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.{uuid.uuid4().hex}.part"
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.remove(temporary)
        raise


def read_json(url: str) -> Any:
    """The document at a URL; None where there is none."""
    content = read_bytes(url)
    return None if content is None else json.loads(content)


def as_json(document: Any) -> bytes:
    """A document as it is written: without secrets."""
    return (json.dumps(redacted(document), indent=1, sort_keys=True) + "\n").encode()


def write_json(url: str, document: Any) -> None:
    """Write a document whole: a reader sees the old one or the new one."""
    write_bytes(url, as_json(document))


def exists(url: str) -> bool:
    """Whether there is an object at a URL, or a folder."""
    fs, path = filesystem(url)
    return bool(fs.exists(path))


def names_below(url: str) -> list[str]:
    """Names, sorted, of the objects and folders directly below a URL; none where there is no such folder."""
    fs, path = filesystem(url)
    try:
        found = fs.ls(path, detail=False)
    except FileNotFoundError:
        return []
    return sorted(str(name).rstrip(_SEPARATOR).rsplit(_SEPARATOR, 1)[-1] for name in found)


def remove(url: str) -> None:
    """Remove an object; one that is not there is no error."""
    fs, path = filesystem(url)
    with suppress(FileNotFoundError):
        fs.rm_file(path)


def upload(path: Path, url: str) -> None:
    """Put a file of this machine at a URL, whole or not at all."""
    fs, target = filesystem(url)
    if not is_local(url):
        fs.put_file(str(path), target)
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    temporary = f"{target}.{uuid.uuid4().hex}.part"
    try:
        shutil.copyfile(path, temporary)
        os.replace(temporary, target)
    finally:
        with suppress(FileNotFoundError):
            os.remove(temporary)


def remove_below(url: str) -> None:
    """Remove a folder and everything in it; one that is not there is no error."""
    fs, path = filesystem(url)
    with suppress(FileNotFoundError):
        fs.rm(path, recursive=True)


def copy_objects(source: str, target: str, names: Sequence[str]) -> None:
    """Take objects over from another folder: a hard link on a local disk, a copy on the server elsewhere.

    An object that the source does not have is removed from the target too.
    """
    if is_local(source):
        _link_objects(local_path(source), local_path(target), names)
        return
    fs, base = filesystem(source)
    _, goal = filesystem(target)
    for name in names:
        old, new = join(base, name), join(goal, name)
        if fs.exists(old):
            fs.cp_file(old, new)
        elif fs.exists(new):
            fs.rm_file(new)


def _link_objects(source: str, target: str, names: Sequence[str]) -> None:
    for name in names:
        old, new = os.path.join(source, name), os.path.join(target, name)
        with suppress(FileNotFoundError):
            os.remove(new)
        if os.path.exists(old):
            os.makedirs(os.path.dirname(new), exist_ok=True)
            try:
                os.link(old, new)
            except OSError:
                # Another file system, or one without hard links.
                shutil.copyfile(old, new)


@contextmanager
def told(url: str) -> Iterator[None]:
    """Whatever a file system raises while a URL is looked at becomes one message with the URL, the cause, and what to do.

    Raises
    ------
    StorageUnavailable
        In place of everything but FileNotFoundError.
    """
    try:
        yield
    except (FileNotFoundError, StorageUnavailable):
        raise
    except Exception as error:
        lines = [line.strip() for line in without_secrets(str(error)).splitlines() if line.strip()]
        cause = f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
        scheme = url.partition("://")[0]
        if "requester pays" in str(error).lower():
            bucket = url.partition("://")[2].partition(_SEPARATOR)[0]
            cause += (
                f" (the bucket {bucket} is requester pays: name the project that pays in the environment variable "
                f"{REQUESTER_PAYS}, also of the workers)"
            )
        elif isinstance(error, ImportError):
            cause += f" (install what reads {scheme}://, or let 'download' fetch the granules into a folder)"
        elif scheme == "s3":
            cause += (
                " (s3:// needs credentials of its own in the environment; or let 'download' fetch the granules into a folder)"
            )
        raise StorageUnavailable(f"{without_secrets(url)} cannot be read: {cause}") from error


def is_pattern(url: str) -> bool:
    """Whether a URL is a pattern with wildcards: one that exists as it is never is."""
    fs, path = filesystem(url)
    return any(c in path for c in _WILDCARDS) and not fs.exists(path)


def _escaped(fs: Any, path: str) -> str:
    """A pattern whose leading folders are taken as they are, as far as they exist under these names."""
    parts = path.split(_SEPARATOR)
    for count in range(len(parts) - 1, 0, -1):
        front = _SEPARATOR.join(parts[:count])
        if "[" in front and "*" not in front and fs.exists(front):
            return _SEPARATOR.join([front.replace("[", "[[]"), *parts[count:]])
    return path


def listing(url: str) -> list[dict[str, Any]]:
    """Every file below a URL (or matching it, where it has wildcards, or the file that it names), with name and size, by name.

    Links on a local disk are followed: the size and the time of change are those of the file that they lead to.
    """
    fs, path = filesystem(url)
    pattern = is_pattern(url)
    path = _escaped(fs, path) if pattern else path
    if not is_local(url):
        found = fs.glob(path, detail=True) if pattern else fs.find(path, detail=True)
        entries = [dict(info, url=fs.unstrip_protocol(name)) for name, info in found.items() if info.get("type") == "file"]
        for entry in entries:
            if entry.get("size") is None:
                # Pages that list a folder do not say it, or not to the byte.
                entry["size"] = fs.info(entry["name"]).get("size") or 0
    else:
        if pattern:
            names = [name for name in fs.glob(path) if os.path.isfile(name)]
        elif os.path.isfile(path):
            names = [path]
        else:
            names = [os.path.join(folder, name) for folder, _, files in _walk(path) for name in files]
        entries = []
        for name in names:
            # A link that leads nowhere or to itself, or a file that was removed while the folder was listed.
            with suppress(OSError):
                state = os.stat(name)
                entries.append({"url": name, "size": state.st_size, "mtime": state.st_mtime_ns})
    return sorted(entries, key=lambda entry: str(entry["url"]))


def folders(url: str) -> list[str]:
    """Every folder below a URL of a local disk (or matching it, where it has wildcards); buckets have none."""
    if not is_local(url):
        return []
    fs, path = filesystem(url)
    if is_pattern(url):
        return sorted(name for name in fs.glob(_escaped(fs, path)) if os.path.isdir(name))
    return sorted(os.path.join(folder, name) for folder, below, _ in _walk(path) for name in below)


def _walk(path: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Each folder with the names of the folders and files in it; one that links lead to again is gone through once."""
    seen = {os.path.realpath(path)}
    for folder, below, files in os.walk(path, followlinks=True):
        new = {name: os.path.realpath(os.path.join(folder, name)) for name in sorted(below)}
        below[:] = [name for name, real in new.items() if real not in seen]
        seen.update(new.values())
        yield folder, below, files


@contextmanager
def as_local(url: str) -> Iterator[Path]:
    """A file, or a folder with all that is in it, as one of this machine; what had to be fetched is gone afterwards.

    Raises
    ------
    MissingPath
        Where there is nothing at the URL.
    """
    if is_local(url):
        yield Path(local_path(url))
        return
    fs, path = filesystem(url)
    if not fs.exists(path):
        raise MissingPath(f"there is nothing at {url}")
    with tempfile.TemporaryDirectory(prefix="deepprofile-") as folder:
        if fs.isdir(path):
            fs.get(path.rstrip(_SEPARATOR) + _SEPARATOR, folder + _SEPARATOR, recursive=True)
            yield Path(folder)
        else:
            target = Path(folder) / path.rsplit(_SEPARATOR, 1)[-1]
            fs.get_file(path, str(target))
            yield target


# --- replacing an object only if it is still the one that was read ---------------------------------------------------


@dataclass(frozen=True)
class Stamped:
    """An object as it was read: its content (None: there was none), what tells it from every later one, and when it was
    written, in seconds, by the clock of the storage."""

    content: bytes | None
    generation: Any
    written: float = 0.0


def read_stamped(url: str) -> Stamped:
    """An object with its generation."""
    return _conditional(url).read(url)


def replace(url: str, content: bytes, generation: Any) -> Stamped:
    """Write an object if it is still of this generation.

    Where the answer of the storage was lost, the object is read back: what is there may be what was written.

    Raises
    ------
    Overtaken
        Where it is of another generation by now.
    """
    conditional = _conditional(url)
    try:
        return conditional.replace(url, content, generation)
    except Overtaken:
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
        except Overtaken:
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

    def read(self, url: str) -> Stamped:
        try:
            with open(local_path(url), "rb") as file:
                state, content = os.fstat(file.fileno()), file.read()
                # Inodes are used again, and times have the step of the kernel's clock: what is written names its writer.
                return Stamped(content, (state.st_ino, state.st_mtime_ns, content), state.st_mtime)
        except FileNotFoundError:
            return Stamped(None, 0)

    def replace(self, url: str, content: bytes, generation: Any) -> Stamped:
        with self._locked(local_path(url)):
            if self.read(url).generation != generation:
                raise Overtaken(url)
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

    def read(self, url: str) -> Stamped:
        fs, path = url_to_fs(url)
        try:
            written = fs.modified(path).timestamp()
            content = fs.cat_file(path)
            return Stamped(content, (written, id(fs.store[path]), content), written)
        except FileNotFoundError:
            return Stamped(None, 0)

    def replace(self, url: str, content: bytes, generation: Any) -> Stamped:
        with self._lock:
            if self.read(url).generation != generation:
                raise Overtaken(url)
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
        bucket, _, name = url.split("://", 1)[1].partition(_SEPARATOR)
        return self._client(os.environ.get("STORAGE_EMULATOR_HOST"), anonymous()).bucket(bucket).blob(name)

    def read(self, url: str) -> Stamped:
        from google.api_core import exceptions

        def attempt() -> Stamped:
            while True:
                blob = self._blob(url)
                try:
                    blob.reload(retry=None, timeout=(CONNECT_SECONDS, READ_SECONDS))
                except exceptions.NotFound:
                    return Stamped(None, 0)
                try:
                    # A handle without the link that the metadata hold: an emulator may name a host of its own there.
                    content = self._blob(url).download_as_bytes(
                        if_generation_match=blob.generation, retry=None, timeout=(CONNECT_SECONDS, READ_SECONDS)
                    )
                except (exceptions.NotFound, exceptions.PreconditionFailed):
                    # Replaced in between.
                    continue
                return Stamped(content, blob.generation, blob.updated.timestamp())

        return patiently_sync(attempt)

    def replace(self, url: str, content: bytes, generation: Any) -> Stamped:
        from google.api_core import exceptions

        def attempt() -> Stamped:
            blob = self._blob(url)
            blob.upload_from_string(
                content,
                content_type="application/json",
                if_generation_match=generation,
                retry=None,
                timeout=(CONNECT_SECONDS, READ_SECONDS),
            )
            return Stamped(content, blob.generation, blob.updated.timestamp())

        try:
            return patiently_sync(attempt)
        except exceptions.PreconditionFailed as error:
            raise Overtaken(url) from error

    def time(self, url: str) -> float:
        def attempt() -> float:
            blob = self._blob(url)
            blob.upload_from_string(b"", retry=None, timeout=(CONNECT_SECONDS, READ_SECONDS))
            return float(blob.updated.timestamp())

        return patiently_sync(attempt)


_LOCAL, _MEMORY, _GCS = _Local(), _Memory(), _Gcs()


def _conditional(url: str) -> _Local | _Memory | _Gcs:
    if is_local(url):
        return _LOCAL
    if _is_gcs(url):
        return _GCS
    if isinstance(url_to_fs(url)[0], fsspec.get_filesystem_class("memory")):
        return _MEMORY
    raise ValueError(f"{url}: a root is a local folder, gs://, or memory://; this kind of storage cannot replace conditionally")
