"""A socket as a Trio stream: all that Trio promises of one holds, and what a proxy needs besides."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import pytest
import trio
import trio.testing
import trustme

from sseflow.http import SocketWire, TlsWire
from sseflow.http._wire import KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, USER_TIMEOUT

Pair: TypeAlias = tuple[SocketWire, SocketWire]
Contexts: TypeAlias = tuple[ssl.SSLContext, ssl.SSLContext]
Maker: TypeAlias = Callable[[], Awaitable[Pair]]


async def tcp_pair() -> Pair:
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    return SocketWire(near), SocketWire(far)


async def unix_pair() -> Pair:
    near, far = socket.socketpair()
    return SocketWire(near), SocketWire(far)


async def clogged_unix_pair() -> Pair:
    """Two ends neither of which can send. Not over TCP: there the system makes room again when it likes."""
    pair = await unix_pair()
    for wire in pair:
        for size in (64 * 1024, 1):
            with contextlib.suppress(BlockingIOError):
                while wire._sock.send(bytes(size)):
                    pass
    return pair


@pytest.mark.parametrize(
    ("make", "clogged"), [(tcp_pair, None), (unix_pair, clogged_unix_pair)], ids=["tcp", "unix, also clogged"]
)
async def test_a_wire_is_a_half_closeable_stream(make: Maker, clogged: Maker | None) -> None:
    """`SocketWire` passes Trio's own conformance check, also while it cannot send."""
    await trio.testing.check_half_closeable_stream(make, clogged)


@pytest.fixture(scope="module")
def contexts() -> Contexts:
    """For a client and a server of one authority."""
    authority = trustme.CA()
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("a.example").configure_cert(server_side)
    client_side = ssl.create_default_context()
    authority.configure_trust(client_side)
    return client_side, server_side


async def test_tls_is_a_two_way_stream(contexts: Contexts) -> None:
    """`TlsWire` passes Trio's own conformance check."""

    async def make() -> tuple[TlsWire, TlsWire]:
        near, far = await tcp_pair()
        client = TlsWire(near, contexts[0], server_hostname="a.example")
        server = TlsWire(far, contexts[1], server_side=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.do_handshake)
            nursery.start_soon(server.do_handshake)
        return client, server

    await trio.testing.check_two_way_stream(make, None)


class Session:
    """The client's end of a TLS session, by hand: what it has to say goes out when the test says so."""

    def __init__(self, wire: SocketWire, context: ssl.SSLContext) -> None:
        self._wire = wire
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="a.example")

    async def shake_hands(self) -> None:
        """All of the handshake but for its last flight, which waits to be sent."""
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self.send()
                self._incoming.write(await self._wire.receive_some())
            else:
                return

    async def send(self) -> None:
        """Send, in one piece, all that the session has to say."""
        await self._wire.send_all(self._outgoing.read())


@pytest.mark.parametrize("ends", [False, True], ids=["goes on", "ends"])
async def test_what_comes_with_the_end_of_the_handshake_is_read(contexts: Contexts, ends: bool) -> None:
    """Bytes in one segment with the last flight wait in the session, where no socket shows them; so does an end."""
    near, far = await tcp_pair()
    with contextlib.closing(near), contextlib.closing(far):
        client, server = Session(near, contexts[0]), TlsWire(far, contexts[1], server_side=True)

        async def come() -> None:
            await client.shake_hands()
            client.tls.write(b"early")
            if ends:
                with contextlib.suppress(ssl.SSLWantReadError):
                    client.tls.unwrap()
            await client.send()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.do_handshake)
            nursery.start_soon(come)
        assert not far.is_readable()
        assert server.receive_nowait(2) == b"ea"
        assert await server.receive_some() == b"rly"
        assert server.receive_nowait() == (b"" if ends else None)


async def test_tcp_options_are_set() -> None:
    """Small writes leave at once, and a dead peer is noticed."""
    near, far = await tcp_pair()
    with contextlib.closing(near), contextlib.closing(far):
        for wire in (near, far):
            sock = wire._sock
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == KEEPALIVE_IDLE
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == KEEPALIVE_INTERVAL
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == USER_TIMEOUT


async def test_reset_makes_closing_a_reset() -> None:
    """Behind `reset` the peer gets an error where it would have got a clean end."""
    near, far = await tcp_pair()
    with contextlib.closing(far):
        near.reset()
        near.close()
        with pytest.raises(trio.BrokenResourceError):
            await far.receive_some()


async def test_shutdown_is_a_clean_end_of_one_direction() -> None:
    """Behind `shutdown` the peer reads to the end, and can still be read."""
    near, far = await tcp_pair()
    with contextlib.closing(near), contextlib.closing(far):
        await near.send_all(b"last")
        near.shutdown()
        assert await far.receive_some() == b"last"
        assert await far.receive_some() == b""
        await far.send_all(b"more")
        assert await near.receive_some() == b"more"


async def test_readable_means_that_a_read_would_return() -> None:
    """Bytes, an end and a reset are all readable; silence is not."""
    near, far = await tcp_pair()
    with contextlib.closing(near), contextlib.closing(far):
        assert not near.is_readable()
        await far.send_all(b"x")
        assert near.is_readable()
        assert await near.receive_some() == b"x"
        assert not near.is_readable()
        far.shutdown()
        assert near.is_readable()
    near, far = await tcp_pair()
    with contextlib.closing(near):
        far.reset()
        far.close()
        assert near.is_readable()


async def test_a_cancelled_read_loses_nothing() -> None:
    """What comes after a read was cancelled is there for the next one."""
    near, far = await tcp_pair()
    with contextlib.closing(near), contextlib.closing(far):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.receive_some)
            await trio.testing.wait_all_tasks_blocked()
            await far.send_all(b"abc")
            nursery.cancel_scope.cancel()
        # The read may have been quicker than the cancellation; then there is nothing more.
        far.shutdown()
        assert await near.receive_some() in (b"abc", b"")


async def test_send_nowait_sends_what_fits() -> None:
    """`send_nowait` says whether all went out, and `flush` sends the rest, before which nothing else is sent."""
    near, far = await tcp_pair()
    with contextlib.closing(near), contextlib.closing(far):
        assert near.send_nowait(b"abc")
        assert await far.receive_some() == b"abc"
        size = 0
        while near.send_nowait(bytes(1024 * 1024)):
            size += 1024 * 1024
        with pytest.raises(trio.BrokenResourceError, match="cut"):
            near.send_nowait(b"abc")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.flush)
            left = size + 1024 * 1024
            while left:
                left -= len(await far.receive_some())
        assert near.send_nowait(b"abc")
        assert await far.receive_some() == b"abc"


async def test_nothing_is_sent_to_who_is_gone() -> None:
    """Sending to a peer that has gone, or from an end that was closed, is an error."""
    near, far = await tcp_pair()
    with contextlib.closing(near):
        far.reset()
        far.close()
        with pytest.raises(trio.BrokenResourceError):
            near.send_nowait(b"abc")
        near.close()
        with pytest.raises(trio.ClosedResourceError):
            near.send_nowait(b"abc")


async def test_the_peer_is_an_address() -> None:
    """The peer of a TCP wire is its address without the port, that of a Unix wire ``unix``."""
    for make, peer in ((tcp_pair, "127.0.0.1"), (unix_pair, "unix")):
        near, far = await make()
        with contextlib.closing(near), contextlib.closing(far):
            assert near.peer == peer


async def test_sent_counts_what_the_system_took() -> None:
    """`sent` grows by what was really handed over, also if a send is cancelled."""
    near, far = await tcp_pair()
    with contextlib.closing(near), contextlib.closing(far):
        await near.send_all(b"abc")
        assert near.sent == 3
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.send_all, bytes(64 * 1024 * 1024))
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert 3 < near.sent < 3 + 64 * 1024 * 1024
