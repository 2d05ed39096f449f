"""Retries stay a small part of all calls."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sseflow import ConfigurationError
from sseflow.resilience import RetryBudget


def test_a_storm_is_a_tenth() -> None:
    """Where every request fails, and would be tried again, the upstream sees a tenth more calls, and a few."""
    budget = RetryBudget()
    for n in range(10_000):
        budget.request()
        budget.take(n / 1000)
    assert budget.requests == 10_000
    assert 1000 <= budget.retries <= 1000 + 10 + 5
    assert budget.refused == 10_000 - budget.retries


def test_a_few_requests_may_be_tried_again() -> None:
    """Ten from the start, then one every two seconds, without any other request."""
    budget = RetryBudget()
    assert sum(budget.take(0) for _ in range(20)) == 10
    assert [budget.take(now) for now in (1, 2, 3, 4)] == [False, True, False, True]


def test_nothing_is_saved_up_without_end() -> None:
    """A quiet night does not pay for a storm in the morning."""
    budget = RetryBudget()
    for _ in range(10_000):
        budget.request()
    assert sum(budget.take(0) for _ in range(100)) == 10
    assert sum(budget.take(1e9) for _ in range(100)) == 10


@given(
    st.lists(st.tuples(st.floats(0, 5), st.booleans()), max_size=60),
    st.integers(0, 60),
    st.integers(0, 60),
)
def test_over_any_stretch_of_time_the_promise_holds(calls: list[tuple[float, bool]], start: int, stop: int) -> None:
    """At most a share of the requests, the floor for each second, and what can be saved up."""
    budget = RetryBudget(share=0.25, floor=0.5, most=3)
    now = 0.0
    log = []
    for wait, is_request in calls:
        now += wait
        if is_request:
            budget.request()
        log.append((now, is_request, not is_request and budget.take(now)))
    stretch = log[start:stop]
    if stretch:
        seconds = stretch[-1][0] - stretch[0][0]
        requests = sum(is_request for _, is_request, _ in stretch)
        assert sum(taken for _, _, taken in stretch) <= 0.25 * requests + 0.5 * seconds + 3 + 1e-6


@pytest.mark.parametrize("options", [{"share": -1.0}, {"floor": -1.0}, {"most": 0.5}], ids=str)
def test_a_budget_is_sensible(options: dict[str, float]) -> None:
    """What could never be spent, or would be negative, is refused."""
    with pytest.raises(ConfigurationError, match="retry budget"):
        RetryBudget(**options)
