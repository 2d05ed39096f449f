"""Streams that are made to cost: the work grows as their length does, and the memory not at all."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable, Iterator
from types import FrameType

import pytest

from sseflow import Eof, Failed, StandardPipeline
from sseflow.dialects import OpenAIChat

from .strategies import HEAD

TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}\n\n'


def one_byte_per_packet(size: int) -> Iterator[bytes]:
    """An answer, byte by byte."""
    for _ in range(size // 40):
        yield from (TOKEN[at : at + 1] for at in range(len(TOKEN)))


def empty_lines(size: int) -> Iterator[bytes]:
    """Nothing but line ends."""
    for _ in range(size // 40):
        yield b"\n" * 400


def empty_lines_one_by_one(size: int) -> Iterator[bytes]:
    """Nothing but line ends, each in a packet of its own."""
    for _ in range(size):
        yield b"\r\n"


def colons(size: int) -> Iterator[bytes]:
    """Nothing but comments without a word."""
    for _ in range(size // 40):
        yield b":\n" * 200


def a_comment_without_end(size: int) -> Iterator[bytes]:
    """One comment."""
    yield b":"
    for _ in range(size // 4):
        yield b"x" * 16384


def an_event_of_small_fields(size: int) -> Iterator[bytes]:
    """Fields without data, and no blank line; of lines of no value the event is soon too long."""
    for _ in range(size // 40):
        yield b"id:\n" * 100


def small_events(size: int) -> Iterator[bytes]:
    """Many in a packet."""
    for _ in range(size // 40):
        yield b"data:x\n\n" * 50


ABUSE = [
    one_byte_per_packet,
    empty_lines,
    empty_lines_one_by_one,
    colons,
    a_comment_without_end,
    an_event_of_small_fields,
    small_events,
]


def feed(stream: Iterator[bytes]) -> None:
    """Send a token, and then that."""
    pipeline = StandardPipeline(OpenAIChat())
    pipeline.head(HEAD)
    pipeline.feed(TOKEN)
    for data in stream:
        pipeline.feed(data)
        if pipeline.ending is not None:
            return
    pipeline.end(Eof())
    assert isinstance(pipeline.ending, Failed)


def operations(function: Callable[[], object]) -> int:
    """Calls and C calls that it makes."""
    count = 0

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("stream", ABUSE, ids=lambda stream: stream.__name__)
def test_work_is_in_proportion(stream: Callable[[int], Iterator[bytes]]) -> None:
    """Four times as long is four times the work."""
    small = operations(lambda: feed(stream(400)))
    large = operations(lambda: feed(stream(1600)))
    assert large <= 4.5 * small


@pytest.mark.parametrize("stream", ABUSE, ids=lambda stream: stream.__name__)
def test_memory_is_not(stream: Callable[[int], Iterator[bytes]]) -> None:
    """Nor does the peak of the memory depend on the length, but for what a held event is."""
    peaks = []
    for size in (400, 4000):
        tracemalloc.start()
        try:
            feed(stream(size))
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] <= max(peaks[0], 512 * 1024) + 64 * 1024
