"""Connections to an upstream: names, TCP, proxies, TLS."""

from __future__ import annotations

import base64
import ipaddress
import socket
import ssl
import urllib.parse
import urllib.request
from typing import Any

import attrs
import h11
import trio

from .._errors import ConfigurationError, UpstreamLost, UpstreamProtocolError, UpstreamTimeout
from ._destinations import Network, may_lead_to
from ._guard import HeadLimits, check_response_head, find_head_end
from ._messages import write_head
from ._tls import TlsWire, Wire
from ._wire import SocketWire

MAX_LOOKUPS = 16
"""Names that are looked up at the same time. Each takes a thread that nobody can stop, so they do not take those that
files need: names that hang keep nobody waiting but other names."""

STAGGER = 0.25
"""Seconds that one address of several has until the next is tried beside it (RFC 8305, section 5)."""

_lookups: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar("lookups")


@attrs.frozen
class Origin:
    """Where an upstream is: scheme, host and port, or the path of a Unix socket; and a prefix for its paths."""

    scheme: str
    host: str
    port: int
    prefix: str = ""
    path: str | None = None

    @classmethod
    def parse(cls, text: str) -> Origin:
        """Read ``http://HOST[:PORT][/PREFIX]``, the same with ``https``, or ``unix:PATH``.

        Raises:
            ConfigurationError: it is none of these.
        """
        if text.startswith("unix:") and len(text) > len("unix:"):
            return cls("http", "localhost", 80, path=text.removeprefix("unix:"))
        try:
            url = urllib.parse.urlsplit(text)
            port = url.port
        except ValueError as error:
            raise ConfigurationError(f"{text!r} is no upstream: {error}") from None
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ConfigurationError(
                f"{text!r} is no upstream: "
                "it must be like http://127.0.0.1:8000, https://api.example.com/v1 or unix:PATH"
            )
        if url.username is not None or url.query or url.fragment:
            raise ConfigurationError(
                "an upstream has neither user name, query nor fragment: give scheme, host and path"
            )
        default = 443 if url.scheme == "https" else 80
        return cls(url.scheme, url.hostname, port or default, url.path.rstrip("/"))

    @property
    def authority(self) -> str:
        """What belongs in ``Host``: the host, and the port unless it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.scheme == "https" else 80) else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path is not None else f"{self.scheme}://{self.authority}{self.prefix}"


@attrs.frozen(kw_only=True)
class ConnectOptions:
    """How to connect. Times in seconds."""

    tls: ssl.SSLContext | None = None
    """For ``https``; none is needed for ``http``."""

    connect_timeout: float = 10.0
    """For names and TCP together. A route that takes longer is broken."""

    tls_timeout: float = 10.0
    """For the handshake."""

    use_environment: bool = True
    """Whether ``HTTPS_PROXY`` and ``NO_PROXY`` are heeded, for ``https``."""

    allow_networks: tuple[Network, ...] | None = None
    """Networks that an upstream may be in beside all that are public; None: it may be anywhere. With any value, the
    empty one too, no connection is begun to an address of this machine, of a private or link-local network, or of
    anything else that is not public, whatever a name leads to. Unix sockets, and proxies of the environment with what
    is behind them, are not asked about."""


async def connect(origin: Origin, options: ConnectOptions) -> Wire:
    """Connect to ``origin``, through a proxy if the environment says so.

    Raises:
        UpstreamLost: it could not be reached, or may not be, or its certificate is not good.
        UpstreamTimeout: a deadline passed.
        UpstreamProtocolError: the proxy answered something else than HTTP.
    """
    proxy = proxy_for(origin) if options.use_environment else None
    with trio.move_on_after(options.connect_timeout) as scope:
        wire = await _open(proxy or origin, None if proxy is not None else options.allow_networks)
        if proxy is not None:
            try:
                await _tunnel(wire, origin, proxy)
            except BaseException:
                wire.close()
                raise
    if scope.cancelled_caught:
        raise UpstreamTimeout(
            f"{origin} could not be reached within {options.connect_timeout:g} s", reason="connection_timeout"
        )
    return wire if origin.scheme == "http" else await _start_tls(wire, origin, options)


async def _open(origin: Origin, allowed: tuple[Network, ...] | None) -> SocketWire:
    try:
        if origin.path is not None:
            stream = await trio.open_unix_socket(origin.path)
            return SocketWire(socket.socket(fileno=stream.socket.detach()))
        routes = await _look_up(origin.host, origin.port)
        if allowed is not None:
            routes = _permitted(origin, routes, allowed)
        return SocketWire(socket.socket(fileno=(await _race(routes)).detach()))
    except (socket.gaierror, UnicodeError) as error:
        raise UpstreamLost(f"the name of {origin} could not be resolved: {error}", reason="dns_error") from error
    except OSError as error:
        raise UpstreamLost(f"{origin} could not be reached: {error}", reason="connection_refused") from error


@attrs.frozen
class _Route:
    """One of the addresses that a name leads to: always numbers, so that nothing is looked up again."""

    family: int
    address: tuple[Any, ...]

    @property
    def host(self) -> str:
        return str(self.address[0])


async def _look_up(host: str, port: int) -> list[_Route]:
    """Where a name leads, once. A resolver that was set with Trio is asked instead of the system's."""
    if _resolver() is not None or _is_address(host):
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    else:
        found = await trio.to_thread.run_sync(
            lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM),
            abandon_on_cancel=True,
            limiter=_lookup_limiter(),
        )
    if not found:
        raise socket.gaierror(socket.EAI_NONAME, "no address belongs to it")
    return [_Route(family, address) for family, _, _, _, address in found]


def _resolver() -> trio.abc.HostnameResolver | None:
    """The one that was set with Trio, which tells only who sets another."""
    found = trio.socket.set_custom_hostname_resolver(None)
    trio.socket.set_custom_hostname_resolver(found)
    return found


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _lookup_limiter() -> trio.CapacityLimiter:
    try:
        return _lookups.get()
    except LookupError:
        limiter = trio.CapacityLimiter(MAX_LOOKUPS)
        _lookups.set(limiter)
        return limiter


def _permitted(origin: Origin, routes: list[_Route], allowed: tuple[Network, ...]) -> list[_Route]:
    """Those of ``routes`` that a connection may be made to; there is at least one."""
    permitted = [route for route in routes if may_lead_to(route.host, allowed)]
    if not permitted:
        raise UpstreamLost(
            f"{origin} leads to {routes[0].host}, which is no public address; "
            "if that is meant, put its network into allow_networks",
            reason="destination_ip_prohibited",
        )
    return permitted


async def _race(routes: list[_Route]) -> trio.socket.SocketType:
    """The first connection that comes about. Each attempt has a while before the next begins beside it (RFC 8305)."""
    won: list[trio.socket.SocketType] = []
    errors: list[OSError] = []

    async def attempt(route: _Route, over: trio.Event) -> None:
        try:
            won.append(await _connected(route))
            nursery.cancel_scope.cancel()
        except OSError as error:
            errors.append(error)
            over.set()

    try:
        async with trio.open_nursery() as nursery:
            for route in _alternating(routes):
                over = trio.Event()
                nursery.start_soon(attempt, route, over)
                with trio.move_on_after(STAGGER):
                    await over.wait()
    except BaseException:
        for sock in won:
            sock.close()
        raise
    if not won:
        raise OSError("; ".join(map(str, errors)))
    for sock in won[1:]:  # two at the very same moment
        sock.close()
    return won[0]


async def _connected(route: _Route) -> trio.socket.SocketType:
    sock = trio.socket.socket(route.family, socket.SOCK_STREAM)
    try:
        await sock.connect(route.address)
    except BaseException:
        sock.close()
        raise
    return sock


def _alternating(routes: list[_Route]) -> list[_Route]:
    """``routes`` as they came, but the first of another family is the second: one family may lead nowhere at all."""
    other = next((i for i, route in enumerate(routes) if route.family != routes[0].family), 0)
    return routes if other < 2 else [routes[0], routes[other], *routes[1:other], *routes[other + 1 :]]


async def _start_tls(wire: SocketWire, origin: Origin, options: ConnectOptions) -> Wire:
    assert options.tls is not None, "https needs a TLS context"
    stream = TlsWire(wire, options.tls, server_hostname=origin.host)
    try:
        with trio.fail_after(options.tls_timeout):
            await stream.do_handshake()
    except trio.TooSlowError:
        wire.close()
        raise UpstreamTimeout(
            f"the TLS handshake with {origin} took longer than {options.tls_timeout:g} s", reason="connection_timeout"
        ) from None
    except trio.BrokenResourceError as error:
        wire.close()
        cause = error.__cause__
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise UpstreamLost(
                f"the certificate of {origin} is not good: {cause.verify_message}", reason="tls_certificate_error"
            ) from error
        raise UpstreamLost(
            f"the TLS handshake with {origin} failed: {cause or error}", reason="tls_protocol_error"
        ) from error
    except BaseException:
        wire.close()
        raise
    return stream


def proxy_for(origin: Origin) -> Origin | None:
    """The proxy that ``HTTPS_PROXY`` and ``NO_PROXY`` say leads to ``origin``, if it is to be reached by https.

    Raises:
        ConfigurationError: ``HTTPS_PROXY`` is not the address of an HTTP proxy.
    """
    if origin.path is not None or origin.scheme != "https":
        return None
    address = urllib.request.getproxies().get("https")
    if not address or urllib.request.proxy_bypass(f"{origin.host}:{origin.port}"):
        return None
    url = urllib.parse.urlsplit(address if "//" in address else f"//{address}", scheme="http")
    if url.scheme != "http" or not url.hostname:
        raise ConfigurationError("HTTPS_PROXY must be like http://proxy.example.com:3128")
    user = None
    if url.username is not None:
        user = f"{urllib.parse.unquote(url.username)}:{urllib.parse.unquote(url.password or '')}"
    return _ProxyOrigin("http", url.hostname, url.port or 80, credentials=user)


@attrs.frozen
class _ProxyOrigin(Origin):
    credentials: str | None = attrs.field(default=None, repr=False, kw_only=True)


async def _tunnel(wire: SocketWire, origin: Origin, proxy: Origin) -> None:
    """Have the proxy connect us (RFC 9110, section 9.3.6)."""
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    target = f"{host}:{origin.port}".encode()
    headers = [(b"Host", target)]
    if isinstance(proxy, _ProxyOrigin) and proxy.credentials is not None:
        headers.append((b"Proxy-Authorization", b"Basic " + base64.b64encode(proxy.credentials.encode())))
    connection = h11.Connection(h11.CLIENT)
    limits = HeadLimits()
    try:
        await wire.send_all(write_head(connection, h11.Request(method=b"CONNECT", target=target, headers=headers)))
        received = bytearray()
        while (end := find_head_end(received)) < 0 and len(received) <= limits.max_head:
            data = await wire.receive_some()
            if not data:
                raise UpstreamLost(f"the proxy {proxy} closed the connection", reason="connection_terminated")
            received += data
    except trio.BrokenResourceError as error:
        raise UpstreamLost(
            f"the connection to the proxy {proxy} broke: {error}", reason="connection_terminated"
        ) from error
    connection.receive_data(check_response_head(bytes(received[:end] if end >= 0 else received), limits))
    event = connection.next_event()
    if not isinstance(event, h11.Response) or not 200 <= event.status_code < 300:
        status = event.status_code if isinstance(event, h11.Response) else "no answer"
        raise UpstreamLost(
            f"the proxy {proxy} refused the connection to {origin}: {status}", reason="connection_refused"
        )
    if len(received) != end:
        raise UpstreamProtocolError(f"the proxy {proxy} sent bytes behind its answer", reason="http_protocol_error")
