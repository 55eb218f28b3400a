"""Fixtures that several tests share."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from deepprofile import twin
from deepprofile.core.basis import basis_at, basis_mean

pytest_plugins = ["tests.support.granules", "tests.support.object_storage"]

# Files are given to processes one by one, in this order: those that take longest go first, so that none is left for the end.
LONGEST = (
    *(
        "test_schedule",
        "test_interrupted",
        "test_download",
        "test_storage",
        "test_pipeline",
        "test_documents",
        "test_algorithms",
    ),
    *("test_cli", "test_accuracy", "test_demo", "test_memory"),
    *("test_runs", "test_struck_drivers", "test_starts", "test_struck_workers", "test_days"),
)


def pytest_collection_modifyitems(items):
    """Put the longest files first."""
    items.sort(key=lambda item: next((k for k, name in enumerate(LONGEST) if item.path.stem == name), len(LONGEST)))


LAYERS = {
    "smap_l4": ((0.0, 0.05), (0.0, 1.0)),
    "gldas_noah": ((0.0, 0.1), (0.1, 0.4), (0.4, 1.0)),
    "era5_land": ((0.0, 0.07), (0.07, 0.28), (0.28, 1.0)),
    "smap_l3": ((0.0, 0.05),),
}


def make_product(values, layers, start="2016-01-01", dims=("time", "layer", "cell")):
    """A product from an array and its layers, on consecutive days."""
    values = np.asarray(values)
    days = values.shape[dims.index("time")]
    return xr.DataArray(
        values,
        dims=dims,
        coords={
            "time": pd.date_range(start, periods=days),
            "layer_top": ("layer", [a for a, _ in layers]),
            "layer_bottom": ("layer", [b for _, b in layers]),
        },
        attrs={"units": "m3 m-3"},
    )


def make_variances(products, values):
    """Error variances along ``observation`` for these products."""
    names, tops, bottoms = [], [], []
    for name, series in products.items():
        names += [name] * series.sizes["layer"]
        tops += series.layer_top.values.tolist()
        bottoms += series.layer_bottom.values.tolist()
    return xr.DataArray(
        np.broadcast_to(np.asarray(values, dtype=float), (len(names),)).copy(),
        dims="observation",
        coords={
            "product": ("observation", names),
            "layer_top": ("observation", tops),
            "layer_bottom": ("observation", bottoms),
        },
    )


def exact_projection(depth, order):
    """From a profile on a fine grid of depths to the coefficients of the nearest polynomial that is exact at 0-0.05 and 1 m.

    By Lagrange's equations of the constrained least squares, solved as they stand.
    """
    basis, count = basis_at(depth, order), depth.size
    least = basis.T @ basis / count
    if order == 0:
        return np.linalg.solve(least, basis.T / count)
    operator = basis_mean(np.array([0.0, 1.0]), np.array([0.05, 1.0]), order)
    ends = np.zeros((2, count))
    ends[0, depth < 0.05] = 1.0 / (depth < 0.05).sum()
    # The value at 1 m lies half a step below the last of the grid.
    ends[1, -2:] = -0.5, 1.5
    system = np.block([[least, operator.T], [operator, np.zeros((2, 2))]])
    return np.linalg.solve(system, np.concatenate([basis.T / count, ends]))[: order + 1]


def random_products(rng, days=40, cells=3, missing=0.0, dtype=np.float64, spread=0.04):
    """The four products with independent noise about 0.25, some values missing."""
    out = {}
    for name, layers in LAYERS.items():
        values = rng.normal(0.25, spread, (days, len(layers), cells))
        values[rng.random(values.shape) < missing] = np.nan
        out[name] = make_product(values.astype(dtype), layers)
    return out


@pytest.fixture(scope="session")
def sample_data() -> Path:
    """The folder of real sample data."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("DEEPPROFILE_SAMPLE_DATA", default))
    if not path.is_dir():
        pytest.skip(f"the real sample data are not at {path}; set DEEPPROFILE_SAMPLE_DATA to their folder")
    return path


@pytest.fixture(scope="session")
def small_world() -> twin.World:
    """Two years of a small region."""
    return twin.simulate((10, 10), 2, seed=5, stations=8)
