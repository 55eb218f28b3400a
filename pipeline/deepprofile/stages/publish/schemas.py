"""What the stores for strangers look like; see ``deepprofile.stages.schemas``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from deepprofile.core.climatology import DAYS_IN_PENTAD, HALF_WINDOW, PENTADS, QUANTILES
from deepprofile.core.layers import OBSERVATION, Layout
from deepprofile.grids.grids import Grid
from deepprofile.stages.attributes import (
    GRID_MAPPING,
    MOISTURE_ERROR_NAME,
    MOISTURE_NAME,
    TIME_BOUNDS,
    geozarr_attributes,
    grid_attributes,
    layer_coordinates,
    multiscale_attributes,
    on_grid,
    space_time_coordinates,
)
from deepprofile.stages.domain import Domain
from deepprofile.stages.schemas import FORMULA, MOISTURE, placed, public
from deepprofile.storage.packing import Packing
from deepprofile.storage.stores import Template, Variable

# Depths of the layers, m, and of what they are part of.
LAYERS: Final = ((0.0, 0.05), (0.05, 0.1), (0.1, 0.3), (0.3, 1.0))
ROOT_ZONE: Final = (0.0, 1.0)
# Layers of which it is known what they usually hold, m.
USUAL_LAYERS: Final = ((0.0, 0.1), ROOT_ZONE)
# Steps of 3e-5 m3 m-3 up to 1.
DEVIATION: Final = Packing("int16", 2.0**-15)
# Of maps, which are drawn in far fewer colours: steps of 1e-3 m3 m-3, up to 32.
MAP_COEFFICIENTS: Final = Packing("int16", 2.0**-10)
# Steps of 5e-4 m3 m-3, up to 0.12; the prior's standard deviation is less.
MAP_DEVIATION: Final = Packing("uint8", 2.0**-11)
MAP_PERCENTILE: Final = Packing("uint8", 0.5)
# Of a global grid of EASE 2.0 these divide every level.
MAP_CHUNK: Final = (203, 241)
# A map of a day is sixteen small objects: on a disk they lie in one folder, not each in three of its own.
MAP_SEPARATOR: Final = "."
# Chunks in a shard of a map.
MAP_SHARD: Final = (4, 8)
# Cells of the coarsest level are so many times as wide as those of the profiles.
MAP_COARSEST: Final = 8
PENTADS_IN_CHUNK: Final = 8
_FLAG: Final = {"flag_values": [0, 1], "flag_meanings": "final provisional", "standard_name": "status_flag"}


def _depth_coordinates(layers: Sequence[tuple[float, float]]) -> dict[str, Variable]:
    """The middle of each layer, m, with its bounds as CF has them."""
    top, bottom = np.array(layers, np.float64).T
    return {
        "depth": Variable(
            ("depth",),
            "float64",
            values=0.5 * (top + bottom),
            attrs={
                "units": "m",
                "standard_name": "depth",
                "long_name": "depth of the layer's middle",
                "positive": "down",
                "axis": "Z",
                "bounds": "depth_bnds",
            },
        ),
        "depth_bnds": Variable(("depth", "bnds"), "float64", values=np.array(layers, np.float64)),
    }


def _provisional(values: NDArray[np.bool_]) -> Variable:
    text = "whether the provider of a product will replace its values of the day"
    return Variable(("time",), "uint8", values=values.astype(np.uint8), attrs={"long_name": text, **_FLAG})


def _edge(domain: Domain) -> int:
    """Cells along each side of a chunk of what is read by the month as well as by the cell."""
    cells, chunk = domain.blocks.cells, domain.blocks.chunk_cells
    return 2 * chunk if cells % (2 * chunk) == 0 else chunk


def _root_zone() -> dict[str, Variable]:
    """The middle of the root zone, m. Checkers know no bounds of scalars; its name and text say them."""
    said = {
        "units": "m",
        "standard_name": "depth",
        "long_name": "depth of the middle of the root zone, which reaches from 0 to 1 m",
        "positive": "down",
    }
    return {"root_zone_depth": Variable((), "float64", values=np.asarray(0.5 * sum(ROOT_ZONE)), attrs=said)}


def layers(year: Domain, provisional: NDArray[np.bool_], stretch: int, products: Sequence[str]) -> Template:
    """Means of layers of the profiles of a year and their standard deviations."""
    grid, cells, edge, count = year.grid, year.blocks.cells, _edge(year), len(LAYERS)

    def moisture(text: str, error: str, attrs: Mapping[str, Any], *layers: int) -> Variable:
        return Variable(
            ("time", *(("depth",) if layers else ()), "y", "x"),
            "float32",
            shards=(stretch, *layers, cells, cells),
            chunks=(stretch, *layers, edge, edge),
            packing=MOISTURE,
            attrs={
                "units": "m3 m-3",
                "standard_name": MOISTURE_NAME,
                "long_name": text,
                "cell_methods": "time: mean area: mean",
                "ancillary_variables": f"{error} provisional",
                "coverage_content_type": "modelResult",
                **attrs,
            },
        )

    def deviation(text: str, attrs: Mapping[str, Any], *layers: int) -> Variable:
        return Variable(
            ("time", *(("depth",) if layers else ()), "y", "x"),
            "float32",
            shards=(stretch, *layers, cells, cells),
            chunks=(stretch, *layers, edge, edge),
            packing=DEVIATION,
            attrs={
                "units": "m3 m-3",
                "standard_name": MOISTURE_ERROR_NAME,
                "long_name": f"standard deviation of the error of the {text}",
                "coverage_content_type": "qualityInformation",
                **attrs,
            },
        )

    whole = {"coordinates": "root_zone_depth"}
    made = Template(
        sizes={"time": year.length, "bnds": 2, "depth": count, "y": grid.rows, "x": grid.columns},
        variables={
            **space_time_coordinates(grid, year.days),
            **_depth_coordinates(LAYERS),
            **_root_zone(),
            "provisional": _provisional(provisional),
            "soil_moisture": moisture("mean soil moisture of the layer", "standard_deviation", {}, count),
            "standard_deviation": deviation("layer's mean", {}, count),
            "root_zone_soil_moisture": moisture("mean soil moisture from 0 to 1 m", "root_zone_standard_deviation", whole),
            "root_zone_standard_deviation": deviation("mean from 0 to 1 m", whole),
        },
        attrs={**grid_attributes(grid), "coordinates": "lat lon root_zone_depth", "block_dims": ["time", "y", "x"]},
    )
    summary = "Means of layers and of the root zone and their standard deviations, for tools that know nothing of polynomials."
    return public(placed(made, grid), year, "layers", summary, products, in_time=True)


def inputs(year: Domain, provisional: NDArray[np.bool_], stretch: int, layout: Layout) -> Template:
    """The observations of a year as they entered the profiles, on their grid."""
    grid, cells, edge, count = year.grid, year.blocks.cells, _edge(year), layout.size
    made = Template(
        sizes={"time": year.length, "bnds": 2, OBSERVATION: count, "y": grid.rows, "x": grid.columns},
        variables={
            **space_time_coordinates(grid, year.days),
            **layer_coordinates(layout.top, layout.bottom, OBSERVATION),
            "product_index": Variable(
                (OBSERVATION,),
                "int8",
                values=layout.product_index.astype(np.int8),
                attrs={
                    "long_name": "product",
                    "flag_values": list(range(len(layout.products))),
                    "flag_meanings": " ".join(layout.products),
                },
            ),
            "provisional": _provisional(provisional),
            "soil_moisture": Variable(
                (OBSERVATION, "time", "y", "x"),
                "float32",
                shards=(count, stretch, cells, cells),
                chunks=(count, stretch, edge, edge),
                packing=MOISTURE,
                attrs={
                    "units": "m3 m-3",
                    "coordinates": "layer_top layer_bottom product_index",
                    "standard_name": MOISTURE_NAME,
                    "long_name": "soil moisture of the layer as the product has it, on the grid of the profiles",
                    "cell_methods": "time: mean area: mean",
                    "comment": "products whose name ends in _memory are exponential filters of what that product said before",
                    "ancillary_variables": "provisional",
                    "coverage_content_type": "modelResult",
                },
            ),
        },
        attrs={
            **grid_attributes(grid),
            "products": list(layout.products),
            "coordinates": "lat lon layer_top layer_bottom product_index",
            "block_dims": ["time", "y", "x"],
        },
    )
    summary = "The observations from which profiles were made, layer by layer; the store 'weights' has their error variances."
    return public(placed(made, grid), year, "inputs", summary, layout.products, in_time=True)


def climatology(domain: Domain, years: Sequence[str], products: Sequence[str]) -> Template:
    """Quantiles of two layers by pentad, over whole years."""
    grid, cells, edge = domain.grid, domain.blocks.cells, _edge(domain)
    shared, numbers = (len(USUAL_LAYERS), len(QUANTILES)), np.arange(PENTADS, dtype=np.int16)
    shards = -(-PENTADS // PENTADS_IN_CHUNK) * PENTADS_IN_CHUNK
    made = Template(
        sizes={
            "bnds": 2,
            "depth": shared[0],
            "pentad": PENTADS,
            "quantile": shared[1],
            "y": grid.rows,
            "x": grid.columns,
        },
        variables={
            **space_time_coordinates(grid, None),
            **_depth_coordinates(USUAL_LAYERS),
            "pentad": Variable(
                ("pentad",),
                "int16",
                values=numbers,
                attrs={"long_name": f"stretch of {DAYS_IN_PENTAD} days in a year of {PENTADS * DAYS_IN_PENTAD} days, from 0"},
            ),
            "day_of_year": Variable(
                ("pentad",),
                "int16",
                values=(numbers * DAYS_IN_PENTAD + DAYS_IN_PENTAD // 2 + 1).astype(np.int16),
                attrs={"long_name": "day in the middle of the pentad, in a year without 29 February, from 1"},
            ),
            "quantile": Variable(
                ("quantile",), "float64", values=np.array(QUANTILES), attrs={"units": "1", "long_name": "probability"}
            ),
            "soil_moisture": Variable(
                ("pentad", "quantile", "depth", "y", "x"),
                "float32",
                shards=(shards, shared[1], 1, cells, cells),
                chunks=(PENTADS_IN_CHUNK, shared[1], 1, edge, edge),
                packing=MOISTURE,
                attrs={
                    "units": "m3 m-3",
                    "standard_name": MOISTURE_NAME,
                    "long_name": "quantiles of the daily mean soil moisture of the layer",
                    "comment": f"of the {2 * HALF_WINDOW + 1} days around the middle of each pentad, of all years",
                    "coverage_content_type": "referenceInformation",
                },
            ),
        },
        attrs={
            **grid_attributes(grid),
            "base_period": [years[0], years[-1]],
            "coordinates": "lat lon day_of_year",
            "block_dims": ["y", "x"],
        },
    )
    summary = f"What soil moisture usually is at a time of the year: quantiles of the years {years[0]} to {years[-1]}."
    return public(placed(made, grid), domain, "climatology", summary, products)


def maps(year: Domain, levels: Mapping[str, Grid], one: xr.Dataset, products: Sequence[str]) -> Template:
    """Maps of each day of a year at several levels of detail; ``one``: a profile of one cell and day."""
    degrees, days = one.sizes["degree"], space_time_coordinates(year.grid, year.days)
    sizes: dict[str, int] = {"time": year.length, "bnds": 2, "degree": degrees}
    variables = {name: variable for name, variable in days.items() if variable.dims[:1] == ("time",)}
    groups: dict[str, Mapping[str, Any]] = {}
    source = {
        "long_name": "products that at least half of the profiles in the cell were made from",
        "flag_masks": [1 << k for k in range(len(products))],
        "flag_meanings": " ".join(products),
        "standard_name": "status_flag",
    }
    planes: dict[str, dict[str, Any]] = {
        "deviation": {
            "units": "m3 m-3",
            "standard_name": MOISTURE_ERROR_NAME,
            "long_name": "standard deviation of the mean from 0 to 1 m; in coarser cells the mean of those in it",
            "coverage_content_type": "qualityInformation",
        },
        "percentile": {
            "units": "percent",
            "long_name": "percentile of the mean from 0 to 1 m in the climatology of the time of the year",
            "coverage_content_type": "modelResult",
        },
        "source": source,
    }
    packings = {"deviation": MAP_DEVIATION, "percentile": MAP_PERCENTILE}
    for name, grid in levels.items():
        chunk = min(MAP_CHUNK[0], grid.rows), min(MAP_CHUNK[1], grid.columns)
        shard = tuple(c * min(s, -(-n // c)) for c, s, n in zip(chunk, MAP_SHARD, grid.shape, strict=True))
        # Of the coarsest each chunk is an object: it is there with one request.
        whole = name == list(levels)[-1]
        sizes |= {f"{name}/y": grid.rows, f"{name}/x": grid.columns}
        own = {**space_time_coordinates(grid, year.days)}
        own["coefficients"] = Variable(
            ("time", "degree", "y", "x"),
            "float32",
            shards=None if whole else (1, degrees, *shard),
            chunks=(1, degrees, *chunk),
            packing=MAP_COEFFICIENTS,
            separator=MAP_SEPARATOR,
            attrs={
                **one["coefficients"].attrs,
                "comment": f"{FORMULA}; in coarser cells the mean over those in it",
                "ancillary_variables": "deviation percentile source",
                "cell_methods": "time: mean area: mean",
                "coverage_content_type": "modelResult",
            },
        )
        for plane, attrs in planes.items():
            own[plane] = Variable(
                ("time", "y", "x"),
                "float32" if plane in packings else "uint8",
                shards=None if whole else (1, *shard),
                chunks=(1, *chunk),
                fill=None if plane in packings else 0,
                packing=packings.get(plane),
                separator=MAP_SEPARATOR,
                attrs=attrs,
            )
        variables |= {f"{name}/{key}": variable for key, variable in on_grid(own).items()}
        groups[name] = {
            **grid_attributes(grid),
            **geozarr_attributes(grid),
            "coordinates": f"lat lon {GRID_MAPPING} {TIME_BOUNDS}",
        }
    made = Template(
        sizes=sizes,
        variables=variables,
        attrs={
            **grid_attributes(year.grid),
            **geozarr_attributes(year.grid),
            **multiscale_attributes(levels),
            "levels": list(levels),
            "block_dims": ["time"],
        },
        groups=groups,
    )
    summary = "The same as maps, a day at a time, at several levels of detail, with what helps to judge them."
    return public(made, year, "maps", summary, products, in_time=True)
