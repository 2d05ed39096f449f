"""The gateway as people run it: a process with a configuration file, three providers, and the real SDKs in front."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import trio

pytest.importorskip("openai", reason="the openai SDK is not installed; `make interop` installs it")
pytest.importorskip("anthropic", reason="the anthropic SDK is not installed; `make interop` installs it")

import anthropic
import openai
from anthropic.types import MessageParam
from openai.types.chat import ChatCompletionUserMessageParam

from sseflow.proxy._auth import make_token
from sseflow.testing import Answer, Asked, ErrorEvent, FakeProvider, Status
from sseflow.testing._script import Close, Hold, Step

from ..proxy.peers import patience
from ..proxy.test_process import Child, program

pytestmark = [
    pytest.mark.interop,
    # The async generators of a stream that was not read to its end are closed by nobody; see test_openai.py.
    pytest.mark.filterwarnings(r"ignore:Async generator '(openai|anthropic|httpx2|httpcore2)\.:ResourceWarning"),
]

CONFIG = """
[[listeners]]
address = "127.0.0.1:0"

[providers.openai]
type = "openai"
base_url = "{openai}/v1"
keys = ["env:OPENAI_KEY", "file:openai.key"]

[providers.anthropic]
type = "anthropic"
base_url = "{anthropic}"
keys = ["env:ANTHROPIC_KEY", "file:anthropic.key"]

[providers.openrouter]
type = "openrouter"
base_url = "{openrouter}/api/v1"
keys = ["env:OPENROUTER_KEY", "file:openrouter.key"]

[providers.openrouter.models]
m = "vendor/m"

[[routes]]
path = "/openai"
upstreams = ["openai", "openrouter"]

[[routes]]
path = "/anthropic"
upstreams = ["anthropic"]

[[routes]]
path = "/openrouter"
upstreams = ["openrouter"]

[retry]
attempts = 2
base = "10ms"
cap = "1s"

[breaker]
failures = 20

[history]
path = "kept/history.db"

[auth]
tokens_file = "tokens.toml"

[admin]
address = "unix:{admin}"
"""

TEXT = "The answer is 42."
LONG = Answer(text=TEXT, hold="a while", hold_after=2)
HELD = "The answer"


class Dies:
    """The same, but its connection is reset when it would go on."""

    def steps(self, asked: Asked, /) -> Iterator[Step]:
        for step in LONG.steps(asked):
            yield step
            if isinstance(step, Hold):
                yield Close("reset")


QUESTION: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "What is the answer?"}]
MESSAGES: list[MessageParam] = [{"role": "user", "content": "What is the answer?"}]

#: What reads a text, and is told whenever there is more of it.
Reader: TypeAlias = Callable[[Callable[[str], Awaitable[object]]], Awaitable[str]]


async def nothing(text: str) -> None:
    """What is done with the beginning of a text by whoever wants the whole."""


class Gateway:
    """The program, its providers, and how to ask it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.providers: dict[str, FakeProvider] = {}
        self.token, stanza = make_token("everybody")
        self.narrow, narrow = make_token("one-route")
        tokens = f'{stanza}\n{narrow}routes = ["/openai"]\n'
        (folder / "tokens.toml").write_text(tokens)
        (folder / "kept").mkdir(mode=0o700)
        self.child: Child
        self._told_to_end = False

    @property
    def config(self) -> Path:
        """Where the file is."""
        return self.folder / "sseflow.toml"

    def write(self, text: str = CONFIG, **urls: str) -> None:
        """Write the file, as an editor does: another one takes its place."""
        whole = text.format(**{**{name: one.url for name, one in self.providers.items()}, **urls}, admin=self.admin)
        new = self.folder / "sseflow.toml.new"
        new.write_text(whole)
        new.replace(self.config)

    @property
    def admin(self) -> str:
        """Where operators connect to."""
        return str(self.folder / "admin.sock")

    def openai(self, *, token: str | None = None, route: str = "/openai") -> openai.AsyncOpenAI:
        """OpenAI's client. Without retries, which would hide what this is about."""
        url = f"http://127.0.0.1:{self.child.port}{route}/v1"
        return openai.AsyncOpenAI(api_key=token or self.token, base_url=url, max_retries=0)

    def anthropic(self, *, token: str | None = None) -> anthropic.AsyncAnthropic:
        """Anthropic's, likewise."""
        url = f"http://127.0.0.1:{self.child.port}/anthropic"
        return anthropic.AsyncAnthropic(api_key=token or self.token, base_url=url, max_retries=0)

    async def chat(self, seen: Callable[[str], Awaitable[object]] = nothing, *, route: str = "/openai") -> str:
        """The text of a stream of chat completions."""
        text = ""
        async with self.openai(route=route) as api:
            stream = await api.chat.completions.create(model="m", messages=QUESTION, stream=True)
            async for event in stream:
                for choice in event.choices:
                    text += choice.delta.content or ""
                await seen(text)
        return text

    async def responses(self, seen: Callable[[str], Awaitable[object]] = nothing) -> str:
        """The text of a stream of responses."""
        text = ""
        async with self.openai() as api:
            async for event in await api.responses.create(model="m", input="?", stream=True):
                if event.type == "response.output_text.delta":
                    text += event.delta
                await seen(text)
        return text

    async def messages(self, seen: Callable[[str], Awaitable[object]] = nothing) -> str:
        """The text of a stream of messages."""
        text = ""
        async with (
            self.anthropic() as api,
            api.messages.stream(model="m", max_tokens=9, messages=MESSAGES) as stream,
        ):
            async for piece in stream.text_stream:
                text += piece
                await seen(text)
        return text

    def reader(self, form: str) -> tuple[FakeProvider, Reader]:
        """How a stream of one of the three forms is read, and who answers it."""
        readers: dict[str, Reader] = {"chat": self.chat, "responses": self.responses, "messages": self.messages}
        return self.providers["anthropic" if form == "messages" else "openai"], readers[form]

    async def operate(self, method: str, path: str) -> tuple[int, Any]:
        """Ask as an operator."""
        peer = await self.child.connect(
            f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(), path=self.admin
        )
        answer = await peer.answer(method.encode())
        peer.close()
        return answer.status, json.loads(answer.body)

    async def kept(self, count: int) -> None:
        """Wait until so many responses are in the history."""
        with patience(), closing(sqlite3.connect(self.folder / "kept" / "history.db")) as history:
            while history.execute("select count(*) from response").fetchone() < (count,):
                await trio.lowlevel.checkpoint()

    def end(self) -> None:
        """Tell it to end, once: a second signal is for what does not."""
        if not self._told_to_end:
            self._told_to_end = True
            self.child.process.send_signal(signal.SIGTERM)

    def keys_used(self, name: str) -> list[str | None]:
        """With which keys a provider was asked."""
        provider = self.providers[name]
        return [provider.key_of(request) for request in provider.requests]


@pytest.fixture
async def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    """A gateway that serves; behind the test it is told to end, and does so with 0."""
    gateway = Gateway(tmp_path)
    async with AsyncExitStack() as stack:
        for name in ("openai", "anthropic", "openrouter"):
            keys = (f"sk-{name}-1", f"sk-{name}-2")
            monkeypatch.setenv(f"{name.upper()}_KEY", keys[0])
            key_file = tmp_path / f"{name}.key"
            key_file.write_text(f"{keys[1]}\n")
            key_file.chmod(0o600)
            answer = Answer(text=f"{TEXT} Says {name}.")
            provider = FakeProvider.serve(name, keys=keys, default=answer)
            gateway.providers[name] = await stack.enter_async_context(provider)
        gateway.write()
        gateway.child = await stack.enter_async_context(program("--config", str(gateway.config), listen=()))
        gateway.child.port = int((await gateway.child.line("listening"))["address"].rpartition(":")[2])
        yield gateway
        gateway.end()
        assert await gateway.child.status() == 0
        assert "sk-" not in gateway.child.text.decode()


FORMS = ["chat", "responses", "messages"]


async def test_every_sdk_reads_a_stream(gateway: Gateway) -> None:
    """Each through its own route; the token is for the gateway, and the provider gets its own key."""
    texts = [await gateway.chat(), await gateway.responses(), await gateway.messages()]
    texts.append(await gateway.chat(route="/openrouter"))
    names = ("openai", "openai", "anthropic", "openrouter")
    assert texts == [f"{TEXT} Says {name}." for name in names]
    for name in names:
        assert set(gateway.keys_used(name)) == {f"sk-{name}-1"}
    for provider in gateway.providers.values():
        for request in provider.requests:
            assert gateway.token not in repr(request.headers)


async def test_every_sdk_reads_an_answer_in_one_piece(gateway: Gateway) -> None:
    """The answer is the SDK's own object."""
    async with gateway.openai() as api, gateway.anthropic() as other:
        chat = await api.chat.completions.create(model="m", messages=QUESTION)
        response = await api.responses.create(model="m", input="?")
        message = await other.messages.create(model="m", max_tokens=9, messages=MESSAGES)
    assert chat.choices[0].message.content == response.output_text == f"{TEXT} Says openai."
    [block] = message.content
    assert block.type == "text"
    assert block.text == f"{TEXT} Says anthropic."


async def test_a_model_has_the_name_that_its_provider_knows(gateway: Gateway) -> None:
    """Only where it is another one there."""
    await gateway.chat()
    await gateway.chat(route="/openrouter")
    bodies = [gateway.providers[name].requests[0].json() for name in ("openai", "openrouter")]
    assert [body["model"] for body in bodies if isinstance(body, dict)] == ["m", "vendor/m"]


@pytest.mark.parametrize("form", FORMS)
async def test_a_key_that_is_limited_is_passed_over(gateway: Gateway, form: str) -> None:
    """The request goes on with the second key, and the next one begins there."""
    provider, read = gateway.reader(form)
    provider.limit(f"sk-{provider.kind}-1", retry_after=30)
    assert [await read(nothing), await read(nothing)] == [f"{TEXT} Says {provider.kind}."] * 2
    assert [key and key[-1] for key in gateway.keys_used(provider.kind)] == ["1", "2", "2"]
    out = await gateway.child.line("key out")
    assert (out["provider"], out["reason"], out["cooldown"]) == (provider.kind, "rate_limited", 30)


@pytest.mark.parametrize("form", FORMS)
async def test_a_key_that_is_revoked_is_passed_over(gateway: Gateway, form: str) -> None:
    """What the client sent is not what is wrong, so it does not learn of it."""
    provider, read = gateway.reader(form)
    provider.revoke(f"sk-{provider.kind}-1")
    assert await read(nothing) == f"{TEXT} Says {provider.kind}."
    assert (await gateway.child.line("key out"))["reason"] == "unauthorized"


async def test_when_all_keys_are_limited_the_sdk_says_so(gateway: Gateway) -> None:
    """As its own exception for that, with the shortest of the waits."""
    for name in ("openrouter", "anthropic"):
        for number, wait in ((1, 50), (2, 30)):
            gateway.providers[name].limit(f"sk-{name}-{number}", retry_after=wait)
    with pytest.raises(openai.RateLimitError) as limited:
        await gateway.chat(route="/openrouter")
    with pytest.raises(anthropic.RateLimitError) as overloaded:
        await gateway.messages()
    assert limited.value.code == "rate_limit_exceeded"
    for error in (limited.value, overloaded.value):
        assert error.response.headers["retry-after"] == "30"
        assert "all configured keys are rate-limited" in str(error)


async def test_with_all_keys_limited_another_provider_is_asked(gateway: Gateway) -> None:
    """Where the route has one."""
    for number in (1, 2):
        gateway.providers["openai"].limit(f"sk-openai-{number}", retry_after=30)
    assert await gateway.chat() == f"{TEXT} Says openrouter."
    assert gateway.keys_used("openrouter") == ["sk-openrouter-1"]


async def test_an_error_as_the_first_event_is_not_seen(gateway: Gateway) -> None:
    """Another provider answers, or the same one at the second attempt."""
    gateway.providers["openai"].next(ErrorEvent(status=529))
    assert await gateway.chat() == f"{TEXT} Says openrouter."
    gateway.providers["anthropic"].next(ErrorEvent(status=529))
    assert await gateway.messages() == f"{TEXT} Says anthropic."


@pytest.mark.parametrize("form", FORMS)
async def test_an_upstream_that_dies_in_a_stream_raises(gateway: Gateway, form: str) -> None:
    """What was read until then is a beginning, and nobody takes it for the whole."""
    provider, read = gateway.reader(form)
    provider.default = Dies()
    said = ""

    async def kill(text: str) -> None:
        nonlocal said
        said = text
        if text == HELD:
            provider.release("a while")

    with pytest.raises((openai.APIError, anthropic.APIError), match="Please try again"):
        await read(kill)
    assert said == HELD
    line = await gateway.child.line("exchange")
    assert (line["verdict"], line["committed"]) == ("upstream_lost", True)


@pytest.mark.parametrize("form", FORMS)
async def test_an_interrupt_raises(gateway: Gateway, form: str) -> None:
    """An operator ends one stream, and the SDK says that it was interrupted; the upstream is left."""
    provider, read = gateway.reader(form)
    provider.default = LONG

    async def interrupt(text: str) -> None:
        if text == HELD:
            _, listed = await gateway.operate("GET", "/-/streams")
            [stream] = listed["streams"]
            status, ended = await gateway.operate("DELETE", f"/-/streams/{stream['id']}")
            assert (status, ended["streams"][0]["verdict"]) == (200, "interrupted")

    with pytest.raises((openai.APIError, anthropic.APIError), match="interrupted"):
        await read(interrupt)
    with patience():
        assert await provider.requests[0].delivery.end() == "left"
    assert await gateway.operate("GET", "/-/streams") == (200, {"streams": []})


async def test_a_chain_that_the_provider_has_lost_goes_on(gateway: Gateway) -> None:
    """The SDK sees the answer that it asked for; without a history of that chain, the provider's own error."""
    provider = gateway.providers["openai"]
    async with gateway.openai() as api:
        first = await api.responses.create(model="m", input="one")
        async with api.responses.stream(model="m", input="two", previous_response_id=first.id) as stream:
            second = await stream.get_final_response()
        await gateway.kept(2)
        provider.forget()
        raw = await api.responses.with_raw_response.create(model="m", input="three", previous_response_id=second.id)
        with pytest.raises(openai.BadRequestError) as caught:
            await api.responses.create(model="m", input="four", previous_response_id="resp_of_somebody")
    assert raw.headers["sseflow-chain"] == "recovered"
    assert raw.parse().output_text == f"{TEXT} Says openai."
    assert caught.value.code == "previous_response_not_found"
    rebuilt = provider.requests[3].json()
    assert isinstance(rebuilt, dict)
    assert "previous_response_id" not in rebuilt
    assert [item["role"] for item in rebuilt["input"]] == ["user", "assistant", "user", "assistant", "user"]
    recovered = await gateway.child.line("chain recovered")
    assert "one" not in recovered.values()


async def test_an_operator_sees_how_the_providers_are(gateway: Gateway) -> None:
    """Which keys are out, by their ends, and for how long; what was tried again; and nothing that was said."""
    gateway.providers["anthropic"].limit("sk-anthropic-1", retry_after=30)
    gateway.providers["anthropic"].next(Status(503))
    await gateway.messages()
    status, page = await gateway.operate("GET", "/-/upstreams")
    assert status == 200
    [keys] = [provider["keys"] for provider in page["providers"] if provider["name"] == "anthropic"]
    assert [key["state"] for key in keys] == ["temporary", "valid"]
    assert [retry["kind"] for retry in page["retries"]] == ["overloaded"]
    assert "sk-anthropic-1" not in json.dumps(page)


class Enough(Exception):
    """What a client leaves with."""


@pytest.mark.parametrize("form", FORMS)
async def test_a_client_that_leaves_is_seen_by_the_upstream(gateway: Gateway, form: str) -> None:
    """Nobody goes on to generate for it."""
    provider, read = gateway.reader(form)
    provider.default = LONG

    async def leave(text: str) -> None:
        if text == HELD:
            raise Enough

    with pytest.raises(Enough):
        await read(leave)
    with patience():
        assert await provider.requests[0].delivery.end() == "left"
    assert (await gateway.child.line("exchange"))["verdict"] == "client_gone"


async def test_a_token_that_nobody_knows_is_no_way_in(gateway: Gateway) -> None:
    """Each SDK has an exception for that; no provider is asked."""
    async with gateway.openai(token="sk-mine") as api, gateway.anthropic(token="sk-mine") as other:
        with pytest.raises(openai.AuthenticationError) as refused:
            await api.chat.completions.create(model="m", messages=QUESTION)
        with pytest.raises(anthropic.AuthenticationError) as turned_away:
            await other.messages.create(model="m", max_tokens=9, messages=MESSAGES)
    for error in (refused.value, turned_away.value):
        assert error.response.headers["www-authenticate"] == "Bearer"
    assert not any(provider.requests for provider in gateway.providers.values())


async def test_a_token_is_good_for_its_routes(gateway: Gateway) -> None:
    """And for no other."""
    async with gateway.openai(token=gateway.narrow) as api:
        await api.chat.completions.create(model="m", messages=QUESTION)
    async with gateway.openai(token=gateway.narrow, route="/openrouter") as api:
        with pytest.raises(openai.PermissionDeniedError):
            await api.chat.completions.create(model="m", messages=QUESTION)
    async with gateway.anthropic(token=gateway.narrow) as other:
        with pytest.raises(anthropic.PermissionDeniedError):
            await other.messages.create(model="m", max_tokens=9, messages=MESSAGES)
    assert not gateway.providers["anthropic"].requests


@pytest.mark.parametrize("told", [True, False], ids=["SIGHUP", "by itself"])
async def test_a_stream_goes_on_with_the_configuration_it_began_with(gateway: Gateway, told: bool) -> None:
    """What has changed in the file holds for requests to come."""
    provider = gateway.providers["openai"]
    provider.next(LONG)
    others: list[str] = []

    async def change(text: str) -> None:
        if text == HELD and not others:
            gateway.write(CONFIG.replace('["openai", "openrouter"]', '["openrouter"]'))
            if told:
                gateway.child.process.send_signal(signal.SIGHUP)
            assert (await gateway.child.line("configured"))["changed"] == ["routes[/openai].upstreams"]
            others.append(await gateway.chat())
            provider.release("a while")

    assert await gateway.chat(change) == TEXT
    assert others == [f"{TEXT} Says openrouter."]


async def test_a_file_that_is_broken_is_refused(gateway: Gateway) -> None:
    """All that is wrong with it is in the log, and the old one holds; mended, it is taken."""
    gateway.write(CONFIG.replace('type = "openrouter"', 'type = "opanrouter"').replace("attempts = 2", "attempts = 0"))
    problems = [(await gateway.child.line("configuration refused"))["problem"] for _ in range(2)]
    assert sorted(problem.partition(":")[0] for problem in problems) == ["providers.openrouter.type", "retry.attempts"]
    assert await gateway.chat() == f"{TEXT} Says openai."
    gateway.write(CONFIG.replace("attempts = 2", "attempts = 3"))
    assert "retry.attempts" in (await gateway.child.line("configured"))["changed"]


async def test_a_key_file_that_changes_is_read_again(gateway: Gateway) -> None:
    """A key is changed without a restart, and without a word in the configuration."""
    openai_keys = gateway.folder / "openai.key"
    provider = gateway.providers["openai"]
    provider.revoke("sk-openai-1")
    new = gateway.folder / "openai.key.new"
    new.write_text("sk-openai-1")
    new.chmod(0o600)
    new.replace(openai_keys)
    problem = (await gateway.child.line("configuration refused"))["problem"]
    assert "providers.openai.keys" in problem  # the same one twice
    assert await gateway.chat() == f"{TEXT} Says openai."
    assert gateway.keys_used("openai") == ["sk-openai-1", "sk-openai-2"]


async def test_told_to_end_it_lets_a_stream_end(gateway: Gateway) -> None:
    """The exit status is then 0, which the fixture looks at."""
    provider = gateway.providers["openai"]
    provider.next(LONG)

    async def end(text: str) -> None:
        if text == HELD:
            gateway.end()
            await gateway.child.line("draining")
            provider.release("a while")

    assert await gateway.chat(end) == TEXT


def test_a_configuration_can_be_checked(tmp_path: Path) -> None:
    """0 where all is right, 2 and all that is wrong at once where not; never a key."""
    gateway = Gateway(tmp_path)
    environ = {**os.environ, **{f"{name}_KEY": "sk-secret" for name in ("OPENAI", "ANTHROPIC", "OPENROUTER")}}
    for name in ("openai", "anthropic", "openrouter"):
        (tmp_path / f"{name}.key").write_text("sk-other-secret")
        (tmp_path / f"{name}.key").chmod(0o600)
    urls = {name: "http://127.0.0.1:1" for name in ("openai", "anthropic", "openrouter")}

    def check() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sseflow.proxy", "check", str(gateway.config)]
        return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=20, check=False)

    gateway.write(**urls)
    good = check()
    gateway.write(CONFIG.replace("attempts = 2", "attempts = 0").replace("cap =", "cab ="), **urls)
    broken = check()
    assert (good.returncode, good.stderr) == (0, "")
    assert broken.returncode == 2
    for path in ("retry.attempts", "retry.cab"):
        assert path in broken.stdout + broken.stderr
    assert "secret" not in good.stdout + broken.stdout + broken.stderr
