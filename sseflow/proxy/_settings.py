"""What the proxy is told: one value, made of the command line."""

from __future__ import annotations

import ipaddress
import ssl
from typing import TypeAlias

import attrs

from .._lines import DEFAULT_MAX_LINE
from ..http import Address, HeadLimits, Origin, ServerLimits

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


@attrs.frozen(kw_only=True)
class Settings:
    """How the proxy behaves. Sizes in bytes, times in seconds; 0 means none where it says so."""

    upstream: Origin
    listen: tuple[Address, ...]
    tls: ssl.SSLContext | None = None
    """For what is listened on, except Unix sockets; None: plain HTTP."""

    upstream_tls: ssl.SSLContext | None = None

    server: ServerLimits = ServerLimits()
    upstream_head: HeadLimits = HeadLimits()
    max_connections: int = 4096
    connect_timeout: float = 10.0
    upstream_head_timeout: float = 0.0
    """Until the upstream's head has come; 0: none, since a model may think for long before its first word."""

    gate_open_after: float = 15.0
    """Until an answer is begun though its stream holds no data yet; 0: never. Clients wait for a head less patiently
    than for a token, and what is in front of us, too. From then on a failure can no longer be a status."""

    idle_timeout: float = 300.0
    """Of silence in the upstream's answer; any byte counts. 0: none."""

    upstream_write_timeout: float = 60.0
    """For one write of a request to an upstream that does not read."""

    linger: float = 1.0
    """How long an upstream may stay open behind its dialect's terminator."""

    max_line: int = DEFAULT_MAX_LINE
    max_idle: int = 64
    max_idle_time: float = 30.0
    drain: float = 30.0
    """For live streams, once the proxy was told to end."""

    trusted: tuple[Network, ...] = ()
    """Peers whose ``X-Forwarded-*`` fields are believed."""

    trust_unix: bool = False
    """Whether those of peers on Unix sockets are."""

    hosts: frozenset[bytes] = frozenset()
    """Names, without ports and in lower case, that ``Host`` may have; empty: any."""

    trailers: frozenset[bytes] = frozenset()
    """Trailers, in lower case, that are passed on to clients."""

    def trusts(self, peer: str) -> bool:
        """Whether ``peer``, an IP address or ``unix``, is among the trusted."""
        if peer == "unix":
            return self.trust_unix
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        return any(address in network for network in self.trusted)
