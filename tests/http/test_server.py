"""The server's leg: requests in, their answers out, and time for each step. Virtual time, over sockets in memory."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable

import attrs
import pytest
import trio
import trio.testing

from sseflow import Closed, Eof, Failed, Head, RequestError
from sseflow.http import (
    HeadLimits,
    Incoming,
    IncompleteBody,
    ServerConnection,
    ServerLimits,
    SocketWire,
    WriteTimeout,
)
from sseflow.http._server import PIPELINED_BYTES
from sseflow.http._tls import transport
from sseflow.http._wire import RECV_SIZE

from ..proxy.peers import Peer

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
STREAM = Head(200, ((b"content-type", b"text/event-stream"),))
LAST = b"0\r\n\r\n"


@pytest.fixture
def jumping_clock() -> trio.testing.MockClock:
    """A clock that jumps when all tasks wait."""
    return trio.testing.MockClock(autojump_threshold=0)


class Ends:
    """Both ends of a connection."""

    def __init__(self, connection: ServerConnection, client: Peer) -> None:
        self.connection = connection
        self.client = client

    async def serve(self, request: bytes) -> Incoming:
        """Have the client send ``request``, and receive it."""
        await self.client.send(request)
        incoming = await self.connection.next_request()
        assert incoming is not None
        return incoming

    async def rest(self) -> bytes:
        """Close the server's end as a server does; what the client read until then, and how that ended."""
        got = b""

        async def read() -> None:
            nonlocal got
            got = await self.client.rest()
            self.client.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await self.connection.aclose()
        return got


def ends(near: socket.socket, far: socket.socket, limits: ServerLimits) -> Ends:
    far.setblocking(False)
    client = Peer(trio.SocketStream(trio.socket.from_stdlib_socket(far)))
    return Ends(ServerConnection(SocketWire(near), limits=limits, scheme="http"), client)


LIMITS = ServerLimits(
    head=HeadLimits(max_head=1000, max_fields=10, max_target=100, max_line=500),
    max_body=100,
    head_timeout=10,
    keepalive_timeout=75,
    body_timeout=30,
    write_timeout=20,
)


@pytest.fixture
async def pair() -> AsyncIterator[Ends]:
    """A connection over TCP, with small limits."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        far = socket.create_connection(server.getsockname())
        near, _ = server.accept()
    made = ends(near, far, LIMITS)
    yield made
    transport(made.connection.wire).close()
    made.client.close()


# Time.


async def refused(wait: Awaitable[object]) -> RequestError:
    with pytest.raises(RequestError) as raised:
        await wait
    return raised.value


async def read(incoming: Incoming) -> bytes:
    body = b""
    while data := await incoming.receive_body():
        body += data
    return body


async def test_the_first_byte_has_its_time(pair: Ends, jumping_clock: trio.testing.MockClock) -> None:
    """Who connects and says nothing is closed as late as who says half a head, and without a word."""
    assert await pair.connection.next_request() is None
    assert trio.current_time() == pytest.approx(10)
    assert await pair.rest() == b""


async def test_a_head_has_its_time_in_all(pair: Ends, jumping_clock: trio.testing.MockClock) -> None:
    """The whole head, not each byte, must come in time (T07)."""
    begun = trio.current_time()

    async def drip() -> None:
        for byte in GET[:-1]:
            await trio.sleep(1)
            await pair.client.send(bytes([byte]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drip)
        assert (await refused(pair.connection.next_request())).status == 408
        nursery.cancel_scope.cancel()
    # One second until the first byte, which begins the request.
    assert trio.current_time() - begun == pytest.approx(11)


async def test_between_requests_there_is_more_time(pair: Ends, jumping_clock: trio.testing.MockClock) -> None:
    """A connection that has served waits for as long as it is said to be kept."""
    incoming = await pair.serve(GET)
    await incoming.reply(200, (), b"")
    incoming.release()
    begun = trio.current_time()
    assert await pair.connection.next_request() is None
    assert trio.current_time() - begun == pytest.approx(75)


async def test_a_body_has_its_time_for_each_read(pair: Ends, jumping_clock: trio.testing.MockClock) -> None:
    """A body may take long as long as it comes; silence is a 408."""
    pair.connection.limits = attrs.evolve(LIMITS, min_body_rate=0)
    incoming = await pair.serve(POST)
    for byte in b"hell":
        await trio.sleep(29)
        await pair.client.send(bytes([byte]))
        assert await incoming.receive_body() == bytes([byte])
    begun = trio.current_time()
    assert (await refused(incoming.receive_body())).status == 408
    assert trio.current_time() - begun == pytest.approx(30)


async def test_a_write_has_its_time(pair: Ends, jumping_clock: trio.testing.MockClock) -> None:
    """A client that does not read is reset, whatever is done to end its answer well."""
    incoming = await pair.serve(GET)
    await incoming.send_head(STREAM)
    begun = trio.current_time()
    with pytest.raises(WriteTimeout):
        await incoming.send_all(bytes(64 * 1024 * 1024))
    assert trio.current_time() - begun == pytest.approx(20)
    await incoming.finish(Failed(ValueError()))
    begun = trio.current_time()
    await pair.connection.aclose()
    assert trio.current_time() == begun, "a client that does not read is not waited for"
    await pair.client.rest()
    assert pair.client.ending == "reset"


async def test_lingering_has_its_time(pair: Ends, jumping_clock: trio.testing.MockClock) -> None:
    """A client that keeps its end open behind an answer that closes is waited for a second, no longer."""
    incoming = await pair.serve(POST)
    await incoming.reply(413, (), b"no")
    begun = trio.current_time()
    await pair.connection.aclose()
    assert trio.current_time() - begun == pytest.approx(1)
    assert (await pair.client.answer()).body == b"no"


async def test_nobody_is_reset_for_a_request_too_many(pair: Ends) -> None:
    """To close over bytes that nobody has read would be a reset, and could take the answer with it."""
    incoming = await pair.serve(GET)
    await incoming.reply(200, (), b"ok")
    incoming.release()
    await pair.client.send(GET)
    await pair.connection.wire.wait_readable()
    assert (await pair.rest()).endswith(b"ok")
    assert pair.client.ending == "eof"


async def test_lingering_has_its_limit(pair: Ends) -> None:
    """Nor is more read of it than a little."""
    incoming = await pair.serve(POST)
    await incoming.reply(413, (), b"no")
    async with trio.open_nursery() as nursery:

        async def flood() -> None:
            with contextlib.suppress(trio.BrokenResourceError):
                await pair.client.stream.send_all(bytes(64 * 1024 * 1024))

        nursery.start_soon(flood)
        await pair.connection.aclose()


# Limits.


TOO_MUCH = {
    "head": (GET[:-2] + b"".join(b"A%d: %s\r\n" % (i, b"x" * 200) for i in range(5)) + b"\r\n", 431),
    "head without end": (GET[:-2] + b"A: b\r\n" * 250, 431),
    "fields": (GET[:-2] + b"A: b\r\n" * 10 + b"\r\n", 431),
    "line": (GET[:-2] + b"A: " + b"b" * 500 + b"\r\n\r\n", 431),
    "target": (GET.replace(b"/ ", b"/" + b"x" * 100 + b" "), 414),
    "target without end": (b"GET /" + b"x" * 1000, 414),
    "declared body": (POST.replace(b"5", b"101"), 413),
    "version": (GET.replace(b"1.1", b"2.0"), 505),
    "preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "CONNECT": (b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 405),
    "TRACE": (GET.replace(b"GET", b"TRACE"), 405),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "both framings": (POST[:-2] + b"Transfer-Encoding: chunked\r\n\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "bare LF": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "third empty line": (b"\r\n\r\n\r\n" + GET, 400),
}


@pytest.mark.parametrize(("sent", "status"), TOO_MUCH.values(), ids=TOO_MUCH)
async def test_what_is_no_request_is_refused(pair: Ends, sent: bytes, status: int) -> None:
    """Each limit, and each breach of the grammar, has its status; words about it never repeat what was sent."""
    await pair.client.send(sent)
    error = await refused(pair.connection.next_request())
    assert error.status == status
    await pair.connection.refuse(error, b"{}", ((b"Content-Type", b"application/json"),))
    answer = await pair.client.answer()
    assert (answer.status, answer.body, answer.get(b"connection")) == (error.status, b"{}", b"close")
    assert await pair.rest() == b""


WITHIN = {
    "head": GET[:-2] + b"A: " + b"b" * 490 + b"\r\n" + b"B: " + b"b" * 450 + b"\r\n\r\n",
    "fields": GET[:-2] + b"A: b\r\n" * 9 + b"\r\n",
    "target": GET.replace(b"/ ", b"/" + b"x" * 99 + b" "),
    "declared body": POST.replace(b"5", b"100"),
    "two empty lines": b"\r\n\r\n" + GET,
}


@pytest.mark.parametrize("sent", WITHIN.values(), ids=WITHIN)
async def test_a_limit_is_the_last_that_passes(pair: Ends, sent: bytes) -> None:
    """What is exactly as much as a limit says is served."""
    incoming = await pair.serve(sent)
    assert incoming.request.get(b"host") == b"a"


async def test_a_chunked_body_is_bounded(pair: Ends) -> None:
    """A body that does not say its length is measured as it comes."""
    incoming = await pair.serve(POST.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked"))
    await pair.client.send(b"64\r\n" + b"x" * 100 + b"\r\n1\r\ny\r\n")
    assert (await refused(read(incoming))).status == 413


async def test_a_malformed_body_is_refused(pair: Ends) -> None:
    """Where the framing of a body is in doubt, so is all that follows."""
    incoming = await pair.serve(POST.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked"))
    await pair.client.send(b"5 \r\nhello\r\n")
    assert (await refused(incoming.receive_body())).status == 400
    await incoming.reply(400, (), b"")
    incoming.release()
    assert (await pair.client.answer()).get(b"connection") == b"close"
    assert await pair.connection.next_request() is None


# Answers.


async def test_requests_one_after_the_other(pair: Ends) -> None:
    """What belongs to the next request is kept for it, wherever the reads were cut."""
    await pair.client.send(POST + b"hello" + POST + b"world" + GET)
    for body in (b"hello", b"world", b""):
        incoming = await pair.connection.next_request()
        assert incoming is not None
        assert await incoming.receive_body() == body
        assert await incoming.receive_body() == b""
        await incoming.reply(200, (), body)
        incoming.release()
        assert (await pair.client.answer()).body == body


@pytest.mark.parametrize(
    "finish", [None, Failed(ValueError()), Closed()], ids=["not finished", "failed", "closed by the reader"]
)
async def test_only_a_finished_answer_lets_the_connection_go_on(pair: Ends, finish: Failed | Closed | None) -> None:
    """An answer that was not ended, or cut, is the last one, and has no last chunk."""
    incoming = await pair.serve(GET + GET)
    await incoming.send_head(STREAM)
    await incoming.send_all(b"data: a\n\n")
    if finish is not None:
        await incoming.finish(finish)
    incoming.release()
    assert await pair.connection.next_request() is None
    got = await pair.rest()
    assert got.endswith(b"data: a\n\n\r\n")


async def test_a_clean_end_that_was_cancelled_is_none(pair: Ends) -> None:
    """A last chunk that could not be written in time leaves a connection on which nothing can follow."""
    incoming = await pair.serve(GET + GET)
    await incoming.send_head(STREAM)
    wire = pair.connection.wire
    assert isinstance(wire, SocketWire)
    for size in (64 * 1024, 1):
        with contextlib.suppress(BlockingIOError):
            while wire._sock.send(bytes(size)):
                pass
    with trio.CancelScope() as scope:
        scope.cancel()
        await incoming.finish(Eof())
    await incoming.finish(Closed())
    incoming.release()
    assert await pair.connection.next_request() is None


async def test_a_body_is_held_against_its_length(pair: Ends) -> None:
    """An answer that is shorter than it promised is cut, though its source ended cleanly."""
    incoming = await pair.serve(GET)
    await incoming.send_head(Head(200, ((b"content-length", b"5"),)), b"hel")
    with pytest.raises(IncompleteBody):
        await incoming.finish(Eof())
    incoming.release()
    assert await pair.connection.next_request() is None
    assert (await pair.rest()).endswith(b"hel")


async def test_nothing_is_aborted_that_was_not_begun(pair: Ends) -> None:
    """Before a head was sent, a failed answer can still be another one."""
    incoming = await pair.serve(GET)
    await incoming.finish(Failed(ValueError()))
    await incoming.reply(502, (), b"sorry")
    incoming.release()
    answer = await pair.client.answer()
    assert (answer.status, answer.body, answer.complete) == (502, b"sorry", True)
    await pair.client.send(GET)
    assert await pair.connection.next_request() is not None


ABORTS: dict[str, tuple[bytes, Head, bool]] = {
    "chunks": (GET, STREAM, False),
    "a length": (GET, Head(200, ((b"content-length", b"500"),)), False),
    "until close": (GET.replace(b"1.1", b"1.0"), STREAM, True),
}


@pytest.mark.parametrize("late", [False, True], ids=["as all was sent", "while it still sends"])
@pytest.mark.parametrize(("request_", "head", "reset"), ABORTS.values(), ids=ABORTS)
async def test_how_an_answer_is_aborted(pair: Ends, request_: bytes, head: Head, reset: bool, late: bool) -> None:
    """What tells its end itself is cut by an orderly end of the connection, what does not by a reset."""
    if late:
        request_ = request_.replace(b"GET", b"POST").replace(b"\r\n\r\n", b"\r\nContent-Length: 9\r\n\r\n1")
    incoming = await pair.serve(request_)
    await incoming.send_head(head, b"data: a\n\n")
    await pair.client.until(b"data: a\n\n")
    await incoming.finish(Closed())
    incoming.release()
    assert LAST not in await pair.rest()
    assert pair.client.ending == ("reset" if reset else "eof")


async def test_the_client_is_seen_to_leave(pair: Ends) -> None:
    """`wait_gone` returns when the client closes, and keeps what it sends ahead for the next request."""
    incoming = await pair.serve(GET)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(incoming.wait_gone)
        await pair.client.send(GET)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert pair.connection.ahead == len(GET)
        await pair.client.finish()


async def test_what_is_sent_ahead_is_bounded(pair: Ends) -> None:
    """A client that sends on and on while it is answered is not read for ever."""
    incoming = await pair.serve(GET)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(incoming.wait_gone)
        nursery.start_soon(pair.client.stream.send_all, bytes(64 * 1024 * 1024))
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert PIPELINED_BYTES < pair.connection.ahead <= PIPELINED_BYTES + RECV_SIZE
        nursery.cancel_scope.cancel()


async def test_a_waiting_connection_can_be_let_go(pair: Ends) -> None:
    """Cancelling ``idle`` ends the wait for a request, and nothing else."""
    async with trio.open_nursery() as nursery:
        got: list[Incoming | None] = []

        async def wait() -> None:
            got.append(await pair.connection.next_request())

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert pair.connection.idle is not None
        pair.connection.idle.cancel()
    assert got == [None]
