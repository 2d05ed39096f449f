"""Calls to the upstreams of a route, until one of them has something to deliver."""

# Fail over only as long as no byte of a call has gone to the client. Here that cannot go wrong: nothing in this file
# can write to the client, and what leaves it is a call that is going to be delivered, or the error of the last attempt.
# The beginning of a stream is looked at and kept in the call (`Call.peek`), so that whoever relays it gets all of it.
# While that takes long the client is kept warm by the answer, which may commit to a head of our own: another matter.

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING

import attrs
import trio

from .. import (
    IdleTimeout,
    ProgressTimeout,
    StreamError,
    UpstreamError,
    UpstreamLost,
    UpstreamRefused,
    UpstreamTimeout,
    is_event_stream,
)
from ..dialects import RequestBody
from ..http import Call, Counted, Request
from ..resilience import Judgement, Leg, Reason, RetryPolicy, Secret, classify, hedged, retrying
from ._credentials import as_field, brings_key, passes
from ._headers import upstream_request
from ._models import check_model
from ._probe import Probe
from ._refusal import View, is_unlabelled, refusal_of
from ._routing import Attempt, Path, Plan
from ._settings import Policy, Upstream

if TYPE_CHECKING:
    from ._exchange import Exchange

_IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"})


@attrs.define
class _Ask:
    """What upstreams are asked. Without a body the client's own is streamed to one of them, which can be done once."""

    body: bytes | None
    target: bytes
    rebuilt: bool = False
    """The body has the whole history of a chain that the provider has lost."""


class Caller:
    """Makes the calls of one exchange."""

    def __init__(self, exchange: Exchange, path: Path) -> None:
        self.calls: list[Call] = []
        """All that were made, the last one last."""

        self.called = False
        """The head of a request is with an upstream, which may have begun to generate."""

        self.attempt: Attempt | None = None
        """What the last call came of."""

        self.waiting_since = trio.current_time()
        """Since when an answer is waited for; how many were asked in the meantime does not matter."""

        self.answered_at = self.waiting_since
        """When the head of an answer came last."""

        self._exchange = exchange
        self._path = path
        self._on_called: trio.Event | None = None
        self._refused: tuple[Call, Attempt] | None = None

    async def wait_called(self) -> Call:
        """Wait until the head of a request is with an upstream, so that its body may follow."""
        if not self.called:
            self._on_called = trio.Event()
            await self._on_called.wait()
        return self.calls[-1]

    def judge(self, error: Exception | None) -> None:
        """Say how the last call went, for its breaker; None: well."""
        permit = None if self.attempt is None else self.attempt.permit
        if permit is not None:
            permit.judge(error, trio.current_time())

    async def call(self, body: bytes | None, target: bytes) -> Call:
        """Call one upstream after another until one answers with something to deliver; see `Exchange.call`."""
        self.judge(None)
        self.waiting_since = trio.current_time()
        path, settings = self._path, self._path.settings
        ask = _Ask(body, target)
        if not self._looks_ahead:
            path.budget.request()
            return await self._round(ask)
        try:
            return await retrying(
                lambda _: self._round(ask),
                settings.retry if body is not None else RetryPolicy(attempts=1),
                budget=path.budget,
                on_retry=self._exchange.note_retry,
            )
        except (UpstreamError, StreamError):
            if self._refused is None:
                raise
            call, self.attempt = self._refused
            return call  # what it says is passed on as it is

    async def _round(self, ask: _Ask) -> Call:
        """Try all providers."""
        settings = self._path.settings
        await self._drop_refused()
        if settings.hedge_after is None or ask.body is None:
            call, self.attempt = await self._first(ask, None)
            return call
        after = self._path.latencies if settings.hedge_after == "p95" else settings.hedge_after
        won = await hedged(
            lambda leg: self._first(ask, leg),
            lambda leg: self._first(ask, leg),
            after,
            budget=self._path.budget,
            record=self._exchange.note_leg,
        )
        call, self.attempt = won
        return call

    async def _first(self, ask: _Ask, leg: Leg[tuple[Call, Attempt]] | None) -> tuple[Call, Attempt]:
        """The first attempt that goes well; each has failed, or is delivered, before there is another."""
        skip = 0 if leg is None else leg.number - 1
        exchange = self._exchange
        plan = Plan(
            self._path,
            endpoint=exchange.dialect.name,
            model=exchange.model or "",
            brings_key=brings_key(exchange.request.headers),
            skip=skip,
        )
        attempt = plan.next(trio.current_time())
        if attempt is None:
            assert plan.refused is not None
            raise plan.refused
        while True:
            call: Call | None = None
            try:
                call = await self._attempt(attempt, ask)
                if self._looks_ahead:
                    await self._prove(call)
                if leg is not None:
                    await leg.first_content()
                return call, attempt
            except (UpstreamError, StreamError) as error:
                attempt = await self._next(plan, attempt, call, error, ask)
            except BaseException:
                if attempt.permit is not None:
                    attempt.permit.neutral()
                if call is not None:
                    await _close(call)
                raise

    async def _next(self, plan: Plan, attempt: Attempt, call: Call | None, error: Exception, ask: _Ask) -> Attempt:
        """The attempt that follows one that has failed; raise what all have failed with if there is none."""
        now = trio.current_time()
        judgement = plan.failed(attempt, error, now)
        following: Attempt | None
        if await self._rebuild(ask, error):
            following = attrs.evolve(attempt, permit=None)
        else:
            following = plan.next(now) if ask.body is not None or not self.called else None
        echoed = _hide(attempt.key, error, call)
        self._exchange.note_failure(attempt, error, judgement, goes_on=following is not None)
        if following is None and self._speaks_for_keys(attempt, judgement):
            assert attempt.provider.keys is not None
            error = attempt.provider.keys.exhausted(now).refusal()
        elif following is None and not echoed and call is not None and call.head.status >= 400:
            await self._drop_refused()
            self._refused, call = (call, attempt), None
        if call is not None:
            await _close(call)
        if following is None:
            raise error
        return following

    async def _rebuild(self, ask: _Ask, error: Exception) -> bool:
        """Put the whole history into a request whose chain is broken, if that is what it failed with; once."""
        if ask.rebuilt or ask.body is None or not self._exchange.may_rebuild_chain or not classify(error).chain_broken:
            return False
        body = await self._exchange.rebuild_chain(ask.body)
        if body is None:
            return False
        ask.body, ask.rebuilt = body, True
        return True

    @property
    def _looks_ahead(self) -> bool:
        return self._path.looks_ahead or self._exchange.may_rebuild_chain

    @staticmethod
    def _speaks_for_keys(attempt: Attempt, judgement: Judgement) -> bool:
        """Whether what is wrong is a key of ours, so that the client cannot make sense of what the upstream says."""
        several = len(attempt.provider.settings.keys) > 1
        return judgement.next_key and (several or judgement.reason is Reason.UNAUTHORIZED)

    async def _drop_refused(self) -> None:
        if self._refused is not None:
            call, _ = self._refused
            self._refused = None
            await _close(call)

    # One attempt.

    async def _attempt(self, attempt: Attempt, ask: _Ask) -> Call:
        """Call an upstream, and wait for the head of its answer."""
        exchange, incoming = self._exchange, self._exchange.incoming
        self.attempt = attempt
        settings = attempt.provider.settings
        peer = incoming.connection.peer
        body = self._body_for(settings, ask.body)
        credential = None if attempt.key is None else as_field(attempt.key, settings.key_field)
        exchange.passes_cookies(passes(exchange.request, credential, settings.pass_credentials))
        request = upstream_request(
            exchange.request,
            incoming.body_framing if body is None else Counted(len(body)),
            target=ask.target,
            authority=settings.origin.authority,
            prefix=settings.origin.prefix,
            peer=peer,
            scheme=incoming.connection.scheme,
            trusted=exchange.trusts(peer),
            request_id=exchange.id,
            credential=credential,
            pass_credentials=settings.pass_credentials,
            tell_who=settings.tell_who,
        )
        call = await attempt.provider.pool.call(settings.origin)
        try:
            return await self._send(call, settings, request, body)
        except UpstreamLost:
            if not self._may_repeat(call, request, body):
                raise
        call = await attempt.provider.pool.call(settings.origin, fresh=True)
        return await self._send(call, settings, request, body)

    def _body_for(self, settings: Upstream, body: bytes | None) -> bytes | None:
        """The body as an upstream is to get it: with its own name of the model.

        Raises:
            ModelSpoiled: the upstream would call another model.
        """
        model = self._exchange.model
        if body is None or model is None or settings.type is None:
            return body
        theirs = settings.models.get(model, model)
        check_model(settings.type, settings.name, str(settings.origin), theirs)
        if theirs == model:
            return body
        asked = RequestBody.parse(body)
        return body if asked is None else asked.replace(model=theirs)

    def _may_repeat(self, call: Call, request: Request, body: bytes | None) -> bool:
        """Whether nothing can be generated twice (RFC 9110, section 9.2.2)."""
        if not call.reused or call.answered:
            return False
        if not call.written:
            return body is not None or not self.called
        return body is not None and (request.method in _IDEMPOTENT or request.get(b"idempotency-key") is not None)

    async def _send(self, call: Call, settings: Upstream, request: Request, body: bytes | None) -> Call:
        self.calls.append(call)
        try:
            await self._ask(call, settings, request, body)
        except BaseException:
            await _close(call)
            raise
        return call

    async def _ask(self, call: Call, settings: Upstream, request: Request, body: bytes | None) -> None:
        try:
            await call.send_request(request, body or b"", last=body is not None)
        except UpstreamLost:
            if not call.written:
                raise
            # It may have answered before it stopped reading.
        self.called = True
        if self._on_called is not None:
            self._on_called.set()
        timeout = settings.head_timeout
        with trio.move_on_after(timeout) if timeout else contextlib.nullcontext():
            await call.receive_head(self._exchange.inform)
            self.answered_at = trio.current_time()
            return
        raise UpstreamTimeout(f"{call.origin} did not answer within {timeout:g} s", reason="http_response_timeout")

    # Whether what came is worth delivering.

    async def _prove(self, call: Call) -> None:
        """Wait for the first content, and raise what the call has failed with before that."""
        head, policy = call.head, self._path.policy
        if head.status >= 400:
            raise await refusal_of(call)
        if not 200 <= head.status < 300 or head.status == 204 or self._exchange.request.method == b"HEAD":
            return
        if not is_event_stream(head):
            if self._exchange.asks_for_stream() and not is_unlabelled(head):
                raise await refusal_of(call)
            return
        if policy.gate != "off":
            await self._find_content(call, Probe(self._exchange.dialect, first_event=policy.gate == "first_event"))

    async def _find_content(self, call: Call, probe: Probe) -> None:
        policy = self._path.policy
        view = View(call.head, policy.max_ratio, policy.max_decoded)
        opens_at = self.waiting_since + policy.opens_after if policy.opens_after else math.inf
        stalls_at = self.answered_at + policy.progress_timeout if policy.progress_timeout else math.inf
        while True:
            idle_at = trio.current_time() + policy.idle_timeout if policy.idle_timeout else math.inf
            waits_until = min(idle_at, stalls_at, opens_at if probe.has_events else math.inf)
            with trio.move_on_at(waits_until) as scope:
                data = await call.peek()
            if scope.cancelled_caught:
                if waits_until == opens_at:
                    return  # the client has waited long enough: what there is, is delivered
                raise stalled(policy, idle=waits_until == idle_at)
            if not data:
                probe.end()
                return
            if probe.feed(view(data)):
                return


def stalled(policy: Policy, *, idle: bool) -> UpstreamTimeout:
    """What a stream has failed with that stands still."""
    if idle:
        message = f"the upstream sent nothing for {policy.idle_timeout:g} s"
        return IdleTimeout(message, reason="connection_read_timeout")
    message = f"the upstream sent no content for {policy.progress_timeout:g} s, though it sent something"
    return ProgressTimeout(message, reason="connection_read_timeout")


async def _close(call: Call) -> None:
    with trio.CancelScope(shield=True):
        await call.aclose()


def _hide(key: Secret | None, error: Exception, call: Call | None) -> bool:
    """Take our key out of what an upstream said, if it repeats it; return whether its body does, too."""
    if key is None:
        return False
    value = key.reveal()
    if isinstance(error, UpstreamRefused) and error.said is not None:
        error.said = error.said.replace(value, key.hint)
    return call is not None and value.encode() in call.peeked
