"""``deepprofile extract``: what a data set says of places and areas, as a table or a netCDF file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr
from dask.callbacks import Callback

from deepprofile.analysis import export
from deepprofile.analysis.accessor import ProfileAccessor
from deepprofile.analysis.export import Layer
from deepprofile.analysis.open import open_profile, open_store
from deepprofile.config import ConfigError
from deepprofile.storage.stores import StoreError

CLIMATOLOGY: Final = "climatology"
TABLE, FILE = ".csv", ".nc"
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Asked:
    """What to take from a data set; see the options of ``deepprofile extract``."""

    url: str
    output: Path
    version: str = "latest"
    points: Sequence[tuple[float, float]] = ()
    box: Box | None = None
    polygon: Path | None = None
    days: tuple[np.datetime64 | None, np.datetime64 | None] = (None, None)
    layers: Sequence[Layer] = ()
    depths: Sequence[float] = ()
    level: float = 0.9
    mean: bool | None = None
    period: str | None = None
    correlation_length: float | None = None
    correlation_time: float | None = None
    percentile: bool = False

    def __post_init__(self) -> None:
        places = sum((bool(self.points), self.box is not None, self.polygon is not None))
        if places != 1:
            raise ConfigError(f"{'say where' if not places else 'say one of them'}: --point, --box or --polygon")
        if self.output.suffix not in (TABLE, FILE):
            raise ConfigError(f"{self.output}: name the output .csv (a table) or .nc (netCDF)")
        if not self.output.absolute().parent.is_dir():
            raise ConfigError(f"{self.output}: there is no folder {self.output.parent}")
        if self.points and (self.mean or self.correlation_length is not None):
            raise ConfigError("--mean and --correlation-length are of areas, and --point asks for cells")
        if self.correlation_length is not None and not self.of_area:
            raise ConfigError("--correlation-length is for means of areas: say --mean")
        if self.correlation_time is not None and self.period is None:
            raise ConfigError("--correlation-time is for means of periods: say --period")

    @property
    def of_area(self) -> bool:
        """Whether the mean of an area is asked for: in a table it is, unless cells are."""
        return not self.points and (self.output.suffix == TABLE if self.mean is None else self.mean)


def extract(asked: Asked, on_progress: Callable[[int, int], None] | None = None) -> str:
    """Write what is asked for; returns what was written, in words. Nothing is written where that fails.

    ``on_progress`` is told how many steps are done, and of how many.

    Raises
    ------
    ValueError
        For a place, a depth or a day that the data set does not have, or percentiles where it has no climatology.
    deepprofile.storage.stores.StoreError
        Where there is no data set.
    """
    cells = _days(_places(open_profile(asked.url, asked.version), asked), asked)
    averaged = _means(cells, asked)
    found = averaged.deepprofile.values(asked.layers or None, asked.depths or None, level=asked.level)
    if asked.percentile:
        try:
            climatology = open_store(asked.url, CLIMATOLOGY, asked.version)
        except StoreError as error:
            raise ValueError(f"there are no percentiles without a climatology, which needs ten whole years: {error}") from error
        found = found.assign(percentile=_percentiles(cells, found, climatology, asked))
    with _told(on_progress), export.new_file(asked.output) as part:
        if asked.output.suffix == TABLE:
            frame = export.table(found)
            frame.to_csv(part, index=False, float_format="%.6g")
            return f"{len(frame):,} lines"
        export.for_netcdf(found, averaged).to_netcdf(part, engine="h5netcdf")
    return " x ".join(f"{size} {name}" for name, size in found.sizes.items() if name != "bnds")


def _places(profile: xr.Dataset, asked: Asked) -> xr.Dataset:
    view: ProfileAccessor = profile.deepprofile
    if asked.points:
        lat, lon = zip(*asked.points, strict=True)
        return view.point(list(lat), list(lon))
    return view.box(*asked.box) if asked.box is not None else view.polygon(asked.polygon)


def _days(profile: xr.Dataset, asked: Asked) -> xr.Dataset:
    first, last = asked.days
    found = profile.sel(time=slice(first, last))
    if not found.sizes["time"]:
        there = profile["time"].values[[0, -1]].astype("datetime64[D]")
        raise ValueError(
            f"there is no day from {first or there[0]} to {last or there[1]}: the data set has {there[0]} to {there[1]}"
        )
    return found


def _means(cells: xr.Dataset, asked: Asked) -> xr.Dataset:
    found = cells
    if asked.of_area:
        found = found.deepprofile.area_mean(correlation_length=asked.correlation_length)
    if asked.period is not None:
        found = found.deepprofile.time_mean(asked.period, correlation_time=asked.correlation_time)
    return found


def _percentiles(cells: xr.Dataset, found: xr.Dataset, climatology: xr.Dataset, asked: Asked) -> xr.DataArray:
    """Percentiles of the layers that are found, means of those of cells and days where means are asked for."""
    parts = []
    for top, bottom in found["depth_bnds"].values.tolist():
        if top == bottom:
            raise ValueError("percentiles are those of layers, and --depth asks for a depth")
        part: xr.DataArray = cells.deepprofile.percentile(climatology, top, bottom)
        if asked.of_area:
            part = part.weighted(cells.deepprofile.areas()).mean(("y", "x"), keep_attrs=True)
        if asked.period is not None:
            part = part.resample(time=asked.period).mean(keep_attrs=True)
        parts.append(part.reset_coords(drop=True))
    joined = xr.concat(parts, "layer", coords="minimal", compat="override", combine_attrs="drop_conflicts")
    return joined.transpose(*(dim for dim in found["soil_moisture"].dims if dim in joined.dims))


@contextmanager
def _told(on_progress: Callable[[int, int], None] | None) -> Iterator[None]:
    if on_progress is None:
        yield
        return
    steps = {"done": 0, "all": 0}

    def start(_graph: Any, state: Any) -> None:
        steps["all"] += len(state["ready"]) + len(state["waiting"])

    def finished(*_: Any) -> None:
        steps["done"] += 1
        on_progress(steps["done"], steps["all"])

    with Callback(start_state=start, posttask=finished):
        yield
