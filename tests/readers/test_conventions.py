"""GeoZarr: the attributes by which GIS place a store, held against the published schemas."""

import json
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import zarr
from deepprofile.grids import EASE2_M09, regular
from deepprofile.stages.attributes import multiscale_attributes
from deepprofile.stages.publish.maps import levels_of
from jsonschema import Draft7Validator
from pyproj import CRS, Transformer
from referencing import Registry
from referencing.jsonschema import DRAFT7

from tests.readers.conftest import GRIDDED

# Conventions by the names of their schemas, with those that they have in attributes.
CONVENTIONS = {"geo-proj": "proj:", "spatial": "spatial", "multiscales": "multiscales"}
DEFAULT = Path(__file__).resolve().parents[3] / "shared" / "schemas"


@pytest.fixture(scope="module")
def validators():
    folder = Path(os.environ.get("DEEPPROFILE_SCHEMAS", DEFAULT))
    if not folder.exists():
        pytest.skip(f"the schemas are not at {folder}; set DEEPPROFILE_SCHEMAS to their folder")
    schemas = {name: json.loads((folder / f"zarr-convention-{name}.json").read_text()) for name in CONVENTIONS}
    # Of a coordinate system as JSON, which is not used here.
    stub = {"$id": "https://proj.org/schemas/v0.7/projjson.schema.json"}
    resources = [DRAFT7.create_resource(schema) for schema in (stub, *schemas.values())]
    registry = Registry().with_resources([(resource.id(), resource) for resource in resources])
    made = {name: Draft7Validator(schema, registry=registry) for name, schema in schemas.items()}
    # Draft 7 looks at nothing beside a reference, and two of the schemas name a convention's own description only there.
    for name, schema in schemas.items():
        made[f"{name} itself"] = Draft7Validator({"$ref": f"{schema['$id']}#/$defs/conventionMetadata"}, registry=registry)
    return made


def group(published, store):
    url, level = published.url(store)
    return zarr.open_group(url, path=level, mode="r")


def document(attributes):
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


@pytest.mark.parametrize("store", [*GRIDDED, "map"])
def test_stores_are_placed_by_the_conventions_of_geozarr(published, validators, store):
    opened = group(published, store)
    attributes = opened.attrs.asdict()
    named = {convention["name"]: convention for convention in attributes["zarr_conventions"]}
    wanted = [name for name in CONVENTIONS if name != "multiscales" or store == "map"]
    assert list(named) == [CONVENTIONS[name] for name in wanted]
    for name in wanted:
        validators[name].validate(document(attributes))
        validators[f"{name} itself"].validate(named[CONVENTIONS[name]])
    assert attributes["proj:code"] == "EPSG:6933"
    if store != "map":
        assert CRS(opened["spatial_ref"].attrs["crs_wkt"]).to_epsg() == 6933


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("geo-proj", {"proj:code": "epsg 6933"}),
        ("geo-proj", {"proj:code": None}),
        ("spatial", {"spatial:shape": [10, 0]}),
        ("spatial", {"spatial:dimensions": ["x"]}),
        ("spatial", {"spatial:registration": "centre"}),
        ("multiscales", {"multiscales": {"layout": [{"asset": "18km", "derived_from": "9km"}]}}),
        ("spatial itself", {"uuid": "another"}),
        ("geo-proj itself", {"version": "v1"}),
    ],
)
def test_schemas_refuse_what_is_wrong(published, validators, name, change):
    attributes = group(published, "map").attrs.asdict()
    if name.endswith("itself"):
        convention = CONVENTIONS[name.removesuffix(" itself")]
        right = next(each for each in attributes["zarr_conventions"] if each["name"] == convention)
        wrong = right | change
    else:
        right = document(attributes)
        wrong = document({key: value for key, value in (attributes | change).items() if value is not None})
    assert validators[name].is_valid(right)
    assert not validators[name].is_valid(wrong)


@pytest.mark.parametrize("store", GRIDDED)
def test_the_transform_leads_to_the_centres_of_the_cells(published, store):
    opened = group(published, store)
    dx, _, left, _, dy, top = opened.attrs["spatial:transform"]
    rows, columns = opened.attrs["spatial:shape"]
    np.testing.assert_allclose(opened["x"][:], left + (np.arange(columns) + 0.5) * dx)
    np.testing.assert_allclose(opened["y"][:], top + (np.arange(rows) + 0.5) * dy)
    assert opened.attrs["spatial:bbox"] == pytest.approx([left, top + rows * dy, left + columns * dx, top])
    assert (rows, columns) == (opened["y"].size, opened["x"].size)
    # The same places on the earth, by PROJ.
    lon, lat = Transformer.from_crs(opened.attrs["proj:code"], "EPSG:4326", always_xy=True).transform(
        opened["x"][:], np.full(columns, opened["y"][0])
    )
    np.testing.assert_allclose(opened["lon"][:], lon, atol=1e-9)
    np.testing.assert_allclose(opened["lat"][0], lat, atol=1e-9)


def lead_to_each_other(layout):
    """Whether corners of cells of each level lie where its transform from the finer level says."""
    assert "derived_from" not in layout[0]
    for finer, level in pairwise(layout):
        assert level["derived_from"] == finer["asset"]
        a, b = finer["spatial:transform"], level["spatial:transform"]
        (scale_y, scale_x), (shift_y, shift_x) = level["transform"]["scale"], level["transform"]["translation"]
        assert (scale_y, scale_x) == (2.0, 2.0)
        # The corner of a coarser cell, in cells of the finer level.
        assert (b[0], b[4]) == pytest.approx((scale_x * a[0], scale_y * a[4]))
        assert (b[2], b[5]) == pytest.approx((a[2] + shift_x * a[0], a[5] + shift_y * a[4]))


def test_levels_of_maps_lead_to_each_other(published):
    attributes = group(published, "map").attrs.asdict()
    layout = attributes["multiscales"]["layout"]
    assert [level["asset"] for level in layout] == attributes["levels"] == ["9km", "18km", "36km", "72km"]
    lead_to_each_other(layout)
    for level in layout:
        own = group(published, f"map/{level['asset']}").attrs
        for key in ("spatial:transform", "spatial:shape"):
            assert level[key] == own[key]
    assert attributes["spatial:transform"] == layout[0]["spatial:transform"]


@pytest.mark.parametrize("grid", [EASE2_M09.window(401, 1003, 30, 22), regular(0.25).window(137, 755, 49, 47)])
def test_levels_that_begin_within_a_coarser_cell_lead_to_each_other(validators, grid):
    attributes = multiscale_attributes(levels_of(grid))
    validators["multiscales"].validate(document(attributes))
    layout = attributes["multiscales"]["layout"]
    lead_to_each_other(layout)
    shifts = [level["transform"]["translation"] for level in layout[1:]]
    assert {shift for pair in shifts for shift in pair} == {0.0, -1.0}
    # In JSON a zero with a sign is another number.
    assert "-0.0" not in json.dumps(attributes)
