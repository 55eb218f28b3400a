"""Fuse real series of the Big Island of Hawaii, 2017, and validate the profiles against three SCAN stations.

GLDAS Noah has its three layers, ERA5-Land only its first, SMAP only its near-surface retrieval: products that lack layers and
days are the normal case. At the stations' own SMAP pixel no day is of recommended quality and too few are valid for triple
collocation, so that the error model falls back to the typical ratio there and says so; a second pixel has enough good days.

    python examples/hawaii.py --output demo-output

Where the sample data are absent the same is done on the twin.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import deepprofile as dp
import numpy as np
import pandas as pd
import xarray as xr
from deepprofile import twin
from deepprofile.comparison import plain_average, step_function_mean
from deepprofile.figures import profiles_figure, section_figure, series_figure
from deepprofile.metrics import score_all, summarise
from deepprofile.screens import is_frozen, is_under_snow
from deepprofile.stations import reaches_profile, read_scan, sensor_estimate
from rich.console import Console
from rich.table import Table

STATIONS = ("2097", "2099", "2103")
PIXEL = (19.42553, -155.53941)
BANDS: tuple[tuple[float, float], ...] = ((0.0, 0.08), (0.08, 0.3), (0.3, 0.7), (0.7, 1.05))
GLDAS_LAYERS = {"SoilMoi0_10cm_inst": (0.0, 0.1), "SoilMoi10_40cm_inst": (0.1, 0.4), "SoilMoi40_100cm_inst": (0.4, 1.0)}


@dataclass(frozen=True)
class Case:
    """One fusion with the stations that judge it."""

    name: str
    products: dict[str, xr.DataArray]
    stations: xr.Dataset
    # Cell of each sensor.
    cells: tuple[int, ...]


def default_data() -> Path:
    """The sample data: $DEEPPROFILE_SAMPLE_DATA, or beside the checkout."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("DEEPPROFILE_SAMPLE_DATA", default))


def _nearest(dataset: xr.Dataset, places: Sequence[tuple[float, float]]) -> list[int]:
    scale = np.cos(np.radians(20.0))
    return [int(np.argmin((dataset.lat.values - lat) ** 2 + (scale * (dataset.lon.values - lon)) ** 2)) for lat, lon in places]


def _layers(values: Sequence[xr.DataArray], layers: Sequence[tuple[float, float]]) -> xr.DataArray:
    tops, bottoms = zip(*layers, strict=True)
    array = xr.concat(values, "layer", join="override").rename(locations="cell")
    array = array.drop_vars([name for name in array.coords if name != "time"])
    array = array.assign_coords(layer_top=("layer", list(tops)), layer_bottom=("layer", list(bottoms)))
    array.attrs = {"units": "m3 m-3"}
    return array


def read_products(folder: Path, places: Sequence[tuple[float, float]], *, recommended_only: bool) -> dict[str, xr.DataArray]:
    """Daily m3 m-3 of the three products at some places (latitude, longitude)."""
    gldas = xr.open_dataset(folder / "gldas_noah025_3h_2.1.nc", engine="h5netcdf")
    gldas = gldas.isel(locations=_nearest(gldas, places)).load()
    thawed = ~(is_frozen(gldas["SoilTMP0_10cm_inst"]) | is_under_snow(gldas["SWE_inst"]))
    noah = []
    for name, (top, bottom) in GLDAS_LAYERS.items():
        volumetric = (gldas[name] / (1000.0 * (bottom - top))).where(thawed).astype(np.float32)
        days = volumetric.resample(time="1D")
        noah.append(days.mean().where(days.count() >= 0.75 * 8))

    era5 = xr.open_dataset(folder / "era5_land_layer1_06utc.nc", engine="h5netcdf")
    era5 = era5.isel(locations=_nearest(era5, places)).load()
    layer1 = era5["swvl1"].where(~is_frozen(era5["stl1"]))
    layer1 = layer1.assign_coords(time=pd.DatetimeIndex(layer1.get_index("time")).floor("D"))

    smap = xr.open_dataset(folder / "smap_l3_36km_am.nc", engine="h5netcdf")
    smap = smap.isel(locations=_nearest(smap, places)).load()
    retrieval = smap["soil_moisture"]
    retrieval = retrieval.where((retrieval >= 0.02) & (retrieval <= 0.5))
    if recommended_only:
        flag = smap["retrieval_qual_flag"]
        retrieval = retrieval.where(np.isfinite(flag) & ((flag.fillna(1).astype(int) & 1) == 0))
    return {
        "gldas_noah": _layers(noah, list(GLDAS_LAYERS.values())),
        "era5_land": _layers([layer1], [(0.0, 0.07)]),
        "smap_l3": _layers([retrieval], [(0.0, 0.05)]),
    }


def hawaii_cases(data: Path) -> list[Case]:
    """The stations' own cells, and the pixel with good retrievals."""
    paths = [data / "scan" / f"{number}.txt.gz" for number in STATIONS]
    stations = read_scan(paths, data / "scan" / "SCAN_sites.csv").sel(time="2017")
    stations = stations.isel(sensor=np.flatnonzero(np.isfinite(stations.soil_moisture).any("time")))
    first = [int(np.flatnonzero(stations.station.values == number)[0]) for number in STATIONS]
    places = [(float(stations.latitude[i]), float(stations.longitude[i])) for i in first]
    cells = tuple(STATIONS.index(name) for name in stations.station.values.tolist())
    folder = data / "hawaii_2017"
    return [
        Case("stations", read_products(folder, places, recommended_only=False), stations, cells),
        Case("pixel", read_products(folder, [PIXEL], recommended_only=True), stations.isel(sensor=[]), ()),
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


def at_sensors(case: Case, series: Mapping[str, xr.DataArray], profiles: Mapping[str, xr.Dataset]) -> dict[str, xr.DataArray]:
    """Each estimate at each sensor, (sensor, time)."""
    parents = [name for name in series if name != "smap_l3"]
    columns: dict[str, list[xr.DataArray]] = {}
    for number, cell in enumerate(case.cells):
        sensor = case.stations.isel(sensor=number)
        top, bottom = float(sensor.depth_top), float(sensor.depth_bottom)
        here = {name: values.isel(cell=cell) for name, values in series.items()}
        for name, profile in profiles.items():
            columns.setdefault(name, []).append(sensor_estimate(profile.isel(cell=cell), top, bottom))
        for name in parents:
            columns.setdefault(name, []).append(step_function_mean(here[name], top, bottom))
        columns.setdefault("plain average", []).append(plain_average(here, parents, top, bottom))
    return {
        name: xr.concat([c.reset_coords(drop=True) for c in parts], "sensor", join="outer").transpose("sensor", "time")
        for name, parts in columns.items()
    }


def fuse_case(case: Case) -> tuple[xr.Dataset, dict[str, xr.Dataset]]:
    """The error model, and the profiles with and without the near-surface retrieval."""
    errors = dp.estimate_errors(case.products)
    without = {name: series for name, series in case.products.items() if name != "smap_l3"}
    return errors, {"fused": dp.invert(case.products, errors), "fused, no SMAP L3": dp.fuse(without)}


def validate(case: Case, profiles: Mapping[str, xr.Dataset]) -> tuple[xr.Dataset, dict[str, xr.DataArray]]:
    """Scores (estimate, sensor) and the estimates at the sensors."""
    estimates = at_sensors(case, case.products, profiles)
    return score_all(estimates, case.stations["soil_moisture"]), estimates


def print_errors(console: Console, case: Case, errors: xr.Dataset) -> None:
    """The error model of the first cell."""
    table = Table(title=f"Error model, {case.name} (first cell)", title_justify="left")
    for column in ("product", "layer (m)", "days in triplet", "random std", "bias std", "R² with truth", "from"):
        table.add_column(column, justify="left" if column in ("product", "from") else "right")
    meanings = errors["status"].attrs["flag_meanings"].split()
    first = errors.isel(cell=0)
    for i in range(first.sizes["observation"]):
        one = first.isel(observation=i)
        r2 = float(one.r_squared)
        table.add_row(
            str(one["product"].item()),
            f"{float(one.layer_top):.2f}-{float(one.layer_bottom):.2f}",
            str(int(one.n_samples)),
            f"{np.sqrt(float(one.error_variance)):.3f}",
            f"{np.sqrt(float(one.bias_variance)):.3f}",
            f"{r2:.2f}" if np.isfinite(r2) else "-",
            meanings[int(one.status)].replace("_", " "),
        )
    console.print(table)


def print_scores(console: Console, scores: xr.Dataset, bands: Sequence[tuple[float, float]]) -> pd.DataFrame:
    """Medians and quartiles of the sensors by network and depth band."""
    summary = summarise(scores, bands)
    table = Table(title="Median over sensors (quartiles), identical samples", title_justify="left")
    for column in ("network", "band", "estimate", "sensors", "days", "RMSE", "ubRMSE", "bias", "R"):
        table.add_column(column, justify="left" if column in ("network", "band", "estimate") else "right")
    for row in summary.to_dict("records"):
        if not row["sensors"]:
            continue
        cells = [
            f"{row[f'{m}_median']:{f}} ({row[f'{m}_q25']:{f}}, {row[f'{m}_q75']:{f}})"
            for m, f in (("rmse", ".3f"), ("ubrmse", ".3f"), ("bias", "+.3f"), ("r", ".2f"))
        ]
        table.add_row(row["network"], row["band"], row["estimate"], str(row["sensors"]), str(row["days"]), *cells)
    console.print(table)
    return summary


def draw(case: Case, profile: xr.Dataset, estimates: Mapping[str, xr.DataArray], output: Path) -> list[Path]:
    """Figures of every station of a case (at most three), or of its first cell."""
    written = []
    names = list(dict.fromkeys(case.stations.station.values.tolist()))[:3]
    for name in names:
        chosen = np.flatnonzero(case.stations.station.values == name)
        cell = case.cells[int(chosen[0])]
        here, sensors = profile.isel(cell=cell), case.stations.isel(sensor=chosen)
        sensors = sensors.reindex(time=here.get_index("time"))
        layers = {key: series.isel(cell=cell) for key, series in case.products.items()}
        usable = here.get_index("time")[np.isfinite(sensors.soil_moisture).any("sensor").values]
        days = [usable[int(q * (usable.size - 1))] for q in (0.1, 0.4, 0.65, 0.9)]
        place = f"{sensors.network.values[0]} {name}"
        figure = profiles_figure(here, sensors, days, layers, f"{place}: profiles and sensors")
        written.append(output / f"{case.name}_{name}_profiles.png")
        figure.savefig(written[-1], dpi=140)
        parts = [
            here.deepprofile.interval(0.9, depth=min(float(t), 1.0))
            if b - t < 1e-6
            else here.deepprofile.mean_interval(0.9, t, b)
            for t, b in zip(sensors.depth_top.values, sensors.depth_bottom.values, strict=True)
        ]
        interval = xr.concat([part.reset_coords(drop=True) for part in parts], "sensor")
        shown = {key: values.isel(sensor=chosen) for key, values in estimates.items() if key != "fused, no SMAP L3"}
        figure = series_figure(shown, interval, sensors, f"{place}: series at each sensor")
        written.append(output / f"{case.name}_{name}_series.png")
        figure.savefig(written[-1], dpi=120)
    cell = case.cells[0] if case.cells else 0
    label = names[0] if names else "19.43 N 155.54 W"
    written.append(output / f"{case.name}_section.png")
    section_figure(profile.isel(cell=cell), f"{label}: soil moisture by time and depth").savefig(written[-1], dpi=120)
    return written


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the example; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=default_data(), help="folder with hawaii_2017/ and scan/")
    parser.add_argument(
        "--output", type=Path, default=Path("demo-output"), help="folder for the figures (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    console = Console(width=160 if not sys.stdout.isatty() else None)
    if (options.data / "hawaii_2017").is_dir() and (options.data / "scan").is_dir():
        cases, bands = hawaii_cases(options.data), BANDS
    else:
        console.print("The sample data of Hawaii are not here (--data names their folder): the same is shown on the twin.")
        cases, bands = [twin_case()], twin.DEPTH_BANDS_M
    options.output.mkdir(parents=True, exist_ok=True)
    for case in cases:
        errors, profiles = fuse_case(case)
        print_errors(console, case, errors)
        profile = profiles["fused"]
        estimates: dict[str, xr.DataArray] = {}
        used = ", ".join(f"{name} {int(profile.deepprofile.uses(name).isel(cell=0).sum())}" for name in case.products)
        console.print(f"Days of the first cell that each product was used on: {used}\n")
        if case.cells:
            assert all(reaches_profile(*pair) for pair in zip(case.stations.depth_top, case.stations.depth_bottom, strict=True))
            scores, estimates = validate(case, profiles)
            print_scores(console, scores, bands).to_csv(options.output / f"{case.name}_scores.csv", index=False)
        for path in draw(case, profile, estimates, options.output):
            console.print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\nstopped; the files written so far stay, and a new run starts from the beginning", file=sys.stderr)
        sys.exit(130)
