"""Fuse real series of the Big Island of Hawaii and validate the profiles against three SCAN stations.

GLDAS Noah has its three layers, ERA5-Land only its first, SMAP only its near-surface retrieval: products that lack layers and
days are the normal case. At the stations' own SMAP pixel no day is of recommended quality and too few are valid for triple
collocation, so that the error model falls back to the typical ratio there and says so; a second pixel has enough good days.

    python examples/hawaii.py --output demo-output

Another year is read from the folder hawaii_<year> beside that of 2017, from files of the same names. Profiles that others made
are scored beside ours, but not fused: a netCDF file of point series (locations, time) with lat and lon, its layers in m3 m-3.

    python examples/hawaii.py --year 2018 --rival "ESA CCI" esa_cci.nc rzsm_1:0-0.1,rzsm_2:0.1-0.4,rzsm_3:0.4-1

Where the sample data are absent the same is done on the twin.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from deepprofile import twin
from deepprofile.core.screens import is_frozen, is_under_snow
from deepprofile.evaluation.stations import read_scan
from point_series import (
    Case,
    compare,
    default_data,
    differences_figure,
    distances_km,
    draw,
    fuse_case,
    print_differences,
    print_errors,
    print_scores,
    validate,
    with_layers,
)
from rich.console import Console

STATIONS = ("2097", "2099", "2103")
YEAR = 2017
PIXEL = (19.42553, -155.53941)
BANDS: tuple[tuple[float, float], ...] = ((0.0, 0.08), (0.08, 0.3), (0.3, 0.7), (0.7, 1.05))
GLDAS_LAYERS = {"SoilMoi0_10cm_inst": (0.0, 0.1), "SoilMoi10_40cm_inst": (0.1, 0.4), "SoilMoi40_100cm_inst": (0.4, 1.0)}


@dataclass(frozen=True)
class Rival:
    """Profiles that others made: a file of point series, and the layer (m) of each of its variables."""

    name: str
    path: Path
    layers: dict[str, tuple[float, float]]

    @classmethod
    def parse(cls, name: str, path: str, layers: str) -> Rival:
        """From the words of the command line.

        Raises
        ------
        ValueError
            For layers that are not written as variable:top-bottom in m, with commas between them.
        """
        found = {}
        for one in layers.split(","):
            variable, _, depths = one.strip().partition(":")
            try:
                top, bottom = (float(depth) for depth in depths.split("-"))
            except ValueError:
                raise ValueError(
                    f"{one.strip()!r} is no layer of {name!r}: write variable:top-bottom in m, for example rzsm_1:0-0.1"
                ) from None
            found[variable] = (top, bottom)
        return cls(name, Path(path), found)


def _nearest(dataset: xr.Dataset, places: Sequence[tuple[float, float]]) -> list[int]:
    return [int(np.argmin(distances_km(dataset.lat.values, dataset.lon.values, *place))) for place in places]


def _point_series(path: Path, places: Sequence[tuple[float, float]]) -> xr.Dataset:
    """The series of a file that are nearest to some places (latitude, longitude), dimensions (cell, time)."""
    with xr.open_dataset(path, engine="h5netcdf") as series:
        return series.isel(locations=_nearest(series, places)).load().rename(locations="cell")


def _daily(series: xr.DataArray) -> xr.DataArray:
    """One value a day at its start, of a series that has one a day at any hour."""
    return series.assign_coords(time=pd.DatetimeIndex(series.get_index("time")).floor("D"))


def read_products(folder: Path, places: Sequence[tuple[float, float]], *, recommended_only: bool) -> dict[str, xr.DataArray]:
    """Daily m3 m-3 of the three products at some places (latitude, longitude)."""
    gldas = _point_series(folder / "gldas_noah025_3h_2.1.nc", places)
    thawed = ~(is_frozen(gldas["SoilTMP0_10cm_inst"]) | is_under_snow(gldas["SWE_inst"]))
    noah = []
    for name, (top, bottom) in GLDAS_LAYERS.items():
        volumetric = (gldas[name] / (1000.0 * (bottom - top))).where(thawed).astype(np.float32)
        days = volumetric.resample(time="1D")
        noah.append(days.mean().where(days.count() >= 0.75 * 8))

    era5 = _point_series(folder / "era5_land_layer1_06utc.nc", places)
    layer1 = _daily(era5["swvl1"].where(~is_frozen(era5["stl1"])))

    smap = _point_series(folder / "smap_l3_36km_am.nc", places)
    retrieval = smap["soil_moisture"]
    retrieval = retrieval.where((retrieval >= 0.02) & (retrieval <= 0.5))
    if recommended_only:
        flag = smap["retrieval_qual_flag"]
        retrieval = retrieval.where(np.isfinite(flag) & ((flag.fillna(1).astype(int) & 1) == 0))
    return {
        "gldas_noah": with_layers(noah, list(GLDAS_LAYERS.values())),
        "era5_land": with_layers([layer1], [(0.0, 0.07)]),
        "smap_l3": with_layers([retrieval], [(0.0, 0.05)]),
    }


def read_rival(rival: Rival, places: Sequence[tuple[float, float]]) -> xr.DataArray:
    """Daily m3 m-3 of a rival at some places (latitude, longitude)."""
    series = _point_series(rival.path, places)
    if missing := sorted(set(rival.layers) - set(series.data_vars)):
        raise ValueError(f"{rival.path} has no variable {missing[0]!r}; it has {', '.join(map(str, series.data_vars))}")
    return with_layers([_daily(series[variable]) for variable in rival.layers], list(rival.layers.values()))


def hawaii_cases(data: Path, year: int = YEAR, rivals: Sequence[Rival] = ()) -> list[Case]:
    """The stations' own cells, and the pixel with good retrievals."""
    paths = [data / "scan" / f"{number}.txt.gz" for number in STATIONS]
    stations = read_scan(paths, data / "scan" / "SCAN_sites.csv").sel(time=str(year))
    stations = stations.isel(sensor=np.flatnonzero(np.isfinite(stations.soil_moisture).any("time")))
    first = [int(np.flatnonzero(stations.station.values == number)[0]) for number in STATIONS]
    places = [(float(stations.latitude[i]), float(stations.longitude[i])) for i in first]
    cells = tuple(STATIONS.index(name) for name in stations.station.values.tolist())
    folder = data / f"hawaii_{year}"
    others = {rival.name: read_rival(rival, places) for rival in rivals}
    return [
        Case("stations", read_products(folder, places, recommended_only=False), stations, cells, rivals=others),
        Case("pixel", read_products(folder, [PIXEL], recommended_only=True), stations.isel(sensor=[]), (), "19.43 N 155.54 W"),
    ]


def twin_case() -> Case:
    """The same on a world whose truth is known."""
    world = twin.simulate((12, 12), 2, seed=1, stations=6)
    cells = tuple((world.stations.y_index * 12 + world.stations.x_index).values.tolist())
    products = {
        name: series.stack(cell=("y", "x")).reset_index("cell", drop=True).transpose("cell", "time", "layer")
        for name, series in world.products.items()
    }
    return Case("twin", products, world.stations, cells)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the example; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=default_data(), help="folder with hawaii_<year>/ and scan/")
    parser.add_argument("--year", type=int, default=YEAR, help="which year (default: %(default)s)")
    parser.add_argument(
        "--rival",
        nargs=3,
        action="append",
        default=[],
        metavar=("NAME", "FILE", "LAYERS"),
        help="profiles to score beside ours: a name, a file, and variable:top-bottom in m for each layer, with commas between",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("demo-output"), help="folder for the figures (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    console = Console(width=160 if not sys.stdout.isatty() else None)
    if (options.data / f"hawaii_{options.year}").is_dir() and (options.data / "scan").is_dir():
        rivals = [Rival.parse(*words) for words in options.rival]
        cases, bands = hawaii_cases(options.data, options.year, rivals), BANDS
    else:
        console.print(
            f"The sample data of Hawaii {options.year} are not here (--data names their folder): the same is shown on the twin."
        )
        cases, bands = [twin_case()], twin.DEPTH_BANDS_M
    options.output.mkdir(parents=True, exist_ok=True)
    for case in cases:
        errors, profiles = fuse_case(case)
        print_errors(console, case, errors)
        profile = profiles["fused"]
        estimates: dict[str, xr.DataArray] = {}
        used = ", ".join(f"{name} {int(profile.deepprofile.uses(name).isel(cell=0).sum())}" for name in case.products)
        console.print(f"Days of the first cell that each product was used on: {used}\n")
        written = []
        if case.cells:
            scores, estimates = validate(case, profiles)
            print_scores(console, scores, bands).to_csv(options.output / f"{case.name}_scores.csv", index=False)
            differences = compare(case.stations, estimates, ["gldas_noah", *case.rivals])
            print_differences(console, differences)
            differences.to_csv(options.output / f"{case.name}_differences.csv", index=False)
            figure = differences_figure(differences, "Fused profile less others at each sensor, 95 % intervals")
            written.append(options.output / f"{case.name}_differences.png")
            figure.savefig(written[-1], dpi=120)
        for path in [*written, *draw(case, profile, estimates, options.output)]:
            console.print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\nstopped; the files written so far stay, and a new run starts from the beginning", file=sys.stderr)
        sys.exit(130)
