"""Products as they are handed in, checked and brought to one list of observations.

An observation is one layer of one product: the mean of theta(z) between ``layer_top`` and ``layer_bottom``. The list runs
through the products in the order given and through the layers of each.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from deepprofile.core.basis import MAX_DEPTH_M
from deepprofile.core.fills import beyond_soil_moisture

Array = NDArray[np.float64]

OBSERVATION = "observation"
# The pattern of what is available is one bit an observation in a signed 64-bit integer.
MAX_OBSERVATIONS = 62


@dataclass(frozen=True)
class Layout:
    """Which layer of which product each observation is. Arrays have the shape (observation,).

    ``pasts``: products that tell of the past of another one, each with that one.
    """

    products: tuple[str, ...]
    product_index: NDArray[np.int64]
    top: Array
    bottom: Array
    pasts: tuple[tuple[int, int], ...] = ()

    @property
    def size(self) -> int:
        """Number of observations."""
        return self.top.size

    def coordinates(self) -> dict[str, tuple[str, object] | tuple[str, object, dict[str, str]]]:
        """Coordinates along ``observation``."""
        # Objects: text of variable length has a specification in Zarr 3, fixed length has none.
        names = np.array([self.products[i] for i in self.product_index], dtype=object)
        return {
            "product": (OBSERVATION, names),
            "layer_top": (OBSERVATION, self.top, {"units": "m"}),
            "layer_bottom": (OBSERVATION, self.bottom, {"units": "m"}),
        }

    def identities(self) -> list[tuple[str, float, float]]:
        """Product, top and bottom of each observation, to match one list of observations with another."""
        return [
            (self.products[p], round(float(a), 6), round(float(b), 6))
            for p, a, b in zip(self.product_index, self.top, self.bottom, strict=True)
        ]

    def dependent_matrix(self, dependent: Sequence[tuple[str, str]]) -> NDArray[np.bool_]:
        """Which products may not stand in one triplet, shape (product, product); a product never stands with itself."""
        out = np.eye(len(self.products), dtype=bool)
        for pair in dependent:
            if len(pair) != 2:
                raise ValueError(f"dependent has pairs of product names, not {pair!r}")
            # A pair that names a product which is not there today is no mistake: products come and go.
            if pair[0] in self.products and pair[1] in self.products:
                i, j = self.products.index(pair[0]), self.products.index(pair[1])
                out[i, j] = out[j, i] = True
        return out


@dataclass(frozen=True)
class Stack:
    """Checked products on common days: ``series[p]`` has the dimensions (*cell_dims, time, layer)."""

    layout: Layout
    series: tuple[xr.DataArray, ...]
    cell_dims: tuple[Hashable, ...]
    cell_coords: Mapping[Hashable, xr.DataArray]
    time: pd.DatetimeIndex

    @property
    def lazy(self) -> bool:
        """Whether any product is backed by dask."""
        return any(series.chunks is not None for series in self.series)

    @property
    def cell_shape(self) -> tuple[int, ...]:
        """Lengths of the cell dimensions."""
        return tuple(self.series[0].sizes[dim] for dim in self.cell_dims)

    def day_positions(self) -> list[NDArray[np.int64]]:
        """For each product, the position of every common day in its own record, or -1."""
        return [series.get_index("time").get_indexer(self.time).astype(np.int64) for series in self.series]

    def aligned(self) -> list[xr.DataArray]:
        """The series on the common days, NaN where a product has no such day."""
        return [s if s.sizes["time"] == len(self.time) else s.reindex(time=self.time) for s in self.series]


def stack_products(products: Mapping[str, xr.DataArray]) -> Stack:
    """Check products and bring them to one calendar of UTC days, without copying their values.

    Raises
    ------
    ValueError, TypeError
        With the product's name and what to do about it: no product at all, a dimension or coordinate that is missing, a
        layer that is upside down or reaches below 1 m, values that cannot be soil moisture in m3 m-3 (percent, fill values,
        infinite ones; of products that are backed by dask when they are computed), a day that comes twice, cells that differ.
    """
    if not isinstance(products, Mapping):
        raise TypeError(f"products is a mapping from a name to a DataArray, not a {type(products).__name__}")
    if not products:
        raise ValueError("products is empty: give at least one product")
    checked = [_check_product(name, series) for name, series in products.items()]
    first_name, first = next(iter(products)), checked[0]
    cell_dims = tuple(dim for dim in first.dims if dim not in ("time", "layer"))
    for name, series in zip(products, checked, strict=True):
        _check_cells(first_name, first, name, series, cell_dims)
    ordered = tuple(series.transpose(*cell_dims, "time", "layer") for series in checked)
    calendar = ordered[0].get_index("time")
    for series in ordered[1:]:
        if not calendar.equals(series.get_index("time")):
            calendar = calendar.union(series.get_index("time"))
    layout = Layout(
        tuple(str(name) for name in products),
        np.repeat(np.arange(len(ordered)), [s.sizes["layer"] for s in ordered]),
        np.concatenate([s["layer_top"].values.astype(np.float64) for s in ordered]),
        np.concatenate([s["layer_bottom"].values.astype(np.float64) for s in ordered]),
    )
    if layout.size > MAX_OBSERVATIONS:
        raise ValueError(f"{layout.size} layers in all products together; at most {MAX_OBSERVATIONS} can be combined")
    coords = {
        name: coord
        for name, coord in first.coords.items()
        if set(coord.dims) <= set(cell_dims) and not {"time", "layer"} & set(coord.dims)
    }
    return Stack(layout, ordered, cell_dims, coords, pd.DatetimeIndex(calendar))


def _check_product(name: str, series: object) -> xr.DataArray:
    if not isinstance(series, xr.DataArray):
        raise TypeError(f"product {name!r} is a {type(series).__name__}; give an xarray.DataArray")
    for dim in ("time", "layer"):
        if dim not in series.dims:
            raise ValueError(f"product {name!r} has the dimensions {series.dims}; it needs 'time' and 'layer'")
    for coord in ("layer_top", "layer_bottom"):
        if coord not in series.coords or series[coord].dims != ("layer",):
            raise ValueError(
                f"product {name!r} has no coordinate {coord!r} along 'layer': assign the depths of its layers in m, for "
                f"example da.assign_coords({coord}=('layer', [...]))"
            )
    top, bottom = series["layer_top"].values.astype(float), series["layer_bottom"].values.astype(float)
    for a, b in zip(top, bottom, strict=True):
        if not (np.isfinite(a) and np.isfinite(b)) or a < 0.0:
            raise ValueError(f"product {name!r}: the layer {a:g} to {b:g} m does not start at or below the surface")
        if b <= a:
            raise ValueError(
                f"product {name!r}: the layer {a:g} to {b:g} m has its bottom at or above its top; depths are positive "
                "downward, layer_top < layer_bottom"
            )
        if b > MAX_DEPTH_M + 1e-9:
            raise ValueError(
                f"product {name!r}: the layer {a:g} to {b:g} m reaches below 1 m, where profiles end; leave that layer out "
                "(are the depths in m?)"
            )
    if not np.issubdtype(series.dtype, np.floating):
        raise TypeError(f"product {name!r} has values of type {series.dtype}; convert them to float32 or float64")
    series = _floor_days(name, series)
    _check_units(name, series)
    return _in_range(name, series)


def _check_units(name: str, series: xr.DataArray) -> None:
    units = str(series.attrs.get("units", "")).strip().lower()
    if units in ("%", "percent", "pct", "vol%", "vol.%", "vol. %"):
        raise ValueError(f"product {name!r} is in {series.attrs['units']!r}; divide it by 100 to get m3 m-3")
    if units in ("kg m-2", "kg/m2", "kg/m^2", "kg m**-2", "mm"):
        raise ValueError(
            f"product {name!r} is in {series.attrs['units']!r}; divide each layer by 1000 x its thickness in m to get m3 m-3"
        )


def _in_range(name: str, series: xr.DataArray) -> xr.DataArray:
    """The series with all of its values checked: now, or where it is backed by dask, when it is computed."""
    if series.chunks is None:
        check_values(series.values, name=name)
        return series
    checked: xr.DataArray = xr.apply_ufunc(
        check_values, series, kwargs={"name": name}, dask="parallelized", output_dtypes=[series.dtype], keep_attrs=True
    )
    return checked


def check_values(values: NDArray[Any], *, name: str) -> NDArray[Any]:
    """Values as they are; a ValueError where they cannot be soil moisture."""
    problem = beyond_soil_moisture(values)
    if problem:
        raise ValueError(f"product {name!r} holds {problem}")
    return values


def _floor_days(name: str, series: xr.DataArray) -> xr.DataArray:
    index = series.get_index("time")
    if not isinstance(index, pd.DatetimeIndex):
        raise TypeError(f"product {name!r}: 'time' holds {index.dtype}; it has to be datetime64 (UTC)")
    days = index.floor("D")
    if days.has_duplicates:
        twice = days[days.duplicated()][0]
        raise ValueError(
            f"product {name!r} has the day {twice:%Y-%m-%d} more than once: average it to daily means first, for example "
            "da.resample(time='1D').mean()"
        )
    if not days.equals(index):
        series = series.assign_coords(time=days)
    return series if days.is_monotonic_increasing else series.sortby("time")


def _check_cells(
    first_name: str, first: xr.DataArray, name: str, series: xr.DataArray, cell_dims: tuple[Hashable, ...]
) -> None:
    others = {dim for dim in series.dims if dim not in ("time", "layer")}
    if others != set(cell_dims):
        raise ValueError(
            f"product {name!r} has the dimensions {sorted(map(str, others))} beside time and layer, {first_name!r} has "
            f"{sorted(map(str, cell_dims))}: bring all products to the same cells first"
        )
    for dim in cell_dims:
        here, there = series.sizes[dim], first.sizes[dim]
        if here != there:
            raise ValueError(f"product {name!r} has {here} cells along {dim!r}, {first_name!r} has {there}")
        if dim in series.coords and dim in first.coords and not series.get_index(dim).equals(first.get_index(dim)):
            raise ValueError(
                f"products {name!r} and {first_name!r} have different coordinates along {dim!r}: regrid them to the same cells"
            )


def overlap_weights(top: Array, bottom: Array, target_top: float, target_bottom: float) -> tuple[Array, float]:
    """Weights on the layer means of one product that give the mean of its step function between two depths.

    Layers may lie in one another, as those of SMAP Level 4 do (0-0.05 and 0-1 m): the step function is then the
    one of least norm that agrees with all of them.

    Returns
    -------
    The weights, shape (layer,), and the share of the target that the layers cover (the mean is over that share).
    """
    edges = np.unique(np.concatenate([top, bottom]))
    low, high = edges[:-1], edges[1:]
    inside = np.clip(np.minimum(bottom[:, None], high) - np.maximum(top[:, None], low), 0.0, None)
    design = inside / (bottom - top)[:, None]
    share = np.clip(np.minimum(target_bottom, high) - np.maximum(target_top, low), 0.0, None)
    share = np.where(design.sum(axis=0) > 0.0, share, 0.0)
    covered = float(share.sum() / (target_bottom - target_top))
    if covered <= 0.0:
        return np.zeros(top.size), 0.0
    weights = (share / share.sum()) @ np.linalg.pinv(design, rcond=1e-9)
    weights[np.abs(weights) < 1e-12] = 0.0
    return np.asarray(weights), covered
