"""Every fault of an upstream, over real sockets: what the client sees, the verdict, the connection, and what is left.

Each fault is tried once as most people run the proxy, and so is a random sample of all variants; ``make faults`` tries
every fault in every variant.
"""

from __future__ import annotations

import os
import random

import pytest
import trio
import trustme

from sseflow.http import Origin
from sseflow.testing import ScriptedUpstream

from .matrix import FAULTS, Fault, Status, Stream, Variant, script_of
from .peers import Answer, patience
from .rig import Rig, Starter, split_error
from .test_answer import ASK
from .test_tls import Contexts

SEED = int(os.environ.get("SSEFLOW_SEED", random.randrange(1 << 32)))
SAMPLE = 60


def _everything() -> list[tuple[str, Variant]]:
    return [(name, variant) for name, fault in FAULTS.items() for variant in fault.variants()]


def _cases() -> list[tuple[str, Variant]]:
    if os.environ.get("SSEFLOW_FAULTS") == "all":
        return _everything()
    usual = [(name, next(iter(fault.variants()))) for name, fault in FAULTS.items()]
    others = [case for case in _everything() if case not in usual]
    return usual + random.Random(SEED).sample(others, SAMPLE)


@pytest.fixture(scope="module")
def contexts() -> Contexts:
    """An authority for all tests."""
    return Contexts(trustme.CA())


def descriptors() -> int:
    """How many are open."""
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize(
    ("name", "variant"), _cases(), ids=[f"{name}-{variant}-seed-{SEED}" for name, variant in _cases()]
)
async def test_fault(name: str, variant: Variant, starter: Starter, contexts: Contexts) -> None:
    """The client learns the truth, there is one verdict, and nothing is left."""
    fault = FAULTS[name]
    before = descriptors(), trio.lowlevel.current_statistics().tasks_living
    async with trio.open_nursery() as nursery:
        upstream = ScriptedUpstream(
            script_of(name), framing=variant.framing, tls=contexts.server("127.0.0.1") if variant.tls else None
        )
        await nursery.start(upstream.run)
        rig = await starter(
            origin=Origin.parse(upstream.url),
            tls=contexts.server("a.example") if variant.tls else None,
            upstream_tls=contexts.client() if variant.tls else None,
            **{**variant.settings, **fault.settings},
        )
        request = ASK.replace(b"HTTP/1.1", b"HTTP/1.0") if variant.http10 else ASK
        client = await rig.client(request, tls=contexts.client() if variant.tls else None)
        # A reset destroys what was not read yet, so the proxy has to have it before.
        upstream.release("reset")
        answer = await client.answer(b"POST")
        check_answer(answer, fault.sees_in(variant), variant)
        await check_log(rig, fault, variant, answer)
        assert rig.app.routing.idle in fault.idle_in(variant)
        assert len(upstream.requests) <= 1
        await rig.close()
        starter.rigs.remove(rig)
        with patience() as scope:
            while upstream.open:
                await trio.lowlevel.checkpoint()
        assert not scope.cancelled_caught, "a connection to the upstream was left"
        nursery.cancel_scope.cancel()
    assert (descriptors(), trio.lowlevel.current_statistics().tasks_living) == before


def check_answer(answer: Answer, sees: Status | Stream, variant: Variant) -> None:
    """The client has got that."""
    if isinstance(sees, Status):
        assert answer.status == sees.status
        assert answer.complete
        assert sees.body in answer.body
        if sees.ours:
            assert answer.get(b"content-type") == b"application/json"
            assert split_error(b"data: " + answer.body + b"\n\n")[1]["message"]
        return
    assert answer.status == 200
    received = answer.body.replace(b": ping\n\n", b"") if variant.bare else answer.body
    body, error = split_error(received)
    if sees.whole:
        assert received == sees.body
        assert answer.complete
    elif sees.broke:
        assert received == sees.body
        assert not answer.complete
    elif sees.inside:
        assert error is None
        assert received.startswith(sees.body)
        assert not answer.complete
    elif error is None:
        assert sees.races
        assert variant.tls
        assert received.startswith(sees.body)
        assert not answer.complete
    else:
        assert body == sees.body
        assert answer.complete == variant.clean


async def check_log(rig: Rig, fault: Fault, variant: Variant, answer: Answer) -> None:
    """The log has one line, and it says so."""
    line, sees = await rig.line(), fault.sees_in(variant)
    assert line["verdict"] == fault.verdict_in(variant)
    assert line["status"] == answer.status
    assert line["committed"] == (isinstance(sees, Stream) or not sees.ours)
    assert fault.error in (line["error"] or "")
    good = line["verdict"] in ("complete", "client_gone")
    assert line["level"] == ("info" if good else "warning")
    assert rig.log.unread("exchange") == []
