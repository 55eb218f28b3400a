"""What users do with profiles: open them, and ask them for any depth, layer and its uncertainty.

Comparisons with measurements belong in ``evaluation``, and what a run of the pipeline computes in ``stages``.
"""

from typing import TYPE_CHECKING

from deepprofile._lazy import attach
from deepprofile.analysis.accessor import ProfileAccessor

if TYPE_CHECKING:
    from deepprofile.analysis.open import open_profile, open_store
    from deepprofile.analysis.pytesmo import PytesmoReader

__all__ = ["ProfileAccessor", "PytesmoReader", "open_profile", "open_store"]

__getattr__ = attach(
    __name__,
    {
        "PytesmoReader": "deepprofile.analysis.pytesmo",
        "open_profile": "deepprofile.analysis.open",
        "open_store": "deepprofile.analysis.open",
    },
)
