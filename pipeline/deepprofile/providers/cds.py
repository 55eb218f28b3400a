"""ERA5-Land from the Copernicus Climate Data Store, https://cds.climate.copernicus.eu/datasets/reanalysis-era5-land.

The store prepares a file on request, which may wait in its queue for hours: the request's identifier is remembered, and whoever
comes next takes it up again.
"""

from __future__ import annotations

import logging
import time
import warnings
import zipfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import requests

from deepprofile.providers.provider import Box, CredentialsError, DownloadError, Memory, Offer, Provider, check

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


class Cds(Provider):
    """A dataset of the Climate Data Store: a file a day, or a month where a whole one is asked for."""

    lists: ClassVar[bool] = False

    def find(self, days: Sequence[np.datetime64], box: Box, provisional_after: np.datetime64) -> list[Offer]:
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

    def _offer(self, days: Sequence[str], box: Box, revision: str) -> Offer:
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
        if (east - west, north - south) < (360.0, 180.0):
            request["area"] = [north, west, south, east]
        stamp = days[0].replace("-", "") if len(days) == 1 else days[0][:7].replace("-", "")
        return Offer(f"era5_land_{stamp}.nc", {"request": request}, revision=revision)

    def fetch(self, offer: Offer, target: Path, memory: Memory) -> None:
        """See ``Provider.fetch``."""
        from ecmwf.datastores.processing import DownloadError as Incomplete
        from ecmwf.datastores.processing import ProcessingFailedError

        client = self._client()
        try:
            remote = self._taken_up(client, offer, memory)
            self._wait(remote, offer)
            remote.get_results().download(str(target))
        except ProcessingFailedError as error:
            memory.keep(None)
            raise DownloadError(f"{offer.name}: the Climate Data Store could not prepare it: {_first_line(error)}") from error
        except Incomplete as error:
            raise DownloadError(f"{offer.name}: {_first_line(error)}") from error
        except requests.HTTPError as error:
            raise self._refused(error, offer, memory) from error
        except requests.RequestException as error:
            raise DownloadError(f"{offer.name}: the Climate Data Store does not answer: {_first_line(error)}") from error
        _unpacked(target)
        check(offer, target)
        memory.keep(None)

    def _client(self) -> Any:
        import cdsapi
        from cdsapi.api import get_url_key_verify

        try:
            url, key, verify = get_url_key_verify(self.url, None, None)
        except Exception:
            # Its own address is no secret: the key is what has to be given.
            try:
                url, key, verify = get_url_key_verify(self.url or URL, None, None)
            except Exception as error:
                raise CredentialsError(f"there are no credentials for the Climate Data Store: {CREDENTIALS}") from error
        options = {"quiet": True, "progress": False, "wait_until_complete": False, "delete": False}
        with warnings.catch_warnings():
            # What the service has to announce to people is nothing for a log.
            warnings.simplefilter("ignore")
            client = cdsapi.Client(url, key, verify=verify, retry_max=_ATTEMPTS, sleep_max=_RETRY_SECONDS, **options)
        if not hasattr(client, "client"):
            raise CredentialsError(f"CDSAPI_KEY is of the old Climate Data Store, which is closed: {CREDENTIALS}")
        return client.client

    def _taken_up(self, client: Any, offer: Offer, memory: Memory) -> Any:
        """The request that waits already, or a new one."""
        known = memory.recall()
        if known is not None:
            try:
                remote = client.get_remote(known)
                if remote.status not in ("failed", "rejected", "dismissed", "deleted"):
                    log.info("%s: waiting for request %s again", offer.name, known)
                    return remote
            except requests.HTTPError:
                # The service has forgotten it.
                pass
            memory.keep(None)
        remote = client.submit(self.collection, dict(offer.source["request"]))
        memory.keep(remote.request_id)
        return remote

    def _wait(self, remote: Any, offer: Offer) -> None:
        began, pause = time.monotonic(), _FIRST_PAUSE
        while not remote.results_ready:
            if time.monotonic() - began > WAIT_SECONDS:
                raise DownloadError(
                    f"{offer.name} still waits in the queue of the Climate Data Store: the next run goes on waiting"
                )
            time.sleep(pause)
            pause = min(1.5 * pause, _LONGEST_PAUSE)

    def _refused(self, error: requests.HTTPError, offer: Offer, memory: Memory) -> Exception:
        status = error.response.status_code if error.response is not None else 0
        if status in (401, 403):
            return CredentialsError(f"the Climate Data Store refuses {offer.name} ({status}): {CREDENTIALS}")
        if status < 500 and status != 429:
            memory.keep(None)
        return DownloadError(f"{offer.name}: the Climate Data Store answers {_first_line(error)}")


def _unpacked(target: Path) -> None:
    """Some answers come as an archive of one file."""
    if not zipfile.is_zipfile(target):
        return
    with zipfile.ZipFile(target) as archive:
        names = [name for name in archive.namelist() if name.endswith(".nc")]
        if len(names) != 1:
            raise DownloadError(f"{target.name} is an archive of {len(names)} netCDF files, not of one")
        content = archive.read(names[0])
    target.write_bytes(content)


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return "; ".join(lines[:2]) if lines else type(error).__name__
