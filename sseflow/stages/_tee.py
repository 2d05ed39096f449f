"""Keep a bounded copy of a stream."""

from __future__ import annotations

from .._stage import Stage


class Tee(Stage[bytes]):
    """Keep a copy: the first ``first`` and the last ``last`` bytes. What is missing between them is marked.

    Args:
        first: bytes of the beginning to keep, 32 KiB by default.
        last: bytes of the end to keep, 32 KiB by default.
    """

    def __init__(self, *, first: int = 32 * 1024, last: int = 32 * 1024) -> None:
        if first < 0 or last < 0:
            raise ValueError(f"first={first}, last={last}: must not be negative")
        self._room = first
        self._last = last
        self._head = bytearray()
        self._tail = bytearray()

        self.size = 0
        """Bytes that went by."""

    @property
    def missing(self) -> int:
        """Bytes that went by and are not in the copy."""
        return self.size - len(self._head) - min(len(self._tail), self._last)

    def feed(self, batch: bytes, /) -> bytes:
        self.size += len(batch)
        data = batch
        if self._room:
            self._head += data[: self._room]
            data = data[self._room :]
            self._room -= min(self._room, len(batch))
        if self._last and data:
            self._tail += data[-self._last :]
            # Trimmed when it is twice as long as it need be: linear, whatever the drip.
            if len(self._tail) > 2 * self._last:
                del self._tail[: -self._last]
        return batch

    def copy(self) -> bytes:
        """The copy. Where bytes are missing it says how many: ``[... 12 bytes missing ...]``, on a line of its own."""
        tail = bytes(self._tail[-self._last :]) if self._last else b""
        mark = b"\n[... %d bytes missing ...]\n" % self.missing if self.missing else b""
        return bytes(self._head) + mark + tail
