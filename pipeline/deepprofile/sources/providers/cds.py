"""ERA5-Land from the Copernicus Climate Data Store, https://cds.climate.copernicus.eu/datasets/reanalysis-era5-land.

The store prepares a file on request, which may wait in its queue for hours: the request's identifier is remembered, and whoever
comes next takes it up again.

What the store finds too large is asked for in parts: half of the days each time, down to single days, then half of the
variables. The parts are joined to the one file that was offered before anything is put into the folder of granules: a folder
never holds half of a month, and a run that is killed takes up the requests of the parts again.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import time
import warnings
import zipfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import requests

from deepprofile.sources.providers.provider import (
    Box,
    CredentialsError,
    Document,
    DownloadError,
    Provider,
    RemoteGranule,
    RequestStore,
    check,
)
from deepprofile.storage.redaction import hold, without_secrets

log = logging.getLogger(__name__)

CREDENTIALS: Final = (
    "set CDSAPI_KEY (or write a .cdsapirc) in the environment of the workers, and accept the licence of ERA5-Land in the "
    "Climate Data Store"
)
URL: Final = "https://cds.climate.copernicus.eu/api"
VARIABLES: Final = (
    "volumetric_soil_water_layer_1",
    "volumetric_soil_water_layer_2",
    "volumetric_soil_water_layer_3",
    "soil_temperature_level_1",
)
HOURS: Final = tuple(f"{hour:02d}:00" for hour in range(24))
FINAL, PROVISIONAL = "final", "provisional"
# How long one attempt waits in the queue; the next one goes on waiting for the same request.
WAIT_SECONDS: Final = 3600.0
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
_ATTEMPTS: Final = 5
_RETRY_SECONDS: Final = 5.0
# A global grid of 0.1 degrees, by the centres of its cells.
_ROUND_DEGREES, _POLE_TO_POLE_DEGREES = 359.9, 180.0
# The store calls a request that is too large "permission denied", like one without a licence: only its words tell them apart.
_TOO_LARGE: Final = re.compile(
    r"(?i)too (?:large|big)|cost limits?|reduce (?:your|the) (?:selection|request)|too many (?:items|fields|elements)"
    r"|(?:number of (?:items|fields)|request size|size of the request).{0,60}(?:exceed|limit)"
)
_NOT_ALLOWED: Final = re.compile(
    r"(?i)licen[cs]e|permission|not (?:allowed|authori[sz]ed|permitted)|authenticat|credential|terms (?:of|and)|access token"
    r"|api key"
)
_NETCDF, _NETCDF_CLASSIC, _GRIB, _ZIP = b"\x89HDF", b"CDF", b"GRIB", b"PK"
# Time steps that are held in memory while parts are joined.
_STEPS_AT_A_TIME: Final = 24


class Cds(Provider):
    """A dataset of the Climate Data Store: a file a day, or a month where a whole one is asked for."""

    lists: ClassVar[bool] = False

    def find(self, days: Sequence[np.datetime64], box: Box, provisional_after: np.datetime64) -> list[RemoteGranule]:
        """See ``Provider.find``; what is there is not known before it is asked for."""
        months: dict[str, list[str]] = defaultdict(list)
        for day in sorted(days):
            months[str(day)[:7]].append(str(day))
        offers = []
        for month, members in months.items():
            start = np.datetime64(month, "M")
            last = (start + 1).astype("datetime64[D]") - np.timedelta64(1, "D")
            whole = len(members) == int((last - start.astype("datetime64[D]")).astype(int)) + 1
            if whole and last <= provisional_after:
                offers.append(self._offer(members, box, FINAL))
            else:
                for text in members:
                    revision = FINAL if np.datetime64(text, "D") <= provisional_after else PROVISIONAL
                    offers.append(self._offer([text], box, revision))
        return offers

    def _offer(self, days: Sequence[str], box: Box, revision: str) -> RemoteGranule:
        west, south, east, north = box
        request: dict[str, Any] = {
            "variable": list(VARIABLES),
            "year": days[0][:4],
            "month": days[0][5:7],
            "day": [day[8:] for day in days],
            "time": list(HOURS),
            "data_format": "netcdf",
            "download_format": "unarchived",
        }
        if east - west < _ROUND_DEGREES - 1e-6 or north - south < _POLE_TO_POLE_DEGREES - 1e-6:
            request["area"] = [north, west, south, east]
        stamp = days[0].replace("-", "") if len(days) == 1 else days[0][:7].replace("-", "")
        return RemoteGranule(f"era5_land_{stamp}.nc", {"request": request}, revision=revision)

    def fetch(self, offer: RemoteGranule, target: Path, requested: RequestStore) -> None:
        """See ``Provider.fetch``."""
        fetch = _Fetch(self.collection, self._client(), offer, requested)
        parts = fetch.parts(dict(offer.source["request"]), target)
        if len(parts) == 1:
            parts[0].replace(target)
        else:
            try:
                _join(parts, target)
            except (OSError, ValueError, KeyError) as error:
                raise DownloadError(
                    f"{offer.name}: its {len(parts)} parts do not fit together: {_first_line(error)}"
                ) from error
        check(offer, target)
        requested.save(None)

    def _client(self) -> Any:
        import cdsapi
        from cdsapi.api import get_url_key_verify

        try:
            url, key, verify = get_url_key_verify(self.url, None, None)
        except Exception:  # noqa: BLE001
            # Its own address is no secret: the key is what has to be given.
            try:
                url, key, verify = get_url_key_verify(self.url or URL, None, None)
            except Exception as error:
                raise CredentialsError(f"there are no credentials for the Climate Data Store: {CREDENTIALS}") from error
        hold(str(key))
        options = {"quiet": True, "progress": False, "wait_until_complete": False, "delete": False}
        with warnings.catch_warnings():
            # What the service has to announce to people is nothing for a log.
            warnings.simplefilter("ignore")
            client = cdsapi.Client(url, key, verify=verify, retry_max=_ATTEMPTS, sleep_max=_RETRY_SECONDS, **options)
        if not hasattr(client, "client"):
            raise CredentialsError(f"CDSAPI_KEY is of the old Climate Data Store, which is closed: {CREDENTIALS}")
        return client.client


class _TooLargeError(Exception):
    """A request that the store finds too large; the message is the store's."""


class _Fetch:
    """One attempt at an offer: its request, or the parts of it that the store takes."""

    def __init__(self, collection: str, client: Any, offer: RemoteGranule, requested: RequestStore) -> None:
        self._collection, self._client, self._offer, self._requested = collection, client, offer, requested
        self._began = time.monotonic()
        # The identifier of each request that is under way, by what it asks for.
        self._known = _recalled(requested.load())

    def parts(self, request: Mapping[str, Any], target: Path) -> list[Path]:
        """Files that together hold what is asked for, in the order of their days."""
        files: list[Path] = []
        # All parts stand in the queue before the first one is waited for.
        waiting = self._submitted(request)
        while waiting:
            part, remote = waiting.pop(0)
            path = target.with_name(f"{target.name}.{len(files)}")
            try:
                self._told(lambda part=part, remote=remote, path=path: self._fetched(part, remote, path))
            except _TooLargeError as error:
                # Some of these are told only when the store has begun to work on them.
                waiting[:0] = [each for half in self._halves(part, error) for each in self._submitted(half)]
                continue
            _unpacked(path, self._offer)
            check(RemoteGranule(self._offer.name), path)
            files.append(path)
        return files

    def _submitted(self, request: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], Any]]:
        """The request, or its parts, each with what stands in the queue for it."""
        try:
            return [(request, self._told(lambda: self._taken_up(request)))]
        except _TooLargeError as error:
            return [each for half in self._halves(request, error) for each in self._submitted(half)]

    def _halves(self, request: Mapping[str, Any], error: _TooLargeError) -> list[dict[str, Any]]:
        for key in ("day", "variable"):
            values = list(request[key])
            if len(values) > 1:
                half = (len(values) + 1) // 2
                log.info("%s: too large for the Climate Data Store, in parts: %s", self._offer.name, _label(request))
                return [{**request, key: values[:half]}, {**request, key: values[half:]}]
        raise DownloadError(
            f"{self._offer.name}: the Climate Data Store finds even one variable of one day too large (make the grid's bbox "
            f"smaller); it says: {error}"
        ) from error

    def _fetched(self, part: Mapping[str, Any], remote: Any, path: Path) -> None:
        try:
            self._wait(remote)
            remote.get_results().download(str(path))
        except Exception as error:
            from ecmwf.datastores.processing import ProcessingFailedError

            if isinstance(error, ProcessingFailedError):
                # The same request would fail again as long as it is remembered.
                self._forget(part)
            raise

    def _told(self, attempt: Any) -> Any:
        """What an attempt returns; what the client raises becomes an error of ours, with the words of the service."""
        from ecmwf.datastores.processing import DownloadError as Incomplete
        from ecmwf.datastores.processing import ProcessingFailedError

        name = self._offer.name
        try:
            return attempt()
        except ProcessingFailedError as error:
            text = " ".join(str(error).split()) or "no reason"
            if _TOO_LARGE.search(text):
                raise _TooLargeError(text) from error
            raise DownloadError(f"{name}: the Climate Data Store could not prepare it: {_first_line(error)}") from error
        except Incomplete as error:
            raise DownloadError(f"{name}: {_first_line(error)}") from error
        except requests.HTTPError as error:
            raise self._refused(error) from error
        except requests.RequestException as error:
            raise DownloadError(f"{name}: the Climate Data Store does not answer: {_first_line(error)}") from error

    def _refused(self, error: requests.HTTPError) -> Exception:
        """An answer 4xx or 5xx, with what the service says about it."""
        if error.response is None:
            return DownloadError(f"{self._offer.name}: the Climate Data Store answers {_first_line(error)}")
        status, document = error.response.status_code, Document.read(error.response.content)
        said = document.text if document is not None else ""
        text = f": {said}" if said else ""
        if status == 413 or (status in (400, 403, 422) and _TOO_LARGE.search(said)):
            return _TooLargeError(said or f"{status} {error.response.reason}")
        if status == 401 or (status == 403 and _NOT_ALLOWED.search(said)):
            return CredentialsError(f"the Climate Data Store refuses {self._offer.name} ({status}{text}): {CREDENTIALS}")
        if status < 500 and status != 429:
            self._known = {}
            self._requested.save(None)
        return DownloadError(
            f"{self._offer.name}: the Climate Data Store answers {status} {error.response.reason}{text or ' without a reason'}"
        )

    def _taken_up(self, request: Mapping[str, Any]) -> Any:
        """The request that waits already, or a new one."""
        known = self._known.get(_label(request))
        if known is not None:
            try:
                remote = self._client.get_remote(known)
                if remote.status not in ("failed", "rejected", "dismissed", "deleted"):
                    log.info("%s: waiting for request %s again", self._offer.name, known)
                    return remote
            except requests.HTTPError:
                # The service has forgotten it.
                pass
            self._forget(request)
        remote = self._client.submit(self._collection, dict(request))
        self._known[_label(request)] = remote.request_id
        self._requested.save(json.dumps(self._known, sort_keys=True))
        return remote

    def _forget(self, request: Mapping[str, Any]) -> None:
        self._known.pop(_label(request), None)
        self._requested.save(json.dumps(self._known, sort_keys=True) if self._known else None)

    def _wait(self, remote: Any) -> None:
        pause = _FIRST_PAUSE
        while not remote.results_ready:
            if time.monotonic() - self._began > WAIT_SECONDS:
                raise DownloadError(
                    f"{self._offer.name} still waits in the queue of the Climate Data Store: the next run goes on waiting"
                )
            time.sleep(pause)
            pause = min(1.5 * pause, _LONGEST_PAUSE)


def _label(request: Mapping[str, Any]) -> str:
    """What a request asks for, in a few words: its days, variables and area."""
    days, variables = request["day"], request["variable"]
    text = f"{request['year']}-{request['month']}-{days[0]}" + (f" to {days[-1]}" if len(days) > 1 else "")
    text += "" if len(variables) == len(VARIABLES) else f" {' '.join(variables)}"
    return text + (f" in {request['area']}" if "area" in request else "")


def _recalled(kept: str | None) -> dict[str, str]:
    """Identifiers of requests by what they ask for."""
    try:
        found = json.loads(kept or "{}")
    except ValueError:
        return {}
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def _begin(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4)


def _unpacked(target: Path, offer: RemoteGranule) -> None:
    """Take the file out of an archive that holds one of netCDF; an archive of several files, or of GRIB, stays as it is.

    Raises
    ------
    DownloadError
        Where the archive is damaged, or holds no data.
    """
    if not _begin(target).startswith(_ZIP):
        return
    try:
        with zipfile.ZipFile(target) as archive:
            damaged = archive.testzip()
            if damaged is not None:
                raise DownloadError(f"{offer.name} is an archive whose member {damaged} is damaged")
            begins = {}
            for name in archive.namelist():
                with archive.open(name) as member:
                    begins[name] = member.read(4)
            data = [name for name, begin in begins.items() if begin.startswith((_NETCDF, _NETCDF_CLASSIC, _GRIB))]
            if not data:
                held = ", ".join(begins) or "nothing"
                raise DownloadError(f"{offer.name} is an archive without a file of netCDF or GRIB: it holds {held}")
            if len(data) > 1 or begins[data[0]] == _GRIB:
                return
            alone = target.with_name(f"{target.name}.member")
            with archive.open(data[0]) as member, alone.open("wb") as file:
                shutil.copyfileobj(member, file, 2**20)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise DownloadError(f"{offer.name} is an archive that cannot be opened: {error}") from error
    alone.replace(target)


def _join(parts: Sequence[Path], target: Path) -> None:
    """One file of the parts, in the order of time, with the values as they are; a ZIP where the parts are archives or GRIB."""
    if all(_begin(part).startswith((_NETCDF, _NETCDF_CLASSIC)) for part in parts):
        _concatenate(parts, target)
    else:
        _pack(parts, target)
    for part in parts:
        part.unlink()


def _pack(parts: Sequence[Path], target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for number, part in enumerate(parts):
            if _begin(part).startswith(_ZIP):
                with zipfile.ZipFile(part) as inner:
                    for member in (one for one in inner.infolist() if not one.is_dir()):
                        name = f"{number:02d}_{member.filename}"
                        with inner.open(member) as source, archive.open(name, "w", force_zip64=True) as sink:
                            shutil.copyfileobj(source, sink, 2**20)
            else:
                archive.write(part, f"{number:02d}{'.grib' if _begin(part).startswith(_GRIB) else '.nc'}")


def _concatenate(parts: Sequence[Path], target: Path) -> None:
    """Along time, and over the variables where a day came in several parts; a day of values is in memory at a time."""
    import dask
    import xarray as xr

    with ExitStack() as stack:
        groups: dict[frozenset[Any], list[xr.Dataset]] = defaultdict(list)
        for path in parts:
            engine = "h5netcdf" if _begin(path).startswith(_NETCDF) else "scipy"
            one = stack.enter_context(xr.open_dataset(path, engine=engine))
            clock = "valid_time" if "valid_time" in one.dims else "time"
            fields = [name for name in one.data_vars if {"latitude", "longitude"} <= set(one[name].dims)]
            small = one.drop_vars(fields).load()
            large = {name: one[name].chunk({clock: _STEPS_AT_A_TIME}) for name in fields}
            one = small.assign(large).assign_attrs(one.attrs)
            groups[frozenset(fields)].append(one.expand_dims(clock) if clock not in one.dims else one)
        options: Any = {
            "data_vars": "minimal",
            "coords": "minimal",
            "compat": "override",
            "join": "exact",
            "combine_attrs": "override",
        }
        joined = []
        for group in groups.values():
            ordered = sorted(group, key=lambda one: one[clock].values[0])
            joined.append(xr.concat(ordered, clock, **options))
        whole = xr.merge(joined, compat="override", join="exact", combine_attrs="override")
        for name in whole.variables:
            # Packing and time units may differ from part to part: values are written as what they are.
            whole[name].encoding = {}
        whole[clock].encoding = {"units": "seconds since 1970-01-01", "dtype": "int64"}
        packed = {
            name: {"zlib": True, "complevel": 1, "chunksizes": _chunks(whole[name])} for fields in groups for name in fields
        }
        with dask.config.set(scheduler="synchronous"):
            whole.to_netcdf(target, engine="h5netcdf", encoding=packed)


def _chunks(variable: Any) -> tuple[int, ...]:
    wanted = {"latitude": 256, "longitude": 256, "valid_time": _STEPS_AT_A_TIME, "time": _STEPS_AT_A_TIME}
    return tuple(min(int(size), wanted.get(str(dim), 1)) for dim, size in variable.sizes.items())


def _first_line(error: BaseException) -> str:
    lines = [line for line in without_secrets(str(error)).splitlines() if line.strip()]
    return "; ".join(lines[:2]) if lines else type(error).__name__
