"""Shards as any reader of Zarr sees them, and what becomes of damaged ones."""

from pathlib import Path

import numpy as np
import pytest
import zarr
from deepprofile.storage import stores
from deepprofile.storage.objects import read_range, remove_below
from deepprofile.storage.packing import Packing
from deepprofile.storage.stores import StoreError, Template, Variable, create, read_region, write_shards

KINDS = {
    "float32": (None, np.float32(np.nan)),
    "float64": (None, 0.0),
    "int8": (None, 3),
    "uint16": (None, 0),
    "packed": (Packing("int16", 2.0**-10), None),
}
# Arrays that end within a shard and within a chunk, with chunks as large as shards, and with axes of one.
LAYOUTS = [
    ((7, 10), (4, 6), (2, 3)),
    ((7, 10), (4, 6), (4, 6)),
    ((5,), (8,), (2,)),
    ((3, 9, 5, 4), (2, 4, 4, 4), (1, 2, 4, 2)),
]


def make(url, kind, layout):
    packing, fill = KINDS[kind]
    shape, shards, chunks = layout
    dims = tuple("abcd"[: len(shape)])
    dtype = "float32" if kind == "packed" else kind
    variable = Variable(dims, dtype, shards=shards, chunks=chunks, fill=fill, packing=packing)
    create(url, Template(sizes=dict(zip(dims, shape, strict=True)), variables={"v": variable}, attrs={}))


def some(kind, shape, seed=0):
    rng = np.random.default_rng(seed)
    if kind in ("int8", "uint16"):
        return rng.integers(0, 100, shape).astype(kind)
    found = rng.normal(0.2, 0.1, shape).astype("float32" if kind == "packed" else kind)
    return np.rint(found * 2**10) / found.dtype.type(2**10)


def raw(url):
    """The array as Zarr reads it, decoded by hand where it is packed."""
    array = zarr.open_array(f"{url}/v", mode="r")
    codes, scale = array[...], array.attrs.get("scale_factor")
    return codes if scale is None else np.where(codes == array.fill_value, np.nan, codes * scale)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_zarr_reads_what_is_written(tmp_path, kind, layout):
    url, given = str(tmp_path / "a.zarr"), some(kind, layout[0])
    make(url, kind, layout)
    write_shards(url, "v", [0] * given.ndim, given)
    np.testing.assert_array_equal(raw(url), given)
    np.testing.assert_array_equal(read_region(url, "v", (slice(None),)), given)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_zarr_writes_is_read(tmp_path, layout):
    url, given = str(tmp_path / "a.zarr"), some("float64", layout[0])
    make(url, "float64", layout)
    zarr.open_array(f"{url}/v", mode="r+")[...] = given
    np.testing.assert_array_equal(read_region(url, "v", (slice(None),)), given)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("everywhere", [False, True])
def test_any_region_is_read_as_zarr_reads_it(tmp_path, request, kind, everywhere):
    layout = LAYOUTS[3]
    url, given = (f"memory://{request.node.name}" if everywhere else str(tmp_path / "a.zarr")), some(kind, layout[0])
    make(url, kind, layout)
    # One shard is never written.
    write_shards(url, "v", (0, 0, 0, 0), given[:2])
    expected = given.astype(np.float32) if kind == "packed" else given.copy()
    expected[2:] = np.nan if kind == "packed" else KINDS[kind][1]
    rng = np.random.default_rng(1)
    for _ in range(40):
        region = tuple(slice(*sorted(rng.integers(0, n + 1, 2).tolist())) for n in given.shape)
        np.testing.assert_array_equal(read_region(url, "v", region), expected[region])
    if everywhere:
        remove_below(url)


def test_chunks_of_nothing_are_left_out_and_bytes_are_the_same_each_time(tmp_path):
    layout, contents = ((8, 8), (8, 8), (2, 8)), []
    for name in ("a.zarr", "b.zarr"):
        url, given = str(tmp_path / name), np.full((8, 8), np.nan, np.float32)
        make(url, "float32", layout)
        given[2] = 0.25
        write_shards(url, "v", (0, 0), given)
        contents.append((tmp_path / name / "v/c/0/0").read_bytes())
        np.testing.assert_array_equal(raw(url), given)
    assert contents[0] == contents[1]
    index = np.frombuffer(contents[0][-4 - 4 * 16 : -4], "<u8").reshape(4, 2)
    assert (index[[0, 2, 3]] == 2**64 - 1).all()
    assert index[1, 1] < 100


def test_a_part_of_a_shard_takes_its_index_and_the_chunks_that_are_needed(tmp_path, monkeypatch):
    url, given = str(tmp_path / "a.zarr"), some("float64", (64, 64))
    make(url, "float64", ((64, 64), (64, 64), (8, 8)))
    write_shards(url, "v", (0, 0), given)
    asked = []
    monkeypatch.setattr(stores, "read_bytes", lambda _: pytest.fail("the whole shard was read"))
    monkeypatch.setattr(stores, "read_range", lambda *args: asked.append(args[1:]) or read_range(*args))
    np.testing.assert_array_equal(read_region(url, "v", (slice(3, 20), slice(9, 15))), given[3:20, 9:15])
    # Chunks that lie near each other are one request.
    assert len(asked) == 2
    assert asked[0] == (-(64 * 16 + 4),)


def _flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0xFF
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(("place", "said"), [(-1, "the index of a shard is damaged"), (-20, "the index of a shard is damaged")])
def test_a_damaged_shard_is_said_with_what_to_do(tmp_path, place, said):
    url = str(tmp_path / "a.zarr")
    make(url, "float64", LAYOUTS[0])
    write_shards(url, "v", (0, 0), some("float64", (4, 6)))
    _flip(tmp_path / "a.zarr/v/c/0/0", place)
    with pytest.raises(StoreError, match=rf"v/c/0/0 is damaged: {said}; remove this version of the store and the records"):
        read_region(url, "v", (slice(0, 4), slice(0, 6)))


def test_a_shard_that_is_cut_off_is_damaged(tmp_path):
    url, path = str(tmp_path / "a.zarr"), tmp_path / "a.zarr/v/c/0/0"
    make(url, "float64", LAYOUTS[0])
    write_shards(url, "v", (0, 0), some("float64", (4, 6)))
    path.write_bytes(path.read_bytes()[:10])
    with pytest.raises(StoreError, match="is damaged"):
        read_region(url, "v", (slice(0, 4), slice(0, 6)))


def test_a_store_that_is_removed_while_it_is_read_is_no_store_without_values(tmp_path):
    url = str(tmp_path / "a.zarr")
    make(url, "float64", LAYOUTS[0])
    write_shards(url, "v", (0, 0), some("float64", (4, 6)))
    assert read_region(url, "v", (slice(0, 1), slice(0, 1))).size
    remove_below(url)
    with pytest.raises(FileNotFoundError):
        read_region(url, "v", (slice(0, 1), slice(0, 1)))
