"""Maps: each day of the profiles at several levels of detail, for pages and plots of whole continents.

Levels are nested from the origin of the whole grid, whatever window of it the profiles cover: each has half of the resolution
of the one before it. A cell of a coarser level is the mean, by area, over the cells in it, where at least half of its area has
a profile. Coefficients are linear in the profiles, so theirs are means of profiles at every depth.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import product as combinations
from math import prod
from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from deepprofile.config import Config
from deepprofile.core.basis import basis_mean
from deepprofile.core.climatology import pentad_of, percentile
from deepprofile.execution.blocks import Block, Job, Outcome, Workload, grid_blocks
from deepprofile.grids.grids import GEOGRAPHIC, Grid
from deepprofile.stages import invert
from deepprofile.stages.domain import Domain
from deepprofile.stages.increments import BlockInputs, DayFingerprints
from deepprofile.stages.plan import Expected, StagePlan, Step, VersionPlan
from deepprofile.stages.profiles import Profiles, prototype
from deepprofile.stages.publish import climatology, layers, schemas
from deepprofile.stages.publish.layers import layer_means
from deepprofile.stages.publish.schemas import MAP_CHUNK, MAP_COARSEST, MAP_COEFFICIENTS, MAP_SHARD, ROOT_ZONE, USUAL_LAYERS
from deepprofile.stages.publish.years import StoreYear
from deepprofile.storage.fingerprints import fingerprint
from deepprofile.storage.objects import copy_objects
from deepprofile.storage.packing import Packing
from deepprofile.storage.roots import Root, part_name
from deepprofile.storage.stores import Template, object_shape, objects_in, read_region, write_chunks, write_shards

# The version of what turns profiles into maps.
ALGORITHM: Final = 1
STORE: Final = "map"
STAGE: Final = "publish/map"
# Rows and columns of the whole grid that are read and put together at a time: a multiple of the coarsest level.
TILE: Final = 64
PLANES: Final = ("deviation", "percentile", "source")


def levels_of(grid: Grid) -> dict[str, Grid]:
    """The levels of a grid by name, the finest first: windows of grids of which each has half of the resolution before it.

    Names say the width of a cell: ``9km``, or ``0.25deg``.
    """
    found, factor = {}, 1
    km = grid.dx / 1000.0
    # EASE-Grid 2.0 M36 begins where the levels of M09 have got to.
    coarsest = MAP_COARSEST if grid.crs == GEOGRAPHIC or km < 18.0 else 2
    while factor <= coarsest and grid.whole_rows % factor == 0 and grid.whole_columns % factor == 0:
        first_row, first_column = grid.first_row // factor, grid.first_column // factor
        last_row = -(-(grid.first_row + grid.rows) // factor)
        last_column = -(-(grid.first_column + grid.columns) // factor)
        name = f"{factor * grid.dx:g}deg" if grid.crs == GEOGRAPHIC else f"{round(factor * km)}km"
        found[name] = replace(
            grid,
            name=grid.name if factor == 1 else f"{grid.name}_x{factor}",
            dx=factor * grid.dx,
            dy=factor * grid.dy,
            whole_rows=grid.whole_rows // factor,
            whole_columns=grid.whole_columns // factor,
            first_row=first_row,
            first_column=first_column,
            rows=last_row - first_row,
            columns=last_column - first_column,
        )
        factor *= 2
    return found


def row_weights(grid: Grid) -> NDArray[np.int64]:
    """Area of the cells of each row, as whole numbers whose sums are exact; all the same on an equal-area grid."""
    if grid.crs != GEOGRAPHIC:
        return np.ones(grid.rows, np.int64)
    edges = np.deg2rad(np.clip(grid.north + (grid.first_row + np.arange(grid.rows + 1)) * grid.dy, -90.0, 90.0))
    areas = np.rint(np.abs(np.diff(np.sin(edges))) / abs(np.deg2rad(grid.dy)) * 2.0**16)
    return np.asarray(np.maximum(areas, 1.0), np.int64)


@dataclass(frozen=True)
class Tile:
    """What a part of the finest level holds, as whole numbers, for some days.

    ``coefficients`` (degree, day, row, column): codes of the profiles' store; ``there`` (day, row, column): whether there is a
    profile; ``planes`` (day, row, column): codes of the planes, of which a percentile below 0 stands for none.
    """

    coefficients: NDArray[np.int64]
    there: NDArray[np.bool_]
    planes: Mapping[str, NDArray[np.int64]]


def coarser(values: NDArray[np.int64], there: NDArray[np.bool_], weights: NDArray[np.int64], factor: int) -> NDArray[Any]:
    """Means, by area, over squares of cells of which some are there; NaN where less than half of the area is.

    Sums are of whole numbers: the result does not depend on how cells are divided into tiles.

    Parameters
    ----------
    values, there
        Shapes (..., day, row, column) and (day, row, column).
    weights
        Area of the cells of each row.
    factor
        Cells along each side of a square.
    """
    *lead, rows, columns = values.shape
    out = np.empty((*lead, rows // factor, columns // factor))
    _coarser(values.reshape(-1, rows, columns), there, weights, factor, out.reshape(-1, *out.shape[-2:]))
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def _coarser(values: Any, there: Any, weights: Any, factor: int, out: Any) -> None:
    for k in range(out.shape[0]):
        day = k % there.shape[0]
        for i in range(out.shape[1]):
            for j in range(out.shape[2]):
                total, area, whole = 0, 0, 0
                for row in range(i * factor, (i + 1) * factor):
                    whole += factor * weights[row]
                    for column in range(j * factor, (j + 1) * factor):
                        if there[day, row, column]:
                            total += weights[row] * values[k, row, column]
                            area += weights[row]
                out[k, i, j] = total / area if area > 0 and 2 * area >= whole else np.nan


@dataclass(frozen=True)
class MapBlock:
    """Makes the maps of some days.

    ``sources``: what the map ``source`` shows of the flags of profiles: the mask of each product. ``pentads``: of each day of
    the year; ``climatology_url``: None where there is no climatology.
    """

    grid: Grid
    levels: Mapping[str, Grid]
    profile_url: str
    layers_url: str
    climatology_url: str | None
    packing: Packing
    sources: tuple[int, ...]
    pentads: tuple[int, ...]
    url: str

    def __call__(self, block: Block, given: BlockInputs) -> Outcome:
        """See ``deepprofile.execution.blocks.Job``."""
        ((start, stop),) = block.region
        fresh = [start + k for k in given.fresh(stop - start)]
        if given.earlier is not None and given.earlier.url != self.url:
            self._take_over(given.earlier.url, [start + k for k in given.earlier.unchanged])
        if not fresh:
            return Outcome()
        read = written = 0
        tiles: dict[tuple[int, int], dict[str, dict[str, NDArray[Any]]]] = {}
        for corner in self._corners():
            tile, size = self._tile(corner, (fresh[0], fresh[-1] + 1))
            read += size
            if tile is not None:
                tiles[corner] = dict(self._levels_of(tile, corner))
        for day in fresh:
            for name, grid in self.levels.items():
                factor = round(grid.dx / self.grid.dx)
                written += self._write(name, grid, factor, day, day - fresh[0], tiles)
        return Outcome(read, written)

    def _corners(self) -> Iterator[tuple[int, int]]:
        """First row and column of every tile, on the whole grid."""
        grid = self.grid
        for row in range(grid.first_row // TILE * TILE, grid.first_row + grid.rows, TILE):
            for column in range(grid.first_column // TILE * TILE, grid.first_column + grid.columns, TILE):
                yield row, column

    def _tile(self, corner: tuple[int, int], days: tuple[int, int]) -> tuple[Tile | None, int]:
        """What there is of a tile on some days, None where there is no profile; and the bytes that were read."""
        grid, count = self.grid, days[1] - days[0]
        row, column = corner[0] - grid.first_row, corner[1] - grid.first_column
        rows, columns = (max(row, 0), min(row + TILE, grid.rows)), (max(column, 0), min(column + TILE, grid.columns))
        own = (slice(*days), slice(*rows), slice(*columns))
        inside = (..., slice(rows[0] - row, rows[1] - row), slice(columns[0] - column, columns[1] - column))
        coefficients = read_region(self.profile_url, "coefficients", (slice(None), *own))
        read = coefficients.nbytes
        if not np.isfinite(coefficients[0]).any():
            return None, read
        codes = np.zeros((len(coefficients), count, TILE, TILE), np.int64)
        there = np.zeros((count, TILE, TILE), bool)
        there[inside] = np.isfinite(coefficients[0])
        codes[inside] = self.packing.encode(np.nan_to_num(coefficients))
        planes = {name: np.zeros((count, TILE, TILE), np.int64) for name in PLANES}
        deviation = read_region(self.layers_url, "root_zone_standard_deviation", own)
        planes["deviation"][inside] = schemas.DEVIATION.encode(np.nan_to_num(deviation))
        flags = read_region(self.profile_url, "flags", own)
        for k, mask in enumerate(self.sources):
            planes["source"][inside] |= ((flags & mask) != 0).astype(np.int64) << k
        read += deviation.nbytes + flags.nbytes
        planes["percentile"][...] = -1
        if self.climatology_url is not None:
            found, size = self._percentiles(coefficients, own)
            planes["percentile"][inside] = np.where(np.isfinite(found), np.rint(2.0 * np.nan_to_num(found)), -1)
            read += size
        return Tile(codes, there, planes), read

    def _percentiles(self, coefficients: NDArray[np.float32], own: tuple[slice, slice, slice]) -> tuple[NDArray[Any], int]:
        """Percentiles (day, row, column) of the mean from 0 to 1 m."""
        assert self.climatology_url is not None
        top, bottom = ROOT_ZONE
        layer = USUAL_LAYERS.index(ROOT_ZONE)
        means = layer_means(coefficients, basis_mean([top], [bottom], len(coefficients) - 1))[:, 0]
        out, read, known = np.empty_like(means), 0, (-1, np.empty(0, np.float32))
        for k, day in enumerate(range(own[0].start, own[0].stop)):
            pentad = self.pentads[day]
            if pentad != known[0]:
                region = (slice(pentad, pentad + 1), slice(None), slice(layer, layer + 1), *own[1:])
                known = pentad, read_region(self.climatology_url, "soil_moisture", region)[0, :, 0]
                read += known[1].nbytes
            out[k] = percentile(means[k], known[1])
        return out, read

    def _levels_of(self, tile: Tile, corner: tuple[int, int]) -> Iterator[tuple[str, dict[str, NDArray[Any]]]]:
        """The values of a tile at every level, as they are stored."""
        whole = self.grid.whole.window(corner[0], 0, min(TILE, self.grid.whole_rows - corner[0]), 1)
        weights = np.ones(TILE, np.int64)
        weights[: whole.rows] = row_weights(whole)
        for name, grid in self.levels.items():
            factor = round(grid.dx / self.grid.dx)
            mean = partial(coarser, weights=weights, factor=factor)
            found: dict[str, NDArray[Any]] = {}
            coefficients = self.packing.offset + self.packing.scale * mean(tile.coefficients, tile.there)
            there = np.isfinite(coefficients[0])
            found["coefficients"] = MAP_COEFFICIENTS.encode(coefficients)
            deviation = mean(tile.planes["deviation"], tile.there) * schemas.DEVIATION.scale
            found["deviation"] = schemas.MAP_DEVIATION.encode(np.minimum(deviation, schemas.MAP_DEVIATION.limits[1]))
            of_climatology = tile.there & (tile.planes["percentile"] >= 0)
            found["percentile"] = schemas.MAP_PERCENTILE.encode(0.5 * mean(tile.planes["percentile"], of_climatology))
            source = np.zeros(there.shape, np.uint8)
            for k in range(len(self.sources)):
                share = mean(tile.planes["source"] >> k & 1, tile.there)
                source |= ((np.nan_to_num(share) >= 0.5).astype(np.uint8) << k).astype(np.uint8)
            found["source"] = source
            yield name, found

    def _write(
        self,
        name: str,
        grid: Grid,
        factor: int,
        day: int,
        place: int,
        tiles: Mapping[tuple[int, int], Mapping[str, Mapping[str, NDArray[Any]]]],
    ) -> int:
        """Put the tiles of a level together, and write the map of a day; ``place``: of the day in the tiles."""
        fills = {"coefficients": MAP_COEFFICIENTS, "deviation": schemas.MAP_DEVIATION, "percentile": schemas.MAP_PERCENTILE}
        edge, written = TILE // factor, 0
        degrees = next((each[name]["coefficients"].shape[0] for each in tiles.values()), None)
        if degrees is None:
            return 0
        write = write_chunks if name == list(self.levels)[-1] else partial(write_shards, sparse=True)
        for array in ("coefficients", *PLANES):
            lead = (degrees,) if array == "coefficients" else ()
            packing = fills.get(array)
            fill, kind = (packing.fill, packing.dtype) if packing else (0, "uint8")
            rows, columns = object_shape(self.url, f"{name}/{array}")[-2:]
            # Object after object: of the globe no array is put together as a whole.
            for first, start in combinations(range(0, grid.rows, rows), range(0, grid.columns, columns)):
                size = min(rows, grid.rows - first), min(columns, grid.columns - start)
                whole = np.full((*lead, *size), fill, kind)
                for (row, column), of_levels in tiles.items():
                    top, left = row // factor - grid.first_row - first, column // factor - grid.first_column - start
                    a, b = max(top, 0), min(top + edge, size[0])
                    c, d = max(left, 0), min(left + edge, size[1])
                    if a < b and c < d:
                        part = of_levels[name][array][..., place, :, :]
                        whole[..., a:b, c:d] = part[..., a - top : b - top, c - left : d - left]
                written += write(self.url, f"{name}/{array}", (day, *(0 for _ in lead), first, start), whole[None])
        return written

    def _take_over(self, earlier: str, days: list[int]) -> None:
        """The maps of days that have not changed."""
        names = []
        for name, grid in self.levels.items():
            for array in ("coefficients", *PLANES):
                # All degrees lie in one object.
                lead = (1,) if array == "coefficients" else ()
                for day in days:
                    corner, size = (day, *(0 for _ in lead), 0, 0), (1, *lead, *grid.shape)
                    names += objects_in(self.url, f"{name}/{array}", corner, size)
        copy_objects(earlier, self.url, names)


def template(profiles: Profiles, year: Domain) -> Template:
    """The store of a year before anything is computed."""
    products = profiles.model.comparison.products
    return schemas.maps(year, levels_of(year.grid), prototype(profiles), products)


def workload(profiles: Profiles) -> Workload:
    """Blocks of all years and their cost."""
    return Workload.joined([_workload_of_year(profiles, year) for year in profiles.domain.years])


def _workload_of_year(profiles: Profiles, year: Domain) -> Workload:
    days, degrees = min(year.blocks.map_days, year.length), profiles.degrees
    blocks = -(-year.length // year.blocks.map_days)
    shard = -(-year.blocks.days // year.blocks.days_in_chunk)
    return Workload(
        name="publish: maps",
        blocks=grid_blocks((year.length,), (year.blocks.map_days,), year.year),
        # Codes of all levels on all days, a third more than those of the finest; an object of a day, its chunks, and those as
        # they are written; a tile as it is read, and as whole numbers.
        memory_per_block=int(year.cells * days * (degrees * 2 + 3) * 4 / 3)
        + min(year.cells, prod(MAP_CHUNK) * prod(MAP_SHARD)) * degrees * 10
        + TILE * TILE * days * degrees * 40,
        # Chunks of profiles hold many days: each block reads all of them.
        bytes_in=year.cells * year.length * (degrees * 2 + 1) * max(blocks // shard, 1),
        bytes_out=year.cells * year.length * (degrees * 2 + 3) * 4 // 3,
    )


def plan(profiles: Profiles, root: Root, versions: Mapping[str, str], remark: str | None = None) -> StagePlan:
    """Plan the maps of every year; ``remark``: what a user should know of them."""
    years = tuple(_plan_year(profiles, year, root, versions) for year in profiles.domain.years)
    return StagePlan(STAGE, STORE, years, lambda _: [remark] if remark is not None else [])


def _plan_year(profiles: Profiles, year: Domain, root: Root, versions: Mapping[str, str]) -> VersionPlan:
    products, made = profiles.model.comparison.products, template(profiles, year)
    # Layers depend on all that profiles do, and on the covariances besides.
    known = StoreYear.of(year, layers.STORE, layers.STAGE, root, versions)
    store, of_profiles, of_layers = (part_name(name, year.year) for name in (STORE, invert.STORE, layers.STORE))
    usual = versions.get(climatology.STORE)
    flags = prototype(profiles)["flags"].attrs
    masks = dict(zip(str(flags["flag_meanings"]).split(), flags["flag_masks"], strict=True))
    packing = invert.template(profiles, year).variables["coefficients"].packing
    assert packing is not None
    layout = {name: (v.shards, v.chunks, v.stored_dtype) for name, v in made.variables.items()}
    # A map is made of all blocks.
    settled = fingerprint("map", ALGORITHM, dict(made.attrs), layout, usual, known.blocks)
    version = fingerprint(settled, known.version)
    url = root.version(store, version)
    task = MapBlock(
        year.grid,
        levels_of(year.grid),
        root.version(of_profiles, versions[of_profiles]),
        known.url,
        root.version(climatology.STORE, usual) if usual is not None else None,
        packing,
        tuple(masks[f"uses_{name}"] for name in products),
        tuple(pentad_of(year.days).tolist()),
        url,
    )

    def static_fingerprint(_: Block) -> str:
        return settled

    by_day = DayFingerprints(known.marks, static_fingerprint)
    job = Job(_workload_of_year(profiles, year), task, by_day.fingerprint, static_fingerprint, lambda _: BlockInputs())
    inputs = {name: versions[name] for name in (of_profiles, of_layers)}
    inputs |= {} if usual is None else {climatology.STORE: usual}
    return VersionPlan(store, version, made, job, url, inputs, marks=by_day, part=year.year)


def steps(config: Config) -> list[Step]:
    """The maps."""
    profiles = Profiles.of(config)
    expected = Expected(profiles.domain.grid, days=profiles.domain.days)
    lacking = climatology.lacking(config)
    reads = (invert.STORE, layers.STORE, *((climatology.STORE,) if lacking is None else ()))
    planned = partial(plan, profiles, remark=f"maps are without percentiles: {lacking}" if lacking else None)
    return [Step("publish", STORE, reads, partial(workload, profiles), planned, expected)]
