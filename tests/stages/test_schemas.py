"""What the stores look like, array by array: a change of a structure is a change of a file here, and shows in a diff.

``python -m tests.stages.test_schemas`` writes the files anew.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from deepprofile.config import Config
from deepprofile.evaluation.stations import Report
from deepprofile.stages import collocate, covariances, ingest, invert, matchups, observations, rivals, schemas
from deepprofile.stages.domain import Domain
from deepprofile.stages.profiles import Profiles
from deepprofile.stages.publish import maps
from deepprofile.stages.publish import schemas as publish_schemas

FOLDER = Path(__file__).with_name("schemas")
PRODUCTS = ("smap_l4", "gldas_noah", "era5_land", "smap_l3")
CONFIG = {
    "root": "stores",
    "grid": {"name": "ease2_m09", "bbox": [10.0, 45.0, 11.0, 45.5]},
    "period": {"start": "2020-01-01", "end": "2020-03-31"},
    "products": {name: {"granules": "granules"} for name in PRODUCTS},
    "stations": [{"kind": "ismn", "path": "stations"}],
    "rivals": {"other": {"path": "rival.nc", "variables": {"surface": [0.0, 0.1], "root_zone": [0.1, 1.0]}}},
    "ingest": {"days": 8, "cells": 16, "chunk_cells": 8},
    "blocks": {"days": 32, "cells": 16, "chunk_days": 16, "chunk_cells": 8},
}


def stations(domain):
    """Two sensors of one station."""
    numbers = {
        "depth_top": [0.05, 0.5],
        "depth_bottom": [0.05, 0.5],
        "latitude": [domain.grid.lat[0]] * 2,
        "longitude": [domain.grid.lon[0]] * 2,
        "day_offset_hours": [0.0, 0.0],
    }
    names = ("network", "station", "instrument", "climate", "land_cover")
    arrays = {name: ("sensor", np.array(values)) for name, values in numbers.items()}
    arrays |= {name: ("sensor", np.array([name.upper()] * 2)) for name in names}
    arrays["soil_moisture"] = (("sensor", "time"), np.full((2, domain.length), 0.2, np.float32))
    dataset = xr.Dataset(arrays, coords={"time": domain.days.astype("datetime64[ns]")})
    return observations.Found(observations.placed(dataset, domain.grid), Report()).stations


def templates():
    """The template of every store, by name."""
    config = Config.model_validate(CONFIG)
    domain, model, profiles = Domain.of(config), collocate.ErrorModel.of(config), Profiles.of(config)
    task, sensors = matchups.Matchups.of(config), stations(domain)
    return {
        **{f"ard_{name}": ingest.template(ingest.ProductIngest.of(config, name)) for name in PRODUCTS},
        "moments": schemas.moments(domain, len(model.comparison.design()[1].groups)),
        "weights": collocate.weights_template(model),
        "bounds": schemas.bounds(domain),
        "covariance": covariances.template(profiles),
        "profile": invert.template(profiles, domain),
        "observations": schemas.observations(domain, sensors),
        "matchups": matchups.template(task, domain, sensors),
        "differences": schemas.differences(domain.grid, sensors),
        "validation": schemas.validation(domain, task.estimates.names, sensors),
        "rival": rivals.template(rivals.RivalSettings.of(config, "other"), sensors),
        "comparison": schemas.comparison(domain, list(config.rivals), sensors),
        "layers": publish_schemas.layers(domain, np.zeros(domain.length, bool), 32, PRODUCTS),
        "inputs": publish_schemas.inputs(domain, np.zeros(domain.length, bool), 32, profiles.layout),
        "climatology": publish_schemas.climatology(domain, ["2015", "2016"], PRODUCTS),
        "map": maps.template(profiles, domain),
    }


def described(template):
    """A template as JSON: of coordinates, which hold values, only the ends."""

    def variable(one):
        found = {"dims": one.dims, "dtype": one.stored_dtype, "attrs": one.stored_attributes}
        if one.values is not None:
            flat = np.asarray(one.values).ravel()
            return found | {"shape": np.shape(one.values), "ends": [flat[0], flat[-1]] if flat.size else []}
        return found | {"shards": one.shards, "chunks": one.chunks, "fill": str(one.stored_fill)}

    document = {
        "sizes": template.sizes,
        "groups": template.groups,
        "attributes": template.attrs,
        "description": template.description,
        "variables": {name: variable(one) for name, one in template.variables.items()},
    }
    return json.dumps(
        document, indent=1, sort_keys=True, default=lambda value: value.item() if hasattr(value, "item") else list(value)
    )


def test_each_store_has_its_file():
    assert {path.stem for path in FOLDER.glob("*.json")} == templates().keys()


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.json")))
def test_stores_are_as_their_files_say(name):
    assert described(templates()[name]).splitlines() == (FOLDER / f"{name}.json").read_text().splitlines()


def main():
    FOLDER.mkdir(exist_ok=True)
    for name, template in templates().items():
        (FOLDER / f"{name}.json").write_text(described(template) + "\n")


if __name__ == "__main__":
    sys.exit(main())
