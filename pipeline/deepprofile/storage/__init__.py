"""Objects and Zarr stores, in a local folder, in a bucket or in memory, and one run at a time on a root.

Here belongs everything that talks to storage, repeats its requests and leaves out secrets. Nothing here knows of soil moisture.
"""

from deepprofile.storage.filesystems import filesystem, join, zarr_store
from deepprofile.storage.lease import Lease
from deepprofile.storage.objects import MissingPathError
from deepprofile.storage.retries import StorageUnavailableError, retry_budget
from deepprofile.storage.roots import Root
from deepprofile.storage.stores import StoreError, Template, Variable, read_region, write_shards

__all__ = [
    "Lease",
    "MissingPathError",
    "Root",
    "StorageUnavailableError",
    "StoreError",
    "Template",
    "Variable",
    "filesystem",
    "join",
    "read_region",
    "retry_budget",
    "write_shards",
    "zarr_store",
]
