"""A store as a netCDF-4 file: the same arrays, packed in the same way, with the attributes that CF and ACDD ask for.

The same values give the same bytes: no file says when it was made.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import h5netcdf
import numpy as np
from numpy.typing import NDArray

from deepprofile.storage.stores import Template, Variable

LEVEL: Final = 4
# Attributes that mean something to readers of Zarr alone.
_OF_ZARR: Final = ("zarr_conventions", "multiscales", "block_dims", "store_layout", "levels")
# Attributes whose numbers have the type of the variable.
_OF_TYPE: Final = ("flag_values", "flag_masks", "_FillValue", "valid_min", "valid_max")

Band = tuple[slice, ...]


def write_netcdf(path: Path, template: Template, bands: Callable[[str], Iterator[tuple[Band, NDArray[Any]]]]) -> None:
    """Write a file with the arrays of a template.

    Parameters
    ----------
    path
        Of the file, which is written anew.
    template
        Its dimensions, arrays and attributes.
    bands
        Of an array without values of its own: its parts, one after the other, and where they go, as stored integers.
    """
    with h5netcdf.File(path, "w", libver="v110") as file:
        file.dimensions = dict(template.sizes)
        for name in sorted(template.variables):
            one = template.variables[name]
            shape = template.shape(name)
            array = file.create_variable(
                name,
                one.dims,
                _dtype(one),
                fillvalue=one.stored_fill if one.packing is not None else None,
                **_storage(one, shape),
            )
            for key, value in one.stored_attributes.items():
                if key != "_FillValue":
                    array.attrs[key] = _attribute(key, value, _dtype(one))
            if one.values is not None:
                array[...] = one.values.astype(_dtype(one))
                continue
            for where, values in bands(name):
                array[where] = values
        for key, value in {**template.description, **template.attrs}.items():
            if key not in _OF_ZARR and ":" not in key:
                file.attrs[key] = _attribute(key, value, np.dtype(np.int32))


def _dtype(one: Variable) -> np.dtype[Any]:
    """Of what is in the file: netCDF knows no truth values."""
    return np.dtype(np.int8 if one.stored_dtype == "bool" else one.stored_dtype)


def _storage(one: Variable, shape: tuple[int, ...]) -> Mapping[str, Any]:
    if one.values is not None or one.chunks is None:
        return {}
    chunks = tuple(min(chunk, size) for chunk, size in zip(one.chunks, shape, strict=True))
    return {"chunks": chunks, "compression": "gzip", "compression_opts": LEVEL, "shuffle": True}


def _attribute(key: str, value: Any, dtype: np.dtype[Any]) -> Any:
    """An attribute as netCDF has it."""
    if key in _OF_TYPE:
        return np.atleast_1d(np.asarray(value)).astype(dtype)
    if isinstance(value, (list, tuple)):
        if any(isinstance(each, (list, tuple)) for each in value):
            return json.dumps(value)
        if all(isinstance(each, str) for each in value):
            return ", ".join(value)
        return np.asarray(value, np.float64 if any(isinstance(each, float) for each in value) else np.int32)
    if isinstance(value, bool):
        return np.int8(value)
    if isinstance(value, int):
        return np.int32(value)
    return value
