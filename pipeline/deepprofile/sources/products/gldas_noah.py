"""GLDAS-2.1 Noah land surface model (GLDAS_NOAH025_3H), doi 10.5067/E7TYRXPJKWOQ."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from deepprofile.grids.grids import GLDAS_025, Grid
from deepprofile.sources.products.files import GranuleError, GranuleFile
from deepprofile.sources.products.granule import GranuleName, Layer, Product, base_name, day, has_data_ending

_NAME: Final = re.compile(r"(?<![A-Za-z0-9])GLDAS_NOAH025_3H(_EP)?\.A(\d{8})\.(\d{2})(\d{2})\.(\d{3})(?!\d)")
_OTHER: Final = re.compile(r"(?<![A-Za-z0-9])GLDAS_([A-Z]+\d+_\w+?)\.A\d{6,8}")
_VERSION: Final = "021"
# Titles such as "GLDAS2.1 LIS land surface model output"; the source names the model, "Noah_v3.6 forced with ...".
_TITLE: Final = re.compile(r"GLDAS[ _-]*(?:Version)?[ _-]*v?(\d(?:\.\d)?)", re.IGNORECASE)
_MODELS: Final = ("CLSM", "Catchment", "VIC", "Mosaic", "CLM")


@dataclass(frozen=True)
class GldasNoah(Product):
    """GLDAS-2.1 Noah: instants every three hours, 0.25 degrees; the layer from 1 to 2 m is not used.

    Ice sheets are not missing: Greenland holds 0.396 under its ice. Values are screened by soil temperature and snow.
    """

    grid: Grid = GLDAS_025
    name: ClassVar[str] = "gldas_noah"
    title: ClassVar[str] = "GLDAS-2.1 Noah"
    layers: ClassVar[tuple[Layer, ...]] = (Layer(0.0, 0.1), Layer(0.1, 0.4), Layer(0.4, 1.0))
    # RootMoist_inst is no mean over a stated layer, and not used.
    variables: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("SoilMoi0_10cm_inst",),
        ("SoilMoi10_40cm_inst",),
        ("SoilMoi40_100cm_inst",),
    )
    unit: ClassVar[str] = "kg m-2"
    temperature: ClassVar[tuple[str, ...]] = ("SoilTMP0_10cm_inst",)
    snow: ClassVar[tuple[str, ...]] = ("SWE_inst",)
    fields_are_one_chunk: ClassVar[bool] = True
    steps_per_day: ClassVar[int] = 8
    latency_days: ClassVar[int] = 45
    tolerance_minutes: ClassVar[int] = 60
    never_zero: ClassVar[bool] = True

    @property
    def collections(self) -> tuple[tuple[str, str], ...]:
        """See ``Product.collections``."""
        return (("GLDAS_NOAH025_3H", "2.1"), ("GLDAS_NOAH025_3H_EP", "2.1"))

    def parse(self, name: str) -> GranuleName | None:
        """Name such as ``GLDAS_NOAH025_3H.A20150101.0300.021.nc4``, also with what subsetters put before and after it."""
        match = _NAME.search(base_name(name))
        today = day(match[2]) if match is not None else None
        if match is None or today is None or match[5] != _VERSION or not has_data_ending(name):
            return None
        time = today + np.timedelta64(60 * int(match[3]) + int(match[4]), "m")
        return GranuleName(today, today, f"{match[2]}T{match[3]}{match[4]}", provisional=match[1] is not None, time=time)

    def refusal(self, name: str) -> str | None:
        """See ``Product.refusal``: another version, model or resolution."""
        match = _NAME.search(base_name(name))
        if match is not None and match[5] != _VERSION:
            return f"it is of GLDAS-{match[5][1]}.{match[5][2]}, not of GLDAS-2.1"
        other = _OTHER.search(base_name(name))
        if match is None and other is not None and not other[1].startswith("NOAH025_3H"):
            return f"it is of the collection GLDAS_{other[1]}, not of GLDAS_NOAH025_3H"
        return None

    def _check_collection(self, file: GranuleFile) -> None:
        """By the attributes of the file, whatever its name."""
        title, source = (str(file.attribute(key) or "") for key in ("title", "source"))
        version = _TITLE.search(title)
        if re.search(r"monthly|daily|climatolog", title, re.IGNORECASE):
            raise GranuleError(f"{file.name} does not hold instants every three hours ({title!r})")
        if title.upper().startswith(("FLDAS", "NLDAS")):
            raise GranuleError(f"{file.name} is not of GLDAS ({title!r})")
        if version is not None and version[1] != "2.1":
            raise GranuleError(f"{file.name} is of GLDAS-{version[1]} ({title!r}), not of GLDAS-2.1")
        if "noah" not in source.lower() and any(model.lower() in source.lower() for model in _MODELS):
            raise GranuleError(f"{file.name} is of another model ({source!r}), not of Noah")
