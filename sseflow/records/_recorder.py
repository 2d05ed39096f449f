"""What is kept of an answer, and how it is written whatever happens to whoever asked for it."""

from __future__ import annotations

import contextlib
import json
from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol

import attrs
import trio

from .. import TooLong
from ..dialects import Assembled
from ._lease import Epochs, Lease

DEFAULT_RECORD_TIMEOUT = 5.0
"""Seconds to write a record. Whoever waits for it has been cancelled, as likely as not."""

DEFAULT_MAX_RECORDS = 1000
"""Of a `MemoryRecorder`."""

DEFAULT_MAX_BYTES = 16 * 1024 * 1024
"""Of a `MemoryRecorder`."""


@attrs.frozen(kw_only=True)
class Record:
    """What became of one answer: of the same shape, whether it is whole or was cut anywhere."""

    id: str
    owner: str | None = attrs.field(default=None, repr=False)
    verdict: str
    """One word: ``complete``, ``interrupted``, ..."""

    dialect: str
    """The name of the dialect."""

    answer: Assembled = attrs.field(repr=False)
    """What was produced."""

    started: float
    """When, in seconds of Unix time."""

    ended: float
    """When, in seconds of Unix time. Of an answer that was interrupted, when its tools were given up, too."""

    @property
    def model(self) -> str | None:
        """The model that answered, as the upstream calls it."""
        return self.answer.model

    @property
    def usage(self) -> Mapping[str, object] | None:
        """What it cost, as far as the upstream told."""
        return self.answer.usage

    @property
    def empty(self) -> bool:
        """Whether there is nothing to write: nothing was produced, and nothing is known to have been paid for."""
        return self.answer.empty and not self.usage


class Recorder(Protocol):
    """Where records are written."""

    async def record(self, record: Record, lease: Lease) -> None:
        """Write a record, all of it or nothing.

        `Epochs.check`, or whatever decides in its place, is called in the same step, or the same transaction, as the
        write.

        Raises:
            StaleLease: a newer lease was taken; nothing was written.
        """


class RecordTooLong(TooLong):
    """A record is longer than all that a `MemoryRecorder` keeps."""

    knob = "max_bytes"
    what = "a record"


class MemoryRecorder:
    """Keeps records in memory, for tests and small gateways. The oldest go when there are too many.

    Args:
        epochs: whose leases count.
        max_records: records to keep, 1,000 by default.
        max_bytes: bytes of all answers as JSON, 16 MiB by default. A record that is longer is refused with
            `RecordTooLong`.
    """

    def __init__(
        self, epochs: Epochs, *, max_records: int = DEFAULT_MAX_RECORDS, max_bytes: int = DEFAULT_MAX_BYTES
    ) -> None:
        if max_records < 1 or max_bytes < 1:
            raise ValueError(f"max_records={max_records}, max_bytes={max_bytes}: must be at least 1")
        self._epochs = epochs
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._kept: deque[tuple[Record, int]] = deque()
        self._size = 0

    @property
    def records(self) -> list[Record]:
        """What is kept, oldest first."""
        return [record for record, _ in self._kept]

    async def record(self, record: Record, lease: Lease) -> None:
        """Keep a record. Raises `StaleLease`, `RecordTooLong`."""
        await trio.lowlevel.checkpoint()
        size = _size(record)
        if size > self._max_bytes:
            raise RecordTooLong(self._max_bytes, size)
        self._epochs.check(lease)
        self._kept.append((record, size))
        self._size += size
        while len(self._kept) > self._max_records or self._size > self._max_bytes:
            self._size -= self._kept.popleft()[1]


def _size(record: Record) -> int:
    answer = record.answer
    return len(json.dumps(answer.text if answer.body is None else answer.body))


async def record_shielded(
    recorder: Recorder,
    record: Record,
    lease: Lease,
    *,
    timeout: float = DEFAULT_RECORD_TIMEOUT,  # noqa: ASYNC109 - it shields as well, which no caller could do from outside
    on_error: Callable[[Exception], object],
) -> None:
    """Write a record, also when whoever calls this is being cancelled; but no longer than ``timeout``.

    Nothing comes out of it but the caller's cancellation, when the writing is over. An empty record is not written.

    Args:
        timeout: seconds that the recorder may take, 5 by default.
        on_error: called with what the recorder raised, such as `StaleLease`, or with `trio.TooSlowError`.
    """
    if not record.empty:
        try:
            with trio.fail_after(timeout, shield=True):
                await recorder.record(record, lease)
        except Exception as error:
            with contextlib.suppress(Exception):
                on_error(error)
    await trio.lowlevel.checkpoint()
