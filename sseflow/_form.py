"""The form of a block: what a stream of tokens repeats."""

# The streams that matter repeat themselves. Block after block stands between the same bytes, and only a text differs,
# so what the stages did with the last block they would do with the next one. Whoever splits a stream into lines makes
# a form of a block that went through unchanged, and asks the stages about it, once. Each may say
#
# * that it has to see every block, which is what a stage says that was not written for this;
# * or that it would return any block of this form as it is, whatever came before, as long as it stands between two
#   blocks. What it has to note of them it leaves behind as a function of their number and their size.
#
# The observer that reads the text says which part of the data may differ, and whether that is the inside of a JSON
# string, so that nothing in it can be mistaken for what stands around it.
#
# From then on data that is nothing but blocks of the form is recognised by its bytes, all of it at once: the texts are
# cut out, what should stand around them is put around them, and the result is compared with what came. That copies
# and compares memory, and looks into nothing but the texts. Anything else, be it one byte, goes the way of all lines.

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import TypeAlias

import attrs

# A search for a byte that is given as a number is one call of memchr; bytes are tried as a number first, which is slow.
_LF, _CR, _QUOTE, _BACKSLASH = b'\n\r"\\'

#: Told how many more blocks of a form there were, how many bytes they had, blank lines included, and how many of these
#: were values of data lines.
Note: TypeAlias = Callable[[int, int, int], None]


@attrs.frozen
class Text:
    """What differs from block to block of a form: ``data[start:stop]``, which is not empty and has no line end."""

    start: int
    stop: int
    string: bool = False
    """It is the inside of a JSON string."""

    filler: bytes = b""
    """If it is, this may stand in it behind the first byte, any number of times, with the inside of another string
    before it and behind it: a second string that says nothing, such as padding, and what is between the two."""


class Form:
    """Blocks of an event that has a type, or none, and one data line.

    Args:
        type: the value of the ``event`` line; empty if there was none.
        data: the value of the data line.
        before: the bytes of the block before this value.
        behind: the bytes behind it: two line ends, each of which ends with an LF.
        most: bytes that a block of this form may have.
    """

    # There is one for each open stream.
    __slots__ = (
        "_before",
        "_behind",
        "_filler",
        "_first",
        "_last",
        "_left",
        "_line",
        "_lines",
        "_right",
        "_string",
        "_text",
        "around",
        "data",
        "most",
        "notes",
        "settled",
        "type",
        "used",
    )

    def __init__(self, type: bytes, data: bytes, *, before: bytes, behind: bytes, most: int) -> None:
        self.type = type
        self.data = data
        self.most = most
        self.settled = False
        """Whether all stages have agreed to it."""

        self.used = False
        """Whether there was another block of this form."""

        self.notes: list[Note] = []
        """What the stages have to note of more blocks of this form."""

        self.around = len(before) + len(behind)
        """Bytes of a block without its data."""

        self._before = before
        self._behind = behind
        self._text: Text | None = None

    def vary(self, text: Text) -> bool:
        """Let nothing differ but the text; False if somebody else wants it otherwise."""
        if self._text is None:
            self._text = text
            self._before += self.data[: text.start]
            self._behind = self.data[text.stop :] + self._behind
        return self._text == text

    def settle(self) -> None:
        """Make ready for `take`, when all stages have agreed."""
        if self._before.endswith(b"data:"):  # a space that came to stand here would be no data
            self._before += self.data[:1]
        self.data = b""  # it may be long, and is not needed any more
        self._string = self._text is not None and self._text.string
        self._filler = self._text.filler if self._text is not None else b""
        self._first, self._last = len(self._before), -len(self._behind)
        # Where the texts stand, when the data is cut into lines.
        self._line = self._before.count(b"\n")
        self._lines = (self._behind + self._before).count(b"\n")
        self._left = self._first - (self._before.rfind(b"\n") + 1)
        self.settled = True
        self._right = -(self._behind.index(b"\n") + 1)

    def take(self, data: bytes) -> bool:
        """If ``data`` is nothing but blocks of this form, take note of them."""
        count = self.count(data)
        if not count:
            return False
        size = len(data)
        values = size - count * self.around
        for note in self.notes:
            note(count, size, values)
        self.used = True
        return True

    def count(self, data: bytes) -> int:
        """How many blocks of this form ``data`` is; 0 if it is anything else."""
        if not (data.startswith(self._before) and data.endswith(self._behind)):
            return 0
        size = len(data)
        text = data[self._first : self._last]
        if _LF not in text:
            count, longest = 1, size
        else:
            lines = BytesIO(data).readlines()
            texts = [line[self._left : self._right] for line in lines[self._line :: self._lines]]
            if not all(texts) or (self._behind + self._before).join(texts) != text:
                return 0
            count, text = len(texts), b"\n".join(texts)
            longest = 0 if size <= self.most else max(map(len, texts)) - self._last + self._first
        if not text or _CR in text or longest > self.most:
            return 0
        if self._filler:
            text = text.replace(self._filler, b"\r")
            if text[0] == _CR or b"\n\r" in text:
                return 0
        if self._string and (_QUOTE in text or _BACKSLASH in text) and not _are_insides(text):
            return 0
        return count


def _are_insides(texts: bytes) -> bool:
    """Whether each of some lines could stand in quotes, and be one JSON string there (or none, but end as one)."""
    left = texts.replace(b"\r", b"\n").replace(b"\\\\", b"").replace(b'\\"', b"") + b"\n"
    return b'"' not in left and b"\\\n" not in left
