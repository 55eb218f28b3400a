"""What the examples on point series share: cells with the sensors that judge them, scores, paired differences, figures."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import deepprofile as dp
import numpy as np
import pandas as pd
import xarray as xr
from deepprofile.analysis.plots import FUSED, OTHERS
from deepprofile.app.figures import profiles_figure, section_figure, series_figure
from deepprofile.evaluation.comparison import plain_average, step_function_mean
from deepprofile.evaluation.metrics import COMPARED, MIN_SAMPLES, score_all, score_differences, summarise
from deepprofile.evaluation.stations import reaches_profile, sensor_estimate
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

Array = NDArray[np.float64]
# A near-surface retrieval: its days are few, and a comparison on identical days would be left with these.
RETRIEVAL = "smap_l3"
# Coordinates that tell a sensor from others.
SENSOR = ("network", "station", "depth_top", "depth_bottom")
# Scores whose differences are told, and what they are called.
SHOWN = {"r": "R", "ubrmse": "ubRMSE", "rmse": "RMSE"}


@dataclass(frozen=True)
class Case:
    """One fusion with the sensors that judge it.

    Attributes
    ----------
    name
        Begins the names of the files that are written.
    products
        What is fused, as ``deepprofile.fuse`` takes it, with the dimensions (cell, time, layer).
    stations
        Sensors as ``deepprofile.evaluation.stations`` gives them, dimensions (sensor, time).
    cells
        Cell of each sensor.
    place
        What the first cell is called where it has no sensor.
    rivals
        Profiles that others made, like ``products``: scored at the same sensors, not fused.
    """

    name: str
    products: dict[str, xr.DataArray]
    stations: xr.Dataset
    cells: tuple[int, ...]
    place: str = ""
    rivals: dict[str, xr.DataArray] = field(default_factory=dict)

    @property
    def parents(self) -> list[str]:
        """The products that are there every day."""
        return [name for name in self.products if name != RETRIEVAL]


def default_data() -> Path:
    """The sample data: $DEEPPROFILE_SAMPLE_DATA, or beside the checkout."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("DEEPPROFILE_SAMPLE_DATA", default))


def distances_km(latitudes: Array, longitudes: Array, latitude: float, longitude: float) -> Array:
    """Great-circle distances of places from one place (degrees), km."""
    radius = 6371.0
    a, b = np.radians(latitudes), np.radians(latitude)
    haversine = np.sin(0.5 * (a - b)) ** 2 + np.cos(a) * np.cos(b) * np.sin(0.5 * np.radians(longitudes - longitude)) ** 2
    return np.asarray(2.0 * radius * np.arcsin(np.sqrt(haversine)))


def with_layers(values: Sequence[xr.DataArray], layers: Sequence[tuple[float, float]]) -> xr.DataArray:
    """Series of the layers (m) of one product, each (cell, time) in m3 m-3, as ``deepprofile.fuse`` takes a product."""
    tops, bottoms = zip(*layers, strict=True)
    array = xr.concat(values, "layer", join="override")
    array = array.drop_vars([name for name in array.coords if name != "time"])
    array = array.assign_coords(layer_top=("layer", list(tops)), layer_bottom=("layer", list(bottoms)))
    array.attrs = {"units": "m3 m-3"}
    return array


def fuse_case(case: Case) -> tuple[xr.Dataset, dict[str, xr.Dataset]]:
    """The error model, and the profiles with and without the near-surface retrieval.

    Two products and more without the retrieval have an error model of their own; one alone keeps that of all.
    """
    errors = dp.estimate_errors(case.products)
    without = {name: case.products[name] for name in case.parents}
    alone = dp.fuse(without) if len(without) > 1 else dp.invert(without, errors)
    return errors, {"fused": dp.fuse(case.products), "fused, no SMAP L3": alone}


def at_sensors(case: Case, profiles: Mapping[str, xr.Dataset]) -> dict[str, xr.DataArray]:
    """Each estimate at each sensor, (sensor, time): profiles, the step functions of parents and rivals, the plain average."""
    columns: dict[str, list[xr.DataArray]] = {}
    for number, cell in enumerate(case.cells):
        sensor = case.stations.isel(sensor=number)
        top, bottom = float(sensor.depth_top), float(sensor.depth_bottom)
        for name, profile in profiles.items():
            columns.setdefault(name, []).append(sensor_estimate(profile.isel(cell=cell), top, bottom))
        here = {name: case.products[name].isel(cell=cell) for name in case.parents}
        stepped = here | {name: series.isel(cell=cell) for name, series in case.rivals.items()}
        for name, series in stepped.items():
            columns.setdefault(name, []).append(step_function_mean(series, top, bottom))
        if len(case.parents) > 1:
            columns.setdefault("plain average", []).append(plain_average(here, case.parents, top, bottom))
    return {name: beside(parts) for name, parts in columns.items()}


def beside(parts: Sequence[xr.DataArray]) -> xr.DataArray:
    """Series of several sensors as one array (sensor, time)."""
    return xr.concat([part.reset_coords(drop=True) for part in parts], "sensor", join="outer").transpose("sensor", "time")


def validate(case: Case, profiles: Mapping[str, xr.Dataset]) -> tuple[xr.Dataset, dict[str, xr.DataArray]]:
    """Scores (estimate, sensor) and the estimates at the sensors."""
    assert all(reaches_profile(bottom) for bottom in case.stations.depth_bottom)
    estimates = at_sensors(case, profiles)
    return score_all(estimates, case.stations["soil_moisture"]), estimates


def compare(
    stations: xr.Dataset, estimates: Mapping[str, xr.DataArray], rivals: Sequence[str], name: str = "fused"
) -> pd.DataFrame:
    """Scores of one estimate less those of several rivals at each sensor, on days that both have, with 95 % intervals.

    ``estimates`` by name, each (sensor, time). One row for each sensor and rival that have enough common days: as
    ``deepprofile.evaluation.metrics.score_differences`` gives them.
    """
    truth = stations["soil_moisture"].reset_coords(drop=True)
    tables = []
    for rival in rivals:
        found = score_differences(estimates[name], estimates[rival], truth).to_dataframe().reset_index(drop=True)
        keys = {key: stations[key].values for key in SENSOR}
        tables.append(pd.concat([pd.DataFrame({**keys, "estimate": name, "rival": rival}), found], axis=1))
    whole = pd.concat(tables, ignore_index=True)
    return whole[whole["n"] >= MIN_SAMPLES].reset_index(drop=True)


def verdicts(differences: pd.DataFrame) -> pd.DataFrame:
    """At how many sensors the estimate is significantly better and worse than each rival, by metric."""
    rows = []
    for rival, part in differences.groupby("rival", sort=False):
        for metric in SHOWN:
            ends = COMPARED[metric] * part[[f"{metric}_lower", f"{metric}_upper"]].to_numpy()
            better, worse = int((ends > 0.0).all(axis=1).sum()), int((ends < 0.0).all(axis=1).sum())
            rows.append({"rival": rival, "metric": metric, "better": better, "worse": worse, "sensors": len(part)})
    return pd.DataFrame(rows)


def inside_shares(
    stations: xr.Dataset, cells: Sequence[int], profile: xr.Dataset, estimate: xr.DataArray, level: float = 0.9
) -> pd.DataFrame:
    """Share of days on which a sensor lies in the profile's interval: with time means, and of the anomalies of both.

    ``estimate`` (sensor, time) is the profile at the sensors. A sensor is a point and may differ from its cell by a constant,
    which anomalies do not have.
    """
    interval = at_interval(stations, cells, profile, level)
    truth, lower, upper, estimate = xr.align(
        stations["soil_moisture"].reset_coords(drop=True), interval.lower, interval.upper, estimate, join="inner"
    )
    known = truth.notnull() & estimate.notnull()
    offset = (truth - estimate).where(known).mean("time")
    shares = {}
    for name, shift in (("inside", 0.0), ("inside_anomalies", offset)):
        shares[name] = ((truth - shift >= lower) & (truth - shift <= upper)).where(known).mean("time").values
    keys = {key: stations[key].values for key in SENSOR}
    return pd.DataFrame({**keys, "days": known.sum("time").values, **shares})


def at_interval(stations: xr.Dataset, cells: Sequence[int], profile: xr.Dataset, level: float = 0.9) -> xr.Dataset:
    """Interval of the profile at each sensor: ``lower`` and ``upper``, (sensor, time)."""
    parts = []
    for number, cell in enumerate(cells):
        here = profile.isel(cell=cell).deepprofile
        top, bottom = (min(float(stations[key][number]), 1.0) for key in ("depth_top", "depth_bottom"))
        one = here.interval(level, depth=top) if bottom - top < 1e-6 else here.mean_interval(level, top, bottom)
        parts.append(one.reset_coords(drop=True))
    return xr.Dataset({end: beside([part[end] for part in parts]) for end in ("lower", "upper")})


def print_errors(console: Console, case: Case, errors: xr.Dataset, cell: int = 0) -> None:
    """The error model of one cell."""
    which = "first cell" if cell == 0 else f"cell {cell}"
    table = Table(title=f"Error model, {case.name} ({which})", title_justify="left")
    for column in ("product", "layer (m)", "days in triplet", "random std", "bias std", "R² with truth", "from"):
        table.add_column(column, justify="left" if column in ("product", "from") else "right")
    meanings = errors["status"].attrs["flag_meanings"].split()
    here = errors.isel(cell=cell)
    for i in range(here.sizes["observation"]):
        one = here.isel(observation=i)
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


def print_scores(
    console: Console, scores: xr.Dataset, bands: Sequence[tuple[float, float]], title: str = "Median over sensors (quartiles)"
) -> pd.DataFrame:
    """Medians and quartiles of the sensors by network and depth band."""
    summary = summarise(scores, bands)
    table = Table(title=f"{title}, identical samples", title_justify="left")
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


def print_sensors(console: Console, scores: xr.Dataset, title: str) -> pd.DataFrame:
    """Every estimate at each sensor; ``scores`` from ``deepprofile.evaluation.metrics.score_all``."""
    table = Table(title=f"{title}, identical samples", title_justify="left")
    for column in ("station", "sensor", "estimate", "days", "RMSE", "ubRMSE", "bias", "R"):
        table.add_column(column, justify="left" if column in ("station", "sensor", "estimate") else "right")
    rows = []
    for number in range(scores.sizes["sensor"]):
        here = scores.isel(sensor=number)
        for name in here["estimate"].values.tolist():
            one = here.sel(estimate=name)
            if not int(one["n"]):
                continue
            row = {key: one[key].item() for key in (*SENSOR, "n", "rmse", "ubrmse", "bias", "r")}
            rows.append({"estimate": name, **row})
            table.add_row(
                f"{row['network']} {row['station']}",
                depth_label(row["depth_top"], row["depth_bottom"]),
                name,
                str(row["n"]),
                f"{row['rmse']:.3f}",
                f"{row['ubrmse']:.3f}",
                f"{row['bias']:+.3f}",
                f"{row['r']:.2f}",
                end_section=name == here["estimate"].values[-1],
            )
    console.print(table)
    return pd.DataFrame(rows)


def print_inside(console: Console, shares: pd.DataFrame) -> None:
    """Shares of days inside the 90 % interval, with time means and of anomalies."""
    table = Table(title="Days on which the sensor lies in the 90 % interval", title_justify="left")
    for column in ("station", "sensor", "days", "with time means", "anomalies"):
        table.add_column(column, justify="left" if column in ("station", "sensor") else "right")
    for row in shares.to_dict("records"):
        label = depth_label(row["depth_top"], row["depth_bottom"])
        cells = (f"{row['inside']:.0%}", f"{row['inside_anomalies']:.0%}")
        table.add_row(f"{row['network']} {row['station']}", label, str(row["days"]), *cells)
    console.print(table)


def depth_label(top: float, bottom: float) -> str:
    """A sensor's depth or layer (m) in cm."""
    return f"{100 * top:.0f} cm" if bottom - top < 1e-6 else f"{100 * top:.0f}-{100 * bottom:.0f} cm"


def print_differences(console: Console, differences: pd.DataFrame) -> None:
    """Paired differences at each sensor, and at how many they are significant."""
    for (name, rival), part in differences.groupby(["estimate", "rival"], sort=False):
        title = f"{name} less {rival} on identical days (95 % of block-bootstrap resamples; * all on one side of zero)"
        table = Table(title=title, title_justify="left")
        for column in ("station", "sensor", "days", "R", "ubRMSE", "RMSE"):
            table.add_column(column, justify="left" if column in ("station", "sensor") else "right")
        for row in part.to_dict("records"):
            cells = []
            for metric, shown in zip(SHOWN, ("+.2f", "+.3f", "+.3f"), strict=True):
                value, lower, upper = (row[f"{metric}_{end}"] for end in ("difference", "lower", "upper"))
                star = "*" if lower > 0.0 or upper < 0.0 else " "
                cells.append(f"{value:{shown}} ({lower:{shown}}, {upper:{shown}}){star}")
            label = depth_label(row["depth_top"], row["depth_bottom"])
            table.add_row(f"{row['network']} {row['station']}", label, str(row["n"]), *cells)
        console.print(table)
        for row in verdicts(part).to_dict("records"):
            console.print(
                f"{SHOWN[row['metric']]}: better at {row['better']}, worse at {row['worse']} of {row['sensors']} sensors"
            )
        console.print()


def differences_figure(differences: pd.DataFrame, title: str) -> Figure:
    """Paired differences with their intervals, a row for each sensor and a panel for each metric."""
    rivals = list(dict.fromkeys(differences["rival"]))
    keys = list(SENSOR)
    sensors = differences[keys].drop_duplicates().reset_index(drop=True)
    figure = Figure(figsize=(9.5, 0.32 * len(sensors) + 1.7), layout="constrained")
    axes = figure.subplots(1, len(SHOWN), sharey=True)
    for axis, metric in zip(axes, SHOWN, strict=True):
        for number, (colour, rival) in enumerate(zip((FUSED, *OTHERS), rivals, strict=False)):
            found = differences[differences["rival"] == rival].merge(sensors.reset_index(), on=keys)
            at = found["index"] + (0.18 * (number - 0.5 * (len(rivals) - 1)))
            axis.hlines(at, found[f"{metric}_lower"], found[f"{metric}_upper"], color=colour, lw=1.6)
            axis.plot(found[f"{metric}_difference"], at, "o", color=colour, ms=4.5, label=f"less {rival}")
        axis.axvline(0.0, color="#555555", lw=0.9)
        axis.grid(alpha=0.25, axis="x")
        unit = "" if metric == "r" else " (m³ m⁻³)"
        better = "better to the right" if COMPARED[metric] > 0.0 else "better to the left"
        axis.set_xlabel(f"{SHOWN[metric]}{unit}\n{better}", fontsize=9)
        axis.tick_params(labelsize=8)
        axis.locator_params(axis="x", nbins=5)
    rows = sensors.to_dict("records")
    labels = [f"{row['network']} {row['station']} {depth_label(row['depth_top'], row['depth_bottom'])}" for row in rows]
    axes[0].set_yticks(range(len(sensors)), labels, fontsize=8)
    axes[0].set_ylim(len(sensors) - 0.5, -0.5)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=11)
    return figure


def draw(
    case: Case, profile: xr.Dataset, estimates: Mapping[str, xr.DataArray], output: Path, stations: Sequence[str] = ()
) -> list[Path]:
    """Figures of some stations of a case (three at most where none is named), or of its first cell."""
    written = []
    names = list(stations) or list(dict.fromkeys(case.stations.station.values.tolist()))[:3]
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
        interval = at_interval(sensors, [cell] * chosen.size, profile)
        shown = {key: values.isel(sensor=chosen) for key, values in estimates.items() if key != "fused, no SMAP L3"}
        figure = series_figure(shown, interval, sensors, f"{place}: series at each sensor")
        written.append(output / f"{case.name}_{name}_series.png")
        figure.savefig(written[-1], dpi=120)
    cell, label = 0, case.place
    if names:
        first = int(np.flatnonzero(case.stations.station.values == names[0])[0])
        cell, label = case.cells[first], f"{case.stations.network.values[first]} {names[0]}"
    written.append(output / f"{case.name}_section.png")
    section_figure(profile.isel(cell=cell), f"{label}: soil moisture by time and depth").savefig(written[-1], dpi=120)
    return written
