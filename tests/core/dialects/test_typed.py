"""The dialects whose events have a type: Anthropic Messages and OpenAI Responses."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sseflow import Event, Observe, by_event, by_line, encode
from sseflow.dialects import AnthropicMessages, Dialect, DialectError, OpenAIResponses, Reading, Usage
from sseflow.stages import Watch

START: dict[str, object] = {
    "type": "message_start",
    "message": {"model": "m", "usage": {"input_tokens": 5, "output_tokens": 1}},
}
DELTA: dict[str, object] = {
    "type": "content_block_delta",
    "index": 0,
    "delta": {"type": "text_delta", "text": "message_stop"},
}
COMPLETED: dict[str, object] = {
    "type": "response.completed",
    "response": {"model": "m", "output": [], "usage": {"total_tokens": 7}},
}
FAILED: dict[str, object] = {
    "type": "response.failed",
    "response": {"error": {"code": "server_error", "message": "no"}},
}
SEVEN = Usage(extras={"total_tokens": 7})
OVERLOADED: dict[str, object] = {"type": "error", "error": {"type": "overloaded_error", "message": "later"}}

CASES: dict[str, tuple[Dialect, dict[str, object], Reading]] = {
    "anthropic start": (AnthropicMessages(), START, Reading(usage=Usage(input=5, output=1))),
    "anthropic delta": (AnthropicMessages(), DELTA, Reading(content=True)),
    "anthropic ping": (AnthropicMessages(), {"type": "ping"}, Reading(keep_alive=True)),
    "anthropic usage": (
        AnthropicMessages(),
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}},
        Reading(usage=Usage(output=9), finish="end_turn"),
    ),
    "anthropic stop": (
        AnthropicMessages(),
        {"type": "message_stop"},
        Reading(ended=True, final=True, terminator=True),
    ),
    "anthropic stop with more": (
        AnthropicMessages(),
        {"type": "message_stop", "amazon-bedrock-invocationMetrics": {}},
        Reading(ended=True, final=True),
    ),
    "anthropic error": (
        AnthropicMessages(),
        OVERLOADED,
        Reading(error=DialectError(type="overloaded_error", message="later")),
    ),
    "responses delta": (
        OpenAIResponses(),
        {"type": "response.output_text.delta", "delta": "response.completed"},
        Reading(content=True),
    ),
    "responses created": (OpenAIResponses(), {"type": "response.created", "response": {"usage": None}}, Reading()),
    "responses completed": (
        OpenAIResponses(),
        COMPLETED,
        Reading(ended=True, final=True, finish="completed", usage=SEVEN),
    ),
    "responses incomplete": (
        OpenAIResponses(),
        {"type": "response.incomplete", "response": {}},
        Reading(ended=True, final=True, finish="incomplete"),
    ),
    "responses failed": (
        OpenAIResponses(),
        FAILED,
        Reading(ended=True, final=True, finish="failed", error=DialectError(code="server_error", message="no")),
    ),
    "responses error": (
        OpenAIResponses(),
        {"type": "error", "code": "c", "message": "flat"},
        Reading(error=DialectError(type="error", code="c", message="flat")),
    ),
}


@pytest.mark.parametrize("named", [True, False], ids=["event-line", "data-only"])
@pytest.mark.parametrize(("dialect", "value", "reading"), CASES.values(), ids=CASES)
def test_what_an_event_says(dialect: Dialect, value: dict[str, object], reading: Reading, named: bool) -> None:
    """The type stands in the event line; where there is none, in the data, be it first or last, tight or spaced."""
    for data in (
        json.dumps(value, separators=(",", ":")),
        json.dumps(value, indent=1),
        json.dumps(dict(reversed(value.items()))),
    ):
        event = Event(data.encode(), str(value["type"]).encode()) if named else Event(data.encode())
        assert dialect.read(event) == reading


@pytest.mark.parametrize("dialect", [AnthropicMessages(), OpenAIResponses()], ids=lambda dialect: dialect.name)
@given(st.binary(max_size=40), st.sampled_from([b"message", b"error", b"message_start", b"response.completed"]))
def test_anything_can_be_read(dialect: Dialect, data: bytes, kind: bytes) -> None:
    """No bytes make it raise, and what is no object says nothing but what its type says."""
    reading = dialect.read(Event(data, kind))
    assert not reading.content
    assert (reading.error is not None) == (kind == b"error")
    dialect.opens(kind, data)
    dialect.model(data)


@pytest.mark.parametrize(
    ("dialect", "kind", "data", "opens"),
    [
        (AnthropicMessages(), b"message_start", b'{"type":"message_start"}', True),
        (AnthropicMessages(), b"ping", b'{"type": "ping"}', False),
        (AnthropicMessages(), b"message", b'{"type":"ping"}', False),
        (AnthropicMessages(), b"error", b'{"type":"error"}', False),
        (AnthropicMessages(), b"message_stop", b'{"type":"message_stop"}', False),
        (AnthropicMessages(), b"message_start", b"", False),
        (OpenAIResponses(), b"response.created", b'{"type":"response.created"}', True),
        (OpenAIResponses(), b"response.failed", b'{"type":"response.failed"}', False),
        (OpenAIResponses(), b"message", b'{"type":"error"}', False),
    ],
)
def test_what_a_gate_opens_for(dialect: Dialect, kind: bytes, data: bytes, opens: bool) -> None:
    """Keep-alives, errors and the last word are nothing to commit to."""
    assert dialect.opens(kind, data) is opens


def test_usage_is_cumulative() -> None:
    """Later figures replace earlier ones, and what only the first event tells stays."""
    watch = Watch(AnthropicMessages())
    for value in (START, {"type": "message_delta", "usage": {"output_tokens": 9}}):
        watch.feed([Event(json.dumps(value).encode(), str(value["type"]).encode())])
    assert watch.usage == Usage(input=5, output=9)
    assert watch.model == "m"


@pytest.mark.parametrize("usage", [b'"usage":{"total_tokens":7}', b'"usage": {"total_tokens": 7}', b'"usage":{"tot'])
def test_the_usage_of_a_long_answer_is_found_at_its_end(usage: bytes) -> None:
    """Of an event longer than the window its beginning says what it is, and its end what it cost."""
    whole = usage.endswith(b"}")
    output = b'"text \\"usage\\":{}", ' * 400
    data = b'{"type":"response.completed","response":{"output":[' + output + b"0]," + usage + (b"}}" if whole else b"")
    watch = Watch(OpenAIResponses())
    stage = by_line(Observe(by_event(watch), limit=1000))
    stage.feed(encode(data, type=b"response.completed"))
    assert (watch.ended, watch.usage) == (True, SEVEN if whole else None)
    stage.feed(encode(b'{"type":"response.completed",' + b" " * 2000, type=b"response.completed"))
    assert watch.events == 2
