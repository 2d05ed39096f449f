"""OpenAIChat."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sseflow import Event, Events, Observe, Stage, by_event, by_line
from sseflow.dialects import DialectError, OpenAIChat, Reading, Usage

from ..strategies import run

CHAT = OpenAIChat()
NOTHING = Reading()
CONTENT = Reading(content=True)
ENDED = Reading(ended=True, finish="stop", finished=((0,),))
THREE = Usage(extras={"total_tokens": 3})


def chunk(delta: str = "{}", finish: str = "null", rest: str = "") -> bytes:
    return f'{{"model":"m","choices":[{{"index":0,"delta":{delta},"finish_reason":{finish}}}]{rest}}}'.encode()


READINGS: dict[str, tuple[bytes, Reading]] = {
    "done": (b"[DONE]", Reading(ended=True, final=True, terminator=True)),
    "done-is-no-prefix": (b"[DONE]x", NOTHING),
    "done-has-no-space": (b" [DONE]", NOTHING),
    "done-has-no-other-case": (b"[done]", NOTHING),
    "empty": (b"", NOTHING),
    "no-json": (b"hello", NOTHING),
    "role-only": (chunk('{"role":"assistant","content":""}'), NOTHING),
    "content": (chunk('{"content":"a"}'), CONTENT),
    "content-with-spaces": (chunk('{"content" : "a"}'), CONTENT),
    "content-null": (chunk('{"content":null}'), NOTHING),
    "content-empty-then-reasoning": (chunk('{"content":"","reasoning_content":"a"}'), CONTENT),
    "reasoning": (chunk('{"reasoning":"a"}'), CONTENT),
    "refusal": (chunk('{"refusal":"a"}'), CONTENT),
    "text": (b'{"choices":[{"text":"a","finish_reason":null}]}', CONTENT),
    "tool-call": (chunk('{"tool_calls":[{"index":0}]}'), CONTENT),
    "tool-call-arguments": (chunk('{"tool_calls": [ {"function":{"arguments":"{"}}]}'), CONTENT),
    "no-tool-call": (chunk('{"tool_calls":[]}'), NOTHING),
    "finish": (chunk(finish='"stop"'), ENDED),
    "finish-with-content": (chunk('{"content":"a"}', '"length"'), Reading(content=True, ended=True, finish="length")),
    "finish-with-spaces": (b'{"choices": [ {"delta" : {}, "finish_reason" :\t"stop"} ] }', ENDED),
    "finish-null-with-spaces": (b'{"choices": [{"delta": {}, "finish_reason": null}]}', NOTHING),
    "finish-empty": (chunk(finish='""'), NOTHING),
    "finish-of-the-second-choice": (
        b'{"choices":[{"index":0,"delta":{},"finish_reason":null},{"index":1,"delta":{},"finish_reason":"stop"}]}',
        Reading(ended=True, finish="stop", finished=((1,),)),
    ),
    "finish-of-the-first-choice": (
        b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"},{"index":1,"delta":{},"finish_reason":null}]}',
        ENDED,
    ),
    "finish-elsewhere": (b'{"finish_reason":"stop","choices":[]}', NOTHING),
    "choices-are-no-list": (b'{"finish_reason":1,"choices":{"finish_reason":"stop"}}', NOTHING),
    "choice-is-no-object": (b'{"finish_reason":1,"choices":["finish_reason",null,1]}', NOTHING),
    "usage": (b'{"choices":[],"usage":{"total_tokens":3}}', Reading(usage=THREE)),
    "usage-with-finish": (
        chunk(finish='"stop"', rest=',"usage":{"total_tokens":3}'),
        Reading(ended=True, finish="stop", finished=((0,),), usage=THREE),
    ),
    "usage-null": (chunk('{"content":"a"}', rest=',"usage":null'), CONTENT),
    "usage-null-with-space": (chunk('{"content":"a"}', rest=',"usage": null'), CONTENT),
    "usage-is-no-object": (chunk(rest=',"usage":5'), NOTHING),
    "error": (
        b'{"error":{"message":"m","type":"t","code":429}}',
        Reading(error=DialectError(message="m", type="t", code="429")),
    ),
    "error-of-nothing": (b'{"error":{"param":null}}', Reading(error=DialectError())),
    "error-text": (b'{"error":"m"}', Reading(error=DialectError(message="m"))),
    "error-behind-others": (b'{"id":1,"error":{"code":null,"message":"m"}}', Reading(error=DialectError(message="m"))),
    "error-null": (chunk('{"content":"a"}', rest=',"error":null'), CONTENT),
    "error-false": (chunk(rest=',"error":false'), NOTHING),
    "error-inside": (chunk('{"error":{"message":"m"}}'), NOTHING),
    "error-in-a-list": (b'[{"error":{"message":"m"}}]', NOTHING),
    "error-is-a-value": (chunk('{"content":"error"}'), CONTENT),
    "error-is-all": (b'"error"', NOTHING),
    "error-cut-off": (b'{"error":{"message":"m', Reading(error=DialectError())),
    "error-too-deep": (b'{"error":{"a":' + b"[" * 100_000, Reading(error=DialectError())),
    "too-deep": (b'{"a":"finish_reason","finish_reason":' + b"[" * 100_000, NOTHING),
    "words-in-text": (
        chunk(json.dumps({"content": 'the "error": {"a":1}, the "finish_reason":"stop" and the "usage":{"x":1}'})),
        CONTENT,
    ),
    "words-in-text-of-nothing": (
        chunk(json.dumps({"role": '"content":"x" "error":{} "finish_reason":"stop"'})),
        NOTHING,
    ),
    "words-in-a-tool-call": (
        chunk(json.dumps({"tool_calls": [{"function": {"arguments": '{"error":{"message":"x"},"usage":{}}'}}]})),
        CONTENT,
    ),
    "words-in-an-object": (
        chunk('{"tool_calls":[{"function":{"arguments":{"error":{"m":1},"usage":{"x":1},"finish_reason":"stop"}}}]}'),
        CONTENT,
    ),
}


@pytest.mark.parametrize(("data", "reading"), READINGS.values(), ids=READINGS)
def test_reading(data: bytes, reading: Reading) -> None:
    """What an event says, by its JSON and not by its words."""
    assert CHAT.read(Event(data)) == reading
    assert CHAT.is_error(b"message", data) == (reading.error is not None)
    assert CHAT.is_terminator(data) == reading.terminator
    assert CHAT.opens(b"message", data) == (data != b"" and not reading.terminator and reading.error is None)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        pytest.param(b'{"error":{"message":"m"}}', DialectError(message="m"), id="wrapped"),
        pytest.param(b'{"message":"m","type":"t","code":"c"}', DialectError("m", "t", "c"), id="flat"),
        pytest.param(b'{"error":null,"message":"m"}', DialectError(message="m"), id="null"),
        pytest.param(b"overloaded", DialectError(), id="no-json"),
        pytest.param(b'["m"]', DialectError(), id="no-object"),
        pytest.param(b"", DialectError(), id="empty"),
    ],
)
def test_an_event_of_the_type_error(data: bytes, error: DialectError) -> None:
    """It is an error, whatever its data: that is how clients take it."""
    assert CHAT.read(Event(data, b"error")).error == error
    assert CHAT.is_error(b"error", data)
    assert not CHAT.opens(b"error", data)


def test_an_error_stands_in_an_object() -> None:
    """What only talks like one is no error, and so no end of a stream; the beginning of an object may be one."""
    assert not CHAT.is_error(b"message", b'no end: {"error":{"message":"m"}}')
    assert CHAT.is_error(b"message", b' {"error":{"message":"m')


_texts = st.text(max_size=12) | st.sampled_from(['"error":{', '"finish_reason":"stop"', '{"usage":{}', "[DONE]", "\\"])
_json = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | _texts,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "choices", "usage", "finish_reason", "delta", "content", "model"]) | _texts,
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(_json, st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " :\t")]), st.booleans(), st.integers(0, 40))
@settings(max_examples=300)
def test_gate_and_watch_agree(value: object, separators: tuple[str, str], ascii: bool, cut: int) -> None:
    """What the gate takes for an error is what the watch notes as one; nothing raises, whatever the JSON is."""
    data = json.dumps(value, separators=separators, ensure_ascii=ascii).encode()
    for each in (data, data[:cut], data[cut:]):
        reading = CHAT.read(Event(each))
        assert CHAT.is_error(b"message", each) == (reading.error is not None)
        assert CHAT.opens(b"message", each) == (each != b"" and not reading.terminator and reading.error is None)
        model = CHAT.model(each)
        assert model is None or isinstance(model, str)


@given(_json)
@settings(max_examples=200)
def test_what_is_read_is_what_stands_there(value: object) -> None:
    """End, usage and error of a decodable event are those that a JSON parser finds at their places."""
    reading = CHAT.read(Event(json.dumps(value, separators=(",", ":")).encode()))
    top = value if isinstance(value, dict) else {}
    choices = top.get("choices")
    finished = isinstance(choices, list) and any(isinstance(c, dict) and c.get("finish_reason") for c in choices)
    assert reading.ended == finished
    assert reading.usage is None or isinstance(top.get("usage"), dict)
    assert (reading.error is not None) == bool(top.get("error"))


@pytest.mark.parametrize(
    ("data", "model"),
    [
        (b'{"model":"gpt-x","model":"second"}', "gpt-x"),
        (b'{"model" : "a\\"b\\u00e9"}', 'a"b\u00e9'),
        (b'{"model":null}', None),
        (b'{"model":"cut off', None),
        (b'{"model":"bad \\x escape"}', None),
        (b'{"model":"bad \xff byte"}', None),
        (b'{"content":"\\"model\\":\\"no\\""}', None),
        (b"", None),
    ],
    ids=["first", "escaped", "null", "cut-off", "bad-escape", "bad-utf-8", "in-text", "empty"],
)
def test_model(data: bytes, model: str | None) -> None:
    """The first name of a model, decoded, if there is one that can be."""
    assert CHAT.model(data) == model


# Windows on long events


def window(data: bytes, type: bytes = b"message", limit: int = 4096) -> Event:
    """The event as an observer sees it."""
    seen: Events = []

    class Look(Stage[Events]):
        def feed(self, batch: Events, /) -> Events:
            seen.extend(batch)
            return batch

    stage = by_line(Observe(by_event(Look()), limit=limit))
    run(stage, chunks=[b"event: " + type + b"\ndata: " + data + b"\n\n"])
    (event,) = seen
    assert event.cut
    assert event.size == len(data)
    return event


LONG = "x" * 5000


@pytest.mark.parametrize(
    ("data", "reading"),
    [
        pytest.param(chunk(json.dumps({"content": LONG})), CONTENT, id="content"),
        pytest.param(
            chunk(json.dumps({"content": LONG}), '"stop"'),
            Reading(content=True, ended=True, finish="stop", finished=((0,),)),
            id="finish",
        ),
        pytest.param(
            chunk(json.dumps({"content": '"error":{}, "finish_reason":"stop"' + LONG})), CONTENT, id="words-in-text"
        ),
        pytest.param(
            b'{"error":{"message":"' + LONG.encode() + b'"}}', Reading(content=True, error=DialectError()), id="error"
        ),
        pytest.param(
            b'{"id":"1","a":[{}],"error" : "' + LONG.encode() + b'"}',
            Reading(content=True, error=DialectError()),
            id="error-behind-others",
        ),
        pytest.param(b'{"error":null,"a":"' + LONG.encode() + b'"}', CONTENT, id="error-null"),
        pytest.param(b'{"a":{"error":{"b":1},"c":"' + LONG.encode() + b'"}}', CONTENT, id="error-inside"),
        pytest.param(b"[DONE]" + LONG.encode(), CONTENT, id="no-done"),
    ],
)
def test_windows(data: bytes, reading: Reading) -> None:
    """Of an event that is too long to be shown whole, end and error are found by their bytes."""
    assert CHAT.read(window(data)) == reading
    assert CHAT.is_error(b"message", data[:4096]) == (reading.error is not None)


def test_a_window_on_an_event_of_the_type_error() -> None:
    """Its type says that it is one."""
    assert CHAT.read(window(LONG.encode(), b"error")).error == DialectError()
