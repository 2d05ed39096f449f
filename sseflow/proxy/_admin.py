"""Pages for operators, on a listener of their own: which streams live, and the end of one that should not."""

from __future__ import annotations

import json
import urllib.parse
from typing import TYPE_CHECKING

import attrs
import trio
from prometheus_client import CONTENT_TYPE_LATEST

from .. import RequestError
from ..dialects import DialectError, PlainSSE
from ..http import Incoming, ServerConnection
from ..records import Record
from ..resilience import Secret
from ._headers import plain_head, request_id, target_of
from ._log import plain
from ._metrics import render
from ._routing import Provider

if TYPE_CHECKING:
    from ._app import App
    from ._exchange import Exchange

METRICS = b"/-/metrics"
STREAMS = b"/-/streams"
UPSTREAMS = b"/-/upstreams"

MAX_STREAMS = 1000
"""Streams that one page lists: the oldest."""

END_TIMEOUT = 5.0
"""Seconds that an interrupted stream has to end: its client is told, and what it has produced is recorded."""


class Admin:
    """Answers requests of operators.

    Args:
        app: whose streams these are. If its settings have an ``admin_token``, that has to come as ``Authorization:
            Bearer``; if not, whoever can connect may ask.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def handle(self, incoming: Incoming) -> None:
        """Answer one request."""
        given = request_id(incoming.request)
        try:
            path, method = await self._path_of(incoming), incoming.request.method
            if path == METRICS and method == b"GET":
                await incoming.reply(200, ((b"Content-Type", CONTENT_TYPE_LATEST.encode()),), render(self._app))
                return
            status, body = await self._answer(path, method)
        except RequestError as error:
            status, body = error.status, _error(incoming, error)
        await incoming.reply(status, plain_head(given), body)

    async def refuse(self, connection: ServerConnection, error: RequestError) -> None:
        """Answer what is not a request."""
        headers = plain_head(request_id(None))
        await connection.refuse(error, PlainSSE().error_body(DialectError(str(error)), request_id=""), headers)

    async def _path_of(self, incoming: Incoming) -> bytes:
        """What is asked for, by somebody who may ask."""
        while await incoming.receive_body():
            pass
        self._check_token(incoming)
        return target_of(incoming.request)[0].partition(b"?")[0]

    async def _answer(self, path: bytes, method: bytes) -> tuple[int, bytes]:
        if path == STREAMS:
            if method not in (b"GET", b"HEAD"):
                raise RequestError(405, "streams are listed with GET", close=False)
            return 200, _json({"streams": [_view(one) for one in self._app.exchanges[:MAX_STREAMS]]})
        if path.startswith(STREAMS + b"/"):
            if method != b"DELETE":
                raise RequestError(405, "a stream is interrupted with DELETE", close=False)
            return await self._interrupt(urllib.parse.unquote_to_bytes(path[len(STREAMS) + 1 :]))
        if path == UPSTREAMS and method in (b"GET", b"HEAD"):
            return 200, _json(self._upstreams())
        raise RequestError(404, "there are /-/metrics, /-/upstreams, /-/streams, and /-/streams/ID", close=False)

    def _upstreams(self) -> dict[str, object]:
        """How the providers are: their keys by their ends, their breakers, and what was tried again."""
        now = trio.current_time()
        routing = self._app.routing
        breakers = [breaker for path in routing.paths if path.breakers is not None for breaker in path.breakers]
        return {
            "providers": [_provider(provider, now) for provider in routing.providers],
            "breakers": [
                {
                    "upstream": name,
                    "endpoint": endpoint,
                    "model": plain(model.encode()),
                    "state": breaker.state(now).name.lower(),
                    "trips": breaker.trips,
                    "rejects": breaker.rejects,
                }
                for (name, endpoint, model), breaker in breakers
            ],
            "retries": [{**attrs.asdict(labels), "count": count} for labels, count in self._app.retries.counts.items()],
        }

    async def _interrupt(self, id: bytes) -> tuple[int, bytes]:
        exchanges = self._app.interrupt(plain(id), "an operator has interrupted it")
        if not exchanges:
            raise RequestError(404, "there is no stream with that id: it may have ended", close=False)
        with trio.move_on_after(END_TIMEOUT):
            for exchange in exchanges:
                await exchange.kept.wait()
        ended = [exchange for exchange in exchanges if exchange.kept.is_set()]
        status = 200 if len(ended) == len(exchanges) else 202
        return status, _json({"streams": [{**_view(one), "answer": _answer(one.record)} for one in exchanges]})

    def _check_token(self, incoming: Incoming) -> None:
        token = self._app.settings.admin_token
        if token is None:
            return
        given = incoming.request.get(b"authorization") or b""
        scheme, _, value = given.partition(b" ")
        sent = Secret(value.strip().decode("latin-1"))
        if not (token.matches(sent) and scheme.lower() == b"bearer"):
            raise RequestError(401, "this needs the token of [admin], as Authorization: Bearer", close=False)


def _view(exchange: Exchange) -> dict[str, object]:
    """What a page says of a stream. Nothing of what is in it."""
    outcome = exchange.outcome
    return {
        "id": exchange.id,
        "path": plain(target_of(exchange.request)[0].partition(b"?")[0]),
        "model": None if exchange.model is None else plain(exchange.model.encode()),
        "seconds": round(trio.current_time() - exchange.started, 3),
        "verdict": None if outcome is None else outcome.verdict.value,
    }


def _provider(provider: Provider, now: float) -> dict[str, object]:
    keys = () if provider.keys is None else provider.keys.snapshot(now)
    return {
        "name": provider.settings.name,
        "idle_connections": provider.pool.idle,
        "keys": [
            {
                "hint": key.hint,
                "state": key.state.value,
                "reason": None if key.reason is None else key.reason.value,
                "seconds_left": None if key.seconds_left is None else round(key.seconds_left, 1),
            }
            for key in keys
        ],
    }


def _answer(record: Record | None) -> object:
    """What was produced until the end, as the API would have given it without streaming."""
    if record is None:
        return None
    return {"text": record.answer.text} if record.answer.body is None else record.answer.body


def _json(value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _error(incoming: Incoming, error: RequestError) -> bytes:
    said = DialectError(str(error), "invalid_request_error")
    return PlainSSE().error_body(said, request_id=request_id(incoming.request))
