"""Figures of profiles against sensors. Each function returns a matplotlib figure; nothing is written here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.dates as mdates
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure
from numpy.typing import NDArray

from deepprofile.analysis.plots import BAND, FUSED, MOISTURE, OTHERS, SENSOR, UNIT

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def profiles_figure(
    profile: xr.Dataset,
    sensors: xr.Dataset,
    days: Sequence[pd.Timestamp],
    layers: Mapping[str, xr.DataArray],
    title: str,
    truth: xr.DataArray | None = None,
) -> Figure:
    """theta(z) with its 90 % interval on some days, the products' layers as steps, the sensors, and the known truth.

    ``profile``, ``layers`` and ``truth`` are of one cell (dimension time, and layer), ``sensors`` of one station.
    """
    depth = np.linspace(0.0, 1.0, 101)
    figure = Figure(figsize=(2.9 * len(days) + 0.4, 4.9), layout="constrained")
    axes = figure.subplots(1, len(days), sharey=True, sharex=True, squeeze=False)[0]
    for axis, day in zip(axes, days, strict=True):
        today = profile.sel(time=[day])
        interval = today.deepprofile.interval(0.9, depth=depth)
        theta = today.deepprofile.at(depth)
        axis.fill_betweenx(
            depth, interval.lower.squeeze(), interval.upper.squeeze(), color=BAND, alpha=0.6, lw=0, label="90 % interval"
        )
        axis.plot(theta.squeeze(), depth, color=FUSED, lw=2.0, label="fused profile")
        for colour, (name, series) in zip(OTHERS, layers.items(), strict=False):
            _draw_steps(axis, series, day, colour, name)
        if truth is not None:
            known = truth.sel(time=day)
            edges = np.append(known.layer_top.values, known.layer_bottom.values[-1])
            axis.stairs(known.values, edges, orientation="horizontal", baseline=None, color=SENSOR, lw=1.4, label="truth")
        seen = sensors.sel(time=day)
        middle = np.minimum(0.5 * (seen.depth_top + seen.depth_bottom), 1.0)
        axis.plot(seen.soil_moisture, middle, "o", color=SENSOR, ms=6, mec="white", mew=0.8, zorder=5, label="sensor")
        axis.set_title(f"{day:%-d %b %Y}", fontsize=10)
        axis.set_xlabel(UNIT, fontsize=9)
        axis.grid(alpha=0.25)
    axes[0].set_ylim(1.02, 0.0)
    axes[0].set_xlim(left=0.0)
    axes[0].set_ylabel("depth (m)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6), fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=11)
    return figure


def _draw_steps(axis: Axes, series: xr.DataArray, day: pd.Timestamp, colour: str, name: str) -> None:
    label: str | None = name
    if day not in series.get_index("time"):
        axis.plot([], [], color=colour, lw=1.6, label=label)
        return
    today = series.sel(time=day)
    for layer in range(today.sizes["layer"]):
        one = today.isel(layer=layer)
        axis.plot([one, one], [one.layer_top, one.layer_bottom], color=colour, lw=1.6, label=label)
        label = None


def maps_figure(
    panels: Sequence[tuple[str, xr.DataArray]], *, label: str, title: str, colours: str = MOISTURE, columns: int = 3
) -> Figure:
    """Maps (y, x) with coordinates ``lat`` and ``lon`` on one scale of colours."""
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.4 * min(columns, len(panels)) + 0.9, 3.1 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, min(columns, len(panels)), sharex=True, sharey=True, squeeze=False)
    values = np.concatenate([np.asarray(field).ravel() for _, field in panels])
    finite = values[np.isfinite(values)]
    low, high = np.quantile(finite, [0.01, 0.99]) if finite.size else (0.0, 1.0)
    mesh = None
    for axis, (name, field) in zip(axes.ravel(), panels, strict=False):
        mesh = axis.pcolormesh(
            field.lon, field.lat, field, cmap=colours, vmin=low, vmax=high, shading="nearest", rasterized=True
        )
        axis.set_title(name, fontsize=10)
        axis.set_aspect(1.0 / max(np.cos(np.radians(float(field.lat.mean()))), 0.2))
        axis.tick_params(labelsize=8)
    for axis in axes.ravel()[len(panels) :]:
        axis.set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("latitude (°N)", fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("longitude (°E)", fontsize=8)
    if mesh is not None:
        figure.colorbar(mesh, ax=axes, label=label, shrink=0.85, pad=0.01)
    figure.suptitle(title, fontsize=11)
    return figure


def reliability_figure(
    panels: Sequence[tuple[str, Mapping[str, Sequence[float]]]], levels: NDArray[np.float64], title: str
) -> Figure:
    """Observed against nominal coverage: on the diagonal an interval holds as often as it says, below it less often.

    ``panels``: a title, and by name of the interval its coverage at each of the ``levels`` (probabilities); what is NaN is left
    out. Names that end in ``representativeness`` are drawn full, the others dashed.
    """
    figure = Figure(figsize=(2.9 * len(panels) + 0.6, 4.1), layout="constrained")
    axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    drawn: dict[str, Any] = {}
    for axis, (name, lines) in zip(axes, panels, strict=True):
        axis.plot([0.0, 1.0], [0.0, 1.0], color=SENSOR, lw=0.8, ls=":")
        for text, shares in lines.items():
            if np.isfinite(np.asarray(shares, float)).any():
                with_means, full = text.startswith("with means"), text.endswith("representativeness")
                (drawn[text],) = axis.plot(
                    levels,
                    shares,
                    color=FUSED if with_means else OTHERS[0],
                    ls="-" if full else "--",
                    marker="o",
                    ms=3.5,
                    lw=1.4,
                )
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("nominal", fontsize=9)
        axis.set_box_aspect(1.0)
        axis.set_xlim(0.0, 1.0)
        axis.set_ylim(0.0, 1.0)
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("observed", fontsize=9)
    if drawn:
        figure.legend(drawn.values(), drawn.keys(), loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=11)
    return figure


def differences_figure(table: pd.DataFrame, panels: Mapping[str, tuple[str, float]], title: str) -> Figure:
    """Median differences from rivals with their intervals, by depth: one panel a metric, one colour a rival.

    Parameters
    ----------
    table
        From ``deepprofile.evaluation.metrics.summarise_differences``.
    panels
        By metric, the heading of its panel and on which side of 0 (-1 or 1) a difference is in favour of the estimate: that
        side is shaded.
    title
        Of the figure.
    """
    bands, rivals = list(dict.fromkeys(table["band"])), list(dict.fromkeys(table["rival"]))
    figure = Figure(figsize=(3.1 * len(panels), 1.3 + 0.42 * len(bands) + 0.1 * len(rivals)), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (metric, (heading, sign)) in zip(axes, panels.items(), strict=True):
        for k, rival in enumerate(rivals):
            rows = table[(table["metric"] == metric) & (table["rival"] == rival)]
            place = [bands.index(band) + 0.16 * (k - 0.5 * (len(rivals) - 1)) for band in rows["band"]]
            colour, (low, high) = OTHERS[k % len(OTHERS)], (rows["lower"].to_numpy(), rows["upper"].to_numpy())
            axis.hlines(place, low, high, color=colour, lw=1.8)
            axis.plot(rows["difference"], place, "o", color=colour, ms=4.5, label=rival)
        reach = 1.05 * float(np.nanmax(np.abs([*axis.get_xlim(), 1e-6])))
        axis.axvspan(0.0, sign * reach, color=BAND, alpha=0.25, lw=0)
        axis.axvline(0.0, color=SENSOR, lw=0.8)
        axis.set_xlim(-reach, reach)
        axis.set_title(heading, fontsize=10)
        axis.grid(alpha=0.25)
    axes[0].set_yticks(range(len(bands)), bands, fontsize=9)
    axes[0].set_ylim(len(bands) - 0.5, -0.5)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=11)
    return figure


def section_figure(profile: xr.Dataset, title: str) -> Figure:
    """Time by depth section of theta(z), and of its standard deviation, of one cell."""
    depth = np.linspace(0.0, 1.0, 51)
    theta = profile.deepprofile.at(depth).transpose("depth", "time")
    deviation = profile.deepprofile.std(depth).transpose("depth", "time")
    figure = Figure(figsize=(9.5, 5.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    time = profile.get_index("time")
    for axis, field, colours, name in (
        (upper, theta, MOISTURE, UNIT),
        (lower, deviation, "magma_r", "standard deviation (m³ m⁻³)"),
    ):
        mesh = axis.pcolormesh(time, depth, field, cmap=colours, shading="nearest", rasterized=True)
        figure.colorbar(mesh, ax=axis, label=name, pad=0.01)
        axis.set_ylim(1.0, 0.0)
        axis.set_ylabel("depth (m)")
    _format_dates(lower)
    figure.suptitle(title, fontsize=11)
    return figure


def series_figure(
    estimates: Mapping[str, xr.DataArray], interval: xr.Dataset | None, sensors: xr.Dataset, title: str
) -> Figure:
    """Time series at each sensor of one station.

    ``estimates`` by name, each (sensor, time), the fused one first; ``interval`` its lower and upper ends. Where several
    sensors are at one depth, the coordinate ``instrument`` names them.
    """
    count = sensors.sizes["sensor"]
    depths = [_depth_label(float(a), float(b)) for a, b in zip(sensors.depth_top, sensors.depth_bottom, strict=True)]
    figure = Figure(figsize=(9.5, 1.75 * count + 0.8), layout="constrained")
    axes = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    for number, axis in enumerate(axes):
        if interval is not None:
            one = interval.isel(sensor=number)
            axis.fill_between(one.get_index("time"), one.lower, one.upper, color=BAND, alpha=0.5, lw=0, label="90 % interval")
        for colour, (name, values) in zip((FUSED, *OTHERS), estimates.items(), strict=False):
            line = values.isel(sensor=number)
            if bool(np.isfinite(line).any()):
                axis.plot(line.get_index("time"), line, color=colour, lw=1.8 if colour == FUSED else 1.0, label=name)
        seen = sensors.isel(sensor=number)
        axis.plot(seen.get_index("time"), seen.soil_moisture, color=SENSOR, lw=1.2, label="sensor")
        named = depths.count(depths[number]) > 1 and "instrument" in sensors.coords
        axis.set_ylabel(f"{depths[number]}\n{seen.instrument.item()}" if named else depths[number], fontsize=9)
        axis.grid(alpha=0.25)
    handles: dict[str, Any] = {}
    for axis in axes:
        handles |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    figure.supylabel(UNIT, fontsize=10)
    _format_dates(axes[-1])
    figure.suptitle(title, fontsize=11)
    return figure


def _depth_label(top: float, bottom: float) -> str:
    return f"{100 * top:.0f} cm" if bottom - top < 1e-6 else f"{100 * top:.0f}-{100 * bottom:.0f} cm"


def _format_dates(axis: Axes) -> None:
    locator = mdates.AutoDateLocator()
    axis.xaxis.set_major_locator(locator)
    axis.xaxis.set_major_formatter(mdates.ConciseDateFormatter(locator))
