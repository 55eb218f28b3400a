"""Files: the layers of each month as netCDF-4, for those who do not read Zarr.

A file is made when its month is final: the record has all of its days, and no provider will replace a value of them. Its name
says what it was made from; a month that changes afterwards gets another file. ``public/files.json`` has them all.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepprofile.config import Config
from deepprofile.execution.blocks import Block, Job, Jobs, Outcome, Workload
from deepprofile.execution.ledger import Ledger
from deepprofile.stages.domain import Domain
from deepprofile.stages.execute import RunWith
from deepprofile.stages.manifest import ledger_url
from deepprofile.stages.plan import StagePlan, StageResult, VersionPlan
from deepprofile.stages.profiles import Profiles
from deepprofile.stages.publish import layers, schemas
from deepprofile.stages.publish.netcdf import Band, write_netcdf
from deepprofile.stages.publish.profiles import ProfileYear, stretch_days
from deepprofile.storage.conditional_writes import storage_time
from deepprofile.storage.documents import read_document, write_document
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
# Rows in a chunk of a file, with all columns and one day of one layer: what is read and written at a time.
ROWS: Final = 64


@dataclass(frozen=True)
class Month:
    """A month whose file is to be made.

    ``domain``: its days; ``first``: place of the first of them in the year's store; ``url``: of that store.
    """

    domain: Domain
    first: int
    url: str
    name: str

    @property
    def label(self) -> str:
        """As people write it, such as ``2024-01``."""
        return str(self.domain.first_day.astype("datetime64[M]"))

    @property
    def path(self) -> str:
        """Of the file below ``public``."""
        return f"{FOLDER}/{self.domain.year}/{self.name}"


def months(profiles: Profiles, root: Root, versions: Mapping[str, str]) -> list[Month]:
    """The months of the record that are final."""
    found = []
    products = profiles.model.comparison.products
    for year in profiles.domain.years:
        version = versions.get(part_name(layers.STORE, year.year))
        if version is None:
            continue
        url = root.version(part_name(layers.STORE, year.year), version)
        known = ProfileYear.of(year, products, root, versions)
        settled = fingerprint(ALGORITHM, layers.ALGORITHM, dict(year.dataset.model_dump(mode="json")), known.blocks)
        labels = year.days.astype("datetime64[M]")
        for label in np.unique(labels):
            places = np.flatnonzero(labels == label)
            whole = int(((label + 1).astype("datetime64[D]") - label.astype("datetime64[D]")).astype(int))
            if places.size < whole or known.provisional[places].any():
                continue
            own = replace(year, first_day=year.days[places[0]], length=whole)
            mark = fingerprint(settled, [known.marks[place] for place in places])[:8]
            found.append(Month(own, int(places[0]), url, f"deepprofile_layers_{label}_{mark}.nc"))
    return found


def template(month: Month, profiles: Profiles) -> Template:
    """Of the file of a month."""
    year = month.domain
    made = schemas.layers(year, np.zeros(year.length, bool), stretch_days(year), profiles.model.comparison.products)
    variables = {
        name: replace(one, shards=None, chunks=(*(1 for _ in one.dims[:-2]), ROWS, year.grid.columns)) if one.objects else one
        for name, one in made.variables.items()
    }
    said = {"time_coverage_resolution": "P1D", "product_version": month.name.rsplit("_", 1)[1].removesuffix(".nc")}
    return replace(made, variables=variables, description={**made.description, **said})


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
            path = Path(folder) / month.name
            write_netcdf(path, made, bands)
            content = hashlib.sha256()
            with path.open("rb") as file:
                while part := file.read(2**20):
                    content.update(part)
            size = path.stat().st_size
            upload(path, join(self.public_url, month.path))
        details = {"month": month.label, "path": month.path, "bytes": size, "sha256": content.hexdigest()}
        return Outcome(read, size, details=details)


def index(root: Root) -> dict[str, dict[str, Any]]:
    """The files by month: ``path`` below ``public``, ``bytes``, ``sha256``.

    Raises
    ------
    deepprofile.storage.documents.DocumentError
        Where the index is damaged.
    """
    found = read_document(join(root.public_url, INDEX), {"files": dict})
    return dict(found["files"]) if found else {}


def superseded(root: Root) -> dict[str, float]:
    """Files in whose place there are others, by their paths below ``public``, and since when, by the clock of the storage."""
    found = read_document(join(root.public_url, INDEX)) or {}
    return {str(path): float(seconds) for path, seconds in (found.get("superseded") or {}).items()}


def publish(config: Config, root: Root, versions: Mapping[str, str], run_with: RunWith) -> StageResult | None:
    """Make the files of the months that have become final, or have changed, and the index; None where there is none to make."""
    profiles, before = Profiles.of(config), index(root)
    final = months(profiles, root, versions)
    wanted = [month for month in final if before.get(month.label, {}).get("path") != month.path]
    if not wanted:
        return None
    task = FileBlock(profiles, tuple(wanted), root.public_url)
    job = Job(_workload(wanted), task, lambda block: fingerprint(wanted[block.index[0]].path))
    folder = fingerprint(sorted(month.path for month in wanted))
    last = wanted[-1]
    version = VersionPlan(FOLDER, folder, template(last, profiles), job, join(root.public_url, FOLDER))
    watch = run_with.watch(StagePlan(STAGE, FOLDER, (version,)))
    records = run_with.run(Jobs.of({"": job}), {"": Ledger(ledger_url(root, STAGE, folder))}, watch)
    made = {
        record.details["month"]: {key: record.details[key] for key in ("path", "bytes", "sha256")}
        for record in records.values()
    }
    old = {before[label]["path"]: storage_time(join(root.url, CLOCK)) for label in made if label in before}
    after = {"files": dict(sorted((before | made).items())), "superseded": {**superseded(root), **old}}
    write_document(join(root.public_url, INDEX), after)
    return StageResult(STAGE, FOLDER, {}, watch.latest, (), records)


def _workload(wanted: Sequence[Month]) -> Workload:
    """A block for each month."""
    size = sum(month.domain.length * month.domain.cells for month in wanted) * (len(schemas.LAYERS) + 1) * 4
    blocks = [Block((k,), ((0, month.domain.length),)) for k, month in enumerate(wanted)]
    # Rows of one array: as read, and as chunks of the file.
    band = max(month.domain.length * month.domain.grid.columns for month in wanted) * len(schemas.LAYERS) * ROWS * 2
    return Workload("publish: files", blocks, memory_per_block=3 * band, bytes_in=size, bytes_out=size)
