"""How an answer ends: no terminator reaches the client before the pipeline has ended with `Eof`.

The upstream's data and its last chunk come in one packet: the moment in which it would be easiest to pass them on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from sseflow import Cancelled, Closed, End, Eof, Failed, Pipeline, Relay, RequestError, Stage
from sseflow.http import Address, Incoming, Origin, Pool, Request, Server, ServerConnection, listen

from .peers import Peer, Upstream, chunked
from .rig import CHAT, DONE, GET, LAST, STOP, STREAM, TOKEN, Rig, Starter, split_error


async def test_eof(rig: Rig) -> None:
    """A stream that ended well ends well, and its last chunk is the last thing of all."""
    client, upstream = await rig.reach(CHAT)
    await upstream.send(STREAM + chunked(TOKEN, STOP, DONE) + LAST)
    answer = await client.answer()
    assert (answer.status, answer.body, answer.complete) == (200, TOKEN + STOP + DONE, True)
    assert answer.raw.endswith(LAST)
    line = await rig.line()
    assert (line["verdict"], line["ended_by"], line["status"], line["error"]) == ("complete", "upstream", 200, None)


LONG = b"data: " + b"x" * 2000 + b"\n\n"

COMMITTED = {
    "truncated": ((TOKEN,), TOKEN, "truncated", "upstream"),
    "cut mid-event": ((TOKEN, TOKEN[:20]), TOKEN, "cut_mid_event", "upstream"),
    "cut mid-event, in one chunk": ((TOKEN + TOKEN[:20],), TOKEN, "cut_mid_event", "upstream"),
    "line too long": ((TOKEN, LONG), TOKEN + LONG[:1000], "over_limit", "proxy"),
    "first line too long": ((LONG,), LONG[:1000], "over_limit", "proxy"),
}


@pytest.mark.parametrize(("payloads", "seen", "verdict", "by"), COMMITTED.values(), ids=COMMITTED)
async def test_a_clean_end_that_is_none(
    starter: Starter, payloads: tuple[bytes, ...], seen: bytes, verdict: str, by: str
) -> None:
    """Once committed, a stream that did not end as it must is cut, however cleanly its transport ended."""
    rig = await starter(max_line=1000)
    client, upstream = await rig.reach(CHAT)
    await upstream.send(STREAM + chunked(*payloads) + LAST)
    answer = await client.answer()
    assert (answer.status, answer.complete, answer.ending) == (200, False, "eof")
    body, error = split_error(answer.body)
    assert seen.startswith(body)
    assert body.startswith(seen[:80])
    # Between two events the client is told why; inside one the cut must do.
    assert (error is not None) == body.endswith(b"\n\n")
    assert error is None or error["code"] == verdict
    assert not answer.raw.endswith(LAST)
    line = await rig.line()
    assert (line["verdict"], line["ended_by"], line["status"]) == (verdict, by, 200)
    assert line["error"]


UNCOMMITTED = {
    "nothing": ((), "empty"),
    "comments only": ((b": processing\n\n", b":\n\n"), "empty"),
    "[DONE] only": ((DONE,), "empty"),
    "comments and [DONE]": ((b": processing\n\n", DONE), "empty"),
    "id and retry only": ((b"id: 1\n\n", b"retry: 5\n\n"), "empty"),
    "empty data": ((b"data:\n\n",), "truncated"),
    "half an event": ((b": hm\n\n", b"event: x\n"), "cut_mid_event"),
    "a line too long that is no data": ((b"event: " + b"x" * 2000 + b"\n",), "over_limit"),
}


@pytest.mark.parametrize(("payloads", "verdict"), UNCOMMITTED.values(), ids=UNCOMMITTED)
async def test_a_stream_without_data_becomes_a_status(
    starter: Starter, payloads: tuple[bytes, ...], verdict: str
) -> None:
    """Before the commit the client gets an honest 502, with words that are no jargon, and its connection goes on."""
    rig = await starter(max_line=1000)
    client, upstream = await rig.reach(CHAT)
    await upstream.send(STREAM + chunked(*payloads) + LAST)
    answer = await client.answer()
    assert (answer.status, answer.complete) == (502, True)
    assert answer.get(b"content-type") == b"application/json"
    assert answer.get(b"connection") is None
    assert answer.get(b"x-should-retry") == b"false"
    assert b"The model's server" in answer.body
    line = await rig.line()
    assert (line["verdict"], line["status"]) == (verdict, 502)


@pytest.mark.parametrize(
    ("path", "begin", "end"),
    [
        (
            b"/v1/messages",
            b'event: message_start\ndata: {"type":"message_start","message":{}}\n\n',
            b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
        ),
        (
            b"/openai/v1/responses?x=1",
            b'event: response.created\ndata: {"type":"response.created"}\n\n',
            b'event: response.completed\ndata: {"type":"response.completed","response":{}}\n\n',
        ),
    ],
    ids=["anthropic", "responses"],
)
async def test_each_dialect_has_its_own_end(rig: Rig, path: bytes, begin: bytes, end: bytes) -> None:
    """With its dialect's last event a stream is whole; without it, it is cut, though its transport ended cleanly."""
    request = b"POST " + path + b" HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"
    for events, verdict in (((begin, end), "complete"), ((begin,), "truncated")):
        client, upstream = await rig.reach(request)
        await upstream.send(STREAM + chunked(*events) + LAST)
        await upstream.finish()
        answer = await client.answer()
        body, error = split_error(answer.body)
        assert (body, answer.complete) == (b"".join(events), verdict == "complete")
        assert (error is None) == answer.complete
        assert (await rig.line())["verdict"] == verdict


async def test_a_stream_of_plain_events_may_end_anywhere_between_two(rig: Rig) -> None:
    """Where the dialect has no end of its own, a clean end of the transport between two events is one."""
    client, upstream = await rig.reach(GET)
    await upstream.send(STREAM + chunked(b"data: a\n\n") + LAST)
    assert (await client.answer()).complete
    assert (await rig.line())["verdict"] == "complete"


async def test_an_error_that_the_upstream_streams_is_passed_on(rig: Rig) -> None:
    """An error event is the upstream's own ending: it is passed on, ends cleanly, and the verdict knows."""
    error = b'event: error\ndata: {"error":{"message":"overloaded"}}\n\n'
    client, upstream = await rig.reach(CHAT)
    await upstream.send(STREAM + chunked(TOKEN, error) + LAST)
    answer = await client.answer()
    assert (answer.body, answer.complete) == (TOKEN + error, True)
    assert (await rig.line())["verdict"] == "upstream_error"


async def test_an_upstream_that_stays_open_is_closed(starter: Starter) -> None:
    """Behind the dialect's terminator the upstream has a moment to end; then the answer is complete without it."""
    rig = await starter(linger=0.05)
    client, upstream = await rig.reach(CHAT)
    await upstream.send(STREAM + chunked(TOKEN, STOP, DONE))
    answer = await client.answer()
    assert (answer.complete, answer.body) == (True, TOKEN + STOP + DONE)
    assert await upstream.rest() == b""
    line = await rig.line()
    assert line["verdict"] == "complete"
    await client.send(GET)
    await rig.take(await rig.accept())


# What stages and closers of a user's own can do, over the same two legs.


class Fails(Stage[bytes]):
    """Raises at a certain moment."""

    def __init__(self, moment: str) -> None:
        self._moment = moment

    def feed(self, batch: bytes, /) -> bytes:
        if self._moment == "feed":
            raise ValueError(self._moment)
        return batch

    def end(self, end: End, /) -> tuple[bytes | None, End]:
        if self._moment == "end":
            raise ValueError(self._moment)
        return None, end


class Stops(Stage[bytes]):
    """Has the relay stopped, as somebody else might at that very moment."""

    relay: Relay

    def __init__(self, end: End, moment: str) -> None:
        self._end = end
        self._moment = moment

    def feed(self, batch: bytes, /) -> bytes:
        if self._moment == "feed":
            self.relay.stop(self._end)
        return batch

    def end(self, end: End, /) -> tuple[bytes | None, End]:
        if self._moment == "end":
            self.relay.stop(self._end)
        return None, end


class Swells(Stage[bytes]):
    """Makes of any chunk more than all buffers on the way to a client that does not read can hold."""

    def feed(self, batch: bytes, /) -> bytes:
        return batch * (32 * 1024 * 1024 // len(batch))


@asynccontextmanager
async def bare_proxy(stage: Stage[bytes], relays: list[Relay]) -> AsyncIterator[tuple[Peer, Peer]]:
    """A proxy of nothing but the two legs, a relay and ``stage``: its client, and its upstream's end."""
    upstream = await Upstream.open()
    pool = Pool()
    origin = Origin("http", "127.0.0.1", upstream.port)

    async def informational(status: int, headers: object) -> None:
        raise AssertionError

    async def handle(incoming: Incoming) -> None:
        call = await pool.call(origin)
        await call.send_request(Request(b"GET", b"/", ((b"host", b"a"),)), last=True)
        head = await call.receive_head(informational)
        incoming.verbatim = call
        relay = Relay(call, Pipeline(stage), incoming, head=head)
        relays.append(relay)
        if isinstance(stage, Stops):
            stage.relay = relay
        await relay.run()

    async def refuse(connection: ServerConnection, error: RequestError) -> None:
        raise AssertionError

    def on_error(message: str, error: BaseException) -> None:
        raise AssertionError

    server = Server(handle, refuse=refuse, on_error=on_error)
    (listener,) = listen(Address("127.0.0.1", 0))
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run, [listener])
        client = Peer(await trio.open_tcp_stream("127.0.0.1", listener.address.port))
        await client.send(GET)
        try:
            yield client, await upstream.accept()
        finally:
            client.close()
            upstream.close()
            server.drain()
    pool.close()


@pytest.mark.parametrize("moment", ["feed", "end"])
async def test_a_stage_that_raises_is_no_clean_end(moment: str) -> None:
    """A stage that fails, if only as it is ended, cuts the answer."""
    relays: list[Relay] = []
    async with bare_proxy(Fails(moment), relays) as (client, upstream):
        await upstream.request()
        await upstream.send(STREAM + chunked(b"data: a\n\n") + LAST)
        answer = await client.answer()
        assert (answer.complete, answer.ending) == (False, "eof")
        assert isinstance(relays[0]._pipeline.ending, Failed)


STOPS: dict[str, End] = {"closed": Closed(), "cancelled": Cancelled(), "failed": Failed(RuntimeError())}


@pytest.mark.parametrize("end", STOPS.values(), ids=STOPS)
async def test_whoever_stops_a_stream_stops_its_end(end: End) -> None:
    """A stream that is stopped in its last write does not end cleanly, though its last chunk has come."""
    relays: list[Relay] = []
    async with bare_proxy(Swells(), relays) as (client, upstream):
        await upstream.request()
        await upstream.send(STREAM + chunked(b"data: a\n\n") + LAST)
        await trio.testing.wait_all_tasks_blocked(0.01)
        relays[0].stop(end)
        answer = await client.answer()
        assert (answer.complete, answer.ending) == (False, "eof")
        assert not answer.raw.endswith(LAST)
        assert relays[0]._pipeline.ending == end


@pytest.mark.parametrize("moment", ["feed", "end"])
@pytest.mark.parametrize("end", STOPS.values(), ids=STOPS)
async def test_a_stream_is_complete_for_both_or_for_none(end: End, moment: str) -> None:
    """Who stops a stream at the moment of its end comes too late or not; the client sees what the pipeline says."""
    relays: list[Relay] = []
    async with bare_proxy(Stops(end, moment), relays) as (client, upstream):
        await upstream.request()
        await upstream.send(STREAM + chunked(b"data: a\n\n") + LAST)
        answer = await client.answer()
        assert answer.complete == isinstance(relays[0]._pipeline.ending, Eof)


# Verbatim.


SPELLINGS = {
    "one": b"9\r\ndata: a\n\n\r\n",
    "with zeros": b"0009\r\ndata: a\n\n\r\n",
    "in capitals": b"0B\r\ndata: abc\n\n\r\n",
    "two": b"9\r\ndata: a\n\n\r\n009\r\ndata: b\n\n\r\n",
    "lines in chunks of their own": b"8\r\ndata: a\n\r\n1\r\n\n\r\n",
}


@pytest.mark.parametrize("raw", SPELLINGS.values(), ids=SPELLINGS)
async def test_whole_chunks_leave_as_they_came(rig: Rig, raw: bytes) -> None:
    """Chunks that came in whole, and were not changed, leave in the same bytes."""
    client, upstream = await rig.reach(GET)
    await upstream.send(STREAM + chunked(b"data: 0\n\n"))
    await client.until(b"data: 0\n\n\r\n")
    await upstream.send(raw)
    assert await client.exactly(len(raw)) == raw
    await upstream.send(LAST)
    assert await client.exactly(len(LAST)) == LAST


@pytest.mark.parametrize(
    ("raw", "framed"),
    [
        (b"9;a=b\r\ndata: a\n\n\r\n", chunked(b"data: a\n\n")),
        (b"00e\r\n: x\n\ndata: a\n\n\r\n", chunked(b"data: a\n\n")),
        (b"02\r\n: \r\n009\r\ndata: a\n\n\r\n012\r\ndata: b\n\ndata: c\n\n\r\n", chunked(b"data: b\n\ndata: c\n\n")),
    ],
    ids=["an extension", "a comment", "a comment in two chunks"],
)
async def test_what_was_changed_is_framed_anew(rig: Rig, raw: bytes, framed: bytes) -> None:
    """Extensions are not passed on, and a chunk that lost a comment is a new one."""
    client, upstream = await rig.reach(GET)
    await upstream.send(STREAM + chunked(b"data: 0\n\n"))
    await client.until(b"data: 0\n\n\r\n")
    await upstream.send(raw + LAST)
    assert await client.until(LAST) == framed + LAST


async def test_what_came_in_one_read_leaves_in_one_write(rig: Rig) -> None:
    """Head and first event of a short answer leave together: some clients read once."""
    client, upstream = await rig.reach(GET)
    await upstream.send(STREAM + chunked(b"data: a\n\n"))
    assert not client.buffer
    await client._receive()
    assert client.buffer.endswith(chunked(b"data: a\n\n"))
