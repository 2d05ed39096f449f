"""RequireData, RequireEnd, ErrorMapper and EofRecorder: the stages of the ending."""

from __future__ import annotations

import pytest

from sseflow import (
    Chain,
    CutMidEvent,
    EmptyStream,
    End,
    Eof,
    Failed,
    Lines,
    Observe,
    Stage,
    Truncated,
    by_event,
    by_line,
)
from sseflow.dialects import Dialect, OpenAIChat, PlainSSE
from sseflow.stages import DataCounter, EofRecorder, ErrorMapper, RequireData, RequireEnd, Watch
from sseflow.testing import check_stage

from ..strategies import ENDS, LOST, run
from .samples import SHORT

CHUNK = b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":null}]}\n\n'
STOP = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"
ERROR = b'data: {"error":{"message":"m"}}\n\n'

OTHER_ENDS = [pytest.param(end, id=type(end).__name__) for end in ENDS[1:]]


def ending(dialect: Dialect, stream: bytes, end: End | None = None) -> type:
    """The kind of ending, and for a failure that of its error, the same for every way of cutting."""
    found = set()
    for size in (1, 2, 7, 1000):
        counter, watch = DataCounter(), Watch(dialect)
        stage = by_line(
            counter, Observe(by_event(watch)), RequireData(watch, counter), RequireEnd(watch, counter), whole=64
        )
        chunks = [stream[at : at + size] for at in range(0, len(stream), size)]
        out, after = run(stage, chunks=chunks, end=end)
        assert out == stream
        found.add(type(after.error) if isinstance(after, Failed) else type(after))
    (kind,) = found
    return kind


@pytest.mark.parametrize(
    ("dialect", "stream", "kind"),
    [
        pytest.param(PlainSSE(), b"", EmptyStream, id="sse-nothing"),
        pytest.param(PlainSSE(), b"\xef\xbb\xbf\n\n", EmptyStream, id="sse-blank"),
        pytest.param(PlainSSE(), b": c\n\n: d", EmptyStream, id="sse-comments"),
        pytest.param(PlainSSE(), b"id: 1\n\nretry: 5\n\n", EmptyStream, id="sse-control"),
        pytest.param(PlainSSE(), b"data: a\n\n", Eof, id="sse-whole"),
        pytest.param(PlainSSE(), b"data: a\r\r: c\r", Eof, id="sse-comment-behind"),
        pytest.param(PlainSSE(), b"data: a\n\ndata: b\n", CutMidEvent, id="sse-no-blank-line"),
        pytest.param(PlainSSE(), b"data: a\n\nda", CutMidEvent, id="sse-in-a-line"),
        pytest.param(PlainSSE(), b"data: a", CutMidEvent, id="sse-in-the-first"),
        pytest.param(PlainSSE(), b"data: " + b"x" * 100, CutMidEvent, id="sse-in-a-long-line"),
        pytest.param(PlainSSE(), b"data: a\n\nid: 1", CutMidEvent, id="sse-in-a-control-block"),
        pytest.param(PlainSSE(), DONE, Eof, id="sse-done-is-data"),
        pytest.param(OpenAIChat(), b"", EmptyStream, id="chat-nothing"),
        pytest.param(OpenAIChat(), b": c\n\n", EmptyStream, id="chat-comments"),
        pytest.param(OpenAIChat(), DONE, EmptyStream, id="chat-done-only"),
        pytest.param(OpenAIChat(), b": c\n\n" + DONE, EmptyStream, id="chat-comments-and-done"),
        pytest.param(OpenAIChat(), CHUNK, Truncated, id="chat-no-end"),
        pytest.param(OpenAIChat(), CHUNK + STOP, Eof, id="chat-finish-reason"),
        pytest.param(OpenAIChat(), CHUNK + DONE, Eof, id="chat-done"),
        pytest.param(OpenAIChat(), CHUNK + STOP + DONE, Eof, id="chat-both"),
        pytest.param(OpenAIChat(), CHUNK + STOP + b"data: {", Eof, id="chat-tail-behind-the-end"),
        pytest.param(OpenAIChat(), CHUNK + b"data: {", CutMidEvent, id="chat-cut"),
        pytest.param(OpenAIChat(), CHUNK + b"data: [DONE]", CutMidEvent, id="chat-cut-in-done"),
        pytest.param(OpenAIChat(), CHUNK + b"data: [DONE]\n", CutMidEvent, id="chat-done-without-blank-line"),
        pytest.param(OpenAIChat(), CHUNK + b"data: [DONE]x\n\n", Truncated, id="chat-no-done"),
        pytest.param(OpenAIChat(), ERROR, Eof, id="chat-error"),
        pytest.param(OpenAIChat(), CHUNK + ERROR + b"data", Eof, id="chat-tail-behind-an-error"),
    ],
)
def test_what_a_clean_end_means(dialect: Dialect, stream: bytes, kind: type) -> None:
    """Without data it is an empty stream, inside an event a cut one, before the dialect's end a truncated one."""
    assert ending(dialect, stream) is kind


@pytest.mark.parametrize("end", OTHER_ENDS)
@pytest.mark.parametrize(
    "stream", [b"", CHUNK, CHUNK + b"data", CHUNK + DONE], ids=["empty", "truncated", "cut", "whole"]
)
def test_other_ends_mean_what_they_say(stream: bytes, end: End) -> None:
    """An ending that is not clean stays as it is, whatever came before."""
    assert ending(OpenAIChat(), stream, end) is (type(end.error) if isinstance(end, Failed) else type(end))


@pytest.mark.parametrize("sample", SHORT.values(), ids=SHORT)
@pytest.mark.parametrize("dialect", [PlainSSE(), OpenAIChat()], ids=lambda dialect: dialect.name)
def test_they_are_good_stages(dialect: Dialect, sample: bytes) -> None:
    """Cuts do not matter to what a clean end means."""

    def make() -> Stage[Lines]:
        counter, watch = DataCounter(), Watch(dialect)
        return Chain(counter, Observe(by_event(watch)), RequireData(watch, counter), RequireEnd(watch, counter))

    check_stage(make, [sample], level="lines")


def test_recorder_and_mapper_are_good_stages() -> None:
    """They are good stages at each level."""
    sample = [b"data: a\r\n\r\ndata: b"]
    check_stage(EofRecorder[bytes], sample, facts=lambda recorder: type(recorder.ending))
    check_stage(EofRecorder[Lines], sample, level="lines")
    check_stage(lambda: ErrorMapper[bytes](lambda error: KeyError()), sample)


def test_mapper_replaces_errors() -> None:
    """The error of a failure is replaced; where the same error comes back the ending is the same object."""
    error = KeyError()
    assert ErrorMapper[bytes](lambda _: error).end(LOST) == (None, Failed(error))
    assert ErrorMapper[bytes](lambda same: same).end(LOST)[1] is LOST


@pytest.mark.parametrize("end", [end for end in ENDS if end != LOST], ids=lambda end: type(end).__name__)
def test_mapper_leaves_other_endings(end: End) -> None:
    """Where nothing failed nobody is asked."""

    def fail(error: Exception) -> Exception:
        raise AssertionError

    assert ErrorMapper[bytes](fail).end(end)[1] is end


def test_a_mapper_that_raises() -> None:
    """What it raises is the failure."""
    error = KeyError()

    def fail(_: Exception) -> Exception:
        raise error

    assert run(ErrorMapper(fail), chunks=[b"x"], end=LOST) == (b"x", Failed(error))


@pytest.mark.parametrize("end", ENDS, ids=lambda end: type(end).__name__)
def test_recorder_records_the_ending_at_its_place(end: End) -> None:
    """Before a stage that replaces it, and behind it; exactly once."""
    error = KeyError()
    calls: list[End] = []
    before, behind = EofRecorder[bytes](calls.append), EofRecorder[bytes]()
    nothing_yet = before.ending
    run(before, ErrorMapper(lambda _: error), behind, chunks=[b"x"], end=end)
    assert (nothing_yet, before.ending) == (None, end)
    assert behind.ending == (Failed(error) if end == LOST else end)
    assert calls == [end]


def test_a_recorder_that_raises() -> None:
    """What its callback raises fails the stream; what it recorded stays."""
    error = KeyError()

    def fail(_: End) -> None:
        raise error

    recorder = EofRecorder[bytes](fail)
    assert run(recorder, chunks=[b"x"]) == (b"x", Failed(error))
    assert recorder.ending == Eof()
