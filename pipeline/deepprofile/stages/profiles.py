"""From a configuration to an inversion: what the stages that invert, and that compare with an inversion, have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from deepprofile.config import Config, Inversion
from deepprofile.core import kernels
from deepprofile.core.error_model import OWN, LayerErrors
from deepprofile.core.invert import covariances_of_arrays, invert_arrays, invert_stack
from deepprofile.core.layers import OBSERVATION, Layout, check_values, stack_products
from deepprofile.core.memory import remember, remembered, remembered_errors, with_memory
from deepprofile.core.parameters import Model, Parameters, cell_parameters, default_order, product_patterns
from deepprofile.core.prior import Prior
from deepprofile.stages.collocate import Comparison, ErrorModel
from deepprofile.stages.domain import Domain


def _prior(settings: Inversion) -> Prior:
    return Prior(std=settings.prior.std, correlation_length=settings.prior.correlation_length)


@dataclass(frozen=True)
class Profiles:
    """What the profiles depend on.

    Attributes
    ----------
    model
        The error model, with the domain and the products.
    settings
        Of the inversion.
    """

    model: ErrorModel
    settings: Inversion

    @classmethod
    def of(cls, config: Config) -> Profiles:
        """As configured."""
        return cls(ErrorModel.of(config), config.inversion)

    @property
    def domain(self) -> Domain:
        """The target grid and the days."""
        return self.model.domain

    @property
    def layout(self) -> Layout:
        """The observations of a profile: every layer of every product, and what retrievals said in the past."""
        layout, _ = self.model.comparison.design()
        return with_memory(layout) if self.settings.direction else layout

    @property
    def degrees(self) -> int:
        """Coefficients of a profile."""
        layout, _ = self.model.comparison.design()
        order = self.settings.order
        return 1 + (default_order(self.settings.method, layout) if order is None else order)

    @property
    def patterns(self) -> int:
        """Patterns of available products that have a covariance."""
        return len(product_patterns(self.layout))


@lru_cache(maxsize=4)
def _model(comparison: Comparison, settings: Inversion) -> Model:
    """What is the same in every cell; a worker makes it once."""
    layout, _ = comparison.design()
    order = default_order(settings.method, layout) if settings.order is None else settings.order
    layout = with_memory(layout) if settings.direction else layout
    return Model.build(layout, settings.method, order, _prior(settings), two_scales=True)


@dataclass(frozen=True)
class Inverter:
    """Turns arrays of products into profiles, without labels.

    Attributes
    ----------
    comparison
        The observations.
    settings
        Of the inversion.
    """

    comparison: Comparison
    settings: Inversion

    @property
    def model(self) -> Model:
        """What is the same in every cell."""
        return _model(self.comparison, self.settings)

    def parameters(
        self, errors: LayerErrors, cell_bounds: tuple[NDArray[np.float32], NDArray[np.float32]] | None
    ) -> Parameters:
        """Errors and limits of cells, from the error model, each (row, column, observation).

        ``cell_bounds``: the lower and the upper bound of each cell, (row, column), where they are no numbers.
        """
        limits = self.settings.constant_bounds if cell_bounds is None else cell_bounds
        assert limits is not None
        low, high = (np.asarray(limit, np.float64) for limit in limits)
        direction = self.settings.direction
        of_layers = errors._replace(error_variance=errors.error_variance.astype(np.float64))
        if direction:
            layout, _ = self.comparison.design()
            of_layers = remembered_errors(of_layers, layout, self.settings.prior.std, direction)
        return cell_parameters(of_layers, None, low, high, self.model)

    def profiles(
        self,
        series: Mapping[str, NDArray[np.float32]],
        parameters: Parameters,
        filters: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> kernels.Profiles:
        """Profiles (row, column, day, ...), with the patterns of whole products, of products (day, layer, row, column) by name.

        ``filters``: of each remembered product, (row, column, day, filter).

        Raises
        ------
        ValueError
            For values that cannot be soil moisture in m3 m-3.
        """
        layout, _ = self.comparison.design()
        arrays = []
        for name in layout.products:
            check_values(series[name], name=name)
            arrays.append(series[name].transpose(2, 3, 0, 1))
        if self.settings.direction:
            arrays += [(filters or {})[name] for name in remembered(layout)]
        return invert_arrays(arrays, parameters, self.model, product_patterns(self.model.layout))

    def covariances(self, parameters: Parameters) -> NDArray[np.float32]:
        """Posterior covariances (row, column, pattern, degree, degree), m6 m-6: they do not depend on time."""
        return covariances_of_arrays(parameters.errors, self.model, np.float32, product_patterns(self.model.layout))


def prototype(profiles: Profiles) -> xr.Dataset:
    """The result of one cell and day without data: every array, attribute and coordinate that a profile has."""
    return _prototype(profiles.model.comparison, profiles.settings).copy()


@lru_cache(maxsize=4)
def _prototype(comparison: Comparison, settings: Inversion) -> xr.Dataset:
    """Made once: several stages ask for it."""
    layout, _ = comparison.design()
    products = {}
    for p, name in enumerate(layout.products):
        own = layout.product_index == p
        products[name] = xr.DataArray(
            np.full((1, 1, 1, int(own.sum())), np.nan, np.float32),
            dims=("y", "x", "time", "layer"),
            coords={
                "time": pd.DatetimeIndex(["2000-01-01"]),
                "layer_top": ("layer", layout.top[own]),
                "layer_bottom": ("layer", layout.bottom[own]),
            },
        )
    some = LayerErrors(*(np.full(layout.size, v) for v in (0.002, 0.001, 0.25, 0.004, OWN)))
    errors = xr.Dataset({name: (OBSERVATION, part) for name, part in some._asdict().items()})
    stack, errors = stack_products(products), errors.assign_coords(layout.coordinates())
    if settings.direction:
        stack, errors = remember(stack, errors, _prior(settings), settings.direction)
    listed = product_patterns(stack.layout)
    return invert_stack(stack, errors, settings.method, settings.order, (0.0, 1.0), _prior(settings), listed)
