"""JSON objects whose strings grow piece by piece; all of it may be anything, since it comes from outside."""

from __future__ import annotations

import json
from collections.abc import Iterator

import attrs

from ._json import as_object

_DEPTH = 6
"""Levels of an object at which something may grow. What is below came in one piece, and may be of any depth."""


@attrs.frozen
class _Pieces:
    """A string that grows; joined once, so that a drip costs linear time."""

    pieces: list[str]


def grow(target: dict[str, object], key: str, piece: object) -> None:
    """Append to a string of ``target``. What is no string is nothing."""
    if not isinstance(piece, str):
        return
    value = target.get(key)
    if not isinstance(value, _Pieces):
        target[key] = value = _Pieces([value] if isinstance(value, str) else [])
    value.pieces.append(piece)


def grown(target: dict[str, object]) -> dict[str, object]:
    """``target`` with strings where something grew."""
    return {key: _grown(value, _DEPTH) for key, value in target.items()}


def _grown(value: object, depth: int) -> object:
    if isinstance(value, _Pieces):
        return "".join(value.pieces)
    if depth and isinstance(value, dict):
        return {key: _grown(part, depth - 1) for key, part in value.items()}
    if depth and isinstance(value, list):
        return [_grown(part, depth - 1) for part in value]
    return value


def said(value: object, key: str) -> str:
    """A string of an object; empty if there is none."""
    part = (as_object(value) or {}).get(key)
    return part if isinstance(part, str) else ""


def objects(value: object) -> Iterator[dict[str, object]]:
    """The objects in a list."""
    for part in value if isinstance(value, list) else ():
        if isinstance(part, dict):
            yield part


def index_of(value: dict[str, object], key: str = "index") -> int:
    """An index in an object; 0 if there is none."""
    part = value.get(key)
    return part if isinstance(part, int) else 0


def as_json(value: object) -> str:
    """An object as JSON; empty if there is none, or it is so deep that it cannot be written."""
    try:
        return json.dumps(value) if value else ""
    except RecursionError:
        return ""


def given(value: dict[str, object] | None) -> dict[str, object]:
    """What an object says, without what is null or empty text."""
    return {key: part for key, part in (value or {}).items() if part is not None and part != ""}


def take_over(target: dict[str, object], source: dict[str, object]) -> None:
    """Take what an object says over into another; what is null or empty text takes nothing away."""
    for key, part in source.items():
        if key not in target or (part is not None and part != ""):
            target[key] = part
