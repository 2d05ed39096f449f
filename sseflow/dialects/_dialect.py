"""What a dialect is: how a kind of API speaks through SSE."""

from __future__ import annotations

import abc
import json
from collections.abc import Mapping

import attrs

from .._errors import UpstreamRefused
from .._events import Event
from .._form import Text

# What OpenAI and Anthropic document, and what servers that speak like them send in a stream.
_STATUS = {
    "invalid_request_error": 400,
    "context_length_exceeded": 400,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "model_not_found": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "api_error": 500,
    "server_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}


@attrs.frozen
class DialectError:
    """An error in a dialect's terms. Each part is as the upstream gave it, or None."""

    message: str | None = None
    type: str | None = None
    code: str | None = None

    retry_after: float | None = None
    """Seconds until it is worth trying again."""

    @property
    def status(self) -> int | None:
        """The HTTP status, 400 to 599, that its code or its type stands for; None if neither stands for one."""
        for part in (self.code, self.type):
            if part is None:
                continue
            if part.isascii() and part.isdigit() and 400 <= int(part[:4]) <= 599:
                return int(part)
            if part in _STATUS:
                return _STATUS[part]
        return None

    def refusal(self, message: str, *, status: int | None = None) -> UpstreamRefused:
        """This error as one of ours; ``message`` is for the operator. ``status`` by default its own, else 502."""
        return UpstreamRefused(
            message,
            status=status or self.status or 502,
            said=self.message,
            type=self.type,
            code=self.code,
            retry_after=self.retry_after,
        )


@attrs.frozen
class Reading:
    """What one event says."""

    content: bool = False
    """It brings the answer forward."""

    ended: bool = False
    """With it the answer is complete. More may follow: usage, or the terminator."""

    final: bool = False
    """Nothing of the answer comes behind it."""

    terminator: bool = False
    """It is the dialect's own last word, and holds nothing else."""

    error: DialectError | None = None
    usage: Mapping[str, object] | None = None
    """The usage object, as the upstream gave it."""


class Dialect(abc.ABC):
    """How a kind of API speaks through SSE. Pure: it keeps nothing from event to event."""

    name: str
    """What it is called in configurations and records."""

    ends_at_eof: bool
    """Whether a clean end of the transport between two events is all the end there is."""

    keep_alive: bytes = b":\n"
    """What keeps the line warm between two events: a comment without a blank line. Clients are known that take the
    blank line behind an ``id`` for an event without data, and break."""

    names_model: bool = True
    """Whether events can tell the name of the model."""

    @abc.abstractmethod
    def read(self, event: Event, /) -> Reading:
        """Say what an event says. Of a cut one (`Event.cut`) the fields are found by their bytes."""

    @abc.abstractmethod
    def model(self, data: bytes, /) -> str | None:
        """The name of the model, if an event's data tells it."""

    def text(self, event: Event, /) -> Text | None:
        """Where in its data an event has what differs from token to token; None: that cannot be said.

        Asked about events that bring content and nothing else. One of the same type, with the same data before and
        behind this span and another text in it, is taken to say the same without being read.
        """
        return None

    @abc.abstractmethod
    def is_terminator(self, data: bytes, /) -> bool:
        """Whether the value of a data line is the dialect's own last word."""

    @abc.abstractmethod
    def is_error(self, type: bytes, data: bytes, /) -> bool:
        """Whether an event of type ``type``, whose data is or begins with ``data``, is an error."""

    def opens(self, type: bytes, data: bytes, /) -> bool:
        """Whether a data line is worth committing to a stream for: not empty, not the end, not an error."""
        return bool(data) and not self.is_terminator(data) and not self.is_error(type, data)

    def error_body(self, error: DialectError, /, *, request_id: str) -> bytes:
        """``error`` as the JSON body of an answer with an error status."""
        return json.dumps(self._error_object(error, request_id)).encode()

    def error_event(self, error: DialectError, /, *, request_id: str) -> bytes:
        """``error`` as an event behind which the stream is over; in the form that the dialect's clients raise on."""
        return b"event: error\ndata: " + self.error_body(error, request_id=request_id) + b"\n\n"

    def _error_object(self, error: DialectError, request_id: str) -> dict[str, object]:
        inner = {"message": error.message, "type": error.type, "param": None, "code": error.code}
        return {"error": inner, "request_id": request_id}
