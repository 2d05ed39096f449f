"""What the property tests draw: streams, and ways to cut them."""

from __future__ import annotations

from hypothesis import strategies as st

from sseflow import Cancelled, Closed, End, Eof, Failed, Head, Item, Pipeline, Stage

HEAD = Head(200, ((b"Content-Type", b"text/event-stream"),))


class Lost(Exception):
    """What a source fails with in these tests."""


LOST = Failed(Lost("the source failed"))

ENDS: tuple[End, ...] = (Eof(), LOST, Closed(), Cancelled())

TERMINATORS = [b"\n", b"\r\n", b"\r"]

# What is likely to go wrong, more often than chance would bring it.
_WORDS = [
    *TERMINATORS,
    *TERMINATORS,
    *TERMINATORS,
    b"data",
    b"data:",
    b"data: a",
    b"data:  {}",
    b"data: [DONE]",
    b":",
    b": ping",
    b"event: error",
    b"event",
    b"id: 7",
    b"id",
    b"id: \0",
    b"retry: 15",
    b"retry: x",
    b"\xef\xbb\xbf",
    b"\xff\0",
    "\u2028\u0085".encode(),
    b"\x0b\x0c\x1c",
    b"x",
    b"y" * 70,
    b"data: " + b"z" * 130,
    b": " + b"c" * 100,
]

#: Any bytes, near to what an event stream looks like.
any_bytes = st.lists(st.sampled_from(_WORDS) | st.binary(max_size=3), max_size=14).map(b"".join)

_line = st.sampled_from(
    [
        b"data: a",
        b"data:b",
        b"data",
        b'data: {"choices":[{"delta":{"content":"hi"},"finish_reason":null}]}',
        b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}',
        b'data: {"error":{"message":"m","type":"t","code":3}}',
        b"data: [DONE]",
        b"data: " + b"d" * 150,
        b": ping",
        b":",
        b": " + b"c" * 150,
        b"id: 1",
        b"id",
        b"event: token",
        b"retry: 20",
        b"other: field",
        b"",
        b"",
    ]
)


@st.composite
def event_streams(draw: st.DrawFn) -> bytes:
    """Draw lines of an event stream, long ones among them, with one line ending or with mixed ones."""
    lines = draw(st.lists(_line, max_size=12))
    ends = draw(st.sampled_from([[b"\n"], [b"\r\n"], [b"\r"], TERMINATORS]))
    text = b"".join(line + draw(st.sampled_from(ends)) for line in lines)
    return (
        draw(st.sampled_from([b"", b"\xef\xbb\xbf"]))
        + text
        + draw(st.sampled_from([b"", b"", b"data: x", b"\r", b":"]))
    )


@st.composite
def chunked(draw: st.DrawFn, data: st.SearchStrategy[bytes] = any_bytes) -> list[bytes]:
    """Draw bytes, and a way to cut them into chunks, none of which is empty."""
    whole = draw(data)
    if draw(st.integers(0, 9)) == 0:
        return [whole[at : at + 1] for at in range(len(whole))]
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(whole) - 1)), max_size=6)))
    chunks = [whole[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    return [chunk for chunk in chunks if chunk]


def drive(pipeline: Pipeline, chunks: list[bytes], end: End, head: Head | None = HEAD) -> list[Item]:
    """Run a stream through a pipeline; what came out, in order."""
    items = [] if head is None else pipeline.head(head)
    for chunk in chunks:
        if pipeline.ending is None:
            items += pipeline.feed(chunk)
    return items + pipeline.end(end)


def run(*stages: Stage[bytes], chunks: list[bytes], end: End | None = None) -> tuple[bytes, End]:
    """Run a stream without a head through stages; the joined output and the ending."""
    *items, ending = drive(Pipeline(*stages), chunks, end or Eof(), None)
    assert isinstance(ending, Eof | Failed | Closed | Cancelled)
    assert all(type(item) is bytes and item for item in items)
    return b"".join(item for item in items if isinstance(item, bytes)), ending
