"""Granules as files: what is in one, whatever its format, as variables with names, dimensions and attributes.

HDF5 and netCDF-4 through h5py, netCDF-3 and Zarr through xarray, GRIB through ecCodes; ZIP and gzip archives are unpacked. The
format is told from how a file begins, never from its name. Whatever goes wrong while a file is read is a ``GranuleError`` that
names the file and the cause.
"""

from __future__ import annotations

import gzip
import io
import shutil
import tempfile
import threading
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from deepprofile.storage.filesystems import zarr_store
from deepprofile.storage.objects import read_range
from deepprofile.storage.retries import StorageUnavailableError, is_transient

Index = tuple[slice, ...]

HDF5, NETCDF3, NETCDF3_64BIT_DATA, GRIB, ZIP, GZIP = (
    b"\x89HDF\r\n\x1a\n",
    (b"CDF\x01", b"CDF\x02"),
    b"CDF\x05",
    b"GRIB",
    b"PK\x03\x04",
    b"\x1f\x8b",
)
# An archive without a member, and one that is in several parts (APPNOTE.TXT of ZIP, sections 4.3.16 and 8.5.3).
ZIP_OF_NOTHING, ZIP_SPLIT = b"PK\x05\x06", b"PK\x07\x08"
# Attributes that say how numbers are to be understood; HDF5 files have many others, and each costs time.
_CF_ATTRIBUTES: Final = frozenset(
    ("_FillValue", "missing_value", "scale_factor", "add_offset", "_Unsigned", "valid_min", "valid_max", "valid_range")
) | {"units", "calendar", "standard_name"}
# Bulletin headers may stand before the first message of GRIB.
_GRIB_WITHIN: Final = 256
# Unpacked archives that a process keeps.
_KEPT_ARCHIVES: Final = 3
# Of a remote file so many bytes are fetched together, and so many of such blocks are kept (python -m benchmarks.remote).
BLOCK_BYTES: Final = 2**22
BLOCKS_KEPT: Final = 8
# Variables that a message names.
_SHOWN: Final = 30


class GranuleError(Exception):
    """A granule that cannot be used; the message names the file and says why."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of HDF5 in object storage, of which only what is needed is fetched.

    ``url``, ``size``: where it is, and its bytes, as a listing says. ``begin``: the first block of it.
    """

    url: str
    size: int
    begin: bytes = field(repr=False)

    @property
    def name(self) -> str:
        """Without the folder."""
        return self.url.rsplit("/", 1)[-1]


class DayNotHeldError(GranuleError):
    """A day that a granule does not hold, although its name says so."""


@dataclass(frozen=True)
class Variable:
    """A variable of a file as it is stored.

    ``raw`` gives a part of the values as they are stored, packed and with fill, for a slice of each axis. ``axes`` gives a
    name for each axis, "" where the file has none; they are looked up only where they are needed. ``chunks``: along each axis,
    what is unpacked at once; None where nothing is.
    """

    name: str
    axes: Callable[[], tuple[str, ...]]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    attrs: Mapping[str, Any]
    raw: Callable[[Index], NDArray[Any]]
    chunks: tuple[int, ...] | None = None

    @cached_property
    def dims(self) -> tuple[str, ...]:
        """A name for each axis."""
        return self.axes()

    def whole(self) -> NDArray[Any]:
        """All values as they are stored."""
        return self.raw(tuple(slice(None) for _ in self.shape))


class GranuleFile(ABC):
    """An open file: its variables by name (``group/variable`` in groups), and its global attributes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._found: dict[str, Variable | None] = {}

    @abstractmethod
    def attribute(self, name: str) -> Any:
        """A global attribute; None where there is none."""

    @abstractmethod
    def names(self) -> list[str]:
        """Names at the top."""

    @abstractmethod
    def variable(self, name: str) -> Variable | None:
        """A variable by its exact name."""

    def paths(self) -> list[str]:
        """Names of all variables, those in groups too."""
        return self.names()

    def group_attribute(self, group: str, name: str) -> Any:
        """An attribute of a group; None where there is none."""
        return None

    def find(self, *names: str) -> Variable | None:
        """The first of some names that the file has; upper and lower case are one where none is there exactly."""
        for name in names:
            if (found := self._known(name)) is not None:
                return found
        for name in names:
            exact = self._by_lower_case.get(name.lower())
            if exact is not None and (found := self._known(exact)) is not None:
                return found
        return None

    def _known(self, name: str) -> Variable | None:
        """As ``variable``; looking at a file takes longer than remembering it."""
        if "/" not in name and name not in self._top:
            return None
        if name not in self._found:
            self._found[name] = self.variable(name)
        return self._found[name]

    @cached_property
    def _top(self) -> frozenset[str]:
        return frozenset(self.names())

    @cached_property
    def _by_lower_case(self) -> dict[str, str]:
        return {name.lower(): name for name in self._top}


class Hdf5File(GranuleFile):
    """HDF5, which netCDF-4 is too."""

    def __init__(self, name: str, file: h5py.File) -> None:
        super().__init__(name)
        self._file = file

    def attribute(self, name: str) -> Any:
        """See ``GranuleFile``."""
        return plain(self._file.attrs[name]) if name in self._file.attrs else None

    def names(self) -> list[str]:
        """See ``GranuleFile``."""
        return list(self._file)

    def paths(self) -> list[str]:
        """See ``GranuleFile``."""
        found: list[str] = []

        def note(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                found.append(name)

        self._file.visititems(note)
        return found

    def group_attribute(self, group: str, name: str) -> Any:
        """See ``GranuleFile``."""
        found = self._file.get(group)
        return plain(found.attrs[name]) if isinstance(found, h5py.Group) and name in found.attrs else None

    def variable(self, name: str) -> Variable | None:
        """See ``GranuleFile``."""
        # The low-level interface: a granule has ten variables with ten attributes each, and files are many.
        try:
            opened_here = h5py.h5o.open(self._file.id, name.encode())
        except KeyError:
            return None
        if not isinstance(opened_here, h5py.h5d.DatasetID):
            return None
        found = h5py.Dataset(opened_here)
        attrs = {key: _attribute(found, key) for key in _CF_ATTRIBUTES if h5py.h5a.exists(opened_here, key.encode())}
        return Variable(
            name,
            partial(_hdf5_dims, found),
            found.shape or (),
            found.dtype,
            attrs,
            lambda index: np.asarray(found[index]),
            found.chunks,
        )


def _attribute(variable: h5py.Dataset, name: str) -> Any:
    attribute = h5py.h5a.open(variable.id, name.encode())
    kind = attribute.dtype
    if kind.kind not in "iufSO" or (kind.kind == "O" and h5py.check_string_dtype(kind) is None):
        return plain(variable.attrs[name])
    if attribute.get_space().get_simple_extent_type() == h5py.h5s.NULL:
        return ""
    value = np.empty(attribute.shape, kind)
    attribute.read(value)
    return plain(value)


def _hdf5_dims(variable: h5py.Dataset) -> tuple[str, ...]:
    """Names of the axes: of the scales that netCDF-4 attaches, or labels."""
    if variable.ndim == 1 and h5py.h5ds.is_scale(variable.id):
        return (_last_part(variable.name.encode()),)
    if "DIMENSION_LIST" in variable.attrs:
        scales = variable.attrs["DIMENSION_LIST"]
        return tuple([_last_part(h5py.h5r.get_name(axis[0], variable.file.id)) if len(axis) else "" for axis in scales])
    if "DIMENSION_LABELS" in variable.attrs:
        return tuple([str(variable.dims[k].label) for k in range(variable.ndim)])
    return tuple([""] * variable.ndim)


def _last_part(path: bytes | None) -> str:
    return "" if path is None else path.decode("utf-8", errors="replace").rsplit("/", 1)[-1]


class DatasetFile(GranuleFile):
    """What xarray opens, not decoded: netCDF-3 and Zarr."""

    def __init__(self, name: str, dataset: xr.Dataset) -> None:
        super().__init__(name)
        self.dataset = dataset

    def attribute(self, name: str) -> Any:
        """See ``GranuleFile``."""
        return plain(self.dataset.attrs.get(name))

    def names(self) -> list[str]:
        """See ``GranuleFile``."""
        return [str(name) for name in self.dataset.variables]

    def variable(self, name: str) -> Variable | None:
        """See ``GranuleFile``."""
        if name not in self.dataset.variables:
            return None
        found = self.dataset.variables[name]
        attrs = {str(key): plain(value) for key, value in found.attrs.items() if key in _CF_ATTRIBUTES}
        # Copied: the values may be a view of a file that is about to be closed.
        dims = tuple(map(str, found.dims))
        chunks = found.encoding.get("chunks")
        return Variable(
            name, lambda: dims, found.shape, found.dtype, attrs, lambda index: np.array(found[index].values), chunks
        )


class JoinedFile(GranuleFile):
    """Files that hold different variables of the same time steps and cells, as one."""

    def __init__(self, files: Sequence[GranuleFile]) -> None:
        super().__init__(files[0].name)
        self.files = list(files)

    def attribute(self, name: str) -> Any:
        """See ``GranuleFile``."""
        return next((found for file in self.files if (found := file.attribute(name)) is not None), None)

    def names(self) -> list[str]:
        """See ``GranuleFile``."""
        return list(dict.fromkeys(name for file in self.files for name in file.names()))

    def variable(self, name: str) -> Variable | None:
        """See ``GranuleFile``."""
        return next((found for file in self.files if (found := file.variable(name)) is not None), None)


def plain(value: Any) -> Any:
    """An attribute as text, as a number, or as an array where it holds several; files keep single values in arrays too."""
    if isinstance(value, h5py.Empty):
        return ""
    if isinstance(value, np.ndarray):
        if value.size != 1:
            return value
        value = value.reshape(-1)[0]
    if isinstance(value, bytes):
        return value.rstrip(b"\0").decode("utf-8", errors="replace")
    return value


# --- opening --------------------------------------------------------------------------------------------------------


def no_variable(name: str, files: Sequence[GranuleFile]) -> GranuleError:
    """What to raise where files, or the members of an archive, lack a variable: it says which they have."""
    there = [path for file in files for path in file.paths()]
    more = f" and {len(there) - _SHOWN} more" if len(there) > _SHOWN else ""
    return GranuleError(f"{files[0].name} has no variable {name!r}; it has {', '.join(there[:_SHOWN]) or 'none'}{more}")


@contextmanager
def opened(path: Path | RemoteFile) -> Iterator[list[GranuleFile]]:
    """What a file holds: one file, or those of an archive.

    Raises
    ------
    GranuleError
        For whatever goes wrong while it is open: a file that is cut off, damaged, of another kind, or not what its reader
        expects.
    """
    with reading(path.name), ExitStack() as stack:
        if isinstance(path, RemoteFile):
            yield [_open_hdf5(stack.enter_context(RangeReader(path)), path.name, stack)]
        else:
            yield _open_parts(path, path.name, stack)


@contextmanager
def opened_zarr(url: str) -> Iterator[GranuleFile]:
    """The store in Zarr at a URL.

    Raises
    ------
    GranuleError
        As ``opened``.
    """
    name = url.rstrip("/").rsplit("/", 1)[-1]
    with reading(name), _zarr_dataset(url) as dataset:
        yield DatasetFile(name, dataset)


def _zarr_dataset(url: str) -> xr.Dataset:
    """A store that may have consolidated metadata, which a server that cannot list needs, or none."""
    try:
        dataset: xr.Dataset = xr.open_zarr(zarr_store(url), chunks=None, decode_cf=False, consolidated=True)
    except (KeyError, ValueError, FileNotFoundError):
        try:
            dataset = xr.open_zarr(zarr_store(url), chunks=None, decode_cf=False, consolidated=False)
        except Exception as error:
            _pass_on(error)
            raise GranuleError(f"{url} cannot be opened as a store in Zarr: {_first_line(error)}") from error
    return dataset


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Whatever goes wrong within is a GranuleError that names the granule and the cause."""
    try:
        yield
    except GranuleError as error:
        if name in str(error):
            raise
        raise GranuleError(f"{name}: {error}") from error
    except Exception as error:
        _pass_on(error)
        raise GranuleError(f"{name} cannot be read: {_cause(error)}") from error


def _pass_on(error: Exception) -> None:
    """What is no fault of the granule stays what it is: storage that does not answer, which is asked again."""
    if isinstance(error, StorageUnavailableError) or (is_transient(error) and not isinstance(error, EOFError)):
        raise error


def _open_parts(path: Path, name: str, stack: ExitStack) -> list[GranuleFile]:
    with path.open("rb") as file:
        begin = file.read(_GRIB_WITHIN)
    if begin.startswith(HDF5):
        return [_open_hdf5(stack.enter_context(_CheckedFile(path)), name, stack)]
    if begin.startswith(NETCDF3):
        _check_netcdf3_size(path, name)
        return [DatasetFile(name, stack.enter_context(xr.open_dataset(path, engine="scipy", decode_cf=False)))]
    if GRIB in begin:
        # ecCodes takes a while to load, and few files are of GRIB.
        from deepprofile.sources.products.grib import GribFile

        return [GribFile(name, path)]
    if begin.startswith((ZIP, GZIP)):
        members = stack.enter_context(_archives.members(path, name))
        return [part for member in members for part in _open_parts(member, f"{member.name} in {name}", stack)]
    # An HDF5 file may begin with a block of its user's.
    if h5py.is_hdf5(path):
        return [_open_hdf5(stack.enter_context(_CheckedFile(path)), name, stack)]
    raise GranuleError(f"{name} cannot be read: {_what_begins(begin)}")


def _open_hdf5(source: io.RawIOBase, name: str, stack: ExitStack) -> Hdf5File:
    return Hdf5File(name, stack.enter_context(h5py.File(source, "r")))


class _CheckedFile(io.FileIO):
    """A file of HDF5 whose global heaps are looked at before the library sees them.

    A heap holds texts and names of axes. Where a part of one was lost and is zeros, the library walks on for ever, by steps of
    nothing: a free object of size 0 (HDF5 File Format Specification, version 3, section III.E).
    """

    def readinto(self, buffer: Any) -> int:
        """As of any file; raises an OSError for a heap that has no end."""
        count = super().readinto(buffer) or 0
        _check_heap(memoryview(buffer)[:count])
        return count


class RangeReader(io.RawIOBase):
    """A file of HDF5 in object storage, of which blocks are fetched as they are needed; heaps are looked at as in other files.

    What storage says is raised when the file is closed: HDF5 would tell it as a damaged file.
    """

    def __init__(self, file: RemoteFile) -> None:
        super().__init__()
        self._file, self._at = file, 0
        self._failure: Exception | None = None
        self._blocks: OrderedDict[int, bytes] = OrderedDict({0: file.begin})

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As of any file."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        return self._at

    def tell(self) -> int:
        """As of any file."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """As of any file; raises an OSError for a heap that has no end."""
        view = memoryview(buffer)
        stop, done = min(self._at + len(view), self._file.size), 0
        while self._at < stop:
            number, within = divmod(self._at, BLOCK_BYTES)
            part = self._block(number)[within : within + stop - self._at]
            view[done : done + len(part)] = part
            done += len(part)
            self._at += len(part)
        _check_heap(view[:done])
        return done

    def _block(self, number: int) -> bytes:
        if number in self._blocks:
            self._blocks.move_to_end(number)
            return self._blocks[number]
        start = number * BLOCK_BYTES
        stop = min(start + BLOCK_BYTES, self._file.size)
        try:
            content = read_range(self._file.url, start, stop)
            if content is None or len(content) != stop - start:
                raise GranuleError(f"{self._file.name} has changed, or was removed, while it was read")
        except Exception as error:
            self._failure = error
            raise OSError(str(error)) from error
        self._blocks[number] = content
        while len(self._blocks) > BLOCKS_KEPT:
            self._blocks.popitem(last=False)
        return content

    def __exit__(self, *error: Any) -> None:
        """Close it; raises what storage said."""
        super().__exit__(*error)
        if self._failure is not None:
            raise self._failure


# Signature, version and size; of an object in it, its number, references and size.
_HEAP_HEADER: Final = 16


def _check_heap(found: memoryview) -> None:
    """Raise an OSError where what was read begins as a heap does, and has no end."""
    if len(found) < _HEAP_HEADER or bytes(found[:4]) != b"GCOL":
        return
    content = bytes(found)
    size = int.from_bytes(content[8:16], "little")
    place = _HEAP_HEADER
    while place + _HEAP_HEADER <= min(size, len(content)):
        number = int.from_bytes(content[place : place + 2], "little")
        length = int.from_bytes(content[place + 8 : place + 16], "little")
        step = length if number == 0 else _HEAP_HEADER + (length + 7) // 8 * 8
        if step == 0 or place + step > size:
            raise OSError("a global heap of the file is damaged")
        place += step


def _what_begins(begin: bytes) -> str:
    """What a file is that is of none of the formats, in words."""
    text = begin.lstrip(b"\xef\xbb\xbf \t\r\n")
    lower = text[:200].lower()
    if not begin:
        return "it is empty"
    if lower.startswith((b"<!doctype html", b"<html")) or b"<html" in lower:
        return "it is a web page, such as a service sends that wants a login: fetch it again with credentials"
    if lower.startswith(b"<"):
        return f"it is a document in XML, such as a service sends instead of data: {_excerpt(text)}"
    if lower.startswith((b"{", b"[")):
        return f"it is an answer in JSON, such as a service sends instead of data: {_excerpt(text)}"
    if begin.startswith(NETCDF3_64BIT_DATA):
        return "it is netCDF-3 with 64-bit data (CDF-5), which is not supported: convert it with 'nccopy -k nc4'"
    if begin.startswith(b"\x0e\x03\x13\x01"):
        return "it is HDF4, which is not supported: fetch it as HDF5 or netCDF"
    if not begin.strip(b"\0"):
        return "it begins with zeros: it was not written, or not transferred, completely"
    if begin.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, not the file itself"
    if begin.startswith(ZIP_OF_NOTHING):
        return "it is an empty ZIP, which holds no file"
    if begin.startswith(ZIP_SPLIT):
        return "it is a part of a ZIP that was split: put the parts together first"
    return f"it is no file of HDF5, netCDF, GRIB or ZIP: it begins with {begin[:16]!r}"


def _excerpt(text: bytes) -> str:
    return " ".join(text.decode("utf-8", errors="replace").split())[:160]


def _cause(error: Exception) -> str:
    """Why a file could not be read, from what a library says of it."""
    line = _first_line(error)
    if isinstance(error, FileNotFoundError):
        return "it is not there any more"
    if isinstance(error, PermissionError):
        return "this user may not read it"
    if "truncated file" in line or isinstance(error, EOFError):
        return f"it is truncated ({line})"
    if isinstance(error, MemoryError):
        return "it asks for more memory than there is; it may be damaged"
    if isinstance(error, (zipfile.BadZipFile, gzip.BadGzipFile, zlib.error)):
        return f"it is a damaged archive ({line})"
    if isinstance(error, (OSError, RuntimeError)):
        return f"it is damaged, or no file of this product ({line})"
    return f"it is not what a file of this product is ({line})"


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:300]}" if text else type(error).__name__


def _check_netcdf3_size(path: Path, name: str) -> None:
    """Raise where a netCDF-3 file is shorter than its header says: what lies beyond its end would be read as garbage."""
    from scipy.io import netcdf_file

    size = path.stat().st_size
    try:
        with netcdf_file(path, "r", mmap=True, maskandscale=False) as file:
            # Its arrays are made when it is opened, and have the shapes that the header states.
            short = [key for key, v in file.variables.items() if not hasattr(v, "data")]
    except (ValueError, TypeError, IndexError, KeyError, OverflowError, AssertionError) as error:
        raise GranuleError(
            f"{name} cannot be read: it is netCDF-3, and truncated or damaged ({size} bytes; {_first_line(error)})"
        ) from error
    if short:
        raise GranuleError(f"{name} cannot be read: it is netCDF-3, and truncated ({size} bytes)")


# --- archives -------------------------------------------------------------------------------------------------------


class _Archive:
    """An unpacked archive, and how many readers it has."""

    def __init__(self, path: Path, name: str) -> None:
        self.readers = 0
        self.folder = tempfile.TemporaryDirectory(prefix="deepprofile-archive-", ignore_cleanup_errors=True)
        try:
            self.members = _unpack(path, name, Path(self.folder.name))
        except BaseException:
            self.folder.cleanup()
            raise


class _Archives:
    """Archives that this process has unpacked: those that are read, and the latest few others."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, int, int], _Archive] = OrderedDict()

    @contextmanager
    def members(self, path: Path, name: str) -> Iterator[list[Path]]:
        """The data files of an archive, as files of this machine, which stay while they are read."""
        state = path.stat()
        key = (str(path), state.st_size, state.st_mtime_ns)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = _Archive(path, name)
            archive = self._kept[key]
            archive.readers += 1
            self._kept.move_to_end(key)
        try:
            yield archive.members
        finally:
            with self._lock:
                archive.readers -= 1
                idle = [each for each, other in self._kept.items() if not other.readers]
                for each in idle[: max(0, len(self._kept) - _KEPT_ARCHIVES)]:
                    self._kept.pop(each).folder.cleanup()


_archives: Final = _Archives()


def _unpack(path: Path, name: str, folder: Path) -> list[Path]:
    with path.open("rb") as file:
        zipped = file.read(4) == ZIP
    if not zipped:
        target = folder / (path.stem or "data")
        with gzip.open(path, "rb") as source, target.open("wb") as out:
            try:
                shutil.copyfileobj(source, out)
            except gzip.BadGzipFile as error:
                # It begins as gzip does: what is said to be none comes after the end of that.
                if "Not a gzipped file" not in str(error):
                    raise
                raise GranuleError(
                    f"{name} cannot be read: it is gzip, and after its end other bytes follow: fetch it again, or cut them off"
                ) from error
        return [target]
    members = []
    with zipfile.ZipFile(path) as archive:
        for number, info in enumerate(archive.infolist()):
            base = info.filename.replace("\\", "/").rsplit("/", 1)[-1]
            if info.is_dir() or not base or base.startswith(".") or "__MACOSX" in info.filename:
                continue
            if info.flag_bits & 1:
                raise GranuleError(f"{name} cannot be read: it is a ZIP with a password")
            target = folder / str(number) / base
            target.parent.mkdir()
            with archive.open(info) as source, target.open("wb") as out:
                shutil.copyfileobj(source, out)
            if _is_data(target):
                members.append(target)
    if not members:
        raise GranuleError(f"{name} cannot be read: it is a ZIP that holds no file of HDF5, netCDF or GRIB")
    return members


def _is_data(path: Path) -> bool:
    with path.open("rb") as file:
        begin = file.read(8)
    return begin.startswith((HDF5, b"CDF", GRIB, ZIP, GZIP))
