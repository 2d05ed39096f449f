"""One request, its upstream's answer, and the line that is logged of it."""

# Two tasks. The main one reaches the upstream and pumps its answer to the client; it alone writes to the client. The
# other reads the client: the rest of the request's body, then whatever comes, to see it leave. It tells the main task
# by cancelling: the wait for the upstream before there is a relay, and the relay after.

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

import h11
import trio

from .. import (
    Closed,
    Eof,
    Failed,
    Head,
    Outcome,
    Pipeline,
    Relay,
    RequestError,
    StandardPipeline,
    StreamError,
    UpstreamError,
    UpstreamLost,
    UpstreamTimeout,
    is_event_stream,
)
from ..dialects import AnthropicMessages, Dialect, OpenAIChat, OpenAIResponses, PlainSSE
from ..http import Call, Counted, Headers, Incoming, NoBody, Request, WriteTimeout, frame_chunk, last_chunk
from ._headers import client_head, end_to_end, plain_head, request_id, target_of, upstream_request
from ._log import plain
from ._verdict import IDLE_REASON, Drained, Verdict, ended_by, of_error, of_outcome

if TYPE_CHECKING:
    from ._app import App

SMALL_BODY = 64 * 1024
"""A request's body up to this is received whole before the upstream is called: one write, and it can be repeated."""

_DIALECTS: dict[bytes, type[Dialect]] = {
    b"/chat/completions": OpenAIChat,
    b"/responses": OpenAIResponses,
    b"/messages": AnthropicMessages,
}
_IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"})
_NOT_AGAIN = (b"x-should-retry", b"false")


def error_body(status: int, message: str, request_id: str) -> bytes:
    """The body of an error of our own, in the form that the clients of LLM APIs know."""
    kind = "invalid_request_error" if status < 500 else "api_error"
    error = {"message": message, "type": kind, "param": None, "code": None}
    return json.dumps({"error": error, "request_id": request_id}).encode()


def dialect_for(path: bytes) -> Dialect:
    """What the streams of a path speak."""
    path = path.partition(b"?")[0]
    return next((dialect() for end, dialect in _DIALECTS.items() if path.endswith(end)), PlainSSE())


class Exchange:
    """One request and its answer. Call `run` once."""

    def __init__(self, app: App, incoming: Incoming) -> None:
        self._app = app
        self._settings = app.settings
        self._incoming = incoming
        self._request = incoming.request
        self._id = request_id(incoming.request)
        self._path = target_of(incoming.request)[0]
        self._started = trio.current_time()
        self._scope = trio.CancelScope()
        self._call: Call | None = None
        self._called = trio.Event()  # the head of the request is with the upstream: its body may follow
        self._stopped: Exception | None = None
        self._gone = False
        self._standard: StandardPipeline | None = None
        self._outcome: Outcome | None = None
        self._head_at = 0.0  # when the upstream's head had come
        self._first_data: float | None = None
        self._verdict: Verdict | None = None
        self._error: Exception | None = None

        self._relay: Relay | None = None  # from the upstream's head to the end

    def stop(self, error: Exception) -> None:
        """End the exchange with ``error``; returns at once."""
        if self._stopped is None:
            self._stopped = error
            self._interrupt(Failed(error))

    def _interrupt(self, end: Closed | Failed) -> None:
        if self._relay is not None:
            self._relay.stop(end)
        else:
            self._scope.cancel()

    async def run(self) -> None:
        """Answer the request, and log what became of it."""
        try:
            try:
                async with trio.open_nursery() as nursery:
                    await self._answer(nursery)
                    nursery.cancel_scope.cancel()
            except Exception as error:
                await self._fail(error)
        finally:
            self._log()

    async def refuse(self, error: RequestError) -> None:
        """Answer with ``error`` without calling the upstream, and log it."""
        try:
            await self._fail(error)
        finally:
            self._log()

    def check_time(self, now: float) -> None:
        """End the exchange if its client has left unnoticed, or if a deadline of its relay has passed."""
        if not self._incoming.body_done and self._incoming.connection.client_has_left:
            # While the upstream does not read the request, nobody reads the client.
            self._leave()
            return
        relay = self._relay
        if relay is None or relay.reading_since is None:
            return
        settings = self._settings
        silent = now - relay.reading_since
        standard = self._standard
        if standard is not None and standard.watch.terminated and silent >= settings.linger:
            relay.stop(Eof())
        elif 0 < settings.idle_timeout <= silent:
            message = f"the upstream sent nothing for {settings.idle_timeout:g} s"
            relay.stop(Failed(UpstreamTimeout(message, reason=IDLE_REASON)))
        elif standard is not None and not standard.gate.is_open and 0 < settings.gate_open_after <= now - self._head_at:
            standard.gate.open()
            relay.wake()

    # Reading the client.

    async def _receive_small_body(self) -> bytes | None:
        """The whole body, if it is small; None if it is to be streamed."""
        framing = self._incoming.body_framing
        if isinstance(framing, NoBody):
            return b""
        if not isinstance(framing, Counted) or framing.length > SMALL_BODY or self._request.get(b"expect") is not None:
            return None
        body = bytearray()
        while data := await self._incoming.receive_body():
            body += data
        return bytes(body)

    async def _read_client(self) -> None:
        """Pass on what is left of the request's body, then wait until the client leaves."""
        try:
            if not self._incoming.body_done:
                await self._stream_body()
            await self._incoming.wait_gone()
        except RequestError as error:
            self.stop(error)
            return
        except trio.BrokenResourceError:
            pass
        self._leave()

    def _leave(self) -> None:
        self._gone = True
        self._interrupt(Closed())

    async def _stream_body(self) -> None:
        await self._called.wait()
        call = self._call
        assert call is not None
        counted = isinstance(self._incoming.body_framing, Counted)
        try:
            while data := await self._incoming.receive_body():
                await call.send_body(data if counted else frame_chunk(data), last=False)
            await call.send_body(b"" if counted else last_chunk(), last=True)
        except UpstreamLost:
            pass  # an upstream that answers early may stop reading; what it answers is the main task's affair
        except UpstreamTimeout as error:
            if self._relay is None:
                self.stop(error)
        while await self._incoming.receive_body():
            pass  # nobody wants the rest

    # Answering.

    async def _answer(self, nursery: trio.Nursery) -> None:
        head: Head | None = None
        error: Exception | None = None
        with self._scope:
            try:
                body = await self._receive_small_body()
                nursery.start_soon(self._read_client)
                head = await self._reach_upstream(body)
            except Exception as raised:
                error = raised
        try:
            if head is None or self._scope.cancelled_caught:
                error = self._stopped or error
                if self._gone and self._stopped is None:
                    self._verdict = Verdict.CLIENT_GONE
                elif error is not None:
                    await self._fail(error)
            else:
                await self._relay_answer(head)
        finally:
            if self._call is not None:
                with trio.CancelScope(shield=True):
                    await self._call.aclose()

    async def _reach_upstream(self, body: bytes | None) -> Head:
        """Call the upstream until there is a head. A pooled connection that proves stale is replaced once."""
        settings = self._settings
        request = upstream_request(
            self._request,
            self._incoming.body_framing,
            authority=settings.upstream.authority,
            prefix=settings.upstream.prefix,
            peer=self._incoming.connection.peer,
            scheme=self._incoming.connection.scheme,
            trusted=settings.trusts(self._incoming.connection.peer),
            request_id=self._id,
        )
        call = await self._app.pool.call(settings.upstream)
        try:
            return await self._send(call, request, body)
        except UpstreamLost:
            if not self._may_repeat(call, request, body):
                raise
            await call.aclose()
        return await self._send(await self._app.pool.call(settings.upstream, fresh=True), request, body)

    def _may_repeat(self, call: Call, request: Request, body: bytes | None) -> bool:
        """Whether nothing can be generated twice (RFC 9110, section 9.2.2)."""
        if not call.reused or call.answered:
            return False
        if not call.written:
            return not self._called.is_set()
        return body is not None and (request.method in _IDEMPOTENT or request.get(b"idempotency-key") is not None)

    async def _send(self, call: Call, request: Request, body: bytes | None) -> Head:
        self._call = call
        try:
            await call.send_request(request, body or b"", last=body is not None)
        except UpstreamLost:
            if not call.written:
                raise
            # It may have answered before it stopped reading.
        self._called.set()
        timeout = self._settings.upstream_head_timeout
        with trio.move_on_after(timeout) if timeout else contextlib.nullcontext():
            return await call.receive_head(self._pass_informational)
        raise UpstreamTimeout(f"{call.origin} did not answer within {timeout:g} s", reason="http_response_timeout")

    async def _pass_informational(self, status: int, headers: Headers) -> None:
        await self._incoming.send_informational(status, end_to_end(headers))

    async def _relay_answer(self, head: Head) -> None:
        assert self._call is not None
        call, self._call = self._call, None
        self._head_at = trio.current_time()
        incoming = self._incoming
        incoming.verbatim = call
        incoming.allowed_trailers = self._settings.trailers
        sent = client_head(head, http_version=call.http_version, request_id=self._id)
        relay = Relay(call, self._pipeline(head), incoming, head=sent)
        self._relay = relay
        # Either may have happened while the head was on its way through Trio.
        if self._stopped is not None:
            relay.stop(Failed(self._stopped))
        elif self._gone:
            relay.stop(Closed())
        self._outcome = outcome = await relay.run()
        self._verdict = of_outcome(outcome, incoming.status, None if self._standard is None else self._standard.watch)
        if isinstance(outcome.ending, Failed):
            self._error = outcome.ending.error
            if not incoming.status:
                await self._fail(self._error)

    def _pipeline(self, head: Head) -> Pipeline:
        if self._request.method == b"HEAD" or head.status == 204 or not is_event_stream(head):
            return Pipeline()
        self._standard = StandardPipeline(
            dialect_for(self._path),
            max_line=self._settings.max_line,
            on_first_data=self._note_first_data,
            on_watch_error=lambda error: self._app.log_exception("the watch of a stream failed", error),
        )
        return self._standard

    def _note_first_data(self) -> None:
        self._first_data = trio.current_time()

    async def _fail(self, error: Exception) -> None:
        """Answer with the status of ``error``, if nothing was answered yet; cut the answer otherwise."""
        self._error = error
        self._verdict = of_error(error)
        if self._verdict in (Verdict.CLIENT_GONE, Verdict.CLIENT_STUCK):
            return
        if self._verdict is Verdict.INTERNAL_ERROR:
            self._app.log_exception("an exchange failed", error)
        status, message = _as_answer(error)
        headers = plain_head(self._id)
        if self._called.is_set() and not isinstance(error, RequestError):
            # The upstream may have begun to generate: a repetition would be paid for twice.
            headers = (*headers, _NOT_AGAIN)
        cannot_tell = (trio.BrokenResourceError, trio.ClosedResourceError, WriteTimeout, h11.LocalProtocolError)
        with contextlib.suppress(*cannot_tell):
            if self._incoming.status:
                await self._incoming.finish(Failed(error))
            else:
                await self._incoming.reply(status, headers, error_body(status, message, self._id))

    def _log(self) -> None:
        incoming = self._incoming
        outcome = self._outcome
        verdict = self._verdict or Verdict.DRAINED
        counter = None if self._standard is None else self._standard.counter
        now = trio.current_time()

        def since(moment: float | None) -> float | None:
            return None if moment is None else round(moment - self._started, 4)

        self._app.log.info(
            "exchange",
            id=self._id,
            peer=incoming.connection.peer,
            method=plain(self._request.method),
            path=plain(self._path.partition(b"?")[0]),
            status=incoming.status,
            verdict=verdict.value,
            ended_by=ended_by(verdict, None if outcome is None else outcome.ending),
            events=None if counter is None else counter.data_events,
            comments=None if counter is None else counter.comments,
            bytes_in=0 if outcome is None else outcome.bytes_in,
            bytes_out=0 if outcome is None else outcome.bytes_out,
            first_byte=since(None if outcome is None else outcome.first_out),
            first_data=since(self._first_data),
            duration=since(now),
            error=None if self._error is None else plain(str(self._error).encode()),
        )


def _as_answer(error: Exception) -> tuple[int, str]:
    """Status and words for the client's user; the operator's words are in the log."""
    match error:
        case RequestError():
            return error.status, str(error)
        case UpstreamTimeout():
            return error.status, "The model's server did not answer in time. Please try again."
        case UpstreamError():
            return error.status, "The model's server could not be reached, or broke off. Please try again."
        case StreamError():
            return 502, "The model's server did not give a complete answer. Please try again."
        case Drained():
            return 503, "This service is restarting. Please try again."
        case _:
            return 500, "Something went wrong in this service."
