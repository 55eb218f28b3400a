"""An archive in the form of the ISMN as large as that of the paper, of records that look like soil moisture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from deepprofile.twin.world import SENSOR_DEPTHS_M

Array = NDArray[np.float64]

# What Zhu et al. (2026) compare with.
STATIONS: Final = 2373
NETWORKS: Final = 45
# Stations of a network lie about its centre like this, in degrees: some hundred kilometres.
SPREAD_DEGREES: Final = 2.5
# Days over which rain is remembered at the surface, and by how much longer a metre below.
MEMORY_DAYS, MEMORY_DAYS_PER_M = 4.0, 40.0
# Share of days without a value, and of days with one that did not pass its checks.
MISSING, DOUBTFUL = 0.05, 0.03
_CLIMATES: Final = ("Aw", "BSk", "Cfa", "Csb", "Dfb")
_LAND_COVERS: Final = ((10, "Cropland, rainfed"), (60, "Tree cover, broadleaved, deciduous"), (130, "Grassland"))
_RECORD: Final = b"2015/04/01 12:00     0.0000 G M\n"
_MISSING_RECORD: Final = b"2015/04/01 12:00 -9999.0000 M M\n"
# Places of the date, of the four decimals and of the flag in a record.
_DATE, _DECIMALS, _FLAG = slice(0, 10), slice(23, 27), 28


class Station(NamedTuple):
    """A station of the archive: its names and its place in degrees."""

    network: str
    name: str
    latitude: float
    longitude: float


def place_stations(stations: int = STATIONS, networks: int = NETWORKS, seed: int = 0) -> list[Station]:
    """Stations about the centres of their networks, which lie between 50 degrees south and 65 degrees north."""
    rng = np.random.default_rng(seed)
    centres = np.stack([rng.uniform(-50.0, 65.0, networks), rng.uniform(-170.0, 170.0, networks)], axis=1)
    found = []
    for number in range(stations):
        network = number % networks
        latitude, longitude = centres[network] + SPREAD_DEGREES * rng.standard_normal(2)
        found.append(Station(f"TWIN-{network:02d}", f"T{number:04d}", round(float(latitude), 5), round(float(longitude), 5)))
    return found


def write_archive(folder: Path, stations: list[Station], days: NDArray[np.datetime64], seed: int = 0) -> int:
    """Write a record of every station at five depths, one value a day; returns the number of files of records.

    The soil moisture of a network is rain that is remembered, for longer the deeper; each sensor has a mean, a range and noise
    of its own. The ISMN has hourly records as a rule: the readers take any step, and daily ones keep the archive small.
    """
    rng = np.random.default_rng(seed)
    regional: dict[str, Array] = {}
    dates = np.array([str(day).replace("-", "/").encode() for day in days.astype("datetime64[D]")])
    plain, missing = (np.frombuffer(record, np.uint8) for record in (_RECORD, _MISSING_RECORD))
    text = np.frombuffer(b"".join(dates.tolist()), np.uint8).reshape(days.size, -1)
    first, last = (str(day).replace("-", "") for day in days[[0, -1]].astype("datetime64[D]"))
    count = 0
    for station in stations:
        if station.network not in regional:
            regional[station.network] = _regional(rng, days.size)
        path = folder / station.network / station.name
        path.mkdir(parents=True, exist_ok=True)
        named = f"{station.network}_{station.network}_{station.name}"
        (path / f"{named}_static_variables.csv").write_text("".join(_static(rng)))
        for depth, series in zip(SENSOR_DEPTHS_M, regional[station.network], strict=True):
            values = rng.uniform(0.15, 0.3) + rng.uniform(0.02, 0.06) * series + 0.005 * rng.standard_normal(days.size)
            header = (
                f"{station.network} {station.network} {station.name} {station.latitude:10.5f} {station.longitude:10.5f} "
                f"{400.0:8.2f} {depth:8.4f} {depth:8.4f} Twin-Sensor\n"
            )
            lines = _lines(np.clip(values, 0.02, 0.6), rng.random(days.size), text, plain, missing)
            file = path / f"{named}_sm_{depth:.6f}_{depth:.6f}_Twin-Sensor_{first}_{last}.stm"
            file.write_bytes(header.encode() + lines)
            count += 1
    return count


def _regional(rng: np.random.Generator, days: int) -> Array:
    """Rain that is remembered, at each depth, of zero mean and unit variance; (depth, day)."""
    rain = rng.exponential(1.0, days) * (rng.random(days) < 0.3)
    rows = []
    for depth in SENSOR_DEPTHS_M:
        keep = np.exp(-1.0 / (MEMORY_DAYS + MEMORY_DAYS_PER_M * depth))
        wet = lfilter([1.0 - keep], [1.0, -keep], rain)
        rows.append((wet - wet.mean()) / wet.std())
    return np.array(rows)


def _lines(
    values: Array, chance: Array, dates: NDArray[np.uint8], plain: NDArray[np.uint8], missing: NDArray[np.uint8]
) -> bytes:
    """The records of a sensor, one line a day."""
    table = np.tile(plain, (values.size, 1))
    digits = np.rint(values * 1e4).astype(np.int64)
    for place in range(4):
        table[:, _DECIMALS.stop - 1 - place] = ord("0") + digits // 10**place % 10
    table[chance > 1.0 - DOUBTFUL, _FLAG] = ord("D")
    table[chance < MISSING] = missing
    table[:, _DATE] = dates
    return table.tobytes()


def _static(rng: np.random.Generator) -> Iterator[str]:
    climate = _CLIMATES[rng.integers(len(_CLIMATES))]
    number, cover = _LAND_COVERS[rng.integers(len(_LAND_COVERS))]
    yield "quantity_name;unit;depth_from[m];depth_to[m];value;description;quantity_source_name;\n"
    yield f"land cover classification;;;;{number};{cover};CCI_landcover_2010;\n"
    yield f"climate classification;;;;{climate};;koeppen_geiger_2017;\n"
