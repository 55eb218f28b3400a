"""What is written down of a run: its manifest, and what its days depend on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from deepprofile.storage.documents import Kinds, read_sound
from deepprofile.storage.filesystems import join
from deepprofile.storage.roots import Root

MANIFEST: Final = "manifest.json"

# Beside a manifest: what the days of the store depend on.
DAYS: Final = "days.json"

_MANIFEST: Final[Mapping[str, Kinds]] = {"stage": str, "store": str, "version": str, "started": str, "inputs": dict}

_DAYS: Final[Mapping[str, Kinds]] = {"marks": list}

PACKAGES: Final = ("deepprofile", "numpy", "xarray", "zarr", "numba", "dask", "distributed")


def run_url(root: Root, stage: str, version: str) -> str:
    """Where a stage's manifest and records are kept."""
    return join(root.url, "runs", f"{stage.replace('/', '-')}-{version}")


def ledger_url(root: Root, stage: str, version: str) -> str:
    """Where the records of a stage's blocks are kept."""
    return join(run_url(root, stage, version), "blocks")


def manifest_of(folder: str) -> dict[str, Any] | None:
    """The manifest in a run's folder; None where there is none, or a damaged one, which is said in the log.

    Raises
    ------
    deepprofile.storage.documents.NewerDocumentError
        Where a newer version of this software has written it.
    """
    return read_sound(join(folder, MANIFEST), _MANIFEST)


def days_document(root: Root, stage: str, version: str) -> dict[str, Any] | None:
    """What is known of the days of a version: their marks, and what its stage has to say of them.

    Raises
    ------
    deepprofile.storage.documents.NewerDocumentError
        Where a newer version of this software has written it.
    """
    return read_sound(join(run_url(root, stage, version), DAYS), _DAYS)
