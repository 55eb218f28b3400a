"""The vertical covariance of measured soil moisture: which family describes the sensors of SCAN and USCRN best.

    python -m benchmarks.covariance [--data ../shared/data]

Gaussian likelihood of daily anomalies at the sensors' depths, a station a sample, after ``deepprofile.twin.screen``. Families
are fitted to every other station and judged at the others. Values are nats per sensor, less is better.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from deepprofile import twin
from deepprofile.core.prior import DEEP_SHARE, FADE_M, LENGTH_GROWTH, Kernel, Prior
from rich.console import Console
from rich.table import Table
from scipy.optimize import minimize

from benchmarks.profiles import NETWORKS, half_of, sample_data

Covariance = Callable[[np.ndarray, np.ndarray], np.ndarray]
Sample = tuple[np.ndarray, np.ndarray]


def _exponential(p: np.ndarray) -> Covariance:
    return lambda a, b: p[0] * np.exp(-np.abs(a - b) / p[1])


def _fading(p: np.ndarray) -> Covariance:
    return lambda a, b: p[0] * np.exp(-np.abs(a - b) / p[1] - (a + b) / p[2])


def _two_ranges(p: np.ndarray) -> Covariance:
    return lambda a, b: p[0] * np.exp(-np.abs(a - b) / p[1]) + p[2] * np.exp(-np.abs(a - b) / p[3])


def _surface_layer(p: np.ndarray) -> Covariance:
    return lambda a, b: p[0] * np.exp(-np.abs(a - b) / p[1]) + p[2] * np.exp(-np.abs(a - b) / p[3] - (a + b) / p[4])


def _three_terms(p: np.ndarray) -> Covariance:
    def value(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        distance, fade = np.abs(a - b), np.exp(-(a + b) / p[5])
        near = p[2] * np.exp(-distance / p[3]) + p[4] * np.exp(-distance / p[1])
        return np.asarray(p[0] * np.exp(-distance / p[1]) + near * fade)

    return value


def _smooth(p: np.ndarray) -> Covariance:
    def value(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        scaled = np.sqrt(3.0) * np.abs(a - b) / p[1]
        return np.asarray(p[0] * (1.0 + scaled) * np.exp(-scaled) + p[2] * np.exp(-np.abs(a - b) / p[3]))

    return value


def _factors(p: np.ndarray) -> Covariance:
    return lambda a, b: p[0] + p[1] * np.exp(-(a + b) / p[2]) + p[3] * np.exp(-np.abs(a - b) / p[4])


def _growing(p: np.ndarray) -> Covariance:
    kernel = Kernel(p[1], p[2], min(p[3], 0.999), p[4])
    return lambda a, b: p[0] * kernel(a, b)


FAMILIES: dict[str, tuple[Callable[[np.ndarray], Covariance], tuple[float, ...]]] = {
    "exponential": (_exponential, (0.004, 1.0)),
    "exponential, fading": (_fading, (0.006, 1.0, 2.0)),
    "two exponentials": (_two_ranges, (0.003, 1.0, 0.001, 0.1)),
    "exponential and a surface layer": (_surface_layer, (0.002, 1.0, 0.002, 0.5, 0.3)),
    "exponential and two surface layers": (_three_terms, (0.002, 1.0, 0.001, 0.1, 0.002, 0.3)),
    "Matern 3/2 and an exponential": (_smooth, (0.003, 1.0, 0.001, 0.1)),
    "a constant, a surface layer, an exponential": (_factors, (0.002, 0.003, 0.3, 0.001, 0.1)),
    "length that grows, variance that fades": (_growing, (0.007, 0.4, 1.0, 0.4, 0.1)),
}


def samples(profiles: xr.DataArray) -> list[Sample]:
    """Depths and the covariance of the anomalies at them, of each station."""
    values = profiles.transpose("station", "depth", "time").values
    depths, found = profiles["depth"].values, []
    for record in values:
        there = record[:, np.isfinite(record[0])]
        found.append((depths, np.cov(there, ddof=0)))
    return found


def loss(covariance: Covariance, stations: Sequence[Sample]) -> float:
    """Negative logarithm of the likelihood of a day, per sensor, in the mean over stations."""
    total = 0.0
    for depths, seen in stations:
        matrix = covariance(depths[:, None], depths) + 1e-7 * np.eye(depths.size)
        sign, logarithm = np.linalg.slogdet(matrix)
        if sign <= 0.0:
            return 1e9
        total += (logarithm + np.trace(np.linalg.solve(matrix, seen))) / depths.size
    return 0.5 * total / len(stations)


def fit(family: Callable[[np.ndarray], Covariance], start: tuple[float, ...], stations: Sequence[Sample]) -> np.ndarray:
    """Parameters of the largest likelihood, all of them positive."""
    value = np.log(np.array(start))

    def of(logarithms: np.ndarray) -> float:
        return loss(family(np.exp(logarithms)), stations)

    for _ in range(3):
        value = minimize(of, value, method="Nelder-Mead", options={"maxiter": 4000, "fatol": 1e-8}).x
    return np.asarray(np.exp(value))


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit every family to the tuning half and judge it on the test half."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=sample_data(), help="folder with scan_daily, scan and uscrn")
    folder = parser.parse_args(arguments).data
    console = Console(width=130)
    if not folder.is_dir():
        console.print(f"there is no folder {folder} with measured profiles: name one with --data", soft_wrap=True)
        return 2
    passed = [twin.screen(read(folder)) for read in NETWORKS.values()]
    halves = {half: [s for p in passed for s in samples(half_of(p, half))] for half in ("tuning", "test")}
    table = Table("family", "tuning half", "test half", "parameters (variance, lengths in m)", title="Vertical covariance")
    for name, (family, start) in FAMILIES.items():
        found = fit(family, start, halves["tuning"])
        scores = (f"{loss(family(found), halves[half]):.4f}" for half in ("tuning", "test"))
        table.add_row(name, *scores, " ".join(f"{v:.4g}" for v in found))
    console.print(table)
    prior = Prior()
    console.print(
        f"The default prior: std {prior.std} m3 m-3, length {prior.correlation_length} m, growth {LENGTH_GROWTH}, deep share "
        f"{DEEP_SHARE}, fade {FADE_M} m"
    )
    for name, profiles in zip(NETWORKS, passed, strict=True):
        means = half_of(profiles, "tuning").mean("time")
        spread = " ".join(f"{v:.3f}" for v in means.std("station").values)
        console.print(f"{name}: standard deviation of the time means between stations, by depth: {spread} m3 m-3")
    return 0


if __name__ == "__main__":
    sys.exit(main())
