"""What the past of a retrieval tells of the days after it, and of the soil below it.

A satellite sees the surface on one day of two or three; the soil remembers. Exponential filters of the retrieval (Wagner et al.
1999, doi 10.1016/S0034-4257(99)00036-X; Albergel et al. 2008, doi 10.5194/hess-12-1323-2008) are observations of deeper layers:
a weighted mean of what it said over some weeks, which follows the water that moves down. They tell of anomalies only: of the
time mean their source has spoken, and by themselves they make no profile.

A filter has no state. The value of a day is summed anew from the days of its window, in the same order: it depends neither on
where a block begins nor on what was computed before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from numba import njit
from numpy.typing import NDArray

from deepprofile.core.biases import is_retrieval
from deepprofile.core.error_model import TYPICAL, LayerErrors, labelled_errors
from deepprofile.core.layers import OBSERVATION, Layout, Stack
from deepprofile.core.prior import Prior

Direction = Literal["past", "both"]


class Filter(NamedTuple):
    """An exponential filter as an observation.

    ``days``: its e-folding time; ``window``: days that it sums; ``bottom``: m, of the layer from the surface down whose mean it
    stands for; ``apart``: variance of what that mean has beside it, over that of a day's anomalies at the surface.
    """

    days: float
    window: int
    bottom: float
    apart: float


# Chosen on the tuning half of measured profiles (python -m benchmarks.profiles --half tuning): two filters beat one (5 days,
# 0-0.2 m) by two percent at 0-5 and 30-50 cm; those of the models' surface layers lose. Weights beyond the windows are below
# .003.
FILTERS: Final = (Filter(3.0, 30, 0.1, 0.04), Filter(10.0, 60, 0.3, 0.08))
# Error variance of a filter beside ``apart``, over that of its source: most of the source's is noise of single days. Chosen
# there too; with 0.3 estimates are better by half a percent, but change 1.3 times as much where the retrieval comes or goes.
ERROR_SHARE: Final[Mapping[Direction, float]] = {"past": 0.4, "both": 0.2}
# Correlation of the errors of a filter with those of its source and of the other filter. Measured there are .83 and .51 of the
# two filters with the source and .81 between them, by which the estimate is worse by one percent.
SOURCE_CORRELATION: Final = 0.5
FILTER_CORRELATION: Final = 0.65
# Days without a value after which the past is forgotten: the satellite comes back in three; frozen ground leaves such a gap.
GAP_DAYS: Final = 7
# The slowest filter needs this sum of weights: today's value counts one.
LEAST_WEIGHT: Final = 0.5
# Cells whose series are filtered at a time: they stay in the cache.
_TILE: Final = 64
# Days that are summed once for all windows that they lie in: a divisor of the windows, and less than a gap.
_STRETCH: Final = 5


def memory_name(product: str) -> str:
    """Name under which the past of a product stands among the products."""
    return f"{product}_memory"


def reach(direction: Direction | None) -> tuple[int, int]:
    """Days before and after a day that its filters read."""
    days = max(each.window for each in FILTERS) - 1
    return (days if direction else 0), (days if direction == "both" else 0)


def remembered(layout: Layout) -> list[str]:
    """The products whose past is used: those that see the first centimetres only."""
    return [name for name, seen in zip(layout.products, is_retrieval(layout), strict=True) if seen]


def with_memory(layout: Layout) -> Layout:
    """The observations with those of the past after them.

    Raises
    ------
    ValueError
        Where a product has the name that the past of another one needs.
    """
    names = remembered(layout)
    for name in names:
        if memory_name(name) in layout.products:
            raise ValueError(f"the product {memory_name(name)!r} has the name of the past of {name!r}: call it something else")
    count = len(layout.products)
    return replace(
        layout,
        products=(*layout.products, *map(memory_name, names)),
        product_index=np.concatenate([layout.product_index, np.repeat(count + np.arange(len(names)), len(FILTERS))]),
        top=np.concatenate([layout.top, np.zeros(len(names) * len(FILTERS))]),
        bottom=np.concatenate([layout.bottom, np.tile([each.bottom for each in FILTERS], len(names))]),
        pasts=tuple((count + k, layout.products.index(name)) for k, name in enumerate(names)),
    )


def exponential_filters(values: NDArray[Any], direction: Direction = "past") -> NDArray[np.float32]:
    """Every filter of daily series, (cell, day) in m3 m-3 with NaN where missing, as (cell, day, filter); NaN where none.

    The mean over the days of the window of what was seen, weighted by exp(-age / ``days``), today included: of days up to that
    day (``"past"``), or after it too (``"both"``). No filter reaches across a gap of ``GAP_DAYS``, and there is none
    where the weights of the slowest add up to less than ``LEAST_WEIGHT``.
    """
    longest = max(each.window for each in FILTERS)
    weights = np.zeros((len(FILTERS), longest), np.float32)
    for row, each in zip(weights, FILTERS, strict=True):
        row[: each.window] = np.exp(-np.arange(each.window) / each.days)
    windows = np.array([each.window for each in FILTERS])
    out = np.empty((*values.shape, len(FILTERS)), np.float32)
    _filter(np.asarray(values, np.float32), weights, windows, direction == "both", GAP_DAYS, LEAST_WEIGHT, out)
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def _filter(
    values: NDArray[np.float32],
    weights: NDArray[np.float32],
    windows: NDArray[np.int64],
    ahead: bool,
    gap: int,
    least: float,
    out: NDArray[np.float32],
) -> None:
    """``exponential_filters``, of some cells at a time, which lie side by side in the vector registers."""
    cells, days = values.shape
    shape = (days, _TILE)
    value, seen = np.empty(shape, np.float32), np.empty(shape, np.float32)
    total, weight = np.empty(shape, np.float32), np.empty(shape, np.float32)
    bounds = np.empty((2, *shape), np.int32)
    enough = np.empty(shape, np.bool_)
    for start in range(0, cells, _TILE):
        width = min(_TILE, cells - start)
        value[:], seen[:] = 0.0, 0.0
        for c in range(width):
            for t in range(days):
                if np.isfinite(values[start + c, t]):
                    value[t, c], seen[t, c] = values[start + c, t], 1.0
        _find_gaps(seen, gap, bounds[0], bounds[1])
        # The slowest filter says where there is enough.
        for f in range(windows.size - 1, -1, -1):
            total[:], weight[:] = 0.0, 0.0
            _add_window(value, seen, weights[f], windows[f], -1, bounds[0], total, weight)
            if ahead:
                _add_window(value, seen, weights[f], windows[f], 1, bounds[1], total, weight)
                # Today is in both.
                total -= value
                weight -= seen
            if f == windows.size - 1:
                enough[:] = weight >= least
            for c in range(width):
                for t in range(days):
                    known = enough[t, c] and weight[t, c] > 0.0
                    out[start + c, t, f] = total[t, c] / weight[t, c] if known else np.nan


@njit(cache=True, nogil=True, error_model="numpy")
def _find_gaps(seen: NDArray[np.float32], gap: int, first: NDArray[np.int32], last: NDArray[np.int32]) -> None:
    """The first day that is remembered on each day, (day, cell), and the last: those without a gap in between."""
    days, cells = seen.shape
    for c in range(cells):
        begin, latest = 0, -gap - 1
        for t in range(days):
            if seen[t, c] > 0.0:
                if t - latest > gap:
                    begin = t
                latest = t
            first[t, c] = begin if t - latest < gap else t + 1
        end, latest = days - 1, days + gap
        for t in range(days - 1, -1, -1):
            if seen[t, c] > 0.0:
                if latest - t > gap:
                    end = t
                latest = t
            last[t, c] = end if latest - t < gap else t - 1


@njit(cache=True, nogil=True, error_model="numpy")
def _add_window(
    value: NDArray[np.float32],
    seen: NDArray[np.float32],
    weights: NDArray[np.float32],
    window: int,
    way: int,
    bound: NDArray[np.int32],
    total: NDArray[np.float32],
    weight: NDArray[np.float32],
) -> None:
    """Add the weighted values of each day's window, and their weights, from the oldest day on (``way`` -1) or the latest (1).

    ``bound``: the day after which (before which) days count. Weights decay alike over any stretch, so that the sum over a
    window is that of stretches of ``_STRETCH`` days, each summed once. A stretch is shorter than a gap: its values are all on
    one side of it.
    """
    days = len(value)
    nothing = np.float32(0.0)
    some, some_seen = np.zeros_like(value), np.zeros_like(value)
    for t in range(days):
        for age in range(_STRETCH - 1, -1, -1):
            day, share = t + way * age, weights[age]
            if 0 <= day < days:
                for c in range(_TILE):
                    some[t, c] += share * value[day, c]
                    some_seen[t, c] += share * seen[day, c]
    for t in range(days):
        for age in range(window - _STRETCH, -1, -_STRETCH):
            day, share = t + way * age, weights[age]
            if 0 <= day < days:
                for c in range(_TILE):
                    inside = bound[t, c] <= day if way < 0 else day <= bound[t, c]
                    total[t, c] += share * some[day, c] if inside else nothing
                    weight[t, c] += share * some_seen[day, c] if inside else nothing


def filtered(series: xr.DataArray, direction: Direction) -> xr.DataArray:
    """The filters of a product's first layer, with the dimensions (..., time, layer) of the series; lazy where it is.

    ``series``: (..., time, layer) of a ``Stack``; days that are not there count as missing.
    """
    times = series.get_index("time")
    every = pd.date_range(times[0], times[-1], freq="D") if len(times) else times
    surface = series.isel(layer=slice(0, 1)).drop_vars(["layer_top", "layer_bottom"])
    if len(every) != len(times):
        surface = surface.reindex(time=every)

    found: xr.DataArray = xr.apply_ufunc(
        lambda values: exponential_filters(values.reshape(-1, values.shape[-2]), direction).reshape(*values.shape[:-1], -1),
        # Blocks of the days of a lazy series would not know those around them.
        surface.chunk(time=-1, layer=-1) if surface.chunks is not None else surface,
        input_core_dims=[["time", "layer"]],
        output_core_dims=[["time", "filter"]],
        dask="parallelized",
        output_dtypes=[np.float32],
        dask_gufunc_kwargs={"output_sizes": {"filter": len(FILTERS)}},
    ).rename(filter="layer")
    if len(every) != len(times):
        found = found.sel(time=times)
    return found.chunk(time=series.chunksizes["time"]) if series.chunks is not None else found


def remember(stack: Stack, errors: xr.Dataset, prior: Prior, direction: Direction) -> tuple[Stack, xr.Dataset]:
    """Products and their error model with the past of the retrievals as further products.

    Parameters
    ----------
    stack, errors
        Products, and what ``estimate_errors`` says of them, in the order of their layers.
    prior
        Whose variance ``Filter.apart`` refers to.
    direction
        ``"past"``, or ``"both"``: what came after a day counts too.

    Raises
    ------
    ValueError
        Where the error model has no biases and time means.
    """
    if not {"error_variance", "bias_variance", "mean"} <= set(errors.data_vars):
        raise ValueError(
            "memory needs an error model with 'error_variance', 'bias_variance' and 'mean': what deepprofile.estimate_errors "
            "returns; pass memory=None to go without"
        )
    layout = with_memory(stack.layout)
    widened = xr.apply_ufunc(
        lambda *arrays: remembered_errors(LayerErrors(*np.broadcast_arrays(*arrays)), stack.layout, prior.std, direction),
        *labelled_errors(errors).values(),
        input_core_dims=[[OBSERVATION]] * len(LayerErrors._fields),
        output_core_dims=[[OBSERVATION]] * len(LayerErrors._fields),
        exclude_dims={OBSERVATION},
        dask="parallelized",
        output_dtypes=[np.float64] * (len(LayerErrors._fields) - 1) + [np.int8],
        dask_gufunc_kwargs={"output_sizes": {OBSERVATION: layout.size}},
    )
    wide = xr.Dataset(dict(zip(LayerErrors._fields, widened, strict=True))).assign_coords(layout.coordinates())
    found = [filtered(stack.series[stack.layout.products.index(name)], direction) for name in remembered(stack.layout)]
    ordered = [own.transpose(*stack.cell_dims, "time", "layer") for own in found]
    return replace(stack, layout=layout, series=(*stack.series, *ordered)), wide


def remembered_errors(errors: LayerErrors, layout: Layout, prior_std: float, direction: Direction) -> LayerErrors:
    """The error model, each (..., n), with that of the observations of the past after it.

    ``layout``: of the observations without them. ``prior_std``: of the prior at the surface, m3 m-3.
    """
    names, n = remembered(layout), layout.size
    of_source = [int(np.flatnonzero(layout.product_index == layout.products.index(name))[0]) for name in names]
    filters = [each for _ in names for each in FILTERS]
    wide = LayerErrors(*(part[..., [*range(n), *np.repeat(of_source, len(FILTERS))]] for part in errors))
    past = np.arange(n + len(filters)) >= n
    apart = np.array([0.0] * n + [each.apart * prior_std**2 for each in filters])
    error_variance = wide.error_variance * np.where(past, ERROR_SHARE[direction], 1.0) + apart
    with np.errstate(invalid="ignore"):
        return wide._replace(
            # A retrieval whose error no triplet tells is not remembered: what is wrong with it would be so for weeks.
            error_variance=np.where(past & (wide.status == TYPICAL), np.nan, error_variance),
            # No vote on the time mean.
            bias_variance=np.where(past, wide.bias_variance * np.inf, wide.bias_variance),
        )


def correlate_past(correlation: NDArray[np.float64], layout: Layout) -> NDArray[np.float64]:
    """Correlations of errors, (n, n), with those of filters and their sources put in."""
    out = correlation.copy()
    for past, source in layout.pasts:
        own, of = layout.product_index == past, layout.product_index == source
        out[np.ix_(own, own)] = np.where(np.eye(int(own.sum()), dtype=bool), 1.0, FILTER_CORRELATION)
        out[np.ix_(own, of)] = SOURCE_CORRELATION
        out[np.ix_(of, own)] = SOURCE_CORRELATION
    return out
