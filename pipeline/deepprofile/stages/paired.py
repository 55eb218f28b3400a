"""Paired differences: the fused estimate beside every rival, scored at each sensor on the days that all three have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from deepprofile.config import Rival
from deepprofile.evaluation.metrics import COMPARED, METRICS, RESAMPLES, compare_arrays
from deepprofile.execution.blocks import Block, Job, Outcome, Workload, grid_blocks
from deepprofile.stages import matchups, observations, rivals, schemas
from deepprofile.stages.domain import Domain
from deepprofile.stages.matchups import SensorSeries, layers_at_depths
from deepprofile.stages.observations import Found, sensor_batches
from deepprofile.stages.plan import StagePlan, VersionPlan
from deepprofile.stages.schemas import SENSORS_PER_BLOCK, SENSORS_PER_CHUNK
from deepprofile.storage.filesystems import zarr_store
from deepprofile.storage.fingerprints import fingerprint
from deepprofile.storage.roots import Root, part_name
from deepprofile.storage.stores import read_region, write_shards

# The version of what turns daily series into paired differences.
ALGORITHM: Final = 1
STORE: Final = "comparison"


@dataclass(frozen=True)
class ComparisonBlock:
    """Compares the fused estimate with every rival at some sensors, a few at a time."""

    days: NDArray[np.datetime64]
    series: SensorSeries
    rivals: tuple[str, ...]
    url: str

    def __call__(self, block: Block, _: Any) -> Outcome:
        """See ``deepprofile.execution.blocks.Job``."""
        first, written = block.region[0][0], 0
        parts = [self._differences(*span) for span in sensor_batches(block)]
        found = np.concatenate([part for part, _ in parts], axis=1)
        written += write_shards(self.url, "n", (0, first), found[:, :, 0, 0])
        written += write_shards(self.url, "n_effective", (0, first), found[:, :, -1, :2].mean(axis=-1))
        for metric in COMPARED:
            of_metric = found[:, :, METRICS.index(metric)]
            for part, name in enumerate(("fused", "rival")):
                written += write_shards(self.url, f"{metric}_{name}", (0, first), of_metric[..., part])
            written += write_shards(self.url, f"{metric}_difference", (0, first, 0), of_metric[..., 2:])
        return Outcome(sum(read for _, read in parts), written)

    def _differences(self, first: int, after: int) -> tuple[NDArray[np.float64], int]:
        """Differences (rival, sensor, metric, part) of some sensors, and the bytes that were read; see ``compare_arrays``."""
        own, day = slice(first, after), np.arange(self.days.size)
        measured, fused = self.series.measured(first, after), self.series.fused(first, after)
        places = [read_region(self.url, name, (own,)).tolist() for name in ("depth_top", "depth_bottom")]
        read, parts = measured.nbytes + fused.nbytes, []
        for store in self.rivals:
            series, url = (
                self.series.of_store(store, "soil_moisture", (first, after), slice(None)),
                self.series.years[0].urls[store],
            )
            depths = (read_region(url, name, (slice(None),)).tolist() for name in ("layer_top", "layer_bottom"))
            layers = tuple(zip(*depths, strict=True))
            # A rival's store has the sensors themselves in place of cells.
            at_sensors = layers_at_depths(series, layers, np.arange(after - first), list(zip(*places, strict=True)))
            parts.append(compare_arrays(fused, at_sensors.T, measured, day))
            read += series.nbytes
        return np.stack(parts), read


def workload(days: int, compared: Sequence[Rival], count: int) -> Workload:
    """Blocks of sensors."""
    layers = max((len(rivals.reading_of(rival).layers) for rival in compared), default=0)
    return Workload(
        name="validate: comparison",
        blocks=grid_blocks((count,), (SENSORS_PER_BLOCK,)),
        # Of some sensors three series and the layers of a rival, as read and in the order of the sensors, and on common days;
        # where the blocks of the bootstrap begin.
        memory_per_block=SENSORS_PER_CHUNK * days * (3 + layers) * 4 * 10 + RESAMPLES * days * 8,
        bytes_in=count * days * (2 + layers * len(compared)) * 4,
        bytes_out=count * len(compared) * (2 + 5 * len(COMPARED)) * 8,
    )


def plan(domain: Domain, compared: Mapping[str, Rival], root: Root, versions: Mapping[str, str], found: Found) -> StagePlan:
    """Plan the paired differences of the sensors that ``observations.sensors_of`` has found."""
    made, count = schemas.comparison(domain, list(compared), found.stations), found.stations.sizes["sensor"]
    stores = (observations.STORE, matchups.STORE, *map(rivals.store_name, compared))
    names = [part_name(store, year.year) for store in stores for year in domain.years]
    inputs = {name: versions[name] for name in names}
    version = fingerprint("comparison", ALGORITHM, dict(made.attrs), made.shard_shape("n"), inputs)

    def mark(block: Block) -> str:
        return fingerprint("comparison", version, block.region)

    series, theirs = SensorSeries.of(domain, root, versions, found), tuple(map(rivals.store_name, compared))
    compute = ComparisonBlock(domain.days, series, theirs, root.version(STORE, version))
    listed = Job(workload(domain.length, list(compared.values()), count), compute, mark)
    made_by = VersionPlan(STORE, version, made, listed, compute.url, inputs | {"sensors": count})
    return StagePlan("validate/comparison", STORE, (made_by,))


def differences(url: str) -> xr.Dataset:
    """The paired differences of a store, as ``deepprofile.evaluation.metrics.summarise_differences`` takes them."""
    with xr.open_zarr(zarr_store(url), consolidated=False, chunks=None) as store:
        found = store.load()
    parts = {"n": found["n"], "n_effective": found["n_effective"]}
    for metric in COMPARED:
        parts[f"{metric}_estimate"], parts[f"{metric}_rival"] = found[f"{metric}_fused"], found[f"{metric}_rival"]
        for k, end in enumerate(("difference", "lower", "upper")):
            parts[f"{metric}_{end}"] = found[f"{metric}_difference"].isel(bound=k)
    return xr.Dataset(parts).assign_coords(
        rival=list(found.attrs["rivals"]),
        network=("sensor", np.array(found.attrs["networks"], str)),
        station=("sensor", np.array(found.attrs["stations"], str)),
        depth_top=found["depth_top"],
        depth_bottom=found["depth_bottom"],
    )
