"""One verdict, whatever is true at the same time."""

from __future__ import annotations

import itertools

import pytest
import trio

from sseflow import (
    CutMidEvent,
    EmptyStream,
    Error,
    EventTooLong,
    HeldTooMuch,
    IdleTimeout,
    LineTooLong,
    ProgressTimeout,
    RequestError,
    Truncated,
    UpstreamLost,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamTimeout,
)
from sseflow.http import WriteTimeout
from sseflow.proxy._verdict import PRECEDENCE, Drained, Facts, Interrupted, Verdict, decide, ended_by, of_error

ERRORS: dict[Verdict, list[Exception]] = {
    Verdict.EMPTY: [EmptyStream()],
    Verdict.TRUNCATED: [Truncated()],
    Verdict.CUT_MID_EVENT: [CutMidEvent()],
    Verdict.MALFORMED: [UpstreamProtocolError("", reason=""), RequestError(400, ""), RequestError(417, "")],
    Verdict.UPSTREAM_ERROR: [UpstreamRefused("", status=429)],
    Verdict.UPSTREAM_LOST: [UpstreamLost("", reason=""), UpstreamTimeout("", reason=""), RequestError(508, "")],
    Verdict.STALLED_IDLE: [IdleTimeout("", reason="")],
    Verdict.STALLED_PROGRESS: [ProgressTimeout("", reason="")],
    Verdict.OVER_LIMIT: [LineTooLong(1, 2), EventTooLong(1, 2), HeldTooMuch(1, 2), RequestError(413, "")],
    Verdict.CLIENT_GONE: [trio.BrokenResourceError()],
    Verdict.CLIENT_STUCK: [WriteTimeout(), RequestError(408, "")],
    Verdict.INTERRUPTED: [Interrupted()],
    Verdict.DRAINED: [Drained()],
    Verdict.INTERNAL_ERROR: [ValueError(), Error(), ExceptionGroup("", [ValueError()])],
}


def test_every_error_has_a_verdict_and_every_verdict_but_one_an_error() -> None:
    """Only ``complete`` is never an error's."""
    assert set(ERRORS) == set(Verdict) - {Verdict.COMPLETE}
    for verdict, errors in ERRORS.items():
        assert {of_error(error) for error in errors} == {verdict}


def everything() -> list[Facts]:
    """All that can be true at once."""
    return [
        Facts(write_error=write_error, left=left, ended=ended, said_error=said_error, error=error, status=status)
        for write_error, left, ended, said_error, error, status in itertools.product(
            (None, trio.BrokenResourceError(), WriteTimeout()),
            (False, True),
            (False, True),
            (False, True),
            (None, *(error for errors in ERRORS.values() for error in errors)),
            (0, 200, 404, 502),
        )
    ]


def expected(facts: Facts) -> Verdict:
    """The same precedence, told as a story."""
    if isinstance(facts.write_error, WriteTimeout):
        return Verdict.CLIENT_STUCK
    if facts.write_error is not None:
        return Verdict.CLIENT_GONE
    upstream_broke = of_error(facts.error) in BROKE if facts.error is not None else False
    upstream_broke = upstream_broke and not isinstance(facts.error, RequestError)
    over_for_the_client = facts.left or upstream_broke
    if facts.said_error and (over_for_the_client or facts.error is None):
        return Verdict.UPSTREAM_ERROR
    if facts.ended and over_for_the_client:
        return Verdict.COMPLETE
    if facts.left:
        return Verdict.CLIENT_GONE
    if facts.error is not None:
        return of_error(facts.error)
    return Verdict.UPSTREAM_ERROR if facts.status >= 400 else Verdict.COMPLETE


BROKE = {Verdict.UPSTREAM_LOST, Verdict.MALFORMED, Verdict.STALLED_IDLE, Verdict.STALLED_PROGRESS}


def test_the_precedence() -> None:
    """Each of all combinations has the verdict that the story tells, and somebody who ended it."""
    for facts in everything():
        verdict = decide(facts)
        assert verdict is expected(facts), facts
        assert ended_by(verdict, facts) in ("client", "proxy", "upstream")


def test_complete_needs_an_end() -> None:
    """Nothing that failed before the dialect's end, or could not be written, is ever complete."""
    for facts in everything():
        if decide(facts) is Verdict.COMPLETE:
            assert facts.write_error is None
            assert not facts.said_error
            assert facts.ended or (facts.error is None and not facts.left)


def test_each_row_decides_something() -> None:
    """No row of the table is dead: each is the first that holds for some facts."""
    rows = [[holds(facts) for _, _, holds in PRECEDENCE].index(True) for facts in everything()]
    assert set(rows) == set(range(len(PRECEDENCE)))


@pytest.mark.parametrize(
    ("facts", "by"),
    [
        (Facts(), "upstream"),
        (Facts(left=True), "client"),
        (Facts(left=True, ended=True), "client"),
        (Facts(write_error=WriteTimeout()), "client"),
        (Facts(error=RequestError(413, "")), "client"),
        (Facts(error=Truncated()), "upstream"),
        (Facts(error=IdleTimeout("", reason="")), "proxy"),
        (Facts(error=ProgressTimeout("", reason="")), "proxy"),
        (Facts(error=LineTooLong(1, 2)), "proxy"),
        (Facts(error=Interrupted()), "proxy"),
        (Facts(error=Drained()), "proxy"),
        (Facts(error=ValueError()), "proxy"),
    ],
)
def test_who_ended_it(facts: Facts, by: str) -> None:
    """Somebody has ended each exchange: the one who did it first, not who suffered from it."""
    assert ended_by(decide(facts), facts) == by
