"""What may be in a configuration file: its tables, each option with its kind, its default and a sentence of help.

The names of options, and their defaults, are those of the command line.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import attrs

from .._events import DEFAULT_MAX_EVENT
from .._lines import DEFAULT_MAX_LINE
from ..http import DEFAULT_MAX_DECODED, DEFAULT_MAX_RATIO, Address, HeadLimits, Origin, ServerLimits
from ..stages import DEFAULT_TRANSCRIPT_LIMIT
from ._models import ProviderType
from ._options import (
    ADDRESS,
    BASE_URL,
    CODINGS_KIND,
    DURATION,
    FIELDS,
    FILE,
    FLAG,
    HEDGE,
    HOSTS,
    KEY,
    KEYS,
    MODELS,
    NETWORKS,
    PATTERNS,
    ROUTE_PATH,
    SHARE,
    SIZE,
    SOME_TIME,
    TRUSTED,
    UPSTREAMS,
    Key,
    Network,
    Share,
    choice,
    count,
    option,
    required,
    table,
)

_HEADS = HeadLimits()
_SERVER = ServerLimits()
_LOCAL_HOSTS = frozenset({b"localhost", b"127.0.0.1", b"[::1]"})
_LOOPBACK = (ipaddress.IPv4Network("127.0.0.0/8"), ipaddress.IPv6Network("::1/128"))


@attrs.frozen
class Problem:
    """Something in a configuration that is not as it should be. No value of an option is in it."""

    path: str
    """Of the option, like ``providers.openai.keys[0]``, or the name of the file, with line and column."""

    message: str
    right: str = ""
    """What would be right."""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" + (f"; {self.right}" if self.right else "")


def is_local(address: Address) -> bool:
    """Whether only this machine can reach an address. A name other than localhost may be anybody's."""
    if address.path is not None or address.host == "localhost":
        return True
    try:
        return ipaddress.ip_address(address.host).is_loopback
    except ValueError:
        return False


@attrs.frozen(kw_only=True)
class ListenerTable:
    """Where clients connect to. Without any, `127.0.0.1:8080`."""

    address: Address = required(
        ADDRESS, "`HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`.", right='address = "127.0.0.1:8080"'
    )
    tls_cert: Path | None = option(None, FILE, "Certificate chain (PEM), to speak `https`; TLS 1.2 and later.")
    tls_key: Path | None = option(None, FILE, "Its private key (PEM).")


@attrs.frozen(kw_only=True)
class ServerTable:
    """What clients may do. The limits are for each worker."""

    workers: int = option(1, count(1, 1024), "Processes that serve; one for each core is enough.", restart=True)
    drain: float = option(30.0, DURATION, "For live streams, once the proxy was told to end.")
    max_connections: int = option(4096, count(), "Open connections of clients.", restart=True)
    max_per_address: int = option(1024, count(), "Open connections of one address that is not `trusted`.", restart=True)
    max_streams: int = option(4096, count(), "Requests that are answered at the same time.")
    max_head: int = option(_HEADS.max_head, SIZE, "Head of a request, or of an upstream's answer.", restart=True)
    max_fields: int = option(_HEADS.max_fields, count(), "Header fields in one head.", restart=True)
    max_field: int = option(_HEADS.max_line, SIZE, "One header field, with its name.", restart=True)
    max_target: int = option(_HEADS.max_target, SIZE, "Request target.", restart=True)
    max_request_body: int = option(_SERVER.max_body, SIZE, "Body of a request.", restart=True)
    head_timeout: float = option(_SERVER.head_timeout, SOME_TIME, "For the head of a request.", restart=True)
    body_timeout: float = option(
        _SERVER.body_timeout, SOME_TIME, "For the next bytes of a request's body.", restart=True
    )
    min_body_rate: int = option(
        _SERVER.min_body_rate,
        count(0, name="bytes per second"),
        "Of a request's body, behind its first 10 s; 0: any.",
        restart=True,
    )
    keepalive_timeout: float = option(
        _SERVER.keepalive_timeout, SOME_TIME, "Between two requests of a connection.", restart=True
    )
    write_timeout: float = option(
        _SERVER.write_timeout, SOME_TIME, "For one write to a client that does not read.", restart=True
    )
    trusted: tuple[Network | Literal["unix"], ...] = option(
        (), TRUSTED, "Peers whose `X-Forwarded-*` fields are believed; `unix`: those on Unix sockets."
    )
    allow_hosts: frozenset[bytes] = option(
        frozenset(),
        HOSTS,
        "Names that `Host` may have, beside `localhost`; without any: all, unless only this machine can connect.",
    )

    @property
    def trusted_networks(self) -> tuple[Network, ...]:
        """Networks whose peers are believed."""
        return tuple(network for network in self.trusted if not isinstance(network, str))

    @property
    def trust_unix(self) -> bool:
        """Whether peers on Unix sockets are."""
        return "unix" in self.trusted


@attrs.frozen(kw_only=True)
class ProviderTable:
    """An upstream, under the name that routes, logs and metrics call it by."""

    type: ProviderType = required(
        choice("openai", "openai-compat", "openrouter", "anthropic", "sse"),
        "How it is spoken to. `openai` and `anthropic` are these two themselves; `openai-compat` is whatever else "
        "speaks like OpenAI (vLLM, llama.cpp, gateways); `sse` is any other server of event streams.",
        right="one of openai, openai-compat, openrouter, anthropic, sse",
    )
    base_url: str = required(
        BASE_URL,
        "Where its API is, with `/v1` or without: it is never doubled. Also `unix:PATH`. Redirects are not followed.",
        right='base_url = "https://api.example.com/v1"',
        shown="that of the `type`; required for `openai-compat` and `sse`",
    )
    keys: tuple[Key, ...] = option(
        (), KEYS, "Keys that it is called with: the first that is not set aside. They go nowhere else."
    )
    pass_credentials: bool = option(
        False,
        FLAG,
        "Whether the key that a client has sent goes on to this provider, instead of one of `keys`. Not with `[auth]`: "
        "then what a client sends is for us, and goes no further.",
    )
    ca: Path | None = option(None, FILE, "Trust these authorities (PEM), and no others.", shown="those of the system")
    allow_destinations: tuple[Network, ...] = option(
        (),
        NETWORKS,
        "Networks that are not public, but that its name may lead to. An address in `base_url` itself is allowed, and "
        "loopback for `localhost`.",
    )
    connect_timeout: float = option(10.0, SOME_TIME, "To connect, name resolution included.")
    tls_timeout: float = option(10.0, SOME_TIME, "For the TLS handshake.")
    head_timeout: float = option(0.0, DURATION, "For the head of an answer; 0: none, since models think.")
    write_timeout: float = option(60.0, SOME_TIME, "For one write of a request to an upstream that does not read.")
    max_idle: int = option(64, count(), "Idle connections.")
    max_idle_time: float = option(30.0, SOME_TIME, "Of an idle connection.")
    models: Mapping[str, str] = option(
        MappingProxyType({}),
        MODELS,
        "Names that clients use, and those of the provider. Any other name is passed on as it is.",
    )

    @property
    def origin(self) -> Origin:
        """Where it is. The prefix of its paths may end in ``/v1``: see `join`."""
        return Origin.parse(self.base_url)

    @property
    def destinations(self) -> tuple[Network, ...]:
        """Networks that are not public, but that a connection to it may be made to."""
        host = self.origin.host.rstrip(".")
        if host == "localhost" or host.endswith(".localhost"):
            return (*self.allow_destinations, *_LOOPBACK)
        try:
            return (*self.allow_destinations, ipaddress.ip_network(host))
        except ValueError:
            return self.allow_destinations


@attrs.frozen(kw_only=True)
class PolicyTable:
    """How event streams are treated. `[policy]` is for all routes; what a route says itself comes first."""

    gate: Literal["content", "warm", "first_event", "off"] = option(
        "content",
        choice("content", "warm", "first_event", "off"),
        "What the head of a stream waits for: its first content; that, for 0.1 s; its first event; nothing. Until "
        "then a failure is a status, and another upstream can be asked.",
    )
    gate_open_after: float = option(
        15.0, DURATION, "Until an answer is begun though its stream holds no data yet; 0: never."
    )
    keep_alive: float = option(10.0, DURATION, "Of silence to the client until a keep-alive is written; 0: none.")
    comments: Literal["strip", "forward", "replace"] = option(
        "strip",
        choice("strip", "forward", "replace"),
        "What becomes of the upstream's comments; `replace`: keep-alives of our own instead.",
    )
    error_end: Literal["abort", "clean"] = option(
        "abort",
        choice("abort", "clean"),
        "How a stream that failed ends behind its error event; `clean`: as if it were complete, with a trailer.",
    )
    compress: tuple[str, ...] = option(
        (), CODINGS_KIND, "Compress event streams, event by event, for clients that accept it; the best coding first."
    )
    on_client_gone: Literal["cancel", "drain"] = option(
        "cancel",
        choice("cancel", "drain"),
        "What becomes of the upstream's answer when the client leaves; `drain`: it is read on, for its usage.",
    )
    client_drain_time: float = option(30.0, SOME_TIME, 'For reading on with `on_client_gone = "drain"`.')
    client_drain_bytes: int = option(4 * 1024 * 1024, SIZE, "To read on at most.")
    idle_timeout: float = option(300.0, DURATION, "Of silence in the upstream's answer; 0: none.")
    progress_timeout: float = option(
        600.0, DURATION, "Without content in an event stream, though pings may come; 0: none."
    )
    linger: float = option(1.0, SOME_TIME, "For an upstream that stays open behind its last event.")
    max_line: int = option(DEFAULT_MAX_LINE, SIZE, "Line of an event stream.")
    max_event: int = option(DEFAULT_MAX_EVENT, SIZE, "Event, before its last line.")
    max_ratio: int = option(
        DEFAULT_MAX_RATIO, count(), "Of a compressed event stream of the upstream: its bytes for each that came."
    )
    max_decoded: int = option(DEFAULT_MAX_DECODED, SIZE, "Compressed event stream of the upstream, inflated.")
    trailers: frozenset[bytes] = option(
        frozenset(), FIELDS, "Trailers of the upstream that are passed on; all others are dropped."
    )
    transcript: int = option(
        DEFAULT_TRANSCRIPT_LIMIT,
        SIZE,
        "Of an answer that is kept while it is sent, with `[history]` or `[admin]`: its first and its last half.",
    )
    replay_body: int = option(
        4 * 1024 * 1024,
        SIZE,
        "Of a request's body that is kept, to be sent once more. A request with a longer one is sent once.",
    )


@attrs.frozen(kw_only=True)
class RetryTable:
    """When a request is made again. `[retry]` is for all routes; what a route says itself comes first.

    Only as long as the client has got nothing of the answer.
    """

    attempts: int = option(
        3, count(1, 25), "Calls in all, the first one included. Clients try again, too, and multiply this."
    )
    base: float = option(
        1.0, DURATION, "Most that is waited before the first retry, twice that before the second, and so on."
    )
    cap: float = option(
        10.0,
        DURATION,
        "Longer is never waited, also where the upstream asks for it: then the client is told, and can wait itself.",
    )
    deadline: float = option(120.0, DURATION, "No call begins later than that after the first.")
    budget: float = option(
        0.1, SHARE, "Retries for each request of the route, so that they are never a storm; a few are always allowed."
    )


@attrs.frozen(kw_only=True)
class BreakerTable:
    """When an upstream is left alone. Without `[breaker]`, and without one of the route's own, never."""

    failures: int = option(5, count(), "Failures in a row that open it. 429 does not count: that is about a key.")
    window: float = option(10.0, SOME_TIME, "In which these have to happen.")
    open: float = option(30.0, SOME_TIME, "For which it stays open: requests are then answered with 503 at once.")
    half_open: int = option(3, count(), "Calls that are let through then, until as many have succeeded.")


@attrs.frozen(kw_only=True)
class RouteTable:
    """Which requests go where: of the paths that fit, the longest. Without any, `/NAME` goes to the provider `NAME`."""

    path: str = required(
        ROUTE_PATH,
        "What the paths of its requests begin with, and what is taken away from them; `/` is all.",
        right='path = "/openai"',
    )
    upstreams: tuple[Share, ...] = required(
        UPSTREAMS,
        "Providers, the first one first, the others where it fails. Or `{provider = NAME, weight = N}` for each: then "
        "the first one is drawn.",
        right='upstreams = ["NAME"]',
    )
    dialect: Literal["auto", "openai-chat", "openai-responses", "anthropic", "sse"] = option(
        "auto",
        choice("auto", "openai-chat", "openai-responses", "anthropic", "sse"),
        "What its streams speak; `auto`: what the path of a request says.",
    )
    hedge_after: float | Literal["p95"] | None = option(
        None,
        HEDGE,
        "Without content for so long, a second upstream is asked as well, and the first content wins; `p95`: longer "
        "than 95 of 100 of the last answers took.",
    )
    policy: PolicyTable = table(PolicyTable, PolicyTable())
    retry: RetryTable = table(RetryTable, RetryTable())
    breaker: BreakerTable | None = table(BreakerTable, None)

    @property
    def prefix(self) -> str:
        """The path as a person writes it."""
        return self.path or "/"


@attrs.frozen(kw_only=True)
class LoggingTable:
    """The log, which goes to standard error."""

    format: Literal["auto", "text", "json"] = option(
        "auto", choice("auto", "text", "json"), "`auto`: `text` on a terminal, else `json`.", restart=True
    )


@attrs.frozen(kw_only=True)
class AdminTable:
    """Pages for operators, on a listener of their own. Without `[admin]` there are none."""

    address: Address = option(Address("127.0.0.1", 8081), ADDRESS, "Where it listens.", restart=True)
    token: Key | None = option(
        None, KEY, "Bearer token that it asks for; required unless only this machine can connect."
    )


@attrs.frozen(kw_only=True)
class AuthTable:
    """Who may use the proxy. Without `[auth]` it listens for this machine only."""

    tokens_file: Path = required(
        FILE,
        "Tokens of clients, hashed, as `python -m sseflow.proxy token NAME` makes them.",
        right='tokens_file = "tokens.toml"',
    )


@attrs.frozen(kw_only=True)
class HistoryTable:
    """What is kept of complete Responses, so that a chain that the provider has lost can be told anew.

    Without `[history]` nothing is kept.
    """

    path: Path = required(FILE, "The database (SQLite); it is made if it is not there.", right='path = "history.db"')
    max_age: float = option(30 * 86400.0, SOME_TIME, "What is older is removed.")
    max_bytes: int = option(1 << 30, SIZE, "Of items in all; beyond that the oldest are removed.")
    redact: tuple[str, ...] = option((), PATTERNS, "What fits one of these is not kept.")


@attrs.frozen(kw_only=True)
class Config:
    """A whole configuration, in which everything is as it should be."""

    allow_literal_keys: bool = option(
        False, FLAG, "Whether a key may stand in this file itself. Whoever can read the file has it then."
    )
    listeners: tuple[ListenerTable, ...] = table(ListenerTable, (), form="list", restart=True)
    server: ServerTable = table(ServerTable, ServerTable())
    providers: Mapping[str, ProviderTable] = table(ProviderTable, MappingProxyType({}), form="named")
    routes: tuple[RouteTable, ...] = table(RouteTable, (), form="list")
    policy: PolicyTable = table(PolicyTable, PolicyTable())
    retry: RetryTable = table(RetryTable, RetryTable())
    breaker: BreakerTable | None = table(BreakerTable, None)
    auth: AuthTable | None = table(AuthTable, None)
    admin: AdminTable | None = table(AdminTable, None)
    history: HistoryTable | None = table(HistoryTable, None, restart=True)
    logging: LoggingTable = table(LoggingTable, LoggingTable())

    warnings: tuple[Problem, ...] = attrs.field(default=(), eq=False)
    """What can be meant, and had better not be."""

    files: frozenset[Path] = attrs.field(default=frozenset(), eq=False)
    """The files that it names and that have been read: whether they have changed is worth knowing, too."""

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        return all(is_local(listener.address) for listener in self.listeners)

    @property
    def hosts(self) -> frozenset[bytes]:
        """Names that ``Host`` may have; empty: any."""
        return self.server.allow_hosts | _LOCAL_HOSTS if self.server.allow_hosts or self.is_local else frozenset()


DEFAULT_LISTENER = ListenerTable(address=Address("127.0.0.1", 8080))
"""Where the proxy listens if nothing else is said."""


def options(table: type[Any]) -> Iterator[attrs.Attribute[Any]]:
    """The fields of a table that are options."""
    return (field for field in attrs.fields(table) if "kind" in field.metadata)


def tables(table: type[Any]) -> Iterator[attrs.Attribute[Any]]:
    """The fields of a table that are tables themselves."""
    return (field for field in attrs.fields(table) if "table" in field.metadata)
