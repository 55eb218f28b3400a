"""SMAP Level 3 radiometer soil moisture (SPL3SMP_E on 9 km, SPL3SMP on 36 km), doi 10.5067/M20OXIZHY3RJ."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from deepprofile.grids.grids import EASE2_M09, EASE2_M36, Grid
from deepprofile.sources.products.checks import Checks
from deepprofile.sources.products.decoding import Floats
from deepprofile.sources.products.fields import FieldReader
from deepprofile.sources.products.files import GranuleError, GranuleFile
from deepprofile.sources.products.granule import (
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
from deepprofile.sources.products.passes import fill_gaps, keep_recommended
from deepprofile.sources.products.placement import Cells, cells_of, placement
from deepprofile.sources.products.smap import rank_of

_NAME: Final = re.compile(r"(?<![A-Za-z0-9])SMAP_L3_SM_P(_E)?_(\d{8})_([A-Z]\d+)(?:_(\d{3}))?(?![A-Za-z0-9])")
# Bit 0 of the flag is set where the retrieval is not of recommended quality; 8 alone is good.
_NOT_RECOMMENDED: Final = 1
# Fill of the flag, also where no attribute says so.
_NO_FLAG: Final = 65534
# Names in the evening's group end in _pm. The first versions of SPL3SMP have one group, of the morning.
_ONE_PASS: Final = "Soil_Moisture_Retrieval_Data"  # noqa: S105
_PASSES: Final = (("Soil_Moisture_Retrieval_Data_AM", ""), ("Soil_Moisture_Retrieval_Data_PM", "_pm"), (_ONE_PASS, ""))
_MORNING: Final = re.compile(r"\b6(?::00)? ?a\.?m\b|\bdescending\b|\bnorth to south\b", re.IGNORECASE)
_EVENING: Final = re.compile(r"\b6(?::00)? ?p\.?m\b|\bascending\b|\bsouth to north\b", re.IGNORECASE)
# SPL3SMP has both passes since its version 4 (R14).
_LAST_OF_ONE_PASS: Final = 3
# So many cells, and this share of those that are recommended, that hold no value say that the flag was lost.
_LOST_CELLS, _LOST_SHARE = 16, 0.05


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
    spatially_complete: ClassVar[bool] = False
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

    def _check_collection(self, file: GranuleFile) -> None:
        """A file with one pass has to say that it is the morning's of this product: others have such a group too."""
        if all(group != _ONE_PASS for group, _ in self._passes(file)):
            return
        said = {
            key: str(file.group_attribute("Metadata/DatasetIdentification", key) or file.attribute(key) or "").strip()
            for key in ("shortName", "ECSVersionID", "abstract")
        }
        version = int(said["ECSVersionID"]) if said["ECSVersionID"].isdigit() else None
        early = version is not None and version <= _LAST_OF_ONE_PASS
        morning = early or _MORNING.search(said["abstract"]) is not None
        if said["shortName"] != "SPL3SMP" or not morning or _EVENING.search(said["abstract"]):
            raise GranuleError(
                f"{file.name} holds one pass of the satellite, in the group {_ONE_PASS}, and its attributes do not say that "
                f"it is the morning's of SPL3SMP (short name {said['shortName']!r}, version {said['ECSVersionID']!r} in "
                "Metadata/DatasetIdentification): fetch version 4 or later, which tells morning and evening apart"
            )

    def _stated_time(self, file: GranuleFile) -> np.datetime64 | None:
        stamp = file.group_attribute("Metadata/Extent", "rangeBeginningDateTime") or file.attribute("rangeBeginningDateTime")
        if not stamp:
            return None
        try:
            stated = np.datetime64(str(stamp).strip().rstrip("Z"), "m")
            if not np.isnat(stated):
                return stated
        except ValueError:
            pass
        raise GranuleError(f"{file.name} has the rangeBeginningDateTime {str(stamp)[:80]!r}, which is no time")

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

    def _read(self, part: Part, window: Grid, checks: Checks, out: Floats | None = None) -> Steps:
        values, n_valid = self._values(part, window, self._reader(part, checks), checks, out)
        return Steps(part.axis.times[part.chosen], values, n_valid, np.array([True]))

    def _values(
        self, part: Part, window: Grid, reader: FieldReader, checks: Checks, out: Floats | None = None
    ) -> tuple[Floats, NDArray[np.int64]]:
        file, steps = part.file, part.chosen
        value: Floats | None = None
        n_valid: NDArray[np.int64] = np.zeros(steps.size, np.int64)
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
            # The cells of the passes differ: each has a reader of its own.
            where, reader = placement(cells, self.grid, window), FieldReader(file, part.axis, cells, checks.holes)
            seen, factor = reader.window(moisture, steps, where), self._factor(file, moisture, self.layers[0])
            if factor != 1.0:
                seen /= factor
            # Flags are whole numbers below 2^16, exact in single precision; outside of the swath there is none.
            quality = reader.window(flag, steps, where)
            there, recommended, empty = keep_recommended(seen, quality, _NOT_RECOMMENDED, np.float32(_NO_FLAG))
            n_valid += there
            self._refuse_lost_flags(file, flag.name, recommended, empty)
            seen = self.keep_valid(seen)
            if value is None:
                value = seen
            else:
                fill_gaps(value.reshape(-1), seen.reshape(-1))
        if value is None:
            value = np.full((steps.size, *window.shape), np.nan, np.float32)
        return value[:, None], n_valid

    @staticmethod
    def _refuse_lost_flags(file: GranuleFile, name: str, recommended: int, empty: int) -> None:
        """Raise where a flag is 0, which recommends, in many cells without a value: zeros that were written over it.

        In sound files a value was retrieved wherever the flag recommends it (all 107 such cells of a year of SPL3SMP over
        Hawaii); a few cells are let pass.
        """
        if empty >= _LOST_CELLS and empty > _LOST_SHARE * recommended:
            raise GranuleError(
                f"{file.name} is damaged: {name} recommends {empty} cells that hold no soil moisture, a hole in the file: "
                "which retrievals are good is not known"
            )


M36: Final = SmapL3(EASE2_M36)
