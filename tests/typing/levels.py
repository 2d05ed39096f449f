"""What mypy must say about levels.

Nothing here is run. Each `type: ignore` is an error that mypy has to find: it is told to complain of those it does not
need.
"""

from __future__ import annotations

from typing import assert_type

from sseflow import Chain, Event, Events, Lines, Observe, Pipeline, Stage, by_event, by_line
from sseflow.dialects import PlainSSE
from sseflow.stages import CommentStripper, EofRecorder, Tee, Watch
from sseflow.testing import check_stage


class OfLines(Stage[Lines]):
    def feed(self, batch: Lines, /) -> Lines:
        return batch

    def size(self) -> int:
        return 0


class OfEvents(Stage[Events]):
    def feed(self, batch: list[Event], /) -> list[Event]:
        return batch


# Levels that fit.
Pipeline(Tee(), by_line(OfLines(), by_event(OfEvents())), Tee())
Pipeline(by_line(Observe(by_event(Watch(PlainSSE()))), Chain(OfLines(), CommentStripper())))
assert_type(by_line(OfLines()), Stage[bytes])
assert_type(by_event(OfEvents()), Stage[Lines])
assert_type(Chain(OfLines(), CommentStripper()), Chain[Lines])
assert_type(Observe(OfEvents()), Observe[Events])
assert_type(EofRecorder[bytes]().feed(b""), bytes)
check_stage(OfLines, [b""], level="lines", facts=OfLines.size)
check_stage(Tee, [b""], facts=lambda tee: tee.size)

# Levels that do not.
Pipeline(OfLines())  # type: ignore[arg-type]
Pipeline(by_event(OfEvents()))  # type: ignore[arg-type]
Pipeline(by_line(OfLines()), OfEvents())  # type: ignore[arg-type]
by_line(Tee())  # type: ignore[arg-type]
by_line(OfEvents())  # type: ignore[arg-type]
by_line(by_line(OfLines()))  # type: ignore[arg-type]
by_event(OfLines())  # type: ignore[arg-type]
by_event(by_event(OfEvents()))  # type: ignore[arg-type]
by_line(Chain(OfEvents()))  # type: ignore[arg-type]
by_line(Observe(OfEvents()))  # type: ignore[arg-type]
Pipeline(Observe(Watch(PlainSSE())))  # type: ignore[arg-type]
check_stage(OfLines, [b""], level="lines", facts=Tee.copy)  # type: ignore[call-overload]
check_stage(OfLines, [b""])  # type: ignore[type-var]
check_stage(OfEvents, [b""], level="lines")  # type: ignore[call-overload]


class WrongBatch(Stage[Lines]):
    def feed(self, batch: bytes, /) -> bytes:  # type: ignore[override]
        return batch
