"""What an unattended process writes."""

import json
import os
import subprocess
import sys

import pytest
from deepprofile.app import logs


def lines(script):
    """The log of a process of its own: how it is set up is for the whole of a process."""
    script = f"import logging; from deepprofile.app import logs; logs.configure()\n{script}"
    found = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, logs.FORMAT: "json"}, capture_output=True, text=True, check=True
    )
    return [json.loads(line) for line in found.stderr.splitlines()]


def test_lines_are_ours_and_the_errors_of_others():
    found = lines(
        "logging.getLogger('deepprofile.execution.engine').info('block %s', 7)\n"
        "logging.getLogger('somebody.else').warning('beware')\n"
        "logging.getLogger('somebody.else').error('broken')\n"
    )
    assert [(line["level"], line["logger"], line["message"]) for line in found] == [
        ("INFO", "deepprofile.execution.engine", "block 7"),
        ("ERROR", "somebody.else", "broken"),
    ]


def test_a_wait_that_was_given_up_is_no_error():
    (found,) = lines(
        "logging.getLogger('asyncio').error('never retrieved', exc_info=TimeoutError('Timeout'))\n"
        "logging.getLogger('asyncio').error('never retrieved', exc_info=ValueError('what went wrong'))\n"
    )
    assert "ValueError: what went wrong" in found["exc_info"]


SECRET = "hunter2Xy9-sesame"
LEAKY = f"""
import sys, threading, warnings
log = logging.getLogger('deepprofile.execution.engine')
def fail(*_):
    raise OSError('https://me:{SECRET}@host.org/a.nc')
try:
    fail()
except OSError as error:
    log.error('GET https://host.org/a.nc?token=%s&day=3', '{SECRET}', exc_info=True)
    log.error('refused', extra=dict(answer=dict(password='{SECRET}'), cause=error, steps=[8, 8]))
log.warning({{'Authorization': 'Homegrown {SECRET}'}})
log.warning('what the environment holds is open-sesame-7')
late = logging.getLogger('of.a.library')
late.addHandler(logging.StreamHandler())
logs.configure()
late.error('X-API-Key: {SECRET}')
warnings.warn('Cookie: session={SECRET}')
thread = threading.Thread(target=fail, name='reader')
thread.start()
thread.join()
fail()
"""


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_log_holds_a_secret(form):
    """Messages, their arguments, tracebacks, marks, warnings, and errors that nobody has caught."""
    script = f"import logging; from deepprofile.app import logs; logs.configure()\n{LEAKY}"
    environment = {**os.environ, logs.FORMAT: form, "SOME_API_KEY": "open-sesame-7"}
    found = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert found.returncode == 1
    # The traceback shows the line of the script that raises, not what it holds.
    for secret in (SECRET, "open-sesame-7"):
        assert secret not in found.stdout + found.stderr
    assert "token=...&day=3" in found.stderr
    assert found.stderr.count("https://...@host.org/a.nc") >= 3
    assert "X-API-Key: ..." in found.stderr
    assert "Cookie: ..." in found.stderr
    assert "Exception in thread reader" in found.stderr
    assert "what the environment holds is ..." in found.stderr
    if form == "json":
        marked = [json.loads(line) for line in found.stderr.splitlines() if '"refused"' in line]
        assert marked[0]["answer"] == {"password": "..."}
        assert marked[0]["steps"] == [8, 8]
        assert "https://...@host.org/a.nc" in marked[0]["cause"]
