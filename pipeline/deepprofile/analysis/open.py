"""Published stores as xarray datasets."""

from __future__ import annotations

import xarray as xr

from deepprofile.storage.filesystems import zarr_store
from deepprofile.storage.stores import Root


def open_store(root: str, store: str = "profile") -> xr.Dataset:
    """Open the published version of a store.

    Parameters
    ----------
    root
        Folder or URL of the stores. ``gs://`` takes the application default credentials; for a public bucket set the
        environment variable DEEPPROFILE_STORAGE_CREDENTIALS to ``anonymous``.
    store
        ``profile`` (with the accessor ``.deepprofile``), ``weights``, ``validation``, ``comparison``, or ``ard/<product>``.

    Returns
    -------
    The dataset, lazy: chunks are read when they are asked for.

    Raises
    ------
    deepprofile.storage.stores.StoreError
        Where nothing of that name has been published.
    """
    dataset: xr.Dataset = xr.open_zarr(zarr_store(Root(root).open(store)), consolidated=False)
    return dataset
