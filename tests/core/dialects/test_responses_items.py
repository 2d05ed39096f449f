"""A chain of responses, and the request that does without it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sseflow.dialects import CompleteResponse, RequestBody, as_input, input_items, rebuilt

Item = dict[str, object]

USER: Item = {"type": "message", "role": "user", "content": "hi"}
SAID: Item = {
    "type": "message",
    "id": "msg_1",
    "status": "completed",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "hello", "annotations": [], "id": "kept"}],
}
THOUGHT: Item = {"type": "reasoning", "id": "rs_1", "summary": [], "status": None, "encrypted_content": "gAAA"}
CALL: Item = {
    "type": "function_call",
    "id": "fc_1",
    "status": "completed",
    "call_id": "call_1",
    "name": "f",
    "arguments": "{}",
}
RESULT: Item = {"type": "function_call_output", "call_id": "call_1", "output": "ok"}


def encoded(*items: Item) -> list[bytes]:
    """Items as bytes, as a server of some kind may write them."""
    return [json.dumps(item, indent=1).encode() for item in items]


def decoded(items: list[bytes] | None) -> list[Item]:
    """And back."""
    assert items is not None
    return [json.loads(item) for item in items]


def request(**members: object) -> RequestBody:
    """A request's body."""
    body = RequestBody.parse(json.dumps(members).encode())
    assert body is not None
    return body


def completed(**members: object) -> bytes:
    """The event that a whole response ends with."""
    response = {"id": "resp_1", "object": "response", "status": "completed", "output": [], **members}
    return json.dumps({"type": "response.completed", "response": response}).encode()


def without(item: Item, *names: str) -> Item:
    """An item without some of its fields."""
    return {name: value for name, value in item.items() if name not in names}


def test_a_string_is_one_message_of_the_user() -> None:
    """With the very bytes of the string."""
    body = RequestBody.parse(b'{"input": "a\\u0020b\\n"}')
    assert body is not None
    assert input_items(body) == [b'{"type":"message","role":"user","content":"a\\u0020b\\n"}']


def test_input_items_are_the_bytes_that_came() -> None:
    """Whatever white space and numbers they hold; no input is none."""
    body = RequestBody.parse(b'{"input": [ {"role":"user", "x": 1e400} ,{"type":"x"}]}')
    assert body is not None
    assert input_items(body) == [b'{"role":"user", "x": 1e400}', b'{"type":"x"}']
    assert input_items(request(model="m")) == []


@pytest.mark.parametrize(
    "members",
    [
        {"input": [USER], "conversation": "conv_1"},
        {"input": [USER], "prompt": {"id": "pmpt_1"}},
        {"input": [{"type": "item_reference", "id": "msg_1"}]},
        {"input": [{"id": "msg_1"}]},
        {"input": ["hi"]},
        {"input": 1},
        {"input": {}},
    ],
)
def test_input_that_only_the_provider_knows_is_none(members: Item) -> None:
    """A conversation, a template, a reference, and what is no input: never half of it."""
    assert input_items(request(**members)) is None
    assert CompleteResponse.of(request(**members), completed()) is None
    assert rebuilt(request(**members), []) is None


def test_a_complete_response_is_what_went_in_and_what_came_out() -> None:
    """Its id, the one that it goes on from, and both lists of items."""
    body = request(input=[USER], previous_response_id="resp_0")
    found = CompleteResponse.of(body, completed(output=[SAID]))
    assert found is not None
    assert (found.id, found.previous_id) == ("resp_1", "resp_0")
    assert decoded(list(found.input)) == [USER]
    assert decoded(list(found.output)) == [SAID]
    assert decoded(found.conversation) == [USER, without(SAID, "id", "status")]
    assert "hello" not in repr(found)


def test_a_response_in_one_body_is_complete_as_well() -> None:
    """Without the event around it."""
    found = CompleteResponse.of(request(input="a"), b'{"object":"response","id":"resp_1"}')
    assert found is not None
    assert found.id == "resp_1"


@pytest.mark.parametrize(
    "data",
    [
        completed(status="incomplete"),
        completed(status="in_progress"),
        completed(id=""),
        completed(id=None),
        completed(output={}),
        completed()[:-1],
        completed().replace(b"response.completed", b"response.incomplete"),
        b'{"type":"response.completed"}',
        b'{"type":"response.completed","response":[]}',
        b'{"id":"resp_1","output":[]}',
        b"[DONE]",
    ],
)
def test_what_is_not_complete_makes_no_link_of_a_chain(data: bytes) -> None:
    """Cut, incomplete, without an id, or something else."""
    assert CompleteResponse.of(request(input="a"), data) is None


HOSTED: list[Item] = [
    {"type": kind, "id": "x", "status": "completed"}
    for kind in (
        "computer_call",
        "file_search_call",
        "web_search_call",
        "code_interpreter_call",
        "image_generation_call",
    )
]
TAKEN_BACK: list[tuple[Item, Item]] = [
    (SAID, without(SAID, "id", "status")),
    (CALL, without(CALL, "id", "status")),
    ({"type": "custom_tool_call", "id": "c", "call_id": "x"}, {"type": "custom_tool_call", "call_id": "x"}),
    ({"type": "compaction", "id": "c", "created_by": "x"}, {"type": "compaction", "id": "c"}),
    *((hosted, hosted) for hosted in HOSTED),
]


@pytest.mark.parametrize(("item", "taken"), TAKEN_BACK, ids=[str(item["type"]) for item, _ in TAKEN_BACK])
def test_what_the_api_takes_back_becomes_input(item: Item, taken: Item) -> None:
    """Without the fields that it does not take; what is nested keeps its own."""
    assert decoded(as_input(encoded(item))) == [taken]


@pytest.mark.parametrize(
    "kind",
    [
        "shell_call",
        "shell_call_output",
        "local_shell_call",
        "apply_patch_call",
        "apply_patch_call_output",
        "mcp_call",
        "mcp_list_tools",
        "mcp_approval_request",
        "not_known_yet",
    ],
)
def test_what_the_api_does_not_take_back_is_left_out(kind: str) -> None:
    """And so is the reasoning that led to it."""
    assert as_input(encoded(THOUGHT, {"type": kind, "call_id": "a"})) == []
    assert len(as_input(encoded(SAID, THOUGHT, {"type": kind}, SAID))) == 2


def test_reasoning_is_taken_back_with_what_follows_from_it() -> None:
    """Its encrypted content, before its call or its message; by its id alone it is not there."""
    assert decoded(as_input(encoded(THOUGHT, THOUGHT, CALL)))[:2] == [without(THOUGHT, "status")] * 2
    assert len(as_input(encoded(without(THOUGHT, "encrypted_content"), CALL))) == 1
    assert as_input(encoded(CALL, THOUGHT)) == as_input(encoded(CALL))
    assert as_input([b"1", b'"x"', b"{}"]) == []


def history(*items: Item) -> list[bytes]:
    """Items as compact bytes."""
    return [json.dumps(item).encode() for item in items]


def rebuilt_input(body: RequestBody, *items: Item) -> list[Item]:
    """The input of the rebuilt request."""
    found = rebuilt(body, history(*items))
    assert found is not None
    input = json.loads(found)["input"]
    assert isinstance(input, list)
    return input


def test_the_history_takes_the_place_of_the_id() -> None:
    """Its items, and the client's own behind them; every other byte stays."""
    body = RequestBody.parse(
        b'{ "model" : "m", "previous_response_id":"resp_1" , "input": [ {"role":"user","n":1.0e0} ],"x":1E5}'
    )
    assert body is not None
    assert rebuilt(body, [b'{"role":"user", "content":"a"}']) == (
        b'{ "model" : "m" , "input": [{"role":"user", "content":"a"},{"role":"user","n":1.0e0}],"x":1E5}'
    )


def test_a_string_follows_the_history_as_a_message() -> None:
    """And where there is no input, the history is all."""
    assert rebuilt_input(request(input="more"), USER)[1] == {"type": "message", "role": "user", "content": "more"}
    assert rebuilt_input(request(previous_response_id="r"), USER) == [USER]


def test_a_call_keeps_its_result() -> None:
    """Also if the result is what the client sends now."""
    assert rebuilt_input(request(input=[RESULT]), USER, CALL) == [USER, CALL, RESULT]
    assert rebuilt_input(request(input="go on"), CALL, RESULT)[:2] == [CALL, RESULT]


def test_a_call_without_its_result_is_left_out() -> None:
    """With the reasoning before it."""
    assert rebuilt_input(request(input=[USER]), USER, THOUGHT, CALL) == [USER, USER]


def test_a_result_without_its_call_is_left_out() -> None:
    """Such as one of a shell, whose call the API does not take back."""
    shell: Item = {"type": "shell_call_output", "call_id": "call_9", "output": []}
    other: Item = {**RESULT, "call_id": "call_2"}
    custom: Item = {"type": "custom_tool_call_output", "call_id": "call_1", "output": ""}
    assert rebuilt_input(request(input=[USER]), shell, other, CALL, RESULT, custom) == [CALL, RESULT, USER]


def test_reasoning_by_its_id_alone_is_left_out() -> None:
    """Where it was stored is gone, as the response is."""
    assert rebuilt_input(request(input=[USER]), without(THOUGHT, "encrypted_content"), SAID) == [SAID, USER]
    assert rebuilt_input(request(input=[USER]), THOUGHT, SAID) == [THOUGHT, SAID, USER]


@pytest.mark.parametrize(
    "item",
    [
        {**RESULT, "call_id": "call_2"},
        {"type": "custom_tool_call_output", "call_id": "call_1", "output": ""},
        {"type": "shell_call_output", "call_id": "call_1", "output": []},
        {"type": "apply_patch_call_output", "call_id": "call_1", "status": "completed"},
        {"type": "mcp_approval_response", "approval_request_id": "a", "approve": True},
    ],
)
def test_a_request_that_answers_what_is_not_there_cannot_be_rebuilt(item: Item) -> None:
    """What the client says now is not to be lost without a word."""
    assert rebuilt(request(input=[USER, item]), history(USER, CALL)) is None


KINDS = st.sampled_from([USER, SAID, THOUGHT, CALL, RESULT, {"type": "mcp_call"}, {"type": "shell_call"}])
ITEMS = st.lists(
    st.builds(lambda item, id: {**item, "call_id": id} if "call_id" in item else item, KINDS, st.sampled_from("ab"))
)


@given(ITEMS)
def test_nothing_in_a_rebuilt_request_is_orphaned(items: list[Item]) -> None:
    """Each call has a result and each result a call, and behind reasoning comes what followed from it."""
    input = rebuilt_input(request(input=[USER]), *items)
    calls = {item["call_id"] for item in input if item.get("type") == "function_call"}
    results = {item["call_id"] for item in input if item.get("type") == "function_call_output"}
    assert calls == results
    kept = [item for item in items if item in input]
    assert [item for item in input[:-1] if item not in kept] == []
    assert input[-1] == USER
