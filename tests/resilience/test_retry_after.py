"""There is one reading of how long to wait."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sseflow.resilience import retry_after

NOW = 784_111_777.0  # Sun, 06 Nov 1994 08:49:37 GMT

READ = {
    "seconds": ([(b"retry-after", b"20")], 20.0),
    "decimals": ([(b"Retry-After", b"1.5")], 1.5),
    "zero": ([(b"retry-after", b"0")], 0.0),
    "spaces": ([(b"retry-after", b" 3 ")], 3.0),
    "milliseconds": ([(b"retry-after-ms", b"1500")], 1.5),
    "decimal-milliseconds": ([(b"Retry-After-Ms", b"12.5")], 0.0125),
    "milliseconds-count-first": ([(b"retry-after", b"9"), (b"retry-after-ms", b"250")], 0.25),
    "milliseconds-are-garbage": ([(b"retry-after-ms", b"soon"), (b"retry-after", b"9")], 9.0),
    "date": ([(b"retry-after", b"Sun, 06 Nov 1994 08:50:37 GMT")], 60.0),
    "old-date": ([(b"retry-after", b"Sunday, 06-Nov-94 08:50:37 GMT")], 60.0),
    "asctime": ([(b"retry-after", b"Sun Nov  6 08:50:37 1994")], 60.0),
    "date-in-the-past": ([(b"retry-after", b"Sun, 06 Nov 1994 08:49:36 GMT")], 0.0),
    "at-most-a-day": ([(b"retry-after", b"86401")], 86400.0),
    "date-in-the-far-future": ([(b"retry-after", b"Sun, 06 Nov 2044 08:49:37 GMT")], 86400.0),
    "first-that-can-be-read": ([(b"retry-after", b"x"), (b"retry-after", b"2"), (b"retry-after", b"3")], 2.0),
    "nothing": ([(b"content-type", b"1")], None),
    "negative": ([(b"retry-after", b"-1")], None),
    "exponent": ([(b"retry-after", b"1e3")], None),
    "infinite": ([(b"retry-after", b"inf")], None),
    "no-number": ([(b"retry-after", b"nan")], None),
    "words": ([(b"retry-after", b"tomorrow")], None),
    "empty": ([(b"retry-after", b"")], None),
    "no-such-day": ([(b"retry-after", b"Sun, 99 Nov 1994 08:49:37 GMT")], None),
    "no-ascii": ([(b"retry-after", "Día, 06 Nov 1994 08:49:37 GMT".encode())], None),
    "too-long": ([(b"retry-after", b"1" * 65)], None),
}


@pytest.mark.parametrize(("headers", "seconds"), READ.values(), ids=READ)
def test_the_wait_is_read(headers: list[tuple[bytes, bytes]], seconds: float | None) -> None:
    """Milliseconds, seconds with decimals and the three forms of HTTP dates are read; garbage is no wait."""
    assert retry_after(headers, NOW) == seconds


@given(st.sampled_from([b"retry-after", b"retry-after-ms"]), st.binary() | st.text().map(str.encode))
def test_anything_is_read_as_a_bounded_wait_or_as_none(name: bytes, value: bytes) -> None:
    """Whatever an upstream writes, the wait is from zero to a day, or none at all."""
    seconds = retry_after([(name, value)], NOW)
    assert seconds is None or 0 <= seconds <= 86400


@given(st.from_regex(rb"(Sun|Monday), ?[0-9]{1,3}[ -]Nov[ -][0-9]{1,6} [0-9]{1,3}:[0-9]{2}:[0-9]{2} [-+A-Z0-9]{0,6}"))
def test_anything_like_a_date_is_read_as_a_bounded_wait_or_as_none(value: bytes) -> None:
    """So does what looks like a date."""
    seconds = retry_after([(b"retry-after", value)], NOW)
    assert seconds is None or 0 <= seconds <= 86400
