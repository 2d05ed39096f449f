"""Lines: the only scan of a stream's bytes."""

# Most chunks hold whole lines and nothing else. For them there is one C call that splits, one call of the chain, and
# the chunk itself goes on if the chain gave the list back as it was. Before that is tried, what only repeats the form
# of a block that went through before is taken by its bytes (`Form`), and a block that is nothing but a comment is
# dropped as a whole, if a stage said that it does so. All else takes the slow path, which walks:
#
# * A line that is not finished is kept as fragments and joined once, so that a drip costs linear time.
# * A chain that needs whole lines holds up to `max_line`. Any other is shown the first `whole` bytes of a longer line
#   as soon as one byte more has come, and what becomes of them becomes of the rest, which is not looked at but for the
#   byte that ends it. This holds for a line that came in one piece, too: what a stage is shown does not depend on how
#   the stream was cut.
# * A CR at the end of a chunk ends its line. An LF at the beginning of the next one belongs to that line, and goes the
#   way it went.
# * What was let out before a fault in the same chunk still goes out: the output of a stream that breaks a limit does
#   not depend on the cuts either.

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import TypeAlias

from ._errors import LineTooLong
from ._form import Form, Note
from ._items import End, Head
from ._stage import Chain, Cut, Lines, Stage, _feed_last

DEFAULT_MAX_LINE = 32 * 1024 * 1024
"""The longest line there is in practice is a picture in base64; the SDKs' own decoders stop here, too."""

WHOLE = 64 * 1024
"""A line up to this length is always shown whole. Token events are a few hundred bytes; one read brings 64 KiB."""

_MOST_PATIENCE = 64
"""Blocks after which another form is tried on a stream of which nothing that was learned has come again."""

_SMALLEST_WHOLE = 64
"""The beginning of a line must at least tell what kind of line it is."""

BOM = b"\xef\xbb\xbf"

_LF = ord("\n")
_CR = ord("\r")
_COLON = ord(":")

BLANK = (b"\n", b"\r\n", b"\r")
"""The lines that end a block."""

When: TypeAlias = Callable[[Head], bool]


def by_line(
    *stages: Stage[Lines], max_line: int = DEFAULT_MAX_LINE, whole: int = WHOLE, when: When | None = None
) -> Stage[bytes]:
    """Make a stage of bytes out of stages of lines.

    A line ends with LF, CRLF or CR (HTML, section 9.2.6), and is given with its terminator; the last line of a stream
    may have none. A byte order mark at the beginning goes through, and is hidden from the stages.

    Args:
        max_line: bytes of content, without terminator, that a line may have if the stages let it through, or hold it:
            32 MiB by default. One more fails the stream with `LineTooLong`. A line that is dropped by its beginning may
            be of any length.
        whole: bytes up to which a line is always given whole, 64 KiB by default. What happens to longer ones is
            decided by `Stage.needs_whole_lines`.
        when: asked about the head; if it says no, the body goes through untouched, and the stages are only ended.
    """
    if max_line < 1:
        raise ValueError(f"max_line={max_line}: must be at least 1")
    if whole < _SMALLEST_WHOLE:
        raise ValueError(f"whole={whole}: must be at least {_SMALLEST_WHOLE}")
    chain = Chain(*stages)
    return _ByLine(chain, max_line, whole, when, holds=chain.needs_whole_lines)


class _ByLine(Stage[bytes]):
    def __init__(self, chain: Chain[Lines], max_line: int, whole: int, when: When | None, *, holds: bool) -> None:
        self._chain = chain
        self._max_line = max_line
        self._holds = holds
        self._whole = min(whole, max_line)
        self._limit = max_line if holds else self._whole  # of a line that is given whole
        self._when = when
        self._fragments: list[bytes] = []  # of an unfinished line
        self._size = 0  # of its content, so far; or of the long line that flows
        self._flows = False  # inside a long line whose beginning was given
        self._kept = True  # whether the last line that was given open went out
        self._after_cr = False
        self._starts = True
        self._begun = False  # something went out
        self._bypassed = False
        self._plain = False  # none of the above is the case
        self._between = True  # the last line that was given was a blank one
        self._drops = chain._drops()
        self._form: Form | None = None  # that of the last block that was learned
        self._known: Form | None = None  # the same, when a block may begin
        self._unlearned = 0  # blocks that could have been learned, since one was
        self._patience = 2  # how many there may be; a stream of one event has nothing to learn for

    def _ask(self, head: Head) -> tuple[Head, bool]:
        if self._when is not None and not self._when(head):
            self._bypassed = True
            return head, True
        return self._chain._ask(head)

    def head(self, head: Head, /) -> Head | None:
        answer, ready = self._ask(head)
        return answer if ready else None

    def _observer(self, limit: int) -> Stage[bytes]:
        chain = Chain(*(stage._observer(limit) for stage in self._chain.stages))
        return _ByLine(chain, sys.maxsize, self._whole, self._when, holds=False)

    def feed(self, data: bytes, /) -> bytes:
        if self._known is not None and self._known.take(data):
            return data
        if self._plain and self._between and self._drops is not None and data[0] == _COLON:
            data = self._drop_comments(data, self._drops)
            if not data or (self._known is not None and self._known.take(data)):
                return data
        if self._plain and data.endswith(b"\n") and len(data) <= self._whole:
            return self._feed_lines(data)
        if self._bypassed:
            return data
        if self._flows and _LF not in data and _CR not in data and self._size + len(data) <= self._max_line:
            return self._flow_on(data)
        return self._feed_slowly(data)

    def _flow_on(self, data: bytes) -> bytes:
        """Take a piece from the midst of a long line."""
        self._size += len(data)
        out = data if self._kept else b""
        try:
            self._chain.rest(data, False)
        except Exception as error:
            raise Cut(out, error) from None
        return out

    def _feed_lines(self, data: bytes) -> bytes:
        self._known = None
        lines = _split(data)
        try:
            out = self._chain.feed(lines)
        except Cut as cut:
            raise Cut(b"".join(_lines_of(cut)), cut.error) from None
        self._given(lines, same=out is lines)
        if self._between:
            self._known = self._form
        return data if out is lines else _joined(out, data)

    def _drop_comments(self, data: bytes, notes: Sequence[Note]) -> bytes:
        """Drop the blocks that are one comment at the beginning of ``data``; return what is behind them."""
        count = at = 0
        while data.startswith(b":", at):
            stop = data.find(b"\n", at)
            if not data.startswith(b"\n\n", stop) or _CR in data[at:stop]:
                break
            at = stop + 2
            count += 1
        if not count:
            return data
        for note in notes:
            note(count, at, 0)
        return data[at:]

    def _given(self, lines: Lines, *, same: bool) -> None:
        """Note where lines that were given end; ``same``: they came out as they were."""
        began, self._between = self._between, lines[-1] in BLANK
        if not (self._between and same):
            return
        # Of a stream that does not repeat itself nothing can be learned, and trying should cost less and less.
        self._unlearned += 1
        if self._unlearned >= self._patience:
            self._unlearned = 0
            repeats = self._form is not None and self._form.used
            self._patience = 1 if repeats else min(2 * self._patience, _MOST_PATIENCE)
            self._learn_last(lines, began)

    def _learn_last(self, lines: Lines, began: bool) -> None:
        """Learn the form of the last block of some lines, if it has one; ``began``: they began with a block."""
        form = _form_of(lines, began, self._whole)
        if form is not None and self._chain._learn(form):
            form.settle()
            self._form = form

    def _feed_slowly(self, data: bytes) -> bytes:
        self._known = None
        out: list[bytes] = []
        try:
            rest = self._skip_bom(data, out) if self._starts else data
            # By pieces that no long line fits into: what is behind one is not split again.
            for start in range(0, len(rest), self._whole):
                piece = rest[start : start + self._whole]
                while piece:
                    if self._after_cr:
                        piece = self._finish_crlf(piece, out)
                    else:
                        piece = self._flow(piece, out) if self._flows else self._split(piece, out)
        except Cut as cut:
            raise Cut(self._begin([*out, *_lines_of(cut)]), cut.error) from None
        except Exception as error:
            raise Cut(self._begin(out), error) from None
        begun = self._begin(out)
        self._plain = self._begun and not (self._starts or self._fragments or self._flows or self._after_cr)
        self._known = self._form if self._plain and self._between else None
        return data if begun == data else begun

    def _begin(self, out: Lines) -> bytes:
        """Join what goes out. A line must not come to begin the stream with a byte order mark that is its own."""
        joined = b"".join(out)
        if not self._begun and joined:
            self._begun = True
            if joined.startswith(BOM):
                return BOM + joined
        return joined

    def _skip_bom(self, data: bytes, out: list[bytes]) -> bytes:
        data = b"".join([*self._fragments, data])
        self._fragments.clear()
        if len(data) < len(BOM) and BOM.startswith(data):
            self._fragments.append(data)
            return b""
        self._starts = False
        if data.startswith(BOM):
            self._begun = True
            out.append(BOM)
            return data[len(BOM) :]
        return data

    def _finish_crlf(self, data: bytes, out: list[bytes]) -> bytes:
        self._after_cr = False
        if not data.startswith(b"\n"):
            return data
        self._chain.rest(b"\n", True)
        if self._kept:
            out.append(b"\n")
        return data[1:]

    def _flow(self, data: bytes, out: list[bytes]) -> bytes:
        """Take the rest of a long line, or as much of it as there is; return what is behind it."""
        stop = _line_end(data)
        piece = data[:stop] if stop else data
        size = self._size + _content(piece)
        if self._kept:
            if size > self._max_line:
                allowed = piece[: self._max_line - self._size]
                if allowed:
                    out.append(allowed)
                    self._chain.rest(allowed, False)
                raise LineTooLong(self._max_line, size)
            out.append(piece)
        self._chain.rest(piece, stop > 0)
        if not stop:
            self._size = size
            return b""
        self._flows = False
        self._size = 0
        self._after_cr = stop == len(data) and piece.endswith(b"\r")
        return data[stop:]

    def _split(self, data: bytes, out: list[bytes]) -> bytes:
        """Give lines to the chain; return what is behind the last one that was given or kept."""
        if self._fragments:
            behind = self._take_across(data, out)
            return self._finish_line(data, out) if behind is None else behind
        stop = self._take_some(data, out)
        if stop:
            return data[stop:]
        lines = _split(data)
        last = lines[-1]
        if last.endswith(b"\n"):
            self._give(lines, data, out)
            return b""
        self._give(lines[:-1], data[: -len(last)], out)
        if last.endswith(b"\r"):
            self._give_open(last, out)
            self._after_cr = True
        else:
            self._fragments.append(last)
            self._size = len(last)
        return b""

    def _take_across(self, data: bytes, out: list[bytes]) -> bytes | None:
        """Take blocks of the known form, of which the first has begun in what is kept; return what is behind them.

        None if there are none.
        """
        if self._form is None or not self._between or not _behind_blank(data):
            return None
        joined = b"".join([*self._fragments, data])
        stop = _behind_blank(joined)
        block = joined[:stop]
        if not self._form.take(block):
            return None
        out.append(block)
        self._fragments.clear()
        self._size = 0
        return joined[stop:]

    def _take_some(self, data: bytes, out: list[bytes]) -> int:
        """Take the blocks at the beginning of ``data``, or go to where they begin; return their size.

        On their own they may be of the known form, or show one.
        """
        if self._between:
            stop = _behind_blank(data)
        elif data[0] == _LF:
            stop = 1
        else:
            found = data.find(b"\n\n")
            stop = found + 2 if found >= 0 else 0
        if not stop:
            return 0
        block = data[:stop]
        if self._between and self._form is not None and self._form.take(block):
            out.append(block)
        else:
            self._give(_split(block), block, out)
        return stop

    def _finish_line(self, data: bytes, out: list[bytes]) -> bytes:
        stop = _line_end(data)
        piece = data[:stop] if stop else data
        size = self._size + _content(piece)
        if size > self._limit:
            return self._judge_long(size, data, out)
        self._fragments.append(piece)
        self._size = size
        if not stop:
            return b""
        line = self._join()
        if stop == len(data) and line.endswith(b"\r"):
            self._give_open(line, out)
            self._after_cr = True
        else:
            self._give([line], line, out)
        return data[stop:]

    def _judge_long(self, size: int, data: bytes, out: list[bytes]) -> bytes:
        """Judge a line, of which ``size`` bytes are there, by its beginning; ``data`` starts with the next piece."""
        if self._holds:
            self._join()
            raise LineTooLong(self._max_line, size)
        missing = self._whole - self._size
        self._fragments.append(data[:missing])
        self._give_open(self._join(), out)
        self._size = self._whole
        self._flows = True
        return data[missing:]

    def _join(self) -> bytes:
        line = b"".join(self._fragments)
        self._fragments.clear()
        self._size = 0
        return line

    def _give(self, lines: Lines, data: bytes, out: list[bytes]) -> None:
        """Feed whole lines, whose bytes are ``data``."""
        if lines:
            result = self._chain.feed(lines)
            self._given(lines, same=result is lines)
            if result is lines:
                out.append(data)
            else:
                out.extend(result)

    def _give_open(self, line: bytes, out: list[bytes]) -> None:
        self._between = False
        result, self._kept = self._chain.feed_open([line])
        out.extend(result)

    def end(self, end: End, /) -> tuple[bytes | None, End]:
        if self._bypassed:
            self._chain.end(end)
            return None, end
        out, end = _feed_last(self._chain, [self._join()] if self._fragments else None, end)
        last, end = self._chain.end(end)
        return self._begin([*(out or ()), *(last or ())]) or None, end


def _split(data: bytes) -> Lines:
    """The lines of ``data``, with their terminators."""
    # Where no line ends with a CR, as in nearly all streams there are, the lines are found at the speed of memory.
    return data.splitlines(keepends=True) if _CR in data else BytesIO(data).readlines()


def _behind_blank(data: bytes) -> int:
    """The index behind the last two LFs in a row; 0 if there are none."""
    last = data.rfind(_LF)
    if last > 0 and data[last - 1] == _LF:
        return last + 1
    found = data.rfind(b"\n\n", 0, last) if last > 0 else -1  # many times slower than the search for one byte
    return found + 2 if found >= 0 else 0


def _form_of(lines: Lines, began: bool, most: int) -> Form | None:
    """The form of the last block of some lines, if it is one data line, which an ``event`` line may come before."""
    size = next((i for i, line in enumerate(lines[-2:-5:-1], 1) if line in BLANK), len(lines) if began else 0)
    if not 2 <= size <= 3:
        return None
    *event, line, blank = lines[-size:]
    before = b"".join(event)
    if not line.startswith(b"data:") or not before.startswith(b"event:"[: len(before)]):
        return None
    start = 6 if line.startswith(b"data: ") else 5
    stop = _content(line)
    behind = line[stop:] + blank
    if behind not in (b"\n\n", b"\r\n\r\n") or b"\r" in before.removesuffix(b"\r\n") or start >= stop:
        return None
    type_ = before[6 : _content(before)].removeprefix(b" ")
    return Form(type_, line[start:stop], before=before + line[:start], behind=behind, most=most)


def _joined(out: Lines, data: bytes) -> bytes:
    """What came of ``data``; the same object if nothing changed."""
    joined = b"".join(out)
    return data if joined == data else joined


def _line_end(data: bytes) -> int:
    """The index behind the first line end in ``data``, or 0."""
    lf = data.find(b"\n")
    cr = data.find(b"\r", 0, lf) if lf >= 0 else data.find(b"\r")
    if cr < 0 or cr == lf - 1:
        return lf + 1
    return cr + 1


def _content(line: bytes) -> int:
    """The length of a line without its terminator."""
    if line.endswith(b"\r\n"):
        return len(line) - 2
    return len(line) - line.endswith((b"\n", b"\r"))


def _lines_of(cut: Cut) -> Lines:
    assert isinstance(cut.batch, list)
    return cut.batch
