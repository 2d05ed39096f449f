"""What real clients raise at each error that sseflow writes.

``python -m tests.interop.errors`` tries all, and prints the page; with ``--write`` it goes into
docs/howto/errors-to-clients.md. The exit status is 1 if a client swallows one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import anthropic
import attrs
import openai
import trio
from openai.types.chat import ChatCompletionUserMessageParam

from sseflow import Error, IdleTimeout, Truncated, UpstreamLost
from sseflow.dialects import AnthropicMessages, Dialect, DialectError, OpenAIChat, OpenAIResponses, PlainSSE
from sseflow.proxy._verdict import Drained, Interrupted
from sseflow.proxy._words import as_answer

from .scripts import ANTHROPIC_BEGINNING, OPENAI_BEGINNING, RESPONSES_BEGINNING
from .servers import HEAD, Running, Script, chunk, run_script

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "howto" / "errors-to-clients.md"

SWALLOWED = "**nothing**"
"""What a client raises that takes an error for an answer."""

PATIENCE = 10.0
"""Seconds until a client counts as waiting for ever."""

#: Errors that clients are told of, by what a person would call them.
ERRORS: Mapping[str, Error] = {
    "the upstream's rate limit": DialectError("Slow down", "rate_limit_error", "rate_limit_exceeded").refusal("x"),
    "the upstream is overloaded": DialectError("Overloaded", "overloaded_error").refusal("x"),
    "the upstream's bad request": DialectError("Too long", None, "context_length_exceeded").refusal("x"),
    "an error that says nothing": DialectError().refusal("x"),
    "the upstream broke off": UpstreamLost("x", reason="connection_terminated"),
    "the upstream ended too early": Truncated("x"),
    "the upstream fell silent": IdleTimeout("x", reason="connection_read_timeout"),
    "interrupted": Interrupted("x"),
    "this service restarts": Drained("x"),
}


@attrs.frozen
class Client:
    """A way of reading a stream, and what it speaks."""

    name: str
    dialect: Dialect
    beginning: bytes
    read: Callable[[Running], Awaitable[None]]


def before(client: Client, error: Error) -> Script:
    """A status and a body: nothing has gone to the client yet."""
    status, said = as_answer(error)
    body = client.dialect.error_body(said, request_id="r")
    head = b"HTTP/1.1 %d Error\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return [head % (status, len(body)) + body]


def after(client: Client, error: Error) -> Script:
    """An event behind the first content, and a body without an end."""
    event = client.dialect.error_event(as_answer(error)[1], request_id="r")
    return [HEAD + chunk(client.beginning) + chunk(event)]


def inside(client: Client, error: Error) -> Script:
    """Half an event, and a body without an end: there is no place for an error event."""
    return [HEAD + chunk(client.beginning + b'event: x\ndata: {"type":"x","id":"c')]


#: Ways in which an error is written, with their headings.
FORMS: Mapping[str, Callable[[Client, Error], Script]] = {
    "Before the answer has begun: a status": before,
    "Behind the first content: an error event, and the body is cut off": after,
    "Inside an event: the body is cut off": inside,
}

QUESTION: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "?"}]


def _openai(server: Running) -> openai.AsyncOpenAI:
    # Without retries: they would hide what this is about, and take their time.
    return openai.AsyncOpenAI(api_key="none", base_url=server.url + "/v1", max_retries=0)


def _anthropic(server: Running) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(api_key="none", base_url=server.url, max_retries=0)


async def chat_create(server: Running) -> None:
    """Events as they come."""
    async with _openai(server) as api:
        async for _ in await api.chat.completions.create(model="m", messages=QUESTION, stream=True):
            pass


async def chat_stream(server: Running) -> None:
    """The helper that assembles."""
    async with _openai(server) as api, api.chat.completions.stream(model="m", messages=QUESTION) as stream:
        await stream.get_final_completion()


async def responses_create(server: Running) -> None:
    """Events as they come."""
    async with _openai(server) as api:
        async for _ in await api.responses.create(model="m", input="?", stream=True):
            pass


async def responses_stream(server: Running) -> None:
    """The helper that assembles."""
    async with _openai(server) as api, api.responses.stream(model="m", input="?") as stream:
        await stream.get_final_response()


async def messages_create(server: Running) -> None:
    """Events as they come."""
    async with _anthropic(server) as api:
        question: list[anthropic.types.MessageParam] = [{"role": "user", "content": "?"}]
        async for _ in await api.messages.create(model="m", max_tokens=9, messages=question, stream=True):
            pass


async def messages_stream(server: Running) -> None:
    """The helper that assembles."""
    async with _anthropic(server) as api:
        question: list[anthropic.types.MessageParam] = [{"role": "user", "content": "?"}]
        async with api.messages.stream(model="m", max_tokens=9, messages=question) as stream:
            await stream.get_final_message()


CLIENTS = (
    Client("openai, `chat.completions.create`", OpenAIChat(), OPENAI_BEGINNING, chat_create),
    Client("openai, `chat.completions.stream`", OpenAIChat(), OPENAI_BEGINNING, chat_stream),
    Client("openai, `responses.create`", OpenAIResponses(), RESPONSES_BEGINNING, responses_create),
    Client("openai, `responses.stream`", OpenAIResponses(), RESPONSES_BEGINNING, responses_stream),
    Client("anthropic, `messages.create`", AnthropicMessages(), ANTHROPIC_BEGINNING, messages_create),
    Client("anthropic, `messages.stream`", AnthropicMessages(), ANTHROPIC_BEGINNING, messages_stream),
    Client("openai, other streams", PlainSSE(), OPENAI_BEGINNING, chat_create),
    Client("anthropic, other streams", PlainSSE(), ANTHROPIC_BEGINNING, messages_create),
)


async def ask(client: Client, form: str, error: Error) -> Exception | None:
    """What a client raises at an error in some form; None if it swallows it."""
    raised = None
    async with trio.open_nursery() as nursery:
        server = await run_script(nursery, FORMS[form](client, error))
        with trio.fail_after(PATIENCE):
            try:
                await client.read(server)
            except trio.TooSlowError:
                raise
            except Exception as found:
                raised = found
        nursery.cancel_scope.cancel()
    return raised


def in_words(raised: Exception | None) -> str:
    """What was raised, in a cell of a table."""
    if raised is None:
        return SWALLOWED
    status = getattr(raised, "status_code", None)
    name = type(raised).__name__
    return f"`{name}`" if status is None else f"`{name}` {status}"


async def table() -> dict[str, dict[str, list[str]]]:
    """For each form and error, what each client raises."""
    return {
        form: {name: [in_words(await ask(client, form, error)) for client in CLIENTS] for name, error in ERRORS.items()}
        for form in FORMS
    }


_INTRO = """# What an error looks like to your client

As long as nothing of an answer has gone to the client, an error is a status of 400 or more with a JSON body, in the
form that the client's API has for it. The upstream's own status, type, code and message are kept. So they are if the
error was the first event of a stream: it came with a 200, and becomes the status that it stands for,
`overloaded_error` 529. If the upstream said how long to wait, there is a `Retry-After`.

Behind the first content there can be no status any more. If the client stands between two events, it gets the error as
an event, in the form that its SDK raises on; then the body is cut off, without the end that HTTP has for it. Inside an
event there is no place for an error, and being cut off has to do. It is the one thing that every client notices: none
of them may take what it has for the answer.

What is written:

| dialect | status with a body | event |
|---|---|---|
{forms}

`null` stands for what the upstream did not say.

What the SDKs raise is below; if one swallowed an error, it would say {silent}. The page is written by
`python -m tests.interop.errors --write`, with {versions}.

Catch the SDK's own root, `openai.APIError` or `anthropic.APIError`, and beside it what its transport raises, which
`anthropic` lets through as it is: `httpx.HTTPError`, or `httpx2.HTTPError`, whichever it uses. An `APIStatusError` with
the status 200 is an error in a stream that had begun; what it was stands in its `type` and its `body`.
"""


def _forms() -> str:
    """What each dialect writes of one error."""
    said = DialectError("m", "t", "c")
    rows = []
    for dialect in (OpenAIChat(), OpenAIResponses(), AnthropicMessages(), PlainSSE()):
        body = dialect.error_body(said, request_id="r").decode()
        event = dialect.error_event(said, request_id="r").decode().replace(body, "...")
        rows.append(f"| `{dialect.name}` | `{body}` | `{event.strip()}` |".replace("\n", "`, `"))
    return "\n".join(rows)


def as_tables(said: dict[str, dict[str, list[str]]]) -> str:
    """A table for each form. Where it is the same for all errors there is one row."""
    lines = []
    for form, by_error in said.items():
        rows = list(by_error.items())
        if all(cells == rows[0][1] for _, cells in rows):
            rows = [("any", rows[0][1])]
        names = " | ".join(client.name for client in CLIENTS)
        lines += [f"## {form}\n", f"| the error | {names} |", "|---" * (len(CLIENTS) + 1) + "|"]
        lines += [f"| {error} | {' | '.join(cells)} |" for error, cells in rows]
        lines.append("")
    return "\n".join(lines)


def as_markdown(said: dict[str, dict[str, list[str]]]) -> str:
    """The page."""
    versions = f"openai {openai.__version__} and anthropic {anthropic.__version__}"
    return _INTRO.format(forms=_forms(), silent=SWALLOWED, versions=versions) + "\n" + as_tables(said)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    options = parser.parse_args()
    said = trio.run(table)
    page = as_markdown(said)
    if options.write:
        PAGE.write_text(page, encoding="utf-8")
    else:
        print(page)
    return 1 if SWALLOWED in as_tables(said) else 0


if __name__ == "__main__":
    sys.exit(main())
