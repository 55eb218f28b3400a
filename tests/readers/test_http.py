"""The public folder on any server of static files that answers ranges: what a stranger opens without an account."""

import subprocess
import sys

import deepprofile as dp
import pytest
import xarray as xr
from deepprofile.storage.stores import StoreError

# Prints its port, and serves a folder.
SERVER = """
import asyncio, sys
from aiohttp import web

async def main():
    app = web.Application()
    app.router.add_static("/", sys.argv[1])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def address(published):
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(published.folder)], stdout=subprocess.PIPE, text=True)
    try:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("store", ["layers", "profile", "map/36km", "weights"])
def test_stores_are_read_by_their_address(published, address, store):
    place = {"y": slice(2, 4), "x": slice(1, 3)}
    found, ours = (dp.open_store(where, store).isel(place) for where in (address, published.root))
    xr.testing.assert_equal(found.load(), ours.load())


def test_a_release_that_is_not_there_is_said(address):
    with pytest.raises(StoreError, match="has no release '2031'"):
        dp.open_store(address, version="2031")
