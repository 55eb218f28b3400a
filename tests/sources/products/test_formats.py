"""Forms in which granules come and of which there is no real sample: GRIB, experiment versions, 36 km, 2-D indices."""

import gzip

import eccodes
import h5py
import numpy as np
import pytest
import xarray as xr
from deepprofile.grids.grids import EASE2_M36
from deepprofile.sources.products import PRODUCTS, VARIANTS, GranuleError

ERA5 = PRODUCTS["era5_land"]
WINDOW = ERA5.grid.within((10.0, 45.0, 10.4, 45.3))
DAY = np.array(["2020-01-02"], "datetime64[D]")
PARAMETERS = {"swvl1": 39, "swvl2": 40, "swvl3": 41, "stl1": 139}


def write_grib(path, fields, *, step_type):
    """Hourly messages as the Climate Data Store gives them: analyses at each hour, or steps of the forecast of midnight."""
    lat, lon = WINDOW.lat, WINDOW.lon
    with open(path, "wb") as file:
        for hour in range(24):
            for name, values in fields.items():
                message = eccodes.codes_grib_new_from_samples("regular_ll_sfc_grib1")
                for key, value in {
                    "paramId": PARAMETERS[name],
                    "dataDate": 20200102,
                    "dataTime": hour * 100 if step_type == "an" else 0,
                    "stepRange": 0 if step_type == "an" else hour,
                    "Ni": lon.size,
                    "Nj": lat.size,
                    "latitudeOfFirstGridPointInDegrees": round(float(lat[0]), 3),
                    "latitudeOfLastGridPointInDegrees": round(float(lat[-1]), 3),
                    "longitudeOfFirstGridPointInDegrees": round(float(lon[0]), 3),
                    "longitudeOfLastGridPointInDegrees": round(float(lon[-1]), 3),
                    "iDirectionIncrementInDegrees": 0.1,
                    "jDirectionIncrementInDegrees": 0.1,
                    "bitsPerValue": 24,
                }.items():
                    eccodes.codes_set(message, key, value)
                eccodes.codes_set_values(message, values[hour].ravel())
                eccodes.codes_write(message, file)
                eccodes.codes_release(message)


def hourly_fields():
    rng = np.random.default_rng(0)
    fields = {name: rng.uniform(0.1, 0.4, (24, *WINDOW.shape)) for name in ("swvl1", "swvl2", "swvl3")}
    fields["stl1"] = np.full((24, *WINDOW.shape), 285.0)
    fields["stl1"][5, 0, 0] = 270.0
    return fields


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("step_type", ["an", "fc"])
def test_era5_land_from_grib(tmp_path, step_type):
    path = tmp_path / "era5_land_20200102.grib"
    fields = hourly_fields()
    write_grib(path, fields, step_type=step_type)
    steps = ERA5.read(path, WINDOW, DAY)
    assert steps.times.astype(str).tolist() == [f"2020-01-02T{hour:02d}:00" for hour in range(24)]
    expected = np.stack([fields[name] for name in ("swvl1", "swvl2", "swvl3")], axis=1)
    expected[5, :, 0, 0] = np.nan
    np.testing.assert_allclose(steps.values, expected, atol=2e-7)
    # Nothing is left beside the granule.
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_truncated_grib_file_is_named(tmp_path):
    path = tmp_path / "era5_land_20200102.grib"
    write_grib(path, hourly_fields(), step_type="an")
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(GranuleError, match=r"era5_land_20200102.grib (cannot be read as GRIB|has none of the layers)"):
        ERA5.read(path, WINDOW, DAY)


def write_netcdf(path, fields, times, expver=None):
    with h5py.File(path, "w") as file:
        file["valid_time" if expver is None or expver.ndim == 1 else "time"] = times.astype("datetime64[s]").astype(np.int64)
        clock = next(iter(set(file) & {"valid_time", "time"}))
        file[clock].attrs["units"] = "seconds since 1970-01-01"
        file["latitude"], file["longitude"] = WINDOW.lat, WINDOW.lon
        if expver is not None:
            file["expver"] = expver
        for name, values in fields.items():
            file[name] = values.astype(np.float32)


def test_provisional_values_are_tagged_in_the_newer_form(tmp_path):
    times = DAY[0].astype("datetime64[h]") + np.arange(24)
    versions = np.array([b"0001"] * 20 + [b"0005"] * 4)
    write_netcdf(tmp_path / "e_20200102.nc", hourly_fields(), times, versions)
    steps = ERA5.read(tmp_path / "e_20200102.nc", WINDOW, DAY)
    assert steps.provisional
    assert np.isfinite(steps.values).sum() == 24 * 3 * WINDOW.rows * WINDOW.columns - 3
    write_netcdf(tmp_path / "f_20200102.nc", hourly_fields(), times, np.array([b"0001"] * 24))
    assert not ERA5.read(tmp_path / "f_20200102.nc", WINDOW, DAY).provisional


def test_provisional_values_fill_in_in_the_older_form(tmp_path):
    times = DAY[0].astype("datetime64[h]") + np.arange(24)
    fields = {}
    for name, values in hourly_fields().items():
        both = np.stack([values, values + 0.01], axis=1)
        both[20:, 0], both[:20, 1] = np.nan, np.nan
        fields[name] = both
    write_netcdf(tmp_path / "e_20200102.nc", fields, times, np.array([[1, 5]]))
    found = ERA5.read(tmp_path / "e_20200102.nc", WINDOW, DAY).values
    expected = hourly_fields()["swvl2"]
    np.testing.assert_allclose(found[:5, 1], expected[:5], atol=1e-6)
    np.testing.assert_allclose(found[20:, 1], expected[20:] + 0.01, atol=1e-6)


def test_a_month_is_read_a_day_at_a_time(tmp_path):
    times = np.arange("2020-01-01", "2020-01-04", dtype="datetime64[h]")
    fields = {"swvl1": np.arange(72.0)[:, None, None] / 1000 + np.full((72, *WINDOW.shape), 0.1)}
    write_netcdf(tmp_path / "era5_2020-01.nc", fields, times)
    name = ERA5.parse("era5_2020-01.nc")
    assert name.days.size == 31
    steps = ERA5.read(tmp_path / "era5_2020-01.nc", WINDOW, DAY)
    assert steps.layers.tolist() == [True, False, False]
    np.testing.assert_allclose(steps.values[:, 0, 0, 0], 0.1 + np.arange(24, 48) / 1000, rtol=1e-6)
    with pytest.raises(GranuleError, match="is for 2020-01-09 to 2020-01-09 by its name, but holds 2020-01-01 to 2020-01-03"):
        ERA5.read(tmp_path / "era5_2020-01.nc", WINDOW, np.array(["2020-01-09"], "datetime64[D]"))


def write_smap_l3(path, product, corner, shape, *, index=True):
    moisture = np.full(shape, -9999.0, np.float32)
    flag = np.full(shape, 65534, np.uint16)
    moisture[1, 1], flag[1, 1] = 0.2, 0
    moisture[1, 2], flag[1, 2] = 0.3, 8
    moisture[2, 1], flag[2, 1] = 0.25, 1
    moisture[2, 2], flag[2, 2] = 0.6, 0
    with h5py.File(path, "w") as file:
        for group, end in (("Soil_Moisture_Retrieval_Data_AM", ""), ("Soil_Moisture_Retrieval_Data_PM", "_pm")):
            there = file.create_group(group)
            evening = np.where(flag == 1, 0, flag).astype(np.uint16) if end else flag
            for name, values, fill in (
                (f"soil_moisture{end}", moisture, np.float32(-9999)),
                (f"retrieval_qual_flag{end}", evening, np.uint16(65534)),
            ):
                there[name] = values
                there[name].attrs["_FillValue"] = fill
            if index:
                for axis, word in enumerate(("row", "column")):
                    counted = np.expand_dims(np.arange(shape[axis]) + corner[axis], 1 - axis) + np.zeros(shape, int)
                    there[f"EASE_{word}_index{end}"] = np.where(flag == 65534, 65534, counted).astype(np.uint16)
                    there[f"EASE_{word}_index{end}"].attrs["_FillValue"] = np.uint16(65534)


def test_smap_l3_on_36_km_by_indices_that_are_filled_outside_of_the_swath(tmp_path):
    product = VARIANTS["smap_l3", "ease2_m36"]
    path = tmp_path / "SMAP_L3_SM_P_20200102_R18290_001.h5"
    write_smap_l3(path, product, (100, 200), (4, 5))
    assert product.parse(path.name) is not None
    found = product.read(path, EASE2_M36.window(100, 200, 4, 5), DAY).values[0, 0]
    # Good in the morning (8 is good too); good in the evening alone; above the valid range.
    assert found[1, 1] == np.float32(0.2)
    assert found[1, 2] == np.float32(0.3)
    assert found[2, 1] == np.float32(0.25)
    assert np.isfinite(found).sum() == 3
    # Whatever the window.
    shifted = product.read(path, EASE2_M36.window(101, 199, 2, 4), DAY).values[0, 0]
    np.testing.assert_array_equal(shifted[:, 1:], found[1:3, :3])


def test_a_subset_that_does_not_say_where_it_is_is_refused(tmp_path):
    product = PRODUCTS["smap_l3"]
    path = tmp_path / "SMAP_L3_SM_P_E_20200102_R18290_001.h5"
    write_smap_l3(path, product, (0, 0), (4, 5), index=False)
    with pytest.raises(GranuleError, match="has 4 x 5 cells, the grid ease2_m09 1624 x 3856, and nothing says which"):
        product.read(path, product.grid.window(0, 0, 4, 5), DAY)


def test_gldas_in_another_unit_is_refused(tmp_path):
    product = PRODUCTS["gldas_noah"]
    path = tmp_path / "GLDAS_NOAH025_3H.A20200102.0000.021.nc4"
    window = product.grid.window(100, 100, 3, 3)
    with h5py.File(path, "w") as file:
        file["lat"], file["lon"] = window.lat.astype(np.float32), window.lon.astype(np.float32)
        file["time"] = np.array([(np.datetime64("2020-01-02") - np.datetime64("2000-01-01T03:00")) / np.timedelta64(1, "m")])
        file["time"].attrs["units"] = "minutes since 2000-01-01 03:00:00"
        file["SoilMoi0_10cm_inst"] = np.full((1, 3, 3), 0.3, np.float32)
        file["SoilMoi0_10cm_inst"].attrs["units"] = "m3 m-3"
    with pytest.raises(GranuleError, match="gives SoilMoi0_10cm_inst in 'm3 m-3', not in kg m-2"):
        product.read(path, window, DAY)


@pytest.mark.parametrize("northwards", [False, True])
@pytest.mark.parametrize("form", ["centres", "cells", "named otherwise", "indices"])
def test_smap_l3_is_placed_by_latitude_and_longitude_where_it_has_nothing_else(tmp_path, form, northwards):
    product = PRODUCTS["smap_l3"]
    window = product.grid.window(400, 880, 4, 5)
    group = "Soil_Moisture_Retrieval_Data_PM"
    rows = slice(None, None, -1 if northwards else 1)
    lat, lon = np.meshgrid(window.lat[rows], window.lon, indexing="ij")
    path = tmp_path / "SMAP_L3_SM_P_E_20200102_R18290_001.h5"
    with h5py.File(path, "w") as file:
        file[f"{group}/soil_moisture_pm"] = 0.1 + 0.01 * np.arange(20, dtype=np.float32).reshape(4, 5)[rows]
        file[f"{group}/retrieval_qual_flag_pm"] = np.zeros((4, 5), np.uint16)
        if form == "centres":
            file["lat"], file["lon"] = window.lat[rows].astype(np.float32), window.lon.astype(np.float32)
        elif form == "cells":
            # Outside of the swath, here the first column, they are fill without an attribute that says so.
            lat[:, 0] = lon[:, 0] = -9999.0
            file[f"{group}/latitude_pm"], file[f"{group}/longitude_pm"] = lat.astype(np.float32), lon.astype(np.float32)
        elif form == "indices":
            for axis, word in enumerate(("row", "column")):
                index = np.indices((4, 5))[axis][rows] + (window.first_row, window.first_column)[axis]
                index[:, 0] = 65534
                file[f"{group}/EASE_{word}_index_pm"] = index.astype(np.uint16)
        else:
            file["row_centres"], file["column_centres"] = window.y[rows], window.x
            file["row_centres"].attrs["standard_name"] = "projection_y_coordinate"
            file["column_centres"].attrs["standard_name"] = "projection_x_coordinate"
    found = product.read(path, product.grid.window(401, 879, 2, 4), DAY).values[0, 0]
    np.testing.assert_allclose(found, [[np.nan, 0.15, 0.16, 0.17], [np.nan, 0.2, 0.21, 0.22]], rtol=1e-6)


@pytest.mark.parametrize("key", ["_FillValue", "missing_value"])
@pytest.mark.parametrize("mark", [1e20, -999.9, -9999.0])
def test_fill_may_be_given_in_a_wider_type_than_the_values(tmp_path, key, mark):
    path = tmp_path / "e_20200102.nc"
    times = DAY[0].astype("datetime64[h]") + np.arange(24)
    fields = hourly_fields()
    fields["stl1"][:, 1, 1] = fields["swvl2"][:, 0, 1] = mark
    write_netcdf(path, fields, times)
    with h5py.File(path, "a") as file:
        file["stl1"].attrs[key] = file["swvl2"].attrs[key] = np.float64(mark)
    found = ERA5.read(path, WINDOW, DAY).values
    # An unknown temperature hides the cell; a missing layer is missing alone.
    assert np.isnan(found[:, :, 1, 1]).all()
    assert np.isnan(found[:, 1, 0, 1]).all()
    assert np.isfinite(found[:, 0, 0, 1]).all()


def test_a_missing_value_of_the_unsigned_type_is_that_of_the_stored_one(tmp_path):
    path = tmp_path / "e_20200102.nc"
    write_netcdf(path, {}, DAY[0].astype("datetime64[h]") + np.arange(24))
    numbers = np.full((24, *WINDOW.shape), 50_000, np.uint16)
    numbers[:, 0, 0] = 65_535
    with h5py.File(path, "a") as file:
        file["swvl1"] = numbers.view(np.int16)
        file["swvl1"].attrs.update({"scale_factor": 1e-5, "_Unsigned": "true", "missing_value": np.uint16(65_535)})
    found = ERA5.read(path, WINDOW, DAY).values[:, 0]
    assert np.isnan(found[:, 0, 0]).all()
    np.testing.assert_allclose(found[:, 1], 0.5, rtol=1e-6)


def test_limits_of_another_type_than_the_packed_one_are_unpacked(tmp_path):
    path = tmp_path / "e_20200102.nc"
    write_netcdf(path, {}, DAY[0].astype("datetime64[h]") + np.arange(24))
    with h5py.File(path, "a") as file:
        file["swvl1"] = np.full((24, *WINDOW.shape), 3000, np.int16)
        file["swvl1"].attrs.update({"scale_factor": 1e-4, "valid_range": np.array([0, 1], np.int32)})
    np.testing.assert_allclose(ERA5.read(path, WINDOW, DAY).values[:, 0], 0.3, rtol=1e-6)


L3_NAME = "SMAP_L3_SM_P_20150424_R12170_001.h5"
L3_DAY = np.array(["2015-04-24"], "datetime64[D]")
ABSTRACT = "Composite of half-orbits of SMAP travelling from North to South at approximately 6:00 AM local time."


def write_one_pass(path, **attributes):
    """As SPL3SMP was before R14: one group, without the name of a pass."""
    with h5py.File(path, "w") as file:
        group = file.create_group("Soil_Moisture_Retrieval_Data")
        group["soil_moisture"] = np.full((406, 964), -9999.0, np.float32)
        group["retrieval_qual_flag"] = np.full((406, 964), 65534, np.uint16)
        group["soil_moisture"][200, 500:502], group["retrieval_qual_flag"][200, 500:502] = (0.21, 0.31), (0, 1)
        file.create_group("Metadata/DatasetIdentification").attrs.update(attributes)


@pytest.mark.parametrize(
    "said", [{"ECSVersionID": "003"}, {"ECSVersionID": "003", "abstract": ABSTRACT}, {"abstract": ABSTRACT}]
)
def test_smap_l3_of_one_pass_is_the_mornings_where_its_attributes_say_so(tmp_path, said):
    product = VARIANTS["smap_l3", "ease2_m36"]
    write_one_pass(tmp_path / L3_NAME, shortName="SPL3SMP", **said)
    found = product.read(tmp_path / L3_NAME, product.grid.window(199, 499, 3, 4), L3_DAY).values[0, 0]
    assert found[1, 1] == np.float32(0.21)
    assert np.isfinite(found).sum() == 1


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"shortName": "SPL3SMP"},
        {"shortName": "SPL3SMP", "ECSVersionID": "009"},
        {"shortName": "SPL3SMA", "ECSVersionID": "003"},
        {"shortName": "SPL3SMP", "abstract": "Half-orbits travelling from South to North at approximately 6:00 PM local time."},
    ],
)
def test_smap_l3_of_one_pass_that_does_not_say_which_is_refused(tmp_path, said):
    product = VARIANTS["smap_l3", "ease2_m36"]
    write_one_pass(tmp_path / L3_NAME, **said)
    with pytest.raises(GranuleError, match=rf"^{L3_NAME} holds one pass .* do not say that it is the morning's of SPL3SMP"):
        product.read(tmp_path / L3_NAME, product.grid.window(199, 499, 3, 4), L3_DAY)


@pytest.mark.parametrize("empty", [15, 16])
def test_a_flag_that_recommends_what_is_not_there_is_a_hole(tmp_path, empty):
    product = PRODUCTS["smap_l3"]
    window = product.grid.window(400, 880, 10, 20)
    path = tmp_path / "SMAP_L3_SM_P_E_20200102_R18290_001.h5"
    moisture, flag = np.full((10, 20), 0.2, np.float32), np.full((10, 20), 9, np.uint16)
    # Outside of the swath, and the cells whose flag was lost: some in the swath, which were not recommended, and some not.
    moisture[:, 15:], flag[:, 15:] = -9999.0, 65534
    flag[:2, :10] = 8
    flag[3, 5:15] = 0
    flag[4:9, 15:] = np.where(np.arange(25).reshape(5, 5) < empty, 0, 65534)
    with h5py.File(path, "w") as file:
        file["x"], file["y"] = window.x, window.y
        group = file.create_group("Soil_Moisture_Retrieval_Data_AM")
        group["soil_moisture"], group["retrieval_qual_flag"] = moisture, flag
        group["soil_moisture"].attrs["_FillValue"] = np.float32(-9999)
    if empty == 15:
        assert np.isfinite(product.read(path, window, DAY).values).sum() == 30
        return
    with pytest.raises(GranuleError, match=r"retrieval_qual_flag recommends 16 cells that hold no soil moisture"):
        product.read(path, window, DAY)


@pytest.mark.parametrize("lost", [1, 2, 3])
@pytest.mark.parametrize("variable", ["SoilMoi0_10cm_inst", "SoilTMP0_10cm_inst"])
def test_a_hole_that_begins_within_a_number_is_noticed(tmp_path, variable, lost):
    product = PRODUCTS["gldas_noah"]
    path = tmp_path / "GLDAS_NOAH025_3H.A20200102.0000.021.nc4"
    window = product.grid.window(100, 100, 3, 3)
    fields = {"SoilMoi0_10cm_inst": 31.7, "SoilTMP0_10cm_inst": 290.3}
    with h5py.File(path, "w") as file:
        file["lat"], file["lon"] = window.lat.astype(np.float32), window.lon.astype(np.float32)
        for name, value in fields.items():
            numbers = np.full(9, value, "<f4")
            if name == variable:
                # The first bytes of a number of this order are its last digits.
                content = bytearray(numbers.tobytes())
                content[4 * 4 + 4 - lost : 5 * 4] = bytes(lost)
                numbers = np.frombuffer(content, "<f4")
                assert 0.0 < numbers[4] < 3e-38
            file[name] = numbers.reshape(1, 3, 3)
            file[name].attrs["units"] = "kg m-2" if "Moi" in name else "K"
    with pytest.raises(GranuleError, match=rf"^{path.name} is damaged: .* a hole in the file"):
        product.read(path, window, DAY)


def test_the_last_bytes_of_a_number_are_a_hole_and_dry_soil_is_none(tmp_path):
    path = tmp_path / "e_20200102.nc"
    fields = {"swvl1": np.full((24, *WINDOW.shape), 0.2, np.float32)}
    # What is left of 0.2 where its upper half was lost; and a desert, where packing leaves residues.
    fields["swvl1"][5, 0, 0] = np.frombuffer(np.float32(0.2).tobytes()[:2] + b"\0\0", "<f4")[0]
    fields["swvl1"][:, 1, 1] = -1e-20
    fields["swvl1"][12:, 1, 1] = 0.02
    assert 0.0 < fields["swvl1"][5, 0, 0] < 1e-38
    write_netcdf(path, fields, DAY[0].astype("datetime64[h]") + np.arange(24))
    found = ERA5.read(path, WINDOW, DAY).values[:, 0]
    assert np.isnan(found[5, 0, 0])
    assert np.isfinite(found).sum() == found.size - 1
    np.testing.assert_array_equal(found[:, 1, 1], np.repeat(np.float32([0.0, 0.02]), 12))


@pytest.mark.parametrize("northwards", [False, True])
def test_smap_l4_is_placed_by_the_latitude_and_longitude_of_its_cells(tmp_path, northwards):
    product = PRODUCTS["smap_l4"]
    window = product.grid.window(400, 880, 4, 5)
    rows = slice(None, None, -1 if northwards else 1)
    lat, lon = np.meshgrid(window.lat[rows], window.lon, indexing="ij")
    path = tmp_path / "SMAP_L4_SM_gph_20200102T013000_Vv8011_001.h5"
    with h5py.File(path, "w") as file:
        file["cell_lat"], file["cell_lon"] = lat.astype(np.float32), lon.astype(np.float32)
        file["Geophysical_Data/sm_surface"] = (0.1 + 0.01 * np.arange(20, dtype=np.float32)).reshape(4, 5)[rows]
    found = product.read(path, product.grid.window(401, 879, 2, 4), DAY).values[0, 0]
    np.testing.assert_allclose(found, [[np.nan, 0.15, 0.16, 0.17], [np.nan, 0.2, 0.21, 0.22]], rtol=1e-6)


def test_two_scales_of_one_variable_are_said(tmp_path):
    path = tmp_path / "e_20200102.nc"
    write_netcdf(path, {}, DAY[0].astype("datetime64[h]") + np.arange(24))
    with h5py.File(path, "a") as file:
        file["swvl1"] = np.full((24, *WINDOW.shape), 3000, np.int16)
        file["swvl1"].attrs["scale_factor"] = np.array([1e-4, 1e-3])
    with pytest.raises(GranuleError, match=r"e_20200102.nc: swvl1 has 2 values of scale_factor .*: there can be one"):
        ERA5.read(path, WINDOW, DAY)


@pytest.mark.parametrize("stamp", ["yesterday", "2020-13-45T00:00:00.000Z", "NaT", "20200102 nine"])
def test_a_time_of_smap_that_is_none_is_said(tmp_path, stamp):
    product = PRODUCTS["smap_l3"]
    path = tmp_path / "SMAP_L3_SM_P_E_20200102_R18290_001.h5"
    write_smap_l3(path, product, (0, 0), (4, 5))
    with h5py.File(path, "a") as file:
        file.create_group("Metadata/Extent").attrs["rangeBeginningDateTime"] = stamp
    with pytest.raises(GranuleError, match=rf"^{path.name} has the rangeBeginningDateTime '{stamp}', which is no time$"):
        product.read(path, product.grid.window(0, 0, 4, 5), DAY)


def test_archives_that_hold_nothing_or_too_much_are_called_so(tmp_path):
    path = tmp_path / "era5_20200102.nc"
    write_netcdf(path, hourly_fields(), DAY[0].astype("datetime64[h]") + np.arange(24))
    whole = gzip.compress(path.read_bytes())
    path.write_bytes(whole)
    assert np.isfinite(ERA5.read(path, WINDOW, DAY).values).any()
    causes = {
        "it is an empty ZIP, which holds no file": b"PK\x05\x06" + bytes(18),
        "it is a part of a ZIP that was split": b"PK\x07\x08PK\x03\x04" + bytes(60),
        "it is gzip, and after its end other bytes follow": whole + b"</html>",
        "it is truncated": whole[:-100],
        "it is a damaged archive": whole[:200] + bytes(200) + whole[400:],
    }
    for cause, content in causes.items():
        path.write_bytes(content)
        with pytest.raises(GranuleError, match=rf"^era5_20200102.nc cannot be read: {cause}"):
            ERA5.read(path, WINDOW, DAY)


def test_a_field_of_grib_that_comes_twice_is_not_chosen_by_chance(tmp_path):
    path, other = tmp_path / "era5_land_20200102.grib", tmp_path / "other.grib"
    fields = hourly_fields()
    write_grib(path, fields, step_type="an")
    same = path.read_bytes()
    path.write_bytes(same + same)
    assert np.isfinite(ERA5.read(path, WINDOW, DAY).values).any()
    write_grib(other, {"swvl1": fields["swvl1"] + 0.01}, step_type="an")
    path.write_bytes(same + other.read_bytes())
    with pytest.raises(GranuleError, match="holds swvl1 of 2020-01-02T00:00 twice, with different values"):
        ERA5.read(path, WINDOW, DAY)


@pytest.mark.parametrize(
    ("title", "said"),
    [
        ("GLDAS2.1 LIS land surface model output monthly mean", "does not hold instants every three hours"),
        ("GLDAS2 LIS land surface model output", "is of GLDAS-2 "),
        ("FLDAS LIS land surface model output", "is not of GLDAS"),
    ],
)
def test_titles_tell_collections_apart(tmp_path, title, said):
    product = PRODUCTS["gldas_noah"]
    path = tmp_path / "GLDAS_NOAH025_3H.A20200102.0000.021.nc4"
    with h5py.File(path, "w") as file:
        file["SoilMoi0_10cm_inst"] = np.zeros((1, 3, 3), np.float32)
        file.attrs["title"] = title
    with pytest.raises(GranuleError, match=said):
        product.read(path, product.grid.window(100, 100, 3, 3), DAY)


def test_a_file_without_a_time_step_is_no_granule(tmp_path):
    path = tmp_path / "data.nc"
    write_netcdf(path, {"swvl1": np.zeros((0, *WINDOW.shape))}, np.zeros(0, "datetime64[h]"))
    with pytest.raises(GranuleError, match=r"data.nc holds no time step"):
        ERA5.contents(path)


def test_versions_on_an_axis_as_long_as_time_are_told_by_its_name(tmp_path):
    path = tmp_path / "e_20200102.nc"
    values = np.full((2, 2, *WINDOW.shape), np.nan, np.float32)
    values[0, 0], values[1, 1] = 0.2, 0.3
    times = (DAY[0].astype("datetime64[h]") + np.arange(2)).astype("datetime64[ns]")
    coords = {"time": times, "expver": [1, 5], "latitude": WINDOW.lat, "longitude": WINDOW.lon}
    xr.Dataset({"swvl1": (("time", "expver", "latitude", "longitude"), values)}, coords).to_netcdf(path, engine="h5netcdf")
    steps = ERA5.read(path, WINDOW, DAY)
    assert steps.provisional
    np.testing.assert_allclose(steps.values[:, 0, 0, 0], [0.2, 0.3], rtol=1e-6)
