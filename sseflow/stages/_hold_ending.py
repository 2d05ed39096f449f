"""Keep back how a stream ends."""

from __future__ import annotations

from .._errors import HeldTooMuch
from .._events import Event, Events
from .._stage import Stage
from ..dialects import Dialect

DEFAULT_ENDING_LIMIT = 1024 * 1024
"""An end is short, but that of OpenAI's Responses repeats all of the answer."""


class HoldEnding(Stage[Events]):
    """Keep back the event with which the dialect's answer is complete, and all that comes behind it.

    What is kept is in ``held``, as it came: for whoever knows whether the answer goes on.

    Args:
        dialect: says which event that is.
        limit: bytes that may be kept, 1 MiB by default. One more fails the stream with `HeldTooMuch`.
    """

    def __init__(self, dialect: Dialect, *, limit: int = DEFAULT_ENDING_LIMIT) -> None:
        self._dialect = dialect
        self._limit = limit
        self._size = 0
        self._held: Events = []

    @property
    def held(self) -> bytes:
        """What was kept back."""
        return b"".join(map(_as_it_came, self._held))

    def feed(self, batch: Events, /) -> Events:
        at = 0 if self._held else next((i for i, e in enumerate(batch) if self._dialect.read(e).ended), len(batch))
        for event in batch[at:]:
            self._size += len(_as_it_came(event))
            if self._size > self._limit:
                raise HeldTooMuch(self._limit, self._size)
            self._held.append(event)
        return batch[:at] if at < len(batch) else batch


def _as_it_came(event: Event) -> bytes:
    return event.encode() if event._lines is None else b"".join(event._lines)
