"""Watch."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sseflow import Event, Observe, Stage, by_event, by_line
from sseflow.dialects import Dialect, DialectError, OpenAIChat, PlainSSE, Usage
from sseflow.stages import Watch
from sseflow.testing import check_stage

from ..strategies import chunked, event_streams, run
from .samples import SHORT


def facts(watch: Watch) -> tuple[object, ...]:
    return watch.events, watch.content, watch.ended, watch.error, watch.usage, watch.model, watch.complete


def test_what_it_notes() -> None:
    """Events, content, the end, the first error, the last usage, the model; it changes nothing."""
    watch = Watch(OpenAIChat())
    assert facts(watch) == (0, 0, False, None, None, None, False)
    batch = [
        Event(b'{"model":"m1","choices":[{"delta":{"role":"assistant","content":""},"finish_reason":null}]}'),
        Event(b'{"model":"m2","choices":[{"delta":{"content":"a"},"finish_reason":null}]}'),
        Event(b'{"choices":[{"delta":{},"finish_reason":"stop"}],"usage":null}'),
        Event(b'{"error":{"message":"first","code":1}}'),
        Event(b'{"error":"second"}'),
        Event(b'{"choices":[],"usage":{"total_tokens":1}}'),
        Event(b'{"choices":[],"usage":{"total_tokens":2}}'),
        Event(b"[DONE]"),
    ]
    assert watch.feed(batch[:2]) == batch[:2]
    assert facts(watch) == (2, 1, False, None, None, "m1", False)
    assert watch.feed(batch) is batch
    error = DialectError(message="first", code="1")
    assert facts(watch) == (9, 2, True, error, Usage(extras={"total_tokens": 2}), "m1", True)


def test_plain_sse_is_complete_at_any_time() -> None:
    """A dialect without an end of its own is complete wherever its transport ends between events."""
    watch = Watch(PlainSSE())
    watch.feed([Event(b"a"), Event(b""), Event(b"[DONE]")])
    assert facts(watch) == (3, 2, False, None, None, None, True)


@pytest.mark.parametrize("sample", SHORT.values(), ids=SHORT)
def test_it_is_a_good_stage(sample: bytes) -> None:
    """Cuts do not matter to what it notes."""
    check_stage(lambda: Watch(PlainSSE()), [sample], level="events", facts=facts)


@pytest.mark.parametrize("dialect", [PlainSSE(), OpenAIChat()], ids=lambda dialect: dialect.name)
@given(chunked(event_streams()))
@settings(max_examples=100)
def test_cuts_do_not_matter(dialect: Dialect, chunks: list[bytes]) -> None:
    """It notes the same for every cut, under observation, where long events are seen as windows."""

    def watched(chunks: list[bytes]) -> tuple[object, ...]:
        watch = Watch(dialect)
        stage: Stage[bytes] = by_line(Observe(by_event(watch), limit=100), whole=64)
        run(stage, chunks=chunks)
        return facts(watch)

    whole = b"".join(chunks)
    expected = watched([whole] if whole else [])
    assert watched(chunks) == watched([whole[i : i + 1] for i in range(len(whole))]) == expected


_BEFORE = b'{"model":"m","choices":[{"delta":{"content":"'
_BEHIND = b'"},"finish_reason":null}]}'
_TEXTS = st.lists(
    st.sampled_from([b"", b"a", b" b", b"\\", b"\\\\", b'\\"', b"\\n", b'"', b"\xc3\xa9"]), max_size=3
).map(b"".join)
_FRAMES = st.sampled_from(
    [
        (_BEFORE, _BEHIND),
        (_BEFORE, b'"},"finish_reason":"stop"}]}'),
        (_BEFORE, b'"},"finish_reason":null}],"usage":{"total_tokens":3}}'),
        (_BEFORE, b'"},"finish_reason":null}],"error":{"message":"no"}}'),
        (b'{"choices":[{"delta":{"role":"', _BEHIND),
        (b"[DONE", b"]"),
    ]
)


@given(st.lists(st.tuples(_FRAMES, _TEXTS), max_size=8))
@settings(max_examples=500)
def test_what_is_taken_is_read_the_same(events: list[tuple[tuple[bytes, bytes], bytes]]) -> None:
    """An event that is judged by what stands around its text says just what it would have said if it had been read."""
    datas = [before + text + behind for (before, behind), text in events]
    read = Watch(OpenAIChat())
    for data in datas:
        read.feed([Event(data)])
    taken = Watch(OpenAIChat())
    stage = by_line(Observe(by_event(taken)))
    for data in datas:
        stage.feed(b"data: " + data + b"\n\n")
    assert facts(taken) == facts(read)
