"""sseflow.testing.every_split."""

from __future__ import annotations

from itertools import combinations

import pytest

from sseflow.testing import every_split


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 40])
def test_every_split(size: int) -> None:
    """Whole first, every one and two cuts, byte by byte: each once, none with an empty chunk, all of the same bytes."""
    data = bytes(range(size))
    splits = list(every_split(data))
    assert splits[0] == ([data] if data else [])
    assert all(b"".join(chunks) == data and all(chunks) for chunks in splits)
    lengths = {tuple(map(len, chunks)) for chunks in splits}
    assert len(lengths) == len(splits)
    assert (1,) * size in lengths
    for i, j in combinations(range(1, size), 2):
        assert (i, j - i, size - j) in lengths
        assert (i, size - i) in lengths


def test_how_many_there_are() -> None:
    """As many as the docstring says."""
    assert "782 lists for 40 bytes" in (every_split.__doc__ or "")
    assert len(list(every_split(bytes(40)))) == 782
