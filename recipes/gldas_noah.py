"""Recipe: GLDAS-2.1 Noah (GLDAS_NOAH025_3H), 3-hourly instants on 0.25 degrees, to daily means in one Zarr store.

Run it with any Beam runner, or the same thing on a Dask cluster with ``deepprofile ingest``: the stores are equal to the byte.
"""

from pathlib import Path

import apache_beam as beam
from deepprofile.config import load
from deepprofile.stages import ingest
from deepprofile.stages.recipe import daily_means, granule_pattern
from deepprofile.storage.roots import Root

config = load(Path(__file__).with_name("deepprofile.yaml"))
plan = ingest.plan(ingest.ProductIngest.of(config, "gldas_noah"), Root(config.root))
pattern = granule_pattern(plan)
recipe = beam.Create(list(pattern.items())) | daily_means(plan)
