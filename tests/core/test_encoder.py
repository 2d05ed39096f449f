"""The encoder: what it writes, a client reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sseflow import Event, EventParser, encode, encode_comment

values = st.lists(
    st.sampled_from([b"\n", b"\r", b"\r\n", b":", b" ", b"\0", b"\xff", b"a", b"data: x"]), max_size=8
).map(b"".join)
names = values.map(lambda value: value.replace(b"\n", b"").replace(b"\r", b""))
ids = names.map(lambda value: value.replace(b"\0", b""))


def normal(data: bytes) -> bytes:
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


@given(values, st.none() | names, st.none() | ids, st.none() | st.integers(0, 10**18 - 1))
def test_what_is_encoded_is_read_back(data: bytes, type: bytes | None, id: bytes | None, retry: int | None) -> None:
    """One event comes back: the data with LF for line ends, type, id and retry as given, between events of others."""
    wire = encode(data, type=type, id=id, retry=retry)
    before, event, after = EventParser().feed(b"id: 1\ndata: before\n\n" + wire + b"data: after\n\n")
    assert (before.data, after.data, after.id) == (b"before", b"after", event.id)
    assert event == Event(normal(data), type or b"message", b"1" if id is None else id, retry)


@given(values)
def test_a_comment_is_no_event(text: bytes) -> None:
    """Whatever stands in a comment, a client reads nothing of it, and the event behind it is whole."""
    comment = encode_comment(text)
    assert comment.endswith(b"\n")
    assert not comment.endswith(b"\n\n")
    assert EventParser().feed(comment + b"data: x\n\n") == [Event(b"x")]


@pytest.mark.parametrize(
    ("wire", "expected"),
    [
        (encode(b""), b"data: \n\n"),
        (encode(b" a"), b"data:  a\n\n"),
        (encode(b"a\rb\r\nc\n"), b"data: a\ndata: b\ndata: c\ndata: \n\n"),
        (encode(b"x", type=b"t", id=b"", retry=0), b"event: t\nid: \nretry: 0\ndata: x\n\n"),
        (encode_comment(), b":\n"),
        (encode_comment(b"a\r\n\rb"), b": a\n:\n: b\n"),
    ],
    ids=["empty", "space", "line-ends", "all-fields", "empty-comment", "comment-of-lines"],
)
def test_wire_form(wire: bytes, expected: bytes) -> None:
    """What is written, byte for byte."""
    assert wire == expected


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"], ids=["lf", "cr", "crlf"])
@pytest.mark.parametrize("value", [b"%s", b"a%s", b"a%sdata: b", b"%s%s"], ids=["alone", "behind", "inside", "twice"])
def test_line_ends_are_refused(value: bytes, end: bytes) -> None:
    """A type or an id with a line end would be another field; it is refused, with its name."""
    value = value.replace(b"%s", end)
    with pytest.raises(ValueError, match="type: a line end"):
        encode(b"", type=value)
    with pytest.raises(ValueError, match="id: a line end"):
        encode(b"", id=value)


def test_what_clients_ignore_is_refused() -> None:
    """An id with a NUL and a negative retry would not be read; they are refused."""
    with pytest.raises(ValueError, match="NUL"):
        encode(b"", id=b"a\0b")
    with pytest.raises(ValueError, match="retry=-1"):
        encode(b"", retry=-1)
