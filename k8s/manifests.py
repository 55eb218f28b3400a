"""Writes what is generated below k8s/: the definitions of the Dask operator's resources, from the pinned wheel."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Final

import yaml

TARGET: Final = Path(__file__).parent / "operator" / "crds.yaml"
HEADER: Final = "# Written by `make manifests` from the wheel of dask-kubernetes; not to be changed by hand.\n"


def definitions() -> str:
    """The custom resource definitions that the wheel holds, each on one line: compact JSON is YAML too."""
    folder = files("dask_kubernetes") / "operator" / "deployment" / "helm" / "dask-kubernetes-operator" / "crds"
    found = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".yaml")), key=lambda entry: entry.name)
    documents = [document for entry in found for document in yaml.safe_load_all(entry.read_text()) if document]
    return HEADER + "".join(f"---\n{json.dumps(document, separators=(',', ':'), sort_keys=True)}\n" for document in documents)


if __name__ == "__main__":
    TARGET.write_text(definitions())
