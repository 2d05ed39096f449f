"""Several processes on one address: what each of them does, and what becomes of all when one of them dies."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing
import trustme

from sseflow import ConfigurationError
from sseflow.proxy._cli import parse
from sseflow.proxy._log import make_logger
from sseflow.proxy._workers import GRACE, MAX_QUICK, PAUSE, QUICK, STARTING, Backoff, Supervisor

from .peers import Peer, Upstream, chunked, patience
from .rig import DONE, LAST, STOP, STREAM, TOKEN, Log
from .test_process import HEALTH, LOCAL_CHAT, Child, program, run, to

MANY = 32
"""Connections, so that all workers have some: that one has none happens once in a billion times."""

CHUNKED_END = chunked(STOP, DONE) + LAST


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    """A server to play."""
    upstream = await Upstream.open()
    yield upstream
    upstream.close()


async def worker_of(client: Peer) -> int:
    """Which worker serves this connection; one that was asked already."""
    answer = await client.answer()
    assert answer.status == 200
    worker: int = json.loads(answer.body)["worker"]
    return worker


async def client_of(child: Child, worker: int) -> Peer:
    """A connection that this worker serves."""
    while True:
        client = await child.connect(HEALTH)
        if await worker_of(client) == worker:
            return client
        client.close()


async def stream_of(child: Child, upstream: Upstream, worker: int) -> tuple[Peer, Peer]:
    """A client of this worker that has got its first token, and the upstream's end."""
    client = await client_of(child, worker)
    await client.send(LOCAL_CHAT)
    peer = await upstream.accept()
    await peer.request_of(2)
    await peer.send(STREAM + chunked(TOKEN))
    await client.until(TOKEN)
    return client, peer


def pids(child: Child) -> dict[int, int]:
    """The processes of the workers that were started last."""
    return {line["worker"]: line["pid"] for line in child.lines if line["event"] == "worker started"}


async def test_all_of_them_serve(upstream: Upstream, tmp_path: Path) -> None:
    """One port that was free, one Unix socket; each worker has its part of both, and each line says whose it is."""
    path = str(tmp_path / "in.sock")
    async with program(*to(upstream), "--workers", "2", listen=("127.0.0.1:0", f"unix:{path}")) as child:
        assert [line["event"] for line in child.lines] == ["worker started"] * 2 + ["listening"] * 2
        assert len({child.process.pid, *pids(child).values()}) == 3
        clients = [await child.connect(HEALTH) for _ in range(MANY)]
        assert {await worker_of(client) for client in clients} == {1, 2}
        with pytest.raises(OSError, match="failed"):
            await trio.open_tcp_stream("::1", child.port)
        local = await child.connect(HEALTH, path=path)
        assert await worker_of(local) in (1, 2)
        for worker in (1, 2):
            client, peer = await stream_of(child, upstream, worker)
            await peer.send(CHUNKED_END)
            await client.until(LAST)
            assert (await child.line("exchange"))["worker"] == worker
        for client in (*child.clients, *upstream.peers):
            client.close()
        child.process.send_signal(signal.SIGTERM)
        assert await child.status() == 0
        *ends, last = [line for line in child.lines if line["event"] == "ended"]
        assert sorted((line["worker"], line["cut"]) for line in ends) == [(1, 0), (2, 0)]
        assert "worker" not in last
        assert last["status"] == 0
    assert not await trio.Path(path).exists()


async def test_a_signal_drains_all(upstream: Upstream) -> None:
    """Nothing new is accepted by any, each live stream may end, and the exit status is 0.

    A terminal sends the signal to all of them, and it counts once.
    """
    async with program(*to(upstream), "--workers", "2") as child:
        streams = [await stream_of(child, upstream, worker) for worker in (1, 2)]
        idle = [await client_of(child, worker) for worker in (1, 2)]
        os.killpg(child.process.pid, signal.SIGINT)
        assert [(await child.line("draining")).get("signal") for _ in range(3)] == ["SIGINT"] * 3
        for client in idle:
            assert await client.rest() == b""
        with pytest.raises(OSError, match="failed"):
            await child.connect()
        for client, peer in streams:
            await peer.send(CHUNKED_END)
            assert await client.rest() == b"\r\n" + CHUNKED_END
            client.close()
        assert await child.status() == 0
        assert sum(line["event"] == "draining" for line in child.lines) == 3


async def test_a_second_signal_cuts(upstream: Upstream) -> None:
    """A stream that is cut in one worker is an exit status of 1, also if the others have cut nothing."""
    async with program(*to(upstream), "--workers", "2", "--drain", "60") as child:
        client, _ = await stream_of(child, upstream, 2)
        child.process.send_signal(signal.SIGTERM)
        while (await child.line("draining")).get("worker") != 2:
            pass
        child.process.send_signal(signal.SIGTERM)
        assert b'"code": "drained"' in await client.rest()
        client.close()
        assert await child.status() == 1
        cut = {line["worker"]: line["cut"] for line in child.lines if line["event"] == "ended" and "worker" in line}
        assert cut == {1: 0, 2: 1}


async def test_one_that_dies_is_replaced(upstream: Upstream) -> None:
    """The others go on, nobody who waited for it is lost, and it was no failure of the end."""
    async with program(*to(upstream), "--workers", "2") as child:
        first = pids(child)
        lost, _ = await stream_of(child, upstream, 1)
        kept, peer = await stream_of(child, upstream, 2)
        os.kill(first[1], signal.SIGSTOP)
        waiting = [await child.connect(HEALTH) for _ in range(MANY)]
        os.kill(first[1], signal.SIGKILL)
        assert LAST not in await lost.rest()
        died = await child.line("worker died")
        assert (died["worker"], died["status"], died["level"]) == (1, -signal.SIGKILL, "error")
        assert (await child.line("worker started"))["worker"] == 1
        assert {await worker_of(client) for client in waiting} == {1, 2}
        assert pids(child)[1] not in first.values()
        await peer.send(CHUNKED_END)
        assert (await kept.until(LAST)).endswith(LAST)
        client, peer = await stream_of(child, upstream, 1)
        await peer.send(CHUNKED_END)
        assert (await client.until(LAST)).endswith(LAST)
        for end in child.clients:
            end.close()
        child.process.send_signal(signal.SIGTERM)
        assert await child.status() == 0
        assert sum(line["event"] == "listening" for line in child.lines) == 1


async def test_they_end_when_the_supervisor_is_killed(upstream: Upstream) -> None:
    """Nobody is left behind, and no stream that lives is cut for it."""
    async with program(*to(upstream), "--workers", "2") as child:
        client, peer = await stream_of(child, upstream, 1)
        child.process.kill()
        told = [await child.line("draining") for _ in range(2)]
        assert sorted((line["worker"], line["signal"]) for line in told) == [(1, None), (2, None)]
        await peer.send(CHUNKED_END)
        assert await client.rest() == b"\r\n" + CHUNKED_END
        client.close()
        # The log ends when nobody is left who could write to it.
        assert await child.status() == -signal.SIGKILL
        assert sorted(line["worker"] for line in child.lines if line["event"] == "ended") == [1, 2]


async def test_a_demo_for_each(tmp_path: Path) -> None:
    """How to try it is said once, and each worker has its demo; each speaks TLS, if one does."""
    authority = trustme.CA()
    cert = authority.issue_cert("localhost")
    cert.private_key_and_cert_chain_pem.write_to_path(tmp_path / "cert")
    tls = ssl.create_default_context()
    authority.configure_trust(tls)
    files = ("--tls-cert", str(tmp_path / "cert"), "--tls-key", str(tmp_path / "cert"))
    ask = LOCAL_CHAT.replace(b"2\r\n\r\n{}", b'16\r\n\r\n{"stream": true}')
    async with program("--demo", "--demo-pace", "0", "--workers", "2", *files) as child:
        assert child.process.stdout is not None
        missing = {1, 2}
        while missing:
            plain = await trio.open_tcp_stream("127.0.0.1", child.port)
            client = Peer(trio.SSLStream(plain, tls, server_hostname="localhost"))
            child.clients.append(client)
            await client.send(HEALTH)
            missing.discard(await worker_of(client))
            await client.send(ask)
            assert (await client.until(LAST)).endswith(DONE + b"\r\n" + LAST)
            client.close()
        child.process.send_signal(signal.SIGINT)
        shown = b""
        with patience():
            while data := await child.process.stdout.receive_some():
                shown += data
        assert shown.count(b"Ctrl-C") == 1
        assert await child.status() == 0


def test_an_address_in_use_is_one_line() -> None:
    """It is the first process that says so, before it has started any other."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run("--upstream", "http://127.0.0.1:1", "--listen", address, "--workers", "2")
    assert done.returncode == 1
    assert done.stderr == f"sseflow: cannot listen on {address}: Address already in use\n"


def test_a_bad_certificate_is_one_line() -> None:
    """What is wrong with the command line is said once, and ends with 2."""
    done = run("--demo", "--workers", "2", "--tls-cert", "/nowhere", "--tls-key", "/nowhere")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "--tls-cert" in done.stderr


def test_where_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that cannot do it is a command line that is wrong."""
    monkeypatch.setattr(sys, "platform", "win32")
    assert parse(["--demo"]).workers == 1
    with pytest.raises(ConfigurationError, match=r"--workers .* Windows"):
        parse(["--demo", "--workers", "2"])


def test_when_it_is_started_again() -> None:
    """At once behind a long life; ever later behind short ones; and at some time no more."""
    backoff = Backoff()
    assert [backoff.pause(lived) for lived in (QUICK, 1e6, QUICK)] == [0, 0, 0]
    pauses = [backoff.pause(QUICK - 0.01) for _ in range(MAX_QUICK)]
    assert pauses == [PAUSE, 2 * PAUSE, 4 * PAUSE, 8 * PAUSE, None]
    assert [backoff.pause(lived) for lived in (QUICK, 0)] == [0, PAUSE]


# The supervisor, with scripts for workers, on a clock that only the test moves.

START = "import json, os, sys, time; number, control, _ = json.loads(os.environ['SSEFLOW_WORKER']);"
SERVE = START + "os.write(control, b'.');"
STUCK = "time.sleep(60)"


@attrs.define
class Supervised:
    """A supervisor that runs, and its log."""

    supervisor: Supervisor
    log: Log
    announced: list[str]
    status: int | None = None

    async def run(self) -> None:
        """Run until all have ended."""
        self.status = await self.supervisor.run()


@asynccontextmanager
async def supervised(script: str, workers: int = 1) -> AsyncIterator[Supervised]:
    """Run a supervisor; it has to end, and has no worker left then."""
    log, announced = Log(), list[str]()
    supervisor = Supervisor(
        [sys.executable, "-S", "-c", script],
        [[]] * workers,
        bindings=(),
        drain=30,
        announce=lambda: announced.append("all serve"),
        log=make_logger(log, json=True),
    )
    run = Supervised(supervisor, log, announced)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run.run)
        yield run
    assert run.status is not None
    assert not supervisor._workers


async def test_one_that_dies_again_and_again(mock_clock: trio.testing.MockClock) -> None:
    """It does not spin, and is given up; the exit status is 1."""
    async with supervised(SERVE + "sys.exit(3)") as run:
        for death in range(1, MAX_QUICK):
            line = await run.log.next("worker died")
            assert (line["worker"], line["status"], line["pause"]) == (1, 3, PAUSE * 2 ** (death - 1))
            assert len(run.log.unread("worker started")) == death
            mock_clock.jump(line["pause"])
        assert (await run.log.next("worker died"))["pause"] is None
        assert (await run.log.next("giving up"))["level"] == "error"
    assert (run.status, run.announced) == (1, ["all serve"])


async def test_one_that_dies_now_and_then(mock_clock: trio.testing.MockClock) -> None:
    """A worker that has lived for long is started again at once, however often that happens."""
    async with supervised(SERVE + "os.read(control, 1)") as run:
        for _ in range(MAX_QUICK + 1):
            line = await run.log.next("worker started")
            mock_clock.jump(QUICK)
            os.kill(line["pid"], signal.SIGKILL)
            assert (await run.log.next("worker died"))["pause"] == 0
        await run.log.next("worker started")
        run.supervisor.drain()
    assert (run.status, run.announced) == (0, ["all serve"])


async def test_one_that_does_not_even_start() -> None:
    """Before all have served nothing is tried again: the others end, and the exit status is 1."""
    async with supervised(START + "number == 2 and sys.exit(3);" + SERVE + "os.read(control, 1)", 2) as run:
        line = await run.log.next("worker died")
        assert (line["worker"], line["status"], line["pause"]) == (2, 3, None)
    assert (run.status, run.announced) == (1, [])
    assert [line["worker"] for line in run.log.unread("giving up")] == [2]


async def test_one_that_cannot_be_started() -> None:
    """A system that has no process for it is told from a worker that died."""
    async with supervised(SERVE) as run:
        run.supervisor._command = ["/nowhere"]
        assert "No such file" in (await run.log.next("worker cannot be started"))["error"]
    assert run.status == 1


async def test_one_that_does_not_serve(mock_clock: trio.testing.MockClock) -> None:
    """A worker has a while to start, and no more."""
    async with supervised(START + STUCK) as run:
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(STARTING)
        assert (await run.log.next("worker died"))["status"] == -signal.SIGKILL
    assert run.status == 1


@pytest.mark.parametrize("twice", [False, True], ids=["in time", "second signal"])
async def test_one_that_does_not_end(mock_clock: trio.testing.MockClock, twice: bool) -> None:
    """A worker that does not heed what it is told is killed at last, and that was no good end."""
    async with supervised(SERVE + STUCK, 2) as run:
        for _ in range(2):
            await run.log.next("worker started")
        run.supervisor.drain()
        if twice:
            run.supervisor.drain()
        else:
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(30)
        await trio.testing.wait_all_tasks_blocked()
        assert not run.log.unread("worker killed")
        mock_clock.jump(GRACE)
        assert {(await run.log.next("worker killed"))["worker"] for _ in range(2)} == {1, 2}
    assert run.status == 1


async def test_the_worst_status_counts() -> None:
    """The exit status is that of the worker that ended worst, and each got the signal as it was."""
    async with supervised(SERVE + "sys.exit(number - 1 if os.read(control, 1)[0] == 2 else 9)", 3) as run:
        for _ in range(3):
            await run.log.next("worker started")
        os.kill(os.getpid(), signal.SIGINT)
        assert (await run.log.next("draining"))["signal"] == "SIGINT"
    assert run.status == 2
    assert (await run.log.next("ended"))["status"] == 2


async def test_a_signal_while_they_start() -> None:
    """It is heard as soon as they can hear it; that they serve is not said any more."""
    async with supervised(START + "os.read(control, 1);" + SERVE, 2) as run:
        await trio.testing.wait_all_tasks_blocked()
        run.supervisor.drain()
    assert (run.status, run.announced) == (0, [])
