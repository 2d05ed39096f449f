"""Which request goes where, and what of that lives longer than a request: connections to upstreams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..http import ConnectOptions, Dial, Pool, PoolOptions
from ._settings import Policy, Route, Upstream


class Provider:
    """An upstream while the proxy runs.

    Args:
        settings: how it is reached.
        dial: makes connections.
    """

    def __init__(self, settings: Upstream, *, dial: Dial) -> None:
        self.settings = settings
        self.label = str(settings.origin)
        """What it is called in the log."""

        self.pool = Pool(
            PoolOptions(
                connect=ConnectOptions(
                    tls=settings.tls,
                    connect_timeout=settings.connect_timeout,
                    tls_timeout=settings.tls_timeout,
                ),
                head=settings.head,
                write_timeout=settings.write_timeout,
                max_idle=settings.max_idle,
                max_idle_time=settings.max_idle_time,
            ),
            dial=dial,
        )


class Path:
    """A route while the proxy runs: requests whose paths begin alike, and the providers they are passed to."""

    def __init__(self, settings: Route, providers: Sequence[Provider]) -> None:
        self.settings = settings
        self.providers = tuple(providers)

    @property
    def policy(self) -> Policy:
        """How its streams are treated."""
        return self.settings.policy


class Routing:
    """All routes, and all providers.

    Args:
        routes: upstreams of the same name in them are one.
        dial: makes connections.
        before: providers whose settings have not changed are taken from there; the others are closed.
    """

    def __init__(self, routes: Sequence[Route], *, dial: Dial, before: Routing | None = None) -> None:
        self._providers: dict[str, Provider] = {}
        self._paths: list[Path] = []
        old = {} if before is None else before._providers
        for route in routes:
            for upstream in route.upstreams:
                if upstream.name not in self._providers:
                    kept = old.get(upstream.name)
                    same = kept is not None and kept.settings == upstream
                    self._providers[upstream.name] = kept if kept and same else Provider(upstream, dial=dial)
            self._paths.append(Path(route, [self._providers[upstream.name] for upstream in route.upstreams]))
        for name, provider in old.items():
            if self._providers.get(name) is not provider:
                provider.pool.close()
        # The longest one that fits is meant.
        self._paths.sort(key=lambda path: len(path.settings.path), reverse=True)

    @property
    def providers(self) -> Iterator[Provider]:
        """All of them."""
        return iter(self._providers.values())

    @property
    def paths(self) -> Sequence[Path]:
        """All routes, the longest first."""
        return self._paths

    def find(self, target: bytes) -> tuple[Path, bytes] | None:
        """The route of a request, and what is left of its target; None if there is none."""
        for path in self._paths:
            beginning = path.settings.path
            if not beginning:
                return path, target
            if target.startswith(beginning):
                rest = target[len(beginning) :]
                if rest[:1] in (b"/", b"?", b""):
                    return path, rest if rest.startswith(b"/") else b"/" + rest
        return None

    def expire(self) -> None:
        """Close connections that have been idle for too long."""
        for provider in self._providers.values():
            provider.pool.expire()

    def close(self) -> None:
        """Close all idle connections."""
        for provider in self._providers.values():
            provider.pool.close()

    @property
    def idle(self) -> int:
        """How many idle connections there are."""
        return sum(provider.pool.idle for provider in self._providers.values())
