"""Replace the error that a stream failed with."""

from __future__ import annotations

from collections.abc import Callable

from .._items import End, Failed
from .._stage import B, Stage


class ErrorMapper(Stage[B]):
    """Replace the error that a stream failed with by ``replace(error)``; other endings stay."""

    needs_whole_lines = False

    def __init__(self, replace: Callable[[Exception], Exception]) -> None:
        self._replace = replace

    def end(self, end: End, /) -> tuple[B | None, End]:
        if isinstance(end, Failed):
            error = self._replace(end.error)
            return None, end if error is end.error else Failed(error)
        return None, end
