"""StandardPipeline: the default pipeline of a proxy."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sseflow import (
    Cancelled,
    CutMidEvent,
    EmptyStream,
    End,
    Eof,
    Event,
    EventParser,
    Failed,
    Head,
    StandardPipeline,
    Truncated,
    UpstreamRefused,
)
from sseflow.dialects import Dialect, OpenAIChat, PlainSSE, Reading, Usage

from .strategies import ENDS, HEAD, LOST, chunked, drive, event_streams

TOKEN = b'data: {"model":"m","choices":[{"delta":{"content":"a"},"finish_reason":null}]}\n\n'
STOP = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"total_tokens":7}}\n\n'
DONE = b"data: [DONE]\n\n"


def test_a_whole_chat() -> None:
    """Comments go, the head comes with the first token, everything else leaves as it came, and the facts are there."""
    pipeline = StandardPipeline(OpenAIChat())
    head = Head(200, ((b"content-type", b"text/event-stream; charset=utf-8"), (b"content-length", b"999")))
    assert pipeline.head(head) == []
    assert pipeline.feed(b": OPENROUTER PROCESSING\n\n") == []
    assert pipeline.feed(b"id: 1\n\n") == []
    first = head.without(b"content-length")
    assert pipeline.feed(TOKEN) == [first, b"id: 1\n\n" + TOKEN]
    (again,) = pipeline.feed(TOKEN)
    assert again == TOKEN
    assert pipeline.feed(STOP[:20]) == []
    assert pipeline.feed(STOP[20:] + USAGE + b": c\n\n" + DONE) == [STOP + USAGE + DONE]
    assert pipeline.end(Eof()) == [Eof()]
    assert pipeline.recorder.ending == Eof()
    counter, watch = pipeline.counter, pipeline.watch
    assert (counter.data_events, counter.comments, counter.control_blocks) == (5, 2, 1)
    assert (watch.events, watch.content, watch.ended, watch.model) == (4, 2, True, "m")
    assert watch.usage == Usage(extras={"total_tokens": 7})


@pytest.mark.parametrize(
    ("stream", "end", "out", "error"),
    [
        pytest.param(b"", Eof(), b"", EmptyStream, id="nothing"),
        pytest.param(b": c\n\n" + DONE, Eof(), b"", EmptyStream, id="done-only"),
        pytest.param(TOKEN, Eof(), TOKEN, Truncated, id="truncated"),
        pytest.param(TOKEN + TOKEN[:-1], Eof(), TOKEN, CutMidEvent, id="cut"),
        pytest.param(TOKEN + TOKEN[:9], LOST, TOKEN, type(LOST.error), id="lost"),
    ],
)
def test_streams_that_fail(stream: bytes, end: End, out: bytes, error: type[Exception]) -> None:
    """A stream that did not end as its dialect does never looks complete; before the commit nothing of it comes out."""
    items = drive(StandardPipeline(OpenAIChat()), [stream] if stream else [], end)
    assert isinstance(items[-1], Failed)
    assert isinstance(items[-1].error, error)
    joined = b"".join(item for item in items if isinstance(item, bytes))
    assert joined == out
    assert (HEAD in items) == (out != b"")


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(Head(500, HEAD.headers), id="status"),
        pytest.param(Head(200, ((b"content-type", b"application/json"), (b"content-length", b"3"))), id="type"),
        pytest.param(Head(200, (*HEAD.headers, (b"content-encoding", b"gzip"))), id="compressed"),
    ],
)
@pytest.mark.parametrize("end", ENDS, ids=lambda end: type(end).__name__)
def test_other_bodies_go_through(head: Head, end: End) -> None:
    """What is not a 2xx event stream, or is compressed, is not held, not changed, and not judged."""
    pipeline = StandardPipeline(OpenAIChat())
    body = b": no comment"
    assert pipeline.head(head) == [head]
    assert pipeline.feed(body) == [body]
    assert pipeline.end(end) == [end]
    assert pipeline.recorder.ending == end


def test_the_shell_opens_the_gate() -> None:
    """When time is up the head goes, with what waited behind it."""
    pipeline = StandardPipeline(PlainSSE())
    pipeline.head(HEAD)
    pipeline.gate.open()
    assert pipeline.feed(b"") == [HEAD]
    assert pipeline.end(Cancelled()) == [Cancelled()]


def test_an_event_stream_that_says_it_is_not_compressed() -> None:
    """The coding that is none changes nothing."""
    head = Head(200, (*HEAD.headers, (b"Content-Encoding", b" Identity ")))
    assert drive(StandardPipeline(PlainSSE()), [b": c\n\ndata: a\n\n"], Eof(), head) == [head, b"data: a\n\n", Eof()]


def test_the_first_data_is_told_of() -> None:
    """When the gate meets the data it waits for, once; not when it is opened for another reason."""
    calls: list[None] = []
    stream = [b"data: [DONE]\n\n", TOKEN, TOKEN]
    drive(StandardPipeline(OpenAIChat(), on_first_data=lambda: calls.append(None)), stream, LOST)
    assert calls == [None]
    pipeline = StandardPipeline(OpenAIChat(), on_first_data=lambda: calls.append(None))
    pipeline.gate.open()
    assert drive(pipeline, stream, LOST)[0] == HEAD
    assert calls == [None]


def test_a_stream_that_began_with_an_error_is_none() -> None:
    """Its clean end fails, as what it says, and no head has gone out, also where nobody stops it before."""
    pipeline = StandardPipeline(OpenAIChat())
    error = b'data: {"error":{"message":"slow down","type":"rate_limit_error","code":429}}\n\n'
    items = drive(pipeline, [error], Eof())
    assert [type(item) for item in items] == [Failed]
    assert isinstance(items[0], Failed)
    assert isinstance(items[0].error, UpstreamRefused)
    assert (items[0].error.status, items[0].error.said) == (429, "slow down")


def test_errors_are_replaced() -> None:
    """What the operator says an error is to be is what comes out, also for an ending that the pipeline judged."""
    error = KeyError()
    pipeline = StandardPipeline(PlainSSE(), replace_error=lambda _: error)
    pipeline.head(HEAD)
    assert pipeline.end(Eof()) == [Failed(error)]
    assert pipeline.recorder.ending == Failed(error)


def test_a_dialect_that_raises() -> None:
    """It is reported, once, and costs the client nothing of the stream."""

    class Bad(PlainSSE):
        def read(self, event: Event, /) -> Reading:
            raise error

    error = KeyError()
    errors: list[Exception] = []
    pipeline = StandardPipeline(Bad(), on_watch_error=errors.append)
    items = drive(pipeline, [b"data: a\n\n", b"data: b\n\n"], LOST)
    assert items == [HEAD, b"data: a\n\n", b"data: b\n\n", LOST]
    assert errors == [error]


@pytest.mark.parametrize("dialect", [PlainSSE(), OpenAIChat()], ids=lambda dialect: dialect.name)
@given(chunked(event_streams()), st.sampled_from(ENDS))
@settings(max_examples=120)
def test_the_laws_of_the_default_pipeline(dialect: Dialect, chunks: list[bytes], end: End) -> None:
    """For every cut the same output, ending and facts; a client reads the upstream's own events, and never more."""

    def result(chunks: list[bytes]) -> tuple[object, ...]:
        pipeline = StandardPipeline(dialect)
        *items, ending = drive(pipeline, chunks, end)
        counter, watch = pipeline.counter, pipeline.watch
        return (
            items[:1],
            b"".join(item for item in items if isinstance(item, bytes)),
            type(ending.error) if isinstance(ending, Failed) else type(ending),
            (counter.raw_bytes, counter.data_events, counter.data_bytes, counter.comments, counter.control_blocks),
            (watch.events, watch.content, watch.ended, watch.error, watch.usage, watch.model, watch.finish),
        )[1 if not items or not isinstance(items[0], Head) else 0 :]

    whole = b"".join(chunks)
    expected = result([whole] if whole else [])
    assert result(chunks) == result([whole[i : i + 1] for i in range(len(whole))])
    assert result(chunks)[-4:] == expected[-4:]
    out = expected[-4]
    assert isinstance(out, bytes)
    sent, received = EventParser().feed(whole), EventParser().feed(out)
    assert received == (sent if end == Eof() and out else sent[: len(received)])
