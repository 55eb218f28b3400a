"""What may be a secret is never shown, in whatever form it comes; everything else is shown as it is."""

import base64
import html
import json
import re
from urllib.parse import quote

import pytest
from deepprofile.storage import redaction
from deepprofile.storage.redaction import hold, redacted, without_secrets
from hypothesis import given, settings
from hypothesis import strategies as st

# Of letters and digits, with what tokens, signatures and passwords have between them.
SECRET = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_~+/.\-]{10,40}[A-Za-z0-9]", fullmatch=True)

patient = settings(deadline=None)

IN_URLS = (
    "https://user:{quoted}@host.org/a.nc",
    "https://{quoted}@host.org/a.nc",
    "s3://key:{quoted}@bucket/a.nc",
    "gs://bucket/a.nc?X-Goog-Algorithm=GOOG4&X-Goog-Signature={}&X-Goog-Expires=60",
    "gs://bucket/a.nc?X-Goog-Credential={}",
    "https://b.s3.amazonaws.com/a.nc?X-Amz-Signature={}&versionId=3",
    "https://b.s3.amazonaws.com/a.nc?X-Amz-Security-Token={}&X-Amz-Credential={}",
    "https://a.blob.core.windows.net/c/a.nc?sv=2024-05-04&se=2026-01-01T00:00:00Z&sp=r&sig={}",
    "https://host.org/a.nc?token={}&day=2015-04-01",
    "https://host.org/a.nc?day=2015-04-01&amp;access_token={}&amp;b=1",
    "https://host.org/a.nc?api_key={}",
    "https://host.org/a.nc?apikey={}#part",
    "https://host.org/a.nc?key={}",
    "https://host.org/a.nc?a=1&password={}",
    "https://host.org/a.nc?client_secret={}",
    "https://host.org/a.nc?Expires=1&Signature={}&Key-Pair-Id=2",
)
HEADERS = (
    "Authorization: Basic {}",
    "authorization: bearer {}",
    "Authorization: Token {}",
    "Authorization: Negotiate {}",
    "Authorization: Homegrown {}",
    "Authorization: {}",
    'Authorization: Digest username="me", realm="r", nonce="n", uri="/", response="{}"',
    "Authorization: AWS4-HMAC-SHA256 Credential=A/b, SignedHeaders=host, Signature={}",
    "Proxy-Authorization: Basic {}",
    "PRIVATE-TOKEN: {}",
    "X-API-Key: {}",
    "X-Auth-Token: {}",
    "Cookie: first=1; session={}; last=2",
    "Set-Cookie: session={}; Path=/; HttpOnly",
)
ASSIGNED = (
    "CDSAPI_KEY={}",
    "EARTHDATA_TOKEN={}",
    "EARTHDATA_PASSWORD={}",
    "AWS_SECRET_ACCESS_KEY={}",
    "export GITHUB_TOKEN='{}'",
    'PGPASSWORD="{}"',
    "login(user='me', password='{}')",
    "token={}",
    "machine urs.earthdata.nasa.gov login me password {}",
    "curl --password {} https://host.org",
    "password: {}",
)
BY_FORM = (
    "ya29.{}",
    "eyJhbGciOiJIUzI1NiJ9.{token}.{token}",
    "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----",
    "-----BEGIN RSA PRIVATE KEY-----\n{}",
    "<SessionToken>{}</SessionToken>",
)
NAMES = (
    "access_token",
    "refresh_token",
    "private_key",
    "client_secret",
    "password",
    "Authorization",
    "X-API-Key",
    "Set-Cookie",
)


def planted(form, secret):
    return form.replace("{}", secret).replace("{quoted}", quote(secret, safe="")).replace("{token}", as_token(secret))


def as_token(secret):
    """Of the letters that a JSON web token has."""
    return re.sub(r"[~+/.]", "-", secret)


def written(secret, name):
    """A secret under a name in the forms that programs print documents in."""
    document = {"user": "me", name: secret, "day": 7}
    text = json.dumps(document)
    return [
        text,
        json.dumps(text),
        json.dumps(json.dumps(text)),
        json.dumps(document, indent=1),
        json.dumps(document, separators=(",", ":")),
        repr(document),
        repr({name.encode(): secret.encode()}),
        repr(list(document.items())),
        html.escape(text),
        quote(text),
        text[: text.index(secret) + len(secret)],
        f"{name}={secret}",
        f"{name}: Custom1 {secret}" if name == "Authorization" else f"{name}: {secret}",
    ]


@patient
@given(SECRET, st.sampled_from([*IN_URLS, *HEADERS, *ASSIGNED, *BY_FORM]))
def test_a_secret_is_shown_in_no_form(secret, form):
    text = planted(form, secret)
    for shown in (text, f"OSError: {text}", f"first line\n{text}\nlast line", repr(text), json.dumps({"message": text})):
        found = without_secrets(shown)
        assert secret not in found
        assert quote(secret, safe="") not in found
        assert as_token(secret) not in found
        assert without_secrets(found) == found


@patient
@given(SECRET, st.sampled_from(IN_URLS[2:]))
def test_a_secret_is_shown_in_no_url_within_another(secret, form):
    once = quote(planted(form, secret), safe="")
    for text in (once, f"https://login.org/?next={once}&a=1", quote(once, safe="")):
        found = without_secrets(text)
        assert secret not in found
        assert quote(secret, safe="") not in found


@patient
@given(SECRET, st.sampled_from(NAMES))
def test_a_secret_is_shown_under_no_name(secret, name):
    for text in written(secret, name):
        found = without_secrets(text)
        assert secret not in found, text
        assert without_secrets(found) == found
    document = redacted({"about": [{"deep": {"user": "me", name: secret, "day": 7}}]})
    assert document == {"about": [{"deep": {"user": "me", name: "...", "day": 7}}]}


@patient
@given(st.text("abcdefgh", min_size=3, max_size=8), SECRET)
def test_basic_credentials_are_known_without_their_header(user, password):
    encoded = base64.b64encode(f"{user}:{password}".encode()).decode()
    assert encoded not in without_secrets(f"sent Basic {encoded} to the host")


WORDS = st.sampled_from(["granule", "key", "token", "block", "signature", "password", "the", "basic", "2015-04-01", "0.1.2"])
PLAIN = (
    "/data/smap_l4/SMAP_L4_SM_gph_20150401T013000_Vv7032_001.h5 has {number} bytes, 1024 were announced",
    "gs://bucket/granules/{hash}.zarr/soil_moisture/c/0/0: {number} of 8 time steps are missing",
    "https://host.org:8080/a/b.nc?versions=true&generation={number}&day=2015-04-01#part",
    "ingest/smap_l4: block 0.1.2 will be repeated: OSError: sha256 {hash} was announced",
    "sorted by key=lat and key={number}; the key is 'lat'",
    "KeyError: 'token'",
    "there is no key 'token'; known are 'name', 'password'",
    "set CDSAPI_KEY (or write a .cdsapirc) in the environment of the workers",
    "no token: see the documentation",
    "Earthdata Login requires authorization: approve the application at https://urs.earthdata.nasa.gov",
    "Authorization: required",
    "a bearer token is needed; Basic authentication is not enough; basic statistics of {number} days",
    "the file's signature: it begins with b'\\x89HDF'",
    "--set compute.memory_limit=2GiB --set products.smap_l4.granules=/data/[red]x",
    "abfs://container@account.dfs.core.windows.net/{hash}",
    "user@example.com wrote http://localhost:9000/bucket/user@example.com",
    '{"token_type": "Bearer", "expires_in": 3600, "key": "20150401", "max_tokens": {number}}',
    "{'secretKeyRef': {'name': 'earthdata', 'key': 'token'}, 'secretName': 'earthdata'}",
    "<title>Moved</title><code>{number}</code>",
    "Key:       compute_block-{hash}",
    "DEEPPROFILE_STORAGE_CREDENTIALS=anonymous, token=None",
    "password_file=/run/secrets/password",
    "ssh-rsa -----BEGIN CERTIFICATE----- {hash}",
)


@patient
@given(st.sampled_from(PLAIN), st.integers(0, 10**9), st.binary(min_size=16, max_size=32), st.lists(WORDS, max_size=6))
def test_everything_else_is_shown_as_it_is(form, number, content, words):
    text = form.replace("{number}", str(number)).replace("{hash}", content.hex())
    for shown in (text, f"{' '.join(words)}\n{text}", f"{text}\n{' '.join(words)}"):
        assert without_secrets(shown) == shown
    document = {"problems": [text], "details": {"steps": [8, 8], "key": content.hex()[:8], "broken": True}, "none": None}
    assert redacted(document) == document


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET https://x?token=abc&a=1 Authorization: Bearer ya29.x", "GET https://x?token=...&a=1 Authorization: Bearer ..."),
        ("(token=abc), then", "(token=...), then"),
        ("https://me:pw@h/a?b=1", "https://...@h/a?b=1"),
        ("https://me:p/w@rd@h/a@b?b=1", "https://...@h/a@b?b=1"),
        ("https://h/a?sig=a%2Fb%3D&sv=1 is refused", "https://h/a?sig=...&sv=1 is refused"),
        ('{"access_token": "abc", "day": 1}', '{"access_token": "...", "day": 1}'),
        ("{'Authorization': 'Basic abc', 'Accept': '*/*'}", "{'Authorization': 'Basic ...', 'Accept': '*/*'}"),
        ("url: /b?X-Goog-Signature=0a1b (Caused by x)", "url: /b?X-Goog-Signature=... (Caused by x)"),
        ("CDSAPI_KEY=abc\nCDSAPI_URL=https://cds", "CDSAPI_KEY=...\nCDSAPI_URL=https://cds"),
        ("key: 5f3c0000-1111-2222-3333-444455556666\n", "key: ...\n"),
    ],
)
def test_what_is_beside_a_secret_stays_readable(text, shown):
    assert without_secrets(text) == shown


def test_variables_of_pods_are_secrets_by_their_names():
    pod = {
        "containers": [
            {
                "env": [
                    {"name": "EARTHDATA_TOKEN", "value": "abc"},
                    {"name": "OMP_NUM_THREADS", "value": "1"},
                    {"name": "CDSAPI_KEY", "valueFrom": {"secretKeyRef": {"name": "cds", "key": "token"}}},
                ]
            }
        ]
    }
    expected = json.loads(json.dumps(pod).replace("abc", "..."))
    assert redacted(pod) == expected
    assert json.loads(without_secrets(json.dumps(pod))) == expected


def test_what_the_environment_holds_is_left_out_wherever_it_stands(monkeypatch):
    monkeypatch.setenv("EARTHDATA_PASSWORD", 'open "sesame" & co/7')
    monkeypatch.setenv("SOME_SERVICE_KEY", "abcdefgh")
    monkeypatch.setenv("SHORT_KEY", "profile")
    monkeypatch.setenv("DEEPPROFILE_STORAGE_CREDENTIALS", "anonymous")
    monkeypatch.setenv("TOKEN_FILE", "/run/secrets/token")
    secret = 'open "sesame" & co/7'
    for text in (secret, quote(secret, safe=""), quote(secret), json.dumps(secret), base64.b64encode(secret.encode()).decode()):
        assert without_secrets(f"he said {text} twice").replace('"', "") == "he said ... twice"
    plain = "abcdefg of the profile is anonymous: /run/secrets/token"
    assert without_secrets(f"{plain} abcdefgh") == f"{plain} ..."
    assert redacted({"days": ["abcdefgh", "2015-04-01"]}) == {"days": ["...", "2015-04-01"]}


def test_what_was_read_from_a_file_of_credentials_is_held(monkeypatch):
    monkeypatch.setattr(redaction, "_kept", set())
    hold("no-marks-beside-it")
    hold("short")
    assert without_secrets("short: no-marks-beside-it") == "short: ..."
