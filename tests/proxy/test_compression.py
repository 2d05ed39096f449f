"""Event streams that are compressed on the way to the client, and others that came so from the upstream."""

from __future__ import annotations

import pytest
import trio

from sseflow.http import Decoder, Encoder

from .peers import Peer, chunked
from .rig import DONE, LAST, STOP, STREAM, STREAM_HEAD, TOKEN, Rig, Starter, split_error
from .test_answer import ASK

ACCEPTS = ASK.replace(b"Host: a\r\n", b"Host: a\r\nAccept-Encoding: br;q=0.5, gzip\r\n")
GZIP = STREAM_HEAD + b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"


async def read_event(client: Peer, decoder: Decoder) -> bytes:
    """The next chunk, decoded."""
    size = int((await client.until(b"\r\n"))[:-2], 16)
    data = await client.exactly(size)
    await client.exactly(2)
    return b"".join(decoder.decode(data))


@pytest.fixture
async def rig(starter: Starter) -> Rig:
    """A proxy that compresses."""
    return await starter(compress=("gzip", "zstd"))


async def test_each_event_can_be_read_when_it_was_written(rig: Rig) -> None:
    """A client that accepts it gets a compressed stream, and every event of it at once."""
    client, upstream = await rig.reach(ACCEPTS)
    await upstream.send(STREAM + chunked(TOKEN))
    head = await client.until(b"\r\n\r\n")
    assert b"Content-Encoding: gzip\r\n" in head
    assert b"Vary: Accept-Encoding\r\n" in head
    decoder = Decoder(b"gzip")
    assert await read_event(client, decoder) == TOKEN
    for event in (TOKEN, STOP, DONE):
        await upstream.send(chunked(event))
        assert await read_event(client, decoder) == event
    await upstream.send(LAST)
    assert await read_event(client, decoder) == b""
    decoder.end()
    assert await client.until(LAST) == LAST
    assert (await rig.line())["verdict"] == "complete"


async def test_who_does_not_accept_it_gets_it_plain(rig: Rig) -> None:
    """And a cache is told that this depends."""
    client, upstream = await rig.reach(ASK)
    await upstream.send(STREAM + chunked(TOKEN, STOP, DONE) + LAST)
    answer = await client.answer(b"POST")
    assert (answer.get(b"content-encoding"), answer.get(b"vary")) == (None, b"Accept-Encoding")
    assert answer.body == TOKEN + STOP + DONE


async def test_who_forbids_it_is_heeded(rig: Rig) -> None:
    """An upstream that says ``no-transform`` has its stream passed on as it came (RFC 9110, section 7.7)."""
    client, upstream = await rig.reach(ACCEPTS)
    head = STREAM.replace(b"OK\r\n", b"OK\r\nCache-Control: no-cache, No-Transform\r\n")
    await upstream.send(head + chunked(TOKEN, STOP, DONE) + LAST)
    answer = await client.answer(b"POST")
    assert (answer.get(b"content-encoding"), answer.body) == (None, TOKEN + STOP + DONE)


async def test_an_answer_in_one_piece_is_left_alone(rig: Rig) -> None:
    """What is no event stream passes as it came."""
    client, upstream = await rig.reach(ACCEPTS.replace(b'"stream":true', b'"stream":null'))
    await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
    answer = await client.answer(b"POST")
    assert (answer.get(b"content-encoding"), answer.body) == (None, b"{}")


async def test_a_cut_stream_has_no_end_in_any_coding(rig: Rig) -> None:
    """The error event is compressed like the others; the coding is cut as the body is."""
    client, upstream = await rig.reach(ACCEPTS)
    await upstream.send(STREAM + chunked(TOKEN))
    await client.until(b"\r\n\r\n")
    decoder = Decoder(b"gzip")
    received = await read_event(client, decoder)
    await upstream.finish()
    received += await read_event(client, decoder)
    body, error = split_error(received)
    assert (body, error["code"]) == (TOKEN, "upstream_lost")
    assert await client.rest() == b""
    with pytest.raises(Exception, match="ended inside"):
        decoder.end()


async def test_events_of_a_compressed_upstream_come_one_by_one(starter: Starter) -> None:
    """Each event is passed on when its bytes have come, plain, and without the name of the coding."""
    rig = await starter()
    client, upstream = await rig.reach(ASK)
    encoder = Encoder("gzip")
    await upstream.send(GZIP)
    for event in (TOKEN, STOP, DONE):
        await upstream.send(chunked(encoder.encode(event)))
        seen = await client.until(event + b"\r\n")
        assert b"gzip" not in seen
    await upstream.send(chunked(encoder.finish()) + LAST)
    assert (await client.until(LAST)).endswith(LAST)
    line = await rig.line()
    assert (line["verdict"], line["events"], line["bytes_in"]) == ("complete", 3, len(TOKEN + STOP + DONE))


async def test_codings_may_stand_in_several_fields(starter: Starter) -> None:
    """They are one list (RFC 9110, section 5.3), in the order in which they were applied."""
    rig = await starter()
    client, upstream = await rig.reach(ASK)
    inner, outer = Encoder("gzip"), Encoder("br")
    body = inner.encode(TOKEN + STOP + DONE) + inner.finish()
    body = outer.encode(body) + outer.finish()
    head = GZIP.replace(b"Content-Encoding: gzip", b"Content-Encoding: gzip\r\nContent-Encoding: br")
    await upstream.send(head + chunked(body) + LAST)
    assert (await client.answer(b"POST")).body == TOKEN + STOP + DONE
    assert (await rig.line())["verdict"] == "complete"


async def test_a_refusal_is_read_though_it_is_compressed(starter: Starter) -> None:
    """An error in JSON that came instead of a stream says what it says, in whatever coding."""
    rig = await starter()
    client, upstream = await rig.reach(ASK)
    encoder = Encoder("zstd")
    body = encoder.encode(b'{"error":{"message":"slow down","type":"rate_limit_error","code":429}}') + encoder.finish()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: zstd\r\nContent-Length: %d\r\n\r\n"
    await upstream.send(head % len(body) + body)
    answer = await client.answer(b"POST")
    assert (answer.status, b"slow down" in answer.body) == (429, True)


async def test_a_bomb_of_comments_lets_others_live(starter: Starter) -> None:
    """However much comes out of little, it is decoded piece by piece, and ended when it is too much."""
    rig = await starter()
    client, upstream = await rig.reach(ASK)
    encoder = Encoder("gzip")
    await upstream.send(GZIP + chunked(encoder.encode(TOKEN)))
    await client.until(TOKEN + b"\r\n")
    with trio.fail_after(10):
        await upstream.send(chunked(encoder.encode(b":" + b"x" * (8 << 20))))
        await client.rest()
    line = await rig.line()
    assert (line["verdict"], "max_ratio" in line["error"]) == ("over_limit", True)
