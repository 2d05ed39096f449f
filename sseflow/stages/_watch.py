"""Read the dialect of a stream, in one place."""

from __future__ import annotations

from collections.abc import Mapping

from .._events import MESSAGE, Event, Events
from .._form import Form
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
        return batch

    def _learn(self, form: Form) -> bool:
        event = Event(form.data, form.type or MESSAGE)
        if self.dialect.read(event) != _NOTHING_BUT_CONTENT:
            return False
        text = self.dialect.text(event)
        if text is None or not form.vary(text):
            return False
        if self.model is None and not text.string and self.dialect.names_model:
            return False  # it may be in the text

        form.notes.append(self._note)
        return True

    def _note(self, count: int, size: int, data: int) -> None:
        self.content += count
        self.events += count
