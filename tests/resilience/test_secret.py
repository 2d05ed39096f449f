"""A secret comes out by one way only."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sseflow.resilience import Secret


@given(st.text())
def test_a_secret_is_not_shown(value: str) -> None:
    """`repr`, `str` and formatting show the same whatever the value is; `reveal` gives it."""
    secret = Secret(value)
    assert {repr(secret), str(secret), f"{secret}"} == {"Secret(...)"}
    assert repr(ValueError(secret)) == "ValueError(Secret(...))"
    assert secret.reveal() == value


def test_a_secret_is_neither_pickled_nor_copied_nor_written() -> None:
    """What would carry the value away fails, and does not say it."""
    secret = Secret("sk-correct-horse")
    for carry in (pickle.dumps, copy.copy, copy.deepcopy, json.dumps):
        with pytest.raises(TypeError) as caught:
            carry(secret)
        assert "horse" not in str(caught.value)
    assert not hasattr(secret, "__dict__")


def test_secrets_are_compared_by_matches_only() -> None:
    """Two secrets of one value are not equal, and their hash does not tell it."""
    one, same, other = Secret("sk-1é"), Secret("sk-1é"), Secret("sk-2é")
    assert one != same
    assert hash(one) != hash(same)
    assert one.matches(same)
    assert not one.matches(other)
    assert Secret("\ud800").matches(Secret("\ud800"))


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("", ""),
        ("a", "..."),
        ("abcd", "..."),
        ("abcde", "a...e"),
        ("abcdefghi", "a...i"),
        ("abcdefghij", "ab...ij"),
        ("abcdefghijklmnopqrs", "ab...rs"),
        ("abcdefghijklmnopqrst", "abcd...qrst"),
        ("é" * 20, "éééé...éééé"),
        ("k" * 200, "kkkk...kkkk"),
    ],
    ids=["0", "1", "4", "5", "9", "10", "19", "20", "20-code-points", "200"],
)
def test_the_hint_shows_the_ends_by_code_points(value: str, hint: str) -> None:
    """Four, two, one or no code points of each end, and never how many there are in between."""
    assert Secret(value).hint == hint
