"""What soil moisture usually is: quantiles by pentad, percentiles, and the store of whole years."""

import os

import deepprofile as dp
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import yaml
from deepprofile import config as configuration
from deepprofile import twin
from deepprofile.config import Config
from deepprofile.core.basis import basis_mean
from deepprofile.core.climatology import BEYOND, PENTADS, QUANTILES, pentad_of, percentile, place_in_year, quantiles
from deepprofile.execution.pools import ThreadPool
from deepprofile.stages import invert
from deepprofile.stages.execute import RunWith, execute
from deepprofile.stages.pipeline import STAGES, run_stages
from deepprofile.stages.plan import StageResult
from deepprofile.stages.profiles import Profiles
from deepprofile.stages.publish import climatology, maps
from deepprofile.stages.publish.schemas import USUAL_LAYERS
from deepprofile.storage.roots import Root
from deepprofile.storage.stores import create, write_shards
from deepprofile.twin.granules import write_granules, write_stations

from tests.stages.test_schemas import CONFIG
from tests.support.granules import document

DAYS = np.arange(np.datetime64("2015-01-01"), np.datetime64("2018-03-01"))


def test_places_in_a_year_leave_out_the_leap_day():
    days = np.array(["2016-01-01", "2016-02-28", "2016-02-29", "2016-03-01", "2016-12-31", "2015-03-01", "2015-12-31"], "M8[D]")
    assert place_in_year(days).tolist() == [0, 58, 58, 59, 364, 59, 364]
    assert pentad_of(days).tolist() == [0, 11, 11, 11, 72, 11, 72]


def expected_quantiles(series, days):
    """By pandas and numpy, pentad by pentad: the 31 days around the middle, across the end of the year."""
    dates = pd.DatetimeIndex(days)
    late = dates.is_leap_year & (dates.day_of_year > 59)
    place = dates.day_of_year.values - 1 - late
    found = np.full((PENTADS, len(QUANTILES)), np.nan)
    for pentad in range(PENTADS):
        middle = 5 * pentad + 2
        near = {(middle + shift) % 365 for shift in range(-15, 16)}
        values = series[[p in near for p in place]]
        found[pentad] = np.nanquantile(values, QUANTILES)
    return found


def test_quantiles_are_those_of_a_window_around_each_pentad():
    days = DAYS[: 3 * 365 + 1]
    values = np.random.default_rng(1).random((days.size, 3)).astype(np.float32)
    values[::7, 1] = np.nan
    # Most days of this one are missing, and those of a season.
    values[np.arange(days.size) % 3 > 0, 2] = np.nan
    found = quantiles(values, place_in_year(days), 3)
    for cell in (0, 1):
        np.testing.assert_allclose(found[:, :, cell], expected_quantiles(values[:, cell], days), atol=1e-6)
    assert np.isnan(found[:, :, 2]).all()


def test_percentiles_lie_between_the_quantiles():
    known = np.linspace(0.1, 0.34, len(QUANTILES), dtype=np.float32)[:, None].repeat(5, axis=1)
    known[:, 4] = np.nan
    values = np.array([0.1, 0.22, 0.05, 0.5, 0.2], np.float32)
    np.testing.assert_allclose(percentile(values, known), [2.0, 50.0, *BEYOND, np.nan], atol=1e-4)
    rising = percentile(np.linspace(0.05, 0.4, 200, dtype=np.float32), known[:, :1].repeat(200, axis=1))
    assert (np.diff(rising) >= 0.0).all()
    # Where all years were the same, nobody knows where a value lies among them.
    level = np.full((len(QUANTILES), 1), 0.3, np.float32)
    assert 0.0 < percentile(np.array([0.3], np.float32), level)[0] < 100.0


@pytest.fixture
def record(tmp_path):
    """Three years of profiles that are made up, the last of them not whole, with a configuration."""
    config = Config.model_validate(
        CONFIG
        | {
            "root": str(tmp_path),
            "period": {"start": "2015-01-01", "end": str(DAYS[-1])},
            "stations": [],
            "rivals": {},
            "climatology": {"min_years": 3},
            "blocks": {"days": 366, "cells": 16, "chunk_cells": 8},
        }
    )
    root, profiles, versions = Root(config.root), Profiles.of(config), {"weights": "w"}
    chance = np.random.default_rng(2)
    truth = []
    for year in profiles.domain.years:
        template, name = invert.template(profiles, year), f"profile/{year.year}"
        versions[name] = "p"
        create(root.version(name, "p"), template)
        coefficients = chance.normal(0.0, 0.02, template.shape("coefficients")).astype(np.float32)
        coefficients[0] += 0.25
        coefficients[:, :, 0, 0] = np.nan
        write_shards(root.version(name, "p"), "coefficients", (0, 0, 0, 0), coefficients)
        truth.append(coefficients)
    return config, profiles, root, versions, np.concatenate(truth, axis=1)


def made(record, step=climatology) -> StageResult:
    config, profiles, root, versions, _ = record
    return execute(step.plan(profiles, root, versions), root, RunWith(ThreadPool(2), config.compute))


def test_a_store_has_the_quantiles_of_all_whole_years(record):
    config, _, root, _, truth = record
    assert climatology.lacking(config) is None
    result = made(record)
    store = xr.open_zarr(root.version("climatology", result.versions["climatology"]), chunks=None)
    assert store.attrs["base_period"] == ["2015", "2017"]
    whole = np.datetime64("2018-01-01") > DAYS
    for k, (top, bottom) in enumerate(USUAL_LAYERS):
        means = np.einsum("k,kdyx->dyx", basis_mean(top, bottom, len(truth) - 1), truth)[whole]
        for row, column in ((3, 5), (1, 0), (-1, -1)):
            expected = expected_quantiles(means[:, row, column], DAYS[whole])
            np.testing.assert_allclose(store.soil_moisture.values[:, :, k, row, column], expected, atol=2e-4)
    assert np.isnan(store.soil_moisture.values[..., 0, 0]).all()
    assert store.day_of_year.values[[0, -1]].tolist() == [3, 363]


def test_a_climatology_is_made_anew_for_other_years_or_another_error_model_alone(record):
    config, profiles, root, versions, _ = record
    before = climatology.plan(profiles, root, versions).versions[0].version
    assert climatology.plan(profiles, root, versions | {"profile/2017": "late"}).versions[0].version == before
    assert climatology.plan(profiles, root, versions | {"weights": "other"}).versions[0].version != before
    longer = config.model_copy(update={"period": config.period.model_copy(update={"end": np.datetime64("2018-12-31").item()})})
    assert climatology.plan(Profiles.of(longer), root, versions | {"profile/2018": "p"}).versions[0].version != before


def test_a_record_that_is_too_short_has_none_and_says_so(record):
    config, *_ = record
    short = config.model_copy(update={"climatology": config.climatology.model_copy(update={"min_years": 10})})
    assert climatology.steps(short) == []
    assert climatology.lacking(short) == (
        "no climatology: it needs 10 whole calendar years, and the record has 3 (climatology.min_years)"
    )
    (said,) = [step for step in maps.steps(short) if step.store == "map"]
    assert "climatology" not in said.reads


if os.environ.get("DEEPPROFILE_TEST_SOAK"):

    @pytest.mark.timeout(3600)
    def test_percentiles_of_a_twin_of_many_years_are_as_frequent_as_they_say(tmp_path):
        """From granules to maps, with a climatology of two whole years."""
        days = int((np.datetime64("2018-01-01") - np.datetime64("2015-04-01")) / np.timedelta64(1, "D"))
        world = twin.simulate((6, 6), days / 365.0 + 0.02, seed=11, stations=2)
        granules = tmp_path / "granules"
        write_granules(world, granules, slice(0, days))
        write_stations(world, granules)
        changes = {"period": {"start": "2015-04-01", "end": "2017-12-31"}, "climatology": {"min_years": 2}}
        path = tmp_path / "deepprofile.yaml"
        described = document(world, granules, tmp_path / "root", **changes, blocks={}, ingest={})
        path.write_text(yaml.safe_dump(described))
        config = configuration.load(path)
        run_stages(config, STAGES, ThreadPool(2))
        maps = dp.open_store(config.root, "map/9km").sel(time=slice("2016-01-01", "2017-12-31"))
        share = maps.percentile.values
        there = np.isfinite(share)
        # Wherever there is a profile; frozen ground has none.
        np.testing.assert_array_equal(there, np.isfinite(maps.coefficients.values[:, 0]))
        assert there.mean() > 0.7
        for level in (10.0, 30.0, 50.0, 90.0):
            assert abs((share[there] < level).mean() - level / 100.0) < 0.03
        # A reader who asks the library has the same.
        profile = dp.open_profile(config.root).sel(time=maps.time)
        asked = profile.deepprofile.percentile(dp.open_store(config.root, "climatology")).transpose("time", "y", "x").values
        np.testing.assert_allclose(asked[there], share[there], atol=0.6)
        # Dry days are those with little water at that time of the year.
        layers = dp.open_store(config.root, "layers").sel(time=maps.time)
        month = layers.root_zone_soil_moisture.groupby("time.month")
        anomaly = (month - month.mean("time")).values[there]
        assert np.corrcoef(anomaly, share[there])[0, 1] > 0.8
