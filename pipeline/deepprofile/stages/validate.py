"""Validate: estimates against what the stations have measured, scored over the whole record of each sensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr

from deepprofile.config import Config
from deepprofile.engine import Block, Job, Outcome, fingerprint, grid_blocks
from deepprofile.metrics import METRICS, RESAMPLES, score_all
from deepprofile.stages import matchups, observations
from deepprofile.stages.matchups import estimates_of
from deepprofile.stages.observations import SENSORS_PER_BLOCK, SENSORS_PER_CHUNK, Found, sensor_attributes, sensor_coordinates
from deepprofile.stages.stage import StagePlan, days_of
from deepprofile.stores import Root, Template, Variable, read_region, write_shards

# The version of what turns matchups into scores.
ALGORITHM: Final = 1
STORE: Final = "validation"


def template(config: Config, stations: xr.Dataset) -> Template:
    """The store before anything is computed."""
    names, count = estimates_of(config), stations.sizes["sensor"]
    variables = {
        metric: Variable(
            ("estimate", "sensor", "bound"),
            "float64",
            shards=(len(names), SENSORS_PER_BLOCK, 3),
            chunks=(len(names), SENSORS_PER_BLOCK, 3),
            fill=float("nan"),
            attrs={"units": "1" if metric in ("n", "r") else "m3 m-3", "long_name": f"{metric}: value, and its 95 % interval"},
        )
        for metric in METRICS
    }
    return Template(
        sizes={"estimate": len(names), "sensor": count, "bound": 3},
        variables=variables | sensor_coordinates(stations),
        attrs={
            **sensor_attributes(config, stations),
            "title": "Scores at stations",
            "estimates": names,
            "block_dims": ["sensor"],
        },
    )


@dataclass(frozen=True)
class ScoreBlock:
    """Scores the estimates at some sensors, a few at a time."""

    config: Config
    observations_url: str
    matchups_url: str
    url: str

    def __call__(self, block: Block, _: Any) -> Outcome:
        """See ``deepprofile.engine.Job``."""
        first, after = block.region[0]
        spans = [(start, min(start + SENSORS_PER_CHUNK, after)) for start in range(first, after, SENSORS_PER_CHUNK)]
        parts = [self._scores(*span) for span in spans]
        written = 0
        for metric in METRICS:
            values = np.concatenate([scores[metric] for scores, _ in parts], axis=1)
            written += write_shards(self.url, metric, (0, first, 0), values)
        return Outcome(sum(read for _, read in parts), written)

    def _scores(self, first: int, after: int) -> tuple[dict[str, Any], int]:
        """Every metric (estimate, sensor, bound) of some sensors, and the bytes that were read."""
        estimates = matchups.estimates(self.matchups_url, slice(first, after), self.config)
        measured = read_region(self.observations_url, "soil_moisture", (slice(None), slice(first, after))).T
        times = pd.DatetimeIndex(days_of(self.config))
        scores = score_all(estimates, xr.DataArray(measured, dims=("sensor", "time"), coords={"time": times}))
        found = {}
        for metric in METRICS:
            ends = (f"{metric}_lower", f"{metric}_upper") if metric != "n" else ("n", "n")
            parts = [scores[name].transpose("estimate", "sensor").values for name in (metric, *ends)]
            found[metric] = np.stack(parts, axis=-1).astype(np.float64)
        return found, measured.nbytes + sum(estimate.nbytes for estimate in estimates.values())


def job(config: Config, count: int, compute: Any = None, mark: Any = None) -> Job:
    """Blocks of sensors."""
    days, estimates = days_of(config).size, len(estimates_of(config))
    return Job(
        name="validate: scores",
        blocks=grid_blocks((count,), (SENSORS_PER_BLOCK,)),
        compute=compute,
        fingerprint=mark,
        # The series of every estimate, as read, in the order of the sensors, and on common days, with their masks: as much as
        # eight arrays of doubles. Where the blocks of the bootstrap begin, of which there are most where each is a day.
        memory_per_block=SENSORS_PER_CHUNK * days * (estimates + 1) * 8 * 8 + RESAMPLES * days * 8,
        bytes_in=count * days * (estimates + 1) * 4,
        bytes_out=count * estimates * len(METRICS) * 3 * 8,
    )


def jobs_of_some(config: Config) -> list[Job]:
    """All jobs for one block of sensors: how many sensors there are is not known before all stations are read."""
    count = SENSORS_PER_BLOCK
    made = (observations.job(config, count), matchups.job(config, count), job(config, count))
    return [replace(each, name=f"{each.name}, for every {count} sensors") for each in made]


def plan(config: Config, root: Root, versions: Mapping[str, str], found: Found) -> StagePlan:
    """Plan the scores of the sensors that ``observations.sensors_of`` has found."""
    made, count = template(config, found.stations), found.stations.sizes["sensor"]
    inputs = {name: versions[name] for name in (observations.STORE, matchups.STORE)}
    version = fingerprint("validate", ALGORITHM, dict(made.attrs), made.shard_shape("n"), inputs)

    def mark(block: Block) -> str:
        return fingerprint("validate", version, block.region)

    compute = ScoreBlock(
        config,
        root.version(observations.STORE, inputs[observations.STORE]),
        root.version(matchups.STORE, inputs[matchups.STORE]),
        root.version(STORE, version),
    )
    listed = job(config, count, compute, mark)
    return StagePlan("validate", STORE, version, made, listed, compute.url, inputs | {"sensors": count})
