"""ERA5-Land hourly data from the Copernicus Climate Data Store, doi 10.24381/cds.e2161bac."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

import numpy as np

from deepprofile.grids.grids import ERA5_LAND_01, Grid
from deepprofile.sources.products.fields import FieldReader
from deepprofile.sources.products.files import GranuleFile, opened
from deepprofile.sources.products.granule import GranuleName, Layer, Product, base_name, day, has_data_ending

# Files of the CDS bear the name that the user gave them. It says the days where it holds one date and nothing that looks like
# another: a year and a month, or a day, with no digit before or after it.
_DATE: Final = re.compile(r"(?<!\d)((?:19|20)\d{2})([-_]?)(0[1-9]|1[0-2])(?:\2(0[1-9]|[12]\d|3[01]))?(?!\d)")
_NUMBERS: Final = re.compile(r"\d{4,}")
# The last digits of single precision leave values near -1e-20 where the soil is dry.
_TINY: Final = 1e-6


@dataclass(frozen=True)
class Era5Land(Product):
    """ERA5-Land: hourly, 0.1 degrees; the layer below 1 m is not used."""

    grid: Grid = ERA5_LAND_01
    name: ClassVar[str] = "era5_land"
    title: ClassVar[str] = "ERA5-Land"
    layers: ClassVar[tuple[Layer, ...]] = (Layer(0.0, 0.07), Layer(0.07, 0.28), Layer(0.28, 1.0))
    # Short names, those of requests and of mirrors, and those that CDO makes of the numbers of the parameters.
    variables: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("swvl1", "volumetric_soil_water_layer_1", "var39", "param39.128.192"),
        ("swvl2", "volumetric_soil_water_layer_2", "var40", "param40.128.192"),
        ("swvl3", "volumetric_soil_water_layer_3", "var41", "param41.128.192"),
    )
    temperature: ClassVar[tuple[str, ...]] = ("stl1", "soil_temperature_level_1", "var139", "param139.128.192")
    steps_per_day: ClassVar[int] = 24
    latency_days: ClassVar[int] = 5
    final_latency_days: ClassVar[int | None] = 92
    residue: ClassVar[float] = _TINY

    @property
    def collections(self) -> tuple[tuple[str, str], ...]:
        """See ``Product.collections``."""
        return (("reanalysis-era5-land", ""),)

    def parse(self, name: str) -> GranuleName | None:
        """Name that holds ``YYYYMMDD`` (one day) or ``YYYYMM`` (one month), and no other date."""
        stem = base_name(name)
        found = list(_DATE.finditer(stem))
        if len(found) != 1 or not has_data_ending(stem) or _NUMBERS.search(_DATE.sub("", stem)):
            return None
        match = found[0]
        if match[4]:
            first = last = day(match[1] + match[3] + match[4])
            if first is None or last is None:
                return None
        else:
            month = np.datetime64(f"{match[1]}-{match[3]}", "M")
            first, last = month.astype("datetime64[D]"), (month + 1).astype("datetime64[D]") - np.timedelta64(1, "D")
        return GranuleName(first, last, "".join(part for part in (match[1], match[3], match[4]) if part))

    def is_provisional(self, path: Path) -> bool:
        """See ``Product.is_provisional``: said by ``expver`` in the file."""
        with opened(path) as files:
            return any(FieldReader.has_provisional(file) for file in files)

    def _mirror_stops(self, file: GranuleFile) -> tuple[np.datetime64 | None, np.datetime64 | None]:
        """Stores say up to which day their values are final, and up to which they are there."""
        stops = [str(file.attribute(name) or "") for name in ("valid_time_stop", "valid_time_stop_era5t")]
        final, there = (_stated_day(stop) for stop in stops)
        return final, max((stop for stop in (final, there) if stop is not None), default=None)


def _stated_day(text: str) -> np.datetime64 | None:
    """The day at which a text begins, with hyphens or without; None where it is none."""
    digits = re.match(r"(\d{4})-?(\d{2})-?(\d{2})", text.strip())
    return day("".join(digits.groups())) if digits is not None else None
