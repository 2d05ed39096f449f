"""Every bound of the HTTP layer, by its name: what is as much as it says passes, one byte or one more does not."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from inspect import signature

import attrs
import pytest
import trio
import trio.testing

from sseflow import RequestError, UpstreamProtocolError
from sseflow.http import (
    ConnectOptions,
    Decoder,
    Headers,
    HeadLimits,
    Incoming,
    Origin,
    Pool,
    PoolOptions,
    Request,
    Server,
    ServerConnection,
    ServerLimits,
    SocketWire,
    _chunked,
    _coding,
    _pool,
)
from sseflow.http._chunked import MAX_EXTENSIONS, MAX_TRAILER_FIELDS, MAX_TRAILERS
from sseflow.http._coding import MAX_CODINGS
from sseflow.http._pool import MAX_INFORMATIONAL
from sseflow.http._server import BODY_GRACE
from sseflow.http._tls import transport

from .test_listen import GET, greet, running

HEAD = HeadLimits()
LIMITS = ServerLimits(max_body=1000, min_body_rate=10)

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n"
CHUNKS = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
COUNTED = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"
CHUNKED_RESPONSE = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def field(size: int) -> bytes:
    """A field line of ``size`` bytes, and its line end."""
    return b"A: " + b"b" * (size - 3) + b"\r\n"


def head(first: bytes, size: int) -> bytes:
    """A head of ``size`` bytes that begins with ``first``, and has no other limit to fear."""
    whole, rest = divmod(size - len(first) - 2, 8192)
    return first + field(8190) * (whole - 1) + field(8190 + rest) + b"\r\n"


def extended(begin: bytes, size: int) -> bytes:
    """A body in two chunks whose extensions have ``size`` bytes together."""
    return begin + b"1;a\r\nx\r\n1;" + b"a" * (size - 3) + b"\r\nx\r\n0\r\n\r\n"


@attrs.frozen
class Bound:
    """How much there may be, a message that has so much of it, and what is said to one that has more."""

    most: int
    make: Callable[[int], bytes]
    refusal: int | str


REQUESTS = {
    "max_head": Bound(HEAD.max_head, lambda n: head(REQUEST, n), 431),
    "max_fields": Bound(HEAD.max_fields, lambda n: REQUEST + b"A: b\r\n" * (n - 1) + b"\r\n", 431),
    "max_line": Bound(HEAD.max_line, lambda n: REQUEST + field(n) + b"\r\n", 431),
    "max_target": Bound(HEAD.max_target, lambda n: b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n" % (b"a" * (n - 1)), 414),
    "max_body": Bound(LIMITS.max_body, lambda n: COUNTED % n + bytes(n), 413),
    "max_body in one chunk": Bound(LIMITS.max_body, lambda n: CHUNKS + b"%x\r\n%b\r\n0\r\n\r\n" % (n, bytes(n)), 413),
    "max_body in many chunks": Bound(LIMITS.max_body, lambda n: CHUNKS + b"1\r\nx\r\n" * n + b"0\r\n\r\n", 413),
    "digits of a chunk's size": Bound(16, lambda n: CHUNKS + b"5".zfill(n) + b"\r\nhello\r\n0\r\n\r\n", 400),
    "MAX_EXTENSIONS": Bound(MAX_EXTENSIONS, lambda n: extended(CHUNKS, n), 400),
    "MAX_TRAILERS": Bound(MAX_TRAILERS, lambda n: CHUNKS + b"0\r\n" + field(n - 2) + b"\r\n", 400),
    "MAX_TRAILER_FIELDS": Bound(MAX_TRAILER_FIELDS, lambda n: CHUNKS + b"0\r\n" + b"A: b\r\n" * n + b"\r\n", 400),
    "line ends before a request": Bound(2, lambda n: b"\r\n" * n + GET, 400),
}

SIZE = "http_response_header_section_size"
PROTOCOL = "http_protocol_error"

RESPONSES = {
    "max_head": Bound(HEAD.max_head, lambda n: head(RESPONSE, n), SIZE),
    "max_fields": Bound(HEAD.max_fields, lambda n: RESPONSE + b"A: b\r\n" * (n - 1) + b"\r\n", SIZE),
    "max_line": Bound(HEAD.max_line, lambda n: RESPONSE + field(n) + b"\r\n", SIZE),
    "MAX_INFORMATIONAL": Bound(
        MAX_INFORMATIONAL, lambda n: b"HTTP/1.1 103 Early Hints\r\n\r\n" * n + RESPONSE + b"\r\n", PROTOCOL
    ),
    "MAX_EXTENSIONS": Bound(MAX_EXTENSIONS, lambda n: extended(CHUNKED_RESPONSE, n), PROTOCOL),
    "MAX_TRAILERS": Bound(MAX_TRAILERS, lambda n: CHUNKED_RESPONSE + b"0\r\n" + field(n - 2) + b"\r\n", PROTOCOL),
    "MAX_TRAILER_FIELDS": Bound(
        MAX_TRAILER_FIELDS, lambda n: CHUNKED_RESPONSE + b"0\r\n" + b"A: b\r\n" * n + b"\r\n", PROTOCOL
    ),
}

#: Those that have tests of their own, below or, the last three, in test_pool.py and test_coding.py.
OTHERS = {"MAX_CODINGS", "max_connections", "max_per_address", "min_body_rate", "max_idle", "max_ratio", "max_decoded"}


def test_every_bound_is_here() -> None:
    """A bound that is added is to be pushed over, too."""
    names = {one.name for kind in (HeadLimits, ServerLimits, PoolOptions) for one in attrs.fields(kind)}
    names.update(*map(vars, (_chunked, _coding, _pool)), *(signature(kind).parameters for kind in (Server, Decoder)))
    bounds = {name for name in names if name.lower().startswith(("max_", "min_")) and not name.endswith("_time")}
    assert bounds - (REQUESTS.keys() | RESPONSES.keys() | OTHERS) == set()


async def said_to_request(sent: bytes) -> int | str:
    """What a server says to a client that sends this: 200, or why it does not."""
    near, far = socket.socketpair()
    connection, client = ServerConnection(SocketWire(near), limits=LIMITS, scheme="http"), SocketWire(far)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, sent)
        try:
            incoming = await connection.next_request()
            assert incoming is not None
            while await incoming.receive_body():
                pass
        except RequestError as error:
            return error.status
        finally:
            nursery.cancel_scope.cancel()
            transport(connection.wire).close()
            client.close()
    return 200


async def said_of_response(sent: bytes) -> int | str:
    """What a call says of an upstream that sends this: 200, or why it does not."""
    near, far = socket.socketpair()
    upstream = SocketWire(far)

    async def dial(origin: Origin, options: ConnectOptions) -> SocketWire:
        return SocketWire(near)

    async def ignore(status: int, headers: Headers) -> None:
        pass

    pool = Pool(dial=dial)
    call = await pool.call(Origin("http", "a", 80))
    await call.send_request(Request(b"GET", b"/", ((b"host", b"a"),)), last=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(upstream.send_all, sent)
        try:
            await call.receive_head(ignore)
            while await call.receive_some():
                pass
        except UpstreamProtocolError as error:
            return error.reason
        finally:
            await call.aclose()
            pool.close()
            upstream.close()
            nursery.cancel_scope.cancel()
    return 200


BOTH = [
    *(pytest.param(said_to_request, bound, id=f"request: {name}") for name, bound in REQUESTS.items()),
    *(pytest.param(said_of_response, bound, id=f"response: {name}") for name, bound in RESPONSES.items()),
]


@pytest.mark.parametrize(("said", "bound"), BOTH)
async def test_a_bound_is_the_last_that_passes(said: Callable[[bytes], Awaitable[int | str]], bound: Bound) -> None:
    """Exactly so much passes, and one more is told what is too much."""
    assert await said(bound.make(bound.most)) == 200
    assert await said(bound.make(bound.most + 1)) == bound.refusal


def test_codings_are_bounded() -> None:
    """So many may lie on top of each other."""
    Decoder(b", ".join([b"gzip"] * MAX_CODINGS))
    with pytest.raises(UpstreamProtocolError):
        Decoder(b", ".join([b"gzip"] * (MAX_CODINGS + 1)))


@pytest.fixture
def jumping_clock() -> trio.testing.MockClock:
    """A clock that jumps when all tasks wait."""
    return trio.testing.MockClock(autojump_threshold=0)


@pytest.fixture
def standing_clock() -> trio.testing.MockClock:
    """A clock that the test moves."""
    return trio.testing.MockClock()


# Connections.


async def test_connections_are_bounded() -> None:
    """So many are served; one more is, too, as soon as one of them has ended, and not before."""
    async with running(greet, max_connections=3) as server:
        clients = [await server.client(GET) for _ in range(3)]
        for client in clients:
            assert (await client.answer()).body == b"hello"
        one_more = await server.client(GET)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert server.server.connections == 3
        clients[0].close()
        assert (await one_more.answer()).body == b"hello"


async def test_connections_of_an_address_are_bounded() -> None:
    """So many are served; one more is refused and closed, and one of another address is none of these."""
    async with running(greet, max_per_address=3) as server:
        clients = [await server.client(GET) for _ in range(3)]
        for client in clients:
            assert (await client.answer()).body == b"hello"
        one_more = await server.client(GET)
        assert (await one_more.answer()).status == 503
        assert await one_more.rest() == b""
        neighbour = await server.client(GET, source="127.0.0.2")
        assert (await neighbour.answer()).body == b"hello"


async def test_who_waits_for_its_refusal_is_bounded(standing_clock: trio.testing.MockClock) -> None:
    """A refused connection stays for a moment, until its client has read why; beyond so many it is reset at once."""
    async with running(greet, max_per_address=2) as server:
        clients = [await server.client(GET) for _ in range(4)]
        assert [(await client.answer()).status for client in clients] == [200, 200, 503, 503]
        one_more = await server.client()
        assert await one_more.rest() == b""
        assert one_more.ending == "reset"
        assert server.server.connections == 4


# The rate of a body.


@attrs.frozen
class Sending:
    """A request whose body is still on its way, and the end that it is sent from."""

    incoming: Incoming
    client: socket.socket

    async def take(self) -> int:
        """Receive the whole body; the status to answer with."""
        try:
            while await self.incoming.receive_body():
                pass
        except RequestError as error:
            return error.status
        return 200


@pytest.fixture
async def sending() -> AsyncIterator[Sending]:
    """A connection on which the head of a request with 1000 bytes has come."""
    near, far = socket.socketpair()
    far.send(COUNTED % 1000)
    wire = SocketWire(near)
    incoming = await ServerConnection(wire, limits=LIMITS, scheme="http").next_request()
    assert incoming is not None
    yield Sending(incoming, far)
    wire.close()
    far.close()


@pytest.mark.parametrize(
    ("rate", "status", "after"), [(10, 200, 100), (9, 408, BODY_GRACE + 81.9), (5, 408, BODY_GRACE + 9.5), (0, 408, 10)]
)
async def test_the_rate_of_a_body_is_bounded(
    sending: Sending, jumping_clock: trio.testing.MockClock, rate: int, status: int, after: float
) -> None:
    """What comes as fast as the bound says is waited for; what is slower, until the grace is used up."""
    begun = trio.current_time()
    async with trio.open_nursery() as nursery:

        async def drip() -> None:
            while True:
                await trio.sleep(1)
                sending.client.send(bytes(rate))

        nursery.start_soon(drip)
        assert await sending.take() == status
        nursery.cancel_scope.cancel()
    assert trio.current_time() - begun == pytest.approx(after, abs=1)


async def test_time_in_which_nobody_reads_is_not_the_clients(
    sending: Sending, jumping_clock: trio.testing.MockClock
) -> None:
    """A body that is read late, since the upstream is slow, has not come late."""
    for _ in range(10):
        sending.client.send(bytes(100))
        await trio.sleep(1000)
        assert len(await sending.incoming.receive_body()) == 100
    assert await sending.take() == 200


async def test_nor_is_time_in_which_the_process_is_busy(
    sending: Sending, standing_clock: trio.testing.MockClock
) -> None:
    """What came in time and is noticed late, since something else ran for long, does not use up the grace."""
    statuses: list[int] = []

    async def take() -> None:
        statuses.append(await sending.take())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        for part in (1, 1, 998):
            await trio.testing.wait_all_tasks_blocked()
            sending.client.send(bytes(part))
            standing_clock.jump(100)
    assert statuses == [200]
