"""Numbers as small integers: CF packing, value = code * scale + offset, and from and to the layout of a chunk in one pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

# Of what is translated at a time: arrays with fewer dimensions get axes of length one in front, those with more go part after
# part.
_AXES: Final = 4


class PackingError(ValueError):
    """A value that the integers of its array cannot hold; the message says which values they hold."""


@dataclass(frozen=True)
class Packing:
    """How real numbers are stored as integers, after the CF conventions (section 8.1).

    Parameters
    ----------
    dtype
        Of the stored integers, such as ``"int16"``. One code, the least of a signed type and the greatest of an unsigned one,
        stands for a missing value.
    scale, offset
        value = code * scale + offset.
    """

    dtype: str
    scale: float
    offset: float = 0.0

    @property
    def fill(self) -> int:
        """The code of a missing value (NaN)."""
        info = np.iinfo(self.dtype)
        return int(info.min if info.min else info.max)

    @property
    def codes(self) -> tuple[int, int]:
        """The least and the greatest code of a value."""
        info = np.iinfo(self.dtype)
        return (int(info.min) + 1, int(info.max)) if info.min else (0, int(info.max) - 1)

    @property
    def limits(self) -> tuple[float, float]:
        """The least and the greatest value."""
        low, high = self.codes
        return low * self.scale + self.offset, high * self.scale + self.offset

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes by which CF readers decode."""
        shift = {"add_offset": self.offset} if self.offset else {}
        # Also the fill value of the Zarr array; readers of CF look at the attribute alone.
        return {"scale_factor": self.scale, **shift, "_FillValue": self.fill}

    @classmethod
    def of(cls, dtype: Any, attributes: dict[str, Any]) -> Packing | None:
        """That of an array with these attributes; None where it is not packed."""
        if "scale_factor" not in attributes:
            return None
        return cls(np.dtype(dtype).name, float(attributes["scale_factor"]), float(attributes.get("add_offset", 0.0)))

    def encode(self, values: NDArray[Any], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Codes of an array with any strides, half to even; contiguous, or in ``out``, which is returned.

        Raises
        ------
        PackingError
            For a value that does not fit.
        """
        codes = np.empty(values.shape, self.dtype) if out is None else out
        if values.ndim > _AXES:
            for part, of_part in zip(values, codes, strict=True):
                self.encode(part, of_part)
            return codes
        low, high = self.codes
        if _encode(_with_axes(values), self.scale, self.offset, (low, high, self.fill), _with_axes(codes)):
            raise self._refuse(values)
        return codes

    def decode(self, codes: NDArray[Any], out: NDArray[np.float32]) -> None:
        """Values of an array of codes, put into ``out``; both may have any strides."""
        if codes.ndim > _AXES:
            for part, of_part in zip(codes, out, strict=True):
                self.decode(part, of_part)
            return
        _decode(_with_axes(codes), np.float32(self.scale), np.float32(self.offset), self.fill, _with_axes(out))

    def round_trip(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Values as they will be read."""
        out = np.empty(values.shape, np.float32)
        self.decode(self.encode(values), out)
        return out

    def _refuse(self, values: NDArray[Any]) -> PackingError:
        low, high = self.limits
        inside = (values >= low - 0.5 * self.scale) & (values <= high + 0.5 * self.scale)
        wrong = values[~(inside | np.isnan(values))]
        found = float(wrong[np.argmax(np.abs(wrong))]) if wrong.size else float("nan")
        return PackingError(
            f"{wrong.size} values do not fit, such as {found:g}: {self.dtype} with the scale {self.scale:g} holds {low:g} to "
            f"{high:g}"
        )


def _with_axes(array: NDArray[Any]) -> NDArray[Any]:
    """The same with four axes; a view."""
    return array.reshape((1,) * (_AXES - array.ndim) + array.shape) if array.ndim < _AXES else array


@njit(cache=True, nogil=True, error_model="numpy")
def _encode(values: Any, scale: float, offset: float, codes: Any, out: Any) -> bool:
    """Fill ``out`` with codes; whether any value did not fit. ``codes``: least, greatest, and that of NaN."""
    low, high, fill = codes
    wrong = False
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            for k in range(out.shape[2]):
                for m in range(out.shape[3]):
                    value = values[i, j, k, m]
                    code = np.rint((np.float64(value) - offset) / scale)
                    if low <= code <= high:
                        out[i, j, k, m] = np.int64(code)
                    else:
                        out[i, j, k, m] = fill
                        if not np.isnan(value):
                            wrong = True
    return wrong


@njit(cache=True, nogil=True, error_model="numpy")
def _decode(codes: Any, scale: Any, offset: Any, fill: int, out: Any) -> None:
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            for k in range(out.shape[2]):
                for m in range(out.shape[3]):
                    code = codes[i, j, k, m]
                    out[i, j, k, m] = np.float32(code) * scale + offset if code != fill else np.float32(np.nan)
