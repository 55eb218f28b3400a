"""Inputs: the observations as they entered the profiles, so that a reader sees what a profile was made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np

from deepprofile.config import Config
from deepprofile.execution.blocks import Block, Job, Outcome, Workload, grid_blocks
from deepprofile.stages import collocate, invert
from deepprofile.stages.domain import Domain
from deepprofile.stages.increments import BlockInputs, DayFingerprints
from deepprofile.stages.plan import Expected, StagePlan, Step, VersionPlan
from deepprofile.stages.profiles import Profiles
from deepprofile.stages.publish import schemas
from deepprofile.stages.publish.layers import changed_stretches
from deepprofile.stages.publish.years import provisional_days, stretch_days
from deepprofile.storage.fingerprints import extended, fingerprint
from deepprofile.storage.roots import Root, part_name
from deepprofile.storage.stores import write_shards

# The version of what turns analysis-ready stores into inputs.
ALGORITHM: Final = 1
STORE: Final = "inputs"
STAGE: Final = "publish/inputs"


@dataclass(frozen=True)
class InputsBlock:
    """Writes the observations of a block, stretch of days by stretch of days; those without change are taken over."""

    reader: invert.Reader
    count: int
    stretch: int
    url: str

    def __call__(self, block: Block, given: BlockInputs) -> Outcome:
        """See ``deepprofile.execution.blocks.Job``."""
        _, rows, columns = block.region
        read = written = 0
        for stretch in changed_stretches(block, given, self.stretch, self.url, {"soil_moisture": ((self.count,), ())}):
            series, filters, size = self.reader.read([stretch], rows, columns)
            read += size
            # Filters lie (row, column, day, filter).
            parts = [*series.values(), *(each.transpose(2, 3, 0, 1) for each in filters.values())]
            values = np.concatenate(parts, axis=1).swapaxes(0, 1)
            written += write_shards(self.url, "soil_moisture", (0, stretch[0], rows[0], columns[0]), values, sparse=True)
        return Outcome(read, written)


def workload(profiles: Profiles) -> Workload:
    """Blocks of all years and their cost."""
    return Workload.joined([_workload_of_year(profiles, year) for year in profiles.domain.years])


def _workload_of_year(profiles: Profiles, year: Domain) -> Workload:
    grid, blocks, n = year.grid, year.blocks, profiles.layout.size
    days = min(stretch_days(year), year.length)
    halo = invert.halo_bytes(profiles, year.cells_in_block, days)
    return Workload(
        name="publish: inputs",
        blocks=grid_blocks((year.length, *grid.shape), (blocks.days, blocks.cells, blocks.cells), year.year),
        memory_per_block=year.cells_in_block * days * n * 12 + halo,
        bytes_in=year.cells * year.length * n * 4,
        bytes_out=year.cells * year.length * n * 2,
    )


def plan(profiles: Profiles, root: Root, versions: Mapping[str, str]) -> StagePlan:
    """Plan the inputs of every year."""
    known = invert.Inputs.of(profiles, root, versions)
    return StagePlan(STAGE, STORE, tuple(_plan_year(known, year) for year in profiles.domain.years))


def _plan_year(known: invert.Inputs, year: Domain) -> VersionPlan:
    profiles, store, stretch = known.profiles, part_name(STORE, year.year), stretch_days(year)
    products = profiles.model.comparison.products
    provisional = provisional_days(year, products, known.root, known.versions)
    made = schemas.inputs(year, provisional, stretch, profiles.layout)
    layout = {name: (v.shards, v.chunks, v.stored_dtype) for name, v in made.variables.items()}
    of_year = [part_name(name, year.year) for name in collocate.ard_stores(profiles.model.products)]
    inputs = {name: known.versions[name] for name in of_year}
    settled = fingerprint("inputs", ALGORITHM, dict(made.attrs), layout, profiles.settings.direction, str(year.first_day))
    marks = known.day_marks(year)
    version = fingerprint(settled, inputs, marks, provisional.tolist())
    task = InputsBlock(known.reader(year), profiles.layout.size, stretch, known.root.version(store, version))

    def static_fingerprint(block: Block) -> str:
        return extended(settled, block.index, block.region[1:], known.failures(year, block))

    by_day = DayFingerprints(marks, static_fingerprint)
    job = Job(_workload_of_year(profiles, year), task, by_day.fingerprint, static_fingerprint, lambda _: BlockInputs())
    return VersionPlan(store, version, made, job, task.url, inputs, marks=by_day, part=year.year)


def steps(config: Config) -> list[Step]:
    """The inputs."""
    profiles = Profiles.of(config)
    expected = Expected(profiles.domain.grid, profiles.layout.products, profiles.domain.days)
    # The profiles too: what has not passed the gate is not published.
    reads = (*collocate.ard_stores(profiles.model.products), invert.STORE)
    return [Step("publish", STORE, reads, partial(workload, profiles), partial(plan, profiles), expected)]
