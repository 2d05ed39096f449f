"""The command line, and what it stands for."""

from __future__ import annotations

import argparse
import ipaddress
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

import attrs

from .. import ConfigurationError
from ..http import CODINGS, Address, Encoder, HeadLimits, Network, Origin, ServerLimits, proxy_for
from ._auth import describe_token
from ._build import build
from ._certificates import server_tls, upstream_tls
from ._config import check, load
from ._settings import Binding, Policy, Route, Settings, Upstream

T = TypeVar("T")

DEFAULT_LISTEN = "127.0.0.1:8080"

_DESCRIPTION = """\
Relay streams of Server-Sent Events, above all those of language models, to their clients as they come, and tell
the truth about how each one ended: a stream that was cut off never looks complete.
"""

_EPILOG = """\
examples:
  python -m sseflow.proxy --demo
      try it: an upstream of its own, and the curl line that shows a stream
  python -m sseflow.proxy --upstream http://127.0.0.1:8000
      in front of vLLM or llama.cpp on this machine
  python -m sseflow.proxy --upstream https://api.openai.com --listen unix:/run/sseflow.sock
      in front of a provider, behind another proxy on this machine
  python -m sseflow.proxy --config sseflow.toml
      as a gateway: several providers, with keys of its own, which stand in for one another

commands:
  python -m sseflow.proxy check FILE   say all that is wrong with a configuration, or what it amounts to
  python -m sseflow.proxy token NAME   make a token for a client, and what to write down of it

signals:
  SIGINT and SIGTERM drain: nothing new is accepted, live streams have --drain seconds, then they are cut, so that
  their clients notice. A second signal cuts them at once. With --workers they are for the first process, which passes
  them on. SIGHUP reads --config again, as does a change of the file; live streams go on as they began, and a file that
  is wrong is refused.

exit status:
  0  it ended, and nothing was cut
  1  something was cut, or it could not start (an address in use, for example), or a worker died again and again
  2  the command line, or the configuration, is wrong

/-/health answers as long as the process lives. /-/ready answers 503 as soon as it drains, to requests that were on
their way; new connections are refused then.
"""


@attrs.frozen(kw_only=True)
class Command:
    """What the command line asks for."""

    settings: Settings
    workers: int = 1
    demo: bool = False
    demo_pace: float = 0.0
    log_json: bool | None = None
    config: Path | None = None
    """The file that the settings are from."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n(--help says what there is)\n")


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    p = _Parser(
        prog="python -m sseflow.proxy",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_general(p)
    _add_tls(p)
    _add_trust(p)
    _add_policy(p)
    _add_limits(p)
    return p


def _add_general(p: argparse.ArgumentParser) -> None:
    what = p.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--upstream",
        metavar="URL",
        type=_origin,
        help="where requests go: http://HOST[:PORT][/PREFIX], https://..., unix:PATH",
    )
    what.add_argument(
        "--config",
        metavar="FILE",
        help="several upstreams, keys, routes: everything is in this file, and only --log can be given beside it",
    )
    what.add_argument("--demo", action="store_true", help="start a demo upstream, too, and use that")
    p.add_argument(
        "--listen",
        metavar="ADDRESS",
        action="append",
        type=_address,
        help=f"HOST:PORT, [IPV6]:PORT or unix:PATH; may be given several times (default: {DEFAULT_LISTEN})",
    )
    p.add_argument(
        "--workers",
        type=_size,
        metavar="N",
        default=1,
        help="processes that serve, one for each core; each has all of the limits below for itself "
        "(default: %(default)d)",
    )
    p.add_argument(
        "--drain",
        type=_seconds,
        metavar="SECONDS",
        default=attrs.fields(Settings).drain.default,
        help="for live streams, once it was told to end (default: %(default)g)",
    )
    p.add_argument(
        "--log",
        choices=("text", "json"),
        help="form of the log on standard error (default: text on a terminal, else json)",
    )
    p.add_argument(
        "--demo-pace",
        type=_seconds,
        metavar="SECONDS",
        default=0.04,
        help="mean time between two tokens of the demo upstream (default: %(default)g)",
    )


def _add_tls(p: argparse.ArgumentParser) -> None:
    tls = p.add_argument_group("TLS")
    tls.add_argument(
        "--tls-cert", metavar="FILE", help="certificate chain (PEM), to speak https on the addresses listened on"
    )
    tls.add_argument("--tls-key", metavar="FILE", help="its private key (PEM)")
    tls.add_argument(
        "--upstream-ca", metavar="FILE", help="trust these authorities (PEM) for the upstream, instead of the system's"
    )


def _add_trust(p: argparse.ArgumentParser) -> None:
    trust = p.add_argument_group("trust")
    trust.add_argument(
        "--trusted",
        metavar="NETWORK",
        action="append",
        type=_network,
        default=[],
        help="peers whose X-Forwarded-* fields are believed, like 10.0.0.0/8, or unix for those on Unix sockets; "
        "may be given several times",
    )
    trust.add_argument(
        "--allow-host",
        metavar="NAME",
        action="append",
        default=[],
        help="a name that Host may have, beside localhost; without it any, unless only this machine can connect",
    )
    trust.add_argument(
        "--allow-trailer",
        metavar="NAME",
        action="append",
        default=[],
        help="a trailer of the upstream that is passed on; all others are dropped",
    )


def _add_policy(p: argparse.ArgumentParser) -> None:
    fields = attrs.fields_dict(Policy)
    policy = p.add_argument_group("event streams")
    for flag, choices, text in (
        ("--gate", ("content", "warm", "first_event", "off"),
         "what the head of a stream waits for: its first content; that, for 0.1 s; its first event; nothing"),
        ("--comments", ("strip", "forward", "replace"),
         "what becomes of the upstream's comments; replace: keep-alives of our own instead"),
        ("--error-end", ("abort", "clean"),
         "how a stream that failed ends behind its error event; clean: as if it were complete, with a trailer"),
        ("--on-client-gone", ("cancel", "drain"),
         "what becomes of the upstream's answer; drain: it is read on, for the usage at its end"),
    ):  # fmt: skip
        default = fields[flag[2:].replace("-", "_")].default
        policy.add_argument(flag, choices=choices, default=default, help=f"{text} (default: %(default)s)")
    policy.add_argument(
        "--compress",
        metavar="CODING,...",
        type=_codings,
        default=fields["compress"].default,
        help=f"compress event streams, event by event, for clients that accept it: {', '.join(CODINGS)}, the preferred "
        "ones first (default: none)",
    )


def _add_limits(p: argparse.ArgumentParser) -> None:
    settings = attrs.fields_dict(Settings)
    streams = attrs.fields_dict(Policy)
    upstream = attrs.fields_dict(Upstream)
    server = attrs.fields_dict(ServerLimits)
    heads = attrs.fields_dict(HeadLimits)
    limits = p.add_argument_group("limits", "sizes in bytes, times in seconds; for each of the --workers")
    for flag, kind, default, text in (
        ("--max-head", _size, heads["max_head"].default, "head of a request, or of the upstream's answer"),
        ("--max-fields", _size, heads["max_fields"].default, "header fields in one head (a number)"),
        ("--max-field", _size, heads["max_line"].default, "one header field, with its name"),
        ("--max-target", _size, heads["max_target"].default, "request target"),
        ("--max-request-body", _size, server["max_body"].default, "body of a request"),
        ("--max-line", _size, streams["max_line"].default, "line of an event stream"),
        ("--max-event", _size, streams["max_event"].default, "event, before its last line"),
        ("--max-ratio", _size, streams["max_ratio"].default,
         "of a compressed event stream of the upstream: its bytes for each that came (a number)"),
        ("--max-decoded", _size, streams["max_decoded"].default, "compressed event stream of the upstream, inflated"),
        ("--max-connections", _size, settings["max_connections"].default, "open connections of clients (a number)"),
        ("--max-per-address", _size, settings["max_per_address"].default,
         "open connections of one address that is not --trusted (a number)"),
        ("--max-streams", _size, settings["max_streams"].default, "requests answered at the same time (a number)"),
        ("--max-idle", _size, upstream["max_idle"].default, "idle connections to the upstream (a number)"),
        ("--max-idle-time", _positive, upstream["max_idle_time"].default, "of an idle connection to the upstream"),
        ("--head-timeout", _positive, server["head_timeout"].default, "for the head of a request"),
        ("--body-timeout", _positive, server["body_timeout"].default, "for the next bytes of a request's body"),
        ("--min-body-rate", _count, server["min_body_rate"].default,
         "bytes per second of a request's body that we wait for, behind its first 10 s; 0: any"),
        ("--keepalive-timeout", _positive, server["keepalive_timeout"].default, "between two requests of a connection"),
        ("--write-timeout", _positive, server["write_timeout"].default, "for one write to a client that does not read"),
        ("--connect-timeout", _positive, upstream["connect_timeout"].default, "to connect to the upstream"),
        ("--tls-timeout", _positive, upstream["tls_timeout"].default, "for the TLS handshake with the upstream"),
        ("--upstream-head-timeout", _seconds, upstream["head_timeout"].default,
         "for the head of the upstream's answer; 0: none, since models think"),
        ("--upstream-write-timeout", _positive, upstream["write_timeout"].default,
         "for one write of a request to an upstream that does not read"),
        ("--gate-open-after", _seconds, streams["gate_open_after"].default,
         "until an answer is begun though its stream holds no data yet; 0: never"),
        ("--idle-timeout", _seconds, streams["idle_timeout"].default, "of silence in the upstream's answer; 0: none"),
        ("--keep-alive", _seconds, streams["keep_alive"].default,
         "of silence to the client until a keep-alive is written; 0: none"),
        ("--progress-timeout", _seconds, streams["progress_timeout"].default,
         "without content in an event stream, though pings may come; 0: none"),
        ("--client-drain-time", _positive, streams["client_drain_time"].default,
         "for reading on with --on-client-gone drain"),
        ("--client-drain-bytes", _size, streams["client_drain_bytes"].default,
         "to read on with --on-client-gone drain"),
        ("--linger", _positive, streams["linger"].default, "for an upstream that stays open behind its last event"),
    ):  # fmt: skip
        form = "d" if kind is _size else "g"
        limits.add_argument(flag, type=kind, metavar="N", default=default, help=f"{text} (default: %(default){form})")


def parse(arguments: Sequence[str] | None = None) -> Command:
    """Read the command line.

    Raises:
        ConfigurationError: an option is wrong.
        SystemExit: with the status 2, for what argparse itself does not understand; with 0 behind ``--help``.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(words)
    if options.config is not None:
        return _from_file(options, words)
    listen = tuple(options.listen or [Address.parse(DEFAULT_LISTEN)])
    if (options.tls_cert is None) != (options.tls_key is None):
        raise ConfigurationError("--tls-cert and --tls-key go together: one was given without the other")
    if options.comments == "replace" and not options.keep_alive:
        raise ConfigurationError("--comments replace goes with keep-alives, and --keep-alive 0 has none: give seconds")
    if options.workers > 1 and sys.platform == "win32":
        raise ConfigurationError("--workers needs a system that hands sockets on to processes, and Windows does not")
    # The demo's port is known once it listens.
    origin = Origin("http", "127.0.0.1", 0) if options.demo else options.upstream
    proxy_for(origin)  # what the environment says had better be right from the start
    heads = HeadLimits(
        max_head=options.max_head,
        max_fields=options.max_fields,
        max_line=options.max_field,
        max_target=options.max_target,
    )
    hosts = {name.lower().encode() for name in options.allow_host}
    if hosts or all(address.is_loopback for address in listen):
        hosts |= {b"localhost", b"127.0.0.1", b"[::1]"}
    policy = Policy(
        gate=options.gate,
        gate_open_after=options.gate_open_after,
        keep_alive=options.keep_alive,
        comments=options.comments,
        error_end=options.error_end,
        compress=options.compress,
        on_client_gone=options.on_client_gone,
        client_drain_time=options.client_drain_time,
        client_drain_bytes=options.client_drain_bytes,
        idle_timeout=options.idle_timeout,
        progress_timeout=options.progress_timeout,
        linger=options.linger,
        max_line=options.max_line,
        max_event=options.max_event,
        max_ratio=options.max_ratio,
        max_decoded=options.max_decoded,
        trailers=frozenset(name.lower().encode() for name in options.allow_trailer),
    )
    upstream = Upstream(
        name=str(origin),
        origin=origin,
        tls=_of("--upstream-ca", lambda: upstream_tls(options.upstream_ca)) if origin.scheme == "https" else None,
        connect_timeout=options.connect_timeout,
        tls_timeout=options.tls_timeout,
        head=heads,
        head_timeout=options.upstream_head_timeout,
        write_timeout=options.upstream_write_timeout,
        max_idle=options.max_idle,
        max_idle_time=options.max_idle_time,
    )
    pair = options.tls_cert, options.tls_key
    tls = _of("--tls-cert, --tls-key", lambda: server_tls(*pair)) if options.tls_cert else None
    settings = Settings(
        routes=(Route(upstreams=(upstream,), policy=policy),),
        listen=tuple(Binding(address, None if address.path is not None else tls) for address in listen),
        server=ServerLimits(
            head=heads,
            max_body=options.max_request_body,
            head_timeout=options.head_timeout,
            body_timeout=options.body_timeout,
            min_body_rate=options.min_body_rate,
            keepalive_timeout=options.keepalive_timeout,
            write_timeout=options.write_timeout,
        ),
        max_connections=options.max_connections,
        max_per_address=options.max_per_address,
        max_streams=options.max_streams,
        drain=options.drain,
        trusted=tuple(network for network in options.trusted if network is not None),
        trust_unix=None in options.trusted,
        hosts=frozenset(hosts),
    )
    return Command(
        settings=settings,
        workers=options.workers,
        demo=options.demo,
        demo_pace=options.demo_pace,
        log_json=None if options.log is None else options.log == "json",
    )


def _of(options: str, make: Callable[[], T]) -> T:
    """Something that is made of options, whose names are said if it cannot be."""
    try:
        return make()
    except ConfigurationError as error:
        raise ConfigurationError(f"{options}: {error}") from error


def _from_file(options: argparse.Namespace, words: Sequence[str]) -> Command:
    """A command whose settings are in a file."""
    given = {word.partition("=")[0] for word in words if word.startswith("--")} - {"--config", "--log"}
    if given:
        raise ConfigurationError(f"{', '.join(sorted(given))}: with --config this is said in the file")
    config = load(options.config, os.environ)
    form = options.log or (None if config.logging.format == "auto" else config.logging.format)
    return Command(
        settings=build(config),
        workers=config.server.workers,
        log_json=None if form is None else form == "json",
        config=Path(options.config),
    )


def check_file(words: Sequence[str]) -> int:
    """``check FILE``: say what is wrong with a configuration, or what it amounts to; return the exit status."""
    p = _Parser(prog="python -m sseflow.proxy check", description=check_file.__doc__)
    p.add_argument("file", metavar="FILE")
    file = p.parse_args(words).file
    status = check(file, os.environ, sys.stdout)
    if status == 0:
        try:
            build(load(file, os.environ))
        except ConfigurationError as error:
            print(error)
            return 2
    return status


def print_token(words: Sequence[str]) -> int:
    """``token NAME``: make a token for a client, and print it, and what to write down of it."""
    p = _Parser(prog="python -m sseflow.proxy token", description=print_token.__doc__)
    p.add_argument("name", metavar="NAME", help="of the client, for the log")
    try:
        print(describe_token(p.parse_args(words).name))
    except ConfigurationError as error:
        print(f"sseflow: {error}", file=sys.stderr)
        return 2
    return 0


def _address(text: str) -> Address:
    try:
        return Address.parse(text)
    except ConfigurationError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _origin(text: str) -> Origin:
    try:
        return Origin.parse(text)
    except ConfigurationError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _codings(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in CODINGS:
            raise argparse.ArgumentTypeError(f"{name!r} is no coding that can be made; there are {', '.join(CODINGS)}")
        try:
            Encoder(name)
        except ImportError as error:
            raise argparse.ArgumentTypeError(f"{name} needs {error.name}: pip install 'sseflow[proxy]'") from None
    return names


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number of seconds, 0 or more")
    return value


def _positive(text: str) -> float:
    value = _seconds(text)
    if not value:
        raise argparse.ArgumentTypeError(f"{text!r} must be more than 0")
    return value


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, 0 or more")
    return int(text)


def _size(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, 1 or more")
    return int(text)


def _network(text: str) -> Network | None:
    """A network; None for ``unix``."""
    if text == "unix":
        return None
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
