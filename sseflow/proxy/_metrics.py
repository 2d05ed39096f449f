"""Figures for Prometheus: what was tried again, and how keys and breakers are."""

# Labels are names of the configuration and words of our own. A model is named by clients: one that the configuration
# does not know is `other`.

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import attrs
import trio
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from ..resilience import KeyState

if TYPE_CHECKING:
    from ._app import App

ATTEMPTS = (1, 2, 3, 4, 5, 10, 25)
"""Upper bounds of the histogram of attempts."""


@attrs.define
class Counts:
    """What is counted while the proxy runs."""

    key_transitions: Counter[tuple[str, str]] = attrs.field(factory=Counter)
    """By provider and reason: a key that could be used is out."""

    key_exhaustions: Counter[tuple[str, str]] = attrs.field(factory=Counter)
    """By provider and outcome: no key was left for a request."""

    attempts: Counter[tuple[str, int]] = attrs.field(factory=Counter)
    """By the provider that was called last, and how many calls there were for one request."""


def render(app: App) -> bytes:
    """All figures in the text format of Prometheus."""
    registry = CollectorRegistry()
    registry.register(_Figures(app))
    return generate_latest(registry)


class _Figures(Collector):
    def __init__(self, app: App) -> None:
        self._app = app

    def collect(self) -> Iterator[Metric]:
        yield self._retries()
        yield from self._keys()
        yield from self._breakers()
        name = "sseflow_answers_not_kept"
        yield CounterMetricFamily(name, "Not recorded: too many were waiting.", value=self._app.keeper.dropped)

    def _retries(self) -> Metric:
        labels = ("provider", "model", "kind", "chain_broken")
        retries = CounterMetricFamily("sseflow_stream_retries", "Calls that were made again.", labels=labels)
        for one, count in self._app.retries.counts.items():
            retries.add_metric([one.provider, one.model, one.kind, one.chain_broken], count)
        return retries

    def _keys(self) -> Iterator[Metric]:
        counts, now = self._app.counts, trio.current_time()
        out = CounterMetricFamily("sseflow_key_transitions", "Keys that went out.", labels=("provider", "reason"))
        for (provider, reason), count in counts.key_transitions.items():
            out.add_metric([provider, reason], count)
        yield out
        none = CounterMetricFamily(
            "sseflow_key_exhaustions", "Requests for which no key was left.", labels=("provider", "outcome")
        )
        for (provider, outcome), count in counts.key_exhaustions.items():
            none.add_metric([provider, outcome], count)
        yield none
        states = GaugeMetricFamily("sseflow_keys", "Keys in each state.", labels=("provider", "state"))
        for one in self._app.routing.providers:
            found = Counter(key.state for key in (one.keys.snapshot(now) if one.keys is not None else ()))
            for state in KeyState if found else ():
                states.add_metric([one.settings.name, state.value], found[state])
        yield states
        yield self._attempts(counts)

    def _attempts(self, counts: Counts) -> Metric:
        histogram = HistogramMetricFamily("sseflow_attempts", "Calls for one request.", labels=("provider",))
        for provider in sorted({provider for provider, _ in counts.attempts}):
            found = {number: count for (name, number), count in counts.attempts.items() if name == provider}
            buckets = [
                (str(float(bound)), sum(count for number, count in found.items() if number <= bound))
                for bound in ATTEMPTS
            ]
            total = sum(found.values())
            sum_of = sum(number * count for number, count in found.items())
            histogram.add_metric([provider], [*buckets, ("+Inf", total)], sum_of)
        return histogram

    def _breakers(self) -> Iterator[Metric]:
        labels, now = ("provider", "endpoint", "model"), trio.current_time()
        state = GaugeMetricFamily("sseflow_circuit_breaker_state", "0 closed, 0.5 half-open, 1 open.", labels=labels)
        trips = CounterMetricFamily("sseflow_circuit_breaker_trips", "Times that one has opened.", labels=labels)
        rejects = CounterMetricFamily("sseflow_circuit_breaker_rejects", "Calls that one has refused.", labels=labels)
        worst: dict[tuple[str, str, str], float] = {}
        tripped: Counter[tuple[str, str, str]] = Counter()
        refused: Counter[tuple[str, str, str]] = Counter()
        for path in self._app.routing.paths:
            for (provider, endpoint, model), breaker in path.breakers or ():
                name = provider, endpoint, model if model in self._app.models else "other"
                worst[name] = max(worst.get(name, 0.0), breaker.state(now).value)
                tripped[name] += breaker.trips
                refused[name] += breaker.rejects
        for name, value in worst.items():
            state.add_metric(name, value)
            trips.add_metric(name, tripped[name])
            rejects.add_metric(name, refused[name])
        yield from (state, trips, rejects)
