"""Whole exchanges in memory that look at an answer before it is delivered: what happens when, to the second."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import trio
import trio.testing

from sseflow.http import CODINGS, Encoder, Origin
from sseflow.proxy._app import App
from sseflow.resilience import BreakerOptions, RetryPolicy, Secret

from .memory import Act, MemoryWire, check, read_answer, run_exchange
from .peers import chunked
from .rig import DONE, LAST, STOP, STREAM, TOKEN
from .test_answer import ASK, ERROR, ROLE
from .test_exchange_injection import (
    ASK_TURN,
    BUSY,
    LOOKED_AT,
    PING,
    PLAIN,
    Remembered,
    client_leaves,
    client_resets,
    hurry,
    interrupt,
)
from .test_moments import Interfere, at_times, stubborn

NEVER = 1e6
OTHER = (Origin("http", "other", 80),)
GOOD: list[Act] = [STREAM + chunked(TOKEN, STOP, DONE) + LAST]
WORDS = TOKEN + STOP + DONE

PINGS: list[Act] = [5.0, chunked(PING)] * 99

#: A beginning of a stream that is followed by nothing, and when another upstream is called then.
SILENCES: dict[str, tuple[list[Act], dict[str, Any], float]] = {
    "no head": ([NEVER], {"upstream_head_timeout": 20.0}, 20.0),
    "nothing behind the head": ([STREAM, NEVER], {"idle_timeout": 30.0}, 30.0),
    "nothing behind a comment": ([STREAM, 10.0, chunked(PING), NEVER], {"idle_timeout": 30.0}, 40.0),
    "comments for ever": ([STREAM, *PINGS], {"idle_timeout": 30.0, "progress_timeout": 60.0}, 60.0),
    "comments for ever, and a head that took long": (
        [20.0, STREAM, *PINGS],
        {"progress_timeout": 60.0},
        80.0,
    ),
    "pings for ever, though no answer is begun in time": (
        [STREAM + chunked(ROLE), *PINGS],
        {"gate_open_after": 0.0, "progress_timeout": 60.0},
        60.0,
    ),
}


@pytest.mark.parametrize(("acts", "settings", "seconds"), SILENCES.values(), ids=SILENCES)
def test_an_upstream_that_stands_still_is_given_up_in_time(
    acts: list[Act], settings: dict[str, Any], seconds: float
) -> None:
    """Then, and not a second later, another one is called; the client is kept warm, and gets one good stream."""
    exchange = run_exchange(ASK, acts, GOOD, others=OTHER, **settings)
    check(exchange)
    assert [turn.at for turn in exchange.turns] == [0.0, seconds]
    assert exchange.upstreams[0].closed_at == seconds
    answer = read_answer(exchange.client)
    assert (answer.status, answer.body.replace(b":\n", b""), answer.complete) == (200, WORDS, True)


@pytest.mark.parametrize("request_", [ASK, PLAIN], ids=["asked for a stream", "asked for nothing"])
def test_events_without_content_are_delivered_in_time(request_: bytes) -> None:
    """The client has waited long enough: what there is, is passed on, and no other upstream is called."""
    acts: list[Act] = [STREAM + chunked(ROLE), 100.0, chunked(TOKEN, STOP, DONE) + LAST]
    seen: list[bytes] = []

    def look(_: object, client: MemoryWire, upstreams: list[MemoryWire]) -> None:
        seen.append(bytes(client.taken))

    exchange = run_exchange(request_, acts, others=OTHER, **at_times((14.9, look), (16.1, look)))
    check(exchange)
    assert (seen[0], ROLE in seen[1]) == (b"", True)
    assert len(exchange.turns) == 1
    assert read_answer(exchange.client).body.replace(b":\n", b"") == ROLE + WORDS


def test_who_asked_for_no_stream_gets_the_head_of_one_in_time() -> None:
    """A head of our own would be a guess; that of the upstream is there, though it has said nothing but comments."""
    exchange = run_exchange(PLAIN, [STREAM + chunked(PING), 100.0, chunked(WORDS) + LAST], others=OTHER)
    check(exchange)
    assert exchange.line is not None
    assert (exchange.line["verdict"], exchange.line["calls"]) == ("complete", 1)
    assert exchange.line["keep_alives"] > 5


def test_a_stream_without_a_type_is_looked_at_too() -> None:
    """It is read as the stream that was asked for, so it may be an error as well."""
    unlabelled = STREAM.replace(b"text/event-stream", b"text/plain")
    exchange = run_exchange(ASK, [unlabelled + chunked(ERROR) + LAST], GOOD, others=OTHER)
    check(exchange)
    assert (len(exchange.turns), read_answer(exchange.client).body) == (2, WORDS)


def test_an_asked_for_wait_is_kept_to_the_second() -> None:
    """Behind it the upstream is called again, over a connection that is not held meanwhile."""
    busy = BUSY.replace(b"HTTP/1.1 503 No\r\n", b"HTTP/1.1 503 No\r\nConnection: close\r\n")
    exchange = run_exchange(ASK, [busy], GOOD, retry=RetryPolicy(attempts=2, base=0.0))
    check(exchange)
    assert [turn.at for turn in exchange.turns] == [0.0, 4.0]
    assert exchange.upstreams[0].closed_at == 0.0


def test_a_wait_that_is_asked_for_and_too_long_is_the_clients() -> None:
    """It is told at once, in the upstream's own words, with its ``Retry-After``."""
    busy = BUSY.replace(b"After: 4", b"After: 400")
    exchange = run_exchange(ASK, [busy], GOOD, retry=RetryPolicy(attempts=2))
    check(exchange)
    assert len(exchange.turns) == 1
    assert b"\r\nretry-after: 400\r\n" in bytes(exchange.client.taken).lower()
    assert exchange.client.closed_at < 1.0


def test_a_second_call_begins_when_the_first_is_slow() -> None:
    """At that moment, beside the first; and that one is closed with the first content of the second."""
    exchange = run_exchange(
        ASK, [30.0, *GOOD], [3.0, *GOOD], others=OTHER, hedge_after=2.0, on_client_gone="cancel", keep_alive=0.0
    )
    check(exchange)
    assert [turn.at for turn in exchange.turns] == [0.0, 2.0]
    assert exchange.upstreams[0].closed_at == 5.0
    assert exchange.line is not None
    assert (exchange.line["upstream"], exchange.line["verdict"]) == ("http://other", "complete")


def test_a_second_call_is_of_another_upstream_whatever_the_weights() -> None:
    """The order is drawn once for both."""
    for _ in range(20):
        exchange = run_exchange(
            ASK, [NEVER], GOOD, others=OTHER, weights=(1, 1), hedge_after=2.0, upstream_head_timeout=50.0
        )
        check(exchange)
        hosts = {turn.request.partition(b"Host: ")[2].partition(b"\r\n")[0].lower() for turn in exchange.turns}
        assert (len(exchange.turns), hosts) == (2, {b"upstream", b"other"})


def test_what_the_loser_was_refused_is_not_held() -> None:
    """Neither connection outlives its use: not even that whose words might have been the last."""
    refused = BUSY.replace(b"HTTP/1.1 503 No\r\n", b"HTTP/1.1 503 No\r\nConnection: close\r\n")
    slow: list[Act] = [5.0, STREAM + chunked(TOKEN), 20.0, chunked(STOP, DONE) + LAST]
    exchange = run_exchange(ASK, [4.0, refused], slow, hedge_after=2.0)
    check(exchange)
    assert exchange.upstreams[0].closed_at <= 7.0
    assert read_answer(exchange.client).body.replace(b":\n", b"") == WORDS


def test_a_chain_was_mended_only_if_that_call_is_delivered() -> None:
    """Beside it another one may be faster that knew the chain: then nothing was mended."""
    case = LOOKED_AT["mends a chain beside a second call"]
    assert b"sseflow-chain: recovered" in bytes(case.run().client.taken).lower()
    case = attrs.evolve(case, more=[[4.0, *case.more[1]], [NEVER]])
    exchange = case.run()
    check(exchange)
    assert (len(exchange.turns), read_answer(exchange.client).complete) == (3, True)
    assert b"sseflow-chain" not in bytes(exchange.client.taken).lower()


def test_behind_a_chain_that_was_mended_there_is_fail_over() -> None:
    """What was wrong is mended; what goes wrong then is another matter, and the next one gets the whole history."""
    lost, answered = LOOKED_AT["mends a chain"].acts, LOOKED_AT["mends a chain"].more[0]
    exchange = run_exchange(ASK_TURN, lost, [BUSY], answered, others=OTHER, history=Remembered())
    check(exchange)
    hosts = [turn.request.partition(b"Host: ")[2].partition(b"\r\n")[0].lower() for turn in exchange.turns]
    assert hosts == [b"upstream", b"upstream", b"other"]
    assert [b"previous_response_id" in turn.request for turn in exchange.turns] == [True, False, False]
    assert b"sseflow-chain: recovered" in bytes(exchange.client.taken).lower()
    assert read_answer(exchange.client).complete


@pytest.mark.parametrize("coding", CODINGS)
def test_a_response_in_a_coding_is_a_link_too(coding: str) -> None:
    """The client gets it as it came; what is remembered is what it says."""
    encoder = Encoder(coding)
    body = b'{"id":"resp_2","object":"response","status":"completed","model":"m","output":[]}'
    body = encoder.encode(body) + encoder.finish()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: %b\r\n" % coding.encode()
    history = Remembered()
    request = ASK_TURN.replace(b'"stream":true', b'"stream":null')
    exchange = run_exchange(request, [head + b"Content-Length: %d\r\n\r\n" % len(body) + body], history=history)
    check(exchange)
    assert [response.id for response in history.stored] == ["resp_2"]


@pytest.mark.parametrize("coding", [None, *CODINGS])
def test_an_error_that_repeats_our_key_is_told_without_it(coding: str | None) -> None:
    """Also if it comes in a content coding, in which nobody would see it."""
    key = "sk-a-secret-that-is-long-enough"
    body = b'{"error":{"message":"what is %b?","type":"invalid_request_error"}}' % key.encode()
    head = b"HTTP/1.1 400 No\r\nContent-Type: application/json\r\n"
    if coding is not None:
        encoder = Encoder(coding)
        body = encoder.encode(body) + encoder.finish()
        head += b"Content-Encoding: %b\r\n" % coding.encode()
    exchange = run_exchange(ASK, [head + b"Content-Length: %d\r\n\r\n" % len(body) + body], keys=(Secret(key),))
    check(exchange)
    answer = read_answer(exchange.client)
    assert (answer.status, b"what is" in answer.body, key.encode() in answer.body) == (400, True, False)


PHASES: dict[str, tuple[list[list[Act]], dict[str, Any]]] = {
    "a beginning": ([[STREAM + chunked(ROLE), NEVER]], {"breaker": BreakerOptions(half_open=1)}),
    "a delay": ([[BUSY]], {"retry": RetryPolicy(attempts=2, base=0.0)}),
    "a race": (
        [[STREAM + chunked(PING), NEVER], [STREAM + chunked(ROLE), NEVER]],
        {"others": OTHER, "hedge_after": 1.0, "breaker": BreakerOptions(half_open=1)},
    ),
}
LEAVING: dict[str, Interfere] = {
    function.__name__: function for function in (client_leaves, client_resets, hurry, interrupt)
}


@pytest.mark.parametrize("happens", LEAVING.values(), ids=LEAVING)
@pytest.mark.parametrize(("scripts", "settings"), PHASES.values(), ids=PHASES)
def test_who_leaves_before_there_is_content_ends_all_calls(
    scripts: list[list[Act]], settings: dict[str, Any], happens: Interfere
) -> None:
    """At once, in every phase: while a beginning is looked at, between two attempts, in a race."""
    exchange = run_exchange(ASK, *scripts, **settings, **at_times((3.5, happens)))
    check(exchange)
    assert len(exchange.turns) == len(scripts)
    assert all(wire.closed_at <= 4.5 for wire in exchange.upstreams)
    assert exchange.line is not None
    assert exchange.line["verdict"] in ("client_gone", "drained", "interrupted")


def test_a_request_that_an_upstream_does_not_read_goes_to_another() -> None:
    """What it has taken of it is no answer, and nothing that is generated."""

    def stall(_: object, client: MemoryWire, upstreams: list[MemoryWire]) -> None:
        for wire in upstreams[:1]:
            wire.stop_reading()

    for at in range(1, 40):
        exchange = run_exchange(
            ASK, [NEVER], GOOD, others=OTHER, upstream_write_timeout=7.0, upstream_head_timeout=9.0,
            interfere=stall, at=at,
        )  # fmt: skip
        check(exchange)
        assert read_answer(exchange.client).body == WORDS
        assert exchange.turns[-1].at in (0.0, 7.0, 9.0)


def test_what_came_while_we_stood_still_is_looked_at_first() -> None:
    """Bytes and a deadline that are noticed together, in whatever order: the upstream has not been silent."""
    acts: list[Act] = [STREAM + chunked(PING), 20.0, chunked(TOKEN, STOP, DONE) + LAST]

    def stand_still(_: object, client: MemoryWire, upstreams: list[MemoryWire]) -> None:
        if upstreams and upstreams[0].given and not upstreams[0].unread:
            clock = trio.lowlevel.current_clock()
            assert isinstance(clock, trio.testing.MockClock)
            upstreams[0].give(chunked(TOKEN))
            clock.jump(301)

    for at in range(15, 60):
        exchange = run_exchange(ASK, acts, interfere=stand_still, at=at, others=OTHER)
        check(exchange)
        assert len(exchange.turns) == 1


def test_a_call_that_has_failed_is_none_that_went_well_because_another_follows() -> None:
    """A handler that goes on all the same: the breaker was told, and is open."""
    cut: list[Act] = [STREAM + chunked(TOKEN), "eof"]
    exchange = run_exchange(ASK, cut, GOOD, handler=stubborn, breaker=BreakerOptions(half_open=1))
    check(exchange)
    assert len(exchange.turns) == 1


@pytest.mark.parametrize("last", [LAST, b""], ids=["whole", "cut"])
def test_a_stream_is_judged_by_its_end(last: bytes) -> None:
    """That it began well, with content, says nothing about the upstream."""
    apps: list[App] = []

    def note(app: App, client: MemoryWire, upstreams: list[MemoryWire]) -> None:
        apps.append(app)

    words = WORDS if last else TOKEN
    acts: list[Act] = [STREAM + chunked(words) + last, "eof"]
    check(run_exchange(ASK, acts, breaker=BreakerOptions(half_open=1), interfere=note, at=1))
    [[(_, breaker)]] = [list(path.breakers or ()) for app in apps for path in app.routing.paths]
    assert breaker.tripped == (not last)


def test_retries_have_a_budget() -> None:
    """What is saved up, however many attempts a policy allows: retries are never the most of all calls."""
    busy = BUSY.replace(b"Retry-After: 4\r\n", b"")
    exchange = run_exchange(ASK, *[[busy]] * 50, retry=RetryPolicy(attempts=50, base=0.0))
    check(exchange)
    assert len(exchange.turns) == 11
    assert read_answer(exchange.client).status == 503


def test_what_a_client_did_not_get_is_no_link() -> None:
    """It left, and its answer was read to the end for the record: nobody can go on from a response that nobody has."""
    completed = LOOKED_AT["mends a chain"].more[0]
    acts: list[Act] = [STREAM + chunked(b'data: {"type":"response.output_text.delta","delta":"a"}\n\n'), 5.0]
    history = Remembered()
    last = bytes(completed[0]).removeprefix(STREAM)  # type: ignore[arg-type]
    exchange = run_exchange(
        ASK_TURN, [*acts, last], history=history, on_client_gone="drain", **at_times((2.0, client_leaves))
    )
    check(exchange)
    assert exchange.line is not None
    assert (exchange.line["verdict"], exchange.line["saw_end"], history.stored) == ("client_gone", True, [])


@pytest.mark.parametrize("keys", [(), (Secret("sk-ours"),)], ids=["no key", "a key"])
def test_what_a_client_sent_to_be_let_in_reaches_no_upstream(keys: tuple[Secret, ...]) -> None:
    """Not the first that is called, and none that stands in for it; whether there is a key of ours or not."""
    fields = b"Authorization: Bearer sk-theirs\r\nX-Api-Key: sk-theirs\r\nCookie: theirs=1\r\n"
    request = ASK.replace(b"Host: a\r\n", b"Host: a\r\n" + fields)
    exchange = run_exchange(request, [BUSY], GOOD, others=OTHER, keys=keys, pass_credentials=False)
    check(exchange)
    assert len(exchange.turns) == 2
    assert not [turn.request for turn in exchange.turns if b"theirs" in turn.request]
    assert [turn.request.count(b"Bearer sk-ours") for turn in exchange.turns] == [len(keys)] * 2
