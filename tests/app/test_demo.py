"""The demo on a smaller world: its granules, every stage, and a report that knows the truth."""

import numpy as np
import pytest
from deepprofile import config as configuration
from deepprofile.app import demo, simulated
from deepprofile.app.published import Published
from deepprofile.execution.pools import ThreadPool
from deepprofile.stages.pipeline import STAGES, run_stages


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "simulate", lambda: demo.twin.simulate((10, 10), 0.4, seed=4, stations=6))
        said = []

        def run(config):
            results = run_stages(config, STAGES, ThreadPool(2))
            return 3 if any(result.problems for result in results) else 0

        code, written = demo.run_demo(folder, run, said.append)
    return folder, code, written, said


def test_demo_ends_well_and_writes_a_page(made):
    folder, code, written, said = made
    assert code == 0
    assert written[0] == folder / "report" / "index.html"
    assert said[0].startswith("simulating a region")
    page = written[0].read_text()
    assert "<h2>Against the truth</h2>" in page
    for name in ("fused", "fused, no SMAP L3", "smap_l4", "gldas_noah", "era5_land", "plain average", "ceiling"):
        assert f"<td>{name}</td>" in page
    assert "the truth and the sensors" in page


def test_scores_against_the_truth_are_those_of_the_stores(made):
    folder, *_ = made
    world = demo.twin.simulate((10, 10), 0.4, seed=4, stations=6)
    stores = Published.of(configuration.load(folder / "deepprofile.yaml"))
    table = demo.judge(world, stores).set_index(["band", "estimate"])
    profile = stores.open("profile")
    fused = profile.deepprofile.mean(0.1, 0.3).transpose("time", "y", "x").values
    error = fused - world.truth_mean(0.1, 0.3).values
    by_hand = np.median(np.sqrt(np.nanmean(error**2, axis=0)))
    assert table.loc[("10-30 cm", "fused"), "rmse"] == pytest.approx(by_hand, rel=1e-4)
    assert len(table) == 6 * 7
    # No linear estimator that knows the products alone beats the ceiling by much.
    for band in table.index.levels[0]:
        assert table.loc[(band, "fused"), "ubrmse"] > 0.9 * table.loc[(band, "ceiling"), "ubrmse"]


def test_a_second_demo_uses_what_is_there(made):
    folder, *_ = made
    before = (folder / "granules" / "complete").stat().st_mtime_ns
    simulated.prepare(demo.twin.simulate((10, 10), 0.4, seed=4, stations=6), folder)
    assert (folder / "granules" / "complete").stat().st_mtime_ns == before
