"""Granules of a folder that a web server lists."""

from __future__ import annotations

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from deepprofile.storage.objects import listing


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    made = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{made.server_address[1]}"
    made.shutdown()
    made.server_close()
    thread.join()


def test_a_folder_of_a_web_server_is_listed_with_sizes(server, tmp_path):
    folder = tmp_path / "granules" / "2015"
    folder.mkdir(parents=True)
    (folder / "one.nc").write_bytes(b"12345")
    (folder / "two.nc").write_bytes(b"1")
    found = [(entry["url"], entry["size"]) for entry in listing(server + "/granules/")]
    assert found == [(f"{server}/granules/2015/one.nc", 5), (f"{server}/granules/2015/two.nc", 1)]
