"""Profiles of the small twin, and a climatology beside them."""

import deepprofile as dp
import numpy as np
import pytest
import xarray as xr
from deepprofile.core.climatology import PENTADS, QUANTILES

LAYERS = ((0.0, 0.1), (0.0, 1.0))


@pytest.fixture(scope="session")
def opened(finished):
    """The published profiles of the twin, lazy."""
    return dp.open_profile(finished.root)


def climatology_of(profile):
    """Quantiles that rise from pentad to pentad, with a cell of which nothing is known."""
    shape = (PENTADS, len(QUANTILES), len(LAYERS), profile.sizes["y"], profile.sizes["x"])
    values = (
        np.linspace(0.17, 0.3, len(QUANTILES))[None, :, None, None, None]
        + np.linspace(0.0, 0.08, PENTADS)[:, None, None, None, None]
    )
    values = np.broadcast_to(values, shape).astype(np.float32).copy()
    values[..., 0, 0] = np.nan
    return xr.Dataset(
        {"soil_moisture": (("pentad", "quantile", "depth", "y", "x"), values)},
        coords={
            "pentad": np.arange(PENTADS),
            "quantile": list(QUANTILES),
            "depth": [0.05, 0.5],
            "depth_bnds": (("depth", "bnds"), np.array(LAYERS)),
            "y": profile.y,
            "x": profile.x,
        },
    )
