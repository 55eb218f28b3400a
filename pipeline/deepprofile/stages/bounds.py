"""Bounds that differ from cell to cell, such as the porosity: from a file to a small store on the target grid.

The step belongs to the inversion and runs only where ``inversion.bounds`` names a grid. The driver reads the file, which may
lie where only it can see it. The version of the store is told by the values on the target grid alone: a file that has moved, or
that changed elsewhere, leaves it as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepprofile.config import Config, GridBound, Inversion
from deepprofile.execution.blocks import Block, Job, Outcome, Workload, grid_blocks
from deepprofile.execution.ledger import Ledger
from deepprofile.grids.grids import Grid
from deepprofile.grids.regridding import regrid
from deepprofile.sources.catalogue import MIRROR, ZARR_MARKS, Cache, granule_of, local_copy
from deepprofile.sources.products import GranuleError
from deepprofile.sources.products.decoding import Floats, is_unit
from deepprofile.sources.products.static import StaticField, opened_field
from deepprofile.stages import schemas
from deepprofile.stages.analysis_ready import cached_overlaps
from deepprofile.stages.domain import Domain
from deepprofile.stages.manifest import ledger_url
from deepprofile.stages.plan import Expected, PlanError, StagePlan, Step, VersionPlan
from deepprofile.storage.filesystems import join
from deepprofile.storage.fingerprints import fingerprint
from deepprofile.storage.objects import MissingPathError, exists, explained_errors, listing
from deepprofile.storage.roots import Root
from deepprofile.storage.stores import read_region, write_shards

# The version of what turns a file into bounds.
ALGORITHM: Final = 1
STORE: Final = "bounds"
STAGE: Final = "invert/bounds"
NAMES: Final = schemas.BOUNDS

# Rows and columns of the target, each first and last + 1, to values there.
_Reader = Callable[[tuple[int, int], tuple[int, int]], Floats]


def are_gridded(settings: Inversion) -> bool:
    """Whether any bound is a grid, so that there is a store of them."""
    return any(isinstance(bound, GridBound) for bound in settings.bounds)


def _place(bound: GridBound, cache: Cache) -> Path | str:
    """The file of a bound as one of this machine, or the URL of its group in Zarr.

    Raises
    ------
    deepprofile.storage.objects.MissingPathError
        Where there is nothing at the path.
    PlanError
        Where it names several files.
    """
    if bound.path.startswith(MIRROR) or any(exists(join(bound.path, mark)) for mark in ZARR_MARKS):
        return bound.path.removeprefix(MIRROR)
    with explained_errors(bound.path):
        found = listing(bound.path)
    if not found:
        raise MissingPathError(f"there is no file {bound.path}, which inversion.bounds names")
    if len(found) > 1:
        raise PlanError(f"inversion.bounds: {bound.path} has {len(found)} files: name one of them, or a group in Zarr")
    return local_copy(granule_of(str(found[0]["url"]), found[0]), cache)


@contextmanager
def _opened_grid(bound: GridBound, target: Grid, cache: Cache) -> Iterator[_Reader]:
    """Reads a map on parts of the target grid, in m3 m-3.

    Raises
    ------
    GranuleError
        Where it cannot be read, has no such variable, is in another unit, or does not reach into the target.
    """
    with opened_field(_place(bound, cache), bound.variable) as field:
        factor = _factor(bound, field)
        try:
            window = field.grid.covering(target)
        except ValueError as error:
            raise GranuleError(f"{field.file.name}: {error}") from error
        y, x = cached_overlaps(window, target)

        def read(rows: tuple[int, int], columns: tuple[int, int]) -> Floats:
            part_y, part_x = y.part(*rows, 0), x.part(*columns, 0)
            (top, bottom), (left, right) = part_y.needed, part_x.needed
            values = field.read(window.window(top, left, bottom - top, right - left)) * factor
            found = regrid(values, y.part(*rows, top), x.part(*columns, left))
            return found if bound.missing is None else np.where(np.isnan(found), np.float32(bound.missing), found)

        yield read


def _factor(bound: GridBound, field: StaticField) -> np.float32:
    said = bound.units or field.units
    if is_unit(said, "percent"):
        return np.float32(0.01)
    if is_unit(said, "m3 m-3"):
        return np.float32(1.0)
    raise GranuleError(
        f"{field.file.name} gives {bound.variable} in {said!r}, which is neither m3 m-3 nor percent: a bound is a volume of "
        "water in a volume of soil (where the file is wrong, 'units' of the bound says what they are)"
    )


@contextmanager
def _opened(settings: Inversion, target: Grid, cache: Cache) -> Iterator[tuple[_Reader, ...]]:
    """A reader of the lower and one of the upper bound."""
    with ExitStack() as stack:
        yield tuple(
            stack.enter_context(_opened_grid(each, target, cache)) if isinstance(each, GridBound) else _constant(each)
            for each in settings.bounds
        )


def _constant(value: float) -> _Reader:
    def read(rows: tuple[int, int], columns: tuple[int, int]) -> Floats:
        return np.full((rows[1] - rows[0], columns[1] - columns[0]), value, np.float32)

    return read


@dataclass(frozen=True)
class BoundsBlock:
    """Writes the bounds of a block of cells; ``values``: of the whole grid, in the order of ``NAMES``, (bound, row, column)."""

    values: Floats
    url: str

    def __call__(self, block: Block, _: Any) -> Outcome:
        """See ``deepprofile.execution.blocks.Job``."""
        (top, bottom), (left, right) = block.region
        parts = zip(NAMES, self.values[:, top:bottom, left:right], strict=True)
        return Outcome(0, sum(write_shards(self.url, name, (top, left), part) for name, part in parts))


def workload(domain: Domain) -> Workload:
    """Blocks of cells and their cost."""
    grid, edge = domain.grid, domain.blocks.cells
    return Workload(
        name="invert: bounds",
        blocks=grid_blocks(grid.shape, (edge, edge)),
        memory_per_block=2 * domain.cells_in_block * 2 * 4,
        bytes_in=domain.cells * 2 * 4,
        bytes_out=domain.cells * 2 * 4,
    )


def plan(domain: Domain, settings: Inversion, cache: Cache, root: Root) -> StagePlan:
    """Plan the step: read the bounds, check them, and tell the version by what they are. The driver writes them.

    Raises
    ------
    PlanError
        Where they cannot be had, are none of soil moisture, or cross.
    deepprofile.storage.objects.MissingPathError
        Where there is no such file.
    """
    made, target = schemas.bounds(domain), domain.grid
    values = np.empty((2, *target.shape), np.float32)
    try:
        with _opened(settings, target, cache) as readers:
            # Some rows at a time: a map may be far finer than the target.
            for first in range(0, target.rows, domain.blocks.cells):
                rows = (first, min(first + domain.blocks.cells, target.rows))
                for k, read_part in enumerate(readers):
                    values[k, slice(*rows)] = read_part(rows, (0, target.columns))
    except GranuleError as error:
        raise PlanError(f"inversion.bounds: {error}") from error
    _check(settings, target, values)
    # One bit pattern for what is missing: values that are the same have the same bytes.
    values[np.isnan(values)] = np.nan
    shards = [(made.variables[name].shards, made.variables[name].chunks) for name in NAMES]
    settled = fingerprint("bounds", ALGORITHM, dict(made.attrs), shards)
    version = fingerprint(settled, hashlib.sha256(values.tobytes()).hexdigest())

    def mark(block: Block) -> str:
        part = values[:, slice(*block.region[0]), slice(*block.region[1])]
        return fingerprint(settled, block.region, hashlib.sha256(part.tobytes()).hexdigest())

    task = BoundsBlock(values, root.version(STORE, version))
    files = {
        name: bound.model_dump(mode="json") if isinstance(bound, GridBound) else bound
        for name, bound in zip(NAMES, settings.bounds, strict=True)
    }
    made_by = VersionPlan(STORE, version, made, Job(workload(domain), task, mark), task.url, files)
    return StagePlan(STAGE, STORE, (made_by,), on_driver=True)


def _check(settings: Inversion, target: Grid, values: Floats) -> None:
    """Raise a PlanError that says all that is wrong with the bounds; nothing where all is well."""
    said = []
    for name, bound, field in zip(NAMES, settings.bounds, values, strict=True):
        if not isinstance(bound, GridBound):
            continue
        where, there = f"{bound.variable} of {bound.path}", np.isfinite(field)
        least, most = float(field.min(initial=1.0, where=there)), float(field.max(initial=0.0, where=there))
        if not there.any():
            said.append(f"{where} has no value in any cell of the grid")
        elif least < 0.0 or most > 1.0:
            hint = "" if most <= 1.0 else " (values in percent: give the bound 'units: percent')"
            said.append(
                f"{where}, the {name.replace('_', ' ')}, goes from {field[there].min():.4g} to {field[there].max():.4g} on the "
                f"grid: soil moisture in m3 m-3 lies between 0 and 1{hint}"
            )
    low, high = values
    crossed: NDArray[np.int64] = np.argwhere(high <= low)
    if not said and len(crossed):
        row, column = map(int, crossed[0])
        soil, lat, lon = int(np.isfinite(low + high).sum()), target.lat[row], target.lon[column]
        said.append(
            f"the upper bound is not above the lower one in {len(crossed)} of {soil} cells, first at {lat:.3f} N {lon:.3f} E "
            f"({high[row, column]:.4g} against {low[row, column]:.4g} m3 m-3): cells without soil have to be missing (NaN or "
            "_FillValue)"
        )
    if said:
        raise PlanError("inversion.bounds: " + "; ".join(said))


def read(url: str, rows: tuple[int, int], columns: tuple[int, int]) -> tuple[Floats, Floats]:
    """The lower and the upper bound of some cells, each of shape (rows, columns); NaN where there is no soil."""
    low, high = (read_region(url, name, (slice(*rows), slice(*columns))) for name in NAMES)
    return low, high


@dataclass(frozen=True)
class UsedBounds:
    """The bounds as what is computed with them depends on them.

    Attributes
    ----------
    settings
        Of the inversion, with what the bounds are in place of where their files lie.
    version, url
        Of the store of the bounds; None where they are numbers.
    of_blocks
        Fingerprint of the bounds of each block of cells, by its index; none where they are numbers.
    """

    settings: Mapping[str, Any]
    version: str | None = None
    url: str | None = None
    of_blocks: Mapping[tuple[int, ...], str] = dataclass_field(default_factory=dict)

    @classmethod
    def of(cls, settings: Inversion, root: Root, versions: Mapping[str, str]) -> UsedBounds:
        """As configured, and as the store says."""
        said = settings.model_dump(mode="json")
        if not are_gridded(settings):
            return cls(said)
        version = versions[STORE]
        records = Ledger(ledger_url(root, STAGE, version)).read().values()
        found = {record.index: record.fingerprint for record in records}
        return cls(said | {"bounds": "grid"}, version, root.version(STORE, version), found)

    @property
    def inputs(self) -> dict[str, str]:
        """The version of the store, by its name."""
        return {} if self.version is None else {STORE: self.version}

    def within(self, index: tuple[int, ...]) -> list[str]:
        """The fingerprint of the bounds of a block of cells; none where they are numbers."""
        return [self.of_blocks[index]] if self.version is not None else []


def steps(config: Config) -> list[Step]:
    """The store of the bounds, where any of them is a grid; what is wrong with them is found when it is planned."""
    if not are_gridded(config.inversion):
        return []
    domain, cache = Domain.of(config), Cache(config.ingest.cache, config.ingest.cache_limit)

    def planned(root: Root, _: Mapping[str, str]) -> StagePlan:
        return plan(domain, config.inversion, cache, root)

    return [Step("invert", STORE, (), partial(workload, domain), planned, Expected(domain.grid))]
