"""The ``invert`` stage against the same engine that reads and writes the same bytes without solving; time and memory by blocks.

    python -m benchmarks.stages

Stores lie on the local disk. Both sides read the same shards of four products, regrid them, and write shards of the same size;
the other side writes what it read. Ratios are of medians of paired runs.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import cast

import numpy as np
from deepprofile.config import Config
from deepprofile.core import kernels
from deepprofile.core.parameters import Parameters
from deepprofile.execution.pools import ThreadPool
from deepprofile.grids.grids import EASE2_M09
from deepprofile.stages import ingest, invert
from deepprofile.stages.domain import days_of
from deepprofile.stages.execute import RunWith, execute
from deepprofile.stages.ingest import ProductIngest
from deepprofile.stages.invert import InvertBlock, Profiles
from deepprofile.stages.pipeline import run_stages
from deepprofile.storage.stores import Root, create, write_shards
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.peak import PeakMemory

START = date(2016, 1, 1)
DAYS_A_BLOCK, CELLS = 64, 64
PAIRS = 5
# Row and column of the grid at which the region begins.
CORNER = (305, 857)
PRODUCTS = ("smap_l4", "gldas_noah", "era5_land", "smap_l3")


def configure(folder: Path, blocks: int, cells: int = CELLS, days: int = DAYS_A_BLOCK) -> Config:
    """A region of so many rows and columns, one block, and as many days as make these blocks."""
    end = START + timedelta(days=days * blocks - 1)
    window = EASE2_M09.window(*CORNER, cells, cells)
    lat, lon = window.lat.tolist(), window.lon.tolist()
    return Config.model_validate(
        {
            "root": str(folder),
            "grid": {"name": "ease2_m09", "bbox": [lon[0], lat[-1], lon[-1], lat[0]]},
            "period": {"start": START, "end": end},
            "products": {name: {"granules": "none"} for name in PRODUCTS},
            "blocks": {"days": days, "cells": cells, "chunk_days": min(16, days), "chunk_cells": min(32, cells)},
            "collocation": {"min_samples": 30, "window": 5},
        }
    )


def fill(config: Config) -> dict[str, str]:
    """Analysis-ready stores of a signal with noise; returns their versions."""
    root, days = Root(config.root), days_of(config)
    rng = np.random.default_rng(0)
    signal = 0.25 + 0.06 * np.sin(np.arange(days.size) / 9.0) + 0.02 * rng.standard_normal(days.size)
    versions = {}
    for name in config.products:
        template, store = ingest.template(ProductIngest.of(config, name)), ingest.store_name(name)
        versions[store] = "made"
        url = root.version(store, "made")
        create(url, template)
        shape = template.shape("soil_moisture")
        days_a_block, cells = config.blocks.days, config.blocks.cells
        for start in range(0, shape[0], days_a_block):
            for row in range(0, shape[2], cells):
                for column in range(0, shape[3], cells):
                    size = (min(cells, shape[2] - row), min(cells, shape[3] - column))
                    part = signal[start : start + days_a_block, None, None, None]
                    noise = 0.03 * rng.standard_normal((part.shape[0], shape[1], *size))
                    write_shards(
                        url, "soil_moisture", (start, 0, row, column), np.clip(part + noise, 0.02, 0.5).astype(np.float32)
                    )
    with root.lease() as lease:
        root.publish(versions, lease)
    return versions


class Unsolved(InvertBlock):
    """Reads and writes what a block of the stage does, but solves nothing: arrays have the shapes of profiles."""

    def solve(
        self,
        series: Mapping[str, NDArray[np.float32]],
        parameters: Parameters,
        filters: Mapping[str, NDArray[np.float32]],
    ) -> kernels.Profiles:
        """What was read in place of the coefficients, and flags and patterns of one day on all of them."""
        day = {name: values[:1] for name, values in series.items()}
        one = super().solve(day, parameters, {name: values[:, :, :1] for name, values in filters.items()})
        degrees = one.coefficients.shape[-1]
        stacked = np.concatenate(list(series.values()), axis=1)[:, :degrees].transpose(2, 3, 0, 1)
        shape = stacked.shape[:-1]
        return kernels.Profiles(stacked, np.broadcast_to(one.flags, shape), np.broadcast_to(one.pattern, shape))


def run(config: Config, versions: dict[str, str], *, solve: bool, threads: int = 2) -> tuple[float, float]:
    """Seconds and MiB of one run of the stage from nothing."""
    root = Root(config.root)
    plan = invert.plan(Profiles.of(config), root, versions)
    if not solve:
        block = cast(InvertBlock, plan.job.compute)
        plan = replace(plan, job=replace(plan.job, compute=Unsolved(**vars(block))))
    for folder in (plan.url, f"{config.root}/runs/invert-{plan.version}"):
        shutil.rmtree(folder, ignore_errors=True)
    with PeakMemory() as memory:
        began = time.perf_counter()
        execute(plan, root, RunWith(ThreadPool(threads), config.compute))
        seconds = time.perf_counter() - began
    return seconds, memory.more / 2**20


def main() -> int:
    """Run the benchmark and print its tables."""
    console = Console(width=110)
    table = Table(title="invert stage on the local disk, two threads", title_justify="left")
    for name in ("blocks", "profiles", "solving (s)", "not solving (s)", "ratio", "s a block", "memory above start (MiB)"):
        table.add_column(name, justify="right")
    for blocks in (1, 2, 4, 8):
        folder = Path(tempfile.mkdtemp(prefix="deepprofile-bench-"))
        try:
            config = configure(folder, blocks)
            versions = fill(config)
            run_stages(config, ("collocate",), ThreadPool(2))
            versions = Root(config.root).current()
            run(config, versions, solve=True)
            run(config, versions, solve=False)
            pairs = [(run(config, versions, solve=True), run(config, versions, solve=False)) for _ in range(PAIRS)]
            solving, idle = (float(np.median([pair[k][0] for pair in pairs])) for k in (0, 1))
            memory = float(np.median([pair[0][1] for pair in pairs]))
            profiles = blocks * DAYS_A_BLOCK * int(np.prod(config.grid.grid().shape))
            row = (
                f"{blocks}",
                f"{profiles:,}",
                f"{solving:.2f}",
                f"{idle:.2f}",
                f"{solving / idle:.2f}",
                f"{solving / blocks:.3f}",
            )
            table.add_row(*row, f"{memory:.0f}")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
