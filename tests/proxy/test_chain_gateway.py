"""A chain that the provider has lost is told anew from the gateway's history, and the client sees one good stream."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from sseflow.proxy._auth import Tokens, make_token
from sseflow.records import open_history
from sseflow.resilience import RetryLabels
from sseflow.testing import Answer, CutAfter, ErrorEvent, FakeProvider, Status, Truncated

from .gateway import RESPONSES, Gateway, route_to, running, upstream_for

PATH = f"/openai{RESPONSES}"


@asynccontextmanager
async def remembering(provider: FakeProvider, folder: Path, **settings: Any) -> AsyncIterator[Gateway]:
    """A gateway with a history, in front of one provider with one key."""
    async with (
        open_history(folder / "kept" / "history.db") as history,
        running(route_to(upstream_for(provider, name="p")), history=history, settings=settings) as gateway,
    ):
        yield gateway


async def turn(gateway: Gateway, text: str, previous: str | None = None, **options: Any) -> tuple[Any, Any]:
    """One turn: the answer, and the response in its last event. Behind it everything is kept."""
    headers = options.pop("headers", None)
    body = {"model": "m", "stream": True, "input": text, **options}
    if previous is not None:
        body["previous_response_id"] = previous
    answer = await gateway.ask(PATH, body, headers)
    await gateway.line()
    await gateway.kept()
    last = None
    for line in answer.body.decode().splitlines():
        if line.startswith("data: "):
            last = json.loads(line.removeprefix("data: ")).get("response", last)
    return answer, last


async def test_a_chain_that_was_lost_goes_on(tmp_path: Path) -> None:
    """The second request has no id of a response, and everything that was said, in order; and the client is told."""
    async with (
        FakeProvider.serve("openai", default=Answer(text="an answer")) as provider,
        remembering(provider, tmp_path) as gateway,
    ):
        _, first = await turn(gateway, "one")
        _, second = await turn(gateway, "two", first["id"])
        provider.forget()
        answer, third = await turn(gateway, "three", second["id"])
        recovered = await gateway.line("chain recovered")
        _, fourth = await turn(gateway, "four", third["id"])
    assert (answer.status, answer.complete, answer.get(b"sseflow-chain")) == (200, True, b"recovered")
    assert third["status"] == fourth["status"] == "completed"
    bodies: list[Any] = [request.json() for request in provider.requests]
    assert [body.get("previous_response_id") for body in bodies] == [
        None,
        first["id"],
        second["id"],
        None,
        third["id"],
    ]
    told = bodies[3]["input"]
    assert [item["role"] for item in told] == ["user", "assistant", "user", "assistant", "user"]
    texts = [item["content"] if isinstance(item["content"], str) else item["content"][0]["text"] for item in told]
    assert [text or "three" for text in texts] == ["one", "an answer", "two", "an answer", "three"]
    assert recovered["bytes"] == len(provider.requests[3].body)
    assert gateway.app.retries.counts == {RetryLabels("p", "other", "generic", "true"): 1}


async def test_a_chain_that_was_mended_can_be_mended_again(tmp_path: Path) -> None:
    """What is kept of a mended turn is all of it."""
    async with FakeProvider.serve("openai") as provider, remembering(provider, tmp_path) as gateway:
        _, first = await turn(gateway, "one")
        provider.forget()
        _, second = await turn(gateway, "two", first["id"])
        provider.forget()
        answer, _ = await turn(gateway, "three", second["id"])
    assert answer.get(b"sseflow-chain") == b"recovered"
    last: Any = provider.requests[-1].json()
    assert len(last["input"]) == 5


async def test_a_chain_is_mended_once(tmp_path: Path) -> None:
    """A provider that still does not find it, though nothing is looked for any more, is not asked for ever."""
    lost = Status(400, message="lost again", code="previous_response_not_found")
    async with FakeProvider.serve("openai") as provider, remembering(provider, tmp_path) as gateway:
        _, first = await turn(gateway, "one")
        provider.next(lost, lost)
        answer, _ = await turn(gateway, "two", first["id"])
    assert (answer.status, json.loads(answer.body)["error"]["message"]) == (400, "lost again")
    assert answer.get(b"sseflow-chain") is None
    assert len(provider.requests) == 3


async def test_without_history_the_providers_own_words_are_passed_on() -> None:
    """And nothing is tried again."""
    async with FakeProvider.serve("openai") as provider, running(route_to(upstream_for(provider, name="p"))) as gateway:
        answer, _ = await turn(gateway, "two", "resp_lost")
    error = json.loads(answer.body)["error"]
    assert (answer.status, error["code"]) == (400, "previous_response_not_found")
    assert answer.get(b"sseflow-chain") is None
    assert len(provider.requests) == 1


async def test_what_is_not_in_the_history_cannot_be_mended(tmp_path: Path) -> None:
    """The error is passed on as it came: half a history would be an answer to something else."""
    async with FakeProvider.serve("openai") as provider, remembering(provider, tmp_path) as gateway:
        answer, _ = await turn(gateway, "two", "resp_lost")
    assert json.loads(answer.body)["error"]["code"] == "previous_response_not_found"
    assert len(provider.requests) == 1


@pytest.mark.parametrize(
    "failure",
    [Truncated(after=1), ErrorEvent(after=1), ErrorEvent(after=1, failed=True), CutAfter(2600)],
    ids=["truncated", "error", "failed", "cut"],
)
async def test_a_stream_that_was_cut_never_becomes_a_link(tmp_path: Path, failure: Any) -> None:
    """Only what is complete is kept."""
    async with (
        FakeProvider.serve("openai", default=Answer(text="a b c d e f")) as provider,
        remembering(provider, tmp_path) as gateway,
    ):
        provider.next(failure)
        answer = await gateway.ask(PATH)
        await gateway.line()
        await gateway.kept()
        [id] = {
            event["response"]["id"]
            for event in map(json.loads, _data(answer.body))
            if event.get("type") == "response.created"
        }
        provider.forget()
        later, _ = await turn(gateway, "two", id)
    assert later.status == 400
    assert len(provider.requests) == 2


async def test_a_chain_belongs_to_its_owner(tmp_path: Path) -> None:
    """Another client's id mends nothing, and tells nothing."""
    tokens = {name: make_token(name) for name in ("ann", "bob")}
    file = tmp_path / "tokens.toml"
    file.write_text("".join(stanza for _, stanza in tokens.values()))
    as_ann, as_bob = ({"Authorization": f"Bearer {tokens[name][0]}"} for name in ("ann", "bob"))
    async with FakeProvider.serve("openai", keys=["sk-a"]) as provider:
        upstream = upstream_for(provider, name="p", keys=("sk-a",))
        async with (
            open_history(tmp_path / "kept" / "history.db") as history,
            running(route_to(upstream), history=history, settings={"tokens": Tokens.load(file)}) as gateway,
        ):
            _, first = await turn(gateway, "one", headers=as_ann)
            provider.forget()
            other, _ = await turn(gateway, "two", first["id"], headers=as_bob)
            own, _ = await turn(gateway, "two", first["id"], headers=as_ann)
            refused = await gateway.ask(PATH)
    assert (other.status, own.status) == (400, 200)
    assert (refused.status, refused.get(b"www-authenticate")) == (401, b"Bearer")


async def test_answers_that_are_no_streams_are_links_too(tmp_path: Path) -> None:
    """A chain may be of both kinds."""
    async with FakeProvider.serve("openai") as provider, remembering(provider, tmp_path) as gateway:
        answer, _ = await turn(gateway, "one", stream=False)
        first = json.loads(answer.body)
        provider.forget()
        mended, _ = await turn(gateway, "two", first["id"], stream=False)
    assert (mended.status, mended.get(b"sseflow-chain")) == (200, b"recovered")
    assert json.loads(mended.body)["status"] == "completed"


def _data(body: bytes) -> list[str]:
    return [line.removeprefix("data: ") for line in body.decode().splitlines() if line.startswith("data: {")]
