"""Frozen ground and snow: one value for every product, the twin and the examples."""

import h5py
import numpy as np
import pytest
from deepprofile.core.screens import is_frozen, is_under_snow
from deepprofile.grids.grids import EASE2_M09
from deepprofile.sources.products import PRODUCTS
from deepprofile.twin.granules import CORNER
from deepprofile.twin.weather import make_weather

SNOW = {"gldas_noah": "SWE_inst", "smap_l4": "Geophysical_Data/snow_mass"}
TEMPERATURE = {
    "gldas_noah": "SoilTMP0_10cm_inst",
    "smap_l4": "Geophysical_Data/soil_temp_layer1",
    "era5_land": "stl1",
}


def test_values_count_above_a_degree_of_frost_and_below_any_snow():
    assert is_frozen(np.array([274.15, 274.16, np.nan])).tolist() == [True, False, True]
    assert is_under_snow(np.array([0.0, 0.0009, 0.001, 5.0, np.nan])).tolist() == [False, False, True, True, True]


def share_kept(granules, tmp_path, name, variable, amount, unit=None):
    """Share of the values of a summer's granule that is left when a variable is the same everywhere."""
    product = PRODUCTS[name]
    source = sorted((granules / name).iterdir())[-1]
    copy = tmp_path / source.name
    copy.write_bytes(source.read_bytes())
    with h5py.File(copy, "r+") as file:
        file[variable][...] = np.float32(amount)
        if unit is not None:
            file[variable].attrs["units"] = unit
    window = product.grid.covering(EASE2_M09.window(*CORNER, 4, 4))
    return float(np.isfinite(product.read(copy, window, product.parse(copy.name).days).values).mean())


@pytest.mark.parametrize("name", SNOW)
@pytest.mark.parametrize(
    ("amount", "unit", "kept"),
    [
        (0.0, None, True),
        (0.0009, None, True),
        (0.001, None, False),
        (0.5, None, False),
        (0.9e-6, "m", True),
        (2e-6, "m", False),
    ],
)
def test_snow_hides_the_ground_of_every_product_from_the_same_amount_on(granules, tmp_path, name, amount, unit, kept):
    assert (share_kept(granules, tmp_path, name, SNOW[name], amount, unit) > 0.9) == kept


@pytest.mark.parametrize("name", TEMPERATURE)
@pytest.mark.parametrize(("amount", "kept"), [(274.1, False), (274.2, True)])
def test_frost_hides_the_ground_of_every_product_from_the_same_temperature_on(granules, tmp_path, name, amount, kept):
    assert (share_kept(granules, tmp_path, name, TEMPERATURE[name], amount) > 0.9) == kept


def test_the_twin_knows_snow_by_the_same_amount(monkeypatch):
    seen = []

    def spy(amount):
        seen.append(amount)
        return is_under_snow(amount)

    monkeypatch.setattr("deepprofile.twin.weather.is_under_snow", spy)
    weather = make_weather(np.random.default_rng(5), 365, (6, 6), 1)
    water = np.array(seen)
    # Between the screen's value and a millimetre there is fresh snow, and melting snow, on some days.
    thin = (water >= 0.001) & (water < 1.0)
    assert thin.any()
    assert weather.frozen[thin].all()
