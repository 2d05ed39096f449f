"""The stream of OpenAI's Responses."""

from __future__ import annotations

import json
import re

from .._events import Event
from ._dialect import DialectError
from ._json import as_object, decode
from ._typed import TypedDialect

_USAGE = re.compile(rb'"usage"\s*:\s*(?=\{)')


class OpenAIResponses(TypedDialect):
    """OpenAI Responses: complete when ``response.completed``, ``.incomplete`` or ``.failed`` was seen."""

    name = "openai-responses"
    last = frozenset({b"response.completed", b"response.incomplete", b"response.failed"})
    errors = frozenset({b"error", b"response.failed"})

    def is_content(self, kind: bytes) -> bool:
        return kind.endswith(b".delta")

    def usage_of(self, kind: bytes, event: Event) -> dict[str, object] | None:
        if kind not in self.last:
            return None
        if event.cut:
            return _usage_at_the_end(event.data)
        return as_object((as_object((decode(event.data) or {}).get("response")) or {}).get("usage"))

    def _error_object(self, error: DialectError, request_id: str) -> dict[str, object]:
        # Flat, as this API documents its ``error`` event; nested as well, which is what the SDKs raise on.
        flat = {"type": "error", "code": error.code, "message": error.message, "param": None}
        return {**flat, **super()._error_object(error, request_id)}


def _usage_at_the_end(data: bytes) -> dict[str, object] | None:
    """The last usage object in a window on an event: it stands behind all output."""
    found = list(_USAGE.finditer(data))
    if not found:
        return None
    try:
        value, _ = json.JSONDecoder().raw_decode(data[found[-1].end() :].decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return as_object(value)
