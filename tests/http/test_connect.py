"""Connecting to an upstream: addresses, names, proxies on the way, TLS, and the time all that may take."""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio.testing
import trustme

from sseflow import ConfigurationError, UpstreamError, UpstreamLost, UpstreamProtocolError, UpstreamTimeout
from sseflow.http import ConnectOptions, Origin, Wire, connect
from sseflow.http._tls import transport

from ..proxy.peers import Peer, Upstream, patience

ORIGINS = {
    "http://a.example": (Origin("http", "a.example", 80), "a.example"),
    "http://A.example:8000/": (Origin("http", "a.example", 8000), "a.example:8000"),
    "https://a.example/v1/": (Origin("https", "a.example", 443, "/v1"), "a.example"),
    "https://a.example:80": (Origin("https", "a.example", 80), "a.example:80"),
    "http://[::1]:8000": (Origin("http", "::1", 8000), "[::1]:8000"),
    "unix:/run/x.sock": (Origin("http", "localhost", 80, path="/run/x.sock"), "localhost"),
}


@pytest.mark.parametrize("text", ORIGINS)
def test_an_origin_is_read(text: str) -> None:
    """An upstream is a scheme, a host and a port, with a prefix perhaps; `Host` has the port if it is not the usual."""
    origin, authority = ORIGINS[text]
    assert Origin.parse(text) == origin
    assert origin.authority == authority
    assert Origin.parse(str(origin)) == origin


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a.example",
        "a.example:80",
        "ftp://a.example",
        "http://",
        "http:///x",
        "http://a:port",
        "http://a:65536",
        "http://[::1",
        "http://user:sk-CANARY@a",
        "http://a/?x=sk-CANARY",
        "http://a/#x",
        "unix:",
    ],
)
def test_what_is_no_origin_is_refused(text: str) -> None:
    """The message says what would be one, and no secret that was given."""
    with pytest.raises(ConfigurationError) as raised:
        Origin.parse(text)
    assert "CANARY" not in str(raised.value)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's own proxies."""
    for name in ("https_proxy", "http_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    """A server to play."""
    upstream = await Upstream.open()
    yield upstream
    upstream.close()


async def fails(origin: Origin, options: ConnectOptions | None = None) -> UpstreamError:
    with pytest.raises(UpstreamError) as raised:
        await connect(origin, options or ConnectOptions())
    return raised.value


async def test_refused(upstream: Upstream) -> None:
    """Nobody listens."""
    port = upstream.port
    upstream.close()
    error = await fails(Origin("http", "127.0.0.1", port))
    assert (error.status, error.reason) == (502, "connection_refused")
    error = await fails(Origin("http", "localhost", 80, path="/nowhere/x.sock"))
    assert (error.status, error.reason) == (502, "connection_refused")


class Resolver(trio.abc.HostnameResolver):
    """Names that the test knows."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses

    async def getaddrinfo(self, host: bytes | None, port: Any, *args: int, **kwargs: int) -> Any:
        if not self._addresses:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in self._addresses]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        raise NotImplementedError


async def test_no_such_name() -> None:
    """A name that nobody knows."""
    trio.socket.set_custom_hostname_resolver(Resolver())
    error = await fails(Origin("http", "a.example", 80))
    assert (error.status, error.reason) == (502, "dns_error")


async def test_one_address_of_several_is_enough(upstream: Upstream) -> None:
    """An address at which nobody is does not matter if there is another one."""
    trio.socket.set_custom_hostname_resolver(Resolver("127.0.0.2", "127.0.0.1"))
    wire = await connect(Origin("http", "a.example", upstream.port), ConnectOptions())
    await upstream.accept()
    transport(wire).close()


@pytest.fixture
def jumping_clock() -> trio.testing.MockClock:
    """A clock that jumps when all tasks wait."""
    return trio.testing.MockClock(autojump_threshold=0.01)


async def test_a_connect_has_its_time(jumping_clock: trio.testing.MockClock) -> None:
    """A server that takes no connection is given up."""
    with socket.socket() as server, contextlib.ExitStack() as stack:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):  # so that there is no room for another one
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        begun = trio.current_time()
        with pytest.raises(UpstreamTimeout) as raised:
            await connect(Origin("http", "127.0.0.1", server.getsockname()[1]), ConnectOptions(connect_timeout=7))
        assert (raised.value.status, raised.value.reason) == (504, "connection_timeout")
        assert trio.current_time() - begun == pytest.approx(7)


async def test_a_handshake_has_its_time(upstream: Upstream, jumping_clock: trio.testing.MockClock) -> None:
    """A server that accepts and says nothing is given up, and its connection closed."""
    begun = trio.current_time()
    options = ConnectOptions(tls=ssl.create_default_context(), tls_timeout=7)
    error = await fails(Origin("https", "127.0.0.1", upstream.port), options)
    assert (error.status, error.reason) == (504, "connection_timeout")
    assert trio.current_time() - begun == pytest.approx(7)
    await (await upstream.accept()).rest()


# TLS, and proxies on the way to it.


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Who issues certificates."""
    return trustme.CA()


@pytest.fixture
def options(authority: trustme.CA) -> ConnectOptions:
    """Trust in that authority."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return ConnectOptions(tls=context)


async def secure(peer: Peer, authority: trustme.CA, name: str) -> Peer:
    """Speak TLS as a server that is called ``name``."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    assert isinstance(peer.stream, trio.SocketStream)
    stream = trio.SSLStream(peer.stream, context, server_side=True)
    with patience():
        await stream.do_handshake()
    return Peer(stream)


async def connected(origin: Origin, options: ConnectOptions, play: Any) -> Wire:
    """Connect while ``play`` plays the other side."""
    wires: list[Wire] = []

    async def make() -> None:
        wires.append(await connect(origin, options))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(make)
        await play()
    return wires[0]


A_EXAMPLE = Origin("https", "a.example", 8443)


@pytest.mark.parametrize(
    ("address", "authorization"),
    [("http://127.0.0.1:{}", None), ("127.0.0.1:{}", None), ("http://me:p%40ss@127.0.0.1:{}", b"me:p@ss")],
    ids=["plain", "without a scheme", "with a password"],
)
async def test_through_a_proxy(
    upstream: Upstream,
    authority: trustme.CA,
    options: ConnectOptions,
    monkeypatch: pytest.MonkeyPatch,
    address: str,
    authorization: bytes | None,
) -> None:
    """With `HTTPS_PROXY` an upstream is reached by CONNECT; the certificate is still the upstream's."""
    monkeypatch.setenv("HTTPS_PROXY", address.format(upstream.port))

    async def play() -> None:
        peer = await upstream.accept()
        head = await peer.request()
        assert (head.method, head.target) == (b"CONNECT", b"a.example:8443")
        assert head.get(b"host") == b"a.example:8443"
        expected = None if authorization is None else b"Basic " + base64.b64encode(authorization)
        assert head.get(b"proxy-authorization") == expected
        await peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        server = await secure(peer, authority, "a.example")
        await server.send(b"hello")

    wire = await connected(A_EXAMPLE, options, play)
    assert await wire.receive_some() == b"hello"
    transport(wire).close()


async def test_the_proxy_cannot_be_the_upstream(
    upstream: Upstream, authority: trustme.CA, options: ConnectOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that answers in the upstream's place has no certificate for it."""
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{upstream.port}")
    reasons = []

    async def make() -> None:
        reasons.append((await fails(A_EXAMPLE, options)).reason)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(make)
        peer = await upstream.accept()
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        with pytest.raises(trio.BrokenResourceError):
            await (await secure(peer, authority, "proxy.example")).stream.receive_some()
    assert reasons == ["tls_certificate_error"]


@pytest.mark.parametrize("bypass", ["127.0.0.1", "*", "x.example,127.0.0.1"])
async def test_no_proxy_is_heeded(
    upstream: Upstream, authority: trustme.CA, options: ConnectOptions, monkeypatch: pytest.MonkeyPatch, bypass: str
) -> None:
    """What `NO_PROXY` names is reached directly."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", bypass)

    async def play() -> None:
        await secure(await upstream.accept(), authority, "127.0.0.1")

    transport(await connected(Origin("https", "127.0.0.1", upstream.port), options, play)).close()


async def test_plain_http_needs_no_proxy(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """`HTTPS_PROXY` is for https; and who does not want the environment to decide can say so."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    transport(await connect(Origin("http", "127.0.0.1", upstream.port), ConnectOptions())).close()
    error = await fails(
        Origin("https", "127.0.0.1", 2), ConnectOptions(tls=ssl.create_default_context(), use_environment=False)
    )
    assert "127.0.0.1:2" in str(error)


async def test_a_proxy_that_is_none(options: ConnectOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be a proxy is said to be none, without its secrets."""
    monkeypatch.setenv("HTTPS_PROXY", "socks5://me:sk-CANARY@127.0.0.1:1")
    with pytest.raises(ConfigurationError, match="HTTPS_PROXY") as raised:
        await connect(A_EXAMPLE, options)
    assert "CANARY" not in str(raised.value)


REFUSALS: dict[str, tuple[bytes, type[UpstreamError], str]] = {
    "407": (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", UpstreamLost, "connection_refused"),
    "502": (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", UpstreamLost, "connection_refused"),
    "1xx": (b"HTTP/1.1 100 Continue\r\n\r\n", UpstreamLost, "connection_refused"),
    "end": (b"HTTP/1.1 200 OK\r\n", UpstreamLost, "connection_terminated"),
    "garbage": (b"SSH-2.0-OpenSSH\r\n\r\n", UpstreamProtocolError, "http_protocol_error"),
    "too much": (b"HTTP/1.1 200 OK\r\n\r\nhello", UpstreamProtocolError, "http_protocol_error"),
    "too long": (b"HTTP/1.1 200 OK\r\nA: " + b"x" * 70_000, UpstreamProtocolError, "http_response_header_section_size"),
}


@pytest.mark.parametrize(("sent", "kind", "reason"), REFUSALS.values(), ids=REFUSALS)
async def test_a_proxy_that_does_not_connect(
    upstream: Upstream,
    options: ConnectOptions,
    monkeypatch: pytest.MonkeyPatch,
    sent: bytes,
    kind: type[UpstreamError],
    reason: str,
) -> None:
    """Whatever a proxy does instead of connecting has its name, and its connection is closed."""
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:sk-CANARY@127.0.0.1:{upstream.port}")
    errors: list[UpstreamError] = []

    async def make() -> None:
        errors.append(await fails(A_EXAMPLE, options))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(make)
        peer = await upstream.accept()
        await peer.request()
        await peer.send(sent)
        await peer.finish()
        await peer.rest()
    (error,) = errors
    assert isinstance(error, kind)
    assert error.reason == reason
    assert "CANARY" not in str(error)


async def test_a_proxy_has_its_time(
    upstream: Upstream,
    options: ConnectOptions,
    monkeypatch: pytest.MonkeyPatch,
    jumping_clock: trio.testing.MockClock,
) -> None:
    """A proxy that does not answer is given up with the time for the connection."""
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{upstream.port}")
    begun = trio.current_time()
    error = await fails(A_EXAMPLE, options)
    assert (error.status, error.reason) == (504, "connection_timeout")
    assert trio.current_time() - begun == pytest.approx(10)
    peer = await upstream.accept()
    await peer.request()
    assert await peer.rest() == b""
