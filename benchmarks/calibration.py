"""How the constants of the error model were chosen: the continuous ranked probability score on twenty twins.

    python -m benchmarks.calibration

Every second twin has parents that are unequally good. Prints the mean score over depth bands, cells and days with the
constants as they are, then with each of them made smaller and larger: none of the changes should improve it by much. The
twins of ``benchmarks.accuracy`` have other seeds and play no part here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import deepprofile as dp
import numpy as np
import xarray as xr
from deepprofile import twin
from deepprofile.core import biases, error_model, invert
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.special import ndtr

# By the seed from which the factors of the unequal ones are drawn.
SEEDS = {77: range(1000, 1008), 78: range(2000, 2012)}
PARENTS = ("smap_l4", "gldas_noah", "era5_land")
# Every so many days are scored: soil moisture has a memory of weeks.
STEP = 9
TRIED: tuple[tuple[ModuleType, str, float, float], ...] = (
    (error_model, "SHRINKAGE_DAYS", 1000.0, 8000.0),
    (error_model, "WINDOW", 21, 61),
    (error_model, "TYPICAL_NOISE", 0.3, 0.65),
    (error_model, "PRODUCT_TRUST", 0.3, 0.9),
    (error_model, "LAYER_TRUST", 0.0, 0.6),
    (biases, "TYPICAL_BIAS", 0.02, 0.05),
    (biases, "RETRIEVAL_BIAS", 0.012, 0.033),
    (biases, "LOG_SPREAD", 0.3, 0.8),
    (biases, "CELLS_EXPONENT", 0.2, 0.6),
    (biases, "BIAS_CORRELATION_LENGTH_M", 1.5, 6.0),
    (biases, "MEAN_SHARE", 1.0, 4.0),
    (invert, "ERROR_CORRELATION_LENGTH_M", 0.25, 1.0),
    (invert, "SHARED_ERROR", 0.15, 0.45),
    (invert, "SHARED_BIAS", 0.25, 0.75),
)


def worlds() -> Iterator[twin.World]:
    """Equal parents, and parents whose errors are scaled by factors between 0.6 and 1.5, in turn."""
    for draw, seeds in SEEDS.items():
        rng = np.random.default_rng(draw)
        for number, seed in enumerate(seeds):
            factors = np.exp(rng.uniform(np.log(0.6), np.log(1.5), len(PARENTS))).round(2)
            unequal = dict(zip(PARENTS, factors.tolist(), strict=True)) if number % 2 else None
            yield twin.simulate(seed=seed, model_errors=unequal)


def gaussian_crps(truth: xr.DataArray, mean: xr.DataArray, std: xr.DataArray) -> float:
    """Mean continuous ranked probability score of a normal distribution (Gneiting et al. 2005, doi 10.1175/MWR2904.1)."""
    z: NDArray[np.float64] = ((truth - mean) / std).values
    density = np.exp(-0.5 * z**2) / np.sqrt(2.0 * np.pi)
    return float(np.nanmean(std.values * (z * (2.0 * ndtr(z) - 1.0) + 2.0 * density - 1.0 / np.sqrt(np.pi))))


def score(world: twin.World) -> tuple[float, float, float]:
    """Mean score over the depth bands, and the lowest and highest share of days inside the 90 % interval of a band."""
    model = dp.estimate_errors(world.products, window=error_model.WINDOW)
    profile = dp.invert({name: series.isel(time=slice(0, None, STEP)) for name, series in world.products.items()}, model)
    scores, coverage = [], []
    for top, bottom in twin.DEPTH_BANDS_M:
        truth = world.truth_mean(top, bottom).isel(time=slice(0, None, STEP)).transpose("y", "x", "time")
        mean = profile.deepprofile.mean(top, bottom).transpose("y", "x", "time")
        std = profile.deepprofile.std_mean(top, bottom).transpose("y", "x", "time")
        scores.append(gaussian_crps(truth, mean, std))
        inside = (abs(truth - mean) < 1.645 * std).where(mean.notnull())
        coverage.append(float(inside.mean()))
    return float(np.mean(scores)), min(coverage), max(coverage)


@contextmanager
def changed(module: ModuleType, name: str, value: float) -> Iterator[None]:
    """A constant of a module with another value."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def main() -> int:
    """Score the constants as they are and with each of them changed."""
    console = Console(width=110)
    simulated = [
        twin.World(w.truth.astype(np.float32), w.products, {}, w.stations)
        for w in track(worlds(), "simulating", total=sum(map(len, SEEDS.values())), console=console)
    ]
    table = Table("constant", "value", "CRPS (1e-4 m3 m-3)", "least coverage", "most", title="Calibration on twenty twins")

    def row(name: str, value: str) -> None:
        found = np.array([score(world) for world in simulated])
        table.add_row(name, value, f"{1e4 * found[:, 0].mean():.2f}", f"{found[:, 1].min():.0%}", f"{found[:, 2].max():.0%}")

    row("as they are", "; ".join(f"{getattr(module, name):g}" for module, name, *_ in TRIED))
    for module, name, *values in track(TRIED, "changing constants", console=console):
        for value in values:
            with changed(module, name, value):
                row(name, f"{value:g}")
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
