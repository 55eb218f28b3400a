"""A finished run as a stranger has it: the folder ``public`` alone."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from deepprofile import config as configuration
from deepprofile.config import Config
from deepprofile.execution.pools import ThreadPool
from deepprofile.stages.pipeline import STAGES, run_stages
from deepprofile.stages.publish.files import index
from deepprofile.storage.roots import Root

from tests.support.granules import document, url_of

DESCRIPTION = {
    "creators": [
        {
            "name": "Ada Lovelace",
            "orcid": "0000-0002-1825-0097",
            "email": "ada@example.org",
            "institution": "Example University",
        }
    ],
    "institution": "Example University",
    "contact": "data@example.org",
    "url": "https://example.org/deepprofile",
    "id": "10.1234/deepprofile",
    "naming_authority": "org.doi",
}
# Stores on the grid, with the level of detail where there are some.
GRIDDED = ("profile", "covariance", "weights", "layers", "inputs", *(f"map/{width}km" for width in (9, 18, 36, 72)))


@dataclass(frozen=True)
class Published:
    """What is published of a run."""

    config: Config
    folder: Path

    @property
    def root(self) -> str:
        """What the library is given."""
        return self.config.root

    def url(self, store: str) -> tuple[str, str | None]:
        """Path of a store, and the group in it."""
        name, _, group = store.partition("/")
        return url_of(self.root, name), group or None

    def file(self, month: str) -> Path:
        """The file of a month."""
        return self.folder / index(Root(self.root))[month]["path"]


@pytest.fixture(scope="session")
def published(world, granules, finished, tmp_path_factory):
    """A run with a description of the data set, begun from one that has none."""
    folder = tmp_path_factory.mktemp("strangers")
    shutil.copytree(finished.root, folder / "root")
    path = folder / "deepprofile.yaml"
    path.write_text(yaml.safe_dump(document(world, granules, folder / "root", dataset=DESCRIPTION), sort_keys=False))
    config = configuration.load(path)
    run_stages(config, STAGES, ThreadPool(2))
    return Published(config, Path(config.root) / "public")
