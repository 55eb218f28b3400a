"""Values of chosen time steps and cells, whatever the order and names of a variable's axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, permutations
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepprofile.sources.products.checks import PackedHoles
from deepprofile.sources.products.decoding import Floats, decode
from deepprofile.sources.products.files import GranuleError, GranuleFile, Variable
from deepprofile.sources.products.placement import Cells, Placement

VERSION: Final = "expver"
# Of ERA5T, the values that ERA5 replaces after two to three months; final ones are 1.
_PROVISIONAL: Final = 5
_Y_NAMES: Final = frozenset(("latitude", "lat", "y", "row", "rows"))
_X_NAMES: Final = frozenset(("longitude", "lon", "x", "column", "columns"))


@dataclass(frozen=True)
class TimeAxis:
    """Time steps of a file.

    ``times``: ``datetime64[m]``, one after the other; ``shape`` and ``dims``: as the file has them, on no axis, on one, or on
    two (``time`` and ``step``).
    """

    times: NDArray[np.datetime64]
    shape: tuple[int, ...]
    dims: tuple[str, ...]


class FieldReader:
    """Reads variables of a file by time step, row and column.

    ``holes``: what looks for holes in packed values, over all that is read with it; by default each read is looked at alone.
    """

    def __init__(self, file: GranuleFile, axis: TimeAxis, cells: Cells, holes: PackedHoles | None = None) -> None:
        self._file, self._axis, self._cells, self._holes = file, axis, cells, holes
        self._versions = versions_of(file)
        # Steps of which values were taken that will be replaced.
        self._replaced: set[int] = set()

    def window(self, variable: Variable, steps: NDArray[np.int64], where: Placement, out: Floats | None = None) -> Floats:
        """Values of some steps on a window, (step, rows, columns); into ``out`` where that is given."""
        return where.fill(partial(self.values, variable, steps), steps.size, out)

    def values(self, variable: Variable, steps: NDArray[np.int64], rows: slice, columns: slice) -> Floats:
        """Values of some steps on some of the file's own rows and columns, (step, rows, columns), NaN where missing.

        Raises
        ------
        GranuleError
            For a variable with an axis that is none of time, version, row and column and has several members.
        """
        roles = self._roles(variable)
        in_time = self._time_slices(steps)
        slices = {**in_time, "y": rows, "x": columns, "v": slice(None), "1": slice(None)}
        index = tuple(slices[role] for role in roles)
        stored = decode(variable, index)
        holes = self._holes or PackedHoles(self._file.name)
        holes.look_at(variable, stored, (rows, columns))
        if self._holes is None:
            holes.refuse()
        found = self._ordered(stored, roles)
        # (time..., version, row, column)
        times = len(self._axis.shape)
        kept = found.reshape(-1, *found.shape[times:])
        if "t0" in roles:
            positions = self._positions(steps, in_time)
            in_order = bool((np.diff(positions) == 1).all())
            # A day of a global product is half a gigabyte: it is not copied for steps that follow one another.
            kept = kept[positions[0] : positions[-1] + 1] if in_order else kept[positions]
        elif len(kept) != steps.size:
            kept = np.broadcast_to(kept, (steps.size, *kept.shape[1:]))
        return np.ascontiguousarray(self._newest(kept, steps))

    def chunks(self, variable: Variable) -> dict[str, int]:
        """Length of what is unpacked at once along ``t0`` (time), ``y`` and ``x``; what is not in pieces is not there."""
        if variable.chunks is None:
            return {}
        return dict(zip(self._roles(variable), variable.chunks, strict=True))

    def steps_together(self, variable: Variable) -> int:
        """How many steps along the first axis of time are best read together: a piece of the file, or all.

        All, where time is not the slowest axis: the numbers of a step are all over the file then.
        """
        roles = self._roles(variable)
        if "t0" not in roles:
            return 1
        return self.chunks(variable).get("t0", 1) if roles[0] == "t0" else self._axis.shape[0]

    def is_provisional(self, steps: NDArray[np.int64]) -> bool:
        """Whether the provider will replace values of these steps, of those that were read."""
        versions = self._versions
        if versions is None:
            return False
        labels = versions.numbers
        if self._has_time_shape(versions):
            return bool((labels.reshape(-1)[steps] == _PROVISIONAL).any())
        if self._lies_along_time(versions):
            shape = [n if d in versions.dims else 1 for n, d in zip(self._axis.shape, self._axis.dims, strict=True)]
            every = np.broadcast_to(labels.reshape(shape), self._axis.shape).reshape(-1)
            return bool((every[steps] == _PROVISIONAL).any())
        if labels.size == 1:
            return bool((labels == _PROVISIONAL).any())
        return bool(self._replaced & set(steps.tolist()))

    @staticmethod
    def has_provisional(file: GranuleFile) -> bool:
        """Whether any value of a file will be replaced."""
        versions = versions_of(file)
        return versions is not None and bool((versions.numbers == _PROVISIONAL).any())

    def _has_time_shape(self, versions: Versions) -> bool:
        """Whether there is a version for each step, by the names of the axes, or by their lengths where one has none."""
        named = all(versions.dims) and all(self._axis.dims)
        return versions.numbers.shape == self._axis.shape and (not named or versions.dims == self._axis.dims)

    def _lies_along_time(self, versions: Versions) -> bool:
        return bool(versions.dims) and all(dim and dim in self._axis.dims for dim in versions.dims)

    def _version_count(self) -> int:
        """Length of the axis of versions; 0 where there is none."""
        versions = self._versions
        if versions is None or self._has_time_shape(versions) or self._lies_along_time(versions):
            return 0
        return versions.numbers.size

    def _roles(self, variable: Variable) -> tuple[str, ...]:
        """What each axis is: ``t0`` and ``t1`` of time, ``v`` of versions, ``y``, ``x``, or ``1`` for one of a single member.

        By name; axes without a name, or with one that no coordinate has, by length, in the usual order first.
        """
        needed = {f"t{k}": length for k, length in enumerate(self._axis.shape)}
        if (count := self._version_count()) > 0:
            needed["v"] = count
        needed |= {"y": self._cells.rows.size, "x": self._cells.columns.size}
        lengths = list(needed.values())
        if list(variable.shape) == lengths and len(set(lengths)) == len(lengths):
            # The usual order, and no two axes of one length: names would say the same.
            return tuple(needed)
        names: dict[str, str] = {dim: f"t{k}" for k, dim in enumerate(self._axis.dims) if dim}
        if "v" in needed:
            names[VERSION] = "v"
        names |= {dim: role for dim, role in ((self._cells.y_dim, "y"), (self._cells.x_dim, "x")) if dim}
        roles: list[str] = []
        for dim, length in zip(variable.dims, variable.shape, strict=True):
            role = names.get(dim) or ("y" if dim.lower() in _Y_NAMES else "x" if dim.lower() in _X_NAMES else "")
            roles.append(role if role and role not in roles and needed.get(role) == length else "")
        open_axes = [k for k, role in enumerate(roles) if not role]
        left = [role for role in ("t0", "t1", "v", "y", "x") if role in needed and role not in roles]
        for found in _assignments(open_axes, variable.shape, left, needed):
            for axis, role in found.items():
                roles[axis] = role
            return tuple(role or "1" for role in roles)
        axes = ", ".join(f"{dim or 'unnamed'} {length}" for dim, length in zip(variable.dims, variable.shape, strict=True))
        expected = ", ".join(f"{_IN_WORDS[role]} {length}" for role, length in needed.items())
        raise GranuleError(f"{self._file.name}: {variable.name} has the axes {axes}; expected are {expected}")

    def _time_slices(self, steps: NDArray[np.int64]) -> dict[str, slice]:
        """Parts of the axes of time that hold these steps."""
        if not self._axis.shape:
            return {}
        places = np.unravel_index(steps, self._axis.shape)
        return {f"t{k}": slice(int(p.min()), int(p.max()) + 1) for k, p in enumerate(places)}

    def _positions(self, steps: NDArray[np.int64], taken: dict[str, slice]) -> NDArray[np.int64]:
        places = np.unravel_index(steps, self._axis.shape)
        starts = [taken[f"t{k}"].start for k in range(len(places))]
        lengths = [taken[f"t{k}"].stop - taken[f"t{k}"].start for k in range(len(places))]
        within = tuple(p - start for p, start in zip(places, starts, strict=True))
        return np.asarray(np.ravel_multi_index(within, tuple(lengths)), dtype=np.int64)

    def _ordered(self, values: Floats, roles: Sequence[str]) -> Floats:
        """With the axes (time..., version, row, column); what a variable lacks has one member."""
        wanted = [*(f"t{k}" for k in range(len(self._axis.shape))), "v", "y", "x"]
        kept = values[tuple(0 if role == "1" else slice(None) for role in roles)]
        left = [role for role in roles if role != "1"]
        order = [left.index(role) for role in wanted if role in left]
        out = kept.transpose(order)
        for k, role in enumerate(wanted):
            if role not in left:
                out = np.expand_dims(out, k)
        return out

    def _newest(self, values: Floats, steps: NDArray[np.int64]) -> Floats:
        """Final values, and provisional ones where there is none yet: (step, version, row, column) without its versions."""
        if values.shape[1] == 1:
            return values[:, 0]
        assert self._versions is not None
        labels = self._versions.numbers.reshape(-1)
        order = sorted(range(labels.size), key=lambda k: (labels[k] == _PROVISIONAL, k))
        out = np.full((values.shape[0], *values.shape[2:]), np.nan, np.float32)
        for k in order:
            new = np.isnan(out) & np.isfinite(values[:, k])
            out[new] = values[:, k][new]
            if labels[k] == _PROVISIONAL:
                self._replaced |= set(steps[new.any(axis=(1, 2))].tolist())
        return out


_IN_WORDS: Final = {"t0": "time", "t1": "step", "v": "version", "y": "rows", "x": "columns"}


@dataclass(frozen=True)
class Versions:
    """Versions of a file's values as numbers, in their own shape, and the names of their axes; -1 for what is no number."""

    numbers: NDArray[np.int64]
    dims: tuple[str, ...]


def versions_of(file: GranuleFile) -> Versions | None:
    """Versions, however they are written: 5, 5.0, ``0005`` as text, as bytes, or letter by letter on an axis of its own."""
    variable = file.find(VERSION)
    if variable is None:
        return None

    def number(value: Any) -> int:
        text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
        try:
            return int(float(text.strip().strip("\0")))
        except (ValueError, OverflowError):
            return -1

    values, dims = np.asarray(variable.whole()), variable.dims
    if values.dtype == np.dtype("S1") and values.ndim:
        letters = np.ascontiguousarray(values)
        values, dims = letters.view(f"S{letters.shape[-1]}").reshape(letters.shape[:-1]), dims[:-1]
    numbers = [number(value) for value in values.astype(object).reshape(-1)]
    return Versions(np.array(numbers, np.int64).reshape(values.shape), dims)


def _assignments(
    axes: Sequence[int], shape: Sequence[int], roles: Sequence[str], lengths: dict[str, int]
) -> list[dict[int, str]]:
    """The ways to give roles to axes of their length, the usual order first; an axis without a role has one member.

    A role of a single member may go without an axis.
    """
    optional = [role for role in roles if lengths[role] == 1]
    for without in (left for count in range(len(optional) + 1) for left in combinations(optional, count)):
        kept = [role for role in roles if role not in without]
        for chosen in permutations(axes, len(kept)):
            fits = all(shape[axis] == lengths[role] for axis, role in zip(chosen, kept, strict=True))
            if fits and all(shape[axis] == 1 for axis in axes if axis not in chosen):
                return [dict(zip(chosen, kept, strict=True))]
    return []
