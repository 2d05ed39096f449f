"""The forms in which providers answer: their events, their bodies and their words for what is wrong."""

from __future__ import annotations

import functools
import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal, TypeAlias

import attrs

from ._script import as_data

#: Why an answer ends: the model was done, it may not say more, or what it said was filtered.
Finish: TypeAlias = Literal["stop", "length", "content_filter"]

Json: TypeAlias = dict[str, object]

CREATED = 1_700_000_000
"""When all answers were made: equal questions have answers of equal length."""


@attrs.frozen
class ToolCall:
    """A call of a tool.

    Attributes:
        name: the tool.
        arguments: what it is called with.
        id: the id of the call; by default one of its own for each answer.
    """

    name: str
    arguments: Mapping[str, object] = attrs.field(factory=dict[str, object])
    id: str | None = None


@attrs.frozen(kw_only=True)
class Said:
    """What a model says: everything that an answer is made of in any form."""

    pieces: Sequence[str]
    reasoning: str
    tools: Sequence[ToolCall]
    finish: Finish
    input_tokens: int
    cached_tokens: int

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def reasoning_tokens(self) -> int:
        return len(self.reasoning.split())

    @property
    def output_tokens(self) -> int:
        arguments = sum(len(json.dumps(tool.arguments).split()) + 1 for tool in self.tools)
        return len(self.pieces) + self.reasoning_tokens + arguments


@attrs.frozen
class Problem:
    """What is wrong, in a provider's words.

    Attributes:
        retry_after: seconds after which to ask again; None: nothing is said of it.
    """

    status: int
    message: str
    type: str | None = None
    code: str | None = None
    param: str | None = None
    retry_after: float | None = None


@attrs.frozen
class Stream:
    """The events of an answer: those before its text, one for each piece of that, and those behind.

    Attributes:
        base: what its events have in common, or the answer that they lead to.
        keep: to be called when it has ended well, so that the provider remembers it.
    """

    opening: tuple[bytes, ...]
    pieces: tuple[bytes, ...]
    closing: tuple[bytes, ...]
    base: Json = attrs.field(factory=dict[str, object])
    keep: Callable[[], object] = lambda: None


def new_id(prefix: str) -> str:
    """An id that no other answer has; all are equally long."""
    return prefix + uuid.uuid4().hex


def _data(value: object) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def _named(value: Json) -> bytes:
    return b"event: " + str(value["type"]).encode() + b"\n" + _data(value)


def _objects(value: object) -> list[Json]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _missing(name: str) -> Problem:
    return Problem(400, f"Missing required parameter: '{name}'.", code="missing_required_parameter", param=name)


def _refuse_messages(body: Json) -> Problem | None:
    if not isinstance(body.get("model"), str):
        return Problem(400, "you must provide a model parameter")
    messages = body.get("messages")
    if not messages or len(_objects(messages)) != len(messages if isinstance(messages, list) else ()):
        return _missing("messages")
    return None


class Form:
    """Plain events: a text, and nothing else. The form of servers that are no provider of a model."""

    def refuse(self, body: Json) -> Problem | None:
        """What is wrong with a request; None: nothing."""
        return None

    def streams(self, body: Json) -> bool:
        """Whether a stream was asked for."""
        return True

    def stream(self, said: Said, body: Json) -> Stream:
        """The answer as a stream."""
        return Stream((), tuple(as_data(piece.replace("\n", "\ndata: ")) for piece in said.pieces), ())

    def whole(self, said: Said, body: Json) -> Json:
        """The answer in one piece."""
        return {"text": said.text}

    def error(self, problem: Problem) -> Json:
        """The body of an answer that says what is wrong."""
        return {"error": problem.message}

    def error_event(self, problem: Problem, base: Json, number: int) -> bytes:
        """The event that says so in a stream with that base, as the one of that number, from 0."""
        return b"event: error\n" + _data(self.error(problem))

    def keep(self, answer: Json, body: Json) -> None:
        """Remember an answer that has ended well."""


class ChatForm(Form):
    """OpenAI's chat completions."""

    prefix = "chatcmpl-"
    heartbeat: bytes | None = None

    def refuse(self, body: Json) -> Problem | None:
        return _refuse_messages(body)

    def streams(self, body: Json) -> bool:
        return body.get("stream") is True

    def stream(self, said: Said, body: Json) -> Stream:
        base = self._base("chat.completion.chunk", body)
        usage = self._wants_usage(body)
        if usage:
            base["usage"] = None

        def chunk(delta: Json, finish: str | None = None) -> bytes:
            return _data({**base, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]})

        opening = [chunk({"role": "assistant", "content": "", "refusal": None})]
        if self.heartbeat is not None:
            opening.insert(0, self.heartbeat)
        closing = [chunk({"tool_calls": [delta]}) for delta in _tool_deltas(said.tools)]
        closing.append(chunk({}, _chat_finish(said)))
        if usage:
            closing.append(_data({**base, "choices": [], "usage": self._usage(said)}))
        closing.append(as_data("[DONE]"))
        pieces = (chunk({"content": piece}) for piece in said.pieces)
        return Stream(tuple(opening), tuple(pieces), tuple(closing), base)

    def whole(self, said: Said, body: Json) -> Json:
        message: Json = {"role": "assistant", "content": said.text or None, "refusal": None, "annotations": []}
        if said.tools:
            message["tool_calls"] = [_chat_call(tool) for tool in said.tools]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _chat_finish(said)}
        return {**self._base("chat.completion", body), "choices": [choice], "usage": self._usage(said)}

    def error(self, problem: Problem) -> Json:
        return openai_error(problem)

    def error_event(self, problem: Problem, base: Json, number: int) -> bytes:
        return _data(self.error(problem))

    def _base(self, kind: str, body: Json) -> Json:
        base: Json = {"id": new_id(self.prefix), "object": kind, "created": CREATED, "model": body.get("model")}
        return {**base, "service_tier": "default", "system_fingerprint": "fp_fake"}

    def _wants_usage(self, body: Json) -> bool:
        options = body.get("stream_options")
        return isinstance(options, dict) and options.get("include_usage") is True

    def _usage(self, said: Said) -> Json:
        return {
            "prompt_tokens": said.input_tokens,
            "completion_tokens": said.output_tokens,
            "total_tokens": said.input_tokens + said.output_tokens,
            "prompt_tokens_details": {"cached_tokens": said.cached_tokens, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": said.reasoning_tokens, "audio_tokens": 0},
        }


class OpenRouterForm(ChatForm):
    """The same as OpenRouter has it: with comments, a provider, usage in every stream, and errors of its own."""

    prefix = "gen-"
    heartbeat = b": OPENROUTER PROCESSING\n\n"

    def error(self, problem: Problem) -> Json:
        return {"error": {"message": problem.message, "code": problem.status}, "user_id": "user_fake"}

    def error_event(self, problem: Problem, base: Json, number: int) -> bytes:
        choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": "error"}
        error = {"code": problem.status, "message": problem.message}
        return _data({**base, "error": error, "choices": [choice]})

    def _base(self, kind: str, body: Json) -> Json:
        base: Json = {"id": new_id(self.prefix), "provider": "Fake", "model": body.get("model")}
        return {**base, "object": kind, "created": CREATED}

    def _wants_usage(self, body: Json) -> bool:
        return True

    def _usage(self, said: Said) -> Json:
        return {**super()._usage(said), "cost": 0.0001, "is_byok": False}


def openai_error(problem: Problem) -> Json:
    """What is wrong, in an object as OpenAI sends it."""
    kind = problem.type or ("server_error" if problem.status >= 500 else "invalid_request_error")
    return {"error": {"message": problem.message, "type": kind, "param": problem.param, "code": problem.code}}


def _chat_finish(said: Said) -> str:
    return "tool_calls" if said.tools and said.finish == "stop" else said.finish


def _chat_call(tool: ToolCall) -> Json:
    function = {"name": tool.name, "arguments": json.dumps(tool.arguments)}
    return {"id": tool.id or new_id("call_"), "type": "function", "function": function}


def _tool_deltas(tools: Sequence[ToolCall]) -> Iterator[Json]:
    for i, tool in enumerate(tools):
        call = _chat_call(tool)
        yield {"index": i, **call, "function": {"name": tool.name, "arguments": ""}}
        yield {"index": i, "function": {"arguments": json.dumps(tool.arguments)}}


class MessagesForm(Form):
    """Anthropic's Messages."""

    def refuse(self, body: Json) -> Problem | None:
        for name in ("model", "max_tokens", "messages"):
            if name not in body:
                return Problem(400, f"{name}: Field required")
        if any(message.get("role") not in ("user", "assistant") for message in _objects(body["messages"])):
            return Problem(400, "messages.0.role: Input should be 'user' or 'assistant'")
        return _refuse_messages(body)

    def streams(self, body: Json) -> bool:
        return body.get("stream") is True

    def stream(self, said: Said, body: Json) -> Stream:
        whole = self.whole(said, body)
        blocks = _objects(whole["content"])
        start = {**whole, "content": [], "stop_reason": None, "usage": {**_anthropic_usage(said), "output_tokens": 1}}
        opening = [_named({"type": "message_start", "message": start})]
        pieces: list[bytes] = []
        closing: list[bytes] = []
        for i, block in enumerate(blocks):
            events = _block_events(i, block, said.pieces)
            if block["type"] == "text":
                opening += [next(events), _named({"type": "ping"})]
                pieces += [next(events) for _ in said.pieces]
                closing += events
            else:
                (opening if block["type"] == "thinking" else closing).extend(events)
        delta = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
        closing.append(_named({"type": "message_delta", "delta": delta, "usage": _anthropic_usage(said)}))
        closing.append(_named({"type": "message_stop"}))
        return Stream(tuple(opening), tuple(pieces), tuple(closing))

    def whole(self, said: Said, body: Json) -> Json:
        content: list[Json] = []
        if said.reasoning:
            content.append({"type": "thinking", "thinking": said.reasoning, "signature": "c2lnbmF0dXJl"})
        if said.pieces:
            content.append({"type": "text", "text": said.text})
        for tool in said.tools:
            call = {"id": tool.id or new_id("toolu_"), "name": tool.name, "input": dict(tool.arguments)}
            content.append({"type": "tool_use", **call})
        stop = "tool_use" if said.tools else "end_turn"
        reasons = {"stop": stop, "length": "max_tokens", "content_filter": "refusal"}
        return {
            "id": new_id("msg_"),
            "type": "message",
            "role": "assistant",
            "model": body.get("model"),
            "content": content,
            "stop_reason": reasons[said.finish],
            "stop_sequence": None,
            "usage": _anthropic_usage(said),
        }

    def error(self, problem: Problem) -> Json:
        kinds = {
            401: "authentication_error",
            403: "permission_error",
            404: "not_found_error",
            413: "request_too_large",
            429: "rate_limit_error",
            504: "timeout_error",
            529: "overloaded_error",
        }
        kind = kinds.get(problem.status, "api_error" if problem.status >= 500 else "invalid_request_error")
        error = {"type": problem.type or kind, "message": problem.message}
        return {"type": "error", "error": error, "request_id": new_id("req_")}


def _anthropic_usage(said: Said) -> Json:
    return {
        "input_tokens": said.input_tokens - said.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": said.cached_tokens,
        "output_tokens": said.output_tokens,
    }


def _block_events(index: int, block: Json, pieces: Sequence[str]) -> Iterator[bytes]:
    """The events of a block: its start, its deltas, its stop."""
    start: Json
    deltas: Iterable[Json]
    match block:
        case {"type": "thinking", "thinking": str(thought), "signature": str(signature)}:
            start = {**block, "thinking": "", "signature": ""}
            deltas = [
                {"type": "thinking_delta", "thinking": thought},
                {"type": "signature_delta", "signature": signature},
            ]
        case {"type": "tool_use", "input": arguments}:
            start = {**block, "input": {}}
            texts = ("", json.dumps(arguments))
            deltas = ({"type": "input_json_delta", "partial_json": text} for text in texts)
        case _:
            start = {**block, "text": ""}
            deltas = ({"type": "text_delta", "text": piece} for piece in pieces)
    yield _named({"type": "content_block_start", "index": index, "content_block": start})
    for delta in deltas:
        yield _named({"type": "content_block_delta", "index": index, "delta": delta})
    yield _named({"type": "content_block_stop", "index": index})


class ResponsesForm(Form):
    """OpenAI's Responses. It remembers the answers that have ended well, unless a request forbids it."""

    def __init__(self) -> None:
        self._open_calls: dict[str, frozenset[str]] = {}

    def forget(self) -> None:
        """Remember no answer any longer."""
        self._open_calls.clear()

    def keep(self, answer: Json, body: Json) -> None:
        if body.get("store") is not False:
            calls = (one for one in _objects(answer["output"]) if one["type"] == "function_call")
            self._open_calls[str(answer["id"])] = frozenset(str(one["call_id"]) for one in calls)

    def refuse(self, body: Json) -> Problem | None:
        if not isinstance(body.get("model"), str):
            return _missing("model")
        previous = body.get("previous_response_id")
        if previous is not None and previous not in self._open_calls:
            message = f"Previous response with id '{previous}' not found."
            return Problem(400, message, code="previous_response_not_found", param="previous_response_id")
        given = body.get("input")
        if not isinstance(given, str | list):
            return _missing("input")
        open_calls = self._open_calls.get(str(previous), frozenset())
        return _refuse_items([] if isinstance(given, str) else given, open_calls)

    def streams(self, body: Json) -> bool:
        return body.get("stream") is True

    def stream(self, said: Said, body: Json) -> Stream:
        whole = self.whole(said, body)
        begun = {**whole, "status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
        events = _Numbered()
        opening = [events.of("response.created", response=begun), events.of("response.in_progress", response=begun)]
        pieces: list[bytes] = []
        closing: list[bytes] = []
        for i, item in enumerate(_objects(whole["output"])):
            match item["type"]:
                case "reasoning":
                    opening += _reasoning_events(events, i, item)
                case "message":
                    opening += _text_opening(events, i, item)
                    where = {"item_id": item["id"], "output_index": i, "content_index": 0}
                    delta = functools.partial(events.of, "response.output_text.delta", **where, logprobs=[])
                    pieces += [delta(delta=text) for text in said.pieces]
                    closing += _text_closing(events, i, item, said.text)
                case _:
                    closing += _call_events(events, i, item)
        closing.append(events.of(f"response.{whole['status']}", response=whole))
        return Stream(tuple(opening), tuple(pieces), tuple(closing), whole, lambda: self.keep(whole, body))

    def whole(self, said: Said, body: Json) -> Json:
        output: list[Json] = []
        if said.reasoning:
            summary = {"type": "summary_text", "text": said.reasoning}
            output.append({"id": new_id("rs_"), "type": "reasoning", "summary": [summary]})
        if said.pieces:
            part = {"type": "output_text", "text": said.text, "annotations": [], "logprobs": []}
            message: Json = {"id": new_id("msg_"), "type": "message", "role": "assistant"}
            output.append({**message, "status": "completed", "content": [part]})
        for tool in said.tools:
            call: Json = {"id": new_id("fc_"), "type": "function_call", "status": "completed", "name": tool.name}
            output.append({**call, "call_id": tool.id or new_id("call_"), "arguments": json.dumps(tool.arguments)})
        reasons = {"stop": None, "length": "max_output_tokens", "content_filter": "content_filter"}
        reason = reasons[said.finish]
        return {
            "id": new_id("resp_"),
            "object": "response",
            "created_at": CREATED,
            "status": "incomplete" if reason else "completed",
            "background": False,
            "error": None,
            "incomplete_details": {"reason": reason} if reason else None,
            "instructions": body.get("instructions"),
            "max_output_tokens": body.get("max_output_tokens"),
            "model": body["model"],
            "output": output,
            "parallel_tool_calls": True,
            "previous_response_id": body.get("previous_response_id"),
            "reasoning": {"effort": None, "summary": None},
            "store": body.get("store") is not False,
            "temperature": 1.0,
            "text": {"format": {"type": "text"}},
            "tool_choice": body.get("tool_choice", "auto"),
            "tools": body.get("tools") or [],
            "top_p": 1.0,
            "truncation": "disabled",
            "usage": {
                "input_tokens": said.input_tokens,
                "input_tokens_details": {"cached_tokens": said.cached_tokens, "cache_write_tokens": 0},
                "output_tokens": said.output_tokens,
                "output_tokens_details": {"reasoning_tokens": said.reasoning_tokens},
                "total_tokens": said.input_tokens + said.output_tokens,
            },
            "user": None,
            "metadata": body.get("metadata") or {},
        }

    def error(self, problem: Problem) -> Json:
        return openai_error(problem)

    def error_event(self, problem: Problem, base: Json, number: int) -> bytes:
        what = {"code": problem.code or problem.type or "server_error", "message": problem.message}
        return _named({"type": "error", **what, "param": problem.param, "sequence_number": number})

    def failed_event(self, problem: Problem, base: Json, number: int) -> bytes:
        """The event that says that a response has failed."""
        error = {"code": problem.code or problem.type or "server_error", "message": problem.message}
        failed = {**base, "status": "failed", "error": error, "output": [], "usage": None}
        return _named({"type": "response.failed", "sequence_number": number, "response": failed})


class _Numbered:
    """Events that count themselves."""

    def __init__(self) -> None:
        self._next = 0

    def of(self, type_: str, **members: object) -> bytes:
        event = _named({"type": type_, "sequence_number": self._next, **members})
        self._next += 1
        return event


def _reasoning_events(events: _Numbered, index: int, item: Json) -> Iterator[bytes]:
    [part] = _objects(item["summary"])
    where = {"item_id": item["id"], "output_index": index, "summary_index": 0}
    name = "response.reasoning_summary"
    yield events.of("response.output_item.added", output_index=index, item={**item, "summary": []})
    yield events.of(f"{name}_part.added", **where, part={**part, "text": ""})
    yield events.of(f"{name}_text.delta", **where, delta=part["text"])
    yield events.of(f"{name}_text.done", **where, text=part["text"])
    yield events.of(f"{name}_part.done", **where, part=part)
    yield events.of("response.output_item.done", output_index=index, item=item)


def _text_opening(events: _Numbered, index: int, item: Json) -> Iterator[bytes]:
    [part] = _objects(item["content"])
    begun = {**item, "status": "in_progress", "content": []}
    where = {"item_id": item["id"], "output_index": index, "content_index": 0}
    yield events.of("response.output_item.added", output_index=index, item=begun)
    yield events.of("response.content_part.added", **where, part={**part, "text": ""})


def _text_closing(events: _Numbered, index: int, item: Json, text: str) -> Iterator[bytes]:
    [part] = _objects(item["content"])
    where = {"item_id": item["id"], "output_index": index, "content_index": 0}
    yield events.of("response.output_text.done", **where, text=text, logprobs=[])
    yield events.of("response.content_part.done", **where, part=part)
    yield events.of("response.output_item.done", output_index=index, item=item)


def _call_events(events: _Numbered, index: int, item: Json) -> Iterator[bytes]:
    where = {"item_id": item["id"], "output_index": index}
    begun = {**item, "status": "in_progress", "arguments": ""}
    name = "response.function_call_arguments"
    yield events.of("response.output_item.added", output_index=index, item=begun)
    yield events.of(f"{name}.delta", **where, delta=item["arguments"])
    yield events.of(f"{name}.done", **where, arguments=item["arguments"], name=item["name"])
    yield events.of("response.output_item.done", output_index=index, item=item)


#: The kinds of input items that are looked into, with what each must have.
_ITEMS: Mapping[str, tuple[str, ...]] = {
    "message": ("role", "content"),
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id", "output"),
    "reasoning": ("id", "summary"),
    "item_reference": ("id",),
}


def _refuse_items(items: list[object], open_calls: frozenset[str]) -> Problem | None:
    """What is wrong with the input of a request whose previous response waits for the outputs of ``open_calls``."""
    calls = set(open_calls)
    answered: set[str] = set()
    for i, item in enumerate(items):
        if not isinstance(item, dict):
            return _bad_item(f"Invalid type for 'input[{i}]': expected an object.", f"input[{i}]", "invalid_type")
        kind = item.get("type", "message")
        for name in _ITEMS.get(kind, ()):
            if name not in item:
                return _missing(f"input[{i}].{name}")
        if kind == "message" and (problem := _refuse_content(i, item)):
            return problem
        if kind == "function_call":
            calls.add(item["call_id"])
        elif kind == "function_call_output":
            if item["call_id"] not in calls:
                what = f"No tool call found for function call output with call_id {item['call_id']}."
                return _bad_item(what, "input")
            answered.add(item["call_id"])
        elif kind == "reasoning" and i == len(items) - 1:
            what = f"Item '{item['id']}' of type 'reasoning' was provided without its required following item."
            return _bad_item(what, "input")
    if missing := sorted(calls - answered):
        return _bad_item(f"No tool output found for function call {missing[0]}.", "input")
    return None


def _refuse_content(index: int, item: Json) -> Problem | None:
    allowed = ("output_text", "refusal")
    for j, part in enumerate(_objects(item["content"])):
        kind = str(part.get("type"))
        if (kind in allowed) != (item["role"] == "assistant"):
            return _bad_item(f"Invalid value: '{kind}'.", f"input[{index}].content[{j}]", "invalid_value")
    return None


def _bad_item(message: str, param: str, code: str | None = None) -> Problem:
    return Problem(400, message, code=code, param=param)
