"""What is assembled is what the SDKs make of the same stream, at its end and on the way there."""

from __future__ import annotations

import json

import pytest
import trio

pytest.importorskip("anthropic", reason="the anthropic SDK is not installed; `make interop` installs it")
pytest.importorskip("openai", reason="the openai SDK is not installed; `make interop` installs it")

import anthropic
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk

from sseflow import Event, encode
from sseflow.dialects import AnthropicMessages, OpenAIChat, assemble

from ..core.dialects.test_assemble import ANTHROPIC_EVENTS, CHAT_EVENTS
from .servers import HEAD, LAST_CHUNK, chunk, run_script

pytestmark = pytest.mark.interop


async def test_anthropic(nursery: trio.Nursery) -> None:
    """The final message, and the snapshot behind each event, have the texts and the calls that we have."""
    body = b"".join(encode(event.data, type=event.type) for event in ANTHROPIC_EVENTS)
    server = await run_script(nursery, [HEAD, chunk(body), LAST_CHUNK])
    async with (
        anthropic.AsyncAnthropic(api_key="none", base_url=server.url, max_retries=0) as api,
        api.messages.stream(
            model="m", max_tokens=100, messages=[{"role": "user", "content": "What is the answer?"}]
        ) as stream,
    ):
        message = await stream.get_final_message()
    got = message.model_dump(mode="json", exclude_none=True, exclude_unset=True)
    assembled = assemble(AnthropicMessages(), ANTHROPIC_EVENTS, interrupted=False)
    assert assembled.body is not None
    ours = {key: part for key, part in assembled.body.items() if part is not None}
    assert {key: got[key] for key in ours} == ours


def test_openai() -> None:
    """The same for a chat, behind each chunk."""
    state = ChatCompletionStreamState()
    fields = {"object": "chat.completion.chunk", "created": 1, "model": "m"}
    values = [{**fields, **json.loads(event.data)} for event in CHAT_EVENTS[:-1]]
    for value in values:
        if value.get("usage"):
            value["usage"]["total_tokens"] = 7
        for choice in value["choices"]:
            for call in choice["delta"].get("tool_calls", ()):
                call["index"] -= 3  # the SDK takes only indices that begin at zero
    for number, value in enumerate(values, 1):
        state.handle_chunk(ChatCompletionChunk.model_validate(value))
        snapshot = state.current_completion_snapshot
        events = [Event(json.dumps(each).encode()) for each in values[:number]]
        assembled = assemble(OpenAIChat(), events, interrupted=False)
        (choice,) = snapshot.choices
        message = choice.message
        calls = [(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or ()]
        assert (assembled.text, assembled.finish) == (message.content, choice.finish_reason)
        assert [(call.id, call.name, call.arguments) for call in assembled.tool_calls] == calls
