"""GRIB (editions 1 and 2) through ecCodes: each message is one field, placed by its own keys.

Fields are taken message by message rather than as one hypercube, so that soil layers that lie on different levels, missing
hours, and values of ERA5 and ERA5T in one file are nothing special.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import eccodes
import numpy as np
from numpy.typing import NDArray

from deepprofile.sources.products.files import GranuleError, GranuleFile, Index, Variable
from deepprofile.sources.products.passes import put_field

TIME, LATITUDE, LONGITUDE, VERSION = "valid_time", "latitude", "longitude", "expver"
_MISSING: Final = np.float32(9.999e20)
# What GRIB of other tables calls the soil layers of ECMWF, by number of the parameter.
_NAMES: Final = {39: "swvl1", 40: "swvl2", 41: "swvl3", 42: "swvl4", 139: "stl1", 170: "stl2", 183: "stl3", 236: "stl4"}


class _LatLonGrid(NamedTuple):
    """First and last latitude and longitude of a field's cell centres, degrees, and how many of them there are."""

    north: float
    south: float
    west: float
    east: float
    rows: int
    columns: int


@dataclass(frozen=True)
class _Message:
    """Where a field is in its file, and what it is."""

    offset: int
    name: str
    unit: str
    time: np.datetime64
    version: str
    grid: _LatLonGrid
    member: int = 0


class GribFile(GranuleFile):
    """The fields of a file on their one grid."""

    def __init__(self, name: str, path: Path) -> None:
        super().__init__(name)
        self._path = path
        state = path.stat()
        self._messages = _scan(str(path), state.st_size, state.st_mtime_ns, name)
        members = {message.member for message in self._messages}
        if len(members) > 1:
            raise GranuleError(
                f"{name} holds {len(members)} members of an ensemble; one value for each time and cell is expected"
            )

    def attribute(self, name: str) -> Any:
        """See ``GranuleFile``: GRIB has none."""
        return None

    def names(self) -> list[str]:
        """See ``GranuleFile``."""
        return [TIME, LATITUDE, LONGITUDE, VERSION, *self._by_name]

    @cached_property
    def _by_name(self) -> dict[str, list[_Message]]:
        found: dict[str, list[_Message]] = defaultdict(list)
        for message in self._messages:
            found[message.name].append(message)
        return dict(found)

    @cached_property
    def _times(self) -> NDArray[np.datetime64]:
        return np.unique(np.array([message.time for message in self._messages], dtype="datetime64[m]"))

    @cached_property
    def _grid(self) -> _LatLonGrid:
        grids = {message.grid for message in self._messages}
        if len(grids) > 1:
            raise GranuleError(f"{self.name} holds fields on {len(grids)} different grids; one is expected")
        return next(iter(grids))

    def variable(self, name: str) -> Variable | None:
        """See ``GranuleFile``."""
        if name == TIME:
            times = self._times
            return Variable(TIME, lambda: (TIME,), times.shape, times.dtype, {}, lambda index: times[index])
        if name in (LATITUDE, LONGITUDE):
            north, south, west, east, rows, columns = self._grid
            axis = np.linspace(north, south, rows) if name == LATITUDE else np.linspace(west, east, columns)
            return Variable(name, lambda: (name,), axis.shape, axis.dtype, {}, lambda index: axis[index])
        if name == VERSION:
            versions = self._versions()
            return Variable(VERSION, lambda: (TIME,), versions.shape, versions.dtype, {}, lambda index: versions[index])
        messages = self._by_name.get(name)
        if messages is None:
            return None
        rows, columns = self._grid.rows, self._grid.columns
        shape = (self._times.size, rows, columns)
        attrs = {"units": messages[0].unit}
        return Variable(
            name,
            lambda: (TIME, LATITUDE, LONGITUDE),
            shape,
            np.dtype(np.float32),
            attrs,
            lambda index: self._fields(messages, index),
        )

    def _versions(self) -> NDArray[Any]:
        """The version of each time step: the least final of what stands for it."""
        standing: dict[tuple[str, np.datetime64], str] = {}
        for message in self._messages:
            key = message.name, message.time
            standing[key] = min(standing.get(key, message.version), message.version)
        worst: dict[np.datetime64, str] = {}
        for (_, time), version in standing.items():
            worst[time] = max(worst.get(time, version), version)
        return np.array([worst[time] for time in self._times], dtype=object)

    def _fields(self, messages: list[_Message], index: Index) -> NDArray[np.float32]:
        rows, columns = self._grid.rows, self._grid.columns
        wanted = self._times[index[0]]
        row, column = index[1], index[2]
        out = np.empty((wanted.size, *np.empty((rows, columns), bool)[row, column].shape), np.float32)
        seen: dict[int, str] = {}
        position = {time: k for k, time in enumerate(wanted)}
        with self._path.open("rb") as file:
            # Final values (0001) are written over provisional ones (0005).
            for message in sorted(messages, key=lambda m: m.version, reverse=True):
                if message.time not in position:
                    continue
                place, field = position[message.time], _values(file, message, self.name)[row, column]
                before = out[place].copy() if seen.get(place) == message.version else None
                put_field(field, _MISSING, out[place])
                if before is not None and not np.array_equal(out[place], before, equal_nan=True):
                    raise GranuleError(f"{self.name} holds {message.name} of {message.time} twice, with different values")
                seen[place] = message.version
        out[[place for place in range(wanted.size) if place not in seen]] = np.nan
        return out


def _values(file: Any, message: _Message, name: str) -> NDArray[np.float32]:
    """A field's values, row by row from the north, from west to east; ``_MISSING`` where there is none."""
    file.seek(message.offset)
    handle = eccodes.codes_grib_new_from_file(file)
    if handle is None:
        raise GranuleError(f"{name} cannot be read: it has changed while it was read")
    try:
        eccodes.codes_set(handle, "missingValue", float(_MISSING))
        # ecCodes unpacks in double precision, and rounds: half the memory of taking doubles.
        values: NDArray[np.float32] = eccodes.codes_get_array(handle, "values", ktype=np.float32)
        rows, columns = message.grid.rows, message.grid.columns
        if eccodes.codes_is_defined(handle, "alternativeRowScanning") and eccodes.codes_get(handle, "alternativeRowScanning"):
            raise GranuleError(f"{name} cannot be read: its rows run back and forth (alternativeRowScanning)")
        if values.size != rows * columns:
            raise GranuleError(f"{name} cannot be read: a field has {values.size} values for {rows} x {columns} cells")
        if eccodes.codes_get(handle, "jPointsAreConsecutive"):
            values = values.reshape(columns, rows).T
        values = values.reshape(rows, columns)
        if eccodes.codes_get(handle, "jScansPositively"):
            values = values[::-1]
        if eccodes.codes_get(handle, "iScansNegatively"):
            values = values[:, ::-1]
        return values
    finally:
        eccodes.codes_release(handle)


@lru_cache(maxsize=8)
def _scan(path: str, _size: int, _changed: int, name: str) -> tuple[_Message, ...]:
    """What a file holds; it is looked through once as long as it stays the same."""
    found: list[_Message] = []
    with open(path, "rb") as file:
        while True:
            try:
                handle = eccodes.codes_grib_new_from_file(file, headers_only=False)
            except eccodes.PrematureEndOfFileError as error:
                raise GranuleError(f"{name} cannot be read as GRIB: it is truncated after {len(found)} fields") from error
            except eccodes.CodesInternalError as error:
                raise GranuleError(
                    f"{name} cannot be read as GRIB: it is damaged after {len(found)} fields ({error})"
                ) from error
            if handle is None:
                break
            try:
                found.append(_message(handle, name))
            except eccodes.CodesInternalError as error:
                raise GranuleError(f"{name} cannot be read as GRIB: field {len(found) + 1} is damaged ({error})") from error
            finally:
                eccodes.codes_release(handle)
        end = found[-1].offset if found else 0
        file.seek(end)
        rest = file.read()
    if not found:
        raise GranuleError(f"{name} cannot be read as GRIB: it holds no field")
    # A message that is cut off in its first words is passed over by ecCodes.
    last = rest.rfind(b"7777")
    if rest[last + 4 :].strip(b"\0\n\r "):
        raise GranuleError(f"{name} cannot be read as GRIB: it is truncated after {len(found)} fields")
    return tuple(found)


def _message(handle: Any, name: str) -> _Message:
    get = eccodes.codes_get
    parameter, short = int(get(handle, "paramId")), str(get(handle, "shortName"))
    date, time = int(get(handle, "validityDate")), int(get(handle, "validityTime"))
    day = np.datetime64(f"{date // 10000:04d}-{date // 100 % 100:02d}-{date % 100:02d}", "m")
    kind = str(get(handle, "gridType"))
    if kind != "regular_ll":
        raise GranuleError(
            f"{name} lies on another grid: its fields are on a grid of the kind {kind!r}, not of latitude and longitude"
        )
    rows, columns = int(get(handle, "Nj")), int(get(handle, "Ni"))
    first, last = (float(get(handle, f"latitudeOf{end}GridPointInDegrees")) for end in ("First", "Last"))
    west, east = (float(get(handle, f"longitudeOf{end}GridPointInDegrees")) for end in ("First", "Last"))
    if get(handle, "iScansNegatively"):
        west, east = east, west
    if east < west and columns > 1:
        west -= 360.0
    version = str(get(handle, "experimentVersionNumber")) if eccodes.codes_is_defined(handle, "experimentVersionNumber") else ""
    return _Message(
        int(get(handle, "offset")),
        _NAMES.get(parameter % 1000 if parameter // 1000 in (0, 128) else -1, short),
        str(get(handle, "units")),
        day + np.timedelta64(60 * (time // 100) + time % 100, "m"),
        version.zfill(4) if version else "",
        _LatLonGrid(max(first, last), min(first, last), west, east, rows, columns),
        _member(handle),
    )


def _member(handle: Any) -> int:
    """The member of an ensemble; 0 where there is none."""
    key = next((k for k in ("perturbationNumber", "number") if eccodes.codes_is_defined(handle, k)), None)
    return int(eccodes.codes_get(handle, key)) if key is not None else 0
