"""What strangers see: the folder ``public``, its pointer, releases, files, and what is removed when."""

import json
import shutil
from pathlib import Path

import deepprofile as dp
import numpy as np
import pytest
import xarray as xr
from deepprofile.config import Retention
from deepprofile.execution.pools import ThreadPool
from deepprofile.stages.manifest import manifest_of, run_url
from deepprofile.stages.pipeline import STAGES, Request, run_stages
from deepprofile.stages.publish import files, releases
from deepprofile.stages.retention import expired_versions, go_back, prune, remove
from deepprofile.stages.schedule import AsOf
from deepprofile.storage.documents import read_document
from deepprofile.storage.filesystems import cache_control
from deepprofile.storage.roots import Root
from deepprofile.storage.stores import StoreError

from tests.support.granules import NAMES, current_versions, tree, url_of

TODAY = AsOf(np.datetime64("2016-01-01"))
PUBLIC = {"profile", "covariance", "weights", "layers", "inputs", "map", "validation"}
DAY = 86400.0


@pytest.fixture
def published(finished, tmp_path):
    """The root of a copy of a finished run, which may be changed."""
    shutil.copytree(finished.root, tmp_path / "root")
    return tmp_path / "root"


def run(config, stages=STAGES, **asked):
    return {r.stage: r for r in run_stages(config, stages, ThreadPool(2), request=Request(TODAY, **asked))}


def released(root, tag):
    root = Root(str(root))
    with root.lease() as lease:
        return releases.release(root, tag, lease)


def pointer(root):
    return json.loads((Path(root) / "public/current.json").read_text())


def test_strangers_read_the_public_folder_alone(published, tmp_path):
    assert set(pointer(published)["stores"]) == PUBLIC
    assert "holder" not in pointer(published)
    alone = tmp_path / "elsewhere"
    shutil.copytree(published / "public", alone / "public")
    for root in (alone, alone / "public"):
        for store in (*sorted(PUBLIC - {"map"}), "map/36km"):
            opened = dp.open_store(str(root), store)
            xr.testing.assert_equal(opened.load(), dp.open_store(str(published), store).load())
    with pytest.raises(StoreError, match="no published store 'ard/smap_l4'"):
        dp.open_store(str(alone / "public"), "ard/smap_l4")


def test_a_stranger_may_name_the_folder_that_is_not_for_strangers(published, monkeypatch):
    def refused(url, *arguments, **options):
        if "public" not in url.removeprefix(str(published)):
            raise PermissionError(f"Forbidden: {url}")
        return read_document(url, *arguments, **options)

    monkeypatch.setattr("deepprofile.storage.roots.read_document", refused)
    assert dp.open_store(str(published), "layers").sizes["time"] == 72
    (published / "public" / "current.json").unlink()
    with pytest.raises(PermissionError, match="Forbidden"):
        dp.open_store(str(published), "layers")


def test_nothing_of_the_operator_lies_in_the_public_folder(published):
    found = {path.name for path in (published / "public").iterdir()} - {".lock"}
    assert found == PUBLIC | {"current.json", "files.json", "files"}
    content = b"".join(path.read_bytes() for path in (published / "public").rglob("*.json"))
    assert str(published).encode() not in content


def test_the_pointer_of_strangers_follows_also_where_a_run_was_killed_before(configure, published):
    config, path = configure(), published / "public/current.json"
    right = path.read_bytes()
    for wrong in (None, b'{"format": 2, "public": true, "stores": {"weights": "old"}}'):
        path.unlink()
        if wrong is not None:
            path.write_bytes(wrong)
        run(config)
        assert path.read_bytes() == right


def test_a_public_folder_is_no_root_of_a_run(configure, published):
    config = configure("root/public")
    with pytest.raises(StoreError, match="is what strangers see of a root: name the folder above it"):
        run(config)


def test_another_description_is_written_into_stores_whose_values_stay(configure, published):
    before, versions = tree(published), current_versions(str(published))
    config = configure(dataset={"title": "Wet and dry", "license": "CC0-1.0", "creators": [{"name": "A. Hydrologist"}]})
    results = run(config)
    assert sum(result.progress.done for name, result in results.items() if name != "publish/files") == 0
    assert current_versions(config) == versions
    for store in ("profile", "layers", "inputs", "map", "covariance", "weights", "validation"):
        attrs = xr.open_zarr(url_of(config, store)).attrs
        assert attrs["title"].startswith("Wet and dry: ")
        assert (attrs["license"], attrs["creator_name"]) == ("CC0-1.0", "A. Hydrologist")
    after = tree(published)
    changed = {name for name in before if name in after and before[name] != after[name]}
    assert changed
    assert all(name.endswith("zarr.json") for name in changed)
    # Files say it too: they are others.
    assert {name for name in before.keys() ^ after.keys() if not name.startswith("files/")} == set()
    assert len([name for name in after if name.startswith("files/")]) == 2
    with xr.open_dataset(
        published / "public" / files.index(Root(str(published)))["2015-04"]["path"], engine="h5netcdf"
    ) as file:
        assert file.attrs["license"] == "CC0-1.0"
    assert run(config)["publish/layers"].progress.done == 0


def test_what_does_not_pass_the_gate_is_made_into_nothing(configure, published):
    before = pointer(published)
    config = configure(inversion={"prior": {"std": 0.01}}, gate={"jump": 1e-3})
    seen = []
    with pytest.raises(Exception, match="not published"):
        run_stages(config, STAGES, ThreadPool(2), on_stage=lambda plan: seen.append(plan.stage), request=Request(TODAY))
    assert "invert" in seen
    assert not [stage for stage in seen if stage.startswith("publish")]
    assert pointer(published) == before


def test_files_are_those_of_months_that_are_final(configure, published):
    known = files.index(Root(str(published)))
    # June is not over.
    assert list(known) == ["2015-04", "2015-05"]
    for month, file in known.items():
        path = published / "public" / file["path"]
        assert path.stat().st_size == file["bytes"]
        assert path.name.startswith(f"deepprofile_layers_{month}_")
    assert "publish/files" not in run(configure())


def test_a_provisional_month_has_no_file_until_it_is_final(configure, published, monkeypatch):
    root = Root(str(published))
    known = files.provisional_days
    monkeypatch.setattr(files, "provisional_days", lambda *asked: known(*asked) | (np.arange(72) == 40))
    config = configure()
    found = files.months(files.Profiles.of(config), root, root.current())
    assert [month.label for month in found] == ["2015-04"]


def test_a_file_that_has_been_replaced_goes_after_a_while(configure, published):
    root = Root(str(published))
    old = files.index(root)["2015-04"]["path"]
    config = configure(dataset={"license": "CC0-1.0"})
    run(config)
    assert files.index(root)["2015-04"]["path"] != old
    (since,) = [seconds for path, seconds in files.superseded(root).items() if path == old]
    rule = Retention(versions=1, days=7)
    assert old.rsplit("/", 1)[-1] not in {each.version for each in expired_versions(root, rule, since + 6 * DAY)}
    expired = [each for each in expired_versions(root, rule, since + 8 * DAY) if each.store == "files"]
    assert len(expired) == 2
    remove(expired[0])
    assert not (published / "public" / old).exists()


def test_changes_say_whether_settings_or_granules_are_others(configure, published):
    first = released(published, "2015.1")
    assert releases.changes(Root(str(published)), first, Root(str(published)).current()) == ["No profile has changed."]
    run(configure(inversion={"prior": {"std": 0.07}}, gate={"jump": 1.0}))
    said = released(published, "2015.2")["changes"]
    assert said == ["Profiles of 2015 have changed: the settings of the inversion are others."]


def test_a_release_stays_as_it_is(configure, published, tmp_path, granules):
    first = released(published, "2015.1")
    assert first["changes"] == ["The first release: 2015-04-01 to 2015-06-11, 1 calendar year."]
    before = dp.open_store(str(published), "layers").load()
    # The same again is the same release, whatever the time.
    assert released(published, "2015.1") == first
    changed = tmp_path / "granules"
    shutil.copytree(granules, changed)
    sorted((changed / "gldas_noah").rglob("*2015060*"))[0].unlink()
    products = {name: {"granules": str(changed / name)} for name in NAMES}
    config = configure(products=products)
    run(config, accepted_by="A. Hydrologist")
    versions = current_versions(config)
    assert versions["layers"] != first["stores"]["layers"]["2015"]
    with pytest.raises(StoreError, match=r"there is a release 2015\.1 already, of \d{4}-\d\d-\d\d, and it never changes"):
        released(published, "2015.1")
    second = released(published, "2015.2")
    assert second["predecessor"] == "2015.1"
    assert any(
        "have changed, since granules of the products were added or replaced" in said for said in second["changes"]
    ) or any(said.startswith("New error model") for said in second["changes"])
    for kept in (before, dp.open_store(str(published), "layers", version="2015.1").load()):
        xr.testing.assert_identical(kept, before)
    assert not before.equals(dp.open_store(str(published), "layers", version="2015.2").load())
    with pytest.raises(StoreError, match=r"has no release '2016': there are 2015\.1, 2015\.2"):
        dp.open_store(str(published), version="2016")
    # Nothing that a release names is ever removed.
    root, late = Root(str(published)), 1e12
    expired = {(each.store, each.version) for each in expired_versions(root, Retention(versions=1, days=0), late)}
    names = {(f"{store}/2015", version["2015"]) for store, version in first["stores"].items() if isinstance(version, dict)}
    assert names
    assert not names & expired
    prune(root, Retention(versions=1, days=0))
    xr.testing.assert_identical(dp.open_store(str(published), "layers", version="2015.1").load(), before)


@pytest.mark.parametrize("tag", ["", "a b", "../x", ".hidden", "x" * 65])
def test_a_tag_is_a_name(published, tag):
    with pytest.raises(StoreError, match="is no name for a release"):
        released(published, tag)
    with pytest.raises(StoreError, match="has no release"):
        dp.open_store(str(published), version=tag or "?")


def test_what_a_page_has_opened_stays_for_the_stated_time(configure, published):
    """A version that was seen until yesterday is not removed today, however long ago it was published."""
    root = Root(str(published))
    old = current_versions(str(published))["layers"]
    (record,) = (published / "publications").iterdir()
    then = json.loads(record.read_text())["seconds"]
    document = json.loads(record.read_text())
    later = then + 30 * DAY
    document["seconds"] = later
    document["stores"]["layers"]["2015"] = "new"
    (published / "publications" / "20990101T000000.000000Z.json").write_text(json.dumps(document))
    current = json.loads((published / "current.json").read_text())
    current["stores"]["layers"]["2015"] = "new"
    (published / "current.json").write_text(json.dumps(current))
    rule = Retention(versions=1, days=7)
    assert old not in {each.version for each in expired_versions(root, rule, later + 6 * DAY)}
    assert old in {each.version for each in expired_versions(root, rule, later + 8 * DAY)}


def test_a_run_that_changes_nothing_is_no_publication(configure, published):
    """It would push those that changed something out of the ones whose versions stay."""
    before, said = [*(published / "publications").iterdir()], json.loads((published / "published.json").read_text())
    run(configure())
    assert [*(published / "publications").iterdir()] == before
    assert json.loads((published / "published.json").read_text())["seconds"] > said["seconds"]


def test_an_earlier_publication_is_seen_again(configure, published):
    (first,) = (path.stem for path in (published / "publications").iterdir())
    before, root = pointer(published), Root(str(published))
    config = configure(blocks={"days": 24, "cells": 8, "chunk_days": 8, "chunk_cells": 8})
    run(config, accepted_by="A. Hydrologist")
    assert pointer(published) != before
    for moment, said in (("2099", "no publication is of '2099'; the last are"), ("2", "2 publications are of '2'")):
        with root.lease() as lease, pytest.raises(StoreError, match=said):
            go_back(root, moment, lease)
    with root.lease() as lease:
        assert go_back(root, first, lease) == first
    assert pointer(published) == before
    assert root.current()["profile/2015"] == before["stores"]["profile"]["2015"]
    assert len(list((published / "publications").iterdir())) == 3
    shutil.rmtree(root.version("weights", root.current()["weights"]))
    with root.lease() as lease, pytest.raises(StoreError, match="its weights has been removed"):
        go_back(root, first, lease)


def test_objects_say_how_long_they_may_be_kept():
    assert cache_control("b/p/public/profile/2024/a.zarr/coefficients/c/0/0/0/0").endswith("immutable")
    assert cache_control("b/p/public/files/2024/a.nc").endswith("immutable")
    assert cache_control("b/p/public/profile/2024/a.zarr/zarr.json") == "public, max-age=3600"
    for name in ("current.json", "files.json", "releases/2026.1.json"):
        assert cache_control(f"b/p/public/{name}") == "no-cache"


def test_manifests_say_what_layers_were_made_from(published):
    versions = current_versions(str(published))
    root = Root(str(published))
    manifest = manifest_of(run_url(root, "publish/layers", versions["layers"]))
    assert manifest["inputs"] == {"profile/2015": versions["profile"], "covariance": versions["covariance"]}
