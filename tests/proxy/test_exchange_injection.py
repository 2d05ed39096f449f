"""Whole exchanges, interrupted before each step of the scheduler: nothing hangs, nothing is left, nobody is lied to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from sseflow.dialects import CompleteResponse
from sseflow.http import Origin
from sseflow.proxy._app import App
from sseflow.records import History
from sseflow.resilience import BreakerOptions, RetryPolicy, Secret

from .memory import Act, Exchange, MemoryWire, check, read_answer, run_exchange
from .peers import chunked
from .rig import DONE, LAST, STOP, STREAM, STREAM_HEAD, TOKEN
from .test_answer import ASK, ERROR, ROLE

PING = b": ping\n\n"
JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n"
PLAIN = ASK.replace(b'"stream":true', b'"stream":null')


def cancel(app: App, client: MemoryWire, upstreams: list[MemoryWire]) -> None:
    app._server.cancel()


def drain(app: App, client: MemoryWire, upstreams: list[MemoryWire]) -> None:
    app.drain()


def hurry(app: App, client: MemoryWire, upstreams: list[MemoryWire]) -> None:
    app.drain()
    app.drain()


def interrupt(app: App, client: MemoryWire, upstreams: list[MemoryWire]) -> None:
    for exchange in app._exchanges:
        exchange.interrupt("somebody interfered")


def client_leaves(app: App, client: MemoryWire, upstreams: list[MemoryWire]) -> None:
    client.leave("eof")


def client_resets(app: App, client: MemoryWire, upstreams: list[MemoryWire]) -> None:
    client.leave("reset")


def client_stalls(app: App, client: MemoryWire, upstreams: list[MemoryWire]) -> None:
    client.stop_reading()


def client_sends_ahead(app: App, client: MemoryWire, upstreams: list[MemoryWire]) -> None:
    client.give(b"GET /-/health HTTP/1.1\r\nHost: a\r\n\r\n")


def upstream_leaves(app: App, client: MemoryWire, upstreams: list[MemoryWire]) -> None:
    for wire in upstreams:
        wire.leave("eof")


def upstream_resets(app: App, client: MemoryWire, upstreams: list[MemoryWire]) -> None:
    for wire in upstreams:
        wire.leave("reset")


INTERFERE: dict[str, Callable[[App, MemoryWire, list[MemoryWire]], None]] = {
    function.__name__: function
    for function in (
        cancel,
        drain,
        hurry,
        interrupt,
        client_leaves,
        client_resets,
        client_stalls,
        client_sends_ahead,
        upstream_leaves,
        upstream_resets,
    )
}


@attrs.frozen
class Case:
    """An exchange that goes well if nobody interferes."""

    acts: Sequence[Act]
    request: bytes = ASK
    settings: dict[str, Any] = attrs.Factory(dict)
    more: Sequence[Sequence[Act]] = ()
    """What the requests behind the first one are answered with."""

    def run(self, **options: Any) -> Exchange:
        """Run it."""
        history = Remembered() if self.request is ASK_TURN else None
        return run_exchange(self.request, self.acts, *self.more, history=history, **self.settings, **options)


_TOKENS: list[Act] = [chunked(TOKEN[:9]), chunked(TOKEN[9:] + TOKEN), 12.0, chunked(STOP), chunked(DONE) + LAST]

BREAKER = BreakerOptions(half_open=1)
OTHER = {"others": (Origin("http", "other", 80),), "breaker": BREAKER, "upstream_head_timeout": 20.0}
TWICE = {"retry": RetryPolicy(attempts=2, base=0.0)}
BUSY = b"HTTP/1.1 503 No\r\nRetry-After: 4\r\nContent-Length: 2\r\n\r\n{}"
LIMITED = b"HTTP/1.1 429 No\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
_WORLD = chunked(TOKEN.replace(b"Hello", b"World"))
GOOD: list[Act] = [STREAM + _WORLD[:-9], 1.0, _WORLD[-9:] + chunked(STOP, DONE) + LAST]
FAILS: list[Act] = [STREAM + chunked(ROLE), 2.0, chunked(ERROR) + LAST]
TURN = b'{"model":"m","stream":true,"previous_response_id":"resp_1","input":"go on"}'
ASK_TURN = b"POST /v1/responses HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(TURN), TURN)
LOST = b'{"error":{"message":"not found","type":"invalid_request_error","code":"previous_response_not_found"}}'
LOST_HEAD = b"HTTP/1.1 400 No\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(LOST)
COMPLETED = (
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"Hello"}\n\n'
    b'event: response.completed\ndata: {"type":"response.completed","response":{"id":"resp_2","output":[]}}\n\n'
)


class Remembered(History):
    """A history of one conversation, which takes its time, and no thread: the clock would jump meanwhile."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.stored: list[CompleteResponse] = []

    async def recall(self, owner: str, response_id: str) -> list[bytes] | None:
        self.asked.append((owner, response_id))
        await trio.sleep(0.5)
        return [b'{"role":"user","content":"begin"}']

    async def store(self, owner: str, response: CompleteResponse) -> bool:
        await trio.sleep(0.5)
        self.stored.append(response)
        return True


#: For which more than one attempt is made, or the beginning is looked at.
LOOKED_AT = {
    "looked at": Case(
        [STREAM + chunked(PING), 2.0, chunked(ROLE), 1.0, chunked(TOKEN, STOP, DONE) + LAST],
        settings={"breaker": BREAKER},
    ),
    "looked at in vain": Case(
        [STREAM + chunked(ROLE), 5.0, *_TOKENS[:-3], 1.0, *_TOKENS[-2:]],
        settings={"breaker": BREAKER, "gate_open_after": 2.0},
    ),
    "fails over": Case([BUSY], settings=OTHER, more=[GOOD]),
    "fails over within a stream": Case(FAILS, settings=OTHER, more=[GOOD]),
    "fails over while it is kept warm": Case(
        [STREAM, 7.0, "reset"], settings={**OTHER, "gate_open_after": 2.0, "keep_alive": 2.0}, more=[GOOD]
    ),
    "takes another key": Case(
        [LIMITED], settings={"keys": (Secret("sk-one"), Secret("sk-two")), "breaker": BREAKER}, more=[GOOD]
    ),
    "tries again later": Case([BUSY], settings=TWICE, more=[GOOD]),
    "tries again, with a head of our own": Case([BUSY], settings={**TWICE, "gate_open_after": 2.0}, more=[GOOD]),
    "calls a second one": Case([60.0, "eof"], settings={**OTHER, "hedge_after": 2.0}, more=[GOOD]),
    "calls a second one in vain": Case(
        [STREAM + chunked(PING), 4.0, chunked(TOKEN, STOP, DONE) + LAST],
        settings={**OTHER, "hedge_after": 2.0},
        more=[[60.0, "eof"]],
    ),
    "calls a second one, and the first fails": Case(
        [4.0, BUSY], settings={**OTHER, "hedge_after": 2.0}, more=[[8.0, *GOOD]]
    ),
    "mends a chain": Case([LOST_HEAD + LOST], request=ASK_TURN, more=[[STREAM + chunked(COMPLETED) + LAST]]),
    "mends a chain beside a second call": Case(
        [3.0, LOST_HEAD + LOST],
        request=ASK_TURN,
        settings={**OTHER, "hedge_after": 2.0},
        more=[[60.0, "eof"], [STREAM + chunked(COMPLETED) + LAST]],
    ),
}

CASES = {
    "gate shut": Case([STREAM + chunked(PING), 5.0, chunked(PING), 3.0, chunked(TOKEN, STOP, DONE) + LAST]),
    "gate open": Case([STREAM, *_TOKENS]),
    "opened in time": Case([STREAM + chunked(PING), 40.0, *_TOKENS]),
    "a head of our own": Case([40.0, STREAM + chunked(TOKEN), *_TOKENS]),
    "without keep-alives": Case([STREAM, *_TOKENS], settings={"keep_alive": 0}),
    "without a gate": Case([STREAM, *_TOKENS], settings={"gate": "off", "comments": "forward"}),
    "until it closes": Case([STREAM_HEAD + b"\r\n" + TOKEN, 1.0, STOP + DONE, "eof"]),
    "to an old client": Case([STREAM, *_TOKENS], request=ASK.replace(b"HTTP/1.1", b"HTTP/1.0")),
    "ended cleanly": Case([STREAM, *_TOKENS], settings={"error_end": "clean"}),
    "read to its end": Case([STREAM, *_TOKENS], settings={"on_client_gone": "drain"}),
    "compressed": Case(
        [STREAM, *_TOKENS],
        request=ASK.replace(b"Host: a", b"Host: a\r\nAccept-Encoding: gzip"),
        settings={"compress": ("gzip",)},
    ),
    "no stream": Case([JSON, 1.0, b"{}"], request=PLAIN),
    **LOOKED_AT,
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_nobody_interferes(case: Case) -> None:
    """Left alone, each goes well: a harness whose exchanges fail anyway would prove nothing."""
    exchange = case.run()
    check(exchange)
    assert exchange.line is not None
    assert exchange.line["verdict"] == "complete"
    assert read_answer(exchange.client).complete
    assert any(truth.whole for truth in exchange.truths)


@pytest.mark.parametrize("interfere", [client_leaves, client_resets], ids=["leaves", "resets"])
@pytest.mark.parametrize("case", [case for name, case in CASES.items() if name != "read to its end"])
def test_a_client_that_leaves_is_noticed(
    case: Case, interfere: Callable[[App, MemoryWire, list[MemoryWire]], None]
) -> None:
    """In every phase, also while the upstream is silent or the gate is shut, the upstream is let go within a second."""
    at, late = 0, 0.0
    while True:
        at += 1
        exchange = case.run(interfere=interfere, at=at)
        for upstream in exchange.upstreams:
            if upstream.left_at > exchange.client.left_at:
                late = max(late, upstream.closed_at - exchange.client.left_at)
        if exchange.steps < at:
            break
    assert late <= 1.0


def test_what_came_while_we_stood_still_is_no_silence() -> None:
    """Bytes and a deadline that are noticed together, in whatever order: the upstream has not been silent."""
    acts: list[Act] = [STREAM + chunked(TOKEN), 20.0, chunked(TOKEN, STOP, DONE) + LAST]

    def stand_still(app: App, client: MemoryWire, upstreams: list[MemoryWire]) -> None:
        if upstreams and upstreams[0].given and not upstreams[0].unread:
            clock = trio.lowlevel.current_clock()
            assert isinstance(clock, trio.testing.MockClock)
            upstreams[0].give(chunked(TOKEN))
            clock.jump(301)

    for at in range(20, 90):
        exchange = run_exchange(ASK, acts, interfere=stand_still, at=at)
        check(exchange)
        assert exchange.line is not None
        assert exchange.line["verdict"] == "complete"


def test_a_client_that_does_not_read_stops_the_reading() -> None:
    """At whatever moment it stops: of what the upstream sends, no more is read than a few reads bring."""
    acts: list[Act] = [STREAM + chunked(TOKEN), *[chunked(TOKEN * 500)] * 100, chunked(STOP, DONE) + LAST]
    for at in range(20, 100, 5):
        exchange = run_exchange(ASK, acts, interfere=client_stalls, at=at)
        check(exchange)
        assert exchange.line is not None
        assert exchange.line["verdict"] == "client_stuck"
        [upstream] = exchange.upstreams
        read = len(upstream.given) - upstream.unread
        assert read <= len(exchange.client.taken) + 3 * 65536
        assert len(upstream.given) > 3_000_000


@pytest.mark.parametrize("interfere", INTERFERE.values(), ids=INTERFERE)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_somebody_interferes(case: Case, interfere: Callable[[App, MemoryWire, list[MemoryWire]], None]) -> None:
    """Before each step of the scheduler in turn: a check of everything that holds whatever happens."""
    at = 0
    while True:
        at += 1
        exchange = case.run(interfere=interfere, at=at)
        try:
            check(exchange, clean=case.settings.get("error_end") == "clean")
        except AssertionError as error:
            raise AssertionError(f"{interfere.__name__} before step {at}: {error}; {exchange.lines}") from error
        if exchange.steps < at:
            return
