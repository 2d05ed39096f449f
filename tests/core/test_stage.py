"""Stage, Chain and Observe."""

from __future__ import annotations

import attrs
import pytest

from sseflow import (
    Cancelled,
    Chain,
    Closed,
    Cut,
    End,
    Eof,
    Failed,
    Head,
    Lines,
    Observe,
    Pipeline,
    Stage,
    by_line,
)

from .strategies import ENDS, HEAD, LOST, run


class Keep(Stage[bytes]):
    """Keep what comes; give it back at the ending."""

    def __init__(self) -> None:
        self.kept = b""
        self.ends: list[End] = []

    def feed(self, batch: bytes, /) -> bytes:
        self.kept += batch
        return b""

    def end(self, end: End, /) -> tuple[bytes | None, End]:
        self.ends.append(end)
        return self.kept, end


class Mark(Stage[bytes]):
    """Put a mark behind every batch, and note what came."""

    def __init__(self, mark: bytes) -> None:
        self._mark = mark
        self.seen: list[bytes | End] = []

    def feed(self, batch: bytes, /) -> bytes:
        self.seen.append(batch)
        return batch + self._mark

    def end(self, end: End, /) -> tuple[bytes | None, End]:
        self.seen.append(end)
        return None, end


class Raise(Stage[bytes]):
    """Raise ``error`` at the first batch; give ``last`` back at the ending."""

    def __init__(self, error: Exception, last: bytes | None = None) -> None:
        self._error = error
        self._last = last
        self.fed = 0

    def feed(self, batch: bytes, /) -> bytes:
        self.fed += 1
        raise self._error

    def end(self, end: End, /) -> tuple[bytes | None, End]:
        return self._last, end


class Ending(Stage[bytes]):
    """End as told."""

    def __init__(self, last: object, end: object) -> None:
        self._result = last, end

    def end(self, end: End, /) -> tuple[bytes | None, End]:
        return self._result  # type: ignore[return-value]


ERROR = ValueError("broken")


def test_a_stage_does_nothing_by_default() -> None:
    """A stage that overrides nothing passes the head, each batch as the same object, and the ending."""
    stage = Stage[bytes]()
    data = b"some data"
    assert stage.head(HEAD) is HEAD
    assert stage.feed(data) is data
    stage.rest(data, True)
    assert stage.end(LOST) == (None, LOST)
    assert stage.needs_whole_lines


def test_chain_runs_in_order() -> None:
    """Each stage sees what the one before it returned; a batch that became empty is not passed on."""
    mark, keep, behind = Mark(b"1"), Keep(), Mark(b"2")
    chain = Chain(mark, keep, behind)
    assert chain.feed(b"a") == b""
    assert (mark.seen, keep.kept, behind.seen) == ([b"a"], b"a1", [])


def test_a_last_batch_goes_through_the_later_stages() -> None:
    """What a stage gives back at the ending goes through the feed of the later stages before they are ended."""
    keep, mark, last = Keep(), Mark(b"!"), Keep()
    chain = Chain(keep, mark, last)
    chain.feed(b"a")
    chain.feed(b"b")
    assert chain.end(Eof()) == (b"ab!", Eof())
    assert mark.seen == [b"ab", Eof()]
    assert last.kept == b"ab!"


def test_last_batches_are_joined_in_order() -> None:
    """What comes from an earlier stage at the ending stands before a stage's own last batch."""
    assert Chain(Ending(b"a", Eof()), Ending(b"b", Eof()), Ending(b"c", Eof())).end(Eof()) == (b"abc", Eof())


def test_chains_are_flattened() -> None:
    """A chain in a chain is no other level: its stages take its place."""
    a, b, c = Mark(b"a"), Mark(b"b"), Mark(b"c")
    assert Chain(a, Chain(b, Chain(c)), Chain[bytes]()).stages == (a, b, c)


def test_a_subclass_of_a_chain_stays_itself() -> None:
    """A chain with behaviour of its own is kept as one stage, in which long lines work as in any."""

    class Mine(Chain[Lines]):
        pass

    class Spy(Stage[Lines]):
        needs_whole_lines = False

        def __init__(self) -> None:
            self.seen: list[bytes] = []

        def feed(self, batch: Lines, /) -> Lines:
            self.seen += batch
            return batch

        def rest(self, piece: bytes, last: bool, /) -> None:
            self.seen.append(piece)

    spy = Spy()
    mine = Mine(spy)
    assert Chain(mine).stages == (mine,)
    assert not mine.needs_whole_lines
    assert run(by_line(mine, whole=64), chunks=[b"x" * 70, b"y\r", b"\n"]) == (b"x" * 70 + b"y\r\n", Eof())
    assert spy.seen == [b"x" * 64, b"x" * 6, b"y\r", b"\n"]


def test_a_stage_stands_in_a_chain_once() -> None:
    """The same stage at two places would be ended twice; it is refused. Equal ones that are two are not."""
    stage = Mark(b"")
    with pytest.raises(ValueError, match="twice"):
        Chain(stage, Chain(stage))

    @attrs.define
    class Equal(Stage[bytes]):
        pass

    Chain(Equal(), Equal())


def test_a_stage_without_feed_costs_nothing_per_batch() -> None:
    """Only stages that override feed are called, be it in a class, in a parent or on the instance."""

    class Child(Mark):
        pass

    patched = Stage[bytes]()
    patched.feed = lambda batch: batch + b"p"  # type: ignore[method-assign]
    chain = Chain(Ending(None, Eof()), Child(b"c"), patched)
    assert len(chain._fed) == 2
    assert chain.feed(b"x") == b"xcp"


@pytest.mark.parametrize("end", ENDS, ids=lambda end: type(end).__name__)
@pytest.mark.parametrize(
    ("stage", "error"),
    [
        pytest.param(Ending(b"", ValueError), TypeError, id="no-ending"),
        pytest.param(Ending(b"", None), TypeError, id="none"),
        pytest.param(Ending(b"", Eof), TypeError, id="the-class"),
        pytest.param(Raise(ERROR), None, id="honest"),
    ],
)
def test_lies_about_the_ending(stage: Stage[bytes], error: type[Exception] | None, end: End) -> None:
    """What is no ending is a failure of the stage that returned it."""
    last, after = Chain(stage).end(end)
    assert last is None
    if error is None:
        assert after == end
    else:
        assert isinstance(after, Failed)
        assert isinstance(after.error, error)
        assert type(stage).__name__ in str(after.error)


@pytest.mark.parametrize("end", ENDS, ids=lambda end: type(end).__name__)
def test_nobody_makes_a_clean_end_of_another(end: End) -> None:
    """A stage that returns Eof for another ending is overruled; its last batch is kept, later stages are not misled."""
    behind = Mark(b"")
    assert Chain(Ending(b"last", Eof()), behind).end(end) == (b"last", end)
    assert behind.seen == [b"last", end]


@pytest.mark.parametrize("after", [Failed(ERROR), Closed(), Cancelled()], ids=lambda end: type(end).__name__)
def test_a_stage_may_make_another_ending_of_a_clean_one(after: End) -> None:
    """A stage may say what a clean end means, and later stages are told."""
    behind = Mark(b"")
    assert Chain(Ending(None, after), behind).end(Eof()) == (None, after)
    assert behind.seen == [after]


@pytest.mark.parametrize("fault", ["raise", "cut", "no tuple"])
def test_ending_has_no_early_exit(fault: str) -> None:
    """A stage that raises while it is ended turns the ending into a failure; all later stages are ended with it."""

    class Bad(Stage[bytes]):
        def end(self, end: End, /) -> tuple[bytes | None, End]:
            if fault == "no tuple":
                return 5  # type: ignore[return-value]
            raise Cut(b"part", ERROR) if fault == "cut" else ERROR

    before, behind = Keep(), Mark(b"!")
    chain = Chain(before, Bad(), behind)
    chain.feed(b"x")
    batch, end = chain.end(Eof())
    assert isinstance(end, Failed)
    assert behind.seen == ([b"xpart", end] if fault == "cut" else [b"x", end])
    assert batch == (b"xpart!" if fault == "cut" else b"x!")
    assert before.ends == [Eof()]
    assert end.error is ERROR or fault == "no tuple"


def test_a_stage_that_raised_is_ended_but_not_fed_again() -> None:
    """Behind a fault nothing that came before it goes on, but every stage is ended, and the faulty one may speak."""
    before, bad, behind = Keep(), Raise(ERROR, b"sorry"), Mark(b"!")
    before.feed = lambda batch: batch  # type: ignore[method-assign]
    chain = Chain(before, bad, behind)
    with pytest.raises(ValueError, match="broken"):
        chain.feed(b"x")
    before.kept = b"held"
    assert chain.feed(b"more") == b""
    assert chain.end(Failed(ERROR)) == (b"sorry!", Failed(ERROR))
    assert bad.fed == 1
    assert behind.seen == [b"sorry", Failed(ERROR)]


def test_a_last_batch_that_makes_a_stage_fail() -> None:
    """A stage that raises at the last batch of the stages before it is ended with that failure."""
    keep, bad, behind = Keep(), Raise(ERROR), Mark(b"!")
    keep.kept = b"held"
    assert Chain(keep, bad, behind).end(Eof()) == (None, Failed(ERROR))
    keep.ends.clear()
    assert Chain(keep, Raise(Cut(b"he", ERROR), b"sorry"), Mark(b"!")).end(Eof()) == (b"hesorry!", Failed(ERROR))
    assert behind.seen == [Failed(ERROR)]


def test_cut_lets_out_what_came_before_the_fault() -> None:
    """What a `Cut` carries goes through the later stages, and leaves before the failure."""
    mark = Mark(b"!")
    chain = Chain(Raise(Cut(b"good", ERROR)), mark)
    with pytest.raises(Cut) as caught:
        chain.feed(b"good bad")
    assert (caught.value.batch, caught.value.error) == (b"good!", ERROR)
    assert run(Raise(Cut(b"good", ERROR)), Mark(b"!"), chunks=[b"good bad"]) == (b"good!", Failed(ERROR))


def test_cut_with_nothing_before_the_fault() -> None:
    """An empty `Cut` is shown to no later stage."""
    mark = Mark(b"!")
    assert run(Raise(Cut(b"", ERROR)), mark, chunks=[b"bad"]) == (b"", Failed(ERROR))
    assert mark.seen == [Failed(ERROR)]


def test_a_later_stage_fails_at_what_came_before_the_fault() -> None:
    """The fault that stands earlier in the stream counts; what it let out goes through all stages behind it; neither
    of the two stages is fed again."""
    earlier = KeyError("earlier")
    keep = Keep()
    keep.feed = lambda batch: batch  # type: ignore[method-assign]
    first, second, mark = Raise(Cut(b"good", ERROR)), Raise(Cut(b"go", earlier)), Mark(b"!")
    chain = Chain(keep, first, second, mark)
    with pytest.raises(Cut) as caught:
        chain.feed(b"good bad")
    assert (caught.value.batch, caught.value.error) == (b"go!", earlier)
    keep.kept = b"held"
    assert chain.end(Failed(earlier)) == (None, Failed(earlier))
    assert (first.fed, second.fed, mark.seen) == (1, 1, [b"go", Failed(earlier)])


def test_last_batches_that_cannot_be_joined() -> None:
    """Batches of two types are a failure, and no early exit."""
    behind = Mark(b"")
    _, end = Chain(Ending(b"a", Eof()), Ending([b"b"], Eof()), behind).end(Eof())
    assert isinstance(end, Failed)
    assert isinstance(end.error, TypeError)
    assert behind.seen == [b"a", end]


def test_a_last_batch_that_cannot_be_asked() -> None:
    """A batch that raises when it is asked whether it is empty, as arrays do, is a failure, and no early exit."""

    class Array:
        def __len__(self) -> int:
            raise ValueError("ambiguous")

    behind = Mark(b"")
    _, end = Chain(Ending(Array(), Eof()), behind).end(Eof())
    assert isinstance(end, Failed)
    assert behind.seen == [end]


def test_every_stage_is_asked_for_the_head() -> None:
    """A stage behind one that says "not yet" still sees the head; the head leaves when all agree."""

    class Gate(Stage[bytes]):
        open = False

        def head(self, head: Head, /) -> Head | None:
            return head if self.open else None

    class Change(Stage[bytes]):
        def __init__(self) -> None:
            self.asked = 0

        def head(self, head: Head, /) -> Head:
            self.asked += 1
            return Head(head.status, (*head.headers, (b"x", b"y")))

    gate, change = Gate(), Change()
    chain = Chain(Change(), gate, change)
    assert chain.head(HEAD) is None
    assert change.asked == 1
    gate.open = True
    assert chain.head(HEAD) == Head(200, (*HEAD.headers, (b"x", b"y"), (b"x", b"y")))


# Long lines, and lines whose LF comes later


class Shown(Stage[Lines]):
    """Note what is shown of lines; drop those that begin with ``drop``."""

    needs_whole_lines = False

    def __init__(self, drop: bytes = b"-") -> None:
        self._drop = drop
        self.seen: list[bytes] = []

    def feed(self, batch: Lines, /) -> Lines:
        self.seen += batch
        return [line for line in batch if not line.startswith(self._drop)]

    def rest(self, piece: bytes, last: bool, /) -> None:
        self.seen.append(piece)


LONG = b"x" * 100 + b"\n"
CRLF_CUT = [b"x\r", b"\n"]


@pytest.mark.parametrize(
    ("chunks", "beginning", "rest"),
    [
        pytest.param([LONG], LONG[:64], LONG[64:], id="long"),
        pytest.param(CRLF_CUT, b"x\r", b"\n", id="crlf"),
    ],
)
def test_the_rest_of_a_line_goes_the_way_of_its_beginning(chunks: list[bytes], beginning: bytes, rest: bytes) -> None:
    """The stages up to the one that dropped the line see its rest, that one included; the others see neither."""
    first, dropping, behind = Shown(), Shown(b"x"), Shown()
    assert run(by_line(first, dropping, behind, whole=64), chunks=chunks) == (b"", Eof())
    assert first.seen == dropping.seen == [beginning, rest]
    assert behind.seen == []


def test_equal_stages_are_told_apart() -> None:
    """Which stage dropped a line is a question of identity: two stages may be equal."""

    @attrs.define
    class Equal(Stage[Lines]):
        drop: bytes = attrs.field(eq=False)
        seen: list[bytes] = attrs.field(factory=list, eq=False)

        def feed(self, batch: Lines, /) -> Lines:
            return [line for line in batch if not line.startswith(self.drop)]

        def rest(self, piece: bytes, last: bool, /) -> None:
            self.seen.append(piece)

    stages = [Equal(b"-"), Equal(b"x"), Equal(b"-")]
    assert run(by_line(*stages), chunks=CRLF_CUT) == (b"", Eof())
    assert [stage.seen for stage in stages] == [[b"\n"], [b"\n"], []]


def test_a_line_that_is_made_from_an_open_one_stays_open() -> None:
    """A stage that writes a line anew, as unfinished as it was, gets the LF behind it; one that ends it does not."""

    class Rewrite(Stage[Lines]):
        def __init__(self, end: bytes) -> None:
            self._end = end

        def feed(self, batch: Lines, /) -> Lines:
            return [b"new" + self._end for _ in batch]

    assert run(by_line(Rewrite(b"\r")), chunks=CRLF_CUT) == (b"new\r\n", Eof())
    assert run(by_line(Rewrite(b"\n")), chunks=CRLF_CUT) == (b"new\n", Eof())


def test_a_long_line_that_a_stage_finishes_early() -> None:
    """A stage that gives the beginning of a long line a terminator has dropped its rest."""

    class Shorten(Stage[Lines]):
        needs_whole_lines = False

        def feed(self, batch: Lines, /) -> Lines:
            return [line if line.endswith(b"\n") else line[:3] + b"\n" for line in batch]

    assert run(by_line(Shorten(), whole=64), chunks=[LONG, b"y\n"]) == (b"xxx\ny\n", Eof())


@pytest.mark.parametrize("wrong", [5, "text", [5], ["text"], None], ids=repr)
@pytest.mark.parametrize("chunks", [[LONG], CRLF_CUT, [b"x\r", b"y\n", b"z\n"]], ids=["long", "crlf", "plain"])
def test_lies_about_lines(wrong: object, chunks: list[bytes]) -> None:
    """A stage that returns anything but lines is the one that fails, wherever the line stands."""

    class Lie(Stage[Lines]):
        needs_whole_lines = False

        def feed(self, batch: Lines, /) -> Lines:
            return wrong  # type: ignore[return-value]

    out, end = run(by_line(Shown(), Lie(), whole=64), chunks=chunks)
    assert out == b""
    assert isinstance(end, Failed)
    assert isinstance(end.error, TypeError | AttributeError)


def test_a_stage_that_fails_at_a_long_line() -> None:
    """A `Cut` at the beginning of a long line lets out what it holds, through the later stages."""

    class Fail(Stage[Lines]):
        needs_whole_lines = False

        def feed(self, batch: Lines, /) -> Lines:
            raise Cut([b"part\n"], ERROR)

    behind = Shown()
    assert run(by_line(Shown(), Fail(), behind, whole=64), chunks=[LONG]) == (b"part\n", Failed(ERROR))
    assert behind.seen == [b"part\n"]


def test_a_stage_that_raises_at_the_rest_of_a_line() -> None:
    """It is not fed again, and later stages are not shown that piece."""

    class HoldFirst(Stage[Lines]):
        needs_whole_lines = False
        held = b"held\n"

        def end(self, end: End, /) -> tuple[Lines | None, End]:
            return [self.held], end

    class Bad(Shown):
        def rest(self, piece: bytes, last: bool, /) -> None:
            raise ERROR

    bad, behind = Bad(), Shown()
    out, end = run(by_line(HoldFirst(), bad, behind, whole=64), chunks=[b"x" * 64, b"y"])
    assert end == Failed(ERROR)
    assert out == b"x" * 64 + b"y"
    assert bad.seen == behind.seen == [b"x" * 64]


# Observe


def test_observers_see_and_cannot_touch() -> None:
    """The same object comes out at once; the ending is never changed; each observer is ended."""
    keep = Keep()
    observe = Observe(keep, Ending(b"more", Failed(ERROR)))
    data = b"some data"
    assert observe.feed(data) is data
    assert observe.head(HEAD) is HEAD
    assert observe.end(Eof()) == (None, Eof())
    assert (keep.kept, keep.ends) == (data, [Eof()])


def test_observers_cannot_change_a_list() -> None:
    """A batch of lines is given to observers as a copy."""

    class Clear(Stage[Lines]):
        def feed(self, batch: Lines, /) -> Lines:
            batch.clear()
            return batch

    assert run(by_line(Observe(Clear())), chunks=[b"a\n", b"b\nc\n", b"d"]) == (b"a\nb\nc\nd", Eof())


def test_observers_do_not_hold_the_head() -> None:
    """What observers answer about the head is not asked."""

    class Shut(Stage[bytes]):
        def head(self, head: Head, /) -> None:
            return None

    assert Observe(Shut()).head(HEAD) is HEAD


@pytest.mark.parametrize("where", ["head", "feed", "cut", "open", "rest", "end"])
def test_an_observer_that_raises_is_reported_once(where: str) -> None:
    """Its error goes to on_error, once; nothing is shown to the observers any more, but they are ended."""

    class Bad(Stage[Lines]):
        def __init__(self) -> None:
            self.fed = 0
            self.ended = 0

        def head(self, head: Head, /) -> Head | None:
            if where == "head":
                raise ERROR
            return head

        def feed(self, batch: Lines, /) -> Lines:
            self.fed += 1
            if where == "feed" or (where == "open" and not batch[-1].endswith(b"\n")):
                raise ERROR
            if where == "cut":
                raise Cut([], ERROR)
            return batch

        def rest(self, piece: bytes, last: bool, /) -> None:
            if where == "rest":
                raise ERROR

        def end(self, end: End, /) -> tuple[Lines | None, End]:
            self.ended += 1
            if where == "end":
                raise ERROR
            return None, end

    errors: list[Exception] = []
    bad = Bad()
    pipeline = Pipeline(by_line(Observe(bad, on_error=errors.append), whole=64))
    items = pipeline.head(HEAD)
    for chunk in (b"a\n", b"b\n", b"x" * 80, b"y" * 80, b"\n", b"c\r", b"\nd"):
        items += pipeline.feed(chunk)
    items += pipeline.feed(b"") + pipeline.end(Eof())
    assert items[0] is HEAD
    assert (
        b"".join(item for item in items if isinstance(item, bytes)) == b"a\nb\n" + b"x" * 80 + b"y" * 80 + b"\nc\r\nd"
    )
    assert items[-1] == Eof()
    assert errors == [ERROR]
    assert bad.ended == 1
    assert bad.fed == {"head": 0, "feed": 1, "cut": 1, "open": 3, "rest": 3, "end": 5}[where]


def test_an_observer_that_raises_need_not_be_reported() -> None:
    """Without on_error the error is forgotten; an on_error that raises is forgotten, too."""

    def fail(error: Exception) -> None:
        raise error

    for observe in (Observe(Raise(ERROR)), Observe(Raise(ERROR), on_error=fail)):
        assert observe.feed(b"x") == b"x"
        assert observe.end(Eof()) == (None, Eof())


def test_observers_of_a_failed_stream() -> None:
    """The source's own failure is no error of an observer."""
    errors: list[Exception] = []
    assert Observe(Keep(), on_error=errors.append).end(LOST) == (None, LOST)
    assert errors == []


def test_observe_limit() -> None:
    """A limit that leaves nothing to show is refused, with its value."""
    with pytest.raises(ValueError, match="limit=1"):
        Observe(Keep(), limit=1)
    Observe(Keep(), limit=2)


def test_observers_nest() -> None:
    """An observer in an observer, and observed bytes that are split into lines, see what there is to see."""
    shown = Shown()
    keep = Keep()
    assert run(Observe(by_line(Observe(shown)), Observe(keep)), chunks=[b"a\r", b"\nb"]) == (b"a\r\nb", Eof())
    assert shown.seen == [b"a\r", b"\n", b"b"]
