"""Stores along time, as what is made from them day by day begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepprofile.execution.blocks import Block
from deepprofile.execution.ledger import Ledger
from deepprofile.stages import ingest
from deepprofile.stages.domain import Domain
from deepprofile.stages.increments import DayFingerprints, day_fingerprints_of
from deepprofile.stages.manifest import days_document, ledger_url
from deepprofile.storage.fingerprints import extended
from deepprofile.storage.roots import Root, part_name

# Days in a shard of what is read by the month as well as by the cell.
STRETCH_DAYS = 32


def stretch_days(year: Domain) -> int:
    """Days in a shard of what is derived from profiles: they divide a block of profiles, unless that is a whole year."""
    days = year.blocks.days
    if days >= STRETCH_DAYS and (days % STRETCH_DAYS == 0 or days >= year.length):
        return STRETCH_DAYS
    return max(count for count in range(1, min(STRETCH_DAYS, days) + 1) if days % count == 0)


def provisional_days(year: Domain, products: tuple[str, ...], root: Root, versions: Mapping[str, str]) -> NDArray[np.bool_]:
    """Whether the provider of any product will replace its values, of each day of a year."""
    found = np.zeros(year.length, bool)
    for product in products:
        version = versions.get(part_name(ingest.store_name(product), year.year))
        said = days_document(root, ingest.stage_name(product), version) if version is not None else None
        found[[day for day in (said or {}).get("provisional", ()) if day < year.length]] = True
    return found


@dataclass(frozen=True)
class StoreYear:
    """A calendar year of a store along time, as what is made from it day by day begins.

    Attributes
    ----------
    version, url
        Of the store.
    marks
        Of each day; where they are not known, the version stands for them.
    blocks
        Of each block by name, what its values depend on besides the days.
    """

    version: str
    url: str
    marks: tuple[str, ...]
    blocks: Mapping[str, str]

    @classmethod
    def of(cls, year: Domain, store: str, stage: str, root: Root, versions: Mapping[str, str]) -> StoreYear:
        """As the versions say; ``stage``: that makes the store, as its manifests have it."""
        name = part_name(store, year.year)
        version = versions[name]
        marks = day_fingerprints_of(root, stage, version)
        records = Ledger(ledger_url(root, stage, version)).read()
        return cls(
            version,
            root.version(name, version),
            marks if len(marks) == year.length else (version,) * year.length,
            {key: record.static_fingerprint or record.fingerprint for key, record in sorted(records.items())},
        )

    def day_fingerprints(self, settled: str) -> DayFingerprints:
        """What a store depends on that is made from this one block by block; ``settled``: what else it depends on."""

        def static_fingerprint(block: Block) -> str:
            return extended(settled, self.blocks.get(block.name, self.version))

        return DayFingerprints(self.marks, static_fingerprint)
