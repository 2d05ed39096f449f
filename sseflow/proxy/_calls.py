"""Calls to the upstreams of a route, until one of them has something to deliver."""

# Fail over only as long as no byte of a call has gone to the client. Here that cannot go wrong: nothing in this file
# can write to the client, and what leaves it is a call that is going to be delivered, or the error of the last attempt.
# The beginning of a stream is looked at and kept in the call (`Call.peek`), so that whoever relays it gets all of it.
# While that takes long the client is kept warm by the answer, which may commit to a head of our own: another matter.

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Sequence
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
from ..resilience import Judgement, Leg, Permit, Reason, Retry, RetryPolicy, Secret, classify, hedged, retrying
from ._credentials import as_field, brings_key, passes
from ._headers import upstream_request
from ._models import check_model
from ._probe import Probe
from ._refusal import View, decoded, is_unlabelled, refusal_of
from ._routing import Attempt, Path, Plan, Provider
from ._settings import Policy, Upstream

if TYPE_CHECKING:
    from ._exchange import Exchange

_IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"})


@attrs.frozen
class _Ask:
    """What upstreams are asked. Without a body the client's own is streamed to one of them, which can be done once."""

    body: bytes | None
    target: bytes
    rebuilt: bool = False
    """The body has the whole history of a chain that the provider has lost."""


@attrs.frozen
class _Reached:
    """A call that has something to deliver, and what it came of."""

    call: Call
    attempt: Attempt
    ask: _Ask


class Caller:
    """Makes the calls of one exchange."""

    def __init__(self, exchange: Exchange, path: Path) -> None:
        self.calls: list[Call] = []
        """All that were made, the last one last."""

        self.called = False
        """The head of a request is with an upstream, which may have begun to generate."""

        self.attempt: Attempt | None = None
        """The last one that was made; from the moment that a call is delivered, the one that it came of."""

        self.waiting_since = trio.current_time()
        """Since when an answer is waited for; how many were asked in the meantime does not matter."""

        self.answered_at = self.waiting_since
        """When the head of an answer came last."""

        self._exchange = exchange
        self._path = path
        self._ask = _Ask(None, b"")
        self._permits: list[Permit] = []
        self._on_called: trio.Event | None = None
        self._refused: _Reached | None = None

    async def wait_called(self) -> Call:
        """Wait until the head of a request is with an upstream, so that its body may follow."""
        if not self.called:
            self._on_called = trio.Event()
            await self._on_called.wait()
        return self.calls[-1]

    def judge(self, error: Exception | None) -> None:
        """Say how the call that was delivered went, for its breaker; None: well. All permits are given back."""
        if self.attempt is not None and self.attempt.permit is not None:
            self.attempt.permit.judge(error, trio.current_time())
        for permit in self._permits:
            permit.close()
        self._permits.clear()

    def close(self) -> None:
        """Close all calls. Returns at once."""
        for call in self.calls:
            call.close()

    async def call(self, body: bytes | None, target: bytes) -> Call:
        """Call one upstream after another until one answers with something to deliver; see `Exchange.call`."""
        self.waiting_since = trio.current_time()
        self._ask = _Ask(body, target)
        try:
            reached = await self._reach()
        except (UpstreamError, StreamError):
            if self._refused is None:
                raise
            reached = self._refused  # what it says is passed on as it is
        self.attempt = reached.attempt
        self._exchange.note_delivery(
            reached.ask.body,
            cookies=self._passes_cookies(reached.attempt),
            rebuilt=reached.ask.rebuilt and reached is not self._refused,
        )
        return reached.call

    async def _reach(self) -> _Reached:
        path = self._path
        if not self._looks_ahead:
            path.budget.request()
            return await self._round()
        return await retrying(
            lambda _: self._round(),
            path.settings.retry if self._ask.body is not None else RetryPolicy(attempts=1),
            budget=path.budget,
            on_retry=self._note_retry,
        )

    def _note_retry(self, retry: Retry) -> None:
        self._drop_refused()
        self._exchange.note_retry(retry)

    async def _round(self) -> _Reached:
        """Try all providers."""
        order, after = self._path.in_order(), self._path.settings.hedge_after
        if after is None or self._ask.body is None:
            return await self._first(order)
        won = await hedged(
            lambda leg: self._first(order, leg),
            lambda leg: self._first(order[1:] + order[:1], leg),
            self._path.latencies if after == "p95" else after,
            budget=self._path.budget,
            record=self._exchange.note_leg,
        )
        self._drop_refused()
        return won

    async def _first(self, order: Sequence[Provider], leg: Leg[_Reached] | None = None) -> _Reached:
        """The first attempt that goes well; each has failed, or is delivered, before there is another."""
        exchange, ask = self._exchange, self._ask
        plan = Plan(
            self._path,
            order,
            endpoint=exchange.dialect.name,
            model=exchange.model or "",
            brings_key=brings_key(exchange.request.headers),
        )
        attempt = plan.next(trio.current_time())
        if attempt is None:
            assert plan.refused is not None
            raise plan.refused
        while True:
            self._note_attempt(attempt)
            call: Call | None = None
            try:
                try:
                    call = await self._attempt(attempt, ask)
                    if self._looks_ahead:
                        await self._prove(call)
                    if leg is not None:
                        await leg.first_content()
                    return _Reached(call, attempt, ask)
                except (UpstreamError, StreamError) as error:
                    attempt, ask = await self._next(plan, attempt, call, error, ask)
            except BaseException:
                if attempt.permit is not None:
                    attempt.permit.close()
                if call is not None and (self._refused is None or self._refused.call is not call):
                    call.close()
                raise

    def _note_attempt(self, attempt: Attempt) -> None:
        self.attempt = attempt
        if attempt.permit is not None:
            self._permits.append(attempt.permit)

    async def _next(
        self, plan: Plan, attempt: Attempt, call: Call | None, error: Exception, ask: _Ask
    ) -> tuple[Attempt, _Ask]:
        """What follows an attempt that has failed; raise what all have failed with if nothing does."""
        rebuilt = await self._rebuild(ask, error)
        ask = rebuilt or ask
        now = trio.current_time()
        judgement = plan.failed(attempt, error, now, mended=rebuilt is not None)
        following = plan.next(now) if ask.body is not None or not self.called else None
        echoed = _hide(attempt.key, error, call)
        self._exchange.note_failure(attempt, error, judgement, goes_on=following is not None)
        if following is not None:
            if call is not None:
                call.close()
            return following, ask
        if self._speaks_for_keys(attempt, judgement):
            assert attempt.provider.keys is not None
            raise attempt.provider.keys.exhausted(now).refusal()
        if not echoed and call is not None and call.head.status >= 400:
            self._drop_refused()
            self._refused = _Reached(call, attempt, ask)
        raise error

    async def _rebuild(self, ask: _Ask, error: Exception) -> _Ask | None:
        """The same with the whole history in it, if what it failed with is a broken chain; once."""
        if ask.rebuilt or ask.body is None or not self._exchange.may_rebuild_chain or not classify(error).chain_broken:
            return None
        if not self._ask.rebuilt:  # by the other one of two calls that race
            body = await self._exchange.rebuild_chain(ask.body, error)
            if body is None:
                return None
            self._ask = attrs.evolve(ask, body=body, rebuilt=True)
        return self._ask

    @property
    def _looks_ahead(self) -> bool:
        return self._path.looks_ahead or self._exchange.may_rebuild_chain

    @staticmethod
    def _speaks_for_keys(attempt: Attempt, judgement: Judgement) -> bool:
        """Whether what is wrong is a key of ours, so that the client cannot make sense of what the upstream says."""
        several = len(attempt.provider.settings.keys) > 1
        return judgement.next_key and (several or judgement.reason is Reason.UNAUTHORIZED)

    def _drop_refused(self) -> None:
        if self._refused is not None:
            self._refused.call.close()
            self._refused = None

    # One attempt.

    async def _attempt(self, attempt: Attempt, ask: _Ask) -> Call:
        """Call an upstream, and wait for the head of its answer."""
        exchange, incoming = self._exchange, self._exchange.incoming
        settings = attempt.provider.settings
        peer = incoming.connection.peer
        body = self._body_for(settings, ask.body)
        # None of the pool's, though it has some: the client brings a key. One of its own goes on then, and ours never.
        key = attempt.key or next(iter(settings.keys), None)
        credential = None if key is None else as_field(key, settings.key_field)
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
            return await self._send(call, attempt, request, body)
        except UpstreamLost:
            if not self._may_repeat(call, request, body):
                raise
        call = await attempt.provider.pool.call(settings.origin, fresh=True)
        return await self._send(call, attempt, request, body)

    def _passes_cookies(self, attempt: Attempt) -> bool:
        """Whether cookies of an upstream are for the client: they may stand for the key that it was called with."""
        return passes(self._exchange.request, attempt.key, attempt.provider.settings.pass_credentials)

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

    async def _send(self, call: Call, attempt: Attempt, request: Request, body: bytes | None) -> Call:
        self.calls.append(call)
        try:
            await self._send_and_wait(call, attempt, request, body)
        except BaseException:
            call.close()
            raise
        return call

    async def _send_and_wait(self, call: Call, attempt: Attempt, request: Request, body: bytes | None) -> None:
        try:
            await call.send_request(request, body or b"", last=body is not None)
        except UpstreamLost:
            if not call.written:
                raise
            # It may have answered before it stopped reading.
        self.called = True
        if self._on_called is not None:
            self._on_called.set()
        timeout = attempt.provider.settings.head_timeout
        inform = functools.partial(self._exchange.inform, cookies=self._passes_cookies(attempt))
        with trio.move_on_after(timeout) if timeout else contextlib.nullcontext():
            await call.receive_head(inform)
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
            if not self._exchange.asks_for_stream():
                return
            if not is_unlabelled(head):
                raise await refusal_of(call)
        if policy.gate != "off":
            await self._find_content(call, Probe(self._exchange.dialect, first_event=policy.gate == "first_event"))

    async def _find_content(self, call: Call, probe: Probe) -> None:
        policy = self._path.policy
        view = View(call.head, policy.max_ratio, policy.max_decoded)
        opens_at = self.waiting_since + policy.opens_after if policy.opens_after else math.inf
        stalls_at = self.answered_at + policy.progress_timeout if policy.progress_timeout else math.inf
        while True:
            idle_at = trio.current_time() + policy.idle_timeout if policy.idle_timeout else math.inf
            # Without a head of our own an answer can be begun with what has come only.
            delivers = probe.has_events or not self._exchange.asks_for_stream()
            waits_until = min(idle_at, stalls_at, opens_at if delivers else math.inf)
            with trio.move_on_at(waits_until) as scope:
                data = await call.peek()
            if scope.cancelled_caught:
                if delivers and waits_until == opens_at:
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


def _hide(key: Secret | None, error: Exception, call: Call | None) -> bool:
    """Take our key out of what an upstream said; return whether its answer may repeat the key, too."""
    if key is None:
        return False
    value = key.reveal()
    if isinstance(error, UpstreamRefused):
        for name in ("said", "type", "code"):
            if word := getattr(error, name):
                setattr(error, name, word.replace(value, key.hint))
    return call is not None and not _is_without(call, value.encode())


def _is_without(call: Call, secret: bytes) -> bool:
    """Whether it was seen that nothing of an answer has ``secret`` in it."""
    if any(secret in field for _, field in call.head.headers):
        return False
    with contextlib.suppress(UpstreamError):
        return call.peek_nowait() == b"" and secret not in decoded(call.head, call.peeked)
    return False
