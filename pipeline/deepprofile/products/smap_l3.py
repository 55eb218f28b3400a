"""SMAP Level 3 radiometer soil moisture (SPL3SMP_E on 9 km, SPL3SMP on 36 km), doi 10.5067/M20OXIZHY3RJ."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from deepprofile.grids import EASE2_M09, EASE2_M36, Grid
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
    field,
    named_time,
    opened,
    place,
    placement,
    require_layers,
    without_fill,
)

_NAME: Final = re.compile(r"SMAP_L3_SM_P(_E)?_(\d{8})_R\d+_\w+\.h5")
# Bit 0 of the flag is set where the retrieval is not of recommended quality; 8 alone is good.
_NOT_RECOMMENDED: Final = 1


@dataclass(frozen=True)
class SmapL3(Product):
    """SMAP L3: daily composite of half-orbits; the morning's where there is one, else the evening's."""

    grid: Grid = EASE2_M09
    name: ClassVar[str] = "smap_l3"
    title: ClassVar[str] = "SMAP L3 (SPL3SMP_E)"
    layers: ClassVar[tuple[Layer, ...]] = (Layer(0.0, 0.05),)
    steps_per_day: ClassVar[int] = 1
    gapless: ClassVar[bool] = False
    latency_days: ClassVar[int] = 3
    valid_range: ClassVar[tuple[float, float]] = (0.02, 0.5)

    # Names in the evening's group end in _pm.
    passes: ClassVar[tuple[tuple[str, str], ...]] = (
        ("Soil_Moisture_Retrieval_Data_AM", ""),
        ("Soil_Moisture_Retrieval_Data_PM", "_pm"),
    )

    @property
    def collections(self) -> tuple[tuple[str, str], ...]:
        """See ``Product.collections``."""
        return (("SPL3SMP", "009"),) if self.grid == EASE2_M36 else (("SPL3SMP_E", "006"),)

    def parse(self, name: str) -> GranuleName | None:
        """Name such as ``SMAP_L3_SM_P_E_20200128_R19240_001.h5``."""
        match = named_time(_NAME, name)
        if match is None or (match[1] is not None) != (self.grid.name == EASE2_M09.name):
            return None
        return GranuleName(day(match[2]), day(match[2]), match[2])

    def read(self, path: Path, window: Grid, days: Days) -> Steps:
        """See ``Product.read``."""
        match = named_time(_NAME, path.name)
        if match is None:
            raise GranuleError(f"{path.name} is not the name of a SMAP L3 granule")
        when = np.array([day(match[2])])
        with opened(path) as file:
            there = [(g, end) for g, end in self.passes if f"{g}/soil_moisture{end}" in file]
            present = require_layers(path, self, [bool(there)])
            check_day(path, _stated_day(file), when, np.timedelta64(36, "h"))
            value = np.full(window.shape, np.nan, np.float32)
            recorded = 0
            for group, end in there:
                moisture, flag = file[f"{group}/soil_moisture{end}"], file[f"{group}/retrieval_qual_flag{end}"]
                where = self._place(path, file, group, end, moisture.shape, window)
                seen = field(moisture, where)
                recorded += int(np.isfinite(seen).sum())
                # Flags are whole numbers below 2^16, exact in single precision; outside of the swath there is none.
                quality = field(flag, where)
                good = np.isfinite(quality) & (np.nan_to_num(quality, nan=1.0).astype(np.int64) & _NOT_RECOMMENDED == 0)
                seen = self.keep_valid(np.where(good, seen, np.float32(np.nan)))
                value = np.where(np.isnan(value), seen, value)
        return Steps(when.astype("datetime64[m]"), value[None, None], np.array([recorded]), present)

    def _place(self, path: Path, file: h5py.File, group: str, end: str, shape: tuple[int, ...], window: Grid) -> Placement:
        """By x and y where the file has them; else by its rows and columns, which are filled outside of the swath."""
        if "x" in file and "y" in file:
            return place(path, self.grid, file["x"][()], file["y"][()], window)
        if shape == self.grid.shape:
            return placement(0, 0, *shape, self.grid, window)
        corner = []
        for axis, name in enumerate(("row", "column")):
            variable = f"{group}/EASE_{name}_index{end}"
            if variable not in file:
                raise GranuleError(
                    f"{path.name} has {shape[0]} x {shape[1]} cells, the grid {self.grid.name} {self.grid.rows} x "
                    f"{self.grid.columns}, and nothing says which of them they are (no x and y, no EASE_{name}_index)"
                )
            corner.append(_corner(path, file[variable], axis))
        return placement(corner[0], corner[1], shape[0], shape[1], self.grid, window)


def _corner(path: Path, variable: h5py.Dataset, axis: int) -> int:
    index = without_fill(variable[()], variable)
    start = index - np.expand_dims(np.arange(index.shape[axis]), 1 - axis)
    found: NDArray[np.float32] = np.unique(start[np.isfinite(start)])
    if found.size > 1:
        raise GranuleError(f"{path.name} lies on another grid: {variable.name} does not count on from one cell to the next")
    # A granule that saw nothing has no index anywhere, and nothing to place.
    return int(found[0]) if found.size else -(10**6)


def _stated_day(file: h5py.File) -> NDArray[np.datetime64]:
    extent = file.get("Metadata/Extent")
    text = extent.attrs.get("rangeBeginningDateTime") if extent is not None else None
    if text is None:
        return np.array([], dtype="datetime64[s]")
    stamp = text.decode() if isinstance(text, bytes) else str(text)
    return np.array([np.datetime64(stamp.rstrip("Z"), "s")])


M36: Final = SmapL3(EASE2_M36)
