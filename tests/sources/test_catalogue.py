import os

import fsspec
import numpy as np
import pytest
from deepprofile.sources.catalogue import Cache, Granule, find_granules, local_copy, read_granule
from deepprofile.sources.products import PRODUCTS, GranuleError

DAYS = np.arange("2015-04-01", "2015-04-04", dtype="datetime64[D]")
NAMES = [f"SMAP_L4_SM_gph_201504{day:02d}T{hour:02d}3000_Vv8011_001.h5" for day in (1, 2, 3, 4) for hour in range(1, 24, 3)]


@pytest.fixture
def remote():
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    for name in (*NAMES, "readme.txt"):
        fs.pipe_file(f"/archive/{name[19:23]}/{name}", name.encode())
    yield "memory://archive"
    fs.store.clear()


def test_granules_are_found_at_any_depth_and_by_day(remote):
    catalogue = find_granules(PRODUCTS["smap_l4"], remote, DAYS)
    assert list(catalogue.by_day) == ["2015-04-01", "2015-04-02", "2015-04-03"]
    assert catalogue.count == 24
    assert [g.key for g in catalogue.by_day["2015-04-02"]][:2] == ["20150402T0130", "20150402T0430"]


def test_a_pattern_chooses_files(remote):
    catalogue = find_granules(PRODUCTS["smap_l4"], f"{remote}/*/*T0130*", DAYS)
    assert [len(granules) for granules in catalogue.by_day.values()] == [1, 1, 1]


def test_a_replaced_granule_changes_the_mark_of_its_day_alone(tmp_path):
    for name in NAMES:
        (tmp_path / name).write_text(name)
    before = find_granules(PRODUCTS["smap_l4"], str(tmp_path), DAYS)
    (tmp_path / NAMES[9]).write_text("another content")
    after = find_granules(PRODUCTS["smap_l4"], str(tmp_path), DAYS)
    changed = [day for day in before.by_day if before.by_day[day] != after.by_day[day]]
    assert changed == ["2015-04-02"]


def test_links_to_files_count_as_files(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / NAMES[0]).write_text("12345")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / NAMES[0]).symlink_to(tmp_path / "real" / NAMES[0])
    (tmp_path / "linked" / NAMES[1]).symlink_to(tmp_path / "gone")
    catalogue = find_granules(PRODUCTS["smap_l4"], str(tmp_path / "linked"), DAYS)
    assert [granule.size for granule in catalogue.by_day["2015-04-01"]] == [5]


def test_no_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nothing for the granules of smap_l4"):
        find_granules(PRODUCTS["smap_l4"], str(tmp_path / "nothing"), DAYS)


def test_a_remote_granule_is_downloaded_once(remote, tmp_path):
    granule = find_granules(PRODUCTS["smap_l4"], remote, DAYS).by_day["2015-04-01"][0]
    path = local_copy(granule, Cache(str(tmp_path)))
    assert path.name == granule.name
    assert path.read_text() == granule.name
    fsspec.filesystem("memory").store.clear()
    assert local_copy(granule, Cache(str(tmp_path))) == path


def test_a_download_of_the_wrong_size_is_refused(remote, tmp_path):
    granule = find_granules(PRODUCTS["smap_l4"], remote, DAYS).by_day["2015-04-01"][0]
    announced = Granule(granule.url, granule.size + 7, granule.tag, granule.key)
    with pytest.raises(GranuleError, match=rf"has {granule.size} bytes after its download, {granule.size + 7} were announced"):
        local_copy(announced, Cache(str(tmp_path)))
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_what_was_not_used_for_longest_makes_room(remote, tmp_path):
    granules = find_granules(PRODUCTS["smap_l4"], remote, DAYS).by_day["2015-04-01"][:4]
    # The names are the content, all of one length: room for three.
    cache = Cache(str(tmp_path), 3 * granules[0].size)
    paths = [local_copy(granule, cache) for granule in granules[:3]]
    for age, path in enumerate(paths):
        os.utime(path, (1e9 + age, 1e9 + age))
    assert local_copy(granules[0], cache) == paths[0]
    with paths[1].open() as reader:
        paths.append(local_copy(granules[3], cache))
        assert [path.exists() for path in paths] == [True, False, True, True]
        assert reader.read() == granules[1].name
    assert not paths[1].parent.exists()
    assert local_copy(granules[1], cache).read_text() == granules[1].name


def test_a_granule_larger_than_the_cache_is_kept_until_the_next(remote, tmp_path):
    first, second = find_granules(PRODUCTS["smap_l4"], remote, DAYS).by_day["2015-04-01"][:2]
    path = local_copy(first, Cache(str(tmp_path), 1))
    assert path.exists()
    assert local_copy(second, Cache(str(tmp_path), 1)).exists()
    assert not path.exists()


def test_a_file_that_made_room_before_it_was_open_is_fetched_again(remote, tmp_path):
    class Unlucky:
        times = 0

        def read(self, path, window, days):
            self.times += 1
            if self.times == 1:
                path.unlink()
            if not path.exists():
                raise GranuleError(f"{path.name} cannot be read")
            return path.read_text()

    granule = find_granules(PRODUCTS["smap_l4"], remote, DAYS).by_day["2015-04-01"][0]
    product = Unlucky()
    assert read_granule(product, granule, None, DAYS, Cache(str(tmp_path))) == granule.name
    assert product.times == 2


def test_remote_granules_give_the_bytes_of_local_ones(world, granules, configure, finished, tmp_path):
    from deepprofile.execution.pools import ThreadPool
    from deepprofile.stages.pipeline import run_stages
    from deepprofile.storage.roots import Root

    fs = fsspec.filesystem("memory")
    fs.store.clear()
    fs.put(f"{granules}/smap_l3/", "/granules/smap_l3/", recursive=True)
    config = configure(products={"smap_l3": {"granules": "memory://granules/smap_l3"}}, ingest__cache=str(tmp_path / "cache"))
    (result,) = run_stages(config, ("ingest",), ThreadPool(1))
    assert result.problems == ()
    # Of HDF5 only what is needed is fetched.
    assert not list((tmp_path / "cache").rglob("*.h5"))
    ours, theirs = (Root(c.root).open("ard/smap_l3/2015") for c in (config, finished))
    for name in ("soil_moisture/c/0/0/0/0", "steps/c/0"):
        with open(f"{ours}/{name}", "rb") as a, open(f"{theirs}/{name}", "rb") as b:
            assert a.read() == b.read()
    fs.store.clear()


def test_what_files_hold_stays_known_when_room_is_made(tmp_path):
    from deepprofile.sources.catalogue import Cache, make_room

    index, granule = tmp_path / "contents" / "a.json", tmp_path / "b" / "granule.h5"
    for path in (index, granule):
        path.parent.mkdir()
        path.write_bytes(bytes(100))
    make_room(Cache(str(tmp_path), 0), tmp_path / "c" / "newest.h5")
    assert index.exists()
    assert not granule.exists()
