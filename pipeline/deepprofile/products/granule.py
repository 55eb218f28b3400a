"""What all products share: layers, time steps, granules and the errors that a granule can give."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from deepprofile.grids import Grid

# Frozen ground and snow hide the liquid water that soil moisture means.
FROZEN_K: Final = 274.15
MAX_SNOW_KG_M2: Final = 0.001

Floats = NDArray[np.float32]
Days = NDArray[np.datetime64]


class GranuleError(Exception):
    """A granule that cannot be used; the message names the file and says why."""


@dataclass(frozen=True)
class Layer:
    """One layer of a product, m below the surface."""

    top_m: float
    bottom_m: float

    def __str__(self) -> str:
        return f"{self.top_m:g}-{self.bottom_m:g} m"


@dataclass(frozen=True)
class GranuleName:
    """What the name of a granule says: which days it holds, and what makes it the same time step as another.

    ``provisional``: it stands for the final granule with the same key until that is there.
    """

    first_day: np.datetime64
    last_day: np.datetime64
    key: str
    provisional: bool = False

    @property
    def days(self) -> Days:
        """The days, ``datetime64[D]``."""
        return np.arange(self.first_day, self.last_day + np.timedelta64(1, "D"))


@dataclass(frozen=True)
class Latency:
    """After how many days a day's granules are to be expected, and when none of them is provisional any more."""

    days: int
    final_days: int

    def last_due(self, today: np.datetime64) -> np.datetime64:
        """The last day of which everything should be there."""
        return today - np.timedelta64(self.days + 1, "D")

    def last_final(self, today: np.datetime64) -> np.datetime64:
        """The last day of which everything should be final."""
        return today - np.timedelta64(self.final_days + 1, "D")


@dataclass(frozen=True)
class Steps:
    """Time steps of a granule on a window of its product's grid.

    Attributes
    ----------
    times
        Shape (step,), ``datetime64[m]``.
    values
        Screened soil moisture, m3 m-3, float32, shape (step, layer, rows, columns); NaN where missing.
    recorded
        Values that were not fill before screening, by step; shape (step,).
    layers
        Whether the granule has each layer; shape (layer,).
    provisional
        Whether the provider will replace these values.
    """

    times: NDArray[np.datetime64]
    values: Floats
    recorded: NDArray[np.int64]
    layers: NDArray[np.bool_]
    provisional: bool = False


@dataclass(frozen=True)
class Product(ABC):
    """A soil-moisture product: its layers, its grid, and how one of its granules is read.

    ``steps_per_day``: time steps that a day has; ``gapless``: whether every granule holds values everywhere on land (a
    model, not a swath); ``latency_days``: after how many days a granule is to be expected, ``final_latency_days``: after how
    many its final version, where provisional ones come first.
    """

    grid: Grid
    name: ClassVar[str]
    title: ClassVar[str]
    layers: ClassVar[tuple[Layer, ...]]
    steps_per_day: ClassVar[int]
    gapless: ClassVar[bool] = True
    latency_days: ClassVar[int]
    final_latency_days: ClassVar[int | None] = None
    valid_range: ClassVar[tuple[float, float]] = (0.0, 0.9)

    @abstractmethod
    def parse(self, name: str) -> GranuleName | None:
        """What a file's name says; None where it is no granule of this product."""

    @abstractmethod
    def read(self, path: Path, window: Grid, days: Days) -> Steps:
        """Time steps of these days on a window of the product's grid.

        Raises
        ------
        GranuleError
            For a file that is truncated, lacks all of the product's layers, lies on another grid, or is of another day than its
            name says.
        """

    @property
    def collections(self) -> tuple[tuple[str, str], ...]:
        """Short name and version that the provider has for the product; early products last."""
        return ()

    def is_provisional(self, path: Path) -> bool:
        """Whether the provider will replace a granule, by its name or its content."""
        name = self.parse(path.name)
        return name is not None and name.provisional

    def mirror_days(self, url: str) -> list[tuple[np.datetime64, str]]:
        """Days of a mirror in Zarr, each with what changes when the day is replaced.

        Raises
        ------
        GranuleError
            Where there is no such store, or no way to read one.
        """
        raise GranuleError(f"{self.name} cannot be read from a mirror in Zarr ({url})")

    def read_mirror(self, url: str, window: Grid, days: Days) -> Steps:
        """As ``read``, from a mirror in Zarr."""
        raise GranuleError(f"{self.name} cannot be read from a mirror in Zarr ({url})")

    def keep_valid(self, values: Floats) -> Floats:
        """Values outside of the valid range become NaN, in place."""
        low, high = self.valid_range
        with np.errstate(invalid="ignore"):
            values[(values < low) | (values > high)] = np.nan
        return values


def named_time(pattern: re.Pattern[str], name: str) -> re.Match[str] | None:
    """The match of a granule's name, whatever the folder."""
    return pattern.fullmatch(name.rsplit("/", 1)[-1])


def day(text: str) -> np.datetime64:
    """The day of ``YYYYMMDD``, as ``datetime64[D]``."""
    return np.datetime64(f"{text[:4]}-{text[4:6]}-{text[6:8]}", "D")


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file; whatever goes wrong while it is read becomes a GranuleError that names it."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except GranuleError:
        raise
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise GranuleError(f"{path.name} cannot be read ({reason}): it is truncated or no file of this product") from error


def decode_times(variable: h5py.Dataset, path: Path) -> NDArray[np.datetime64]:
    """Times of a CF variable ``<unit> since <date>``, ``datetime64[s]``."""
    units = _text(variable.attrs.get("units", ""))
    match = re.fullmatch(r"\s*(seconds|minutes|hours|days) since (\S+)(?:[ T](\S+))?\s*(?:UTC|Z)?\s*", units)
    if match is None:
        raise GranuleError(f"{path.name} counts time in {units!r}, not in seconds, minutes, hours or days since a date")
    seconds = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86400}[match[1]]
    start = np.datetime64(match[2] + ("T" + match[3] if match[3] else ""), "ms")
    values = np.atleast_1d(np.asarray(variable[()], dtype=np.float64))
    return np.asarray((start + np.round(values * seconds * 1000.0).astype("timedelta64[ms]")).astype("datetime64[s]"))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def unit_of(variable: h5py.Dataset) -> str:
    """The variable's ``units``, without spaces at its ends."""
    return _text(variable.attrs.get("units", "")).strip()


def without_fill(values: NDArray[Any], variable: h5py.Dataset) -> Floats:
    """As float32, with the variable's fill value as NaN."""
    out = np.asarray(values, dtype=np.float32)
    for name in ("_FillValue", "missing_value"):
        if name in variable.attrs:
            fill = np.asarray(variable.attrs[name]).ravel()[0]
            if fill == fill:
                out[values == fill] = np.nan
    return out


@dataclass(frozen=True)
class Placement:
    """Which part of a granule's array goes where in the asked window: pairs of (rows, columns), granule then window."""

    parts: tuple[tuple[tuple[slice, slice], tuple[slice, slice]], ...]
    shape: tuple[int, int]

    def fill(self, read: Callable[[slice, slice], Floats], steps: int) -> Floats:
        """An array (steps, rows, columns) of the window; ``read`` gives (steps, rows, columns) of the granule."""
        out = np.full((steps, *self.shape), np.nan, np.float32)
        for (rows, columns), (to_rows, to_columns) in self.parts:
            out[:, to_rows, to_columns] = read(rows, columns)
        return out


def field(variable: h5py.Dataset, where: Placement) -> Floats:
    """A variable on the asked window, (rows, columns), fill as NaN; one with a leading axis is of a single time step."""

    def read(rows: slice, columns: slice) -> Floats:
        part = variable[rows, columns] if variable.ndim == 2 else variable[0, rows, columns]
        return without_fill(part, variable)[None]

    out: Floats = where.fill(read, 1)[0]
    return out


def screen_frozen(values: Floats, file: h5py.File, where: Placement, temperature: str, snow: str) -> None:
    """Values of frozen and of snow-covered ground become NaN, in place, where the file says which these are."""
    screened = np.zeros(where.shape, bool)
    with np.errstate(invalid="ignore"):
        if temperature in file:
            screened |= ~(field(file[temperature], where) > FROZEN_K)
        if snow in file:
            screened |= ~(field(file[snow], where) < MAX_SNOW_KG_M2)
    values[..., screened] = np.nan


def place(path: Path, grid: Grid, x: NDArray[Any], y: NDArray[Any], window: Grid) -> Placement:
    """Where an array with these centres lies in the asked window of a product's grid."""
    try:
        row, column = grid.place(x, y)
    except ValueError as error:
        raise GranuleError(f"{path.name} lies on another grid: {error}") from None
    return placement(row, column, len(y), len(x), grid, window)


def placement(row: int, column: int, rows: int, columns: int, grid: Grid, window: Grid) -> Placement:
    """Where an array of these rows and columns, at this corner of the whole grid, lies in the asked window."""
    parts = []
    for turn in (-1, 0, 1) if grid.goes_round else (0,):
        start = column + turn * grid.whole_columns
        low = max(start, window.first_column)
        high = min(start + columns, window.first_column + window.columns)
        top = max(row, window.first_row)
        bottom = min(row + rows, window.first_row + window.rows)
        if low < high and top < bottom:
            own = slice(top - row, bottom - row), slice(low - start, high - start)
            to = (
                slice(top - window.first_row, bottom - window.first_row),
                slice(low - window.first_column, high - window.first_column),
            )
            parts.append((own, to))
    return Placement(tuple(parts), window.shape)


def require_layers(path: Path, product: Product, present: Sequence[bool]) -> NDArray[np.bool_]:
    """Which layers a granule has; a granule with none of them is refused."""
    if not any(present):
        raise GranuleError(f"{path.name} has none of the layers of {product.name} ({', '.join(map(str, product.layers))})")
    return np.array(present, dtype=bool)


def check_day(path: Path, found: NDArray[np.datetime64], expected: NDArray[np.datetime64], tolerance: np.timedelta64) -> None:
    """Refuse a granule whose own time is not the one that its name says."""
    if found.size and np.abs(found[0] - expected[0].astype(found.dtype)) > tolerance:
        raise GranuleError(f"{path.name} is for {expected[0]} by its name, but holds {found[0]}")
