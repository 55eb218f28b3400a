"""NOAA USCRN soil moisture at 5, 10, 20, 50 and 100 cm: the products daily01 and hourly02 as text, as CSV and as parquet.

Columns, missing values and the meaning of times are those of NOAA's readme of each product
(https://www.ncei.noaa.gov/pub/data/uscrn/products/, daily01 and hourly02).
"""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr

from deepprofile.evaluation.stations.dataset import MIN_DAY_FRACTION, VALID_RANGE, SensorRecord, daily_means, to_dataset
from deepprofile.evaluation.stations.reading import Report, StationError, StationFile, StationPath, files_in

DEPTHS_CM: Final = (5, 10, 20, 50, 100)
_HOUR: Final = pd.Timedelta(hours=1)
_SOIL: Final = [f"soil_{what}_{depth}" for what in ("moisture", "temp") for depth in DEPTHS_CM]
# The columns of the text files, which have no header.
DAILY_COLUMNS: Final = (
    *("wbanno", "lst_date", "crx_vn", "longitude", "latitude", "t_daily_max", "t_daily_min", "t_daily_mean", "t_daily_avg"),
    *("p_daily_calc", "solarad_daily", "sur_temp_daily_type", "sur_temp_daily_max", "sur_temp_daily_min", "sur_temp_daily_avg"),
    *("rh_daily_max", "rh_daily_min", "rh_daily_avg", *(f"{name}_daily" for name in _SOIL)),
)
HOURLY_COLUMNS: Final = (
    *("wbanno", "utc_date", "utc_time", "lst_date", "lst_time", "crx_vn", "longitude", "latitude", "t_calc", "t_hr_avg"),
    *("t_max", "t_min", "p_calc", "solarad", "solarad_flag", "solarad_max", "solarad_max_flag", "solarad_min"),
    *("solarad_min_flag", "sur_temp_type", "sur_temp", "sur_temp_flag", "sur_temp_max", "sur_temp_max_flag", "sur_temp_min"),
    *("sur_temp_min_flag", "rh_hr_avg", "rh_hr_avg_flag", *_SOIL),
)
_BY_WIDTH: Final = {len(columns): columns for columns in (DAILY_COLUMNS, HOURLY_COLUMNS)}
_COLUMN: Final = re.compile(r"^soil_moisture_(\d+)(_daily)?$")
_TEXT_NAME: Final = re.compile(r"^CRN[DH]\w*-.*\.txt(\.gz)?$", re.IGNORECASE)
_TABLE_NAME: Final = re.compile(r"\.(csv(\.gz)?|parquet|pq)$", re.IGNORECASE)
_PARQUET: Final = b"PAR1"


@dataclass(frozen=True)
class _Part:
    """What a file says of one sensor: m3 m-3 by day of local standard time, or by the hour that begins (UTC)."""

    latitude: float
    longitude: float
    values: pd.Series


def read_uscrn(
    path: str | Path | Iterable[str | Path],
    *,
    min_day_fraction: float = MIN_DAY_FRACTION,
    report: Report | None = None,
) -> xr.Dataset:
    """Daily soil moisture of USCRN stations.

    The daily product has days of local standard time only, which cannot be moved to UTC: ``day_offset_hours`` states by how
    much they start later than those of UTC (the longitude's 15-degree zone). The hourly product is averaged by UTC days. Files
    of one station are joined.

    Parameters
    ----------
    path
        NOAA's text files (``CRND0103-2020-TX_Austin_33_NW.txt``, ``CRNH0203-...``), CSV or parquet tables with the names of
        their columns, a folder or ZIP of these, or several.
    min_day_fraction
        Share of the hours of a UTC day that a daily mean of the hourly product needs.
    report
        Is told of files that cannot be used; the others are read.

    Returns
    -------
    See ``deepprofile.evaluation.stations``; ``station`` is the WBAN number, ``instrument`` the product
    (``daily01`` or ``hourly02``).

    Raises
    ------
    FileNotFoundError
        If the path does not exist.
    StationError
        Without ``report``: if any file cannot be used (one line each), or there is no soil moisture.
    """
    found = Report() if report is None else report
    records = uscrn_records(StationPath.of(path), min_day_fraction, found)
    if report is None:
        found.refuse()
    return to_dataset(records)


def uscrn_records(places: Sequence[StationPath], min_day_fraction: float, report: Report) -> list[SensorRecord]:
    """The records of all sensors; see ``read_uscrn``."""
    where, problems = ", ".join(place.name for place in places), len(report.problems)
    parts: dict[tuple[str, int, bool], list[_Part]] = defaultdict(list)
    tables = 0
    with ExitStack() as opened:
        for file in files_in(places, "USCRN file", report, opened):
            if not file.given and not _TEXT_NAME.search(file.name) and not _TABLE_NAME.search(file.name):
                continue
            with report.about(file.label):
                for key, part in _parts_of(file, _table_of(file)):
                    parts[key].append(part)
                tables += 1
    records = [_record(*key, found, min_day_fraction) for key, found in sorted(parts.items())]
    if not records and len(report.problems) == problems:
        what = (
            "soil moisture: none of its stations has a value"
            if tables
            else "USCRN file (CRND0103-*.txt, CRNH0203-*.txt, .csv or .parquet)"
        )
        report.problems.append(f"{where} holds no {what}")
    return records


def _record(wban: str, depth_cm: int, hourly: bool, parts: Sequence[_Part], min_day_fraction: float) -> SensorRecord:
    """One sensor, from all files that are of it."""
    values = pd.concat([part.values for part in parts])
    # Of several values of one time a valid one stays, whatever the order of the files.
    values = values.to_frame("value").rename_axis("time").reset_index().sort_values(["time", "value"], na_position="last")
    series = values.drop_duplicates("time").set_index("time")["value"]
    longitude = float(np.median([part.longitude for part in parts]))
    return SensorRecord(
        network="USCRN",
        station=wban,
        depth_top=depth_cm / 100.0,
        depth_bottom=depth_cm / 100.0,
        latitude=float(np.median([part.latitude for part in parts])),
        longitude=longitude,
        values=daily_means(series, _HOUR, min_day_fraction) if hourly else series,
        day_offset_hours=0.0 if hourly else -float(np.round(longitude / 15.0)),
        instrument="hourly02" if hourly else "daily01",
    )


def _table_of(file: StationFile) -> pd.DataFrame:
    """A file as a table whose columns have NOAA's names in lower case."""
    if file.begin(len(_PARQUET)) == _PARQUET:
        return _named(pd.read_parquet(io.BytesIO(file.read())))
    text = file.text()
    first = next((line for line in text.splitlines() if line.strip()), "")
    if not first:
        raise StationError(f"{file.label} is empty")
    if "\0" in first:
        raise StationError(f"{file.label} is no USCRN file: it holds no text")
    comma = "," in first
    words = [word.strip() for word in (first.split(",") if comma else first.split())]
    headed = not words[0].isdigit()
    if not headed and len(words) not in _BY_WIDTH:
        raise StationError(
            f"{file.label} is no USCRN file: its first line has {len(words)} values, where daily01 has {len(DAILY_COLUMNS)} "
            f"and hourly02 {len(HOURLY_COLUMNS)}"
        )
    names = [word.lower() for word in words] if headed else list(_BY_WIDTH[len(words)])
    table = pd.read_csv(
        io.StringIO(text),
        sep="," if comma else r"\s+",
        header=0 if headed else None,
        names=names,
        dtype=str,
        quoting=csv.QUOTE_MINIMAL if comma else csv.QUOTE_NONE,
        skipinitialspace=comma,
        index_col=False,
    )
    # In text without commas nothing is left blank: what is missing is -99 or -9999.
    if not comma and bool(table[names[-1]].isna().any()):
        line = int(np.flatnonzero(table[names[-1]].isna())[0]) + 1 + headed
        raise StationError(f"{file.label}: its line {line} has too few values: the file is cut off or damaged")
    return _named(table)


def _named(table: pd.DataFrame) -> pd.DataFrame:
    table = table.rename(columns={name: str(name).strip().lower() for name in table.columns})
    return table.rename(columns={"wbanno": "wban"})


def _parts_of(file: StationFile, table: pd.DataFrame) -> list[tuple[tuple[str, int, bool], _Part]]:
    """What a table says of each sensor that has any value, by WBAN number, depth (cm) and whether it is hourly."""
    columns = {name: match for name in table.columns if (match := _COLUMN.match(name))}
    daily = {name: int(match[1]) for name, match in columns.items() if match[2]}
    hourly = {} if daily else {name: int(match[1]) for name, match in columns.items()}
    needed = {"wban", "longitude", "latitude", *(("utc_date", "utc_time") if hourly else ("lst_date",))}
    if missing := needed - set(table.columns):
        kind = "hourly" if hourly else "daily"
        raise StationError(f"{file.label} is no USCRN {kind} table: it lacks {', '.join(sorted(missing))}")
    if not columns:
        raise StationError(f"{file.label} has no column soil_moisture_<cm>_daily or soil_moisture_<cm>")
    times = _hours(file, table) if hourly else _days(file, table["lst_date"], "lst_date")
    places = {name: _numbers(file, table, name) for name in ("latitude", "longitude")}
    if not (places["latitude"].abs().le(90.0).all() and places["longitude"].abs().le(180.0).all()):
        raise StationError(f"{file.label}: its longitudes or latitudes are no places")
    numbers = table["wban"].map(_wban)
    if numbers.isna().any() or (numbers == "").any():
        raise StationError(f"{file.label}: it has lines without a WBAN number")
    low, high = VALID_RANGE
    found = []
    values = {name: _numbers(file, table, name) for name in (daily or hourly)}
    for wban, rows in table.groupby(numbers, sort=True).indices.items():
        latitude, longitude = (float(np.median(places[name].to_numpy()[rows])) for name in ("latitude", "longitude"))
        for name, depth in (daily or hourly).items():
            series = pd.Series(values[name].to_numpy()[rows], index=times[rows])
            series = series.where((series > low) & (series <= high))
            if series.notna().any():
                found.append(((str(wban), depth, bool(hourly)), _Part(latitude, longitude, series)))
    return found


def _wban(value: Any) -> str:
    """The station's number, five digits: tables read as numbers have lost its zeros."""
    text = str(value).strip().removesuffix(".0")
    return text.zfill(5) if text.isdigit() else "" if text in ("nan", "None", "<NA>") else text


def _numbers(file: StationFile, table: pd.DataFrame, name: str) -> pd.Series:
    given = table[name]
    found = pd.to_numeric(given, errors="coerce").astype(np.float64)
    blank = given.isna() | (given.astype(str).str.strip() == "")
    if (wrong := found.isna() & ~blank).any():
        raise StationError(f"{file.label}: its column {name} holds {given[wrong].iloc[0]!r}, which is no number")
    return found


def _days(file: StationFile, given: pd.Series, name: str) -> pd.DatetimeIndex:
    """Days given as times, dates, 20200704 (number or text) or 2020-07-04."""
    if pd.api.types.is_datetime64_any_dtype(given):
        days = pd.DatetimeIndex(given).tz_localize(None).normalize()
    else:
        text = given.astype(str).str.strip().str.removesuffix(".0").str.slice(0, 10)
        packed = text.str.fullmatch(r"\d{8}")
        text = text.where(~packed, text.str.slice(0, 4) + "-" + text.str.slice(4, 6) + "-" + text.str.slice(6, 8))
        days = pd.DatetimeIndex(pd.to_datetime(text, format="%Y-%m-%d", errors="coerce"))
    if days.isna().any():
        wrong = given.iloc[int(np.flatnonzero(days.isna())[0])]
        raise StationError(f"{file.label}: its column {name} holds {wrong!r}, which is no day (20200704 or 2020-07-04)")
    return days.as_unit("s")


def _hours(file: StationFile, table: pd.DataFrame) -> pd.DatetimeIndex:
    """The beginning of each hour in UTC: the product states its end, so that 00:00 is the last hour of the day before."""
    clock = table["utc_time"]
    if pd.api.types.is_datetime64_any_dtype(clock):
        return pd.DatetimeIndex(clock).tz_localize(None).as_unit("s") - _HOUR
    text = clock.astype(str).str.strip().str.removesuffix(".0").str.replace(":", "").str.slice(0, 4).str.zfill(4)
    hours, minutes = (pd.to_numeric(text.str.slice(*part), errors="coerce") for part in ((0, 2), (2, 4)))
    if (wrong := ~(hours.between(0, 24) & minutes.between(0, 59))).any():
        raise StationError(f"{file.label}: its column utc_time holds {clock[wrong].iloc[0]!r}, which is no time (0900)")
    ends = _days(file, table["utc_date"], "utc_date") + pd.to_timedelta(hours * 60 + minutes, unit="min").to_numpy()
    return ends.as_unit("s") - _HOUR
