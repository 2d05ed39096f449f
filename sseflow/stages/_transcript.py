"""Keep what went by, so that it can be read again."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from .._events import Event, EventParser
from .._stage import Stage

DEFAULT_TRANSCRIPT_LIMIT = 1024 * 1024
"""Some five thousand token events of a chat."""

_PIECE = 8 * 1024
"""Bytes that are parsed at a time."""

_PARTS = 64
"""Pieces that are put away at a time, and joined if they are short."""

_LONG = 512
"""Bytes that they have on the average to stay what they are."""

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
        self._first = b""  # half of the limit, once more than the limit has come
        self._blocks = deque[bytes]()  # what came behind that
        self._parts: list[bytes] = []  # and behind that, as it came
        self._held = 0  # bytes of these two
        self._most = limit  # of them before some have to go
        self._gone = 0

    @property
    def size(self) -> int:
        """Bytes that went by."""
        return len(self._first) + self._gone + self._held

    @property
    def truncated(self) -> bool:
        """Whether more went by than was kept."""
        return self.size > self._limit

    def feed(self, batch: bytes, /) -> bytes:
        # One buffer that grows would copy all that it holds again and again.
        self._parts.append(batch)
        self._held += len(batch)
        if len(self._parts) >= _PARTS or self._held > self._most:
            self._put_away()
        return batch

    def _put_away(self) -> None:
        parts, self._parts = self._parts, []
        # Many small objects need several times the memory of their bytes.
        self._blocks.extend([b"".join(parts)] if sum(map(len, parts)) < len(parts) * _LONG else parts)
        if self._held > self._most:
            self._trim()

    def _trim(self) -> None:
        if not self._gone:
            self._first = b"".join(self._take(self._limit // 2))
        self._gone += sum(map(len, self._take(self._held - self._half)))
        # Not each time: linear, whatever the drip.
        self._most = self._half + self._half // 4

    def _take(self, size: int) -> list[bytes]:
        """Take the first ``size`` bytes away from what is held."""
        taken = []
        self._held -= size
        while size:
            block = self._blocks.popleft()
            if len(block) > size:
                self._blocks.appendleft(block[size:])
                block = block[:size]
            taken.append(block)
            size -= len(block)
        return taken

    @property
    def _half(self) -> int:
        """Bytes to keep of the end."""
        return self._limit - self._limit // 2

    def windows(self) -> tuple[bytes, bytes]:
        """What was kept: the first bytes, and the last ones. If nothing is missing, all of it is in the first."""
        held = b"".join([*self._blocks, *self._parts])
        if not self.truncated:
            return held, b""
        return self._first, held[len(held) - self._half :]

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
        for start in range(0, len(data), _PIECE):
            yield from parser.feed(data[start : start + _PIECE])
