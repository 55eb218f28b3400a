"""What Prometheus can read of a driver."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, start_http_server

from deepprofile.execution.engine import Progress
from deepprofile.stages.plan import StagePlan

PORT: Final = "DEEPPROFILE_METRICS_PORT"
_STATES: Final = ("done", "skipped", "copied", "incomplete", "failed")


class Metrics:
    """Gauges and counters of the stages that a driver runs."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._registry = registry
        self.blocks = Gauge("deepprofile_blocks", "Blocks of the running stages.", ["stage", "state"], registry=registry)
        self.bytes = Counter("deepprofile_bytes", "Bytes read and written by blocks.", ["direction"], registry=registry)
        self.retries = Counter("deepprofile_retries", "Blocks that were repeated.", ["stage"], registry=registry)
        self.storage = Counter(
            "deepprofile_storage_retries", "Requests to object storage that were repeated.", ["stage"], registry=registry
        )
        self.losses = Counter("deepprofile_worker_losses", "Workers lost while they computed.", ["cause"], registry=registry)
        self.published = Gauge(
            "deepprofile_last_publication_timestamp_seconds", "When a run has last published.", registry=registry
        )

    def serve(self) -> None:
        """Open the endpoint, where the environment names its port."""
        port = os.environ.get(PORT)
        if port:
            start_http_server(int(port), registry=self._registry)

    def stage(self, plan: StagePlan) -> Callable[[Progress], None]:
        """Begin a stage; returns what is to be told of its progress."""
        seen = {"read": 0, "written": 0, "retried": 0, "storage": 0}
        lost: dict[str, int] = {}
        stage = plan.stage

        def update(progress: Progress) -> None:
            counts = {state: getattr(progress, state) for state in _STATES}
            for state, count in counts.items():
                self.blocks.labels(stage, state).set(count)
            self.blocks.labels(stage, "left").set(progress.blocks - progress.finished)
            for direction, total in (("read", progress.bytes_read), ("written", progress.bytes_written)):
                self.bytes.labels(direction).inc(total - seen[direction])
                seen[direction] = total
            self.retries.labels(stage).inc(progress.retried - seen["retried"])
            self.storage.labels(stage).inc(progress.storage_retries - seen["storage"])
            seen["retried"], seen["storage"] = progress.retried, progress.storage_retries
            for cause, total in progress.losses.items():
                self.losses.labels(cause).inc(total - lost.get(cause, 0))
                lost[cause] = total

        return update

    def publication(self, seconds: float | None = None) -> None:
        """A run has published; now, unless it is said when."""
        self.published.set(time.time() if seconds is None else seconds)
