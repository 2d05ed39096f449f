"""A client that leaves: its upstream is let go at once, since every token costs, and one line says who ended it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TypeAlias

import pytest
import trio
import trio.testing

from .peers import Peer, chunked
from .rig import CHAT, DONE, LAST, STOP, STREAM, TOKEN, Rig, Starter

Leave: TypeAlias = Callable[[Peer], object]


def half_close(client: Peer) -> None:
    client.socket.shutdown(1)


LEAVES: dict[str, Leave] = {"close": Peer.close, "reset": Peer.reset, "half-close": half_close}


async def gone(rig: Rig, upstream: Peer | None, *, status: int) -> None:
    """Check what has to follow."""
    if upstream is not None:
        await upstream.rest()
    line = await rig.line()
    assert (line["verdict"], line["ended_by"], line["status"]) == ("client_gone", "client", status)
    assert not rig.log.unread("exchange")
    assert rig.app.routing.idle == 0


@pytest.mark.parametrize("leave", LEAVES.values(), ids=LEAVES)
async def test_before_the_head_is_complete(rig: Rig, leave: Leave) -> None:
    """Half a head is no request: nobody is called, and nothing is logged."""
    client = await rig.client(b"GET / HT")
    leave(client)
    if leave is half_close:
        assert await client.rest() == b""
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert not rig.app._server.connections
    assert rig.upstream.nobody_waits()
    assert not rig.log.text


@pytest.mark.parametrize("leave", LEAVES.values(), ids=LEAVES)
async def test_before_a_small_body_is_complete(rig: Rig, leave: Leave) -> None:
    """A small body is not passed on before it is whole, so the upstream hears nothing of it."""
    client = await rig.client(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel")
    await trio.testing.wait_all_tasks_blocked(0.01)
    leave(client)
    await gone(rig, None, status=0)
    assert rig.upstream.nobody_waits()


@pytest.mark.parametrize(
    "head", [b"Content-Length: 100000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n5\r\n"], ids=["counted", "chunked"]
)
@pytest.mark.parametrize("leave", LEAVES.values(), ids=LEAVES)
async def test_before_a_streamed_body_is_complete(rig: Rig, leave: Leave, head: bytes) -> None:
    """What is missing of a streamed body cannot be made up: the upstream's connection is closed without an end."""
    client = await rig.client(b"POST / HTTP/1.1\r\nHost: a\r\n" + head + b"hello")
    upstream = await rig.accept()
    await upstream.until(b"hello")
    leave(client)
    assert LAST not in await upstream.rest()
    await gone(rig, upstream, status=0)


@pytest.mark.parametrize("leave", LEAVES.values(), ids=LEAVES)
async def test_while_the_upstream_has_not_answered(rig: Rig, leave: Leave) -> None:
    """Nobody has to pay for an answer that nobody waits for any more."""
    client, upstream = await rig.reach(CHAT)
    leave(client)
    await gone(rig, upstream, status=0)


@pytest.mark.parametrize("leave", LEAVES.values(), ids=LEAVES)
async def test_while_the_head_is_held(rig: Rig, leave: Leave) -> None:
    """The same while the upstream has sent a head, and no token."""
    client, upstream = await rig.reach(CHAT)
    await upstream.send(STREAM + chunked(b": processing\n\n"))
    await trio.testing.wait_all_tasks_blocked(0.01)
    leave(client)
    await gone(rig, upstream, status=0)


@pytest.mark.parametrize("leave", LEAVES.values(), ids=LEAVES)
async def test_in_the_middle_of_a_stream(rig: Rig, leave: Leave) -> None:
    """The same in the middle of the answer."""
    client, upstream = await rig.reach(CHAT)
    await upstream.send(STREAM + chunked(TOKEN))
    await client.until(TOKEN)
    leave(client)
    if leave is half_close:
        assert LAST not in await client.rest()
    await gone(rig, upstream, status=200)


async def test_while_nothing_can_be_written_to_it(rig: Rig) -> None:
    """A client that does not read, and then leaves, is noticed, too."""
    client, upstream = await rig.reach(CHAT)
    async with trio.open_nursery() as nursery:

        async def flood() -> None:
            with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
                await upstream.stream.send_all(STREAM + chunked(TOKEN) * 400_000)

        nursery.start_soon(flood)
        await trio.testing.wait_all_tasks_blocked(0.05)
        client.reset()
    await gone(rig, None, status=200)


async def test_behind_the_end_it_may_leave(rig: Rig) -> None:
    """A client that has what it came for need not wait for the end of the body: that was complete."""
    client, upstream = await rig.reach(CHAT)
    await upstream.send(STREAM + chunked(TOKEN, STOP, DONE))
    await client.until(DONE)
    client.close()
    await upstream.rest()
    line = await rig.line()
    assert (line["verdict"], line["ended_by"]) == ("complete", "client")
    assert rig.app.routing.idle == 0


async def test_a_client_that_sends_ahead_and_leaves(rig: Rig) -> None:
    """Pipelined bytes do not hide that the client has gone."""
    client, upstream = await rig.reach(CHAT)
    await client.send(b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n")
    await trio.testing.wait_all_tasks_blocked(0.01)
    client.close()
    await gone(rig, upstream, status=0)
    assert rig.upstream.nobody_waits()


#: More than all buffers between a client and an upstream that does not read.
FLOOD = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 60000000\r\n\r\n"


async def flood(client: Peer) -> None:
    """Send a body until nobody takes any more of it, or the connection breaks."""
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while True:
            await client.stream.send_all(b"x" * 65536)


async def test_while_the_upstream_does_not_read_its_body(rig: Rig) -> None:
    """Where a body cannot be passed on nobody reads the client either; a reset is noticed all the same.

    An orderly end is not: it stands in line behind the bytes that nobody reads.
    """
    client, upstream = await rig.reach_head(FLOOD)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(flood, client)
        await trio.testing.wait_all_tasks_blocked(0.05)
        client.reset()
    line = await rig.line()
    assert (line["verdict"], line["status"]) == ("client_gone", 0)
    assert upstream.head.get(b"content-length") == b"60000000"


async def test_an_upstream_that_does_not_read_is_given_up(starter: Starter) -> None:
    """A request that is not read in time is a 504, and is not to be sent again."""
    rig = await starter(upstream_write_timeout=0.1)
    client, _ = await rig.reach_head(FLOOD)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(flood, client)
        answer = await client.answer()
        nursery.cancel_scope.cancel()
    assert (answer.status, answer.get(b"x-should-retry")) == (504, b"false")
    line = await rig.line()
    assert line["verdict"] == "upstream_lost"
    assert "did not read the request" in line["error"]
