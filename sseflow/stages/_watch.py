"""Read the dialect of a stream, in one place."""

from __future__ import annotations

from .._events import MESSAGE, Event, Events
from .._form import Form
from .._stage import Stage
from ..dialects import BegunCall, Dialect, DialectError, Reading, Usage
from ..dialects._dialect import CONTENT

MAX_TOOL_CALLS = 128
"""Calls of tools that are noted of one stream; the most that the APIs let one answer have."""


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

        self.finish: str | None = None
        """Which end it was, in the upstream's own word: the last that it said."""

        self.error: DialectError | None = None
        """The first error that stood in the stream."""

        self.usage: Usage | None = None
        """What the answer has used so far."""

        self.model: str | None = None
        """The name of the model that answers, as the upstream calls it."""

        self.response_id: str | None = None
        """The id of the answer: the first that is not empty."""

        self.tool_calls: list[BegunCall] = []
        """Calls of tools that the client is to run, as they began; the first `MAX_TOOL_CALLS` of them."""

        self.open_calls: list[BegunCall] = []
        """Those of them that are not whole yet. A reason to `finish` like ``max_tokens`` may have cut the last one,
        whole or not."""

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
            if not reading.terminator:
                self.events += 1
            if reading is not CONTENT:
                self._note_facts(reading)
            if self.model is None:
                self.model = self.dialect.model(event.data)
            if self.response_id is None:
                self.response_id = self.dialect.response_id(event)
        return batch

    def _note_facts(self, reading: Reading) -> None:
        self.ended = self.ended or reading.ended
        self.terminated = self.terminated or reading.final
        self.finish = reading.finish or self.finish
        self.error = self.error or reading.error
        if reading.usage is not None:
            before = self.usage if self.dialect.usage_in_parts else None
            self.usage = reading.usage if before is None else before.updated(reading.usage)
        for call in reading.begun:
            self._begin(call)
        for place in reading.finished:
            self.open_calls = [call for call in self.open_calls if call.place[: len(place)] != place]

    def _begin(self, call: BegunCall) -> None:
        known = any(call.continues(earlier) for earlier in self.tool_calls)
        if not known and len(self.tool_calls) < MAX_TOOL_CALLS:
            self.tool_calls.append(call)
            self.open_calls.append(call)

    def _learn(self, form: Form) -> bool:
        event = Event(form.data, form.type or MESSAGE)
        text = self.dialect.text(event)
        if text is None or self.dialect.read(event) != CONTENT or not form.vary(text):
            return False
        if self.model is None and not text.string and self.dialect.names_model:
            return False  # it may be in the text

        form.notes.append(self._note)
        return True

    def _note(self, count: int, size: int, data: int) -> None:
        self.content += count
        self.events += count
