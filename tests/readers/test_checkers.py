"""Checkers of CF-1.11, ACDD-1.3 and good manners: nothing is found but what is known, with its reason."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import deepprofile as dp
import numpy as np
import pytest
import xarray as xr
import xrlint.all as xrl
from deepprofile.stages import collocate, covariances, invert, observations, schemas
from deepprofile.stages.matchups import Estimates
from deepprofile.stages.profiles import Profiles
from deepprofile.stages.publish import maps
from deepprofile.stages.publish import schemas as publish_schemas
from deepprofile.stages.publish.netcdf import write_netcdf

from tests.readers.conftest import GRIDDED

# What the checker says, and why it is let pass.
KNOWN = {
    # It takes the text "longitude_of_central_meridian" for a list of names, and misses each of its letters.
    r"§5\.6 .*: \w is a required attribute for grid mapping lambert_cylindrical_equal_area",
    # No store and no file says when it was made: the same inputs give the same bytes. Releases have a date.
    r"date_created_is_iso: Attr date_created is not present",
    # The extent is that of the layers, not of their middles; and no code is registered for depth below ground.
    r"geospatial_vertical_extents_match: geospatial_vertical_m(in|ax) != .*|Global .*: geospatial_bounds_vertical_crs not .*",
}


def findings(path, tmp_path):
    """Every message of the checker, in a process of its own: its netCDF library and ours do not get along in one."""
    out = tmp_path / "findings.json"
    command = [Path(sys.executable).with_name("compliance-checker"), "-t", "cf:1.11", "-t", "acdd:1.3", "-f", "json"]
    run = subprocess.run([*command, "-o", str(out), str(path)], capture_output=True, text=True, timeout=300)
    assert out.exists(), run.stdout + run.stderr
    found = json.loads(out.read_text())
    assert found.keys() == {"cf:1.11", "acdd:1.3"}
    return [
        f"{entry['name']}: {message}"
        for of_suite in found.values()
        for priority in ("high_priorities", "medium_priorities", "low_priorities")
        for entry in of_suite[priority]
        for message in entry["msgs"]
    ]


def test_the_file_of_a_month_is_clean(published, tmp_path):
    found = findings(published.file("2015-04"), tmp_path)
    unknown = [said for said in found if not any(re.fullmatch(known, said) for known in KNOWN)]
    assert unknown == []
    # What is known is still so: a checker that has been mended lets a line here go.
    for known in KNOWN:
        assert any(re.fullmatch(known, said) for said in found), known


def level_of(template, name):
    """A level of a map as a store of its own."""
    inside = f"{name}/"
    sizes = {key: size for key, size in template.sizes.items() if "/" not in key or key.startswith(inside)}
    return replace(
        template,
        sizes={key.removeprefix(inside): size for key, size in sizes.items()},
        variables={key.removeprefix(inside): one for key, one in template.variables.items() if key.startswith(inside)},
        attrs=template.groups[name],
        groups={},
    )


def public_templates(config):
    """Of each store that strangers read, but for layers, of which there are files."""
    profiles = Profiles.of(config)
    (year,) = profiles.domain.years
    products, none = profiles.model.comparison.products, np.zeros(year.length, bool)
    sensors = observations.sensors_of(config.stations, profiles.domain).stations
    return {
        "profile": invert.template(profiles, year),
        "covariance": covariances.template(profiles),
        "weights": collocate.weights_template(profiles.model),
        "inputs": publish_schemas.inputs(year, none, 24, profiles.layout),
        "climatology": publish_schemas.climatology(profiles.domain, ["2015", "2016"], products),
        "map": level_of(maps.template(profiles, year), "9km"),
        "validation": schemas.validation(profiles.domain, Estimates.of(profiles.model.products).names, sensors),
        "comparison": schemas.comparison(profiles.domain, ["other"], sensors),
    }


# The table of standard names has none for them.
NAMELESS = (
    "coefficients|covariance_factor|percentile|pattern|day_of_year|layer_top|layer_bottom|depth_top|depth_bottom|row|column",
    "product_index|observation_product|observed|entry_row|entry_column|day_offset_hours|prior_mean|lower_bound|upper_bound",
    "error_variance|bias_variance|mean|reference_mean|variance|fmse|r_squared|n_samples",
    r"(n|n_effective|r|bias|rmse|ubrmse)(_fused|_rival|_difference)?|coverage|representativeness_(constant|varying)",
)
# Numbers of something, and whether something is so, have no unit.
UNITLESS = "pattern|day_of_year|product_index|observation_product|observed|entry_row|entry_column|row|column"
COORDINATES = "layer_top|layer_bottom|depth_top|depth_bottom|latitude|longitude|day_offset_hours|day_of_year"
# What it says of stores besides, and why that is let pass. Nobody but this test makes files of them.
OF_STORES = {
    rf'variable "({"|".join(NAMELESS)})" missing the following attributes:: standard_name',
    rf'variable "({UNITLESS})" missing the following attributes:: units',
    # Of a kind of content there is nothing to be said of places and numbers.
    rf'variable "({COORDINATES}|{UNITLESS})" missing the following attributes:: coverage_content_type',
    # Chunks hold what is read together: all degrees of a day of a map, all factors of a cell. CF recommends, and does not ask.
    r"§2\.4 Dimensions: (coefficients|covariance_factor)'s .*",
    # Since version 1.9 CF packs unsigned integers, too; it is bytes of them that maps have.
    r"§8\.1 Packed Data: Variable is not of type byte, short, or int as required for different type add_offset/scale_factor\.",
    # Stores without time say which years they are of, where they are of any.
    r"Global Attributes: time_coverage_(start|end|duration|resolution) not present",
    # Profiles are polynomials in depth.
    r"geospatial_vertical_extents_match: Could not find vertical variable .*",
}


@pytest.fixture(scope="module")
def templates(published):
    return public_templates(published.config)


@pytest.mark.parametrize(
    "store", ["profile", "covariance", "weights", "inputs", "climatology", "map", "validation", "comparison"]
)
def test_stores_are_clean_by_their_templates(templates, tmp_path, store):
    """Each store as a netCDF file without values."""
    path = tmp_path / f"{store}.nc"
    write_netcdf(path, templates[store], lambda _: iter(()))
    said = findings(path, tmp_path)
    assert [each for each in said if not any(re.fullmatch(known, each) for known in KNOWN | OF_STORES)] == []
    assert bool([each for each in said if "time_coverage" in each]) == ("time" not in templates[store].sizes)


@pytest.mark.parametrize("of", ["cells", "places", "mean"])
def test_what_users_write_is_clean(published, tmp_path, of):
    profile = dp.open_profile(str(published.folder)).isel(time=slice(0, 5))
    lat, lon = float(profile.lat[2]), float(profile.lon[3])
    asked = {
        "cells": lambda view: view.box(lon - 0.3, lat - 0.3, lon + 0.3, lat + 0.3),
        "places": lambda view: view.point([lat, lat], [lon, lon + 0.2]),
        "mean": lambda view: view.area_mean(),
    }[of](profile.deepprofile)
    path = tmp_path / "of.nc"
    asked.deepprofile.to_netcdf(path, [(0.0, 0.1), (0.0, 1.0)], [0.4])
    # A selection does not say of the area of the whole what is no more true of it.
    let_pass = KNOWN | {
        r"Global Attributes: (geospatial_bounds|geospatial_bounds_crs|time_coverage_(duration|resolution)) not present",
        # The mean of an area lies nowhere.
        r"geospatial_(lat|lon)_extents_match: Could not find .*" if of == "mean" else "",
    }
    assert [said for said in findings(path, tmp_path) if not any(re.fullmatch(known, said) for known in let_pass)] == []


def test_the_checker_finds_what_is_wrong(templates, tmp_path):
    made = templates["inputs"]
    moisture, y = made.variables["soil_moisture"], made.variables["y"]
    wrong = {
        "soil_moisture": replace(moisture, attrs={**moisture.attrs, "standard_name": "soil_moisture", "units": "kg"}),
        "y": replace(y, attrs={key: value for key, value in y.attrs.items() if key != "units"}),
    }
    said = {key: value for key, value in made.description.items() if key not in ("license", "creator_name")}
    path = tmp_path / "wrong.nc"
    write_netcdf(path, replace(made, variables={**made.variables, **wrong}, description=said), lambda _: iter(()))
    found = [each for each in findings(path, tmp_path) if not any(re.fullmatch(known, each) for known in KNOWN | OF_STORES)]
    for part in ("soil_moisture", "license not present", "creator_name not present", "units attribute is required for y"):
        assert any(part in each for each in found), part


# What xrlint finds, and why it is let pass.
LINT = {
    # Bounds have the units and the name of what they bound (CF, section 7.1).
    r"(no-empty-attrs|time-coordinate|var-units) \S*_bnds\S*: .*",
    # Without a time zone it is UTC (CF, section 4.4).
    r"time-coordinate \S*\['time'\]: Missing timezone in encoding 'units': .*",
    # Along these lies what is counted: degrees, observations with their layers, sets of observations, entries of a matrix,
    # sensors, and what attributes name.
    r"coords-for-dims ds: Data variable dimensions? without coordinates: (degree|observation|availability, entry)\.",
    r"coords-for-dims ds: Data variable dimensions? without coordinates: bound, estimate, interval, sensor\.",
    # See UNITLESS; flags have none either.
    rf"var-units \S*\['({UNITLESS}|degree|flags|provisional|source|status)'\]: Missing attribute 'units'\.",
    # See NAMELESS. Each has a long name.
    rf"var-desc \S*\['({'|'.join(NAMELESS)}|status)'\]: Missing attribute 'standard_name'\.",
    # Where a number of floating point is missing it is NaN; JSON has no word for that.
    r"var-missing-data .*: Missing attribute '_FillValue', which should be NaN\.",
}


def linted(opened):
    """Messages of the rules that xrlint recommends."""
    found = xrl.new_linter("recommended").validate(opened).messages
    return [f"{message.rule_id} {message.node_path}: {message.message}" for message in found]


@pytest.mark.parametrize("store", [*GRIDDED, "validation", "file"])
def test_stores_please_a_linter(published, store):
    if store == "file":
        opened = xr.open_dataset(published.file("2015-04"), engine="h5netcdf")
        # The linter knows lists of flags, and no arrays of them, which netCDF has.
        for each in opened.variables.values():
            each.attrs |= {key: np.asarray(value).tolist() for key, value in each.attrs.items() if key.startswith("flag_v")}
    else:
        url, level = published.url(store)
        opened = xr.open_zarr(url, group=level, chunks=None)
    with opened:
        found = linted(opened)
    assert [said for said in found if not any(re.fullmatch(known, said) for known in LINT)] == []


def test_the_linter_finds_what_is_wrong(published):
    opened = xr.open_zarr(published.url("layers")[0], chunks=None)
    del opened["soil_moisture"].attrs["units"], opened["lat"].attrs["standard_name"], opened.attrs["title"]
    found = [said.split()[0] for said in linted(opened) if not any(re.fullmatch(known, said) for known in LINT)]
    assert {"var-units", "lat-coordinate", "content-desc"} <= set(found)
