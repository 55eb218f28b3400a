"""Stores of one version hold the same values, whoever computes them: a change of an algorithm is a new version."""

import numpy as np
import pytest
import yaml
from deepprofile import config as configuration
from deepprofile.execution.pools import ThreadPool
from deepprofile.sources.products import PRODUCTS
from deepprofile.stages import collocate, covariances, ingest, invert, matchups, observations, validate
from deepprofile.stages.pipeline import STAGES, Request, run_stages
from deepprofile.stages.publish import inputs, layers, maps
from deepprofile.storage.roots import Root

from tests.stages import reference
from tests.support.granules import current_versions, document, tree


def test_the_values_of_every_step_are_those_that_its_version_stands_for(world, finished):
    assert reference.complaint(world, finished.root) is None


@pytest.mark.parametrize("store", ["ard/gldas_noah", "weights", "profile"])
def test_values_that_change_are_found_and_named(world, finished, monkeypatch, store):
    found = reference.samples(world, finished.root)
    key = next(key for key in found if reference.store_of(key) == store and found[key].dtype.kind == "f")
    noise = np.random.default_rng(1).uniform(0.99, 1.01, found[key].shape)
    monkeypatch.setattr(reference, "samples", lambda *_: found | {key: (found[key] * noise).astype(np.float32)})
    assert f"the values of {store} have changed: raise the ALGORITHM" in reference.complaint(world, finished.root)
    # A raised version allows it, of this step and of those after it.
    module, name = {
        "ard/gldas_noah": (type(PRODUCTS["gldas_noah"]), "algorithm"),
        "weights": (collocate, "WEIGHTS_ALGORITHM"),
        "profile": (invert, "ALGORITHM"),
    }[store]
    monkeypatch.setattr(module, name, getattr(module, name) + 1)
    assert reference.complaint(world, finished.root).startswith("write the reference anew")


def test_a_step_of_rounding_is_no_change():
    values = np.linspace(0.05, 0.45, 500).astype(np.float32)
    assert not reference.differ(values, values + np.float32(2.0**-14))
    assert reference.differ(values, values + np.float32(0.003))
    assert reference.differ(values, np.where(np.arange(500) % 50 == 0, np.nan, values).astype(np.float32))


UPGRADES = {
    "a reader": (type(PRODUCTS["era5_land"]), "algorithm", "ard/era5_land"),
    "moments": (collocate, "MOMENTS_ALGORITHM", "moments"),
    "weights": (collocate, "WEIGHTS_ALGORITHM", "weights"),
    "covariances": (covariances, "ALGORITHM", "covariance"),
    "inversion": (invert, "ALGORITHM", "profile"),
    "inputs": (inputs, "ALGORITHM", "inputs"),
    "layers": (layers, "ALGORITHM", "layers"),
    "maps": (maps, "ALGORITHM", "map"),
    "matchups": (matchups, "ALGORITHM", "matchups"),
    "differences": (validate, "DIFFERENCES_ALGORITHM", "differences"),
    "scores": (validate, "ALGORITHM", "validation"),
}


# What follows from stores for strangers.
ONLY = {"inputs": ["inputs"], "layers": ["layers", "map"], "map": ["map"]}


@pytest.fixture(scope="module")
def upgraded(world, granules, tmp_path_factory):
    """A finished run of a small record, for upgrades."""
    folder = tmp_path_factory.mktemp("upgraded")
    (folder / "c.yaml").write_text(yaml.safe_dump(document(world, granules, folder / "root", period__end="2015-05-18")))
    config = configuration.load(folder / "c.yaml")
    run_stages(config, STAGES, ThreadPool(2))
    return config


@pytest.mark.parametrize("step", UPGRADES)
def test_after_an_upgrade_no_block_is_taken_over(upgraded, monkeypatch, step):
    """Everything of the step and of those after it is computed anew, although no granule has changed."""
    module, name, store = UPGRADES[step]
    # What another step has left is no part of it.
    run_stages(upgraded, STAGES, ThreadPool(2))
    before = current_versions(upgraded)
    monkeypatch.setattr(module, name, getattr(module, name) + 1, raising=False)
    results = {result.store: result for result in run_stages(upgraded, STAGES, ThreadPool(2))}
    after = current_versions(upgraded)
    made = results[store]
    assert made.progress.done == made.progress.blocks, made.progress
    assert made.progress.bytes_read > 0
    assert after[store] != before[store]
    # What the stations have measured does not depend on any product.
    following = [
        s for s in reference.STORES[reference.STORES.index(store) :] if not s.startswith("ard/") and s != observations.STORE
    ]
    if store == covariances.STORE:
        # Profiles do not depend on them, but scores do.
        following.remove("profile")
    if "inputs" in following and not store.startswith("ard/"):
        following.remove("inputs")
    if store in ONLY:
        following = ONLY[store]
    assert all(after[s] != before[s] for s in following)
    if store.startswith("ard/"):
        # The days of the profiles too: their marks hold the algorithm of the days that they were made of.
        profiles = results["profile"]
        assert profiles.progress.done == profiles.progress.blocks
        days = sum(record.details["computed"] for record in profiles.records.values())
        assert days == sum(record.details["profiles"] for record in profiles.records.values()) > 0


def test_after_an_upgrade_of_reading_stations_matchups_stay_and_scores_are_made_anew(upgraded, monkeypatch):
    run_stages(upgraded, STAGES, ThreadPool(2))
    before = current_versions(upgraded)
    monkeypatch.setattr(observations, "ALGORITHM", observations.ALGORITHM + 1)
    run_stages(upgraded, STAGES, ThreadPool(2))
    after = current_versions(upgraded)
    assert {store for store in after if after[store] != before[store]} == {"observations", "differences", "validation"}


def test_going_back_takes_what_is_still_there(upgraded, monkeypatch):
    run_stages(upgraded, STAGES, ThreadPool(2))
    before, content = current_versions(upgraded), tree(upgraded.root)
    with monkeypatch.context() as newer:
        newer.setattr(invert, "ALGORITHM", invert.ALGORITHM + 1)
        run_stages(upgraded, STAGES, ThreadPool(2))
        assert current_versions(upgraded)["profile"] != before["profile"]
    results = run_stages(upgraded, STAGES, ThreadPool(2))
    assert all(result.progress.skipped == result.progress.blocks for result in results)
    assert current_versions(upgraded) == before
    assert tree(upgraded.root) == content


def test_the_schedule_makes_a_new_error_model_after_an_upgrade_of_it(upgraded, monkeypatch):
    config = upgraded.model_copy(update={"collocation": upgraded.collocation.model_copy(update={"every_days": 30})})
    run_stages(config, STAGES, ThreadPool(2))
    assert not collocate.is_due(collocate.ErrorModel.of(config), Root(config.root))
    for module, name in ((collocate, "WEIGHTS_ALGORITHM"), (ingest, "ALGORITHM"), (type(PRODUCTS["smap_l3"]), "algorithm")):
        with monkeypatch.context() as newer:
            newer.setattr(module, name, getattr(module, name) + 1, raising=False)
            assert collocate.is_due(collocate.ErrorModel.of(config), Root(config.root))


def test_an_error_model_is_made_anew_on_request_although_nothing_has_changed(upgraded):
    before, content = current_versions(upgraded), tree(upgraded.root)
    results = {r.store: r for r in run_stages(upgraded, STAGES, ThreadPool(2), request=Request(remake=True))}
    after = current_versions(upgraded)
    for store in ("moments", "weights"):
        assert results[store].progress.done == results[store].progress.blocks
        assert after[store] != before[store]
    assert {k: v for k, v in tree(upgraded.root).items() if not k.endswith("zarr.json")} == {
        k: v for k, v in content.items() if not k.endswith("zarr.json")
    }
    # Once: the runs after it keep what was made, and another request makes another.
    again = {r.store: r for r in run_stages(upgraded, STAGES, ThreadPool(2))}
    assert current_versions(upgraded) == after
    assert again["weights"].progress.done == 0
