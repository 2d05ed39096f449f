"""A gateway in front of fake providers, for tests."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Literal

import attrs
import trio
import trio.testing

from sseflow.http import Address as Address
from sseflow.http import Listener, Origin, listen
from sseflow.proxy._app import App
from sseflow.proxy._log import make_logger
from sseflow.proxy._settings import Policy, Route, Settings, Upstream
from sseflow.resilience import Secret
from sseflow.testing import FakeProvider

from .peers import Answer, Peer, patience
from .rig import Line, Log

CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"

#: The least that each API wants to be asked.
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"model": "m", "stream": True, "messages": [{"role": "user", "content": "?"}]},
    RESPONSES: {"model": "m", "stream": True, "input": "?"},
    MESSAGES: {"model": "m", "stream": True, "max_tokens": 9, "messages": [{"role": "user", "content": "?"}]},
}


def upstream_for(provider: FakeProvider, *, name: str, keys: tuple[str, ...] = (), **options: Any) -> Upstream:
    """How a gateway reaches a fake provider."""
    field: Literal["authorization", "x-api-key"] = "x-api-key" if provider.kind == "anthropic" else "authorization"
    prefix = "/api/v1" if provider.kind == "openrouter" else "/v1"
    origin = Origin.parse(provider.url + prefix)
    secrets = tuple(Secret(key) for key in keys)
    defaults: dict[str, Any] = {"pass_credentials": not keys, "tell_who": False, "key_field": field}
    return Upstream(name=name, origin=origin, keys=secrets, **{**defaults, **options})


class Gateway:
    """A gateway that runs, and its log."""

    def __init__(self, settings: Settings, **options: Any) -> None:
        self.log = Log()
        self.listeners: list[Listener] = listen(Address("127.0.0.1", 0))
        self.admin: list[Listener] = listen(Address("127.0.0.1", 0))
        self.app = App(settings, make_logger(self.log, json=True), **options)
        self._peers: list[Peer] = []

    @property
    def url(self) -> str:
        """Where clients connect to."""
        return f"http://{self.listeners[0].address}"

    async def connect(self, *, admin: bool = False) -> Peer:
        """A connection of a client, or of an operator."""
        address = (self.admin if admin else self.listeners)[0].address
        with patience():
            peer = Peer(await trio.open_tcp_stream(address.host, address.port))
            self._peers.append(peer)
            return peer
        raise AssertionError("the gateway does not accept")

    async def send(
        self, path: str, body: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> Peer:
        """Ask for ``/NAME/v1/...``; None: with the least that its API wants to be asked."""
        if body is None:
            body = next(body for end, body in BODIES.items() if path.endswith(end))
        peer = await self.connect()
        data = json.dumps(body).encode()
        fields = {"Host": "a", "Content-Length": str(len(data)), **(headers or {})}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        await peer.send(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + data)
        return peer

    async def ask(
        self, path: str, body: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Ask over a connection of its own, and read the answer to its end."""
        peer = await self.send(path, body, headers)
        answer = await peer.answer(b"POST")
        peer.close()
        self._peers.remove(peer)
        return answer

    async def operate(self, method: str, path: str, headers: str = "") -> Answer:
        """Ask as an operator."""
        peer = await self.connect(admin=True)
        await peer.send(f"{method} {path} HTTP/1.1\r\nHost: a\r\n{headers}\r\n".encode())
        return await peer.answer(method.encode())

    async def line(self, event: str = "exchange") -> Line:
        """The next log line of that kind."""
        return await self.log.next(event)

    async def kept(self) -> None:
        """Wait until what is kept of exchanges that are over is written."""
        await self._until(lambda: not self.app.keeper.pending)

    async def left(self) -> None:
        """Wait until the client of the one stream that lives was seen to leave."""
        [exchange] = self.app.exchanges
        await self._until(lambda: exchange._answer.left)

    async def _until(self, holds: Callable[[], bool]) -> None:
        with patience():
            while not holds():
                await trio.testing.wait_all_tasks_blocked()
                await trio.lowlevel.checkpoint()
        assert holds()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until it is drained."""
        await self.app.run(self.listeners, self.admin, task_status=task_status)

    def close(self) -> None:
        """End it, whatever its streams are doing."""
        for peer in self._peers:
            peer.close()
        self.app.drain()
        self.app.drain()


@asynccontextmanager
async def running(*routes: Route, settings: Mapping[str, Any] | None = None, **options: Any) -> AsyncIterator[Gateway]:
    """Run a gateway; behind the block nothing of it is left, and nothing may have broken."""
    gateway = Gateway(Settings(routes=routes, listen=(), **(settings or {})), **options)
    async with trio.open_nursery() as nursery:
        await nursery.start(gateway.run)
        try:
            yield gateway
        finally:
            gateway.close()
    assert not gateway.app.exchanges
    assert not gateway.app.routing.idle
    assert not gateway.log.complaints


def route_to(
    *upstreams: Upstream, path: str = "/openai", policy: Mapping[str, Any] | None = None, **options: Any
) -> Route:
    """A route to upstreams, which stand in for one another in this order."""
    return Route(path=path.encode(), upstreams=upstreams, policy=Policy(**(policy or {})), **options)


@attrs.frozen
class Stream:
    """What a client got of a stream."""

    text: str
    events: tuple[Any, ...]
    done: bool
    error: Any


def read_chat(body: bytes) -> Stream:
    """The text of a stream of chat completions, and how it ends."""
    text, events, error, done = "", [], None, False
    for block in body.decode().split("\n\n"):
        for line in block.splitlines():
            if line == "data: [DONE]":
                done = True
            elif line.startswith("data: "):
                event = json.loads(line.removeprefix("data: "))
                events.append(event)
                error = event.get("error", error)
                for choice in event.get("choices", ()):
                    text += choice["delta"].get("content") or ""
    return Stream(text, tuple(events), done, error)
