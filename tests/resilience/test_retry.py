"""A call is made again where that is safe and may help."""

from __future__ import annotations

import itertools
import random
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from sseflow import ConfigurationError, ProgressTimeout, Truncated, UpstreamLost, UpstreamRefused
from sseflow.resilience import (
    Attempt,
    Delivered,
    Kind,
    Retry,
    RetryBudget,
    RetryCounter,
    RetryLabels,
    RetryPolicy,
    retrying,
)


class Longest(random.Random):
    """No luck at all: the jitter is always as long as it may be."""

    def uniform(self, a: float, b: float) -> float:
        return b


def fails(*errors: Exception) -> tuple[list[float], Callable[[Attempt], Awaitable[str]]]:
    """A call that fails so, one time each, and then goes well; and when it was called."""
    times: list[float] = []
    left = list(errors)

    async def call(attempt: Attempt) -> str:
        times.append(trio.current_time())
        assert attempt.number == len(times)
        await trio.lowlevel.checkpoint()
        if left:
            raise left.pop(0)
        return "answer"

    return times, call


def lost() -> UpstreamLost:
    return UpstreamLost("gone", reason="connection_terminated")


async def test_the_wait_doubles_up_to_its_cap(autojump_clock: trio.testing.MockClock) -> None:
    """1, 2, 4, 8, 16, 32, 60, 60 seconds at most."""
    times, call = fails(*(lost() for _ in range(8)))
    policy = RetryPolicy(attempts=9, deadline=1000)
    assert await retrying(call, policy, random=Longest()) == "answer"
    waits = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert waits == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60])


def test_the_wait_has_full_jitter() -> None:
    """Anything from nothing to the longest, so that streams that failed together do not come back together."""
    policy, chance = RetryPolicy(), random.Random(1)
    waits = [policy.delay(3, None, chance) for _ in range(1000)]
    assert all(0 <= wait <= 4 for wait in waits)
    assert min(waits) < 0.1
    assert max(waits) > 3.9
    assert RetryPolicy().backoff(10_000) == 60


async def test_the_upstreams_wait_is_kept(autojump_clock: trio.testing.MockClock) -> None:
    """Nobody comes back before it, and not all at the same moment."""
    times, call = fails(UpstreamRefused("", status=429, retry_after=7))
    await retrying(call, random=Longest())
    assert times[1] - times[0] == pytest.approx(8)


@pytest.mark.parametrize(
    ("policy", "note"),
    [
        pytest.param(RetryPolicy(cap=5), "asks for 7 s, and at most 5 s are waited", id="cap"),
        pytest.param(RetryPolicy(deadline=6), "would begin later than 6 s", id="deadline"),
    ],
)
async def test_a_wait_that_is_too_long_is_not_waited(
    policy: RetryPolicy, note: str, autojump_clock: trio.testing.MockClock
) -> None:
    """The error comes back at once, for somebody who has the time."""
    error = UpstreamRefused("", status=429, retry_after=7)
    times, call = fails(error)
    with pytest.raises(UpstreamRefused) as caught:
        await retrying(call, policy)
    assert caught.value is error
    assert len(times) == 1
    assert trio.current_time() == times[0]
    assert note in error.__notes__[0]


async def test_exhaustion_raises_the_last_error_with_a_note(autojump_clock: trio.testing.MockClock) -> None:
    """It says how many attempts there were; the errors before it are not there any more."""
    errors = [lost(), Truncated(), lost(), lost()]
    times, call = fails(*errors)
    with pytest.raises(UpstreamLost) as caught:
        await retrying(call)
    assert caught.value is errors[2]
    assert caught.value.__notes__ == ["given up after 3 attempts: no more are allowed"]
    assert caught.value.__context__ is None
    assert len(times) == 3


async def test_what_is_not_worth_it_is_raised_at_once() -> None:
    """The very error, without a wrapper and without a note."""
    error = UpstreamRefused("", status=400)
    times, call = fails(error)
    with pytest.raises(UpstreamRefused) as caught:
        await retrying(call)
    assert caught.value is error
    assert not hasattr(error, "__notes__")
    assert len(times) == 1


async def test_a_failure_behind_the_first_byte_is_final() -> None:
    """Whoever gives something away needs what `deliver` returns, and with it there is no second attempt."""
    given: list[Delivered] = []
    error = lost()

    async def call(attempt: Attempt) -> None:
        assert attempt.delivered is None
        given.append(attempt.deliver())
        assert attempt.deliver() is given[0]
        raise error

    with pytest.raises(UpstreamLost) as caught:
        await retrying(call)
    assert caught.value is error
    assert given == [Delivered(1)]


async def test_a_delivery_of_an_earlier_attempt_cannot_be(autojump_clock: trio.testing.MockClock) -> None:
    """Each attempt has its own; what is delivered is the last one's."""
    attempts: list[Attempt] = []

    async def call(attempt: Attempt) -> Delivered:
        attempts.append(attempt)
        if attempt.number < 3:
            raise lost()
        return attempt.deliver()

    assert await retrying(call) == Delivered(3)
    assert [attempt.delivered for attempt in attempts] == [None, None, Delivered(3)]


async def test_callers_are_told_before_each_wait(autojump_clock: trio.testing.MockClock) -> None:
    """The attempt that failed, from 1, its error and what it means, and when it goes on; counted before that."""
    said: list[tuple[str, Retry, float]] = []

    def note(who: str) -> Callable[[Retry], None]:
        return lambda retry: said.append((who, retry, trio.current_time()))

    errors = [lost(), UpstreamRefused("", status=429, retry_after=3)]
    times, call = fails(*errors)
    await retrying(call, count=note("count"), on_retry=note("on_retry"), random=Longest())
    assert [who for who, _, _ in said] == ["count", "on_retry"] * 2
    for number, (_, retry, when) in enumerate(said[1::2]):
        assert (retry.attempt, retry.error) == (number + 1, errors[number])
        assert when == times[number]
        assert when + retry.delay == retry.retrying_at == times[number + 1]
    assert [retry.classification.kind for _, retry, _ in said[1::2]] == [Kind.TIMEOUT, Kind.RATE_LIMIT]


async def test_cancellation_wins_during_the_call(autojump_clock: trio.testing.MockClock) -> None:
    """No second attempt, and no error."""
    calls = []

    async def call(attempt: Attempt) -> None:
        calls.append(attempt)
        await trio.sleep_forever()

    with trio.move_on_after(5) as scope:
        await retrying(call)
    assert scope.cancelled_caught
    assert len(calls) == 1


async def test_cancellation_wins_during_the_wait(autojump_clock: trio.testing.MockClock) -> None:
    """The wait ends at once."""
    times, call = fails(lost(), lost())
    with trio.move_on_after(0.5) as scope:
        await retrying(call, random=Longest())
    assert scope.cancelled_caught
    assert trio.current_time() - times[0] == pytest.approx(0.5)
    assert len(times) == 1


@pytest.mark.parametrize("error", [lost(), ValueError()], ids=["retryable", "not"])
async def test_cancellation_wins_over_the_failure_that_it_caused(error: Exception) -> None:
    """A call that makes an error of its cancellation does not hide it, and nobody is told of a retry."""
    told: list[Retry] = []

    async def call(attempt: Attempt) -> None:
        scope.cancel()
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            raise error from None

    with trio.CancelScope() as scope:
        await retrying(call, on_retry=told.append)
    assert scope.cancelled_caught
    assert told == []


async def test_a_silent_stream_is_tried_again(autojump_clock: trio.testing.MockClock) -> None:
    """The guard ends the attempt with an error of its own; that is no cancellation of ours."""
    times, call = fails(ProgressTimeout("", reason="connection_read_timeout"))
    assert await retrying(call) == "answer"
    assert len(times) == 2


async def test_the_budget_of_the_route_holds(autojump_clock: trio.testing.MockClock) -> None:
    """Each request is one, each further attempt takes a token; without one the error is raised."""
    budget = RetryBudget(share=0, floor=0, most=3)
    calls = 0
    error = lost()
    for _ in range(4):
        error = lost()
        times, call = fails(*[error] * 3)
        with pytest.raises(UpstreamLost):
            await retrying(call, budget=budget)
        calls += len(times)
    assert calls == 4 + 3
    assert (budget.requests, budget.retries, budget.refused) == (4, 3, 3)
    assert error.__notes__ == ["given up after 1 attempt: the retry budget is used up"]


async def test_retries_are_counted_under_bounded_labels(autojump_clock: trio.testing.MockClock) -> None:
    """What a client may call its model is not a label; whether the chain was broken is `true` or `false`."""
    counter = RetryCounter(providers=["openai"], models=["gpt"])
    broken = UpstreamRefused("", status=400, code="previous_response_not_found")
    for provider, model in (("openai", "gpt"), ("openai", "made-up"), ("made-up", None)):
        _, call = fails(lost(), broken)
        await retrying(call, count=counter.of(provider, model))
    assert counter.counts == {
        RetryLabels(provider, model, kind, chain): 1
        for provider, model in (("openai", "gpt"), ("openai", "other"), ("other", "other"))
        for kind, chain in (("timeout", "false"), ("generic", "true"))
    }


async def test_what_becomes_known_is_counted_under_its_name() -> None:
    """From then on; what was counted before stays what it is."""
    counter = RetryCounter(providers=["openai"], models=[])
    for _ in range(2):
        _, call = fails(lost())
        await retrying(call, RetryPolicy(base=0), count=counter.of("openai", "gpt"))
        counter.know(providers=[], models=["gpt"])
    assert counter.counts == {RetryLabels("openai", model, "timeout", "false"): 1 for model in ("other", "gpt")}


@pytest.mark.parametrize("options", [{"attempts": 0}, {"base": -1}, {"cap": -1}, {"deadline": float("nan")}], ids=str)
def test_a_policy_is_sensible(options: dict[str, float]) -> None:
    """The message names the number that is not."""
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        RetryPolicy(**options)  # type: ignore[arg-type]  # values of all kinds


async def test_a_good_call_is_made_once() -> None:
    """Without a failure nothing is waited for and nothing told."""
    budget = RetryBudget()
    told: list[Retry] = []
    times, call = fails()
    assert await retrying(call, budget=budget, on_retry=told.append) == "answer"
    assert (len(times), told, budget.retries) == (1, [], 0)
