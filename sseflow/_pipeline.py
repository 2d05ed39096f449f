"""The sans-IO driver of a stream: head, bytes and ending in; at most one head, bytes and exactly one ending out."""

from __future__ import annotations

from ._errors import HeldTooMuch
from ._items import End, Eof, Failed, Head, Item
from ._stage import Chain, Cut, Stage

DEFAULT_MAX_HELD = 1024 * 1024
"""Bytes kept behind a head that a stage holds back. A gate gives up long before; this is for stages without a limit."""


class Pipeline:
    """Drive a stream through stages of bytes.

    Call `head` at most once and first, `feed` for each chunk, `end` for the ending; each returns what is to go out now:
    a `Head`, ``bytes``, one ending, in that order. Nobody comes out behind the ending, and nothing is lost before it.

    The head, and the bytes behind it, are kept as long as a stage says "not yet". *Committed* means exactly that a
    head has come out. Behind any ending but `Eof` a head that is still held is dropped, with what it held, whatever
    the stages are and in whatever order: a failure before the commit leaves nothing but itself.

    The first ending counts, later ones return nothing: the reader that meets the end and the closer that gives up may
    both report it, in any order.

    Args:
        max_held: bytes that may be kept behind a held head, 1 MiB by default. One more fails the stream with
            `HeldTooMuch`.
    """

    def __init__(self, *stages: Stage[bytes], max_held: int = DEFAULT_MAX_HELD) -> None:
        self._chain = Chain(*stages)
        fed = self._chain._fed
        self._alone = len(fed) == 1  # one stage needs no chain to feed it, as long as nothing goes wrong
        self._feed = fed[0].feed if self._alone else self._chain.feed
        self._max_held = max_held
        self._head: Head | None = None
        self._held: list[bytes] = []
        self._held_size = 0
        self._begun = False
        self._committed = False
        self._ending: End | None = None

    @property
    def committed(self) -> bool:
        """Whether a head has come out."""
        return self._committed

    @property
    def ending(self) -> End | None:
        """The ending that came out, or None as long as none has."""
        return self._ending

    def head(self, head: Head) -> list[Item]:
        """Take the head. Raises `RuntimeError` if there was one, or if bytes came before it."""
        if self._begun or self._ending is not None:
            raise RuntimeError("a stream has at most one head, before any byte")
        self._begun = True
        self._head = head
        return self._settle()

    def feed(self, data: bytes) -> list[Item]:
        """Take a chunk. An empty one asks the stages for the head again; it is not an EOF.

        Raises `RuntimeError` behind the ending.
        """
        if self._ending is not None:
            raise RuntimeError("a stream was fed behind its ending")
        error: Exception | None = None
        if data:
            self._begun = True
            try:
                data = self._feed(data)
            except Exception as raised:
                data, error = self._what_failed(raised)
            else:
                if type(data) is not bytes:
                    data, error = b"", TypeError(f"a stage returned {type(data).__name__} for bytes")
        if self._head is None:
            if data and error is None:
                return [data]
            items: list[Item] = [data] if data else []
        else:
            self._hold(data)
            items = self._settle()
        return items if error is None else items + self.end(Failed(error))

    def end(self, end: End) -> list[Item]:
        """Take the ending. Only the first one counts; behind it this returns nothing."""
        if self._ending is not None:
            return []
        # What a stage does while it is ended must not start a second ending.
        self._ending = end
        last, self._ending = self._chain.end(end)
        if last is not None and type(last) is not bytes:
            last, self._ending = None, Failed(TypeError(f"a stage returned {type(last).__name__} for bytes"))
        items: list[Item] = []
        if self._head is not None:
            if isinstance(self._ending, Eof):
                self._hold(last or b"")
                try:
                    items = self._commit(self._ask(self._head)[0])
                except Exception as error:
                    self._ending = Failed(error)
            self._head = None
            self._held.clear()
        elif last:
            items.append(last)
        items.append(self._ending)
        return items

    def _what_failed(self, raised: Exception) -> tuple[bytes, Exception]:
        """What is let out of a batch at which a stage raised, and the error that the stream fails with."""
        if self._alone:
            try:
                self._chain._fail(0, raised)
            except Exception as noted:
                raised = noted
        if isinstance(raised, Cut):
            return _as_bytes(raised.batch), raised.error
        return b"", raised

    def _hold(self, data: bytes) -> None:
        if data:
            self._held.append(data)
            self._held_size += len(data)

    def _settle(self) -> list[Item]:
        """Let the head go, if all stages agree."""
        assert self._head is not None
        try:
            head, ready = self._ask(self._head)
        except Exception as error:
            return self.end(Failed(error))
        if ready:
            return self._commit(head)
        if self._held_size > self._max_held:
            return self.end(Failed(HeldTooMuch(self._max_held, self._held_size)))
        return []

    def _ask(self, head: Head) -> tuple[Head, bool]:
        head, ready = self._chain._ask(head)
        if type(head) is not Head:
            raise TypeError(f"a stage returned {type(head).__name__} for a head")
        return head, ready

    def _commit(self, head: Head) -> list[Item]:
        items: list[Item] = [head]
        if self._held:
            items.append(b"".join(self._held))
            self._held.clear()
        self._head = None
        self._committed = True
        return items


def _as_bytes(batch: object) -> bytes:
    return batch if type(batch) is bytes else b""
