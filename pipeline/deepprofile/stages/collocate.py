"""Collocate: analysis-ready stores to the error model of every cell, in two steps.

First the moments of every triplet and pair, block by block of cells, summed over stretches of days and merged in their order;
then the error model, for which a block reads the moments of its cells and of half a window around them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Final

import numpy as np
import zarr

from deepprofile.config import Collocation, Config
from deepprofile.core.collocation import MOMENTS, Moments
from deepprofile.core.error_model import (
    CellModel,
    Design,
    LayerErrors,
    Settings,
    block_errors,
    plan_comparisons,
    series_moments,
    sums_to_pool,
)
from deepprofile.core.layers import Layout
from deepprofile.execution.blocks import Block, Job, Outcome, Workload, grid_blocks
from deepprofile.grids.grids import Grid
from deepprofile.sources.products import Product
from deepprofile.stages import ingest, schemas
from deepprofile.stages.analysis_ready import Source
from deepprofile.stages.domain import Domain, products_of
from deepprofile.stages.plan import Expected, StagePlan, Step, VersionPlan
from deepprofile.stages.schedule import remade_mark
from deepprofile.storage.filesystems import zarr_store
from deepprofile.storage.fingerprints import fingerprint
from deepprofile.storage.roots import Root, part_name
from deepprofile.storage.stores import Template, exists, read_region, write_shards

# The versions of what turns daily means into moments, and moments into the error model.
MOMENTS_ALGORITHM: Final = 2
WEIGHTS_ALGORITHM: Final = 4
MOMENTS_STORE: Final = "moments"
STORE: Final = "weights"
# Moments are summed over stretches of so many days, which begin anew each 1 January, whatever the shards, so that their
# rounding is always the same.
STRETCH_DAYS: Final = 64


def layout_of(products: Iterable[Product]) -> Layout:
    """The observations: every layer of every product, in the order of the products."""
    chosen = tuple(products)
    layers = [(p, layer) for p, product in enumerate(chosen) for layer in product.layers]
    return Layout(
        tuple(product.name for product in chosen),
        np.array([p for p, _ in layers], dtype=np.int64),
        np.array([layer.top_m for _, layer in layers]),
        np.array([layer.bottom_m for _, layer in layers]),
    )


def ard_stores(products: Iterable[Product]) -> list[str]:
    """Names of the analysis-ready stores of some products."""
    return [ingest.store_name(product.name) for product in products]


def sources(products: Iterable[Product], domain: Domain, root: Root, versions: Mapping[str, str]) -> tuple[Source, ...]:
    """The analysis-ready stores of some products, in these versions."""
    return tuple(ingest.source(product, domain, root, versions) for product in products)


@dataclass(frozen=True)
class ErrorModel:
    """What the error model depends on.

    Attributes
    ----------
    domain
        The target grid, and the days whose moments are summed.
    products
        In the order of the configuration.
    settings
        Of triple collocation.
    """

    domain: Domain
    products: tuple[Product, ...]
    settings: Collocation

    @classmethod
    def of(cls, config: Config) -> ErrorModel:
        """As configured."""
        return cls(Domain.of(config), tuple(products_of(config).values()), config.collocation)

    @property
    def comparison(self) -> Comparison:
        """The observations, and the pairs of which both products are there and may not be compared."""
        names = {product.name for product in self.products}
        return Comparison.of(self.products, [pair for pair in self.settings.dependent if set(pair) <= names])


def _moments_template(model: ErrorModel) -> Template:
    _, design = model.comparison.design()
    return schemas.moments(model.domain, len(design.groups))


def weights_template(model: ErrorModel) -> Template:
    """The store of the error model before anything is computed."""
    comparison = model.comparison
    layout, _ = comparison.design()
    algorithms = [WEIGHTS_ALGORITHM, MOMENTS_ALGORITHM, ingest.ALGORITHM, *(product.algorithm for product in model.products)]
    settings = {
        "dependent": [list(pair) for pair in comparison.dependent],
        "min_samples": model.settings.min_samples,
        "window": model.settings.window,
        "period": [str(day) for day in model.domain.days[[0, -1]]],
    }
    return schemas.weights(model.domain, layout, algorithms, settings)


def is_due(model: ErrorModel, root: Root) -> bool:
    """Whether a run has to make a new error model: there is none for these settings, or the published one is old enough.

    It is where the record has grown by ``every_days`` since; while there is less than that, where it has doubled.
    """
    version, every = root.current().get(STORE), model.settings.every_days
    if version is None or every == 0 or not exists(root.version(STORE, version)):
        return True
    found: dict[str, Any] = dict(zarr.open_group(zarr_store(root.version(STORE, version)), mode="r").attrs)
    expected = json.loads(json.dumps(dict(weights_template(model).attrs)))
    if any(found.get(key) != value for key, value in expected.items() if key != "period"):
        return True
    first, last = (np.datetime64(day, "D") for day in found["period"])
    days = model.domain.days
    grown, had = days[-1] - last, last - first + np.timedelta64(1, "D")
    return bool(first != days[0] or grown >= min(np.timedelta64(every, "D"), had))


@lru_cache(maxsize=4)
def _cached_design(
    tops: tuple[tuple[float, float, int], ...], products: tuple[str, ...], pairs: tuple[tuple[str, str], ...]
) -> Any:
    layout = Layout(
        products,
        np.array([p for _, _, p in tops], dtype=np.int64),
        np.array([a for a, _, _ in tops]),
        np.array([b for _, b, _ in tops]),
    )
    return layout, plan_comparisons(layout, pairs)


@dataclass(frozen=True)
class Comparison:
    """The observations and the pairs that may not be compared, small enough to travel with a block."""

    products: tuple[str, ...]
    layers: tuple[tuple[float, float, int], ...]
    dependent: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, products: Iterable[Product], dependent: Iterable[tuple[str, str]]) -> Comparison:
        """Of some products and pairs of them."""
        layout = layout_of(products)
        layers = zip(layout.top.tolist(), layout.bottom.tolist(), layout.product_index.tolist(), strict=True)
        return cls(layout.products, tuple(layers), tuple(dependent))

    def design(self) -> tuple[Layout, Design]:
        """The list of observations and the comparisons; made once by each worker."""
        layout, design = _cached_design(self.layers, self.products, self.dependent)
        return layout, design


@dataclass(frozen=True)
class MomentsBlock:
    """Computes the moments of a block of cells over the whole record."""

    target: Grid
    sources: tuple[Source, ...]
    stretches: tuple[tuple[int, int], ...]
    comparison: Comparison
    url: str

    def __call__(self, block: Block, _: Any) -> Outcome:
        """See ``deepprofile.execution.blocks.Job``."""
        rows, columns = block.region
        _, design = self.comparison.design()
        total: Moments | None = None
        read = 0
        for stretch in self.stretches:
            series = [np.moveaxis(s.read(self.target, stretch, rows, columns), (0, 1), (2, 3)) for s in self.sources]
            read += sum(s.nbytes for s in series)
            part = Moments.from_array(series_moments(series, design))
            total = part if total is None else total.merge(part)
        assert total is not None
        written = write_shards(self.url, "moments", (rows[0], columns[0], 0, 0), total.to_array())
        return Outcome(read, written)


@dataclass(frozen=True)
class WeightsBlock:
    """Computes the error model of a block of cells from the moments of its neighbourhood."""

    target: Grid
    moments_url: str
    comparison: Comparison
    min_samples: int
    window: int
    url: str

    def __call__(self, block: Block, _: Any) -> Outcome:
        """See ``deepprofile.execution.blocks.Job``."""
        rows, columns = block.region
        errors, read = self.errors(rows, columns)
        written = 0
        for name, of_cells in errors._asdict().items():
            values = np.moveaxis(of_cells, -1, 0).astype(schemas.ERROR_MODEL[name][0])
            written += write_shards(self.url, name, (0, rows[0], columns[0]), values)
        return Outcome(read, written)

    def errors(self, rows: tuple[int, int], columns: tuple[int, int]) -> tuple[CellModel, int]:
        """The error model of some cells, (row, column, observation), and the bytes that were read for it."""
        layout, design = self.comparison.design()
        reach = self.window // 2
        top, bottom = max(rows[0] - reach, 0), min(rows[1] + reach, self.target.rows)
        left, right = max(columns[0] - reach, 0), min(columns[1] + reach, self.target.columns)
        values = read_region(self.moments_url, "moments", (slice(top, bottom), slice(left, right)))
        inside = slice(rows[0] - top, rows[1] - top), slice(columns[0] - left, columns[1] - left)
        return block_errors(values, layout, design, Settings(self.min_samples, self.window), inside), values.nbytes


def moments_workload(model: ErrorModel) -> Workload:
    """Blocks of the moments and their cost."""
    grid, days, edge = model.domain.grid, model.domain.days.size, model.domain.blocks.cells
    layout, design = model.comparison.design()
    n, cells, groups = layout.size, model.domain.cells_in_block, len(design.groups)
    stretch = min(STRETCH_DAYS, days)
    return Workload(
        name="collocate: moments",
        blocks=grid_blocks(grid.shape, (edge, edge)),
        # The moments so far, of a stretch, merged, and as a shard; a stretch as read, in the order of the cells, and the next.
        memory_per_block=cells * (4 * groups * MOMENTS * 8 + 6 * stretch * n * 4),
        bytes_in=grid.rows * grid.columns * days * n * 4,
        bytes_out=grid.rows * grid.columns * groups * MOMENTS * 8,
    )


def errors_memory(model: ErrorModel, edge: int) -> int:
    """Bytes that the error model of a square of cells takes while it is made, from the moments of its neighbourhood."""
    grid, reach = model.domain.grid, 2 * (model.settings.window // 2)
    layout, design = model.comparison.design()
    halo = min(edge + reach, grid.rows) * min(edge + reach, grid.columns)
    cells = min(edge, grid.rows) * min(edge, grid.columns)
    groups, n, sums = len(design.groups), layout.size, sums_to_pool(design)
    # Of the neighbourhood: the moments, the sums of each cell and of its window. Of the cells themselves, without the halo: a
    # copy of both, covariances of both, products of the means, and some forty numbers of each triplet.
    return 8 * (
        halo * (groups * MOMENTS + 2 * sums)
        + cells * (groups * MOMENTS + sums + 2 * 6 * groups + 3 * n * n + 40 * len(design.triplets))
    )


def weights_workload(model: ErrorModel) -> Workload:
    """Blocks of the error model and their cost."""
    grid, edge = model.domain.grid, model.domain.blocks.cells
    layout, design = model.comparison.design()
    n, groups = layout.size, len(design.groups)
    return Workload(
        name="collocate: weights",
        blocks=grid_blocks(grid.shape, (edge, edge)),
        memory_per_block=errors_memory(model, edge),
        bytes_in=grid.rows * grid.columns * groups * MOMENTS * 8,
        bytes_out=grid.rows * grid.columns * (n * 29 + 20),
    )


def plan_moments(model: ErrorModel, root: Root, versions: Mapping[str, str]) -> StagePlan:
    """Plan the first step."""
    made, comparison, target = (
        _moments_template(model),
        model.comparison,
        model.domain.grid,
    )
    stores = [part_name(store, year.year) for store in ard_stores(model.products) for year in model.domain.years]
    inputs = {store: versions[store] for store in stores}
    setting = [dict(made.attrs), made.variables["moments"].shards, made.variables["moments"].chunks, comparison, inputs]
    version = fingerprint("moments", MOMENTS_ALGORITHM, setting, *remade_mark(root))
    task = MomentsBlock(
        target,
        sources(model.products, model.domain, root, versions),
        tuple(model.domain.stretches(STRETCH_DAYS)),
        comparison,
        root.version(MOMENTS_STORE, version),
    )

    def mark(block: Block) -> str:
        return fingerprint("moments", version, block.region)

    job = Job(moments_workload(model), task, mark)
    return StagePlan("collocate/moments", MOMENTS_STORE, (VersionPlan(MOMENTS_STORE, version, made, job, task.url, inputs),))


def plan_weights(model: ErrorModel, root: Root, versions: Mapping[str, str]) -> StagePlan:
    """Plan the second step."""
    made, comparison = weights_template(model), model.comparison
    inputs = {MOMENTS_STORE: versions[MOMENTS_STORE]}
    shards = {name: (v.shards, v.chunks) for name, v in made.variables.items()}
    version = fingerprint("weights", WEIGHTS_ALGORITHM, dict(made.attrs), shards, comparison, inputs)
    task = WeightsBlock(
        model.domain.grid,
        root.version(MOMENTS_STORE, versions[MOMENTS_STORE]),
        comparison,
        model.settings.min_samples,
        model.settings.window,
        root.version(STORE, version),
    )

    def mark(block: Block) -> str:
        return fingerprint("weights", version, block.region)

    job = Job(weights_workload(model), task, mark)
    return StagePlan("collocate/weights", STORE, (VersionPlan(STORE, version, made, job, task.url, inputs),))


def read_errors(url: str, rows: slice, columns: slice) -> LayerErrors:
    """The error model of some cells, each (row, column, observation), as ``deepprofile.core.parameters`` takes it."""
    stored = {"mean": "reference_mean"}
    names = [stored.get(name, name) for name in LayerErrors._fields]
    return LayerErrors(*(np.moveaxis(read_region(url, name, (slice(None), rows, columns)), 0, -1) for name in names))


def steps(config: Config) -> list[Step]:
    """The moments, and the error model from them."""
    model = ErrorModel.of(config)
    expected = Expected(model.domain.grid, model.comparison.products)
    of_moments, of_weights = partial(plan_moments, model), partial(plan_weights, model)
    ard = ard_stores(model.products)
    return [
        Step("collocate", MOMENTS_STORE, (*ard,), partial(moments_workload, model), of_moments, expected),
        Step("collocate", STORE, (*ard, MOMENTS_STORE), partial(weights_workload, model), of_weights, expected),
    ]
