"""Which extra of this package brings what is missing."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, requires
from typing import Final

# Packages by the name that is imported, where it is not that of the distribution.
_DISTRIBUTIONS: Final = {
    "dask_kubernetes": "dask-kubernetes",
    "google": "google-cloud-storage",
    "kr8s": "dask-kubernetes",
    "pangeo_forge_recipes": "pangeo-forge-recipes",
    "prometheus_client": "prometheus-client",
    "pythonjsonlogger": "python-json-logger",
    "yaml": "pyyaml",
}


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """What to install for a package that is missing, as a sentence; None where no extra brings it."""
    module = (error.name or "").partition(".")[0]
    distribution = _DISTRIBUTIONS.get(module, module)
    try:
        needed = requires("deepprofile") or []
    except PackageNotFoundError:
        return None
    for requirement in needed:
        name, _, condition = requirement.partition(";")
        if name.strip().lower().startswith(distribution.lower()) and "extra ==" in condition:
            extra = condition.rpartition("==")[2].strip(" '\")")
            return f"the package {module} is missing: install deepprofile[{extra}]"
    return None
