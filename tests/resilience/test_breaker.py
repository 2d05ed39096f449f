"""An upstream that fails is left alone for a while, and only then."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sseflow import (
    ConfigurationError,
    CutMidEvent,
    EmptyStream,
    HeldTooMuch,
    ProgressTimeout,
    RequestError,
    Truncated,
    UpstreamLost,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamTimeout,
)
from sseflow.resilience import (
    Breaker,
    BreakerOptions,
    Breakers,
    BreakerState,
    CircuitOpen,
    KeyPool,
    Kind,
    Permit,
    Secret,
    classify,
    is_failure,
)


def fail(breaker: Breaker, now: float, times: int = 5) -> None:
    for _ in range(times):
        breaker.admit(now).failure(now)


def tripped(now: float = 0) -> Breaker:
    breaker = Breaker()
    fail(breaker, now)
    return breaker


def test_five_failures_in_a_row_open_it() -> None:
    """Four do not; the gauge and the counter say so."""
    breaker = Breaker()
    fail(breaker, 0, 4)
    assert breaker.state(0).value == 0
    fail(breaker, 0, 1)
    assert breaker.state(0).value == 1
    assert (breaker.trips, breaker.tripped) == (1, True)


def test_a_success_ends_the_row() -> None:
    """Failures count only if no success was between them."""
    breaker = Breaker()
    fail(breaker, 0, 4)
    breaker.admit(0).success(0)
    fail(breaker, 0, 4)
    assert breaker.state(0) is BreakerState.CLOSED


def test_failures_count_for_ten_seconds() -> None:
    """Five in more than that do not open it, five of the last ten seconds do."""
    breaker = Breaker()
    for now in (0, 3, 6, 9, 10.5):
        fail(breaker, now, 1)
    assert breaker.state(10.5) is BreakerState.CLOSED
    fail(breaker, 13, 1)
    assert breaker.state(13) is BreakerState.OPEN


def test_what_is_neutral_neither_counts_nor_ends_the_row() -> None:
    """Four failures, anything that says nothing, and one failure more open it."""
    breaker = Breaker()
    fail(breaker, 0, 4)
    breaker.admit(0).neutral()
    with breaker.admit(0):
        pass
    fail(breaker, 0, 1)
    assert breaker.state(0) is BreakerState.OPEN


def test_an_open_one_refuses_with_what_remains() -> None:
    """503 in a dialect's words, with the seconds that remain and not those of the beginning; refusals are counted."""
    breaker = tripped()
    for now, wait in ((0, 30), (10.5, 20)):
        with pytest.raises(CircuitOpen) as caught:
            breaker.admit(now)
        assert caught.value.retry_after == wait
    with pytest.raises(CircuitOpen, match="circuit breaker is open") as caught:
        breaker.admit(29.9)
    error = caught.value
    assert (error.status, error.type, error.code) == (503, "overloaded_error", "service_unavailable")
    assert error.said == "circuit breaker is open"
    assert (classify(error).kind, classify(error).retryable, classify(error).retry_after) == (Kind.OVERLOADED, True, 1)
    assert breaker.rejects == 3


def test_a_half_open_one_lets_three_through() -> None:
    """One more is refused, for a second; a place that is given back can be taken again."""
    breaker = tripped()
    assert breaker.state(30).value == 0.5
    permits = [breaker.admit(30) for _ in range(3)]
    with pytest.raises(CircuitOpen) as caught:
        breaker.admit(31)
    assert caught.value.retry_after == 1
    permits[0].close()
    breaker.admit(31)


def test_a_half_open_one_lets_no_more_through_than_have_to_succeed() -> None:
    """One that has succeeded keeps its place: three calls decide, however they overlap."""
    breaker = tripped()
    permits = [breaker.admit(30) for _ in range(3)]
    permits[0].success(31)
    with pytest.raises(CircuitOpen):
        breaker.admit(31)


def test_a_run_of_successes_closes_it() -> None:
    """Three in a row; then failures are counted from the beginning."""
    breaker = tripped()
    for now in (30, 31, 32):
        assert breaker.state(now) is BreakerState.HALF_OPEN
        breaker.admit(now).success(now)
    assert breaker.state(32) is BreakerState.CLOSED
    fail(breaker, 32, 4)
    assert breaker.state(32) is BreakerState.CLOSED


def test_one_failure_opens_a_half_open_one_again() -> None:
    """For the whole time from then on; successes before it are forgotten."""
    breaker = tripped()
    for _ in range(2):
        breaker.admit(30).success(30)
    breaker.admit(31).failure(35)
    assert breaker.state(64.9) is BreakerState.OPEN
    assert breaker.trips == 2
    breaker.admit(65).success(65)
    assert breaker.state(65) is BreakerState.HALF_OPEN


def test_a_place_cannot_leak() -> None:
    """Whatever ends the block, the permit is given back; three calls that were cancelled do not shut it for ever."""
    breaker = tripped()
    for _ in range(10):
        with pytest.raises(KeyboardInterrupt), breaker.admit(30):
            raise KeyboardInterrupt
    assert breaker.state(30) is BreakerState.HALF_OPEN


def test_a_permit_counts_once() -> None:
    """The first word is the one that holds."""
    breaker = Breaker()
    with breaker.admit(0) as permit:
        for _ in range(9):
            permit.failure(0)
        permit.success(0)
    fail(breaker, 0, 4)
    assert breaker.state(0) is BreakerState.OPEN


def test_a_late_word_does_not_count() -> None:
    """Calls of before it opened say nothing about how the upstream is now."""
    breaker = Breaker()
    late, later, latest = breaker.admit(0), breaker.admit(0), breaker.admit(0)
    fail(breaker, 0)
    late.failure(1)
    assert breaker.trips == 1
    later.success(30)
    latest.failure(30)
    assert breaker.state(30) is BreakerState.HALF_OPEN
    assert breaker.trips == 1


JUDGED = {
    "503": (UpstreamRefused("", status=503), True),
    "504": (UpstreamRefused("", status=504), True),
    "529": (UpstreamRefused("", status=529), True),
    "500": (UpstreamRefused("", status=500), True),
    "in the stream": (UpstreamRefused("", status=529, type="overloaded_error"), True),
    "lost": (UpstreamLost("", reason="connection_refused"), True),
    "malformed": (UpstreamProtocolError("", reason="http_protocol_error"), True),
    "late": (UpstreamTimeout("", reason="connection_timeout"), True),
    "silent": (ProgressTimeout("", reason="connection_read_timeout"), True),
    "empty": (EmptyStream(), True),
    "truncated": (Truncated(), True),
    "cut": (CutMidEvent(), True),
    "429": (UpstreamRefused("", status=429), False),
    "400": (UpstreamRefused("", status=400), False),
    "401": (UpstreamRefused("", status=401), False),
    "no key": (KeyPool("p", [Secret("x")]).exhausted(0).refusal(), False),
    "open": (CircuitOpen(1), False),
    "our limit": (HeldTooMuch(1, 2), False),
    "request": (RequestError(413, ""), False),
    "anything": (ValueError(), False),
}


@pytest.mark.parametrize(("error", "expected"), JUDGED.values(), ids=JUDGED)
def test_the_end_of_the_stream_is_judged(error: Exception, expected: bool) -> None:
    """Not only the status: a stream that breaks off behind a 200 is a failure, a 429 or a client's mistake is none."""
    assert is_failure(error) is expected
    breaker = Breaker()
    for _ in range(5):
        breaker.admit(0).judge(error, 0)
    assert breaker.tripped is expected


def test_a_stream_without_an_error_is_a_success() -> None:
    """It ends the row."""
    breaker = Breaker()
    fail(breaker, 0, 4)
    breaker.admit(0).judge(None, 0)
    fail(breaker, 0, 1)
    assert not breaker.tripped


def test_upstreams_endpoints_and_models_are_kept_apart() -> None:
    """There is one breaker for each, and the same one each time."""
    breakers = Breakers()
    fail(breakers.get("a", "/chat", "m"), 0)
    assert breakers.get("a", "/chat", "m").tripped
    for other in (("b", "/chat", "m"), ("a", "/responses", "m"), ("a", "/chat", "n")):
        assert not breakers.get(*other).tripped
    assert len(breakers) == 4
    assert [name for name, breaker in breakers if breaker.tripped] == [("a", "/chat", "m")]


def test_made_up_models_do_not_fill_the_memory() -> None:
    """The number is bounded: the one that was not used for longest goes, and never an open one before closed ones."""
    breakers = Breakers(most=3)
    fail(breakers.get("u", "e", "open"), 0)
    breakers.get("u", "e", "used")
    for n in range(1000):
        breakers.get("u", "e", "used")
        breakers.get("u", "e", f"made-up-{n}")
    assert [name[2] for name, _ in breakers] == ["open", "used", "made-up-999"]
    assert breakers.get("u", "e", "open").tripped


def test_where_all_are_open_the_oldest_goes() -> None:
    """The bound holds in any case."""
    breakers = Breakers(most=2)
    for model in "abc":
        fail(breakers.get("u", "e", model), 0)
    assert [name[2] for name, _ in breakers] == ["b", "c"]


@pytest.mark.parametrize("name", ["failures", "within", "open_for", "half_open"])
def test_options_must_be_positive(name: str) -> None:
    """The message says which one is not."""
    with pytest.raises(ConfigurationError, match=name):
        BreakerOptions(**{name: 0})
    with pytest.raises(ConfigurationError, match="most"):
        Breakers(most=0)


class BreakerMachine(RuleBasedStateMachine):
    """A breaker beside a history of words that is read anew each time."""

    def __init__(self) -> None:
        super().__init__()
        self.options = BreakerOptions(failures=2, within=10, open_for=30, half_open=2)
        self.breaker = Breaker(self.options)
        self.now = 0
        self.era = 0
        self.out: list[tuple[int, Permit]] = []
        self.words: list[tuple[int, bool]] = []  # of this era: when, and whether it was a success
        self.opened: int | None = None
        self.trips = 0

    @property
    def half_open(self) -> bool:
        return self.opened is not None and self.now >= self.opened + 30

    def begin(self, opened: int | None) -> None:
        self.era, self.opened, self.words = self.era + 1, opened, []
        self.trips += opened is not None

    @rule(seconds=st.sampled_from([0, 1, 10, 29, 30]))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def call(self) -> None:
        probing = sum(era == self.era for era, _ in self.out) + len(self.words)
        if self.opened is None or (self.half_open and probing < 2):
            self.out.append((self.era, self.breaker.admit(self.now)))
            return
        with pytest.raises(CircuitOpen) as caught:
            self.breaker.admit(self.now)
        assert caught.value.retry_after == max(1, self.opened + 30 - self.now)

    @precondition(lambda self: self.out)
    @rule(word=st.sampled_from(["success", "failure", "neutral"]), data=st.data())
    def end(self, word: str, data: st.DataObject) -> None:
        era, permit = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        if word == "neutral":
            permit.neutral()
        else:
            (permit.success if word == "success" else permit.failure)(self.now)
        if era != self.era or word == "neutral":
            return
        self.words.append((self.now, word == "success"))
        if self.opened is None:
            last = self.words[-2:]
            if len(last) == 2 and not any(good for _, good in last) and self.now - last[0][0] <= 10:
                self.begin(self.now)
        elif word == "failure":
            self.begin(self.now)
        elif len(self.words) == 2:
            self.begin(None)

    @invariant()
    def they_agree(self) -> None:
        expected = (
            BreakerState.CLOSED
            if self.opened is None
            else BreakerState.HALF_OPEN
            if self.half_open
            else BreakerState.OPEN
        )
        assert self.breaker.state(self.now) is expected
        assert self.breaker.trips == self.trips


TestBreaker = BreakerMachine.TestCase


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans()), max_size=40))
def test_breakers_are_a_bounded_list_by_use(calls: list[tuple[str, bool]]) -> None:
    """Beside a plain list that is moved and searched by hand."""
    breakers = Breakers(BreakerOptions(failures=1), most=3)
    expected: list[tuple[str, bool]] = []
    for model, fails in calls:
        was = next((each for each in expected if each[0] == model), None)
        if was is not None:
            expected.remove(was)
        elif len(expected) == 3:
            expected.remove(next((each for each in expected if not each[1]), expected[0]))
        breaker = breakers.get("u", "e", model)
        trips = fails or (was is not None and was[1])
        if fails and not breaker.tripped:
            breaker.admit(0).failure(0)
        expected.append((model, trips))
    assert [(name[2], breaker.tripped) for name, breaker in breakers] == expected


def test_options_are_values() -> None:
    """The defaults are those of the reference."""
    assert attrs.astuple(BreakerOptions()) == (5, 10, 30, 3)
