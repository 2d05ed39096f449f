"""The configuration file: what may be in it, how it is read, and what is wrong with it, all at once."""

from __future__ import annotations

import copy
import ipaddress
import os
import re
import ssl
import stat
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TextIO

import attrs
import cattrs
from cattrs.gen import make_dict_structure_fn, override

from .. import ConfigurationError
from .._events import DEFAULT_MAX_EVENT
from .._lines import DEFAULT_MAX_LINE
from ..http import DEFAULT_MAX_DECODED, DEFAULT_MAX_RATIO, Address, HeadLimits, Origin, ServerLimits
from ._models import BASE_URLS, NAME_RULE, SPOILS, SPOILS_RIGHT, ProviderType, is_provider_name, spoils_model
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
    Network,
    Secret,
    Share,
    Steps,
    Wrong,
    choice,
    count,
    did_you_mean,
    option,
    required,
)

MAX_FILE = 1024 * 1024
"""Bytes of a configuration: a route takes a hundred."""

MAX_KEY_FILE = 16 * 1024
"""Bytes of a file with a key: the longest, tokens of clouds, have some thousand."""

_HEADS = attrs.fields(HeadLimits)
_SERVER = attrs.fields(ServerLimits)
_LOCAL_HOSTS = frozenset({b"localhost", b"127.0.0.1", b"[::1]"})
_LOOPBACK = (ipaddress.IPv4Network("127.0.0.0/8"), ipaddress.IPv6Network("::1/128"))
_KEY = re.compile(r"[\x21-\x7e]+")
_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,64}")


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


class ConfigurationErrors(ConfigurationError):
    """A configuration is wrong, in all the ways that `problems` says. Its text has a line for each."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


# The tables of the file. The names of options, and their defaults, are those of the command line.


@attrs.frozen(kw_only=True)
class ListenerTable:
    """Where clients connect to. Without any, `127.0.0.1:8080`."""

    address: Address = required(ADDRESS, "`HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`.")
    tls_cert: Path | None = option(None, FILE, "Certificate chain (PEM), to speak `https`; TLS 1.2 and later.")
    tls_key: Path | None = option(None, FILE, "Its private key (PEM).")


@attrs.frozen(kw_only=True)
class ServerTable:
    """What clients may do. The limits are for each worker."""

    workers: int = option(1, count(1, 1024), "Processes that serve; one for each core is enough.", restart=True)
    drain: float = option(30.0, DURATION, "For live streams, once the proxy was told to end.")
    max_connections: int = option(4096, count(), "Open connections of clients.")
    max_per_address: int = option(1024, count(), "Open connections of one address that is not `trusted`.")
    max_streams: int = option(4096, count(), "Requests that are answered at the same time.")
    max_head: int = option(_HEADS.max_head.default, SIZE, "Head of a request, or of an upstream's answer.")
    max_fields: int = option(_HEADS.max_fields.default, count(), "Header fields in one head.")
    max_field: int = option(_HEADS.max_line.default, SIZE, "One header field, with its name.")
    max_target: int = option(_HEADS.max_target.default, SIZE, "Request target.")
    max_request_body: int = option(_SERVER.max_body.default, SIZE, "Body of a request.")
    head_timeout: float = option(_SERVER.head_timeout.default, SOME_TIME, "For the head of a request.")
    body_timeout: float = option(_SERVER.body_timeout.default, SOME_TIME, "For the next bytes of a request's body.")
    min_body_rate: int = option(
        _SERVER.min_body_rate.default,
        count(0, name="bytes per second"),
        "Of a request's body, behind its first 10 s; 0: any.",
    )
    keepalive_timeout: float = option(
        _SERVER.keepalive_timeout.default, SOME_TIME, "Between two requests of a connection."
    )
    write_timeout: float = option(
        _SERVER.write_timeout.default, SOME_TIME, "For one write to a client that does not read."
    )
    trusted: tuple[Network | Literal["unix"], ...] = option(
        (), TRUSTED, "Peers whose `X-Forwarded-*` fields are believed; `unix`: those on Unix sockets."
    )
    allow_hosts: frozenset[bytes] = option(
        frozenset(),
        HOSTS,
        "Names that `Host` may have, beside `localhost`; without any: every name, unless only this machine can connect.",
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
        "How it is spoken to. `openai` and `anthropic` are these two themselves; `openai-compat` is whatever else speaks "
        "like OpenAI (vLLM, llama.cpp, gateways); `sse` is any other server of event streams.",
    )
    base_url: str = required(
        BASE_URL,
        "Where its API is, with `/v1` or without: it is never doubled. Also `unix:PATH`. Redirects are not followed.",
        shown="that of the `type`; required for `openai-compat` and `sse`",
    )
    keys: tuple[Secret, ...] = option(
        (), KEYS, "Keys that it is called with: the first that is not set aside. They go nowhere else."
    )
    pass_credentials: bool = option(
        False,
        FLAG,
        "Whether the key that a client has sent goes on to this provider, instead of one of `keys`. Not with `[auth]`: "
        "then what a client sends is for us, and goes no further.",
    )
    ca: Path | None = option(
        None, FILE, "Trust these authorities (PEM), and no others.", shown="those of the system"
    )
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
        {}, MODELS, "Names that clients use, and those of the provider. Any other name is passed on as it is."
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
        "What the head of a stream waits for: its first content; that, for 0.1 s; its first event; nothing. Until then a "
        "failure is a status, and another upstream can be asked.",
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
        "What becomes of the upstream's answer when the client leaves; `drain`: it is read on, for the usage at its end.",
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
    cap: float = option(60.0, DURATION, "Longer is never waited, also where the upstream asks for it.")
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
    """Which requests go where: of the paths that fit, the longest. Without any, `/NAME` goes to each provider `NAME`."""

    path: str = required(
        ROUTE_PATH, "What the paths of its requests begin with, and what is taken away from them; `/` is all."
    )
    upstreams: tuple[Share, ...] = required(
        UPSTREAMS,
        "Providers, the first one first, the others where it fails. Or `{provider = NAME, weight = N}` for each: then "
        "the first one is drawn.",
    )
    dialect: Literal["auto", "openai-chat", "openai-responses", "anthropic", "sse"] = option(
        "auto",
        choice("auto", "openai-chat", "openai-responses", "anthropic", "sse"),
        "What its streams speak; `auto`: what the path of a request says.",
    )
    hedge_after: float | Literal["p95"] | None = option(
        None,
        HEDGE,
        "Without content for so long, a second upstream is asked as well, and the first content wins; `p95`: longer than "
        "95 of 100 of the last answers took.",
    )
    policy: PolicyTable = PolicyTable()
    retry: RetryTable = RetryTable()
    breaker: BreakerTable | None = None

    @property
    def prefix(self) -> str:
        """The path as a person writes it."""
        return self.path or "/"


@attrs.frozen(kw_only=True)
class LoggingTable:
    """The log, which goes to standard error."""

    format: Literal["auto", "text", "json"] = option(
        "auto", choice("auto", "text", "json"), "`auto`: `text` on a terminal, else `json`."
    )


@attrs.frozen(kw_only=True)
class AdminTable:
    """Pages for operators, on a listener of their own. Without `[admin]` there are none."""

    address: Address = option(Address("127.0.0.1", 8081), ADDRESS, "Where it listens.", restart=True)
    token: Secret | None = option(
        None, KEY, "Bearer token that it asks for; required unless only this machine can connect."
    )


@attrs.frozen(kw_only=True)
class AuthTable:
    """Who may use the proxy. Without `[auth]` it listens for this machine only."""

    tokens_file: Path = required(FILE, "Tokens of clients, hashed, as `python -m sseflow.proxy token NAME` makes them.")


@attrs.frozen(kw_only=True)
class HistoryTable:
    """What is kept of complete Responses, so that a chain that the provider has lost can be told anew.

    Without `[history]` nothing is kept.
    """

    path: Path = required(FILE, "The database (SQLite); it is made if it is not there.")
    max_age: float = option(30 * 86400.0, SOME_TIME, "What is older is removed.")
    max_bytes: int = option(1 << 30, SIZE, "Of items in all; beyond that the oldest are removed.")
    redact: tuple[str, ...] = option((), PATTERNS, "What fits one of these is not kept.")


@attrs.frozen(kw_only=True)
class Config:
    """A whole configuration, in which everything is as it should be."""

    allow_literal_keys: bool = option(
        False, FLAG, "Whether a key may stand in this file itself. Whoever can read the file has it then."
    )
    listeners: tuple[ListenerTable, ...] = attrs.field(default=(), metadata={"restart": True})
    server: ServerTable = ServerTable()
    providers: Mapping[str, ProviderTable] = attrs.field(factory=dict)
    routes: tuple[RouteTable, ...] = ()
    policy: PolicyTable = PolicyTable()
    retry: RetryTable = RetryTable()
    breaker: BreakerTable | None = None
    auth: AuthTable | None = None
    admin: AdminTable | None = None
    history: HistoryTable | None = None
    logging: LoggingTable = LoggingTable()

    warnings: tuple[Problem, ...] = attrs.field(default=(), eq=False, metadata={"file": False})
    """What can be meant, and had better not be."""

    files: frozenset[Path] = attrs.field(default=frozenset(), eq=False, metadata={"file": False})
    """The files that it names and that have been read: whether they have changed is worth knowing, too."""

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        return all(listener.address.is_loopback for listener in self.listeners)

    @property
    def hosts(self) -> frozenset[bytes]:
        """Names that ``Host`` may have; empty: any."""
        return self.server.allow_hosts | _LOCAL_HOSTS if self.server.allow_hosts or self.is_local else frozenset()


DEFAULT_LISTENER = ListenerTable(address=Address("127.0.0.1", 8080))

TABLES: dict[str, type[Any]] = {
    "server": ServerTable,
    "policy": PolicyTable,
    "retry": RetryTable,
    "breaker": BreakerTable,
    "logging": LoggingTable,
    "admin": AdminTable,
    "auth": AuthTable,
    "history": HistoryTable,
}
"""Tables of which there is one, by their names."""


# From text to tables.


def path_of(steps: Steps) -> str:
    """The path of something in a file, on one line whatever it is called."""
    text = ""
    for step in steps:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            name = step if _PLAIN.fullmatch(step) else f'"{step[:64].encode("unicode_escape").decode()}"'
            text += f".{name}" if text else name
    return text


def _make_converter(folder: Path) -> cattrs.Converter:
    """How tables are made of plain values: each option in the way that it says itself."""
    converter = cattrs.Converter(detailed_validation=True, forbid_extra_keys=True)

    def structure(cls: type[Any]) -> None:
        overrides = {}
        for field in attrs.fields(cls):
            kind = field.metadata.get("kind")
            if kind is FILE:
                overrides[field.name] = override(struct_hook=lambda value, _: folder / FILE.read(value))
            elif kind is not None:
                overrides[field.name] = override(struct_hook=lambda value, _, kind=kind: kind.read(value))
            elif field.name in TABLES:
                table = TABLES[field.name]
                overrides[field.name] = override(struct_hook=lambda value, _, table=table: make(value, table))
            elif field.name in ("listeners", "routes"):
                table = ListenerTable if field.name == "listeners" else RouteTable
                overrides[field.name] = override(
                    struct_hook=lambda value, _, table=table, name=field.name: _tables(value, table, name)
                )
            elif field.name == "providers":
                overrides[field.name] = override(struct_hook=lambda value, _: _named_tables(value))
            else:
                overrides[field.name] = override(omit=True)
        inner = make_dict_structure_fn(cls, converter, **overrides)
        converter.register_structure_hook_func(lambda t: t is cls, inner)

    def make(value: object, cls: type[Any]) -> Any:
        if not isinstance(value, dict):
            raise Wrong("is no table", "a table of options")
        return converter.structure(value, cls)

    def _tables(value: object, cls: type[Any], name: str) -> tuple[Any, ...]:
        if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
            raise Wrong("is no list of tables", f"[[{name}]] above each")
        return converter.structure(value, tuple[cls, ...])

    def _named_tables(value: object) -> dict[str, ProviderTable]:
        if not isinstance(value, dict) or not all(isinstance(table, dict) for table in value.values()):
            raise Wrong("is no table of tables", "[providers.NAME] above each")
        return converter.structure(value, dict[str, ProviderTable])

    for cls in (*TABLES.values(), ListenerTable, ProviderTable, RouteTable, Config):
        structure(cls)
    return converter
