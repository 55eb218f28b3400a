"""Logs of driver, scheduler and workers: where the environment asks for it one JSON object a line, with run, stage and block.

Whatever a log says, in either form, is without secrets: messages, tracebacks, and what lines are marked with.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import traceback
import warnings
from types import TracebackType
from typing import Any, Final, TextIO

from deepprofile.storage.lease import HOLDER
from deepprofile.storage.redaction import redacted, without_secrets

FORMAT: Final = "DEEPPROFILE_LOG"
_FIELDS: Final = "%(asctime)s %(levelname)s %(name)s %(message)s"


class _WithoutSecrets(logging.Formatter):
    """A formatter whose lines are without secrets."""


def wants_json() -> bool:
    """Whether the environment asks for JSON lines instead of what people read."""
    return os.environ.get(FORMAT, "text") == "json"


def json_formatter() -> logging.Formatter:
    """The format of a line; the settings of Dask name it for scheduler and workers."""
    from pythonjsonlogger.json import JsonFormatter

    class Formatter(JsonFormatter, _WithoutSecrets):
        """Names the run in every line, and leaves out what may be a secret."""

        def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
            super().add_fields(log_data, record, message_dict)
            if run := os.environ.get(HOLDER):
                log_data["run"] = run

        def jsonify_log_record(self, log_data: dict[str, Any]) -> str:
            # What is no text yet, such as an error, has become text by now.
            return json.dumps(redacted(json.loads(super().jsonify_log_record(log_data))))

    return Formatter(
        _FIELDS, rename_fields={"asctime": "time", "levelname": "level", "name": "logger"}, datefmt="%Y-%m-%dT%H:%M:%S%z"
    )


class TextFormatter(_WithoutSecrets):
    """A line as another formatter makes it, without what may be a secret."""

    def __init__(self, inner: logging.Formatter | None = None) -> None:
        super().__init__()
        self._inner = inner or logging.Formatter("%(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """See ``logging.Formatter``."""
        return without_secrets(self._inner.format(record))


def traceback_text(error: BaseException) -> str:
    """The traceback of an error, without what may be a secret."""
    return without_secrets("".join(traceback.format_exception(error)))


def _is_ours_or_matters(record: logging.LogRecord) -> bool:
    """What a stranger wants to read of a run: our lines, and the errors of others.

    Not what asyncio says of a wait that was given up after its time, such as for a scheduler that is being removed: who waited
    has said what matters of it.
    """
    if record.name == "asyncio" and record.exc_info and isinstance(record.exc_info[1], TimeoutError):
        return False
    return record.name.startswith("deepprofile") or record.levelno >= logging.ERROR


def configure() -> None:
    """Send the logs of this process to the standard error, as the environment asks for them.

    Called again, it does the same for what libraries have set up since.
    """
    _protect_the_rest()
    root = logging.getLogger()
    # What Python and libraries have set up stays, in the same form.
    loggers = [root, *(each for each in logging.Logger.manager.loggerDict.values() if isinstance(each, logging.Logger))]
    handlers = [each for logger in loggers for each in logger.handlers]
    for each in [*handlers, *([logging.lastResort] if logging.lastResort is not None else [])]:
        if not isinstance(each.formatter, _WithoutSecrets):
            each.setFormatter(TextFormatter(each.formatter))
    if not wants_json():
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(json_formatter())
    handler.addFilter(_is_ours_or_matters)
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("deepprofile").setLevel(logging.INFO)


def _protect_the_rest() -> None:
    """What Python itself writes of warnings and of errors that nobody has caught."""

    def warn(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        stream = file or sys.stderr
        if stream is not None:
            stream.write(without_secrets(warnings.formatwarning(message, category, filename, lineno, line)))

    def report(_kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
        if sys.stderr is not None:
            sys.stderr.write(traceback_text(error))

    def report_of_thread(arguments: threading.ExceptHookArgs) -> None:
        if arguments.exc_value is not None and arguments.exc_type is not SystemExit and sys.stderr is not None:
            name = arguments.thread.name if arguments.thread is not None else "unknown"
            sys.stderr.write(f"Exception in thread {name}:\n{traceback_text(arguments.exc_value)}")

    warnings.showwarning = warn
    sys.excepthook = report
    threading.excepthook = report_of_thread


def dask_setup(_worker: object) -> None:
    """What a worker that names this module as its ``preload`` does when it starts."""
    configure()
