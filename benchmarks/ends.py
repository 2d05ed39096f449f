"""The two ends of whatever stands between them: the upstream that is asked, and the clients that ask."""

# With HTTP the client connects, and its request tells the upstream which stream it is; on bare sockets a target accepts
# two connections per stream: the first is read, the second is written to.

from __future__ import annotations

import contextlib
import functools
import itertools
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import attrs

from .checking import Check, Count
from .jobs import Job
from .loop import NOT_YET, Handler, Loop
from .processes import Wrong

SMALL_RECV = 64 * 1024
"""A larger buffer is allocated anew for each small event, and costs more than the event does."""

BATCH = 100
"""Connections that are opened before the first of them must have arrived."""

PER_ADDRESS = 1000
"""Clients that come from one address: a proxy may allow one address only so many, and 127.0.0.2 is another one."""

MODEL = "demo-1"

KEY = "sk-benchmark-of-streams-on-loopback-and-nowhere-else"
"""What clients show. A gateway with keys or tokens must have been told of it."""

_NUMBERS = itertools.count(1)

OnRequest: TypeAlias = Callable[[socket.socket, int], None]


class Requests:
    """The requests of one job: which stream each is for stands in the prompt, where no relay changes it.

    A relay may still hold requests of an earlier job, whose client has gone; those are not of this one.
    """

    def __init__(self, *, chat: bool, prefix: str = "") -> None:
        path = prefix + ("/v1/chat/completions" if chat else "/events")
        self._mark = b"job-%d-stream-" % next(_NUMBERS)
        self._end = b' Hello."}]}'
        prompt = self._mark + b"%06d" + self._end
        self._body = b'{"model":"%b","stream":true,"messages":[{"role":"user","content":"%b' % (MODEL.encode(), prompt)
        self._head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nAuthorization: "
            f"Bearer {KEY}\r\nAccept: text/event-stream\r\nContent-Length: {len(self._body % 0)}\r\n\r\n"
        ).encode()

    def __getitem__(self, index: int) -> bytes:
        return self._head + self._body % index

    def stream_of(self, data: bytes) -> int | None:
        """Which stream a whole request is for; None for one that is not of this job."""
        at = data.find(self._mark) + len(self._mark)
        return int(data[at : at + 6]) if at >= len(self._mark) else None

    def is_whole(self, data: bytes) -> bool:
        """Whether a request that came, and perhaps was written anew on the way, has come to its end."""
        if data.endswith(self._end):
            return True
        head, blank, body = data.partition(b"\r\n\r\n")
        if not blank:
            return False
        fields = dict(line.lower().partition(b":")[::2] for line in head.split(b"\r\n")[1:])
        if b"chunked" in fields.get(b"transfer-encoding", b""):
            return body.endswith(b"0\r\n\r\n")
        return len(body) >= int(fields.get(b"content-length", b"0"))


@attrs.define(eq=False)
class Stream:
    """One stream: where the upstream writes, where the client reads, and what must come there."""

    index: int
    source: socket.socket
    sink: socket.socket
    check: Check | Count


@functools.cache
def _server_context(folder: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(Path(folder, "cert.pem"), Path(folder, "key.pem"))
    return context


@functools.cache
def _client_context(folder: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(Path(folder, "ca.pem")))


class Ends:
    """Open what a job needs, on a loop.

    Args:
        listener: where the upstream listens; not blocking.
    """

    def __init__(self, job: Job, listener: socket.socket, loop: Loop, requests: Requests) -> None:
        self._job = job
        self._listener = listener
        self._loop = loop
        self._requests = requests
        self._port: int = job.port or listener.getsockname()[1]
        self._client_tls = job.client_tls if job.port else job.upstream_tls
        self._sources: dict[int, socket.socket] = {}

    def connect(self, index: int = 0, port: int | None = None) -> socket.socket:
        """A connection to the target, or to the upstream if there is none, that the loop owns."""
        address = ("127.0.0.1", self._port if port is None else port)
        # The first address is left to the system: it then looks for a free port of the pair of addresses.
        own = (f"127.0.0.{1 + index // PER_ADDRESS}", 0) if index >= PER_ADDRESS else None
        sock = socket.create_connection(address, timeout=self._job.limit, source_address=own)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._client_tls:
            sock = self._secure(sock)
        self._loop.add(sock)
        return sock

    def _secure(self, sock: socket.socket) -> ssl.SSLSocket:
        sock.setblocking(False)
        context = _client_context(self._job.certificates)
        secure = context.wrap_socket(sock, server_hostname="localhost", do_handshake_on_connect=False)
        done = False

        def shake() -> None:
            nonlocal done
            secure.do_handshake()
            done = True

        with contextlib.suppress(*NOT_YET):
            shake()  # the client speaks first
        self._loop.change(secure, shake)
        self._loop.run(lambda: done, "a handshake")
        self._loop.change(secure, lambda: None, 0)
        return secure

    def listen(self, on_request: OnRequest) -> None:
        """Be the upstream; ``on_request`` is told the connection and the stream of each request."""

        def accept() -> None:
            with contextlib.suppress(BlockingIOError):
                while True:
                    sock, _ = self._listener.accept()
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    if self._job.upstream_tls:
                        self._accept_secure(sock, on_request)
                    else:
                        self._loop.add(sock, self._reader(sock, on_request))

        self._loop.add(self._listener.dup(), accept)

    def _accept_secure(self, sock: socket.socket, on_request: OnRequest) -> None:
        sock.setblocking(False)
        context = _server_context(self._job.certificates)
        secure = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)

        def shake() -> None:
            try:
                secure.do_handshake()
            except NOT_YET:
                raise
            except OSError:  # of an earlier job, whose target has ended
                self._loop.drop(secure)
            else:
                self._loop.change(secure, self._reader(secure, on_request))

        self._loop.add(secure, shake)

    def _reader(self, sock: socket.socket, on_request: OnRequest) -> Handler:
        held = b""
        recv = sock.recv
        requests = self._requests

        def read() -> None:
            nonlocal held
            try:
                data = recv(SMALL_RECV)
            except (ConnectionResetError, ssl.SSLEOFError):
                data = b""
            if not data:
                self._loop.drop(sock)
                return
            held += data
            if requests.is_whole(held):
                index = requests.stream_of(held)
                held = b""
                if index is not None:
                    on_request(sock, index)

        return read

    def open(self) -> list[tuple[socket.socket, socket.socket]]:
        """The two ends of each stream, source and sink, with its request sent and arrived."""
        if not self._job.http:
            return [self._open_bare() for _ in range(self._job.streams)]
        self.listen(lambda sock, index: self._sources.update({index: sock}))
        sinks = []
        for index in range(self._job.streams):
            sinks.append(self._ask(index))
            if index % BATCH == BATCH - 1 or index == self._job.streams - 1:
                self._loop.run(lambda: len(self._sources) == len(sinks), "requests to arrive at the upstream")
        return [(self._sources.pop(index), sink) for index, sink in enumerate(sinks)]

    def open_one(self, index: int) -> tuple[socket.socket, socket.socket]:
        """The two ends of one stream more, behind `open`."""
        if not self._job.http:
            return self._open_bare()
        sink = self._ask(index)
        self._loop.run(lambda: index in self._sources, "a request to arrive at the upstream")
        return self._sources.pop(index), sink

    def _ask(self, index: int) -> socket.socket:
        sink = self.connect(index)
        send_whole(sink, self._requests[index])
        return sink

    def _open_bare(self) -> tuple[socket.socket, socket.socket]:
        if self._job.port is not None:
            return self.connect(), self.connect()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            sink = self.connect(port=listener.getsockname()[1])
            source, _ = listener.accept()
            source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._loop.add(source)
        return source, sink


def send_whole(sock: socket.socket, data: bytes) -> None:
    """Send a few hundred bytes, at once.

    Raises:
        Wrong: the socket did not take them.
    """
    if sock.send(data) != len(data):
        raise Wrong("a socket did not take a few hundred bytes at once")
