"""Hold the head until it is known that there is something to commit to."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from .._events import MESSAGE, field
from .._form import Form
from .._items import Head
from .._lines import BLANK
from .._stage import Lines, Stage

DEFAULT_GATE_LIMIT = 64 * 1024
"""Of comments and empty events; what sends more than this before its first token is not going to send a status."""

#: Asked about the type of an event and the value of one of its data lines (or the beginning of a long one).
Accept: TypeAlias = Callable[[bytes, bytes], bool]


class CommitGate(Stage[Lines]):
    """Hold the head until ``accept`` takes a data line, `open` is called, or ``limit`` bytes of something else came.

    An ending does not open it: a failure behind a shut gate can still become a status.

    Args:
        accept: by default any data line that is not empty; `Dialect.opens` also excludes the dialect's end and errors.
        limit: bytes after which it opens anyhow, 64 KiB by default.
    """

    needs_whole_lines = False

    def __init__(self, accept: Accept | None = None, *, limit: int = DEFAULT_GATE_LIMIT) -> None:
        self._accept = accept or _not_empty
        self._limit = limit
        self._seen = 0
        self._type = MESSAGE
        self._open = False

    @property
    def is_open(self) -> bool:
        """Whether the head may go."""
        return self._open

    def open(self) -> None:
        """Let the head go; it leaves when the pipeline is fed next, be it with ``b""``."""
        self._open = True
        self._accept = _not_empty  # nobody is asked any more, and who would be need not be kept

    def head(self, head: Head, /) -> Head | None:
        return head if self._open else None

    def feed(self, batch: Lines, /) -> Lines:
        if not self._open:
            self._judge(batch)
        return batch

    def _learn(self, form: Form) -> bool:
        return self._open

    def rest(self, piece: bytes, last: bool, /) -> None:
        self._count(len(piece))

    def _judge(self, batch: Lines) -> None:
        for line in batch:
            self._count(len(line))
            if line in BLANK:
                self._type = MESSAGE
                continue
            name, value = field(line)
            if name == b"event":
                self._type = value or MESSAGE
            elif name == b"data" and self._accept(self._type, value):
                self.open()
                return

    def _count(self, size: int) -> None:
        self._seen += size
        if self._seen > self._limit:
            self.open()


def _not_empty(type: bytes, data: bytes) -> bool:
    return bool(data)
