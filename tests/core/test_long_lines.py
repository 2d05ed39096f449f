"""Lines of 32 MiB: what the default pipeline does with the longest lines there are."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import pytest

from sseflow import (
    Eof,
    Failed,
    Head,
    Item,
    Lines,
    LineTooLong,
    Pipeline,
    Stage,
    StandardPipeline,
    by_event,
    by_line,
    is_event_stream,
)
from sseflow.dialects import Dialect, OpenAIChat, PlainSSE
from sseflow.stages import CommentStripper, DataCounter

from .strategies import HEAD, TERMINATORS

MIB = 1024 * 1024
LIMIT = 32 * MIB
CHUNK = 64 * 1024

BEGINNINGS: dict[str, tuple[Dialect, bytes]] = {
    "sse": (PlainSSE(), b"data: "),
    "openai-chat": (OpenAIChat(), b'data: {"model":"m","choices":[{"delta":{"content":"'),
}


def chunks(beginning: bytes, size: int, end: bytes = b"\n\n") -> Iterator[bytes]:
    """Cut a line of ``size`` bytes of content, and its end, into chunks of 64 KiB; one is there at a time."""
    left = size - len(beginning)
    yield beginning + b"x" * min(CHUNK - len(beginning), left)
    left -= CHUNK - len(beginning)
    while left > 0:
        yield b"x" * min(CHUNK, left)
        left -= CHUNK
    if end:
        yield end


def sizes(items: list[Item]) -> int:
    return sum(len(item) for item in items if isinstance(item, bytes))


@pytest.mark.parametrize(("dialect", "beginning"), BEGINNINGS.values(), ids=BEGINNINGS)
def test_a_line_of_32_mib_needs_no_memory(dialect: Dialect, beginning: bytes) -> None:
    """It flows through the default pipeline under 1 MiB beside its own chunk; once its beginning is judged, every byte
    leaves in the call that took it in; the facts are exact."""
    pipeline = StandardPipeline(dialect)
    assert is_event_stream(HEAD)
    assert pipeline.head(HEAD) == []
    pipeline.feed(b": warm\n\n")
    fed = out = 0
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for chunk in chunks(beginning, LIMIT):
            tracemalloc.reset_peak()
            items = pipeline.feed(chunk)
            peak = tracemalloc.get_traced_memory()[1]
            assert peak - before - len(chunk) < MIB
            fed += len(chunk)
            out += sizes(items)
            assert out == (fed if fed > CHUNK else 0)
            assert (HEAD in items) == (CHUNK < fed <= 2 * CHUNK)
            del items
    finally:
        tracemalloc.stop()
    assert fed == LIMIT + 2

    counter, watch = pipeline.counter, pipeline.watch
    assert counter.raw_bytes == fed + len(b": warm\n\n")
    assert (counter.data_bytes, counter.data_events, counter.comments) == (LIMIT - len(b"data: "), 1, 1)
    assert (watch.events, watch.content, watch.error) == (1, 1, None)
    assert watch.model == ("m" if isinstance(dialect, OpenAIChat) else None)
    (ending,) = pipeline.end(Eof())
    assert isinstance(ending, Eof if isinstance(dialect, PlainSSE) else Failed)


def test_the_rest_of_a_long_line_is_not_copied() -> None:
    """Each chunk inside the line comes out as the same object."""
    pipeline = StandardPipeline(PlainSSE())
    pipeline.head(HEAD)
    for i, chunk in enumerate(chunks(b"data: ", MIB)):
        items = pipeline.feed(chunk)
        assert i < 2 or (len(items) == 1 and items[0] is chunk)


def held() -> Pipeline:
    return Pipeline(by_line(Stage[Lines]()))


def held_events() -> Pipeline:
    return Pipeline(by_line(by_event()))


def judged() -> Pipeline:
    return Pipeline(by_line(CommentStripper(), DataCounter()))


def standard() -> Pipeline:
    return StandardPipeline(PlainSSE())


CHAINS = {"held": held, "held-events": held_events, "judged": judged, "standard": standard}


@pytest.mark.parametrize("end", [*TERMINATORS, b""], ids=["lf", "crlf", "cr", "none"])
@pytest.mark.parametrize("chain", CHAINS)
def test_32_mib_is_exact(chain: str, end: bytes) -> None:
    """Exactly 32 MiB of content pass in every chain, whatever the terminator; one byte more is `LineTooLong`, and what
    had gone out before stays out."""
    pipeline = CHAINS[chain]()
    pipeline.head(HEAD)
    out = sum(sizes(pipeline.feed(chunk)) for chunk in chunks(b"data: ", LIMIT, end))
    assert pipeline.ending is None
    items = pipeline.end(Eof())
    if chain == "standard":  # the event has no blank line
        assert isinstance(items[-1], Failed)
    else:
        assert out + sizes(items) == LIMIT + len(end)
        assert items[-1] == Eof()

    pipeline = CHAINS[chain]()
    pipeline.head(HEAD)
    out = 0
    for chunk in chunks(b"data: ", LIMIT + 1, end):
        out += sizes(pipeline.feed(chunk))
        if pipeline.ending is not None:
            break
    assert isinstance(pipeline.ending, Failed)
    error = pipeline.ending.error
    assert isinstance(error, LineTooLong)
    assert (error.limit, error.knob, error.seen) == (LIMIT, "max_line", LIMIT + 1)
    assert out == (0 if chain.startswith("held") else LIMIT)


def test_a_comment_is_dropped_without_bound() -> None:
    """A comment of more than 32 MiB is nobody's to hold: it goes, and the stream goes on."""
    pipeline = StandardPipeline(PlainSSE())
    pipeline.head(HEAD)
    assert [item for chunk in chunks(b": ", LIMIT + MIB) for item in pipeline.feed(chunk)] == []
    assert pipeline.feed(b"data: a\n\n") == [HEAD, b"data: a\n\n"]
    assert pipeline.counter.raw_bytes == LIMIT + MIB + 2 + len(b"data: a\n\n")
    assert pipeline.end(Eof()) == [Eof()]


def test_a_line_too_long_behind_a_shut_gate() -> None:
    """A line that fails the stream before anything was worth committing to lets out nothing but its failure."""
    pipeline = StandardPipeline(PlainSSE(), max_line=1000)
    assert pipeline.head(HEAD) == []
    (ending,) = pipeline.feed(b"id: " + b"x" * 2000)
    assert isinstance(ending, Failed)
    assert isinstance(ending.error, LineTooLong)
    assert not pipeline.committed


@pytest.mark.parametrize("end", TERMINATORS, ids=["lf", "crlf", "cr"])
@pytest.mark.parametrize("max_line", [100, 200])
def test_the_knob_of_the_default_pipeline(max_line: int, end: bytes) -> None:
    """The same is exact for any lower limit, for every one cut: what passes, what fails, and what had gone out."""
    first = b"data: first" + end + end
    fits = b"data: " + b"x" * (max_line - 6)
    for line, passes in ((fits, True), (fits + b"x", False)):
        stream = first + line + end + end
        for cut in range(1, len(stream)):
            pipeline = StandardPipeline(PlainSSE(), max_line=max_line)
            items = pipeline.head(HEAD)
            for chunk in (stream[:cut], stream[cut:]):
                if pipeline.ending is None:
                    items += pipeline.feed(chunk)
            items += pipeline.end(Eof())
            out = b"".join(item for item in items if isinstance(item, bytes))
            assert isinstance(items[0], Head)
            if passes:
                assert (out, items[-1]) == (stream, Eof())
            else:
                assert out == first + line[:max_line]
                assert isinstance(items[-1], Failed)
                assert isinstance(items[-1].error, LineTooLong)
