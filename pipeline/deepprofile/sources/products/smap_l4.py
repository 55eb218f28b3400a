"""SMAP Level 4 surface and root-zone soil moisture (SPL4SMGP, SPL4SMAU), doi 10.5067/EVKPQZ4AFC4D."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from deepprofile.grids.grids import EASE2_M09, Grid
from deepprofile.sources.products.granule import GranuleName, Layer, Product, base_name, day, has_data_ending
from deepprofile.sources.products.smap import rank_of

# The collection's version and CRID (Vv8010, Vv8011) change: the name is read, never made.
_NAME: Final = re.compile(
    r"(?<![A-Za-z0-9])SMAP_L4_SM_(gph|aup)_(\d{8})T(\d{2})(\d{2})\d{2}_([A-Z][a-z]?\d+)(?:_(\d{3}))?(?![A-Za-z0-9])"
)


def _names(group: str, variable: str) -> tuple[str, ...]:
    """A variable in its group, and as services write it that know no groups."""
    return f"{group}/{variable}", f"{group}_{variable}", variable


@dataclass(frozen=True)
class SmapL4(Product):
    """SMAP L4: an Ensemble Kalman filter in the Catchment model; 3-hourly, 9 km."""

    grid: Grid = EASE2_M09
    name: ClassVar[str] = "smap_l4"
    title: ClassVar[str] = "SMAP L4 (SPL4SMGP)"
    layers: ClassVar[tuple[Layer, ...]] = (Layer(0.0, 0.05), Layer(0.0, 1.0))
    variables: ClassVar[tuple[tuple[str, ...], ...]] = (
        (*_names("Geophysical_Data", "sm_surface"), *_names("Analysis_Data", "sm_surface_analysis")),
        (*_names("Geophysical_Data", "sm_rootzone"), *_names("Analysis_Data", "sm_rootzone_analysis")),
    )
    temperature: ClassVar[tuple[str, ...]] = (
        *_names("Geophysical_Data", "soil_temp_layer1"),
        *_names("Analysis_Data", "soil_temp_layer1_analysis"),
    )
    snow: ClassVar[tuple[str, ...]] = _names("Geophysical_Data", "snow_mass")
    steps_per_day: ClassVar[int] = 8
    # Means are stamped with their centre.
    first_step_minutes: ClassVar[int] = 90
    latency_days: ClassVar[int] = 3
    never_zero: ClassVar[bool] = True

    @property
    def collections(self) -> tuple[tuple[str, str], ...]:
        """See ``Product.collections``."""
        return (("SPL4SMGP", "008"),)

    def parse(self, name: str) -> GranuleName | None:
        """Name such as ``SMAP_L4_SM_gph_20200128T013000_Vv8011_001.h5``, also with what subsetters put before and after it."""
        match = _NAME.search(base_name(name))
        today = day(match[2]) if match is not None else None
        if match is None or today is None or not has_data_ending(name):
            return None
        time = today + np.timedelta64(60 * int(match[3]) + int(match[4]), "m")
        return GranuleName(today, today, f"{match[2]}T{match[3]}{match[4]}", time=time, rank=rank_of(match[5], match[6]))
