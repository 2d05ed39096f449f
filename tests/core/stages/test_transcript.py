"""Transcript."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sseflow import EventParser
from sseflow.stages import Transcript
from sseflow.testing import check_stage

from ..strategies import chunked, event_streams
from .samples import SHORT

TOKEN = b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n'


@pytest.mark.parametrize("sample", SHORT.values(), ids=SHORT)
@pytest.mark.parametrize("limit", [0, 1, 10, 1000])
def test_it_is_a_good_stage(limit: int, sample: bytes) -> None:
    """Cuts do not matter to it, and neither do they to what it kept."""
    check_stage(lambda: Transcript(limit=limit), [sample], facts=lambda kept: (kept.windows(), kept.size))


@given(chunked(st.binary(max_size=60)), st.integers(0, 70), st.lists(st.booleans(), max_size=8))
def test_what_is_kept(chunks: list[bytes], limit: int, looks: list[bool]) -> None:
    """All of it up to the limit; of more the first and the last half. Looking at it on the way changes nothing."""
    transcript = Transcript(limit=limit)
    for at, chunk in enumerate(chunks):
        assert transcript.feed(chunk) is chunk
        if at < len(looks) and looks[at]:
            transcript.windows()
    data = b"".join(chunks)
    half = limit // 2
    whole = len(data) <= limit
    assert transcript.windows() == ((data, b"") if whole else (data[:half], data[len(data) - limit + half :]))
    assert (transcript.size, transcript.truncated) == (len(data), not whole)


@given(chunked(event_streams()))
def test_its_events_are_those_of_the_stream(chunks: list[bytes]) -> None:
    """A client that got these bytes has dispatched exactly these events."""
    transcript = Transcript()
    parser = EventParser()
    expected = []
    for chunk in chunks:
        transcript.feed(chunk)
        expected += parser.feed(chunk)
    assert list(transcript.events()) == expected


@given(st.integers(0, 400), st.sampled_from([b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n"]))
def test_what_is_missing_makes_no_event(limit: int, end: bytes) -> None:
    """The events on both sides of what is missing are whole ones of the stream, in order, and none is made of two."""
    transcript = Transcript(limit=limit)
    for number in range(100):
        transcript.feed(b"event: %d" % number + end[: len(end) // 2] + b"data: %d" % number + end)
    got = [int(event.data) for event in transcript.events()]
    assert got == sorted(set(got))
    behind = [b for a, b in zip([-1, *got], got, strict=False) if b != a + 1]
    assert len(behind) <= 1
    assert limit < 200 or {0, 99} <= set(got)


def test_memory_is_bounded() -> None:
    """Whatever the size of the chunks, it holds little more than its limit, and of a short stream little more than it
    has."""
    for size in (2, 50, 5_000, 100_000):
        chunks = 1_000_000 // size
        tracemalloc.start()
        try:
            transcript = Transcript(limit=100_000)
            for number in range(chunks):
                transcript.feed(b"%d" % number + b"x" * size)
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert held < 100_000 + 300_000, size


def test_short_chunks_are_joined() -> None:
    """Many small objects would need several times the memory of their bytes."""
    tracemalloc.start()
    try:
        transcript = Transcript()
        for number in range(100_000):
            transcript.feed(b"%06d" % number)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert transcript.size == 600_000
    assert held < 800_000


def test_a_negative_limit_is_refused() -> None:
    """... with its value."""
    with pytest.raises(ValueError, match="limit=-1"):
        Transcript(limit=-1)
