"""Rivals: gridded products that are scored beside the profiles, at the stations and on the days that both have.

A store for each holds its daily means in the cells that the sensors lie in, of which a run reads the days whose files have
changed. The scores are made from there (``deepprofile.stages.paired``).
"""

from __future__ import annotations

import re
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from deepprofile.config import Config, Rival
from deepprofile.execution.blocks import Block, Job, Outcome, Record, Workload, grid_blocks
from deepprofile.sources.catalogue import (
    MIRROR,
    ZARR_MARKS,
    Cache,
    Granule,
    granule_of,
    holds_no_data,
    local_copy,
    mean_of_steps,
    steps_needed,
)
from deepprofile.sources.products import GranuleError, are_alike
from deepprofile.sources.products.files import GranuleFile, opened, opened_zarr, reading
from deepprofile.sources.products.granule import Layer
from deepprofile.sources.products.samples import BYTES_A_VALUE, VALUES_AT_ONCE, Places, Reading, days_held, sample
from deepprofile.stages import schemas
from deepprofile.stages.attributes import grid_attributes
from deepprofile.stages.domain import Domain
from deepprofile.stages.increments import BlockInputs, DayFingerprints
from deepprofile.stages.matchups import RIVALS
from deepprofile.stages.observations import Found
from deepprofile.stages.plan import StagePlan, VersionPlan
from deepprofile.storage.filesystems import filesystem, join
from deepprofile.storage.fingerprints import fingerprint
from deepprofile.storage.objects import MissingPathError, exists, explained_errors, is_pattern, listing
from deepprofile.storage.roots import Root, part_name
from deepprofile.storage.stores import Template, read_region, write_shards

# The version of what turns a rival's files into daily means at sensors.
ALGORITHM: Final = 1
# A date in the name of a file: 20200101, also before a time of day; 2020-01-01, 2020_01_01.
_DATE: Final = re.compile(r"(?<!\d)(\d{4})([-_.]?)(\d{2})\2(\d{2})(?=\d{6}(?!\d)|\d{4}(?!\d)|(?!\d))")
# Files that are opened to see whether their names say what they hold.
_TRIED: Final = 3

Times = NDArray[np.datetime64]


def store_name(rival: str) -> str:
    """Where the daily means of a rival are, below the root."""
    return f"{RIVALS}{rival}"


def reading_of(rival: Rival) -> Reading:
    """How the files of a rival are read."""
    return Reading(
        tuple((name, tuple(Layer(*depths) for depths in layers)) for name, layers in rival.variables.items()),
        rival.units,
        rival.scale,
        tuple(rival.flags.items()),
        rival.time,
        rival.latitude,
        rival.longitude,
    )


# --- files ------------------------------------------------------------------------------------------------------------


class Files(NamedTuple):
    """The files of a rival by day, ``YYYY-MM-DD``; and those that cannot be read, as sentences."""

    by_day: dict[str, tuple[Granule, ...]]
    problems: tuple[str, ...]

    def of(self, days: Times) -> dict[str, tuple[Granule, ...]]:
        """Those of some days."""
        return {day: self.by_day[day] for day in days.astype(str).tolist() if day in self.by_day}


def find_files(name: str, rival: Rival, days: Times, cache: Cache) -> Files:
    """List the files of a rival by the days that they hold.

    Where names have one date each, and some files that are tried hold that day and no other, names are believed; else every
    file is opened once.

    Raises
    ------
    deepprofile.storage.objects.MissingPathError
        Where there is nothing at the path.
    """
    how, wanted = reading_of(rival), set(days.astype(str).tolist())
    granules, problems = _listed(name, rival), []
    dates = [_named_day(granule.name) for granule in granules]
    tried = sorted({0, len(granules) // 2, len(granules) - 1})[:_TRIED]
    believed = all(date is not None for date in dates) and all(
        (held := _held(granules[k], how, cache)) is None or set(held) <= {str(dates[k])} for k in tried
    )
    found: dict[str, list[Granule]] = defaultdict(list)
    for granule, date in zip(granules, dates, strict=True):
        try:
            of_file = (str(date),) if believed else _days_of_file(granule, how, cache)
        except GranuleError as error:
            problems.append(f"rival {name}: {error}")
            continue
        for day in of_file:
            if day in wanted:
                found[day].append(granule)
    return Files({day: tuple(found[day]) for day in sorted(found)}, tuple(problems))


def _listed(name: str, rival: Rival) -> list[Granule]:
    path = rival.path
    if path.startswith(MIRROR) or any(exists(join(path, mark)) for mark in ZARR_MARKS):
        url = path.removeprefix(MIRROR)
        # What a store holds cannot be looked through: its metadata are written when it is.
        tags = [granule_of(str(e["url"]), e).identity for mark in ZARR_MARKS for e in listing(join(url, mark))]
        return [Granule(MIRROR + url, 0, fingerprint(tags), "")]
    with explained_errors(path):
        fs, place = filesystem(path)
        if not is_pattern(path) and not fs.exists(place):
            raise MissingPathError(f"there is nothing at {path} for the rival {name}")
        granules = [granule_of(str(entry["url"]), entry) for entry in listing(path)]
    kept = [g for g in granules if "/." not in g.url.replace(place, "", 1) and not holds_no_data(g.name)]
    if not kept:
        raise MissingPathError(f"there is no file at {path} for the rival {name}")
    return kept


def _named_day(name: str) -> np.datetime64 | None:
    """The day that a file's name says, ``datetime64[D]``; None where it says none, or several."""
    found = set()
    for year, _, month, day in _DATE.findall(name):
        try:
            found.add(np.datetime64(f"{year}-{month}-{day}", "D"))
        except ValueError:
            continue
    return found.pop() if len(found) == 1 else None


@contextmanager
def _opened(granule: Granule, cache: Cache) -> Iterator[list[GranuleFile]]:
    """A file of a rival, or the members of an archive."""
    if granule.url.startswith(MIRROR):
        with opened_zarr(granule.url.removeprefix(MIRROR)) as store:
            yield [store]
        return
    path = local_copy(granule, cache)
    with opened(path) as files, reading(granule.name):
        yield files


_days_known: dict[tuple[Any, ...], tuple[str, ...]] = {}
_days_lock: Final = threading.Lock()


def _days_of_file(granule: Granule, how: Reading, cache: Cache) -> tuple[str, ...]:
    """Days that a file holds by its own times; it is opened once, as long as it stays the same.

    Raises
    ------
    GranuleError
        Where it cannot be read.
    """
    key = (granule.url, *granule.identity, how.time)
    with _days_lock:
        if key in _days_known:
            return _days_known[key]
    with _opened(granule, cache) as files:
        found: set[str] = set()
        for file in files:
            own, named = days_held(file, how).astype(str).tolist(), _named_day(_own_name(file))
            found.update(own if own or named is None else [str(named)])
    held = tuple(sorted(found))
    with _days_lock:
        _days_known[key] = held
    return held


def _held(granule: Granule, how: Reading, cache: Cache) -> tuple[str, ...] | None:
    """Days that a file holds; None where it cannot be read."""
    try:
        return _days_of_file(granule, how, cache)
    except GranuleError:
        return None


def _own_name(file: GranuleFile) -> str:
    """The name of a file itself, without that of its archive."""
    return file.name.split(" in ", 1)[0]


# --- daily means at the sensors -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RivalSettings:
    """What the daily means of a rival depend on.

    Attributes
    ----------
    name, rival
        As configured.
    domain
        The target grid and the days.
    min_day_fraction
        Share of a day's time steps that its mean needs.
    cache
        For files of object storage.
    """

    name: str
    rival: Rival
    domain: Domain
    min_day_fraction: float
    cache: Cache

    @classmethod
    def of(cls, config: Config, name: str) -> RivalSettings:
        """Of a configured rival."""
        cache = Cache(config.ingest.cache, config.ingest.cache_limit)
        return cls(name, config.rivals[name], Domain.of(config), config.ingest.min_day_fraction, cache)

    @property
    def years(self) -> tuple[RivalSettings, ...]:
        """The same of each calendar year."""
        return tuple(replace(self, domain=year) for year in self.domain.years)


def template(settings: RivalSettings, stations: xr.Dataset) -> Template:
    """The store of a year, which the domain of the settings is, before anything is computed."""
    return schemas.rival(settings.domain, settings.name, reading_of(settings.rival).layers, stations)


@dataclass(frozen=True)
class RivalBlock:
    """Reads the files of some days, each once, at all sensors, and writes their daily means."""

    name: str
    how: Reading
    first_day: np.datetime64
    needed: int
    cache: Cache
    url: str

    def __call__(self, block: Block, given: BlockInputs) -> Outcome:
        """See ``deepprofile.execution.blocks.Job``."""
        (start, stop), count = block.region[0], block.region[0][1] - block.region[0][0]
        latitude, longitude = (read_region(self.url, name, (slice(None),)) for name in ("latitude", "longitude"))
        # Sensors of a station share a place.
        places, of_sensor = np.unique(np.stack([latitude, longitude]), axis=1, return_inverse=True)
        values = np.full((count, len(self.how.layers), latitude.size), np.nan, np.float32)
        steps, read = np.zeros(count, np.uint16), 0
        if given.earlier is not None and given.earlier.unchanged:
            kept, span = np.array(given.earlier.unchanged), slice(start, min(stop, given.earlier.length))
            before = read_region(given.earlier.url, "soil_moisture", (span,))
            values[kept], read = before[kept], before.nbytes
            steps[kept] = read_region(given.earlier.url, "steps", (span,))[kept]
        fresh = np.array(given.fresh(count), np.int64)
        days: Times = self.first_day + (start + fresh).astype("timedelta64[D]")
        found = _Steps({}, [], set())
        files: dict[Granule, list[np.datetime64]] = defaultdict(list)
        for day in days:
            for granule in given.inputs.get(str(day), ()):
                files[granule].append(day)
        for granule in sorted(files, key=lambda each: each.url):
            self._read(granule, np.array(files[granule]), Places(places[0], places[1]), found)
            read += granule.size
        for k, day in zip(fresh.tolist(), days, strict=True):
            times = sorted(time for time in found.values if time.astype("datetime64[D]") == day)
            steps[k] = min(len(times), np.iinfo(np.uint16).max)
            if times:
                values[k] = mean_of_steps([found.values[time][0] for time in times], self.needed)[:, of_sensor.reshape(-1)]
        written = write_shards(self.url, "soil_moisture", (start, 0, 0), values)
        written += write_shards(self.url, "steps", (start,), steps)
        broken = [k for k, day in zip(fresh.tolist(), days, strict=True) if day in found.broken]
        return Outcome(read, written, tuple(found.problems), {"steps": steps.tolist(), "broken": broken})

    def _read(self, granule: Granule, days: Times, places: Places, found: _Steps) -> None:
        """Add the time steps of a file to what was found."""
        try:
            with _opened(granule, self.cache) as files:
                parts = [sample(file, self.how, places, days, _named_day(_own_name(file))) for file in files]
        except GranuleError as error:
            found.problems.append(f"rival {self.name}: {error}")
            found.broken.update(days)
            return
        held = {time.astype("datetime64[D]") for part in parts for time in part.times}
        lacking = sorted(set(days) - held)
        if lacking:
            found.problems.append(
                f"rival {self.name}: {granule.name} holds nothing for {lacking[0]}, although its name says so"
            )
            found.broken.update(lacking)
        for time, values in ((time, values) for part in parts for time, values in zip(part.times, part.values, strict=True)):
            if time not in found.values:
                found.values[time] = values, granule.name
            elif not are_alike(values, found.values[time][0]).all():
                found.problems.append(
                    f"rival {self.name}: {granule.name} and {found.values[time][1]} differ for {time}; the second is used (a "
                    "pattern with * in 'path' chooses files)"
                )
                found.broken.add(time.astype("datetime64[D]"))


class _Steps(NamedTuple):
    """Time steps that were found, each with its values (layer, place) and the name of its file; and what went wrong."""

    values: dict[np.datetime64, tuple[NDArray[np.float32], str]]
    problems: list[str]
    broken: set[np.datetime64]


def workload(settings: RivalSettings, count: int) -> Workload:
    """Blocks of the days of all years, each with so many sensors."""
    return Workload.joined([_workload_of_year(year, count) for year in settings.years])


def _workload_of_year(settings: RivalSettings, count: int) -> Workload:
    """Blocks of days, each with all sensors."""
    year, layers, steps = settings.domain, len(reading_of(settings.rival).layers), settings.rival.steps_per_day
    block = year.days_in_block * count * layers * 4
    return Workload(
        name=f"validate: rival {settings.name}",
        blocks=grid_blocks((year.length if count else 0,), (year.blocks.days,), year.year),
        # Values as they are unpacked and decoded; the steps of all days, their means, and as a shard.
        memory_per_block=BYTES_A_VALUE * VALUES_AT_ONCE + (steps + 3) * block,
        bytes_in=year.length * count * layers * steps * 4,
        bytes_out=year.length * count * layers * 4,
    )


def plan(settings: RivalSettings, root: Root, found: Found) -> StagePlan:
    """Plan the reading of one rival at the sensors that ``observations.sensors_of`` has found, in every year those it has."""
    name, days = settings.name, settings.domain.days
    try:
        files = find_files(name, settings.rival, days, settings.cache) if found.stations.sizes["sensor"] else Files({}, ())
    except MissingPathError as error:
        # The profiles do not wait for what they are compared with.
        files = Files({}, (str(error),))
    versions = [_plan_year(year, root, files, found.of_year(year.domain)) for year in settings.years]
    problems = list(files.problems)
    versions[-1] = replace(versions[-1], finish=lambda _: problems)
    notes = partial(_notes, name, settings.domain)
    return StagePlan(f"validate/{store_name(name)}", store_name(name), tuple(versions), notes)


def _plan_year(settings: RivalSettings, root: Root, files: Files, found: Found) -> VersionPlan:
    name, rival, year, stations = settings.name, settings.rival, settings.domain, found.stations
    made, how, days, store = template(settings, stations), reading_of(rival), year.days, part_name(store_name(name), year.year)
    needed = steps_needed(settings.min_day_fraction, rival.steps_per_day)
    places = [stations[coordinate].values.tolist() for coordinate in ("latitude", "longitude")]
    setting = fingerprint(
        "rival",
        ALGORITHM,
        how,
        needed,
        grid_attributes(settings.domain.grid),
        made.shard_shape("soil_moisture"),
        str(days[0]),
        places,
    )
    marks = tuple(fingerprint([g.identity for g in files.by_day.get(str(day), ())]) for day in days)
    version = fingerprint(setting, dict(made.attrs), str(days[-1]), marks)
    compute = RivalBlock(name, how, days[0], needed, settings.cache, root.version(store, version))

    def static_fingerprint(block: Block) -> str:
        return fingerprint(setting, block.index)

    def given(block: Block) -> BlockInputs:
        return BlockInputs(files.of(days[slice(*block.region[0])]))

    by_day = DayFingerprints(marks, static_fingerprint)
    work = _workload_of_year(settings, stations.sizes["sensor"])
    listed = Job(work, compute, by_day.fingerprint, static_fingerprint, given)
    urls = {g.url for day in days for g in files.by_day.get(str(day), ())}
    inputs = {"path": rival.path, "files": len(urls)}
    return VersionPlan(store, version, made, listed, compute.url, inputs, marks=by_day, part=year.year)


def _notes(name: str, domain: Domain, records: Mapping[str, Record]) -> list[str]:
    """Days of which a rival has no file."""
    days, origins = domain.days, {year.year: year.span[0] - domain.span[0] for year in domain.years}
    there = np.zeros(days.size, bool)
    for record in records.values():
        start, steps = origins[record.part] + record.region[0][0], record.details["steps"]
        there[start : start + len(steps)] = np.array(steps) > 0
    lacking = days[~there]
    if not lacking.size:
        return []
    return [f"rival {name}: {lacking.size} of {days.size} days have no file, the first {lacking[0]}, the last {lacking[-1]}"]
