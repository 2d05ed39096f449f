"""What a dialect is: how a kind of API speaks through SSE."""

from __future__ import annotations

import abc
from collections.abc import Mapping

import attrs

from .._events import Event


@attrs.frozen
class DialectError:
    """An error that stands in the stream itself. Each part is as the upstream gave it, or None."""

    message: str | None = None
    type: str | None = None
    code: str | None = None


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

    @abc.abstractmethod
    def read(self, event: Event, /) -> Reading:
        """Say what an event says. Of a cut one (`Event.cut`) the fields are found by their bytes."""

    @abc.abstractmethod
    def model(self, data: bytes, /) -> str | None:
        """The name of the model, if an event's data tells it."""

    def text_span(self, data: bytes, /) -> tuple[int, int] | None:
        """Where, in an event's data, the JSON string stands that holds its text, without the quotes; None: nowhere.

        Asked about events that bring content and nothing else. One that is the same before and behind this span, and
        has another string in it, is taken to say the same without being read.
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
