import json
import os
import subprocess
import threading

import numpy as np
import pytest
import xarray as xr
import zarr
from deepprofile.storage.documents import NewerDocumentError
from deepprofile.storage.objects import copy_objects
from deepprofile.storage.roots import Root, check_writable, store_of
from deepprofile.storage.stores import (
    OldLayoutError,
    StoreError,
    Template,
    Variable,
    check_layout,
    create,
    read_region,
    shard_objects,
    sweep,
    write_chunks,
    write_shards,
)


def make_template(days=6, first=0, **changes):
    options = {"shards": (4, 3), "chunks": (2, 3), "fill": float("nan")} | changes
    return Template(
        sizes={"time": days, "x": 5},
        variables={
            "time": Variable(
                ("time",), "int64", values=np.arange(first, first + days), attrs={"units": "days since 1970-01-01"}
            ),
            "theta": Variable(("time", "x"), "float32", **options),
        },
        attrs={"title": "test"},
    )


def publish(root, versions):
    with root.lease() as lease:
        root.publish(versions, lease)


def test_a_template_is_a_store_that_xarray_opens(tmp_path):
    create(str(tmp_path / "a.zarr"), make_template())
    opened = xr.open_zarr(tmp_path / "a.zarr")
    assert opened.theta.shape == (6, 5)
    assert np.isnan(opened.theta).all()
    assert opened.time.values[1] == np.datetime64("1970-01-02")
    assert zarr.open_group(tmp_path / "a.zarr", mode="r")["theta"].shards == (4, 3)


def test_two_drivers_may_make_the_same_store_at_the_same_time(anywhere):
    url, errors = f"{anywhere}/a.zarr", []
    start = threading.Barrier(4)

    def make():
        start.wait()
        try:
            for _ in range(3):
                create(url, make_template())
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert read_region(url, "time", (slice(None),)).tolist() == list(range(6))


def test_a_store_of_an_earlier_layout_is_refused_with_what_to_do(tmp_path):
    url = str(tmp_path / "a.zarr")
    create(url, make_template())
    check_layout(url)
    group = zarr.open_group(url, mode="r+")
    for layout, kind, said in [
        (
            None,
            OldLayoutError,
            r"an earlier version of this software \(layout 1; this version reads 4\): run the pipeline into an",
        ),
        (5, StoreError, r"a later version of this software \(layout 5; this version reads 4\): upgrade"),
    ]:
        group.attrs.put({"title": "test"} if layout is None else {"store_layout": layout})
        with pytest.raises(kind, match=said):
            check_layout(url)
    with pytest.raises(StoreError, match="is no store: it has been removed, or was never made"):
        check_layout(str(tmp_path / "b.zarr"))


@pytest.mark.parametrize(("start", "shape"), [((1, 0), (3, 3)), ((0, 0), (3, 3)), ((0, 0), (4, 2)), ((0, 1), (4, 4))])
def test_a_write_that_does_not_cover_its_shards_is_refused(tmp_path, start, shape):
    url = str(tmp_path / "a.zarr")
    create(url, make_template())
    with pytest.raises(StoreError, match=r"theta would be written from .* its shards are \[4, 3\]"):
        write_shards(url, "theta", start, np.zeros(shape, np.float32))


def test_the_last_shard_may_be_short(tmp_path):
    url = str(tmp_path / "a.zarr")
    create(url, make_template())
    write_shards(url, "theta", (4, 3), np.ones((2, 2), np.float32))
    assert list(shard_objects("theta", (4, 3), (2, 2), (4, 3))) == ["theta/c/1/1"]
    assert list(shard_objects("theta", (4, 3), (2, 2), (4, 3), ".")) == ["theta/c.1.1"]
    assert (tmp_path / "a.zarr/theta/c/1/1").exists()


def test_creating_again_changes_nothing_and_another_shape_is_refused(tmp_path):
    url = str(tmp_path / "a.zarr")
    create(url, make_template())
    write_shards(url, "theta", (0, 0), np.ones((4, 3), np.float32))
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    create(url, make_template())
    assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(StoreError, match=r"has theta with shape, shards and type .*remove it first"):
        create(url, make_template(shards=(2, 3)))


def test_shards_are_taken_over_by_hard_links(tmp_path):
    old, new = str(tmp_path / "old.zarr"), str(tmp_path / "new.zarr")
    for url in (old, new):
        create(url, make_template())
    write_shards(old, "theta", (0, 0), np.ones((4, 3), np.float32))
    copy_objects(old, new, ["theta/c/0/0", "theta/c/1/1"])
    assert os.stat(tmp_path / "old.zarr/theta/c/0/0").st_nlink == 2
    # A later write replaces the object in one version and leaves it in the other.
    write_shards(new, "theta", (0, 0), np.zeros((4, 3), np.float32))
    assert read_region(old, "theta", (slice(0, 1), slice(0, 1)))[0, 0] == 1.0
    assert not (tmp_path / "new.zarr/theta/c/1/1").exists()


def test_readers_see_a_version_only_when_it_is_published(tmp_path):
    root = Root(str(tmp_path))
    with pytest.raises(StoreError, match="has no published store 'profile'"):
        root.open("profile")
    create(root.version("profile", "a"), make_template())
    assert root.current() == {}
    publish(root, {"profile": "a"})
    assert root.open("profile") == root.version("profile", "a")


def test_a_version_with_fewer_days_is_not_published(tmp_path):
    root = Root(str(tmp_path))
    create(root.version("profile/1970", "a"), make_template(days=6))
    create(root.version("profile/1970", "b"), make_template(days=4, first=1))
    create(root.version("profile/1970", "c"), make_template(days=9))
    create(root.version("profile/1971", "a"), make_template(days=3, first=365))
    publish(root, {"profile/1970": "a"})
    with pytest.raises(StoreError, match=r"lacks 2 days that readers have now \(1970-01-01 to 1970-01-06\)"):
        publish(root, {"profile/1970": "b"})
    assert root.current() == {"profile/1970": "a"}
    publish(root, {"profile/1970": "c", "profile/1971": "a"})
    with pytest.raises(StoreError, match=r"profile: the new version lacks 3 days .* \(1971-01-01 to 1971-01-03\)"):
        publish(root, {"profile/1970": "c"})
    # Other stores, and years that stay as they are, say nothing of it.
    publish(root, {"weights": "a"})


def test_the_pointer_has_the_years_of_a_store_below_its_name(tmp_path):
    root = Root(str(tmp_path))
    versions = {"ard/smap_l4/2016": "c", "ard/smap_l4/2015": "b", "rivals/2015/2015": "d", "weights": "a"}
    publish(root, versions)
    pointer = json.loads((tmp_path / "current.json").read_text())
    assert pointer["format"] == 2
    assert pointer["stores"] == {"ard/smap_l4": {"2015": "b", "2016": "c"}, "rivals/2015": {"2015": "d"}, "weights": "a"}
    assert root.current() == versions
    assert [*root.parts("ard/smap_l4").items()] == [
        ("2015", root.version("ard/smap_l4/2015", "b")),
        ("2016", root.version("ard/smap_l4/2016", "c")),
    ]
    assert root.parts("weights") == {"": root.version("weights", "a")}
    assert root.parts("ard/smap_l4/2016") == {"": root.version("ard/smap_l4/2016", "c")}
    assert {store_of(name) for name in versions} == {"ard/smap_l4", "rivals/2015", "weights"}


def test_a_root_of_the_earlier_layout_is_refused_with_what_to_do(tmp_path):
    pointer = tmp_path / "current.json"
    pointer.write_text('{"@format": 1, "@lease": "abc", "profile": "a"}')
    root = Root(str(tmp_path))
    for call in (root.current, root.lease, lambda: root.open("profile")):
        with pytest.raises(OldLayoutError, match="did not divide stores by year: run the pipeline into another root"):
            call()
    # One in which nothing was ever published is as good as empty.
    pointer.write_text('{"@format": 1, "@lease": "abc"}')
    publish(root, {"profile/1970": "b"})
    assert root.current() == {"profile/1970": "b"}


def test_half_written_files_are_swept_away(tmp_path):
    create(str(tmp_path / "a.zarr"), make_template())
    (tmp_path / "a.zarr/theta/c").mkdir(exist_ok=True)
    (tmp_path / "a.zarr/theta/c/0.1234.partial").touch()
    sweep(str(tmp_path / "a.zarr"))
    assert not list(tmp_path.rglob("*.partial"))


@pytest.fixture
def mounted(tmp_path):
    """A small file system of its own, mounted as asked; tests run as root, whom permissions do not stop."""
    folder = tmp_path / "mounted"
    folder.mkdir()

    def mount(options):
        found = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True)
        if found.returncode:
            pytest.skip(f"this machine lets nobody mount a file system: {found.stderr.strip()}")
        return folder

    yield mount
    subprocess.run(["umount", str(folder)], capture_output=True)


def test_a_read_only_root_is_said_before_anything_runs(mounted):
    folder = mounted("size=1m,ro")
    with pytest.raises(
        StoreError, match=r"nothing can be written to .*mounted/root \(Read-only file system\): choose another root"
    ):
        check_writable(str(folder / "root"))


def test_stores_may_be_anywhere_that_fsspec_reaches():
    url = "memory://somewhere/a.zarr"
    create(url, make_template())
    write_shards(url, "theta", (0, 0), np.ones((4, 3), np.float32))
    assert read_region(url, "theta", (slice(0, 1), slice(0, 4)))[0, :3].tolist() == [1.0, 1.0, 1.0]
    root = Root("memory://somewhere")
    publish(root, {"a": "b"})
    assert root.current() == {"a": "b"}


def made_public(tmp_path):
    """A root with a public and another store, published."""
    root = Root(str(tmp_path / "root"))
    for store in ("weights", "moments"):
        create(root.version(store, "a"), make_template())
    publish(root, {"weights": "a", "moments": "a"})
    return root


def test_what_strangers_read_lies_in_a_folder_of_its_own(tmp_path):
    root = made_public(tmp_path)
    assert root.version("weights", "a") == f"{root.url}/public/weights/a.zarr"
    assert root.version("profile/2024", "a") == f"{root.url}/public/profile/2024/a.zarr"
    assert root.version("moments", "a") == f"{root.url}/moments/a.zarr"
    pointer = json.loads((tmp_path / "root/public/current.json").read_text())
    assert pointer == {"format": 2, "public": True, "stores": {"weights": "a"}}
    public = Root.of_reader(root.public_url)
    assert public.public
    assert public.public_url == root.public_url
    assert public.open("weights") == root.open("weights")
    assert not Root.of_reader(root.url).public
    # Where nothing but the public folder is there.
    (tmp_path / "root/current.json").unlink()
    assert Root.of_reader(root.url) == public
    with pytest.raises(StoreError, match="no published store 'moments'"):
        public.open("moments")
    with pytest.raises(StoreError, match="is what strangers see of a root: name the folder above it"):
        Root(root.public_url).current()
    assert not Root.of_reader(str(tmp_path / "nowhere")).public


def test_releases_are_pointers_that_stay(tmp_path):
    root = made_public(tmp_path)
    folder = tmp_path / "root/public/releases"
    folder.mkdir()
    (folder / "2024.1.json").write_text(json.dumps(root.public_pointer()))
    create(root.version("weights", "b"), make_template())
    publish(root, {"weights": "b"})
    assert root.releases() == ["2024.1"]
    assert Root.of_reader(root.url, "2024.1").open("weights") == root.version("weights", "a")
    assert Root.of_reader(root.public_url, "2024.1").open("weights") == root.version("weights", "a")
    assert Root.of_reader(root.url).open("weights") == root.version("weights", "b")
    for tag in ("2024.2", "../current"):
        with pytest.raises(StoreError, match=r"has no release .*: there are 2024\.1"):
            Root.of_reader(root.url, tag).current()


def test_the_pointer_of_strangers_is_mended_but_not_that_of_a_newer_version(tmp_path):
    root, path = made_public(tmp_path), tmp_path / "root/public/current.json"
    right = path.read_bytes()
    path.write_bytes(b"{")
    root.publish_to_strangers()
    assert path.read_bytes() == right
    path.write_bytes(b'{"format": 99}')
    with pytest.raises(NewerDocumentError, match="has format 99"):
        root.publish_to_strangers()


def test_groups_of_a_store_have_sizes_and_attributes_of_their_own(tmp_path):
    url = str(tmp_path / "a.zarr")
    variables = {
        "fine/theta": Variable(("x",), "float32", shards=(4,), chunks=(2,), fill=float("nan"), separator="."),
        "coarse/theta": Variable(("x",), "float32", chunks=(2,), fill=float("nan"), separator="."),
    }
    groups = {"fine": {}, "coarse": {"k": 1}}
    template = Template({"fine/x": 6, "coarse/x": 3}, variables, {"title": "test"}, {"license": "MIT"}, groups)
    create(url, template)
    write_shards(url, "fine/theta", (0,), np.arange(6, dtype=np.float32))
    write_chunks(url, "coarse/theta", (2,), np.array([7.0], np.float32))
    assert sorted(path.name for path in (tmp_path / "a.zarr/fine/theta").glob("c*")) == ["c.0", "c.1"]
    assert [path.name for path in (tmp_path / "a.zarr/coarse/theta").glob("c*")] == ["c.1"]
    fine, coarse = (xr.open_zarr(url, group=group) for group in ("fine", "coarse"))
    np.testing.assert_array_equal(fine.theta, np.arange(6))
    np.testing.assert_array_equal(coarse.theta, [np.nan, np.nan, 7.0])
    assert coarse.attrs == {"license": "MIT", "k": 1, "store_layout": 4}
    # Another description is written over the one before.
    create(url, Template(template.sizes, variables, template.attrs, {"license": "CC0"}, template.groups))
    assert zarr.open_group(url, path="coarse", mode="r").attrs["license"] == "CC0"
    np.testing.assert_array_equal(xr.open_zarr(url, group="fine").theta, np.arange(6))


def test_shards_of_nothing_are_left_out_where_that_is_asked(tmp_path):
    url = str(tmp_path / "a.zarr")
    create(url, make_template())
    values = np.full((6, 5), np.nan, np.float32)
    values[0, 0] = 1.0
    write_shards(url, "theta", (0, 0), values, sparse=True)
    folder = tmp_path / "a.zarr/theta/c"
    assert [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()] == ["0/0"]
    np.testing.assert_array_equal(read_region(url, "theta", (slice(None),)), values)
