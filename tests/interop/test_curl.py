"""curl, which writes down what it gets byte for byte and says by its exit status whether it was all."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable

import pytest
import trio

from .scripts import EMPTY, OPENAI_BEGINNING, broken, clean_end, mid_event
from .servers import Running, RunningProxy, Script, run_proxy, run_script

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed: apt-get install curl"),
]

PARTIAL_FILE = 18
"""curl: transfer closed with outstanding read data remaining."""

RECEIVE_ERROR = 56
"""curl: the connection was reset."""

HEARTBEAT = b": demo processing\n\n"

PATHS = ["/v1/chat/completions", "/v1/messages"]


async def curl(url: str, *options: str, stream: bool = True) -> subprocess.CompletedProcess[bytes]:
    body = json.dumps({"model": "demo-1", "stream": stream, "messages": [], "max_tokens": 100})
    command = ["curl", "--silent", "--show-error", "--no-buffer", "--noproxy", "*", *options, "--data", body, url]
    return await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)


@pytest.mark.parametrize("options", [(), ("--http1.0",)], ids=["http-1.1", "http-1.0"])
@pytest.mark.parametrize("path", PATHS)
async def test_a_stream_is_the_same_but_for_its_comments(
    demo: Running, proxy: RunningProxy, path: str, options: tuple[str, ...]
) -> None:
    """Every byte of a stream comes through the proxy, but for comments and their blank lines."""
    direct = await curl(demo.url + path, *options)
    through = await curl(proxy.url + path, *options)
    assert HEARTBEAT in direct.stdout
    assert through.stdout == direct.stdout.replace(HEARTBEAT, b"")
    assert (direct.returncode, through.returncode) == (0, 0)
    assert await proxy.verdicts() == ["complete"]


@pytest.mark.parametrize("path", PATHS)
async def test_an_answer_that_is_no_stream_is_the_same(demo: Running, proxy: RunningProxy, path: str) -> None:
    """An answer in one piece comes through the proxy untouched."""
    direct = await curl(demo.url + path, stream=False)
    through = await curl(proxy.url + path, stream=False)
    assert (through.returncode, through.stdout) == (0, direct.stdout)


@pytest.mark.parametrize("script", [clean_end, mid_event, broken])
async def test_a_cut_stream_is_a_partial_file(nursery: trio.Nursery, script: Callable[[bytes], Script]) -> None:
    """However an upstream stops early, curl says that the transfer is not complete; what came is not lost."""
    upstream = await run_script(nursery, script(OPENAI_BEGINNING))
    proxy = await run_proxy(nursery, upstream)
    through = await curl(proxy.url + "/v1/chat/completions")
    assert through.returncode == PARTIAL_FILE
    assert through.stdout.startswith(OPENAI_BEGINNING)


async def test_a_stream_cut_without_chunks_is_a_reset(nursery: trio.Nursery) -> None:
    """To a client of HTTP/1.0 the end of the connection is the end of the body, so a cut one is reset."""
    proxy = await run_proxy(nursery, await run_script(nursery, clean_end(OPENAI_BEGINNING)))
    through = await curl(proxy.url + "/v1/chat/completions", "--http1.0")
    assert through.returncode == RECEIVE_ERROR


async def test_without_the_proxy_a_cut_stream_looks_complete(nursery: trio.Nursery) -> None:
    """What the proxy is for: the same upstream, asked directly, and curl finds nothing wrong."""
    upstream = await run_script(nursery, clean_end(OPENAI_BEGINNING))
    assert (await curl(upstream.url + "/v1/chat/completions")).returncode == 0


async def test_an_empty_stream_is_a_status(nursery: trio.Nursery) -> None:
    """A stream that held no data becomes a 502, since nothing has been committed to."""
    proxy = await run_proxy(nursery, await run_script(nursery, EMPTY))
    through = await curl(proxy.url + "/v1/chat/completions", "--write-out", "\n%{http_code}")
    assert through.returncode == 0
    assert through.stdout.endswith(b"\n502")
    assert await proxy.verdicts() == ["empty"]
