"""The International Soil Moisture Network: archives of ``.stm`` files, in the header and in the CEOP layout.

Which sensor a file is of, its first line says: network, station, coordinates, depths and instrument; the instrument of the CEOP
layout, and the variable, only the file's name says. Folders are for the files' owner to arrange. Climate and land cover of a
station are those of the file ``*_static_variables.csv`` beside its records.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from deepprofile.evaluation.stations.dataset import (
    MIN_DAY_FRACTION,
    SensorKey,
    SensorRecord,
    daily_means,
    day_steps,
    to_dataset,
)
from deepprofile.evaluation.stations.lines import Records, plain_records
from deepprofile.evaluation.stations.reading import Report, StationError, StationFile, StationPath, decoded, files_in

GOOD: Final = ("G",)
# The flag of a record without a value.
MISSING: Final = "M"
_SOIL_MOISTURE: Final = frozenset({"sm", "soil-moisture", "soilmoisture"})
_NAME: Final = re.compile(
    r"_(?P<variable>[^_]+)_(?P<top>-?\d+\.\d+)_(?P<bottom>-?\d+\.\d+)(?:_(?P<instrument>.+?))?_\d{8}_\d{8}[^_]*\.stm$",
    re.IGNORECASE,
)
# Of a station: what the ISMN knows of its place, one quantity a line.
_STATIC_NAME: Final = "_static_variables.csv"
_CLIMATE, _LAND_COVER = "climate classification", "land cover classification"
# Places of the words of such a line.
_QUANTITY, _VALUE, _DESCRIPTION, _SOURCE = 0, 4, 5, 6
_DATE: Final = re.compile(r"\d{4}/\d{1,2}/\d{1,2}$")
_FIRST_BYTES: Final = 4096
# Latitude, longitude, elevation, and the depths.
_PLACE_WORDS: Final = 5
# The provider's own flag, and what may follow it.
_WORDS_AFTER_FLAG: Final = 4
# Headers round depths to a centimetre, names do not.
_ROUNDING_M: Final = 0.0051
_SHOWN_SENSORS: Final = 3
_SHOWN_FLAGS: Final = 8


@dataclass(frozen=True)
class _Header:
    """What a file says of itself; ``first``: the place of the records' words (date, time, value, flag)."""

    network: str
    station: str
    top: float
    bottom: float
    latitude: float
    longitude: float
    instrument: str
    named_instrument: str
    columns: tuple[int, int, int, int]
    lines: int

    @property
    def sensor(self) -> tuple[SensorKey, str]:
        """Files with the same are of one sensor."""
        return SensorKey(self.network, self.station, self.top, self.bottom, self.instrument), self.named_instrument

    def __str__(self) -> str:
        return f"{self.network} {self.station} {self.instrument} at {self.top:g} to {self.bottom:g} m"


@dataclass
class _Flags:
    """How many values had which flags, and which sensors were left without any."""

    left_out: Counter[str]
    values: int
    without: list[str]
    sensors: int


def read_ismn(
    path: str | Path | Iterable[str | Path],
    *,
    flags: Sequence[str] = GOOD,
    min_day_fraction: float = MIN_DAY_FRACTION,
    report: Report | None = None,
) -> xr.Dataset:
    """Soil moisture of every sensor of ISMN archives, daily. ISMN records are in UTC.

    Several downloads of one sensor are joined; of records of the same time a good one stays, else that of the later download.

    Parameters
    ----------
    path
        A folder, a ZIP, a folder with ZIPs in it, a single ``.stm`` file, or several of these.
    flags
        Quality flags whose values count; of a value with several flags, such as ``D02,D03``, all have to be among them.
        Archives made before about 2020 flag as ``U`` what passed their checks.
    min_day_fraction
        Share of a day's time steps that a daily mean needs; which steps a day has, its own records say.
    report
        Is told of files that cannot be used, and of values left out because of their flags; the other files are read.

    Returns
    -------
    See ``deepprofile.evaluation.stations``.

    Raises
    ------
    FileNotFoundError
        If the path does not exist.
    StationError
        Without ``report``: if any file cannot be used (one line each), there is no soil-moisture file, or no value of the
        archive has one of the flags.
    """
    found = Report() if report is None else report
    records = ismn_records(StationPath.of(path), flags, min_day_fraction, found)
    if report is None:
        found.refuse()
    return to_dataset(records)


def ismn_records(
    places: Sequence[StationPath],
    flags: Sequence[str],
    min_day_fraction: float,
    report: Report,
    keep: Callable[[SensorRecord], SensorRecord | None] | None = None,
) -> list[SensorRecord]:
    """The records of all sensors, or what ``keep`` makes of each as soon as it is read; see ``read_ismn``."""
    where, problems = ", ".join(place.name for place in places), len(report.problems)
    seen = _Flags(Counter(), 0, [], 0)
    records = []
    with ExitStack() as opened:
        sensors: dict[tuple[SensorKey, str], list[tuple[StationFile, _Header]]] = defaultdict(list)
        classes: dict[str, tuple[str, str]] = {}
        for file in files_in(places, "ISMN archive", report, opened):
            with report.about(file.label):
                if file.name.lower().endswith(_STATIC_NAME) and not file.given:
                    classes[_folder_of(file)] = _classes_in(file)
                    continue
                header = _header_of(file)
                if header is not None:
                    sensors[header.sensor].append((file, header))
        for _, files in sorted(sensors.items()):
            record = _sensor_record(files, frozenset(flags), min_day_fraction, seen, report)
            if record is not None:
                found = sorted(classes[folder] for file, _ in files if (folder := _folder_of(file)) in classes)
                # Of several downloads one that says something.
                climate, land_cover = (max((each[k] for each in found), default="") for k in (0, 1))
                record = replace(record, climate=climate, land_cover=land_cover)
            if record is not None and keep is not None:
                record = keep(record)
            if record is not None:
                records.append(record)
    if not sensors and len(report.problems) == problems:
        report.problems.append(f"{where} holds no soil-moisture file of the ISMN (named like *_sm_*.stm)")
    _tell_flags(where, flags, seen, report)
    return records


def _folder_of(file: StationFile) -> str:
    """The folder of a file, within its ZIP where it is in one."""
    return file.label.removesuffix(file.name)


def _classes_in(file: StationFile) -> tuple[str, str]:
    """Climate and land cover of a station; of several sources of one of them, the one whose name comes last: the latest."""
    found: dict[str, tuple[str, str]] = {}
    for line in file.text().splitlines():
        words = [word.strip() for word in line.split(";")]
        if len(words) > _SOURCE and words[_QUANTITY] in (_CLIMATE, _LAND_COVER):
            value, description = words[_VALUE], words[_DESCRIPTION]
            # Classes of climate are known by their letters, those of land cover have numbers.
            name = value if words[_QUANTITY] == _CLIMATE else description or value
            found[words[_QUANTITY]] = max(found.get(words[_QUANTITY], ("", "")), (words[_SOURCE], name))
    return found.get(_CLIMATE, ("", ""))[1], found.get(_LAND_COVER, ("", ""))[1]


def _header_of(file: StationFile) -> _Header | None:
    """What a file's first line says; None for what is no soil-moisture file."""
    if not file.name.lower().endswith(".stm"):
        if file.given:
            raise StationError(f"{file.label} is no ISMN file: give an .stm file, a ZIP, or a folder of these")
        return None
    named = _NAME.search(file.name)
    if named is None:
        raise StationError(
            f"{file.label}: its name does not say which variable it holds; ISMN calls files "
            "network_network_station_sm_top_bottom_instrument_first_last.stm"
        )
    if named["variable"].lower() not in _SOIL_MOISTURE:
        if file.given:
            raise StationError(f"{file.label} holds no soil moisture: its name says {named['variable']!r}")
        return None
    begin = _plain_lines(file.begin(_FIRST_BYTES))
    if not begin.strip():
        raise StationError(f"{file.label} is empty")
    line = begin.lstrip().split(b"\n", 1)[0]
    if b"\0" in line:
        raise StationError(f"{file.label} is no ISMN file: it holds no text")
    return _parse_header(file.label, decoded(line).split(), named)


def _parse_header(label: str, words: list[str], named: re.Match[str]) -> _Header:
    ceop = bool(words) and _DATE.match(words[0]) is not None
    # The CEOP layout begins with the nominal and the actual time of the record.
    before = 4 if ceop else 0
    first = next((k for k in range(before + 3, len(words)) if _are_numbers(words[k : k + _PLACE_WORDS])), None)
    if first is None or (ceop and len(words) < first + _PLACE_WORDS + 2):
        raise StationError(
            f"{label}: its first line is no header of the ISMN (network, station, coordinates, elevation, depths): the file is "
            "cut off or damaged"
        )
    latitude, longitude, _, top, bottom = (float(word) for word in words[first : first + _PLACE_WORDS])
    if not (-90.0 <= latitude <= 90.0 and -180.0 <= longitude <= 180.0):
        raise StationError(f"{label}: its header gives latitude {latitude:g} and longitude {longitude:g}, which is no place")
    if not (top <= bottom < np.inf and top > -np.inf):
        raise StationError(f"{label}: its header gives a depth from {top:g} to {bottom:g} m")
    precise = float(named["top"]), float(named["bottom"])
    if precise[0] <= precise[1] and max(abs(precise[0] - top), abs(precise[1] - bottom)) <= _ROUNDING_M:
        top, bottom = precise
    rest = first + _PLACE_WORDS
    instrument = "" if ceop else "-".join(words[rest:])
    in_name = named["instrument"] or ""
    return _Header(
        network=words[before + 1],
        station=" ".join(words[before + 2 : first]),
        top=top,
        bottom=bottom,
        latitude=latitude,
        longitude=longitude,
        instrument=instrument or in_name,
        named_instrument=in_name,
        columns=(2, 3, rest, rest + 1) if ceop else (0, 1, 2, 3),
        lines=0 if ceop else 1,
    )


def _are_numbers(words: list[str]) -> bool:
    try:
        return len([float(word) for word in words]) == _PLACE_WORDS
    except ValueError:
        return False


def _plain_lines(content: bytes) -> bytes:
    """Lines that end as those of Unix do; archives hold all three kinds."""
    return content.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _read_records(file: StationFile, header: _Header) -> Records:
    """Times, values and flags of a file's records, as they stand there."""
    content = _plain_lines(file.read()).lstrip()
    records = plain_records(content, header.lines, header.columns, _WORDS_AFTER_FLAG - 2)
    if records is None:
        records = _unusual_records(file, content, header)
    if header.lines == 0:
        _check_one_sensor(file, content, header)
    return records


def _unusual_records(file: StationFile, content: bytes, header: _Header) -> Records:
    """The same where lines are not all plain, or wrong: then with what is wrong."""
    date, clock, value, flag = header.columns
    try:
        table = _table(content, header, {value: np.float64, **dict.fromkeys((date, clock, flag, flag + 1), str)})
        times = pd.to_datetime(table[date] + " " + table[clock], format="%Y/%m/%d %H:%M")
        whole = bool((table[flag].fillna("") != "").all()) and not times.isna().any()
    except (ValueError, TypeError, pd.errors.ParserError):
        whole = False
    if not whole:
        raise StationError(f"{file.label}: {_wrong_line(content, header)}: the file is cut off or damaged")
    if not len(table):
        raise StationError(f"{file.label} holds no record")
    provider = table[flag + 1].fillna("").to_numpy()
    if not content.endswith(b"\n") and len(table) > 1 and provider[-1] == "" and provider[-2] != "":
        raise StationError(f"{file.label}: its last line is not complete: the file is cut off")
    kinds, names = pd.factorize(table[flag])
    minutes = times.to_numpy().astype("datetime64[m]").astype(np.int64)
    return Records(minutes, table[value].to_numpy(np.float64), kinds.astype(np.int64), [str(name) for name in names])


def _table(content: bytes, header: _Header, kinds: Any) -> pd.DataFrame:
    """The words of a file's records, by their place in the line."""
    names: Any = range(header.columns[3] + _WORDS_AFTER_FLAG)
    missing: Any = {header.columns[2]: ["NaN", "nan", "NA"]}
    return pd.read_csv(
        io.BytesIO(content),
        sep=r"\s+",
        header=None,
        names=names,
        skiprows=header.lines,
        dtype=kinds,
        quoting=csv.QUOTE_NONE,
        keep_default_na=False,
        na_values=missing,
        encoding="latin-1",
    )


def _wrong_line(content: bytes, header: _Header) -> str:
    """What the first line that is no record is."""
    date, clock, value, flag = header.columns
    for number, line in enumerate(content.split(b"\n"), start=1):
        words = decoded(line).split()
        if number <= header.lines or not words:
            continue
        try:
            pd.to_datetime(f"{words[date]} {words[clock]}", format="%Y/%m/%d %H:%M")
            float(words[value])
            if not flag < len(words) < flag + _WORDS_AFTER_FLAG:
                raise ValueError
        except (ValueError, IndexError):
            return f"its line {number} is no record ({decoded(line).strip()[:40]!r})"
    return "its lines are no records"


def _check_one_sensor(file: StationFile, content: bytes, header: _Header) -> None:
    """Files of the CEOP layout say in each line which sensor it is of: that has to be one."""
    first = header.columns[2] - _PLACE_WORDS
    columns = [5, *range(6, first), first + 3, first + 4]
    table = _table(content, header, str)
    if any(table[column].nunique() != 1 for column in columns):
        raise StationError(
            f"{file.label}: its lines are of several sensors; ask the ISMN for variables stored in separate files"
        )


def _sensor_record(
    files: Sequence[tuple[StationFile, _Header]],
    flags: frozenset[str],
    min_day_fraction: float,
    seen: _Flags,
    report: Report,
) -> SensorRecord | None:
    """One sensor, from all files that are of it; None where none can be used, or it stands above the ground."""
    parts: list[tuple[Records, _Header]] = []
    for file, header in files:
        with report.about(file.label):
            if header.top < 0.0:
                report.notes.append(f"{file.label} was left out: its sensor stands above the ground ({header.top:g} m)")
                continue
            parts.append((_read_records(file, header), header))
    if not parts:
        return None
    # The later download counts first, whatever the order of the files.
    parts.sort(key=lambda part: int(part[0].minutes.max()), reverse=True)
    header = parts[0][1]
    records = _joined([part for part, _ in parts], flags)
    counts = _chosen(records, flags)
    missing = np.array([name == MISSING for name in records.names])[records.flags]
    there = np.isfinite(records.values) & (records.values > -999.0) & ~missing
    left_out = np.bincount(records.flags[there & ~counts], minlength=len(records.names))
    seen.left_out.update({name: int(number) for name, number in zip(records.names, left_out, strict=True) if number})
    seen.values += int(there.sum())
    seen.sensors += 1
    if there.any() and not (there & counts).any():
        seen.without.append(str(header))
    times = pd.DatetimeIndex(records.minutes.astype("datetime64[m]").astype("datetime64[s]"))
    values = pd.Series(records.values, index=times)[counts]
    return SensorRecord(
        network=header.network,
        station=header.station,
        depth_top=header.top,
        depth_bottom=header.bottom,
        latitude=header.latitude,
        longitude=header.longitude,
        values=daily_means(values, day_steps(times), min_day_fraction),
        instrument=header.instrument,
    )


def _joined(parts: Sequence[Records], flags: frozenset[str]) -> Records:
    """Downloads as one record, in the order of time: of the same time a good value stays, else that of the first part."""
    names = list(dict.fromkeys(name for part in parts for name in part.names))
    kinds = [np.array([names.index(name) for name in part.names], np.int64)[part.flags] for part in parts]
    whole = Records(
        np.concatenate([part.minutes for part in parts]),
        np.concatenate([part.values for part in parts]),
        np.concatenate(kinds),
        names,
    )
    if (np.diff(whole.minutes) > 0).all():
        return whole
    rank = np.repeat(np.arange(len(parts)), [part.minutes.size for part in parts])
    with np.errstate(invalid="ignore"):
        good = _chosen(whole, flags) & (whole.values > 0.0)
    order = np.lexsort((whole.values, rank, ~good, whole.minutes))
    order = order[np.append(True, np.diff(whole.minutes[order]) > 0)]
    return Records(whole.minutes[order], whole.values[order], whole.flags[order], names)


def _chosen(records: Records, flags: frozenset[str]) -> NDArray[np.bool_]:
    """Which records have flags that count; of several flags of one all have to."""
    return np.array([set(re.split(r"[,;/]", name)) <= flags for name in records.names])[records.flags]


def _tell_flags(where: str, flags: Sequence[str], seen: _Flags, report: Report) -> None:
    """Say how many values were left out because of which flags, and where none was left."""
    if not seen.left_out:
        return
    kinds = sorted(seen.left_out.items(), key=lambda item: (-item[1], item[0]))
    found = ", ".join(f"{flag} {count}" for flag, count in kinds[:_SHOWN_FLAGS])
    if len(kinds) > _SHOWN_FLAGS:
        found += f", others {sum(count for _, count in kinds[_SHOWN_FLAGS:])}"
    chosen = ", ".join(flags)
    left_out = sum(seen.left_out.values())
    if seen.without:
        shown = ", ".join(seen.without[:_SHOWN_SENSORS]) + (", ..." if len(seen.without) > _SHOWN_SENSORS else "")
        sentence = (
            f"{where}: no value of {len(seen.without)} of {seen.sensors} sensors has a quality flag that counts ({chosen}): "
            f"{shown}. Flags found: {found}. Older archives flag as U what passed their checks: to use these values, set "
            "'flags: [G, U]' for these stations (stations.flags: [G, U]), or read_ismn(..., flags=('G', 'U'))"
        )
        (report.problems if left_out == seen.values else report.notes).append(sentence)
    else:
        report.notes.append(
            f"{where}: {left_out} of {seen.values} values were left out because of their quality flags ({found}); those "
            f"flagged {chosen} count"
        )
