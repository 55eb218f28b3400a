"""A twin as files: granules in the providers' formats, stations, and the configuration that reads them."""

from __future__ import annotations

import tempfile
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import yaml

from deepprofile import twin
from deepprofile.cluster.local import ignore_sigint_in_children
from deepprofile.storage.filesystems import filesystem, is_local, join, local_path
from deepprofile.twin.granules import region, write_granules, write_stations

SHAPE: Final = (24, 24)
SEED: Final = 42
PARENTS: Final = ("smap_l4", "gldas_noah", "era5_land")


def simulate(shape: tuple[int, int] = SHAPE, years: int = 1, seed: int = SEED) -> twin.World:
    """The world of the demo."""
    return twin.simulate(shape, years, seed=seed, stations=12)


def prepare(world: twin.World, folder: Path, *, processes: int = 2) -> Path:
    """Write the granules and stations of a world, and the configuration that reads them; returns the latter's path."""
    granules = folder / "granules"
    count = world.truth.sizes["time"]
    if not (granules / "complete").exists():
        parts = [slice(count * k // processes, count * (k + 1) // processes) for k in range(processes)]
        with ignore_sigint_in_children():
            pool = get_context("spawn").Pool(processes)
        with pool:
            pool.map(partial(write_granules, world, granules), parts)
        write_stations(world, granules)
        (granules / "complete").touch()
    grid = region(world)
    half_y, half_x = 0.5 * abs(grid.lat[1] - grid.lat[0]), 0.5 * abs(grid.lon[1] - grid.lon[0])
    box = (grid.lon[0] - half_x, grid.lat[-1] - half_y, grid.lon[-1] + half_x, grid.lat[0] + half_y)
    days = world.truth.get_index("time")
    document = {
        "root": "stores",
        "grid": {"name": "ease2_m09", "bbox": [round(float(v), 4) for v in box]},
        "period": {"start": f"{days[0]:%Y-%m-%d}", "end": f"{days[-1]:%Y-%m-%d}"},
        "products": {name: {"granules": f"granules/{name}"} for name in (*PARENTS, "smap_l3")},
        "stations": [{"kind": "ismn", "path": "granules/ismn"}],
        "blocks": {"days": 64, "cells": 32},
    }
    path = folder / "deepprofile.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def write_twin(url: str, shape: tuple[int, int], days: int, seed: int) -> str:
    """A twin's granules, stations and configuration in a folder or below a URL; returns the URL of the configuration."""
    world = twin.simulate(shape, days / 365.0 + 0.01, seed=seed, stations=8).first_days(days)
    with tempfile.TemporaryDirectory(prefix="deepprofile-twin-") as scratch:
        folder = local_path(url) if is_local(url) else scratch
        path = prepare(world, Path(folder), processes=1)
        if is_local(url):
            return str(path)
        fs, base = filesystem(url)
        fs.put(scratch.rstrip("/") + "/", base.rstrip("/") + "/", recursive=True)
    return join(url, path.name)
