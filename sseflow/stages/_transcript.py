"""Keep what went by, so that it can be read again."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from .._events import Event, EventParser
from .._stage import Stage

DEFAULT_TRANSCRIPT_LIMIT = 1024 * 1024
"""Some five thousand token events of a chat."""

_BLOCK = 8 * 1024
"""Bytes that are kept in the chunks in which they came. Small objects cost far more memory than their bytes."""

_BLANKS = (b"\n\n", b"\n\r\n", b"\r\r")


class Transcript(Stage[bytes]):
    """Keep what goes by. Of more than ``limit`` bytes the first and the last half of the limit are kept.

    Give it to a `Relay` to have what the sink is given, no more and no less; or put it anywhere among stages of bytes,
    to have what passes there.

    Args:
        limit: bytes to keep, 1 MiB by default.
    """

    def __init__(self, *, limit: int = DEFAULT_TRANSCRIPT_LIMIT) -> None:
        if limit < 0:
            raise ValueError(f"limit={limit}: must not be negative")
        self._limit = limit
        self._recent: list[bytes] = []
        self._until_settled = _BLOCK
        self._settled = 0  # bytes that went by before those of `_recent`
        self._first: list[bytes] = []
        self._room = limit // 2  # for more of the first ones
        self._last: deque[bytes] = deque()
        self._last_size = 0

    @property
    def size(self) -> int:
        """Bytes that went by."""
        return self._settled + _BLOCK - self._until_settled

    @property
    def truncated(self) -> bool:
        """Whether more went by than was kept."""
        return self.size > self._limit

    def feed(self, batch: bytes, /) -> bytes:
        self._recent.append(batch)
        self._until_settled -= len(batch)
        if self._until_settled < 0:
            self._settle()
        return batch

    def _settle(self) -> None:
        """Join what has come, each byte once, and let go of what is more than the limit."""
        self._settled = self.size
        self._until_settled = _BLOCK
        block = b"".join(self._recent)
        self._recent.clear()
        if self._room:
            self._first.append(block[: self._room])
            block = block[self._room :]
            self._room -= len(self._first[-1])
        if block:
            self._last.append(block)
            self._last_size += len(block)
        while self._last and self._last_size - len(self._last[0]) >= self._half:
            self._last_size -= len(self._last.popleft())

    @property
    def _half(self) -> int:
        """Bytes to keep of the end."""
        return self._limit - self._limit // 2

    def windows(self) -> tuple[bytes, bytes]:
        """What was kept: the first bytes, and the last ones. If nothing is missing, all of it is in the first."""
        if self._recent:
            self._settle()
        first, last = b"".join(self._first), b"".join(self._last)
        return (first, last[len(last) - self._half :]) if self.truncated else (first + last, b"")

    def events(self) -> Iterator[Event]:
        """Read the events that went by whole, and were kept."""
        first, last = self.windows()
        yield from self._parse(first)
        # What is missing ends inside of an event, as far as one can know.
        behind = [at + len(blank) for blank in _BLANKS if (at := last.find(blank)) >= 0]
        if behind:
            yield from self._parse(last[min(behind) :])

    def _parse(self, data: bytes) -> Iterator[Event]:
        parser = EventParser(max_line=self._limit + 1, max_event=self._limit + 1)
        for start in range(0, len(data), _BLOCK):
            yield from parser.feed(data[start : start + _BLOCK])
