"""Invert: analysis-ready stores and weights to profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepprofile.analysis.open import PROFILE
from deepprofile.config import Config
from deepprofile.core import kernels
from deepprofile.core.memory import exponential_filters, reach, remembered
from deepprofile.core.parameters import Parameters
from deepprofile.execution.blocks import Block, Job, Outcome, Workload, grid_blocks
from deepprofile.execution.engine import READS
from deepprofile.execution.ledger import Ledger
from deepprofile.grids.grids import Grid
from deepprofile.sources.products import Product
from deepprofile.stages import bounds, collocate, gate, ingest, schemas
from deepprofile.stages.analysis_ready import Source, cached_overlaps
from deepprofile.stages.domain import Domain
from deepprofile.stages.increments import BlockInputs, DayFingerprints, day_fingerprints_of, spans
from deepprofile.stages.manifest import ledger_url
from deepprofile.stages.plan import Expected, StagePlan, Step, VersionPlan
from deepprofile.stages.profiles import Inverter, Profiles, prototype
from deepprofile.storage.fingerprints import extended, fingerprint
from deepprofile.storage.packing import Packing
from deepprofile.storage.roots import Root, part_name
from deepprofile.storage.stores import Template, read_region, write_shards

# The version of what turns daily means and the error model into profiles.
ALGORITHM: Final = 4
STORE: Final = PROFILE
STAGE: Final = "invert"


def template(profiles: Profiles, year: Domain) -> Template:
    """The store of a year before anything is computed."""
    return schemas.profile(year, prototype(profiles))


@dataclass(frozen=True)
class Reader:
    """Reads the observations of cells as they enter the profiles of a year.

    ``first``: the first day of the year's store, in days since 1970-01-01.
    """

    target: Grid
    sources: tuple[Source, ...]
    inverter: Inverter
    first: int

    def read(
        self, stretches: Sequence[tuple[int, int]], rows: tuple[int, int], columns: tuple[int, int]
    ) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.float32]], int]:
        """Products and filters of the remembered ones on some stretches of days of the store, and how many bytes were read.

        What is remembered may lie in the years before and after.
        """
        direction = self.inverter.settings.direction
        kept = remembered(self.inverter.comparison.design()[0]) if direction else []
        cells = (rows[1] - rows[0], columns[1] - columns[0])
        series, filters, size = {}, {}, 0
        for source in self.sources:
            before, after = reach(direction if source.name in kept else None)
            parts, pasts = [], []
            for first, stop in ((self.first + a, self.first + b) for a, b in stretches):
                hull = max(first - before, source.span[0]), min(stop + after, source.span[1])
                values = source.read(self.target, hull, rows, columns)
                size += values.nbytes
                own = slice(first - hull[0], stop - hull[0])
                parts.append(values[own])
                if direction and source.name in kept:
                    surface = values[:, 0].transpose(1, 2, 0).reshape(-1, hull[1] - hull[0])
                    pasts.append(exponential_filters(surface, direction)[:, own].reshape(*cells, stop - first, -1))
            series[source.name] = np.concatenate(parts)
            if pasts:
                filters[source.name] = np.concatenate(pasts, axis=2)
        return series, {name: filters[name] for name in kept}, size


@dataclass(frozen=True)
class InvertBlock:
    """Computes one block: reads the products, regrids them, inverts, writes the shards."""

    reader: Reader
    weights_url: str
    inverter: Inverter
    url: str
    packing: Packing
    # Of the store of the bounds, where they differ from cell to cell.
    bounds_url: str | None = None

    def __call__(self, block: Block, given: BlockInputs) -> Outcome:
        """See ``deepprofile.execution.blocks.Job``."""
        days, rows, columns = block.region
        count, cells = days[1] - days[0], (rows[1] - rows[0], columns[1] - columns[0])
        fresh = given.fresh(count)
        found: dict[str, NDArray[Any]] = {}
        before: dict[str, NDArray[Any]] = {}
        details: dict[str, Any] = dict(gate.NOTHING)
        read = 0
        if given.earlier is not None:
            region = {"time": slice(days[0], min(days[1], given.earlier.length)), "y": slice(*rows), "x": slice(*columns)}
            for name, dims in schemas.PROFILE_IN_TIME.items():
                before[name] = read_region(given.earlier.url, name, tuple(region.get(dim, slice(None)) for dim in dims))
            read += sum(array.nbytes for array in before.values())
        if fresh:
            stretches = [(days[0] + a, days[0] + b) for a, b in spans(fresh)]
            series, filters, size = self.reader.read(stretches, rows, columns)
            errors = collocate.read_errors(self.weights_url, slice(*rows), slice(*columns))
            limits = bounds.read(self.bounds_url, rows, columns) if self.bounds_url is not None else None
            read += size + sum(part.nbytes for part in errors)
            parameters = self.inverter.parameters(errors, limits)
            profiles = self.solve(series, parameters, filters)
            # Bounds that all cells of the block share have no dimensions.
            low, high = (np.broadcast_to(limit, cells) for limit in (parameters.limits.low, parameters.limits.high))
            details = gate.of_block(
                profiles.coefficients, self.packing, np.array(fresh, np.int64), before.get("coefficients"), (low, high)
            )
            found = {
                "coefficients": profiles.coefficients.transpose(3, 2, 0, 1),
                "flags": profiles.flags.transpose(2, 0, 1),
                "pattern": profiles.pattern.transpose(2, 0, 1),
            }
        details["profiles"] = details["computed"]
        if given.earlier is not None and given.earlier.unchanged:
            kept = np.array(given.earlier.unchanged)
            details["profiles"] += int(np.isfinite(before["coefficients"][0, kept]).sum())
            for name, old in before.items():
                axis = schemas.PROFILE_IN_TIME[name].index("time")
                joined = np.empty((*old.shape[:axis], count, *old.shape[axis + 1 :]), old.dtype)
                by_day = np.moveaxis(joined, axis, 0)
                by_day[kept] = np.moveaxis(old, axis, 0)[kept]
                if fresh:
                    by_day[fresh] = np.moveaxis(found[name], axis, 0)
                found[name] = joined
        corner, written = {"time": days[0], "y": rows[0], "x": columns[0]}, 0
        for name, dims in schemas.PROFILE_IN_TIME.items():
            written += write_shards(self.url, name, [corner.get(dim, 0) for dim in dims], found[name])
        return Outcome(read, written, details=details)

    def solve(
        self,
        series: Mapping[str, NDArray[np.float32]],
        parameters: Parameters,
        filters: Mapping[str, NDArray[np.float32]],
    ) -> kernels.Profiles:
        """The profiles of what was read; see ``Inverter.profiles``."""
        return self.inverter.profiles(series, parameters, filters)


def workload(profiles: Profiles) -> Workload:
    """Blocks of all years and their cost."""
    return Workload.joined([_workload_of_year(profiles, year) for year in profiles.domain.years])


def _workload_of_year(profiles: Profiles, year: Domain) -> Workload:
    """Blocks and their cost: a shard of cells and, where memory allows, the whole year."""
    grid, blocks, cells, layout = year.grid, year.blocks, year.cells_in_block, profiles.layout
    degrees, n = profiles.degrees, layout.size
    halo = halo_bytes(profiles, cells, year.days_in_block)
    return Workload(
        name="invert",
        blocks=grid_blocks((year.length, *grid.shape), (blocks.days, blocks.cells, blocks.cells), year.year),
        # Inputs, as read; coefficients as computed, as published, as joined from both, and as a shard; flags and patterns.
        memory_per_block=cells * year.days_in_block * (n * 4 + degrees * 14 + 24) + halo,
        bytes_in=year.cells * year.length * n * 4,
        bytes_out=year.cells * year.length * (degrees * 2 + 3),
    )


def halo_bytes(profiles: Profiles, cells: int, days: int) -> int:
    """Bytes of remembered products, which are read with the days around these, and turned so that days lie side by side."""
    return cells * len(profiles.layout.pasts) * (sum(reach(profiles.settings.direction)) + days) * 3 * 4


def plan(profiles: Profiles, root: Root, versions: Mapping[str, str]) -> StagePlan:
    """Plan the inversion of every year.

    Raises
    ------
    StoreError
        Where the weights were made for another grid or other products.
    """
    known = Inputs.of(profiles, root, versions)
    return StagePlan("invert", STORE, tuple(_plan_year(known, year) for year in profiles.domain.years))


@dataclass(frozen=True)
class Inputs:
    """What the profiles of all years depend on.

    ``sources``, ``marks`` and ``broken``: of each product; ``marks``: by day since 1970-01-01.
    """

    profiles: Profiles
    root: Root
    versions: Mapping[str, str]
    bounds: bounds.UsedBounds
    sources: tuple[Source, ...]
    marks: tuple[Mapping[int, str], ...]
    broken: tuple[_Broken, ...]

    @classmethod
    def of(cls, profiles: Profiles, root: Root, versions: Mapping[str, str]) -> Inputs:
        """As the versions say."""
        domain, products = profiles.domain, profiles.model.products
        sources = collocate.sources(products, domain, root, versions)
        with ThreadPoolExecutor(READS) as threads:
            marks = threads.map(partial(_marks_of, domain, root, versions), products)
            broken = threads.map(partial(_Broken.of, domain, root, versions), sources)
            used = bounds.UsedBounds.of(profiles.settings, root, versions)
            return cls(profiles, root, versions, used, sources, tuple(marks), tuple(broken))

    @property
    def _kept(self) -> list[int]:
        """Places of the remembered products."""
        comparison = self.profiles.model.comparison
        if not self.profiles.settings.direction:
            return []
        return [comparison.products.index(name) for name in remembered(comparison.design()[0])]

    def day_marks(self, year: Domain) -> tuple[str, ...]:
        """What the observations of each day of a year depend on."""
        before, after = reach(self.profiles.settings.direction)
        kept = [self.marks[p] for p in self._kept]

        def mark(day: int) -> str:
            # A day is made from its own values, and from what retrievals said around it, in the year before and after too.
            around = [[of.get(d, "") for d in range(day - before, day + after + 1)] for of in kept]
            return fingerprint(*(of[day] for of in self.marks), *around)

        return tuple(map(mark, range(*year.span)))

    def failures(self, year: Domain, block: Block) -> list[list[int]]:
        """Of each product the days that a block of a year reads of which a granule could not be used."""
        around, kept = reach(self.profiles.settings.direction), self._kept
        wider = [around if p in kept else (0, 0) for p in range(len(self.broken))]
        return [each.within(block, year.span[0], *days) for each, days in zip(self.broken, wider, strict=True)]

    def reader(self, year: Domain) -> Reader:
        """Reads the observations of a year."""
        (first, stop), (before, after) = year.span, reach(self.profiles.settings.direction)
        sources = tuple(source.around(first - before, stop + after) for source in self.sources)
        return Reader(year.grid, sources, Inverter(self.profiles.model.comparison, self.profiles.settings), first)


def _marks_of(domain: Domain, root: Root, versions: Mapping[str, str], product: Product) -> dict[int, str]:
    """The marks of the days of an analysis-ready store; where they cannot be read, the version stands for them."""
    found: dict[int, str] = {}
    for year in domain.years:
        version = versions[part_name(ingest.store_name(product.name), year.year)]
        marks = day_fingerprints_of(root, ingest.stage_name(product.name), version)
        marks = marks if len(marks) == year.length else (version,) * year.length
        found.update(zip(range(*year.span), marks, strict=True))
    return found


def _plan_year(known: Inputs, year: Domain) -> VersionPlan:
    profiles, root, versions, used = known.profiles, known.root, known.versions, known.bounds
    made, comparison, settings = template(profiles, year), profiles.model.comparison, profiles.settings
    store = part_name(STORE, year.year)
    of_year = [part_name(name, year.year) for name in collocate.ard_stores(profiles.model.products)]
    inputs = {name: versions[name] for name in (*of_year, collocate.STORE)} | used.inputs
    layout = {name: (v.shards, v.chunks, v.stored_dtype) for name, v in made.variables.items()}
    setting = [ALGORITHM, dict(made.attrs), layout, comparison, used.settings, str(year.first_day)]
    marks = known.day_marks(year)
    version = fingerprint("invert", setting, inputs, marks)
    weights, packing = versions[collocate.STORE], made.variables["coefficients"].packing
    assert packing is not None
    task = InvertBlock(
        known.reader(year),
        root.version(collocate.STORE, weights),
        Inverter(comparison, settings),
        root.version(store, version),
        packing,
        used.url,
    )
    settled = fingerprint("invert", setting, weights)

    def static_fingerprint(block: Block) -> str:
        failures = known.failures(year, block)
        return extended(settled, block.index, block.region[1:], failures, used.within(block.index[1:]))

    by_day = DayFingerprints(marks, static_fingerprint)
    workload = _workload_of_year(profiles, year)
    listed = Job(workload, task, by_day.fingerprint, static_fingerprint, lambda _: BlockInputs())
    return VersionPlan(store, version, made, listed, task.url, inputs, marks=by_day, part=year.year)


@dataclass(frozen=True)
class _Broken:
    """Days of blocks of a product of which a granule could not be used: they may be better when the product is ingested again.

    ``places``: rows and columns of such blocks on the product's grid, each with its days (since 1970-01-01).
    """

    source: Source
    target: Grid
    places: tuple[tuple[tuple[tuple[int, int], ...], tuple[int, ...]], ...]

    @classmethod
    def of(cls, domain: Domain, root: Root, versions: Mapping[str, str], source: Source) -> _Broken:
        found = []
        for year in domain.years:
            version = versions[part_name(ingest.store_name(source.name), year.year)]
            records = Ledger(ledger_url(root, ingest.stage_name(source.name), version)).read()
            found += [
                (record.region[1:], tuple(year.span[0] + record.region[0][0] + k for k in record.details["broken"]))
                for _, record in sorted(records.items())
                if record.details.get("broken")
            ]
        return cls(source, domain.grid, tuple(found))

    def within(self, block: Block, origin: int, before: int = 0, after: int = 0) -> list[int]:
        """Such days among those that a block of the target reads, with so many before and after its own.

        They and the block's own days are counted from ``origin``.
        """
        if not self.places:
            return []
        (start, stop), rows, columns = block.region
        first, last = origin + start - before, origin + stop + after
        y, x = cached_overlaps(self.source.grid, self.target)
        needed = (y.part(*rows, 0).needed, x.part(*columns, 0).needed)
        found: set[int] = set()
        for area, days in self.places:
            if all(low < b and a < high for (a, b), (low, high) in zip(area, needed, strict=True)):
                found.update(day - origin for day in days if first <= day < last)
        return sorted(found)


def steps(config: Config) -> list[Step]:
    """The profiles."""
    profiles = Profiles.of(config)
    gridded = (bounds.STORE,) if bounds.are_gridded(config.inversion) else ()
    reads = (*collocate.ard_stores(profiles.model.products), collocate.STORE, *gridded)
    expected = Expected(profiles.domain.grid, profiles.layout.products)
    return [Step("invert", STORE, reads, partial(workload, profiles), partial(plan, profiles), expected)]
