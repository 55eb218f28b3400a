"""Granules of NASA's archives, through the Common Metadata Repository and Earthdata Login.

https://cmr.earthdata.nasa.gov/search/site/docs/search/api.html; UMM-G 1.6, https://cdn.earthdata.nasa.gov/umm/granule.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import requests

from deepprofile.providers.provider import (
    Box,
    CredentialsError,
    DownloadError,
    Memory,
    Offer,
    Provider,
    download,
    patient,
)

CREDENTIALS: Final = (
    "set EARTHDATA_TOKEN (or EARTHDATA_USERNAME and EARTHDATA_PASSWORD, or a .netrc for urs.earthdata.nasa.gov) in the "
    "environment of the workers, and authorise the archive's application in the profile of Earthdata Login"
)
_CHECKSUMS: Final = {"MD5": "md5", "SHA-256": "sha256", "SHA-512": "sha512", "SHA-1": "sha1"}


class Earthdata(Provider):
    """A collection of NASA's archives: ``SPL4SMGP``, ``SPL3SMP_E``, ``GLDAS_NOAH025_3H`` and its early product."""

    lists: ClassVar[bool] = True

    def find(self, days: Sequence[np.datetime64], box: Box, provisional_after: np.datetime64) -> list[Offer]:
        """See ``Provider.find``; asks the Common Metadata Repository, which needs no credentials."""
        from earthaccess.search import DataGranules

        if not days:
            return []
        query = DataGranules().short_name(self.collection).version(self.version)
        query = query.temporal(f"{min(days)}T00:00:00Z", f"{max(days)}T23:59:59Z").bounding_box(*box)
        if self.url is not None:
            query = query.mode(f"{self.url.rstrip('/')}/search/")
        query.session = patient(requests.Session())
        try:
            with warnings.catch_warnings():
                # What the client will call otherwise one day.
                warnings.simplefilter("ignore")
                found = query.get_all()
        except (RuntimeError, requests.RequestException, KeyError, ValueError) as error:
            raise DownloadError(f"the Common Metadata Repository does not answer for {self.collection}: {error}") from error
        return [offer for granule in found if (offer := _offer(granule)) is not None]

    def fetch(self, offer: Offer, target: Path, memory: Memory) -> None:
        """See ``Provider.fetch``."""
        download(_session(), offer.source["url"], offer, target, CREDENTIALS)


def _offer(granule: Mapping[str, Any]) -> Offer | None:
    """What the record of a granule (UMM-G) offers; None where it has no file to download."""
    record = granule["umm"]
    links = [link["URL"] for link in record.get("RelatedUrls", ()) if link.get("Type") == "GET DATA"]
    links = [link for link in links if link.startswith("http") and not link.endswith((".xml", ".html", ".qa"))]
    if not links:
        return None
    name = links[0].rsplit("/", 1)[-1]
    files = record.get("DataGranule", {}).get("ArchiveAndDistributionInformation", ())
    about = next((file for file in files if file.get("Name") == name), files[0] if len(files) == 1 else {})
    size = about.get("SizeInBytes")
    checksum = about.get("Checksum", {})
    algorithm = _CHECKSUMS.get(checksum.get("Algorithm", ""))
    return Offer(
        name,
        {"url": links[0]},
        int(size) if size is not None else None,
        (algorithm, checksum["Value"]) if algorithm is not None else None,
        str(granule["meta"].get("revision-id", "")),
    )


_local = threading.local()


def _session() -> requests.Session:
    """A session of this thread, logged in once."""
    if getattr(_local, "session", None) is None:
        _local.session = patient(_login())
    session: requests.Session = _local.session
    return session


def _login() -> requests.Session:
    from earthaccess import Auth
    from earthaccess.exceptions import LoginAttemptFailure, LoginStrategyUnavailable

    auth = Auth()
    for strategy in ("environment", "netrc"):
        try:
            auth.login(strategy=strategy)
        except LoginStrategyUnavailable:
            continue
        except LoginAttemptFailure as error:
            raise CredentialsError(f"Earthdata Login refuses the credentials: {CREDENTIALS}") from error
        except requests.RequestException as error:
            raise DownloadError(f"Earthdata Login does not answer: {error}") from error
        session: requests.Session = auth.get_session()
        return session
    raise CredentialsError(f"there are no credentials for Earthdata Login: {CREDENTIALS}")
