"""Where and when the stores lie: the target grid, the days, the sizes of blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from deepprofile.config import Blocks, Config
from deepprofile.grids.grids import Grid
from deepprofile.sources.products import Product


@dataclass(frozen=True)
class Domain:
    """What a store covers, and how it is divided.

    Attributes
    ----------
    grid
        Rows and columns.
    first_day, length
        Of the period: ``datetime64[D]``, and days.
    blocks
        Sizes of shards, which are the blocks that a worker computes, and of the chunks in them.
    """

    grid: Grid
    first_day: np.datetime64
    length: int
    blocks: Blocks

    @classmethod
    def of(cls, config: Config) -> Domain:
        """The target grid and the configured period."""
        days = days_of(config)
        return cls(config.grid.grid(), days[0], days.size, config.blocks)

    def on(self, grid: Grid) -> Domain:
        """The same days on another grid."""
        return replace(self, grid=grid)

    @property
    def days(self) -> NDArray[np.datetime64]:
        """Each day of the period, ``datetime64[D]``, shape (time,)."""
        return self.first_day + np.arange(self.length)

    @property
    def cells_in_block(self) -> int:
        """Cells that a block has at most."""
        return min(self.blocks.cells, self.grid.rows) * min(self.blocks.cells, self.grid.columns)

    @property
    def days_in_block(self) -> int:
        """Days that a block has at most."""
        return min(self.blocks.days, self.length)

    @property
    def cells(self) -> int:
        """All cells of the grid."""
        return self.grid.rows * self.grid.columns


def days_of(config: Config) -> NDArray[np.datetime64]:
    """The days of the configured period, ``datetime64[D]``."""
    return np.arange(np.datetime64(config.period.start, "D"), np.datetime64(config.period.end, "D") + np.timedelta64(1, "D"))


def products_of(config: Config) -> Mapping[str, Product]:
    """The configured products by name, in their order."""
    return {name: config.product(name) for name in config.products}
