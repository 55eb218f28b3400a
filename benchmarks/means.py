"""How often the intervals of basin and month means hold the truth, and how errors of cells and days go together.

    python -m benchmarks.means [--seeds 42 43] [--correlations]

On simulated regions whose truth is known. The correlation lengths and times, and the share of errors that persists, were read
from the seeds 40, 41, 44 and 60 (``--correlations``); what the intervals hold is told of others.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import deepprofile as dp
import numpy as np
import pandas as pd
import xarray as xr
from deepprofile import twin
from deepprofile.twin.granules import region
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.accuracy import UNEQUAL

TUNED = (40, 41, 44, 60)
TOLD = (42, 43, 45, 61, 62, 63)
# The first seeds are of regions with equal land models, those from 60 on of unequal ones.
FIRST_UNEQUAL = 60
YEARS = 3.0
# m and days, by layer.
LENGTHS = {(0.0, 0.1): (75e3, 5.0), (0.0, 1.0): (100e3, 60.0)}
GAPS_DAYS = (1, 3, 7, 15, 30, 60, 90, 182, 365, 730)
GAPS_CELLS = (1, 2, 3, 5, 8, 12, 16, 20)
TILE = 10


def fused(seed: int) -> tuple[twin.World, xr.Dataset]:
    """A simulated region, and its profiles on their grid."""
    world = twin.simulate(years=YEARS, seed=seed, model_errors=UNEQUAL if seed >= FIRST_UNEQUAL else None)
    grid = region(world)
    profile = dp.fuse(world.products).assign_coords(lat=("y", grid.lat), lon=("x", grid.lon))
    return world, profile


def shares(seed: int) -> pd.DataFrame:
    """Shares of basins, months and both whose 90 % interval holds the truth, and how wide it is, by layer and kind of mean."""
    world, profile = fused(seed)
    rows = []
    for (top, bottom), (length, time) in LENGTHS.items():
        truth = world.truth_mean(top, bottom).transpose("time", "y", "x")
        monthly = truth.resample(time="MS").mean()
        cells = profile.isel(y=slice(0, None, 3), x=slice(0, None, 3))
        for name, long, late in (("correlated 1", None, None), ("measured", length, time)):
            rows.append(
                _row(cells.deepprofile, truth.isel(y=slice(0, None, 3), x=slice(0, None, 3)), "cell, day", top, bottom, name)
            )
            of_cells = cells.deepprofile.time_mean("MS", correlation_time=late)
            own = monthly.isel(y=slice(0, None, 3), x=slice(0, None, 3))
            rows.append(_row(of_cells.deepprofile, own, "cell, month", top, bottom, name))
            found = []
            for y in range(0, truth.sizes["y"], TILE):
                for x in range(0, truth.sizes["x"], TILE):
                    place = {"y": slice(y, y + TILE), "x": slice(x, x + TILE)}
                    basin = profile.isel(place).deepprofile.area_mean(correlation_length=long)
                    month = basin.deepprofile.time_mean("MS", correlation_time=late)
                    known = truth.isel(place).mean(("y", "x"))
                    found.append(_row(basin.deepprofile, known, "basin, day", top, bottom, name))
                    found.append(_row(month.deepprofile, known.resample(time="MS").mean(), "basin, month", top, bottom, name))
            rows += found
    return pd.DataFrame(rows).groupby(["layer", "mean", "errors"], sort=False)[["inside", "count", "width"]].sum()


def _row(view: dp.ProfileAccessor, truth: xr.DataArray, of: str, top: float, bottom: float, name: str) -> dict[str, object]:
    within = view.mean_interval(0.9, top, bottom)
    lower, upper = (each.transpose(*truth.dims) for each in (within.lower, within.upper))
    known = lower.notnull().values & truth.notnull().values
    inside = (truth.values >= lower.values) & (truth.values <= upper.values) & known
    width = np.where(known, upper.values - lower.values, 0.0)
    layer = f"{100 * top:g} to {100 * bottom:g} cm"
    return {
        "layer": layer, "mean": of, "errors": name,
        "inside": int(inside.sum()), "count": int(known.sum()), "width": float(width.sum()),
    }  # fmt: skip


def correlations(seed: int) -> pd.DataFrame:
    """Correlation of errors in units of their standard deviation, by days and by cells (9 km) between them; rows are layers."""
    world, profile = fused(seed)
    rows = {}
    for top, bottom in LENGTHS:
        truth = world.truth_mean(top, bottom).transpose("time", "y", "x")
        view = profile.deepprofile
        error = (view.mean(top, bottom).transpose(*truth.dims) - truth) / view.std_mean(top, bottom).transpose(*truth.dims)
        there, z = error.notnull().values, error.fillna(0.0).values
        square = (z**2).sum() / there.sum()

        of_days = [_product(z, there, gap, (0,)) / square for gap in GAPS_DAYS]
        of_cells = [_product(z, there, gap, (1, 2)) / square for gap in GAPS_CELLS]
        names = [f"{gap} d" for gap in GAPS_DAYS] + [f"{gap} cells" for gap in GAPS_CELLS]
        rows[f"{100 * top:g} to {100 * bottom:g} cm"] = dict(zip(names, of_days + of_cells, strict=True))
    return pd.DataFrame(rows).T


def _product(z: NDArray[np.float64], there: NDArray[np.bool_], gap: int, axes: Sequence[int]) -> float:
    """Mean product of errors so far apart along an axis; of several axes, the mean. ``z``: 0 where nothing is there."""
    found = []
    for axis in axes:
        errors, known = z.swapaxes(0, axis), there.swapaxes(0, axis)
        found.append((errors[:-gap] * errors[gap:]).sum() / (known[:-gap] & known[gap:]).sum())
    return float(np.mean(found))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what the intervals hold, or the correlations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", help=f"by default {TOLD}, and {TUNED} for correlations")
    parser.add_argument("--correlations", action="store_true", help="print how errors go together instead")
    options = parser.parse_args(arguments)
    console = Console(width=160)
    seeds = options.seeds or (TUNED if options.correlations else TOLD)
    made = []
    for seed in seeds:
        made.append(correlations(seed) if options.correlations else shares(seed))
        console.print(f"seed {seed}: done")
    total = sum(made[1:], made[0])
    table = Table()
    if options.correlations:
        table.add_column("")
        for column in total.columns:
            table.add_column(str(column), justify="right")
        for layer, row in (total / len(made)).iterrows():
            table.add_row(str(layer), *(f"{value:.2f}" for value in row))
    else:
        for column in ("layer", "mean of", "errors", "holds", "least and most of a seed", "width"):
            table.add_column(column)
        for k, place in enumerate(total.index.to_frame().astype(str).to_numpy()):
            # Every region has the same rows.
            each = [100.0 * float(part["inside"].iloc[k] / part["count"].iloc[k]) for part in made]
            inside, count, width = (float(total[name].iloc[k]) for name in ("inside", "count", "width"))
            held = f"{100.0 * inside / count:.0f} %"
            table.add_row(*place, held, f"{min(each):.0f} to {max(each):.0f} %", f"{width / count:.3f}")
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
