"""Download: what a provider offers of a product, and the folder of granules lacks, to that folder.

The folder keeps an index of what was fetched: the provider's revision, by which a replaced granule is noticed, and whether the
provider will replace it.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from deepprofile.config import Config, Download
from deepprofile.execution.blocks import FAILED, Block, Job, Outcome, Workload, grid_blocks
from deepprofile.execution.engine import Progress
from deepprofile.execution.errors import JobFailedError
from deepprofile.execution.ledger import Ledger
from deepprofile.grids.grids import Grid
from deepprofile.sources.products import GranuleError, Latency, Product
from deepprofile.sources.providers import PROVIDERS, Box, CredentialsError, DownloadError, Provider, RemoteGranule
from deepprofile.sources.providers.provider import RequestStore, digest
from deepprofile.stages.domain import Domain
from deepprofile.stages.execute import RunWith
from deepprofile.stages.manifest import ledger_url
from deepprofile.stages.plan import StagePlan, StageResult, VersionPlan
from deepprofile.stages.schedule import AsOf
from deepprofile.storage.conditional_writes import update
from deepprofile.storage.documents import DamagedDocumentError, parse, read_sound, write_document
from deepprofile.storage.filesystems import filesystem, is_local, join, local_path
from deepprofile.storage.fingerprints import fingerprint
from deepprofile.storage.objects import as_json, list_children, listing, read_bytes, remove, remove_below, upload
from deepprofile.storage.roots import Root
from deepprofile.storage.stores import Template

log = logging.getLogger(__name__)

INDEX: Final = "index.json"
_HIDDEN: Final = ".deepprofile"
_DAY: Final = np.timedelta64(1, "D")
# A granule that the provider will replace.
PROVISIONAL: Final = "provisional"


@dataclass(frozen=True)
class Wanted:
    """A granule that is to be fetched, from one of the product's collections."""

    collection: int
    offer: RemoteGranule


def box_of(grid: Grid) -> Box:
    """West, south, east, north of the outer edges of a grid's cells, in degrees, within the globe."""
    lat, lon = grid.lat, grid.lon
    half_y = 0.5 * float(np.abs(np.diff(lat)).max()) if lat.size > 1 else 0.5
    half_x = 0.5 * float(np.abs(np.diff(lon)).max()) if lon.size > 1 else 0.5
    west, east = max(float(lon.min()) - half_x, -180.0), min(float(lon.max()) + half_x, 180.0)
    south, north = max(float(lat.min()) - half_y, -90.0), min(float(lat.max()) + half_y, 90.0)
    return round(west, 4), round(south, 4), round(east, 4), round(north, 4)


def cells_of(grid: Grid) -> Box:
    """West, south, east, north of the centres of a window's outermost cells, degrees; east may be beyond 180.

    A service that cuts out the cells between these, itself included, gives the window and no cell more.
    """
    lat, lon = grid.lat, grid.lon
    # A whole turn begins at longitude 0, as the provider's own files do.
    west = 0.0 if grid.columns >= grid.whole_columns else float(lon[0])
    east = west + (min(grid.columns, grid.whole_columns) - 1) * grid.dx
    return round(west, 4), round(float(lat.min()), 4), round(east, 4), round(float(lat.max()), 4)


@dataclass(frozen=True)
class ProductDownload:
    """What the download of one product depends on.

    Attributes
    ----------
    product, settings
        The product, and how it is downloaded.
    folder
        Where its granules are put.
    domain
        The target grid, and the days that are wanted.
    latency
        When granules are to be expected.
    """

    product: Product
    settings: Download
    folder: Folder
    domain: Domain
    latency: Latency

    @classmethod
    def all_of(cls, config: Config) -> list[ProductDownload]:
        """Every product that is downloaded, as configured."""
        domain = Domain.of(config)
        return [
            cls(config.product(name), source.download, Folder(source.granules), domain, config.latency(name))
            for name, source in config.products.items()
            if source.download is not None
        ]


def providers_of(product: Product, settings: Download) -> list[Provider]:
    """The collections of a product's provider, the final one first."""
    collections = product.collections if settings.collections is None else settings.collections
    return [PROVIDERS[settings.provider](short, version, settings.url) for short, version in collections]


@dataclass(frozen=True)
class Folder:
    """A folder of granules, with what is known of those that were fetched."""

    url: str

    def index(self) -> dict[str, Any]:
        """What is known of each granule, by name; one of which nothing is known, or nothing sound, is fetched again."""
        url = join(self.url, _HIDDEN, INDEX)
        return _entries(url, read_bytes(url))

    def change_index(self, fetched: Mapping[str, Any], gone: set[str]) -> None:
        """Remember granules that were fetched, and forget others; what other roots remember of the folder stays."""
        url = join(self.url, _HIDDEN, INDEX)

        def change(content: bytes | None) -> bytes:
            index = _entries(url, content) | dict(fetched)
            return as_json({name: known for name, known in index.items() if name not in gone})

        update(url, change)

    def sizes(self) -> dict[str, int]:
        """Size of each granule in the folder itself, by name."""
        if is_local(self.url):
            Path(local_path(self.url)).mkdir(parents=True, exist_ok=True)
        fs, path = filesystem(self.url)
        if not fs.exists(path):
            return {}
        return {str(entry["url"]).rsplit("/", 1)[-1]: int(entry["size"]) for entry in listing(self.url)}

    def request_store(self, name: str) -> FolderRequestStore:
        """What is under way for a granule."""
        return FolderRequestStore(join(self.url, _HIDDEN, "requests", f"{name}.json"))


@dataclass(frozen=True)
class FolderRequestStore(RequestStore):
    """One small object."""

    url: str

    def load(self) -> str | None:
        """See ``RequestStore``."""
        found = read_sound(self.url, {"request": str})
        return None if found is None else str(found["request"])

    def save(self, what: str | None) -> None:
        """See ``RequestStore``."""
        if what is None:
            remove(self.url)
        else:
            write_document(self.url, {"request": what})


def _entries(url: str, content: bytes | None) -> dict[str, Any]:
    """What is known of granules, as it is kept; nothing, and a warning, where it is damaged."""
    try:
        found = {} if content is None else parse(url, content)
    except DamagedDocumentError as error:
        log.warning("%s; the granules are compared with what is offered anew", error)
        return {}
    return {name: known for name, known in found.items() if isinstance(known, dict)}


def wanted(task: ProductDownload, as_of: AsOf) -> list[Wanted]:
    """What a provider offers of a product and the folder lacks, or has in an older revision.

    Raises
    ------
    deepprofile.sources.providers.DownloadError
        Where the provider does not answer.
    """
    product, latency, target, sizes, index = (
        task.product,
        task.latency,
        task.domain.grid,
        task.folder.sizes(),
        task.folder.index(),
    )
    until = min(as_of.today, as_of.until if as_of.until is not None else task.domain.days[-1])
    days = np.arange(task.domain.days[0], until + _DAY)
    edges, cells = box_of(target), cells_of(product.grid.covering(target))
    final_until = latency.last_final(as_of.today)
    found: dict[str, Wanted] = {}
    named = [granule for granule in map(product.parse, sizes) if granule is not None]
    final_keys = {granule.key for granule in named if not granule.provisional}
    for number, provider in enumerate(providers_of(product, task.settings)):
        asked = _asked(provider, task, days, sizes, index, as_of)
        for offer in provider.find(asked, edges if provider.lists else cells, final_until):
            granule = product.parse(offer.name)
            if granule is None or not np.isin(granule.days, days).any():
                continue
            if not granule.provisional:
                final_keys.add(granule.key)
            elif granule.key in final_keys:
                # The final granule is there already.
                continue
            if _is_lacking(offer, sizes, index, provider):
                found[offer.name] = Wanted(number, offer)
    return [found[each] for each in sorted(found)]


def _asked(
    provider: Provider,
    task: ProductDownload,
    days: np.ndarray[Any, Any],
    sizes: Mapping[str, int],
    index: Mapping[str, Any],
    as_of: AsOf,
) -> list[np.datetime64]:
    """Days that the provider is asked for: of one that lists, those that may have changed and those that are not complete."""
    product, latency = task.product, task.latency
    final_until = latency.last_final(as_of.today)
    steps: dict[np.datetime64, int] = {}
    for each in sizes:
        granule = product.parse(each)
        if granule is None:
            continue
        provisional = granule.provisional or index.get(each, {}).get("revision") == PROVISIONAL
        for day in granule.days:
            if not (provisional and day <= final_until):
                # A file that holds several days holds them whole.
                steps[day] = steps.get(day, 0) + (1 if granule.days.size == 1 else product.steps_per_day)
    if provider.lists:
        recent = as_of.today - np.timedelta64(task.settings.look_back_days, "D")
        return [day for day in days if day > recent or steps.get(day, 0) < product.steps_per_day]
    # Days that cannot be there yet are not asked for: such a request fails.
    there = as_of.today - np.timedelta64(latency.days, "D")
    return [day for day in days if day <= there and not steps.get(day, 0)]


def _is_lacking(offer: RemoteGranule, sizes: Mapping[str, int], index: Mapping[str, Any], provider: Provider) -> bool:
    known = index.get(offer.name)
    if offer.name not in sizes:
        return True
    if known is None:
        # Put there by somebody else: it is what it should be, unless its size says otherwise.
        return provider.lists and offer.size is not None and sizes[offer.name] != offer.size
    return bool(known["revision"] != offer.revision)


@dataclass(frozen=True)
class DownloadBlock:
    """Fetches one granule, checks it, and puts it into the folder."""

    product: Product
    providers: tuple[Provider, ...]
    folder: Folder

    def __call__(self, block: Block, given: Wanted) -> Outcome:
        """See ``deepprofile.execution.blocks.Job``."""
        offer = given.offer
        with tempfile.TemporaryDirectory(prefix="deepprofile-download-") as scratch:
            target = Path(scratch) / offer.name
            self.providers[given.collection].fetch(offer, target, self.folder.request_store(offer.name))
            try:
                provisional = self.product.is_provisional(target)
            except GranuleError as error:
                raise DownloadError(str(error)) from error
            size, sha256 = target.stat().st_size, digest(target)
            known = self.folder.index().get(offer.name, {})
            if known.get("sha256") != sha256:
                # The same content again would look like a new granule.
                upload(target, join(self.folder.url, offer.name))
        revision = offer.revision if offer.revision != "final" or not provisional else PROVISIONAL
        return Outcome(size, size, details={"name": offer.name, "size": size, "sha256": sha256, "revision": revision})


def run(task: ProductDownload, root: Root, as_of: AsOf, run_with: RunWith) -> StageResult | None:
    """Fetch what is wanted of a product; None where nothing is.

    Raises
    ------
    deepprofile.sources.providers.CredentialsError
        Where the provider asks for other credentials.
    """
    product, name, folder = task.product, task.product.name, task.folder
    stage = f"download/{name}"
    _update_index(root, folder, product)
    try:
        listed = wanted(task, as_of)
    except DownloadError as error:
        return StageResult(stage, "", {}, Progress.nothing(f"download {name}"), (f"{name}: {error}",))
    if not listed:
        return None
    compute = DownloadBlock(product, tuple(providers_of(product, task.settings)), folder)
    version = fingerprint("download", name, [[w.offer.name, w.offer.revision] for w in listed])
    workload = Workload(
        name=f"download {name}",
        blocks=grid_blocks((len(listed),), (1,)),
        memory_per_block=64 * 2**20,
        bytes_in=sum(w.offer.size or 0 for w in listed),
    )
    job = Job(
        workload,
        compute,
        fingerprint=lambda block: fingerprint(version, block.index),
        inputs=lambda block: listed[block.index[0]],
    )
    plan = StagePlan(stage, "", (VersionPlan("", version, Template({}, {}, {}), job, folder.url),))
    ledger, watch = Ledger(ledger_url(root, stage, version)), run_with.watch(plan)
    failures: list[str] = []
    try:
        run_with.run(plan.jobs, {"": ledger}, watch, window=task.settings.requests)
    except JobFailedError as error:
        if isinstance(error.__cause__, CredentialsError):
            raise error.__cause__ from None
        records = ledger.read().values()
        failures = [problem for record in records if record.status == FAILED for problem in record.problems]
    _update_index(root, folder, product)
    problems = tuple(f"{name}: {problem.removeprefix('DownloadError: ')}" for problem in sorted(failures))
    return StageResult(stage, "", {}, watch.latest, problems)


def _update_index(root: Root, folder: Folder, product: Product) -> None:
    """Bring the index up to date with what was fetched, by this run or by one that did not come to its end."""
    runs = join(root.url, "runs")
    ours = [each for each in list_children(runs) if each.startswith(f"download-{product.name}-")]
    if not ours:
        return
    index: dict[str, Any] = {}
    names, gone = folder.sizes(), set()
    for each in ours:
        for record in Ledger(join(runs, each, "blocks")).read().values():
            details = dict(record.details)
            fetched = details.pop("name", None)
            if fetched is None:
                continue
            index[fetched] = details
            gone.discard(fetched)
            for other in _replaced(product, fetched, names):
                remove(join(folder.url, other))
                index.pop(other, None)
                gone.add(other)
    folder.change_index(index, gone)
    for each in ours:
        remove_below(join(runs, each))


def _replaced(product: Product, fetched: str, names: Iterable[str]) -> list[str]:
    """Granules for which another one stands now: the same time step under another name, or days of a month that came whole."""
    new = product.parse(fetched)
    found = []
    for other in names:
        old = product.parse(other)
        if other != fetched and new is not None and old is not None:
            same = old.key == new.key and old.provisional == new.provisional
            if same or (new.days.size > 1 and np.isin(old.days, new.days).all()):
                found.append(other)
    return found
