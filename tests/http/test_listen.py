"""Listening: addresses, the loop that accepts, and what one connection can do to the others: nothing."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import pytest
import trio
import trio.testing

from sseflow import Cancelled, ConfigurationError, Eof, Head, RequestError
from sseflow.http import Address, Incoming, Listener, Server, ServerConnection, listen, share
from sseflow.http._listen import SPREADS

from ..proxy.peers import Peer, patience

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
LOOPBACK = Address("127.0.0.1", 0)


ADDRESSES = {
    "127.0.0.1:8080": (Address("127.0.0.1", 8080), True),
    "127.1.2.3:0": (Address("127.1.2.3", 0), True),
    "localhost:80": (Address("localhost", 80), True),
    "[::1]:8080": (Address("::1", 8080), True),
    "[::]:8080": (Address("::", 8080), False),
    "0.0.0.0:65535": (Address("0.0.0.0", 65535), False),
    "a.example:80": (Address("a.example", 80), False),
    "unix:/run/x.sock": (Address(path="/run/x.sock"), True),
    "unix:x": (Address(path="x"), True),
}


@pytest.mark.parametrize("text", ADDRESSES)
def test_an_address_is_read(text: str) -> None:
    """An address says where to listen, and whether only this machine can reach it; it is written as it is read."""
    address, loopback = ADDRESSES[text]
    assert Address.parse(text) == address
    assert address.is_loopback == loopback
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    ["", "8080", ":8080", "a.example", "a.example:", "a.example:x", "a:65536", "a:-1", "::1:8080", "a:²", "unix:"],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    """The message says what was given, and what would be an address."""
    with pytest.raises(ConfigurationError, match="is no address"):
        Address.parse(text)


def test_a_port_is_given() -> None:
    """Port 0 is any that is free; the listener knows which."""
    (listener,) = listen(LOOPBACK)
    assert listener.address.port == listener.sock.getsockname()[1] != 0
    listener.close()
    listener.close()


def test_a_name_may_have_several_addresses() -> None:
    """Each address of a name is listened on."""
    listeners = listen(Address("localhost", 0))
    families = {listener.sock.family for listener in listeners}
    for listener in listeners:
        listener.close()
    assert socket.AF_INET in families


def test_an_address_in_use_is_an_error() -> None:
    """Nobody listens beside somebody else, and nothing is left open."""
    (listener,) = listen(LOOPBACK)
    with pytest.raises(OSError, match="in use"):
        listen(listener.address)
    listener.close()


@pytest.mark.skipif(not SPREADS, reason="this system does not spread connections over sockets that share a port")
def test_a_port_is_shared_by_processes() -> None:
    """Each has a socket of its own, and its part of the connections; nobody else has any."""
    (listener,) = listen(LOOPBACK)
    shared = share(listener, 2)
    (address,) = {listener.address for listener in shared}
    with pytest.raises(OSError, match="in use"):
        listen(address)
    clients = [socket.create_connection((address.host, address.port)) for _ in range(64)]
    accepted = [list(accept_all(listener)) for listener in shared]
    assert all(accepted)
    assert sum(map(len, accepted)) == len(clients)
    for sock in (*clients, *accepted[0], *accepted[1]):
        sock.close()
    for listener in shared:
        listener.close()


def accept_all(listener: Listener) -> Iterator[socket.socket]:
    """The connections that wait."""
    while True:
        try:
            yield listener.sock.accept()[0]
        except BlockingIOError:
            return


def test_a_unix_socket_is_shared_as_it_is(tmp_path: Path) -> None:
    """It cannot be had twice; and to whom it was lent leaves its file alone."""
    path = tmp_path / "x.sock"
    (listener,) = listen(Address(path=str(path)))
    assert share(listener, 2) == [listener, listener]
    Listener(listener.sock.dup(), listener.address, None, lent=True).close()
    assert path.exists()
    listener.close()
    assert not path.exists()


def test_a_unix_socket_is_made_and_removed(tmp_path: Path) -> None:
    """Its file goes when the listener does."""
    path = tmp_path / "x.sock"
    (listener,) = listen(Address(path=str(path)))
    assert stat.S_ISSOCK(path.stat().st_mode)
    listener.close()
    assert not path.exists()


def test_what_a_dead_server_left_is_replaced(tmp_path: Path) -> None:
    """The file of a server that was killed is in nobody's way; that of one that lives, and any other, is not ours."""
    path = tmp_path / "x.sock"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    (listener,) = listen(Address(path=str(path)))
    with pytest.raises(OSError, match="in use"):
        listen(Address(path=str(path)))
    listener.close()
    path.write_text("precious")
    with pytest.raises(OSError, match="in use"):
        listen(Address(path=str(path)))
    assert path.read_text() == "precious"


# Serving.

Handler: TypeAlias = Callable[[Incoming], Awaitable[None]]


class Running:
    """A server that runs, and what it complained about."""

    def __init__(self, server: Server, listeners: list[Listener], errors: list[BaseException]) -> None:
        self.server = server
        self.listeners = listeners
        self.errors = errors
        self.ended = trio.Event()
        self.clients: list[Peer] = []

    async def client(self, request: bytes = b"", at: int = 0, *, source: str | None = None) -> Peer:
        """Connect, from the address ``source`` if that matters, and send ``request``."""
        address = self.listeners[at].address
        client = Peer(await trio.open_tcp_stream(address.host, address.port, local_address=source))
        self.clients.append(client)
        await client.send(request)
        return client

    async def run(self) -> None:
        """Run until it is drained."""
        await self.server.run(self.listeners)
        self.ended.set()


@asynccontextmanager
async def running(
    handle: Handler, *, listeners: int = 1, max_connections: int = 100, max_per_address: int = 100
) -> AsyncIterator[Running]:
    """A server with ``handle``. Behind the block it is drained, and has to end."""
    errors: list[BaseException] = []

    async def refuse(connection: ServerConnection, error: RequestError) -> None:
        await connection.refuse(error, b"", ())

    server = Server(
        handle,
        refuse=refuse,
        on_error=lambda message, error: errors.append(error),
        max_connections=max_connections,
        max_per_address=max_per_address,
    )
    made = Running(server, [listener for _ in range(listeners) for listener in listen(LOOPBACK)], errors)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.run)
        try:
            yield made
            for client in made.clients:
                client.close()
            server.drain()
            with patience():
                await made.ended.wait()
            assert made.ended.is_set()
            assert server.connections == 0
        finally:
            for client in made.clients:
                client.close()
        nursery.cancel_scope.cancel()


async def greet(incoming: Incoming) -> None:
    if incoming.request.target == b"/":
        await incoming.reply(200, (), b"hello")
        return
    name = incoming.request.target.removeprefix(b"/").decode()
    await MISBEHAVES[name](incoming)


async def raises(incoming: Incoming) -> None:
    raise ValueError("a bug")


async def raises_a_group(incoming: Incoming) -> None:
    async def fail() -> None:
        raise ValueError("a bug")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)
        nursery.start_soon(fail)


async def raises_behind_a_head(incoming: Incoming) -> None:
    await incoming.send_head(Head(200, ((b"content-type", b"text/plain"),)), b"half")
    raise ValueError("a bug")


async def answers_nothing(incoming: Incoming) -> None:
    pass


async def answers_twice(incoming: Incoming) -> None:
    await incoming.reply(200, (), b"one")
    await incoming.reply(200, (), b"two")


async def writes_a_broken_head(incoming: Incoming) -> None:
    await incoming.send_head(Head(200, ((b"a b", b"c\r\nd: e"),)))


async def raises_a_trio_error(incoming: Incoming) -> None:
    raise trio.ClosedResourceError


MISBEHAVES: dict[str, Handler] = {
    "raises": raises,
    "raises_a_group": raises_a_group,
    "raises_behind_a_head": raises_behind_a_head,
    "answers_nothing": answers_nothing,
    "answers_twice": answers_twice,
    "writes_a_broken_head": writes_a_broken_head,
    "raises_a_trio_error": raises_a_trio_error,
}


@pytest.mark.parametrize("name", MISBEHAVES)
async def test_what_a_handler_raises_ends_its_connection_only(name: str) -> None:
    """Whatever happens to one connection, the others go on (T22), and so does the server."""
    async with running(greet) as server:
        neighbour = await server.client(GET)
        assert (await neighbour.answer()).body == b"hello"
        victim = await server.client(GET.replace(b"/ ", b"/%s " % name.encode()) + GET)
        assert b"hello" not in await victim.rest()
        await neighbour.send(GET)
        assert (await neighbour.answer()).body == b"hello"
        newcomer = await server.client(GET)
        assert (await newcomer.answer()).body == b"hello"
    assert bool(server.errors) == (name not in ("answers_nothing", "raises_a_trio_error"))


@pytest.mark.parametrize(
    "sent",
    [b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x00" * 100, b"\x16\x03\x01"],
    ids=["CONNECT", "PRI", "zeros", "TLS"],
)
async def test_what_is_no_request_harms_nobody(sent: bytes) -> None:
    """What brought servers down before is refused, and nothing else happens."""
    async with running(greet) as server:
        neighbour = await server.client(GET)
        await neighbour.answer()
        stranger = await server.client(sent)
        assert (await stranger.answer()).status in (400, 405, 505)
        assert await stranger.rest() == b""
        await neighbour.send(GET)
        assert (await neighbour.answer()).body == b"hello"
    assert not server.errors


async def test_an_exception_in_a_handler_that_is_cancelled() -> None:
    """A handler that fails as the server is ended by force is reported, and does not come out of `run`."""

    async def handle(incoming: Incoming) -> None:
        async def fail() -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("a bug")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(fail)

    async with running(handle) as server:
        await server.client(GET)
        await trio.testing.wait_all_tasks_blocked(0.01)
        server.server.drain()
        server.server.cancel()
        with patience():
            await server.ended.wait()
    assert len(server.errors) == 1


async def test_a_client_that_leaves_is_no_error() -> None:
    """Also if it is met inside a handler's own nursery."""

    async def handle(incoming: Incoming) -> None:
        async def write() -> None:
            await incoming.send_head(Head(200, ()))
            while True:
                await incoming.send_all(bytes(65536))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)

    async with running(handle) as server:
        client = await server.client(GET)
        await client.until(b"\r\n\r\n")
        client.reset()
        while server.server.connections:
            await trio.testing.wait_all_tasks_blocked()
    assert not server.errors


async def test_connections_are_bounded() -> None:
    """Beyond the limit nobody is accepted, on whatever address, until somebody leaves."""
    async with running(greet, listeners=2, max_connections=1) as server:
        first = await server.client(GET)
        assert (await first.answer()).body == b"hello"
        waiting = [await server.client(GET, at) for at in (0, 1)]
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert server.server.connections == 1
        first.close()
        answered = trio.Event()

        async def ask(client: Peer) -> None:
            assert (await client.answer()).body == b"hello"
            client.close()
            answered.set()

        async with trio.open_nursery() as nursery:
            for client in waiting:
                nursery.start_soon(ask, client)
        for at in (0, 1):
            client = await server.client(GET, at)
            assert (await client.answer()).body == b"hello"
            client.close()


async def test_a_full_server_can_be_drained() -> None:
    """A server that has no room for another connection still stops listening, on all its addresses."""
    async with running(greet, listeners=3, max_connections=1) as server:
        client = await server.client(GET)
        await client.answer()
        for at in range(3):
            await server.client(at=at)
        await trio.testing.wait_all_tasks_blocked(0.02)
        server.server.drain()
        with patience():
            await server.ended.wait()
        assert server.ended.is_set()


async def test_draining_closes_what_is_idle_and_lets_the_rest_end() -> None:
    """No new connections; idle ones are closed at once, the others behind the answer they are in."""
    go = trio.Event()

    async def handle(incoming: Incoming) -> None:
        await incoming.send_head(Head(200, ()), b"half")
        await go.wait()
        await incoming.send_all(b"done")
        await incoming.finish(Eof())

    async with running(handle) as server:
        idle = await server.client()
        begun = await server.client(b"GET /")
        busy = await server.client(GET + GET)
        await busy.until(b"half")
        server.server.drain()
        assert server.server.draining
        assert await idle.rest() == b""
        with pytest.raises(OSError, match="failed"):
            await server.client()
        assert not server.ended.is_set()
        go.set()
        assert b"done" in await busy.until(b"0\r\n\r\n")
        assert await busy.rest() == b""
        await begun.send(GET[5:])
        answer = await begun.answer()
        assert (answer.body, answer.get(b"connection")) == (b"halfdone", b"close")
        begun.close()
        with patience():
            await server.ended.wait()
        assert server.ended.is_set()


async def test_a_forced_end_cuts_what_is_left() -> None:
    """`cancel` ends all connections, and no answer looks complete."""

    async def handle(incoming: Incoming) -> None:
        await incoming.send_head(Head(200, ()), b"half")
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await incoming.finish(Cancelled())

    async with running(handle) as server:
        busy = await server.client(GET)
        await busy.until(b"half")
        server.server.drain()
        server.server.cancel()
        assert b"0\r\n\r\n" not in await busy.rest()


async def test_descriptors_are_not_lost() -> None:
    """A thousand connections later there are as many descriptors as before."""
    async with running(greet) as server:

        async def visit() -> None:
            for _ in range(50):
                client = await server.client(GET)
                await client.answer()
                client.close()

        await visit()
        await trio.testing.wait_all_tasks_blocked(0.02)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            await visit()
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert len(os.listdir("/proc/self/fd")) == before
