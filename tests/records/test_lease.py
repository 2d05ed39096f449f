"""Leases: who may write."""

from __future__ import annotations

import pytest

from sseflow import Error
from sseflow.records import Epochs, Lease, StaleLease


def test_the_newest_lease_counts() -> None:
    """Taking one makes the older ones on the same stream stale, and no other."""
    epochs = Epochs()
    first, other = epochs.acquire("a"), epochs.acquire("b")
    epochs.check(first)
    second = epochs.acquire("a")
    for lease in (second, other):
        epochs.check(lease)
    with pytest.raises(StaleLease, match="epoch 1 on 'a'") as caught:
        epochs.check(first)
    assert (caught.value.stream_id, caught.value.epoch) == ("a", 1)
    assert isinstance(caught.value, Error)


def test_no_epoch_comes_twice() -> None:
    """A lease of long ago does not become good again because the stream was forgotten in between."""
    epochs = Epochs()
    first = epochs.acquire("a")
    epochs.release(first)
    with pytest.raises(StaleLease):
        epochs.check(first)
    second = epochs.acquire("a")
    assert second.epoch > first.epoch
    with pytest.raises(StaleLease):
        epochs.check(first)
    epochs.release(first)
    epochs.check(second)


def test_in_doubt_nobody_writes() -> None:
    """Of too many streams the one that was begun longest ago is forgotten, and so is a lease that nobody gave."""
    epochs = Epochs(max_streams=2)
    first, second = epochs.acquire("a"), epochs.acquire("b")
    again = epochs.acquire("a")
    third = epochs.acquire("c")
    for lease in (again, third):
        epochs.check(lease)
    for lease in (first, second, Lease("d", 1)):
        with pytest.raises(StaleLease):
            epochs.check(lease)


def test_there_is_room_for_one_at_least() -> None:
    """... and an option that cannot be is refused."""
    with pytest.raises(ValueError, match="max_streams=0"):
        Epochs(max_streams=0)
