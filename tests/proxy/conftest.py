"""What the tests of the proxy share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from .rig import Rig, Starter


@pytest.fixture
async def starter() -> AsyncIterator[Starter]:
    """Starts proxies; behind the test each of them has to end, and nothing may have broken in it."""
    async with trio.open_nursery() as nursery:
        starter = Starter(nursery)
        try:
            yield starter
            for rig in starter.rigs:
                await rig.close()
        finally:  # a test that failed, too
            for rig in starter.rigs:
                rig.leave()
        nursery.cancel_scope.cancel()


@pytest.fixture
async def rig(starter: Starter) -> Rig:
    """A proxy with the settings it has by default."""
    return await starter()


@pytest.fixture
def jumping_clock() -> trio.testing.MockClock:
    """A clock that jumps when nothing happens any more. A moment's patience: sockets are quick, but not immediate."""
    return trio.testing.MockClock(autojump_threshold=0.01)
