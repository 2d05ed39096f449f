"""Plain Server-Sent Events: every event is content, and the end of the transport is the end."""

from __future__ import annotations

from .._events import Event
from .._form import Text
from ._dialect import CONTENT, NOTHING, Dialect, Reading


class PlainSSE(Dialect):
    """Plain Server-Sent Events: every event with data is content, and a clean end between events is the end."""

    name = "sse"
    ends_at_eof = True

    def read(self, event: Event, /) -> Reading:
        return CONTENT if event.size else NOTHING

    names_model = False

    def answer_text(self, event: Event, /) -> str:
        return "" if event.cut else event.text

    def text(self, event: Event, /) -> Text | None:
        return Text(0, len(event.data))

    def model(self, data: bytes, /) -> str | None:
        return None

    def is_terminator(self, data: bytes, /) -> bool:
        return False

    def is_error(self, type: bytes, data: bytes, /) -> bool:
        return False
