"""What is kept of answers: records, and the history of chains of responses."""

# What a client is sent is kept while it is sent, as bytes, by the relay's transcript. Everything else is done when the
# exchange is over: by a task of its own, so that neither the client nor its next request waits for a disk.

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import attrs
import trio

from .. import Head
from .._events import MESSAGE
from ..dialects import CompleteResponse, OpenAIResponses, RequestBody, assemble, rebuilt
from ..records import Epochs, History, Lease, Record, Recorder, record_shielded
from ..stages import Transcript
from ._refusal import decoded
from ._verdict import Verdict

if TYPE_CHECKING:
    from ._exchange import Exchange

T = TypeVar("T")

MOST_KEEPING = 256
"""Exchanges that are over and not yet kept. One more is not kept: a disk that hangs must not fill the memory."""

SMALL = 32 * 1024
"""Bytes of a transcript up to which it is read at once; a longer one is read in a thread."""

_LEFT = frozenset({Verdict.INTERRUPTED, Verdict.CLIENT_GONE, Verdict.CLIENT_STUCK, Verdict.DRAINED})

_COMPLETED = b"response.completed"


@attrs.define
class Keeping:
    """What is kept of one exchange while it runs."""

    transcript: Transcript
    lease: Lease
    began: float
    """In seconds of Unix time."""

    sent: bytes | None = None
    """The body of the request that was answered, if it was kept: the client's own, or one with its chain rebuilt."""


class Keeper:
    """Keeps what exchanges have produced.

    Args:
        recorder: told of every answer, whole or not; None: nobody is.
        epochs: says whose record of a stream counts.
        history: of complete responses; None: chains cannot be rebuilt.
        on_error: told of what failed; the client never is.
        always: keep transcripts though nobody is told, so that an interrupted answer can be shown.
    """

    def __init__(
        self,
        *,
        recorder: Recorder | None = None,
        epochs: Epochs | None = None,
        history: History | None = None,
        on_error: Callable[[str, BaseException], object],
        always: bool = False,
    ) -> None:
        self._recorder = recorder
        self._epochs = epochs or Epochs()
        self._history = history
        self._on_error = on_error
        self._always = always
        self._threads = trio.CapacityLimiter(1)
        self.pending = 0
        """Exchanges that are over, and not yet kept."""

        self.dropped = 0
        """Exchanges that were not kept, because too many waited for it."""

    def begin(self, exchange: Exchange) -> Keeping | None:
        """Begin to keep an exchange; None if nothing of it is wanted."""
        if self._recorder is None and not self._always and not self.has_chain(exchange):
            return None
        transcript = Transcript(limit=exchange.route.policy.transcript)
        return Keeping(transcript, self._epochs.acquire(f"{exchange.owner or ''}:{exchange.id}"), time.time())

    def has_chain(self, exchange: Exchange) -> bool:
        """Whether an exchange may be a link of a chain that is kept."""
        return self._history is not None and isinstance(exchange.dialect, OpenAIResponses)

    async def rebuild(self, exchange: Exchange, body: bytes) -> bytes | None:
        """A request whose previous response the provider has lost, with all that was said before it.

        None if that is not known.
        """
        request = RequestBody.parse(body)
        if request is None or request.previous_response_id is None or self._history is None:
            return None
        history = await self._history.recall(exchange.owner or "", request.previous_response_id)
        return None if history is None else rebuilt(request, history)

    def keep(self, exchange: Exchange, keeping: Keeping, nursery: trio.Nursery) -> None:
        """Keep what an exchange has come to, in a task. Returns at once."""
        assert exchange.outcome is not None
        verdict = exchange.outcome.verdict
        records = exchange.streamed and (self._recorder is not None or verdict is Verdict.INTERRUPTED)
        remembers = verdict is Verdict.COMPLETE and self.has_chain(exchange)
        is_wanted = records or remembers
        if not is_wanted or self.pending >= MOST_KEEPING:
            self.dropped += is_wanted
            self._let_go(exchange, keeping)
            return
        self.pending += 1
        nursery.start_soon(functools.partial(self._keep, exchange, keeping, records=records, remembers=remembers))

    async def _keep(self, exchange: Exchange, keeping: Keeping, *, records: bool, remembers: bool) -> None:
        try:
            with trio.CancelScope(shield=True):  # each step has a deadline of its own
                if records:
                    await self._record(exchange, keeping)
                if remembers:
                    await self._remember(exchange, keeping)
        except Exception as error:
            self._on_error("an exchange could not be kept", error)
        finally:
            self.pending -= 1
            self._let_go(exchange, keeping)

    def _let_go(self, exchange: Exchange, keeping: Keeping) -> None:
        self._epochs.release(keeping.lease)
        exchange.kept.set()

    async def _record(self, exchange: Exchange, keeping: Keeping) -> None:
        assert exchange.outcome is not None
        verdict, transcript = exchange.outcome.verdict, keeping.transcript
        answer = await self._read(
            transcript,
            lambda: assemble(
                exchange.dialect,
                transcript.events(),
                interrupted=verdict in _LEFT,
                truncated=transcript.truncated,
            ),
        )
        exchange.record = record = Record(
            id=exchange.id,
            owner=exchange.owner,
            verdict=verdict.value,
            dialect=exchange.dialect.name,
            answer=answer,
            started=keeping.began,
            ended=time.time(),
        )
        if self._recorder is not None:
            failed = functools.partial(self._on_error, "a record could not be written")
            await record_shielded(self._recorder, record, keeping.lease, on_error=failed)

    async def _remember(self, exchange: Exchange, keeping: Keeping) -> None:
        request = None if keeping.sent is None else RequestBody.parse(keeping.sent)
        if request is None or self._history is None:
            return
        assert exchange.outcome is not None
        transcript, calls = keeping.transcript, exchange.outcome.calls
        data = await self._read(
            transcript, lambda: _completed(transcript) if exchange.streamed else _whole(transcript, calls[-1].head)
        )
        response = None if data is None else CompleteResponse.of(request, data)
        if response is not None:
            await self._history.store(exchange.owner or "", response)

    async def _read(self, transcript: Transcript, read: Callable[[], T]) -> T:
        if transcript.size <= SMALL:
            return read()
        return await trio.to_thread.run_sync(read, limiter=self._threads)


def _whole(transcript: Transcript, head: Head) -> bytes | None:
    """An answer that is no stream, of which clients get the bytes that came; None if it was not kept."""
    return None if transcript.truncated else decoded(head, transcript.windows()[0])


def _completed(transcript: Transcript) -> bytes | None:
    """What says that a response is complete, and what it is; None if it was not kept."""
    found = None
    for event in transcript.events():
        if event.type == _COMPLETED or (event.type == MESSAGE and _COMPLETED in event.data[:64]):
            found = event.data
    return found
