"""The fake providers, asked by the real SDKs: whatever stands in front of one can be tested against the other."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

pytest.importorskip("openai", reason="the openai SDK is not installed; `make interop` installs it")
pytest.importorskip("anthropic", reason="the anthropic SDK is not installed; `make interop` installs it")

import anthropic
import openai
from anthropic.types import MessageParam
from openai.types.chat import ChatCompletionUserMessageParam
from openai.types.responses import ResponseCompletedEvent, ResponseFunctionToolCall

from sseflow.testing import (
    Answer,
    CutAfter,
    Empty,
    ErrorEvent,
    FakeProvider,
    ProviderKind,
    Reset,
    Status,
    ToolCall,
    Truncated,
)

pytestmark = [
    pytest.mark.interop,
    # The async generators of a stream that was not read to its end are closed by nobody; see test_openai.py.
    pytest.mark.filterwarnings(r"ignore:Async generator '(openai|anthropic|httpx2|httpcore2)\.:ResourceWarning"),
]

TEXT = "The answer is 42."
TOOL = ToolCall("weather", {"city": "Bern"})
QUESTION: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "What is the answer?"}]
MESSAGES: list[MessageParam] = [{"role": "user", "content": "What is the answer?"}]


def openai_client(provider: FakeProvider, key: str = "sk-a", *, base: str = "/v1") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(api_key=key, base_url=provider.url + base, max_retries=0)


def anthropic_client(provider: FakeProvider, key: str = "sk-a") -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(api_key=key, base_url=provider.url, max_retries=0)


@pytest.fixture
async def openai_provider() -> AsyncIterator[FakeProvider]:
    """OpenAI, as far as its SDK can tell."""
    async with FakeProvider.serve("openai", keys={"sk-a"}, default=Answer(text=TEXT)) as provider:
        yield provider


@pytest.fixture
async def anthropic_provider() -> AsyncIterator[FakeProvider]:
    """Anthropic, as far as its SDK can tell."""
    async with FakeProvider.serve("anthropic", keys={"sk-a"}, default=Answer(text=TEXT)) as provider:
        yield provider


@pytest.mark.parametrize(("kind", "base"), [("openai", "/v1"), ("openrouter", "/api/v1")])
async def test_a_chat_completion_is_accepted(kind: ProviderKind, base: str) -> None:
    """Whole and as a stream, with usage where it was asked for."""
    async with (
        FakeProvider.serve(kind, keys={"sk-a"}, default=Answer(text=TEXT)) as provider,
        openai_client(provider, base=base) as api,
    ):
        whole = await api.chat.completions.create(model="m", messages=QUESTION)
        stream = await api.chat.completions.create(
            model="m", messages=QUESTION, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert whole.choices[0].message.content == TEXT
    assert whole.choices[0].finish_reason == "stop"
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == TEXT
    assert chunks[0].choices[0].delta.role == "assistant"
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 4


async def test_the_tools_of_a_chat_completion_are_called(openai_provider: FakeProvider) -> None:
    """Whole and as a stream, a call of a tool is one for the SDK."""
    openai_provider.default = Answer(text="", tools=(TOOL,))
    async with openai_client(openai_provider) as api:
        whole = await api.chat.completions.create(model="m", messages=QUESTION)
        async with api.chat.completions.stream(model="m", messages=QUESTION) as stream:
            final = await stream.get_final_completion()
    for completion in (whole, final):
        [choice] = completion.choices
        assert choice.finish_reason == "tool_calls"
        assert choice.message.tool_calls is not None
        [call] = choice.message.tool_calls
        assert call.type == "function"
        assert json.loads(call.function.arguments) == {"city": "Bern"}


async def test_a_response_is_accepted(openai_provider: FakeProvider) -> None:
    """Whole and as a stream, with all that it is made of in its last event."""
    openai_provider.default = Answer(text=TEXT, reasoning="Let me think.", tools=(TOOL,))
    async with openai_client(openai_provider) as api:
        whole = await api.responses.create(model="m", input="What is the answer?")
        async with api.responses.stream(model="m", input="What is the answer?") as stream:
            events = [event async for event in stream]
            final = await stream.get_final_response()
    assert whole.output_text == final.output_text == TEXT
    assert [item.type for item in whole.output] == ["reasoning", "message", "function_call"]
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call"]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    assert whole.usage is not None
    assert final.usage is not None
    assert final.usage.output_tokens == whole.usage.output_tokens


async def test_a_chain_of_responses_goes_on_until_it_is_forgotten(openai_provider: FakeProvider) -> None:
    """An answer can be continued, its tool's output with it; a response that nobody knows is not found."""
    openai_provider.next(Answer(text="", tools=(TOOL,)))
    async with openai_client(openai_provider) as api:
        stream = await api.responses.create(model="m", input="How is the weather?", stream=True)
        [first] = [event.response async for event in stream if isinstance(event, ResponseCompletedEvent)]
        [call] = first.output
        assert isinstance(call, ResponseFunctionToolCall)
        with pytest.raises(openai.BadRequestError, match="No tool output found for function call call_"):
            await api.responses.create(model="m", input="And now?", previous_response_id=first.id)
        second = await api.responses.create(
            model="m",
            previous_response_id=first.id,
            input=[{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}],
        )
        assert second.previous_response_id == first.id
        openai_provider.forget()
        with pytest.raises(openai.BadRequestError) as caught:
            await api.responses.create(model="m", input="And now?", previous_response_id=second.id)
    assert caught.value.body == {
        "message": f"Previous response with id '{second.id}' not found.",
        "type": "invalid_request_error",
        "param": "previous_response_id",
        "code": "previous_response_not_found",
    }


async def test_what_was_put_out_can_be_put_in(openai_provider: FakeProvider) -> None:
    """The items of an answer, with what the tool said behind them, are a good input of the next question."""
    openai_provider.next(Answer(text=TEXT, reasoning="Let me think.", tools=(TOOL,)))
    async with openai_client(openai_provider) as api:
        first = await api.responses.create(model="m", input="How is the weather?")
        items: Any = [item.model_dump(exclude_none=True) for item in first.output]
        items.append({"type": "function_call_output", "call_id": items[-1]["call_id"], "output": "sunny"})
        answer = await api.responses.create(model="m", input=items)
    assert answer.output_text == TEXT


async def test_a_message_is_accepted(anthropic_provider: FakeProvider) -> None:
    """Whole and as a stream: thoughts, text, a tool and usage."""
    anthropic_provider.default = Answer(text=TEXT, reasoning="Let me think.", tools=(TOOL,), cached_tokens=5)
    async with anthropic_client(anthropic_provider) as api:
        whole = await api.messages.create(model="m", max_tokens=100, messages=MESSAGES)
        async with api.messages.stream(model="m", max_tokens=100, messages=MESSAGES) as stream:
            final = await stream.get_final_message()
    for message in (whole, final):
        assert [block.type for block in message.content] == ["thinking", "text", "tool_use"]
        text, tool = message.content[1:]
        assert text.type == "text"
        assert text.text == TEXT
        assert tool.type == "tool_use"
        assert tool.input == {"city": "Bern"}
        assert message.stop_reason == "tool_use"
        assert message.usage.cache_read_input_tokens == 5
        assert message.usage.input_tokens == 6
    assert final.usage.output_tokens == whole.usage.output_tokens


async def test_openai_refuses_keys_as_openai_does(openai_provider: FakeProvider) -> None:
    """Each refusal is the SDK's exception for it, and says what there is to do."""
    async with openai_client(openai_provider, "sk-wrong") as stranger, openai_client(openai_provider) as api:
        with pytest.raises(openai.AuthenticationError) as unknown:
            await stranger.chat.completions.create(model="m", messages=QUESTION)
        assert unknown.value.code == "invalid_api_key"
        openai_provider.limit("sk-a", retry_after=2.5)
        with pytest.raises(openai.RateLimitError) as limited:
            await api.chat.completions.create(model="m", messages=QUESTION, stream=True)
        assert limited.value.code == "rate_limit_exceeded"
        headers = limited.value.response.headers
        assert (headers["retry-after"], headers["retry-after-ms"]) == ("3", "2500")
        assert headers["x-ratelimit-remaining-requests"] == "0"
        openai_provider.exhaust("sk-a")
        with pytest.raises(openai.RateLimitError) as exhausted:
            await api.responses.create(model="m", input="?")
        assert exhausted.value.code == "insufficient_quota"
        openai_provider.forbid("sk-a")
        with pytest.raises(openai.PermissionDeniedError):
            await api.chat.completions.create(model="m", messages=QUESTION)
        openai_provider.allow("sk-a")
        await api.chat.completions.create(model="m", messages=QUESTION)


async def test_anthropic_refuses_keys_as_anthropic_does(anthropic_provider: FakeProvider) -> None:
    """Each refusal is the SDK's exception for it."""
    async with (
        anthropic_client(anthropic_provider, "sk-wrong") as stranger,
        anthropic_client(anthropic_provider) as api,
    ):
        with pytest.raises(anthropic.AuthenticationError, match="invalid x-api-key"):
            await stranger.messages.create(model="m", max_tokens=9, messages=MESSAGES)
        anthropic_provider.limit("sk-a", retry_after=3)
        with pytest.raises(anthropic.RateLimitError, match="rate_limit_error") as limited:
            await api.messages.create(model="m", max_tokens=9, messages=MESSAGES)
        assert limited.value.response.headers["retry-after"] == "3"
        anthropic_provider.forbid("sk-a")
        with pytest.raises(anthropic.PermissionDeniedError, match="permission_error"):
            await api.messages.create(model="m", max_tokens=9, messages=MESSAGES)
        anthropic_provider.exhaust("sk-a")
        with pytest.raises(anthropic.BadRequestError, match="credit balance"):
            await api.messages.create(model="m", max_tokens=9, messages=MESSAGES)


async def read(api: openai.AsyncOpenAI) -> str:
    """How much of the text came, and what ended it."""
    text = ""
    try:
        async for chunk in await api.chat.completions.create(model="m", messages=QUESTION, stream=True):
            text += chunk.choices[0].delta.content or ""
    except openai.APIError as error:
        return f"{text}|{type(error).__name__}"
    return text


async def test_what_is_scripted_comes_in_its_order(openai_provider: FakeProvider) -> None:
    """The next requests fail as they were told to, and then the default is back."""
    openai_provider.next(Status(503), Reset(), CutAfter(100), CutAfter(1200, "rst"))
    openai_provider.next(ErrorEvent(), ErrorEvent(after=2), Truncated(after=2), Empty())
    async with openai_client(openai_provider) as api:
        outcomes = [await read(api) for _ in range(9)]
    assert openai_provider.waiting == 0
    assert outcomes[:3] == ["|InternalServerError", "|APIConnectionError", "|APIConnectionError"]
    assert outcomes[3].endswith("|APIConnectionError")
    assert outcomes[4:] == ["|APIError", "The answer|APIError", "The answer", "", TEXT]


@pytest.mark.parametrize("after", [None, 0, 1])
async def test_an_error_in_a_stream_of_messages_is_raised(anthropic_provider: FakeProvider, after: int | None) -> None:
    """As the first event, before the text and within it."""
    anthropic_provider.next(ErrorEvent(after=after))
    async with anthropic_client(anthropic_provider) as api:
        with pytest.raises(anthropic.APIStatusError, match="overloaded_error"):
            async with api.messages.stream(model="m", max_tokens=9, messages=MESSAGES) as stream:
                await stream.get_final_message()


@pytest.mark.parametrize("after", [None, 0, 1])
async def test_a_response_that_fails_is_one_for_the_sdk(openai_provider: FakeProvider, after: int | None) -> None:
    """It is the response that had begun, and it says why it failed."""
    openai_provider.next(ErrorEvent(after=after, failed=True, code="server_error", message="Oops"))
    async with openai_client(openai_provider) as api:
        stream = await api.responses.create(model="m", input="?", stream=True)
        events = [event async for event in stream]
    last = events[-1]
    assert last.type == "response.failed"
    assert last.sequence_number == len(events) - 1
    assert last.response.error is not None
    assert last.response.error.message == "Oops"
    assert {event.response.id for event in events if event.type == "response.created"} <= {last.response.id}


async def test_a_client_that_leaves_is_seen(openai_provider: FakeProvider) -> None:
    """A held answer ends when its reader goes, and says how much of it had been sent."""
    openai_provider.next(Answer(text=TEXT, hold="never"))
    async with openai_client(openai_provider) as api:
        stream = await api.chat.completions.create(model="m", messages=QUESTION, stream=True)
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        await stream.close()
        [request] = openai_provider.requests
        with trio.fail_after(20):
            assert await request.delivery.end() == "left"
    assert request.delivery.sent > 0
    assert request.credentials == (("authorization", "Bearer sk-a"),)
