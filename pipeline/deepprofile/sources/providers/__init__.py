"""Where granules come from: one module and one entry each."""

from collections.abc import Callable
from typing import Final

from deepprofile.sources.providers.cds import Cds
from deepprofile.sources.providers.earthdata import Earthdata
from deepprofile.sources.providers.provider import Box, CredentialsError, DownloadError, Provider, RemoteGranule

PROVIDERS: Final[dict[str, Callable[[str, str, str | None], Provider]]] = {"earthdata": Earthdata, "cds": Cds}

__all__ = ["PROVIDERS", "Box", "Cds", "CredentialsError", "DownloadError", "Earthdata", "Provider", "RemoteGranule"]
