"""The gate: what a new version has to pass before readers see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any, Final

import numpy as np
import xarray as xr
from numba import njit
from numpy.typing import NDArray

from deepprofile.config import Gate
from deepprofile.core.basis import basis_at, bernstein_from_legendre
from deepprofile.execution.blocks import COPIED, Record
from deepprofile.storage.filesystems import zarr_store
from deepprofile.storage.packing import Packing

# Where profiles are held against their bounds; the solver holds them at every depth.
DEPTHS: Final = np.linspace(0.0, 1.0, 21)
# What the rounding of coefficients may add.
TOLERANCE: Final = 1e-4


@dataclass(frozen=True)
class Check:
    """One check of a new version: what was found, what is allowed, and whether it has passed."""

    name: str
    text: str
    found: float
    limit: float
    passed: bool

    def __str__(self) -> str:
        return f"{self.text} {self.found:.4g}, allowed {self.limit:.4g}"

    def as_json(self) -> dict[str, Any]:
        """For a manifest."""
        return asdict(self)


class ChecksFailedError(Exception):
    """A version that is not published, since it has not passed its checks; the message says which, with both numbers."""

    def __init__(self, checks: Sequence[Check]) -> None:
        failed = [check for check in checks if not check.passed]
        super().__init__("the new version is not published: " + "; ".join(map(str, failed)))
        self.checks = tuple(checks)

    def __reduce__(self) -> tuple[Any, ...]:
        return ChecksFailedError, (self.checks,)


# What a block without a day that was computed has to say.
NOTHING: Final[Mapping[str, Any]] = {"computed": 0, "outside": 0, "compared": 0, "change": 0.0, "lost": 0}


def of_block(
    coefficients: NDArray[np.float32],
    packing: Packing,
    days: NDArray[np.int64],
    before: NDArray[np.float32] | None,
    limits: tuple[NDArray[Any], NDArray[Any]],
) -> dict[str, Any]:
    """What the gate wants to know of the days of a block that were computed, as they will be stored.

    Parameters
    ----------
    coefficients
        Shape (row, column, day, degree).
    packing
        How they are stored.
    days
        Place of each of these days in the block.
    before
        Coefficients of the block in the published version, shape (degree, days there, row, column), where it has the block.
    limits
        Lower and upper bound of each cell, m3 m-3, shape (row, column).

    Returns
    -------
    dict
        ``computed``: profiles; ``outside``: those that leave their bounds; ``compared``: profiles that both versions have, and
        ``change``: the sum of their mean-square differences over depth, m6 m-6; ``lost``: those that only the published
        one has.
    """
    degrees = coefficients.shape[-1]
    none = np.empty((*coefficients.shape[:2], 0, degrees), np.float32)
    old = none if before is None else before.transpose(2, 3, 1, 0)
    counts, change = _count(
        coefficients,
        (packing.scale, packing.offset),
        days,
        old,
        tuple(np.ascontiguousarray(limit, np.float64) for limit in limits),
        (bernstein_from_legendre(degrees - 1), basis_at(DEPTHS, degrees - 1)),
    )
    computed, outside, compared, lost = (int(each) for each in counts)
    return {"computed": computed, "outside": outside, "compared": compared, "change": float(change), "lost": lost}


@njit(cache=True, nogil=True, error_model="numpy")
def _count(coefficients: Any, packing: Any, days: Any, before: Any, limits: Any, bases: Any) -> Any:
    """Profiles that were computed, are outside of their bounds, are in both versions and in the old one only; the change.

    A polynomial lies between the least and the greatest of its Bernstein coefficients (``bases[0]``): only where these leave
    the bounds it is looked at depth by depth (``bases[1]``).
    """
    rows, columns, count, degrees = coefficients.shape
    (scale, offset), (low, high), (control, nodes) = packing, limits, bases
    counts, change = np.zeros(4, np.int64), 0.0
    stored = np.empty(degrees)
    for y in range(rows):
        for x in range(columns):
            least, most = low[y, x] - TOLERANCE, high[y, x] + TOLERANCE
            for t in range(count):
                place = days[t]
                was = place < before.shape[2] and np.isfinite(before[y, x, place, 0])
                if not np.isfinite(coefficients[y, x, t, 0]):
                    counts[3] += was
                    continue
                counts[0] += 1
                for k in range(degrees):
                    stored[k] = np.rint((coefficients[y, x, t, k] - offset) / scale) * scale + offset
                if not _inside(control, stored, least, most) and not _inside(nodes, stored, least, most):
                    counts[1] += 1
                if was:
                    counts[2] += 1
                    # Shifted Legendre polynomials are orthogonal, with squared norm 1 / (2 k + 1): DLMF 18.3.
                    for k in range(degrees):
                        change += (stored[k] - before[y, x, place, k]) ** 2 / (2.0 * k + 1.0)
    return counts, change


@njit(cache=True, nogil=True, error_model="numpy")
def _inside(basis: Any, coefficients: Any, least: float, most: float) -> bool:
    for i in range(basis.shape[0]):
        value = 0.0
        for k in range(basis.shape[1]):
            value += basis[i, k] * coefficients[k]
        if not least <= value <= most:
            return False
    return True


def of_profiles(gate: Gate, records: Mapping[str, Record], before: Mapping[str, Record]) -> list[Check]:
    """Checks of a new version of the profiles against the published one: bounds, coverage, jumps."""
    computed = [record.details for record in records.values() if record.status != COPIED]

    def total(name: str) -> float:
        return float(sum(details.get(name, 0) for details in computed))

    outside = total("outside") / max(total("computed"), 1.0)
    checks = [_at_most("bounds", "share of new profiles that leave their bounds:", outside, gate.outside)]
    there = sum(record.details.get("profiles", 0) for record in before.values())
    if there:
        lost = total("lost") / there
        checks.append(_at_most("coverage", "share of the published profiles that are lost:", lost, gate.lost))
    if total("compared"):
        jump = sqrt(total("change") / total("compared"))
        text = "change of profiles that were published, rms over depth, m3 m-3:"
        checks.append(_at_most("jump", text, jump, gate.jump))
    return checks


def _at_most(name: str, text: str, found: float, limit: float) -> Check:
    return Check(name, text, found, limit, bool(found <= limit))


def of_stations(gate: Gate, now: str, before: str | None) -> list[Check]:
    """Checks of the fused estimate's scores at stations, given the URLs of the new and of the published scores."""
    new = _scores(now, gate.min_days)
    checks = []
    if new:
        rmse, r = (float(np.median([scores[k] for scores in new.values()])) for k in (0, 1))
        if gate.max_rmse is not None:
            checks.append(_at_most("rmse", "median RMSE at stations, m3 m-3:", rmse, gate.max_rmse))
        if gate.min_r is not None:
            checks.append(Check("r", "median R at stations:", r, gate.min_r, bool(r >= gate.min_r)))
    old = _scores(before, gate.min_days) if before is not None else {}
    if old and not any(sensor[-1] for sensor in old):
        # Published before stores named instruments: of several at one depth the last one counted.
        new = {(*sensor[:-1], ""): scores for sensor, scores in new.items()}
    shared = sorted(set(new) & set(old))
    if shared:
        change = np.median([[new[s][k] - old[s][k] for s in shared] for k in (0, 1)], axis=1)
        text = "at stations against the published version:"
        checks.append(_at_most("rmse change", f"rise of RMSE (median), m3 m-3, {text}", float(change[0]), gate.rmse_rise))
        checks.append(_at_most("r change", f"fall of R (median), {text}", float(-change[1]), gate.r_fall))
    return checks


def _scores(url: str, min_days: int) -> dict[tuple[str, str, float, float, str], tuple[float, float]]:
    """RMSE and R of the first estimate, the fused one, by network, station, depths and instrument."""
    with xr.open_zarr(zarr_store(url), consolidated=False, chunks=None) as store:
        n, rmse, r = (store[name].isel(estimate=0, bound=0).values for name in ("n", "rmse", "r"))
        names = [store.attrs[name] for name in ("networks", "stations")]
        instruments = store.attrs.get("instruments", [""] * n.size)
        keys = zip(*names, store.depth_top.values, store.depth_bottom.values, instruments, strict=True)
        return {
            (str(network), str(station), float(top), float(bottom), str(instrument)): (float(rmse[k]), float(r[k]))
            for k, (network, station, top, bottom, instrument) in enumerate(keys)
            if n[k] >= min_days and np.isfinite(rmse[k]) and np.isfinite(r[k])
        }
