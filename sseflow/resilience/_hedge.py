"""Call a second upstream where the first is slow to begin, and go on with the one that begins first."""

from __future__ import annotations

import enum
import math
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import attrs
import trio

from ._budget import RetryBudget

T = TypeVar("T")

ENOUGH = 20
"""Times without which nobody can say what is slow: of fewer, one is more than five in a hundred."""

MOST_TIMES = 256
"""Times that are kept: enough for a quantile, and few enough that it follows the upstream."""


class Latencies:
    """Remember how long the last 256 calls took to their first content, for `hedged`."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=MOST_TIMES)

    def __len__(self) -> int:
        return len(self._times)

    def record(self, seconds: float) -> None:
        """Remember one."""
        self._times.append(seconds)

    def p95(self) -> float | None:
        """The seconds that 95 of a hundred have not exceeded; None before there are 20."""
        if len(self._times) < ENOUGH:
            return None
        return sorted(self._times)[math.ceil(0.95 * len(self._times)) - 1]


class LegEnding(enum.Enum):
    """What became of one of two calls."""

    WON = "won"
    """It had content first, or returned first, and has returned since."""

    LOST = "lost"
    """The other one was faster."""

    FAILED = "failed"
    """It raised an error, before its first content or behind it."""

    CANCELLED = "cancelled"
    """Somebody wanted neither of them."""


@attrs.frozen(kw_only=True)
class LegOutcome:
    """What became of one of two calls, and when."""

    leg: int
    """1 or 2."""

    ending: LegEnding
    error: Exception | None
    started: float
    """As of `trio.current_time`, in seconds, as are the following."""

    first_content: float | None
    """When it had its first content, or returned without any: the other was given up then. None if it did not."""

    ended: float


class Leg(Generic[T]):
    """One of two calls that race for the first content."""

    def __init__(self, number: int, race: _Race[T]) -> None:
        self.number = number
        """1 or 2."""

        self._race = race

    async def first_content(self) -> None:
        """Say that there is content, before any of it is given away. It does not wait.

        The other call is cancelled; or this one is, here, if it comes too late.

        Raises:
            RuntimeError: it comes too late, and is shielded from being cancelled.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._race.win(self.number):
            raise RuntimeError("the other call had content first, and this one cannot be cancelled: it is shielded")


async def hedged(
    first: Callable[[Leg[T]], Awaitable[T]],
    second: Callable[[Leg[T]], Awaitable[T]],
    after: float | Latencies,
    *,
    budget: RetryBudget | None = None,
    record: Callable[[LegOutcome], object] | None = None,
) -> T:
    """Call ``first``, and ``second``, too, if there is no content of it after a while; go on with the faster one.

    A call that returns without content has won, too. One that fails leaves the field to the other; if the first fails
    before the second was started, that is the end, since a call that fails is no slow call. If both fail, the error
    is that of the first.

    Args:
        first, second: make one call each. They say `Leg.first_content` before they give anything away.
        after: seconds, or latencies: their 95th percentile, and no second call before that is known. The first call's
            time is recorded there; if it lost, the time after which it was given up.
        budget: of the route. A second call takes a token as a retry would; without one there is none.
        record: called once for each call that was started, when it has ended.
    """
    latencies = after if isinstance(after, Latencies) else None
    wait = after.p95() if isinstance(after, Latencies) else after
    race: _Race[T] = _Race(latencies, record)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(race.run, 1, first)
        if wait is not None:
            with trio.move_on_after(wait):
                await race.decided.wait()
            if not race.decided.is_set() and (budget is None or budget.take(trio.current_time())):
                nursery.start_soon(race.run, 2, second)
    return race.result()


class _Race(Generic[T]):
    """Who is first. State changes only between awaits, so there is one winner."""

    def __init__(self, latencies: Latencies | None, record: Callable[[LegOutcome], object] | None) -> None:
        self._latencies = latencies
        self._record = record
        self._scopes: dict[int, trio.CancelScope] = {}
        self._results: dict[int, T] = {}
        self._errors: dict[int, Exception] = {}
        self._winner: int | None = None
        self._won_at: float | None = None

        self.decided = trio.Event()
        """There is a winner, or a call has ended: no second one is needed."""

    def win(self, number: int) -> bool:
        """Have a leg win, if none has; whether it has won."""
        if self._winner is None:
            self._winner = number
            self._won_at = trio.current_time()
            for other, scope in self._scopes.items():
                if other != number:
                    scope.cancel()
            self.decided.set()
        return self._winner == number

    async def run(self, number: int, call: Callable[[Leg[T]], Awaitable[T]]) -> None:
        """Run one leg; what it returns or raises is kept."""
        if self._winner is not None:  # since it was started
            return
        started = trio.current_time()
        try:
            with trio.CancelScope() as self._scopes[number]:
                self._results[number] = await call(Leg(number, self))
                self.win(number)
        except Exception as error:
            self._errors[number] = error
        finally:
            self._finish(number, started)

    def _finish(self, number: int, started: float) -> None:
        self.decided.set()
        outcome = LegOutcome(
            leg=number,
            ending=self._ending(number),
            error=self._errors.get(number),
            started=started,
            first_content=self._won_at if self._winner == number else None,
            ended=trio.current_time(),
        )
        if number == 1 and self._latencies is not None:
            self._remember(self._latencies, outcome)
        if self._record is not None:
            self._record(outcome)

    def _ending(self, number: int) -> LegEnding:
        if self._winner not in (None, number):
            return LegEnding.LOST
        if number in self._errors:
            return LegEnding.FAILED
        return LegEnding.WON if number in self._results else LegEnding.CANCELLED

    def _remember(self, latencies: Latencies, outcome: LegOutcome) -> None:
        # A call that lost would have taken longer still. Were it left out, the slow ones were never seen, and the
        # percentile would fall from hedge to hedge.
        if outcome.first_content is not None:
            latencies.record(outcome.first_content - outcome.started)
        elif outcome.ending is LegEnding.LOST:
            latencies.record(outcome.ended - outcome.started)

    def result(self) -> T:
        """What the winner has returned; raise what it, or without one the first leg, has raised."""
        number = self._winner or 1
        if number in self._errors:
            raise self._errors[number]
        return self._results[number]
