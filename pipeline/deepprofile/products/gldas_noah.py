"""GLDAS-2.1 Noah land surface model (GLDAS_NOAH025_3H), doi 10.5067/E7TYRXPJKWOQ."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

import numpy as np

from deepprofile.grids import GLDAS_025, Grid
from deepprofile.products.granule import (
    Days,
    GranuleError,
    GranuleName,
    Layer,
    Product,
    Steps,
    check_day,
    day,
    decode_times,
    field,
    named_time,
    opened,
    place,
    require_layers,
    screen_frozen,
    unit_of,
)

_NAME: Final = re.compile(r"GLDAS_NOAH025_3H(?:_EP)?\.A(\d{8})\.(\d{2})(\d{2})\.\d{3}(?:\.\w+)?\.nc4")
_WATER_KG_M3: Final = 1000.0


@dataclass(frozen=True)
class GldasNoah(Product):
    """GLDAS-2.1 Noah: instants every three hours, 0.25 degrees; the layer from 1 to 2 m is not used."""

    grid: Grid = GLDAS_025
    name: ClassVar[str] = "gldas_noah"
    title: ClassVar[str] = "GLDAS-2.1 Noah"
    layers: ClassVar[tuple[Layer, ...]] = (Layer(0.0, 0.1), Layer(0.1, 0.4), Layer(0.4, 1.0))
    steps_per_day: ClassVar[int] = 8
    latency_days: ClassVar[int] = 45

    # RootMoist_inst is no mean over a stated layer, and not used.
    variables: ClassVar[tuple[str, ...]] = ("SoilMoi0_10cm_inst", "SoilMoi10_40cm_inst", "SoilMoi40_100cm_inst")
    temperature: ClassVar[str] = "SoilTMP0_10cm_inst"
    snow: ClassVar[str] = "SWE_inst"

    @property
    def collections(self) -> tuple[tuple[str, str], ...]:
        """See ``Product.collections``."""
        return (("GLDAS_NOAH025_3H", "2.1"), ("GLDAS_NOAH025_3H_EP", "2.1"))

    def parse(self, name: str) -> GranuleName | None:
        """Name such as ``GLDAS_NOAH025_3H.A20150101.0300.021.nc4``."""
        match = named_time(_NAME, name)
        if match is None:
            return None
        today = day(match[1])
        return GranuleName(today, today, f"{match[1]}T{match[2]}{match[3]}", provisional="_EP." in match[0])

    def read(self, path: Path, window: Grid, days: Days) -> Steps:
        """See ``Product.read``."""
        match = named_time(_NAME, path.name)
        if match is None:
            raise GranuleError(f"{path.name} is not the name of a GLDAS Noah granule")
        when = np.array([day(match[1]) + np.timedelta64(60 * int(match[2]) + int(match[3]), "m")])
        with opened(path) as file:
            present = require_layers(path, self, [name in file for name in self.variables])
            check_day(path, decode_times(file["time"], path), when, np.timedelta64(60, "m"))
            where = place(path, self.grid, file["lon"][()], file["lat"][()], window)
            values = np.full((1, len(self.layers), *window.shape), np.nan, np.float32)
            for k, (name, layer) in enumerate(zip(self.variables, self.layers, strict=True)):
                if present[k]:
                    if (unit := unit_of(file[name])) != "kg m-2":
                        raise GranuleError(f"{path.name} gives {name} in {unit!r}, not in kg m-2")
                    values[0, k] = field(file[name], where) / (_WATER_KG_M3 * (layer.bottom_m - layer.top_m))
            recorded = np.array([np.isfinite(values).sum()])
            # Ice sheets are not missing in GLDAS: Greenland holds 0.396.
            screen_frozen(values, file, where, self.temperature, self.snow)
        return Steps(when, self.keep_valid(values), recorded, present, provisional="_EP." in path.name)
