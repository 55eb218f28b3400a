"""Services that offer granules, on loopback: NASA's repository and archive, and the Climate Data Store, as documented.

CMR: https://cmr.earthdata.nasa.gov/search/site/docs/search/api.html, UMM-G 1.6; CDS: OGC API Processes, as its retrieve API.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import threading
import uuid
from collections import Counter, defaultdict, deque
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

TOKEN = "a-token"
LOGIN = b"<!DOCTYPE html><html><head><title>Earthdata Login</title></head><body>Log in</body></html>"


class Services:
    """Both services, with the files of folders.

    ``collections``: short name to folder. ``trouble``: what goes wrong with the next requests for a path, one after the other.
    """

    def __init__(self):
        self.collections, self.revisions = {}, Counter()
        self.trouble, self.asked = defaultdict(deque), Counter()
        self.jobs, self.submitted, self.under_way, self.most = {}, [], 0, 0
        self.withheld = False
        # Days, of all four variables, that one request of the Climate Data Store may have.
        self.most_days = 31
        self.make = None
        self.lock = threading.Lock()

    # --- NASA

    def granules(self, query):
        name = query["short_name"][0]
        if name not in self.collections:
            return []
        first, last = (text[:10] for text in query["temporal[]"][0].split(","))
        found = []
        for path in sorted(self.collections[name].iterdir()):
            digits = re.search(r"(20\d{2})(\d{2})(\d{2})", path.name)
            if first <= "-".join(digits.groups()) <= last:
                found.append(self.record(path, name))
        return found

    def record(self, path, short_name):
        content = path.read_bytes()
        return {
            "meta": {"concept-id": "G1-TEST", "revision-id": 1 + self.revisions[path.name], "native-id": path.name},
            "umm": {
                "GranuleUR": path.stem,
                "CollectionReference": {"ShortName": short_name, "Version": "1"},
                "DataGranule": {
                    "ArchiveAndDistributionInformation": [
                        {
                            "Name": path.name,
                            "SizeInBytes": len(content),
                            "Checksum": {"Value": hashlib.md5(content).hexdigest(), "Algorithm": "MD5"},
                        }
                    ]
                },
                "RelatedUrls": [
                    {"URL": f"{self.url}/archive/{short_name}/{path.name}", "Type": "GET DATA"},
                    {"URL": f"{self.url}/archive/{short_name}/{path.name}.xml", "Type": "EXTENDED METADATA"},
                    {"URL": f"s3://archive/{path.name}", "Type": "GET DATA VIA DIRECT ACCESS"},
                ],
            },
        }

    # --- the Climate Data Store

    def submit(self, request):
        job = str(uuid.uuid4())
        self.submitted.append(request)
        self.jobs[job] = {"request": request, "polls": 0}
        return self.state(job)

    def state(self, job):
        known = self.jobs[job]
        ready = not self.withheld and known["polls"] >= 1
        status = "failed" if known["request"].get("fails") else "successful" if ready else "accepted"
        known["polls"] += 1
        here = f"{self.url}/cds/retrieve/v1/jobs/{job}"
        links = [{"href": here, "rel": "self"}, {"href": here, "rel": "monitor"}]
        if status == "successful":
            links.append({"href": f"{here}/results", "rel": "results"})
        return {"processID": "reanalysis-era5-land", "type": "process", "jobID": job, "status": status, "links": links}

    def results(self, job):
        with self.lock:
            content = self.jobs[job]["content"] = self.make(self.jobs[job]["request"])
        value = {"type": "application/netcdf", "href": f"{self.url}/cds/files/{job}.nc", "file:size": len(content)}
        return {"asset": {"value": value}}


def handler(services):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def answer(self, content, status=200, kind="application/json", **headers):
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body)

        def cut(self, body):
            self.send_response(200)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            # A reset, not an orderly end.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()

        def file(self, body, path):
            with services.lock:
                services.asked[path] += 1
                trouble = services.trouble[path].popleft() if services.trouble[path] else None
            if trouble == "busy":
                self.answer({"errors": ["Too many requests"]}, 429, Retry_After="0")
            elif trouble == "login":
                self.answer(LOGIN, kind="text/html; charset=utf-8")
            elif trouble == "cut":
                self.cut(body)
            elif trouble == "other":
                self.answer(body[::-1], kind="application/octet-stream")
            elif trouble == "refused":
                self.answer({"title": "required licences not accepted"}, 403)
            else:
                self.answer(body, kind="application/octet-stream")

        def do_GET(self):
            parts = urlsplit(self.path)
            query, path = parse_qs(parts.query), parts.path
            if path == "/search/granules.umm_json":
                found = services.granules(query)
                services.asked["search"] += 1
                size = int(query.get("page_size", ["2000"])[0])
                start = int(self.headers.get("CMR-Search-After", "0"))
                page = found[start : start + size]
                more = {"CMR_Search_After": str(start + size)} if page else {}
                self.answer({"hits": len(found), "took": 1, "items": page}, CMR_Hits=str(len(found)), **more)
            elif path.startswith("/archive/"):
                if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                    self.answer({"error": "invalid_token"}, 401)
                    return
                _, _, name, granule = path.split("/")
                with services.lock:
                    services.under_way += 1
                    services.most = max(services.most, services.under_way)
                try:
                    self.file((services.collections[name] / granule).read_bytes(), granule)
                finally:
                    with services.lock:
                        services.under_way -= 1
            elif path.startswith("/cds/catalogue"):
                self.answer({"messages": []})
            elif path.startswith("/cds/files/"):
                job = path.rsplit("/", 1)[-1].removesuffix(".nc")
                self.file(services.jobs[job]["content"], "cds")
            elif self.headers.get("PRIVATE-TOKEN") != TOKEN:
                self.answer({"title": "authentication required", "detail": "operation not allowed"}, 401)
            elif re.fullmatch(r"/cds/retrieve/v1/processes/[\w-]+", path):
                self.answer({"id": path.rsplit("/", 1)[-1], "version": "1.0.0", "links": []})
            elif path.endswith("/results"):
                job = path.split("/")[-2]
                if services.jobs[job]["request"].get("fails"):
                    self.answer({"title": "The job has failed", "traceback": "MARS returned no data"}, 400)
                else:
                    self.answer(services.results(job))
            else:
                job = path.rsplit("/", 1)[-1]
                self.answer(
                    services.state(job) if job in services.jobs else {"title": "job not found"},
                    200 if job in services.jobs else 404,
                )

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.headers.get("PRIVATE-TOKEN") != TOKEN:
                self.answer({"title": "authentication required"}, 401)
            elif len(body["inputs"]["day"]) * len(body["inputs"]["variable"]) > 4 * services.most_days:
                detail = "Your request is too large, please reduce your selection."
                self.answer({"type": "permission denied", "title": "cost limits exceeded", "detail": detail}, 403)
            else:
                self.answer(services.submit(body["inputs"]), 201)

    return Handler


@contextmanager
def serving(services):
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(services))
    services.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield services
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def services(monkeypatch, tmp_path):
    """Services with nothing to offer yet, and credentials for them."""
    for name in ("EARTHDATA_USERNAME", "EARTHDATA_PASSWORD", "CDSAPI_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("EARTHDATA_TOKEN", TOKEN)
    monkeypatch.setenv("CDSAPI_KEY", TOKEN)
    monkeypatch.setenv("CDSAPI_RC", str(tmp_path / "none"))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setattr("deepprofile.sources.providers.provider.BACKOFF_SECONDS", 0.0)
    monkeypatch.setattr("deepprofile.sources.providers.cds._FIRST_PAUSE", 0.01)
    monkeypatch.setattr("deepprofile.sources.providers.cds._RETRY_SECONDS", 0.01)
    monkeypatch.setattr("deepprofile.sources.providers.earthdata._local.session", None, raising=False)
    with serving(Services()) as found:
        yield found
