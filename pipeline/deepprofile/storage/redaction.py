"""Leaves out of what people read whatever may be a secret: tokens, passwords, signatures of URLs, private keys.

For text and documents that are written or printed, never for what is opened or computed with: ``without_secrets`` for text,
``redacted`` for a document. What is left out is recognised by the name beside it (``token=``, ``"password":``, the header
``Authorization``), by its form (a JSON web token, a private key in PEM, user and password in a URL), or because it is the value
of a variable of the environment whose name says that it is a secret. Both can be applied again without changing anything more.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final
from urllib.parse import quote

# What stands in place of a secret.
LEFT_OUT: Final = "..."
# A shorter value of the environment may be a word of any message.
SHORTEST_LITERAL: Final = 8

# --- names -----------------------------------------------------------------------------------------------------------

_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
# A name whose word ends so holds a secret wherever it stands: access_token, PGPASSWORD, clientSecret.
_ENDINGS: Final = (
    *("token", "password", "passwd", "passphrase", "passcode", "secret"),
    *("apikey", "accesskey", "secretkey", "privatekey", "authkey"),
    *("authorization", "cookie"),
)
_WORDS: Final = frozenset(["bearer", "jwt", "pwd", "passwort"])
# Before "key": api_key, AWS_ACCESS_KEY_ID, accountKey.
_KINDS_OF_KEY: Final = frozenset(
    [
        *("access", "account", "api", "app", "auth", "cds", "cdsapi", "client", "encryption", "hmac", "master", "private"),
        *("secret", "session", "shared", "signing", "ssh", "storage", "subscription"),
    ]
)
# A secret as the value of such a name only in "name=value" and in quotes, or as part of a longer name: X-Goog-Signature.
_OF_SIGNED_URLS: Final = frozenset(["signature", "sig", "credential", "credentials"])
# And only in the query of a URL.
_OF_QUERIES: Final = frozenset(["key", "auth", "sessionid", "jsessionid", "code"])
# A name that ends so is about a secret and holds none: token_type, PASSWORD_FILE, secretKeyRef.
_ABOUT: Final = frozenset(
    [
        *(
            "algorithm",
            "at",
            "count",
            "dir",
            "directory",
            "endpoint",
            "env",
            "expires",
            "expiry",
            "expiration",
            "file",
            "folder",
        ),
        *("header", "headers", "help", "in", "length", "lifetime", "limit", "limits", "name", "names", "path", "ref", "size"),
        *("ttl", "type", "uri", "url", "version", "required"),
    ]
)
_HEADERS: Final = frozenset(["authorization", "cookie"])

_ALWAYS, _BY_ASSIGNMENT, _IN_QUERY, _IF_LONG = 4, 3, 2, 1


@lru_cache(maxsize=4096)
def _secrecy(name: str) -> int:
    """In which places the value of a name is a secret: 0 for nowhere."""
    words = [word.lower() for word in _WORD.findall(name)]
    if not words or words[-1] in _ABOUT:
        return 0
    if any(word in _WORDS or word.endswith(_ENDINGS) for word in words):
        return _ALWAYS
    if any(second == "key" and first in _KINDS_OF_KEY for first, second in pairwise(words)):
        return _ALWAYS
    if words[-1] == "key" and len(words) > 1 and name.isupper():
        # A variable of the environment: CDSAPI_KEY, MY_SERVICE_KEY.
        return _ALWAYS
    if words[-1] in _OF_SIGNED_URLS:
        return _ALWAYS if len(words) > 1 and words[0] == "x" else _BY_ASSIGNMENT
    if len(words) == 1 and words[0] in _OF_QUERIES:
        return _IN_QUERY if words[0] != "key" else _IF_LONG
    return 0


def _is_header(name: str) -> bool:
    """Whether what follows the name and a colon is a secret up to the end of the line."""
    words = _WORD.findall(name)
    return bool(words) and words[-1].lower() in _HEADERS


# --- values ----------------------------------------------------------------------------------------------------------

# How a quote is written in text, in JSON within JSON, in HTML and in a URL.
_QUOTE: Final = r"(?:\\*[\"'`]|&quot;|&\#0*3[49];|%(?:25)*2[27])"
_NAME: Final = re.compile(
    rf"""
    (?<![\w.\-])(?P<name>[\w.\-]{{2,}}+)
    (?P<quote>{_QUOTE})?
    (?P<separator>
        \s{{0,4}}(?:=>|[:=])\s{{0,4}} | %(?:25)*3[DdAa](?:%(?:25)*20|\+)? | \\+u003[dDaA] | \s{{0,4}},\s{{0,4}}
        | (?<=[A-Za-z])\s{{1,4}}
    )
    b?(?P<open>{_QUOTE})?
    """,
    re.VERBOSE,
)
_SENSITIVE_PART: Final = r"[\w.%\-]+(?:=|%(?:25)*3[Dd])"
# A value without quotes: up to white space, the next part of a query, or a quote that closes.
_BARE: Final = re.compile(
    rf"""
    (?: (?! &(?:amp;)?{_SENSITIVE_PART} | &quot; | &\# | %(?:25)*26{_SENSITIVE_PART} | \\+u0026 | \\*["'`](?:[\s,;:)\]}}>.]|$) )
    [^\s<>] )+
    """,
    re.VERBOSE,
)
_LINE_END: Final = re.compile(r"\r|\n|\\+[rn](?![a-z])|\\+r\\+n|\\+n(?=[A-Z])|$")
_TRAILING: Final = ",;:.)]}\\"
_NO_SECRET: Final = frozenset(
    [*("", "none", "null", "nil", "true", "false", "anon", "anonymous", "default", "undefined", "empty", "..", "..."), "***"]
)
_STATES: Final = frozenset(
    [
        *(
            "absent",
            "accepted",
            "bad",
            "denied",
            "disabled",
            "enabled",
            "expired",
            "failed",
            "forbidden",
            "incorrect",
            "invalid",
        ),
        *("malformed", "missing", "needed", "none", "ok", "refused", "rejected", "required", "revoked", "unknown", "unset"),
        *("unsupported", "valid", "wrong", "yes", "no"),
    ]
)
# How a sentence goes on after a colon, unlike the value of a header.
_PROSE: Final = frozenset(
    [
        *(
            "a",
            "access",
            "an",
            "and",
            "approve",
            "are",
            "as",
            "by",
            "for",
            "how",
            "if",
            "in",
            "is",
            "it",
            "no",
            "not",
            "of",
            "on",
        ),
        *("please", "see", "that", "the", "there", "this", "to", "use", "user", "what", "when", "where", "you", "your"),
    ]
)
_SCHEMES: Final = (
    *("basic", "bearer", "digest", "hawk", "hoba", "mutual", "negotiate", "ntlm", "oauth", "token", "apikey", "signature"),
    *("gnap", "dpop", "privatetoken", "aws4-hmac-sha256", "goog4-rsa-sha256", "sharedkey", "sharedaccesssignature"),
)
_UUID: Final = r"(?:[0-9]+:)?[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
_KEY_LIKE: Final = re.compile(rf"{_UUID}|(?=[^0-9]*[0-9])(?=[^A-Za-z]*[A-Za-z])[A-Za-z0-9+/=]{{20,}}")
_SIGNED_UNTIL: Final = re.compile(r"(?i)([?&;](?:amp;)?(?:se|st|ske|skt)=)\d{4}-\d\d-\d\dT[^\s&\"'<>]*")

# --- forms that show by themselves -----------------------------------------------------------------------------------

# A percent sign, encoded as often as a URL stands within others.
_PERCENT: Final = r"%(?:25)*"
_BY_FORM: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    # A private key, whole or cut off.
    (
        re.compile(
            r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
            r"(?:(?:(?!-----BEGIN ).)*?-----END (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----|[A-Za-z0-9+/=\s\\]*)",
            re.DOTALL,
        ),
        LEFT_OUT,
    ),
    # User and password before the host of a URL, as it is and encoded in another one. A token alone stands there only on
    # the web: elsewhere the name of a container does.
    (re.compile(r"(?<=[A-Za-z0-9])(:(?:\\?/){2})[^\s/?#\"'<>:@]{0,256}:(?:[^\s/?#\"'<>@]{0,512}@)+"), rf"\1{LEFT_OUT}@"),
    (
        re.compile(
            r"(?<=[A-Za-z0-9])(:(?:\\?/){2})[^\s/?#\"'<>:@]{1,256}:(?!\d{1,5}[/?#])[^\s@<>]{1,512}@(?:[^\s@<>/]{0,512}@)*"
        ),
        rf"\1{LEFT_OUT}@",
    ),
    (
        re.compile(r"(?i)((?:(?<=http)|(?<=https)|(?<=ftp)|(?<=ftps)|(?<=git)):(?:\\?/){2})[^\s/?#\"'<>:@]{1,512}@"),
        rf"\1{LEFT_OUT}@",
    ),
    (
        re.compile(
            rf"(?i)({_PERCENT}3A(?:{_PERCENT}2F|/){{2}})(?:(?!{_PERCENT}(?:2F|3F|3A|40|26))[^\s/?#\"'<>@&]){{0,256}}{_PERCENT}3A"
            rf"(?!\d{{1,5}}(?:{_PERCENT}(?:2F|3F|23)|/))[^\s\"'<>@&]{{1,512}}?({_PERCENT}40)"
        ),
        rf"\1{LEFT_OUT}\2",
    ),
    (
        re.compile(
            rf"(?i)((?:(?<=http)|(?<=https)|(?<=ftp)|(?<=ftps)|(?<=git)){_PERCENT}3A(?:{_PERCENT}2F|/){{2}})"
            rf"(?:(?!{_PERCENT}(?:2F|3F|3A|40|26))[^\s/?#\"'<>@&]){{1,512}}({_PERCENT}40)"
        ),
        rf"\1{LEFT_OUT}\2",
    ),
    # JSON web tokens, signed or encrypted.
    (re.compile(r"\beyJ[A-Za-z0-9_\-]{6,}(?:\.[A-Za-z0-9_\-]*){1,4}"), LEFT_OUT),
    # Tokens and keys of services that begin in their own way.
    (re.compile(r"\bya29\.[A-Za-z0-9_.\-]*[A-Za-z0-9_\-]"), LEFT_OUT),
    (re.compile(r"\b1//0[A-Za-z0-9_\-]{20,}"), LEFT_OUT),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), LEFT_OUT),
    (re.compile(r"\b(?:gh[pousr]_|github_pat_|glpat-|xox[abeprs]-|AIza|GOCSPX-|hvs\.)[A-Za-z0-9_\-]{10,}"), LEFT_OUT),
    # The lines of a .netrc.
    (re.compile(r"(?i)(\blogin\s+\S+\s+password\s+)\S+"), rf"\1{LEFT_OUT}"),
)
_BEARER: Final = re.compile(
    r"(?i)(\bbearer(?:\s|%20|\+)+)(?!(?:tokens?|auth\w*|realm|scheme|credentials?|headers?|errors?|format)\b)"
    r"[^\s\"'<>,;)&]{2,}"
)
_BASIC: Final = re.compile(r"(?i)(\bbasic(?:\s|%20|\+)+)([A-Za-z0-9+/_\-]{4,}(?:=|%3D){0,2})")
_ELEMENT: Final = re.compile(r"(?s)<((?:\w+:)?([\w.\-]+))((?:\s[^<>]*)?)>([^<>]*)</\1\s*>")
_NAME_AND_VALUE: Final = re.compile(
    rf"(?is)((?P<a>{_QUOTE})(?:name|key|header)(?P=a)\s*:\s*(?P<b>{_QUOTE})(?P<name>[\w.\-]+)(?P=b)\s*,\s*(?P=a)value(?P=a)\s*:\s*"
    rf"(?P<c>{_QUOTE}))(?:.*?(?<!\\)(?P=c)|.*)"
)
_MAY_HOLD: Final = re.compile(
    r"[:=@<]|%[23]|u003|-----BEGIN|eyJ|ya29\.|1//0|A[KS]IA|gh[pousr]_|github_pat_|glpat-|xox|AIza|GOCSPX-|hvs\.|--\w"
    r"|(?i:bearer|basic|password|token|secret|authorization|cookie|key)"
)


def without_secrets(text: str) -> str:
    """Text as people may see it: what may be a secret is ``...``."""
    return _without(text, _held())


def redacted(document: Any) -> Any:
    """A document of mappings, lists and text as people may see it; numbers and everything else stay what they are."""
    return _redacted(document, _held())


def _without(text: str, literals: re.Pattern[str] | None) -> str:
    if literals is not None:
        text = literals.sub(LEFT_OUT, text)
    if not _MAY_HOLD.search(text):
        return text
    for pattern, shown in _BY_FORM:
        text = pattern.sub(shown, text)
    text = _NAME_AND_VALUE.sub(_second_of_pair, text)
    text = _ELEMENT.sub(_element, text)
    text = _without_named(text)
    text = _SIGNED_UNTIL.sub(rf"\1{LEFT_OUT}", text)
    text = _BEARER.sub(rf"\1{LEFT_OUT}", text)
    return _BASIC.sub(_basic, text)


def _redacted(value: Any, literals: re.Pattern[str] | None) -> Any:
    if isinstance(value, str):
        return _without(value, literals)
    if isinstance(value, Mapping):
        named = value.get("name")
        is_pair = isinstance(named, str) and "value" in value and _secrecy(named) >= _BY_ASSIGNMENT
        return {
            _without(key, literals) if isinstance(key, str) else key: _beside(
                "token" if is_pair and key == "value" else str(key), each, literals
            )
            for key, each in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_redacted(each, literals) for each in value]
    return value


def _beside(name: str, value: Any, literals: re.Pattern[str] | None) -> Any:
    """A value of a mapping, by its name."""
    place = _secrecy(name)
    if isinstance(value, (list, tuple)) and place >= _BY_ASSIGNMENT:
        return [_beside(name, each, literals) for each in value]
    if isinstance(value, bool) or value is None or isinstance(value, (Mapping, list, tuple)):
        return _redacted(value, literals)
    if place >= _BY_ASSIGNMENT or (place == _IF_LONG and _KEY_LIKE.fullmatch(str(value))):
        return value if str(value).strip().lower() in _NO_SECRET else LEFT_OUT
    return _redacted(value, literals)


# --- a name with its value -------------------------------------------------------------------------------------------


def _without_named(text: str) -> str:
    """Text without the values whose names say that they are secrets."""
    parts: list[str] = []
    done, at = 0, 0
    while (found := _NAME.search(text, at)) is not None:
        span = _value_of(text, found)
        if span is None:
            # What separates may belong to the next name.
            at = max(found.end("name"), found.start() + 1)
            continue
        start, stop = span
        parts += [text[done:start], LEFT_OUT]
        done = at = stop
    parts.append(text[done:])
    return "".join(parts)


def _value_of(text: str, found: re.Match[str]) -> tuple[int, int] | None:
    """Where the secret is that belongs to a name; None where there is none."""
    name, in_query = _named(text, found)
    place = max(map(_secrecy, name))
    if not place:
        return None
    separator = found["separator"].strip()
    quoted, opened = found["quote"], found["open"]
    before = text[: found.start()][-2:]
    if separator == "":
        # An option and its value: --password hunter2.
        if not found["name"].startswith("--") or place < _ALWAYS:
            return None
    elif separator == "," and (quoted is None or opened is None or place < _ALWAYS or before[:1] not in ("(", "[", "b")):
        # Not a header as a pair: ('Authorization', 'Basic ...').
        return None
    assigned = "=" in separator or separator.startswith(("%", "\\"))
    if place == _IN_QUERY and not in_query:
        return None
    if place == _BY_ASSIGNMENT and not (assigned or quoted is not None):
        return None
    start = found.end()
    if opened is not None:
        stop = _closing(text, start, opened)
        value = text[start:stop]
    elif text[start : start + 1] == "{" or (text[start : start + 1] in ("[", "(") and quoted is None):
        return None
    elif text[start : start + 1] in ("[", "("):
        closing = text.find({"[": "]", "(": ")"}[text[start]], start)
        stop = closing if closing > 0 else len(text)
        start += 1
        value = text[start:stop]
    elif not assigned and separator == ":" and any(map(_is_header, name)):
        return _header_value(text, found, start)
    else:
        bare = _BARE.match(text, start)
        if bare is None:
            return None
        value = bare[0].rstrip(_TRAILING)
        stop = start + len(value)
        if not assigned and separator == ":" and _is_prose(text, value, stop):
            return None
        if assigned and any(map(_is_header, name)):
            stop = _after_scheme(text, value, stop)
    if value.strip().lower() in _NO_SECRET:
        return None
    if place == _IF_LONG and not in_query and not _KEY_LIKE.fullmatch(value):
        return None
    kept = re.match(r"([A-Za-z][\w\-]*)\s+(?=\S)", value) if any(map(_is_header, name)) else None
    if kept is not None and kept[1].lower() in _SCHEMES:
        start += kept.end()
        if text[start:stop] == LEFT_OUT:
            return None
    return start, stop


def _named(text: str, found: re.Match[str]) -> tuple[tuple[str, ...], bool]:
    """What a name may be, without the escape before it, and whether it stands in the query of a URL."""
    name, before = found["name"], text[max(found.start() - 1, 0) : found.start()]
    if before == "%":
        escape = re.match(r"(?:25)*([0-9A-Fa-f]{2})", name)
        if escape is not None:
            return (name[escape.end() :],), escape[1].upper() in ("26", "3F", "23", "3B")
    if before == "\\":
        escape = re.match(r"u00([0-9A-Fa-f]{2})", name)
        if escape is not None:
            return (name[escape.end() :],), escape[1].upper() in ("26", "3F", "23")
        return (name, name[1:]), False
    return (name,), before in ("?", "&", "#") or text[max(found.start() - 5, 0) : found.start()] == "&amp;"


def _closing(text: str, start: int, opened: str) -> int:
    """Where the text ends that a quote opens: at the same quote, not escaped once more; at the end where it is cut off."""
    at = text.find(opened, start)
    while at > 0 and not opened.startswith(("&", "%")) and text[at - 1] == "\\":
        at = text.find(opened, at + 1)
    return at if at >= 0 else len(text)


def _header_value(text: str, found: re.Match[str], start: int) -> tuple[int, int] | None:
    """The value of a header: up to the end of the line, or to the quote that the whole header stands in."""
    end = _LINE_END.search(text, start)
    stop = end.start() if end is not None else len(text)
    around = re.search(r"\\*[\"'`]$", text[max(found.start() - 16, 0) : found.start()])
    if around is not None:
        stop = min(_closing(text, start, around[0]), stop)
    value = text[start:stop]
    words = value.split()
    if not words or (words[0].lower() in _PROSE and len(words) > 1) or words[0].lower().strip(_TRAILING) in _STATES:
        return None
    if len(words) > 1 and words[0].lower() in _SCHEMES:
        start += value.index(words[0]) + len(words[0])
        start += len(text[start:stop]) - len(text[start:stop].lstrip())
    return None if text[start:stop].strip() in _NO_SECRET else (start, stop)


def _after_scheme(text: str, value: str, stop: int) -> int:
    """The end of ``Basic abc`` where only the first word of it was found."""
    if not re.fullmatch(r"[A-Za-z][\w\-]*", value):
        return stop
    more = re.compile(r"\s+").match(text, stop)
    bare = _BARE.match(text, more.end()) if more is not None else None
    return stop if bare is None else bare.start() + len(bare[0].rstrip(_TRAILING))


def _is_prose(text: str, value: str, stop: int) -> bool:
    """Whether a word after a colon goes on with a sentence: ``no token: see the documentation``."""
    if "://" in value:
        return True
    if not re.fullmatch(r"[a-z]+", value):
        return False
    return value in _STATES or value in _PROSE or re.match(r"[ \t]+[A-Za-z]", text[stop : stop + 8]) is not None


def _second_of_pair(found: re.Match[str]) -> str:
    """``{"name": "TOKEN", "value": "abc"}``, as Kubernetes writes variables."""
    if _secrecy(found["name"]) < _BY_ASSIGNMENT:
        return found[0]
    end = found["c"] if found[0].endswith(found["c"]) else ""
    return f"{found[1]}{LEFT_OUT}{end}"


def _element(found: re.Match[str]) -> str:
    if _secrecy(found[2]) < _ALWAYS or found[4].strip().lower() in _NO_SECRET:
        return found[0]
    return f"<{found[1]}{found[3]}>{LEFT_OUT}</{found[1]}>"


def _basic(found: re.Match[str]) -> str:
    """``Basic`` and what decodes to a user and a password."""
    encoded = found[2].replace("%3D", "=").replace("-", "+").replace("_", "/").rstrip("=")
    try:
        plain = base64.b64decode(encoded + "=" * (-len(encoded) % 4))
    except (binascii.Error, ValueError):
        return found[0]
    return f"{found[1]}{LEFT_OUT}" if b":" in plain and plain.isascii() else found[0]


# --- what this process holds -----------------------------------------------------------------------------------------

_kept: set[str] = set()


def hold(secret: str) -> None:
    """Have a secret that does not come from the environment, such as one from a file of credentials, left out from now on."""
    if len(secret) >= SHORTEST_LITERAL:
        _kept.add(secret)


def _held() -> re.Pattern[str] | None:
    """Whatever this process holds as a secret, in the ways in which text may show it."""
    found = frozenset(
        value
        for name, value in os.environ.items()
        if len(value) >= SHORTEST_LITERAL and _secrecy(name) >= _ALWAYS and value.lower() not in _NO_SECRET
    )
    return _pattern(found | _kept)


@lru_cache(maxsize=32)
def _pattern(secrets: frozenset[str]) -> re.Pattern[str] | None:
    forms: tuple[Callable[[str], str], ...] = (
        str,
        lambda text: quote(text, safe=""),
        quote,
        lambda text: json.dumps(text)[1:-1],
        lambda text: repr(text)[1:-1],
        lambda text: base64.b64encode(text.encode(errors="surrogateescape")).decode(),
    )
    written = {form(secret) for secret in secrets for form in forms}
    return re.compile("|".join(map(re.escape, sorted(written, key=lambda text: (-len(text), text))))) if written else None
