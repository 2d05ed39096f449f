"""The default pipeline of a proxy."""

from __future__ import annotations

from collections.abc import Callable

from ._events import by_event
from ._items import Head, is_event_stream
from ._lines import DEFAULT_MAX_LINE, by_line
from ._pipeline import DEFAULT_MAX_HELD, Pipeline
from ._stage import Observe
from .dialects import Dialect
from .stages import (
    CommentStripper,
    CommitGate,
    DataCounter,
    EofRecorder,
    ErrorMapper,
    RequireData,
    RequireEnd,
    Watch,
    WholeEvents,
)


class StandardPipeline(Pipeline):
    """The default pipeline of a proxy, with its parts at hand.

    It counts, strips comments, lets events leave whole, watches the dialect, requires data and the dialect's end, and
    holds the head until the first data. A body that is not a 2xx ``text/event-stream``, or is
    compressed, goes through untouched.

    Args:
        dialect: what the stream speaks.
        max_line: see `by_line`.
        max_held: see `Pipeline`.
        replace_error: see `ErrorMapper`; errors stay what they are by default.
        on_first_data: called when the gate meets the data it waits for.
        on_watch_error: called if the watch raises, which is a bug of its dialect.
    """

    def __init__(
        self,
        dialect: Dialect,
        *,
        max_line: int = DEFAULT_MAX_LINE,
        max_held: int = DEFAULT_MAX_HELD,
        replace_error: Callable[[Exception], Exception] = lambda error: error,
        on_first_data: Callable[[], object] | None = None,
        on_watch_error: Callable[[Exception], object] | None = None,
    ) -> None:
        def accept(type: bytes, data: bytes) -> bool:
            if not dialect.opens(type, data):
                return False
            if on_first_data is not None:
                on_first_data()
            return True

        self.counter = DataCounter()
        self.watch = Watch(dialect)
        self.gate = CommitGate(accept)
        self.recorder = EofRecorder[bytes]()
        super().__init__(
            by_line(
                self.counter,
                CommentStripper(),
                WholeEvents(),
                Observe(by_event(self.watch), on_error=on_watch_error),
                RequireData(self.watch, self.counter),
                RequireEnd(self.watch, self.counter),
                self.gate,
                max_line=max_line,
                when=_is_readable,
            ),
            ErrorMapper(replace_error),
            self.recorder,
            max_held=max_held,
        )


def _is_readable(head: Head) -> bool:
    """An event stream that is not compressed: of what is, no stage could make sense."""
    return is_event_stream(head) and (head.get(b"content-encoding") or b"identity").strip().lower() == b"identity"
