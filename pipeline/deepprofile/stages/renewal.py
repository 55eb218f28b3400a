"""A new error model: what it has done again, and what that costs, said before it starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from pydantic import ByteSize

from deepprofile.config import Config
from deepprofile.execution.blocks import DONE
from deepprofile.execution.ledger import Ledger
from deepprofile.stages import collocate, covariances, invert, matchups
from deepprofile.stages.collocate import ErrorModel
from deepprofile.stages.manifest import ledger_url
from deepprofile.stages.plan import Step
from deepprofile.storage.roots import Root, parts_of

# What is made anew with it, whole.
_STORES: Final = (collocate.MOMENTS_STORE, collocate.STORE, covariances.STORE, invert.STORE, matchups.STORE)
# A block tells how long profiles take where it computed at least this share of those that it holds at once.
_AT_ONCE: Final = 0.5
_HOUR: Final = 3600.0


def announced(config: Config, steps: Sequence[Step], *, asked: bool | None = None) -> str | None:
    """What a run would do because a new error model is due, and what that costs, as sentences.

    None where none is due, and where nothing is published that would be done again.

    Parameters
    ----------
    config
        Of the run.
    steps
        Those of the pipeline.
    asked
        Whether one is made, whatever is due; None leaves that to ``collocation.every_days``.
    """
    root = Root(config.root)
    current = root.current()
    years = parts_of(invert.STORE, current)
    if collocate.STORE not in current or not years:
        return None
    if not (collocate.is_due(ErrorModel.of(config), root) if asked is None else asked):
        return None
    listed = [step.workload() for step in steps if step.store in _STORES]
    read, written = (
        ByteSize(sum(getattr(each, name) for each in listed)).human_readable() for name in ("bytes_in", "bytes_out")
    )
    seconds = _seconds(root, current, years)
    took = ""
    if seconds is not None:
        long = f"{seconds / 3600.0:.1f} hours" if seconds > _HOUR else f"{max(seconds / 60.0, 1.0):.0f} min"
        took = f"; the profiles take about {long} of one worker"
    return (
        f"A new error model is due: if its inputs have changed, all profiles of {len(years)} years are computed again, in "
        f"{sum(len(each.blocks) for each in listed):,} blocks that read {read} and write {written} before "
        f"compression{took}. Both versions are stored until 'prune'. collocation.every_days says how often that is."
    )


def _seconds(root: Root, current: Mapping[str, str], years: Mapping[str, str]) -> float | None:
    """How long it takes to compute all published profiles, as it took before; None where no block tells."""
    whole, computed, seconds = 0, 0, 0.0
    for name in years.values():
        for record in Ledger(ledger_url(root, "invert", current[name])).read().values():
            there, fresh = (record.details.get(key, 0) for key in ("profiles", "computed"))
            whole += there
            if record.status == DONE and fresh > _AT_ONCE * there:
                computed, seconds = computed + fresh, seconds + record.seconds
    return seconds * whole / computed if computed else None
