"""Answers of upstreams that misbehave, in the forms of OpenAI chat and Anthropic Messages."""

from __future__ import annotations

import json

from .servers import HEAD, LAST_CHUNK, Script, chunk


def _data(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def openai_chunk(content: str | None, finish: str | None = None) -> bytes:
    """One event of a chat completion."""
    delta = {} if content is None else {"content": content}
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    return _data({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices})


OPENAI_BEGINNING = openai_chunk("The answer is")
OPENAI_END = openai_chunk(None, "stop") + b"data: [DONE]\n\n"

_MESSAGE: dict[str, object] = {
    "id": "m",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": {"input_tokens": 1, "output_tokens": 0},
}
_BLOCK = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
_TEXT = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "The answer is"}}

ANTHROPIC_BEGINNING = (
    b"event: message_start\n"
    + _data({"type": "message_start", "message": _MESSAGE})
    + b"event: content_block_start\n"
    + _data(_BLOCK)
    + b"event: content_block_delta\n"
    + _data(_TEXT)
)

_RESPONSE: dict[str, object] = {
    "id": "r",
    "object": "response",
    "created_at": 1,
    "status": "in_progress",
    "model": "m",
    "output": [],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
}
_TEXT_PLACE: dict[str, object] = {"item_id": "i", "output_index": 0, "content_index": 0}
_ITEM: dict[str, object] = {"id": "i", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
_PART: dict[str, object] = {"type": "output_text", "text": "", "annotations": []}

_EVENTS: list[dict[str, object]] = [
    {"type": "response.created", "response": _RESPONSE},
    {"type": "response.output_item.added", "output_index": 0, "item": _ITEM},
    {"type": "response.content_part.added", **_TEXT_PLACE, "part": _PART},
    {"type": "response.output_text.delta", **_TEXT_PLACE, "delta": "The answer is", "logprobs": []},
]
RESPONSES_BEGINNING = b"".join(
    f"event: {value['type']}\n".encode() + _data({**value, "sequence_number": number})
    for number, value in enumerate(_EVENTS)
)


def clean_end(beginning: bytes) -> Script:
    """A stream that stops, and is ended as if it were complete."""
    return [HEAD + chunk(beginning) + LAST_CHUNK]


def mid_event(beginning: bytes) -> Script:
    """A stream that stops inside an event, and is ended as if it were complete."""
    return [HEAD + chunk(beginning + b'data: {"id": "c", "ob') + LAST_CHUNK]


def broken(beginning: bytes) -> Script:
    """A stream whose connection ends without the last chunk."""
    return [HEAD + chunk(beginning)]


#: A stream of a comment, and nothing else.
EMPTY: Script = [HEAD + chunk(b": ping\n\n") + LAST_CHUNK]
