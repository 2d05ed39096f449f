"""Both ends that a proxy stands between, by hand: bytes in, bytes out, so that a test reads as a transcript.

Nothing here sleeps. Every wait is for something that has to come, and gives up after a while: a minute for a person is
too long, an hour on a clock that jumps costs nothing.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Iterator
from typing import Literal, TypeAlias

import attrs
import h11
import trio
import trio.testing

from sseflow.http import Headers

Stream: TypeAlias = trio.SocketStream | trio.SSLStream[trio.SocketStream]

#: How a peer found its connection to end: orderly, or by a reset.
Ending: TypeAlias = Literal["eof", "reset"]


def patience() -> trio.CancelScope:
    """Fail what does not come. On a clock that jumps, other deadlines must have their turn before."""
    jumps = isinstance(trio.lowlevel.current_clock(), trio.testing.MockClock)
    return trio.CancelScope(relative_deadline=3600 if jumps else 10)


@attrs.frozen
class Answer:
    """A response, as the strict client that h11 is reads it."""

    status: int
    headers: Headers
    body: bytes
    complete: bool
    """Whether the body was whole by its framing. A client that is not strict does not look at more."""

    ending: Ending | None
    """How the connection ended, if it did before the body was complete, or as its end."""

    raw: bytes
    informational: tuple[tuple[int, Headers], ...] = ()

    def get(self, name: bytes) -> bytes | None:
        """The value of the only field called ``name``, or None."""
        values = self.all(name)
        assert len(values) < 2, f"{name!r} is there more than once"
        return values[0] if values else None

    def all(self, name: bytes) -> list[bytes]:
        """The values of all fields called ``name``."""
        return [value for key, value in self.headers if key == name]


class Peer:
    """One end of a connection. What was read and not asked for stays in ``buffer``."""

    head: Request
    """The head of a request that a test let the upstream take."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.buffer = b""
        self.ending: Ending | None = None

    @property
    def socket(self) -> trio.socket.SocketType:
        """The socket below, also under TLS."""
        stream = self.stream
        return stream.transport_stream.socket if isinstance(stream, trio.SSLStream) else stream.socket

    async def send(self, data: bytes) -> None:
        """Send all of ``data``."""
        with patience() as scope:
            await self.stream.send_all(data)
        assert not scope.cancelled_caught, "the proxy does not read"

    async def _receive(self) -> bool:
        """Receive more. False: there is nothing more."""
        if self.ending is not None:
            return False
        data: bytes | bytearray | None = None
        with patience():
            try:
                data = await self.stream.receive_some()
            except trio.BrokenResourceError as error:
                # Over TLS, an end without close_notify is what an abort looks like; a FIN is below it.
                cut = isinstance(error.__cause__, ssl.SSLError)
                self.ending = "eof" if cut else "reset"
                self.cut_under_tls = cut
                return False
        assert data is not None, f"nothing came any more behind {self.buffer[-200:]!r}"
        if not data:
            self.ending = "eof"
            return False
        self.buffer += data
        return True

    cut_under_tls = False
    """Whether the end came without a close_notify."""

    async def until(self, marker: bytes) -> bytes:
        """Read up to and including ``marker``."""
        while marker not in self.buffer:
            assert await self._receive(), f"the connection ended before {marker!r}: {self.buffer[-200:]!r}"
        head, _, rest = self.buffer.partition(marker)
        self.buffer = rest
        return head + marker

    async def exactly(self, size: int) -> bytes:
        """Read ``size`` bytes."""
        while len(self.buffer) < size:
            assert await self._receive(), f"the connection ended before {size} bytes: {self.buffer[-200:]!r}"
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    async def rest(self) -> bytes:
        """Read to the end, however it comes; ``ending`` then says how."""
        while await self._receive():
            pass
        data, self.buffer = self.buffer, b""
        return data

    async def answer(self, method: bytes = b"GET") -> Answer:
        """Read one response as strictly as h11 does, and leave what is behind it."""
        connection = h11.Connection(h11.CLIENT)
        connection.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
        connection.send(h11.EndOfMessage())
        raw, body = b"", b""
        informational: list[tuple[int, Headers]] = []
        head: h11.Response | None = None
        complete = False
        while not complete:
            try:
                event = connection.next_event()
            except h11.RemoteProtocolError:
                break
            match event:
                case h11.InformationalResponse():
                    informational.append((event.status_code, _plain(event.headers)))
                case h11.Response():
                    head = event
                case h11.Data():
                    body += event.data
                case h11.EndOfMessage():
                    complete = True
                case h11.ConnectionClosed():
                    break
                case _:
                    more = bool(self.buffer) or await self._receive()
                    # An end by a reset, or without close_notify, is none that a body may end with.
                    if not more and (self.ending == "reset" or self.cut_under_tls):
                        break
                    connection.receive_data(self.buffer)
                    raw += self.buffer
                    self.buffer = b""
        behind = connection.trailing_data[0]
        raw = raw[: len(raw) - len(behind)]
        self.buffer = behind + self.buffer
        assert head is not None, f"no response: {raw!r}"
        headers = _plain(head.headers)
        return Answer(head.status_code, headers, body, complete, self.ending, raw, tuple(informational))

    async def request(self) -> Request:
        """Read the head of one request."""
        head = await self.until(b"\r\n\r\n")
        first, *lines = head[:-4].split(b"\r\n")
        method, target, version = first.split(b" ")
        fields = tuple((name, value) for name, _, value in (line.partition(b": ") for line in lines))
        return Request(method, target, version, fields)

    async def request_of(self, size: int) -> bytes:
        """Read one request with a body of ``size`` bytes; return the body."""
        await self.request()
        return await self.exactly(size)

    async def finish(self) -> None:
        """Say that nothing more will be sent. Over TLS: without a close_notify."""
        stream = self.stream
        plain = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
        with patience():
            await plain.send_eof()

    async def say_goodbye(self) -> None:
        """Close as a good peer does, over TLS with a close_notify."""
        with trio.move_on_after(1):
            await self.stream.aclose()

    def close(self) -> None:
        """Close, just so: what was not read makes it a reset."""
        self.socket.close()

    def reset(self) -> None:
        """Close with a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


@attrs.frozen
class Request:
    """The head of a request, as an upstream sees it: names as they were written."""

    method: bytes
    target: bytes
    version: bytes
    headers: Headers

    def get(self, name: bytes) -> bytes | None:
        """The value of the only field called ``name``, whatever its case, or None."""
        values = self.all(name)
        assert len(values) < 2, f"{name!r} is there more than once"
        return values[0] if values else None

    def all(self, name: bytes) -> list[bytes]:
        """The values of all fields called ``name``, whatever its case."""
        return [value for key, value in self.headers if key.lower() == name.lower()]


class Upstream:
    """Accepts connections, one at a time, for a test to play the server."""

    def __init__(self, listener: trio.SocketListener, tls: ssl.SSLContext | None = None) -> None:
        self._listener = listener
        self._tls = tls
        self.peers: list[Peer] = []

    @classmethod
    async def open(cls, tls: ssl.SSLContext | None = None, *, path: str | None = None) -> Upstream:
        """Listen on a port that is free, or on a Unix socket."""
        if path is None:
            return cls((await trio.open_tcp_listeners(0, host="127.0.0.1"))[0], tls)
        sock = trio.socket.socket(socket.AF_UNIX)
        await sock.bind(path)
        sock.listen()
        return cls(trio.SocketListener(sock), tls)

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._listener.socket.getsockname()[1]
        return port

    async def accept(self) -> Peer:
        """The next connection, behind its handshake."""
        plain: trio.SocketStream | None = None
        with patience():
            plain = await self._listener.accept()
        assert plain is not None, "the proxy did not connect"
        peer = Peer(plain if self._tls is None else trio.SSLStream(plain, self._tls, server_side=True))
        self.peers.append(peer)
        if isinstance(peer.stream, trio.SSLStream):
            with patience():
                await peer.stream.do_handshake()
        return peer

    def nobody_waits(self) -> bool:
        """Whether no connection was made beside those that were accepted."""
        sock = self._listener.socket
        raw = socket.socket(fileno=sock.fileno())
        try:
            raw.setblocking(False)
            raw.accept()[0].close()
        except BlockingIOError:
            return True
        else:
            return False
        finally:
            raw.detach()

    def close(self) -> None:
        """Stop listening, and close what was accepted."""
        self._listener.socket.close()
        for peer in self.peers:
            peer.close()


def chunked(*payloads: bytes) -> bytes:
    """Each payload as a chunk; nothing behind them."""
    return b"".join(b"%x\r\n%b\r\n" % (len(payload), payload) for payload in payloads)


def cuts(data: bytes, size: int) -> Iterator[bytes]:
    """``data`` in pieces."""
    for at in range(0, len(data), size):
        yield data[at : at + size]


def _plain(headers: object) -> Headers:
    return tuple((bytes(name), bytes(value)) for name, value in headers)  # type: ignore[attr-defined]
