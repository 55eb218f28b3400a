"""Zarr stores: templates, whole-shard writes, and reads that decode in one pass. Knows nothing of soil moisture."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import product as combinations
from math import ceil, prod
from typing import Any, Final

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.errors import ContainsArrayError, ContainsGroupError

from deepprofile.storage.filesystems import is_local, join, local_path, zarr_store
from deepprofile.storage.objects import at_the_same_time, read_bytes, read_range, write_bytes
from deepprofile.storage.objects import exists as object_exists
from deepprofile.storage.packing import Packing, PackingError
from deepprofile.storage.shards import NOT_THERE, DamagedShardError, Region, ShardedArray, codec

# How arrays are laid out and packed, as an attribute of every store. 1, which was never written down: float32, rounded; 2:
# packed, with the whole record in one store; 3: by calendar year; 4: what strangers read below ``public``, with what CF-1.11
# and ACDD-1.3 ask for.
LAYOUT: Final = 4
LAYOUT_ATTRIBUTE: Final = "store_layout"
# A shard is read whole where a region needs more of its chunks than this share; else its index and the chunks.
_WHOLE: Final = 0.25
# Chunks that lie no further apart than so many bytes are read by one request.
_GAP: Final = 2**16
_filters_of_warnings = threading.Lock()


class StoreError(Exception):
    """A store that cannot be used as asked; the message says what to do."""


class OldLayoutError(StoreError):
    """A store of an earlier layout, which this version of the software does not read."""


@dataclass(frozen=True)
class Variable:
    """An array of a template.

    ``dtype``: of the values as they are read. ``shards`` and ``chunks`` are sizes along ``dims``; a coordinate has neither and
    is written by the driver; without shards each chunk is an object. ``packing``: the integers by which real numbers are
    stored, with their own fill. ``separator``: between the numbers in the names of objects; with ``"/"`` each number but the
    last is a folder on a disk.
    """

    dims: tuple[str, ...]
    dtype: str
    shards: tuple[int, ...] | None = None
    chunks: tuple[int, ...] | None = None
    fill: float | int | None = None
    packing: Packing | None = None
    attrs: Mapping[str, Any] = field(default_factory=dict)
    values: NDArray[Any] | None = None
    separator: str = "/"

    @property
    def objects(self) -> tuple[int, ...] | None:
        """Sizes of what is written as one object; None for a coordinate."""
        return self.shards or self.chunks

    @property
    def stored_dtype(self) -> str:
        """Of what is in the shards."""
        return self.dtype if self.packing is None else self.packing.dtype

    @property
    def stored_fill(self) -> float | int | None:
        """What stands in the shards for values that were never written."""
        return self.fill if self.packing is None else self.packing.fill

    @property
    def stored_attributes(self) -> dict[str, Any]:
        """Attributes, with those by which readers decode."""
        return {**self.attrs, **({} if self.packing is None else self.packing.attributes)}


@dataclass(frozen=True)
class Template:
    """A store before anything is computed: sizes of the dimensions, arrays, attributes.

    ``description``: attributes for people and catalogues, on which nothing that is computed depends. ``groups``: attributes of
    the groups in the store; their arrays are named ``group/array``, and where a dimension has a size of its own in a group,
    ``sizes`` names that ``group/dimension``.
    """

    sizes: Mapping[str, int]
    variables: Mapping[str, Variable]
    attrs: Mapping[str, Any]
    description: Mapping[str, Any] = field(default_factory=dict)
    groups: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of an array."""
        group = name.rpartition("/")[0]
        own = (f"{group}/{dim}" for dim in self.variables[name].dims)
        return tuple(self.sizes[key if key in self.sizes else key.rpartition("/")[2]] for key in own)

    def shard_shape(self, name: str) -> tuple[int, ...]:
        """Shape of the array's shards, those at the end included: a shard may be larger than what is left of the array."""
        variable = self.variables[name]
        if variable.shards is None:
            raise StoreError(f"{name} is a coordinate: it has no shards")
        return variable.shards

    def nbytes(self) -> int:
        """Bytes of all arrays, uncompressed."""
        return sum(prod(self.shape(name)) * np.dtype(v.stored_dtype).itemsize for name, v in self.variables.items())


def create(url: str, template: Template) -> None:
    """Write metadata and coordinates of a store; what is there already with the same metadata stays."""
    store, attributes = zarr_store(url), {**template.description, **template.attrs, LAYOUT_ATTRIBUTE: LAYOUT}
    # Another driver, that believes the run to be its own, may make the same store at the same time, with the same content.
    with suppress(ContainsGroupError):
        if not exists(url):
            zarr.create_group(store, attributes=attributes)
    group = zarr.open_group(store, mode="r+")
    if group.attrs.asdict() != attributes:
        group.attrs.put(attributes)
    for name, said in template.groups.items():
        own = {**template.description, **said, LAYOUT_ATTRIBUTE: LAYOUT}
        with suppress(ContainsGroupError):
            if name not in group:
                group.create_group(name, attributes=own)
        if group[name].attrs.asdict() != own:
            group[name].attrs.put(own)
    calls = [partial(_create_array, url, group, template, name) for name in sorted(template.variables)]
    at_the_same_time(calls, local=is_local(url))
    # One read opens the store; this is optional in Zarr 3, so nothing here requires it.
    # Filters of warnings are the whole process's: one thread at a time changes them.
    with _filters_of_warnings, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(store)
    _described.cache_clear()
    _described_chunks.cache_clear()
    _written.cache_clear()


def _create_array(url: str, group: zarr.Group, template: Template, name: str) -> None:
    """Metadata of an array, and its values where the template has them."""
    variable, shape = template.variables[name], template.shape(name)
    if name not in group:
        # A coordinate is one chunk; everything else is made of shards.
        single = tuple(max(size, 1) for size in shape)
        with suppress(ContainsArrayError):
            group.create_array(
                name,
                shape=shape,
                dtype=variable.stored_dtype,
                shards=variable.shards,
                chunks=variable.chunks or single,
                compressors=[codec()],
                dimension_names=variable.dims,
                attributes=variable.stored_attributes,
                fill_value=variable.stored_fill,
                chunk_key_encoding={"name": "default", "separator": variable.separator},
            )
    _check_same(url, name, group[name], shape, variable)
    if variable.values is not None:
        write_coordinate(url, name, variable.values)


def _check_same(url: str, name: str, array: Any, shape: tuple[int, ...], variable: Variable) -> None:
    found = (array.shape, array.shards, array.dtype)
    expected = (shape, variable.shards, np.dtype(variable.stored_dtype))
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


def check_layout(url: str) -> None:
    """Make sure that a store has the layout that is read here.

    Raises
    ------
    OldLayoutError
        Where it has an earlier one.
    StoreError
        Where it has a later one, or is no store.
    """
    if not exists(url):
        raise StoreError(f"{url} is no store: it has been removed, or was never made")
    check_layout_attribute(url, zarr.open_group(zarr_store(url), mode="r").attrs.asdict())


def check_layout_attribute(url: str, attributes: Mapping[str, Any]) -> None:
    """As ``check_layout``, given the attributes of the store."""
    found: Any = attributes.get(LAYOUT_ATTRIBUTE, 1)
    known = f"(layout {found}; this version reads {LAYOUT})"
    if found < LAYOUT:
        raise OldLayoutError(
            f"{url} was written by an earlier version of this software {known}: run the pipeline into another root, and let "
            "readers use the present one until that is complete"
        )
    if found > LAYOUT:
        raise StoreError(f"{url} was written by a later version of this software {known}: upgrade")


@lru_cache(maxsize=512)
def _described(url: str, name: str) -> ShardedArray | None:
    """What has to be known of an array to read and write it; None for one without shards. A version never changes."""
    array = _opened(url, name)
    if array.shards is None:
        return None
    attributes, dtype = array.attrs.asdict(), np.dtype(array.dtype).name
    packing, separator = Packing.of(dtype, attributes), _separator(array)
    return ShardedArray(array.shape, array.shards, array.chunks, dtype, array.fill_value, packing, separator)


@lru_cache(maxsize=512)
def _described_chunks(url: str, name: str) -> ShardedArray:
    """The same of an array whose chunks are objects of their own."""
    array = _opened(url, name)
    attributes, dtype = array.attrs.asdict(), np.dtype(array.dtype).name
    packing, separator = Packing.of(dtype, attributes), _separator(array)
    return ShardedArray(array.shape, array.chunks, array.chunks, dtype, array.fill_value, packing, separator)


def _separator(array: Any) -> str:
    return str(array.metadata.chunk_key_encoding.separator)


def _opened(url: str, name: str) -> Any:
    return zarr.open_array(zarr_store(join(url, name)), mode="r")


def write_shards(url: str, name: str, start: Sequence[int], values: NDArray[Any], *, sparse: bool = False) -> int:
    """Write a region that consists of whole shards; returns the bytes of what is stored, before compression.

    ``values``: of a packed array, real numbers, or the stored integers, which are told apart by their type. ``sparse``: shards
    with nothing but fill are not written: readers find the same, and there are fewer objects to take over.

    Raises
    ------
    StoreError
        Where the region begins or ends within a shard, or a value does not fit into the integers of a packed array.
    """
    array = _described(url, name)
    if array is None:
        raise StoreError(f"{name} has no shards")
    stop = [a + n for a, n in zip(start, values.shape, strict=True)]
    for a, b, size, shard in zip(start, stop, array.shape, array.shards, strict=True):
        if a % shard or b > size or (b % shard and b != size):
            raise StoreError(f"{name} would be written from {list(start)} to {stop}, its shards are {list(array.shards)}")
    for index in combinations(*(range(a // s, ceil(b / s)) for a, b, s in zip(start, stop, array.shards, strict=True))):
        part = tuple(slice(i * s - a, (i + 1) * s - a) for i, s, a in zip(index, array.shards, start, strict=True))
        try:
            content = array.encode(values[part])
        except PackingError as error:
            raise StoreError(f"{join(url, name)}: {error}") from error
        if not sparse or len(content) > array.index_size:
            write_bytes(_object(url, name, index, array.separator), content, durable=False)
    return values.size * np.dtype(array.dtype).itemsize


def write_chunks(url: str, name: str, start: Sequence[int], values: NDArray[Any]) -> int:
    """As ``write_shards``, of an array whose chunks are objects of their own: a region of whole chunks."""
    array = _described_chunks(url, name)
    spans = [range(a // c, ceil((a + n) / c)) for a, n, c in zip(start, values.shape, array.chunks, strict=True)]
    for index in combinations(*spans):
        part = tuple(slice(i * c - a, (i + 1) * c - a) for i, c, a in zip(index, array.chunks, start, strict=True))
        try:
            content = array.encode_chunk(values[part])
        except PackingError as error:
            raise StoreError(f"{join(url, name)}: {error}") from error
        write_bytes(_object(url, name, index, array.separator), content, durable=False)
    return int(values.size * np.dtype(array.dtype).itemsize)


def _object(url: str, name: str, index: Sequence[int], separator: str) -> str:
    return join(url, name, separator.join(["c", *map(str, index)]))


def read_region(url: str, name: str, region: tuple[slice, ...], out: NDArray[Any] | None = None) -> NDArray[Any]:
    """A part of an array, decoded: float32 where it is packed, with NaN where values are missing.

    ``region``: of the first dimensions, or of all. ``out``: where it goes, an array of the region's shape, which is returned;
    of a packed array, float32, or of the stored integers, which are not decoded then.

    Raises
    ------
    StoreError
        Where a shard is damaged.
    FileNotFoundError
        Where there is no such array (any more).
    """
    array = _described(url, name)
    if array is None:
        found = np.asarray(_opened(url, name)[region])
        if out is None:
            return found
        out[...] = found
        return out
    whole = (*region, *[slice(None)] * (len(array.shape) - len(region)))
    bounds = [part.indices(size)[:2] for part, size in zip(whole, array.shape, strict=True)]
    out = np.empty([max(b - a, 0) for a, b in bounds], array.read_dtype) if out is None else out
    if not out.size:
        return out
    calls = []
    for index in combinations(*(range(a // s, ceil(b / s)) for (a, b), s in zip(bounds, array.shards, strict=True))):
        inside, target = [], []
        for i, s, (a, b) in zip(index, array.shards, bounds, strict=True):
            low, high = max(i * s, a), min((i + 1) * s, b)
            inside.append(slice(low - i * s, high - i * s))
            target.append(slice(low - a, high - a))
        calls.append(partial(_read_shard, array, _object(url, name, index, array.separator), tuple(inside), out[tuple(target)]))
    if not all(at_the_same_time(calls, local=is_local(url))):
        # Nothing was ever written there; unless the whole store has been removed meanwhile.
        _opened(url, name)
    return out


def _read_shard(array: ShardedArray, url: str, region: Region, out: NDArray[Any]) -> bool:
    """Put a region of a shard into ``out``; whether there is such a shard."""
    needed = array.chunks_in(region)
    try:
        if len(needed) > _WHOLE * prod(array.grid):
            content = read_bytes(url)
            pieces = (
                None if content is None else _Pieces(array.index_of(content[-array.index_size :]), {0: memoryview(content)})
            )
        else:
            closing = read_range(url, -array.index_size)
            pieces = (
                None if closing is None else _Pieces.of(url, array.index_of(closing), [position for position, *_ in needed])
            )
        if pieces is None:
            array.fill_with_nothing(out)
            return False
        for position, of_chunk, of_region in needed:
            encoded = pieces.chunk(position)
            if encoded is None:
                array.fill_with_nothing(out[of_region])
            else:
                array.decode(encoded, of_chunk, out[of_region])
    except DamagedShardError as error:
        raise StoreError(
            f"{url} is damaged: {error}; remove this version of the store and the records of its run, and run the stage that "
            "makes it again"
        ) from error
    return True


@dataclass(frozen=True)
class _Pieces:
    """Parts of a shard, by the place where they begin, and its index."""

    index: NDArray[np.uint64]
    parts: Mapping[int, memoryview]

    @classmethod
    def of(cls, url: str, index: NDArray[np.uint64], positions: Sequence[int]) -> _Pieces:
        """Those that hold some chunks."""
        spans: list[list[int]] = []
        for begin, size in sorted((int(a), int(n)) for a, n in index[list(positions)] if n != NOT_THERE):
            if spans and begin <= spans[-1][1] + _GAP:
                spans[-1][1] = max(spans[-1][1], begin + size)
            else:
                spans.append([begin, begin + size])
        found = at_the_same_time([partial(read_range, url, *span) for span in spans], local=is_local(url))
        parts = {begin: memoryview(part) for (begin, _), part in zip(spans, found, strict=True) if part is not None}
        if len(parts) < len(spans):
            raise DamagedShardError("it has gone while it was read")
        return cls(index, parts)

    def chunk(self, position: int) -> memoryview | None:
        """An encoded chunk; None for one that holds nothing but fill."""
        begin, size = self.index[position].tolist()
        if size == NOT_THERE:
            return None
        start = max(at for at in self.parts if at <= begin) if len(self.parts) > 1 else next(iter(self.parts))
        return self.parts[start][begin - start : begin - start + size]


def shard_objects(
    name: str, start: Sequence[int], shape: Sequence[int], shards: Sequence[int], separator: str = "/"
) -> Iterator[str]:
    """Names, below the store, of the objects that hold a region."""
    spans = [range(a // s, ceil((a + n) / s)) for a, n, s in zip(start, shape, shards, strict=True)]
    for index in combinations(*spans):
        yield join(name, separator.join(["c", *map(str, index)]))


def object_sizes(array: Any) -> tuple[int, ...]:
    """Sizes of what an array of zarr is written in: its shards, or chunks that are objects of their own."""
    return tuple(getattr(array, "shards", None) or getattr(array, "chunks", None) or ())


@lru_cache(maxsize=512)
def _written(url: str, name: str) -> tuple[tuple[int, ...], str]:
    array = _opened(url, name)
    return object_sizes(array), _separator(array)


def object_shape(url: str, name: str) -> tuple[int, ...]:
    """Sizes of what an array is written in. A version never changes: it is looked at once."""
    return _written(url, name)[0]


def objects_in(url: str, name: str, start: Sequence[int], shape: Sequence[int]) -> list[str]:
    """Names, below the store, of the objects that hold a region of an array."""
    return list(shard_objects(name, start, shape, *_written(url, name)))


def sweep(url: str) -> None:
    """Remove what a process that was killed left half-written below a local folder."""
    if not is_local(url):
        return
    for folder, _, names in os.walk(local_path(url)):
        for name in names:
            if name.endswith((".partial", ".part")):
                with suppress(FileNotFoundError):
                    os.remove(os.path.join(folder, name))
