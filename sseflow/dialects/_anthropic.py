"""The stream of Anthropic's Messages."""

from __future__ import annotations

import re

from .._events import Event
from ._dialect import NOTHING, BegunCall, DialectError, Reading
from ._json import WITHIN, decode, find_name, id_at_top, name_in, number_at_top, object_in, string_after, usage_object
from ._typed import TypedDialect, kind_of
from ._usage import Usage, usage_in

_STOP = re.compile(rb'\s*\{\s*"type"\s*:\s*"message_stop"\s*\}\s*')
_MESSAGE = re.compile(rb'"message"\s*:\s*(?=\{)')
_ID = string_after(b"id")
_NAME = string_after(b"name")
_STOP_REASON = string_after(b"stop_reason")

_FIGURES = {
    "input_tokens": "input",
    "output_tokens": "output",
    "cache_read_input_tokens": "cache_read",
    "cache_creation_input_tokens": "cache_write",
    "cache_creation.ephemeral_5m_input_tokens": "cache_ephemeral_5m_input",
    "cache_creation.ephemeral_1h_input_tokens": "cache_ephemeral_1h_input",
    "server_tool_use.web_search_requests": "web_search_requests",
}


class AnthropicMessages(TypedDialect):
    """Anthropic Messages: complete when ``message_stop`` was seen. Pings are no content, and open no gate."""

    name = "anthropic"
    last = frozenset({b"message_stop"})
    errors = frozenset({b"error"})
    silent = frozenset({b"ping"})
    keep_alive = b'event: ping\ndata: {"type": "ping"}\n\n'
    usage_in_parts = True

    def is_content(self, kind: bytes) -> bool:
        return kind == b"content_block_delta"

    def read_kind(self, kind: bytes, event: Event) -> Reading:
        match kind:
            case b"message_start":
                return Reading(usage=_usage(usage_object(event, "message")))
            case b"message_delta":
                return Reading(usage=_usage(usage_object(event)), finish=find_name(_STOP_REASON, event.data))
            case b"content_block_start" if b'"tool_use"' in event.data:
                return _begin(event)
            case b"content_block_stop":
                place = number_at_top(event.data, b'"index"')
                return Reading(finished=(place,) if place else ())
            case _:
                return NOTHING

    def response_id(self, event: Event, /) -> str | None:
        if kind_of(event.type, event.data) != b"message_start":
            return None
        found = _MESSAGE.search(event.data)
        return None if found is None else id_at_top(event.data[found.end() :], WITHIN)

    def answer_text(self, event: Event, /) -> str:
        if event.cut:
            return ""
        match kind_of(event.type, event.data):
            case b"content_block_start":
                part = object_in(decode(event.data), "content_block")
            case b"content_block_delta":
                part = object_in(decode(event.data), "delta")
            case _:
                return ""
        text = part.get("text")
        return text if isinstance(text, str) else ""

    def is_terminator(self, data: bytes, /) -> bool:
        return _STOP.fullmatch(data) is not None

    def _error_object(self, error: DialectError, request_id: str) -> dict[str, object]:
        inner = {"type": error.type or "api_error", "message": error.message or ""}
        if error.code is not None:
            inner["code"] = error.code
        return {"type": "error", "error": inner, "request_id": request_id}


def _usage(value: object) -> Usage | None:
    return usage_in(value, _FIGURES, input_has_cached=False)


def _begin(event: Event) -> Reading:
    """What the beginning of a block says, if it is a call of a tool that the client is to run."""
    if event.cut:
        _, _, block = event.data.partition(b'"tool_use"')
        call_id, name = find_name(_ID, block), find_name(_NAME, block)
    else:
        value = object_in(decode(event.data), "content_block")
        if value.get("type") != "tool_use":
            return NOTHING
        call_id, name = name_in(value, "id"), name_in(value, "name")
    return Reading(begun=(BegunCall(call_id, name, number_at_top(event.data, b'"index"')),))
