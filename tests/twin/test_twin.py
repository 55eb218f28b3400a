"""The twin itself: physics, reproducibility, and that its products err as they should."""

import numpy as np
import pytest
from deepprofile import twin
from deepprofile.twin.ceiling import ceiling
from deepprofile.twin.column import Soil, Vegetation, run_columns


def sealed_column(porosity=0.45, days=60, rain=0.0, demand=0.0):
    """Columns of five layers with a given forcing."""
    thickness = np.array([0.05, 0.1, 0.2, 0.3, 0.35])
    shape = (1, thickness.size)
    soil = Soil(np.full(shape, porosity), np.full(shape, 6.0), np.full(shape, 0.3), np.full(shape, 0.3))
    vegetation = Vegetation(np.array([0.6]), np.array([0.3]))
    forcing = [np.full((days, 1), v, dtype=np.float32) for v in (rain, demand)]
    return thickness, run_columns(thickness, soil, vegetation, *forcing, spin_up_days=0)[:, :, 0]


def test_a_column_without_rain_drains_downward_and_loses_water():
    thickness, theta = sealed_column()
    water = theta @ thickness
    assert (np.diff(water) < 0).all()
    assert theta[-1, 0] < theta[-1, -1]


def test_evaporation_dries_no_further_than_the_demand():
    thickness, wet = sealed_column(rain=0.003, days=200)
    _, dry = sealed_column(rain=0.003, demand=0.002, days=200)
    lost = (wet[-1] - dry[-1]) @ thickness
    assert 0.0 < lost < 0.002 * 200
    assert dry.min() >= 0.02


def test_heavy_rain_saturates_and_never_exceeds_the_porosity():
    _, theta = sealed_column(rain=1.0, days=30)
    assert theta.max() <= 0.45 + 1e-6
    assert theta[-1].min() > 0.39


def test_the_same_seed_gives_the_same_world():
    one, two = (twin.simulate((6, 6), 1, seed=3, stations=4) for _ in range(2))
    np.testing.assert_array_equal(one.truth, two.truth)
    for name in one.products:
        np.testing.assert_array_equal(one.products[name], two.products[name])
    np.testing.assert_array_equal(one.stations.soil_moisture, two.stations.soil_moisture)
    assert not np.array_equal(one.truth, twin.simulate((6, 6), 1, seed=4, stations=4).truth)


def test_products_have_their_layers_grids_and_gaps(small_world):
    layers = {
        name: list(zip(p.layer_top.values, p.layer_bottom.values, strict=True)) for name, p in small_world.products.items()
    }
    assert layers["smap_l4"] == [(0.0, 0.05), (0.0, 1.0)]
    assert layers["gldas_noah"] == [(0.0, 0.1), (0.1, 0.4), (0.4, 1.0)]
    assert layers["era5_land"] == [(0.0, 0.07), (0.07, 0.28), (0.28, 1.0)]
    assert layers["smap_l3"] == [(0.0, 0.05)]
    assert small_world.native["gldas_noah"].sizes["y"] == 4  # ten cells of 9 km in cells of three
    seen = float(np.isfinite(small_world.products["smap_l3"]).mean())
    assert 0.2 < seen < 0.45
    for series in small_world.products.values():
        assert 0.0 < float(series.min()) < float(series.max()) < 0.65


def test_errors_grow_with_their_factor():
    def rmse(factor):
        world = twin.simulate((8, 8), 2, seed=6, model_errors={"era5_land": factor}, stations=4)
        return float(np.sqrt(((world.products["era5_land"].isel(layer=0) - world.truth_mean(0.0, 0.07)) ** 2).mean()))

    assert rmse(0.3) < rmse(1.0) < rmse(1.6)


def test_stations_differ_from_their_cell(small_world):
    stations = small_world.stations
    points = stations.isel(sensor=np.flatnonzero(stations.depth_top == 0.2))
    for n in range(points.sizes["sensor"]):
        one = points.isel(sensor=n)
        cell = small_world.truth_mean(0.15, 0.25).isel(y=int(one.y_index), x=int(one.x_index))
        both = np.isfinite(one.soil_moisture)
        error = (one.soil_moisture - cell).where(both)
        assert 0.001 < float(abs(error).mean()) < 0.15
        assert float(np.corrcoef(one.soil_moisture[both], cell[both])[0, 1]) > 0.6
    assert set(stations.network.values.tolist()) == {"TWIN-POINT", "TWIN-INTERVAL"}


def test_the_ceiling_beats_every_product(small_world):
    best = ceiling(small_world, ((0.0, 0.05), (0.1, 0.4)))
    for k, (top, bottom, name, layer) in enumerate(((0.0, 0.05, "smap_l4", 0), (0.1, 0.4, "gldas_noah", 1))):
        truth = small_world.truth_mean(top, bottom)
        own = float((small_world.products[name].isel(layer=layer) - truth).std("time").median())
        ceil = float((best.isel(band=k).transpose("time", "y", "x") - truth).std("time").median())
        assert ceil < own


def test_wrong_arguments_are_told():
    with pytest.raises(ValueError, match="land models are"):
        twin.simulate((4, 4), 1, model_errors={"merra2": 2.0})
    with pytest.raises(ValueError, match="30 stations do not fit"):
        twin.simulate((4, 4), 1, stations=30)
