"""What an answer has used, in the same terms whoever answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

import attrs

MAX_FIGURES = 32
"""Figures of one usage object that are kept; the longest there are have half as many."""

_MAX_NAME = 64
_MAX_FIGURE = 2**53
"""Beyond it a number is no count, and not every reader of JSON can tell it from its neighbour."""


@attrs.frozen(kw_only=True)
class Usage:
    """Tokens that an answer has used up to some moment. None: the upstream has not said.

    The three parts of the input do not overlap.
    """

    input: int | None = None
    """Tokens of the input that were neither read from a cache nor written to one; never below 0."""

    output: int | None = None
    cache_read: int | None = None
    cache_write: int | None = None

    reasoning: int | None = None
    """Tokens of reasoning; as a rule they are part of the output."""

    extras: Mapping[str, float] = attrs.field(factory=dict)
    """All other figures, `MAX_FIGURES` at most, by a name of ours or by where they stood (``a.b``)."""

    @property
    def figures(self) -> dict[str, float]:
        """Every figure by its name."""
        told = {name: figure for name in _FIELDS if (figure := getattr(self, name)) is not None}
        return {**told, **{name: figure for name, figure in self.extras.items() if name not in _FIELDS}}

    def updated(self, later: Usage) -> Usage:
        """These figures, with those that ``later`` tells in their place: they are totals, and never added up."""
        told = {name: figure for name in _FIELDS if (figure := getattr(later, name)) is not None}
        return attrs.evolve(self, **told, extras={**self.extras, **later.extras})


_FIELDS = ("input", "output", "cache_read", "cache_write", "reasoning")


def usage_in(value: object, names: Mapping[str, str], *, input_has_cached: bool) -> Usage | None:
    """What a usage object says; None if it has no figure.

    Args:
        names: by where a figure stands, such as ``a`` or ``a.b``, the field of `Usage`, or the extra, that it is.
        input_has_cached: the upstream counts what it read from a cache, or wrote to one, as input, too.
    """
    fields: dict[str, int] = {}
    extras: dict[str, float] = {}
    for place, figure in islice(_figures(value), MAX_FIGURES):
        name = names.get(place, "")
        if name in _FIELDS:
            fields[name] = int(figure)
        else:
            extras[name or place] = figure
    if input_has_cached and "input" in fields:
        fields["input"] = max(0, fields["input"] - fields.get("cache_read", 0) - fields.get("cache_write", 0))
    return Usage(**fields, extras=extras) if fields or extras else None


def _figures(value: object, before: str = "", depth: int = 2) -> Iterator[tuple[str, float]]:
    """The figures in an object, and in the objects in it, by where they stand."""
    if not isinstance(value, dict) or not depth:
        return
    for key, part in value.items():
        place = before + key
        if isinstance(part, dict):
            yield from _figures(part, place + ".", depth - 1)
        elif type(part) in (int, float) and 0 <= part <= _MAX_FIGURE and _is_name(place):
            yield place, part


def _is_name(place: str) -> bool:
    return len(place) <= _MAX_NAME and place.isascii() and place.isprintable()
