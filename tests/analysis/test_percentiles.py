"""How unusual soil moisture is: percentiles, anomalies and classes of drought beside a climatology."""

import numpy as np
import pytest
import xarray as xr
from deepprofile.core.climatology import QUANTILES, pentad_of

from tests.analysis.conftest import LAYERS, climatology_of


@pytest.fixture(scope="module")
def profile(opened):
    return opened.isel(y=slice(2, 6), x=slice(0, 5), time=slice(0, 30)).load()


@pytest.fixture(scope="module")
def climatology(profile):
    return climatology_of(profile)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_percentile_is_that_of_the_time_of_the_year(profile, climatology, layer):
    found = profile.deepprofile.percentile(climatology, *layer)
    assert (found.name, found.attrs["units"]) == ("percentile", "percent")
    mean = profile.deepprofile.mean(*layer)
    found = found.transpose(*mean.dims)
    days = pentad_of(profile.time.values.astype("datetime64[D]"))
    for day, row, column in ((0, 1, 1), (13, 2, 4), (29, 3, 0)):
        place = {"time": day, "y": row, "x": column}
        known = climatology.soil_moisture.values[days[day], :, 0, row, column]
        expected = np.interp(float(mean.isel(place)), known, 100.0 * np.array(QUANTILES), left=1.0, right=99.0)
        assert float(found.isel(place)) == pytest.approx(expected, abs=1e-3)
    assert found.isel(y=0, x=0).isnull().all()


def test_lazy_profiles_give_lazy_percentiles(profile, climatology):
    lazy = profile.chunk({"time": 10}).deepprofile.percentile(climatology.chunk({"x": 2}))
    assert lazy.chunks
    xr.testing.assert_allclose(lazy.compute(), profile.deepprofile.percentile(climatology))


def test_a_single_cell_and_a_single_day_have_their_percentile(profile, climatology):
    whole = profile.deepprofile.percentile(climatology)
    cell = profile.deepprofile.point(float(profile.lat[2]), float(profile.lon[3]))
    np.testing.assert_allclose(cell.deepprofile.percentile(climatology), whole.isel(y=2, x=3))
    day = profile.isel(time=7).deepprofile.percentile(climatology)
    np.testing.assert_allclose(day, whole.isel(time=7))


def test_classes_of_drought_are_limits_of_percentiles(profile, climatology):
    share = profile.deepprofile.percentile(climatology)
    found = profile.deepprofile.drought_class(climatology)
    assert found.dtype == np.int8
    assert (found.where(share.isnull(), -1) == -1).all()
    for value, (low, high) in {0: (30, 101), 1: (20, 30), 2: (10, 20), 3: (5, 10), 4: (2, 5), 5: (0, 2)}.items():
        assert ((found == value) == ((share > low) & (share <= high))).all()
    assert len(np.unique(found)) > 3


def test_an_anomaly_is_the_distance_from_the_median(profile, climatology):
    found = profile.deepprofile.anomaly(climatology)
    days = pentad_of(profile.time.values.astype("datetime64[D]"))
    median = climatology.soil_moisture.values[days[4], QUANTILES.index(0.5), 1, 2, 1]
    mean = profile.deepprofile.mean(0.0, 1.0).isel(time=4, y=2, x=1)
    assert float(found.isel(time=4, y=2, x=1)) == pytest.approx(float(mean) - float(median), abs=1e-6)
    assert found.name == "anomaly"


def test_wrong_use_is_said(profile, climatology):
    with pytest.raises(ValueError, match=r"has nothing for 0 to 0\.5 m; it has 0 to 0\.1 m, 0 to 1 m"):
        profile.deepprofile.percentile(climatology, 0.0, 0.5)
    moved = climatology.assign_coords(y=climatology.y + 4000.0)
    with pytest.raises(ValueError, match="the climatology lies on another grid: it lacks some y of these profiles"):
        profile.deepprofile.percentile(moved)
    with pytest.raises(ValueError, match="lies on another grid"):
        profile.isel(y=0, x=0).deepprofile.percentile(moved)
    with pytest.raises(ValueError, match="have no time"):
        profile.isel(time=0, drop=True).deepprofile.percentile(climatology)
