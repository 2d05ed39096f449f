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
from sseflow.proxy._exchange import Handler, dialect_for
from sseflow.proxy._log import make_logger
from sseflow.proxy._verdict import Verdict
from sseflow.records import History
from sseflow.resilience import CircuitOpen

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

NEVER = 1e9
"""Seconds that do not pass."""

#: What an upstream does, one after the other: send bytes, wait seconds, or end.
Act: TypeAlias = bytes | float | Ending


@attrs.frozen
class Turn:
    """A request that came to an upstream: what follows on its connection, up to the next one, is the answer."""

    wire: MemoryWire
    request: bytes
    begin: int
    """Of the answer, among the bytes that the upstream has given."""

    end: int | None

    at: float


@attrs.define
class Exchange:
    """What became of one exchange."""

    client: MemoryWire
    upstreams: list[MemoryWire]
    turns: list[Turn]
    lines: list[dict[str, Any]]
    hung: bool
    steps: int

    @property
    def line(self) -> dict[str, Any] | None:
        """The log line of it."""
        found = [line for line in self.lines if line["event"] == "exchange"]
        assert len(found) <= 1, found
        return found[0] if found else None

    @property
    def truths(self) -> list[Truth]:
        """What each request was really answered."""
        is_chat = self.line is None or self.line["path"].endswith("/chat/completions")
        return [truth_of(turn.wire, is_chat=is_chat, begin=turn.begin, end=turn.end) for turn in self.turns]


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
    *scripts: Sequence[Act],
    interfere: Callable[[App, MemoryWire, list[MemoryWire]], None] | None = None,
    at: int | None = None,
    handler: Handler | None = None,
    switchboard: bool = True,
    history: History | None = None,
    **settings: Any,
) -> Exchange:
    """Run one exchange to its end; ``interfere`` happens before the scheduler's step ``at``.

    The first request that comes to an upstream is answered with the first of ``scripts``, and so on; those behind the
    last one are not answered. Breakers begin half open, so that a permit that nobody gives back is seen.
    An exchange that has not ended within a virtual hour has hung.
    """
    client_wire = MemoryWire()
    upstreams: list[MemoryWire] = []
    turns: list[Turn] = []
    left = list(scripts)
    log = io.StringIO()
    finished: list[Exchange] = []
    everything: list[trio.Nursery] = []

    async def dial(origin: Origin, options: ConnectOptions) -> MemoryWire:
        await trio.lowlevel.checkpoint()
        wire = MemoryWire()
        upstreams.append(wire)
        everything[0].start_soon(serve, wire)
        return wire

    async def serve(wire: MemoryWire) -> None:
        taken = 0

        def request() -> bytes:
            return bytes(wire.taken[taken : taken + _request_end(wire.taken[taken:])])

        while True:
            await wire.wait(lambda: bool(request()) or wire.closed)
            if wire.closed:
                return
            turn = Turn(wire, request(), len(wire.given), None, trio.current_time())
            taken += len(turn.request)
            at = len(turns)
            turns.append(turn)
            await play(wire, left.pop(0) if left else ())
            turns[at] = attrs.evolve(turn, end=len(wire.given))

    async def play(wire: MemoryWire, acts: Sequence[Act]) -> None:
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
            history=history,
        )
        _trip(app, request)
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
        _check_permits(app)
        trio.lowlevel.remove_instrument(steps)
        for wire in (client_wire, *upstreams):
            wire.dispose()
        lines = [json.loads(line) for line in log.getvalue().splitlines()]
        finished.append(Exchange(client_wire, upstreams, turns, lines, hung, steps.count))

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return finished[0]


def _trip(app: App, request: bytes) -> None:
    """Let the breakers for a request be half open."""
    dialect = dialect_for(request.split(b" ")[1])
    for path in app.routing.paths:
        for provider in path.providers:
            if path.breakers is not None:
                breaker = path.breakers.get(provider.settings.name, dialect.name, "")
                while not breaker.tripped:
                    breaker.admit(-HANGS).failure(-HANGS)


def _check_permits(app: App) -> None:
    """Fail if somebody still has a permit of a breaker."""
    for path in app.routing.paths:
        for name, breaker in path.breakers or ():
            try:
                breaker.admit(NEVER)
            except CircuitOpen:
                raise AssertionError(f"a permit for {name} was not given back") from None


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


def truth_of(wire: MemoryWire, *, is_chat: bool = True, begin: int = 0, end: int | None = None) -> Truth:
    """Read all that an upstream has given, or one answer of it."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="POST", target="/", headers=[("Host", "a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(bytes(wire.given[begin:end]))
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


LOGGED = {"exchange", "refused", "failed over", "retry", "hedge", "key out", "chain recovered"}


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
    assert {line["event"] for line in exchange.lines} <= LOGGED
    assert "error" not in {line["level"] for line in exchange.lines}
    answer, line = read_answer(exchange.client), exchange.line
    if line is None:
        assert answer.status in (0, 400, 408, 503)
        return
    verdict = line["verdict"]
    assert verdict in {one.value for one in Verdict} - {"internal_error"}
    assert (line["status"], line["level"]) == (
        answer.status or line["status"],
        "info" if verdict in ("complete", "client_gone", "drained", "interrupted") else "warning",
    )
    truths, wires = exchange.truths, [turn.wire for turn in exchange.turns]
    if not truths:
        truths, wires = [Truth(0, False, b"", False, False)], [exchange.client]
    # The answer is that of one upstream, whichever.
    lies = [
        _lie(exchange, answer, verdict, truth, clean=clean, lingers=lingers, stays=wire.left == "open")
        for truth, wire in zip(truths, wires, strict=True)
    ]
    assert None in lies, lies


def _lie(
    exchange: Exchange, answer: Read, verdict: str, truth: Truth, *, clean: bool, lingers: bool, stays: bool
) -> str | None:
    """What is wrong with an answer, if it is that of the upstream that has said ``truth``; None if nothing is."""
    if verdict == "complete":
        if not truth.ended:
            return "it was called complete"
        if truth.whole and exchange.client.left == "open" and not answer.complete:
            return "a whole answer was cut"
    if answer.status != 200 or not truth.streams:
        return None
    body, _ = split_error(answer.body)
    said, sent = without_comments(body), without_comments(truth.body)
    # The upstream's own error may be the last thing that was passed on. Of a coding that was cut, a decoder that is
    # asked once for all may give a little less than one that is asked again and again.
    is_part = sent.startswith(said) or sent.startswith(without_comments(answer.body))
    if not (is_part or (truth.cut and said.startswith(sent))):
        return "it says something else"
    if answer.complete and not clean:
        if not (truth.whole or (truth.ended and (lingers or stays))):
            return "it looks complete"
        if without_comments(answer.body) != sent and not lingers:
            return "it looks complete, and something is missing"
        if verdict not in ("complete", "upstream_error", "client_gone"):
            return "it looks complete, and was not called so"
    return None


def _request_end(data: bytes | bytearray) -> int:
    """How long the request is that begins there; 0 if it has not come whole."""
    head, blank, body = bytes(data).partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0] or 0)
    return len(head) + 4 + length if blank and len(body) >= length else 0


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
