"""Try again, where that is safe and may help."""

from __future__ import annotations

import random as _random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TypeVar, final

import attrs
import trio

from .. import ConfigurationError
from ._budget import RetryBudget
from ._classify import Classification, classify

T = TypeVar("T")

_CHANCE = _random.Random()


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """How often to try, and how long to wait in between.

    Raises:
        ConfigurationError: a number is out of range.
    """

    attempts: int = 3
    """Calls in all, the first one included. Few: meanwhile a client waits, and its SDK tries again, too."""

    base: float = 1.0
    """Seconds: at most so long is waited before the first retry, twice that before the second, and so on."""

    cap: float = 60.0
    """Seconds: longer is never waited, also where the upstream asks for it; the error is raised then."""

    deadline: float = 120.0
    """Seconds: no attempt begins later than that after the first. How long a call may take is its own business."""

    def __attrs_post_init__(self) -> None:
        if self.attempts < 1:
            raise ConfigurationError("attempts must be at least 1: the first call is one")
        for name in ("base", "cap", "deadline"):
            if not getattr(self, name) >= 0:
                raise ConfigurationError(f"{name} of a retry policy must not be negative")

    def backoff(self, retry: int) -> float:
        """The longest wait before a retry, counted from 1: base, twice base, ..., cap."""
        return min(self.cap, self.base * 2.0 ** min(retry - 1, 64))

    def delay(self, retry: int, retry_after: float | None, chance: _random.Random) -> float:
        """The wait before a retry: anything up to `backoff`, behind what the upstream asked for.

        It comes on top of that, since all others were told the same.
        """
        return (retry_after or 0.0) + chance.uniform(0.0, self.backoff(retry))


@final
@attrs.frozen
class Delivered:
    """That something of a call's answer has been given away. Whoever gives it away takes one of these: it can only be
    had from `Attempt.deliver`, behind which there is no second attempt."""

    attempt: int


class Attempt:
    """One call among those that `retrying` makes."""

    def __init__(self, number: int) -> None:
        self.number = number
        """Counted from 1."""

        self.delivered: Delivered | None = None

    def deliver(self) -> Delivered:
        """Say that a byte of the answer is about to be given away: from now on a failure of this call is final."""
        if self.delivered is None:
            self.delivered = Delivered(self.number)
        return self.delivered


@attrs.frozen(kw_only=True)
class Retry:
    """A call that is going to be made again."""

    attempt: int
    """The number of the one that failed, counted from 1."""

    error: Exception
    classification: Classification
    delay: float
    """Seconds until the next one."""

    retrying_at: float
    """When that will be, as of `trio.current_time`."""


async def retrying(
    call: Callable[[Attempt], Awaitable[T]],
    policy: RetryPolicy = RetryPolicy(),
    *,
    budget: RetryBudget | None = None,
    count: Callable[[Retry], object] | None = None,
    on_retry: Callable[[Retry], object] | None = None,
    random: _random.Random | None = None,
) -> T:
    """Call until it goes well; raise what the last call has raised.

    Another attempt is made if `classify` says that the error is worth it, and nothing of the answer was delivered.
    Where attempts, time or budget have run out, or the upstream asks for a longer wait than ``policy`` allows, the
    error has a note that says so. Cancellation counts before any error.

    Args:
        call: makes one call. It says `Attempt.deliver` before it gives anything away.
        budget: of the route; this is one request of it, and each further attempt a retry.
        count: called for each retry, before ``on_retry``; see `RetryCounter`.
        on_retry: called before each wait. What was shown of the failed attempt is to be taken back there.
        random: where the jitter comes from.
    """
    started = trio.current_time()
    if budget is not None:
        budget.request()
    number = 0
    while True:
        number += 1
        attempt = Attempt(number)
        try:
            return await call(attempt)
        except Exception as error:
            failure = error
        await trio.lowlevel.checkpoint_if_cancelled()
        classification = classify(failure)
        if attempt.delivered is not None or not classification.retryable:
            raise failure
        now = trio.current_time()
        delay = policy.delay(number, classification.retry_after, random or _CHANCE)
        obstacle = _obstacle(policy, number, classification.retry_after, now + delay - started)
        if obstacle is None and budget is not None and not budget.take(now):
            obstacle = "the retry budget is used up"
        if obstacle is not None:
            failure.add_note(f"given up after {number} attempt{'s' if number > 1 else ''}: {obstacle}")
            raise failure
        retry = Retry(
            attempt=number, error=failure, classification=classification, delay=delay, retrying_at=now + delay
        )
        for notice in (count, on_retry):
            if notice is not None:
                notice(retry)
        await trio.sleep(delay)


def _obstacle(policy: RetryPolicy, attempts: int, retry_after: float | None, begins: float) -> str | None:
    """Why there is no further attempt; None if there may be one."""
    if attempts >= policy.attempts:
        return "no more are allowed"
    if retry_after is not None and retry_after > policy.cap:
        return f"the upstream asks for {retry_after:g} s, and at most {policy.cap:g} s are waited"
    if begins > policy.deadline:
        return f"the next one would begin later than {policy.deadline:g} s after the first"
    return None


@attrs.frozen
class RetryLabels:
    """What a retry is counted under."""

    provider: str
    model: str
    kind: str
    chain_broken: str
    """``"true"`` or ``"false"``."""


class RetryCounter:
    """Count retries for a metric, under labels that a client cannot multiply.

    Args:
        providers, models: that are known; all others are counted as ``other``.
    """

    def __init__(self, *, providers: Iterable[str], models: Iterable[str]) -> None:
        self._providers = set(providers)
        self._models = set(models)
        self._counts: Counter[RetryLabels] = Counter()

    def know(self, *, providers: Iterable[str], models: Iterable[str]) -> None:
        """Count these under their own names from now on, too: a configuration has changed."""
        self._providers.update(providers)
        self._models.update(models)

    @property
    def counts(self) -> Mapping[RetryLabels, int]:
        """How often each has happened so far; the value of ``sseflow_stream_retries_total``."""
        return dict(self._counts)

    def of(self, provider: str, model: str | None) -> Callable[[Retry], None]:
        """What to give `retrying` as ``count`` for calls of this model of this provider."""
        provider = provider if provider in self._providers else "other"
        model = model if model is not None and model in self._models else "other"

        def count(retry: Retry) -> None:
            kind, broken = retry.classification.kind.value, retry.classification.chain_broken
            self._counts[RetryLabels(provider, model, kind, "true" if broken else "false")] += 1

        return count
