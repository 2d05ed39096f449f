"""sseflow.testing.check_stage: it passes good stages, and finds the fault of each bad one."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest

from sseflow import Cancelled, Cut, End, Eof, Event, Events, Failed, Head, Lines, Stage
from sseflow.testing import check_stage

SAMPLES = [b"data: a\n\n: c\ndata: b\n\n", b"data: a\r\n\r\n: c\r\n", b"data: a\r\rdata: b", b""]


class Good(Stage[Lines]):
    """Drop comments; count."""

    def __init__(self) -> None:
        self.lines = 0

    def feed(self, batch: Lines, /) -> Lines:
        self.lines += len(batch)
        kept = [line for line in batch if not line.startswith(b":")]
        return kept if len(kept) < len(batch) else batch


def test_good_stages_pass() -> None:
    """At each level a stage that owes nothing passes."""
    check_stage(Good, SAMPLES, level="lines", facts=lambda stage: stage.lines)
    check_stage(Stage[bytes], [*SAMPLES, b"x" * 70])
    check_stage(Stage[Events], SAMPLES, level="events", whole=100)

    class Upper(Stage[Events]):
        def feed(self, batch: Events, /) -> Events:
            return [attrs.evolve(event, data=event.data.upper()) for event in batch]

    check_stage(Upper, SAMPLES, level="events")

    class Fail(Stage[Lines]):
        """Fail at a comment, as one should."""

        def feed(self, batch: Lines, /) -> Lines:
            for i, line in enumerate(batch):
                if line.startswith(b":"):
                    raise Cut(batch[:i], ValueError(line))
            return batch

    check_stage(Fail, SAMPLES, level="lines")


class Copy(Stage[bytes]):
    def feed(self, batch: bytes, /) -> bytes:
        return bytes(bytearray(batch))


class Swap(Stage[bytes]):
    def feed(self, batch: bytes, /) -> bytes:
        return batch.replace(b"\r\n", b"\n")


class Forget(Stage[bytes]):
    """Forget the tail unless the end is clean, in chunks."""

    def __init__(self) -> None:
        self._last = b""

    def feed(self, batch: bytes, /) -> bytes:
        out, self._last = self._last, batch
        return out

    def end(self, end: End, /) -> tuple[bytes | None, End]:
        return (None if isinstance(end, Failed) else self._last), end


class CountBatches(Good):
    def feed(self, batch: Lines, /) -> Lines:
        self.lines += 1
        return batch


class FailLate(Stage[bytes]):
    """Whether it fails depends on the cuts."""

    def __init__(self) -> None:
        self._fed = 0

    def feed(self, batch: bytes, /) -> bytes:
        self._fed += 1
        return batch

    def end(self, end: End, /) -> tuple[bytes | None, End]:
        return None, Failed(ValueError()) if self._fed > 1 else end


class Gate(Stage[bytes]):
    """Changes the head by how many chunks came before it left."""

    def __init__(self) -> None:
        self._fed = self._size = 0

    def feed(self, batch: bytes, /) -> bytes:
        self._fed += 1
        self._size += len(batch)
        return batch

    def head(self, head: Head, /) -> Head | None:
        return Head(200 + self._fed) if self._size > 5 else None


class Impure(Stage[bytes]):
    def __init__(self) -> None:
        self._asked = 0

    def head(self, head: Head, /) -> Head:
        self._asked += 1
        return Head(head.status + self._asked)


class ImpureLater(Gate):
    """Gives the head away once."""

    _given = False

    def head(self, head: Head, /) -> Head | None:
        if self._given or not self._fed:
            return None
        self._given = True
        return head


class InPlace(Stage[Lines]):
    def feed(self, batch: Lines, /) -> Lines:
        batch[:] = [line for line in batch if not line.startswith(b":")]
        return batch


class WrongLevel(Stage[Lines]):
    def feed(self, batch: Lines, /) -> Lines:
        return b"".join(batch)  # type: ignore[return-value]


class EmptyLines(Stage[Lines]):
    def feed(self, batch: Lines, /) -> Lines:
        return [b"" if line.startswith(b":") else line for line in batch]


class NoEvents(Stage[Events]):
    def feed(self, batch: Events, /) -> Events:
        return [event.encode() for event in batch]  # type: ignore[misc]


class NoBytes(Stage[bytes]):
    def feed(self, batch: bytes, /) -> bytes:
        return bytearray(batch)  # type: ignore[return-value]


class ForgetLF(Stage[Lines]):
    """Holds a line back, and forgets that its LF may come later."""

    def __init__(self) -> None:
        self._held: Lines = []

    def feed(self, batch: Lines, /) -> Lines:
        out, self._held = self._held, batch
        return out

    def end(self, end: End, /) -> tuple[Lines | None, End]:
        return self._held, end


class RaiseAtEnd(Stage[bytes]):
    def end(self, end: End, /) -> tuple[bytes | None, End]:
        if isinstance(end, Cancelled):
            raise KeyError("no")
        return None, end


class NoTuple(Stage[bytes]):
    def end(self, end: End, /) -> tuple[bytes | None, End]:
        return end  # type: ignore[return-value]


class Hide(Stage[bytes]):
    def end(self, end: End, /) -> tuple[bytes | None, End]:
        return None, Eof()


@pytest.mark.parametrize(
    ("check", "message"),
    [
        pytest.param(lambda: check_stage(Copy, SAMPLES), "same object", id="copy"),
        pytest.param(lambda: check_stage(Swap, SAMPLES), "another bytes", id="cut-crlf"),
        pytest.param(lambda: check_stage(Forget, SAMPLES), "another bytes", id="tail"),
        pytest.param(lambda: check_stage(FailLate, SAMPLES), "another ending", id="ending"),
        pytest.param(lambda: check_stage(Gate, SAMPLES), "another head", id="head"),
        pytest.param(
            lambda: check_stage(CountBatches, SAMPLES, level="lines", facts=lambda stage: stage.lines),
            "another facts",
            id="facts",
        ),
        pytest.param(lambda: check_stage(Impure, SAMPLES), "head must be pure", id="impure"),
        pytest.param(lambda: check_stage(ImpureLater, SAMPLES), "head must be pure", id="impure-later"),
        pytest.param(lambda: check_stage(InPlace, SAMPLES, level="lines"), "change its batch in place", id="in-place"),
        pytest.param(lambda: check_stage(WrongLevel, SAMPLES, level="lines"), "a batch of lines", id="wrong-level"),
        pytest.param(lambda: check_stage(EmptyLines, SAMPLES, level="lines"), "a batch of lines", id="empty-lines"),
        pytest.param(lambda: check_stage(NoEvents, SAMPLES, level="events"), "a batch of events", id="no-events"),
        pytest.param(lambda: check_stage(NoBytes, SAMPLES), "a batch of bytes", id="no-bytes"),
        pytest.param(lambda: check_stage(ForgetLF, SAMPLES, level="lines"), "another bytes", id="lf-behind-cr"),
        pytest.param(lambda: check_stage(RaiseAtEnd, SAMPLES), "KeyError", id="end-raises"),
        pytest.param(lambda: check_stage(NoTuple, SAMPLES), "a last batch and an ending", id="no-tuple"),
        pytest.param(lambda: check_stage(Hide, SAMPLES), "must not look complete", id="hide"),
        pytest.param(lambda: check_stage(lambda stage=Good(): stage, SAMPLES, level="lines"), "new stage", id="reuse"),  # type: ignore[call-overload]  # noqa: B008
    ],
)
def test_bad_stages_are_found(check: Callable[[], None], message: str) -> None:
    """Each fault is named."""
    with pytest.raises(AssertionError, match=message):
        check()


def test_the_message_is_a_transcript() -> None:
    """It shows what went in and what came out, for both ways of cutting; long values are shortened."""
    with pytest.raises(AssertionError) as caught:
        check_stage(Swap, [b"a\r\n" + b"x" * 300])
    message = str(caught.value)
    assert "cuts must not matter: another bytes\none way:\n" in message
    assert "  head(Head(status=200" in message
    assert "  feed(b'a\\r') -> [b'a\\r']\n  feed(b'\\nx" in message
    assert "  end(Eof()) -> [Eof()]\n  bytes: b'a\\r\\nxxx" in message
    assert " more..." in message
    assert max(map(len, message.splitlines())) < 500


def test_events_of_a_subclass_are_events() -> None:
    """A stage may give back events of a class of its own."""

    class Mine(Event):
        pass

    class Make(Stage[Events]):
        def feed(self, batch: Events, /) -> Events:
            return [Mine(event.data) for event in batch]

    check_stage(Make, SAMPLES, level="events")
