"""Measure the core: what a chunk costs each stage and each pipeline, without any input or output."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator

import trio

from sseflow import Eof, Head, Observe, Pipeline, StandardPipeline, by_event, by_line
from sseflow.dialects import AnthropicMessages, Dialect, OpenAIChat, OpenAIResponses, PlainSSE
from sseflow.stages import CommentStripper, CommitGate, DataCounter, Watch, WholeEvents

from .bench import Benchmark, Setup
from .processes import Wrong
from .results import Reading
from .shapes import MIB, SHAPES, Shape

HEAD = Head(200, ((b"content-type", b"text/event-stream"),))

SHAPES_MEASURED = (
    "token",
    "coalesced",
    "comments",
    "crlf",
    "multi-line",
    "heartbeats",
    "drip",
    "bulk",
    "line-1m",
    "line-8m",
    "line-32m",
)

STAGE_SHAPES = ("token", "coalesced", "bulk")

SIZE = 8 * MIB
"""Bytes per pass, at least: some hundredth of a second."""

CHECKPOINTS = 20_000

TURNS = 50
"""How often the 40 tokens of an answer are repeated."""


def dialect_of(shape: Shape) -> Dialect:
    """What a shape speaks."""
    return OpenAIChat() if shape.chat else PlainSSE()


def pipelines(dialect: Dialect) -> dict[str, Callable[[], Pipeline]]:
    """The pipelines that are measured."""
    return {
        "none": Pipeline,
        "strip": lambda: Pipeline(by_line(CommentStripper())),
        "standard": lambda: StandardPipeline(dialect),
    }


def stages(dialect: Dialect) -> dict[str, Callable[[], Pipeline]]:
    """Each stage of the default pipeline by itself, on lines."""
    return {
        "lines only": lambda: Pipeline(by_line()),
        "DataCounter": lambda: Pipeline(by_line(DataCounter())),
        "CommentStripper": lambda: Pipeline(by_line(CommentStripper())),
        "WholeEvents": lambda: Pipeline(by_line(WholeEvents())),
        "Watch": lambda: Pipeline(by_line(Observe(by_event(Watch(dialect))))),
        "CommitGate": lambda: Pipeline(by_line(CommitGate(dialect.opens))),
    }


#: What the watch costs per event, beside its lines, by how the events come.
WATCH = {"token": "watch, one by one", "coalesced": "watch, 40 together"}

USAGE = "usage in each"
"""Tokens that each tell what has been used so far, so that none of them can be passed over unread."""

#: Tokens of servers that write them in their own ways.
_SERVERS = {
    "OpenRouter": b'{"id":"gen-1738888000-aBcDeFgHiJkL","provider":"Demo","model":"demo/demo-1","object":'
    b'"chat.completion.chunk","created":1738888000,"choices":[{"index":0,"delta":{"role":"assistant","content":"%b"},'
    b'"finish_reason":null,"native_finish_reason":null,"logprobs":null}],"usage":null}',
    "vLLM": b'{"id":"chatcmpl-0123456789abcdef","object":"chat.completion.chunk","created":1717000000,"model":"demo-1",'
    b'"choices":[{"index":0,"delta":{"content":"%b"},"logprobs":null,"finish_reason":null,"token_ids":null}]}',
    "llama.cpp": b'{"choices":[{"finish_reason":null,"index":0,"delta":{"content":"%b"}}],"created":1742000000,'
    b'"id":"chatcmpl-0123456789abcdef","model":"demo-1","system_fingerprint":"b4900","object":"chat.completion.chunk"}',
    "spaces": b'{"id": "chatcmpl-0123456789abcdef", "object": "chat.completion.chunk", "created": 1717000000, "model": '
    b'"demo-1", "choices": [{"index": 0, "delta": {"content": "%b"}, "logprobs": null, "finish_reason": null}], '
    b'"usage": null}',
    "arguments": b'{"id":"chatcmpl-0123456789abcdef","object":"chat.completion.chunk","created":1717000000,"model":'
    b'"demo-1","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"%b"}}]},'
    b'"logprobs":null,"finish_reason":null}],"usage":null}',
    USAGE: b'{"id":"chatcmpl-0123456789abcdef","object":"chat.completion.chunk","created":1717000000,"model":'
    b'"demo-1","choices":[{"index":0,"delta":{"content":"%b"},"logprobs":null,"finish_reason":null}],'
    b'"usage":{"prompt_tokens":9,"total_tokens":12,"completion_tokens":3}}',
}


def _as_server(frame: bytes) -> tuple[bytes, ...]:
    return tuple(b"data: " + frame % (b" token%02d" % i) + b"\n\n" for i in range(40))


def spoken() -> Iterator[tuple[Dialect, Shape]]:
    """Tokens of the other dialects, and those that differ in more than their text: one by one, and 40 together."""
    chat = SHAPES["token"]()
    padded = tuple(
        token.replace(b"}]}\n\n", b'}],"usage":null,"obfuscation":"%b"}\n\n' % (b"x" * (i * 7 % 16)))
        for i, token in enumerate(chat.body)
    )
    anthropic = tuple(
        b"event: content_block_delta\ndata: "
        b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" token%02d"}}\n\n' % i
        for i in range(40)
    )
    responses = tuple(
        b"event: response.output_text.delta\ndata: "
        b'{"type":"response.output_text.delta","sequence_number":%d,"item_id":"msg_0123456789abcdef","output_index":0,'
        b'"content_index":0,"delta":" token%02d","logprobs":[],"obfuscation":"%b"}\n\n' % (i, i, b"x" * (i * 7 % 16))
        for i in range(40)
    )
    begins = b'event: message_start\ndata: {"type":"message_start","message":{"model":"demo-1"}}\n\n'
    ends = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    created = b'event: response.created\ndata: {"type":"response.created","response":{"model":"demo-1"}}\n\n'
    completed = b'event: response.completed\ndata: {"type":"response.completed","response":{"model":"demo-1"}}\n\n'
    arguments = tuple(
        b"event: response.function_call_arguments.delta\ndata: "
        b'{"type":"response.function_call_arguments.delta","sequence_number":%d,"item_id":"fc_0123456789abcdef",'
        b'"output_index":1,"delta":" token%02d","obfuscation":"%b"}\n\n' % (i, i, b"x" * (i * 7 % 16))
        for i in range(40)
    )
    for name, dialect, first, tokens, tail in (
        ("chat, padded", OpenAIChat(), (), padded, chat.tail),
        *[(f"chat of {server}", OpenAIChat(), (), _as_server(frame), chat.tail) for server, frame in _SERVERS.items()],
        ("Messages", AnthropicMessages(), (begins,), anthropic, (ends,)),
        ("Responses", OpenAIResponses(), (created,), responses, (completed,)),
        ("Responses, arguments", OpenAIResponses(), (created,), arguments, (completed,)),
        ("plain", PlainSSE(), (), chat.body, ()),
    ):
        for about, chunks in (("token", tokens), ("coalesced", (b"".join(tokens),))):
            yield (
                dialect,
                Shape(
                    name=f"{about}, {name}",
                    about=about,
                    body=(*first, *chunks * TURNS),
                    tail=tail,
                    events=len(first) + len(tokens) * TURNS,
                    tail_events=len(tail),
                ),
            )


def run_once(make: Callable[[], Pipeline], chunks: list[bytes]) -> tuple[float, int]:
    """Send chunks through a pipeline; returns the seconds that took, and the bytes that came out."""
    pipeline = make()
    items = pipeline.head(HEAD)
    feed = pipeline.feed
    size = 0
    clock = time.perf_counter
    start = clock()
    for chunk in chunks:
        for item in feed(chunk):
            if type(item) is bytes:
                size += len(item)
    items = pipeline.end(Eof())
    seconds = clock() - start
    for item in items:
        if isinstance(item, bytes):
            size += len(item)
    if not isinstance(pipeline.ending, Eof):
        raise Wrong(f"a pipeline ended with {pipeline.ending}")
    return seconds, size


def _measure(setup: Setup, shape: Shape, group: dict[str, Callable[[], Pipeline]]) -> Iterator[Reading]:
    repeat = 1 if setup.smoke else max(1, SIZE // shape.size)
    chunks = list(shape.chunks(repeat))
    events = shape.events * repeat + shape.tail_events
    sent = sum(map(len, chunks))
    kept = len(shape.out(repeat))
    for name, make in group.items():
        best = float("inf")
        for _ in range(1 if setup.smoke else 5):
            seconds, size = run_once(make, chunks)
            if size not in (sent, kept):
                raise Wrong(f"{size} bytes of {shape.name} came out of {name!r}: {sent} went in, {kept} should be left")
            best = min(best, seconds)
        yield Reading(benchmark=shape.name, metric="per event", unit="us", subject=name, value=best / events * 1e6)
        if group.keys() == pipelines(PlainSSE()).keys():
            yield Reading(benchmark=shape.name, metric="throughput", unit="MB/s", subject=name, value=sent / best / 1e6)


def _without_collector(measure: Callable[[Setup], Iterator[Reading]]) -> Callable[[Setup], Iterator[Reading]]:
    def run(setup: Setup) -> Iterator[Reading]:
        gc.collect()
        gc.disable()
        try:
            yield from measure(setup)
        finally:
            gc.enable()

    return run


def measure_pipelines(setup: Setup) -> Iterator[Reading]:
    """All shapes through all pipelines."""
    for name in SHAPES_MEASURED:
        shape = SHAPES[name]()
        yield from _measure(setup, shape, pipelines(dialect_of(shape)))


def measure_dialects(setup: Setup) -> Iterator[Reading]:
    """Tokens of each dialect through the default pipeline, and through its watch alone; and the lines that it needs.

    What the watch costs beside its lines is told of the dearest one.
    """
    dearest: dict[str, float] = {}
    for dialect, shape in spoken():
        alone = stages(dialect)
        group = {
            "lines only": alone["lines only"],
            "Watch": alone["Watch"],
            "standard": pipelines(dialect)["standard"],
        }
        readings = list(_measure(setup, shape, group))
        yield from readings
        cost = {reading.subject: reading.value for reading in readings}
        metric = WATCH[shape.about] + (f", {USAGE}" if shape.name.endswith(USAGE) else "")
        dearest[metric] = max(dearest.get(metric, 0.0), cost["Watch"] - cost["lines only"])
    for metric, value in dearest.items():
        yield Reading(benchmark="dialects", metric=metric, unit="us", subject="sseflow", value=value)


def measure_stages(setup: Setup) -> Iterator[Reading]:
    """Some shapes through each stage."""
    for name in STAGE_SHAPES:
        shape = SHAPES[name]()
        yield from _measure(setup, shape, stages(dialect_of(shape)))


def measure_trio(setup: Setup) -> Iterator[Reading]:
    """What Trio costs when it does nothing: the unit to compare with."""
    count = CHECKPOINTS // (10 if setup.smoke else 1)

    async def checkpoints() -> float:
        start = time.perf_counter()
        for _ in range(count):
            await trio.lowlevel.checkpoint()
        return time.perf_counter() - start

    seconds = min(trio.run(checkpoints) for _ in range(3))
    yield Reading(benchmark="Trio", metric="one checkpoint", unit="us", subject="none", value=seconds / count * 1e6)


BENCHMARKS = (
    Benchmark("core", "pipelines", _without_collector(measure_pipelines), needs_linux=False),
    Benchmark("core", "dialects", _without_collector(measure_dialects), needs_linux=False),
    Benchmark("core", "trio", _without_collector(measure_trio), needs_linux=False),
    Benchmark("stages", "stages", _without_collector(measure_stages), needs_linux=False),
)
