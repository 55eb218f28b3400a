"""Three days of the schedule, through the CronJob: what is there is extended, and a product that comes late finds its place."""

import numpy as np
import pytest
from deepprofile.storage.filesystems import join
from deepprofile.storage.objects import list_children, read_json
from deepprofile.storage.stores import read_region

from tests.cluster.kube import manifests
from tests.support.granules import current_versions, url_of

pytestmark = pytest.mark.cluster
ROOT = "gs://deepprofile/days"
DAYS = ("2015-04-18", "2015-04-19", "2015-04-20")
GLDAS = "/data/deepprofile/granules/gldas_noah"


def test_three_days_of_the_schedule(place):
    place.in_storage(f"mkdir /data/late && mv {GLDAS}/*A2015041[789]* {GLDAS}/*A2015042* /data/late")
    found = []
    for k, day in enumerate(DAYS):
        if k == 2:
            place.in_storage(f"mv /data/late/*A2015041[789]* {GLDAS}/")
        name = f"day-{k}"
        settings = ("compute.workers=1", "collocation.every_days=30", "products.gldas_noah.latency_days=3")
        place.job(name, *settings, root="days", DEEPPROFILE_UNTIL=day, DEEPPROFILE_TODAY=day)
        state, log = place.finish(name)
        assert state == "Complete", log
        assert ("the error model stays as it is" in log) == (k > 0), log
        with place.storage():
            published = read_json(join(ROOT, "published.json"))
            url, version = url_of(ROOT, "profile"), current_versions(ROOT)["profile"]
            pattern = read_region(url, "pattern", (slice(None),) * 3)
            days = read_region(url, "time", (slice(None),)).astype("datetime64[D]")
            runs = list_children(join(ROOT, "runs"))
            latest = read_json(join(ROOT, "runs", f"invert-{version}", "manifest.json"))
        assert published["run"].startswith(f"{name}.")
        assert str(days[-1]) == day
        found.append({"pattern": pattern, "blocks": latest["blocks"], "runs": runs, "days": days})
    # The record is of two stretches of sixteen days, of which the days that come change the second only.
    first, second, third = (each["blocks"] for each in found)
    assert first["done"] == first["total"] == 18
    for blocks in (second, third):
        assert (blocks["done"], blocks["copied"]) == (9, 9)
    # Without GLDAS a profile says so; with it, once it is there.
    place_of = {str(day): k for k, day in enumerate(found[2]["days"])}
    late = place_of["2015-04-18"]
    assert (found[1]["pattern"][late] != found[2]["pattern"][late]).any()
    assert np.array_equal(found[1]["pattern"][: late - 2], found[2]["pattern"][: late - 2])
    with place.storage():
        assert set(manifests(ROOT)) >= {
            "ingest/gldas_noah",
            "invert",
            "validate/observations",
            "validate/matchups",
            "validate/differences",
            "validate",
        }
        assert len(list_children(join(ROOT, "publications"))) == 3
    place.nothing_left()
