"""Leave an upstream alone that has failed several times in a row."""

# Closed: calls are let through, and the times of the last failures in a row are kept. Open: nothing is let through
# until a deadline. Half-open begins when that has passed, and nothing happens at that moment: a few calls are let
# through, and what becomes of them decides.
#
# Each time the breaker opens or closes a new era begins. A permit of an earlier one has nothing to say any more.

from __future__ import annotations

import enum
import math
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import final

import attrs

from .. import (
    ConfigurationError,
    CutMidEvent,
    EmptyStream,
    Truncated,
    UpstreamError,
    UpstreamRefused,
)
from ._classify import Classification, Kind, NotCalled

MOST_BREAKERS = 1024
"""Models are named by clients: there have to be enough for those that exist, and not one for each that is made up."""


class BreakerState(enum.Enum):
    """What a breaker does with a call. The values are for a gauge."""

    CLOSED = 0.0
    HALF_OPEN = 0.5
    OPEN = 1.0


@attrs.frozen(kw_only=True)
class BreakerOptions:
    """When a breaker opens, and how it closes again.

    Raises:
        ConfigurationError: a number is not positive.
    """

    failures: int = 5
    """Failures in a row that open it."""

    within: float = 10.0
    """Seconds in which these have to happen."""

    open_for: float = 30.0
    """Seconds for which it stays open."""

    half_open: int = 3
    """Calls that are let through then, until as many have succeeded."""

    def __attrs_post_init__(self) -> None:
        for field in attrs.fields(BreakerOptions):
            if not getattr(self, field.name) > 0:
                raise ConfigurationError(f"{field.name} of a circuit breaker must be greater than 0")


class CircuitOpen(NotCalled):
    """The upstream is left alone for now; ``retry_after`` says for how long."""

    def __init__(self, seconds: int) -> None:
        classification = Classification(kind=Kind.OVERLOADED, retryable=True, retry_after=seconds)
        message = "circuit breaker is open"
        super().__init__(message, classification, status=503, type="overloaded_error", code="service_unavailable")


class _Word(enum.Enum):
    SUCCESS = enum.auto()
    FAILURE = enum.auto()
    NEUTRAL = enum.auto()


class Breaker:
    """Let calls through, or refuse them, by how the last ones went.

    Pure: ``now`` is of any clock that does not go back, the same in all calls.
    """

    def __init__(self, options: BreakerOptions = BreakerOptions()) -> None:
        self._options = options
        self._failed: deque[float] = deque(maxlen=options.failures)
        self._open_until: float | None = None
        self._probes = 0
        self._passed = 0
        self._era = 0

        self.trips = 0
        """How often it has opened."""

        self.rejects = 0
        """How many calls it has refused."""

    @property
    def tripped(self) -> bool:
        """Whether it is not closed, whatever the time."""
        return self._open_until is not None

    def state(self, now: float) -> BreakerState:
        """What it does with a call at that time."""
        if self._open_until is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now < self._open_until else BreakerState.HALF_OPEN

    def admit(self, now: float) -> Permit:
        """Let a call through. Use the permit in a ``with`` block, so that it is given back whatever happens.

        Raises:
            CircuitOpen: the upstream is to be left alone. It says for how many seconds: what remains, rounded up, and
                one if the calls that are to decide are still under way.
        """
        if self._open_until is None:
            return Permit(self, self._era)
        if now >= self._open_until and self._probes + self._passed < self._options.half_open:
            self._probes += 1
            return Permit(self, self._era)
        self.rejects += 1
        raise CircuitOpen(max(1, math.ceil(round(self._open_until - now, 3))))

    def _take_back(self, era: int, word: _Word, now: float) -> None:
        if era != self._era:
            return
        if self._open_until is None:
            self._count(word, now)
            return
        self._probes -= 1
        if word is _Word.FAILURE:
            self._open(now)
        elif word is _Word.SUCCESS:
            self._passed += 1
            if self._passed == self._options.half_open:
                self._begin(None)

    def _count(self, word: _Word, now: float) -> None:
        if word is _Word.SUCCESS:
            self._failed.clear()
        elif word is _Word.FAILURE:
            self._failed.append(now)
            if len(self._failed) == self._options.failures and now - self._failed[0] <= self._options.within:
                self._open(now)

    def _open(self, now: float) -> None:
        self.trips += 1
        self._begin(now + self._options.open_for)

    def _begin(self, open_until: float | None) -> None:
        self._era += 1
        self._open_until = open_until
        self._failed.clear()
        self._probes = self._passed = 0


@final
class Permit:
    """Leave to make one call. It is given back once, with a word on how the call went; later words do not count.

    As a context manager it is given back without a word, if none was said.
    """

    def __init__(self, breaker: Breaker, era: int) -> None:
        self._breaker = breaker
        self._era = era
        self._out = True

    def success(self, now: float) -> None:
        """The stream has come to a good end."""
        self._give_back(_Word.SUCCESS, now)

    def failure(self, now: float) -> None:
        """The upstream has failed, by its status or in its stream."""
        self._give_back(_Word.FAILURE, now)

    def neutral(self) -> None:
        """It cannot be said how the upstream is."""
        self._give_back(_Word.NEUTRAL, 0.0)

    def judge(self, error: Exception | None, now: float) -> None:
        """Say what a stream's end says: success without an error, and by `is_failure` failure or nothing with one."""
        if error is None:
            self.success(now)
        elif is_failure(error):
            self.failure(now)
        else:
            self.neutral()

    def close(self) -> None:
        """Give it back without a word, if none was said."""
        self.neutral()

    def __enter__(self) -> Permit:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _give_back(self, word: _Word, now: float) -> None:
        if self._out:
            self._out = False
            self._breaker._take_back(self._era, word, now)


def is_failure(error: Exception) -> bool:
    """Whether an error says that the upstream is not well.

    Statuses of 500 or more do, in the head or in the stream, lost connections, deadlines that passed, and answers that
    are empty or cut off. A 429 is the key pool's business, other statuses below 500 are the request's; what we refuse
    ourselves, our own limits and a client that has left say nothing about the upstream.
    """
    match error:
        case NotCalled():
            return False
        case UpstreamRefused():
            return error.status >= 500
        case UpstreamError() | EmptyStream() | Truncated() | CutMidEvent():
            return True
        case _:
            return False


class Breakers:
    """One breaker for each upstream, endpoint and model: a bounded number.

    Where there is no room the one is dropped that was not used for longest; one that is not closed only if all are so.

    Args:
        most: how many there may be, 1,024 by default.
    """

    def __init__(self, options: BreakerOptions = BreakerOptions(), *, most: int = MOST_BREAKERS) -> None:
        if most < 1:
            raise ConfigurationError("most, the number of circuit breakers, must be at least 1")
        self._options = options
        self._most = most
        self._breakers: dict[tuple[str, str, str], Breaker] = {}  # the least recently used first

    def __len__(self) -> int:
        return len(self._breakers)

    def __iter__(self) -> Iterator[tuple[tuple[str, str, str], Breaker]]:
        """Upstream, endpoint and model, and the breaker, of each there is; for a page."""
        return iter(self._breakers.items())

    def get(self, upstream: str, endpoint: str, model: str) -> Breaker:
        """The breaker for calls of this model at this endpoint of this upstream."""
        name = upstream, endpoint, model
        breaker = self._breakers.pop(name, None)
        if breaker is None:
            if len(self._breakers) >= self._most:
                self._drop()
            breaker = Breaker(self._options)
        self._breakers[name] = breaker
        return breaker

    def _drop(self) -> None:
        closed = (name for name, breaker in self._breakers.items() if not breaker.tripped)
        oldest = next(iter(self._breakers))
        del self._breakers[next(closed, oldest)]
