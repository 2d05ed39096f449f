"""Somebody ends a stream: it does not look complete, the upstream is left, and what was produced is kept."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from sseflow.http import Address
from sseflow.proxy._settings import Binding
from sseflow.records import Epochs, Lease, MemoryRecorder, Record
from sseflow.resilience import BreakerOptions, RetryPolicy, Secret
from sseflow.testing import Answer, FakeProvider, Played, Script, Status

from .gateway import BODIES, CHAT, MESSAGES, RESPONSES, Gateway, route_to, running, upstream_for

ADMIN = {"admin": Binding(Address("127.0.0.1", 0))}
PATHS = [("openai", CHAT), ("openai", RESPONSES), ("anthropic", MESSAGES)]
VERSION = {"anthropic-version": "2023-06-01", "X-Request-Id": "mine"}


class Slow:
    """A recorder that hangs, or is broken."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    async def record(self, record: Record, lease: Lease) -> None:
        """Never write anything."""
        if self.error is not None:
            raise self.error
        await trio.sleep_forever()


@pytest.mark.parametrize(("kind", "path"), PATHS)
async def test_what_was_produced_is_told_and_recorded(kind: Any, path: str) -> None:
    """In the shape of a whole answer, with the text that the client had been sent and no more."""
    epochs = Epochs()
    recorder = MemoryRecorder(epochs)
    async with (
        FakeProvider.serve(kind, default=Answer(text="one two three", hold="for ever", hold_after=2)) as provider,
        running(
            route_to(upstream_for(provider, name="p"), path="/p"), settings=ADMIN, recorder=recorder, epochs=epochs
        ) as gateway,
    ):
        client = await gateway.send(f"/p{path}", headers=VERSION)
        await client.until(b"two")
        ended = await gateway.operate("DELETE", "/-/streams/mine")
        rest = await client.rest()
        [request] = provider.requests
        await request.delivery.end()
        line = await gateway.line()
    [told] = json.loads(ended.body)["streams"]
    [record] = recorder.records
    assert (ended.status, told["verdict"], line["verdict"], record.verdict) == (200, *["interrupted"] * 3)
    assert record.answer.text == "one two"
    assert not record.answer.complete
    assert told["answer"] == json.loads(json.dumps(record.answer.body))
    assert request.delivery.ended == "left"
    assert b"interrupted" in rest
    for word in (b"[DONE]", b"message_stop", b"response.completed", b"three"):
        assert word not in rest
    assert not rest.endswith(b"0\r\n\r\n")


CALLING = r"""
head
data data: {"id":"c","choices":[{"index":0,"delta":{"role":"assistant","tool_calls":[{"index":0,"id":"call_1",\
"type":"function","function":{"name":"look","arguments":""}}]},"finish_reason":null}]}\n\n
data data: {"id":"c","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,\
"function":{"arguments":"{\\"at\\":"}}]},"finish_reason":null}]}\n\n
hold x
"""


async def test_open_tool_calls_are_kept_with_an_error_for_a_result() -> None:
    """They were begun, and nobody will run them."""
    epochs = Epochs()
    recorder = MemoryRecorder(epochs)
    script = Script.parse(CALLING.replace("\\\n", ""))
    async with (
        FakeProvider.serve("openai", default=Played(script)) as provider,
        running(route_to(upstream_for(provider, name="p")), recorder=recorder, epochs=epochs) as gateway,
    ):
        client = await gateway.send(f"/openai{CHAT}", headers=VERSION)
        await client.until(b'\\"at')
        assert gateway.app.interrupt("mine", "a test")
        await client.rest()
        await gateway.line()
        await gateway.kept()
    [record] = recorder.records
    [call] = record.answer.tool_calls
    assert (call.id, call.name, call.arguments, call.finished) == ("call_1", "look", '{"at":', False)
    assert call.result is not None


async def test_a_whole_answer_is_recorded_in_the_same_shape() -> None:
    """With its usage, and as complete."""
    epochs = Epochs()
    recorder = MemoryRecorder(epochs)
    async with (
        FakeProvider.serve("openai", default=Answer(text="all of it")) as provider,
        running(route_to(upstream_for(provider, name="p")), recorder=recorder, epochs=epochs) as gateway,
    ):
        await gateway.ask(f"/openai{CHAT}")
        await gateway.line()
        await gateway.kept()
    [record] = recorder.records
    assert (record.verdict, record.answer.text, record.answer.complete) == ("complete", "all of it", True)


async def test_a_client_that_leaves_is_recorded_with_all_that_was_drained() -> None:
    """Where the route says so, the rest is read for the record."""
    epochs = Epochs()
    recorder = MemoryRecorder(epochs)
    async with FakeProvider.serve("openai", default=Answer(text="one two", hold="x", hold_after=1)) as provider:
        route = route_to(upstream_for(provider, name="p"), policy={"on_client_gone": "drain"})
        async with running(route, recorder=recorder, epochs=epochs) as gateway:
            client = await gateway.send(f"/openai{CHAT}")
            await client.until(b"one")
            client.close()
            await gateway.left()
            provider.release("x")
            line = await gateway.line()
            await gateway.kept()
    [record] = recorder.records
    assert (line["verdict"], record.verdict) == ("client_gone", "client_gone")
    assert record.answer.text == "one two"


async def test_an_interrupt_before_anything_has_come_is_a_status() -> None:
    """Nothing was sent, so nothing need be cut; and nothing is recorded of nothing."""
    epochs = Epochs()
    recorder = MemoryRecorder(epochs)
    async with (
        FakeProvider.serve("openai", default=Answer(hold="x", hold_after=None)) as provider,
        running(
            route_to(upstream_for(provider, name="p")), settings=ADMIN, recorder=recorder, epochs=epochs
        ) as gateway,
    ):
        client = await gateway.send(f"/openai{CHAT}", headers=VERSION)
        await provider.arrival()
        ended = await gateway.operate("DELETE", "/-/streams/mine")
        answer = await client.answer(b"POST")
    assert ended.status == 200
    assert (answer.status, answer.complete) == (503, True)
    assert not recorder.records


async def test_a_recorder_that_is_broken_is_nobodys_business() -> None:
    """The client has its answer, and the operator a line."""
    async with FakeProvider.serve("openai") as provider:
        gateway: Gateway
        async with running(
            route_to(upstream_for(provider, name="p")), recorder=Slow(RuntimeError("the disk is full"))
        ) as gateway:
            answer = await gateway.ask(f"/openai{CHAT}")
            line = await gateway.line("a record could not be written")
    assert answer.complete
    assert "the disk is full" in line["error"]


async def test_operators_see_how_the_providers_are() -> None:
    """Keys by their ends, breakers, and what was tried again."""
    keys = ("sk-one-4567890123456789", "sk-two-4567890123456789")
    async with FakeProvider.serve("openai", keys=keys) as provider:
        provider.limit(keys[0], retry_after=30)
        route = route_to(upstream_for(provider, name="p", keys=keys), breaker=BreakerOptions())
        async with running(route, settings=ADMIN) as gateway:
            await gateway.ask(f"/openai{CHAT}")
            page = json.loads((await gateway.operate("GET", "/-/upstreams")).body)
    [shown] = page["providers"]
    assert [(key["hint"], key["state"], key["reason"]) for key in shown["keys"]] == [
        ("sk-o...6789", "temporary", "rate_limited"),
        ("sk-t...6789", "valid", None),
    ]
    assert 0 < shown["keys"][0]["seconds_left"] <= 30
    assert [(one["upstream"], one["endpoint"], one["state"]) for one in page["breakers"]] == [
        ("p", "openai-chat", "closed")
    ]
    assert page["retries"] == []


async def test_figures_are_for_prometheus_to_read() -> None:
    """Names of the configuration are labels, and what a client makes up is none."""
    keys = ("sk-one", "sk-two")
    async with FakeProvider.serve("openai", keys=keys) as provider:
        provider.limit(keys[0], retry_after=30)
        upstream = upstream_for(provider, name="p", keys=keys, models={"m": "m"}, type="openai-compat")
        route = route_to(upstream, breaker=BreakerOptions(), retry=RetryPolicy(attempts=2, base=0))
        async with running(route, settings=ADMIN) as gateway:
            provider.next(Status(503), key="sk-two")
            await gateway.ask(f"/openai{CHAT}")
            await gateway.ask(f"/openai{CHAT}", {**BODIES[CHAT], "model": "made-up"})
            page = await gateway.operate("GET", "/-/metrics")
    figures = dict(line.rsplit(" ", 1) for line in page.body.decode().splitlines() if not line.startswith("#"))
    labels = 'provider="p"'
    assert (page.get(b"content-type") or b"").startswith(b"text/plain")
    assert figures[f'sseflow_key_transitions_total{{{labels},reason="rate_limited"}}'] == "1.0"
    assert figures[f'sseflow_keys{{{labels},state="temporary"}}'] == "1.0"
    retried = f'sseflow_stream_retries_total{{chain_broken="false",kind="overloaded",model="m",{labels}}}'
    assert figures[retried] == "1.0"
    assert figures[f'sseflow_attempts_bucket{{le="3.0",{labels}}}'] == "2.0"
    assert figures[f'sseflow_circuit_breaker_state{{endpoint="openai-chat",model="m",{labels}}}'] == "0.0"
    assert figures[f'sseflow_circuit_breaker_state{{endpoint="openai-chat",model="other",{labels}}}'] == "0.0"
    assert figures["sseflow_answers_not_kept_total"] == "0.0"
    assert "made-up" not in page.body.decode()


async def test_operators_have_a_token_of_their_own() -> None:
    """If there is one, nothing is told without it."""
    settings = {**ADMIN, "admin_token": Secret("let-me-in")}
    async with (
        FakeProvider.serve("openai") as provider,
        running(route_to(upstream_for(provider, name="p")), settings=settings) as gateway,
    ):
        without = await gateway.operate("GET", "/-/streams")
        wrong = await gateway.operate("GET", "/-/streams", "Authorization: Bearer x\r\n")
        right = await gateway.operate("GET", "/-/streams", "Authorization: Bearer let-me-in\r\n")
        other = await gateway.operate("POST", "/-/streams", "Authorization: Bearer let-me-in\r\n")
        nothing = await gateway.operate("GET", "/x", "Authorization: Bearer let-me-in\r\n")
    assert [answer.status for answer in (without, wrong, right, other, nothing)] == [401, 401, 200, 405, 404]
    assert json.loads(right.body) == {"streams": []}
