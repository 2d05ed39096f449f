"""The server's leg: requests in, one after another, and their answers out."""

# A connection has one task that runs its requests in order. What belongs to one request is an `Incoming`: it is read
# (the head, the body, and then whatever comes, to see the client leave) and written (a `Sink`). Reading and writing may
# be two tasks; each of the two is done by one at a time.
#
# Ending badly is done in two steps, since the other task may still be reading when the writer gives up: `finish` stops
# sending without the last chunk, and `ServerConnection.aclose`, when nobody reads any more, reads and drops what the
# client still sends for a moment. Closing at once would be a reset, and take the last bytes with it on their way.

from __future__ import annotations

import contextlib
import email.utils
import enum
import functools
import time
from typing import Protocol

import attrs
import h11
import trio

from .._errors import RequestError
from .._items import End, Eof, Head
from ._codec import (
    BodyError,
    Chunked,
    Counted,
    CountedWriter,
    Framing,
    NoBody,
    UntilClose,
    frame_chunk,
    last_chunk,
    reader_for,
    request_framing,
    response_framing,
)
from ._coding import Encoder
from ._guard import HeadLimits, check_request_head, find_head_end, strip_leading_crlf
from ._messages import Headers, Request, fields, reason_phrase, write_head
from ._plain import read_request, write_response
from ._tls import Wire, transport
from ._wire import SocketWire

LINGER_SECONDS = 1.0
"""How long a connection that ended badly is read, so that the client gets what was written before."""

LINGER_BYTES = 64 * 1024

BODY_GRACE = 10.0
"""Seconds of waiting for a request's body before its rate matters."""

PIPELINED_BYTES = 64 * 1024
"""What a client may send ahead of the answer it waits for; beyond that it is not read."""


@attrs.frozen(kw_only=True)
class ServerLimits:
    """What a client may ask of a connection. Sizes in bytes, times in seconds."""

    head: HeadLimits = HeadLimits()

    max_body: int = 64 * 1024 * 1024
    """A request's body: room for a long conversation with a few pictures."""

    head_timeout: float = 10.0
    """From the first byte of a request to the end of its head; also for a TLS handshake, and the first byte of all."""

    keepalive_timeout: float = 75.0
    """Between two requests; what nginx has."""

    body_timeout: float = 30.0
    """For the next bytes of a request's body."""

    min_body_rate: int = 500
    """Bytes per second that a request's body comes with, behind its first `BODY_GRACE` seconds; 0: any. Only the time
    in which we wait for it counts, so that an upstream that reads slowly costs its client nothing."""

    write_timeout: float = 30.0
    """For one write to a client that does not read."""


#: Fields of an answer that the connection decides, and not whoever answers.
_OURS = frozenset({b"connection", b"transfer-encoding"})


class Verbatim(Protocol):
    """Where a payload came from, and in which bytes; see `Incoming.verbatim`."""

    @property
    def payload(self) -> bytes: ...

    @property
    def span(self) -> bytes | None: ...

    @property
    def trailers(self) -> Headers: ...


class _Closing(enum.IntEnum):
    """How a connection is to be closed. It only grows: what must not look complete cannot be made to again."""

    PLAIN = 0
    """There is nothing on its way."""

    LINGER = 1
    """The client may still be sending, and has to get what was written before."""

    ABORT = 2
    """The same, and the answer was cut: TLS says no goodbye."""

    RESET = 3
    """By a reset: an orderly end would be taken for the end of the answer, or is not read."""


class WriteTimeout(Exception):
    """The client does not read."""


class ServerConnection:
    """One connection of a client.

    Args:
        wire: the connection; with TLS, the handshake is still to be done.
        limits: what the client may ask.
        scheme: ``http`` or ``https``, whichever the client speaks.
    """

    def __init__(self, wire: Wire, *, limits: ServerLimits, scheme: str) -> None:
        self.wire = wire
        self.limits = limits
        self.scheme = scheme
        self.peer = transport(wire).peer

        self.closing = False
        """No further request will be read; answers say so."""

        self.idle: trio.CancelScope | None = None
        """Around everything before a request is there; cancel it to close a connection that does nothing."""

        self.intact = True
        """No write was cut, by its deadline or a cancellation: more can be sent behind what was."""

        self._begun = isinstance(wire, SocketWire)
        self._buffer = bytearray()
        self._searched = 0  # how much of it is known to hold no end of a head
        self._served = 0
        self._close_as = _Closing.PLAIN

    async def shake_hands(self) -> bool:
        """Begin the connection, if it is over TLS. False: it could not be begun."""
        if isinstance(self.wire, SocketWire):
            return True
        self._begun = True
        with trio.move_on_after(self.limits.head_timeout) as self.idle, contextlib.suppress(trio.BrokenResourceError):
            await self.wire.do_handshake()
            return True
        return False

    async def next_request(self) -> Incoming | None:
        """Receive the head of the next request; None if there will be none.

        Raises:
            RequestError: what came is no request that can be served. The connection must be closed.
        """
        if self.closing:
            return None
        begun = bool(self._buffer)
        timeout = self.limits.keepalive_timeout if self._served and not begun else self.limits.head_timeout
        with trio.move_on_after(timeout) as self.idle:
            try:
                while (head := self._take_head()) is None:
                    if self._buffer and not begun:
                        begun = True
                        self.idle.deadline = trio.current_time() + self.limits.head_timeout
                    data = await self._receive()
                    if not data:
                        return None
                    self._buffer += data
            finally:
                idle, self.idle = self.idle, None
            return self._read_request(head)
        if begun and trio.current_time() >= idle.deadline:
            raise RequestError(408, "the head of the request did not come in time")
        return None

    def _take_head(self) -> bytes | None:
        """The head that has come, or as much as is too much for one; None if more must come."""
        stripped = strip_leading_crlf(self._buffer)
        if stripped is not self._buffer:
            self._buffer = stripped
            self._searched = 0
        end = find_head_end(self._buffer, self._searched)
        if end < 0 and len(self._buffer) <= self.limits.head.max_head:
            self._searched = len(self._buffer)
            return None
        head = bytes(self._buffer[:end] if end >= 0 else self._buffer)
        del self._buffer[: len(head)]
        self._searched = 0
        return head

    def _read_request(self, head: bytes) -> Incoming:
        request = read_request(head, self.limits.head)
        if request is None:
            check_request_head(head, self.limits.head)
            event = _received_by_h11(head)[1]
            request = Request(event.method, event.target, fields(event.headers), event.http_version)
        self._served += 1
        data = bytes(self._buffer)
        self._buffer.clear()
        return Incoming(self, request, head, data)

    async def _receive(self) -> bytes:
        try:
            return bytes(await self.wire.receive_some())
        except trio.BrokenResourceError:
            return b""

    async def send(self, data: bytes) -> None:
        """Write all of ``data``, at once if it fits.

        Raises:
            WriteTimeout: the client did not read for `ServerLimits.write_timeout`.
            trio.BrokenResourceError: it has gone.
        """
        if not self.send_nowait(data):
            await self.flush()

    def send_nowait(self, data: bytes) -> bool:
        """Write ``data`` as far as it fits. False: `flush` is to write the rest before anything else is written."""
        self.intact = False
        self.intact = self.wire.send_nowait(data)
        return self.intact

    async def flush(self) -> None:
        """Write what `send_nowait` has left. Raises as `send` does."""
        with trio.move_on_after(self.limits.write_timeout) as scope:
            await self.wire.flush()
            self.intact = True
        if scope.cancelled_caught:
            self.abort(reset=True)
            raise WriteTimeout(f"the client did not read for {self.limits.write_timeout:g} s")

    def abort(self, *, reset: bool) -> None:
        """Send nothing more, and no clean end. With ``reset``, tell the client so by a reset when it is closed."""
        self.closing = True
        self._close_as = max(self._close_as, _Closing.RESET if reset else _Closing.ABORT)
        if self._close_as is _Closing.ABORT:
            transport(self.wire).shutdown()
        else:
            transport(self.wire).reset()

    async def refuse(self, error: RequestError, body: bytes, headers: Headers) -> None:
        """Answer something that is not a request, and close. Before the handshake of TLS, which costs more than a
        refusal is worth, only close, by a reset."""
        if not self._begun:
            self.abort(reset=True)
            return
        self.close_after_answer()
        connection = h11.Connection(h11.SERVER)
        response = h11.Response(
            status_code=error.status,
            headers=[*headers, (b"Content-Length", b"%d" % len(body)), _date(), (b"Connection", b"close")],
            reason=reason_phrase(error.status),
        )
        await self.send(write_head(connection, response) + body)

    def fileno(self) -> int:
        """The descriptor of the connection; -1 if there is none."""
        return transport(self.wire).fileno()

    @property
    def client_has_left(self) -> bool:
        """Whether the client has closed its end; for whoever cannot read at the moment."""
        return transport(self.wire).peer_has_left()

    @property
    def ahead(self) -> int:
        """Bytes of further requests that have been received."""
        return len(self._buffer)

    def give_back(self, data: bytes) -> None:
        """Take bytes that belong to the next request."""
        self._buffer += data

    def close_after_answer(self) -> None:
        """Close when the answer has been sent; the client may still be sending, and has to get the answer."""
        self.closing = True
        self._close_as = max(self._close_as, _Closing.LINGER)

    async def aclose(self) -> None:
        """Close; first, if an answer might be lost otherwise, read for a moment what the client still sends."""
        socket = transport(self.wire)
        if self._close_as is _Closing.PLAIN and socket.is_readable():
            self._close_as = _Closing.LINGER  # to close over bytes that were not read is a reset
        try:
            with trio.move_on_after(LINGER_SECONDS):
                if self._close_as < _Closing.ABORT and not isinstance(self.wire, SocketWire):
                    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                        await self.wire.unwrap()
                if self._close_as in (_Closing.LINGER, _Closing.ABORT):
                    socket.shutdown()
                    left = LINGER_BYTES
                    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                        while left > 0 and (data := await socket.receive_some()):
                            left -= len(data)
        finally:
            socket.close()


class Incoming:
    """One request and its answer. A `Sink`.

    Send a head, then bytes, then `finish`; or all at once with `reply`. Framing, ``Date`` and ``Connection`` are its
    affair: a body whose length the head does not say goes out in chunks, to a client of HTTP/1.0 until the connection
    closes.
    """

    def __init__(self, connection: ServerConnection, request: Request, head: bytes, data: bytes) -> None:
        self.connection = connection
        self.request = request
        self._head = head  # as it came; until the answer's is written
        self._protocol: h11.Connection | None = None
        self._limits = connection.limits
        try:
            self._request_framing = request_framing(request.headers)
        except BodyError as error:
            raise RequestError(400, str(error)) from error
        self._reader = reader_for(self._request_framing)
        self._unread = data
        if self._reader.done:
            connection.give_back(data)
            self._unread = b""
        self._body_size = 0
        self._body_waited = 0.0
        if isinstance(self._request_framing, Counted):
            self._check_body_size(self._request_framing.length)
        self._framing: Framing = NoBody()
        self._in_chunks = False
        self._counted: CountedWriter | None = None
        self._finished = False

        self.status = 0
        """The status that was sent; 0 as long as none was."""

        self.last = b""
        """The bytes of the body that were sent last, without what was sent aside."""

        self.verbatim: Verbatim | None = None
        """If the bytes that are sent come from a body in chunks: that body. A payload that comes back as the very
        object it was then goes out in the chunks it came in."""

        self.allowed_trailers: frozenset[bytes] = frozenset()
        """Names, in lower case, of the trailers of that body which are passed on."""

        self.encoder: Encoder | None = None
        """What compresses the body. To be set before the head is sent, which has to say so, and no length."""

    @property
    def body_framing(self) -> Framing:
        """How the request's body is framed."""
        return self._request_framing

    @property
    def body_done(self) -> bool:
        """Whether the whole body of the request has been received."""
        return self._reader.done

    async def receive_body(self) -> bytes:
        """Receive some bytes of the request's body; ``b""`` at its end.

        Raises:
            RequestError: it is malformed (400), or too long (413).
            trio.BrokenResourceError: the client left before the end.
        """
        while True:
            data, self._unread = self._unread, b""
            if not data:
                if self._reader.done:
                    return b""
                data = await self._receive()
            try:
                payload = self._reader.feed(data)
            except BodyError as error:
                raise RequestError(400, str(error)) from error
            if self._reader.done:
                self.connection.give_back(self._reader.trailing)
            if payload:
                self._body_size += len(payload)
                self._check_body_size(self._body_size)
                return payload

    async def _receive(self) -> bytes:
        timeout, rate = self._limits.body_timeout, self._limits.min_body_rate
        if rate:
            timeout = max(0, min(timeout, BODY_GRACE + self._body_size / rate - self._body_waited))
        begun = trio.current_time()
        with trio.move_on_after(timeout):
            data = bytes(await self.connection.wire.receive_some())
            # What came in time may be noticed late, by a busy process: that is not the client's time.
            self._body_waited += min(timeout, trio.current_time() - begun)
            if not data:
                raise trio.BrokenResourceError("the client left before its request was complete")
            return data
        raise RequestError(408, "the body of the request did not come in time")

    def _check_body_size(self, size: int) -> None:
        if size > self._limits.max_body:
            raise RequestError(413, f"the request's body is longer than {self._limits.max_body} bytes")

    @property
    def is_watched(self) -> bool:
        """Whether `wait_gone` would see the client leave; else look at `ServerConnection.client_has_left`."""
        return self._reader.done and self.connection.ahead <= PIPELINED_BYTES

    async def wait_gone(self) -> None:
        """Return when the client has left. What it sends ahead is kept for the next request, up to a limit.

        Call it only when the request's body has been received.
        """
        while self.connection.ahead <= PIPELINED_BYTES:
            try:
                data = bytes(await self.connection.wire.receive_some())
            except trio.BrokenResourceError:
                return
            if not data:
                return
            self.connection.give_back(data)
        await trio.sleep_forever()

    async def send_informational(self, status: int, headers: Headers) -> None:
        """Send a response of the class 1xx; to a client of HTTP/1.0 nothing (RFC 9110, section 15.2)."""
        if self.request.http_version == b"1.1":
            event = h11.InformationalResponse(status_code=status, headers=list(headers), reason=reason_phrase(status))
            await self.connection.send(self._written_by_h11(event))

    async def send_head(self, head: Head, data: bytes = b"") -> None:
        """Send the head, and the first bytes of the body.

        Raises:
            h11.LocalProtocolError: it is no valid head; nothing was sent.
        """
        if self.status:
            raise RuntimeError("a request has one answer, and it has begun")
        headers = [field for field in head.headers if field[0].lower() not in _OURS]
        names = {name.lower() for name, _ in headers}
        if b"date" not in names:
            headers.append(_date())
        chunks = self.request.http_version == b"1.1"
        if chunks and b"content-length" not in names and head.status not in (204, 304):
            headers.append((b"Transfer-Encoding", b"chunked"))
        if not self.request.keeps_alive or not self._reader.done or self.connection.closing:
            headers.append((b"Connection", b"close"))
            self.connection.close_after_answer()
        lowered = [(name.lower(), value) for name, value in headers]
        framing = response_framing(self.request.method, head.status, lowered, b"1.1")
        out = write_response(head.status, headers) if chunks else None
        if out is None:
            event = h11.Response(status_code=head.status, headers=headers, reason=reason_phrase(head.status))
            out = self._written_by_h11(event)
        self._head, self._protocol = b"", None  # of no more use, and a stream may be open for long
        self._framing = framing
        self._in_chunks = isinstance(framing, Chunked)
        if isinstance(framing, Counted):
            self._counted = CountedWriter(framing.length)
        self.status = head.status
        self.last = data
        await self.connection.send(out + self._frame(data) if data else out)

    def _written_by_h11(self, event: h11.Event) -> bytes:
        """A head that is not plain, or not the last."""
        if self._protocol is None:
            self._protocol = _received_by_h11(self._head)[0]
        return write_head(self._protocol, event)

    async def send_all(self, data: bytes) -> None:
        """Send bytes of the body."""
        self.last = data
        await self.connection.send(self._frame(data))

    def send_nowait(self, data: bytes) -> bool:
        """Like `send_all`, as far as that goes at once. False: `flush` is to send the rest."""
        self.last = data
        return self.connection.send_nowait(self._frame(data))

    async def flush(self) -> None:
        """Send what `send_nowait` has left."""
        await self.connection.flush()

    async def send_aside(self, data: bytes) -> None:
        """Send bytes that are none of the stream's: a keep-alive between two of its events."""
        await self.connection.send(self._frame(data))

    def _frame(self, data: bytes) -> bytes:
        if self.encoder is not None:
            data = self.encoder.encode(data)
        if self._in_chunks:
            source = self.verbatim
            if source is not None and data is source.payload and (span := source.span) is not None:
                return span
            return frame_chunk(data)
        match self._framing:
            case Counted():
                assert self._counted is not None
                return self._counted.frame(data)
            case NoBody():
                return b""
            case _:
                return data

    async def finish(self, end: End, trailers: Headers = ()) -> None:
        """End the answer: cleanly for `Eof`, else so that nobody takes it for complete.

        Before a head was sent there is nothing to abort, and another answer can be given. Behind a clean end this does
        nothing; one that was cancelled, or failed, was none.

        Args:
            trailers: sent behind the last chunk of a clean end; of a body that has no chunks they are dropped.

        Raises:
            IncompleteBody: fewer bytes were sent than the head had promised; the answer was aborted.
        """
        if self._finished or not self.status:
            return
        if not isinstance(end, Eof):
            self.abort()
            return
        rest = b"" if self.encoder is None or self._framing == NoBody() else self.encoder.finish()
        match self._framing:
            case Chunked():
                end_of_body = last_chunk((*self._trailers(), *trailers))
                await self.connection.send(frame_chunk(rest) + end_of_body if rest else end_of_body)
            case Counted():
                assert self._counted is not None
                try:
                    self._counted.end()
                except BodyError:
                    self.connection.abort(reset=False)
                    raise
            case _:
                # The end of the connection, or of the head, is the end.
                if rest:
                    await self.connection.send(rest)
        self._finished = True

    def abort(self) -> None:
        """Send nothing more, and no clean end, unless that was sent, or nothing was. Returns at once."""
        if self.status and not self._finished:
            self.connection.abort(reset=isinstance(self._framing, UntilClose))

    def _trailers(self) -> Headers:
        if self.verbatim is None or not self.allowed_trailers:
            return ()
        return tuple(field for field in self.verbatim.trailers if field[0] in self.allowed_trailers)

    async def reply(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole answer in one write."""
        await self.send_head(Head(status, (*headers, (b"Content-Length", b"%d" % len(body)))), body)
        await self.finish(Eof())

    def release(self) -> None:
        """The exchange is over: let the connection go on with the next request, or close."""
        if not (self._reader.done and self._finished):
            self.connection.closing = True


def _received_by_h11(head: bytes) -> tuple[h11.Connection, h11.Request]:
    """h11 when it has read the head of a request, and that request.

    Raises:
        RequestError: it is malformed.
    """
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=len(head))
    try:
        connection.receive_data(head)
        event = connection.next_event()
    except h11.RemoteProtocolError as error:
        raise RequestError(400, f"the request is malformed: {error}") from error
    if not isinstance(event, h11.Request):
        raise RequestError(400, "the request is malformed")
    return connection, event


def _date() -> tuple[bytes, bytes]:
    return b"Date", _date_of(int(time.time()))


@functools.lru_cache(1)
def _date_of(second: int) -> bytes:
    return email.utils.formatdate(second, usegmt=True).encode()
