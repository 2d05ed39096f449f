"""Count what a stream is made of."""

from __future__ import annotations

from .._form import Form, Note
from .._lines import BLANK, _content
from .._stage import Lines, Stage

_LF = ord("\n")
_CR = ord("\r")


class DataCounter(Stage[Lines]):
    """Count bytes, events, comments and control-only blocks; exact for any line ending and any length of line."""

    needs_whole_lines = False

    def __init__(self) -> None:
        self.raw_bytes = 0
        """Bytes of all lines, with their terminators. A byte order mark, which no stage sees, is not counted."""

        self.data_events = 0
        """Blocks that were ended by a blank line and had a ``data`` line."""

        self.data_bytes = 0
        """Bytes of the values of all ``data`` lines."""

        self.comments = 0
        """Comment lines."""

        self.control_blocks = 0
        """Blocks that were ended by a blank line and had fields (``id``, ``retry``, ...), but no ``data``."""

        self._has_data = False
        self._has_fields = False
        self._open_data = False  # the line that goes on is a data line

    @property
    def in_event(self) -> bool:
        """Whether the stream stands inside an event: behind a field whose block has not been ended."""
        return self._has_fields

    def feed(self, batch: Lines, /) -> Lines:
        self.raw_bytes += sum(map(len, batch))
        for line in batch:
            if line.startswith(b"data"):
                value = _data_value_length(line)
                self._has_fields = True
                self._open_data = value >= 0
                if value >= 0:
                    self.data_bytes += value
                    self._has_data = True
            elif line in BLANK:
                if self._has_data:
                    self.data_events += 1
                elif self._has_fields:
                    self.control_blocks += 1
                self._has_data = self._has_fields = False
            elif line.startswith(b":"):
                self.comments += 1
                self._open_data = False
            else:
                self._has_fields = True
                self._open_data = False
        return batch

    def _learn(self, form: Form) -> bool:
        form.notes.append(self._note)
        return True

    def _note(self, count: int, size: int, data: int) -> None:
        self.raw_bytes += size
        self.data_bytes += data
        self.data_events += count

    def _learn_comments(self, notes: list[Note]) -> bool:
        notes.append(self._note_comments)
        return False

    def _note_comments(self, count: int, size: int, data: int) -> None:
        self.raw_bytes += size
        self.comments += count

    def rest(self, piece: bytes, last: bool, /) -> None:
        self.raw_bytes += len(piece)
        if self._open_data:
            self.data_bytes += _content(piece) if last else len(piece)


def _data_value_length(line: bytes) -> int:
    """The length of the value of a line that begins with ``data``; -1 if its field is another one."""
    if line.startswith(b"data: ") and line[-1] == _LF and line[-2] != _CR:  # nearly all there are
        return len(line) - 7
    content = _content(line)
    if content == 4:
        return 0
    if line[4:5] != b":":
        return -1
    return content - (6 if line[5:6] == b" " else 5)
