"""The nearest profile that keeps its bounds at every depth.

Minimise (c - c0)' P^-1 (c - c0) subject to low <= sum_k c_k P_k(2 z - 1) <= high for every z in [0, 1], with P the
covariance of the unconstrained estimate c0: the constrained maximum of the posterior. It is a semi-infinite quadratic
programme in a few unknowns: an exchange method (Hettich and Kortanek 1993, doi 10.1137/1035089) adds the depth of the
worst violation, the dual active-set method of Goldfarb and Idnani (1983, doi 10.1007/BF02591962) makes it hold, and so on
until no depth is left.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numba import njit
from numpy.polynomial import legendre
from numpy.typing import NDArray

from deepprofile.core.basis import MAX_ORDER

Array = NDArray[np.float64]

# What a profile may break a bound by. Coefficients are stored as float32 with an error of about 1e-7.
TOLERANCE: Final = 2.0e-7
# The solve goes on until no depth is further out than this: the distance to the solution goes with its square root.
CONVERGED: Final = 1.0e-9
GRID: Final = 32
_MAX_DEGREE: Final = MAX_ORDER
_MOST_ACTIVE: Final = _MAX_DEGREE + 1
_ROUNDS: Final = 60
# How well the first contact is placed: what a profile is out by beside it goes with the square of that; and the last step of
# secants, whose errors go with the product of two steps.
_CLOSE: Final = 1e-5
_NEAR: Final = 3e-4

# Chebyshev points: dense at the ends, where polynomials turn fastest.
_X: Final = -np.cos(np.pi * np.arange(GRID + 1) / GRID)
# By degree, so that the loops over nodes run along vector registers.
_VALUES: Final = np.ascontiguousarray(legendre.legvander(_X, MAX_ORDER).T)
_SLOPES: Final = np.stack([legendre.legval(_X, legendre.legder(unit)) for unit in np.eye(MAX_ORDER + 1)])


@njit(cache=True, nogil=True, error_model="numpy")
def legendre_row(x: float, degree: int, row: Array) -> None:
    """Values of P_0 ... P_degree at x in [-1, 1]."""
    row[0] = 1.0
    if degree > 0:
        row[1] = x
    for k in range(1, degree):
        row[k + 1] = ((2.0 * k + 1.0) * x * row[k] - k * row[k - 1]) / (k + 1.0)


@njit(cache=True, nogil=True, error_model="numpy")
def _value_and_slopes(c: Array, x: float) -> tuple[float, float, float]:
    """Value, first and second derivative in x."""
    p0, p1 = 1.0, x
    d0, d1 = 0.0, 1.0
    e0, e1 = 0.0, 0.0
    value, first, second = c[0], 0.0, 0.0
    if c.size > 1:
        value += c[1] * x
        first += c[1]
    for k in range(1, c.size - 1):
        p2 = ((2.0 * k + 1.0) * x * p1 - k * p0) / (k + 1.0)
        d2 = (2.0 * k + 1.0) * p1 + d0
        e2 = (2.0 * k + 1.0) * d1 + e0
        value += c[k + 1] * p2
        first += c[k + 1] * d2
        second += c[k + 1] * e2
        p0, p1, d0, d1, e0, e1 = p1, p2, d1, d2, e1, e2
    return value, first, second


@njit(cache=True, nogil=True, error_model="numpy")
def _extremum(c: Array, a: float, b: float, slope_a: float, slope_b: float) -> tuple[float, float]:
    """Where the slope vanishes between two x at which its signs differ, and the value there: a bracketed Newton."""
    rising = slope_b > 0.0
    m = a + (b - a) * slope_a / (slope_a - slope_b)
    for _ in range(30):
        value, s1, s2 = _value_and_slopes(c, m)
        if (s1 > 0.0) == rising:
            b = m
        else:
            a = m
        step = m - s1 / s2 if s2 != 0.0 else 0.5 * (a + b)
        if not a < step < b:
            step = 0.5 * (a + b)
        if abs(step - m) < 1e-8:
            break
        m = step
    value, _, _ = _value_and_slopes(c, m)
    return m, value


@njit(cache=True, nogil=True, error_model="numpy")
def _turning(c: Array, a: float, b: float, slope: float) -> tuple[float, float]:
    """Where the slope comes nearest to zero between two x with slopes of one sign, and the slope there.

    Ends as soon as the slope has changed its sign.
    """
    m, s1 = 0.5 * (a + b), slope
    for _ in range(40):
        m = 0.5 * (a + b)
        _, s1, s2 = _value_and_slopes(c, m)
        if s1 * slope < 0.0 or b - a < 1e-7:
            break
        if s2 * slope < 0.0:
            a = m
        else:
            b = m
    return m, s1


class Extremes(NamedTuple):
    """Smallest and largest value of a profile, m3 m-3, and where they are: x in [-1, 1], from the surface down."""

    low: float
    x_low: float
    high: float
    x_high: float


@njit(cache=True, nogil=True, error_model="numpy")
def extremes(c: Array) -> Extremes:
    """Smallest and largest value of the profile with coefficients ``c`` (d,)."""
    values, slopes = np.empty(GRID + 1), np.empty(GRID + 1)
    _at_nodes(c, values, slopes)
    return _extremes(c, values, slopes)


@njit(cache=True, nogil=True, error_model="numpy")
def _at_nodes(c: Array, values: Array, slopes: Array) -> None:
    """Values and derivatives of the profile at the nodes."""
    values[:] = c[0]
    slopes[:] = 0.0
    for k in range(1, c.size):
        for g in range(GRID + 1):
            values[g] += c[k] * _VALUES[k, g]
            slopes[g] += c[k] * _SLOPES[k, g]


@njit(cache=True, nogil=True, error_model="numpy")
def _extremes(c: Array, values: Array, slopes: Array) -> Extremes:
    """``extremes`` from what ``_at_nodes`` has found."""
    low = high = c[0]
    x_low = x_high = 0.0
    if c.size == 1:
        return Extremes(low, x_low, high, x_high)
    low, high = np.inf, -np.inf
    for g in range(GRID + 1):
        if values[g] < low:
            low, x_low = values[g], _X[g]
        if values[g] > high:
            high, x_high = values[g], _X[g]
    # Between two nodes a function leaves the chord by no more than an eighth of its second derivative times their distance
    # squared, and the second derivative of P_k is largest at the ends: nodes far from both extremes hide none.
    curvature = 0.0
    for k in range(2, c.size):
        curvature += abs(c[k]) * 0.125 * (k + 2.0) * (k + 1.0) * k * (k - 1.0)
    for g in range(1, GRID + 1):
        x, width, before, here = _X[g], _X[g] - _X[g - 1], values[g - 1], values[g]
        room = 0.125 * curvature * width * width
        if min(before, here) - room >= low and max(before, here) + room <= high:
            continue
        slope_before, slope = slopes[g - 1], slopes[g]
        if slope_before * slope < 0.0:
            m, value = _extremum(c, _X[g - 1], x, slope_before, slope)
            if value < low:
                low, x_low = value, m
            if value > high:
                high, x_high = value, m
        elif slope_before * slope > 0.0:
            # A dip and a rise may both lie between two nodes: then the slope of the cubic through both ends comes near to zero.
            mean = (here - before) / width
            bend, lean = 3.0 * (slope_before + slope - 2.0 * mean), 3.0 * mean - 2.0 * slope_before - slope
            place = -lean / bend if bend != 0.0 else -1.0
            nearest = (slope_before + lean * place) / slope_before
            if 0.0 < place < 1.0 and nearest < 0.6 and nearest < 0.6 * slope / slope_before:
                turn, s1 = _turning(c, _X[g - 1], x, slope_before)
                if s1 * slope < 0.0:
                    for half in range(2):
                        if half == 0:
                            m, value = _extremum(c, _X[g - 1], turn, slope_before, s1)
                        else:
                            m, value = _extremum(c, turn, x, s1, slope)
                        if value < low:
                            low, x_low = value, m
                        if value > high:
                            high, x_high = value, m
    return Extremes(low, x_low, high, x_high)


@njit(cache=True, nogil=True, error_model="numpy")
def _solve(matrix: Array, right: Array, n: int) -> bool:
    """Gaussian elimination with pivoting in place; the solution is left in ``right``. False where it is singular."""
    scale = 0.0
    for i in range(n):
        scale = max(scale, abs(matrix[i, i]))
    for k in range(n):
        pivot = k
        for i in range(k + 1, n):
            if abs(matrix[i, k]) > abs(matrix[pivot, k]):
                pivot = i
        if abs(matrix[pivot, k]) <= 1e-13 * scale:
            return False
        if pivot != k:
            for j in range(k, n):
                matrix[k, j], matrix[pivot, j] = matrix[pivot, j], matrix[k, j]
            right[k], right[pivot] = right[pivot], right[k]
        for i in range(k + 1, n):
            factor = matrix[i, k] / matrix[k, k]
            for j in range(k, n):
                matrix[i, j] -= factor * matrix[k, j]
            right[i] -= factor * right[k]
    for k in range(n - 1, -1, -1):
        for j in range(k + 1, n):
            right[k] -= matrix[k, j] * right[j]
        right[k] /= matrix[k, k]
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def _add_constraint(c: Array, covariance: Array, x: float, sign: float, bound: float, active: int, work: Array) -> int:
    """Add the constraint sign * (theta(x) - bound) >= 0 to the active set, dropping those that no longer hold the profile.

    One major iteration of Goldfarb and Idnani. Returns the new number of active constraints.
    """
    d = c.size
    rows, spread, matrix = work[0:8], work[8:16], work[16:24]
    multiplier, right, normal, drift = work[24], work[25], work[26], work[27]
    legendre_row(x, d - 1, normal)
    own = 0.0
    gap = -bound
    for k in range(d):
        normal[k] *= sign
        gap += sign * normal[k] * c[k]
    gap *= sign
    for k in range(d):
        total = 0.0
        for m in range(d):
            total += covariance[k, m] * normal[m]
        drift[k] = total
        own += normal[k] * total
    new_multiplier = 0.0
    for _ in range(4 * _MOST_ACTIVE):
        for i in range(active):
            total = 0.0
            for k in range(d):
                total += spread[i, k] * normal[k]
            right[i] = total
            for j in range(active):
                total = 0.0
                for k in range(d):
                    total += rows[i, k] * spread[j, k]
                matrix[i, j] = total
        if active and not _solve(matrix, right, active):
            # Two active depths have run into one: the older one goes, and its multiplier with it.
            new_multiplier += multiplier[0]
            active = _drop_constraint(0, active, rows, spread, multiplier)
            continue
        room = own
        for i in range(active):
            for k in range(d):
                room -= right[i] * spread[i, k] * normal[k]
        drop, partial = -1, np.inf
        for i in range(active):
            if right[i] > 0.0 and multiplier[i] / right[i] < partial:
                drop, partial = i, multiplier[i] / right[i]
        full = -gap / room if room > 1e-11 * own and active < d else np.inf
        step = min(partial, full)
        if step == np.inf:
            return active
        if full < np.inf:
            for k in range(d):
                move = drift[k]
                for i in range(active):
                    move -= right[i] * spread[i, k]
                c[k] += step * move
            gap += step * room
        for i in range(active):
            multiplier[i] -= step * right[i]
        new_multiplier += step
        if full <= partial:
            for k in range(d):
                rows[active, k], spread[active, k] = normal[k], drift[k]
            multiplier[active] = new_multiplier
            return active + 1
        active = _drop_constraint(drop, active, rows, spread, multiplier)
    return active


@njit(cache=True, nogil=True, error_model="numpy")
def _drop_constraint(drop: int, active: int, rows: Array, spread: Array, multiplier: Array) -> int:
    for j in range(drop, active - 1):
        rows[j], spread[j] = rows[j + 1], spread[j + 1]
        multiplier[j] = multiplier[j + 1]
    return active - 1


@njit(cache=True, nogil=True, error_model="numpy")
def _distance_slope(c: Array, covariance: Array, x: float, bound: float, row: Array, slope: Array) -> float:
    """Half of q^2 times the derivative of the squared distance (in the metric) that holding theta(x) at the bound costs.

    With q = row' P row the distance is (bound - theta)^2 / q.
    """
    d = c.size
    legendre_row(x, d - 1, row)
    slope[0] = 0.0
    if d > 1:
        slope[1] = 1.0
    for k in range(1, d - 1):
        slope[k + 1] = (2.0 * k + 1.0) * row[k] + slope[k - 1]
    gap, steep, own, turn = bound, 0.0, 0.0, 0.0
    for k in range(d):
        gap -= c[k] * row[k]
        steep += c[k] * slope[k]
        along = 0.0
        for m in range(d):
            along += covariance[k, m] * row[m]
        own += row[k] * along
        turn += slope[k] * along
    return -gap * (steep * own + gap * turn)


@njit(cache=True, nogil=True, error_model="numpy")
def _first_contact(
    c: Array, covariance: Array, sign: float, bound: float, values: Array, variance: Array, row: Array, slope: Array
) -> float:
    """Where a single active depth would lie: the violation that costs most in the metric, not the largest one.

    ``values`` of the profile at the nodes; ``variance``: scratch of the same size. 2 where no node is out of bounds.
    """
    variance[:] = 0.0
    for k in range(c.size):
        for m in range(k + 1):
            factor = covariance[k, m] if k == m else 2.0 * covariance[k, m]
            for g in range(GRID + 1):
                variance[g] += factor * _VALUES[k, g] * _VALUES[m, g]
    best, at = -1.0, 0
    for g in range(GRID + 1):
        gap = bound - values[g]
        if sign * gap > 0.0:
            cost = gap * gap / variance[g]
            if cost > best:
                best, at = cost, g
    if best < 0.0:
        return 2.0
    low, high = float(_X[max(at - 1, 0)]), float(_X[min(at + 1, GRID)])
    x = float(_X[at])
    rise = _distance_slope(c, covariance, x, bound, row, slope)
    if 0 < at < GRID:
        # Secants from the top of the parabola through three nodes; where they go astray, the bracket below.
        gap_low, gap_high = bound - values[at - 1], bound - values[at + 1]
        first = (best - (gap_low * gap_low / variance[at - 1] if sign * gap_low > 0.0 else 0.0)) / (x - low)
        second = ((gap_high * gap_high / variance[at + 1] if sign * gap_high > 0.0 else 0.0) - best) / (high - x)
        bend = (second - first) / (high - low)
        last, last_rise = x, rise
        guess = x - 0.5 * (first + bend * (x - low)) / bend if bend < 0.0 else x
        for _ in range(6):
            if not low < guess < high or guess == last:
                break
            new = _distance_slope(c, covariance, guess, bound, row, slope)
            lean = (new - last_rise) / (guess - last)
            if not lean < 0.0:
                break
            last, last_rise = guess, new
            guess -= new / lean
            if abs(guess - last) < _NEAR and low <= guess <= high:
                return guess
    if rise > 0.0:
        low, rise_low = x, rise
        rise_high = _distance_slope(c, covariance, high, bound, row, slope)
    else:
        high, rise_high = x, rise
        rise_low = _distance_slope(c, covariance, low, bound, row, slope)
    if not (rise_low > 0.0 > rise_high):
        return x
    # Regula falsi, halving the side that stays (Illinois).
    side = 0
    for _ in range(40):
        x = (low * rise_high - high * rise_low) / (rise_high - rise_low)
        rise = _distance_slope(c, covariance, x, bound, row, slope)
        if rise > 0.0:
            if x - low < _CLOSE:
                break
            low, rise_low = x, rise
            if side == 1:
                rise_high *= 0.5
            side = 1
        else:
            if high - x < _CLOSE:
                break
            high, rise_high = x, rise
            if side == -1:
                rise_low *= 0.5
            side = -1
    return x


@njit(cache=True, nogil=True)
def scratch() -> Array:
    """Memory that ``project_onto_bounds`` works in; it can be used again."""
    return np.zeros((30, GRID + 1))


@njit(cache=True, nogil=True, error_model="numpy")
def project_onto_bounds(c: Array, covariance: Array, low: float, high: float, work: Array) -> int:
    """Move a profile to the nearest one within the bounds, in place.

    Parameters
    ----------
    c
        Coefficients, shape (d,); every one of them is free, so a profile of lower degree is handed in with fewer.
    covariance
        Of the unconstrained estimate, shape (d, d), positive definite.
    low, high
        Bounds on theta(z), low < high.
    work
        Scratch, as ``scratch`` makes it.

    Returns
    -------
    1 where the lower bound was met, 2 the upper, 3 both, 0 where nothing had to move.
    """
    values, slopes = work[28], work[29]
    _at_nodes(c, values, slopes)
    least, x_least, most, x_most = _extremes(c, values, slopes)
    if least >= low and most <= high:
        return 0
    # Aim a little inside, so that rounding to float32 stays within the tolerance.
    inner_low, inner_high = low + TOLERANCE, high - TOLERANCE
    sides = 0
    active = 0
    # Most profiles are held at one depth, which is found directly.
    lower_first = inner_low - least >= most - inner_high
    sign, bound = (1.0, inner_low) if lower_first else (-1.0, inner_high)
    contact = _first_contact(c, covariance, sign, bound, values, slopes, work[24], work[25])
    if contact <= 1.0:
        active = _add_constraint(c, covariance, contact, sign, bound, active, work)
        sides |= 1 if lower_first else 2
        _at_nodes(c, values, slopes)
        least, x_least, most, x_most = _extremes(c, values, slopes)
    for _ in range(_ROUNDS):
        too_low, too_high = inner_low - least, most - inner_high
        if max(too_low, too_high) <= CONVERGED:
            break
        if too_low >= too_high:
            active = _add_constraint(c, covariance, x_least, 1.0, inner_low, active, work)
            sides |= 1
        else:
            active = _add_constraint(c, covariance, x_most, -1.0, inner_high, active, work)
            sides |= 2
        _at_nodes(c, values, slopes)
        least, x_least, most, x_most = _extremes(c, values, slopes)
    if least < low or most > high:
        # What is left after many rounds is drawn in towards a uniform profile, which keeps the bounds exactly.
        uniform = min(max(c[0], low + 0.01 * (high - low)), high - 0.01 * (high - low))
        share = 0.0
        if least < low:
            share = max(share, (low - least) / (uniform - least))
        if most > high:
            share = max(share, (most - high) / (most - uniform))
        c[0] += share * (uniform - c[0])
        for k in range(1, c.size):
            c[k] *= 1.0 - share
    return sides


def worst_violation(c: NDArray[Any], low: float, high: float) -> float:
    """By how much a profile breaks its bounds at the worst depth; 0 where it keeps them."""
    found = extremes(np.ascontiguousarray(c, dtype=np.float64))
    return float(max(low - found.low, found.high - high, 0.0))
