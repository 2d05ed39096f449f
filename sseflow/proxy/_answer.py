"""One answer to a client, made of one upstream call, or of several in a row."""

# At any moment one task writes to the client. While a call is relayed that is the relay's pump, which is the task that
# called `relay`. Between two calls, and before the first, that task waits for something else: then
# `start_warming` starts a task that makes one write and ends. Whoever writes next waits for it first (`_settle`); it
# waits for nothing but the client, and that no longer than a write may take. So there is no lock, and nothing to hold.
#
# Whether the answer has begun is a state that is set where the head is written, and nowhere else. It is never inferred.

from __future__ import annotations

import contextlib
import enum
import functools
import math
from collections.abc import Awaitable, Callable, Iterator
from types import TracebackType

import attrs
import h11
import trio

from .. import (
    Closed,
    CutMidEvent,
    End,
    Eof,
    Failed,
    Head,
    Outcome,
    Pipeline,
    Relay,
    RequestError,
    StandardPipeline,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamRefused,
    is_event_stream,
)
from .._lines import BOM
from .._relay import Source
from .._switchboard import Switchboard
from ..dialects import Dialect
from ..http import Call, Decoded, Decoder, Encoder, Headers, Incoming, WriteTimeout, negotiate
from ..stages import HoldEnding, Transcript
from ._headers import client_head, own_head, plain_head
from ._refusal import content_codings, is_unlabelled, refusal_of
from ._settings import Policy
from ._verdict import Verdict, of_error
from ._words import as_answer, reason_of

TRAILER = b"Sseflow-Verdict"
"""Says the verdict behind an answer that is ended cleanly whatever became of it."""

ERROR_TIMEOUT = 5.0
"""Seconds to tell the client what went wrong. A client that reads takes it at once."""

#: Ends of a body behind which the client stands between two events. No state is kept: no answer means no.
_BETWEEN = (b"\n\n", b"\n\r\n", b"\r\r", b"\r\r\n")


class State(enum.Enum):
    """How far an answer is."""

    UNCOMMITTED = "uncommitted"
    """Nothing was written: it can still become any status."""

    STREAM = "stream"
    """An event stream has begun: it can be kept warm, go on with another call, and end with an error event."""

    PLAIN = "plain"
    """Something else has begun."""

    ENDED = "ended"
    """Its end was written, or it was aborted."""


@attrs.frozen
class CallOutcome:
    """What became of one upstream call of an answer."""

    head: Head
    """The upstream's."""

    outcome: Outcome
    pipeline: StandardPipeline | None
    """With the counter, the watch, and the recorder of its ending; None if it was no event stream."""


class Answer:
    """The answer to one request. Use it as ``async with exchange.answer() as answer``.

    ``await answer.relay(call)`` passes on what an upstream answers, and ends the answer as the call ended. With
    ``last=False`` the call's end is kept back, and another call may follow; then `finish` sends the end that was kept
    back last. So the terminator is always one that an upstream has sent. The head of a later call is checked and
    dropped: there is one head, one stream, and one verdict.
    """

    # One for each stream, with more attributes than Python keeps small by itself.
    __slots__ = (
        "_asks_for_stream",
        "_can_go_on",
        "_dialect",
        "_entered",
        "_held",
        "_incoming",
        "_on_over",
        "_on_watch_error",
        "_pending",
        "_policy",
        "_quiet_since",
        "_read_as",
        "_request_id",
        "_sink",
        "_switchboard",
        "_warming",
        "_warming_scope",
        "bytes_when_left",
        "calls",
        "cookies",
        "ended_before",
        "ends_with_client",
        "fields",
        "first_data",
        "keep_alives",
        "left",
        "left_at",
        "pipeline",
        "running",
        "state",
        "transcript",
        "whole",
        "write_error",
    )

    def __init__(
        self,
        incoming: Incoming,
        policy: Policy,
        dialect: Dialect,
        *,
        request_id: str,
        asks_for_stream: Callable[[], bool],
        on_over: Callable[[], None],
        on_watch_error: Callable[[Exception], object],
        switchboard: Switchboard | None = None,
    ) -> None:
        self.state = State.UNCOMMITTED
        self.calls: list[CallOutcome] = []
        self.keep_alives = 0
        """Keep-alives that were written."""

        self.running: Relay | None = None
        """The call that is being relayed."""

        self.pipeline: StandardPipeline | None = None
        """The pipeline of the call that is, or was last, relayed, if that is an event stream."""

        self._read_as = Head(200)
        """The head of the call that is, or was last, relayed, with the type that it should have had."""

        self.cookies = True
        """Whether an upstream's cookies are passed on."""

        self.transcript: Transcript | None = None
        """Shown what the client is sent."""

        self.fields: Headers = ()
        """More fields of the head."""

        self.first_data: float | None = None
        """When the first data came that opens a gate."""

        self.write_error: Exception | None = None

        self.whole = False
        """A clean end was written, and behind it nothing is missing."""

        self.left = False
        """The client left before the end."""

        self.ended_before = False
        """Whether the dialect's end had been passed on when it did."""

        self.ends_with_client = policy.on_client_gone == "cancel"
        """Whether a call ends when the client leaves."""

        self.left_at = 0.0
        self.bytes_when_left = 0

        self._incoming = incoming
        self._policy = policy
        self._dialect = dialect
        self._request_id = request_id
        self._asks_for_stream = asks_for_stream
        self._on_over = on_over
        self._on_watch_error = on_watch_error
        self._switchboard = switchboard
        self._entered = False
        self._sink: _CallSink | None = None
        self._held: HoldEnding | None = None
        self._can_go_on = True  # no call has failed behind bytes that were passed on
        self._pending: Head | None = None  # of a call that has brought nothing yet but its end
        self._warming_scope = trio.CancelScope()
        self._warming: trio.Event | None = None  # set when a write outside of a relay, if one is under way, is over
        self._quiet_since = trio.current_time()

    async def __aenter__(self) -> Answer:
        if self._entered:
            raise RuntimeError("a request has one answer")
        self._entered = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None and self.state is not State.ENDED:
            raise RuntimeError("an answer was left without an end")

    @property
    def committed(self) -> bool:
        """Whether the head was written."""
        return self.state is not State.UNCOMMITTED

    @property
    def passed_end(self) -> bool:
        """Whether the dialect's end came, and was kept back neither by the gate nor for another call."""
        pipeline = self.pipeline
        return pipeline is not None and pipeline.watch.ended and pipeline.gate.is_open and self._held is None

    @property
    def said_error(self) -> bool:
        """Whether an error of an upstream stood in the stream, and was passed on."""
        return self.pipeline is not None and self.pipeline.watch.error is not None and self.pipeline.gate.is_open

    @property
    def failure(self) -> Exception | None:
        """What the last call has failed with, if it was relayed; or the error that stood in its stream."""
        if not self.calls:
            return None
        last = self.calls[-1]
        if isinstance(last.outcome.ending, Failed):
            return last.outcome.ending.error
        said = None if last.pipeline is None else last.pipeline.watch.error
        return None if said is None else said.refusal("the upstream's stream had an error in it")

    # Relaying.

    async def relay(self, call: Call, *, last: bool = True) -> Outcome:
        """Pass on what an upstream has answered, and say what became of it.

        Args:
            call: its head has come; see `Exchange.call`. It is closed.
            last: False keeps back the dialect's end, and what comes behind it, up to 1 MiB; what an earlier call has
                kept back is dropped either way.

        Raises:
            RuntimeError: the answer is no event stream, or has ended; or an earlier call failed when bytes of it had
                been passed on.
            UpstreamRefused: a later call has no 2xx event stream; or its stream begins with an error.
            StreamError, UpstreamError: the stream failed. With the error, the exchange will fail.
        """
        await self._settle()
        if self.state in (State.PLAIN, State.ENDED):
            raise RuntimeError("an answer that is not an event stream, or has ended, cannot go on with another call")
        if not self._can_go_on:
            raise RuntimeError("a call failed when some of it had been passed on: no other can be joined to that")
        pipeline = await self._admit(call, last=last)
        incoming, policy = self._incoming, self._policy
        try:
            source = call if self.pipeline is None else _decoded(call, policy)
        except UpstreamError:
            call.close()
            raise
        incoming.verbatim = call if source is call else None
        incoming.allowed_trailers = policy.trailers
        self._sink = sink = _CallSink(self, incoming, last=last)
        if incoming.last or self.keep_alives:
            sink.drop_bom()
        upstream_head = self._read_as if self.pipeline is None else self._read_as.without(b"content-encoding")
        head = client_head(
            upstream_head, http_version=call.http_version, request_id=self._request_id, cookies=self.cookies
        )
        self.running = relay = Relay(
            source,
            pipeline,
            sink,
            head=head,
            on_wake=self._write_keep_alive,
            switchboard=self._switchboard,
            transcript=self.transcript,
        )
        sink.pipeline = pipeline
        try:
            outcome = await relay.run()
        finally:
            self.running = None
            self._quiet_since = max(self._quiet_since, relay.quiet_since)
        self.calls.append(CallOutcome(call.head, outcome, self.pipeline))
        if isinstance(outcome.write_error, h11.LocalProtocolError):
            raise UpstreamProtocolError("the head of the upstream's answer is malformed", reason="http_protocol_error")
        self.write_error = self.write_error or outcome.write_error
        self._can_go_on = outcome.first_out is None
        match outcome.ending:
            case Failed(error):
                raise error
            case Eof() if not self.left:
                if not last and self.pipeline is not None:
                    _check_can_go_on(self.pipeline)
                self._can_go_on = True
            case _:
                # The client has left. There is nothing more to do for whoever answers it.
                self._on_over()
                await trio.lowlevel.checkpoint()
        return outcome

    async def _admit(self, call: Call, *, last: bool) -> Pipeline:
        """The pipeline for a call, if what it answers can be passed on."""
        self._read_as = head = call.head
        policy = self._policy
        must_stream = self.state is State.STREAM or (
            200 <= head.status < 300 and head.status != 204 and self._asks_for_stream()
        )
        self.pipeline, self._held = None, None
        if must_stream and 200 <= head.status < 300 and is_unlabelled(head):
            # Servers forget it. Read as what was asked for, it is a stream with an honest end, or none at all: a 502.
            self._read_as = head = Head(
                head.status, (*head.without(b"content-type").headers, (b"content-type", b"text/event-stream"))
            )
        streams = _is_stream(head)
        if must_stream and not streams:
            try:
                raise await refusal_of(call)
            finally:
                call.close()
        if self._incoming.request.method == b"HEAD" or not streams:
            if not last:
                call.close()
                raise UpstreamRefused("the upstream answered with no event stream", status=502)
            return Pipeline()
        self._held = None if last else HoldEnding(self._dialect)
        self.pipeline = StandardPipeline(
            self._dialect,
            gate="content" if policy.gate == "warm" else policy.gate,
            strip=policy.comments != "forward",
            edit=() if self._held is None else (self._held,),
            max_line=policy.max_line,
            max_event=policy.max_event,
            on_first_data=self._note_first_data,
            on_refused=self._refuse,
            on_watch_error=self._on_watch_error,
        )
        return self.pipeline

    def _note_first_data(self) -> None:
        self.first_data = self.first_data or trio.current_time()

    def _refuse(self, error: UpstreamRefused) -> None:
        if self.running is not None:
            self.running.stop(Failed(error))

    # Writing.

    async def commit(self) -> None:
        """Begin the answer as an event stream now. Does nothing if it has begun."""
        await self._settle()
        await self._commit()

    async def _commit(self) -> None:
        if self.state is State.UNCOMMITTED:
            head = self._pending or own_head(self._request_id)
            await self.write_head(head, b"")

    async def finish(self) -> None:
        """End the answer with what the last call has kept back, as it came.

        Raises:
            RuntimeError: there is no such call: it would be an end that no upstream has sent.
        """
        await self._settle()
        if self.state is State.ENDED or self._held is None or not isinstance(self.calls[-1].outcome.ending, Eof):
            raise RuntimeError("an answer can be finished only behind a call that was relayed with last=False")
        held = self._held.held
        await self._commit()
        self._held = None
        if held:
            if self.transcript is not None:
                self.transcript.feed(held)
            await self._incoming.send_all(held)
        await self.end_cleanly()

    async def write_head(self, head: Head, data: bytes) -> None:
        """Commit to ``head``."""
        streams = _is_stream(head)
        if self.fields:
            head = Head(head.status, (*head.headers, *self.fields))
        if streams and self._wants_trailer:
            head = Head(head.status, (*head.headers, (b"Trailer", TRAILER)))
        # Before the write: one that is cut is a commit, too.
        self.state = State.STREAM if streams else State.PLAIN
        if streams and self._policy.compress:
            head = self._compress(head)
        try:
            await self._incoming.send_head(head, data)
        except h11.LocalProtocolError:  # it is no valid head, and was not written
            self.state = State.UNCOMMITTED
            raise

    def _compress(self, head: Head) -> Head:
        if b"no-transform" in (head.get(b"cache-control") or b"").lower():  # RFC 9110, section 7.7
            return head
        fields = [(b"Vary", b"Accept-Encoding")]
        request = self._incoming.request
        accept = b",".join(value for name, value in request.headers if name == b"accept-encoding")
        coding = negotiate(accept, self._policy.compress)
        if coding is not None and request.method != b"HEAD":
            self._incoming.encoder = Encoder(coding)
            fields.append((b"Content-Encoding", coding.encode()))
        return Head(head.status, (*head.headers, *fields))

    async def end_cleanly(self, verdict: Verdict | None = None) -> None:
        """Write a clean end."""
        if verdict is None:
            verdict = Verdict.UPSTREAM_ERROR if self.said_error else Verdict.COMPLETE
        trailers = ((TRAILER, verdict.value.encode()),) if self.state is State.STREAM and self._wants_trailer else ()
        await self._incoming.finish(Eof(), trailers)
        self.state = State.ENDED
        self.whole = True

    @property
    def _wants_trailer(self) -> bool:
        return self._policy.error_end == "clean" and self._incoming.request.takes_trailers

    @property
    def _is_between_events(self) -> bool:
        last = self._incoming.last
        return self._incoming.connection.intact and (not last or last.endswith(_BETWEEN))

    # Keeping warm.

    def quiet_for(self, now: float) -> float:
        """Seconds for which the client was sent nothing."""
        since = self._quiet_since if self.running is None else max(self._quiet_since, self.running.quiet_since)
        return now - since

    @property
    def can_be_kept_warm(self) -> bool:
        """Whether a keep-alive can be written now."""
        terminated = self.pipeline is not None and self.pipeline.watch.terminated and self._held is None
        return self.state is State.STREAM and not (terminated or self.left) and self._is_between_events

    @property
    def is_waiting(self) -> bool:
        """Whether nothing is relayed, and nobody is about to write."""
        return self.running is None and self._warming is None and self.state is not State.ENDED

    def start_warming(self, nursery: trio.Nursery, on_failure: Callable[[Exception], object]) -> None:
        """Begin the answer, or write a keep-alive, in a task of its own. Only while the answer `is_waiting`."""
        self._start_writing(self._warm, nursery, on_failure)

    async def _warm(self) -> None:
        if self.state is State.UNCOMMITTED:
            await self._commit()
            self._quiet_since = trio.current_time()
        else:
            await self._write_keep_alive()

    async def inform(
        self, status: int, headers: Headers, nursery: trio.Nursery, on_failure: Callable[[Exception], object]
    ) -> None:
        """Send a response of the class 1xx, unless the answer has begun. Whoever asks for that may be cancelled."""
        await self._settle()
        if not self.committed:
            write = functools.partial(self._incoming.send_informational, status, headers)
            self._start_writing(write, nursery, on_failure)

    def _start_writing(
        self, write: Callable[[], Awaitable[None]], nursery: trio.Nursery, on_failure: Callable[[Exception], object]
    ) -> None:
        self._warming = trio.Event()  # now, and not when the task first runs: whoever is about to write must see it
        nursery.start_soon(self._write_aside, write, self._warming, on_failure)

    async def _write_aside(
        self, write: Callable[[], Awaitable[None]], done: trio.Event, on_failure: Callable[[Exception], object]
    ) -> None:
        try:
            with self._warming_scope:
                await write()
        except (trio.BrokenResourceError, trio.ClosedResourceError, WriteTimeout) as error:
            self.write_error = self.write_error or error
            self._on_over()
        except Exception as error:
            on_failure(error)
        finally:
            self._warming_scope = trio.CancelScope()
            self._warming = None
            done.set()

    async def stop_warming(self) -> None:
        """Cut what that task writes, if there is one. For when the answer is over."""
        if self._warming is not None:
            self._warming_scope.cancel()
            with trio.CancelScope(shield=True):
                await self._warming.wait()

    async def _settle(self) -> None:
        while self._warming is not None:
            await self._warming.wait()

    async def _write_keep_alive(self) -> None:
        """Write a keep-alive, if one is due."""
        now = trio.current_time()
        due = 0 < self._policy.keep_alive <= self.quiet_for(now)
        if due and self.can_be_kept_warm:
            if not self._incoming.last and self._sink is not None:
                self._sink.drop_bom()
            await self._incoming.send_aside(self._dialect.keep_alive)
            self._quiet_since = now
            self.keep_alives += 1

    # Ending badly.

    def stop(self, end: End) -> bool:
        """End the call that is being relayed; False if there is none. Returns at once."""
        if self.running is None:
            return False
        self.running.stop(end)
        return True

    def leave(self) -> None:
        """The client has left. What has not been passed on by now never was. Returns at once."""
        if self.left:
            return
        self.left = True
        self.ended_before = self.passed_end and self._incoming.connection.intact  # else a write of it hangs
        if self.running is None:
            self._on_over()
        elif self.ends_with_client or self.ended_before:
            self.running.stop(Closed())
        else:
            # The rest is wanted for the record. A write that hangs fails with this.
            assert self._sink is not None
            self._sink.discard()
            self._incoming.abort()
            self.left_at = trio.current_time()
            self.bytes_when_left = self.running.bytes_in

    def check_drain(self, now: float) -> None:
        """End the call of a client that has left, if enough of it was read."""
        policy = self._policy
        if self.left and self.running is not None:
            size = self.running.bytes_in - self.bytes_when_left
            if now - self.left_at >= policy.client_drain_time or size > policy.client_drain_bytes:
                self.running.stop(Closed())

    async def fail(self, error: Exception, *, called: bool) -> None:
        """End the answer with ``error``: by a status if that is still possible, else by an error event and an abort.

        Args:
            called: the upstream may have begun to generate; a repetition would be paid for twice.
        """
        with trio.move_on_after(ERROR_TIMEOUT, shield=True):
            await self._settle()
            try:
                if self.state is State.UNCOMMITTED:
                    if self._incoming.connection.intact:  # else a response of the class 1xx was cut
                        await self._reply(error, called=called)
                elif self.state is State.STREAM:
                    await self._write_error(error)
            except (trio.BrokenResourceError, trio.ClosedResourceError, WriteTimeout, h11.LocalProtocolError) as raised:
                self.write_error = self.write_error or raised
        self.abort()

    async def _reply(self, error: Exception, *, called: bool) -> None:
        status, said = as_answer(error)
        headers = (*plain_head(self._request_id), (b"Proxy-Status", b"sseflow; error=" + reason_of(error).encode()))
        if called and not isinstance(error, RequestError | UpstreamRefused):
            headers = (*headers, (b"x-should-retry", b"false"))
        wait = error.retry_after if isinstance(error, UpstreamRefused) else None
        if wait is not None or status == 503:
            headers = (*headers, (b"Retry-After", b"%d" % math.ceil(1 if wait is None else wait)))
        self.state = State.PLAIN
        await self._incoming.reply(status, headers, self._dialect.error_body(said, request_id=self._request_id))
        self.state = State.ENDED

    async def _write_error(self, error: Exception) -> None:
        """Tell a client that stands between two events, and has seen neither an end nor an error."""
        if self.passed_end or self.said_error or not self._is_between_events:
            return
        event = self._dialect.error_event(as_answer(error)[1], request_id=self._request_id)
        await self._incoming.send_aside(event)
        if self._policy.error_end == "clean":
            await self.end_cleanly(of_error(error))

    def release(self) -> None:
        """Let go of what holds the answer in turn, so that nothing is left for the garbage collector to find."""
        self._sink = None
        self._asks_for_stream = bool
        self._on_over = self._on_watch_error = _do_nothing

    def abort(self) -> None:
        """Let nobody take the answer for complete, unless it has ended. Returns at once."""
        if self.state in (State.STREAM, State.PLAIN):
            self._incoming.abort()
            self.state = State.ENDED


def _do_nothing(*_: object) -> None:
    pass


def _is_stream(head: Head) -> bool:
    """Whether it is the head of an event stream; that of an answer without a body may have the type of one, too."""
    return is_event_stream(head) and head.status != 204


def _decoded(call: Call, policy: Policy) -> Source:
    """The body of an answer without its content codings; the call itself if it has none.

    Raises:
        UpstreamProtocolError: they are not known here.
    """
    codings = content_codings(call.head)
    if not codings:
        return call
    return Decoded(call, Decoder(codings, max_ratio=policy.max_ratio, max_decoded=policy.max_decoded))


class _CallSink:
    """Where one call of an answer is written."""

    pipeline: Pipeline

    def __init__(self, answer: Answer, incoming: Incoming, *, last: bool) -> None:
        self._answer = answer
        self._last = last
        self._discarding = False
        self._drops_bom = False
        # As a rule nothing stands between the pump and the client.
        self.send_all = incoming.send_all
        self.send_nowait = incoming.send_nowait
        self.flush = incoming.flush
        if not answer.ends_with_client:
            self._survive()

    async def send_head(self, head: Head, data: bytes) -> None:
        answer = self._answer
        if answer.state is not State.UNCOMMITTED:
            if data:
                await self.send_all(data)
        elif self._discarding:
            pass
        elif self._last or data or self.pipeline.ending is None:
            await answer.write_head(head, data)
        else:
            answer._pending = head

    async def finish(self, end: End) -> None:
        if isinstance(end, Eof) and self._last and not self._discarding:
            await self._answer.end_cleanly()

    def _survive(self) -> None:
        """Go on when the client has left: drop what it would have been sent."""
        send_all, send_nowait, flush = self.send_all, self.send_nowait, self.flush

        @contextlib.contextmanager
        def leaving() -> Iterator[None]:
            try:
                yield
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self._answer.leave()

        async def send_all_or_discard(data: bytes) -> None:
            if not self._discarding:
                with leaving():
                    await send_all(data)

        def send_nowait_or_discard(data: bytes) -> bool:
            if not self._discarding:
                with leaving():
                    return send_nowait(data)
            return True

        async def flush_or_discard() -> None:
            with leaving():
                await flush()

        self.send_all, self.send_nowait, self.flush = send_all_or_discard, send_nowait_or_discard, flush_or_discard

    def drop_bom(self) -> None:
        """Drop a byte order mark from what comes next: it is none where a stream does not begin."""
        if self._drops_bom:
            return
        self._drops_bom = True
        send_all, send_nowait = self.send_all, self.send_nowait

        def first(data: bytes) -> bytes:
            self.send_all, self.send_nowait = send_all, send_nowait
            return data.removeprefix(BOM)

        async def send_first(data: bytes) -> None:
            if data := first(data):
                await send_all(data)

        def send_first_nowait(data: bytes) -> bool:
            return not (data := first(data)) or send_nowait(data)

        self.send_all, self.send_nowait = send_first, send_first_nowait

    def discard(self) -> None:
        self._discarding = True


def _check_can_go_on(pipeline: StandardPipeline) -> None:
    """Raise if no other call can follow behind one that ended cleanly."""
    if pipeline.watch.error is not None:
        raise pipeline.watch.error.refusal("the upstream's stream had an error in it")
    if pipeline.counter.in_event:
        raise CutMidEvent("the stream ended inside an event: no other can be joined to it")
