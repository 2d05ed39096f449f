"""The provider that is none: what it answers, whom it refuses, how it fails, and what it saw."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping

import pytest
import trio
import trustme

from sseflow import ConfigurationError
from sseflow.testing import (
    Answer,
    Behaviour,
    CommentsOnly,
    CutAfter,
    Empty,
    ErrorEvent,
    FakeProvider,
    Played,
    ProviderKind,
    ReceivedRequest,
    Reset,
    Script,
    Stall,
    Status,
    ToolCall,
    Truncated,
)

CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"
ROUTER = "/api/v1/chat/completions"
QUESTION: Mapping[str, object] = {"model": "m", "messages": [{"role": "user", "content": "?"}], "max_tokens": 9}
STREAM = {**QUESTION, "stream": True}
#: Each form: its provider, its path, and what asks it for a stream.
FORMS: Mapping[str, tuple[ProviderKind, str, Mapping[str, object]]] = {
    "chat": ("openai", CHAT, STREAM),
    "responses": ("openai", RESPONSES, {"model": "m", "input": "?", "stream": True}),
    "messages": ("anthropic", MESSAGES, STREAM),
    "openrouter": ("openrouter", ROUTER, STREAM),
    "sse": ("sse", "/events", {}),
}
FINISHED = {
    "chat": b"data: [DONE]\n\n",
    "responses": b"event: response.completed\n",
    "messages": b"event: message_stop\n",
    "openrouter": b"data: [DONE]\n\n",
    "sse": b"data:  two\n\n",
}


def request(path: str, body: object, key: str = "sk-a") -> bytes:
    """A request for one answer on a connection."""
    data = json.dumps(body).encode()
    fields = f"Host: a\r\nAuthorization: Bearer {key}\r\nanthropic-version: 2023-06-01\r\nContent-Length: {len(data)}"
    return f"POST {path} HTTP/1.1\r\n{fields}\r\n\r\n".encode() + data


async def connect(provider: FakeProvider) -> trio.SocketStream:
    """A connection to it."""
    return await trio.open_tcp_stream("127.0.0.1", int(provider.url.rpartition(":")[2]))


async def ask(provider: FakeProvider, path: str, body: object, key: str = "sk-a") -> bytes:
    """All that comes for one request; a reset is shown as such."""
    received = b""
    with trio.fail_after(10):
        async with await connect(provider) as stream:
            await stream.send_all(request(path, body, key))
            try:
                while not is_whole(received):
                    data = await stream.receive_some()
                    if not data:
                        break
                    received += data
            except trio.BrokenResourceError:
                received += b"<reset>"
    return received


def is_whole(received: bytes) -> bool:
    """Whether an answer has come to its end, as its head said where that is."""
    head, blank, body = received.partition(b"\r\n\r\n")
    if b"chunked" in head:
        return body.endswith(b"0\r\n\r\n")
    length = head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]
    return bool(blank) and len(body) >= int(length or 0)


def body_of(received: bytes) -> bytes:
    """The body of an answer, out of its chunks."""
    head, _, body = received.partition(b"\r\n\r\n")
    if b"chunked" not in head:
        return body
    joined = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        joined, body = joined + body[: int(size, 16)], body[int(size, 16) + 2 :]
    return joined


def status_of(received: bytes) -> int:
    """The status of an answer."""
    return int(received.split(b" ")[1])


def error_of(received: bytes) -> Mapping[str, object]:
    """The error that the body of an answer tells of."""
    error = json.loads(body_of(received))["error"]
    assert isinstance(error, dict)
    return error


@pytest.mark.parametrize("form", FORMS)
async def test_every_form_has_a_whole_stream(form: str) -> None:
    """The text comes piece by piece, and then the end that the form has."""
    kind, path, body = FORMS[form]
    async with FakeProvider.serve(kind, default=Answer(text="one, two", chunks=2)) as provider:
        received = body_of(await ask(provider, path, body))
    if form == "sse":
        assert received == b"data: one,\n\ndata:  two\n\n"
    else:
        assert received.index(b'"one,') < received.index(b'" two"') < received.index(FINISHED[form])


@pytest.mark.parametrize("form", [form for form in FORMS if form != "sse"])
async def test_every_form_has_an_answer_in_one_piece(form: str) -> None:
    """Who does not ask for a stream gets none."""
    kind, path, body = FORMS[form]
    async with FakeProvider.serve(kind, default=Answer(text="one, two")) as provider:
        received = await ask(provider, path, {**body, "stream": False})
    assert b"Content-Type: application/json" in received
    assert '"one, two"' in json.dumps(json.loads(body_of(received)))


@pytest.mark.parametrize("finish", ["stop", "length", "content_filter"])
async def test_every_reason_to_end_has_its_word(finish: str) -> None:
    """The providers name the same differently."""
    words = {
        "stop": ("stop", "completed", "end_turn"),
        "length": ("length", "incomplete", "max_tokens"),
        "content_filter": ("content_filter", "incomplete", "refusal"),
    }[finish]
    answer = Answer(finish=finish)  # type: ignore[arg-type] # a str of the table above
    for form, word in zip(("chat", "responses", "messages"), words, strict=True):
        kind, path, body = FORMS[form]
        async with FakeProvider.serve(kind, default=answer) as provider:
            received = body_of(await ask(provider, path, body))
        assert f'"{word}"'.encode() in received


async def test_usage_comes_in_a_stream_if_it_was_asked_for() -> None:
    """OpenAI's chat completions need an option for it, OpenRouter's do not."""
    async with FakeProvider.serve("openai") as provider:
        assert b"usage" not in await ask(provider, CHAT, STREAM)
        assert b'"usage":{' in await ask(provider, CHAT, {**STREAM, "stream_options": {"include_usage": True}})
    async with FakeProvider.serve("openrouter") as provider:
        received = body_of(await ask(provider, ROUTER, STREAM))
    assert received.startswith(b": OPENROUTER PROCESSING\n\n")
    assert b'"usage":{' in received


REFUSED = {
    "no-json": ("openai", CHAT, "x", "We could not parse the JSON body of your request: it must be an object."),
    "no-model": ("openai", CHAT, {}, "you must provide a model parameter"),
    "no-messages": ("openai", CHAT, {"model": "m"}, "Missing required parameter: 'messages'."),
    "no-input": ("openai", RESPONSES, {"model": "m"}, "Missing required parameter: 'input'."),
    "no-limit": ("anthropic", MESSAGES, {"model": "m", "messages": []}, "max_tokens: Field required"),
    "an-output-without-its-call": (
        "openai",
        RESPONSES,
        {"model": "m", "input": [{"type": "function_call_output", "call_id": "call_x", "output": ""}]},
        "No tool call found for function call output with call_id call_x.",
    ),
    "a-call-without-its-output": (
        "openai",
        RESPONSES,
        {"model": "m", "input": [{"type": "function_call", "call_id": "call_x", "name": "f", "arguments": "{}"}]},
        "No tool output found for function call call_x.",
    ),
    "a-thought-that-leads-nowhere": (
        "openai",
        RESPONSES,
        {"model": "m", "input": [{"type": "reasoning", "id": "rs_x", "summary": []}]},
        "Item 'rs_x' of type 'reasoning' was provided without its required following item.",
    ),
    "an-item-that-lacks-something": (
        "openai",
        RESPONSES,
        {"model": "m", "input": [{"role": "user"}]},
        "Missing required parameter: 'input[0].content'.",
    ),
    "words-of-the-user-in-the-assistant's-mouth": (
        "openai",
        RESPONSES,
        {"model": "m", "input": [{"role": "assistant", "content": [{"type": "input_text", "text": "?"}]}]},
        "Invalid value: 'input_text'.",
    ),
    "a-response-that-nobody-knows": (
        "openai",
        RESPONSES,
        {"model": "m", "input": "?", "previous_response_id": "resp_x"},
        "Previous response with id 'resp_x' not found.",
    ),
}


@pytest.mark.parametrize(("kind", "path", "body", "message"), REFUSED.values(), ids=REFUSED)
async def test_a_bad_request_is_refused(kind: ProviderKind, path: str, body: object, message: str) -> None:
    """In the provider's words, and it uses up nothing of what is scripted."""
    async with FakeProvider.serve(kind) as provider:
        provider.next(Reset())
        received = await ask(provider, path, body)
        assert provider.waiting == 1
    assert status_of(received) == 400
    assert error_of(received)["message"] == message


@pytest.mark.parametrize("kind", ["openai", "anthropic", "openrouter"])
async def test_a_path_that_there_is_not_is_404(kind: ProviderKind) -> None:
    """A gateway that builds a wrong path is told."""
    async with FakeProvider.serve(kind) as provider:
        received = await ask(provider, "/v1/v1/messages", QUESTION)
    assert status_of(received) == 404
    assert "Unknown request URL" in str(error_of(received)["message"])


async def test_a_provider_that_there_is_not_is_an_error() -> None:
    """The error names those that there are."""
    with pytest.raises(ConfigurationError, match="openai, anthropic, openrouter and sse"):
        FakeProvider("gopher")  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMS)
async def test_keys_are_known(form: str) -> None:
    """A strange key is 401, and a key can be limited, forbidden, spent, revoked and allowed again."""
    kind, path, body = FORMS[form]
    async with FakeProvider.serve(kind, keys=["sk-a", "sk-b"]) as provider:

        async def status(key: str) -> int:
            return status_of(await ask(provider, path, body, key))

        assert await status("sk-c") == 401
        for refuse, expected in [
            (provider.limit, {429}),
            (provider.forbid, {403}),
            (provider.exhaust, {429, 402, 400}),
            (provider.revoke, {401}),
        ]:
            refuse("sk-a")
            assert await status("sk-a") in expected
            assert await status("sk-b") == 200
        provider.allow("sk-a")
        assert await status("sk-a") == 200
        assert [provider.key_of(one) for one in provider.requests[:3]] == ["sk-c", "sk-a", "sk-b"]


async def test_a_limit_says_for_how_long() -> None:
    """In whole seconds, rounded up, and in milliseconds; or not at all."""
    async with FakeProvider.serve("openai", keys=["sk-a"]) as provider:
        provider.limit("sk-a", retry_after=0.25)
        received = await ask(provider, CHAT, STREAM)
        assert b"Retry-After: 1\r\nretry-after-ms: 250\r\n" in received
        provider.limit("sk-a")
        assert b"retry-after" not in (await ask(provider, CHAT, STREAM)).lower()


async def test_a_key_can_have_a_script_of_its_own() -> None:
    """What is scripted for a key comes first, and to nobody else."""
    async with FakeProvider.serve("openai") as provider:
        provider.next(Status(500))
        provider.next(Status(503), key="sk-b")
        statuses = [status_of(await ask(provider, CHAT, STREAM, key)) for key in ("sk-a", "sk-b", "sk-b")]
    assert statuses == [500, 503, 200]


async def test_a_status_says_what_it_was_told_to() -> None:
    """Its words, its fields, or a body that is no JSON at all."""
    status = Status(429, message="Slow.", type="t", code="c", param="p", retry_after=7, fields={"X-A": "b"})
    async with FakeProvider.serve("openai") as provider:
        provider.next(status, Status(502, body=b"<html>"))
        received = await ask(provider, CHAT, STREAM)
        assert error_of(received) == {"message": "Slow.", "type": "t", "code": "c", "param": "p"}
        assert b"Retry-After: 7\r\n" in received
        assert b"X-A: b\r\n" in received
        assert body_of(await ask(provider, CHAT, STREAM)) == b"<html>"


@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_an_answer_is_cut_at_each_byte(how: str) -> None:
    """Exactly so many bytes of head, framing and body come; one that is shorter comes whole."""
    async with FakeProvider.serve("sse", default=Answer(text="a b")) as provider:
        whole = len(await ask(provider, "/", {}))
        for size in range(whole + 2):
            provider.next(CutAfter(size, how))  # type: ignore[arg-type] # one of the two
            received = await ask(provider, "/", {})
            delivery = provider.requests[-1].delivery
            assert await delivery.end() == ("whole" if size > whole else "broken")
            assert delivery.sent == min(size, whole)
            if how == "fin":
                assert len(received) == delivery.sent


async def test_what_stalls_goes_on_when_it_is_released() -> None:
    """At exactly that byte, and not before."""
    async with FakeProvider.serve("sse", default=Answer(text="a b")) as provider:
        provider.next(Stall(20, "more"))
        async with await connect(provider) as stream:
            await stream.send_all(request("/", {}))
            received = b""
            while len(received) < 20:
                received += await stream.receive_some()
            assert len(received) == 20
            assert provider.requests[0].delivery.ended is None
            provider.release("more")
            while not is_whole(received):
                received += await stream.receive_some()
        assert body_of(received) == b"data: a\n\ndata:  b\n\n"


@pytest.mark.parametrize("behaviour", [Stall(5), Answer(hold="never"), Answer(hold="never", hold_after=None)])
async def test_a_client_that_leaves_ends_what_waits(behaviour: Behaviour) -> None:
    """Whether it stalls or is held, and it is known how much had been sent."""
    async with FakeProvider.serve("openai") as provider:
        provider.next(behaviour)
        async with await connect(provider) as stream:
            await stream.send_all(request(CHAT, STREAM))
            await provider.arrival()
        with trio.fail_after(10):
            assert await provider.requests[0].delivery.end() == "left"


@pytest.mark.parametrize("form", FORMS)
async def test_an_error_comes_where_it_was_told_to(form: str) -> None:
    """As the first event, behind what opens the stream, or behind so many pieces; and no end follows."""
    kind, path, body = FORMS[form]
    answer = Answer(text="one two")
    async with FakeProvider.serve(kind) as provider:
        provider.next(*(ErrorEvent(message="Oops", after=after, answer=answer) for after in (None, 0, 1)))
        first, opened, behind = [body_of(await ask(provider, path, body)) for _ in range(3)]
    assert all(received.count(b"Oops") == 1 for received in (first, opened, behind))
    assert first.count(b"\n\n") == 1
    assert b"one" not in opened
    assert b"one" in behind
    assert b"two" not in behind
    assert FINISHED[form] not in behind


async def test_a_response_can_fail() -> None:
    """With an event of that name, or with an error."""
    _, path, body = FORMS["responses"]
    async with FakeProvider.serve("openai") as provider:
        provider.next(ErrorEvent(failed=True), ErrorEvent())
        assert body_of(await ask(provider, path, body)).startswith(b"event: response.failed\n")
        assert body_of(await ask(provider, path, body)).startswith(b"event: error\n")


@pytest.mark.parametrize("form", FORMS)
async def test_a_stream_can_stop_early(form: str) -> None:
    """With a clean end: behind a piece, within an event, behind comments, or with nothing."""
    kind, path, body = FORMS[form]
    answer = Answer(text="one two")
    async with FakeProvider.serve(kind) as provider:
        provider.next(Truncated(answer=answer), Truncated(in_event=True, answer=answer), CommentsOnly(2), Empty())
        early, within, comments, nothing = [body_of(await ask(provider, path, body)) for _ in range(4)]
        assert [await one.delivery.end() for one in provider.requests] == ["whole"] * 4
    assert b"one" in early
    assert b"two" not in early
    assert early.endswith(b"\n\n")
    assert within.startswith(early[:6])
    assert not within.endswith(b"\n")
    assert comments == b": ping\n\n: ping\n\n"
    assert nothing == b""


async def test_a_response_is_remembered_when_its_end_is_sent() -> None:
    """One that was cut, or that was not to be stored, cannot be continued."""
    _, path, body = FORMS["responses"]
    async with FakeProvider.serve("openai", default=Answer(text="one two", tools=(ToolCall("f"),))) as provider:

        async def status_behind(received: bytes) -> int:
            name = received[received.index(b"resp_") :].partition(b'"')[0].decode()
            return status_of(await ask(provider, path, {**body, "previous_response_id": name, "input": OUTPUT}))

        OUTPUT = [{"type": "function_call_output", "call_id": "call_1", "output": ""}]
        provider.default = Answer(tools=(ToolCall("f", id="call_1"),))
        assert await status_behind(await ask(provider, path, body)) == 200
        assert await status_behind(await ask(provider, path, {**body, "stream": False})) == 200
        assert await status_behind(await ask(provider, path, {**body, "store": False})) == 400
        provider.next(CutAfter(1000))
        assert await status_behind(await ask(provider, path, body)) == 400


async def test_a_pace_takes_its_time(autojump_clock: trio.testing.MockClock) -> None:
    """Each piece has its wait; with a clock of a test's own nobody waits."""
    async with FakeProvider.serve("sse", default=Answer(text="a b c", pace=100)) as provider:
        start = trio.current_time()
        async with await connect(provider) as stream:
            await stream.send_all(request("/", {}))
            received = b""
            while not is_whole(received):
                received += await stream.receive_some()
        assert trio.current_time() - start >= 300


async def test_a_script_can_be_played() -> None:
    """For what nothing else does."""
    async with FakeProvider.serve("openai") as provider:
        provider.next(Played(Script.parse("send garbage\nclose")))
        assert await ask(provider, CHAT, STREAM) == b"garbage"


async def test_it_shows_what_it_was_asked() -> None:
    """The path, the body and every field that could carry a credential; none of those in its repr."""
    async with FakeProvider.serve("openai") as provider:
        await ask(provider, f"{CHAT}?a=b", QUESTION, "sk-secret")
        [received] = provider.requests
    assert received.path == CHAT
    assert received.json() == QUESTION
    assert received.credentials == (("authorization", "Bearer sk-secret"),)
    assert "sk-secret" not in repr(received)
    others = (("x-api-key", "a"), ("cookie", "b"), ("host", "c"))
    assert ReceivedRequest(1, "GET", "/", others, b"").credentials == others[:2]


async def test_it_speaks_tls() -> None:
    """On each connection, with the context that it was given."""
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    async with FakeProvider.serve("openai", tls=server) as provider:
        assert provider.url.startswith("https://")
        plain = await connect(provider)
        async with trio.SSLStream(plain, client, server_hostname="localhost") as stream:
            await stream.send_all(request(CHAT, QUESTION))
            assert bytes(await stream.receive_some()).startswith(b"HTTP/1.1 200 ")


def test_the_command_serves_until_it_is_told_to_stop() -> None:
    """It says where it listens, knows its keys, and exits with 0."""
    arguments = ["-m", "sseflow.testing.provider", "openai", "--listen", "127.0.0.1:0", "--key", "sk-a", "--pace", "0"]
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().removeprefix("listening on ").strip()
            fields = {"Authorization": "Bearer sk-a"}
            question = urllib.request.Request(url + CHAT, json.dumps(STREAM).encode(), fields)
            with urllib.request.urlopen(question, timeout=20) as answer:
                assert answer.read().endswith(b"data: [DONE]\n\n")
            with pytest.raises(urllib.error.HTTPError, match="401") as caught:
                urllib.request.urlopen(urllib.request.Request(url + CHAT, b"{}"), timeout=20)
            caught.value.close()
        finally:
            process.terminate()
        assert process.wait(timeout=20) == 0


def test_the_command_says_what_is_wrong() -> None:
    """An address that is none is exit status 1."""
    arguments = ["-m", "sseflow.testing.provider", "openai", "--listen", "nowhere"]
    run = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 1
    assert run.stderr.startswith("python -m sseflow.testing.provider: 'nowhere' is no address")


async def test_a_connection_is_kept_unless_the_client_says_otherwise() -> None:
    """One connection serves many requests, and is closed behind the one that asks for that."""
    async with FakeProvider.serve("openai") as provider, await connect(provider) as stream:
        received = b""
        await stream.send_all(request(CHAT, QUESTION))
        while not is_whole(received):
            received += await stream.receive_some()
        await stream.send_all(request(CHAT, QUESTION).replace(b"Host: a", b"Host: a\r\nConnection: close"))
        with trio.fail_after(10):
            async for data in stream:
                received += data
        assert received.count(b"HTTP/1.1 200 ") == 2
        assert provider.connections == 1
