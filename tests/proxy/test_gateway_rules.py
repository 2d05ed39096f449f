"""What a gateway does with one answer after another, as its clients and its upstreams see it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from sseflow.http import Origin
from sseflow.proxy._auth import Tokens, make_token
from sseflow.proxy._settings import Route, Upstream
from sseflow.resilience import BreakerOptions, RetryPolicy, Secret
from sseflow.testing import (
    SCRIPTS,
    Answer,
    Asked,
    Behaviour,
    ErrorEvent,
    FakeProvider,
    Played,
    ProviderKind,
    Reset,
    Script,
    Status,
    Truncated,
    open_upstream,
)
from sseflow.testing._script import Hold, Step

from .gateway import CHAT, MESSAGES, RESPONSES, Gateway, read_chat, route_to, running, upstream_for
from .peers import Answer as Received

GOOD = Answer(text="from the second one")

#: Who is asked for what, and what is read there at the end of a good stream.
DIALECTS: list[tuple[ProviderKind, str]] = [("openai", CHAT), ("openai", RESPONSES), ("anthropic", MESSAGES)]
VERSION = {"anthropic-version": "2023-06-01"}


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


@attrs.frozen
class Late:
    """What is answered only when the test says so."""

    behaviour: Behaviour

    def steps(self, asked: Asked, /) -> Iterator[Step]:
        yield Hold("late")
        yield from self.behaviour.steps(asked)


async def post(gateway: Gateway, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> Received:
    """Ask with these very bytes."""
    peer = await gateway.connect()
    fields = {"Host": "a", "Content-Length": str(len(body)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    await peer.send(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
    return await peer.answer(b"POST")


async def get(gateway: Gateway, path: str) -> Received:
    """Ask without a body."""
    peer = await gateway.connect()
    await peer.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    return await peer.answer()


def plain_upstream(url: str) -> Upstream:
    """How a gateway reaches a server that plays a script, with a key."""
    key = Secret("sk-a")
    return Upstream(name="p", origin=Origin.parse(f"{url}/v1"), keys=(key,), pass_credentials=False, tell_who=False)


def guarded(provider: FakeProvider, *, half_open: int = 1) -> Route:
    """A route whose upstream is left alone for 30 s once it has failed."""
    options = BreakerOptions(failures=1, open_for=30, half_open=half_open)
    return route_to(upstream_for(provider, name="p", type="openai"), breaker=options)


# Keys.


@pytest.mark.parametrize("failure", [Status(500), Status(503), Reset(), ErrorEvent(status=529)], ids=str)
async def test_what_is_wrong_with_a_server_is_not_held_against_a_key(second: FakeProvider, failure: Behaviour) -> None:
    """No other key is tried, but another upstream is; the key is as good as before."""
    async with FakeProvider.serve("openai", keys=["sk-a", "sk-b"]) as first:
        first.next(failure)
        one, other = upstream_for(first, name="a", keys=("sk-a", "sk-b")), upstream_for(second, name="b")
        async with running(route_to(one, other)) as gateway:
            texts = [read_chat((await gateway.ask(f"/openai{CHAT}")).body).text for _ in range(2)]
            assert not gateway.log.unread("key out")
    assert texts == [GOOD.text, Answer().text]
    assert [first.key_of(request) for request in first.requests] == ["sk-a", "sk-a"]


async def test_each_attempt_gets_the_body_byte_for_byte(second: FakeProvider) -> None:
    """As the client wrote it, spaces and all, however many keys and upstreams are tried."""
    body = b'{ "model" :"m",\t"stream":true , "messages":[{"role":"user","content":"\\u00e9\xc3\xa9 \\/"}]}\r\n'
    async with FakeProvider.serve("openai", keys=["sk-a", "sk-b"]) as first:
        first.limit("sk-a", retry_after=30)
        first.next(Status(503))
        one, other = upstream_for(first, name="a", keys=("sk-a", "sk-b")), upstream_for(second, name="b")
        async with running(route_to(one, other)) as gateway:
            answer = await post(gateway, f"/openai{CHAT}", body)
    assert read_chat(answer.body).text == GOOD.text
    requests = (*first.requests, *second.requests)
    assert [request.body for request in requests] == [body] * 3
    assert [request.get("content-length") for request in requests] == [str(len(body))] * 3


WAITS = {
    "milliseconds": ({"retry-after-ms": "1500"}, 1.5, b"2"),
    "seconds": ({"Retry-After": "7"}, 7, b"7"),
    "less than one": ({"Retry-After": "0.25"}, 0.25, b"1"),
    "milliseconds before seconds": ({"Retry-After": "9", "retry-after-ms": "2500"}, 2.5, b"3"),
    "a date in the far future": ({"Retry-After": "Tue, 31 Dec 2199 23:59:59 GMT"}, 86400, b"86400"),
    "a date that has passed": ({"Retry-After": "Sun, 06 Nov 1994 08:49:37 GMT"}, 60, b"60"),
    "nothing that can be read": ({"Retry-After": "soon"}, 60, b"60"),
    "none": ({}, 60, b"60"),
}


@pytest.mark.parametrize(("fields", "cool_down", "told"), WAITS.values(), ids=WAITS)
async def test_a_key_is_out_for_as_long_as_its_upstream_says(
    fields: Mapping[str, str], cool_down: float, told: bytes, jumping_clock: trio.testing.MockClock
) -> None:
    """In whatever form it is said; whom no key is left for is told what remains, in whole seconds."""
    async with (
        FakeProvider.serve("openai", default=Status(429, fields=fields)) as provider,
        running(route_to(upstream_for(provider, name="p", keys=("sk-a", "sk-b")))) as gateway,
    ):
        answer = await gateway.ask(f"/openai{CHAT}")
        outs = [await gateway.line("key out") for _ in range(2)]
        again = await gateway.ask(f"/openai{CHAT}")
    assert [out["cooldown"] for out in outs] == [cool_down] * 2
    assert [(one.status, one.get(b"retry-after")) for one in (answer, again)] == [(429, told)] * 2
    assert len(provider.requests) == 2


async def test_a_key_that_is_out_comes_back_by_itself(jumping_clock: trio.testing.MockClock) -> None:
    """When its time is over it is the first one again."""
    async with FakeProvider.serve("openai", keys=["sk-a", "sk-b"]) as provider:
        provider.limit("sk-a", retry_after=30)
        async with running(route_to(upstream_for(provider, name="p", keys=("sk-a", "sk-b")))) as gateway:
            await gateway.ask(f"/openai{CHAT}")
            provider.allow("sk-a")
            for _ in range(2):
                await gateway.ask(f"/openai{CHAT}")
                await trio.sleep(30)
    assert [provider.key_of(request) for request in provider.requests] == ["sk-a", "sk-b", "sk-b", "sk-a"]


@pytest.mark.parametrize("said", ["true", "false"])
async def test_whether_to_try_again_is_passed_on_as_the_upstream_says_it(first: FakeProvider, said: str) -> None:
    """With the rest of its answer, which is its own."""
    fields = {"x-should-retry": said, "Retry-After": "2", "retry-after-ms": "1200"}
    first.default = Status(429, message="slowly", fields=fields)
    async with running(route_to(upstream_for(first, name="p", keys=("sk-a",)))) as gateway:
        answer = await gateway.ask(f"/openai{CHAT}")
    assert answer.status == 429
    assert {name: answer.get(name.encode().lower()) for name in fields} == {
        name: value.encode() for name, value in fields.items()
    }
    assert json.loads(answer.body)["error"]["message"] == "slowly"


async def test_who_brings_a_key_meets_the_limits_of_that_key(first: FakeProvider) -> None:
    """Ours are neither used nor marked, and its requests go to no other key."""
    first.limit("sk-own", retry_after=30)
    upstream = upstream_for(first, name="p", keys=("sk-a", "sk-b"), pass_credentials=True)
    async with running(route_to(upstream)) as gateway:
        answer = await gateway.ask(f"/openai{CHAT}", headers={"Authorization": "Bearer sk-own"})
        assert (answer.status, answer.get(b"retry-after")) == (429, b"30")
        assert not gateway.log.unread("key out")
        await gateway.ask(f"/openai{CHAT}")
    assert [dict(request.credentials) for request in first.requests] == [
        {"authorization": "Bearer sk-own"},
        {"authorization": "Bearer sk-a"},
    ]


async def test_who_brings_two_keys_is_taken_at_the_better_one(first: FakeProvider) -> None:
    """One credential reaches an upstream that we have keys for, never two."""
    upstream = upstream_for(first, name="p", keys=("sk-a",), pass_credentials=True)
    async with running(route_to(upstream)) as gateway:
        both = {"Authorization": "Bearer sk-other", "X-Api-Key": "sk-best"}
        await gateway.ask(f"/openai{CHAT}", headers=both)
    [request] = first.requests
    assert dict(request.credentials) == {"x-api-key": "sk-best"}


# What can no longer be a status.


@pytest.mark.parametrize(("kind", "path"), DIALECTS)
async def test_behind_our_own_head_it_is_an_event_that_says_that_no_key_is_left(
    kind: ProviderKind, path: str, jumping_clock: trio.testing.MockClock
) -> None:
    """In the dialect of the stream, and then the abort: never a body of JSON, and no end."""
    async with (
        FakeProvider.serve(kind, default=Late(Status(429, retry_after=30))) as provider,
        running(route_to(upstream_for(provider, name="p", keys=("sk-a", "sk-b")), path="/x")) as gateway,
    ):
        client = await gateway.send(f"/x{path}", headers=VERSION)
        head = await client.until(b"\r\n\r\n")
        provider.release("late")
        rest = await client.rest()
        line = await gateway.line()
    assert b" 200 OK\r\n" in head
    assert b"text/event-stream" in head
    data = [json.loads(part.removeprefix(b"data: ")) for part in rest.splitlines() if part.startswith(b"data: ")]
    [said] = [one for one in data if one.get("type") != "ping"]
    error = said.get("error") or said
    assert error["message"].startswith("all configured keys are rate-limited")
    assert "rate_limit" in json.dumps({"type": error.get("type"), "code": error.get("code")})
    assert (b"event: error\n" in rest) == (path != CHAT)
    assert b"[DONE]" not in rest
    assert not rest.endswith(b"0\r\n\r\n")
    assert (line["verdict"], line["committed"], line["status"]) == ("upstream_error", True, 200)


@pytest.mark.parametrize(("kind", "path"), DIALECTS)
async def test_behind_our_own_head_a_refusal_is_an_event_with_the_upstreams_words(
    kind: ProviderKind, path: str, jumping_clock: trio.testing.MockClock
) -> None:
    """Its message, its type and its code; and the abort."""
    late = Late(Status(400, message="the context is too long", code="context_length_exceeded"))
    async with (
        FakeProvider.serve(kind, default=late) as provider,
        running(route_to(upstream_for(provider, name="p", keys=("sk-a", "sk-b")), path="/x")) as gateway,
    ):
        client = await gateway.send(f"/x{path}", headers=VERSION)
        await client.until(b"\r\n\r\n")
        provider.release("late")
        rest = await client.rest()
    assert b"the context is too long" in rest
    assert b"invalid_request_error" in rest or b"context_length_exceeded" in rest
    assert not rest.endswith(b"0\r\n\r\n")


async def test_behind_our_own_head_another_upstream_can_still_answer(
    second: FakeProvider, jumping_clock: trio.testing.MockClock
) -> None:
    """Nothing of the first one was delivered; the client sees one stream, and its one end."""
    async with (
        FakeProvider.serve("openai", default=Late(Status(503))) as first,
        running(route_to(upstream_for(first, name="a"), upstream_for(second, name="b"))) as gateway,
    ):
        client = await gateway.send(f"/openai{CHAT}")
        await client.until(b"\r\n\r\n")
        first.release("late")
        rest = await client.until(b"0\r\n\r\n")
    assert rest.count(b"[DONE]") == 1
    assert b"error" not in rest


async def test_a_chain_that_is_lost_is_the_clients_to_mend(first: FakeProvider, second: FakeProvider) -> None:
    """Without a history: the provider's own words, once; neither the same request again nor another upstream helps."""
    route = route_to(
        upstream_for(first, name="a", keys=("sk-a", "sk-b")),
        upstream_for(second, name="b"),
        retry=RetryPolicy(attempts=3, base=0.01),
    )
    body = {"model": "m", "stream": True, "input": "?", "previous_response_id": "resp_lost"}
    async with running(route) as gateway:
        answer = await gateway.ask(f"/openai{RESPONSES}", body)
        assert not gateway.log.unread("retry")
    assert answer.status == 400
    assert json.loads(answer.body)["error"]["code"] == "previous_response_not_found"
    assert [len(provider.requests) for provider in (first, second)] == [1, 0]


# Answers that are none.

NO_STREAMS = {
    "an error with 200": SCRIPTS["json-error-with-200"],
    "a page with 200": SCRIPTS["html-with-200"],
    "broken JSON that is cut": 'head\ndata data: {"choices": [\nend\n',
    "no event stream at all": "head\ndata <html>Bad gateway</html>\nend\n",
    "an end, and nothing else": SCRIPTS["only-done"],
}


@pytest.mark.parametrize("script", NO_STREAMS.values(), ids=NO_STREAMS)
async def test_what_is_no_stream_is_none(first: FakeProvider, second: FakeProvider, script: str) -> None:
    """Another upstream is asked; without one it is a status, in the dialect's form."""
    first.default = Played(Script.parse(script))
    one, other = upstream_for(first, name="a"), upstream_for(second, name="b")
    async with running(route_to(one, other), route_to(one, path="/alone")) as gateway:
        answer = await gateway.ask(f"/openai{CHAT}")
        alone = await gateway.ask(f"/alone{CHAT}")
    assert (answer.status, answer.complete, read_chat(answer.body).text) == (200, True, GOOD.text)
    assert alone.status in (502, 503)
    error = json.loads(alone.body)["error"]
    assert set(error) >= {"message", "type", "code"}
    assert b"<html>" not in alone.body


async def test_an_event_that_is_broken_is_the_clients_to_complain_of(first: FakeProvider, second: FakeProvider) -> None:
    """Behind content it is passed on as it came; alone it is no content, and a stream without end."""
    broken = b'data: {"choices": [\n\n'
    first.next(Played(Script.parse('head\ndata data: {"choices": [\\n\\n\nend\n')))
    first.next(Played(Script.parse('head\ntoken Hello\ndata data: {"choices": [\\n\\n\nstop\ndone\nend\n')))
    async with running(route_to(upstream_for(first, name="a"), upstream_for(second, name="b"))) as gateway:
        alone = await gateway.ask(f"/openai{CHAT}")
        behind = await gateway.ask(f"/openai{CHAT}")
    assert read_chat(alone.body).text == GOOD.text
    assert broken in behind.body
    assert (behind.complete, behind.body.endswith(b"data: [DONE]\n\n")) == (True, True)


# The breaker.


async def test_an_upstream_that_is_well_again_is_called_again(
    first: FakeProvider, jumping_clock: trio.testing.MockClock
) -> None:
    """When its time is over some calls are let through; where they go well all are."""
    first.next(Status(500))
    async with running(guarded(first, half_open=2)) as gateway:
        statuses = [(await gateway.ask(f"/openai{CHAT}")).status for _ in range(2)]
        await trio.sleep(20)
        answer = await gateway.ask(f"/openai{CHAT}")
        assert (answer.status, answer.get(b"retry-after")) == (503, b"10")
        await trio.sleep(11)
        statuses += [(await gateway.ask(f"/openai{CHAT}")).status for _ in range(5)]
    assert statuses == [500, 503, 200, 200, 200, 200, 200]


async def test_an_upstream_that_is_still_not_well_is_left_alone_again(
    first: FakeProvider, jumping_clock: trio.testing.MockClock
) -> None:
    """One failure, also one behind the first content, is enough."""
    first.next(Status(500), Truncated(after=1))
    async with running(guarded(first, half_open=3)) as gateway:
        await gateway.ask(f"/openai{CHAT}")
        await trio.sleep(31)
        cut = await gateway.ask(f"/openai{CHAT}")
        refused = await gateway.ask(f"/openai{CHAT}")
    assert (cut.status, cut.complete) == (200, False)
    assert (refused.status, refused.get(b"retry-after")) == (503, b"30")
    assert json.loads(refused.body)["error"]["message"] == "circuit breaker is open"
    assert len(first.requests) == 2


async def test_while_a_call_is_to_decide_no_other_is_made(
    first: FakeProvider, jumping_clock: trio.testing.MockClock
) -> None:
    """A stream decides when it has ended; one whose client leaves decides nothing, and gives its place back."""
    first.next(Status(500), Answer(hold="for ever", hold_after=1), Answer(hold="a while", hold_after=1))
    async with running(guarded(first)) as gateway:
        await gateway.ask(f"/openai{CHAT}")
        await trio.sleep(31)
        leaving = await gateway.send(f"/openai{CHAT}")
        await leaving.until(b"content")
        assert (await gateway.ask(f"/openai{CHAT}")).status == 503
        leaving.close()
        await first.requests[1].delivery.end()
        while gateway.app.exchanges:
            await trio.lowlevel.checkpoint()
        staying = await gateway.send(f"/openai{CHAT}")
        await staying.until(b"content")
        assert (await gateway.ask(f"/openai{CHAT}")).status == 503
        first.release("a while")
        await staying.until(b"[DONE]")
        while gateway.app.exchanges:
            await trio.lowlevel.checkpoint()
        assert [(await gateway.ask(f"/openai{CHAT}")).status for _ in range(3)] == [200, 200, 200]


async def test_models_and_endpoints_are_judged_apart(first: FakeProvider) -> None:
    """One that does not work is no reason to do without the others."""
    first.next(Status(500))
    async with running(guarded(first)) as gateway:
        statuses = []
        for path, model in ((CHAT, "m"), (CHAT, "m"), (CHAT, "other"), (RESPONSES, "m")):
            body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "?"}], "input": "?"}
            statuses.append((await gateway.ask(f"/openai{path}", body)).status)
    assert statuses == [500, 503, 200, 200]


async def test_a_limit_is_the_affair_of_its_key(first: FakeProvider) -> None:
    """429 opens no breaker."""
    first.next(Status(429), Status(429))
    async with running(guarded(first)) as gateway:
        statuses = [(await gateway.ask(f"/openai{CHAT}")).status for _ in range(3)]
    assert statuses == [429, 429, 200]


# Which upstream, and which model.


async def test_by_weight_each_upstream_is_the_first_one_at_times(first: FakeProvider, second: FakeProvider) -> None:
    """And the other one stands in for it, whichever that is."""
    upstreams = upstream_for(first, name="a"), upstream_for(second, name="b")
    async with running(route_to(*upstreams, weights=(2, 1))) as gateway:
        seen = set()
        for _ in range(200):
            seen.add(read_chat((await gateway.ask(f"/openai{CHAT}")).body).text)
            if len(seen) == 2:
                break
        assert seen == {"from the first one", GOOD.text}
        first.default = Status(503)
        for _ in range(5):
            assert read_chat((await gateway.ask(f"/openai{CHAT}")).body).text == GOOD.text


async def test_each_provider_is_asked_for_its_own_name_of_a_model(first: FakeProvider, second: FakeProvider) -> None:
    """Nothing but the name is changed in what the client wrote, and each time in what the client wrote."""
    first.next(Status(503))
    text = b'{"stream": true , "model" : "%s","messages":[ {"role":"user","content":"a \\"model\\": \\u00e9"} ]}'
    upstreams = (
        upstream_for(first, name="a", type="openai", models={"m": "m-1"}),
        upstream_for(second, name="b", type="openrouter", models={"m": "vendor/m", "m-1": "never"}),
    )
    async with running(route_to(*upstreams)) as gateway:
        await post(gateway, f"/openai{CHAT}", text % b"m")
        await post(gateway, f"/openai{CHAT}", text % b"another/one")
    [failed, other], [renamed] = first.requests, second.requests
    assert (failed.body, renamed.body, other.body) == (text % b"m-1", text % b"vendor/m", text % b"another/one")
    assert renamed.get("content-length") == str(len(renamed.body))


async def test_a_model_whose_name_would_be_cut_is_refused(first: FakeProvider) -> None:
    """400, and it is the type of the provider that is wrong; nobody is asked, and another type keeps the name."""
    body = {"model": "vendor/m", "stream": True, "messages": [{"role": "user", "content": "?"}]}
    wrong = route_to(upstream_for(first, name="openrouter", type="openai"), path="/wrong")
    right = route_to(upstream_for(first, name="right", type="openrouter"), path="/right")
    async with running(wrong, right) as gateway:
        answer = await gateway.ask(f"/wrong{CHAT}", body)
        assert not first.requests
        assert (await gateway.ask(f"/right{CHAT}", body)).status == 200
    error = json.loads(answer.body)["error"]
    assert (answer.status, error["type"]) == (400, "invalid_request_error")
    assert 'type = "openai"' in error["message"]
    assert 'type = "openrouter"' in error["message"]
    assert "vendor/m" not in error["message"]
    [request] = first.requests
    assert request.json() == body


# Who may ask, and what is passed on.


@pytest.mark.parametrize(("kind", "path"), DIALECTS)
async def test_who_may_not_come_in_is_told_so_in_the_form_of_the_dialect(
    kind: ProviderKind, path: str, tmp_path: Path
) -> None:
    """401 with what is asked for, 403 without; a path that nobody serves is 404. No upstream is asked."""
    token, stanza = make_token("somebody")
    (tmp_path / "tokens.toml").write_text(f'{stanza}routes = ["/other"]\n')
    settings = {"tokens": Tokens.load(tmp_path / "tokens.toml")}
    async with FakeProvider.serve(kind) as provider:
        upstream = upstream_for(provider, name="p", keys=("sk-a",))
        async with running(
            route_to(upstream, path="/x"), route_to(upstream, path="/other"), settings=settings
        ) as gateway:
            unknown = await gateway.ask(f"/x{path}", headers={"Authorization": "Bearer sk-mine", **VERSION})
            nobody = await gateway.ask(f"/x{path}", headers=VERSION)
            elsewhere = await gateway.ask(f"/x{path}", headers={"X-Api-Key": token, **VERSION})
            nowhere = await gateway.ask(f"/xy{path}", headers={"X-Api-Key": token, **VERSION})
            assert not provider.requests
            good = await gateway.ask(f"/other{path}", headers={"X-Api-Key": token, **VERSION})
    assert good.status == 200
    [request] = provider.requests
    assert token not in repr(request.headers)
    answers = (unknown, nobody, elsewhere, nowhere)
    assert [answer.status for answer in answers] == [401, 401, 403, 404]
    assert [answer.get(b"www-authenticate") for answer in answers] == [b"Bearer", b"Bearer", None, None]
    bodies = [json.loads(answer.body) for answer in answers]
    types = ["authentication_error", "authentication_error", "permission_error", "invalid_request_error"]
    assert [body["error"]["type"] for body in bodies] == types
    assert {body.get("type") for body in bodies} == {None if path == CHAT else "error"}


async def test_a_new_token_of_the_operators_holds_at_once(first: FakeProvider) -> None:
    """One that was changed, since somebody else has it, is good for nothing any more."""
    settings = {"admin_token": Secret("old")}
    async with running(route_to(upstream_for(first, name="p")), settings=settings) as gateway:
        assert (await gateway.operate("GET", "/-/streams", "Authorization: Bearer old\r\n")).status == 200
        gateway.app.configure(attrs.evolve(gateway.app.settings, admin_token=Secret("new")))
        statuses = [
            (await gateway.operate("GET", "/-/streams", f"Authorization: Bearer {token}\r\n")).status
            for token in ("old", "new")
        ]
    assert statuses == [401, 200]


async def test_an_interrupt_is_heard_while_all_is_tried_again(first: FakeProvider) -> None:
    """A request that waits for its next attempt ends at once, and none is made."""
    first.default = Status(503, retry_after=500)
    route = route_to(upstream_for(first, name="p"), retry=RetryPolicy(attempts=2, base=1, cap=1000, deadline=1000))
    async with running(route) as gateway:
        client = await gateway.send(f"/openai{CHAT}", headers={"X-Request-Id": "mine"})
        await gateway.line("retry")
        assert (await gateway.operate("DELETE", "/-/streams/mine")).status == 200
        answer = await client.answer(b"POST")
        line = await gateway.line()
    assert (answer.status, line["verdict"]) == (503, "interrupted")
    assert len(first.requests) == 1


async def test_cookies_are_between_the_gateway_and_each_side(first: FakeProvider) -> None:
    """A client's do not reach an upstream that gets a key of ours, and the upstream's are not for the client."""
    first.default = Answer(fields={"Set-Cookie": "__cf_bm=1", "openai-organization": "org-ours", "x-other": "1"})
    async with running(route_to(upstream_for(first, name="p", keys=("sk-a",)))) as gateway:
        answer = await gateway.ask(f"/openai{CHAT}", headers={"Cookie": "session=1", "OpenAI-Project": "theirs"})
    [request] = first.requests
    assert dict(request.credentials) == {"authorization": "Bearer sk-a"}
    assert request.get("openai-project") is None
    assert (answer.get(b"set-cookie"), answer.get(b"openai-organization"), answer.get(b"x-other")) == (
        None,
        None,
        b"1",
    )


async def test_cookies_are_those_of_the_upstream_that_is_delivered(first: FakeProvider, second: FakeProvider) -> None:
    """Not of one that was asked beside it, though that one was asked later."""
    first.default = Answer(fields={"Set-Cookie": "about=us"}, hold="a while", hold_after=0)
    second.default = Answer(hold="for ever", hold_after=0)
    route = route_to(upstream_for(first, name="a", keys=("sk-a",)), upstream_for(second, name="b"), hedge_after=0.05)
    async with running(route) as gateway:
        client = await gateway.send(f"/openai{CHAT}", headers={"Cookie": "session=1"})
        await second.arrival()
        first.release("a while")
        answer = await client.answer(b"POST")
    assert read_chat(answer.body).text == Answer().text
    assert answer.get(b"set-cookie") is None


async def test_fields_that_are_nobodys_business_are_kept_with_all_values(first: FakeProvider) -> None:
    """Feature flags, and whatever comes next."""
    async with running(route_to(upstream_for(first, name="p", keys=("sk-a",)))) as gateway:
        peer = await gateway.connect()
        await peer.send(
            f"POST /openai{CHAT} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nAnthropic-Beta: one\r\n"
            "X-Stainless-Lang: python\r\nAnthropic-Beta: two\r\nUser-Agent: mine\r\n\r\n{}".encode()
        )
        await peer.answer(b"POST")
    [request] = first.requests
    betas = [value for name, value in request.headers if name == "anthropic-beta"]
    assert (betas, request.get("x-stainless-lang"), request.get("user-agent")) == (["one", "two"], "python", "mine")


async def test_what_an_upstream_may_not_be_connected_to_is_502(first: FakeProvider, second: FakeProvider) -> None:
    """Loopback is none of the public addresses. Another upstream can stand in."""
    forbidden = upstream_for(first, name="a", allow_networks=())
    async with running(
        route_to(forbidden, path="/alone"), route_to(forbidden, upstream_for(second, name="b"))
    ) as gateway:
        answer = await gateway.ask(f"/alone{CHAT}")
        assert read_chat((await gateway.ask(f"/openai{CHAT}")).body).text == GOOD.text
    assert answer.status == 502
    assert b"127.0.0.1" not in answer.body
    assert not first.connections


async def test_a_redirect_is_passed_on_and_not_followed(second: FakeProvider) -> None:
    """No key goes where an upstream sends us."""
    async with (
        open_upstream(SCRIPTS["status-302"].replace("http://elsewhere.example/", second.url)) as upstream,
        running(route_to(plain_upstream(upstream.url))) as gateway,
    ):
        answer = await gateway.ask(f"/openai{CHAT}")
    assert (answer.status, answer.get(b"location")) == (302, second.url.encode())
    assert not second.connections


async def test_other_paths_of_a_provider_pass_through() -> None:
    """With their query, and with a key of ours; what comes back is not touched."""
    body = '{"object":"list", "data":[ ]}\n'
    script = f"head 200 length type=application/json 'X-Ours: 1'\ndata {json.dumps(body)[1:-1]}\nend\n"
    async with (
        open_upstream(script.replace('\\"', '"')) as upstream,
        running(route_to(plain_upstream(upstream.url))) as gateway,
    ):
        answer = await get(gateway, "/openai/v1/models?after=x%20y&key=mine&limit=2")
    [request] = upstream.requests
    assert (request.method, request.target) == ("GET", "/v1/models?after=x%20y&limit=2")
    assert dict(request.credentials) == {"authorization": "Bearer sk-a"}
    assert (answer.status, answer.body, answer.get(b"x-ours")) == (200, body.encode(), b"1")


@pytest.mark.parametrize(
    "path", ["/openai/../x", "/openai/v1/%2e%2E/x", "/openai/v1/..", "/openai/v1/.%2e%2fx", "/openai/..;/x"]
)
async def test_no_path_leads_out_of_its_route(first: FakeProvider, path: str) -> None:
    """Not to other paths of the provider's host, with our key."""
    async with running(route_to(upstream_for(first, name="p"))) as gateway:
        answer = await gateway.ask(path, {})
        within = await gateway.ask("/openai/v1/..x/.../y", {})
    assert (answer.status, within.status) == (400, 404)
    assert [request.path for request in first.requests] == ["/v1/..x/.../y"]
