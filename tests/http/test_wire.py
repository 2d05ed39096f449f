"""A socket as a Trio stream: all that Trio promises of one holds, and what a proxy needs besides."""

from __future__ import annotations

import contextlib
import hmac
import itertools
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest
import trio
import trio.testing
import trustme
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

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


def make_contexts() -> Contexts:
    """For a client and a server of one authority."""
    authority = trustme.CA()
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("a.example").configure_cert(server_side)
    client_side = ssl.create_default_context()
    authority.configure_trust(client_side)
    return client_side, server_side


@pytest.fixture(scope="module")
def contexts() -> Contexts:
    """The same for all tests that leave them as they are; making them takes a while."""
    return make_contexts()


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
        self.heard = b""

    async def shake_hands(self) -> None:
        """All of the handshake but for its last flight, which waits to be sent."""
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self.send()
                data = await self._wire.receive_some()
                self.heard += data
                self._incoming.write(data)
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


def requests_to_begin_anew(secrets: Path, server_hello: bytes) -> Iterator[bytes]:
    """Records of a client of TLS 1.2 that asks for another handshake, again and again, as no library does."""
    lines = [line.split() for line in secrets.read_text().splitlines()]
    [(client_random, secret)] = [map(bytes.fromhex, line[1:]) for line in lines if line[0] == "CLIENT_RANDOM"]
    seed = b"key expansion" + server_hello[11:43] + client_random  # RFC 5246, section 6.3
    block, a = b"", seed
    while len(block) < 36:
        a = hmac.digest(secret, a, "sha256")
        block += hmac.digest(secret, a + seed, "sha256")
    cipher, salt = AESGCM(block[:16]), block[32:36]
    for number in itertools.count(1):  # RFC 5288, section 3
        sequence, hello = number.to_bytes(8, "big"), b"\x01\0\0\0"
        sealed = cipher.encrypt(salt + sequence, hello, sequence + b"\x16\x03\x03" + len(hello).to_bytes(2, "big"))
        yield b"\x16\x03\x03" + (8 + len(sealed)).to_bytes(2, "big") + sequence + sealed


async def test_what_tls_has_to_say_is_bounded(tmp_path: Path) -> None:
    """A peer that asks TLS on and on for what is refused, while nothing is written, is given up."""
    client_side, server_side = make_contexts()
    client_side.maximum_version = ssl.TLSVersion.TLSv1_2
    client_side.set_ciphers("ECDHE+AES128+AESGCM")
    client_side.keylog_filename = str(tmp_path / "secrets")
    near, far = await tcp_pair()
    with contextlib.closing(near), contextlib.closing(far):
        client, server = Session(near, client_side), TlsWire(far, server_side, server_side=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.do_handshake)
            nursery.start_soon(client.shake_hands)
        requests = requests_to_begin_anew(tmp_path / "secrets", client.heard)
        await near.send_all(b"".join(itertools.islice(requests, 100)))
        await far.wait_readable()
        assert server.receive_nowait() is None
        await near.send_all(b"".join(itertools.islice(requests, 1000)))
        near.shutdown()
        with pytest.raises(trio.BrokenResourceError) as broken:
            await server.receive_some()
        assert "on and on" in str(broken.value.__cause__)


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
