"""What CF says of the coordinates that stores share."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepprofile.execution.blocks import Block
from deepprofile.grids.grids import Grid
from deepprofile.storage.stores import (
    StoreError,
    Template,
    Variable,
)

CF_CALENDAR: Final = "proleptic_gregorian"


def space_time_coordinates(grid: Grid, days: NDArray[np.datetime64] | None) -> dict[str, Variable]:
    """Coordinates of a store on a grid, with what CF says of them."""
    projected = grid.crs == "EPSG:6933"
    unit = "m" if projected else "degrees"
    found = {
        "y": Variable(("y",), "float64", values=grid.y, attrs={"units": unit, "axis": "Y"}),
        "x": Variable(("x",), "float64", values=grid.x, attrs={"units": unit, "axis": "X"}),
        "lat": Variable(("y",), "float64", values=grid.lat, attrs={"units": "degrees_north", "standard_name": "latitude"}),
        "lon": Variable(("x",), "float64", values=grid.lon, attrs={"units": "degrees_east", "standard_name": "longitude"}),
    }
    if days is not None:
        found["time"] = Variable(
            ("time",),
            "int64",
            values=days.astype("datetime64[D]").astype(np.int64),
            attrs={"units": "days since 1970-01-01", "calendar": CF_CALENDAR, "axis": "T", "standard_name": "time"},
        )
    return found


def grid_attributes(grid: Grid) -> dict[str, Any]:
    """Attributes that place a store on the earth."""
    return {
        "grid": grid.name,
        "crs": grid.crs,
        "grid_window": [grid.first_row, grid.first_column, grid.rows, grid.columns],
        "Conventions": "CF-1.11",
    }


def block_dims(template: Template, block: Block) -> tuple[str, ...]:
    """Dimensions that a block's region runs along: time, y and x, or y and x, or what the store has instead."""
    dims = template.attrs.get("block_dims")
    assert isinstance(dims, (list, tuple))
    if len(dims) != len(block.region):
        raise StoreError(f"block {block.name} has a region of {len(block.region)} dimensions, its store has {list(dims)}")
    return tuple(dims)
