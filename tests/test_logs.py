"""What an unattended process writes."""

import json
import os
import subprocess
import sys

from deepprofile import logs


def lines(script):
    """The log of a process of its own: how it is set up is for the whole of a process."""
    script = f"import logging; from deepprofile import logs; logs.configure()\n{script}"
    found = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, logs.FORMAT: "json"}, capture_output=True, text=True, check=True
    )
    return [json.loads(line) for line in found.stderr.splitlines()]


def test_lines_are_ours_and_the_errors_of_others():
    found = lines(
        "logging.getLogger('deepprofile.engine').info('block %s', 7)\n"
        "logging.getLogger('somebody.else').warning('beware')\n"
        "logging.getLogger('somebody.else').error('broken')\n"
    )
    assert [(line["level"], line["logger"], line["message"]) for line in found] == [
        ("INFO", "deepprofile.engine", "block 7"),
        ("ERROR", "somebody.else", "broken"),
    ]


def test_a_wait_that_was_given_up_is_no_error():
    (found,) = lines(
        "logging.getLogger('asyncio').error('never retrieved', exc_info=TimeoutError('Timeout'))\n"
        "logging.getLogger('asyncio').error('never retrieved', exc_info=ValueError('what went wrong'))\n"
    )
    assert "ValueError: what went wrong" in found["exc_info"]
