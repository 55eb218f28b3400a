"""What records of granules, answers and refusals of services are taken for; no service is needed for that."""

from __future__ import annotations

import json

import numpy as np
import pytest
from deepprofile.grids.grids import ERA5_LAND_01, by_name
from deepprofile.sources.providers import DownloadError, RemoteGranule
from deepprofile.sources.providers.earthdata import _offer
from deepprofile.sources.providers.provider import Document, check
from deepprofile.stages.download import cells_of
from hypothesis import given, settings
from hypothesis import strategies as st

NAME = "GLDAS_NOAH025_3H.A20150410.0300.021.nc4"
FOLDER = "https://archive.example/GLDAS/2015/100/"


def record(links, files=(), identifiers=()):
    about = {"ArchiveAndDistributionInformation": list(files), "Identifiers": [{"Identifier": i} for i in identifiers]}
    urls = [{"URL": url, "Type": kind} for url, kind in links]
    return {"meta": {"revision-id": 7}, "umm": {"RelatedUrls": urls, "DataGranule": about}}


@pytest.mark.parametrize(
    "beside",
    [
        ("s3://bucket/" + NAME, "GET DATA VIA DIRECT ACCESS"),
        ("s3://bucket/" + NAME, "GET DATA"),
        (FOLDER + NAME + ".dmrpp", "GET DATA"),
        (FOLDER + NAME + ".cmr.json", "GET DATA"),
        (FOLDER + NAME + ".iso.xml", "GET DATA"),
        (FOLDER + "browse.jpg", "GET DATA"),
        ("https://opendap.example/granules/" + NAME, "GET DATA"),
        (FOLDER + NAME + ".dap.nc4", "GET DATA"),
        ("http://archive.example/" + NAME, "GET DATA"),
    ],
)
def test_the_link_to_the_data_is_chosen_among_others(beside):
    found = _offer(record([beside, (FOLDER + NAME + "?A-userid=x", "GET DATA")], [{"Name": NAME, "SizeInBytes": 12}]))
    assert (found.name, found.source["url"], found.size) == (NAME, FOLDER + NAME + "?A-userid=x", 12)
    assert _offer(record([beside])) is None or beside[0].startswith("http://")


def test_a_name_may_stand_in_the_query_or_in_the_record():
    assert _offer(record([("https://a.example/get?file=/x/" + NAME, "GET DATA")])).name == NAME
    assert _offer(record([("https://a.example/granules/17", "GET DATA")], identifiers=[NAME])).name == NAME


@pytest.mark.parametrize(
    ("about", "size", "checksum"),
    [
        ({"Name": "Not provided", "Size": 21.4, "SizeUnit": "MB"}, None, None),
        ({"Name": NAME + ".xml", "SizeInBytes": 9}, None, None),
        ({"Name": NAME, "SizeInBytes": 9, "Checksum": {"Algorithm": "CKSUM", "Value": "12"}}, 9, None),
        ({"Name": NAME, "SizeInBytes": 9, "Checksum": {"Algorithm": "MD5", "Value": "12"}}, 9, None),
        ({"Name": NAME, "Checksum": {"Algorithm": "sha256", "Value": "A" * 64}}, None, ("sha256", "A" * 64)),
    ],
)
def test_size_and_checksum_are_those_of_the_file_itself(about, size, checksum):
    found = _offer(record([(FOLDER + NAME, "GET DATA")], [about]))
    assert (found.name, found.size, found.checksum) == (NAME, size, checksum)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!DOCTYPE html><html><head><title>Earthdata Login</title></head></html>", "a page in HTML .* Earthdata Login"),
        (b'{"title": "not found", "detail": "no such file"}', "a message in JSON .* not found: no such file"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "a message in XML .* AccessDenied"),
    ],
)
def test_a_document_in_place_of_data_is_told(tmp_path, content, said):
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(DownloadError, match=f"{NAME}: {said}"):
        check(RemoteGranule(NAME, size=1000), tmp_path / NAME)


def test_data_are_no_document():
    assert Document.read(b"\x89HDF\r\n\x1a\n<html>") is None


@settings(max_examples=80, deadline=None)
@given(
    west=st.floats(-180, 178),
    south=st.floats(-89.9, 88),
    width=st.floats(0.3, 300),
    height=st.floats(0.3, 100),
    name=st.sampled_from(["latlon_0.25", "ease2_m36", "latlon_0.1"]),
)
def test_the_request_covers_just_the_window(west, south, width, height, name):
    try:
        target = by_name(name).within((west, south, min(west + width, 180.0), min(south + height, 90.0)))
    except ValueError:
        return
    window = ERA5_LAND_01.covering(target)
    west, south, east, north = cells_of(window)
    whole = ERA5_LAND_01
    inside = (np.round((whole.lon - west) * 10).astype(int) % 3600) <= round((east - west) * 10)
    assert set(np.round(whole.lon[inside], 4)) == set(np.round(window.lon, 4))
    rows = (whole.lat >= south - 1e-6) & (whole.lat <= north + 1e-6)
    np.testing.assert_allclose(whole.lat[rows], window.lat)
    assert west < 180.0
    assert all(abs(10 * edge - round(10 * edge)) < 1e-6 for edge in (west, south, east, north))


SECRET = "hunter2Xy9-sesame"


@pytest.mark.parametrize(
    "page",
    [
        f"<html><title>Sign-on</title><message>go on at https://x.org/?access_token={SECRET}</message></html>",
        f"<Error><Code>403</Code><Message>Authorization: Homegrown {SECRET}</Message></Error>",
        json.dumps({"title": "refused", "detail": json.dumps({"password": SECRET})}),
        json.dumps({"client_secret": SECRET}),
        json.dumps({"title": "x" * 480 + f" PRIVATE-TOKEN: {SECRET}"}),
    ],
)
def test_what_a_service_says_is_told_without_secrets(page):
    document = Document.read(page.encode())
    assert document.text
    # Nor is a part of one left where the text is cut off.
    assert SECRET[:6] not in document.text
