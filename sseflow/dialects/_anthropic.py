"""The stream of Anthropic's Messages."""

from __future__ import annotations

import re

from .._events import Event
from ._dialect import DialectError
from ._json import as_object, decode
from ._typed import TypedDialect

_STOP = re.compile(rb'\s*\{\s*"type"\s*:\s*"message_stop"\s*\}\s*')


class AnthropicMessages(TypedDialect):
    """Anthropic Messages: complete when ``message_stop`` was seen. Pings are no content, and open no gate."""

    name = "anthropic"
    last = frozenset({b"message_stop"})
    errors = frozenset({b"error"})
    silent = frozenset({b"ping"})
    keep_alive = b'event: ping\ndata: {"type": "ping"}\n\n'

    def is_content(self, kind: bytes) -> bool:
        return kind == b"content_block_delta"

    def usage_of(self, kind: bytes, event: Event) -> dict[str, object] | None:
        if kind not in (b"message_start", b"message_delta"):
            return None
        value = decode(event.data) or {}
        return as_object((as_object(value.get("message")) or value).get("usage"))

    def is_terminator(self, data: bytes, /) -> bool:
        return _STOP.fullmatch(data) is not None

    def _error_object(self, error: DialectError, request_id: str) -> dict[str, object]:
        inner = {"type": error.type or "api_error", "message": error.message or ""}
        return {"type": "error", "error": inner, "request_id": request_id}
