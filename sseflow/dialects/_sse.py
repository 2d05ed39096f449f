"""Plain Server-Sent Events: every event is content, and the end of the transport is the end."""

from __future__ import annotations

from .._events import Event
from .._form import Text
from ._dialect import Dialect, Reading

_CONTENT = Reading(content=True)
_EMPTY = Reading()


class PlainSSE(Dialect):
    """Plain Server-Sent Events: every event with data is content, and a clean end between events is the end."""

    name = "sse"
    ends_at_eof = True

    def read(self, event: Event, /) -> Reading:
        return _CONTENT if event.size else _EMPTY

    names_model = False

    def text(self, event: Event, /) -> Text | None:
        return Text(0, len(event.data))

    def model(self, data: bytes, /) -> str | None:
        return None

    def is_terminator(self, data: bytes, /) -> bool:
        return False

    def is_error(self, type: bytes, data: bytes, /) -> bool:
        return False
