"""Drop comments."""

from __future__ import annotations

import enum

from .._items import Head
from .._lines import BLANK
from .._stage import Lines, Stage

_COLON = ord(":")


class _Block(enum.Enum):
    """What the block that is being read has held so far."""

    NOTHING = enum.auto()
    COMMENTS = enum.auto()
    FIELDS = enum.auto()


class CommentStripper(Stage[Lines]):
    """Drop comment lines, and the blank line behind a block that held nothing but comments.

    Every other blank line stays, byte for byte. That one must go: a client that has seen an ``id`` dispatches an empty
    event at it. A ``Content-Length`` in the head is dropped, since the body will be shorter.
    """

    needs_whole_lines = False

    def __init__(self) -> None:
        self._block = _Block.NOTHING

    def head(self, head: Head, /) -> Head:
        return head.without(b"content-length")

    def feed(self, batch: Lines, /) -> Lines:
        if self._block is not _Block.COMMENTS:
            for line in batch:
                if line[0] == _COLON:
                    break
            else:
                self._block = _Block.NOTHING if batch[-1] in BLANK else _Block.FIELDS
                return batch
        return self._strip(batch)

    def _strip(self, batch: Lines) -> Lines:
        kept = []
        block = self._block
        for line in batch:
            if line[0] == _COLON:
                if block is _Block.NOTHING:
                    block = _Block.COMMENTS
            elif line in BLANK:
                if block is not _Block.COMMENTS:
                    kept.append(line)
                block = _Block.NOTHING
            else:
                block = _Block.FIELDS
                kept.append(line)
        self._block = block
        return kept if len(kept) < len(batch) else batch
