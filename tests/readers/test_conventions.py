"""GeoZarr: the attributes by which GIS place a store, held against the published schemas."""

import json
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import zarr
from jsonschema import Draft7Validator
from referencing import Registry
from referencing.jsonschema import DRAFT7

from tests.readers.conftest import GRIDDED

DEFAULT = Path(__file__).resolve().parents[3] / "shared" / "schemas"


@pytest.fixture(scope="module")
def validators():
    folder = Path(os.environ.get("DEEPPROFILE_SCHEMAS", DEFAULT))
    if not folder.exists():
        pytest.skip(f"the schemas are not at {folder}; set DEEPPROFILE_SCHEMAS to their folder")
    # Of a coordinate system as JSON, which is not used here.
    stub = DRAFT7.create_resource({"$id": "https://proj.org/schemas/v0.7/projjson.schema.json"})
    registry = Registry().with_resource(stub.id(), stub)
    names = ("geo-proj", "spatial", "multiscales")
    schemas = {name: json.loads((folder / f"zarr-convention-{name}.json").read_text()) for name in names}
    return {name: Draft7Validator(schema, registry=registry) for name, schema in schemas.items()}


def group(published, store):
    url, level = published.url(store)
    return zarr.open_group(url, path=level, mode="r")


def document(attributes):
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


@pytest.mark.parametrize("store", [*GRIDDED, "map"])
def test_stores_are_placed_by_the_conventions_of_geozarr(published, validators, store):
    attributes = group(published, store).attrs.asdict()
    for name in ("geo-proj", "spatial"):
        validators[name].validate(document(attributes))
    named = {convention["name"] for convention in attributes["zarr_conventions"]}
    assert named >= {"proj:", "spatial"}
    assert attributes["proj:code"] == "EPSG:6933"


@pytest.mark.parametrize("store", GRIDDED)
def test_the_transform_leads_to_the_centres_of_the_cells(published, store):
    opened = group(published, store)
    dx, _, left, _, dy, top = opened.attrs["spatial:transform"]
    rows, columns = opened.attrs["spatial:shape"]
    np.testing.assert_allclose(opened["x"][:], left + (np.arange(columns) + 0.5) * dx)
    np.testing.assert_allclose(opened["y"][:], top + (np.arange(rows) + 0.5) * dy)
    west, south, east, north = opened.attrs["spatial:bbox"]
    assert west < opened["x"][0] < east
    assert south < opened["y"][-1] < north


def test_levels_of_maps_lead_to_each_other(published, validators):
    opened = group(published, "map")
    attributes = opened.attrs.asdict()
    validators["multiscales"].validate(document(attributes))
    layout = attributes["multiscales"]["layout"]
    assert [level["asset"] for level in layout] == attributes["levels"] == ["9km", "18km", "36km", "72km"]
    for finer, level in pairwise(layout):
        assert level["derived_from"] == finer["asset"]
        a, b = finer["spatial:transform"], level["spatial:transform"]
        (scale_y, scale_x), (shift_y, shift_x) = level["transform"]["scale"], level["transform"]["translation"]
        # The corner of a coarser cell, in cells of the finer level.
        assert (b[0], b[4]) == pytest.approx((scale_x * a[0], scale_y * a[4]))
        assert (b[2], b[5]) == pytest.approx((a[2] + shift_x * a[0], a[5] + shift_y * a[4]))
