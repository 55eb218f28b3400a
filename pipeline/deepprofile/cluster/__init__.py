"""Workers: a Dask cluster, on this machine or on Kubernetes, as a pool of the block engine, and nothing else."""
