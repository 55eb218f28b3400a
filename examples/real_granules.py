"""Real granules through the whole chain: one day of GLDAS Noah, one analysis of SMAP L4, one day of ERA5-Land.

Each goes through ingest to daily means, is regridded to the target grid, and is inverted with given errors. The SMAP day is
compared with the stations of the U.S. Climate Reference Network. The sample data have layers missing (GLDAS below 0.4 m,
the root zone of SMAP L4) and few time steps, which is said and flagged.

    python examples/real_granules.py --output real-granules
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deepprofile as dp
import numpy as np
import pandas as pd
import xarray as xr
from deepprofile.app.published import Published
from deepprofile.config import Config
from deepprofile.evaluation.stations import read_uscrn
from deepprofile.execution.pools import ThreadPool
from deepprofile.stages.pipeline import run_stages
from deepprofile.stages.plan import StageResult
from deepprofile.storage.roots import Root
from rich.console import Console
from rich.table import Table

# Error variances for what a single day cannot tell: the same for every layer.
ERROR_STD = 0.04


@dataclass(frozen=True)
class Day:
    """A real day of one product: where its granules are, where on earth, and on which target grid."""

    product: str
    folder: str
    pattern: str
    date: str
    bbox: tuple[float, float, float, float]
    grid: str
    min_day_fraction: float = 0.75


DAYS = (
    Day("gldas_noah", "gldas", "*A20160101*", "2016-01-01", (-70.0, -30.0, -45.0, -5.0), "latlon_0.25", 0.75),
    Day("smap_l4", "smap_l4", "*.h5", "2020-01-28", (-120.0, 25.0, -70.0, 48.0), "ease2_m36", 0.1),
    Day("era5_land", "era5_land", "*20220101*.nc", "2022-01-01", (-60.0, -19.9, -50.0, -10.0), "ease2_m09"),
)


def default_data() -> Path:
    """The sample data: $DEEPPROFILE_SAMPLE_DATA, or beside the checkout."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("DEEPPROFILE_SAMPLE_DATA", default))


def configure(day: Day, data: Path, output: Path) -> Config:
    """The configuration of one day."""
    document: dict[str, Any] = {
        "root": str(output / day.product),
        "grid": {"name": day.grid, "bbox": day.bbox},
        "period": {"start": day.date, "end": day.date},
        "products": {day.product: {"granules": str(data / day.folder / day.pattern)}},
        "ingest": {"min_day_fraction": day.min_day_fraction},
        "blocks": {"days": 1, "cells": 256, "chunk_cells": 64},
    }
    return Config.model_validate(document)


def ingest(day: Day, data: Path, output: Path) -> tuple[StageResult, dict[str, xr.DataArray]]:
    """Ingest a day, and give it back on the target grid, (time, layer, y, x)."""
    config = configure(day, data, output)
    (result,) = run_stages(config, ("ingest",), ThreadPool(2))
    return result, Published(config, Root(config.root), Root(config.root).current()).products()


def given_errors(products: dict[str, xr.DataArray]) -> xr.DataArray:
    """The same error variance for every layer, as ``deepprofile.invert`` takes it."""
    names, tops, bottoms = [], [], []
    for name, series in products.items():
        names += [name] * series.sizes["layer"]
        tops += series.layer_top.values.tolist()
        bottoms += series.layer_bottom.values.tolist()
    return xr.DataArray(
        np.full(len(names), ERROR_STD**2),
        dims="observation",
        coords={
            "product": ("observation", names),
            "layer_top": ("observation", tops),
            "layer_bottom": ("observation", bottoms),
        },
    )


def against_uscrn(surface: xr.DataArray, grid_lat: np.ndarray, grid_lon: np.ndarray, data: Path, date: str) -> pd.DataFrame:
    """SMAP's surface layer and the sensors at 5 cm of the stations whose cell has a value."""
    stations = read_uscrn(next((data / "uscrn").glob("*.parquet"))).sel(time=date)
    shallow = stations.isel(sensor=np.flatnonzero(np.isclose(stations.depth_top, 0.05) & np.isfinite(stations.soil_moisture)))
    rows = np.abs(grid_lat[:, None] - shallow.latitude.values).argmin(axis=0)
    columns = np.abs(grid_lon[:, None] - shallow.longitude.values).argmin(axis=0)
    inside = (
        (shallow.latitude.values <= grid_lat.max())
        & (shallow.latitude.values >= grid_lat.min())
        & (shallow.longitude.values >= grid_lon.min())
        & (shallow.longitude.values <= grid_lon.max())
    )
    table = pd.DataFrame(
        {
            "station": shallow.station.values,
            "sensor": shallow.soil_moisture.values,
            "smap_l4": surface.values[rows, columns],
        }
    )[inside]
    kept: pd.DataFrame = table.dropna().reset_index(drop=True)
    return kept


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chain on each day; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=default_data(), help="folder of the sample data (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, default=Path("real-granules"), help="folder for the stores (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    if not (options.data / "gldas").is_dir():
        parser.error(f"the sample data are not at {options.data}; name their folder with --data")
    console = Console(width=130 if not sys.stdout.isatty() else None)
    table = Table(title="Real days on the target grid", title_justify="left")
    for column in (
        "product",
        "day",
        "target grid",
        "layer (m)",
        "cells with a value",
        "mean",
        "profile at 5 cm",
        "at 30 cm",
        "std at 30 cm",
    ):
        table.add_column(column, justify="left" if column in ("product", "day", "target grid") else "right")
    for day in DAYS:
        shutil.rmtree(options.output / day.product, ignore_errors=True)
        result, products = ingest(day, options.data, options.output)
        profile = dp.invert(products, given_errors(products))
        series = products[day.product]
        for k in range(series.sizes["layer"]):
            layer = series.isel(time=0, layer=k)
            there = int(np.isfinite(layer).sum())
            first = k == 0
            table.add_row(
                day.product if first else "",
                day.date if first else "",
                day.grid if first else "",
                f"{float(layer.layer_top):g}-{float(layer.layer_bottom):g}",
                f"{there:,}" if there else "none",
                f"{float(layer.mean()):.3f}" if there else "",
                f"{float(profile.deepprofile.at(0.05).mean()):.3f}" if first else "",
                f"{float(profile.deepprofile.at(0.3).mean()):.3f}" if first else "",
                f"{float(profile.deepprofile.std(0.3).mean()):.3f}" if first else "",
            )
        partial = int(profile.deepprofile.flag("partial_product").sum())
        if partial:
            console.print(f"{day.product}: {partial:,} profiles are flagged partial_product, since a layer is missing")
        for problem in result.problems:
            console.print(f"{day.product}: {problem}")
        if day.product == "smap_l4":
            config = configure(day, options.data, options.output)
            grid = config.grid.grid()
            found = against_uscrn(series.isel(time=0, layer=0), grid.lat, grid.lon, options.data, day.date)
            error = found.smap_l4 - found.sensor
            r = np.corrcoef(found.smap_l4, found.sensor)[0, 1]
            console.print(
                f"smap_l4 against {len(found)} USCRN stations at 5 cm: bias {error.mean():+.3f}, RMSE "
                f"{np.sqrt((error**2).mean()):.3f}, R {r:.2f} (across stations, one day)"
            )
    console.print(table)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\nstopped; a new run starts from the beginning", file=sys.stderr)
        sys.exit(130)
