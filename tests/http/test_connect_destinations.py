"""Whom a connection may be made to: what is public, or was allowed, whatever a name says when it is asked again."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import trio
import trio.testing

from sseflow import UpstreamLost, UpstreamTimeout
from sseflow.http import ConnectOptions, Network, Origin, SocketWire, connect, may_lead_to
from sseflow.http import _connect as module
from sseflow.http._tls import transport

from ..proxy.peers import Upstream, patience

PUBLIC = [
    "1.1.1.1",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "128.0.0.1",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.1",
    "223.255.255.255",
    "2606:4700::1111",
    "2a00:1450::1",
    "::ffff:1.1.1.1",
    "64:ff9b::1.1.1.1",
    "2002:101:101::1",
]
NOT_PUBLIC = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.168.1.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:a9fe:a9fe",
    "64:ff9b::169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "2002:c0a8:101::1",
    "2001::1",
    "2001:db8::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "",
    "localhost",
    "1.1.1",
    "2130706433",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_needs_no_permission(address: str) -> None:
    """Servers of the open Internet, up to the edges of what is none."""
    assert may_lead_to(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_what_is_not_public_is_prohibited(address: str) -> None:
    """This machine, private networks, metadata of clouds, groups; also where an IPv6 address only stands for one."""
    assert not may_lead_to(address)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.1.2.3", "10.1.0.0/16"),
        ("::ffff:10.1.2.3", "10.1.0.0/16"),
        ("64:ff9b::10.1.2.3", "10.1.0.0/16"),
        ("64:ff9b::10.1.2.3", "64:ff9b::/96"),
        ("fd00::5", "fd00::/8"),
        ("fe80::1%eth0", "fe80::/10"),
        ("::1", "::1/128"),
    ],
)
def test_a_network_can_be_allowed(address: str, network: str) -> None:
    """An address in an allowed network may be reached, in whatever form; its neighbours may not."""
    allowed = (ipaddress.ip_network(network),)
    assert may_lead_to(address, allowed)
    assert not may_lead_to("192.168.0.1", allowed)


# With sockets. An allowed loopback address stands for a public one: nothing here leaves the machine.

SERVER, OTHER, CANARY = "127.0.0.2", "127.0.0.3", "127.0.0.1"
ALLOWED: tuple[Network, ...] = (ipaddress.ip_network(SERVER), ipaddress.ip_network(OTHER))


class Resolver(trio.abc.HostnameResolver):
    """Answers each time with the next of some lists of addresses, and again and again with the last."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = list(answers)
        self.asked = 0

    async def getaddrinfo(self, host: bytes | None, port: Any, *args: int, **kwargs: int) -> Any:
        self.asked += 1
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return [
            (socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in answer
        ]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        raise NotImplementedError


def resolve(*answers: list[str]) -> Resolver:
    """Have every name lead there."""
    resolver = Resolver(*answers)
    trio.socket.set_custom_hostname_resolver(resolver)
    return resolver


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's own proxies."""
    for name in ("https_proxy", "http_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
async def canary() -> AsyncIterator[Upstream]:
    """Something on this machine that nobody must reach."""
    canary = await Upstream.open()
    yield canary
    canary.close()


@pytest.fixture
def listener_beside(canary: Upstream) -> Iterator[Callable[[str], socket.socket]]:
    """Listens at another address of the machine, on the canary's port."""
    with contextlib.ExitStack() as stack:

        def listen(address: str) -> socket.socket:
            sock = stack.enter_context(socket.socket())
            sock.bind((address, canary.port))
            sock.listen()
            return sock

        yield listen


async def prohibited(origin: Origin, options: ConnectOptions) -> str:
    """Fail to connect, since it is prohibited; return the words."""
    with pytest.raises(UpstreamLost) as raised:
        await connect(origin, options)
    assert (raised.value.status, raised.value.reason) == (502, "destination_ip_prohibited")
    return str(raised.value)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "::ffff:127.0.0.1", "2130706433", "0x7f.1", "0.0.0.0", "127.1"]
)
async def test_this_machine_is_not_reached_by_any_spelling(canary: Upstream, host: str) -> None:
    """What counts is the address that a connection would go to, however it is written."""
    await prohibited(Origin("http", host, canary.port), ConnectOptions(allow_networks=()))
    assert canary.nobody_waits()


async def test_a_prohibited_address_is_named_with_the_option_that_would_allow_it(canary: Upstream) -> None:
    """An operator who means it learns how to say so."""
    resolve([CANARY])
    said = await prohibited(Origin("http", "a.example", canary.port), ConnectOptions(allow_networks=()))
    assert "http://a.example" in said
    assert CANARY in said
    assert "allow_networks" in said


async def test_without_networks_anything_is_allowed(canary: Upstream) -> None:
    """The default of the library: who gives an address knows why."""
    transport(await connect(Origin("http", CANARY, canary.port), ConnectOptions())).close()


async def test_a_name_that_changes_its_mind_reaches_nobody(
    canary: Upstream, listener_beside: Callable[[str], socket.socket]
) -> None:
    """A name that leads to a good address first, and to this machine when it is asked again, is not asked again."""
    listener_beside(SERVER)
    resolver = resolve([SERVER], [CANARY])
    wire = await connect(Origin("http", "a.example", canary.port), ConnectOptions(allow_networks=ALLOWED))
    assert isinstance(wire, SocketWire)
    assert wire.peer == SERVER
    transport(wire).close()
    assert resolver.asked == 1
    await prohibited(Origin("http", "a.example", canary.port), ConnectOptions(allow_networks=ALLOWED))
    assert canary.nobody_waits()


@pytest.mark.parametrize("addresses", [[SERVER, CANARY], [CANARY, SERVER], [SERVER, CANARY, OTHER, "::1"]])
async def test_a_prohibited_address_beside_a_good_one_is_not_tried(canary: Upstream, addresses: list[str]) -> None:
    """Also where the good one takes no connection."""
    resolve(addresses)
    with pytest.raises(UpstreamLost) as raised:
        await connect(Origin("http", "a.example", canary.port), ConnectOptions(allow_networks=ALLOWED))
    assert raised.value.reason == "connection_refused"
    assert canary.nobody_waits()


async def test_a_unix_socket_needs_no_permission(tmp_path: Any) -> None:
    """A path is no address that a name could lead to."""
    upstream = await Upstream.open(path=str(tmp_path / "s"))
    wire = await connect(Origin.parse(f"unix:{tmp_path / 's'}"), ConnectOptions(allow_networks=()))
    transport(wire).close()
    upstream.close()


async def test_the_proxy_of_the_environment_needs_no_permission(
    canary: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who runs us has named it, and it decides what is behind it; what it refuses is not prohibited by us."""
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{canary.port}")
    reasons = []

    async def make() -> None:
        with pytest.raises(UpstreamLost) as raised:
            await connect(Origin("https", "a.example", 443), ConnectOptions(allow_networks=()))
        reasons.append(raised.value.reason)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(make)
        peer = await canary.accept()
        assert (await peer.request()).target == b"a.example:443"
        await peer.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        await peer.rest()
    assert reasons == ["connection_refused"]


# Several addresses.


@pytest.fixture
def jumping_clock() -> trio.testing.MockClock:
    """A clock that jumps when all tasks wait."""
    return trio.testing.MockClock(autojump_threshold=0.01)


def fill(stack: contextlib.ExitStack, address: str) -> int:
    """A port at which no connection comes about, nor is refused."""
    server = stack.enter_context(socket.socket())
    server.bind((address, 0))
    server.listen(0)
    for _ in range(4):
        waiting = stack.enter_context(socket.socket())
        waiting.setblocking(False)
        waiting.connect_ex(server.getsockname())
    port: int = server.getsockname()[1]
    return port


async def test_an_address_that_is_slow_does_not_keep_the_next_waiting(jumping_clock: trio.testing.MockClock) -> None:
    """The next address is tried beside it a quarter of a second later, and the first connection is taken."""
    with contextlib.ExitStack() as stack:
        port = fill(stack, SERVER)
        good = stack.enter_context(socket.socket())
        good.bind((OTHER, port))
        good.listen()
        resolve([SERVER, OTHER])
        begun = trio.current_time()
        wire = await connect(Origin("http", "a.example", port), ConnectOptions(allow_networks=ALLOWED))
        assert isinstance(wire, SocketWire)
        assert wire.peer == OTHER
        assert trio.current_time() - begun == pytest.approx(0.25)
        transport(wire).close()


async def test_of_two_connections_at_the_same_moment_one_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only one is wanted."""
    made: list[Connecting] = []
    together = trio.Event()

    class Connecting:
        def __init__(self, family: int, kind: int) -> None:
            self.socket = socket.socket(family, kind)
            made.append(self)

        async def connect(self, address: object) -> None:
            await together.wait()

        def close(self) -> None:
            self.socket.close()

        def detach(self) -> int:
            return self.socket.detach()

    async def let_them() -> None:
        await trio.testing.wait_all_tasks_blocked()
        together.set()

    monkeypatch.setattr(trio.socket, "socket", Connecting)
    monkeypatch.setattr(module, "STAGGER", 0)
    resolve([SERVER, OTHER])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(let_them)
        wire = await connect(Origin("http", "a.example", 80), ConnectOptions())
    assert transport(wire).fileno() >= 0
    assert [one.socket.fileno() for one in made] == [-1, -1], "one was handed on, and the other is closed"
    transport(wire).close()


async def test_if_nobody_takes_the_connection_each_address_is_named(canary: Upstream) -> None:
    """The words say of each address what it did."""
    resolve([SERVER, OTHER])
    with pytest.raises(UpstreamLost, match=r"127.0.0.2.*refused.*127.0.0.3.*refused"):
        await connect(Origin("http", "a.example", canary.port), ConnectOptions())


async def test_a_family_that_the_machine_does_not_have_is_only_one_that_fails(
    canary: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without IPv6 there is not even a socket to try it with."""
    make = trio.socket.socket

    def without_ipv6(family: int, kind: int) -> Any:
        if family == socket.AF_INET6:
            raise OSError("address family not supported")
        return make(family, kind)

    monkeypatch.setattr(trio.socket, "socket", without_ipv6)
    resolve(["::1", CANARY])
    transport(await connect(Origin("http", "a.example", canary.port), ConnectOptions())).close()


async def test_a_name_that_leads_nowhere_at_all() -> None:
    """A resolver that knows a name, and no address of it."""
    resolve([])
    for allowed in (None, ()):
        with pytest.raises(UpstreamLost) as raised:
            await connect(Origin("http", "a.example", 80), ConnectOptions(allow_networks=allowed))
        assert raised.value.reason == "dns_error"


def test_the_second_address_is_of_the_other_family() -> None:
    """One family may lead nowhere on a whole machine; the order is kept otherwise."""

    def order(*hosts: str) -> list[str]:
        routes = [
            module._Route(
                socket.AF_INET6 if ":" in host else socket.AF_INET, (host, 80, 0, 0)[: 4 if ":" in host else 2]
            )
            for host in hosts
        ]
        return [route.host for route in module._alternating(routes)]

    assert order("::1", "::2", "::3", "1.1.1.1", "::4") == ["::1", "1.1.1.1", "::2", "::3", "::4"]
    assert order("1.1.1.1", "::1", "1.1.1.2") == ["1.1.1.1", "::1", "1.1.1.2"]
    assert order("::1", "::2") == ["::1", "::2"]


@pytest.mark.parametrize("cancelled_at", range(1, 12))
async def test_a_connection_that_is_not_wanted_any_more_is_closed(canary: Upstream, cancelled_at: int) -> None:
    """Wherever connecting is cancelled, no descriptor is left: pytest would see the warning of one."""

    class After(trio.abc.Instrument):
        steps = 0

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            self.steps += 1
            if self.steps == cancelled_at:
                scope.cancel()

    resolve([SERVER, CANARY])
    instrument = After()
    with trio.CancelScope() as scope:
        trio.lowlevel.add_instrument(instrument)
        try:
            transport(await connect(Origin("http", "a.example", canary.port), ConnectOptions())).close()
        finally:
            trio.lowlevel.remove_instrument(instrument)


# Looking names up.


async def test_names_that_hang_keep_nobody_waiting_but_other_names(
    monkeypatch: pytest.MonkeyPatch, jumping_clock: trio.testing.MockClock
) -> None:
    """More look-ups than there are threads for each give up in their time; files are read on meanwhile."""
    answer = threading.Event()
    hanging = [0]

    def getaddrinfo(*args: Any, **kwargs: Any) -> Any:
        hanging[0] += 1
        answer.wait(30)
        raise socket.gaierror(socket.EAI_AGAIN, "too late")

    timeouts = []

    async def look_up() -> None:
        begun = trio.current_time()
        with pytest.raises(UpstreamTimeout) as raised:
            await connect(Origin("http", "a.example", 80), ConnectOptions(connect_timeout=7))
        assert raised.value.reason == "connection_timeout"
        timeouts.append(trio.current_time() - begun)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    others = trio.to_thread.current_default_thread_limiter()
    try:
        async with trio.open_nursery() as nursery:
            for _ in range(45):
                nursery.start_soon(look_up)
        assert timeouts == [pytest.approx(7)] * 45
        assert hanging == [module.MAX_LOOKUPS]
        assert others.borrowed_tokens == 0
        assert await trio.to_thread.run_sync(lambda: "read") == "read"
    finally:
        answer.set()
    limiter = module._lookup_limiter()
    with patience():
        while limiter.borrowed_tokens:
            await trio.lowlevel.checkpoint()


async def test_a_name_that_can_be_none() -> None:
    """What cannot be written in a question for it is a name that nobody knows."""
    for host in ("a..example", "x" * 64 + ".example"):
        with pytest.raises(UpstreamLost) as raised:
            await connect(Origin("http", host, 80), ConnectOptions())
        assert raised.value.reason == "dns_error"
