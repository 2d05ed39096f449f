"""Whole exchanges, interrupted before each step of the scheduler: nothing hangs, nothing is left, nobody is lied to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from sseflow.proxy._app import App

from .memory import Act, MemoryWire, check, read_answer, run_exchange, truth_of
from .peers import chunked
from .rig import DONE, LAST, STOP, STREAM, STREAM_HEAD, TOKEN
from .test_answer import ASK

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


_TOKENS: list[Act] = [chunked(TOKEN[:9]), chunked(TOKEN[9:] + TOKEN), 12.0, chunked(STOP), chunked(DONE) + LAST]

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
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_nobody_interferes(case: Case) -> None:
    """Left alone, each goes well: a harness whose exchanges fail anyway would prove nothing."""
    exchange = run_exchange(case.request, case.acts, **case.settings)
    check(exchange)
    assert exchange.line is not None
    assert exchange.line["verdict"] == "complete"
    assert read_answer(exchange.client).complete
    assert truth_of(exchange.upstreams[0]).whole


@pytest.mark.parametrize("interfere", [client_leaves, client_resets], ids=["leaves", "resets"])
@pytest.mark.parametrize("case", [case for name, case in CASES.items() if name != "read to its end"])
def test_a_client_that_leaves_is_noticed(
    case: Case, interfere: Callable[[App, MemoryWire, list[MemoryWire]], None]
) -> None:
    """In every phase, also while the upstream is silent or the gate is shut, the upstream is let go within a second."""
    at, late = 0, 0.0
    while True:
        at += 1
        exchange = run_exchange(case.request, case.acts, interfere=interfere, at=at, **case.settings)
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
        exchange = run_exchange(case.request, case.acts, interfere=interfere, at=at, **case.settings)
        try:
            check(exchange, clean=case.settings.get("error_end") == "clean")
        except AssertionError as error:
            raise AssertionError(f"{interfere.__name__} before step {at}: {error}; {exchange.lines}") from error
        if exchange.steps < at:
            return
