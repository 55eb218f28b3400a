"""Grids of products and targets, and conservative regridding between them.

Here belongs what depends on where cells lie, and on nothing else. Which grid a product has is said in ``sources``.
"""

from deepprofile.grids.grids import (
    EASE2_M09,
    EASE2_M36,
    EQUAL_AREA,
    ERA5_LAND_01,
    GEOGRAPHIC,
    GLDAS_025,
    WORLD_M,
    Grid,
    by_name,
    regular,
)
from deepprofile.grids.regridding import Overlap, overlaps, regrid

__all__ = [
    "EASE2_M09",
    "EASE2_M36",
    "EQUAL_AREA",
    "ERA5_LAND_01",
    "GEOGRAPHIC",
    "GLDAS_025",
    "WORLD_M",
    "Grid",
    "Overlap",
    "by_name",
    "overlaps",
    "regrid",
    "regular",
]
