"""Two and more drivers at one root, with answers that are lost and clocks that stand still: what holds after every step."""

from __future__ import annotations

import json
import shutil
import tempfile
from contextlib import contextmanager
from unittest.mock import patch

import hypothesis.strategies as st
from deepprofile.execution import ledger
from deepprofile.execution.blocks import DONE, Record
from deepprofile.execution.ledger import Ledger
from deepprofile.storage import conditional_writes
from deepprofile.storage.conditional_writes import PreconditionFailedError, VersionedObject
from deepprofile.storage.lease import LEASE, Holder, Lease, LeaseHeldError, LeaseLostError
from deepprofile.storage.retries import StorageUnavailableError
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

ROOT, DURATION = "mock://root", 60.0
POINTER, LEASE_URL = f"{ROOT}/current.json", f"{ROOT}/{LEASE}"
DRIVERS = ("a", "b", "c")
NOTHING = VersionedObject(None, 0)


class DriverClock:
    """The clock of a driver, which may stand still; that of the storage is right."""

    def __init__(self, clocks, name):
        self.clocks, self.name = clocks, name

    def now(self):
        return self.clocks[self.name]

    def sleep(self, seconds):
        self.clocks[self.name] += seconds

    def storage_time(self, url):
        return conditional_writes.storage_time(url)


class Storage:
    """Objects with generations and a clock. It can lose requests and answers, and lets others act before it acts."""

    def __init__(self, on_replace):
        self.objects, self.now, self.generation, self.on_replace = {}, 1e9, 0, on_replace
        # What becomes of the requests to come, and what happens before them: the next one first.
        self.fates, self.before = [], []

    @contextmanager
    def request(self):
        if self.before:
            self.before.pop(0)()
        self.now += 0.01
        fate = self.fates.pop(0) if self.fates else "done"
        if fate == "lost":
            raise StorageUnavailableError("the request was lost")
        yield
        if fate == "answer lost":
            raise StorageUnavailableError("the answer was lost")

    def read(self, url):
        with self.request():
            return self.objects.get(url, NOTHING)

    def replace(self, url, content, generation):
        with self.request():
            if self.objects.get(url, NOTHING).generation != generation:
                raise PreconditionFailedError(url)
            self.put(url, content)
            self.on_replace(url, content)
            return self.objects[url]

    def put(self, url, content):
        self.generation += 1
        self.objects[url] = VersionedObject(content, self.generation, self.now)

    def time(self, url):
        with self.request():
            return self.now


def body_of(content):
    return {key: value for key, value in json.loads(content).items() if key not in ("format", "holder")}


drivers = st.sampled_from(DRIVERS)
# A lost answer may be followed by others; most requests are done.
fates = st.lists(st.sampled_from(["done", "done", "lost", "answer lost"]), max_size=4)
# Before which of its requests the one that acts is stopped, and what happens meanwhile.
acts = st.tuples(st.sampled_from(["take", "renew", "publish", "release", "wait"]), drivers)
meanwhile = st.one_of(st.just((0, [])), st.tuples(st.integers(0, 7), st.lists(acts, min_size=1, max_size=3)))


class Races(RuleBasedStateMachine):
    """Any driver may be stopped at any of its requests while others go on, and may find its clock where it was."""

    def __init__(self):
        super().__init__()
        self.storage = Storage(self.replaced)
        self.clock = dict.fromkeys(DRIVERS, 0.0)
        self.leases, self.names = {}, {}
        # Who was last told that the lease is his; and what the pointer says.
        self.holder, self.body = None, {}
        self.number = 0
        self.busy = set()
        self.patches = [
            patch.object(conditional_writes, "_conditional", lambda url: self.storage),
            patch("deepprofile.storage.lease.log"),
        ]
        for each in self.patches:
            each.start()

    def teardown(self):
        for each in self.patches:
            each.stop()

    def replaced(self, url, content):
        """The storage has taken a new object."""
        if url == POINTER and body_of(content) != self.body:
            # Only the one who was last told that the lease is his ever changes what readers see.
            assert self.names[json.loads(content)["holder"]["incarnation"]] is self.leases[self.holder]
            self.body = body_of(content)

    # --- what drivers do

    def act(self, what, name):
        if what == "wait":
            self.do_wait(name)
            return
        if name in self.busy:
            # It is stopped in the middle of something else.
            return
        self.busy.add(name)
        try:
            getattr(self, f"do_{what}")(name)
        finally:
            self.busy.discard(name)

    def do_wait(self, name):
        """Time goes by; the driver that is named slept, and its clock stood still."""
        self.storage.now += DURATION + 1
        for each in DRIVERS:
            if each != name:
                self.clock[each] += DURATION + 1

    def do_take(self, name):
        if name not in self.leases or self.leases[name].told:
            lease = Lease(ROOT, "current.json", Holder(name, f"host-{name}/1/1"), DURATION, clock=DriverClock(self.clock, name))
            lease.told = False
            self.leases[name], self.names[lease._incarnation] = lease, lease
            if self.holder == name:
                self.holder = None
        lease = self.leases[name]
        try:
            lease.told = lease.attempt() is None
        except (LeaseHeldError, StorageUnavailableError):
            del self.leases[name]
            return
        if lease.told:
            self.holder = name

    def do_renew(self, name):
        if name in self.leases and self.leases[name].told and self.leases[name]._lost is None:
            self.leases[name].renew()

    def do_publish(self, name):
        if name not in self.leases or not self.leases[name].told:
            return
        self.number += 1
        body = {"profile": f"{name}-{self.number}"}
        undisturbed = not self.storage.fates and not self.storage.before
        held = self.storage.objects.get(LEASE_URL, NOTHING).content or b""
        # Whole or cut, the lease names nobody else.
        rightful = self.holder == name and held.endswith(b"}\n") and self.leases[name]._incarnation.encode() in held
        try:
            self.leases[name].replace_guarded(body)
        except LeaseLostError:
            assert not (undisturbed and rightful), "who holds the lease is kept from publishing"
        except StorageUnavailableError:
            assert not undisturbed
        else:
            assert self.holder == name
            assert self.body == body

    def do_release(self, name):
        if name in self.leases and self.leases[name].told:
            try:
                self.leases[name].release()
            except StorageUnavailableError:
                return
            del self.leases[name]
            if self.holder == name:
                self.holder = None

    # --- rules

    def disturbed(self, what, name, lost, others):
        place, acts = others
        self.storage.fates = list(lost)
        self.storage.before = [lambda: None] * place + [lambda: [self.act(*each) for each in acts]]
        self.act(what, name)
        self.storage.fates, self.storage.before = [], []

    @rule(name=drivers, lost=fates, others=meanwhile)
    def take(self, name, lost, others):
        self.disturbed("take", name, lost, others)

    @rule(name=drivers, lost=fates, others=meanwhile)
    def publish(self, name, lost, others):
        self.disturbed("publish", name, lost, others)

    @rule(name=drivers, lost=fates, others=meanwhile)
    def renew(self, name, lost, others):
        self.disturbed("renew", name, lost, others)

    @rule(
        what=st.sampled_from(["take", "renew", "publish"]),
        name=drivers,
        place=st.integers(0, 7),
        other=drivers,
        more=st.booleans(),
    )
    def sleep_in_the_middle(self, what, name, place, other, more):
        """It sleeps until its lease has run out, and another takes over."""
        acts = [("wait", name), ("take", other)] + [("publish", other)] * more
        self.disturbed(what, name, [], (place, acts))

    @rule(name=drivers, lost=fates)
    def release(self, name, lost):
        self.disturbed("release", name, lost, (0, []))

    @rule(name=drivers)
    def publish_undisturbed(self, name):
        self.act("publish", name)

    @rule(name=drivers)
    def wait(self, name):
        self.act("wait", name)

    @rule()
    def the_lease_is_removed_by_hand(self):
        self.storage.objects.pop(LEASE_URL, None)

    @rule()
    def the_lease_is_cut(self):
        if LEASE_URL in self.storage.objects:
            self.storage.put(LEASE_URL, self.storage.objects[LEASE_URL].content[:20])

    @invariant()
    def readers_see_what_was_published(self):
        found = self.storage.objects.get(POINTER)
        assert (body_of(found.content) if found is not None else {}) == self.body


class Records(RuleBasedStateMachine):
    """Drivers that share the records of a run, each of which may be stopped before any of its requests."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.mkdtemp()
        self.ledgers = {name: Ledger(self.folder) for name in DRIVERS}
        self.kept, self.pending = set(), {name: set() for name in DRIVERS}
        self.block, self.busy, self.before = 0, set(), []
        self.patches = [patch.object(ledger, name, self.wrapped(getattr(ledger, name))) for name in ("read_all", "remove")]
        self.patches.append(patch.object(ledger, "write_bytes", self.wrapped(ledger.write_bytes)))
        for each in self.patches:
            each.start()

    def teardown(self):
        for each in self.patches:
            each.stop()
        shutil.rmtree(self.folder)

    def wrapped(self, function):
        def call(*arguments):
            if self.before and (action := self.before.pop(0)) is not None:
                if action == "killed":
                    raise KeyboardInterrupt
                self.act(*action)
            return function(*arguments)

        return call

    def act(self, what, name):
        if name in self.busy:
            return
        self.busy.add(name)
        records = self.ledgers[name]
        try:
            if what == "add":
                self.block += 1
                records.add(Record(str(self.block), "f", DONE))
                self.pending[name].add(str(self.block))
                mine = set(self.pending[name])
                records.flush()
                self.kept |= mine
                self.pending[name] -= mine
            elif what == "join":
                records.compact()
                self.kept |= self.pending[name]
                self.pending[name] = set()
            else:
                before = set(self.kept)
                assert before <= set(records.read())
        except KeyboardInterrupt:
            self.ledgers[name], self.pending[name] = Ledger(self.folder), set()
        finally:
            self.busy.discard(name)

    @rule(
        what=st.sampled_from(["add", "add", "join", "read"]),
        name=drivers,
        others=st.lists(
            st.one_of(st.none(), st.just("killed"), st.tuples(st.sampled_from(["add", "join", "read"]), drivers)), max_size=5
        ),
    )
    def go_on(self, what, name, others):
        self.before = list(others)
        self.act(what, name)
        self.before = []

    @invariant()
    def nothing_is_lost(self):
        before, self.before = self.before, []
        assert self.kept <= set(Ledger(self.folder).read())
        self.before = before


TestRaces = Races.TestCase
TestRaces.settings = settings(max_examples=150, stateful_step_count=30, deadline=None, derandomize=True)
TestRecords = Records.TestCase
TestRecords.settings = settings(max_examples=40, stateful_step_count=20, deadline=None, derandomize=True)
