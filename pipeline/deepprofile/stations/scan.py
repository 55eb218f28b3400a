"""USDA SCAN report files: hourly soil moisture in percent at depths in inches, in local standard time."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import pandas as pd
import xarray as xr

from deepprofile.stations.dataset import MIN_DAY_FRACTION, SensorRecord, daily_means, to_dataset

INCH_M: Final = 0.0254
HOUR: Final = pd.Timedelta(hours=1)

# Hours from UTC to local standard time by state; where a state lies in two zones, the eastern one and the longitude that
# divides them (the western zone is an hour behind).
_ZONES: Final = {
    -4: "PR VI",
    -5: "CT DC DE GA MA MD ME NC NH NJ NY OH PA RI SC VA VT WV",
    -6: "AL AR IA IL LA MN MO MS OK WI",
    -7: "AZ CO MT NM UT WY",
    -8: "CA NV WA",
    -9: "AK",
    -10: "HI",
}
STANDARD_TIME: Final[Mapping[str, tuple[int, float | None]]] = {
    state: (hours, None) for hours, states in _ZONES.items() for state in states.split()
} | {
    "FL": (-5, -85.0),
    "IN": (-5, -87.0),
    "KY": (-5, -86.0),
    "MI": (-5, -88.5),
    "TN": (-5, -85.3),
    "KS": (-6, -101.2),
    "ND": (-6, -101.3),
    "NE": (-6, -100.8),
    "SD": (-6, -100.4),
    "TX": (-6, -104.9),
    "ID": (-7, -115.5),
    "OR": (-7, -117.7),
}
_COLUMN = re.compile(r"\((?P<station>\d+)\) Soil Moisture Percent -(?P<inches>\d+)in \(pct\)$")


def read_scan(paths: Iterable[str | Path], sites: str | Path, *, min_day_fraction: float = MIN_DAY_FRACTION) -> xr.Dataset:
    """Daily soil moisture of SCAN stations.

    Parameters
    ----------
    paths
        Report files, plain or gzipped.
    sites
        Table of sites (CSV with ``state``, ``site_name``, ``lat``, ``lon``): it gives coordinates and the time zone.
    min_day_fraction
        Share of the hours of a UTC day that a daily mean needs.

    Returns
    -------
    See ``deepprofile.stations``. Records are converted from local standard time to UTC before days are formed.

    Raises
    ------
    ValueError
        For a file without a header of soil-moisture columns, or a station that the table of sites does not have.
    """
    table = read_sites(sites)
    records = []
    for path in map(Path, paths):
        frame = _read_report(path)
        for column in frame.columns:
            match = _COLUMN.search(column)
            if match is None:
                continue
            number = int(match["station"])
            if number not in table.index:
                raise ValueError(f"{path.name}: station {number} is not in the table of sites {Path(sites).name}")
            latitude, longitude = (float(v) for v in table.loc[number, ["lat", "lon"]].to_numpy(dtype=float))
            hourly = frame[column].dropna() / 100.0
            hourly.index = pd.DatetimeIndex(hourly.index) - utc_offset(str(table["state"].at[number]), longitude)
            depth = int(match["inches"]) * INCH_M
            records.append(
                SensorRecord(
                    network="SCAN",
                    station=str(number),
                    depth_top=depth,
                    depth_bottom=depth,
                    latitude=latitude,
                    longitude=longitude,
                    values=daily_means(hourly, HOUR, min_day_fraction),
                )
            )
    return to_dataset(records)


def read_sites(path: str | Path) -> pd.DataFrame:
    """The table of sites by station number, which stands in brackets after the site's name."""
    table = pd.read_csv(path, encoding="utf-8-sig")
    number = table["site_name"].str.extract(r"\((\d+)\)\s*$")[0]
    table = table.assign(number=pd.to_numeric(number)).dropna(subset=["number"])
    return pd.DataFrame(table.astype({"number": int}).drop_duplicates("number").set_index("number"))


def utc_offset(state: str, longitude: float) -> pd.Timedelta:
    """Local standard time less UTC.

    Raises
    ------
    ValueError
        For a state without an entry.
    """
    if state not in STANDARD_TIME:
        raise ValueError(f"no standard time is known for the state {state!r}")
    hours, divide = STANDARD_TIME[state]
    return pd.Timedelta(hours=hours - (divide is not None and longitude < divide))


def _read_report(path: Path) -> pd.DataFrame:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        # Comments start with '#'; site names may hold one too.
        lines = [line for line in file if line.strip() and not line.startswith("#")]
    if not lines or not lines[0].startswith("Date,") or not _COLUMN.search(lines[0].strip().split(",")[-1]):
        raise ValueError(f"{path.name} is no SCAN report: it has no header of soil-moisture columns")
    header = lines[0].strip().split(",")
    rows = (line.strip().split(",") for line in lines[1:])
    frame = pd.DataFrame([row for row in rows if len(row) == len(header)], columns=header)
    frame.index = pd.DatetimeIndex(pd.to_datetime(frame.pop("Date"), format="%Y-%m-%d %H:%M"))
    numeric: pd.DataFrame = frame.apply(pd.to_numeric, errors="coerce")
    return numeric
