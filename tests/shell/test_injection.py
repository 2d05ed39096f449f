"""Nothing hangs, and nothing ends twice or dishonestly, wherever a stream is interrupted; and the proof can fail."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Awaitable, Callable

import pytest
import trio

from sseflow import (
    Cancelled,
    Closed,
    End,
    Eof,
    Failed,
    FilteredReceiveStream,
    FilteredSendStream,
    Head,
    Item,
    Outcome,
    Pipeline,
    Relay,
    Stage,
    StandardPipeline,
    by_line,
)
from sseflow.dialects import OpenAIChat
from sseflow.stages import CommentStripper, EofRecorder, WholeEvents
from sseflow.testing import FAULTS, STALLS, STOPS, InjectionError, Rig, Scenario, inject, no_schedules

HEAD = Head(200, ((b"content-type", b"text/event-stream"),))

TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
DONE = b"data: [DONE]\n\n"

# Cut inside events. Until its last chunk the first stream holds no content, so its gate is shut nearly all the time.
SHUT = [b": a\n\n: b", b"\n\n" + TOKEN + DONE]
OPEN = [TOKEN + TOKEN[:9], TOKEN[9:] + DONE]
SHORT = [TOKEN[:9], TOKEN[9:] + DONE]
EMPTY = [b": a\n\n", DONE]
UNFINISHED = [b": a\n\ndata: 1\n", b"\ndata: 2\nda"]
TAIL = [b"data: 1\n\nda"]

STREAMS = {"gate-shut": SHUT, "gate-open": OPEN, "empty": EMPTY}


def standard(rig: Rig) -> Relay:
    return Relay(rig.source, rig.watch(StandardPipeline(OpenAIChat())), rig.sink, head=HEAD, record=rig.record)


def lent(rig: Rig) -> Relay:
    """Relay with a switchboard."""
    pipeline = rig.watch(StandardPipeline(OpenAIChat()))
    return Relay(rig.source, pipeline, rig.sink, head=HEAD, record=rig.record, switchboard=rig.switchboard)


def holding(rig: Rig) -> Relay:
    """Relay through stages that give back what they hold behind any ending."""
    return Relay(rig.source, rig.watch(Pipeline(by_line(CommentStripper()))), rig.sink, record=rig.record)


def onto_a_stream(rig: Rig) -> Relay:
    return Relay(rig.receive_stream, rig.watch(StandardPipeline(OpenAIChat())), rig.send_stream, record=rig.record)


def _filters() -> Pipeline:
    return Pipeline(by_line(CommentStripper(), WholeEvents()), EofRecorder())


def reading(rig: Rig) -> Scenario:
    """Read a `FilteredReceiveStream` to its end, in a pump that somebody wrote himself."""
    stream = FilteredReceiveStream(rig.receive_stream, rig.watch(_filters()))
    sink = rig.sink

    async def run() -> None:
        end: End = Cancelled()
        try:
            async for data in stream:
                await sink.send_all(bytes(data))
            await sink.finish(Eof())
            end = Eof()
        except Exception as error:
            end = Failed(error)
        finally:
            with trio.move_on_after(5, shield=True):
                await stream.aclose()
            with trio.move_on_after(5, shield=True), contextlib.suppress(trio.BrokenResourceError):
                if not isinstance(end, Eof):
                    await sink.finish(end)

    async def close() -> None:
        with trio.move_on_after(5):
            await stream.aclose()

    return Scenario(run=run, close=close)


def writing(rig: Rig) -> Scenario:
    """Write to a `FilteredSendStream`; somebody else may close it, with grace or without."""
    stream = FilteredSendStream(rig.send_stream, rig.watch(_filters()))
    source = rig.receive_stream

    async def run() -> None:
        try:
            async with source, stream:
                while data := await source.receive_some():
                    await stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def close() -> None:
        await trio.aclose_forcefully(stream)
        await trio.aclose_forcefully(source)

    async def close_with_grace() -> None:
        rig.clean_end = True
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await stream.aclose()

    return Scenario(run=run, close=close, faults={"aclose": close_with_grace})


def a_relay_into_a_filter(rig: Rig) -> Relay:
    sink = FilteredSendStream(rig.send_stream, rig.watch(_filters()))
    return Relay(rig.source, Pipeline(), sink, record=rig.record)


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
@pytest.mark.parametrize("scenario", [standard, onto_a_stream, lent], ids=["sink", "stream", "switchboard"])
def test_a_relay_survives_every_fault_everywhere(scenario: Callable[[Rig], Relay], stream: list[bytes]) -> None:
    """One fault of any kind, at any checkpoint: one ending, one outcome, all closed, nothing hangs or lies."""
    report = inject(scenario, stream, kinds=FAULTS + STALLS + STOPS)
    assert report.runs == 1 + report.checkpoints * len(FAULTS + STALLS + STOPS)
    assert {"Cancelled", "Closed", "Failed"} <= report.endings.keys()


@pytest.mark.parametrize("stream", [SHUT, OPEN], ids=["gate-shut", "gate-open"])
def test_a_relay_survives_every_pair_of_faults(stream: list[bytes]) -> None:
    """Two faults, at any two checkpoints, of all kinds with all kinds."""
    report = inject(standard, stream, pairs=True)
    assert report.runs > 2000
    assert report.endings.keys() == {"Cancelled", "Closed", "Eof", "Failed"}


def test_a_lent_relay_survives_pairs_of_faults() -> None:
    """... also over the switchboard, before and behind each read and write of its steps."""
    report = inject(lent, SHORT, kinds=("cancel", "close", "write error"), pairs=True)
    assert report.runs > 2000
    assert report.endings.keys() == {"Cancelled", "Closed", "Eof"}


def test_a_relay_onto_a_stream_survives_every_pair_of_faults() -> None:
    """... also where the sink is a stream, which has no other way to say that it was cut off than a reset."""
    assert inject(onto_a_stream, OPEN, pairs=True).runs > 2000


def test_a_relay_survives_every_pair_of_stops() -> None:
    """Whoever stops a relay, and how often: the first one counts, and a client that takes no more holds up nobody."""
    kinds = ("cancel", "write stall", *STOPS)
    assert inject(holding, UNFINISHED, kinds=kinds, pairs=True).runs > 1000


def woken(rig: Rig) -> Scenario:
    """A relay that can be woken, as when a gate's time is up."""
    return _wakeable(standard(rig))


def woken_while_lent(rig: Rig) -> Scenario:
    return _wakeable(lent(rig))


def _wakeable(relay: Relay) -> Scenario:
    return Scenario(run=relay.run, close=lambda: relay.stop(Closed()), faults={"wake": relay.wake})


@pytest.mark.parametrize(
    ("scenario", "stream"),
    [(woken, SHUT), (woken, OPEN), (woken_while_lent, SHORT)],
    ids=["gate-shut", "gate-open", "switchboard"],
)
def test_waking_a_relay_changes_nothing(scenario: Callable[[Rig], Scenario], stream: list[bytes]) -> None:
    """Woken at any checkpoint, and at any two, it goes on to the same end; with other faults it survives as without."""
    report = inject(scenario, stream, kinds=("wake",), pairs=True)
    assert len(report.endings) == 1
    inject(scenario, stream, kinds=("wake", "cancel", "close", "write error"), pairs=True)


@pytest.mark.parametrize("scenario", [standard, lent], ids=["pumping", "switchboard"])
@pytest.mark.parametrize("ending", [Failed(ConnectionResetError("reset")), None], ids=["fails", "stays-open"])
def test_a_relay_survives_whatever_its_upstream_does(scenario: Callable[[Rig], Relay], ending: Failed | None) -> None:
    """An upstream that fails by itself, and one that never ends until it is closed."""
    report = inject(scenario, OPEN, ending=ending, kinds=FAULTS + STALLS + STOPS)
    assert "Cancelled" in report.endings


class _Raises(Stage[bytes]):
    def __init__(self, where: str) -> None:
        self._where = where

    def head(self, head: Head, /) -> Head | None:
        if self._where == "head":
            raise ValueError("raised in head")
        return head

    def feed(self, batch: bytes, /) -> bytes:
        if self._where == "feed":
            raise ValueError("raised in feed")
        return batch

    def end(self, end: End, /) -> tuple[bytes | None, End]:
        raise ValueError("raised in end")


@pytest.mark.parametrize("where", ["head", "feed", "end"])
def test_a_relay_survives_every_fault_with_a_stage_that_raises(where: str) -> None:
    """A stage that raises changes the ending, and nothing else: all other stages are ended, in order."""

    def scenario(rig: Rig) -> Relay:
        pipeline = rig.watch(Pipeline(EofRecorder(), _Raises(where), EofRecorder()))
        return Relay(rig.source, pipeline, rig.sink, head=HEAD, record=rig.record)

    assert inject(scenario, [b"a", b"b"], kinds=FAULTS + STALLS + STOPS).endings.keys() == {"Failed"}


FILTERED = pytest.mark.parametrize(
    ("scenario", "kinds"),
    [
        (reading, FAULTS),
        (writing, (*FAULTS, "aclose")),
        (a_relay_into_a_filter, FAULTS),
    ],
    ids=["reading", "writing", "relay-into-filter"],
)


@FILTERED
def test_filtered_streams_survive_every_fault_everywhere(
    scenario: Callable[[Rig], Relay | Scenario], kinds: tuple[str, ...]
) -> None:
    """The wrappers, too: closing from another task, with and without grace, at any moment."""
    inject(scenario, UNFINISHED, kinds=("upstream stall", *kinds))


@FILTERED
def test_filtered_streams_survive_every_pair_of_faults(
    scenario: Callable[[Rig], Relay | Scenario], kinds: tuple[str, ...]
) -> None:
    """... and once more, with bytes at the end that the stages held."""
    assert inject(scenario, TAIL, kinds=kinds, pairs=True).runs > 1000


@pytest.mark.skipif(no_schedules() is not None, reason=str(no_schedules()))
@pytest.mark.parametrize("scenario", [reading, writing], ids=["reading", "writing"])
def test_filtered_streams_survive_every_order_of_tasks(scenario: Callable[[Rig], Scenario]) -> None:
    """Where closer and reader run in the same tick, either may come first, in each of the ticks."""
    once = inject(scenario, UNFINISHED, kinds=["close", "cancel"])
    orders = inject(scenario, UNFINISHED, kinds=["close", "cancel"], deviations=2)
    assert orders.runs > once.runs


class Pump:
    """A small relay that keeps the rules. Those below break one each."""

    def __init__(self, rig: Rig) -> None:
        self.source = rig.source
        self.sink = rig.sink
        self.pipeline = rig.watch(Pipeline(EofRecorder()))
        self.report = rig.record
        self.scope = trio.CancelScope()
        self.stopped = False
        self.finished = False
        self.write_error: Exception | None = None
        self.bytes_in = 0
        self.bytes_out = 0

    async def run(self) -> None:
        try:
            with self.scope:
                await self.pump()
            if self.stopped:
                self.pipeline.end(Closed())
        finally:
            self.pipeline.end(Cancelled())
            with trio.CancelScope(shield=True):
                await self.shut()
            self.record()

    async def pump(self) -> None:
        while self.pipeline.ending is None:
            await self.give(await self.take())

    async def take(self) -> list[Item]:
        try:
            data = await self.source.receive_some()
        except Exception as error:
            return self.pipeline.end(Failed(error))
        self.bytes_in += len(data)
        return self.pipeline.feed(bytes(data)) if data else self.pipeline.end(Eof())

    async def give(self, items: list[Item]) -> None:
        try:
            for item in items:
                if isinstance(item, bytes):
                    await self.sink.send_all(item)
                    self.bytes_out += len(item)
                elif isinstance(item, Eof):
                    await self.sink.finish(item)
                    self.finished = True
        except Exception as error:
            self.write_error = error
            self.pipeline.end(Closed())

    async def shut(self) -> None:
        await self.bounded(self.source.aclose)
        if not self.finished:
            if isinstance(self.pipeline.ending, Eof) and self.write_error is None:
                self.write_error = trio.BrokenResourceError("the end was not written")
            await self.bounded(functools.partial(self.sink.finish, Closed()))

    async def bounded(self, close: Callable[[], Awaitable[None]]) -> None:
        with contextlib.suppress(trio.TooSlowError, trio.BrokenResourceError), trio.fail_after(5):
            await close()

    def record(self) -> None:
        assert self.pipeline.ending is not None
        self.report(
            Outcome(
                ending=self.pipeline.ending,
                committed=True,
                write_error=self.write_error,
                close_error=None,
                chunks_in=0,
                bytes_in=self.bytes_in,
                bytes_out=self.bytes_out,
                started=0.0,
                first_in=None,
                first_out=None,
                ended=0.0,
            )
        )

    def close(self) -> object:
        self.stopped = True
        return self.scope.cancel()


class RecordsTwice(Pump):
    """A provisional record for the write error, and the one that it forgot in `finally`."""

    async def give(self, items: list[Item]) -> None:
        await super().give(items)
        if self.write_error is not None:
            self.record()


class RecordsNothingWhenCancelled(Pump):
    async def run(self) -> None:
        with self.scope:
            await self.pump()
        self.pipeline.end(Closed())
        await self.shut()
        self.record()


class AwaitsUnshielded(Pump):
    async def run(self) -> None:
        try:
            with self.scope:
                await self.pump()
        finally:
            self.pipeline.end(Closed() if self.stopped else Cancelled())
            try:
                await self.shut()
            finally:
                self.record()


class ClosesWithoutADeadline(Pump):
    async def bounded(self, close: Callable[[], Awaitable[None]]) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            await close()


class ClosesTwice(Pump):
    async def take(self) -> list[Item]:
        items = await super().take()
        if self.pipeline.ending is not None:
            await self.source.aclose()
        return items


class CloserWaitsForReader(Pump):
    """The closer tells the reader to stop, and waits until it has."""

    async def pump(self) -> None:
        self.left = trio.Event()
        try:
            while self.pipeline.ending is None and not self.stopped:
                await self.give(await self.take())
        finally:
            self.left.set()

    def close(self) -> object:
        self.stopped = True
        return self.left.wait()


class HoldsALockAcrossAWait(Pump):
    """Reader and closer agree by a lock, and the reader sleeps with it."""

    def __init__(self, rig: Rig) -> None:
        super().__init__(rig)
        self.lock = trio.Lock()

    async def take(self) -> list[Item]:
        async with self.lock:
            return await super().take()

    async def close(self) -> None:
        async with self.lock:
            super().close()


class TakesLocksInTwoOrders(HoldsALockAcrossAWait):
    """The reader takes the source's lock, then the client's; the closer the client's, then the source's."""

    def __init__(self, rig: Rig) -> None:
        super().__init__(rig)
        self.other = trio.Lock()

    async def take(self) -> list[Item]:
        async with self.lock:
            items = await Pump.take(self)
            async with self.other:
                return items

    async def close(self) -> None:
        async with self.other:
            await super().close()


class SwallowsCancelled(Pump):
    async def pump(self) -> None:
        with contextlib.suppress(trio.Cancelled):
            await super().pump()


class SpinsWhenCancelled(Pump):
    async def take(self) -> list[Item]:
        while True:
            with contextlib.suppress(trio.Cancelled):
                return await super().take()


class EndsCleanlyBehindAnError(Pump):
    """The client gets its last chunk whatever became of the upstream."""

    async def take(self) -> list[Item]:
        items = await super().take()
        return [Eof()] if isinstance(self.pipeline.ending, Failed) else items


class EndsCleanlyBehindACutWrite(Pump):
    async def shut(self) -> None:
        await self.bounded(self.source.aclose)
        if not self.finished:
            await self.bounded(functools.partial(self.sink.finish, Eof()))


class ForgetsItsStages(Pump):
    async def run(self) -> None:
        try:
            with self.scope:
                await self.pump()
        finally:
            with trio.CancelScope(shield=True):
                await self.shut()


class LeavesATask(Pump):
    async def give(self, items: list[Item]) -> None:
        await super().give(items)
        if self.write_error is not None:
            trio.lowlevel.spawn_system_task(trio.sleep_forever)


class WaitsShieldedForNobody(Pump):
    async def shut(self) -> None:
        await super().shut()
        if self.write_error is not None:
            await trio.Event().wait()


def _pump(make: type[Pump]) -> Callable[[Rig], Scenario]:
    def scenario(rig: Rig) -> Scenario:
        pump = make(rig)
        return Scenario(run=pump.run, close=pump.close)

    return scenario


def test_the_harness_accepts_a_pump_that_keeps_the_rules() -> None:
    """What is written by hand and in order passes, so that what follows is found for its fault alone."""
    inject(_pump(Pump), [b"a", b"b"], kinds=FAULTS + STALLS)
    inject(_pump(Pump), [b"a"], pairs=True)


@pytest.mark.parametrize(
    ("broken", "finding"),
    [
        (RecordsTwice, "2 outcomes were recorded"),
        (RecordsNothingWhenCancelled, "0 outcomes were recorded"),
        (AwaitsUnshielded, "closing of the upstream was cancelled"),
        (ClosesWithoutADeadline, "deadlock"),
        (ClosesTwice, "closed 2 times"),
        (CloserWaitsForReader, "deadlock"),
        (HoldsALockAcrossAWait, "deadlock"),
        (TakesLocksInTwoOrders, "deadlock"),
        (SwallowsCancelled, "swallowed"),
        (SpinsWhenCancelled, "it spins"),
        (EndsCleanlyBehindAnError, "clean end"),
        (EndsCleanlyBehindACutWrite, "clean end"),
        (ForgetsItsStages, "the stages that were ended are"),
        (LeavesATask, "left behind"),
        (WaitsShieldedForNobody, "deadlock"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_the_harness_can_fail(broken: type[Pump], finding: str) -> None:
    """Each of the mistakes that this library is built to make impossible is found, by its name."""
    with pytest.raises(InjectionError) as caught:
        inject(_pump(broken), [b"a", b"b"], kinds=FAULTS + STALLS)
    assert finding in " ".join(caught.value.findings)


def test_a_finding_can_be_repeated() -> None:
    """The message names the one run; `only` makes it again, and it fails in the same way."""
    with pytest.raises(InjectionError) as found:
        inject(_pump(RecordsTwice), [b"a", b"b"], pairs=True)
    with pytest.raises(InjectionError) as again:
        inject(_pump(RecordsTwice), [b"a", b"b"], only=found.value.injected)
    assert str(again.value) == str(found.value)
    assert f"only={found.value.injected!r}" in str(found.value)


def _in_one_order_only(rig: Rig) -> Scenario:
    order: list[str] = []

    async def come(name: str) -> None:
        order.append(name)

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(come, "first")
            nursery.start_soon(come, "second")
        if order == ["first", "second"]:
            raise RuntimeError("this order was forgotten")

    return Scenario(run=run)


@pytest.mark.skipif(no_schedules() is not None, reason=str(no_schedules()))
def test_an_order_can_be_found_and_repeated() -> None:
    """What goes wrong in one order of two tasks only is found, and the message names the order."""
    inject(_in_one_order_only, [])
    with pytest.raises(InjectionError, match="this order was forgotten") as found:
        inject(_in_one_order_only, [], deviations=1)
    with pytest.raises(InjectionError) as again:
        inject(_in_one_order_only, [], only=found.value.injected)
    assert str(again.value) == str(found.value)


def test_a_trio_without_the_private_names_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the order cannot be chosen, nobody is made to believe that all were walked."""
    monkeypatch.delattr("trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING")
    assert "_ALLOW_DETERMINISTIC_SCHEDULING" in str(no_schedules())
    with pytest.raises(NotImplementedError, match="_ALLOW_DETERMINISTIC_SCHEDULING"):
        inject(standard, OPEN, deviations=1)


def test_a_fault_that_is_not_there_is_refused() -> None:
    """A walk that would inject nothing does not pass for a proof."""
    with pytest.raises(ValueError, match="no fault 'upstream EFO'"):
        inject(standard, OPEN, kinds=["upstream EFO"])
    with pytest.raises(ValueError, match="is not a fault at a checkpoint"):
        inject(standard, OPEN, only="upstream EOF")
