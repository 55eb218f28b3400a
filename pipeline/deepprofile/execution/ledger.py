"""Records of the blocks of a run, kept as lines in a few objects."""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

from deepprofile.execution.blocks import Record
from deepprofile.storage.documents import FORMAT, FORMAT_KEY, DamagedDocumentError, parse
from deepprofile.storage.filesystems import join
from deepprofile.storage.objects import list_children, read_all, remove, write_bytes
from deepprofile.storage.redaction import redacted

log = logging.getLogger(__name__)


# Records are kept together for so long, so that a store in the cloud gets a few objects a minute, not one for each block.
FLUSH_SECONDS: Final = 2.0
FLUSH_RECORDS: Final = 256
# A driver's file grows to this size before it begins another: few files, and little that is written twice.
SEGMENT_CHARACTERS: Final = 2**18
_SEGMENT: Final = re.compile(r"\d+-[0-9a-f]+\.jsonl")
# Files of records that vanish while they are read are listed again so often.
MOST_LISTINGS: Final = 20


class Ledger:
    """Records of a job, in numbered files of JSON lines below a folder; a new run of the same job goes on behind them.

    No file ever changes: a driver writes a longer one in place of its own, until that is large, and the end of a job leaves a
    single file. Two drivers may believe for a moment that a run is theirs: whoever reads has the records of both.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._writer = uuid.uuid4().hex[:8]
        self._pending: list[Record] = []
        # The file that still grows, and its lines.
        self._open: str | None = None
        self._segment: list[str] = []
        self._flushed = time.monotonic()
        self._next = 0
        self._known: dict[str, Record] = {}
        # Files whose records are all known here.
        self._files: set[str] = set()

    def read(self) -> dict[str, Record]:
        """The latest record of each block; a line that is damaged is left out, and said.

        Raises
        ------
        deepprofile.storage.documents.NewerDocumentError
            Where a newer version of this software has written records.
        """
        for _ in range(MOST_LISTINGS):
            names = [name for name in list_children(self.url) if _SEGMENT.fullmatch(name)]
            contents = read_all([join(self.url, name) for name in names])
            # Another driver may have joined files into one since they were listed.
            if all(content is not None for content in contents):
                break
        # A name that leads nowhere, such as a link, stays what it is.
        self._known, self._files = {}, set(names)
        for name, content in zip(names, contents, strict=True):
            for line in (content or b"").splitlines():
                record = _record(join(self.url, name), line)
                if record is not None:
                    self._known[record.block] = record
        self._next = max((int(name.split("-")[0]) + 1 for name in names), default=0)
        return dict(self._known)

    def add(self, record: Record) -> None:
        """Keep a record; written with others after a moment."""
        self._pending.append(record)
        if len(self._pending) >= FLUSH_RECORDS:
            self.flush()

    def flush_if_due(self) -> None:
        """Write what has waited long enough."""
        if self._pending and time.monotonic() - self._flushed >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is kept."""
        if self._pending:
            lines = self._segment + [_line(record) for record in self._pending]
            self._replace([self._open] if self._open is not None else [], lines)
            self._known |= {record.block: record for record in self._pending}
            self._pending, self._segment = [], lines
            if sum(map(len, lines)) >= SEGMENT_CHARACTERS:
                self._open, self._segment = None, []
        self._flushed = time.monotonic()

    def compact(self) -> None:
        """Join the files whose records are known here into one; what others have written meanwhile stays beside it."""
        self.flush()
        if len(self._files) > 1:
            self._replace(sorted(self._files), [_line(record) for record in self._known.values()])
            self._open, self._segment = None, []

    def _replace(self, old: Sequence[str], lines: Sequence[str]) -> None:
        """A new file in place of old ones. It is there before they go, and is read after them: nothing is ever missing."""
        name = f"{self._next:06d}-{self._writer}.jsonl"
        write_bytes(join(self.url, name), "".join(lines).encode())
        self._next += 1
        self._files = self._files - set(old) | {name}
        self._open = name
        for each in old:
            remove(join(self.url, each))


def _line(record: Record) -> str:
    return json.dumps({FORMAT_KEY: FORMAT, **redacted(asdict(record))}, sort_keys=True) + "\n"


def _record(url: str, line: bytes) -> Record | None:
    """The record of a line; None, and a warning, where it is damaged: its block is computed again."""
    try:
        raw = parse(url, line, {"block": str, "fingerprint": str, "status": str})
        raw.pop(FORMAT_KEY, None)
        places = {"index": tuple(raw.get("index", ())), "region": tuple(map(tuple, raw.get("region", ())))}
        return Record(**raw | places | {"problems": tuple(raw.get("problems", ()))})
    except (DamagedDocumentError, TypeError) as error:
        log.warning("a record is left out: %s", error)
        return None
