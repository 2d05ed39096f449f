"""The anthropic SDK, under Trio."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio

pytest.importorskip("anthropic", reason="the anthropic SDK is not installed; `make interop` installs it")

import anthropic
from anthropic.types import MessageParam, TextBlock

from .scripts import ANTHROPIC_BEGINNING, EMPTY, broken, clean_end, mid_event
from .servers import Running, RunningProxy, Script, run_proxy, run_script

pytestmark = [
    pytest.mark.interop,
    # The async generators of a stream that raised are closed by nobody; see test_openai.py.
    pytest.mark.filterwarnings(r"ignore:Async generator '(anthropic|httpx2|httpcore2)\.:ResourceWarning"),
]

QUESTION: list[MessageParam] = [{"role": "user", "content": "What is the answer?"}]
ENOUGH = 1000


def client(server: Running) -> anthropic.AsyncAnthropic:
    # Without retries: they would hide what this is about, and take their time.
    return anthropic.AsyncAnthropic(api_key="none", base_url=server.url, max_retries=0)


async def read_stream(server: Running) -> str:
    async with (
        client(server) as api,
        api.messages.stream(model="demo-1", max_tokens=ENOUGH, messages=QUESTION) as stream,
    ):
        return "".join([text async for text in stream.text_stream])


async def test_the_text_is_the_same(demo: Running, proxy: RunningProxy) -> None:
    """The text of a whole stream is that which comes directly."""
    direct = await read_stream(demo)
    assert len(direct) > 100
    assert await read_stream(proxy) == direct
    assert await proxy.verdicts() == ["complete"]


async def test_an_answer_in_one_piece_is_the_same(demo: Running, proxy: RunningProxy) -> None:
    """An answer that is no stream is that which comes directly."""
    answers = []
    for server in (demo, proxy):
        async with client(server) as api:
            answers.append(await api.messages.create(model="demo-1", max_tokens=ENOUGH, messages=QUESTION))
    assert answers[0] == answers[1]
    [block] = answers[0].content
    assert isinstance(block, TextBlock)
    assert block.text == await read_stream(proxy)


@pytest.mark.parametrize(
    "script",
    [clean_end, mid_event, broken],
)
async def test_a_cut_stream_raises(nursery: trio.Nursery, script: Callable[[bytes], Script]) -> None:
    """However an upstream stops early, whoever reads the stream gets the exception that its error event is for."""
    proxy = await run_proxy(nursery, await run_script(nursery, script(ANTHROPIC_BEGINNING)))
    with pytest.raises(anthropic.APIStatusError, match="Please try again"):
        await read_stream(proxy)


@pytest.mark.parametrize("script", [clean_end, mid_event])
async def test_without_the_proxy_a_cut_stream_looks_complete(
    nursery: trio.Nursery, script: Callable[[bytes], Script]
) -> None:
    """What the proxy is for: the same upstreams, read directly, and nobody is told."""
    upstream = await run_script(nursery, script(ANTHROPIC_BEGINNING))
    assert await read_stream(upstream) == "The answer is"


async def test_an_empty_stream_is_a_status(nursery: trio.Nursery) -> None:
    """A stream that held no data becomes a 502, which the SDK raises before there is a stream."""
    proxy = await run_proxy(nursery, await run_script(nursery, EMPTY))
    with pytest.raises(anthropic.InternalServerError) as caught:
        await read_stream(proxy)
    assert caught.value.status_code == 502
