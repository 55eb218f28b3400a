"""The numerics alone need four packages; where another one is missing, a message says what brings it."""

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution, requires
from pathlib import Path

import pytest
from deepprofile.app.extras import missing_extra

# Does not find what the distributions of the bare install do not have.
GUARD = """
import sys
from importlib.machinery import PathFinder
from importlib.metadata import packages_distributions

ALLOWED = set({allowed!r})
OWNERS = packages_distributions()


class Guard(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        owners = {{owner.lower().replace("_", "-") for owner in OWNERS.get(name.partition(".")[0], ())}}
        return None if owners and not owners & ALLOWED else PathFinder.find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = Guard
"""

FUSE = (Path(__file__).parents[1] / "support" / "bare.py").read_text()


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
