"""Connections to the upstream through the proxy: used again where that is safe, and no request is made twice."""

from __future__ import annotations

import pytest

from .peers import Peer, chunked
from .rig import CHAT, DONE, GET, LAST, STOP, STREAM, TOKEN, Rig, Starter

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def idle(rig: Rig) -> tuple[Peer, Peer]:
    """A client, and an upstream's end that has answered it and is in the pool."""
    client, upstream = await rig.reach(GET)
    await upstream.send(OK)
    assert (await client.answer()).body == b"ok"
    await rig.line()
    assert rig.app.routing.idle == 1
    return client, upstream


async def test_a_stream_that_ended_well_leaves_its_connection(rig: Rig) -> None:
    """The next request goes over the same connection, also one of another client."""
    client, upstream = await rig.reach(CHAT)
    await upstream.send(STREAM + chunked(TOKEN, STOP, DONE) + LAST)
    assert (await client.answer()).complete
    await rig.line()
    other = await rig.client(GET)
    await rig.take(upstream)
    await upstream.send(OK)
    assert (await other.answer()).body == b"ok"
    assert rig.upstream.nobody_waits()


BAD = {
    "bytes behind its end": STREAM + chunked(TOKEN, STOP, DONE) + LAST + b"HTTP/1.1 200 OK\r\n\r\n",
    "close": STREAM.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + chunked(TOKEN, STOP, DONE) + LAST,
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "two framings": STREAM.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n") + chunked(TOKEN, STOP, DONE) + LAST,
}


@pytest.mark.parametrize("answer", BAD.values(), ids=BAD)
async def test_a_connection_in_doubt_is_closed(rig: Rig, answer: bytes) -> None:
    """The client gets its whole answer and nothing more; the connection behind it is not used again."""
    client, upstream = await rig.reach(CHAT)
    await upstream.send(answer)
    got = await client.answer()
    assert got.complete
    assert got.get(b"content-length") in (None, b"2")
    await rig.line()
    assert rig.app.routing.idle == 0
    await upstream.rest()
    await client.send(GET)
    again = await rig.accept()
    await rig.take(again)
    await again.send(OK)
    assert (await client.answer()).body == b"ok"


async def test_a_connection_that_was_closed_meanwhile_is_not_used(rig: Rig) -> None:
    """An idle connection is looked at before it is used: even a POST goes over a new one, unharmed."""
    client, upstream = await idle(rig)
    await upstream.finish()
    await client.send(CHAT)
    fresh = await rig.accept()
    await rig.take(fresh)
    await fresh.send(OK)
    assert (await client.answer()).body == b"ok"
    assert await upstream.rest() == b""


STALE = {"closed": False, "reset": True}


@pytest.mark.parametrize("reset", STALE.values(), ids=STALE)
async def test_a_post_over_a_stale_connection_is_not_repeated(rig: Rig, reset: bool) -> None:
    """The upstream may have begun to generate: one request was sent, and the client is told not to repeat it either."""
    client, upstream = await idle(rig)
    await client.send(CHAT)
    await rig.take(upstream)
    if reset:
        upstream.reset()
    else:
        upstream.close()
    answer = await client.answer()
    assert answer.status == 502
    assert answer.get(b"x-should-retry") == b"false"
    line = await rig.line()
    assert (line["verdict"], line["status"]) == ("upstream_lost", 502)
    assert rig.upstream.nobody_waits()


REPEATABLE = {
    "GET": GET,
    "HEAD": GET.replace(b"GET", b"HEAD"),
    "PUT": CHAT.replace(b"POST", b"PUT"),
    "DELETE": GET.replace(b"GET", b"DELETE"),
    "OPTIONS": GET.replace(b"GET", b"OPTIONS"),
    "POST with a key": CHAT.replace(b"\r\n\r\n", b"\r\nIdempotency-Key: 1\r\n\r\n"),
}


@pytest.mark.parametrize("request_", REPEATABLE.values(), ids=REPEATABLE)
async def test_what_can_be_repeated_is_repeated_once(rig: Rig, request_: bytes) -> None:
    """A request that may be made twice goes over a fresh connection, with its body; if that fails it has failed."""
    client, upstream = await idle(rig)
    await client.send(request_)
    await rig.take(upstream)
    upstream.close()
    fresh = await rig.accept()
    await rig.take(fresh)
    fresh.close()
    answer = await client.answer(request_.split()[0])
    assert answer.status == 502
    assert answer.get(b"x-should-retry") == b"false"
    await rig.line()
    assert rig.upstream.nobody_waits()


async def test_the_repetition_is_invisible(rig: Rig) -> None:
    """If the second attempt is answered the client sees that answer, and one line is logged."""
    client, upstream = await idle(rig)
    await client.send(GET)
    await rig.take(upstream)
    upstream.reset()
    fresh = await rig.accept()
    await rig.take(fresh)
    await fresh.send(OK)
    assert (await client.answer()).body == b"ok"
    assert (await rig.line())["verdict"] == "complete"
    assert not rig.log.unread("exchange")


async def test_a_fresh_connection_is_not_repeated(rig: Rig) -> None:
    """A new connection cannot be stale: what it does is the upstream's answer to this request."""
    client, upstream = await rig.reach(GET)
    upstream.close()
    assert (await client.answer()).status == 502
    await rig.line()
    assert rig.upstream.nobody_waits()


@pytest.mark.parametrize("sent", [b"H", b"HTTP/1.1 103 Early Hints\r\n\r\n"], ids=["a byte", "a 1xx"])
async def test_an_answer_that_has_begun_is_not_repeated(rig: Rig, sent: bytes) -> None:
    """One byte of an answer is enough to know that the connection was alive."""
    client, upstream = await idle(rig)
    await client.send(GET)
    await rig.take(upstream)
    await upstream.send(sent)
    await upstream.finish()
    assert (await client.answer()).status == 502
    await rig.line()
    assert rig.upstream.nobody_waits()


async def test_a_streamed_body_is_not_repeated(rig: Rig) -> None:
    """A body that was passed on is gone, whatever the request says of repeating it."""
    client, upstream = await idle(rig)
    head = b"PUT / HTTP/1.1\r\nHost: a\r\nIdempotency-Key: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
    await client.send(head + chunked(b"hello"))
    await upstream.until(chunked(b"hello"))
    upstream.close()
    answer = await client.answer()
    assert answer.status == 502
    await rig.line()
    assert rig.upstream.nobody_waits()


async def test_a_connection_refused_may_be_tried_again(rig: Rig) -> None:
    """Where nothing was sent nothing was paid for: the client's own repetition is not discouraged."""
    rig.upstream.close()
    client = await rig.client(CHAT)
    answer = await client.answer()
    assert (answer.status, answer.get(b"x-should-retry")) == (502, None)
    assert (await rig.line())["verdict"] == "upstream_lost"


async def test_old_connections_are_closed_without_a_request(starter: Starter) -> None:
    """The sweep closes what has been idle for too long, also if nobody comes."""
    rig = await starter(max_idle_time=0.02, linger=0.02)
    _, upstream = await idle(rig)
    assert await upstream.rest() == b""
    assert rig.app.routing.idle == 0


async def test_each_answer_belongs_to_its_request(rig: Rig) -> None:
    """Clients that come and go at every moment of an exchange never see the answer to another's request (T12)."""
    replies = [OK[:i] for i in (0, 1, 20, len(OK) - 1)]
    for number, cut in enumerate(replies):
        client, upstream = await rig.reach(GET)
        if cut:
            await upstream.send(cut)
        client.close()
        await upstream.rest()
        await rig.line()
        body = b"%d" % number
        client, upstream = await rig.reach(GET)
        await upstream.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n" + body)
        assert (await client.answer()).body == body
        await rig.line()
