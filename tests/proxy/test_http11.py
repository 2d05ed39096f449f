"""HTTP/1.1 between the peers: connections, requests in order, bodies of every framing, and what is not passed on."""

from __future__ import annotations

import socket

import pytest
import trio

from sseflow.http import SocketWire
from sseflow.proxy._headers import VIA_NAME

from .peers import chunked, cuts
from .rig import GET, LAST, STREAM, Rig, Starter

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def test_a_connection_is_kept(rig: Rig) -> None:
    """A client's connection serves one request after the other."""
    client, upstream = await rig.reach(GET)
    await upstream.send(OK)
    assert (await client.answer()).body == b"ok"
    await client.send(GET)
    await rig.take(upstream)
    await upstream.send(OK.replace(b"ok", b"OK"))
    answer = await client.answer()
    assert (answer.body, answer.complete, answer.get(b"connection")) == (b"OK", True, None)


async def test_pipelined_requests_are_answered_in_order(rig: Rig) -> None:
    """Requests that were sent at once are passed on one after the other, and answered in that order."""
    requests = b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % i for i in range(3))
    client = await rig.client(requests)
    upstream = await rig.accept()
    for i in range(3):
        head = await upstream.request()
        assert head.target == b"/%d" % i
        assert not upstream.buffer, "the next request came before this one was answered"
        await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % i)
    for i in range(3):
        assert (await client.answer()).body == b"%d" % i
    for i in range(3):
        assert (await rig.line())["path"] == f"/{i}"


async def test_a_request_behind_a_stream_waits(rig: Rig) -> None:
    """What a client sends while it is answered is kept, body and all."""
    client, upstream = await rig.reach(GET)
    await upstream.send(STREAM + chunked(b"data: a\n\n"))
    await client.until(b"data: a\n\n")
    await client.send(b"POST /second HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody")
    await upstream.send(chunked(b"data: b\n\n") + LAST)
    assert (await client.until(LAST)).endswith(b"data: b\n\n\r\n" + LAST)
    assert (await upstream.request()).target == b"/second"
    assert await upstream.exactly(4) == b"body"
    await upstream.send(OK)
    assert (await client.answer()).body == b"ok"


async def test_connection_close_is_heeded(rig: Rig) -> None:
    """A client that will not use its connection again is told that we do not either, and it is closed."""
    client, upstream = await rig.reach(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Close\r\n\r\n")
    await upstream.send(OK)
    answer = await client.answer()
    assert answer.get(b"connection") == b"close"
    assert await client.rest() == b""
    assert client.ending == "eof"


BODIES = {
    "counted": (b"Content-Length: 11\r\n\r\nhello world", False),
    "chunked": (b"Transfer-Encoding: chunked\r\n\r\n" + chunked(b"hello", b" world") + LAST, False),
    "until close": (b"\r\nhello world", True),
    "empty": (b"Content-Length: 0\r\n\r\n", False),
    "empty, chunked": (b"Transfer-Encoding: chunked\r\n\r\n" + LAST, False),
    "empty, until close": (b"\r\n", True),
}


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize(("framed", "closes"), BODIES.values(), ids=BODIES)
async def test_a_body_of_any_framing_is_passed_on(rig: Rig, framed: bytes, closes: bool, version: bytes) -> None:
    """A body ends for the client as cleanly as it came; HTTP/1.0 knows no chunks."""
    client, upstream = await rig.reach(b"GET / HTTP/%s\r\nHost: a\r\n\r\n" % version)
    await upstream.send(b"HTTP/1.1 200 OK\r\n" + framed)
    if closes:
        await upstream.finish()
    answer = await client.answer()
    assert answer.complete
    assert answer.body == (b"hello world" if b"hello" in framed else b"")
    if version == b"1.0":
        assert answer.get(b"transfer-encoding") is None
        assert await client.rest() == b""
        assert client.ending == "eof"
    elif b"Length" in framed:
        assert answer.get(b"transfer-encoding") is None
        assert answer.get(b"content-length") is not None
    else:
        assert answer.get(b"transfer-encoding") == b"chunked"
    assert (await rig.line())["verdict"] == "complete"


async def test_an_upstream_may_speak_http_1_0(rig: Rig) -> None:
    """An answer in HTTP/1.0 reaches the client in HTTP/1.1, and its connection is not used again."""
    client, upstream = await rig.reach(GET)
    await upstream.send(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok")
    answer = await client.answer()
    assert answer.raw.startswith(b"HTTP/1.1 200 ")
    assert (answer.body, answer.complete) == (b"ok", True)
    assert answer.get(b"via") == b"1.0 " + VIA_NAME
    assert await upstream.rest() == b""


async def test_bodies_that_are_no_event_streams_are_not_touched(rig: Rig) -> None:
    """Comments, blank lines and bytes of all kinds pass where the type is another one, or the status is no 2xx."""
    wild = b": no comment\n\n\r\n\r\x00\xff" + bytes(range(256)) + b"data: [DONE]\n\n"
    for status, kind in ((200, b"application/octet-stream"), (200, b"text/event-streams"), (500, b"text/event-stream")):
        client, upstream = await rig.reach(GET)
        head = b"HTTP/1.1 %d X\r\nConnection: close\r\nContent-Type: %s\r\n" % (status, kind)
        await upstream.send(head + b"Content-Length: %d\r\n\r\n" % len(wild) + wild)
        answer = await client.answer()
        assert (answer.status, answer.body, answer.complete) == (status, wild, True)
        assert answer.get(b"x-accel-buffering") is None


@pytest.mark.parametrize(
    ("status", "fields"),
    [
        (b"204 No Content", b""),
        (b"304 Not Modified", b"Content-Length: 5\r\n"),
        (b"304 Not Modified", b"Transfer-Encoding: chunked\r\n"),
        (b"304 Not Modified", b""),
    ],
    ids=["204", "304 with a length", "304 with a coding", "304"],
)
async def test_an_answer_without_a_body_ends_with_its_head(rig: Rig, status: bytes, fields: bytes) -> None:
    """204 and 304 have no body whatever their fields say, and both connections go on."""
    client, upstream = await rig.reach(GET)
    await upstream.send(b"HTTP/1.1 %s\r\nETag: x\r\n%s\r\n" % (status, fields))
    head = await client.until(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + status)
    await client.send(GET)
    await rig.take(upstream)
    await upstream.send(OK)
    assert (await client.until(b"ok")).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    "fields",
    [b"Content-Length: 99\r\n", b"Transfer-Encoding: chunked\r\n", b"", b"Content-Type: text/event-stream\r\n"],
    ids=["counted", "chunked", "neither", "event stream"],
)
async def test_head_has_no_body(rig: Rig, fields: bytes) -> None:
    """The answer to HEAD ends with its head, keeps the length that GET would have, and both connections go on."""
    client, upstream = await rig.reach(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
    await upstream.send(b"HTTP/1.1 200 OK\r\n%s\r\n" % fields)
    answer = await client.answer(b"HEAD")
    assert answer.complete
    assert answer.get(b"content-length") == (b"99" if b"99" in fields else None)
    await client.send(GET)
    await rig.take(upstream)
    await upstream.send(OK)
    assert (await client.until(b"ok")).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_informational_answers_are_passed_on(rig: Rig) -> None:
    """1xx come through as they come, without what belongs to the hop."""
    client, upstream = await rig.reach(GET)
    fields = b"Connection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n"
    await upstream.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n" + fields + b"\r\n")
    hint = await client.until(b"\r\n\r\n")
    assert hint.startswith(b"HTTP/1.1 103 Early Hints\r\n")
    assert b"link: </a>" in hint.lower()
    assert b"hop" not in hint.lower()
    assert b"keep-alive" not in hint.lower()
    await upstream.send(OK)
    assert (await client.answer()).body == b"ok"


async def test_informational_answers_are_not_for_http_1_0(rig: Rig) -> None:
    """A client of HTTP/1.0 gets the real answer only (RFC 9110, section 15.2)."""
    client, upstream = await rig.reach(b"GET / HTTP/1.0\r\n\r\n")
    await upstream.send(b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK)
    answer = await client.answer()
    assert (answer.body, answer.informational) == (b"ok", ())


@pytest.mark.parametrize(("count", "status"), [(8, 200), (9, 502)])
async def test_informational_answers_are_counted(rig: Rig, count: int, status: int) -> None:
    """Eight of 1xx are enough for everybody."""
    client, upstream = await rig.reach(GET)
    await upstream.send(b"HTTP/1.1 102 Processing\r\n\r\n" * count + OK)
    answer = await client.answer()
    assert answer.status == status
    assert len(answer.informational) == 8
    assert (await rig.line())["verdict"] == ("complete" if status == 200 else "malformed")


async def test_nobody_asked_for_101(rig: Rig) -> None:
    """An upstream that switches protocols unasked is broken."""
    client, upstream = await rig.reach(GET)
    await upstream.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
    assert (await client.answer()).status == 502


async def test_expectations_are_passed_through(rig: Rig) -> None:
    """Whether to go on with the body is for the upstream to say; then it is streamed."""
    request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    client, upstream = await rig.reach_head(request)
    assert upstream.head.get(b"expect") == b"100-continue"
    await upstream.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    await client.send(b"hello")
    assert await upstream.exactly(5) == b"hello"
    await upstream.send(OK)
    assert (await client.answer()).body == b"ok"


async def test_an_upstream_may_refuse_what_it_was_to_expect(rig: Rig) -> None:
    """Without a 100 the client gets the answer, and the connection, of whose body nobody knows, is closed."""
    request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    client, upstream = await rig.reach_head(request)
    await upstream.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno")
    answer = await client.answer()
    assert (answer.status, answer.body, answer.get(b"connection")) == (401, b"no", b"close")
    assert await client.rest() == b""
    assert await upstream.rest() == b""


async def test_other_expectations_cannot_be_met(rig: Rig) -> None:
    """417, and the upstream never hears of it."""
    client = await rig.client(b"GET / HTTP/1.1\r\nHost: a\r\nExpect: money\r\n\r\n")
    assert (await client.answer()).status == 417
    assert rig.upstream.nobody_waits()


async def test_a_large_body_is_streamed(rig: Rig) -> None:
    """A counted body larger than 64 KiB is passed on while it comes, and arrives the same."""
    body = bytes(range(256)) * 1024
    client = await rig.client(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body))
    await client.send(body[:1000])
    upstream = await rig.accept()
    head = await upstream.request()
    assert head.get(b"content-length") == b"%d" % len(body)
    assert head.get(b"transfer-encoding") is None
    assert await upstream.exactly(1000) == body[:1000]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send, body[1000:])
        assert await upstream.exactly(len(body) - 1000) == body[1000:]
    await upstream.send(OK)
    assert (await client.answer()).get(b"connection") is None


async def test_a_body_in_chunks_is_streamed(rig: Rig) -> None:
    """A chunked request stays chunked, without extensions and trailers, and is passed on while it comes."""
    client = await rig.client(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n")
    upstream = await rig.accept()
    head = await upstream.request()
    assert head.get(b"transfer-encoding") == b"chunked"
    assert head.get(b"content-length") is None
    assert await upstream.until(b"hello\r\n") == b"5\r\nhello\r\n"
    await client.send(b"1\r\n!\r\n0\r\nX-Trailer: x\r\n\r\n")
    assert await upstream.until(LAST) == b"1\r\n!\r\n" + LAST
    await upstream.send(OK)
    assert (await client.answer()).body == b"ok"
    await client.send(GET)
    await rig.take(upstream)


async def test_an_early_answer_reaches_a_client_that_still_sends(rig: Rig) -> None:
    """An upstream may answer before it has the body: the client gets the answer, and no reset that destroys it."""
    client, upstream = await rig.reach_head(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n")
    await client.send(bytes(1000))
    await upstream.exactly(1000)
    await upstream.send(b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nno!")
    answer = await client.answer()
    assert (answer.status, answer.body, answer.complete) == (413, b"no!", True)
    assert answer.get(b"connection") == b"close"
    await client.send(bytes(1000))
    assert await client.rest() == b""
    assert client.ending == "eof"
    assert (await rig.line())["status"] == 413


async def test_an_upstream_that_answers_and_stops_reading_is_no_failure(rig: Rig) -> None:
    """The answer counts, though the rest of the body could not be delivered."""
    client, upstream = await rig.reach_head(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n")
    await client.send(bytes(1000))
    await upstream.exactly(1000)
    await upstream.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno")
    upstream.close()
    answer = await client.answer()
    assert (answer.status, answer.body, answer.complete) == (401, b"no", True)


async def test_trailers_are_dropped(rig: Rig) -> None:
    """Trailers of the upstream end at the proxy."""
    client, upstream = await rig.reach(GET)
    chunks = chunked(b"hello") + b"0\r\nX-Checksum: 1\r\nX-Other: 2\r\n\r\n"
    await upstream.send(b"HTTP/1.1 200 OK\r\nTrailer: X-Checksum\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
    answer = await client.answer()
    assert answer.raw.endswith(chunked(b"hello") + LAST)
    assert answer.get(b"trailer") is None


async def test_trailers_that_are_allowed_by_name_are_passed_on(starter: Starter) -> None:
    """Those an operator named come through, but never to a client of HTTP/1.0, which has no place for them."""
    rig = await starter(trailers=frozenset({b"x-checksum"}))
    reply = b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"hello")
    for version, rest in (
        (b"1.1", chunked(b"hello") + b"0\r\nx-checksum: 1\r\n\r\n"),
        (b"1.0", b"\r\n\r\nhello"),
    ):
        client, upstream = await rig.reach(b"GET / HTTP/%s\r\nHost: a\r\n\r\n" % version)
        await upstream.send(reply + b"0\r\nX-Checksum: 1\r\nX-Other: 2\r\n\r\n")
        answer = await client.answer()
        assert answer.complete
        assert answer.raw.endswith(rest)


async def test_tcp_options_are_set_on_both_legs(rig: Rig) -> None:
    """What the wire promises holds for clients and upstreams."""
    _, upstream = await rig.reach(GET)
    (connection,) = rig.app._server._connections
    (exchange,) = rig.app._exchanges
    (call,) = exchange._caller.calls
    for wire in (connection.wire, call._wire):
        assert isinstance(wire, SocketWire)
        sock = wire._sock
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    upstream.close()


async def test_bytes_may_come_one_by_one(rig: Rig) -> None:
    """A message may be cut anywhere, in both directions."""
    request = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"hello") + LAST
    client = await rig.client()
    for piece in cuts(request, 1):
        await client.send(piece)
    upstream = await rig.accept()
    await upstream.request()
    body = await upstream.until(LAST)
    assert b"".join(body.split(b"\r\n")[1:-3:2]) == b"hello"
    for piece in cuts(STREAM + chunked(b"data: a\n\n", b"data: b\n\n") + LAST, 1):
        await upstream.send(piece)
    answer = await client.answer()
    assert (answer.body, answer.complete) == (b"data: a\n\ndata: b\n\n", True)
