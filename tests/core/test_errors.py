"""The error tree."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

from sseflow import (
    ConfigurationError,
    Error,
    EventTooLong,
    HeldTooMuch,
    LineTooLong,
    RequestError,
    TooLong,
    UpstreamLost,
    UpstreamProtocolError,
    UpstreamTimeout,
    _errors,
)


@pytest.mark.parametrize(
    ("make", "knob"),
    [
        pytest.param(LineTooLong, "max_line", id="line"),
        pytest.param(EventTooLong, "max_event", id="event"),
        pytest.param(HeldTooMuch, "max_held", id="held"),
    ],
)
def test_too_long_names_its_knob(make: type[TooLong], knob: str) -> None:
    """What is too long says the limit, its value, the option that sets it, and what was seen; also when unpickled."""
    error = pickle.loads(pickle.dumps(make(10, 11)))
    assert (error.limit, error.seen, error.knob) == (10, 11, knob)
    assert f"{knob}=10 " in str(error)
    assert "11 bytes" in str(error)
    assert str(error).startswith(make.what)


def test_upstream_errors_have_a_status() -> None:
    """An upstream error says what a client should see, and the reason in RFC 9209's words."""
    assert UpstreamLost("gone", reason="connection_refused").status == 502
    assert UpstreamProtocolError("odd", reason="http_protocol_error").status == 502
    late = UpstreamTimeout("late", reason="connection_timeout")
    assert (late.status, late.reason, str(late)) == (504, "connection_timeout", "late")


def test_a_refused_request_has_a_status() -> None:
    """A refusal says which status, and whether the connection must be closed: yes, unless it is said otherwise."""
    assert (RequestError(413, "too large").status, RequestError(413, "too large").close) == (413, True)
    assert not RequestError(404, "nothing there", close=False).close
    assert str(ConfigurationError("limit must be positive")) == "limit must be positive"


def test_the_tree_is_drawn() -> None:
    """The module's docstring draws the tree as it is."""
    tree: dict[str, str] = {}
    parents: list[str] = []
    for line in (_errors.__doc__ or "").splitlines():
        if found := re.match(r"    ([│├└─ ]*)(\w+)", line):
            depth = len(found[1]) // 4
            del parents[depth:]
            tree[found[2]] = parents[-1] if parents else "Exception"
            parents.append(found[2])
    classes = [value for value in vars(_errors).values() if inspect.isclass(value) and issubclass(value, Error)]
    assert tree == {each.__name__: each.__bases__[0].__name__ for each in classes}
