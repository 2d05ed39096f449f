"""The client's leg: calls to upstreams, over connections that are used again only when that is safe."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import attrs
import h11
import trio

from .._errors import UpstreamError, UpstreamLost, UpstreamProtocolError, UpstreamTimeout
from .._items import Head
from ._codec import BodyError, BodyReader, NoBodyReader, reader_for, response_framing
from ._connect import ConnectOptions, Origin, connect
from ._guard import HeadLimits, check_response_head, find_head_end
from ._messages import Headers, Request, Response, fields, write_head
from ._plain import read_response, write_request
from ._tls import Wire, is_silent, transport

MAX_INFORMATIONAL = 8
"""Responses of the class 1xx before the real one; nobody sends more than two."""

#: Called with the status and the fields of each response of the class 1xx.
OnInformational: TypeAlias = Callable[[int, Headers], Awaitable[None]]


#: How a connection to an origin is made.
Dial: TypeAlias = Callable[[Origin, ConnectOptions], Awaitable[Wire]]


@attrs.frozen(kw_only=True)
class PoolOptions:
    """How connections are made and kept. Times in seconds."""

    connect: ConnectOptions = ConnectOptions()
    head: HeadLimits = HeadLimits()

    write_timeout: float = 60.0
    """For one write to an upstream that does not read. A busy one may leave a request lying for a while."""

    max_idle: int = 64
    """Idle connections in all. Each holds a descriptor here and there."""

    max_idle_time: float = 30.0
    """An upstream, or something between, closes idle connections after a minute or so; we had better be first."""


class Pool:
    """Connections to upstreams.

    A connection comes back only if its response ended cleanly with nothing behind it, and both sides would go on.

    Args:
        options: how connections are made and kept.
        dial: makes a connection, and raises as `connect` does, which it is by default.
    """

    def __init__(self, options: PoolOptions | None = None, *, dial: Dial = connect) -> None:
        self.options = options or PoolOptions()
        self._dial = dial
        self._idle: list[tuple[float, Origin, Wire]] = []  # the oldest first
        self._closed = False

    @property
    def idle(self) -> int:
        """How many idle connections there are."""
        return len(self._idle)

    async def call(self, origin: Origin, *, fresh: bool = False) -> Call:
        """A call over an idle connection, or a new one; only over a new one if ``fresh``. Raises as `connect` does."""
        wire = None if fresh else self._take(origin)
        if wire is not None:
            return Call(self, origin, wire, reused=True)
        return Call(self, origin, await self._dial(origin, self.options.connect), reused=False)

    def _take(self, origin: Origin) -> Wire | None:
        """The connection that was used last, of those that are still good."""
        self.expire()
        while (at := max((i for i, idle in enumerate(self._idle) if idle[1] == origin), default=-1)) >= 0:
            wire = self._idle.pop(at)[2]
            if is_silent(wire):
                return wire
            transport(wire).close()
        return None

    def give(self, origin: Origin, wire: Wire) -> None:
        """Take back a connection that is good for another call."""
        self._idle.append((trio.current_time(), origin, wire))
        self.expire()
        if self._closed:
            self.close()

    def expire(self) -> None:
        """Close what has been idle for too long, and the oldest of what is too much."""
        limit = trio.current_time() - self.options.max_idle_time
        while self._idle and (self._idle[0][0] <= limit or len(self._idle) > self.options.max_idle):
            transport(self._idle.pop(0)[2]).close()

    def close(self) -> None:
        """Close all idle connections, and from now on each one that would become idle."""
        self._closed = True
        while self._idle:
            transport(self._idle.pop()[2]).close()


class Call:
    """One request to an upstream and its answer. A `Source`: what it receives is the body.

    Use it so: `send_request`, `send_body` as often as needed, `receive_head`, `receive_some` until ``b""``, `aclose`.
    """

    def __init__(self, pool: Pool, origin: Origin, wire: Wire, *, reused: bool) -> None:
        self.origin = origin
        self.reused = reused
        """Whether the connection was idle before."""

        self.answered = False
        """Whether one byte of an answer has come."""

        self.http_version = b""
        """The version of HTTP in which the answer came."""

        self.payload = b""
        """The bytes that `receive_some` returned last."""

        self.span: bytes | None = None
        """The raw chunks that they came in, if these are whole; see `ChunkedReader`."""

        self._pool = pool
        self._wire = wire
        self._sent_before = transport(wire).sent
        self._request: Request | None = None
        self._protocol: h11.Connection | None = None
        self._method = b""
        self._request_keeps_alive = False
        self._request_done = False
        self._received = bytearray()
        self._peeked: list[bytes] = []  # of the body: what `receive_some` gives first
        self._reader: BodyReader = NoBodyReader()
        self._response: Response | None = None
        self._double_framing = False
        self._error: Exception | None = None
        self.ready = False
        """Whether `receive_nowait` has something to say without asking the system."""

        self._eof = False
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether `aclose` was called."""
        return self._closed

    @property
    def head(self) -> Head:
        """The head of the answer; `receive_head` must have returned."""
        assert self._response is not None
        return self._response.head

    @property
    def trailers(self) -> Headers:
        """The trailers that came behind a body in chunks."""
        return self._reader.trailers

    @property
    def written(self) -> bool:
        """Whether any byte of the request was handed to the system."""
        return transport(self._wire).sent > self._sent_before

    async def send_request(self, request: Request, data: bytes = b"", *, last: bool) -> None:
        """Send the head of the request and the first bytes, already framed, of its body; ``last``: that is all.

        Raises:
            UpstreamLost: the connection is gone.
            UpstreamTimeout: the upstream did not read for `PoolOptions.write_timeout`.
        """
        self._method = request.method
        self._request = request
        self._request_keeps_alive = request.keeps_alive
        head = write_request(request) or self._written_by_h11(request)
        await self.send_body(head + data, last=last)

    def _written_by_h11(self, request: Request) -> bytes:
        """A head that is not plain; or any, for what h11 has to read then."""
        limit = self._pool.options.head.max_head
        self._protocol = h11.Connection(h11.CLIENT, max_incomplete_event_size=limit)
        event = h11.Request(method=request.method, target=request.target, headers=list(request.headers))
        return write_head(self._protocol, event)

    async def send_body(self, data: bytes, *, last: bool) -> None:
        """Send more bytes, already framed, of the request's body. Raises as `send_request` does."""
        timeout = self._pool.options.write_timeout
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            if data and not self._wire.send_nowait(data):
                with trio.fail_after(timeout):
                    await self._wire.flush()
        except trio.TooSlowError:
            raise UpstreamTimeout(
                f"{self.origin} did not read the request for {timeout:g} s", reason="connection_write_timeout"
            ) from None
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._lost("while the request was sent", error) from error
        self._request_done = last

    async def receive_head(self, on_informational: OnInformational) -> Head:
        """Receive the head of the answer.

        Raises:
            UpstreamLost: the connection ended before it.
            UpstreamProtocolError: it is none.
        """
        for left in range(MAX_INFORMATIONAL, -1, -1):
            response = await self._receive_response()
            head = response.head
            if head.status >= 200:
                self._begin_body(response)
                return head
            if head.status == 101:
                raise _malformed("the upstream switched protocols, which nobody had asked for")
            if left:
                await on_informational(head.status, head.headers)
        raise _malformed(f"the upstream sent more than {MAX_INFORMATIONAL} responses of the class 1xx")

    async def _receive_response(self) -> Response:
        limits = self._pool.options.head
        searched = 0
        while (end := find_head_end(self._received, searched)) < 0 and len(self._received) <= limits.max_head:
            searched = len(self._received)
            try:
                data = await self._wire.receive_some()
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise self._lost("before it had answered", error) from error
            if not data:
                raise self._lost("before it had answered", None)
            self.answered = True
            self._received += data
        raw = bytes(self._received[:end] if end >= 0 else self._received)
        del self._received[: len(raw)]
        return read_response(raw, limits) or self._received_by_h11(raw)

    def _received_by_h11(self, raw: bytes) -> Response:
        head = check_response_head(raw, self._pool.options.head)
        self._double_framing = head is not raw
        if self._protocol is None:
            assert self._request is not None
            self._written_by_h11(self._request)
            assert self._protocol is not None
        try:
            self._protocol.receive_data(head)
            event = self._protocol.next_event()
        except h11.RemoteProtocolError as error:
            raise _malformed(f"the upstream's answer is malformed: {error}") from error
        if not isinstance(event, (h11.InformationalResponse, h11.Response)):
            raise _malformed("the upstream's answer is malformed")
        return Response(Head(event.status_code, fields(event.headers)), event.http_version)

    def _begin_body(self, response: Response) -> None:
        head = response.head
        try:
            framing = response_framing(self._method, head.status, head.headers, response.http_version)
        except BodyError as error:
            raise _malformed(str(error)) from error
        self._request = self._protocol = None  # of no more use, and a stream may be open for long
        self._reader = reader_for(framing)
        self.ready = self._reader.done or bool(self._received) or self._wire.pending
        self.http_version = response.http_version
        self._response = response

    @property
    def peeked(self) -> bytes:
        """What was peeked at."""
        return b"".join(self._peeked)

    async def peek(self) -> bytes:
        """Receive more bytes of the body, and keep them: `receive_some` gives all of them again.

        Raises as `receive_some` does; who asks that then is given what was kept, and then the same error.
        """
        while (data := self.peek_nowait()) is None:
            await self._wait_readable()
        return data

    def peek_nowait(self) -> bytes | None:
        """Like `peek`, without waiting; None if nothing that is payload has come."""
        kept, self._peeked = self._peeked, []
        try:
            data = self.receive_nowait()
            if data:
                kept.append(data)
        finally:
            self._peeked = kept
            self.ready = self.ready or bool(kept)
        return data

    async def receive_some(self) -> bytes:
        """Receive some bytes of the body; ``b""`` is its complete end.

        Raises:
            UpstreamLost: the connection ended before the body did.
            UpstreamProtocolError: the body's framing is broken.
        """
        while True:
            if not self.ready:
                await self._wait_readable()
            data = self.receive_nowait()
            if data is not None:
                return data

    async def _wait_readable(self) -> None:
        try:
            await self._wire.wait_readable()
        except trio.ClosedResourceError as error:
            raise self._lost("in the middle of its answer", error) from error

    def fileno(self) -> int:
        """The descriptor of the connection; see `PolledSource`."""
        return transport(self._wire).fileno()

    def receive_nowait(self) -> bytes | None:
        """Like `receive_some`, without waiting; None if nothing that is payload has come."""
        reader, wire = self._reader, self._wire
        if self._peeked:
            self.payload, self.span = b"".join(self._peeked), None
            self._peeked.clear()
            return self.payload
        if self._error is not None:
            raise self._error
        while not (reader.done or self._eof):
            data: bytes | None
            if self._received:
                data = bytes(self._received)
                self._received.clear()
            else:
                try:
                    data = wire.receive_nowait()
                except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                    raise self._lost("in the middle of its answer", error) from error
                if data is None:
                    self.ready = False
                    return None
                if not data:
                    self._end_of_connection()
                    break
            try:
                payload = reader.feed(data)
            except BodyError as error:
                self._error = _malformed(f"the upstream's body is malformed: {error}")
                if not error.payload:
                    self.ready = True
                    raise self._error from error
                payload = error.payload
            if payload:
                self.payload, self.span = payload, reader.span
                self.ready = self._reader.done or wire.pending or self._error is not None
                return payload
        self.ready = True
        return b""

    def _end_of_connection(self) -> None:
        self._eof = self.ready = True
        try:
            self._reader.eof()
        except BodyError as error:
            self._error = UpstreamLost(f"{self.origin}: {error}", reason="http_response_incomplete")
            raise self._error from error

    async def aclose(self) -> None:
        """Give the connection back to the pool if it is good, else close it. Once only; later calls do nothing."""
        if not self.close_nowait():
            self._closed = True
            with contextlib.suppress(trio.BrokenResourceError):
                await trio.aclose_forcefully(self._wire)

    def close(self) -> None:
        """Like `aclose`, at once, and without a goodbye."""
        if not self.close_nowait():
            self._closed = True
            transport(self._wire).close()

    def close_nowait(self) -> bool:
        """Give the connection back to the pool if it is good; True also if it was closed before."""
        if self._closed:
            return True
        response = self._response
        if (
            response is not None
            and response.keeps_alive
            and self._request_keeps_alive
            and self._request_done
            and self._reader.done
            and not (self._eof or self._reader.trailing or self._received or self._double_framing or self._error)
        ):
            self._closed = True
            self._pool.give(self.origin, self._wire)
        return self._closed

    def _lost(self, when: str, error: Exception | None) -> UpstreamError:
        how = "closed the connection" if error is None else f"was lost ({error})"
        incomplete = self.answered and self._response is None
        return UpstreamLost(
            f"{self.origin} {how} {when}",
            reason="http_response_incomplete" if error is None and incomplete else "connection_terminated",
        )


def _malformed(message: str) -> UpstreamProtocolError:
    return UpstreamProtocolError(message, reason="http_protocol_error")
