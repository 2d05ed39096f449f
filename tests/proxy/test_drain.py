"""The end of a proxy: nothing new, what lives may end, and what is cut is cut so that its client notices."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from .peers import Peer, chunked, patience
from .rig import CHAT, DONE, GET, LAST, STOP, STREAM, TOKEN, Rig, Starter


async def ended(rig: Rig) -> None:
    """Wait until the proxy has ended."""
    with patience():
        await rig.ended.wait()
    assert rig.ended.is_set()


async def test_draining_says_so(rig: Rig) -> None:
    """As soon as it drains, a proxy is not ready any more, and still alive; new connections are refused."""
    asked = [await rig.client(b"GET /-/%s HTT" % path) for path in (b"ready", b"health")]
    await trio.testing.wait_all_tasks_blocked(0.01)
    rig.app.drain()
    for client, status in zip(asked, (503, 200), strict=True):
        await client.send(b"P/1.1\r\nHost: a\r\n\r\n")
        answer = await client.answer()
        assert (answer.status, answer.get(b"connection")) == (status, b"close")
        client.close()
    with pytest.raises(OSError, match="failed"):
        await rig.client()
    await ended(rig)
    assert rig.app.cut == 0


async def test_a_live_stream_may_end(rig: Rig) -> None:
    """A stream that ends in time was not cut."""
    client, upstream = await rig.reach(CHAT)
    await upstream.send(STREAM + chunked(TOKEN))
    await client.until(TOKEN)
    idle = await rig.client()
    rig.app.drain()
    assert await idle.rest() == b""
    await upstream.send(chunked(STOP, DONE) + LAST)
    assert (await client.until(LAST)).endswith(DONE + b"\r\n" + LAST)
    assert await client.rest() == b""
    await ended(rig)
    assert (await rig.line())["verdict"] == "complete"
    assert rig.app.cut == 0


@pytest.mark.parametrize("twice", [False, True], ids=["in time", "at the second call"])
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_a_stream_that_does_not_end_is_cut(
    starter: Starter, jumping_clock: trio.testing.MockClock, version: bytes, twice: bool
) -> None:
    """Behind its time, or at once if it is told again, a live stream is aborted, and the proxy ends."""
    rig = await starter(drain=30)
    client, upstream = await rig.reach(CHAT.replace(b"1.1", version))
    await upstream.send(STREAM + chunked(TOKEN))
    await client.until(TOKEN)
    begun = trio.current_time()
    rig.app.drain()
    if twice:
        rig.app.drain()
    assert LAST not in await client.rest()
    assert client.ending == ("reset" if version == b"1.0" else "eof")
    assert trio.current_time() - begun == pytest.approx(0 if twice else 30, abs=0.1)
    client.close()
    await ended(rig)
    assert trio.current_time() - begun == pytest.approx(0 if twice else 30, abs=0.1)
    line = await rig.line()
    assert (line["verdict"], line["ended_by"], line["status"]) == ("drained", "proxy", 200)
    assert rig.app.cut == 1


async def test_who_waits_for_an_answer_is_told(rig: Rig) -> None:
    """Before the commit the client gets a 503; the upstream, that may have begun, is let go."""
    client, upstream = await rig.reach(CHAT)
    rig.app.drain()
    rig.app.drain()
    answer = await client.answer()
    assert (answer.status, answer.complete, answer.get(b"connection")) == (503, True, b"close")
    assert answer.get(b"x-should-retry") == b"false"
    await upstream.rest()
    client.close()
    await ended(rig)
    assert rig.app.cut == 1


UNFINISHED: dict[str, tuple[bytes, bool]] = {
    "nothing": (b"", False),
    "half a head": (b"GET / HT", False),
    "half a small body": (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel", True),
    "half a large body": (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nhel", True),
}


@pytest.mark.parametrize(("sent", "begun"), UNFINISHED.values(), ids=UNFINISHED)
async def test_who_has_not_finished_its_request(
    rig: Rig, jumping_clock: trio.testing.MockClock, sent: bytes, begun: bool
) -> None:
    """A request that is still on its way does not hold the end up, once there is no more time."""
    client = await rig.client(sent)
    if b"100000" in sent:
        await (await rig.accept()).until(b"hel")
    await trio.testing.wait_all_tasks_blocked(0.01)
    started = trio.current_time()
    rig.app.drain()
    rig.app.drain()
    if begun:
        assert (await client.answer()).status == 503
    assert await client.rest() == b""
    client.close()
    await ended(rig)
    assert trio.current_time() - started == pytest.approx(0, abs=0.1)
    assert rig.app.cut == begun


async def test_a_client_that_does_not_read_does_not_hold_it_up(rig: Rig, jumping_clock: trio.testing.MockClock) -> None:
    """A stream that is stuck in a write is cut like any other."""
    client, upstream = await rig.reach(CHAT)
    async with trio.open_nursery() as nursery:

        async def flood() -> None:
            with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
                await upstream.stream.send_all(STREAM + chunked(TOKEN) * 400_000)

        nursery.start_soon(flood)
        await trio.testing.wait_all_tasks_blocked(0.05)
        started = trio.current_time()
        rig.app.drain()
        rig.app.drain()
    await ended(rig)
    assert trio.current_time() - started <= 2
    assert rig.app.cut == 1
    assert LAST not in await client.rest()


async def test_pipelined_requests_are_not_begun(rig: Rig) -> None:
    """What was sent ahead is not served any more: its client sees the connection end, and may ask elsewhere."""
    client, upstream = await rig.reach(CHAT)
    await upstream.send(STREAM + chunked(TOKEN))
    await client.until(TOKEN)
    await client.send(GET)
    await trio.testing.wait_all_tasks_blocked(0.01)
    rig.app.drain()
    await upstream.send(chunked(STOP, DONE) + LAST)
    assert (await client.rest()).endswith(LAST)
    client.close()
    await ended(rig)
    assert rig.upstream.nobody_waits()


async def test_many_streams_are_cut_at_once(rig: Rig) -> None:
    """The count says how many clients did not get their answer."""
    peers: list[tuple[Peer, Peer]] = []
    for _ in range(20):
        client, upstream = await rig.reach(CHAT)
        await upstream.send(STREAM + chunked(TOKEN))
        await client.until(TOKEN)
        peers.append((client, upstream))
    rig.app.drain()
    rig.app.drain()
    for client, _ in peers:
        assert LAST not in await client.rest()
        client.close()
    await ended(rig)
    assert rig.app.cut == 20
    assert len(rig.log.unread("exchange")) == 20
