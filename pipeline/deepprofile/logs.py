"""Logs of unattended runs: one JSON object a line, with run, stage and block, for driver, scheduler and workers alike."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any, Final

from deepprofile.lease import HOLDER
from deepprofile.objects import without_secrets

FORMAT: Final = "DEEPPROFILE_LOG"
_FIELDS: Final = "%(asctime)s %(levelname)s %(name)s %(message)s"


def wants_json() -> bool:
    """Whether the environment asks for JSON lines instead of what people read."""
    return os.environ.get(FORMAT, "text") == "json"


def json_formatter() -> logging.Formatter:
    """The format of a line; the settings of Dask name it for scheduler and workers."""
    from pythonjsonlogger.json import JsonFormatter

    class Formatter(JsonFormatter):
        """Names the run in every line, and leaves out what may be a secret."""

        def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
            super().add_fields(log_data, record, message_dict)
            log_data["message"] = without_secrets(str(log_data.get("message", "")))
            if run := os.environ.get(HOLDER):
                log_data["run"] = run

    return Formatter(
        _FIELDS, rename_fields={"asctime": "time", "levelname": "level", "name": "logger"}, datefmt="%Y-%m-%dT%H:%M:%S%z"
    )


def _is_ours_or_matters(record: logging.LogRecord) -> bool:
    """What a stranger wants to read of a run: our lines, and the errors of others.

    Not what asyncio says of a wait that was given up after its time, such as for a scheduler that is being removed: who waited
    has said what matters of it.
    """
    if record.name == "asyncio" and record.exc_info and isinstance(record.exc_info[1], TimeoutError):
        return False
    return record.name.startswith("deepprofile") or record.levelno >= logging.ERROR


def configure() -> None:
    """Send the logs of this process to the standard error, as the environment asks for them."""
    if not wants_json():
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(json_formatter())
    handler.addFilter(_is_ours_or_matters)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("deepprofile").setLevel(logging.INFO)
