"""The numerics alone need four packages; where another one is missing, a message says what brings it."""

import os
import re
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import deepprofile
import pytest
from deepprofile.app.extras import missing_extra
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# Imports every module of the library, and prints what to install for those that cannot be imported.
IMPORT_ALL = """
import importlib, pkgutil, sys
import deepprofile
from deepprofile.app.extras import missing_extra

for module in pkgutil.walk_packages(deepprofile.__path__, "deepprofile."):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        print((missing_extra(error) or str(error)).rpartition(" ")[2])
"""
SCRIPT = Path(__file__).parents[1] / "support" / "bare.py"


def distributions(extras=()):
    """Names of all distributions that the install with these extras brings to this machine."""
    found, left = set(), {("deepprofile", extra) for extra in ("", *extras)}
    while left:
        name, extra = left.pop()
        found.add((name, extra))
        requirements = [Requirement(text) for text in distribution(name).requires or []]
        needed = [one for one in requirements if not one.marker or one.marker.evaluate({"extra": extra})]
        left |= {(canonicalize_name(one.name), other) for one in needed for other in ("", *one.extras)} - found
    return {name for name, _ in found}


def linked(installed):
    """What to link of a distribution: whole packages, with their compiled modules, and single files where there is none."""
    for file in installed.files or []:
        if not {"..", "__pycache__"} & set(file.parts):
            folders = list(file.parents)[-2::-1]
            yield next((folder for folder in folders if (installed.locate_file(folder) / "__init__.py").exists()), file)


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Makes the folder that the install with these extras makes, of links to what its distributions installed."""

    @cache
    def make(*extras):
        folder = tmp_path_factory.mktemp("site-packages")
        for installed in map(distribution, distributions(extras)):
            for path in set(linked(installed)):
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).symlink_to(installed.locate_file(path))
        return folder

    return make


def run_python(site_packages, *arguments):
    """Run Python on these site-packages and without its own."""
    paths = [str(Path(deepprofile.__file__).parents[1]), str(site_packages)]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run([sys.executable, "-S", "-P", *arguments], capture_output=True, text=True, env=variables)


def test_the_bare_install_is_the_numerics():
    assert {"numpy", "scipy", "numba", "xarray", "pandas"} <= distributions()
    assert not {"zarr", "dask", "fsspec", "pydantic"} & distributions()


@pytest.mark.parametrize("module", ["zarr", "dask", "fsspec", "pydantic"])
def test_nothing_else_can_be_imported_there(environment, module):
    assert f"No module named '{module}'" in run_python(environment(), "-c", f"import {module}").stderr


def test_the_numerics_run_on_what_the_bare_install_brings(environment):
    done = run_python(environment(), SCRIPT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", [["plan"], ["--help"]])
def test_the_command_line_says_what_it_lacks(environment, arguments):
    done = run_python(environment(), "-c", "from deepprofile.app import main\nmain()", *arguments)
    assert done.returncode == 2
    assert re.fullmatch(r"deepprofile: the package \w+ is missing: install deepprofile\[io\]\n", done.stderr)


def test_io_brings_all_but_the_report_polygons_and_the_recipes(environment):
    done = run_python(environment("io"), "-c", IMPORT_ALL)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.splitlines()) == {"deepprofile[report]", "deepprofile[analysis]", "deepprofile[recipes]"}


def test_the_command_line_says_what_the_report_lacks(environment, tmp_path):
    arguments = ["demo", "--output", tmp_path / "demo"]
    done = run_python(environment("io"), "-c", "from deepprofile.app import main\nmain()", *arguments)
    assert done.returncode == 2
    assert "install deepprofile[report]" in done.stderr


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("zarr", "io"),
        ("yaml", "io"),
        ("google", "io"),
        ("dask", "io"),
        ("requests", "io"),
        ("cloudpickle", "io"),
        ("dask_kubernetes", "cluster"),
        ("kr8s", "cluster"),
        ("pythonjsonlogger", "cluster"),
        ("earthaccess", "download"),
        ("ecmwf", "download"),
        ("matplotlib", "report"),
        ("shapely", "analysis"),
        ("apache_beam", "recipes"),
        ("pangeo_forge_recipes", "recipes"),
    ],
)
def test_each_package_has_its_extra(module, extra):
    error = ModuleNotFoundError(f"No module named {module!r}", name=f"{module}.part")
    assert missing_extra(error) == f"the package {module} is missing: install deepprofile[{extra}]"


def test_a_package_that_no_extra_brings_is_no_matter_of_extras():
    assert missing_extra(ModuleNotFoundError("No module named 'nowhere'", name="nowhere")) is None


def test_a_tree_that_is_not_installed_knows_no_extras(monkeypatch):
    def absent(_name):
        raise PackageNotFoundError

    monkeypatch.setattr("deepprofile.app.extras.requires", absent)
    assert missing_extra(ModuleNotFoundError("No module named 'zarr'", name="zarr")) is None
