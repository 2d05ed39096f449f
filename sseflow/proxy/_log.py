"""The log: lines for a person on a terminal, JSON for everything else."""

from __future__ import annotations

import contextlib
import sys
from json import JSONEncoder
from typing import TextIO

import structlog

MAX_TEXT = 256
"""Characters of a value from outside that a line may have."""


_LOST = contextlib.suppress(OSError, ValueError)


class _Output:
    """A stream that may be closed, or full: that must not reach whoever logs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with _LOST:
            self._stream.write(text)

    def flush(self) -> None:
        with _LOST:
            self._stream.flush()


def make_logger(stream: TextIO | None = None, *, json: bool | None = None) -> structlog.typing.FilteringBoundLogger:
    """A logger that writes to ``stream`` (standard error by default); ``json`` by default unless it is a terminal."""
    stream = stream or sys.stderr
    if json is None:
        json = not stream.isatty()
    renderer: structlog.typing.Processor = (
        _render_json if json else structlog.dev.ConsoleRenderer(colors=stream.isatty())
    )
    logger: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
        structlog.WriteLogger(_Output(stream)),  # type: ignore[arg-type]  # it writes and flushes; that is all it is asked
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(20),
    )
    return logger.bind()  # made once, and not anew for each line


#: One for all lines; `json.dumps` makes an encoder for each.
_JSON = JSONEncoder(default=repr)


def _render_json(_: object, __: str, event: structlog.typing.EventDict) -> str:
    return _JSON.encode(event)


def plain(value: bytes) -> str:
    """A value from outside, so that it is one word on one line: printable ASCII, and not too long."""
    text = value.decode("ascii", "backslashreplace")
    if not text.isprintable():
        text = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "..."
