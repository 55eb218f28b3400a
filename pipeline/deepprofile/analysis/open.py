"""Published stores as xarray datasets."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, Final, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from deepprofile.storage.filesystems import is_local, join, zarr_store
from deepprofile.storage.objects import at_the_same_time
from deepprofile.storage.roots import Root, store_of
from deepprofile.storage.stores import StoreError, check_layout_attribute, exists

# Of a chunk of dask, at most: a year of coefficients on a shard of cells. Dask passes one selection on to the store: where days
# are selected first and cells afterwards, all cells of the chunks of these days are read.
CHUNK_BYTES: Final = 3 * 2**24
LATEST: Final = "latest"
# The profiles, and what of them does not depend on time.
PROFILE: Final = "profile"
COVARIANCE: Final = "covariance"
# Maps of these, at several levels of detail.
MAP: Final = "map"


def open_store(root: str, store: str = "profile", version: str = LATEST) -> xr.Dataset:
    """Open the published version of a store.

    Parameters
    ----------
    root
        Folder or URL of the stores, or of the folder ``public`` in it. ``https://`` reads from any server of files that answers
        ranges. ``gs://`` takes the application default credentials; for a public bucket set the environment variable
        DEEPPROFILE_STORAGE_CREDENTIALS to ``anonymous``.
    store
        ``profile`` (with the accessor ``.deepprofile``, and what of it does not depend on time: ``covariance``), ``layers``,
        ``inputs``, ``climatology``, ``weights``, ``validation``, ``comparison``, or ``ard/<product>``; or a year of one that
        has years, such as ``profile/2024``; or a level of ``map``, such as ``map/9km``.
    version
        ``latest``, or the tag of a release, whose values never change.

    Returns
    -------
    The dataset, lazy, of all years: its coordinates are read, and chunks when they are asked for. Cells and days that are
    selected in one step cost the fewest: ``profile.isel(y=10, x=20, time=slice(366))``.

    Raises
    ------
    deepprofile.storage.stores.StoreError
        Where nothing of that name has been published, or by another version of the software with another layout of stores, or
        where there is no such release.
    """
    return read_store(Root.of_reader(root, None if version == LATEST else version), store, chunks="auto")


def open_profile(url: str, version: str = LATEST) -> xr.Dataset:
    """Open the published profiles, with what can be asked of them under ``.deepprofile``.

    Parameters
    ----------
    url
        Folder or URL of a data set, or of the folder ``public`` in it; see ``open_store``.
    version
        ``latest``, or the tag of a release.

    Returns
    -------
    The dataset, lazy.

    Raises
    ------
    deepprofile.storage.stores.StoreError
        See ``open_store``.

    Examples
    --------
    >>> import deepprofile as dp
    >>> profile = dp.open_profile("https://example.org/deepprofile/public")  # doctest: +SKIP
    >>> profile.deepprofile.point(38.5, -98.0).deepprofile.at(0.4).sel(time="2024-06-01").values  # doctest: +SKIP
    """
    return open_store(url, PROFILE, version)


def read_store(root: Root, store: str, chunks: Literal["auto"] | None, known: Collection[str] = ()) -> xr.Dataset:
    """As ``open_store``; ``chunks``: ``"auto"`` for dask, None for arrays that are read where they are used.

    ``known``: names of variables that need not be opened.
    """
    name, level = _level_of(store)
    url, *others = root.parts(name).values()
    first = _opened(url, known, level)
    levels = first.attrs.get("levels")
    if levels:
        raise StoreError(f"{store} has levels of detail: open one of them, such as '{name}/{levels[0]}' ({', '.join(levels)})")
    # What on a grid does not run along time all years have in common.
    still = [str(name) for name, variable in first.variables.items() if "time" not in variable.dims and "y" in first.dims]
    calls = [partial(_opened, other, [*known, *still], level) for other in others]
    years = [first, *at_the_same_time(calls, local=is_local(root.url))]
    dataset = _joined(store, [_decoded(year) for year in years])
    if chunks is not None:
        lengths = [year.sizes.get("time", 0) for year in years]
        chunked = {name: _for_dask(each, lengths, [url, *others]) for name, each in dataset.data_vars.items()}
        dataset = dataset.assign(chunked)
    if store == PROFILE:
        dataset = dataset.assign(read_store(root, COVARIANCE, chunks, list(map(str, dataset.variables))).data_vars)
    return dataset


def _level_of(store: str) -> tuple[str, str | None]:
    """The name of a store, and the level of detail that is asked for, such as ``map`` and ``9km``."""
    name, _, level = store.rpartition("/")
    if store_of(name or store) == MAP and name and not level.isdigit():
        return name, level
    return store, None


def _opened(url: str, known: Collection[str], level: str | None = None) -> xr.Dataset:
    """A version of a store as it is stored, without the variables that are known: one read where metadata are consolidated."""
    if level is not None and not exists(join(url, level)):
        raise StoreError(f"{url} has no level {level!r}")
    try:
        stored: xr.Dataset = xr.open_zarr(
            zarr_store(url), group=level, chunks=None, decode_cf=False, zarr_format=3, drop_variables=list(known)
        )
    except FileNotFoundError as error:
        raise StoreError(f"{url} is no store: it has been removed, or was never made") from error
    check_layout_attribute(url, stored.attrs)
    return stored


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


class _Years(BackendArray):
    """Arrays of years, one after the other along one axis, each read where it is needed."""

    def __init__(self, years: Sequence[xr.Variable], axis: int) -> None:
        self._years, self._axis = years, axis
        self._starts = np.cumsum([0, *(year.shape[axis] for year in years)]).tolist()
        shape = list(years[0].shape)
        shape[axis] = self._starts[-1]
        self.shape, self.dtype = tuple(shape), years[0].dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> NDArray[Any]:
        places = np.atleast_1d(np.arange(self.shape[self._axis])[key[self._axis]])
        of_year = np.searchsorted(self._starts, places, side="right") - 1
        met = np.unique(of_year).tolist()
        parts = at_the_same_time([partial(self._part, key, places[of_year == k], k) for k in met], local=False)
        axis = sum(not isinstance(each, (int, np.integer)) for each in key[: self._axis])
        if not parts:
            return np.empty([len(np.arange(n)[k]) for n, k in zip(self.shape, key, strict=True) if np.ndim(np.arange(n)[k])])
        found = np.concatenate(parts, axis=axis)
        order = np.argsort(np.concatenate([np.flatnonzero(of_year == k) for k in met]), kind="stable")
        if not np.array_equal(order, np.arange(order.size)):
            found = np.take(found, order, axis=axis)
        return found[(slice(None),) * axis + (0,)] if isinstance(key[self._axis], (int, np.integer)) else found

    def _part(self, key: tuple[Any, ...], places: NDArray[np.int64], year: int) -> NDArray[Any]:
        own = places - self._starts[year]
        steps = np.diff(own)
        # Days that follow one another are read as a stretch.
        along = slice(int(own[0]), int(own[-1]) + 1) if (steps == 1).all() else own
        return np.asarray(self._years[year][(*key[: self._axis], along, *key[self._axis + 1 :])].values)


def _joined(store: str, years: Sequence[xr.Dataset]) -> xr.Dataset:
    """One dataset of the years of a store, without reading any of their data."""
    first = years[0]
    if len(years) == 1:
        return first
    if not all(_are_alike(first, year) for year in years[1:]):
        raise StoreError(f"the years of {store} are not alike: open one of them, such as '{store}/{_year_of(years[-1])}'")
    found = {}
    for name, variable in first.variables.items():
        if "time" not in variable.dims:
            continue
        parts, axis = [year.variables[name] for year in years], variable.dims.index("time")
        if name in first.coords:
            found[name] = xr.Variable(variable.dims, np.concatenate([part.values for part in parts], axis=axis), variable.attrs)
        else:
            array = indexing.LazilyIndexedArray(_Years(parts, axis))
            found[name] = xr.Variable(variable.dims, array, variable.attrs, variable.encoding)
    data = {name: found.get(name, variable.variable) for name, variable in first.data_vars.items()}
    coordinates = {name: found.get(name, coordinate.variable) for name, coordinate in first.coords.items()}
    return xr.Dataset(data, coordinates, first.attrs)


def _are_alike(first: xr.Dataset, other: xr.Dataset) -> bool:
    """Whether two years have the same cells, products and sensors, by lists in their attributes and by coordinates."""
    said = [{name: v for name, v in year.attrs.items() if name == "grid" or isinstance(v, list)} for year in (first, other)]
    still = [name for name in other.coords if "time" not in other[name].dims]
    same_sizes = all(first.sizes.get(dim) == size for dim, size in other.sizes.items() if dim != "time")
    return said[0] == said[1] and same_sizes and all(first[name].equals(other[name]) for name in still)


def _year_of(dataset: xr.Dataset) -> str:
    return str(dataset["time"].values[0].astype("datetime64[Y]"))


def _for_dask(variable: xr.DataArray, lengths: Sequence[int], urls: Sequence[str]) -> xr.DataArray:
    """The same in chunks of dask, made of whole shards; of a selection only the chunks of the store that it needs are read.

    Hence nothing may be done to the values between the store and the first selection. ``lengths``: days of each year.
    """
    import dask.array as da
    from dask.base import tokenize

    stored = variable.encoding.get("shards") or variable.encoding.get("chunks")
    if stored is None:
        return variable
    shape = [max(lengths) if dim == "time" else size for dim, size in variable.sizes.items()]
    most = [min(size, part) for size, part in zip(shape, stored, strict=True)]
    sizes = dict(zip(variable.dims, da.core.normalize_chunks("auto", shape, CHUNK_BYTES, variable.dtype, most), strict=True))
    if "time" in sizes:
        # They begin anew with each year, as shards do.
        longest = sizes["time"][0]
        spans = [(start, min(start + longest, days)) for days in lengths for start in range(0, days, longest)]
        sizes["time"] = tuple(stop - start for start, stop in spans)
    name = f"{variable.name}-{tokenize(urls, variable.name)}"
    return variable.copy(data=variable.variable.chunk(sizes, name=name).data)
