import pytest
import yaml
from deepprofile.config import Config, ConfigError, documented, load
from pydantic import BaseModel

GOOD = """\
root: stores
period: {start: 2015-04-01, end: 2015-05-01}
products:
  smap_l4:
    granules: granules/smap_l4
blocks:
  cells: 64
"""


@pytest.fixture
def write(tmp_path):
    def make(text):
        path = tmp_path / "deepprofile.yaml"
        path.write_text(text)
        return path

    return make


def test_relative_paths_count_from_the_file(write, tmp_path):
    config = load(write(GOOD))
    assert config.root == str(tmp_path / "stores")
    assert config.products["smap_l4"].granules == str(tmp_path / "granules/smap_l4")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "  cells: 64",
            "  cels: 64",
            r"yaml, line 7: there is no key 'blocks.cels'; known are days, cells, chunk_days, chunk_cells",
        ),
        (
            "    granules:",
            "    granule:",
            r"line 5: there is no key 'products.smap_l4.granule'; known are granules, download, grid",
        ),
        ("  cells: 64", "  cells: many", r"line 7: blocks.cells: Input should be a valid integer.* \(it is 'many'\)"),
        ("  smap_l4:", "  smap_l5:", r"line 3: products: there is no product 'smap_l5'; known are smap_l4, gldas_noah"),
        ("  cells: 64", "  cells: 36", r"line 6: blocks: chunk_cells 8 does not divide cells 36"),
        ("end: 2015-05-01", "end: 2014-05-01", r"line 2: period: end 2014-05-01 is before start 2015-04-01"),
        ("root: stores", "root: [", r"line \d: not valid YAML"),
        ("root: stores", "grid: {name: ease2_m01}", r"line 1: grid: there is no grid 'ease2_m01'"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(write, old, new, message):
    with pytest.raises(ConfigError, match=message):
        load(write(GOOD.replace(old, new)))


def test_a_key_that_is_missing_is_named(write):
    with pytest.raises(ConfigError, match="'period' is missing"):
        load(write("products: {smap_l4: {granules: a}}"))


def test_keys_are_overridden(write):
    config = load(write(GOOD), ["inversion.method=wls", "blocks.cells=32", "grid.bbox=[-100, 30, -90, 40]"])
    assert config.inversion.method == "wls"
    assert config.blocks.cells == 32
    assert config.grid.bbox == (-100.0, 30.0, -90.0, 40.0)
    # What is not overridden stays.
    assert config.period.start.year == 2015


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("inversion.methd=wls", "--set inversion.methd=wls: there is no key 'inversion.methd'; known are method"),
        ("blocks.cells=x", "--set blocks.cells=x: blocks.cells: Input should be a valid integer"),
        ("ingest.tiles=8", "--set ingest.tiles=8: ingest.tiles is gone: a block has the whole window now"),
        ("ingest.chunk_cells=100", "--set ingest.chunk_cells=100: ingest: chunk_cells 100 does not divide cells 512"),
        ("nonsense", "--set nonsense: write it as key=value"),
        ("root.deeper=1", "--set root.deeper=1: root has no keys below it"),
    ],
)
def test_a_wrong_override_is_quoted(write, override, message):
    with pytest.raises(ConfigError, match=message):
        load(write(GOOD), [override])


def test_a_configuration_is_frozen(write):
    with pytest.raises(ValueError, match="frozen"):
        load(write(GOOD)).root = "elsewhere"


def test_every_key_is_documented():
    text = documented()
    for name, field in Config.model_fields.items():
        assert f"{name}:" in text
        kind = field.annotation
        if name not in ("products", "stations") and not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            assert field.description
    parsed = yaml.safe_load(text)
    assert set(parsed) == set(Config.model_fields)
    assert parsed["blocks"]["days"] == 366
    assert "min_day_fraction: 0.75  # share of a day's time steps that a daily mean needs" in text


def test_flags_are_those_of_the_ismn(write):
    stations = load(write(GOOD), ["stations=[{kind: ismn, path: /a, flags: [G, U]}, {kind: scan, path: /b}]"]).stations
    assert [source.flags for source in stations] == [("G", "U"), ("G",)]
    with pytest.raises(ConfigError, match=r"flags are those of the ISMN; scan has none"):
        load(write(GOOD), ["stations=[{kind: scan, path: /b, flags: [G]}]"])
    with pytest.raises(ConfigError, match=r"flags"):
        load(write(GOOD), ["stations=[{kind: ismn, path: /a, flags: [good]}]"])
