"""The proxy between an upstream and clients that a test plays by hand."""

from __future__ import annotations

import io
import json
import re
import ssl
from typing import Any, TypeAlias

import attrs
import trio

from sseflow.http import Address, Listener, Origin, listen
from sseflow.proxy._app import App
from sseflow.proxy._log import make_logger
from sseflow.proxy._settings import Binding, Policy, Route, Settings
from sseflow.proxy._settings import Upstream as UpstreamSettings

from .peers import Peer, Upstream, patience

Line: TypeAlias = dict[str, Any]

#: A request as short as one can be.
GET = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"

#: One that asks for a stream of OpenAI's.
CHAT = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"

STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"

#: The head of an event stream in chunks.
STREAM = STREAM_HEAD + b"Transfer-Encoding: chunked\r\n\r\n"

TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"Hello"},"finish_reason":null}]}\n\n'
STOP = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"
LAST = b"0\r\n\r\n"

_ERROR_EVENT = re.compile(rb'(?:event: error\ndata|data): (\{(?:"error"|"type": "error").*\})\n\n\Z')


def split_error(body: bytes) -> tuple[bytes, Any]:
    """A body without the error event at its end, and what that says; None if there is none."""
    found = _ERROR_EVENT.search(body)
    return (body, None) if found is None else (body[: found.start()], json.loads(found[1])["error"])


class Log(io.StringIO):
    """What the proxy logged, line by line. Reading a line waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.taken: list[Line] = []
        self._more = trio.Event()
        self._unread: list[Line] = []

    def write(self, text: str) -> int:
        self.text += text
        for line in text.splitlines():
            assert line.isascii()
            self._unread.append(json.loads(line))
        self._more.set()
        return len(text)

    async def next(self, event: str) -> Line:
        """The next line about ``event``; lines about something else are left."""
        while True:
            for line in self._unread:
                if line["event"] == event:
                    self._unread.remove(line)
                    self.taken.append(line)
                    return line
            self._more = trio.Event()
            with patience() as scope:
                await self._more.wait()
            assert not scope.cancelled_caught, f"{event!r} was not logged; but {self._unread}"

    def unread(self, event: str) -> list[Line]:
        """The lines about ``event`` that nobody has asked for."""
        return [line for line in self._unread if line["event"] == event]

    @property
    def complaints(self) -> list[Line]:
        """The lines that say that something is broken, if nobody has asked for them."""
        return [line for line in self._unread if line["level"] == "error"]


class Rig:
    """A proxy that runs, its upstream, and its log."""

    def __init__(self, app: App, listeners: list[Listener], upstream: Upstream) -> None:
        self.app = app
        self.listeners = listeners
        self.upstream = upstream
        self.log = Log()
        self.ended = trio.Event()
        self.clients: list[Peer] = []

    async def client(self, request: bytes = b"", *, tls: ssl.SSLContext | None = None, at: int = 0) -> Peer:
        """Connect to the proxy, and send ``request``."""
        address = self.listeners[at].address
        with patience():
            if address.path is not None:
                plain = await trio.open_unix_socket(address.path)
            else:
                plain = await trio.open_tcp_stream(address.host, address.port)
            client = Peer(plain if tls is None else trio.SSLStream(plain, tls, server_hostname="a.example"))
            self.clients.append(client)
            if isinstance(client.stream, trio.SSLStream):
                await client.stream.do_handshake()
            if request:
                await client.send(request)
        return client

    async def accept(self) -> Peer:
        """The next connection to the upstream."""
        return await self.upstream.accept()

    async def reach(self, request: bytes) -> tuple[Peer, Peer]:
        """A client that has sent ``request``, and the upstream's end, at which it has arrived.

        A body is taken away, too, if the request has one with a length.
        """
        client = await self.client(request)
        upstream = await self.accept()
        await self.take(upstream)
        return client, upstream

    async def reach_head(self, request: bytes) -> tuple[Peer, Peer]:
        """The same, but the body is left; the request's head is in ``head`` of the upstream's end."""
        client = await self.client(request)
        upstream = await self.accept()
        upstream.head = await upstream.request()
        return client, upstream

    async def take(self, upstream: Peer) -> None:
        """Let the upstream take one request."""
        head = await upstream.request()
        await upstream.exactly(int(head.get(b"content-length") or 0))

    async def line(self) -> Line:
        """The log line of the next exchange."""
        return await self.log.next("exchange")

    def change(self, **options: Any) -> None:
        """Change settings, for requests that come from now on."""
        origin = options.pop("upstream", self.app.settings.routes[0].upstreams[0].origin)
        self.app.configure(settings_for(origin, listen=self.app.settings.listen, **options))

    async def run(self) -> None:
        """Run until the proxy is drained."""
        await self.app.run(self.listeners)
        self.ended.set()

    def leave(self) -> None:
        """Clients and upstream close, whatever they are in."""
        for client in self.clients:
            client.close()
        self.upstream.close()

    async def close(self) -> None:
        """Everybody leaves, and the proxy is drained: it has to end, and nothing may have broken."""
        self.leave()
        self.app.drain()
        self.app.drain()
        with patience():
            await self.ended.wait()
        assert self.ended.is_set(), "the proxy does not end"
        assert not self.app._exchanges
        assert not self.app._server.connections
        assert not self.app.routing.idle
        assert not self.log.complaints


def settings_for(
    origin: Origin, *, listen: tuple[Binding, ...] = (), others: tuple[Origin, ...] = (), **options: Any
) -> Settings:
    """A proxy with one route, to one upstream, and ``others`` that stand in for it.

    Options go where there is one of that name, or as in ``upstream_tls``.
    """

    def take(kind: type, prefix: str = "") -> dict[str, Any]:
        names = attrs.fields_dict(kind)
        taken = [name for name in options if name.startswith(prefix) and name.removeprefix(prefix) in names]
        return {name.removeprefix(prefix): options.pop(name) for name in taken}

    how = {**take(UpstreamSettings, "upstream_"), **take(UpstreamSettings)}
    upstreams = tuple(UpstreamSettings(name=str(each), origin=each, **how) for each in (origin, *others))
    route = Route(upstreams=upstreams, policy=Policy(**take(Policy)), **take(Route))
    return Settings(routes=(route,), listen=listen, **options)


def start(
    nursery: trio.Nursery,
    upstream: Upstream,
    *,
    tls: ssl.SSLContext | None = None,
    addresses: tuple[Address, ...] = (Address("127.0.0.1", 0),),
    origin: Origin | None = None,
    **settings: Any,
) -> Rig:
    """Start a proxy; it listens when this returns."""
    origin = origin or Origin("http", "127.0.0.1", upstream.port)
    made = settings_for(origin, listen=tuple(Binding(address, tls) for address in addresses), **settings)
    listeners = [listener for address in addresses for listener in listen(address, tls=tls)]
    log = Log()
    rig = Rig(App(made, make_logger(log, json=True)), listeners, upstream)
    rig.log = log
    nursery.start_soon(rig.run)
    return rig


@attrs.define
class Starter:
    """Starts proxies for a test, and ends them behind it."""

    nursery: trio.Nursery
    rigs: list[Rig] = attrs.field(factory=list)

    async def __call__(self, *, upstream: Upstream | None = None, **options: Any) -> Rig:
        """A proxy in front of an upstream of its own; the options are those of `start` and `settings_for`."""
        rig = start(self.nursery, upstream or await Upstream.open(), **options)
        self.rigs.append(rig)
        return rig
