"""Profiles as pytesmo reads time series, for those who validate with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from deepprofile.analysis.export import Layer

if TYPE_CHECKING:
    from pygeogrids.grids import BasicGrid


class PytesmoReader:
    """Time series of a layer of published profiles, by grid point or place.

    What ``pytesmo.validation_framework`` takes as the ``class`` of a dataset: it has ``read`` and ``grid``.

    Parameters
    ----------
    profile
        ``deepprofile.open_profile(url)``, or a part of it on its grid.
    layer
        Top and bottom, m; equal for a depth.

    Raises
    ------
    ValueError
        For profiles that lie on no grid, or depths outside [0, 1] m.

    Examples
    --------
    >>> reader = PytesmoReader(deepprofile.open_profile(url), layer=(0.0, 0.1))  # doctest: +SKIP
    >>> datasets = {"DeepProfile": {"class": reader, "columns": ["soil_moisture"]}, "ISMN": ...}  # doctest: +SKIP
    """

    def __init__(self, profile: xr.Dataset, layer: Layer = (0.0, 0.05)) -> None:
        self._profile, self._layer = profile, layer
        self._lat, self._lon = profile.deepprofile.centres()
        # What is wrong with the layer is said now.
        self._asked(profile.isel(time=slice(0, 1), y=slice(0, 1), x=slice(0, 1)))

    def _asked(self, profile: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray]:
        view, (top, bottom) = profile.deepprofile, self._layer
        if top == bottom:
            return view.at(top), view.std(top)
        return view.mean(top, bottom), view.std_mean(top, bottom)

    @property
    def grid(self) -> BasicGrid:
        """The cells as points of pygeogrids, counted along rows from the first one."""
        from pygeogrids.grids import BasicGrid

        lat, lon = np.meshgrid(self._lat, self._lon, indexing="ij")
        return BasicGrid(lon.ravel(), lat.ravel())

    def read(self, *place: float) -> pd.DataFrame:
        """Daily ``soil_moisture`` and ``standard_deviation``, m3 m-3, of the days that have a profile.

        ``place``: the number of a grid point, or longitude and latitude, degrees.

        Raises
        ------
        ValueError
            For a place outside of the grid.
        """
        if len(place) == 1:
            number = int(place[0])
            if not 0 <= number < self._lat.size * self._lon.size:
                raise ValueError(f"there is no grid point {number}: they are 0 to {self._lat.size * self._lon.size - 1}")
            row, column = divmod(number, self._lon.size)
            own = self._profile.isel(y=row, x=column)
        else:
            longitude, latitude = place
            own = self._profile.deepprofile.point(latitude, longitude)
        mean, deviation = xr.broadcast(*self._asked(own.load()))
        index = pd.DatetimeIndex(own["time"].values, name="time")
        return pd.DataFrame({"soil_moisture": mean.values, "standard_deviation": deviation.values}, index).dropna()
