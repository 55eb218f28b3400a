"""How stored numbers become physical ones: the CF conventions, by xarray and cftime.

https://cfconventions.org, sections 2.5 (missing data, valid range), 4.4 (time) and 8.1 (packed data).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import cftime
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from deepprofile.sources.products.files import GranuleError, Index, Variable
from deepprofile.sources.products.passes import remove_missing

Floats = NDArray[np.float32]
Times = NDArray[np.datetime64]

# Defaults of netCDF for what was never written, and of GRIB for what is missing, are beyond it; no quantity here is.
_ABSURD: Final = 1e30
# Whole numbers of so many bytes are exact in single precision.
_EXACT_BYTES: Final = 2
# Units of durations in minutes, by how their names begin.
_MINUTES: Final = {
    "nanosec": 1e-9 / 60.0,
    "microsec": 1e-6 / 60.0,
    "millisec": 1e-3 / 60.0,
    "s": 1.0 / 60.0,
    "min": 1.0,
    "h": 60.0,
    "d": 1440.0,
}
_SAME: Final = {
    "m3 m-3": ("m3m-3", "m3/m3", "cm3cm-3", "cm3/cm3", "m3.m-3", "1", "", "-", "~", "dimensionless", "fraction", "unitless"),
    "kg m-2": ("kgm-2", "kg/m2", "kg.m-2", "mm"),
    "percent": ("%", "vol%", "%vol", "vol.%", "pct", "percentage", "volumepercent", "m3m-3*100", "10-2m3m-3"),
    "K": ("k", "kelvin", "degk", "degreesk", "kelvins", ""),
}


def decode(variable: Variable, index: Index) -> Floats:
    """A part of a variable, float32: unpacked, NaN where it is fill, missing, or outside of its valid range.

    Raises
    ------
    GranuleError
        Where the attributes contradict themselves: a scale of zero, limits that are text.
    """
    stored, attrs = variable.raw(index), variable.attrs
    if not np.issubdtype(stored.dtype, np.number):
        raise GranuleError(f"{variable.name} holds {stored.dtype}, not numbers")
    kept = {key: attrs[key] for key in ("_FillValue", "_Unsigned") if key in attrs}
    for key in ("scale_factor", "add_offset"):
        if key in attrs:
            kept[key] = _number(variable, key)
    if (
        kept.get("scale_factor", 1.0) == 0.0
        or not np.isfinite([kept.get("scale_factor", 1.0), kept.get("add_offset", 0.0)]).all()
    ):
        raise GranuleError(f"{variable.name} has the scale_factor {kept.get('scale_factor')!r}: its file is damaged")
    fill = kept.get("_FillValue")
    if isinstance(fill, (str, np.ndarray)):
        kept.pop("_FillValue")
    if len(kept) == ("_FillValue" in kept):
        if stored.dtype == np.float32 and stored.flags.c_contiguous and stored.flags.writeable:
            return _single_pass(stored, stored.dtype, attrs)
        if stored.dtype.kind in "iu" and stored.dtype.itemsize <= _EXACT_BYTES and stored.dtype.isnative:
            return _single_pass(np.ascontiguousarray(stored).astype(np.float32), stored.dtype, attrs)
        return _without_missing(stored, np.array(stored, dtype=np.float32), attrs, packed=False)
    dims = tuple(f"axis_{k}" for k in range(stored.ndim))
    decoded = xr.conventions.decode_cf_variable(variable.name, xr.Variable(dims, stored, kept), decode_times=False)
    return _without_missing(stored, np.array(decoded.values, dtype=np.float32), attrs, packed=is_packed(variable))


def _single_pass(values: Floats, stored: np.dtype[Any], attrs: Mapping[str, Any]) -> Floats:
    """What ``_without_missing`` makes of values that are stored as they are, in place; ``stored``: the type in the file."""
    marks = [_marks_of(stored, attrs[key]) for key in ("_FillValue", "missing_value") if key in attrs]
    known = np.concatenate([np.array([], np.float32), *(each.astype(np.float32) for each in marks)])
    low, high = (limit if limit == limit else end for limit, end in zip(_limits(attrs), (-np.inf, np.inf), strict=True))
    greatest = np.nextafter(np.float32(_ABSURD), np.float32(0.0))
    remove_missing(values.reshape(-1), known, greatest, np.float32(low), np.float32(high))
    return values


def _without_missing(stored: NDArray[Any], decoded: Floats, attrs: Mapping[str, Any], *, packed: bool) -> Floats:
    """Decoded values, NaN where the stored ones are fill, missing, or outside of their valid range."""
    with np.errstate(invalid="ignore"):
        missing = ~(np.abs(decoded) < _ABSURD)
        for key in ("_FillValue", "missing_value"):
            if key in attrs:
                missing |= _equals(stored, attrs[key])
        if {"valid_min", "valid_max", "valid_range"} & attrs.keys():
            missing |= _outside(stored, decoded, attrs, packed=packed)
    decoded[missing] = np.nan
    return decoded


def _equals(stored: NDArray[Any], marks: Any) -> NDArray[np.bool_]:
    """Where stored numbers are one of some marks, which files often give in a wider type, or in the unsigned twin of theirs."""
    out = np.zeros(stored.shape, bool)
    for mark in _marks_of(stored.dtype, marks):
        out |= stored == mark
    return out


def _marks_of(stored: np.dtype[Any], marks: Any) -> NDArray[Any]:
    """Some marks in the type of the stored numbers; those that it does not have are left out."""
    found = []
    for mark in _numbers(marks):
        if np.issubdtype(stored, np.integer) and not np.can_cast(mark.dtype, stored):
            whole = np.isfinite(mark) and float(mark).is_integer()
            bits = 8 * stored.itemsize
            if not whole or not -(2 ** (bits - 1)) <= int(mark) < 2**bits:
                continue
            unsigned = np.array(int(mark) % 2**bits, dtype=f"u{stored.itemsize}")
            found.append(unsigned.astype(stored.newbyteorder("=")).astype(stored))
            continue
        with np.errstate(over="ignore"):
            found.append(np.asarray(mark).astype(stored))
    return np.array(found, stored)


def is_packed(variable: Variable) -> bool:
    """Whether stored integers stand for real numbers."""
    return "scale_factor" in variable.attrs or "add_offset" in variable.attrs


def _number(variable: Variable, key: str) -> Any:
    value = variable.attrs[key]
    if np.size(value) != 1:
        raise GranuleError(f"{variable.name} has {np.size(value)} values of {key} ({value!r}): there can be one")
    try:
        return float(value) if isinstance(value, str) else np.asarray(value).dtype.type(value)
    except (TypeError, ValueError) as error:
        raise GranuleError(f"{variable.name} has the {key} {value!r}, which is no number") from error


def _numbers(value: Any) -> NDArray[Any]:
    """An attribute of one or several numbers; text that is none of them counts for nothing."""
    if isinstance(value, str):
        try:
            return np.array([float(value)])
        except ValueError:
            return np.array([])
    found: NDArray[Any] = np.atleast_1d(np.asarray(value))
    return found if np.issubdtype(found.dtype, np.number) else np.array([])


_LIMITS: Final = ("valid_range", "valid_min", "valid_max")


def _outside(stored: NDArray[Any], decoded: Floats, attrs: Mapping[str, Any], *, packed: bool) -> NDArray[np.bool_]:
    """Where values lie outside of ``valid_range``, or of ``valid_min`` and ``valid_max``.

    Limits of the packed type, or of its unsigned twin, are those of the packed numbers, others those of the unpacked ones
    (netCDF User Guide, appendix A). Attributes of Zarr are JSON, where numbers have no type: whole ones count as packed.
    """
    limits = _stated_limits(attrs)
    typed = any(isinstance(attrs[key], (np.ndarray, np.generic)) for key in _LIMITS if key in attrs)
    out = np.zeros(stored.shape, bool)
    for limit, beyond in zip(limits, (np.less, np.greater), strict=True):
        if limit.size and limit[0] == limit[0]:
            whole = np.issubdtype(limit.dtype, np.integer)
            in_stored = packed and whole and (not typed or limit.dtype.itemsize == stored.dtype.itemsize)
            if in_stored and str(attrs.get("_Unsigned", "")).lower() == "true":
                out |= beyond(_as_unsigned(stored), _as_unsigned(limit.astype(stored.dtype))[0])
            else:
                out |= beyond(stored if in_stored else decoded, limit[0] if in_stored else np.float32(limit[0]))
    return out


def _stated_limits(attrs: Mapping[str, Any]) -> list[NDArray[Any]]:
    """The least and the greatest valid number, each in an array of one, or none."""
    both = _numbers(attrs["valid_range"]) if "valid_range" in attrs else np.array([])
    if both.size == 2:
        return [both[:1], both[1:]]
    return [_numbers(attrs[key])[:1] if key in attrs else np.array([]) for key in ("valid_min", "valid_max")]


def _limits(attrs: Mapping[str, Any]) -> list[float]:
    """The same as numbers; NaN where none is stated."""
    return [float(limit[0]) if limit.size else float("nan") for limit in _stated_limits(attrs)]


def _as_unsigned(values: NDArray[Any]) -> NDArray[Any]:
    return values.view(np.dtype(f"u{values.dtype.itemsize}").newbyteorder(values.dtype.byteorder))


def decode_numbers(variable: Variable) -> NDArray[np.float64]:
    """A whole coordinate, float64, unpacked; NaN where it is fill."""
    stored, attrs = variable.whole(), variable.attrs
    out = np.asarray(stored, dtype=np.float64)
    missing = np.zeros(out.shape, bool)
    for key in ("_FillValue", "missing_value"):
        if key in attrs:
            missing |= _equals(stored, attrs[key])
    if is_packed(variable):
        out = out * float(_number(variable, "scale_factor") if "scale_factor" in attrs else 1.0)
        out = out + float(_number(variable, "add_offset") if "add_offset" in attrs else 0.0)
    return np.where(missing, np.nan, out)


def decode_times(variable: Variable) -> Times:
    """Times of a CF variable, rounded to a minute, ``datetime64[m]``, in its own shape; NaT where it is fill.

    Raises
    ------
    GranuleError
        For units that are none of time, or a date that the common calendar does not have.
    """
    units, calendar = (
        str(variable.attrs.get("units", "")).strip(),
        str(variable.attrs.get("calendar") or "standard").strip().lower(),
    )
    stored = variable.whole()
    if np.issubdtype(stored.dtype, np.datetime64):
        return np.asarray(stored.astype("datetime64[m]"))
    if " since " not in units.lower():
        raise GranuleError(f"{variable.name} counts time in {units!r}, not in a unit of time since a date")
    numbers = decode_numbers(variable)
    valid = np.isfinite(numbers)
    out = np.full(numbers.shape, np.datetime64("NaT", "m"))
    if valid.any():
        out[valid] = _dates(numbers[valid], units, calendar, variable.name)
    return out


def decode_intervals(variable: Variable) -> NDArray[np.timedelta64]:
    """Durations of a CF variable (``hours``, ``days``), ``timedelta64[m]``, in its own shape."""
    stored = variable.whole()
    if np.issubdtype(stored.dtype, np.timedelta64):
        return np.asarray(stored.astype("timedelta64[m]"))
    unit = str(variable.attrs.get("units", "hours")).strip().lower()
    minutes = next((value for key, value in _MINUTES.items() if unit.startswith(key)), None)
    if minutes is None:
        raise GranuleError(f"{variable.name} counts durations in {unit!r}")
    return np.asarray(np.round(decode_numbers(variable) * minutes).astype("timedelta64[m]"))


def _dates(numbers: NDArray[np.float64], units: str, calendar: str, name: str) -> Times:
    try:
        dates = cftime.num2date(numbers, units, calendar, only_use_cftime_datetimes=True)
    except (ValueError, OverflowError) as error:
        raise GranuleError(f"{name} counts time in {units!r} ({calendar}): {error}") from error
    half_a_minute = np.timedelta64(30, "s")
    try:
        exact = np.array([date.isoformat() for date in np.atleast_1d(dates)], dtype="datetime64[us]")
    except ValueError as error:
        raise GranuleError(f"{name} holds a date of the calendar {calendar!r} that there is not: {error}") from error
    return np.asarray((exact + half_a_minute).astype("datetime64[m]"))


# --- units ----------------------------------------------------------------------------------------------------------


def _normal(unit: Any) -> str:
    text = str(unit).strip().lower()
    for sign in ("**", "^", " ", "_", "{", "}"):
        text = text.replace(sign, "")
    return text


def is_unit(unit: Any, expected: str) -> bool:
    """Whether a unit, however it is spelt, is ``m3 m-3``, ``kg m-2``, ``percent`` or ``K``."""
    return _normal(unit) in (_normal(expected), *_SAME[expected])


def in_kelvin(values: Floats, unit: Any) -> Floats | None:
    """Temperatures in kelvin; None where the unit is none of temperature."""
    if is_unit(unit, "K"):
        return values
    if _normal(unit) in ("c", "degc", "celsius", "degreesc", "degreescelsius", "degreecelsius", "°c"):
        return values + np.float32(273.15)
    return None


def in_kg_m2(values: Floats, unit: Any) -> Floats | None:
    """Water on the ground in kg m-2; None where the unit is another."""
    if is_unit(unit, "kg m-2") or not _normal(unit):
        return values
    if _normal(unit) in ("m", "mofwaterequivalent"):
        return values * np.float32(1000.0)
    return None
