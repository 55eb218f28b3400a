"""Accuracy on worlds whose truth is known: the fused profile, each parent, the plain average, and the ceiling.

    python -m benchmarks.accuracy [--seeds 40 41] [--unequal 60]

Medians over cells of scores against the truth, by depth band. The ceiling is the best linear estimator from all
observations of the day, trained on the truth of half of the cells and scored on the other half. What is within reach are the
anomalies of the ceiling about the time mean that the fused profile has if the size of every bias is handed to it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence

import deepprofile as dp
import pandas as pd
import xarray as xr
from deepprofile import twin
from deepprofile.evaluation.comparison import plain_average, scores_by_band, step_function_mean
from deepprofile.twin.ceiling import ceiling
from rich.console import Console
from rich.table import Table

PARENTS = ("smap_l4", "gldas_noah", "era5_land")
UNEQUAL = {"era5_land": 0.75, "gldas_noah": 1.3}
TEST_SEED = 42
SEEDS = (40, 41, 43, 44, 45)
UNEQUAL_TEST_SEED = 61
UNEQUAL_SEEDS = (60, 62)


def judge(world: twin.World) -> pd.DataFrame:
    """One row for each depth band and estimate, with the share of days whose 90 % interval holds the truth."""
    profile = dp.fuse(world.products)
    without = dp.fuse({name: series for name, series in world.products.items() if name != "smap_l3"})
    best, told = ceiling(world), _told(world)

    def estimates(top: float, bottom: float) -> dict[str, xr.DataArray]:
        reach = best.isel(band=twin.DEPTH_BANDS_M.index((top, bottom)))
        return {
            "fused, no SMAP L3": without.deepprofile.mean(top, bottom),
            **{name: step_function_mean(world.products[name], top, bottom) for name in PARENTS},
            "plain average": plain_average(world.products, PARENTS, top, bottom),
            "within reach": reach + told.deepprofile.mean(top, bottom).mean("time"),
        }

    return scores_by_band(twin.DEPTH_BANDS_M, world.truth_mean, profile, estimates, best)


def _told(world: twin.World) -> xr.Dataset:
    """The fused profile if the mean-square bias of every layer over the region is known."""
    errors = dp.estimate_errors(world.products)
    squares = []
    for series in world.products.values():
        for k in range(series.sizes["layer"]):
            one = series.isel(layer=k)
            truth = world.truth_mean(float(one.layer_top), float(one.layer_bottom)).where(one.notnull())
            squares.append(float(((one - truth).mean("time") ** 2).mean()))
    told = xr.zeros_like(errors.bias_variance) + xr.DataArray(squares, dims="observation")
    return dp.invert(world.products, errors.assign(bias_variance=told.where(errors.bias_variance.notnull())))


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """By depth band: the fused profile beside its yardsticks."""
    wide = table.pivot(index="band", columns="estimate", values=["rmse", "ubrmse", "r"])
    wide = wide.loc[table["band"].unique()]
    coverage = table[table.estimate == "fused"].set_index("band")["inside"]
    return pd.DataFrame(
        {
            "rmse": wide["rmse"]["fused"],
            "r": wide["r"]["fused"],
            "best_parent_rmse": wide["rmse"][list(PARENTS)].T.min(),
            "best_parent_r": wide["r"][list(PARENTS)].T.max(),
            "plain_rmse": wide["rmse"]["plain average"],
            "plain_r": wide["r"]["plain average"],
            "rmse_to_plain": wide["rmse"]["fused"] / wide["rmse"]["plain average"] - 1.0,
            "reach_to_plain": wide["rmse"]["within reach"] / wide["rmse"]["plain average"] - 1.0,
            "ubrmse_to_ceiling": wide["ubrmse"]["fused"] / wide["ubrmse"]["ceiling"] - 1.0,
            "plain_to_ceiling": wide["ubrmse"]["plain average"] / wide["ubrmse"]["ceiling"] - 1.0,
            "rmse_without_l3": wide["rmse"]["fused, no SMAP L3"],
            "inside": coverage,
        }
    )


def _print(console: Console, title: str, found: pd.DataFrame) -> None:
    table = Table(title=title, title_justify="left")
    for column in (
        "cm", "fused RMSE", "R", "best parent RMSE", "R", "plain average RMSE", "R", "RMSE against plain",
        "within reach", "ubRMSE above ceiling", "plain above ceiling", "RMSE without SMAP L3", "90 % interval holds",
    ):  # fmt: skip
        table.add_column(column, justify="right")
    for band, row in found.iterrows():
        table.add_row(
            str(band),
            *(f"{row[c]:.3f}" for c in ("rmse", "r", "best_parent_rmse", "best_parent_r", "plain_rmse", "plain_r")),
            *(f"{row[c]:+.0%}" for c in ("rmse_to_plain", "reach_to_plain", "ubrmse_to_ceiling", "plain_to_ceiling")),
            f"{row['rmse_without_l3']:.3f}",
            f"{row['inside']:.0%}",
        )
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge the twins and print a table for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[TEST_SEED, *SEEDS], help="twins with equal parents")
    parser.add_argument(
        "--unequal", type=int, nargs="*", default=[UNEQUAL_TEST_SEED, *UNEQUAL_SEEDS], help="twins with unequal parents"
    )
    options = parser.parse_args(arguments)
    console = Console(width=150)
    cases: list[tuple[str, int, Mapping[str, float] | None]] = [("equal parents", s, None) for s in options.seeds]
    cases += [("unequal parents", s, UNEQUAL) for s in options.unequal]
    found = []
    for name, seed, errors in cases:
        found.append(summary(judge(twin.simulate(seed=seed, model_errors=errors))))
        _print(console, f"Seed {seed}, {name}", found[-1])
    if len(found) > 1:
        _print(console, f"Mean of {len(found)} twins", sum(found[1:], found[0]) / len(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
