"""Whole exchanges in memory, with something that happens at a certain moment."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
import trio

from sseflow import Error
from sseflow.http import Origin
from sseflow.proxy._app import App
from sseflow.proxy._exchange import Exchange

from .memory import Act, MemoryWire, check, read_answer, run_exchange
from .peers import chunked
from .rig import DONE, LAST, STOP, STREAM, STREAM_HEAD, TOKEN, split_error
from .test_answer import ASK
from .test_exchange_injection import client_leaves, client_resets, hurry

Interfere: TypeAlias = Callable[[App, MemoryWire, list[MemoryWire]], None]


def at_times(*times: tuple[float, Interfere]) -> dict[str, Any]:
    """Arguments for `run_exchange`: let things happen so many seconds after the beginning."""

    def interfere(app: App, client: MemoryWire, upstreams: list[MemoryWire]) -> None:
        async def wait(seconds: float, happens: Interfere) -> None:
            await trio.sleep(seconds)
            happens(app, client, upstreams)

        for seconds, happens in times:
            trio.lowlevel.spawn_system_task(wait, seconds, happens)

    return {"interfere": interfere, "at": 1}


def room(size: int | None) -> Interfere:
    """The client takes so many bytes more; None: any number."""

    def interfere(app: App, client: MemoryWire, upstreams: list[MemoryWire]) -> None:
        client.room = size
        client._changed()

    return interfere


async def stubborn(exchange: Exchange) -> None:
    async with exchange.answer() as answer:
        with contextlib.suppress(Error):
            await answer.relay(await exchange.call())
        await answer.relay(await exchange.call())


@pytest.mark.parametrize("cut", [b"", b"data: " + b"x" * 70_000], ids=["between events", "inside an event"])
def test_nothing_is_joined_to_a_call_that_failed(cut: bytes) -> None:
    """Whoever takes the failure for none cannot hide it: the answer is cut where the call was."""
    acts: list[Act] = [STREAM + chunked(TOKEN + cut), "eof"]
    exchange = run_exchange(ASK, acts, [STREAM + chunked(TOKEN, STOP, DONE) + LAST], handler=stubborn)
    answer = read_answer(exchange.client)
    assert (split_error(answer.body)[0], answer.complete) == (TOKEN + cut, False)
    assert exchange.line is not None
    assert exchange.line["verdict"] == "internal_error"


def test_an_end_that_the_gate_holds_was_not_passed_on() -> None:
    """A client that leaves then has seen nothing, and one whose answer has begun has to be told that it failed."""
    exchange = run_exchange(ASK, [STREAM + chunked(DONE), 1000.0], **at_times((0.5, client_leaves)))
    assert exchange.line is not None
    assert (exchange.line["verdict"], exchange.line["status"]) == ("client_gone", 0)
    exchange = run_exchange(ASK, [20.0, STREAM + chunked(DONE) + LAST])
    assert exchange.line is not None
    assert exchange.line["verdict"] == "empty"
    body, error = split_error(read_answer(exchange.client).body)
    assert (body, error["code"]) == (b"", "empty")


def test_an_end_that_hangs_in_a_write_was_not_passed_on() -> None:
    """What has come of the dialect's end, and was cut on its way to the client, makes no answer complete."""
    acts: list[Act] = [STREAM + chunked(TOKEN), 5.0, chunked(STOP, DONE) + LAST]
    exchange = run_exchange(ASK, acts, **at_times((2.0, room(10)), (7.0, client_leaves)))
    check(exchange)
    assert exchange.line is not None
    assert exchange.line["verdict"] == "client_gone"


@pytest.mark.parametrize("settings", [{}, {"on_client_gone": "drain"}], ids=["cancel", "drain"])
def test_an_end_that_could_not_be_written_was_not_passed_on(settings: dict[str, Any]) -> None:
    """At whatever moment the client resets its connection."""
    acts: list[Act] = [STREAM + chunked(TOKEN), chunked(STOP, DONE) + LAST]
    at = 0
    while True:
        at += 1
        exchange = run_exchange(ASK, acts, interfere=client_resets, at=at, **settings)
        check(exchange)
        if exchange.steps < at:
            return
        if exchange.line is not None and DONE not in exchange.client.taken:
            assert exchange.line["verdict"] == "client_gone"


EVENT = b"data: a\n\n"
WHOLE: dict[str, tuple[bytes, list[Act]]] = {
    "plain events": (ASK.replace(b"/v1/chat/completions", b"/events"), [STREAM_HEAD + b"\r\n" + EVENT, "eof"]),
    "no stream": (
        ASK.replace(b"true", b"null"),
        [b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{}", "eof"],
    ),
}


@pytest.mark.parametrize(("request_", "acts"), WHOLE.values(), ids=WHOLE)
def test_a_client_may_leave_with_the_last_byte(request_: bytes, acts: list[Act]) -> None:
    """Also while the upstream's connection is still being closed: it has got all there is."""
    had_all: list[bool] = []

    def leave(app: App, client: MemoryWire, upstreams: list[MemoryWire]) -> None:
        had_all.append(read_answer(client).complete)
        client.leave("eof")

    at, seen = 0, 0
    while True:
        at += 1
        had_all.clear()
        exchange = run_exchange(request_, acts, interfere=leave, at=at)
        check(exchange)
        if had_all == [True]:
            seen += 1
            assert exchange.line is not None
            assert (exchange.line["verdict"], exchange.line["ended_by"]) == ("complete", "upstream")
        if exchange.steps < at:
            assert seen
            return


@pytest.mark.parametrize("leave", [client_leaves, client_resets], ids=["leaves", "resets"])
def test_who_has_left_is_not_kept_warm(leave: Interfere) -> None:
    """Its stream is read on for the usage; a keep-alive could only fail, and end that."""
    usage = b'data: {"choices":[],"usage":{"total_tokens":7}}\n\n'
    acts: list[Act] = [STREAM + chunked(TOKEN), 25.0, chunked(STOP, usage, DONE) + LAST]
    exchange = run_exchange(ASK, acts, on_client_gone="drain", **at_times((2.0, leave)))
    check(exchange)
    assert exchange.line is not None
    assert (exchange.line["keep_alives"], exchange.line["usage"]) == (0, {"total_tokens": 7})


async def lingering(exchange: Exchange) -> None:
    async with exchange.answer() as answer:
        await answer.relay(await exchange.call(), last=False)
        await trio.sleep(1000)


def test_the_proxy_ends_between_two_calls() -> None:
    """The end that the first call has sent, and that was kept back, is none: the client is told at once."""
    acts: list[Act] = [STREAM + chunked(TOKEN, STOP, DONE) + LAST]
    exchange = run_exchange(ASK, acts, handler=lingering, **at_times((5.0, hurry)))
    check(exchange)
    body, error = split_error(read_answer(exchange.client).body)
    assert (body, error["code"]) == (TOKEN, "drained")
    assert exchange.client.closed_at < 6.0


INFORMATIONAL = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"


def test_nobody_writes_beside_an_informational_response() -> None:
    """A client that takes it bit by bit, and a head of our own that is due meanwhile: one goes behind the other."""
    bits = [(18.0 + bit / 100, room(3)) for bit in range(30)]
    acts: list[Act] = [1.0, INFORMATIONAL, 25.0, STREAM + chunked(TOKEN, STOP, DONE) + LAST]
    for _ in range(10):  # of two tasks that wait, either may be the first to go on
        exchange = run_exchange(ASK, acts, **at_times((0.5, room(20)), *bits, (20.0, room(None))))
        check(exchange)
        first, _, rest = bytes(exchange.client.taken).partition(b"\r\n\r\n")
        assert first.lower() + b"\r\n\r\n" == INFORMATIONAL.lower()
        assert rest.startswith(b"HTTP/1.1 200 OK\r\n")


def test_nothing_is_written_behind_an_informational_response_that_was_cut() -> None:
    """A status behind half a head would be a part of it."""
    acts: list[Act] = [1.0, INFORMATIONAL, 1000.0]
    exchange = run_exchange(ASK, acts, upstream_head_timeout=5.0, **at_times((0.5, room(20)), (12.0, room(None))))
    check(exchange)
    assert len(exchange.client.taken) == 20


@pytest.mark.parametrize("route", [{"others": (Origin("http", "other", 80),)}, {"hedge_after": 2.0}], ids=list)
def test_an_informational_response_outlives_the_call_that_brought_it(route: dict[str, Any]) -> None:
    """Another upstream is called, or was faster, while the client takes it bit by bit: the answer comes behind it."""
    acts: list[Act] = [1.0, INFORMATIONAL, 1000.0]
    good: list[Act] = [STREAM + chunked(TOKEN, STOP, DONE) + LAST]
    happens = at_times((0.5, room(20)), (9.0, room(None)))
    exchange = run_exchange(ASK, acts, good, upstream_head_timeout=5.0, **happens, **route)
    check(exchange)
    first, _, rest = bytes(exchange.client.taken).partition(b"\r\n\r\n")
    assert first.lower() + b"\r\n\r\n" == INFORMATIONAL.lower()
    assert rest.startswith(b"HTTP/1.1 200 OK\r\n")
    assert read_answer(exchange.client).body == TOKEN + STOP + DONE


def test_a_coding_that_is_none_is_not_passed_on() -> None:
    """Beside that of our own compression, clients would read the first, and the body not at all."""
    request = ASK.replace(b"Host: a", b"Host: a\r\nAccept-Encoding: gzip")
    acts: list[Act] = [STREAM.replace(b"OK\r\n", b"OK\r\nContent-Encoding: identity\r\n")]
    exchange = run_exchange(request, [*acts, chunked(TOKEN, STOP, DONE) + LAST], compress=("gzip",))
    head = bytes(exchange.client.taken).partition(b"\r\n\r\n")[0].lower()
    assert head.count(b"content-encoding") == head.count(b"content-encoding: gzip") == 1
    assert read_answer(exchange.client).body == TOKEN + STOP + DONE


def test_no_content_is_no_empty_stream() -> None:
    """By 204 a server tells an ``EventSource`` not to come again; that it has the type of a stream does not matter."""
    acts: list[Act] = [b"HTTP/1.1 204 No Content\r\nContent-Type: text/event-stream\r\n\r\n"]
    exchange = run_exchange(ASK, acts)
    assert exchange.line is not None
    assert (exchange.line["verdict"], exchange.line["status"]) == ("complete", 204)


def test_one_byte_order_mark_is_dropped_behind_two_keep_alives() -> None:
    """A second one is a part of the first line, which is then no data; without it, it would be."""
    mark = b"\xef\xbb\xbf"
    acts: list[Act] = [STREAM, 40.0, chunked(mark + mark + TOKEN, TOKEN, STOP, DONE) + LAST]
    exchange = run_exchange(ASK, acts)
    check(exchange)
    assert exchange.line is not None
    assert exchange.line["keep_alives"] > 1
    body = read_answer(exchange.client).body
    assert body.replace(b":\n", b"") == mark + TOKEN + TOKEN + STOP + DONE
