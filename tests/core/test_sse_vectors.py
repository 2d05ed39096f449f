"""Streams, and what a client makes of them by the standard (HTML, section 9.2.6)."""

from __future__ import annotations

from itertools import combinations

import pytest

from sseflow import Event, EventParser

A = Event(b"a")
B = Event(b"b")

VECTORS: dict[str, tuple[bytes, list[Event]]] = {
    "nothing": (b"", []),
    "blank-lines": (b"\n\n\r\r\r\n\r\n", []),
    "lf": (b"data: a\n\ndata: b\n\n", [A, B]),
    "crlf": (b"data: a\r\n\r\ndata: b\r\n\r\n", [A, B]),
    "cr": (b"data: a\r\rdata: b\r\r", [A, B]),
    "mixed": (b"data: a\r\n\ndata: b\r\r\n", [A, B]),
    "lf-cr": (b"data: a\n\rdata: b\n\r", [A, B]),
    # The standard's own examples.
    "standard-multi-line": (b"data: YHOO\ndata: +2\ndata: 10\n\n", [Event(b"YHOO\n+2\n10")]),
    "standard-four-blocks": (
        b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n",
        [Event(b"first event", id=b"1"), Event(b"second event")],
    ),
    "standard-empty-data": (b"data\n\ndata\ndata\n\ndata:\n", [Event(b""), Event(b"\n")]),
    "standard-space": (b"data:test\n\ndata: test\n\n", [Event(b"test"), Event(b"test")]),
    # Byte order marks.
    "bom": (b"\xef\xbb\xbfdata: a\n\n", [A]),
    "bom-before-comment": (b"\xef\xbb\xbf: c\n\ndata: a\n\n", [A]),
    "one-bom-only": (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\ndata: b\n\n", [B]),
    "bom-in-the-middle": (b"data: a\n\n\xef\xbb\xbfdata: x\n\ndata: b\n\n", [A, B]),
    "half-a-bom": (b"\xef\xbbdata: x\n\ndata: b\n\n", [B]),
    # Spaces and colons.
    "one-space-only": (b"data:  a\n\n", [Event(b" a")]),
    "no-tab": (b"data:\ta\n\n", [Event(b"\ta")]),
    "trailing-space": (b"data: a \n\n", [Event(b"a ")]),
    "colons-in-the-value": (b"data::a:b\n\n", [Event(b":a:b")]),
    "space-before-the-colon": (b"data : x\n\ndata: a\n\n", [A]),
    "space-before-the-name": (b" data: x\n\ndata: a\n\n", [A]),
    "data-without-colon": (b"data\n\n", [Event(b"")]),
    "data-without-colon-then-data": (b"data\ndata:a\n\n", [Event(b"\na")]),
    "data-with-nothing": (b"data:\n\n", [Event(b"")]),
    "data-with-a-space": (b"data: \n\n", [Event(b"")]),
    # Names.
    "names-are-exact": (b"Data: x\n\nDATA: x\n\ndatas: x\n\ndat: x\n\ndata: a\n\n", [A]),
    "unknown-fields": (b"foo: x\nbar\ndata: a\n\n", [A]),
    "empty-name": (b": data: x\n\n:\n\n::\n\ndata: a\n\n", [A]),
    "comments-inside": (b"data: a\n: data: x\n:\ndata: b\n\n", [Event(b"a\nb")]),
    "comment-only": (b": c\n\n:c\n\n", []),
    # Types.
    "type": (b"event: t\ndata: a\n\n", [Event(b"a", b"t")]),
    "type-behind-data": (b"data: a\nevent: t\n\n", [Event(b"a", b"t")]),
    "last-type-counts": (b"event: x\nevent: t\ndata: a\n\n", [Event(b"a", b"t")]),
    "empty-type": (b"event: x\nevent:\ndata: a\n\n", [A]),
    "type-without-colon": (b"event: x\nevent\ndata: a\n\n", [A]),
    "type-is-of-one-event": (b"event: t\ndata: a\n\ndata: b\n\n", [Event(b"a", b"t"), B]),
    "type-without-data-is-forgotten": (b"event: t\n\ndata: a\n\n", [A]),
    # Ids.
    "id-persists": (b"id: 1\ndata: a\n\ndata: b\n\n", [Event(b"a", id=b"1"), Event(b"b", id=b"1")]),
    "id-without-data": (b"id: 1\n\ndata: a\n\n", [Event(b"a", id=b"1")]),
    "id-is-reset": (b"id: 1\ndata: a\n\nid\ndata: b\n\n", [Event(b"a", id=b"1"), B]),
    "id-is-reset-by-a-colon": (b"id: 1\ndata: a\n\nid:\ndata: b\n\n", [Event(b"a", id=b"1"), B]),
    "id-is-reset-without-data": (b"id: 1\n\nid\n\ndata: b\n\n", [B]),
    "last-id-counts": (b"id: 1\nid: 2\ndata: a\n\n", [Event(b"a", id=b"2")]),
    "id-behind-data": (b"data: a\nid: 2\n\n", [Event(b"a", id=b"2")]),
    "id-with-nul": (b"id: 1\n\nid: 2\x003\ndata: a\n\n", [Event(b"a", id=b"1")]),
    "id-of-nul": (b"id: \0\ndata: a\n\n", [A]),
    "id-with-a-space": (b"id:  1\ndata: a\n\n", [Event(b"a", id=b" 1")]),
    # Retry.
    "retry": (b"retry: 1500\ndata: a\n\n", [Event(b"a", retry=1500)]),
    "retry-zeros": (b"retry: 007\ndata: a\n\n", [Event(b"a", retry=7)]),
    "last-good-retry-counts": (b"retry: 1\nretry: 2\nretry: x\ndata: a\n\n", [Event(b"a", retry=2)]),
    "retry-is-of-one-event": (b"retry: 1\ndata: a\n\ndata: b\n\n", [Event(b"a", retry=1), B]),
    "retry-empty": (b"retry:\nretry\nretry: \ndata: a\n\n", [A]),
    "retry-signs": (b"retry: +1\nretry: -1\ndata: a\n\n", [A]),
    "retry-python-would-take": (b"retry: 1_000\nretry:  1\nretry: 1 \nretry: 0x1\nretry: 1e3\ndata: a\n\n", [A]),
    "retry-fraction": (b"retry: 1.0\ndata: a\n\n", [A]),
    "retry-other-digits": ("retry: \u0661\u0662\nretry: \u00b2\nretry: \uff11\ndata: a\n\n".encode(), [A]),
    "retry-huge": (b"retry: " + b"9" * 30 + b"\ndata: a\n\n", [A]),
    # What ends a line, and what does not.
    "separators-are-no-line-ends": (
        "data: a\u2028b\u2029c\u0085d\n\n".encode(),
        [Event("a\u2028b\u2029c\u0085d".encode())],
    ),
    "controls-are-no-line-ends": (b"data: a\x0bb\x0cc\x1cd\x1de\x1ef\n\n", [Event(b"a\x0bb\x0cc\x1cd\x1de\x1ef")]),
    "nul-in-data": (b"data: a\0b\n\n", [Event(b"a\0b")]),
    "no-utf-8": (b"data: \xff\xfe\xc3\n\n", [Event(b"\xff\xfe\xc3")]),
    # What is not finished.
    "tail-without-blank-line": (b"data: a\n\ndata: x\n", [A]),
    "tail-without-line-end": (b"data: a\n\ndata: x", [A]),
    "tail-of-cr": (b"data: a\n\ndata: x\r", [A]),
    "tail-of-crlf": (b"data: a\n\ndata: x\r\n", [A]),
}


def parse(chunks: list[bytes]) -> list[Event]:
    parser = EventParser()
    events = [event for chunk in chunks for event in parser.feed(chunk)]
    parser.end()
    return events


@pytest.mark.parametrize(("stream", "events"), VECTORS.values(), ids=VECTORS)
def test_vector(stream: bytes, events: list[Event]) -> None:
    """Whole, byte by byte, and with every two cuts (of which one may be at an end), the same events come."""
    assert parse([stream]) == events
    assert parse([stream[i : i + 1] for i in range(len(stream))]) == events
    # Two bytes a chunk: each pair of neighbours comes together once, and apart once.
    assert parse([stream[i : i + 2] for i in range(0, len(stream), 2)]) == events
    for i, j in combinations(range(len(stream) + 1), 2):
        assert parse([stream[:i], stream[i:j], stream[j:]]) == events


@pytest.mark.parametrize(("stream", "events"), VECTORS.values(), ids=VECTORS)
def test_vector_behind_another_event(stream: bytes, events: list[Event]) -> None:
    """The same holds in a stream that is running; a byte order mark is none any more."""
    if not stream.startswith(b"\xef"):
        assert parse([b": first\n\n", b"\n", stream]) == events
        assert parse([b"data: 0\r\n\r", b"\n", stream]) == [Event(b"0"), *events]
