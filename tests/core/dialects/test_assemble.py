"""assemble: one shape for a whole answer and for a part of one."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sseflow import Event, EventParser, encode
from sseflow.dialects import (
    AnthropicMessages,
    Assembled,
    Dialect,
    OpenAIChat,
    OpenAIResponses,
    PlainSSE,
    ToolCall,
    ToolError,
    assemble,
)

from ..strategies import chunked

CHAT, RESPONSES, ANTHROPIC, PLAIN = OpenAIChat(), OpenAIResponses(), AnthropicMessages(), PlainSSE()


def untyped(*chunks: object) -> list[Event]:
    """Make events of chunks of a chat; text is data as it is."""
    return [Event(c.encode() if isinstance(c, str) else json.dumps(c).encode()) for c in chunks]


def typed(*values: dict[str, object]) -> list[Event]:
    """Make events whose type is in the event line, too."""
    return [Event(json.dumps(value).encode(), str(value["type"]).encode()) for value in values]


def delta(index: int = 0, finish: str | None = None, **delta: object) -> dict[str, object]:
    """Make a chunk of a chat."""
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return {"id": "c1", "object": "chat.completion.chunk", "model": "m", "choices": [choice], "usage": None}


def call(index: int, **fields: object) -> dict[str, object]:
    """Make a chunk with a piece of a tool call."""
    function = {key: fields.pop(key) for key in ("name", "arguments") if key in fields}
    return delta(tool_calls=[{"index": index, **fields, "function": function}])


CHAT_EVENTS = untyped(
    delta(role="assistant", content=""),
    delta(reasoning="Let me "),
    delta(reasoning_content="think.", reasoning=None),
    delta(content="I shall "),
    delta(content="look."),
    call(3, id="a", type="function", name="read", arguments=""),
    call(4, id="b", type="function", name="list", arguments='{"at'),
    call(3, arguments='{"path": 1}'),
    call(4, arguments='": 2}'),
    delta(finish="tool_calls"),
    {"id": "c1", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}},
    "[DONE]",
)

ANTHROPIC_EVENTS = typed(
    {
        "type": "message_start",
        "message": {
            "id": "m1",
            "type": "message",
            "role": "assistant",
            "model": "m",
            "content": [],
            "stop_reason": None,
            "usage": {"input_tokens": 3, "output_tokens": 1},
        },
    },
    {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "", "signature": ""}},
    {"type": "ping"},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "Let me "}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "think."}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "s"}},
    {"type": "content_block_stop", "index": 0},
    {
        "type": "content_block_start",
        "index": 1,
        "content_block": {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {}},
    },
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"query": 1}'}},
    {"type": "content_block_stop", "index": 1},
    {
        "type": "content_block_start",
        "index": 2,
        "content_block": {"type": "web_search_tool_result", "tool_use_id": "s1", "content": []},
    },
    {"type": "content_block_stop", "index": 2},
    {"type": "content_block_start", "index": 3, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 3, "delta": {"type": "text_delta", "text": "I shall "}},
    {"type": "content_block_delta", "index": 3, "delta": {"type": "text_delta", "text": "look."}},
    {"type": "content_block_delta", "index": 3, "delta": {"type": "citations_delta", "citation": {"url": "u"}}},
    {"type": "content_block_stop", "index": 3},
    {
        "type": "content_block_start",
        "index": 4,
        "content_block": {"type": "tool_use", "id": "a", "name": "read", "input": {}},
    },
    {"type": "content_block_delta", "index": 4, "delta": {"type": "input_json_delta", "partial_json": '{"path"'}},
    {"type": "content_block_delta", "index": 4, "delta": {"type": "input_json_delta", "partial_json": ": 1}"}},
    {"type": "content_block_stop", "index": 4},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 4}},
    {"type": "message_stop"},
)

ANTHROPIC_BODY = {
    "id": "m1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [
        {"type": "thinking", "thinking": "Let me think.", "signature": "s"},
        {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": 1}},
        {"type": "web_search_tool_result", "tool_use_id": "s1", "content": []},
        {"type": "text", "text": "I shall look.", "citations": [{"url": "u"}]},
        {"type": "tool_use", "id": "a", "name": "read", "input": {"path": 1}},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {"input_tokens": 3, "output_tokens": 4},
}

REASONING: dict[str, object] = {
    "type": "reasoning",
    "id": "i0",
    "summary": [{"type": "summary_text", "text": "Let me think."}],
}
SEARCH: dict[str, object] = {"type": "web_search_call", "id": "i1", "status": "completed", "action": {"query": "q"}}
COMMENTARY: dict[str, object] = {
    "type": "message",
    "id": "i2",
    "role": "assistant",
    "status": "completed",
    "phase": "commentary",
    "content": [{"type": "output_text", "text": "I look.", "annotations": []}],
}
MESSAGE: dict[str, object] = {
    "type": "message",
    "id": "i3",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "I shall look.", "annotations": []}],
}
FUNCTION: dict[str, object] = {
    "type": "function_call",
    "id": "i4",
    "status": "completed",
    "call_id": "a",
    "name": "read",
    "arguments": '{"path": 1}',
}
CUSTOM: dict[str, object] = {
    "type": "custom_tool_call",
    "id": "i5",
    "status": "completed",
    "call_id": "b",
    "name": "list",
    "input": "all of it",
}
OUTPUT = [REASONING, SEARCH, COMMENTARY, MESSAGE, FUNCTION, CUSTOM]


def _begun(index: int, item: dict[str, object], **fields: object) -> dict[str, object]:
    status = {"status": "in_progress"} if "status" in item else {}
    return {"type": "response.output_item.added", "output_index": index, "item": {**item, **status, **fields}}


def _done(index: int, item: dict[str, object]) -> dict[str, object]:
    return {"type": "response.output_item.done", "output_index": index, "item": item}


def _message(index: int, item: dict[str, object], first: str, second: str) -> Iterator[dict[str, object]]:
    at: dict[str, object] = {"output_index": index, "content_index": 0}
    part = {"type": "output_text", "annotations": []}
    yield _begun(index, item, content=[])
    yield {"type": "response.content_part.added", **at, "part": {**part, "text": ""}}
    yield {"type": "response.output_text.delta", **at, "delta": first}
    yield {"type": "response.output_text.delta", **at, "delta": second}
    yield {"type": "response.output_text.done", **at, "text": first + second}
    yield {"type": "response.content_part.done", **at, "part": {**part, "text": first + second}}
    yield _done(index, item)


RESPONSE: dict[str, object] = {"id": "r1", "object": "response", "model": "m", "status": "in_progress", "usage": None}
FINAL: dict[str, object] = {**RESPONSE, "status": "completed", "usage": {"input_tokens": 3, "output_tokens": 4}}

RESPONSES_EVENTS = typed(
    {"type": "response.created", "response": {**RESPONSE, "output": []}},
    _begun(0, REASONING, summary=[]),
    {
        "type": "response.reasoning_summary_part.added",
        "output_index": 0,
        "summary_index": 0,
        "part": {"type": "summary_text", "text": ""},
    },
    {
        "type": "response.reasoning_summary_text.delta",
        "output_index": 0,
        "summary_index": 0,
        "delta": "Let me ",
    },
    {
        "type": "response.reasoning_summary_text.delta",
        "output_index": 0,
        "summary_index": 0,
        "delta": "think.",
    },
    _done(0, REASONING),
    _begun(1, SEARCH),
    _done(1, SEARCH),
    *_message(2, COMMENTARY, "I ", "look."),
    *_message(3, MESSAGE, "I shall ", "look."),
    _begun(4, FUNCTION, arguments=""),
    _begun(5, CUSTOM, input=""),
    {"type": "response.function_call_arguments.delta", "output_index": 4, "delta": '{"path"'},
    {"type": "response.custom_tool_call_input.delta", "output_index": 5, "delta": "all of "},
    {"type": "response.function_call_arguments.delta", "output_index": 4, "delta": ": 1}"},
    {"type": "response.custom_tool_call_input.delta", "output_index": 5, "delta": "it"},
    {"type": "response.function_call_arguments.done", "output_index": 4, "arguments": '{"path": 1}'},
    _done(4, FUNCTION),
    _done(5, CUSTOM),
)
RESPONSES_END = typed({"type": "response.completed", "response": {**FINAL, "output": OUTPUT}})

PLAIN_EVENTS = [Event(b"one"), Event(b"two\nthree", b"note"), Event(b"four")]

WHOLE: dict[str, tuple[Dialect, list[Event]]] = {
    "chat": (CHAT, CHAT_EVENTS),
    "anthropic": (ANTHROPIC, ANTHROPIC_EVENTS),
    "responses": (RESPONSES, RESPONSES_EVENTS + RESPONSES_END),
    "plain": (PLAIN, PLAIN_EVENTS),
}
EACH = pytest.mark.parametrize(("dialect", "events"), WHOLE.values(), ids=WHOLE)


def test_a_chat() -> None:
    """All of it is there: text, thoughts, calls whose indices neither begin at zero nor come in turn, usage."""
    got = assemble(CHAT, CHAT_EVENTS, interrupted=False)
    calls = (
        ToolCall(id="a", name="read", arguments='{"path": 1}', finished=True),
        ToolCall(id="b", name="list", arguments='{"at": 2}', finished=True),
    )
    assert (got.text, got.reasoning, got.tool_calls) == ("I shall look.", "Let me think.", calls)
    assert (got.finish, got.response_id, got.model) == ("tool_calls", "c1", "m")
    assert got.usage == {"prompt_tokens": 3, "completion_tokens": 4}
    assert (got.complete, got.truncated, got.empty) == (True, False, False)
    assert got.body == {
        "id": "c1",
        "object": "chat.completion",
        "model": "m",
        "usage": got.usage,
        "choices": [
            {
                "index": 0,
                "finish_reason": "tool_calls",
                "message": {
                    "role": "assistant",
                    "content": "I shall look.",
                    "reasoning": "Let me ",
                    "reasoning_content": "think.",
                    "tool_calls": [
                        {"id": "a", "type": "function", "function": {"name": "read", "arguments": '{"path": 1}'}},
                        {"id": "b", "type": "function", "function": {"name": "list", "arguments": '{"at": 2}'}},
                    ],
                },
            }
        ],
    }


def test_a_message() -> None:
    """The body is what the API answers without streaming, and what the provider ran itself is no call for others."""
    got = assemble(ANTHROPIC, ANTHROPIC_EVENTS, interrupted=False)
    assert got.body == ANTHROPIC_BODY
    assert (got.text, got.reasoning, got.finish) == ("I shall look.", "Let me think.", "tool_use")
    assert got.tool_calls == (ToolCall(id="a", name="read", arguments='{"path": 1}', finished=True),)
    assert (got.usage, got.response_id, got.model) == ({"input_tokens": 3, "output_tokens": 4}, "m1", "m")
    assert got.complete


def test_a_response() -> None:
    """The same for a response; what the model says beside the answer is a thought."""
    got = assemble(RESPONSES, RESPONSES_EVENTS + RESPONSES_END, interrupted=False)
    assert got.body == {**FINAL, "output": OUTPUT}
    assert (got.text, got.reasoning, got.finish) == ("I shall look.", "Let me think.\n\nI look.", "completed")
    assert got.tool_calls == (
        ToolCall(id="a", name="read", arguments='{"path": 1}', finished=True),
        ToolCall(id="b", name="list", arguments="all of it", finished=True),
    )
    assert (got.usage, got.response_id, got.model) == ({"input_tokens": 3, "output_tokens": 4}, "r1", "m")
    assert got.complete


def test_a_response_before_its_end_has_the_output_of_a_whole_one() -> None:
    """What the deltas brought has the shape that the last event would have had."""
    got = assemble(RESPONSES, RESPONSES_EVENTS, interrupted=True)
    assert got.body == {**RESPONSE, "output": OUTPUT}
    assert (got.finish, got.complete) == (None, False)


def test_plain_events() -> None:
    """The data is the text; it is complete unless it was interrupted, which no event could say."""
    got = assemble(PLAIN, PLAIN_EVENTS, interrupted=False)
    assert (got.text, got.complete, got.body, got.finish) == ("one\ntwo\nthree\nfour", True, None, None)
    assert not assemble(PLAIN, PLAIN_EVENTS, interrupted=True).complete


@EACH
def test_a_part_is_the_beginning_of_the_whole(dialect: Dialect, events: list[Event]) -> None:
    """Cut between any two events there is as much of each text, and of each call, as had come."""
    before: Assembled | None = None
    for cut in range(len(events) + 1):
        got = assemble(dialect, events[:cut], interrupted=cut < len(events))
        if before is not None:
            assert got.text.startswith(before.text)
            assert got.reasoning.startswith(before.reasoning)
            calls = zip(got.tool_calls, before.tool_calls, strict=False)
            assert len(got.tool_calls) >= len(before.tool_calls)
            for now, then in calls:
                assert (now.id, now.name) == (then.id, then.name)
                assert now.arguments.startswith(then.arguments)
                assert now.finished >= then.finished
        assert all((each.result is not None) == (cut < len(events)) for each in got.tool_calls)
        json.dumps(got.body)
        before = got
    assert before is not None
    assert before.complete


@EACH
@given(data=st.data())
def test_chunks_do_not_matter(dialect: Dialect, events: list[Event], data: st.DataObject) -> None:
    """However the bytes of a stream are cut, and whether types stand in a line or not, it is the same answer."""
    lines = b"".join(encode(event.data, type=None if event.type == b"message" else event.type) for event in events)
    parser = EventParser()
    read = [event for chunk in data.draw(chunked(st.just(lines))) for event in parser.feed(chunk)]
    whole = assemble(dialect, events, interrupted=False)
    assert assemble(dialect, read, interrupted=False) == whole
    assert assemble(dialect, [Event(event.data) for event in read], interrupted=False) == whole


def test_what_is_open_is_kept_as_a_call_with_an_error_for_a_result() -> None:
    """Of an interrupted answer no call is left without a result, be its arguments whole or not, or no JSON at all."""
    error = ToolError("interrupted before it produced a result")
    chat = assemble(CHAT, CHAT_EVENTS[:8], interrupted=True)
    assert chat.tool_calls == (
        ToolCall(id="a", name="read", arguments='{"path": 1}', finished=False, result=error),
        ToolCall(id="b", name="list", arguments='{"at', finished=False, result=error),
    )
    anthropic = assemble(ANTHROPIC, ANTHROPIC_EVENTS[:19], interrupted=True)
    assert anthropic.tool_calls == (ToolCall(id="a", name="read", arguments='{"path"', finished=False, result=error),)
    # Its API wants an object here, and this is how it wants what is none.
    body = anthropic.body
    assert body is not None
    content = body["content"]
    assert isinstance(content, list)
    assert content[-1]["input"] == {"INVALID_JSON": '{"path"'}
    responses = assemble(RESPONSES, RESPONSES_EVENTS[:-4], interrupted=True)
    assert responses.tool_calls == (
        ToolCall(id="a", name="read", arguments='{"path": 1}', finished=False, result=error),
        ToolCall(id="b", name="list", arguments="all of ", finished=False, result=error),
    )


def test_what_the_provider_was_to_run_and_has_not_is_left_out() -> None:
    """... of an interrupted answer: nobody else can make up for it. A whole answer has it, as it came."""
    for interrupted in (True, False):
        anthropic = assemble(ANTHROPIC, ANTHROPIC_EVENTS[:10], interrupted=interrupted)
        responses = assemble(RESPONSES, RESPONSES_EVENTS[:7], interrupted=interrupted)
        assert anthropic.body is not None
        assert responses.body is not None
        kinds = [[p["type"] for p in b[k]] for b, k in ((anthropic.body, "content"), (responses.body, "output"))]  # type: ignore[attr-defined]
        left = [] if interrupted else ["server_tool_use"], [] if interrupted else ["web_search_call"]
        assert kinds == [["thinking", *left[0]], ["reasoning", *left[1]]]
        assert anthropic.tool_calls == responses.tool_calls == ()


NOTHING: dict[str, tuple[Dialect, list[Event]]] = {
    "no-events": (CHAT, []),
    "chat-role": (CHAT, CHAT_EVENTS[:1]),
    "chat-error": (CHAT, untyped({"error": {"message": "m"}})),
    "anthropic-start": (ANTHROPIC, ANTHROPIC_EVENTS[:3]),
    "anthropic-search": (ANTHROPIC, [ANTHROPIC_EVENTS[0], *ANTHROPIC_EVENTS[7:10]]),
    "responses-start": (RESPONSES, RESPONSES_EVENTS[:3]),
    "plain": (PLAIN, []),
}


@pytest.mark.parametrize(("dialect", "events"), NOTHING.values(), ids=NOTHING)
def test_nothing_produced_is_empty(dialect: Dialect, events: list[Event]) -> None:
    """A role, a beginning, an error, a search without a result: of none of these is there anything to keep."""
    assert assemble(dialect, events, interrupted=True).empty


@EACH
def test_something_produced_is_not_empty(dialect: Dialect, events: list[Event]) -> None:
    """... and of all others there is."""
    assert not assemble(dialect, events, interrupted=True).empty


def test_usage_is_kept_as_far_as_it_was_told() -> None:
    """Of an answer that was cut, too: it was paid for."""
    got = assemble(ANTHROPIC, ANTHROPIC_EVENTS[:-2], interrupted=True)
    assert got.usage == {"input_tokens": 3, "output_tokens": 1}
    assert assemble(CHAT, CHAT_EVENTS[:3], interrupted=True).usage is None


def test_choices_are_kept_apart() -> None:
    """Several choices come in turn, and each has its own text; the first that began is the one that is shown."""
    events = untyped(delta(1, content="b"), delta(0, content="a"), delta(1, content="c"), delta(0, finish="stop"))
    got = assemble(CHAT, events, interrupted=False)
    assert [(choice.index, choice.text, choice.finish) for choice in got.choices] == [(1, "bc", None), (0, "a", "stop")]
    assert got.text == "bc"


def test_calls_of_servers_that_number_them_badly() -> None:
    """Without an index, or with the same for all: another id is another call, and no id goes on with the last."""
    pieces: list[dict[str, object]] = [
        {"id": "a", "function": {"name": "f", "arguments": "1"}},
        {"function": {"arguments": "2"}},
        {"id": "b"},
    ]
    indices: tuple[dict[str, object], ...] = ({}, {"index": 0})
    for index in indices:
        events = untyped(*(delta(tool_calls=[{**piece, **index}]) for piece in pieces))
        calls = assemble(CHAT, events, interrupted=False).tool_calls
        assert [(each.id, each.name, each.arguments) for each in calls] == [("a", "f", "12"), ("b", "", "")]


@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_a_call_that_was_cut_by_the_model_is_not_finished(reason: str) -> None:
    """An end that is none of the call's own says nothing of its arguments."""
    events = [*CHAT_EVENTS[:8], *untyped(delta(finish=reason))]
    assert [each.finished for each in assemble(CHAT, events, interrupted=False).tool_calls] == [False, False]
    cut = [*ANTHROPIC_EVENTS[:-2], *typed({"type": "message_delta", "delta": {"stop_reason": "max_tokens"}})]
    assert [each.finished for each in assemble(ANTHROPIC, cut, interrupted=False).tool_calls] == [False]


def test_what_is_said_of_a_text_is_kept_with_it() -> None:
    """Citations and annotations come one by one, and are kept in order."""
    block = {"type": "content_block_delta", "index": 0}
    cited = assemble(
        ANTHROPIC,
        typed(
            {**block, "delta": {"type": "text_delta", "text": "a"}},
            {**block, "delta": {"type": "citations_delta", "citation": 1}},
            {**block, "delta": {"type": "citations_delta", "citation": 2}},
        ),
        interrupted=True,
    )
    assert cited.body is not None
    assert cited.body["content"] == [{"type": "text", "text": "a", "citations": [1, 2]}]
    at: dict[str, object] = {"output_index": 0, "content_index": 0}
    events = typed(
        {"type": "response.output_text.delta", **at, "delta": "a"},
        *({"type": "response.output_text.annotation.added", **at, "annotation": each} for each in (1, 2)),
    )
    annotated = assemble(RESPONSES, events, interrupted=True)
    assert annotated.body is not None
    part = {"type": "output_text", "text": "a", "annotations": [1, 2]}
    assert annotated.body["output"] == [{"type": "message", "content": [part]}]


def test_what_belongs_to_nothing_is_left_out() -> None:
    """A note on a text that is not there, pieces that nobody knows or that are no text, objects too deep."""
    chunks = [{"choices": [1]}, delta(tool_calls=1), delta(content=None, refusal="")]
    assert assemble(CHAT, untyped(*chunks), interrupted=True).empty
    deep = assemble(CHAT, untyped(*[delta(audio={"a": {"b": {"data": "c"}}}, annotations=[1])] * 2), interrupted=True)
    assert deep.body is not None
    message = {"role": "assistant", "content": None, "audio": {"a": {"b": {"data": "c"}}}, "annotations": [1, 1]}
    assert deep.body["choices"] == [{"index": 0, "message": message, "finish_reason": None}]
    block = {"type": "content_block_delta", "index": 0}
    events = typed(*({**block, "delta": {"type": kind, "text": 1}} for kind in ("text_delta", "x_delta")))
    assert assemble(ANTHROPIC, events, interrupted=True).empty
    part = {"type": "output_text", "text": "", "annotations": 0}
    begun: dict[str, object] = {"type": "response.content_part.added", "part": part}
    events = typed(
        {"type": "response.output_text.annotation.added", "annotation": 1},
        {"type": "response.something.delta", "delta": "a"},
        {"type": "response.output_text.done"},
        begun,
        begun,
        {"type": "response.output_text.annotation.added", "annotation": 1},
    )
    assert assemble(RESPONSES, events, interrupted=True).empty


def test_a_refusal() -> None:
    """What is said in place of an answer is no answer."""
    chat = assemble(CHAT, untyped(delta(refusal="I "), delta(refusal="won't.")), interrupted=False)
    at: dict[str, object] = {"type": "response.refusal.delta", "output_index": 0, "content_index": 0}
    response = assemble(
        RESPONSES,
        typed({**at, "delta": "I "}, {**at, "delta": "won't."}),
        interrupted=False,
    )
    assert [(each.text, each.refusal) for each in (chat, response)] == [("", "I won't.")] * 2


def test_what_is_in_the_middle_may_be_missing() -> None:
    """Of what began in a part that is missing there is what came behind it; and it is said that it is not all."""
    got = assemble(ANTHROPIC, ANTHROPIC_EVENTS[-4:], interrupted=False, truncated=True)
    assert got.truncated
    assert got.tool_calls == (ToolCall(id=None, name="", arguments='{"path": 1}'[7:], finished=True),)
    whole = assemble(RESPONSES, RESPONSES_END, interrupted=False, truncated=True)
    assert whole.body == {**FINAL, "output": OUTPUT}


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec=None), max_size=3) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)


@st.composite
def _spoiled(draw: st.DrawFn) -> tuple[Dialect, list[Event]]:
    """Draw a stream in which some values are what they should not be."""
    dialect, events = draw(st.sampled_from(list(WHOLE.values())))

    def spoil(value: object) -> object:
        if draw(st.integers(0, 7)) == 0:
            return draw(_JSON)
        if isinstance(value, dict):
            return {key: spoil(part) for key, part in value.items()}
        return [spoil(part) for part in value] if isinstance(value, list) else value

    picked = draw(st.lists(st.sampled_from(events), min_size=1, max_size=6))
    values = [spoil(json.loads(event.data)) for event in picked if event.data.startswith(b"{")]
    return dialect, [Event(json.dumps(value).encode()) for value in values]


@given(_spoiled())
def test_it_never_fails(spoiled: tuple[Dialect, list[Event]]) -> None:
    """Whatever stands where something else should: it is left out, or kept as it is."""
    dialect, events = spoiled
    got = assemble(dialect, events, interrupted=True)
    json.dumps(got.body)
    assert (got.text, got.empty) is not None


@pytest.mark.parametrize("dialect", [CHAT, ANTHROPIC, RESPONSES, PLAIN], ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("data", [b"\xff", b"{", b"[1]", b"[" * 100_000, b'{"a":' * 500 + b"1" + b"}" * 500])
def test_what_is_no_json_is_left_out(dialect: Dialect, data: bytes) -> None:
    """... and does no harm, be it ever so deep."""
    got = assemble(dialect, [Event(data)], interrupted=True)
    assert got.empty or dialect is PLAIN


def test_what_is_deep_is_no_harm_wherever_it_stands() -> None:
    """Also where it is just not too deep to be read, and is to be written again."""
    shapes = {
        ANTHROPIC: '{"type":"content_block_start","index":0,"content_block":{"type":"tool_use","input":DEEP}}',
        RESPONSES: '{"type":"response.output_item.added","item":{"type":"computer_call","action":DEEP}}',
        CHAT: '{"choices":[{"delta":{"audio":DEEP}}]}',
    }
    for dialect, shape in shapes.items():
        for depth in range(900, 1000):
            events = untyped(shape.replace("DEEP", '{"a":' * depth + "1" + "}" * depth))
            assert assemble(dialect, events, interrupted=True).usage is None
