"""What a small run makes of the twin, step by step: samples of the decoded values of every store, with the versions of the
algorithms that made them.

``python -m tests.stages.reference`` writes them anew. It refuses where the values of a step have changed and the version of its
algorithm has not: stores of the same version hold the same values, whoever computes them.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import xarray as xr
import yaml
from deepprofile import config as configuration
from deepprofile import twin
from deepprofile.execution.pools import ThreadPool
from deepprofile.sources.products import PRODUCTS
from deepprofile.stages import collocate, covariances, ingest, invert, matchups, observations, validate
from deepprofile.stages.pipeline import STAGES, run_stages
from deepprofile.stages.publish import inputs, layers, maps
from deepprofile.storage.filesystems import zarr_store
from deepprofile.twin.granules import write_granules, write_stations

from tests.support.granules import DAYS, NAMES, SHAPE, document, url_of

FILE = Path(__file__).with_name("reference.npz")
SAMPLE = 600
# How far another processor may be off: two steps of soil moisture as it is stored, and a little of what is not rounded.
STEPS, RELATIVE, RARE = 2 * 2.0**-14, 2e-3, 0.005
# In the order in which they are made: the first that differs is to blame.
STORES = (
    *map(ingest.store_name, NAMES),
    *(collocate.MOMENTS_STORE, collocate.STORE, covariances.STORE, invert.STORE, inputs.STORE, layers.STORE, maps.STORE),
    *(observations.STORE, matchups.STORE, validate.DIFFERENCES_STORE, validate.STORE),
)
# Groups of a store that are looked at, where it has any.
LEVELS = {maps.STORE: ("9km", "36km")}
# What is no result.
PLACES = ("time_bnds", "spatial_ref", "lat", "lon")


def algorithms():
    """The version of every step's algorithm, in the order of the stores."""
    return {
        **{ingest.store_name(name): [ingest.ALGORITHM, PRODUCTS[name].algorithm] for name in NAMES},
        collocate.MOMENTS_STORE: [collocate.MOMENTS_ALGORITHM],
        collocate.STORE: [collocate.WEIGHTS_ALGORITHM],
        covariances.STORE: [covariances.ALGORITHM],
        invert.STORE: [invert.ALGORITHM],
        inputs.STORE: [inputs.ALGORITHM],
        layers.STORE: [layers.ALGORITHM],
        maps.STORE: [maps.ALGORITHM],
        observations.STORE: [observations.ALGORITHM],
        matchups.STORE: [matchups.ALGORITHM],
        validate.DIFFERENCES_STORE: [validate.DIFFERENCES_ALGORITHM],
        validate.STORE: [validate.ALGORITHM],
    }


def sampled(values):
    """Values at even distances."""
    flat = np.asarray(values).ravel()
    return flat[np.linspace(0, flat.size - 1, min(flat.size, SAMPLE)).astype(int)]


def samples(world, root):
    """By store and array: of the twin itself first, then of all that was made of it."""
    found = {"twin/truth": sampled(world.truth.values[:DAYS]).astype(np.float32)}
    for name, series in world.products.items():
        found[f"twin/{name}"] = sampled(series.values[:DAYS]).astype(np.float32)
    for store in STORES:
        for level in LEVELS.get(store, ("",)):
            with xr.open_zarr(zarr_store(url_of(root, store)), group=level, consolidated=False, chunks=None) as opened:
                for name in sorted(set(opened.data_vars) - set(PLACES)):
                    values = sampled(opened[name].values)
                    key = f"{store}/{level}{name}"
                    found[key] = values.astype(np.float32) if values.dtype.kind == "f" else values
    return found


def differ(old, new):
    """Whether two samples differ by more than another processor explains."""
    if old.shape != new.shape or old.dtype != new.dtype:
        return True
    if old.dtype.kind != "f":
        return bool(np.mean(old != new) > RARE)
    off = np.abs(old - new) > STEPS * min(1.0, float(np.nanmax(np.abs(old), initial=0.0))) + RELATIVE * np.abs(old)
    return bool(np.mean(off | (np.isnan(old) != np.isnan(new))) > RARE)


def store_of(key):
    return key.rsplit("/", 1)[0]


def changed(old, new):
    """Names of the stores whose values differ, in their order; ``twin`` before them all."""
    keys = [key for key in {**old, **new} if key not in old or key not in new or differ(old[key], new[key])]
    return [store for store in ("twin", *STORES) if store in map(store_of, keys)]


def read():
    """The versions and samples that are kept."""
    with np.load(FILE) as kept:
        return json.loads(str(kept["algorithms"])), {key: kept[key] for key in kept.files if key != "algorithms"}


def complaint(world, root):
    """What is wrong with what is kept, as a sentence; None where nothing is."""
    versions, old = read()
    wrong, raised = changed(old, samples(world, root)), [store for store, v in algorithms().items() if versions.get(store) != v]
    if "twin" in wrong or (raised and all(STORES.index(store) >= STORES.index(raised[0]) for store in wrong)):
        return "write the reference anew: python -m tests.stages.reference"
    if wrong:
        return (
            f"the values of {wrong[0]} have changed: raise the ALGORITHM of the step that makes them, so that no store mixes "
            "both, then write the reference anew: python -m tests.stages.reference"
        )
    return "write the reference anew: python -m tests.stages.reference" if raised else None


def main():
    """Write what is kept anew."""
    world = twin.simulate(SHAPE, 0.5, seed=5, stations=6)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        write_granules(world, path, slice(0, DAYS))
        write_stations(world, path)
        (path / "deepprofile.yaml").write_text(yaml.safe_dump(document(world, path, path / "root"), sort_keys=False))
        config = configuration.load(path / "deepprofile.yaml")
        run_stages(config, STAGES, ThreadPool(2))
        said = complaint(world, config.root) if FILE.exists() else None
        if said is not None and "raise" in said:
            sys.exit(said)
        np.savez_compressed(FILE, algorithms=json.dumps(algorithms()), **samples(world, config.root))
    print(f"{FILE}: {FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
