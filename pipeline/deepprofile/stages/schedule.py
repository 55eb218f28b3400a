"""What a run that comes again and again has to know: which days there are, what is due, and what is to be done again."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from deepprofile.config import Config, Period
from deepprofile.sources.catalogue import Cache, Catalogue, find_granules
from deepprofile.stages.plan import PlanError
from deepprofile.storage.documents import FORMAT_KEY, DamagedDocumentError, Kinds, read_document, write_document
from deepprofile.storage.filesystems import join
from deepprofile.storage.fingerprints import fingerprint
from deepprofile.storage.roots import Root, parts_of
from deepprofile.storage.stores import exists, read_region

# Days that are to be done again although their granules are the same: by product, first and last day and a mark.
REDONE: Final = "redone.json"
# The error model that somebody has asked for, whatever there is already: its mark, and whether it is still to be made.
REMADE: Final = "remade.json"
_REMADE: Final[Mapping[str, Kinds]] = {"mark": str, "wanted": bool}


@dataclass(frozen=True)
class AsOf:
    """When a run takes place: what is missing is judged as of ``today``; days are wanted up to ``until``, where it is given."""

    today: np.datetime64
    until: np.datetime64 | None = None

    @classmethod
    def now(cls, until: np.datetime64 | None = None) -> AsOf:
        """Now (UTC)."""
        return cls(np.datetime64(dt.datetime.now(dt.UTC).date(), "D"), until)


@dataclass(frozen=True)
class ReprocessRequests:
    """Days of a product that were done again on request, each request with its mark."""

    requests: tuple[tuple[np.datetime64, np.datetime64, str], ...]

    @classmethod
    def read(cls, root: Root, product: str) -> ReprocessRequests:
        """Of a root."""
        url = join(root.url, REDONE)
        found = (read_document(url) or {}).get(product, ())
        try:
            return cls(tuple((np.datetime64(a, "D"), np.datetime64(b, "D"), str(mark)) for a, b, mark in found))
        except (ValueError, TypeError) as error:
            raise DamagedDocumentError(
                f"{url} is damaged: its {product!r} is no list of first day, last day and mark"
            ) from error

    def of(self, day: np.datetime64) -> tuple[str, ...]:
        """Marks of the requests that concern a day."""
        return tuple(mark for first, last, mark in self.requests if first <= day <= last)


def redo(root: Root, products: Iterable[str], first: np.datetime64, last: np.datetime64, mark: str) -> None:
    """Have days of some products done again by the next run; ``mark`` tells this request from others."""
    found: dict[str, Any] = read_document(join(root.url, REDONE)) or {}
    for name in products:
        request = [str(first), str(last), fingerprint(mark)]
        found[name] = [r for r in found.get(name, []) if r != request] + [request]
    write_document(join(root.url, REDONE), {name: each for name, each in found.items() if name != FORMAT_KEY})


def remake(root: Root, mark: str) -> None:
    """Have the next run make a new error model, even where its inputs are the same; ``mark`` tells this request from others.

    A request that no run has carried out yet stays as it is: a run that was stopped goes on where it was.
    """
    if not (read_document(join(root.url, REMADE), _REMADE) or {}).get("wanted"):
        write_document(join(root.url, REMADE), {"mark": fingerprint(mark), "wanted": True})


def remade(root: Root) -> None:
    """The error model that was asked for has been made."""
    found = read_document(join(root.url, REMADE), _REMADE)
    if found is not None and found["wanted"]:
        write_document(join(root.url, REMADE), {"mark": found["mark"], "wanted": False})


def remade_mark(root: Root) -> tuple[str, ...]:
    """What tells the error model that was asked for last from one of the same inputs; nothing where none ever was."""
    found = read_document(join(root.url, REMADE), _REMADE)
    return () if found is None else (found["mark"],)


def published_days(root: Root, store: str) -> tuple[np.datetime64, np.datetime64] | None:
    """First and last day of the published versions of a store with years."""
    versions = root.current()
    urls = [root.version(name, versions[name]) for name in parts_of(store, versions).values()]
    if not urls or not all(map(exists, (urls[0], urls[-1]))):
        return None
    first, last = (read_region(url, "time", (slice(None),)) for url in (urls[0], urls[-1]))
    return np.datetime64(int(first[0]), "D"), np.datetime64(int(last[-1]), "D")


def extended(config: Config, root: Root, until: np.datetime64, stores: Iterable[str]) -> tuple[Config, dict[str, Catalogue]]:
    """The configuration with its period up to the last day, until the given one, of which any product has a granule.

    The period never becomes shorter than that of the published stores. With it, the granules of each product, listed once.

    Raises
    ------
    deepprofile.stages.plan.PlanError
        Where there is no granule yet.
    deepprofile.storage.objects.MissingPathError
        Where a folder of granules is not there.
    """
    start = np.datetime64(config.period.start, "D")
    if until < start:
        raise PlanError(f"the period starts on {start}, which is after {until}: there is nothing to do until then")
    wanted = np.arange(start, until + 1)
    cache = Cache(config.ingest.cache, config.ingest.cache_limit)
    listed = {
        name: find_granules(config.product(name), source.granules, wanted, cache) for name, source in config.products.items()
    }
    there = [catalogue.last_day for catalogue in listed.values()]
    published = [days[1] for days in (published_days(root, store) for store in stores) if days is not None]
    last = [day for day in (*there, *published) if day is not None]
    if not last:
        raise PlanError(f"there is no granule of any product from {start} to {until}: nothing can be done yet")
    return ending(config, max(last)), listed


def ending(config: Config, last: np.datetime64) -> Config:
    """The configuration with another last day."""
    return config.model_copy(update={"period": Period(start=config.period.start, end=last.astype(object))})
