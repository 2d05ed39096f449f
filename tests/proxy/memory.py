"""Whole exchanges in memory: a client, the proxy and an upstream, without a socket, on a clock that jumps."""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
import socket
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import attrs
import brotli
import h11
import trio
import trio.testing
from backports import zstd

from sseflow.http import ConnectOptions, Origin, SocketWire
from sseflow.http._wire import RECV_SIZE
from sseflow.proxy._app import App
from sseflow.proxy._exchange import Handler
from sseflow.proxy._log import make_logger
from sseflow.proxy._verdict import Verdict

from .rig import settings_for, split_error

#: How one end of a connection is left.
Ending: TypeAlias = Literal["open", "eof", "reset"]


class MemoryWire(SocketWire):
    """The proxy's end of a connection, and by `give`, `leave` and `taken` also the other one.

    Args:
        room: bytes that the other end takes before it stops reading; None: any number.
        polled: whether it has a descriptor that says what it has, as the one of a socket would.
    """

    def __init__(self, *, room: int | None = None, polled: bool = True) -> None:
        self.sent = 0
        self.taken = bytearray()
        """What the proxy has sent."""

        self.ending: Ending = "open"
        """How the proxy has ended it."""

        self.closed_at = math.inf
        """When the proxy has closed it."""

        self.left_at = math.inf
        """When the other end has ended it."""

        self.room = room
        """Bytes that the other end takes before it stops reading; None: any number."""

        self.given = bytearray()
        """What the other end has sent."""

        self._given = bytearray()
        self._left: Ending = "open"
        self._change = trio.Event()
        self._rest = memoryview(b"")
        self._poll: socket.socket | None = None
        self._signal: socket.socket | None = None
        if polled:
            self._poll, self._signal = socket.socketpair()

    # The other end.

    def give(self, data: bytes) -> None:
        """Send something to the proxy."""
        if self._left != "open" or not data:
            return
        self.given += data
        if self._signal is not None and not self._given and not self.closed:
            self._signal.send(b"x")
        self._given += data
        self._changed()

    def leave(self, how: Ending) -> None:
        """End it: in good order, or by a reset, which destroys what was not read."""
        if self._left == "open" != how:
            self._left = how
            self.left_at = trio.current_time()
            if how == "reset":
                self._given.clear()
            if self._signal is not None:
                self._signal.close()
            self._changed()

    def stop_reading(self) -> None:
        """Take nothing more."""
        self.room = 0

    async def wait(self, holds: Callable[[], bool]) -> None:
        """Wait until something is so."""
        while not holds():
            await self._change.wait()

    def _changed(self) -> None:
        self._change.set()
        self._change = trio.Event()

    # The proxy's end, as `SocketWire` has it.

    @property
    def closed(self) -> bool:
        """Whether the proxy has closed it."""
        return self.closed_at < math.inf

    @property
    def unread(self) -> int:
        """Bytes that the proxy has not read."""
        return len(self._given)

    @property
    def left(self) -> Ending:
        """How the other end has ended it."""
        return self._left

    @property
    def peer(self) -> str:
        return "10.0.0.1"

    def _check(self) -> None:
        if self.closed:
            raise trio.ClosedResourceError("this connection was closed")

    def fileno(self) -> int:
        return -1 if self._poll is None or self.closed else self._poll.fileno()

    async def wait_readable(self) -> None:
        await trio.lowlevel.checkpoint()
        while not (self.closed or self.is_readable()):
            await self._change.wait()
        self._check()

    def receive_nowait(self, max_bytes: int = RECV_SIZE) -> bytes | None:
        self._check()
        if self._left == "reset":
            raise trio.BrokenResourceError("reset by peer")
        if not self._given:
            return b"" if self._left == "eof" else None
        data = bytes(self._given[:max_bytes])
        del self._given[:max_bytes]
        if not self._given and self._poll is not None:
            self._poll.recv(1)
        return data

    def send_nowait(self, data: bytes | bytearray | memoryview) -> bool:
        self._check()
        if self._rest:
            raise trio.BrokenResourceError("the write before was cut")
        self._rest = memoryview(data)[self._take(data) :]
        return not self._rest

    def _take(self, data: bytes | bytearray | memoryview) -> int:
        self._check()
        if self._left == "reset":
            raise trio.BrokenResourceError("reset by peer")
        size = len(data) if self.room is None else min(self.room, len(data))
        if self.room is not None:
            self.room -= size
        self.taken += data[:size]
        self.sent += size
        if size:
            self._changed()
        return size

    async def flush(self) -> None:
        while self._rest:
            await self._change.wait()
            self._rest = self._rest[self._take(self._rest) :]

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        if not self.send_nowait(data):
            await self.flush()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    def shutdown(self) -> None:
        if self.ending == "open":
            self.ending = "eof"
        self._changed()

    def reset(self) -> None:
        self.ending = "reset"

    def is_readable(self) -> bool:
        return bool(self._given) or self._left != "open"

    def peer_has_left(self) -> bool:
        return self._left != "open"

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        if not self.closed:
            self.closed_at = trio.current_time()
            if self.ending == "open":
                self.ending = "eof"
            self.dispose()
            self._changed()

    def dispose(self) -> None:
        """Give the descriptors back; for when all is over."""
        for end in (self._poll, self._signal):
            if end is not None:
                end.close()


HANGS = 3600
"""Virtual seconds after which an exchange has hung."""

#: What an upstream does, one after the other: send bytes, wait seconds, or end.
Act: TypeAlias = bytes | float | Ending


@attrs.define
class Exchange:
    """What became of one exchange."""

    client: MemoryWire
    upstreams: list[MemoryWire]
    lines: list[dict[str, Any]]
    hung: bool
    steps: int

    @property
    def line(self) -> dict[str, Any] | None:
        """The log line of it."""
        found = [line for line in self.lines if line["event"] == "exchange"]
        assert len(found) <= 1, found
        return found[0] if found else None


class _Steps(trio.abc.Instrument):
    """Does something between two steps of the scheduler."""

    def __init__(self, at: int | None, act: Callable[[], None]) -> None:
        self.count = 0
        self._at = at
        self._act = act

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1
        if self.count == self._at:
            self._act()


def run_exchange(
    request: bytes,
    acts: Sequence[Act],
    *,
    interfere: Callable[[App, MemoryWire, list[MemoryWire]], None] | None = None,
    at: int | None = None,
    then: Sequence[Act] = (),
    handler: Handler | None = None,
    switchboard: bool = True,
    **settings: Any,
) -> Exchange:
    """Run one exchange to its end; ``interfere`` happens before the scheduler's step ``at``.

    The first connection to the upstream plays ``acts``, any other one ``then``.
    An exchange that has not ended within a virtual hour has hung.
    """
    client_wire = MemoryWire()
    upstreams: list[MemoryWire] = []
    log = io.StringIO()
    finished: list[Exchange] = []
    everything: list[trio.Nursery] = []

    async def dial(origin: Origin, options: ConnectOptions) -> MemoryWire:
        await trio.lowlevel.checkpoint()
        wire = MemoryWire()
        upstreams.append(wire)
        everything[0].start_soon(play, wire, acts if len(upstreams) == 1 else then)
        return wire

    async def play(wire: MemoryWire, acts: Sequence[Act]) -> None:
        await wire.wait(lambda: _is_request(bytes(wire.taken)) or wire.closed)
        for act in acts:
            if wire.closed:
                return
            match act:
                case bytes():
                    wire.give(act)
                    await trio.lowlevel.checkpoint()
                case str():
                    wire.leave(act)
                case _:
                    await trio.sleep(act)

    async def main() -> None:
        app = App(
            settings_for(Origin("http", "upstream", 80), **settings),
            make_logger(log, json=True),
            dial=dial,
            handlers={} if handler is None else {b"/v1/chat/completions": handler},
            switchboard=switchboard,
        )
        steps = _Steps(at, lambda: interfere(app, client_wire, upstreams) if interfere is not None else None)
        hung = True
        async with trio.open_nursery() as nursery:
            everything.append(nursery)
            with trio.move_on_after(HANGS):
                async with trio.open_nursery() as inner:
                    await inner.start(app.run, ())
                    app._server.admit(client_wire)
                    client_wire.give(request)
                    trio.lowlevel.add_instrument(steps)
                    await client_wire.wait(lambda: _has_answer(client_wire))
                    client_wire.leave("eof")
                    await client_wire.wait(lambda: client_wire.closed)
                    app.drain()
                    hung = False
            nursery.cancel_scope.cancel()
        trio.lowlevel.remove_instrument(steps)
        for wire in (client_wire, *upstreams):
            wire.dispose()
        lines = [json.loads(line) for line in log.getvalue().splitlines()]
        finished.append(Exchange(client_wire, upstreams, lines, hung, steps.count))

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return finished[0]


def plain(body: bytes, coding: bytes) -> tuple[bytes, bool]:
    """What can be read of a body, by other means than the proxy's, and whether its coding is complete."""
    if not coding or not body:
        return body, True
    try:
        if coding == b"br":
            brotli_ = brotli.Decompressor()
            out = brotli_.process(body)
            while more := brotli_.process(b""):
                out += more
            return out, brotli_.is_finished()
        zlib_ = zstd.ZstdDecompressor() if coding == b"zstd" else zlib.decompressobj(15 if coding == b"deflate" else 31)
        return zlib_.decompress(body), zlib_.eof
    except (brotli.error, zstd.ZstdError, zlib.error):
        return b"", False


@attrs.frozen
class Truth:
    """What an upstream has really said, read by rules that are not the proxy's."""

    status: int
    streams: bool
    body: bytes
    whole: bool
    """Whether the body was complete by its framing, and, of a stream, stands between two events behind a terminator."""

    ended: bool
    """Whether a terminator was seen, in a stream; else whether the body was complete."""

    cut: bool = False
    """Whether its coding was."""


_LINE_END = re.compile(rb"\r\n|\r|\n")
_END = re.compile(rb'data: ?(?:\[DONE\]|.*"finish_reason":"[a-z]+".*)')


def truth_of(wire: MemoryWire, *, is_chat: bool = True) -> Truth:
    """Read all that an upstream has given."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="POST", target="/", headers=[("Host", "a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(bytes(wire.given))
    if wire.left == "eof":
        connection.receive_data(b"")
    status, body, streams, complete, coding = 0, b"", False, False, b""
    with contextlib.suppress(h11.RemoteProtocolError):
        while (event := connection.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
            if isinstance(event, h11.Response):
                status = event.status_code
                fields = dict(event.headers)
                streams = fields.get(b"content-type", b"").startswith(b"text/event-stream")
                coding = fields.get(b"content-encoding", b"")
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                complete = True
                break
            elif isinstance(event, h11.ConnectionClosed):
                break
    if not streams:
        return Truth(status, streams, body, complete, complete)
    body, decoded = plain(body, coding)
    complete = complete and decoded
    lines = _LINE_END.split(body.removeprefix(b"\xef\xbb\xbf"))
    if not is_chat:
        # Plain events may end anywhere between two of them.
        inside = lines[max((i for i, line in enumerate(lines[:-1]) if not line), default=-1) + 1 :]
        whole = complete and not any(line.startswith(b"data") for line in inside)
        return Truth(status, streams, body, whole, whole, not decoded)
    ended = any(_END.fullmatch(line) for line in lines)
    # An error of the upstream's own, in its stream, is an end, too, if the stream then ends; the verdict says which.
    refused = any(line.startswith(b'data: {"error"') for line in lines)
    return Truth(status, streams, body, complete and (ended or refused), ended, not decoded)


def without_comments(body: bytes) -> bytes:
    """The lines of a stream that say something, each with one line end."""
    lines = _LINE_END.split(body.removeprefix(b"\xef\xbb\xbf"))
    return b"\n".join(line for line in lines if line and not line.startswith(b":"))


def check(exchange: Exchange, *, clean: bool = False, lingers: bool = True) -> None:
    """Whatever happened: nothing hangs or is left, there is one verdict, and nobody was told a lie.

    Args:
        exchange: what happened.
        clean: streams that failed are ended cleanly, too.
        lingers: behind the terminator, an upstream that does not end in time is closed, and the stream is whole.
    """
    assert not exchange.hung
    assert exchange.client.closed
    assert all(wire.closed for wire in exchange.upstreams)
    assert {line["event"] for line in exchange.lines} <= {"exchange", "refused"}
    assert "error" not in {line["level"] for line in exchange.lines}
    answer, line = read_answer(exchange.client), exchange.line
    is_chat = line is not None and line["path"].endswith("/chat/completions")
    truth = Truth(0, False, b"", False, False)
    if exchange.upstreams:
        truth = truth_of(exchange.upstreams[-1], is_chat=is_chat)
    if line is None:
        assert answer.status in (0, 400, 408, 503)
        return
    verdict = line["verdict"]
    assert verdict in {one.value for one in Verdict} - {"internal_error"}
    assert (line["status"], line["level"]) == (
        answer.status or line["status"],
        "info" if verdict in ("complete", "client_gone", "drained", "interrupted") else "warning",
    )
    if verdict == "complete":
        assert truth.ended
        assert exchange.client.left != "open" or answer.complete or not truth.whole
    if answer.status != 200 or not truth.streams:
        return
    body, _ = split_error(answer.body)
    said, sent = without_comments(body), without_comments(truth.body)
    # The upstream's own error may be the last thing that was passed on. Of a coding that was cut, a decoder that is
    # asked once for all may give a little less than one that is asked again and again.
    is_part = sent.startswith(said) or sent.startswith(without_comments(answer.body))
    assert is_part or (truth.cut and said.startswith(sent))
    if answer.complete and not clean:
        stays = exchange.upstreams[-1].left == "open"
        assert truth.whole or (truth.ended and (lingers or stays))
        assert without_comments(answer.body) == sent or lingers
        assert verdict in ("complete", "upstream_error", "client_gone")


def _is_request(data: bytes) -> bool:
    head, blank, body = data.partition(b"\r\n\r\n")
    length = head.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
    return bool(blank) and len(body) >= int(length or 0)


def _has_answer(wire: MemoryWire) -> bool:
    return wire.closed or wire.ending != "open" or wire._left != "open" or read_answer(wire).complete


@attrs.frozen
class Read:
    """What a client makes of what it got."""

    status: int
    body: bytes
    complete: bool


def read_answer(wire: MemoryWire, method: bytes = b"POST") -> Read:
    """Read an answer as h11 does."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(bytes(wire.taken))
    if wire.ending == "eof":
        connection.receive_data(b"")
    status, body, coding, complete = 0, b"", b"", False
    with contextlib.suppress(h11.RemoteProtocolError):
        while (event := connection.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
            if isinstance(event, h11.Response):
                status = event.status_code
                coding = dict(event.headers).get(b"content-encoding", b"")
            elif isinstance(event, h11.Data):
                body += event.data
            elif not isinstance(event, h11.InformationalResponse):
                complete = isinstance(event, h11.EndOfMessage)
                break
    body, decoded = plain(body, coding)
    return Read(status, body, complete and decoded)
