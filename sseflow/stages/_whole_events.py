"""Let events leave whole."""

from __future__ import annotations

from .._form import Form
from .._items import End, Eof
from .._lines import BLANK, WHOLE, _content
from .._stage import Lines, Stage


class WholeEvents(Stage[Lines]):
    """Let short events leave whole or not at all, so that the client is nearly always between two events.

    The lines behind the last blank line of a batch wait for the next one. An event that a failure cuts is dropped; at a
    clean end an unfinished one leaves as it came. An event longer than ``whole``, or with a line that is too long to be
    given whole, is let go and flows.

    Args:
        whole: bytes of content of the lines that may wait, 64 KiB by default.
    """

    needs_whole_lines = False

    def __init__(self, *, whole: int = WHOLE) -> None:
        self._whole = whole
        self._held: Lines = []
        self._size = 0
        self._flows = False

    def feed(self, batch: Lines, /) -> Lines:
        if batch[-1] in BLANK:
            self._flows = False
            return self._held_and(batch)
        behind = next((i for i in range(len(batch) - 1, -1, -1) if batch[i] in BLANK), -1) + 1
        if self._flows and not behind:
            return batch
        waiting = batch[behind:]
        # Without terminators: the LF of a CRLF may come later, and what waits must not depend on that.
        size = sum(map(_content, waiting)) + (0 if behind else self._size)
        self._flows = size > self._whole
        if self._flows:
            return self._held_and(batch)
        out = self._held_and(batch[:behind]) if behind else []
        self._held += waiting
        self._size = size
        return out

    def _learn(self, form: Form) -> bool:
        return True

    def _feed_open(self, batch: Lines) -> Lines:
        if batch[-1].endswith(b"\r"):
            return self.feed(batch)
        self._flows = True
        return self._held_and(batch)

    def rest(self, piece: bytes, last: bool, /) -> None:
        if self._held:  # it is the LF of a line that ended with a CR, and waits
            self._held[-1] += piece

    def end(self, end: End, /) -> tuple[Lines | None, End]:
        return (self._held if isinstance(end, Eof) else None), end

    def _held_and(self, batch: Lines) -> Lines:
        if not self._held:
            return batch
        out = self._held + batch
        self._held = []
        self._size = 0
        return out
