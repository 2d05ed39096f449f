"""A second call is made where the first is slow to begin, and one of the two goes on."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from sseflow import UpstreamLost
from sseflow.resilience import Latencies, Leg, LegEnding, LegOutcome, RetryBudget, hedged

Call = Callable[[Leg[str]], Awaitable[str]]


def lost() -> UpstreamLost:
    return UpstreamLost("gone", reason="connection_terminated")


def takes(seconds: float, name: str, *, then: float = 1, error: Exception | None = None) -> Call:
    """A call whose first content comes so late, and which goes on for a while."""

    async def call(leg: Leg[str]) -> str:
        await trio.sleep(seconds)
        await leg.first_content()
        await trio.sleep(then)
        if error is not None:
            raise error
        return name

    return call


def breaks(seconds: float, error: Exception) -> Call:
    """A call that fails before it has any content."""

    async def call(leg: Leg[str]) -> str:
        await trio.sleep(seconds)
        raise error

    return call


def endings(outcomes: list[LegOutcome]) -> list[tuple[int, LegEnding]]:
    return [(outcome.leg, outcome.ending) for outcome in outcomes]


async def never(leg: Leg[str]) -> str:
    raise AssertionError("there was no need for it")


async def test_a_fast_call_has_no_rival(autojump_clock: trio.testing.MockClock) -> None:
    """With content in time there is one call, however long it then takes."""
    outcomes: list[LegOutcome] = []
    assert await hedged(takes(1, "first", then=100), never, 2, record=outcomes.append) == "first"
    assert endings(outcomes) == [(1, LegEnding.WON)]


async def test_the_first_content_wins(autojump_clock: trio.testing.MockClock) -> None:
    """The second begins after the delay, and the first is cancelled when that has content."""
    outcomes: list[LegOutcome] = []
    started = trio.current_time()
    assert await hedged(takes(10, "first"), takes(3, "second"), 2, record=outcomes.append) == "second"
    assert trio.current_time() - started == pytest.approx(2 + 3 + 1)
    assert endings(outcomes) == [(1, LegEnding.LOST), (2, LegEnding.WON)]
    loser, winner = outcomes
    assert loser.first_content is None
    assert loser.ended - started == pytest.approx(5)
    assert winner.first_content is not None
    assert winner.started - started == pytest.approx(2)
    assert winner.first_content - started == pytest.approx(5)


async def test_the_first_may_still_win(autojump_clock: trio.testing.MockClock) -> None:
    """Then the second is cancelled."""
    outcomes: list[LegOutcome] = []
    assert await hedged(takes(3, "first"), takes(3, "second"), 2, record=outcomes.append) == "first"
    assert endings(outcomes) == [(2, LegEnding.LOST), (1, LegEnding.WON)]


async def test_one_wins_where_both_have_content_at_once(autojump_clock: trio.testing.MockClock) -> None:
    """What comes too late is cancelled before it gives anything away, though it was already about to go on."""
    given: list[int] = []
    outcomes: list[LegOutcome] = []
    there = trio.Event()

    async def call(leg: Leg[str]) -> str:
        await there.wait()
        await leg.first_content()
        given.append(leg.number)
        return "answer"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(functools.partial(hedged, call, call, 0, record=outcomes.append))
        await trio.testing.wait_all_tasks_blocked()
        there.set()
    assert len(given) == 1
    assert {(outcome.ending, outcome.error) for outcome in outcomes} == {(LegEnding.WON, None), (LegEnding.LOST, None)}


async def test_a_rival_that_comes_with_the_content_is_not_called(autojump_clock: trio.testing.MockClock) -> None:
    """Whichever of the two the scheduler lets go first, there is content by the time the second would be called."""
    for _ in range(40):
        outcomes: list[LegOutcome] = []
        assert await hedged(takes(2, "first"), never, 2, record=outcomes.append) == "first"
        assert endings(outcomes) == [(1, LegEnding.WON)]


async def test_who_cannot_be_cancelled_is_refused(autojump_clock: trio.testing.MockClock) -> None:
    """A call that shields itself has content too late, and still cannot give it away."""
    outcomes: list[LegOutcome] = []

    async def shielded(leg: Leg[str]) -> str:
        with trio.CancelScope(shield=True):
            await trio.sleep(50)
            await leg.first_content()
        return "it may not go on"

    assert await hedged(shielded, takes(1, "second"), 2, record=outcomes.append) == "second"
    assert endings(outcomes) == [(2, LegEnding.WON), (1, LegEnding.LOST)]
    assert isinstance(outcomes[1].error, RuntimeError)


async def test_a_call_without_content_wins_by_returning(autojump_clock: trio.testing.MockClock) -> None:
    """An answer that is nothing is an answer."""

    async def nothing(leg: Leg[str]) -> str:
        await trio.sleep(3)
        return "nothing"

    outcomes: list[LegOutcome] = []
    assert await hedged(nothing, takes(9, "second"), 2, record=outcomes.append) == "nothing"
    assert endings(outcomes) == [(1, LegEnding.WON), (2, LegEnding.LOST)]


async def test_a_winner_that_fails_fails(autojump_clock: trio.testing.MockClock) -> None:
    """Its error comes out as it is: behind its first content nobody can stand in."""
    error = lost()
    outcomes: list[LegOutcome] = []
    with pytest.raises(UpstreamLost) as caught:
        await hedged(takes(10, "first"), takes(1, "second", error=error), 2, record=outcomes.append)
    assert caught.value is error
    assert endings(outcomes) == [(1, LegEnding.LOST), (2, LegEnding.FAILED)]
    assert outcomes[1].error is error


async def test_a_call_that_fails_is_no_slow_call(autojump_clock: trio.testing.MockClock) -> None:
    """Before the second was started its error is the end, at once."""
    error = lost()
    started = trio.current_time()
    with pytest.raises(UpstreamLost) as caught:
        await hedged(breaks(1, error), never, 2)
    assert caught.value is error
    assert trio.current_time() - started == pytest.approx(1)


@pytest.mark.parametrize("first", [True, False], ids=["first", "second"])
async def test_one_that_fails_leaves_the_field_to_the_other(
    first: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """No matter which."""
    outcomes: list[LegOutcome] = []
    calls = (breaks(3, lost()), takes(9, "answer")) if first else (takes(9, "answer"), breaks(1, lost()))
    assert await hedged(*calls, 2, record=outcomes.append) == "answer"
    assert sorted(endings(outcomes)) == sorted(
        [(1 if first else 2, LegEnding.FAILED), (2 if first else 1, LegEnding.WON)], key=lambda each: each[0]
    )


async def test_if_both_fail_the_error_is_the_firsts(autojump_clock: trio.testing.MockClock) -> None:
    """The second was an extra."""
    first, second = lost(), lost()
    with pytest.raises(UpstreamLost) as caught:
        await hedged(breaks(9, first), breaks(1, second), 2)
    assert caught.value is first


async def test_a_cancellation_from_outside_ends_both(autojump_clock: trio.testing.MockClock) -> None:
    """It comes through, and both are recorded."""
    outcomes: list[LegOutcome] = []
    with trio.move_on_after(5) as scope:
        await hedged(takes(10, "first"), takes(10, "second"), 2, record=outcomes.append)
    assert scope.cancelled_caught
    assert sorted(outcome.leg for outcome in outcomes) == [1, 2]
    assert {outcome.ending for outcome in outcomes} == {LegEnding.CANCELLED}


async def test_without_a_token_there_is_no_second_call(autojump_clock: trio.testing.MockClock) -> None:
    """Where everything is slow, hedges do not double the load."""
    budget = RetryBudget(share=0, floor=0, most=1)
    assert await hedged(takes(9, "first"), takes(1, "second"), 2, budget=budget) == "second"
    assert await hedged(takes(9, "first"), never, 2, budget=budget) == "first"
    assert await hedged(takes(1, "first"), never, 2, budget=budget) == "first"
    assert (budget.retries, budget.refused) == (1, 1)


async def test_without_a_delay_both_are_called(autojump_clock: trio.testing.MockClock) -> None:
    """Zero seconds are a race from the start."""
    assert await hedged(takes(9, "first"), takes(1, "second"), 0) == "second"


def test_the_percentile_needs_twenty_times() -> None:
    """Before that there is none; then 95 of a hundred have not exceeded it."""
    latencies = Latencies()
    for n in range(19):
        latencies.record(n)
        assert latencies.p95() is None
    latencies.record(19)
    assert latencies.p95() == 18
    for n in range(20, 100):
        latencies.record(n)
    assert latencies.p95() == 94


def test_times_are_bounded_and_follow_the_upstream() -> None:
    """Only the last 256 count."""
    latencies = Latencies()
    for _ in range(1000):
        latencies.record(100.0)
    for _ in range(256):
        latencies.record(1.0)
    assert (len(latencies), latencies.p95()) == (256, 1.0)


async def test_a_percentile_is_the_delay_once_it_is_known(autojump_clock: trio.testing.MockClock) -> None:
    """Twenty calls without a rival, and then one where it is slow; a loser is remembered by the time it had."""
    latencies = Latencies()
    for _ in range(20):
        assert await hedged(takes(4, "first"), never, latencies) == "first"
    started = trio.current_time()
    assert await hedged(takes(100, "first"), takes(2, "second", then=0), latencies) == "second"
    assert trio.current_time() - started == pytest.approx(4 + 2)
    assert len(latencies) == 21
    for _ in range(100):
        await hedged(takes(100, "first"), takes(2, "second", then=0), latencies)
    later = latencies.p95()
    assert later is not None
    assert later >= 6


async def test_calls_that_failed_or_were_cancelled_are_no_times(autojump_clock: trio.testing.MockClock) -> None:
    """They say nothing about how long a first content takes."""
    latencies = Latencies()
    with pytest.raises(UpstreamLost):
        await hedged(breaks(1, lost()), never, latencies)
    with trio.move_on_after(1):
        await hedged(takes(10, "first"), never, latencies)
    assert len(latencies) == 0
