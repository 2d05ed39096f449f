"""How long an upstream wants to be left alone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from email.utils import parsedate_to_datetime

LONGEST = 24 * 3600.0
"""Seconds. Who asks for more is asked again tomorrow."""

_LONGEST_VALUE = 64  # bytes; the longest HTTP date has 33

_NUMBER = re.compile(rb"\d+(?:\.\d*)?|\.\d+")


def retry_after(headers: Iterable[tuple[bytes, bytes]], now: float) -> float | None:
    """The seconds for which an answer's headers ask us to wait: 0 to 24 h; None if they do not, or not legibly.

    ``retry-after-ms`` counts before ``Retry-After``, which holds seconds, whole or not, or an HTTP date.

    Args:
        headers: names and values; the case of the names does not matter.
        now: the time of day, as of `time.time`. Dates are told in it.
    """
    found: dict[bytes, float] = {}
    for name, value in headers:
        name = name.lower()
        if name not in (b"retry-after-ms", b"retry-after") or len(value) > _LONGEST_VALUE:
            continue
        seconds = _milliseconds(value.strip()) if name == b"retry-after-ms" else _seconds(value.strip(), now)
        if seconds is not None:
            found.setdefault(name, min(max(seconds, 0.0), LONGEST))
    return found.get(b"retry-after-ms", found.get(b"retry-after"))


def _milliseconds(value: bytes) -> float | None:
    return float(value) / 1000 if _NUMBER.fullmatch(value) else None


def _seconds(value: bytes, now: float) -> float | None:
    if _NUMBER.fullmatch(value):
        return float(value)
    if not value[:1].isalpha():  # a date begins with the name of a day; not everything that can be read as one does
        return None
    try:
        return parsedate_to_datetime(value.decode("ascii")).timestamp() - now
    except (ValueError, OverflowError):
        return None
