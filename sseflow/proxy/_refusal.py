"""What an upstream has answered that is no event stream."""

from __future__ import annotations

import contextlib
import time

import attrs
import trio

from .. import Head, TooLong, UpstreamError, UpstreamProtocolError
from ..dialects import DialectError, error_in
from ..http import DEFAULT_MAX_DECODED, DEFAULT_MAX_RATIO, Call, Decoder
from ..resilience import carry, classify, retry_after

MAX_ERROR_BODY = 64 * 1024
"""Of the body of an upstream's error that is read to find out what it says."""

ERROR_TIMEOUT = 5.0
"""Seconds for that."""


async def refusal_of(call: Call) -> UpstreamError:
    """What is wrong with a call that should have brought an event stream. Its body is looked at, and stays there."""
    body = b""
    with contextlib.suppress(UpstreamError, TooLong), trio.move_on_after(ERROR_TIMEOUT):  # what has come will do
        view = View(call.head, DEFAULT_MAX_RATIO, DEFAULT_MAX_DECODED)
        body = view(call.peeked)  # it may not be the first who looks
        while len(body) <= MAX_ERROR_BODY and (data := await call.peek()):
            body += view(data)
    status = call.head.status
    said = error_in(body)
    if said is None and status < 400:
        kind = (call.head.get(b"content-type") or b"nothing").decode("ascii", "backslashreplace")[:80]
        return UpstreamProtocolError(
            f"a stream was asked for, and the upstream answered {status} with {kind}", reason="http_protocol_error"
        )
    said = said or DialectError()
    if said.retry_after is None:
        said = attrs.evolve(said, retry_after=retry_after(call.head.headers, time.time()))
    message = f"the upstream answered {status} with an error"
    error = said.refusal(message, status=status if status >= 400 else None)
    if (call.head.get(b"x-should-retry") or b"").lower() == b"false":
        carry(error, attrs.evolve(classify(error), retryable=False))
    return error


def decoded(head: Head, body: bytes) -> bytes:
    """A body without its content codings; as it is if they are not known here, or wrong."""
    with contextlib.suppress(UpstreamError, TooLong):
        return View(head, DEFAULT_MAX_RATIO, DEFAULT_MAX_DECODED)(body)
    return body


class View:
    """What the bytes of a body say, if they are compressed; they stay what they are."""

    def __init__(self, head: Head, max_ratio: int, max_decoded: int) -> None:
        codings = content_codings(head)
        self._decoder = Decoder(codings, max_ratio=max_ratio, max_decoded=max_decoded) if codings else None

    def __call__(self, data: bytes) -> bytes:
        return data if self._decoder is None else b"".join(self._decoder.decode(data))


def content_codings(head: Head) -> bytes:
    """The content codings of a body; empty if it has none."""
    field = b",".join(value for name, value in head.headers if name == b"content-encoding")
    return b"" if field.strip().lower() == b"identity" else field.strip()


def is_unlabelled(head: Head) -> bool:
    """Whether the type of a body says nothing of what it is."""
    content_type = (head.get(b"content-type") or b"").partition(b";")[0].strip().lower()
    return content_type in (b"", b"text/plain", b"application/octet-stream")
