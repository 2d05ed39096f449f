"""The stream of OpenAI's Responses."""

from __future__ import annotations

import re

from .._events import Event
from ._dialect import NOTHING, BegunCall, DialectError, Reading
from ._json import WITHIN, decode, find_name, id_at_top, name_in, number_at_top, object_in, string_after, usage_object
from ._typed import TypedDialect, kind_of
from ._usage import usage_in

_RESPONSE = re.compile(rb'"response"\s*:\s*(?=\{)')
_CALL_ID = string_after(b"call_id")
_NAME = string_after(b"name")
_REASON = string_after(b"reason")
_DETAILS = re.compile(rb'"incomplete_details"\s*:\s*\{[^}]*\}')

_FIGURES = {
    "input_tokens": "input",
    "output_tokens": "output",
    "input_tokens_details.cached_tokens": "cache_read",
    "input_tokens_details.cache_write_tokens": "cache_write",
    "output_tokens_details.reasoning_tokens": "reasoning",
}


class OpenAIResponses(TypedDialect):
    """OpenAI Responses: complete when ``response.completed``, ``.incomplete`` or ``.failed`` was seen."""

    name = "openai-responses"
    last = frozenset({b"response.completed", b"response.incomplete", b"response.failed"})
    errors = frozenset({b"error", b"response.failed"})
    silent = frozenset({b"keepalive"})

    _with_id = frozenset({b"response.created", b"response.queued", b"response.in_progress", *last})

    def is_content(self, kind: bytes) -> bool:
        return kind.endswith(b".delta")

    def read_kind(self, kind: bytes, event: Event) -> Reading:
        match kind:
            case b"response.output_item.added" if b'"call_id"' in event.data:
                return Reading(begun=_begun(event))
            case b"response.output_item.done":
                place = number_at_top(event.data, b'"output_index"')
                return Reading(finished=(place,) if place else ())
            case _ if kind in self.last:
                return Reading(
                    finish=_finish(kind, event),
                    usage=usage_in(usage_object(event, "response"), _FIGURES, input_has_cached=True),
                )
            case _:
                return NOTHING

    def response_id(self, event: Event, /) -> str | None:
        if kind_of(event.type, event.data) not in self._with_id:
            return None
        found = _RESPONSE.search(event.data)
        return None if found is None else id_at_top(event.data[found.end() :], WITHIN)

    def answer_text(self, event: Event, /) -> str:
        if event.cut or kind_of(event.type, event.data) not in (
            b"response.output_text.delta",
            b"response.refusal.delta",
        ):
            return ""
        text = (decode(event.data) or {}).get("delta")
        return text if isinstance(text, str) else ""

    def _error_object(self, error: DialectError, request_id: str) -> dict[str, object]:
        # Flat, as this API documents its ``error`` event; nested as well, which is what the SDKs raise on.
        flat = {"type": "error", "code": error.code, "message": error.message, "param": None}
        return {**flat, **super()._error_object(error, request_id)}


def _begun(event: Event) -> tuple[BegunCall, ...]:
    """The call that an item is, if it is one that the client is to run: those have an id of their own."""
    if event.cut:
        call_id, name = find_name(_CALL_ID, event.data), find_name(_NAME, event.data)
    else:
        item = object_in(decode(event.data), "item")
        if not str(item.get("type")).endswith("_call"):
            return ()
        call_id, name = name_in(item, "call_id"), name_in(item, "name")
    return (BegunCall(call_id, name, number_at_top(event.data, b'"output_index"')),)


def _finish(kind: bytes, event: Event) -> str:
    """The reason, of an answer that is incomplete; else the word for the end that it is."""
    details = _DETAILS.search(event.data) if kind == b"response.incomplete" else None
    reason = None if details is None else find_name(_REASON, details[0])
    return reason or kind.removeprefix(b"response.").decode()
