"""The upstream that plays a script: what it sends, what it saw, and what it says of a script that is none."""

from __future__ import annotations

import gzip
import ssl
import subprocess
import sys
import urllib.request
import zlib
from collections.abc import Callable

import brotli
import pytest
import trio
import trio.testing
import trustme
from backports import zstd

from sseflow import ConfigurationError
from sseflow.testing import SCRIPTS, Script, ScriptedUpstream, ScriptError, open_upstream

GET = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
HEAD = b"HTTP/1.1 200 Scripted\r\nContent-Type: text/event-stream\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


async def connect(upstream: ScriptedUpstream) -> trio.SocketStream:
    """A connection to it."""
    return await trio.open_tcp_stream("127.0.0.1", int(upstream.url.rpartition(":")[2]))


async def ask(upstream: ScriptedUpstream, request: bytes = GET) -> bytes:
    """All that comes on a connection of its own; a reset is shown as such."""
    received = b""
    with trio.fail_after(10):
        async with await connect(upstream) as stream:
            await stream.send_all(request)
            try:
                async for data in stream:
                    received += data
            except trio.BrokenResourceError:
                received += b"<reset>"
    return received


PLAYED = {
    "chunked": ("head\ndata abc\nend\nclose", CHUNKED + b"3\r\nabc\r\n0\r\n\r\n"),
    "length": ("head length\ndata abc\nend\nclose", HEAD + b"Content-Length: 3\r\n\r\nabc"),
    "length-that-is-cut": ("head length\ndata abc\ncut", HEAD + b"Content-Length: 1003\r\n\r\nabc"),
    "length-that-lies": ("head length=2\ndata abc\nclose", HEAD + b"Content-Length: 2\r\n\r\nabc"),
    "closed-at-the-end": ("head close\ndata abc\nend", HEAD + b"\r\nabc"),
    "event": ('head close\nevent {"a": "\\n"}\nclose', HEAD + b'\r\ndata: {"a": "\\n"}\n\n'),
    "named": ("head close\nnamed ping {}\nclose", HEAD + b"\r\nevent: ping\ndata: {}\n\n"),
    "comment": ("head close\ncomment ping\nclose", HEAD + b"\r\n: ping\n\n"),
    "done": ("head close\ndone\nclose", HEAD + b"\r\ndata: [DONE]\n\n"),
    "escapes": (r"send a\r\n\t\0\x41\\" + "\nclose", b"a\r\n\t\0A\\"),
    "line": ("head close\nline 20\nclose", HEAD + b"\r\ndata: xxxxxxxxxxxxxx\n\n"),
    "trailers": ("head\nend 'A: b'\nclose", CHUNKED + b"0\r\nA: b\r\n\r\n"),
    "info": ("info 103\nclose", b"HTTP/1.1 103 Informational\r\n\r\n"),
    "reset": ("reset", b"<reset>"),
    "cut-after": ("after 20 cut\nhead close\nend", HEAD[:20]),
    "cut-after-nothing": ("after 0 cut\nhead close\nend", b""),
    "cut-after-too-much": ("head close\nafter 5 cut\ndata abc\nend", HEAD + b"\r\n"),
    "cut-after-more-than-there-is": ("after 1KiB cut\nhead close\nend", HEAD + b"\r\n"),
    "reset-after": ("after 20 wait 0\nhead close\nafter 0 reset", HEAD + b"\r\n<reset>"),
    "repeat": ("head close\nrepeat 2\n  data a\n  repeat 2\n    data b\ndata c\nclose", HEAD + b"\r\nabbabbc"),
    "status-type-and-fields": (
        "head 429 length type=text/plain 'Retry-After: 3'\nend\nclose",
        b"HTTP/1.1 429 Scripted\r\nContent-Type: text/plain\r\nRetry-After: 3\r\nContent-Length: 0\r\n\r\n",
    ),
}


@pytest.mark.parametrize(("script", "expected"), PLAYED.values(), ids=PLAYED)
async def test_what_it_plays(script: str, expected: bytes) -> None:
    """Each step is what the reference says it is, byte for byte."""
    async with open_upstream(script) as upstream:
        assert await ask(upstream) == expected


@pytest.mark.parametrize(
    ("coding", "decode"),
    [
        ("gzip", gzip.decompress),
        ("deflate", zlib.decompress),
        ("br", brotli.decompress),
        ("zstd", zstd.decompress),
    ],
)
async def test_it_compresses(coding: str, decode: Callable[[bytes], bytes]) -> None:
    """A head with a coding says so, and the body is in it."""
    async with open_upstream(f"head close {coding}\ndata abc\ndata def\nend") as upstream:
        head, _, body = (await ask(upstream)).partition(b"\r\n\r\n")
    assert f"Content-Encoding: {coding}".encode() in head
    assert decode(body) == b"abcdef"


async def test_a_connection_goes_on_behind_an_end() -> None:
    """A body that ended well leaves the connection, and each request takes the next section that fits."""
    script = "on /a\nhead length\ndata 1\nend\non /b\nhead length\ndata 2\nend\non\nhead length\ndata 3\nend"
    async with open_upstream(script) as upstream, await connect(upstream) as stream:
        checked = b""
        for path in (b"/b?q", b"/b", b"/a", b"/a"):
            await stream.send_all(b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi" % path)
            with trio.fail_after(10):
                while not checked.endswith((b"\r\n\r\n1", b"\r\n\r\n2", b"\r\n\r\n3")):
                    checked += await stream.receive_some()
            checked += b"|"
        assert [answer[-1:] for answer in checked.split(b"|")[:-1]] == [b"2", b"3", b"1", b"3"]
        assert upstream.connections == 1
        assert [(one.method, one.target, one.body, one.get("Host")) for one in upstream.requests[:1]] == [
            ("POST", "/b?q", b"hi", "a")
        ]


async def test_what_no_section_fits_is_404() -> None:
    """A request that the script does not know is answered as such."""
    async with open_upstream("on /a\nhead\nend") as upstream, await connect(upstream) as stream:
        await stream.send_all(GET)
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 404 ")


async def test_a_section_at_accept_comes_before_any_request() -> None:
    """Connections use up what is for them, and the next section is for a request."""
    async with open_upstream("on accept\nreset\non\nhead close\nend") as upstream:
        assert await ask(upstream, b"") == b"<reset>"
        assert (await ask(upstream)).startswith(HEAD)
        assert (await ask(upstream)).startswith(HEAD)
        assert upstream.connections == 3


async def test_a_section_for_a_head_does_not_read_the_body() -> None:
    """It answers a request whose body has not come."""
    async with open_upstream("on head\nhead 413 length\nend") as upstream, await connect(upstream) as stream:
        await stream.send_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n")
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 413 ")


async def test_a_hold_waits_for_its_release() -> None:
    """What a test holds back comes when the test says so."""
    async with open_upstream("head close\ndata a\nhold more\ndata b\nclose") as upstream:
        async with await connect(upstream) as stream:
            await stream.send_all(GET)
            await upstream.arrival()
            assert (await stream.receive_some()).startswith(HEAD)
            upstream.release("more")
            rest = b""
            async for data in stream:
                rest += data
            assert rest.endswith(b"b")
        assert await ask(upstream) == HEAD + b"\r\nab"


async def test_who_leaves_a_stall_is_not_waited_for() -> None:
    """A stalled connection ends with its peer."""
    async with open_upstream("stall") as upstream:
        async with await connect(upstream) as stream:
            await stream.send_all(GET)
            await upstream.arrival()
            assert upstream.open == 1
        with trio.fail_after(10):
            while upstream.open:
                await trio.lowlevel.checkpoint()


async def test_waits_are_seconds(autojump_clock: trio.testing.MockClock) -> None:
    """A wait lasts as long as it says, and so does each byte of a drip."""
    async with open_upstream("wait 5\ndrip 2 raw abc\nclose") as upstream, await connect(upstream) as stream:
        await stream.send_all(GET)
        start = trio.current_time()
        while await stream.receive_some():
            pass
        assert trio.current_time() - start >= 11


async def test_over_tls_a_cut_has_no_close_notify() -> None:
    """``close`` is an orderly end also for TLS, and ``cut`` is not."""
    ca = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.issue_cert("127.0.0.1").configure_cert(server)
    ca.configure_trust(client)
    for step in ("close", "cut"):
        async with open_upstream(f"head close\ndata a\n{step}", tls=server) as upstream:
            assert upstream.url.startswith("https://")
            stream = trio.SSLStream(await connect(upstream), client, server_hostname="127.0.0.1")
            await stream.send_all(GET)
            received = b""
            broken = False
            try:
                async for data in stream:
                    received += data
            except trio.BrokenResourceError:
                broken = True
            assert received.endswith(b"a")
            assert broken == (step == "cut")
            await trio.aclose_forcefully(stream)


WRONG = {
    "head\nafter 20 token a": (2, "after how many bytes what? One of stall, wait"),
    "head\nafter many cut": (2, "'many' is no size"),
    "jump": (1, "there is no step 'jump'"),
    "data": (1, "data of what?"),
    "wait long": (1, "'long' is no number of seconds"),
    "line 3 MB": (1, "'3 MB' is no size"),
    "head 20": (1, "'20' is no status"),
    "head gzipped": (1, "a head knows nothing about 'gzipped'"),
    "info 200": (1, "'200' is no status between"),
    "send \\q": (1, "\\q is no escape"),
    "end X": (1, "'X' is no field"),
    "on nowhere\nend": (1, "a section knows nothing about 'nowhere'"),
    "repeat often\n  end": (1, "repeat 'often'"),
    "repeat 3\nend": (1, "there is nothing to repeat"),
    "end\n  close": (2, "it is indented"),
    "  end\nclose": (2, "its indentation fits no line above"),
    "# nothing": (1, "there is no step in it"),
}


@pytest.mark.parametrize(("script", "expected"), WRONG.items(), ids=[repr(script) for script in WRONG])
def test_what_is_no_script(script: str, expected: tuple[int, str]) -> None:
    """The message says where and what."""
    with pytest.raises(ScriptError) as caught:
        Script.parse(script)
    [(line, what)] = caught.value.problems
    assert line == expected[0]
    assert what.startswith(expected[1])


def test_all_problems_are_said_at_once() -> None:
    """One run shows everything."""
    with pytest.raises(ScriptError, match=r"line 1: there is no step 'a'[^\n]*\nline 3: data of what\?"):
        Script.parse("a b\n\ndata\nend")


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_scripts_that_come_with_it_are_scripts(name: str) -> None:
    """Each of them can be read."""
    assert Script.parse(SCRIPTS[name]).sections


async def test_an_address_in_use_is_said() -> None:
    """Who cannot listen says where."""
    async with open_upstream("end") as upstream, trio.open_nursery() as nursery:
        other = ScriptedUpstream("end")
        with pytest.raises(RuntimeError, match="does not listen yet"):
            _ = other.url
        with pytest.raises(ConfigurationError, match="cannot listen on 127"):
            await nursery.start(other.run, upstream.url.removeprefix("http://"))


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "sseflow.testing.upstream", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_command_says_what_is_wrong() -> None:
    """A script that is none is exit status 2, and an address that is none 1."""
    run = command("--inline", "head;jump")
    assert (run.returncode, run.stdout) == (2, "")
    assert "line 2: there is no step 'jump'" in run.stderr
    run = command("--fault", "stall", "--listen", "nowhere")
    assert run.returncode == 1
    assert run.stderr.startswith("python -m sseflow.testing.upstream: 'nowhere' is no address")
    run = command("no-such-file")
    assert run.returncode == 2
    assert "no-such-file" in run.stderr


def test_the_command_lists_its_faults() -> None:
    """Every fault, with its script."""
    listed = command("--list").stdout
    assert [line.removeprefix("== ") for line in listed.splitlines() if line.startswith("== ")] == list(SCRIPTS)


def test_the_command_serves_until_it_is_told_to_end() -> None:
    """It says where it listens, plays the script, and ends at SIGTERM with status 0."""
    arguments = ["-m", "sseflow.testing.upstream", "--inline", "head close; data abc; close", "--listen", "127.0.0.1:0"]
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().removeprefix("listening on ").strip()
            with urllib.request.urlopen(url, timeout=20) as answer:
                assert answer.read() == b"abc"
        finally:
            process.terminate()
        assert process.wait(timeout=20) == 0
