"""What soil moisture is screened by before it is averaged: one value for every product, the twin and the examples.

Frozen ground and snow hide the liquid water that soil moisture means.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

# Values count where the soil is warmer than this: a degree above freezing, since a grid cell is not of one temperature.
FROZEN_K: Final = 274.15
# From this snow water equivalent on, ground is under snow. It stands for any snow at all: Noah itself takes less than 1e-6 m,
# which is this much, for none (ESDMIN in its routine SNOPAC). Of 111 688 warm values of GLDAS Noah (2015-01-01T00) none lies
# between 0 and this, but 9613 lie between this and 1 kg m-2: a threshold of a millimetre would let fresh and melting snow pass.
SNOW_KG_M2: Final = 0.001


def is_frozen(temperature_k: Any) -> Any:
    """Whether the soil is frozen, or its temperature is not known; an array in K, of any shape and kind."""
    with np.errstate(invalid="ignore"):
        return ~(temperature_k > FROZEN_K)


def is_under_snow(snow_kg_m2: Any) -> Any:
    """Whether the ground is under snow, or that is not known; water equivalent in kg m-2, an array of any shape and kind."""
    with np.errstate(invalid="ignore"):
        return ~(snow_kg_m2 < SNOW_KG_M2)
