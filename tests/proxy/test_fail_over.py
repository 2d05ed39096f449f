"""What fails before a byte of it was passed on need not be seen by the client; what fails later is told as it is."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
import trio

from sseflow.http._tls import transport
from sseflow.resilience import BreakerOptions, RetryPolicy
from sseflow.testing import (
    Answer,
    Behaviour,
    CommentsOnly,
    CutAfter,
    Empty,
    ErrorEvent,
    FakeProvider,
    Reset,
    Status,
    Truncated,
)

from .gateway import CHAT, MESSAGES, RESPONSES, read_chat, route_to, running, upstream_for

GOOD = Answer(text="from the second one")


@pytest.fixture
async def first() -> AsyncIterator[FakeProvider]:
    """A provider that fails in the ways that a test wants."""
    async with FakeProvider.serve("openai", default=Answer(text="from the first one")) as provider:
        yield provider


@pytest.fixture
async def second() -> AsyncIterator[FakeProvider]:
    """One that stands in for it."""
    async with FakeProvider.serve("openai", default=GOOD) as provider:
        yield provider


FAILURES: dict[str, Behaviour] = {
    "500": Status(500),
    "503": Status(503),
    "529": Status(529),
    "reset": Reset(),
    "cut in the head": CutAfter(20, "fin"),
    "empty": Empty(),
    "comments only": CommentsOnly(),
    "an error as the first event": ErrorEvent(status=529),
    "an error before content": ErrorEvent(status=500, after=0),
    "an end before content": Truncated(after=0),
    "an end in the first event": Truncated(after=0, in_event=True),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
async def test_a_call_that_fails_before_its_first_content_is_made_elsewhere(
    first: FakeProvider, second: FakeProvider, failure: Behaviour
) -> None:
    """The client sees one good stream, with nothing of the failed one in it."""
    first.next(failure)
    route = route_to(upstream_for(first, name="a"), upstream_for(second, name="b"))
    async with running(route) as gateway:
        answer = await gateway.ask(f"/openai{CHAT}")
        line = await gateway.line()
    stream = read_chat(answer.body)
    assert (answer.status, answer.complete, stream.text, stream.done) == (200, True, GOOD.text, True)
    assert (line["verdict"], line["upstream"]) == ("complete", upstream_for(second, name="b").origin.__str__())
    assert [len(provider.requests) for provider in (first, second)] == [1, 1]


@pytest.mark.parametrize("status", [400, 403, 404, 413, 422])
async def test_what_is_wrong_with_the_request_is_not_tried_elsewhere(
    first: FakeProvider, second: FakeProvider, status: int
) -> None:
    """The upstream's own words reach the client byte for byte, and nobody else is asked."""
    first.next(Status(status, message="no such thing", fields={"x-ours": "1"}))
    route = route_to(upstream_for(first, name="a"), upstream_for(second, name="b"))
    async with running(route) as gateway:
        answer = await gateway.ask(f"/openai{CHAT}")
    assert (answer.status, answer.get(b"x-ours")) == (status, b"1")
    assert json.loads(answer.body)["error"]["message"] == "no such thing"
    assert not second.requests


async def test_when_all_have_failed_the_client_gets_what_the_last_one_said(
    first: FakeProvider, second: FakeProvider
) -> None:
    """Status, words and `Retry-After` are the upstream's own."""
    first.next(Status(500))
    second.next(Status(503, message="come back later", retry_after=7))
    route = route_to(upstream_for(first, name="a"), upstream_for(second, name="b"))
    async with running(route) as gateway:
        answer = await gateway.ask(f"/openai{CHAT}")
    assert (answer.status, answer.get(b"retry-after")) == (503, b"7")
    assert json.loads(answer.body)["error"]["message"] == "come back later"


async def test_behind_the_first_content_a_failure_is_the_clients_to_know(
    first: FakeProvider, second: FakeProvider
) -> None:
    """An error event and an abort; the second provider is not asked."""
    first.next(Truncated(after=1))
    route = route_to(upstream_for(first, name="a"), upstream_for(second, name="b"))
    async with running(route) as gateway:
        answer = await gateway.ask(f"/openai{CHAT}")
        line = await gateway.line()
    stream = read_chat(answer.body)
    assert (answer.complete, stream.done, stream.text) == (False, False, "from")
    assert stream.error["code"] == line["verdict"] == "truncated"
    assert not second.requests


@pytest.mark.slow
@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_fail_over_never_repeats_a_byte(how: str) -> None:
    """Cut anywhere in its first 2 KiB, an answer is the other one's, whole, or a beginning of its own and no more."""
    text = " ".join(f"w{i}" for i in range(12))
    async with (
        FakeProvider.serve("openai", default=Answer(text=text)) as first,
        FakeProvider.serve("openai", default=GOOD) as second,
    ):
        one, other = upstream_for(first, name="a"), upstream_for(second, name="b")
        seen = set()
        async with running(route_to(one, other), route_to(one, path="/alone")) as gateway:
            whole = await gateway.ask(f"/alone{CHAT}")
            assert len(whole.body) > 2048
            for at in range(2048):
                first.next(CutAfter(at, "fin" if how == "fin" else "rst"))
                answer = await gateway.ask(f"/openai{CHAT}")
                stream = read_chat(answer.body)
                if stream.text == GOOD.text:
                    assert (answer.complete, stream.done, stream.error) == (True, True, None)
                    seen.add("failed over")
                else:
                    assert not answer.complete
                    assert not stream.done
                    assert text.startswith(stream.text)
                    assert stream.text
                    seen.add("told")
                gateway.log.taken.clear()
        assert seen == {"failed over", "told"}
        # Each request was made once at each of them, if at all.
        assert len(first.requests) == 2049


async def test_keys_are_tried_in_order_and_one_that_is_limited_stays_out() -> None:
    """The second key is used for the request that met the limit, and first for the ones behind it."""
    async with FakeProvider.serve("openai", keys=["sk-a", "sk-b"]) as provider:
        provider.limit("sk-a", retry_after=30)
        async with running(route_to(upstream_for(provider, name="p", keys=("sk-a", "sk-b")))) as gateway:
            statuses = [(await gateway.ask(f"/openai{CHAT}")).status for _ in range(2)]
            out = await gateway.line("key out")
    assert statuses == [200, 200]
    assert [provider.key_of(request) for request in provider.requests] == ["sk-a", "sk-b", "sk-b"]
    assert (out["provider"], out["reason"], out["cooldown"]) == ("p", "rate_limited", 30)
    assert "sk-a" not in json.dumps(out)


async def test_when_all_keys_are_limited_the_client_is_told_the_shortest_wait() -> None:
    """429 in the words of the dialect, and `Retry-After`."""
    waits = {"sk-a": 5, "sk-b": 3, "sk-c": 10}
    async with FakeProvider.serve("openai", keys=list(waits)) as provider:
        for key, wait in waits.items():
            provider.limit(key, retry_after=wait)
        async with running(route_to(upstream_for(provider, name="p", keys=tuple(waits)))) as gateway:
            answer = await gateway.ask(f"/openai{CHAT}")
    error = json.loads(answer.body)["error"]
    assert (answer.status, answer.get(b"retry-after")) == (429, b"3")
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert error["message"].startswith("all configured keys are rate-limited")


@pytest.mark.parametrize("keys", [("sk-a",), ("sk-a", "sk-b")])
async def test_when_no_key_is_accepted_it_is_our_fault(keys: tuple[str, ...]) -> None:
    """502, since the client's credentials are not what is wrong; the provider may have repeated our key."""
    async with (
        FakeProvider.serve("openai", keys=["sk-other"]) as provider,
        running(route_to(upstream_for(provider, name="p", keys=keys))) as gateway,
    ):
        answer = await gateway.ask(f"/openai{CHAT}")
    assert answer.status == 502
    assert json.loads(answer.body)["error"]["message"] == "all configured keys failed authentication"
    assert b"sk-a" not in answer.raw
    assert len(provider.requests) == len(keys)


async def test_a_key_that_may_not_is_no_reason_to_try_another() -> None:
    """403: the model may not be for this key."""
    async with FakeProvider.serve("openai", keys=["sk-a", "sk-b"]) as provider:
        provider.forbid("sk-a")
        async with running(route_to(upstream_for(provider, name="p", keys=("sk-a", "sk-b")))) as gateway:
            assert (await gateway.ask(f"/openai{CHAT}")).status == 403
            provider.allow("sk-a")
            assert (await gateway.ask(f"/openai{CHAT}")).status == 200
    assert [provider.key_of(request) for request in provider.requests] == ["sk-a", "sk-a"]


async def test_a_client_with_a_key_of_its_own_gets_no_other() -> None:
    """Where clients may bring keys, theirs are neither replaced nor marked."""
    async with FakeProvider.serve("openai", keys=["sk-a", "sk-b"]) as provider:
        upstream = upstream_for(provider, name="p", keys=("sk-a", "sk-b"), pass_credentials=True)
        async with running(route_to(upstream)) as gateway:
            own = {"Authorization": "Bearer sk-own"}
            assert (await gateway.ask(f"/openai{CHAT}", headers=own)).status == 401
            assert (await gateway.ask(f"/openai{CHAT}")).status == 200
    assert [provider.key_of(request) for request in provider.requests] == ["sk-own", "sk-a"]


async def test_no_upstream_sees_the_key_of_another(second: FakeProvider) -> None:
    """What fails over is made of the client's request anew."""
    async with FakeProvider.serve("openai", keys=["sk-a"]) as first:
        first.next(Status(503))
        one = upstream_for(first, name="a", keys=("sk-a",))
        other = upstream_for(second, name="b", keys=("sk-b",))
        async with running(route_to(one, other)) as gateway:
            await gateway.ask(f"/openai{CHAT}", headers={"Authorization": "Bearer sk-client", "X-Api-Key": "sk-client"})
    assert [dict(request.credentials) for request in (*first.requests, *second.requests)] == [
        {"authorization": "Bearer sk-a"},
        {"authorization": "Bearer sk-b"},
    ]


async def test_all_upstreams_are_tried_again_as_often_as_the_route_says(
    first: FakeProvider, second: FakeProvider
) -> None:
    """Behind a wait, and in the same order."""
    first.next(Status(503), Status(503))
    second.next(Status(503))
    route = route_to(
        upstream_for(first, name="a"), upstream_for(second, name="b"), retry=RetryPolicy(attempts=3, base=0.01)
    )
    async with running(route) as gateway:
        answer = await gateway.ask(f"/openai{CHAT}")
        retry = await gateway.line("retry")
    assert read_chat(answer.body).text == GOOD.text
    assert [len(first.requests), len(second.requests)] == [2, 2]
    assert (retry["attempt"], retry["kind"]) == (1, "overloaded")


async def test_an_upstream_that_keeps_failing_is_left_alone(first: FakeProvider, second: FakeProvider) -> None:
    """It is the end of the stream that is judged: failures behind the first content count, too."""
    first.default = Truncated(after=1)
    breaker = BreakerOptions(failures=2)
    route = route_to(upstream_for(first, name="a"), upstream_for(second, name="b"), breaker=breaker)
    async with running(route) as gateway:
        texts = [read_chat((await gateway.ask(f"/openai{CHAT}")).body).text for _ in range(4)]
    assert texts == ["Hello", "Hello", GOOD.text, GOOD.text]
    assert len(first.requests) == 2


async def test_with_nobody_left_the_client_is_told_for_how_long(first: FakeProvider) -> None:
    """503 with what remains of the time, and the upstream is not called."""
    first.default = Status(500)
    route = route_to(upstream_for(first, name="a"), breaker=BreakerOptions(failures=1, open_for=30))
    async with running(route) as gateway:
        answers = [await gateway.ask(f"/openai{CHAT}") for _ in range(2)]
    assert [answer.status for answer in answers] == [500, 503]
    assert 0 < int(answers[1].get(b"retry-after") or 0) <= 30
    assert len(first.requests) == 1


async def test_a_slow_upstream_is_hedged(first: FakeProvider, second: FakeProvider) -> None:
    """The one that has content first is passed on, the other one is left, and both are in the log."""
    first.default = Answer(text="late", hold="never", hold_after=0)
    route = route_to(upstream_for(first, name="a"), upstream_for(second, name="b"), hedge_after=0.05)
    async with running(route) as gateway:
        answer = await gateway.ask(f"/openai{CHAT}")
        legs = [await gateway.line("hedge"), await gateway.line("hedge")]
        [request] = first.requests
        await request.delivery.end()
    assert read_chat(answer.body).text == GOOD.text
    assert {leg["ending"] for leg in legs} == {"lost", "won"}
    assert request.delivery.ended == "left"


async def test_a_wait_for_content_is_kept_warm_and_can_still_fail_over(
    first: FakeProvider, second: FakeProvider
) -> None:
    """The answer is begun with a head of our own; a call that then fails has delivered nothing yet."""
    first.default = Answer(hold="a while", hold_after=None)
    route = route_to(
        upstream_for(first, name="a"),
        upstream_for(second, name="b"),
        policy={"gate_open_after": 0.1, "keep_alive": 0.05},
    )
    async with running(route) as gateway:
        client = await gateway.send(f"/openai{CHAT}")
        head = await client.until(b":\n")
        first.default = Status(500)
        [exchange] = gateway.app.exchanges
        for call in exchange._caller.calls:
            transport(call._wire).close()
        body = await client.until(b"[DONE]\n\n")
    assert b"text/event-stream" in head
    assert GOOD.text.split()[0].encode() in body


@pytest.mark.parametrize(("kind", "path"), [("openai", RESPONSES), ("anthropic", MESSAGES), ("openai", CHAT)])
async def test_every_dialect_fails_over(kind: str, path: str) -> None:
    """An error as the first event is one in each of them."""
    async with FakeProvider.serve(kind) as first, FakeProvider.serve(kind, default=GOOD) as second:  # type: ignore[arg-type]
        first.next(ErrorEvent(status=529))
        async with running(
            route_to(upstream_for(first, name="a"), upstream_for(second, name="b"), path="/x")
        ) as gateway:
            answer = await gateway.ask(f"/x{path}", headers={"anthropic-version": "2023-06-01"})
            line = await gateway.line()
    assert (answer.status, answer.complete, line["verdict"]) == (200, True, "complete")
    assert b"second" in answer.body
    assert b"Overloaded" not in answer.body


async def test_a_long_body_is_streamed_and_sent_once(first: FakeProvider, second: FakeProvider) -> None:
    """What is not kept cannot be sent to another upstream, unless nothing of it was sent to the first."""
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "x" * 2000}]}
    first.next(Status(503))
    route = route_to(upstream_for(first, name="a"), upstream_for(second, name="b"), replay_body=1000)
    async with running(route) as gateway:
        assert (await gateway.ask(f"/openai{CHAT}", body)).status == 503
    assert not second.requests


async def test_a_route_that_is_not_there() -> None:
    """404, and nobody is asked."""
    async with FakeProvider.serve("openai") as provider, running(route_to(upstream_for(provider, name="p"))) as gateway:
        assert (await gateway.ask(f"/openaix{CHAT}")).status == 404
    assert not provider.requests


async def test_an_operator_lists_streams_and_interrupts_one() -> None:
    """The client is told, the stream does not look complete, and the upstream is left."""
    async with (
        FakeProvider.serve("openai", default=Answer(hold="for ever", hold_after=1)) as provider,
        running(route_to(upstream_for(provider, name="p"))) as gateway,
    ):
        client = await gateway.send(f"/openai{CHAT}", headers={"X-Request-Id": "mine"})
        await client.until(b"content")
        listed = json.loads((await gateway.operate("GET", "/-/streams")).body)
        ended = await gateway.operate("DELETE", "/-/streams/mine")
        missed = await gateway.operate("DELETE", "/-/streams/mine")
        rest = await client.rest()
        [request] = provider.requests
        await request.delivery.end()
    assert [stream["id"] for stream in listed["streams"]] == ["mine"]
    assert (ended.status, json.loads(ended.body)["streams"][0]["verdict"]) == (200, "interrupted")
    assert missed.status == 404
    assert b"interrupted" in rest
    assert b"[DONE]" not in rest
    assert not rest.endswith(b"0\r\n\r\n")
    assert request.delivery.ended == "left"


async def test_the_configuration_changes_for_requests_to_come() -> None:
    """A live stream goes on with what it began with."""
    async with (
        FakeProvider.serve("openai", default=Answer(hold="a while", hold_after=1)) as old,
        FakeProvider.serve("openai", default=GOOD) as new,
        running(route_to(upstream_for(old, name="p"))) as gateway,
    ):
        client = await gateway.send(f"/openai{CHAT}")
        await client.until(b"content")
        changed = route_to(upstream_for(new, name="p", models={"new": "theirs"}))
        gateway.app.configure(gateway.app.settings.__class__(routes=(changed,), listen=()))
        assert gateway.app.models == {"new", "theirs"}
        assert read_chat((await gateway.ask(f"/openai{CHAT}")).body).text == GOOD.text
        old.release("a while")
        await client.until(b"[DONE]")
        with trio.fail_after(5):
            await client.until(b"0\r\n\r\n")
