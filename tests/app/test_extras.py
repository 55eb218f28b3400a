"""The numerics alone need four packages; where another one is missing, a message says what brings it."""

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution, requires

import pytest
from deepprofile.app.extras import missing_extra

# Refuses to import what the distributions of the bare install do not have.
GUARD = """
import sys
from importlib.metadata import packages_distributions

ALLOWED = set({allowed!r})
OWNERS = packages_distributions()


class Guard:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        owners = {{owner.lower().replace("_", "-") for owner in OWNERS.get(top, ())}}
        if owners and not owners & ALLOWED:
            raise ModuleNotFoundError(f"No module named {{top!r}}", name=top)
        return None


sys.meta_path.insert(0, Guard())
"""

FUSE = """
import numpy as np
import xarray as xr

import deepprofile as dp

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
"""


def closure(extra=None):
    """Names of all distributions that the install without extras brings."""
    found, open_ = set(), ["deepprofile"]
    while open_:
        name = open_.pop()
        for requirement in requires(name) or []:
            text, _, condition = requirement.partition(";")
            other = re.split(r"[\s<>=!~\[(]", text.strip(), maxsplit=1)[0].lower().replace("_", "-")
            if "extra ==" in condition or other in found:
                continue
            try:
                distribution(other)
            except PackageNotFoundError:
                continue
            found.add(other)
            open_.append(other)
    return found | {"deepprofile"}


def bare(script, *arguments):
    guarded = GUARD.format(allowed=sorted(closure())) + script
    return subprocess.run([sys.executable, "-c", guarded, *arguments], capture_output=True, text=True)


def test_the_numerics_run_on_what_the_bare_install_brings():
    assert {"numpy", "scipy", "numba", "xarray", "pandas"} <= closure()
    assert not {"zarr", "dask", "fsspec", "pydantic"} & closure()
    done = bare(FUSE)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", [["plan"], ["--help"]])
def test_the_command_line_says_what_it_lacks(arguments):
    done = bare("from deepprofile.app import main\nmain()", *arguments)
    assert done.returncode == 2
    assert re.fullmatch(r"deepprofile: the package \w+ is missing: install deepprofile\[io\]\n", done.stderr)


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("zarr", "io"),
        ("yaml", "io"),
        ("google", "io"),
        ("kr8s", "cluster"),
        ("earthaccess", "download"),
        ("matplotlib", "report"),
        ("pangeo_forge_recipes", "recipes"),
    ],
)
def test_each_package_has_its_extra(module, extra):
    error = ModuleNotFoundError(f"No module named {module!r}", name=f"{module}.part")
    assert missing_extra(error) == f"the package {module} is missing: install deepprofile[{extra}]"


def test_a_package_that_no_extra_brings_is_no_matter_of_extras():
    assert missing_extra(ModuleNotFoundError("No module named 'nowhere'", name="nowhere")) is None
