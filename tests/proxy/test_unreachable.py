"""Upstreams that cannot be reached: no name, no address, nobody there, nobody who answers the handshake."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import attrs
import pytest
import trio
import trio.testing

from sseflow.http import Origin
from sseflow.testing import open_upstream

from .rig import Starter, split_error
from .test_answer import ASK

Address: TypeAlias = tuple[Any, ...]


@attrs.frozen
class Resolver(trio.abc.HostnameResolver):
    """Answers as a test says."""

    resolve: Callable[[int], Awaitable[list[str]]]

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        """The addresses, as the system would give them."""
        assert isinstance(port, int)
        return [
            (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))
            for address in await self.resolve(port)
        ]

    async def getnameinfo(self, sockaddr: Address, flags: int) -> tuple[str, str]:
        """Nobody asks for that."""
        raise NotImplementedError


async def unknown(port: int) -> list[str]:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


async def stalls(port: int) -> list[str]:
    await trio.sleep_forever()
    raise AssertionError


async def refuses(port: int) -> list[str]:
    return ["127.0.0.2"]


async def half_dead(port: int) -> list[str]:
    return ["127.0.0.2", "127.0.0.1"]


UNREACHABLE = {
    "no such name": (unknown, 502, "dns_error", "could not be resolved"),
    "the resolver stalls": (stalls, 504, "connection_timeout", "could not be reached within 3 s"),
    "nobody listens": (refuses, 502, "connection_refused", "could not be reached"),
}


@pytest.mark.parametrize(("resolve", "status", "reason", "error"), UNREACHABLE.values(), ids=UNREACHABLE)
async def test_it_is_a_status(
    starter: Starter,
    jumping_clock: trio.testing.MockClock,
    resolve: Callable[[int], Awaitable[list[str]]],
    status: int,
    reason: str,
    error: str,
) -> None:
    """The client gets a status at once, and may try again; the operator learns what is wrong."""
    trio.socket.set_custom_hostname_resolver(Resolver(resolve))
    rig = await starter(origin=Origin("http", "model.example", 9), connect_timeout=3)
    answer = await (await rig.client(ASK)).answer(b"POST")
    assert answer.status == status
    assert split_error(b"data: " + answer.body + b"\n\n")[1]["code"] == "upstream_lost"
    assert reason.encode() in (answer.get(b"proxy-status") or b"")
    line = await rig.line()
    assert (line["verdict"], line["committed"], line["reason"]) == ("upstream_lost", False, reason)
    assert error in line["error"]


async def test_a_stalled_resolver_holds_up_nobody_else(starter: Starter) -> None:
    """Another exchange goes on while one waits for a name; a client that leaves meanwhile is noticed."""
    asked = trio.Event()

    async def first_stalls(port: int) -> list[str]:
        if asked.is_set():
            return ["127.0.0.1"]
        asked.set()
        return await stalls(port)

    trio.socket.set_custom_hostname_resolver(Resolver(first_stalls))
    async with open_upstream("head\ntoken Hello\nstop\ndone\nend") as upstream:
        port = int(upstream.url.rpartition(":")[2])
        rig = await starter(origin=Origin("http", "model.example", port))
        waiting = await rig.client(ASK)
        await asked.wait()
        assert (await (await rig.client(ASK)).answer(b"POST")).complete
        assert (await rig.line())["verdict"] == "complete"
        waiting.close()
        assert (await rig.line())["verdict"] == "client_gone"


async def test_one_address_of_several_is_enough(starter: Starter) -> None:
    """An address at which nobody listens is no fault while another one answers."""
    trio.socket.set_custom_hostname_resolver(Resolver(half_dead))
    async with open_upstream("head\ntoken Hello\nstop\ndone\nend") as upstream:
        rig = await starter(origin=Origin("http", "model.example", int(upstream.url.rpartition(":")[2])))
        assert (await (await rig.client(ASK)).answer(b"POST")).complete
        assert (await rig.line())["verdict"] == "complete"


async def test_a_full_backlog_is_a_504(starter: Starter) -> None:
    """A system that does not answer a connect at all is given up."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
            rig = await starter(origin=Origin("http", "127.0.0.1", port), connect_timeout=0.1)
            assert (await (await rig.client(ASK)).answer(b"POST")).status == 504
            assert (await rig.line())["reason"] == "connection_timeout"
        finally:
            for filler in fillers:
                filler.close()


@pytest.mark.parametrize(
    ("script", "status"), [("stall", 504), (r"send \x16\x03garbage" + "\nclose", 502), ("reset", 502), ("close", 502)]
)
async def test_a_handshake_that_fails(
    starter: Starter, jumping_clock: trio.testing.MockClock, script: str, status: int
) -> None:
    """Whatever becomes of the handshake, nothing of the request was sent, and the client gets a status."""
    async with open_upstream(f"on accept\n{script}") as upstream:
        rig = await starter(
            origin=Origin("https", "127.0.0.1", int(upstream.url.rpartition(":")[2])),
            upstream_tls=ssl.create_default_context(),
        )
        answer = await (await rig.client(ASK)).answer(b"POST")
        assert (answer.status, answer.get(b"x-should-retry")) == (status, None)
        line = await rig.line()
        assert (line["verdict"], line["committed"]) == ("upstream_lost", False)
        assert "TLS handshake" in line["error"]
        assert upstream.requests == []


async def test_a_prohibited_destination_is_told_to_the_operator_only(starter: Starter) -> None:
    """The client learns the kind of failure; which address it was, and how to allow it, is in the log."""
    trio.socket.set_custom_hostname_resolver(Resolver(half_dead))
    async with open_upstream("head\ntoken Hello\nstop\ndone\nend") as upstream:
        rig = await starter(origin=Origin("http", "model.example", int(upstream.url.rpartition(":")[2])))
        (provider,) = rig.app.routing.providers
        options = provider.pool.options
        provider.pool.options = attrs.evolve(options, connect=attrs.evolve(options.connect, allow_networks=()))
        answer = await (await rig.client(ASK)).answer(b"POST")
        assert answer.status == 502
        assert b"destination_ip_prohibited" in (answer.get(b"proxy-status") or b"")
        assert b"127.0.0" not in answer.raw
        line = await rig.line()
        assert (line["verdict"], line["reason"]) == ("upstream_lost", "destination_ip_prohibited")
        assert "127.0.0.2" in line["error"]
        assert "allow_networks" in line["error"]
        assert upstream.requests == []
