"""What docs/analysis.md shows runs as it stands, but for the address of the data set, its places and its days."""

import json
import re
import shlex
from pathlib import Path

import deepprofile as dp
import matplotlib.pyplot as plt
import pandas as pd
import pytest
from deepprofile.app import cli
from typer.testing import CliRunner

from tests.analysis.conftest import climatology_of

GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "analysis.md").read_text()
URL = "https://example.org/deepprofile/public"
RING = [[-97.6, 29.8], [-96.9, 29.9], [-97.2, 30.3], [-97.6, 29.8]]
# Of the guide, and of the twin.
ELSEWHERE = {"38.5, -98.0": "30.1, -97.3", "2020-07-15": "2015-05-15", "2020-01-01": "2015-04-01", "2020-12-31": "2015-06-11"}


@pytest.fixture
def guide(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("basin.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [RING]}))
    opened = dp.open_store

    def open_store(url, store="profile", version="latest"):
        return climatology_of(opened(url)) if store == "climatology" else opened(url, store, version)

    monkeypatch.setattr(dp, "open_store", open_store)
    text = GUIDE.replace(URL, finished.root)
    for of_guide, of_twin in ELSEWHERE.items():
        assert of_guide in text
        text = text.replace(of_guide, of_twin)
    yield text
    plt.close("all")


def test_the_lines_of_the_guide_run(guide, finished):
    blocks = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    assert len(blocks) == 4
    found = {"url": finished.root}
    for block in blocks:
        exec(compile(block, "docs/analysis.md", "exec"), found)
    read = pd.read_csv("basin.csv")
    month = found["month"].deepprofile
    assert list(read.date) == ["2015-04-01", "2015-05-01"]
    assert read.water_storage_mm[1] == pytest.approx(float(month.storage(0.0, 1.0)[1]), rel=1e-5)
    assert read.water_storage_standard_deviation_mm[1] == pytest.approx(float(month.std_storage(0.0, 1.0)[1]), rel=1e-5)
    assert found["station"].distance < 7000.0
    assert len(plt.get_fignums()) == 3


def test_the_shell_says_the_same(guide):
    (command,) = re.findall(r"^    (deepprofile extract .*?)\n\n", guide, re.DOTALL | re.MULTILINE)
    _, *arguments = shlex.split(command.replace("\\\n", " "))
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.stderr
    shell = Path("basin.csv").read_bytes()
    lines = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)[:2]
    exec("\n".join(lines), {})
    assert Path("basin.csv").read_bytes() == shell


def test_every_method_of_the_guide_is_there():
    (table,) = re.findall(r"\| ask \| with \|\n(.*?)\n\n", GUIDE, re.DOTALL)
    named = set(re.findall(r"\.(\w+)\(", table.replace("dp.", ""))) - {"open_store"}
    assert named
    assert [name for name in sorted(named) if not hasattr(dp.ProfileAccessor, name) and not hasattr(dp, name)
            and name not in ("profile", "map", "section", "series")] == []  # fmt: skip
