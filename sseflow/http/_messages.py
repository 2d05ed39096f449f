"""Requests as values, and heads between bytes and h11."""

from __future__ import annotations

import http
from collections.abc import Iterable
from typing import TypeAlias

import attrs
import h11

from .._items import Head

#: Header fields: names and values, in order.
Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]


def _names(headers: Headers) -> str:
    return f"<{b', '.join(name for name, _ in headers).decode('ascii', 'replace')}>"


def _path(target: bytes) -> str:
    return repr(target.partition(b"?")[0])


@attrs.frozen
class Request:
    """The head of a request. Names of fields are in lower case. Its repr has neither values nor the query."""

    method: bytes
    target: bytes = attrs.field(repr=_path)
    headers: Headers = attrs.field(repr=_names)
    http_version: bytes = b"1.1"

    def get(self, name: bytes) -> bytes | None:
        """The value of the first field called ``name`` (in lower case), or None."""
        return next((value for key, value in self.headers if key == name), None)

    @property
    def keeps_alive(self) -> bool:
        """Whether the connection may be used again after this request (RFC 9112, section 9.3)."""
        return _keeps_alive(self.headers, self.http_version)

    @property
    def takes_trailers(self) -> bool:
        """Whether the client has said that it reads trailers (RFC 9110, section 6.5.1)."""
        codings = b",".join(value for name, value in self.headers if name == b"te").lower().split(b",")
        return self.http_version == b"1.1" and b"trailers" in {coding.strip() for coding in codings}


@attrs.frozen
class Response:
    """The head of a response, and what it says of the connection."""

    head: Head
    http_version: bytes

    @property
    def keeps_alive(self) -> bool:
        """Whether the connection may be used again after this response (RFC 9112, section 9.3)."""
        return _keeps_alive(self.head.headers, self.http_version)


def connection_options(headers: Iterable[tuple[bytes, bytes]]) -> set[bytes]:
    """The options of all ``Connection`` fields, in lower case."""
    return {
        option.strip().lower()
        for name, value in headers
        if name.lower() == b"connection"
        for option in value.split(b",")
    }


def _keeps_alive(headers: Headers, http_version: bytes) -> bool:
    # HTTP/1.0 with its own keep-alive is left alone: there is no chunked body to use it with.
    return http_version == b"1.1" and b"close" not in connection_options(headers)


def fields(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Header fields of an h11 event as plain pairs."""
    return tuple((bytes(name), bytes(value)) for name, value in headers)


_PHRASES = {status.value: status.phrase.encode() for status in http.HTTPStatus}


def reason_phrase(status: int) -> bytes:
    """The standard's phrase for ``status``. Never one from outside: h11 writes a reason as it is given."""
    return _PHRASES.get(status, b"")


def write_head(connection: h11.Connection, event: h11.Event) -> bytes:
    """The bytes of a head, as h11 writes it.

    Raises:
        h11.LocalProtocolError: it is none.
    """
    data = connection.send(event)
    assert data is not None  # only ConnectionClosed gives None
    return data
