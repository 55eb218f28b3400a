"""Maps of the globe: bytes of a day at each level of detail, and what it costs to make one.

    python -m benchmarks.maps

The profiles are made of a real day of GLDAS Noah on all land (four layers, on the 9 km grid, by the prior of the inversion),
since how well a map compresses depends on how real soils differ from place to place.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
from deepprofile.config import Config
from deepprofile.core.prior import Prior, prior_moments
from deepprofile.execution.blocks import Block
from deepprofile.grids import GLDAS_025, regrid
from deepprofile.grids.regridding import overlaps
from deepprofile.stages import invert
from deepprofile.stages.increments import BlockInputs
from deepprofile.stages.profiles import Profiles
from deepprofile.stages.publish import layers, maps, schemas
from deepprofile.storage.objects import listing
from deepprofile.storage.roots import Root, part_name
from deepprofile.storage.stores import create, write_shards
from numpy.typing import NDArray

from benchmarks.profiles import sample_data
from benchmarks.results import Measurement, timed

GRANULE = "gldas/GLDAS_NOAH025_3H.A20150101.0000.021.nc4"
LAYERS = {"SoilMoi0_10cm_inst": (0.0, 0.1), "SoilMoi10_40cm_inst": (0.1, 0.4), "SoilMoi40_100cm_inst": (0.4, 1.0)}
# Error variance of a layer, m6 m-6.
ERROR = 0.02**2
DAY = "2015-01-01"


def configured(folder: Path) -> Config:
    """One day of the globe."""
    products = {name: {"granules": str(folder)} for name in ("smap_l4", "gldas_noah", "era5_land", "smap_l3")}
    return Config.model_validate(
        {
            "root": str(folder / "root"),
            "period": {"start": DAY, "end": DAY},
            "products": products,
            "blocks": {"days": 1},
        }
    )


def coefficients_of(path: Path, config: Config, degrees: int) -> NDArray[np.float32]:
    """Profiles (degree, row, column) of the globe."""
    target = config.grid.grid()
    y, x = overlaps(GLDAS_025, target)
    observed = []
    with h5py.File(path) as file:
        for name, (top, bottom) in LAYERS.items():
            values = np.asarray(file[name][0], np.float32)
            values[values < 0.0] = np.nan
            observed.append(regrid(values / np.float32(1000.0 * (bottom - top)), y, x))
    found = np.stack(observed)
    top, bottom = np.array(list(LAYERS.values())).T
    moments = prior_moments(Prior().kernel, top, bottom, degrees - 1).scaled(Prior().std ** 2)
    gain = moments.cross_covariance @ np.linalg.inv(moments.layer_covariance + ERROR * np.eye(len(LAYERS)))
    level = np.einsum("l,lyx->yx", bottom - top, found)
    profiles = np.einsum("kl,lyx->kyx", gain, found - level)
    profiles[0] += level
    return np.asarray(profiles, np.float32)


def fill(config: Config, path: Path) -> tuple[Root, Profiles, dict[str, str]]:
    """Profiles and layers of the day."""
    root, profiles = Root(config.root), Profiles.of(config)
    (year,) = profiles.domain.years
    versions = {part_name(invert.STORE, year.year): "made", part_name(layers.STORE, year.year): "made", "covariance": "made"}
    values = coefficients_of(path, config, profiles.degrees)
    there = np.isfinite(values[0])
    url = root.version(part_name(invert.STORE, year.year), "made")
    create(url, invert.template(profiles, year))
    write_shards(url, "coefficients", (0, 0, 0, 0), values[:, None])
    write_shards(url, "flags", (0, 0, 0), np.where(there, 0xF << 8, 0).astype(np.uint16)[None])
    layered = root.version(part_name(layers.STORE, year.year), "made")
    create(layered, schemas.layers(year, np.zeros(1, bool), 1, profiles.model.comparison.products))
    # As smooth from cell to cell as the weights are.
    deviation = np.where(there, 0.03 + 0.1 * np.abs(values[0] - 0.25), np.nan).astype(np.float32)
    write_shards(layered, "root_zone_standard_deviation", (0, 0, 0), deviation[None])
    return root, profiles, versions


def measure() -> dict[str, Measurement]:
    """Bytes of each level, and seconds of a day."""
    found = Measurement("maps of a real day of the globe", ["cell", "coefficients (MB)", "with planes (MB)", "objects"])
    folder = Path(tempfile.mkdtemp(prefix="deepprofile-maps-"))
    try:
        config = configured(folder)
        root, profiles, versions = fill(config, sample_data() / GRANULE)
        plan = maps.plan(profiles, root, versions).versions[0]
        create(plan.url, plan.template)
        block = Block((0,), ((0, 1),), plan.part)
        # What is compiled is compiled before.
        plan.job.compute(block, BlockInputs())
        took = timed(lambda: plan.job.compute(block, BlockInputs()))
        for level in maps.levels_of(profiles.domain.grid):
            sizes = {
                array: [int(e["size"]) for e in listing(f"{plan.url}/{level}/{array}") if "/c." in str(e["url"])]
                for array in ("coefficients", *maps.PLANES)
            }
            own, every = sum(sizes["coefficients"]), sum(map(sum, sizes.values()))
            found.add(level, f"{own / 1e6:.2f}", f"{every / 1e6:.2f}", sum(map(len, sizes.values())))
        found.note = f"The day takes {took} s (CPU / clock) on one core."
    finally:
        shutil.rmtree(folder)
    return {"maps": found}


def main() -> int:
    """Print and keep the table."""
    from benchmarks import results

    found = measure()
    for measurement in found.values():
        measurement.show()
    results.keep(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
