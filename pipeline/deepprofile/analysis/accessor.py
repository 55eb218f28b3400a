"""What a profile can be asked: the accessor ``.deepprofile`` on the result of ``fuse`` and ``invert``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy import special

from deepprofile.analysis import export, means
from deepprofile.analysis.places import Cells, bounds_m
from deepprofile.core.basis import MAX_DEPTH_M, basis_mean
from deepprofile.core.climatology import pentad_of, percentile
from deepprofile.core.factors import factor_projection
from deepprofile.core.prior import remainder_variance, soil_kernel

if TYPE_CHECKING:
    from deepprofile.analysis.plots import Plots

Array = NDArray[np.float64]
Depth = float | Sequence[float] | NDArray[Any]
Place = float | Sequence[float] | NDArray[Any]

WATER_MM_PER_M: Final = 1000.0
# Percentiles at and below which a drought is of class D0, D1, and so on.
DROUGHT_LIMITS: Final = (30.0, 20.0, 10.0, 5.0, 2.0)
# CF names of what a profile is asked for, by unit.
_STANDARD_NAMES: Final = {
    "m3 m-3": "volume_fraction_of_condensed_water_in_soil",
    "mm": "lwe_thickness_of_moisture_content_of_soil_layer",
}


@xr.register_dataset_accessor("deepprofile")
class ProfileAccessor:
    """Soil moisture at any depth, of any layer, with its uncertainty.

    All depths are in m from 0 (the surface) to 1, positive downward. A scalar adds no dimension; a sequence adds ``depth``.
    """

    def __init__(self, dataset: xr.Dataset) -> None:
        if "coefficients" not in dataset:
            raise ValueError("this Dataset is no profile of deepprofile.fuse: it has no coefficients")
        if "pattern" in dataset and dataset["pattern"].dtype.kind not in "iu":
            raise ValueError(
                "these profiles were averaged or interpolated by xarray, which knows nothing of their uncertainty: use "
                ".deepprofile.area_mean and .deepprofile.time_mean, or ask for soil moisture first and average that"
            )
        self._data = dataset

    def at(self, depth: Depth) -> xr.DataArray:
        """Soil moisture theta(z) at a depth or depths, m3 m-3.

        Raises
        ------
        ValueError
            For a depth outside [0, 1] m.
        """
        z = _check_depth(depth)
        return self._evaluate(z, z, "soil moisture")

    def mean(self, top: Depth, bottom: Depth) -> xr.DataArray:
        """Mean soil moisture between two depths, m3 m-3: the integral of theta over the layer divided by its thickness.

        Raises
        ------
        ValueError
            For a depth outside [0, 1] m, or a bottom at or above its top.
        """
        return self._evaluate(*_check_layer(top, bottom), "mean soil moisture")

    def storage(self, top: Depth, bottom: Depth) -> xr.DataArray:
        """Water stored between two depths, mm."""
        return _in_mm(self.mean(top, bottom), *_check_layer(top, bottom), "water storage")

    def std(self, depth: Depth) -> xr.DataArray:
        """Standard deviation of theta(z), m3 m-3.

        It counts the posterior of the coefficients with the bias and the correlation of errors within a product, and
        what the polynomial cannot express.
        """
        z = _check_depth(depth)
        return self._deviation(z, z)

    def std_mean(self, top: Depth, bottom: Depth) -> xr.DataArray:
        """Standard deviation of the mean soil moisture between two depths, m3 m-3."""
        return self._deviation(*_check_layer(top, bottom))

    def std_storage(self, top: Depth, bottom: Depth) -> xr.DataArray:
        """Standard deviation of the water stored between two depths, mm."""
        return _in_mm(self.std_mean(top, bottom), *_check_layer(top, bottom), "standard deviation of water storage")

    def interval(self, level: float = 0.9, *, depth: Depth) -> xr.Dataset:
        """Interval that holds theta(z) with the probability ``level``: ``lower`` and ``upper``, clipped to the bounds.

        Raises
        ------
        ValueError
            For a level outside (0, 1) or a depth outside [0, 1] m.
        """
        return self._interval(level, self.at(depth), self.std(depth))

    def mean_interval(self, level: float, top: Depth, bottom: Depth) -> xr.Dataset:
        """Interval that holds the mean between two depths with the probability ``level``: ``lower`` and ``upper``."""
        return self._interval(level, self.mean(top, bottom), self.std_mean(top, bottom))

    def layers(self, depths: Sequence[tuple[float, float]]) -> xr.Dataset:
        """Means of several layers with their standard deviations: ``soil_moisture`` and ``standard_deviation``, m3 m-3.

        Parameters
        ----------
        depths
            Top and bottom of each layer, m, such as ``[(0.0, 0.1), (0.1, 0.4)]``; they may overlap.

        Raises
        ------
        ValueError
            For a depth outside [0, 1] m, or a bottom at or above its top.
        """
        if not len(depths) or any(np.shape(layer) != (2,) for layer in depths):
            raise ValueError(f"layers are {depths!r}; give top and bottom of each in m, such as [(0.0, 0.1), (0.1, 0.4)]")
        top, bottom = np.array(depths, np.float64).T
        return xr.Dataset({"soil_moisture": self.mean(top, bottom), "standard_deviation": self.std_mean(top, bottom)})

    def plant_available_water(
        self, wilting_point: float | xr.DataArray, field_capacity: float | xr.DataArray, top: float, bottom: float
    ) -> xr.DataArray:
        """Water between two depths that plants can take up, mm: what is above the wilting point, up to the field capacity.

        Parameters
        ----------
        wilting_point, field_capacity
            Soil moisture at these points, m3 m-3: numbers, or arrays of the cells.
        top, bottom
            m.

        Raises
        ------
        ValueError
            Where the wilting point is not below the field capacity, or for depths as ``mean``.
        """
        if bool(np.asarray(wilting_point >= field_capacity).any()):
            raise ValueError(f"the wilting point {wilting_point!r} is not below the field capacity {field_capacity!r}")
        above = self.mean(top, bottom).clip(wilting_point, field_capacity) - wilting_point
        return _in_mm(above, *_check_layer(top, bottom), "plant-available water").rename("plant_available_water")

    def percentile(self, climatology: xr.Dataset, top: float = 0.0, bottom: float = 1.0) -> xr.DataArray:
        """Where the mean between two depths lies among those of its time of the year, 0 to 100.

        Parameters
        ----------
        climatology
            ``deepprofile.open_store(url, "climatology")``, on the same grid.
        top, bottom
            m; of a layer that the climatology has: 0 to 0.1 and 0 to 1.

        Returns
        -------
        Percent: linear between the quantiles of the pentad, 1 below and 99 above all of them; NaN where there are none.

        Raises
        ------
        ValueError
            For a layer that the climatology does not have, another grid, or profiles without days.
        """
        mean, known = self._beside(climatology, top, bottom)

        def of(values: NDArray[Any], quantiles: NDArray[Any]) -> NDArray[np.float32]:
            return percentile(values, np.moveaxis(np.broadcast_to(quantiles, (*values.shape, quantiles.shape[-1])), -1, 0))

        found: xr.DataArray = xr.apply_ufunc(
            of,
            mean,
            known,
            input_core_dims=[[], ["quantile"]],
            dask="parallelized",
            output_dtypes=[np.float32],
            dask_gufunc_kwargs={"allow_rechunk": True},
        )
        found.attrs = {"units": "percent", "long_name": f"percentile of the mean soil moisture from {top:g} to {bottom:g} m"}
        return found.rename("percentile")

    def drought_class(self, climatology: xr.Dataset, top: float = 0.0, bottom: float = 1.0) -> xr.DataArray:
        """Classes of drought by percentiles of soil moisture, as the U.S. Drought Monitor has them.

        Svoboda et al. (2002), doi 10.1175/1520-0477-83.8.1181: D0 at or below the 30th percentile, D1 the 20th, D2 the 10th, D3
        the 5th and D4 the 2nd. Parameters and errors: see ``percentile``.

        Returns
        -------
        int8: 0 no drought, 1 to 5 for D0 to D4, -1 where nothing is known.
        """
        share = self.percentile(climatology, top, bottom)
        found = sum((share <= limit).astype(np.int8) for limit in DROUGHT_LIMITS)
        assert isinstance(found, xr.DataArray)
        found = found.where(share.notnull(), -1).astype(np.int8)
        found.attrs = {
            "long_name": f"class of drought from {top:g} to {bottom:g} m",
            "standard_name": "status_flag",
            "flag_values": [-1, 0, 1, 2, 3, 4, 5],
            "flag_meanings": "unknown none D0 D1 D2 D3 D4",
        }
        return found.rename("drought_class")

    def anomaly(self, climatology: xr.Dataset, top: float = 0.0, bottom: float = 1.0) -> xr.DataArray:
        """The mean between two depths less the median of its time of the year, m3 m-3; see ``percentile``."""
        mean, known = self._beside(climatology, top, bottom)
        found: xr.DataArray = mean - known.sel(quantile=0.5, method="nearest")
        found.attrs = {"units": "m3 m-3", "long_name": f"mean soil moisture from {top:g} to {bottom:g} m less its usual median"}
        return found.drop_vars("quantile").rename("anomaly")

    def usual(self, climatology: xr.Dataset, top: float, bottom: float, quantiles: Sequence[float]) -> xr.DataArray:
        """What the mean between two depths usually is at the times of the year of these profiles, m3 m-3.

        ``quantiles``: of the climatology, 0 to 1; the nearest ones are taken. Parameters and errors else: see ``percentile``.
        """
        _, known = self._beside(climatology, top, bottom)
        found: xr.DataArray = known.sel(quantile=list(quantiles), method="nearest")
        found.attrs = {"units": "m3 m-3", "long_name": f"usual soil moisture from {top:g} to {bottom:g} m"}
        if self._data["time"].ndim:
            found = found.assign_coords(time=self._data["time"])
        return found

    def _beside(self, climatology: xr.Dataset, top: float, bottom: float) -> tuple[xr.DataArray, xr.DataArray]:
        """The mean between two depths, and the quantiles of each day beside it."""
        if means.AVERAGED in self._data.attrs:
            over = self._data.attrs[means.AVERAGED]
            raise ValueError(
                f"these are means ({over}), and the climatology is that of cells and days: ask for percentiles first, and "
                "average them"
            )
        if "time" not in self._data.coords:
            raise ValueError("these profiles have no time: a percentile is that of a time of the year")
        bounds = climatology["depth_bnds"].values
        (places,) = np.nonzero(np.isclose(bounds, [top, bottom]).all(axis=1))
        if not places.size:
            there = ", ".join(f"{a:g} to {b:g} m" for a, b in bounds.tolist())
            raise ValueError(f"the climatology has nothing for {top:g} to {bottom:g} m; it has {there}")
        known = climatology["soil_moisture"].isel(depth=int(places[0])).reset_coords(drop=True)
        mean = self.mean(top, bottom)
        for name in ("y", "x"):
            if name not in mean.coords or name not in known.coords:
                continue
            place = mean[name] if mean[name].ndim else float(mean[name])
            try:
                known = known.sel({name: place}, method="nearest", tolerance=1e-6 * float(abs(mean[name]).max()))
            except KeyError as error:
                raise ValueError(f"the climatology lies on another grid: it lacks some {name} of these profiles") from error
        days = np.atleast_1d(self._data["time"].values).astype("datetime64[D]")
        pentads = pentad_of(days)
        day = xr.DataArray(pentads, dims="time") if self._data["time"].ndim else int(pentads[0])
        return mean, known.isel(pentad=day).drop_vars("pentad", errors="ignore")

    def point(self, latitude: Place, longitude: Place) -> xr.Dataset:
        """The profiles of the cell that a place lies in; of several places, along the dimension ``point``.

        Parameters
        ----------
        latitude, longitude
            Degrees north and east; numbers, or sequences of the same length.

        Returns
        -------
        The same dataset for these cells, lazy, with the coordinate ``distance``: m from the place to the cell's centre.

        Raises
        ------
        ValueError
            For a place outside of the grid, or profiles that lie on none.
        """
        cells, (asked_lat, asked_lon) = self._cells(), (np.asarray(each, np.float64) for each in (latitude, longitude))
        if asked_lat.shape != asked_lon.shape or asked_lat.ndim > 1:
            raise ValueError(f"{asked_lat.size} latitudes and {asked_lon.size} longitudes: give as many of one as of the other")
        found = []
        for lat, lon in zip(np.atleast_1d(asked_lat).tolist(), np.atleast_1d(asked_lon).tolist(), strict=True):
            cell = cells.holding(lat, lon) if abs(lat) <= 90.0 and np.isfinite(lon) else None
            if cell is None:
                raise ValueError(f"{lat:g} N, {lon:g} E lies outside of the grid: {_extent(cells)}")
            found.append((*cell, cells.distance_m(cell, lat, lon)))
        rows, columns, distances = (list(part) for part in zip(*found, strict=True))
        said = {"units": "m", "long_name": "distance from the place to the centre of its cell"}
        if not asked_lat.ndim:
            return self._data.isel(y=rows[0], x=columns[0]).assign_coords(distance=((), distances[0], said))
        picked = self._data.isel(y=xr.DataArray(rows, dims="point"), x=xr.DataArray(columns, dims="point"))
        return picked.assign_coords(distance=("point", distances, said))

    def box(self, west: float, south: float, east: float, north: float) -> xr.Dataset:
        """The profiles of the cells whose centres lie in a box, degrees; one with west > east goes across the antimeridian.

        Raises
        ------
        ValueError
            For a box that is upside down or holds no cell, or profiles that lie on no grid.
        """
        cells = self._cells()
        if south >= north:
            raise ValueError(f"the box reaches from {south:g} to {north:g} N: south has to be less than north")
        within = (cells.lon - west) % 360.0 <= (east - west) % 360.0 if (east - west) % 360.0 else np.ones(cells.lon.size, bool)
        rows, columns = np.flatnonzero((cells.lat >= south) & (cells.lat <= north)), np.flatnonzero(within)
        if not rows.size or not columns.size:
            raise ValueError(f"the box {west:g} to {east:g} E, {south:g} to {north:g} N holds no cell: {_extent(cells)}")
        return self._data.isel(y=rows, x=columns)

    def _cells(self) -> Cells:
        if not {"lat", "lon"} <= set(self._data.coords) or self._data["lat"].dims != ("y",) or self._data["lon"].dims != ("x",):
            raise ValueError(
                "these profiles lie on no grid: they have no latitude of rows (lat) and longitude of columns (lon)"
            )
        return Cells(self._data["lat"].values, self._data["lon"].values)

    def polygon(self, polygon: Any) -> xr.Dataset:
        """The profiles of the cells that lie within polygons, wholly or in part.

        Parameters
        ----------
        polygon
            A geopandas object of any reference system, a shapely geometry, GeoJSON as a mapping, or the path of a file of
            it; degrees east and north where it says nothing else. Several polygons are taken together.

        Returns
        -------
        The same dataset for these cells, lazy, with the coordinate ``area`` (y, x): m2 of each cell that lie within. What is
        asked of it is NaN outside; ``area_mean`` weighs by it.

        Raises
        ------
        ValueError
            For what is no polygon, or one that holds no part of the grid; or profiles that lie on none.
        """
        from deepprofile.analysis.areas import covered_areas, geometry_of

        self._cells()
        geometry = geometry_of(polygon)
        areas, rows, columns = covered_areas(geometry, *bounds_m(self._data))
        if not rows.size:
            west, south, east, north = geometry.bounds
            reach = f"{west:.2f} to {east:.2f} E, {south:.2f} to {north:.2f} N"
            raise ValueError(f"the polygon ({reach}) holds no part of the grid: {_extent(self._cells())}")
        said = {"units": "m2", "long_name": "area of the cell that lies within the polygon"}
        return self._data.isel(y=rows, x=columns).assign_coords(area=(("y", "x"), areas, said))

    def centres(self) -> tuple[Array, Array]:
        """Latitude of each row and longitude of each column, degrees.

        Raises
        ------
        ValueError
            For profiles that lie on no grid.
        """
        cells = self._cells()
        return cells.lat, cells.lon

    def areas(self) -> xr.DataArray:
        """Area of each cell, or of what of it lies within the polygon, m2; (y, x)."""
        self._cells()
        if "area" in self._data.coords:
            return self._data["area"].reset_coords(drop=True)
        height, width = (np.diff(ends) for ends in bounds_m(self._data))
        said = {"units": "m2", "long_name": "area of the cell"}
        return xr.DataArray(height * width[:, 0], dims=("y", "x"), attrs=said, name="area")

    def area_mean(self, *, correlation_length: float | None = None, min_share: float = 0.5) -> xr.Dataset:
        """The mean profile of all cells, each weighted by its area, of each day.

        Parameters
        ----------
        correlation_length
            m: errors of two cells have the correlation exp(-distance / ``correlation_length``). None: they are one and the same
            error everywhere, so that the standard deviation is an upper bound. Measured on simulated regions: 100 km for the
            root zone, 75 km for 0 to 10 cm (``docs/analysis.md``).
        min_share
            Of the area that has soil: days with profiles on less of it are NaN.

        Returns
        -------
        A dataset without y and x, of which everything can be asked that a profile can be asked for: ``storage``, ``interval``,
        ``time_mean``. ``valid_share`` (time): of the area; ``area``: m2. The attribute ``correlation_of_errors`` says what was
        taken for granted.

        Raises
        ------
        ValueError
            For profiles that lie on no grid, a correlation length below the width of a cell, or no soil.
        """
        return means.area_mean(self._data, self.areas(), self._soil(), correlation_length, min_share)

    def time_mean(
        self, period: str | None = None, *, correlation_time: float | None = None, min_share: float = 0.5
    ) -> xr.Dataset:
        """The mean profile of each period.

        Parameters
        ----------
        period
            Of pandas: ``"MS"`` for months, ``"QS-DEC"`` for seasons, ``"YS"`` for years, ``"10D"``; None for all days together.
        correlation_time
            Days: of the variance of errors 45 % persist, and the rest has the correlation exp(-days / ``correlation_time``).
            None: they are one and the same error every day, so that the standard deviation is an upper bound. Measured on
            simulated regions: 60 days for the root zone, 5 for 0 to 10 cm (``docs/analysis.md``).
        min_share
            Of the days of a period: where fewer have a profile, its mean is NaN.

        Returns
        -------
        A dataset whose times are the first days of the periods, with ``time_bnds``, of which everything can be asked that a
        profile can be asked for. ``days``: how many went in.

        Raises
        ------
        ValueError
            For profiles without days, or days that are not in their order; a period that pandas does not know.
        """
        return means.time_mean(self._data, period, correlation_time, min_share)

    def _soil(self) -> xr.DataArray | None:
        """Where there can be a profile (y, x); None where the dataset does not say."""
        prior = self._data.get("prior_mean")
        return prior.notnull().reset_coords(drop=True) if prior is not None and set(prior.dims) == {"y", "x"} else None

    def values(
        self,
        layers: Sequence[tuple[float, float]] | None = None,
        depths: Sequence[float] | None = None,
        *,
        level: float = 0.9,
        climatology: xr.Dataset | None = None,
    ) -> xr.Dataset:
        """Soil moisture of layers and at depths with its uncertainty, along the dimension ``layer``.

        Parameters
        ----------
        layers
            Top and bottom of each, m; where neither these nor depths are given, 0 to 0.1 and 0 to 1.
        depths
            m; they come after the layers.
        level
            Probability of the intervals.
        climatology
            ``deepprofile.open_store(url, "climatology")``, for percentiles of the layers that it has.

        Returns
        -------
        Lazy: ``soil_moisture``, ``standard_deviation``, ``lower`` and ``upper``, m3 m-3; of layers ``water_storage`` and
        ``water_storage_standard_deviation``, mm; ``percentile``. Coordinates ``depth`` and ``depth_bnds``, m.

        Raises
        ------
        ValueError
            For depths outside [0, 1] m, a level outside (0, 1), or as ``percentile``.
        """
        return export.values(self, layers, depths, level, climatology)

    def to_dataframe(
        self,
        layers: Sequence[tuple[float, float]] | None = None,
        depths: Sequence[float] | None = None,
        *,
        level: float = 0.9,
        climatology: xr.Dataset | None = None,
    ) -> pd.DataFrame:
        """The same as a table: a line for each day, place, and layer or depth that has a value; columns say their units."""
        return export.table(self.values(layers, depths, level=level, climatology=climatology))

    def to_csv(
        self,
        path: str | Path,
        layers: Sequence[tuple[float, float]] | None = None,
        depths: Sequence[float] | None = None,
        *,
        level: float = 0.9,
        climatology: xr.Dataset | None = None,
    ) -> None:
        """Write that table as CSV; nothing is left where it fails."""
        frame = self.to_dataframe(layers, depths, level=level, climatology=climatology)
        with export.new_file(Path(path)) as part:
            frame.to_csv(part, index=False, float_format="%.6g")

    def to_netcdf(
        self,
        path: str | Path,
        layers: Sequence[tuple[float, float]] | None = None,
        depths: Sequence[float] | None = None,
        *,
        level: float = 0.9,
        climatology: xr.Dataset | None = None,
    ) -> None:
        """Write the values as netCDF-4 with the attributes of CF and ACDD; nothing is left where it fails."""
        found = export.for_netcdf(self.values(layers, depths, level=level, climatology=climatology), self._data)
        with export.new_file(Path(path)) as part:
            found.to_netcdf(part, engine="h5netcdf")

    @property
    def plot(self) -> Plots:
        """Figures: ``profile``, ``map``, ``section`` and ``series``. They need the extra ``analysis``."""
        from deepprofile.analysis.plots import Plots

        return Plots(self)

    def uses(self, product: str) -> xr.DataArray:
        """Whether a product went into each profile.

        Raises
        ------
        KeyError
            For a product that the profile does not know.
        """
        return self.flag(f"uses_{product}")

    def flag(self, meaning: str) -> xr.DataArray:
        """Whether a flag is set, by its name in ``flags.attrs["flag_meanings"]``."""
        if "flags" not in self._data:
            raise KeyError("these profiles have no flags: means have none")
        attributes = self._data["flags"].attrs
        names = str(attributes["flag_meanings"]).split()
        if meaning.replace(" ", "_") not in names:
            raise KeyError(f"no flag {meaning!r}; there are {', '.join(names)}")
        mask = int(np.atleast_1d(attributes["flag_masks"])[names.index(meaning.replace(" ", "_"))])
        flags = self._data["flags"]
        found: xr.DataArray = (flags & flags.dtype.type(mask)) != 0
        return found

    def _evaluate(self, top: xr.DataArray, bottom: xr.DataArray, name: str) -> xr.DataArray:
        coefficients = self._data["coefficients"]
        basis = self._basis(top, bottom).astype(coefficients.dtype)
        out = xr.dot(coefficients, basis, dim="degree")
        return _with_depth(self._within(out), top, bottom, name)

    def _within(self, found: xr.DataArray) -> xr.DataArray:
        """NaN in cells of which no part lies within the polygon."""
        areas = self._data.coords.get("area")
        return found.where(areas > 0.0) if areas is not None and areas.ndim else found

    def _basis(self, top: xr.DataArray, bottom: xr.DataArray) -> xr.DataArray:
        order = self._data.sizes["degree"] - 1
        values = basis_mean(top.values, bottom.values, order)
        return xr.DataArray(values, dims=(*top.dims, "degree"))

    def _deviation(self, top: xr.DataArray, bottom: xr.DataArray) -> xr.DataArray:
        if "pattern" not in self._data:
            raise ValueError(
                "these profiles do not say what each was made from (pattern), and so have no uncertainty: "
                "deepprofile.open_profile opens those that do"
            )
        variance = self._expressed_variance(self._basis(top, bottom))
        remainder = self._remainder(top, bottom).astype(variance.dtype)
        variance = variance + remainder * self._data.get(means.REMAINDER, 1.0)
        pattern = self._data["pattern"]
        picked = xr.apply_ufunc(
            _pick,
            variance,
            pattern,
            input_core_dims=[["availability"], []],
            dask="parallelized",
            output_dtypes=[variance.dtype],
            dask_gufunc_kwargs={"allow_rechunk": True},
        )
        out = np.sqrt(picked)
        target = [dim for dim in pattern.dims if dim in out.dims]
        return _with_depth(self._within(out.transpose(*target, ...)), top, bottom, "standard deviation of soil moisture")

    def _expressed_variance(self, basis: xr.DataArray) -> xr.DataArray:
        """Variance of what the polynomial expresses (..., availability), from the covariances or from the stored factors."""
        if "covariance_factor" in self._data:
            factor = self._data["covariance_factor"]
            along = factor_projection(basis.values).astype(factor.dtype)
            projected = xr.dot(factor, xr.DataArray(along, dims=(*basis.dims[:-1], "entry", "column")), dim="entry")
            of_factor: xr.DataArray = (projected**2).sum("column", skipna=False)
            return of_factor
        if "posterior_covariance" not in self._data:
            raise ValueError(
                "these profiles are without their covariances, which are a store of their own: deepprofile.open_store(root) "
                "opens both"
            )
        covariance = self._data["posterior_covariance"]
        basis = basis.astype(covariance.dtype)
        variance: xr.DataArray = xr.dot(covariance, basis, basis.rename(degree="degree_2"), dim=["degree", "degree_2"])
        return variance

    def _remainder(self, top: xr.DataArray, bottom: xr.DataArray) -> xr.DataArray:
        share = unexpressed_variance(self._data.attrs, top.values, bottom.values, self._data.sizes["degree"] - 1)
        return xr.DataArray(share.reshape(top.shape), dims=top.dims)

    def _interval(self, level: float, centre: xr.DataArray, deviation: xr.DataArray) -> xr.Dataset:
        if not 0.0 < level < 1.0:
            raise ValueError(f"level is {level!r}; it is a probability between 0 and 1, for example 0.9")
        reach = float(special.ndtri(0.5 + 0.5 * level)) * deviation
        low, high = self._data["lower_bound"], self._data["upper_bound"]
        clip: Callable[[xr.DataArray], xr.DataArray] = lambda v: v.clip(low, high).astype(centre.dtype)  # noqa: E731
        lower, upper = clip(centre - reach), clip(centre + reach)
        lower.attrs = {"units": "m3 m-3", "long_name": f"lower end of the {level:.0%} interval"}
        upper.attrs = {"units": "m3 m-3", "long_name": f"upper end of the {level:.0%} interval"}
        return xr.Dataset({"lower": lower, "upper": upper})


def _extent(cells: Cells) -> str:
    """Where a grid lies, for messages."""
    lat, lon = cells.lat, cells.lon
    return f"its cells have their centres from {lat.min():.2f} to {lat.max():.2f} N and {lon.min():.2f} to {lon.max():.2f} E"


def unexpressed_variance(attrs: Mapping[Any, Any], top: Array, bottom: Array, order: int) -> Array:
    """Prior variance of what the polynomial cannot express in the means between depths (m; equal: at a point), m6 m-6.

    None where no prior stands behind a profile; ``attrs`` are those of its dataset, ``order`` the degree of its polynomials.
    """
    if attrs["method"] != "map":
        return np.zeros(np.shape(top))
    kernel = soil_kernel(float(attrs["prior_correlation_length"]))
    return np.asarray(float(attrs["prior_std"]) ** 2 * remainder_variance(kernel, top, bottom, order))


def _pick(values: NDArray[Any], position: NDArray[Any]) -> NDArray[Any]:
    """values (..., availability) at position (...), with the leading axes broadcast against each other."""
    shape = np.broadcast_shapes(values.shape[:-1], position.shape)
    every = np.broadcast_to(values, (*shape, values.shape[-1]))
    index = np.broadcast_to(position, shape).astype(np.int64)[..., None]
    return np.take_along_axis(every, index, axis=-1)[..., 0]


def _as_depth(values: Depth, what: str) -> xr.DataArray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim > 1:
        raise ValueError(f"{what} has {array.ndim} dimensions; give a number or a sequence of numbers")
    if not np.isfinite(array).all() or (array < 0.0).any() or (array > MAX_DEPTH_M).any():
        largest = float(array.max())
        hint = (
            f" (depths are in m: {largest:g} cm is {largest / 100.0:g})" if MAX_DEPTH_M < largest <= 100.0 * MAX_DEPTH_M else ""
        )
        raise ValueError(f"{what} is {values!r}; profiles reach from 0 to {MAX_DEPTH_M:g} m{hint}")
    return xr.DataArray(array, dims=("depth",) if array.ndim else ())


def _check_depth(depth: Depth) -> xr.DataArray:
    return _as_depth(depth, "depth")


def _check_layer(top: Depth, bottom: Depth) -> tuple[xr.DataArray, xr.DataArray]:
    a, b = xr.broadcast(_as_depth(top, "top"), _as_depth(bottom, "bottom"))
    if bool((b <= a).any()):
        raise ValueError(f"the layer {top!r} to {bottom!r} m has its bottom at or above its top")
    return a, b


def _with_depth(out: xr.DataArray, top: xr.DataArray, bottom: xr.DataArray, name: str) -> xr.DataArray:
    if top.ndim:
        if np.array_equal(top.values, bottom.values):
            out = out.assign_coords(depth=("depth", top.values, {"units": "m", "positive": "down", "standard_name": "depth"}))
        else:
            out = out.assign_coords(
                depth_top=("depth", top.values, {"units": "m"}), depth_bottom=("depth", bottom.values, {"units": "m"})
            )
    out.attrs = _attributes("m3 m-3", name)
    return out.rename("standard_deviation" if name.startswith("standard deviation") else "soil_moisture")


def _attributes(unit: str, text: str) -> dict[str, str]:
    """What CF says of a quantity, or of its standard deviation."""
    error = " standard_error" if text.startswith("standard deviation") else ""
    return {"units": unit, "standard_name": _STANDARD_NAMES[unit] + error, "long_name": text}


def _in_mm(mean: xr.DataArray, top: xr.DataArray, bottom: xr.DataArray, name: str) -> xr.DataArray:
    thickness = (bottom - top).astype(mean.dtype)
    out = mean * (WATER_MM_PER_M * thickness)
    out.attrs = _attributes("mm", name)
    return out.rename("standard_deviation" if name.startswith("standard deviation") else "water_storage")
