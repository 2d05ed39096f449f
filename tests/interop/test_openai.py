"""The openai SDK, under Trio."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import trio

pytest.importorskip("openai", reason="the openai SDK is not installed; `make interop` installs it")

import openai
from openai.types.chat import ChatCompletionUserMessageParam

from .scripts import EMPTY, OPENAI_BEGINNING, OPENAI_END, broken, clean_end, mid_event
from .servers import HEAD, LAST_CHUNK, Running, RunningProxy, Script, chunk, run_proxy, run_script

pytestmark = [
    pytest.mark.interop,
    # Each stream that it reads leaves four async generators behind that nobody closes. On asyncio that is silent; Trio
    # warns, when the garbage collector finds them. They hold nothing: the response itself was closed.
    pytest.mark.filterwarnings(r"ignore:Async generator '(openai|httpx2|httpcore2)\.:ResourceWarning"),
]

QUESTION: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "What is the answer?"}]


def client(server: Running) -> openai.AsyncOpenAI:
    # Without retries: they would hide what this is about, and take their time.
    return openai.AsyncOpenAI(api_key="none", base_url=server.url + "/v1", max_retries=0)


async def read_stream(server: Running, after_first: Callable[[], object] = lambda: None) -> str:
    """The text of a stream; ``after_first`` is called when the first of it has come."""
    text = ""
    async with client(server) as api:
        stream = await api.chat.completions.create(model="demo-1", messages=QUESTION, stream=True)
        async for event in stream:
            for choice in event.choices:
                text += choice.delta.content or ""
            if text:
                after_first()
    return text


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
            answers.append(await api.chat.completions.create(model="demo-1", messages=QUESTION))
    assert answers[0] == answers[1]
    assert answers[0].choices[0].message.content == await read_stream(proxy)


async def test_a_connection_serves_many_streams(proxy: RunningProxy) -> None:
    """One client reads one stream after another over the connection that it keeps."""
    texts = []
    async with client(proxy) as api:
        for _ in range(3):
            stream = await api.chat.completions.create(model="demo-1", messages=QUESTION, stream=True)
            texts.append([event.choices[0].delta.content async for event in stream])
    assert texts[0] == texts[1] == texts[2]
    assert await proxy.verdicts() == ["complete"] * 3


WITH_ID = b"id: 1\n" + OPENAI_BEGINNING


def ping(cut: trio.Event | None) -> Script:
    """A stream with an id and then a comment; with ``cut``, the blank line behind the comment waits for it.

    The first event and the comment leave in one write, so whoever has read the one has the other, too.
    """
    if cut is None:
        return [HEAD + chunk(WITH_ID + b": ping\n\n" + OPENAI_END) + LAST_CHUNK]
    return [HEAD + chunk(WITH_ID + b": ping\n"), cut, chunk(b"\n" + OPENAI_END) + LAST_CHUNK]


@pytest.mark.parametrize("is_cut", [False, True], ids=["in-one-piece", "cut-before-its-blank-line"])
async def test_a_comment_behind_an_id_does_no_harm(nursery: trio.Nursery, is_cut: bool) -> None:
    """A comment goes with its blank line, at which the SDK would dispatch an empty event once it has seen an id."""
    cut = trio.Event()
    upstream = await run_script(nursery, ping(cut if is_cut else None))
    proxy = await run_proxy(nursery, upstream)
    assert await read_stream(proxy, cut.set) == "The answer is"
    assert await proxy.verdicts() == ["complete"]


@pytest.mark.parametrize("is_cut", [False, True], ids=["in-one-piece", "cut-before-its-blank-line"])
async def test_without_the_proxy_a_comment_behind_an_id_breaks_it(nursery: trio.Nursery, is_cut: bool) -> None:
    """What the proxy is for: the same stream, read directly."""
    cut = trio.Event()
    upstream = await run_script(nursery, ping(cut if is_cut else None))
    with pytest.raises(json.JSONDecodeError):
        await read_stream(upstream, cut.set)


@pytest.mark.parametrize("script", [clean_end, mid_event, broken])
async def test_a_cut_stream_raises(nursery: trio.Nursery, script: Callable[[bytes], Script]) -> None:
    """However an upstream stops early, whoever reads the stream gets the exception that its error event is for."""
    proxy = await run_proxy(nursery, await run_script(nursery, script(OPENAI_BEGINNING)))
    with pytest.raises(openai.APIError, match="Please try again") as caught:
        await read_stream(proxy)
    assert not isinstance(caught.value, openai.APIConnectionError)


@pytest.mark.parametrize("script", [clean_end, mid_event])
async def test_without_the_proxy_a_cut_stream_looks_complete(
    nursery: trio.Nursery, script: Callable[[bytes], Script]
) -> None:
    """What the proxy is for: the same upstreams, read directly, and nobody is told."""
    upstream = await run_script(nursery, script(OPENAI_BEGINNING))
    assert await read_stream(upstream) == "The answer is"


async def test_an_empty_stream_is_a_status(nursery: trio.Nursery) -> None:
    """A stream that held no data becomes a 502, which the SDK raises before there is a stream."""
    upstream = await run_script(nursery, EMPTY)
    assert await read_stream(upstream) == ""
    with pytest.raises(openai.InternalServerError) as caught:
        await read_stream(await run_proxy(nursery, upstream))
    assert caught.value.status_code == 502
