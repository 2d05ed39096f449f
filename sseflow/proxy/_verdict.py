"""What an exchange came to, in one word, and who ended it."""

from __future__ import annotations

import enum

import trio

from .. import (
    Closed,
    CutMidEvent,
    EmptyStream,
    End,
    Eof,
    Error,
    Failed,
    Outcome,
    RequestError,
    TooLong,
    Truncated,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTimeout,
)
from ..http import WriteTimeout
from ..stages import Watch


class Drained(Error):
    """The proxy was told to end, and the stream had not ended in time."""


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
    OVER_LIMIT = "over_limit"
    CLIENT_GONE = "client_gone"
    CLIENT_STUCK = "client_stuck"
    DRAINED = "drained"
    REFUSED = "refused"
    INTERNAL_ERROR = "internal_error"


IDLE_REASON = "connection_read_timeout"
"""The reason (RFC 9209) of the timeout that means a silent upstream."""


def of_error(error: Exception) -> Verdict:
    """The verdict of an exchange that failed with ``error``."""
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
        case UpstreamTimeout(reason=reason) if reason == IDLE_REASON:
            return Verdict.STALLED_IDLE
        case UpstreamProtocolError():
            return Verdict.MALFORMED
        case UpstreamError():
            return Verdict.UPSTREAM_LOST
        case RequestError():
            return Verdict.REFUSED
        case WriteTimeout():
            return Verdict.CLIENT_STUCK
        case trio.BrokenResourceError():
            return Verdict.CLIENT_GONE
        case _:
            return Verdict.INTERNAL_ERROR


def of_outcome(outcome: Outcome, status: int, watch: Watch | None) -> Verdict:
    """The verdict of an exchange that was relayed.

    What the client has seen decides: behind the dialect's end, a client that leaves and a transport that breaks change
    nothing. A client that could not be written to has not seen the end.
    """
    ended = watch is not None and watch.ended
    if isinstance(outcome.write_error, WriteTimeout):
        return Verdict.CLIENT_STUCK
    if outcome.write_error is not None:
        return Verdict.CLIENT_GONE
    match outcome.ending:
        case Failed(UpstreamError()) if ended:
            return Verdict.COMPLETE
        case Failed(error):
            return of_error(error)
        case Eof():
            failed = status >= 400 or (watch is not None and watch.error is not None)
            return Verdict.UPSTREAM_ERROR if failed else Verdict.COMPLETE
        case Closed():
            return Verdict.COMPLETE if ended else Verdict.CLIENT_GONE
        case _:
            return Verdict.DRAINED


_BY_CLIENT = frozenset({Verdict.CLIENT_GONE, Verdict.CLIENT_STUCK})
_BY_PROXY = frozenset(
    {Verdict.OVER_LIMIT, Verdict.DRAINED, Verdict.STALLED_IDLE, Verdict.REFUSED, Verdict.INTERNAL_ERROR}
)


def ended_by(verdict: Verdict, ending: End | None) -> str:
    """Who ended the exchange: ``client``, ``proxy`` or ``upstream``."""
    if verdict in _BY_CLIENT or isinstance(ending, Closed):
        return "client"
    return "proxy" if verdict in _BY_PROXY else "upstream"
