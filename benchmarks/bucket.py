"""A bucket on the emulator of Google Cloud Storage that tests run on, behind a proxy that counts requests and bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.object_storage import Proxy, Server, emulator


@contextmanager
def bucket(folder: Path, latency_seconds: float = 0.0) -> Iterator[tuple[str, Proxy]]:
    """URL of an empty bucket whose objects lie below a folder, and the proxy; requests are answered so much later."""
    server = Server(folder / "server")
    server.folder.mkdir()
    server.start()
    proxy = Proxy(server, 1.0 if latency_seconds else 0.0, delay=latency_seconds, faults=("delay",))
    try:
        with emulator(proxy.url):
            yield f"gs://{server.bucket()}", proxy
    finally:
        proxy.close()
        server.kill()
