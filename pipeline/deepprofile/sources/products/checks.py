"""What shows that a file is damaged, as it is gathered while the file's time steps are read some at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepprofile.sources.products.decoding import Floats, is_packed
from deepprofile.sources.products.files import GranuleError, Variable
from deepprofile.sources.products.passes import count_values

# So many packed zeros in a row, among other values, are a hole in a file.
_HOLE: Final = 16
# More values outside of the valid range than this say that it is not soil moisture in the stated unit.
_MAX_INVALID: Final = 0.1
# What is as good as 0 where nothing is: a hole that begins within a number leaves its last bytes, which are very little.
NOTHING: Final = 1e-6
# Less than any number of single precision whose first byte is not lost; ERA5-Land has residues of packing near 1e-20.
_PARTLY_ZERO: Final = 2.0**-125
# Soil of more than this, m3 m-3, is moist.
_MOIST: Final = 0.01


@dataclass
class _Stretch:
    """What is known of the packed values of one variable on some cells.

    ``longest``: zeros in a row; ``open``: those at the end, which may go on; ``others``: whether anything but zeros was seen;
    ``size``: values seen; ``distinct``: different values seen, no more than it takes to say that there are many.
    """

    longest: int = 0
    open: int = 0
    others: bool = False
    size: int = 0
    distinct: set[float] = field(default_factory=set)


class PackedHoles:
    """Looks for packed numbers that are 0 for a stretch, among others that are not.

    A packed 0 is an ordinary value, but not the same one in many neighbouring cells.
    """

    def __init__(self, file: str) -> None:
        self._file = file
        self._known: dict[tuple[str, str], _Stretch] = {}

    def look_at(self, variable: Variable, decoded: Floats, cells: tuple[slice, slice]) -> None:
        """Look at values of a variable on some cells; those that follow in time are given later."""
        offset = np.float32(variable.attrs.get("add_offset", 0.0))
        if not decoded.size:
            return
        # Without an offset a packed 0 is 0, which snow is nearly everywhere.
        if offset == 0.0 or not is_packed(variable) or not np.issubdtype(variable.dtype, np.integer):
            return
        known = self._known.setdefault((variable.name, str(cells)), _Stretch())
        known.size += decoded.size
        _count_distinct(decoded, known.distinct)
        zero = (decoded == offset).reshape(-1)
        if not zero.any():
            known.open, known.others = 0, True
            return
        if zero.all():
            known.open += zero.size
            known.longest = max(known.longest, known.open)
            return
        edges = np.flatnonzero(np.diff(np.concatenate(([False], zero, [False])).astype(np.int8)))
        starts, stops = edges[::2], edges[1::2]
        lengths = stops - starts
        lengths[0] += known.open if starts[0] == 0 else 0
        known.longest = max(known.longest, int(lengths.max()))
        known.open = int(lengths[-1]) if stops[-1] == zero.size else 0
        known.others = True

    def refuse(self) -> None:
        """Raise a GranuleError where there is a hole in what was looked at.

        Values without many different ones at all, as in a file that was made by hand, hold none.
        """
        for (name, _), known in self._known.items():
            many = known.size >= 2 * _HOLE and len(known.distinct) >= _HOLE
            if known.others and many and known.longest >= _HOLE:
                raise GranuleError(f"{self._file} is damaged: {name} has a hole of zeros among its packed values")


def _count_distinct(values: NDArray[np.float32], known: set[float]) -> None:
    """Add different values to those that are known, until there are enough of them."""
    for row in values.reshape(-1, values.shape[-1]):
        if len(known) >= _HOLE:
            return
        known |= set(np.unique(row[np.isfinite(row)]).tolist()[:_HOLE])


class Checks:
    """What is known of a file's soil moisture (step, layer, row, column), while it is read some steps at a time.

    Parameters
    ----------
    file
        Its name.
    layers
        The names of the product's layers.
    valid_range
        Of soil moisture, m3 m-3.
    read
        Gives all steps of a layer (step, row, column), some at a time; asked for where zeros are found. None for a product that
        does not cover all land: its values are counted, and nothing else.
    never_zero
        Whether no value is exactly 0: then zeros are holes.
    """

    def __init__(
        self,
        file: str,
        layers: Sequence[str],
        valid_range: tuple[float, float],
        read: Callable[[int], Iterable[Floats]] | None,
        never_zero: bool = False,
    ) -> None:
        self.holes = PackedHoles(file)
        self._file, self._layers, self._valid_range, self._read, self._never_zero = file, layers, valid_range, read, never_zero
        self._there, self._outside = np.zeros(len(layers), np.int64), np.zeros(len(layers), np.int64)
        self._least, self._most = np.full(len(layers), np.inf), np.full(len(layers), -np.inf)
        self._nothings = 0
        self._not_dry: dict[int, NDArray[np.bool_]] = {}

    def look_at(self, values: Floats) -> NDArray[np.int64]:
        """Look at some steps, and make holes of zeros NaN, in place; returns how many values each step has.

        No layer of GLDAS Noah or SMAP Level 4 holds a zero anywhere (granules of 2015, 2016 and 2020). One of ERA5-Land may, in
        a desert; where the same cell is moist or missing at another hour of the day, or moist above, a zero is a hole too.
        """
        low, high = self._valid_range
        zero = np.float32(_PARTLY_ZERO)
        counts = count_values(values, np.float32(low - 0.01), np.float32(high), zero, np.float32(NOTHING))
        if self._read is None:
            return counts.n_valid
        self._there += counts.there
        self._outside += counts.outside
        for k in np.flatnonzero(counts.outside).tolist():
            self._least[k] = np.fmin(self._least[k], np.nanmin(values[:, k]))
            self._most[k] = np.fmax(self._most[k], np.nanmax(values[:, k]))
        self._nothings += int(counts.nothings)
        if counts.zeros and not self._never_zero:
            zeros = np.abs(values) < zero
            moist_above = values[:, :1] > _MOIST
            for k in np.flatnonzero(zeros.any(axis=(0, 2, 3))).tolist():
                if k not in self._not_dry:
                    self._not_dry[k] = _is_ever_moist_or_missing(self._read(k))
                holes = zeros[:, k] & self._not_dry[k]
                if k:
                    holes |= zeros[:, k] & moist_above[:, 0]
                values[:, k][holes] = np.nan
        return counts.n_valid

    def refuse(self) -> None:
        """Raise a GranuleError where what was looked at cannot be soil moisture, or has holes."""
        self.holes.refuse()
        low, high = self._valid_range
        for k in np.flatnonzero(self._outside > _MAX_INVALID * self._there).tolist():
            raise GranuleError(
                f"{self._file} holds values from {self._least[k]:.4g} to {self._most[k]:.4g} for {self._layers[k]}, which are "
                f"no soil moisture in m3 m-3 ({low:g} to {high:g}): it is damaged, or packed in another way than it says"
            )
        if self._never_zero and self._nothings:
            raise GranuleError(f"{self._file} is damaged: soil moisture is exactly 0 in places, a hole in the file")


def _is_ever_moist_or_missing(steps: Iterable[Floats]) -> NDArray[np.bool_]:
    """Whether each cell is at any step; ``steps``: (step, row, column)."""
    parts = [~(values <= _MOIST).all(axis=0) for values in steps]
    found: NDArray[np.bool_] = np.any(parts, axis=0)
    return found
