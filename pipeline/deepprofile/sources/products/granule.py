"""What all products share: layers, time steps, what a file's name says, and how its values are read.

A product says what its variables are called and what screens them; how they are packed, on which axes they lie, and in which
format they come is the same for all, and read here once.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from deepprofile.core.screens import is_frozen, is_under_snow
from deepprofile.grids.grids import Grid
from deepprofile.sources.products.checks import NOTHING, Checks
from deepprofile.sources.products.decoding import (
    Floats,
    decode_intervals,
    decode_times,
    in_kelvin,
    in_kg_m2,
    is_packed,
    is_unit,
)
from deepprofile.sources.products.fields import FieldReader, TimeAxis
from deepprofile.sources.products.files import (
    DayNotHeldError,
    GranuleError,
    GranuleFile,
    JoinedFile,
    RemoteFile,
    Variable,
    opened,
    opened_zarr,
    reading,
)
from deepprofile.sources.products.passes import has_near_zero, hide, keep_range
from deepprofile.sources.products.placement import Cells, cells_of, placement

TEMPERATURE, SNOW = "soil temperature", "snow"
# Steps that are stated a little beside their time (in days, in single precision) belong to it.
_NEAR_MINUTES: Final = 5

Days = NDArray[np.datetime64]
_Read = Callable[[Variable], Floats]
_DAY: Final = np.timedelta64(1, "D")


@dataclass(frozen=True)
class Layer:
    """One layer of a product, m below the surface."""

    top_m: float
    bottom_m: float

    def __str__(self) -> str:
        return f"{self.top_m:g}-{self.bottom_m:g} m"


@dataclass(frozen=True)
class GranuleName:
    """Which days a granule holds, and what makes it the same time steps as another; from its name, or from its content.

    Attributes
    ----------
    first_day, last_day
        The first and last day.
    key
        Equal for granules that hold the same time steps.
    provisional
        It stands for the final granule with the same key until that is there.
    time
        Of its one time step, where the name says it.
    rank
        Of two granules with one key, the one with the greater rank has replaced the other.
    held
        Its days, where they do not follow one another.
    """

    first_day: np.datetime64
    last_day: np.datetime64
    key: str
    provisional: bool = False
    time: np.datetime64 | None = None
    rank: tuple[int, ...] = ()
    held: tuple[np.datetime64, ...] | None = None

    @property
    def days(self) -> Days:
        """The days, ``datetime64[D]``."""
        if self.held is not None:
            return np.array(self.held, dtype="datetime64[D]")
        return np.arange(self.first_day, self.last_day + _DAY)


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
    n_valid
        Values that were not fill before screening, by step; shape (step,).
    layers
        Whether the granule has each layer; shape (layer,).
    provisional
        Whether the provider will replace these values.
    unscreened
        What the product is screened by and the granule lacks: ``soil temperature``, ``snow``.
    doubled
        Whether a file was not needed, since others hold the same values.
    """

    times: NDArray[np.datetime64]
    values: Floats
    n_valid: NDArray[np.int64]
    layers: NDArray[np.bool_]
    provisional: bool = False
    unscreened: tuple[str, ...] = ()
    doubled: bool = False


class Held:
    """Memory for values that are needed one after the other: to be given new memory each time would cost as much as reading."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.float32)

    def take(self, *shape: int) -> Floats:
        """An array of this shape; those that were taken before are overwritten."""
        size = int(np.prod(shape))
        if self._memory.size < size:
            self._memory = np.empty(size, np.float32)
        return self._memory[:size].reshape(shape)


@dataclass(frozen=True)
class Outage:
    """Days of which the provider says that there is nothing, first and last included, and why."""

    first: np.datetime64
    last: np.datetime64
    reason: str


def outage(first: str, last: str, reason: str) -> Outage:
    """An outage from days as text."""
    return Outage(np.datetime64(first, "D"), np.datetime64(last, "D"), reason)


@dataclass
class Part:
    """An open file, or several that hold different variables of the same steps and cells, with its time steps."""

    file: GranuleFile
    axis: TimeAxis
    cells: Cells | None = None
    chosen: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))


@dataclass(frozen=True)
class Product(ABC):
    """A soil-moisture product: its layers, its grid, and what its variables are called.

    ``steps_per_day``: time steps that a day has, the first of them ``first_step_minutes`` after midnight;
    ``spatially_complete``: whether every granule holds values everywhere on land (a model, not a swath);
    ``latency_days``: after how many days a granule is to be expected, ``final_latency_days``: after how many its final version,
    where provisional ones come first.

    ``variables``: of each layer, the names that its variable may have, in the unit ``unit`` (``m3 m-3`` or ``kg m-2``).
    ``temperature`` and ``snow``: names of what its values are screened by, none where the product has nothing of the kind.
    """

    grid: Grid
    name: ClassVar[str]
    title: ClassVar[str]
    layers: ClassVar[tuple[Layer, ...]]
    variables: ClassVar[tuple[tuple[str, ...], ...]]
    unit: ClassVar[str] = "m3 m-3"
    temperature: ClassVar[tuple[str, ...]] = ()
    snow: ClassVar[tuple[str, ...]] = ()
    steps_per_day: ClassVar[int]
    first_step_minutes: ClassVar[int] = 0
    spatially_complete: ClassVar[bool] = True
    latency_days: ClassVar[int]
    final_latency_days: ClassVar[int | None] = None
    valid_range: ClassVar[tuple[float, float]] = (0.0, 0.9)
    # By how much the time in a file may differ from the one in its name.
    tolerance_minutes: ClassVar[int] = 180
    outages: ClassVar[tuple[Outage, ...]] = ()
    # Whether no value is exactly 0: then zeros are holes in a file.
    never_zero: ClassVar[bool] = False
    # What is below 0 by less than this is 0: the last digits of single precision.
    residue: ClassVar[float] = 0.0
    # Whether a field of the whole grid is one chunk of a file, which is unpacked to read any part of it.
    fields_are_one_chunk: ClassVar[bool] = False
    # Raised whenever the reader makes other values of the same file.
    algorithm: ClassVar[int] = 1

    @property
    def short_title(self) -> str:
        """The title without the names of collections in parentheses."""
        return self.title.partition(" (")[0]

    @abstractmethod
    def parse(self, name: str) -> GranuleName | None:
        """What a file's name says; None where it does not say enough, and the content has to (see ``contents``)."""

    def refusal(self, name: str) -> str | None:
        """Why a file is no granule of this product, where its name says so; None where it may be one."""
        return None

    @property
    def collections(self) -> tuple[tuple[str, str], ...]:
        """Short name and version that the provider has for the product; early products last."""
        return ()

    def read(self, path: Path | RemoteFile, window: Grid, days: Days) -> Steps:
        """Time steps of these days on a window of the product's grid.

        Raises
        ------
        GranuleError
            For a file that is cut off or damaged, lacks all of the product's layers, lies on another grid, is of another
            product or of another day than its name says, or holds what no soil moisture can be.
        """
        return self.read_together([path], window, days)

    def read_together(self, paths: Sequence[Path | RemoteFile], window: Grid, days: Days) -> Steps:
        """As ``read``, from files that hold different variables, hours or areas of the same days, as the members of an archive.

        What several of them hold alike is taken once.

        Raises
        ------
        GranuleError
            As ``read``, and for files that hold different values of a layer for the same steps and cells.
        """
        with self._open(paths, days) as parts:
            steps = self._read_joined(parts, window) if len(parts) > 1 else self._read_whole(parts[0], window)
        return self._marked(steps, paths[0].name)

    def read_pieces(self, path: Path | RemoteFile, window: Grid, days: Days, held: Held | None = None) -> Iterator[Steps]:
        """As ``read``, some steps at a time, in the order of the file: a day of hourly fields of the globe takes gigabytes.

        The values of a piece are valid until the next one is asked for. What is wrong with a file may be known, and raised,
        only when most of its pieces were given: they cannot be used then. ``held``: memory that pieces of several files share.
        """
        with self._open([path], days) as parts:
            if len(parts) > 1:
                # What several members of an archive hold alike is found by comparing them.
                yield self._marked(self._read_joined(parts, window), path.name)
                return
            for piece in self._read_part_pieces(parts[0], window, held or Held()):
                yield self._marked(piece, path.name)

    @contextmanager
    def _open(self, paths: Sequence[Path | RemoteFile], days: Days) -> Iterator[list[Part]]:
        """The parts of files that hold some of these days."""
        with ExitStack() as stack:
            files = [file for path in paths for file in stack.enter_context(opened(path))]
            # Whatever goes wrong from here on names the files too.
            stack.enter_context(reading(paths[0].name))
            yield self._choose(self._parts(files), days, paths[0].name)

    def _marked(self, steps: Steps, name: str) -> Steps:
        """Steps of a file whose name may say that they are provisional."""
        named = self.parse(name)
        return replace(steps, provisional=True) if named is not None and named.provisional else steps

    def contents(self, path: Path) -> GranuleName:
        """What a file holds, whatever its name.

        Raises
        ------
        GranuleError
            Where it is no granule of this product.
        """
        with opened(path) as files:
            parts = self._parts(files)
            for part in parts:
                self._locate(part)
            times = np.unique(np.concatenate([part.axis.times for part in parts]))
            times = times[~np.isnat(times)]
            if not times.size:
                raise GranuleError(f"{path.name} holds no time step")
            provisional = any(self._is_provisional(part.file) for part in parts)
        days = np.unique(times.astype("datetime64[D]"))
        held = None if days.size == int((days[-1] - days[0]) / _DAY) + 1 else tuple(days)
        return GranuleName(days[0], days[-1], self._key(times, days), provisional=provisional, held=held)

    def is_provisional(self, path: Path) -> bool:
        """Whether the provider will replace a granule, by its name or its content."""
        name = self.parse(path.name)
        return name is not None and name.provisional

    # --- mirrors in Zarr ---

    def mirror_days(self, url: str) -> list[tuple[np.datetime64, str]]:
        """Days of a mirror in Zarr that hold values, each with what changes when the day is replaced.

        Raises
        ------
        GranuleError
            Where there is no such store, or it holds nothing of this product.
        """
        with self._mirror(url) as part:
            days = np.unique(part.axis.times.astype("datetime64[D]"))
            final, last = self._mirror_stops(part.file)
            last = self._last_day_with_values(part, days) if last is None else last
            return [
                (day, "provisional" if final is not None and day > final else "final")
                for day in days
                if last is None or day <= last
            ]

    def read_mirror(self, url: str, window: Grid, days: Days) -> Steps:
        """As ``read``, from a mirror in Zarr."""
        with self._mirror(url) as whole:
            (part,) = self._choose([whole], days, whole.file.name)
            return self._marked_late(self._read_whole(part, window), part.file)

    def read_mirror_pieces(self, url: str, window: Grid, days: Days, held: Held | None = None) -> Iterator[Steps]:
        """As ``read_pieces``, from a mirror in Zarr."""
        with self._mirror(url) as whole:
            (part,) = self._choose([whole], days, whole.file.name)
            for piece in self._read_part_pieces(part, window, held or Held()):
                yield self._marked_late(piece, part.file)

    def _marked_late(self, steps: Steps, file: GranuleFile) -> Steps:
        """Steps of a mirror, which are provisional after the last day with final values."""
        final, _ = self._mirror_stops(file)
        late = final is not None and bool((steps.times.astype("datetime64[D]") > final).any())
        return replace(steps, provisional=steps.provisional or late)

    @contextmanager
    def _mirror(self, url: str) -> Iterator[Part]:
        with opened_zarr(url) as file:
            self._require_layers(file.name, self._present(file))
            yield self._parts([file])[0]

    def _mirror_stops(self, file: GranuleFile) -> tuple[np.datetime64 | None, np.datetime64 | None]:
        """The last day with final values and the last day with any, where a store says so."""
        return None, None

    def _last_day_with_values(self, part: Part, days: Days) -> np.datetime64 | None:
        """The last day that holds a value: a time axis may have been made for years to come."""
        variable = next(found for names in self.variables if (found := part.file.find(*names)) is not None)
        cells = self._locate(part)
        whole = slice(0, cells.rows.size), slice(0, cells.columns.size)

        def holds(day: np.datetime64) -> bool:
            steps = np.flatnonzero(part.axis.times.astype("datetime64[D]") == day)
            reader = FieldReader(part.file, part.axis, cells)
            return any(np.isfinite(reader.values(variable, steps[k : k + 1], *whole)).any() for k in (0, steps.size - 1))

        if not days.size or holds(days[-1]):
            return np.datetime64(days[-1]) if days.size else None
        low, high = -1, days.size - 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if holds(days[middle]) else (low, middle)
        last: np.datetime64 = days[low] if low >= 0 else days[0] - _DAY
        return last

    # --- reading ---

    def _parts(self, files: Sequence[GranuleFile]) -> list[Part]:
        """The files with something of this product, each with its time steps; such as differ in variables alone are one."""
        several = len(files) > 1
        parts: list[Part] = []
        alike: dict[object, list[int]] = defaultdict(list)
        for file in files:
            holds = self._holds(file)
            if not holds.any():
                # An archive may hold other things beside; a file that holds nothing of the product is told below.
                continue
            self._check_collection(file)
            part = Part(file, self._time_axis(file))
            if several:
                numbers = alike[part.axis.times.tobytes(), self._locate(part).key]
                number = next((n for n in numbers if not (self._holds(parts[n].file) & holds).any()), None)
                if number is not None:
                    known = parts[number].file
                    members = known.files if isinstance(known, JoinedFile) else [known]
                    parts[number] = replace(parts[number], file=JoinedFile([*members, file]))
                    continue
                numbers.append(len(parts))
            parts.append(part)
        if not parts:
            self._require_layers(files[0].name.rsplit(" in ", 1)[-1], [False])
        return parts

    def _holds(self, file: GranuleFile) -> NDArray[np.bool_]:
        """Which layers a file has, whether it has temperature, and whether snow; shape (layer + 2,)."""
        screens = [bool(names) and file.find(*names) is not None for names in (self.temperature, self.snow)]
        return np.concatenate([self._present(file), screens])

    def _check_collection(self, file: GranuleFile) -> None:  # noqa: B027
        """Raise a GranuleError where a file's attributes say that it is of another collection."""

    def _present(self, file: GranuleFile) -> NDArray[np.bool_]:
        """Which layers a file has, shape (layer,)."""
        return np.array([file.find(*names) is not None for names in self.variables])

    def _require_layers(self, name: str, present: Sequence[bool] | NDArray[np.bool_]) -> None:
        if not any(present):
            raise GranuleError(f"{name} has none of the layers of {self.name} ({', '.join(map(str, self.layers))})")

    def _stated_time(self, file: GranuleFile) -> np.datetime64 | None:
        """The one time step of a file that has no variable of time, where it says so elsewhere."""
        return None

    def _time_axis(self, file: GranuleFile) -> TimeAxis:
        named = self.parse(_own_name(file))
        found = times_of(file)
        stated = self._stated_time(file) if found is None else None
        if found is None:
            time = named.time if named is not None and named.time is not None else stated
            if time is None:
                raise GranuleError(f"{file.name} does not say of which time it is: it has no variable 'time' or 'valid_time'")
            found = TimeAxis(np.array([time], dtype="datetime64[m]"), (), ())
        if named is not None and named.time is not None and found.times.size == 1:
            own = stated if stated is not None else found.times[0]
            if np.abs(own - named.time) > np.timedelta64(self.tolerance_minutes, "m"):
                raise GranuleError(f"{file.name} is for {named.time} by its name, but holds {own}")
            # Means may be stamped with their centre or their start: the name's time stands.
            return TimeAxis(np.array([named.time], dtype="datetime64[m]"), found.shape, found.dims)
        return TimeAxis(self._on_steps(found.times), found.shape, found.dims)

    def _on_steps(self, times: NDArray[np.datetime64]) -> NDArray[np.datetime64]:
        """Times that lie a little beside a step of the product, on it."""
        apart = 1440 // self.steps_per_day
        minutes = (times - times.astype("datetime64[D]")).astype("timedelta64[m]").astype(np.int64) - self.first_step_minutes
        off = (minutes + apart // 2) % apart - apart // 2
        return np.where(np.abs(off) <= _NEAR_MINUTES, times - off.astype("timedelta64[m]"), times)

    def _key(self, times: NDArray[np.datetime64], days: Days) -> str:
        """What makes a file the same time steps as another."""
        if days.size > 1:
            return f"{days[0]}/{days[-1]}".replace("-", "")
        text = str(days[0]).replace("-", "")
        if times.size > 1 or self.steps_per_day == 1:
            return text
        return f"{text}T{str(times[0])[11:13]}{str(times[0])[14:16]}"

    def _locate(self, part: Part) -> Cells:
        """The cells of a part."""
        if part.cells is None:
            names = next((n for n in self.variables if part.file.find(*n) is not None), (*self.temperature, *self.snow))
            variable = part.file.find(*names)
            part.cells = cells_of(part.file, self.grid, variable.shape if variable is not None else ())
        return part.cells

    def _choose(self, parts: Sequence[Part], days: Days, name: str) -> list[Part]:
        """The parts that hold some of these days, with the steps of theirs that do."""
        self._require_layers(name, np.any([self._present(part.file) for part in parts], axis=0))
        every = np.concatenate([part.axis.times for part in parts])
        for part in parts:
            part.chosen = np.flatnonzero(np.isin(part.axis.times.astype("datetime64[D]"), days))
        some = [part for part in parts if part.chosen.size]
        if not some:
            known = every[~np.isnat(every)].astype("datetime64[D]")
            held = f"{known.min()} to {known.max()}" if known.size else "no day"
            raise DayNotHeldError(f"{name} is for {days[0]} to {days[-1]} by its name, but holds {held}")
        return some

    def _read_whole(self, part: Part, window: Grid) -> Steps:
        """The chosen steps of a part on the window."""
        checks = self._checks(part, window)
        steps = self._read(part, window, checks)
        checks.refuse()
        return steps

    def _read_part_pieces(self, part: Part, window: Grid, held: Held) -> Iterator[Steps]:
        """The same, as many steps at a time as are unpacked together."""
        checks, pieces = self._checks(part, window), self._pieces(part)
        for number, chosen in enumerate(pieces, start=1):
            steps = self._read(
                replace(part, chosen=chosen), window, checks, held.take(chosen.size, len(self.layers), *window.shape)
            )
            if number == len(pieces):
                checks.refuse()
            yield steps

    def _pieces(self, part: Part) -> list[NDArray[np.int64]]:
        """The chosen steps, in groups that are best read together."""
        reader = FieldReader(part.file, part.axis, self._locate(part))
        stored = [variable for names in self.variables if (variable := part.file.find(*names)) is not None]
        together = max((reader.steps_together(variable) for variable in stored), default=1)
        # Along the first axis of time, where there are two.
        first = part.chosen // max(int(np.prod(part.axis.shape[1:])), 1)
        return np.split(part.chosen, np.flatnonzero(np.diff(first // together)) + 1)

    def _checks(self, part: Part, window: Grid) -> Checks:
        """What is gathered of a part while its chosen steps are read."""
        reader = FieldReader(part.file, part.axis, self._locate(part))

        def read(k: int) -> Iterator[Floats]:
            for chosen in self._pieces(part):
                values = np.empty((chosen.size, *window.shape), np.float32)
                self._read_layer(replace(part, chosen=chosen), window, reader, k, values)
                yield values

        layers = [str(layer) for layer in self.layers]
        return Checks(part.file.name, layers, self.valid_range, read if self.spatially_complete else None, self.never_zero)

    def _read_joined(self, parts: Sequence[Part], window: Grid) -> Steps:
        """The chosen steps of several parts, in the order of time; each value from the first part that has it.

        Of parts that have the same values the one with more screens comes first.
        """
        count = len(self.layers)
        # Stable: parts with the same screens stay in the order of their names.
        ordered = sorted(parts, key=lambda part: -int(self._holds(part.file)[count:].sum()))
        times = np.unique(np.concatenate([part.axis.times[part.chosen] for part in parts]))
        # What is stored: layers, temperature and snow, and from which part it comes.
        stored = np.full((times.size, count + 2, *window.shape), np.nan, np.float32)
        owner = np.full(stored.shape, -1, np.int16)
        values, n_valid = stored[:, :count].copy(), np.zeros(times.size, np.int64)
        needed: list[Steps] = []
        for number, part in enumerate(ordered):
            steps, own = self._read_whole(part, window), self._stored(part, window)
            places = np.searchsorted(times, steps.times)
            before, owners = stored[places], owner[places]
            there, known = np.isfinite(own), np.isfinite(before)
            both, new = there & known, there & ~known
            unlike = both & ~are_alike(own, before)
            if unlike.any():
                first = owners[unlike][0]
                raise GranuleError(
                    f"{ordered[first].file.name} and {part.file.name} hold different values for the same layers, time "
                    "steps and cells"
                )
            values[places] = np.where(new[:, :count], steps.values, values[places])
            stored[places], owner[places] = np.where(new, own, before), np.where(new, number, owners)
            if new.any() or not both.any():
                needed.append(steps)
                n_valid[places] += new[:, :count].sum(axis=(1, 2, 3)) if both[:, :count].any() else steps.n_valid
        return Steps(
            times,
            values,
            n_valid,
            np.any([self._present(part.file) for part in parts], axis=0),
            any(steps.provisional for steps in needed),
            tuple(dict.fromkeys(what for steps in needed if steps.layers.any() for what in steps.unscreened)),
            len(needed) < len(parts),
        )

    def _stored(self, part: Part, window: Grid) -> Floats:
        """The chosen steps on the window before they are screened: layers, m3 m-3, temperature, K, and snow, kg m-2."""
        checks = self._checks(part, window)
        where, reader = placement(self._locate(part), self.grid, window), self._reader(part, checks)
        values, _ = self._values(part, window, reader, checks)
        stored = [values]
        for what, names in ((TEMPERATURE, self.temperature), (SNOW, self.snow)):
            found = self._amounts(part.file, what, names, lambda variable: reader.window(variable, part.chosen, where))
            stored.append(np.full_like(values[:, :1], np.nan) if found is None else found[:, None])
        return np.concatenate(stored, axis=1)

    def _reader(self, part: Part, checks: Checks) -> FieldReader:
        return FieldReader(part.file, part.axis, self._locate(part), checks.holes)

    def _read(self, part: Part, window: Grid, checks: Checks, out: Floats | None = None) -> Steps:
        """The chosen steps of a part on the window; into ``out`` where that is given."""
        file, steps = part.file, part.chosen
        where, reader = placement(self._locate(part), self.grid, window), self._reader(part, checks)
        values, n_valid = self._values(part, window, reader, checks, out)
        unscreened = self._screen(file, values, lambda variable: reader.window(variable, steps, where))
        return Steps(
            part.axis.times[steps],
            self.keep_valid(values),
            n_valid,
            self._present(file),
            reader.is_provisional(steps),
            unscreened,
        )

    def _values(
        self, part: Part, window: Grid, reader: FieldReader, checks: Checks, out: Floats | None = None
    ) -> tuple[Floats, NDArray[np.int64]]:
        """The chosen steps on the window, not screened, (step, layer, row, column), and how many values of each are no fill."""
        values = np.empty((part.chosen.size, len(self.layers), *window.shape), np.float32) if out is None else out
        for k in range(len(self.layers)):
            self._read_layer(part, window, reader, k, values[:, k])
        return values, checks.look_at(values)

    def _read_layer(self, part: Part, window: Grid, reader: FieldReader, k: int, out: Floats) -> None:
        """One layer of the chosen steps on the window, m3 m-3, into ``out``; NaN where the file does not have it."""
        variable = part.file.find(*self.variables[k])
        if variable is None:
            out[...] = np.nan
            return
        factor = self._factor(part.file, variable, self.layers[k])
        reader.window(variable, part.chosen, placement(self._locate(part), self.grid, window), out)
        if factor != 1.0:
            out /= factor

    def _factor(self, file: GranuleFile, variable: Variable, layer: Layer) -> np.float32:
        """By what a variable's values are divided to be in m3 m-3."""
        unit = variable.attrs.get("units", "")
        if np.issubdtype(variable.dtype, np.integer) and not is_packed(variable):
            raise GranuleError(f"{file.name} holds {variable.name} as whole numbers ({variable.dtype}) without a scale_factor")
        if not is_unit(unit, self.unit):
            raise GranuleError(f"{file.name} gives {variable.name} in {str(unit)!r}, not in {self.unit}")
        return np.float32(1.0 if self.unit == "m3 m-3" else _WATER_KG_M3 * (layer.bottom_m - layer.top_m))

    def _screen(self, file: GranuleFile, values: Floats, read: _Read) -> tuple[str, ...]:
        """Values of frozen and of snow-covered ground become NaN, in place; what the file lacks for that is returned."""
        lacking = []
        for what, names in ((TEMPERATURE, self.temperature), (SNOW, self.snow)):
            amounts = self._amounts(file, what, names, read)
            if amounts is not None:
                hide(values, is_frozen(amounts) if what == TEMPERATURE else is_under_snow(amounts))
            elif names:
                lacking.append(what)
        return tuple(lacking)

    def _amounts(self, file: GranuleFile, what: str, names: Sequence[str], read: _Read) -> Floats | None:
        """What a file has of one of its product's screens, temperature, K, or snow, kg m-2; None where it has nothing."""
        variable = file.find(*names) if names else None
        if variable is None:
            return None
        convert = in_kelvin if what == TEMPERATURE else in_kg_m2
        amounts = convert(read(variable), variable.attrs.get("units", ""))
        if amounts is None:
            raise GranuleError(
                f"{file.name} gives {variable.name} in {variable.attrs.get('units')!r}, which is no unit of {what}"
            )
        if what == TEMPERATURE and has_near_zero(amounts.reshape(-1), np.float32(NOTHING)):
            raise GranuleError(f"{file.name} is damaged: {variable.name} is 0 K in places, a hole in the file")
        return amounts

    def _is_provisional(self, file: GranuleFile) -> bool:
        """Whether any value of a file will be replaced."""
        return FieldReader.has_provisional(file)

    def keep_valid(self, values: Floats) -> Floats:
        """Values outside of the valid range become NaN, in place; the array is contiguous."""
        low, high = self.valid_range
        keep_range(values.reshape(-1), np.float32(low), np.float32(high), np.float32(self.residue))
        return values


_WATER_KG_M3: Final = 1000.0


def _own_name(file: GranuleFile) -> str:
    """The name of a file itself, without that of its archive."""
    return file.name.split(" in ", 1)[0]


def times_of(file: GranuleFile, name: str | None = None) -> TimeAxis | None:
    """The time steps of a file: ``valid_time``, or ``time`` with the ``step`` of a forecast; or a variable of a given name.

    None where there are none.
    """
    valid = file.find("valid_time") if name is None else file.find(name)
    if valid is None and name is not None:
        return None
    if valid is not None:
        return TimeAxis(decode_times(valid).reshape(-1), valid.shape, valid.dims)
    time = file.find("time", "forecast_reference_time", "datetime", "date")
    if time is None:
        time = next((v for v in map(file.variable, file.names()) if v is not None and _counts_time(v)), None)
    if time is None:
        return None
    times = decode_times(time)
    step = file.find("step", "forecast_period", "leadtime")
    if step is None:
        return TimeAxis(times.reshape(-1), time.shape, time.dims)
    lead = decode_intervals(step)
    if lead.size == 1:
        return TimeAxis((times + lead.reshape(-1)[0]).reshape(-1), time.shape, time.dims)
    if step.dims == time.dims and lead.shape == times.shape:
        return TimeAxis((times + lead).reshape(-1), time.shape, time.dims)
    every = times[..., None] + lead
    return TimeAxis(every.reshape(-1), every.shape, (*time.dims, *step.dims))


def _counts_time(variable: Variable) -> bool:
    return len(variable.shape) == 1 and " since " in str(variable.attrs.get("units", ""))


def are_alike(one: Floats, other: Floats) -> NDArray[np.bool_]:
    """Where two arrays have the same values, or are both missing.

    Values that differ by less than a store resolves are the same: two files may be packed in different ways.
    """
    return np.asarray(np.isclose(one, other, rtol=1e-4, atol=3e-5, equal_nan=True))


# --- names ----------------------------------------------------------------------------------------------------------

# What services and tools put after a name: subsetters, OPeNDAP, browsers that count copies, queries of URLs.
DATA_ENDINGS: Final = ("h5", "hdf5", "he5", "nc", "nc4", "cdf", "netcdf", "grib", "grb", "grib2", "grb2", "zip", "gz")


_QUERY: Final = re.compile(r"[?@](?=\w+\.?\w*=)")


def base_name(name: str) -> str:
    """A file's name without its folder and the query of the URL that it came from."""
    own = name.rsplit("/", 1)[-1]
    return _QUERY.split(own, maxsplit=1)[0] if "=" in own else own


def has_data_ending(name: str) -> bool:
    """Whether a name ends as a file of data does, and not as one of metadata or a picture that comes beside it."""
    return base_name(name).rsplit(".", 1)[-1].lower() in DATA_ENDINGS


def day(text: str) -> np.datetime64 | None:
    """The day of ``YYYYMMDD``, as ``datetime64[D]``; None where there is no such day."""
    try:
        return np.datetime64(f"{text[:4]}-{text[4:6]}-{text[6:8]}", "D")
    except ValueError:
        return None
