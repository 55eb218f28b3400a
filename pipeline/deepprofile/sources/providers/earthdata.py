"""Granules of NASA's archives, through the Common Metadata Repository and Earthdata Login.

https://cmr.earthdata.nasa.gov/search/site/docs/search/api.html; UMM-G 1.6, https://cdn.earthdata.nasa.gov/umm/granule.
"""

from __future__ import annotations

import hashlib
import re
import threading
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import requests

from deepprofile.sources.providers.provider import (
    Box,
    CredentialsError,
    DownloadError,
    Provider,
    RemoteGranule,
    RequestStore,
    download,
    with_retries,
)
from deepprofile.storage.redaction import hold

CREDENTIALS: Final = (
    "set EARTHDATA_TOKEN (or EARTHDATA_USERNAME and EARTHDATA_PASSWORD, or a .netrc for urs.earthdata.nasa.gov) in the "
    "environment of the workers, and authorise the archive's application in the profile of Earthdata Login"
)
_CHECKSUMS: Final = {"MD5": "md5", "SHA256": "sha256", "SHA2256": "sha256", "SHA512": "sha512", "SHA1": "sha1"}
# What files of data end with; beside them lie metadata (.xml, .cmr.json, .dmrpp, .qa) and pictures.
_DATA_SUFFIXES: Final = (".h5", ".he5", ".hdf5", ".hdf", ".nc", ".nc4", ".grib", ".grb", ".grib2", ".grb2", ".zip")
_NO_NAME: Final = ("", "not provided", "na", "n/a")


class Earthdata(Provider):
    """A collection of NASA's archives: ``SPL4SMGP``, ``SPL3SMP_E``, ``GLDAS_NOAH025_3H`` and its early product."""

    lists: ClassVar[bool] = True

    def find(self, days: Sequence[np.datetime64], box: Box, provisional_after: np.datetime64) -> list[RemoteGranule]:
        """See ``Provider.find``; asks the Common Metadata Repository, which needs no credentials."""
        from earthaccess.search import DataGranules

        if not days:
            return []
        query = DataGranules().short_name(self.collection).version(self.version)
        query = query.temporal(f"{min(days)}T00:00:00Z", f"{max(days)}T23:59:59Z").bounding_box(*box)
        if self.url is not None:
            query = query.mode(f"{self.url.rstrip('/')}/search/")
        query.session = with_retries(requests.Session())
        try:
            with warnings.catch_warnings():
                # What the client will call otherwise one day.
                warnings.simplefilter("ignore")
                found = query.get_all()
        except (RuntimeError, requests.RequestException, KeyError, ValueError) as error:
            raise DownloadError(f"the Common Metadata Repository does not answer for {self.collection}: {error}") from error
        return [offer for granule in found if (offer := _offer(granule)) is not None]

    def fetch(self, offer: RemoteGranule, target: Path, requested: RequestStore) -> None:
        """See ``Provider.fetch``."""
        download(_session(), offer.source["url"], offer, target, CREDENTIALS)


def _offer(granule: Mapping[str, Any]) -> RemoteGranule | None:
    """What the record of a granule (UMM-G) offers; None where it has no file to download."""
    record = granule["umm"]
    about_granule = record.get("DataGranule") or {}
    files = list(_files(about_granule.get("ArchiveAndDistributionInformation") or ()))
    identifiers = [str(each.get("Identifier", "")) for each in about_granule.get("Identifiers") or ()]
    named = {str(file.get("Name", "")) for file in files} | set(identifiers)
    named = {name for name in named if name.lower().endswith(_DATA_SUFFIXES)}
    found: list[tuple[bool, bool, int, str, str]] = []
    for link in record.get("RelatedUrls") or ():
        url = str(link.get("URL", ""))
        if link.get("Type") != "GET DATA" or not url.startswith(("https://", "http://")) or _is_opendap(link):
            continue
        name = _name_in(url, named)
        if name is not None:
            found.append((name not in named, not url.startswith("https://"), len(found), name, url))
    if not found:
        return None
    *_, name, url = min(found)
    about: Mapping[str, Any] = next((file for file in files if file.get("Name") == name), {})
    if not about and len(files) == 1 and str(files[0].get("Name", "")).lower() in _NO_NAME and len(found) == 1:
        about = files[0]
    size = about.get("SizeInBytes")
    return RemoteGranule(
        name, {"url": url}, int(size) if size else None, _checksum(about), str(granule["meta"].get("revision-id", ""))
    )


def _files(entries: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """The files of a granule, those within packages included."""
    for entry in entries:
        yield entry
        yield from _files(entry.get("Files") or ())


def _is_opendap(link: Mapping[str, Any]) -> bool:
    parts = urlsplit(str(link["URL"]))
    return "opendap" in f"{parts.netloc}{parts.path} {link.get('Subtype', '')}".lower() or parts.path.lower().endswith(
        (".dap.nc4", ".dap", ".dods")
    )


def _name_in(url: str, named: Collection[str]) -> str | None:
    """The name of the data file behind a link: its last part, or one in its query; None where it is no data file."""
    parts = urlsplit(url)
    in_query = [value for values in parse_qs(parts.query).values() for value in values]
    for text in (unquote(parts.path), *in_query):
        name = text.rstrip("/").rsplit("/", 1)[-1]
        if name.lower().endswith(_DATA_SUFFIXES):
            return name
    last = unquote(parts.path).rsplit("/", 1)[-1]
    # A link that does not name its file: the record may.
    return next(iter(named)) if len(named) == 1 and "." not in last else None


def _checksum(about: Mapping[str, Any]) -> tuple[str, str] | None:
    """Algorithm and digits, where it is one that is known and the digits are of its length."""
    said = about.get("Checksum") or {}
    algorithm = _CHECKSUMS.get(re.sub(r"[-_ ]", "", str(said.get("Algorithm", ""))).upper())
    digits = str(said.get("Value", "")).strip()
    if algorithm is None or not re.fullmatch(rf"[0-9a-fA-F]{{{2 * hashlib.new(algorithm).digest_size}}}", digits):
        return None
    return algorithm, digits


_local = threading.local()


def _session() -> requests.Session:
    """A session of this thread, logged in once."""
    if getattr(_local, "session", None) is None:
        _local.session = with_retries(_login())
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
        # Of a .netrc, perhaps, which the environment does not show.
        hold(str(auth.password or ""))
        hold(str((auth.token or {}).get("access_token", "")))
        session: requests.Session = auth.get_session()
        return session
    raise CredentialsError(f"there are no credentials for Earthdata Login: {CREDENTIALS}")
