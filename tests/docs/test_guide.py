"""The guide to adding a product, followed as it stands."""

import re
import sys
import types
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
import yaml
from deepprofile.config import Config
from deepprofile.execution.pools import ThreadPool
from deepprofile.grids.grids import EASE2_M36, regular
from deepprofile.sources import products
from deepprofile.stages.pipeline import run_stages

from tests.support.granules import url_of

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "add-a-product.md"
BOX = (-97.0, 35.0, -92.0, 38.0)


@pytest.fixture
def cci(monkeypatch):
    """The product of the guide, entered into the list."""
    code = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)[0]
    module = types.ModuleType("deepprofile.sources.products.cci_rzsm")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code, str(GUIDE), "exec"), module.__dict__)
    product = module.CciRzsm()
    monkeypatch.setitem(products.PRODUCTS, product.name, product)
    return product


def write_day(folder, day, value):
    window = regular(0.25).within((-98.0, 34.0, -91.0, 39.0))
    path = folder / f"ESACCI-SOILMOISTURE-L3S-RZSMV-COMBINED-{day.replace('-', '')}000000-fv09.1.nc"
    with h5py.File(path, "w") as file:
        file["lat"], file["lon"] = window.lat, window.lon
        file["time"] = np.array([(np.datetime64(day) - np.datetime64("1970-01-01")) / np.timedelta64(1, "D")])
        file["time"].attrs["units"] = "days since 1970-01-01 00:00:00 UTC"
        for k in (1, 2, 3):
            values = np.full((1, *window.shape), value + 0.02 * k, np.float32)
            values[0, :4] = -9999.0
            file[f"rzsm_{k}"] = values
            file[f"rzsm_{k}"].attrs["_FillValue"] = np.float32(-9999.0)


def test_the_product_of_the_guide_goes_through_ingest(cci, tmp_path):
    (tmp_path / "cci").mkdir()
    for day, value in (("2020-01-01", 0.2), ("2020-01-02", 0.25)):
        write_day(tmp_path / "cci", day, value)
    config = Config.model_validate(
        {
            "root": str(tmp_path / "root"),
            "grid": {"name": "ease2_m36", "bbox": BOX},
            "period": {"start": "2020-01-01", "end": "2020-01-03"},
            "products": {"cci_rzsm": {"granules": str(tmp_path / "cci")}},
        }
    )
    (result,) = run_stages(config, ("ingest",), ThreadPool(1))
    assert result.problems == ("2020-01-03: 1 of 1 time steps of cci_rzsm are missing",)
    store = xr.open_zarr(url_of(config, "ard/cci_rzsm"), consolidated=False)
    assert store.attrs["title"] == "ESA CCI RZSM: daily means"
    assert store.layer_bottom.values.tolist() == [0.1, 0.4, 1.0]
    south = store.soil_moisture.sel(time="2020-01-02").isel(y=-1, x=0).values
    np.testing.assert_allclose(south, [0.27, 0.29, 0.31], atol=3.1e-5)
    assert np.isnan(store.soil_moisture.isel(time=2)).all()
    assert config.grid.grid().name == EASE2_M36.name


def test_the_yaml_of_the_guide_is_valid(cci):
    blocks = re.findall(r"```yaml\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert yaml.safe_load(blocks[0]) == [{"id": "cci_rzsm", "object": "cci_rzsm:recipe"}]
    settings = yaml.safe_load(blocks[1])
    config = Config.model_validate(settings | {"period": {"start": "2020-01-01", "end": "2020-01-02"}})
    assert config.collocation.dependent == (("smap_l4", "cci_rzsm"),)
