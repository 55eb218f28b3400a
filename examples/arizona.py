"""What fusion adds to SMAP Level 4 at stations of Arizona: cells of 9 km, 2015 to 2019.

SMAP L4 says the means of 0-5 cm and of 0-1 m; SMAP L3 the first of them, on some days of the first two years. They share
brightness temperatures, so that no triplet is left for triple collocation: each layer's error is the typical share of its own
variance, status typical_ratio. What a profile can add is then the shape between two layer means, and a second opinion at the
surface. It is judged by the five sensors of SCAN station 2026 and by the means of the sensors of a SCAN, a USCRN and a SNOTEL
station near the surface and in the root zone, against the step function of L4 and, on days with L3, the plain average of both.

    python examples/arizona.py --output demo-output
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from deepprofile.core.screens import FROZEN_K
from deepprofile.evaluation.comparison import plain_average, step_function_mean
from deepprofile.evaluation.metrics import score_all
from deepprofile.evaluation.stations import SensorRecord, to_dataset
from point_series import (
    RETRIEVAL,
    Case,
    at_sensors,
    beside,
    compare,
    default_data,
    differences_figure,
    distances_km,
    draw,
    fuse_case,
    inside_shares,
    print_differences,
    print_errors,
    print_inside,
    print_sensors,
    with_layers,
)
from rich.console import Console

L4 = "smap_l4"
L4_LAYERS = {"SMAP_surface": (0.0, 0.05), "SMAP_rootzone": (0.0, 1.0)}
PERCENT = 100.0
KELVIN = 273.15
# A pixel of SMAP L3 is 36 km wide: up to here the nearest one holds a cell or lies next to the one that does.
FARTHEST_KM = 36.0
# The sensors of SCAN at 2, 4, 8, 20 and 40 inches, at the depths that its products are compared at, m.
SCAN_DEPTHS = {"sm_2in_pct": 0.05, "sm_4in_pct": 0.1, "sm_8in_pct": 0.2, "sm_20in_pct": 0.5, "sm_40in_pct": 1.0}


class Station(NamedTuple):
    """A station whose sensors are averaged in the file: its network there and here, its name, and the cell that holds it."""

    column: str
    network: str
    name: str
    cell: int


SCAN_2026 = Station("SCAN", "SCAN", "2026", 0)
MEANS = (
    SCAN_2026._replace(name="2026 means"),
    Station("CRN", "USCRN", "53132 means", 41),
    Station("SNOTEL", "SNOTEL", "cell 49 means", 49),
)


def read_products(data: Path) -> dict[str, xr.DataArray]:
    """Daily m3 m-3 of SMAP L4 in all cells, and of SMAP L3 in those that are near a pixel; (cell, time, layer)."""
    table = pd.read_parquet(data / "smap_l4_arizona" / "smv_daily.parquet")
    cells = pd.read_csv(data / "smap_l4_arizona" / "cells.csv").set_index("cell")
    days = pd.DatetimeIndex(np.sort(table["date"].unique()), name="time").as_unit("ns")

    def series(rows: pd.DataFrame, column: str, key: str) -> pd.DataFrame:
        return rows.pivot(index="date", columns=key, values=column).reindex(index=days)

    def array(found: pd.DataFrame) -> xr.DataArray:
        return xr.DataArray(found.to_numpy(np.float32).T, {"time": days}, ("cell", "time"))

    l4 = [array(series(table, column, "cell").reindex(columns=cells.index) / PERCENT) for column in L4_LAYERS]
    pixels = pd.read_csv(data / "smap_l3_conus" / "cells.csv").set_index("cell")
    seen = series(pd.read_parquet(data / "smap_l3_conus" / "smap_l3_conus.parquet"), "smap_l3_am", "cell")
    retrieval = pd.DataFrame(np.nan, index=days, columns=cells.index)
    for cell, place in cells.iterrows():
        away = distances_km(pixels["lat"].to_numpy(), pixels["lon"].to_numpy(), place["lat"], place["lon"])
        if away.min() <= FARTHEST_KM:
            retrieval[cell] = seen[pixels.index[int(away.argmin())]]
    return {
        L4: with_layers(l4, list(L4_LAYERS.values())),
        RETRIEVAL: with_layers([array(retrieval)], [(0.0, 0.05)]),
    }


def read_stations(data: Path) -> tuple[xr.Dataset, tuple[int, ...]]:
    """The sensors of SCAN 2026, and the means of three stations near the surface and in the root zone; the cell of each."""
    folder = data / "smap_l4_arizona"
    cells = pd.read_csv(folder / "cells.csv").set_index("cell")
    table = pd.read_parquet(folder / "smv_daily.parquet").set_index("date")
    single = pd.read_parquet(folder / "scan2026_walnut_gulch_daily.parquet").set_index("date")
    records = []

    def add(station: Station, top: float, bottom: float, percent: pd.Series) -> None:
        latitude, longitude = (float(cells[key].to_dict()[station.cell]) for key in ("lat", "lon"))
        values = percent.dropna() / PERCENT
        records.append(SensorRecord(station.network, station.name, top, bottom, latitude, longitude, values))

    for column, depth in SCAN_DEPTHS.items():
        add(SCAN_2026, depth, depth, single[column])
    for station in MEANS:
        here = thawed_months(table[table["cell"] == station.cell])
        add(station, 0.0, 0.05, here[f"{station.column}_surface"])
        add(station, 0.0, 1.0, here[f"{station.column}_rootzone"])
    dataset = to_dataset(records)
    cell_of = {station.name: station.cell for station in (SCAN_2026, *MEANS)}
    return dataset, tuple(cell_of[name] for name in dataset.station.values.tolist())


def thawed_months(table: pd.DataFrame) -> pd.DataFrame:
    """The days of one cell in those months of the year whose air is above the threshold for frozen ground in the mean.

    No temperature of the ground is in the file.
    """
    month = pd.DatetimeIndex(table.index).month
    air = (0.5 * (table["tmin"] + table["tmax"])).groupby(month).mean() + KELVIN
    return table[np.isin(month, air.index[air > FROZEN_K])]


def arizona_case(data: Path) -> Case:
    """All cells, with the sensors in three of them."""
    stations, cells = read_stations(data)
    return Case("arizona", read_products(data), stations, cells)


def on_retrieval_days(case: Case, estimates: Mapping[str, xr.DataArray]) -> tuple[xr.Dataset, dict[str, xr.DataArray]]:
    """Sensors of cells that have SMAP L3, and the estimates there on its days, with L3 itself and the plain average."""
    retrieval = case.products[RETRIEVAL].isel(layer=0)
    chosen = [number for number, cell in enumerate(case.cells) if bool(retrieval.isel(cell=cell).notnull().any())]
    stations = case.stations.isel(sensor=chosen)
    there = beside([retrieval.isel(cell=case.cells[number]).notnull() for number in chosen])
    out = {name: values.isel(sensor=chosen).where(there) for name, values in estimates.items()}
    alone, average = [], []
    for number in chosen:
        here = {name: series.isel(cell=case.cells[number]) for name, series in case.products.items()}
        top, bottom = (float(case.stations[key][number]) for key in ("depth_top", "depth_bottom"))
        alone.append(step_function_mean(here[RETRIEVAL], top, bottom))
        average.append(plain_average(here, list(here), top, bottom))
    return stations, {**out, RETRIEVAL: beside(alone), "plain average": beside(average).where(there)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the example; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=default_data(), help="folder with smap_l4_arizona/ and smap_l3_conus/")
    parser.add_argument(
        "--output", type=Path, default=Path("demo-output"), help="folder for the figures (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    console = Console(width=160 if not sys.stdout.isatty() else None)
    for folder in ("smap_l4_arizona", "smap_l3_conus"):
        if not (options.data / folder).is_dir():
            console.print(f"there is no folder {options.data / folder}: name the one of the sample data with --data")
            return 2
    options.output.mkdir(parents=True, exist_ok=True)
    case = arizona_case(options.data)
    errors, profiles = fuse_case(case)
    profile = profiles["fused"]
    print_errors(console, case, errors)
    used = ", ".join(f"{name} {int(profile.deepprofile.uses(name).isel(cell=0).sum())}" for name in case.products)
    console.print(f"Days of the first cell that each product was used on: {used}\n")

    estimates = at_sensors(case, profiles)
    scores = [print_sensors(console, score_all(estimates, case.stations["soil_moisture"]), "All days")]
    seen, some = on_retrieval_days(case, estimates)
    scores.append(print_sensors(console, score_all(some, seen["soil_moisture"]), "Days with SMAP L3"))
    labelled = [table.assign(days_of=days) for days, table in zip(("all", RETRIEVAL), scores, strict=True)]
    pd.concat(labelled, ignore_index=True).to_csv(options.output / f"{case.name}_scores.csv", index=False)

    differences = compare(case.stations, estimates, [L4])
    print_differences(console, differences)
    print_differences(console, compare(seen, some, [L4, "plain average"]))
    differences.to_csv(options.output / f"{case.name}_differences.csv", index=False)
    print_inside(console, inside_shares(case.stations, case.cells, profile, estimates["fused"]))
    written = [options.output / f"{case.name}_differences.png"]
    differences_figure(differences, "Fused profile less SMAP L4 at each sensor, 95 % intervals").savefig(written[0], dpi=120)
    for path in [*written, *draw(case, profile, estimates, options.output, [SCAN_2026.name])]:
        console.print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\nstopped; the files written so far stay, and a new run starts from the beginning", file=sys.stderr)
        sys.exit(130)
