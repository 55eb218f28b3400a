"""The configuration: one YAML file, checked before anything runs.

Every key has a default or is asked for; unknown keys are refused with the line that they stand on. ``--set a.b=value`` on the
command line overrides a key.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

import numpy as np
import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from deepprofile import grids
from deepprofile.core.error_model import WINDOW
from deepprofile.core.memory import Direction
from deepprofile.grids.grids import Grid
from deepprofile.sources.catalogue import MIRROR
from deepprofile.sources.products import PRODUCTS, VARIANTS, Latency, Outage, Product

NO_END = "'period.end' is missing, unless 'run --until' names the last day"
Positive = Annotated[int, Field(gt=0)]


# Of a bound: see ``Inversion``.
_FORMS = ("number", "grid")


class ConfigError(Exception):
    """A configuration that cannot be used; the message says where and why."""


def _size(value: Any) -> ByteSize:
    """An amount of memory, such as ``2GiB``, in bytes."""
    try:
        return TypeAdapter(ByteSize).validate_python(value)
    except ValidationError as error:
        raise ValueError(f"{value!r} is no amount of memory, such as 2GiB") from error


Size = Annotated[ByteSize, BeforeValidator(_size)]


class Section(BaseModel):
    """A part of the configuration: frozen, without keys that nobody knows."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class TargetGrid(Section):
    """The grid of the profiles."""

    name: str = Field("ease2_m09", description="ease2_m09, ease2_m36 or latlon_<degrees>, such as latlon_0.25")
    bbox: tuple[float, float, float, float] | None = Field(
        None, description="west, south, east, north in degrees: cells whose centres lie inside; the whole grid where not given"
    )

    @model_validator(mode="after")
    def _exists(self) -> TargetGrid:
        self.grid()
        return self

    def grid(self) -> Grid:
        """The window of the grid."""
        whole = grids.by_name(self.name)
        return whole if self.bbox is None else whole.within(self.bbox)


class Period(Section):
    """Days of the profiles, first and last included."""

    start: dt.date = Field(description="first day, such as 2015-04-01")
    end: dt.date = Field(description="last day; not needed with 'run --until'")

    @model_validator(mode="after")
    def _ordered(self) -> Period:
        if self.end < self.start:
            raise ValueError(f"end {self.end} is before start {self.start}")
        return self


class Download(Section):
    """The service from which a product's granules are fetched; credentials are taken from the environment of the workers."""

    provider: Literal["earthdata", "cds"] = Field(
        description="earthdata: NASA's archives (EARTHDATA_TOKEN); cds: the Climate Data Store (CDSAPI_KEY)"
    )
    collections: tuple[tuple[str, str], ...] | None = Field(
        None, description="short names and versions of the collections there, early ones last; the product's, by default"
    )
    requests: Positive = Field(4, description="granules that are fetched, or waited for, at a time")
    look_back_days: Positive = Field(120, description="days before the last one that are looked at for replaced granules")
    url: str | None = Field(None, description="address of the service, instead of its own")


class ProductSource(Section):
    """Where the granules of a product are."""

    granules: str = Field(
        description="folder or URL of the granules, at any depth; or a pattern with * in it; or zarr+URL: a mirror in Zarr. "
        "Where a bucket's readers pay, DEEPPROFILE_REQUESTER_PAYS in the environment names the project that does"
    )
    download: Download | None = Field(None, description="fetch what is missing in that folder before it is read")
    grid: str | None = Field(None, description="smap_l3: ease2_m36 for SPL3SMP, where SPL3SMP_E is the default")
    latency_days: Annotated[int, Field(ge=0)] | None = Field(
        None, description="days until a day's granules are missed; what the provider states, by default"
    )
    final_latency_days: Annotated[int, Field(ge=0)] | None = Field(
        None, description="days until a day that is still provisional is missed; what the provider states, by default"
    )
    outages: tuple[tuple[dt.date, dt.date], ...] = Field(
        (), description="more days of which the provider has nothing, each as [first, last]; those it has announced are known"
    )


class Ingest(Section):
    """Daily means."""

    min_day_fraction: float = Field(0.75, gt=0.0, le=1.0, description="share of a day's time steps that a daily mean needs")
    require_screens: bool = Field(
        False, description="refuse granules that lack the soil temperature or snow that their product is screened by"
    )
    days: Positive = Field(8, description="days in a shard; a block reads so many over the whole window, each granule once")
    cells: Positive = Field(512, description="rows, and columns, in a shard")
    chunk_cells: Positive = Field(64, description="rows, and columns, in a chunk, with the days of its shard; divides cells")
    cache: str | None = Field(None, description="local folder for granules that are read from a remote URL")
    cache_limit: Size = Field(ByteSize(4 * 2**30), description="size of that folder; what was not used for longest makes room")

    @model_validator(mode="after")
    def _divide(self) -> Ingest:
        if self.cells % self.chunk_cells:
            raise ValueError(f"chunk_cells {self.chunk_cells} does not divide cells {self.cells}")
        return self


class Collocation(Section):
    """The error model."""

    dependent: tuple[tuple[str, str], ...] = Field(
        (("smap_l3", "smap_l4"),), description="pairs of products whose errors are not independent"
    )
    min_samples: Annotated[int, Field(ge=3)] = Field(100, description="complete triples that triple collocation needs")
    window: Positive = Field(WINDOW, description="cells along each side of a cell's neighbourhood; odd")
    every_days: Annotated[int, Field(ge=0)] = Field(
        365,
        description="run: days between two error models, frozen in between, since a new one has all profiles computed again; a "
        "record of fewer days has a new one when it has doubled; 0: whenever inputs change",
    )

    @field_validator("window")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError(f"{value} is even; a window has a cell in its middle")
        return value


class PriorSettings(Section):
    """The prior of ``map``."""

    std: float = Field(0.065, gt=0.0, description="standard deviation of theta at the surface, m3 m-3")
    correlation_length: float = Field(0.45, gt=0.0, description="vertical correlation length at the surface, m")


class GridBound(Section):
    """A bound that differs from cell to cell, such as the porosity."""

    path: str = Field(description="file of HDF5 or netCDF, or group in Zarr, on this machine or gs://")
    variable: str = Field(description="its name there, such as Land-Model-Constants_Data/clsm_poros of SPL4SMLM")
    units: Literal["m3 m-3", "percent"] | None = Field(None, description="of its values; as the file says, by default")
    missing: float | None = Field(
        None, ge=0.0, le=1.0, description="bound where the grid has no value; by default there is no soil there, and no profile"
    )


def _kind_of_bound(value: Any) -> str:
    return "grid" if isinstance(value, (dict, GridBound)) else "number"


Bound = Annotated[
    Annotated[float, Tag("number")] | Annotated[GridBound, Tag("grid")],
    Discriminator(_kind_of_bound),
]


class Inversion(Section):
    """From layers to profiles."""

    method: Literal["map", "wls"] = Field("map", description="map: maximum a posteriori; wls: weighted least squares")
    order: Annotated[int, Field(ge=0, le=7)] | None = Field(
        None, description="degree of the polynomial; by default 5 for map; for wls 2, or 1 where only one product reaches deep"
    )
    bounds: tuple[Bound, Bound] = Field(
        (0.0, 0.8),
        description="least and greatest soil moisture, m3 m-3; either may be a grid: {path: FILE, variable: clsm_poros}, with "
        "'units' (m3 m-3, percent) where the file does not say, and 'missing', the bound of cells without a value",
    )
    prior: PriorSettings = Field(default_factory=PriorSettings)
    memory: Literal["past", "both", "none"] = Field(
        "past",
        description="what retrievals said on other days counts too: past, up to each day; both, after it too, for records that "
        "are complete; none. wls goes without",
    )

    @property
    def direction(self) -> Direction | None:
        """Which days the filters of retrievals may see."""
        return None if self.method == "wls" or self.memory == "none" else self.memory

    @field_validator("bounds")
    @classmethod
    def _ordered(cls, value: tuple[Bound, Bound]) -> tuple[Bound, Bound]:
        low, high = (each if isinstance(each, float) else fallback for each, fallback in zip(value, (0.0, 1.0), strict=True))
        if not 0.0 <= low < high <= 1.0:
            shown = [each if isinstance(each, float) else each.path for each in value]
            raise ValueError(f"{shown}: the lower bound has to be less than the upper one, both between 0 and 1")
        return value

    @property
    def constant_bounds(self) -> tuple[float, float] | None:
        """The bounds where both are numbers; None where one is a grid."""
        low, high = self.bounds
        return (low, high) if isinstance(low, float) and isinstance(high, float) else None


class Stations(Section):
    """In-situ series that judge the profiles."""

    kind: Literal["ismn", "scan", "uscrn"] = Field(description="which reader")
    path: str = Field(description="folder, ZIP or file")
    flags: tuple[Annotated[str, Field(pattern=r"^[A-Z]\d{0,2}$")], ...] = Field(
        ("G",), min_length=1, description="ismn: quality flags whose values count; [G, U] for archives of before 2020"
    )

    @model_validator(mode="after")
    def _has_flags(self) -> Stations:
        if "flags" in self.model_fields_set and self.kind != "ismn":
            raise ValueError(f"flags are those of the ISMN; {self.kind} has none")
        return self


LayerDepths = tuple[float, float]


class Rival(Section):
    """A gridded product that is scored beside the profiles, at the stations; it takes no part in them."""

    path: str = Field(
        description="its files: a folder, at any depth, a pattern with * in it, a file, or a group in Zarr; on this machine or gs://"
    )
    variables: dict[str, tuple[LayerDepths, ...]] = Field(
        min_length=1,
        description="of each variable the layer, [top, bottom] in m; or several, in the order in which they lie along its axis",
    )
    units: Literal["m3 m-3", "percent", "kg m-2"] | None = Field(
        None, description="of its values (kg m-2: of each layer); as the files say, by default"
    )
    scale: float = Field(1.0, gt=0.0, description="values are multiplied by it first")
    flags: dict[str, tuple[float, ...]] = Field(
        default_factory=dict, description="variables with the values that are allowed, such as {flag: [0]}"
    )
    steps_per_day: Positive = Field(1, description="time steps of a whole day; ingest.min_day_fraction of them make a mean")
    time: str | None = Field(None, description="name of the time, where it is not a usual one")
    latitude: str | None = Field(None, description="name of the latitude, where it is not a usual one")
    longitude: str | None = Field(None, description="name of the longitude, where it is not a usual one")

    @field_validator("variables", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        """A single layer as a list of one."""

        def is_layer(layers: Any) -> bool:
            return isinstance(layers, (list, tuple)) and bool(layers) and all(isinstance(each, (int, float)) for each in layers)

        return {name: [each] if is_layer(each) else each for name, each in value.items()} if isinstance(value, dict) else value

    @field_validator("variables")
    @classmethod
    def _are_layers(cls, value: dict[str, tuple[LayerDepths, ...]]) -> dict[str, tuple[LayerDepths, ...]]:
        for name, layers in value.items():
            if not layers:
                raise ValueError(f"{name} has no layer: give [top, bottom] in m")
            for top, bottom in layers:
                if not 0.0 <= top < bottom:
                    raise ValueError(
                        f"{name}: [{top:g}, {bottom:g}] is no layer: the top lies above the bottom, in m from the surface"
                    )
                if top >= 1.0:
                    raise ValueError(
                        f"{name}: the layer from {top:g} to {bottom:g} m lies below 1 m, where there are no profiles"
                    )
        return value

    @model_validator(mode="after")
    def _both_coordinates(self) -> Rival:
        if (self.latitude is None) != (self.longitude is None):
            raise ValueError("'latitude' and 'longitude' are named together")
        return self


class Creator(Section):
    """Somebody who has made the data set."""

    name: str = Field(description="of a person or a group, as it is to be cited")
    orcid: str | None = Field(
        None, pattern=r"^\d{4}-\d{4}-\d{4}-\d{3}[\dX]$", description="ORCID iD, such as 0000-0002-1825-0097"
    )
    email: str | None = Field(None, description="address that may be published")
    institution: str | None = Field(None, description="where they work")


class DataSet(Section):
    """What is published, as catalogues, citations and the stores themselves describe it (ACDD-1.3)."""

    title: str = Field("DeepProfile daily soil-moisture profiles, 0 to 1 m", description="of the data set")
    summary: str = Field(
        "Daily profiles of soil moisture from the surface to 1 m with their uncertainty, fused from SMAP, GLDAS Noah and "
        "ERA5-Land: the mean of a polynomial over each product's layers is matched to that product, weighted by triple "
        "collocation.",
        description="what is in it, in a few sentences",
    )
    license: str = Field("CC-BY-4.0", description="SPDX identifier or URL of the terms under which it may be used")
    creators: tuple[Creator, ...] = Field((), description="whom to cite; each with name, orcid, email, institution")
    institution: str | None = Field(None, description="where it is made")
    publisher: str | None = Field(None, description="who makes it available; the institution where not given")
    contact: str | None = Field(None, description="address for questions, which is published")
    url: str | None = Field(None, description="page about the data set")
    id: str | None = Field(None, description="its identifier, such as a DOI")
    naming_authority: str | None = Field(None, description="who has given that identifier, such as org.doi")
    project: str = Field("DeepProfile", description="that it belongs to")
    funding: str | None = Field(None, description="who has paid for it; goes into the acknowledgement")
    keywords: tuple[str, ...] = Field(
        (
            "EARTH SCIENCE > LAND SURFACE > SOILS > SOIL MOISTURE/WATER CONTENT > ROOT ZONE SOIL MOISTURE",
            "EARTH SCIENCE > LAND SURFACE > SOILS > SOIL MOISTURE/WATER CONTENT > SURFACE SOIL MOISTURE",
        ),
        min_length=1,
        description="GCMD science keywords",
    )
    attribution: str = Field(
        "Contains modified Copernicus Climate Change Service information; neither the European Commission nor ECMWF is "
        "responsible for any use that may be made of it. SMAP and GLDAS data are provided by NASA (NSIDC DAAC and GES DISC).",
        description="what the providers of the products ask for",
    )

    @property
    def acknowledgement(self) -> str:
        """Of the providers, and of those who have paid."""
        return self.attribution if self.funding is None else f"{self.attribution} {self.funding}"

    @property
    def history(self) -> str:
        """How it came about, without a time: the same inputs give the same bytes."""
        return "Daily means of the products, regridded conservatively, inverted cell by cell and day by day by deepprofile."

    @property
    def comment(self) -> str:
        """What readers should know first."""
        return "Values are means of cells and days (UTC). NaN: no product had a value there, or there is no soil."

    @property
    def references(self) -> str:
        """The paper."""
        return "Zhu et al. 2026, Remote Sensing of Environment, https://doi.org/10.1016/j.rse.2026.115408"

    def people(self) -> dict[str, str]:
        """Attributes of ACDD that name people, institutions and identifiers, as far as they are known."""
        names = ", ".join(each.name for each in self.creators)
        orcids = [f"https://orcid.org/{each.orcid}" for each in self.creators if each.orcid]
        emails = [each.email for each in self.creators if each.email] or ([self.contact] if self.contact else [])
        institution = self.institution or next((each.institution for each in self.creators if each.institution), None)
        publisher = self.publisher or institution
        said = {
            "creator_name": names or institution,
            "creator_url": ", ".join(orcids) or self.url,
            "creator_email": ", ".join(emails),
            "creator_institution": institution,
            "creator_type": "person" if names else "institution",
            "institution": institution,
            "publisher_name": publisher,
            "publisher_email": self.contact,
            "publisher_url": self.url,
            "publisher_type": "institution",
            "project": self.project,
            "id": self.id,
            "naming_authority": self.naming_authority,
            "metadata_link": self.url,
        }
        known = {key: value for key, value in said.items() if value}
        if "creator_name" not in known:
            known.pop("creator_type")
        if "publisher_name" not in known:
            known.pop("publisher_type")
        return known


class Climatology(Section):
    """What soil moisture usually is at a time of the year."""

    min_years: Positive = Field(10, description="whole calendar years that it needs; without them there is none")


class Gate(Section):
    """What a new version has to pass before readers see it."""

    outside: float = Field(0.0, ge=0.0, le=1.0, description="share of new profiles that may leave their bounds")
    lost: float = Field(0.01, ge=0.0, le=1.0, description="share of the published profiles that may be lost")
    jump: float = Field(0.05, gt=0.0, description="change of published profiles, rms over depth, cells and days, m3 m-3")
    min_days: Positive = Field(90, description="days with a comparison that a sensor needs to count for the following")
    rmse_rise: float = Field(0.005, ge=0.0, description="rise of the RMSE at stations (median), m3 m-3")
    r_fall: float = Field(0.05, ge=0.0, description="fall of R at stations (median)")
    max_rmse: float | None = Field(None, gt=0.0, description="greatest median RMSE at stations, m3 m-3")
    min_r: float | None = Field(None, le=1.0, description="least median R at stations")


class Retention(Section):
    """Which old versions 'prune' leaves; the current one, and what a run is at work on, it always leaves."""

    versions: Positive = Field(3, description="publications whose versions stay")
    days: Annotated[int, Field(ge=0)] = Field(7, description="days that anything stays, published or not")


class Blocks(Section):
    """Sizes of shards, which are the blocks that a worker computes, and of the chunks in them."""

    days: Positive = Field(366, description="days in a shard, which begin anew each 1 January: 366 are a year")
    cells: Positive = Field(64, description="rows, and columns, in a shard")
    chunk_days: Positive | None = Field(
        None, description="days in a chunk; divides days; all days of the shard where not given, which serves series of a cell"
    )
    chunk_cells: Positive = Field(8, description="rows, and columns, in a chunk; divides cells")
    map_days: Positive = Field(8, description="days of maps that are made at a time, all cells together")

    @model_validator(mode="after")
    def _divide(self) -> Blocks:
        for whole, part in (("days", "chunk_days"), ("cells", "chunk_cells")):
            if getattr(self, part) is not None and getattr(self, whole) % getattr(self, part):
                raise ValueError(f"{part} {getattr(self, part)} does not divide {whole} {getattr(self, whole)}")
        return self

    @property
    def days_in_chunk(self) -> int:
        """Days in a chunk."""
        return self.days if self.chunk_days is None else self.chunk_days


class Kubernetes(Section):
    """The Dask cluster that ``run --cluster kubernetes`` makes."""

    spec: str = Field("/etc/deepprofile/daskcluster.yaml", description="the DaskCluster as Kubernetes is given it")
    start_minutes: float = Field(10.0, gt=0.0, description="how long the cluster may take until it can compute")
    minimum_workers: Positive = Field(1, description="workers that a run waits for; the others join when they can")
    adaptive: bool = Field(False, description="as many workers as there is work for, between minimum_workers and workers")
    idle_minutes: float = Field(30.0, gt=0.0, description="a cluster whose driver is gone is removed after so long")
    clusters: Positive = Field(5, description="how many clusters a run may use up, where schedulers are lost")
    worker_pod: dict[str, Any] = Field(default_factory=dict, description="put over the worker's pod: nodeSelector, tolerations")
    scheduler_pod: dict[str, Any] = Field(default_factory=dict, description="put over the scheduler's pod")


class Compute(Section):
    """Who computes. None of this changes a byte of the stores."""

    workers: Positive = Field(2, description="workers of the cluster")
    threads: Positive = Field(1, description="threads of each worker")
    processes: bool = Field(True, description="workers are processes; false: threads of one process")
    memory_limit: Size = Field(
        ByteSize(2 * 2**30), description="of each worker, at most; a plan whose blocks need more is refused"
    )
    attempts: Positive = Field(4, description="how often a block is tried")
    storage_retry_minutes: float = Field(
        5.0, gt=0.0, description="how long the requests of a block to object storage may fail and be repeated"
    )
    kubernetes: Kubernetes = Field(default_factory=Kubernetes)
    window: Positive | None = Field(None, description="blocks under way at a time; twice the threads of all workers by default")


class Config(Section):
    """The whole configuration."""

    root: str = Field("deepprofile-data", description="folder or URL of the stores")
    grid: TargetGrid = Field(default_factory=TargetGrid)
    period: Period
    products: dict[str, ProductSource]
    ingest: Ingest = Field(default_factory=Ingest)
    collocation: Collocation = Field(default_factory=Collocation)
    inversion: Inversion = Field(default_factory=Inversion)
    stations: tuple[Stations, ...] = ()
    rivals: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")], Rival] = Field(
        default_factory=dict, description="gridded products that are scored beside the profiles, by name"
    )
    climatology: Climatology = Field(default_factory=Climatology)
    dataset: DataSet = Field(default_factory=DataSet)
    gate: Gate = Field(default_factory=Gate)
    retention: Retention = Field(default_factory=Retention)
    blocks: Blocks = Field(default_factory=Blocks)
    compute: Compute = Field(default_factory=Compute)

    @field_validator("products")
    @classmethod
    def _known(cls, value: dict[str, ProductSource]) -> dict[str, ProductSource]:
        if not value:
            raise ValueError("no product is given")
        for name, source in value.items():
            if name not in PRODUCTS:
                raise ValueError(f"there is no product {name!r}; known are {', '.join(PRODUCTS)}")
            if source.download is not None and ("*" in source.granules or source.granules.startswith(MIRROR)):
                raise ValueError(f"{name}: granules are downloaded into a folder, not into {source.granules!r}")
            if source.grid is not None and source.grid != PRODUCTS[name].grid.name and (name, source.grid) not in VARIANTS:
                raise ValueError(f"{name} does not come on the grid {source.grid!r}")
        return value

    @model_validator(mode="after")
    def _scored_somewhere(self) -> Config:
        if self.rivals and not self.stations:
            raise ValueError("rivals are scored at stations: name some under 'stations'")
        return self

    def product(self, name: str) -> Product:
        """A product as it is configured."""
        return VARIANTS.get((name, self.products[name].grid or ""), PRODUCTS[name])

    def outages(self, name: str) -> tuple[Outage, ...]:
        """Days of which a product's provider has nothing, as announced and as configured."""
        more = (Outage(np.datetime64(a, "D"), np.datetime64(b, "D"), "") for a, b in self.products[name].outages)
        return (*self.product(name).outages, *more)

    def latency(self, name: str) -> Latency:
        """When granules of a product are to be expected."""
        source, product = self.products[name], self.product(name)
        days = product.latency_days if source.latency_days is None else source.latency_days
        final = product.final_latency_days if source.final_latency_days is None else source.final_latency_days
        return Latency(days, max(days, days if final is None else final))


def load(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read and check a configuration.

    Raises
    ------
    ConfigError
        With the line of the file, or the override, that is wrong.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{where}: not valid YAML ({getattr(error, 'problem', None) or error})") from error
    document = {} if document is None else document
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: a configuration is a mapping of keys to values, not a {type(document).__name__}")
    said: dict[tuple[str, ...], str] = {}
    for override in overrides:
        key = _apply(document, override)
        said[key] = f"--set {override}"
    try:
        return _resolved(Config.model_validate(document), path.parent)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(path, node, said, dict(e)) for e in error.errors())) from error


def _resolved(config: Config, folder: Path) -> Config:
    """Relative paths count from the folder of the configuration."""

    def absolute(url: str) -> str:
        if url.startswith(MIRROR):
            return MIRROR + absolute(url.removeprefix(MIRROR))
        return url if "://" in url or url.startswith("/") else str((folder / url).resolve())

    bounds = tuple(
        b.model_copy(update={"path": absolute(b.path)}) if isinstance(b, GridBound) else b for b in config.inversion.bounds
    )
    return config.model_copy(
        update={
            "inversion": config.inversion.model_copy(update={"bounds": bounds}),
            "root": absolute(config.root),
            "products": {n: s.model_copy(update={"granules": absolute(s.granules)}) for n, s in config.products.items()},
            "stations": tuple(s.model_copy(update={"path": absolute(s.path)}) for s in config.stations),
            "rivals": {n: r.model_copy(update={"path": absolute(r.path)}) for n, r in config.rivals.items()},
        }
    )


def _apply(document: dict[str, Any], override: str) -> tuple[str, ...]:
    key, separator, text = override.partition("=")
    parts = tuple(key.strip().split("."))
    if not separator or not all(parts):
        raise ConfigError(f"--set {override}: write it as key=value, such as inversion.method=wls")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: {text!r} is not valid YAML") from error
    at: Any = document
    for part in parts[:-1]:
        at = at.setdefault(part, {}) if isinstance(at, dict) else None
        if not isinstance(at, dict):
            raise ConfigError(f"--set {override}: {part} has no keys below it")
    at[parts[-1]] = value
    return parts


# Keys of earlier versions, and what to do without them.
_GONE: Final = {"ingest.tiles": "a block has the whole window now, and reads a granule once; remove the key"}


def _explain(path: Path, node: Any, said: dict[tuple[str, ...], str], error: dict[str, Any]) -> str:
    location = tuple(str(part) for part in error["loc"])
    # Which form a bound has is no key: inversion.bounds.1.grid.path is inversion.bounds.1.path.
    location = tuple(part for k, part in enumerate(location) if not (k and part in _FORMS and location[k - 1].isdigit()))
    # An override says the key that is wrong, or one of the section in which two do not go together.
    where = next((text for key, text in said.items() if location and location[: len(key)] == key[: len(location)]), None)
    if where is None:
        line = _line(node, location)
        where = f"{path}, line {line}" if line else str(path)
    name = ".".join(location)
    if error["type"] == "extra_forbidden":
        if name in _GONE:
            return f"{where}: {name} is gone: {_GONE[name]}"
        parent = _section(location[:-1])
        return f"{where}: there is no key {name!r}" + (f"; known are {', '.join(parent.model_fields)}" if parent else "")
    if error["type"] == "missing":
        return f"{where}: {NO_END}" if name == "period.end" else f"{where}: {name!r} is missing"
    message = str(error["msg"]).removeprefix("Value error, ")
    given = "" if error["type"] == "value_error" else f" (it is {error['input']!r})"
    return f"{where}: {name + ': ' if name else ''}{message}{given}"


def _section(location: Sequence[str]) -> type[BaseModel] | None:
    kind: Any = Config
    for part in location:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            field = kind.model_fields.get(part)
            kind = None if field is None else _without_none(field.annotation)
        else:
            kind = _member(kind)
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _member(kind: Any) -> Any:
    """The section that a mapping or a list holds; None where it holds none."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind
    return next((found for each in get_args(kind) if (found := _member(each)) is not None), None)


def _without_none(kind: Any) -> Any:
    """``X`` of ``X | None``."""
    kinds = [each for each in get_args(kind) if each is not type(None)]
    return kinds[0] if len(kinds) == 1 and type(None) in get_args(kind) else kind


def _line(node: Any, location: Sequence[str]) -> int | None:
    """Line of a key in the file; that of the nearest key above it where it is not there."""
    line = node.start_mark.line + 1 if node is not None else None
    for part in location:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if str(key.value) == part:
                    line, node = key.start_mark.line + 1, value
                    break
            else:
                return line
        elif isinstance(node, yaml.SequenceNode) and part.isdigit() and int(part) < len(node.value):
            node = node.value[int(part)]
            line = node.start_mark.line + 1
        else:
            return line
    return line


def documented(section: type[BaseModel] = Config, indent: int = 0) -> str:
    """Every key with its default and what it means, as YAML with comments."""
    lines = []
    for name, field in section.model_fields.items():
        pad = "  " * indent
        kind = _without_none(field.annotation)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            lines += [f"{pad}{name}:  # {(kind.__doc__ or '').splitlines()[0]}", documented(kind, indent + 1)]
        elif name == "products":
            lines += [
                f"{pad}products:",
                f"{pad}  smap_l4:  # any of {', '.join(PRODUCTS)}",
                documented(ProductSource, indent + 2),
            ]
        elif name == "rivals":
            lines += [
                f"{pad}rivals:",
                f"{pad}  esa_cci_rzsm:  # {(Rival.__doc__ or '').splitlines()[0]}",
                documented(Rival, indent + 2),
            ]
        elif name == "creators":
            lines += [
                f"{pad}creators:",
                f"{pad}  -  # {(Creator.__doc__ or '').splitlines()[0]}",
                documented(Creator, indent + 2),
            ]
        elif name == "stations":
            lines += [
                f"{pad}stations:",
                f"{pad}  -  # {(Stations.__doc__ or '').splitlines()[0]}",
                documented(Stations, indent + 2),
            ]
        else:
            given = "" if field.is_required() else _plain(field.get_default(call_default_factory=True))
            default = "" if field.is_required() else yaml.safe_dump(given, default_flow_style=True, width=10**6).splitlines()[0]
            lines.append(f"{pad}{name}: {default}  # {field.description or ''}".rstrip(" #"))
    return "\n".join(lines)


def _plain(value: Any) -> Any:
    if isinstance(value, ByteSize):
        return f"{value / 2**30:g}GiB"
    return [_plain(v) for v in value] if isinstance(value, (tuple, list)) else value
