"""Ingest: granules of one product to an analysis-ready store of daily means on the product's own grid and layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepprofile.config import Config
from deepprofile.engine import Block, Job, Outcome, Record, fingerprint, grid_blocks
from deepprofile.grids import Grid
from deepprofile.products import GranuleError, Product
from deepprofile.stages.granules import Catalogue, Granule, find_granules, local_copy
from deepprofile.stages.stage import Source, StagePlan, days_of, grid_attributes, space_time_coordinates
from deepprofile.stores import Root, Template, Variable, write_shards

# 2^-15 m3 m-3: far below what any product resolves.
PRECISION: Final = 2.0**-15


def store_name(product: str) -> str:
    """Where the store of a product is, below the root."""
    return f"ard/{product}"


def window(config: Config, name: str) -> Grid:
    """The part of the product's grid that covers the target."""
    return config.product(name).grid.covering(config.grid.grid())


def source(config: Config, root: Root, name: str, version: str) -> Source:
    """The store as later stages read it."""
    layers = tuple((layer.top_m, layer.bottom_m) for layer in config.product(name).layers)
    return Source(name, root.version(store_name(name), version), window(config, name), layers)


def template(config: Config, name: str) -> Template:
    """The store before anything is computed."""
    product, grid, days, blocks = config.product(name), window(config, name), days_of(config), config.blocks
    count = len(product.layers)
    return Template(
        sizes={"time": days.size, "layer": count, "y": grid.rows, "x": grid.columns},
        variables={
            **space_time_coordinates(grid, days),
            "layer_top": Variable(
                ("layer",), "float64", values=np.array([layer.top_m for layer in product.layers]), attrs={"units": "m"}
            ),
            "layer_bottom": Variable(
                ("layer",), "float64", values=np.array([layer.bottom_m for layer in product.layers]), attrs={"units": "m"}
            ),
            "steps": Variable(
                ("time",),
                "uint8",
                shards=(blocks.days,),
                chunks=(blocks.chunk_days,),
                fill=0,
                attrs={"long_name": "time steps that were there", "steps_per_day": product.steps_per_day},
            ),
            "soil_moisture": Variable(
                ("time", "layer", "y", "x"),
                "float32",
                shards=(blocks.days, count, blocks.cells, blocks.cells),
                chunks=(blocks.chunk_days, count, blocks.chunk_cells, blocks.chunk_cells),
                fill=float("nan"),
                precision=PRECISION,
                attrs={"units": "m3 m-3", "long_name": "daily mean volumetric soil moisture", "cell_methods": "time: mean"},
            ),
        },
        attrs={
            **grid_attributes(grid),
            "title": f"{product.title}: daily means",
            "product": name,
            "min_day_fraction": config.ingest.min_day_fraction,
            "coordinates": "lat lon layer_top layer_bottom",
            "block_dims": ["time", "y", "x"],
        },
    )


@dataclass(frozen=True)
class IngestBlock:
    """Computes one block: reads its granules, averages each day's time steps, writes the shard."""

    product: Product
    window: Grid
    first_day: np.datetime64
    min_day_fraction: float
    cache: str | None
    url: str

    def __call__(self, block: Block, granules: Mapping[str, tuple[Granule, ...]]) -> Outcome:
        """See ``deepprofile.engine.Job``."""
        values, counts, recorded, problems, read = self.daily_means(block, granules)
        days, rows, columns = block.region
        written = write_shards(self.url, "soil_moisture", (days[0], 0, rows[0], columns[0]), values)
        if block.index[1:] == (0, 0):
            # The same in every block of these days: one of them writes it.
            written += write_shards(self.url, "steps", (days[0],), np.array(counts, np.uint8))
        details = {"steps": counts, "recorded": recorded}
        return Outcome(read, written, tuple(problems), details)

    def daily_means(
        self, block: Block, granules: Mapping[str, tuple[Granule, ...]]
    ) -> tuple[NDArray[np.float32], list[int], list[int], list[str], int]:
        """Values (day, layer, row, column), time steps and recorded values of each day, problems, bytes read."""
        days, rows, columns = block.region
        part = self.window.window(rows[0], columns[0], rows[1] - rows[0], columns[1] - columns[0])
        values = np.full((days[1] - days[0], len(self.product.layers), *part.shape), np.nan, np.float32)
        counts, recorded = [0] * len(values), [0] * len(values)
        problems: list[str] = []
        read = 0
        for k in range(len(values)):
            today = self.first_day + np.timedelta64(days[0] + k, "D")
            there = granules.get(str(today), ())
            read += sum(granule.size for granule in there)
            found = self._day(today, there, part, problems)
            if found is not None:
                values[k], counts[k], recorded[k] = found
        return values, counts, recorded, problems, read

    def _day(
        self, today: np.datetime64, granules: tuple[Granule, ...], part: Grid, problems: list[str]
    ) -> tuple[NDArray[np.float32], int, int] | None:
        steps: dict[np.datetime64, tuple[NDArray[np.float32], int]] = {}
        twice = [key for key, number in Counter(granule.key for granule in granules).items() if number > 1]
        for key in twice:
            names = ", ".join(granule.url for granule in granules if granule.key == key)
            problems.append(f"{today}: there is more than one granule for {key}: {names}; none of them is used")
        for granule in granules:
            if granule.key in twice:
                continue
            try:
                found = self.product.read(local_copy(granule, self.cache), part, np.array([today]))
            except GranuleError as error:
                problems.append(f"{today}: {error}")
                continue
            for time, values, count in zip(found.times, found.values, found.recorded, strict=True):
                if time in steps:
                    problems.append(f"{today}: {granule.name} holds {time}, which another granule has too; it is not used")
                else:
                    steps[time] = values, int(count)
        missing = self.product.steps_per_day - len(steps)
        if missing > 0 and not any(problem.startswith(f"{today}:") for problem in problems):
            problems.append(f"{today}: {missing} of {self.product.steps_per_day} time steps of {self.product.name} are missing")
        if not steps:
            return None
        # In the order of time: the sum does not depend on the order in which files were found.
        ordered = [steps[time][0] for time in sorted(steps)]
        total, count = np.zeros(ordered[0].shape), np.zeros(ordered[0].shape, np.int32)
        for values in ordered:
            valid = np.isfinite(values)
            total[valid] += values[valid]
            count += valid
        needed = max(int(np.ceil(self.min_day_fraction * self.product.steps_per_day - 1e-9)), 1)
        mean = np.where(count >= needed, total / np.maximum(count, 1), np.nan).astype(np.float32)
        return mean, len(steps), sum(number for _, number in steps.values())


def plan(config: Config, root: Root, name: str) -> StagePlan:
    """Plan the ingest of one product.

    Raises
    ------
    FileNotFoundError
        Where the folder of its granules is not there.
    """
    product, days, made = config.product(name), days_of(config), template(config, name)
    catalogue = find_granules(product, config.products[name].granules, days)
    setting = {
        "attrs": dict(made.attrs),
        "shards": made.variables["soil_moisture"].shards,
        "chunks": made.variables["soil_moisture"].chunks,
    }
    version = fingerprint("ingest", name, str(days[0]), str(days[-1]), setting, catalogue.mark())
    task = IngestBlock(
        product,
        window(config, name),
        days[0],
        config.ingest.min_day_fraction,
        config.ingest.cache,
        root.version(store_name(name), version),
    )

    def granules_of(block: Block) -> dict[str, tuple[Granule, ...]]:
        return catalogue.of(days[slice(*block.region[0])])

    def mark(block: Block) -> str:
        identities = {day: [g.identity for g in there] for day, there in granules_of(block).items()}
        return fingerprint("ingest", name, str(days[0]), block.region, setting, identities)

    return StagePlan(
        stage=f"ingest/{name}",
        store=store_name(name),
        version=version,
        template=made,
        url=task.url,
        job=job(config, name, task, mark, granules_of),
        inputs={"granules": catalogue.count, "folder": config.products[name].granules},
        finish=_Finish(product, days),
    )


def job(config: Config, name: str, compute: Any = None, mark: Any = None, inputs: Any = None) -> Job:
    """Blocks and their cost; what to compute is not needed to plan."""
    product, grid, days, blocks = config.product(name), window(config, name), days_of(config), config.blocks
    layers = len(product.layers)
    sizes = (days.size, grid.rows, grid.columns)
    cells = min(blocks.cells, grid.rows) * min(blocks.cells, grid.columns)
    block_bytes = min(blocks.days, days.size) * layers * cells * 4
    # A granule's chunks may be as wide as its grid: a few fields of the whole grid are unpacked to read a part of them.
    unpacked = 3 * product.grid.rows * product.grid.columns * 4 if product.name == "gldas_noah" else 0
    a_day = product.steps_per_day * layers * cells * 4 * 3 + layers * cells * 12
    return Job(
        name=f"ingest {name}",
        blocks=grid_blocks(sizes, (blocks.days, blocks.cells, blocks.cells)),
        compute=compute,
        fingerprint=mark,
        inputs=inputs,
        memory_per_block=3 * block_bytes + a_day + unpacked,
        bytes_in=days.size * product.steps_per_day * (layers + 2) * grid.rows * grid.columns * 4,
        bytes_out=days.size * layers * grid.rows * grid.columns * 4,
    )


@dataclass(frozen=True)
class _Finish:
    product: Product
    days: NDArray[np.datetime64]

    def __call__(self, records: Mapping[str, Record]) -> list[str]:
        """Days whose granules hold nothing at all, in no block."""
        steps = np.zeros(self.days.size, np.uint8)
        recorded = np.zeros(self.days.size, np.int64)
        length = max((len(r.details["steps"]) for r in records.values()), default=0)
        for record in records.values():
            first = int(record.block.split(".")[0]) * length
            part = slice(first, first + len(record.details["steps"]))
            steps[part] = np.maximum(steps[part], record.details["steps"])
            recorded[part] += record.details["recorded"]
        empty = np.flatnonzero((steps > 0) & (recorded == 0) & self.product.gapless)
        return [f"{self.days[k]}: the granules of {self.product.name} hold no value at all, only fill" for k in empty]


__all__ = ["Catalogue", "IngestBlock", "job", "plan", "source", "store_name", "template", "window"]
