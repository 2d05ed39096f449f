"""CommentStripper."""

from __future__ import annotations

import pytest
from hypothesis import example, given

from sseflow import Eof, EventParser, Head, Pipeline, by_line
from sseflow.stages import CommentStripper
from sseflow.testing import check_stage, every_split

from ..strategies import chunked, event_streams, run
from .samples import SAMPLES


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
def test_it_is_a_good_stage(sample: bytes) -> None:
    """Cuts do not matter to it, nor does anything else that must not."""
    check_stage(CommentStripper, [sample], level="lines")


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        pytest.param(b"data: a\n\n", b"data: a\n\n", id="nothing-to-do"),
        pytest.param(b": c\n\ndata: a\n\n", b"data: a\n\n", id="block-of-comments"),
        pytest.param(b": c\n: d\n:\n\ndata: a\n\n", b"data: a\n\n", id="of-several"),
        pytest.param(b"data: a\n: c\ndata: b\n\n", b"data: a\ndata: b\n\n", id="inside-an-event"),
        pytest.param(b": c\ndata: a\n\n", b"data: a\n\n", id="before-an-event"),
        pytest.param(b"data: a\n: c\n\n", b"data: a\n\n", id="at-the-end-of-an-event"),
        pytest.param(b"\xef\xbb\xbfdata: a\n: c\n\n", b"\xef\xbb\xbfdata: a\n\n", id="a-bom-that-is-one"),
        pytest.param(
            b": c\n\n\xef\xbb\xbfdata: a\n\n", b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", id="a-bom-that-would-become-one"
        ),
        pytest.param(
            b"\xef\xbb\xbf: c\n\n\xef\xbb\xbfdata: a\n\n",
            b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n",
            id="a-bom-behind-a-bom",
        ),
        pytest.param(b"id: 1\n: c\n\xef\xbb\xbfx\n\n", b"id: 1\n\xef\xbb\xbfx\n\n", id="a-bom-in-the-middle"),
        pytest.param(b"id: 1\n\n: c\n\ndata: a\n\n", b"id: 1\n\ndata: a\n\n", id="behind-an-id"),
        pytest.param(b"id: 1\n: c\n\ndata: a\n\n", b"id: 1\n\ndata: a\n\n", id="in-a-control-block"),
        pytest.param(b"\n\n: c\n\n\n", b"\n\n\n", id="other-blank-lines-stay"),
        pytest.param(b": c\r\n\r\n\r\n", b"\r\n", id="crlf"),
        pytest.param(b": c\r\r\r", b"\r", id="cr"),
        pytest.param(b": c\r\n\n\r", b"\r", id="mixed"),
        pytest.param(b"retry: 5\n\n: c", b"retry: 5\n\n", id="unfinished"),
        pytest.param(b"\xef\xbb\xbf: c\n\n", b"\xef\xbb\xbf", id="behind-a-bom"),
        pytest.param(b"data: a\r: c\n\ndata: b\n\n", b"data: a\r\r\ndata: b\n\n", id="lf-behind-a-cr"),
        pytest.param(b"data: a\r\n: c\n\n", b"data: a\r\n\n", id="lf-behind-a-crlf"),
        pytest.param(b"data: a\r: c\r\n: d\r\n\n", b"data: a\r\r\n", id="lf-behind-a-cr-and-more"),
        pytest.param(b"data: a\r: c\r\rb\n", b"data: a\r\rb\n", id="cr-behind-a-cr"),
        pytest.param(b"x: " + b"x" * 70 + b"\r: c\n\n", b"x: " + b"x" * 70 + b"\r\r\n", id="lf-behind-a-long-cr"),
        pytest.param(b"x\r: " + b"c" * 70 + b"\r\n\n", b"x\r\r\n", id="lf-behind-a-cr-and-a-long-one"),
        pytest.param(b": " + b"c" * 500 + b"\r\n\r\ndata: a\n\n", b"data: a\n\n", id="long"),
        pytest.param(b" : x\ndata: :\n\n", b" : x\ndata: :\n\n", id="no-comment"),
    ],
)
def test_what_goes_and_what_stays(stream: bytes, expected: bytes) -> None:
    """Comments go, and the blank line behind a block that held nothing else; every other byte stays."""
    for chunks in every_split(stream) if len(stream) < 90 else [[stream], [stream[:90], stream[90:]]]:
        assert run(by_line(CommentStripper(), whole=64), chunks=chunks) == (expected, Eof())


@example([b": c\n\n", b"\xef\xbb\xbfdata: a\n\n"])
@given(chunked(event_streams()))
@example([b"data: a\r: ping\n\n"])
def test_clients_read_the_same(chunks: list[bytes]) -> None:
    """A parser reads the same events with and without comments, and no comment is left."""
    stripped, _ = run(by_line(CommentStripper(), whole=64), chunks=chunks)
    assert EventParser().feed(stripped) == EventParser().feed(b"".join(chunks))
    assert not [line for line in stripped.removeprefix(b"\xef\xbb\xbf").splitlines() if line.startswith(b":")]


def test_content_length_goes() -> None:
    """The body will be shorter than the head says, so the head says nothing; without one it is the same object."""
    head = Head(200, ((b"content-LENGTH", b"10"), (b"x", b"y")))
    assert CommentStripper().head(head) == Head(200, ((b"x", b"y"),))
    plain = Head(200, ((b"x", b"y"),))
    assert CommentStripper().head(plain) is plain


def test_heartbeats_let_nothing_out() -> None:
    """A chunk of nothing but comments gives no item at all."""
    pipeline = Pipeline(by_line(CommentStripper()))
    assert pipeline.feed(b": ping\n\n") == []
    assert pipeline.feed(b": ping\n\n") == []
