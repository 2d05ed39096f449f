"""What repeats itself is taken by its bytes, and nobody can tell: output and facts are as if it had been read."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sseflow import (
    Cut,
    End,
    Event,
    EventParser,
    Events,
    Failed,
    Lines,
    Observe,
    Stage,
    StandardPipeline,
    by_event,
    by_line,
)
from sseflow._form import Form
from sseflow.dialects import AnthropicMessages, Dialect, OpenAIChat, OpenAIResponses, PlainSSE, Reading, Text
from sseflow.stages import CommentStripper, CommitGate, DataCounter, Watch

from .strategies import ENDS, HEAD, drive, run

EXAMPLES = int(os.environ.get("SSEFLOW_EXAMPLES", "150"))

# What may stand in the place of a text: what ends a string, what seems to, what is no JSON, and each dialect's marks.
_TEXTS = st.lists(
    st.sampled_from(
        [
            b"",
            b"a",
            b" token",
            b"error",
            b"usage",
            b"finish_reason",
            b"[DONE]",
            b"\\n",
            b"\\",
            b"\\\\",
            b'\\"',
            b'"',
            b"\\u0022",
            b"\x01",
            b"\xff",
            b"\xc3\xa9",
            b"{",
            b"}",
            b":",
            b'\\"error\\":{',
            b'","error":{"message":"no"},"x":"',
            b'"},"finish_reason":"stop"}],"x":[{"y":{"z":"',
            b'","usage":{"total_tokens":3},"x":"',
            b'","model":"other","x":"',
            b'"}}],"id":"other","x":[{"y":{"z":"',
            b'","name":"other","x":"',
            b'"},"finish_reason":null}],"obfuscation":"',
            b"d" * 90,
        ]
    ),
    max_size=2,
).map(b"".join)
_PLAIN_TEXTS = st.sampled_from([b"a", b" b", b" token", b"\\n", b'\\"'])

_CHAT = [
    b'{"model":"m","choices":[{"delta":{"content":"%b"},"finish_reason":null}]}',
    b'{"choices":[{"delta":{"content":"%b"},"finish_reason":null}]}',
    b'{"choices":[{"delta":{"content":"%b"},"finish_reason":null}],"usage":null,"obfuscation":"%b"}',
    b'{"choices":[{"delta":{"content":"%b"}}],"obfuscation":"%b"}',
    b'{"choices": [{"delta": {"content": "%b"}, "finish_reason": null}], "usage": null}',
    b'{"choices":[{"delta":{"content":"","reasoning":"%b"},"finish_reason":null}]}',
    b'{"choices":[{"delta":{"content":null,"reasoning_content":"%b"}}],"error":null}',
    b'{"choices":[{"delta":{"tool_calls":[{"function":{"arguments":"%b"}}]}}]}',
    b'{"choices":[{"delta":{"role":"%b"},"finish_reason":null}]}',
    b'{"choices":[{"delta":{"content":"%b"},"finish_reason":""}]}',
    b'{"choices":[{"delta":{"content":"%b"},"finish_reason":"stop"}]}',
    b'{"choices":[{"delta":{"content":"%b"},"finish_reason" : "stop"}]}',
    b'{"choices":[{"delta":{"content":"%b"},"\\u0066inish_reason":"stop"}]}',
    b'{"choices":[{"delta":{"content":"%b"}}],"usage":{"total_tokens":3}}',
    b'{"choices":[{"delta":{"content":"%b"}}],"usage" :{"total_tokens":3}}',
    b'{"choices":[{"delta":{"content":"%b"}}],"error":{"message":"no"}}',
    b'{"choices":[{"delta":{"content":"%b"}}],"error":""}',
    b'{"choices":[{"delta":{"content":"%b"}}],"\\u0065rror":{"message":"no"}}',
    b'{"choices":[{"delta":{"content":"%b"}}],"id":"c"}',
    b'{"id":"d","choices":[{"delta":{"content":"%b"}}]}',
    b'{"choices":[{"delta":{"content":"%b"}}],"id":""}',
    b'{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"t","function":{"name":"f","arguments":"%b"}}]}}]}',
    b'{"choices":[{"delta":{"tool_calls":[{"index":1,"id":"u","function":{"name":"%b","arguments":""}}]}}]}',
    b'{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"name":"","arguments":"%b"}}]}}]}',
    b'{"content":"%b":{"message":"no"}}',
    b'{"x" " "content":"%b"},{"error":null}',
    b'{"content":"%b"',
    b'{"message":"%b"}',
    b"%b",
    b"[DONE]",
]
_ANTHROPIC = [
    b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"%b"}}',
    b'{"type": "content_block_delta", "delta": {"text": "%b"}}',
    b'{"index":0,"type":"content_block_delta","delta":{"text":"%b"}}',
    b'{"type":"message_start","message":{"model":"m%b","usage":{"input_tokens":1}}}',
    b'{"type":"message_start","message":{"id":"m%b"}}',
    b'{"type":"message_delta","usage":{"output_tokens":2},"text":"%b"}',
    b'{"type":"message_delta","delta":{"stop_reason":"end%b"},"usage":{"cache_read_input_tokens":2}}',
    b'{"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"t%b","name":"f"}}',
    b'{"type":"content_block_stop","index":1,"x":"%b"}',
    b'{"type":"error","error":{"message":"%b"}}',
    b'{"type":"ping"}',
    b'{"type":"message_stop"}',
]
_RESPONSES = [
    b'{"type":"response.output_text.delta","sequence_number":4,"delta":"%b","obfuscation":"%b"}',
    b'{"type":"response.output_text.delta","sequence_number":5,"delta":"%b"}',
    b'{"type":"response.created","response":{"model":"m%b"}}',
    b'{"type":"response.created","response":{"id":"r%b"}}',
    b'{"type":"response.output_item.added","output_index":1,"item":{"type":"x_call","call_id":"t%b","name":"f"}}',
    b'{"type":"response.output_item.done","output_index":1,"item":{"x":"%b"}}',
    b'{"type":"response.completed","response":{"usage":{"total_tokens":3},"x":"%b"}}',
    b'{"type":"response.failed","response":{"error":{"message":"%b"}}}',
]
_TYPES = st.sampled_from(
    [b"", b"", b"", b"x", b"error", b"content_block_delta", b"response.output_text.delta", b"message_stop"]
)


def _fill(frame: bytes, text: bytes, other: bytes) -> bytes:
    return frame % (text, other)[: frame.count(b"%b")]


@st.composite
def blocks(draw: st.DrawFn, frames: list[bytes]) -> list[bytes]:
    """Draw runs of blocks, most of which differ in their texts only, with anything else between them."""
    found: list[bytes] = []
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.integers(0, 9))
        end = draw(st.sampled_from([b"\n", b"\n", b"\n", b"\r\n", b"\r"]))
        if kind == 0:
            text = draw(st.sampled_from([b"", b":", b": c", b": c\n: d", b"id: 1", b"event: x", b"data: a\ndata: b"]))
            found.append(text.replace(b"\n", end) + end + end)
            continue
        frame = draw(st.sampled_from(frames[:3]) | st.sampled_from(frames))
        type_ = draw(_TYPES)
        before = (b"event: " + type_ + end if type_ else b"") + draw(st.sampled_from([b"data: ", b"data: ", b"data:"]))
        for _ in range(draw(st.integers(1, 4))):
            text, other = draw(_PLAIN_TEXTS | _TEXTS), draw(_PLAIN_TEXTS | _TEXTS)
            found.append(before + _fill(frame, text, other) + end + draw(st.sampled_from([end, end, end, b"\n"])))
    return found


@st.composite
def streams(draw: st.DrawFn, frames: list[bytes]) -> list[bytes]:
    """Draw blocks, and chunks of them that nearly always end where a block ends."""
    parts = draw(blocks(frames))
    if draw(st.integers(0, 3)) == 0:
        whole = b"".join(parts) + draw(st.sampled_from([b"", b"data: x", b"\r", b":"]))
        cuts = sorted(draw(st.sets(st.integers(1, len(whole)), max_size=4)))
        return [part for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True) if (part := whole[a:b])]
    cuts = sorted(draw(st.sets(st.integers(1, len(parts)))))
    return [b"".join(parts[a:b]) for a, b in zip([0, *cuts], [*cuts, len(parts)], strict=True) if a < b]


class EachWatch(Watch):
    """Reads every event: what is inherited does not speak for a `feed` of one's own."""

    def feed(self, batch: Events, /) -> Events:
        return super().feed(batch)


_FACTS = (
    *("events", "content", "ended", "terminated", "finish", "error", "usage"),
    *("model", "response_id", "tool_calls", "open_calls"),
)


def _facts(pipeline: StandardPipeline) -> tuple[object, ...]:
    counter, watch = pipeline.counter, pipeline.watch
    return (
        (counter.raw_bytes, counter.data_events, counter.data_bytes, counter.comments, counter.control_blocks),
        tuple(getattr(watch, name) for name in _FACTS),
    )


def _drive(pipeline: StandardPipeline, chunks: list[bytes], end: End) -> tuple[object, ...]:
    *items, ending = drive(pipeline, chunks, end)
    out = b"".join(item for item in items if isinstance(item, bytes))
    return out, type(ending.error) if isinstance(ending, Failed) else type(ending), _facts(pipeline)


CASES = [
    pytest.param(OpenAIChat(), _CHAT, id="openai-chat"),
    pytest.param(AnthropicMessages(), _ANTHROPIC, id="anthropic"),
    pytest.param(OpenAIResponses(), _RESPONSES, id="openai-responses"),
    pytest.param(PlainSSE(), _CHAT, id="sse"),
]


@pytest.mark.parametrize(("dialect", "frames"), CASES)
@given(st.data(), st.booleans(), st.sampled_from(ENDS))
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
def test_the_standard_pipeline_takes_and_reads_the_same(
    dialect: Dialect, frames: list[bytes], data: st.DataObject, strip: bool, end: End
) -> None:
    """For any stream and any cut: the output, the kind of ending and every fact are those of a stream in single bytes,
    of which nothing is taken; and the watch has seen what a watch sees that is given each event."""
    chunks = data.draw(streams(frames))
    whole = b"".join(chunks)
    expected = _drive(StandardPipeline(dialect, strip=strip), [whole[i : i + 1] for i in range(len(whole))], end)
    pipeline = StandardPipeline(dialect, strip=strip)
    assert _drive(pipeline, chunks, end) == expected
    watch = EachWatch(dialect)
    watch.feed(EventParser().feed(whole))
    mine = pipeline.watch
    for name in _FACTS:
        assert getattr(watch, name) == getattr(mine, name), name


class Counting(OpenAIChat):
    """Counts what is read."""

    def __init__(self) -> None:
        self.reads = 0

    def read(self, event: Event, /) -> Reading:
        self.reads += 1
        return super().read(event)


def _chat(text: bytes, *, end: bytes = b"\n", padding: bytes | None = None) -> bytes:
    frame = _CHAT[1] if padding is None else _CHAT[2]
    return b"data: " + _fill(frame, text, padding or b"") + end + end


@pytest.mark.parametrize(
    ("chunks", "reads"),
    [
        pytest.param([_chat(b"b"), _chat(b" c")], 0, id="one-by-one"),
        pytest.param([_chat(b"b") + _chat(b" cd") + _chat(b"\\n\\u00e9\\\\")], 0, id="together"),
        pytest.param([_chat(b'\\"b\\\\\\"') + _chat(b'\\\\\\"')], 0, id="quotes"),
        pytest.param([_chat(b"b") + b"data: {}\n\n" + _chat(b"c")], 1, id="among-others"),
        pytest.param([_chat(b"b" * 30_000) * 4], 0, id="longer-than-a-line-may-be"),
        pytest.param([_chat(b"b") + _chat(b"c")[:9], _chat(b"c")[9:] + _chat(b"d"), _chat(b"e")], 0, id="within"),
        pytest.param([_chat(b"b") + _chat(b"c")[:-1], b"\n" + _chat(b"d") * 2 + b"d", b"ata: 1\n\n"], 1, id="blank"),
    ],
)
def test_tokens_are_taken(chunks: list[bytes], reads: int) -> None:
    """Of tokens nothing is read once their form is known, wherever they are cut; whole ones are the same objects."""
    dialect = Counting()
    pipeline = StandardPipeline(dialect)
    pipeline.head(HEAD)
    for _ in range(2):  # the first opens the gate
        pipeline.feed(_chat(b"a"))
    dialect.reads = 0
    out = [item for chunk in chunks for item in pipeline.feed(chunk)]
    assert b"".join(item for item in out if isinstance(item, bytes)) == b"".join(chunks)
    if all(chunk.endswith(b"\n\n") and not chunk.startswith(b"\n") for chunk in chunks):
        assert all(item is chunk for item, chunk in zip(out, chunks, strict=True))
    assert dialect.reads == reads
    assert pipeline.watch.content == 2 + sum(chunk.count(b'"content"') for chunk in chunks)


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        pytest.param(b'"},"finish_reason":"stop"}],"x":[{"y":{"z":"', (True, False, False), id="finish"),
        pytest.param(b'","error":{"message":"no"},"x":"', (False, False, False), id="error-inside"),
        pytest.param(b'"}}],"error":{"message":"no"},"x":[{"y":{"z":"', (False, True, False), id="error"),
        pytest.param(b'"}}],"usage":{"total_tokens":3},"x":[{"y":{"z":"', (False, False, True), id="usage"),
        pytest.param(b'\\\\"}}],"usage":{"total_tokens":3},"x":[{"y":{"z":"', (False, False, True), id="backslash"),
        pytest.param(b'\\"},\\"finish_reason\\":\\"stop\\"', (False, False, False), id="talk"),
    ],
)
@pytest.mark.parametrize("together", [False, True])
def test_a_text_that_is_more_is_read(text: bytes, facts: tuple[bool, bool, bool], together: bool) -> None:
    """What begins and ends like a known form, and has more in between than a text, says what it says."""
    pipeline = StandardPipeline(OpenAIChat())
    pipeline.head(HEAD)
    for _ in range(3):
        pipeline.feed(_chat(b"a"))
    pipeline.feed(_chat(b"a") * together + _chat(b"b" + text + b"c") + _chat(b"d") * together)
    watch = pipeline.watch
    assert (watch.ended, watch.error is not None, watch.usage is not None) == facts
    assert watch.content == 4 + 2 * together


@pytest.mark.parametrize(
    ("token", "more"),
    [
        pytest.param(_chat(b"a"), _chat(b"a\r\rdata: [DONE]\r\rdata: b"), id="string"),
        pytest.param(
            b"event: content_block_delta\ndata: {}\n\n",
            b"event: content_block_delta\ndata: {}\r\revent: message_stop\rdata: {}\n\n",
            id="type",
        ),
    ],
)
@pytest.mark.parametrize("together", [False, True])
def test_a_text_with_a_line_end_in_it_is_none(token: bytes, more: bytes, together: bool) -> None:
    """A CR alone ends a line, too: blocks whose lines end so are read, though they stand where a text would."""
    pipeline = StandardPipeline(OpenAIChat() if b"choices" in token else AnthropicMessages())
    pipeline.head(HEAD)
    pipeline.feed(b'data: {"type":"message_start","message":{"model":"m"}}\n\n')  # not to be looked for any more
    for _ in range(3):
        pipeline.feed(token)
    before = pipeline.watch.ended
    pipeline.feed(token * together + more + token * together)
    assert (before, pipeline.watch.ended) == (False, True)
    assert pipeline.counter.data_events == 4 + more.count(b"data:") + 2 * together


@pytest.mark.parametrize(
    ("block", "first"),
    [
        pytest.param(b'event: content_block_delta\ndata: {"delta":{"text":"%d"}}\n\n', True, id="type"),
        pytest.param(b'event: content_block_delta\r\ndata:{"x":"%d"}\r\n\r\n', True, id="crlf"),
        pytest.param(b'data: {"type":"content_block_delta","delta":{"text":"%d"}}\n\n', True, id="type-in-data"),
        pytest.param(b'data: {"index":0,"type":"content_block_delta","x":"%d"}\n\n', False, id="type-behind"),
    ],
)
@pytest.mark.parametrize("model", [b'"m"', b"null"])
def test_of_a_typed_event_only_the_type_counts(block: bytes, first: bool, model: bytes) -> None:
    """All of its data may differ, if the model is known, whose name might be in it."""
    reads = 0

    class Typed(AnthropicMessages):
        def read(self, event: Event, /) -> Reading:
            nonlocal reads
            reads += 1
            return super().read(event)

    pipeline = StandardPipeline(Typed())
    pipeline.head(HEAD)
    pipeline.feed(b'event: message_start\ndata: {"type":"message_start","message":{"model":%b}}\n\n' % model)
    for i in range(3):
        pipeline.feed(block % i)
    reads = 0
    pipeline.feed(block % 3)
    pipeline.feed(block % 4 + block % 5)
    assert (reads == 0) == (first and model != b"null")
    assert pipeline.watch.content == 6


def test_padding_is_no_difference() -> None:
    """Chunks that are padded to hide their lengths are taken, too."""
    dialect = Counting()
    pipeline = StandardPipeline(dialect)
    pipeline.head(HEAD)
    for _ in range(2):
        pipeline.feed(_chat(b"a", padding=b"xyz"))
    dialect.reads = 0
    pipeline.feed(_chat(b"b", padding=b"") + _chat(b"cd", padding=b"x"))
    pipeline.feed(_chat(b"e", padding=b"12345"))
    assert (dialect.reads, pipeline.watch.content) == (0, 5)
    pipeline.feed(_chat(b"e", padding=b"1") + _chat(b"", padding=b"1"))
    assert (dialect.reads, pipeline.watch.content) == (1, 6)
    pipeline.feed(_chat(b"", padding=b"1"))
    assert (dialect.reads, pipeline.watch.content) == (2, 6)


def test_comments_are_dropped_without_being_read() -> None:
    """A block of one comment is dropped where it stands, and what is behind it may be taken."""
    dialect = Counting()
    pipeline = StandardPipeline(dialect)
    pipeline.head(HEAD)
    for _ in range(2):
        pipeline.feed(_chat(b"a"))
    dialect.reads = 0
    comments = b": c\n\n:\n\n: " + b"c" * 70_000 + b"\n\n"
    assert pipeline.feed(comments) == []
    assert pipeline.feed(comments + _chat(b"b")) == [_chat(b"b")]
    assert (dialect.reads, pipeline.counter.comments, pipeline.watch.content) == (0, 6, 3)
    assert pipeline.feed(b": c\n: d\n\n") == []
    assert pipeline.feed(b": c\r\n\r\n") == []
    assert pipeline.feed(b": c\n\n: c\ndata: [DONE]\n\n") == [b"data: [DONE]\n\n"]
    assert (dialect.reads, pipeline.counter.comments, pipeline.watch.terminated) == (1, 11, True)


class Seen(Stage[Lines]):
    """A stage of a user's own."""

    needs_whole_lines = False

    def __init__(self) -> None:
        self.seen: list[bytes] = []

    def feed(self, batch: Lines, /) -> Lines:
        self.seen += batch
        return batch


class CountingTwice(DataCounter):
    """A stage that is made from another one, and feeds otherwise."""

    def feed(self, batch: Lines, /) -> Lines:
        super().feed(batch)
        return super().feed(batch)


def test_a_stage_of_ones_own_sees_everything() -> None:
    """Nothing is taken past a stage that did not say so, be it one that inherits from a stage that does."""
    seen, twice, chunks = Seen(), CountingTwice(), [b"data: a\n\n"] * 4 + [b": c\n\ndata: b\n\n"] * 3
    run(by_line(DataCounter(), seen), chunks=chunks)
    run(by_line(twice), chunks=chunks)
    assert b"".join(seen.seen) == b"".join(chunks)
    assert (twice.data_events, twice.comments) == (14, 6)
    counter = DataCounter()
    counter.feed = seen.feed  # type: ignore[method-assign]  # what a user might do
    seen.seen.clear()
    run(by_line(counter), chunks=chunks)
    assert b"".join(seen.seen) == b"".join(chunks)


def test_an_observer_that_has_stopped_is_shown_nothing() -> None:
    """What it said of a form is not asked for any more when it has raised at another one."""

    class Bad(OpenAIChat):
        def read(self, event: Event, /) -> Reading:
            if event.data == b"[DONE]":
                raise KeyError
            return super().read(event)

    errors: list[Exception] = []
    watch, counter = Watch(Bad()), DataCounter()
    stage = by_line(counter, Observe(by_event(watch), on_error=errors.append))
    for chunk in (
        _chat(b"a"),
        _chat(b"a"),
        _chat(b"b"),
        b"id: 1\ndata: [DONE]\n\n",
        _chat(b"c"),
        *[b"data: x\n\n"] * 3,
    ):
        assert stage.feed(chunk) == chunk
    assert (watch.content, counter.data_events, len(errors)) == (3, 8, 1)


@pytest.mark.parametrize(
    ("limit", "text", "cut"),
    [pytest.param(200, b"b" * 50, False, id="short"), pytest.param(200, b"b" * 300, True, id="long")],
)
def test_what_an_observer_would_cut_is_not_taken(limit: int, text: bytes, cut: bool) -> None:
    """An event that is longer than its observer looks at is read as a window, alone or among others."""
    dialect = Counting()
    watch = Watch(dialect)
    stage = by_line(Observe(by_event(watch), limit=limit))
    for _ in range(2):
        stage.feed(_chat(b"a"))
    dialect.reads = 0
    stage.feed(_chat(text))
    assert (dialect.reads > 0) == cut
    stage.feed(_chat(b"a"))
    dialect.reads = 0
    stage.feed(_chat(b"a") + _chat(text))
    assert (dialect.reads > 0) == cut
    assert watch.content == 6


def test_a_stream_that_repeats_nothing_is_left_alone() -> None:
    """Forms that never come again are tried less and less often."""
    dialect = Counting()
    stage = by_line(Observe(by_event(Watch(dialect))))
    for i in range(1000):
        stage.feed(b'data: {"i":%d,"choices":[{"delta":{"content":"a"}}]}\n\n' % i)
    assert dialect.reads < 1030


def test_two_that_differ_about_the_text() -> None:
    """Where two observers look at different parts nothing is taken, and both have read everything."""
    watches = [Watch(OpenAIChat()), Watch(PlainSSE())]
    stage = by_line(*[Observe(by_event(watch)) for watch in watches])
    for text in (b"a", b"b", b"c", b"", b"d"):
        stage.feed(_chat(text))
    assert [watch.content for watch in watches] == [4, 5]


def test_a_line_feed_behind_a_stream_of_its_own() -> None:
    """What a stage remembers of a lone CR is forgotten behind blocks that were taken."""
    chunks = [b"data: a\n\n", b"data: a\n\n", b"data: b\r\r", b": c\n\n", b"data: d\n\n", b": c\n\n", b"\n"]
    out, _ = run(by_line(CommentStripper()), chunks=chunks)
    assert out == b"".join(chunks).replace(b": c\n\n", b"")


def test_a_space_behind_the_colon_is_no_data() -> None:
    """Not even where the form was learned from a line that had none."""
    counter = DataCounter()
    run(by_line(counter), chunks=[b"data:a\n\n", b"data:ab\n\n", b"data: b\n\n", b"data: b\n\ndata:  b\n\n"])
    assert (counter.data_events, counter.data_bytes) == (5, 7)


def test_a_fault_in_the_midst_of_a_long_line() -> None:
    """What a stage raises at a piece of a line fails the stream behind that piece."""

    class Bad(Stage[Lines]):
        needs_whole_lines = False

        def feed(self, batch: Lines, /) -> Lines:
            return batch

        def rest(self, piece: bytes, last: bool, /) -> None:
            if piece == b"y":
                raise error

    error = KeyError()
    stage = by_line(Bad(), whole=64)
    assert stage.feed(b"data: " + b"x" * 60) == b"data: " + b"x" * 60
    with pytest.raises(Cut) as raised:
        stage.feed(b"y")
    assert (raised.value.batch, raised.value.error) == (b"y", error)


def test_a_dialect_of_ones_own_reads_everything() -> None:
    """A dialect that does not say where its text is reads each event."""

    class Own(Counting):
        def text(self, event: Event, /) -> Text | None:
            return Dialect.text(self, event)

    dialect = Own()
    stage = by_line(Observe(by_event(Watch(dialect))))
    for _ in range(5):
        stage.feed(_chat(b"a"))
    assert dialect.reads >= 5


def test_a_dialect_that_raises_when_asked_for_the_text() -> None:
    """It stops its observer, once, and costs the stream nothing."""

    class Bad(Counting):
        def text(self, event: Event, /) -> Text | None:
            raise error

    error = KeyError()
    errors: list[Exception] = []
    stage = by_line(Observe(by_event(Watch(Bad())), on_error=errors.append))
    for _ in range(5):
        assert stage.feed(_chat(b"a")) == _chat(b"a")
    assert errors == [error]


def test_a_stage_says_nothing_by_default() -> None:
    """A stage that was not written for it has to see every block."""
    stage = Stage[Lines]()
    assert not stage._learn(Form(b"", b"a", before=b"data: ", behind=b"\n\n", most=100))
    assert stage._learn_comments([]) is None


def test_a_gate_that_is_shut_sees_every_block() -> None:
    """What is not worth committing to is judged again and again, and what is opens the gate."""
    gate = CommitGate(lambda type, data: data == b"yes", limit=100)
    stage = by_line(DataCounter(), gate)
    for _ in range(4):
        stage.feed(b"data: no\n\n")
    assert not gate.is_open
    stage.feed(b"data: yes\n\n")
    assert gate.is_open
