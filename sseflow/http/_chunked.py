"""Read a chunked body (RFC 9112, section 7.1), as strictly as its grammar is.

The reader has the shape of the others in ``_codec``. It also keeps ``span``, the raw bytes of the chunks that a payload
came from, so that chunks which nobody changed can be sent on as they came. It is given only for whole chunks without
extensions, and never has the last chunk in it: whether a body has ended well is not for this module to say.

A stream of events arrives as one small chunk per read. That case is one dictionary look-up and one slice; many chunks
in one read cost a look-up and two slices each, and no scan; everything else goes the careful way, which never holds
more than one unfinished line.
"""

from __future__ import annotations

import enum
import re

from sseflow._errors import Error
from sseflow.http._guard import TOKEN, VALUE

#: All chunk extensions of one message. Nobody needs any; 16 KiB is what Node.js lets pass.
MAX_EXTENSIONS = 16 * 1024

#: All trailers of one message, with their line ends: one fourth of what a head may have.
MAX_TRAILERS = 16 * 1024

#: As many trailers as a head may have fields.
MAX_TRAILER_FIELDS = 100

_CRLF = b"\r\n"
_QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*+"'

_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_SIZE_BEGIN = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[;\r]|\Z)")
_FIRST_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})\r\n")
_NEXT_SIZE = re.compile(rb"\r\n([0-9A-Fa-f]{1,16})\r\n")
_EXTENSIONS = re.compile(rb"(?:;" + TOKEN + rb"(?:=(?:" + TOKEN + rb"|" + _QUOTED + rb"))?)*+")
_TRAILER = re.compile(rb"(" + TOKEN + rb"):(" + VALUE + rb")")

#: Fields that are refused or ignored in a trailer, since they frame, route, authorize, or say how to treat what has
#: already been treated (RFC 9110, section 6.5.1). A digest of the content is what trailers are for.
_NEVER_TRAILER = re.compile(
    rb"age|api-key|authorization|cache-control|connection|cookie|date|expect|expires|forwarded|host|idempotency-key"
    rb"|keep-alive|location|max-forwards|origin|pragma|range|retry-after|set-cookie|te|trailer|transfer-encoding|upgrade"
    rb"|vary|via|warning|www-authenticate|x-api-key|x-goog-api-key|x-real-ip"
    rb"|(?:access-control|content|if|proxy|sec|x-forwarded)-(?!digest\Z).*"
)

#: The size lines of chunks from 16 bytes to 4 KiB as nearly everybody writes them: where the payload ends, by size
#: line; and the size, by the line end before it and the size line.
_FIRST_SIZES = {b"%x\r\n" % size: len(b"%x\r\n" % size) + size for size in range(0x10, 0x1000)}
_NEXT_SIZES = {b"\r\n%x\r\n" % size: size for size in range(0x10, 0x1000)}


class BodyError(Error):
    """A body is not framed as its message said; whoever sent it gets the blame.

    ``payload`` is what came before the fault in the same ``feed``.
    """

    payload = b""


class IncompleteBody(BodyError):
    """A body ended before its framing said so."""


class _State(enum.Enum):
    """Where a chunked body stands, when not inside a chunk's payload and not at a boundary with nothing held."""

    SIZE = enum.auto()
    LINE_END = enum.auto()
    TRAILERS = enum.auto()
    END = enum.auto()
    REFUSED = enum.auto()


_BOUNDARY = 0
_ELSEWHERE = -1


class ChunkedReader:
    """Read a chunked body (RFC 9112, section 7.1), as strictly as its grammar is.

    Attributes:
        span: the raw bytes of the chunks that the last payload came from, if it is exactly the payload of whole
            chunks that begin and end in what was fed, none of them with an extension; otherwise None. The last chunk
            and the trailers are never in it.
        done: whether the last chunk and the trailers have come.
        trailing: what came behind them; it grows with what is fed, so whoever feeds on must bound it.
        trailers: those that RFC 9110, section 6.5.1, lets be trailers, with names in lower case; empty until ``done``.
    """

    def __init__(self) -> None:
        self.span: bytes | None = None
        self.done = False
        self.trailing = b""
        self.trailers: tuple[tuple[bytes, bytes], ...] = ()
        # Bytes missing of the chunk we are in, or _BOUNDARY, or _ELSEWHERE: then the state says where.
        self._left = _BOUNDARY
        self._state = _State.SIZE
        self._held = bytearray()
        self._line_end = _CRLF
        self._extended = False
        self._extensions_left = MAX_EXTENSIONS
        self._trailers_left = MAX_TRAILERS
        self._fields: list[tuple[bytes, bytes] | None] = []

    def feed(self, data: bytes, /) -> bytes:
        """The payload in ``data``: the same object if nothing else is in it. Sets ``span``.

        What is fed behind the end goes to ``trailing``.

        Raises:
            BodyError: this is no chunked body, or a limit is passed. Its ``payload`` is what came before. Every later
                ``feed`` raises, too.
        """
        left = self._left
        if left == _BOUNDARY:
            start = 4
            end = _FIRST_SIZES.get(data[:4])
            if end is None:
                start = 5
                end = _FIRST_SIZES.get(data[:5])
            if end is not None and len(data) == end + 2 and data[end:] == _CRLF:
                self.span = data
                return data[start:end]
        elif left > len(data):
            self._left = left - len(data)
            self.span = None
            return data
        return self._walk(data)

    def eof(self) -> None:
        """The connection ended.

        Raises:
            IncompleteBody: the last chunk or the end of the trailers has not come.
        """
        if not self.done:
            raise IncompleteBody("the connection ended before the last chunk of the body")

    def _walk(self, data: bytes) -> bytes:
        """Go through ``data`` the careful way."""
        parts: list[bytes] = []
        pos = boundary = whole = 0
        plain = self._left == _BOUNDARY
        self.span = None
        try:
            while pos < len(data):
                if self._left == _BOUNDARY:
                    pos = boundary = _plain_chunks(data, pos, parts)
                    whole = len(parts)
                    if pos < len(data):
                        self._left, self._state = _ELSEWHERE, _State.SIZE
                elif self._left > 0:
                    parts.append(data[pos : pos + self._left])
                    pos += len(parts[-1])
                    self._left -= len(parts[-1])
                    if self._left == 0:
                        self._left, self._state = _ELSEWHERE, _State.LINE_END
                elif self._state is _State.LINE_END:
                    pos = self._read_line_end(data, pos)
                    if self._left == _BOUNDARY:
                        boundary, whole = pos, len(parts)
                        plain = plain and not self._extended
                else:
                    pos = self._read_between(data, pos)
        except BodyError as error:
            self._left, self._state = _ELSEWHERE, _State.REFUSED
            error.payload = b"".join(parts)
            raise
        if plain and 0 < whole == len(parts):
            self.span = data[:boundary]
        return b"".join(parts)

    def _read_between(self, data: bytes, pos: int) -> int:
        match self._state:
            case _State.SIZE:
                return self._read_size(data, pos)
            case _State.TRAILERS:
                return self._read_trailer(data, pos)
            case _State.END:
                self.trailing += data[pos:]
                return len(data)
            case _:
                raise BodyError("the body has been refused before")

    def _read_line_end(self, data: bytes, pos: int) -> int:
        found = data[pos : pos + len(self._line_end)]
        if not self._line_end.startswith(found):
            raise BodyError("a chunk is longer than its size")
        self._line_end = self._line_end[len(found) :]
        if not self._line_end:
            self._line_end = _CRLF
            self._left = _BOUNDARY
        return pos + len(found)

    def _read_size(self, data: bytes, pos: int) -> int:
        # What was held and what is new are looked at together, but no more of it than a size can have.
        begin = _SIZE_BEGIN.match(bytes(self._held[:17]) + data[pos : pos + 17])
        if begin is None:
            raise BodyError("a chunk does not begin with 1 to 16 hexadecimal digits and a line end or an extension")
        digits = begin.end(1)
        line, pos = self._read_line(data, pos, digits + self._extensions_left, "the chunk extensions are too long")
        if line is None:
            return pos
        extensions = line[digits:]
        if _EXTENSIONS.fullmatch(extensions) is None:
            raise BodyError("a chunk extension is not `;name` or `;name=value`")
        self._extensions_left -= len(extensions)
        self._extended = bool(extensions)
        self._left = int(line[:digits], 16)
        if self._left == 0:
            self._left, self._state = _ELSEWHERE, _State.TRAILERS
        return pos

    def _read_trailer(self, data: bytes, pos: int) -> int:
        # The line end of a trailer is in its limit, the blank line that ends them all is not.
        room = max(self._trailers_left - len(_CRLF), 0)
        line, pos = self._read_line(data, pos, room, "the trailers are too long")
        if line is None:
            return pos
        if not line:
            self.done = True
            self.trailers = tuple(field for field in self._fields if field is not None)
            self._state = _State.END
            return pos
        if len(self._fields) == MAX_TRAILER_FIELDS:
            raise BodyError("there are too many trailers")
        self._fields.append(_trailer(line))
        self._trailers_left -= len(line) + len(_CRLF)
        return pos

    def _read_line(self, data: bytes, pos: int, room: int, excess: str) -> tuple[bytes | None, int]:
        """The line that begins in what is held and goes on at ``pos``, without its end, and the index behind it.

        None if the line end has not come. A line longer than ``room`` is refused as soon as it is, with ``excess``.
        No byte is searched twice, and what is held only grows by what is new: a dripped line costs what it is long.
        """
        held = self._held
        if not held.endswith(b"\r"):
            limit = pos + room - len(held)
            stop = _CONTROL.search(data, pos, limit + 1)
            if stop is None:
                if len(data) > limit:
                    raise BodyError(excess)
                held += data[pos:]
                return None, len(data)
            if data[stop.start()] != _CRLF[0]:
                raise BodyError("a control character is in a chunk's size line or in a trailer")
            held += data[pos : stop.end()]
            pos = stop.end()
            if pos == len(data):
                return None, pos
        if data[pos] != _CRLF[1]:
            raise BodyError("a control character is in a chunk's size line or in a trailer")
        line = bytes(held[:-1])
        held.clear()
        return line, pos + 1


def _plain_chunks(data: bytes, pos: int, parts: list[bytes]) -> int:
    """Walk the whole chunks without extensions that begin at the boundary ``pos``; add their payloads to ``parts``.

    Returns the boundary behind the last of them: ``pos`` if there is none. The last chunk is never walked.

    A chunk's line end is looked up together with the next chunk's size line, so that each is checked by one look-up.
    """
    first = _FIRST_SIZE.match(data, pos)
    if first is None or (size := int(first[1], 16)) == 0:
        return pos
    hop = 2 + len(first[0])
    start = first.end()
    end = start + size
    sizes = _NEXT_SIZES.get
    keep = parts.append
    while True:
        if (following := sizes(data[end : end + 6])) is not None:
            keep(data[start:end])
            hop = 6
        elif (following := sizes(data[end : end + 7])) is not None:
            keep(data[start:end])
            hop = 7
        elif end < len(data) and (found := _NEXT_SIZE.match(data, end)) and (following := int(found[1], 16)):
            keep(data[start:end])
            hop = len(found[0])
        elif data[end : end + 2] == _CRLF:
            keep(data[start:end])
            return end + 2
        else:
            return start - hop + 2
        start = end + hop
        end = start + following


def _trailer(line: bytes) -> tuple[bytes, bytes] | None:
    """The field that ``line`` is, or None if it is to be ignored."""
    found = _TRAILER.fullmatch(line)
    if found is None:
        raise BodyError("a trailer is not `name: value`")
    name = found[1].lower()
    if name in (b"content-length", b"transfer-encoding"):
        raise BodyError("a trailer would frame the body that it ends")
    return None if _is_forbidden(name) else (name, found[2].strip())


def _is_forbidden(name: bytes) -> bool:
    return _NEVER_TRAILER.fullmatch(name.replace(b"_", b"-")) is not None
