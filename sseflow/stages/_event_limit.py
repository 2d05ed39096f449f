"""Bound the length of an event."""

from __future__ import annotations

from .._errors import EventTooLong
from .._events import DEFAULT_MAX_EVENT
from .._form import Form
from .._lines import BLANK
from .._stage import Cut, Lines, Stage


class EventLimit(Stage[Lines]):
    """Fail a stream whose event goes on though it is too long already. Clients hold an event until it is whole.

    A line is let pass to its end, whose length is the affair of `by_line`; the one behind it fails the stream, and the
    lines before that have been let out.

    Args:
        max_event: bytes of the lines of one event, comments among them if they come here; 32 MiB by default.

    Raises, into the pipeline, `EventTooLong`.
    """

    needs_whole_lines = False

    def __init__(self, *, max_event: int = DEFAULT_MAX_EVENT) -> None:
        if max_event < 1:
            raise ValueError(f"max_event={max_event}: must be at least 1")
        self._max_event = max_event
        self._size = 0

    def feed(self, batch: Lines, /) -> Lines:
        if batch[-1] in BLANK and self._size + sum(map(len, batch)) <= self._max_event:
            self._size = 0
            return batch
        for i, line in enumerate(batch):
            if line in BLANK:
                self._size = 0
            elif self._size > self._max_event:
                raise Cut(batch[:i], EventTooLong(self._max_event, self._size))
            else:
                self._size += len(line)
        return batch

    def _learn(self, form: Form) -> bool:
        return True  # nothing but the blank line comes behind the line that may be of another length

    def rest(self, piece: bytes, last: bool, /) -> None:
        if self._size:  # else it is the LF of a blank line that ended with a CR
            self._size += len(piece)
