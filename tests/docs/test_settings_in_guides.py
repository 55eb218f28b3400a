"""The settings that guides show, as they stand there."""

import re
from pathlib import Path

import pytest
import yaml
from deepprofile.config import Config, GridBound
from deepprofile.stages.rivals import reading_of

DOCS = Path(__file__).resolve().parents[2] / "docs"
BASE = {
    "period": {"start": "2020-01-01", "end": "2020-01-02"},
    "products": {"smap_l4": {"granules": "a"}},
    "stations": [{"kind": "ismn", "path": "b"}],
}


@pytest.fixture
def shown():
    """Reads the configuration of a guide: what is commented out is taken too, as it would be by who tries it."""

    def read(name, also=()):
        (block,) = re.findall(r"```yaml\n(.*?)```", (DOCS / name).read_text(), re.DOTALL)
        for key in also:
            assert f"# {key}:" in block
            block = block.replace(f"# {key}:", f"{key}:")
        return Config.model_validate(BASE | yaml.safe_load(block))

    return read


def test_the_guide_to_bounds(shown):
    low, high = shown("bounds.md", also=("units", "missing")).inversion.bounds
    assert low == 0.0
    assert isinstance(high, GridBound)
    assert (high.variable, high.units, high.missing) == ("Land-Model-Constants_Data/clsm_poros", "percent", 0.8)


def test_the_guide_to_rivals(shown):
    rivals = shown("rivals.md", also=("scale", "time", "latitude", "longitude")).rivals
    assert list(rivals) == ["esa_cci_rzsm", "c3s_rzsm", "some_model"]
    depths = [[(layer.top_m, layer.bottom_m) for layer in reading_of(rival).layers] for rival in rivals.values()]
    assert depths == [[(0.0, 0.1), (0.1, 0.4), (0.4, 1.0)]] * 3
    assert rivals["some_model"].flags == {"quality": (0.0, 1.0)}
