"""EventLimit."""

from __future__ import annotations

import pytest

from sseflow import EventTooLong, Failed, Pipeline, StandardPipeline, by_line
from sseflow.dialects import PlainSSE
from sseflow.stages import EventLimit
from sseflow.testing import check_stage, every_split

from ..strategies import TERMINATORS, run
from .samples import SAMPLES


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
@pytest.mark.parametrize("limit", [1, 9, 1000])
def test_it_is_a_good_stage(sample: bytes, limit: int) -> None:
    """Cuts do not matter to it, whatever its limit is."""
    check_stage(lambda: EventLimit(max_event=limit), [sample], level="lines")


@pytest.mark.parametrize("end", TERMINATORS, ids=["lf", "crlf", "cr"])
def test_the_line_behind_the_limit_fails(end: bytes) -> None:
    """What is longer has no further line; everything before that line leaves, and nothing of it."""
    first = b"a: 12345" + end
    stream = first + end + first + b"b" + end + end + b"c"
    for chunks in every_split(stream):
        assert run(by_line(EventLimit(max_event=len(first))), chunks=chunks)[0] == stream
        out, ending = run(by_line(EventLimit(max_event=len(first) - 1)), chunks=chunks)
        assert out == first + end + first
        assert isinstance(ending, Failed)
        assert isinstance(ending.error, EventTooLong)
        assert (ending.error.limit, ending.error.seen) == (len(first) - 1, len(first))


def test_long_lines_count_by_their_length() -> None:
    """Also what flows past is counted, and the blank line ends it."""
    pipeline = Pipeline(by_line(EventLimit(max_event=300), whole=64))
    assert pipeline.feed(b"data: " + b"x" * 200)
    pipeline.feed(b"x" * 150)
    pipeline.feed(b"\n\nid: 1\n")
    assert not pipeline.ending
    pipeline.feed(b"data: " + b"x" * 400 + b"\n")
    assert not pipeline.ending
    pipeline.feed(b"data: y\n")
    assert pipeline.ending


def test_a_nonsensical_limit_is_refused() -> None:
    """There is no event of less than a byte."""
    with pytest.raises(ValueError, match="max_event=0"):
        EventLimit(max_event=0)


def test_the_default_pipeline_has_it() -> None:
    """Many short lines are too long an event, too; and the knob has the name that the error says."""
    pipeline = StandardPipeline(PlainSSE(), max_event=1000)
    pipeline.feed(b"data: x\n" * 200)
    ending = pipeline.ending
    assert isinstance(ending, Failed)
    assert "max_event=1000" in str(ending.error)
