"""Say what a clean end means."""

from __future__ import annotations

from .._errors import CutMidEvent, EmptyStream, Truncated
from .._items import End, Eof, Failed
from .._stage import B, Stage
from ._data_counter import DataCounter
from ._watch import Watch


class RequireData(Stage[B]):
    """Make a failure, `EmptyStream`, of a clean end before which there was no data.

    A stream of comments is empty, and so is one of nothing but its dialect's terminator.
    """

    needs_whole_lines = False

    def __init__(self, watch: Watch, counter: DataCounter) -> None:
        self._watch = watch
        self._counter = counter

    def end(self, end: End, /) -> tuple[B | None, End]:
        if isinstance(end, Eof) and not self._watch.events and not self._counter.in_event:
            return None, Failed(EmptyStream("the stream ended cleanly and held no data"))
        return None, end


class RequireEnd(Stage[B]):
    """Make a failure of a clean end that is not the dialect's: `CutMidEvent` inside an event, else `Truncated`.

    Behind the dialect's end, or an error in the stream, an unfinished event is let pass: the answer is known.
    """

    needs_whole_lines = False

    def __init__(self, watch: Watch, counter: DataCounter) -> None:
        self._watch = watch
        self._counter = counter

    def end(self, end: End, /) -> tuple[B | None, End]:
        if not isinstance(end, Eof) or self._watch.ended or self._watch.error is not None:
            return None, end
        if self._counter.in_event:
            return None, Failed(CutMidEvent("the stream ended cleanly inside an event"))
        if not self._watch.complete:
            return None, Failed(
                Truncated(f"the stream ended cleanly before the end that {self._watch.dialect.name} has")
            )
        return None, end
