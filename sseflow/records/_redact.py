"""Take out of JSON what is secret by its name, and leave every other byte."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable

REDACTED = "[REDACTED]"

_NOT_JSON = b'{"redacted": "it was said to be JSON, and is none"}'

_PARTS = ("secret", "password", "authorization", "credential")
_NAMES = frozenset(
    {
        "accesstoken",
        "apikey",
        "apitoken",
        "authtoken",
        "bearertoken",
        "idtoken",
        "privatekey",
        "refreshtoken",
        "securitytoken",
        "sessiontoken",
        "signingkey",
        "token",
        "xapikey",
    }
)
"""Without what joins the words, so that the spelling of them does not matter."""

_JOINTS = str.maketrans("", "", "_-")

# What a name or a part of one may begin with, or an escape that could spell it.
_SUSPECT = re.compile(
    rb"secret|password|authorization|credential|token|api[_-]?key|(?:private|signing)[_-]?key|\\u", re.I
)
_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"')
_COLON = re.compile(r"[ \t\n\r]*+:[ \t\n\r]*+")
_DECODER = json.JSONDecoder()


def redact_json(data: bytes) -> bytes:
    """Put ``"[REDACTED]"`` in the place of each value whose name says that it is secret, at any depth.

    Secret is a name with ``secret``, ``password``, ``authorization`` or ``credential`` in it, and the names of tokens
    and keys (``token``, ``api_key``, ``accessToken``, ...), whatever the case. Counters such as ``max_tokens`` are not.
    What stands inside strings is not looked into: a text is a text, and so are the arguments of a call.

    Returns:
        The very object that was given if nothing is secret, and otherwise its other bytes as they came. For what is no
        JSON a small object that says so: what cannot be read is not kept.
    """
    try:
        text = data.decode()
        _DECODER.decode(text)
    except (ValueError, RecursionError):
        return _NOT_JSON
    if _SUSPECT.search(data) is None:
        return data
    pieces: list[str] = []
    done = at = 0
    while (string := _STRING.search(text, at)) is not None:
        at = string.end()
        colon = _COLON.match(text, at)
        if colon is None or not _is_secret(string[0]):
            continue
        _, at = _DECODER.raw_decode(text, colon.end())
        pieces += [text[done : colon.end()], f'"{REDACTED}"']
        done = at
    return "".join([*pieces, text[done:]]).encode() if pieces else data


def redacting(patterns: Iterable[str]) -> Callable[[bytes], bytes]:
    """`redact_json`, with texts as well: in each string, whatever fits one of these becomes ``[REDACTED]``.

    Args:
        patterns: regular expressions, as in `re`. They are searched for in what a string says, not in how it is
            written, and in no names of members.

    Raises:
        re.error: one of them is none.
    """
    compiled = [re.compile(pattern) for pattern in patterns]

    def redact(data: bytes) -> bytes:
        data = redact_json(data)
        if not compiled:
            return data
        text = data.decode()
        pieces: list[str] = []
        done = 0
        for string in _STRING.finditer(text):
            if _COLON.match(text, string.end()) is not None:
                continue
            value = kept = str(json.loads(string[0]))
            for pattern in compiled:
                kept = pattern.sub(REDACTED, kept)
            if kept != value:
                pieces += [text[done : string.start()], json.dumps(kept)]
                done = string.end()
        return "".join([*pieces, text[done:]]).encode() if pieces else data

    return redact


def _is_secret(quoted: str) -> bool:
    name = str(json.loads(quoted)).lower()
    return any(part in name for part in _PARTS) or name.translate(_JOINTS) in _NAMES
