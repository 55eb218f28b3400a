"""A Dask cluster on this machine as a pool of the block engine."""

from __future__ import annotations

import logging
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import dask
from distributed import Client, LocalCluster

from deepprofile.config import Compute
from deepprofile.execution.pools import DaskPool

# Linear algebra on one thread: the same bytes on any number of cores, and blocks are parallel already.
ONE_THREAD: Final = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

# The module that sets up the logs of a process; workers that are processes of their own load it when they start.
LOGS: Final = "deepprofile.app.logs"


@contextmanager
def local_pool(compute: Compute) -> Iterator[DaskPool]:
    """A Dask cluster on this machine, gone when the block ends."""
    scratch = tempfile.mkdtemp(prefix="deepprofile-")
    settings = {
        "distributed.worker.daemon": True,
        "distributed.admin.tick.limit": "60s",
        # A worker that ran out of memory is started again; what it held is repeated by the engine.
        "distributed.scheduler.allowed-failures": 2,
        "distributed.nanny.pre-spawn-environ": ONE_THREAD,
        "temporary-directory": scratch,
    }
    try:
        with dask.config.set(settings), ignore_sigint_in_children():
            cluster = LocalCluster(
                n_workers=compute.workers,
                threads_per_worker=compute.threads,
                processes=compute.processes,
                memory_limit=int(compute.memory_limit),
                host="127.0.0.1" if compute.processes else None,
                # Any free port, and of this machine alone.
                dashboard_address="127.0.0.1:0",
                worker_dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,
                # What a process of its own writes is without secrets, and JSON where that is asked for.
                **({"preload": [LOGS]} if compute.processes else {}),
            )
        try:
            with Client(cluster, set_as_default=False) as client:
                yield DaskPool(client, compute.workers * compute.threads)
        finally:
            cluster.close(timeout=5)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def ignore_sigint_in_children() -> Iterator[None]:
    """Processes that are started here ignore Ctrl-C: the driver alone decides how to end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
