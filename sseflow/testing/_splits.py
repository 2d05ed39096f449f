"""Every way that matters to cut a sample into chunks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations


def every_split(data: bytes) -> Iterator[list[bytes]]:
    """Yield ``data`` in one piece, with every one cut and every two cuts, and byte by byte, as lists of chunks.

    A fault at a cut needs a chunk before it, one behind it, or one of its own between two cuts; so two cuts find what
    any number would, and the drip finds what only many do. No chunk is empty, no list comes twice, and the whole comes
    first: it is what the others are compared to.

    The number grows with the square of the length: 782 lists for 40 bytes, some 20,000 for 200. Keep samples short.
    """
    cuts = range(1, len(data))
    for number in (0, 1, 2):
        for places in combinations(cuts, number):
            yield _split(data, places)
    if len(cuts) > 2:
        yield _split(data, tuple(cuts))


def _split(data: bytes, places: tuple[int, ...]) -> list[bytes]:
    """Cut ``data`` at ``places``; nothing at all is no chunk."""
    chunks = (data[start:stop] for start, stop in zip((0, *places), (*places, len(data)), strict=True))
    return [chunk for chunk in chunks if chunk]
