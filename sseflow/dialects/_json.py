"""What the dialects find in JSON; all of it may be anything, since it comes from outside."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator

from .._events import Event
from ._dialect import DialectError

MAX_NAME = 1024
"""Characters of an id or a name that are kept. Ids that carry something encrypted are some hundred long."""

WITHIN = 1024
"""Bytes in which an error or an id is looked for where the whole cannot be: such an object begins with it."""

_STRUCTURE = re.compile(rb'"(?:[^"\\]|\\.)*+"|[][{}]')


def string_after(key: bytes) -> re.Pattern[bytes]:
    """What finds the values of ``key`` that are strings, and not empty.

    A quote inside a JSON string is escaped, so it does not match in what a model wrote.
    """
    return re.compile(rb'"' + key + rb'"\s*:\s*("(?:[^"\\]|\\.)++")')


_MODEL = string_after(b"model")
_ID = string_after(b"id")
_NUMBER = re.compile(rb"\s*:\s*(\d{1,9})")
_USAGE = re.compile(rb'"usage"\s*:\s*(?=\{)')


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


def object_in(value: dict[str, object] | None, *keys: str) -> dict[str, object]:
    """The object that stands under these keys; an empty one if none does."""
    for key in keys:
        value = as_object((value or {}).get(key))
    return value or {}


def name_in(value: dict[str, object], key: str) -> str | None:
    """The string that stands under ``key``, cut at `MAX_NAME`; None if it is none, or empty."""
    name = value.get(key)
    return _name(name) if isinstance(name, str) and name else None


def find_name(pattern: re.Pattern[bytes], data: bytes) -> str | None:
    """The first string that a pattern of `string_after` finds, cut at `MAX_NAME`, without decoding the whole."""
    found = pattern.search(data)
    if found is None:
        return None
    try:
        return _name(json.loads(found[1]))
    except ValueError:
        return None


def _name(text: str) -> str:
    return text[:MAX_NAME].encode("utf-8", "replace").decode()  # half a surrogate pair could be written nowhere


def model_in(data: bytes) -> str | None:
    """The first ``model`` in an object, at any depth, without decoding the object."""
    return find_name(_MODEL, data)


def keys_at_top(data: bytes, key: bytes, within: int) -> Iterator[int]:
    """Where ``key``, in its quotes, stands at the top level of an object, or as a value there; no byte is decoded.

    Args:
        within: bytes that are looked at.
    """
    if not data.lstrip().startswith(b"{"):
        return
    depth = 0
    for found in _STRUCTURE.finditer(data, 0, within):
        match found[0]:
            case b"{" | b"[":
                depth += 1
            case b"}" | b"]" if depth == 1:
                return
            case b"}" | b"]":
                depth -= 1
            case token if depth == 1 and token == key:
                yield found.start()


def id_at_top(data: bytes, within: int) -> str | None:
    """The first ``id`` at the top level of an object that is a string, and not empty, in the first ``within`` bytes."""
    for at in keys_at_top(data, b'"id"', within):
        if _ID.match(data, at) is not None:
            return find_name(_ID, data[at:])
    return None


def number_at_top(data: bytes, key: bytes) -> tuple[int, ...]:
    """The number under ``key``, in its quotes, at the top level of an object; empty if there is none."""
    for at in keys_at_top(data, key, len(data)):
        found = _NUMBER.match(data, at + len(key))
        if found is not None:
            return (int(found[1]),)
    return ()


def usage_object(event: Event, *keys: str) -> object:
    """What stands under ``usage`` in the object that stands under these keys; of a cut event, the last usage in it."""
    return usage_at_the_end(event.data) if event.cut else object_in(decode(event.data), *keys).get("usage")


def usage_at_the_end(data: bytes) -> object:
    """The last usage object in a window on an event: as a rule it stands behind all output."""
    found = list(_USAGE.finditer(data))
    if not found:
        return None
    try:
        value, _ = json.JSONDecoder().raw_decode(data[found[-1].end() :].decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return value


def error_of(value: object, *, around: dict[str, object] | None = None) -> DialectError:
    """What an error object says, or whatever stands in its place.

    Args:
        around: the object it stands in: some servers say there how long to wait.
    """
    if not isinstance(value, dict):
        return DialectError(message=str(value), retry_after=_retry_after(around or {}))

    def text(key: str) -> str | None:
        part = value.get(key)
        return None if part is None else str(part)

    return DialectError(
        message=text("message"),
        type=text("type"),
        code=text("code"),
        retry_after=_retry_after({**(around or {}), **value}),
    )


LONGEST_WAIT = 24 * 3600.0
"""Seconds. Who asks for more is asked again tomorrow."""

# By lower-case names: seconds per unit. The upper ones count first.
_RETRY_AFTER = {"retry_after_ms": 0.001, "retry_after": 1.0, "retry_after_seconds": 1.0}


def _retry_after(error: dict[str, object], depth: int = 3) -> float | None:
    """The seconds that an error asks to wait: in itself, or where gateways put what their upstream said."""
    if not depth:
        return None
    given = {key.lower().replace("-", "_"): value for key, value in error.items()}
    for name, unit in _RETRY_AFTER.items():
        seconds = _number(given.get(name))
        if seconds is not None:
            return min(seconds * unit, LONGEST_WAIT)
    for name in ("metadata", "headers"):
        seconds = _retry_after(as_object(given.get(name)) or {}, depth - 1)
        if seconds is not None:
            return seconds
    return None


def _number(value: object) -> float | None:
    """A number, or the text of one, that is finite and not negative."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and number >= 0 else None


def error_in(body: bytes) -> DialectError | None:
    """What the JSON body of an answer says of an error; None if it speaks of none."""
    value = decode(body)
    if value is None:
        return None
    error = value.get("error")
    if error:
        return error_of(error, around=value)
    return error_of(value) if value.get("type") == "error" else None
