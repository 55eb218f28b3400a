"""The engine on jobs that have nothing to do with soil moisture."""

import datetime as dt
import enum
import json
import sys
import threading
import types
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from deepprofile.execution.blocks import COPIED, DONE, FAILED, INCOMPLETE, Job, Jobs, Outcome, Record, Workload, grid_blocks
from deepprofile.execution.engine import MOST_FAILURES, Retry, run_job, run_jobs
from deepprofile.execution.errors import JobFailedError, PoolLostError, WorkerLostError
from deepprofile.execution.ledger import Ledger
from deepprofile.execution.pools import DaskPool, ThreadPool
from deepprofile.storage import objects
from deepprofile.storage.documents import NewerDocumentError
from deepprofile.storage.fingerprints import fingerprint

AT_ONCE = Retry(attempts=3, wait_seconds=0.001)


@dataclass
class Work:
    """Counts how often each block is computed, and fails as often as it is told to."""

    failures: dict[str, int] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    error: Callable[[str], Exception] = OSError
    calls: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, block, inputs):
        with self.lock:
            self.calls.append(block.name)
            left = self.failures.get(block.name, 0)
            self.failures[block.name] = left - 1
        if left > 0:
            raise self.error(f"no luck with {block.name}")
        problems = (self.problems[block.name],) if block.name in self.problems else ()
        return Outcome(10, 5, problems, {"inputs": inputs})


def make_job(work, count=6, marks=None, **options):
    marks = marks or {}
    blocks = grid_blocks((count,), (1,))
    return Job(Workload("test", blocks), work, lambda block: fingerprint(block.region, marks.get(block.name)), **options)


def test_blocks_cover_an_array_once():
    blocks = grid_blocks((5, 3), (2, 3))
    assert [b.name for b in blocks] == ["0.0", "1.0", "2.0"]
    assert [b.region for b in blocks] == [((0, 2), (0, 3)), ((2, 4), (0, 3)), ((4, 5), (0, 3))]


def test_blocks_are_a_sequence_whose_members_are_made_when_they_are_asked_for():
    blocks = grid_blocks((5, 3, 9), (2, 3, 4))
    every = list(blocks)
    assert len(blocks) == len(every) == 9
    assert [blocks[k] for k in range(-9, 9)] == every + every
    assert blocks[2:7:2] == every[2:7:2]
    assert every[-1] in blocks
    with pytest.raises(IndexError):
        blocks[9]
    assert list(grid_blocks((0, 3), (2, 3))) == []


def test_every_block_is_computed_once_and_recorded(tmp_path):
    work = Work()
    job = make_job(work, inputs=lambda block: block.index[0] * 2)
    records = run_job(job, ThreadPool(2), Ledger(str(tmp_path / "l")))
    assert sorted(work.calls) == ["0", "1", "2", "3", "4", "5"]
    assert {r.status for r in records.values()} == {DONE}
    assert records["3"].details == {"inputs": 6}
    # The ledger says the same to the next run.
    assert Ledger(str(tmp_path / "l")).read() == records


def test_what_is_done_is_not_done_again(tmp_path):
    first, second = Work(), Work()
    run_job(make_job(first), ThreadPool(), Ledger(str(tmp_path)))
    seen = []
    run_job(make_job(second), ThreadPool(), Ledger(str(tmp_path)), on_progress=seen.append)
    assert second.calls == []
    assert (seen[-1].skipped, seen[-1].finished) == (6, 6)


def test_a_block_whose_inputs_changed_is_done_again(tmp_path):
    work = Work()
    run_job(make_job(Work()), ThreadPool(), Ledger(str(tmp_path)))
    run_job(make_job(work, marks={"2": "new"}), ThreadPool(), Ledger(str(tmp_path)))
    assert work.calls == ["2"]


def test_incomplete_blocks_are_tried_again_by_the_next_run(tmp_path):
    records = run_job(make_job(Work(problems={"4": "a file is missing"})), ThreadPool(), Ledger(str(tmp_path)))
    assert records["4"].status == INCOMPLETE
    again = Work()
    records = run_job(make_job(again), ThreadPool(), Ledger(str(tmp_path)))
    assert again.calls == ["4"]
    assert records["4"].status == DONE


def test_a_failed_attempt_is_repeated_after_a_pause(tmp_path):
    work, seen = Work(failures={"1": 2}), []
    records = run_job(make_job(work), ThreadPool(), Ledger(str(tmp_path)), retry=AT_ONCE, on_progress=seen.append)
    assert work.calls.count("1") == 3
    assert records["1"].attempts == 3
    assert seen[-1].retried == 2


def test_a_block_that_always_fails_is_named_and_the_others_are_done(tmp_path):
    work = Work(failures={"1": 99})
    with pytest.raises(JobFailedError, match=r"1 of 6 blocks failed; the first, block 1, with OSError: no luck with 1"):
        run_job(make_job(work), ThreadPool(), Ledger(str(tmp_path)), retry=AT_ONCE)
    records = Ledger(str(tmp_path)).read()
    assert records["1"].status == FAILED
    assert sum(r.status == DONE for r in records.values()) == 5


def test_errors_of_the_code_are_not_repeated(tmp_path):
    work = Work(failures={"1": 99}, error=TypeError)
    with pytest.raises(JobFailedError):
        run_job(make_job(work), ThreadPool(), Ledger(str(tmp_path)), retry=AT_ONCE)
    assert work.calls.count("1") == 1


def test_a_job_in_which_everything_fails_ends_early(tmp_path):
    work = Work(failures={str(k): 99 for k in range(500)})
    with pytest.raises(JobFailedError, match="of 500 blocks failed"):
        run_job(make_job(work, 500), ThreadPool(), Ledger(str(tmp_path)), retry=Retry(1))
    assert len(work.calls) < MOST_FAILURES + 10


@pytest.mark.parametrize(("sound", "tried"), [((), 2), (("0",), 20)])
def test_blocks_that_kill_every_worker_end_a_job_at_once(tmp_path, sound, tried):
    """Each costs a worker, for which Kubernetes waits minutes; but not where others come through."""
    failures = {str(k): 99 for k in range(30) if str(k) not in sound}
    work = Work(failures=failures, error=lambda text: WorkerLostError("out of memory", True, text))
    with pytest.raises(JobFailedError, match="no luck with"):
        run_job(make_job(work, 30), ThreadPool(), Ledger(str(tmp_path)), retry=Retry(1), window=1)
    assert len(set(work.calls) - set(sound)) == tried


def test_blocks_under_way_are_bounded(tmp_path):
    most, running, lock = [0], [0], threading.Lock()

    def compute(block, inputs):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        threading.Event().wait(0.002)
        with lock:
            running[0] -= 1
        return Outcome()

    class Counting(ThreadPool):
        submitted = 0

        def submit(self, *args):
            self.submitted += 1
            assert len(self._running) < 3
            return super().submit(*args)

    pool = Counting(8)
    run_job(make_job(compute, 40), pool, Ledger(str(tmp_path)), window=3)
    assert pool.submitted == 40
    assert most[0] <= 3


def test_unchanged_blocks_are_copied_from_the_version_before(tmp_path):
    old = run_job(make_job(Work()), ThreadPool(), Ledger(str(tmp_path / "old")))
    work, copied = Work(), []
    job = make_job(work, marks={"5": "new"}, copy=lambda block: copied.append(block.name))
    records = run_job(job, ThreadPool(), Ledger(str(tmp_path / "new")), previous=old)
    assert copied == ["0", "1", "2", "3", "4"]
    assert work.calls == ["5"]
    assert records["0"].status == COPIED
    assert records["0"].details == old["0"].details


def test_stopping_keeps_what_is_done(tmp_path):
    def stop_after(progress):
        if progress.done >= 3:
            raise KeyboardInterrupt

    work = Work()
    with pytest.raises(KeyboardInterrupt):
        run_job(make_job(work, 50), ThreadPool(1), Ledger(str(tmp_path)), window=1, on_progress=stop_after)
    done = Ledger(str(tmp_path)).read()
    assert len(done) >= 3
    again = Work()
    run_job(make_job(again, 50), ThreadPool(1), Ledger(str(tmp_path)))
    assert not set(again.calls) & set(done)
    assert len(again.calls) + len(done) == 50


def test_progress_tells_the_time_that_is_left(tmp_path):
    seen = []
    run_job(make_job(Work(), 4), ThreadPool(1), Ledger(str(tmp_path)), window=1, on_progress=seen.append)
    assert seen[0].seconds_left is None
    assert seen[2].seconds_left == pytest.approx(seen[2].seconds * 2 / 2)
    assert seen[-1].seconds_left == 0.0
    assert (seen[-1].bytes_read, seen[-1].bytes_written) == (40, 20)


class Gone:
    """A client of Dask whose scheduler goes after a block has ended, before anybody asks what came of it."""

    def __init__(self, status):
        self.status = status

    def submit(self, function, *arguments, **options):
        return self

    def add_done_callback(self, call):
        call(self)

    def result(self):
        raise CancelledError("scheduler-connection-lost")

    exception = result


@pytest.mark.parametrize("status", ["finished", "error", "cancelled"])
def test_what_came_of_a_block_may_be_lost_with_the_scheduler(status):
    pool = DaskPool(Gone(status), 1)
    pool.submit(print)
    ((_, outcome, error),) = pool.wait(1.0)
    assert outcome is None
    assert isinstance(error, WorkerLostError)
    assert not error.counts

    def check():
        if asked:
            raise PoolLostError("the scheduler is gone")
        asked.append(True)

    asked = []
    pool = DaskPool(Gone(status), 1, check=check)
    pool.submit(print)
    with pytest.raises(PoolLostError, match="the scheduler is gone"):
        list(pool.wait(1.0))


def record_of(block, status=DONE, **more):
    return Record(str(block), f"print of {block}", status, **more)


def files_of(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def test_a_driver_keeps_one_file_however_often_it_writes(tmp_path):
    ledger = Ledger(str(tmp_path))
    for block in range(20):
        ledger.add(record_of(block))
        ledger.flush()
        assert len(files_of(tmp_path)) == 1
        assert set(Ledger(str(tmp_path)).read()) == {str(b) for b in range(block + 1)}


def test_a_large_file_is_followed_by_another(tmp_path, monkeypatch):
    monkeypatch.setattr("deepprofile.execution.ledger.SEGMENT_CHARACTERS", 1200)
    ledger = Ledger(str(tmp_path))
    for block in range(20):
        ledger.add(record_of(block))
        ledger.flush()
    assert len(files_of(tmp_path)) == 4
    assert set(Ledger(str(tmp_path)).read()) == {str(b) for b in range(20)}
    ledger.compact()
    assert len(files_of(tmp_path)) == 1
    assert set(Ledger(str(tmp_path)).read()) == {str(b) for b in range(20)}


def test_a_job_leaves_one_file_of_records(tmp_path):
    for end in (1, 3, 6):
        run_job(make_job(Work(), end), ThreadPool(), Ledger(str(tmp_path)))
        assert len(files_of(tmp_path)) == 1
    assert len(Ledger(str(tmp_path)).read()) == 6


def test_joining_leaves_what_others_have_written_meanwhile(tmp_path):
    first, second = Ledger(str(tmp_path)), Ledger(str(tmp_path))
    first.add(record_of(1))
    first.flush()
    second.read()
    second.add(record_of(2))
    second.flush()
    first.add(record_of(3))
    first.flush()
    second.compact()
    first.add(record_of(4))
    first.flush()
    assert set(Ledger(str(tmp_path)).read()) == {"1", "2", "3", "4"}


def test_files_that_are_joined_while_they_are_read_are_read_again(tmp_path, monkeypatch):
    ledger = Ledger(str(tmp_path))
    ledger.add(record_of(1))
    ledger.flush()
    reads = []

    def read_all(urls):
        reads.append(urls)
        if len(reads) == 1:
            ledger.add(record_of(2))
            ledger.flush()
        return objects.read_all(urls)

    monkeypatch.setattr("deepprofile.execution.ledger.read_all", read_all)
    assert set(Ledger(str(tmp_path)).read()) == {"1", "2"}
    assert len(reads) == 2


def test_an_end_while_files_are_joined_loses_nothing(tmp_path, monkeypatch):
    first = Ledger(str(tmp_path))
    first.add(record_of(1, INCOMPLETE, problems=("late",)))
    first.flush()
    second = Ledger(str(tmp_path))
    second.read()
    second.add(record_of(1))
    second.add(record_of(2))
    second.flush()

    def killed(url):
        raise KeyboardInterrupt

    monkeypatch.setattr("deepprofile.execution.ledger.remove", killed)
    with pytest.raises(KeyboardInterrupt):
        second.compact()
    assert len(files_of(tmp_path)) == 3
    assert Ledger(str(tmp_path)).read() == {"1": record_of(1), "2": record_of(2)}


def test_a_damaged_line_costs_its_block_and_is_said(tmp_path, caplog):
    ledger = Ledger(str(tmp_path))
    for block in range(3):
        ledger.add(record_of(block))
    ledger.flush()
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    assert set(Ledger(str(tmp_path)).read()) == {"0", "1"}
    assert f"a record is left out: {path} is damaged" in caplog.text
    path.write_bytes(whole.replace(b'"attempts": 1, ', b'"unheard_of": 1, ', 1).replace(b'"status": "done"', b'"status": 7', 2))
    assert set(Ledger(str(tmp_path)).read()) == {"2"}


def test_records_of_before_are_read_and_those_of_a_newer_version_refused(tmp_path):
    old = '{"block": "0.1", "fingerprint": "f", "status": "done", "problems": ["x"], "details": {"profiles": 3}}\n'
    (tmp_path / "000004-00c0ffee.jsonl").write_text(old)
    assert Ledger(str(tmp_path)).read() == {"0.1": Record("0.1", "f", DONE, problems=("x",), details={"profiles": 3})}
    (tmp_path / "000005-00c0ffee.jsonl").write_text('{"format": 2, "block": "0.2", "state": 1}\n')
    with pytest.raises(NewerDocumentError, match=r"000005-00c0ffee\.jsonl has format 2, which a newer version of deepprofile"):
        Ledger(str(tmp_path)).read()


@dataclass(frozen=True)
class Plain:
    name: str
    layers: tuple[float, ...] = ()


@dataclass(frozen=True)
class Silent:
    name: str
    hidden: int = field(default=0, repr=False)


@dataclass(frozen=True)
class Own:
    name: str
    hidden: int = 0

    def __repr__(self):
        return self.name


class Colour(enum.Enum):
    RED = "red"


class Shape(enum.Enum):
    RED = "red"


DIFFERENT = [
    *("5", 5, 5.5, True, None, "None", "True", "red", "/a/b", "2015-04-01", "2015-04-01T00:00:00", "0:00:05"),
    *([], [[]], [None], {}, {"a": 5}, {"a": "5"}, ("5", 5)),
    *(np.datetime64("2015-04-01"), np.datetime64("2015-04-01", "s"), np.timedelta64(5, "D"), np.timedelta64(5, "s")),
    *(dt.date(2015, 4, 1), dt.datetime(2015, 4, 1), dt.datetime(2015, 4, 1, tzinfo=dt.UTC), dt.timedelta(seconds=5)),
    *(Path("/a/b"), Path("/a"), Colour.RED, Shape.RED, np.float32(0.1), 0.1, np.bool_(False)),
    *(Plain("a"), Plain("a", (0.1,)), Plain("a", ("0.1",)), Silent("a"), Silent("a", 1), Own("a"), Own("a", 1), Own("b")),
    *([Own("a")], Plain("a", (Own("a"),)), Plain("a", (Own("a", 1),)), Plain("a", (np.float32(0.1),))),
]


def test_values_that_differ_have_different_fingerprints():
    marks = [fingerprint(value) for value in DIFFERENT]
    assert len(set(marks)) == len(DIFFERENT)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((1, (2, 3)), [1, [2, 3]]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (MappingProxyType({"a": 1}), {"a": 1}),
        (np.int64(5), 5),
        (np.float64(0.1), 0.1),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
    ],
)
def test_the_same_value_has_the_same_fingerprint_in_another_type(one, other):
    assert fingerprint(one) == fingerprint(other)


@pytest.mark.parametrize(
    "value",
    [object(), np.zeros(3), {1, 2}, frozenset([1]), b"a", 1j, Plain, len, {5: 1}, {"a": [object()]}, Plain("a", (b"",))],
)
def test_a_value_that_cannot_be_told_from_others_has_no_fingerprint(value):
    with pytest.raises(TypeError, match="no fingerprint of a "):
        fingerprint("stage", value)


def test_fingerprints_of_stores_that_are_there_are_still_found():
    # SHA-256, cut off, of '["x", 1, [2.5, null], "Plain(name=\'a\', layers=(0.05, nan))"]'.
    assert fingerprint("x", 1, (2.5, None), Plain("a", (0.05, float("nan")))) == "c5b65e2347833a01"


def test_no_secret_comes_into_the_records_of_blocks(tmp_path, caplog):
    """A worker's error, problems that name a signed URL, and small values that hold a document of a service."""
    secret = "hunter2Xy9-sesame"

    def work(block, inputs):
        if block.index[0] == 0:
            raise OSError(f"403 for headers {{'Authorization': 'Homegrown {secret}'}}")
        url = f"https://host.org/a.nc?day=3&X-Goog-Signature={secret}"
        return Outcome(1, 1, (f"{url} is damaged",), {"answer": {"access_token": secret, "steps": [8, 8]}, "name": "a_1.nc"})

    ledger = Ledger(str(tmp_path / "blocks"))
    with pytest.raises(JobFailedError) as failure:
        run_job(make_job(work, 2), ThreadPool(1), ledger, retry=AT_ONCE)
    written = "".join(path.read_text() for path in sorted((tmp_path / "blocks").iterdir()))
    assert secret not in written
    assert secret not in str(failure.value)
    assert secret not in caplog.text
    records = ledger.read()
    assert records["0"].problems == ("OSError: 403 for headers {'Authorization': '...'}",)
    assert records["1"].problems == ("https://host.org/a.nc?day=3&X-Goog-Signature=... is damaged",)
    assert records["1"].details == {"answer": {"access_token": "...", "steps": [8, 8]}, "name": "a_1.nc"}
    assert json.loads(written.splitlines()[-1])["block"] in records


def test_a_file_of_records_that_leads_nowhere_costs_nothing_else(tmp_path):
    ledger = Ledger(str(tmp_path))
    ledger.add(record_of(1))
    ledger.flush()
    (tmp_path / "000009-00c0ffee.jsonl").symlink_to(tmp_path / "nowhere")
    assert set(Ledger(str(tmp_path)).read()) == {"1"}


def joined(*parts, begin=None):
    """Jobs of several parts, each of so many blocks, with what computes them."""
    jobs = {}
    for part, work, count in parts:
        workload = Workload("test", grid_blocks((count,), (1,), part))
        jobs[part] = Job(workload, work, lambda block: fingerprint(block.part, block.region))
    return replace(Jobs.of(jobs), begin=begin)


def test_parts_are_done_together_and_recorded_apart(tmp_path):
    first, second, begun = Work(), Work(), []
    ledgers = {part: Ledger(str(tmp_path / part)) for part in ("2015", "2016")}
    records = run_jobs(joined(("2015", first, 3), ("2016", second, 2), begin=begun.append), ThreadPool(2), ledgers)
    assert set(records) == {"2015.0", "2015.1", "2015.2", "2016.0", "2016.1"}
    assert set(ledgers["2015"].read()) == {"2015.0", "2015.1", "2015.2"}
    assert set(ledgers["2016"].read()) == {"2016.0", "2016.1"}
    assert {record.part for record in ledgers["2016"].read().values()} == {"2016"}
    assert sorted(begun) == ["2015", "2016"]
    # Of a part that is done nothing is begun, and nothing is written.
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "2015").iterdir()}
    begun.clear()
    jobs = joined(("2015", first, 3), ("2016", second, 4), begin=begun.append)
    run_jobs(jobs, ThreadPool(2), {part: Ledger(str(tmp_path / part)) for part in ledgers})
    assert begun == ["2016"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "2015").iterdir()} == before
    assert (len(first.calls), len(second.calls)) == (3, 4)


def broken(block, inputs):
    raise AttributeError(f"no luck with {block.name}")


def well(block, inputs):
    return Outcome()


@pytest.mark.filterwarnings("ignore")
def test_workers_of_another_version_end_the_job_in_words(tmp_path, monkeypatch):
    from distributed import Client, LocalCluster

    here = types.ModuleType("of_the_driver_alone")
    exec("def work(block, inputs): ...", here.__dict__)
    monkeypatch.setitem(sys.modules, here.__name__, here)
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        pool, said = DaskPool(client, 1), "a worker cannot read what it is given to do .*of_the_driver_alone.*the same version"
        with pytest.raises(JobFailedError, match=said):
            run_job(make_job(here.work, 2), pool, Ledger(str(tmp_path / "unread")), retry=AT_ONCE)
        # What a block raises itself is told as it is.
        with pytest.raises(JobFailedError, match="with AttributeError: no luck with"):
            run_job(make_job(broken, 2), pool, Ledger(str(tmp_path / "broken")), retry=AT_ONCE)
        assert run_job(make_job(well, 2), pool, Ledger(str(tmp_path / "done")))["1"].status == DONE
