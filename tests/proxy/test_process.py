"""The program as it is run: signals, exit statuses, what it prints, and a system that runs out of descriptors."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path

import pytest
import trio

from .peers import Peer, Upstream, chunked, patience
from .rig import CHAT, DONE, LAST, STOP, STREAM, TOKEN, Line

HEALTH = b"GET /-/health HTTP/1.1\r\nHost: localhost\r\n\r\n"
LOCAL_CHAT = CHAT.replace(b"Host: a", b"Host: localhost")

#: The program, with a few descriptors only.
_POOR = (
    "import resource, runpy; resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40));"
    "runpy.run_module('sseflow.proxy', run_name='__main__')"
)


class Child:
    """A program that runs, and what it logged."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.lines: list[Line] = []
        self.text = b""
        self.clients: list[Peer] = []
        self._seen = 0
        assert process.stderr is not None
        self._stderr = process.stderr

    async def line(self, event: str) -> Line:
        """The next line about ``event``."""
        while True:
            while self._seen < len(self.lines):
                self._seen += 1
                if self.lines[self._seen - 1]["event"] == event:
                    return self.lines[self._seen - 1]
            assert await self._receive(), f"the program ended before {event!r}: {self.text.decode()}"

    async def _receive(self) -> bool:
        data: bytes | bytearray = b""
        with patience() as scope:
            data = await self._stderr.receive_some()
        assert not scope.cancelled_caught, f"nothing more was logged behind {self.text.decode()}"
        self.text += data
        # Each line is JSON: no traceback, no warning, no print.
        complete = self.text.splitlines() if self.text.endswith(b"\n") else self.text.splitlines()[:-1]
        self.lines += [json.loads(line) for line in complete[len(self.lines) :]]
        return bool(data)

    async def connect(self, request: bytes = b"", *, path: str | None = None) -> Peer:
        """A client of it."""
        if path is not None:
            client = Peer(await trio.open_unix_socket(path))
        else:
            client = Peer(await trio.open_tcp_stream("127.0.0.1", self.port))
        self.clients.append(client)
        await client.send(request)
        return client

    port = 0

    async def status(self) -> int:
        """Wait for its end; the rest of what it logged is read, too."""
        while await self._receive():
            pass
        with patience():
            await self.process.wait()
        assert self.process.returncode is not None
        return self.process.returncode


@asynccontextmanager
async def program(
    *arguments: str, listen: tuple[str, ...] = ("127.0.0.1:0",), poor: bool = False
) -> AsyncIterator[Child]:
    """Run the program until it listens; it does not outlive the block."""
    start = ("-c", _POOR) if poor else ("-m", "sseflow.proxy")
    places = [part for address in listen for part in ("--listen", address)]
    process = await trio.lowlevel.open_process(
        [sys.executable, "-X", "dev", *start, *arguments, "--log", "json", *places],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    child = Child(process)
    try:
        for _ in listen:
            address = (await child.line("listening"))["address"]
            if not address.startswith("unix:"):
                child.port = int(address.rpartition(":")[2])
        yield child
    finally:
        for client in child.clients:
            client.close()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # and what it has started
        await process.wait()
        await process.stdout.aclose()
        await child._stderr.aclose()


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    """A server to play."""
    upstream = await Upstream.open()
    yield upstream
    upstream.close()


def to(upstream: Upstream) -> tuple[str, str]:
    return ("--upstream", f"http://127.0.0.1:{upstream.port}")


async def stream_through(child: Child, upstream: Upstream, request: bytes = LOCAL_CHAT) -> tuple[Peer, Peer]:
    """A client that has got its first token, and the upstream's end."""
    client = await child.connect(request)
    peer = await upstream.accept()
    await peer.request_of(2)
    await peer.send(STREAM + chunked(TOKEN))
    await client.until(TOKEN)
    return client, peer


SIGNALS = {"SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}


@pytest.mark.parametrize("number", SIGNALS.values(), ids=SIGNALS)
async def test_a_signal_drains(upstream: Upstream, number: signal.Signals) -> None:
    """Nothing new is accepted, live streams end as they would, and the exit status is 0."""
    async with program(*to(upstream)) as child:
        client, peer = await stream_through(child, upstream)
        idle = await child.connect(HEALTH)
        await idle.answer()
        child.process.send_signal(number)
        assert (await child.line("draining"))["signal"] == number.name
        assert await idle.rest() == b""
        with pytest.raises(OSError, match="failed"):
            await child.connect()
        await peer.send(chunked(STOP, DONE) + LAST)
        assert await client.rest() == b"\r\n" + chunked(STOP, DONE) + LAST
        for end in (client, idle):
            end.close()
        assert await child.status() == 0
        assert child.lines[-1]["event"] == "ended"
        assert child.lines[-1]["cut"] == 0


@pytest.mark.parametrize("number", SIGNALS.values(), ids=SIGNALS)
@pytest.mark.parametrize("twice", [False, True], ids=["in time", "second signal"])
async def test_what_does_not_end_is_cut(upstream: Upstream, number: signal.Signals, twice: bool) -> None:
    """Behind its time, or at a second signal, a stream is cut so that its client notices; the exit status is 1."""
    async with program(*to(upstream), "--drain", "60" if twice else "0.1") as child:
        client, _ = await stream_through(child, upstream)
        old, _ = await stream_through(child, upstream, LOCAL_CHAT.replace(b"1.1", b"1.0"))
        child.process.send_signal(number)
        await child.line("draining")
        if twice:
            child.process.send_signal(number)
        assert b'"code": "drained"' in await client.rest()
        assert client.ending == "eof"
        await old.rest()
        assert old.ending == "reset"
        client.close()
        old.close()
        assert await child.status() == 1
        assert child.lines[-1]["cut"] == 2
        verdicts = [line["verdict"] for line in child.lines if line["event"] == "exchange"]
        assert verdicts == ["drained", "drained"]


async def test_a_kill_looks_like_no_end(upstream: Upstream) -> None:
    """A program that is killed writes no last chunk."""
    async with program(*to(upstream)) as child:
        client, _ = await stream_through(child, upstream)
        child.process.kill()
        assert await client.rest() == b"\r\n"
        client.close()


async def test_it_listens_on_several_addresses(upstream: Upstream, tmp_path: Path) -> None:
    """TCP and Unix sockets at once, and a Unix socket upstream; the file goes with the program."""
    path = str(tmp_path / "in.sock")
    async with program(*to(upstream), listen=("127.0.0.1:0", f"unix:{path}", "[::1]:0")) as child:
        client = await child.connect(HEALTH, path=path)
        assert (await client.answer()).status == 200
        client.close()
        child.process.send_signal(signal.SIGTERM)
        assert await child.status() == 0
    assert not await trio.Path(path).exists()


async def test_an_upstream_on_a_unix_socket(tmp_path: Path) -> None:
    """What is behind a Unix socket is an upstream like any other."""
    path = str(tmp_path / "up.sock")
    upstream = await Upstream.open(path=path)
    async with program("--upstream", f"unix:{path}") as child:
        client, peer = await stream_through(child, upstream)
        await peer.send(chunked(STOP, DONE) + LAST)
        assert (await client.until(LAST)).endswith(LAST)
        client.close()
    upstream.close()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sseflow.proxy", *arguments], capture_output=True, text=True, timeout=20, check=False
    )


def test_an_address_in_use_is_one_line() -> None:
    """Where it cannot listen it says so, and ends with 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run("--upstream", "http://127.0.0.1:1", "--listen", "127.0.0.1:0", "--listen", address)
    assert done.returncode == 1
    assert done.stderr == f"sseflow: cannot listen on {address}: Address already in use\n"
    assert not done.stdout


def test_wrong_options_are_two() -> None:
    """A wrong command line ends with 2, and no traceback."""
    done = run("--upstream", "ftp://x")
    assert done.returncode == 2
    assert "--upstream" in done.stderr
    assert "Traceback" not in done.stderr


async def test_the_demo_shows_a_stream() -> None:
    """One command, and the line it prints shows a stream that is complete; Ctrl-C ends it."""
    async with program("--demo", "--demo-pace", "0") as child:
        assert child.process.stdout is not None
        shown = b""
        while b"Ctrl-C" not in shown:
            with patience():
                shown += await child.process.stdout.receive_some()
        found = re.search(rb"curl -N (\S+)/v1/chat/completions \\\n +-H '(.+?): (.+?)' -d '(.+?)'", shown)
        assert found is not None
        url, name, kind, body = found.groups()
        host = url.removeprefix(b"http://")
        assert host == b"127.0.0.1:%d" % child.port
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: %s\r\n%s: %s\r\nContent-Length: %d\r\n\r\n"
        client = await child.connect(head % (host, name, kind, len(body)) + body)
        answer = await client.answer()
        assert answer.complete
        assert answer.body.endswith(DONE)
        assert b"\n:" not in answer.body
        line = await child.line("exchange")
        assert (line["verdict"], line["comments"] > 0, line["events"] > 50) == ("complete", True, True)
        client.close()
        child.process.send_signal(signal.SIGINT)
        assert await child.status() == 0


async def test_it_survives_a_lack_of_descriptors(upstream: Upstream) -> None:
    """Out of descriptors, it serves whom it has, complains once a second, and takes others as soon as it can."""
    async with program(*to(upstream), poor=True) as child:
        known = await child.connect(HEALTH)
        assert (await known.answer()).status == 200
        crowd = [await child.connect() for _ in range(60)]
        times: list[datetime] = []
        while len(times) < 2:
            line = await child.line("no connection can be accepted")
            assert "Too many open files" in line["error"]
            times.append(datetime.fromisoformat(line["timestamp"]))
            await known.send(HEALTH)
            assert (await known.answer()).status == 200
        assert (times[1] - times[0]).total_seconds() >= 0.99
        # An upstream cannot be reached either, and that is an answer.
        await known.send(LOCAL_CHAT)
        assert (await known.answer()).status in (502, 503)
        for client in crowd:
            client.close()
        client, peer = await stream_through(child, upstream)
        await peer.send(chunked(STOP, DONE) + LAST)
        assert (await client.until(LAST)).endswith(LAST)
        client.close()
        known.close()
        child.process.send_signal(signal.SIGTERM)
        assert await child.status() == 0


async def test_a_log_that_nobody_reads_any_more_is_no_reason_to_die(upstream: Upstream) -> None:
    """Whoever reads the log may leave."""
    async with program(*to(upstream)) as child:
        await child._stderr.aclose()
        for _ in range(3):
            client, peer = await stream_through(child, upstream)
            await peer.send(chunked(STOP, DONE) + LAST)
            assert (await client.until(LAST)).endswith(LAST)
            client.close()
            peer.close()
