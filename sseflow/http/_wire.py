"""A connected socket, without the layers that a token does not need."""

from __future__ import annotations

import abc
import contextlib
import errno
import select
import socket
import struct

import trio

RECV_SIZE = 64 * 1024
"""Bytes per read. A larger buffer is allocated anew by the system for every small event."""

KEEPALIVE_IDLE = 60
"""Seconds of silence until TCP asks whether the peer is there; NATs forget a connection after some minutes."""

KEEPALIVE_INTERVAL = 15

USER_TIMEOUT = 60_000
"""Milliseconds that sent bytes may stay unacknowledged until the connection counts as broken (RFC 5482)."""


_NOTHING = memoryview(b"")


class PolledStream(trio.abc.Stream):
    """A stream that can be read without waiting. It waits first and reads then: a stream of tokens is mostly silent."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """See `trio.abc.ReceiveStream.receive_some`."""
        if max_bytes is None:
            max_bytes = RECV_SIZE
        elif not isinstance(max_bytes, int):
            raise TypeError("max_bytes must be an integer or None")
        elif max_bytes < 1:
            raise ValueError("max_bytes must be at least 1")
        while True:
            await self.wait_readable()
            data = self.receive_nowait(max_bytes)
            if data is not None:
                return data

    @abc.abstractmethod
    async def wait_readable(self) -> None:
        """Wait until `receive_nowait` may have something to say."""

    @abc.abstractmethod
    def receive_nowait(self, max_bytes: int = RECV_SIZE) -> bytes | None:
        """Like `receive_some`, without waiting; None if nothing that is whole has come."""


class SocketWire(PolledStream, trio.abc.HalfCloseableStream):
    """A connected stream socket as a Trio stream.

    The socket is made non-blocking; over TCP, small writes leave at once and a dead peer is noticed.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sending = False
        self._shut = False
        self._rest = _NOTHING

        self.sent = 0
        """Bytes that were handed to the system."""

        sock.setblocking(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            _set_tcp_options(sock)

    pending = False
    """Whether a read returns at once, whatever the socket says; as of `TlsWire`."""

    def fileno(self) -> int:
        """The descriptor; -1 if this end is closed."""
        return self._sock.fileno()

    @property
    def peer(self) -> str:
        """The address of the peer; ``unix`` for a Unix socket."""
        if self._sock.family == socket.AF_UNIX:
            return "unix"
        try:
            return str(self._sock.getpeername()[0])
        except OSError:
            return "gone"

    async def wait_readable(self) -> None:
        """Wait until `receive_nowait` has something to say. Raises `trio.ClosedResourceError` if this end is closed."""
        await trio.lowlevel.wait_readable(self._open())

    def receive_nowait(self, max_bytes: int = RECV_SIZE) -> bytes | None:
        """Like `receive_some`, without waiting; None if nothing has come."""
        try:
            return self._sock.recv(max_bytes)
        except BlockingIOError:
            return None
        except OSError as error:
            raise _translate(error) from error

    def send_nowait(self, data: bytes | bytearray | memoryview) -> bool:
        """Send what fits at once. False: there is a rest, which `flush` is to send before anything else is sent.

        Raises:
            trio.BrokenResourceError: the peer has gone, or a rest was never sent.
            trio.ClosedResourceError: this end was closed.
        """
        if self._rest:
            raise trio.BrokenResourceError("the write before was cut")
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise _translate(error) from error
        self.sent += sent
        if sent == len(data):
            return True
        self._rest = memoryview(data)[sent:]
        return False

    async def flush(self) -> None:
        """Send what `send_nowait` has left. If this is cancelled, nothing can be sent any more."""
        if self._sending:
            raise trio.BusyResourceError("another task is already sending")
        self._sending = True
        try:
            while self._rest:
                await trio.lowlevel.wait_writable(self._open())
                rest, self._rest = self._rest, _NOTHING
                self.send_nowait(rest)
        finally:
            self._sending = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See `trio.abc.SendStream.send_all`."""
        if self._sending:
            raise trio.BusyResourceError("another task is already sending")
        self._sending = True
        try:
            await trio.lowlevel.checkpoint()
        finally:
            self._sending = False
        self._open()
        if self._shut:
            raise trio.ClosedResourceError("nothing can be sent behind the end")
        if data and not self.send_nowait(data):
            await self.flush()

    async def wait_send_all_might_not_block(self) -> None:
        """See `trio.abc.SendStream.wait_send_all_might_not_block`."""
        if self._sending:
            raise trio.BusyResourceError("another task is already sending")
        self._sending = True
        try:
            await trio.lowlevel.wait_writable(self._open())
        finally:
            self._sending = False

    async def send_eof(self) -> None:
        """See `trio.abc.HalfCloseableStream.send_eof`."""
        if self._sending:
            raise trio.BusyResourceError("another task is already sending")
        self._open()
        await trio.lowlevel.checkpoint()
        self.shutdown()

    def shutdown(self) -> None:
        """Say that nothing more will be sent (FIN); no word of it if the peer has gone."""
        self._shut = True
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Make the closing to come a reset, so that the peer cannot take what it has for complete."""
        with contextlib.suppress(OSError):
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def is_readable(self) -> bool:
        """Whether a read would return at once. An idle connection that is readable has been closed, or is confused."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(0))

    def peer_has_left(self) -> bool:
        """Whether the peer has closed its end, also if bytes that it sent before have not been read yet."""
        poll = select.poll()
        poll.register(self._sock, getattr(select, "POLLRDHUP", 0))  # a reset is told in any case
        return bool(poll.poll(0))

    async def aclose(self) -> None:
        """Close the socket; tasks that wait for it get `trio.ClosedResourceError`."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Like `aclose`, at once."""
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()

    def _open(self) -> socket.socket:
        if self._sock.fileno() < 0:
            raise trio.ClosedResourceError("this connection was closed")
        return self._sock


def _translate(error: OSError) -> Exception:
    if error.errno in (errno.EBADF, errno.ENOTSOCK):
        return trio.ClosedResourceError("this connection was closed")
    return trio.BrokenResourceError(f"the connection is broken: {error}")


def _set_tcp_options(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL),
        ("TCP_USER_TIMEOUT", USER_TIMEOUT),
    ):
        option = getattr(socket, name, None)  # not every system has each
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
