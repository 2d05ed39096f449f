"""An upstream that breaks off: its client sees that, and the log says it, whatever the framing and the moment."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import pytest

from .peers import Peer, chunked
from .rig import CHAT, DONE, STOP, STREAM, STREAM_HEAD, TOKEN, Rig, split_error

Break: TypeAlias = Callable[[Peer], Awaitable[None]]


async def fin(upstream: Peer) -> None:
    await upstream.finish()


async def reset(upstream: Peer) -> None:
    upstream.reset()


async def mid_chunk(upstream: Peer) -> None:
    await upstream.send(b"ff\r\n" + TOKEN[:20])
    await upstream.finish()


async def mid_event(upstream: Peer) -> None:
    await upstream.send(chunked(TOKEN[:20]))
    await upstream.finish()


async def mid_size(upstream: Peer) -> None:
    await upstream.send(b"f")
    await upstream.finish()


async def mid_last_chunk(upstream: Peer) -> None:
    await upstream.send(b"0\r\n")
    await upstream.finish()


async def garbage(upstream: Peer) -> None:
    await upstream.send(b"zz\r\n")


async def shorter_than_its_chunk(upstream: Peer) -> None:
    await upstream.send(b"1\r\nxy\r\n")


BREAKS: dict[str, tuple[Break, str]] = {
    "FIN": (fin, "upstream_lost"),
    "RST": (reset, "upstream_lost"),
    "FIN in a chunk": (mid_chunk, "upstream_lost"),
    "FIN in an event": (mid_event, "upstream_lost"),
    "FIN in a chunk's size": (mid_size, "upstream_lost"),
    "FIN in the last chunk": (mid_last_chunk, "upstream_lost"),
    "no chunk size": (garbage, "malformed"),
    "no chunk end": (shorter_than_its_chunk, "malformed"),
}

VERSIONS = {"HTTP/1.1": b"1.1", "HTTP/1.0": b"1.0"}


def for_version(request: bytes, version: bytes) -> bytes:
    return request.replace(b"HTTP/1.1", b"HTTP/" + version)


@pytest.mark.parametrize("version", VERSIONS.values(), ids=VERSIONS)
@pytest.mark.parametrize(("break_off", "verdict"), BREAKS.values(), ids=BREAKS)
async def test_a_stream_that_breaks_off_is_aborted(rig: Rig, break_off: Break, verdict: str, version: bytes) -> None:
    """Chunks end without the last one; where only the connection's end ends the body, it is a reset."""
    client, upstream = await rig.reach(for_version(CHAT, version))
    await upstream.send(STREAM + chunked(TOKEN))
    await client.until(TOKEN)
    await break_off(upstream)
    rest = await client.rest()
    assert client.ending == ("reset" if version == b"1.0" else "eof")
    assert b"0\r\n\r\n" not in rest
    assert b"DONE" not in rest
    line = await rig.line()
    assert (line["verdict"], line["status"], line["events"], line["ended_by"]) == (verdict, 200, 1, "upstream")
    assert line["error"]


@pytest.mark.parametrize("version", VERSIONS.values(), ids=VERSIONS)
@pytest.mark.parametrize(("break_off", "verdict"), BREAKS.values(), ids=BREAKS)
async def test_before_the_commit_it_becomes_a_status(rig: Rig, break_off: Break, verdict: str, version: bytes) -> None:
    """A client that has seen nothing gets a 502 it can show, and is told not to pay for the same again by itself."""
    client, upstream = await rig.reach(for_version(CHAT, version))
    await upstream.send(STREAM + chunked(b": processing\n\n"))
    await break_off(upstream)
    answer = await client.answer()
    assert (answer.status, answer.complete) == (502, True)
    assert answer.get(b"content-type") == b"application/json"
    assert answer.get(b"x-should-retry") == b"false"
    assert b'"message": "The model\'s server could not be reached, or broke off. Please try again."' in answer.body
    line = await rig.line()
    assert (line["verdict"], line["status"], line["ended_by"]) == (verdict, 502, "upstream")
    assert line["id"] == answer.get(b"x-request-id").decode()  # type: ignore[union-attr]


BEFORE_THE_HEAD: dict[str, tuple[bytes, bool, str]] = {
    "FIN at once": (b"", False, "upstream_lost"),
    "RST at once": (b"", True, "upstream_lost"),
    "FIN in the head": (b"HTTP/1.1 200 OK\r\nConte", False, "upstream_lost"),
    "FIN behind a 1xx": (b"HTTP/1.1 100 Continue\r\n\r\n", False, "upstream_lost"),
    "garbage": (b"ICY 200 OK\r\n\r\n", False, "malformed"),
    "an alert of TLS": (b"\x15\x03\x03\x00\x02\x02\x16", False, "malformed"),
    "a bare LF": (b"HTTP/1.1 200 OK\nA: b\n\n", False, "malformed"),
    "two lengths": (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", False, "malformed"),
    "a strange coding": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", False, "malformed"),
    "chunks in HTTP/1.0": (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", False, "malformed"),
    "a head without end": (b"HTTP/1.1 200 OK\r\nA: " + b"x" * 70_000, False, "malformed"),
    "too many fields": (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 101 + b"\r\n", False, "malformed"),
}


@pytest.mark.parametrize(("sent", "abrupt", "verdict"), BEFORE_THE_HEAD.values(), ids=BEFORE_THE_HEAD)
async def test_no_answer_becomes_a_status(rig: Rig, sent: bytes, abrupt: bool, verdict: str) -> None:
    """What is no response, or none to the end of its head, is a 502, and the connection is not used again."""
    client, upstream = await rig.reach(CHAT)
    if sent:
        await upstream.send(sent)
    if abrupt:
        upstream.reset()
    else:
        await upstream.finish()
    answer = await client.answer()
    assert (answer.status, answer.complete) == (502, True)
    assert answer.get(b"x-should-retry") == b"false"
    assert (await rig.line())["verdict"] == verdict
    assert rig.app.routing.idle == 0
    assert rig.upstream.nobody_waits()


@pytest.mark.parametrize("version", VERSIONS.values(), ids=VERSIONS)
async def test_a_counted_body_that_is_too_short_is_cut(rig: Rig, version: bytes) -> None:
    """Where the length was promised, the missing bytes say it; nothing is made up."""
    client, upstream = await rig.reach(for_version(CHAT, version))
    await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{")
    await client.until(b"{")
    await upstream.finish()
    assert await client.rest() == b""
    assert client.ending == "eof"
    line = await rig.line()
    assert (line["verdict"], line["bytes_out"]) == ("upstream_lost", 1)


async def test_a_counted_event_stream_that_is_too_short_is_cut(rig: Rig) -> None:
    """An event stream loses its length, since comments are taken out; what is missing is noticed all the same."""
    client, upstream = await rig.reach(CHAT)
    await upstream.send(STREAM_HEAD + b"Content-Length: 5000\r\n\r\n" + TOKEN + STOP[:-1])
    await upstream.finish()
    answer = await client.answer()
    assert answer.get(b"content-length") is None
    body, error = split_error(answer.body)
    assert (body, error["code"], answer.complete) == (TOKEN, "upstream_lost", False)
    assert (await rig.line())["verdict"] == "upstream_lost"


async def test_a_stream_until_close_ends_with_its_dialect(rig: Rig) -> None:
    """An upstream that closes behind its dialect's end was complete; one that closes before it was not."""
    client, upstream = await rig.reach(CHAT)
    await upstream.send(STREAM_HEAD + b"\r\n" + TOKEN + STOP + DONE)
    await upstream.finish()
    answer = await client.answer()
    assert (answer.body, answer.complete) == (TOKEN + STOP + DONE, True)
    assert (await rig.line())["verdict"] == "complete"
    client, upstream = await rig.reach(CHAT)
    await upstream.send(STREAM_HEAD + b"\r\n" + TOKEN)
    await upstream.finish()
    answer = await client.answer()
    body, error = split_error(answer.body)
    assert (body, error["code"], answer.complete) == (TOKEN, "truncated", False)
    assert (await rig.line())["verdict"] == "truncated"


@pytest.mark.parametrize("version", VERSIONS.values(), ids=VERSIONS)
async def test_behind_the_dialects_end_a_broken_transport_changes_nothing(rig: Rig, version: bytes) -> None:
    """The answer is known to be whole, and the verdict says so; the client's transport breaks as the upstream's did."""
    client, upstream = await rig.reach(for_version(CHAT, version))
    await upstream.send(STREAM + chunked(TOKEN, STOP, DONE))
    await client.until(DONE)
    await upstream.finish()
    assert b"0\r\n\r\n" not in await client.rest()
    assert client.ending == ("reset" if version == b"1.0" else "eof")
    line = await rig.line()
    assert line["verdict"] == "complete"
    assert line["error"]
    assert rig.app.routing.idle == 0
