"""What the readers of station files share: which files there are, and what is said of those that cannot be used."""

from __future__ import annotations

import gzip
import io
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

_GZIP: Final = b"\x1f\x8b"
_UTF_16: Final = (b"\xff\xfe", b"\xfe\xff")
# What archivers of some systems put beside the files.
_BESIDE: Final = "__MACOSX"
_ZIPS_IN_ZIPS: Final = 3


class MissingStationsError(FileNotFoundError):
    """There is nothing at a path of stations; the message says where."""


class StationError(ValueError):
    """Station files that cannot be used: one line for each, with its name."""


@dataclass
class Report:
    """What is to be said of station files.

    Attributes
    ----------
    problems
        Files that cannot be used, one sentence each.
    notes
        What a user should know although nothing is missing.
    """

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @contextmanager
    def about(self, label: str) -> Iterator[None]:
        """Whatever goes wrong with a file becomes one problem, and costs that file only."""
        try:
            yield
        except Exception as error:  # noqa: BLE001
            self.problems.append(str(error) if isinstance(error, StationError) else f"{label} cannot be read: {_reason(error)}")

    def refuse(self) -> None:
        """Raise what was found.

        Raises
        ------
        StationError
            If there is any problem: a line for each.
        """
        if self.problems:
            raise StationError("\n".join(self.problems))


def _reason(error: Exception) -> str:
    """A library's complaint in usual words."""
    if isinstance(error, EOFError):
        return "it is cut off"
    if isinstance(error, (zipfile.BadZipFile, gzip.BadGzipFile, zlib.error)):
        return f"it is damaged or cut off ({error})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


@dataclass(frozen=True)
class StationPath:
    """Where station files are: a folder or file of this machine, and the name by which users know it."""

    path: Path
    name: str

    @classmethod
    def of(cls, paths: str | Path | Iterable[str | Path]) -> list[StationPath]:
        """One place, or several."""
        given = [paths] if isinstance(paths, (str, Path)) else list(paths)
        return [cls(Path(path), str(path)) for path in given]


@dataclass(frozen=True)
class StationFile:
    """A file in a folder or ZIP.

    ``label``: what it is called in messages. ``name``: the last part of its path. ``given``: whether the user has named this
    very file.
    """

    label: str
    name: str
    open: Callable[[], IO[bytes]]
    given: bool = False

    def read(self) -> bytes:
        """The whole content."""
        with self.open() as file:
            return file.read()

    def begin(self, size: int) -> bytes:
        """The first bytes."""
        with self.open() as file:
            return file.read(size)

    def text(self) -> str:
        """The content as text, unpacked where it is gzip; UTF-8 where it can be, else Latin-1."""
        content = self.read()
        if content.startswith(_GZIP):
            content = gzip.decompress(content)
        if content.startswith(_UTF_16):
            return content.decode("utf-16")
        return decoded(content)


def decoded(content: bytes) -> str:
    """Text that is UTF-8 where it can be, else Latin-1."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def files_in(places: Iterable[StationPath], what: str, report: Report, opened: ExitStack) -> Iterator[StationFile]:
    """Every file of some folders, files and ZIPs, ZIPs in folders and in ZIPs included, in the order of their names.

    Parameters
    ----------
    places
        Folders, files or ZIPs.
    what
        What they are, for the message where there is nothing.
    report
        Is told of ZIPs and folders that cannot be read.
    opened
        Holds the ZIPs open as long as their files are needed.

    Raises
    ------
    MissingStationsError
        If there is nothing at one of the places.
    """
    for place in places:
        if place.path.is_dir():
            yield from _folder(place, report, opened)
        elif not place.path.exists():
            raise MissingStationsError(f"no {what} at {place.name}: there is no such file or folder")
        elif place.path.suffix.lower() == ".zip" or zipfile.is_zipfile(place.path):
            yield from _zip(lambda path=place.path: path.open("rb"), place.name, report, opened)  # type: ignore[misc]
        else:
            yield StationFile(place.name, place.path.name, lambda path=place.path: path.open("rb"), given=True)  # type: ignore[misc]


def _folder(place: StationPath, report: Report, opened: ExitStack) -> Iterator[StationFile]:
    seen: set[str] = set()

    def say(error: OSError) -> None:
        report.problems.append(f"{error.filename} cannot be read: {_reason(error)}")

    for parent, folders, names in os.walk(place.path, onerror=say, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(folder for folder in folders if not _is_beside(folder))
        for name in sorted(names):
            path = Path(parent) / name
            label = f"{place.name.rstrip('/')}/{path.relative_to(place.path).as_posix()}"
            if _is_beside(name):
                continue
            if path.suffix.lower() == ".zip":
                yield from _zip(lambda path=path: path.open("rb"), label, report, opened)  # type: ignore[misc]
            else:
                yield StationFile(label, name, lambda path=path: path.open("rb"))  # type: ignore[misc]


def _zip(
    open_zip: Callable[[], IO[bytes]], label: str, report: Report, opened: ExitStack, depth: int = 0
) -> Iterator[StationFile]:
    try:
        archive = opened.enter_context(zipfile.ZipFile(opened.enter_context(open_zip())))
        entries = sorted((entry for entry in archive.infolist() if not entry.is_dir()), key=lambda entry: entry.filename)
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
        report.problems.append(f"{label} cannot be read: it is no ZIP, or is cut off ({_reason(error)})")
        return
    if any(entry.flag_bits & 1 for entry in entries):
        report.problems.append(f"{label} cannot be read: it is encrypted; unpack it into a folder")
        return
    for entry in entries:
        parts = entry.filename.replace("\\", "/").split("/")
        if any(map(_is_beside, parts)):
            continue
        inner = f"{label}: {entry.filename}"
        if parts[-1].lower().endswith(".zip") and depth < _ZIPS_IN_ZIPS:
            with report.about(inner):
                content = archive.read(entry)
                yield from _zip(lambda content=content: io.BytesIO(content), inner, report, opened, depth + 1)  # type: ignore[misc]
        else:
            yield StationFile(inner, parts[-1], lambda entry=entry: archive.open(entry))  # type: ignore[misc]


def _is_beside(name: str) -> bool:
    return name == _BESIDE or name.startswith(".")
