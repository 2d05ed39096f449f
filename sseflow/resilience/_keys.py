"""The keys of one provider, in the order in which they are to be used."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence

import attrs

from .. import ConfigurationError, UpstreamRefused
from ._classify import OUT_OF_QUOTA, Classification, Kind, NotCalled
from ._retry_after import LONGEST
from ._secret import Secret

COOL_DOWN = 60.0
"""Seconds for which a key is out that was refused, or is limited and was not told for how long."""

QUOTA_COOL_DOWN = 600.0
"""Seconds for which a key is out whose account has nothing left. Nobody says when that will change, and a person has to
change it; ten minutes keep the failing calls few, and bring the key back without a restart."""


class NoKeys(ConfigurationError):
    """A pool was given no key."""


class DuplicateKeys(ConfigurationError):
    """A pool was given the same key twice."""


class KeyState(enum.Enum):
    """Whether a key can be used."""

    VALID = "valid"
    TEMPORARY = "temporary"
    """Out until a deadline; then it is valid again by itself."""

    PERMANENT = "permanent"
    """Out until the process, or its configuration, has another key."""


class Reason(enum.Enum):
    """Why a key is out."""

    RATE_LIMITED = "rate_limited"
    UNAUTHORIZED = "unauthorized"
    OUT_OF_QUOTA = "out_of_quota"


@attrs.frozen(kw_only=True)
class Judgement:
    """What a failed call says about the key that it was made with."""

    next_key: bool = False
    """Another key may do better."""

    reason: Reason | None = None
    """Why the key is out now; None if nothing was held against it."""

    cool_down: float = 0.0
    """Seconds."""

    changed: bool = False
    """The key could be used before. Worth a line in a log, and a count."""


@attrs.frozen(kw_only=True)
class KeyView:
    """A key as a page or a metric may show it."""

    hint: str
    state: KeyState
    reason: Reason | None
    seconds_left: float | None
    """Until it can be used again; None if that is now, or never."""


@attrs.frozen(kw_only=True)
class Exhausted:
    """What a client is told when no key is left."""

    status: int
    type: str
    code: str
    message: str
    retry_after: int | None
    """Seconds."""

    kind: Kind

    def refusal(self) -> KeysExhausted:
        """It as an error."""
        classification = Classification(
            kind=self.kind, retryable=self.kind is Kind.RATE_LIMIT, retry_after=self.retry_after
        )
        return KeysExhausted(self.message, classification, status=self.status, type=self.type, code=self.code)


class KeysExhausted(NotCalled):
    """No key of the pool is left to try."""


@attrs.define
class _Mark:
    """What is held against a key. Shared by pools that follow one another, so never replaced."""

    until: float = -math.inf
    reason: Reason | None = None

    def state(self, now: float) -> KeyState:
        if self.until == math.inf:
            return KeyState.PERMANENT
        return KeyState.TEMPORARY if now < self.until else KeyState.VALID

    def out_for(self, now: float) -> Reason | None:
        return None if self.state(now) is KeyState.VALID else self.reason


class KeyPool:
    """Keep the keys of a provider, and what is held against each: the first is the one to use, the others stand in.

    Pure: ``now`` is of any clock that does not go back, the same in all calls.

    Args:
        name: of the provider, for messages.
        keys: at least one, all different.

    Raises:
        NoKeys: there is none.
        DuplicateKeys: the same key is there twice.
    """

    def __init__(self, name: str, keys: Sequence[Secret]) -> None:
        if not keys:
            raise NoKeys(f"the provider {name!r} has no key: it needs at least one")
        for at, key in enumerate(keys):
            first = next(other for other, earlier in enumerate(keys) if earlier.matches(key))
            if first != at:
                raise DuplicateKeys(f"the keys {first + 1} and {at + 1} of the provider {name!r} are the same")
        self.name = name
        self._marks = {key: _Mark() for key in keys}

    def walk(self) -> Walk:
        """Begin to try the keys, with the first one. Walks do not disturb one another; what is marked holds for all."""
        return Walk(self)

    def usable(self, key: Secret, now: float) -> bool:
        """Whether nothing is held against a key any more."""
        return self._marks[key].state(now) is KeyState.VALID

    def mark_temporary(self, key: Secret, *, until: float, reason: Reason, now: float) -> bool:
        """Take a key out until ``until``, or as long as it was out already, if that is longer.

        Returns:
            Whether its state has changed; a later deadline alone is no change.
        """
        mark = self._marks[key]
        before = mark.state(now)
        if until > mark.until:
            mark.until, mark.reason = until, reason
        return mark.state(now) is not before

    def mark_permanent(self, key: Secret) -> bool:
        """Take a key out for good, as one that the provider does not accept. Returns whether it was not so already."""
        mark = self._marks[key]
        changed = mark.until != math.inf
        mark.until, mark.reason = math.inf, Reason.UNAUTHORIZED
        return changed

    def judge(self, key: Secret, error: Exception, now: float) -> Judgement:
        """Mark a key by what a call with it failed with, and say whether another key may do better.

        ======================================  ==========================================  ========
        error                                   the key                                     next key
        ======================================  ==========================================  ========
        402, or a code that says: no quota      out for 10 minutes                          yes
        429                                     out for its ``retry_after``, else 60 s      yes
        401                                     out for 60 s                                yes
        403                                     nothing: the model may not be for this key  no
        everything else                         nothing: not the key's fault                no
        ======================================  ==========================================  ========
        """
        if not isinstance(error, UpstreamRefused) or isinstance(error, NotCalled):
            return Judgement()
        if error.status == 402 or error.code in OUT_OF_QUOTA or error.type in OUT_OF_QUOTA:
            reason, seconds = Reason.OUT_OF_QUOTA, QUOTA_COOL_DOWN
        elif error.status == 429:
            # Zero is what is left of less than a second where the upstream counts whole ones; it has no news for us.
            reason, seconds = Reason.RATE_LIMITED, _seconds(error.retry_after)
        elif error.status == 401:
            reason, seconds = Reason.UNAUTHORIZED, COOL_DOWN
        else:
            return Judgement()
        changed = self.mark_temporary(key, until=now + seconds, reason=reason, now=now)
        return Judgement(next_key=True, reason=reason, cool_down=seconds, changed=changed)

    def exhausted(self, now: float) -> Exhausted:
        """Say what it means that a walk has come to its end.

        502 if all keys are refused by the provider; else 429, with the shortest wait until one of them can be used
        again: whole seconds, rounded up, and 0 if one can be used by now.
        """
        marks = self._marks.values()
        if all(mark.out_for(now) is Reason.UNAUTHORIZED for mark in marks):
            return Exhausted(
                status=502,
                type="api_error",
                code="server_error",
                message="all configured keys failed authentication",
                retry_after=None,
                kind=Kind.AUTH,
            )
        shortest = min(mark.until for mark in marks) - now
        wait = max(0, math.ceil(round(shortest, 3))) if shortest > 0 else 0
        return Exhausted(
            status=429,
            type="rate_limit_error",
            code="rate_limit_exceeded",
            message=f"all configured keys are rate-limited (retry in {wait} s)",
            retry_after=wait,
            kind=Kind.RATE_LIMIT,
        )

    def snapshot(self, now: float) -> tuple[KeyView, ...]:
        """The keys in order, as they may be shown."""
        views = []
        for key, mark in self._marks.items():
            state = mark.state(now)
            left = mark.until - now if state is KeyState.TEMPORARY else None
            views.append(KeyView(hint=key.hint, state=state, reason=mark.out_for(now), seconds_left=left))
        return tuple(views)

    def adopt(self, old: KeyPool) -> None:
        """Take over what is known of the keys that an earlier pool has, too.

        Both then mark for each other: calls that have begun with the earlier pool go on with it.
        """
        for key in self._marks:
            for known, mark in old._marks.items():
                if key.matches(known):
                    self._marks[key] = mark


def _seconds(retry_after: float | None) -> float:
    """A cool-down that ends: of what stood in a stream nobody has checked that it is a sensible number."""
    return min(retry_after, LONGEST) if retry_after is not None and retry_after > 0 else COOL_DOWN


class Walk:
    """Go through the keys of a pool once: in order, without those that are out, and none twice."""

    def __init__(self, pool: KeyPool) -> None:
        self._pool = pool
        self._left = iter(tuple(pool._marks))

        self.key: Secret | None = None
        """The last key that was given; None before the first."""

        self.tried = 0
        """How many were given."""

    def next(self, now: float) -> Secret | None:
        """The next key to try; None if there is none, see `KeyPool.exhausted`. None stays None."""
        for key in self._left:
            if self._pool.usable(key, now):
                self.key = key
                self.tried += 1
                return key
        return None
