"""A multi-layer soil-water column: the physics that the twin's truth and its land models share.

Mass balance of each layer with infiltration, gravity drainage, diffusion and root uptake; hydraulic functions of Clapp and
Hornberger (1978, doi 10.1029/WR014i004p00601) with the texture regressions of Cosby et al. (1984, doi
10.1029/WR020i006p00682). Diffusion and drainage are implicit (one tridiagonal solve a step), so that layers of 2 cm stay
stable at steps of three hours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

STEPS_PER_DAY = 8

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]


@dataclass(frozen=True)
class Soil:
    """Hydraulic parameters of a set of columns, each of shape (cell, layer).

    ``porosity`` in m3 m-3, ``pore_index`` (the exponent b), ``conductivity`` at saturation in m per day, ``suction`` at
    saturation in m.
    """

    porosity: Array
    pore_index: Array
    conductivity: Array
    suction: Array

    @classmethod
    def from_texture(cls, sand: Array, clay: Array) -> Soil:
        """Parameters from sand and clay content in percent (Cosby et al. 1984, table 5)."""
        return cls(
            porosity=0.489 - 0.00126 * sand,
            pore_index=2.91 + 0.159 * clay,
            conductivity=7.0556e-6 * 86400.0 * 10.0 ** (-0.884 + 0.0153 * sand),
            suction=0.01 * 10.0 ** (1.88 - 0.0131 * sand),
        )


@dataclass(frozen=True)
class Vegetation:
    """Cover and roots of a set of columns, each of shape (cell,): ``cover`` (fraction 0..1), ``root_depth`` in m."""

    cover: Array
    root_depth: Array


class _Columns(NamedTuple):
    """Soils and plants: ``thickness`` (layer,) in m, ``cover`` (cell,), all else (cell, layer); see ``Soil``."""

    thickness: Array
    porosity: Array
    pore_index: Array
    conductivity: Array
    suction: Array
    cover: Array
    root_fraction: Array


class _Forcing(NamedTuple):
    """Rain and evaporative demand in m per day, and the surface soil moisture to nudge to, m3 m-3; each (day, cell)."""

    rain: Array32
    demand: Array32
    analysed: Array32


@njit(parallel=True, cache=True, nogil=True)
def _run(columns: _Columns, forcing: _Forcing, gain: float, steps: int, spin_up: int, out: Array32) -> None:
    """Daily means ``out`` (day, layer, cell), m3 m-3, with ``steps`` a day, after ``spin_up`` days."""
    thickness, cover, root_fraction = columns.thickness, columns.cover, columns.root_fraction
    porosity, pore_index = columns.porosity, columns.pore_index
    conductivity, suction = columns.conductivity, columns.suction
    rain, demand, analysed = forcing.rain, forcing.demand, forcing.analysed
    days = rain.shape[0]
    cells = rain.shape[1]
    layers = thickness.size
    dt = 1.0 / steps
    for cell in prange(cells):
        theta = np.empty(layers)
        uptake = np.empty(layers)
        k = np.empty(layers)
        d = np.empty(layers)
        lower = np.empty(layers)
        diag = np.empty(layers)
        upper = np.empty(layers)
        rhs = np.empty(layers)
        for i in range(layers):
            theta[i] = 0.6 * porosity[cell, i]
        for day in range(-spin_up, days):
            source = day if day >= 0 else day + days
            while source < 0:
                source += days
            wet = rain[source, cell]
            need = demand[source, cell]
            mean = np.zeros(layers)
            for step in range(steps):
                # Rain falls in the second half of the day, evaporation follows the sun.
                falling = wet * (2.0 / steps) if step >= steps // 2 else 0.0
                sun = need * dt * (1.6 if 2 <= step < 7 else 0.0)
                for i in range(layers):
                    wetness = min(max(theta[i] / porosity[cell, i], 0.02), 1.0)
                    b = pore_index[cell, i]
                    log_s = np.log(wetness)
                    low = np.exp((b + 2.0) * log_s)
                    d[i] = b * conductivity[cell, i] * suction[cell, i] / porosity[cell, i] * low
                    k[i] = conductivity[cell, i] * low * np.exp((b + 1.0) * log_s)
                    stress = min(max((wetness - 0.3) / 0.4, 0.0), 1.0)
                    uptake[i] = sun * cover[cell] * root_fraction[cell, i] * stress
                dry = min(max((theta[0] / porosity[cell, 0] - 0.12) / 0.5, 0.0), 1.0)
                uptake[0] += sun * (1.0 - cover[cell]) * dry
                for i in range(layers):
                    lower[i] = 0.0
                    upper[i] = 0.0
                    diag[i] = thickness[i]
                    rhs[i] = thickness[i] * theta[i] - uptake[i]
                rhs[0] += falling
                for i in range(layers):
                    # Drainage by gravity, linearised and implicit: explicit steps would empty a wet layer at once.
                    steep = dt * (2.0 * pore_index[cell, i] + 3.0) * k[i] / theta[i]
                    drain = dt * k[i] - steep * theta[i]
                    diag[i] += steep
                    rhs[i] -= drain
                    if i < layers - 1:
                        lower[i + 1] -= steep
                        rhs[i + 1] += drain
                for i in range(layers - 1):
                    spacing = 0.5 * (thickness[i] + thickness[i + 1])
                    flow = dt * 0.5 * (d[i] + d[i + 1]) / spacing
                    diag[i] += flow
                    upper[i] -= flow
                    diag[i + 1] += flow
                    lower[i + 1] -= flow
                for i in range(1, layers):
                    factor = lower[i] / diag[i - 1]
                    diag[i] -= factor * upper[i - 1]
                    rhs[i] -= factor * rhs[i - 1]
                theta[layers - 1] = rhs[layers - 1] / diag[layers - 1]
                for i in range(layers - 2, -1, -1):
                    theta[i] = (rhs[i] - upper[i] * theta[i + 1]) / diag[i]
                # What does not fit is passed up, and runs off at the surface; what is lacking is drawn from above.
                for i in range(layers - 1, 0, -1):
                    over = theta[i] - porosity[cell, i]
                    under = 0.02 - theta[i]
                    if over > 0.0:
                        theta[i] -= over
                        theta[i - 1] += over * thickness[i] / thickness[i - 1]
                    elif under > 0.0:
                        theta[i] += under
                        theta[i - 1] -= under * thickness[i] / thickness[i - 1]
                theta[0] = min(max(theta[0], 0.02), porosity[cell, 0])
                for i in range(layers):
                    mean[i] += theta[i] / steps
            if gain > 0.0 and not np.isnan(analysed[source, cell]):
                step_up = gain * (analysed[source, cell] - mean[0])
                for i in range(layers):
                    # The analysis increment fades with depth, as a filter with a short vertical correlation does.
                    theta[i] += step_up * np.exp(-float(i))
                    theta[i] = min(max(theta[i], 0.02), porosity[cell, i])
            if day >= 0:
                for i in range(layers):
                    out[day, i, cell] = mean[i]


def run_columns(
    thickness: Array,
    soil: Soil,
    vegetation: Vegetation,
    rain: Array32,
    demand: Array32,
    *,
    analysed: Array32 | None = None,
    gain: float = 0.0,
    spin_up_days: int = 365,
) -> Array32:
    """Daily mean soil moisture of many columns.

    Parameters
    ----------
    thickness
        Of each layer, m, from the surface down; shape (layer,).
    soil, vegetation
        Parameters of the columns.
    rain, demand
        Rain (or melt) and potential evapotranspiration, m per day; shape (day, cell).
    analysed, gain
        Surface soil moisture to nudge the first layer to (NaN: none that day), m3 m-3, shape (day, cell), and the share of
        the difference that is added once a day.
    spin_up_days
        Days of the forcing's end that are run before its first day.

    Returns
    -------
    Soil moisture, m3 m-3, shape (day, layer, cell).
    """
    days, cells = rain.shape
    edges = np.concatenate([[0.0], np.cumsum(thickness)])
    roots = np.diff(1.0 - np.exp(-edges[None, :] / vegetation.root_depth[:, None]), axis=1)
    roots /= roots.sum(axis=1, keepdims=True)
    out = np.empty((days, thickness.size, cells), dtype=np.float32)
    if analysed is None:
        analysed = np.full((days, cells), np.nan, dtype=np.float32)
    columns = _Columns(
        np.ascontiguousarray(thickness, dtype=np.float64),
        np.ascontiguousarray(soil.porosity),
        np.ascontiguousarray(soil.pore_index),
        np.ascontiguousarray(soil.conductivity),
        np.ascontiguousarray(soil.suction),
        np.ascontiguousarray(vegetation.cover, dtype=np.float64),
        np.ascontiguousarray(roots),
    )
    forcing = _Forcing(*(np.ascontiguousarray(part, dtype=np.float32) for part in (rain, demand, analysed)))
    _run(columns, forcing, gain, STEPS_PER_DAY, spin_up_days, out)
    return out
