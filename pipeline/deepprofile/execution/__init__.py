"""The block engine: blocks of work, the workers that do them, and the records of what was done.

Here belongs how work is repeated, resumed and recorded. What a block computes is said in ``stages``, and where workers come
from in ``cluster``.
"""

from deepprofile.execution.blocks import Block, Job, Outcome, Record, grid_blocks
from deepprofile.execution.engine import Progress, Retry, run_job
from deepprofile.execution.errors import JobFailedError
from deepprofile.execution.ledger import Ledger
from deepprofile.execution.pools import DaskPool, Pool, ThreadPool

__all__ = [
    "Block",
    "DaskPool",
    "Job",
    "JobFailedError",
    "Ledger",
    "Outcome",
    "Pool",
    "Progress",
    "Record",
    "Retry",
    "ThreadPool",
    "grid_blocks",
    "run_job",
]
