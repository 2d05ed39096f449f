"""Whether a request asks for a stream."""

from __future__ import annotations

import json
import re

_REST_OF_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_OUTSIDE = re.compile(rb'[^"{}\[\],:]*+')
_LONGEST = 16
"""Bytes of a key or a value that are looked at; neither ``stream`` nor ``true`` is longer."""


def asks_for_stream(body: bytes) -> bool:
    """Whether a whole body is a JSON object with ``"stream": true``."""
    if b"stream" not in body:
        return False
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return False  # it is the upstream's to refuse
    return isinstance(value, dict) and value.get("stream") is True


class StreamFlag:
    """Find ``"stream": true`` at the top level of a JSON object that comes in pieces. Holds none of it.

    Feed it what comes; `asked` says whether it was there. What is no JSON object asks for nothing.
    """

    def __init__(self) -> None:
        self.asked = False
        self._depth = 0
        self._in_string = False
        self._escaped = False  # a piece ended between a backslash and what it escapes
        self._begun = False
        self._text = b""  # of the string or the bare word that is being read
        self._key = b""

    def feed(self, piece: bytes) -> None:
        """Look at the next piece."""
        if not self._begun:
            piece = piece.lstrip()
            if not piece:
                return
            self._begun = True
            if not piece.startswith(b"{"):
                self._depth = -1_000_000  # no object: nothing in it is at the top level of one
        at = 0
        while at < len(piece):
            at = self._string(piece, at) if self._in_string else self._structure(piece, at)

    def _string(self, piece: bytes, at: int) -> int:
        start = at
        if self._escaped:
            self._escaped = False
            at += 1
        found = _REST_OF_STRING.match(piece, at)
        assert found is not None
        at = found.end()
        self._note(piece[start:at])
        if at == len(piece):
            return at
        if piece[at] == ord('"'):
            self._in_string = False
        else:
            self._escaped = True  # the backslash is the last byte
        return at + 1

    def _structure(self, piece: bytes, at: int) -> int:
        found = _OUTSIDE.match(piece, at)
        assert found is not None
        self._note(found[0])
        at = found.end()
        if at == len(piece):
            return at
        match piece[at : at + 1]:
            case b'"':
                self._in_string = True
                self._text = b'"' if self._depth == 1 else b""
            case b"{" | b"[":
                self._depth += 1
                self._text = b""
            case b":":
                self._key, self._text = self._text.strip(), b""
            case end:
                if self._depth == 1 and self._key == b'"stream':
                    self.asked = self._text.strip() == b"true"
                    self._key = b""
                self._text = b""
                self._depth -= end != b","
        return at + 1

    def _note(self, text: bytes) -> None:
        if self._depth == 1 and len(self._text) < _LONGEST:
            self._text += text[:_LONGEST]
