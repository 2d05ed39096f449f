"""What a whole answer says of itself: the end, the usage, its id, the tools it calls, and its text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sseflow import Event, EventParser, Observe, by_event, by_line
from sseflow.dialects import (
    AnthropicMessages,
    BegunCall,
    Dialect,
    OpenAIChat,
    OpenAIResponses,
    PlainSSE,
    Reading,
    Usage,
)
from sseflow.stages import Watch
from sseflow.stages._watch import MAX_TOOL_CALLS

CHAT, ANTHROPIC, RESPONSES = OpenAIChat(), AnthropicMessages(), OpenAIResponses()


def _event(value: object, *, named: bool = False, spaces: bool = False) -> bytes:
    separators = (", ", ": ") if spaces else (",", ":")
    type_ = f"event: {value['type']}\n" if named and isinstance(value, dict) else ""
    return f"{type_}data: {json.dumps(value, separators=separators)}\n\n".encode()


def _chunk(
    delta: object = None, finish: str | None = None, *, behind: bool = False, **more: object
) -> dict[str, object]:
    choices = [{"index": 0, "delta": delta or {}, "logprobs": None, "finish_reason": finish}]
    head: dict[str, object] = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "m"}
    return {"choices": choices, **head, **more} if behind else {**head, "choices": choices, **more}


def _fragment(index: int, arguments: str, **more: object) -> dict[str, object]:
    name = more.pop("name", None)
    function = {"arguments": arguments} if name is None else {"name": name, "arguments": arguments}
    return {"tool_calls": [{"index": index, **more, "function": function}]}


CHAT_USAGE = {
    "prompt_tokens": 100,
    "completion_tokens": 20,
    "total_tokens": 120,
    "prompt_tokens_details": {"cached_tokens": 60, "audio_tokens": 1},
    "completion_tokens_details": {"reasoning_tokens": 5, "accepted_prediction_tokens": 2, "audio_tokens": None},
}
CHAT_USED = Usage(
    input=40,
    output=20,
    cache_read=60,
    reasoning=5,
    extras={"total_tokens": 120, "prompt_audio": 1, "completion_accepted_prediction": 2},
)

ANTHROPIC_START: dict[str, object] = {
    "type": "message_start",
    "message": {
        "model": "m",
        "id": "msg_1",
        "content": [],
        "usage": {
            "input_tokens": 7,
            "cache_creation_input_tokens": 30,
            "cache_read_input_tokens": 400,
            "cache_creation": {"ephemeral_5m_input_tokens": 30, "ephemeral_1h_input_tokens": 0},
            "output_tokens": 1,
            "service_tier": "standard",
        },
    },
}
ANTHROPIC_END: dict[str, object] = {
    "type": "message_delta",
    "delta": {"stop_reason": "tool_use", "stop_sequence": None},
    "usage": {"output_tokens": 55, "server_tool_use": {"web_search_requests": 2}},
}


def _block(index: int, block: Mapping[str, object], *deltas: Mapping[str, object]) -> list[dict[str, object]]:
    return [
        {"type": "content_block_start", "index": index, "content_block": block},
        *[{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas],
        {"type": "content_block_stop", "index": index},
    ]


def _item(index: int, item: Mapping[str, object]) -> list[dict[str, object]]:
    return [
        {"type": f"response.output_item.{what}", "sequence_number": 9, "output_index": index, "item": item}
        for what in ("added", "done")
    ]


def _lifecycle(kind: str, **more: object) -> dict[str, object]:
    response = {"id": "resp_1", "object": "response", "model": "m", **more}
    return {"type": f"response.{kind}", "sequence_number": 1, "response": response}


RESPONSES_USAGE = {
    "input_tokens": 12_033,
    "input_tokens_details": {"cached_tokens": 11_904},
    "output_tokens": 44,
    "output_tokens_details": {"reasoning_tokens": 10},
    "total_tokens": 12_077,
}

TOKENS = [f' tok\n"{i}"' for i in range(12)]
TEXT = "".join(TOKENS)


@attrs.frozen
class Answer:
    """A whole answer, and what is to be known of it."""

    dialect: Dialect
    stream: bytes
    finish: str | None
    usage: Usage | None
    id: str | None
    calls: list[BegunCall]
    open: list[BegunCall]
    decodes: int
    """How many events are decoded when all comes event by event."""


ANSWERS = {
    "chat": Answer(
        CHAT,
        b"".join(
            [
                _event(_chunk({"role": "assistant", "content": ""}, usage=None, obfuscation="abc")),
                *[
                    _event(_chunk({"content": text}, usage=None, obfuscation="x" * (i % 5)))
                    for i, text in enumerate(TOKENS)
                ],
                _event(_chunk(_fragment(0, "", id="call_1", name="f", type="function"), usage=None)),
                *[_event(_chunk(_fragment(0, text), usage=None)) for text in TOKENS],
                _event(_chunk(_fragment(1, "", id="call_2", name="g", type="function"), usage=None)),
                *[_event(_chunk(_fragment(1, text), usage=None)) for text in TOKENS],
                _event(_chunk(None, "tool_calls", usage=None)),
                _event({"id": "chatcmpl-1", "model": "m", "choices": [], "usage": CHAT_USAGE}),
                b"data: [DONE]\n\n",
            ]
        ),
        "tool_calls",
        CHAT_USED,
        "chatcmpl-1",
        [BegunCall("call_1", "f", (0, 0)), BegunCall("call_2", "g", (0, 1))],
        [],
        4,
    ),
    "chat with spaces, its id behind": Answer(
        CHAT,
        b"".join(
            [
                *[_event(_chunk({"content": text}, behind=True), spaces=True) for text in TOKENS],
                _event(_chunk(None, "stop", behind=True, usage=CHAT_USAGE), spaces=True),
                b"data: [DONE]\n\n",
            ]
        ),
        "stop",
        CHAT_USED,
        "chatcmpl-1",
        [],
        [],
        1,
    ),
    "chat that tells its usage in each chunk": Answer(
        CHAT,
        b"".join(
            [
                *[
                    _event(_chunk({"content": text}, usage={"prompt_tokens": 9, "completion_tokens": i}))
                    for i, text in enumerate(TOKENS)
                ],
                _event(_chunk(None, "length", usage={"prompt_tokens": 9, "completion_tokens": 12})),
            ]
        ),
        "length",
        Usage(input=9, output=12),
        "chatcmpl-1",
        [],
        [],
        len(TOKENS) + 1,
    ),
    "chat whose call is cut short": Answer(
        CHAT,
        b"".join(
            [
                _event(_chunk(_fragment(0, "{", id="call_1", name="f"))),
                _event(_chunk(None, "length")),
            ]
        ),
        "length",
        None,
        "chatcmpl-1",
        [BegunCall("call_1", "f", (0, 0))],
        [BegunCall("call_1", "f", (0, 0))],
        2,
    ),
    "anthropic": Answer(
        ANTHROPIC,
        b"".join(
            _event(value, named=True)
            for value in [
                ANTHROPIC_START,
                {"type": "ping"},
                *_block(0, {"type": "text", "text": ""}, *[{"type": "text_delta", "text": text} for text in TOKENS]),
                *_block(
                    1,
                    {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"index": 7}},
                    *[{"type": "input_json_delta", "partial_json": text} for text in TOKENS],
                ),
                *_block(2, {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}}),
                ANTHROPIC_END,
                {"type": "message_stop"},
            ]
        ),
        "tool_use",
        Usage(
            input=7,
            output=55,
            cache_read=400,
            cache_write=30,
            extras={"cache_ephemeral_5m_input": 30, "cache_ephemeral_1h_input": 0, "web_search_requests": 2},
        ),
        "msg_1",
        [BegunCall("toolu_1", "f", (1,))],
        [],
        3,
    ),
    "anthropic without event lines, inside a call": Answer(
        ANTHROPIC,
        b"".join(
            _event(value)
            for value in [
                ANTHROPIC_START,
                *_block(0, {"type": "tool_use", "id": "toolu_1", "name": "f"})[:1],
                {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": {"output_tokens": 9}},
                {"type": "message_stop"},
            ]
        ),
        "max_tokens",
        Usage(
            input=7,
            output=9,
            cache_read=400,
            cache_write=30,
            extras={"cache_ephemeral_5m_input": 30, "cache_ephemeral_1h_input": 0},
        ),
        "msg_1",
        [BegunCall("toolu_1", "f", (0,))],
        [BegunCall("toolu_1", "f", (0,))],
        3,
    ),
    "responses": Answer(
        RESPONSES,
        b"".join(
            _event(value, named=True)
            for value in [
                _lifecycle("created", conversation={"id": "conv_1"}),
                _lifecycle("in_progress"),
                *[
                    {"type": "response.output_text.delta", "item_id": "msg_1", "output_index": 0, "delta": text}
                    for text in TOKENS
                ],
                *_item(1, {"id": "fc_1", "type": "function_call", "call_id": "call_1", "name": "f", "arguments": ""}),
                *_item(2, {"id": "ws_1", "type": "web_search_call"}),
                *_item(3, {"type": "function_call_output", "call_id": "call_1"}),
                *_item(4, {"id": "ctc_1", "type": "custom_tool_call", "call_id": "call_2", "name": "g"})[:1],
                _lifecycle("incomplete", incomplete_details={"reason": "max_output_tokens"}, usage=RESPONSES_USAGE),
            ]
        ),
        "max_output_tokens",
        Usage(input=129, output=44, cache_read=11_904, reasoning=10, extras={"total_tokens": 12_077}),
        "resp_1",
        [BegunCall("call_1", "f", (1,)), BegunCall("call_2", "g", (4,))],
        [BegunCall("call_2", "g", (4,))],
        4,
    ),
    "plain": Answer(PlainSSE(), b"data: a\n\ndata: b\n\n", None, None, None, [], [], 0),
}


def _watched(answer: Answer, chunks: list[bytes]) -> Watch:
    watch = Watch(answer.dialect)
    stage = by_line(Observe(by_event(watch)))
    for chunk in chunks:
        stage.feed(chunk)
    return watch


def _facts(watch: Watch) -> tuple[object, ...]:
    return watch.finish, watch.usage, watch.response_id, watch.tool_calls, watch.open_calls


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
@given(st.data())
@settings(max_examples=40)
def test_the_facts_of_an_answer(answer: Answer, data: st.DataObject) -> None:
    """Its end, usage, id and calls of tools are what they should be, however the stream is cut."""
    size = len(answer.stream)
    cuts = sorted(data.draw(st.sets(st.integers(1, size - 1), max_size=12)))
    chunks = [answer.stream[a:b] for a, b in zip([0, *cuts], [*cuts, size], strict=True)]
    expected = (answer.finish, answer.usage, answer.id, answer.calls, answer.open)
    assert _facts(_watched(answer, chunks)) == expected
    assert _facts(_watched(answer, [answer.stream[i : i + 1] for i in range(size)])) == expected


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_only_what_is_marked_is_decoded(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a realistic answer the beginnings of calls, the usage and the end are decoded, and no token is."""
    decoded: set[bytes] = set()
    loads = json.loads

    def counting(data: bytes) -> Any:
        if data.startswith(b"{"):  # a name is a string
            decoded.add(data)
        return loads(data)

    monkeypatch.setattr(json, "loads", counting)
    _watched(answer, [event + b"\n\n" for event in answer.stream.split(b"\n\n") if event])
    assert len(decoded) == answer.decodes


@pytest.mark.parametrize("name", ["chat", "chat with spaces, its id behind", "anthropic", "responses"])
def test_the_text_of_an_answer(name: str) -> None:
    """What a viewer shows is the joined text of the events: no arguments of tools, no reasoning, nothing of the end."""
    answer = ANSWERS[name]
    events = EventParser().feed(answer.stream)
    assert "".join(map(answer.dialect.answer_text, events)) == TEXT


@pytest.mark.parametrize(
    ("dialect", "value", "text"),
    [
        (CHAT, {"choices": [{"index": 1, "delta": {"content": "b"}}, {"index": 0, "delta": {"content": "a"}}]}, "a"),
        (CHAT, _chunk({"reasoning_content": "hm"}), ""),
        (CHAT, _chunk({"content": None, "refusal": "no"}), "no"),
        (CHAT, {"choices": [{"index": 0, "text": "a"}]}, "a"),
        (CHAT, {"choices": {}}, ""),
        (CHAT, [], ""),
        (ANTHROPIC, {"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "hm"}}, ""),
        (ANTHROPIC, {"type": "content_block_start", "content_block": {"type": "text", "text": "a"}}, "a"),
        (ANTHROPIC, {"type": "content_block_delta", "delta": {"text": 1}}, ""),
        (RESPONSES, {"type": "response.refusal.delta", "delta": "no"}, "no"),
        (RESPONSES, {"type": "response.output_text.delta", "delta": {}}, ""),
        (RESPONSES, {"type": "response.reasoning_text.delta", "delta": "hm"}, ""),
        (PlainSSE(), "x", '"x"'),
    ],
)
def test_the_text_of_an_event(dialect: Dialect, value: object, text: str) -> None:
    """The text of the first choice, or a refusal; what is not text is none."""
    assert dialect.answer_text(Event(json.dumps(value).encode())) == text


class Bare(PlainSSE):
    """What a dialect of a user's own has that says nothing of its text."""

    response_id = Dialect.response_id
    answer_text = Dialect.answer_text


def test_a_dialect_of_ones_own_need_not_tell() -> None:
    """By default there is no id, and no text."""
    assert Bare().response_id(Event(b'{"id":"x"}')) is None
    assert Bare().answer_text(Event(b"x")) == ""


# Usage


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 9}}, Usage(input=0, cache_read=9)),
        (
            {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 3}},
            Usage(input=4, cache_read=2, cache_write=3),
        ),
        (
            {"prompt_tokens": 9, "prompt_cache_hit_tokens": 4, "prompt_cache_miss_tokens": 5},
            Usage(input=5, cache_read=4, extras={"prompt_cache_miss_tokens": 5}),
        ),
        ({"completion_tokens": 3.0, "cost": 0.25}, Usage(output=3, extras={"cost": 0.25})),
        ({"completion_tokens": -1, "prompt_tokens": True, "total_tokens": "3"}, None),
        ({"completion_tokens": 2**60, "prompt_tokens": float("nan"), "x": float("inf")}, None),
        ({"é": 1, "a\nb": 1, "n" * 65: 1, "deep": {"deep": {"deep": 1}}}, None),
        ({"input": 1}, Usage(extras={"input": 1})),
        ({}, None),
        ([1], None),
        (None, None),
    ],
)
def test_usage_of_a_chat(usage: object, expected: Usage | None) -> None:
    """Input is without what was cached, and never below 0; what is no plain figure is left out."""
    assert CHAT.read(Event(json.dumps({"choices": [], "usage": usage}).encode())).usage == expected


def test_usage_has_a_bound() -> None:
    """No more figures are kept than there are in the usage objects of today, twice over."""
    usage = CHAT.read(Event(json.dumps({"usage": {f"a{i}": i for i in range(999)}}).encode())).usage
    assert usage is not None
    assert len(usage.extras) == 32


@pytest.mark.parametrize(
    "chunk",
    [
        {"choices": [{"index": 0, "delta": {}, "usage": {"completion_tokens": 3}}]},
        {"choices": [], "x_groq": {"id": "r", "usage": {"completion_tokens": 3}}},
    ],
    ids=["in-the-choice", "in-a-part-of-its-own"],
)
def test_usage_that_stands_elsewhere(chunk: object) -> None:
    """Two providers are known that put it into a part of the chunk."""
    assert CHAT.read(Event(json.dumps(chunk).encode())).usage == Usage(output=3)


def test_figures_by_name() -> None:
    """Only what was told, our names first; no extra takes the place of one."""
    usage = Usage(input=1, reasoning=0, extras={"total_tokens": 3, "input": 9})
    assert list(usage.figures.items()) == [("input", 1), ("reasoning", 0), ("total_tokens", 3)]


def test_an_update_replaces_and_adds_nothing_up() -> None:
    """Totals take the place of earlier ones; what is not told again stays."""
    before = Usage(input=1, output=1, cache_read=4, extras={"a": 1, "b": 2})
    after = Usage(input=1, output=9, cache_read=4, extras={"a": 1, "b": 3})
    assert before.updated(Usage(output=9, extras={"b": 3})) == after
    assert before.updated(Usage()) == before


def test_the_last_usage_of_a_chat_counts_alone() -> None:
    """Each tells all; parts of an earlier one beside it would be counted twice."""
    watch = Watch(CHAT)
    for usage in ({"prompt_tokens": 9}, {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 5}}, {}):
        watch.feed([Event(json.dumps({"choices": [], "usage": usage}).encode())])
    assert watch.usage == Usage(input=4, cache_read=5)
    watch.feed([Event(b'{"choices":[],"usage":{"prompt_tokens":9}}')])
    assert watch.usage == Usage(input=9)


# Ids


@pytest.mark.parametrize(
    ("dialect", "value", "id"),
    [
        (CHAT, {"id": "", "choices": []}, None),
        (CHAT, {"id": None, "choices": []}, None),
        (CHAT, {"choices": [{"delta": {"tool_calls": [{"id": "call_1"}]}}]}, None),
        (CHAT, {"choices": [{"delta": {"tool_calls": [{"id": "call_1"}]}}], "id": "c"}, "c"),
        (CHAT, {"a": "id", "id": "c"}, "c"),
        (CHAT, [{"id": "c"}], None),
        (CHAT, {"id": "x" * 5000}, "x" * 1024),
        (CHAT, {"id": "\ud800"}, "?"),
        (ANTHROPIC, {"type": "message_start"}, None),
        (ANTHROPIC, {"type": "message_start", "message": {"content": [{"id": "no"}]}}, None),
        (ANTHROPIC, {"type": "content_block_start", "content_block": {"id": "toolu_1"}}, None),
        (RESPONSES, {"type": "response.created"}, None),
        (RESPONSES, {"type": "response.created", "response": {"id": ""}, "id": "evt_1"}, None),
        (
            RESPONSES,
            {"type": "response.completed", "response": {"output": [{"id": "msg_1"}], "id": "resp_1"}},
            "resp_1",
        ),
        (RESPONSES, {"type": "response.output_text.delta", "response": {"id": "no"}}, None),
    ],
)
def test_the_id_of_an_answer(dialect: Dialect, value: object, id: str | None) -> None:
    """It is its own, and no tool's or item's, and not empty."""
    assert dialect.response_id(Event(json.dumps(value).encode())) == id


def test_the_first_id_that_is_not_empty() -> None:
    """Later ones do not replace it."""
    watch = Watch(CHAT)
    for id_ in ("", "a", "b"):
        watch.feed([Event(json.dumps({"id": id_, "choices": []}).encode())])
    assert watch.response_id == "a"


# Calls of tools


def _chat_watch(*deltas: object) -> Watch:
    watch = Watch(CHAT)
    watch.feed([Event(json.dumps(_chunk(delta)).encode()) for delta in deltas])
    return watch


def test_a_call_that_is_named_in_each_piece_is_one() -> None:
    """By its id, or, without one, by its place."""
    named = [_fragment(0, "{", id="a", name="f")] * 3
    assert _chat_watch(*named).tool_calls == [BegunCall("a", "f", (0, 0))]
    assert _chat_watch(*[_fragment(0, "{", name="f")] * 3).tool_calls == [BegunCall(None, "f", (0, 0))]


def test_calls_with_ids_of_their_own_are_many() -> None:
    """Though their server gives all of them the same place."""
    watch = _chat_watch(*[_fragment(0, "{}", id=id_, name="f") for id_ in "abc"])
    assert [call.id for call in watch.open_calls] == ["a", "b", "c"]
    watch.feed([Event(json.dumps(_chunk(None, "stop")).encode())])
    assert (len(watch.tool_calls), watch.open_calls) == (3, [])


def test_the_end_of_one_choice_ends_its_own_calls() -> None:
    """Those of another choice are still open."""
    watch = _chat_watch(_fragment(0, "{", id="a", name="f"))
    watch.feed([Event(b'{"choices":[{"index":1,"delta":{},"finish_reason":"stop"}]}')])
    assert len(watch.open_calls) == 1


@pytest.mark.parametrize("delta", [{"tool_calls": {}}, {"tool_calls": [1]}, {"name": "x"}, _fragment(0, "", id="a")])
def test_what_is_no_call(delta: object) -> None:
    """Anything in their place that has no name."""
    assert _chat_watch(delta).tool_calls == []


def test_calls_have_a_bound() -> None:
    """The most that are noted, whatever comes."""
    watch = _chat_watch(*[_fragment(i, "", id=str(i), name="f") for i in range(MAX_TOOL_CALLS + 9)])
    assert len(watch.tool_calls) == len(watch.open_calls) == MAX_TOOL_CALLS


@pytest.mark.parametrize(
    ("dialect", "value"),
    [
        (ANTHROPIC, {"type": "content_block_stop"}),
        (ANTHROPIC, {"type": "content_block_start", "content_block": {"type": "text", "text": "", "x": "tool_use"}}),
        (ANTHROPIC, {"type": "content_block_stop", "index": "x"}),
        (RESPONSES, {"type": "response.output_item.done", "item": {"output_index": 1}}),
    ],
)
def test_what_concerns_no_call(dialect: Dialect, value: object) -> None:
    """A block that only speaks of one, and an end without a place: it could be anybody's."""
    assert dialect.read(Event(json.dumps(value).encode())) == Reading()


# Windows on long events

LONG = '"name":"no" \\"usage\\":{}, ' * 200


def _window(dialect: Dialect, value: dict[str, object]) -> Watch:
    watch = Watch(dialect)
    by_line(Observe(by_event(watch), limit=2500)).feed(_event(value))
    return watch


def test_a_window_on_a_whole_chat() -> None:
    """An answer in one event: its id and its call stand at its beginning, its end and its usage at its end."""
    watch = _window(CHAT, _chunk(_fragment(0, LONG, id="a", name="f"), "tool_calls", usage=CHAT_USAGE))
    assert _facts(watch) == ("tool_calls", CHAT_USED, "chatcmpl-1", [BegunCall("a", "f", (0, 0))], [])
    watch = _window(CHAT, _chunk(_fragment(0, LONG, id="a", name="f"), "length"))
    assert watch.open_calls == [BegunCall("a", "f", (0, 0))]
    watch = _window(CHAT, {"choices": [{"delta": {"content": LONG}}]})
    assert _facts(watch) == (None, None, None, [], [])


def test_a_window_on_events_with_a_type() -> None:
    """What stands at their beginning and at their end is found."""
    value = _block(3, {"type": "tool_use", "id": "a", "name": "f", "input": LONG})[0]
    assert _window(ANTHROPIC, value).open_calls == [BegunCall("a", "f", (3,))]
    item = {"type": "function_call", "call_id": "a", "name": "f", "arguments": LONG}
    assert _window(RESPONSES, _item(3, item)[0]).open_calls == [BegunCall("a", "f", (3,))]
    watch = _window(RESPONSES, _lifecycle("completed", output=LONG, usage=RESPONSES_USAGE))
    assert (watch.finish, watch.response_id) == ("completed", "resp_1")
    assert watch.usage is not None
    assert watch.usage.cache_read == 11_904


@pytest.mark.parametrize("dialect", [CHAT, ANTHROPIC, RESPONSES, PlainSSE()], ids=lambda dialect: dialect.name)
def test_a_window_has_no_text(dialect: Dialect) -> None:
    """Half a text would be taken for the whole."""
    texts: list[str] = []

    class Look(Watch):
        def feed(self, batch: list[Event], /) -> list[Event]:
            texts.extend(map(dialect.answer_text, batch))
            return batch

    by_line(Observe(by_event(Look(dialect)), limit=100)).feed(_event(_chunk({"content": "x" * 200})))
    assert texts == [""]
