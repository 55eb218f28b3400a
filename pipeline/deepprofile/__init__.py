"""DeepProfile: one continuous 0-1 m soil-moisture profile, with its uncertainty, from several root-zone products.

Zhu et al. (2026), Remote Sensing of Environment, doi 10.1016/j.rse.2026.115408.
"""

from importlib.metadata import PackageNotFoundError, version

from deepprofile.access import open_store
from deepprofile.collocation import triple_collocation
from deepprofile.errors import estimate_errors
from deepprofile.inversion import fuse, invert
from deepprofile.prior import Prior
from deepprofile.profile import ProfileAccessor

try:
    __version__ = version("deepprofile")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0+unknown"

__all__ = ["Prior", "ProfileAccessor", "__version__", "estimate_errors", "fuse", "invert", "open_store", "triple_collocation"]
