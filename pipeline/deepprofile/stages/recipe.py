"""Ingest as a Pangeo-Forge recipe: the same granules, the same function on a block, the same bytes, on any Beam runner.

Apache Beam is imported where it is used, so that everything else does without it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from pangeo_forge_recipes.patterns import ConcatDim, FilePattern

from deepprofile.execution.blocks import Block, Outcome
from deepprofile.stages.plan import StagePlan
from deepprofile.storage.objects import MissingPathError
from deepprofile.storage.stores import create


def granule_pattern(plan: StagePlan) -> FilePattern:
    """The granules of a planned ingest along ``time``: one item for each file, in the order of their days and names.

    Raises
    ------
    deepprofile.storage.objects.MissingPathError
        Where there is no granule of the configured period.
    """
    urls = list(dict.fromkeys(url for granules in _granules(plan).values() for url in granules))
    if not urls:
        folder = plan.versions[0].inputs["folder"]
        raise MissingPathError(f"{folder} holds no granule of the configured period for {plan.stage}")
    return FilePattern(_url_of, ConcatDim("time", keys=urls))


def _url_of(time: str) -> str:
    # The CRID in the names of SMAP changes from day to day: names are read from the folder, never made.
    return time


def _work(plan: StagePlan) -> dict[str, tuple[Callable[[Block, Any], Outcome], Block, Any]]:
    """What computes each block, of all years, and what it is given, by the block's name."""
    found: dict[str, tuple[Callable[[Block, Any], Outcome], Block, Any]] = {}
    for version in plan.versions:
        assert version.job.inputs is not None
        found |= {block.name: (version.job.compute, block, version.job.inputs(block)) for block in version.job.blocks}
    return found


def _granules(plan: StagePlan) -> dict[str, list[str]]:
    """URLs of the granules of each block, by the block's name."""
    given = {name: inputs for name, (_, _, inputs) in _work(plan).items()}
    return {name: [granule.url for granules in each.inputs.values() for granule in granules] for name, each in given.items()}


def daily_means(plan: StagePlan) -> Any:
    """Transform from the items of ``granule_pattern`` to the shards of every year of the store: group by block, average, write.

    The templates are written when the transform is made: grids and time steps are regular, so that it is known before
    anything is read. Every shard is written whole by one element, so that a runner may repeat any of them, and nothing is
    combined over all.
    """
    import apache_beam as beam

    for version in plan.versions:
        create(version.url, version.template)
    members: dict[str, list[str]] = defaultdict(list)
    for name, urls in _granules(plan).items():
        for url in dict.fromkeys(urls):
            members[url].append(name)
    work = _work(plan)

    class ToBlocks(beam.DoFn):  # type: ignore[misc]
        """Each granule to the blocks that need it."""

        def process(self, element: tuple[Any, str]) -> Iterable[tuple[str, str]]:
            _, url = element
            for name in members.get(url, ()):
                yield name, url

    class WriteBlock(beam.DoFn):  # type: ignore[misc]
        """All granules of a block to its shards."""

        def process(self, element: tuple[str, Iterable[str]]) -> Iterable[tuple[str, tuple[str, ...]]]:
            name, _ = element
            compute, block, given = work[name]
            outcome = compute(block, given)
            yield name, outcome.problems

    class DailyMeans(beam.PTransform):  # type: ignore[misc]
        """From (index, url) to (block, problems)."""

        def expand(self, items: Any) -> Any:
            return (
                items
                | "To blocks" >> beam.ParDo(ToBlocks())
                | "Group granules" >> beam.GroupByKey()
                | "Write shards" >> beam.ParDo(WriteBlock())
            )

    return DailyMeans()
