"""NOAA USCRN daily soil moisture at 5, 10, 20, 50 and 100 cm, by days of local standard time."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from deepprofile.stations.dataset import VALID_RANGE, SensorRecord, to_dataset

_COLUMN = re.compile(r"^soil_moisture_(\d+)_daily$")


def read_uscrn(path: str | Path) -> xr.Dataset:
    """Daily soil moisture of USCRN stations from a parquet table of the daily product.

    The record has days of local standard time only, which cannot be moved to UTC: ``day_offset_hours`` states by how much
    they start later than those of UTC (the longitude's 15-degree zone).

    Returns
    -------
    See ``deepprofile.stations``.

    Raises
    ------
    ValueError
        If a column that is needed is missing.
    """
    table = pd.read_parquet(path)
    depths = {column: int(match[1]) / 100.0 for column in table.columns if (match := _COLUMN.match(column))}
    needed = {"wban", "lst_date", "longitude", "latitude"}
    if missing := needed - set(table.columns):
        raise ValueError(f"{Path(path).name} is no USCRN daily table: it lacks {', '.join(sorted(missing))}")
    if not depths:
        raise ValueError(f"{Path(path).name} has no column soil_moisture_<cm>_daily")
    low, high = VALID_RANGE
    records = []
    for station, rows in table.groupby("wban", sort=True):
        rows = rows.drop_duplicates("lst_date").set_index("lst_date").sort_index()
        longitude = float(np.median(rows["longitude"]))
        for column, depth in depths.items():
            values = rows[column].where((rows[column] > low) & (rows[column] <= high)).astype(np.float32)
            if values.notna().any():
                records.append(
                    SensorRecord(
                        network="USCRN",
                        station=str(station),
                        depth_top=depth,
                        depth_bottom=depth,
                        latitude=float(np.median(rows["latitude"])),
                        longitude=longitude,
                        values=values,
                        day_offset_hours=-float(np.round(longitude / 15.0)),
                    )
                )
    return to_dataset(records)
