"""WholeEvents."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sseflow import Eof, Lines, Pipeline, Stage, by_line
from sseflow.stages import WholeEvents
from sseflow.testing import check_stage, every_split

from ..strategies import ENDS, LOST, TERMINATORS, chunked, event_streams, run
from .samples import SAMPLES

BETWEEN = (b"\n\n", b"\n\r\n", b"\r\r", b"\r\r\n", b"\n\r")


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
@pytest.mark.parametrize("whole", [7, 14, 65536])
def test_it_is_a_good_stage(sample: bytes, whole: int) -> None:
    """Cuts do not matter to it, whatever is the longest event that may wait."""
    check_stage(lambda: WholeEvents(whole=whole), [sample], level="lines")


def test_events_leave_whole() -> None:
    """What is behind the last blank line waits for its own; nothing is delayed that is complete."""
    pipeline = Pipeline(by_line(WholeEvents()))
    assert pipeline.feed(b"data: a\n\ndata: b\n") == [b"data: a\n\n"]
    assert pipeline.feed(b"data: c\n") == []
    assert pipeline.feed(b"\ndata: d\n\ndata: e\n") == [b"data: b\ndata: c\n\ndata: d\n\n"]
    assert pipeline.feed(b"\n") == [b"data: e\n\n"]


def test_a_batch_of_whole_events_is_the_same_object() -> None:
    """Where a batch ends in a blank line and nothing waited it is not touched."""
    stage = WholeEvents()
    batch = [b"data: a\n", b"\n", b"data: b\r\n", b"\r\n"]
    assert stage.feed(batch) is batch


@pytest.mark.parametrize("end", ENDS, ids=lambda end: type(end).__name__)
def test_an_unfinished_event(end: object) -> None:
    """At a clean end it leaves as it came, without the newline that was not sent; behind any other it is dropped."""
    out, ending = run(by_line(WholeEvents()), chunks=[b"data: a\n\nid: 1\ndata: b"], end=end)  # type: ignore[arg-type]
    assert ending == end
    assert out == b"data: a\n\n" + (b"id: 1\ndata: b" if end == Eof() else b"")


@pytest.mark.parametrize("end", TERMINATORS, ids=["lf", "crlf", "cr"])
def test_an_event_that_is_too_long_to_wait(end: bytes) -> None:
    """Content of up to ``whole`` bytes waits; with one byte more the event flows; the next one waits again."""
    stream = b"a: 12345" + end + b"b: 12345" + end
    for chunks in every_split(stream):
        assert run(by_line(WholeEvents(whole=16)), chunks=chunks, end=LOST) == (b"", LOST)
        assert run(by_line(WholeEvents(whole=15)), chunks=chunks, end=LOST) == (stream, LOST)
    pipeline = Pipeline(by_line(WholeEvents(whole=15)))
    assert pipeline.feed(stream) == [stream]
    assert pipeline.feed(b"c" + end + b"d" + end) == [b"c" + end + b"d" + end]
    assert pipeline.feed(end + b"e" + end) == [end]
    assert pipeline.feed(b"f" + end + end) == [b"e" + end + b"f" + end + end]


def test_a_long_line_flows() -> None:
    """A line that is too long to be given whole takes with it what waited before it, and flows."""
    pipeline = Pipeline(by_line(WholeEvents(), whole=64))
    assert pipeline.feed(b"id: 1\n") == []
    assert pipeline.feed(b"data: " + b"x" * 58) == []
    assert pipeline.feed(b"y") == [b"id: 1\ndata: " + b"x" * 58 + b"y"]
    assert pipeline.feed(b"\nid: 2\n") == [b"\nid: 2\n"]
    assert pipeline.feed(b"\ndata: a\n") == [b"\n"]
    assert pipeline.end(LOST) == [LOST]


def test_lines_that_are_one_object() -> None:
    """A stage before it may give the same line again and again; the order stays."""

    class Constant(Stage[Lines]):
        line = b"data: x\n"

        def feed(self, batch: Lines, /) -> Lines:
            return [line if line == b"\n" else self.line for line in batch]

    stage = by_line(Constant(), WholeEvents())
    out, _ = run(stage, chunks=[b"a\n", b"b\n\nc\n", b"d\n\n", b"e\n\nf\n"])
    assert out == b"data: x\ndata: x\n\ndata: x\ndata: x\n\ndata: x\n\ndata: x\n"


@given(chunked(event_streams()), st.sampled_from(ENDS[1:]))
def test_a_failure_leaves_the_client_between_events(chunks: list[bytes], end: object) -> None:
    """Where no event is too long to wait, what is out at a failure ends in a blank line, or is nothing."""
    out, _ = run(by_line(WholeEvents(), whole=1000), chunks=chunks, end=end)  # type: ignore[arg-type]
    out = out.removeprefix(b"\xef\xbb\xbf")
    assert out == b"" or out.endswith(BETWEEN) or out.strip(b"\r\n") == b""
    assert b"".join(chunks).removeprefix(b"\xef\xbb\xbf").startswith(out)
