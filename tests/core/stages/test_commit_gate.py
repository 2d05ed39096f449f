"""CommitGate."""

from __future__ import annotations

import pytest
from hypothesis import given

from sseflow import Eof, Head, Pipeline, by_line
from sseflow.dialects import OpenAIChat
from sseflow.stages import CommitGate
from sseflow.testing import check_stage

from ..strategies import ENDS, HEAD, any_bytes, chunked, event_streams
from .samples import SAMPLES


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
@pytest.mark.parametrize("limit", [10, 65536])
def test_it_is_a_good_stage(sample: bytes, limit: int) -> None:
    """Cuts do not matter to it, and neither do they to whether it opened."""
    check_stage(lambda: CommitGate(limit=limit), [sample], level="lines", facts=lambda gate: gate.is_open)


def test_it_is_a_good_stage_with_a_dialect() -> None:
    """Cuts do not matter to what a dialect says of a line."""
    samples = [
        b"data: [DONE]\n\n",
        b"event: error\r\ndata: a\r\n\r\ndata: b\r\n",
        b'data: {"error":{"message":"m"}}\n\n',
    ]
    check_stage(lambda: CommitGate(OpenAIChat().opens), samples, level="lines", facts=lambda gate: gate.is_open)


@pytest.mark.parametrize(
    ("stream", "opens"),
    [
        pytest.param(b"", False, id="nothing"),
        pytest.param(b": c\n\n", False, id="comment"),
        pytest.param(b"id: 1\nretry: 5\nevent: t\n\n", False, id="control"),
        pytest.param(b"data\ndata:\ndata: \r\n\n", False, id="empty-data"),
        pytest.param(b"datas: x\n", False, id="another-field"),
        pytest.param(b"data: x", False, id="unfinished-line"),
        pytest.param(b"data: x\n", True, id="data"),
        pytest.param(b"data:x\r", True, id="data-cr"),
        pytest.param(b"data: " + b"x" * 70, True, id="beginning-of-long-data"),
        pytest.param(b": " + b"x" * 70, False, id="beginning-of-long-comment"),
    ],
)
def test_what_opens_it(stream: bytes, opens: bool) -> None:
    """By default the first data line that is not empty, as soon as it is there; nothing leaves before."""
    pipeline = Pipeline(by_line(CommitGate(), whole=64))
    assert pipeline.head(HEAD) == []
    items = pipeline.feed(stream)
    assert items == ([HEAD, stream] if opens else [])


def test_the_type_of_an_event_is_told() -> None:
    """The predicate is given the type of the event, if it stands before the data, and each data line's value."""
    asked: list[tuple[bytes, bytes]] = []

    def accept(type: bytes, data: bytes) -> bool:
        asked.append((type, data))
        return data == b"yes"

    gate = CommitGate(accept)
    gate.feed([b"data: a\n", b"event: t\n", b"data:  b\n", b"data\n", b"\n"])
    gate.feed([b"event: t\r\n", b"event\r\n", b"data: c\r\n", b"\r\n"])
    assert not gate.is_open
    gate.feed([b"event: u\n", b"data: yes\n", b"data: more\n"])
    gate.feed([b"data: more\n"])
    assert asked == [(b"message", b"a"), (b"t", b" b"), (b"t", b""), (b"message", b"c"), (b"u", b"yes")]
    assert gate.is_open


def test_a_dialect_keeps_it_shut() -> None:
    """Its end and its errors are nothing to commit to."""
    gate = CommitGate(OpenAIChat().opens)
    gate.feed([b"data: [DONE]\n", b"\n", b'data: {"error":"x"}\n', b"\n", b"event: error\n", b"data: {}\n", b"\n"])
    assert not gate.is_open
    gate.feed([b"data: {}\n"])
    assert gate.is_open


@pytest.mark.parametrize(
    "chunks", [[b": 34567\n"], [b": 3", b"4567", b"\n"], [b": 34567\r", b"\n"]], ids=["lf", "drip", "crlf"]
)
def test_the_limit(chunks: list[bytes]) -> None:
    """Exactly ``limit`` bytes of something else keep it shut, one more opens it."""
    size = len(b"".join(chunks))
    for limit, is_open in ((size, False), (size - 1, True)):
        pipeline = Pipeline(by_line(CommitGate(limit=limit), whole=64))
        pipeline.head(HEAD)
        items = [item for chunk in chunks for item in pipeline.feed(chunk)]
        assert (items != []) is is_open


def test_the_limit_counts_long_lines() -> None:
    """The rest of a long line counts as it comes."""
    pipeline = Pipeline(by_line(CommitGate(limit=100), whole=64))
    pipeline.head(HEAD)
    assert pipeline.feed(b":" * 100) == []
    assert pipeline.feed(b":") == [HEAD, b":" * 101]


def test_the_shell_may_open_it() -> None:
    """When `open` was called the head leaves with the next feed, be it an empty one."""
    gate = CommitGate()
    pipeline = Pipeline(by_line(gate))
    pipeline.head(HEAD)
    pipeline.feed(b": c\n")
    before = gate.is_open
    gate.open()
    assert (before, gate.is_open) == (False, True)
    assert pipeline.feed(b"") == [HEAD, b": c\n"]


@given(chunked(any_bytes | event_streams()))
def test_an_ending_does_not_open_it(chunks: list[bytes]) -> None:
    """Behind a gate that no byte opened, a failure lets out nothing; one that was opened stays so."""
    for end in ENDS:
        gate = CommitGate()
        pipeline = Pipeline(by_line(gate, whole=64))
        items = pipeline.head(HEAD)
        for chunk in chunks:
            items += pipeline.feed(chunk)
        was_open = gate.is_open
        items += pipeline.end(end)
        assert any(isinstance(item, Head) for item in items) == (was_open or end == Eof())
