"""From layer means to a profile: ``invert`` and, with the error model before it, ``fuse``."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from deepprofile.core import kernels
from deepprofile.core.basis import MAX_ORDER, basis_mean, bernstein_from_legendre
from deepprofile.core.biases import MEAN_KERNEL, bias_correlation, error_correlation, mean_variance
from deepprofile.core.error_model import DEPENDENT, OWN, TYPICAL_NOISE, WINDOW, check_collocatable, estimate_from_stack
from deepprofile.core.layers import OBSERVATION, Layout, Stack, stack_products
from deepprofile.core.memory import Direction, correlate_past, remember
from deepprofile.core.prior import GaussianMoments, Prior, prior_moments

Array = NDArray[np.float64]
Method = Literal["map", "wls"]
Bound = float | xr.DataArray | NDArray[Any]

METHODS: Final = {"map": kernels.MAP, "wls": kernels.WLS}
DEFAULT_ORDER: Final = {"map": 5, "wls": 2}
# Where one product alone tells of the deep soil, least squares of order 1 are better on measured profiles: RMSE, mean over
# depth, 0.052 against 0.057 for order 2.
DEEP_M: Final = 0.3
# Errors of two layers of one product: what a model gets wrong at one depth it gets wrong nearby.
ERROR_CORRELATION_LENGTH_M: Final = 0.5
# How far the variations of a product are from the true ones, as a standard deviation of their ratio: by that share of what the
# prior lets a layer vary, an observation errs beside its random error. Where no triplet tells the error, nothing tells the
# ratio either: a layer that hardly varies is then no proof that the soil does not. Chosen on measured profiles, as they are and
# with factors exp(0.5 N(0, 1)) on every layer of the models.
GAIN_SPREAD: Final = 0.2
FALLBACK_GAIN_SPREAD: Final = 0.5
# Where products vary less at DEEP_M and below than the prior expects, by more than a factor of exp(TOLERATED), the prior is
# damped there, in steps, so that few priors serve all cells. A deep layer that hardly varies would else count as nearly exact,
# and what the layers above it say would come back at 1 m with the opposite sign. On measured profiles 0.4 and 0.7 do alike.
TOLERATED: Final = 0.7
DAMPING_STEP: Final = 0.25
DAMPINGS: Final = 10
# Errors, and biases, at the same depth of two products: they share forcing, soil maps and structure more than any comparison
# between them can see. Set where intervals hold in worlds of measured profiles, whose models share a fifth or nearly half of
# their errors.
SHARED_ERROR: Final = 0.3
SHARED_BIAS: Final = 0.5
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


@dataclass(frozen=True)
class Model:
    """Everything of an inversion that is the same in every cell, for n observations and d coefficients.

    Attributes
    ----------
    layout
        The observations.
    method, order
        ``kernels.MAP`` or ``kernels.WLS``; degree of the polynomial, d - 1.
    prior
        What is expected before any data.
    two_scales
        Whether time means and anomalies are inverted apart.
    anomalies
        Prior moments of a day's anomaly, m6 m-6: one for each step of damping.
    setting
        The same and all else as the compiled loops take it.
    """

    layout: Layout
    method: int
    order: int
    prior: Prior
    two_scales: bool
    anomalies: tuple[GaussianMoments, ...]
    setting: kernels.Setting

    @classmethod
    def build(cls, layout: Layout, method: str, order: int, prior: Prior, two_scales: bool) -> Model:
        """Integrals of the basis and moments of the prior for these layers."""
        # Correlations that the gain knows of, and all of them. Least squares know of none.
        of_errors = (error_correlation(layout, ERROR_CORRELATION_LENGTH_M, share) for share in (0.0, SHARED_ERROR))
        random = np.stack([correlate_past(each, layout) for each in of_errors])
        lasting = np.stack([bias_correlation(layout, share) for share in (0.0, SHARED_BIAS)])
        independent = np.stack([np.eye(layout.size)] * 2)
        if method == "wls":
            random[0] = np.eye(layout.size)
        kernel, steps = prior.kernel, DAMPINGS if two_scales and method == "map" else 1
        damped = [replace(kernel, damping=DAMPING_STEP * k) for k in range(steps)]
        anomalies = tuple(prior_moments(each, layout.top, layout.bottom, order).scaled(prior.std**2) for each in damped)
        setting = kernels.Setting(
            method=METHODS[method],
            two_scales=two_scales,
            design=basis_mean(layout.top, layout.bottom, order),
            anomalies=GaussianMoments(*(np.stack(part) for part in zip(*anomalies, strict=True))),
            means=prior_moments(MEAN_KERNEL, layout.top, layout.bottom, order).scaled(mean_variance(prior.std)),
            correlation=random if two_scales else independent,
            bias_correlation=lasting if two_scales else independent,
            control=bernstein_from_legendre(order),
            product=layout.product_index,
        )
        return cls(layout, setting.method, order, prior, two_scales, anomalies, setting)

    def damping(self, variance: xr.DataArray) -> xr.DataArray:
        """Which of ``anomalies`` suits each cell, from the variances of the observations in time; NaN where not known."""
        deep = 0.5 * (self.layout.top + self.layout.bottom) >= DEEP_M
        expected = xr.DataArray(np.diag(self.anomalies[0].layer_covariance), dims=OBSERVATION) * (1.0 + TYPICAL_NOISE)
        known = (variance > 0.0) & xr.DataArray(deep, dims=OBSERVATION)
        excess = (0.5 * np.log(xr.where(known, variance, 1.0) / expected)).where(known)
        damping: xr.DataArray = (-excess.mean(OBSERVATION) - TOLERATED) / DAMPING_STEP
        return damping.fillna(0.0).round().clip(0, len(self.anomalies) - 1).astype(np.int64)


@dataclass
class PatternRegistry:
    """The patterns of available observations that have been met, as bit masks, in the order of their first appearance.

    ``overflowed``: there were more than it holds, and what is known has no use.
    """

    known: NDArray[np.int64] = field(default_factory=lambda: np.zeros(MOST_PATTERNS, np.int64))
    count: int = 0
    overflowed: bool = False


def default_order(method: str, layout: Layout) -> int:
    """Degree of the polynomial where none is asked for."""
    deep = len(set(layout.product_index[0.5 * (layout.top + layout.bottom) >= DEEP_M].tolist()))
    return min(DEFAULT_ORDER[method], 1) if method == "wls" and deep <= 1 else DEFAULT_ORDER[method]


def product_patterns(layout: Layout) -> NDArray[np.int64]:
    """Bit masks of every combination of whole products, sorted; all single observations too where they are few.

    This list does not depend on the data: it serves where the data are not there yet.
    """
    if layout.size <= 6:
        return np.arange(2**layout.size, dtype=np.int64)
    masks = [int(sum(1 << int(i) for i in np.flatnonzero(layout.product_index == p))) for p in range(len(layout.products))]
    codes = {0}
    for mask in masks[:8]:
        codes |= {code | mask for code in codes}
    for mask in masks[8:]:
        codes |= {mask, max(codes) | mask}
    # The past of a product never stands alone, and is there on every day on which the product is.
    told = sum(masks[past] for past, _ in layout.pasts)
    possible = [
        code
        for code in sorted(codes)
        if (code & ~told or not code) and all(code & masks[past] or not code & masks[source] for past, source in layout.pasts)
    ]
    return np.array(possible, dtype=np.int64)


# Parameters of the cells that have an axis of their own, along the observations.
_ALONG_OBSERVATION: Final = frozenset({"error_variance", "bias_variance", "mean", "fallback"})
_PER_CELL: Final = (*kernels.CellErrors._fields, *kernels.CellLimits._fields)


def _own_axes(name: str) -> int:
    """Axes of a parameter beside those of the cells."""
    return int(name in _ALONG_OBSERVATION)


def _rows(name: str, array: NDArray[Any], shape: tuple[int, ...], part: slice) -> NDArray[Any]:
    """A parameter of some of the cells as a contiguous array (cell, n) or (cell,); cells without it share what there is."""
    whole = np.broadcast_to(array, (*shape, *array.shape[array.ndim - _own_axes(name) :]))
    index = np.unravel_index(np.arange(part.start, part.stop), shape) if shape else (None,)
    return np.ascontiguousarray(whole[index], dtype=array.dtype)


def _errors_of(parameters: Mapping[str, NDArray[Any]], shape: tuple[int, ...], part: slice) -> kernels.CellErrors:
    return kernels.CellErrors(*(_rows(name, parameters[name], shape, part) for name in kernels.CellErrors._fields))


def _limits_of(parameters: Mapping[str, NDArray[Any]], shape: tuple[int, ...], part: slice) -> kernels.CellLimits:
    return kernels.CellLimits(*(_rows(name, parameters[name], shape, part) for name in kernels.CellLimits._fields))


def _invert_block(
    *arrays: NDArray[Any], model: Model, dtype: Any, known_patterns: Array | None, registry: PatternRegistry | None
) -> tuple[NDArray[Any], NDArray[np.uint32], NDArray[np.uint16]]:
    """Invert arrays of one block: one of (*cells, time, layer) for each product, then the parameters named in ``_PER_CELL``.

    Returns coefficients (*cells, time, degree), flags and pattern (*cells, time).
    """
    count = len(model.layout.products)
    series, parameters = arrays[:count], dict(zip(_PER_CELL, arrays[count:], strict=True))
    shape, days = series[0].shape[:-2], series[0].shape[-2]
    cells, n, d = int(np.prod(shape)), model.layout.size, model.order + 1
    # Cells are merged into one axis without a copy wherever the layout in memory allows it.
    flat = [s.reshape(cells, days, s.shape[-1]) for s in series]
    out = kernels.Profiles(
        np.empty((cells, days, d), dtype=dtype), np.empty((cells, days), np.uint32), np.empty((cells, days), np.uint16)
    )
    if registry is None:
        assert known_patterns is not None
        patterns = kernels.Patterns(known_patterns.astype(np.int64), len(known_patterns), False)
    else:
        patterns = kernels.Patterns(registry.known, registry.count, True)
    step, start = max(1, _PROFILES // max(days, 1)), 0
    while start < cells:
        part = slice(start, min(start + step, cells))
        observed = np.empty((part.stop - start, days, n), dtype=dtype)
        at = 0
        for product in flat:
            observed[:, :, at : at + product.shape[-1]] = product[part]
            at += product.shape[-1]
        errors, limits = _errors_of(parameters, shape, part), _limits_of(parameters, shape, part)
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
    return out.coefficients.reshape(*shape, days, d), out.flags.reshape(*shape, days), out.pattern.reshape(*shape, days)


def _covariance_block(*arrays: NDArray[Any], model: Model, dtype: Any, known_patterns: NDArray[np.int64]) -> NDArray[Any]:
    """Posterior covariance for each cell and known pattern, from the parameters of the cells that are ``CellErrors``."""
    parameters = dict(zip(kernels.CellErrors._fields, arrays, strict=True))
    shape = np.broadcast_shapes(*(array.shape[: array.ndim - _own_axes(name)] for name, array in parameters.items()))
    cells, d = int(np.prod(shape)), model.order + 1
    out = np.empty((cells, len(known_patterns), d, d), dtype=dtype)
    kernels.cell_covariances(model.setting, _errors_of(parameters, shape, slice(0, cells)), known_patterns, out)
    return out.reshape(*shape, len(known_patterns), d, d)


@dataclass(frozen=True)
class Parameters:
    """The error model in the order of the observations, with their own dimensions of the cells.

    ``error_variance``, ``bias_variance``, ``mean``, ``variance`` (in time) and ``fallback`` lie along ``observation``;
    ``prior_mean``, ``low`` and ``high`` do not. Variances in m6 m-6, all else in m3 m-3.
    """

    error_variance: xr.DataArray
    bias_variance: xr.DataArray
    mean: xr.DataArray
    variance: xr.DataArray
    prior_mean: xr.DataArray
    low: xr.DataArray
    high: xr.DataArray
    fallback: xr.DataArray
    two_scales: bool


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


def _parameters(stack: Stack, errors: xr.Dataset | xr.DataArray, prior: Prior, bounds: tuple[Bound, Bound]) -> Parameters:
    layout = stack.layout
    errors = _match_observations(errors, layout)
    plain = isinstance(errors, xr.DataArray)
    if not plain and "error_variance" not in errors:
        raise ValueError("errors has no variable 'error_variance'; deepprofile.estimate_errors returns it")
    variance = errors if isinstance(errors, xr.DataArray) else errors["error_variance"]
    _check_cell_dims("errors", variance, stack, {OBSERVATION})
    variance = _bare(variance).astype(np.float64)
    if variance.chunks is None and bool((variance <= 0.0).any()):
        raise ValueError("errors holds error variances that are negative or zero; a variance is positive (inf: not used)")
    fallback = xr.zeros_like(variance, dtype=bool)
    names = () if plain else errors.data_vars
    two_scales = "bias_variance" in names and "mean" in names
    bias = _bare(errors["bias_variance"]) if two_scales else xr.zeros_like(variance)
    if two_scales and bias.chunks is None and bool((bias < 0.0).any()):
        raise ValueError("errors holds bias variances that are negative")
    usable = np.isfinite(variance)
    if two_scales:
        mean = _bare(errors["reference_mean" if "reference_mean" in names else "mean"]).astype(np.float64)
        # A bias of infinite variance: the observation tells of anomalies only.
        usable = usable & np.isfinite(mean) & bias.notnull()
    elif prior.mean is None:
        mean = _time_mean(stack)
    else:
        mean = xr.zeros_like(variance)
    if "status" in names:
        fallback = _bare(errors["status"]) != OWN
        fallback = fallback & usable
    error = variance.where(usable)
    if prior.mean is None:
        weight = (1.0 / (variance + bias)).where(usable & np.isfinite(mean), 0.0)
        total = weight.sum(OBSERVATION)
        # Where nothing is known, half of the way between the bounds of most soils; nothing can be inverted there.
        prior_mean = ((weight * mean.fillna(0.0)).sum(OBSERVATION) / total.where(total > 0)).fillna(0.25)
    elif isinstance(prior.mean, xr.DataArray):
        _check_cell_dims("prior.mean", prior.mean, stack, set())
        prior_mean = _bare(prior.mean).astype(np.float64)
    else:
        prior_mean = xr.DataArray(float(prior.mean))
    if not two_scales:
        # One scale: what is inverted are departures from the prior's mean.
        mean = xr.zeros_like(variance) + prior_mean
    low, high = _check_bounds(bounds, stack)
    # Of all days, as they are: what is not known is taken to be as the prior says.
    in_time = _bare(errors["variance"]).astype(np.float64) if "variance" in names else xr.full_like(variance, np.nan)
    return Parameters(error, bias, mean, in_time.where(usable), prior_mean, low, high, fallback, two_scales)


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
    covariances: bool = True,
) -> xr.Dataset:
    """``invert`` on products that are checked; ``known_patterns`` fixes those that have a covariance, whatever is met.

    Without ``covariances`` there is no ``posterior_covariance``: it does not depend on time, and need not be made again.
    """
    layout = stack.layout
    degree = default_order(method, layout) if order is None else int(order)
    parameters = _parameters(stack, errors, prior, bounds)
    model = Model.build(layout, method, degree, prior, parameters.two_scales)
    dtype = np.result_type(np.float32, *(s.dtype for s in stack.series))
    lazy = stack.lazy or any(p.chunks is not None for p in vars(parameters).values() if isinstance(p, xr.DataArray))
    if lazy and known_patterns is None:
        known_patterns = product_patterns(layout)
    registry = PatternRegistry() if known_patterns is None else None
    series = [
        _bare(s.chunk(layer=-1) if s.chunks is not None else s).rename(layer=f"layer_{p}")
        for p, s in enumerate(stack.aligned())
    ]
    # NaN bounds mark cells without soil.
    error_variance = parameters.error_variance.where(np.isfinite(parameters.low) & np.isfinite(parameters.high))
    damping = xr.DataArray(np.int64(0))
    if model.two_scales and method == "map":
        spread = xr.where(parameters.fallback, FALLBACK_GAIN_SPREAD, GAIN_SPREAD)
        damping = model.damping(parameters.variance)
        expected = np.stack([np.diag(each.layer_covariance) for each in model.anomalies])
        error_variance = error_variance + spread**2 * xr.apply_ufunc(
            lambda kind: expected[kind], damping, output_core_dims=[[OBSERVATION]], dask="parallelized",
            output_dtypes=[np.float64], dask_gufunc_kwargs={"output_sizes": {OBSERVATION: layout.size}},
        )  # fmt: skip
    per_cell = {
        "error_variance": error_variance,
        "damping": damping,
        **{name: getattr(parameters, name) for name in _PER_CELL if name not in ("error_variance", "damping")},
    }
    core: list[list[Hashable]] = [[f"layer_{p}"] for p in range(len(series))]
    outputs: list[list[Hashable]] = [["degree"], [], []]
    if not lazy:
        core, outputs = [["time", *c] for c in core], [["time", *c] for c in outputs]
    core += [[OBSERVATION] if _own_axes(name) else [] for name in _PER_CELL]
    coefficients, flags, pattern = xr.apply_ufunc(
        _invert_days if lazy else _invert_block,
        *series,
        *(per_cell[name] for name in _PER_CELL),
        kwargs={"model": model, "dtype": dtype, "known_patterns": known_patterns, "registry": registry},
        input_core_dims=core,
        output_core_dims=outputs,
        join="override",
        dask="parallelized",
        output_dtypes=[dtype, np.uint32, np.uint16],
        dask_gufunc_kwargs={"output_sizes": {"degree": degree + 1}},
    )
    if registry is not None:
        known_patterns, pattern = _sort_patterns(registry, layout, pattern)
    assert known_patterns is not None
    covariance = (
        _covariances([per_cell[name] for name in kernels.CellErrors._fields], model, dtype, known_patterns)
        if covariances
        else None
    )
    found = xr.Dataset({"coefficients": coefficients, "flags": flags, "pattern": pattern})
    return _assemble(found, covariance, known_patterns, stack, model, parameters)


def _covariances(
    of_errors: Sequence[xr.DataArray], model: Model, dtype: Any, known_patterns: NDArray[np.int64]
) -> xr.DataArray:
    """Posterior covariance for each cell and known pattern, from the fields of ``CellErrors``."""
    degrees = model.order + 1
    covariance: xr.DataArray = xr.apply_ufunc(
        _covariance_block,
        *of_errors,
        kwargs={"model": model, "dtype": dtype, "known_patterns": known_patterns},
        input_core_dims=[[OBSERVATION] if _own_axes(name) else [] for name in kernels.CellErrors._fields],
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
    covariance: xr.DataArray | None,
    known_patterns: NDArray[np.int64],
    stack: Stack,
    model: Model,
    parameters: Parameters,
) -> xr.Dataset:
    """The result with its attributes and coordinates; ``found`` has the coefficients, the flags and the pattern."""
    layout, prior = stack.layout, model.prior
    bits = np.array([[bool(code >> i & 1) for i in range(layout.size)] for code in known_patterns.tolist()])
    bits = bits.reshape(-1, layout.size)
    dataset = found.assign(
        prior_mean=parameters.prior_mean.astype(found.coefficients.dtype),
        lower_bound=parameters.low,
        upper_bound=parameters.high,
    )
    if covariance is not None:
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
