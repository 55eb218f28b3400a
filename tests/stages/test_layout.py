"""Stores as every reader sees them: packed, as plain Zarr, and refused where an earlier version has written them."""

import json
import shutil
from pathlib import Path

import deepprofile as dp
import numpy as np
import pytest
import xarray as xr
import zarr
from deepprofile.execution.pools import ThreadPool
from deepprofile.stages.pipeline import STAGES, run_stages
from deepprofile.storage.stores import OldLayoutError

from tests.support.granules import current_versions, url_of


@pytest.fixture
def outdated(configure, finished):
    """A root whose stores an earlier version has written, as far as they say."""
    config = configure()
    shutil.copytree(finished.root, config.root)
    for path in Path(config.root).rglob("*.zarr/zarr.json"):
        document = json.loads(path.read_text())
        del document["attributes"]["store_layout"]
        path.write_text(json.dumps(document))
    return config


def test_stores_of_an_earlier_version_are_refused_before_anything_is_written(outdated):
    before = sorted(str(path) for path in Path(outdated.root).rglob("*"))
    with pytest.raises(
        OldLayoutError, match=r"\.zarr was written by an earlier version .*: run the pipeline into another root"
    ):
        run_stages(outdated, STAGES, ThreadPool(2))
    assert [path for path in before if not Path(path).exists()] == []
    assert not [path for path in Path(outdated.root).rglob("*.zarr") if str(path) not in before]


def test_a_notebook_is_told_of_them_too(outdated):
    with pytest.raises(OldLayoutError, match="let readers use the present one until that is complete"):
        dp.open_store(outdated.root)


@pytest.mark.parametrize("store", ["ard/smap_l4", "covariance", "profile"])
def test_plain_readers_see_real_numbers_and_gaps(finished, store):
    url = url_of(finished, store)
    opened = xr.open_zarr(url, chunks=None)
    group, packed = zarr.open_group(url, mode="r"), 0
    for name in opened.data_vars:
        array = group[name]
        attributes = array.attrs.asdict()
        if "scale_factor" not in attributes:
            continue
        packed += 1
        assert array.dtype == np.int16
        assert attributes["_FillValue"] == array.fill_value
        values = opened[name].values
        assert np.isnan(values).any() or name == "prior_mean"
        assert np.nanmin(values) > -0.5
        assert np.nanmax(values) < 1.0
    assert packed == {"ard/smap_l4": 1, "covariance": 2, "profile": 1}[store]


def test_flags_and_patterns_are_small(finished):
    opened = xr.open_zarr(url_of(finished, "profile"), chunks=None)
    assert (opened["flags"].dtype, opened["pattern"].dtype) == (np.uint16, np.uint8)


def test_a_notebook_has_single_precision_and_what_does_not_depend_on_time(finished):
    profile = dp.open_store(finished.root)
    assert profile["coefficients"].dtype == profile["covariance_factor"].dtype == np.float32
    assert profile["coefficients"].attrs["units"] == "m3 m-3"
    assert profile.isel(time=0).deepprofile.std(0.3).compute().dtype == np.float32
    assert profile["lower_bound"].dims == ("y", "x")


def test_profiles_alone_have_values_and_say_where_their_deviations_are(finished):
    alone = xr.open_zarr(url_of(finished, "profile"), chunks=None).isel(time=slice(0, 3))
    whole = dp.open_store(finished.root).isel(time=slice(0, 3))
    np.testing.assert_allclose(alone.deepprofile.at(0.3).values, whole.deepprofile.at(0.3).values, atol=1e-6)
    with pytest.raises(ValueError, match=r"without their covariances, .*: deepprofile\.open_store\(root\) opens both"):
        alone.deepprofile.std(0.3)


def test_covariances_are_made_once_for_an_error_model(configure):
    """More days, and days that come late, change profiles; the covariances stay while the error model does."""
    first = configure(period__end="2015-05-18")
    run_stages(first, STAGES, ThreadPool(2))
    before = current_versions(first)
    longer = configure()
    results = {result.store: result for result in run_stages(longer, ("ingest", "invert"), ThreadPool(2))}
    after = current_versions(longer)
    assert after["profile"] != before["profile"]
    assert after["covariance"] == before["covariance"]
    assert results["covariance"].progress.skipped == results["covariance"].progress.blocks
