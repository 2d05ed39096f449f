"""What clients are pointed at: the demo upstream, an upstream that plays a script, and the proxy in front of one."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Sequence
from typing import TypeAlias

import attrs
import trio

from sseflow.http import Address, Listener, Origin, Server, listen
from sseflow.proxy._app import App
from sseflow.proxy._demo import Demo
from sseflow.proxy._log import make_logger

from ..proxy.rig import settings_for

#: Bytes to send in one write, or an event to wait for before the next.
Script: TypeAlias = Sequence[bytes | trio.Event]

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"

PATIENCE = 20
"""Seconds after which a test that waits for something fails, instead of hanging."""


def chunk(data: bytes) -> bytes:
    """Frame ``data`` as one chunk of a body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


@attrs.frozen
class Running:
    """A server that runs."""

    url: str


@attrs.frozen
class RunningProxy(Running):
    """The proxy, while it runs."""

    app: App
    log: io.StringIO
    ended: trio.Event

    async def verdicts(self) -> list[str]:
        """End the proxy, so that all is logged, and return the verdicts in order."""
        self.app.drain()
        with trio.fail_after(PATIENCE):
            await self.ended.wait()
        lines = [json.loads(line) for line in self.log.getvalue().splitlines()]
        return [line["verdict"] for line in lines if line["event"] == "exchange"]


def _complain(message: str, error: BaseException) -> None:
    raise AssertionError(message) from error


async def run_demo(nursery: trio.Nursery) -> Running:
    """Start the demo upstream; it sends as fast as it can."""
    listeners = listen(Address("127.0.0.1", 0))
    demo = Demo(pace=0)
    await nursery.start(Server(demo.handle, refuse=demo.refuse, on_error=_complain).run, listeners)
    return Running(f"http://{listeners[0].address}")


async def run_script(nursery: trio.Nursery, script: Script) -> Running:
    """Start an upstream that plays ``script`` on each connection, behind one request, and closes it."""
    start = functools.partial(trio.serve_tcp, functools.partial(_play, script), 0, host="127.0.0.1")
    listeners: list[trio.SocketListener] = await nursery.start(start)
    return Running(f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}")


async def _play(script: Script, stream: trio.SocketStream) -> None:
    # A close with unread bytes is a reset, and would destroy what was sent: so the whole request is read first.
    received = b""
    while not _is_request(received):
        data = await stream.receive_some()
        if not data:
            return
        received += data
    for step in script:
        if isinstance(step, bytes):
            await stream.send_all(step)
        else:
            with trio.fail_after(PATIENCE):
                await step.wait()


def _is_request(received: bytes) -> bool:
    head, blank, body = received.lower().partition(b"\r\n\r\n")
    length = head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
    return bool(blank) and len(body) >= int(length or 0)


async def run_proxy(nursery: trio.Nursery, upstream: Running) -> RunningProxy:
    """Start the proxy, as the command line would, in front of ``upstream``."""
    listeners = listen(Address("127.0.0.1", 0))
    log = io.StringIO()
    app = App(settings_for(Origin.parse(upstream.url)), make_logger(log, json=True))
    running = RunningProxy(f"http://{listeners[0].address}", app, log, trio.Event())
    await nursery.start(_run_app, running, listeners)
    return running


async def _run_app(
    proxy: RunningProxy, listeners: list[Listener], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    await proxy.app.run(listeners, task_status=task_status)
    proxy.ended.set()
