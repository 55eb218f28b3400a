"""What all providers share: offers of granules, how one is fetched and checked, and the errors that this can give."""

from __future__ import annotations

import hashlib
import html
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

import numpy as np
import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from deepprofile.storage.redaction import without_secrets
from deepprofile.storage.retries import NonRetryableError

# West, south, east, north in degrees.
Box = tuple[float, float, float, float]

CHUNK_BYTES: Final = 2**20
TIMEOUT_SECONDS: Final = (30.0, 120.0)
# Answers that ask for patience; where they say for how long, that is kept to.
BUSY: Final = (429, 500, 502, 503, 504)
ATTEMPTS: Final = 6
BACKOFF_SECONDS: Final = 1.0
# How files of HDF5 (netCDF-4 included), GRIB, and ZIP begin.
_SIGNATURES: Final = (b"\x89HDF\r\n\x1a\n", b"GRIB", b"PK\x03\x04", b"CDF")
# As much of a document as is looked at for what it says.
_DOCUMENT_BYTES: Final = 2**16
# Where services write what they have to say: keys of JSON, elements of XML and of pages.
_SAYING_KEYS: Final = (
    "title",
    "message",
    "error",
    "errors",
    "error_description",
    "detail",
    "description",
    "traceback",
    "reason",
)
_SAYING_ELEMENTS: Final = re.compile(
    r"<(?:\w+:)?(title|h1|code|message|error|detail|description|serviceexception|exceptiontext)\b[^>]*>"
    r"(.*?)</(?:\w+:)?\1\s*>",
    re.IGNORECASE | re.DOTALL,
)
_LOGIN: Final = re.compile(r"(?i)\b(log ?in|log ?on|sign ?in|password|authenticate)\b")


class DownloadError(Exception):
    """A granule that could not be fetched this time; the message names it and says why."""


class CredentialsError(NonRetryableError):
    """Credentials that are missing or refused; the message says where they are looked for."""


@dataclass(frozen=True)
class RemoteGranule:
    """A granule that a provider has.

    Attributes
    ----------
    name
        Of the file.
    source
        What the provider needs to fetch it.
    size, checksum
        In bytes; algorithm and hexadecimal digits; None where the provider does not say.
    revision
        Changes when the provider replaces the granule.
    """

    name: str
    source: Mapping[str, Any] = field(default_factory=dict)
    size: int | None = None
    checksum: tuple[str, str] | None = None
    revision: str = ""


class Provider(ABC):
    """A service that offers granules of a collection.

    Parameters
    ----------
    collection
        Name that the service has for it.
    version
        Of the collection, where the service has several.
    url
        Of the service, instead of its own.
    """

    # Whether ``find`` asks the service what there is; otherwise it says what may be asked for, and a box is cut out of that.
    lists: ClassVar[bool]

    def __init__(self, collection: str, version: str, url: str | None = None) -> None:
        self.collection, self.version, self.url = collection, version, url

    @abstractmethod
    def find(self, days: Sequence[np.datetime64], box: Box, provisional_after: np.datetime64) -> list[RemoteGranule]:
        """Granules of these days that meet a box; those of later days than ``provisional_after`` may be replaced.

        Of a service that cuts a box out (``lists`` is false), the box goes through the centres of the outermost cells.

        Raises
        ------
        DownloadError
            Where the service does not answer.
        """

    @abstractmethod
    def fetch(self, offer: RemoteGranule, target: Path, requested: RequestStore) -> None:
        """Write a granule to a file.

        Raises
        ------
        DownloadError
            Where it does not arrive whole; another attempt may help.
        CredentialsError
            Where the service asks for other credentials than the environment has.
        """


class RequestStore(ABC):
    """Remembers, beyond the end of this process, what is under way for a granule."""

    @abstractmethod
    def load(self) -> str | None:
        """What was kept."""

    @abstractmethod
    def save(self, what: str | None) -> None:
        """Keep it, instead of what was kept before; None: nothing more."""


def with_retries(session: requests.Session) -> requests.Session:
    """A session that waits where the service asks for it: as long as it says, or longer each time."""
    retry = Retry(
        total=ATTEMPTS,
        backoff_factor=BACKOFF_SECONDS,
        backoff_jitter=BACKOFF_SECONDS,
        status_forcelist=BUSY,
        allowed_methods=None,
        respect_retry_after_header=True,
        raise_on_status=False,
    )
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    return session


def download(session: requests.Session, url: str, offer: RemoteGranule, target: Path, credentials: str) -> None:
    """Stream a URL into a file and check what has arrived; ``credentials`` says where they are looked for.

    Raises
    ------
    DownloadError, CredentialsError
        As ``Provider.fetch``.
    """
    try:
        with session.get(url, stream=True, timeout=TIMEOUT_SECONDS) as answer:
            if answer.status_code in (401, 403):
                raise CredentialsError(f"{_host(url)} refuses {offer.name} ({answer.status_code}): {credentials}")
            if answer.status_code >= 400:
                said = Document.read(answer.content)
                text = f": {said.text}" if said is not None and said.text else ""
                raise DownloadError(f"{offer.name}: {_host(url)} answers {answer.status_code} {answer.reason}{text}")
            with target.open("wb") as file:
                for chunk in answer.iter_content(CHUNK_BYTES):
                    file.write(chunk)
    except requests.RequestException as error:
        raise DownloadError(f"{offer.name}: {_host(url)}: {_reason(error)}") from error
    document = Document.of(target)
    if document is not None and document.asks_to_log_in:
        raise CredentialsError(f"{_host(answer.url)} answers with a page to log in instead of {offer.name}: {credentials}")
    check(offer, target)


@dataclass(frozen=True)
class Document:
    """A page, or a message in JSON or XML, that came where data should be: ``kind`` of it, and the ``text`` that it says."""

    kind: str
    text: str
    asks_to_log_in: bool = False

    @classmethod
    def of(cls, path: Path) -> Document | None:
        """The document that a file is; None for data."""
        with path.open("rb") as file:
            return cls.read(file.read(_DOCUMENT_BYTES))

    @classmethod
    def read(cls, content: bytes) -> Document | None:
        """The document that some bytes begin; None for data."""
        text = content.removeprefix(b"\xef\xbb\xbf").decode(errors="replace").lstrip()
        if text.startswith(("{", "[")):
            return cls("a message in JSON", _said_in_json(text))
        if not text.startswith("<"):
            return None
        said: dict[str, None] = {}
        for found in _SAYING_ELEMENTS.finditer(text):
            words = html.unescape(re.sub(r"<[^>]*>", " ", found[2]))
            said.setdefault(" ".join(words.split()))
        line = without_secrets(": ".join(one for one in said if one))[:500]
        if re.match(r"<(?:!doctype\s+html|html|head|body)\b", text, re.IGNORECASE) or "<html" in text[:1000].lower():
            return cls("a page in HTML", line, bool(_LOGIN.search(text)))
        return cls("a message in XML", line)


def _said_in_json(text: str) -> str:
    """What a message in JSON says, in one line; the message itself where it has none of the usual keys."""

    def sayings(found: Any) -> list[str]:
        if isinstance(found, Mapping):
            return [line for key in _SAYING_KEYS if key in found for line in sayings(found[key])]
        if isinstance(found, list):
            return [line for each in found for line in sayings(each)]
        return [] if found is None or isinstance(found, bool) else [" ".join(str(found).split())]

    try:
        said = sayings(json.loads(text))
    except ValueError:
        said = []
    # A detail often repeats the title.
    # Cut only when what may be a secret is out of it: half of one is not recognised.
    line = without_secrets(": ".join(dict.fromkeys(line for line in said if line)))[:500]
    return line or without_secrets(" ".join(text.split()))[:200]


def check(offer: RemoteGranule, target: Path) -> None:
    """Raise a DownloadError where a file is not what was offered: by its size, its checksum, or how it begins."""
    document = Document.of(target)
    if document is not None:
        text = f", which says: {document.text}" if document.text else ""
        raise DownloadError(f"{offer.name}: {document.kind} came instead of the data{text}")
    size = target.stat().st_size
    if offer.size is not None and size != offer.size:
        raise DownloadError(f"{offer.name} has {size} bytes after its download, {offer.size} were announced")
    if offer.checksum is not None:
        algorithm, digits = offer.checksum
        found = digest(target, algorithm)
        if found.lower() != digits.lower():
            raise DownloadError(f"{offer.name} has the {algorithm} {found} after its download, {digits} was announced")
    with target.open("rb") as file:
        begin = file.read(8)
    if not begin.startswith(_SIGNATURES):
        raise DownloadError(f"{offer.name} is no file of HDF5, netCDF, GRIB or ZIP: it begins with {begin!r}")


def digest(path: Path, algorithm: str = "sha256") -> str:
    """Checksum of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[-1]


def _reason(error: BaseException) -> str:
    text = without_secrets(str(error)).splitlines()
    return f"{type(error).__name__} ({text[0][:200]})" if text else type(error).__name__
