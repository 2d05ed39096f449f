"""PlainSSE."""

from __future__ import annotations

from sseflow import Event
from sseflow.dialects import PlainSSE, Reading


def test_every_event_with_data_is_content() -> None:
    """There is no end but that of the transport, and there are no errors."""
    dialect = PlainSSE()
    assert dialect.ends_at_eof
    assert dialect.read(Event(b"x", b"error")) == Reading(content=True)
    assert dialect.read(Event(b"[DONE]")) == Reading(content=True)
    assert dialect.read(Event(b"")) == Reading()
    assert dialect.model(b'{"model":"m"}') is None
    assert not dialect.is_terminator(b"[DONE]")
    assert not dialect.is_error(b"error", b'{"error":{}}')


def test_what_is_worth_committing_to() -> None:
    """Any data line that is not empty."""
    assert PlainSSE().opens(b"error", b"x")
    assert not PlainSSE().opens(b"message", b"")
