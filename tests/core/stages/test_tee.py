"""Tee."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sseflow.stages import Tee
from sseflow.testing import check_stage

from ..strategies import chunked
from .samples import SHORT


@pytest.mark.parametrize("sample", SHORT.values(), ids=SHORT)
@pytest.mark.parametrize(("first", "last"), [(0, 0), (3, 0), (0, 3), (4, 5), (500, 0), (0, 500)])
def test_it_is_a_good_stage(first: int, last: int, sample: bytes) -> None:
    """Cuts do not matter to it, and neither do they to the copy."""
    check_stage(lambda: Tee(first=first, last=last), [sample], facts=lambda tee: (tee.copy(), tee.size, tee.missing))


@given(chunked(st.binary(max_size=60)), st.integers(0, 20), st.integers(0, 20))
def test_copy(chunks: list[bytes], first: int, last: int) -> None:
    """The first and the last bytes are kept; what is missing between is marked and counted, nothing is there twice."""
    tee = Tee(first=first, last=last)
    for chunk in chunks:
        assert tee.feed(chunk) is chunk
    data = b"".join(chunks)
    missing = max(0, len(data) - first - last)
    assert (tee.size, tee.missing) == (len(data), missing)
    mark = b"\n[... %d bytes missing ...]\n" % missing
    assert tee.copy() == (data[:first] + mark + data[len(data) - last :] if missing else data)


@pytest.mark.parametrize(("first", "last"), [(-1, 0), (0, -1)])
def test_sizes_that_cannot_be(first: int, last: int) -> None:
    """A negative size is refused, with its name and value."""
    with pytest.raises(ValueError, match=f"first={first}, last={last}"):
        Tee(first=first, last=last)
