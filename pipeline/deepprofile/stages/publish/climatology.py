"""Climatology: what soil moisture usually is in each cell and pentad, over all whole years of the record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepprofile.config import Config
from deepprofile.core.basis import basis_mean
from deepprofile.core.climatology import PENTADS, QUANTILES, place_in_year, quantiles
from deepprofile.execution.blocks import Block, Job, Outcome, Workload, grid_blocks
from deepprofile.stages import collocate, invert
from deepprofile.stages.domain import Domain
from deepprofile.stages.plan import Expected, StagePlan, Step, VersionPlan
from deepprofile.stages.profiles import Profiles
from deepprofile.stages.publish import schemas
from deepprofile.stages.publish.layers import layer_means
from deepprofile.stages.publish.schemas import USUAL_LAYERS
from deepprofile.storage.fingerprints import fingerprint
from deepprofile.storage.roots import Root, part_name
from deepprofile.storage.stores import read_region, write_shards

# The version of what turns profiles into quantiles.
ALGORITHM: Final = 1
STORE: Final = "climatology"
STAGE: Final = "publish/climatology"


def whole_years(domain: Domain) -> tuple[Domain, ...]:
    """The calendar years of which every day is in the period."""
    return tuple(year for year in domain.years if year.length >= _days_of(year.year))


def _days_of(year: str) -> int:
    first = np.datetime64(year, "Y")
    return int(((first + 1).astype("datetime64[D]") - first.astype("datetime64[D]")).astype(int))


def lacking(config: Config) -> str | None:
    """Why there is no climatology; None where there is one."""
    found, least = len(whole_years(Domain.of(config))), config.climatology.min_years
    if found >= least:
        return None
    return f"no climatology: it needs {least} whole calendar years, and the record has {found} (climatology.min_years)"


@lru_cache(maxsize=4)
def _basis(order: int) -> NDArray[np.float64]:
    top, bottom = np.array(USUAL_LAYERS, np.float64).T
    return basis_mean(top, bottom, order)


@dataclass(frozen=True)
class ClimatologyBlock:
    """Computes the quantiles of a block of cells.

    ``years``: of each year the URL of its profiles, and the place of its days in a year of 365 days.
    """

    years: tuple[tuple[str, tuple[int, ...]], ...]
    order: int
    url: str

    def __call__(self, block: Block, _: object) -> Outcome:
        """See ``deepprofile.execution.blocks.Job``."""
        rows, columns = block.region
        own, read, parts = (slice(*rows), slice(*columns)), 0, []
        for url, _places in self.years:
            coefficients = read_region(url, "coefficients", (slice(None), slice(None), *own))
            read += coefficients.nbytes
            parts.append(layer_means(coefficients, _basis(self.order)))
        places = np.concatenate([np.array(each) for _, each in self.years])
        series = np.concatenate(parts)
        cells, written = series.shape[2:], 0
        for layer in range(len(USUAL_LAYERS)):
            found = quantiles(series[:, layer].reshape(len(series), -1), places, len(self.years))
            values = found.reshape(PENTADS, len(QUANTILES), 1, *cells)
            written += write_shards(self.url, "soil_moisture", (0, 0, layer, rows[0], columns[0]), values, sparse=True)
        return Outcome(read, written)


def workload(profiles: Profiles) -> Workload:
    """Blocks of cells and their cost."""
    domain, edge = profiles.domain, profiles.domain.blocks.cells
    cells, days, count = domain.cells_in_block, sum(year.length for year in whole_years(domain)), len(USUAL_LAYERS)
    year = max(each.length for each in domain.years)
    return Workload(
        name="publish: climatology",
        blocks=grid_blocks(domain.grid.shape, (edge, edge)),
        # Coefficients of a year; means of all, joined, and one layer in the order of the cells; the quantiles, as a shard too.
        memory_per_block=cells * (year * profiles.degrees * 4 + days * 4 * (2 * count + 1) + PENTADS * len(QUANTILES) * 8),
        bytes_in=domain.cells * days * profiles.degrees * 2,
        bytes_out=domain.cells * count * PENTADS * len(QUANTILES) * 2,
    )


def plan(profiles: Profiles, root: Root, versions: Mapping[str, str]) -> StagePlan:
    """Plan the climatology.

    A new one is made for another base period or another error model, not for a day that came late: percentiles would else
    change from day to day, and all cells be computed anew each time.
    """
    domain, weights = profiles.domain, versions[collocate.STORE]
    years = whole_years(domain)
    made = schemas.climatology(domain, [year.year for year in years], profiles.model.comparison.products)
    layout = {name: (v.shards, v.chunks, v.stored_dtype) for name, v in made.variables.items()}
    version = fingerprint("climatology", ALGORITHM, dict(made.attrs), layout, weights, _settings(profiles))
    url = root.version(STORE, version)
    sources = []
    for year in years:
        name = part_name(invert.STORE, year.year)
        sources.append((root.version(name, versions[name]), tuple(place_in_year(year.days).tolist())))
    task = ClimatologyBlock(tuple(sources), profiles.degrees - 1, url)

    def mark(block: Block) -> str:
        return fingerprint("climatology", version, block.region)

    # Of the years only which: see above.
    inputs = {"years": [year.year for year in years], collocate.STORE: weights}
    made_by = VersionPlan(STORE, version, made, Job(workload(profiles), task, mark), url, inputs)
    return StagePlan(STAGE, STORE, (made_by,))


def _settings(profiles: Profiles) -> str:
    return fingerprint(invert.ALGORITHM, profiles.settings.model_dump(mode="json"))


def steps(config: Config) -> list[Step]:
    """The climatology, where the record is long enough."""
    if lacking(config) is not None:
        return []
    profiles = Profiles.of(config)
    expected = Expected(profiles.domain.grid)
    reads = (invert.STORE, collocate.STORE)
    return [Step("publish", STORE, reads, partial(workload, profiles), partial(plan, profiles), expected)]
