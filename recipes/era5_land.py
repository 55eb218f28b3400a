"""Recipe: ERA5-Land from the Copernicus Climate Data Store, hourly on 0.1 degrees, to daily means in one Zarr store.

Run it with any Beam runner, or the same thing on a Dask cluster with ``deepprofile ingest``: the stores are equal to the byte.
"""

from pathlib import Path

import apache_beam as beam
from deepprofile.config import load
from deepprofile.stages import ingest
from deepprofile.stages.recipe import daily_means, granule_pattern
from deepprofile.storage.roots import Root

config = load(Path(__file__).with_name("deepprofile.yaml"))
plan = ingest.plan(ingest.ProductIngest.of(config, "era5_land"), Root(config.root))
pattern = granule_pattern(plan)
recipe = beam.Create(list(pattern.items())) | daily_means(plan)
