"""The notebooks run from top to bottom on the published store of the twin."""

import os
import re
from pathlib import Path

import deepprofile as dp
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from tests.analysis.conftest import climatology_of

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "notebooks"
NOTEBOOKS = sorted(path.stem for path in FOLDER.glob("*.md"))


@pytest.fixture
def run(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEEPPROFILE_DATA", os.fspath(Path(finished.root) / "public"))
    opened = dp.open_store

    def open_store(url, store="profile", version="latest"):
        # The record of the twin is too short for one.
        return climatology_of(opened(url)) if store == "climatology" else opened(url, store, version)

    monkeypatch.setattr(dp, "open_store", open_store)

    def execute(name):
        text = (FOLDER / f"{name}.md").read_text()
        cells = re.findall(r"^```\{code-cell\}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        assert len(cells) == text.count("```{code-cell}") >= 5
        found = {}
        for cell in cells:
            exec(compile(cell, f"{name}.md", "exec"), found)
        return found

    yield execute
    plt.close("all")


def test_the_quickstart_ends_with_a_table(run, capsys):
    found = run("quickstart")
    assert len(plt.get_fignums()) == 3
    table = pd.read_csv("place.csv")
    assert set(zip(table.top_m, table.bottom_m, strict=True)) == {(0.0, 0.1), (0.0, 1.0), (0.4, 0.4)}
    assert f"theta(40 cm) = {float(found['day'].deepprofile.at(0.4)):.3f}" in capsys.readouterr().out


def test_a_layer_is_known_better_than_a_depth_in_it(run):
    found = run("depth")
    view = found["place"].deepprofile
    assert float(view.std_mean(0.0, 1.0)) < float(view.std(0.3))
    assert found["by_hand"] == pytest.approx(float(view.mean(0.1, 0.5)), abs=1e-6)


def test_shares_of_the_area_fall_from_class_to_class(run, capsys):
    run("drought")
    shares = [int(share) for share in re.findall(r"or worse: (\d+) %", capsys.readouterr().out)]
    assert len(shares) == 5
    assert shares == sorted(shares, reverse=True)


def test_a_station_that_is_known_has_its_scores(run):
    scores = run("station")["scores"]
    np.testing.assert_allclose(scores.bias, -0.03, atol=0.01)
    np.testing.assert_allclose(scores.ubRMSE, 0.02, atol=0.005)


def test_a_product_of_ones_own_is_part_of_the_profiles(run):
    found = run("product")
    there = found["mine"].notnull().any("layer")
    assert bool(found["after"].deepprofile.uses("mine").where(there, True).all())
    assert float(abs(found["after"].deepprofile.at(0.2) - found["before"].deepprofile.at(0.2)).mean()) > 1e-4


def test_every_notebook_is_run_here():
    assert NOTEBOOKS == ["depth", "drought", "product", "quickstart", "station"]
