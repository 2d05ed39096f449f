"""Read the dialect of a stream, in one place."""

from __future__ import annotations

from collections.abc import Mapping

from .._events import MESSAGE, Event, Events
from .._stage import Stage
from ..dialects import Dialect, DialectError, Reading

_NOTHING_BUT_CONTENT = Reading(content=True)


class Watch(Stage[Events]):
    """Note what the events of a stream say. Put it under `Observe`: ``Observe(by_event(Watch(dialect)))``."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect

        self.events = 0
        """Events with data, without the dialect's terminator."""

        self.content = 0
        """Events that brought the answer forward: what a progress clock looks at."""

        self.ended = False
        """The dialect's own end was seen; with `PlainSSE` there is none."""

        self.terminated = False
        """Nothing of the answer can come any more: the dialect's last event was seen."""

        self.error: DialectError | None = None
        """The first error that stood in the stream."""

        self.usage: Mapping[str, object] | None = None
        """What the usage objects said, later ones over earlier ones."""

        self.model: str | None = None
        """The name of the model that answers, as the upstream calls it."""

        # What stood around the text of the last event that was nothing but text. Tokens of one stream differ in their
        # text only, so that is nearly all there is to look at. No data begins with a line end: there is none yet.
        self._before = self._behind = b"\n"

    @property
    def complete(self) -> bool:
        """Whether the stream may end here: its dialect's end was seen, or it has no end of its own."""
        return self.ended or self.dialect.ends_at_eof

    def feed(self, batch: Events, /) -> Events:
        read = self.dialect.read
        for event in batch:
            reading = read(event)
            if reading.content:
                self.content += 1
            if reading.final:
                self.terminated = True
            if not reading.terminator:
                self.events += 1
            if reading.ended:
                self.ended = True
            if reading.error is not None and self.error is None:
                self.error = reading.error
            if reading.usage is not None:
                self.usage = {**(self.usage or {}), **reading.usage}
            if self.model is None:
                self.model = self.dialect.model(event.data)
            if reading == _NOTHING_BUT_CONTENT:
                self._remember(event)
        return batch

    def _remember(self, event: Event) -> None:
        span = self.dialect.text_span(event.data) if event.type == MESSAGE and not event.cut else None
        if span is not None:
            self._before = event.data[: span[0]]
            self._behind = event.data[span[1] :]

    def _skim(self, data: bytes) -> bool:
        if not (data.startswith(self._before) and data.endswith(self._behind)):
            return False
        text = data[len(self._before) : -len(self._behind)]
        if not text or b'"' in text or text.endswith(b"\\"):  # the string may end elsewhere, or be empty
            return False
        self.content += 1
        self.events += 1
        return True
