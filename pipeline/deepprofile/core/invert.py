"""From layer means to a profile: ``invert`` and, with the error model before it, ``fuse``."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from deepprofile.core import kernels
from deepprofile.core.basis import MAX_ORDER
from deepprofile.core.error_model import (
    DEPENDENT,
    WINDOW,
    LayerErrors,
    check_collocatable,
    estimate_from_stack,
    labelled_errors,
)
from deepprofile.core.kernels import CellErrors, CellLimits
from deepprofile.core.layers import OBSERVATION, Layout, Stack, stack_products
from deepprofile.core.memory import Direction, remember
from deepprofile.core.parameters import (
    METHODS,
    Model,
    Parameters,
    cell_errors,
    default_order,
    prior_level,
    product_patterns,
)
from deepprofile.core.prior import Prior

Method = Literal["map", "wls"]
Bound = float | xr.DataArray | NDArray[Any]
Kind = TypeVar("Kind", CellErrors, CellLimits)

# With more patterns than these, only those of whole products have a covariance of their own.
MOST_PATTERNS: Final = 64
# Profiles that are worked on at a time: their observations and coefficients stay in the cache.
_PROFILES: Final = 16_384

GENERAL_FLAGS: Final = {
    "no_observation": kernels.NO_OBSERVATION,
    "at_lower_bound": kernels.AT_LOWER_BOUND,
    "at_upper_bound": kernels.AT_UPPER_BOUND,
    "lower_order": kernels.LOWER_ORDER,
    "fallback_errors": kernels.FALLBACK_ERRORS,
    "partial_product": kernels.PARTIAL_PRODUCT,
    "subset_covariance": kernels.SUBSET_COVARIANCE,
}


@dataclass
class PatternRegistry:
    """The patterns of available observations that have been met, as bit masks, in the order of their first appearance.

    ``overflowed``: there were more than it holds, and what is known has no use.
    """

    known: NDArray[np.int64] = field(default_factory=lambda: np.zeros(MOST_PATTERNS, np.int64))
    count: int = 0
    overflowed: bool = False


# Parameters of the cells that have an axis of their own, along the observations.
_ALONG_OBSERVATION: Final = frozenset({"error_variance", "bias_variance", "mean", "fallback"})
_PER_CELL: Final = (*CellErrors._fields, *CellLimits._fields)


def _own_axes(name: str) -> int:
    """Axes of a parameter beside those of the cells."""
    return int(name in _ALONG_OBSERVATION)


def _rows(parameters: Kind, shape: tuple[int, ...], part: slice) -> Kind:
    """The parameters of some of the cells as contiguous arrays (cell, n) or (cell,); cells without one share what there is."""
    index = np.unravel_index(np.arange(part.start, part.stop), shape) if shape else (None,)

    def some(name: str, array: NDArray[Any]) -> NDArray[Any]:
        whole = np.broadcast_to(array, (*shape, *array.shape[array.ndim - _own_axes(name) :]))
        return np.ascontiguousarray(whole[index], dtype=array.dtype)

    return type(parameters)(*map(some, parameters._fields, parameters))


def result_type(series: Sequence[NDArray[Any] | xr.DataArray]) -> np.dtype[Any]:
    """Type of the coefficients that are made from these products: float32, or float64 where any product is."""
    return np.result_type(np.float32, *(s.dtype for s in series))


def invert_arrays(
    series: Sequence[NDArray[Any]],
    parameters: Parameters,
    model: Model,
    known_patterns: NDArray[np.int64] | PatternRegistry,
) -> kernels.Profiles:
    """Invert the cells of a block, whose products are checked.

    Parameters
    ----------
    series
        Of each product, in the order of ``model.layout``, (*cells, time, layer), m3 m-3, NaN where missing. Views with any
        strides serve: some cells at a time are brought together.
    parameters
        See ``cell_parameters``; arrays have the shape of the cells or one that broadcasts to it.
    model
        What is the same in every cell.
    known_patterns
        Bit masks of the patterns of observations that have a covariance; or where to note those that are met.

    Returns
    -------
    Coefficients (*cells, time, degree), flags and pattern (*cells, time).
    """
    shape, days = series[0].shape[:-2], series[0].shape[-2]
    cells, n, d = int(np.prod(shape)), model.layout.size, model.order + 1
    dtype = result_type(series)
    # Cells are merged into one axis without a copy wherever the layout in memory allows it.
    flat = [s.reshape(cells, days, s.shape[-1]) for s in series]
    out = kernels.Profiles(
        np.empty((cells, days, d), dtype=dtype), np.empty((cells, days), np.uint32), np.empty((cells, days), np.uint16)
    )
    registry = known_patterns if isinstance(known_patterns, PatternRegistry) else None
    if isinstance(known_patterns, PatternRegistry):
        patterns = kernels.Patterns(known_patterns.known, known_patterns.count, True)
    else:
        patterns = kernels.Patterns(known_patterns.astype(np.int64), len(known_patterns), False)
    step, start = max(1, _PROFILES // max(days, 1)), 0
    while start < cells:
        part = slice(start, min(start + step, cells))
        observed = np.empty((part.stop - start, days, n), dtype=dtype)
        at = 0
        for product in flat:
            kernels.gather(product[part], observed[:, :, at : at + product.shape[-1]])
            at += product.shape[-1]
        errors, limits = _rows(parameters.errors, shape, part), _rows(parameters.limits, shape, part)
        here = kernels.Profiles(out.coefficients[part], out.flags[part], out.pattern[part])
        n_known = kernels.invert_cells(observed, model.setting, errors, limits, patterns, here)
        start = part.stop
        if n_known != kernels.NO_ROOM:
            patterns = patterns._replace(n_known=n_known)
            continue
        assert registry is not None
        # From the first cell again, so that a day's pattern does not depend on what was met before it.
        registry.overflowed = True
        every = product_patterns(model.layout)
        patterns, start = kernels.Patterns(every, len(every), False), 0
    if registry is not None and not registry.overflowed:
        registry.count = patterns.n_known
    return kernels.Profiles(
        out.coefficients.reshape(*shape, days, d), out.flags.reshape(*shape, days), out.pattern.reshape(*shape, days)
    )


def covariances_of_arrays(errors: CellErrors, model: Model, dtype: Any, known_patterns: NDArray[np.int64]) -> NDArray[Any]:
    """Posterior covariance for each cell and known pattern, (*cells, pattern, degree, degree), m6 m-6."""
    shape = np.broadcast_shapes(*(array.shape[: array.ndim - _own_axes(name)] for name, array in errors._asdict().items()))
    cells, d = int(np.prod(shape)), model.order + 1
    out = np.empty((cells, len(known_patterns), d, d), dtype=dtype)
    kernels.cell_covariances(model.setting, _rows(errors, shape, slice(0, cells)), known_patterns, out)
    return out.reshape(*shape, len(known_patterns), d, d)


@dataclass(frozen=True)
class _Labelled:
    """The error model with labels in the order of the observations, and what else there is of each cell.

    ``errors``: the fields of ``LayerErrors``. ``level``: time mean that is expected before any data; ``low`` and ``high``:
    bounds; m3 m-3.
    """

    errors: Sequence[xr.DataArray]
    level: xr.DataArray
    low: xr.DataArray
    high: xr.DataArray
    two_scales: bool

    @property
    def lazy(self) -> bool:
        """Whether anything is backed by dask."""
        return any(part.chunks is not None for part in (*self.errors, self.level, self.low, self.high))

    def cell_errors(self, model: Model) -> CellErrors:
        """As the compiled loops take them, with their own dimensions of the cells."""
        fields, count = CellErrors._fields, len(self.errors)

        def of_cells(*arrays: NDArray[Any]) -> CellErrors:
            level, low, high = arrays[count:]
            return _whole(cell_errors(LayerErrors(*arrays[:count]), level, low, high, model))

        # With two scales they do not depend on the level.
        level = xr.DataArray(np.nan) if model.two_scales else self.level
        made = xr.apply_ufunc(
            of_cells,
            *self.errors,
            *(level, self.low, self.high),
            input_core_dims=[[OBSERVATION]] * count + [[]] * 3,
            output_core_dims=[[OBSERVATION] if _own_axes(name) else [] for name in fields],
            join="override",
            dask="parallelized",
            output_dtypes=[{"damping": np.int64, "fallback": np.bool_}.get(name, np.float64) for name in fields],
        )
        return CellErrors(*made)


def _whole(errors: CellErrors) -> CellErrors:
    """The same, all of them with the shape of the cells."""
    shape = np.broadcast_shapes(*(array.shape[: array.ndim - _own_axes(name)] for name, array in errors._asdict().items()))
    full = (np.broadcast_to(a, (*shape, *a.shape[a.ndim - _own_axes(name) :])) for name, a in errors._asdict().items())
    return CellErrors(*full)


def _match_observations(errors: xr.Dataset | xr.DataArray, layout: Layout) -> xr.Dataset | xr.DataArray:
    """The error model's observations in the order of the products' layers."""
    needed = ("product", "layer_top", "layer_bottom")
    if OBSERVATION not in errors.dims or any(name not in errors.coords for name in needed):
        raise ValueError(
            f"errors needs the dimension 'observation' with the coordinates {', '.join(needed)}; deepprofile.estimate_errors "
            "returns it so"
        )
    given = [
        (str(p), round(float(a), 6), round(float(b), 6))
        for p, a, b in zip(*(errors[name].values for name in needed), strict=True)
    ]
    missing = [key for key in layout.identities() if key not in given]
    if missing:
        name, top, bottom = missing[0]
        raise ValueError(
            f"errors has nothing for the layer {top:g} to {bottom:g} m of {name!r}; it has "
            + ", ".join(f"{p} {a:g}-{b:g}" for p, a, b in given)
        )
    return errors.isel({OBSERVATION: [given.index(key) for key in layout.identities()]})


def _label(stack: Stack, errors: xr.Dataset | xr.DataArray, prior: Prior, bounds: tuple[Bound, Bound]) -> _Labelled:
    """The error model, the prior's mean and the bounds, checked."""
    errors = _match_observations(errors, stack.layout)
    if isinstance(errors, xr.Dataset) and "error_variance" not in errors:
        raise ValueError("errors has no variable 'error_variance'; deepprofile.estimate_errors returns it")
    given = errors if isinstance(errors, xr.Dataset) else xr.Dataset({"error_variance": errors})
    variance = given["error_variance"]
    _check_cell_dims("errors", variance, stack, {OBSERVATION})
    if variance.chunks is None and bool((variance <= 0.0).any()):
        raise ValueError("errors holds error variances that are negative or zero; a variance is positive (inf: not used)")
    two_scales = {"bias_variance", "mean"} <= set(given.data_vars)
    if two_scales and given["bias_variance"].chunks is None and bool((given["bias_variance"] < 0.0).any()):
        raise ValueError("errors holds bias variances that are negative")
    if not two_scales:
        # Of the time means nothing is known but what the products say, or the prior.
        mean = _time_mean(stack) if prior.mean is None else xr.zeros_like(variance)
        none = xr.zeros_like(variance, dtype=np.float64)
        given = given.drop_vars("reference_mean", errors="ignore").assign(bias_variance=none, mean=mean)
    of_layers = list(labelled_errors(given).values())
    if prior.mean is None:
        level = xr.apply_ufunc(
            lambda *arrays: prior_level(LayerErrors(*arrays), two_scales),
            *of_layers,
            input_core_dims=[[OBSERVATION]] * len(of_layers),
            join="override",
            dask="parallelized",
            output_dtypes=[np.float64],
        )
    elif isinstance(prior.mean, xr.DataArray):
        _check_cell_dims("prior.mean", prior.mean, stack, set())
        level = _bare(prior.mean).astype(np.float64)
    else:
        level = xr.DataArray(float(prior.mean))
    low, high = _check_bounds(bounds, stack)
    return _Labelled(of_layers, level, low, high, two_scales)


def _time_mean(stack: Stack) -> xr.DataArray:
    """Time mean of every observation, some days at a time so that memory stays flat."""
    means = []
    for series in stack.series:
        bare = _bare(series).rename(layer=OBSERVATION)
        days = bare.sizes["time"]
        step = days if bare.chunks is not None else max(1, 2_000_000 * days // max(bare.size, 1))
        parts = [bare.isel(time=slice(start, start + step)) for start in range(0, days, max(step, 1))]
        total = sum(part.sum("time", dtype=np.float64) for part in parts)
        count = sum(part.notnull().sum("time") for part in parts)
        means.append(total / xr.where(count > 0, count, np.nan) if parts else bare.sum("time") * np.nan)
    return xr.concat(means, OBSERVATION, join="override")


def _bare(array: xr.DataArray) -> xr.DataArray:
    return array.drop_vars(list(array.coords))


def _check_cell_dims(name: str, array: xr.DataArray, stack: Stack, beside: set[Hashable]) -> None:
    extra = set(array.dims) - set(stack.cell_dims) - beside
    if extra:
        raise ValueError(f"{name} has the dimensions {sorted(map(str, extra))}, which the products do not have")
    for dim in set(array.dims) & set(stack.cell_dims):
        size = stack.series[0].sizes[dim]
        if array.sizes[dim] != size:
            raise ValueError(f"{name} has {array.sizes[dim]} cells along {dim!r}, the products have {size}")
        if dim in array.coords and dim in stack.cell_coords and not array.get_index(dim).equals(stack.series[0].get_index(dim)):
            raise ValueError(f"{name} and the products have different coordinates along {dim!r}")


def _check_bounds(bounds: tuple[Bound, Bound], stack: Stack) -> tuple[xr.DataArray, xr.DataArray]:
    if len(bounds) != 2:
        raise ValueError(f"bounds is (lowest, highest) soil moisture in m3 m-3, not {bounds!r}")
    out = []
    for name, bound in zip(("bounds[0]", "bounds[1]"), bounds, strict=True):
        if isinstance(bound, xr.DataArray):
            _check_cell_dims(name, bound, stack, set())
            out.append(_bare(bound).astype(np.float64))
        elif np.ndim(bound) == 0:
            out.append(xr.DataArray(float(bound)))
        elif np.shape(bound) == stack.cell_shape:
            out.append(xr.DataArray(np.asarray(bound, dtype=np.float64), dims=stack.cell_dims))
        else:
            raise ValueError(f"{name} has the shape {np.shape(bound)}, the products' cells have {stack.cell_shape}")
    low, high = out
    if low.chunks is None and high.chunks is None:
        # A cell without a porosity (NaN) has no soil: it is not inverted.
        if bool((high <= low).any()):
            raise ValueError("bounds: the lower bound is at or above the upper one in some cell")
        if float(low.min()) < 0.0 or float(high.max()) > 1.0:
            raise ValueError("bounds lie between 0 and 1 m3 m-3")
    return low, high


def invert(
    products: Mapping[str, xr.DataArray],
    errors: xr.Dataset | xr.DataArray,
    *,
    method: Method = "map",
    order: int | None = None,
    bounds: tuple[Bound, Bound] = (0.0, 0.8),
    prior: Prior | None = None,
    memory: bool | Direction = False,
) -> xr.Dataset:
    """Invert the layer means of several products into one profile for each cell and day.

    Parameters
    ----------
    products
        As for ``deepprofile.fuse``.
    errors
        What ``deepprofile.estimate_errors`` returned for these products; or error variances, (m3 m-3)^2, along
        ``observation`` with the coordinates ``product``, ``layer_top``, ``layer_bottom`` (infinite or NaN: not used).
        Variances alone mean one scale: independent errors and no bias.
    method
        ``"map"``: maximum of the posterior under a Gaussian prior. ``"wls"``: weighted least squares, of a lower degree
        where the available layers have a lower rank.
    order
        Highest degree of the polynomial, at most 7. None: 5 for map, 2 for wls, 1 where only one product reaches deep.
    bounds
        Lowest and highest soil moisture at every depth, m3 m-3: numbers, or arrays over the cells (porosity).
    prior
        See ``deepprofile.Prior``.
    memory
        As for ``deepprofile.fuse``.

    Returns
    -------
    Dataset with ``coefficients`` (..., time, degree) of shifted Legendre polynomials, ``flags`` and ``pattern`` (..., time),
    ``posterior_covariance`` (..., availability, degree, degree_2), ``observed`` (availability, observation), and what the
    accessor ``.deepprofile`` needs. A day without observations has NaN and a flag. Lazy where a product is backed by dask.

    Raises
    ------
    ValueError
        For an unknown method, an order outside 0..7, bounds that cross, variances that are not positive, errors that lack
        a layer, products that do not fit together, or values that cannot be soil moisture (see ``deepprofile.fuse``).

    Notes
    -----
    The model equation of an observation is the integral of the profile over its layer divided by the layer's thickness (Zhu
    et al. 2026, doi 10.1016/j.rse.2026.115408). With map, time means (``reference_mean``, else ``mean``) and anomalies are
    inverted apart: the first with the bias variances as errors, the second with the random ones.
    """
    prior = _check_choices(method, order, prior)
    direction = _direction(memory, method)
    stack = stack_products(products)
    if direction:
        matched = _match_observations(errors, stack.layout)
        if not isinstance(matched, xr.Dataset):
            raise ValueError("errors are variances alone: memory needs the data set that deepprofile.estimate_errors returns")
        stack, errors = remember(stack, matched, prior, direction)
    return invert_stack(stack, errors, method, order, bounds, prior)


def _direction(memory: bool | Direction, method: str) -> Direction | None:
    """Which days the filters of retrievals may see; least squares know of no errors that correlate, and take none."""
    if memory not in (True, False, "past", "both"):
        raise ValueError(
            f"memory is {memory!r}; it is True or 'past' (days up to each day), 'both' (days after it too) or False"
        )
    if method == "wls" and isinstance(memory, str):
        raise ValueError("memory goes with method='map': the errors of a retrieval and of its past correlate")
    return None if memory is False or method == "wls" else ("past" if memory is True else memory)


def _check_choices(method: str, order: int | None, prior: Prior | None) -> Prior:
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; it is 'map' (maximum a posteriori) or 'wls' (weighted least squares)")
    if order is not None and not (isinstance(order, int | np.integer) and 0 <= order <= MAX_ORDER):
        raise ValueError(f"order is {order!r}; it is a whole number from 0 to {MAX_ORDER}, or None for the default")
    if prior is not None and not isinstance(prior, Prior):
        raise TypeError(f"prior is a {type(prior).__name__}; give a deepprofile.Prior")
    return prior or Prior()


def invert_stack(
    stack: Stack,
    errors: xr.Dataset | xr.DataArray,
    method: str,
    order: int | None,
    bounds: tuple[Bound, Bound],
    prior: Prior,
    known_patterns: NDArray[np.int64] | None = None,
) -> xr.Dataset:
    """``invert`` on products that are checked; ``known_patterns`` fixes those that have a covariance, whatever is met."""
    layout = stack.layout
    degree = default_order(method, layout) if order is None else int(order)
    labelled = _label(stack, errors, prior, bounds)
    model = Model.build(layout, method, degree, prior, labelled.two_scales)
    lazy = stack.lazy or labelled.lazy
    known: NDArray[np.int64] | PatternRegistry = PatternRegistry()
    if known_patterns is not None or lazy:
        known = product_patterns(layout) if known_patterns is None else known_patterns
    series = [
        _bare(s.chunk(layer=-1) if s.chunks is not None else s).rename(layer=f"layer_{p}")
        for p, s in enumerate(stack.aligned())
    ]
    of_errors = labelled.cell_errors(model)
    core: list[list[Hashable]] = [[f"layer_{p}"] for p in range(len(series))]
    outputs: list[list[Hashable]] = [["degree"], [], []]
    if not lazy:
        core, outputs = [["time", *c] for c in core], [["time", *c] for c in outputs]
    core += [[OBSERVATION] if _own_axes(name) else [] for name in _PER_CELL]
    dtype = result_type(stack.series)
    coefficients, flags, pattern = xr.apply_ufunc(
        _invert_days if lazy else _invert_block,
        *series,
        *of_errors,
        *(labelled.level, labelled.low, labelled.high),
        kwargs={"model": model, "known_patterns": known},
        input_core_dims=core,
        output_core_dims=outputs,
        join="override",
        dask="parallelized",
        output_dtypes=[dtype, np.uint32, np.uint16],
        dask_gufunc_kwargs={"output_sizes": {"degree": degree + 1}},
    )
    listed, pattern = _sort_patterns(known, layout, pattern) if isinstance(known, PatternRegistry) else (known, pattern)
    found = xr.Dataset({"coefficients": coefficients, "flags": flags, "pattern": pattern})
    return _assemble(found, _covariances(of_errors, model, dtype, listed), listed, stack, model, labelled)


def _invert_block(*arrays: NDArray[Any], model: Model, known_patterns: NDArray[np.int64] | PatternRegistry) -> kernels.Profiles:
    """``invert_arrays`` of one array for each product, then those named in ``_PER_CELL``."""
    count, split = len(model.layout.products), len(model.layout.products) + len(CellErrors._fields)
    parameters = Parameters(CellErrors(*arrays[count:split]), CellLimits(*arrays[split:]))
    return invert_arrays(arrays[:count], parameters, model, known_patterns)


def _covariances(errors: CellErrors, model: Model, dtype: Any, known_patterns: NDArray[np.int64]) -> xr.DataArray:
    """Posterior covariance for each cell and known pattern, from the fields of ``CellErrors`` with labels."""
    degrees = model.order + 1
    covariance: xr.DataArray = xr.apply_ufunc(
        lambda *arrays: covariances_of_arrays(CellErrors(*arrays), model, dtype, known_patterns),
        *errors,
        input_core_dims=[[OBSERVATION] if _own_axes(name) else [] for name in CellErrors._fields],
        output_core_dims=[["availability", "degree", "degree_2"]],
        join="override",
        dask="parallelized",
        output_dtypes=[dtype],
        dask_gufunc_kwargs={"output_sizes": {"availability": len(known_patterns), "degree": degrees, "degree_2": degrees}},
    )
    return covariance


def _invert_days(*arrays: NDArray[Any], model: Model, **kwargs: Any) -> Any:
    """``_invert_block`` where time is an axis of the blocks: parameters of the cells have one of length one for it."""
    count = len(model.layout.products)
    parameters = []
    for name, array in zip(_PER_CELL, arrays[count:], strict=True):
        loop = array.ndim - _own_axes(name)
        parameters.append(array.squeeze(axis=loop - 1) if loop else array)
    return _invert_block(*arrays[:count], *parameters, model=model, **kwargs)


def _sort_patterns(registry: PatternRegistry, layout: Layout, pattern: xr.DataArray) -> tuple[NDArray[np.int64], xr.DataArray]:
    """The known patterns sorted, so that the result does not depend on who came first, and the positions in that order."""
    if registry.overflowed:
        return product_patterns(layout), pattern
    met = registry.known[: registry.count]
    order = np.argsort(met)
    if not np.array_equal(order, np.arange(met.size)):
        rank = np.empty(met.size, np.uint16)
        rank[order] = np.arange(met.size)
        values = pattern.values.reshape(-1)
        for start in range(0, values.size, 1_000_000):
            part = slice(start, start + 1_000_000)
            values[part] = rank[values[part]]
    return met[order], pattern


def _assemble(
    found: xr.Dataset,
    covariance: xr.DataArray,
    known_patterns: NDArray[np.int64],
    stack: Stack,
    model: Model,
    labelled: _Labelled,
) -> xr.Dataset:
    """The result with its attributes and coordinates; ``found`` has the coefficients, the flags and the pattern."""
    layout, prior = stack.layout, model.prior
    bits = np.array([[bool(code >> i & 1) for i in range(layout.size)] for code in known_patterns.tolist()])
    bits = bits.reshape(-1, layout.size)
    dataset = found.assign(
        prior_mean=labelled.level.astype(found.coefficients.dtype),
        lower_bound=labelled.low,
        upper_bound=labelled.high,
    )
    # Where all cells share one error model they share one covariance: a view, not a copy for each of them.
    lacking = {dim: stack.series[0].sizes[dim] for dim in stack.cell_dims if dim not in covariance.dims}
    covariance = covariance.expand_dims(lacking).transpose(*stack.cell_dims, "availability", "degree", "degree_2")
    dataset["posterior_covariance"] = covariance.assign_attrs(units="m6 m-6")
    meanings = [*GENERAL_FLAGS, *(f"uses_{name}" for name in layout.products)]
    masks = [*GENERAL_FLAGS.values(), *(1 << (kernels.FIRST_PRODUCT_BIT + p) for p in range(len(layout.products)))]
    shown = [(name, mask) for name, mask in zip(meanings, masks, strict=True) if mask < 2**32]
    dataset["flags"].attrs = {
        "long_name": "what each profile was made from",
        "flag_masks": [mask for _, mask in shown],
        "flag_meanings": " ".join(name.replace(" ", "_") for name, _ in shown),
    }
    dataset["coefficients"].attrs = {"long_name": "coefficients of shifted Legendre polynomials", "units": "m3 m-3"}
    dataset["pattern"].attrs = {"long_name": "position along availability"}
    dataset = dataset.assign_coords(dict(stack.cell_coords)).assign_coords(
        time=stack.time,
        degree=np.arange(model.order + 1),
        observed=(("availability", OBSERVATION), bits),
        observation_product=(OBSERVATION, layout.product_index),
        layer_top=(OBSERVATION, layout.top, {"units": "m"}),
        layer_bottom=(OBSERVATION, layout.bottom, {"units": "m"}),
    )
    dataset.attrs = {
        "method": next(name for name, code in METHODS.items() if code == model.method),
        "order": model.order,
        "products": list(layout.products),
        "prior_std": prior.std,
        "prior_correlation_length": prior.correlation_length,
        "prior_mean": "of the products" if prior.mean is None else "given",
        "basis": "shifted Legendre polynomials on [0, 1] m",
        "source": "DeepProfile (Zhu et al. 2026, doi 10.1016/j.rse.2026.115408)",
    }
    return dataset


def fuse(
    products: Mapping[str, xr.DataArray],
    *,
    method: Method = "map",
    order: int | None = None,
    bounds: tuple[Bound, Bound] = (0.0, 0.8),
    prior: Prior | None = None,
    memory: bool | Direction = True,
    dependent: Sequence[tuple[str, str]] = DEPENDENT,
    min_samples: int = 100,
) -> xr.Dataset:
    """Fuse several soil-moisture products into one profile from 0 to 1 m for each cell and day.

    Parameters
    ----------
    products
        Soil moisture in m3 m-3 by product name (names are free), each a DataArray with the dimensions ``time``, ``layer``
        and any others (the same for all), and the coordinates ``layer_top`` and ``layer_bottom`` (m) along ``layer``. NaN
        where missing. Times are floored to the UTC day and joined; products may lack layers and days.
    method, order, bounds, prior
        See ``deepprofile.invert``.
    memory
        What retrievals of the surface said on earlier days counts too, as exponential filters that stand for deeper layers:
        True or ``"past"``, the default, uses days up to each day; ``"both"`` days after it too, for records that are complete;
        False none. Days that use it are flagged ``uses_<product>_memory``. Least squares (``"wls"``) go without.
    dependent, min_samples
        See ``deepprofile.estimate_errors``.

    Returns
    -------
    The profile: see ``deepprofile.invert`` and its accessor ``.deepprofile``.

    Raises
    ------
    ValueError, TypeError
        With what to do about it: one product only, no common day, a layer that is upside down or reaches below 1 m, a missing
        coordinate, a day that comes twice, cells that differ; values that cannot be soil moisture in m3 m-3 (under -0.5 or
        over 1.5: percent, -9999, infinity). Values that are backed by dask are checked when they are computed.

    Examples
    --------
    >>> import deepprofile as dp
    >>> profile = dp.fuse(products)  # doctest: +SKIP
    >>> profile.deepprofile.mean(0.1, 0.4), profile.deepprofile.std_mean(0.1, 0.4)  # doctest: +SKIP
    """
    prior = _check_choices(method, order, prior)
    direction = _direction(memory, method)
    stack = stack_products(products)
    check_collocatable(stack, min_samples, WINDOW)
    errors = estimate_from_stack(stack, dependent, min_samples, WINDOW)
    if direction:
        stack, errors = remember(stack, errors, prior, direction)
    return invert_stack(stack, errors, method, order, bounds, prior)
