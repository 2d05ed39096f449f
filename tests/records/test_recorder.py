"""Recorders: what is written, by whom, and how long that may take."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable

import pytest
import trio

from sseflow import Event
from sseflow.dialects import Assembled, OpenAIChat, assemble
from sseflow.records import (
    Epochs,
    Lease,
    MemoryRecorder,
    Record,
    RecordTooLong,
    StaleLease,
    record_shielded,
)

TOKEN = Event(b'{"model":"m","choices":[{"index":0,"delta":{"content":"Hello"}}]}')
USAGE = Event(b'{"choices":[],"usage":{"prompt_tokens":3}}')


def record(*events: Event, id: str = "r", interrupted: bool = True) -> Record:
    answer = assemble(OpenAIChat(), events, interrupted=interrupted)
    return Record(
        id=id,
        owner="o",
        verdict="interrupted" if interrupted else "complete",
        dialect="openai-chat",
        answer=answer,
        started=1.0,
        ended=2.0,
    )


class _Recorder:
    """Does what it is told to."""

    def __init__(self, do: Callable[[], Awaitable[object]]) -> None:
        self._do = do

    async def record(self, record: Record, lease: Lease) -> None:
        await self._do()


async def test_a_record_is_written() -> None:
    """It has the answer, the model, and what it cost; and says nothing of them when it is printed."""
    epochs = Epochs()
    recorder = MemoryRecorder(epochs)
    made = record(TOKEN, USAGE)
    await recorder.record(made, epochs.acquire("s"))
    assert recorder.records == [made]
    assert (made.model, made.usage, made.answer.text) == ("m", {"prompt_tokens": 3}, "Hello")
    assert "Hello" not in repr(made)
    assert "owner" not in repr(made)


async def test_a_stale_lease_writes_nothing() -> None:
    """Also if it was not stale yet when the writing began: it is looked at in the same step as the write."""
    epochs = Epochs()
    recorder = MemoryRecorder(epochs)
    lease = epochs.acquire("s")

    async with trio.open_nursery() as nursery:

        async def write() -> None:
            with pytest.raises(StaleLease):
                await recorder.record(record(TOKEN), lease)

        nursery.start_soon(write)
        nursery.start_soon(_acquire, epochs)
    assert recorder.records == []


async def _acquire(epochs: Epochs) -> None:
    epochs.acquire("s")
    await trio.lowlevel.checkpoint()


async def test_an_interrupt_takes_no_lease_away() -> None:
    """Whoever is interrupted writes what it has, until the next one begins; then it is the past."""
    epochs = Epochs()
    recorder = MemoryRecorder(epochs)
    errors: list[Exception] = []
    lease = epochs.acquire("s")
    with trio.CancelScope() as scope:
        scope.cancel()
        await record_shielded(recorder, record(TOKEN), lease, on_error=errors.append)
    assert len(recorder.records) == 1
    epochs.acquire("s")
    await record_shielded(recorder, record(TOKEN), lease, on_error=errors.append)
    assert len(recorder.records) == 1
    assert [type(error) for error in errors] == [StaleLease]


async def test_the_callers_cancellation_comes_out_afterwards() -> None:
    """The record is written, and then the caller is as cancelled as it was."""
    epochs = Epochs()
    recorder = MemoryRecorder(epochs)
    with trio.CancelScope() as scope:
        scope.cancel()
        await record_shielded(recorder, record(TOKEN), epochs.acquire("s"), on_error=print)
        pytest.fail("it went on")
    assert scope.cancelled_caught
    assert len(recorder.records) == 1


async def test_a_recorder_that_hangs_costs_its_time_and_no_more(autojump_clock: trio.testing.MockClock) -> None:
    """... also if the caller is cancelled, and one that comes back in time is waited for."""
    errors: list[Exception] = []

    async def seconds_of(do: Callable[[], Awaitable[object]]) -> float:
        start = trio.current_time()
        with trio.CancelScope() as scope:
            scope.cancel()
            await record_shielded(_Recorder(do), record(TOKEN), Lease("s", 1), timeout=5.0, on_error=errors.append)
        return trio.current_time() - start

    assert await seconds_of(functools.partial(trio.sleep, 4.0)) == 4.0
    assert errors == []
    assert await seconds_of(trio.sleep_forever) == 5.0
    assert [type(error) for error in errors] == [trio.TooSlowError]


async def test_errors_go_to_the_callback() -> None:
    """... and none comes out, not even one of the callback's own."""
    errors: list[Exception] = []

    async def fail() -> None:
        raise OSError("the disk is full")

    def note(error: Exception) -> None:
        errors.append(error)
        raise ValueError("of the callback")

    await record_shielded(_Recorder(fail), record(TOKEN), Lease("s", 1), on_error=note)
    assert [str(error) for error in errors] == ["the disk is full"]


async def test_nothing_is_written_of_nothing() -> None:
    """Where nothing was produced there is no record; what was paid for is recorded all the same."""
    epochs = Epochs()
    recorder = MemoryRecorder(epochs)
    lease = epochs.acquire("s")
    await record_shielded(recorder, record(), lease, on_error=print)
    assert recorder.records == []
    await record_shielded(recorder, record(USAGE), lease, on_error=print)
    assert [each.usage for each in recorder.records] == [{"prompt_tokens": 3}]


async def test_memory_is_bounded() -> None:
    """The oldest go, by number and by bytes; what is longer than all of it is refused."""
    epochs = Epochs()
    lease = epochs.acquire("s")
    few = MemoryRecorder(epochs, max_records=2)
    small = MemoryRecorder(epochs, max_bytes=400)
    for recorder in (few, small):
        for number in range(5):
            await recorder.record(record(TOKEN, id=str(number)), lease)
        assert [each.id for each in recorder.records] == ["3", "4"]
    with pytest.raises(RecordTooLong, match="max_bytes=400"):
        await small.record(record(*[TOKEN] * 100), lease)
    assert [each.id for each in small.records] == ["3", "4"]
    for options in ({"max_records": 0}, {"max_bytes": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(options))}=0"):
            MemoryRecorder(epochs, **options)


async def test_a_part_has_the_shape_of_a_whole() -> None:
    """Whoever reads records need not know which were cut."""
    part, whole = (record(TOKEN, interrupted=each).answer for each in (True, False))
    assert type(part) is type(whole) is Assembled
    assert part.body == whole.body
