"""The keys of a provider: which is used, which is out and for how long, and what it means that none is left."""

from __future__ import annotations

import math

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sseflow import ConfigurationError, UpstreamLost, UpstreamRefused
from sseflow.resilience import (
    CircuitOpen,
    DuplicateKeys,
    KeyPool,
    KeysExhausted,
    KeyState,
    Kind,
    NoKeys,
    Reason,
    Secret,
    classify,
)


def refused(status: int, *, code: str | None = None, type: str | None = None, wait: float | None = None) -> Exception:
    return UpstreamRefused("no", status=status, code=code, type=type, retry_after=wait)


def secrets(count: int) -> list[Secret]:
    return [Secret(f"sk-secret-{n}") for n in range(count)]


def rest(pool: KeyPool, now: float) -> list[Secret]:
    """What a new walk gives."""
    walk = pool.walk()
    return list(iter(lambda: walk.next(now), None))


def test_a_pool_needs_a_key() -> None:
    """Without a key there is no pool."""
    with pytest.raises(NoKeys, match="'openai' has no key"):
        KeyPool("openai", [])
    assert issubclass(NoKeys, ConfigurationError)


def test_a_pool_takes_no_key_twice() -> None:
    """The error is another one, says which two are the same, and not what they are."""
    keys = [*secrets(2), Secret("sk-secret-0")]
    with pytest.raises(DuplicateKeys, match="keys 1 and 3") as caught:
        KeyPool("openai", keys)
    assert "sk-" not in str(caught.value)
    assert issubclass(DuplicateKeys, ConfigurationError)
    assert not issubclass(DuplicateKeys, NoKeys)


def test_a_walk_begins_at_the_first_key_and_gives_none_twice() -> None:
    """All keys in order, then nothing, for ever; the walk knows the last one and how many it gave."""
    keys = secrets(3)
    walk = KeyPool("p", keys).walk()
    assert (walk.key, walk.tried) == (None, 0)
    assert [walk.next(0) for _ in range(5)] == [*keys, None, None]
    assert (walk.key, walk.tried) == (keys[2], 3)


def test_walks_are_independent_and_share_what_is_known() -> None:
    """One walk does not move another one; what one has marked the others skip."""
    keys = secrets(3)
    pool = KeyPool("p", keys)
    one, other = pool.walk(), pool.walk()
    assert one.next(0) is keys[0]
    assert other.next(0) is keys[0]
    pool.mark_temporary(keys[1], until=10, reason=Reason.RATE_LIMITED, now=0)
    assert one.next(0) is keys[2]
    assert other.next(10) is keys[1]


def test_a_temporary_key_heals_by_itself() -> None:
    """It is out until its deadline, and valid at it."""
    key = Secret("sk-secret")
    pool = KeyPool("p", [key])
    assert pool.mark_temporary(key, until=5, reason=Reason.RATE_LIMITED, now=0)
    assert not pool.usable(key, 4.999)
    assert pool.usable(key, 5)
    assert pool.mark_temporary(key, until=9, reason=Reason.RATE_LIMITED, now=6)


def test_a_mark_keeps_the_later_deadline() -> None:
    """An earlier one does not shorten it, and a later one is no change of state."""
    key = Secret("sk-secret")
    pool = KeyPool("p", [key])
    marks = [pool.mark_temporary(key, until=until, reason=Reason.RATE_LIMITED, now=0) for until in (10, 5, 20)]
    assert marks == [True, False, False]
    assert pool.snapshot(0)[0].seconds_left == 20


def test_permanent_never_goes_back() -> None:
    """What is out for good stays so, whatever is marked later; a second mark changes nothing."""
    key = Secret("sk-secret")
    pool = KeyPool("p", [key])
    assert pool.mark_permanent(key)
    assert not pool.mark_permanent(key)
    assert not pool.mark_temporary(key, until=5, reason=Reason.RATE_LIMITED, now=0)
    assert not pool.usable(key, 1e9)
    assert pool.snapshot(0)[0].state is KeyState.PERMANENT


VERDICTS = {
    "429": (refused(429), True, Reason.RATE_LIMITED, 60),
    "429-with-a-wait": (refused(429, wait=7.5), True, Reason.RATE_LIMITED, 7.5),
    "429-with-no-wait": (refused(429, wait=0), True, Reason.RATE_LIMITED, 60),
    "429-with-a-negative-wait": (refused(429, wait=-1), True, Reason.RATE_LIMITED, 60),
    "429-with-an-endless-wait": (refused(429, wait=math.inf), True, Reason.RATE_LIMITED, 86400),
    "429-with-no-number": (refused(429, wait=math.nan), True, Reason.RATE_LIMITED, 60),
    "401": (refused(401), True, Reason.UNAUTHORIZED, 60),
    "402": (refused(402), True, Reason.OUT_OF_QUOTA, 600),
    "quota-by-code": (refused(429, code="insufficient_quota", wait=1), True, Reason.OUT_OF_QUOTA, 600),
    "quota-by-type": (refused(502, type="insufficient_quota"), True, Reason.OUT_OF_QUOTA, 600),
    "403": (refused(403), False, None, 0),
    "400": (refused(400), False, None, 0),
    "500": (refused(500), False, None, 0),
    "503-with-a-wait": (refused(503, wait=9), False, None, 0),
    "network": (UpstreamLost("gone", reason="connection_refused"), False, None, 0),
    "ours": (CircuitOpen(5), False, None, 0),
    "unknown": (ValueError("?"), False, None, 0),
}


@pytest.mark.parametrize(("error", "next_key", "reason", "seconds"), VERDICTS.values(), ids=VERDICTS)
def test_what_a_failure_says_about_its_key(
    error: Exception, next_key: bool, reason: Reason | None, seconds: float
) -> None:
    """Limits, refused credentials and empty accounts take a key out and call for the next; nothing else does."""
    key, other = secrets(2)
    pool = KeyPool("p", [key, other])
    judgement = pool.judge(key, error, 100)
    assert (judgement.next_key, judgement.reason, judgement.cool_down) == (next_key, reason, seconds)
    assert judgement.changed is next_key
    assert pool.usable(key, 100) is not next_key
    assert pool.usable(key, 100 + seconds)
    assert rest(pool, 100) == ([other] if next_key else [key, other])


def test_a_second_judgement_is_no_change() -> None:
    """What is out already is not logged again."""
    key = Secret("sk-secret")
    pool = KeyPool("p", [key])
    assert [pool.judge(key, refused(429), now).changed for now in (0, 1, 60, 61, 121)] == [
        True,
        False,
        False,
        False,
        True,
    ]


def test_a_key_that_is_out_is_skipped_by_later_requests() -> None:
    """Two requests after a limit: the first uses two keys, the second begins with the second one."""
    keys = secrets(2)
    pool = KeyPool("p", keys)
    used = []
    for _ in range(2):
        walk = pool.walk()
        while (key := walk.next(0)) is not None:
            used.append(key)
            if not (key is keys[0] and pool.judge(key, refused(429), 0).next_key):
                break
    assert used == [keys[0], keys[1], keys[1]]


def test_all_limited_keys_are_a_429_with_the_shortest_wait() -> None:
    """Rounded up to whole seconds; the words say it, too."""
    keys = secrets(3)
    pool = KeyPool("p", keys)
    for key, wait in zip(keys, (5, 2.2, 10), strict=True):
        pool.judge(key, refused(429, wait=wait), 0.1)
    exhausted = pool.exhausted(0.1)
    assert (exhausted.status, exhausted.type, exhausted.code) == (429, "rate_limit_error", "rate_limit_exceeded")
    assert exhausted.retry_after == 3
    assert exhausted.message == "all configured keys are rate-limited (retry in 3 s)"


def test_a_whole_wait_is_not_rounded_up() -> None:
    """Clocks count in binary fractions; a second more than was asked for is not what comes of it."""
    assert 3.3 + 5 - 3.3 > 5
    key = Secret("sk-secret")
    for now in (0.1, 3.3, 98765.4321):
        pool = KeyPool("p", [key])
        pool.judge(key, refused(429, wait=5), now)
        assert pool.exhausted(now).retry_after == 5


def test_a_key_that_has_recovered_meanwhile_is_a_wait_of_zero() -> None:
    """The walk has passed it by, and the next one may take it."""
    keys = secrets(2)
    pool = KeyPool("p", keys)
    pool.judge(keys[0], refused(429, wait=5), 0)
    pool.judge(keys[1], refused(401), 0)
    assert pool.exhausted(5).retry_after == 0
    assert pool.exhausted(5).status == 429


def test_all_refused_keys_are_a_502() -> None:
    """Nothing that a client could do about it: for a while or for good."""
    keys = secrets(2)
    pool = KeyPool("p", keys)
    pool.judge(keys[0], refused(401), 0)
    pool.mark_permanent(keys[1])
    exhausted = pool.exhausted(0)
    assert (exhausted.status, exhausted.type, exhausted.code) == (502, "api_error", "server_error")
    assert exhausted.message == "all configured keys failed authentication"
    assert exhausted.retry_after is None


def test_one_limited_key_among_refused_ones_is_a_429() -> None:
    """Then waiting helps."""
    keys = secrets(2)
    pool = KeyPool("p", keys)
    pool.mark_permanent(keys[0])
    pool.judge(keys[1], refused(429, wait=5), 0)
    assert (pool.exhausted(0).status, pool.exhausted(0).retry_after) == (429, 5)


def test_exhaustion_is_a_refusal_that_knows_what_it_means() -> None:
    """It goes to a client as the upstream's own refusals do, and is not taken for the upstream's."""
    key = Secret("sk-secret")
    pool = KeyPool("p", [key])
    pool.judge(key, refused(429, wait=5), 0)
    limited = pool.exhausted(0).refusal()
    assert isinstance(limited, UpstreamRefused)
    assert (limited.status, limited.said, limited.code) == (429, str(limited), "rate_limit_exceeded")
    assert limited.retry_after == 5
    assert (classify(limited).kind, classify(limited).retryable) == (Kind.RATE_LIMIT, True)
    assert not pool.judge(key, limited, 0).next_key
    pool.mark_permanent(key)
    failed = pool.exhausted(0).refusal()
    assert isinstance(failed, KeysExhausted)
    assert (classify(failed).kind, classify(failed).retryable) == (Kind.AUTH, False)


def test_a_snapshot_shows_hints_only() -> None:
    """Each key in order with its state and its seconds, and no key."""
    keys = [Secret("sk-aaaaaaaaaaaaaaaaaaaaaaa1"), Secret("sk-aaaaaaaaaaaaaaaaaaaaaaa2"), Secret("short")]
    pool = KeyPool("p", keys)
    pool.judge(keys[0], refused(429, wait=5), 0)
    pool.mark_permanent(keys[1])
    seen = [attrs.astuple(view) for view in pool.snapshot(2)]
    assert seen == [
        ("sk-a...aaa1", KeyState.TEMPORARY, Reason.RATE_LIMITED, 3),
        ("sk-a...aaa2", KeyState.PERMANENT, Reason.UNAUTHORIZED, None),
        ("s...t", KeyState.VALID, None, None),
    ]
    assert attrs.astuple(pool.snapshot(5)[0]) == ("sk-a...aaa1", KeyState.VALID, None, None)


def test_a_reload_keeps_the_states_of_keys_that_stay() -> None:
    """By value, at any place; new keys are valid, and calls of the old configuration mark for the new one, too."""
    old = KeyPool("p", secrets(2))
    first = old.walk().next(0)
    assert first is not None
    old.judge(first, refused(429, wait=50), 0)
    new = KeyPool("p", [Secret("sk-new"), *reversed(secrets(2))])
    new.adopt(old)
    assert [view.state for view in new.snapshot(0)] == [KeyState.VALID, KeyState.VALID, KeyState.TEMPORARY]
    second = old.walk().next(0)
    assert second is not None
    old.mark_permanent(second)
    assert [view.state for view in new.snapshot(0)] == [KeyState.VALID, KeyState.PERMANENT, KeyState.TEMPORARY]


@attrs.define
class Model:
    """A key as simply as it can be said."""

    out_until: float = 0.0
    dead: bool = False


class PoolMachine(RuleBasedStateMachine):
    """A pool beside a list of keys that says the same in other words."""

    def __init__(self) -> None:
        super().__init__()
        self.keys = secrets(3)
        self.pool = KeyPool("p", self.keys)
        self.models = [Model() for _ in self.keys]
        self.now = 0

    def is_out(self, at: int) -> bool:
        return self.models[at].dead or self.now < self.models[at].out_until

    @rule(seconds=st.integers(0, 40))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule(at=st.integers(0, 2), seconds=st.integers(1, 100))
    def limit(self, at: int, seconds: int) -> None:
        was_out = self.is_out(at)
        assert self.pool.judge(self.keys[at], refused(429, wait=seconds), self.now).changed is not was_out
        self.models[at].out_until = max(self.models[at].out_until, self.now + seconds)

    @rule(at=st.integers(0, 2))
    def kill(self, at: int) -> None:
        was_dead = self.models[at].dead
        assert self.pool.mark_permanent(self.keys[at]) is not was_dead
        self.models[at].dead = True

    @rule()
    def reload(self) -> None:
        keys = secrets(3)
        pool = KeyPool("p", keys)
        pool.adopt(self.pool)
        self.pool, self.keys = pool, keys

    @invariant()
    def walks_give_what_is_not_out(self) -> None:
        assert rest(self.pool, self.now) == [key for at, key in enumerate(self.keys) if not self.is_out(at)]

    @invariant()
    def exhaustion_is_what_it_should_be(self) -> None:
        exhausted = self.pool.exhausted(self.now)
        if all(model.dead for model in self.models):
            assert exhausted.status == 502
        else:
            wait = min(model.out_until for model in self.models if not model.dead) - self.now
            assert (exhausted.status, exhausted.retry_after) == (429, max(wait, 0))


TestPool = PoolMachine.TestCase


@given(st.lists(st.sampled_from(["a", "b", "c", "d"])))
def test_a_pool_is_of_different_keys_or_is_not(values: list[str]) -> None:
    """Exactly the lists without a repetition make a pool."""
    keys = [Secret(value) for value in values]
    if values and len(set(values)) == len(values):
        assert rest(KeyPool("p", keys), 0) == keys
    else:
        with pytest.raises(DuplicateKeys if values else NoKeys):
            KeyPool("p", keys)
