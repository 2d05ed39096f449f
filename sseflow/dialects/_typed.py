"""Dialects whose events have a type, and end with an event of a certain one."""

from __future__ import annotations

import abc
import re

from .._events import MESSAGE, Event
from .._form import Text
from ._dialect import Dialect, DialectError, Reading
from ._json import decode, error_of, model_in

# In the data the type comes first, as a rule; it is also what is left of an event that was cut.
_TYPE = re.compile(rb'\s*\{\s*"type"\s*:\s*"([a-z_.]+)"')

_READ_CONTENT = Reading(content=True)
_READ_NOTHING = Reading()


class TypedDialect(Dialect):
    """A dialect whose events have a type: in the ``event`` line, or, where there is none, in their JSON.

    Subclasses say which type is what. JSON is decoded only for errors and for types that may tell the usage.
    """

    ends_at_eof = False

    last: frozenset[bytes]
    """Types of events behind which nothing comes: with them the answer is complete."""

    errors: frozenset[bytes]
    """Types of events that are errors."""

    silent: frozenset[bytes] = frozenset()
    """Types of events that only keep the line warm."""

    @abc.abstractmethod
    def is_content(self, kind: bytes) -> bool:
        """Whether events of this type bring the answer forward."""

    @abc.abstractmethod
    def usage_of(self, kind: bytes, event: Event) -> dict[str, object] | None:
        """The usage that an event tells, if events of its type can."""

    def read(self, event: Event, /) -> Reading:
        kind = _kind(event.type, event.data)
        if self.is_content(kind):
            return _READ_CONTENT
        usage = self.usage_of(kind, event)
        is_last = kind in self.last
        if kind not in self.errors and not is_last and usage is None:
            return _READ_NOTHING
        return Reading(
            ended=is_last,
            final=is_last,
            terminator=is_last and self.is_terminator(event.data),
            error=self._error(event) if kind in self.errors else None,
            usage=usage,
        )

    def text(self, event: Event, /) -> Text | None:
        # Nothing counts but the type.
        found = _TYPE.match(event.data) if event.type == MESSAGE else None
        start = found.end() if found is not None else 0
        return Text(start, len(event.data)) if event.type != MESSAGE or start else None

    def _error(self, event: Event) -> DialectError:
        value = decode(event.data)
        if value is None:
            return DialectError()
        response = value.get("response")
        inner = response.get("error") if isinstance(response, dict) else value.get("error")
        return error_of(inner or value)

    def model(self, data: bytes, /) -> str | None:
        return model_in(data)

    def is_terminator(self, data: bytes, /) -> bool:
        return False

    def is_error(self, type: bytes, data: bytes, /) -> bool:
        return _kind(type, data) in self.errors

    def opens(self, type: bytes, data: bytes, /) -> bool:
        return super().opens(type, data) and _kind(type, data) not in self.silent


def _kind(type: bytes, data: bytes) -> bytes:
    if type != MESSAGE:
        return type
    found = _TYPE.match(data)
    if found is not None:
        return found[1]
    kind = (decode(data) or {}).get("type")
    return kind.encode() if isinstance(kind, str) else MESSAGE
