"""DeepProfile: one continuous 0-1 m soil-moisture profile, with its uncertainty, from several root-zone products.

Zhu et al. (2026), Remote Sensing of Environment, doi 10.1016/j.rse.2026.115408.

``import deepprofile`` adds ``.deepprofile`` to the datasets of xarray. All else is imported when it is first used, so that the
numerics need neither zarr nor fsspec.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from deepprofile._lazy import attach
from deepprofile.analysis.accessor import ProfileAccessor

if TYPE_CHECKING:
    from deepprofile.analysis.open import open_profile, open_store
    from deepprofile.analysis.pytesmo import PytesmoReader
    from deepprofile.core.collocation import triple_collocation
    from deepprofile.core.error_model import estimate_errors
    from deepprofile.core.invert import fuse, invert
    from deepprofile.core.prior import Prior

try:
    __version__ = version("deepprofile")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0+unknown"

__all__ = [
    "Prior",
    "ProfileAccessor",
    "PytesmoReader",
    "__version__",
    "estimate_errors",
    "fuse",
    "invert",
    "open_profile",
    "open_store",
    "triple_collocation",
]

__getattr__ = attach(
    __name__,
    {
        "Prior": "deepprofile.core.prior",
        "PytesmoReader": "deepprofile.analysis.pytesmo",
        "estimate_errors": "deepprofile.core.error_model",
        "fuse": "deepprofile.core.invert",
        "invert": "deepprofile.core.invert",
        "open_profile": "deepprofile.analysis.open",
        "open_store": "deepprofile.analysis.open",
        "triple_collocation": "deepprofile.core.collocation",
    },
)


def __dir__() -> list[str]:
    return __all__
