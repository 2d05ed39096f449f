"""Know what must come out of a relay, and see the first byte that does not."""

from __future__ import annotations

import bisect
import itertools
import sys
from typing import TypeAlias

from .processes import Wrong
from .shapes import Shape, frame

RECV = 256 * 1024
"""The most that is checked at once."""

LAST_CHUNK = b"0\r\n\r\n"

_EVENT = b"data: {"

Bytes: TypeAlias = bytes | memoryview


class Script:
    """A shape on the wire: what is sent, and what must come of it.

    Args:
        http: in chunks of HTTP, with the last chunk behind the tail.
        stripped: what comes is what the default pipeline lets out.
    """

    def __init__(self, shape: Shape, *, http: bool, stripped: bool) -> None:
        kept = shape.kept if stripped and shape.kept is not None else shape.body
        self.http = http
        self.pieces = [frame(chunk) if http else chunk for chunk in shape.body]
        self.ring = _wheel(self.pieces)
        self.ring_size = sum(map(len, self.pieces))
        self.tail = b"".join(map(frame, shape.tail)) + LAST_CHUNK if http else b"".join(shape.tail)
        self.events_per_piece = shape.events / len(shape.body)

        self.expected = [frame(chunk) if http else chunk for chunk in kept]
        self.raw = self.ring if self.expected == self.pieces else _wheel(self.expected)
        self.payload = _wheel(kept) if http else self.raw
        self.payload_tail = b"".join(shape.tail)
        self.raw_ends = list(itertools.accumulate(map(len, self.expected), initial=0))
        self.payload_ends = list(itertools.accumulate(map(len, kept), initial=0))

    def raw_size(self, pieces: int) -> int:
        """Bytes of what comes of so many pieces, if it comes in the chunks that are expected."""
        return _total(self.raw_ends, pieces)

    def payload_size(self, pieces: int) -> int:
        """Bytes of payload that come of so many pieces."""
        return _total(self.payload_ends, pieces)


def _wheel(pieces: tuple[bytes, ...] | list[bytes]) -> bytes:
    """The pieces, over and over, so long that whatever is read at once from a ring of them is found in one place."""
    once = b"".join(pieces)
    return (once * (RECV // len(once) + 2))[: len(once) + RECV]


def _total(ends: list[int], pieces: int) -> int:
    rounds, rest = divmod(pieces, len(ends) - 1)
    return rounds * ends[-1] + ends[rest]


class Check:
    """Hold what is received against a script.

    As long as it comes in the very chunks that are expected, that is one comparison of memory per read. From the first
    read that does not, chunks are taken apart and their payload is compared: how a relay cuts them is its own affair.

    Args:
        pieces: how many there will be of the body; None: `end` will say.
    """

    def __init__(self, script: Script, pieces: int | None = None) -> None:
        self._script = script
        self._raw_limit = self._payload_limit = sys.maxsize
        self._raw_taken = 0
        self._payload_taken = 0
        self._tail_taken = 0
        self._verbatim = True
        self._held = b""
        self._chunk_left = 0
        self._last_seen = False
        if pieces is not None:
            self.end(pieces)

    @property
    def done(self) -> bool:
        """Whether the whole stream has come, and, of one in chunks, its last chunk."""
        return (
            self._tail_taken == len(self._script.payload_tail)
            and self._payload_taken == self._payload_limit
            and (self._last_seen or not self._script.http)
        )

    @property
    def payload(self) -> int:
        """Bytes of payload that have come."""
        if self._verbatim:
            self._leave_verbatim()
        return self._payload_taken + self._tail_taken

    def has(self, pieces: int) -> bool:
        """Whether so many pieces have come whole."""
        return self.payload >= self._script.payload_size(pieces)

    def end(self, pieces: int) -> None:
        """Say how many pieces of the body there are before the tail."""
        self._raw_limit = self._script.raw_size(pieces)
        self._payload_limit = self._script.payload_size(pieces)

    def skip(self, pieces: int) -> None:
        """So many pieces have come as they were expected: somebody else has looked. Only before the first `take`."""
        self._raw_taken = self._script.raw_size(pieces)

    def take(self, data: Bytes) -> None:
        """Check what has been received.

        Raises:
            Wrong: it is not what must come.
        """
        script = self._script
        if self._verbatim:
            taken = self._raw_taken + len(data)
            if taken <= self._raw_limit and script.raw.startswith(data, self._raw_taken % script.raw_ends[-1]):
                self._raw_taken = taken
                return
            self._leave_verbatim()
        if script.http:
            self._dechunk(self._held + bytes(data))
        else:
            self._compare(bytes(data))

    def eof(self) -> None:
        """The connection has ended.

        Raises:
            Wrong: it should not have.
        """
        if self._verbatim:
            self._leave_verbatim()
        if not self.done:
            raise Wrong(f"a stream ended after {self.payload} bytes of payload, before its end")

    def _leave_verbatim(self) -> None:
        script = self._script
        self._verbatim = False
        rounds, at = divmod(self._raw_taken, script.raw_ends[-1])
        piece = bisect.bisect_right(script.raw_ends, at) - 1
        self._payload_taken = rounds * script.payload_ends[-1] + script.payload_ends[piece]
        begun = script.raw[script.raw_ends[piece] : at]
        if script.http:
            self._dechunk(begun)
        else:
            self._compare(begun)

    def _dechunk(self, data: bytes) -> None:
        self._held = b""
        at = 0 if self._chunk_left else self._whole_chunks(data)
        while at < len(data):
            if self._chunk_left > 2:
                piece = data[at : at + self._chunk_left - 2]
                self._compare(piece)
                at += len(piece)
                self._chunk_left -= len(piece)
            elif self._chunk_left:
                piece = data[at : at + self._chunk_left]
                if not b"\r\n".endswith(piece + b"\r\n"[2 - self._chunk_left + len(piece) :]):
                    raise Wrong(f"a chunk is followed by {piece!r}, which is no line end")
                at += len(piece)
                self._chunk_left -= len(piece)
                if not self._chunk_left:
                    at = self._whole_chunks(data, at)
            elif data.startswith(LAST_CHUNK, at) and not self._last_seen:
                self._last_seen = True
                at += len(LAST_CHUNK)
            else:
                stop = data.find(b"\r\n", at)
                if self._last_seen or stop - at > 16 or (stop < 0 and len(data) - at > 17):
                    raise Wrong(f"behind a chunk there is {data[at : at + 40]!r}")
                if stop < 0 or data[at:stop] == b"0":
                    self._held = data[at:]
                    return
                self._chunk_left = int(data[at:stop], 16) + 2
                at = stop + 2

    def _whole_chunks(self, data: bytes, at: int = 0) -> int:
        """Take chunks of the body, from ``at`` on, as long as all is plain; returns where the rest begins.

        Nearly all chunks are plain. There is a short way for them, because a relay that makes many of what it is sent
        must not be held up by who checks it.
        """
        view = memoryview(data)
        payload, ring = self._script.payload, self._script.payload_ends[-1]
        taken, limit = self._payload_taken, self._payload_limit
        while (stop := data.find(b"\r\n", at, at + 18)) > at:
            size = int(data[at:stop], 16)
            end = stop + 2 + size
            plain = 0 < size <= min(RECV, limit - taken) and data.startswith(b"\r\n", end)
            if not plain or not payload.startswith(view[stop + 2 : end], taken % ring):
                break
            taken += size
            at = end + 2
        self._payload_taken = taken
        return at

    def _compare(self, data: bytes) -> None:
        script = self._script
        while data:
            room = self._payload_limit - self._payload_taken
            part = data[: min(room, RECV)] if room else data
            if room:
                right = script.payload.startswith(part, self._payload_taken % script.payload_ends[-1])
                self._payload_taken += len(part)
            else:
                right = script.payload_tail.startswith(part, self._tail_taken)
                self._tail_taken += len(part)
            if not right:
                before = self._payload_taken + self._tail_taken - len(part)
                raise Wrong(f"what came in the {len(part)} bytes behind byte {before} is not what was sent")
            data = data[len(part) :]


class Count:
    """Count the events of a stream, where what is between writes each of them anew and none can be compared.

    Args:
        pieces: how many there will be of the body; None: `end` will say.
    """

    def __init__(self, script: Script, pieces: int | None = None) -> None:
        self._per_piece = script.events_per_piece
        self._events: float = 0
        self._last = b""
        self._limit = sys.maxsize
        self.payload = 0
        """Bytes that have come, chunks and all."""
        if pieces is not None:
            self.end(pieces)

    @property
    def done(self) -> bool:
        """Whether at least as many events have come as were sent, and the last chunk."""
        return self._events >= self._limit and self._last.endswith(LAST_CHUNK)

    def has(self, pieces: int) -> bool:
        """Whether the events of so many pieces have come."""
        return self._events >= pieces * self._per_piece

    def end(self, pieces: int) -> None:
        """Say how many pieces of the body there are before the tail."""
        self._limit = int(pieces * self._per_piece)

    def skip(self, pieces: int) -> None:
        """So many pieces have come, and somebody else has counted. Only before the first `take`."""
        self._events = pieces * self._per_piece

    def take(self, data: Bytes) -> None:
        """Count what has been received."""
        # An event begins with `data: {`, and no content of ours holds that: it stands there with its quotes escaped.
        text = self._last + bytes(data)
        self._events += text.count(_EVENT) - self._last.count(_EVENT)
        self._last = text[-len(_EVENT) - len(LAST_CHUNK) :]
        self.payload += len(data)

    def eof(self) -> None:
        """The connection has ended.

        Raises:
            Wrong: it should not have.
        """
        if not self.done:
            raise Wrong(f"a stream ended after {self._events:g} events, before its end")
