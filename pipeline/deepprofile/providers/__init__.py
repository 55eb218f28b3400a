"""Where granules come from: one module and one entry each."""

from collections.abc import Callable
from typing import Final

from deepprofile.providers.cds import Cds
from deepprofile.providers.earthdata import Earthdata
from deepprofile.providers.provider import Box, CredentialsError, DownloadError, Offer, Provider

PROVIDERS: Final[dict[str, Callable[[str, str, str | None], Provider]]] = {"earthdata": Earthdata, "cds": Cds}

__all__ = ["PROVIDERS", "Box", "Cds", "CredentialsError", "DownloadError", "Earthdata", "Offer", "Provider"]
