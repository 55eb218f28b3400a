"""Records of the ISMN from the bytes of a file: date, time, value and flag of every line, as fast as they can be read.

Only what is written plainly is taken; of everything else a slower reader has to find out what it is, and whether it is wrong.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

# Different flags in a file; ISMN has some twenty, which may be combined.
MOST_FLAGS: Final = 256
# Decimal numbers up to here, divided by a power of ten up to 10^22, are the doubles nearest to what is written (Clinger 1990,
# doi 10.1145/93548.93557).
_EXACT: Final = 2**53
_MOST_DECIMALS: Final = 22
_SPACE, _TAB, _LINE, _SLASH, _COLON, _DOT, _MINUS, _PLUS = (ord(c) for c in " \t\n/:.-+")
_ZERO, _NINE = ord("0"), ord("9")
_POWERS: Final = np.asarray(10.0 ** np.arange(_MOST_DECIMALS + 1), np.float64)
_DAYS_BEFORE: Final = np.array([0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365], np.int64)
_MINUTES_A_DAY: Final = 1440


class Records(NamedTuple):
    """Records of a sensor in the order of their lines.

    Attributes
    ----------
    minutes
        Since 1970-01-01 00:00 UTC.
    values
        As written; NaN where missing.
    flags
        Places in ``names``, the quality flags as written.
    """

    minutes: NDArray[np.int64]
    values: NDArray[np.float64]
    flags: NDArray[np.int64]
    names: list[str]


class _Form(NamedTuple):
    """How a file is written: lines before the records, places of a record's words, and words that may follow the last."""

    skipped: int
    date: int
    clock: int
    value: int
    flag: int
    after: int


class _Found(NamedTuple):
    """Where records go, each (line,); ``spans`` (kind, 2): where each kind of flag begins and ends in the file."""

    minutes: NDArray[np.int64]
    values: NDArray[np.float64]
    flags: NDArray[np.int64]
    spans: NDArray[np.int64]


def plain_records(content: bytes, skipped: int, columns: tuple[int, int, int, int], words_after_flag: int) -> Records | None:
    """The records of a file; None where any of its lines is not plain.

    Parameters
    ----------
    content
        Lines that end with a line feed, the last one too.
    skipped
        Lines before the records.
    columns
        Places of a record's words: date (``2012/05/01``), time (``00:00``), value and flag.
    words_after_flag
        How many words may follow the flag.
    """
    if not content.endswith(b"\n"):
        return None
    data = np.frombuffer(content, np.uint8)
    lines = content.count(b"\n")
    minutes, values = np.empty(lines, np.int64), np.empty(lines)
    flags, spans = np.empty(lines, np.int64), np.empty((MOST_FLAGS, 2), np.int64)
    form, out = _Form(skipped, *columns, words_after_flag), _Found(minutes, values, flags, spans)
    count, kinds = _parse(data, form, _POWERS, _DAYS_BEFORE, out)
    if count <= 0:
        return None
    names = [content[start:stop].decode("latin-1") for start, stop in spans[:kinds].tolist()]
    return Records(minutes[:count], values[:count], flags[:count], names)


@njit(cache=True, nogil=True)
def _parse(
    data: NDArray[Any], form: _Form, powers: NDArray[np.float64], days_before: NDArray[np.int64], out: _Found
) -> tuple[int, int]:
    """How many records there are, and how many different flags; (-1, 0) where a line is not plain."""
    skipped, date, clock, value, flag, after = form.skipped, form.date, form.clock, form.value, form.flag, form.after
    minutes, values, flags, spans = out.minutes, out.values, out.flags, out.spans
    size, at, line, count, kinds = data.size, 0, 0, 0, 0
    while at < size:
        # One line: its words, of which four are looked at.
        words, day, minute, number, begin, stop = 0, 0, 0, 0.0, 0, 0
        while data[at] != _LINE:
            if data[at] == _SPACE or data[at] == _TAB:
                at += 1
                continue
            start = at
            while data[at] != _SPACE and data[at] != _TAB and data[at] != _LINE:
                at += 1
            if line >= skipped:
                if words == date:
                    ok, day = _day(data, start, at, days_before)
                elif words == clock:
                    ok, minute = _minute(data, start, at)
                elif words == value:
                    ok, number = _number(data, start, at, powers)
                else:
                    ok = True
                    if words == flag:
                        begin, stop = start, at
                if not ok:
                    return -1, 0
            words += 1
        at += 1
        line += 1
        if line <= skipped or words == 0:
            continue
        if words <= flag or words > flag + 1 + after:
            return -1, 0
        kind = _kind(data, begin, stop, spans, kinds)
        if kind == kinds:
            if kinds == spans.shape[0]:
                return -1, 0
            spans[kinds, 0], spans[kinds, 1] = begin, stop
            kinds += 1
        minutes[count], values[count], flags[count] = day * _MINUTES_A_DAY + minute, number, kind
        count += 1
    return count, kinds


@njit(cache=True, nogil=True, inline="always")
def _kind(data: NDArray[Any], begin: int, stop: int, spans: NDArray[np.int64], kinds: int) -> int:
    """Which of the flags that were met it is; as many as there are for a new one."""
    for k in range(kinds):
        if spans[k, 1] - spans[k, 0] == stop - begin:
            same = True
            for j in range(stop - begin):
                same &= data[spans[k, 0] + j] == data[begin + j]
            if same:
                return k
    return kinds


@njit(cache=True, nogil=True)
def _digits(data: NDArray[Any], start: int, stop: int, least: int, most: int) -> int:
    """A whole number of so many digits; -1 for anything else."""
    if not least <= stop - start <= most:
        return -1
    total = 0
    for k in range(start, stop):
        if not _ZERO <= data[k] <= _NINE:
            return -1
        total = 10 * total + (data[k] - _ZERO)
    return total


@njit(cache=True, nogil=True)
def _day(data: NDArray[Any], start: int, stop: int, days_before: NDArray[np.int64]) -> tuple[bool, int]:
    """Days since 1970 of a date like 2012/05/01."""
    if stop - start < 8 or data[start + 4] != _SLASH:
        return False, 0
    second = start + 6
    while second < stop and data[second] != _SLASH:
        second += 1
    year, month = _digits(data, start, start + 4, 4, 4), _digits(data, start + 5, second, 1, 2)
    day = _digits(data, second + 1, stop, 1, 2)
    if year < 1700 or not 1 <= month <= 12 or day < 1:
        return False, 0
    leap = (year % 4 == 0 and year % 100 != 0) or year % 400 == 0
    length = days_before[month] - days_before[month - 1] + (1 if leap and month == 2 else 0)
    if day > length:
        return False, 0
    past = year - 1
    whole = past * 365 + past // 4 - past // 100 + past // 400 + days_before[month - 1] + (1 if leap and month > 2 else 0)
    # 719162 days lie between 0001-01-01 and 1970-01-01.
    return True, whole + day - 1 - 719162


@njit(cache=True, nogil=True)
def _minute(data: NDArray[Any], start: int, stop: int) -> tuple[bool, int]:
    """Minute of the day of a time like 06:00."""
    if stop - start != 5 or data[start + 2] != _COLON:
        return False, 0
    hour, minute = _digits(data, start, start + 2, 2, 2), _digits(data, start + 3, stop, 2, 2)
    return 0 <= hour <= 23 and 0 <= minute <= 59, 60 * hour + minute


@njit(cache=True, nogil=True)
def _number(data: NDArray[Any], start: int, stop: int, powers: NDArray[np.float64]) -> tuple[bool, float]:
    """A decimal number without an exponent."""
    negative = data[start] == _MINUS
    if negative or data[start] == _PLUS:
        start += 1
    total, decimals, dot, digits = 0, 0, False, 0
    for k in range(start, stop):
        if data[k] == _DOT and not dot:
            dot = True
        elif _ZERO <= data[k] <= _NINE:
            total = 10 * total + (data[k] - _ZERO)
            digits += 1
            decimals += dot
            if total > _EXACT or decimals > _MOST_DECIMALS:
                return False, 0.0
        else:
            return False, 0.0
    number = total / powers[decimals]
    return digits > 0, -number if negative else number
