"""Means over areas and periods: exact values, and deviations that count how errors go together."""

import deepprofile as dp
import numpy as np
import pytest
import shapely
import xarray as xr
from deepprofile.analysis import means
from deepprofile.analysis.places import great_circles_m
from deepprofile.grids import EASE2_M09

BASIN = shapely.Polygon([(-97.6, 29.8), (-96.9, 29.9), (-97.2, 30.3)])


@pytest.fixture(scope="module")
def basin(opened):
    return opened.deepprofile.polygon(BASIN).isel(time=slice(0, 45)).load()


def by_hand(basin, values):
    weights = basin["area"].where(values.notnull(), 0.0)
    return (values.fillna(0.0) * weights).sum(("y", "x")) / weights.sum(("y", "x"))


@pytest.mark.parametrize("layer", [(0.0, 0.1), (0.0, 1.0), (0.2, 0.7)])
def test_the_mean_of_an_area_is_that_of_its_cells(basin, layer):
    found = basin.deepprofile.area_mean(min_share=0.0)
    assert "y" not in found.dims
    np.testing.assert_allclose(found.deepprofile.mean(*layer), by_hand(basin, basin.deepprofile.mean(*layer)), atol=1e-6)
    # Fully correlated: the mean of the variances.
    expected = np.sqrt(by_hand(basin, basin.deepprofile.std_mean(*layer) ** 2))
    np.testing.assert_allclose(found.deepprofile.std_mean(*layer), expected, rtol=1e-4)
    assert bool((found.deepprofile.std_mean(*layer) >= by_hand(basin, basin.deepprofile.std_mean(*layer)) - 1e-7).all())
    assert float(found["area"]) == pytest.approx(float(basin["area"].sum()))
    assert (found.attrs["averaged_over"], found.attrs["correlation_of_errors"]) == ("area", "area: fully correlated")


def test_blocks_of_dask_give_the_same_and_those_outside_are_not_read(opened, basin):
    lazy = opened.isel(time=slice(0, 45)).chunk(y=3, x=4, time=20)
    area = lazy.deepprofile.polygon(BASIN).deepprofile.area_mean(correlation_length=5e4)
    assert area.coefficients.chunks
    assert area.posterior_covariance.chunks
    xr.testing.assert_allclose(area.compute(), basin.deepprofile.area_mean(correlation_length=5e4))
    months = lazy.deepprofile.time_mean("MS", correlation_time=20.0)
    assert months.coefficients.chunks
    xr.testing.assert_allclose(months.compute(), lazy.compute().deepprofile.time_mean("MS", correlation_time=20.0))

    def broken(block):
        raise AssertionError("a block without a weight was read")

    corner = lazy.isel(y=slice(0, 3), x=slice(8, 12))
    for name in ("coefficients", "pattern", "covariance_factor"):
        data = corner[name].data
        corner[name] = corner[name].copy(data=data.map_blocks(broken, meta=data._meta))
    rest = lazy.isel(x=slice(0, 8)).compute().chunk(y=3, x=4)
    upper = xr.concat([rest.isel(y=slice(0, 3)), corner], "x", data_vars="minimal")
    weights = xr.DataArray(np.zeros((3, 12)), dims=("y", "x"))
    weights[:, :8] = 1.0
    found = means.area_mean(upper, weights, None, None, 0.5).compute()
    np.testing.assert_allclose(
        found.deepprofile.at(0.1), rest.isel(y=slice(0, 3)).deepprofile.at(0.1).mean(("y", "x")), atol=1e-6
    )


def test_errors_of_cells_that_are_apart_cancel(basin):
    length = 4e4
    found = basin.deepprofile.area_mean(correlation_length=length)
    lat, lon = (each.ravel() for each in np.meshgrid(basin.lat, basin.lon, indexing="ij"))
    correlation = np.exp(-great_circles_m(lat[:, None], lon[:, None], lat, lon) / length)
    there = basin.coefficients.isel(degree=0).notnull().values
    for day in (0, 17, 44):
        weights = np.where(there[day], basin["area"].values, 0.0).ravel()
        weights = weights / weights.sum()
        factor = weights @ correlation @ weights
        whole = basin.isel(time=day).deepprofile.area_mean().deepprofile.std_mean(0.0, 1.0)
        np.testing.assert_allclose(found.deepprofile.std_mean(0.0, 1.0)[day], np.sqrt(factor) * whole, rtol=1e-4)
    assert found.attrs["correlation_of_errors"] == "area: exp(-distance / 40000 m)"


def test_large_areas_are_compared_by_their_parts():
    window = EASE2_M09.window(400, 880, 70, 50)
    lat, lon = window.lat, window.lon
    for length in (3e4, 2e5):
        parts = [{"y": slice(y, min(y + 3, 70)), "x": slice(x, x + 2)} for y in range(0, 70, 3) for x in range(0, 50, 2)]
        found = means.correlation_of_parts(lat, lon, parts, length)
        cells = np.array([(part["y"].stop - part["y"].start) * 2 for part in parts])
        share = cells / cells.sum()
        y, x = (each.ravel() for each in np.meshgrid(lat, lon, indexing="ij"))
        exact = np.exp(-great_circles_m(y[:, None], x[:, None], y, x) / length).mean()
        assert share @ found @ share == pytest.approx(exact, rel=0.01)


def test_the_mean_of_a_month_is_that_of_its_days(opened):
    own = opened.isel(y=slice(2, 5), x=slice(3, 7)).load()
    found = own.deepprofile.time_mean("MS")
    assert list(found.time.values.astype("datetime64[D]").astype(str)) == ["2015-04-01", "2015-05-01", "2015-06-01"]
    np.testing.assert_array_equal(found.time_bnds.values.astype("datetime64[D]").astype(str)[1], ["2015-05-01", "2015-06-01"])
    theta, deviation = own.deepprofile.mean(0.0, 1.0), own.deepprofile.std_mean(0.0, 1.0)
    april = own.time.dt.month == 4
    np.testing.assert_allclose(found.deepprofile.mean(0.0, 1.0)[0], theta[april].mean("time"), atol=1e-6)
    expected = np.sqrt((deviation[april] ** 2).mean("time"))
    np.testing.assert_allclose(found.deepprofile.std_mean(0.0, 1.0).isel(time=0), expected, rtol=1e-4)
    # June has 11 of its 30 days.
    assert found.deepprofile.mean(0.0, 1.0).isel(time=2).isnull().all()
    assert found.deepprofile.std_mean(0.0, 1.0).isel(time=2).isnull().all()
    np.testing.assert_array_equal(found.days.isel(y=0, x=0), own.coefficients[0, :, 0, 0].notnull().resample(time="MS").sum())
    some = own.deepprofile.time_mean("MS", min_share=0.3)
    np.testing.assert_allclose(some.deepprofile.mean(0.0, 1.0)[2], theta[own.time.dt.month == 6].mean("time"), atol=1e-6)
    whole = own.deepprofile.time_mean()
    assert "time" not in whole.dims
    assert whole.attrs["period"] == "2015-04-01 to 2015-06-11"
    np.testing.assert_allclose(whole.deepprofile.mean(0.0, 1.0), theta.mean("time"), atol=1e-6)


def test_errors_of_days_that_are_apart_cancel_but_for_what_persists(opened):
    own = opened.isel(y=3, x=slice(3, 6)).load()
    own["coefficients"] = own.coefficients.where(own.time.dt.day % 3 != 0)
    found = own.deepprofile.time_mean("MS", correlation_time=12.0)
    there = own.coefficients.isel(degree=0).notnull()
    days = np.arange(own.sizes["time"])
    share = means.PERSISTENT_SHARE
    for month, column in ((4, 0), (5, 2)):
        place = days[(own.time.dt.month == month).values & there.values[:, column]]
        correlation = share + (1.0 - share) * np.exp(-abs(place[:, None] - place) / 12.0)
        variance = (own.isel(x=column, time=place).deepprofile.std_mean(0.0, 1.0) ** 2).mean()
        expected = np.sqrt(correlation.mean() * variance)
        np.testing.assert_allclose(found.isel(x=column, time=month - 4).deepprofile.std_mean(0.0, 1.0), expected, rtol=1e-4)


def test_means_of_means_are_means(basin):
    one = basin.deepprofile.area_mean(correlation_length=5e4).deepprofile.time_mean("MS", correlation_time=20.0, min_share=0.2)
    other = basin.deepprofile.time_mean("MS", correlation_time=20.0, min_share=0.2).deepprofile.area_mean(
        correlation_length=5e4
    )
    assert one.attrs["averaged_over"] == "area, period"
    assert one.attrs["correlation_of_errors"] == "area: exp(-distance / 50000 m); period: 0.45 + 0.55 exp(-days / 20)"
    assert other.attrs["averaged_over"] == "period, area"
    # Where every day has every cell it is the same; here some days lack some.
    np.testing.assert_allclose(one.deepprofile.storage(0.0, 1.0), other.deepprofile.storage(0.0, 1.0), rtol=0.01)
    np.testing.assert_allclose(one.deepprofile.std_storage(0.0, 1.0), other.deepprofile.std_storage(0.0, 1.0), rtol=0.01)
    within = one.deepprofile.mean_interval(0.9, 0.0, 1.0)
    np.testing.assert_allclose(within.upper - within.lower, 2 * 1.6448536 * one.deepprofile.std_mean(0.0, 1.0), rtol=1e-3)


def test_covariances_of_memory_serve_as_those_of_stores(world):
    first = world.first_days(40)
    profile = dp.fuse({name: series.isel(y=slice(0, 4), x=slice(0, 4)) for name, series in first.products.items()})
    lat, lon = EASE2_M09.window(400, 880, 4, 4).lat, EASE2_M09.window(400, 880, 4, 4).lon
    profile = profile.assign_coords(lat=("y", lat), lon=("x", lon))
    found = profile.deepprofile.area_mean()
    weights = profile.deepprofile.areas()
    expected = profile.deepprofile.mean(0.0, 0.4).weighted(weights).mean(("y", "x"))
    np.testing.assert_allclose(found.deepprofile.mean(0.0, 0.4), expected, rtol=1e-5)
    variance = (profile.deepprofile.std_mean(0.0, 0.4) ** 2).weighted(weights).mean(("y", "x"))
    np.testing.assert_allclose(found.deepprofile.std_mean(0.0, 0.4) ** 2, variance, rtol=1e-4)


def test_days_with_less_than_half_of_the_area_are_unknown(basin):
    part = basin.copy()
    part["coefficients"] = basin.coefficients.where((basin.x != basin.x[2]) | (basin.time != basin.time[3]))
    part["coefficients"] = part.coefficients.where((basin.y < basin.y[4]) | (basin.time != basin.time[5]))
    found = part.deepprofile.area_mean()
    lost = float(basin["area"].isel(x=2).sum() / basin["area"].sum())
    assert float(found.valid_share[3]) == pytest.approx(1.0 - lost, abs=1e-6)
    assert float(found.valid_share[5]) < 0.5
    np.testing.assert_array_equal(found.deepprofile.at(0.3).isnull(), found.valid_share < 0.5)
    some = part.deepprofile.area_mean(min_share=0.01)
    assert some.deepprofile.at(0.3).notnull().all()


def test_xarray_does_not_average_uncertainties(basin):
    for averaged in (basin.resample(time="MS").mean(), basin.mean("x"), basin.interp(y=basin.y.values[:2] - 100.0)):
        with pytest.raises(ValueError, match=r"averaged or interpolated by xarray.*use \.deepprofile\.area_mean"):
            averaged.deepprofile.std(0.1)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (lambda p: p.deepprofile.area_mean(correlation_length=50.0), r"correlation_length is 50 m, less than the 8\d\d\d m"),
        (lambda p: p.isel(y=0, x=0).deepprofile.area_mean(), "lie on no grid"),
        (lambda p: p.isel(time=0).deepprofile.time_mean("MS"), "have no days to take a mean of"),
        (lambda p: p.isel(time=[3, 1]).deepprofile.time_mean(), r"sort them with \.sortby\('time'\)"),
        (lambda p: p.deepprofile.time_mean("monthly"), "period is 'monthly'; give one of pandas, such as 'MS'"),
        (lambda p: p.deepprofile.time_mean("ME"), "names its last day; give one that names its first"),
        (lambda p: p.deepprofile.time_mean("MS", correlation_time=-1.0), "give a number of days above 0"),
        (lambda p: p.deepprofile.area_mean().deepprofile.uses("smap_l4"), "means have none"),
        (
            lambda p: p.deepprofile.area_mean().deepprofile.percentile(None),
            r"these are means \(area\).*ask for percentiles first",
        ),
        (lambda p: p.drop_vars("covariance_factor").deepprofile.area_mean(), "without their covariances"),
        (lambda p: p.assign(prior_mean=p.prior_mean * np.nan).deepprofile.area_mean(), "no cell of the area has soil"),
    ],
)
def test_wrong_use_is_said(basin, asked, said):
    with pytest.raises((ValueError, KeyError), match=said):
        asked(basin)


def test_periods_go_on_from_one_block_to_the_next(opened):
    """Months and seasons that dask divides anywhere: pairs of days across blocks count as well."""
    own = opened.isel(y=slice(2, 4), x=slice(3, 6)).load()
    own["coefficients"] = own.coefficients.where(own.time.dt.day % 4 != 0)
    for period in ("MS", "QS-DEC", "10D", None):
        expected = own.deepprofile.time_mean(period, correlation_time=15.0, min_share=0.0)
        for days in (1, 7, 50):
            found = own.chunk(time=days).deepprofile.time_mean(period, correlation_time=15.0, min_share=0.0).compute()
            xr.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_store_is_read_once_for_all_months(opened, monkeypatch):
    read = []
    own = opened.isel(y=slice(0, 4), x=slice(0, 4)).load().chunk(time=36)
    for name in ("coefficients", "pattern"):
        data = own[name].data.map_blocks(lambda block, name=name: read.append(name) or block, meta=own[name].data._meta)
        own[name] = own[name].copy(data=data)
    months = own.deepprofile.time_mean("MS", correlation_time=15.0)
    months.deepprofile.area_mean(correlation_length=5e4).deepprofile.std_mean(0.0, 1.0).compute(scheduler="synchronous")
    assert sorted(read) == ["coefficients"] * 2 + ["pattern"] * 2
    read.clear()
    own.deepprofile.area_mean(correlation_length=5e4).deepprofile.std_mean(0.0, 1.0).compute(scheduler="synchronous")
    assert sorted(read) == ["coefficients"] * 2 + ["pattern"] * 2


def test_means_of_periods_lie_on_the_grid_that_the_profiles_lie_on(opened):
    """Down to a single row, whose width nothing but the grid tells."""
    row = opened.isel(y=slice(3, 4))
    months = row.deepprofile.time_mean("MS")
    xr.testing.assert_equal(months.deepprofile.areas(), row.deepprofile.areas())
    assert months.attrs["grid"] == opened.attrs["grid"]
    assert "store_layout" not in months.attrs
    xr.testing.assert_equal(months.deepprofile.polygon(BASIN)["area"], row.deepprofile.polygon(BASIN)["area"])
    assert not [
        name for name in row.deepprofile.area_mean().attrs if str(name).startswith(("grid", "proj:", "geospatial_lon_r"))
    ]
