"""Files: the layers of each month as netCDF-4, for those who do not read Zarr.

A file is made when its month is final: the record has all of its days, and no provider will replace a value of them. Its name
ends with a hash of its content; a month that changes afterwards gets another file. ``public/files.json`` has them all.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepprofile.config import Config
from deepprofile.execution.blocks import Block, Job, Jobs, Outcome, Workload
from deepprofile.execution.ledger import Ledger
from deepprofile.stages.domain import Domain
from deepprofile.stages.execute import RunWith, new_manifest, totals
from deepprofile.stages.manifest import MANIFEST, ledger_url, run_url
from deepprofile.stages.plan import StagePlan, StageResult, VersionPlan
from deepprofile.stages.profiles import Profiles
from deepprofile.stages.publish import layers, schemas
from deepprofile.stages.publish.netcdf import Band, write_netcdf
from deepprofile.stages.publish.years import StoreYear, provisional_days, stretch_days
from deepprofile.storage.conditional_writes import StorageClock
from deepprofile.storage.documents import Kinds, read_document, read_sound, write_document
from deepprofile.storage.filesystems import join
from deepprofile.storage.fingerprints import fingerprint
from deepprofile.storage.lease import CLOCK
from deepprofile.storage.objects import upload
from deepprofile.storage.roots import Root, part_name
from deepprofile.storage.stores import Template, read_region

# The version of what turns layers into files.
ALGORITHM: Final = 1
STAGE: Final = "publish/files"
FOLDER: Final = "files"
INDEX: Final = "files.json"
_INDEX: Final[Mapping[str, Kinds]] = {"files": dict, "superseded": dict}
# Rows in a chunk of a file, with all columns and one day of one layer: what is read and written at a time.
ROWS: Final = 64


@dataclass(frozen=True)
class Month:
    """A month that is final.

    ``domain``: its days; ``first``: place of the first of them in the year's store; ``url``: of that store; ``made_from``: a
    mark of everything that the file depends on.
    """

    domain: Domain
    first: int
    url: str
    made_from: str

    @property
    def label(self) -> str:
        """As people write it, such as ``2024-01``."""
        return str(self.domain.first_day.astype("datetime64[M]"))

    def path(self, sha256: str) -> str:
        """Of the file below ``public``, given the hash of its content."""
        return f"{FOLDER}/{self.domain.year}/deepprofile_layers_{self.label}_{sha256[:8]}.nc"


def months(profiles: Profiles, root: Root, versions: Mapping[str, str]) -> list[Month]:
    """The months of the record that are final."""
    found = []
    products = profiles.model.comparison.products
    for year in profiles.domain.years:
        if part_name(layers.STORE, year.year) not in versions:
            continue
        known = StoreYear.of(year, layers.STORE, layers.STAGE, root, versions)
        provisional = provisional_days(year, products, root, versions)
        settled = fingerprint(ALGORITHM, year.dataset.model_dump(mode="json"), known.blocks)
        labels = year.days.astype("datetime64[M]")
        for label in np.unique(labels):
            places = np.flatnonzero(labels == label)
            whole = int(((label + 1).astype("datetime64[D]") - label.astype("datetime64[D]")).astype(int))
            if places.size < whole or provisional[places].any():
                continue
            own = replace(year, first_day=year.days[places[0]], length=whole)
            found.append(Month(own, int(places[0]), known.url, fingerprint(settled, [known.marks[place] for place in places])))
    return found


def template(month: Month, profiles: Profiles) -> Template:
    """Of the file of a month."""
    year = month.domain
    made = schemas.layers(year, np.zeros(year.length, bool), stretch_days(year), profiles.model.comparison.products)
    variables = {
        name: replace(one, shards=None, chunks=(*(1 for _ in one.dims[:-2]), ROWS, year.grid.columns)) if one.objects else one
        for name, one in made.variables.items()
    }
    return replace(made, variables=variables)


@dataclass(frozen=True)
class FileBlock:
    """Writes the file of a month."""

    profiles: Profiles
    months: tuple[Month, ...]
    public_url: str

    def __call__(self, block: Block, _: Any) -> Outcome:
        """See ``deepprofile.execution.blocks.Job``."""
        month = self.months[block.index[0]]
        made = template(month, self.profiles)
        days, rows = slice(month.first, month.first + month.domain.length), month.domain.grid.rows
        read = 0

        def bands(name: str) -> Iterator[tuple[Band, NDArray[Any]]]:
            nonlocal read
            shape, dtype = made.shape(name), made.variables[name].stored_dtype
            for first in range(0, rows, ROWS):
                own = slice(first, min(first + ROWS, rows))
                out = np.empty((*shape[:-2], own.stop - first, shape[-1]), dtype)
                between = (slice(None),) * (len(shape) - 3)
                read_region(month.url, name, (days, *between, own), out=out)
                read += out.nbytes
                yield (slice(None), *between, own), out

        with tempfile.TemporaryDirectory(prefix="deepprofile-file-") as folder:
            path = Path(folder) / "month.nc"
            write_netcdf(path, made, bands)
            content = hashlib.sha256()
            with path.open("rb") as file:
                while part := file.read(2**20):
                    content.update(part)
            size, target = path.stat().st_size, month.path(content.hexdigest())
            upload(path, join(self.public_url, target))
        details = {"path": target, "bytes": size, "sha256": content.hexdigest()}
        return Outcome(read, size, details=details)


def index(root: Root) -> dict[str, dict[str, Any]]:
    """The files by month: ``path`` below ``public``, ``bytes``, ``sha256``, and what they were ``made_from``.

    Raises
    ------
    deepprofile.storage.documents.DocumentError
        Where the index is damaged, or of a newer version of this software.
    """
    found = read_document(join(root.public_url, INDEX), _INDEX)
    return dict(found["files"]) if found else {}


def check_index(root: Root) -> None:
    """Make sure, before anything is done, that no newer version of this software has written the index.

    Raises
    ------
    deepprofile.storage.documents.NewerDocumentError
        Where one has.
    """
    read_sound(join(root.public_url, INDEX), _INDEX)


def superseded(root: Root) -> dict[str, float]:
    """Files in whose place there are others, by their paths below ``public``, and since when, by the clock of the storage.

    Raises
    ------
    deepprofile.storage.documents.DocumentError
        See ``index``.
    """
    found = read_document(join(root.public_url, INDEX), _INDEX)
    return {str(path): float(seconds) for path, seconds in found["superseded"].items()} if found else {}


def publish(config: Config, root: Root, versions: Mapping[str, str], run_with: RunWith) -> StageResult | None:
    """Make the files of the months that have become final, or have changed, and the index; None where there is none to make."""
    # One that is damaged is made anew, with all files.
    profiles, found = Profiles.of(config), read_sound(join(root.public_url, INDEX), _INDEX)
    before: dict[str, dict[str, Any]] = dict(found["files"]) if found else {}
    final = months(profiles, root, versions)
    wanted = [month for month in final if before.get(month.label, {}).get("made_from") != month.made_from]
    if not wanted:
        return None
    task = FileBlock(profiles, tuple(wanted), root.public_url)
    job = Job(_workload(wanted), task, lambda block: wanted[block.index[0]].made_from)
    folder = fingerprint(sorted(month.made_from for month in wanted))
    last = wanted[-1]
    version = VersionPlan(FOLDER, folder, template(last, profiles), job, join(root.public_url, FOLDER))
    watch, clock, began = run_with.watch(StagePlan(STAGE, FOLDER, (version,))), StorageClock(join(root.url, CLOCK)), monotonic()
    manifest = new_manifest(STAGE, version, run_with.configuration) | {"started": clock.text()}
    path = join(run_url(root, STAGE, folder), MANIFEST)
    write_document(path, manifest)
    records = run_with.run(Jobs.of({"": job}), {"": Ledger(ledger_url(root, STAGE, folder))}, watch)
    made: dict[str, dict[str, Any]] = {}
    for record in records.values():
        month = wanted[record.index[0]]
        made[month.label] = {**{key: record.details[key] for key in ("path", "bytes", "sha256")}, "made_from": month.made_from}
    files = before | made
    there = {file["path"] for file in files.values()}
    gone = {file["path"] for label, file in before.items() if label in made} - there
    old = {path: since for path, since in ((found or {}).get("superseded") or {}).items() if path not in there}
    after = {"files": dict(sorted(files.items())), "superseded": old | dict.fromkeys(sorted(gone), clock.now())}
    write_document(join(root.public_url, INDEX), after)
    done = watch.latest
    manifest |= {"ended": clock.text(), **totals(records, monotonic() - began), "problems": [], "notes": []}
    manifest["blocks"] = {"total": done.blocks, "done": done.done, "skipped": done.skipped, "retried": done.retried}
    write_document(path, manifest)
    return StageResult(STAGE, FOLDER, {}, watch.latest, (), records)


def _workload(wanted: Sequence[Month]) -> Workload:
    """A block for each month."""
    size = sum(month.domain.length * month.domain.cells for month in wanted) * (len(schemas.LAYERS) + 1) * 4
    blocks = [Block((k,), ((0, month.domain.length),)) for k, month in enumerate(wanted)]
    # Rows of one array: as read, and as chunks of the file.
    band = max(month.domain.length * month.domain.grid.columns for month in wanted) * len(schemas.LAYERS) * ROWS * 2
    return Workload("publish: files", blocks, memory_per_block=3 * band, bytes_in=size, bytes_out=size)
