"""What an exchange came to, in one word, and who ended it."""

from __future__ import annotations

import enum
from collections.abc import Callable

import attrs
import trio

from .. import (
    CutMidEvent,
    EmptyStream,
    Error,
    IdleTimeout,
    ProgressTimeout,
    RequestError,
    TooLong,
    Truncated,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamRefused,
)
from ..http import WriteTimeout


class Drained(Error):
    """The proxy was told to end, and the stream had not ended in time."""


class Interrupted(Error):
    """Somebody who may do so has ended the exchange."""


class Verdict(enum.Enum):
    """What an exchange came to."""

    COMPLETE = "complete"
    TRUNCATED = "truncated"
    CUT_MID_EVENT = "cut_mid_event"
    EMPTY = "empty"
    MALFORMED = "malformed"
    UPSTREAM_ERROR = "upstream_error"
    UPSTREAM_LOST = "upstream_lost"
    STALLED_IDLE = "stalled_idle"
    STALLED_PROGRESS = "stalled_progress"
    OVER_LIMIT = "over_limit"
    CLIENT_GONE = "client_gone"
    CLIENT_STUCK = "client_stuck"
    INTERRUPTED = "interrupted"
    DRAINED = "drained"
    INTERNAL_ERROR = "internal_error"


# Statuses of requests that are refused while the upstream is already being called.
_REFUSED = {
    408: Verdict.CLIENT_STUCK,
    413: Verdict.OVER_LIMIT,
    414: Verdict.OVER_LIMIT,
    431: Verdict.OVER_LIMIT,
    508: Verdict.UPSTREAM_LOST,
}


def of_error(error: Exception) -> Verdict:
    """What an error says by itself."""
    match error:
        case EmptyStream():
            return Verdict.EMPTY
        case Truncated():
            return Verdict.TRUNCATED
        case CutMidEvent():
            return Verdict.CUT_MID_EVENT
        case TooLong():
            return Verdict.OVER_LIMIT
        case Drained():
            return Verdict.DRAINED
        case Interrupted():
            return Verdict.INTERRUPTED
        case IdleTimeout():
            return Verdict.STALLED_IDLE
        case ProgressTimeout():
            return Verdict.STALLED_PROGRESS
        case UpstreamProtocolError():
            return Verdict.MALFORMED
        case UpstreamRefused():
            return Verdict.UPSTREAM_ERROR
        case UpstreamError():
            return Verdict.UPSTREAM_LOST
        case RequestError():
            return _REFUSED.get(error.status, Verdict.MALFORMED)
        case WriteTimeout():
            return Verdict.CLIENT_STUCK
        case trio.BrokenResourceError():
            return Verdict.CLIENT_GONE
        case _:
            return Verdict.INTERNAL_ERROR


@attrs.frozen(kw_only=True)
class Facts:
    """What is known of an exchange that is over. Several may be true at once."""

    write_error: Exception | None = None
    """What writing to the client raised."""

    left: bool = False
    """The client left before its answer had ended."""

    ended: bool = False
    """The dialect's end had come by then, and was passed on."""

    said_error: bool = False
    """An error stood in the stream, and was passed on."""

    error: Exception | None = None
    """What the answer failed with; None if it ended cleanly, or the client left."""

    status: int = 0
    """That the client was given; 0 if none."""

    @property
    def broke(self) -> bool:
        """The upstream failed, and not by what it said."""
        return isinstance(self.error, UpstreamError) and not isinstance(self.error, UpstreamRefused)


#: Which verdict holds when several things are true: that of the first row that applies. What the client saw decides.
PRECEDENCE: tuple[tuple[Verdict | None, str, Callable[[Facts], bool]], ...] = (
    (
        Verdict.CLIENT_STUCK,
        "a write to the client was given up: it does not read",
        lambda facts: isinstance(facts.write_error, WriteTimeout),
    ),
    (
        Verdict.CLIENT_GONE,
        "a write to the client failed: it has not seen what was written",
        lambda facts: facts.write_error is not None,
    ),
    (
        Verdict.UPSTREAM_ERROR,
        "the upstream's own error stood in the stream, and then the client left, or the upstream broke off or ended",
        lambda facts: facts.said_error and (facts.left or facts.broke or facts.error is None),
    ),
    (
        Verdict.COMPLETE,
        "the dialect's end was passed on, and then the client left, or the upstream broke off or stayed open",
        lambda facts: facts.ended and (facts.left or facts.broke),
    ),
    (
        Verdict.CLIENT_GONE,
        "the client left before the end",
        lambda facts: facts.left,
    ),
    (
        None,
        "the answer failed: the verdict is the error's",
        lambda facts: facts.error is not None,
    ),
    (
        Verdict.UPSTREAM_ERROR,
        "the answer had a status of 400 or more",
        lambda facts: facts.status >= 400,
    ),
    (
        Verdict.COMPLETE,
        "nothing of the above",
        lambda facts: True,
    ),
)  # fmt: skip


def decide(facts: Facts) -> Verdict:
    """The one verdict on an exchange."""
    verdict = next(verdict for verdict, _, holds in PRECEDENCE if holds(facts))
    if verdict is None:
        assert facts.error is not None
        return of_error(facts.error)
    return verdict


_BY_CLIENT = frozenset({Verdict.CLIENT_GONE, Verdict.CLIENT_STUCK})
_BY_PROXY = frozenset(
    {
        Verdict.OVER_LIMIT,
        Verdict.DRAINED,
        Verdict.INTERRUPTED,
        Verdict.STALLED_IDLE,
        Verdict.STALLED_PROGRESS,
        Verdict.INTERNAL_ERROR,
    }
)


def ended_by(verdict: Verdict, facts: Facts) -> str:
    """Who ended the exchange: ``client``, ``proxy`` or ``upstream``."""
    if verdict in _BY_CLIENT or facts.left or isinstance(facts.error, RequestError):
        return "client"
    return "proxy" if verdict in _BY_PROXY else "upstream"
