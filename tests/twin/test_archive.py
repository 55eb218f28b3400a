"""The large archive, read as any other."""

import numpy as np
from deepprofile.evaluation.stations import Report, read_ismn
from deepprofile.twin.archive import place_stations, write_archive


def test_the_archive_is_one_of_the_ismn(tmp_path):
    stations, days = place_stations(7, 3, seed=1), np.arange("2015-04-01", "2016-02-01", dtype="datetime64[D]")
    assert write_archive(tmp_path, stations, days) == 35
    report = Report()
    data = read_ismn(tmp_path, report=report)
    assert not report.problems
    assert data.sizes == {"sensor": 35, "time": days.size}
    assert sorted(set(data.network.values)) == ["TWIN-00", "TWIN-01", "TWIN-02"]
    places = {(s.name, s.latitude, s.longitude) for s in stations}
    assert set(zip(data.station.values, data.latitude.values, data.longitude.values, strict=True)) == places
    assert sorted(set(data.depth_top.values)) == [0.05, 0.1, 0.2, 0.5, 1.0]
    assert (data.climate != "").all()
    assert (data.land_cover != "").all()
    # A twentieth of the days is missing, and three in a hundred are in doubt.
    np.testing.assert_allclose(data.soil_moisture.isnull().mean(), 0.08, atol=0.01)
    assert 0.02 <= float(data.soil_moisture.min()) < float(data.soil_moisture.max()) <= 0.6
    # Deep soil remembers for longer.
    lag_one = [
        float(np.corrcoef(one[1:][ok := np.isfinite(one[1:] + one[:-1])], one[:-1][ok])[0, 1])
        for one in (data.soil_moisture.where(data.depth_top == depth, drop=True).values[0] for depth in (0.05, 1.0))
    ]
    assert lag_one[0] < lag_one[1]
