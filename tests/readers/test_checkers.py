"""Checkers of CF-1.11, ACDD-1.3 and good manners: nothing is found but what is known, with its reason."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from deepprofile.stages import collocate, covariances, invert
from deepprofile.stages.profiles import Profiles
from deepprofile.stages.publish import schemas
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


def public_templates(config):
    profiles = Profiles.of(config)
    (year,) = profiles.domain.years
    products, none = profiles.model.comparison.products, np.zeros(year.length, bool)
    return {
        "profile": invert.template(profiles, year),
        "covariance": covariances.template(profiles),
        "inputs": schemas.inputs(year, none, 24, profiles.layout),
        "layers": schemas.layers(year, none, 24, products),
        "climatology": schemas.climatology(profiles.domain, ["2015", "2016"], products),
        "weights": collocate.weights_template(profiles.model),
    }


@pytest.mark.parametrize("store", ["profile", "covariance", "inputs", "weights", "climatology"])
def test_stores_follow_cf_by_their_templates(finished, tmp_path, store):
    """Each store as a netCDF file without values."""
    path = tmp_path / f"{store}.nc"
    write_netcdf(path, public_templates(finished)[store], lambda _: iter(()))
    said = [each for each in findings(path, tmp_path) if each.startswith("§")]
    # What belongs to a cell lies together there: CF recommends rows and columns last.
    known = KNOWN | {r"§2\.4 Dimensions: covariance_factor's .*" for _ in range(store == "covariance")}
    assert [each for each in said if not any(re.fullmatch(one, each) for one in known)] == []


# Rules of xrlint that are no fault here, and why.
OFF = {
    # Bounds have no coordinate along their own dimension, nor units or names of their own (CF, section 7.1).
    "coords-for-dims": "off",
    "no-empty-attrs": "off",
    "var-desc": "off",
    "var-units": "off",
    # CF's default is UTC.
    "time-coordinate": "off",
    # JSON has lists, no arrays with a type.
    "var-flags": "off",
    # Coordinates have no missing values; flags and patterns have none either.
    "var-missing-data": "off",
}


@pytest.mark.parametrize("store", [*GRIDDED, "file"])
def test_stores_please_a_linter(published, store):
    import xrlint.all as xrl

    linter = xrl.new_linter("recommended", {"rules": OFF})
    if store == "file":
        opened = xr.open_dataset(published.file("2015-04"), engine="h5netcdf")
    else:
        url, level = published.url(store)
        opened = xr.open_zarr(url, group=level, chunks=None)
    with opened:
        result = linter.validate(opened)
    assert [f"{message.rule_id} {message.node_path}: {message.message}" for message in result.messages] == []
