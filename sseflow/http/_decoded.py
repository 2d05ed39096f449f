"""A compressed body as a source of what it says."""

from __future__ import annotations

from collections.abc import Iterator

import trio

from .._relay import Source
from ._coding import Decoder


class Decoded:
    """A `Source` without its content codings: piece by piece, as it comes and no faster than it is read.

    Raises, from `receive_some`, what `Decoder` does.
    """

    def __init__(self, source: Source, decoder: Decoder) -> None:
        self._source = source
        self._decoder = decoder
        self._pieces: Iterator[bytes] = iter(())

    async def receive_some(self) -> bytes:
        """See `Source.receive_some`."""
        while True:
            await trio.lowlevel.checkpoint()
            piece = next(self._pieces, None)
            if piece:
                return piece
            if piece is None:
                data = bytes(await self._source.receive_some())
                if not data:
                    self._decoder.end()
                    return b""
                self._pieces = self._decoder.decode(data)

    async def aclose(self) -> None:
        """See `Source.aclose`."""
        await self._source.aclose()
