"""Figures of what profiles are asked for, in one style: ``.deepprofile.plot``.

Colours are those of Okabe and Ito (2008), and scales whose lightness runs one way: eyes that tell few colours apart read them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import matplotlib.dates as mdates
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap

if TYPE_CHECKING:
    from deepprofile.analysis.accessor import ProfileAccessor

FUSED: Final = "#0b4f6c"
BAND: Final = "#8fc1d9"
SENSOR: Final = "#1a1a1a"
# Colours that stay apart in the common forms of colour blindness.
OTHERS: Final = ("#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#7f7f7f")
UNIT: Final = "soil moisture (m³ m⁻³)"
MOISTURE: Final = "YlGnBu"
_UNITS: Final = {"m3 m-3": "m³ m⁻³", "percent": "%"}
# Of no drought, D0 to D4: darker where it is worse.
_CLASSES: Final = ("#f2f2f2", "#ffee99", "#fbc15e", "#e8853a", "#b5452c", "#5c1a1b")
_LABEL_WIDTH: Final = 44
_DEPTHS: Final = np.linspace(0.0, 1.0, 101)


class Plots:
    """Figures of profiles. Each is drawn on the given axes, or on new ones of pyplot, which it returns."""

    def __init__(self, view: ProfileAccessor) -> None:
        self._view, self._data = view, view._data

    def profile(
        self,
        *,
        level: float = 0.9,
        inputs: xr.Dataset | None = None,
        sensors: Mapping[float, float] | None = None,
        ax: Axes | None = None,
    ) -> Axes:
        """Soil moisture against depth, of one place and day, with its interval.

        Parameters
        ----------
        level
            Probability of the interval.
        inputs
            ``deepprofile.open_store(url, "inputs")``: the products' layers are drawn as steps.
        sensors
            Measurements by their depth, m: ``{0.05: 0.21, 0.5: 0.30}``.

        Raises
        ------
        ValueError
            For profiles of several places or days, or a day or a place that the inputs do not have.
        """
        self._one("a profile", ("time", "y", "x", "point"))
        axes = ax or _axes(4.0, 4.9)
        within = self._view.interval(level, depth=_DEPTHS)
        axes.fill_betweenx(_DEPTHS, within.lower, within.upper, color=BAND, alpha=0.6, lw=0, label=f"{level:.0%} interval")
        axes.plot(self._view.at(_DEPTHS), _DEPTHS, color=FUSED, lw=2.0, label="profile")
        if inputs is not None:
            self._draw_inputs(axes, inputs)
        if sensors:
            axes.plot(list(sensors.values()), list(sensors), "o", color=SENSOR, ms=6, mec="white", zorder=5, label="sensor")
        axes.set(ylim=(1.02, 0.0), xlabel=UNIT, ylabel="depth (m)", title=self._where_and_when())
        axes.set_xlim(left=0.0)
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8, frameon=False)
        return axes

    def _draw_inputs(self, axes: Axes, inputs: xr.Dataset) -> None:
        same = {name: float(self._data[name]) for name in ("y", "x") if name in self._data.coords}
        try:
            own = inputs.sel(same, method="nearest", tolerance=1e-6 * max(map(abs, same.values()), default=1.0))
            own = own.sel(time=self._data["time"].values)
        except KeyError as error:
            raise ValueError("the inputs do not have this place and day: are they of the same data set?") from error
        names = own.attrs["products"]
        values = own["soil_moisture"].values
        drawn: set[str] = set()
        tops, bottoms, of = (own[name].values for name in ("layer_top", "layer_bottom", "product_index"))
        for value, top, bottom, k in zip(values, tops, bottoms, of, strict=True):
            name = names[int(k)]
            if np.isfinite(value):
                colour, label = OTHERS[int(k) % len(OTHERS)], None if name in drawn else name
                axes.plot([value, value], [top, bottom], color=colour, lw=1.8, label=label)
                drawn.add(name)

    def map(self, field: xr.DataArray | None = None, *, ax: Axes | None = None) -> Axes:
        """A map of what was asked, of one day: by default the water of the uppermost metre.

        Parameters
        ----------
        field
            Of these profiles, such as ``profile.deepprofile.at(0.4)`` or a percentile; dimensions y and x. Its name and units
            choose the colours.

        Raises
        ------
        ValueError
            For a field with other dimensions than y and x.
        """
        found = (self._view.storage(0.0, 1.0) if field is None else field).squeeze(drop=False)
        if set(found.dims) != {"y", "x"}:
            other = ", ".join(str(dim) for dim in found.dims if dim not in ("y", "x")) or "no y and x"
            raise ValueError(
                f"a map is of one day and depth on y and x, and this has {other}: select first, with .sel or .isel"
            )
        found = found.transpose("y", "x").compute()
        axes = ax or _axes(6.4, 4.6)
        values = found.values.astype(np.float64)
        style = _colours(found, values)
        east = np.unwrap(found["lon"].values, period=360.0)
        drawn = axes.pcolormesh(
            east, found["lat"].values, style.pop("values"), shading="nearest", rasterized=True, **style["draw"]
        )
        bar = axes.figure.colorbar(drawn, ax=axes, label=_label(found), shrink=0.85, pad=0.02)
        if "classes" in style:
            bar.set_ticks(range(len(style["classes"])), labels=style["classes"])
        axes.set_aspect(1.0 / max(float(np.cos(np.radians(found["lat"].values.mean()))), 0.2))
        axes.set(xlabel="longitude (°E)", ylabel="latitude (°N)", title=_moment(found))
        return axes

    def section(self, *, ax: Axes | None = None) -> Axes:
        """Soil moisture of one place by day and depth.

        Raises
        ------
        ValueError
            For profiles of several places, or of one day.
        """
        self._one("a section", ("y", "x", "point"))
        self._several("a section")
        axes = ax or _axes(8.0, 3.6)
        depths = np.linspace(0.005, 0.995, 100)
        found = self._view.at(depths).transpose("depth", "time").compute()
        drawn = axes.pcolormesh(found["time"].values, depths, found.values, cmap=MOISTURE, shading="nearest", rasterized=True)
        axes.figure.colorbar(drawn, ax=axes, label=UNIT, pad=0.02)
        axes.set(ylim=(1.0, 0.0), ylabel="depth (m)", title=self._where_and_when())
        _dates(axes)
        return axes

    def series(
        self,
        top: float = 0.0,
        bottom: float = 1.0,
        *,
        level: float = 0.9,
        climatology: xr.Dataset | None = None,
        ax: Axes | None = None,
    ) -> Axes:
        """Mean soil moisture between two depths by day, with its interval, of one place or mean.

        Parameters
        ----------
        top, bottom
            m.
        level
            Probability of the interval.
        climatology
            ``deepprofile.open_store(url, "climatology")``: between which values the time of the year lies in 8 of 10 years.

        Raises
        ------
        ValueError
            For profiles of several places, or of one day.
        """
        self._one("a series", ("y", "x", "point"))
        self._several("a series")
        axes = ax or _axes(8.0, 3.6)
        days = self._data["time"].values
        if climatology is not None:
            usual = self._view.usual(climatology, top, bottom, [0.1, 0.9])
            axes.fill_between(days, *usual.transpose("quantile", "time").values, color="#d9d9d9", lw=0, label="8 of 10 years")
        within = self._view.mean_interval(level, top, bottom).compute()
        axes.fill_between(days, within.lower, within.upper, color=BAND, alpha=0.6, lw=0, label=f"{level:.0%} interval")
        axes.plot(days, self._view.mean(top, bottom), color=FUSED, lw=1.4, label=f"{100 * top:g} to {100 * bottom:g} cm")
        axes.set(ylabel=UNIT, title=self._where_and_when())
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8, frameon=False, ncols=3)
        _dates(axes)
        return axes

    def _one(self, what: str, dims: tuple[str, ...]) -> None:
        there = [dim for dim in dims if dim in self._data.dims]
        if there:
            how = {"time": ".sel(time=...)", "point": ".isel(point=...)"}.get(
                there[0], ".deepprofile.point(lat, lon) or .area_mean()"
            )
            raise ValueError(
                f"{what} is of one place{' and day' if 'time' in dims else ''}, and these have {', '.join(there)}: {how}"
            )

    def _several(self, what: str) -> None:
        if "time" not in self._data.dims:
            raise ValueError(f"{what} is of several days, and these profiles are of one")

    def _where_and_when(self) -> str:
        return ", ".join(part for part in (_place(self._data), _moment(self._data)) if part)


def _axes(width: float, height: float) -> Axes:
    _, axes = plt.subplots(figsize=(width, height), layout="constrained")
    return axes


def _place(data: xr.Dataset) -> str:
    if "area" in data.coords and not data["area"].ndim:
        return f"mean of {float(data['area']) / 1e6:,.0f} km²"
    if "lat" not in data.coords or data["lat"].ndim or data["lon"].ndim:
        return ""
    lat, lon = float(data["lat"]), float(data["lon"])
    return f"{abs(lat):.2f}° {'N' if lat >= 0 else 'S'}, {abs(lon):.2f}° {'E' if lon >= 0 else 'W'}"


def _moment(data: xr.Dataset | xr.DataArray) -> str:
    if "time" in data.coords and not data["time"].ndim:
        return str(data["time"].values.astype("datetime64[D]"))
    return str(data.attrs.get("period", ""))


def _label(field: xr.DataArray) -> str:
    """What a field is and its unit, in lines that a scale of colours has room for."""
    unit = field.attrs.get("units")
    name = str(field.attrs.get("long_name", field.name or ""))
    text = f"{name} ({_UNITS.get(unit, unit)})" if unit not in (None, "1") else name
    return textwrap.fill(text, _LABEL_WIDTH)


def _colours(field: xr.DataArray, values: Any) -> dict[str, Any]:
    """Values to draw, and how: by what the field is."""
    if field.name == "drought_class":
        names = str(field.attrs["flag_meanings"]).split()[1:]
        shades = ListedColormap(list(_CLASSES))
        norm = BoundaryNorm(np.arange(-0.5, len(names)), shades.N)
        return {"values": np.where(values < 0, np.nan, values), "draw": {"cmap": shades, "norm": norm}, "classes": names}
    finite = values[np.isfinite(values)]
    low, high = (float(v) for v in np.quantile(finite, [0.01, 0.99])) if finite.size else (0.0, 1.0)
    if field.name == "percentile":
        draw = {"cmap": "BrBG", "vmin": 0.0, "vmax": 100.0}
    elif field.name == "anomaly":
        reach = max(abs(low), abs(high)) or 1.0
        draw = {"cmap": "BrBG", "vmin": -reach, "vmax": reach}
    else:
        draw = {"cmap": "Purples" if field.name == "standard_deviation" else MOISTURE, "vmin": low, "vmax": high}
    return {"values": values, "draw": draw}


def _dates(axes: Axes) -> None:
    locator = mdates.AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(mdates.ConciseDateFormatter(locator))
