"""SMAP Level 4 surface and root-zone soil moisture (SPL4SMGP, SPL4SMAU), doi 10.5067/EVKPQZ4AFC4D."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

import h5py
import numpy as np

from deepprofile.grids import EASE2_M09, Grid
from deepprofile.products.granule import (
    Days,
    GranuleError,
    GranuleName,
    Layer,
    Placement,
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
)

# The collection's version and CRID (Vv8010, Vv8011) change: the name is read, never made.
_NAME: Final = re.compile(r"SMAP_L4_SM_(gph|aup)_(\d{8})T(\d{2})(\d{2})\d{2}_\w+\.h5")


@dataclass(frozen=True)
class SmapL4(Product):
    """SMAP L4: an Ensemble Kalman filter in the Catchment model; 3-hourly, 9 km."""

    grid: Grid = EASE2_M09
    name: ClassVar[str] = "smap_l4"
    title: ClassVar[str] = "SMAP L4 (SPL4SMGP)"
    layers: ClassVar[tuple[Layer, ...]] = (Layer(0.0, 0.05), Layer(0.0, 1.0))
    steps_per_day: ClassVar[int] = 8
    latency_days: ClassVar[int] = 3

    variables: ClassVar[dict[str, tuple[str, str]]] = {
        "gph": ("Geophysical_Data/sm_surface", "Geophysical_Data/sm_rootzone"),
        "aup": ("Analysis_Data/sm_surface_analysis", "Analysis_Data/sm_rootzone_analysis"),
    }
    temperature: ClassVar[dict[str, str]] = {
        "gph": "Geophysical_Data/soil_temp_layer1",
        "aup": "Analysis_Data/soil_temp_layer1_analysis",
    }
    snow: ClassVar[str] = "Geophysical_Data/snow_mass"

    @property
    def collections(self) -> tuple[tuple[str, str], ...]:
        """See ``Product.collections``."""
        return (("SPL4SMGP", "008"),)

    def parse(self, name: str) -> GranuleName | None:
        """Name such as ``SMAP_L4_SM_gph_20200128T013000_Vv8011_001.h5``."""
        match = named_time(_NAME, name)
        return GranuleName(day(match[2]), day(match[2]), f"{match[2]}T{match[3]}{match[4]}") if match else None

    def read(self, path: Path, window: Grid, days: Days) -> Steps:
        """See ``Product.read``."""
        match = named_time(_NAME, path.name)
        if match is None:
            raise GranuleError(f"{path.name} is not the name of a SMAP L4 granule")
        when = np.array([day(match[2]) + np.timedelta64(60 * int(match[3]) + int(match[4]), "m")])
        with opened(path) as file:
            names = self.variables[match[1]]
            present = require_layers(path, self, [name in file for name in names])
            if "time" in file:
                # Means are stamped with their centre, whatever the file calls it.
                check_day(path, decode_times(file["time"], path), when, np.timedelta64(3, "h"))
            where = self._place(path, file, window)
            values = np.full((1, len(self.layers), *window.shape), np.nan, np.float32)
            for k, name in enumerate(names):
                if present[k]:
                    values[0, k] = field(file[name], where)
            recorded = np.array([np.isfinite(values).sum()])
            screen_frozen(values, file, where, self.temperature[match[1]], self.snow)
        return Steps(when, self.keep_valid(values), recorded, present)

    def _place(self, path: Path, file: h5py.File, window: Grid) -> Placement:
        """By x and y, or by ``cell_row`` and ``cell_column``, which give each cell's place in the whole grid."""
        if "x" in file:
            return place(path, self.grid, file["x"][()], file["y"][()], window)
        rows, columns = file["cell_row"][:, 0], file["cell_column"][0]
        return place(path, self.grid, self.grid.x[columns.astype(np.int64)], self.grid.y[rows.astype(np.int64)], window)
