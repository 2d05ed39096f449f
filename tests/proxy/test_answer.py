"""One answer: begun in time, kept warm, made of several calls, and never ended otherwise than it was."""

from __future__ import annotations

import contextlib
import itertools
import json
from typing import Any

import pytest
import trio
import trio.testing

from sseflow import EmptyStream, Truncated, UpstreamRefused
from sseflow.http._chunked import ChunkedReader
from sseflow.proxy._demo import TWICE
from sseflow.proxy._demo import twice as demo
from sseflow.proxy._exchange import Exchange, Handler

from .peers import Peer, Upstream, chunked
from .rig import CHAT, DONE, LAST, STOP, STREAM, TOKEN, Rig, Starter, split_error

ASKING = b'{"model":"m","stream":true}'
ASK = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(ASKING), ASKING)
ROLE = b'data: {"model":"m","choices":[{"index":0,"delta":{"role":"assistant"},"finish_reason":null}]}\n\n'
ERROR = b'data: {"error":{"message":"slow down","type":"rate_limit_error","code":"429"}}\n\n'
PING = b'event: ping\ndata: {"type": "ping"}\n\n'


def handled(rig: Rig, handler: Handler, path: bytes = b"/v1/chat/completions") -> Rig:
    rig.app.handlers[path] = handler
    return rig


async def next_call(rig: Rig, sends: bytes) -> Peer:
    """Let the upstream take the next call, on a connection of its own, and answer it."""
    upstream = await rig.accept()
    await rig.take(upstream)
    await upstream.send(sends)
    return upstream


# Keeping warm.


async def test_a_model_that_thinks_for_nine_minutes(rig: Rig, jumping_clock: trio.testing.MockClock) -> None:
    """Behind a load balancer that hangs up after 60 s of silence: there is never as much, from the commit on."""
    client, upstream = await rig.reach(ASK)
    gaps, at = [], trio.current_time()
    async with trio.open_nursery() as nursery:

        async def think() -> None:
            await trio.sleep(300)
            await upstream.send(STREAM + chunked(b": processing\n\n", ROLE))
            for _ in range(4):
                await trio.sleep(60)
                await upstream.send(chunked(b": processing\n\n"))
            await upstream.send(chunked(TOKEN, STOP, DONE) + LAST)

        nursery.start_soon(think)
        seen = b""
        while not seen.endswith(LAST):
            seen += await client.exactly(1)
            gaps.append(trio.current_time() - at)
            at = trio.current_time()
    assert max(gaps) <= 17
    assert max(gaps[200:]) <= 12  # behind the head
    body = seen.partition(b"\r\n\r\n")[2]
    assert ChunkedReader().feed(body).replace(b":\n", b"") == ROLE + TOKEN + STOP + DONE
    line = await rig.line()
    assert line["verdict"] == "complete"
    assert 50 <= line["keep_alives"] <= 54
    assert line["comments"] == 5


@pytest.mark.parametrize(
    ("path", "bytes_"), [(b"/v1/chat/completions", b":\n"), (b"/v1/messages", PING), (b"/x", b":\n")]
)
async def test_the_keep_alive_is_the_dialects(
    rig: Rig, jumping_clock: trio.testing.MockClock, path: bytes, bytes_: bytes
) -> None:
    """Clients of each dialect are known to bear its keep-alive."""
    client, upstream = await rig.reach(CHAT.replace(b"/v1/chat/completions", path))
    event = b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"x"}}\n\n'
    await upstream.send(STREAM + chunked(event))
    await client.until(event + b"\r\n")
    began = trio.current_time()
    for _ in range(3):
        assert await client.exactly(len(chunked(bytes_))) == chunked(bytes_)
    assert 30 <= trio.current_time() - began <= 34


async def test_inside_an_event_the_line_stays_silent(rig: Rig, jumping_clock: trio.testing.MockClock) -> None:
    """A keep-alive inside an event would be a part of it."""
    client, upstream = await rig.reach(CHAT)
    long = b"data: " + b"x" * 70_000
    await upstream.send(STREAM + chunked(TOKEN, long))
    await trio.sleep(60)
    await upstream.send(chunked(b"\n\n", STOP, DONE) + LAST)
    answer = await client.answer()
    assert answer.body == TOKEN + long + b"\n\n" + STOP + DONE
    assert (await rig.line())["keep_alives"] == 0


@pytest.mark.parametrize("settings", [{}, {"on_client_gone": "drain"}], ids=["cancel", "drain"])
async def test_behind_a_keep_alive_a_bom_is_none(
    starter: Starter, jumping_clock: trio.testing.MockClock, settings: dict[str, Any]
) -> None:
    """A stream that begins with one begins behind a comment of ours: its first line is still itself."""
    rig = await starter(**settings)
    for pieces in ([b"\xef\xbb\xbf" + TOKEN], [b"\xef", b"\xbb\xbf", TOKEN]):
        client, upstream = await rig.reach(CHAT)
        await upstream.send(STREAM)
        await client.until(b":\n")
        for piece in pieces:
            await upstream.send(chunked(piece))
        await upstream.send(chunked(STOP, DONE) + LAST)
        body = (await client.until(LAST)).replace(chunked(b":\n"), b"")
        assert b"\xef" not in body
        assert TOKEN in body
        assert (await rig.line())["verdict"] == "complete"
        upstream.close()


async def test_a_stream_keeps_no_length(starter: Starter, jumping_clock: trio.testing.MockClock) -> None:
    """Also where nothing is held and nothing dropped: what we write beside it is in no length that was promised."""
    rig = await starter(gate="off", comments="forward")
    client, upstream = await rig.reach(CHAT)
    body = TOKEN + STOP + DONE
    await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
    await upstream.send(b"Content-Length: %d\r\n\r\n" % len(body) + TOKEN)
    assert b"content-length" not in (await client.until(b"\r\n\r\n")).lower()
    await client.until(chunked(b":\n"))
    await upstream.send(STOP + DONE)
    assert (await client.until(LAST)).endswith(LAST)
    assert (await rig.line())["verdict"] == "complete"


@pytest.mark.parametrize("marks", [1, 2])
async def test_behind_a_head_alone_a_bom_is_one(rig: Rig, jumping_clock: trio.testing.MockClock, marks: int) -> None:
    """A head of our own is no line: the stream still begins with what the upstream sends."""
    client, upstream = await rig.reach(ASK)
    await client.until(b"\r\n\r\n")
    stream = b"\xef\xbb\xbf" * marks + b"id: 1\n" + TOKEN + STOP + DONE
    await upstream.send(STREAM + chunked(stream) + LAST)
    assert stream in await client.until(LAST)
    assert (await rig.line())["verdict"] == "complete"


async def test_behind_the_end_there_is_no_keep_alive(starter: Starter, jumping_clock: trio.testing.MockClock) -> None:
    """A client that has seen the dialect's end is waiting for nothing but the end of the body."""
    rig = await starter(linger=100, keep_alive=10)
    client, upstream = await rig.reach(CHAT)
    await upstream.send(STREAM + chunked(TOKEN, STOP, DONE))
    answer = await client.answer()
    assert (answer.body, answer.complete) == (TOKEN + STOP + DONE, True)
    assert (await rig.line())["keep_alives"] == 0


async def test_keep_alives_can_be_off(starter: Starter, jumping_clock: trio.testing.MockClock) -> None:
    """Then there is silence."""
    rig = await starter(keep_alive=0)
    client, upstream = await rig.reach(CHAT)
    await upstream.send(STREAM + chunked(TOKEN))
    await trio.sleep(100)
    await upstream.send(chunked(STOP, DONE) + LAST)
    assert (await client.answer()).body == TOKEN + STOP + DONE


async def test_comments_can_be_forwarded(starter: Starter) -> None:
    """As they came."""
    rig = await starter(comments="forward")
    client, upstream = await rig.reach(CHAT)
    await upstream.send(STREAM + chunked(TOKEN, b": hm\n\n", STOP, DONE) + LAST)
    assert (await client.answer()).body == TOKEN + b": hm\n\n" + STOP + DONE


# The commit.


async def test_a_head_of_our_own(rig: Rig, jumping_clock: trio.testing.MockClock) -> None:
    """A client that has asked for a stream waits for a head no longer than 15 s, though the upstream has sent none."""
    client, upstream = await rig.reach(ASK)
    began = trio.current_time()
    head = await client.until(b"\r\n\r\n")
    assert 15 <= trio.current_time() - began <= 17
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nContent-Type: text/event-stream\r\n" in head
    assert await client.until(b"\r\n:\n\r\n") == b"2\r\n:\n\r\n"
    await upstream.send(
        STREAM.replace(b"OK\r\n", b"OK\r\nX-Late: 1\r\n") + chunked(b"\xef\xbb\xbf" + TOKEN, STOP, DONE) + LAST
    )
    assert ChunkedReader().feed(await client.until(LAST)) == TOKEN + STOP + DONE
    assert (await rig.line())["verdict"] == "complete"


async def test_a_long_request_that_asks_for_a_stream(rig: Rig, jumping_clock: trio.testing.MockClock) -> None:
    """The same if its body is not held but passed on."""
    body = json.dumps({"messages": ["x" * 100_000], "stream": True}).encode()
    client = await rig.client(ASK.partition(b"\r\n\r\n")[0].replace(b"27", b"%d" % len(body)) + b"\r\n\r\n" + body)
    upstream = await rig.accept()
    await rig.take(upstream)
    began = trio.current_time()
    assert b" 200 OK" in await client.until(b"\r\n\r\n")
    assert 15 <= trio.current_time() - began <= 17


async def test_no_head_of_our_own_for_who_did_not_ask(rig: Rig, jumping_clock: trio.testing.MockClock) -> None:
    """For all that is known the answer may be anything: the wait goes on."""
    client, upstream = await rig.reach(CHAT)
    await trio.sleep(100)
    await upstream.send(b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n")
    assert (await client.answer()).status == 429


async def test_behind_our_own_head_a_failure_is_an_error_event(rig: Rig, jumping_clock: trio.testing.MockClock) -> None:
    """It can no longer be a status; what the upstream said of it is kept."""
    client, upstream = await rig.reach(ASK)
    await client.until(b"\r\n\r\n")
    body = b'{"error":{"message":"slow down","type":"rate_limit_error","code":"x"}}'
    await upstream.send(b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    rest = await client.rest()
    assert client.ending == "eof"
    assert not rest.endswith(LAST)
    assert b'data: {"error": {"message": "slow down", "type": "rate_limit_error", "param": null, "code": "x"}' in rest
    line = await rig.line()
    assert (line["verdict"], line["status"], line["committed"]) == ("upstream_error", 200, True)


async def test_a_warm_gate_opens_at_once(starter: Starter, jumping_clock: trio.testing.MockClock) -> None:
    """A tenth of a second is left for a failure to be a status."""
    rig = await starter(gate="warm")
    client, _ = await rig.reach(ASK)
    began = trio.current_time()
    await client.until(b"\r\n\r\n")
    assert 0.1 <= trio.current_time() - began <= 0.25


@pytest.mark.parametrize(("gate", "status"), [("content", 429), ("first_event", 429), ("off", 200)])
async def test_an_error_at_the_beginning(starter: Starter, gate: str, status: int) -> None:
    """An error as the first event is the status that it says, unless nothing waits for the first event."""
    rig = await starter(gate=gate)
    client, upstream = await rig.reach(CHAT)
    await upstream.send(STREAM + chunked(b": processing\n\n", ERROR))
    if status == 429:
        answer = await client.answer()
        error = json.loads(answer.body)["error"]
        assert (error["message"], error["type"], error["code"]) == ("slow down", "rate_limit_error", "429")
        assert answer.get(b"x-should-retry") is None
        assert await upstream.rest() == b""  # nobody waits for its end
    else:
        await upstream.send(LAST)
        answer = await client.answer()
        assert answer.body == ERROR
    assert answer.complete
    assert answer.status == status
    assert (await rig.line())["verdict"] == "upstream_error"


@pytest.mark.parametrize(("gate", "opens"), [("content", False), ("first_event", True), ("off", True)])
async def test_what_opens_the_gate(starter: Starter, gate: str, opens: bool) -> None:
    """``[DONE]`` alone is no content, but it is an event."""
    rig = await starter(gate=gate)
    client, upstream = await rig.reach(CHAT)
    await upstream.send(STREAM + chunked(DONE) + LAST)
    answer = await client.answer()
    assert answer.status == (200 if opens else 502)
    assert (await rig.line())["verdict"] == ("empty")


@pytest.mark.parametrize(
    ("type_", "body", "status", "said"),
    [
        (b"application/json", b'{"error":{"message":"no","code":404}}', 404, "no"),
        (b"application/json", b'{"error":{"message":"no","type":"overloaded_error"}}', 529, "no"),
        (b"application/json", b'{"error":"no"}', 502, "no"),
        (b"application/json", b'{"choices":[]}', 502, None),
        (b"text/html", b"<html>log in first</html>", 502, None),
        (b"image/png", TOKEN, 502, None),
    ],
)
async def test_what_is_no_stream_where_one_was_asked_for(
    rig: Rig, type_: bytes, body: bytes, status: int, said: str | None
) -> None:
    """A 200 that is none, which no SDK notices, becomes a status."""
    client, upstream = await rig.reach(ASK)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n"
    await upstream.send(head % (type_, len(body)) + body)
    answer = await client.answer()
    assert (answer.status, answer.complete) == (status, True)
    assert said is None or json.loads(answer.body)["error"]["message"] == said
    line = await rig.line()
    assert line["verdict"] == ("malformed" if said is None else "upstream_error")
    await client.send(CHAT)  # it has not asked
    await rig.take(upstream)
    await upstream.send(head % (type_, len(body)) + body)
    assert (await client.answer()).body == body


@pytest.mark.parametrize("label", [b"Content-Type: text/plain\r\n", b""], ids=["text/plain", "none"])
async def test_a_stream_without_its_label(rig: Rig, label: bytes) -> None:
    """It is read as what was asked for: a stream with an honest end, or a 502 if it is none."""
    head = b"HTTP/1.1 200 OK\r\n%bTransfer-Encoding: chunked\r\n\r\n" % label
    for body, status in ((TOKEN + STOP + DONE, 200), (b"It works!", 502)):
        client, upstream = await rig.reach(ASK)
        await upstream.send(head + chunked(body) + LAST)
        answer = await client.answer()
        assert (answer.status, answer.complete) == (status, True)
        if status == 200:
            assert (answer.body, answer.get(b"content-type")) == (body, b"text/event-stream")
        await rig.line()
        upstream.close()


# Ending badly.


async def test_the_error_event_arrives_at_a_slow_reader(rig: Rig) -> None:
    """Though the connection is aborted behind it, and pipelined bytes of the client's lie unread."""
    client, upstream = await rig.reach(CHAT + CHAT + b"x" * 1000)
    await upstream.send(STREAM + chunked(TOKEN))
    await client.until(TOKEN)
    await upstream.finish()
    line = await rig.line()  # it is over, and nothing of it was read yet
    rest = await client.rest()
    assert b'"code": "upstream_lost"' in rest
    assert client.ending == "eof"
    assert (line["verdict"], line["committed"]) == ("upstream_lost", True)


@pytest.mark.parametrize("te", [True, False])
async def test_a_clean_end_can_be_asked_for(starter: Starter, te: bool) -> None:
    """Then the error event is all there is, and, for who reads trailers, the verdict."""
    rig = await starter(error_end="clean")
    request = CHAT.replace(b"Host: a\r\n", b"Host: a\r\nTE: trailers\r\nConnection: TE\r\n") if te else CHAT
    for payloads, verdict in (((TOKEN,), "truncated"), ((TOKEN, STOP, DONE), "complete")):
        client, upstream = await rig.reach(request)
        await upstream.send(STREAM + chunked(*payloads) + LAST)
        await upstream.finish()
        head = await client.until(b"\r\n\r\n")
        assert (b"\r\nTrailer: Sseflow-Verdict\r\n" in head) == te
        body = await client.until(b"\r\n0\r\n")
        assert (b'"code": "truncated"' in body) == (verdict == "truncated")
        assert await client.until(b"\r\n") == (b"Sseflow-Verdict: %b\r\n" % verdict.encode() if te else b"\r\n")
        assert (await rig.line())["verdict"] == verdict


async def test_a_clean_end_is_never_one_inside_an_event(starter: Starter) -> None:
    """There no error event can be written, so the cut has to do, whatever was asked for."""
    rig = await starter(error_end="clean")
    client, upstream = await rig.reach(CHAT)
    await upstream.send(STREAM + chunked(TOKEN, b"data: " + b"x" * 70_000))
    await client.until(b"x" * 1000)
    await upstream.finish()
    assert not (await client.rest()).endswith(LAST)
    assert client.ending == "eof"


async def test_progress_is_content(starter: Starter, jumping_clock: trio.testing.MockClock) -> None:
    """An upstream that pings and generates nothing is given up, and the words say so; content begins the time anew."""
    rig = await starter(idle_timeout=20, progress_timeout=60)
    client, upstream = await rig.reach(CHAT)
    await upstream.send(STREAM + chunked(TOKEN))
    async with trio.open_nursery() as nursery:

        async def ping() -> None:
            for beat in itertools.count(1):
                await trio.sleep(10)
                await upstream.send(chunked(TOKEN if beat == 3 else b": ping\n\n" + ROLE))

        nursery.start_soon(ping)
        line = await rig.line()
        nursery.cancel_scope.cancel()
    assert (line["verdict"], line["ended_by"]) == ("stalled_progress", "proxy")
    assert 90 <= line["duration"] <= 93
    assert "no content for 60 s" in line["error"]
    assert b'"code": "stalled_progress"' in await client.rest()


async def test_both_clocks_over_a_real_clock(starter: Starter) -> None:
    """Each fires by itself when the other is long."""
    for idle, progress, pings, verdict in ((0.1, 60, False, "stalled_idle"), (60, 0.1, True, "stalled_progress")):
        rig = await starter(idle_timeout=idle, progress_timeout=progress)
        client, upstream = await rig.reach(CHAT)
        await upstream.send(STREAM + chunked(TOKEN) + (chunked(b": ping\n\n") if pings else b""))
        assert (await rig.line())["verdict"] == verdict
        assert not (await client.answer()).complete


async def test_an_exchange_can_be_interrupted(rig: Rig) -> None:
    """By whoever holds it; the client is told."""
    client, upstream = await rig.reach(CHAT)
    await upstream.send(STREAM + chunked(TOKEN))
    await client.until(TOKEN)
    (exchange,) = rig.app._exchanges
    exchange.interrupt("the user pressed stop")
    assert b'"code": "interrupted"' in await client.rest()
    line = await rig.line()
    assert (line["verdict"], line["ended_by"], line["error"]) == ("interrupted", "proxy", "the user pressed stop")


# The client leaves.


async def test_reading_on_for_the_usage(starter: Starter) -> None:
    """With ``drain`` the upstream is read to its end though the client has left: the usage stands there."""
    rig = await starter(on_client_gone="drain")
    client, upstream = await rig.reach(CHAT)
    await upstream.send(STREAM + chunked(TOKEN))
    await client.until(TOKEN)
    client.close()
    with trio.fail_after(5):
        while not next(iter(rig.app._exchanges))._answer.left:
            await trio.lowlevel.checkpoint()
    usage = b'data: {"choices":[],"usage":{"total_tokens":7}}\n\n'
    await upstream.send(chunked(TOKEN, STOP, usage, DONE) + LAST)
    line = await rig.line()
    assert (line["verdict"], line["ended_by"], line["usage"]) == ("client_gone", "client", {"total_tokens": 7})


@pytest.mark.parametrize("limit", ["time", "bytes"])
async def test_reading_on_ends(starter: Starter, jumping_clock: trio.testing.MockClock, limit: str) -> None:
    """After so many seconds, and so many bytes, the upstream is closed."""
    rig = await starter(on_client_gone="drain", client_drain_time=20, client_drain_bytes=1000)
    client, upstream = await rig.reach(CHAT)
    await upstream.send(STREAM + chunked(TOKEN))
    await client.until(TOKEN)
    client.close()
    if limit == "bytes":
        await trio.sleep(2)
        await upstream.send(chunked(b": " + b"x" * 2000 + b"\n"))
    began = trio.current_time()
    assert (await rig.line())["verdict"] == "client_gone"
    assert trio.current_time() - began <= (2 if limit == "bytes" else 22)
    await upstream.rest()
    assert upstream.ending is not None


# Several calls.


async def twice(exchange: Exchange) -> None:
    async with exchange.answer() as answer:
        await answer.relay(await exchange.call(), last=False)
        await answer.relay(await exchange.call(b"again"))


async def test_two_calls_are_one_answer(rig: Rig) -> None:
    """One head, one stream, and the end of the last; what the first had behind its content is gone, and a BOM, too."""
    handled(rig, twice)
    client, first = await rig.reach(CHAT)
    await first.send(STREAM + chunked(TOKEN, STOP, b'data: {"usage":{"x":1}}\n\n', DONE) + LAST)
    second = first
    head = await second.request()
    assert await second.exactly(5) == b"again"
    assert head.get(b"content-length") == b"5"
    await second.send(STREAM.replace(b"OK\r\n", b"OK\r\nX-Second: 1\r\n"))
    await second.send(chunked(b"\xef\xbb", b"\xbf" + TOKEN, STOP, DONE) + LAST)
    answer = await client.answer()
    assert (answer.status, answer.body, answer.complete) == (200, TOKEN + TOKEN + STOP + DONE, True)
    assert answer.get(b"x-second") is None
    line = await rig.line()
    assert (line["verdict"], line["calls"], line["events"]) == ("complete", 2, 7)


async def test_what_was_kept_back_can_be_the_end(rig: Rig) -> None:
    """``finish`` sends it as it came: no end is made up."""

    async def once(exchange: Exchange) -> None:
        async with exchange.answer() as answer:
            await answer.relay(await exchange.call(), last=False)
            await answer.finish()

    handled(rig, once)
    client, upstream = await rig.reach(CHAT)
    await upstream.send(STREAM + chunked(TOKEN, STOP.replace(b"\n\n", b"\r\n\r\n"), DONE) + LAST)
    answer = await client.answer()
    assert (answer.body, answer.complete) == (TOKEN + STOP.replace(b"\n\n", b"\r\n\r\n") + DONE, True)
    assert (await rig.line())["verdict"] == "complete"


async def test_a_call_that_failed_left_no_end_to_finish_with(rig: Rig) -> None:
    """Whoever takes the failure for none cannot end the answer with what came before it."""

    async def stubborn(exchange: Exchange) -> None:
        async with exchange.answer() as answer:
            with contextlib.suppress(Truncated):
                await answer.relay(await exchange.call(), last=False)
            await answer.finish()

    handled(rig, stubborn)
    client, upstream = await rig.reach(CHAT)
    await upstream.send(STREAM + chunked(TOKEN) + LAST)
    answer = await client.answer()
    body, error = split_error(answer.body)
    assert (body, error["code"], answer.complete) == (TOKEN, "internal_error", False)
    assert (await rig.line())["verdict"] == "internal_error"
    assert "last=False" in (await rig.log.next("an exchange failed"))["error"]


@pytest.mark.parametrize("committed", [True, False])
async def test_a_second_call_that_is_refused(rig: Rig, committed: bool) -> None:
    """Once the answer has begun it is an error event; before that it is still a status."""
    handled(rig, twice)
    client, upstream = await rig.reach(CHAT)
    await upstream.send(STREAM + chunked(*([TOKEN] if committed else []), STOP, DONE) + LAST)
    await rig.take(upstream)
    body = b'{"error":{"message":"slow down","type":"rate_limit_error"}}'
    await upstream.send(b"HTTP/1.1 429 Slow\r\nRetry-After: 3\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    answer = await client.answer()
    line = await rig.line()
    assert line["verdict"] == "upstream_error"
    if committed:
        stream, error = split_error(answer.body)
        assert (answer.status, stream, answer.complete) == (200, TOKEN, False)
        assert error["message"] == "slow down"
    else:
        assert (answer.status, answer.body, answer.complete) == (429, body, True)
        assert answer.get(b"retry-after") == b"3"


SECOND = {
    "cut": (STREAM + chunked(TOKEN), "upstream_lost", TOKEN),
    "truncated": (STREAM + chunked(TOKEN) + LAST, "truncated", TOKEN),
    "empty": (STREAM + LAST, "empty", b""),
    "an error in band": (STREAM + chunked(ERROR), "upstream_error", b""),
    "no stream": (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi", "malformed", b""),
    "nothing": (b"", "upstream_lost", b""),
}


@pytest.mark.parametrize(("sends", "verdict", "more"), SECOND.values(), ids=SECOND)
async def test_a_second_call_that_fails(rig: Rig, sends: bytes, verdict: str, more: bytes) -> None:
    """Nothing of it looks like an end: what it gave is there, then the error event, then the cut."""
    handled(rig, twice)
    client, upstream = await rig.reach(CHAT)
    await upstream.send(STREAM + chunked(TOKEN, STOP, DONE) + LAST)
    await rig.take(upstream)
    if sends:
        await upstream.send(sends)
    await upstream.finish()
    answer = await client.answer()
    stream, error = split_error(answer.body)
    assert (stream, answer.complete) == (TOKEN + more, False)
    assert error is not None
    line = await rig.line()
    assert (line["verdict"], line["committed"]) == (verdict, True)


FIRST = {
    "truncated": (chunked(TOKEN) + LAST, "truncated"),
    "cut": (chunked(TOKEN), "upstream_lost"),
    "inside an event": (chunked(TOKEN, STOP, DONE, b"data: {") + LAST, "cut_mid_event"),
    "an error in band": (chunked(TOKEN, ERROR) + LAST, "upstream_error"),
}


@pytest.mark.parametrize(("sends", "verdict"), FIRST.values(), ids=FIRST)
async def test_a_first_call_that_fails_cannot_be_continued(rig: Rig, sends: bytes, verdict: str) -> None:
    """The handler gets the error where it asked, and no other call is made."""
    handled(rig, twice)
    client, upstream = await rig.reach(CHAT)
    await upstream.send(STREAM + sends)
    await upstream.finish()
    answer = await client.answer()
    assert answer.body.startswith(TOKEN)
    assert not answer.complete
    assert (await rig.line())["verdict"] == verdict
    assert rig.upstream.nobody_waits()


async def test_a_handler_may_try_another_call_before_anything_was_delivered(rig: Rig) -> None:
    """What failed before the commit has left nothing behind."""
    seen: list[Exception] = []

    async def retry(exchange: Exchange) -> None:
        async with exchange.answer() as answer:
            try:
                await answer.relay(await exchange.call())
            except (EmptyStream, UpstreamRefused, Truncated) as error:
                seen.append(error)
                await answer.relay(await exchange.call())

    handled(rig, retry)
    client, upstream = await rig.reach(CHAT)
    await upstream.send(STREAM + LAST)
    await rig.take(upstream)
    await upstream.send(STREAM + chunked(TOKEN, STOP, DONE) + LAST)
    answer = await client.answer()
    assert (answer.body, answer.complete) == (TOKEN + STOP + DONE, True)
    assert [type(error) for error in seen] == [EmptyStream]
    assert (await rig.line())["verdict"] == "complete"


async def test_between_two_calls_the_client_is_kept_warm(rig: Rig, jumping_clock: trio.testing.MockClock) -> None:
    """Also while a tool runs, or the second upstream thinks; the commit can be asked for, any number of times."""

    async def slow(exchange: Exchange) -> None:
        async with exchange.answer() as answer:
            await answer.commit()
            await answer.commit()
            await trio.sleep(100)
            await answer.relay(await exchange.call(), last=False)
            await trio.sleep(100)
            await answer.relay(await exchange.call())

    handled(rig, slow)
    client = await rig.client(CHAT)
    assert b"text/event-stream" in await client.until(b"\r\n\r\n")
    upstream = await rig.accept()
    await rig.take(upstream)
    await trio.sleep(100)
    await upstream.send(STREAM + chunked(TOKEN, STOP, DONE) + LAST)
    # The connection has not been idle for long when the second call comes, or it has: both are fine.
    second = await rig.accept()
    await rig.take(second)
    await second.send(STREAM + chunked(TOKEN, STOP, DONE) + LAST)
    body = await client.until(LAST)
    assert body.replace(chunked(b":\n"), b"") == chunked(TOKEN, TOKEN, STOP, DONE) + LAST
    assert 25 <= (await rig.line())["keep_alives"] <= 30


MISUSE: dict[str, Any] = {}


def misuse(handler: Handler) -> Handler:
    MISUSE[handler.__name__] = handler
    return handler


@misuse
async def no_answer(exchange: Exchange) -> None:
    pass


@misuse
async def no_end(exchange: Exchange) -> None:
    async with exchange.answer() as answer:
        await answer.relay(await exchange.call(), last=False)


@misuse
async def finished_without_a_call(exchange: Exchange) -> None:
    async with exchange.answer() as answer:
        await answer.finish()


@misuse
async def relayed_behind_the_end(exchange: Exchange) -> None:
    async with exchange.answer() as answer:
        await answer.relay(await exchange.call(), last=False)
        await answer.commit()
        await answer.relay(await exchange.call(), last=False)
        raise KeyError("a bug of the handler")


@pytest.mark.parametrize("handler", MISUSE.values(), ids=MISUSE)
async def test_a_handler_that_is_wrong_is_no_clean_end(rig: Rig, handler: Handler) -> None:
    """Its bug is logged, the client learns that something went wrong, and nobody makes up an end."""
    handled(rig, handler)
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            upstream = await rig.accept()
            while True:
                await rig.take(upstream)
                await upstream.send(STREAM + chunked(TOKEN, STOP, DONE) + LAST)

        if handler.__name__ not in ("no_answer", "finished_without_a_call"):
            nursery.start_soon(serve)
        client = await rig.client(CHAT)
        answer = await client.answer()
        nursery.cancel_scope.cancel()
    assert (answer.status == 500) == answer.complete
    assert STOP not in answer.body
    assert (await rig.line())["verdict"] == "internal_error"
    assert (await rig.log.next("an exchange failed"))["exception"]


async def test_the_demo_shows_two_calls(starter: Starter) -> None:
    """The route of the demo makes one stream of two answers."""
    rig = await starter(upstream=await Upstream.open())
    rig.app.handlers[TWICE] = demo
    client, upstream = await rig.reach(CHAT.replace(b"/v1/chat/completions", TWICE))
    await upstream.send(STREAM + chunked(TOKEN, STOP, DONE) + LAST)
    await rig.take(upstream)
    await upstream.send(STREAM + chunked(TOKEN, STOP, DONE) + LAST)
    answer = await client.answer()
    assert (answer.body, answer.complete) == (TOKEN + TOKEN + STOP + DONE, True)
