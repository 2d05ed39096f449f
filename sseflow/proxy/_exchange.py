"""One request, the answer to it, and the line that is logged of it."""

# Two tasks. The main one runs the handler, which reaches the upstream and relays its answer; it alone writes to the
# client (and the answer says what happens while it waits for something else). The other reads the client: the rest of
# the request's body, then whatever comes, to see it leave. With a switchboard there is no need to read for that, and
# mostly none for the task. Whoever sees the client leave tells the main task by cancelling: the relay if there is one,
# else the handler.

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

import attrs
import trio

from .. import (
    Eof,
    Failed,
    RequestError,
    UpstreamLost,
    UpstreamTimeout,
)
from .._switchboard import Watch
from ..dialects import AnthropicMessages, Dialect, OpenAIChat, OpenAIResponses, PlainSSE, RequestBody, Usage
from ..http import Call, Counted, Headers, Incoming, NoBody, WriteTimeout, frame_chunk, last_chunk
from ..records import Record
from ..resilience import Judgement, KeysExhausted, LegEnding, LegOutcome, Retry, classify
from ._answer import Answer, CallOutcome, State
from ._calls import Caller, stalled
from ._headers import end_to_end, request_id, target_of
from ._log import plain
from ._routing import Attempt, Path
from ._stream_flag import StreamFlag, asks_for_stream
from ._verdict import Drained, Facts, Interrupted, Verdict, decide, ended_by
from ._words import reason_of

if TYPE_CHECKING:
    from ._app import App

_DIALECTS: dict[bytes, type[Dialect]] = {
    b"/chat/completions": OpenAIChat,
    b"/responses": OpenAIResponses,
    b"/messages": AnthropicMessages,
}
_ALL: tuple[type[Dialect], ...] = (*_DIALECTS.values(), PlainSSE)
_NAMED = {dialect.name: dialect for dialect in _ALL}
_INFO = frozenset({Verdict.COMPLETE, Verdict.CLIENT_GONE, Verdict.INTERRUPTED, Verdict.DRAINED})

MAX_USAGE = 16
"""Figures of a usage that are logged."""


def dialect_for(path: bytes, name: str | None = None) -> Dialect:
    """What the streams of a path speak, unless the name of a dialect is given."""
    if name is not None:
        return _NAMED[name]()
    path = path.partition(b"?")[0]
    for end, dialect in _DIALECTS.items():
        if path.endswith(end):
            return dialect()
    return PlainSSE()


@attrs.frozen(kw_only=True)
class ExchangeOutcome:
    """What became of one exchange. Made once, when it is over."""

    verdict: Verdict
    ended_by: str
    """``client``, ``proxy`` or ``upstream``."""

    status: int
    """That the client was given; 0 if none."""

    committed: bool
    """Whether a stream, or another answer, had begun before anything went wrong."""

    error: Exception | None
    write_error: Exception | None
    close_error: Exception | None
    calls: tuple[CallOutcome, ...]
    keep_alives: int


class Exchange:
    """One request and its answer. Call `run` once.

    A handler answers it so::

        async with exchange.answer() as answer:
            await answer.relay(await exchange.call())
    """

    def __init__(self, app: App, incoming: Incoming, path: Path, target: bytes, *, owner: str | None = None) -> None:
        self.incoming = incoming
        self.request = incoming.request
        self.id = request_id(incoming.request)
        self.target = target
        """What the client asks for, below the path of its route."""

        self.dialect = dialect_for(target, path.settings.dialect)
        self.owner = owner
        """Whose request it is, if that is known."""

        self.model: str | None = None
        """That the request names."""

        self.body: bytes | None = None
        """The request's body, if it is small (`Route.replay_body`), and of a length that its head says. Else it is
        streamed to the first call."""

        self.outcome: ExchangeOutcome | None = None
        self.record: Record | None = None
        """Of what was produced; there when it was `kept`, if it was wanted."""

        self.kept = trio.Event()
        """Set when it is over, and what is kept of it is written."""

        self._app = app
        self.route = path
        self._policy = path.policy
        self.started = trio.current_time()
        self._scope = trio.CancelScope()
        self._caller = Caller(self, path)
        self._stream_flag: StreamFlag | None = None
        self._asked: bool | None = None  # whether its body asks for a stream, once that is known
        self._stopped: Exception | None = None
        self._content = 0
        self._progress_at = self.started
        self._answer = Answer(
            incoming,
            self._policy,
            self.dialect,
            request_id=self.id,
            asks_for_stream=self.asks_for_stream,
            on_over=self._scope.cancel,
            on_watch_error=lambda error: app.log_exception("the watch of a stream failed", error),
            switchboard=app.switchboard,
        )
        self._keeping = app.keeper.begin(self)
        if self._keeping is not None:
            self._answer.transcript = self._keeping.transcript
        self._watch: Watch | None = None

    # For handlers.

    def answer(self) -> Answer:
        """The answer to this request; an async context manager."""
        return self._answer

    async def call(self, body: bytes | None = None, *, target: bytes | None = None) -> Call:
        """Call the upstreams of the route until one has something to deliver: where another could stand in, content.

        Args:
            body: instead of the client's own, which by default is passed on, streamed if it is not small.
            target: path and query, instead of the client's own.

        Raises:
            UpstreamError, StreamError: none of them can be reached, or answers as it should. What the last one has
                refused is no error: it is returned, to be passed on as it is.
            RuntimeError: the client's body was streamed to an earlier call, and is gone.
        """
        if body is None:
            body = self.body
            if body is None and self._caller.called:
                raise RuntimeError("the request's body was streamed to an earlier call: give one")
        self._caller.judge(self._answer.failure)
        if body is not None and self.route.reads_models:
            request = RequestBody.parse(body)
            self.model = None if request is None else request.model
        return await self._caller.call(body, target or self.target)

    def interrupt(self, why: str) -> None:
        """End the exchange, because somebody who may do so wants it. Returns at once."""
        self.stop(Interrupted(why))

    # For the application.

    def stop(self, error: Exception) -> None:
        """End the exchange with ``error``; returns at once. A stream whose dialect has ended is ended cleanly."""
        if self._stopped is None:
            self._stopped = error
            pipeline = self._answer.pipeline
            terminated = pipeline is not None and pipeline.watch.terminated
            if not self._answer.stop(Eof() if isinstance(error, Drained) and terminated else Failed(error)):
                self._scope.cancel()

    async def run(self, handler: Handler) -> None:
        """Have the request answered, and log what became of it."""
        error: Exception | None = None
        try:
            try:
                if self._can_watch and self._has_small_body:
                    error = await self._respond(handler, None)
                else:
                    async with trio.open_nursery() as nursery:
                        error = await self._respond(handler, nursery)
                        nursery.cancel_scope.cancel()
            except Exception as raised:
                error = await self._end(raised)
        finally:
            if self._watch is not None:
                self._watch.end()
                self._watch = None
            self._answer.abort()
            await self._answer.stop_warming()
            self._caller.close()
            self._conclude(error)
            self._answer.release()

    async def _respond(self, handler: Handler, nursery: trio.Nursery | None) -> Exception | None:
        """Have the handler answer, and end the answer if it could not; return what it ended with."""
        error: Exception | None = None
        with self._scope:
            try:
                self.body = await self._receive_small_body()
                if nursery is None or (self.incoming.body_done and self._can_watch):
                    self._watch_client()
                else:
                    nursery.start_soon(self._read_client)
                await handler(self)
            except Exception as raised:
                error = raised
        return await self._end(error)

    async def _end(self, error: Exception | None) -> Exception | None:
        """End the answer if the handler could not; return what it ended with."""
        answer = self._answer
        if self._stopped is not None and answer.state is not State.ENDED:
            error = self._stopped
        if isinstance(error, trio.BrokenResourceError | trio.ClosedResourceError):
            answer.left, error = True, None  # the request could not be received, or an answer not be written
        elif isinstance(error, WriteTimeout):
            answer.write_error, error = error, None
        if answer.state is not State.ENDED and not answer.left and answer.write_error is None:
            if error is None:
                error = RuntimeError("the handler left the request without an answer")
            self._committed = answer.committed
            await answer.fail(error, called=self._caller.called)
        return error

    def check_time(self, now: float) -> None:
        """Do what is due: notice a client that has left unseen, end what takes too long, keep the client warm."""
        answer, policy = self._answer, self._policy
        if self._watch is None and not self.incoming.is_watched and self.incoming.connection.client_has_left:
            self._leave()
            return
        answer.check_drain(now)
        if answer.is_waiting:
            waited = 0 < policy.opens_after <= now - self._caller.waiting_since and self.asks_for_stream()
            due = 0 < policy.keep_alive <= answer.quiet_for(now) and answer.can_be_kept_warm
            if due if answer.committed else waited:
                answer.start_warming(self._app.nursery, self.stop)
        elif answer.running is not None and answer.running.reading_since is not None:
            self._check_relay(now, answer.running.reading_since)

    def _check_relay(self, now: float, reading_since: float) -> None:
        answer, policy, pipeline = self._answer, self._policy, self._answer.pipeline
        relay = answer.running
        assert relay is not None
        silent = now - reading_since
        if pipeline is not None:
            if pipeline.watch.content != self._content:
                self._content, self._progress_at = pipeline.watch.content, now
            if pipeline.watch.terminated and silent >= policy.linger:
                relay.stop(Eof())
                return
        if 0 < policy.idle_timeout <= silent:
            relay.stop(Failed(stalled(policy, idle=True)))
        elif pipeline is not None and 0 < policy.progress_timeout <= now - self._progressed_at:
            relay.stop(Failed(stalled(policy, idle=False)))
        elif pipeline is not None and not pipeline.gate.is_open:
            if 0 < policy.opens_after <= now - self._caller.waiting_since:
                pipeline.gate.open()
                relay.wake()
        elif 0 < policy.keep_alive <= answer.quiet_for(now) and answer.can_be_kept_warm:
            relay.wake()

    @property
    def _progressed_at(self) -> float:
        return max(self._progress_at, self._caller.answered_at)

    # Reading the client.

    @property
    def _has_small_body(self) -> bool:
        framing = self.incoming.body_framing
        if isinstance(framing, Counted):
            return framing.length <= self.route.settings.replay_body and self.request.get(b"expect") is None
        return isinstance(framing, NoBody)

    async def _receive_small_body(self) -> bytes | None:
        """The whole body, if it is small; None if it is to be streamed."""
        if not self._has_small_body:
            return None
        body = bytearray()
        while data := await self.incoming.receive_body():
            body += data
        return bytes(body)

    @property
    def _can_watch(self) -> bool:
        return self._app.switchboard is not None and self.incoming.connection.fileno() >= 0

    def _watch_client(self) -> None:
        """Have it noticed without a task when the client leaves."""
        assert self._app.switchboard is not None
        self._watch = self._app.switchboard.watch(self.incoming.connection.fileno(), self._leave)

    async def _read_client(self) -> None:
        """Pass on what is left of the request's body, then wait until the client leaves."""
        try:
            if not self.incoming.body_done:
                await self._stream_body()
                if self._can_watch:
                    self._watch_client()
                    return
            await self.incoming.wait_gone()
        except RequestError as error:
            self.stop(error)
            return
        except trio.BrokenResourceError:
            pass
        self._leave()

    def _leave(self) -> None:
        self._answer.leave()

    async def _stream_body(self) -> None:
        self._stream_flag = StreamFlag()
        call = await self._caller.wait_called()
        counted = isinstance(self.incoming.body_framing, Counted)
        try:
            while data := await self.incoming.receive_body():
                self._stream_flag.feed(data)
                await call.send_body(data if counted else frame_chunk(data), last=False)
            await call.send_body(b"" if counted else last_chunk(), last=True)
            self._caller.waiting_since = trio.current_time()
        except UpstreamLost:
            pass  # an upstream that answers early may stop reading; what it answers is the main task's affair
        except UpstreamTimeout as error:
            if self._answer.running is None:
                self.stop(error)
        while await self.incoming.receive_body():
            pass  # nobody wants the rest

    def asks_for_stream(self) -> bool:
        """Whether the client wants an event stream, as far as it has said."""
        if self.request.method not in (b"POST", b"GET"):
            return False
        if self._asked is None and self.body is not None:
            self._asked = asks_for_stream(self.body)
        if self._asked or (self._stream_flag is not None and self._stream_flag.asked):
            return True
        accepts = [value for name, value in self.request.headers if name == b"accept"]
        return [accept.strip().lower() for accept in accepts] == [b"text/event-stream"]

    # What the calls of this exchange ask for, and tell.

    def trusts(self, peer: str) -> bool:
        """Whether what a peer says of whom it asks for is believed."""
        return self._app.settings.trusts(peer)

    async def inform(self, status: int, headers: Headers, *, cookies: bool) -> None:
        """Pass a response of the class 1xx on."""
        await self._answer.inform(status, end_to_end(headers, cookies=cookies), self._app.nursery, self.stop)

    def note_delivery(self, body: bytes | None, *, cookies: bool, rebuilt: bool) -> None:
        """A call is going to be delivered.

        Args:
            body: what was asked, as the client has named its model.
            cookies: those of the upstream are for the client.
            rebuilt: its chain was broken, and is mended.
        """
        self._answer.cookies = cookies
        self._answer.fields = ((b"Sseflow-Chain", b"recovered"),) if rebuilt else ()
        if self._keeping is not None:
            self._keeping.sent = body

    def note_failure(self, attempt: Attempt, error: Exception, judgement: Judgement, *, goes_on: bool) -> None:
        """Log an attempt that has failed."""
        provider, key = attempt.provider.settings.name, attempt.key
        hint = None if key is None else key.hint
        if goes_on:
            self._app.log.info(
                "failed over", id=self.id, upstream=provider, api_key_hint=hint, error=plain(str(error).encode())
            )
        counts = self._app.counts
        if judgement.changed and judgement.reason is not None:
            counts.key_transitions[provider, judgement.reason.value] += 1
            self._app.log.info(
                "key out",
                id=self.id,
                provider=provider,
                api_key_hint=hint,
                reason=judgement.reason.value,
                cooldown=judgement.cool_down,
            )

    async def rebuild_chain(self, body: bytes, error: Exception) -> bytes | None:
        """The request with its whole history, since the provider has lost what it goes on from; None: there is none."""
        rebuilt = await self._app.keeper.rebuild(self, body)
        if rebuilt is not None:
            now, broken = trio.current_time(), classify(error)
            self._count_retry(Retry(attempt=1, error=error, classification=broken, delay=0.0, retrying_at=now))
            self._app.log.info("chain recovered", id=self.id, bytes=len(rebuilt))
        return rebuilt

    @property
    def may_rebuild_chain(self) -> bool:
        """Whether a broken chain can be mended, so that it has to be noticed."""
        return self._app.keeper.has_chain(self)

    @property
    def streamed(self) -> bool:
        """Whether the last call that was passed on was an event stream."""
        return self._answer.pipeline is not None

    def note_retry(self, retry: Retry) -> None:
        """Count and log that all upstreams have failed, and will be called again."""
        self._count_retry(retry)
        self._app.log.info(
            "retry",
            id=self.id,
            attempt=retry.attempt,
            delay=round(retry.delay, 3),
            kind=retry.classification.kind.value,
            error=plain(str(retry.error).encode()),
        )

    def _count_retry(self, retry: Retry) -> None:
        attempt = self._caller.attempt
        self._app.retries.of("" if attempt is None else attempt.provider.settings.name, self.model)(retry)

    def note_leg(self, leg: LegOutcome) -> None:
        """Log what became of one of two calls that raced, if there were two."""
        if leg.leg == 2 or leg.ending is LegEnding.LOST:
            took = leg.ended - leg.started
            self._app.log.info("hedge", id=self.id, leg=leg.leg, ending=leg.ending.value, seconds=round(took, 4))

    # Concluding.

    _committed: bool | None = None  # when something went wrong

    def _conclude(self, error: Exception | None) -> None:
        answer, incoming = self._answer, self.incoming
        facts = Facts(
            write_error=answer.write_error,
            left=answer.left and not answer.whole,  # behind the end everybody leaves
            ended=answer.ended_before if answer.left else answer.passed_end,
            said_error=answer.said_error,
            error=error if error is not None or answer.whole else Drained("the proxy had to end"),
            status=incoming.status,
        )
        verdict = decide(facts)
        if verdict is Verdict.INTERNAL_ERROR and error is not None:
            self._app.log_exception("an exchange failed", error)
        close_errors = [call.outcome.close_error for call in answer.calls if call.outcome.close_error is not None]
        self.outcome = ExchangeOutcome(
            verdict=verdict,
            ended_by=ended_by(verdict, facts),
            status=incoming.status,
            committed=answer.committed if self._committed is None else self._committed,
            error=error,
            write_error=answer.write_error,
            close_error=close_errors[0] if close_errors else None,
            calls=tuple(answer.calls),
            keep_alives=answer.keep_alives,
        )
        self._judge(verdict, error)
        self._count(error)
        self._log(self.outcome)
        if self._keeping is None:
            self.kept.set()
        else:
            self._app.keeper.keep(self, self._keeping, self._app.nursery)

    def _count(self, error: Exception | None) -> None:
        counts, attempt = self._app.counts, self._caller.attempt
        provider = (self.route.providers[-1] if attempt is None else attempt.provider).settings.name
        if self._caller.calls:
            counts.attempts[provider, len(self._caller.calls)] += 1
        if isinstance(error, KeysExhausted):
            counts.key_exhaustions[provider, "auth_failed" if error.status == 502 else "rate_limited"] += 1

    def _judge(self, verdict: Verdict, error: Exception | None) -> None:
        """Tell the breaker how the last call went."""
        if error is None and verdict is Verdict.UPSTREAM_ERROR:
            error = self._answer.failure
        self._caller.judge(error if error is not None or verdict is Verdict.COMPLETE else trio.ClosedResourceError())

    def _log(self, outcome: ExchangeOutcome) -> None:
        calls = outcome.calls
        pipelines = [call.pipeline for call in calls if call.pipeline is not None]
        counters = [pipeline.counter for pipeline in pipelines]
        last = calls[-1] if calls else None
        watch = pipelines[-1].watch if pipelines else None
        attempt = self._caller.attempt
        firsts = [call.outcome.first_out for call in calls if call.outcome.first_out is not None]
        log = self._app.log.info if outcome.verdict in _INFO else self._app.log.warning

        def since(moment: float | None) -> float | None:
            return None if moment is None else round(moment - self.started, 4)

        def said(error: Exception | None) -> str | None:
            return None if error is None else plain(str(error).encode())

        log(
            "exchange",
            id=self.id,
            peer=self.incoming.connection.peer,
            method=plain(self.request.method),
            path=plain(target_of(self.request)[0].partition(b"?")[0]),
            status=outcome.status,
            verdict=outcome.verdict.value,
            ended_by=outcome.ended_by,
            committed=outcome.committed,
            reason=None if outcome.error is None else reason_of(outcome.error),
            error=said(outcome.error),
            write_error=said(outcome.write_error),
            close_error=said(outcome.close_error),
            upstream=None if attempt is None else attempt.provider.label,
            provider=None if attempt is None else attempt.provider.settings.name,
            api_key_hint=None if attempt is None or attempt.key is None else attempt.key.hint,
            upstream_status=None if last is None else last.head.status,
            upstream_content_type=None if last is None else plain(last.head.get(b"content-type") or b""),
            calls=len(calls),
            model=None if watch is None or watch.model is None else plain(watch.model.encode()),
            events=sum([counter.data_events for counter in counters]) if counters else None,
            comments=sum([counter.comments for counter in counters]) if counters else None,
            empty_events=sum([counter.control_blocks for counter in counters]) if counters else None,
            saw_end=None if watch is None else watch.ended,
            usage=None if watch is None or watch.usage is None else _figures(watch.usage),
            keep_alives=outcome.keep_alives,
            bytes_in=sum([call.outcome.bytes_in for call in calls]),
            bytes_out=sum([call.outcome.bytes_out for call in calls]),
            first_byte=since(min(firsts, default=None)),
            first_data=since(self._answer.first_data),
            duration=since(trio.current_time()),
        )


def _figures(usage: Usage) -> dict[str, float]:
    """The figures of a usage, as they are logged."""
    return {plain(name.encode()): figure for name, figure in islice(usage.figures.items(), MAX_USAGE)}


#: Answers a request.
Handler: TypeAlias = Callable[[Exchange], Awaitable[None]]


async def forward(exchange: Exchange) -> None:
    """Pass the request on, and the upstream's answer back: what the proxy does by default."""
    async with exchange.answer() as answer:
        await answer.relay(await exchange.call())
