"""The example on real granules; expected numbers come from the files with h5py alone."""

import h5py
import numpy as np
import pytest
import real_granules
from real_granules import DAYS, against_uscrn, configure, given_errors, ingest

GLDAS, SMAP, ERA5 = DAYS


def near(values, wanted):
    return int(np.abs(values - wanted).argmin())


def test_gldas_day_has_two_layers_of_seven_instants(sample_data, tmp_path):
    result, products = ingest(GLDAS, sample_data, tmp_path)
    series = products["gldas_noah"]
    assert result.problems == ("2016-01-01: 1 of 8 time steps of gldas_noah are missing",)
    grid = configure(GLDAS, sample_data, tmp_path).grid.grid()
    row, column = near(grid.lat, -15.125), near(grid.lon, -55.125)
    instants = []
    for path in sorted((sample_data / "gldas").glob("*A20160101*")):
        with h5py.File(path) as file:
            at = near(file["lat"][:], -15.125), near(file["lon"][:], -55.125)
            instants.append([file["SoilMoi0_10cm_inst"][0, *at] / 100.0, file["SoilMoi10_40cm_inst"][0, *at] / 300.0])
    assert len(instants) == 7
    # The target is the product's own grid, turned north side up: values pass as they are.
    found = series.isel(time=0, y=row, x=column).values
    np.testing.assert_allclose(found[:2], np.mean(instants, axis=0), atol=3.1e-5)
    assert np.isnan(found[2])
    assert int(np.isfinite(series.isel(time=0, layer=0)).sum()) == 9640


def test_a_missing_layer_is_flagged_and_widens_the_interval(sample_data, tmp_path):
    import deepprofile as dp

    _, products = ingest(GLDAS, sample_data, tmp_path)
    profile = dp.invert(products, given_errors(products))
    used = profile.deepprofile.uses("gldas_noah")
    assert int(used.sum()) == 9640
    assert bool((profile.deepprofile.flag("partial_product") == used).all())
    shallow, deep = (float(profile.deepprofile.std(z).mean()) for z in (0.05, 0.8))
    assert deep > 1.1 * shallow


def test_smap_analysis_on_the_coarser_grid(sample_data, tmp_path):
    _, products = ingest(SMAP, sample_data, tmp_path)
    surface = products["smap_l4"].isel(time=0, layer=0)
    grid = configure(SMAP, sample_data, tmp_path).grid.grid()
    with h5py.File(next((sample_data / "smap_l4").glob("*.h5"))) as file:
        values = file["Analysis_Data/sm_surface_analysis"][:]
        x, y = file["x"][:], file["y"][:]
    values[values == -9999.0] = np.nan
    for lat, lon in ((40.0, -100.0), (35.0, -90.0), (30.5, -97.5)):
        row, column = near(grid.lat, lat), near(grid.lon, lon)
        # 4 x 4 cells of 9 km make one of 36 km.
        rows = np.flatnonzero(np.abs(y - grid.y[row]) < 18016.2)
        columns = np.flatnonzero(np.abs(x - grid.x[column]) < 18016.2)
        part = values[np.ix_(rows, columns)]
        assert part.shape == (4, 4)
        assert np.isfinite(part).sum() >= 8
        assert float(surface[row, column]) == pytest.approx(np.nanmean(part), abs=2e-5)
    assert int(np.isfinite(surface).sum()) == 6539


def test_smap_against_the_stations(sample_data, tmp_path):
    _, products = ingest(SMAP, sample_data, tmp_path)
    grid = configure(SMAP, sample_data, tmp_path).grid.grid()
    table = against_uscrn(products["smap_l4"].isel(time=0, layer=0), grid.lat, grid.lon, sample_data, SMAP.date)
    error = table.smap_l4 - table.sensor
    assert len(table) == 63
    assert error.mean() == pytest.approx(0.0, abs=0.002)
    assert np.sqrt((error**2).mean()) == pytest.approx(0.092, abs=0.001)
    assert np.corrcoef(table.smap_l4, table.sensor)[0, 1] == pytest.approx(0.72, abs=0.01)


def test_era5_land_day_is_complete(sample_data, tmp_path):
    result, products = ingest(ERA5, sample_data, tmp_path)
    assert result.problems == ()
    series = products["era5_land"].isel(time=0)
    grid = configure(ERA5, sample_data, tmp_path).grid.grid()
    with h5py.File(next((sample_data / "era5_land").glob("*.nc"))) as file:
        means = np.stack([file[name][:].mean(axis=0, dtype=np.float64) for name in ("swvl1", "swvl2", "swvl3")])
        lat, lon = file["latitude"][:], (file["longitude"][:] + 180.0) % 360.0 - 180.0
    row, column = near(grid.lat, -15.0), near(grid.lon, -55.0)
    # A cell of 9 km lies within the four cells of 0.1 degrees around it.
    rows, columns = np.argsort(np.abs(lat - grid.lat[row]))[:2], np.argsort(np.abs(lon - grid.lon[column]))[:2]
    around = means[:, rows[:, None], columns]
    found = series.isel(y=row, x=column).values
    assert (found >= around.min(axis=(1, 2)) - 2e-5).all()
    assert (found <= around.max(axis=(1, 2)) + 2e-5).all()
    np.testing.assert_allclose(series.mean(("y", "x")), [0.4150, 0.4135, 0.4165], atol=0.001)


def test_a_granule_without_any_layer_is_refused(sample_data, tmp_path):
    source = next((sample_data / "smap_l4").glob("*.h5"))
    broken = tmp_path / "smap_l4" / source.name
    broken.parent.mkdir()
    broken.write_bytes(source.read_bytes())
    with h5py.File(broken, "a") as file:
        del file["Analysis_Data/sm_surface_analysis"]
    result, _ = ingest(SMAP, tmp_path, tmp_path / "stores")
    assert len(result.problems) == 1
    assert "has none of the layers of smap_l4 (0-0.05 m, 0-1 m)" in result.problems[0]


def test_example_runs_from_the_command_line(sample_data, tmp_path, capsys):
    assert real_granules.main(["--data", str(sample_data), "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "6,539 profiles are flagged partial_product" in printed
    assert "smap_l4 against 63 USCRN stations at 5 cm: bias +0.000, RMSE 0.092, R 0.72" in printed
