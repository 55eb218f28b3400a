"""The demo: a twin's granules, every stage, and a report that knows the truth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from deepprofile import config as configuration
from deepprofile import twin
from deepprofile.app.page import Section, Table
from deepprofile.app.published import Published
from deepprofile.app.report import write_report
from deepprofile.app.simulated import PARENTS, prepare, simulate
from deepprofile.config import Config
from deepprofile.core.invert import fuse
from deepprofile.evaluation.comparison import plain_average, scores_by_band, step_function_mean
from deepprofile.stages import invert, matchups
from deepprofile.stages.domain import products_of
from deepprofile.stages.matchups import Estimates
from deepprofile.twin.ceiling import ceiling


def judge(world: twin.World, stores: Published) -> pd.DataFrame:
    """Scores against the truth by depth band: medians over cells of RMSE, ubRMSE and R, and what the interval holds."""
    profile = stores.open(invert.STORE).load()
    products = stores.products()
    names = Estimates.of(products_of(stores.config).values())
    assert names.without is not None
    without = fuse({name: products[name] for name in names.parents})
    # The ceiling is that of the products as they came through ingest and regridding.
    best = ceiling(twin.World(world.truth, products, {}, world.stations))

    def estimates(top: float, bottom: float) -> dict[str, xr.DataArray]:
        return {
            str(names.without): without.deepprofile.mean(top, bottom).reset_coords(drop=True),
            **{name: step_function_mean(products[name], top, bottom) for name in PARENTS},
            matchups.AVERAGE: plain_average(products, PARENTS, top, bottom),
        }

    return scores_by_band(twin.DEPTH_BANDS_M, world.truth_mean, profile, estimates, best)


def run_demo(folder: Path, run: Callable[[Config], int], say: Callable[[str], None]) -> tuple[int, list[Path]]:
    """Granules, stages (by ``run``, which returns an exit code) and report; returns the code and what was written."""
    say("simulating a region of 24 x 24 cells for a year")
    world = simulate()
    say("writing its granules in the providers' formats")
    config = configuration.load(prepare(world, folder))
    code = run(config)
    say("writing the report")
    stores = Published.of(config)
    table = judge(world, stores)
    return code, write_report(
        config,
        folder / "report",
        extra=[_truth_section(table)],
        truth=world.truth,
        title="DeepProfile: a region whose soil moisture is known",
    )


def _truth_section(table: pd.DataFrame) -> Section:
    def text(value: float, form: str) -> str:
        return format(value, form) if np.isfinite(value) else ""

    rows = [
        {
            "depth": row["band"],
            "estimate": row["estimate"],
            "RMSE": text(row["rmse"], ".3f"),
            "ubRMSE": text(row["ubrmse"], ".3f"),
            "R": text(row["r"], ".2f"),
            "90 % interval holds": text(row["inside"], ".0%"),
        }
        for row in table.to_dict("records")
    ]
    return Section(
        "Against the truth",
        "Medians over cells, m³ m⁻³. The plain average is that of the three land models' step functions; the ceiling is the "
        "best linear estimator, trained on the truth of half of the cells and scored on the other half (anomalies, hence no "
        "RMSE).",
        table=Table.of(pd.DataFrame(rows), matchups.FUSED),
    )
