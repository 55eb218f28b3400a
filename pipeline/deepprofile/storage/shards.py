"""Shards of Zarr 3, encoded and decoded in the calling thread, outside of the interpreter's lock.

A shard is an object of chunks, one after the other, and an index at its end: of each chunk, in C order, where it begins and how
long it is (little-endian 64-bit; all ones: not there), then their CRC-32C (Zarr 3, codec ``sharding_indexed``). Any reader of
Zarr opens what is written here. Chunks are compressed by Blosc in one thread: the same values give the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product as combinations
from math import ceil, prod
from typing import Any, Final

import google_crc32c
import numpy as np
from numcodecs import blosc
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from deepprofile.storage.packing import Packing

# Bit planes of 16-bit codes compress well, and level 1 is as good as any on them.
COMPRESSOR: Final = b"zstd"
LEVEL: Final = 1
# A chunk is one block of Blosc, unless it is larger than this: its bit planes are as long as they can be.
BLOCK: Final = 2**18
NOT_THERE: Final = 2**64 - 1
_CHECKSUM: Final = 4
_ENTRY: Final = 16
Region = tuple[slice, ...]


class DamagedShardError(Exception):
    """A shard whose index or chunks are not what was written."""


def codec() -> BloscCodec:
    """The compressor of all chunks, as Zarr names it."""
    return BloscCodec(cname="zstd", clevel=LEVEL, shuffle="bitshuffle", blocksize=BLOCK)


@dataclass(frozen=True)
class ShardedArray:
    """What has to be known of an array to write and read its shards.

    Attributes
    ----------
    shape, shards, chunks
        Sizes along each dimension; a shard has a whole number of chunks, and may reach beyond the array.
    dtype
        Of what is stored.
    fill
        What stands for values that were never written.
    packing
        How the stored integers are decoded; None where values are stored as they are.
    separator
        Between the numbers in the names of objects.
    """

    shape: tuple[int, ...]
    shards: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: str
    fill: float | int
    packing: Packing | None = None
    separator: str = "/"

    @cached_property
    def grid(self) -> tuple[int, ...]:
        """Chunks in a shard along each dimension."""
        return tuple(s // c for s, c in zip(self.shards, self.chunks, strict=True))

    @cached_property
    def index_size(self) -> int:
        """Bytes of the index of a shard."""
        return prod(self.grid) * _ENTRY + _CHECKSUM

    @property
    def read_dtype(self) -> np.dtype[Any]:
        """Of values as they are read."""
        return np.dtype(np.float32 if self.packing is not None else self.dtype)

    def encode(self, values: NDArray[Any]) -> bytes:
        """The shard of these values, which begin where it begins and are cut off where the array ends.

        Of a packed array, values that have the type of the stored integers are codes already.

        Raises
        ------
        PackingError
            For a value that the stored integers cannot hold.
        """
        index = np.full((prod(self.grid), 2), NOT_THERE, "<u8")
        parts, at = [], 0
        everything = tuple((0, n) for n in values.shape)
        for position, _, of_values in _chunk_places(self.chunks, self.grid, everything):
            chunk = self._stored(values[of_values])
            if self._is_empty(chunk):
                continue
            encoded = self._compressed(chunk)
            index[position] = at, len(encoded)
            parts.append(encoded)
            at += len(encoded)
        closing = index.tobytes()
        return b"".join([*parts, closing, google_crc32c.value(closing).to_bytes(_CHECKSUM, "little")])

    def encode_chunk(self, values: NDArray[Any]) -> bytes:
        """The chunk of these values, for an array whose chunks are objects of their own; see ``encode``."""
        return self._compressed(self._stored(values))

    def _compressed(self, chunk: NDArray[Any]) -> bytes:
        """A chunk, or what of it lies within the array."""
        if chunk.shape != self.chunks:
            whole = np.full(self.chunks, self.fill, self.dtype)
            whole[tuple(map(slice, chunk.shape))] = chunk
            chunk = whole
        encoded: bytes = blosc.compress(chunk, COMPRESSOR, LEVEL, blosc.BITSHUFFLE, BLOCK)
        return encoded

    def _stored(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values as they are stored, contiguous."""
        if self._translates(values):
            assert self.packing is not None
            return self.packing.encode(values)
        return np.ascontiguousarray(values, self.dtype)

    def _translates(self, values: NDArray[Any]) -> bool:
        """Whether an array holds real numbers where integers are stored."""
        return self.packing is not None and values.dtype != np.dtype(self.dtype)

    def _is_empty(self, chunk: NDArray[Any]) -> bool:
        """Whether a chunk is nothing but fill; such a one is left out."""
        first = chunk.flat[0]
        if self.fill != self.fill:
            return bool(np.isnan(first)) and bool(np.isnan(chunk).all())
        return bool(first == self.fill) and bool((chunk == self.fill).all())

    def index_of(self, closing: bytes) -> NDArray[np.uint64]:
        """The index (chunk, 2) from the last ``index_size`` bytes of a shard.

        Raises
        ------
        DamagedShardError
            Where they are not as they were written.
        """
        body, checksum = closing[:-_CHECKSUM], closing[-_CHECKSUM:]
        if len(closing) != self.index_size or google_crc32c.value(body) != int.from_bytes(checksum, "little"):
            raise DamagedShardError("the index of a shard is damaged")
        return np.frombuffer(body, "<u8").reshape(-1, 2)

    def chunks_in(self, region: Region) -> Sequence[tuple[int, Region, Region]]:
        """Chunks of a shard that a region, relative to the shard, needs.

        Position in the index, what is needed of the chunk, and where that goes in the region.
        """
        return _chunk_places(self.chunks, self.grid, tuple((part.start, part.stop) for part in region))

    def decode(self, encoded: Any, needed: Region, out: NDArray[Any]) -> None:
        """Put what is needed of an encoded chunk into ``out``, whatever its strides; as codes where it has their type.

        Raises
        ------
        DamagedShardError
            Where it is not a chunk of this array.
        """
        try:
            content = blosc.decompress(encoded)
        except RuntimeError as error:
            raise DamagedShardError(f"a chunk cannot be decompressed ({error})") from error
        if len(content) != prod(self.chunks) * np.dtype(self.dtype).itemsize:
            raise DamagedShardError(f"a chunk holds {len(content)} bytes, and should hold {self.chunks} of {self.dtype}")
        part = np.frombuffer(content, self.dtype).reshape(self.chunks)[needed]
        if self._translates(out):
            assert self.packing is not None
            self.packing.decode(part, out)
        else:
            out[...] = part

    def fill_with_nothing(self, out: NDArray[Any]) -> None:
        """Put into ``out`` what stands for values that were never written."""
        out[...] = np.nan if self._translates(out) else self.fill


@lru_cache(maxsize=1024)
def _chunk_places(
    chunks: tuple[int, ...], grid: tuple[int, ...], region: tuple[tuple[int, int], ...]
) -> tuple[tuple[int, Region, Region], ...]:
    """See ``ShardedArray.chunks_in``; a worker meets few regions, again and again."""
    found = []
    spans = [range(low // c, ceil(high / c)) for (low, high), c in zip(region, chunks, strict=True)]
    for place in combinations(*spans):
        position = 0
        of_chunk, of_region = [], []
        for p, c, g, (first, after) in zip(place, chunks, grid, region, strict=True):
            position = position * g + p
            low, high = max(p * c, first), min((p + 1) * c, after)
            of_chunk.append(slice(low - p * c, high - p * c))
            of_region.append(slice(low - first, high - first))
        found.append((position, tuple(of_chunk), tuple(of_region)))
    return tuple(found)
