"""Runs that are killed, by the command line as an operator starts it."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from deepprofile import twin
from deepprofile.twin.granules import write_granules, write_stations

from tests.support.granules import SHAPE, document, tree

# In CI a few; in `make soak` ten.
KILLS = 10 if os.environ.get("DEEPPROFILE_TEST_SOAK") else 5

# Days of the simulated record; the year ends in their middle.
DAYS = slice(245, 305)


def start(path, *arguments):
    command = [sys.executable, "-m", "deepprofile.app.cli", "run", "-c", str(path), *arguments]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # What a shell starts in the background ignores Ctrl-C, and so would all that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Writes a configuration with its own root; small blocks make many moments at which a run can be killed."""
    world = twin.simulate(SHAPE, (DAYS.stop + 1) / 360, seed=5, stations=6)
    granules = tmp_path_factory.mktemp("granules of two years")
    write_granules(world, granules, DAYS)
    write_stations(world, granules)
    first, last = (str(world.truth.time.values[day])[:10] for day in (DAYS.start, DAYS.stop - 1))
    assert first[:4] != last[:4]

    def write(name):
        folder = tmp_path_factory.mktemp(name)
        path = folder / "deepprofile.yaml"
        blocks = {"days": 12, "cells": 8, "chunk_days": 4, "chunk_cells": 4}
        ingest = {"days": 4, "cells": 8, "chunk_cells": 4}
        period = {"start": first, "end": last}
        made = document(world, granules, folder / "root", blocks=blocks, ingest=ingest, period=period)
        path.write_text(yaml.safe_dump(made, sort_keys=False))
        return path, folder / "root"

    return write


@pytest.fixture(scope="module")
def undisturbed(settings):
    path, root = settings("undisturbed")
    began = time.monotonic()
    process = start(path)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return tree(root), time.monotonic() - began


def finish(path):
    process = start(path)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def objects(root):
    return sum(1 for path in Path(root).rglob("*") if path.is_file())


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bytes(settings, undisturbed):
    expected, _ = undisturbed
    path, root = settings("killed")
    rng = random.Random(11)
    killed = 0
    for number in range(KILLS):
        process = start(path)
        before = objects(root)
        # Twice while it is still starting; else at some moment after it has begun to write.
        while number not in (3, 7) and process.poll() is None and objects(root) == before:
            time.sleep(0.02)
        time.sleep(rng.uniform(0.0, 1.2))
        if process.poll() is None:
            os.killpg(os.getpgid(process.pid), signal.SIGKILL)
            killed += 1
        process.communicate()
    assert killed == KILLS
    finish(path)
    assert tree(root) == expected


def test_a_worker_that_is_killed_costs_the_blocks_it_held(settings, undisturbed):
    expected, seconds = undisturbed
    path, root = settings("worker")
    process = start(path)
    deadline = time.monotonic() + 120
    victims = 0
    while victims < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.25 * seconds)
        workers = [
            child
            for child in psutil.Process(process.pid).children(recursive=True)
            if any("spawn_main" in part for part in child.cmdline())
        ]
        if workers and (root / "ard").exists():
            workers[0].kill()
            victims += 1
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert victims >= 1
    assert tree(root) == expected


def test_ctrl_c_stops_within_seconds_and_says_how_to_go_on(settings, undisturbed):
    expected, _ = undisturbed
    path, root = settings("stopped")
    process = start(path)
    deadline = time.monotonic() + 120
    while not list(Path(root).glob("runs/*/blocks/*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    # As a terminal does: to the whole group of processes.
    began = time.monotonic()
    os.killpg(os.getpgid(process.pid), signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert time.monotonic() - began < 30.0
    assert process.returncode == 130, output
    assert "What was done is recorded: run the same command again to go on." in output
    assert "Traceback" not in output
    assert "done before" in finish(path)
    assert tree(root) == expected


def test_no_space_left_is_said_and_the_run_goes_on_elsewhere(settings, undisturbed, tmp_path):
    path, _ = settings("full")
    folder = tmp_path / "small"
    folder.mkdir()
    found = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)], capture_output=True, text=True)
    if found.returncode:
        pytest.skip(f"this machine lets nobody mount a file system: {found.stderr.strip()}")
    try:
        process = start(path, "--set", f"root={folder}/root", "--set", "compute.attempts=2")
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 1, output
        assert "No space left on device" in output
        assert "Traceback" not in output
        # More room, and the same command: what was done stays done.
        subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
        process = start(path, "--set", f"root={folder}/root")
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        assert tree(folder / "root") == undisturbed[0]
    finally:
        subprocess.run(["umount", str(folder)], capture_output=True)
