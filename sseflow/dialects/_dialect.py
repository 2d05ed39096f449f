"""What a dialect is: how a kind of API speaks through SSE."""

from __future__ import annotations

import abc
import json

import attrs

from .._errors import UpstreamRefused
from .._events import Event
from .._form import Text
from ._usage import Usage

# What OpenAI and Anthropic document, and what servers that speak like them send in a stream.
_STATUS = {
    "invalid_request_error": 400,
    "context_length_exceeded": 400,
    "content_filter": 400,
    "invalid_prompt": 400,
    "previous_response_not_found": 400,
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
    "service_unavailable": 503,
    "slow_down": 503,
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
        """This error as one of ours; ``message`` is for the operator.

        Args:
            status: that it came with; if it is no error's, or None, its own, else 502.
        """
        if status is None or not 400 <= status <= 599:
            status = self.status or 502
        return UpstreamRefused(
            message,
            status=status,
            said=self.message,
            type=self.type,
            code=self.code,
            retry_after=self.retry_after,
        )


@attrs.frozen
class BegunCall:
    """A call of a tool that the client is to run."""

    id: str | None = None
    name: str | None = None

    place: tuple[int, ...] = ()
    """Where in the answer it stands: this is how later events speak of it."""

    def continues(self, earlier: BegunCall, /) -> bool:
        """Whether this is said of the call that ``earlier`` was: servers are known that name it in each piece."""
        if self.id is not None and earlier.id is not None:
            return self.id == earlier.id
        return self.place == earlier.place


@attrs.frozen
class Reading:
    """What one event says."""

    content: bool = False
    """It brings the answer forward."""

    keep_alive: bool = False
    """It only keeps the line warm."""

    ended: bool = False
    """With it the answer is complete. More may follow: usage, or the terminator."""

    final: bool = False
    """Nothing of the answer comes behind it."""

    terminator: bool = False
    """It is the dialect's own last word, and holds nothing else."""

    finish: str | None = None
    """Which end it is, in the upstream's word: ``stop``, ``length``, ``tool_calls``, ``end_turn``, ..."""

    error: DialectError | None = None

    usage: Usage | None = None
    """What has been used up to here. Figures are totals: what several events tell is never added up."""

    begun: tuple[BegunCall, ...] = ()
    """Calls of tools that begin with it, or that it names once more."""

    finished: tuple[tuple[int, ...], ...] = ()
    """Calls of tools that are whole with it: each that stands at one of these places, or at one that begins with it."""


#: What nearly all events say. Who reads many may ask whether a reading is this very one.
CONTENT = Reading(content=True)

NOTHING = Reading()
KEEP_ALIVE = Reading(keep_alive=True)


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

    usage_in_parts: bool = False
    """Whether an event may leave out figures of the usage that an earlier one told; if not, the last one tells all."""

    @abc.abstractmethod
    def read(self, event: Event, /) -> Reading:
        """Say what an event says. Of a cut one (`Event.cut`) the fields are found by their bytes."""

    @abc.abstractmethod
    def model(self, data: bytes, /) -> str | None:
        """The name of the model, if an event's data tells it."""

    def response_id(self, event: Event, /) -> str | None:
        """The id of the answer, if an event tells it; never an empty one."""
        return None

    def answer_text(self, event: Event, /) -> str:
        """What a viewer shows of an event: the answer's text, without reasoning and calls of tools.

        It decodes the event. An event that is cut (`Event.cut`) has none that could be told.
        """
        return ""

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
