"""The default pipeline of a proxy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

from ._errors import UpstreamRefused
from ._events import DEFAULT_MAX_EVENT, Events, by_event
from ._items import End, Eof, Failed, Head, is_event_stream
from ._lines import DEFAULT_MAX_LINE, by_line
from ._pipeline import DEFAULT_MAX_HELD, Pipeline
from ._stage import Lines, Observe, Stage
from .dialects import Dialect, DialectError
from .stages import (
    CommentStripper,
    CommitGate,
    DataCounter,
    EofRecorder,
    ErrorMapper,
    EventLimit,
    RequireData,
    RequireEnd,
    Watch,
    WholeEvents,
)

#: What the head waits for: the first content, the first event with data whatever it says, or nothing.
Gate: TypeAlias = Literal["content", "first_event", "off"]


class StandardPipeline(Pipeline):
    """The default pipeline of a proxy, with its parts at hand.

    It counts, strips comments, bounds events, watches the dialect, requires data and the dialect's end, lets events
    leave whole, and holds the head until the first data. A stream that has an error before that fails with
    `UpstreamRefused`. A body that is not a 2xx ``text/event-stream``, or is compressed, goes through untouched.

    Args:
        dialect: what the stream speaks.
        gate: what the head waits for.
        strip: whether comments are dropped.
        edit: stages that change events, if there are any; they see what the gate has not seen yet.
        max_line: see `by_line`.
        max_event: see `EventLimit`.
        max_held: see `Pipeline`.
        replace_error: see `ErrorMapper`; errors stay what they are by default.
        on_first_data: called when the gate meets the data it waits for.
        on_refused: called when there is an error in the stream before that. A clean end behind it will be a failure,
            which there is no need to wait for.
        on_watch_error: called if the watch raises, which is a bug of its dialect.
    """

    def __init__(
        self,
        dialect: Dialect,
        *,
        gate: Gate = "content",
        strip: bool = True,
        edit: Sequence[Stage[Events]] = (),
        max_line: int = DEFAULT_MAX_LINE,
        max_event: int = DEFAULT_MAX_EVENT,
        max_held: int = DEFAULT_MAX_HELD,
        replace_error: Callable[[Exception], Exception] = lambda error: error,
        on_first_data: Callable[[], object] | None = None,
        on_refused: Callable[[UpstreamRefused], object] | None = None,
        on_watch_error: Callable[[Exception], object] | None = None,
    ) -> None:
        opens = dialect.opens if gate == "content" else _is_data

        def accept(type: bytes, data: bytes) -> bool:
            if refuse.refused:
                return False
            if dialect.is_error(type, data):
                refuse.refused = True
                if on_refused is not None:
                    on_refused(refuse.error)
                return False
            if not opens(type, data):
                return False
            if on_first_data is not None:
                on_first_data()
            return True

        self.counter = DataCounter()
        self.watch = Watch(dialect)
        self.gate = CommitGate(accept)
        if gate == "off":
            self.gate.open()
        refuse = _Refuse(self.watch, self.gate)
        self.recorder = EofRecorder[bytes]()
        stages: list[Stage[Lines]] = [
            self.counter,
            *([CommentStripper()] if strip else []),
            EventLimit(max_event=max_event),
            Observe(by_event(self.watch), on_error=on_watch_error),
            RequireData(self.watch, self.counter),
            RequireEnd(self.watch, self.counter),
            WholeEvents(),
            *([by_event(*edit)] if edit else []),
            refuse,
            self.gate,
        ]
        super().__init__(
            by_line(*stages, max_line=max_line, when=_is_readable),
            ErrorMapper(replace_error),
            self.recorder,
            max_held=max_held,
        )


def _is_data(type: bytes, data: bytes) -> bool:
    return bool(data)


class _Refuse(Stage[Lines]):
    """Make a failure of a clean end behind an error that stood in the stream while the gate was shut."""

    needs_whole_lines = False

    def __init__(self, watch: Watch, gate: CommitGate) -> None:
        self._watch = watch
        self._gate = gate
        self.refused = False

    @property
    def error(self) -> UpstreamRefused:
        said = self._watch.error or DialectError()  # the watch has not read all of a very long event yet
        return said.refusal("the upstream began its stream with an error")

    def end(self, end: End, /) -> tuple[Lines | None, End]:
        if self.refused and isinstance(end, Eof) and not self._gate.is_open:
            return None, Failed(self.error)
        return None, end


def _is_readable(head: Head) -> bool:
    """An event stream that is not compressed: of what is, no stage could make sense."""
    codings = [value.strip().lower() for name, value in head.headers if name.lower() == b"content-encoding"]
    return is_event_stream(head) and all(coding in (b"", b"identity") for coding in codings)
