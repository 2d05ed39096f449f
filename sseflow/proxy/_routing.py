"""Which request goes where, and what of that lives longer than a request: connections, keys, breakers, budgets."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import attrs

from ..http import ConnectOptions, Dial, Pool, PoolOptions
from ..resilience import (
    Breakers,
    CircuitOpen,
    Judgement,
    KeyPool,
    Kind,
    Latencies,
    NotCalled,
    Permit,
    RetryBudget,
    Secret,
    Walk,
    carry,
    classify,
)
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
        """Where it is, for the log."""

        self.keys = KeyPool(settings.name, settings.keys) if settings.keys else None
        self.pool = Pool(
            PoolOptions(
                connect=ConnectOptions(
                    tls=settings.tls,
                    connect_timeout=settings.connect_timeout,
                    tls_timeout=settings.tls_timeout,
                    allow_networks=settings.allow_networks,
                ),
                head=settings.head,
                write_timeout=settings.write_timeout,
                max_idle=settings.max_idle,
                max_idle_time=settings.max_idle_time,
            ),
            dial=dial,
        )

    def follow(self, before: Provider) -> Provider:
        """Whoever is to go on in the place of ``before``: itself if nothing has changed; what it knows is kept."""
        if _same(self.settings, before.settings):
            return before
        if self.keys is not None and before.keys is not None:
            self.keys.adopt(before.keys)
        return self


def _same(one: Upstream, other: Upstream) -> bool:
    """Whether two upstreams are alike; keys are compared by what they hold."""
    alike = attrs.evolve(one, keys=()) == attrs.evolve(other, keys=()) and len(one.keys) == len(other.keys)
    return alike and all(key.matches(twin) for key, twin in zip(one.keys, other.keys, strict=True))


class Path:
    """A route while the proxy runs: requests whose paths begin alike, and the providers they are passed to."""

    def __init__(self, settings: Route, providers: Sequence[Provider]) -> None:
        self.settings = settings
        self.policy: Policy = settings.policy
        self.providers = tuple(providers)
        self.budget = RetryBudget(share=settings.budget_share)
        self.breakers = None if settings.breaker is None else Breakers(settings.breaker)
        self.latencies = Latencies()
        keys = max(len(provider.settings.keys) for provider in providers)
        self.can_fail_over = (
            len(providers) > 1 or keys > 1 or settings.retry.attempts > 1 or settings.hedge_after is not None
        )
        """Whether there may be more than one attempt."""

        self.reads_models = any(provider.settings.type is not None for provider in providers)
        """Whether the model that a request names is looked at."""

        self.is_below = bool(settings.path) or any(provider.settings.origin.prefix for provider in providers)
        """Whether a path could lead out of it."""

        self.looks_ahead = self.can_fail_over or keys > 0 or settings.breaker is not None
        """Whether the beginning of an answer is looked at before it is passed on."""

    def follow(self, before: Path) -> Path:
        """Whoever is to go on in the place of ``before``: that itself, with all it knows, if nothing has changed."""
        if self.providers != before.providers:
            return self
        same = attrs.evolve(self.settings, upstreams=()) == attrs.evolve(before.settings, upstreams=())
        return before if same else self

    def in_order(self) -> list[Provider]:
        """The providers, in the order in which one request is to try them."""
        weights = self.settings.weights
        if not weights:
            return list(self.providers)
        # Of all orders, each as often as drawing without putting back would give it (Efraimidis and Spirakis, 2006).
        ranks = [random.random() ** (1 / weight) for weight in weights]
        return [provider for _, provider in sorted(zip(ranks, self.providers, strict=True), key=lambda one: -one[0])]


class Routing:
    """All routes, and all providers.

    Args:
        routes: upstreams of the same name in them are one.
        dial: makes connections.
        before: whose providers and routes are taken over where they have not changed, and closed where they have.
    """

    def __init__(self, routes: Sequence[Route], *, dial: Dial, before: Routing | None = None) -> None:
        self._providers: dict[str, Provider] = {}
        old = {} if before is None else before._providers
        for upstream in (upstream for route in routes for upstream in route.upstreams):
            if upstream.name not in self._providers:
                provider = Provider(upstream, dial=dial)
                if upstream.name in old:
                    provider = provider.follow(old[upstream.name])
                self._providers[upstream.name] = provider
        for name, provider in old.items():
            if self._providers.get(name) is not provider:
                provider.pool.close()
        known = {} if before is None else {path.settings.path: path for path in before.paths}
        paths: list[Path] = []
        for route in routes:
            path = Path(route, [self._providers[upstream.name] for upstream in route.upstreams])
            paths.append(path.follow(known[route.path]) if route.path in known else path)
        # The longest one that fits is meant.
        self.paths: list[Path] = sorted(paths, key=lambda path: len(path.settings.path), reverse=True)

    @property
    def providers(self) -> Iterator[Provider]:
        """All of them."""
        return iter(self._providers.values())

    def find(self, target: bytes) -> tuple[Path, bytes] | None:
        """The route of a request, and what is left of its target; None if there is none."""
        for path in self.paths:
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
        """Close all connections that are idle, or become so."""
        for provider in self._providers.values():
            provider.pool.close()

    @property
    def idle(self) -> int:
        """How many idle connections there are."""
        return sum(provider.pool.idle for provider in self._providers.values())


@attrs.frozen
class Attempt:
    """Whom to call, with which key."""

    provider: Provider
    key: Secret | None = None
    permit: Permit | None = None
    """From its breaker, to be given back with a word on how it went."""


class Plan:
    """Which attempts a route allows for one call: the keys of a provider, then the next provider.

    Pure: ``now`` is of the clock of the pools and breakers.

    Args:
        path: the route.
        order: its providers, in the order in which they are tried.
        endpoint, model: what is asked for, and of whom; a breaker has an eye on each.
        brings_key: whether the client has a key of its own: where that is passed on, none of ours is tried.
    """

    def __init__(
        self, path: Path, order: Sequence[Provider], *, endpoint: str, model: str, brings_key: bool = False
    ) -> None:
        self._left = list(order)
        self._path = path
        self._endpoint = endpoint
        self._model = model
        self._brings_key = brings_key
        self._provider: Provider | None = None
        self._walk: Walk | None = None

        self.refused: NotCalled | None = None
        """Why the last provider that there was no attempt for could not be called."""

    def next(self, now: float) -> Attempt | None:
        """The next attempt; None if there is none, see `refused`."""
        while True:
            if self._provider is None:
                if not self._left:
                    return None
                self._provider = self._left.pop(0)
                theirs = self._brings_key and self._provider.settings.pass_credentials
                self._walk = None if self._provider.keys is None or theirs else self._provider.keys.walk()
            provider, walk = self._provider, self._walk
            key = None if walk is None else walk.next(now)
            if walk is None or key is None:
                self._provider = None
            if walk is not None and key is None:
                assert provider.keys is not None
                self.refused = provider.keys.exhausted(now).refusal()
                continue
            try:
                return Attempt(provider, key, self._permit(provider, now))
            except CircuitOpen as refused:
                self.refused = refused
                self._provider = None

    def _permit(self, provider: Provider, now: float) -> Permit | None:
        breakers = self._path.breakers
        if breakers is None:
            return None
        return breakers.get(provider.settings.name, self._endpoint, self._model).admit(now)

    def failed(self, attempt: Attempt, error: Exception, now: float, *, mended: bool = False) -> Judgement:
        """Note what an attempt has failed with; what `next` says depends on it.

        Args:
            mended: the request was what was wrong, and is another now: its provider is asked again, then the others.
        """
        keys = attempt.provider.keys
        judgement = Judgement() if keys is None or attempt.key is None else keys.judge(attempt.key, error, now)
        if attempt.permit is not None:
            attempt.permit.judge(error, now)
        if mended:
            self._provider = None
            self._left.insert(0, attempt.provider)
        elif not judgement.next_key:
            self._provider = None
            classification = classify(error)
            if classification.chain_broken:
                # Only another request would help, and that is not made by a plan.
                classification = attrs.evolve(classification, retryable=False)
                carry(error, classification)
            if not classification.retryable and classification.kind is not Kind.PROVIDER_DISABLED:
                self._left.clear()  # it is the request that is wrong, and it will be wrong everywhere
        return judgement
