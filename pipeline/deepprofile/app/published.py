"""The published stores of a configuration, as the report and the demo look at them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
import xarray as xr

from deepprofile.analysis.open import read_store
from deepprofile.config import Config
from deepprofile.stages import collocate, invert
from deepprofile.stages.domain import Domain, products_of
from deepprofile.storage.roots import Root


@dataclass(frozen=True)
class Published:
    """The published stores of a configuration, opened."""

    config: Config
    root: Root
    versions: Mapping[str, str]

    @classmethod
    def of(cls, config: Config) -> Published:
        """As the pointer says.

        Raises
        ------
        StoreError
            Where no profile has been published.
        """
        root = Root(config.root)
        root.parts(invert.STORE)
        return cls(config, root, root.current())

    def open(self, store: str) -> xr.Dataset:
        """A store as a dataset."""
        return read_store(self.root, store, chunks=None)

    def products(self, rows: slice = slice(None), columns: slice = slice(None)) -> dict[str, xr.DataArray]:
        """Every product on the target grid (time, layer, y, x), regridded as the inversion does."""
        domain = Domain.of(self.config)
        grid = domain.grid
        own_rows, own_columns = range(grid.rows)[rows], range(grid.columns)[columns]
        found = {}
        for source in collocate.sources(products_of(self.config).values(), domain, self.root, self.versions):
            values = source.read(grid, domain.span, (own_rows[0], own_rows[-1] + 1), (own_columns[0], own_columns[-1] + 1))
            found[source.name] = xr.DataArray(
                values,
                dims=("time", "layer", "y", "x"),
                coords={
                    "time": pd.DatetimeIndex(domain.days),
                    "layer_top": ("layer", [a for a, _ in source.layers]),
                    "layer_bottom": ("layer", [b for _, b in source.layers]),
                },
                attrs={"units": "m3 m-3"},
            )
        return found
