"""Which extra of this package brings what is missing."""

from __future__ import annotations

import re
from collections import defaultdict
from importlib.metadata import PackageNotFoundError, requires
from typing import Final

# The distribution to ask for, where its name is not that of the module: it is spelled otherwise, or brings the module with it.
_DISTRIBUTIONS: Final = {
    "aiohttp": "gcsfs",
    "apache_beam": "pangeo-forge-recipes",
    "cloudpickle": "distributed",
    "dask_kubernetes": "dask-kubernetes",
    "ecmwf": "cdsapi",
    "google": "google-cloud-storage",
    "kr8s": "dask-kubernetes",
    "numcodecs": "zarr",
    "pangeo_forge_recipes": "pangeo-forge-recipes",
    "prometheus_client": "prometheus-client",
    "pythonjsonlogger": "python-json-logger",
    "requests": "gcsfs",
    "yaml": "pyyaml",
}

_NAME_END: Final = re.compile(r"[\s<>=!~\[(]")


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """What to install for a package that is missing, as a sentence; None where no extra brings it."""
    module = (error.name or "").partition(".")[0]
    distribution = _DISTRIBUTIONS.get(module, module)
    try:
        needed = requires("deepprofile") or []
    except PackageNotFoundError:
        return None
    # Extras that hold others list all of theirs: the smallest one is meant.
    members: dict[str, list[str]] = defaultdict(list)
    for requirement in needed:
        name, _, condition = requirement.partition(";")
        if "extra ==" in condition:
            members[condition.rpartition("==")[2].strip(" '\")")].append(_NAME_END.split(name.strip())[0].lower())
    found = [extra for extra, names in members.items() if distribution.lower() in names]
    if not found:
        return None
    return f"the package {module} is missing: install deepprofile[{min(found, key=lambda extra: len(members[extra]))}]"
