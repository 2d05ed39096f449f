"""Limits and deadlines of the proxy: each is pushed over once, and what happens is what was said."""

from __future__ import annotations

import contextlib
import ipaddress
import ssl
from pathlib import Path

import pytest
import trio
import trio.testing

from sseflow.http import Address, HeadLimits, Origin, ServerLimits
from sseflow.http._listen import _neighbourhood

from .peers import Peer, Upstream, chunked, patience
from .rig import CHAT, DONE, GET, LAST, STOP, STREAM, TOKEN, Rig, Starter

POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"


# Sizes.


HEADS = {
    "head": (GET[:-2] + b"".join(b"A%d: %s\r\n" % (i, b"x" * 15_000) for i in range(5)) + b"\r\n", 431),
    "fields": (GET[:-2] + b"A: b\r\n" * 100 + b"\r\n", 431),
    "target": (GET.replace(b"/x", b"/" + b"x" * 17_000), 414),
    "malformed": (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    "version": (GET.replace(b"1.1", b"3.0"), 505),
    "method": (GET.replace(b"GET", b"TRACE"), 405),
    "declared body": (POST.replace(b"5", b"1" + b"0" * 9), 413),
}


@pytest.mark.parametrize(("sent", "status"), HEADS.values(), ids=HEADS)
async def test_what_is_no_request_gets_its_status(rig: Rig, sent: bytes, status: int) -> None:
    """A short body in JSON says what was wrong, the connection is closed, and one line is logged."""
    client = await rig.client(sent)
    answer = await client.answer()
    assert (answer.status, answer.complete, answer.get(b"connection")) == (status, True, b"close")
    assert answer.get(b"content-type") == b"application/json"
    assert answer.get(b"date") is not None
    assert b'"invalid_request_error"' in answer.body or status == 505
    assert len(answer.body) < 400
    assert await client.rest() == b""
    assert client.ending == "eof"
    line = await rig.log.next("refused")
    assert (line["status"], line["id"]) == (status, answer.get(b"x-request-id").decode())  # type: ignore[union-attr]
    assert rig.upstream.nobody_waits()


async def test_a_body_in_chunks_is_bounded(starter: Starter) -> None:
    """A body that grows too long on its way is a 413, and the upstream does not get an end of it."""
    rig = await starter(server=ServerLimits(max_body=10))
    client = await rig.client(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"12345"))
    upstream = await rig.accept()
    await upstream.until(chunked(b"12345"))
    await client.send(chunked(b"123456"))
    answer = await client.answer()
    assert (answer.status, answer.get(b"connection")) == (413, b"close")
    assert LAST not in await upstream.rest()
    line = await rig.line()
    assert (line["verdict"], line["ended_by"]) == ("over_limit", "client")


async def test_a_malformed_body_is_refused(rig: Rig) -> None:
    """A body whose framing is in doubt is a 400, and the connection is closed."""
    client = await rig.client(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    upstream = await rig.accept()
    await upstream.request()
    await client.send(b"zz\r\n" + GET)
    answer = await client.answer()
    assert (answer.status, answer.get(b"connection")) == (400, b"close")
    assert await client.rest() == b""
    assert LAST not in await upstream.rest()


async def test_a_body_that_goes_wrong_behind_the_answer(rig: Rig) -> None:
    """An answer that has begun cannot become a 400: it is cut, and the verdict says whose fault it was."""
    client = await rig.client(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    upstream = await rig.accept()
    await upstream.request()
    await upstream.send(STREAM + chunked(b"data: a\n\n"))
    await client.until(b"data: a\n\n")
    await client.send(b"zz\r\n")
    assert LAST not in await client.rest()
    line = await rig.line()
    assert (line["verdict"], line["status"], line["ended_by"]) == ("malformed", 200, "client")


async def test_the_upstreams_head_is_bounded(starter: Starter) -> None:
    """The limits of heads hold for the upstream, too."""
    rig = await starter(upstream_head=HeadLimits(max_fields=2))
    client, upstream = await rig.reach(GET)
    await upstream.send(b"HTTP/1.1 200 OK\r\nA: b\r\nA: b\r\nContent-Length: 0\r\n\r\n")
    assert (await client.answer()).status == 502
    assert (await rig.line())["verdict"] == "malformed"


async def test_connections_are_bounded(starter: Starter) -> None:
    """One connection too many waits until there is room."""
    rig = await starter(max_connections=1)
    first = await rig.client(b"GET /-/health HTTP/1.1\r\nHost: a\r\n\r\n")
    await first.answer()
    second = await rig.client(b"GET /-/health HTTP/1.1\r\nHost: a\r\n\r\n")
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert len(rig.app._server._connections) == 1
    first.close()
    assert (await second.answer()).status == 200


CHATTY = b"GET /-/health HTTP/1.1\r\nHost: a\r\n\r\n"


async def test_connections_of_one_address_are_bounded(starter: Starter) -> None:
    """One too many from the same address is told to come back, and there is room again when one has gone."""
    rig = await starter(max_per_address=2)
    first, second = await rig.client(CHATTY), await rig.client(CHATTY)
    assert [(await client.answer()).status for client in (first, second)] == [200, 200]
    third = await rig.client(CHATTY)
    answer = await third.answer()
    assert (answer.status, answer.get(b"retry-after"), answer.get(b"connection")) == (503, b"1", b"close")
    assert await third.rest() == b""
    assert (await rig.log.next("refused"))["error"] == "there are too many connections from this address"
    first.close()
    third.close()
    with patience() as scope:
        while rig.app._server.connections > 1:
            await trio.lowlevel.checkpoint()
    assert not scope.cancelled_caught
    assert (await (await rig.client(CHATTY)).answer()).status == 200


@pytest.fixture
def standing_clock() -> trio.testing.MockClock:
    """A clock that the test moves."""
    return trio.testing.MockClock()


async def test_a_crowd_does_not_fill_the_log(starter: Starter, standing_clock: trio.testing.MockClock) -> None:
    """Each connection of too many is refused, and one a second is logged."""
    rig = await starter(max_per_address=1)
    await (await rig.client(CHATTY)).answer()
    for lines in (1, 2):
        for _ in range(5):
            one_more = await rig.client()
            assert (await one_more.answer()).status == 503
            one_more.close()
            while rig.app._server.connections > 1:
                await trio.lowlevel.checkpoint()
        assert len(rig.log.unread("refused")) == lines
        standing_clock.jump(1)


@pytest.mark.parametrize("who", ["trusted", "unix"])
async def test_who_speaks_for_many_may_have_many(starter: Starter, who: str, tmp_path: Path) -> None:
    """A trusted proxy in front, and whoever comes by a Unix socket, is not counted."""
    if who == "unix":
        rig = await starter(max_per_address=1, addresses=(Address(path=str(tmp_path / "x.sock")),))
    else:
        rig = await starter(max_per_address=1, trusted=(ipaddress.ip_network("127.0.0.0/8"),))
    for _ in range(3):
        assert (await (await rig.client(CHATTY)).answer()).status == 200


def test_an_ipv6_customer_is_one_address() -> None:
    """Who has a network can take any address in it; an IPv4 address in IPv6's clothes is one of IPv4."""
    assert _neighbourhood("2001:db8::1") == _neighbourhood("2001:db8::ffff:1%eth0") == "2001:db8::/64"
    assert _neighbourhood("2001:db8:0:1::1") != _neighbourhood("2001:db8::1")
    assert _neighbourhood("::ffff:10.0.0.1") == _neighbourhood("10.0.0.1") == "10.0.0.1"


# Which host.


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (b"localhost", 200),
        (b"LOCALHOST:8080", 200),
        (b"127.0.0.1:80", 200),
        (b"[::1]:80", 200),
        (b"attacker.example", 421),
        (b"localhost.attacker.example", 421),
        (b"127.0.0.1.attacker.example", 421),
    ],
)
async def test_the_host_is_checked(starter: Starter, host: bytes, status: int) -> None:
    """A page on another site cannot reach a proxy on this machine under a name of its own (T18)."""
    rig = await starter(hosts=frozenset({b"localhost", b"127.0.0.1", b"[::1]"}))
    for path in (b"/-/health", b"/x"):
        client = await rig.client(b"GET %s HTTP/1.1\r\nHost: %s\r\n\r\n" % (path, host))
        if path == b"/x" and status == 200:
            upstream = await rig.accept()
            await rig.take(upstream)
            await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        assert (await client.answer()).status == status
    absolute = await rig.client(b"GET http://attacker.example/-/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await absolute.answer()).status == 421


async def test_health_and_readiness(rig: Rig) -> None:
    """Both answer without the upstream, also with a query, and keep the connection."""
    client = await rig.client()
    for path, word in ((b"/-/health", b"ok"), (b"/-/ready", b"ok")):
        await client.send(b"GET %s HTTP/1.1\r\nHost: a\r\nX-Request-Id: q\r\n\r\n" % path)
        answer = await client.answer()
        assert (answer.status, answer.body) == (200, b'{"status": "%s"}' % word)
        assert answer.get(b"x-request-id") == b"q"
    assert rig.upstream.nobody_waits()


# Times, exactly: the clock jumps.


async def test_the_upstream_has_its_time_for_the_head(starter: Starter, jumping_clock: trio.testing.MockClock) -> None:
    """The head must come in time as a whole; a drip does not help, a 1xx neither."""
    rig = await starter(upstream_head_timeout=7)
    client, upstream = await rig.reach(CHAT)
    await upstream.send(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200")
    answer = await client.answer()
    assert answer.status == 504
    assert answer.get(b"x-should-retry") == b"false"
    line = await rig.line()
    assert (line["verdict"], line["status"], line["ended_by"]) == ("upstream_lost", 504, "upstream")
    assert line["duration"] == pytest.approx(7, abs=0.1)
    assert LAST not in await upstream.rest()


async def test_the_upstream_may_think_by_default(rig: Rig, jumping_clock: trio.testing.MockClock) -> None:
    """Without a limit of the operator's an upstream may take its time for its head."""
    client, upstream = await rig.reach(CHAT)
    await trio.sleep(100)
    await upstream.send(STREAM + chunked(TOKEN, STOP, DONE) + LAST)
    assert (await client.answer()).complete


@pytest.mark.parametrize("committed", [True, False])
async def test_a_silent_upstream_is_given_up(
    starter: Starter, jumping_clock: trio.testing.MockClock, committed: bool
) -> None:
    """Too long without a byte: cut, or a 504 if nothing was sent yet. Any byte begins the time anew."""
    rig = await starter(idle_timeout=20, gate_open_after=0)
    client, upstream = await rig.reach(CHAT)
    await upstream.send(STREAM + chunked(TOKEN if committed else b": processing\n\n"))
    await trio.sleep(19)
    await upstream.send(chunked(b": processing\n\n"))
    answer = await client.answer()
    assert (answer.status, answer.complete) == ((200, False) if committed else (504, True))
    line = await rig.line()
    assert (line["verdict"], line["ended_by"]) == ("stalled_idle", "proxy")
    assert 39 <= line["duration"] <= 42
    assert "20 s" in line["error"]


async def test_the_gate_opens_when_its_time_is_up(starter: Starter, jumping_clock: trio.testing.MockClock) -> None:
    """A client waits for its head no longer than that, though there is no data yet; not one byte of it is lost."""
    rig = await starter(gate_open_after=15)
    client, upstream = await rig.reach(CHAT)
    await upstream.send(STREAM + chunked(b": processing\n\n"))
    began = trio.current_time()
    assert b"HTTP/1.1 200 OK\r\n" in await client.until(b"\r\n\r\n")
    assert 15 <= trio.current_time() - began <= 17
    await upstream.send(chunked(TOKEN, STOP, DONE) + LAST)
    assert await client.until(LAST) == chunked(TOKEN, STOP, DONE) + LAST
    line = await rig.line()
    assert (line["verdict"], line["comments"], line["events"]) == ("complete", 1, 3)


async def test_behind_the_terminator_there_is_a_moment(rig: Rig, jumping_clock: trio.testing.MockClock) -> None:
    """An upstream that stays open behind its last word is closed a second later; the answer is complete."""
    client, upstream = await rig.reach(CHAT)
    await upstream.send(STREAM + chunked(TOKEN, STOP, DONE))
    assert (await client.answer()).complete
    line = await rig.line()
    assert line["verdict"] == "complete"
    assert 1 <= line["duration"] <= 2.1
    assert await upstream.rest() == b""
    assert rig.app.routing.idle == 0


async def test_an_end_without_the_terminator_is_waited_for(rig: Rig, jumping_clock: trio.testing.MockClock) -> None:
    """Behind a ``finish_reason`` usage may follow: only the terminator begins the moment."""
    client, upstream = await rig.reach(CHAT)
    await upstream.send(STREAM + chunked(TOKEN, STOP))
    await trio.sleep(100)
    await upstream.send(chunked(DONE) + LAST)
    answer = await client.answer()
    assert (answer.body.replace(b":\n", b""), answer.complete) == (TOKEN + STOP + DONE, True)
    assert 8 <= answer.body.count(b":\n") <= 10


async def test_a_slow_head(rig: Rig, jumping_clock: trio.testing.MockClock) -> None:
    """Half a head is a 408 after ten seconds."""
    begun = trio.current_time()
    client = await rig.client(GET[:-2])
    answer = await client.answer()
    assert (answer.status, answer.get(b"connection")) == (408, b"close")
    assert trio.current_time() - begun == pytest.approx(10, abs=0.1)


@pytest.mark.parametrize("streamed", [False, True], ids=["small", "streamed"])
async def test_a_slow_body(rig: Rig, jumping_clock: trio.testing.MockClock, streamed: bool) -> None:
    """Half a body is a 408 when the time for it is up, whether the upstream has heard of the request or not."""
    client = await rig.client(POST.replace(b"5", b"100000") if streamed else POST)
    await client.send(b"hel")
    upstream = await rig.accept() if streamed else None
    answer = await client.answer()
    assert (answer.status, answer.get(b"connection")) == (408, b"close")
    line = await rig.line()
    assert (line["verdict"], line["ended_by"]) == ("client_stuck", "client")
    assert line["duration"] == pytest.approx(10, abs=0.1)
    if upstream is not None:
        assert (await upstream.rest()).endswith(b"hel")
    assert rig.upstream.nobody_waits()


async def test_a_connect_that_hangs(starter: Starter, jumping_clock: trio.testing.MockClock) -> None:
    """An upstream whose TLS handshake never ends is a 504."""
    upstream = await Upstream.open()
    origin = Origin("https", "127.0.0.1", upstream.port)
    rig = await starter(upstream=upstream, origin=origin, upstream_tls=ssl.create_default_context())
    client = await rig.client(CHAT)
    await upstream.accept()
    answer = await client.answer()
    assert (answer.status, answer.get(b"x-should-retry")) == (504, None)
    line = await rig.line()
    assert line["duration"] == pytest.approx(10, abs=0.1)


async def flood(upstream: Peer) -> None:
    with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
        await upstream.stream.send_all(chunked(TOKEN) * 400_000)


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_a_client_that_does_not_read(rig: Rig, jumping_clock: trio.testing.MockClock, version: bytes) -> None:
    """After half a minute in which nothing could be written the client is reset, and the upstream let go."""
    client, upstream = await rig.reach(CHAT.replace(b"1.1", version))
    await upstream.send(STREAM)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(flood, upstream)
    line = await rig.line()
    assert (line["verdict"], line["ended_by"]) == ("client_stuck", "client")
    assert 30 <= line["duration"] < 40
    await client.rest()
    assert client.ending == "reset"


@pytest.fixture
async def unix(starter: Starter, tmp_path: Path) -> Rig:
    """A proxy on a Unix socket, whose buffers are small; it knows one host only."""
    return await starter(addresses=(Address(path=str(tmp_path / "x.sock")),), hosts=frozenset({b"a"}))


async def test_a_client_that_does_not_read_its_1xx(unix: Rig, jumping_clock: trio.testing.MockClock) -> None:
    """The same for what comes before the answer; nobody tries to tell that client anything more."""
    hint = b"HTTP/1.1 103 Early Hints\r\n" + b"Link: %s\r\n" % (b"x" * 16_000) * 3 + b"\r\n"
    _, upstream = await unix.reach(CHAT)
    with contextlib.suppress(trio.BrokenResourceError):
        await upstream.stream.send_all(hint * 9)
    line = await unix.line()
    assert (line["verdict"], line["status"]) == ("client_stuck", 0)
    assert 30 <= line["duration"] < 40


async def test_a_client_that_does_not_read_errors(unix: Rig, jumping_clock: trio.testing.MockClock) -> None:
    """The same for answers of our own, of which a client may have asked for many: its connection is closed."""
    client = await unix.client(GET.replace(b"Host: a", b"Host: b") * 2000)
    await trio.sleep(35)
    assert len(unix.log.unread("refused")) < 2000
    assert b"421" in await client.rest()


async def test_a_body_that_drips(rig: Rig, jumping_clock: trio.testing.MockClock) -> None:
    """A byte a second keeps every deadline for the next byte, and is given up behind the grace."""
    client = await rig.client(POST.replace(b"5", b"1000"))
    async with trio.open_nursery() as nursery:

        async def drip() -> None:
            with contextlib.suppress(trio.BrokenResourceError):
                while True:
                    await client.stream.send_all(b"x")
                    await trio.sleep(1)

        nursery.start_soon(drip)
        assert (await client.answer()).status == 408
        nursery.cancel_scope.cancel()
    line = await rig.line()
    assert (line["verdict"], line["duration"]) == ("client_stuck", pytest.approx(10, abs=0.2))


async def test_an_upstream_that_reads_slowly_is_not_the_clients_fault(
    starter: Starter, jumping_clock: trio.testing.MockClock
) -> None:
    """Time in which nobody waited for the body does not count against its rate."""
    body = bytes(8 << 20)
    rig = await starter(server=ServerLimits(min_body_rate=1 << 20))
    client = await rig.client(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send, body)
        upstream = await rig.accept()
        await upstream.request()
        await trio.sleep(50)
        assert await upstream.exactly(len(body)) == body
    await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert (await client.answer()).body == b"ok"


# Times, over real clocks: only which deadline fires, and what comes of it.


async def test_real_deadlines(starter: Starter) -> None:
    """Each deadline fires by itself when the others are long."""
    short = 0.1
    for settings, request, reply, status, verdict in (
        ({"upstream_head_timeout": short}, CHAT, b"", 504, "upstream_lost"),
        ({"idle_timeout": short}, CHAT, STREAM, 504, "stalled_idle"),
        ({"server": ServerLimits(body_timeout=short)}, POST, None, 408, "client_stuck"),
    ):
        rig = await starter(**settings)
        client = await rig.client(request)
        if reply is not None:
            upstream = await rig.accept()
            await rig.take(upstream)
            if reply:
                await upstream.send(reply)
        assert (await client.answer()).status == status
        assert (await rig.line())["verdict"] == verdict
    rig = await starter(keep_alive=short, gate_open_after=short)
    client, upstream = await rig.reach(CHAT)
    await upstream.send(STREAM)
    await client.until(b"\r\n\r\n")  # the head, though nothing has come
    await client.until(b":\n")
    await upstream.send(chunked(TOKEN, STOP, DONE) + LAST)
    await client.until(LAST)
    assert (await rig.line())["keep_alives"] >= 1
    rig = await starter(on_client_gone="drain", client_drain_time=short)
    client, upstream = await rig.reach(CHAT)
    await upstream.send(STREAM + chunked(TOKEN))
    await client.until(TOKEN)
    client.close()
    await upstream.rest()
    assert (await rig.line())["verdict"] == "client_gone"
    rig = await starter(drain=short)
    client, upstream = await rig.reach(CHAT)
    await upstream.send(STREAM + chunked(TOKEN))
    await client.until(TOKEN)
    rig.app.drain()
    assert b'"drained"' in await client.rest()
    rig = await starter(server=ServerLimits(head_timeout=short))
    client = await rig.client(GET[:-2])
    assert (await client.answer()).status == 408


@pytest.mark.parametrize("first", ["linger", "idle"])
async def test_the_deadline_that_comes_first_fires(starter: Starter, first: str) -> None:
    """Behind the terminator the shorter of two deadlines says how it ended; both are true."""
    linger, idle = (0.05, 5.0) if first == "linger" else (5.0, 0.05)
    rig = await starter(linger=linger, idle_timeout=idle)
    client, upstream = await rig.reach(CHAT)
    await upstream.send(STREAM + chunked(TOKEN, STOP, DONE))
    answer = await client.answer()
    assert answer.complete == (first == "linger")
    line = await rig.line()
    assert (line["verdict"], line["error"] is None) == ("complete", first == "linger")
