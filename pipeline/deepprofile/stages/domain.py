"""What stores have in common: the target grid, the days, the sizes of blocks, and what the data set is called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from deepprofile.config import Blocks, Config, DataSet
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
    dataset
        How the data set is described; nothing that is computed depends on it.
    """

    grid: Grid
    first_day: np.datetime64
    length: int
    blocks: Blocks
    dataset: DataSet = field(default_factory=DataSet)

    @classmethod
    def of(cls, config: Config) -> Domain:
        """The target grid and the configured period."""
        days = days_of(config)
        return cls(config.grid.grid(), days[0], days.size, config.blocks, config.dataset)

    @property
    def years(self) -> tuple[Domain, ...]:
        """The calendar years of the period, each with its days in it."""
        days = self.days
        labels = days.astype("datetime64[Y]")
        firsts = np.flatnonzero(np.concatenate([[True], labels[1:] != labels[:-1]])).tolist()
        return tuple(
            replace(self, first_day=days[start], length=stop - start)
            for start, stop in zip(firsts, [*firsts[1:], self.length], strict=True)
        )

    @property
    def year(self) -> str:
        """The calendar year that the first day lies in, as it names the part of a store."""
        return str(self.first_day.astype("datetime64[Y]"))

    @property
    def span(self) -> tuple[int, int]:
        """First day and the one after the last, in days since 1970-01-01."""
        first = int(self.first_day.astype("datetime64[D]").astype(np.int64))
        return first, first + self.length

    def stretches(self, days: int) -> list[tuple[int, int]]:
        """Stretches of at most so many days, which begin anew each 1 January; as ``span``."""
        spans = [year.span for year in self.years]
        return [(start, min(start + days, stop)) for first, stop in spans for start in range(first, stop, days)]

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
