"""The International Soil Moisture Network, through its own ``ismn`` package (header and CEOP formats)."""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path

import pandas as pd
import xarray as xr

from deepprofile.stations.dataset import MIN_DAY_FRACTION, SensorRecord, daily_means, to_dataset

GOOD = "G"


def read_ismn(path: str | Path, *, min_day_fraction: float = MIN_DAY_FRACTION) -> xr.Dataset:
    """Soil moisture of every sensor of an ISMN archive (a folder or zip), daily.

    Only values with the quality flag ``G`` are kept. ISMN records are in UTC.

    Returns
    -------
    See ``deepprofile.stations``.

    Raises
    ------
    FileNotFoundError
        If the path does not exist.
    ValueError
        If the archive holds no soil-moisture sensor, or a file that cannot be read.
    """
    from ismn.interface import ISMN_Interface

    if not Path(path).exists():
        raise FileNotFoundError(f"no ISMN archive at {path}")
    records = []
    # The package writes its metadata beside the data and reports on the terminal; neither is wanted here.
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
        with contextlib.redirect_stderr(io.StringIO()):
            archive = ISMN_Interface(str(path), meta_path=scratch, temp_root=scratch, parallel=False)
        read = {Path(sensor.filehandler.file_path).name for *_, sensor in archive.collection.iter_sensors()}
        _refuse_damaged(Path(path), read)
        for network, station, sensor in archive.collection.iter_sensors(variable="soil_moisture"):
            frame = sensor.read_data()
            good = frame.loc[frame["soil_moisture_flag"] == GOOD, "soil_moisture"]
            records.append(
                SensorRecord(
                    network=str(network.name),
                    station=str(station.name),
                    depth_top=float(sensor.depth.start),
                    depth_bottom=float(sensor.depth.end),
                    latitude=float(station.lat),
                    longitude=float(station.lon),
                    values=daily_means(good, _time_step(frame.index), min_day_fraction),
                )
            )
    if not records:
        raise ValueError(f"the ISMN archive at {path} holds no readable soil-moisture sensor")
    return to_dataset(records)


def _refuse_damaged(path: Path, read: set[str]) -> None:
    """The package skips files that it cannot read; here a station that would silently be lacking is an error."""
    damaged = sorted(file.name for file in path.rglob("*_sm_*.stm") if file.name not in read) if path.is_dir() else []
    if damaged:
        others = f", and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        raise ValueError(f"the ISMN file {damaged[0]}{others} cannot be read: it is cut off or damaged; replace or remove it")


def _time_step(index: pd.DatetimeIndex) -> pd.Timedelta:
    """The usual distance of two records: ISMN archives are hourly, some sensors slower."""
    if len(index) < 2:
        return pd.Timedelta(hours=1)
    return pd.Timedelta(pd.Series(index).diff().median())
