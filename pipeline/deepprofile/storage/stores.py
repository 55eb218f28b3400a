"""Zarr stores in versions: templates, whole-shard writes, and the pointer to what readers see.

Knows nothing of soil moisture. A root is any URL; a store below it has versions, and a pointer says which one is current:

    <root>/<store>/<version>.zarr
    <root>/current.json          {"<store>": "<version>", ...}; keys that begin with @ are the lease's own
"""

from __future__ import annotations

import os
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product as combinations
from math import ceil, prod
from typing import Any, Final

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec
from zarr.errors import ContainsArrayError, ContainsGroupError

from deepprofile.storage.documents import DamagedDocumentError, read_document
from deepprofile.storage.filesystems import filesystem, is_local, join, local_path, zarr_store
from deepprofile.storage.lease import DURATION_SECONDS, GUARDED_FORMAT_KEY, OURS, Lease
from deepprofile.storage.objects import exists as object_exists

POINTER: Final = "current.json"
# Values are rounded to a power of two: exact in single precision, and the zeros compress.
COMPRESSION_LEVEL: Final = 3
_filters_of_warnings = threading.Lock()


class StoreError(Exception):
    """A store that cannot be used as asked; the message says what to do."""


@dataclass(frozen=True)
class Variable:
    """An array of a template.

    ``shards`` and ``chunks`` are sizes along ``dims``; a coordinate has neither and is written by the driver. ``precision``:
    values are rounded to a multiple of it, a power of two.
    """

    dims: tuple[str, ...]
    dtype: str
    shards: tuple[int, ...] | None = None
    chunks: tuple[int, ...] | None = None
    fill: float | int | None = None
    precision: float | None = None
    attrs: Mapping[str, Any] = field(default_factory=dict)
    values: NDArray[Any] | None = None


@dataclass(frozen=True)
class Template:
    """A store before anything is computed: sizes of the dimensions, arrays, attributes."""

    sizes: Mapping[str, int]
    variables: Mapping[str, Variable]
    attrs: Mapping[str, Any]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of an array."""
        return tuple(self.sizes[dim] for dim in self.variables[name].dims)

    def shard_shape(self, name: str) -> tuple[int, ...]:
        """Shape of the array's shards, those at the end included: a shard may be larger than what is left of the array."""
        variable = self.variables[name]
        if variable.shards is None:
            raise StoreError(f"{name} is a coordinate: it has no shards")
        return variable.shards

    def nbytes(self) -> int:
        """Bytes of all arrays, uncompressed."""
        return sum(prod(self.shape(name)) * np.dtype(v.dtype).itemsize for name, v in self.variables.items())


def create(url: str, template: Template) -> None:
    """Write metadata and coordinates of a store; what is there already with the same metadata stays."""
    store = zarr_store(url)
    # Another driver, that believes the run to be its own, may make the same store at the same time, with the same content.
    with suppress(ContainsGroupError):
        if not exists(url):
            zarr.create_group(store, attributes=dict(template.attrs))
    group = zarr.open_group(store, mode="r+")
    if group.attrs.asdict() != dict(template.attrs):
        group.attrs.put(dict(template.attrs))
    for name in sorted(template.variables):
        variable = template.variables[name]
        attrs = dict(variable.attrs)
        if variable.precision is not None:
            attrs["precision"] = variable.precision
        shape = template.shape(name)
        if name not in group:
            # A coordinate is one chunk; everything else is made of shards.
            single = tuple(max(size, 1) for size in shape)
            with suppress(ContainsArrayError):
                group.create_array(
                    name,
                    shape=shape,
                    dtype=variable.dtype,
                    shards=variable.shards,
                    chunks=variable.chunks or single,
                    compressors=[ZstdCodec(level=COMPRESSION_LEVEL)],
                    dimension_names=variable.dims,
                    attributes=attrs,
                    fill_value=variable.fill,
                )
        _check_same(url, name, group[name], shape, variable)
        if variable.values is not None:
            write_coordinate(url, name, variable.values)
    # One read opens the store; this is optional in Zarr 3, so nothing here requires it.
    # Filters of warnings are the whole process's: one thread at a time changes them.
    with _filters_of_warnings, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(store)


def _check_same(url: str, name: str, array: Any, shape: tuple[int, ...], variable: Variable) -> None:
    found = (array.shape, array.shards, array.dtype)
    expected = (shape, variable.shards, np.dtype(variable.dtype))
    if found != expected:
        raise StoreError(
            f"{url} has {name} with shape, shards and type {found}, this run would write {expected}: remove it first"
        )


def exists(url: str) -> bool:
    """Whether there is a store at a URL."""
    return object_exists(join(url, "zarr.json"))


def write_coordinate(url: str, name: str, values: NDArray[Any]) -> None:
    """Write a small array whole (what the driver learns at the end of a stage)."""
    zarr.open_array(zarr_store(join(url, name)), mode="r+")[...] = values


def quantize(values: NDArray[Any], precision: float | None) -> NDArray[Any]:
    """Round to a multiple of the precision, half to even."""
    if precision is None:
        return values
    step = np.asarray(precision, values.dtype)
    # In place: beside the values there is one array of their size, not two.
    rounded = np.asarray(values / step)
    np.rint(rounded, out=rounded)
    rounded *= step
    return rounded


def write_shards(url: str, name: str, start: Sequence[int], values: NDArray[Any]) -> int:
    """Write a region that consists of whole shards; returns the bytes before compression.

    Raises
    ------
    StoreError
        Where the region begins or ends within a shard.
    """
    array = zarr.open_array(zarr_store(join(url, name)), mode="r+")
    assert array.shards is not None
    stop = [a + n for a, n in zip(start, values.shape, strict=True)]
    for a, b, size, shard in zip(start, stop, array.shape, array.shards, strict=True):
        if a % shard or (b % shard and b != size):
            raise StoreError(f"{name} would be written from {list(start)} to {stop}, its shards are {list(array.shards)}")
    region = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    precision = array.attrs.get("precision")
    array[region] = quantize(values, float(precision) if isinstance(precision, (int, float)) else None)
    return values.nbytes


def read_region(url: str, name: str, region: tuple[slice, ...]) -> NDArray[Any]:
    """A part of an array."""
    return np.asarray(zarr.open_array(zarr_store(join(url, name)), mode="r")[region])


def shard_objects(name: str, start: Sequence[int], shape: Sequence[int], shards: Sequence[int]) -> Iterator[str]:
    """Names, below the store, of the objects that hold a region."""
    spans = [range(a // s, ceil((a + n) / s)) for a, n, s in zip(start, shape, shards, strict=True)]
    for index in combinations(*spans):
        yield join(name, "c", *map(str, index))


def sweep(url: str) -> None:
    """Remove what a process that was killed left half-written below a local folder."""
    if not is_local(url):
        return
    for folder, _, names in os.walk(local_path(url)):
        for name in names:
            if name.endswith((".partial", ".part")):
                with suppress(FileNotFoundError):
                    os.remove(os.path.join(folder, name))


@dataclass(frozen=True)
class Root:
    """Where all stores of one data set live."""

    url: str

    def version(self, store: str, version: str) -> str:
        """URL of a version of a store."""
        return join(self.url, store, f"{version}.zarr")

    def current(self) -> dict[str, str]:
        """The current version of each store.

        Raises
        ------
        deepprofile.storage.documents.DocumentError
            Where the pointer is damaged, or of a newer format.
        """
        url = join(self.url, POINTER)
        try:
            found = read_document(url, key=GUARDED_FORMAT_KEY) or {}
            versions = {store: version for store, version in found.items() if not store.startswith(OURS)}
            for store, version in versions.items():
                if not isinstance(version, str) or not version:
                    raise DamagedDocumentError(f"{url} is damaged: the version of {store} is {version!r}")
        except DamagedDocumentError as error:
            raise DamagedDocumentError(
                f"{error}; what was published last is said under 'current' in the newest file below "
                f"{join(self.url, 'publications')}: write that into the pointer"
            ) from error
        return versions

    def open(self, store: str) -> str:
        """URL of the current version of a store.

        Raises
        ------
        StoreError
            Where it has not been published.
        """
        version = self.current().get(store)
        if version is None:
            raise StoreError(f"{self.url} has no published store {store!r}: run the stage that makes it first")
        return self.version(store, version)

    def lease(self, on_wait: Callable[[str], None] | None = None, duration: float = DURATION_SECONDS) -> Lease:
        """The lease that a run takes before it publishes; a context manager.

        Raises
        ------
        StoreError
            Where nothing can be written to the root.
        """
        check_writable(self.url)
        return Lease(self.url, POINTER, duration=duration, on_wait=on_wait)

    def publish(self, versions: Mapping[str, str], lease: Lease) -> None:
        """Move the pointer: from now on readers see these versions.

        Raises
        ------
        StoreError
            Where a version has fewer days than the one that readers see now.
        LeaseLostError
            Where another run has taken the root over.
        """
        lease.check()
        before = self.current()
        for store, version in versions.items():
            if store in before and before[store] != version:
                self._check_not_shorter(store, before[store], version)
        after = before | dict(versions)
        if after != before:
            lease.replace_guarded(after)

    def _check_not_shorter(self, store: str, old: str, new: str) -> None:
        days = [_days(self.version(store, version)) for version in (old, new)]
        if days[0] is None or days[1] is None:
            return
        lost = np.setdiff1d(days[0], days[1])
        if lost.size:
            raise StoreError(
                f"{store}: the new version lacks {lost.size} days that readers have now ({_day(lost[0])} to {_day(lost[-1])}); "
                "widen 'period' in the configuration, or publish to another root"
            )


def _days(url: str) -> NDArray[Any] | None:
    if not exists(url):
        return None
    if "time" not in zarr.open_group(zarr_store(url), mode="r"):
        return None
    return np.asarray(zarr.open_array(zarr_store(join(url, "time")), mode="r")[...])


def _day(days: Any) -> str:
    return str(np.datetime64(int(days), "D"))


def check_writable(url: str) -> None:
    """Raise a StoreError where nothing can be written below a URL."""
    probe = join(url, f".probe-{uuid.uuid4().hex}")
    fs, path = filesystem(probe)
    try:
        if is_local(url):
            fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        fs.pipe_file(path, b"probe")
        fs.rm_file(path)
    except OSError as error:
        raise StoreError(f"nothing can be written to {url} ({error.strerror or error}): choose another root") from error
