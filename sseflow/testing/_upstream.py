"""An upstream that plays a script, over real sockets: the faults that a proxy has to survive, at will."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import socket
import ssl
import struct
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from typing import Literal, TypeAlias, TypeVar

import attrs
import h11
import trio

from .._errors import ConfigurationError
from ..http import Address, Encoder, listen
from ._script import (
    After,
    Call,
    Close,
    Drip,
    Finish,
    Framing,
    HeadStep,
    Hold,
    Line,
    Repeat,
    Script,
    Section,
    Send,
    Step,
    Wait,
    body_size,
)

_LINGER = 10
"""Seconds that a connection which was shut stays to see the peer close, too; closing at once could be a reset."""


_CREDENTIALS = ("authorization", "x-api-key", "api-key", "x-goog-api-key", "proxy-authorization", "cookie")

#: How an answer ended: all of it was sent, the upstream broke it off, or the client left before.
Departure: TypeAlias = Literal["whole", "broken", "left"]


class _Left(Exception):
    """The peer has gone."""


class _Closed(Exception):
    """The script has ended the connection."""


class Delivery:
    """How far an answer got."""

    def __init__(self) -> None:
        self.sent = 0
        """Bytes of it that were written, its head and its framing included."""

        self.ended: Departure | None = None
        """How it ended; None: it has not."""

        self._over = trio.Event()

    async def end(self) -> Departure:
        """Wait until the answer has ended; return how."""
        await self._over.wait()
        assert self.ended is not None
        return self.ended

    def _end(self, how: Departure) -> None:
        self.ended = self.ended or how
        self._over.set()


@attrs.frozen
class ReceivedRequest:
    """A request, as it came.

    Attributes:
        connection: which connection it came on, from 1.
        body: what had come of the body when the script began to play.
        delivery: what became of the answer.
    """

    connection: int
    method: str
    target: str
    headers: tuple[tuple[str, str], ...] = attrs.field(repr=False)
    body: bytes
    delivery: Delivery = attrs.field(factory=Delivery, eq=False, repr=False)

    @property
    def path(self) -> str:
        """The target, without a query."""
        return self.target.partition("?")[0]

    @property
    def credentials(self) -> tuple[tuple[str, str], ...]:
        """All fields that can carry a credential, in the order in which they came."""
        return tuple(field for field in self.headers if field[0] in _CREDENTIALS)

    def json(self) -> object:
        """The body, decoded.

        Raises:
            ValueError: it is no JSON.
        """
        return json.loads(self.body)

    def get(self, name: str) -> str | None:
        """The first value of a field, or None."""
        return next((value for key, value in self.headers if key == name.lower()), None)


class Upstream:
    """An HTTP/1.1 server that plays steps; which, its subclasses say for each request.

    Args:
        tls: a server's context, for TLS on each connection.
        framing: that of a head which names none.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None, framing: Framing = "chunked") -> None:
        self._tls = tls
        self._framing = framing
        self._released: set[str] = set()
        self._holding: dict[str, list[trio.CancelScope]] = {}
        self._arrived = trio.Event()
        self._port = 0
        self._host = ""

        self.requests: list[ReceivedRequest] = []
        """What was asked, in the order in which it came."""

        self.connections = 0
        """Connections accepted so far."""

        self.open = 0
        """Connections that neither side has ended."""

    @property
    def url(self) -> str:
        """Where it listens, without a path.

        Raises:
            RuntimeError: it does not listen yet.
        """
        if not self._port:
            raise RuntimeError("it does not listen yet: await nursery.start(upstream.run)")
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'http' if self._tls is None else 'https'}://{host}:{self._port}"

    def release(self, name: str) -> None:
        """Let every ``hold`` of that name go on, those to come, too."""
        self._released.add(name)
        for scope in self._holding.pop(name, []):
            scope.cancel()

    async def arrival(self, count: int = 1) -> None:
        """Wait until so many requests have come."""
        while len(self.requests) < count:
            await self._arrived.wait()

    async def run(
        self, address: str = "127.0.0.1:0", *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until cancelled; with `trio.Nursery.start`, return once it listens.

        Args:
            address: ``HOST:PORT``; port 0 is one that is free.

        Raises:
            ConfigurationError: it cannot listen there.
        """
        try:
            [listener, *others] = listen(Address.parse(address))
        except OSError as error:
            raise ConfigurationError(f"cannot listen on {address}: {error.strerror}") from error
        for other in others:
            other.close()
        self._host, self._port = listener.address.host, listener.address.port
        async with trio.open_nursery() as nursery:
            task_status.started()
            try:
                accepting = trio.socket.from_stdlib_socket(listener.sock)
                while True:
                    sock, _ = await accepting.accept()
                    nursery.start_soon(self._serve, sock)
            finally:
                listener.close()

    def _steps_on_accept(self) -> Sequence[Step] | None:
        """What to play to a connection before it has said anything; None: it is read."""
        return None

    def _reads_body(self, path: str) -> bool:
        """Whether the body of a request is read before it is answered."""
        return True

    def _steps_for(self, request: ReceivedRequest) -> Iterable[Step]:
        """What to play for a request."""
        raise NotImplementedError

    async def _serve(self, sock: trio.socket.SocketType) -> None:
        self.connections += 1
        self.open += 1
        connection = _Connection(self, sock, self.connections)
        try:
            with contextlib.suppress(_Left, _Closed, trio.BrokenResourceError, OSError):
                if (steps := self._steps_on_accept()) is not None:
                    await connection.play(steps)
                    raise _Closed
                await connection.start(self._tls)
                while (request := await connection.receive(self._reads_body)) is not None:
                    self.requests.append(request)
                    self._arrived.set()
                    self._arrived = trio.Event()
                    await connection.answer(tuple(self._steps_for(request)), request.delivery)
        finally:
            self.open -= 1
            sock.close()

    def _hold(self, name: str) -> trio.CancelScope:
        """A scope that is cancelled when ``name`` is released."""
        scope = trio.CancelScope()
        if name in self._released:
            scope.cancel()
        else:
            self._holding.setdefault(name, []).append(scope)
        return scope


class ScriptedUpstream(Upstream):
    """An HTTP/1.1 server that plays a `Script`: as well, or as badly, as that says.

    Each request is answered by the first section that fits it and was not used yet; when all were, by the last that
    fits. A request that none fits is answered with 404.

    Args:
        script: the script or its text.
        tls: a server's context, for TLS on each connection.
        framing: that of a head which names none.

    Raises:
        ScriptError: the text is no script.
    """

    def __init__(
        self, script: Script | str, *, tls: ssl.SSLContext | None = None, framing: Framing = "chunked"
    ) -> None:
        super().__init__(tls=tls, framing=framing)
        self._script = Script.parse(script) if isinstance(script, str) else script
        self._unused = deque(self._script.sections)

    def _steps_on_accept(self) -> Sequence[Step] | None:
        section = self._unused[0] if self._unused else self._script.sections[-1]
        if section.read != "nothing":
            return None
        if self._unused:
            self._unused.popleft()
        return section.steps

    def _find(self, path: str) -> Section | None:
        def fitting(sections: Iterable[Section]) -> Iterator[Section]:
            return (one for one in sections if one.read != "nothing" and one.path in (None, path))

        return next(fitting(self._unused), None) or next(fitting(reversed(self._script.sections)), None)

    def _reads_body(self, path: str) -> bool:
        section = self._find(path)
        return section is None or section.read == "all"

    def _steps_for(self, request: ReceivedRequest) -> Iterable[Step]:
        section = self._find(request.path)
        if section is None:
            return (HeadStep(404, "length", 0, "text/plain", None, ()), Finish())
        if section in self._unused:
            self._unused.remove(section)
        return section.steps


class _Connection:
    """One connection, and where its answer stands."""

    def __init__(self, upstream: Upstream, sock: trio.socket.SocketType, number: int) -> None:
        self._upstream = upstream
        self._sock = sock
        self._number = number
        self._stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] = trio.SocketStream(sock)
        self._unread = b""
        self._framing: Framing = "close"
        self._compressor: Encoder | None = None
        self._delivery = Delivery()
        self._after: After | None = None

    async def start(self, tls: ssl.SSLContext | None) -> None:
        if tls is not None and isinstance(self._stream, trio.SocketStream):
            self._stream = trio.SSLStream(self._stream, tls, server_side=True)
            await self._stream.do_handshake()

    async def receive(self, reads_body: Callable[[str], bool]) -> ReceivedRequest | None:
        """Read a request as h11 does; None: there is no more."""
        parser = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        if self._unread:
            parser.receive_data(self._unread)
        head: h11.Request | None = None
        body = bytearray()
        while True:
            try:
                event = parser.next_event()
            except h11.RemoteProtocolError as error:
                await self._stream.send_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                raise _Left from error
            if event is h11.NEED_DATA:
                data = await self._stream.receive_some()
                if not data:
                    return None
                parser.receive_data(bytes(data))
                continue
            if isinstance(event, h11.Request):
                head = event
                if not reads_body(head.target.decode("ascii").partition("?")[0]):
                    break
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.ConnectionClosed):
                return None
            else:
                break
        assert head is not None
        self._unread = parser.trailing_data[0]
        fields = tuple((name.decode("ascii"), value.decode("latin-1")) for name, value in head.headers)
        return ReceivedRequest(
            self._number, head.method.decode("ascii"), head.target.decode("ascii"), fields, bytes(body)
        )

    async def answer(self, steps: Sequence[Step], delivery: Delivery) -> None:
        """Play ``steps`` for a request, and say of the answer how it ended."""
        self._delivery, self._after = delivery, None
        try:
            await self.play(steps)
        except (_Left, trio.BrokenResourceError, OSError):
            delivery._end("left")
            raise
        delivery._end("whole")

    async def play(self, steps: Sequence[Step]) -> None:
        for i, step in enumerate(steps):
            match step:
                case HeadStep():
                    await self._send_head(step, steps[i + 1 :])
                case Send(data, raw):
                    await self._send(data, raw)
                case Line():
                    for piece in step.pieces():
                        await self._send(piece, raw=False)
                case Drip(seconds, data, raw):
                    for byte in data:
                        await self._wait(seconds)
                        await self._send(bytes([byte]), raw)
                case Wait(seconds):
                    await self._wait(seconds)
                case Hold(name):
                    with self._upstream._hold(name):
                        await self._wait(math.inf)
                case Finish(trailers):
                    await self._finish(trailers)
                case Close(how):
                    await self._close(how)
                case After():
                    self._after = step
                    await self._write(b"")
                case Call(function):
                    function()
                case Repeat(times, repeated):
                    while times is None or times > 0:
                        times = None if times is None else times - 1
                        await self.play(repeated)

    async def _send_head(self, head: HeadStep, behind: Sequence[Step]) -> None:
        self._framing = head.framing or self._upstream._framing
        self._compressor = None if head.coding is None else _compressor(head.coding)
        fields = [("Content-Type", head.content_type), *head.fields]
        if head.coding is not None:
            fields.append(("Content-Encoding", head.coding))
        if self._framing == "chunked":
            fields.append(("Transfer-Encoding", "chunked"))
        elif self._framing == "length":
            fields.append(("Content-Length", str(body_size(behind) if head.length is None else head.length)))
        lines = [f"HTTP/1.1 {head.status} Scripted", *(f"{name}: {value}" for name, value in fields)]
        await self._write("\r\n".join([*lines, "", ""]).encode("latin-1"))

    async def _send(self, data: bytes, raw: bool) -> None:
        if not raw and self._compressor is not None:
            data = self._compressor.encode(data)
        if not raw and self._framing == "chunked":
            data = b"%x\r\n%s\r\n" % (len(data), data)
        await self._write(data)

    async def _write(self, data: bytes) -> None:
        """Write ``data``; what is to be played at a byte of it is played there."""
        while self._after is not None and self._delivery.sent + len(data) >= self._after.size:
            after, self._after = self._after, None
            cut = max(0, after.size - self._delivery.sent)
            await self._put(data[:cut])
            await self.play((after.step,))
            data = data[cut:]
        await self._put(data)

    async def _put(self, data: bytes) -> None:
        if data:
            await self._stream.send_all(data)
            self._delivery.sent += len(data)

    async def _finish(self, trailers: Sequence[tuple[str, str]]) -> None:
        if self._compressor is not None:
            compressor, self._compressor = self._compressor, None
            if data := compressor.finish():
                await self._send(data, raw=False)
        if self._framing == "chunked":
            fields = "".join(f"{name}: {value}\r\n" for name, value in trailers)
            await self._write(f"0\r\n{fields}\r\n".encode("latin-1"))
        self._delivery._end("whole")
        if self._framing == "close":
            await self._close("close")

    async def _wait(self, seconds: float) -> None:
        """Wait, unless the peer leaves."""
        with trio.move_on_after(seconds) if seconds < math.inf else contextlib.nullcontext():
            while data := await self._stream.receive_some():
                self._unread += data
            raise _Left

    async def _close(self, how: str) -> None:
        self._delivery._end("broken")
        if how == "reset":
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._sock.close()
            raise _Closed
        if how == "close" and isinstance(self._stream, trio.SSLStream):
            # It has no half-close: behind its close_notify the socket is closed, too.
            await self._stream.aclose()
            raise _Closed
        self._sock.shutdown(socket.SHUT_WR)
        with trio.move_on_after(_LINGER):
            while await self._sock.recv(65536):
                pass
        raise _Closed


def _compressor(coding: str) -> Encoder:
    try:
        return Encoder(coding)
    except ImportError as error:
        what = f"this script needs {error.name}, which pip install 'sseflow[proxy]' brings"
        raise ConfigurationError(what) from error


AnUpstream = TypeVar("AnUpstream", bound=Upstream)


@contextlib.asynccontextmanager
async def serve_upstream(upstream: AnUpstream, address: str = "127.0.0.1:0") -> AsyncGenerator[AnUpstream, None]:
    """``upstream``, while it listens: until the block is left."""
    async with trio.open_nursery() as nursery:
        await nursery.start(upstream.run, address)
        yield upstream
        nursery.cancel_scope.cancel()


def open_upstream(
    script: Script | str, *, tls: ssl.SSLContext | None = None, framing: Framing = "chunked"
) -> contextlib.AbstractAsyncContextManager[ScriptedUpstream]:
    """A `ScriptedUpstream` that listens on a free port of the loopback interface, until the block is left."""
    return serve_upstream(ScriptedUpstream(script, tls=tls, framing=framing))


async def serve_until_signalled(upstream: Upstream, address: str) -> str | None:
    """Serve until SIGINT or SIGTERM comes; return what is wrong if it cannot."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            try:
                await nursery.start(upstream.run, address)
            except ConfigurationError as error:
                return str(error)
            print(f"listening on {upstream.url}", flush=True)
            await anext(signals)
            nursery.cancel_scope.cancel()
    return None
