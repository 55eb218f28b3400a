"""Published stores as xarray datasets."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
import xarray as xr

from deepprofile.storage.filesystems import zarr_store
from deepprofile.storage.stores import Root, check_layout

# Of a chunk of dask, at most. Dask passes one selection on to the store: where days are selected first and cells afterwards,
# all cells of the chunks of these days are read.
CHUNK_BYTES: Final = 2**25
# The profiles, and what of them does not depend on time.
PROFILE: Final = "profile"
COVARIANCE: Final = "covariance"


def open_store(root: str, store: str = "profile") -> xr.Dataset:
    """Open the published version of a store.

    Parameters
    ----------
    root
        Folder or URL of the stores. ``gs://`` takes the application default credentials; for a public bucket set the
        environment variable DEEPPROFILE_STORAGE_CREDENTIALS to ``anonymous``.
    store
        ``profile`` (with the accessor ``.deepprofile``, and what of it does not depend on time: ``covariance``), ``weights``,
        ``validation``, ``comparison``, or ``ard/<product>``.

    Returns
    -------
    The dataset, lazy: its coordinates are read, and chunks when they are asked for. Cells and days that are selected in one
    step cost the fewest: ``profile.isel(y=10, x=20, time=slice(366))``.

    Raises
    ------
    deepprofile.storage.stores.StoreError
        Where nothing of that name has been published, or by another version of the software with another layout of stores.
    """
    return read_store(Root(root), store, chunks="auto")


def read_store(root: Root, store: str, chunks: Literal["auto"] | None) -> xr.Dataset:
    """As ``open_store``; ``chunks``: ``"auto"`` for dask, None for arrays that are read where they are used."""
    url = root.open(store)
    check_layout(url)
    dataset = _decoded(xr.open_zarr(zarr_store(url), consolidated=False, chunks=None, decode_cf=False))
    if chunks is not None:
        dataset = dataset.assign({name: _for_dask(variable, url) for name, variable in dataset.data_vars.items()})
    return dataset.assign(read_store(root, COVARIANCE, chunks).data_vars) if store == PROFILE else dataset


def _decoded(stored: xr.Dataset) -> xr.Dataset:
    """A store decoded by the CF conventions, packed numbers to single precision: 16 bits have no use for more.

    Coordinates are read, everything else stays lazy.
    """
    for variable in stored.variables.values():
        for key in ("scale_factor", "add_offset"):
            if key in variable.attrs:
                # In JSON a number has no type; xarray decodes to that of the scale.
                variable.attrs[key] = np.float32(variable.attrs[key])
    dataset = xr.decode_cf(stored)
    for coordinate in dataset.coords.values():
        coordinate.load()
    return dataset


def _for_dask(variable: xr.DataArray, url: str) -> xr.DataArray:
    """The same in chunks of dask, made of whole shards; of a selection only the chunks of the store that it needs are read.

    Hence nothing may be done to the values between the store and the first selection.
    """
    import dask.array as da
    from dask.base import tokenize

    stored = variable.encoding.get("shards") or variable.encoding.get("chunks")
    if stored is None:
        return variable
    sizes = da.core.normalize_chunks("auto", variable.shape, CHUNK_BYTES, variable.dtype, previous_chunks=stored)
    name = f"{variable.name}-{tokenize(url, variable.name)}"
    chunked = variable.variable.chunk(dict(zip(variable.dims, sizes, strict=True)), name=name)
    return variable.copy(data=chunked.data)
