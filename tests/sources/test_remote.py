"""Files of HDF5 in object storage, of which ranges are read."""

from itertools import pairwise

import fsspec
import numpy as np
import pytest
from deepprofile.sources import catalogue
from deepprofile.sources.catalogue import Cache, find_granules, read_granule
from deepprofile.sources.products import PRODUCTS, GranuleError, files
from deepprofile.storage.retries import StorageUnavailableError

from tests.support.granules import NAMES

DAYS = np.arange("2015-04-01", "2015-04-03", dtype="datetime64[D]")
SMALL = 2**12


@pytest.fixture
def bucket(granules, monkeypatch):
    """Granules of all products, of which blocks of 4 KiB are fetched."""
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    for name in NAMES:
        for path in sorted((granules / name).iterdir()):
            if "201504" in path.name:
                fs.pipe_file(f"/there/{name}/{path.name}", path.read_bytes())
    for module in (files, catalogue):
        monkeypatch.setattr(module, "BLOCK_BYTES", SMALL)
    yield fs
    fs.store.clear()


def first(name, tmp_path):
    """The first granule of a product, a window on it, and a cache."""
    product, cache = PRODUCTS[name], Cache(str(tmp_path / "cache"))
    (granule, *_) = find_granules(product, f"memory://there/{name}", DAYS, cache).by_day[str(DAYS[0])]
    return product, granule, product.grid.within([-97.8, 29.7, -96.8, 30.4]), cache


@pytest.mark.parametrize("name", NAMES)
def test_ranges_give_the_values_of_the_whole_file(bucket, granules, tmp_path, monkeypatch, name):
    product, granule, window, cache = first(name, tmp_path)
    asked = []
    monkeypatch.setattr(files, "read_range", lambda *span: asked.append(span[1:]) or catalogue.read_range(*span))
    found = read_granule(product, granule, window, DAYS[:1], cache)
    expected = product.read(granules / name / granule.name, window, DAYS[:1])
    np.testing.assert_array_equal(found.values, expected.values)
    assert np.isfinite(found.values).any()
    assert not (tmp_path / "cache").exists()
    assert all(start % SMALL == 0 and stop <= granule.size for start, stop in asked)
    # Of those that are kept, none is fetched twice at once.
    assert all(a != b for a, b in pairwise(asked))


def test_a_file_that_ends_within_the_first_block_takes_one_request(bucket, tmp_path, monkeypatch):
    for module in (files, catalogue):
        monkeypatch.setattr(module, "BLOCK_BYTES", 2**24)
    product, granule, window, cache = first("smap_l4", tmp_path)
    monkeypatch.setattr(files, "read_range", None)
    assert np.isfinite(read_granule(product, granule, window, DAYS[:1], cache).values).any()


def test_storage_that_does_not_answer_is_no_damaged_granule(bucket, tmp_path, monkeypatch):
    product, granule, window, cache = first("smap_l4", tmp_path)

    def no_answer(*_):
        raise StorageUnavailableError("no answer")

    monkeypatch.setattr(files, "read_range", no_answer)
    with pytest.raises(StorageUnavailableError, match="no answer"):
        read_granule(product, granule, window, DAYS[:1], cache)


def test_a_file_that_is_cut_off_while_it_is_read_is_said_to_have_changed(bucket, tmp_path, monkeypatch):
    product, granule, window, cache = first("smap_l4", tmp_path)
    monkeypatch.setattr(files, "read_range", lambda *_: b"")
    with pytest.raises(GranuleError, match=f"^{granule.name} has changed, or was removed, while it was read"):
        read_granule(product, granule, window, DAYS[:1], cache)


@pytest.mark.parametrize("removed", [False, True])
def test_a_file_that_was_replaced_while_it_was_read_is_not_used(bucket, tmp_path, monkeypatch, removed):
    product, granule, window, cache = first("smap_l4", tmp_path)
    before = type(product).keep_valid

    def replaced(own, values):
        path = granule.url.removeprefix("memory:/")
        content = bucket.cat_file(path)
        bucket.rm_file(path)
        if not removed:
            bucket.pipe_file(path, content + b" ")
        return before(own, values)

    monkeypatch.setattr(type(product), "keep_valid", replaced)
    with pytest.raises(GranuleError, match=f"^{granule.name} was replaced, or removed, while it was read"):
        read_granule(product, granule, window, DAYS[:1], cache)
