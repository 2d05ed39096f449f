"""The demo upstream, and the proxy in front of it."""

from __future__ import annotations

import pytest
import trio

from .servers import Running, RunningProxy, run_demo, run_proxy


@pytest.fixture
async def demo(nursery: trio.Nursery) -> Running:
    """The demo upstream itself."""
    return await run_demo(nursery)


@pytest.fixture
async def proxy(nursery: trio.Nursery, demo: Running) -> RunningProxy:
    """The proxy in front of the demo upstream."""
    return await run_proxy(nursery, demo)
