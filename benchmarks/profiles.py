"""Accuracy on products that are made from measured profiles: SCAN and USCRN, twelve worlds for each network.

    python -m benchmarks.profiles [--half test] [--memory past] [--data ../shared/data]

Every other station belongs to the tuning half, on which constants may be chosen; figures are those of the test half. Medians
over stations, means over worlds. The ceiling is the best linear estimator from all observations of the day, trained on
the truth of half of the stations and scored on the other; beside it the ceiling that also knows exponential filters of
the retrieval over 3 and 10 days. Last, how much more the profile changes from one day to the next where products come or go.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Literal

import deepprofile as dp
import numpy as np
import pandas as pd
import xarray as xr
from deepprofile import twin
from deepprofile.evaluation.comparison import plain_average, step_function_mean
from deepprofile.evaluation.stations import read_scan
from deepprofile.twin.ceiling import ceiling
from rich.console import Console
from rich.table import Table

PARENTS = ("smap_l4", "gldas_noah", "era5_land")
NOISES, SHARES = (0.3, 0.65, 1.2), (0.2, 0.45)
UNEQUAL = {"smap_l4": 0.7, "gldas_noah": 1.5, "era5_land": 0.8}
MEMORY_DAYS = (3.0, 10.0)
INCHES_M = 0.0254
SCAN_INCHES = (2, 4, 8, 20, 40)
USCRN_CM = (5, 10, 20, 50, 100)
THAWED_C = 1.0
# Where no temperature is measured, ground may be frozen in these months north of this latitude.
FROST_MONTHS, FROST_LATITUDE = (12, 1, 2), 30.0
FEW_INSIDE = 0.75
# Depth bands, and the two depths at which polynomials ring.
PLACES = (*twin.DEPTH_BANDS_M, (0.05, 0.05), (1.0, 1.0))

Fuse = Callable[[Mapping[str, xr.DataArray]], xr.Dataset]
Memory = bool | Literal["past", "both"]
MEMORIES: dict[str, Memory] = {"none": False, "past": "past", "both": "both"}


def sample_data() -> Path:
    """The folder of measured data that lies beside the repository."""
    return Path(os.environ.get("DEEPPROFILE_SAMPLE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def scan(folder: Path) -> xr.DataArray:
    """Daily profiles of SCAN: days on which the ground at 2 inches is thawed; hourly records of other stations."""
    table = pd.read_parquet(folder / "scan_daily" / "scan_daily.parquet")
    columns = [f"sm_{inches}in_pct" for inches in SCAN_INCHES]
    days = pd.date_range(table["date"].min(), "2018-12-31")
    depths = INCHES_M * np.array(SCAN_INCHES)
    found = {}
    for station, given in table.groupby("station"):
        rows = given.set_index("date").reindex(days)
        thawed = rows["st_2in_degC"].to_numpy() > THAWED_C
        found[str(station)] = np.where(thawed, rows[columns].to_numpy(np.float64).T / 100.0, np.nan)
    hourly = read_scan(folder / "scan")
    for station, sensors in hourly.groupby("station"):
        own = sensors.isel(sensor=np.argsort(sensors.depth_top.values, kind="stable"))
        complete = own.sizes["sensor"] == depths.size and np.allclose(own.depth_top, depths, atol=1e-3)
        if str(station) in found or not complete:
            continue
        values = own.soil_moisture.transpose("sensor", "time").reindex(time=days).values.astype(np.float64)
        frost = np.isin(days.month, FROST_MONTHS) & (float(own.latitude[0]) > FROST_LATITUDE)
        found[str(station)] = np.where(frost, np.nan, values)
    return _array(found, depths, days)


def uscrn(folder: Path) -> xr.DataArray:
    """Daily profiles of USCRN in 2020, on days on which the ground at 5 cm is thawed."""
    table = pd.read_parquet(folder / "uscrn" / "crn_2020.parquet")
    days = pd.date_range("2020-01-01", "2020-12-31")
    columns = [f"soil_moisture_{depth}_daily" for depth in USCRN_CM]
    found = {}
    for station, given in table.assign(day=pd.to_datetime(table["lst_date"])).groupby("wban"):
        rows = given.drop_duplicates("day").set_index("day").reindex(days)
        thawed = rows["soil_temp_5_daily"].to_numpy(np.float64) > THAWED_C
        found[str(station)] = np.where(thawed, rows[columns].to_numpy(np.float64).T, np.nan)
    return _array(found, np.array(USCRN_CM) / 100.0, days)


def _array(found: Mapping[str, np.ndarray], depths: np.ndarray, days: pd.DatetimeIndex) -> xr.DataArray:
    coords = {"station": list(found), "depth": depths, "time": days}
    return xr.DataArray(np.stack(list(found.values())), coords, ("station", "depth", "time"))


NETWORKS: dict[str, Callable[[Path], xr.DataArray]] = {"SCAN": scan, "USCRN": uscrn}


def half_of(profiles: xr.DataArray, half: str) -> xr.DataArray:
    """Every other station, those that constants may be tuned on, or the others."""
    return profiles.isel(station=slice({"tuning": 0, "test": 1}[half], None, 2))


def worlds(profiles: xr.DataArray) -> Iterator[twin.ProfileWorld]:
    """Twelve: three levels of noise, two of what models share, equal and unequal models."""
    for seed, (noise, shared, qualities) in enumerate(product(NOISES, SHARES, (None, UNEQUAL))):
        yield twin.from_profiles(profiles, seed, noise=noise, shared=shared, qualities=qualities)


def scores(estimate: xr.DataArray, truth: xr.DataArray) -> dict[str, float]:
    """Medians over stations of RMSE and ubRMSE, m3 m-3, and R, on the days of both."""
    both = estimate.notnull() & truth.notnull()
    estimate, truth = estimate.where(both), truth.where(both)
    error = estimate - truth
    return {
        "rmse": float(((error**2).mean("time") ** 0.5).median()),
        "ubrmse": float(error.std("time").median()),
        "r": float(xr.corr(estimate, truth, "time").median()),
    }


def judge(world: twin.ProfileWorld, fuse: Fuse = dp.fuse) -> pd.DataFrame:
    """One row for each depth band and for two depths: the fused profile beside its yardsticks."""
    profile = fuse(world.products)
    of_day, with_memory = ceiling(world, PLACES), ceiling(world, PLACES, MEMORY_DAYS)
    rows = {}
    for k, (top, bottom) in enumerate(PLACES):
        point = top == bottom
        truth = world.truth_mean(top, bottom)
        fused = profile.deepprofile.at(top) if point else profile.deepprofile.mean(top, bottom)
        interval = (
            profile.deepprofile.interval(0.9, depth=top) if point else profile.deepprofile.mean_interval(0.9, top, bottom)
        )
        known = truth.notnull() & fused.notnull()
        inside = ((truth >= interval.lower) & (truth <= interval.upper)).where(known)
        parents = [scores(step_function_mean(world.products[name], top, bottom), truth) for name in PARENTS]
        own, plain = scores(fused, truth), scores(plain_average(world.products, PARENTS, top, bottom), truth)
        anomaly = truth - truth.where(of_day.isel(band=k, drop=True).notnull()).mean("time")
        day, memory = (scores(best.isel(band=k, drop=True), anomaly)["ubrmse"] for best in (of_day, with_memory))
        rows[f"{100 * top:.0f}" if point else f"{100 * top:.0f}-{100 * bottom:.0f}"] = {
            "rmse": own["rmse"],
            "r": own["r"],
            "rmse_to_plain": own["rmse"] / plain["rmse"],
            "rmse_to_best_parent": own["rmse"] / np.nanmin([each["rmse"] for each in parents]),
            "r_above_best_parent": own["r"] - np.nanmax([each["r"] for each in parents]),
            "ubrmse_to_ceiling": own["ubrmse"] / day,
            "ubrmse_to_memory": own["ubrmse"] / memory,
            "plain_to_ceiling": plain["ubrmse"] / day,
            "inside": float(inside.mean()),
            "few_inside": float((inside.mean("time") < FEW_INSIDE).mean()),
            "width": float((interval.upper - interval.lower).where(known).mean()),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def seams(world: twin.ProfileWorld, memory: Memory = True) -> pd.DataFrame:
    """Variance of a day's change where what is available changes, over that of other days; one row for each depth band.

    ``smap_l3``: the retrieval comes or goes, as it does on half of the days; ``gldas_noah``: it comes or goes, on every day in
    turn.
    """
    errors = dp.estimate_errors(world.products)
    whole = dp.invert(world.products, errors, memory=memory)
    rest = {name: series for name, series in world.products.items() if name != "gldas_noah"}
    without = dp.invert(rest, errors, memory=memory)
    changes = (whole["pattern"] != whole["pattern"].shift(time=1)).isel(time=slice(1, None))
    rows = {}
    for top, bottom in twin.DEPTH_BANDS_M:
        theta, other = (each.deepprofile.mean(top, bottom) for each in (whole, without))
        day = theta.diff("time")
        quiet = float((day**2).where(~changes).mean())
        gone, back = other - theta.shift(time=1), theta - other.shift(time=1)
        change = xr.concat([gone, back], "way").where(~changes)
        rows[f"{100 * top:.0f}-{100 * bottom:.0f}"] = {
            "smap_l3": float((day**2).where(changes).mean()) / quiet,
            "gldas_noah": float((change**2).mean()) / quiet,
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def report(profiles: xr.DataArray, fuse: Fuse = dp.fuse) -> pd.DataFrame:
    """Means over the worlds of some stations."""
    tables = [judge(world, fuse) for world in worlds(profiles)]
    return sum(tables[1:], tables[0]) / len(tables)


COLUMNS = {
    "rmse": ("RMSE", ".3f"),
    "r": ("R", ".3f"),
    "rmse_to_plain": ("RMSE / plain average", ".2f"),
    "rmse_to_best_parent": ("RMSE / best parent", ".2f"),
    "r_above_best_parent": ("R above best parent", "+.3f"),
    "ubrmse_to_ceiling": ("ubRMSE / ceiling", ".2f"),
    "ubrmse_to_memory": ("ubRMSE / ceiling with memory", ".2f"),
    "plain_to_ceiling": ("plain average / ceiling", ".2f"),
    "inside": ("in 90 % interval", ".0%"),
    "few_inside": ("stations under 75 %", ".0%"),
    "width": ("width", ".3f"),
}


SEAM_COLUMNS = {"smap_l3": ("SMAP L3 comes or goes", ".2f"), "gldas_noah": ("GLDAS comes or goes", ".2f")}


def show(console: Console, title: str, found: pd.DataFrame, columns: Mapping[str, tuple[str, str]] = COLUMNS) -> None:
    """Print a table."""
    table = Table(title=title, title_justify="left")
    for name in ("cm", *(heading for heading, _ in columns.values())):
        table.add_column(name, justify="right")
    for band, row in found.iterrows():
        table.add_row(str(band), *(format(row[name], shown) for name, (_, shown) in columns.items()))
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge the networks and print a table for each, and their mean."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--half", choices=("tuning", "test"), default="test", help="which stations")
    parser.add_argument("--memory", choices=tuple(MEMORIES), default="past", help="days of the retrieval that count")
    parser.add_argument(
        "--data", type=Path, help="folder with scan_daily, scan and uscrn (default: shared/data beside this one)"
    )
    options = parser.parse_args(arguments)
    console = Console(width=150)
    folder = options.data or sample_data()
    if not folder.is_dir():
        console.print(f"there is no folder {folder} with measured profiles: name one with --data", soft_wrap=True)
        return 0 if options.data is None else 2
    found, changes = [], []
    for name, read in NETWORKS.items():
        profiles = half_of(twin.screen(read(folder)), options.half)
        found.append(report(profiles, partial(dp.fuse, memory=MEMORIES[options.memory])))
        each = [seams(world, MEMORIES[options.memory]) for world in worlds(profiles)]
        changes.append(sum(each[1:], each[0]) / len(each))
        show(console, f"{name}, {profiles.sizes['station']} stations of the {options.half} half", found[-1])
    show(console, "Mean of both networks", sum(found[1:], found[0]) / len(found))
    title = "Variance of a day's change where the products change, over that of other days; mean of both networks"
    show(console, title, sum(changes[1:], changes[0]) / len(changes), SEAM_COLUMNS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
