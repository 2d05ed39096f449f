"""What an event costs, counted: system calls, Python's own calls, and copies. No clock is asked, so no machine is slow.

Only what the switchboard does is counted, which is all there is for a stream that just goes on.
"""

from __future__ import annotations

import os
import sys
import tracemalloc
from collections import Counter
from types import FrameType
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from sseflow._switchboard import Switchboard
from sseflow.http import Address
from sseflow.proxy._settings import Binding
from sseflow.resilience import BreakerOptions, RetryPolicy, Secret

from .peers import Peer, chunked
from .rig import CHAT, STREAM, TOKEN, Rig, Starter

pytestmark = pytest.mark.skipif(not Switchboard.is_supported(), reason="this system has no epoll")

STREAMS = 16
ROUNDS = 8

#: What asks the system for something, on the way of an event.
SYSTEM = {"recv", "recv_into", "send", "sendmsg", "poll", "register", "modify", "unregister", "setsockopt", "shutdown"}


class Cost(trio.abc.Instrument):
    """Counts calls while the switchboard's task runs."""

    def __init__(self) -> None:
        self.python = 0
        self.system: Counter[str] = Counter()
        self.peak = 0
        """The most memory, in bytes, that one turn took at a time."""

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task.name.endswith("Switchboard.run"):
            if tracemalloc.is_tracing():
                tracemalloc.reset_peak()
                self._before = tracemalloc.get_traced_memory()[0]
            sys.setprofile(self._count)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        sys.setprofile(None)
        if tracemalloc.is_tracing() and task.name.endswith("Switchboard.run"):
            self.peak = max(self.peak, tracemalloc.get_traced_memory()[1] - self._before)

    def _count(self, frame: FrameType, event: str, called: Any) -> None:
        if event == "call":
            self.python += 1
        elif event == "c_call" and called.__name__ in SYSTEM:
            self.system[called.__name__] += 1


async def streams(rig: Rig, count: int) -> list[tuple[Peer, Peer]]:
    """Streams that have begun, and whose form is known."""
    pairs = []
    for _ in range(count):
        client, upstream = await rig.reach(CHAT)
        await upstream.send(STREAM + chunked(TOKEN))
        await client.until(TOKEN)
        for _ in range(4):
            await upstream.send(chunked(TOKEN))
            await client.until(TOKEN)
        pairs.append((client, upstream))
    return pairs


async def relayed(pairs: list[tuple[Peer, Peer]], sent: bytes, got: bytes, *, rounds: int = ROUNDS) -> Cost:
    """Send the same to all streams again and again, and count what it costs until it has come."""
    cost = Cost()
    trio.lowlevel.add_instrument(cost)
    for _ in range(rounds):
        for _, upstream in pairs:
            # As far as it fits to all of them before the switchboard has a turn.
            rest = sent[os.write(upstream.socket.fileno(), sent) :]
            if rest:
                await upstream.send(rest)
        for client, _ in pairs:
            await client.until(got)
    trio.lowlevel.remove_instrument(cost)
    return cost


@pytest.mark.parametrize(
    ("sent", "calls"),
    [(chunked(TOKEN), 21), (chunked(b": keep-alive\n\n" + TOKEN), 27), (chunked(TOKEN * 40), 22)],
    ids=["a token", "a comment and a token", "forty tokens"],
)
async def test_the_calls_for_what_comes_at_once(rig: Rig, sent: bytes, calls: int) -> None:
    """One read and one write, however many events there are, and a few calls of Python's."""
    cost = await relayed(await streams(rig, STREAMS), sent, TOKEN + b"\r\n")
    chunks = STREAMS * ROUNDS
    assert cost.system["recv"] == cost.system["send"] == chunks
    assert cost.system["poll"] <= chunks / 4
    assert cost.system["modify"] <= cost.system["poll"]  # Trio's own, to wait for all of them
    assert cost.system.keys() == {"recv", "send", "poll", "modify"}
    assert cost.python <= calls * chunks, cost.python / chunks


async def as_gateway(starter: Starter) -> Rig:
    """A proxy with all that a gateway may have to do for a request; an operator may want its answers."""
    keys = Secret("first"), Secret("second")
    admin = Binding(Address("127.0.0.1", 0))
    rig = await starter(upstream_keys=keys, upstream_pass_credentials=False, admin=admin)
    settings = rig.app.settings
    [route] = settings.routes
    [one] = route.upstreams
    route = attrs.evolve(
        route,
        upstreams=(one, attrs.evolve(one, name="another")),
        retry=RetryPolicy(),
        breaker=BreakerOptions(),
        hedge_after="p95",
    )
    rig.app.configure(attrs.evolve(settings, routes=(route,)))
    return rig


@pytest.mark.parametrize("sent", [chunked(TOKEN), chunked(TOKEN * 40)], ids=["a token", "forty tokens"])
async def test_a_gateway_does_its_work_before_the_first_event(starter: Starter, sent: bytes) -> None:
    """An event costs one call more than in front of one upstream: that which keeps what an operator may want."""
    costs = [
        await relayed(await streams(rig, STREAMS), sent, TOKEN + b"\r\n")
        for rig in (await starter(), await as_gateway(starter))
    ]
    plain, gateway = costs
    assert gateway.system["recv"] == gateway.system["send"] == STREAMS * ROUNDS
    assert gateway.system.keys() == plain.system.keys()
    turns = plain.system["poll"] + gateway.system["poll"]  # how many streams are served in one is chance
    assert gateway.python <= plain.python + STREAMS * ROUNDS + 2 * turns


async def test_the_copies_of_a_large_event(rig: Rig) -> None:
    """At a time there are what was read, its payload, and what that is compared with; nothing grows with the stream."""
    pairs = await streams(rig, 1)
    size = 48 * 1024
    event = TOKEN.replace(b"Hello", b"A" * size)
    await relayed(pairs, chunked(event), event[-20:] + b"\r\n", rounds=3)
    tracemalloc.start()
    try:
        few = await relayed(pairs, chunked(event), event[-20:] + b"\r\n", rounds=2)
        many = await relayed(pairs, chunked(event), event[-20:] + b"\r\n", rounds=10)
    finally:
        tracemalloc.stop()
    assert few.peak <= 6 * size, few.peak / size
    assert many.peak <= few.peak + size
