"""An upstream to try the proxy with: scripted answers in the forms of OpenAI and Anthropic, paced like a model."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

import trio

from .. import Eof, Head, RequestError
from ..http import Headers, Incoming, ServerConnection
from ._exchange import Exchange

MODEL = "demo-1"

TEXT = (
    "This is a stream of tokens from the demo upstream. Each of them came to you in an event of its own, through the "
    "proxy, as soon as it was written. The comments that the upstream sends in between to keep the line warm were "
    "taken out on the way, and had the stream been cut you would have been told. Point the proxy at a real server, and "
    "it does the same there."
)

_JSON: Headers = ((b"Content-Type", b"application/json"),)
_STREAM = Head(200, ((b"Content-Type", b"text/event-stream; charset=utf-8"), (b"Cache-Control", b"no-cache")))
_HEARTBEAT = b": demo processing\n\n"
_MAX_TOKENS = 1_000_000
_BEATS = 16
"""A heartbeat comes after so many tokens."""


def words(count: int | None) -> Iterator[str]:
    """The tokens of an answer: the text once, or over and over until there are ``count``."""
    tokens = [word if i == 0 else f" {word}" for i, word in enumerate(TEXT.split())]
    return iter(tokens) if count is None else itertools.islice(itertools.cycle(tokens), count)


class Demo:
    """The demo upstream, as a handler of requests.

    Args:
        pace: mean seconds between two tokens; 0 sends without a pause.
    """

    def __init__(self, *, pace: float = 0.04) -> None:
        self._pace = pace

    async def handle(self, incoming: Incoming) -> None:
        """Answer one request."""
        body = bytearray()
        while data := await incoming.receive_body():
            body += data
        path = incoming.request.target.partition(b"?")[0]
        if path == b"/v1/models" and incoming.request.method == b"GET":
            await _reply(incoming, 200, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})
        elif path not in (b"/v1/chat/completions", b"/v1/messages") or incoming.request.method != b"POST":
            await _reply(incoming, 404, _error("not_found", "the demo knows /v1/chat/completions and /v1/messages"))
        else:
            try:
                request = json.loads(body)
                count = request.get("max_tokens")
                if count is not None and not (isinstance(count, int) and 0 < count <= _MAX_TOKENS):
                    raise ValueError("max_tokens")
            except (ValueError, AttributeError):
                await _reply(incoming, 400, _error("invalid_request_error", "the body must be a JSON object"))
                return
            await self._answer(incoming, path == b"/v1/messages", request, count)

    async def refuse(self, connection: ServerConnection, error: RequestError) -> None:
        """Answer what is not a request."""
        await connection.refuse(error, json.dumps(_error("bad_request", str(error))).encode(), _JSON)

    async def _answer(self, incoming: Incoming, anthropic: bool, request: dict[str, object], count: int | None) -> None:
        # Anthropic's clients always say how long an answer may be; this one is shorter.
        tokens = list(words(None if anthropic and count is not None and count >= len(TEXT.split()) else count))
        if not request.get("stream"):
            await _reply(incoming, 200, (_message if anthropic else _completion)("".join(tokens), len(tokens)))
            return
        options = request.get("stream_options")
        usage = isinstance(options, dict) and bool(options.get("include_usage"))
        events = _anthropic_events(tokens) if anthropic else _openai_events(tokens, usage=usage)
        await incoming.send_head(_STREAM)
        await incoming.send_all(_HEARTBEAT)
        for i, event in enumerate(events, 1):
            if self._pace:
                # Models come in bursts: three tokens quickly, then a pause.
                await trio.sleep(self._pace * (0.4 if i % 4 else 2.8))
            await incoming.send_all(event)
            if i % _BEATS == 0:
                await incoming.send_all(_HEARTBEAT)
        await incoming.finish(Eof())


def _openai_events(tokens: list[str], *, usage: bool) -> Iterator[bytes]:
    def chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
        return _data({**base, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    base = {"id": "chatcmpl-demo", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": MODEL}
    yield chunk({"role": "assistant", "content": ""})
    for token in tokens:
        yield chunk({"content": token})
    yield chunk({}, "stop")
    if usage:
        yield _data({**base, "choices": [], "usage": _openai_usage(len(tokens))})
    yield b"data: [DONE]\n\n"


def _anthropic_events(tokens: list[str]) -> Iterator[bytes]:
    def event(type_: str, **members: object) -> bytes:
        return b"event: " + type_.encode() + b"\n" + _data({"type": type_, **members})

    start = {**_message("", 0), "content": [], "stop_reason": None}
    yield event("message_start", message=start)
    yield event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    yield event("ping")
    for token in tokens:
        yield event("content_block_delta", index=0, delta={"type": "text_delta", "text": token})
    yield event("content_block_stop", index=0)
    delta = {"stop_reason": "end_turn", "stop_sequence": None}
    yield event("message_delta", delta=delta, usage={"output_tokens": len(tokens)})
    yield event("message_stop")


def _completion(text: str, tokens: int) -> dict[str, object]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {
        "id": "chatcmpl-demo",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": MODEL,
        "choices": [choice],
        "usage": _openai_usage(tokens),
    }


def _message(text: str, tokens: int) -> dict[str, object]:
    return {
        "id": "msg_demo",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 1, "output_tokens": tokens},
    }


def _openai_usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1}


def _error(kind: str, message: str) -> dict[str, object]:
    return {"error": {"type": kind, "message": message}}


def _data(value: object) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


async def _reply(incoming: Incoming, status: int, value: object) -> None:
    await incoming.reply(status, _JSON, json.dumps(value).encode())


TWICE = b"/demo/twice/chat/completions"
"""Where the demo shows one answer that is made of two upstream calls."""


async def twice(exchange: Exchange) -> None:
    """Ask the upstream the same twice, and answer with both as one stream: one head, one end, one verdict."""
    target = b"/v1/chat/completions"
    async with exchange.answer() as answer:
        await answer.relay(await exchange.call(exchange.body, target=target), last=False)
        await answer.relay(await exchange.call(exchange.body, target=target))
