"""DataCounter."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from sseflow import Eof, Observe, by_line
from sseflow.stages import DataCounter
from sseflow.testing import check_stage, every_split

from ..strategies import any_bytes, chunked, event_streams, run
from .samples import SAMPLES


def counts(counter: DataCounter) -> tuple[int, int, int, int, int, bool]:
    return (
        counter.raw_bytes,
        counter.data_events,
        counter.data_bytes,
        counter.comments,
        counter.control_blocks,
        counter.in_event,
    )


def counted_by_hand(stream: bytes) -> tuple[int, int, int, int, int, bool]:
    """The same counts, by the words of the standard, from a stream that is there as a whole."""
    stream = stream.removeprefix(b"\xef\xbb\xbf")
    raw = len(stream)
    events = data_bytes = comments = controls = 0
    names: list[bytes] = []
    for line in stream.splitlines():
        name, _, value = line.partition(b":")
        if not line:
            events += b"data" in names
            controls += bool(names) and b"data" not in names
            names = []
        elif not name:
            comments += 1
        else:
            names.append(name)
            data_bytes += len(value.removeprefix(b" ")) if name == b"data" else 0
    return raw, events, data_bytes, comments, controls, bool(names)


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
def test_it_is_a_good_stage(sample: bytes) -> None:
    """Cuts do not matter to it, and neither do they to what it counted."""
    check_stage(DataCounter, [sample], level="lines", facts=counts)


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
def test_it_counts_samples(sample: bytes) -> None:
    """Its counts are those of the whole stream, for every one cut."""
    for cut in range(len(sample) + 1):
        counter = DataCounter()
        run(by_line(counter, whole=64), chunks=[chunk for chunk in (sample[:cut], sample[cut:]) if chunk])
        assert counts(counter) == counted_by_hand(sample)


@given(chunked(event_streams() | any_bytes))
@settings(max_examples=250)
def test_it_counts_anything(chunks: list[bytes]) -> None:
    """Its counts are those of the whole stream, whatever stands in it and whoever looks."""
    counter, observed = DataCounter(), DataCounter()
    run(by_line(counter, Observe(observed), whole=64), chunks=chunks)
    assert counts(counter) == counts(observed) == counted_by_hand(b"".join(chunks))


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        pytest.param(b"data: abc\ndata:d\ndata\n\n", (23, 1, 4, 0, 0, False), id="data"),
        pytest.param(b"data: abc", (9, 0, 3, 0, 0, True), id="unterminated"),
        pytest.param(b"data", (4, 0, 0, 0, 0, True), id="unterminated-without-colon"),
        pytest.param(b"data: \r\n\r\ndata:\r\rdata\n\n", (23, 3, 0, 0, 0, False), id="empty-values"),
        pytest.param(b"datas: x\ndat\n\n", (14, 0, 0, 0, 1, False), id="no-data"),
        pytest.param(b":\n: c\n\n\n\n", (9, 0, 0, 2, 0, False), id="comments"),
        pytest.param(b"id: 1\n\nretry: 1\n: c\n\nid: 2\ndata\n\n", (33, 1, 0, 1, 2, False), id="control-only"),
        pytest.param(b"\xef\xbb\xbfdata: a\n\n", (9, 1, 1, 0, 0, False), id="bom"),
    ],
)
def test_counts(stream: bytes, expected: tuple[int, ...]) -> None:
    """Raw bytes, data events, data bytes, comments, control-only blocks, and whether an event is unfinished."""
    for chunks in every_split(stream):
        counter = DataCounter()
        assert run(by_line(counter), chunks=chunks) == (stream, Eof())
        assert counts(counter) == expected
