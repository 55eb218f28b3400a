"""Covariances: what of the profiles depends on the error model alone, and not on time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import sqrt
from typing import Any, Final

import numpy as np

from deepprofile.analysis.open import COVARIANCE
from deepprofile.config import Config
from deepprofile.core.factors import factor_entries
from deepprofile.execution.blocks import Block, Job, Outcome, Workload, grid_blocks
from deepprofile.stages import bounds, collocate, schemas
from deepprofile.stages.plan import Expected, StagePlan, Step, VersionPlan
from deepprofile.stages.profiles import Inverter, Profiles, prototype
from deepprofile.storage.fingerprints import fingerprint
from deepprofile.storage.roots import Root
from deepprofile.storage.stores import Template, write_shards

# The version of what turns the error model into covariances.
ALGORITHM: Final = 1
STORE: Final = COVARIANCE


def template(profiles: Profiles) -> Template:
    """The store before anything is computed."""
    return schemas.covariance(profiles.domain, prototype(profiles), _prior_deviation(profiles))


def _prior_deviation(profiles: Profiles) -> float:
    """The greatest standard deviation of a coefficient before any data, m3 m-3; infinite where no prior stands behind them."""
    if profiles.settings.method != "map":
        return float("inf")
    setting = Inverter(profiles.model.comparison, profiles.settings).model.setting
    anomalies = setting.anomalies.coefficient_covariance.diagonal(axis1=1, axis2=2).max(axis=0)
    return sqrt(float((anomalies + np.diag(setting.means.coefficient_covariance)).max()))


@dataclass(frozen=True)
class CovarianceBlock:
    """Computes the covariances of a block of cells, and writes what else of their profiles does not depend on time."""

    inverter: Inverter
    weights_url: str
    url: str
    # Of the store of the bounds, where they differ from cell to cell.
    bounds_url: str | None = None

    def __call__(self, block: Block, _: Any) -> Outcome:
        """See ``deepprofile.execution.blocks.Job``."""
        rows, columns = block.region
        errors = collocate.read_errors(self.weights_url, slice(*rows), slice(*columns))
        limits = bounds.read(self.bounds_url, rows, columns) if self.bounds_url is not None else None
        parameters = self.inverter.parameters(errors, limits)
        corner, cells = (rows[0], columns[0]), (rows[1] - rows[0], columns[1] - columns[0])
        written = write_shards(
            self.url, "covariance_factor", (*corner, 0, 0), factor_entries(self.inverter.covariances(parameters))
        )
        arrays = {
            "prior_mean": parameters.limits.prior_mean,
            "lower_bound": parameters.limits.low,
            "upper_bound": parameters.limits.high,
        }
        for name, array in arrays.items():
            written += write_shards(self.url, name, corner, np.broadcast_to(array, cells).astype(np.float32))
        return Outcome(sum(part.nbytes for part in errors), written)


def workload(profiles: Profiles) -> Workload:
    """Blocks of cells and their cost."""
    domain, degrees, patterns = profiles.domain, profiles.degrees, profiles.patterns
    grid, edge = domain.grid, domain.blocks.cells
    entries = degrees * (degrees + 1) // 2
    return Workload(
        name="invert: covariances",
        blocks=grid_blocks(grid.shape, (edge, edge)),
        # Covariances as computed; entries of their factors, as integers of a chunk after the other, and as a shard.
        memory_per_block=domain.cells_in_block * (patterns * (degrees**2 * 4 + entries * 8) + profiles.layout.size * 8 * 12),
        bytes_in=grid.rows * grid.columns * profiles.layout.size * 17,
        bytes_out=grid.rows * grid.columns * (patterns * entries * 2 + 10),
    )


def plan(profiles: Profiles, root: Root, versions: Mapping[str, str]) -> StagePlan:
    """Plan the covariances of an error model."""
    made, weights = template(profiles), versions[collocate.STORE]
    used = bounds.UsedBounds.of(profiles.settings, root, versions)
    layout = {name: (v.shards, v.chunks, v.stored_dtype) for name, v in made.variables.items()}
    setting = [ALGORITHM, dict(made.attrs), layout, profiles.model.comparison, used.settings, weights]
    version = fingerprint("covariances", setting, used.version)
    task = CovarianceBlock(
        Inverter(profiles.model.comparison, profiles.settings),
        root.version(collocate.STORE, weights),
        root.version(STORE, version),
        used.url,
    )

    def mark(block: Block) -> str:
        return fingerprint("covariances", setting, block.region, *used.within(block.index))

    inputs = {collocate.STORE: weights, **used.inputs}
    made_by = VersionPlan(STORE, version, made, Job(workload(profiles), task, mark), task.url, inputs)
    return StagePlan("invert/covariances", STORE, (made_by,))


def steps(config: Config) -> list[Step]:
    """The covariances."""
    profiles = Profiles.of(config)
    gridded = (bounds.STORE,) if bounds.are_gridded(config.inversion) else ()
    expected = Expected(profiles.domain.grid, profiles.layout.products)
    return [Step("invert", STORE, (collocate.STORE, *gridded), partial(workload, profiles), partial(plan, profiles), expected)]
