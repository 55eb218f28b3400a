"""Speed and memory of the numerics, as ratios taken side by side in one run.

The peers are what one would write without this library: ``scipy.optimize.lsq_linear`` under ``xr.apply_ufunc(vectorize=True)``
for the inversion, and a loop over ``pytesmo.metrics.tcol_metrics`` for triple collocation. Medians of repeats; one
core each, but for triple collocation, whose cells our side shares between threads.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import threading

import deepprofile as dp
import numpy as np
import pandas as pd
import xarray as xr
from deepprofile.core.basis import basis_mean
from deepprofile.core.prior import Kernel, prior_moments
from numpy.typing import NDArray
from scipy.optimize import lsq_linear

from benchmarks.results import Measurement, clock, timed

LAYERS = {
    "smap_l4": ((0.0, 0.05), (0.0, 1.0)),
    "gldas_noah": ((0.0, 0.1), (0.1, 0.4), (0.4, 1.0)),
    "era5_land": ((0.0, 0.07), (0.07, 0.28), (0.28, 1.0)),
    "smap_l3": ((0.0, 0.05),),
}
ERROR_STD = 0.04
PRIOR = dp.Prior(mean=0.25, std=0.06)
BOUNDS = (0.05, 0.8)
TOP = np.array([a for layers in LAYERS.values() for a, _ in layers])
BOTTOM = np.array([b for layers in LAYERS.values() for _, b in layers])


def make_products(days: int, cells: int, dry_share: float = 0.0) -> dict[str, xr.DataArray]:
    """Four float32 products of dimensions (time, layer, cell); SMAP L3 on two days of five; some profiles near zero."""
    rng = np.random.default_rng(0)
    wet = rng.normal(0.25, 0.03, (days, 1, cells)).astype(np.float32)
    dry = rng.random((days, 1, cells)) < dry_share
    wet = np.where(dry, np.float32(0.03), np.clip(wet, 0.2, 0.4))
    out = {}
    for name, layers in LAYERS.items():
        values = wet + rng.normal(0.0, 0.02, (days, len(layers), cells)).astype(np.float32)
        if name == "smap_l3":
            values[np.arange(days) % 5 > 1] = np.nan
        out[name] = xr.DataArray(
            values.astype(np.float32),
            dims=("time", "layer", "cell"),
            coords={
                "time": pd.date_range("2015-01-01", periods=days),
                "layer_top": ("layer", [a for a, _ in layers]),
                "layer_bottom": ("layer", [b for _, b in layers]),
            },
        )
    return out


def error_variances() -> xr.DataArray:
    """One error variance for every observation."""
    names = [name for name, layers in LAYERS.items() for _ in layers]
    return xr.DataArray(
        np.full(len(names), ERROR_STD**2),
        dims="observation",
        coords={
            "product": ("observation", names),
            "layer_top": ("observation", TOP),
            "layer_bottom": ("observation", BOTTOM),
        },
    )


def peer_inversion(products: dict[str, xr.DataArray], profiles: int) -> float:
    """Profiles per second of lsq_linear with prior rows, order 5, vectorised by xarray."""
    design = basis_mean(TOP, BOTTOM, 5)
    prior = PRIOR.std**2 * prior_moments(Kernel(PRIOR.correlation_length), TOP, BOTTOM, 5).coefficient_covariance
    rows = np.linalg.inv(np.linalg.cholesky(prior))
    centre = rows @ np.array([0.25, 0, 0, 0, 0, 0])

    def solve(y: NDArray[np.float32]) -> NDArray[np.float64]:
        use = np.isfinite(y)
        matrix = np.vstack([design[use] / ERROR_STD, rows])
        return np.asarray(lsq_linear(matrix, np.concatenate([y[use] / ERROR_STD, centre])).x)

    parts = [
        p.isel(cell=slice(0, 10)).rename(layer="observation").drop_vars(["layer_top", "layer_bottom"])
        for p in products.values()
    ]
    stacked = xr.concat(parts, "observation").isel(time=slice(0, profiles // 10)).transpose("cell", "time", "observation")
    seconds = clock(
        lambda: xr.apply_ufunc(solve, stacked, input_core_dims=[["observation"]], output_core_dims=[["degree"]], vectorize=True)
    )
    return profiles / seconds.cpu


def bandwidth() -> float:
    """Bytes per second that one core reads and writes (a copy of 400 MB)."""
    source = np.ones(50_000_000)
    target = np.empty_like(source)
    np.copyto(target, source)
    return 2 * source.nbytes / clock(lambda: np.copyto(target, source)).cpu


def bench_inversion(copy_rate: float) -> Measurement:
    """Inversion end to end on two million float32 profiles, without and with a tenth at a bound."""
    errors = error_variances()
    table = Measurement(
        "invert, end to end, one core, 2 million float32 profiles, order 5",
        (
            "profiles at a bound",
            "CPU / wall (s)",
            "ours (1/s of CPU)",
            "lsq_linear (1/s of CPU)",
            "ratio",
            "of memory bandwidth",
        ),
        note="The peer is `scipy.optimize.lsq_linear` under `xr.apply_ufunc(vectorize=True)`.",
    )
    for share in (0.0, 0.17):
        products = make_products(1000, 2000, share)
        few = {name: p.isel(cell=slice(0, 2)) for name, p in products.items()}
        dp.invert(few, errors, prior=PRIOR, bounds=BOUNDS)
        profile = dp.invert(products, errors, prior=PRIOR, bounds=BOUNDS)
        hit = float(((profile.flags & 6) > 0).mean())
        seconds = clock(lambda p=products: dp.invert(p, errors, prior=PRIOR, bounds=BOUNDS))  # type: ignore[misc]
        ours, peer = 2_000_000 / seconds.cpu, peer_inversion(products, 2000)
        moved = (
            sum(p.nbytes for p in products.values())
            + profile.coefficients.nbytes
            + profile.flags.nbytes
            + profile.pattern.nbytes
        )
        share_of_limit = ours * moved / 2_000_000 / copy_rate
        table.add(f"{hit:.0%}", seconds, f"{ours:,.0f}", f"{peer:,.0f}", f"{ours / peer:,.0f}", f"{share_of_limit:.0%}")
    return table


def bench_collocation(copy_rate: float) -> Measurement:
    """Triple collocation against a loop over pytesmo."""
    from pytesmo.metrics import tcol_metrics

    columns = (
        "days x cells, memory order",
        "CPU / wall (s)",
        "ours (cells/s)",
        "pytesmo (cells/s)",
        "ratio",
        "of memory bandwidth",
    )
    table = Measurement(
        "triple_collocation, float32, two threads", columns, note="The peer is a loop over `pytesmo.metrics.tcol_metrics`."
    )
    rng = np.random.default_rng(1)
    for days, cells in ((365, 100_000), (4000, 10_000)):
        truth = rng.normal(0.25, 0.05, (cells, days)).astype(np.float32)
        arrays = [truth + rng.normal(0.0, s, truth.shape).astype(np.float32) for s in (0.02, 0.03, 0.04)]
        for order in (("cell", "time"), ("time", "cell")):
            layouts = arrays if order[0] == "cell" else [np.ascontiguousarray(a.T) for a in arrays]
            # The peer reads the same arrays, a series at a time.
            few = [(a if order[0] == "cell" else a.T)[:300] for a in layouts]
            peer = 300 / clock(lambda f=few: [tcol_metrics(*row) for row in zip(*f, strict=True)]).wall  # type: ignore[misc]
            x, y, z = (xr.DataArray(a, dims=order) for a in layouts)
            dp.triple_collocation(x, y, z)
            seconds = clock(lambda x=x, y=y, z=z: dp.triple_collocation(x, y, z), 5)  # type: ignore[misc]
            ours = cells / seconds.wall
            limit = ours * 12 * days / copy_rate
            place = f"{days} x {cells:,}, {', '.join(order)}"
            table.add(place, seconds, f"{ours:,.0f}", f"{peer:,.0f}", f"{ours / peer:,.0f}", f"{limit:.0%}")
    return table


def measure_memory(cells: int) -> tuple[float, float]:
    """Peak memory above input and output (MiB) and seconds of an inversion, in a process of its own."""
    code = f"from benchmarks.numerics import report_memory; report_memory({cells})"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    return float(out[0]), float(out[1])


def report_memory(cells: int) -> None:
    """Print what ``measure_memory`` reads: the peak is sampled while the inversion runs."""
    errors, products = error_variances(), make_products(500, cells)
    few = {name: p.isel(cell=slice(0, 2)) for name, p in products.items()}
    dp.invert(few, errors, prior=PRIOR, bounds=BOUNDS)
    held, peak, done = _resident(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.001):
            peak[0] = max(peak[0], _resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    made = []
    seconds = timed(lambda: made.append(dp.invert(products, errors, prior=PRIOR, bounds=BOUNDS))).cpu
    profile = made[0]
    done.set()
    watcher.join()
    output = sum(profile[name].nbytes for name in ("coefficients", "flags", "pattern")) / 1024
    print(max(peak[0] - held - output, 0.0) / 1024, seconds)


def _resident() -> float:
    """Resident memory of this process in KiB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1024


def bench_memory() -> Measurement:
    """Memory and time against the number of cells."""
    columns = ("cells", "peak above input and output (MiB)", "CPU (s)", "s per million profiles")
    table = Measurement("invert against the number of cells, 500 days", columns)
    for cells in (1000, 2000, 4000, 8000):
        extra, seconds = measure_memory(cells)
        table.add(f"{cells:,}", f"{extra:.0f}", f"{seconds:.2f}", f"{seconds / cells / 500 * 1e6:.3f}")
    return table


def measure() -> dict[str, Measurement]:
    """Every table of the numerics."""
    rate = bandwidth()
    return {
        "inversion": bench_inversion(rate),
        "collocation": bench_collocation(rate),
        "inversion-memory": bench_memory(),
    }
