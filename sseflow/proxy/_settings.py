"""What the proxy is told: values, made of a command line or of a configuration file."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import attrs

from .._events import DEFAULT_MAX_EVENT
from .._lines import DEFAULT_MAX_LINE
from ..http import DEFAULT_MAX_DECODED, DEFAULT_MAX_RATIO, Address, HeadLimits, Network, Origin, ServerLimits
from ..resilience import BreakerOptions, RetryPolicy, Secret
from ..stages import DEFAULT_TRANSCRIPT_LIMIT
from ._auth import Tokens
from ._models import ProviderType

WARM = 0.1
"""Seconds that a head waits for the first content with ``gate="warm"``: what fails at once is still a status."""


@attrs.frozen(kw_only=True)
class Policy:
    """How the streams of a route are treated. Sizes in bytes, times in seconds; 0 means none where it says so."""

    gate: Literal["content", "warm", "first_event", "off"] = "content"
    """What the head of a stream waits for: its first content, or no longer than `WARM`; its first event; nothing."""

    gate_open_after: float = 15.0
    """Until an answer is begun though its stream holds no data yet; 0: never. Clients wait for a head less patiently
    than for a token, and what is in front of us, too. From then on a failure can no longer be a status."""

    keep_alive: float = 10.0
    """Of silence to the client until a keep-alive is written; 0: none. Load balancers hang up after 30 to 60 s."""

    comments: Literal["strip", "forward", "replace"] = "strip"
    """What becomes of comments: ``replace`` drops them as ``strip`` does, and insists on keep-alives of our own."""

    error_end: Literal["abort", "clean"] = "abort"
    """How a stream that failed is ended behind its error event. A clean end many clients take for a complete answer."""

    compress: tuple[str, ...] = ()
    """Content codings that event streams are sent in to clients which accept them, the preferred ones first."""

    on_client_gone: Literal["cancel", "drain"] = "cancel"
    """What becomes of the upstream's answer when the client leaves: ``drain`` reads on, for the usage at its end."""

    client_drain_time: float = 30.0
    client_drain_bytes: int = 4 * 1024 * 1024
    """How long, and how many bytes, at most."""

    idle_timeout: float = 300.0
    """Of silence in the upstream's answer; any byte counts. 0: none."""

    progress_timeout: float = 600.0
    """Without content in an event stream of the upstream: pings and comments do not count. 0: none."""

    linger: float = 1.0
    """How long an upstream may stay open behind its dialect's terminator."""

    max_line: int = DEFAULT_MAX_LINE
    max_event: int = DEFAULT_MAX_EVENT
    max_ratio: int = DEFAULT_MAX_RATIO
    """Bytes that a compressed event stream of the upstream may have for each that came."""

    max_decoded: int = DEFAULT_MAX_DECODED
    """Bytes that it may have in all."""

    trailers: frozenset[bytes] = frozenset()
    """Trailers, in lower case, that are passed on to clients."""

    transcript: int = DEFAULT_TRANSCRIPT_LIMIT
    """Of an answer that is kept while it is sent, where records, the history or operators want it: the first and the
    last half of so many bytes."""

    @property
    def opens_after(self) -> float:
        """Seconds until an answer without data is begun; 0: never."""
        return WARM if self.gate == "warm" else self.gate_open_after


@attrs.frozen(kw_only=True)
class Upstream:
    """A server that requests are passed to."""

    name: str
    """What it is called in the log."""

    origin: Origin
    tls: ssl.SSLContext | None = None
    """For ``https``."""

    connect_timeout: float = 10.0
    tls_timeout: float = 10.0
    head: HeadLimits = HeadLimits()
    head_timeout: float = 0.0
    """Until the head of an answer has come; 0: none, since a model may think for long before its first word."""

    write_timeout: float = 60.0
    """For one write of a request to an upstream that does not read."""

    max_idle: int = 64
    max_idle_time: float = 30.0

    keys: tuple[Secret, ...] = ()
    """In the order in which they are to be used. With none, what the client sends is all that it gets."""

    key_field: Literal["authorization", "x-api-key"] = "authorization"
    """Where it wants them."""

    pass_credentials: bool = True
    """Whether what the client sent to be let in is passed on. If there are keys, a key of the client's own goes in the
    place of ours. Never for clients whose keys are tokens for us."""

    tell_who: bool = True
    """Whether it learns, by ``X-Forwarded-*``, who asked, and for whom."""

    allow_networks: tuple[Network, ...] | None = None
    """What it may be connected to beside public addresses; None: anything."""

    models: Mapping[str, str] = attrs.field(factory=dict)
    """Names of models that clients use, and its own."""

    type: ProviderType | None = None
    """How it is spoken to; None: that is not known, and nothing is checked."""


@attrs.frozen(kw_only=True)
class Route:
    """Which requests go where, and how their answers are treated."""

    path: bytes = b""
    """What the paths of its requests begin with; it is taken away."""

    upstreams: tuple[Upstream, ...]
    """At least one; the others stand in for it, in this order."""

    weights: tuple[int, ...] = ()
    """If there are any, one for each upstream: which one is called first is chosen by chance, as often as they say."""

    dialect: str | None = None
    """What its streams speak; None: what the path of a request says."""

    policy: Policy = Policy()
    retry: RetryPolicy = RetryPolicy(attempts=1)
    """When all upstreams have failed."""

    budget_share: float = 0.1
    """Retries and second calls for each request, beyond a small number that is always allowed."""

    breaker: BreakerOptions | None = None
    hedge_after: float | Literal["p95"] | None = None
    """Without content until another upstream is called, too: seconds, or the time that 95 of 100 calls need."""

    replay_body: int = 64 * 1024
    """Bytes of a request's body up to which it is received whole before an upstream is called. A longer one is
    streamed, and cannot be sent a second time."""


@attrs.frozen
class Binding:
    """Where clients connect to."""

    address: Address
    tls: ssl.SSLContext | None = None
    """None: plain HTTP."""


@attrs.frozen
class HistorySettings:
    """Where complete Responses are kept, and how long."""

    path: Path
    max_age: float
    """Seconds."""

    max_bytes: int
    redact: tuple[str, ...] = ()
    """Regular expressions: what fits one is not kept."""


@attrs.frozen(kw_only=True)
class Settings:
    """How the proxy behaves. Sizes in bytes, times in seconds."""

    routes: tuple[Route, ...]
    listen: tuple[Binding, ...]
    server: ServerLimits = ServerLimits()
    max_connections: int = 4096
    max_per_address: int = 1024
    """Of one address that is not trusted, or one IPv6 network of 64 bits; one more is answered with 503, and
    over TLS, or beyond twice as many, reset."""

    max_streams: int = 4096
    """Requests that are answered at the same time; one more is told to come back (503)."""

    drain: float = 30.0
    """For live streams, once the proxy was told to end."""

    trusted: tuple[Network, ...] = ()
    """Peers whose ``X-Forwarded-*`` fields are believed."""

    trust_unix: bool = False
    """Whether those of peers on Unix sockets are."""

    hosts: frozenset[bytes] = frozenset()
    """Names, without ports and in lower case, that ``Host`` may have; empty: any."""

    tokens: Tokens | None = None
    """Of clients; None: whoever can connect may ask."""

    admin: Binding | None = None
    """Where operators connect to."""

    admin_token: Secret | None = None
    history: HistorySettings | None = None

    def trusts(self, peer: str) -> bool:
        """Whether ``peer``, an IP address or ``unix``, is among the trusted."""
        if peer == "unix":
            return self.trust_unix
        if not self.trusted:
            return False
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        return any(address in network for network in self.trusted)
