"""Runs that are struck while they are at work."""

import json
import re

from deepprofile.execution.ledger import Ledger
from deepprofile.storage.filesystems import join
from deepprofile.storage.lease import live_holder
from deepprofile.storage.objects import list_children

from tests.cluster.kube import manifests, until
from tests.support.granules import difference, tree

ROOT = "gs://deepprofile"


def recorded(place, root, stage):
    """How many blocks of a stage have a record by now."""
    with place.storage():
        runs = join(f"{ROOT}/{root}", "runs")
        # Not those of its parts, such as invert-covariances.
        found = [name for name in list_children(runs) if re.fullmatch(rf"{stage}-[0-9a-f]{{16}}", name)]
        return len(Ledger(join(runs, found[0], "blocks")).read()) if found else 0


# What a run has made from a stage on.
FROM = {
    "ingest-smap_l3": "ard/smap_l3 runs/ingest-smap_l3-* moments weights runs/collocate-* covariance profile runs/invert-*",
    "invert": "covariance profile runs/invert-*",
}


def seed(place, root, stage):
    """Begin a root with what a finished run has made before this stage."""
    place.in_storage(
        f"cd /data/deepprofile; rm -rf {root}; cp -a alone {root}; cd {root}; "
        f"rm -rf {FROM[stage]} observations matchups differences validation runs/validate-* publications; "
        "rm -f current.json lease.json published.json"
    )


def said(log):
    """The messages of a run's log, one below the other."""
    lines = [json.loads(line) if line.startswith("{") else {"message": line} for line in log.splitlines()]
    return "\n".join(f"{line.get('time', '')[11:19]} {line['message']}" for line in lines)


def struck(place, name, stage, after, strike, *settings, seconds=300):
    """A run that is struck when so many blocks of a stage are recorded; returns its log."""
    seed(place, name, stage)
    place.job(name, *settings, root=name)
    until(400, lambda: recorded(place, name, stage) >= after, f"{name}: {after} blocks of {stage} are recorded", 0.2)
    strike()
    state, log = place.finish(name, seconds)
    assert state == "Complete", said(log)
    return log


def check_same(place, root, expected):
    with place.storage():
        found = tree(f"{ROOT}/{root}")
        assert found == expected, difference(found, expected)
        assert live_holder(f"{ROOT}/{root}") is None
        found = manifests(f"{ROOT}/{root}")
    place.nothing_left()
    return found


def slow_worker(**requests):
    """The settings of one slow worker, which has these resources too: blocks of a few cells take half a second each, so
    that there is time to strike while it computes. The next block waits at it, so that it is never idle."""
    amounts = {"cpu": "100m", **requests}
    pod = {"containers": [{"resources": {"requests": amounts, "limits": amounts}}]}
    # Without spaces: the setting goes through a manifest's list of arguments.
    worker_pod = json.dumps(pod, separators=(",", ":"))
    return "compute.workers=1", "compute.window=2", f"compute.kubernetes.worker_pod={worker_pod}"


SLOWLY = slow_worker()
