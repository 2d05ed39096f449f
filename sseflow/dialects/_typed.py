"""Dialects whose events have a type, and end with an event of a certain one."""

from __future__ import annotations

import abc
import re

import attrs

from .._events import MESSAGE, Event
from .._form import Text
from ._dialect import CONTENT, KEEP_ALIVE, Dialect, DialectError, Reading
from ._json import decode, error_of, model_in, object_in

# In the data the type comes first, as a rule; it is also what is left of an event that was cut.
_TYPE = re.compile(rb'\s*\{\s*"type"\s*:\s*"([a-z_.]+)"')


class TypedDialect(Dialect):
    """A dialect whose events have a type: in the ``event`` line, or, where there is none, in their JSON.

    Subclasses say which type is what. JSON is decoded only for those types that tell something.
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
        """Whether events of this type bring the answer forward, and say nothing else."""

    @abc.abstractmethod
    def read_kind(self, kind: bytes, event: Event) -> Reading:
        """What an event of this type says of usage, the finish and calls of tools."""

    def read(self, event: Event, /) -> Reading:
        kind = kind_of(event.type, event.data)
        if self.is_content(kind):
            return CONTENT
        if kind in self.silent:
            return KEEP_ALIVE
        reading = self.read_kind(kind, event)
        is_last = kind in self.last
        if not is_last and kind not in self.errors:
            return reading
        return attrs.evolve(
            reading,
            ended=is_last,
            final=is_last,
            terminator=is_last and self.is_terminator(event.data),
            error=self._error(event) if kind in self.errors else None,
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
        inner = object_in(value, "response").get("error") or value.get("error")
        return error_of(inner, around=value) if inner else error_of(value)

    def model(self, data: bytes, /) -> str | None:
        return model_in(data)

    def is_terminator(self, data: bytes, /) -> bool:
        return False

    def is_error(self, type: bytes, data: bytes, /) -> bool:
        return kind_of(type, data) in self.errors

    def opens(self, type: bytes, data: bytes, /) -> bool:
        return super().opens(type, data) and kind_of(type, data) not in self.silent


def kind_of(type: bytes, data: bytes) -> bytes:
    """The type of an event: that of its ``event`` line, or, where there is none, that in its data."""
    if type != MESSAGE:
        return type
    found = _TYPE.match(data)
    if found is not None:
        return found[1]
    kind = (decode(data) or {}).get("type")
    return kind.encode() if isinstance(kind, str) else MESSAGE
