"""Every error that sseflow raises of its own.

::

    Error
    ├── StreamError                   what is wrong with a stream
    │   ├── TooLong                   a limit was passed; names it, its knob and the bytes seen
    │   │   ├── LineTooLong
    │   │   ├── EventTooLong
    │   │   ├── HeldTooMuch
    │   │   └── InflatesTooMuch       compressed, and far longer than it looked
    │   ├── EmptyStream               it ended cleanly and held no data
    │   ├── Truncated                 it ended cleanly before its dialect's end
    │   └── CutMidEvent               it ended cleanly inside an event
    ├── UpstreamError                 the upstream failed; ``status`` is what a client should see
    │   ├── UpstreamLost              refused, reset, no such name, TLS, closed too early (502)
    │   ├── UpstreamProtocolError     it does not speak HTTP as the standard has it (502)
    │   ├── UpstreamTimeout           a deadline passed (504)
    │   │   ├── IdleTimeout           it sent nothing for too long
    │   │   └── ProgressTimeout       it sent nothing of an answer for too long, though it did send something
    │   └── UpstreamRefused           it answered with an error of its own, by its status or in its stream
    ├── RequestError                  the client's request is refused; ``status`` says how (4xx, 5xx)
    └── ConfigurationError            an option is wrong; the message says which, and what would be right

Misuse of a stream raises Trio's own three (`trio.ClosedResourceError`, `trio.BusyResourceError`,
`trio.BrokenResourceError`).
"""

from __future__ import annotations


class Error(Exception):
    """The root of all errors of sseflow."""


class StreamError(Error):
    """A stream is not what it should be."""


class TooLong(StreamError):
    """Something in a stream is longer than its limit.

    Args:
        limit: the limit's value, in bytes.
        seen: how many bytes had been seen when it was passed; at least ``limit + 1``.
    """

    knob = "limit"
    """The name of the option that sets the limit."""

    what = "something"
    """What was too long, as a person would say it."""

    def __init__(self, limit: int, seen: int) -> None:
        super().__init__(limit, seen)
        self.limit = limit
        self.seen = seen

    def __str__(self) -> str:
        return f"{self.what} is longer than {self.knob}={self.limit} bytes allows: {self.seen} bytes were seen"


class LineTooLong(TooLong):
    """A line's content is longer than ``max_line``."""

    knob = "max_line"
    what = "a line"


class EventTooLong(TooLong):
    """An event's lines are longer than ``max_event``."""

    knob = "max_event"
    what = "an event"


class HeldTooMuch(TooLong):
    """A pipeline whose head was held back had to keep more than ``max_held``."""

    knob = "max_held"
    what = "what is held behind the head"


class InflatesTooMuch(TooLong):
    """A compressed stream is far longer than it looked.

    Args:
        knob: ``max_ratio``, whose limit counts bytes of output for each of input, or ``max_decoded``.
    """

    def __init__(self, limit: int, seen: int, knob: str = "max_ratio") -> None:
        super().__init__(limit, seen)
        self.args = (limit, seen, knob)
        self.knob = knob

    def __str__(self) -> str:
        return f"the compressed stream inflates to {self.seen} bytes, more than {self.knob}={self.limit} allows"


class EmptyStream(StreamError):
    """A stream ended cleanly without one data event (its dialect's end does not count as one)."""


class Truncated(StreamError):
    """A stream ended cleanly before its dialect's end."""


class CutMidEvent(StreamError):
    """A stream ended cleanly inside an event."""


class UpstreamError(Error):
    """The upstream failed.

    Args:
        message: what happened, in words for an operator.
        reason: the error type of RFC 9209, section 2.3, in its spelling (``connection_refused``).
    """

    status: int = 502
    """The HTTP status that a client should see, if it has not seen one yet."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class UpstreamLost(UpstreamError):
    """The connection to the upstream could not be made, or was lost."""


class UpstreamProtocolError(UpstreamError):
    """The upstream sent what is not a response by the standard."""


class UpstreamTimeout(UpstreamError):
    """A deadline for the upstream passed."""

    status = 504


class IdleTimeout(UpstreamTimeout):
    """The upstream sent nothing for too long."""


class ProgressTimeout(UpstreamTimeout):
    """The upstream sent no content for too long: it keeps the line warm, and generates nothing."""


class UpstreamRefused(UpstreamError):
    """The upstream answered with an error of its own, by its status or in its stream.

    Args:
        message: what happened, in words for an operator.
        status: what a client should see, 400 to 599.
        said, type, code: the error's message, type and code as the upstream gave them, or None.
        retry_after: the seconds that it asked to be left alone for, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        said: str | None = None,
        type: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, reason="http_request_error" if status < 500 else "destination_unavailable")
        self.status = status
        self.said = said
        self.type = type
        self.code = code
        self.retry_after = retry_after


class RequestError(Error):
    """The client's request is refused.

    Args:
        status: the HTTP status to answer with, 400 to 599.
        message: what is wrong, in words for the client's user; never a value that the client sent.
        close: whether the connection must be closed, since its framing is in doubt.
    """

    def __init__(self, status: int, message: str, *, close: bool = True) -> None:
        super().__init__(message)
        self.status = status
        self.close = close


class ConfigurationError(Error):
    """An option is wrong. The message says which one, and what would be right."""
