"""A secret that is everywhere in a request is nowhere in what is said of it, whatever the upstream does."""

from __future__ import annotations

import gzip
import itertools
import sys
import uuid
from pathlib import Path

import attrs
import pytest
import trio

from sseflow import ConfigurationError
from sseflow.http import Origin
from sseflow.proxy import Exchange, forward
from sseflow.proxy._build import build
from sseflow.proxy._config import check, load
from sseflow.resilience import BreakerOptions, RetryPolicy
from sseflow.testing import (
    Answer,
    Behaviour,
    CommentsOnly,
    CutAfter,
    Empty,
    ErrorEvent,
    FakeProvider,
    Played,
    Reset,
    Script,
    ScriptedUpstream,
    Status,
    Truncated,
)

from .gateway import CHAT, RESPONSES, route_to, running, upstream_for
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


KEYS = tuple(f"sk-{name}-CANARY-{uuid.uuid4()}" for name in ("one", "one-more", "other", "other-more"))


def faults_with(key: str) -> dict[str, Behaviour]:
    """What can go wrong with a request that came with a key; where there are words, they repeat it.

    Not what is passed on while it comes, and answers with a good status: these are not searched.
    """
    says = f"Incorrect API key provided: {key}. Bearer {key}"
    refused = {str(status): Status(status, message=says) for status in (400, 401, 402, 403, 404, 413)}
    failed = {str(status): Status(status, message=says, retry_after=30) for status in (408, 429, 500, 503, 529)}
    in_gzip = f'head 400 gzip type=application/json\ndata {{"error":{{"message":"{key}"}}}}\nend\n'
    return {
        **refused,
        **failed,
        "a code": Status(400, code=key, type=key),
        "a page": Status(401, body=f"<html>{key}</html>".encode()),
        "a page of another status": Status(500, body=f"<html>{key}</html>".encode()),
        "a long page": Status(403, body=b"x" * 200_000 + key.encode()),
        "a field": Status(400, fields={"x-your-key": key}),
        "words in the first event": ErrorEvent(status=529, message=says),
        "words in the first event, of a key": ErrorEvent(status=401, message=says),
        "words before content": ErrorEvent(status=500, message=says, after=0),
        "an error in gzip": Played(Script.parse(in_gzip)),
        "a reset": Reset(),
        "a cut in the head": CutAfter(20),
        "a cut behind it": CutAfter(300, "rst"),
        "nothing": Empty(),
        "comments": CommentsOnly(),
        "an early end": Truncated(after=1),
        "none": Answer(),
    }


@pytest.mark.parametrize("name", faults_with(""))
async def test_a_key_of_ours_is_in_nothing_that_is_said(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever an upstream does that has got it: no answer has it, no log, no page, and no other upstream."""
    shown: list[str] = []
    async with FakeProvider.serve("openai") as one, FakeProvider.serve("openai") as other:
        for provider, keys in ((one, KEYS[:2]), (other, KEYS[2:])):
            for key in keys:
                provider.next(*[faults_with(key)[name]] * 20, key=key)
        upstreams = (upstream_for(one, name="a", keys=KEYS[:2]), upstream_for(other, name="b", keys=KEYS[2:]))
        routes = (
            route_to(*upstreams, retry=RetryPolicy(attempts=2, base=0.01, cap=1), breaker=BreakerOptions(failures=3)),
            route_to(upstreams[1], path="/alone"),
            route_to(upstream_for(one, name="single", keys=KEYS[:1]), path="/single"),
        )
        async with running(*routes) as gateway:
            for route in ("/openai", "/alone", "/single"):
                for path, stream in itertools.product((CHAT, RESPONSES), (True, False)):
                    body = {"model": "m", "stream": stream, "messages": [{"role": "user", "content": "?"}]}
                    answer = await gateway.ask(route + path, {**body, "input": "?"})
                    shown.append(answer.raw.decode("latin-1"))
                    if answer.get(b"content-encoding") == b"gzip":
                        shown.append(gzip.decompress(answer.body).decode())
            asked = [("GET", page) for page in ("/-/streams", "/-/upstreams", "/-/metrics")]
            pages = [await gateway.operate(*one) for one in (*asked, ("DELETE", "/-/streams/none"))]
            assert [page.status for page in pages] == [200, 200, 200, 404]
            shown += [page.raw.decode("latin-1") for page in pages]
            routing = gateway.app.routing
            shown += map(repr, (gateway.app.settings, *routes, *upstreams, routing, *routing.paths))
            shown += [repr((provider.keys, provider.settings)) for provider in routing.providers]
            shown += [repr(provider.keys.snapshot(0)) for provider in routing.providers if provider.keys]
        shown += [gateway.log.text, *capfd.readouterr()]
    assert one.requests
    for provider, keys in ((one, KEYS[:2]), (other, KEYS[2:])):
        for request in provider.requests:
            assert provider.key_of(request) in keys
            assert len(request.credentials) == 1
            assert "CANARY" not in repr(request)
            shown.append(request.body.decode() + request.target)
            strange = [value for field, value in request.headers if field != "authorization"]
            shown.append(" ".join(strange))
    assert [text for text in shown if "CANARY" in text] == []


CONFIG = """
[providers.one]
type = "openai"
keys = ["env:ONE", "file:one.key"]

[providers.other]
type = "anthropic"
keys = ["env:OTHER", "env:OTHER_MORE"]

[admin]
token = "env:ADMIN"
"""


def test_no_configuration_shows_its_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither as it was read nor as it is used, nor what is said of what is wrong with it."""
    path, key_file = tmp_path / "sseflow.toml", tmp_path / "one.key"
    path.write_text(CONFIG)
    key_file.write_text(KEYS[1])
    key_file.chmod(0o600)
    environ = {"ONE": KEYS[0], "OTHER": KEYS[2], "OTHER_MORE": KEYS[3], "ADMIN": f"CANARY-{uuid.uuid4()}"}
    config = load(path, environ)
    settings = build(config)
    assert [key.reveal() for key in settings.routes[0].upstreams[0].keys] == list(KEYS[:2])
    assert settings.admin_token is not None
    shown = [*map(repr, (config, config.providers, settings, settings.routes, settings.admin_token))]
    shown += [str(config), str(settings), str(attrs.asdict(settings.routes[0].upstreams[0]))]
    assert check(path, environ, sys.stdout) == 0
    for wrong in (
        {**environ, "OTHER_MORE": KEYS[2]},
        {**environ, "ONE": f"{KEYS[0]} \n x"},
        {"ADMIN": environ["ADMIN"]},
    ):
        with pytest.raises(ConfigurationError) as caught:
            build(load(path, wrong))
        shown += [str(caught.value), repr(caught.value), *map(str, getattr(caught.value, "__notes__", ()))]
        assert check(path, wrong, sys.stdout) == 2
    shown += capsys.readouterr()
    assert [text for text in shown if "CANARY" in text] == []
