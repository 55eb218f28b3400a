"""Where soil moisture comes from: the products, the services that distribute them, and the catalogue of their granules.

Here belongs what is particular to a product, a file format or a provider. What is done with the values is said in ``stages``.
"""

from deepprofile.sources.catalogue import Catalogue, Granule, find_granules
from deepprofile.sources.products import PRODUCTS, Product
from deepprofile.sources.providers import PROVIDERS, Provider

__all__ = ["PRODUCTS", "PROVIDERS", "Catalogue", "Granule", "Product", "Provider", "find_granules"]
