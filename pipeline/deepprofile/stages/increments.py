"""What of a block can be taken from the published version, day by day."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deepprofile.execution.blocks import FAILED, Block, Record
from deepprofile.stages.manifest import days_document
from deepprofile.storage.fingerprints import extended, fingerprint
from deepprofile.storage.roots import Root


@dataclass(frozen=True)
class PublishedBlock:
    """The published version of a block: its store, and which of the block's days are there as they would be computed now.

    ``length``: days of that store. ``details``: those of its record.
    """

    url: str
    length: int
    unchanged: tuple[int, ...]
    details: Mapping[str, Any]


@dataclass(frozen=True)
class BlockInputs:
    """What a block of a store along time is told: its own inputs, and what it can begin from."""

    inputs: Any = None
    earlier: PublishedBlock | None = None

    def fresh(self, count: int) -> list[int]:
        """Which of so many days have to be computed."""
        kept = set(self.earlier.unchanged) if self.earlier is not None else set()
        return [k for k in range(count) if k not in kept]


@dataclass(frozen=True)
class DayFingerprints:
    """What the bytes of a store along time depend on.

    ``days``: a mark for each day, the same in all blocks. ``static_fingerprint``: of a block, all that its days have in common.
    """

    days: tuple[str, ...]
    static_fingerprint: Callable[[Block], str]
    _stretches: dict[tuple[int, int], str] = field(default_factory=dict, repr=False, compare=False)

    def fingerprint(self, block: Block) -> str:
        """Of everything that the bytes of a block depend on."""
        return extended(self.static_fingerprint(block), block.region[0], self._of_stretch(*block.region[0]))

    def _of_stretch(self, start: int, stop: int) -> str:
        """Of the marks of some days, which many blocks share."""
        known = self._stretches.get((start, stop))
        if known is None:
            known = self._stretches[start, stop] = fingerprint(self.days[start:stop])
        return known

    def earlier(self, block: Block, url: str, before: Sequence[str], old: Record | None) -> PublishedBlock | None:
        """What of a block can be taken from another version, whose days have the marks ``before``.

        Days of which an input could not be used are tried again.
        """
        start, stop = block.region[0]
        if old is None or old.status == FAILED or start >= len(before):
            return None
        same: tuple[int, ...] = ()
        if old.static_fingerprint == self.static_fingerprint(block):
            again = set(old.details.get("broken", ()))
            shared = range(start, min(stop, len(before)))
            same = tuple(d - start for d in shared if self.days[d] == before[d] and d - start not in again)
        return PublishedBlock(url, len(before), same, old.details)


def spans(places: Sequence[int]) -> list[tuple[int, int]]:
    """Stretches of places that follow one another, each as (first, after the last)."""
    found: list[tuple[int, int]] = []
    for place in places:
        if found and found[-1][1] == place:
            found[-1] = found[-1][0], place + 1
        else:
            found.append((place, place + 1))
    return found


def day_fingerprints_of(root: Root, stage: str, version: str) -> tuple[str, ...]:
    """The marks of the days of a version; none where it was made before there were any."""
    return tuple((days_document(root, stage, version) or {}).get("marks", ()))
