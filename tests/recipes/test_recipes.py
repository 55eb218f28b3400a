"""The recipes on Beam's DirectRunner give the bytes of ``deepprofile ingest``."""

import runpy
import shutil
from pathlib import Path

import apache_beam as beam
import pytest
import yaml
from deepprofile import config as configuration
from deepprofile.execution.pools import ThreadPool
from deepprofile.stages.pipeline import run_stages
from pangeo_forge_recipes.patterns import FilePattern

from tests.support.granules import DAYS, NAMES, document

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
RECIPES = Path(__file__).resolve().parents[2] / "recipes"
STEPS = {"smap_l4": 8, "gldas_noah": 8, "era5_land": 1, "smap_l3": 1}


@pytest.fixture
def feedstock(world, granules, tmp_path):
    """The folder of the recipes with a configuration of its own."""
    folder = tmp_path / "recipes"
    shutil.copytree(RECIPES, folder)
    (folder / "deepprofile.yaml").write_text(yaml.safe_dump(document(world, granules, tmp_path / "beam"), sort_keys=False))
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_writes_the_same_bytes_as_ingest(feedstock, world, granules, tmp_path, name):
    module = runpy.run_path(str(feedstock / f"{name}.py"))
    assert isinstance(module["pattern"], FilePattern)
    assert module["pattern"].dims == {"time": DAYS * STEPS[name]}
    with beam.Pipeline("DirectRunner") as pipeline:
        pipeline | module["recipe"]
    path = tmp_path / "dask.yaml"
    path.write_text(
        yaml.safe_dump(document(world, granules, tmp_path / "dask", products={name: {"granules": str(granules / name)}}))
    )
    run_stages(configuration.load(path), ("ingest",), ThreadPool(2))
    ours, beams = (sorted(p for p in (tmp_path / root / "ard" / name).rglob("*") if p.is_file()) for root in ("dask", "beam"))
    assert [p.relative_to(tmp_path / "dask") for p in ours] == [p.relative_to(tmp_path / "beam") for p in beams]
    assert len(ours) > 12
    for a, b in zip(ours, beams, strict=True):
        assert a.read_bytes() == b.read_bytes(), a.name


def test_every_recipe_is_listed():
    meta = yaml.safe_load((RECIPES / "meta.yaml").read_text())
    assert [entry["object"] for entry in meta["recipes"]] == [f"{name}:recipe" for name in NAMES]
    assert sorted(p.stem for p in RECIPES.glob("*.py")) == sorted(NAMES)


def test_a_recipe_without_granules_says_so(feedstock, tmp_path):
    (tmp_path / "empty").mkdir()
    settings = yaml.safe_load((feedstock / "deepprofile.yaml").read_text())
    settings["products"]["smap_l3"]["granules"] = str(tmp_path / "empty")
    (feedstock / "deepprofile.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(FileNotFoundError, match="empty holds no granule of the configured period for ingest/smap_l3"):
        runpy.run_path(str(feedstock / "smap_l3.py"))
