"""Whatever the order of the standard stages: an empty or failed stream behind a shut gate lets no head out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sseflow import (
    EmptyStream,
    End,
    Eof,
    Failed,
    Head,
    Lines,
    Observe,
    Pipeline,
    Stage,
    Truncated,
    by_event,
    by_line,
    is_event_stream,
)
from sseflow.dialects import Dialect, OpenAIChat, PlainSSE
from sseflow.stages import (
    CommentStripper,
    CommitGate,
    DataCounter,
    EofRecorder,
    ErrorMapper,
    RequireData,
    RequireEnd,
    Tee,
    Watch,
    WholeEvents,
)

from .strategies import ENDS, HEAD, LOST, chunked, drive, event_streams

# Streams in which nothing is worth committing to.
EMPTY = [
    b"",
    b"\n\n",
    b": ping\n\n",
    b": ping\r\n\r\n: ping",
    b"id: 1\n\nretry: 5\n\n",
    b"event: t\r\r:\r\r",
    b"\xef\xbb\xbf: ping\n\n",
    b": " + b"c" * 200 + b"\n\n",
]
EMPTY_CHAT = [*EMPTY, b"data: [DONE]\n\n", b": ping\n\ndata: [DONE]\n\n", b"data: [DONE]\r\n\r\n: ping\r\n\r\n"]


class Parts:
    """The standard stages, in an order of one's own."""

    def __init__(self, dialect: Dialect, order: list[int]) -> None:
        counter, watch = DataCounter(), Watch(dialect)
        self.gate = CommitGate(dialect.opens)
        stages: list[Stage[Lines]] = [
            counter,
            CommentStripper(),
            WholeEvents(),
            Observe(by_event(watch)),
            RequireData(watch, counter),
            RequireEnd(watch, counter),
            self.gate,
            ErrorMapper(lambda error: error),
            EofRecorder(),
        ]
        self.recorder = EofRecorder[bytes]()
        self.lines = [stages[i] for i in order]

    def pipeline(self, places: list[int]) -> Pipeline:
        """The stages of lines in one `by_line`, and around it those of bytes."""
        lines = by_line(*self.lines, whole=64, when=is_event_stream)
        stages: list[Stage[bytes]] = [lines, ErrorMapper(lambda error: error), self.recorder, Tee(first=5, last=5)]
        return Pipeline(*[stages[i] for i in places])


orders = st.permutations(range(9))
places = st.permutations(range(4))


@given(st.data(), orders, places, st.sampled_from(ENDS), st.booleans())
@settings(max_examples=300)
def test_an_empty_stream_lets_no_head_out(
    data: st.DataObject, order: list[int], places: list[int], end: End, chat: bool
) -> None:
    """A stream without data is a failure, however it ends, and nothing of it comes out but that."""
    parts = Parts(OpenAIChat() if chat else PlainSSE(), order)
    chunks = data.draw(chunked(st.sampled_from(EMPTY_CHAT if chat else EMPTY)))
    items = drive(parts.pipeline(places), chunks, end)
    assert len(items) == 1
    if end == Eof():
        assert isinstance(items[0], Failed)
        # A chat without its end is truncated, too; who stands first says so.
        assert isinstance(items[0].error, EmptyStream | Truncated)
    else:
        assert items == [end]


@given(chunked(event_streams()), orders, places, st.sampled_from(ENDS), st.booleans())
@settings(max_examples=400)
def test_a_failed_stream_lets_no_head_out(
    chunks: list[bytes], order: list[int], places: list[int], end: End, chat: bool
) -> None:
    """Behind a gate that was shut until the ending, an ending that is not clean comes out alone; an open one let the
    head out in the call that opened it."""
    parts = Parts(OpenAIChat() if chat else PlainSSE(), order)
    pipeline = parts.pipeline(places)
    items = pipeline.head(HEAD)
    for chunk in chunks:
        items += pipeline.feed(chunk)
        assert pipeline.committed == parts.gate.is_open
    committed = pipeline.committed
    items += pipeline.end(end)
    if not committed and items[-1] != Eof():
        assert len(items) == 1
    else:
        assert isinstance(items[0], Head)
    assert items[-1] == end or end == Eof()


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda stages: Pipeline(by_line(*stages)), id="one"),
        pytest.param(lambda stages: Pipeline(*[by_line(stage) for stage in stages]), id="each-alone"),
    ],
)
def test_the_gate_before_what_fails(make: Callable[[list[Stage[Lines]]], Pipeline]) -> None:
    """A gate that stands before the stage that makes a failure of the end is no way around it."""
    counter, watch = DataCounter(), Watch(PlainSSE())
    stages: list[Stage[Lines]] = [CommitGate(), counter, Observe(by_event(watch)), RequireData(watch, counter)]
    pipeline = make(stages)
    assert pipeline.head(HEAD) == []
    assert pipeline.feed(b": ping\n\n") == []
    (ending,) = pipeline.end(Eof())
    assert isinstance(ending, Failed)
    assert isinstance(ending.error, EmptyStream)
    assert make([CommitGate()]).end(LOST) == [LOST]
