"""The error model: how far each layer of each product is to be trusted, in each cell.

Triple collocation layer by layer: the other two members of a triplet are averaged over the very layer by overlap, so that
all three stand for the same depths. Estimates of single cells are noisy; their moments are drawn towards those of the
neighbourhood before they are used. Random errors and biases are kept apart: triple collocation speaks of the first, the
differences between the products' time means of the second.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations
from operator import add
from typing import Any, Final, NamedTuple

import numpy as np
import xarray as xr
from numba import njit
from numpy.typing import NDArray

from deepprofile.core.biases import MIDDLE, bias_variances
from deepprofile.core.collocation import MOMENTS, Moments, collocate, critical_correlation, moments_of_series
from deepprofile.core.kernels import gather
from deepprofile.core.layers import OBSERVATION, Layout, Stack, overlap_weights, stack_products

Array = NDArray[np.float64]

DEPENDENT: Final = (("smap_l3", "smap_l4"),)
# Share of a layer that another product has to cover to stand for it: SMAP near-surface (0-0.05 m) down to 0.1 m.
MIN_COVERAGE: Final = 0.5
# Days of record at which a cell's own moments weigh as much as its neighbourhood's: soil moisture decorrelates in weeks,
# so that four years are some fifty independent samples, and a ratio of three covariances of those is uncertain by tens of
# percent. On measured profiles 2000 and less beat 8000 (python -m benchmarks.profiles --half tuning).
SHRINKAGE_DAYS: Final = 2000.0
WINDOW: Final = 41
# What is known of a product's noise-to-signal ratio (error variance over signal variance) before any data, and how far what
# triple collocation says is believed: in the mean over the layers of one product, and in how a layer differs from that mean.
# Products share errors by chance, which makes the third one of a triplet look bad, more so in one layer than in all. On
# measured profiles typical ratios from .45 to .9 and a trust in layers from .2 to .4 do alike: chosen on simulated regions.
TYPICAL_NOISE: Final = 0.45
PRODUCT_TRUST: Final = 0.6
LAYER_TRUST: Final = 0.4
NOISE_RANGE: Final = (0.05, 20.0)
# Days that a time mean needs to tell of a bias, and two series in common for one to say what the mean of the other would have
# been on its missing days.
REFERENCE_DAYS: Final = 10.0
# Critical correlations are tabulated up to here; neighbourhoods with more samples count as this many.
MOST_SAMPLES: Final = 20_000
SMALLEST_ERROR: Final = 0.005**2
# Cells whose observations are brought together at a time: they stay in the cache.
_CELLS: Final = 256

OWN, NEIGHBOURS, TYPICAL, ABSENT = 0, 1, 2, 3
STATUS_MEANINGS: Final = "triple_collocation neighbours typical_ratio no_data"


@dataclass(frozen=True)
class Triplet:
    """One observation with two averages of other products over its layer; indices into the list of series."""

    observation: int
    series: tuple[int, int, int]


@dataclass(frozen=True)
class Design:
    """Which series are made and which of them are compared.

    ``weights`` (series, observation): each series as a combination of observations; the first ones are the observations.
    ``product`` (observation,): whose they are.
    ``groups`` (group, 3): the series of each group of moments: every observation alone, the triplets, then pairs of
    observations of independent products.
    """

    weights: Array
    product: NDArray[np.int64]
    groups: NDArray[np.int64]
    triplets: tuple[Triplet, ...]
    pairs: NDArray[np.int64]

    @property
    def compared(self) -> int:
        """How many groups, the first ones, a neighbourhood adds up: observations and triplets."""
        return len(self.weights[0]) + len(self.triplets)


def plan_comparisons(layout: Layout, dependent: Sequence[tuple[str, str]]) -> Design:
    """Triplets and pairs for a list of observations; a dependent pair of products never stands together."""
    excluded = layout.dependent_matrix(dependent)
    n = layout.size
    rows = list(np.eye(n))
    known: dict[tuple[float, ...], int] = {tuple(row): i for i, row in enumerate(rows)}
    triplets = []
    for i in range(n):
        p = layout.product_index[i]
        averages = {}
        for q in range(len(layout.products)):
            if excluded[p, q]:
                continue
            own = np.flatnonzero(layout.product_index == q)
            weights, covered = overlap_weights(layout.top[own], layout.bottom[own], layout.top[i], layout.bottom[i])
            if covered < MIN_COVERAGE - 1e-9:
                continue
            row = np.zeros(n)
            row[own] = weights
            if tuple(row) not in known:
                known[tuple(row)] = len(rows)
                rows.append(row)
            averages[q] = known[tuple(row)]
        for q, r in combinations(averages, 2):
            if not excluded[q, r]:
                triplets.append(Triplet(i, (i, averages[q], averages[r])))
    pairs = [(i, j) for i, j in combinations(range(n), 2) if not excluded[layout.product_index[i], layout.product_index[j]]]
    groups = [(i, i, i) for i in range(n)] + [t.series for t in triplets] + [(i, j, j) for i, j in pairs]
    return Design(
        np.array(rows),
        layout.product_index,
        np.array(groups, dtype=np.int64).reshape(-1, 3),
        tuple(triplets),
        np.array(pairs, dtype=np.int64).reshape(-1, 2),
    )


@njit(cache=True, nogil=True)
def _moments_of_cells(observed: NDArray[Any], weights: Array, groups: NDArray[np.int64], out: Array) -> None:
    """Moments of every group of some cells, (cell, group, 10), from their observations (cell, time, observation).

    Series are combinations of observations, ``weights`` (series, observation); ``groups`` (group, 3): which three.
    """
    cells, days, n = observed.shape
    of_cell, series = np.empty((n, days)), np.empty((len(weights), days))
    for cell in range(cells):
        for t in range(days):
            for i in range(n):
                of_cell[i, t] = observed[cell, t, i]
        for s in range(len(weights)):
            series[s] = 0.0
            for i in range(n):
                if weights[s, i] != 0.0:
                    for t in range(days):
                        series[s, t] += weights[s, i] * of_cell[i, t]
        for g in range(len(groups)):
            x, y, z = series[groups[g, 0]], series[groups[g, 1]], series[groups[g, 2]]
            moments_of_series(x, y, z, out[cell, g])


def series_moments(arrays: Sequence[NDArray[Any]], design: Design) -> Array:
    """Moments of every group of a block of cells.

    ``arrays``: one of shape (..., time, layer) for each product, on common days, of any strides. Returns (..., group, 10).
    """
    shape, days = arrays[0].shape[:-2], arrays[0].shape[-2]
    cells = int(np.prod(shape))
    flat = [a.reshape(cells, days, a.shape[-1]) for a in arrays]
    out = np.zeros((cells, len(design.groups), MOMENTS))
    weights, dtype = np.ascontiguousarray(design.weights), np.result_type(np.float32, *arrays)
    for start in range(0, cells, _CELLS):
        part = slice(start, min(start + _CELLS, cells))
        observed, at = np.empty((part.stop - start, days, weights.shape[1]), dtype), 0
        for product in flat:
            gather(product[part], observed[:, :, at : at + product.shape[-1]])
            at += product.shape[-1]
        _moments_of_cells(observed, weights, design.groups, out[part])
    return out.reshape(*shape, len(design.groups), MOMENTS)


def _sums_to_pool(moments: Array, *, design: Design, min_samples: int) -> Array:
    """What a neighbourhood adds up, (..., k): co-moments with their degrees of freedom, and products of time means.

    A cell that has too few complete triples, or days, for itself has none to lend. Products of time means come twice: of each
    pair of observations from the cells that have both, and of all pairs from the cells that have every observation.
    """
    parts = Moments.from_array(moments)
    n, compared = len(design.weights[0]), design.compared
    count = parts.count[..., :compared]
    lent = np.where((np.arange(compared) >= n) & (count < min_samples), 0.0, 1.0)
    freedom = lent * np.maximum(count - 1.0, 0.0)
    within = np.concatenate([freedom[..., None], lent[..., None] * parts.comoment[..., :compared, :]], axis=-1)
    first, second = np.triu_indices(n)
    departure = reference_means(parts, design) - MIDDLE
    enough = parts.count[..., :n] >= REFERENCE_DAYS
    departure = np.where(enough, departure, 0.0)
    both = (enough[..., first] & enough[..., second]).astype(np.float64)
    products = departure[..., first] * departure[..., second]
    complete = enough.all(axis=-1, keepdims=True).astype(np.float64)
    flat = (*moments.shape[:-2], -1)
    return np.concatenate([within.reshape(flat), products, both, complete * products, complete], axis=-1)


def sums_to_pool(design: Design) -> int:
    """How many numbers of each cell a neighbourhood adds up."""
    n = len(design.weights[0])
    return 7 * design.compared + 3 * (n * (n + 1) // 2) + 1


def _second_moments(sums: Array, n: int) -> tuple[Array, Array]:
    """Sums of the products of time means, and numbers of cells in them, from what ``_sums_to_pool`` adds; both (cell, n, n).

    Of the cells that have every observation where there are any. A product that many cells lack is seen in another kind of
    place (SMAP L3 in open land), whose level and that of all cells are not moments of one distribution.
    """
    pairs = n * (n + 1) // 2
    products, both, complete, number = np.split(sums, [pairs, 2 * pairs, 3 * pairs], axis=1)
    some = number > 0.0
    first, second = np.triu_indices(n)
    out = np.zeros((2, len(sums), n, n))
    chosen = np.where(some, complete, products), np.where(some, number, both)
    out[:, :, first, second] = out[:, :, second, first] = np.stack(chosen)
    return out[0], out[1]


def reference_means(parts: Moments, design: Design) -> Array:
    """Time mean of each observation as it would be had it been there on the days of the others; (..., n), NaN where absent.

    Days that one product lacks (winters of a retrieval, the end of a record) would look like a bias. Another product that has
    them tells by how much its own mean differs between the common days and all of its days, and a regression on the common
    days how much of that counts (regression estimator of double sampling, Cochran 1977, Sampling Techniques, 12.6).
    """
    n = len(design.weights[0])
    mean, count = parts.mean[..., :n, 0], parts.count[..., :n]
    shift, total = np.zeros(mean.shape), np.zeros(mean.shape)
    start = len(design.groups) - len(design.pairs)
    for k, (i, j) in enumerate(design.pairs.tolist()):
        common, comoment = parts.count[..., start + k], parts.comoment[..., start + k, :]
        both = np.maximum(comoment[..., 3], 0.0)
        for target, other, at, variance in ((i, j, 1, comoment[..., 1]), (j, i, 0, comoment[..., 0])):
            lacking = 1.0 - common / np.maximum(count[..., other], 1.0)
            product = np.maximum(comoment[..., 0] * comoment[..., 1], 1e-30)
            usable = (common >= REFERENCE_DAYS) & (variance > 0.0) & (lacking > 0.0)
            weight = np.where(usable, lacking * np.minimum(both**2 / product, 1.0), 0.0)
            slope = np.where(usable, both / np.where(variance > 0.0, variance, 1.0), 0.0)
            shift[..., target] += weight * slope * (mean[..., other] - parts.mean[..., start + k, at])
            total[..., target] += weight
    return np.where(count > 0, mean + np.divide(shift, total, out=np.zeros_like(shift), where=total > 0), np.nan)


class LayerErrors(NamedTuple):
    """What an inversion takes of an error model, each (..., observation).

    Attributes
    ----------
    error_variance
        Of the random errors, m6 m-6; not finite where an observation is not used.
    bias_variance
        Mean-square bias, m6 m-6; infinite where an observation tells of anomalies only.
    mean
        Time mean over the days that the products share, m3 m-3.
    variance
        In time, m6 m-6; NaN where it is not known.
    status
        Where the estimate comes from; see ``CellModel``.
    """

    error_variance: NDArray[Any]
    bias_variance: NDArray[Any]
    mean: NDArray[Any]
    variance: NDArray[Any]
    status: NDArray[Any]


class CellModel(NamedTuple):
    """The error model of each cell, each (..., observation); NaN where the cell does not have the observation.

    Attributes
    ----------
    error_variance, bias_variance
        Of the random errors, and mean-square bias, m6 m-6.
    mean, reference_mean
        Time mean, and the same over the days of the other products, m3 m-3.
    variance
        In time, m6 m-6.
    fmse, r_squared
        1 - r2, and the squared correlation with the truth.
    n_samples
        Days of the largest triplet.
    status
        Where the estimate comes from: ``OWN``, ``NEIGHBOURS``, ``TYPICAL`` or ``ABSENT``.
    """

    error_variance: Array
    bias_variance: Array
    mean: Array
    reference_mean: Array
    variance: Array
    fmse: Array
    r_squared: Array
    n_samples: NDArray[np.int64]
    status: NDArray[np.int8]

    @property
    def of_layers(self) -> LayerErrors:
        """What an inversion takes of it."""
        return LayerErrors(self.error_variance, self.bias_variance, self.reference_mean, self.variance, self.status)


def _estimate(moments: Array, sums: Array, *, layout: Layout, design: Design, min_samples: int) -> CellModel:
    """The error model of each cell from its own moments and those of its neighbourhood.

    Each triplet is collocated (McColl et al. 2014, doi 10.1002/2014GL061322) on covariances that are drawn from the cell's own
    towards the neighbourhood's, d / (d + ``SHRINKAGE_DAYS``) of the way back for d days. The noise-to-signal ratios of an
    observation's triplets are averaged and drawn towards the typical one (``_shrink_noise_ratio``); times the signal variance
    that the members of the triplets share, that is the error variance. Where no triplet is valid the error has the typical
    share of the layer's own variance.

    Parameters
    ----------
    moments
        Shape (..., group, 10), as ``series_moments`` gives them.
    sums
        What ``_sums_to_pool`` makes of them, added over each cell's neighbourhood; shape (..., k).
    layout, design
        The n observations, and which series of them are compared.
    min_samples
        Complete triples that a triplet needs.
    """
    shape = moments.shape[:-2]
    groups, n, count = len(design.groups), len(design.weights[0]), len(design.triplets)
    moments = moments.reshape(-1, groups, MOMENTS)
    cells = len(moments)
    sums = sums.reshape(cells, -1)
    pooled = 7 * design.compared
    within = sums[:, :pooled].reshape(cells, design.compared, 7)
    own = Moments.from_array(moments)
    triplets = slice(n, n + count)

    def divide(a: Array, b: Array) -> Array:
        return np.asarray(np.divide(a, b, out=np.full(np.broadcast_shapes(a.shape, b.shape), np.nan), where=b > 0))

    near = divide(within[..., 1:], within[..., :1])
    here = own.covariance()
    weight = (own.count / (own.count + SHRINKAGE_DAYS))[..., None]
    critical = critical_correlation(MOST_SAMPLES)
    own_valid = _valid(here[:, triplets], own.count[:, triplets], critical, min_samples)
    near_count = within[:, triplets, 0]
    near_valid = _valid(near[:, triplets], near_count, critical, min_samples)
    lent = near_valid[..., None] & np.isfinite(near[:, triplets])
    # A cell without enough days of its own takes its neighbourhood's moments whole, and the other way round.
    share = np.where(own_valid[..., None], np.where(lent, weight[:, triplets], 1.0), 0.0)
    blend = np.where(share > 0, share * np.nan_to_num(here[:, triplets]), 0.0)
    blend = blend + np.where(share < 1, (1.0 - share) * np.nan_to_num(near[:, triplets]), 0.0)
    result = collocate(blend)
    with np.errstate(divide="ignore", invalid="ignore"):
        r_squared = result.signal_variance[..., 0] / (result.signal_variance[..., 0] + result.error_variance[..., 0])
    # A product that errs less than the sample can tell has a correlation above 1: it is the best, not a failure.
    good = (own_valid | near_valid) & (r_squared > 0.0)
    r_squared = np.minimum(r_squared, 1.0)

    r2 = np.full((n, cells), np.nan)
    signals, noise = np.full((n, cells), np.nan), np.full((n, cells), np.nan)
    samples, status = np.zeros((n, cells)), np.full((n, cells), TYPICAL)
    observation = np.array([t.observation for t in design.triplets], dtype=np.int64)
    for i in range(n):
        members = np.flatnonzero(observation == i)
        if not members.size:
            continue
        samples[i] = own.count[:, n + members].max(axis=1)
        used = good[:, members]
        number = used.sum(axis=1).astype(np.float64)

        def mean(values: Array, used: NDArray[np.bool_] = used, number: Array = number) -> Array:
            return divide(np.where(used, values, 0.0).sum(axis=1), number)

        # All three as they vary over this layer; the signal is what the members agree on.
        total = result.signal_variance[:, members] + result.error_variance[:, members]
        signals[i] = mean(np.clip(result.signal_variance[:, members], 0.0, total).mean(axis=-1))
        r2[i] = mean(r_squared[:, members])
        noise[i] = np.log(np.clip(1.0 / r2[i] - 1.0, *NOISE_RANGE))
        found = number > 0
        status[i] = np.where(found, np.where((used & own_valid[:, members]).any(axis=1), OWN, NEIGHBOURS), TYPICAL)
    ratio = _shrink_noise_ratio(noise, design.product)
    # A layer's variance is that of its signal and its error. Where triple collocation cannot run, the error has the typical
    # share of it; of layers at the same depth none is the better one because it varies less. It is never more than all of it.
    own_variance = _own_variance(here[:, :n, 0], near[:, :n, 0]).T
    variance = _comparable_variance(own_variance, own.count[:, :n].T > 0, layout)
    typical = np.minimum(TYPICAL_NOISE / (1.0 + TYPICAL_NOISE) * variance, own_variance)
    error = np.where(np.isfinite(ratio), ratio * signals, typical)
    days = own.count[:, :n].T
    absent = days == 0
    error = np.where(absent, np.nan, np.maximum(error, SMALLEST_ERROR))
    bias_variance = np.where(absent, np.nan, bias_variances(*_second_moments(sums[:, pooled:], n), layout).T)
    status = np.where(absent, ABSENT, status)
    time_mean = np.where(absent, np.nan, own.mean[:, :n, 0].T)
    reference = reference_means(own, design).T
    own_variance = np.where(absent, np.nan, own_variance)
    made = CellModel(
        error, bias_variance, time_mean, reference, own_variance, 1.0 - r2, r2, samples.astype(np.int64), status.astype(np.int8)
    )
    return CellModel._make(np.moveaxis(part, 0, -1).reshape(*shape, n) for part in made)


def _own_variance(here: Array, near: Array) -> Array:
    """Variance of each observation in time, of the cell or, where it has too few days, of its neighbourhood; (cell, n)."""
    return np.where(here > 0.0, here, np.where(near > 0.0, near, SMALLEST_ERROR))


def _comparable_variance(variance: Array, there: NDArray[np.bool_], layout: Layout) -> Array:
    """Geometric mean of the variances of each layer and of the other products' layers that share half of the thicker one.

    ``variance``, ``there`` (n, cell): a layer's own variance, and whether the cell has it.
    """
    logarithm = np.log(variance)
    out = np.empty(variance.shape)
    thickness = layout.bottom - layout.top
    for i in range(layout.size):
        common = np.minimum(layout.bottom, layout.bottom[i]) - np.maximum(layout.top, layout.top[i])
        alike = common >= MIN_COVERAGE * np.maximum(thickness, thickness[i]) - 1e-9
        alike &= layout.product_index != layout.product_index[i]
        counted = there & alike[:, None]
        counted[i] = True
        out[i] = np.exp(np.where(counted, logarithm, 0.0).sum(axis=0) / counted.sum(axis=0))
    return out


def _valid(covariance: Array, count: Array, critical: Array, min_samples: int) -> NDArray[np.bool_]:
    """Enough complete triples, and three positive, significant correlations."""
    number = np.clip(count, 0, len(critical) - 1).astype(np.int64)
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation = np.stack(
            [
                covariance[..., 3] / np.sqrt(covariance[..., 0] * covariance[..., 1]),
                covariance[..., 4] / np.sqrt(covariance[..., 0] * covariance[..., 2]),
                covariance[..., 5] / np.sqrt(covariance[..., 1] * covariance[..., 2]),
            ]
        )
    return np.asarray((count >= min_samples) & (correlation >= critical[number]).all(axis=0))


def _shrink_noise_ratio(noise: Array, product: NDArray[np.int64]) -> Array:
    """Noise-to-signal ratios to use, from the logarithms that triple collocation says, (n, cell); NaN where it says none.

    Drawn towards the typical ratio: the mean of a product's layers by less than what a layer differs from that mean.
    """
    departure = noise - np.log(TYPICAL_NOISE)
    out = np.full(noise.shape, np.nan)
    for p in range(int(product.max()) + 1):
        layers = np.flatnonzero(product == p)
        found = np.isfinite(departure[layers])
        number = np.maximum(found.sum(axis=0), 1)
        common = np.where(found, departure[layers], 0.0).sum(axis=0) / number
        out[layers] = PRODUCT_TRUST * common + LAYER_TRUST * (departure[layers] - common)
    return np.asarray(TYPICAL_NOISE * np.exp(out))


def estimate_errors(
    products: Mapping[str, xr.DataArray],
    *,
    dependent: Sequence[tuple[str, str]] = DEPENDENT,
    min_samples: int = 100,
    window: int = WINDOW,
) -> xr.Dataset:
    """Estimate the error model of each layer of each product in each cell.

    Parameters
    ----------
    products
        Soil moisture in m3 m-3 by product name, each with the dimensions ``time``, ``layer`` and any others, and the
        coordinates ``layer_top`` and ``layer_bottom`` (m) along ``layer``; NaN where missing.
    dependent
        Pairs of products whose errors are not independent: they never stand in one triplet.
    min_samples
        Complete triples that a triplet needs.
    window
        Cells along each side of the neighbourhood, where the cells lie on ``y`` and ``x``; odd. All cells are one
        neighbourhood where they are a list.

    Returns
    -------
    Dataset with the dimension ``observation`` (coordinates ``product``, ``layer_top``, ``layer_bottom``) and the cells':

    - ``error_variance``: random error variance, (m3 m-3)^2, in the range on which the products agree: the noise-to-signal
      ratio of triple collocation, drawn towards a typical one, times the variance that the products share;
    - ``bias_variance``: mean-square bias, (m3 m-3)^2;
    - ``variance``: of the observation in time, (m3 m-3)^2;
    - ``mean``: time mean, m3 m-3; ``reference_mean``: the same over the days of the other products, as far as they tell;
    - ``r_squared`` with the truth, as triple collocation says it, and ``fmse`` = 1 - r_squared;
    - ``n_samples``: days of the largest triplet; ``status``: 0 triple collocation, 1 the neighbourhood's, 2 the typical ratio,
      3 no data.

    Lazy where a product is backed by dask.

    Raises
    ------
    ValueError
        For one product only, no common day, products that do not fit together, or values that cannot be soil moisture (see
        ``deepprofile.fuse``).

    Notes
    -----
    Extended triple collocation (McColl et al. 2014, doi 10.1002/2014GL061322), layer by layer as in Zhu et al. (2026, doi
    10.1016/j.rse.2026.115408) for two depth bands.
    """
    stack = stack_products(products)
    check_collocatable(stack, min_samples, window)
    return estimate_from_stack(stack, dependent, min_samples, window)


def check_collocatable(stack: Stack, min_samples: int, window: int) -> None:
    """Raise a ValueError where no errors can be estimated from these products."""
    if len(stack.layout.products) < 2:
        raise ValueError(
            f"only the product {stack.layout.products[0]!r} is given: errors are estimated from the differences between "
            "products. Give three or more, or pass known error variances to deepprofile.invert"
        )
    if min_samples < 3:
        raise ValueError(f"min_samples is {min_samples}; a correlation needs at least 3")
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window is {window}; it has to be odd and at least 1")
    presence = np.array([position >= 0 for position in stack.day_positions()])
    if not (presence.sum(axis=0) >= 2).any():
        raise ValueError(
            f"the products {', '.join(map(repr, stack.layout.products))} have no day in common: errors are estimated from days "
            "on which at least two products are there (are their time coordinates right?)"
        )


def estimate_from_stack(stack: Stack, dependent: Sequence[tuple[str, str]], min_samples: int, window: int) -> xr.Dataset:
    """``estimate_errors`` on products that are checked already."""
    layout = stack.layout
    design = plan_comparisons(layout, dependent)
    aligned = [
        _drop_coords(s.chunk({"time": -1, "layer": -1}) if s.chunks is not None else s).rename(layer=f"layer_{p}")
        for p, s in enumerate(stack.aligned())
    ]
    moments = xr.apply_ufunc(
        lambda *arrays: series_moments(arrays, design),
        *aligned,
        input_core_dims=[["time", f"layer_{p}"] for p in range(len(aligned))],
        output_core_dims=[["group", "moment"]],
        join="override",
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={"output_sizes": {"group": len(design.groups), "moment": MOMENTS}},
    )
    pairs_and_triplets = moments.isel(group=slice(layout.size, None), moment=0)
    # Products that all share a source are not compared at all.
    if not stack.lazy and pairs_and_triplets.size and not bool((pairs_and_triplets > 0).any()):
        raise ValueError("the products have no day in common on which two of them hold values: all are NaN there")
    dataset = errors_from_moments(moments, layout, design, min_samples, window)
    return dataset.assign_coords(dict(stack.cell_coords))


class Settings(NamedTuple):
    """Of triple collocation: complete triples that a triplet needs, and cells along each side of a neighbourhood."""

    min_samples: int
    window: int


def block_errors(moments: Array, layout: Layout, design: Design, settings: Settings, inside: tuple[slice, slice]) -> CellModel:
    """The error model of a block of cells, each array (row, column, observation).

    Parameters
    ----------
    moments
        Of the block and half a window around it, as ``series_moments`` gives them and ``Moments.merge`` merges those of parts
        of the record; shape (row, column, group, 10).
    layout, design, settings
        The observations, which series of them are compared, and how.
    inside
        Rows and columns of the block within ``moments``.
    """
    pooled = _sums_to_pool(moments, design=design, min_samples=settings.min_samples)
    for axis in (0, 1):
        pooled = _window_sums(pooled, axis, min(settings.window // 2, pooled.shape[axis] - 1))
    return _estimate(moments[inside], pooled[inside], layout=layout, design=design, min_samples=settings.min_samples)


def errors_from_moments(moments: xr.DataArray, layout: Layout, design: Design, min_samples: int, window: int) -> xr.Dataset:
    """The error model from the moments of each cell, dimensions (..., group, moment), as ``series_moments`` gives them."""
    cell_dims = [dim for dim in moments.dims if dim not in ("group", "moment")]
    sums = xr.apply_ufunc(
        _sums_to_pool,
        moments,
        kwargs={"design": design, "min_samples": min_samples},
        input_core_dims=[["group", "moment"]],
        output_core_dims=[["sum"]],
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={"output_sizes": {"sum": sums_to_pool(design)}},
    )
    pooled = _pool_cells(sums, cell_dims, window)
    out = xr.apply_ufunc(
        _estimate,
        moments,
        pooled,
        kwargs={"layout": layout, "design": design, "min_samples": min_samples},
        input_core_dims=[["group", "moment"], ["sum"]],
        output_core_dims=[[OBSERVATION]] * len(CellModel._fields),
        dask="parallelized",
        output_dtypes=[np.float64] * 7 + [np.int64, np.int8],
        dask_gufunc_kwargs={"output_sizes": {OBSERVATION: layout.size}},
    )
    return _with_attributes(xr.Dataset(dict(zip(CellModel._fields, out, strict=True))), cell_dims, layout)


def labelled(model: CellModel, layout: Layout) -> xr.Dataset:
    """The error model of a block, (row, column, observation), as ``estimate_errors`` returns it: ``observation``, y and x."""
    arrays = {name: (("y", "x", OBSERVATION), values) for name, values in model._asdict().items()}
    return _with_attributes(xr.Dataset(arrays), ["y", "x"], layout)


def _with_attributes(dataset: xr.Dataset, cell_dims: Sequence[Hashable], layout: Layout) -> xr.Dataset:
    dataset = dataset.transpose(OBSERVATION, *cell_dims).assign_coords(layout.coordinates())
    for name in ("error_variance", "bias_variance", "variance"):
        dataset[name].attrs["units"] = "m6 m-6"
    for name in ("mean", "reference_mean"):
        dataset[name].attrs["units"] = "m3 m-3"
    dataset["status"].attrs = {"flag_values": [OWN, NEIGHBOURS, TYPICAL, ABSENT], "flag_meanings": STATUS_MEANINGS}
    return dataset


def labelled_errors(errors: xr.Dataset) -> dict[str, xr.DataArray]:
    """The fields of ``LayerErrors``, in their order, of an error model with labels: without coordinates, their own dimensions.

    Without ``reference_mean`` the ``mean`` serves; without ``status`` all estimates count as ``OWN``.
    """
    variance = errors["error_variance"]
    parts = {
        "error_variance": variance,
        "bias_variance": errors["bias_variance"],
        "mean": errors["reference_mean" if "reference_mean" in errors else "mean"],
        "variance": errors["variance"] if "variance" in errors else xr.full_like(variance, np.nan),
        "status": errors["status"] if "status" in errors else xr.full_like(variance, OWN),
    }
    made = {}
    for name, part in parts.items():
        bare = _drop_coords(part).astype(np.int8 if name == "status" else np.float64)
        made[name] = bare.chunk({OBSERVATION: -1}) if bare.chunks is not None else bare
    return made


def _drop_coords(series: xr.DataArray) -> xr.DataArray:
    return series.drop_vars(list(series.coords))


def _window_sums(values: Array, axis: int, reach: int) -> Array:
    """Sums over ``reach`` cells to either side along an axis, added up in place: two arrays of this size, not six."""
    out = np.zeros_like(values)
    into, of = np.moveaxis(out, axis, 0), np.moveaxis(values, axis, 0)
    for k in range(-reach, reach + 1):
        if k < 0:
            into[:k] += of[-k:]
        else:
            into[k:] += of[: len(of) - k]
    return out


def _pool_cells(sums: xr.DataArray, cell_dims: list[Hashable], window: int) -> xr.DataArray:
    """Sums over each cell's neighbourhood: a window along y and x, everything along the other dimensions.

    Windows are summed term by term, not by running sums: a block with a halo gives what the whole gives, to the byte.
    """
    moving = [dim for dim in ("y", "x") if {"y", "x"} <= set(cell_dims)]
    fixed = [dim for dim in cell_dims if dim not in moving]
    total = sums.sum(fixed) if fixed else sums
    for dim in moving:
        reach = min(window // 2, total.sizes[dim] - 1)
        if total.chunks is None:
            total = total.copy(data=_window_sums(total.values, total.dims.index(dim), reach))
        else:
            total = reduce(add, (total.shift({dim: k}, fill_value=0.0) for k in range(-reach, reach + 1)))
    # One neighbourhood serves many cells.
    whole = total.broadcast_like(sums) if fixed else total
    return whole.transpose(*sums.dims)
