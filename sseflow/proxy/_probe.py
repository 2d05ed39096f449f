"""Whether the beginning of a stream is worth delivering, or a failure that nobody need see."""

from __future__ import annotations

from .. import EmptyStream, Eof, Failed, Observe, by_event, by_line
from ..dialects import Dialect
from ..stages import DataCounter, RequireData, RequireEnd, Watch

ENOUGH = 256 * 1024
"""Bytes of a beginning that are held. The first event of a Responses stream repeats what was asked, tools and all."""


class Probe:
    """Read the beginning of a stream, which is kept by whoever feeds it.

    Args:
        dialect: what the stream speaks.
        first_event: be content with the first event that is no error, and do not wait for content.
    """

    def __init__(self, dialect: Dialect, *, first_event: bool = False) -> None:
        self._watch = watch = Watch(dialect)
        counter = DataCounter()
        self._stages = by_line(
            counter, Observe(by_event(watch)), RequireData(watch, counter), RequireEnd(watch, counter), max_line=ENOUGH
        )
        self._first_event = first_event
        self._size = 0

    @property
    def has_events(self) -> bool:
        """Whether there is something to deliver, though it may be no content."""
        return self._watch.events > 0

    def feed(self, data: bytes) -> bool:
        """Whether it is worth delivering now: it has content, or an end behind events, or is too long to be held.

        Raises:
            UpstreamRefused: it begins with an error.
            EmptyStream: it has its end, and nothing before it.
        """
        self._size += len(data)
        if self._size > ENOUGH:
            return True
        self._stages.feed(data)
        watch = self._watch
        if watch.content:
            return True
        if watch.error is not None:
            raise watch.error.refusal("the upstream began its stream with an error")
        if watch.terminated and not watch.events:
            raise EmptyStream("the stream held nothing but its end")
        return watch.events > 0 and (watch.ended or self._first_event)

    def end(self) -> None:
        """Say that it has ended cleanly.

        Raises:
            StreamError: it has no right to.
        """
        _, end = self._stages.end(Eof())
        if isinstance(end, Failed):
            raise end.error
