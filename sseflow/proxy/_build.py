"""From what a configuration file says to what the proxy is told."""

from __future__ import annotations

from .. import ConfigurationError
from ..http import HeadLimits, ServerLimits
from ..resilience import BreakerOptions, RetryPolicy, Secret
from ._auth import Tokens
from ._certificates import server_tls, upstream_tls
from ._options import Key
from ._settings import Binding, HistorySettings, Policy, Route, Settings, Upstream
from ._tables import BreakerTable, Config, PolicyTable, ProviderTable, RetryTable, RouteTable


def build(config: Config) -> Settings:
    """The settings that a configuration stands for; certificates and tokens are read.

    Raises:
        ConfigurationError: a file that it names is not what it should be.
    """
    server = config.server
    heads = HeadLimits(
        max_head=server.max_head, max_fields=server.max_fields, max_line=server.max_field, max_target=server.max_target
    )
    upstreams = {name: _upstream(name, table, heads) for name, table in config.providers.items()}
    admin, history = config.admin, config.history
    settings = Settings(
        routes=tuple(_route(table, upstreams) for table in config.routes),
        listen=tuple(
            Binding(one.address, server_tls(one.tls_cert, one.tls_key) if one.tls_cert and one.tls_key else None)
            for one in config.listeners
        ),
        server=ServerLimits(
            head=heads,
            max_body=server.max_request_body,
            head_timeout=server.head_timeout,
            body_timeout=server.body_timeout,
            min_body_rate=server.min_body_rate,
            keepalive_timeout=server.keepalive_timeout,
            write_timeout=server.write_timeout,
        ),
        max_connections=server.max_connections,
        max_per_address=server.max_per_address,
        max_streams=server.max_streams,
        drain=server.drain,
        trusted=server.trusted_networks,
        trust_unix=server.trust_unix,
        hosts=config.hosts,
        tokens=None if config.auth is None else Tokens.load(config.auth.tokens_file),
        admin=None if admin is None else Binding(admin.address),
        admin_token=None if admin is None or admin.token is None else _secret(admin.token),
        history=None
        if history is None
        else HistorySettings(history.path, history.max_age, history.max_bytes, history.redact),
    )
    _check_token_routes(settings)
    return settings


def _check_token_routes(settings: Settings) -> None:
    """A token that is good for a route which is not there is a mistake that nobody would notice."""
    if settings.tokens is None:
        return
    there = {route.path.decode() or "/" for route in settings.routes}
    for route in sorted(settings.tokens.routes):
        if not any((path.rstrip("/") + "/").startswith(route.rstrip("/") + "/") for path in there):
            raise ConfigurationError(f"auth.tokens_file: a token is for {route}, and no route is there or below")


def _secret(key: Key) -> Secret:
    return Secret(key.value)


def _upstream(name: str, table: ProviderTable, heads: HeadLimits) -> Upstream:
    origin = table.origin
    return Upstream(
        name=name,
        origin=origin,
        tls=upstream_tls(table.ca) if origin.scheme == "https" else None,
        connect_timeout=table.connect_timeout,
        tls_timeout=table.tls_timeout,
        head=heads,
        head_timeout=table.head_timeout,
        write_timeout=table.write_timeout,
        max_idle=table.max_idle,
        max_idle_time=table.max_idle_time,
        keys=tuple(_secret(key) for key in table.keys),
        key_field="x-api-key" if table.type == "anthropic" else "authorization",
        pass_credentials=table.pass_credentials,
        tell_who=False,
        allow_networks=table.destinations,
        models=table.models,
        type=table.type,
    )


def _route(table: RouteTable, upstreams: dict[str, Upstream]) -> Route:
    weights = tuple(share.weight for share in table.upstreams if share.weight is not None)
    return Route(
        path=table.path.encode(),
        upstreams=tuple(upstreams[share.provider] for share in table.upstreams),
        weights=weights,
        dialect=None if table.dialect == "auto" else table.dialect,
        policy=_policy(table.policy),
        retry=_retry(table.retry),
        budget_share=table.retry.budget,
        breaker=None if table.breaker is None else _breaker(table.breaker),
        hedge_after=table.hedge_after,
        replay_body=table.policy.replay_body,
    )


def _policy(table: PolicyTable) -> Policy:
    return Policy(
        gate=table.gate,
        gate_open_after=table.gate_open_after,
        keep_alive=table.keep_alive,
        comments=table.comments,
        error_end=table.error_end,
        compress=table.compress,
        on_client_gone=table.on_client_gone,
        client_drain_time=table.client_drain_time,
        client_drain_bytes=table.client_drain_bytes,
        idle_timeout=table.idle_timeout,
        progress_timeout=table.progress_timeout,
        linger=table.linger,
        max_line=table.max_line,
        max_event=table.max_event,
        max_ratio=table.max_ratio,
        max_decoded=table.max_decoded,
        trailers=table.trailers,
        transcript=table.transcript,
    )


def _retry(table: RetryTable) -> RetryPolicy:
    return RetryPolicy(attempts=table.attempts, base=table.base, cap=table.cap, deadline=table.deadline)


def _breaker(table: BreakerTable) -> BreakerOptions:
    return BreakerOptions(failures=table.failures, within=table.window, open_for=table.open, half_open=table.half_open)
