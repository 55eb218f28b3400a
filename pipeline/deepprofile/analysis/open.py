"""Published stores as xarray datasets."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
import xarray as xr

from deepprofile.storage.filesystems import zarr_store
from deepprofile.storage.stores import Root, check_layout

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
    The dataset, lazy: chunks are read when they are asked for.

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
    dataset: xr.Dataset = xr.open_zarr(zarr_store(url), consolidated=False, chunks=chunks)
    if chunks is not None:
        # xarray decodes to double precision, of which 16 bits have no use. Without dask that would read everything.
        packed = [name for name, variable in dataset.data_vars.items() if "scale_factor" in variable.encoding]
        dataset = dataset.assign({name: dataset[name].astype(np.float32) for name in packed})
    return dataset.assign(read_store(root, COVARIANCE, chunks).data_vars) if store == PROFILE else dataset
