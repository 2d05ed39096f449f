"""TLS on both legs: who the peers are, and what an end is worth that nobody said goodbye to."""

from __future__ import annotations

import socket
import ssl

import attrs
import pytest
import trio
import trio.testing
import trustme

from sseflow.http import Origin

from .peers import Peer, Upstream, chunked
from .rig import CHAT, DONE, GET, LAST, STOP, STREAM, STREAM_HEAD, TOKEN, Rig, Starter

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@attrs.frozen
class Contexts:
    """Contexts of one authority, for the names that the tests use."""

    authority: trustme.CA

    def server(self, *names: str) -> ssl.SSLContext:
        """For a server that is called so."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.authority.issue_cert(*names).configure_cert(context)
        return context

    def client(self) -> ssl.SSLContext:
        """For a client that trusts the authority."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context


@pytest.fixture(scope="module")
def contexts() -> Contexts:
    """An authority for all tests; making one takes a while."""
    return Contexts(trustme.CA())


@pytest.fixture
async def rig(starter: Starter, contexts: Contexts) -> Rig:
    """A proxy that speaks TLS on both legs."""
    upstream = await Upstream.open(contexts.server("127.0.0.1"))
    origin = Origin("https", "127.0.0.1", upstream.port)
    tls = contexts.server("a.example")
    return await starter(upstream=upstream, tls=tls, origin=origin, upstream_tls=contexts.client())


async def reach(rig: Rig, contexts: Contexts, request: bytes) -> tuple[Peer, Peer]:
    client = await rig.client(request, tls=contexts.client())
    upstream = await rig.accept()
    await rig.take(upstream)
    return client, upstream


async def test_a_stream_through_tls(rig: Rig, contexts: Contexts) -> None:
    """A stream comes through, both connections go on, and the upstream learns that the client came by https."""
    client = await rig.client(CHAT, tls=contexts.client())
    upstream = await rig.accept()
    head = await upstream.request()
    assert head.get(b"x-forwarded-proto") == b"https"
    await upstream.exactly(2)
    await upstream.send(STREAM + chunked(TOKEN))
    await client.until(TOKEN)
    await upstream.send(chunked(STOP, DONE) + LAST)
    assert (await client.until(LAST)).endswith(LAST)
    assert (await rig.line())["verdict"] == "complete"
    await client.send(GET)
    await rig.take(upstream)
    await upstream.send(OK)
    assert (await client.answer()).body == b"ok"
    assert rig.upstream.nobody_waits()


async def test_a_small_body_and_large_ones_through_tls(rig: Rig, contexts: Contexts) -> None:
    """Bodies come through in both directions, also larger than a record."""
    body = bytes(range(256)) * 2048
    request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
    client = await rig.client(request, tls=contexts.client())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send, body)
        upstream = await rig.accept()
        assert await upstream.request_of(len(body)) == body
    async with trio.open_nursery() as nursery:
        nursery.start_soon(upstream.send, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert (await client.answer()).body == body


@pytest.mark.parametrize("goodbye", [True, False], ids=["with close_notify", "without"])
async def test_a_body_until_close_needs_a_goodbye(rig: Rig, contexts: Contexts, goodbye: bool) -> None:
    """Over TLS only a close_notify says that a body which ends with the connection is complete."""
    client, upstream = await reach(rig, contexts, CHAT)
    await upstream.send(STREAM_HEAD + b"\r\n" + TOKEN + STOP + DONE)
    await client.until(DONE + b"\r\n")
    if goodbye:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(upstream.say_goodbye)
            assert await client.until(LAST) == LAST
        line = await rig.line()
        assert (line["verdict"], line["error"]) == ("complete", None)
    else:
        await upstream.finish()
        assert LAST not in await client.rest()
        line = await rig.line()
        assert line["error"]


async def test_a_json_body_until_close_needs_a_goodbye(rig: Rig, contexts: Contexts) -> None:
    """The same for a body that nobody can look into: without the goodbye it is incomplete."""
    client, upstream = await reach(rig, contexts, CHAT)
    await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{}")
    await client.until(b"{}")
    await upstream.finish()
    assert LAST not in await client.rest()
    assert (await rig.line())["verdict"] == "upstream_lost"


async def test_a_goodbye_in_one_read_with_the_end(rig: Rig, contexts: Contexts) -> None:
    """Once both are read no socket shows that there is an end, and the connection below stays open: it is seen."""
    client, upstream = await reach(rig, contexts, CHAT)
    await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{")
    await client.until(b"{")
    sock = upstream.socket

    async def say_goodbye() -> None:
        assert isinstance(upstream.stream, trio.SSLStream)
        plain, _ = await upstream.stream.unwrap()  # waits for the other goodbye
        assert isinstance(plain, trio.SocketStream)
        upstream.stream = plain

    async with trio.open_nursery() as nursery:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        await upstream.send(b"}")
        nursery.start_soon(say_goodbye)
        await trio.testing.wait_all_tasks_blocked()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
        assert LAST in await client.until(LAST)
    assert (await rig.line())["verdict"] == "complete"


async def test_an_abort_says_no_goodbye(rig: Rig, contexts: Contexts) -> None:
    """A stream that was cut ends without a last chunk and without a close_notify."""
    client, upstream = await reach(rig, contexts, CHAT)
    await upstream.send(STREAM + chunked(TOKEN))
    await client.until(TOKEN)
    await upstream.finish()
    assert LAST not in await client.rest()
    assert client.cut_under_tls
    assert (await rig.line())["verdict"] == "upstream_lost"


async def test_an_abort_for_http_1_0_is_a_reset(rig: Rig, contexts: Contexts) -> None:
    """Where the connection's end is the body's, it is not even an orderly one below TLS."""
    client, upstream = await reach(rig, contexts, CHAT.replace(b"HTTP/1.1", b"HTTP/1.0"))
    await upstream.send(STREAM + chunked(TOKEN))
    await client.until(TOKEN)
    await upstream.finish()
    await client.rest()
    assert client.ending == "reset"


async def test_a_clean_end_says_goodbye(rig: Rig, contexts: Contexts) -> None:
    """A body that ends with the connection ends with a close_notify, if it was complete."""
    client, upstream = await reach(rig, contexts, CHAT.replace(b"HTTP/1.1", b"HTTP/1.0"))
    await upstream.send(STREAM + chunked(TOKEN, STOP, DONE) + LAST)
    answer = await client.answer()
    assert answer.complete
    assert not client.cut_under_tls


async def test_an_early_answer_is_not_destroyed(rig: Rig, contexts: Contexts) -> None:
    """A client that still sends its body gets the answer, and its goodbye, over TLS, too."""
    client = await rig.client(
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nhello", tls=contexts.client()
    )
    upstream = await rig.accept()
    await upstream.until(b"hello")
    await upstream.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno")
    answer = await client.answer()
    assert (answer.status, answer.body, answer.get(b"connection")) == (401, b"no", b"close")
    await client.rest()
    assert client.ending == "eof"
    assert not client.cut_under_tls


async def test_a_second_answer_in_a_record_of_its_own(rig: Rig, contexts: Contexts) -> None:
    """Bytes behind an answer spoil a connection also if they wait inside of TLS, where no socket shows them (T12)."""
    client, upstream = await reach(rig, contexts, GET)
    upstream.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    await upstream.send(OK)
    await upstream.send(OK.replace(b"ok", b"NO"))
    upstream.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
    assert (await client.answer()).body == b"ok"
    await client.send(GET)
    again = await rig.accept()
    await rig.take(again)
    await again.send(OK.replace(b"ok", b"OK"))
    assert (await client.answer()).body == b"OK"


async def test_a_goodbye_behind_the_answer(rig: Rig, contexts: Contexts) -> None:
    """An upstream that says goodbye right behind its answer is not asked again."""
    client, upstream = await reach(rig, contexts, GET)
    await upstream.send(OK)
    assert (await client.answer()).body == b"ok"
    await upstream.say_goodbye()
    await client.send(CHAT)
    again = await rig.accept()
    await rig.take(again)
    await again.send(OK)
    assert (await client.answer()).status == 200


BAD = {"wrong host": ("b.example", True), "untrusted": ("127.0.0.1", False)}


@pytest.mark.parametrize(("name", "trusted"), BAD.values(), ids=BAD)
async def test_a_wrong_certificate(starter: Starter, contexts: Contexts, name: str, trusted: bool) -> None:
    """An upstream that is not who it should be is a 502, and nothing of the request was sent (T21)."""
    upstream = await Upstream.open()
    context = contexts.client() if trusted else ssl.create_default_context()
    origin = Origin("https", "127.0.0.1", upstream.port)
    rig = await starter(upstream=upstream, origin=origin, upstream_tls=context)
    client = await rig.client(CHAT.replace(b"\r\n\r\n", b"\r\nAuthorization: Bearer sk-CANARY\r\n\r\n"))
    peer = await upstream.accept()
    assert isinstance(peer.stream, trio.SocketStream)
    server = Peer(trio.SSLStream(peer.stream, contexts.server(name), server_side=True))
    assert await server.rest() == b""
    answer = await client.answer()
    assert answer.status == 502
    assert answer.get(b"x-should-retry") is None
    line = await rig.line()
    assert line["verdict"] == "upstream_lost"
    assert "certificate" in line["error"]
    assert upstream.nobody_waits()


async def test_an_upstream_that_speaks_no_tls(starter: Starter, contexts: Contexts) -> None:
    """A plain server where TLS was expected is a 502."""
    upstream = await Upstream.open()
    origin = Origin("https", "127.0.0.1", upstream.port)
    rig = await starter(upstream=upstream, origin=origin, upstream_tls=contexts.client())
    client = await rig.client(CHAT)
    peer = await upstream.accept()
    await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert (await client.answer()).status == 502
    assert "TLS" in (await rig.line())["error"]


async def test_a_client_that_speaks_no_tls(rig: Rig, contexts: Contexts) -> None:
    """What is no handshake is no client, and harms no other."""
    stranger = await rig.client(GET)
    await stranger.rest()
    client, upstream = await reach(rig, contexts, GET)
    await upstream.send(OK)
    assert (await client.answer()).body == b"ok"


async def test_a_handshake_has_its_time(rig: Rig, jumping_clock: trio.testing.MockClock) -> None:
    """Who connects and does not shake hands is closed as late as who sends no head."""
    begun = trio.current_time()
    stranger = await rig.client()
    await stranger.rest()
    assert trio.current_time() - begun == pytest.approx(10, abs=0.1)


async def test_one_connection_too_many_costs_no_handshake(starter: Starter, contexts: Contexts) -> None:
    """A client whose address has too many connections is reset at once, before anything is computed for it."""
    rig = await starter(tls=contexts.server("a.example"), max_per_address=1)
    await rig.client(tls=contexts.client())
    one_more = await rig.client()
    assert await one_more.rest() == b""
    assert one_more.ending == "reset"
    assert (await rig.log.next("refused"))["status"] == 503


async def test_draining_waits_for_no_handshake(rig: Rig, jumping_clock: trio.testing.MockClock) -> None:
    """Nor does a proxy that ends wait for one."""
    begun = trio.current_time()
    stranger = await rig.client()
    await trio.testing.wait_all_tasks_blocked(0.01)
    rig.app.drain()
    await stranger.rest()
    assert trio.current_time() - begun <= 1.1


async def test_a_client_that_leaves_under_tls(rig: Rig, contexts: Contexts) -> None:
    """With a goodbye or without one, a client that has left has left."""
    for polite in (True, False):
        client, upstream = await reach(rig, contexts, CHAT)
        await upstream.send(STREAM + chunked(TOKEN))
        await client.until(TOKEN)
        if polite:
            await client.say_goodbye()
        else:
            client.close()
        assert await upstream.rest() == b""
        assert (await rig.line())["verdict"] == "client_gone"
