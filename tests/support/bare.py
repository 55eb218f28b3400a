"""What the install without extras has to do: run as a program, in an environment that has nothing else."""

import sys
from importlib.resources import files

import deepprofile as dp
import numpy as np
import xarray as xr

rng = np.random.default_rng(1)
days = np.datetime64("2020-01-01", "ns") + np.arange(400) * np.timedelta64(1, "D")
truth = 0.25 + 0.08 * np.sin(np.arange(400) / 20.0)


def product(*layers):
    values = truth[:, None] + 0.02 * rng.standard_normal((400, len(layers)))
    depths = {"layer_top": ("layer", [a for a, _ in layers]), "layer_bottom": ("layer", [b for _, b in layers])}
    return xr.DataArray(values, dims=("time", "layer"), coords={"time": days, **depths})


products = {"a": product((0.0, 0.1), (0.1, 1.0)), "b": product((0.0, 0.07), (0.07, 0.28)), "c": product((0.0, 0.05))}
profile = dp.fuse(products)
assert abs(float(profile.deepprofile.mean(0.0, 1.0).mean()) - truth.mean()) < 0.02
assert np.isfinite(dp.invert(products, dp.estimate_errors(products)).coefficients).all()
assert np.isfinite(dp.triple_collocation(*(products[name].isel(layer=0) for name in "abc")).error_variance).all()
assert not {"zarr", "fsspec", "dask", "pydantic"} & sys.modules.keys(), sys.modules.keys()
assert (files("deepprofile") / "py.typed").is_file()
