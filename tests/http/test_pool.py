"""The client's leg: a connection is used again only when that is safe."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from sseflow import UpstreamError, UpstreamLost, UpstreamProtocolError
from sseflow.http import Call, Headers, Origin, Pool, PoolOptions, Request

from ..proxy.peers import Peer, Upstream, chunked

LAST = b"0\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = Request(b"GET", b"/", ((b"host", b"a"),))


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    """A server to play."""
    upstream = await Upstream.open()
    yield upstream
    upstream.close()


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    """A pool as it is by default."""
    pool = Pool()
    yield pool
    pool.close()


def origin(upstream: Upstream) -> Origin:
    return Origin("http", "127.0.0.1", upstream.port)


async def no_informational(status: int, headers: Headers) -> None:
    raise AssertionError(status)


async def call(pool: Pool, upstream: Upstream, request: Request = GET) -> tuple[Call, Peer]:
    """A call over a new connection that the upstream has received."""
    made = await pool.call(origin(upstream))
    assert not made.reused
    await made.send_request(request, last=True)
    peer = await upstream.accept()
    await peer.request()
    return made, peer


async def read(made: Call) -> bytes:
    """The whole body of an answer."""
    await made.receive_head(no_informational)
    return await read_body(made)


async def read_body(made: Call) -> bytes:
    """What is left of a body."""
    body = b""
    while data := await made.receive_some():
        body += data
    return body


CLEAN = {
    "counted": OK,
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"ok") + LAST,
    "with trailers": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"ok") + b"0\r\nA: b\r\n\r\n",
    "empty": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "304": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n",
}


@pytest.mark.parametrize("answer", CLEAN.values(), ids=CLEAN)
async def test_a_connection_comes_back_after_a_clean_end(pool: Pool, upstream: Upstream, answer: bytes) -> None:
    """A response that ended, with nothing behind it, leaves a connection for the next call."""
    made, peer = await call(pool, upstream)
    await peer.send(answer)
    await read(made)
    await made.aclose()
    assert pool.idle == 1
    again = await pool.call(origin(upstream))
    assert again.reused
    assert pool.idle == 0
    await again.send_request(GET, last=True)
    await peer.request()
    await peer.send(OK)
    assert await read(again) == b"ok"
    await again.aclose()


UNCLEAN = {
    "bytes behind it": OK + b"x",
    "a second answer behind it": OK + OK,
    "bytes behind chunks": CLEAN["chunked"] + b"x",
    "bytes behind no body": CLEAN["204"] + b"x",
    "a body where there is none": CLEAN["304"] + b"1234567",
    "it says close": OK.replace(b"\r\n\r\n", b"\r\nConnection: x, CLOSE\r\n\r\n"),
    "HTTP/1.0": OK.replace(b"1.1", b"1.0"),
    "HTTP/1.0 that would stay": OK.replace(b"1.1", b"1.0").replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n"),
    "framed twice": CLEAN["chunked"].replace(b"\r\n\r\n", b"\r\nContent-Length: 2\r\n\r\n", 1),
}


@pytest.mark.parametrize("answer", UNCLEAN.values(), ids=UNCLEAN)
async def test_a_connection_in_doubt_does_not_come_back(pool: Pool, upstream: Upstream, answer: bytes) -> None:
    """Whatever makes the next answer on a connection doubtful closes it (T12)."""
    made, peer = await call(pool, upstream)
    await peer.send(answer)
    await read(made)
    await made.aclose()
    assert pool.idle == 0
    await peer.rest()
    assert peer.ending is not None


async def test_nor_does_one_whose_answer_was_not_read(pool: Pool, upstream: Upstream) -> None:
    """A call that is given up in the middle closes its connection at once."""
    for sent in (b"", b"HTTP/1.1 200 OK\r\n", OK[:-1], CLEAN["chunked"][:-2]):
        made, peer = await call(pool, upstream)
        await peer.send(sent)
        if b"\r\n\r\n" in sent:
            await made.receive_head(no_informational)
            await made.receive_some()
        await made.aclose()
        assert pool.idle == 0
        await peer.rest()


async def test_nor_does_one_that_waits_for_more_of_the_request(pool: Pool, upstream: Upstream) -> None:
    """An early answer ends, but the request's body did not: the upstream still expects it."""
    made = await pool.call(origin(upstream))
    await made.send_request(GET, b"half", last=False)
    peer = await upstream.accept()
    await peer.until(b"half")
    await peer.send(OK)
    assert await read(made) == b"ok"
    await made.aclose()
    assert pool.idle == 0


async def test_nor_does_one_of_a_request_that_said_close(pool: Pool, upstream: Upstream) -> None:
    """What we announced holds for us, too."""
    made, peer = await call(pool, upstream, Request(b"GET", b"/", ((b"host", b"a"), (b"connection", b"close"))))
    await peer.send(OK)
    await read(made)
    await made.aclose()
    assert pool.idle == 0


async def test_a_body_until_close_leaves_nothing(pool: Pool, upstream: Upstream) -> None:
    """Where the connection's end is the body's, there is no connection left."""
    made, peer = await call(pool, upstream)
    await peer.send(b"HTTP/1.1 200 OK\r\n\r\nok")
    await peer.finish()
    assert await read(made) == b"ok"
    await made.aclose()
    assert pool.idle == 0


@pytest.mark.parametrize("how", ["closed", "reset", "talks"])
async def test_a_readable_idle_connection_is_dropped(pool: Pool, upstream: Upstream, how: str) -> None:
    """An idle connection that has something to say has been closed, or is confused."""
    made, peer = await call(pool, upstream)
    await peer.send(OK)
    await read(made)
    await made.aclose()
    if how == "closed":
        await peer.finish()
    elif how == "reset":
        peer.reset()
    else:
        await peer.send(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    again = await pool.call(origin(upstream))
    assert not again.reused
    assert pool.idle == 0
    await again.aclose()


async def test_the_next_call_gets_the_latest_connection(pool: Pool, upstream: Upstream) -> None:
    """Of several, the one that was used last is the least likely to be stale; other origins have their own."""
    calls = [await call(pool, upstream) for _ in range(2)]
    for made, peer in calls:
        await peer.send(OK)
        await read(made)
        await made.aclose()
    assert pool.idle == 2
    other = await Upstream.open()
    elsewhere = await pool.call(origin(other))
    assert not elsewhere.reused
    again = await pool.call(origin(upstream))
    await again.send_request(GET, last=True)
    await calls[1][1].request()
    await again.aclose()
    await elsewhere.aclose()
    other.close()


async def test_a_fresh_call_takes_no_idle_connection(pool: Pool, upstream: Upstream) -> None:
    """Who has met a stale connection wants none of its neighbours."""
    made, peer = await call(pool, upstream)
    await peer.send(OK)
    await read(made)
    await made.aclose()
    fresh = await pool.call(origin(upstream), fresh=True)
    assert not fresh.reused
    await fresh.aclose()
    assert pool.idle == 1


async def test_idle_connections_are_bounded_in_number(upstream: Upstream) -> None:
    """Of too many the oldest is closed."""
    pool = Pool(PoolOptions(max_idle=2))
    calls = [await call(pool, upstream) for _ in range(3)]
    for made, peer in calls:
        await peer.send(OK)
        await read(made)
        await made.aclose()
    assert pool.idle == 2
    assert await calls[0][1].rest() == b""
    pool.close()
    assert pool.idle == 0
    for _, peer in calls:
        assert await peer.rest() == b""


async def test_idle_connections_are_bounded_in_age(upstream: Upstream, mock_clock: trio.testing.MockClock) -> None:
    """A connection is kept as long as it is said, and not a moment longer; using it begins anew."""
    pool = Pool(PoolOptions(max_idle_time=30))
    made, peer = await call(pool, upstream)
    await peer.send(OK)
    await read(made)
    await made.aclose()
    mock_clock.jump(29.5)
    pool.expire()
    assert pool.idle == 1
    again = await pool.call(origin(upstream))
    assert again.reused
    mock_clock.jump(29.5)
    await again.send_request(GET, last=True)
    await peer.request()
    await peer.send(OK)
    await read(again)
    await again.aclose()
    mock_clock.jump(29.5)
    assert pool.idle == 1
    mock_clock.jump(0.5)
    pool.expire()
    assert pool.idle == 0
    assert await peer.rest() == b""


async def test_an_old_connection_is_not_taken(upstream: Upstream, mock_clock: trio.testing.MockClock) -> None:
    """Also if nobody has called `expire`."""
    pool = Pool(PoolOptions(max_idle_time=30))
    made, peer = await call(pool, upstream)
    await peer.send(OK)
    await read(made)
    await made.aclose()
    mock_clock.jump(30)
    again = await pool.call(origin(upstream))
    assert not again.reused
    await again.aclose()


ENDS = {
    "counted": (b"Content-Length: 5\r\n\r\nhell", b"hell"),
    "chunked": (b"Transfer-Encoding: chunked\r\n\r\n5\r\nhell", b"hell"),
    "before the last chunk": (b"Transfer-Encoding: chunked\r\n\r\n" + chunked(b"hello"), b"hello"),
}


@pytest.mark.parametrize(("sent", "seen"), ENDS.values(), ids=ENDS)
async def test_an_incomplete_body_is_none_for_ever(pool: Pool, upstream: Upstream, sent: bytes, seen: bytes) -> None:
    """What came is given, then the error; asking again never makes a clean end of it."""
    made, peer = await call(pool, upstream)
    await peer.send(b"HTTP/1.1 200 OK\r\n" + sent)
    await peer.finish()
    await made.receive_head(no_informational)
    assert await made.receive_some() == seen
    for _ in range(2):
        with pytest.raises(UpstreamLost) as raised:
            await made.receive_some()
        assert raised.value.reason == "http_response_incomplete"
    await made.aclose()
    assert pool.idle == 0


async def test_a_malformed_body_gives_what_came_before_the_fault(pool: Pool, upstream: Upstream) -> None:
    """The fault of a later chunk takes nothing from the earlier ones; then it is an error for ever."""
    made, peer = await call(pool, upstream)
    await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"hello") + b"zz\r\n")
    await made.receive_head(no_informational)
    assert await made.receive_some() == b"hello"
    for _ in range(2):
        with pytest.raises(UpstreamProtocolError):
            await made.receive_some()
    await made.aclose()
    assert pool.idle == 0


async def test_a_clean_end_is_one_for_ever(pool: Pool, upstream: Upstream) -> None:
    """Asking behind a clean end gives that end again."""
    made, peer = await call(pool, upstream)
    await peer.send(OK)
    assert await read(made) == b"ok"
    assert await made.receive_some() == b""
    await made.aclose()
    await made.aclose()
    assert pool.idle == 1


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"", "connection_terminated"),
        (b"HTTP/1.1 200", "http_response_incomplete"),
        (b"HTTP/2.0 200 OK\r\n\r\n", "http_protocol_error"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 101 + b"\r\n", "http_response_header_section_size"),
    ],
    ids=["nothing", "half a head", "another version", "too many fields"],
)
async def test_why_there_is_no_head(pool: Pool, upstream: Upstream, sent: bytes, reason: str) -> None:
    """What an upstream did instead of answering has its name in RFC 9209."""
    made, peer = await call(pool, upstream)
    await peer.send(sent)
    await peer.finish()
    with pytest.raises(UpstreamError) as raised:
        await made.receive_head(no_informational)
    assert raised.value.reason == reason
    assert made.answered == bool(sent)
    await made.aclose()
    assert pool.idle == 0


async def test_written_says_whether_anything_went_out(pool: Pool, upstream: Upstream) -> None:
    """Only a request of which nothing was handed to the system can be repeated whatever it is."""
    made = await pool.call(origin(upstream))
    written = [made.written]
    await made.send_request(GET, last=True)
    written.append(made.written)
    assert written == [False, True]
    await made.aclose()


async def test_what_was_peeked_at_is_received_again(pool: Pool, upstream: Upstream) -> None:
    """Looking ahead takes nothing away, and a body that was seen to its end is whole."""
    made, peer = await call(pool, upstream)
    await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
    await made.receive_head(no_informational)
    assert await made.peek() == b"ab"
    await peer.send(b"2\r\ncd\r\n0\r\n\r\n")
    assert await made.peek() == b"cd"
    assert await made.peek() == b""
    assert (await read_body(made), made.payload, made.span) == (b"abcd", b"abcd", None)
    await made.aclose()
    assert pool.idle == 1


async def test_an_error_that_was_peeked_at_comes_again_behind_the_bytes(pool: Pool, upstream: Upstream) -> None:
    """The bytes before a broken end are not lost, and neither is the end."""
    made, peer = await call(pool, upstream)
    await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")
    await made.receive_head(no_informational)
    assert await made.peek() == b"ab"
    await peer.finish()
    with pytest.raises(UpstreamLost):
        await made.peek()
    assert await made.receive_some() == b"ab"
    with pytest.raises(UpstreamLost):
        await made.receive_some()
    await made.aclose()
    assert pool.idle == 0


async def test_a_closed_pool_keeps_nothing(pool: Pool, upstream: Upstream) -> None:
    """A call that outlives its pool does not leave a connection behind that nobody closes."""
    made, peer = await call(pool, upstream)
    pool.close()
    await peer.send(OK)
    assert await read(made) == b"ok"
    await made.aclose()
    assert pool.idle == 0
