"""What there is to know of a proxy before it can be measured."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TypeAlias

import attrs

from ..bench import Setup
from ..processes import Target


@attrs.frozen(kw_only=True)
class Wiring:
    """How a proxy is to stand between client and upstream."""

    upstream_tls: bool = False
    client_tls: bool = False
    streams: int = 1
    """How many there will be at a time, so that its limits can be made wide enough."""

    gateway: bool = False
    """It is to be a gateway: with providers that stand in for one another, and keys of its own."""

    workers: int | None = None
    """Processes that do its work, on any core; None: as it comes, on a core of its own."""

    def upstream(self, setup: Setup) -> str:
        """The URL of the upstream."""
        return f"http{'s' * self.upstream_tls}://127.0.0.1:{setup.upstream_port}"


#: Runs a proxy in front of the upstream, on the subject's core.
Start: TypeAlias = Callable[[Setup, Wiring], contextlib.AbstractContextManager[Target]]


@attrs.frozen(kw_only=True)
class Peer:
    """A proxy that can be measured."""

    name: str
    start: Start
    missing: Callable[[], str | None]
    """What to do before it can be started; None: nothing."""

    strips: bool = False
    """It drops comments."""

    rewrites: bool = False
    """It writes each event anew."""

    tls: bool = False
    """It is measured over TLS, too."""

    slowness: int = 1
    """By how much its work is less, where it is not the clock that ends it. From 2 on it is not scaled, either."""
