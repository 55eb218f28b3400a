"""Recipe: SMAP L3 radiometer soil moisture (SPL3SMP_E), daily on 9 km, to daily means in one Zarr store.

Run it with any Beam runner, or the same thing on a Dask cluster with ``deepprofile ingest``: the stores are equal to the byte.
"""

from pathlib import Path

import apache_beam as beam
from deepprofile.config import load
from deepprofile.stages import ingest
from deepprofile.stages.recipe import daily_means, granule_pattern
from deepprofile.storage.roots import Root

config = load(Path(__file__).with_name("deepprofile.yaml"))
plan = ingest.plan(ingest.ProductIngest.of(config, "smap_l3"), Root(config.root))
pattern = granule_pattern(plan)
recipe = beam.Create(list(pattern.items())) | daily_means(plan)
