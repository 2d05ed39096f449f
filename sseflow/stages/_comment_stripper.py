"""Drop comments."""

from __future__ import annotations

import enum

from .._form import Form, Note
from .._items import Head
from .._lines import BLANK
from .._stage import Lines, Stage

_COLON = ord(":")
_CR = ord("\r")


class _Block(enum.Enum):
    """What the block that is being read has held so far."""

    NOTHING = enum.auto()
    COMMENTS = enum.auto()
    FIELDS = enum.auto()


class CommentStripper(Stage[Lines]):
    """Drop comment lines, and the blank line behind a block that held nothing but comments.

    Every other blank line stays, byte for byte. That one must go: a client that has seen an ``id`` dispatches an empty
    event at it. A ``Content-Length`` in the head is dropped, since the body will be shorter.

    One blank line cannot stay as it is: a lone LF that would come to stand behind a lone CR, and be read as part of one
    line end with it. It leaves as CRLF.
    """

    needs_whole_lines = False

    def __init__(self) -> None:
        self._block = _Block.NOTHING
        self._after_cr = False  # the last line that was kept ends with a lone CR
        self._kept = True  # the last line was kept

    def head(self, head: Head, /) -> Head:
        return head.without(b"content-length")

    def feed(self, batch: Lines, /) -> Lines:
        if self._block is not _Block.COMMENTS and self._kept:
            for line in batch:
                if line[0] == _COLON:
                    break
            else:
                self._block = _Block.NOTHING if batch[-1] in BLANK else _Block.FIELDS
                self._after_cr = batch[-1][-1] == _CR
                return batch
        return self._strip(batch)

    def _learn(self, form: Form) -> bool:
        form.notes.append(self._note)
        return True

    def _note(self, count: int, size: int, data: int) -> None:
        self._after_cr = False

    def _learn_comments(self, notes: list[Note]) -> bool:
        notes.append(self._note_comments)
        return True

    def _note_comments(self, count: int, size: int, data: int) -> None:
        self._kept = False

    def rest(self, piece: bytes, last: bool, /) -> None:
        if self._kept:
            self._after_cr = piece[-1] == _CR

    def _strip(self, batch: Lines) -> Lines:
        kept: Lines = []
        for line in batch:
            is_comment, is_blank = line[0] == _COLON, line in BLANK
            drop = is_comment or (is_blank and self._block is _Block.COMMENTS)
            if is_blank:
                self._block = _Block.NOTHING
            elif not is_comment:
                self._block = _Block.FIELDS
            elif self._block is _Block.NOTHING:
                self._block = _Block.COMMENTS
            if not drop:
                fuses = line == b"\n" and self._after_cr and not self._kept
                kept.append(b"\r\n" if fuses else line)
                self._after_cr = line[-1] == _CR
            self._kept = not drop
        return batch if kept == batch else kept
