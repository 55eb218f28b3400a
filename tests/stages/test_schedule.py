"""The life of a schedule: a run a day, in simulated time, as granules come, come late, are replaced and are withdrawn."""

from __future__ import annotations

import os
import shutil

import h5py
import numpy as np
import pytest
import yaml
from deepprofile import config as configuration
from deepprofile import twin
from deepprofile.execution.pools import ThreadPool
from deepprofile.sources.products import PRODUCTS
from deepprofile.stages.pipeline import STAGES, Request, run_stages, status_of
from deepprofile.stages.schedule import AsOf
from deepprofile.storage.roots import Root
from deepprofile.twin.granules import write_granules, write_stations

from tests.support.granules import NAMES, document, tree

# The year ends on the 30th day.
FIRST, SIMULATED = np.datetime64("2015-12-02"), 245
LAST = int(os.environ.get("DEEPPROFILE_TEST_SCHEDULE_DAYS", "46"))
# Days after which granules come: SMAP; ERA5-Land provisional and final; GLDAS early and final.
SMAP, ERA5, ERA5_FINAL, GLDAS_EARLY, GLDAS = 3, 5, 20, 10, 15
LATENCY = {
    "smap_l4": {"latency_days": SMAP},
    "smap_l3": {"latency_days": SMAP},
    "era5_land": {"latency_days": ERA5, "final_latency_days": ERA5_FINAL},
    "gldas_noah": {"latency_days": GLDAS_EARLY, "final_latency_days": GLDAS},
}


def at(day):
    return FIRST + np.timedelta64(day, "D")


def shifted(path, target, by, expver=None):
    """A copy of a granule with other values."""
    shutil.copyfile(path, target)
    with h5py.File(target, "a") as file:
        names = []
        file.visit(lambda name: names.append(name) if name.split("/")[-1].startswith(("swvl", "SoilMoi", "sm_")) else None)
        for name in names:
            file[name][...] = file[name][...] + np.float32(by)
        if expver is not None:
            file["expver"][...] = np.array([expver] * file["expver"].size)


@pytest.fixture(scope="session")
def archive(tmp_path_factory):
    """Everything that the providers will ever have: final granules, those that come before them, and one that was replaced."""
    world = twin.simulate((10, 7), (SIMULATED + LAST + 1) / 360, seed=5, stations=1)
    folder = tmp_path_factory.mktemp("archive")
    write_granules(world, folder, slice(SIMULATED, SIMULATED + LAST + 1))
    write_stations(world, folder)
    (folder / "early").mkdir()
    for path in (folder / "era5_land").iterdir():
        shifted(path, folder / "early" / path.name, 0.01, b"0005")
    for path in (folder / "gldas_noah").iterdir():
        shifted(path, folder / "early" / path.name.replace("_3H.", "_3H_EP."), -0.01)
    (folder / "replaced").mkdir()
    for path in (folder / "smap_l4").glob(f"*_{str(at(14)).replace('-', '')}T*"):
        shifted(path, folder / "replaced" / path.name, 0.02)
    return world, folder


class Provider:
    """Puts granules where the pipeline looks for them, day by day."""

    def __init__(self, archive, folder):
        self.archive, self.folder = archive, folder
        for name in NAMES:
            (folder / name).mkdir(parents=True)
        # By day: files of each product.
        self.files = {name: {} for name in NAMES}
        for name in NAMES:
            for path in sorted((archive / name).iterdir()):
                day = int((PRODUCTS[name].parse(path.name).first_day - FIRST).astype(int))
                self.files[name].setdefault(day, []).append(path)

    def put(self, name, paths):
        for path in paths:
            target = self.folder / name / path.name
            target.unlink(missing_ok=True)
            os.link(path, target)

    def early(self, name, day):
        """What comes before the final granules of a day."""
        early = self.archive / "early"
        return [early / path.name.replace("_3H.", "_3H_EP.") for path in self.files[name].get(day, [])]

    def deliver(self, today):
        """What comes on a day."""
        for name in ("smap_l4", "smap_l3"):
            # SMAP was silent for a while, and what it had seen came late; some of it never did.
            silent = 12 <= today - SMAP < 16
            late = range(12, 16) if today - SMAP == 19 and name == "smap_l4" else ()
            for day in late if late else (() if silent else (today - SMAP,)):
                self.put(name, self.files[name].get(day, []))
            if late:
                self.put(name, self.files[name].get(today - SMAP, []))
        self.put("era5_land", self.early("era5_land", today - ERA5))
        self.put("era5_land", self.files["era5_land"].get(today - ERA5_FINAL, []))
        self.put("gldas_noah", self.early("gldas_noah", today - GLDAS_EARLY))
        self.put("gldas_noah", self.files["gldas_noah"].get(today - GLDAS, []))
        if today == 30:
            self.put("smap_l4", sorted((self.archive / "replaced").iterdir()))
        if today == 32:
            for path in self.files["smap_l3"][10]:
                (self.folder / "smap_l3" / path.name).unlink()


class Killed(BaseException):
    """The end of a process."""


class DyingPool(ThreadPool):
    """Ends with the process after so many blocks."""

    def __init__(self, blocks):
        super().__init__(1)
        self.left = blocks

    def submit(self, function, *arguments):
        self.left -= 1
        if self.left < 0:
            raise Killed
        return super().submit(function, *arguments)


def configured(world, archive, folder, root):
    made = document(world, archive, folder / root, period={"start": str(FIRST), "end": str(at(LAST))})
    made["products"] = {name: {"granules": str(folder / "granules" / name), **LATENCY[name]} for name in NAMES}
    made["collocation"] |= {"every_days": 15}
    # What is there of the first days is little.
    made["gate"] = {"jump": 0.2, "lost": 0.5}
    path = folder / f"{root}.yaml"
    path.write_text(yaml.safe_dump(made))
    return configuration.load(path)


def run(config, today, pool=None, collocate=None):
    moment = AsOf(at(today), at(today))
    results = run_stages(config, STAGES, pool or ThreadPool(2), request=Request(moment, collocate))
    return {result.stage: result for result in results}


@pytest.fixture(scope="session")
def life(archive, tmp_path_factory):
    """Every day's results, the last state of the stores, and those of one run over everything."""
    world, everything = archive
    folder = tmp_path_factory.mktemp("schedule")
    config = configured(world, everything, folder, "root")
    provider = Provider(everything, folder / "granules")
    days = {}
    killed = {8: 3, 18: 6, 25: 1, 36: 8}
    for today in range(SMAP, LAST + 1):
        provider.deliver(today)
        if today in killed:
            with pytest.raises(Killed):
                run(config, today, DyingPool(killed[today]))
            if today == 18:
                # Nobody comes back on that day: the next one finds what was left.
                continue
        days[today] = run(config, today, collocate=True if today == LAST else None)
    once = configured(world, everything, folder, "once")
    run(once, LAST)
    return {"days": days, "config": config, "once": once}


def test_the_stores_equal_those_of_one_run_over_everything(life):
    assert {name.split("/")[1] for name in tree(life["once"].root) if name.startswith("profile")} == {"2015", "2016"}
    assert tree(life["config"].root) == tree(life["once"].root)
    assert Root(life["config"].root).current() == Root(life["once"].root).current()


def test_what_is_not_due_is_no_problem_and_what_is_late_is(life):
    for today, results in life["days"].items():
        problems = {stage: result.problems for stage, result in results.items() if result.problems}
        silent = today >= 16
        assert (set(problems) <= {"ingest/smap_l4", "ingest/smap_l3"}) if silent else not problems, (today, problems)
    # Days 12 to 15 are missed from the day on which they are past their latency; L3 never came.
    assert life["days"][16]["ingest/smap_l4"].problems == (f"{at(12)}: 8 of 8 time steps of smap_l4 are missing",)
    assert life["days"][22]["ingest/smap_l4"].problems == ()
    assert len(life["days"][LAST]["ingest/smap_l3"].problems) == 5


def test_the_work_of_a_day_is_in_proportion_to_what_has_changed(life):
    usual = {
        today: results
        for today, results in life["days"].items()
        if today > 23 and "collocate/weights" not in results and today not in (30, 32)
    }
    assert len(usual) > 12
    for today, results in usual.items():
        # One day each, in one stretch of days; ERA5-Land and GLDAS also what has become final.
        for name, stretches in (("smap_l4", 1), ("smap_l3", 1), ("era5_land", 2), ("gldas_noah", 2)):
            progress = results[f"ingest/{name}"].progress
            across = progress.blocks // (1 + today // 24)
            assert progress.done <= 2 * stretches * max(across, 1), (today, name, progress)
        inverted = results["invert"].progress
        assert inverted.done + inverted.copied + inverted.skipped == inverted.blocks
        assert inverted.done <= 20, (today, inverted)


def test_states_of_days(life):
    days = status_of(life["config"], AsOf(at(LAST), at(LAST)))["days"]
    assert days["era5_land"][str(at(LAST - ERA5_FINAL))] == "there"
    assert days["era5_land"][str(at(LAST - ERA5_FINAL + 1))] == "provisional"
    assert days["era5_land"][str(at(LAST - ERA5 + 1))] == "not due"
    assert days["smap_l3"][str(at(13))] == "missing"
    assert days["gldas_noah"][str(at(LAST - GLDAS + 1))] == "provisional"
    assert days["gldas_noah"][str(at(LAST))] == "not due"
