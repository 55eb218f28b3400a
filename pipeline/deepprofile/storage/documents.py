"""Documents that runs keep for later runs: JSON objects that say which version of their format they have.

A document is read as it is, or refused in words: one that is cut or is something else, and one that a newer version of this
software has written. Documents of before there were versions of the format count as version 0.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any, Final

from deepprofile.storage.objects import as_json, read_bytes, write_bytes

log = logging.getLogger(__name__)

# Raised when a reader of before would misunderstand what is written since; readers go on to read all older ones.
FORMAT: Final = 1
FORMAT_KEY: Final = "format"

Kinds = type[Any] | tuple[type[Any], ...]


class DocumentError(Exception):
    """A document that cannot be used; the message says why, and what to do."""


class DamagedDocumentError(DocumentError):
    """A document that is cut, or is not what its name says."""


class NewerDocumentError(DocumentError):
    """A document that a newer version of this software has written."""


def parse(url: str, content: bytes, required: Mapping[str, Kinds] | None = None, newest: int = FORMAT) -> dict[str, Any]:
    """The document that some bytes are.

    Parameters
    ----------
    url
        Where they come from, for messages.
    content
        The bytes.
    required
        Names that have to be there, and the types of what they hold.
    newest
        The latest version of its format that is read here.

    Raises
    ------
    DamagedDocumentError, NewerDocumentError
        See there.
    """
    try:
        found = json.loads(content)
    except ValueError as error:
        raise DamagedDocumentError(f"{url} is damaged: it holds {len(content)} bytes that are not JSON ({error})") from error
    if not isinstance(found, dict):
        raise DamagedDocumentError(f"{url} is damaged: it holds a JSON {type(found).__name__} instead of an object")
    made = found.get(FORMAT_KEY, 0)
    if not isinstance(made, int) or isinstance(made, bool):
        raise DamagedDocumentError(f"{url} is damaged: its {FORMAT_KEY!r} is {made!r} instead of a number")
    if made > newest:
        raise NewerDocumentError(
            f"{url} has format {made}, which a newer version of deepprofile has written; this one reads up to format {newest}: "
            "use the newer version on this root, or choose another root"
        )
    for name, kinds in (required or {}).items():
        if name not in found:
            raise DamagedDocumentError(f"{url} is damaged: it lacks {name!r}")
        if not isinstance(found[name], kinds):
            raise DamagedDocumentError(f"{url} is damaged: its {name!r} is {str(found[name])[:60]!r}")
    return found


def read_document(url: str, required: Mapping[str, Kinds] | None = None, newest: int = FORMAT) -> dict[str, Any] | None:
    """The document at a URL; None where there is none.

    Raises
    ------
    DamagedDocumentError, NewerDocumentError
        See ``parse``.
    """
    content = read_bytes(url)
    return None if content is None else parse(url, content, required, newest)


def read_sound(url: str, required: Mapping[str, Kinds] | None = None) -> dict[str, Any] | None:
    """The document at a URL, for what can do without it: None, and a warning, where it is damaged.

    Raises
    ------
    NewerDocumentError
        See ``parse``.
    """
    try:
        return read_document(url, required)
    except DamagedDocumentError as error:
        log.warning("%s; it is left out of account", error)
        return None


def write_document(url: str, body: Mapping[str, Any]) -> None:
    """Write a document whole, with the version of its format: a reader sees the old one or the new one."""
    write_bytes(url, as_json({FORMAT_KEY: FORMAT, **body}))
