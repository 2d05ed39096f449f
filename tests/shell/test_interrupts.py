"""What the client was sent is neither lost nor added to, wherever a stream is interrupted."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio

from sseflow import Closed, End, EventParser, Failed, Head, Relay, Sink, StandardPipeline
from sseflow.dialects import AnthropicMessages, Dialect, OpenAIChat, OpenAIResponses, PlainSSE, assemble
from sseflow.records import Epochs, MemoryRecorder, Record, record_shielded
from sseflow.stages import Transcript
from sseflow.testing import FAULTS, STALLS, STOPS, InjectionError, Rig, Scenario, inject

HEAD = Head(200, ((b"content-type", b"text/event-stream"),))

CHAT = b"".join(
    b'data: {"choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":%b}]}\n\n' % (text, finish)
    for text, finish in ((b"one ", b"null"), (b"two", b"null"), (b"", b'"stop"'))
)
ANTHROPIC = b"".join(
    b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"%b"}}\n\n' % text
    for text in (b"one ", b"two")
)
RESPONSES = b"".join(
    b'data: {"type":"response.output_text.delta","output_index":0,"content_index":0,"delta":"%b"}\n\n' % text
    for text in (b"one ", b"two")
)

STREAMS: dict[str, tuple[Dialect, bytes]] = {
    "openai-chat": (OpenAIChat(), CHAT + b"data: [DONE]\n\n"),
    "anthropic": (AnthropicMessages(), ANTHROPIC + b'data: {"type":"message_stop"}\n\n'),
    "openai-responses": (OpenAIResponses(), RESPONSES + b'data: {"type":"response.completed","response":{}}\n\n'),
    "sse": (PlainSSE(), b"data: one\n\ndata: two\n\n"),
}


class _Noting:
    """A sink that notes all it is given, whether or not that is still written."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.given = bytearray()

    async def send_head(self, head: Head, data: bytes) -> None:
        self.given += data
        await self._sink.send_head(head, data)

    async def send_all(self, data: bytes) -> None:
        self.given += data
        await self._sink.send_all(data)

    async def finish(self, end: End) -> None:
        await self._sink.finish(end)


class _NotingPolled(_Noting):
    """The same for one that can be written to without waiting."""

    def send_nowait(self, data: bytes) -> bool:
        self.given += data
        return self._sink.send_nowait(data)  # type: ignore[attr-defined, no-any-return]  # the rig's sink has it

    async def flush(self) -> None:
        await self._sink.flush()  # type: ignore[attr-defined]  # as above


def recorded(dialect: Dialect, *, lent: bool = False, loses: bool = False) -> Callable[[Rig], Scenario]:
    """Make a relay of which a record is written in its last scope; ``loses``: of what the pipeline let out."""

    def scenario(rig: Rig) -> Scenario:
        epochs = Epochs()
        recorder = MemoryRecorder(epochs)
        lease = epochs.acquire("s")
        transcript = Transcript()
        sink = (_NotingPolled if lent else _Noting)(rig.sink)
        relay = Relay(
            rig.source,
            rig.watch(StandardPipeline(dialect)),
            sink,
            head=HEAD,
            record=rig.record,
            switchboard=rig.switchboard if lent else None,
            transcript=None if loses else transcript,
        )

        async def run() -> None:
            try:
                await relay.run()
            finally:
                answer = assemble(dialect, transcript.events(), interrupted=True)
                record = Record(id="r", verdict="interrupted", dialect=dialect.name, answer=answer, started=0, ended=1)
                try:
                    await record_shielded(recorder, record, lease, on_error=_raise)
                finally:
                    _check(dialect, bytes(sink.given), transcript, recorder)

        return Scenario(
            run=run,
            close=lambda: relay.stop(Closed()),
            faults={"stop Failed": lambda: relay.stop(Failed(TimeoutError("interrupted")))},
        )

    return scenario


def _raise(error: Exception) -> None:
    raise AssertionError("the record was not written") from error


def _check(dialect: Dialect, given: bytes, transcript: Transcript, recorder: MemoryRecorder) -> None:
    assert transcript.windows() == (given, b"")
    answer = assemble(dialect, EventParser().feed(given), interrupted=True)
    assert [record.answer for record in recorder.records] == ([] if answer.empty else [answer])


@pytest.mark.parametrize("lent", [False, True], ids=["pumping", "switchboard"])
@pytest.mark.parametrize(("dialect", "stream"), STREAMS.values(), ids=STREAMS)
def test_the_record_is_what_the_client_was_given(dialect: Dialect, stream: bytes, lent: bool) -> None:
    """Cancelled, closed, broken or stalled at any checkpoint: what was given is recorded, no byte less, none more."""
    third = len(stream) // 3  # not between two events
    chunks = [stream[:third], stream[third : 2 * third], stream[2 * third :]]
    report = inject(recorded(dialect, lent=lent), chunks, kinds=(*FAULTS, *STALLS, STOPS[0]))
    assert {"Cancelled", "Closed", "Eof", "Failed"} <= report.endings.keys()
    assert report.runs > 100


def test_the_record_is_what_the_client_was_given_at_any_two_cancellations() -> None:
    """... also where something else comes before or behind the cancellation, as a close does, or another error."""
    dialect, stream = STREAMS["openai-chat"]
    kinds = ("cancel", "close", "write error")
    assert inject(recorded(dialect, lent=True), [stream[:60], stream[60:]], kinds=kinds, pairs=True).runs > 1000


def test_the_check_can_fail() -> None:
    """A relay that nobody wrote down is found out."""
    dialect, stream = STREAMS["openai-chat"]
    with pytest.raises(InjectionError, match="AssertionError"):
        inject(recorded(dialect, loses=True), [stream], kinds=("cancel",))


async def test_an_interrupt_leaves_the_text_that_the_client_has_seen() -> None:
    """The text that had come is in the record when the relay is stopped, and the answer is not complete."""
    ours, theirs = trio.testing.memory_stream_one_way_pair()
    to_client, client = trio.testing.memory_stream_one_way_pair()
    transcript = Transcript()
    relay = Relay(theirs, StandardPipeline(OpenAIChat()), to_client, head=HEAD, transcript=transcript)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay.run)
        await ours.send_all(CHAT[: CHAT.index(b"two") + 2])
        seen = await client.receive_some()
        relay.stop(Closed())
    answer = assemble(OpenAIChat(), transcript.events(), interrupted=True)
    assert transcript.windows() == (bytes(seen), b"")
    assert (answer.text, answer.complete, answer.finish) == ("one ", False, None)
