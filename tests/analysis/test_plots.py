"""Figures: each shows the numbers that the library gives, with units and names."""

import deepprofile as dp
import matplotlib.pyplot as plt
import numpy as np
import pytest
from deepprofile.analysis import plots

from tests.analysis.conftest import climatology_of


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def place(opened):
    return opened.deepprofile.point(30.1, -97.3).load()


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_a_profile_is_drawn_with_its_interval_its_products_and_sensors(place, finished):
    inputs = dp.open_store(finished.root, "inputs")
    day = place.isel(time=20)
    axes = day.deepprofile.plot.profile(inputs=inputs, sensors={0.05: 0.2, 0.5: 0.3})
    depth = np.linspace(0.0, 1.0, 101)
    drawn = lines(axes)
    np.testing.assert_allclose(drawn["profile"].get_xdata(), day.deepprofile.at(depth))
    np.testing.assert_array_equal(drawn["profile"].get_ydata(), depth)
    (band,) = axes.collections
    within = day.deepprofile.interval(0.9, depth=depth)
    corners = band.get_paths()[0].vertices
    assert corners[:, 0].min() == pytest.approx(float(within.lower.min()))
    assert corners[:, 0].max() == pytest.approx(float(within.upper.max()))
    # The steps of a product, each layer at its depths.
    steps = [line for line in axes.get_lines() if line.get_color() == plots.OTHERS[1]]
    layers = [tuple(np.round(line.get_ydata(), 3)) for line in steps]
    assert layers == [(0.0, 0.1), (0.1, 0.4), (0.4, 1.0)]
    own = inputs.soil_moisture.sel(y=day.y, x=day.x, time=day.time).values
    np.testing.assert_allclose([line.get_xdata()[0] for line in steps], own[inputs.product_index.values == 1])
    assert legend(axes)[:3] == ["90% interval", "profile", "smap_l4"]
    np.testing.assert_array_equal(drawn["sensor"].get_ydata(), [0.05, 0.5])
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("soil moisture (m³ m⁻³)", "depth (m)")
    assert axes.get_title() == "30.11° N, 97.33° W, 2015-04-21"


def test_a_series_has_its_interval_and_what_is_usual(opened, place):
    climatology = climatology_of(opened).sel(y=place.y, x=place.x, method="nearest")
    axes = place.deepprofile.plot.series(0.0, 0.1, climatology=climatology, level=0.5)
    assert legend(axes) == ["8 of 10 years", "50% interval", "0 to 10 cm"]
    np.testing.assert_allclose(lines(axes)["0 to 10 cm"].get_ydata(), place.deepprofile.mean(0.0, 0.1))
    usual = place.deepprofile.usual(climatology, 0.0, 0.1, [0.1, 0.9])
    assert axes.collections[0].get_paths()[0].vertices[:, 1].max() == pytest.approx(float(usual.max()))
    assert axes.get_ylabel() == "soil moisture (m³ m⁻³)"
    # The mean of an area is a series as well.
    mean = opened.deepprofile.area_mean().deepprofile.plot.series()
    assert mean.get_title().startswith("mean of 9,7")


def test_a_section_runs_from_the_surface_down(place):
    axes = place.deepprofile.plot.section()
    (mesh,) = axes.collections
    expected = place.deepprofile.at(np.linspace(0.005, 0.995, 100)).transpose("depth", "time")
    np.testing.assert_allclose(np.ma.filled(mesh.get_array(), np.nan).reshape(expected.shape), expected)
    assert axes.get_ylim() == (1.0, 0.0)


def test_maps_are_coloured_by_what_they_show(opened):
    day = opened.isel(time=30).load()
    climatology = climatology_of(opened)
    view = day.deepprofile
    for field, label, colours in (
        (None, "water storage (mm)", "YlGnBu"),
        (view.at(0.4), "soil moisture (m³ m⁻³)", "YlGnBu"),
        (view.std(0.4), "standard deviation of soil moisture (m³ m⁻³)", "Purples"),
        (view.percentile(climatology), "percentile of the mean soil moisture from 0 to 1 m (%)", "BrBG"),
        (view.anomaly(climatology), "mean soil moisture from 0 to 1 m less its usual median (m³ m⁻³)", "BrBG"),
    ):
        axes = view.plot.map(field)
        (mesh,) = axes.collections
        expected = (view.storage(0.0, 1.0) if field is None else field).transpose("y", "x")
        np.testing.assert_allclose(np.ma.filled(mesh.get_array(), np.nan).reshape(expected.shape), expected, rtol=1e-6)
        assert axes.figure.axes[-1].get_ylabel().replace("\n", " ") == label
        assert mesh.get_cmap().name == colours
        assert axes.get_title() == "2015-05-01"
    drought = view.plot.map(view.drought_class(climatology))
    shown = [text.get_text() for text in drought.figure.axes[-1].get_yticklabels()]
    assert shown == ["none", "D0", "D1", "D2", "D3", "D4"]
    assert np.ma.filled(drought.collections[0].get_array(), np.nan).ravel()[0] != -1


def test_figures_are_drawn_where_they_are_asked_for(place):
    _, (left, right) = plt.subplots(ncols=2)
    assert place.isel(time=3).deepprofile.plot.profile(ax=left) is left
    assert place.deepprofile.plot.series(ax=right) is right
    assert left.get_lines()
    assert right.get_lines()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (lambda p: p.deepprofile.plot.profile(), r"a profile is of one place and day, and these have time, y, x: \.sel\(time"),
        (lambda p: p.deepprofile.plot.series(), r"a series is of one place, and these have y, x: \.deepprofile\.point"),
        (lambda p: p.isel(y=0, x=0, time=0).deepprofile.plot.section(), "a section is of several days"),
        (lambda p: p.deepprofile.plot.map(), "a map is of one day and depth on y and x, and this has time"),
        (lambda p: p.isel(y=0, x=0).deepprofile.plot.map(), "a map is of one day"),
    ],
)
def test_what_cannot_be_drawn_is_said(opened, asked, said):
    with pytest.raises(ValueError, match=said):
        asked(opened)


def test_inputs_of_another_day_are_said(place, finished):
    inputs = dp.open_store(finished.root, "inputs").isel(time=slice(0, 3))
    with pytest.raises(ValueError, match="the inputs do not have this place and day"):
        place.isel(time=20).deepprofile.plot.profile(inputs=inputs)
