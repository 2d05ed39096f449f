"""What flows through a pipeline: at most one head, then bytes, then exactly one ending."""

from __future__ import annotations

from typing import TypeAlias

import attrs


@attrs.frozen
class Head:
    """The head of a response: its status and its header fields.

    Field names are compared without regard to case; they and their values are bytes, as they came.
    """

    status: int
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def get(self, name: bytes) -> bytes | None:
        """The value of the first field called ``name``, or None."""
        name = name.lower()
        for key, value in self.headers:
            if key.lower() == name:
                return value
        return None

    def without(self, *names: bytes) -> Head:
        """The same head without the fields called ``names``; this very head if it has none of them."""
        drop = {name.lower() for name in names}
        kept = tuple(field for field in self.headers if field[0].lower() not in drop)
        return self if len(kept) == len(self.headers) else Head(self.status, kept)


@attrs.frozen
class Eof:
    """The source finished cleanly."""


@attrs.frozen
class Failed:
    """The source, or a stage, raised ``error``."""

    error: Exception


@attrs.frozen
class Closed:
    """The reader left before the source had finished."""


@attrs.frozen
class Cancelled:
    """The reader was cancelled before the source had finished."""


#: How a stream ended. ``match`` on it, with ``assert_never``.
End: TypeAlias = Eof | Failed | Closed | Cancelled

#: What a pipeline lets out.
Item: TypeAlias = Head | bytes | End


def is_event_stream(head: Head, /) -> bool:
    """Whether ``head`` is a 2xx answer whose media type is exactly ``text/event-stream``.

    Parameters are ignored and case does not matter (RFC 9110, section 8.3.1).
    """
    if not 200 <= head.status < 300:
        return False
    content_type = head.get(b"content-type") or b""
    return content_type.partition(b";")[0].strip().lower() == b"text/event-stream"
