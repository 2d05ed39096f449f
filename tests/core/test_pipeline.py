"""Pipeline: the sans-IO driver."""

from __future__ import annotations

import pytest

from sseflow import Cut, End, Eof, Failed, Head, HeldTooMuch, Pipeline, Stage, by_line
from sseflow.stages import EofRecorder, ErrorMapper

from .strategies import ENDS, HEAD, LOST

ERROR = ValueError("broken")


class Gate(Stage[bytes]):
    """Hold the head until a ``!`` comes, or `is_open` is set."""

    is_open = False

    def head(self, head: Head, /) -> Head | None:
        return head if self.is_open else None

    def feed(self, batch: bytes, /) -> bytes:
        self.is_open = self.is_open or b"!" in batch
        return batch


class Lie(Stage[bytes]):
    """Return what is of no type that anybody expects."""

    def __init__(self, value: object, *, at: str) -> None:
        self._value = value
        self._at = at

    def head(self, head: Head, /) -> Head | None:
        return self._value if self._at == "head" else head  # type: ignore[return-value]

    def feed(self, batch: bytes, /) -> bytes:
        if self._at == "cut":
            raise Cut(self._value, ERROR)
        return self._value if self._at == "feed" else batch  # type: ignore[return-value]

    def end(self, end: End, /) -> tuple[bytes | None, End]:
        return (self._value if self._at == "end" else None), end  # type: ignore[return-value]


def test_a_stream_without_stages() -> None:
    """Head, bytes and ending come out at once, as the same objects."""
    pipeline = Pipeline()
    data = b"some data"
    assert pipeline.head(HEAD) == [HEAD]
    (out,) = pipeline.feed(data)
    assert out is data
    assert pipeline.end(LOST) == [LOST]
    assert pipeline.committed
    assert pipeline.ending is LOST


def test_a_stream_without_a_head() -> None:
    """Bytes and an ending are a stream, too; nothing is committed by them."""
    pipeline = Pipeline()
    assert pipeline.feed(b"x") == [b"x"]
    assert pipeline.end(Eof()) == [Eof()]
    assert not pipeline.committed


def test_an_ending_alone() -> None:
    """A stream may be nothing but its ending."""
    pipeline = Pipeline()
    assert pipeline.ending is None
    assert pipeline.end(Eof()) == [Eof()]
    assert pipeline.ending == Eof()


def test_at_most_one_head() -> None:
    """A second head, or one behind bytes or behind the ending, is a bug of the caller."""
    second, late, ended = Pipeline(), Pipeline(), Pipeline()
    second.head(HEAD)
    late.feed(b"x")
    ended.end(Eof())
    for pipeline in (second, late, ended):
        with pytest.raises(RuntimeError, match="at most one head"):
            pipeline.head(HEAD)


def test_nothing_was_fed_before_the_head() -> None:
    """An empty feed is no byte: it asks for a head that has not come, and one may come behind it."""
    pipeline = Pipeline()
    assert pipeline.feed(b"") == []
    assert pipeline.head(HEAD) == [HEAD]


def test_the_first_ending_counts() -> None:
    """Later endings return nothing, whatever they are; to feed behind the ending is a bug of the caller."""
    recorder = EofRecorder[bytes]()
    pipeline = Pipeline(recorder)
    assert pipeline.end(LOST) == [LOST]
    assert pipeline.end(Eof()) == []
    assert recorder.ending == LOST
    with pytest.raises(RuntimeError, match="behind its ending"):
        pipeline.feed(b"x")


def test_a_stage_that_ends_the_stream_from_within() -> None:
    """What a stage does to its own pipeline while it is ended starts no second ending."""

    class Again(Stage[bytes]):
        inner: object = None

        def end(self, end: End, /) -> tuple[bytes | None, End]:
            self.inner = pipeline.end(Eof())
            return None, end

    again = Again()
    pipeline = Pipeline(again)
    assert pipeline.end(LOST) == [LOST]
    assert again.inner == []


def test_a_held_head_leaves_with_what_it_held() -> None:
    """Behind a held head bytes wait, and leave joined, behind it, when the stage agrees."""
    pipeline = Pipeline(Gate())
    assert pipeline.head(HEAD) == []
    assert pipeline.feed(b"a") == []
    assert pipeline.feed(b"b") == []
    before = pipeline.committed
    assert pipeline.feed(b"c!") == [HEAD, b"abc!"]
    assert (before, pipeline.committed) == (False, True)
    assert pipeline.feed(b"d") == [b"d"]
    assert pipeline.end(LOST) == [LOST]


def test_an_empty_feed_asks_again() -> None:
    """``feed(b"")`` asks the stages for the head, is shown to none of them, and is never an EOF."""
    gate = Gate()
    pipeline = Pipeline(gate)
    pipeline.head(HEAD)
    assert pipeline.feed(b"") == []
    gate.is_open = True
    assert pipeline.feed(b"") == [HEAD]
    assert pipeline.feed(b"") == []
    assert pipeline.end(Eof()) == [Eof()]


def test_one_chunk_behind_a_held_head_is_not_copied() -> None:
    """A chunk that waited alone comes out as the same object."""
    pipeline = Pipeline(Gate())
    pipeline.head(HEAD)
    data = b"some data!"
    assert pipeline.feed(data)[1] is data


@pytest.mark.parametrize("end", ENDS, ids=lambda end: type(end).__name__)
def test_a_head_held_until_the_ending(end: End) -> None:
    """It leaves with what it held behind a clean end, and behind no other."""
    pipeline = Pipeline(Gate())
    pipeline.head(HEAD)
    pipeline.feed(b"x")
    assert pipeline.end(end) == ([HEAD, b"x", end] if end == Eof() else [end])
    assert pipeline.committed == (end == Eof())


@pytest.mark.parametrize("at", ["before", "behind"])
def test_a_failure_made_of_a_clean_end_drops_the_head(at: str) -> None:
    """It is the ending after all stages that counts, wherever the gate stands."""

    class Fail(Stage[bytes]):
        def end(self, end: End, /) -> tuple[bytes | None, End]:
            return b"last", Failed(ERROR)

    stages: list[Stage[bytes]] = [Fail(), Gate()] if at == "before" else [Gate(), Fail()]
    pipeline = Pipeline(*stages)
    pipeline.head(HEAD)
    assert pipeline.feed(b"x") == []
    assert pipeline.end(Eof()) == [Failed(ERROR)]


def test_a_held_head_leaves_as_all_stages_see_it() -> None:
    """At a clean end, the stages behind one that said "not yet" still change the head."""

    class Change(Stage[bytes]):
        def head(self, head: Head, /) -> Head:
            return head.without(b"content-type")

    class Last(Stage[bytes]):
        def end(self, end: End, /) -> tuple[bytes | None, End]:
            return b"last", end

    pipeline = Pipeline(Gate(), Change(), Last())
    assert pipeline.head(HEAD) == []
    assert pipeline.end(Eof()) == [Head(200), b"last", Eof()]


def test_a_stage_that_raises_at_the_head() -> None:
    """A stage that raises when it is asked ends the stream, whenever that is, and nothing but the failure comes out."""

    class Bad(Stage[bytes]):
        asked = 0

        def __init__(self, at: int) -> None:
            self._at = at

        def head(self, head: Head, /) -> Head | None:
            self.asked += 1
            if self.asked > self._at:
                raise ERROR
            return None

    at_once, later, at_the_end = Pipeline(Bad(0)), Pipeline(Bad(1)), Pipeline(Bad(2))
    assert at_once.head(HEAD) == [Failed(ERROR)]
    assert later.head(HEAD) == []
    assert later.feed(b"x") == [Failed(ERROR)]
    assert at_the_end.head(HEAD) == []
    assert at_the_end.feed(b"x") == []
    assert at_the_end.end(Eof()) == [Failed(ERROR)]
    assert at_the_end.ending == Failed(ERROR)


def test_a_stage_that_raises() -> None:
    """Its error is the ending, after all stages; the ending of the source does not count any more."""
    other = KeyError()

    class Bad(Stage[bytes]):
        def feed(self, batch: bytes, /) -> bytes:
            raise ERROR

    pipeline = Pipeline(Bad(), ErrorMapper(lambda error: other))
    pipeline.head(HEAD)
    assert pipeline.feed(b"x") == [Failed(other)]
    assert pipeline.end(Eof()) == []


def test_what_came_before_a_fault_goes_out() -> None:
    """The bytes of a `Cut` leave before the failure, and may open a gate."""

    class Bad(Stage[bytes]):
        def feed(self, batch: bytes, /) -> bytes:
            raise Cut(batch[:2], ERROR)

    pipeline, gated = Pipeline(Bad()), Pipeline(Bad(), Gate())
    assert pipeline.feed(b"abc") == [b"ab", Failed(ERROR)]
    gated.head(HEAD)
    assert gated.feed(b"a!bc") == [HEAD, b"a!", Failed(ERROR)]


def test_a_fault_behind_a_shut_gate_lets_out_nothing() -> None:
    """Not even what came before it."""

    class Bad(Stage[bytes]):
        def feed(self, batch: bytes, /) -> bytes:
            raise Cut(batch[:2], ERROR)

    pipeline = Pipeline(Bad(), Gate())
    pipeline.head(HEAD)
    assert pipeline.feed(b"abc") == [Failed(ERROR)]
    assert not pipeline.committed


@pytest.mark.parametrize(
    "value", [5, "text", [b"x"], bytearray(b"x"), object()], ids=lambda value: type(value).__name__
)
@pytest.mark.parametrize("at", ["head", "feed", "end"])
@pytest.mark.parametrize("has_head", [True, False], ids=["head", "no-head"])
def test_lies_never_come_out(value: object, at: str, has_head: bool) -> None:
    """What is no head, no bytes, is a failure that says what came."""
    pipeline = Pipeline(Lie(value, at=at))
    items = pipeline.head(HEAD) if has_head else []
    if pipeline.ending is None:
        items += pipeline.feed(b"x")
    items += pipeline.end(Eof())
    if at == "head" and not has_head:
        assert items == [b"x", Eof()]
        return
    *before, ending = items
    assert before == ([HEAD] * (has_head and at != "head") + [b"x"] * (at == "end"))
    assert isinstance(ending, Failed)
    assert isinstance(ending.error, TypeError)
    assert type(value).__name__ in str(ending.error)


def test_a_lie_about_what_came_before_a_fault() -> None:
    """It is dropped; the fault is what counts."""
    assert Pipeline(Lie("text", at="cut")).feed(b"x") == [Failed(ERROR)]


def test_a_lie_behind_a_held_head() -> None:
    """A last batch that is none fails the stream, also where a clean end would have let the head go."""
    pipeline = Pipeline(Lie("text", at="end"), Gate())
    pipeline.head(HEAD)
    (ending,) = pipeline.end(Eof())
    assert isinstance(ending, Failed)


@pytest.mark.parametrize("chunks", [[b"1234"], [b"12", b"34"], [b"1", b"2", b"3", b"4"]], ids=len)
def test_max_held(chunks: list[bytes]) -> None:
    """Exactly ``max_held`` bytes are held; one more is `HeldTooMuch`, with limit, knob and what was seen."""
    enough, too_much = Pipeline(Gate(), max_held=4), Pipeline(Gate(), max_held=3)
    enough.head(HEAD)
    too_much.head(HEAD)
    assert [item for chunk in chunks for item in enough.feed(chunk)] == []
    *_, ending = [item for chunk in chunks for item in too_much.feed(chunk)]
    assert isinstance(ending, Failed)
    assert isinstance(ending.error, HeldTooMuch)
    assert (ending.error.limit, ending.error.knob, ending.error.seen) == (3, "max_held", 4)
    assert enough.end(Eof()) == [HEAD, b"1234", Eof()]


def test_a_head_that_leaves_in_time_is_not_held_too_long() -> None:
    """What opens the gate does not count as held: it goes."""
    pipeline = Pipeline(Gate(), max_held=3)
    pipeline.head(HEAD)
    assert pipeline.feed(b"12345!") == [HEAD, b"12345!"]


def test_a_fault_in_what_is_too_much() -> None:
    """One ending comes out of a call that meets two reasons for one."""

    class Bad(Stage[bytes]):
        def feed(self, batch: bytes, /) -> bytes:
            raise Cut(batch, ERROR)

    pipeline = Pipeline(Bad(), Gate(), max_held=3)
    pipeline.head(HEAD)
    (ending,) = pipeline.feed(b"12345")
    assert isinstance(ending, Failed)
    assert isinstance(ending.error, HeldTooMuch)


def test_lines_in_a_pipeline() -> None:
    """An unfinished line waits in the pipeline, and leaves at the ending, whatever it is."""
    for end in ENDS:
        pipeline = Pipeline(by_line())
        assert pipeline.feed(b"a\nb") == [b"a\n"]
        assert pipeline.end(end) == [b"b", end]
