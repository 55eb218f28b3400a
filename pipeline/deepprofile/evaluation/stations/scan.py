"""USDA SCAN: reports of the NRCS report generator, reports by site, and answers of the AWDB service; percent at inches.

Times are local standard time, as NRCS states it for each station.
"""

from __future__ import annotations

import csv
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr

from deepprofile.evaluation.stations.dataset import MIN_DAY_FRACTION, SensorRecord, daily_means, to_dataset, within_range
from deepprofile.evaluation.stations.reading import Report, StationError, StationFile, StationPath, files_in

INCH_M: Final = 0.0254
HOUR: Final = pd.Timedelta(hours=1)
NETWORK: Final = "SCAN"

# Hours from UTC by station, as NRCS states them (dataTimeZone of its station metadata, all 208 stations of 2026-01; collected
# in ncss-tech/soilDB, data-raw/scan-snotel-current/station-metadata.csv).
_STATED: Final = {
    -4: "15 2045 2052 2066 2122 2123 2188 2232",
    -5: "2008 2009 2011 2012 2013 2014 2028 2036 2037 2038 2039 2041 2042 2043 2049 2051 2069 2088 2089",
    -6: "2001 2002 2003 2004 2005 2006 2016 2022 2024 2025 2030 2031 2032 2033 2034 2035 2046 2047 2048 2050 2053 2055 "
    "2056 2057 2060 2061 2064 2068 2070 2072 2075 2076 2077 2078 2079 2082 2083 2084 2085 2086 2087 2090 2091 2092 "
    "2093 2094 2104 2105 2106 2109 2110 2113 2114 2115 2147 2173 2174 2175 2176 2177 2178 2179 2180 2181 2182 2193 "
    "2194 2195 2196 2199 2200 2201 2202 2203 2204 2205 2206 2207 2220 2223 2227 2230 2231",
    -7: "581 674 808 2015 2017 2018 2019 2020 2026 2107 2108 2111 2117 2118 2119 2120 2121 2125 2126 2127 2128 2129 2130 "
    "2131 2132 2133 2134 2135 2136 2137 2138 2139 2140 2148 2150 2151 2152 2153 2154 2155 2156 2157 2158 2159 2160 "
    "2161 2162 2163 2164 2165 2166 2167 2168 2169 2171 2172 2197 2233",
    -8: "2021 2116 2141 2142 2144 2145 2146 2149 2183 2184 2185 2186 2187 2189 2190 2191 2192 2198 2214 2215 2216 2217 "
    "2218 2219 2229 2234 2235 2236 2237 2240",
    -9: "2062 2063 2212 2213",
    -10: "2096 2097 2099 2101 2102 2238",
}
STATED_HOURS: Final[Mapping[int, int]] = {
    int(number): hours for hours, numbers in _STATED.items() for number in numbers.split()
}
# For stations that are not among these: hours from UTC by state; where a state lies in two zones, the eastern one and the
# longitude that divides them (the western zone is an hour behind).
_ZONES: Final = {
    -4: "PR VI",
    -5: "CT DC DE GA MA MD ME NC NH NJ NY OH PA RI SC VA VT WV",
    -6: "AL AR IA IL LA MN MO MS OK WI",
    # NRCS keeps all of its SCAN stations in Idaho by the time of the Rocky Mountains.
    -7: "AZ CO ID MT NM UT WY",
    -8: "CA NV WA",
    -9: "AK",
    -10: "AS GU HI MP",
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
    # The Missouri at Mandan, which NRCS keeps by the western zone.
    "ND": (-6, -100.85),
    "NE": (-6, -100.8),
    "SD": (-6, -100.4),
    "TX": (-6, -104.9),
    "OR": (-7, -117.7),
}

_STATION: Final = r"(?:.*\((?P<station>\d+)\)\s*)?"
_REPORTED: Final = re.compile(
    rf"^{_STATION}Soil Moisture Percent -(?P<inches>\d+(?:\.\d+)?)\s?in \(pct\)\s*(?P<kind>(?:Mean|Start|End) of [\w ]+)?$",
    re.IGNORECASE,
)
_CODED: Final = re.compile(r"^SMS\.[A-Z]-(?P<ordinal>\d+):-(?P<inches>\d+(?:\.\d+)?)\s*\(pct\)", re.IGNORECASE)
_ANY_COLUMN: Final = re.compile(r"(\(\d+\)\s|^)[\w/ .-]+\([\w/%. ]+\)|^[A-Z]{3,6}\.[A-Z]-\d+", re.IGNORECASE)
_STATION_COLUMNS: Final = ("stationid", "siteid", "stationtriplet")
_NAMED_BY: Final = (re.compile(r"^#.*\((\d{2,4})\)\s*$"), re.compile(r"^#\s*[A-Z]+ (\d{2,4}): "))
_FORMATS: Final = ("%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d", "%m/%d/%Y %H:%M", "%m/%d/%Y")
_NAMES: Final = re.compile(r"\.(csv|txt|json|zip)(\.gz)?$", re.IGNORECASE)
_OTHER_NAMES: Final = re.compile(r"^(read_?me|licen[cs]e|changelog)", re.IGNORECASE)
_PERCENT: Final = ("pct", "%", "percent", "")


@dataclass(frozen=True)
class Site:
    """A station: where it is, and the hours of its time from UTC where they are stated."""

    number: int
    network: str
    state: str
    latitude: float
    longitude: float
    hours: float | None = None


@dataclass(frozen=True)
class _Series:
    """What a file says of one sensor: m3 m-3 by local standard time, hourly, or by days of it."""

    number: int
    inches: float
    ordinal: int
    daily: bool
    values: pd.Series
    label: str


def read_scan(
    paths: str | Path | Iterable[str | Path],
    sites: str | Path | None = None,
    *,
    min_day_fraction: float = MIN_DAY_FRACTION,
    report: Report | None = None,
) -> xr.Dataset:
    """Daily soil moisture of SCAN stations.

    Parameters
    ----------
    paths
        Reports of the report generator or by site (CSV or text, plain or gzipped), answers of the AWDB service (JSON), a
        folder or ZIP of these, or several. A report without the number of its station has it in its comments, or in its name.
    sites
        Table of sites, which gives coordinates and time zones: ``SCAN_sites.csv`` (``state``, ``site_name``, ``lat``, ``lon``),
        or the station metadata of NRCS, as CSV or JSON (``dataTimeZone``). Without it, one is looked for among and beside
        ``paths``.
    min_day_fraction
        Share of the hours of a UTC day that a daily mean needs.
    report
        Is told of files that cannot be used; the others are read.

    Returns
    -------
    See ``deepprofile.evaluation.stations``; ``instrument`` is ``SMS-1``, for a second sensor at the same depth ``SMS-2``.
    Hourly records are converted from local standard time to UTC before days are formed; daily ones stay days of local
    standard time, which ``day_offset_hours`` states.

    Raises
    ------
    FileNotFoundError
        If one of the paths does not exist.
    StationError
        Without ``report``: if any file cannot be used (one line each), or a station is not in the table of sites.
    """
    found = Report() if report is None else report
    table = None if sites is None else StationPath(Path(sites), str(sites))
    records = scan_records(StationPath.of(paths), table, min_day_fraction, found)
    if report is None:
        found.refuse()
    return to_dataset(records)


def scan_records(
    places: Sequence[StationPath], table: StationPath | None, min_day_fraction: float, report: Report
) -> list[SensorRecord]:
    """The records of all sensors; see ``read_scan``."""
    where, problems = ", ".join(place.name for place in places), len(report.problems)
    sites: dict[int, Site] = {}
    tables: list[str] = []
    series: list[_Series] = []
    reports = 0
    with ExitStack() as opened:
        for file in _files(places, table, report, opened):
            with report.about(file.label):
                is_table, found = _read(file, sites, report)
                series += found
                tables += [file.name] * is_table
                reports += not is_table
    if not reports and len(report.problems) == problems:
        report.problems.append(f"{where} holds no SCAN report (.csv, .txt or .json, plain or gzipped)")
    sensors: dict[tuple[int, float, int, bool], list[_Series]] = defaultdict(list)
    for one in series:
        sensors[one.number, one.inches, one.ordinal, one.daily].append(one)
    refused: set[tuple[str, int]] = set()
    told: set[int] = set()
    records = []
    for (number, *_), parts in sorted(sensors.items()):
        try:
            site = _site_of(number, sites, tables)
            offset = _offset_of(site, report, told)
        except StationError as error:
            for label in sorted({part.label for part in parts} - {label for label, one in refused if one == number}):
                refused.add((label, number))
                report.problems.append(f"{label}: {error}")
            continue
        records.append(_record(site, offset, parts, min_day_fraction))
    if reports and not records and len(report.problems) == problems:
        report.problems.append(
            f"{where} holds no soil moisture: none of its reports has a column of it (Soil Moisture Percent)"
        )
    return records


def read_sites(path: str | Path) -> dict[int, Site]:
    """A table of sites, CSV or JSON, by station number; see ``read_scan``.

    Raises
    ------
    StationError
        For a file that is none.
    """
    sites: dict[int, Site] = {}
    with ExitStack() as opened:
        tables = [
            _read(file, sites, Report())[0] for file in _files([StationPath(Path(path), str(path))], None, Report(), opened)
        ]
    if not any(tables):
        raise StationError(f"{path} is no table of sites: it needs a station's number, latitude and longitude")
    return sites


def utc_offset(state: str, longitude: float, station: int | None = None) -> pd.Timedelta:
    """Local standard time less UTC.

    That which NRCS states for the station; where there is no number, or a new one, that of the state, and of the longitude
    (degrees) in states with two zones.

    Raises
    ------
    ValueError
        For a state without an entry.
    """
    if station is not None and station in STATED_HOURS:
        return pd.Timedelta(hours=STATED_HOURS[station])
    if state not in STANDARD_TIME:
        raise ValueError(f"no standard time is known for the state {state!r}")
    hours, divide = STANDARD_TIME[state]
    return pd.Timedelta(hours=hours - (divide is not None and longitude < divide))


def _files(
    places: Sequence[StationPath], table: StationPath | None, report: Report, opened: ExitStack
) -> Iterator[StationFile]:
    """The files, those first that are likely to be tables of sites."""
    wanted = [*places, *([table] if table is not None else _beside(places))]
    files = [
        file
        for file in files_in(dict.fromkeys(wanted), "SCAN report", report, opened)
        if file.given or (_NAMES.search(file.name) and not _OTHER_NAMES.search(file.name))
    ]
    return iter(files)


def _beside(places: Sequence[StationPath]) -> list[StationPath]:
    """Tables of sites in the folders of reports that are given one by one."""
    folders = dict.fromkeys(place.path.parent for place in places if place.path.is_file())
    inside = [place.path for place in places if place.path.is_dir()]
    found = []
    for folder in folders:
        for path in sorted(folder.iterdir()):
            likely = re.search(r"(site|metadata|station)", path.name, re.IGNORECASE) and _NAMES.search(path.name)
            if path.is_file() and likely and not any(path.is_relative_to(other) for other in inside):
                found.append(StationPath(path, str(path)))
    given = {place.path.resolve() for place in places}
    return [place for place in found if place.path.resolve() not in given]


def _site_of(number: int, sites: Mapping[int, Site], tables: Sequence[str]) -> Site:
    if number in sites:
        return sites[number]
    if sites:
        raise StationError(f"station {number} is not in the table of sites {', '.join(dict.fromkeys(tables))}".strip())
    raise StationError(
        f"there is no table of sites that says where station {number} is: put SCAN_sites.csv (state, site_name, lat, lon) or "
        "the station metadata of NRCS beside it"
    )


def _offset_of(site: Site, report: Report, told: set[int]) -> pd.Timedelta:
    if site.hours is not None:
        return pd.Timedelta(hours=site.hours)
    if site.network != NETWORK:
        raise StationError(
            f"station {site.number} is of the network {site.network}: its time zone is known from the station metadata of NRCS "
            "only (dataTimeZone)"
        )
    try:
        offset = utc_offset(site.state, site.longitude, site.number)
    except ValueError as error:
        raise StationError(f"station {site.number}: {error}; the station metadata of NRCS state it (dataTimeZone)") from error
    if site.number not in STATED_HOURS and STANDARD_TIME[site.state][1] is not None and site.number not in told:
        told.add(site.number)
        report.notes.append(
            f"SCAN station {site.number}: its time zone is taken from its longitude ({offset / HOUR:+.0f} h); the station "
            "metadata of NRCS would state it (dataTimeZone)"
        )
    return offset


def _record(site: Site, offset: pd.Timedelta, parts: Sequence[_Series], min_day_fraction: float) -> SensorRecord:
    """One sensor, from all files that are of it."""
    one = parts[0]
    # Of several values of one time the least stays, whatever the order of the files.
    values = pd.concat([part.values for part in parts]).to_frame("value").rename_axis("time").reset_index()
    series = values.sort_values(["time", "value"]).drop_duplicates("time").set_index("time")["value"]
    if one.daily:
        daily, shift = within_range(series), -offset / HOUR
    else:
        series.index = pd.DatetimeIndex(series.index) - offset
        daily, shift = daily_means(series, HOUR, min_day_fraction), 0.0
    return SensorRecord(
        network=site.network,
        station=str(site.number),
        depth_top=one.inches * INCH_M,
        depth_bottom=one.inches * INCH_M,
        latitude=site.latitude,
        longitude=site.longitude,
        values=daily,
        day_offset_hours=float(shift),
        instrument=f"SMS-{one.ordinal}" + (" daily" if one.daily else ""),
    )


def _read(file: StationFile, sites: dict[int, Site], report: Report) -> tuple[bool, list[_Series]]:
    """Whether a file is a table of sites, which then are added to the others; and the series that it holds."""
    text = file.text()
    if text.lstrip()[:1] in ("[", "{"):
        return _read_json(file, text, sites, report)
    lines = text.splitlines()
    # Comments start with '#'; site names may hold one too.
    comments = [line for line in lines if line.startswith("#")]
    rows = [row for row in csv.reader(line for line in lines if line.strip() and not line.startswith("#")) if row]
    header = [name.strip() for name in rows[0]] if rows else []
    keys = [re.sub(r"[^a-z0-9]", "", name.lower()) for name in header]
    if {"elementcode", "heightdepth", "date", "value"} <= set(keys):
        return False, _from_long_table(file, rows, keys, sites)
    if {"latitude", "lat"} & set(keys) and {"longitude", "lon", "long", "lng"} & set(keys):
        _add_sites(file, [dict(zip(keys, row, strict=False)) for row in rows[1:]], sites)
        return True, []
    return False, _from_report(file, rows, header, keys, comments, report)


def _from_report(
    file: StationFile, rows: list[list[str]], header: list[str], keys: list[str], comments: list[str], report: Report
) -> list[_Series]:
    """A report: a column for each sensor, its station in the header, in a column of its own, or for the whole file."""
    date = next((k for k, key in enumerate(keys) if key == "date"), None)
    columns = {k: match for k, name in enumerate(header) if (match := _REPORTED.match(name) or _CODED.match(name))}
    if date is None or not columns:
        if date is not None and any(_ANY_COLUMN.search(name) for name in header) and not file.given:
            report.notes.append(f"{file.label} holds no soil moisture")
            return []
        raise StationError(f"{file.label} is no SCAN report: it has no header of soil-moisture columns")
    time = next((k for k, key in enumerate(keys) if re.fullmatch(r"time([a-z]{3})?", key)), None)
    if time is not None and re.fullmatch(r"time[a-z]dt", keys[time]):
        raise StationError(f"{file.label}: its times are daylight-saving time ({header[time]}); ask for local standard time")
    station = next((k for k, key in enumerate(keys) if key in _STATION_COLUMNS), None)
    # Some reports end their lines with a comma.
    width = len(header) - (not header[-1])
    whole = [row for row in rows[1:] if width <= len(row) <= len(header)]
    if not whole:
        raise StationError(f"{file.label} holds no record")
    if len(whole) < len(rows) - 1:
        count = len(rows) - 1 - len(whole)
        report.notes.append(
            f"{file.label}: {count} line{'s' * (count > 1)} without all values passed over (cut off or damaged)"
        )
    dates = [row[date].strip() for row in whole]
    clocks = [row[time].strip() for row in whole] if time is not None else [""] * len(whole)
    hourly = any(clocks) or any(":" in text for text in dates)
    if any(re.search(r"Reporting Frequency:\s*Daily", line, re.IGNORECASE) for line in comments) or set(clocks) == {"23:59"}:
        hourly, clocks, dates = False, [""] * len(whole), [text[:10].strip() for text in dates]
    index = _times(file, [f"{day} {clock}".strip() for day, clock in zip(dates, clocks, strict=True)])
    numbers: Any = np.array([_number(row[station]) for row in whole]) if station is not None else None
    if numbers is not None and (numbers < 0).any():
        raise StationError(f"{file.label}: it has lines without a station number")
    found = []
    for k, number, inches, ordinal, kind in _chosen(file, columns, comments, numbers):
        series = pd.Series(pd.to_numeric(pd.Series([row[k] for row in whole]), errors="coerce").to_numpy() / 100.0, index=index)
        if kind.startswith("start") and not hourly:
            report.notes.append(f"{file.label}: its daily values at {inches:g} in are those of the start of the day, not means")
        for one in np.unique(numbers) if number is None else (number,):
            part = series if numbers is None else series[numbers == int(one)]
            found.append(_Series(int(one), inches, ordinal, not hourly, part.dropna(), file.label))
    return found


def _chosen(
    file: StationFile, columns: Mapping[int, re.Match[str]], comments: list[str], numbers: Any
) -> Iterator[tuple[int, int | None, float, int, str]]:
    """The columns that are used: place, station (None: in a column), depth in inches, ordinal, and kind of value.

    Where a report has several kinds of value of a sensor, the mean is used.
    """
    groups: dict[tuple[int | None, float], dict[str, list[tuple[int, re.Match[str]]]]] = {}
    for k, match in columns.items():
        named = match.groupdict()
        if named.get("station"):
            number: int | None = int(named["station"])
        else:
            number = None if numbers is not None else _number_of_file(file, comments)
        kind = (named.get("kind") or "").lower()
        groups.setdefault((number, float(named["inches"])), {}).setdefault(kind, []).append((k, match))
    for (number, inches), kinds in groups.items():
        best = min(kinds, key=lambda kind: (not kind.startswith("mean"), kind != "", kind))
        for place, (k, match) in enumerate(kinds[best], start=1):
            yield k, number, inches, int(match.groupdict().get("ordinal") or place), best


def _number_of_file(file: StationFile, comments: Iterable[str]) -> int:
    """The station of a report that does not name it in its header: its comments do, or its name."""
    stated = {int(match[1]) for line in comments for pattern in _NAMED_BY if (match := pattern.search(line))}
    if len(stated) == 1:
        return stated.pop()
    stem = file.name.split(".")[0]
    leading = re.match(r"(\d{2,4})(?!\d)", stem)
    named = re.findall(r"(?<!\d)\d{3,4}(?!\d)", stem)
    if leading:
        return int(leading[1])
    if len(set(named)) == 1:
        return int(named[0])
    raise StationError(
        f"{file.label}: neither its header nor its comments say of which station it is: begin its name with the station's "
        "number, such as 2057.csv"
    )


def _times(file: StationFile, texts: list[str]) -> pd.DatetimeIndex:
    for form in _FORMATS:
        times = pd.to_datetime(pd.Series(texts), format=form, errors="coerce")
        if times.notna().all():
            return pd.DatetimeIndex(times).as_unit("s")
    for text in texts:
        if all(pd.isna(pd.to_datetime(text, format=form, errors="coerce")) for form in _FORMATS):
            raise StationError(f"{file.label}: {text!r} is no time (2020-07-04 09:00)")
    raise StationError(f"{file.label}: its times are written in several ways, {texts[0]!r} among them")


def _number(text: Any) -> int:
    """A station's number, of itself or of a triplet such as 2057:AL:SCAN; -1 where there is none."""
    match = re.match(r"\s*(\d+)(\.0+)?\s*(:|$)", str(text))
    return int(match[1]) if match else -1


def _read_json(file: StationFile, text: str, sites: dict[int, Site], report: Report) -> tuple[bool, list[_Series]]:
    """An answer of the AWDB service: stations, or their data; both where somebody has put them together."""
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise StationError(f"{file.label} is no whole JSON document ({error}): it is cut off or damaged") from error
    stations = [item for item in _objects(document) if "stationTriplet" in item]
    if not stations:
        raise StationError(f"{file.label} is no answer of the AWDB service: it names no stationTriplet")
    _add_sites(
        file, [{re.sub(r"[^a-z0-9]", "", key.lower()): value for key, value in item.items()} for item in stations
               if "latitude" in item], sites, everywhere=False,
    )  # fmt: skip
    series = []
    for item in stations:
        for data in item.get("data") or []:
            element = data.get("stationElement", {})
            if str(element.get("elementCode", "")).upper() != "SMS":
                continue
            values = [(str(one["date"]), one.get("value")) for one in data.get("values") or [] if "date" in one]
            unit = str(element.get("storedUnitCode") or element.get("unitCode") or "")
            series += _awdb_series(
                file, item["stationTriplet"], element.get("heightDepth"), element.get("ordinal"), unit,
                str(element.get("durationName") or ""), values,
            )  # fmt: skip
    has_data = any("data" in item for item in stations)
    if has_data and not series:
        report.notes.append(f"{file.label} holds no soil moisture")
    return not has_data, series


def _objects(document: Any) -> Iterator[dict[str, Any]]:
    if isinstance(document, dict):
        yield document
        document = list(document.values())
    if isinstance(document, list):
        for item in document:
            yield from _objects(item)


def _from_long_table(file: StationFile, rows: list[list[str]], keys: list[str], sites: dict[int, Site]) -> list[_Series]:
    """AWDB values as a table, a line for each."""
    records = [dict(zip(keys, row, strict=False)) for row in rows[1:]]
    if any("latitude" in record for record in records):
        _add_sites(file, records, sites, everywhere=False)
    groups: dict[tuple[str, ...], list[tuple[str, Any]]] = defaultdict(list)
    for record in records:
        if record["elementcode"].strip().upper() == "SMS":
            names = ("stationtriplet", "stationid", "heightdepth", "ordinal", "storedunitcode", "durationname")
            groups[tuple(str(record.get(name, "")).strip() for name in names)].append((record["date"].strip(), record["value"]))
    if not groups:
        raise StationError(f"{file.label} holds no soil moisture (elementCode SMS)")
    series = []
    for (triplet, number, depth, ordinal, unit, duration), values in groups.items():
        series += _awdb_series(file, triplet or number, depth, ordinal, unit, duration, values)
    return series


def _awdb_series(
    file: StationFile, station: Any, depth: Any, ordinal: Any, unit: str, duration: str, values: list[tuple[str, Any]]
) -> list[_Series]:
    number = _number(station)
    # The service gives a depth as a number, its predecessor as a number with a unit.
    depth = depth.get("value") if isinstance(depth, dict) else depth
    inches = pd.to_numeric(depth, errors="coerce")
    if number < 0 or pd.isna(inches) or inches >= 0:
        raise StationError(f"{file.label}: {station!r} at {depth!r} in is no soil-moisture sensor of a station")
    if unit.lower() not in _PERCENT:
        raise StationError(f"{file.label}: soil moisture of station {number} is in {unit!r}, not in percent")
    if duration.upper() not in ("", "HOURLY", "DAILY"):
        raise StationError(f"{file.label}: soil moisture of station {number} is {duration.lower()}, not hourly or daily")
    if not values:
        return []
    daily = duration.upper() == "DAILY" or not any(":" in date for date, _ in values)
    index = _times(file, [date[:10] if daily else date.replace("T", " ") for date, _ in values])
    numbers = pd.to_numeric(pd.Series([value for _, value in values], dtype=object), errors="coerce").to_numpy(np.float64)
    count = pd.to_numeric(ordinal, errors="coerce") if ordinal not in (None, "") else 1
    series = pd.Series(numbers / 100.0, index=index).dropna()
    return [_Series(number, -float(inches), 1 if pd.isna(count) else int(count), daily, series, file.label)]


def _add_sites(
    file: StationFile, rows: Iterable[Mapping[str, Any]], sites: dict[int, Site], *, everywhere: bool = True
) -> None:
    """Add the stations of a table, whose columns are lower case without marks; a time zone that is known stays known."""
    count = 0
    for row in rows:
        site = _site(row)
        if site is None:
            continue
        count += 1
        known = sites.get(site.number)
        if known is None or (known.hours is None and site.hours is not None):
            sites[site.number] = site
    if not count and everywhere:
        raise StationError(
            f"{file.label} is no table of sites: it has no stations (site_name with the number in brackets, or stationTriplet; "
            "lat, lon)"
        )


def _site(row: Mapping[str, Any]) -> Site | None:
    def first(*names: str) -> str:
        return next((str(row[name]).strip() for name in names if str(row.get(name) or "").strip()), "")

    triplet = first("stationtriplet", "triplet").split(":")
    in_name = re.search(r"\((\d+)\)\s*$", first("sitename", "stationname", "name"))
    numbers = (
        triplet[0], in_name[1] if in_name else "", first("stationid", "siteid", "site", "station", "number", "stationnumber")
    )  # fmt: skip
    number = next((found for text in numbers if (found := _number(text)) >= 0), -1)
    latitude = pd.to_numeric(first("latitude", "lat"), errors="coerce")
    longitude = pd.to_numeric(first("longitude", "lon", "long", "lng"), errors="coerce")
    if number < 0 or not (abs(latitude) <= 90.0 and abs(longitude) <= 180.0):
        return None
    state = first("statecode") or (triplet[1] if len(triplet) > 1 else "") or first("state", "st")
    network = (triplet[2] if len(triplet) > 2 else "") or first("networkcode", "ntwk", "network") or NETWORK
    hours = pd.to_numeric(first("datatimezone", "timezone", "utcoffset"), errors="coerce")
    return Site(
        number, network.upper(), state.upper(), float(latitude), float(longitude), None if pd.isna(hours) else float(hours)
    )
