"""A secret that is everywhere in a request is nowhere in what is said of it, whatever the upstream does."""

from __future__ import annotations

import uuid

import pytest
import trio

from sseflow.http import Origin
from sseflow.proxy import Exchange, forward
from sseflow.testing import ScriptedUpstream

from .matrix import FAULTS, script_of
from .peers import patience
from .rig import Starter

SECRET = f"sk-CANARY-{uuid.uuid4()}"
PATH = b"/v1/chat/completions"
BODY = b'{"stream": true, "api_key": "%s", "user": "%s"}' % (SECRET.encode(), SECRET.encode())
FIELDS = (
    "Host: a",
    f"Authorization: Bearer {SECRET}",
    f"X-Api-Key: {SECRET}",
    f"Api-Key: {SECRET}",
    f"X-Goog-Api-Key: {SECRET}",
    f"Cookie: session={SECRET}",
    f"Proxy-Authorization: Basic {SECRET}",
    f"Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.{SECRET}",
    f"User-Agent: {SECRET}",
    f"Referer: http://a/?key={SECRET}",
    f"X-Request-Id: {SECRET}/",
    f"Content-Length: {len(BODY)}",
)
REQUEST = b"POST %s?key=%s HTTP/1.1\r\n%s\r\n\r\n" % (PATH, SECRET.encode(), "\r\n".join(FIELDS).encode()) + BODY


@pytest.mark.parametrize("name", FAULTS)
async def test_a_secret_is_in_nothing_that_is_said_of_a_request(
    name: str, starter: Starter, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither in an answer, nor in the log, nor on the terminal, nor in how anything shows itself to a debugger."""
    exchanges: list[Exchange] = []

    async def watched(exchange: Exchange) -> None:
        exchanges.append(exchange)
        await forward(exchange)

    async with trio.open_nursery() as nursery:
        upstream = ScriptedUpstream(script_of(name))
        await nursery.start(upstream.run)
        rig = await starter(origin=Origin.parse(upstream.url), **FAULTS[name].settings)
        rig.app.handlers[PATH] = watched
        client = await rig.client(REQUEST)
        upstream.release("reset")
        answer = await client.answer(b"POST")
        line = await rig.line()
        await rig.close()
        starter.rigs.remove(rig)
        with patience():
            while upstream.open:
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert line["path"] == PATH.decode()
    (exchange,) = exchanges
    shown = [answer.raw.decode("latin-1"), rig.log.text, *capfd.readouterr()]
    shown += map(repr, (exchange, exchange.request, exchange.incoming, exchange.outcome, rig.app.settings))
    shown += [repr(call) for call in exchange._caller.calls]
    assert [text for text in shown if "CANARY" in text] == []
