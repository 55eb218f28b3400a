"""What a new version has to pass, what is done again on request, and which old versions stay."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from deepprofile.config import Gate, Retention
from deepprofile.core.basis import basis_at, bernstein_from_legendre
from deepprofile.execution.pools import ThreadPool
from deepprofile.stages import gate
from deepprofile.stages.pipeline import STAGES, Request, run_stages
from deepprofile.stages.retention import expired_versions, publications, remove
from deepprofile.stages.schedule import AsOf
from deepprofile.stages.schemas import COEFFICIENTS
from deepprofile.storage.filesystems import join
from deepprofile.storage.lease import Holder
from deepprofile.storage.objects import read_json
from deepprofile.storage.packing import Packing
from deepprofile.storage.roots import Root, store_of
from deepprofile.storage.stores import exists
from numpy.polynomial import legendre, polynomial

from tests.support.granules import NAMES, current_versions, tree

TODAY = AsOf(np.datetime64("2016-01-01"))


@pytest.fixture
def published(finished, tmp_path):
    """The root of a copy of a finished run, which may be changed."""
    shutil.copytree(finished.root, tmp_path / "root")
    return tmp_path / "root"


def run(config, stages=STAGES, **asked):
    return {r.stage: r for r in run_stages(config, stages, ThreadPool(2), request=Request(TODAY, **asked))}


def manifest_of(config, store="profile", stage="invert", version=None):
    version = version or current_versions(config)[store]
    return read_json(join(config.root, "runs", f"{stage}-{version}", "manifest.json"))


def test_a_change_that_is_too_large_is_not_published_until_somebody_accepts_it(configure, published):
    config = configure(inversion={"prior": {"std": 0.01}}, gate={"jump": 1e-3})
    before = current_versions(config)
    with pytest.raises(gate.ChecksFailedError, match=r"not published: change of profiles .* 0\.0\d+, allowed 0\.001") as caught:
        run(config)
    assert current_versions(config) == before
    assert {check.name: check.passed for check in caught.value.checks}["jump"] is False
    # What was computed is not computed again.
    results = run(config, accepted_by="A. Hydrologist")
    assert results["invert"].progress.done == 0
    assert current_versions(config)["profile"] != before["profile"]
    manifest = manifest_of(config)
    assert manifest["accepted_by"] == "A. Hydrologist"
    passed = {check["name"]: check["passed"] for check in manifest["checks"]}
    assert (passed["bounds"], passed["coverage"], passed["jump"]) == (True, True, False)
    assert publications(Root(config.root))[-1]["accepted_by"] == "A. Hydrologist"


def test_profiles_that_are_lost_are_noticed(configure, published, granules, tmp_path):
    folder = tmp_path / "fewer"
    for name in NAMES:
        shutil.copytree(granules / name, folder / name, copy_function=lambda a, b: Path(b).symlink_to(a))
        for path in (folder / name).iterdir():
            if "201505" in path.name:
                path.unlink()
    config = configure(products={name: {"granules": str(folder / name)} for name in NAMES}, collocation={"every_days": 500})
    with pytest.raises(gate.ChecksFailedError, match=r"share of the published profiles that are lost: 0\.4\d+, allowed 0\.01"):
        run(config, collocate=None)


def test_scores_at_stations_are_a_check(configure, published):
    config = configure(inversion={"prior": {"std": 0.07}}, gate={"max_rmse": 1e-4, "min_r": 0.999, "min_days": 20})
    with pytest.raises(gate.ChecksFailedError) as caught:
        run(config)
    found = {check.name: check for check in caught.value.checks}
    assert not found["rmse"].passed
    assert not found["r"].passed
    assert found["rmse"].limit == 1e-4
    assert found["rmse change"].passed
    assert found["r change"].passed


def by_cell(coefficients):
    """Coefficients (day, degree, row, column) as an inversion returns them."""
    return np.ascontiguousarray(coefficients.transpose(2, 3, 0, 1))


def test_bounds_are_judged_by_the_profile_and_not_by_what_encloses_it():
    """Bernstein coefficients enclose a polynomial, but not tightly: where they leave the bounds, depths decide."""
    chebyshev = legendre.poly2leg(polynomial.Polynomial(np.polynomial.chebyshev.cheb2poly([0, 0, 0, 0, 0, 1])).coef)
    coefficients = 0.5 * chebyshev + np.r_[0.5, np.zeros(5)]
    enclosing = bernstein_from_legendre(5) @ coefficients
    assert enclosing.min() < -1.0
    profile = coefficients.astype(np.float32).reshape(1, 1, 1, 6)
    day, limits = np.array([0]), (np.zeros((1, 1)), np.ones((1, 1)))
    assert gate.of_block(profile, COEFFICIENTS, day, None, limits)["outside"] == 0
    tighter = (np.zeros((1, 1)), np.full((1, 1), 0.999))
    assert gate.of_block(profile, COEFFICIENTS, day, None, tighter)["outside"] == 1


def test_a_profile_outside_of_its_bounds_is_counted():
    coefficients = np.zeros((2, 3, 1, 2), np.float32)
    coefficients[:, 0] = 0.3
    # Rises by 0.8 over the depth: below zero at the surface.
    coefficients[1, 1, 0, 1] = 0.4
    low, high = np.zeros((1, 2)), np.full((1, 2), 0.8)
    found = gate.of_block(by_cell(coefficients), COEFFICIENTS, np.array([3, 4]), None, (low, high))
    assert (found["computed"], found["outside"]) == (4, 1)
    (check, *_) = gate.of_profiles(Gate(), {}, {})
    assert check.passed


def test_the_change_of_a_profile_is_its_mean_square_over_depth():
    rng = np.random.default_rng(0)
    old, new = (rng.normal(0.3, 0.01, (4, 5, 2, 2)).astype(np.float32) for _ in range(2))
    old[3, :, 0, 0] = np.nan
    new[0, :, 1, 1] = np.nan
    fine, bounds = Packing("int32", 2.0**-24), (np.zeros((2, 2)), np.ones((2, 2)))
    found = gate.of_block(by_cell(new), fine, np.arange(4), old[:3].swapaxes(0, 1), bounds)
    depths = np.linspace(0.0, 1.0, 2001)
    theta = np.einsum("zk,tkyx->ztyx", basis_at(depths, 4), (new[:3] - old[:3]).astype(float))
    expected = np.nansum(np.trapezoid(theta**2, depths, axis=0))
    assert found["change"] == pytest.approx(expected, rel=1e-4)
    assert (found["compared"], found["lost"]) == (11, 1)


def test_days_are_done_again_on_request_and_only_once(configure, published):
    config = configure()
    before, names = tree(config.root), current_versions(config)
    first, last = np.datetime64("2015-04-10"), np.datetime64("2015-04-12")
    results = run(config, collocate=None, redo=(("smap_l4",), first, last))
    redone = results["ingest/smap_l4"].progress
    # One stretch of days; of it, three days.
    assert (redone.done, redone.copied) == (1, 2)
    assert results["ingest/era5_land"].progress.done == 0
    assert current_versions(config)["ard/smap_l4"] != names["ard/smap_l4"]
    after = tree(config.root)
    same = {key: value for key, value in after.items() if not key.startswith(("moments", "weights"))}
    assert same == {key: before[key] for key in same}
    assert all(result.progress.done == 0 for result in run(config, collocate=None).values())


def test_old_versions_go_but_for_the_current_the_recent_and_the_leased(configure, published):
    one = configure(inversion={"prior": {"std": 0.07}}, gate={"jump": 1.0})
    before = len(publications(Root(one.root)))
    run(one)
    run(configure(inversion={"prior": {"std": 0.06}}, gate={"jump": 1.0}))
    root = Root(one.root)
    assert len(publications(root)) == before + 2
    later = time.time() + 40 * 86400.0
    assert expired_versions(root, Retention(versions=1, days=90), later) == []
    assert expired_versions(root, Retention(versions=3, days=30), later) == []
    stores = {store_of(old.store) for old in expired_versions(root, Retention(versions=1, days=30), later)}
    assert stores == {"covariance", "profile", "matchups", "differences", "validation", "layers", "map", "files"}
    # A run that is at work on versions keeps them from being removed.
    manifest = manifest_of(one)
    with root.lease() as lease:
        assert lease.holder.run == Holder.of_this_process().run == manifest["drivers"][-1]["run"]
        spared = expired_versions(root, Retention(versions=1, days=30), later)
        assert {old.store for old in spared} == {"files"}
    found = expired_versions(root, Retention(versions=2, days=30), later)
    files, found = ([old for old in found if (old.store == "files") is wanted] for wanted in (True, False))
    # Of two months, as they were before the last but one.
    assert len(files) == 2
    made = ["covariance", "differences", "layers/2015", "map/2015", "matchups/2015", "profile/2015", "validation"]
    assert [old.store for old in found] == made
    assert all(old.bytes > 0 for old in found)
    before = tree(one.root)
    stage_of = {"covariance": "invert-covariances", "profile": "invert", "validation": "validate"}
    stage_of |= {store: f"publish-{store}" for store in ("layers", "map")}
    for old in (*found, *files):
        remove(old)
        if old in files:
            continue
        assert not exists(root.version(old.store, old.version))
        store = store_of(old.store)
        assert manifest_of(one, store, stage_of.get(store, f"validate-{store}"), old.version)
    assert tree(one.root) == before
    assert expired_versions(root, Retention(versions=2, days=30), later) == []
