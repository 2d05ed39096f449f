"""Faults of the machine: a full disk, a clock that jumps, a loop that stood still, a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import trio
import trio.testing

from sseflow.http import Origin
from sseflow.proxy._app import LATE
from sseflow.testing import ScriptedUpstream, open_upstream

from .peers import Peer, chunked, patience
from .rig import DONE, LAST, STOP, STREAM, TOKEN, Rig, Starter
from .test_answer import ASK

LOCAL = ASK.replace(b"Host: a", b"Host: localhost")
WHOLE = "head\ntoken Hello\nstop\ndone\nend"
PATIENCE = 20
_FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


@pytest.fixture(autouse=True)
def started() -> Iterator[list[trio.Process]]:
    """The programs that a test has started; none of them outlives it."""
    _started.clear()
    yield _started
    for process in _started:
        if process.poll() is None:
            process.kill()
            os.waitpid(process.pid, 0)


_started: list[trio.Process] = []


async def run_proxy(
    upstream: ScriptedUpstream, log: Path, *, python: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> tuple[trio.Process, int]:
    """The program, and the port that it listens on; its log goes to that file, or device."""
    with trio.socket.socket() as free:
        await free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, *python, "-m", "sseflow.proxy", "--log", "json"]
    command += ["--upstream", upstream.url, "--listen", f"127.0.0.1:{port}"]
    with log.open("ab") as file:
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.DEVNULL, stderr=file, env={**os.environ, **(environment or {})}
        )
    _started.append(process)
    with trio.fail_after(PATIENCE):
        while True:
            try:
                await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
            except OSError:
                assert process.poll() is None, "the proxy did not start"
                await trio.lowlevel.checkpoint()
            else:
                return process, port


async def ask(port: int) -> Peer:
    """A client that has sent its request."""
    client = Peer(await trio.open_tcp_stream("127.0.0.1", port))
    await client.send(LOCAL)
    return client


async def ended(process: trio.Process) -> int:
    """Its exit status."""
    with trio.fail_after(PATIENCE):
        return await process.wait()


def lines(log: Path) -> list[dict[str, object]]:
    """What was logged."""
    return [json.loads(line) for line in log.read_text().splitlines()]


async def test_a_full_disk_for_the_log(tmp_path: Path) -> None:
    """A log that cannot be written costs no stream, and no exit status."""
    async with open_upstream(WHOLE) as upstream:
        process, port = await run_proxy(upstream, Path("/dev/full"))
        for _ in range(3):
            client = await ask(port)
            assert (await client.answer(b"POST")).complete
            client.close()
        process.send_signal(signal.SIGTERM)
        assert await ended(process) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_in_the_middle_of_a_stream(tmp_path: Path, number: signal.Signals) -> None:
    """The stream may end; nothing is on standard error but the log, also for an interpreter that looks closely."""
    async with open_upstream("head\ntoken Hello\nhold rest\nstop\ndone\nend") as upstream:
        log = tmp_path / "log"
        process, port = await run_proxy(upstream, log, python=("-X", "dev", "-W", "error"))
        client = await ask(port)
        await client.until(b"Hello")
        process.send_signal(number)
        with trio.fail_after(PATIENCE):
            while not any(line["event"] == "draining" for line in lines(log)):
                await trio.lowlevel.checkpoint()
        upstream.release("rest")
        assert (await client.until(LAST)).endswith(LAST)
        client.close()
        assert await ended(process) == 0
    assert [line["event"] for line in lines(log)] == ["listening", "draining", "exchange", "ended"]
    assert [line["verdict"] for line in lines(log) if line["event"] == "exchange"] == ["complete"]


async def test_a_kill_in_the_middle_of_many_streams(tmp_path: Path) -> None:
    """Nobody takes what a killed proxy has sent for complete."""
    async with open_upstream("head\ntoken Hello\nstall") as upstream:
        process, port = await run_proxy(upstream, tmp_path / "log")
        clients = [await ask(port) for _ in range(5)]
        for client in clients:
            await client.until(b"Hello")
        process.kill()
        for client in clients:
            assert LAST not in await client.rest()
            client.close()
        assert await ended(process) == -signal.SIGKILL


@pytest.mark.skipif(
    not _FAKETIME and "CI" not in os.environ, reason="libfaketime is not installed: apt install libfaketime"
)
async def test_a_wall_clock_that_jumps(tmp_path: Path) -> None:
    """A wall clock that runs a year a second moves no deadline, and no duration in the log."""
    async with open_upstream("head\ntoken Hello\nwait 0.3\nstop\ndone\nend") as upstream:
        log = tmp_path / "log"
        jumping = {"LD_PRELOAD": str(_FAKETIME[0]), "FAKETIME": "+1y x30000000", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        process, port = await run_proxy(upstream, log, environment=jumping)
        client = await ask(port)
        assert (await client.answer(b"POST")).complete
        client.close()
        process.send_signal(signal.SIGTERM)
        assert await ended(process) == 0
    [line] = [line for line in lines(log) if line["event"] == "exchange"]
    assert line["verdict"] == "complete"
    assert str(line["timestamp"]) > f"{time.gmtime().tm_year + 1}", "the clock did not jump"
    assert isinstance(line["duration"], float)
    assert 0.3 <= line["duration"] < PATIENCE


async def test_a_machine_that_slept(rig: Rig, jumping_clock: trio.testing.MockClock) -> None:
    """Behind a jump of the clock each deadline has fired once: one verdict, one line."""
    client, upstream = await rig.reach(ASK)
    await upstream.send(STREAM + chunked(TOKEN))
    await client.until(TOKEN)
    jumping_clock.jump(86_400)
    await client.rest()
    line = await rig.line()
    assert (line["verdict"], line["keep_alives"]) == ("stalled_idle", 0)
    assert not rig.log.unread("exchange")


async def test_a_loop_that_stood_still_is_not_the_upstreams_fault(
    starter: Starter, mock_clock: trio.testing.MockClock
) -> None:
    """What had come by the time that the loop went on counts, however late it is read."""
    rig = await starter(idle_timeout=10, progress_timeout=10)
    client, upstream = await rig.reach(ASK)
    await upstream.send(STREAM + chunked(TOKEN))
    await client.until(TOKEN)
    mock_clock.jump(30)
    await upstream.send(chunked(TOKEN))  # before anything else runs
    await client.until(TOKEN)
    mock_clock.jump(LATE)
    await trio.testing.wait_all_tasks_blocked(0.01)
    await upstream.send(chunked(STOP, DONE) + LAST)
    await client.until(LAST)
    assert (await rig.line())["verdict"] == "complete"
    mock_clock.autojump_threshold = 0.01


async def test_many_clients_that_leave_at_once(starter: Starter) -> None:
    """Readiness is still answered, and each of them has its line."""
    count = 200
    async with open_upstream("head\ntoken Hello\nstall") as upstream:
        rig = await starter(origin=Origin.parse(upstream.url))
        clients = [await rig.client(ASK) for _ in range(count)]
        for client in clients:
            await client.until(b"Hello")
        for client in clients:
            client.reset()
        probe = await rig.client(b"GET /-/ready HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await probe.answer()).status == 200
        verdicts = {(await rig.line())["verdict"] for _ in range(count)}
        assert verdicts == {"client_gone"}
        with patience() as scope:
            while upstream.open:
                await trio.lowlevel.checkpoint()
        assert not scope.cancelled_caught
