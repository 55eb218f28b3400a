"""What the stores look like: their arrays, attributes, shards and chunks, apart from what is computed.

A test holds each of them against a file (tests/stages/schemas): a change of a structure shows in a diff.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import xarray as xr

from deepprofile.config import Ingest
from deepprofile.core.collocation import MOMENTS
from deepprofile.core.factors import entry_places
from deepprofile.core.layers import OBSERVATION, Layout
from deepprofile.evaluation.metrics import COMPARED, METRICS
from deepprofile.evaluation.representativeness import INTERVALS, LEVELS, Variances
from deepprofile.grids.grids import Grid
from deepprofile.sources.products import PRODUCTS, Layer, Product
from deepprofile.stages.attributes import (
    BOUNDS_OF_COORDINATES,
    GRID_MAPPING,
    MOISTURE_NAME,
    description,
    extent,
    geozarr_attributes,
    grid_attributes,
    layer_coordinates,
    on_grid,
    space_time_coordinates,
    time_coordinates,
)
from deepprofile.stages.domain import Domain
from deepprofile.storage.packing import Packing
from deepprofile.storage.stores import Template, Variable

# Steps of 6e-5 m3 m-3, far below what any product resolves; 16 bits hold all that readers let pass (-0.5 to 1.5).
MOISTURE: Final = Packing("int16", 2.0**-14)
# Six coefficients, each off by half of this at most, move theta by less than 1e-4. Of all polynomials of order 5 that stay
# between 0 and 1, the greatest coefficient is 1.016 (that of the Chebyshev polynomial): 16 bits hold up to 1.048.
COEFFICIENTS: Final = Packing("int16", 3.2e-5)
# Higher orders have greater coefficients, and more of them.
COEFFICIENTS_OF_HIGH_ORDER: Final = Packing("int32", 2.0**-20)
HIGH_ORDER: Final = 6
# Entries of Cholesky factors: rounding moves standard deviations by less than 1e-5.
FACTOR_SCALE: Final = 2.0**-18
# Of prior standard deviations, which posterior ones stay below, but for what the gain does not know of the errors.
FACTOR_MARGIN: Final = 1.15
# Arrays along time.
PROFILE_IN_TIME: Final[dict[str, tuple[str, ...]]] = {
    # Coefficient by coefficient: numbers of one size compress best beside each other.
    "coefficients": ("degree", "time", "y", "x"),
    "flags": ("time", "y", "x"),
    "pattern": ("time", "y", "x"),
}
# What the coefficients mean.
FORMULA: Final = (
    "theta(z) = sum over k of coefficient k times P_k(2 z - 1), with the depth z from 0 to 1 m and Legendre polynomials P_k; "
    "the mean between two depths is the integral of theta over them, divided by their distance"
)
_OF_MODEL: Final = {"coverage_content_type": "modelResult"}
_OF_QUALITY: Final = {"coverage_content_type": "qualityInformation"}
_OF_REFERENCE: Final = {"coverage_content_type": "referenceInformation"}
# Arrays along observation: type, fill, unit and what they are.
ERROR_MODEL: Final[dict[str, tuple[str, float | int, str, str]]] = {
    "error_variance": ("float32", float("nan"), "m6 m-6", "random error variance"),
    "bias_variance": ("float32", float("nan"), "m6 m-6", "mean-square bias"),
    "mean": ("float32", float("nan"), "m3 m-3", "time mean"),
    "reference_mean": ("float32", float("nan"), "m3 m-3", "time mean over the days of the other products"),
    "variance": ("float32", float("nan"), "m6 m-6", "variance in time"),
    "fmse": ("float32", float("nan"), "1", "1 - r_squared"),
    "r_squared": ("float32", float("nan"), "1", "squared correlation with the truth, by triple collocation"),
    "n_samples": ("int32", 0, "1", "days of the largest triplet"),
    "status": ("int8", 3, "1", "where the estimate comes from"),
}
BOUNDS: Final = ("lower_bound", "upper_bound")
# Sensors in a shard of stores along time and sensors: some hundred stations with five depths, so that few shards of the
# profiles are read for two blocks.
SENSORS_PER_STRETCH: Final = 512
# Sensors in a shard of stores along sensors alone, of which a block has the whole record.
SENSORS_PER_BLOCK: Final = 128
# Sensors in a chunk: so many series are in memory at a time where whole records are scored.
SENSORS_PER_CHUNK: Final = 16
# What stores along sensors say of each: type, and where it comes from in the dataset of stations.
SENSOR_COORDINATES: Final = {
    "depth_top": "float64",
    "depth_bottom": "float64",
    "latitude": "float64",
    "longitude": "float64",
    "day_offset_hours": "float64",
    "row": "int32",
    "column": "int32",
}
# Attributes that name each sensor, by the variable of the dataset.
SENSOR_NAMES: Final = {
    "network": "networks",
    "station": "stations",
    "instrument": "instruments",
    "climate": "climates",
    "land_cover": "land_covers",
}

_SQUARE: Final = "m6 m-6"
# Arrays of the differences: unit and what they are.
DIFFERENCES: Final = {
    "days": ("1", "days with both the fused estimate and the sensor"),
    "effective_days": ("1", "independent days that are worth as much"),
    "mean": ("m3 m-3", "time mean of the fused estimate less that of the sensor"),
    "mean_square": (_SQUARE, "mean square of the differences"),
    "anomaly_square": (_SQUARE, "mean square of the differences about their time mean"),
    "variance": (_SQUARE, "mean posterior variance of the fused estimate"),
}


def placed(template: Template, grid: Grid) -> Template:
    """The same with what CF and GeoZarr say of its arrays on a grid."""
    attrs = {**geozarr_attributes(grid), **template.attrs}
    # What xarray makes coordinates of by itself.
    belonging = [name for name in (GRID_MAPPING, *BOUNDS_OF_COORDINATES) if name in template.variables]
    attrs["coordinates"] = " ".join([str(attrs.get("coordinates", "lat lon")), *belonging])
    return replace(template, variables=on_grid(template.variables), attrs=attrs)


def public(
    template: Template, domain: Domain, title: str, summary: str, products: Sequence[str], *, in_time: bool = False
) -> Template:
    """The same with the description of the data set: for stores that strangers read."""
    said = description(
        domain.dataset, domain.grid, domain.days if in_time else None, title=title, summary=summary, products=products
    )
    if "sensor" in template.sizes:
        lat, lon = (template.variables[name].values for name in ("latitude", "longitude"))
        assert lat is not None
        assert lon is not None
        said |= {"cdm_data_type": "Station", **(extent(lat, lon) if lat.size else {})}
        del said["geospatial_lat_resolution"], said["geospatial_lon_resolution"]
    return replace(template, attrs={k: v for k, v in template.attrs.items() if k not in said}, description=said)


def analysis_ready(domain: Domain, product: Product, settings: Ingest) -> Template:
    """Daily means of a product, on its own grid and layers."""
    grid, days = domain.grid, domain.days
    count = len(product.layers)
    made = Template(
        sizes={"time": days.size, "bnds": 2, "layer": count, "y": grid.rows, "x": grid.columns},
        variables={
            **space_time_coordinates(grid, days),
            **layer_coordinates(
                np.array([layer.top_m for layer in product.layers]),
                np.array([layer.bottom_m for layer in product.layers]),
                "layer",
            ),
            "steps": Variable(
                ("time",),
                "uint8",
                shards=(settings.days,),
                chunks=(settings.days,),
                fill=0,
                attrs={"long_name": "time steps that were there", "steps_per_day": product.steps_per_day},
            ),
            "provisional": Variable(
                ("time",),
                "uint8",
                shards=(settings.days,),
                chunks=(settings.days,),
                fill=0,
                attrs={
                    "long_name": "whether the provider will replace values of the day",
                    "flag_values": [0, 1],
                    "flag_meanings": "final provisional",
                },
            ),
            "soil_moisture": Variable(
                ("time", "layer", "y", "x"),
                "float32",
                shards=(settings.days, count, settings.cells, settings.cells),
                chunks=(settings.days, count, settings.chunk_cells, settings.chunk_cells),
                packing=MOISTURE,
                attrs={
                    "units": "m3 m-3",
                    "standard_name": MOISTURE_NAME,
                    "long_name": "daily mean volumetric soil moisture",
                    "cell_methods": "time: mean",
                },
            ),
        },
        attrs={
            **grid_attributes(grid),
            "title": f"{product.title}: daily means",
            "product": product.name,
            "min_day_fraction": settings.min_day_fraction,
            "coordinates": "lat lon layer_top layer_bottom",
            "block_dims": ["time", "y", "x"],
        },
    )
    return placed(made, grid)


def _part(cells: int) -> tuple[int, int]:
    """Rows and columns of a chunk of what blocks read with the cells around them, and nobody cell by cell."""
    edge = cells // 4 if cells % 4 == 0 else cells
    return edge, edge


def moments(domain: Domain, groups: int) -> Template:
    """The store of the moments."""
    grid, blocks = domain.grid, domain.blocks
    made = Template(
        sizes={"y": grid.rows, "x": grid.columns, "group": groups, "moment": MOMENTS},
        variables={
            **space_time_coordinates(grid, None),
            "moments": Variable(
                ("y", "x", "group", "moment"),
                "float64",
                shards=(blocks.cells, blocks.cells, groups, MOMENTS),
                chunks=(*_part(blocks.cells), groups, MOMENTS),
                fill=0.0,
                attrs={"long_name": "counts, means and co-moments of triplets and pairs of series"},
            ),
        },
        attrs={**grid_attributes(grid), "title": "Moments of triple collocation", "block_dims": ["y", "x"]},
    )
    return placed(made, grid)


def weights(domain: Domain, layout: Layout, algorithms: Sequence[int], settings: Mapping[str, Any]) -> Template:
    """The error model of the observations of a layout; ``settings``: attributes that say how it was made."""
    grid, blocks, n = domain.grid, domain.blocks, layout.size
    shards, chunks = (blocks.cells, blocks.cells), _part(blocks.cells)
    variables = {
        name: Variable(
            (OBSERVATION, "y", "x"),
            dtype,
            shards=(n, *shards),
            chunks=(n, *chunks),
            fill=fill,
            attrs={"units": unit, "long_name": text, **_OF_QUALITY}
            | (
                {"flag_values": [0, 1, 2, 3], "flag_meanings": "triple_collocation neighbours typical_ratio no_data"}
                if name == "status"
                else {}
            ),
        )
        for name, (dtype, fill, unit, text) in ERROR_MODEL.items()
    }
    made = Template(
        sizes={OBSERVATION: n, "y": grid.rows, "x": grid.columns},
        variables={
            **space_time_coordinates(grid, None),
            **variables,
            **layer_coordinates(layout.top, layout.bottom, OBSERVATION),
            "product_index": Variable(
                (OBSERVATION,),
                "int8",
                values=layout.product_index.astype(np.int8),
                attrs={"products": list(layout.products), "long_name": "place of the product in the attribute 'products'"},
            ),
        },
        attrs={
            **grid_attributes(grid),
            "title": "Error model of each layer of each product",
            "products": list(layout.products),
            # After an upgrade that changes any of them, the error model is made anew at once: see `collocate.is_due`.
            "algorithms": list(algorithms),
            "coordinates": "lat lon layer_top layer_bottom product_index",
            "block_dims": ["y", "x"],
            **settings,
        },
    )
    return public(
        placed(made, grid),
        domain,
        "weights",
        "Error model of each layer of each product in each cell: the variances by which observations are weighted.",
        layout.products,
    )


def bounds(domain: Domain) -> Template:
    """The bounds of soil moisture in each cell."""
    grid, blocks = domain.grid, domain.blocks
    made = Template(
        sizes={"y": grid.rows, "x": grid.columns},
        variables={
            **space_time_coordinates(grid, None),
            **{
                name: Variable(
                    ("y", "x"),
                    "float32",
                    shards=(blocks.cells, blocks.cells),
                    chunks=_part(blocks.cells),
                    fill=float("nan"),
                    attrs={"units": "m3 m-3", "long_name": f"{word} soil moisture; NaN where there is no soil"},
                )
                for name, word in zip(BOUNDS, ("least", "greatest"), strict=True)
            },
        },
        attrs={**grid_attributes(grid), "title": "Bounds of soil moisture", "block_dims": ["y", "x"]},
    )
    return placed(made, grid)


def smallest_unsigned(greatest: int) -> str:
    """The smallest type that holds whole numbers up to this one."""
    return np.min_scalar_type(greatest).name


# What coordinates that come with a profile are.
_TEXTS: Final = {
    "degree": "degree of the Legendre polynomial",
    "observed": "whether the observation is there in this pattern",
    "observation_product": "place of the product in the attribute 'products'",
    "layer_top": "depth of the upper side of the layer",
    "layer_bottom": "depth of the lower side of the layer",
}


def _coordinates(one: xr.Dataset, names: Sequence[str]) -> dict[str, Variable]:
    """Coordinates that are known before anything is computed."""
    variables = {}
    for name in names:
        coordinate = one[name]
        # No wider than they have to be: in browsers 64 bits are a type of its own.
        values = coordinate.values.astype(np.int32) if coordinate.dtype.kind == "i" else coordinate.values
        attrs = {**coordinate.attrs, "long_name": _TEXTS[name]}
        variables[name] = Variable(tuple(map(str, coordinate.dims)), values.dtype.name, values=values, attrs=attrs)
    return variables


def profile(domain: Domain, one: xr.Dataset) -> Template:
    """The profiles, with the arrays and attributes of ``one``, a profile of one cell and day."""
    grid, days, blocks = domain.grid, domain.days, domain.blocks
    degrees, patterns = one.sizes["degree"], one.sizes["availability"]
    cells, chunk = (blocks.cells, blocks.cells), (blocks.chunk_cells, blocks.chunk_cells)
    variables = space_time_coordinates(grid, days)
    variables["coefficients"] = Variable(
        PROFILE_IN_TIME["coefficients"],
        "float32",
        shards=(degrees, blocks.days, *cells),
        chunks=(degrees, blocks.days_in_chunk, *chunk),
        packing=COEFFICIENTS if degrees <= HIGH_ORDER else COEFFICIENTS_OF_HIGH_ORDER,
        attrs={**one["coefficients"].attrs, "comment": FORMULA, "ancillary_variables": "flags pattern", **_OF_MODEL},
    )
    said = {"flags": {"standard_name": "status_flag"}, "pattern": {"comment": "place in the covariance store", **_OF_QUALITY}}
    greatest = {"flags": sum(one["flags"].attrs["flag_masks"]), "pattern": patterns - 1}
    for name, value in greatest.items():
        variables[name] = Variable(
            ("time", "y", "x"),
            smallest_unsigned(value),
            shards=(blocks.days, *cells),
            chunks=(blocks.days_in_chunk, *chunk),
            fill=0,
            attrs={**one[name].attrs, **said[name]},
        )
    kept = ("degree", "observed", "observation_product", "layer_top", "layer_bottom")
    made = Template(
        sizes={
            "time": days.size,
            "bnds": 2,
            "degree": degrees,
            "availability": patterns,
            "y": grid.rows,
            "x": grid.columns,
            OBSERVATION: one.sizes[OBSERVATION],
        },
        variables=variables | _coordinates(one, kept),
        attrs={
            **one.attrs,
            **grid_attributes(grid),
            "title": "Soil-moisture profiles, 0 to 1 m",
            "coordinates": "lat lon observed observation_product layer_top layer_bottom",
            "block_dims": ["time", "y", "x"],
        },
    )
    return public(
        placed(made, grid),
        domain,
        "profiles",
        "Coefficients of a polynomial in depth for each cell and day; the mean over a layer is that of the polynomial.",
        one.attrs["products"],
        in_time=True,
    )


def covariance(domain: Domain, one: xr.Dataset, prior_deviation: float) -> Template:
    """What of the profiles does not depend on time, with the attributes of ``one``, a profile of one cell and day.

    ``prior_deviation``: the greatest standard deviation of a coefficient under the prior, m3 m-3; infinite without one.
    """
    grid, blocks = domain.grid, domain.blocks
    cells, chunk = (blocks.cells, blocks.cells), (blocks.chunk_cells, blocks.chunk_cells)
    patterns, degrees = one.sizes["availability"], one.sizes["degree"]
    rows, columns = entry_places(degrees)
    narrow = Packing("int16", FACTOR_SCALE)
    fits = FACTOR_MARGIN * prior_deviation < narrow.limits[1]
    variables = {
        **space_time_coordinates(grid, None),
        "covariance_factor": Variable(
            ("y", "x", "availability", "entry"),
            "float32",
            shards=(*cells, patterns, rows.size),
            chunks=(*chunk, patterns, rows.size),
            packing=narrow if fits else Packing("int32", FACTOR_SCALE),
            attrs={
                "units": "m3 m-3",
                "long_name": "entries of the lower Cholesky factors of the posterior covariances of the coefficients",
                **_OF_QUALITY,
            },
        ),
        "prior_mean": Variable(
            ("y", "x"),
            "float32",
            shards=cells,
            chunks=chunk,
            packing=MOISTURE,
            attrs={
                "units": "m3 m-3",
                "long_name": "mean that is expected before any data",
                **_OF_REFERENCE,
                **one["prior_mean"].attrs,
            },
        ),
        "entry_row": Variable(("entry",), "uint8", values=rows.astype(np.uint8), attrs={"long_name": "degree of the row"}),
        "entry_column": Variable(
            ("entry",), "uint8", values=columns.astype(np.uint8), attrs={"long_name": "degree of the column"}
        ),
    }
    for name, word in zip(BOUNDS, ("least", "greatest"), strict=True):
        said = {
            "units": "m3 m-3",
            "long_name": f"{word} soil moisture that a profile can have",
            **_OF_REFERENCE,
            **one[name].attrs,
        }
        variables[name] = Variable(("y", "x"), "float32", shards=cells, chunks=chunk, fill=float("nan"), attrs=said)
    made = Template(
        sizes={
            "y": grid.rows,
            "x": grid.columns,
            "availability": patterns,
            "entry": rows.size,
            OBSERVATION: one.sizes[OBSERVATION],
        },
        variables=variables | _coordinates(one, ("observed", "observation_product", "layer_top", "layer_bottom")),
        attrs={
            **one.attrs,
            **grid_attributes(grid),
            "title": "Uncertainty of the profiles, which does not depend on time",
            "coordinates": "lat lon observed observation_product layer_top layer_bottom entry_row entry_column",
            "block_dims": ["y", "x"],
        },
    )
    return public(
        placed(made, grid),
        domain,
        "uncertainty",
        "Covariances of the coefficients of profiles by the observations that were there, which do not depend on time.",
        one.attrs["products"],
    )


def sensor_coordinates(stations: xr.Dataset) -> dict[str, Variable]:
    """Coordinates that every store along sensors has."""
    return {
        name: Variable(("sensor",), dtype, values=stations[name].values.astype(dtype), attrs=stations[name].attrs)
        for name, dtype in SENSOR_COORDINATES.items()
    }


def sensor_attributes(grid: Grid, stations: xr.Dataset) -> dict[str, Any]:
    """Attributes that every store along sensors has: the grid, and the names of each sensor."""
    return {
        **grid_attributes(grid),
        **{plural: stations[name].values.astype(str).tolist() for name, plural in SENSOR_NAMES.items()},
        "coordinates": " ".join(SENSOR_COORDINATES),
    }


def observations(domain: Domain, stations: xr.Dataset) -> Template:
    """Daily series of sensors, as measured."""
    days, blocks = domain.days, domain.blocks
    times = time_coordinates(days)
    return Template(
        sizes={"time": days.size, "bnds": 2, "sensor": stations.sizes["sensor"]},
        variables={
            **times,
            **sensor_coordinates(stations),
            "soil_moisture": Variable(
                ("time", "sensor"),
                "float32",
                shards=(blocks.days, SENSORS_PER_STRETCH),
                chunks=(blocks.days, SENSORS_PER_CHUNK),
                fill=float("nan"),
                attrs={"units": "m3 m-3", "long_name": "daily mean soil moisture, as measured"},
            ),
        },
        attrs={
            **sensor_attributes(domain.grid, stations),
            "title": "Observations: daily series of sensors",
            "block_dims": ["time", "sensor"],
        },
    )


def matchups(domain: Domain, names: Sequence[str], stations: xr.Dataset) -> Template:
    """What estimates of these names say at sensors, day by day."""
    count, days, blocks = stations.sizes["sensor"], domain.days, domain.blocks
    times = time_coordinates(days)
    return Template(
        sizes={"time": days.size, "bnds": 2, "estimate": len(names), "sensor": count},
        variables={
            **times,
            **sensor_coordinates(stations),
            "soil_moisture": Variable(
                ("time", "estimate", "sensor"),
                "float32",
                shards=(blocks.days, len(names), SENSORS_PER_STRETCH),
                chunks=(blocks.days, len(names), SENSORS_PER_CHUNK),
                fill=float("nan"),
                attrs={"units": "m3 m-3", "long_name": "what each estimate says at the sensor's depths"},
            ),
            "standard_deviation": Variable(
                ("time", "sensor"),
                "float32",
                shards=(blocks.days, SENSORS_PER_STRETCH),
                chunks=(blocks.days, SENSORS_PER_CHUNK),
                fill=float("nan"),
                attrs={"units": "m3 m-3", "long_name": "standard deviation of the fused estimate at the sensor's depths"},
            ),
        },
        attrs={
            **sensor_attributes(domain.grid, stations),
            "title": "Matchups: estimates at stations",
            "estimates": list(names),
            "block_dims": ["time", "sensor"],
        },
    )


def _of_sensor(dims: tuple[str, ...], sizes: tuple[int, ...], unit: str, text: str) -> Variable:
    """An array that blocks of sensors write, sensors last."""
    shape = (*sizes, SENSORS_PER_BLOCK)
    attrs = {"units": unit, "long_name": text, **_OF_QUALITY}
    return Variable((*dims, "sensor"), "float64", shards=shape, chunks=shape, fill=float("nan"), attrs=attrs)


def differences(grid: Grid, stations: xr.Dataset) -> Template:
    """The store of the moments of differences before anything is computed."""
    return Template(
        sizes={"sensor": stations.sizes["sensor"]},
        variables={
            **sensor_coordinates(stations),
            **{name: _of_sensor((), (), unit, text) for name, (unit, text) in DIFFERENCES.items()},
        },
        attrs={
            **sensor_attributes(grid, stations),
            "title": "Differences between the fused estimate and sensors",
            "block_dims": ["sensor"],
        },
    )


def validation(domain: Domain, names: Sequence[str], stations: xr.Dataset, variances: Variances | None = None) -> Template:
    """The store before anything is computed.

    ``names``: of the estimates; ``variances``: of representativeness, of each sensor.
    """
    count = stations.sizes["sensor"]
    metrics = {
        metric: Variable(
            ("estimate", "sensor", "bound"),
            "float64",
            shards=(len(names), SENSORS_PER_BLOCK, 3),
            chunks=(len(names), SENSORS_PER_BLOCK, 3),
            fill=float("nan"),
            attrs={
                "units": "1" if metric in ("n", "r") else "m3 m-3",
                "long_name": f"{metric}: value, and its 95 % interval",
                **_OF_QUALITY,
            },
        )
        for metric in METRICS
    }
    unknown = np.full(count, np.nan)
    constant, varying = (unknown, unknown) if variances is None else variances
    static = {
        "representativeness_constant": (constant, "variance of what stays the same between the sensor and its cell"),
        "representativeness_varying": (varying, "variance of what changes from day to day between the sensor and its cell"),
    }
    made = Template(
        sizes={"estimate": len(names), "sensor": count, "bound": 3, "interval": len(INTERVALS), "level": len(LEVELS)},
        variables={
            **metrics,
            "n_effective": _of_sensor(("estimate",), (len(names),), "1", "independent days that are worth as much as n"),
            "coverage": _of_sensor(
                ("interval", "level"),
                (len(INTERVALS), len(LEVELS)),
                "1",
                "share of days on which the sensor lies inside the interval of the fused estimate",
            ),
            "level": Variable(("level",), "float64", values=np.array(LEVELS), attrs={"units": "1", "long_name": "probability"}),
            **sensor_coordinates(stations),
            **{
                name: Variable(
                    ("sensor",), "float64", values=values, attrs={"units": _SQUARE, "long_name": text, **_OF_QUALITY}
                )
                for name, (values, text) in static.items()
            },
        },
        attrs={
            **sensor_attributes(domain.grid, stations),
            "title": "Scores at stations",
            "estimates": list(names),
            "intervals": list(INTERVALS),
            "block_dims": ["sensor"],
        },
    )
    products = [name for name in names if name in PRODUCTS]
    return public(
        made, domain, "scores at stations", "How well profiles and products agree with sensors in the soil.", products
    )


def rival(domain: Domain, name: str, layers: Sequence[Layer], stations: xr.Dataset) -> Template:
    """Daily means of a rival in the cells that sensors lie in."""
    days, blocks, count = domain.days, domain.blocks, stations.sizes["sensor"]
    times = time_coordinates(days)
    return Template(
        sizes={"time": days.size, "bnds": 2, "layer": len(layers), "sensor": count},
        variables={
            **times,
            **sensor_coordinates(stations),
            **layer_coordinates(np.array([a.top_m for a in layers]), np.array([a.bottom_m for a in layers]), "layer"),
            "soil_moisture": Variable(
                ("time", "layer", "sensor"),
                "float32",
                shards=(blocks.days, len(layers), SENSORS_PER_STRETCH),
                chunks=(blocks.days, len(layers), SENSORS_PER_CHUNK),
                fill=float("nan"),
                attrs={
                    "units": "m3 m-3",
                    "long_name": "daily mean in the cell that the sensor lies in",
                    "cell_methods": "time: mean",
                },
            ),
            "steps": Variable(
                ("time",),
                "uint16",
                shards=(blocks.days,),
                chunks=(blocks.days,),
                fill=0,
                attrs={"long_name": "time steps that were there"},
            ),
        },
        attrs={
            **sensor_attributes(domain.grid, stations),
            "title": f"{name} at stations: daily means",
            "rival": name,
            "block_dims": ["time"],
        },
    )


def comparison(domain: Domain, names: Sequence[str], stations: xr.Dataset) -> Template:
    """The store of the paired differences from rivals of these names before anything is computed."""
    count = stations.sizes["sensor"]

    def of_sensor(unit: str, text: str, *more: int) -> Variable:
        shape = (len(names), SENSORS_PER_BLOCK, *more)
        dims = ("rival", "sensor", *(("bound",) if more else ()))
        attrs = {"units": unit, "long_name": text, **_OF_QUALITY}
        return Variable(dims, "float64", shards=shape, chunks=shape, fill=float("nan"), attrs=attrs)

    variables = {
        "n": of_sensor("1", "days that the sensor, the fused estimate and the rival have"),
        "n_effective": of_sensor("1", "independent days that are worth as much as n"),
    }
    for metric, sign in COMPARED.items():
        unit, better = "1" if metric == "r" else "m3 m-3", "below" if sign < 0.0 else "above"
        sizes = " of the sizes" if metric == "bias" else ""
        variables |= {
            f"{metric}_fused": of_sensor(unit, f"{metric} of the fused estimate"),
            f"{metric}_rival": of_sensor(unit, f"{metric} of the rival"),
            f"{metric}_difference": of_sensor(
                unit,
                f"{metric}: difference{sizes}, fused less rival, and its 95 % interval; {better} 0 is in favour of fused",
                3,
            ),
        }
    made = Template(
        sizes={"rival": len(names), "sensor": count, "bound": 3},
        variables=variables | sensor_coordinates(stations),
        attrs={
            **sensor_attributes(domain.grid, stations),
            "title": "Scores of rivals beside the fused estimate, on identical days",
            "rivals": list(names),
            "block_dims": ["sensor"],
        },
    )
    return public(made, domain, "comparison", "Other gridded products beside the profiles, at the same sensors.", names)
