"""How a stream ends can be kept back."""

from __future__ import annotations

from sseflow import Eof, Failed, HeldTooMuch, Pipeline, by_event, by_line
from sseflow.dialects import OpenAIChat, PlainSSE
from sseflow.stages import HoldEnding
from sseflow.testing import every_split

TOKEN = b'data: {"choices":[{"delta":{"content":"x"},"finish_reason":null}]}\n\n'
STOP = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\r\n\r\n'
DONE = b"data: [DONE]\r\r"
LATE = b"event: late\ndata: y\n\n"


def test_the_end_and_what_follows_it_is_kept() -> None:
    """For every cut, and byte for byte."""
    stream = TOKEN + STOP + DONE + LATE
    for chunks in every_split(stream):
        hold = HoldEnding(OpenAIChat())
        pipeline = Pipeline(by_line(by_event(hold)))
        out = b"".join(item for chunk in chunks for item in pipeline.feed(chunk) if isinstance(item, bytes))
        assert pipeline.end(Eof()) == [Eof()]
        assert (out, hold.held) == (TOKEN, STOP + DONE + LATE)


def test_what_has_no_end_of_its_own_is_let_go() -> None:
    """There is nothing to keep back."""
    hold = HoldEnding(PlainSSE())
    pipeline = Pipeline(by_line(by_event(hold)))
    assert pipeline.feed(TOKEN + STOP) == [TOKEN + STOP]
    assert hold.held == b""


def test_what_is_kept_is_bounded() -> None:
    """One byte more fails the stream."""
    for limit, fails in ((len(STOP + DONE), False), (len(STOP + DONE) - 1, True)):
        pipeline = Pipeline(by_line(by_event(HoldEnding(OpenAIChat(), limit=limit))))
        items = pipeline.feed(TOKEN + STOP + DONE)
        assert items[0] == TOKEN
        assert bool(items[1:]) == fails
        if fails:
            assert isinstance(items[1], Failed)
            assert isinstance(items[1].error, HeldTooMuch)
