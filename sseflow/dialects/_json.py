"""What the dialects find in JSON; all of it may be anything, since it comes from outside."""

from __future__ import annotations

import json
import re

from ._dialect import DialectError

# A quote inside a JSON string is escaped, so this does not match in what a model wrote.
_MODEL = re.compile(rb'"model"\s*:\s*("(?:[^"\\]|\\.)*+")')


def decode(data: bytes) -> dict[str, object] | None:
    """The object that ``data`` is; None if it is none."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return as_object(value)


def as_object(value: object) -> dict[str, object] | None:
    """``value`` if it is an object, else None."""
    return value if isinstance(value, dict) else None


def model_in(data: bytes) -> str | None:
    """The first ``model`` in an object, at any depth, without decoding the object."""
    found = _MODEL.search(data)
    if found is None:
        return None
    try:
        return str(json.loads(found[1]))
    except ValueError:
        return None


def error_of(value: object) -> DialectError:
    """What an error object says, or whatever stands in its place."""
    if not isinstance(value, dict):
        return DialectError(message=str(value))

    def text(key: str) -> str | None:
        part = value.get(key)
        return None if part is None else str(part)

    return DialectError(message=text("message"), type=text("type"), code=text("code"))


def error_in(body: bytes) -> DialectError | None:
    """What the JSON body of an answer says of an error; None if it speaks of none."""
    value = decode(body)
    if value is None:
        return None
    error = value.get("error")
    if error:
        return error_of(error)
    return error_of(value) if value.get("type") == "error" else None
