"""Listening: addresses, sockets, and the loop that accepts."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import ssl
import stat
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import attrs
import trio

from .._errors import ConfigurationError, RequestError
from ._server import Incoming, ServerConnection, ServerLimits, WriteTimeout
from ._tls import TlsWire, Wire
from ._wire import SocketWire

BACKLOG = 1024
"""Connections that the system may keep until they are accepted."""

FULL_PAUSE = 0.1
"""Seconds to wait when the system has no descriptor or memory for another connection."""

SPREADS = sys.platform == "linux"
"""Whether the system spreads connections over sockets that share a port; others give them all to the last one."""

_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


@attrs.frozen
class Address:
    """Where to listen: a host and a port, or the path of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``HOST:PORT``, ``[IPV6]:PORT`` or ``unix:PATH``.

        Raises:
            ConfigurationError: it is none of these.
        """
        if text.startswith("unix:"):
            if len(text) == len("unix:"):
                raise ConfigurationError(f"{text!r} is no address: behind unix: there must be a path")
            return cls(path=text.removeprefix("unix:"))
        host, colon, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            colon = ""
        if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
            raise ConfigurationError(
                f"{text!r} is no address: it must be like 127.0.0.1:8080, [::1]:8080 or unix:/run/sseflow.sock"
            )
        return cls(host, int(port))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return self.path is not None or self.host == "localhost" or self.host.startswith("127.") or self.host == "::1"

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Listener:
    """A listening socket. ``address`` has the port that was really given.

    Args:
        lent: another process has opened it, and removes the file of a Unix socket.
    """

    def __init__(
        self, sock: socket.socket, address: Address, tls: ssl.SSLContext | None, *, lent: bool = False
    ) -> None:
        self.sock = sock
        self.address = address
        self.tls = tls
        self._lent = lent

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self.sock.fileno() < 0

    def close(self) -> None:
        """Stop listening; a task that accepts gets `trio.ClosedResourceError`."""
        if not self.closed:
            with contextlib.suppress(RuntimeError):  # outside of Trio nobody waits for it
                trio.lowlevel.notify_closing(self.sock)
            self.sock.close()
            if self.address.path is not None and not self._lent:
                with contextlib.suppress(OSError):
                    os.unlink(self.address.path)


def listen(address: Address, *, tls: ssl.SSLContext | None = None) -> list[Listener]:
    """Open what ``address`` stands for: a name may have several addresses.

    Raises:
        OSError: the address is in use, or cannot be had.
    """
    if address.path is not None:
        return [Listener(_listen_unix(address.path), address, tls)]
    listeners: list[Listener] = []
    infos = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    try:
        for family, kind, protocol, _, where in dict.fromkeys(infos):
            sock = _listen_tcp(socket.socket(family, kind, protocol), where)
            listeners.append(Listener(sock, Address(address.host, sock.getsockname()[1]), tls))
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def share(listener: Listener, count: int) -> list[Listener]:
    """Make a listener for each of ``count`` processes of one that nobody has accepted from; it is used up.

    Where the system spreads connections over the sockets of one port, each process has its own: only one of them is
    woken by a connection. Elsewhere, and for Unix sockets, all have the same, and whoever is quicker accepts.

    Raises:
        OSError: the sockets cannot be had. Nothing is left open.
    """
    if not SPREADS or listener.address.path is not None:
        return [listener] * count
    old, where = listener.sock, listener.sock.getsockname()
    # Sockets share a port only if each said so before it was bound. This one did not, so that a port which somebody
    # else has, even one who would share it, was an error.
    listener.close()
    listeners: list[Listener] = []
    try:
        for _ in range(count):
            sock = _listen_tcp(socket.socket(old.family, old.type, old.proto), where, shared=True)
            listeners.append(Listener(sock, listener.address, listener.tls))
    except BaseException:
        for opened in listeners:
            opened.close()
        raise
    return listeners


def _listen_tcp(sock: socket.socket, where: tuple[object, ...], *, shared: bool = False) -> socket.socket:
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(where)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _listen_unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # What a server that died left behind is in the way; one that lives, or a file, is not ours to remove.
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.stat(path).st_mode) and sock.connect_ex(path) == errno.ECONNREFUSED:
                os.unlink(path)
                sock.close()
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(path)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _neighbourhood(peer: str) -> str:
    """An address, or the network that one customer has, who can take any address in it."""
    if ":" not in peer:
        return peer
    address = ipaddress.IPv6Address(peer.partition("%")[0])
    return str(address.ipv4_mapped or ipaddress.IPv6Network((address, 64), strict=False))


class Server:
    """Serve connections of several listeners.

    Args:
        handle: called for each request; it answers and returns. What it raises ends its connection, and no other; that
            the client could not be written to is no error.
        refuse: called for what is not a request, with the connection and why.
        limits: what clients may ask.
        max_connections: open ones, in all; beyond that none is accepted until one ends.
        max_per_address: open ones from one address, or one IPv6 network of 64 bits; one more is refused with
            503, and, over TLS or beyond twice as many, reset: who reads its 503 has a moment for it (RFC 9112, section
            9.6), and these moments are not to fill the server.
        exempt: whether a peer may have any number: one that speaks for many. Unix sockets always may.
        on_error: called with each exception of a handler, and, with a message, when the system is out of descriptors.
    """

    def __init__(
        self,
        handle: Callable[[Incoming], Awaitable[None]],
        *,
        refuse: Callable[[ServerConnection, RequestError], Awaitable[None]],
        on_error: Callable[[str, BaseException], object],
        limits: ServerLimits | None = None,
        max_connections: int = 4096,
        max_per_address: int = 1024,
        exempt: Callable[[str], bool] = lambda peer: False,
    ) -> None:
        self._handle = handle
        self._refuse = refuse
        self._on_error = on_error
        self._limits = limits or ServerLimits()
        self._max_connections = max_connections
        self._max_per_address = max_per_address
        self._exempt = exempt
        self._per_address: Counter[str] = Counter()
        self._connections: set[ServerConnection] = set()
        self._room = trio.Event()
        self._draining = trio.Event()
        self._listeners: list[Listener] = []
        self._complained = -1.0
        self._nursery: trio.Nursery | None = None

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    def _is_full(self) -> bool:
        return len(self._connections) >= self._max_connections

    @property
    def draining(self) -> bool:
        """Whether `drain` was called."""
        return self._draining.is_set()

    async def run(
        self, listeners: Sequence[Listener], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until `drain` was called and the last connection has ended; closes the listeners."""
        self._listeners = list(listeners)
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for listener in listeners:
                    nursery.start_soon(self._accept, listener)
                task_status.started()
                await self._draining.wait()
        finally:
            self._close_listeners()

    def drain(self) -> None:
        """Accept nothing more, close idle connections, and let the others end after the answer they are in."""
        self._draining.set()
        self._close_listeners()
        for connection in self._connections:
            connection.closing = True
            if connection.idle is not None and not connection.ahead:
                connection.idle.cancel()

    def hurry(self) -> None:
        """Behind `drain`: wait for no request any more that is still on its way."""
        for connection in self._connections:
            if connection.idle is not None:
                connection.idle.cancel()

    def cancel(self) -> None:
        """End all connections now; answers that are on their way are cut."""
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()

    async def _accept(self, listener: Listener) -> None:
        while not listener.closed:
            if self._is_full():
                if self._room.is_set():
                    self._room = trio.Event()
                await self._room.wait()
                continue
            try:
                await trio.lowlevel.wait_readable(listener.sock)
                if self._is_full():  # another listener was quicker
                    continue
                sock, _ = listener.sock.accept()
            except trio.ClosedResourceError:
                return
            except OSError as error:
                if error.errno in _FULL:
                    self._complain(error)
                    await trio.sleep(FULL_PAUSE)
                continue  # the client has gone before it was accepted, or another process was quicker
            try:
                plain = SocketWire(sock)
            except OSError:  # it has gone already
                sock.close()
            else:
                tls = listener.tls
                self.admit(plain if tls is None else TlsWire(plain, tls, server_side=True, forgives=True))

    def admit(self, wire: Wire) -> None:
        """Serve a connection that was accepted elsewhere, or is none of the system's; `run` must be running."""
        assert self._nursery is not None
        scheme = "http" if isinstance(wire, SocketWire) else "https"
        connection = ServerConnection(wire, limits=self._limits, scheme=scheme)
        connection.closing = self.draining
        self._connections.add(connection)
        self._per_address[_neighbourhood(connection.peer)] += 1
        self._nursery.start_soon(self._serve, connection)

    def _forget(self, connection: ServerConnection) -> None:
        self._connections.discard(connection)
        neighbourhood = _neighbourhood(connection.peer)
        self._per_address[neighbourhood] -= 1
        if not self._per_address[neighbourhood]:
            del self._per_address[neighbourhood]
        self._room.set()

    def _crowd(self, connection: ServerConnection) -> int:
        """How often the peer's address has as many connections as it may; 0 if this is one that it may have."""
        count = self._per_address[_neighbourhood(connection.peer)]
        if count <= self._max_per_address or connection.peer == "unix" or self._exempt(connection.peer):
            return 0
        return (count - 1) // self._max_per_address

    def _complain(self, error: OSError) -> None:
        now = trio.current_time()
        if now - self._complained >= 1:
            self._complained = now
            self._on_error("no connection can be accepted", error)

    async def _serve(self, connection: ServerConnection) -> None:
        try:
            crowd = self._crowd(connection)
            if crowd > 1:
                connection.abort(reset=True)
            elif crowd:
                await self._refuse(connection, RequestError(503, "there are too many connections from this address"))
            elif await connection.shake_hands():
                await self._serve_requests(connection)
        except* (trio.BrokenResourceError, trio.ClosedResourceError, WriteTimeout):
            pass  # the client has gone, or does not read: an answer could not be written
        except* Exception as errors:
            for error in errors.exceptions:
                self._on_error("a connection ended with an exception", error)
        finally:
            with trio.CancelScope(shield=True), contextlib.suppress(Exception):
                await connection.aclose()
            # Not before: a connection that lingers holds a descriptor as any other does.
            self._forget(connection)

    async def _serve_requests(self, connection: ServerConnection) -> None:
        while True:
            try:
                incoming = await connection.next_request()
                if incoming is None:
                    return
            except RequestError as error:
                await self._refuse(connection, error)
                return
            try:
                await self._handle(incoming)
            finally:
                incoming.release()
