"""Ingest: granules of one product to an analysis-ready store of daily means on the product's own grid and layers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import ceil
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from deepprofile.config import Config, Ingest
from deepprofile.execution.blocks import Block, Job, Outcome, Record, Workload, grid_blocks
from deepprofile.grids.grids import Grid
from deepprofile.sources.catalogue import (
    Cache,
    Catalogue,
    DaySum,
    Granule,
    find_granules,
    mean_of_steps,
    read_granule,
    read_granule_pieces,
    read_together,
    steps_needed,
)
from deepprofile.sources.products import DayNotHeldError, GranuleError, Held, Latency, Outage, Product, Steps, are_alike
from deepprofile.sources.products.files import BLOCK_BYTES, BLOCKS_KEPT
from deepprofile.stages import schemas
from deepprofile.stages.analysis_ready import Source, SourceYear
from deepprofile.stages.domain import Domain
from deepprofile.stages.increments import BlockInputs, DayFingerprints, PublishedBlock, spans
from deepprofile.stages.manifest import days_document
from deepprofile.stages.plan import Expected, StagePlan, Step, VersionPlan, block_budget
from deepprofile.stages.schedule import AsOf, ReprocessRequests
from deepprofile.storage.filesystems import is_local
from deepprofile.storage.fingerprints import extended, fingerprint
from deepprofile.storage.roots import Root, part_name, parts_of
from deepprofile.storage.stores import Template, read_region, write_shards

# The version of what turns granules into daily means; each product has one more, of its own reader.
ALGORITHM: Final = 2


def store_name(product: str) -> str:
    """Where the store of a product is, below the root."""
    return f"ard/{product}"


def stage_name(product: str) -> str:
    """The stage that makes a product's store, as manifests call it."""
    return f"ingest/{product}"


@dataclass(frozen=True)
class ProductIngest:
    """What the ingest of one product depends on.

    Attributes
    ----------
    product, granules
        The product, and the folder or URL of its granules.
    domain
        The part of the product's own grid that covers the target, and the days.
    settings
        How granules are read and averaged.
    latency, outages
        When granules are to be expected, and the days of which the provider has nothing.
    memory
        Bytes that a block may take.
    """

    product: Product
    granules: str
    domain: Domain
    settings: Ingest
    latency: Latency
    outages: tuple[Outage, ...]
    memory: int

    @classmethod
    def of(cls, config: Config, name: str) -> ProductIngest:
        """Of a configured product."""
        product, target = config.product(name), Domain.of(config)
        window = product.grid.covering(target.grid)
        granules = config.products[name].granules
        latency, outages = config.latency(name), config.outages(name)
        return cls(product, granules, target.on(window), config.ingest, latency, outages, block_budget(config.compute))

    @property
    def years(self) -> tuple[ProductIngest, ...]:
        """The same of each calendar year."""
        return tuple(replace(self, domain=year) for year in self.domain.years)

    @property
    def store(self) -> str:
        """Name of the store below the root."""
        return store_name(self.product.name)

    @property
    def stage(self) -> str:
        """The stage that makes it, as manifests call it."""
        return stage_name(self.product.name)


def source(product: Product, domain: Domain, root: Root, versions: Mapping[str, str]) -> Source:
    """The store of a product as later stages read it on the grid of a domain, with the years of its days."""
    layers, store = tuple((layer.top_m, layer.bottom_m) for layer in product.layers), store_name(product.name)
    names = [(year, part_name(store, year.year)) for year in domain.years]
    years = tuple(SourceYear(*year.span, root.version(name, versions[name])) for year, name in names)
    return Source(product.name, years, product.grid.covering(domain.grid), layers)


def template(task: ProductIngest) -> Template:
    """The store before anything is computed."""
    return schemas.analysis_ready(task.domain, task.product, task.settings)


@dataclass
class _Days:
    """What is known of the days of a block: values as they are stored, (day, layer, row, column), and of each day the time
    steps that were there, the values that were not fill, whether any of them is provisional, how many granules lacked what
    they are screened by, and which hold the same.
    """

    values: NDArray[np.int16]
    steps: list[int]
    n_valid: list[int]
    provisional: list[int]
    unscreened: list[int]
    lacking: set[str] = field(default_factory=set)
    doubled: dict[int, list[str]] = field(default_factory=dict)
    broken: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    bytes_read: int = 0


@dataclass(frozen=True)
class IngestBlock:
    """Computes one block: reads the granules of its days, averages each day's time steps, writes the shards.

    Days that the published version of the block has as they would be computed now are read from there.
    """

    product: Product
    window: Grid
    first_day: np.datetime64
    min_day_fraction: float
    cache: Cache
    url: str
    require_screens: bool = False

    def __call__(self, block: Block, given: BlockInputs) -> Outcome:
        """See ``deepprofile.execution.blocks.Job``."""
        found = self.daily_means(block, given)
        days, rows, columns = block.region
        written = write_shards(self.url, "soil_moisture", (days[0], 0, rows[0], columns[0]), found.values)
        if block.index[1:] == (0, 0):
            # The same in every block of these days: one of them writes it.
            written += write_shards(self.url, "steps", (days[0],), np.array(found.steps, np.uint8))
            written += write_shards(self.url, "provisional", (days[0],), np.array(found.provisional, np.uint8))
        details: dict[str, Any] = {
            "steps": found.steps,
            "n_valid": found.n_valid,
            "provisional": [k for k, value in enumerate(found.provisional) if value],
            "broken": found.broken,
        }
        if any(found.unscreened):
            details |= {"unscreened": found.unscreened, "lacking": sorted(found.lacking)}
        if found.doubled:
            details["doubled"] = [[k, names] for k, names in sorted(found.doubled.items())]
        return Outcome(found.bytes_read, written, tuple(found.problems), details)

    def daily_means(self, block: Block, given: BlockInputs) -> _Days:
        """The days of a block."""
        days, rows, columns = block.region
        part = self.window.window(rows[0], columns[0], rows[1] - rows[0], columns[1] - columns[0])
        count = days[1] - days[0]
        # A day's mean is packed when it is made: half the memory.
        values = np.full((count, len(self.product.layers), *part.shape), schemas.MOISTURE.fill, schemas.MOISTURE.dtype)
        found = _Days(values, [0] * count, [0] * count, [0] * count, [0] * count)
        if given.earlier is not None:
            self._take_over(block, given.earlier, found)
        work = _Work(Held(), DaySum((len(self.product.layers), *part.shape)))
        for k in given.fresh(count):
            today = self.first_day + np.timedelta64(days[0] + k, "D")
            there = given.inputs.get(str(today), ())
            found.bytes_read += sum(granule.size for granule in there)
            if there:
                self._day(_Day(k, today, found), there, part, work)
        return found

    def _take_over(self, block: Block, earlier: PublishedBlock, found: _Days) -> None:
        days, rows, columns = block.region
        for first, after in spans(earlier.unchanged):
            region = (slice(days[0] + first, days[0] + after), slice(None), slice(*rows), slice(*columns))
            read_region(earlier.url, "soil_moisture", region, out=found.values[first:after])
            # As real numbers, as everywhere.
            found.bytes_read += 2 * found.values[first:after].nbytes
        provisional = set(earlier.details["provisional"])
        for k in earlier.unchanged:
            found.steps[k], found.n_valid[k] = earlier.details["steps"][k], earlier.details["n_valid"][k]
            found.provisional[k] = int(k in provisional)
            found.unscreened[k] = earlier.details["unscreened"][k] if "unscreened" in earlier.details else 0
        if any(found.unscreened):
            found.lacking |= set(earlier.details["lacking"])
        kept = set(earlier.unchanged)
        found.doubled = {k: names for k, names in earlier.details.get("doubled", ()) if k in kept}

    def _names_several_days(self, granule: Granule) -> bool:
        name = self.product.parse(granule.name)
        return name is not None and name.days.size > 1

    def _time_of(self, granules: Sequence[Granule]) -> np.datetime64 | None:
        """The one time step that the granules of one key hold, where their names say it."""
        name = self.product.parse(granules[0].name)
        return name.time if name is not None and len(granules) == 1 else None

    def _day(self, day: _Day, granules: tuple[Granule, ...], part: Grid, work: _Work) -> None:
        by_key: dict[str, list[Granule]] = defaultdict(list)
        for granule in granules:
            by_key[granule.key].append(granule)
        times = [self._time_of(same) for same in by_key.values()]
        steps: _Steps | None = None
        if len(granules) == 1 or (all(time is not None for time in times) and len(set(times)) == len(times)):
            # None has to be held against another: each is added as it is read, in the order of time.
            steps = self._sum(day, sorted(granules, key=lambda granule: str(self._time_of([granule]))), part, work)
        if steps is None:
            steps = self._compared(day, by_key, part)
        count, valid = steps.counts()
        if count > self.product.steps_per_day:
            day.refuse(
                f"there are {count} time steps of {self.product.name}, which has {self.product.steps_per_day} a "
                "day: granules of several collections are mixed; none of them is used"
            )
        elif count:
            needed = steps_needed(self.min_day_fraction, self.product.steps_per_day)
            mean = work.held.take(len(self.product.layers), *part.shape)
            steps.mean(needed, mean)
            schemas.MOISTURE.encode(mean, out=day.found.values[day.k])
            day.found.steps[day.k], day.found.n_valid[day.k] = count, valid

    def _sum(self, day: _Day, granules: Sequence[Granule], part: Grid, work: _Work) -> _Steps | None:
        """The steps of one granule, or of several of a step each; None where they do not come one after the other."""
        steps, taken, refused = _SummedSteps(work.sum), [], []
        for granule in granules:
            pieces: list[Steps] = []
            try:
                for piece in read_granule_pieces(self.product, granule, part, np.array([day.today]), self.cache, work.held):
                    self._require_screens(granule, piece)
                    if not steps.follow(piece.times) or (pieces and len(granules) > 1):
                        return None
                    for time, values, count in zip(piece.times, piece.values, piece.n_valid, strict=True):
                        steps.add(time, values, int(count))
                    # Its values are in the sum.
                    pieces.append(replace(piece, values=piece.values[:0]))
            except GranuleError as error:
                if pieces and len(granules) > 1:
                    # What was added of it cannot be taken back.
                    return None
                refused.append(self._reason([granule], error))
                if pieces:
                    steps = _SummedSteps(work.sum)
                continue
            taken.append((pieces, granule))
        for pieces, granule in taken:
            day.take(pieces, [granule])
        for reason in refused:
            day.refuse(reason)
        return steps

    def _compared(self, day: _Day, by_key: Mapping[str, Sequence[Granule]], part: Grid) -> _Steps:
        """The steps of granules that have to be held against each other, or put in order."""
        steps = _HeldSteps()
        for same in by_key.values():
            try:
                read = self._read(same, day.today, part)
            except GranuleError as error:
                day.refuse(self._reason(same, error))
                continue
            day.take([read], same)
            again: set[str] = set()
            for time, values, count in zip(read.times, read.values, read.n_valid, strict=True):
                before = steps.add(time, values, int(count), same[0].url)
                if before:
                    again.add(before)
                elif before is not None:
                    day.refuse(f"{same[0].name} holds {time}, which another granule has too; it is not used")
            if again:
                day.found.doubled.setdefault(day.k, []).append(", ".join([*sorted(again), *(each.url for each in same)]))
        return steps

    def _read(self, same: Sequence[Granule], today: np.datetime64, part: Grid) -> Steps:
        """The steps of the granules of one key on a day."""
        days = np.array([today])
        if len(same) == 1:
            read = read_granule(self.product, same[0], part, days, self.cache)
        else:
            read = read_together(self.product, same, part, days, self.cache)
        self._require_screens(same[0], read)
        return read

    def _require_screens(self, granule: Granule, read: Steps) -> None:
        if read.unscreened and self.require_screens:
            raise _UnscreenedError(
                f"{granule.name} lacks {' and '.join(read.unscreened)}, by which {self.product.name} is screened, "
                "and ingest.require_screens asks for it"
            )

    def _reason(self, same: Sequence[Granule], error: GranuleError) -> str | None:
        """Why the granules of one key cannot be used on a day; None where nothing is wrong."""
        if isinstance(error, DayNotHeldError) and self._names_several_days(same[0]):
            # The month that is not over yet, as its file says it: the day is missing where it is due.
            return None
        if len(same) == 1 or isinstance(error, DayNotHeldError | _UnscreenedError):
            return str(error)
        names = ", ".join(each.url for each in same)
        return f"there is more than one granule for {same[0].key}: {names}; none of them is used ({error})"


@dataclass(frozen=True)
class _Work:
    """Memory that the days of a block use one after the other."""

    held: Held
    sum: DaySum


class _UnscreenedError(GranuleError):
    """A granule lacks what it is screened by, and the configuration asks for it."""


@dataclass(frozen=True)
class _Day:
    """The day ``k`` of a block while it is read."""

    k: int
    today: np.datetime64
    found: _Days

    def refuse(self, problem: str | None) -> None:
        """Take down what is wrong with the day; None: nothing is."""
        if problem is None:
            return
        self.found.problems.append(f"{self.today}: {problem}")
        if self.k not in self.found.broken:
            self.found.broken.append(self.k)

    def take(self, read: Sequence[Steps], same: Sequence[Granule]) -> None:
        """Take down what is said beside the values of steps that come from the granules of one key."""
        lacking = {what for each in read for what in each.unscreened}
        self.found.provisional[self.k] |= int(any(each.provisional for each in read))
        self.found.unscreened[self.k] += int(bool(lacking))
        self.found.lacking |= lacking
        if any(each.doubled for each in read):
            self.found.doubled.setdefault(self.k, []).append(", ".join(each.url for each in same))


class _Steps(Protocol):
    """Time steps of a day that were read."""

    def counts(self) -> tuple[int, int]:
        """How many steps, and how many values of them are not fill."""

    def mean(self, needed: int, out: NDArray[np.float32]) -> None:
        """Mean of the steps into ``out``; NaN where fewer than ``needed`` have a value."""


class _SummedSteps:
    """Steps that are known to differ in time and come in its order: one sum, whatever their number."""

    def __init__(self, empty: DaySum) -> None:
        empty.clear()
        self._sum, self._count, self._n_valid = empty, 0, 0
        self._last: np.datetime64 | None = None

    def follow(self, times: NDArray[np.datetime64]) -> bool:
        """Whether times are in order, and after those that were added."""
        return (self._last is None or times[0] > self._last) and bool((np.diff(times) > np.timedelta64(0)).all())

    def add(self, time: np.datetime64, values: NDArray[np.float32], n_valid: int) -> None:
        """Add a step."""
        self._sum.add(values)
        self._count, self._n_valid, self._last = self._count + 1, self._n_valid + n_valid, time

    def counts(self) -> tuple[int, int]:
        """See ``_Steps``."""
        return self._count, self._n_valid

    def mean(self, needed: int, out: NDArray[np.float32]) -> None:
        """See ``_Steps``."""
        self._sum.mean(needed, out)


class _HeldSteps:
    """Steps of granules that hold several, or of which a name does not say which: they may come twice."""

    def __init__(self) -> None:
        self._steps: dict[np.datetime64, tuple[NDArray[np.float32], int, str]] = {}

    def add(self, time: np.datetime64, values: NDArray[np.float32], n_valid: int, url: str) -> str | None:
        """Take a step; None where it is new, else the URL of the granule that holds the same, or "" where that differs."""
        if time not in self._steps:
            self._steps[time] = values, n_valid, url
            return None
        return self._steps[time][2] if are_alike(values, self._steps[time][0]).all() else ""

    def counts(self) -> tuple[int, int]:
        """See ``_Steps``."""
        return len(self._steps), sum(count for _, count, _ in self._steps.values())

    def mean(self, needed: int, out: NDArray[np.float32]) -> None:
        """See ``_Steps``."""
        # In the order of time: the sum does not depend on the order in which files were found.
        out[...] = mean_of_steps([self._steps[time][0] for time in sorted(self._steps)], needed)


def plan(task: ProductIngest, root: Root, as_of: AsOf | None = None, listed: Catalogue | None = None) -> StagePlan:
    """Plan the ingest of one product; what is missing is judged as of a day, by default today.

    ``listed``: its granules, where they are known already; they are listed where not.

    Raises
    ------
    deepprofile.storage.objects.MissingPathError
        Where the folder of its granules is not there.
    """
    settings, as_of = task.settings, as_of or AsOf.now()
    cache, days = Cache(settings.cache, settings.cache_limit), task.domain.days
    catalogue = find_granules(task.product, task.granules, days, cache) if listed is None else listed
    redone = ReprocessRequests.read(root, task.product.name)
    *before, last = task.years
    closed = [_plan_year(year, root, as_of, catalogue.during(year.domain.days), redone) for year in before]
    # What concerns the folder as a whole, or days that nobody has yet, is said with the last year.
    whole = replace(catalogue, by_day=catalogue.of(last.domain.days))
    made = (*closed, _plan_year(last, root, as_of, whole, redone, last=True))
    return StagePlan(task.stage, task.store, made, partial(_notes, task.product.name, task.domain, catalogue))


def _plan_year(
    task: ProductIngest, root: Root, as_of: AsOf, catalogue: Catalogue, redone: ReprocessRequests, *, last: bool = False
) -> VersionPlan:
    product, days, settings, made = task.product, task.domain.days, task.settings, template(task)
    name, store = product.name, part_name(task.store, task.domain.year)
    algorithm = [ALGORITHM, product.algorithm]
    setting: dict[str, Any] = {
        "algorithm": algorithm,
        "attrs": dict(made.attrs),
        "shards": made.variables["soil_moisture"].shards,
        "chunks": made.variables["soil_moisture"].chunks,
    }
    if settings.require_screens:
        setting["require_screens"] = True
    identities = [[g.identity for g in catalogue.by_day.get(str(day), ())] for day in days]
    # All that the values of a day depend on: the stages after this one take over the days whose marks are the same.
    how = [algorithm, settings.min_day_fraction, settings.require_screens]
    marks = tuple(fingerprint(how, of_day, *redone.of(day)) for of_day, day in zip(identities, days, strict=True))
    # The bytes do not depend on how the window is divided, but the names of the blocks do.
    listed = workload_of_year(task)
    parts = [listed.blocks[0].region[1][1]] if listed.remark else []
    version = fingerprint("ingest", name, str(days[0]), str(days[-1]), setting, marks, *parts)
    compute = IngestBlock(
        product,
        task.domain.grid,
        days[0],
        settings.min_day_fraction,
        Cache(settings.cache, settings.cache_limit),
        root.version(store, version),
        settings.require_screens,
    )

    settled = fingerprint("ingest", name, setting, str(days[0]))

    def static_fingerprint(block: Block) -> str:
        return extended(settled, block.index, block.region[1:])

    def given(block: Block) -> BlockInputs:
        return BlockInputs(catalogue.of(days[slice(*block.region[0])]))

    by_day = DayFingerprints(marks, static_fingerprint)
    return VersionPlan(
        store=store,
        part=task.domain.year,
        version=version,
        template=made,
        url=compute.url,
        job=Job(listed, compute, by_day.fingerprint, static_fingerprint, given),
        inputs={"folder": task.granules, **catalogue.as_json()},
        finish=_Finish(product, days, task.latency, as_of, task.outages, last=last),
        marks=by_day,
        summary=partial(_summary, days),
    )


def _summary(days: NDArray[np.datetime64], records: Mapping[str, Record]) -> dict[str, Any]:
    found = DayCounts.of(days.size, records)
    return {
        "first": str(days[0]),
        "steps": found.steps.tolist(),
        "provisional": np.flatnonzero(found.provisional).tolist(),
        "broken": np.flatnonzero(found.broken).tolist(),
        "unscreened": np.flatnonzero(found.unscreened).tolist(),
    }


def _notes(name: str, domain: Domain, catalogue: Catalogue, records: Mapping[str, Record]) -> list[str]:
    """What was passed over, replaced and there more than once, and which days were not screened, over all years."""
    days = domain.days
    found = DayCounts.of(days.size, records, {year.year: year.span[0] - domain.span[0] for year in domain.years})
    places = np.flatnonzero(found.unscreened)
    notes = catalogue.notes(name)
    if places.size:
        lacking = sorted({what for record in records.values() for what in record.details.get("lacking", ())})
        some = f"{days[places[0]]}" if places.size == 1 else f"{places.size} days from {days[places[0]]} to {days[places[-1]]}"
        notes.append(
            f"{name}: {int(found.unscreened.sum())} granules ({some}) lack {' and '.join(lacking)}: their values were not "
            "screened for frozen or snow-covered ground (ingest.require_screens refuses such granules)"
        )
    if found.doubled:
        first, *others = sorted(
            {names: day for day, names in reversed(found.doubled)}.items(), key=lambda one: (one[1], one[0])
        )
        more = f", and {len(others)} more such groups of files" if others else ""
        notes.append(f"{name}: files that hold the same values are used once: {first[0]} ({days[first[1]]}){more}")
    return notes


def day_states(task: ProductIngest, root: Root, as_of: AsOf) -> dict[str, str]:
    """What is published of a product on every day until now.

    States are ``there``, ``provisional``, ``unscreened``, ``incomplete``, ``failed``, ``missing``, ``outage`` (the provider has
    nothing) and ``not due``.
    """
    versions, days = root.current(), task.domain.days
    steps: dict[np.datetime64, int] = {}
    told: dict[str, set[np.datetime64]] = {name: set() for name in ("provisional", "broken", "unscreened")}
    for name in parts_of(task.store, versions).values():
        known = days_document(root, task.stage, versions[name])
        if known and "first" in known:
            own = np.datetime64(known["first"], "D") + np.arange(len(known["steps"]))
            steps |= dict(zip(own, known["steps"], strict=True))
            for what, some in told.items():
                some.update(own[known.get(what, [])])
    first, latest = min([*steps, days[0]]), max([*steps, days[0]])
    last = max(latest, min(as_of.today, days[-1])) if steps else min(as_of.today, days[-1])
    due, complete = task.latency.last_due(as_of.today), task.product.steps_per_day
    states = {}
    for day in np.arange(first, last + 1):
        number = steps.get(day, 0)
        if day in told["broken"]:
            state = "failed"
        elif number and day in told["provisional"]:
            state = "provisional"
        elif number == complete:
            state = "unscreened" if day in told["unscreened"] else "there"
        elif any(outage.first <= day <= outage.last for outage in task.outages):
            state = "outage"
        elif day > due:
            state = "not due"
        else:
            state = "incomplete" if number else "missing"
        states[str(day)] = state
    return states


def workload(task: ProductIngest) -> Workload:
    """Blocks of all years and their cost."""
    return Workload.joined([workload_of_year(year) for year in task.years])


def workload_of_year(task: ProductIngest) -> Workload:
    """Blocks of a year and their cost: a stretch of days over the whole window, where that fits into the memory of a worker.

    Where it does not, a block has some rows of shards, and every granule is read once for each of them.
    """
    product, grid, days, settings = task.product, task.domain.grid, task.domain.days, task.settings
    layers, rows = len(product.layers), grid.rows
    while rows > settings.cells and _memory(task, rows) > task.memory:
        # Whole rows of shards, about half as many.
        rows = ceil(ceil(rows / settings.cells) / 2) * settings.cells
    parts = ceil(grid.rows / rows)
    divided = f"a worker has no memory for the whole window: {parts} parts, each of which reads every granule"
    return Workload(
        name=f"ingest {product.name}",
        blocks=grid_blocks((days.size, grid.rows, grid.columns), (settings.days, rows, grid.columns), task.domain.year),
        memory_per_block=_memory(task, rows),
        bytes_in=days.size * product.steps_per_day * (layers + 2) * grid.rows * grid.columns * 4,
        bytes_out=days.size * layers * grid.rows * grid.columns * 2,
        remark=divided if parts > 1 else "",
    )


def _memory(task: ProductIngest, rows: int) -> int:
    """Bytes that a block of so many rows takes at most, where a granule's time steps can be read one after the other."""
    product, grid, settings = task.product, task.domain.grid, task.settings
    layers, cells = len(product.layers), min(rows, grid.rows) * grid.columns
    days = min(settings.days, task.domain.length)
    shard = days * layers * min(settings.cells, grid.rows) * min(settings.cells, grid.columns)
    # To read a part of a field that is one chunk, the whole of it is unpacked.
    field = product.grid.rows * product.grid.columns if product.fields_are_one_chunk else cells
    # Means as they are stored; the sum of a day and the numbers of its steps; a step; fields of a step as they are unpacked,
    # decoded, placed and screened; a shard with its chunks; blocks of a remote file.
    means, step, fields = 2 * days * layers * cells, (8 + 1 + 4) * layers * cells, 4 * 4 * max(field, cells)
    return means + step + fields + 4 * shard + (0 if is_local(task.granules) else BLOCK_BYTES * (BLOCKS_KEPT + 1))


@dataclass(frozen=True)
class DayCounts:
    """What is there of a product, day by day, over all blocks.

    ``steps``: time steps; ``recorded``: values that were not fill; ``provisional``, ``broken``: whether anything is;
    ``unscreened``: granules that lacked what they are screened by; ``doubled``: number of the day and URLs of each group of
    files that hold the same, by day.
    """

    steps: NDArray[np.int64]
    n_valid: NDArray[np.int64]
    provisional: NDArray[np.bool_]
    broken: NDArray[np.bool_]
    unscreened: NDArray[np.int64]
    doubled: tuple[tuple[int, str], ...] = ()

    @classmethod
    def of(cls, count: int, records: Mapping[str, Record], origins: Mapping[str, int] | None = None) -> DayCounts:
        """From the records of the blocks of an ingest of so many days; ``origins``: of the parts that they belong to."""
        steps, n_valid = np.zeros(count, np.int64), np.zeros(count, np.int64)
        provisional, broken, unscreened = np.zeros(count, bool), np.zeros(count, bool), np.zeros(count, np.int64)
        doubled: set[tuple[int, str]] = set()
        for record in records.values():
            first = record.region[0][0] + (origins or {}).get(record.part, 0)
            part = slice(first, first + len(record.details.get("steps", ())))
            steps[part] = np.maximum(steps[part], record.details.get("steps", ()))
            n_valid[part] += np.array(record.details["n_valid"], np.int64)
            if "unscreened" in record.details:
                unscreened[part] = np.maximum(unscreened[part], record.details["unscreened"])
            for into, name in ((provisional, "provisional"), (broken, "broken")):
                into[[first + k for k in record.details.get(name, ())]] = True
            doubled |= {(first + k, names) for k, of_day in record.details.get("doubled", ()) for names in of_day}
        return cls(steps, n_valid, provisional, broken, unscreened, tuple(sorted(doubled)))


@dataclass(frozen=True)
class _Finish:
    product: Product
    days: NDArray[np.datetime64]
    latency: Latency
    as_of: AsOf
    outages: tuple[Outage, ...] = ()
    last: bool = True

    def __call__(self, records: Mapping[str, Record]) -> list[str]:
        """Days that lack what should be there by now: time steps, values that are no fill, final values."""
        found, name, per_day = DayCounts.of(self.days.size, records), self.product.name, self.product.steps_per_day
        last_due = self.latency.last_due(self.as_of.today)
        due, final = self.days <= last_due, self.days <= self.latency.last_final(self.as_of.today)
        problems = []
        for outage in self.outages:
            # Of these days the provider itself says that there is nothing.
            due &= ~((self.days >= outage.first) & (self.days <= outage.last))
        for k, day in enumerate(self.days):
            # What could not be used is said already.
            if due[k] and found.steps[k] < per_day and not found.broken[k]:
                problems.append(f"{day}: {per_day - found.steps[k]} of {per_day} time steps of {name} are missing")
            if found.steps[k] and not found.n_valid[k] and self.product.spatially_complete:
                problems.append(f"{day}: the granules of {name} hold no value at all, only fill")
            if final[k] and found.provisional[k]:
                problems.append(f"{day}: {name} is still provisional, and should be final by now")
        # The store ends with the last day that any product has: after it, nothing is there.
        if self.last and self.as_of.until is not None:
            late = np.arange(self.days[-1] + 1, min(last_due, self.as_of.until) + 1)
            problems += [
                f"{day}: {per_day} of {per_day} time steps of {name} are missing"
                for day in late
                if not any(outage.first <= day <= outage.last for outage in self.outages)
            ]
        return problems


def steps(config: Config, as_of: AsOf, listed: Mapping[str, Catalogue] | None = None) -> list[Step]:
    """The ingest of every configured product; ``listed``: the granules of some, where they are known already."""
    return [_step(ProductIngest.of(config, name), as_of, (listed or {}).get(name)) for name in config.products]


def _step(task: ProductIngest, as_of: AsOf, listed: Catalogue | None) -> Step:
    return Step(
        stage="ingest",
        store=task.store,
        reads=(),
        workload=partial(workload, task),
        plan=lambda root, _: plan(task, root, as_of, listed),
        expected=Expected(task.domain.grid, days=task.domain.days),
    )
