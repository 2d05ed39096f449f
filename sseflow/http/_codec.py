"""Move the bytes of a body, once it is ruled how the body is framed (RFC 9112, sections 6.3 and 7.1).

Four readers have one shape. ``feed(data)`` takes what one ``recv`` brought and returns the payload in it; ``done``
says that the message is complete, ``trailing`` holds what came behind it, and ``eof()`` is told when the connection
has ended. A body can be cut anywhere: the joined payload, the trailers, what is trailing and the error are the same for
every cut. So an error carries the payload that came before it in the same ``feed``.

Nothing is copied that can be handed on: where all of a read is payload, the same object comes back. The reader of a
chunked body, which is the one with a grammar, has ``_chunked`` to itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import attrs

from sseflow.http._chunked import _TRAILER, ChunkedReader, _is_forbidden
from sseflow.http._chunked import BodyError as BodyError
from sseflow.http._chunked import IncompleteBody as IncompleteBody
from sseflow.http._guard import LENGTH

#: The end of a chunked body without trailers.
LAST_CHUNK = b"0\r\n\r\n"


@attrs.frozen
class NoBody:
    """The message has no body."""


@attrs.frozen
class Counted:
    """The body has ``length`` bytes."""

    length: int


@attrs.frozen
class Chunked:
    """The body is in chunks and says itself where it ends."""


@attrs.frozen
class UntilClose:
    """The body ends with the connection; only a response can have one."""


#: How a body is framed.
Framing: TypeAlias = NoBody | Counted | Chunked | UntilClose


def request_framing(headers: Iterable[tuple[bytes, bytes]], /) -> Framing:
    """How the body of a request is framed (RFC 9112, section 6.3).

    Args:
        headers: fields as h11 yields them, from a head that the guard let pass; names in lower case.

    Raises:
        BodyError: they say nothing clear.
    """
    return _declared(headers) or NoBody()


def response_framing(
    request_method: bytes, status: int, headers: Iterable[tuple[bytes, bytes]], http_version: bytes
) -> Framing:
    """How the body of a response is framed (RFC 9112, section 6.3).

    An answer to HEAD, and one with the status 1xx, 204 or 304, has no body whatever its fields say; what follows it was
    not asked for.

    Args:
        headers: fields as h11 yields them, from a head that the guard let pass; names in lower case.
        http_version: the version of the response, as h11 yields it (``b"1.1"``).

    Raises:
        BodyError: they say nothing clear, or chunks in HTTP/1.0.
    """
    if request_method == b"HEAD" or status < 200 or status in (204, 304):
        return NoBody()
    if request_method == b"CONNECT" and status < 300:
        return NoBody()
    framing = _declared(headers) or UntilClose()
    if http_version < b"1.1" and framing == Chunked():
        raise BodyError("a body in chunks does not go with HTTP/1.0")
    return framing


def _declared(headers: Iterable[tuple[bytes, bytes]]) -> Counted | Chunked | None:
    """What the fields declare. A transfer coding holds over a length (the guard lets no such request pass)."""
    length: int | None = None
    chunked = False
    for name, value in headers:
        if name == b"transfer-encoding":
            if chunked or value.lower() != b"chunked":
                raise BodyError("the Transfer-Encoding is not exactly `chunked`")
            chunked = True
        elif name == b"content-length":
            if length is not None or LENGTH.fullmatch(value) is None:
                raise BodyError("the Content-Length is not one plain number")
            length = int(value)
    if chunked:
        return Chunked()
    return None if length is None else Counted(length)


class NoBodyReader:
    """Read no body: it is done before it begins, and all that comes is trailing."""

    span: bytes | None = None
    done = True
    trailers: tuple[tuple[bytes, bytes], ...] = ()

    def __init__(self) -> None:
        self.trailing = b""

    def feed(self, data: bytes, /) -> bytes:
        """Keep ``data`` in ``trailing``; the payload is empty."""
        self.trailing += data
        return b""

    def eof(self) -> None:
        """The connection ended, which is fine."""


class CountedReader:
    """Read a body of ``length`` bytes."""

    span: bytes | None = None
    trailers: tuple[tuple[bytes, bytes], ...] = ()

    def __init__(self, length: int, /) -> None:
        self._left = length
        self.done = length == 0
        self.trailing = b""

    def feed(self, data: bytes, /) -> bytes:
        """The payload in ``data``: the same object, unless more comes than the body has: that is in ``trailing``."""
        left = self._left - len(data)
        if left > 0:
            self._left = left
            return data
        payload = data[: self._left]
        self.trailing += data[self._left :]
        self._left = 0
        self.done = True
        return payload

    def eof(self) -> None:
        """The connection ended.

        Raises:
            IncompleteBody: bytes are missing.
        """
        if not self.done:
            raise IncompleteBody("the connection ended before the body had its Content-Length")


class UntilCloseReader:
    """Read a body that ends with the connection."""

    span: bytes | None = None
    trailers: tuple[tuple[bytes, bytes], ...] = ()
    trailing = b""

    def __init__(self) -> None:
        self.done = False

    def feed(self, data: bytes, /) -> bytes:
        """All of ``data``: the same object."""
        return data

    def eof(self) -> None:
        """The connection ended, and with it the body. Whether it ended cleanly is for the caller to know."""
        self.done = True


BodyReader: TypeAlias = NoBodyReader | CountedReader | ChunkedReader | UntilCloseReader


def reader_for(framing: Framing, /) -> BodyReader:
    """A new reader for a body that is framed so."""
    match framing:
        case NoBody():
            return NoBodyReader()
        case Counted(length):
            return CountedReader(length)
        case Chunked():
            return ChunkedReader()
        case UntilClose():
            return UntilCloseReader()


def frame_chunk(payload: bytes, /) -> bytes:
    """``payload`` as one chunk. Empty for an empty payload: a chunk without bytes would end the body."""
    return b"%x\r\n%b\r\n" % (len(payload), payload) if payload else b""


def frame_parts(payload: bytes, /) -> tuple[bytes, bytes, bytes]:
    """``payload`` as one chunk in three pieces, itself among them, to be sent without a copy (over 16 KiB, say).

    All three are empty for an empty payload.
    """
    return (b"%x\r\n" % len(payload), payload, b"\r\n") if payload else (b"", b"", b"")


def last_chunk(trailers: Sequence[tuple[bytes, bytes]] = (), /) -> bytes:
    """The end of a chunked body, with ``trailers``.

    Raises:
        ValueError: a trailer is none by its grammar, or RFC 9110, section 6.5.1, forbids it.
    """
    if not trailers:
        return LAST_CHUNK
    lines = [b"%b: %b" % field for field in trailers]
    for (name, _), line in zip(trailers, lines, strict=True):
        if _is_forbidden(name.lower()) or (found := _TRAILER.fullmatch(line)) is None or found[1] != name:
            raise ValueError("not a field that may be a trailer")
    return b"0\r\n" + b"\r\n".join(lines) + b"\r\n\r\n"


class CountedWriter:
    """Hold what goes out against the Content-Length that was promised."""

    def __init__(self, length: int, /) -> None:
        self._left = length

    @property
    def done(self) -> bool:
        """Whether all that was promised has been framed."""
        return self._left == 0

    def frame(self, payload: bytes, /) -> bytes:
        """The same object, if the promise still holds.

        Raises:
            BodyError: these are more bytes than were promised. None of them is to be sent, and nothing was counted.
        """
        if len(payload) > self._left:
            raise BodyError("the body is longer than its Content-Length")
        self._left -= len(payload)
        return payload

    def end(self) -> None:
        """Nothing more will come.

        Raises:
            IncompleteBody: fewer bytes came than were promised.
        """
        if self._left:
            raise IncompleteBody("the body is shorter than its Content-Length")
