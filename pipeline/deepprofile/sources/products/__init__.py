"""The products: one module and one entry each."""

from typing import Final

from deepprofile.sources.products.era5_land import Era5Land
from deepprofile.sources.products.files import DayNotHeldError, GranuleError
from deepprofile.sources.products.gldas_noah import GldasNoah
from deepprofile.sources.products.granule import GranuleName, Held, Latency, Layer, Outage, Product, Steps, are_alike
from deepprofile.sources.products.smap_l3 import M36, SmapL3
from deepprofile.sources.products.smap_l4 import SmapL4

PRODUCTS: Final[dict[str, Product]] = {product.name: product for product in (SmapL4(), GldasNoah(), Era5Land(), SmapL3())}
# The same product on another grid: by product and the grid's name.
VARIANTS: Final[dict[tuple[str, str], Product]] = {(M36.name, M36.grid.name): M36}

__all__ = [
    "PRODUCTS",
    "VARIANTS",
    "DayNotHeldError",
    "GranuleError",
    "GranuleName",
    "Held",
    "Latency",
    "Layer",
    "Outage",
    "Product",
    "Steps",
    "are_alike",
]
