import json
import os
import subprocess
import sys
import threading
import time

import pytest
from deepprofile.storage import conditional_writes
from deepprofile.storage.conditional_writes import read_versioned, replace, storage_time
from deepprofile.storage.documents import DamagedDocumentError, NewerDocumentError
from deepprofile.storage.filesystems import join
from deepprofile.storage.lease import DURATION_SECONDS, LEASE, Holder, Lease, LeaseHeldError, LeaseLostError, live_holder
from deepprofile.storage.objects import read_bytes, read_json, remove, write_bytes, write_json
from deepprofile.storage.retries import StorageUnavailableError

from tests.support.object_storage import Proxy, emulator

POINTER = "current.json"
ALICE, BOB = Holder("alice", "elsewhere/1/1"), Holder("bob", "elsewhere/2/2")


def lease(root, holder, duration=30.0, **options):
    return Lease(root, POINTER, holder, duration, **options)


class MovedClock:
    """A clock that only a test moves, and whoever waits by it; ``meanwhile`` happens while somebody waits."""

    def __init__(self, meanwhile=lambda: None):
        self.moved, self.meanwhile = 0.0, meanwhile

    def now(self):
        return self.moved

    def sleep(self, seconds):
        self.moved += seconds
        self.meanwhile()

    def storage_time(self, url):
        return storage_time(url) + self.moved


def guarded(root):
    """What the guarded object says, without what the lease itself writes there."""
    return read_json(join(root, POINTER)).get("by")


def forget(held):
    """What becomes of a lease whose process is killed: nobody renews it, nobody gives it back."""
    held._over.set()
    held._thread.join()


def test_a_lease_is_taken_renewed_and_given_back(anywhere):
    with lease(anywhere, ALICE, 60.0) as held:
        assert live_holder(anywhere) == "alice"
        assert held.renew()
        assert held.renew()
        held.check()
        assert read_json(join(anywhere, LEASE))["renewals"] == 2
        held.replace_guarded({"by": "published"})
    assert guarded(anywhere) == "published"
    assert live_holder(anywhere) is None
    with lease(anywhere, BOB):
        pass


def test_another_run_is_refused_while_the_holder_lives(anywhere):
    waited = []
    with (
        lease(anywhere, ALICE, 60.0) as held,
        pytest.raises(LeaseHeldError, match=r"in use by the run alice \(elsewhere/1/1\), which has just renewed its lease"),
    ):
        lease(anywhere, BOB, on_wait=waited.append, clock=MovedClock(held.renew)).acquire()
    assert len(waited) == 1
    assert "held by the run alice (elsewhere/1/1): waiting up to" in waited[0]


def test_another_run_takes_over_only_after_the_lease_has_run_out(anywhere):
    clock = MovedClock()
    dead = lease(anywhere, ALICE, 60.0, clock=clock)
    dead.acquire()
    forget(dead)
    with lease(anywhere, BOB, clock=clock) as held:
        assert 50.0 < clock.moved < 62.0
        held.replace_guarded({"by": "of bob"})
        # The dead one comes back to life and wants to publish.
        with pytest.raises(
            LeaseLostError, match="was taken over by bob while this run could not renew it: nothing was published"
        ):
            dead.replace_guarded({"by": "of alice"})
    assert guarded(anywhere) == "of bob"
    dead.release()
    assert read_json(join(anywhere, LEASE))["run"] != "alice"
    assert live_holder(anywhere) is None


def test_a_late_holder_cannot_publish_even_if_it_has_noticed_nothing(anywhere):
    """It is stopped between its last look at the lease and its write: the pointer has another generation by then."""
    late = lease(anywhere, ALICE, 60.0)
    late.acquire()
    forget(late)
    document = read_json(join(anywhere, LEASE)) | {"duration": 0.0}
    replace(join(anywhere, LEASE), json.dumps(document).encode(), read_versioned(join(anywhere, LEASE)).generation)
    with lease(anywhere, BOB):
        late.check()
        with pytest.raises(LeaseLostError, match="taken over by bob"):
            late.replace_guarded({"by": "of alice"})
    assert guarded(anywhere) is None


def test_the_next_pod_of_the_same_job_takes_over_at_once(anywhere):
    first = lease(anywhere, Holder("job-7", "pod-a/1/1"), 60.0)
    first.acquire()
    began = time.monotonic()
    with lease(anywhere, Holder("job-7", "pod-b/1/1"), 60.0) as second:
        assert time.monotonic() - began < 2
        second.check()
        with pytest.raises(LeaseLostError, match="taken over by job-7"):
            first.replace_guarded({"by": "late"})
    forget(first)


def test_a_process_of_this_machine_that_has_ended_holds_nothing(tmp_path):
    code = (
        "import os, sys; from deepprofile.storage.lease import Lease; "
        f"Lease({str(tmp_path)!r}, 'current.json').acquire(); sys.stdout.flush(); os._exit(9)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "DEEPPROFILE_RUN"}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 9
    assert not read_json(tmp_path.joinpath(LEASE).as_posix())["released"]
    assert live_holder(str(tmp_path)) is None
    began = time.monotonic()
    with lease(str(tmp_path), BOB):
        assert time.monotonic() - began < 2


def test_a_lease_is_lost_when_its_object_changes_hands(anywhere):
    with lease(anywhere, ALICE) as held:
        found = read_versioned(join(anywhere, LEASE))
        document = json.loads(found.content) | {"run": "mallory", "incarnation": "x"}
        while True:
            try:
                replace(join(anywhere, LEASE), json.dumps(document).encode(), found.generation)
                break
            except Exception:
                found = read_versioned(join(anywhere, LEASE))
        assert not held.renew()
        with pytest.raises(LeaseLostError, match="mallory"):
            held.check()
    # It was not given back either: it is no longer ours.
    assert read_json(join(anywhere, LEASE))["run"] == "mallory"


def test_a_storage_that_breaks_requests_costs_nobody_the_lease(storage_server, bucket):
    proxy = Proxy(storage_server, 0.3, seed=1, delay=0.05)
    with emulator(proxy.url):
        with lease(bucket, ALICE) as held:
            for number in range(12):
                assert held.renew()
                held.replace_guarded({"by": str(number)})
        assert live_holder(bucket) is None
    proxy.close()
    assert sum(proxy.counts.values()) - proxy.counts["passed"] > 5
    assert guarded(bucket) == "11"


def test_of_two_drivers_that_start_at_once_one_waits_and_neither_publishes_over_the_other(anywhere):
    inside, published, refused = [], [], []

    def drive(holder):
        try:
            with lease(anywhere, holder, 3.0) as held:
                inside.append(holder.run)
                assert len(inside) == 1
                time.sleep(0.2)
                inside.remove(holder.run)
                held.replace_guarded({"by": holder.run})
                published.append(holder.run)
        except LeaseHeldError:
            refused.append(holder.run)

    threads = [threading.Thread(target=drive, args=(Holder(f"run-{n}", f"elsewhere/{n}/1"),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(published + refused) == ["run-0", "run-1", "run-2", "run-3"]
    assert published
    assert guarded(anywhere) == published[-1]


def test_equal_content_does_not_bring_a_late_holder_back(anywhere):
    """Both would publish the same: the late one is not to take the write of the other for its own."""
    clock = MovedClock()
    late = lease(anywhere, ALICE, clock=clock)
    late.acquire()
    late.replace_guarded({"by": "both"})
    forget(late)
    with lease(anywhere, BOB, clock=clock) as held:
        held.replace_guarded({"by": "both"})
        late._renewed = clock.now()
        for body in ({"by": "both"}, {"by": "of alice"}):
            with pytest.raises(LeaseLostError, match="taken over by bob"):
                late.replace_guarded(body)
        assert guarded(anywhere) == "both"
        held.replace_guarded({"by": "of bob"})
    assert guarded(anywhere) == "of bob"


def test_a_lease_that_is_removed_by_hand_is_written_again(anywhere):
    with lease(anywhere, ALICE) as held:
        remove(join(anywhere, LEASE))
        assert held.renew()
        assert live_holder(anywhere) == "alice"
        held.replace_guarded({"by": "of alice"})
    assert guarded(anywhere) == "of alice"


def test_a_pointer_that_is_changed_by_hand_is_not_overwritten(anywhere):
    with lease(anywhere, ALICE) as held:
        held.replace_guarded({"by": "of alice"})
        write_json(join(anywhere, POINTER), {"by": "somebody"})
        with pytest.raises(LeaseLostError, match=r"current\.json was changed by hand while this run was at work"):
            held.replace_guarded({"by": "of alice, again"})
        assert guarded(anywhere) == "somebody"


def test_a_pointer_that_is_written_again_as_it_was_keeps_nobody_from_publishing(anywhere):
    with lease(anywhere, ALICE) as held:
        held.replace_guarded({"by": "of alice"})
        write_json(join(anywhere, POINTER), {"by": "of alice"})
        held.replace_guarded({"by": "of alice, again"})
    assert guarded(anywhere) == "of alice, again"


def test_a_damaged_lease_runs_out_like_any_other(anywhere):
    write_bytes(join(anywhere, LEASE), b'{"run": "ali')
    clock = MovedClock()
    with lease(anywhere, BOB, clock=clock) as held:
        assert DURATION_SECONDS - 10.0 < clock.moved < DURATION_SECONDS + 2.0
        held.replace_guarded({"by": "of bob"})
    assert guarded(anywhere) == "of bob"


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        (POINTER, b'{"profile": "a', DamagedDocumentError, r"current\.json is damaged: it holds 14 bytes that are not JSON"),
        (POINTER, b'["profile"]', DamagedDocumentError, r"current\.json is damaged: it holds a JSON list instead of an object"),
        (POINTER, b'{"format": 99}', NewerDocumentError, r"current\.json has format 99, which a newer version of deepprofile"),
        (LEASE, b'{"format": 99}', NewerDocumentError, r"lease\.json has format 99"),
    ],
)
def test_what_cannot_be_read_is_refused_in_words_and_left_as_it_is(tmp_path, name, content, error, message):
    write_bytes(join(str(tmp_path), name), content)
    with pytest.raises(error, match=message):
        lease(str(tmp_path), ALICE).acquire()
    assert read_bytes(join(str(tmp_path), name)) == content
    # Nobody has to wait for the one that was refused.
    assert name == LEASE or live_holder(str(tmp_path)) is None


def test_a_publication_whose_answer_was_lost_keeps_nobody_from_the_next(anywhere, monkeypatch):
    real = conditional_writes.replace
    with lease(anywhere, ALICE) as held:

        def deaf(url, content, generation):
            real(url, content, generation)
            raise StorageUnavailableError("the answer was lost")

        monkeypatch.setattr("deepprofile.storage.lease.replace", deaf)
        with pytest.raises(StorageUnavailableError):
            held.replace_guarded({"by": "of alice"})
        monkeypatch.undo()
        assert guarded(anywhere) == "of alice"
        held.replace_guarded({"by": "of alice, again"})
    assert guarded(anywhere) == "of alice, again"
