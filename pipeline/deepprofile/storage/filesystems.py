"""File systems of URLs: a local folder, ``gs://`` and ``memory://`` behave alike."""

from __future__ import annotations

import os
from functools import cache
from typing import Any, Final

import fsspec
from fsspec.core import url_to_fs
from zarr.storage import FsspecStore, LocalStore, StoreLike

from deepprofile.storage.retries import retry_async

SEPARATOR: Final = "/"
CONNECT_SECONDS: Final = 10.0
# Between two pieces of an answer, not for the whole of it.
READ_SECONDS: Final = 60.0
CREDENTIALS: Final = "DEEPPROFILE_STORAGE_CREDENTIALS"
NO_CACHE: Final = "no-cache"
# The project that pays where a bucket's readers do.
REQUESTER_PAYS: Final = "DEEPPROFILE_REQUESTER_PAYS"


def join(*parts: str) -> str:
    """Join the parts of a URL."""
    return SEPARATOR.join([parts[0].rstrip(SEPARATOR), *(part.strip(SEPARATOR) for part in parts[1:])])


def is_local(url: str) -> bool:
    """Whether a URL names a folder of this machine."""
    return "://" not in url or url.startswith(("file://", "local://"))


def is_gcs(url: str) -> bool:
    """Whether a URL names an object of Google Cloud Storage."""
    return url.startswith(("gs://", "gcs://"))


def local_path(url: str) -> str:
    """The path of a URL that names a folder of this machine, with every character of its name as it is."""
    for scheme in ("file://", "local://"):
        url = url.removeprefix(scheme)
    return os.path.abspath(os.path.expanduser(url))


def anonymous() -> bool:
    """Whether requests to object storage carry no credentials: as the environment says, or for an emulator."""
    return os.environ.get(CREDENTIALS, "default") == "anonymous" or bool(os.environ.get("STORAGE_EMULATOR_HOST"))


def cache_control(path: str) -> str:
    """How long browsers and caches may keep an object, as storage tells them (RFC 9111).

    For ever: what lies in a version of a store, and files, whose names say what they were made from. Metadata of a store may
    get another description. Pointers and documents are asked for each time: else a public bucket lets caches keep them for an
    hour.
    """
    if path.endswith("/zarr.json"):
        return "public, max-age=3600"
    if ".zarr/" in path or path.endswith(".nc"):
        return "public, max-age=31536000, immutable"
    return NO_CACHE


@cache
def _retrying_gcs() -> type[Any]:
    from gcsfs.core import GCSFileSystem

    class RetryingGCSFileSystem(GCSFileSystem):  # type: ignore[misc]
        """gcsfs with our retries in place of its own: one budget a block, and every repetition is counted."""

        async def _request(self, *args: Any, **kwargs: Any) -> Any:
            return await retry_async(lambda: GCSFileSystem._request.__wrapped__(self, *args, **kwargs))

        async def _get_file_request(self, *args: Any, **kwargs: Any) -> Any:
            return await retry_async(lambda: GCSFileSystem._get_file_request.__wrapped__(self, *args, **kwargs))

        async def _pipe_file(self, path: str, data: Any, **options: Any) -> Any:
            options.setdefault("fixed_key_metadata", {"cache_control": cache_control(path)})
            return await GCSFileSystem._pipe_file(self, path, data, **options)

        async def _put_file(self, lpath: str, rpath: str, **options: Any) -> Any:
            options.setdefault("fixed_key_metadata", {"cache_control": cache_control(rpath)})
            return await GCSFileSystem._put_file(self, lpath, rpath, **options)

        @staticmethod
        def close_session(loop: Any, session: Any, asynchronous: bool = False) -> None:
            # Called when the interpreter ends. What zarr's loop has opened cannot be closed on another one.
            if not asynchronous:
                GCSFileSystem.close_session(loop, session, asynchronous)
            elif session is not None and session.connector is not None:
                session.connector._close()

    return RetryingGCSFileSystem


def filesystem(url: str, *, asynchronous: bool = False) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path of the URL in it.

    ``gs://`` has the application default credentials (Workload Identity on GKE, a login or a key file elsewhere), or none
    where the environment variable DEEPPROFILE_STORAGE_CREDENTIALS is ``anonymous``. DEEPPROFILE_REQUESTER_PAYS names
    the project that pays for reading from buckets whose readers pay.
    """
    if is_local(url):
        return fsspec.filesystem("file"), local_path(url)
    if not is_gcs(url):
        fs, path = url_to_fs(url)
        return fs, str(path)
    import aiohttp

    kind = _retrying_gcs()
    fs = kind(
        token="anon" if anonymous() else None,
        asynchronous=asynchronous,
        requester_pays=os.environ.get(REQUESTER_PAYS) or False,
        # Others write into the same bucket: what was listed a moment ago may be wrong by now.
        use_listings_cache=False,
        requests_timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS),
        endpoint_url=os.environ.get("STORAGE_EMULATOR_HOST") or None,
    )
    return fs, str(kind._strip_protocol(url))


def zarr_store(url: str) -> StoreLike:
    """The zarr store at a URL."""
    if is_local(url):
        return LocalStore(local_path(url))
    if is_gcs(url):
        fs, path = filesystem(url, asynchronous=True)
        return FsspecStore(fs, path=path)
    return FsspecStore.from_url(url)
