"""A small twin's granules, and configurations that read them: fixtures of several folders."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from deepprofile import config as configuration
from deepprofile import twin
from deepprofile.execution.pools import ThreadPool
from deepprofile.stages.pipeline import STAGES, run_stages
from deepprofile.twin.granules import region, write_granules, write_stations

DAYS = 72
SHAPE = (10, 12)
NAMES = ("smap_l4", "gldas_noah", "era5_land", "smap_l3")


@pytest.fixture(scope="session")
def world():
    return twin.simulate(SHAPE, 0.5, seed=5, stations=6)


@pytest.fixture(scope="session")
def granules(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("granules")
    write_granules(world, folder, slice(0, DAYS))
    write_stations(world, folder)
    return folder


def document(world, granules: Path, folder: Path, **changes):
    """A configuration as YAML would hold it; changes are ``section__key=value``."""
    grid = region(world)
    half_y, half_x = 0.5 * abs(grid.lat[1] - grid.lat[0]), 0.5 * abs(grid.lon[1] - grid.lon[0])
    box = [grid.lon[0] - half_x, grid.lat[-1] - half_y, grid.lon[-1] + half_x, grid.lat[0] + half_y]
    made = {
        "root": str(folder),
        "grid": {"name": "ease2_m09", "bbox": [round(float(v), 4) for v in box]},
        "period": {"start": "2015-04-01", "end": "2015-06-11"},
        "products": {name: {"granules": str(granules / name)} for name in NAMES},
        "stations": [{"kind": "ismn", "path": str(granules / "ismn")}],
        "collocation": {"min_samples": 20, "window": 5},
        "ingest": {"days": 24, "cells": 8, "chunk_cells": 4},
        "blocks": {"days": 24, "cells": 8, "chunk_days": 8, "chunk_cells": 4},
        "compute": {"workers": 2},
    }
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            made.setdefault(section, {})[name] = value
        else:
            made[section] = value
    return made


@pytest.fixture
def configure(world, granules, tmp_path):
    """Makes a configuration with its own root, from a file as a user would."""

    def make(folder="root", **changes):
        path = tmp_path / f"{folder}.yaml"
        path.write_text(yaml.safe_dump(document(world, granules, tmp_path / folder, **changes), sort_keys=False))
        return configuration.load(path)

    return make


@pytest.fixture(scope="session")
def finished(world, granules, tmp_path_factory):
    """The configuration of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("finished")
    path = folder / "deepprofile.yaml"
    path.write_text(yaml.safe_dump(document(world, granules, folder / "root"), sort_keys=False))
    config = configuration.load(path)
    results = run_stages(config, STAGES, ThreadPool(2))
    assert not [problem for result in results for problem in result.problems]
    return config


def url_of(root: Any, store: str) -> str:
    """URL of what is published of a store that has no years, or a single one; ``root``: a URL, or a configuration."""
    from deepprofile.storage.roots import Root

    (url,) = Root(str(getattr(root, "root", root))).parts(store).values()
    return url


def current_versions(root: Any) -> dict[str, str]:
    """Versions of what is published, by store, each of which has no years, or a single one; ``root``: see ``url_of``."""
    from deepprofile.storage.roots import Root, store_of

    current = Root(str(getattr(root, "root", root))).current()
    found = {store_of(name): version for name, version in current.items()}
    assert len(found) == len(current)
    return found


def tree(root: str | Path) -> dict[str, bytes]:
    """Every object of the published stores of a root, by store and name, and every file."""
    from deepprofile.stages.publish.files import index
    from deepprofile.storage.filesystems import join
    from deepprofile.storage.objects import listing, read_bytes
    from deepprofile.storage.roots import Root

    found = {}
    for store, version in sorted(Root(str(root)).current().items()):
        base = Root(str(root)).version(store, version)
        for entry in listing(base):
            content = read_bytes(entry["url"])
            assert content is not None
            found[f"{store}/{entry['url'].split(base.split('://')[-1] + '/', 1)[1]}"] = content
    for month, file in index(Root(str(root))).items():
        content = read_bytes(join(Root(str(root)).public_url, file["path"]))
        assert content is not None
        found[f"files/{month}/{file['path']}"] = content
    return found


def difference(found: dict[str, bytes], expected: dict[str, bytes]) -> str:
    """Which objects of two trees differ; of files of the same month, in which arrays and attributes, and at which bytes."""
    said = [f"{name}: not there" for name in sorted(expected.keys() - found.keys())]
    said += [f"{name}: not expected" for name in sorted(found.keys() - expected.keys())]
    said += [f"{name}: other bytes" for name in sorted(found.keys() & expected.keys()) if found[name] != expected[name]]
    # The path of a file has the hash of its content.
    by_month = [
        {name.split("/")[1]: content for name, content in one.items() if name.endswith(".nc")} for one in (found, expected)
    ]
    for month in sorted(by_month[0].keys() & by_month[1].keys()):
        ours, theirs = (np.frombuffer(one[month], np.uint8) for one in by_month)
        if ours.size != theirs.size:
            said.append(f"{month}: {ours.size} bytes instead of {theirs.size}")
        elif (places := np.flatnonzero(ours != theirs)).size:
            said.append(f"{month}: {places.size} bytes differ, the first at {places[:8].tolist()}")
        with h5py.File(io.BytesIO(by_month[0][month])) as a, h5py.File(io.BytesIO(by_month[1][month])) as b:
            said += [f"{month}: the attribute {key} differs" for key in a.attrs if str(a.attrs[key]) != str(b.attrs.get(key))]
            for name in a:
                if not np.array_equal(a[name][...], b[name][...]):
                    said.append(f"{month}: {int((a[name][...] != b[name][...]).sum())} values of {name} differ")
                said += [
                    f"{month}: {name}: {key} differs"
                    for key in a[name].attrs
                    if str(a[name].attrs[key]) != str(b[name].attrs.get(key))
                ]
    return "\n".join(said)
