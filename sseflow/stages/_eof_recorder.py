"""Record how a stream ended."""

from __future__ import annotations

from collections.abc import Callable

from .._items import End
from .._stage import B, Stage


class EofRecorder(Stage[B]):
    """Record how the stream ended at this place of the chain: exactly once, without anybody calling close.

    Args:
        record: called with the ending, exactly once. What it raises fails the stream, like any stage.
    """

    needs_whole_lines = False

    def __init__(self, record: Callable[[End], object] | None = None) -> None:
        self._record = record

        self.ending: End | None = None
        """The ending, or None as long as the stream goes on."""

    def end(self, end: End, /) -> tuple[B | None, End]:
        self.ending = end
        if self._record is not None:
            self._record(end)
        return None, end
