import json
import os
import subprocess
import sys
import threading
import time

import pytest
from deepprofile.lease import LEASE, Holder, Lease, LeaseHeld, LeaseLost, live_holder
from deepprofile.objects import join, read_bytes, read_json, read_stamped, replace

from .storage import Proxy, emulator

POINTER = "current.json"
ALICE, BOB = Holder("alice", "elsewhere/1/1"), Holder("bob", "elsewhere/2/2")


def lease(root, holder, duration=30.0, **options):
    return Lease(root, POINTER, holder, duration, **options)


def forget(held):
    """What becomes of a lease whose process is killed: nobody renews it, nobody gives it back."""
    held._over.set()
    held._thread.join()


def test_a_lease_is_taken_renewed_and_given_back(anywhere):
    with lease(anywhere, ALICE, 0.6) as held:
        assert live_holder(anywhere) == "alice"
        time.sleep(1.0)
        held.check()
        assert read_json(join(anywhere, LEASE))["renewals"] >= 2
        held.replace_guarded(b"published")
    assert read_bytes(join(anywhere, POINTER)) == b"published"
    assert live_holder(anywhere) is None
    with lease(anywhere, BOB):
        pass


def test_another_run_is_refused_while_the_holder_lives(anywhere):
    waited = []
    with (
        lease(anywhere, ALICE, 1.5),
        pytest.raises(LeaseHeld, match=r"in use by the run alice \(elsewhere/1/1\), which has just renewed its lease"),
    ):
        lease(anywhere, BOB, on_wait=waited.append).acquire()
    assert len(waited) == 1
    assert "held by the run alice (elsewhere/1/1): waiting up to" in waited[0]


def test_another_run_takes_over_only_after_the_lease_has_run_out(anywhere):
    dead = lease(anywhere, ALICE, 1.5)
    dead.acquire()
    forget(dead)
    began = time.monotonic()
    with lease(anywhere, BOB) as held:
        assert 1.0 < time.monotonic() - began < 4
        held.replace_guarded(b"of bob")
        # The dead one comes back to life and wants to publish.
        with pytest.raises(LeaseLost, match="was taken over by bob while this run could not renew it: nothing was published"):
            dead.replace_guarded(b"of alice")
    assert read_bytes(join(anywhere, POINTER)) == b"of bob"
    dead.release()
    assert live_holder(anywhere) is None


def test_a_late_holder_cannot_publish_even_if_it_has_noticed_nothing(anywhere):
    """It is stopped between its last look at the lease and its write: the pointer has another generation by then."""
    late = lease(anywhere, ALICE, 60.0)
    late.acquire()
    forget(late)
    document = read_json(join(anywhere, LEASE)) | {"duration": 0.0}
    replace(join(anywhere, LEASE), json.dumps(document).encode(), read_stamped(join(anywhere, LEASE)).generation)
    with lease(anywhere, BOB):
        late.check()
        with pytest.raises(LeaseLost, match="taken over by bob"):
            late.replace_guarded(b"of alice")
    assert read_bytes(join(anywhere, POINTER)) != b"of alice"


def test_the_next_pod_of_the_same_job_takes_over_at_once(anywhere):
    first = lease(anywhere, Holder("job-7", "pod-a/1/1"), 60.0)
    first.acquire()
    began = time.monotonic()
    with lease(anywhere, Holder("job-7", "pod-b/1/1"), 60.0) as second:
        assert time.monotonic() - began < 2
        second.check()
        with pytest.raises(LeaseLost, match="taken over by job-7"):
            first.replace_guarded(b"late")
    forget(first)


def test_a_process_of_this_machine_that_has_ended_holds_nothing(tmp_path):
    code = (
        "import os, sys; from deepprofile.lease import Lease; "
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
    with lease(anywhere, ALICE, 0.6) as held:
        found = read_stamped(join(anywhere, LEASE))
        document = json.loads(found.content) | {"run": "mallory", "incarnation": "x"}
        while True:
            try:
                replace(join(anywhere, LEASE), json.dumps(document).encode(), found.generation)
                break
            except Exception:
                found = read_stamped(join(anywhere, LEASE))
        time.sleep(0.6)
        with pytest.raises(LeaseLost, match="mallory"):
            held.check()
    # It was not given back either: it is no longer ours.
    assert read_json(join(anywhere, LEASE))["run"] == "mallory"


def test_a_storage_that_breaks_requests_costs_nobody_the_lease(storage_server, bucket):
    proxy = Proxy(storage_server, 0.3, seed=1, delay=0.05)
    with emulator(proxy.url):
        with lease(bucket, ALICE, 1.5) as held:
            for number in range(12):
                time.sleep(0.25)
                held.replace_guarded(str(number).encode())
        assert live_holder(bucket) is None
    proxy.close()
    assert sum(proxy.counts.values()) - proxy.counts["passed"] > 5
    assert read_bytes(bucket + "/" + POINTER) == b"11"


def test_of_two_drivers_that_start_at_once_one_waits_and_neither_publishes_over_the_other(anywhere):
    inside, published, refused = [], [], []

    def drive(holder):
        try:
            with lease(anywhere, holder, 3.0) as held:
                inside.append(holder.run)
                assert len(inside) == 1
                time.sleep(0.2)
                inside.remove(holder.run)
                held.replace_guarded(holder.run.encode())
                published.append(holder.run)
        except LeaseHeld:
            refused.append(holder.run)

    threads = [threading.Thread(target=drive, args=(Holder(f"run-{n}", f"elsewhere/{n}/1"),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(published + refused) == ["run-0", "run-1", "run-2", "run-3"]
    assert published
    assert read_bytes(join(anywhere, POINTER)) == published[-1].encode()
