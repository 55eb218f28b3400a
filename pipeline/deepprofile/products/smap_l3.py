"""SMAP Level 3 radiometer soil moisture (SPL3SMP_E on 9 km, SPL3SMP on 36 km), doi 10.5067/M20OXIZHY3RJ."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from deepprofile.grids import EASE2_M09, EASE2_M36, Grid
from deepprofile.products.decoding import Floats
from deepprofile.products.fields import FieldReader
from deepprofile.products.files import GranuleError, GranuleFile
from deepprofile.products.granule import (
    GranuleName,
    Layer,
    Outage,
    Part,
    Product,
    Steps,
    base_name,
    day,
    has_data_ending,
    outage,
)
from deepprofile.products.placement import Cells, cells_of, placement
from deepprofile.products.smap import rank_of

_NAME: Final = re.compile(r"(?<![A-Za-z0-9])SMAP_L3_SM_P(_E)?_(\d{8})_([A-Z]\d+)(?:_(\d{3}))?(?![A-Za-z0-9])")
# Bit 0 of the flag is set where the retrieval is not of recommended quality; 8 alone is good.
_NOT_RECOMMENDED: Final = 1
# Fill of the flag, also where no attribute says so.
_NO_FLAG: Final = 65534
# Names in the evening's group end in _pm.
_PASSES: Final = (("Soil_Moisture_Retrieval_Data_AM", ""), ("Soil_Moisture_Retrieval_Data_PM", "_pm"))


def _names(group: str, variable: str) -> tuple[str, str]:
    """A variable in its group, and as services write it that know no groups."""
    return f"{group}/{variable}", f"{group}_{variable}"


@dataclass(frozen=True)
class SmapL3(Product):
    """SMAP L3: daily composite of half-orbits; the morning's where there is one, else the evening's."""

    grid: Grid = EASE2_M09
    name: ClassVar[str] = "smap_l3"
    title: ClassVar[str] = "SMAP L3 (SPL3SMP_E)"
    layers: ClassVar[tuple[Layer, ...]] = (Layer(0.0, 0.05),)
    variables: ClassVar[tuple[tuple[str, ...], ...]] = (
        tuple(name for group, end in _PASSES for name in _names(group, f"soil_moisture{end}")),
    )
    steps_per_day: ClassVar[int] = 1
    gapless: ClassVar[bool] = False
    latency_days: ClassVar[int] = 3
    valid_range: ClassVar[tuple[float, float]] = (0.02, 0.5)
    tolerance_minutes: ClassVar[int] = 36 * 60
    # SMAP was in safe mode: NSIDC's announcements, and the catalogue of SPL4SMGP, which names the days of both outages. The
    # first and last of them may hold half-orbits: their granules are used where there are any.
    outages: ClassVar[tuple[Outage, ...]] = (
        outage("2019-06-19", "2019-07-22", "SMAP was in safe mode from 19 June to 23 July 2019 (NSIDC)"),
        outage("2022-08-06", "2022-09-20", "SMAP was in safe mode from 6 August to 20 September 2022 (NSIDC)"),
    )

    @property
    def collections(self) -> tuple[tuple[str, str], ...]:
        """See ``Product.collections``."""
        return (("SPL3SMP", "009"),) if self.grid == EASE2_M36 else (("SPL3SMP_E", "006"),)

    def parse(self, name: str) -> GranuleName | None:
        """Name such as ``SMAP_L3_SM_P_E_20200128_R19240_001.h5``, also with what subsetters put before and after it."""
        match = _NAME.search(base_name(name))
        if match is None or not has_data_ending(name) or (match[1] is not None) != (self.grid.name == EASE2_M09.name):
            return None
        today = day(match[2])
        if today is None:
            return None
        return GranuleName(today, today, match[2], time=today.astype("datetime64[m]"), rank=rank_of(match[3], match[4]))

    def refusal(self, name: str) -> str | None:
        """See ``Product.refusal``: the product of the other grid."""
        match = _NAME.search(base_name(name))
        if match is not None and (match[1] is not None) != (self.grid.name == EASE2_M09.name):
            other = "SPL3SMP_E, on 9 km" if match[1] is not None else "SPL3SMP, on 36 km"
            return f"it is of {other}: the configuration's key 'grid' of the product chooses between the two"
        return None

    def _stated_time(self, file: GranuleFile) -> np.datetime64 | None:
        stamp = file.group_attribute("Metadata/Extent", "rangeBeginningDateTime") or file.attribute("rangeBeginningDateTime")
        if not stamp:
            return None
        return np.datetime64(str(stamp).strip().rstrip("Z"), "m")

    def _locate(self, part: Part) -> Cells:
        if part.cells is None:
            part.cells = self._cells_of_pass(part, *next(self._passes(part.file)))
        return part.cells

    @staticmethod
    def _passes(file: GranuleFile) -> Iterator[tuple[str, str]]:
        return ((group, end) for group, end in _PASSES if file.find(*_names(group, f"soil_moisture{end}")) is not None)

    def _cells_of_pass(self, part: Part, group: str, end: str) -> Cells:
        moisture = part.file.find(*_names(group, f"soil_moisture{end}"))
        assert moisture is not None
        return cells_of(part.file, self.grid, moisture.shape, ("", f"{group}|{end}", f"{group}|"))

    def _read(self, part: Part, window: Grid) -> Steps:
        values, recorded = self._values(part, window)
        return Steps(part.axis.times[part.chosen], values, recorded, np.array([True]))

    def _values(self, part: Part, window: Grid, reader: FieldReader | None = None) -> tuple[Floats, NDArray[np.int64]]:
        file, steps = part.file, part.chosen
        value = np.full((steps.size, *window.shape), np.nan, np.float32)
        recorded: NDArray[np.int64] = np.zeros(steps.size, np.int64)
        for group, end in self._passes(file):
            moisture, flag = (file.find(*_names(group, f"{name}{end}")) for name in ("soil_moisture", "retrieval_qual_flag"))
            assert moisture is not None
            if flag is None:
                raise GranuleError(
                    f"{file.name} lacks {group}/retrieval_qual_flag{end}, and nothing else says which retrievals are good: "
                    "order it too"
                )
            cells = self._cells_of_pass(part, group, end)
            if not cells.rows.size:
                continue
            where, reader = placement(cells, self.grid, window), FieldReader(file, part.axis, cells)
            seen = reader.window(moisture, steps, where) / self._factor(file, moisture, self.layers[0])
            recorded += np.isfinite(seen).sum(axis=(1, 2))
            # Flags are whole numbers below 2^16, exact in single precision; outside of the swath there is none.
            quality = np.nan_to_num(reader.window(flag, steps, where), nan=_NO_FLAG)
            good = (quality < _NO_FLAG) & (quality >= 0) & (quality.astype(np.int64) & _NOT_RECOMMENDED == 0)
            seen = self.keep_valid(np.where(good, seen, np.float32(np.nan)))
            value = np.where(np.isnan(value), seen, value)
        return value[:, None], recorded


M36: Final = SmapL3(EASE2_M36)
