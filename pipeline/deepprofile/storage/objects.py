"""Objects at URLs: read and written whole, listed, copied and removed."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from deepprofile.storage.filesystems import REQUESTER_PAYS, SEPARATOR, filesystem, is_local, join, local_path
from deepprofile.storage.redaction import redacted, without_secrets
from deepprofile.storage.retries import StorageUnavailableError

# Objects that are read at the same time.
READERS: Final = 16
T = TypeVar("T")
_WILDCARDS: Final = "*?["


class MissingPathError(FileNotFoundError):
    """There is nothing at a path or URL that the user has named; the message says where, and what it is for."""


def read_bytes(url: str) -> bytes | None:
    """An object; None where there is none."""
    fs, path = filesystem(url)
    try:
        return bytes(fs.cat_file(path))
    except FileNotFoundError:
        return None


def read_range(url: str, start: int, stop: int | None = None) -> bytes | None:
    """Bytes of an object from ``start``, counted from its end where negative, to before ``stop``; None where there is none."""
    fs, path = filesystem(url)
    try:
        return bytes(fs.cat_file(path, start=start, end=stop))
    except FileNotFoundError:
        return None


def at_the_same_time(calls: Sequence[Callable[[], T]], *, local: bool = False) -> list[T]:
    """Results of several calls that wait for requests; of those to the local disk, one after the other."""
    if local or len(calls) < 2:
        return [call() for call in calls]
    with ThreadPoolExecutor(READERS) as readers:
        # Each in the context of the caller: all share the budget of its requests.
        under_way = [readers.submit(copy_context().run, call) for call in calls]
        return [call.result() for call in under_way]


def read_all(urls: Sequence[str]) -> list[bytes | None]:
    """Several objects of one file system, read at the same time; None where there is none."""
    return at_the_same_time([partial(read_bytes, url) for url in urls])


def write_bytes(url: str, content: bytes, *, durable: bool = True) -> None:
    """Write an object whole: a reader sees the old one or the new one.

    ``durable``: of a local file, whether it is on the disk before this returns; else a machine that loses power may lose it.
    """
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
            if durable:
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


def list_children(url: str) -> list[str]:
    """Names, sorted, of the objects and folders directly below a URL; none where there is no such folder."""
    fs, path = filesystem(url)
    try:
        found = fs.ls(path, detail=False)
    except FileNotFoundError:
        return []
    return sorted(str(name).rstrip(SEPARATOR).rsplit(SEPARATOR, 1)[-1] for name in found)


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
def explained_errors(url: str) -> Iterator[None]:
    """Whatever a file system raises while a URL is looked at becomes one message with the URL, the cause, and what to do.

    Raises
    ------
    StorageUnavailableError
        In place of everything but FileNotFoundError.
    """
    try:
        yield
    except (FileNotFoundError, StorageUnavailableError):
        raise
    except Exception as error:
        lines = [line.strip() for line in without_secrets(str(error)).splitlines() if line.strip()]
        cause = f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
        scheme = url.partition("://")[0]
        if "requester pays" in str(error).lower():
            bucket = url.partition("://")[2].partition(SEPARATOR)[0]
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
        raise StorageUnavailableError(f"{without_secrets(url)} cannot be read: {cause}") from error


def is_pattern(url: str) -> bool:
    """Whether a URL is a pattern with wildcards: one that exists as it is never is."""
    fs, path = filesystem(url)
    return any(c in path for c in _WILDCARDS) and not fs.exists(path)


def _escaped(fs: Any, path: str) -> str:
    """A pattern whose leading folders are taken as they are, as far as they exist under these names."""
    parts = path.split(SEPARATOR)
    for count in range(len(parts) - 1, 0, -1):
        front = SEPARATOR.join(parts[:count])
        if "[" in front and "*" not in front and fs.exists(front):
            return SEPARATOR.join([front.replace("[", "[[]"), *parts[count:]])
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
    MissingPathError
        Where there is nothing at the URL.
    """
    if is_local(url):
        yield Path(local_path(url))
        return
    fs, path = filesystem(url)
    if not fs.exists(path):
        raise MissingPathError(f"there is nothing at {url}")
    with tempfile.TemporaryDirectory(prefix="deepprofile-") as folder:
        if fs.isdir(path):
            fs.get(path.rstrip(SEPARATOR) + SEPARATOR, folder + SEPARATOR, recursive=True)
            yield Path(folder)
        else:
            target = Path(folder) / path.rsplit(SEPARATOR, 1)[-1]
            fs.get_file(path, str(target))
            yield target
