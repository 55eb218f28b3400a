"""A day of full-size global granules of each product, ingested, against reading the same fields and nothing else.

    python -m benchmarks.ingest [PRODUCT ...]

The granules are made here, with the arrays, chunks and compression of the providers: SPL4SMGP (eight of 1624 x 3856, gzip),
GLDAS Noah (eight of 600 x 1440, deflate), ERA5-Land (one of 24 x 1801 x 3600: deflate in chunks of a field, and GRIB), and
SPL3SMP_E (two passes of 1624 x 3856, gzip). The floor is a loop over ``h5py`` datasets, or over the messages of ecCodes. Ours
reads, checks, screens, averages and packs the fields, and writes the day's store.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from deepprofile.config import Config
from deepprofile.grids.grids import EASE2_M09, ERA5_LAND_01, GLDAS_025
from deepprofile.stages import ingest
from deepprofile.stages.increments import BlockInputs
from deepprofile.stages.ingest import ProductIngest
from deepprofile.storage.roots import Root
from deepprofile.storage.stores import create
from numpy.typing import NDArray
from pyproj import CRS
from scipy.ndimage import gaussian_filter, zoom

from benchmarks.results import Measurement, median, ratio, side_by_side

DAY = np.datetime64("2020-01-28")
FILL = np.float32(-9999.0)
PAIRS = 3
_J2000 = np.datetime64("2000-01-01T11:58:55.816", "ms")
Floats = NDArray[np.float32]


class Fields:
    """Fields with the entropy of real ones: smooth patterns, a little noise, and sea over two thirds."""

    def __init__(self, shape: tuple[int, int], seed: int = 0) -> None:
        self._rng, self._shape = np.random.default_rng(seed), shape
        self.land = self._smooth(16) > 0.4

    def _smooth(self, coarse: int) -> Floats:
        size = [n // coarse + 2 for n in self._shape]
        small = gaussian_filter(self._rng.normal(size=size), 3.0)
        found = zoom(small / small.std(), coarse, order=1)[: self._shape[0], : self._shape[1]]
        return np.asarray(found, np.float32)

    def __call__(self, mean: float, deviation: float, low: float, high: float, fill: Any = FILL) -> Floats:
        """A field with this mean and standard deviation on land."""
        noise = self._rng.normal(0.0, 0.02, self._shape).astype(np.float32)
        values = np.clip(mean + deviation * (self._smooth(8) + noise), low, high).astype(np.float32)
        found: Floats = np.where(self.land, values, fill).astype(np.float32)
        return found


def _put(file: Any, name: str, values: NDArray[Any], chunks: tuple[int, ...] | None = None, **more: Any) -> None:
    options: dict[str, Any] = {} if chunks is None else {"chunks": chunks, "compression": "gzip", "compression_opts": 5}
    made = file.create_dataset(name, data=values, **options)
    for key, value in more.items():
        made.attrs[key] = value


def write_smap_l4(folder: Path) -> list[str]:
    """Eight granules; returns the paths of the fields in them."""
    fields, chunks = Fields(EASE2_M09.shape), (116, 241)
    limits: dict[str, Any] = {"_FillValue": FILL, "units": "m3 m-3", "valid_min": np.float32(0.0), "valid_max": np.float32(0.9)}
    for step in range(8):
        time = DAY.astype("datetime64[m]") + np.timedelta64(90 + 180 * step, "m")
        stamp = str(time).replace("-", "").replace(":", "")
        with h5py.File(folder / f"SMAP_L4_SM_gph_{stamp}00_Vv8011_001.h5", "w") as file:
            _put(file, "x", EASE2_M09.x, units="m")
            _put(file, "y", EASE2_M09.y, units="m")
            seconds = (time.astype("datetime64[ms]") - _J2000) / np.timedelta64(1, "s")
            _put(file, "time", np.array([seconds]), units="seconds since 2000-01-01 11:58:55.816")
            _put(file, "Geophysical_Data/sm_surface", fields(0.25, 0.06, 0.02, 0.6), chunks, **limits)
            _put(file, "Geophysical_Data/sm_rootzone", fields(0.28, 0.05, 0.02, 0.6), chunks, **limits)
            temperature = fields(285.0, 12.0, 220.0, 330.0)
            _put(file, "Geophysical_Data/soil_temp_layer1", temperature, chunks, _FillValue=FILL, units="K")
            snow = np.where((temperature < 273.0) & (temperature > 0.0), np.float32(20.0), np.float32(0.0))
            snow = np.where(temperature > 0.0, snow, FILL)
            _put(file, "Geophysical_Data/snow_mass", snow, chunks, _FillValue=FILL, units="kg m-2")
    return [f"Geophysical_Data/{name}" for name in ("sm_surface", "sm_rootzone", "soil_temp_layer1", "snow_mass")]


_GLDAS = {"SoilMoi0_10cm_inst": 25.0, "SoilMoi10_40cm_inst": 80.0, "SoilMoi40_100cm_inst": 170.0}


def write_gldas_noah(folder: Path) -> list[str]:
    """Eight granules."""
    fields, chunks = Fields(GLDAS_025.shape), (1, *GLDAS_025.shape)
    for step in range(8):
        with h5py.File(folder / f"GLDAS_NOAH025_3H.A{str(DAY).replace('-', '')}.{3 * step:02d}00.021.nc4", "w") as file:
            _put(file, "lat", GLDAS_025.lat.astype(np.float32), units="degrees_north")
            _put(file, "lon", GLDAS_025.lon.astype(np.float32), units="degrees_east")
            minutes = (DAY - np.datetime64("2000-01-01T03:00")) / np.timedelta64(1, "m") + 180.0 * step
            _put(file, "time", np.array([minutes]), units="minutes since 2000-01-01 03:00:00")
            for name, mean in _GLDAS.items():
                _put(
                    file, name, fields(mean, 0.2 * mean, 0.1 * mean, 1.6 * mean)[None], chunks, _FillValue=FILL, units="kg m-2"
                )
            temperature = fields(285.0, 12.0, 220.0, 330.0)[None]
            _put(file, "SoilTMP0_10cm_inst", temperature, chunks, _FillValue=FILL, units="K")
            snow = np.where((temperature < 273.0) & (temperature > 0.0), np.float32(20.0), np.float32(0.0))
            _put(file, "SWE_inst", np.where(temperature > 0.0, snow, FILL), chunks, _FillValue=FILL, units="kg m-2")
    return [*_GLDAS, "SoilTMP0_10cm_inst", "SWE_inst"]


def write_era5_land(folder: Path) -> list[str]:
    """One granule of 24 hours."""
    fields, steps = Fields(ERA5_LAND_01.shape), DAY.astype("datetime64[s]").astype(np.int64) + 3600 * np.arange(24)
    names, nan = ("swvl1", "swvl2", "swvl3", "stl1"), np.float32(np.nan)
    with h5py.File(folder / f"era5_land_{str(DAY).replace('-', '')}.nc", "w") as file:
        _put(file, "valid_time", steps, units="seconds since 1970-01-01", calendar="proleptic_gregorian")
        _put(file, "latitude", ERA5_LAND_01.lat, units="degrees_north")
        _put(file, "longitude", ERA5_LAND_01.lon % 360.0, units="degrees_east")
        for name in names:
            chunks = (1, *ERA5_LAND_01.shape)
            options = {"chunks": chunks, "compression": "gzip", "compression_opts": 1, "shuffle": True, "fillvalue": nan}
            made = file.create_dataset(name, (24, *ERA5_LAND_01.shape), "f4", **options)
            made.attrs["_FillValue"], made.attrs["units"] = nan, "K" if name == "stl1" else "m**3 m**-3"
            base = fields(285.0, 12.0, 220.0, 330.0, nan) if name == "stl1" else fields(0.25, 0.06, 0.02, 0.6, nan)
            for step in range(24):
                made[step] = base + np.float32(0.01 * np.sin(step / 4.0))
    return list(names)


def write_smap_l3(folder: Path) -> list[str]:
    """One granule of two passes."""
    fields, chunks, names = Fields(EASE2_M09.shape), (203, 241), []
    with h5py.File(folder / f"SMAP_L3_SM_P_E_{str(DAY).replace('-', '')}_R19240_001.h5", "w") as file:
        extent = file.create_group("Metadata/Extent")
        extent.attrs["rangeBeginningDateTime"] = f"{DAY}T00:00:00.000Z"
        for group, end in (("Soil_Moisture_Retrieval_Data_AM", ""), ("Soil_Moisture_Retrieval_Data_PM", "_pm")):
            moisture = fields(0.25, 0.06, 0.02, 0.5)
            limits: dict[str, Any] = {
                "_FillValue": FILL,
                "units": "cm**3/cm**3",
                "valid_min": np.float32(0.02),
                "valid_max": np.float32(0.5),
            }
            _put(file, f"{group}/soil_moisture{end}", moisture, chunks, **limits)
            flag = np.where(moisture > 0.0, 0, 65534).astype(np.uint16)
            _put(file, f"{group}/retrieval_qual_flag{end}", flag, chunks, _FillValue=np.uint16(65534))
            names += [f"{group}/soil_moisture{end}", f"{group}/retrieval_qual_flag{end}"]
    return names


def _eccodes() -> Any:
    """The library brings a PROJ of its own, and pyproj has to have found its database before that is there."""
    CRS.from_epsg(4326)
    import eccodes

    return eccodes


def write_era5_land_grib(folder: Path) -> list[str]:
    """One granule of 24 hours, packed in 16 bits with the sea masked, as the Climate Data Store gives it."""
    eccodes = _eccodes()
    grid, missing = ERA5_LAND_01, 9999.0
    fields, parameters = Fields(grid.shape), {"swvl1": 39, "swvl2": 40, "swvl3": 41, "stl1": 139}
    keys: dict[str, Any] = {
        "dataDate": int(str(DAY).replace("-", "")),
        "Ni": grid.columns,
        "Nj": grid.rows,
        "latitudeOfFirstGridPointInDegrees": 90.0,
        "latitudeOfLastGridPointInDegrees": -90.0,
        "longitudeOfFirstGridPointInDegrees": 0.0,
        "longitudeOfLastGridPointInDegrees": 359.9,
        "iDirectionIncrementInDegrees": 0.1,
        "jDirectionIncrementInDegrees": 0.1,
        "bitsPerValue": 16,
        "bitmapPresent": 1,
        "missingValue": missing,
    }
    bases = {
        name: fields(*((285.0, 12.0, 220.0, 330.0) if name == "stl1" else (0.25, 0.06, 0.02, 0.6)), np.nan)
        for name in parameters
    }
    with open(folder / f"era5_land_{str(DAY).replace('-', '')}.grib", "wb") as file:
        for hour in range(24):
            for name, parameter in parameters.items():
                message = eccodes.codes_grib_new_from_samples("regular_ll_sfc_grib1")
                for key, value in {"paramId": parameter, "dataTime": 100 * hour, **keys}.items():
                    eccodes.codes_set(message, key, value)
                values = np.nan_to_num(bases[name] + 0.01 * np.sin(hour / 4.0), nan=missing)
                eccodes.codes_set_values(message, values.ravel().astype(np.float64))
                eccodes.codes_write(message, file)
                eccodes.codes_release(message)
    return list(parameters)


def _read_hdf5(paths: Sequence[Path], names: Sequence[str]) -> None:
    """The floor of HDF5."""
    for path in paths:
        with h5py.File(path, "r") as file:
            for name in names:
                dataset = file[name]
                if dataset.ndim == 3:
                    # A field at a time: nobody keeps a day of the globe in memory to throw it away.
                    for step in range(len(dataset)):
                        dataset[step]
                else:
                    dataset[...]


def _read_grib(paths: Sequence[Path], _: Sequence[str]) -> None:
    """The floor of GRIB: ecCodes, on which cfgrib stands too."""
    eccodes = _eccodes()
    for path in paths:
        with path.open("rb") as file:
            while (message := eccodes.codes_grib_new_from_file(file)) is not None:
                eccodes.codes_get_values(message)
                eccodes.codes_release(message)


class Case(NamedTuple):
    """A product in one of its formats: how its day is written, and how its fields are read by themselves."""

    product: str
    write: Callable[[Path], list[str]]
    read: Callable[[Sequence[Path], Sequence[str]], None]


CASES = {
    "smap_l4": Case("smap_l4", write_smap_l4, _read_hdf5),
    "gldas_noah": Case("gldas_noah", write_gldas_noah, _read_hdf5),
    "era5_land, netCDF": Case("era5_land", write_era5_land, _read_hdf5),
    "era5_land, GRIB": Case("era5_land", write_era5_land_grib, _read_grib),
    "smap_l3": Case("smap_l3", write_smap_l3, _read_hdf5),
}


def _ours(name: str, folder: Path, granules: Path) -> Callable[[], object]:
    """The block of ``ingest`` that holds the globe."""
    config = Config.model_validate(
        {
            "root": str(folder / "root"),
            "period": {"start": str(DAY), "end": str(DAY)},
            "products": {name: {"granules": str(granules)}},
            # A day in place of eight; chunks of as many values as by default.
            "ingest": {"days": 1, "chunk_cells": 128},
            "compute": {"memory_limit": "8GiB"},
        }
    )
    plan = ingest.plan(ProductIngest.of(config, name), Root(config.root))
    (version,) = plan.versions
    job = version.job
    create(version.url, version.template)
    (block,) = job.blocks
    assert job.inputs is not None
    given: BlockInputs = job.inputs(block)

    def run() -> None:
        outcome = job.compute(block, given)
        assert not outcome.problems, outcome.problems

    return run


def _reader(case: Case, granules: Path, fields: Sequence[str]) -> Callable[[], object]:
    paths = sorted(granules.iterdir())
    return lambda: case.read(paths, fields)


def _each(names: Sequence[str]) -> Iterator[tuple[str, Path]]:
    for name in names:
        folder = Path(tempfile.mkdtemp(prefix="deepprofile-ingest-"))
        try:
            yield name, folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def measure(names: Sequence[str] = tuple(CASES)) -> dict[str, Measurement]:
    """The table of some products."""
    table = Measurement(
        "ingest of a global day against h5py, and ecCodes for GRIB, reading the same fields",
        ("product", "reading alone, CPU / wall (s)", "ingest CPU / wall (s)", "ratio of CPU / wall"),
        note="Ours reads, checks, screens, averages, packs and writes the store.",
    )
    for name, folder in _each(names):
        granules = folder / "granules"
        granules.mkdir()
        case = CASES[name]
        fields = case.write(granules)
        floor, ours = side_by_side(
            [_reader(case, granules, fields), _ours(case.product, folder, granules)], PAIRS, settled=True
        )
        table.add(name, median(floor), median(ours), ratio(ours, floor))
    return {"ingest": table}


if __name__ == "__main__":
    for measurement in measure(sys.argv[1:] or tuple(CASES)).values():
        measurement.show()
