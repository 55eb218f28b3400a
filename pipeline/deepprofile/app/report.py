"""The report: one self-contained page with its figures, from published stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure
from numpy.typing import NDArray

from deepprofile.app.figures import differences_figure, maps_figure, profiles_figure, reliability_figure, series_figure
from deepprofile.app.page import Section, Table, write_page
from deepprofile.app.published import Published
from deepprofile.config import Config
from deepprofile.evaluation.metrics import COMPARED, band_name, sensor_weights, summarise, summarise_differences
from deepprofile.evaluation.representativeness import BANDS_M, INTERVALS, bands
from deepprofile.stages import collocate, ingest, invert, matchups, observations, paired, validate
from deepprofile.stages.domain import days_of, products_of
from deepprofile.stages.matchups import Estimates
from deepprofile.storage.roots import parts_of, store_of

MAP_DEPTHS_M: Final = (0.05, 0.3, 0.8)
# What sensors are grouped by, and how that is called; where station files do not say, there is no table.
GROUPS: Final = {"network": "network", "climate": "climate class", "land_cover": "land cover"}
# The interval whose coverage tables tell.
LEVEL: Final = 0.9
_STATIONS_SHOWN: Final = 2


def write_report(
    config: Config,
    folder: Path,
    *,
    extra: Sequence[Section] = (),
    truth: xr.DataArray | None = None,
    title: str = "DeepProfile: soil moisture from 0 to 1 m",
) -> list[Path]:
    """Write ``index.html`` and its figures into a folder; returns what was written.

    Parameters
    ----------
    config
        Whose published stores are shown.
    folder
        Created where it is not there.
    extra
        Sections to show before those about stations.
    truth
        Soil moisture (time, layer, y, x) on the target grid, where it is known.
    title
        Heading of the page.
    """
    stores = Published.of(config)
    profile = stores.open(invert.STORE)
    sections = [_maps(profile), _weights(stores), *extra]
    if {observations.STORE, matchups.STORE, validate.STORE} <= set(map(store_of, stores.versions)) and config.stations:
        sections += _stations(stores, profile, truth)
    sections.append(_coverage(stores))
    grid, days, years = config.grid.grid(), days_of(config), parts_of(invert.STORE, stores.versions)
    facts = [
        ("Grid", f"{grid.name}, {grid.rows} × {grid.columns} cells, {_bounds(profile)}"),
        ("Period", f"{days[0]} to {days[-1]} ({days.size} days)"),
        ("Products", ", ".join(config.product(name).title for name in config.products)),
        ("Method", f"{profile.attrs['method']}, degree {profile.attrs['order']}, {profile.attrs['source']}"),
        ("Version of weights", stores.versions[collocate.STORE]),
        ("Version of profile", ", ".join(f"{year}: {stores.versions[name]}" for year, name in years.items())),
    ]
    return write_page(folder, title, "One continuous profile with its uncertainty for every cell and day.", facts, sections)


def _bounds(profile: xr.Dataset) -> str:
    lat, lon = profile.lat.values, profile.lon.values
    return f"{lat.min():.2f} to {lat.max():.2f} °N, {lon.min():.2f} to {lon.max():.2f} °E"


def _thin(dataset: xr.Dataset, most: int = 400) -> xr.Dataset:
    """Every so many rows and columns, for a map that a screen can show."""
    steps = {dim: max(1, dataset.sizes[dim] // most) for dim in ("y", "x")}
    return dataset.isel({dim: slice(None, None, step) for dim, step in steps.items()})


def _wettest_and_driest(profile: xr.Dataset) -> list[int]:
    """Positions of the day with the wettest and of that with the driest metre, of those that are mostly there."""
    thin = _thin(profile, 20)[["coefficients"]].isel(degree=0).load()
    mean, there = thin.coefficients.mean(("y", "x")).values, thin.coefficients.notnull().mean(("y", "x")).values
    usable = np.flatnonzero(there >= 0.95 * there.max())
    return [int(usable[np.nanargmin(mean[usable])]), int(usable[np.nanargmax(mean[usable])])]


def _maps(profile: xr.Dataset) -> Section:
    section = Section(
        "Soil moisture", "The driest and the wettest day of the period, at three depths, and how well they are known."
    )
    for position, word in zip(_wettest_and_driest(profile), ("driest", "wettest"), strict=True):
        today = _thin(profile.isel(time=[position])).load()
        day = pd.Timestamp(today.time.values[0])
        panels = [(f"{100 * z:.0f} cm", _field(today.deepprofile.at(z))) for z in MAP_DEPTHS_M]
        figure = maps_figure(panels, label="m³ m⁻³", title=f"Soil moisture, {day:%-d %B %Y}")
        section.figures.append((f"map_{word}", figure, f"The {word} day: soil moisture at three depths."))
    panels = [(f"{100 * z:.0f} cm", _field(today.deepprofile.std(z))) for z in MAP_DEPTHS_M]
    figure = maps_figure(panels, label="m³ m⁻³", title=f"Standard deviation, {day:%-d %B %Y}", colours="magma_r")
    section.figures.append(("map_std", figure, "Standard deviation of the profile on the wettest day."))
    return section


def _field(values: xr.DataArray) -> xr.DataArray:
    return values.squeeze("time", drop=True).transpose("y", "x")


def _weights(stores: Published) -> Section:
    weights = _thin(stores.open(collocate.STORE)).load()
    names = list(weights.attrs["products"])
    panels, rows = [], []
    for i in range(weights.sizes["observation"]):
        one = weights.isel(observation=i)
        name = names[int(one.product_index)]
        layer = f"{100 * float(one.layer_top):.0f}-{100 * float(one.layer_bottom):.0f} cm"
        inverse = 1.0 / weights.error_variance
        panels.append((f"{name}, {layer}", one.error_variance**0.5))
        status = np.bincount(one.status.values.ravel().astype(int), minlength=4) / one.status.size
        rows.append(
            {
                "product": name,
                "layer": layer,
                "random error (m³ m⁻³)": f"{float((one.error_variance**0.5).median()):.3f}",
                "bias (m³ m⁻³)": f"{float((one.bias_variance**0.5).median()):.3f}",
                "R² with the truth": f"{float(one.r_squared.median()):.2f}",
                "share of the weights": f"{float((1.0 / one.error_variance / inverse.sum('observation')).median()):.0%}",
                "own estimate": f"{status[0]:.0%}",
                "neighbours'": f"{status[1]:.0%}",
                "typical ratio": f"{status[2]:.0%}",
            }
        )
    figure = maps_figure(panels, label="m³ m⁻³", title="Random error of each layer of each product", colours="viridis_r")
    return Section(
        "Weights",
        "Each layer of each product counts by the inverse of its error variance in that cell, from triple collocation. "
        "Medians over cells; the last columns say from where the estimates come.",
        [
            (
                "map_weights",
                figure,
                "Random error (standard deviation) by triple collocation: the smaller, the greater the weight.",
            )
        ],
        Table.of(pd.DataFrame(rows), matchups.FUSED),
    )


def sensors_scored(stores: Published) -> xr.Dataset:
    """The published scores, with the names and classes of each sensor as coordinates."""
    store = observations.opened(stores.root.open(validate.STORE)).load()
    return store.assign_coords(estimate=store.attrs["estimates"], interval=store.attrs["intervals"]).set_coords("level")


def station_scores(scores: xr.Dataset, by: str = "network") -> pd.DataFrame:
    """Weighted medians and quartiles over sensors, by network (or climate or land cover), depth band and estimate."""
    return summarise(scores.drop_vars("coverage").isel(bound=0), BANDS_M, by=by)


def station_coverage(scores: xr.Dataset, by: str | None = None) -> pd.DataFrame:
    """How often the fused estimate's intervals hold the sensor, by depth band and, where it is given, by a coordinate.

    Returns
    -------
    One row for each group and band, with ``sensors``, the standard deviations of representativeness (root mean squares of the
    sensors', m3 m-3) and the mean share of days inside for each interval and level (columns (interval, level)); sensors count
    by their effective days, and those without a variance of representativeness are not in the shares that need one.
    """
    place = bands(scores["depth_top"].values, scores["depth_bottom"].values)
    groups = scores[by].values.astype(str) if by is not None else np.full(place.shape, "all")
    weights = sensor_weights(scores)
    held = scores["coverage"].transpose("sensor", "interval", "level").values
    rows: list[dict[Any, Any]] = []
    for group in sorted(set(groups.tolist()) - {""}):
        for k, band in enumerate(BANDS_M):
            chosen = (groups == group) & (place == k) & np.isfinite(held[:, 0, 0])
            if not chosen.any():
                continue
            row: dict[Any, Any] = {by or "stations": group, "band": band_name(*band), "sensors": int(chosen.sum())}
            for part in ("constant", "varying"):
                square = _weighted_mean(scores[f"representativeness_{part}"].values[chosen], weights[chosen])
                row[part] = float(np.sqrt(square))
            shares = _weighted_mean(held[chosen], weights[chosen])
            for i, name in enumerate(INTERVALS):
                row |= {(name, level): float(shares[i, j]) for j, level in enumerate(scores["level"].values.tolist())}
            rows.append(row)
    return pd.DataFrame(rows)


def _weighted_mean(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean along the first axis of the values that are there; NaN where none is."""
    wide = weights.reshape(-1, *[1] * (values.ndim - 1)) * np.isfinite(values)
    total = wide.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(total > 0.0, (wide * np.nan_to_num(values)).sum(axis=0) / total, np.nan))


def _scores_table(summary: pd.DataFrame, by: str) -> Table:
    rows = [
        {
            "sensors at": row["band"],
            "estimate": row["estimate"],
            GROUPS[by]: row[by],
            "n": row["sensors"],
            **{
                f"{label} (quartiles)": f"{row[f'{m}_median']:{f}} ({row[f'{m}_q25']:{f}}, {row[f'{m}_q75']:{f}})"
                for m, label, f in (
                    ("rmse", "RMSE", ".3f"),
                    ("ubrmse", "ubRMSE", ".3f"),
                    ("bias", "bias", "+.3f"),
                    ("r", "R", ".2f"),
                )
            },
        }
        for row in summary.to_dict("records")
        if row["sensors"]
    ]
    return Table.of(pd.DataFrame(rows), matchups.FUSED)


def _coverage_table(coverage: pd.DataFrame, group: str) -> Table:
    def share(value: float) -> str:
        return "" if np.isnan(value) else f"{value:.0%}"

    rows = [
        {
            group: row[group],
            "sensors at": row["band"],
            "n": row["sensors"],
            "constant (m³ m⁻³)": "" if np.isnan(row["constant"]) else f"{row['constant']:.3f}",
            "varying (m³ m⁻³)": "" if np.isnan(row["varying"]) else f"{row['varying']:.3f}",
            **{name: share(row[(name, LEVEL)]) for name in INTERVALS},
        }
        for row in coverage.to_dict("records")
    ]
    return Table.of(pd.DataFrame(rows).rename(columns={group: GROUPS.get(group, group)}), matchups.FUSED)


def _stations(stores: Published, profile: xr.Dataset, truth: xr.DataArray | None) -> list[Section]:
    scores = sensors_scored(stores)
    sections = [
        Section(
            "Against stations" if by == "network" else f"By {name}",
            "Every estimate on the same days of each sensor. A station is a point, a profile the mean of a cell: part of the "
            "difference is no error of either. Medians over sensors, each of which counts by its effective days."
            if by == "network"
            else "",
            table=_scores_table(summary, by),
        )
        for by, name in GROUPS.items()
        if not (summary := station_scores(scores, by)).empty
    ]
    if stores.config.rivals and paired.STORE in stores.versions:
        sections += _rivals(paired.differences(stores.root.open(paired.STORE)))
    coverage = station_coverage(scores)
    if not coverage.empty:
        sections += _held(scores, coverage)
    stations, sensors = matchups.published_sensors(stores.root)
    shown = Section("At the stations")
    times = pd.DatetimeIndex(days_of(stores.config))
    for name in _best_stations(stations):
        chosen = [int(i) for i in np.flatnonzero(stations.station.values == name)]
        chosen.sort(key=lambda i: (float(stations.depth_top[i]), float(stations.depth_bottom[i])))
        one = stations.isel(sensor=chosen)
        row, column = int(one.row[0]), int(one.column[0])
        here = profile.isel(y=row, x=column).load()
        place = f"{one.network.values[0]} {name}"
        products = stores.products(slice(row, row + 1), slice(column, column + 1))
        layers = {key: series.isel(y=0, x=0) for key, series in products.items()}
        known = truth.isel(y=row, x=column) if truth is not None else None
        # Days that every sensor has, and the profile: where the ground is frozen there is none.
        measured = np.isfinite(one.soil_moisture.transpose("sensor", "time").values).all(axis=0)
        usable = times[measured & np.isfinite(here.coefficients.isel(degree=0).values)]
        usable = usable if usable.size else times
        days = [usable[int(q * (usable.size - 1))] for q in (0.1, 0.4, 0.65, 0.9)]
        figure = profiles_figure(here, one, days, layers, f"{place}: profiles and sensors", known)
        parts = ["the layers of the products", *(["the truth"] if known is not None else []), "the sensors"]
        caption = f"{place}: profiles with their 90 % interval, {', '.join(parts[:-1])} and {parts[-1]}."
        shown.figures.append((f"profiles_{name}", figure, caption))
        estimates = matchups.estimates(sensors, chosen, Estimates.of(products_of(stores.config).values()))
        series = _series(here, one, _labelled(stores, estimates, one["time"].values), place)
        shown.figures.append((f"series_{name}", series, f"{place}: daily series."))
    return [*sections, shown]


def _rivals(differences: xr.Dataset) -> list[Section]:
    """Paired differences from every rival, by depth band; nothing where no sensor has days with a rival."""
    summary = summarise_differences(differences, BANDS_M)
    if summary.empty:
        return []
    labels = {"rmse": "RMSE", "ubrmse": "ubRMSE", "bias": "|bias|", "r": "R"}
    rows = []
    for row in summary.to_dict("records"):
        shown = ".2f" if row["metric"] == "r" else ".3f"
        ends = "" if np.isnan(row["lower"]) else f" ({row['lower']:+{shown}}, {row['upper']:+{shown}})"
        rows.append(
            {
                "sensors at": row["band"],
                "rival": row["rival"],
                "score": labels[row["metric"]],
                "sensors": row["sensors"],
                "stations": row["stations"],
                "fused": f"{row['estimate']:{shown}}",
                "rival's": f"{row['rival_score']:{shown}}",
                "difference (95 %)": f"{row['difference']:+{shown}}{ends}",
                "fused better at": row["better"],
                "worse at": row["worse"],
                "undecided": row["undecided"],
            }
        )
    panels = {metric: (f"{labels[metric]}: fused less rival", COMPARED[metric]) for metric in ("rmse", "ubrmse", "r")}
    figure = differences_figure(summary, panels, "Fused estimate beside rivals")
    return [
        Section(
            "Beside rivals",
            "The fused estimate and each rival on the days of each sensor that both have. Differences are fused less rival, "
            "medians over sensors, with an interval from a bootstrap of stations; below 0 is in favour of the fused estimate, "
            "for R above 0. At a sensor one is better where the interval of a paired bootstrap of days is on one side of 0.",
            [("rivals", figure, "Median differences, 95 % intervals; the shaded side is in favour of the fused estimate.")],
            Table.of(pd.DataFrame(rows), matchups.FUSED),
        )
    ]


def _held(scores: xr.Dataset, coverage: pd.DataFrame) -> list[Section]:
    """How often intervals hold the sensors: the diagram and tables."""
    panels = [
        (f"sensors at {row['band']}", {name: [row[(name, level)] for level in scores["level"].values] for name in INTERVALS})
        for row in coverage.to_dict("records")
    ]
    figure = reliability_figure(panels, scores["level"].values, "How often intervals hold what sensors measure")
    sections = [
        Section(
            "How often intervals hold",
            f"Share of days on which a sensor lies inside the {LEVEL:.0%} interval of the fused estimate, by the posterior "
            "alone and with the representativeness of a point for its cell: a constant and a varying standard deviation, "
            "estimated at the other half of the stations. Nothing is shown where that half has too few.",
            [("reliability", figure, "Nominal and observed coverage at the sensors, by depth.")],
            _coverage_table(coverage, "stations"),
        )
    ]
    for by, name in GROUPS.items():
        grouped = station_coverage(scores, by)
        if not grouped.empty:
            sections.append(Section(f"How often intervals hold, by {name}", table=_coverage_table(grouped, by)))
    return sections


def _best_stations(stations: xr.Dataset) -> list[str]:
    """Stations with the most sensors, of those the ones with the longest records."""
    counts = np.isfinite(stations.soil_moisture).sum("time").values
    names = stations.station.values.astype(str)
    ranked = sorted(set(names.tolist()), key=lambda n: (-(names == n).sum(), -counts[names == n].sum(), n))
    return ranked[:_STATIONS_SHOWN]


def _labelled(stores: Published, estimates: Mapping[str, NDArray[np.float32]], times: NDArray[Any]) -> dict[str, xr.DataArray]:
    """Series of estimates at sensors, without the one that leaves the retrievals out."""
    without = Estimates.of(products_of(stores.config).values()).without
    return {
        name: xr.DataArray(values, dims=("sensor", "time"), coords={"time": times})
        for name, values in estimates.items()
        if name != without
    }


def _series(here: xr.Dataset, stations: xr.Dataset, estimates: Mapping[str, xr.DataArray], place: str) -> Figure:
    intervals = []
    for top, bottom in zip(stations.depth_top.values.tolist(), stations.depth_bottom.values.tolist(), strict=True):
        if bottom - top < 1e-6:
            part = here.deepprofile.interval(0.9, depth=min(top, 1.0))
        else:
            part = here.deepprofile.mean_interval(0.9, top, min(bottom, 1.0))
        intervals.append(part.reset_coords(drop=True))
    return series_figure(estimates, xr.concat(intervals, "sensor"), stations, f"{place}: series at each sensor")


def _coverage(stores: Published) -> Section:
    rows: list[dict[str, Any]] = []
    for name in stores.config.products:
        store = stores.open(ingest.store_name(name))
        steps, whole = store.steps.values, int(store.steps.attrs["steps_per_day"])
        rows.append(
            {
                "product": stores.config.product(name).title,
                "days": steps.size,
                "complete": int((steps == whole).sum()),
                "partly there": int(((steps > 0) & (steps < whole)).sum()),
                "missing": int((steps == 0).sum()),
            }
        )
    return Section(
        "Inputs",
        "Days of each product by how many of their time steps were there.",
        table=Table.of(pd.DataFrame(rows), matchups.FUSED),
    )
