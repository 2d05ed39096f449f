"""Call handlers of sockets that are ready: the load generator's loop, in plain Python over epoll."""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Callable
from typing import TypeAlias

from .processes import Wrong

Handler: TypeAlias = Callable[[], None]

# A socket of TLS can be readable without a byte to read yet: half a record, or a session ticket. Since it reads record
# by record, and a handler makes room for a whole one, nothing that came ever waits where epoll does not see it.
NOT_YET = (ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Loop:
    """Call handlers of sockets that are ready.

    Args:
        limit: seconds until `run` gives up.
        spin: look at the sockets without a pause.
    """

    def __init__(self, limit: float, *, spin: bool) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._sockets: set[socket.socket] = set()
        self._wait = 0.0 if spin else 0.2
        self._deadline = time.monotonic() + limit
        self.idle = 0.0
        """Seconds in which nothing was ready."""

    def add(self, sock: socket.socket, handler: Handler | None = None) -> None:
        """Own a socket, and call ``handler`` when it can be read."""
        self._sockets.add(sock)
        if handler is not None:
            self.change(sock, handler)

    def change(self, sock: socket.socket, handler: Handler, events: int = select.EPOLLIN) -> None:
        """From now on call this for a socket that was added."""
        fd = sock.fileno()
        if fd in self._handlers:
            self._epoll.modify(fd, events)
        else:
            sock.setblocking(False)
            self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def drop(self, sock: socket.socket) -> None:
        """Close a socket that was added."""
        if sock.fileno() >= 0:
            self._epoll.unregister(sock.fileno())
            del self._handlers[sock.fileno()]
            sock.close()
        self._sockets.discard(sock)

    def run(self, until: Callable[[], object], waiting_for: str) -> None:
        """Call handlers until ``until`` is true.

        Raises:
            Wrong: the time is over.
        """
        while not until():
            self._turn(self._wait)
            if time.monotonic() > self._deadline:
                raise Wrong(f"the time was over while waiting for {waiting_for}")

    def run_for(self, seconds: float) -> float:
        """Call handlers for some time, once at least; returns how long it really was."""
        clock = time.perf_counter
        start = clock()
        left = seconds
        while True:
            self._turn(min(self._wait, max(left, 0.0)))
            now = clock()
            left = start + seconds - now
            if left <= 0:
                return now - start

    def _turn(self, wait: float) -> None:
        before = time.perf_counter()
        ready = self._epoll.poll(wait)
        if wait or not ready:
            self.idle += time.perf_counter() - before
        handlers = self._handlers
        for fd, _ in ready:
            try:
                handlers[fd]()
            except NOT_YET:
                continue

    def close(self) -> None:
        """Close everything."""
        for sock in self._sockets:
            sock.close()
        self._epoll.close()
