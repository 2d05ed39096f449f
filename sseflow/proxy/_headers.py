"""What becomes of header fields on their way through a proxy (RFC 9110, section 7.6)."""

from __future__ import annotations

import re
import secrets
from collections.abc import Set

from .. import Head, RequestError, is_event_stream
from ..http import Chunked, Counted, Framing, Headers, Request, connection_options, split_absolute
from ._credentials import Credential, one_key, passes, without_credentials, without_keys
from ._models import join

_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
    }
)
#: Who asked, for whom, and how: believed of the trusted only. So is all that begins with ``x-forwarded-``.
_FORWARDED = frozenset({b"forwarded", b"x-real-ip"})

#: What is written anew, or not at all.
_NEVER_PASSED_ON = _HOP_BY_HOP | {
    b"host",
    b"via",
    b"accept-encoding",
    b"x-request-id",
    b"content-length",
    b"x-forwarded-for",
}

#: The same, for peers that are not believed.
_NOT_PASSED_ON = _NEVER_PASSED_ON | _FORWARDED
#: What an upstream says of us, when it was called with a key of ours.
_ABOUT_US = frozenset({b"set-cookie", b"openai-organization", b"openai-project"})

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_HOST_NAME = re.compile(rb"(\[[^\]]*\]|[^:]*)(?::[0-9]*)?")

#: How this process calls itself in ``Via``. Unlike its neighbours of the same kind: it is how a loop is noticed.
VIA_NAME = b"sseflow-" + secrets.token_hex(4).encode()


def request_id(request: Request | None) -> str:
    """The request's own id if it is short and plain, else a new one."""
    given = request.get(b"x-request-id") if request is not None else None
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given.decode()
    return secrets.token_hex(16)


def target_of(request: Request) -> tuple[bytes, bytes]:
    """The path and query that a request is for, and the host it was sent to; an absolute target tells both."""
    absolute = None if request.target.startswith(b"/") else split_absolute(request.target)
    if absolute is not None:
        return absolute[1], absolute[0]
    return request.target, request.get(b"host") or b""


def host_name(authority: bytes) -> bytes:
    """The name in an authority, without its port and in lower case."""
    found = _HOST_NAME.fullmatch(authority)
    return (found[1] if found else authority).lower()


def _dropped(names: set[bytes], headers: Headers, *, believed: bool) -> Set[bytes]:
    """Which fields are left out; one with underscores is if its twin is, since behind us they may be the same."""
    drop: Set[bytes] = _NEVER_PASSED_ON if believed else _NOT_PASSED_ON
    if b"connection" in names:
        drop = drop | connection_options(headers)
    together = b" ".join(names)
    if b"_" in together or b"x-forwarded-" in together:
        twins = [(name, name.replace(b"_", b"-")) for name in names]
        drop = drop | {
            name for name, twin in twins if twin in drop or (not believed and twin.startswith(b"x-forwarded-"))
        }
    return drop


def upstream_request(
    request: Request,
    framing: Framing,
    *,
    target: bytes,
    authority: str,
    prefix: str,
    peer: str,
    scheme: str,
    trusted: bool,
    request_id: str,
    credential: Credential | None = None,
    pass_credentials: bool = True,
    tell_who: bool = True,
) -> Request:
    """The request as the upstream is to get it. Made of the client's own, so that no attempt sees an earlier one's key.

    Args:
        credential: the field with our key for this upstream, if we have one. It takes the place of everything that the
            client sent for us: its keys, its cookies, and what says whose account pays.
        pass_credentials: whether the client's own may go on. With a ``credential`` they do if there is a key among
            them, and then with one key only; else ours goes. Never for a client whose key is a token for us.
        tell_who: whether the upstream learns, by ``X-Forwarded-*``, who asked, for whom, and how.

    Raises:
        RequestError: 508, it has come through this very proxy before; 417, it expects what nobody can do.
    """
    names = {name for name, _ in request.headers}
    vias = [value for name, value in request.headers if name == b"via"] if b"via" in names else []
    if any(VIA_NAME in via for via in vias):
        raise RequestError(508, "this request has come through this proxy before: the upstream leads back to it")
    if b"expect" in names and (request.get(b"expect") or b"").lower() != b"100-continue":
        raise RequestError(417, "the only expectation that can be met is 100-continue")
    drop = _dropped(names, request.headers, believed=trusted and tell_who)
    fields = tuple([field for field in request.headers if field[0] not in drop])
    headers = [(b"Host", authority.encode())]
    if not passes(request, credential, pass_credentials):
        target = without_keys(target)
        headers += without_credentials(fields)
        headers += () if credential is None else (credential,)
    else:
        headers += fields if credential is None else one_key(fields)
    if isinstance(framing, Counted):
        headers.append((b"Content-Length", b"%d" % framing.length))
    elif isinstance(framing, Chunked):
        headers.append((b"Transfer-Encoding", b"chunked"))
    # Nothing here can decode; what is not asked for is not sent.
    headers.append((b"Accept-Encoding", b"identity"))
    if tell_who:
        headers += _forwarded(request, names, peer=peer, scheme=scheme, trusted=trusted)
    headers.append((b"Via", b", ".join([*vias, request.http_version + b" " + VIA_NAME])))
    headers.append((b"X-Request-Id", request_id.encode()))
    path = join(prefix.encode(), target) if target != b"*" else target
    return Request(request.method, path, tuple(headers))


def _forwarded(
    request: Request, names: set[bytes], *, peer: str, scheme: str, trusted: bool
) -> list[tuple[bytes, bytes]]:
    """What is told of who asked."""
    before = [value for name, value in request.headers if name == b"x-forwarded-for"] if trusted else []
    # A peer on a Unix socket has no address: what it says for whom it came is enough.
    ways = before if before and peer == "unix" else [*before, b"unknown" if peer == "unix" else peer.encode()]
    fields = [(b"X-Forwarded-For", b", ".join(ways))]
    if not (trusted and b"x-forwarded-host" in names):
        fields.append((b"X-Forwarded-Host", target_of(request)[1]))
    if not (trusted and b"x-forwarded-proto" in names):
        fields.append((b"X-Forwarded-Proto", scheme.encode()))
    return fields


def end_to_end(headers: Headers, *, cookies: bool = True) -> Headers:
    """The fields of an upstream's answer that are not about the connection to it.

    ``cookies``: with its cookies, and with what says whose account pays.
    """
    drop = _HOP_BY_HOP | connection_options(headers) | (set() if cookies else _ABOUT_US)
    return tuple(field for field in headers if field[0] not in drop)


def client_head(head: Head, *, http_version: bytes, request_id: str, cookies: bool = True) -> Head:
    """The head of the upstream's answer, which came in ``http_version``, as the client is to get it.

    ``cookies``: whether the upstream's reach the client. They had better not if the client's did not reach the upstream
    (see `passes`): they are about us, and would be everybody's.
    """
    fields = end_to_end(head.headers, cookies=cookies)
    headers = [field for field in fields if field[0] not in (b"via", b"x-request-id")]
    vias = [value for name, value in head.headers if name == b"via"]
    headers.append((b"Via", b", ".join([*vias, http_version + b" " + VIA_NAME])))
    headers.append((b"X-Request-Id", request_id.encode()))
    if is_event_stream(head):
        # What is written beside the upstream's bytes, keep-alives and error events, is in no length that it promised.
        headers = [field for field in headers if field[0] != b"content-length"]
        names = {name for name, _ in headers}
        if b"cache-control" not in names:
            headers.append((b"Cache-Control", b"no-cache"))
        if b"x-accel-buffering" not in names:
            headers.append((b"X-Accel-Buffering", b"no"))
    return Head(head.status, tuple(headers))


def own_head(request_id: str) -> Head:
    """The head of an event stream that is begun before any upstream has begun one."""
    return Head(
        200,
        (
            (b"Content-Type", b"text/event-stream"),
            (b"Cache-Control", b"no-cache"),
            (b"X-Accel-Buffering", b"no"),
            (b"Via", b"1.1 " + VIA_NAME),
            (b"X-Request-Id", request_id.encode()),
        ),
    )


def plain_head(request_id: str) -> Headers:
    """The fields of an answer of our own."""
    return ((b"Content-Type", b"application/json"), (b"X-Request-Id", request_id.encode()))
